//! History on real Cassandra: what only the origin has is copied under load, compared and repaired, and both sides are equal
//! in the end by a comparison without tandem.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use serde_json::{Value, json};
use tandem::dice::Dice;
use tandem::protocol::cql::client::{Address, Client, Settings};
use tandem::protocol::cql::stamps::now_micros;
use tandem::protocol::cql::wire::primitive::Consistency;
use tandem::protocol::cql::wire::request::Parameters;
use tandem::sandbox::cassandra::Node;
use tokio::time::sleep;

use crate::cql_applier::{EXPIRE, EXPIRING, expire_together, seconds, v5};
use crate::support::cassandra::{make_keyspace, pair, pair_with};
use crate::support::cql::Cql;
use crate::support::cql_load::{Load, SCHEMA, difference, missing};
use crate::support::history::counts;
use crate::support::tandem::{Tandem, cli};

/// Beside the tables of the load: every type, static columns, rows that are nothing but their key, a vector where there
/// is one.
const MORE: [&str; 5] = [
    "CREATE TYPE address (street text, number int)",
    "CREATE TABLE types (k int PRIMARY KEY, a ascii, b bigint, c blob, d boolean, e date, f decimal, g double, h duration, \
     i inet, j smallint, l time, m timestamp, n tinyint, o uuid, p varint, q float, r tuple<int, text>, \
     s frozen<list<int>>, t frozen<map<text, int>>, u frozen<address>, v address, w set<text>, x map<int, text>)",
    "CREATE TABLE shared (k int, c int, name text static, tags set<text> static, l list<int> static, v text, PRIMARY KEY (k, c)) \
     WITH CLUSTERING ORDER BY (c DESC)",
    "CREATE TABLE keys (a text, b int, PRIMARY KEY (a, b))",
    "CREATE TABLE two (a int, b text, c timeuuid, v int, PRIMARY KEY ((a, b), c))",
];

/// The same by bytes, with the times of cells where every version shows them.
const COMPARED: [&str; 5] = [
    "SELECT k, a, b, c, d, e, f, g, h, i, j, l, m, n, o, p, q, r, s, t, u, v, w, x, writetime(a), writetime(q), ttl(a), \
     writetime(u), writetime(s) FROM types",
    "SELECT k, c, name, tags, l, v, writetime(name), writetime(v) FROM shared",
    "SELECT a, b FROM keys",
    "SELECT a, b, c, v, writetime(v) FROM two",
    "SELECT k, v FROM plain",
];

fn history(cql: &mut Cql) {
    for k in 0..300 {
        cql.run(&format!(
            "INSERT INTO types (k, a, b, c, d, e, f, g, h, i, j, l, m, n, o, p, q, r, s, t, u, v, w, x) VALUES ({k}, 'a', {k}, 0x00ff, \
             true, '2020-01-01', 1.50, -0.0, 1mo2d3h, '::1', 7, '08:12:54', '2020-01-01 00:00:00Z', 3, \
             123e4567-e89b-12d3-a456-426614174000, 12345678901234567890, 1.5, (1, 'x'), [3, 1, 2], {{'b': 1, 'a': 2}}, \
             {{street: 'Mill Lane', number: {k}}}, {{street: 'High Street'}}, {{'x', 'y'}}, {{1: 'one', 2: 'two'}}) \
             USING TIMESTAMP {}",
            1_000_000 + k
        ));
        cql.run(&format!("UPDATE types USING TTL {} SET a = 'expires' WHERE k = {k}", 5_000 + k));
        cql.run(&format!("INSERT INTO shared (k, c, v) VALUES ({}, {k}, 'v{k}')", k % 7));
        cql.run(&format!("INSERT INTO keys (a, b) VALUES ('{}', {k})", k % 3));
        cql.run(&format!("INSERT INTO two (a, b, c, v) VALUES ({}, 'b', now(), {k})", k % 20));
        cql.run(&format!("INSERT INTO plain (k, v, w) VALUES ({}, 'history', {k})", -k));
        cql.run(&format!(
            "INSERT INTO wide (k, c, l, s, m) VALUES ({}, {k}, ['h', 'i'], {{{k}}}, {{'h': {k}}})",
            100 + k % 5
        ));
        cql.run(&format!("UPDATE counts SET n = n + {k} WHERE k = {}", 1_000 + k % 50));
        cql.run(&format!("INSERT INTO forgets (k, v) VALUES ({}, 'kept')", 1_000_000 + k));
        cql.run(&format!("DELETE FROM plain WHERE k = {}", -k * 2));
    }
    for k in 0..10 {
        cql.run(&format!("UPDATE shared SET name = 'static {k}', tags = {{'t'}}, l = [{k}, 2] WHERE k = {k}"));
        cql.run(&format!("DELETE v FROM shared WHERE k = {} AND c = {k}", k % 7));
    }
}

