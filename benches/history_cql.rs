//! The speed of history on Cassandra, as a table: the backfill beside a loop of the Python driver, beside reading alone, and
//! beside writing alone; the comparison of equal sides beside the copy; memory, also with one large partition. It starts
//! everything itself, real 4.1 and 5.0: scripts/setup --drivers fetches them and the driver.
//!
//! ```text
//! cargo bench --bench history_cql                                everything
//! cargo bench --bench history_cql -- copy --table 50000          one row, with a small table
//! ```
//!
//! Both nodes, tandem and whoever it is compared with share one machine here, and nine tenths of the work is the nodes': so the
//! Python loop is compared by processor time as well, and a note says who used how much of it. It is the median of the
//! rounds' ratios that counts. Nothing is asserted: a goal is met or missed.

// It prints, and it measures real time.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use futures_util::{StreamExt, stream};
use tandem::protocol::cql::client::{Address, Client, Settings};
use tandem::protocol::cql::wire::primitive::{Consistency, Value};
use tandem::protocol::cql::wire::request::{Bound, Parameters, Values};
use tandem::sandbox::cassandra::distribution::oldest_and_newest;
use tandem::sandbox::cassandra::{Cluster, Node, Options};
use tandem::sandbox::{Sandbox, cache_folder};

#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod support;

use support::compared::Compared;
use support::peers::Proxy;
use support::report::{Goal, Report};
use support::{cpu, median, peak};

/// A row of the table, or several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Rows a second of a backfill, beside a loop of the Python driver, and beside reading and writing alone
    Copy,
    /// Rows a second of a comparison of equal sides, beside the backfill's
    Verify,
    /// Peak memory of tandem, beside a tenth of the rows, and with one large partition
    Memory,
}

/// The speed of history on Cassandra.
#[derive(Parser)]
#[command(name = "cargo bench --bench history_cql --")]
struct Args {
    /// Rows to measure; all if none is named
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Rows of the table that is copied, of about 150 bytes each
    #[arg(long, default_value_t = 200_000)]
    table: u64,
    /// Size of the large partition, in MB
    #[arg(long, default_value_t = 200)]
    partition: u64,
    /// Rounds of each side
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row of about a hundred bytes, as tables of accounts and orders have them; and one partition with all rows of a kilobyte.
const SCHEMA: [&str; 3] = [
    "CREATE KEYSPACE bench WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE bench.history (k bigint PRIMARY KEY, who text, n bigint, body text, at timestamp)",
    "CREATE TABLE bench.large (p int, c bigint, body blob, PRIMARY KEY (p, c))",
];
const INSERT: &str = "INSERT INTO bench.history (k, who, n, body, at) VALUES (?, ?, ?, ?, ?)";
const INSERT_LARGE: &str = "INSERT INTO bench.large (p, c, body) VALUES (?, ?, ?)";
const READ: &str = "SELECT k, who, n, body, at FROM bench.history WHERE token(k) > ? AND token(k) <= ?";
/// Of the large partition.
const ROW_BYTES: u64 = 1_024;
/// Requests in flight of who reads or writes alone, and of the Python loop.
const READERS: usize = 4;
const WRITERS: usize = 128;
/// Stretches of the ring that are read alone.
const STRETCHES: i64 = 64;
const PAGE: i32 = 5_000;
const CONFIG: &str = "[log]\nlevel = \"warn\"\n[mirror]\nself_repair = false";

fn main() -> Result<()> {
    let args = Args::parse();
    let report = RefCell::new(Report::new(args.json));
    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    for row in rows {
        let bench = Bench { args: &args, compared: Compared::new(&report, row) };
        match row {
            Row::Copy => bench.copy()?,
            Row::Verify => bench.verify()?,
            Row::Memory => bench.memory()?,
        }
    }
    report.into_inner().end();
    Ok(())
}

/// One row at work.
struct Bench<'a> {
    args: &'a Args,
    compared: Compared<'a>,
}

