//! Writes of megabytes, which Cassandra takes, are mirrored like any other.

use std::fmt::Write;
use std::time::Duration;

use md5::{Digest, Md5};
use tandem::sandbox::cassandra::Node;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Ask, Cql, Dial, Member, UNLOGGED, Value, hex};
use crate::support::tandem::Tandem;

const MB: usize = 1 << 20;

/// Bytes that no compression makes smaller.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn blob(length: usize, seed: u64) -> Value {
    Value::Is(noise(length, seed))
}

fn through(tandem: &Tandem, version: u8, lz4: bool, keyspace: &str) -> Cql {
    let dial = Dial { version, lz4, keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    let cql = Cql::dial(tandem.address(), &dial).expect("a login");
    cql.patience(Duration::from_secs(60));
    cql
}

/// What a node has, row by row: what is large by its digest.
fn contents(node: &Node, keyspace: &str, keys: i32) -> Vec<String> {
    let mut cql = Cql::of(node, keyspace);
    cql.patience(Duration::from_secs(60));
    let row = |key| {
        cql.rows(&format!("SELECT writetime(v), v, w FROM large WHERE k = {key}"))
            .iter()
            .map(|row| format!("{key} {} {}", row.len(), hex(&Md5::digest(row))))
            .collect::<Vec<_>>()
    };
    (0..keys).flat_map(row).collect()
}

async fn stage(keyspace: &'static str) -> ([&'static Node; 2], Tandem) {
    let nodes = pair_with(keyspace);
    for node in nodes {
        Cql::of(node, keyspace).define("CREATE TABLE large (k int PRIMARY KEY, v blob, w blob)");
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "[mirror]\nself_repair = false").await;
    (nodes, tandem)
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_megabytes_are_mirrored_and_leave_nothing_dirty() {
    let (nodes, tandem) = stage("large_writes").await;
    let mut key = 0;
    let mut keys = |count: i32| {
        key += count;
        key - count
    };
    for (version, lz4) in [(4, false), (4, true), (5, false), (5, true)] {
        let mut cql = through(&tandem, version, lz4, "large_writes");
        // As text; bound to a text; prepared; in a batch.
        let mut text = format!("INSERT INTO large (k, v) VALUES ({}, 0x", keys(1));
        noise(MB + MB / 2, 1).iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string"));
        text.push(')');
        cql.query(&text, &Ask::default()).unwrap_or_else(|failure| panic!("v{version} text: {failure:?}"));
        const INSERT: &str = "INSERT INTO large (k, v) VALUES (?, ?)";
        let values = [keys(1).into(), blob(2 * MB, 2)];
        let ask = Ask { values: &values, ..Ask::default() };
        cql.query(INSERT, &ask).unwrap_or_else(|failure| panic!("v{version} bound: {failure:?}"));
        let insert = cql.prepare(INSERT, None).expect("prepared");
        for size in [2 * MB, 3 * MB] {
            let values = [keys(1).into(), blob(size, 3)];
            let ask = Ask { values: &values, ..Ask::default() };
            let done = cql.execute(&insert.id, &insert.metadata_id, &ask);
            done.unwrap_or_else(|failure| panic!("v{version} prepared: {failure:?}"));
        }
        // Of one partition: over several, servers refuse batches of this size.
        let both = keys(1);
        let (first, second) = ([both.into(), blob(2 * MB, 4)], [both.into(), blob(MB, 5)]);
        let other = "INSERT INTO large (k, w) VALUES (?, ?)";
        let members = [Member::Prepared(&insert.id, &first), Member::Text(other, &second)];
        let done = cql.batch(UNLOGGED, &members, &Ask::default());
        done.unwrap_or_else(|failure| panic!("v{version} batch: {failure:?}"));
    }
    tandem.nothing_set_aside().await;
    let origin = contents(nodes[0], "large_writes", key);
    assert_eq!(origin.len(), 20);
    assert_eq!(contents(nodes[1], "large_writes", key), origin, "{}", tandem.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_writes_of_several_clients_at_once_leave_nothing_dirty() {
    let (nodes, tandem) = stage("large_burst").await;
    std::thread::scope(|scope| {
        for client in 0..8 {
            let tandem = &tandem;
            scope.spawn(move || {
                let mut cql = through(tandem, 4, false, "large_burst");
                let insert = cql.prepare("INSERT INTO large (k, v) VALUES (?, ?)", None).expect("prepared");
                for round in 0..3 {
                    let values = [(client * 3 + round).into(), blob(3 * MB, client as u64 + 1)];
                    let ask = Ask { values: &values, ..Ask::default() };
                    cql.execute(&insert.id, &insert.metadata_id, &ask).expect("executed");
                }
            });
        }
    });
    tandem.nothing_set_aside().await;
    let origin = contents(nodes[0], "large_burst", 24);
    assert_eq!(origin.len(), 24);
    assert_eq!(contents(nodes[1], "large_burst", 24), origin, "{}", tandem.log());
}
