//! The origin fails over to a standby that has not received everything.

use ::tandem::sandbox::{Options, Sandbox, Stop, binaries};
use tokio_postgres::NoTls;

use crate::support::stage::Stage;
use crate::support::tandem::Tandem;
use crate::support::{load, load::Load, rows, server, server_with, sql, until};

/// What the old primary acknowledged and the standby never had is gone on the origin; the target, which may have it,
/// follows the origin that there is.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_equal_after_a_failover_of_the_origin_that_lost_writes() {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let mut origin = server_with("origin", &old, &Options::default());
    let target = server_with("target", &new, &Options::default());
    for server in [&origin, &target] {
        sql(&server.url("postgres"), load::SCHEMA).await;
    }
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let standby = origin.start_standby(&sandbox, "standby").expect("a standby");
    // The standby comes first: clients find the primary all the same.
    let hosts = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", standby.port(), origin.port());
    let tandem = Tandem::start(&hosts, &target.url("postgres"), "").await;
    let load = Load::start(&tandem.url("postgres"), 1, 8);
    load.more(300).await;
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    assert_eq!(rows(&origin.url("postgres"), streaming).await, ["1"]);
    for statement in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
        sql(&standby.url("postgres"), statement).await;
    }
    while rows(&origin.url("postgres"), streaming).await != ["0"] {}
    load.more(300).await;
    let state = "SELECT sum(hashtext(o::text)) FROM notes o";
    let lost = rows(&origin.url("postgres"), state).await;
    origin.stop(Stop::Kill).expect("it dies");
    sql(&standby.url("postgres"), "SELECT pg_promote()").await;
    assert_ne!(rows(&standby.url("postgres"), state).await, lost, "the standby had everything");
    load.more(300).await;
    let done = load.stop().await;
    // Clients whose deletes were lost may insert the same key again.
    assert!(done.refused.iter().all(|error| error.starts_with("23505")), "{:?}", done.refused);
    assert!(done.lost > 0, "the failover was seen");
    let stage = Stage { tandem, origin: standby, target };
    stage.assert_equal(load::TABLES).await;
}

/// A machine whose kernel lives answers for a server that does nothing any more: nobody is told that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_an_origin_that_hangs_is_followed() {
    let (mut origin, target) = (server("origin"), server("target"));
    let schema = "CREATE TABLE acc (id int PRIMARY KEY)";
    for server in [&origin, &target] {
        sql(&server.url("postgres"), schema).await;
    }
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let standby = origin.start_standby(&sandbox, "standby").expect("a standby");
    let ports = (origin.port(), standby.port());
    let hosts = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable", ports.0, ports.1);
    let limits = "[limits]\nlogin_timeout = \"5s\"\nconnect_timeout = \"2s\"";
    let tandem = Tandem::start(&hosts, &target.url("postgres"), limits).await;
    sql(&tandem.url("postgres"), "INSERT INTO acc VALUES (1)").await;
    tandem.settled().await;
    let received = "SELECT count(*) FROM acc";
    until(async || (rows(&standby.url("postgres"), received).await == ["1"]).then_some(())).await.expect("it streams");
    origin.freeze();
    sql(&standby.url("postgres"), "SELECT pg_promote()").await;
    let client = until(async || {
        let (client, connection) = tokio_postgres::connect(&tandem.url("postgres"), NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    });
    let client = client.await.unwrap_or_else(|| panic!("new clients stay with the host that hangs:\n{}", tandem.log()));
    client.batch_execute("INSERT INTO acc VALUES (2)").await.expect("it is the primary");
    tandem.settled().await;
    for server in [&standby, &target] {
        assert_eq!(rows(&server.url("postgres"), "SELECT id FROM acc ORDER BY id").await, ["1", "2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_cannot_be_taken_to_their_server_are_one_line_of_the_log() {
    let (mut origin, target) = (server("origin"), server("target"));
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), "").await;
    origin.stop(Stop::Kill).expect("it dies");
    let refused = "tandem_clients_refused_total{wire=\"postgres\",reason=\"refused\"}";
    for _ in 0..100 {
        tokio_postgres::connect(&tandem.url("postgres"), NoTls).await.err().expect("nobody is there");
    }
    assert_eq!(tandem.count(refused).await, 100);
    assert_eq!(tandem.log().matches("the primary cannot be reached").count(), 1, "{}", tandem.log());
}

/// Nothing reads the primary's schema then, which is how it is known otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn clients_find_the_primary_behind_a_standby_where_nothing_is_mirrored() {
    let (mut origin, target) = (server("origin"), server("target"));
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let standby = origin.start_standby(&sandbox, "standby").expect("a standby");
    let third = origin.start_standby(&sandbox, "third").expect("a standby");
    let [first, second, last] = [standby.port(), origin.port(), third.port()];
    let hosts = format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{last}/postgres");
    let tandem = Tandem::start(&hosts, &target.url("postgres"), "[mirror]\nmode = \"off\"").await;
    sql(&tandem.url("postgres"), "CREATE TABLE acc (id int PRIMARY KEY)").await;
    origin.stop(Stop::Kill).expect("it dies");
    sql(&third.url("postgres"), "SELECT pg_promote()").await;
    let client = until(async || {
        let (client, connection) = tokio_postgres::connect(&tandem.url("postgres"), NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    });
    let client = client.await.unwrap_or_else(|| panic!("nobody finds the new primary:\n{}", tandem.log()));
    client.batch_execute("CREATE TABLE more (id int PRIMARY KEY)").await.expect("it is the primary");
}
