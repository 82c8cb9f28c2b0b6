//! The switch and the way back, on real servers.

use ::tandem::protocol::postgres::wire::{self, Message, back};
use ::tandem::sandbox::{Sandbox, Stop};
use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, Statement};

use crate::support::raw::{M, Raw};
use crate::support::stage::Stage;
use crate::support::tandem::Tandem;
use crate::support::{connect, pair, rows, sql, until};

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

#[tokio::test]
async fn a_tandem_that_lost_its_directory_does_not_send_clients_to_the_side_that_was_left() {
    let mut stage = Stage::new(SCHEMA, "", &[]).await;
    connect(&stage.url()).await.batch_execute("INSERT INTO acc (bal) VALUES (1)").await.expect("written");
    assert_eq!(stage.switch("target").await["end"], "switched");
    stage.steady().await;
    assert_eq!(stage.tandem.terminate(), Some(0));
    let (dir, kept) = (stage.tandem.dir().join("tandem-data"), stage.tandem.dir().join("kept"));
    std::fs::rename(&dir, &kept).expect("moved");
    stage.tandem.spawn();
    assert_eq!(stage.tandem.ended(), Some(2), "{}", stage.tandem.log());
    let log = stage.tandem.log();
    assert!(log.contains("the origin refuses writes") && log.contains("exchange [origin] and [target]"), "{log}");
    // With the directory of the switch, and the sides exchanged, neither.
    std::fs::remove_dir_all(&dir).ok();
    std::fs::rename(&kept, &dir).expect("moved back");
    let config = stage.tandem.dir().join("proxy.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    let exchanged = text.replace("[origin]", "[other]").replace("[target]", "[origin]").replace("[other]", "[target]");
    std::fs::write(&config, exchanged).expect("written");
    stage.tandem.spawn();
    assert_eq!(stage.tandem.ended(), Some(2), "{}", stage.tandem.log());
    let log = stage.tandem.log();
    assert!(log.contains("the target refuses writes") && log.contains("put them back"), "{log}");
    // As it was it goes on.
    std::fs::write(&config, text).expect("written");
    stage.tandem.launch().await;
    connect(&stage.url()).await.batch_execute("INSERT INTO acc (bal) VALUES (2)").await.expect("written");
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_switched_there_and_back_without_a_loss() {
    let stage = Stage::of_load().await;
    let load = stage.load(8);
    for round in 0..6 {
        load.more(150).await;
        let ended = stage.switch(if round % 2 == 0 { "target" } else { "origin" }).await;
        assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
        stage.steady().await;
    }
    load.more(150).await;
    let done = load.stop().await;
    assert_eq!(done.lost, 0, "{}", stage.tandem.log());
    stage.assert_kept(&done).await;
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
}

/// The next notification of a connection that runs by itself.
type Heard = tokio::sync::mpsc::Receiver<String>;

/// A client, and what it is told.
async fn listener(url: &str) -> (Client, Heard) {
    let (client, mut connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("the server answers");
    let (tell, heard) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notification(said) = message {
                let _ = tell.send(said.payload().to_owned()).await;
            }
        }
    });
    (client, heard)
}

#[tokio::test]
async fn whoever_listens_hears_what_was_said_before_the_switch_and_after_it() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let (_idle, mut heard) = {
        let (client, heard) = listener(&stage.url()).await;
        client.batch_execute("LISTEN news").await.expect("listens");
        (client, heard)
    };
    let speaker = connect(&stage.url()).await;
    for (round, to) in ["target", "origin", "target"].into_iter().enumerate() {
        let (before, after) = (format!("before {round}"), format!("after {round}"));
        speaker.batch_execute(&format!("NOTIFY news, '{before}'")).await.expect("said");
        assert_eq!(stage.switch(to).await["end"], "switched");
        speaker.batch_execute(&format!("NOTIFY news, '{after}'")).await.expect("said");
        assert_eq!(heard.recv().await, Some(before));
        assert_eq!(heard.recv().await, Some(after), "{}", stage.tandem.log());
        stage.steady().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_listens_is_told_of_the_new_server_s_settings_with_its_next_answer() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let mut idle = Raw::connect(stage.tandem.port);
    tokio::task::block_in_place(|| idle.run(&[M::Q("LISTEN news")]));
    assert_eq!(stage.switch("target").await["end"], "switched");
    sql(&stage.url(), "NOTIFY news").await;
    // pgjdbc's getNotifications gives its connection up when it meets anything else.
    let heard = tokio::task::block_in_place(|| idle.run(&[M::Until(back::NOTIFICATION_RESPONSE)]));
    assert_eq!(heard.len(), 1, "{heard:?}");
    let answer = tokio::task::block_in_place(|| idle.run(&[M::Q("SELECT 1")]));
    let told =
        |message: &Message| message.kind == back::PARAMETER_STATUS && message.body.starts_with(b"server_version");
    assert!(answer.iter().any(told), "{answer:?}");
}

