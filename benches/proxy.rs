//! The speed of the PostgreSQL wire, as a table: tandem beside what else could stand between a client and its server,
//! or beside itself without mirroring. It starts everything itself: servers, tandem, the peers, pgbench.
//!
//! ```text
//! cargo bench --bench proxy                                       everything
//! cargo bench --bench proxy -- update tpcb --seconds 5            two rows, with longer rounds
//! TANDEM_BENCH_PGBOUNCER=/usr/sbin/pgbouncer cargo bench --bench proxy -- select latency
//! TANDEM_BENCH_DIR=/mnt/other cargo bench --bench proxy -- update asked       the journal has a disk of its own
//! ```
//!
//! What is compared runs in turns, many short rounds, and of rates it is the median of the rounds' ratios that counts: a
//! noisy machine hits both. Everything shares one machine here, so the ratios say something and the absolutes little.
//! Nothing is asserted: a goal is met or missed.

// It prints, and it measures real time.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tandem::sandbox::{Installation, Options, Postgres, Sandbox, Stop, binaries};

#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod support;

use support::compared::Compared;
use support::idle::Crowd;
use support::peers::Proxy;
use support::pgbench::{Load, Pgbench, Script};
use support::report::{Goal, Line, Report};
use support::rounds::{Samples, in_turns, paired};
use support::{cpu, median, memory, psql};

/// A row of the table, or several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Reads by 8 clients, mirroring off, beside pgbouncer
    Select,
    /// Reads by one client, mirroring off: latency added, beside pgbouncer
    Latency,
    /// Reads by 8 clients with mirroring
    Mirrored,
    /// Reads with every one of them repeated on the target, which hangs, and which answers: p99 beside none repeated
    Shadow,
    /// Updates by key with mirroring, target stopped and live
    Update,
    /// TPC-B with mirroring, beside PostgreSQL's logical replication
    Tpcb,
    /// Inserts whose key the server makes, with mirroring
    Asked,
    /// Updates beside a column of 100 KB, with mirroring
    Wide,
    /// Memory of a client that does nothing
    Idle,
}

/// The speed of the PostgreSQL wire.
#[derive(Parser)]
#[command(name = "cargo bench --bench proxy --")]
struct Args {
    /// Rows to measure; all if none is named
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Length of one round of one side
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Clients of the row `idle`
    #[arg(long, default_value_t = 2_000)]
    idle: usize,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// pgbench's scale: ten branches for eight clients, a million accounts.
const SCALE: u32 = 10;
/// pgbench's own key, without the rest of its transaction.
const UPDATE: &str = "\\set aid random(1, 1000000)\n\\set d random(-5000, 5000)\n\
    UPDATE pgbench_accounts SET abalance = abalance + :d WHERE aid = :aid;\n";
/// pgbench's `tpcb-like`, with a key in its history.
const TPCB: &str = "\\set aid random(1, 1000000)\n\\set bid random(1, 10)\n\\set tid random(1, 100)\n\
    \\set d random(-5000, 5000)\n\
    BEGIN;\n\
    UPDATE pgbench_accounts SET abalance = abalance + :d WHERE aid = :aid;\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
    UPDATE pgbench_tellers SET tbalance = tbalance + :d WHERE tid = :tid;\n\
    UPDATE pgbench_branches SET bbalance = bbalance + :d WHERE bid = :bid;\n\
    INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :d, CURRENT_TIMESTAMP);\n\
    END;\n";
const HISTORY_KEY: &str = "ALTER TABLE pgbench_history ADD id bigserial PRIMARY KEY";
const TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"];
/// A key that the server makes, and the same statement as tandem would have to send it.
const SERIAL: &str = "CREATE TABLE serial (id bigserial PRIMARY KEY, v int NOT NULL, at timestamptz DEFAULT now())";
const INSERT: &str = "\\set v random(1, 1000000)\nINSERT INTO serial (v) VALUES (:v);\n";
const INSERT_RETURNING: &str =
    "\\set v random(1, 1000000)\nINSERT INTO serial (v) VALUES (:v) RETURNING tableoid, id;\n";
/// With its transaction, whose COMMIT waits for the key, as tandem's has to: before it is sent the key is written down.
const WRAPPED_SIMPLE: &str = "\\set v random(1, 1000000)\n\
    BEGIN\\; INSERT INTO serial (v) VALUES (:v) RETURNING tableoid, id;\nCOMMIT;\n";
