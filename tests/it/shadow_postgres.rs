//! Shadow reads on real servers: no false alarm while clients write, every difference that is planted is found, and a
//! secondary that hangs hurts nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::tandem::dice::Dice;
use ::tandem::sandbox::Postgres;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::stage::Stage;
use crate::support::{connect, load, rows, sql, until};

/// Compared with equal sides, unless `TANDEM_READS_COMPARED` says how many.
const READS: u64 = 3_000;
/// Reads that are asked and not compared yet, about.
const UNDER_WAY: usize = 96;

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

/// Reads in the queue, or under way.
async fn queued(stage: &Stage) -> usize {
    let metrics = stage.tandem.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("tandem_shadow_queue "));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

const OUTCOME: &str = "verdict";

async fn reads_end(stage: &Stage, outcome: &str, goal: u64) {
    let reached = until(async || (ended(stage, outcome).await >= goal).then_some(())).await;
    if reached.is_none() {
        panic!("never {goal} of {outcome}; skipped: {:?}\n{}", skipped(stage).await, stage.tandem.log());
    }
}

/// Beside the load's tables: rows of the types that two servers could write differently, many enough that not every read of
/// one is overtaken by a write.
const MIXED: &str = "
CREATE TABLE mixed (id int PRIMARY KEY, doc jsonb NOT NULL, price numeric NOT NULL, ratio float8 NOT NULL, small real NOT NULL,
  note text, at timestamptz NOT NULL DEFAULT now(), tags text[] NOT NULL DEFAULT '{}');
CREATE INDEX ON mixed (price);
INSERT INTO mixed SELECT id, jsonb_build_object('n', id, 'of', '{1,2}'::int[]), id / 7.0, 1 / (id + 0.3)::float8, id / 3.0, 'note ' || id,
  'epoch' FROM generate_series(1, 2000) id;";
const ROWS: u64 = 2_000;

/// Writes rows of `mixed` as fast as it is answered, until told to stop.
async fn mixer(url: String, number: u64, stop: Arc<AtomicBool>) {
    let client = connect(&url).await;
    let change = "UPDATE mixed SET doc = doc || jsonb_build_object('by', $2::int, 'x', random()), price = price * 1.01 + 0.001, \
        ratio = ratio / 1.7 - $2::int, small = 1 / (small + 1.3), note = md5(random()::text), at = clock_timestamp(), \
        tags = ARRAY[note, 'ü \"' || $2::int::text] WHERE id = $1";
    let back = "INSERT INTO mixed VALUES ($1, '[1, 2.50, {\"a\": null}]', 1.50, 'NaN', 1e-30, NULL) ON CONFLICT (id) DO UPDATE \
        SET price = 0.10, ratio = 'Infinity'";
    let (change, back) =
        (client.prepare(change).await.expect("prepared"), client.prepare(back).await.expect("prepared"));
    let mut dice = Dice(number + 100);
    for n in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let id = 1 + dice.below(ROWS) as i32;
        match n % 8 {
            0 => client.execute("DELETE FROM mixed WHERE id = $1", &[&id]).await,
            1 | 2 => client.execute(&back, &[&id]).await,
            _ => client.execute(&change, &[&id, &(n % 100)]).await,
        }
        .expect("written");
    }
}

/// Reads of everything that is written, by both protocols, alone and in transactions; one for each permit.
async fn reader(url: String, number: u64, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>) {
    pace(url, number, stop, asked, Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))).await;
}