#[tokio::test]
async fn a_session_that_is_held_is_looked_at_like_one_that_is_idle() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    client.batch_execute("BEGIN; INSERT INTO acc (bal) VALUES (1)").await.expect("begun");
    let (ended, ()) = tokio::join!(stage.switch("target"), async {
        stage.phase("draining").await;
        // CLOSE may leave a held cursor or take it away; the next statement is there before anybody could look.
        let (ended, answer) = tokio::join!(
            client.batch_execute("CLOSE ALL; COMMIT"),
            client.batch_execute("INSERT INTO acc (bal) VALUES (2)")
        );
        ended.and(answer).expect("it was only held");
    });
    assert_eq!(ended["end"], "switched", "{ended:#}");
}

#[tokio::test]
async fn who_listens_since_the_transaction_that_was_waited_for_hears_what_is_said_first() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let (client, mut heard) = listener(&stage.url()).await;
    client.batch_execute("BEGIN; LISTEN news").await.expect("begun");
    let speaker = connect(&stage.url()).await;
    let (ended, ()) = tokio::join!(stage.switch("target"), async {
        stage.phase("draining").await;
        // Held, it is the first that is done on the new primary.
        let said = tokio::spawn(async move { speaker.batch_execute("NOTIFY news, 'first'").await });
        stage.tandem.status_is("one is held", |status| status["units_held"] == 1).await;
        client.batch_execute("COMMIT").await.expect("listens");
        said.await.expect("no panics in it").expect("it was only held");
    });
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    assert_eq!(heard.recv().await.as_deref(), Some("first"), "{}", stage.tandem.log());
}

#[tokio::test]
async fn who_cannot_move_since_the_transaction_that_was_waited_for_aborts_the_switch() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    for _ in 0..5 {
        let client = connect(&stage.url()).await;
        client.batch_execute("BEGIN; CREATE TEMP TABLE mine (id int)").await.expect("begun");
        let (ended, ()) = tokio::join!(stage.switch("target"), async {
            stage.phase("draining").await;
            client.batch_execute("COMMIT").await.expect("it was waited for");
        });
        let why = ended["why"].as_str().unwrap_or_default();
        assert!(ended["end"] == "aborted" && why.contains("cannot be moved: temporary tables"), "{ended:#}");
        client.batch_execute("INSERT INTO mine VALUES (1); DROP TABLE mine").await.expect("it is still there");
        stage.steady().await;
    }
}

#[tokio::test]
async fn a_role_and_a_transaction_that_was_chained_go_along() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    for server in [&stage.origin, &stage.target] {
        let grants = "CREATE ROLE clerk; GRANT ALL ON acc TO clerk; GRANT ALL ON SEQUENCE acc_id_seq TO clerk";
        sql(&server.url("postgres"), grants).await;
    }
    let (clerk, chained) = (connect(&stage.url()).await, connect(&stage.url()).await);
    clerk.batch_execute("SET ROLE clerk; SET search_path = public, pg_catalog").await.expect("set");
    chained
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO acc (bal) VALUES (1)")
        .await
        .expect("begun");
    chained.batch_execute("COMMIT AND CHAIN").await.expect("chained");
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
    assert_eq!(one(&clerk, "SELECT current_user || ' ' || session_user").await, "clerk postgres");
    assert_eq!(one(&clerk, "SHOW search_path").await, "public, pg_catalog");
    assert_eq!(one(&chained, "SHOW transaction_isolation").await, "repeatable read");
    chained.batch_execute("INSERT INTO acc (bal) VALUES (2); ROLLBACK").await.expect("rolled back");
    clerk.batch_execute("INSERT INTO acc (bal) VALUES (3)").await.expect("may write");
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT bal FROM acc ORDER BY 1").await, ["1", "3"]);
}

