//! Clients that hang up leave nothing behind: the server is told, and the gate is free again.

use bytes::BytesMut;
use tandem::protocol::postgres::wire;

use crate::support::raw::Raw;
use crate::support::{pair, rows, sql, tandem::Tandem};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_inside_a_message_or_a_statement_leaves_nothing_behind() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    for url in [&origin_url, &target_url] {
        sql(url, "CREATE TABLE t (id int PRIMARY KEY)").await;
    }
    let tandem = Tandem::start(&origin_url, &target_url, "").await;
    for script in
        [half_a_copy(), query("BEGIN; INSERT INTO t VALUES (7)"), query("SELECT pg_sleep(60)"), BytesMut::new()]
    {
        let port = tandem.port;
        tokio::task::spawn_blocking(move || leave(port, &script)).await.expect("the thread ends");
    }
    tandem.status_is("left alone", |status| status["units_inside"] == 0).await;
    let mine = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";
    assert_eq!(rows(&origin_url, mine).await, ["0"]);
    tandem.caught_up().await;
    for url in [&origin_url, &target_url] {
        assert_eq!(rows(url, "SELECT count(*) FROM t").await, ["0"]);
    }
}

/// Log in, send, and close without a word.
fn leave(port: u16, script: &[u8]) {
    let mut client = Raw::connect(port);
    client.send(script);
    if script.starts_with(b"Q") {
        // What is sent whole is executed: leave when it runs.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn query(sql: &str) -> BytesMut {
    let mut out = BytesMut::new();
    wire::query(&mut out, sql.as_bytes());
    out
}

fn half_a_copy() -> BytesMut {
    let mut out = query("COPY t FROM STDIN");
    out.extend_from_slice(b"d\x00\x00\x10\x001\n2\n3");
    out
}
