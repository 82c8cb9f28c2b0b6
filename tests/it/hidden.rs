//! Writes that no statement shows: functions, DO, triggers, rules.

use tokio_postgres::types::Type;

use crate::support::stage::Stage;
use crate::support::{connect, rows};

const SCHEMA: &str = "
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE audit (id bigserial PRIMARY KEY, what text);
CREATE TABLE ruled (id int PRIMARY KEY, v text);
CREATE TABLE noted (id bigserial PRIMARY KEY, what text);
CREATE FUNCTION put(n int) RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO t VALUES (n, 'by function') ON CONFLICT (id) DO UPDATE SET v = 'again'; RETURN n; END $$;
CREATE PROCEDURE called(n int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (n, 'by procedure'); END $$;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END $$;
CREATE TABLE watched (id int PRIMARY KEY, v text);
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION note();
CREATE RULE too AS ON INSERT TO ruled DO ALSO INSERT INTO noted (what) VALUES ('ruled');";
const TABLES: &[&str] = &["t", "audit", "ruled", "noted", "watched"];

/// What writes in secret, by kind.
const HIDDEN: &[(&str, &str)] = &[
    ("function", "SELECT put(1)"),
    ("function again", "SELECT put(1) FROM generate_series(1, 3)"),
    ("procedure", "CALL called(2)"),
    ("DO", "DO $$ BEGIN INSERT INTO t VALUES (3, 'by DO'); END $$"),
    ("trigger", "INSERT INTO watched VALUES (1, 'a')"),
    ("trigger of an update by key", "UPDATE watched SET v = 'b' WHERE id = 1"),
    ("rule", "INSERT INTO ruled VALUES (1, 'a')"),
];

async fn stage(more: &str) -> Stage {
    Stage::new(SCHEMA, more, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_functions_triggers_and_rules_wrote_is_repaired_promise_6() {
    let stage = stage("").await;
    let client = connect(&stage.url()).await;
    for (kind, sql) in HIDDEN {
        client.batch_execute(sql).await.expect(kind);
        stage.tandem.repair_all().await;
        stage.assert_equal(TABLES).await;
    }
    for (kind, sql) in HIDDEN.iter().filter(|(kind, _)| kind.contains("again") || kind.contains("update")) {
        client
            .batch_execute(&format!("BEGIN; {sql}; INSERT INTO audit (what) VALUES ('shown'); COMMIT"))
            .await
            .expect(kind);
        stage.tandem.repair_all().await;
        stage.assert_equal(TABLES).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dirty_table_is_repaired_without_being_asked() {
    let stage = stage("").await;
    connect(&stage.url()).await.batch_execute("SELECT put(1)").await.expect("a function");
    stage.assert_equal(TABLES).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT * FROM t").await, ["1|by function"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_array_names_arrive() {
    let stage = stage("[mirror]\nself_repair = false").await;
    let client = connect(&stage.url()).await;
    client.batch_execute("INSERT INTO t SELECT n, 'old' FROM generate_series(1, 9) n").await.expect("rows");
    stage.assert_equal(TABLES).await;
    let update = "UPDATE t SET v = 'new' WHERE id = ANY($1)";
    assert_eq!(client.execute(update, &[&vec![1, 2, 77]]).await.expect("updated"), 2);
    let delete = "DELETE FROM t WHERE id = ANY($1::int[]) AND v = 'old'";
    assert_eq!(client.execute(delete, &[&vec![Some(1), Some(3), None]]).await.expect("deleted"), 1);
    client
        .batch_execute("DELETE FROM t WHERE id = ANY(ARRAY[5, 6]); UPDATE t SET v = 'x' WHERE id = ANY('{7, 8}')")
        .await
        .expect("both");
    stage.assert_equal(TABLES).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*) FROM t").await, ["6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_writes_past_tandem_is_repaired_promise_6() {
    let stage = stage("").await;
    let (client, stranger) = (connect(&stage.url()).await, connect(&stage.origin.url("postgres")).await);
    client.batch_execute("INSERT INTO watched VALUES (1, 'a')").await.expect("through tandem");
    noticed(&stage, &stranger).await;
}

/// What is written past tandem from now on is.
async fn noticed(stage: &Stage, stranger: &tokio_postgres::Client) {
    let target = stage.target.url("postgres");
    // Whatever the moment of the first comparison: sooner or later one row comes behind it.
    for id in 0.. {
        stranger.batch_execute(&format!("INSERT INTO t VALUES ({id}, 'past')")).await.expect("past tandem");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        if rows(&target, "SELECT 1 FROM t LIMIT 1").await == ["1"] {
            break;
        }
        assert!(id < 400, "never noticed:\n{}", stage.tandem.log());
    }
    assert!(stage.tandem.log().contains("past tandem"));
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_commits_on_its_way_is_no_stranger_and_hides_none() {
    let stage = stage("").await;
    let (client, stranger) = (connect(&stage.url()).await, connect(&stage.origin.url("postgres")).await);
    // Longer than from one look at the primary's counts to the next, of which the first is behind its first row.
    let slowly = "DO $$ BEGIN FOR n IN 1..50 LOOP
        INSERT INTO noted (what) VALUES ('by DO'); COMMIT; PERFORM pg_sleep(0.5); END LOOP; END $$";
    client.batch_execute(slowly).await.expect("it runs");
    stage.assert_equal(TABLES).await;
    assert!(!stage.tandem.log().contains("past tandem"), "{}", stage.tandem.log());
    noticed(&stage, &stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_transaction_wrote_in_secret_reaches_nobody_promise_2() {
    let stage = stage("").await;
    let client = connect(&stage.url()).await;
    for (kind, sql) in HIDDEN {
        for statement in ["BEGIN", sql, "ROLLBACK"] {
            client.batch_execute(statement).await.expect(kind);
        }
    }
    stage.assert_equal(TABLES).await;
    for table in TABLES {
        let count = rows(&stage.target.url("postgres"), &format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(count, ["0"], "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_keys_are_hidden_is_refused_where_configured_and_fails_its_transaction_only() {
    let stage = stage("[mirror]\non_uncaptured = \"refuse\"").await;
    let client = connect(&stage.url()).await;
    for (kind, sql) in HIDDEN.iter().filter(|(kind, _)| ["function", "procedure", "DO"].contains(kind)) {
        let error = client.batch_execute(sql).await.expect_err(kind);
        let error = error.as_db_error().expect("an answer").clone();
        assert_eq!(error.code().code(), "0A000", "{kind}");
        assert!(error.message().contains("tandem: this statement is refused while mirroring"), "{kind}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("mirror.on_uncaptured")), "{kind}");
        // Prepared, too.
        assert!(
            client.query(*sql, &[]).await.is_err_and(|error| error.code().is_some_and(|code| code.code() == "0A000")),
            "{kind}"
        );
        client.batch_execute("BEGIN; INSERT INTO t VALUES (9, 'never')").await.expect("an open transaction");
        client.batch_execute(sql).await.expect_err(kind);
        let failed = client.batch_execute("SELECT 1").await.expect_err("the transaction has failed");
        assert_eq!(failed.code().map(|code| code.code()), Some("25P02"), "{kind}");
        client.batch_execute("ROLLBACK").await.expect("it ends");
        client.batch_execute("BEGIN; SAVEPOINT s").await.expect("an open transaction");
        client.batch_execute(sql).await.expect_err(kind);
        client.batch_execute("ROLLBACK TO s; COMMIT").await.expect("a savepoint saves it");
    }
    // With parameters, which it keeps.
    let prepared = client.prepare("SELECT put($1) WHERE $2").await.expect("it is not run");
    assert_eq!(prepared.params(), [Type::INT4, Type::BOOL]);
    for _ in 0..2 {
        let error = client.query(&prepared, &[&6_i32, &true]).await.expect_err("refused");
        assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{error}");
    }
    client.batch_execute("INSERT INTO t VALUES (5, 'shown')").await.expect("what shows its keys runs");
    stage.assert_equal(TABLES).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT * FROM t").await, ["5|shown"]);
}
