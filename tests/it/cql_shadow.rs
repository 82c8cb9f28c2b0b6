//! Shadow reads between real nodes of two versions: equal sides under load are never said to differ, what does differ is found
//! and named, and a target that does not answer is nobody's trouble but its own.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Ask, Cql, Dial, ONE, QUORUM, SERIAL, Value};
use crate::support::cql_load::{Load, SCHEMA};
use crate::support::line::Line;
use crate::support::tandem::{Tandem, cli};

/// Of the metric of this name with all of these labels, all tables together.
async fn count(tandem: &Tandem, name: &str, labels: &[&str]) -> u64 {
    let metrics = tandem.metrics().await;
    let lines =
        metrics.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

async fn verdicts(tandem: &Tandem, verdict: &str) -> u64 {
    count(tandem, "tandem_shadow_reads_total", &[&format!("verdict=\"{verdict}\"")]).await
}

async fn skipped(tandem: &Tandem, reason: &str) -> u64 {
    count(tandem, "tandem_shadow_skipped_total", &[&format!("reason=\"{reason}\"")]).await
}

/// Wait until this is so; else the test fails with the log.
async fn until(tandem: &Tandem, what: &str, mut is: impl AsyncFnMut() -> bool) {
    for _ in 0..10_000 {
        if is().await {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let metrics = tandem.metrics().await;
    let shadow = metrics.lines().filter(|line| line.contains("shadow") && !line.starts_with('#'));
    panic!("never: {what}\n{}\n{}", shadow.collect::<Vec<_>>().join("\n"), tandem.log());
}

fn dial(keyspace: &str, version: u8, lz4: bool) -> Dial {
    Dial { version, lz4, keyspace: Some(keyspace.to_owned()), ..Dial::default() }
}

/// What readers ask, of rows that others are writing. `?` is a number of theirs.
const ASKED: [&str; 14] = [
    "SELECT v, u, w FROM plain WHERE k = ?",
    "SELECT v, writetime(v), ttl(v) FROM plain WHERE k = ?",
    "SELECT JSON v, w FROM plain WHERE k = ?",
    "SELECT * FROM wide WHERE k = ?",
    "SELECT c, l FROM wide WHERE k = ? LIMIT 2",
    "SELECT s, m FROM wide WHERE k = ? ORDER BY c DESC",
    "SELECT c, s FROM wide WHERE k IN (?, 1, 2)",
    "SELECT count(*), max(c) FROM wide WHERE k = ?",
    "SELECT DISTINCT k FROM wide WHERE token(k) >= token(?)",
    "SELECT * FROM counts WHERE k = ?",
    "SELECT v FROM forgets WHERE k = ?",
    "SELECT v, at, writetime(v) FROM decided WHERE k = ?",
    "SELECT k, n FROM counts WHERE token(k) >= token(?)",
    "SELECT w FROM plain WHERE token(k) > token(?) LIMIT 20",
];

/// Asks all of it, again and again, as prepared statements and as texts.
fn read_on(address: SocketAddrV4, keyspace: &'static str, (version, lz4): (u8, bool), stop: &AtomicBool) {
    let mut cql = Cql::dial(address, &dial(keyspace, version, lz4)).expect("a login");
    let prepared: Vec<_> = ASKED.iter().map(|text| cql.prepare(text, None).expect(text)).collect();
    for turn in 0.. {
        let at = turn % ASKED.len();
        if stop.load(SeqCst) {
            return;
        }
        let number = turn as i64 % 7;
        let (key, text) = match prepared[at].variables[0].1 {
            crate::support::cql::Type::Simple(0x02) => (Value::from((number << 32) | (turn as i64 % 40)), "0"),
            _ => (Value::from(number as i32), "3"),
        };
        let values = [key];
        let ask = Ask {
            // Paxos would have others wait on contested rows.
            consistency: if at == 0 { [ONE, QUORUM, SERIAL][turn % 3] } else { [ONE, QUORUM][turn % 2] },
            page_size: (turn % 2 == 0).then_some(3).filter(|_| !ASKED[at].contains("IN (")),
            skip_metadata: turn % 5 == 0,
            ..Ask::default()
        };
        let answer = match turn % 4 {
            0 => cql.query(&ASKED[at].replace('?', text), &ask),
            _ => cql.execute(&prepared[at].id, &prepared[at].metadata_id, &Ask { values: &values, ..ask }),
        };
        answer.unwrap_or_else(|failure| panic!("{}: {failure:?}", ASKED[at]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_sides_under_load_are_never_said_to_differ() {
    let keyspace = "shadowed";
    let nodes = pair_with(keyspace);
    for node in nodes {
        SCHEMA.iter().for_each(|text| Cql::of(node, keyspace).define(text));
    }
    let more = "[shadow]\nsample = \"100%\"\nrecheck = \"2s\"\nwait = \"30s\"\nworkers = 16\nqueue = 10000";
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), more).await;
    let load = Load::start(tandem.address(), keyspace, 4);
    let stop = Arc::new(AtomicBool::new(false));
    let wanted = std::env::var("TANDEM_READS_COMPARED").map_or(2_000, |reads| reads.parse().expect("a number"));
    let dials = [(3, false), (4, true), (5, false), (5, true)];
    let readers: Vec<_> = dials
        .into_iter()
        .cycle()
        .take(dials.len() * if wanted > 10_000 { 4 } else { 1 })
        .map(|dial| {
            let (address, stop) = (tandem.address(), stop.clone());
            thread::spawn(move || read_on(address, keyspace, dial, &stop))
        })
        .collect();
    let mut compared = 0;
    while compared < wanted {
        let before = compared;
        until(&tandem, "more reads are compared", async || {
            verdicts(&tandem, "match").await + verdicts(&tandem, "in_flight").await > before
        })
        .await;
        compared = verdicts(&tandem, "match").await + verdicts(&tandem, "in_flight").await;
        if compared / 10_000 > before / 10_000 {
            eprintln!("{compared} reads compared, {} differ", verdicts(&tandem, "mismatch").await);
        }
        sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, SeqCst);
    readers.into_iter().for_each(|reader| reader.join().expect("no reader fails"));
    load.end().await;
    until(&tandem, "all are judged", async || count(&tandem, "tandem_shadow_queue ", &[]).await == 0).await;
    let said: Vec<u64> = [
        verdicts(&tandem, "match").await,
        verdicts(&tandem, "in_flight").await,
        verdicts(&tandem, "noise").await,
        verdicts(&tandem, "mismatch").await,
    ]
    .to_vec();
    eprintln!("match, in flight, noise, mismatch: {said:?}");
    assert_eq!(said[3], 0, "a false alarm\n{}", tandem.log());
    for reason in ["unsupported", "secondary_failed", "primary_failed", "not_mirrored", "not_allowed", "volatile"] {
        assert_eq!(skipped(&tandem, reason).await, 0, "{reason}");
    }
    eprintln!("moving: {}, behind: {}", skipped(&tandem, "moving").await, skipped(&tandem, "behind").await);
    // One that is there is found: the check can fail.
    tandem.settled().await;
    let key = Cql::of(nodes[0], keyspace).rows("SELECT k FROM plain WHERE w > 0 LIMIT 1 ALLOW FILTERING").remove(0);
    Cql::of(nodes[1], keyspace).run(&format!("UPDATE plain SET w = -1 WHERE k = {key}"));
    Cql::dial(tandem.address(), &dial(keyspace, 5, false))
        .expect("a login")
        .run(&format!("SELECT w FROM plain WHERE k = {key}"));
    until(&tandem, "the planted difference is found", async || verdicts(&tandem, "mismatch").await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_row_that_is_written_all_the_time_a_stale_column_is_found_and_nothing_else() {
    let keyspace = "shadow_hot";
    let nodes = pair_with(keyspace);
    for node in nodes {
        Cql::of(node, keyspace).define("CREATE TABLE hot (k int PRIMARY KEY, n int, v text)");
    }
    let more = "[shadow]\nsample = \"100%\"\nrecheck = \"300ms\"\nwait = \"10s\"";
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), more).await;
    let mut cql = Cql::dial(tandem.address(), &dial(keyspace, 5, false)).expect("a login");
    cql.run("INSERT INTO hot (k, n, v) VALUES (1, 0, 'right')");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (address, stop) = (tandem.address(), stop.clone());
            thread::spawn(move || {
                let mut cql = Cql::dial(address, &dial(keyspace, 4, false)).expect("a login");
                for turn in 0.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    // Few values: the same one comes back all the time.
                    cql.run(&format!("UPDATE hot SET n = {} WHERE k = 1", (turn + writer) % 2));
                }
            })
        })
        .collect();
    let judged = async || verdicts(&tandem, "match").await + verdicts(&tandem, "in_flight").await;
    while judged().await < 200 {
        cql.run("SELECT n, v FROM hot WHERE k = 1");
    }
    assert_eq!(verdicts(&tandem, "mismatch").await, 0, "a false alarm\n{}", tandem.log());
    Cql::of(nodes[1], keyspace).run("UPDATE hot SET v = 'stale' WHERE k = 1");
    // A read that comes while the mirror is late is passed over.
    let is_found = async || {
        cql.run("SELECT n, v FROM hot WHERE k = 1");
        verdicts(&tandem, "mismatch").await > 0
    };
    until(&tandem, "the stale column is found", is_found).await;
    let is_named = |line: &str| line.contains("other_value") && line.contains("columns=\"v\"");
    assert!(tandem.log().lines().any(is_named), "{}", tandem.log());
    stop.store(true, SeqCst);
    writers.into_iter().for_each(|writer| writer.join().expect("no writer fails"));
    tandem.settled().await;
    let rows = nodes.map(|node| Cql::of(node, keyspace).rows("SELECT k, n, v FROM hot"));
    assert_eq!(rows[0], rows[1], "it was owed again\n{}", tandem.log());
    let said = async || {
        let output = cli(&["switch", "target", "--dry-run", "--admin", &tandem.admin]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    until(&tandem, "a go", async || said().await.contains("other side: GO: ")).await;
}

/// A table of the target's own making, what is done to it there, what is read, and what is said to differ.
const PLANTED: &[(&str, &str, &str, &str)] = &[
    ("missing", "DELETE FROM missing WHERE k = 1 AND c = 2", "SELECT * FROM missing WHERE k = 1", "missing_row"),
    ("extra", "INSERT INTO extra (k, c, v) VALUES (1, 9, 'nine')", "SELECT c, v FROM extra WHERE k = 1", "extra_row"),
    ("stale", "INSERT INTO stale (k, c, v) VALUES (1, 2, 'old')", "SELECT v, c FROM stale WHERE k = 1", "other_value"),
    ("scanned", "DELETE v FROM scanned WHERE k = 3 AND c = 3", "SELECT * FROM scanned", "other_value"),
    ("counted", "DELETE FROM counted WHERE k = 1", "SELECT count(*) FROM counted WHERE k = 1", "other_value"),
    ("turned", "", "SELECT c FROM turned WHERE k = 1", "other_order"),
    ("typed", "", "SELECT v FROM typed WHERE k = 1 AND c = 1", "other_type"),
    ("lonely", "", "SELECT v FROM lonely WHERE k = 1", "other_error"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_difference_is_found_and_named_and_what_can_be_is_mended() {
    let keyspace = "planted";
    let nodes = pair_with(keyspace);
    for (side, node) in nodes.iter().enumerate() {
        let mut cql = Cql::of(node, keyspace);
        for (table, ..) in PLANTED {
            let (kind, order) = match (*table, side) {
                ("lonely", 1) => continue,
                ("typed", 1) => ("ascii", ""),
                ("turned", 1) => ("text", " WITH CLUSTERING ORDER BY (c DESC)"),
                _ => ("text", ""),
            };
            cql.define(&format!("CREATE TABLE {table} (k int, c int, v {kind}, PRIMARY KEY (k, c)){order}"));
        }
    }
    let more = "[shadow]\nsample = \"1\"\nrecheck = \"1s\"\nignore = [\"stale.ignored\"]";
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), more).await;
    let mut cql = Cql::dial(tandem.address(), &dial(keyspace, 5, false)).expect("a login");
    for (table, ..) in PLANTED.iter().filter(|(table, ..)| *table != "lonely" && *table != "typed") {
        for (k, c) in [(1, 1), (1, 2), (1, 3), (3, 3)] {
            cql.run(&format!("INSERT INTO {table} (k, c, v) VALUES ({k}, {c}, 'v{c}')"));
        }
    }
    tandem.settled().await;
    let mut target = Cql::of(nodes[1], keyspace);
    for (_, planted, ..) in PLANTED.iter().filter(|(_, planted, ..)| !planted.is_empty()) {
        target.run(planted);
    }
    for (table, _, asked, how) in PLANTED {
        let before = verdicts(&tandem, "mismatch").await;
        cql.run(asked);
        until(&tandem, &format!("{table}: a mismatch"), async || verdicts(&tandem, "mismatch").await > before).await;
        let log = tandem.log();
        let named =
            log.lines().any(|line| line.contains("the sides differ") && line.contains(how) && line.contains(table));
        assert!(named, "{table} {how}\n{log}");
    }
    assert!(!tandem.log().contains("nine"), "values are in the log");
    // What rows could be named was owed again.
    tandem.settled().await;
    for (table, ..) in PLANTED.iter().take(5) {
        let text = format!("SELECT k, c, v FROM {table}");
        let [origin, target] = nodes.map(|node| Cql::of(node, keyspace).rows(&text));
        assert_eq!(origin, target, "{table}\n{}", tandem.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_does_not_answer_is_counted_and_keeps_no_client_waiting() {
    let keyspace = "shadow_away";
    let nodes = pair_with(keyspace);
    for node in nodes {
        Cql::of(node, keyspace).define("CREATE TABLE t (k int PRIMARY KEY, v text)");
    }
    let line = Line::to(nodes[1].address());
    let more = "[shadow]\nsample = \"100%\"\nwait = \"1s\"\ntimeout = \"2s\"";
    let tandem = Tandem::start_cql(nodes[0].address(), line.address, more).await;
    let mut cql = Cql::dial(tandem.address(), &dial(keyspace, 4, false)).expect("a login");
    cql.run("INSERT INTO t (k, v) VALUES (1, 'a')");
    tandem.settled().await;
    is_compared(&tandem, &mut cql).await;
    line.cut();
    assert_eq!(cql.rows(ONE_ROW), ["a"]);
    until(&tandem, "a read that nobody answers is skipped", async || {
        skipped(&tandem, "secondary_failed").await + skipped(&tandem, "timeout").await > 0
    })
    .await;
    let before = skipped(&tandem, "behind").await;
    cql.run("INSERT INTO t (k, v) VALUES (1, 'b')");
    assert_eq!(cql.rows(ONE_ROW), ["b"]);
    until(&tandem, "a read of what did not arrive is skipped", async || skipped(&tandem, "behind").await > before)
        .await;
    line.mend();
    tandem.settled().await;
    is_compared(&tandem, &mut cql).await;
    assert_eq!(verdicts(&tandem, "mismatch").await, 0, "{}", tandem.log());
}

const ONE_ROW: &str = "SELECT v FROM t WHERE k = 1";

/// Reads are compared. A slow machine may skip some.
async fn is_compared(tandem: &Tandem, cql: &mut Cql) {
    let before = verdicts(tandem, "match").await;
    for _ in 0..300 {
        cql.run(ONE_ROW);
        sleep(Duration::from_millis(50)).await;
        if verdicts(tandem, "match").await > before {
            return;
        }
    }
    panic!("nothing is compared\n{}", tandem.log());
}
