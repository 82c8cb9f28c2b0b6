//! The speed of history, as a table: the backfill beside `COPY .. TO STDOUT | COPY .. FROM STDIN` between the same
//! servers, with and without live writes; the comparison of equal sides beside the copy; what clients feel of a throttled
//! backfill; memory. It starts everything itself.
//!
//! ```text
//! cargo bench --bench history                                 everything
//! cargo bench --bench history -- copy verify --table 200000   two rows, with a small table
//! ```
//!
//! What is compared runs in turns, and it is the median of the rounds' ratios that counts: a noisy machine hits both.
//! Both servers, tandem and clients share one machine here, so the ratios say something and the absolutes little.
//! Nothing is asserted: a goal is met or missed.

// It prints, and it measures real time.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]
// What it shares with others, others use.
#![allow(dead_code)]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tandem::sandbox::{Installation, Options, Postgres, Sandbox, binaries};

#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod support;

use support::peers::Proxy;
use support::pgbench::{Load, Measured, Pgbench, Script};
use support::report::{Goal, Line, Report};
use support::rounds::paired;
use support::{cpu, median, peak, psql};

/// A row of the table, or several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Rows a second of a backfill, beside COPY to COPY
    Copy,
    /// The same while clients write
    Live,
    /// Rows a second of a comparison of equal sides, beside the backfill's
    Verify,
    /// p99 of live writes while a throttled backfill runs, beside without it
    Latency,
    /// Peak memory of tandem, beside a tenth of the rows
    Memory,
}

/// The speed of history.
#[derive(Parser)]
#[command(name = "cargo bench --bench history --")]
struct Args {
    /// Rows to measure; all if none is named
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Rows of the table that is copied
    #[arg(long, default_value_t = 2_000_000)]
    table: u64,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Length of one round of live writes of the row `latency`
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Live transactions a second
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row of about a hundred bytes, as tables of accounts and orders have them.
const SCHEMA: &str = "CREATE TABLE history (id bigint PRIMARY KEY, who uuid NOT NULL, n numeric(12, 2), body text,
    at timestamptz NOT NULL); CREATE TABLE live (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO live SELECT i, 0 FROM generate_series(1, 10000) i";
/// Written by clients: half of it to the table that is copied.
const WRITES: &str = "\\set id random(1, 10000)\n\
    UPDATE history SET n = n + 1 WHERE id = :id;\nUPDATE live SET n = n + 1 WHERE id = :id;\n";
const UNTHROTTLED: &str = "[log]\nlevel = \"warn\"\n[mirror]\nself_repair = false";
const THROTTLED: &str = "[log]\nlevel = \"warn\"\n[mirror]\nself_repair = false\n\
    [backfill]\nworkers = 1\nrate = \"4MB\"\nhold = \"50ms\"";
/// Clients that write.
const CLIENTS: u32 = 4;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = Report::new(args.json);
    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    for row in rows {
        Bench::new(&args, *row)?.run(&mut report)?;
    }
    report.end();
    Ok(())
}

/// One row at work.
struct Bench<'a> {
    args: &'a Args,
    row: Row,
    sandbox: Sandbox,
    pgbench: Pgbench,
    old: Installation,
    new: Installation,
}

/// Two servers, the target without history, and tandem between them.
struct Sides {
    origin: Postgres,
    target: Postgres,
    tandem: Proxy,
}

/// Two arms, round by round.
#[derive(Default)]
struct Pair {
    tandem: Vec<f64>,
    other: Vec<f64>,
}

impl Pair {
    fn push(&mut self, tandem: f64, other: f64) {
        self.tandem.push(tandem);
        self.other.push(other);
    }

