//! Clients of Cassandra as users have them: one journey with each driver (`tests/journeys`), direct on an old node, and through a real
//! `tandem run` with mirroring on. Both print the same observations, and the target ends with the rows of the origin. One travels on a new node too.

use std::net::SocketAddrV4;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::cql_history::walk;
use crate::cql_logins::{Guarded, ROOT};
use crate::journeys::{driver, said, same, script};
use crate::support::cassandra::{pair, pair_with};
use crate::support::cql::Cql;
use crate::support::tandem::Tandem;

/// On a busy machine the mirror is late while clients go on.
pub(crate) const PATIENT: &str = "[cutover]\nmax_lag = \"2s\"\nmax_hold = \"15s\"";

/// On a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(300);

/// A driver in one of its ways to speak.
struct Way {
    /// Of the protocol.
    version: u8,
    /// Or none: empty.
    compression: &'static str,
}

/// Run it to its end; it must succeed. Where it takes turns, the sides are switched, there and back, while it is under way.
async fn travel(mut command: Command, keyspace: &str, switched: Option<&Tandem>) -> Vec<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if switched.is_some() {
        command.env("CQL_TURNS", "1");
    }
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    let mut child = child.expect("the program of the journey runs");
    let mut turns = switched.map(Turns::of);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = tokio::time::timeout(PATIENCE, async {
        let mut errors = child.stderr.take().expect("piped above");
        let (_, errors) = tokio::join!(taking(&mut child, &mut turns, &mut stdout), errors.read_to_end(&mut stderr));
        errors.expect("bytes");
        child.wait().await.expect("it ends")
    });
    let status = ended.await.unwrap_or_else(|_| {
        let seen = String::from_utf8_lossy(&stdout);
        panic!("the journey in {keyspace} hangs behind\n{seen}\n{}", switched.map(Tandem::log).unwrap_or_default())
    });
    let output = Output { status, stdout, stderr };
    // A guardrail of the node counts the tables of all tests.
    let seen = said(&output).into_iter().filter(|line| !line.contains("Cluster already contains"));
    let lines: Vec<String> = seen.map(|line| line.replace(keyspace, "KEYSPACE")).collect();
    assert!(output.status.success(), "{keyspace}: {lines:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines.len() > 25, "{keyspace} saw too little: {lines:#?}");
    turns.iter().for_each(Turns::assert_taken);
    lines
}

/// What it prints, but for its turns, which are given to it.
async fn taking(child: &mut tokio::process::Child, turns: &mut Option<Turns<'_>>, seen: &mut Vec<u8>) {
    let mut input = child.stdin.take().expect("piped above");
    let mut lines = BufReader::new(child.stdout.take().expect("piped above")).lines();
    while let Some(line) = lines.next_line().await.expect("text") {
        if line != "turn" {
            seen.extend_from_slice(line.as_bytes());
            seen.push(b'\n');
            continue;
        }
        turns.as_mut().expect("only then it takes turns").next().await;
        input.write_all(b"\n").await.expect("it waits");
    }
}

/// What is done while a driver is under way: a switch, the way back, and a last look at how many connections it ever made.
pub(crate) struct Turns<'a> {
    tandem: &'a Tandem,
    taken: usize,
    connections: u64,
}

impl Turns<'_> {
    pub(crate) fn of(tandem: &Tandem) -> Turns<'_> {
        Turns { tandem, taken: 0, connections: 0 }
    }

    pub(crate) async fn next(&mut self) {
        let connections = self.tandem.count(r#"tandem_clients_total{wire="cql"}"#).await;
        match self.taken {
            0 => self.connections = connections,
            _ => assert_eq!(connections, self.connections, "it had to connect again\n{}", self.tandem.log()),
        }
        if let Some(side) = ["target", "origin"].get(self.taken) {
            let is_close =
                |status: &serde_json::Value| status["mirror"]["lag_seconds"].as_f64().is_some_and(|lag| lag < 1.0);
            self.tandem.status_is("close behind", is_close).await;
            self.tandem.switch_to(side).await;
        }
        self.taken += 1;
    }

    pub(crate) fn assert_taken(&self) {
        assert_eq!(self.taken, 3, "it did not take all its turns");
    }
}