const WRAPPED_PREPARED: &str = "\\set v random(1, 1000000)\n\\startpipeline\nBEGIN;\n\
    INSERT INTO serial (v) VALUES (:v) RETURNING tableoid, id;\n\\endpipeline\nCOMMIT;\n";
/// The same in one message, and in one flight of messages: nobody waits for the key.
const AT_ONCE_SIMPLE: &str = "\\set v random(1, 1000000)\n\
    BEGIN\\; INSERT INTO serial (v) VALUES (:v) RETURNING tableoid, id\\; COMMIT;\n";
const AT_ONCE_PREPARED: &str = "\\set v random(1, 1000000)\n\\startpipeline\nBEGIN;\n\
    INSERT INTO serial (v) VALUES (:v) RETURNING tableoid, id;\nCOMMIT;\n\\endpipeline\n";
/// 100 KB that neither shrink nor change.
const WIDE: &str = "CREATE TABLE wide (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, body bytea);
    ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
    INSERT INTO wide (id, body) SELECT i, string_agg(sha512(int4send(i * 10000 + j)), '')
        FROM generate_series(1, 200) i, generate_series(1, 1600) j GROUP BY i";
const UPDATE_WIDE: &str = "\\set id random(1, 200)\nUPDATE wide SET n = n + 1 WHERE id = :id;\n";
/// What an idle client may cost, in KB.
const IDLE_KB: f64 = 8.0;
/// Clients before the counted ones: what is there once for all of them.
const IDLE_FIRST: usize = 100;
const CLIENTS: [u32; 3] = [1, 8, 16];
const PROTOCOLS: [&str; 2] = ["simple", "prepared"];

