//! Clients of Cassandra as users have them: one journey with each driver (`tests/journeys`), direct on an old node, and through a real
//! `tandem run` with mirroring on. Both print the same observations, and the target ends with the rows of the origin. One travels on a new node too.

use std::net::SocketAddrV4;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::journeys::{driver, said, same, script};
use crate::support::cassandra::{pair, pair_with};
use crate::support::cql::Cql;
use crate::support::tandem::Tandem;

/// A driver in one of its ways to speak.
struct Way {
    /// Of the protocol.
    version: u8,
    /// Or none: empty.
    compression: &'static str,
}

/// Run it to its end; it must succeed.
async fn travel(mut command: Command, keyspace: &str) -> Vec<String> {
    command.stdin(Stdio::null());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await;
    let output: Output =
        output.unwrap_or_else(|_| panic!("the journey in {keyspace} hangs")).expect("the program of the journey runs");
    // A guardrail of the node counts the tables of all tests.
    let seen = said(&output).into_iter().filter(|line| !line.contains("Cluster already contains"));
    let lines: Vec<String> = seen.map(|line| line.replace(keyspace, "KEYSPACE")).collect();
    assert!(output.status.success(), "{keyspace}: {lines:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines.len() > 25, "{keyspace} saw too little: {lines:#?}");
    lines
}

/// Nothing is set aside, and both of the shared nodes hold the same tables with the same rows, some at least.
pub(crate) async fn assert_mirrored(tandem: &Tandem, keyspace: &str) {
    tandem.settled().await;
    let [origin, target] = pair().map(|node| rows(&mut Cql::of(node, keyspace), keyspace));
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
        let mut command = (self.command)();
        command.envs([("CQL_HOST", address.ip().to_string()), ("CQL_PORT", address.port().to_string())]);
        command.env("CQL_KEYSPACE", keyspace).env("CQL_VERSION", self.way.version.to_string());
        command.env("CQL_COMPRESSION", self.way.compression).env("TZ", "UTC");
        travel(command, keyspace).await
    }

    /// Direct, then through tandem.
    async fn through_tandem(&self) {
        let [old, _] = pair_with(self.keyspace);
        let direct = self.at(old.address(), self.keyspace).await;
        let keyspace = format!("{}t", self.keyspace);
        let [origin, target] = pair_with(&keyspace).map(|node| node.address());
        let tandem = Tandem::start_cql(origin, target, "").await;
        let through = self.at(SocketAddrV4::new([127, 0, 0, 1].into(), tandem.port), &keyspace).await;
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
    Journey { keyspace: "python_3", way, command: python }.through_tandem().await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_in_v4_with_lz4() {
    let way = Way { version: 4, compression: "lz4" };
    Journey { keyspace: "python_4", way, command: python }.through_tandem().await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_in_v5_with_lz4() {
    let way = Way { version: 5, compression: "lz4" };
    Journey { keyspace: "python_5", way, command: python }.through_tandem().await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_no_difference_between_nodes() {
    let way = Way { version: 5, compression: "" };
    Journey { keyspace: "python_nodes", way, command: python }.old_and_new().await;
}

#[tokio::test]
async fn cassandra_driver_of_node_sees_no_difference() {
    let way = Way { version: 4, compression: "" };
    Journey { keyspace: "node_4", way, command: node }.through_tandem().await;
}

#[tokio::test]
async fn gocql_sees_no_difference_with_snappy() {
    let way = Way { version: 4, compression: "snappy" };
    Journey { keyspace: "go_4", way, command: go }.through_tandem().await;
}

#[tokio::test]
async fn the_driver_of_java_sees_no_difference_in_v5_with_lz4() {
    let way = Way { version: 5, compression: "lz4" };
    Journey { keyspace: "java_5", way, command: java }.through_tandem().await;
}

#[tokio::test]
async fn cqlsh_sees_no_difference() {
    let way = Way { version: 5, compression: "" };
    Journey { keyspace: "cqlsh_5", way, command: cqlsh }.through_tandem().await;
}