async fn pace(url: String, number: u64, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>, permits: Arc<Semaphore>) {
    let client = connect(&url).await;
    let by_id = client.prepare("SELECT * FROM bulk WHERE client = $1 AND seq = $2").await.expect("prepared");
    let mut dice = Dice(number + 1);
    while !stop.load(Relaxed) {
        let Ok(permit) = permits.acquire().await else { return };
        permit.forget();
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

/// Reads of `mixed`.
async fn mixed_reader(url: String, number: u64, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>, permits: Arc<Semaphore>) {
    let client = connect(&url).await;
    let whole = client.prepare("SELECT * FROM mixed WHERE id = $1").await.expect("prepared");
    let some =
        "SELECT id, doc ->> 'x', price, ratio / 3, small, at FROM mixed WHERE id BETWEEN $1 AND $2 ORDER BY id DESC";
    let some = client.prepare(some).await.expect("prepared");
    let joined = "SELECT m.id, m.note, h.n FROM mixed m JOIN hot h ON h.id = 1 + m.id % 3 WHERE m.id = $1";
    let joined = client.prepare(joined).await.expect("prepared");
    let mut dice = Dice(number + 1);
    while !stop.load(Relaxed) {
        let Ok(permit) = permits.acquire().await else { return };
        permit.forget();
        let id = 1 + dice.below(ROWS) as i32;
        match dice.below(16) {
            0..5 => drop(client.query(&whole, &[&id]).await.expect("answered")),
            5..9 => drop(client.simple_query(&format!("SELECT * FROM mixed WHERE id = {id}")).await.expect("answered")),
            9 | 10 => drop(client.query(&some, &[&id, &(id + 4)]).await.expect("answered")),
            11 => {
                let text =
                    format!("SELECT doc, tags, price::text FROM mixed WHERE note LIKE 'note {}%' LIMIT 3", id % 100);
                client.simple_query(&text).await.expect("answered");
            }
            12 => {
                let text = format!(
                    "SELECT sum(price), avg(ratio), sum(small), count(note) FROM mixed WHERE id / 50 = {}",
                    id / 50
                );
                client.simple_query(&text).await.expect("answered");
            }
            13 => drop(client.query(&joined, &[&id]).await.expect("answered")),
            14 => {
                let text = "SELECT id, price FROM mixed WHERE price > 0.10 ORDER BY price, id LIMIT 4";
                client.simple_query(text).await.expect("answered");
            }
            _ => {
                client.batch_execute("BEGIN").await.expect("answered");
                client.query(&whole, &[&id]).await.expect("answered");
                client.batch_execute("COMMIT").await.expect("answered");
            }
        }
        asked.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn equal_sides_raise_no_alarm_while_clients_write_promise_8() {
    let goal = std::env::var("TANDEM_READS_COMPARED").ok().and_then(|text| text.parse().ok()).unwrap_or(READS);
    let schema = format!("{}{MIXED}", load::SCHEMA);
    let stage = Stage::new(&schema, "[shadow]\nsample = \"100%\"\nworkers = 16\n", &[]).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = stage.load(3);
    let mixer = tokio::spawn(mixer(stage.url(), 0, stop.clone()));
    // As many reads are under way as have permits: a comparison takes longer than a read, and what waits for it is overtaken
    // by writes.
    let permits = Arc::new(Semaphore::new(UNDER_WAY));
    let readers = (0..2).map(|n| tokio::spawn(pace(stage.url(), n, stop.clone(), asked.clone(), permits.clone())));
    let mixed =
        (2..6).map(|n| tokio::spawn(mixed_reader(stage.url(), n, stop.clone(), asked.clone(), permits.clone())));
    let readers: Vec<_> = readers.chain(mixed).collect();
    let (began, mut moved, mut shown, mut most) = (Instant::now(), Instant::now(), 0, 0);
    loop {
        let found = counts(&stage, "tandem_shadow_reads_total", OUTCOME).await;
        let left = skipped(&stage).await;
        assert_eq!(found.get("mismatch").copied().unwrap_or(0), 0, "{found:?}\n{}", stage.tandem.log());
        let compared = found.values().sum::<u64>();
        permits.add_permits(UNDER_WAY.saturating_sub(queued(&stage).await + permits.available_permits()));
        if compared > most {
            (most, moved) = (compared, Instant::now());
        }
        if compared >= goal || compared >= shown + 20_000 {
            shown = compared;
            let (asked, took) = (asked.load(Relaxed), began.elapsed());
            eprintln!("{compared} compared of {asked} asked in {took:.0?}: {found:?}; skipped: {left:?}");
        }
        if compared >= goal {
            assert!(found.contains_key("match") && found.contains_key("in_flight"), "{found:?}");
            break;
        }
        assert!(moved.elapsed() < Duration::from_secs(120), "nothing is compared any more: {found:?} {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Relaxed);
    permits.close();
    for reader in readers {
        reader.await.expect("every read is answered");
    }
    mixer.await.expect("every write is answered");
    stage.assert_kept(&writers.stop().await).await;
    stage.assert_equal(&["mixed"]).await;
    assert!(!stage.tandem.log().contains("the sides differ"), "{}", stage.tandem.log());
    // And the same test finds what does differ.
    sql(
        &stage.target.url("postgres"),
        "UPDATE mixed SET price = price + 0.0001 WHERE id = (SELECT min(id) FROM mixed)",
    )
    .await;
    let client = connect(&stage.url()).await;
    client.simple_query("SELECT * FROM mixed ORDER BY id LIMIT 10").await.expect("answered");
    reads_end(&stage, "mismatch", 1).await;
    assert!(stage.tandem.log().contains("the sides differ"), "{}", stage.tandem.log());
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
        // Which rows a LIMIT takes is open, what is in them is not.
        ("SELECT * FROM stale ORDER BY v LIMIT 1", "other_value", "public.stale"),
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

/// Views hide the order in which rows come; sums of floats are shown as something else.
const HIDDEN: &str = "
CREATE TABLE floats (id int PRIMARY KEY, g int NOT NULL, f real NOT NULL, note text NOT NULL);
INSERT INTO floats SELECT i, i % 3, 1 / (i + 0.3), 'note ' || chr(97 + i % 26) FROM generate_series(1, 900) i;
CREATE VIEW totals AS SELECT g, sum(f) AS f, round(sum(f)::numeric, 4) AS rounded, sum(f)::text AS text, array_agg(id) AS ids,
  string_agg(note, ',') AS notes FROM floats GROUP BY g;
CREATE VIEW numbered AS SELECT id, row_number() OVER () AS n FROM floats;
CREATE VIEW some_of_them AS SELECT id, note FROM floats LIMIT 10;
CREATE VIEW one_of_each AS SELECT DISTINCT ON (g) g, id FROM floats;
CREATE VIEW gathered AS SELECT ARRAY(SELECT id FROM floats) AS all_of_them, ARRAY(SELECT f.id FROM floats f WHERE f.g = one.g) AS of_group
  FROM floats one WHERE id = 1;
CREATE TABLE looks (id int PRIMARY KEY, span interval NOT NULL, doc jsonb NOT NULL);
INSERT INTO looks SELECT i, (CASE i % 2 WHEN 0 THEN '1 day' ELSE '24:00:00' END)::interval,
  jsonb_build_object('n', (CASE i % 2 WHEN 0 THEN '1.0' ELSE '1.00' END)::numeric) FROM generate_series(1, 20) i;
CREATE VIEW picked AS SELECT span, count(*) AS n FROM looks GROUP BY span;";

#[tokio::test]
async fn what_the_order_of_rows_decides_behind_views_or_in_text_is_no_difference_promise_8() {
    let stage = Stage::new(HIDDEN, ALL, &[]).await;
    // Nothing changes but where rows are.
    let moves = "UPDATE floats SET g = g WHERE id % 7 < 3; UPDATE looks SET id = id WHERE id = 1";
    sql(&stage.target.url("postgres"), moves).await;
    let client = connect(&stage.url()).await;
    let open = [
        "SELECT * FROM totals",
        "SELECT * FROM numbered",
        "SELECT * FROM some_of_them",
        "SELECT * FROM one_of_each",
        "SELECT 'sum: ' || sum(f) FROM floats",
        "SELECT g, json_build_object('of', g, 'avg', avg(f)) FROM floats GROUP BY g",
        "SELECT ARRAY(SELECT id FROM floats)",
        "SELECT * FROM gathered",
        "SELECT DISTINCT span FROM looks",
        "SELECT doc, count(*) FROM looks GROUP BY doc",
        "SELECT * FROM picked",
    ];
    for text in open {
        client.simple_query(text).await.expect(text);
    }
    let all = until(async || {
        let (compared, left) = (counts(&stage, "tandem_shadow_reads_total", OUTCOME).await, skipped(&stage).await);
        (compared.values().chain(left.values()).sum::<u64>() == open.len() as u64).then_some((compared, left))
    });
    let (compared, left) = all.await.expect("each is told");
    assert_eq!((compared.get("mismatch"), left.len()), (None, 1), "{compared:?} {left:?}\n{}", stage.tandem.log());
    // Averages may be equal by chance.
    assert!(left["ties"] + 1 >= open.len() as u64, "{compared:?} {left:?}");
    // What one of several equal values stands for is compared.
    sql(&stage.target.url("postgres"), "DELETE FROM looks WHERE id = 1").await;
    client.simple_query("SELECT span, count(*) FROM looks GROUP BY span").await.expect("answered");
    reads_end(&stage, "mismatch", 1).await;
    // What rows hold is found behind the same view.
    sql(&stage.target.url("postgres"), "UPDATE floats SET note = 'another' WHERE id = 8").await;
    client.simple_query("SELECT * FROM totals").await.expect("answered");
    reads_end(&stage, "mismatch", 2).await;
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

/// Tables of one name: who asks is told by settings which one is meant. One of them is not mirrored.
const SHOP: &str = "
CREATE SCHEMA shop; CREATE TABLE shop.goods (id int PRIMARY KEY, v text); INSERT INTO shop.goods VALUES (1, 'a'), (2, 'b');
CREATE SCHEMA apart; CREATE TABLE apart.goods (id int PRIMARY KEY, v text);
CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA shop, apart TO app; GRANT SELECT ON shop.goods, apart.goods TO app;
CREATE ROLE other LOGIN; GRANT app TO other; ALTER ROLE other SET role = 'app'; ALTER ROLE other SET search_path = shop;
ALTER ROLE app SET search_path = shop; ALTER ROLE app SET DateStyle = 'German';";

async fn is_skipped(stage: &Stage, why: &str, goal: u64) {
    let told = until(async || (skipped(stage).await.get(why) == Some(&goal)).then_some(())).await;
    assert!(told.is_some(), "{why}: {:?}\n{}", skipped(stage).await, stage.tandem.log());
}

#[tokio::test]
async fn a_read_is_repeated_with_the_settings_of_its_role_or_not_at_all() {
    let config = format!("{ALL}[mirror]\nself_repair = false\nexclude = [\"apart.*\"]\n");
    let stage = Stage::new(SHOP, &config, &[]).await;
    sql(&stage.target.url("postgres"), "INSERT INTO apart.goods VALUES (7, 'not mirrored')").await;
    let both = async |text: &str| {
        for server in [&stage.origin, &stage.target] {
            sql(&server.url("postgres"), text).await;
        }
    };
    let alone = connect(&format!("{}?options=-c%20app.me%3D1", app(&stage))).await;
    let client = connect(&app(&stage)).await;
    let read = "SELECT g.*, '2026-02-01'::date FROM goods g";
    client.simple_query(read).await.expect("answered");
    reads_end(&stage, "match", 1).await;
    // The same words mean another table.
    client.batch_execute("SET search_path = apart").await.expect("set");
    client.simple_query(read).await.expect("answered");
    is_skipped(&stage, "not_mirrored", 1).await;
    client.batch_execute("RESET search_path").await.expect("set");
    client.simple_query(read).await.expect("answered");
    reads_end(&stage, "match", 2).await;
    sql(&stage.target.url("postgres"), "UPDATE shop.goods SET v = 'c' WHERE id = 2").await;
    client.simple_query(read).await.expect("answered");
    reads_end(&stage, "mismatch", 1).await;
    // It becomes somebody else when it logs in.
    let url = format!("postgres://other@127.0.0.1:{}/postgres", stage.tandem.port);
    connect(&url).await.simple_query(read).await.expect("answered");
    is_skipped(&stage, "not_allowed", 1).await;
    // What the client had when it logged in nobody has any more: both sides know no such table.
    both("ALTER ROLE app RESET search_path").await;
    alone.simple_query(read).await.expect("answered");
    is_skipped(&stage, "not_allowed", 2).await;
    assert_eq!((ended(&stage, "in_flight").await, ended(&stage, "match").await), (0, 2), "{}", stage.tandem.log());
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

/// How long it takes is up to its user's settings when he logs in: each side has its own, and they may change.
const COUNTED: &str = "SELECT count(*) FROM (SELECT generate_series(1, current_setting('app.n')::bigint)) AS counted";
const FOR_EVER: &str = "1000000000000";

/// A client reads on `from`, and what the other side answers differs: both are asked again, as that client, and on `from` that
/// takes for ever.
async fn recheck_that_never_ends(stage: &Stage, [from, other]: [&Postgres; 2]) {
    let set = async |server: &Postgres, n: &str| {
        // An old primary is read-only unless one asks for more.
        sql(&server.url("postgres"), &format!("BEGIN READ WRITE; ALTER ROLE app SET app.n = {n}; COMMIT")).await;
    };
    set(from, "1").await;
    set(other, "2").await;
    // Nobody else asks with these options: connections are made for it, with the settings of that moment.
    let client = connect(&format!("{}?options=-c%20app.side%3D{}", app(stage), from.port())).await;
    set(from, FOR_EVER).await;
    // There may be no room for one.
    let runs = until(async || {
        client.simple_query(COUNTED).await.expect("answered");
        (!at_work(from).await.is_empty()).then_some(())
    });
    let runs = runs.await;
    assert!(runs.is_some(), "it is not asked again: {:?}\n{}", skipped(stage).await, stage.tandem.log());
}

fn app(stage: &Stage) -> String {
    format!("postgres://app@127.0.0.1:{}/postgres", stage.tandem.port)
}

/// Who reads again on a server, and has done for a while.
async fn at_work(server: &Postgres) -> Vec<String> {
    let query = "SELECT usename FROM pg_stat_activity WHERE application_name = 'tandem shadow' AND state = 'active' \
        AND query LIKE '%app.n%' AND query_start < clock_timestamp() - interval '50 ms'";
    rows(&server.url("postgres"), query).await
}

#[tokio::test]
async fn a_switch_waits_for_no_read_that_is_asked_again_and_reads_are_compared_behind_it() {
    // Longer than clients are held, and than the test may take.
    let config = format!("{ALL}queue = 24\ntimeout = \"10m\"\nwait = \"10m\"\n[[users]]\nname = \"app\"\n");
    let stage = Stage::new(load::SCHEMA, &config, &[]).await;
    for server in [&stage.origin, &stage.target] {
        sql(&server.url("postgres"), "CREATE ROLE app LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO app").await;
    }
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = stage.load(2);
    let reading = tokio::spawn(reader(app(&stage), 0, stop.clone(), asked.clone()));
    for (to, sides) in [("target", [&stage.origin, &stage.target]), ("origin", [&stage.target, &stage.origin])] {
        recheck_that_never_ends(&stage, sides).await;
        let ended = stage.switch(to).await;
        eprintln!("to {to}: clients were held for {} us", ended["held_us"]);
        assert_eq!(ended["end"], "switched", "{ended}\n{}", stage.tandem.log());
        let gone = until(async || at_work(sides[0]).await.is_empty().then_some(())).await;
        assert!(gone.is_some(), "what was asked there is cancelled");
        let before = ended_well(&stage).await;
        let goes_on = until(async || (ended_well(&stage).await > before + 50).then_some(())).await;
        assert!(goes_on.is_some(), "{:?}\n{}", skipped(&stage).await, stage.tandem.log());
        stage.steady().await;
    }
    stop.store(true, Relaxed);
    reading.await.expect("every read is answered");
    stage.assert_kept(&writers.stop().await).await;
    assert!(skipped(&stage).await.contains_key("switching"), "{:?}", skipped(&stage).await);
    assert_eq!(ended(&stage, "mismatch").await, 0, "{}", stage.tandem.log());
}

async fn ended_well(stage: &Stage) -> u64 {
    ended(stage, "match").await + ended(stage, "in_flight").await
}

/// Rows of two tenants, who are told apart by who they are, and by what their session says.
const TENANTS: &str = "
CREATE TABLE orders (id int PRIMARY KEY, tenant text NOT NULL, what text);
INSERT INTO orders VALUES (1, 'red', 'secret'), (2, 'blue', 'secret'), (3, 'red', 'secret'), (4, 'blue', 'secret');
CREATE TABLE bills (id int PRIMARY KEY, tenant text NOT NULL, what text);
INSERT INTO bills SELECT * FROM orders;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE bills ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON orders USING (tenant = current_user);
CREATE POLICY own ON bills USING (tenant = current_setting('app.tenant', true));
CREATE ROLE red LOGIN; CREATE ROLE blue LOGIN; GRANT SELECT ON orders, bills TO red, blue;";

#[tokio::test]
async fn a_tenant_is_compared_with_his_own_rows_and_no_others() {
    // One is logged in as himself, the other is asked for by SET ROLE.
    let config = format!("{ALL}[mirror]\nself_repair = false\n[[users]]\nname = \"red\"\n");
    let stage = Stage::new(TENANTS, &config, &[]).await;
    let tenant = async |name: &str| {
        let client = connect(&format!("postgres://{name}@127.0.0.1:{}/postgres", stage.tandem.port)).await;
        client.batch_execute(&format!("SET app.tenant = '{name}'")).await.expect("set");
        client
    };
    let (red, blue) = (tenant("red").await, tenant("blue").await);
    // He is nobody else, and so is who asks for him.
    blue.batch_execute("SET ROLE blue; RESET ROLE").await.expect("set");
    blue.batch_execute("SET ROLE NONE").await.expect("set");
    for (client, own) in [(&red, "red"), (&blue, "blue")] {
        for table in ["orders", "bills"] {
            let rows = client.query(&format!("SELECT tenant FROM {table}"), &[]).await.expect("answered");
            let seen: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            assert_eq!(seen, [own, own], "{table}");
        }
    }
    reads_end(&stage, "match", 4).await;
    sql(&stage.target.url("postgres"), "DELETE FROM orders WHERE id = 2; DELETE FROM bills WHERE id = 3").await;
    for (of_who, of_other, table, id) in [(&blue, &red, "orders", 2), (&red, &blue, "bills", 3)] {
        let before = (ended(&stage, "match").await, ended(&stage, "mismatch").await);
        of_other.simple_query(&format!("SELECT * FROM {table} ORDER BY id")).await.expect("answered");
        reads_end(&stage, "match", before.0 + 1).await;
        of_who.simple_query(&format!("SELECT * FROM {table} WHERE id = {id}")).await.expect("answered");
        reads_end(&stage, "mismatch", before.1 + 1).await;
        let log = stage.tandem.log();
        let line = log.lines().find(|line| line.contains("the sides differ") && line.contains(table));
        assert!(line.is_some_and(|line| line.contains("missing_row")), "{line:?}\n{log}");
    }
    // Asked with other rights, all rows of both would have come, and would have been alike when asked again.
    assert_eq!(ended(&stage, "in_flight").await, 0, "{}", stage.tandem.log());
    let told = stage.tandem.client().get("/v1/mismatches").await.expect("it answers").to_string();
    assert!(told.contains("public.orders") && told.contains("public.bills"), "{told}");
    for said in [told, stage.tandem.log(), stage.tandem.metrics().await] {
        assert!(!said.contains("secret"), "no value is told unasked: promise 13\n{said}");
    }
}

/// What says of a tenant who he is, where no statement shows it.
const SAID: &str = "
CREATE FUNCTION become(who text) RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant', who, false)$$;
CREATE TABLE visits (id int PRIMARY KEY, tenant text);
CREATE FUNCTION visited() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM become(NEW.tenant); RETURN NEW; END';
CREATE TRIGGER visited BEFORE INSERT ON visits FOR EACH ROW EXECUTE FUNCTION visited();
GRANT INSERT ON visits TO red;";

#[tokio::test]
async fn what_is_asked_under_other_settings_than_the_clients_is_not_taken_for_alike() {
    let config = format!("{ALL}[[users]]\nname = \"red\"\n");
    let stage = Stage::new(&format!("{TENANTS}{SAID}"), &config, &[]).await;
    let url = format!("postgres://red@127.0.0.1:{}/postgres", stage.tandem.port);
    sql(&stage.target.url("postgres"), "DELETE FROM bills WHERE tenant = 'red'").await;
    for (n, told) in ["SELECT become('red')", "INSERT INTO visits VALUES (1, 'red')"].into_iter().enumerate() {
        let red = connect(&url).await;
        red.simple_query(told).await.expect("done");
        stage.steady().await;
        assert_eq!(red.query("SELECT * FROM bills", &[]).await.expect("answered").len(), 2, "{told}");
        let skips = until(async || (skipped(&stage).await.get("unsupported") > Some(&(n as u64))).then_some(())).await;
        assert!(skips.is_some(), "{told}: {:?}\n{}", skipped(&stage).await, stage.tandem.log());
    }
    for outcome in ["match", "in_flight"] {
        assert_eq!(ended(&stage, outcome).await, 0, "{}", stage.tandem.log());
    }
}
