//! What the applier makes of a primary whose nodes are slow, or know different things.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::sleep;

use super::*;
use crate::journal::Lsn;
use crate::mirror::replay::Applier as _;
use crate::protocol::cql::client::Settings;
use crate::protocol::cql::cluster::scripted::{Scripted, hurry};
use crate::protocol::cql::look::Decided;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::{BatchKind, Parameters, Statement, StatementText, Values};
use crate::protocol::cql::write;
use crate::record::{Backend, RecordBuf, Side};

/// A write of a row, as a record has it.
fn insert() -> (Lane, BytesMut) {
    let parameters = Parameters {
        timestamp: Some(now_micros()),
        now_in_seconds: i32::try_from(now_micros() / 1_000_000).ok(),
        ..Parameters::new(Consistency::LocalQuorum)
    };
    let text = StatementText::Text(b"INSERT INTO k.t (k, v) VALUES (1, 1)");
    let mut body = BytesMut::new();
    write::put_statement(&mut body, Statement { text, values: Values::Given(&[]) }, &parameters).expect("short");
    (Lane::beside(hash_of([[0, 0, 0, 1]])), body)
}

/// Two clusters and an applier between them.
struct Rig {
    primary: Scripted,
    secondary: Scripted,
    applier: Applier,
}

fn reach(cluster: Cluster) -> Reach {
    let cluster = Arc::new(cluster);
    Arc::new(move || Some(cluster.clone()))
}

impl Rig {
    async fn of(primary: Scripted) -> Rig {
        let secondary = Scripted::start(1, &[("t", &["k", "v"])]).await;
        let clusters = [
            primary.enter(Settings::default(), Side::Origin).await,
            secondary.enter(Settings::default(), Side::Target).await,
        ];
        let [up, down] = clusters.map(reach);
        Rig { primary, secondary, applier: Applier::new(up, down, Quiet::since_now(), Arc::new(|_| false)) }
    }

    async fn apply(&self, certainty: Certainty, build: impl FnOnce(&mut RecordBuf)) -> Applied {
        let mut buf = RecordBuf::default();
        build(&mut buf);
        let record = Record::parse(buf.finish(Backend { id: 1, life: 1 }).to_vec().into()).expect("well-formed");
        let (lsn, ended, handed, told) = (Lsn(1), Lsn(2), Lsn(2), tokio::time::Instant::now());
        self.applier.apply(&Job { lsn, record, certainty, late: false, attempt: 1, ended, handed, told }).await
    }

    /// A schema change that was sent so long ago, and whose answer nobody saw.
    async fn pass_in_doubt(&self, text: &str, ago: Duration) -> Applied {
        let ago = i64::try_from(ago.as_micros()).expect("not long");
        let parameters = Parameters { timestamp: Some(now_micros() - ago), ..Parameters::new(Consistency::One) };
        let statement = Statement { text: StatementText::Text(text.as_bytes()), values: Values::Given(&[]) };
        let mut body = BytesMut::new();
        write::put_statement(&mut body, statement, &parameters).expect("short");
        self.apply(Certainty::Unknown, |record| record.ddl(TableId::of("k", "t"), &body)).await
    }

