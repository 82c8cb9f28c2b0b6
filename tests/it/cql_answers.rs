//! What an error says of a write: some say that it is absent, some that it may be there. On one node what it refuses by itself; on
//! two, of which one is hung or dead, what coordinators answer then.

use std::time::Duration;

use tandem::sandbox::cassandra::{Cluster, Options, Stop};

use crate::support::cassandra::{clients, cluster, make_keyspace, pair_with, versions};
use crate::support::cql::{Ask, COUNTER, Cql, Failure, LOGGED, Member, ONE, QUORUM, SERIAL, UNLOGGED};

const UNAVAILABLE: i32 = 0x1000;
const TRUNCATE: i32 = 0x1003;
const WRITE_TIMEOUT: i32 = 0x1100;
const WRITE_FAILURE: i32 = 0x1500;
const SYNTAX: i32 = 0x2000;
const INVALID: i32 = 0x2200;
const CONFIGURATION: i32 = 0x2300;
const ALREADY_EXISTS: i32 = 0x2400;
const UNPREPARED: i32 = 0x2500;

const ALL: u16 = 5;
const INSERT: &str = "INSERT INTO t (k, v) VALUES (1, 1)";

fn at(consistency: u16) -> Ask<'static> {
    Ask { consistency, ..Ask::default() }
}

#[test]
fn what_a_node_refuses_by_itself_is_absent() {
    for mut cql in clients("answers") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        for (text, ask, code) in [
            ("INSERT INTO t (k, v) VALUE (1, 1)", at(ONE), SYNTAX),
            ("INSERT INTO t (k, v) VALUES (1, 'x')", at(ONE), INVALID),
            ("INSERT INTO nowhere (k, v) VALUES (1, 1)", at(ONE), INVALID),
            (INSERT, at(SERIAL), INVALID),
            ("ALTER TABLE t WITH gc_grace_seconds = -1", at(ONE), CONFIGURATION),
            ("CREATE TABLE t (k int PRIMARY KEY)", at(ONE), ALREADY_EXISTS),
        ] {
            assert_eq!(cql.refusal(text, &ask).code, code, "{text}");
        }
        // A batch with one statement that is not known executes none.
        let members = [Member::Text(INSERT, &[]), Member::Prepared(&[7; 16], &[])];
        let failure = cql.batch(LOGGED, &members, &at(ONE)).expect_err("not known");
        assert_eq!((failure.code, &failure.rest[2..]), (UNPREPARED, &[7; 16][..]));
        assert!(cql.rows("SELECT * FROM t").is_empty());
    }
}

#[test]
fn what_has_too_few_replicas_alive_is_absent() {
    pair_with("answers_one");
    for node in crate::support::cassandra::pair() {
        make_keyspace(node, "answers_two", 2);
        let mut cql = Cql::of(node, "answers_two");
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        cql.define("CREATE TABLE n (k int PRIMARY KEY, v counter)");
        let count = "UPDATE n SET v = v + 1 WHERE k = 1";
        for text in [INSERT, "INSERT INTO t (k, v) VALUES (1, 1) IF NOT EXISTS", count] {
            assert_eq!(cql.refusal(text, &at(QUORUM)).code, UNAVAILABLE, "{text}");
        }
        for (kind, text) in [(LOGGED, INSERT), (UNLOGGED, INSERT), (COUNTER, count)] {
            let failure = cql.batch(kind, &[Member::Text(text, &[])], &at(QUORUM)).expect_err("too few");
            assert_eq!(failure.code, UNAVAILABLE, "{text}");
        }
        assert!(cql.rows("SELECT * FROM t").is_empty() && cql.rows("SELECT * FROM n").is_empty());
    }
}

/// Two nodes, of which the second can be hurt, and a client of the first. Timeouts are short, for they are waited for.
fn two() -> (Cluster, Cql) {
    let config = [
        "write_request_timeout",
        "counter_write_request_timeout",
        "cas_contention_timeout",
        "truncate_request_timeout",
    ];
    let mut config = config.map(|name| format!("{name}: 700ms")).to_vec();
    config.push("phi_convict_threshold: 16".to_owned()); // A hung node is not soon called dead.
    let cluster = cluster(&versions().0, 2, &Options { config, ..Options::default() });
    make_keyspace(&cluster.nodes[0], "two", 2);
    make_keyspace(&cluster.nodes[0], "one", 1);
    let mut cql = Cql::of(&cluster.nodes[0], "two");
    for keyspace in ["one", "two"] {
        cql.define(&format!("CREATE TABLE {keyspace}.t (k int PRIMARY KEY, v int)"));
        cql.define(&format!("CREATE TABLE {keyspace}.n (k int PRIMARY KEY, v counter)"));
    }
    (cluster, cql)
}

/// "SIMPLE", "BATCH": how the body of WriteTimeout ends.
fn kind(rest: &[u8]) -> String {
    let text = String::from_utf8_lossy(rest);
    text.trim_start_matches(|c: char| !c.is_ascii_uppercase()).to_owned()
}

/// Rows at ONE: a coordinator may ask the replica that does not answer, and then the other one.
fn seen(cql: &mut Cql, query: &str) -> Vec<String> {
    let mut tries = (0..20).map(|_| cql.query(query, &at(ONE)));
    tries.find_map(Result::ok).expect("one replica answers").rows().lines()
}