impl Bench<'_> {
    fn copy(&self) -> Result<()> {
        let sides = Sides::start()?;
        sides.fill(self.args.table)?;
        let (mut tandem, mut python) = (Vec::new(), Vec::new());
        let (mut reading, mut writing) = (Vec::new(), Vec::new());
        for _ in 0..self.args.rounds {
            sides.empty("history")?;
            python.push(sides.python(self.args.table)?);
            reading.push(sides.read(self.args.table)?);
            writing.push(sides.write(self.args.table)?);
            tandem.push(sides.backfill("history")?);
        }
        let rows = self.args.table as f64;
        let rates = |done: &[Done]| done.iter().map(|done| rows / done.took.as_secs_f64()).collect::<Vec<_>>();
        let per_core = |done: &[Done]| done.iter().map(|done| rows / done.used[0].as_secs_f64()).collect::<Vec<_>>();
        let by_hand = "a loop of the Python driver";
        let cores = (per_core(&tandem), per_core(&python));
        let goal = Goal::AtLeast(3.0);
        self.compared.values("backfill, per core", "1/cpu-s", &cores.0, (by_hand, &cores.1), goal);
        for (other, done, goal) in [
            (by_hand, &python, Goal::None),
            ("reading alone", &reading, Goal::AtLeast(1.0)),
            ("writing alone", &writing, Goal::None),
        ] {
            self.compared.values("backfill", "1/s", &rates(&tandem), (other, &rates(done)), goal);
        }
        for (who, done) in [("backfill", &tandem), ("Python", &python), ("reading", &reading), ("writing", &writing)] {
            let of = |at: usize| median(done.iter().map(|done| done.used[at].as_secs_f64() * 1e6 / rows));
            let took = median(done.iter().map(|done| done.took.as_secs_f64() * 1e6 / rows));
            self.compared.note(&format!(
                "{who}: {took:.0} us a row; processor time of its own {:.0} us, of the origin {:.0}, of the target {:.0}",
                of(0),
                of(1),
                of(2),
            ));
        }
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        let sides = Sides::start()?;
        sides.fill(self.args.table)?;
        let (mut copied, mut verified) = (Vec::new(), Vec::new());
        for _ in 0..self.args.rounds {
            sides.empty("history")?;
            copied.push(self.args.table as f64 / sides.backfill("history")?.took.as_secs_f64());
            verified.push(self.args.table as f64 / sides.verify("history", self.args.table)?.as_secs_f64());
        }
        let goal = Goal::AtLeast(5.0);
        self.compared.values("verify of equal sides", "1/s", &verified, ("backfill", &copied), goal);
        Ok(())
    }

    /// Bounded by configuration: neither ten times the rows nor one large partition cost more.
    fn memory(&self) -> Result<()> {
        let peak_of = |table: &str, rows: u64, fill: &dyn Fn(&Sides) -> Result<()>| -> Result<f64> {
            let sides = Sides::start()?;
            fill(&sides)?;
            sides.backfill(table)?;
            sides.verify(table, rows)?;
            Ok(peak(sides.tandem.pid())? as f64 / f64::from(1 << 20))
        };
        let (few, many) = (self.args.table / 10, self.args.table);
        let others = peak_of("history", few, &|sides| sides.fill(few))?;
        let line = |what: String, tandem: f64| {
            self.compared.values(&what, "MB", &[tandem], ("a tenth of the rows", &[others]), Goal::AtMost(1.5));
        };
        line(format!("peak memory, {many} rows"), peak_of("history", many, &|sides| sides.fill(many))?);
        let (megabytes, rows) = (self.args.partition, self.args.partition * 1_024);
        let large = peak_of("large", rows, &|sides| sides.fill_partition(rows))?;
        line(format!("peak memory, a partition of {megabytes} MB"), large);
        Ok(())
    }
}

