//! What the mirror does on a secondary with records of CQL, from 4.1 to 5.0 and back. Tests name the corner they keep.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use tandem::journal::Lsn;
use tandem::mirror::replay::{Applied, Applier as _, Certainty, Job};
use tandem::protocol::cql::applier::{Applier, Quiet, Reach};
use tandem::protocol::cql::client::{Address, Settings};
use tandem::protocol::cql::cluster::Cluster;
use tandem::protocol::cql::place::{Extent, Place};
use tandem::protocol::cql::wire::primitive::{Consistency, Value};
use tandem::protocol::cql::wire::request::{BatchKind, Bound, Parameters, Statement, StatementText, Values};
use tandem::protocol::cql::write;
use tandem::record::{Backend, Lane, Record, RecordBuf, Side, TableId};
use tandem::sandbox::cassandra::{Node, Options, Stop};

use crate::support::cassandra::{cluster, make_keyspace, pair_with, versions};
use crate::support::cql::{Ask, Cql, Dial};
use crate::support::until;

/// Two clusters, a client of each, and an applier between them.
struct Rig {
    keyspace: &'static str,
    primary: Cql,
    secondary: Cql,
    clusters: [Arc<Cluster>; 2],
    applier: Applier,
}

fn micros() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()).expect("63 bits")
}

pub(crate) fn seconds() -> i32 {
    (micros() / 1_000_000) as i32
}

async fn known(node: &Node, side: Side) -> Arc<Cluster> {
    let address = Address { host: node.address().ip().to_string(), port: node.address().port() };
    Arc::new(Cluster::enter(&[address], None, Settings::default(), side).await.expect("it can be reached"))
}

fn reach(cluster: &Arc<Cluster>) -> Reach {
    let cluster = cluster.clone();
    Arc::new(move || Some(cluster.clone()))
}

impl Rig {
    async fn of(primary: &Node, secondary: &Node, keyspace: &'static str) -> Rig {
        let clusters = [known(primary, Side::Origin).await, known(secondary, Side::Target).await];
        let applier = Applier::new(reach(&clusters[0]), reach(&clusters[1]), Quiet::since_now(), Arc::new(|_| false));
        let (primary, secondary) = (Cql::of(primary, keyspace), Cql::of(secondary, keyspace));
        Rig { keyspace, primary, secondary, clusters, applier }
    }

    /// From 4.1 to 5.0, and from 5.0 to 4.1.
    async fn both(up: &'static str, down: &'static str) -> [Rig; 2] {
        let [old, new] = pair_with(up);
        pair_with(down);
        [Rig::of(old, new, up).await, Rig::of(new, old, down).await]
    }

    async fn define(&mut self, text: &str) {
        self.primary.define(text);
        self.secondary.define(text);
        for cluster in &self.clusters {
            cluster.refresh().await;
        }
    }

    fn label(&self, table: &str) -> TableId {
        TableId::of(self.keyspace, table)
    }

    fn parameters(&self, at: i64, now: i32) -> Parameters<'static> {
        Parameters {
            timestamp: Some(at),
            now_in_seconds: Some(now),
            keyspace: Some(self.keyspace),
            ..Parameters::new(Consistency::One)
        }
    }

    async fn apply(&self, build: impl FnOnce(&mut RecordBuf)) -> Applied {
        self.job(build, |job| job).await
    }

    async fn job(&self, build: impl FnOnce(&mut RecordBuf), bend: impl FnOnce(Job) -> Job) -> Applied {
        let mut buf = RecordBuf::default();
        build(&mut buf);
        let record = Record::parse(buf.finish(Backend { id: 1, life: 1 }).to_vec().into()).expect("well-formed");
        let (lsn, ended, handed) = (Lsn(1), Lsn(2), Lsn(2));
        let job = Job {
            lsn,
            record,
            certainty: Certainty::Committed,
            late: false,
            attempt: 1,
            ended,
            handed,
            told: tokio::time::Instant::now(),
        };
        let job = bend(job);
        // A busy node may answer too late: the engine comes again, too.
        let applied = until(async || match self.applier.apply(&job).await {
            Applied::Retry(_) | Applied::Away(_) => None,
            applied => Some(applied),
        });
        applied.await.expect("it is not put off for ever")
    }

    /// A write of table `t`.
    fn body(&self, text: &str, values: &[Bound<'_>], at: i64, now: i32) -> BytesMut {
        let mut body = BytesMut::new();
        let statement = Statement { text: StatementText::Text(text.as_bytes()), values: Values::Given(values) };
        write::put_statement(&mut body, statement, &self.parameters(at, now)).expect("short");
        body
    }

    async fn replay(&self, text: &str, at: i64, now: i32) -> Applied {
        let body = self.body(text, &[], at, now);
        self.apply(|record| record.write(self.label("t"), Lane::ANY, &body)).await
    }

    async fn settle(&self, place: &Place) -> Applied {
        let place = place.encode().expect("short");
        self.apply(|record| record.key(self.label("t"), &place, true)).await
    }

    /// Both sides show the same.
    fn equal(&mut self, query: &str) -> Vec<String> {
        let (here, there) = (self.primary.rows(query), self.secondary.rows(query));
        assert_eq!(there, here, "{query}");
        here
    }
}

