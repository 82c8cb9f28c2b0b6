//! The Cassandra nodes that other tests stand on, and the client that asks them.

use tandem::sandbox::Sandbox;
use tandem::sandbox::cassandra::{Cluster, Options, Stop};
use tandem::sandbox::postgres::Tls;

use crate::cql_topology::assert_answers_like;
use crate::support::cassandra::{cluster, make_keyspace, pair_with, versions};
use crate::support::cql::{ALL, Ask, Cql, Dial, trusting};

#[test]
fn every_protocol_version_is_spoken_with_and_without_compression() {
    for node in pair_with("spoken") {
        let mut first = Cql::of(node, "spoken");
        first.run("CREATE TABLE t (k int PRIMARY KEY, v text)");
        for (k, (version, lz4)) in
            [(3, false), (4, false), (5, false), (3, true), (4, true), (5, true)].into_iter().enumerate()
        {
            let mut cql = Cql::with(node, "spoken", &Dial { version, lz4, ..Dial::default() });
            // Several segments in v5, and something to compress.
            let long = "tandem".repeat(40_000);
            let values = [(k as i32).into(), long.as_str().into()];
            let insert = "INSERT INTO t (k, v) VALUES (?, ?)";
            cql.query(insert, &Ask { values: &values, ..Ask::default() }).expect("written");
            assert_eq!(cql.rows(&format!("SELECT v FROM t WHERE k = {k}")), [long], "v{version}, LZ4: {lz4}");
        }
    }
}

#[test]
fn a_node_that_was_killed_or_frozen_comes_back_with_what_it_acknowledged() {
    let mut cluster = cluster(&versions().0, 1, &Options::default());
    let address = cluster.contact();
    make_keyspace(&cluster.nodes[0], "k", 1);
    Cql::of(&cluster.nodes[0], "k").run("CREATE TABLE t (k int PRIMARY KEY)");
    for (n, how) in [Stop::Kill, Stop::Drain].into_iter().enumerate() {
        let mut cql = Cql::of(&cluster.nodes[0], "k");
        cluster.nodes[0].freeze();
        cluster.nodes[0].thaw();
        cql.run(&format!("INSERT INTO t (k) VALUES ({n})"));
        cluster.nodes[0].restart(how).expect("it comes back");
        assert_eq!(cluster.contact(), address);
        let rows = Cql::of(&cluster.nodes[0], "k").rows("SELECT count(*) FROM t");
        assert_eq!(rows, [(n + 1).to_string()], "{how:?}");
    }
}

#[test]
fn nodes_of_a_cluster_know_each_other_also_after_a_kill() {
    let mut cluster = cluster(&versions().0, 2, &Options::default());
    make_keyspace(&cluster.nodes[0], "k", 2);
    cluster.nodes[1].restart(Stop::Kill).expect("it comes back");
    cluster.settle().expect("both are up");
    for node in &cluster.nodes {
        assert_eq!(Cql::of(node, "system").rows("SELECT count(*) FROM peers_v2"), ["1"]);
        assert_answers_like(node);
    }
    let mut cql = Cql::of(&cluster.nodes[1], "k");
    cql.define("CREATE TABLE t (k int PRIMARY KEY)");
    let on_all = Ask { consistency: ALL, ..Ask::default() };
    cql.query("INSERT INTO t (k) VALUES (1)", &on_all).expect("both nodes write");
}

#[test]
fn clients_log_in_over_tls_and_nothing_is_left_behind() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let tls = Tls { cert: issued.cert.pem(), key: issued.signing_key.serialize_pem(), ca: None };
    let options = Options { authentication: true, tls: Some(tls), ..Options::default() };
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let cluster = Cluster::start(&sandbox, &versions().1, 1, &options).expect("a cluster");
    let config = trusting(issued.cert.der().clone());
    let dial = Dial { version: 5, login: Some(("cassandra", "cassandra")), tls: Some(config), ..Dial::default() };
    let mut cql = Cql::dial(cluster.contact(), &dial).expect("a login");
    assert_eq!(cql.rows("SELECT role FROM system_auth.roles"), ["cassandra"]);
    let wrong = Dial { login: Some(("cassandra", "wrong")), ..dial };
    assert_eq!(Cql::dial(cluster.contact(), &wrong).err().map(|failure| failure.code), Some(0x0100));
    let (folder, pid) = (sandbox.dir().to_owned(), cluster.nodes[0].pid().expect("it runs"));
    drop((cluster, sandbox));
    assert!(!folder.exists() && !std::path::Path::new(&format!("/proc/{pid}")).exists());
}