/// One node of each version, the target without history, and tandem between them.
struct Sides {
    runtime: tokio::runtime::Runtime,
    clusters: [Cluster; 2],
    clients: [Client; 2],
    tandem: Proxy,
    _sandbox: Sandbox,
}

/// How long something took, and the processor time of who did it, of the origin and of the target.
struct Done {
    took: Duration,
    used: [Duration; 3],
}

impl Sides {
    fn start() -> Result<Sides> {
        let sandbox = Sandbox::new(false)?;
        let (old, new) = oldest_and_newest()?;
        let options = Options { heap_mb: Some(2_048), ..Options::default() };
        let start = |distribution| Cluster::start(&sandbox, distribution, 1, &options);
        let clusters = [start(&old)?, start(&new)?];
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = |cluster: &Cluster| runtime.block_on(connect(cluster.contact()));
        let clients = [client(&clusters[0])?, client(&clusters[1])?];
        for client in &clients {
            for text in SCHEMA {
                runtime.block_on(client.query(text, &one()))?;
            }
        }
        let url = |at: usize| format!("cql://{}", clusters[at].contact());
        let tandem = Proxy::tandem_on(&sandbox, "cql", &url(0), &url(1), CONFIG)?;
        Ok(Sides { runtime, clusters, clients, tandem, _sandbox: sandbox })
    }

    fn node(&self, at: usize) -> &Node {
        &self.clusters[at].nodes[0]
    }

    fn empty(&self, table: &str) -> Result<()> {
        self.runtime.block_on(self.clients[1].query(&format!("TRUNCATE bench.{table}"), &one()))?;
        Ok(())
    }

    fn fill(&self, rows: u64) -> Result<()> {
        self.runtime.block_on(insert(&self.clients[0], rows))
    }

    fn fill_partition(&self, rows: u64) -> Result<()> {
        let body: Vec<u8> = (0..ROW_BYTES).map(|at| (at * 7) as u8).collect();
        self.runtime.block_on(each(&self.clients[0], INSERT_LARGE, rows, |c| {
            [1_i32.to_be_bytes().to_vec(), c.to_be_bytes().to_vec(), body.clone()].into()
        }))
    }

    /// What was done by `pid` and both nodes.
    fn measured(&self, pid: u32, work: impl FnOnce() -> Result<()>) -> Result<Done> {
        let pids = [Some(pid), self.node(0).pid(), self.node(1).pid()];
        let used = || pids.map(|pid| pid.context("a node that runs").and_then(cpu));
        let (before, began) = (used(), Instant::now());
        work()?;
        let took = began.elapsed();
        let [own, origin, target]: [Result<Duration>; 3] = {
            let mut before = before.into_iter();
            used().map(|after| Ok(after? - before.next().context("as many")??))
        };
        Ok(Done { took, used: [own?, origin?, target?] })
    }

    fn python(&self, rows: u64) -> Result<Done> {
        let python = cache_folder().join("drivers/cql-python/bin/python");
        ensure!(python.exists(), "the Python driver is not installed ({}): scripts/setup --drivers", python.display());
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/cql/history_loop.py"));
        for cluster in &self.clusters {
            command.arg(cluster.contact().ip().to_string()).arg(cluster.contact().port().to_string());
        }
        command.arg(WRITERS.to_string());
        let mut said = String::new();
        let mut done = self.measured(std::process::id(), || {
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            said = String::from_utf8(output.stdout)?;
            Ok(())
        })?;
        let told: Vec<f64> = said.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [count, took, used] = told[..] else { bail!("the loop said {said:?}") };
        ensure!(count == rows as f64, "the loop copied {count} of {rows}");
        // Without its start.
        done.took = Duration::from_secs_f64(took);
        done.used[0] = Duration::from_secs_f64(used);
        Ok(done)
    }

