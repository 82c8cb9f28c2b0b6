//! The primary is switched there and back under the pools of real drivers, all at once, again and again. Each program
//! (`tests/journeys`) keeps a ledger of what it was told; in the end both sides hold exactly that, and no program saw an
//! error, a stale read, a lost setting or a lost connection. `TANDEM_SWITCHES=100` switches more often.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::tandem::sandbox::{Options, Sandbox, binaries};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinHandle;

use crate::journeys::{PASSWORD, java, node, python};
use crate::support::stage::Stage;
use crate::support::tandem::Tandem;
use crate::support::{load, rows, server_with, sql};

/// Beside the tables of the Rust load: rows with numbers of the server's, rows that only grow, rows that everybody writes.
const SCHEMA: &str = "
CREATE TABLE entries (id bigserial PRIMARY KEY, worker text NOT NULL, seq int NOT NULL);
CREATE TABLE versions (worker text, row int, version bigint NOT NULL, PRIMARY KEY (worker, row));
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, moves bigint NOT NULL);
INSERT INTO accounts SELECT id, 0, 0 FROM generate_series(0, 7) AS g (id);";
const TABLES: &[&str] = &["entries", "versions", "accounts"];

/// The programs log in as this user, by SCRAM: tandem sees no password of theirs, and has it from a file for the day on which
/// their sessions move.
const USER: &str = "app";
const ROLE: &str = "CREATE ROLE app LOGIN PASSWORD 'open sesame'; GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;";
const HBA: &str = "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n";

/// Workers of each program, and connections of its pool.
const WORKERS: usize = 3;
/// Units of each program between two switches, at least.
const UNITS: u64 = 20;
/// A program that makes no progress for so long is hindered.
const PATIENCE: Duration = Duration::from_secs(60);

fn switches() -> usize {
    std::env::var("TANDEM_SWITCHES").map_or(20, |switches| switches.parse().expect("TANDEM_SWITCHES is a number"))
}

/// A load in another language, under way. It ends when its input does, also by the end of the test.
struct Program {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    units: Arc<AtomicU64>,
    said: JoinHandle<Value>,
    complaints: JoinHandle<String>,
}

impl Program {
    fn start(name: &'static str, mut command: Command, stage: &Stage) -> Program {
        command.arg(WORKERS.to_string()).env("PGPORT", stage.tandem.port.to_string()).envs([
            ("PGHOST", "127.0.0.1"),
            ("PGUSER", USER),
            ("PGPASSWORD", PASSWORD),
            ("PGDATABASE", "postgres"),
            ("PGSSLMODE", "disable"),
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("the program runs");
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut stderr = child.stderr.take().expect("piped");
        let units = Arc::new(AtomicU64::new(0));
        let done = units.clone();
        // Its progress line by line, then its ledger.
        let said = tokio::spawn(async move {
            let mut ledger = Value::Null;
            while let Ok(Some(line)) = output.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(Value::Number(count)) => done.store(count.as_u64().unwrap_or(0), Relaxed),
                    Ok(told) => ledger = told,
                    Err(error) => panic!("{name} said {line}: {error}"),
                }
            }
            ledger
        });
        let complaints = tokio::spawn(async move {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text).await;
            text
        });
        Program { name, child, input, units, said, complaints }
    }

    /// Returns when it has done so many units more.
    async fn more(&self, units: u64, stage: &Stage) {
        let goal = self.units.load(Relaxed) + units;
        let reached = async {
            while self.units.load(Relaxed) < goal && !self.said.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, reached).await;
        assert!(done.is_ok() && !self.said.is_finished(), "{} is hindered\n{}", self.name, stage.tandem.log());
    }

    /// It finishes what it is at; its ledger.
    async fn stop(mut self, stage: &Stage) -> Value {
        drop(self.input);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let ledger = self.said.await.expect("it speaks JSON");
        let complaints = self.complaints.await.expect("read");
        let ended = ended.unwrap_or_else(|_| panic!("{} hangs\n{complaints}\n{}", self.name, stage.tandem.log()));
        assert!(ended.expect("it ran").success(), "{}: {complaints}", self.name);
        let clean = json!({"errors": [], "stale": [], "settings": [], "unheard": [], "heard_twice": [], "dropped": []});
        assert_eq!(ledger["wrong"], clean, "{}\n{complaints}\n{}", self.name, stage.tandem.log());
        ledger
    }
}

/// Two servers, tandem, and the user's password where tandem finds it.
async fn stage(files: &Sandbox) -> Stage {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let options = Options { hba: Some(HBA.to_owned()), ..Options::default() };
    let (origin, target) = (server_with("origin", &old, &options), server_with("target", &new, &options));
    for server in [&origin, &target] {
        sql(&server.url("postgres"), &format!("{}{SCHEMA}{ROLE}", load::SCHEMA)).await;
    }
    let file = files.dir().join("password");
    std::fs::write(&file, PASSWORD).expect("written");
    let users = format!("[[users]]\nname = \"{USER}\"\npassword_file = \"{}\"\n", file.display());
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), &users).await;
    Stage { tandem, origin, target }
}