fn tables(keyspace: &str) -> Value {
    let names = ["types", "shared", "keys", "two", "plain", "wide", "counts", "forgets", "decided"];
    json!({ "tables": names.map(|name| format!("{keyspace}.{name}")) })
}

/// Both nodes with the tables, history on the origin only, and tandem between them.
async fn stage(keyspace: &'static str) -> ([&'static Node; 2], Tandem) {
    stage_with(keyspace, "").await
}

async fn stage_with(keyspace: &'static str, config: &str) -> ([&'static Node; 2], Tandem) {
    let nodes = pair_with(keyspace);
    for node in nodes {
        let mut cql = Cql::of(node, keyspace);
        SCHEMA.iter().chain(&MORE).for_each(|text| cql.define(text));
    }
    history(&mut Cql::of(nodes[0], keyspace));
    // What cannot be asked on the target must not hold up what can.
    let away = format!("{keyspace}_away");
    nodes.iter().for_each(|node| make_keyspace(node, &away, 2));
    nodes.iter().for_each(|node| Cql::of(node, &away).define("CREATE TABLE t (k int PRIMARY KEY)"));
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), config).await;
    (nodes, tandem)
}

/// Ask for a walk; how it ended.
pub(crate) async fn walk(tandem: &Tandem, kind: &str, more: &Value) -> Value {
    begin(tandem, kind, more).await;
    ended(tandem, kind).await
}

async fn begin(tandem: &Tandem, kind: &str, more: &Value) {
    let mut request = json!({ "action": "start" });
    request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let asked = tandem.client().post(&format!("/v1/{kind}"), &request).await;
    asked.unwrap_or_else(|error| panic!("{error}\n{}", tandem.log()));
}