/// Nothing is set aside, and both of the shared nodes hold the same tables with the same rows, some at least.
pub(crate) async fn assert_mirrored(tandem: &Tandem, keyspace: &str) {
    mirrored(tandem, pair().map(|node| Cql::of(node, keyspace)), keyspace).await;
}

async fn mirrored(tandem: &Tandem, sides: [Cql; 2], keyspace: &str) {
    tandem.settled().await;
    let [origin, target] = sides.map(|mut cql| rows(&mut cql, keyspace));
    assert!(origin.iter().any(|(_, rows)| !rows.is_empty()), "the journey left nothing");
    for (origin, target) in origin.iter().zip(&target) {
        assert_eq!(origin, target, "origin (left) and target\n{}", tandem.log());
    }
    assert_eq!(origin.len(), target.len());
}

/// The tables of a keyspace, and their rows.
fn rows(cql: &mut Cql, keyspace: &str) -> Vec<(String, Vec<String>)> {
    let tables = cql.rows(&format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'"));
    let rows = |table: String| {
        let mut rows = cql.rows(&format!("SELECT JSON * FROM {table}"));
        rows.sort();
        (table, rows)
    };
    tables.into_iter().map(rows).collect()
}

/// How to travel.
struct Journey<F> {
    /// Of its own; through tandem with a letter more.
    keyspace: &'static str,
    way: Way,
    command: F,
}

impl<F: Fn() -> Command> Journey<F> {
    async fn at(&self, address: SocketAddrV4, keyspace: &str) -> Vec<String> {
        self.travel((self.command)(), address, keyspace, None).await
    }

    async fn travel(
        &self,
        mut command: Command,
        address: SocketAddrV4,
        keyspace: &str,
        switched: Option<&Tandem>,
    ) -> Vec<String> {
        command.envs([("CQL_HOST", address.ip().to_string()), ("CQL_PORT", address.port().to_string())]);
        command.env("CQL_KEYSPACE", keyspace).env("CQL_VERSION", self.way.version.to_string());
        command.env("CQL_COMPRESSION", self.way.compression).env("TZ", "UTC");
        travel(command, keyspace, switched).await
    }

    /// Direct, where nobody asks who it is; then through tandem over TLS, logged in, between guarded nodes.
    async fn guarded(&self, is_switched: bool) {
        let [old, _] = pair_with(self.keyspace);
        let direct = self.at(old.address(), self.keyspace).await;
        let keyspace = format!("{}t", self.keyspace);
        let guarded = Guarded::start(&keyspace).await;
        let mut command = (self.command)();
        command.env("CQL_USER", ROOT.0).env("CQL_PASSWORD", ROOT.1).env("CQL_CA", &guarded.ca);
        let switched = is_switched.then_some(&guarded.tandem);
        same(&direct, &self.travel(command, guarded.tandem.address(), &keyspace, switched).await);
        mirrored(&guarded.tandem, guarded.clients(&keyspace), &keyspace).await;
    }

    /// Direct, then through tandem.
    async fn through_tandem(&self, is_switched: bool) {
        let [old, _] = pair_with(self.keyspace);
        let direct = self.at(old.address(), self.keyspace).await;
        let keyspace = format!("{}t", self.keyspace);
        let [origin, target] = pair_with(&keyspace).map(|node| node.address());
        let tandem = Tandem::start_cql(origin, target, PATIENT).await;
        let switched = is_switched.then_some(&tandem);
        let through = self.travel((self.command)(), tandem.address(), &keyspace, switched).await;
        same(&direct, &through);
        assert_mirrored(&tandem, &keyspace).await;
    }

    /// On an old node, then on a new one.
    async fn old_and_new(&self) {
        let [old, new] = pair_with(self.keyspace).map(|node| node.address());
        same(&self.at(old, self.keyspace).await, &self.at(new, self.keyspace).await);
    }
}

fn python() -> Command {
    let mut command = Command::new(driver("cql-python", "bin/python"));
    driver("cql-python", "requirements.txt"); // Written last: the installation is whole.
    command.arg(script("cql-python/journey.py"));
    command
}

fn node() -> Command {
    let mut command = Command::new("node");
    let package = driver("cql-node", "node_modules/cassandra-driver");
    command.arg(script("cql-node/journey.js")).env("JOURNEY_CASSANDRA", package);
    command
}

fn cqlsh() -> Command {
    let mut command = Command::new("sh");
    driver("cql-python", "requirements.txt"); // Written last: the installation is whole.
    command.arg(script("cqlsh/journey.sh")).arg(driver("cql-python", "bin/cqlsh"));
    command
}

fn go() -> Command {
    Command::new(driver("gocql", "journey"))
}

fn java() -> Command {
    driver("cql-java", "pom.xml"); // Written last: the installation is whole.
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp"]);
    command.arg(driver("cql-java", "").join("*")).arg(script("cql-java/Journey.java"));
    command
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_in_v3() {
    let way = Way { version: 3, compression: "" };
    Journey { keyspace: "python_3", way, command: python }.through_tandem(false).await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_in_v4_with_lz4() {
    let way = Way { version: 4, compression: "lz4" };
    Journey { keyspace: "python_4", way, command: python }.through_tandem(false).await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_in_v5_with_lz4() {
    let way = Way { version: 5, compression: "lz4" };
    Journey { keyspace: "python_5", way, command: python }.through_tandem(false).await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_between_nodes() {
    let way = Way { version: 5, compression: "" };
    Journey { keyspace: "python_nodes", way, command: python }.old_and_new().await;
}

#[tokio::test]
async fn cassandra_driver_of_node_sees_no_difference() {
    let way = Way { version: 4, compression: "" };
    Journey { keyspace: "node_4", way, command: node }.through_tandem(false).await;
}

#[tokio::test]
async fn cassandra_driver_of_node_sees_no_switch_there_and_back() {
    let way = Way { version: 4, compression: "" };
    Journey { keyspace: "node_switched", way, command: node }.through_tandem(true).await;
}

#[tokio::test]
async fn gocql_sees_no_difference_with_snappy() {
    let way = Way { version: 4, compression: "snappy" };
    Journey { keyspace: "go_4", way, command: go }.through_tandem(false).await;
}

#[tokio::test]
async fn gocql_sees_no_switch_there_and_back() {
    let way = Way { version: 4, compression: "snappy" };
    Journey { keyspace: "go_switched", way, command: go }.through_tandem(true).await;
}

#[tokio::test]
async fn the_driver_of_java_sees_no_difference_in_v5_with_lz4() {
    let way = Way { version: 5, compression: "lz4" };
    Journey { keyspace: "java_5", way, command: java }.through_tandem(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cassandra_driver_of_python_sees_no_switch_there_and_back_over_tls() {
    let way = Way { version: 5, compression: "lz4" };
    Journey { keyspace: "python_tls", way, command: python }.guarded(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_of_java_sees_no_switch_there_and_back_over_tls() {
    let way = Way { version: 4, compression: "" };
    Journey { keyspace: "java_tls", way, command: java }.guarded(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gocql_sees_no_difference_over_tls() {
    let way = Way { version: 4, compression: "" };
    Journey { keyspace: "go_tls", way, command: go }.guarded(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_mirrored_and_copied_as_python_writes_them() {
    let way = Way { version: 5, compression: "" };
    let with_vectors = || {
        let mut command = python();
        command.env("CQL_VECTOR", "1");
        command
    };
    let journey = Journey { keyspace: "vectors", way, command: with_vectors };
    let [_, new] = pair_with("vectors");
    let direct = journey.at(new.address(), "vectors").await;
    let [_, origin] = pair_with("vectorst");
    let guarded = Guarded::before(origin, "vectorst").await;
    same(&direct, &journey.at(guarded.tandem.address(), "vectorst").await);
    let sides = || [Cql::of(origin, "vectorst"), Guarded::target("vectorst")];
    mirrored(&guarded.tandem, sides(), "vectorst").await;
    // As history: what the target has lost comes back, and is compared.
    Guarded::target("vectorst").run("TRUNCATE typed");
    let typed = serde_json::json!({ "tables": ["vectorst.typed"] });
    for kind in ["backfill", "verify"] {
        let report = walk(&guarded.tandem, kind, &typed).await;
        assert_eq!(report["state"], "Done", "{kind}: {report:#}\n{}", guarded.tandem.log());
    }
    mirrored(&guarded.tandem, sides(), "vectorst").await;
}

#[tokio::test]
async fn cqlsh_sees_no_difference() {
    let way = Way { version: 5, compression: "" };
    Journey { keyspace: "cqlsh_5", way, command: cqlsh }.through_tandem(false).await;
}
