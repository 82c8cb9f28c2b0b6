//! The speed of the CQL wire, as a table: tandem beside a plain byte splice, which no proxy can undercut, and beside
//! zdm-proxy, where somebody says where that is. It starts everything itself: nodes, proxies, clients.
//!
//! ```text
//! cargo bench --bench cql                                        everything but real Cassandra
//! cargo bench --bench cql -- forward --seconds 5                 one row, with longer rounds
//! cargo bench --bench cql -- real                                on Cassandra 4.1 and 5.0: scripts/setup --cql fetches them
//! ZDM_PROXY=/usr/local/bin/zdm-proxy cargo bench --bench cql -- latency throughput
//! TANDEM_BENCH_DIR=/mnt/other cargo bench --bench cql -- latency the journal has a disk of its own
//! ```
//!
//! The nodes are scripted and answer at once, so that what is measured is what is in between; the row `real` shows what is
//! left of it on real ones. Of rates and latencies it is the median of the rounds' ratios that counts. Everything shares
//! one machine: on one that does other things too, latencies and rates are wrong, and so is processor time with one request
//! in flight, nine tenths of which is the kernel's for waking a process up. `8 x 4` is eight clients with four requests in
//! flight each. Nothing is asserted: a goal is met or missed.
//!
//! With instant nodes the latency that mirroring adds is that of the disk's sync, which a real node's round trip hides: the
//! same is shown without syncs.
//!
//! That forwarding allocates nothing is a test: `protocol::cql::relay::tests`.

// It prints, and it measures real time.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tandem::protocol::cql::wire::frame::Version;
use tandem::sandbox::Sandbox;
use tandem::sandbox::cassandra::distribution::oldest_and_newest;
use tandem::sandbox::cassandra::{Cluster, Options};

#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod support;

use support::compared::Compared;
use support::cql::connect;
use support::cql::crowd::Crowd;
use support::cql::load::{Load, What};
use support::cql::node::Node;
use support::cql::splice;
use support::peers::Proxy;
use support::report::{Goal, Line, Report};
use support::rounds::{Samples, in_turns};
use support::{cpu, memory};

/// A row of the table, or several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Requests for each second of the proxy's processor time, mirroring off, beside a splice
    Forward,
    /// Writes by one client with mirroring: latency added, beside zdm-proxy
    Latency,
    /// Writes by 32 clients, 32 in flight each, with mirroring, beside zdm-proxy
    Throughput,
    /// Memory of a client that does nothing
    Idle,
    /// Reads and writes on real Cassandra; only when named
    Real,
}

/// What is measured where nobody names a row.
const ROWS: [Row; 4] = [Row::Forward, Row::Latency, Row::Throughput, Row::Idle];

/// The speed of the CQL wire.
#[derive(Parser)]
#[command(name = "cargo bench --bench cql --")]
struct Args {
    /// Rows to measure
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Length of one round of one side
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Clients of the row `idle`
    #[arg(long, default_value_t = 9_000)]
    idle: usize,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Be a splice that listens here
    #[arg(long, hide = true)]
    splice: Option<SocketAddr>,
    /// The splice's server
    #[arg(long, hide = true, requires = "splice")]
    splice_to: Option<SocketAddr>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

const VERSIONS: [Version; 2] = [Version::V4, Version::V5];
/// Clients, and requests of each in flight.
const SHAPES: [(u16, i16); 3] = [(1, 1), (8, 4), (32, 32)];
/// What an idle client may cost, in KB.
const IDLE_KB: f64 = 10.0;
/// Clients before the counted ones: what is there once for all of them.
const IDLE_FIRST: usize = 100;
const SCHEMA: [&str; 2] = [
    "CREATE KEYSPACE bench WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE bench.kept (k bigint PRIMARY KEY, v text)",
];

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(listen), Some(server)) = (args.splice, args.splice_to) {
        return splice::run(listen, server);
    }
    let report = RefCell::new(Report::new(args.json));
    let rows = if args.rows.is_empty() { &ROWS[..] } else { &args.rows };
    for row in rows {
        let compared = Compared::new(&report, row);
        Bench { args: &args, compared, row: *row, sandbox: Sandbox::new(false)? }.run()?;
    }
    report.into_inner().end();
    Ok(())
}

/// One row at work.
struct Bench<'a> {
    args: &'a Args,
    compared: Compared<'a>,
    row: Row,
    sandbox: Sandbox,
}

/// A way from a client to a node.
struct Arm<'a> {
    name: &'static str,
    address: SocketAddr,
    /// The proxy on the way.
    pid: Option<u32>,
    /// What to wait for before somebody else's turn.
    settle: Option<&'a dyn Fn() -> Result<()>>,
}

