//! Workers beside tandem on real Cassandra: a backfill that several processes share while clients write, of which one is killed,
//! and tandem too.

use std::time::Duration;

use serde_json::{Value, json};
use tandem::protocol::cql::stamps::now_micros;
use tokio::time::sleep;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Cql, Dial};
use crate::support::cql_load::{Load, SCHEMA, difference, missing};
use crate::support::history::counts;
use crate::support::tandem::{Tandem, Worker};
use crate::support::until;

const ROWS: i64 = 20_000;
const TABLES: [&str; 3] = ["plain", "wide", "counts"];

/// Rows of long ago: their keys are those of no client.
fn history(cql: &mut Cql) {
    let rows: Vec<i64> = (1..=ROWS).collect();
    for some in rows.chunks(100) {
        let each = |k: &i64| format!("INSERT INTO plain (k, v, w) VALUES ({}, 'history {k}', {k})", -k);
        let each: Vec<String> = some.iter().map(each).collect();
        cql.run(&format!(
            "BEGIN UNLOGGED BATCH USING TIMESTAMP {} {}; APPLY BATCH",
            now_micros() - 86_400_000_000,
            each.join("; ")
        ));
    }
    for k in 0..100 {
        cql.run(&format!("INSERT INTO wide (k, c, l, s, m) VALUES (-1, {k}, ['h', 'i'], {{{k}}}, {{'h': {k}}})"));
        cql.run(&format!("UPDATE counts SET n = n + {k} WHERE k = {}", -1 - k));
    }
}

async fn begin(tandem: &Tandem, keyspace: &str) {
    let tables = TABLES.map(|table| format!("{keyspace}.{table}"));
    let request = json!({ "action": "start", "tables": tables, "on_conflict": "overwrite" });
    let asked = tandem.client().post("/v1/backfill", &request).await;
    asked.unwrap_or_else(|error| panic!("{error}\n{}", tandem.log()));
}

/// What the report says, once it is so.
async fn report_is(tandem: &Tandem, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..18_000 {
        if let Ok(report) = tandem.client().get("/v1/backfill").await {
            if is(&report) {
                return report;
            }
            last = report;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}: {last:#}\n{}", tandem.log());
}

fn worker<'r>(report: &'r Value, name: &str) -> Option<&'r Value> {
    report["workers"].as_array()?.iter().find(|worker| worker["name"] == name)
}

/// It has copied rows, and is at work.
fn is_busy(report: &Value, name: &str) -> bool {
    worker(report, name)
        .is_some_and(|worker| worker["rows"].as_u64() > Some(0) && worker["under_way"].as_u64() > Some(0))
}

fn is_over(report: &Value) -> bool {
    ["Done", "Failed", "Cancelled"].iter().any(|state| report["state"] == *state)
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_copied_by_workers_of_which_one_is_killed_and_so_is_tandem() {
    let keyspace = "worked";
    let nodes = pair_with(keyspace);
    for node in nodes {
        let mut cql = Cql::of(node, keyspace);
        SCHEMA.iter().for_each(|text| cql.define(text));
    }
    history(&mut Cql::of(nodes[0], keyspace));
    // A loaded machine lags.
    let config = "[backfill]\nchunk_rows = 400\nworkers = 1\nrate = \"250KB\"\nmax_lag = \"10m\"\n";
    let mut tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), config).await;
    let load = Load::start(tandem.address(), keyspace, 3);
    let (mut one, mut two) = (Worker::start(&tandem, "one", &[]), Worker::start(&tandem, "two", &[]));
    begin(&tandem, keyspace).await;
    report_is(&tandem, "shared", |report| {
        is_over(report)
            || is_busy(report, "one") && worker(report, "two").is_some_and(|two| two["rows"].as_u64() > Some(0))
    })
    .await;
    one.kill();
    let report = report_is(&tandem, "over", is_over).await;
    eprintln!("{:#}", report["workers"]);
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    let rows = |report: &Value, name: &str| worker(report, name).and_then(|worker| worker["rows"].as_u64());
    for name in ["one", "two"] {
        assert!(rows(&report, name) > Some(0), "{name} copied something: {report:#}\n{}", tandem.log());
    }
    assert!(report["rows"].as_u64() >= Some(ROWS as u64), "{report:#}");
    let [read, all @ ..] = counts(&report);
    assert_eq!(read, all.iter().sum::<u64>(), "{report:#}");
    // Once more, from the beginning, with tandem killed in the middle.
    for table in TABLES {
        Cql::of(nodes[1], keyspace).run(&format!("TRUNCATE {table}"));
    }
    begin(&tandem, keyspace).await;
    let before = rows(&report, "two");
    report_is(&tandem, "under way", |report| is_over(report) || is_busy(report, "two") && rows(report, "two") > before)
        .await;
    tandem.kill();
    tandem.launch().await;
    let report = report_is(&tandem, "over", is_over).await;
    let told = load.end().await;
    eprintln!("{:#}", report["workers"]);
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    assert!(rows(&report, "two") > Some(0), "it came back: {report:#}\n{}\n{}", tandem.log(), two.log());
    tandem.settled().await;
    let [mut old, mut new] = nodes.map(|node| Cql::of(node, keyspace));
    assert_eq!(difference(&mut old, &mut new), None, "{}\n{}", tandem.log(), two.log());
    assert_eq!(missing(&mut new, &told), Vec::<String>::new());
    tandem.nothing_set_aside().await;
    let (code, said) = two.interrupt();
    assert_eq!(code, Some(0), "{said}\n{}", two.log());
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert!(said["rows"].as_u64() > Some(0) && said["compared"].as_u64() > Some(0), "{said}");
    refusals(&tandem).await;
}

