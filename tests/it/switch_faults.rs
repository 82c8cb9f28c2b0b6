//! A switch that somebody or something else gets in the way of: a disk that refuses the flip, two operators, a stop.

use std::process::Command;
use std::time::Duration;

use ::tandem::sandbox::{Postgres, Stop};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::control::{Control, control_file};
use crate::support::stage::Stage;
use crate::support::tandem::Tandem;
use crate::support::{connect, pair, rows, sql, until};

const SCHEMA: &str = "CREATE TABLE acc (id bigserial PRIMARY KEY, bal bigint NOT NULL)";

/// Both sides answer; a client with an open transaction keeps a switch in its drain, and another one is held.
struct Held {
    stage: Stage,
    slow: Client,
    /// The port of the server that answered, or the SQLSTATE.
    waiting: JoinHandle<Result<String, String>>,
}

impl Held {
    async fn begin(more: &str, max_hold_ms: u64) -> Held {
        let stage = Stage::new(SCHEMA, more, &[]).await;
        let slow = connect(&stage.url()).await;
        let other = connect(&stage.url()).await;
        slow.batch_execute("BEGIN; INSERT INTO acc (bal) VALUES (1)").await.expect("begun");
        let request = json!({"to": "target", "max_hold_ms": max_hold_ms});
        stage.tandem.client().post("/v1/switch", &request).await.expect("taken");
        phase(&stage, "draining").await;
        let waiting = tokio::spawn(async move {
            // One message: a prepared statement is two units, and between the two it is not held.
            let insert = "INSERT INTO acc (bal) VALUES (2) RETURNING inet_server_port()";
            match other.simple_query(insert).await {
                Ok(messages) => Ok(first_field(&messages)),
                Err(error) => Err(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())),
            }
        });
        // Before anything else comes: a client that sends nothing yet is not held, and learns of a stop otherwise.
        stage.tandem.status_is("one is held", |status| status["units_held"] == 1).await;
        Held { stage, slow, waiting }
    }

    /// The file that a new control state is written to first.
    fn in_the_way(&self) -> std::path::PathBuf {
        control_file(&self.stage.tandem).with_extension("new")
    }
}

fn first_field(messages: &[SimpleQueryMessage]) -> String {
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    rows.next().expect("a row").to_owned()
}

async fn report(stage: &Stage) -> Value {
    stage.tandem.client().get("/v1/switch").await.expect("it answers")
}