impl Bench<'_> {
    fn run(&self) -> Result<()> {
        match self.row {
            Row::Forward => self.forward(),
            Row::Latency => self.latency(),
            Row::Throughput => self.throughput(),
            Row::Idle => self.idle(),
            Row::Real => self.real(),
        }
    }

    fn forward(&self) -> Result<()> {
        let [origin, target] = nodes()?;
        let tandem = self.tandem(origin.address, target.address, "off")?;
        let spliced = Proxy::splice(&self.sandbox, origin.address)?;
        let zdm = self.zdm(origin.address, target.address)?;
        let mut arms = vec![arm("passthrough", &tandem), arm("splice", &spliced)];
        arms.extend(zdm.as_ref().map(|zdm| arm("zdm-proxy", zdm)));
        for version in VERSIONS {
            for (clients, in_flight) in SHAPES {
                for what in [What::Read, What::Write] {
                    let load = Load { what, version, clients, in_flight, time: self.time() };
                    let samples = self.rounds(&arms, &load)?;
                    self.efficiency(&load, &samples[0], "splice", &samples[1], Goal::AtLeast(0.8));
                    // zdm-proxy sends writes to both sides: only its reads are what passthrough does.
                    if let (Some(zdm), What::Read) = (samples.get(2), what) {
                        self.efficiency(&load, &samples[0], "zdm-proxy", zdm, Goal::AtLeast(5.0));
                    }
                }
            }
        }
        Ok(())
    }

    fn latency(&self) -> Result<()> {
        let [origin, target] = nodes()?;
        for version in VERSIONS {
            let load = Load { what: What::Write, version, clients: 1, in_flight: 1, time: self.time() };
            self.added(origin.address, target.address, &load)?;
        }
        Ok(())
    }

    /// The median latency that each proxy adds.
    fn added(&self, origin: SocketAddr, target: SocketAddr, load: &Load) -> Result<()> {
        let mirroring = RefCell::new(self.tandem(origin, target, "async")?);
        let settle = || mirroring.borrow_mut().settle();
        let passthrough = self.tandem(origin, target, "off")?;
        let unsynced = RefCell::new(self.unsynced(origin, target)?);
        let settle_unsynced = || unsynced.borrow_mut().settle();
        let zdm = self.zdm(origin, target)?;
        let mut arms = vec![
            direct(origin),
            Arm { settle: Some(&settle), ..arm("mirroring", &mirroring.borrow()) },
            Arm { settle: Some(&settle_unsynced), ..arm("mirroring, unsynced", &unsynced.borrow()) },
            arm("passthrough", &passthrough),
        ];
        arms.extend(zdm.as_ref().map(|zdm| arm("zdm-proxy", zdm)));
        let samples = self.rounds(&arms, load)?;
        let line = |one: usize, other: usize, goal| {
            let what = format!("{load}: latency added, {}", arms[one].name);
            self.compared.added(&what, &samples[0], &samples[one], arms[other].name, &samples[other], goal);
        };
        line(1, 3, Goal::None);
        line(2, 3, Goal::None);
        if samples.len() > 4 {
            line(1, 4, Goal::AtMost(0.25));
            line(2, 4, Goal::None);
        }
        Ok(())
    }

    fn throughput(&self) -> Result<()> {
        let [origin, target] = nodes()?;
        for version in VERSIONS {
            let load = Load { what: What::Write, version, clients: 32, in_flight: 32, time: self.time() };
            self.rates(origin.address, target.address, &load, Goal::AtLeast(4.0))?;
        }
        Ok(())
    }

    /// Requests a second, and processor time for each.
    fn rates(&self, origin: SocketAddr, target: SocketAddr, load: &Load, beside_zdm: Goal) -> Result<()> {
        let mirroring = RefCell::new(self.tandem(origin, target, "async")?);
        let settle = || mirroring.borrow_mut().settle();
        let passthrough = self.tandem(origin, target, "off")?;
        let zdm = self.zdm(origin, target)?;
        let mut arms = vec![
            Arm { settle: Some(&settle), ..arm("mirroring", &mirroring.borrow()) },
            arm("passthrough", &passthrough),
            direct(origin),
        ];
        arms.extend(zdm.as_ref().map(|zdm| arm("zdm-proxy", zdm)));
        let (samples, what) = (self.rounds(&arms, load)?, format!("{load}, mirroring"));
        for (other, samples_of_other) in samples.iter().enumerate().skip(1) {
            let goal = if arms[other].name == "zdm-proxy" { beside_zdm } else { Goal::None };
            self.compared.rate(&what, &samples[0], arms[other].name, samples_of_other, goal);
        }
        Ok(())
    }

    fn idle(&self) -> Result<()> {
        let [origin, target] = nodes()?;
        for version in VERSIONS {
            let tandem = self.tandem(origin.address, target.address, "async")?;
            let mut crowd = Crowd::new(version)?;
            crowd.join(address(&tandem), IDLE_FIRST)?;
            crowd.ask()?;
            let before = memory(tandem.pid())?;
            let line = |what: &str| -> Result<()> {
                let grown = memory(tandem.pid())?.saturating_sub(before) as f64 / 1024.0 / self.args.idle as f64;
                let what = format!("{version}, memory of each of {} {what}", self.args.idle);
                self.compared.memory(&what, grown, IDLE_KB);
                Ok(())
            };
            crowd.join(address(&tandem), self.args.idle)?;
            line("idle clients")?;
            crowd.ask()?;
            line("clients after a request")?;
        }
        Ok(())
    }

    fn real(&self) -> Result<()> {
        let (old, new) = oldest_and_newest()?;
        let start = |distribution| Cluster::start(&self.sandbox, distribution, 1, &Options::default());
        let (origin, target) = (start(&old)?, start(&new)?);
        let (origin, target) = (SocketAddr::V4(origin.contact()), SocketAddr::V4(target.contact()));
        [origin, target].into_iter().try_for_each(create)?;
        let load = Load { what: What::Write, version: Version::V5, clients: 1, in_flight: 1, time: self.time() };
        self.added(origin, target, &load)?;
        for what in [What::Write, What::Read] {
            self.rates(origin, target, &Load { what, clients: 8, in_flight: 8, ..load }, Goal::None)?;
        }
        Ok(())
    }

    fn tandem(&self, origin: SocketAddr, target: SocketAddr, mode: &str) -> Result<Proxy> {
        self.tandem_with(origin, target, &format!("[mirror]\nmode = \"{mode}\""))
    }

    fn unsynced(&self, origin: SocketAddr, target: SocketAddr) -> Result<Proxy> {
        self.tandem_with(origin, target, "[journal]\ndurability = \"os\"")
    }

    fn tandem_with(&self, origin: SocketAddr, target: SocketAddr, more: &str) -> Result<Proxy> {
        let more = format!("{more}\n[limits]\nconnections = 20000\n[log]\nlevel = \"error\"");
        Proxy::tandem_on(&self.sandbox, "cql", &format!("cql://{origin}"), &format!("cql://{target}"), &more)
    }

    fn zdm(&self, origin: SocketAddr, target: SocketAddr) -> Result<Option<Proxy>> {
        let zdm = Proxy::zdm(&self.sandbox, origin, target)?;
        if zdm.is_none() {
            self.compared.note(&Proxy::no_zdm());
        }
        Ok(zdm)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.args.seconds)
    }

    /// All arms in turns, after one turn that does not count.
    fn rounds(&self, arms: &[Arm<'_>], load: &Load) -> Result<Vec<Samples>> {
        for arm in arms {
            turn(arm, &Load { time: Duration::from_millis(500), ..*load }, &mut Samples::default())?;
        }
        in_turns(arms.len(), self.args.rounds, |at, samples| turn(&arms[at], load, samples))
    }

    /// Requests for a second of the proxies' processor time.
    fn efficiency(&self, load: &Load, tandem: &Samples, other: &str, others: &Samples, goal: Goal) {
        let cpu_us = (tandem.cpu_us(), others.cpu_us());
        let per_second = |cpu_us: Option<f64>| cpu_us.map_or(f64::NAN, |micros| 1e6 / micros);
        let (tandem, others) = (per_second(cpu_us.0), per_second(cpu_us.1));
        let (unit, ratio) = ("1/cpu-s", tandem / others);
        let empty = self.compared.empty(&load.to_string(), other);
        self.compared.line(Line { unit, tandem, others, ratio, cpu_us, goal, ..empty });
    }
}