fn main() -> Result<()> {
    let args = Args::parse();
    let report = RefCell::new(Report::new(args.json));
    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    for row in rows {
        Bench::new(&args, &report, *row)?.run()?;
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
    pgbench: Pgbench,
    old: Installation,
    new: Installation,
}

/// A way from a client to a server.
struct Arm<'a> {
    name: &'static str,
    port: u16,
    database: &'static str,
    /// The proxy on the way.
    pid: Option<u32>,
    /// Another script than the others'.
    script: Option<&'static str>,
    /// What to wait for before somebody else's turn.
    settle: Option<&'a dyn Fn() -> Result<()>>,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args, report: &'a RefCell<Report>, row: Row) -> Result<Bench<'a>> {
        let sandbox = Sandbox::new(false)?;
        let (old, new) = binaries::oldest_and_newest()?;
        let pgbench = Pgbench::find(&sandbox)?;
        let compared = Compared::new(report, &row);
        Ok(Bench { args, compared, row, sandbox, pgbench, old, new })
    }

    fn run(&self) -> Result<()> {
        match self.row {
            Row::Select => self.select(),
            Row::Latency => self.latency(),
            Row::Mirrored => self.mirrored(),
            Row::Shadow => self.shadow(),
            Row::Update => self.update(),
            Row::Tpcb => self.tpcb(),
            Row::Asked => self.asked(),
            Row::Wide => self.wide(),
            Row::Idle => self.idle(),
        }
    }

    fn select(&self) -> Result<()> {
        let (origin, target) = self.sides()?;
        let tandem = self.tandem(&origin, "app", &target, "off")?;
        let bouncer = self.pgbouncer(&origin)?;
        for protocol in PROTOCOLS {
            let mut arms = vec![arm("passthrough", &tandem, "app"), direct(&origin, "app")];
            arms.extend(bouncer.as_ref().map(|bouncer| arm("pgbouncer", bouncer, "app")));
            let samples = self.rounds(&arms, &self.load(Script::Select, protocol, 8))?;
            let what = format!("select, {protocol}, 8 clients");
            if let Some(bouncer) = samples.get(2) {
                self.compared.rate(&what, &samples[0], "pgbouncer", bouncer, Goal::AtLeast(1.0));
                self.cpu(&what, &samples[0], "pgbouncer", bouncer, Goal::AtMost(1.1));
            }
            self.compared.rate(&what, &samples[0], "direct", &samples[1], Goal::None);
        }
        Ok(())
    }

    fn latency(&self) -> Result<()> {
        let (origin, target) = self.sides()?;
        let tandem = self.tandem(&origin, "app", &target, "off")?;
        let Some(bouncer) = self.pgbouncer(&origin)? else { return Ok(()) };
        let arms = [direct(&origin, "app"), arm("passthrough", &tandem, "app"), arm("pgbouncer", &bouncer, "app")];
        for protocol in PROTOCOLS {
            let load = Load { each: true, ..self.load(Script::Select, protocol, 1) };
            let samples = self.rounds(&arms, &load)?;
            let what = format!("select, {protocol}, 1 client, latency added");
            self.compared.added(&what, &samples[0], &samples[1], "pgbouncer", &samples[2], Goal::AtMost(1.1));
        }
        Ok(())
    }

    fn mirrored(&self) -> Result<()> {
        let (origin, target) = self.sides()?;
        let mirroring = self.tandem(&origin, "app", &target, "async")?;
        let passthrough = self.tandem(&origin, "app", &target, "off")?;
        let arms = [arm("mirroring", &mirroring, "app"), arm("passthrough", &passthrough, "app")];
        for protocol in PROTOCOLS {
            let samples = self.rounds(&arms, &self.load(Script::Select, protocol, 8))?;
            let what = format!("select, {protocol}, 8 clients, mirroring");
            self.compared.rate(&what, &samples[0], "passthrough", &samples[1], Goal::AtLeast(0.97));
        }
        Ok(())
    }

    /// Two tandems alike, each between databases of its own on the same servers: one repeats every read. With a target that
    /// hangs all that is chosen has to be left out; one that answers takes its part of the same machine.
    fn shadow(&self) -> Result<()> {
        let (origin, target) = self.sides()?;
        self.copy_database(&origin)?;
        self.copy_database(&target)?;
        let between = |database: &str, sample: &str| {
            let more = format!("[shadow]\nsample = \"{sample}\"\n[log]\nlevel = \"error\"");
            Proxy::tandem(&self.sandbox, &origin.url(database), &target.url(database), &more)
        };
        let (repeating, off) = (between("app", "100%")?, between("plain", "0")?);
        let arms = [arm("repeating", &repeating, "app"), arm("off", &off, "plain")];
        for (state, goal) in [("answers", Goal::None), ("hangs", Goal::AtMost(1.05))] {
            if state == "hangs" {
                target.freeze();
            }
            for protocol in PROTOCOLS {
                let load = Load { each: true, ..self.load(Script::Select, protocol, 4) };
                let samples = self.rounds(&arms, &load)?;
                let what = format!("select, {protocol}, 4 clients, all repeated, target {state}");
                self.compared.p99(&what, &samples[0], "none repeated", &samples[1], goal);
                self.compared.rate(&what, &samples[0], "none repeated", &samples[1], Goal::None);
            }
        }
        target.thaw();
        let status = repeating.ask(&["shadow", "status"])?;
        ensure!(status["compared"].as_u64() > Some(0), "nothing was compared: {status}");
        Ok(())
    }

    /// The two arms write to a database each: what one leaves behind is not what the other finds. The journal and the
    /// server sync to one disk here, one after the other: `TANDEM_BENCH_DIR` gives the journal one of its own.
    fn update(&self) -> Result<()> {
        let (origin, mut target) = self.sides()?;
        self.copy_database(&origin)?;
        let mirroring = RefCell::new(self.tandem(&origin, "app", &target, "async")?);
        let passthrough = self.tandem(&origin, "plain", &target, "off")?;
        let settle = || mirroring.borrow_mut().settle();
        let mut arms = [arm("mirroring", &mirroring.borrow(), "app"), arm("passthrough", &passthrough, "plain")];
        arms[0].settle = Some(&settle);
        for clients in CLIENTS {
            let samples = self.rounds(&arms, &self.load(Script::Own(UPDATE), "prepared", clients))?;
            let what = format!("update by key, {clients} clients, target live");
            // A live target takes its part of the same machine.
            self.compared.rate(&what, &samples[0], "passthrough", &samples[1], Goal::None);
        }
        target.stop(Stop::Kill)?;
        arms[0].settle = None;
        let unsynced = "[journal]\ndurability = \"os\"\n[log]\nlevel = \"error\"";
        let unsynced = Proxy::tandem(&self.sandbox, &origin.url("app"), &target.url("app"), unsynced)?;
        let [mirroring, passthrough] = arms;
        let arms = [mirroring, passthrough, arm("unsynced", &unsynced, "app")];
        for clients in CLIENTS {
            let samples = self.rounds(&arms, &self.load(Script::Own(UPDATE), "prepared", clients))?;
            let what = format!("update by key, {clients} clients, target stopped");
            self.compared.rate(&what, &samples[0], "passthrough", &samples[1], Goal::AtLeast(0.95));
            self.compared.rate(&format!("{what}, unsynced"), &samples[2], "passthrough", &samples[1], Goal::None);
        }
        Ok(())
    }

    /// Beside a second origin that the same target subscribes to: no decoding of what is not compared.
    fn tpcb(&self) -> Result<()> {
        let (origin, target) = self.sides()?;
        let published = self.server(&self.old, "published", &["wal_level = logical"])?;
        for server in [&origin, &target, &published] {
            psql(server, "app", HISTORY_KEY)?;
        }
        self.copy_database(&target)?;
        self.subscribe(&published, &target)?;
        let mirroring = RefCell::new(self.tandem(&origin, "app", &target, "async")?);
        let passthrough = self.tandem(&published, "app", &target, "off")?;
        let (settle, replicated) = (|| mirroring.borrow_mut().settle(), || wait_replicated(&published));
        let mut arms = vec![
            arm("mirroring", &mirroring.borrow(), "app"),
            direct(&published, "app"),
            arm("passthrough", &passthrough, "app"),
        ];
        arms[0].settle = Some(&settle);
        arms[1].settle = Some(&replicated);
        arms[2].settle = Some(&replicated);
        // Seven round trips: what a proxy that mirrors nothing leaves of them is the most that one that mirrors can.
        let bouncer = self.pgbouncer(&published)?;
        if let Some(bouncer) = &bouncer {
            arms.push(arm("pgbouncer", bouncer, "app"));
            arms[3].settle = Some(&replicated);
        }
        let samples = self.rounds(&arms, &self.load(Script::Own(TPCB), "prepared", 8))?;
        let what = "TPC-B, 8 clients, target live";
        self.compared.rate(what, &samples[0], "logical replication", &samples[1], Goal::AtLeast(0.85));
        self.compared.rate(what, &samples[0], "the same by passthrough", &samples[2], Goal::None);
        if let Some(bouncer) = samples.get(3) {
            let what = "TPC-B, 8 clients, pgbouncer, which mirrors nothing";
            self.compared.rate(what, bouncer, "logical replication", &samples[1], Goal::None);
            self.compared.rate(
                "TPC-B, 8 clients, target live",
                &samples[0],
                "the same by pgbouncer",
                bouncer,
                Goal::None,
            );
        }
        self.compared.line(Line {
            unit: "ms",
            tandem: median(samples[0].settled_ms.iter().copied()),
            others: median(samples[1].settled_ms.iter().copied()),
            ratio: paired(&samples[0].settled_ms, &samples[1].settled_ms, |one, other| one / other),
            ..self.compared.empty("TPC-B, time to catch up after a round", "logical replication")
        });
        compare(&origin, &target)?;
        self.compared.note("afterwards all rows of both sides are equal");
        Ok(())
    }

    fn subscribe(&self, published: &Postgres, target: &Postgres) -> Result<()> {
        psql(published, "app", "CREATE PUBLICATION everything FOR ALL TABLES")?;
        let from = format!("host=127.0.0.1 port={} user=postgres dbname=app", published.port());
        let subscription = format!(
            "CREATE SUBSCRIPTION everything CONNECTION '{from}' PUBLICATION everything WITH (copy_data = false)"
        );
        psql(target, "plain", &subscription).map(drop)
    }

    fn asked(&self) -> Result<()> {
        let (origin, mut target) = self.sides()?;
        self.on_both(&origin, &target, SERIAL)?;
        let mirroring = self.tandem(&origin, "app", &target, "async")?;
        let passthrough = self.tandem(&origin, "plain", &target, "off")?;
        target.stop(Stop::Kill)?;
        for clients in [1, 8] {
            let wrapped = [[WRAPPED_SIMPLE, AT_ONCE_SIMPLE], [WRAPPED_PREPARED, AT_ONCE_PREPARED]];
            for (protocol, [wrapped, at_once]) in PROTOCOLS.into_iter().zip(wrapped) {
                let arms = [
                    Arm { script: Some(INSERT), ..arm("mirroring", &mirroring, "app") },
                    Arm { script: Some(wrapped), ..arm("wrapped", &passthrough, "plain") },
                    Arm { script: Some(at_once), ..arm("at once", &passthrough, "plain") },
                    Arm { script: Some(INSERT_RETURNING), ..arm("returning", &passthrough, "plain") },
                    Arm { script: Some(INSERT), ..arm("passthrough", &passthrough, "plain") },
                ];
                let samples = self.rounds(&arms, &self.load(Script::Own(INSERT), protocol, clients))?;
                let what = format!("insert, serial key, {protocol}, {clients} clients");
                self.compared.rate(&what, &samples[0], "the client wraps it", &samples[1], Goal::AtLeast(0.9));
                self.compared.rate(&what, &samples[0], "the same in one flight", &samples[2], Goal::None);
                self.compared.rate(&what, &samples[0], "the client only asks for the key", &samples[3], Goal::None);
                self.compared.rate(&what, &samples[0], "passthrough", &samples[4], Goal::None);
            }
        }
        Ok(())
    }

    fn wide(&self) -> Result<()> {
        let (origin, mut target) = self.sides()?;
        self.on_both(&origin, &target, WIDE)?;
        let mirroring = RefCell::new(self.tandem(&origin, "app", &target, "async")?);
        let passthrough = self.tandem(&origin, "plain", &target, "off")?;
        let settle = || mirroring.borrow_mut().settle();
        let mut arms = [arm("mirroring", &mirroring.borrow(), "app"), arm("passthrough", &passthrough, "plain")];
        for state in ["live", "stopped"] {
            arms[0].settle = if state == "live" { Some(&settle) } else { None };
            if state == "stopped" {
                target.stop(Stop::Kill)?;
            }
            let samples = self.rounds(&arms, &self.load(Script::Own(UPDATE_WIDE), "prepared", 8))?;
            let what = format!("update beside 100 KB, target {state}");
            self.compared.rate(&what, &samples[0], "passthrough", &samples[1], Goal::AtLeast(0.95));
        }
        Ok(())
    }

    fn idle(&self) -> Result<()> {
        let (origin, target) = self.sides()?;
        let mut crowd = Crowd::new(origin.port())?;
        let stub = format!("postgres://postgres@127.0.0.1:{}/app", crowd.port);
        let tandem = Proxy::tandem(&self.sandbox, &stub, &target.url("app"), "[log]\nlevel = \"warn\"")?;
        crowd.join(tandem.port, "app", IDLE_FIRST)?;
        crowd.ask("SELECT 1")?;
        let before = memory(tandem.pid())?;
        let line = |what: &str| -> Result<()> {
            let grown = memory(tandem.pid())?.saturating_sub(before) as f64 / 1024.0 / self.args.idle as f64;
            self.compared.memory(&format!("memory of each of {} {what}", self.args.idle), grown, IDLE_KB);
            Ok(())
        };
        crowd.join(tandem.port, "app", self.args.idle)?;
        line("idle clients")?;
        crowd.ask("SELECT 1")?;
        line("clients after a query")
    }

    /// The same SQL in `app` of both, and a copy of it in `plain` of the origin.
    fn on_both(&self, origin: &Postgres, target: &Postgres, text: &str) -> Result<()> {
        psql(origin, "app", text)?;
        psql(target, "app", text)?;
        self.copy_database(origin)
    }

    /// An old and a new server with the same rows.
    fn sides(&self) -> Result<(Postgres, Postgres)> {
        Ok((self.server(&self.old, "origin", &[])?, self.server(&self.new, "target", &[])?))
    }

    /// A server with the rows of pgbench in the database `app`, that nothing disturbs meanwhile.
    fn server(&self, installation: &Installation, name: &str, more: &[&str]) -> Result<Postgres> {
        let config = ["max_wal_size = 8GB", "checkpoint_timeout = 1h", "autovacuum = off", "shared_buffers = 256MB"];
        let config = config.iter().chain(more).map(|line| (*line).to_owned()).collect();
        let server = Postgres::start_new(&self.sandbox, installation, name, &Options { config, ..Options::default() })?;
        psql(&server, "postgres", "CREATE DATABASE app")?;
        self.pgbench.fill(&server, "app", SCALE)?;
        Ok(server)
    }

    /// `plain`, which is `app`.
    fn copy_database(&self, server: &Postgres) -> Result<()> {
        psql(server, "postgres", "CREATE DATABASE plain TEMPLATE app").map(drop)
    }

    fn tandem(&self, origin: &Postgres, database: &str, target: &Postgres, mode: &str) -> Result<Proxy> {
        let more = format!("[mirror]\nmode = \"{mode}\"\n[log]\nlevel = \"warn\"");
        Proxy::tandem(&self.sandbox, &origin.url(database), &target.url("app"), &more)
    }

    fn pgbouncer(&self, server: &Postgres) -> Result<Option<Proxy>> {
        let bouncer = Proxy::pgbouncer(&self.sandbox, server)?;
        if bouncer.is_none() {
            self.compared.note(&Proxy::no_pgbouncer());
        }
        Ok(bouncer)
    }

    fn load<'l>(&self, script: Script<'l>, protocol: &'l str, clients: u32) -> Load<'l> {
        Load { script, protocol, clients, seconds: self.args.seconds, each: false, rate: None }
    }

    /// All arms in turns, there and back, after one turn that does not count.
    fn rounds(&self, arms: &[Arm<'_>], load: &Load<'_>) -> Result<Vec<Samples>> {
        for arm in arms {
            self.turn(arm, &Load { seconds: 1, ..*load }, &mut Samples::default())?;
        }
        in_turns(arms.len(), self.args.rounds, |at, samples| {
            self.turn(&arms[at], load, samples).with_context(|| arms[at].name)
        })
    }

    fn turn(&self, arm: &Arm<'_>, load: &Load<'_>, samples: &mut Samples) -> Result<()> {
        let used = || arm.pid.map_or(Ok(Duration::ZERO), cpu);
        let before = used()?;
        let script = arm.script.map_or(load.script, Script::Own);
        let measured = self.pgbench.run(arm.port, arm.database, &Load { script, ..*load })?;
        samples.per_second.push(measured.per_second);
        samples.latency_us.push(measured.latency_us);
        samples.p99_us.push(measured.p99_us);
        samples.requests += measured.transactions;
        let began = Instant::now();
        if let Some(settle) = arm.settle {
            settle()?;
        }
        samples.settled_ms.push(began.elapsed().as_secs_f64() * 1e3);
        samples.cpu += used()? - before;
        Ok(())
    }

    fn cpu(&self, what: &str, tandem: &Samples, other: &str, others: &Samples, goal: Goal) {
        let (tandem, others) = (tandem.cpu_us().unwrap_or(f64::NAN), others.cpu_us().unwrap_or(f64::NAN));
        let ratio = tandem / others;
        self.compared.line(Line {
            unit: "us",
            tandem,
            others,
            ratio,
            goal,
            ..self.compared.empty(&format!("{what}, proxy's CPU"), other)
        });
    }
}

fn arm<'a>(name: &'static str, proxy: &Proxy, database: &'static str) -> Arm<'a> {
    Arm { name, port: proxy.port, database, pid: Some(proxy.pid()), script: None, settle: None }
}

fn direct<'a>(server: &Postgres, database: &'static str) -> Arm<'a> {
    Arm { name: "direct", port: server.port(), database, pid: None, script: None, settle: None }
}

/// Wait until the subscriber has applied what is committed now.
fn wait_replicated(published: &Postgres) -> Result<()> {
    let now = psql(published, "app", "SELECT pg_current_wal_lsn()")?;
    let applied = format!("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{now}'");
    for _ in 0..10_000 {
        if psql(published, "app", &applied)? == "1" {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("logical replication does not catch up")
}

/// Both sides have the same rows.
fn compare(origin: &Postgres, target: &Postgres) -> Result<()> {
    for table in TABLES {
        let digest = format!("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t");
        let (ours, theirs) = (psql(origin, "app", &digest)?, psql(target, "app", &digest)?);
        ensure!(ours == theirs, "{table} differs: {ours} on the origin, {theirs} on the target");
    }
    Ok(())
}