/// Until the nodes have noticed each other.
fn repeated<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        match attempt() {
            Some(reached) => return reached,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What the first node says while the second hangs, and is not taken for dead yet.
fn hung<T>(cluster: &mut Cluster, mut attempt: impl FnMut() -> Result<T, Failure>) -> Failure {
    loop {
        cluster.nodes[1].freeze();
        let failure = attempt().err().expect("no quorum answers");
        if failure.code != UNAVAILABLE {
            return failure;
        }
        cluster.nodes[1].thaw();
        cluster.settle().expect("both are up");
    }
}

#[test]
fn what_a_hung_or_dead_replica_makes_of_writes() {
    let (mut cluster, mut cql) = two();
    a_commit_without_its_replicas_is_refused_behind_the_decision(&cluster, &mut cql);
    // Timed out, and there.
    let failure = hung(&mut cluster, || cql.query(INSERT, &at(QUORUM)));
    assert_eq!((failure.code, kind(&failure.rest).as_str()), (WRITE_TIMEOUT, "SIMPLE"));
    let batch = "INSERT INTO t (k, v) VALUES (2, 2)";
    let failure = hung(&mut cluster, || cql.batch(LOGGED, &[Member::Text(batch, &[])], &at(QUORUM)));
    assert_eq!(failure.code, WRITE_TIMEOUT, "{failure:?}");
    assert_eq!(seen(&mut cql, "SELECT k, v FROM t WHERE k = 1"), ["1|1"]);
    assert_eq!(seen(&mut cql, "SELECT k, v FROM t WHERE k = 2"), ["2|2"]);
    let once = "INSERT INTO t (k, v) VALUES (3, 3) IF NOT EXISTS";
    let failure = hung(&mut cluster, || cql.query(once, &at(QUORUM)));
    assert_eq!((failure.code, kind(&failure.rest).as_str()), (WRITE_TIMEOUT, "CAS"));
    // So may a counter be: counted, for good, by the node that took the lead, which is any of both.
    let counted = (1..20).find(|_| {
        let failure = hung(&mut cluster, || cql.query("UPDATE n SET v = v + 1 WHERE k = 1", &at(QUORUM)));
        assert!([WRITE_TIMEOUT, WRITE_FAILURE].contains(&failure.code), "{failure:?}");
        !seen(&mut cql, "SELECT v FROM n WHERE k = 1").is_empty()
    });
    assert!(counted.is_some());
    cluster.nodes[1].thaw();
    cluster.settle().expect("both are up");
    // The LWT is decided by a serial read, and then stays so.
    let read = "SELECT k FROM t WHERE k = 3";
    let serial = repeated(|| cql.query(read, &at(SERIAL)).ok()).rows().lines();
    assert_eq!(repeated(|| cql.query(read, &at(QUORUM)).ok()).rows().lines(), serial);
    let quorum = repeated(|| cql.query("SELECT k, v FROM t WHERE k IN (1, 2)", &at(QUORUM)).ok()).rows();
    assert_eq!(quorum.lines(), ["1|1", "2|2"]);
    with_a_dead_replica(&mut cluster, &mut cql);
}

/// More copies than there are nodes: a quorum of them decides, and is too few for the commit.
fn a_commit_without_its_replicas_is_refused_behind_the_decision(cluster: &Cluster, cql: &mut Cql) {
    make_keyspace(&cluster.nodes[0], "three", 3);
    cql.define("CREATE TABLE three.t (k int PRIMARY KEY, v int)");
    let once = "INSERT INTO three.t (k, v) VALUES (1, 1) IF NOT EXISTS";
    let failure = cql.refusal(once, &at(ALL));
    assert_eq!((failure.code, &failure.rest[..2]), (UNAVAILABLE, &ALL.to_be_bytes()[..]), "{failure:?}");
    assert_eq!(
        cql.query("SELECT k, v FROM three.t WHERE k = 1", &at(SERIAL)).expect("decided").rows().lines(),
        ["1|1"]
    );
}

fn with_a_dead_replica(cluster: &mut Cluster, cql: &mut Cql) {
    cluster.nodes[1].stop(Stop::Drain).expect("it ends, and says so");
    repeated(|| (cql.refusal(INSERT, &at(QUORUM)).code == UNAVAILABLE).then_some(()));
    // Over two partitions, of which one may be dead: of a LOGGED batch nothing is written then, of an UNLOGGED one perhaps half.
    for (kind, may_be) in [(LOGGED, false), (UNLOGGED, true)] {
        let half = (0..40).filter(|pair| half_is_written(cql, kind, 2 * pair + 100 * i32::from(kind))).count();
        assert_eq!(half > 0, may_be, "{half} batches of kind {kind}");
    }
    // TRUNCATE needs every node, a change of the schema does not.
    assert_eq!(cql.refusal("TRUNCATE t", &at(ONE)).code, TRUNCATE);
    cql.run("ALTER TABLE t ADD w int");
}

/// A batch is refused for its dead partition, and the living one is there.
fn half_is_written(cql: &mut Cql, kind: u8, key: i32) -> bool {
    let inserts = [key, key + 1].map(|key| format!("INSERT INTO one.t (k, v) VALUES ({key}, 1)"));
    let answer = cql.batch(kind, &inserts.each_ref().map(|text| Member::Text(text, &[])), &at(ONE));
    let unavailable = answer.is_err_and(|failure| failure.code == UNAVAILABLE);
    let written = [key, key + 1].iter().any(|key| {
        let read = cql.query(&format!("SELECT k FROM one.t WHERE k = {key}"), &at(ONE));
        read.is_ok_and(|answer| !answer.rows().rows.is_empty())
    });
    unavailable && written
}
