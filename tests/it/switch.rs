//! The switch and the way back, on real servers.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::stage::Stage;
use crate::support::{connect, load, rows};

const SCHEMA: &str = "CREATE TABLE acc (id bigserial PRIMARY KEY, bal bigint NOT NULL)";

async fn one(client: &Client, query: &str) -> String {
    let messages = client.simple_query(query).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or("-").to_owned()
}

#[tokio::test]
async fn a_session_keeps_what_it_has_and_numbers_go_on() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    client
        .batch_execute("SET work_mem = '1234kB'; SET app.tenant = 'seven'; PREPARE twice (int) AS SELECT $1 * 2")
        .await
        .expect("set");
    client.batch_execute("INSERT INTO acc (bal) VALUES (1), (2), (3)").await.expect("written");
    let update = client.prepare("UPDATE acc SET bal = bal + 1 WHERE id = $1").await.expect("prepared");
    assert_eq!(client.execute(&update, &[&1_i64]).await.expect("updated"), 1);
    let port = one(&client, "SELECT inet_server_port()").await;
    assert_eq!(port, stage.origin.port().to_string());

    for (to, server, epoch) in [("target", &stage.target, 2), ("origin", &stage.origin, 3)] {
        let ended = stage.switch(to).await;
        assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
        assert_eq!(one(&client, "SELECT inet_server_port()").await, server.port().to_string());
        assert_eq!(one(&client, "SHOW work_mem").await, "1234kB");
        assert_eq!(one(&client, "SHOW app.tenant").await, "seven");
        assert_eq!(one(&client, "EXECUTE twice (21)").await, "42");
        assert_eq!(client.execute(&update, &[&1_i64]).await.expect("updated"), 1);
        client.batch_execute("INSERT INTO acc (bal) VALUES (0)").await.expect("the next number");
        stage.steady().await;
        let status = stage.tandem.client().get("/v1/status").await.expect("it answers");
        assert_eq!((&status["primary"], &status["epoch"]), (&to.into(), &epoch.into()));
    }
    stage.assert_equal(&["acc"]).await;
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT bal FROM acc WHERE id = 1").await, ["4"]);
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT max(id) FROM acc").await, ["5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_switched_there_and_back_without_a_loss() {
    let stage = Stage::of_load().await;
    let load = stage.load(8);
    let mut held = Vec::new();
    for round in 0..6 {
        load.more(150).await;
        let ended = stage.switch(if round % 2 == 0 { "target" } else { "origin" }).await;
        assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
        held.push(ended["held_us"].as_u64().expect("a number"));
        stage.steady().await;
    }
    load.more(150).await;
    let done = load.stop().await;
    assert_eq!(done.lost, 0, "{}", stage.tandem.log());
    stage.assert_kept(&done).await;
    println!("held for {held:?} us");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    let ended = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
    assert_eq!(ended["end"], "ready", "{ended:#}");
    client.batch_execute("CREATE TEMP TABLE mine (id int)").await.expect("made");
    let ended = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
    assert_eq!(ended["end"], "refused", "{ended:#}");
    assert_eq!(ended["findings"][0]["name"], "session_immovable", "{ended:#}");
    assert_eq!(one(&client, "SELECT inet_server_port()").await, stage.origin.port().to_string());
    let _ = load::TABLES;
}