/// As lib/pq and pgx talk: a statement without a name is described in one round trip, and bound in the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_session_leaves_its_unnamed_statement_alone() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1), (2)").await;
    let mut idle = Raw::connect(stage.tandem.port);
    let parsed = [M::Q("SET work_mem = '8MB'"), M::P("", "DELETE FROM acc WHERE bal = $1"), M::Ds(""), M::S];
    tokio::task::block_in_place(|| idle.run(&parsed));
    let ended = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
    assert_eq!(ended["end"], "ready", "{ended:#}\n{}", stage.tandem.log());
    let bound = [M::B("", "", &["1"], &[]), M::E("", 0), M::S];
    let answer = tokio::task::block_in_place(|| idle.run(&bound));
    assert!(answer.iter().any(|message| message.body.starts_with(b"DELETE 1")), "{answer:?}");
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT bal FROM acc").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unnamed_statement_of_a_chained_transaction_goes_along() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1), (2)").await;
    let mut chained = Raw::connect(stage.tandem.port);
    let parsed = [
        M::Q("BEGIN; INSERT INTO acc (bal) VALUES (3)"),
        M::P("chain", "COMMIT AND CHAIN"),
        M::P("", "DELETE FROM acc WHERE bal = $1"),
        M::B("then", "chain", &[], &[]),
        M::E("then", 0),
        M::S,
    ];
    tokio::task::block_in_place(|| chained.run(&parsed));
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
    let bound = [M::B("", "", &["1"], &[]), M::E("", 0), M::S, M::Q("COMMIT")];
    let answer = tokio::task::block_in_place(|| chained.run(&bound));
    assert!(answer.iter().any(|message| message.body.starts_with(b"DELETE 1")), "{answer:?}");
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT bal FROM acc ORDER BY 1").await, ["2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chained_transaction_in_which_nothing_ran_is_in_no_switch_s_way() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1), (2)").await;
    let mut chained = Raw::connect(stage.tandem.port);
    let mut run = |script: &[M]| tokio::task::block_in_place(|| chained.run(script));
    run(&[M::Q("BEGIN ISOLATION LEVEL SERIALIZABLE"), M::Q("SET work_mem = '1234kB'")]);
    let parsed = M::P("", "DELETE FROM acc WHERE bal = $1");
    run(&[M::P("chain", "COMMIT AND CHAIN"), parsed, M::B("then", "chain", &[], &[]), M::E("then", 0), M::S]);
    let look = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
    assert_eq!(look["end"], "ready", "{look:#}\n{}", stage.tandem.log());
    let answer = run(&[M::B("", "", &["1"], &[]), M::E("", 0), M::S, M::Q("SHOW transaction_isolation")]);
    let says =
        |answer: &[Message], what: &[u8]| answer.iter().any(|one| one.body.windows(what.len()).any(|w| w == what));
    assert!(says(&answer, b"DELETE 1") && says(&answer, b"serializable"), "{answer:?}");
    // A channel has to be there before clients go on: whoever may listen is looked at while they are held.
    run(&[M::Q("SET app.tenant = 'seven'; LISTEN news"), M::Q("COMMIT AND CHAIN")]);
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
    let shown = ["SHOW transaction_isolation", "SHOW work_mem", "SHOW app.tenant"].map(M::Q);
    let answer = run(&shown);
    for what in ["serializable", "1234kB", "seven"] {
        assert!(says(&answer, what.as_bytes()), "{answer:?}");
    }
    run(&[M::Q("DELETE FROM acc"), M::Q("COMMIT")]);
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    assert!(rows(&stage.target.url("postgres"), "SELECT bal FROM acc").await.is_empty());
}