fn int(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn row(k: i32, c: i32) -> Place {
    Place { extent: Extent::Row, partition: vec![int(k)], clustering: vec![int(c)] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_arrives_with_its_timestamp_and_its_values_and_a_repeat_changes_nothing() {
    for mut rig in Rig::both("applier_up", "applier_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v text)").await;
        let (k, v) = (int(1), b"prepared");
        let values = [(None, Value::Set(&k[..])), (None, Value::Set(&v[..]))];
        let body = rig.body("INSERT INTO t (k, v) VALUES (?, ?)", &values, 1_000, seconds());
        for _ in 0..2 {
            assert_eq!(rig.apply(|record| record.write(rig.label("t"), Lane::ANY, &body)).await, Applied::Done);
        }
        assert_eq!(rig.replay("UPDATE t SET v = 'older' WHERE k = 1", 999, seconds()).await, Applied::Done);
        assert_eq!(rig.secondary.rows("SELECT v, writetime(v) FROM t"), ["prepared|1000"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_are_applied_at_once() {
    let [mut rig, _] = Rig::both("applier_many_up", "applier_many_down").await;
    rig.define("CREATE TABLE t (k int PRIMARY KEY, v text)").await;
    for thousand in 0..10 {
        let write = async |k: i32| {
            let k = k.to_be_bytes();
            let values = [(None, Value::Set(&k[..])), (None, Value::Set(b"some text that is not long"))];
            let body = rig.body("INSERT INTO t (k, v) VALUES (?, ?)", &values, 1_000, seconds());
            rig.apply(|record| record.write(rig.label("t"), Lane::ANY, &body)).await
        };
        let keys = thousand * 1_000..(thousand + 1) * 1_000;
        let applied = futures_util::future::join_all(keys.map(write)).await;
        assert!(applied.iter().all(|applied| *applied == Applied::Done));
    }
    assert_eq!(rig.secondary.run("SELECT count(*) FROM t").rows().number(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_arrives_as_one() {
    for mut rig in Rig::both("applier_batch_up", "applier_batch_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int)").await;
        let (one, two) = (int(1), int(2));
        let values = [(None, Value::Set(&one[..])), (None, Value::Set(&two[..]))];
        let insert = StatementText::Text(b"INSERT INTO t (k, v) VALUES (?, ?)");
        let text = StatementText::Text(b"UPDATE t USING TIMESTAMP 7 SET v = 3 WHERE k = 3");
        let statements = [
            Statement { text: insert, values: Values::Given(&values) },
            Statement { text, values: Values::Given(&[]) },
        ];
        let mut body = BytesMut::new();
        let parameters = rig.parameters(5, seconds());
        write::put_statements(&mut body, BatchKind::Logged, &statements, &parameters).expect("short");
        let applied = rig
            .apply(|record| {
                record.write(rig.label("t"), Lane::ANY, &body);
                record.touch(rig.label("t"), Lane::ANY);
            })
            .await;
        assert_eq!(applied, Applied::Done);
        let mut rows = rig.secondary.rows("SELECT k, v, writetime(v) FROM t");
        rows.sort();
        assert_eq!(rows, ["1|2|5", "3|3|7"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_ttl_ends_when_it_would_have_ended_however_late_and_often_it_is_applied() {
    for mut rig in Rig::both("applier_ttl_up", "applier_ttl_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int) WITH default_time_to_live = 500").await;
        let forwarded = seconds() - 100;
        for text in [
            "INSERT INTO t (k, v) VALUES (1, 1) USING TTL 1000",
            "INSERT INTO t (k, v) VALUES (2, 2)",
            "INSERT INTO t (k, v) VALUES (3, 3) USING TTL 50",
            "INSERT INTO t (k, v) VALUES (1, 1) USING TTL 1000",
        ] {
            assert_eq!(rig.replay(text, 1_000, forwarded).await, Applied::Done);
        }
        let mut rows = rig.secondary.run("SELECT k, ttl(v) FROM t").rows().lines();
        rows.sort();
        let left: Vec<(i32, i32)> = rows
            .iter()
            .filter_map(|line| line.split_once('|'))
            .map(|(k, ttl)| (k.parse().expect("a key"), ttl.parse().expect("a number")))
            .collect();
        let [(1, one), (2, two)] = left[..] else { panic!("{left:?}") };
        // The test itself takes some of these seconds.
        assert!((800..=900).contains(&one) && (300..=400).contains(&two), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h8_texts_are_in_the_words_of_the_secondary() {
    let [mut up, mut down] = Rig::both("applier_words_up", "applier_words_down").await;
    for (rig, text) in [
        (&mut up, "INSERT INTO t (k, at) VALUES (1, dateOf(50554d6e-29bb-11e5-b345-feff819cdc9f))"),
        (&mut down, "INSERT INTO t (k, at) VALUES (1, to_timestamp(50554d6e-29bb-11e5-b345-feff819cdc9f))"),
    ] {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, at timestamp)").await;
        assert_eq!(rig.replay(text, 1, seconds()).await, Applied::Done);
        rig.primary.run_at(text, 1);
        rig.equal("SELECT k, at FROM t");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_an_overwritten_list_is_not_doubled_by_a_repeat() {
    for mut rig in Rig::both("applier_c2_up", "applier_c2_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, l list<text>)").await;
        let (text, at) = ("INSERT INTO t (k, l) VALUES (1, ['a', 'b'])", micros());
        rig.primary.run_at(text, at);
        for _ in 0..3 {
            assert_eq!(rig.replay(text, at, seconds()).await, Applied::Done);
            assert_eq!(rig.equal("SELECT l FROM t"), ["[a, b]"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_changed_list_is_as_the_primary_has_it() {
    for mut rig in Rig::both("applier_c3_up", "applier_c3_down").await {
        rig.define("CREATE TABLE t (k int, c int, l list<int>, s list<int> static, PRIMARY KEY (k, c))").await;
        for n in 0..5 {
            rig.primary.run(&format!("UPDATE t SET l = l + [{n}], s = [{n}] + s WHERE k = 1 AND c = 1"));
            assert_eq!(rig.settle(&row(1, 1)).await, Applied::Done);
            rig.equal("SELECT l, s FROM t");
        }
        rig.primary.run("DELETE l[1] FROM t WHERE k = 1 AND c = 1");
        rig.primary.run("UPDATE t SET l[0] = 9 WHERE k = 1 AND c = 1");
        rig.primary.run("DELETE s FROM t WHERE k = 1");
        assert_eq!(rig.settle(&row(1, 1)).await, Applied::Done);
        assert_eq!(rig.equal("SELECT l, s FROM t"), ["[9, 2, 3, 4]|null"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_row_goes_cell_by_cell_with_its_own_timestamps_and_expiries() {
    for mut rig in Rig::both("applier_c6_up", "applier_c6_down").await {
        rig.define("CREATE TYPE u (a int, b text)").await;
        rig.define(
            "CREATE TABLE t (k int, c int, \"V\" int, w text, m map<int, text>, s set<int>, u u, f frozen<list<int>>, \
             st int static, PRIMARY KEY (k, c))",
        )
        .await;
        for text in [
            "INSERT INTO t (k, c, \"V\") VALUES (1, 1, 1) IF NOT EXISTS",
            "UPDATE t SET \"V\" = 2 WHERE k = 1 AND c = 1 IF \"V\" = 1",
            "UPDATE t USING TTL 1000 SET w = 'w' WHERE k = 1 AND c = 1",
            "UPDATE t SET m = {1: 'a', 2: 'b'}, s = {1, 2}, u = {a: 1, b: 'x'}, f = [1], st = 5 WHERE k = 1 AND c = 1",
            "INSERT INTO t (k, c) VALUES (1, 2) IF NOT EXISTS",
        ] {
            rig.primary.run(text);
        }
        let cells =
            "SELECT k, c, \"V\", writetime(\"V\"), w, writetime(w), m, s, u, f, writetime(f), st, writetime(st) FROM t";
        for place in [row(1, 1), row(1, 2)] {
            assert_eq!(rig.settle(&place).await, Applied::Done);
        }
        assert_eq!(rig.equal(cells).len(), 2);
        assert!(rig.secondary.run("SELECT ttl(w) FROM t WHERE k = 1 AND c = 1").rows().number() > 900);
        for text in [
            "UPDATE t SET \"V\" = null WHERE k = 1 AND c = 1 IF \"V\" = 2",
            "UPDATE t SET m = m - {1}, m[3] = 'c', s = s + {3}, u.b = 'y', w = null WHERE k = 1 AND c = 1",
            "DELETE FROM t WHERE k = 1 AND c = 2 IF EXISTS",
        ] {
            rig.primary.run(text);
        }
        assert_eq!(rig.settle(&Place::partition(vec![int(1)])).await, Applied::Done);
        assert_eq!(rig.equal(cells).len(), 1);
        rig.primary.run("DELETE FROM t WHERE k = 1");
        assert_eq!(rig.settle(&Place::partition(vec![int(1)])).await, Applied::Done);
        assert!(rig.equal(cells).is_empty());
        // What comes later finds nothing in its way.
        let later = "INSERT INTO t (k, c, \"V\", st) VALUES (1, 1, 7, 7)";
        let at = micros();
        rig.primary.run_at(later, at);
        assert_eq!(rig.replay(later, at, seconds()).await, Applied::Done);
        assert_eq!(rig.equal(cells).len(), 1);
    }
}

/// What a side will show so many seconds from now.
fn in_future(cql: &mut Cql, query: &str, seconds_from_now: i32, now: i32) -> Vec<String> {
    let ask = Ask { now_in_seconds: Some(now + seconds_from_now), ..Ask::default() };
    cql.query(query, &ask).expect("rows").rows().lines()
}

pub(crate) const EXPIRING: &str = "CREATE TABLE t (k int, c int, v int, l list<int>, s set<int>, m map<int, int>, u pair, \
                        st list<int> static, PRIMARY KEY (k, c))";

/// Whatever may expire by itself, with neighbours that expire otherwise or never.
pub(crate) const EXPIRE: &[&str] = &[
    "UPDATE t USING TTL 1000 SET l = l + [1, 1], m[1] = 1, u.a = 1 WHERE k = 1 AND c = 1",
    "UPDATE t USING TTL 2000 SET l = l + [2], s = {1}, m[2] = 2 WHERE k = 1 AND c = 1",
    "UPDATE t SET l = l + [3], s = s + {2}, m[3] = 3, u.b = 2 WHERE k = 1 AND c = 1",
    "UPDATE t USING TTL 1000 SET l = l + [1], st = [1, 2] WHERE k = 1 AND c = 1",
    "INSERT INTO t (k, c) VALUES (1, 2) USING TTL 1500",
    "INSERT INTO t (k, c) VALUES (1, 3)",
    "UPDATE t USING TTL 1500 SET v = 3 WHERE k = 1 AND c = 3",
    "UPDATE t USING TTL 1500 SET s = {4} WHERE k = 1 AND c = 4",
];

/// Both sides show the same now and at any time.
pub(crate) fn expire_together(primary: &mut Cql, secondary: &mut Cql, now: i32, query: &str) {
    for wait in [0, 900, 1_100, 1_400, 1_600, 1_900, 2_100, 100_000] {
        let [here, there] = [&mut *primary, &mut *secondary].map(|cql| in_future(cql, query, wait, now));
        assert_eq!(there, here, "{query} in {wait} s");
    }
}

pub(crate) fn v5(node: &Node, keyspace: &str) -> Cql {
    Cql::with(node, keyspace, &Dial { version: 5, ..Dial::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_what_goes_by_state_expires_on_both_sides_together() {
    let ([old, new], now) = (pair_with("applier_expires_up"), seconds());
    let query = "SELECT k, c, v, l, s, m, u, st FROM t";
    pair_with("applier_expires_down");
    for (here, there, keyspace) in [(old, new, "applier_expires_up"), (new, old, "applier_expires_down")] {
        let mut rig = Rig::of(here, there, keyspace).await;
        rig.define("CREATE TYPE pair (a int, b int)").await;
        rig.define(EXPIRING).await;
        EXPIRE.iter().for_each(|text| drop(rig.primary.run(text)));
        // It is there already, and would stay.
        rig.secondary.run_at("INSERT INTO t (k, c, s) VALUES (1, 4, {4})", 1);
        assert_eq!(rig.settle(&Place::partition(vec![int(1)])).await, Applied::Done);
        let [mut primary, mut secondary] = [here, there].map(|node| v5(node, keyspace));
        expire_together(&mut primary, &mut secondary, now, query);
        // One more, beside what is there with times of its own.
        rig.primary.run("UPDATE t USING TTL 1000 SET l = l + [5] WHERE k = 1 AND c = 1");
        rig.primary.run("UPDATE t SET l[0] = 9, st = [0] + st WHERE k = 1 AND c = 1");
        assert_eq!(rig.settle(&row(1, 1)).await, Applied::Done);
        expire_together(&mut primary, &mut secondary, now, query);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_secondary_has_wrongly_is_mended_whatever_its_timestamps() {
    for mut rig in Rig::both("applier_wrong_up", "applier_wrong_down").await {
        rig.define("CREATE TABLE t (k int, c int, v int, m map<int, int>, PRIMARY KEY (k, c))").await;
        let later = micros();
        rig.primary.run_at("INSERT INTO t (k, c, v, m) VALUES (1, 1, 1, {1: 1})", 1_000);
        rig.primary.run_at("INSERT INTO t (k, c, v) VALUES (1, 4, 4)", 1_000);
        rig.secondary.run_at("INSERT INTO t (k, c, v, m) VALUES (1, 1, 2, {2: 2})", later);
        rig.secondary.run_at("INSERT INTO t (k, c, v) VALUES (1, 2, 2)", later);
        rig.secondary.run_at("INSERT INTO t (k, c) VALUES (1, 3)", later);
        rig.secondary.run_at("DELETE FROM t WHERE k = 1 AND c = 4", later);
        assert_eq!(rig.settle(&Place::partition(vec![int(1)])).await, Applied::Done);
        assert_eq!(rig.equal("SELECT k, c, v, m FROM t"), ["1|1|1|{1: 1}", "1|4|4|null"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_counters_get_the_difference() {
    for mut rig in Rig::both("applier_h6_up", "applier_h6_down").await {
        rig.define("CREATE TABLE t (k int, c int, n counter, m counter, PRIMARY KEY (k, c))").await;
        let show = "SELECT k, c, n, m FROM t";
        for _ in 0..3 {
            rig.primary.run("UPDATE t SET n = n + 17 WHERE k = 1 AND c = 1");
            rig.primary.run("UPDATE t SET m = m - 3 WHERE k = 1 AND c = 2");
            for _ in 0..2 {
                assert_eq!(rig.settle(&Place::partition(vec![int(1)])).await, Applied::Done);
                rig.equal(show);
            }
        }
        rig.primary.run("DELETE n FROM t WHERE k = 1 AND c = 1");
        assert_eq!(rig.settle(&row(1, 1)).await, Applied::Done);
        assert_eq!(rig.equal(show), ["1|2|null|-9"]);
        // A counter that was deleted shows what its server likes; the other shows the same.
        rig.primary.run("UPDATE t SET n = n + 2 WHERE k = 1 AND c = 1");
        assert_eq!(rig.settle(&row(1, 1)).await, Applied::Done);
        rig.equal(show);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c10_a_value_of_a_column_that_was_dropped_and_added_again_arrives() {
    for mut rig in Rig::both("applier_c10_up", "applier_c10_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, a int, b int)").await;
        let change = async |rig: &mut Rig, text: &str| {
            rig.primary.define(text);
            let body = rig.body(text, &[], micros(), seconds());
            assert_eq!(rig.apply(|record| record.ddl(rig.label("t"), &body)).await, Applied::Done, "{text}");
        };
        rig.primary.run("INSERT INTO t (k, b) VALUES (1, 1)");
        rig.primary.define("ALTER TABLE t DROP b");
        rig.primary.define("ALTER TABLE t ADD b int");
        let text = "INSERT INTO t (k, b) VALUES (2, 2)";
        let at = micros();
        rig.primary.run_at(text, at);
        // All of it reaches the secondary later.
        for text in ["ALTER TABLE t DROP b", "ALTER TABLE t ADD b int"] {
            let body = rig.body(text, &[], at, seconds());
            assert_eq!(rig.apply(|record| record.ddl(rig.label("t"), &body)).await, Applied::Done, "{text}");
        }
        assert_eq!(rig.replay(text, at, seconds()).await, Applied::Done);
        assert_eq!(rig.secondary.rows("SELECT k, b FROM t WHERE k = 2"), ["2|2"]);
        change(&mut rig, "ALTER TABLE t ADD z int").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_is_passed_once_and_a_repeat_of_it_too() {
    for mut rig in Rig::both("applier_barrier_up", "applier_barrier_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, a int)").await;
        let now = seconds();
        for text in [
            "ALTER TABLE t ADD b int",
            "CREATE TABLE other (k int PRIMARY KEY)",
            "ALTER TABLE other ADD v int",
            "CREATE INDEX ON t (a)",
            "CREATE TYPE u (a int)",
            "TRUNCATE t",
            "DROP TABLE other",
        ] {
            rig.primary.define(text);
            let table = if text.contains("other") { "other" } else { "t" };
            let body = rig.body(text, &[], micros(), now);
            for _ in 0..2 {
                let applied = rig.apply(|record| record.ddl(rig.label(table), &body)).await;
                assert_eq!(applied, Applied::Done, "{text}");
            }
        }
        let columns = format!(
            "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = '{}'",
            rig.keyspace
        );
        assert_eq!(rig.equal(&columns).len(), 3);
        let body = rig.body("CREATE TABLE t (k text PRIMARY KEY)", &[], micros(), now);
        let refused = rig.apply(|record| record.ddl(rig.label("t"), &body)).await;
        assert_eq!(refused, Applied::Done, "it is there, and fits");
        let body = rig.body("ALTER TABLE t DROP nothing", &[], micros(), now);
        let refused = rig.apply(|record| record.ddl(rig.label("t"), &body)).await;
        assert_eq!(refused, Applied::Done, "it is not there");
        rig.primary.define("CREATE TYPE here (x int)");
        rig.primary.define("ALTER TABLE t ADD d here");
        let body = rig.body("ALTER TABLE t ADD d here", &[], micros(), now);
        let refused = rig.apply(|record| record.ddl(rig.label("t"), &body)).await;
        assert!(matches!(refused, Applied::Reject(_)), "its type is not there: {refused:?}");
        let body = rig.body("ALTER KEYSPACE nothing WITH durable_writes = true", &[], micros(), now);
        assert!(matches!(rig.apply(|record| record.ddl(TableId::NONE, &body)).await, Applied::Listed(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_of_what_is_no_table_is_done_only_if_it_is_there_and_holds_nothing_up() {
    for mut rig in Rig::both("applier_objects_up", "applier_objects_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, a int)").await;
        let keyspace = rig.keyspace;
        let pass = async |rig: &Rig, text: &str| {
            let body = rig.body(text, &[], micros(), seconds());
            let label = if text.starts_with("ALTER TABLE t ") { rig.label("t") } else { TableId::NONE };
            rig.apply(|record| record.ddl(label, &body)).await
        };
        // Twice each: a crash repeats what was done last.
        for text in [
            "CREATE TYPE u (a int)",
            "ALTER TYPE u ADD b int",
            "ALTER TYPE u RENAME a TO c",
            "CREATE INDEX named ON t (a)",
            "DROP INDEX named",
            "DROP TYPE u",
        ] {
            rig.primary.define(text);
            for _ in 0..2 {
                assert_eq!(pass(&rig, text).await, Applied::Done, "{text}");
            }
        }
        rig.primary.define("CREATE TYPE other (x int)");
        for text in [
            "CREATE TYPE nowhere.u (a int)",
            "ALTER TYPE other ADD y int",
            "CREATE INDEX ON t (nothing)",
            // Of a table, but none of its columns.
            "ALTER TABLE t WITH compaction = {'class': 'NoSuchStrategy'}",
            "ALTER TABLE t ALTER nothing MASKED WITH DEFAULT",
            "CREATE CUSTOM INDEX ON t (a) USING 'NoSuchIndex'",
            "CREATE FUNCTION f (a int) RETURNS NULL ON NULL INPUT RETURNS int LANGUAGE cobol AS 'return a;'",
        ] {
            let applied = pass(&rig, text).await;
            assert!(matches!(applied, Applied::Listed(_)), "{text}: {applied:?}");
        }
        // One that was given up, and is done late, takes nothing that was made anew since.
        rig.define("CREATE TYPE again (x int)").await;
        let body = rig.body("DROP TYPE again", &[], micros(), seconds());
        let late = |job: Job| Job { late: true, ..job };
        assert_eq!(rig.job(|record| record.ddl(TableId::NONE, &body), late).await, Applied::Done);
        let again = format!(
            "SELECT type_name FROM system_schema.types WHERE keyspace_name = '{keyspace}' AND type_name = 'again'"
        );
        assert_eq!(rig.equal(&again), ["again"]);
        // Its datacenter has another name there.
        let made = format!("{keyspace}_elsewhere");
        rig.primary.define(&format!(
            "CREATE KEYSPACE {made} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}}"
        ));
        let named = format!(
            "CREATE KEYSPACE {made} WITH replication = {{'class': 'NetworkTopologyStrategy', 'no_such_place': 1}}"
        );
        assert_eq!(pass(&rig, &named).await, Applied::Done);
        let found = format!("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{made}'");
        assert_eq!(rig.equal(&found), [made.as_str()]);
        for side in [&mut rig.primary, &mut rig.secondary] {
            side.define(&format!("DROP KEYSPACE {made}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_doubt_of_what_is_no_table_goes_by_what_the_primary_has() {
    for mut rig in Rig::both("applier_unsure_up", "applier_unsure_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, a int)").await;
        let sent = micros() - 80_000_000;
        let doubt = |job: Job| Job { certainty: Certainty::Unknown, ..job };
        let pass = async |rig: &Rig, text: &str| {
            let body = rig.body(text, &[], sent, seconds());
            rig.job(|record| record.ddl(TableId::NONE, &body), doubt).await
        };
        let types = format!("SELECT type_name FROM system_schema.types WHERE keyspace_name = '{}'", rig.keyspace);
        let indexes = format!("SELECT index_name FROM system_schema.indexes WHERE keyspace_name = '{}'", rig.keyspace);
        for (text, found, name) in
            [("CREATE TYPE u (a int)", &types, "u"), ("CREATE INDEX named ON t (a)", &indexes, "named")]
        {
            assert_eq!(pass(&rig, text).await, Applied::Done);
            assert!(rig.equal(found).is_empty(), "the primary did not do it");
            rig.primary.define(text);
            assert_eq!(pass(&rig, text).await, Applied::Done);
            assert_eq!(rig.equal(found), [name]);
        }
        for text in ["DROP TYPE u", "DROP INDEX named"] {
            assert_eq!(pass(&rig, text).await, Applied::Done);
            rig.primary.define(text);
            assert_eq!(pass(&rig, text).await, Applied::Done);
        }
        assert!(rig.equal(&types).is_empty() && rig.equal(&indexes).is_empty());
        let durable = format!("ALTER KEYSPACE {} WITH durable_writes = false", rig.keyspace);
        let applied = pass(&rig, &durable).await;
        assert!(matches!(&applied, Applied::Listed(why) if why.contains("do it again")), "{applied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_what_may_meet_purged_tombstones_goes_by_state() {
    for mut rig in Rig::both("applier_c9_up", "applier_c9_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int) WITH gc_grace_seconds = 0").await;
        let body = rig.body("INSERT INTO t (k, v) VALUES (1, 1)", &[], 100, seconds());
        // It was deleted on the primary since, and nothing remembers that.
        let late = |job: Job| Job { late: true, ..job };
        assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::alone(4), &body), late).await, Applied::Done);
        assert!(rig.equal("SELECT * FROM t").is_empty());
        rig.primary.run("INSERT INTO t (k, v) VALUES (1, 2)");
        assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::alone(4), &body), late).await, Applied::Done);
        assert_eq!(rig.equal("SELECT k, v, writetime(v) FROM t").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_doubt_ends_on_both_sides() {
    for mut rig in Rig::both("applier_doubt_up", "applier_doubt_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int, l list<int>)").await;
        let doubt = |job: Job| Job { certainty: Certainty::Unknown, ..job };
        let body = rig.body("INSERT INTO t (k, v) VALUES (1, 1)", &[], 100, seconds());
        assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::ANY, &body), doubt).await, Applied::Done);
        assert_eq!(rig.equal("SELECT k, v, writetime(v) FROM t"), ["1|1|100"]);
        rig.primary.run("UPDATE t SET v = 2 WHERE k = 1 IF v = 1");
        let place = Place { extent: Extent::Row, partition: vec![int(1)], clustering: vec![] }.encode().expect("short");
        assert_eq!(rig.job(|record| record.key(rig.label("t"), &place, true), doubt).await, Applied::Done);
        rig.equal("SELECT k, v, writetime(v) FROM t");
        // The primary has the list: once more would double it there.
        let (text, at) = ("INSERT INTO t (k, l) VALUES (2, [1, 2])", micros());
        rig.primary.run_at(text, at);
        let body = rig.body(text, &[], at, seconds());
        assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::ANY, &body), doubt).await, Applied::Done);
        assert_eq!(rig.equal("SELECT l FROM t WHERE k = 2"), ["[1, 2]"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_doubt_of_a_client_that_was_not_seen_to_write_there_is_not_done_in_its_place() {
    for mut rig in Rig::both("applier_untried_up", "applier_untried_down").await {
        let doubt = |job: Job| Job { certainty: Certainty::Unknown, ..job };
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int)").await;
        let (text, at) = ("INSERT INTO t (k, v) VALUES (1, 1)", micros());
        let mut body = rig.body(text, &[], at, seconds());
        write::mark_once(&mut body);
        assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::ANY, &body), doubt).await, Applied::Done);
        assert!(rig.equal("SELECT k, v FROM t").is_empty());
        // The primary did let it.
        rig.primary.run_at(text, at);
        assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::ANY, &body), doubt).await, Applied::Done);
        assert_eq!(rig.equal("SELECT k, v, writetime(v) FROM t"), [format!("1|1|{at}")]);
        // Where nobody can tell where it writes, somebody has to look.
        let mut body = rig.body("UPDATE t SET v = 3 WHERE k IN ?", &[], micros(), seconds());
        write::mark_once(&mut body);
        let applied = rig.job(|record| record.write(rig.label("t"), Lane::ANY, &body), doubt).await;
        assert!(matches!(&applied, Applied::Reject(why) if why.contains("compare the table")), "{applied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_doubt_is_not_done_again_where_the_primary_was_emptied_since() {
    for mut rig in Rig::both("applier_emptied_up", "applier_emptied_down").await {
        let doubt = |job: Job| Job { certainty: Certainty::Unknown, ..job };
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int)").await;
        let body = rig.body("INSERT INTO t (k, v) VALUES (1, 1)", &[], micros(), seconds());
        for anew in [&["TRUNCATE t"][..], &["DROP TABLE t", "CREATE TABLE t (k int PRIMARY KEY, v int)"]] {
            // Of a table that is made anew, the second of its birth is known.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            anew.iter().for_each(|text| rig.primary.define(text));
            rig.clusters[0].refresh().await;
            assert_eq!(rig.job(|record| record.write(rig.label("t"), Lane::ANY, &body), doubt).await, Applied::Done);
            assert!(rig.equal("SELECT k, v FROM t").is_empty(), "{anew:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_in_doubt_is_passed_if_the_primary_shows_that_it_did_it() {
    for mut rig in Rig::both("applier_barriers_up", "applier_barriers_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int)").await;
        // Long enough ago that nothing of it can be under way.
        let sent = micros() - 80_000_000;
        let doubt = |job: Job| Job { certainty: Certainty::Unknown, ..job };
        let pass = async |rig: &Rig, text: &str, sent: i64| {
            let body = rig.body(text, &[], sent, seconds());
            rig.job(|record| record.ddl(rig.label("t"), &body), doubt).await
        };
        let columns = async |rig: &mut Rig| {
            let text = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = ? AND table_name = 't'";
            rig.secondary.rows(&text.replace('?', &format!("'{}'", rig.keyspace)))
        };
        for side in [&mut rig.primary, &mut rig.secondary] {
            side.run_at("INSERT INTO t (k, v) VALUES (1, 1)", 1_000);
        }
        assert_eq!(pass(&rig, "TRUNCATE t", sent).await, Applied::Done);
        assert_eq!(rig.equal("SELECT k, v FROM t"), ["1|1"], "it was not done");
        rig.primary.run("TRUNCATE t");
        assert_eq!(pass(&rig, "TRUNCATE t", sent).await, Applied::Done);
        assert!(rig.equal("SELECT k, v FROM t").is_empty(), "it was");
        for text in ["ALTER TABLE t ADD w int", "ALTER TABLE t DROP v"] {
            assert_eq!(pass(&rig, text, sent).await, Applied::Done);
            assert_eq!(columns(&mut rig).await, ["k", "v"], "{text}");
        }
        rig.primary.define("ALTER TABLE t ADD w int");
        assert_eq!(pass(&rig, "ALTER TABLE t ADD (w int, x int)", sent).await, Applied::Done);
        assert_eq!(columns(&mut rig).await, ["k", "v", "w", "x"]);
        rig.primary.define("ALTER TABLE t DROP v");
        rig.primary.define("ALTER TABLE t ADD v int");
        assert_eq!(pass(&rig, "ALTER TABLE t DROP v", sent).await, Applied::Done);
        assert_eq!(columns(&mut rig).await, ["k", "w", "x"], "it is there again, and was dropped");
        // No row needs it: it is listed, and nothing waits.
        let applied = pass(&rig, "ALTER TABLE t WITH comment = 'c'", sent).await;
        assert!(matches!(applied, Applied::Listed(_)), "{applied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_secondary_refuses_is_rejected_and_one_that_is_away_is_lost() {
    let (old, new) = versions();
    let mut primary = cluster(&old, 1, &Options::default());
    let mut secondary = cluster(&new, 1, &Options::default());
    for node in [&primary.nodes[0], &secondary.nodes[0]] {
        make_keyspace(node, "k", 1);
    }
    let mut rig = Rig::of(&primary.nodes[0], &secondary.nodes[0], "k").await;
    rig.define("CREATE TABLE t (k int PRIMARY KEY, v int)").await;
    rig.applier.open().await.expect("it is there");
    let applied = rig.replay("INSERT INTO t (k, nothing) VALUES (1, 'secret')", 1, seconds()).await;
    assert!(matches!(&applied, Applied::Reject(why) if !why.contains("secret")), "{applied:?}");
    // What is only to be done again does not need the primary.
    primary.nodes[0].stop(Stop::Kill).expect("killed");
    assert_eq!(rig.replay("INSERT INTO t (k, v) VALUES (2, 2)", 1, seconds()).await, Applied::Done);
    primary.nodes[0].start().expect("it comes back");
    secondary.nodes[0].stop(Stop::Kill).expect("killed");
    let applied = rig.replay("INSERT INTO t (k, v) VALUES (1, 1)", 1, seconds()).await;
    assert!(matches!(applied, Applied::Lost(_)), "{applied:?}");
    rig.applier.open().await.expect_err("it is away");
    secondary.nodes[0].start().expect("it comes back");
    while rig.applier.open().await.is_err() {}
    assert_eq!(rig.replay("INSERT INTO t (k, v) VALUES (1, 1)", 1, seconds()).await, Applied::Done);
}

#[tokio::test]
async fn a_place_is_settled_once_for_all_that_ended_before_it_was_read() {
    for mut rig in Rig::both("settled_there", "settled_back").await {
        rig.define("CREATE TABLE t (k int, c int, l list<text>, PRIMARY KEY (k, c))").await;
        rig.primary.run("UPDATE t SET l = l + ['a'] WHERE k = 1 AND c = 1");
        let place = row(1, 1).encode().expect("short");
        let ended = |ended, handed| move |job: Job| Job { ended: Lsn(ended), handed: Lsn(handed), ..job };
        let key = |record: &mut RecordBuf| record.key(TableId::of(rig.keyspace, "t"), &place, true);
        assert_eq!(rig.job(key, ended(10, 100)).await, Applied::Done);
        // Nobody does so; it shows whether the place is looked at.
        rig.secondary.run("DELETE FROM t WHERE k = 1 AND c = 1");
        assert_eq!(rig.job(key, ended(99, 200)).await, Applied::Done);
        assert!(rig.secondary.rows("SELECT * FROM t").is_empty(), "it was seen before");
        assert_eq!(rig.job(key, ended(150, 200)).await, Applied::Done);
        rig.equal("SELECT k, c, l FROM t");
    }
}

/// The values of `now()` and its kin are in the text: it is another one each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_prepared_on_the_secondary_when_it_comes_again() {
    for mut rig in Rig::both("again_up", "again_down").await {
        rig.define("CREATE TABLE t (k int PRIMARY KEY, v int, at timeuuid)").await;
        let again = "INSERT INTO t (k, v, at) VALUES (?, ?, null)".to_owned();
        let once = |n: i32| format!("INSERT INTO t (k, v, at) VALUES (?, ?, d2177dd0-eaa2-11de-a572-{n:012x})");
        for n in 0..20_i32 {
            let values = [n, n].map(int);
            let values: Vec<Bound<'_>> = values.iter().map(|value| (None, Value::Set(&value[..]))).collect();
            for (text, at) in [(&once(n), 10), (&again, 20)] {
                let single = rig.body(text, &values, at, seconds());
                let mut batch = BytesMut::new();
                let statement =
                    Statement { text: StatementText::Text(text.as_bytes()), values: Values::Given(&values) };
                let parameters = rig.parameters(at + 1, seconds());
                write::put_statements(&mut batch, BatchKind::Logged, &[statement], &parameters).expect("short");
                let bodies =
                    if *text == again { vec![single, batch] } else { vec![if n % 2 == 0 { single } else { batch }] };
                for body in bodies {
                    assert_eq!(rig.apply(|record| record.write(rig.label("t"), Lane::ANY, &body)).await, Applied::Done);
                }
            }
        }
        assert_eq!(rig.secondary.run("SELECT count(*) FROM t").rows().number(), 20);
        let prepared = rig.secondary.rows("SELECT logged_keyspace, query_string FROM system.prepared_statements");
        let ours = format!("{}|INSERT INTO t", rig.keyspace);
        let ours: Vec<_> = prepared.iter().filter(|line| line.starts_with(&ours)).collect();
        assert_eq!(ours, [&format!("{}|{again}", rig.keyspace)]);
    }
}

/// When its cache is full, a node forgets what is new as soon as it has prepared it: what is used often stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_without_room_for_prepared_statements_takes_writes_all_the_same() {
    const UNPREPARED: i32 = 0x2500;
    let [primary, _] = pair_with("crowded");
    let config = vec!["prepared_statements_cache_size: 1MiB".to_owned()];
    let secondary = cluster(&versions().1, 1, &Options { config, ..Options::default() });
    make_keyspace(&secondary.nodes[0], "crowded", 1);
    let mut rig = Rig::of(primary, &secondary.nodes[0], "crowded").await;
    rig.define("CREATE TABLE t (k int PRIMARY KEY, v int)").await;
    let mut others = Cql::of(&secondary.nodes[0], "crowded");
    let mut is_kept = |name: String, uses: usize| {
        let id = others.prepare(&format!("SELECT k AS {name} FROM t WHERE k = 1"), None).expect("prepared").id;
        let answers = (0..uses).map(|_| others.execute(&id, &[], &Ask::default()));
        answers.filter_map(Result::err).inspect(|failure| assert_eq!(failure.code, UNPREPARED)).count() == 0
    };
    let crowd = (0..4_000).find(|n| {
        is_kept(format!("used_{n}"), 12);
        n % 20 == 0 && !(0..3).any(|m| is_kept(format!("new_{n}_{m}"), 1))
    });
    crowd.expect("some thousands of statements are more than it has room for");
    let values = [1, 2].map(int);
    let values: Vec<Bound<'_>> = values.iter().map(|value| (None, Value::Set(&value[..]))).collect();
    for n in 0..50 {
        let text = format!("INSERT INTO t (k, v) VALUES (?, ?) /* {} */", n % 10);
        let (single, batched) = (100 + 2 * n, 101 + 2 * n);
        let body = rig.body(&text, &values, single, seconds());
        let mut batch = BytesMut::new();
        let statement = Statement { text: StatementText::Text(text.as_bytes()), values: Values::Given(&values) };
        let other = Statement { text: StatementText::Text(b"DELETE FROM t WHERE k = 3"), values: Values::Given(&[]) };
        let parameters = rig.parameters(batched, seconds());
        write::put_statements(&mut batch, BatchKind::Logged, &[statement, other], &parameters).expect("short");
        for (body, at) in [(body, single), (batch, batched)] {
            assert_eq!(rig.apply(|record| record.write(rig.label("t"), Lane::ANY, &body)).await, Applied::Done);
            assert_eq!(rig.secondary.rows("SELECT k, v, writetime(v) FROM t"), [format!("1|2|{at}")]);
        }
    }
}