    fn line(&self, row: Row, what: &str, other: &str, unit: &'static str, goal: Goal) -> Line {
        Line {
            row: row.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
            what: what.to_owned(),
            other: other.to_owned(),
            unit,
            tandem: median(self.tandem.iter().copied()),
            others: median(self.other.iter().copied()),
            ratio: paired(&self.tandem, &self.other, |one, other| one / other),
            cpu_us: (None, None),
            goal,
        }
    }
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args, row: Row) -> Result<Bench<'a>> {
        let sandbox = Sandbox::new(false)?;
        let (old, new) = binaries::oldest_and_newest()?;
        let pgbench = Pgbench::find(&sandbox)?;
        Ok(Bench { args, row, sandbox, pgbench, old, new })
    }

    fn run(&self, report: &mut Report) -> Result<()> {
        match self.row {
            Row::Copy => self.copy(report),
            Row::Live => self.live(report),
            Row::Verify => self.verify(report),
            Row::Latency => self.latency(report),
            Row::Memory => self.memory(report),
        }
    }

    fn copy(&self, report: &mut Report) -> Result<()> {
        let sides = self.sides(UNTHROTTLED, self.args.table)?;
        let (mut rates, before) = (Pair::default(), cpu(sides.tandem.pid())?);
        for _ in 0..self.args.rounds {
            let bare = sides.bare_copy()?;
            rates.push(self.per_second(sides.backfill()?), self.per_second(bare));
        }
        let used = (cpu(sides.tandem.pid())? - before).as_secs_f64() * 1e6;
        let rows = self.args.table as f64 * f64::from(self.args.rounds);
        let line = rates.line(self.row, "backfill", "COPY to COPY", "1/s", Goal::AtLeast(0.8));
        report.line(&Line { cpu_us: (Some(used / rows), None), ..line });
        Ok(())
    }

    /// Clients write through tandem all the time, whoever copies.
    fn live(&self, report: &mut Report) -> Result<()> {
        let sides = self.sides(UNTHROTTLED, self.args.table)?;
        let (stop, mut rates) = (AtomicBool::new(false), Pair::default());
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                while !stop.load(Relaxed) {
                    self.write(&sides, 1, false)?;
                }
                anyhow::Ok(())
            });
            let copying = (0..self.args.rounds).try_for_each(|_| {
                let bare = sides.bare_copy()?;
                rates.push(self.per_second(sides.backfill()?), self.per_second(bare));
                anyhow::Ok(())
            });
            stop.store(true, Relaxed);
            copying.and(writing.join().unwrap_or_else(|_| bail!("who writes panicked")))
        })?;
        let what = format!("backfill, {} transactions a second", self.args.rate);
        report.line(&rates.line(self.row, &what, "COPY to COPY", "1/s", Goal::AtLeast(0.6)));
        Ok(())
    }

    fn verify(&self, report: &mut Report) -> Result<()> {
        let sides = self.sides(UNTHROTTLED, self.args.table)?;
        let mut rates = Pair::default();
        for _ in 0..self.args.rounds {
            let copied = self.per_second(sides.backfill()?);
            let began = Instant::now();
            sides.tandem.ask(&["verify", "--table", "public.history", "--detach"])?;
            let ended = sides.tandem.ended("verify")?;
            ensure!(ended["counts"]["equal"] == self.args.table, "not equal: {ended:#}");
            rates.push(self.per_second(began.elapsed()), copied);
        }
        report.line(&rates.line(self.row, "verify of equal sides", "backfill", "1/s", Goal::AtLeast(5.0)));
        Ok(())
    }

    fn latency(&self, report: &mut Report) -> Result<()> {
        let sides = self.sides(THROTTLED, self.args.table)?;
        self.write(&sides, 1, true)?;
        let (mut tails, mut middles) = (Pair::default(), Pair::default());
        for _ in 0..self.args.rounds {
            let without = self.write(&sides, self.args.seconds, true)?;
            sides.begin_backfill()?;
            let with = self.write(&sides, self.args.seconds, true)?;
            let state = sides.tandem.ask(&["backfill", "status"])?;
            ensure!(state["state"] == "Copying", "the table is too small: {state:#}");
            sides.tandem.ask(&["backfill", "cancel"])?;
            tails.push(with.p99_us, without.p99_us);
            middles.push(with.latency_us, without.latency_us);
        }
        let what = |which| format!("{which} of writes, backfill of 4 MB/s");
        report.line(&tails.line(self.row, &what("p99"), "without it", "us", Goal::AtMost(1.1)));
        report.line(&middles.line(self.row, &what("median"), "without it", "us", Goal::None));
        Ok(())
    }

    /// Bounded by configuration: ten times the rows cost no more.
    fn memory(&self, report: &mut Report) -> Result<()> {
        let peak_of = |rows: u64| -> Result<f64> {
            let sides = self.sides(UNTHROTTLED, rows)?;
            sides.backfill()?;
            sides.tandem.ask(&["verify", "--table", "public.history", "--detach"])?;
            sides.tandem.ended("verify")?;
            Ok(peak(sides.tandem.pid())? as f64 / f64::from(1 << 20))
        };
        let mut peaks = Pair::default();
        let few = peak_of(self.args.table / 10)?;
        peaks.push(peak_of(self.args.table)?, few);
        let what = format!("peak memory, {} rows, copied and compared", self.args.table);
        report.line(&peaks.line(self.row, &what, "a tenth of the rows", "MB", Goal::AtMost(1.5)));
        Ok(())
    }

    fn per_second(&self, took: Duration) -> f64 {
        self.args.table as f64 / took.as_secs_f64()
    }

    fn write(&self, sides: &Sides, seconds: u32, each: bool) -> Result<Measured> {
        let script = Script::Own(WRITES);
        let load = Load { script, protocol: "prepared", clients: CLIENTS, seconds, each, rate: Some(self.args.rate) };
        self.pgbench.run(sides.tandem.port, "app", &load)
    }

    fn sides(&self, config: &str, rows: u64) -> Result<Sides> {
        let (origin, target) = (self.server(&self.old, "origin")?, self.server(&self.new, "target")?);
        let fill = format!(
            "INSERT INTO history SELECT i, md5(i::text)::uuid, i / 7.0, repeat(md5((-i)::text), (1 + i % 2)::int),
            timestamptz 'epoch' + i * interval '1 min' FROM generate_series(1, {rows}::bigint) i"
        );
        psql(&origin, "app", &fill)?;
        psql(&origin, "app", "VACUUM ANALYZE")?;
        psql(&target, "postgres", "CREATE DATABASE plain TEMPLATE app")?;
        let tandem = Proxy::tandem(&self.sandbox, &origin.url("app"), &target.url("app"), config)?;
        Ok(Sides { origin, target, tandem })
    }

    /// Nothing disturbs it meanwhile.
    fn server(&self, installation: &Installation, name: &str) -> Result<Postgres> {
        let config = ["max_wal_size = 8GB", "checkpoint_timeout = 1h", "autovacuum = off", "shared_buffers = 512MB"];
        let config = config.iter().map(|line| (*line).to_owned()).collect();
        let name = format!("{name}-{}", tandem::sandbox::free_port());
        let server =
            Postgres::start_new(&self.sandbox, installation, &name, &Options { config, ..Options::default() })?;
        psql(&server, "postgres", "CREATE DATABASE app")?;
        psql(&server, "app", SCHEMA)?;
        Ok(server)
    }
}