fn programs(stage: &Stage) -> Vec<Program> {
    let loads = [
        ("psycopg", python("load_psycopg.py")),
        ("asyncpg", python("load_asyncpg.py")),
        ("node-postgres", node("load.js")),
        ("pgjdbc", java("Load.java")),
    ];
    loads.into_iter().map(|(name, command)| Program::start(name, command, stage)).collect()
}

/// Switch; a mirror that is behind is waited for. How long clients were held, in microseconds.
async fn switch(stage: &Stage, to: &str) -> u64 {
    for _ in 0..200 {
        let ended = stage.switch(to).await;
        if ended["end"] == "switched" {
            return ended["held_us"].as_u64().expect("a number");
        }
        let findings = ended["findings"].as_array().expect("a list");
        let mut errors = findings.iter().filter(|finding| finding["severity"] == "error");
        let behind = ended["end"] == "refused" && errors.all(|finding| finding["name"] == "mirror_behind");
        if !behind {
            let dirty = stage.tandem.client().get("/v1/dirty").await;
            panic!("{ended:#}\n{dirty:?}\n{}", stage.tandem.log());
        }
    }
    panic!("the mirror is always behind\n{}", stage.tandem.log());
}

/// Both sides hold what all programs were told, and nothing else.
async fn assert_kept(stage: &Stage, ledgers: &[Value]) {
    let listed =
        |key: &'static str| ledgers.iter().flat_map(move |ledger| ledger[key].as_array().expect("a list").clone());
    let sorted = |mut lines: Vec<String>| {
        lines.sort_unstable();
        lines
    };
    let line = |row: Value| {
        let cells = row.as_array().expect("a row").iter();
        cells.map(|cell| cell.as_str().map_or(cell.to_string(), str::to_owned)).collect::<Vec<_>>().join("|")
    };
    let entries = sorted(listed("entries").map(line).collect());
    let versions = sorted(listed("versions").map(line).collect());
    let moves: u64 = ledgers.iter().map(|ledger| ledger["moves"].as_u64().expect("a number")).sum();
    for (side, server) in [("origin", &stage.origin), ("target", &stage.target)] {
        let url = server.url("postgres");
        assert_same(side, &entries, &sorted(rows(&url, "SELECT id, worker, seq FROM entries").await));
        assert_same(side, &versions, &sorted(rows(&url, "SELECT worker, row, version FROM versions").await));
        let sums = rows(&url, "SELECT sum(balance), sum(moves) FROM accounts").await;
        assert_eq!(sums, [format!("0|{}", 2 * moves)], "{side}");
    }
}

/// Both are sorted.
fn assert_same(side: &str, told: &[String], found: &[String]) {
    let lost: Vec<_> = told.iter().filter(|row| found.binary_search(row).is_err()).take(10).collect();
    let strange: Vec<_> = found.iter().filter(|row| told.binary_search(row).is_err()).take(10).collect();
    assert!(lost.is_empty() && strange.is_empty(), "{side} lost {lost:?} and has {strange:?}");
    assert_eq!(told.len(), found.len(), "{side} has rows twice");
}

/// So far of all values, of a hundred.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_five_drivers_do_not_notice_switches_there_and_back_promises_9_and_10() {
    let files = Sandbox::new(false).expect("a temp folder");
    let stage = stage(&files).await;
    let programs = programs(&stage);
    let rust = stage.load(WORKERS as u32);
    let mut held = Vec::new();
    for round in 0..switches() {
        for program in &programs {
            program.more(UNITS, &stage).await;
        }
        rust.more(UNITS).await;
        held.push(switch(&stage, if round % 2 == 0 { "target" } else { "origin" }).await);
    }
    for program in &programs {
        program.more(UNITS, &stage).await;
    }
    let mut ledgers = Vec::new();
    for program in programs {
        ledgers.push(program.stop(&stage).await);
    }
    let done = rust.stop().await;
    assert_eq!(done.lost, 0, "{}", stage.tandem.log());
    stage.steady().await;
    stage.assert_equal(TABLES).await;
    stage.assert_kept(&done).await;
    assert_kept(&stage, &ledgers).await;
    held.sort_unstable();
    let units: u64 = ledgers.iter().map(|ledger| ledger["units"].as_u64().expect("a number")).sum();
    eprintln!(
        "{} switches held clients for {} us (p50), {} us (p99), {} us at most; {} units acknowledged",
        held.len(),
        percentile(&held, 50),
        percentile(&held, 99),
        held.last().copied().unwrap_or_default(),
        units + done.acked
    );
}