    async fn settle(&self) -> Applied {
        let place = Place::partition(vec![vec![0; 4]]).encode().expect("short");
        self.apply(Certainty::Committed, |record| record.key(TableId::of("k", "t"), &place, true)).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_schema_change_in_doubt_is_done_if_the_primary_does_it_as_late_as_it_may() {
    hurry();
    // What the table has then; without a column it is gone.
    let changes: [(&str, &'static str, &[&'static str]); 4] = [
        ("CREATE TABLE k.u (k int PRIMARY KEY)", "u", &["k"]),
        ("DROP TABLE k.t", "t", &[]),
        ("ALTER TABLE k.t ADD w int", "t", &["k", "v", "w"]),
        ("ALTER TABLE k.t DROP v", "t", &["k"]),
    ];
    for (text, table, columns) in changes {
        let rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
        let late = async {
            sleep(Duration::from_secs(5)).await;
            rig.primary.change(|script| match columns {
                [] => drop(script.tables.remove(table)),
                some => drop(script.tables.insert(table, some.to_vec())),
            });
        };
        let (applied, ()) = tokio::join!(rig.pass_in_doubt(text, Duration::from_secs(60)), late);
        assert_eq!(applied, Applied::Done, "{text}");
        assert_eq!(rig.secondary.node(0).done.len(), 1, "{text}");
        assert!(rig.secondary.node(0).done[0].starts_with(text), "{:?}", rig.secondary.node(0).done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_schema_change_in_doubt_that_the_primary_never_does_is_not_done() {
    hurry();
    let rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
    for text in ["CREATE TABLE k.u (k int PRIMARY KEY)", "DROP TABLE k.t", "ALTER TABLE k.t ADD w int"] {
        assert_eq!(rig.pass_in_doubt(text, Duration::from_secs(70)).await, Applied::Done, "{text}");
        assert_eq!(rig.secondary.node(0).done, [""; 0], "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_datacenter_that_is_gone_holds_up_only_what_all_of_them_decided() {
    hurry();
    let rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
    let place = Place::partition(vec![vec![0; 4]]).encode().expect("short");
    // What is not away is refused: these nodes show no rows.
    for (lacks, waits) in [(Consistency::Serial, [false, false, true]), (Consistency::LocalSerial, [true, true, false])]
    {
        rig.primary.change(|script| script.lacks = Some(lacks));
        for (decided, waits) in [Decided::Unsaid, Decided::Local, Decided::Everywhere].into_iter().zip(waits) {
            let settled = rig.apply(Certainty::Unknown, |record| {
                record.look(Look::default().said(decided));
                record.key(TableId::of("k", "t"), &place, true);
            });
            let settled = settled.await;
            assert_eq!(matches!(settled, Applied::Away(_)), waits, "{lacks:?}, {decided:?}: {settled:?}");
        }
    }
}

/// What a client does to the table comes between no look at it and what is done for it.
#[tokio::test(start_paused = true)]
async fn nothing_is_done_again_on_the_primary_while_a_client_empties_the_table() {
    hurry();
    let barriers = Barriers::default();
    let mut rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
    rig.applier = rig.applier.among(barriers.clone());
    let alone = barriers.of(TableId::of("k", "t")).alone().await;
    let (lane, body) = insert();
    let again = || rig.apply(Certainty::Unknown, |record| record.write(TableId::of("k", "t"), lane, &body));
    let applied = again().await;
    assert!(matches!(applied, Applied::Away(_)) && rig.primary.node(0).done.is_empty(), "{applied:?}");
    drop(alone);
    assert_eq!((again().await, rig.primary.node(0).done.len()), (Applied::Done, 1));
}

#[tokio::test(start_paused = true)]
async fn a_logged_batch_in_doubt_is_looked_for_when_its_log_was_replayed() {
    hurry();
    let rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
    let place = Place::partition(vec![vec![0; 4]]).encode().expect("short");
    for (certainty, waits) in [(Certainty::Unknown, true), (Certainty::Committed, false)] {
        let began = tokio::time::Instant::now();
        // These nodes show no rows: it is refused.
        rig.apply(certainty, |record| {
            record.look(Look::default().said(Decided::Logged));
            record.key(TableId::of("k", "t"), &place, true);
        })
        .await;
        assert_eq!(began.elapsed() >= BATCH_LOG, waits, "{certainty:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_done_again_in_doubt_is_not_done_on_the_primary() {
    hurry();
    for is_once in [false, true] {
        let rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
        let (lane, mut body) = insert();
        if is_once {
            write::mark_once(&mut body);
        }
        let applied = rig.apply(Certainty::Unknown, |record| record.write(TableId::of("k", "t"), lane, &body)).await;
        let done = rig.primary.node(0).done.len() + rig.secondary.node(0).done.len();
        assert_eq!((applied == Applied::Done, done), if is_once { (false, 0) } else { (true, 2) }, "{applied:?}");
    }
}

/// By itself a client's level may be too low for who reads there behind a switch (CQL-CORNERS H3).
#[tokio::test(start_paused = true)]
async fn a_write_is_replayed_at_a_level_that_is_enough_to_be_read_at_local_quorum() {
    use Consistency::*;
    hurry();
    let rig = Rig::of(Scripted::start(1, &[("t", &["k", "v"])]).await).await;
    for given in Consistency::ALL {
        let expected = match given {
            Two | Three => Quorum,
            Quorum | EachQuorum | All => given,
            _ => LocalQuorum,
        };
        let parameters = Parameters { timestamp: Some(now_micros()), ..Parameters::new(given) };
        let text = StatementText::Text(b"INSERT INTO k.t (k, v) VALUES (1, 1)");
        let statement = Statement { text, values: Values::Given(&[]) };
        let (mut single, mut batch) = (BytesMut::new(), BytesMut::new());
        write::put_statement(&mut single, statement, &parameters).expect("short");
        write::put_statements(&mut batch, BatchKind::Logged, &[statement, statement], &parameters).expect("short");
        for body in [single, batch] {
            let write = |record: &mut RecordBuf| record.write(TableId::of("k", "t"), Lane::ANY, &body);
            assert_eq!(rig.apply(Certainty::Committed, write).await, Applied::Done, "{given:?}");
            assert_eq!(rig.secondary.node(0).levels.pop(), Some(expected), "{given:?}");
        }
    }
    assert_eq!((rig.secondary.node(0).done.len(), rig.primary.node(0).done.len()), (24, 0));
}

#[test]
fn what_fewer_replicas_may_have_than_had_to_acknowledge_it_is_looked_for_at_all_of_them() {
    let look = |backend: u32, certainty| {
        let mut buf = RecordBuf::default();
        buf.key(TableId::of("k", "t"), b"place", true);
        let record = buf.finish(Backend { id: backend, life: 0 }).to_vec().into();
        let record = Record::parse(record).expect("well-formed");
        let (lsn, ended, handed, told) = (Lsn(1), Lsn(2), Lsn(2), tokio::time::Instant::now());
        let job = Job { lsn, record, certainty, late: false, attempt: 1, ended, handed, told };
        Occasion::of(&job, None, Look::LocalQuorum).look
    };
    assert_eq!(look(1, Certainty::Committed), Look::LocalQuorum);
    assert_eq!(look(1, Certainty::Unknown), Look::All);
    // A quorum that lacks a row which one replica has is no reason to delete it from the other side.
    assert_eq!(look(0, Certainty::Committed), Look::All);
}

/// The node that is asked for the schema lacks the table; the others have it.
#[tokio::test(start_paused = true)]
async fn a_table_is_gone_only_if_all_nodes_of_the_primary_say_so() {
    hurry();
    let primary = Scripted::start(2, &[("t", &["k", "v"])]).await;
    primary.node(0).tables.clear();
    let rig = Rig::of(primary).await;
    let applied = rig.settle().await;
    assert!(matches!(applied, Applied::Retry(_)), "{applied:?}");
    let applied = rig.pass_in_doubt("DROP TABLE k.t", Duration::from_secs(70)).await;
    assert!(matches!(applied, Applied::Retry(_)), "{applied:?}");
    assert_eq!(rig.secondary.node(0).done, [""; 0]);
    rig.primary.change(|script| script.tables.clear());
    assert_eq!(rig.settle().await, Applied::Done);
}

/// As above, but it showed the table before.
#[tokio::test(start_paused = true)]
async fn a_table_that_a_node_of_the_primary_shows_no_more_is_not_gone_while_another_has_it() {
    hurry();
    let rig = Rig::of(Scripted::start(2, &[("t", &["k", "v"])]).await).await;
    // Reading it is refused, as if it was not there.
    let refused = rig.settle().await;
    assert!(matches!(refused, Applied::Reject(_)), "{refused:?}");
    rig.primary.node(0).tables.clear();
    let applied = rig.settle().await;
    assert!(matches!(applied, Applied::Retry(_)), "{applied:?}");
    rig.primary.node(1).tables.clear();
    assert_eq!(rig.settle().await, Applied::Done);
}

#[test]
fn what_a_write_leaves_is_as_new_as_its_text_says() {
    let newest = |texts: &[&str], values: &[(Option<&str>, Value<'_>)]| {
        let parameters = Parameters { timestamp: Some(1_000), ..Parameters::new(Consistency::One) };
        let statements: Vec<Statement<'_>> = (texts.iter())
            .map(|text| {
                let values = Values::Given(if text.contains('?') { values } else { &[] });
                Statement { text: StatementText::Text(text.as_bytes()), values }
            })
            .collect();
        let mut body = BytesMut::new();
        write::put_statements(&mut body, BatchKind::Unlogged, &statements, &parameters).expect("short");
        let write = Write::parse(&body).expect("well-formed");
        newest_of(&write, &Texts::default().take_apart(&write))
    };
    let (plain, early) =
        ("UPDATE t SET l = ['x'] WHERE k = 1", "UPDATE t USING TIMESTAMP 200 SET l = ['x'] WHERE k = 1");
    assert_eq!(newest(&[plain], &[]), Some(1_000));
    assert_eq!(newest(&[early], &[]), Some(200));
    assert_eq!(newest(&[early, plain], &[]), Some(1_000));
    let bound = 300_i64.to_be_bytes();
    let text = "UPDATE t USING TIMESTAMP ? SET l = ['x'] WHERE k = 1";
    assert_eq!(newest(&[early, text], &[(None, Value::Set(&bound))]), Some(300));
    let batch =
        "BEGIN BATCH USING TIMESTAMP 7 UPDATE t SET l = ['x'] WHERE k = 1; DELETE FROM t WHERE k = 2; APPLY BATCH";
    assert_eq!(newest(&[batch], &[]), Some(7));
}