const LOGIN: &str = "CREATE SCHEMA app;
    CREATE FUNCTION app.login(who int) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('app.user_id', who::text, false); END $$;
    CREATE FUNCTION app.put(name text, value text) RETURNS text LANGUAGE sql VOLATILE BEGIN ATOMIC
        SELECT set_config(name, value, false); END;
    CREATE TABLE own (id int PRIMARY KEY, who text DEFAULT current_setting('app.of_default', true));
    CREATE VIEW mine AS SELECT * FROM own WHERE who = current_setting('app.of_view', true);
    CREATE POLICY mine ON own USING (who = current_setting('app.of_policy'));
    CREATE FUNCTION app.kind(kind text, value text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE format('SET app.of_%s = %L', kind, value); END $$";

#[tokio::test]
async fn settings_that_code_of_the_server_makes_go_along() {
    let stage = Stage::new(&format!("{SCHEMA}; {LOGIN}"), "", &[]).await;
    let client = connect(&stage.url()).await;
    let prepare = "PREPARE late (text) AS SELECT set_config('app.late', $1, false)";
    client
        .batch_execute(&format!("SELECT app.login(42), app.put('app.tenant', 'john.doe'); {prepare}"))
        .await
        .expect("set");
    for kind in ["default", "view", "policy"] {
        client.batch_execute(&format!("SELECT app.kind('{kind}', 'x')")).await.expect("set");
    }
    client.batch_execute("DO $$ BEGIN PERFORM set_config('app.done', 'y', false); END $$").await.expect("set");
    // What nobody could look into may have written: its tables are mended first.
    stage.tandem.settled().await;
    let ended = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
    assert_eq!(ended["end"], "ready", "{ended:#}\n{}", stage.tandem.log());
    client.batch_execute("EXECUTE late ('z')").await.expect("set");
    stage.tandem.settled().await;
    let ended = stage.switch("target").await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    for (name, value) in [
        ("user_id", "42"),
        ("tenant", "john.doe"),
        ("of_default", "x"),
        ("of_view", "x"),
        ("of_policy", "x"),
        ("done", "y"),
        ("late", "z"),
    ] {
        let asked = format!("SELECT current_setting('app.{name}', true)");
        assert_eq!(one(&client, &asked).await, value, "{name}\n{}", stage.tandem.log());
    }
}

#[tokio::test]
async fn functions_and_types_of_one_session_pin_it() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    for (made, dropped, why) in [
        (
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "FUNCTION pg_temp.f",
            "temporary functions",
        ),
        ("CREATE TYPE pg_temp.mood AS ENUM ('so')", "TYPE pg_temp.mood", "temporary types"),
    ] {
        let client = connect(&stage.url()).await;
        client.batch_execute(made).await.expect("made");
        let ended = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
        let object = ended["findings"][0]["object"].as_str().unwrap_or_default();
        assert!(ended["end"] == "refused" && object.ends_with(&format!(": {why}")), "{ended:#}");
        client.batch_execute(&format!("DROP {dropped}")).await.expect("dropped");
    }
}

#[tokio::test]
async fn a_cancel_request_reaches_the_server_that_the_session_has_now() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    let token = client.cancel_token();
    assert_eq!(one(&client, "SELECT 1").await, "1");
    assert_eq!(stage.switch("target").await["end"], "switched");
    let (slept, cancelled) = tokio::join!(client.batch_execute("SELECT pg_sleep(60)"), async {
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
        while rows(&stage.target.url("postgres"), sleeping).await != ["1"] {}
        token.cancel_query(tokio_postgres::NoTls).await
    });
    cancelled.expect("sent");
    let code = slept.expect_err("cancelled").code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("57014"));
}