async fn phase(stage: &Stage, phase: &str) {
    while report(stage).await["phase"] != phase {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn last(stage: &Stage) -> Value {
    loop {
        let report = report(stage).await;
        if report["last"]["number"] == report["number"] {
            return report["last"].clone();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A switch there works, and both sides have these balances.
async fn switches(stage: &Stage, balances: &[&str]) {
    stage.steady().await;
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    let found = rows(&stage.target.url("postgres"), "SELECT bal FROM acc ORDER BY 1").await;
    assert_eq!(found, balances);
}

#[tokio::test]
async fn a_disk_that_refuses_the_flip_aborts_the_switch_and_clients_go_on() {
    let held = Held::begin("", 5_000).await;
    std::fs::create_dir(held.in_the_way()).expect("made");
    held.slow.batch_execute("COMMIT").await.expect("committed");
    let (stage, origin) = (&held.stage, held.stage.origin.port().to_string());
    let ended = last(stage).await;
    assert_eq!((&ended["end"], &ended["phase"]), (&json!("aborted"), &json!("flipping")), "{ended:#}");
    assert!(ended["why"].as_str().is_some_and(|why| why.contains("was not written")), "{ended:#}");
    let in_the_way = held.in_the_way();
    assert_eq!(held.waiting.await.expect("no panics in it"), Ok(origin));
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (3)").await;
    std::fs::remove_dir(in_the_way).expect("removed");
    switches(stage, &["1", "2", "3"]).await;
}

#[tokio::test]
async fn what_is_known_of_history_is_known_after_a_switch_that_failed_at_its_flip() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.origin.url("postgres"), "INSERT INTO acc (bal) VALUES (1), (2)").await;
    stage.tandem.client().post("/v1/backfill", &json!({"action": "start", "verify": false})).await.expect("taken");
    stage.tandem.status_is("copied", |status| status["history"][0]["state"] == "Done").await;
    let dry_run = async || {
        let ended = stage.ask_switch(&json!({"to": "target", "dry_run": true})).await;
        let names = ended["findings"].as_array().expect("a list").iter().map(|one| one["name"].clone());
        names.filter(|name| name.as_str().is_some_and(|name| name.starts_with("history_"))).collect::<Vec<_>>()
    };
    assert_eq!(dry_run().await, ["history_unverified"]);
    let in_the_way = control_file(&stage.tandem).with_extension("new");
    // Not before the walk is written: only the flip meets it.
    let held = connect(&stage.url()).await;
    held.batch_execute("BEGIN; INSERT INTO acc (bal) VALUES (3)").await.expect("begun");
    let request = json!({"to": "target", "max_hold_ms": 20_000});
    let (ended, ()) = tokio::join!(stage.ask_switch(&request), async {
        phase(&stage, "draining").await;
        std::fs::create_dir(&in_the_way).expect("made");
        held.batch_execute("COMMIT").await.expect("committed");
    });
    assert_eq!((&ended["end"], &ended["phase"]), (&json!("aborted"), &json!("flipping")), "{ended:#}");
    std::fs::remove_dir(in_the_way).expect("removed");
    assert_eq!(dry_run().await, ["history_unverified"]);
    let backfill = stage.tandem.client().get("/v1/backfill").await.expect("it answers");
    assert_eq!(backfill["state"], "Done", "{backfill:#}");
}

/// Nobody can go back while it may be written, and clients are not held for ever: the process ends, and the next one
/// knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_at_the_flip_ends_the_process_and_the_next_one_knows() {
    let held = Held::begin("", 1_500).await;
    let in_the_way = held.in_the_way();
    // Opened for writing, it blocks until somebody reads it.
    assert!(Command::new("mkfifo").arg(&in_the_way).status().expect("mkfifo runs").success());
    held.slow.batch_execute("COMMIT").await.expect("committed");
    let mut stage = held.stage;
    assert_eq!(tokio::task::block_in_place(|| stage.tandem.ended()), Some(1), "{}", stage.tandem.log());
    assert!(stage.tandem.log().contains("in doubt"), "{}", stage.tandem.log());
    assert!(held.waiting.await.expect("no panics in it").is_err(), "it was cut off");
    let stored = Control::of_file(&stage.tandem);
    assert_eq!((stored.epoch, &*stored.primary, stored.walks), (1, "origin", true));
    std::fs::remove_file(in_the_way).expect("removed");
    stage.tandem.launch().await;
    switches(&stage, &["1"]).await;
}

#[tokio::test]
async fn of_two_switches_asked_for_at_once_one_is_done() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    stage.tandem.settled().await;
    let (client, request) = (stage.tandem.client(), json!({"to": "target"}));
    let (one, other) = tokio::join!(client.post("/v1/switch", &request), client.post("/v1/switch", &request));
    let refused = match (one, other) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused.to_string(),
        both => panic!("not one of {both:?}"),
    };
    assert!(refused.contains("a switch is under way"), "{refused}");
    assert_eq!(last(&stage).await["end"], "switched", "{}", stage.tandem.log());
    stage.steady().await;
    let again = client.post("/v1/switch", &request).await.expect_err("done already").to_string();
    assert!(again.contains("target already answers clients"), "{again}");
    let control = Control::of_file(&stage.tandem);
    assert_eq!((control.epoch, &*control.primary, control.walks), (2, "target", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_clients_are_held_lets_them_go_and_leaves_no_switch() {
    let Held { mut stage, slow, waiting } = Held::begin("[limits]\ndrain_timeout = \"20s\"\n", 30_000).await;
    let origin = stage.origin.port().to_string();
    let stopping = tokio::task::spawn_blocking(move || {
        let code = stage.tandem.terminate();
        (stage, code)
    });
    // Before the transaction ends: whoever is held is let go although it does not, to the server that the stop of the
    // switch gives back, or out.
    let answer = waiting.await.expect("no panics in it");
    let balances: &[&str] = match &answer {
        Ok(port) if *port == origin => &["1", "2"],
        Err(code) if code == "57P01" => &["1"],
        other => panic!("{other:?}"),
    };
    slow.batch_execute("COMMIT").await.expect("those inside finish");
    drop(slow);
    let (mut stage, code) = stopping.await.expect("no panics in it");
    assert_eq!(code, Some(0), "{}", stage.tandem.log());
    assert!(!stage.tandem.log().contains("drain_timeout"), "{}", stage.tandem.log());
    stage.tandem.launch().await;
    stage.steady().await;
    let control = Control::of_file(&stage.tandem);
    assert_eq!((control.epoch, &*control.primary, control.walks), (1, "origin", false));
    switches(&stage, balances).await;
}

#[tokio::test]
async fn a_switch_that_waits_for_a_server_that_hangs_can_be_called_off_before_clients_are_held() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    stage.target.freeze();
    let api = stage.tandem.client();
    api.post("/v1/switch", &json!({"to": "target"})).await.expect("taken");
    phase(&stage, "preparing").await;
    client.batch_execute("INSERT INTO acc (bal) VALUES (1)").await.expect("nobody is held");
    api.post("/v1/switch/abort", &json!({})).await.expect("called off");
    assert_eq!(last(&stage).await["end"], "aborted");
    client.batch_execute("INSERT INTO acc (bal) VALUES (2)").await.expect("nobody is held");
    stage.target.thaw();
    switches(&stage, &["1", "2"]).await;
}

#[tokio::test]
async fn what_was_switched_stays_switched_without_a_mirror() {
    let mut stage = Stage::new(SCHEMA, "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    assert_eq!(stage.tandem.terminate(), Some(0));
    let config = stage.tandem.dir().join("proxy.toml");
    let text = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, text + "[mirror]\nmode = \"off\"\n").expect("written");
    stage.tandem.launch().await;
    let target = stage.target.port().to_string();
    assert_eq!(rows(&stage.url(), "SELECT inet_server_port()").await, [target]);
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (2)").await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT bal FROM acc ORDER BY 1").await, ["1", "2"]);
    let status = stage.tandem.client().get("/v1/status").await.expect("it answers");
    assert_eq!((&status["primary"], &status["epoch"]), (&json!("target"), &json!(2)), "{status:#}");
    let refused = stage.tandem.client().post("/v1/switch", &json!({"to": "origin"})).await.expect_err("not equal");
    assert!(refused.to_string().contains("mirror"), "{refused}");
}

