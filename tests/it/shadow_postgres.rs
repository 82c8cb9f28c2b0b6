//! Shadow reads on real servers: no false alarm while clients write, every difference that is planted is found, and a
//! secondary that hangs hurts nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::tandem::dice::Dice;
use tokio::time::Instant;

use crate::support::stage::Stage;
use crate::support::{connect, load, sql, until};

/// Compared with equal sides, unless `TANDEM_READS_COMPARED` says how many.
const READS: u64 = 1_000;

const ALL: &str = "[shadow]\nsample = \"100%\"\nworkers = 8\n";

/// Counters of shadow reads by outcome, or by the reason why they were skipped.
async fn counts(stage: &Stage, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in stage.tandem.metrics().await.lines().filter(|line| line.starts_with(metric)) {
        let Some((_, rest)) = line.split_once(&format!("{label}=\"")) else { continue };
        let (name, rest) = rest.split_once('"').expect("a label ends");
        let value: f64 = rest.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("a number");
        *found.entry(name.to_owned()).or_default() += value as u64;
    }
    found
}

async fn ended(stage: &Stage, outcome: &str) -> u64 {
    counts(stage, "tandem_shadow_reads_total", OUTCOME).await.get(outcome).copied().unwrap_or(0)
}

async fn skipped(stage: &Stage) -> BTreeMap<String, u64> {
    counts(stage, "tandem_shadow_skipped_total", "reason").await
}

const OUTCOME: &str = "verdict";

async fn reads_end(stage: &Stage, outcome: &str, goal: u64) {
    let reached = until(async || (ended(stage, outcome).await >= goal).then_some(())).await;
    if reached.is_none() {
        panic!("never {goal} of {outcome}; skipped: {:?}\n{}", skipped(stage).await, stage.tandem.log());
    }
}