#[tokio::test]
async fn a_session_that_cannot_move_refuses_the_switch_or_is_closed() {
    for (more, end) in [("", "refused"), ("[cutover]\nimmovable = \"close\"\n", "switched")] {
        let stage = Stage::new(SCHEMA, more, &[]).await;
        let (pinned, other) = (connect(&stage.url()).await, connect(&stage.url()).await);
        pinned.batch_execute("SELECT pg_advisory_lock(7)").await.expect("locked");
        let ended = stage.switch("target").await;
        assert_eq!(ended["end"], end, "{ended:#}");
        let answer = pinned.batch_execute("SELECT 1").await;
        assert_eq!(answer.is_ok(), end == "refused");
        if let Err(error) = answer {
            assert!(error.is_closed() || error.code().is_some_and(|code| code.code() == "57P01"), "{error:?}");
        }
        assert_eq!(one(&other, "SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn a_transaction_that_does_not_end_aborts_the_switch_and_is_named() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let (slow, other) = (connect(&stage.url()).await, connect(&stage.url()).await);
    slow.batch_execute("BEGIN; INSERT INTO acc (bal) VALUES (1)").await.expect("begun");
    let ended = stage.ask_switch(&serde_json::json!({"to": "target", "max_hold_ms": 400})).await;
    assert_eq!(ended["end"], "aborted", "{ended:#}");
    let named = ended["hindrances"].to_string();
    assert!(named.contains("INSERT INTO acc") && !named.contains("VALUES (1)"), "{named}");
    assert_eq!(one(&other, "SELECT inet_server_port()").await, stage.origin.port().to_string());
    slow.batch_execute("COMMIT").await.expect("it goes on");
    stage.steady().await;
    assert_eq!(stage.switch("target").await["end"], "switched");
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
}

#[tokio::test]
async fn what_was_switched_stays_switched_after_a_kill() {
    let mut stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    assert_eq!(stage.switch("target").await["end"], "switched");
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (2)").await;
    stage.tandem.kill();
    stage.tandem.launch().await;
    let client = connect(&stage.url()).await;
    assert_eq!(one(&client, "SELECT inet_server_port()").await, stage.target.port().to_string());
    client.batch_execute("INSERT INTO acc (bal) VALUES (3)").await.expect("written");
    stage.assert_equal(&["acc"]).await;
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT count(*) FROM acc").await, ["3"]);
    stage.steady().await;
    assert_eq!(stage.switch("origin").await["end"], "switched", "{}", stage.tandem.log());
}

#[tokio::test]
async fn the_old_primary_takes_no_writes_past_tandem() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    assert_eq!(stage.switch("target").await["end"], "switched");
    stage.steady().await;
    let late = connect(&stage.origin.url("postgres")).await;
    let refused = late.batch_execute("INSERT INTO acc (bal) VALUES (1)").await.expect_err("read-only");
    assert_eq!(refused.code().map(|code| code.code()), Some("25006"));
    assert_eq!(stage.switch("origin").await["end"], "switched", "{}", stage.tandem.log());
    stage.steady().await;
    sql(&stage.origin.url("postgres"), "INSERT INTO acc (bal) VALUES (1)").await;
}

/// The origin dies for good while the target lacks rows: the target takes over, and what is lost is written down.
#[tokio::test]
async fn a_primary_that_is_gone_for_good_is_given_up() {
    let schema = format!(
        "{SCHEMA}; CREATE SEQUENCE loose; CREATE SEQUENCE late INCREMENT -1; CREATE SEQUENCE shared;
        CREATE TABLE few (id int PRIMARY KEY DEFAULT nextval('shared'));
        CREATE TABLE many (id int PRIMARY KEY DEFAULT nextval('shared'));"
    );
    let mut stage = Stage::new(&schema, "", &[]).await;
    let client = connect(&stage.url()).await;
    client.batch_execute("INSERT INTO acc (bal) VALUES (1), (2)").await.expect("written");
    client.batch_execute("INSERT INTO few VALUES (7); INSERT INTO many VALUES (70000)").await.expect("written");
    client.batch_execute("SELECT setval('loose', 5000), setval('late', -5000)").await.expect("numbers are given out");
    // It asks for them again.
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%seqincrement%' AND state = 'idle' \
        AND query_start > (SELECT clock_timestamp() - interval '1 s')";
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let is_seen = until(async || (rows(&stage.origin.url("postgres"), asked).await == ["1"]).then_some(()));
    is_seen.await.unwrap_or_else(|| panic!("never seen\n{}", stage.tandem.log()));
    stage.tandem.settled().await;
    stage.target.stop(Stop::Kill).expect("it dies");
    client.batch_execute("UPDATE acc SET bal = 9 WHERE id = 1").await.expect("written on the origin only");
    let waiting = connect(&stage.url()).await;
    let waits = tokio::spawn(async move { waiting.batch_execute("SELECT pg_sleep(600)").await });
    stage.origin.stop(Stop::Kill).expect("it dies");
    stage.target.start().expect("it comes back");

    let look = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true, "force": 0})).await;
    assert_eq!(look["end"], "refused", "{look:#}");
    let names: Vec<_> = look["findings"].as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["keys_lost", "more_keys_lost", "history_lost", "history_lost", "history_lost"], "{look:#}");
    let ended = stage.ask_switch(&serde_json::json!({"to": "target", "force": 1})).await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    waits.await.expect("ends").expect_err("nobody answers it");

    let client = connect(&stage.url()).await;
    assert_eq!(one(&client, "SELECT string_agg(bal::text, ' ' ORDER BY id) FROM acc").await, "1 2");
    client.batch_execute("INSERT INTO acc (bal) VALUES (3)").await.expect("numbers go on");
    assert_eq!(one(&client, "SELECT max(id) > 2 FROM acc").await, "t");
    for (sequence, is_beyond) in [("loose", "> 5000"), ("late", "< -5000"), ("shared", "> 70000")] {
        let asked = format!("SELECT nextval('{sequence}') {is_beyond}");
        assert_eq!(one(&client, &asked).await, "t", "{asked}");
    }
    let list = std::fs::read_to_string(stage.tandem.dir().join("tandem-data/switch-lost")).expect("it is kept");
    assert!(list.contains("acc"), "{list}");
}