const MOVER: &str = "CREATE ROLE mover LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO mover; \
    ALTER DATABASE postgres OWNER TO mover";

/// Between servers on which its role may not be `replica`, with what else is said there.
async fn between_as_mover((origin, on_origin): (Postgres, &str), (target, on_target): (Postgres, &str)) -> Stage {
    for (server, more) in [(&origin, on_origin), (&target, on_target)] {
        sql(&server.url("postgres"), &format!("{SCHEMA}; {MOVER}; {more}")).await;
    }
    let url = |server: &Postgres| server.url("postgres").replace("postgres@", "mover@");
    let tandem = Tandem::start(&url(&origin), &url(&target), "").await;
    Stage { tandem, origin, target }
}

/// A trigger that makes twice of what is inserted, silent on the target, on tables that are its own.
async fn doubling() -> Stage {
    let (origin, target) = pair();
    let doubles = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.bal := 2 * NEW.bal; RETURN NEW; END'; \
        CREATE TRIGGER doubles BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE acc OWNER TO mover";
    let silent = format!("{doubles}; ALTER TABLE acc DISABLE TRIGGER doubles");
    between_as_mover((origin, doubles), (target, &silent)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_gone_for_good_is_given_up_behind_a_switch_that_failed_without_it() {
    let mut stage = doubling().await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
    stage.steady().await;
    stage.tandem.settled().await;
    stage.target.stop(Stop::Kill).expect("it dies");
    let locks = connect(&stage.origin.url("postgres")).await;
    locks.batch_execute("BEGIN; LOCK TABLE acc IN SHARE UPDATE EXCLUSIVE MODE").await.expect("locked");
    let request = json!({"to": "origin", "force": 0});
    let ended = stage.ask_switch(&request).await;
    assert_eq!((&ended["end"], &ended["phase"]), (&json!("aborted"), &json!("readying")), "{ended:#}");
    locks.batch_execute("COMMIT").await.expect("released");
    let ended = stage.ask_switch(&request).await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (10)").await;
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT bal FROM acc ORDER BY 1").await, ["2", "20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_is_not_its_own_to_silence_does_not_stop_the_mirror_of_the_next_process() {
    let (origin, target) = pair();
    let trigger = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
        CREATE TRIGGER does_nothing BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION f(); GRANT ALL ON acc TO mover";
    let mut stage = between_as_mover((origin, "ALTER TABLE acc OWNER TO mover"), (target, trigger)).await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    stage.tandem.settled().await;
    stage.target.freeze();
    stage.tandem.client().post("/v1/switch", &json!({"to": "target"})).await.expect("taken");
    let walks = until(async || Control::of_file(&stage.tandem).walks.then_some(())).await;
    walks.expect("it is written before anything is done");
    stage.tandem.kill();
    stage.target.thaw();
    stage.tandem.launch().await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (2)").await;
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    assert!(stage.tandem.log().contains("it fires on what is mirrored"), "{}", stage.tandem.log());
}

/// Of a role that may not be `replica`.
#[tokio::test]
async fn a_dry_run_lets_no_mirror_write_where_triggers_still_fire() {
    let mut stage = doubling().await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (1)").await;
    let ended = stage.switch("target").await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    stage.steady().await;

    // The next process finds triggers that fire on the old primary, and cannot silence them.
    stage.tandem.terminate();
    let old = connect(&stage.origin.url("postgres")).await;
    old.batch_execute("BEGIN READ WRITE; ALTER TABLE acc ENABLE TRIGGER doubles; COMMIT").await.expect("on");
    old.batch_execute("BEGIN; LOCK TABLE acc IN SHARE UPDATE EXCLUSIVE MODE").await.expect("locked");
    stage.tandem.launch().await;
    sql(&stage.url(), "INSERT INTO acc (bal) VALUES (10)").await;
    let attempts = || stage.tandem.log().matches("not done yet, and tried again").count();
    until(async || (attempts() > 0).then_some(())).await.expect("it fails");
    let (client, request) = (stage.tandem.client(), json!({"to": "origin", "dry_run": true}));
    let taken = until(async || client.post("/v1/switch", &request).await.ok()).await;
    taken.unwrap_or_else(|| panic!("never taken\n{}", stage.tandem.log()));
    let ended = last(&stage).await;
    assert!(ended["why"].as_str().is_some_and(|why| why.contains("mirror_down")), "{ended:#}");
    let before = attempts();
    until(async || (attempts() > before).then_some(())).await.expect("it fails again");
    old.batch_execute("COMMIT").await.expect("released");
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT bal FROM acc ORDER BY 1").await, ["2", "20"]);
}
