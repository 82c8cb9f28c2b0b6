//! Clients that hang up leave nothing behind: the server is told, and the gate is free again.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{BufMut, BytesMut};
use tandem::protocol::postgres::wire;

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
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let mut packet = BytesMut::new();
    packet.put_i32(0);
    packet.put_i32(wire::VERSION_3_0);
    for text in ["user", "postgres", "database", "postgres", ""] {
        wire::cstr(&mut packet, text.as_bytes());
    }
    let len = (packet.len() as i32).to_be_bytes();
    packet[..4].copy_from_slice(&len);
    stream.write_all(&packet).expect("sent");
    let mut seen = Vec::new();
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1);
        seen.push(byte[0]);
    }
    stream.write_all(script).expect("sent");
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