/// A worker that has a part of a walk of this kind, and does nothing more. Its name is nobody else's.
async fn hangs_amid(tandem: &Tandem, kind: &str, keyspace: &str) -> Worker {
    let path = format!("/v1/{kind}");
    let hangs = Worker::start(tandem, kind, &[]);
    let under_way = async || {
        let report = tandem.client().get(&path).await.unwrap_or_default();
        worker(&report, kind).and_then(|worker| worker["under_way"].as_u64()) > Some(0) && !is_over(&report)
    };
    let found = until(async || {
        // Refused while the one before is under way.
        let request = json!({ "action": "start", "tables": [format!("{keyspace}.plain")], "on_conflict": "overwrite" });
        let _ = tandem.client().post(&path, &request).await;
        if !under_way().await {
            return None;
        }
        hangs.signal("STOP");
        sleep(Duration::from_millis(100)).await;
        if under_way().await {
            return Some(());
        }
        hangs.signal("CONT");
        None
    });
    found.await.unwrap_or_else(|| panic!("it has never a part of it\n{}", tandem.log()));
    hangs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_holds_no_switch_up_promise_10() {
    let keyspace = "hung";
    let nodes = pair_with(keyspace);
    for node in nodes {
        Cql::of(node, keyspace).define("CREATE TABLE plain (k bigint PRIMARY KEY, v text, w int)");
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "[backfill]\nworkers = 1\n").await;
    let dial = Dial { keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    let mut client = Cql::dial(tandem.address(), &dial).expect("a login");
    for some in (0..ROWS).collect::<Vec<_>>().chunks(100) {
        let each: Vec<String> =
            some.iter().map(|k| format!("INSERT INTO plain (k, v, w) VALUES ({k}, 'row {k}', {k})")).collect();
        client.run(&format!("BEGIN UNLOGGED BATCH {}; APPLY BATCH", each.join("; ")));
    }
    tandem.settled().await;
    let mut worker = hangs_amid(&tandem, "verify", keyspace).await;
    if let Err(said) = tandem.switch_once("target").await {
        panic!("{said}\n{}", tandem.log());
    }
    worker.kill();
    // What it copies may yet arrive: that is waited for before clients are held.
    let mut worker = hangs_amid(&tandem, "backfill", keyspace).await;
    tandem.client().post("/v1/backfill", &json!({ "action": "cancel" })).await.expect("it is under way");
    if let Err(said) = tandem.switch_once("origin").await {
        panic!("{said}\n{}", tandem.log());
    }
    worker.kill();
}

/// Who may not work is told why, and who has nothing to do ends if that was asked for.
async fn refusals(tandem: &Tandem) {
    let mut idle = Worker::start(tandem, "idle", &["--once"]);
    assert_eq!(idle.ended(), Some(0), "{}", idle.log());
    let text = std::fs::read_to_string(tandem.dir().join("proxy.toml")).expect("written before");
    let write = |name: &str, text: &str| std::fs::write(tandem.dir().join(name), text).expect("written");
    let swapped = text.replace("[origin]", "[other]").replace("[target]", "[origin]").replace("[other]", "[target]");
    write("swapped.toml", &swapped);
    let mut stranger = Worker::start(tandem, "stranger", &["--config", "swapped.toml"]);
    assert_eq!(stranger.ended(), Some(1), "{}", stranger.log());
    assert!(stranger.log().contains("the worker's origin is another cluster"), "{}", stranger.log());
    write(
        "postgres.toml",
        &text.replace("\"cql\"", "\"postgres\"").replace("cql://", "postgres://u@").replace("9042\"", "9042/d\""),
    );
    let mut other = Worker::start(tandem, "other", &["--config", "postgres.toml"]);
    assert_eq!(other.ended(), Some(2), "{}", other.log());
    assert!(other.log().contains("workers are for wire = \"cql\""), "{}", other.log());
    let shown = until(async || {
        let output = crate::support::tandem::cli(&["backfill", "status", "--admin", &tandem.admin]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        shown.contains("worker two: gone").then_some(shown)
    });
    assert!(shown.await.is_some_and(|shown| shown.contains("rows copied")));
}
