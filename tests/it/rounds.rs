//! Rounds of a mixed load while something is killed, and the comparison of both sides afterwards, without tandem: all
//! rows of all tables in both directions, and every write that a client saw acknowledged. `TANDEM_ROUNDS=100` plays more.

use std::process::Command;

use ::tandem::protocol::postgres::copier::{LOCK_CLASS, LOCK_WRITERS};
use ::tandem::sandbox::Stop;

use crate::support::load::Load;
use crate::support::memory::Memory;
use crate::support::stage::Stage;
use crate::support::tandem::{Tandem, program};
use crate::support::{connect, load, rows, sql, until};

/// Clients of a round.
const CLIENTS: u32 = 8;
/// Units before, between and after what happens in a round.
const UNITS: u64 = 150;

/// Crashes of a primary until it has lost something; two at least.
const CRASHES: usize = 8;

fn rounds() -> u32 {
    std::env::var("TANDEM_ROUNDS").map_or(5, |rounds| rounds.parse().expect("TANDEM_ROUNDS is a number"))
}

/// Load that other rounds' rows do not disturb.
fn load_of_round(stage: &Stage, round: u32) -> Load {
    Load::start(&stage.url(), 1 + round * CLIENTS, CLIENTS)
}

/// Tandem is killed twice in each round, the second time with the backlog of the first.
async fn rounds_of_kills(rounds: u32, more: &str) {
    let mut stage = Stage::new(load::SCHEMA, more, &[]).await;
    let mut told = Memory::default();
    for round in 0..rounds {
        let load = load_of_round(&stage, round);
        load.more(UNITS).await;
        for _ in 0..2 {
            stage.tandem.kill();
            stage.tandem.launch().await;
            load.more(UNITS).await;
        }
        let done = load.stop().await;
        assert_eq!((&done.refused, &done.stale), (&Vec::new(), &Vec::new()), "round {round}\n{}", stage.tandem.log());
        told.merge(done.memory);
        stage.assert_equal(load::TABLES).await;
        for (side, server) in [("origin", &stage.origin), ("target", &stage.target)] {
            told.assert_kept(side, &server.url("postgres"), load::OWNED).await;
        }
        eprintln!("round {round}: {} units acknowledged, {} answers lost", done.acked, done.lost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_tandem_is_killed_promises_1_to_5() {
    rounds_of_kills(rounds(), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_tandem_is_killed_whatever_the_durability() {
    for durability in ["os", "memory"] {
        rounds_of_kills(1, &format!("[journal]\ndurability = \"{durability}\"")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_equal_after_the_primary_lost_acknowledged_writes() {
    let mut stage = Stage::new(load::SCHEMA, "", &["synchronous_commit = off", "wal_writer_delay = 10s"]).await;
    // The tables are not to be lost.
    sql(&stage.origin.url("postgres"), "CHECKPOINT").await;
    let mut lost = 0;
    for (round, how) in [Stop::Kill, Stop::Immediate].into_iter().cycle().take(CRASHES).enumerate() {
        if round >= 2 && lost > 0 {
            break;
        }
        let load = load_of_round(&stage, round as u32);
        load.more(UNITS).await;
        stage.origin.restart(how).expect("it comes back");
        load.more(UNITS).await;
        let done = load.stop().await;
        // Clients whose deletes were lost may insert the same key again.
        assert!(done.refused.iter().all(|error| error.starts_with("23505")), "{:?}", done.refused);
        stage.assert_equal(load::TABLES).await;
        let wrong = done.memory.wrong(&stage.origin.url("postgres"), load::OWNED).await;
        let now = wrong.iter().filter(|what| what.contains("the client knows")).count();
        // Mostly some; how many is up to the primary's WAL writer.
        eprintln!("{how:?}: the primary lost {now} rows' acknowledged states");
        lost += now;
    }
    assert!(lost > 0, "the primary lost nothing {CRASHES} times: nothing was shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlogged_table_is_dirty_behind_a_crash_of_either_side_and_equal_when_it_is_repaired() {
    let schema = "CREATE UNLOGGED TABLE fast (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)";
    let mut stage = Stage::new(schema, "[mirror]\nself_repair = false\nretention = \"1s\"", &[]).await;
    for (round, crashes) in ["origin", "target", "neither"].into_iter().enumerate() {
        let first = 10 * round;
        sql(&stage.url(), &format!("INSERT INTO fast SELECT generate_series({first}, {first} + 9)")).await;
        stage.tandem.settled().await;
        match crashes {
            "origin" => stage.origin.restart(Stop::Immediate).expect("it comes back"),
            "target" => stage.target.restart(Stop::Immediate).expect("it comes back"),
            _ => break,
        }
        let dirty = until(async || {
            let dirty = stage.tandem.client().get("/v1/dirty").await.expect("it answers");
            dirty.as_array().is_some_and(|list| !list.is_empty()).then_some(dirty)
        });
        let dirty = dirty.await.unwrap_or_else(|| panic!("nothing is dirty\n{}", stage.tandem.log()));
        assert!(dirty[0]["table"] == "public.fast" && dirty[1].is_null(), "{dirty}");
        stage.tandem.repair_all().await;
        stage.assert_equal(&["fast", "other"]).await;
    }
    stage.assert_equal(&["fast", "other"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "notes differs")]
async fn the_comparison_finds_one_row_that_differs() {
    let stage = Stage::of_load().await;
    let load = stage.load(CLIENTS);
    load.more(UNITS).await;
    load.stop().await;
    stage.tandem.settled().await;
    let stranger = "INSERT INTO notes VALUES ('stranger', 1)";
    connect(&stage.target.url("postgres")).await.batch_execute(stranger).await.expect("written");
    stage.assert_equal(load::TABLES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_equal_after_one_backend_was_killed_and_the_primary_restarted_itself() {
    let stage = Stage::of_load().await;
    let load = stage.load(CLIENTS);
    load.more(UNITS).await;
    let query =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1";
    let pid = rows(&stage.origin.url("postgres"), query).await.remove(0);
    assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs").success());
    load.more(UNITS).await;
    let done = load.stop().await;
    assert!(done.lost > 0, "the crash was seen");
    stage.assert_kept(&done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_the_target_dies_and_comes_back_promise_7() {
    let mut stage = Stage::of_load().await;
    let load = stage.load(CLIENTS);
    for how in [Stop::Kill, Stop::Immediate, Stop::Fast] {
        load.more(UNITS).await;
        stage.target.stop(how).expect("it stops");
        load.more(UNITS).await;
        stage.target.start().expect("it comes back");
    }
    load.more(UNITS).await;
    let done = load.stop().await;
    assert_eq!(done.lost, 0);
    stage.assert_kept(&done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_the_target_is_frozen_promise_7() {
    let stage = Stage::of_load().await;
    let load = stage.load(CLIENTS);
    load.more(UNITS).await;
    stage.target.freeze();
    load.more(4 * UNITS).await;
    stage.target.thaw();
    let done = load.stop().await;
    assert_eq!(done.lost, 0);
    stage.assert_kept(&done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tandems_on_one_target_one_pays_and_the_other_takes_over_promises_5_and_6() {
    let mut stage = Stage::of_load().await;
    let mut second = Tandem::start(&stage.origin.url("postgres"), &stage.target.url("postgres"), "").await;
    second.mirror_is("fenced").await;
    let loads = [stage.load(CLIENTS), Load::start(&second.url("postgres"), 1 + CLIENTS, CLIENTS)];
    for load in &loads {
        load.more(UNITS).await;
    }
    stage.tandem.kill();
    // The first is gone, its debts are in its journal; the second pays its own.
    second.mirror_pays().await;
    stage.tandem.launch().await;
    stage.tandem.mirror_is("fenced").await;
    let [first, other] = loads;
    first.more(UNITS).await;
    other.more(UNITS).await;
    let (mut done, other) = (first.stop().await, other.stop().await);
    assert_eq!(other.refused, Vec::<String>::new());
    done.memory.merge(other.memory);
    second.settled().await;
    assert_eq!(second.terminate(), Some(0));
    stage.assert_kept(&done).await;
    // Nobody knows what the second left unpaid: all that the first had paid was dirty, and is copied.
    let (first, second) = (stage.tandem.log(), second.log());
    assert!(first.contains("paid from another journal:") && first.contains("table repaired"), "{first}");
    assert!(second.contains("paid from another journal before:"), "{second}");
    stage.tandem.kill();
    stage.tandem.launch().await;
    stage.tandem.settled().await;
    assert_eq!(stage.tandem.log().matches("paid from another journal").count(), 1, "said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_tandem_keeps_off_the_target_that_the_first_one_switched_to_promises_5_and_9() {
    let schema = "CREATE TABLE acc (id int PRIMARY KEY, bal int NOT NULL)";
    let mut stage = Stage::new(schema, "[mirror]\nretry_max = \"1s\"", &[]).await;
    let (origin, target) = (stage.origin.url("postgres"), stage.target.url("postgres"));
    sql(&stage.url(), "INSERT INTO acc VALUES (1, 0)").await;
    let second = Tandem::start(&origin, &target, "[mirror]\nretry_max = \"200ms\"").await;
    second.mirror_is("fenced").await;
    // It owes this row.
    sql(&second.url("postgres"), "UPDATE acc SET bal = bal").await;
    let switch = |to| serde_json::json!({ "to": to, "ignore": ["another_tandem", "bypassing"] });
    let refused = stage.ask_switch(&serde_json::json!({ "to": "target" })).await;
    assert!(refused["end"] == "refused" && refused["findings"].to_string().contains("another_tandem"), "{refused:#}");

    assert_eq!(stage.ask_switch(&switch("target")).await["end"], "switched", "{}", stage.tandem.log());
    sql(&stage.url(), "UPDATE acc SET bal = 100").await;
    let kept_off = |status: &serde_json::Value| {
        let why = status["mirror"]["error"].as_str().unwrap_or_default();
        status["mirror"]["phase"] == "fenced" && why.contains("answers clients of another tandem")
    };
    second.status_is("kept off", kept_off).await;
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    stage.tandem.kill();
    let tries = || second.log().matches("answers clients of another tandem").count();
    let before = tries();
    until(async || (tries() > before + 1).then_some(())).await.expect("it tries again");
    second.status_is("kept off", kept_off).await;
    assert_eq!(rows(&target, "SELECT bal FROM acc").await, ["100"]);

    stage.tandem.launch().await;
    stage.steady().await;
    stage.assert_equal(&["acc"]).await;
    assert_eq!(stage.ask_switch(&switch("origin")).await["end"], "switched", "{}", stage.tandem.log());
    stage.steady().await;
    stage.tandem.kill();
    // The target is a secondary again.
    second.mirror_pays().await;
    assert_eq!(rows(&target, "SELECT bal FROM acc").await, ["100"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_else_applies_to_the_new_primary_ends_the_walk_and_the_mark_goes_with_it_promise_10() {
    let stage = Stage::new("CREATE TABLE acc (id int PRIMARY KEY, bal int NOT NULL)", "", &[]).await;
    sql(&stage.url(), "INSERT INTO acc VALUES (1, 0)").await;
    stage.tandem.settled().await;
    let target = stage.target.url("postgres");
    let other = connect(&target).await;
    let lock = format!("SELECT pg_advisory_lock_shared({LOCK_CLASS}, {LOCK_WRITERS})");
    other.batch_execute(&lock).await.expect("locked");
    let ended = stage.switch("target").await;
    assert!(ended["end"] == "aborted" && ended["why"].to_string().contains("another applier"), "{ended:#}");
    stage.steady().await;
    assert_eq!(rows(&target, "SELECT journal FROM tandem.primary_of").await, Vec::<String>::new());
    drop(other);
    stage.assert_equal(&["acc"]).await;
    assert_eq!(stage.switch("target").await["end"], "switched", "{}", stage.tandem.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_use_is_refused_in_words() {
    let stage = Stage::of_load().await;
    let ports = [::tandem::sandbox::free_port(), ::tandem::sandbox::free_port()];
    let text = std::fs::read_to_string(stage.tandem.dir().join("proxy.toml")).expect("readable");
    let admin = stage.tandem.admin.rsplit_once(':').expect("a port").1;
    let text =
        text.replace(&stage.tandem.port.to_string(), &ports[0].to_string()).replace(admin, &ports[1].to_string());
    std::fs::write(stage.tandem.dir().join("second.toml"), text).expect("written");
    let output =
        program().args(["run", "--config", "second.toml"]).current_dir(stage.tandem.dir()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("tandem-data") && said.contains("use"), "{said}");
    connect(&stage.url()).await.batch_execute("INSERT INTO parents VALUES (1, 1)").await.expect("the first goes on");
    stage.assert_equal(load::TABLES).await;
}