    /// Every row of the origin, by stretches of the ring.
    fn read(&self, rows: u64) -> Result<Done> {
        let step = i64::MAX / (STRETCHES / 2);
        // The product may be more than an i64 holds; the sum is not.
        let start = |at: i64| i64::MIN.wrapping_add(at.wrapping_mul(step));
        self.measured(std::process::id(), || {
            let stretches = stream::iter(0..STRETCHES).map(|at| {
                let last = if at == STRETCHES - 1 { i64::MAX } else { start(at + 1) };
                stretch(&self.clients[0], start(at), last)
            });
            let counts = self.runtime.block_on(stretches.buffer_unordered(READERS).collect::<Vec<_>>());
            let read = counts.into_iter().sum::<Result<u64>>()?;
            ensure!(read == rows, "{read} rows read of {rows}");
            Ok(())
        })
    }

    fn write(&self, rows: u64) -> Result<Done> {
        self.measured(std::process::id(), || self.runtime.block_on(insert(&self.clients[1], rows)))
    }

    fn backfill(&self, table: &str) -> Result<Done> {
        self.empty(table)?;
        self.measured(self.tandem.pid(), || {
            let table = format!("bench.{table}");
            self.tandem.ask(&["backfill", "start", "--table", &table, "--no-verify", "--detach"])?;
            let ended = self.tandem.ended("backfill")?;
            ensure!(ended["state"] == "Done", "{ended:#}");
            Ok(())
        })
    }

    fn verify(&self, table: &str, rows: u64) -> Result<Duration> {
        let began = Instant::now();
        self.tandem.ask(&["verify", "--table", &format!("bench.{table}"), "--detach"])?;
        let ended = self.tandem.ended("verify")?;
        ensure!(ended["counts"]["equal"] == rows, "not equal: {ended:#}");
        Ok(began.elapsed())
    }
}

fn one() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}

async fn connect(node: SocketAddrV4) -> Result<Client> {
    let address = Address { host: node.ip().to_string(), port: node.port() };
    Ok(Client::connect(&Settings::default(), &address).await?)
}

async fn insert(client: &Client, rows: u64) -> Result<()> {
    each(client, INSERT, rows, |k| {
        let body = format!("{:032x}", u128::from(k).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).repeat(2);
        let at = (k as i64).wrapping_mul(60_000).to_be_bytes().to_vec();
        [
            k.to_be_bytes().to_vec(),
            format!("customer {k}").into_bytes(),
            k.to_be_bytes().to_vec(),
            body.into_bytes(),
            at,
        ]
        .into()
    })
    .await
}

/// The statement once for each number below `rows`.
async fn each(client: &Client, text: &str, rows: u64, values: impl Fn(u64) -> Vec<Vec<u8>>) -> Result<()> {
    let prepared = client.prepare(text, None).await?;
    let mut done = stream::iter((0..rows).map(values))
        .map(|values| {
            let prepared = &prepared;
            async move {
                let values: Vec<Bound<'_>> = values.iter().map(|value| (None, Value::Set(&value[..]))).collect();
                client.execute(prepared, &Parameters { values: Some(Values::Given(&values)), ..one() }).await
            }
        })
        .buffer_unordered(WRITERS);
    while let Some(written) = done.next().await {
        written?;
    }
    Ok(())
}

async fn stretch(client: &Client, above: i64, last: i64) -> Result<u64> {
    let prepared = client.prepare(READ, None).await?;
    let bounds = [above.to_be_bytes(), last.to_be_bytes()];
    let values: Vec<Bound<'_>> = bounds.iter().map(|bound| (None, Value::Set(&bound[..]))).collect();
    let (mut rows, mut state) = (0, None::<Vec<u8>>);
    loop {
        let values = Some(Values::Given(&values));
        let paging_state = state.as_deref();
        let page =
            client.execute(&prepared, &Parameters { values, paging_state, page_size: Some(PAGE), ..one() }).await?;
        rows += page.rows()?.iter().count() as u64;
        state = page.paging_state().map(<[u8]>::to_vec);
        if state.is_none() {
            return Ok(rows);
        }
    }
}