async fn ended(tandem: &Tandem, kind: &str) -> Value {
    for _ in 0..12_000 {
        let report = tandem.client().get(&format!("/v1/{kind}")).await.expect("it answers");
        if ["Done", "Failed", "Cancelled"].iter().any(|state| report["state"] == *state) {
            return report;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the {kind} never ends\n{}", tandem.log());
}

fn equal(nodes: [&Node; 2], keyspace: &str, log: &str) {
    let [mut old, mut new] = nodes.map(|node| Cql::of(node, keyspace));
    assert_eq!(difference(&mut old, &mut new), None, "{log}");
    for text in COMPARED {
        let mut both = [old.rows(text), new.rows(text)];
        both.iter_mut().for_each(|rows| rows.sort_unstable());
        let [here, there] = both;
        // TTLs are asked for one after the other.
        if !text.contains("ttl") {
            assert_eq!(here, there, "{text}\n{log}");
        }
        assert_eq!(here.len(), there.len(), "{text}\n{log}");
    }
}

/// `read = equal + missing + extra + different + skipped`.
fn closes(report: &Value) {
    let [read, rest @ ..] = counts(report);
    assert_eq!(read, rest.iter().sum::<u64>(), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_of_every_type_is_copied_under_load_and_both_sides_are_equal() {
    let (nodes, tandem) = stage("copied").await;
    let load = Load::start(tandem.address(), "copied", 6);
    load.goes_on(100).await;
    let report = walk(&tandem, "backfill", &tables("copied")).await;
    load.goes_on(100).await;
    let told = load.end().await;
    tandem.settled().await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    closes(&report);
    equal(nodes, "copied", &tandem.log());
    assert_eq!(missing(&mut Cql::of(nodes[1], "copied"), &told), Vec::<String>::new());
    let verified = walk(&tandem, "verify", &tables("copied")).await;
    closes(&verified);
    let [read, equal, rest @ ..] = counts(&verified);
    assert!(read == equal && read > 2_000 && rest == [0; 4], "{verified:#}");
    tandem.nothing_set_aside().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_neither_copied_nor_compared_is_named_before_a_switch() {
    // Of many that other tests left on these nodes the first are named.
    let keyspace = "aaa_never_copied";
    let nodes = pair_with(keyspace);
    for node in nodes {
        for name in ["filled", "empty"] {
            Cql::of(node, keyspace).define(&format!("CREATE TABLE {name} (k int PRIMARY KEY)"));
        }
    }
    Cql::of(nodes[0], keyspace).run("INSERT INTO filled (k) VALUES (1)");
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let unknown = || {
        let output = cli(&["switch", "target", "--dry-run", "--json", "--admin", &tandem.admin]);
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = shown["findings"].as_array().unwrap_or_else(|| panic!("{shown:#}"));
        let of_rule = all.iter().filter(|one| one["name"] == "history_unknown");
        let objects = of_rule.map(|one| one["object"].as_str().expect("a name").to_owned());
        objects.filter(|object| object.starts_with(keyspace)).collect::<Vec<_>>()
    };
    assert_eq!(unknown(), [format!("{keyspace}.filled")]);
    walk(&tandem, "backfill", &json!({ "tables": [format!("{keyspace}.*")] })).await;
    assert_eq!(unknown(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_of_history_expires_on_both_sides_together() {
    let (nodes, now) = (pair_with("expires"), seconds());
    let more = [
        "CREATE TABLE keys (k int PRIMARY KEY)",
        "CREATE TABLE slots (k int PRIMARY KEY, v int, s set<int>) WITH default_time_to_live = 1000",
        "CREATE TABLE plain (k int PRIMARY KEY, v int, w int)",
    ];
    for node in nodes {
        let mut cql = Cql::of(node, "expires");
        ["CREATE TYPE pair (a int, b int)", EXPIRING].iter().chain(&more).for_each(|text| cql.define(text));
    }
    let mut origin = Cql::of(nodes[0], "expires");
    EXPIRE.iter().for_each(|text| drop(origin.run(text)));
    for k in 0..300 {
        let ttl = [0, 1_000, 1_500][k % 3];
        origin.run(&format!("INSERT INTO keys (k) VALUES ({k}) USING TTL {ttl}"));
        origin.run(&format!("INSERT INTO slots (k, v, s) VALUES ({k}, 1, {{1, {k}}}) USING TTL {ttl}"));
        origin.run(&format!("UPDATE slots SET s = s + {{-1}} WHERE k = {k}"));
        // A row that was made by an INSERT stays when its last cell is gone; one that was made by an UPDATE does not.
        for text in [
            "INSERT INTO plain (k, v, w) VALUES ({}, 1, 1)",
            "INSERT INTO plain (k, v, w) VALUES ({}, 1, 1) USING TTL 1000",
            "INSERT INTO plain (k, v) VALUES ({}, 1)",
            "UPDATE plain USING TTL 1500 SET w = 1 WHERE k = {}",
            "INSERT INTO plain (k) VALUES ({})",
            "INSERT INTO plain (k) VALUES ({}) USING TTL 1500",
        ]
        .iter()
        .zip(0..)
        .map(|(text, n)| text.replace("{}", &(6 * k + n).to_string()))
        {
            origin.run(&text);
        }
        origin.run(&format!("UPDATE plain USING TTL 1000 SET v = 2 WHERE k = {}", 6 * k + 2));
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let tables = json!({ "tables": ["expires.t", "expires.keys", "expires.slots", "expires.plain"] });
    let report = walk(&tandem, "backfill", &tables).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    tandem.settled().await;
    let [mut here, mut there] = nodes.map(|node| v5(node, "expires"));
    expire_together(&mut here, &mut there, now, "SELECT k, c, v, l, s, m, u, st FROM t");
    expire_together(&mut here, &mut there, now, "SELECT k FROM keys");
    expire_together(&mut here, &mut there, now, "SELECT k, v, s FROM slots");
    expire_together(&mut here, &mut there, now, "SELECT k, v, w FROM plain");
    tandem.nothing_set_aside().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_found_and_mended_also_under_a_newer_tombstone() {
    let (nodes, tandem) = stage("mended").await;
    let report = walk(&tandem, "backfill", &tables("mended")).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    let mut exactly = tables("mended");
    exactly["compare"] = json!("writetimes");
    let copied = walk(&tandem, "verify", &exactly).await;
    assert_eq!(counts(&copied)[0], counts(&copied)[1], "a copy has its own times: {copied:#}");
    let mut target = Cql::of(nodes[1], "mended");
    for text in [
        // Missing, and its tombstone is newer than the row's own time.
        "DELETE FROM types WHERE k = 7",
        "DELETE FROM shared WHERE k = 1 AND c = 1",
        "DELETE FROM keys WHERE a = '0'",
        "DELETE l FROM wide WHERE k = 101 AND c = 1",
        // Only there.
        "INSERT INTO types (k, a) VALUES (9999, 'stranger')",
        "INSERT INTO keys (a, b) VALUES ('stranger', 1)",
        // Different.
        "UPDATE two SET v = -1 WHERE a = 1 AND b = 'b'",
        "UPDATE shared SET name = 'vandal' WHERE k = 2",
        "UPDATE types SET x = x + {9: 'nine'}, v.number = 5 WHERE k = 8",
        "UPDATE counts SET n = n + 100 WHERE k = 1001",
        "UPDATE types USING TTL 100000 SET b = 9 WHERE k = 9",
    ] {
        if text.contains("two SET") {
            for c in target.rows("SELECT c FROM two WHERE a = 1 AND b = 'b'") {
                let uuid = [&c[..8], &c[8..12], &c[12..16], &c[16..20], &c[20..]].join("-");
                target.run(&format!("{text} AND c = {uuid}"));
            }
            continue;
        }
        target.run(text);
    }
    let found = walk(&tandem, "verify", &tables("mended")).await;
    closes(&found);
    let [_, _, missing, extra, different, skipped] = counts(&found);
    assert_eq!((missing, extra, different, skipped), (102, 2, 20, 0), "{found:#}");
    let lines = tandem.client().get("/v1/verify/differences?values=true").await.expect("it answers");
    let keys: Vec<&str> = lines.as_array().expect("a list").iter().filter_map(|line| line["key"].as_str()).collect();
    assert!(keys.contains(&"k = 7") && keys.contains(&"a = 'stranger', b = 1"), "{lines:#}");
    let mended = walk(&tandem, "repair", &tables("mended")).await;
    closes(&mended);
    assert_eq!(mended["counts"]["repaired"], 124, "{mended:#}");
    let [mut old, mut new] = nodes.map(|node| Cql::of(node, "mended"));
    assert_eq!(difference(&mut old, &mut new), None, "{}", tandem.log());
    let clean = walk(&tandem, "verify", &tables("mended")).await;
    assert_eq!(counts(&clean)[0], counts(&clean)[1], "{clean:#}");
    // A delete from the future is outdone as far as the operator allows.
    let ahead = |hours: i64| now_micros() + hours * 3_600_000_000;
    target.run(&format!("DELETE FROM types USING TIMESTAMP {} WHERE k = 5", ahead(1)));
    let allowed = json!({ "tables": ["mended.types"], "timestamp": ahead(2) });
    let mended = walk(&tandem, "repair", &allowed).await;
    assert_eq!((&mended["counts"]["missing"], &mended["counts"]["repaired"]), (&json!(1), &json!(1)), "{mended:#}");
    // Which counter that is tandem does not work out: the table is dirty, and mended without being asked.
    through(&tandem, "UPDATE mended.counts SET n = n + 1 WHERE k = 1000 + 1").await;
    tandem.settled().await;
    let repairs = tandem.client().get("/v1/repair").await.expect("it answers");
    assert_eq!(
        (&repairs["counts"]["different"], &repairs["counts"]["repaired"]),
        (&json!(1), &json!(1)),
        "{repairs:#}"
    );
    assert_eq!(difference(&mut old, &mut new), None, "{}", tandem.log());
}

/// A client's statement.
async fn through(tandem: &Tandem, text: &str) {
    let address = Address { host: tandem.address().ip().to_string(), port: tandem.address().port() };
    let client = Client::connect(&Settings::default(), &address).await.expect("tandem serves");
    client.query(text, &Parameters::new(Consistency::One)).await.expect("it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_history_that_loses_its_last_cell_is_gone_on_both_sides_or_stays_on_both() {
    let nodes = pair_with("bare");
    let tables = [
        "CREATE TABLE one (k int PRIMARY KEY, v text, m map<int, int>)",
        "CREATE TABLE many (k int, c int, v text, PRIMARY KEY (k, c))",
    ];
    for node in nodes {
        tables.iter().for_each(|text| Cql::of(node, "bare").define(text));
    }
    let mut origin = Cql::of(nodes[0], "bare");
    // Odd ones were made by an UPDATE, even ones by an INSERT.
    for k in 0..3 {
        origin.run(&format!("INSERT INTO one (k, v) VALUES ({}, 'a')", 2 * k));
        origin.run(&format!("UPDATE one SET v = 'a' WHERE k = {}", 2 * k + 1));
        origin.run(&format!("INSERT INTO many (k, c, v) VALUES (1, {}, 'a')", 2 * k));
        origin.run(&format!("UPDATE many SET v = 'a' WHERE k = 1 AND c = {}", 2 * k + 1));
    }
    origin.run("UPDATE one SET m = {1: 1, 2: 2} WHERE k = 7");
    origin.run("UPDATE one SET m = {1: 1, 2: 2} WHERE k = 9");
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let report = walk(&tandem, "backfill", &json!({ "tables": ["bare.*"] })).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    for k in [2, 3] {
        through(&tandem, &format!("DELETE v FROM bare.one WHERE k = {k}")).await;
        through(&tandem, &format!("UPDATE bare.one SET v = null WHERE k = {}", k + 2)).await;
        through(&tandem, &format!("DELETE v FROM bare.many WHERE k = 1 AND c = {k}")).await;
        through(&tandem, &format!("UPDATE bare.many SET v = null WHERE k = 1 AND c = {}", k + 2)).await;
    }
    through(&tandem, "DELETE m[1], m[2] FROM bare.one WHERE k = 7").await;
    through(&tandem, "UPDATE bare.one SET m = {} WHERE k = 9").await;
    tandem.settled().await;
    for (query, rows) in [("SELECT k, v, m FROM one", 4), ("SELECT k, c, v FROM many", 4)] {
        let [here, there] = nodes.map(|node| {
            let mut rows = Cql::of(node, "bare").rows(query);
            rows.sort();
            rows
        });
        assert_eq!((there.len(), &there), (rows, &here), "{query}\n{}", tandem.log());
    }
    tandem.nothing_set_aside().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_a_client_makes_no_stranger_s_rows_tandem_s() {
    let nodes = pair_with("strangers");
    for (node, rows) in nodes.iter().zip([&["ours", "theirs"][..], &["theirs"]]) {
        let mut cql = Cql::of(node, "strangers");
        ["ours", "theirs"]
            .iter()
            .for_each(|table| cql.define(&format!("CREATE TABLE {table} (k int PRIMARY KEY, v int)")));
        rows.iter().for_each(|table| _ = cql.run(&format!("INSERT INTO {table} (k, v) VALUES (1, 1)")));
    }
    Cql::of(nodes[1], "strangers").run("INSERT INTO theirs (k, v) VALUES (9, 9)");
    let mut tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    for table in ["ours", "theirs"] {
        through(&tandem, &format!("INSERT INTO strangers.{table} (k, v) VALUES (2, 2)")).await;
        through(&tandem, &format!("DELETE FROM strangers.{table} WHERE k = 1")).await;
    }
    tandem.settled().await;
    tandem.kill();
    tandem.launch().await;
    through(&tandem, "INSERT INTO strangers.ours (k, v) VALUES (3, 3)").await;
    tandem.settled().await;
    let report = walk(&tandem, "backfill", &json!({ "tables": ["strangers.*"] })).await;
    let refused: Vec<bool> =
        report["tables"].as_array().expect("a list").iter().map(|table| !table["refused"].is_null()).collect();
    assert_eq!((&report["state"], refused), (&json!("Failed"), vec![false, true]), "{report:#}\n{}", tandem.log());
    assert!(report["why"].as_str().is_some_and(|why| why.contains("did not write")), "{report:#}");
    let mut target = Cql::of(nodes[1], "strangers");
    let mut there = |table: &str| {
        let mut rows = target.rows(&format!("SELECT k FROM {table}"));
        rows.sort_unstable();
        rows
    };
    assert_eq!((there("ours"), there("theirs")), (vec!["2".into(), "3".into()], vec!["2".into(), "9".into()]));
}

/// Clients change and delete history through tandem until told to stop, by timestamps, by lists and by conditions.
async fn churn(address: SocketAddrV4, keyspace: &'static str, stop: Arc<AtomicBool>, seed: u64) -> u64 {
    let (mut dice, mut done) = (Dice(seed), 0);
    let address = Address { host: address.ip().to_string(), port: address.port() };
    let settings = Settings { connect_timeout: Duration::from_secs(5), ..Settings::default() };
    while !stop.load(SeqCst) {
        let Ok(client) = Client::connect(&settings, &address).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.load(SeqCst) && !client.is_lost() {
            let (n, small) = (dice.below(300), dice.below(5));
            let text = match dice.below(9) {
                0 => format!("DELETE FROM plain WHERE k = -{n}"),
                1 => format!("DELETE FROM plain WHERE k = -{n} IF EXISTS"),
                2 => format!("UPDATE plain SET v = 'churned' WHERE k = -{n}"),
                3 => format!("DELETE FROM wide WHERE k = {} AND c = {n}", 100 + small),
                4 => format!("UPDATE wide SET l = l - ['h'], s = s + {{7}} WHERE k = {} AND c = {n}", 100 + small),
                5 => format!("UPDATE counts SET n = n + 1 WHERE k = {}", 1_000 + n % 50),
                6 => format!("DELETE FROM forgets WHERE k = {}", 1_000_000 + n),
                7 => format!("DELETE FROM keys WHERE a = '{}' AND b = {n}", n % 3),
                _ => format!("DELETE FROM shared WHERE k = {} AND c = {n}", n % 7),
            };
            let parameters = Parameters { keyspace: Some(keyspace), ..Parameters::new(Consistency::One) };
            done += u64::from(client.query(&text, &parameters).await.is_ok());
        }
    }
    done
}

/// `TANDEM_HISTORY_KILLS=20` plays more.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_killed_goes_on_and_brings_nothing_back() {
    let keyspace = "struck";
    let (nodes, mut tandem) = stage_with(keyspace, "[backfill]\nchunk_rows = 40\nrate = \"60KB\"\n").await;
    let rounds = std::env::var("TANDEM_HISTORY_KILLS").map_or(2, |kills| kills.parse().expect("a number"));
    let mut dice = Dice(7);
    for round in 0..rounds {
        for table in ["types", "shared", "keys", "two", "plain", "wide", "counts", "forgets", "decided"] {
            Cql::of(nodes[1], keyspace).run(&format!("TRUNCATE {table}"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let churns: Vec<_> =
            (0..3).map(|n| tokio::spawn(churn(tandem.address(), keyspace, stop.clone(), round * 10 + n))).collect();
        let mut request = tables(keyspace);
        request["on_conflict"] = json!("overwrite");
        begin(&tandem, "backfill", &request).await;
        for _ in 0..2 {
            sleep(Duration::from_millis(300 + dice.below(2_500))).await;
            tandem.kill();
            tandem.launch().await;
        }
        let report = ended(&tandem, "backfill").await;
        stop.store(true, SeqCst);
        let mut done = 0;
        for churn in churns {
            done += churn.await.expect("no panics in it");
        }
        tandem.settled().await;
        eprintln!("{round}: {done} statements; {}", report["counts"]);
        assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
        closes(&report);
        equal(nodes, keyspace, &tandem.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_clients_add_and_drop_while_a_table_is_copied_do_not_leave_it_out() {
    let keyspace = "altered";
    let (nodes, tandem) = stage_with(keyspace, "[backfill]\nchunk_rows = 20\n").await;
    begin(&tandem, "backfill", &tables(keyspace)).await;
    for n in 0..4 {
        through(&tandem, &format!("ALTER TABLE {keyspace}.types ADD more{n} text")).await;
        through(&tandem, &format!("ALTER TABLE {keyspace}.plain ADD more{n} int")).await;
    }
    through(&tandem, &format!("ALTER TABLE {keyspace}.types DROP more0")).await;
    let report = ended(&tandem, "backfill").await;
    tandem.settled().await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    closes(&report);
    equal(nodes, keyspace, &tandem.log());
}

/// What shows no time of its own is added to what is there and replaces nothing; where it expires as well, its table is left out.
async fn newer_elements_stay(tandem: &Tandem, [old, new]: [&Node; 2]) {
    let [mut origin, mut target] = [Cql::of(old, "made"), Cql::of(new, "made")];
    for (table, options) in [("parts", ""), ("fading", " WITH default_time_to_live = 86400")] {
        let sides = [&mut origin, &mut target];
        let text = format!(
            "CREATE TABLE {table} (k int PRIMARY KEY, v text, w text, s set<text>, m map<text, text>){options}"
        );
        sides.into_iter().for_each(|side| side.define(&text));
        // An INSERT of a set deletes what was in it before.
        target.run(&format!("INSERT INTO {table} (k, v, s) VALUES (2, 'loaded', {{'b'}})"));
        origin.run(&format!("INSERT INTO {table} (k, v, s) VALUES (2, 'later', {{'a', 'b'}})"));
        origin.run(&format!("INSERT INTO {table} (k, v, s, m) VALUES (1, 'old', {{'a'}}, {{'a': 'old', 'c': 'old'}})"));
        target.run(&format!(
            "UPDATE {table} SET v = 'new', w = 'only', s = s + {{'b'}}, m = m + {{'a': 'new', 'b': 'new'}} WHERE k = 1"
        ));
    }
    // What is made up lies a second before the reading.
    sleep(Duration::from_secs(2)).await;
    let mut shows = |table: &str| target.rows(&format!("SELECT v, w, s, m FROM {table} WHERE k = 1"));
    let report = walk(tandem, "backfill", &json!({ "tables": ["made.parts"], "on_conflict": "newer" })).await;
    assert_eq!(report["state"], "Done", "{report:#}");
    assert_eq!(shows("parts"), ["new|only|[a, b]|{a: new, b: new, c: old}"], "{report:#}");
    assert_eq!(target.rows("SELECT v, s FROM parts WHERE k = 2"), ["later|[b]"], "verify finds what is missing");
    let mut shows = |table: &str| target.rows(&format!("SELECT v, w, s, m FROM {table} WHERE k = 1"));
    let refused = walk(tandem, "backfill", &json!({ "tables": ["made.fading"], "on_conflict": "newer" })).await;
    let why = refused["why"].as_str().unwrap_or_default();
    assert!(refused["state"] == "Failed" && why.contains("something expires"), "{refused:#}");
    assert!(shows("fading")[0].starts_with("new|only|["), "{:?}", shows("fading"));
}

/// What the origin's schema says of a keyspace, but for ids and what only one version has.
pub(crate) fn schema_of(node: &Node, keyspace: &str) -> Vec<Vec<String>> {
    let mut cql = Cql::of(node, keyspace);
    let asked = [
        "keyspaces: durable_writes, replication",
        "types: type_name, field_names, field_types",
        "columns: table_name, column_name, clustering_order, kind, position, type",
        "tables: table_name, bloom_filter_fp_chance, caching, comment, compaction, compression, default_time_to_live, \
         gc_grace_seconds, max_index_interval, min_index_interval, speculative_retry, additional_write_policy, read_repair",
        "indexes: table_name, index_name, kind, options",
        "views: view_name, base_table_name, where_clause, include_all_columns, caching, comment, compaction, compression, \
         gc_grace_seconds, speculative_retry, additional_write_policy, read_repair, bloom_filter_fp_chance",
    ];
    let rows = |asked: &str| {
        let (table, columns) = asked.split_once(": ").expect("it is written so");
        cql.rows(&format!("SELECT {columns} FROM system_schema.{table} WHERE keyspace_name = '{keyspace}'"))
    };
    asked.map(rows).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_tables_is_given_them_with_their_options_before_their_rows() {
    let [old, new] = pair();
    make_keyspace(old, "made", 1);
    let mut cql = Cql::of(old, "made");
    MORE.iter().for_each(|text| cql.define(text));
    for text in [
        "CREATE TYPE \"Outer\" (a frozen<address>, \"B\" set<int>)",
        "CREATE TABLE \"Odd\" (\"K\" int, a int, b text, o frozen<\"Outer\">, s list<int> static, PRIMARY KEY (\"K\", a, b)) \
         WITH CLUSTERING ORDER BY (a DESC, b ASC) AND comment = 'it''s odd' AND gc_grace_seconds = 86400 \
         AND default_time_to_live = 864000 AND compaction = {'class': 'LeveledCompactionStrategy', 'sstable_size_in_mb': 64} \
         AND compression = {'class': 'ZstdCompressor', 'chunk_length_in_kb': 32} AND bloom_filter_fp_chance = 0.05",
        "CREATE INDEX by_v ON two (v)",
        "CREATE INDEX by_key ON types (keys(x))",
    ] {
        cql.define(text);
    }
    for k in 0..50 {
        cql.run(&format!("INSERT INTO \"Odd\" (\"K\", a, b, o) VALUES ({k}, 1, 'b', {{a: {{street: 's', number: {k}}}, \"B\": {{1}}}})"));
        cql.run(&format!("INSERT INTO two (a, b, c, v) VALUES ({k}, 'b', now(), {k})"));
    }
    let tandem = Tandem::start_cql(old.address(), new.address(), "[backfill]\nprovision = true\n").await;
    let report = walk(&tandem, "backfill", &json!({ "tables": ["made.*"] })).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
    let [read, equal, rest @ ..] = counts(&report);
    assert!(read == 100 && equal == 100 && rest == [0; 4], "{report:#}");
    assert_eq!(schema_of(old, "made"), schema_of(new, "made"), "{}", tandem.log());
    newer_stays(&tandem, &mut Cql::of(new, "made")).await;
    newer_elements_stay(&tandem, [old, new]).await;
    tandem.nothing_set_aside().await;
}

/// What is newer on the target, and what only it has, is kept by a backfill that is told so, and found by a verify.
async fn newer_stays(tandem: &Tandem, target: &mut Cql) {
    let uuid = |c: &str| [&c[..8], &c[8..12], &c[12..16], &c[16..20], &c[20..]].join("-");
    let changed = uuid(&target.rows("SELECT c FROM two WHERE a = 1 AND b = 'b'")[0]);
    target.run(&format!("UPDATE two SET v = -1 WHERE a = 1 AND b = 'b' AND c = {changed}"));
    let lost = uuid(&target.rows("SELECT c FROM two WHERE a = 2 AND b = 'b'")[0]);
    target.run(&format!("UPDATE two USING TIMESTAMP 5 SET v = 7 WHERE a = 3 AND b = 'old' AND c = {lost}"));
    let newer = json!({ "tables": ["made.two"], "on_conflict": "newer" });
    let report = walk(tandem, "backfill", &newer).await;
    assert_eq!((&report["state"], counts(&report)[1]), (&json!("Done"), 50), "{report:#}");
    assert_eq!(target.rows("SELECT v FROM two WHERE a = 1 AND b = 'b'"), ["-1"]);
    let found = walk(tandem, "verify", &json!({ "tables": ["made.two"] })).await;
    assert_eq!(counts(&found)[2..], [0, 1, 1, 0], "{found:#}");
    let refused = walk(tandem, "backfill", &json!({ "tables": ["made.shared"], "on_conflict": "newer" })).await;
    assert_eq!(refused["state"], "Failed", "{refused:#}");
}
