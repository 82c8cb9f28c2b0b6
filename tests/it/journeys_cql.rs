//! Clients of Cassandra as users have them: one journey with each driver (`tests/journeys`), on an old node and on a new one. Both
//! print the same observations.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::journeys::{driver, said, same, script};
use crate::support::cassandra::pair_with;

/// A driver in one of its ways to speak.
struct Way {
    /// Of the protocol.
    version: u8,
    /// Or none: empty.
    compression: &'static str,
}

/// Run it to its end; it must succeed.
async fn travel(mut command: Command, name: &str) -> Vec<String> {
    command.stdin(Stdio::null());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await;
    let output: Output = output.unwrap_or_else(|_| panic!("{name} hangs")).expect("the program of the journey runs");
    let lines = said(&output);
    assert!(output.status.success(), "{name}: {lines:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines.len() > 25, "{name} saw too little: {lines:#?}");
    lines
}

/// On the old node, then on the new one.
async fn journey(keyspace: &str, way: Way, command: impl Fn() -> Command) {
    let nodes = pair_with(keyspace).map(|node| node.address());
    let seen = nodes.map(|address| {
        let mut command = command();
        command.envs([("CQL_HOST", address.ip().to_string()), ("CQL_PORT", address.port().to_string())]);
        command.env("CQL_KEYSPACE", keyspace).env("CQL_VERSION", way.version.to_string());
        command.env("CQL_COMPRESSION", way.compression).env("TZ", "UTC");
        travel(command, keyspace)
    });
    let [old, new] = seen;
    same(&old.await, &new.await);
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

fn go() -> Command {
    Command::new(driver("gocql", "journey"))
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_the_same_in_v3() {
    journey("journey_python_3", Way { version: 3, compression: "" }, python).await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_the_same_in_v4_with_lz4() {
    journey("journey_python_4", Way { version: 4, compression: "lz4" }, python).await;
}

#[tokio::test]
async fn cassandra_driver_of_python_sees_the_same_in_v5_with_lz4() {
    journey("journey_python_5", Way { version: 5, compression: "lz4" }, python).await;
}

#[tokio::test]
async fn cassandra_driver_of_node_sees_the_same() {
    journey("journey_node", Way { version: 4, compression: "" }, node).await;
}

#[tokio::test]
async fn gocql_sees_the_same_with_snappy() {
    journey("journey_go", Way { version: 4, compression: "snappy" }, go).await;
}