/// A label of an enum, as a driver sends it that knows the type's oid.
#[derive(Debug)]
struct Mood(&'static str);

impl ToSql for Mood {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Types that have other oids on each side. `force`: the origin hangs, and nobody ever looked at both.
async fn of_other_oids(more: &str, force: bool, stays: bool) {
    let (origin, target) = pair();
    let types = ["CREATE TYPE mood AS ENUM ('so', 'la')", "CREATE TYPE size AS ENUM ('s', 'l')"];
    for (server, [one, other]) in [(&origin, types), (&target, [types[1], types[0]])] {
        sql(&server.url("postgres"), &format!("{one}; {other}; {SCHEMA}")).await;
    }
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), more).await;
    let stage = Stage { tandem, origin, target };
    let (typed, plain) = (connect(&stage.url()).await, connect(&stage.url()).await);
    let asked = "SELECT inet_server_port()::text WHERE $1::mood = 'la'";
    let feel = typed.prepare(asked).await.expect("prepared");
    let port = async |client: &Client, feel: &Statement| {
        let row = client.query_one(feel, &[&Mood("la")]).await;
        row.map(|row| row.get::<_, String>(0))
    };
    assert_eq!(port(&typed, &feel).await.expect("answered"), stage.origin.port().to_string());
    assert_eq!(one(&plain, "SELECT 1").await, "1");
    stage.tandem.settled().await;
    let ended = match force {
        false => stage.switch("target").await,
        true => {
            stage.origin.freeze();
            stage.ask_switch(&serde_json::json!({"to": "target", "force": 0})).await
        }
    };
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    let there = stage.target.port().to_string();
    match port(&typed, &feel).await {
        Ok(port) => assert!(stays && port == there, "{more} {force}"),
        Err(error) => {
            let is_told = error.is_closed() || error.code().is_some_and(|code| code.code() == "57P01");
            assert!(!stays && is_told, "{more} {force}: {error:?}\n{}", stage.tandem.log());
            let again = connect(&stage.url()).await;
            let feel = again.prepare(asked).await.expect("prepared");
            assert_eq!(port(&again, &feel).await.expect("answered"), there);
        }
    }
    assert_eq!(one(&plain, "SELECT inet_server_port()").await, there);
    stage.origin.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_used_types_of_other_oids_is_closed_or_moved_as_configured() {
    of_other_oids("", false, false).await;
    of_other_oids("[cutover]\ntype_oids = \"keep\"\n", false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_used_types_is_closed_or_moved_as_configured_when_the_primary_is_given_up() {
    of_other_oids("", true, false).await;
    of_other_oids("[cutover]\ntype_oids = \"keep\"\n", true, true).await;
}

/// The origin says nothing any more, and its connections stay open; how `--force` ends then.
async fn given_up(stage: &Stage, request: &serde_json::Value) {
    let look = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true, "force": 0})).await;
    assert_eq!(look["end"], "ready", "{look:#}");
    let ended = stage.ask_switch(request).await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    let client = connect(&stage.url()).await;
    client.batch_execute("INSERT INTO acc (bal) VALUES (3)").await.expect("the target answers");
    stage.origin.thaw();
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hung_up_while_it_waited_for_a_primary_that_is_gone_for_good_is_in_nobody_s_way() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    stage.tandem.settled().await;
    let mut waiting = Raw::connect(stage.tandem.port);
    let mut question = bytes::BytesMut::new();
    wire::query(&mut question, b"SELECT pg_sleep(600)");
    waiting.send(&question);
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    until(async || (rows(&stage.origin.url("postgres"), runs).await == ["1"]).then_some(())).await.expect("it runs");
    stage.origin.freeze();
    drop(waiting);
    given_up(&stage, &serde_json::json!({"to": "target", "force": 0, "max_hold_ms": 15_000})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_primary_that_is_gone_for_good_is_let_go_although_a_finding_had_to_be_ignored() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.target.url("postgres"), "CREATE SEQUENCE stray").await;
    stage.tandem.settled().await;
    let waiting = connect(&stage.url()).await;
    let waits = tokio::spawn(async move { waiting.batch_execute("SELECT pg_sleep(600)").await });
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    until(async || (rows(&stage.origin.url("postgres"), runs).await == ["1"]).then_some(())).await.expect("it runs");
    stage.origin.freeze();
    let refused = stage.ask_switch(&serde_json::json!({"to": "target", "force": 0})).await;
    assert_eq!(refused["end"], "refused", "{refused:#}");
    let ignoring = serde_json::json!({"to": "target", "force": 0, "ignore": ["sequence_unknown"]});
    let ended = stage.ask_switch(&ignoring).await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    waits.await.expect("ends").expect_err("nobody answers it");
    stage.origin.thaw();
    stage.steady().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_waits_for_a_primary_that_is_gone_for_good_is_given_up_with_it() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    stage.tandem.settled().await;
    stage.origin.freeze();
    // Its heartbeat, which nobody answers.
    stage.tandem.status_is("stuck", |status| status["mirror"]["phase"] == "paying").await;
    given_up(&stage, &serde_json::json!({"to": "target", "force": 0})).await;
}