/// Reads of everything that the load writes, by both protocols, alone and in transactions.
async fn reader(url: String, number: u64, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>) {
    let client = connect(&url).await;
    let by_id = client.prepare("SELECT * FROM bulk WHERE client = $1 AND seq = $2").await.expect("prepared");
    let mut dice = Dice(number + 1);
    while !stop.load(Relaxed) {
        let one = dice.below(4) as i32 + 1;
        match dice.below(9) {
            0 => drop(client.simple_query("SELECT * FROM hot ORDER BY id").await.expect("answered")),
            1 => drop(client.query(&by_id, &[&one, &(dice.below(12) as i32)]).await.expect("answered")),
            2 => drop(client.query("SELECT sum(n), count(*), max(at) FROM hot", &[]).await.expect("answered")),
            3 => drop(client.simple_query("SELECT name, version FROM notes").await.expect("answered")),
            4 => {
                let joined = "SELECT p.id, c.what, t.line FROM parents p JOIN children c ON c.parent = p.id \
                    LEFT JOIN toys t ON t.child = c.id";
                client.simple_query(joined).await.expect("answered");
            }
            5 => drop(client.simple_query("SELECT * FROM serials ORDER BY id DESC LIMIT 5").await.expect("answered")),
            6 => {
                let text = "SELECT client, array_agg(version), avg(version::float8) FROM bulk GROUP BY client";
                client.simple_query(text).await.expect("answered");
            }
            7 => {
                client.batch_execute("BEGIN").await.expect("answered");
                client.query("SELECT n FROM hot WHERE id = $1", &[&(one.min(3))]).await.expect("answered");
                client.batch_execute("COMMIT").await.expect("answered");
            }
            _ => {
                drop(client.simple_query("SELECT version FROM bulk ORDER BY version LIMIT 2").await.expect("answered"))
            }
        }
        asked.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn equal_sides_raise_no_alarm_while_clients_write_promise_8() {
    // What waits for long is in flight by then: few wait.
    let stage = Stage::new(load::SCHEMA, &format!("{ALL}queue = 24\n"), &[]).await;
    let goal = std::env::var("TANDEM_READS_COMPARED").ok().and_then(|text| text.parse().ok()).unwrap_or(READS);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = stage.load(3);
    let readers: Vec<_> = (0..2).map(|n| tokio::spawn(reader(stage.url(), n, stop.clone(), asked.clone()))).collect();
    // A comparison takes more than a read: the rest is skipped, and counted.
    let began = Instant::now();
    loop {
        let found = counts(&stage, "tandem_shadow_reads_total", OUTCOME).await;
        assert_eq!(found.get("mismatch").copied().unwrap_or(0), 0, "{found:?}\n{}", stage.tandem.log());
        if found.values().sum::<u64>() >= goal {
            eprintln!(
                "{found:?} of {} in {:?}; skipped: {:?}",
                asked.load(Relaxed),
                began.elapsed(),
                skipped(&stage).await
            );
            assert!(found.contains_key("match") && found.contains_key("in_flight"), "{found:?}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(goal.max(300)), "{found:?} {:?}", skipped(&stage).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Relaxed);
    for reader in readers {
        reader.await.expect("every read is answered");
    }
    stage.assert_kept(&writers.stop().await).await;
    assert!(!stage.tandem.log().contains("the sides differ"), "{}", stage.tandem.log());
}

const PLANTED: &str = "
CREATE TABLE missing (id int PRIMARY KEY, v text); INSERT INTO missing VALUES (1, 'a'), (2, 'secret');
CREATE TABLE extra (id int PRIMARY KEY, v text); INSERT INTO extra VALUES (1, 'a');
CREATE TABLE stale (id int PRIMARY KEY, v int); INSERT INTO stale VALUES (1, 7), (2, 8);
CREATE TABLE value (a int, b text, v numeric, PRIMARY KEY (a, b)); INSERT INTO value VALUES (1, 'x', 1.50), (2, 'y', 2);
CREATE TABLE sorted (id int PRIMARY KEY, v text COLLATE \"C\"); INSERT INTO sorted VALUES (1, 'B'), (2, 'a');
CREATE TABLE type (id int PRIMARY KEY, v int); INSERT INTO type VALUES (1, 1);
CREATE TABLE error (id int PRIMARY KEY, v int); INSERT INTO error VALUES (1, 1);
CREATE TABLE scale (id int PRIMARY KEY, v numeric, f float8); INSERT INTO scale VALUES (1, 1.5, 0);
CREATE TABLE ignored (id int PRIMARY KEY, seen int, v int); INSERT INTO ignored VALUES (1, 1, 1);";

/// Past tandem, on the target.
const PLANT: &str = "
DELETE FROM missing WHERE id = 2;
INSERT INTO extra VALUES (2, 'b');
UPDATE stale SET v = 6 WHERE id = 1;
UPDATE value SET v = 1.75 WHERE a = 1;
ALTER TABLE type ALTER v TYPE int8;
ALTER TABLE error RENAME v TO w;
UPDATE scale SET v = 1.500, f = '-0';
UPDATE ignored SET seen = 2;";

#[tokio::test]
async fn every_planted_difference_is_found_and_nothing_else() {
    let more = format!("{ALL}ignore = [\"public.ignored.seen\"]\n[mirror]\nself_repair = false\n");
    let stage = Stage::new(PLANTED, &more, &[]).await;
    sql(&stage.target.url("postgres"), PLANT).await;
    // Not every server is built with ICU; the older one here is.
    sql(&stage.origin.url("postgres"), "ALTER TABLE sorted ALTER v TYPE text COLLATE \"und-x-icu\"").await;
    let client = connect(&stage.url()).await;
    for alike in
        ["SELECT * FROM scale", "SELECT * FROM ignored", "SELECT id FROM error", "SELECT v FROM stale WHERE id = 2"]
    {
        client.simple_query(alike).await.expect("answered");
    }
    reads_end(&stage, "match", 4).await;
    let mut found = 0;
    for (differs, how, name) in [
        ("SELECT * FROM missing", "missing_row", "public.missing"),
        ("SELECT * FROM extra", "extra_row", "public.extra"),
        ("SELECT * FROM stale WHERE id = 1", "other_value", "public.stale"),
        ("SELECT a, b, v FROM value", "other_value", "public.value"),
        ("SELECT v FROM sorted ORDER BY v", "other_order", "public.sorted"),
        ("SELECT * FROM type", "other_type", "public.type"),
        ("SELECT v FROM error", "other_error", "public.error"),
    ] {
        client.simple_query(differs).await.expect("answered");
        found += 1;
        reads_end(&stage, "mismatch", found).await;
        let log = stage.tandem.log();
        let line = log.lines().find(|line| line.contains("the sides differ") && line.contains(name));
        assert!(line.is_some_and(|line| line.contains(how)), "{differs}: {line:?}\n{log}");
    }
    // The same by the extended protocol, in binary form.
    client.query("SELECT v FROM stale WHERE id = $1", &[&1]).await.expect("answered");
    reads_end(&stage, "mismatch", found + 1).await;
    assert!(!stage.tandem.log().contains("secret"), "no value is logged: promise 13");
}

#[tokio::test]
async fn what_is_not_repeated_is_counted_by_its_reason() {
    let stage = Stage::new(load::SCHEMA, ALL, &[]).await;
    let view = "CREATE VIEW recent AS SELECT id FROM hot WHERE at < now()";
    sql(&stage.origin.url("postgres"), view).await;
    sql(&stage.target.url("postgres"), view).await;
    let client = connect(&stage.url()).await;
    client.batch_execute("CREATE TEMPORARY TABLE mine (id int)").await.expect("made");
    let client = connect(&stage.url()).await;
    for text in [
        "SELECT now()",
        "SELECT * FROM hot FOR UPDATE",
        "SELECT * FROM hot WHERE at < 'tomorrow'",
        "SELECT * FROM recent",
        "SELECT last_value FROM serials_id_seq",
        "BEGIN; UPDATE hot SET n = n + 1 WHERE id = 1",
        "SELECT * FROM hot",
        "COMMIT",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "SELECT * FROM hot",
        "COMMIT",
    ] {
        client.simple_query(text).await.expect(text);
    }
    let expected = [("volatile", 3), ("not_repeatable", 1), ("not_mirrored", 1), ("in_transaction", 2)];
    let all = until(async || {
        let found = skipped(&stage).await;
        expected.iter().all(|(why, count)| found.get(*why) == Some(count)).then_some(())
    });
    assert!(all.await.is_some(), "{:?}\n{}", skipped(&stage).await, stage.tandem.log());
    // What the session set is set there too.
    client.batch_execute("SET TIME ZONE 'Asia/Tokyo'; SET search_path = public, pg_catalog").await.expect("set");
    client.simple_query("SELECT at::text FROM hot WHERE id = 3").await.expect("answered");
    reads_end(&stage, "match", 1).await;
    assert_eq!(ended(&stage, "in_flight").await, 0, "{}", stage.tandem.log());
}

#[tokio::test]
async fn a_read_is_repeated_with_the_rights_of_who_asked() {
    let stage = Stage::new(load::SCHEMA, ALL, &[]).await;
    let role = |name: &str| {
        format!("CREATE ROLE {name} LOGIN; GRANT SELECT ON hot TO {name}; GRANT SELECT (name) ON notes TO {name}")
    };
    for name in ["app", "stranger"] {
        sql(&stage.origin.url("postgres"), &role(name)).await;
    }
    sql(&stage.target.url("postgres"), &role("app")).await;
    let url = |name: &str| format!("postgres://{name}@127.0.0.1:{}/postgres", stage.tandem.port);
    let app = connect(&url("app")).await;
    app.simple_query("SELECT * FROM hot").await.expect("answered");
    reads_end(&stage, "match", 1).await;
    // Both sides refuse it, in the same class of errors.
    app.simple_query("SELECT version FROM notes").await.expect_err("no right");
    reads_end(&stage, "match", 2).await;
    connect(&url("stranger")).await.simple_query("SELECT * FROM hot").await.expect("answered");
    let told = until(async || (skipped(&stage).await.get("not_allowed") == Some(&1)).then_some(())).await;
    assert!(told.is_some(), "{:?}\n{}", skipped(&stage).await, stage.tandem.log());
}

#[tokio::test]
async fn a_secondary_that_hangs_keeps_no_client_waiting_promise_7() {
    let more = "[shadow]\nsample = \"100%\"\nqueue = 20\nwait = \"1s\"\ntimeout = \"1s\"\n";
    let stage = Stage::new(load::SCHEMA, more, &[]).await;
    let client = connect(&stage.url()).await;
    client.simple_query("SELECT * FROM hot").await.expect("answered");
    reads_end(&stage, "match", 1).await;
    stage.target.freeze();
    let began = Instant::now();
    for _ in 0..500 {
        client.query("SELECT * FROM hot WHERE id = $1", &[&1]).await.expect("answered");
    }
    // Two hundred times the second for which any of them would have waited.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(100), "500 reads took {took:?}");
    let counted = until(async || {
        let found = skipped(&stage).await;
        (found.values().sum::<u64>() >= 500).then_some(found)
    });
    let found = counted.await.expect("they are counted");
    assert!(found.contains_key("queue_full"), "{found:?}");
    stage.target.thaw();
    let again = until(async || {
        client.simple_query("SELECT * FROM hot").await.expect("answered");
        (ended(&stage, "match").await > 1).then_some(())
    });
    assert!(again.await.is_some(), "{:?}\n{}", skipped(&stage).await, stage.tandem.log());
}
