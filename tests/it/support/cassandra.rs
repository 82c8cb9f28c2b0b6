//! Real Cassandra nodes for tests. One of each version is shared by all tests of the binary, for a start costs seconds: each test has
//! a keyspace of its own there, and never stops them. Who must stop, freeze or configure starts a cluster of its own.

use std::sync::OnceLock;
use std::thread;

use tandem::sandbox::Sandbox;
use tandem::sandbox::cassandra::distribution::oldest_and_newest;
use tandem::sandbox::cassandra::{Cluster, Distribution, Node, Options};

use super::cql::Cql;

/// The oldest version there is (4.1) and the newest (5.0).
pub(crate) fn versions() -> (Distribution, Distribution) {
    oldest_and_newest().expect("Cassandra is installed: scripts/setup --cql")
}

/// A cluster that only the caller uses.
pub(crate) fn cluster(distribution: &Distribution, nodes: usize, options: &Options) -> Cluster {
    let sandbox = Sandbox::new(false).expect("a temp folder");
    Cluster::start(&sandbox, distribution, nodes, options).expect("a cluster")
}

/// The shared nodes: old, new. They end with this process.
pub(crate) fn pair() -> [&'static Node; 2] {
    static PAIR: OnceLock<[Cluster; 2]> = OnceLock::new();
    let clusters = PAIR.get_or_init(|| {
        let (old, new) = versions();
        // They hold the tables and the prepared statements of all tests. What does not fit a node's cache it forgets as soon as
        // it has prepared it, and drivers prepare a statement again but once.
        let config = vec!["prepared_statements_cache_size: 128MiB".to_owned()];
        let options = &Options { heap_mb: Some(1_024), config, ..Options::default() };
        thread::scope(|scope| {
            let new = scope.spawn(move || cluster(&new, 1, options));
            [cluster(&old, 1, options), new.join().expect("a cluster")]
        })
    });
    [&clusters[0].nodes[0], &clusters[1].nodes[0]]
}

/// The shared nodes, each with an empty keyspace of this name.
pub(crate) fn pair_with(keyspace: &str) -> [&'static Node; 2] {
    let pair = pair();
    pair.iter().for_each(|node| make_keyspace(node, keyspace, 1));
    pair
}

/// One v4 client of each shared node, in an empty keyspace of this name.
pub(crate) fn clients(keyspace: &str) -> [Cql; 2] {
    pair_with(keyspace).map(|node| Cql::of(node, keyspace))
}

/// An empty keyspace.
pub(crate) fn make_keyspace(node: &Node, keyspace: &str, replicas: usize) {
    let mut cql = Cql::of(node, "system");
    let replication = format!("{{'class': 'SimpleStrategy', 'replication_factor': {replicas}}}");
    cql.define(&format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"));
}
