//! A cluster of two datacenters: only one of them is used, and the other one is in nobody's way.

use std::time::Duration;

use tandem::sandbox::cassandra::{Node, Options, Stop};

use crate::support::cassandra::{cluster, make_keyspace, pair, versions};
use crate::support::cql::{Cql, Dial};
use crate::support::tandem::{Tandem, cli};
use crate::support::until;

const KEYSPACE: &str = "apart";

fn rows(node: &Node) -> Vec<String> {
    let mut rows = Cql::of(node, KEYSPACE).rows("SELECT k, v, writetime(v) FROM t");
    rows.sort_unstable();
    rows
}

/// How many connections a node has, that of the question included.
fn connections(node: &Node) -> usize {
    Cql::of(node, "system").rows("SELECT port FROM system_views.clients").len()
}

/// The error of a side, while it does not answer.
fn error<'s>(status: &'s serde_json::Value, side: &str) -> &'s str {
    status["sides"][side]["error"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_is_not_left_for_another_and_waits_for_none_that_is_dead() {
    let options = Options { datacenters: vec!["east", "west"], ..Options::default() };
    let mut target = cluster(&versions().1, 2, &options);
    let origin = pair()[0];
    make_keyspace(origin, KEYSPACE, 1);
    let replication = "{'class': 'NetworkTopologyStrategy', 'east': 1}";
    Cql::of(&target.nodes[0], "system").define(&format!("CREATE KEYSPACE {KEYSPACE} WITH replication = {replication}"));
    let [east, west] = [0, 1].map(|node| target.nodes[node].address());
    let from = format!("cql://{}", origin.address());
    let to = |datacenter: &str| format!("cql://{west},{east}?datacenter={datacenter}");
    let mut tandem = Tandem::start_listening("cql", "", &from, &to("east"), "").await;
    let dial = Dial { keyspace: Some(KEYSPACE.to_owned()), ..Dial::default() };
    let mut cql = Cql::dial(tandem.address(), &dial).expect("a login");
    cql.run("CREATE TABLE t (k int PRIMARY KEY, v int)");
    cql.run("INSERT INTO t (k, v) VALUES (1, 1)");
    tandem.settled().await;
    assert_eq!(rows(&target.nodes[0]), rows(origin));
    // It may have been asked whether it is up, where the new table was long on its way.
    let left = until(async || (connections(&target.nodes[1]) == 1).then_some(())).await;
    left.expect("the contact point that is elsewhere is left again");

    // It dies while nobody listens, and with the schema of before.
    tandem.terminate();
    target.nodes[1].stop(Stop::Kill).expect("it dies");
    tandem.launch().await;
    let mut cql = Cql::dial(tandem.address(), &dial).expect("a login");
    cql.run("ALTER TABLE t ADD w int");
    cql.run("INSERT INTO t (k, v, w) VALUES (2, 2, 2)");
    tandem.settled().await;
    assert_eq!(rows(&target.nodes[0]), rows(origin));

    target.nodes[1].start().expect("it comes back");
    target.settle().expect("both are up");
    target.nodes[0].stop(Stop::Kill).expect("it dies");
    let says = "no node of datacenter east can be reached: cannot connect to ";
    tandem.status_is(says, |status| error(status, "target").starts_with(says)).await;
    cql.patience(Duration::from_secs(60));
    cql.run("INSERT INTO t (k, v) VALUES (3, 3)");
    target.nodes[0].start().expect("it comes back");
    tandem.settled().await;
    assert_eq!(rows(&target.nodes[0]), rows(origin));

    // A name that is none of the cluster's, of a side that may be away at the start.
    tandem.terminate();
    let config = tandem.dir().join("proxy.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    std::fs::write(&config, text.replace(&to("east"), &to("eats"))).expect("written");
    let refusal = "the cluster has no datacenter eats; it has: east, west";
    let checked = cli(&["check", "--config", &config.display().to_string()]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(3), "{said}");
    assert!(said.contains(refusal), "{said}");
    tandem.launch().await;
    tandem.status_is(refusal, |status| error(status, "target").ends_with(refusal)).await;
}