/// Of a client whose own limit may be in the way of any statement of its.
async fn within_its_limit(client: &Client, sql: &str) -> String {
    loop {
        match client.simple_query(sql).await {
            Ok(messages) => {
                let row = messages.into_iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                return row.unwrap_or_default();
            }
            Err(error) if error.code().is_some_and(|code| code.code() == "57014") => {}
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_with_a_short_limit_goes_on_when_it_is_looked_at_and_keeps_the_limit() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    client.batch_execute("SET statement_timeout = 1").await.expect("set");
    // Whoever is not ready in time is told so, and comes again; and some are.
    let looked = until(async || {
        within_its_limit(&client, "SET app.tenant = 'seven'").await;
        let look = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
        let names: Vec<_> =
            look["findings"].as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
        assert_eq!(within_its_limit(&client, "SELECT 1").await, "1", "{}", stage.tandem.log());
        let ready = look["end"] == "ready";
        assert!(ready || names == ["session_not_ready"], "{look:#}");
        ready.then_some(())
    });
    looked.await.unwrap_or_else(|| panic!("never looked at\n{}", stage.tandem.log()));
    let switched = until(async || (stage.switch("target").await["end"] == "switched").then_some(()));
    switched.await.unwrap_or_else(|| panic!("never switched\n{}", stage.tandem.log()));
    for (what, is) in [("SHOW statement_timeout", "1ms"), ("SHOW app.tenant", "seven"), ("SHOW lock_timeout", "0")] {
        assert_eq!(within_its_limit(&client, what).await, is, "{what}");
    }
    assert_eq!(within_its_limit(&client, "SELECT inet_server_port()").await, stage.target.port().to_string());
}

#[tokio::test]
async fn a_session_that_cannot_move_yet_is_waited_for() {
    let stage = Stage::new(SCHEMA, "[cutover]\nimmovable = \"wait\"\n", &[]).await;
    let pinned = connect(&stage.url()).await;
    pinned.batch_execute("CREATE TEMP TABLE mine (id int)").await.expect("made");
    let (ended, ()) = tokio::join!(stage.switch("target"), async {
        stage.tandem.status_is("preparing", |status| status["switch"]["phase"] == "preparing").await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        pinned.batch_execute("DROP TABLE mine").await.expect("clients go on");
    });
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    assert_eq!(one(&pinned, "SELECT inet_server_port()").await, stage.target.port().to_string());
}

/// Some of them log in on the other side whenever it is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_are_in_no_switch_s_way() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let come_and_go = |url: String| {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                one(&connect(&url).await, "SELECT 1").await;
            }
        })
    };
    let clients: Vec<_> = (0..8).map(|_| come_and_go(stage.url())).collect();
    for _ in 0..10 {
        let ended = stage.ask_switch(&serde_json::json!({"to": "target", "dry_run": true})).await;
        assert_eq!(ended["end"], "ready", "{ended:#}\n{}", stage.tandem.log());
    }
    stop.cancel();
    for client in clients {
        client.await.expect("served");
    }
}

