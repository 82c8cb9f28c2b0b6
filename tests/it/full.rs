//! A journal without room: clients go on, tables are dirty, and it heals by itself (promises 6 and 7).

use std::time::Duration;

use ::tandem::protocol::postgres::wire;
use ::tandem::sandbox::{Stop, free_port};
use bytes::BytesMut;
use tokio::time::timeout;
use tokio_postgres::{NoTls, error::SqlState};

use crate::support::raw::{M, Raw};
use crate::support::tandem::{Tandem, program};
use crate::support::{connect, pair, rows, sql, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_when_the_journal_is_full_and_both_sides_are_equal_in_the_end() {
    let (origin, mut target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    for url in [&origin_url, &target_url] {
        sql(url, "CREATE TABLE large (k text PRIMARY KEY); CREATE TABLE small (id int PRIMARY KEY)").await;
        sql(url, "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE)").await;
        sql(url, "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 2)").await;
    }
    target.stop(Stop::Fast).expect("it stops");
    let tandem = Tandem::start(&origin_url, &target_url, "[journal]\nsize_limit = \"128MB\"").await;
    let client = connect(&tandem.url("postgres")).await;
    // Keys of two kilobytes, which only the server knows: more than the journal takes, in one answer.
    let many = "INSERT INTO large SELECT repeat('k', 2000) || n FROM generate_series(1, 75000) n";
    assert_eq!(client.execute(many, &[]).await.expect("inserted"), 75_000);
    tandem.status_is("behind", |status| status["mirror"]["lag_bytes"].as_u64() > Some(64 << 20)).await;
    for id in 0..200_i32 {
        client.execute("INSERT INTO small VALUES ($1)", &[&id]).await.expect("inserted");
    }
    // What this takes along is in no journal either.
    client.execute("DELETE FROM p WHERE id = 1", &[]).await.expect("deleted");
    let dirty = tandem.client().get("/v1/dirty").await.expect("it answers");
    let tables = dirty.as_array().expect("a list");
    let large = tables.iter().find(|entry| entry["table"] == "public.large").expect("it is dirty");
    assert!(large["reasons"]["journal"].as_u64() > Some(0), "{dirty}");
    target.start().expect("it comes back");
    tandem.settled().await;
    for table in ["large", "small", "p", "c"] {
        let query = format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t");
        assert_eq!(rows(&target_url, &query).await, rows(&origin_url, &query).await, "{table}: {}", tandem.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_or_cancels_while_it_waits_for_room_leaves_nothing_behind() {
    let (origin, mut target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    for url in [&origin_url, &target_url] {
        sql(url, "CREATE TABLE large (k text PRIMARY KEY); CREATE TABLE small (id int PRIMARY KEY, v int)").await;
        sql(url, "INSERT INTO small VALUES (1, 0), (2, 0), (3, 0)").await;
    }
    target.stop(Stop::Fast).expect("it stops");
    let more = "[journal]\nsize_limit = \"128MB\"\non_full = \"block\"\n[mirror]\nself_repair = false";
    let tandem = Tandem::start(&origin_url, &target_url, more).await;
    fill(&tandem, &origin_url).await;
    // One that waits with a transaction open, and a lock.
    let port = tandem.port;
    let waiting = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(port);
        raw.run(&[M::Q("BEGIN"), M::Wait, M::Q("UPDATE small SET v = 1 WHERE id = 1")]);
        let mut commit = BytesMut::new();
        wire::query(&mut commit, b"COMMIT");
        raw.send(&commit);
        raw
    });
    let waiting = waiting.await.expect("no panic");
    tandem.status_is("waiting", |status| status["journal"]["waiting"].as_u64() == Some(1)).await;
    let other = connect(&tandem.url("postgres")).await;
    let read = timeout(Duration::from_secs(60), other.query("SELECT v FROM small WHERE id = 1", &[])).await;
    assert_eq!(read.expect("nobody who reads waits").expect("read").len(), 1);
    drop(waiting);
    // What commits nothing needs no room.
    for sql in ["BEGIN", "UPDATE small SET v = 2 WHERE id = 1", "ROLLBACK"] {
        timeout(Duration::from_secs(60), other.batch_execute(sql)).await.expect("the lock is gone").expect("it runs");
    }
    tandem.status_is("waiting no more", |status| status["journal"]["waiting"].as_u64() == Some(0)).await;
    // One that is cancelled.
    let stop = other.cancel_token();
    let writing = tokio::spawn(async move {
        let written = other.execute("UPDATE small SET v = 3 WHERE id = 2", &[]).await;
        (other, written)
    });
    tandem.status_is("waiting", |status| status["journal"]["waiting"].as_u64() == Some(1)).await;
    stop.cancel_query(NoTls).await.expect("it is heard");
    let (other, written) = timeout(Duration::from_secs(60), writing).await.expect("it ends").expect("no panic");
    assert_eq!(written.expect_err("it is cancelled").code(), Some(&SqlState::QUERY_CANCELED), "{}", tandem.log());
    assert_eq!(other.query("SELECT", &[]).await.expect("the session goes on").len(), 1);
    assert_eq!(rows(&origin_url, "SELECT id, v FROM small ORDER BY id").await, ["1|0", "2|0", "3|0"]);
    target.start().expect("it comes back");
    tandem.nothing_set_aside().await;
    for table in ["large", "small"] {
        let query = format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t");
        assert_eq!(rows(&target_url, &query).await, rows(&origin_url, &query).await, "{table}: {}", tandem.log());
    }
}

/// Write more and more, until there is no room for the smallest record either. Who waits for room at last gives up.
async fn fill(tandem: &Tandem, origin: &str) {
    // Keys of two kilobytes, which only the server knows.
    let many = |count: u32, name: &str| {
        format!(
            "INSERT INTO large SELECT repeat('k', 2000) || '{name}' || clock_timestamp() || n FROM generate_series(1, {count}) n"
        )
    };
    for write in [many(5_000, "many"), many(1, "one"), "UPDATE small SET v = v WHERE id = 3".to_owned()] {
        let (client, connection) = tokio_postgres::connect(&tandem.url("postgres"), NoTls).await.expect("it listens");
        let connection = tokio::spawn(connection);
        let writing = tokio::spawn(async move { while client.batch_execute(&write).await.is_ok() {} });
        let mut looks = 0;
        let full = until(async || {
            let status = tandem.client().get("/v1/status").await.expect("it answers");
            let waits = status["journal"]["waiting"].as_u64() > Some(0) && status["journal"]["full"] == true;
            looks = if waits { looks + 1 } else { 0 };
            (looks > 10).then_some(())
        });
        full.await.unwrap_or_else(|| panic!("there is room: {}", tandem.log()));
        connection.abort();
        writing.await.expect("no panic");
        tandem.status_is("left alone", |status| status["journal"]["waiting"].as_u64() == Some(0)).await;
    }
    let open = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO large%'";
    let gone = until(async || (rows(origin, open).await == ["0"]).then_some(()));
    gone.await.expect("what waited is rolled back");
}

/// What clients write meanwhile is in no journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_without_the_mirror_leaves_no_table_trusted_and_its_journal_to_nobody_else() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    for url in [&origin_url, &target_url] {
        sql(url, "CREATE TABLE acc (id int PRIMARY KEY)").await;
    }
    let mut tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false\nmode = \"async\"").await;
    let write = async |tandem: &Tandem, id: i32| {
        let client = connect(&tandem.url("postgres")).await;
        client.execute("INSERT INTO acc VALUES ($1)", &[&id]).await.expect("inserted");
    };
    write(&tandem, 1).await;
    tandem.settled().await;
    assert_eq!(tandem.terminate(), Some(0), "{}", tandem.log());
    let config = tandem.dir().join("proxy.toml");
    let mode = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&config).expect("it is there");
        std::fs::write(&config, text.replace(&format!("mode = \"{from}\""), &format!("mode = \"{to}\"")))
            .expect("ours");
    };
    mode("async", "off");
    tandem.launch().await;
    write(&tandem, 2).await;
    // On other ports, in the same directory.
    let text = std::fs::read_to_string(&config).expect("it is there");
    let admin = tandem.admin.rsplit_once(':').expect("a port").1;
    let text = text.replace(&tandem.port.to_string(), &free_port().to_string());
    std::fs::write(tandem.dir().join("other.toml"), text.replace(admin, &free_port().to_string())).expect("ours");
    let other = program().args(["run", "--config", "other.toml"]).current_dir(tandem.dir()).output().expect("it runs");
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && said.contains("is in use: a tandem runs with it"), "{said}");
    assert_eq!(tandem.terminate(), Some(0), "{}", tandem.log());
    mode("off", "async");
    tandem.launch().await;
    let dirty = tandem.client().get("/v1/dirty").await.expect("it answers");
    assert_eq!(dirty[0]["table"], "public.acc", "{dirty}");
    tandem.repair_all().await;
    tandem.settled().await;
    assert_eq!(rows(&target_url, "SELECT id FROM acc ORDER BY 1").await, ["1", "2"], "{}", tandem.log());
}
