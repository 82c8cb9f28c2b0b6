//! Two-phase transactions: what they wrote is owed until somebody ends them, on whatever connection (promise 3).

use crate::support::raw::{M, Raw};
use crate::support::stage::Stage;
use crate::support::{connect, rows, sql};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY);";
const TABLES: &[&str] = &["t", "other"];

async fn stage() -> Stage {
    Stage::new(SCHEMA, "", &["max_prepared_transactions = 5"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_of_a_prepared_transaction_is_owed_until_it_is_committed() {
    let stage = stage().await;
    // Keys too many for memory go to the journal before the transaction's end, as several records.
    let large = "INSERT INTO t SELECT n, 'large' FROM generate_series(1, 40000) n";
    let steps: &[(&str, &[&str])] = &[
        ("large", &["BEGIN", large, "UPDATE t SET v = 'last' WHERE id = 1", "PREPARE TRANSACTION 'large'"]),
        ("it''s", &["BEGIN; INSERT INTO t VALUES (50003, 'c'); PREPARE TRANSACTION E'it\\'s'"]),
        ("one", &["BEGIN; INSERT INTO t VALUES (50001, 'a'), (50002, 'b'); PREPARE TRANSACTION 'one'"]),
    ];
    for (mark, (gid, statements)) in steps.iter().enumerate() {
        let client = connect(&stage.url()).await;
        for statement in *statements {
            client.batch_execute(statement).await.expect(statement);
        }
        stage.write_arrives(mark).await;
        sql(&stage.origin.url("postgres"), &format!("COMMIT PREPARED '{gid}'")).await;
        drop(client);
        stage.assert_equal(TABLES).await;
    }
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*) FROM t").await, ["40003"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_prepared_transaction_that_was_pipelined_is_owed_until_it_is_committed() {
    let stage = stage().await;
    sql(&stage.url(), "INSERT INTO t SELECT n, 'before' FROM generate_series(1, 40000) n").await;
    stage.write_arrives(1).await;
    let run = |text| [M::P("", text), M::B("", "", &[], &[]), M::E("", 0)];
    // Which rows it is only the server knows, and they are too many for memory.
    let update = "UPDATE t SET v = 'after' WHERE v = 'before'";
    let script = [&run("BEGIN")[..], &run(update), &run("PREPARE TRANSACTION 'piped'"), &[M::S]].concat();
    let port = stage.tandem.port;
    let client = tokio::task::spawn_blocking(move || drop(Raw::connect(port).run(&script)));
    client.await.expect("it is answered");
    stage.write_arrives(2).await;
    sql(&stage.origin.url("postgres"), "COMMIT PREPARED 'piped'").await;
    stage.assert_equal(TABLES).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*) FROM t WHERE v = 'after'").await, ["40000"]);
}