/// While clients are held, new ones are let in and held too, a running statement can be cancelled, and the API answers.
#[tokio::test(flavor = "multi_thread")]
async fn newcomers_are_held_and_cancels_go_through_while_clients_are_held() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let slow = connect(&stage.url()).await;
    slow.batch_execute("BEGIN; INSERT INTO acc (bal) VALUES (1)").await.expect("begun");
    let token = slow.cancel_token();
    let sleeping = tokio::spawn(async move {
        let cancelled = slow.batch_execute("SELECT pg_sleep(60)").await;
        slow.batch_execute("ROLLBACK").await.expect("it ends");
        cancelled.expect_err("cancelled").code().map(|code| code.code().to_owned())
    });
    let url = stage.url();
    let request = serde_json::json!({"to": "target", "max_hold_ms": 20_000});
    let (ended, newcomer) = tokio::join!(stage.ask_switch(&request), async {
        stage.tandem.status_is("draining", |status| status["switch"]["phase"] == "draining").await;
        let newcomer = tokio::spawn(async move { one(&connect(&url).await, "SELECT inet_server_port()").await });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(!newcomer.is_finished(), "it is held");
        token.cancel_query(tokio_postgres::NoTls).await.expect("sent");
        newcomer.await.expect("served")
    });
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    assert_eq!(newcomer, stage.target.port().to_string());
    assert_eq!(sleeping.await.expect("ends").as_deref(), Some("57014"));
}

/// The target's database may have another name, and its standby may be named first: who comes while clients are held, or
/// afterwards, is let in where the primary is.
#[tokio::test(flavor = "multi_thread")]
async fn newcomers_find_the_new_primary_whatever_its_database_is_called_and_whichever_host_it_is() {
    let (origin, mut target) = pair();
    sql(&target.url("postgres"), "CREATE DATABASE moved").await;
    sql(&origin.url("postgres"), SCHEMA).await;
    sql(&target.url("moved"), SCHEMA).await;
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let standby = target.start_standby(&sandbox, "standby").expect("a standby");
    let hosts = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/moved", standby.port(), target.port());
    let tandem = Tandem::start(&origin.url("postgres"), &hosts, "").await;
    let stage = Stage { tandem, origin, target };
    let url = stage.url();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let newcomers = tokio::spawn(async move {
        let come = async {
            loop {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("let in");
                tokio::spawn(connection);
                client.batch_execute("INSERT INTO acc (bal) VALUES (1)").await.expect("written");
            }
        };
        tokio::select! {
            () = come => {}
            _ = stopped => {}
        }
    });
    for (to, database) in [("target", "moved"), ("origin", "postgres"), ("target", "moved")] {
        let ended = stage.switch(to).await;
        assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
        assert_eq!(one(&connect(&stage.url()).await, "SELECT current_database()").await, database);
        stage.steady().await;
    }
    assert!(!newcomers.is_finished(), "one was turned away\n{}", stage.tandem.log());
    stop.send(()).expect("they still come");
    newcomers.await.expect("all were let in");
}
