//! Somebody has locked a table, on the origin or on the target: the mirror of all others goes on. And a target that hangs keeps
//! nothing on the origin.

use crate::support::stage::Stage;
use crate::support::{connect, rows, sql, until};

const SCHEMA: &str = "CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int)";
const TABLES: &[&str] = &["a", "b"];

async fn stage() -> Stage {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO a SELECT i, 0 FROM generate_series(1, 9) i").await;
    stage.assert_equal(TABLES).await;
    stage
}

/// A row of `b` that a client writes now comes to the target.
async fn b_is_mirrored(stage: &Stage, id: i32) {
    sql(&stage.url(), &format!("INSERT INTO b VALUES ({id}, 1)")).await;
    let there = format!("SELECT FROM b WHERE id = {id}");
    let there = until(async || (rows(&stage.target.url("postgres"), &there).await.len() == 1).then_some(())).await;
    there.unwrap_or_else(|| panic!("row {id} waits for the lock\n{}", stage.tandem.log()));
}

async fn a_waits(stage: &Stage, side: &str) {
    let says = |status: &serde_json::Value| {
        let why = status["mirror"]["held"]["\"public\".\"a\""].as_str();
        why.is_some_and(|why| why.contains(&format!("waits for a lock on the {side}")))
    };
    stage.tandem.status_is("waiting", says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_on_the_origin_waits_and_no_other_does() {
    let stage = stage().await;
    let locker = connect(&stage.origin.url("postgres")).await;
    locker.batch_execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let writer = connect(&stage.url()).await;
    let writes = tokio::spawn(async move { writer.batch_execute("UPDATE a SET v = 1 WHERE id = 1").await });
    let queued = "SELECT FROM pg_locks l JOIN pg_stat_activity s USING (pid) \
        WHERE NOT l.granted AND s.query LIKE 'UPDATE a%'";
    until(async || (!rows(&stage.origin.url("postgres"), queued).await.is_empty()).then_some(())).await.expect("waits");
    for id in 1..=5 {
        b_is_mirrored(&stage, id).await;
    }
    a_waits(&stage, "primary").await;
    assert!(!writes.is_finished(), "the lock is there");
    locker.batch_execute("COMMIT").await.expect("let go");
    writes.await.expect("no panic in it").expect("written");
    stage.assert_equal(TABLES).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT v FROM a WHERE id = 1").await, ["1"]);
    stage.tandem.status_is("going on", |status| status["mirror"]["held"] == serde_json::json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_on_the_target_waits_and_no_other_does() {
    let stage = stage().await;
    for lock in ["LOCK TABLE a IN SHARE MODE", "SELECT FROM a WHERE id = 1 FOR UPDATE"] {
        let locker = connect(&stage.target.url("postgres")).await;
        locker.batch_execute(&format!("BEGIN; {lock}")).await.expect("locked");
        sql(&stage.url(), "UPDATE a SET v = v + 1 WHERE id = 1").await;
        a_waits(&stage, "secondary").await;
        let first: i32 =
            rows(&stage.origin.url("postgres"), "SELECT count(*) FROM b").await[0].parse().expect("a count");
        for id in first..first + 5 {
            b_is_mirrored(&stage, id).await;
        }
        locker.batch_execute("ROLLBACK").await.expect("let go");
        stage.assert_equal(TABLES).await;
    }
    let log = stage.tandem.log();
    assert!(!log.contains("mirror waits"), "it keeps its connections\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_of_a_table_that_is_locked_on_the_target_says_what_waits_for_it() {
    let stage = stage().await;
    b_is_mirrored(&stage, 1).await;
    let mirrors = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tandem mirror%' ORDER BY 1";
    let before = rows(&stage.target.url("postgres"), mirrors).await;
    let reader = connect(&stage.target.url("postgres")).await;
    reader.batch_execute("BEGIN; SELECT FROM a").await.expect("it reads");
    sql(&stage.url(), "ALTER TABLE a ADD COLUMN w int; INSERT INTO b VALUES (2, 1)").await;
    let says = |status: &serde_json::Value| {
        let why = status["mirror"]["held"]["\"public\".\"a\""].as_str();
        why.is_some_and(|why| why.starts_with("ALTER TABLE waits for a lock on the secondary"))
    };
    stage.tandem.status_is("waiting", says).await;
    // Longer than a heartbeat.
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    stage.tandem.status_is("waiting still", says).await;
    assert_eq!(rows(&stage.target.url("postgres"), mirrors).await, before, "it keeps its connections");
    reader.batch_execute("COMMIT").await.expect("it has read");
    stage.assert_equal(TABLES).await;
    stage.tandem.status_is("going on", |status| status["mirror"]["held"] == serde_json::json!({})).await;
}

/// Transactions of the mirror that keep the origin's VACUUM from its work.
const PINNED: &str = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'tandem mirror%' AND backend_xmin IS NOT NULL \
    AND xact_start < clock_timestamp() - interval '2 s'";

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_in_a_payment_keeps_no_snapshot_of_the_origin() {
    let stage = stage().await;
    let pinned = async |stage: &Stage| !rows(&stage.origin.url("postgres"), PINNED).await.is_empty();
    // Until it stops inside a payment.
    let mut id = 0;
    let stopped = until(async || {
        stage.target.freeze();
        sql(&stage.url(), "UPDATE a SET v = v + 1").await;
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        if pinned(&stage).await {
            return Some(());
        }
        stage.target.thaw();
        id += 1;
        b_is_mirrored(&stage, id).await;
        None
    });
    stopped.await.expect("a payment waits for it");
    until(async || (!pinned(&stage).await).then_some(())).await.expect("the snapshot is given up");
    stage
        .tandem
        .status_is("failing", |status| {
            status["mirror"]["error"].as_str().is_some_and(|why| why.starts_with("secondary: "))
        })
        .await;
    sql(&stage.url(), "UPDATE a SET v = v + 1").await;
    assert!(!pinned(&stage).await, "nor is another one taken");
    stage.target.thaw();
    stage.assert_equal(TABLES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_slow_is_not_taken_for_one_that_hangs() {
    let stage = stage().await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(50); RETURN NULL; END'; \
        CREATE TRIGGER slow AFTER INSERT ON b EXECUTE FUNCTION slow(); ALTER TABLE b ENABLE ALWAYS TRIGGER slow";
    sql(&stage.target.url("postgres"), slow).await;
    sql(&stage.url(), "INSERT INTO b VALUES (1, 1)").await;
    stage.assert_equal(TABLES).await;
    let log = stage.tandem.log();
    assert!(!log.contains("mirror waits"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_that_takes_long_on_the_target_keeps_no_snapshot_of_the_origin() {
    let stage = stage().await;
    let plain = "CREATE FUNCTION f(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN n; END'";
    let slow = "CREATE FUNCTION f(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN \
        WHILE NOT pg_catalog.pg_try_advisory_xact_lock(7) LOOP PERFORM pg_catalog.pg_sleep(0.05); END LOOP; RETURN n; END'";
    sql(&stage.origin.url("postgres"), plain).await;
    sql(&stage.target.url("postgres"), slow).await;
    let holder = connect(&stage.target.url("postgres")).await;
    holder.batch_execute("SELECT pg_advisory_lock(7)").await.expect("locked");
    sql(&stage.url(), "CREATE INDEX i ON a (f(v)); UPDATE a SET v = 5").await;
    let building = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND state = 'active' \
        AND query_start < clock_timestamp() - interval '5 s'";
    let built = until(async || (!rows(&stage.target.url("postgres"), building).await.is_empty()).then_some(())).await;
    built.unwrap_or_else(|| panic!("it is never repeated\n{}", stage.tandem.log()));
    assert_eq!(rows(&stage.origin.url("postgres"), PINNED).await, Vec::<String>::new());
    // More of them end meanwhile.
    sql(&stage.url(), "ALTER TABLE b ADD COLUMN w int; INSERT INTO b VALUES (1, 1, 1)").await;
    holder.batch_execute("SELECT pg_advisory_unlock(7)").await.expect("unlocked");
    stage.assert_equal(TABLES).await;
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'i'";
    assert_eq!(rows(&stage.target.url("postgres"), index).await, ["1"]);
}