impl Sides {
    /// How long COPY to COPY takes into an empty table.
    fn bare_copy(&self) -> Result<Duration> {
        psql(&self.target, "plain", "TRUNCATE history")?;
        let began = Instant::now();
        let mut from = self.psql(&self.origin, "app", "COPY history TO STDOUT");
        let mut from = from.stdout(Stdio::piped()).spawn().context("starting psql")?;
        let rows = from.stdout.take().context("piped above")?;
        let into = self.psql(&self.target, "plain", "COPY history FROM STDIN").stdin(rows).output()?;
        ensure!(from.wait()?.success() && into.status.success(), "{}", String::from_utf8_lossy(&into.stderr));
        Ok(began.elapsed())
    }

    fn psql(&self, server: &Postgres, database: &str, sql: &str) -> Command {
        let mut command = Command::new(server.installation().bin.join("psql"));
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", database]);
        command.arg("-p").arg(server.port().to_string()).args(["-c", sql]);
        command
    }

    /// How long a backfill takes into an empty table.
    fn backfill(&self) -> Result<Duration> {
        let began = self.begin_backfill()?;
        let ended = self.tandem.ended("backfill")?;
        ensure!(ended["state"] == "Done", "{ended:#}");
        Ok(began.elapsed())
    }

    fn begin_backfill(&self) -> Result<Instant> {
        psql(&self.target, "app", "TRUNCATE history")?;
        let began = Instant::now();
        self.tandem.ask(&["backfill", "start", "--table", "public.history", "--no-verify", "--detach"])?;
        Ok(began)
    }
}