/// An old and a new one.
fn nodes() -> Result<[Node; 2]> {
    Ok([Node::start("origin", "4.1.9")?, Node::start("target", "5.0.5")?])
}

fn create(node: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut line = connect(&node.to_string(), Version::V4).await?;
        for text in SCHEMA {
            line.say(Version::V4, text).await?;
        }
        Ok(())
    })
}

fn address(proxy: &Proxy) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], proxy.port))
}

fn arm<'a>(name: &'static str, proxy: &Proxy) -> Arm<'a> {
    Arm { name, address: address(proxy), pid: Some(proxy.pid()), settle: None }
}

fn direct<'a>(node: SocketAddr) -> Arm<'a> {
    Arm { name: "direct", address: node, pid: None, settle: None }
}

fn turn(arm: &Arm<'_>, load: &Load, samples: &mut Samples) -> Result<()> {
    let used = || arm.pid.map_or(Ok(Duration::ZERO), cpu);
    let before = used()?;
    let measured = load.run(arm.address).with_context(|| format!("{load} by {}", arm.name))?;
    samples.per_second.push(measured.per_second);
    samples.latency_us.push(measured.latency_us);
    samples.requests += measured.requests;
    let began = Instant::now();
    if let Some(settle) = arm.settle {
        settle()?;
    }
    samples.settled_ms.push(began.elapsed().as_secs_f64() * 1e3);
    samples.cpu += used()? - before;
    Ok(())
}
