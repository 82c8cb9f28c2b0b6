//! How long a switch holds clients: many of them at work, and many sessions that have to move. It starts everything
//! itself: two servers, tandem, clients.
//!
//! ```text
//! cargo bench --bench switch                          everything
//! cargo bench --bench switch -- load --switches 100   one row, more often
//! ```
//!
//! Held is from the close of the gate to its opening, as tandem reports it. What a client sees is in the table too: the
//! longest time that one of its units took around a switch, moving included. Nothing is asserted: a goal is met or missed.

// It prints, and it measures real time.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::Value;
use tandem::sandbox::{Options, Postgres, Sandbox, binaries};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod support;

use support::peers::Proxy;
use support::psql;

/// Who is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// 100 clients that write and read all the time
    Load,
    /// 1 000 sessions, most of them idle, each with settings and prepared statements
    Idle,
}

/// How long a switch holds clients.
#[derive(Parser)]
#[command(name = "cargo bench --bench switch --")]
struct Args {
    /// Rows to measure; all if none is named
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Switches of each row, there and back
    #[arg(long, default_value_t = 40)]
    switches: usize,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

const SCHEMA: &str = "CREATE TABLE acc (id bigint PRIMARY KEY, bal bigint NOT NULL); \
    INSERT INTO acc SELECT i, 0 FROM generate_series(1, 100000) i; \
    CREATE TABLE log (id bigserial PRIMARY KEY, client int NOT NULL, at timestamptz DEFAULT now())";
/// Clients at work in the row `idle`.
const BUSY: usize = 8;
const LOAD: usize = 100;
const IDLE: usize = 1_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    println!("{:<44} {:>9} {:>9} {:>9}   goal", "held, ms", "median", "p99", "max");
    for row in rows {
        measure(*row, args.switches)?;
    }
    Ok(())
}

/// Both sides and tandem between them.
struct Stage {
    _sandbox: Sandbox,
    _servers: [Postgres; 2],
    tandem: Proxy,
    runtime: Runtime,
}

impl Stage {
    fn new() -> Result<Stage> {
        let sandbox = Sandbox::new(false)?;
        let (old, new) = binaries::oldest_and_newest()?;
        let options = Options { config: vec!["max_connections = 2500".to_owned()], ..Options::default() };
        let servers = [
            Postgres::start_new(&sandbox, &old, "origin", &options)?,
            Postgres::start_new(&sandbox, &new, "target", &options)?,
        ];
        for server in &servers {
            psql(server, "postgres", SCHEMA)?;
        }
        let [origin, target] = [0, 1].map(|at: usize| servers[at].url("postgres"));
        let tandem = Proxy::tandem(&sandbox, &origin, &target, "[cutover]\nmax_lag = \"2s\"")?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Stage { _sandbox: sandbox, _servers: servers, tandem, runtime })
    }

    fn url(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.tandem.port)
    }

    /// Switch to a side; the walk as it ended. A mirror that is behind is waited for; any other end is told and not hidden by a
    /// second try, for its time is one that clients were held.
    fn switch(&self, to: &str) -> Result<Value> {
        let began = Instant::now();
        loop {
            let ended = self.tandem.ask(&["switch", to, "--yes"])?;
            if ended["end"] == "switched" {
                return Ok(ended);
            }
            let findings = ended["findings"].as_array().map_or(&[][..], Vec::as_slice);
            let mut errors = findings.iter().filter(|finding| finding["severity"] == "error");
            let behind = ended["end"] == "refused" && errors.all(|finding| finding["name"] == "mirror_behind");
            ensure!(behind && began.elapsed() < Duration::from_secs(60), "no switch: {ended:#}");
            sleep(Duration::from_millis(200));
        }
    }
}

/// What clients at work share.
#[derive(Default)]
struct Work {
    stop: AtomicBool,
    units: AtomicU64,
    /// Of one unit since somebody looked, in microseconds.
    longest: AtomicU64,
}

async fn at_work(url: String, client: usize, work: Arc<Work>) -> Result<()> {
    let (conn, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let update = conn.prepare("UPDATE acc SET bal = bal + 1 WHERE id = $1").await?;
    let insert = conn.prepare("INSERT INTO log (client) VALUES ($1) RETURNING id").await?;
    let read = conn.prepare("SELECT bal FROM acc WHERE id = $1").await?;
    let mut seed = client as u64 + 1;
    while !work.stop.load(Relaxed) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let id = (seed >> 33) as i64 % 100_000 + 1;
        let began = Instant::now();
        match seed >> 60 {
            0..8 => drop(conn.execute(&update, &[&id]).await?),
            8..10 => drop(conn.query_one(&insert, &[&(client as i32)]).await?),
            _ => drop(conn.query_one(&read, &[&id]).await?),
        }
        work.longest.fetch_max(began.elapsed().as_micros() as u64, Relaxed);
        work.units.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// A session with what sessions have, that does nothing.
async fn idle(url: String) -> Result<tokio_postgres::Client> {
    let (conn, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    conn.batch_execute("SET app.tenant = 'seven'; SET work_mem = '1MB'").await?;
    for text in ["SELECT bal FROM acc WHERE id = $1", "SELECT count(*) FROM log WHERE client = $1"] {
        std::mem::forget(conn.prepare(text).await?); // It stays prepared.
    }
    Ok(conn)
}

fn measure(row: Row, switches: usize) -> Result<()> {
    let stage = Stage::new()?;
    let work = Arc::new(Work::default());
    let (mut clients, mut sleepers) = (JoinSet::new(), Vec::new());
    let busy = if row == Row::Load { LOAD } else { BUSY };
    stage.runtime.block_on(async {
        for client in 0..busy {
            clients.spawn(at_work(stage.url(), client, work.clone()));
        }
        for _ in 0..if row == Row::Idle { IDLE } else { 0 } {
            sleepers.push(idle(stage.url()).await?);
        }
        anyhow::Ok(())
    })?;
    let (mut held, mut seen) = (Vec::new(), Vec::new());
    for number in 0..switches {
        sleep(Duration::from_millis(500));
        work.longest.store(0, Relaxed);
        let ended = stage.switch(if number % 2 == 0 { "target" } else { "origin" })?;
        held.push(ended["held_us"].as_u64().context("a number")? as f64 / 1e3);
        seen.push(work.longest.load(Relaxed) as f64 / 1e3);
    }
    work.stop.store(true, Relaxed);
    stage.runtime.block_on(async {
        while let Some(client) = clients.join_next().await {
            client??;
        }
        anyhow::Ok(())
    })?;
    let (what, goal) = match row {
        Row::Load => (format!("{LOAD} clients at work"), "median <= 30, p99 <= 100"),
        Row::Idle => (format!("{IDLE} sessions, {BUSY} at work"), "max <= 300"),
    };
    show(&what, &mut held, goal);
    show(&format!("{what}: longest unit"), &mut seen, "");
    Ok(())
}

fn show(what: &str, values: &mut [f64], goal: &str) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
    println!("{what:<44} {:>9.1} {:>9.1} {:>9.1}   {goal}", at(0.5), at(0.99), at(1.0));
}
