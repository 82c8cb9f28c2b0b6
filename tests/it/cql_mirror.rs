//! Cassandra through tandem: both sides have the same, whatever happens on the way.

use std::time::Duration;

use tandem::sandbox::cassandra::{Node, Options, Stop};
use tokio::time::sleep;

use crate::support::cassandra::{cluster, make_keyspace, pair_with, versions};
use crate::support::cql::{Ask, Cql, Dial, Member, Prepared, UNLOGGED, Value};
use crate::support::cql_load::{Load, SCHEMA, difference, missing};
use crate::support::line::Line;
use crate::support::tandem::{Tandem, cli};

/// A client of tandem.
fn through(tandem: &Tandem, keyspace: &str, version: u8, lz4: bool) -> Cql {
    let dial = Dial { version, lz4, keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    Cql::dial(tandem.address(), &dial).expect("a login")
}

/// An empty keyspace of both nodes, with the tables of the load, and tandem between.
async fn stage(keyspace: &'static str) -> ([&'static Node; 2], Tandem) {
    let nodes = pair_with(keyspace);
    for node in nodes {
        SCHEMA.iter().for_each(|text| Cql::of(node, keyspace).define(text));
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    (nodes, tandem)
}

/// Both sides are equal once everything is replayed.
async fn equal(tandem: &Tandem, nodes: [&Node; 2], keyspace: &str) {
    tandem.settled().await;
    let [mut old, mut new] = nodes.map(|node| Cql::of(node, keyspace));
    assert_eq!(difference(&mut old, &mut new), None, "{}", tandem.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_arrives_with_its_times_in_every_version() {
    let (nodes, tandem) = stage("kinds").await;
    let statements = [
        "INSERT INTO plain (k, v, u, w) VALUES (1, 'a', now(), 1)",
        "UPDATE plain USING TTL 5000 SET v = 'b' WHERE k = 1",
        "INSERT INTO plain (k, v) VALUES (2, 'gone')",
        "DELETE FROM plain WHERE k = 2",
        "INSERT INTO plain (k, v, w) VALUES (3, 'c', null)",
        "UPDATE plain USING TIMESTAMP 1000 SET w = 9 WHERE k = 3",
        "INSERT INTO plain JSON '{\"k\": 4, \"v\": \"json\"}'",
        "INSERT INTO wide (k, c, l, s, m) VALUES (1, 1, ['a', 'b'], {1, 2}, {'x': 1})",
        "UPDATE wide SET l = l + ['c'], s = s + {3} WHERE k = 1 AND c = 1",
        "UPDATE wide SET l = ['z'] + l, m['y'] = 2 WHERE k = 1 AND c = 1",
        "UPDATE wide SET l[0] = 'first' WHERE k = 1 AND c = 1",
        "DELETE l[1] FROM wide WHERE k = 1 AND c = 1",
        "INSERT INTO wide (k, c, s) VALUES (1, 2, {9})",
        "DELETE FROM wide WHERE k = 1 AND c > 1",
        "UPDATE counts SET n = n + 5 WHERE k = 1",
        "UPDATE counts SET n = n - 2 WHERE k = 1",
        "INSERT INTO forgets (k, v) VALUES (1, 'f')",
        "DELETE FROM forgets WHERE k = 1",
        "INSERT INTO forgets (k, v) VALUES (1, 'again')",
        "INSERT INTO decided (k, v, at) VALUES (1, 1, toTimestamp(now())) IF NOT EXISTS",
        "UPDATE decided SET v = 2 WHERE k = 1 IF v = 1",
        "UPDATE decided SET v = 3 WHERE k = 1 IF v = 1",
        "INSERT INTO decided (k, v, at) VALUES (2, 1, 'now')",
        "UPDATE decided SET at = 'Now' WHERE k = 3",
        "INSERT INTO decided JSON '{\"k\": 4, \"at\": \"now\"}'",
        "BEGIN UNLOGGED BATCH INSERT INTO plain (k, v) VALUES (5, 'x'); INSERT INTO plain (k, v) VALUES (6, 'y') APPLY BATCH",
        "BEGIN BATCH INSERT INTO plain (k, v) VALUES (8, 'own') USING TIMESTAMP 5000 AND TTL 6000; \
         UPDATE plain SET w = 3 WHERE k = 8 APPLY BATCH",
        "UPDATE wide USING TTL 6000 SET l = l + ['ends'], s = s + {7} WHERE k = 1 AND c = 1",
    ];
    for (version, lz4) in [(3, false), (4, true), (5, false), (5, true)] {
        let mut cql = through(&tandem, "kinds", version, lz4);
        for text in statements {
            cql.query(text, &Ask::default()).unwrap_or_else(|failure| panic!("v{version} {text}: {failure:?}"));
        }
        let insert = cql.prepare("INSERT INTO plain (k, v, u) VALUES (?, ?, now())", None).expect("prepared");
        let values = [7_i64.into(), "prepared".into()];
        cql.execute(&insert.id, &insert.metadata_id, &Ask { values: &values, ..Ask::default() }).expect("executed");
        let own = cql.prepare("INSERT INTO plain (k, v) VALUES (?, ?) USING TIMESTAMP ?", None).expect("prepared");
        let stamped = [9_i64.into(), "stamped".into(), 7_000_i64.into()];
        let members = [
            Member::Prepared(&insert.id, &values),
            Member::Text("UPDATE wide SET l = l + ['in batch'] WHERE k = 1 AND c = 1", &[]),
            Member::Prepared(&own.id, &stamped),
            Member::Text("UPDATE plain USING TIMESTAMP 8000 SET w = 4 WHERE k = 9", &[]),
        ];
        cql.batch(UNLOGGED, &members, &Ask::default()).expect("executed");
        assert_eq!(cql.rows("SELECT v FROM plain WHERE k = 7"), ["prepared"]);
        assert_eq!(cql.rows("SELECT l FROM wide WHERE k = 1 AND c = 1").len(), 1);
        equal(&tandem, nodes, "kinds").await;
        let times = "SELECT v, writetime(v), w, writetime(w) FROM plain WHERE k = 9";
        assert_eq!(Cql::of(nodes[1], "kinds").rows(times), ["stamped|7000|4|8000"]);
        cql.run("TRUNCATE wide");
        assert!(cql.rows("SELECT * FROM wide").is_empty());
        equal(&tandem, nodes, "kinds").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_says_its_own_time_is_not_above_a_later_delete() {
    let (nodes, tandem) = stage("own_time").await;
    let mut cql = through(&tandem, "own_time", 5, false);
    cql.run("UPDATE wide USING TIMESTAMP 200 SET l = l + ['x'] WHERE k = 1 AND c = 1");
    equal(&tandem, nodes, "own_time").await;
    let above = Ask { at: Some(300), ..Ask::default() };
    cql.query("DELETE FROM wide WHERE k = 1 AND c = 1", &above).expect("executed");
    equal(&tandem, nodes, "own_time").await;
    assert!(Cql::of(nodes[1], "own_time").rows("SELECT * FROM wide").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_mirror_answers_when_the_target_has_it_and_says_when_it_has_not() {
    let nodes = pair_with("synchronous");
    for node in nodes {
        SCHEMA.iter().for_each(|text| Cql::of(node, "synchronous").define(text));
    }
    let line = Line::to(nodes[1].address());
    let more = "[mirror]\nmode = \"sync\"\nsync_timeout = \"5s\"\nretry_max = \"200ms\"";
    let tandem = Tandem::start_cql(nodes[0].address(), line.address, more).await;
    let mut cql = through(&tandem, "synchronous", 4, false);
    let mut target = Cql::of(nodes[1], "synchronous");
    for (text, there) in [
        ("INSERT INTO plain (k, v) VALUES (1, 'a')", "SELECT v FROM plain WHERE k = 1"),
        ("INSERT INTO decided (k, v) VALUES (1, 1) IF NOT EXISTS", "SELECT v FROM decided WHERE k = 1"),
        ("UPDATE counts SET n = n + 1 WHERE k = 1", "SELECT n FROM counts WHERE k = 1"),
        ("UPDATE wide SET l = l + ['x'] WHERE k = 1 AND c = 1", "SELECT l FROM wide WHERE k = 1"),
    ] {
        cql.run(text);
        assert_eq!(target.rows(there).len(), 1, "{text}");
    }
    line.cut();
    for text in ["INSERT INTO plain (k, v) VALUES (2, 'b')", "UPDATE counts SET n = n + 1 WHERE k = 1"] {
        let refused = cql.refusal(text, &Ask::default());
        assert_eq!(refused.code, 0x1100, "{refused:?}");
        assert!(refused.message.contains("the target does not have this write yet"), "{refused:?}");
    }
    tandem.mirror_is("away").await;
    assert_eq!(cql.rows("SELECT v FROM plain WHERE k = 2"), ["b"], "the origin has it");
    line.mend();
    tandem.settled().await;
    let [mut old, mut new] = nodes.map(|node| Cql::of(node, "synchronous"));
    assert_eq!(difference(&mut old, &mut new), None);
    cql.run("INSERT INTO plain (k, v) VALUES (3, 'c')");
    assert_eq!(target.rows("SELECT v FROM plain WHERE k = 3"), ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_the_sides_have_not_in_common() {
    let nodes = pair_with("checked");
    let mut cql = Cql::of(nodes[0], "checked");
    cql.define("CREATE TABLE missing (k int PRIMARY KEY, n counter)");
    nodes.iter().for_each(|node| Cql::of(node, "checked").define("CREATE TABLE both (k int PRIMARY KEY, v int)"));
    cql.define(
        "CREATE MATERIALIZED VIEW by_v AS SELECT * FROM both WHERE v IS NOT NULL AND k IS NOT NULL PRIMARY KEY (v, k)",
    );
    let output = checked(nodes);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        named(&shown, "table_missing", "checked.missing") && named(&shown, "by_state", "checked.missing"),
        "{shown:#}"
    );
    assert!(
        named(&shown, "view_missing", "checked.by_v") && !named(&shown, "table_missing", "checked.by_v"),
        "{shown:#}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// `tandem check` of two nodes.
fn checked(nodes: [&Node; 2]) -> std::process::Output {
    let sandbox = tandem::sandbox::Sandbox::new(false).expect("a temp folder");
    let file = sandbox.dir().join("proxy.toml");
    let [origin, target] = nodes.map(Node::address);
    let text = format!(
        "[[listen]]\nwire = \"cql\"\naddress = \"127.0.0.1:1\"\n[origin]\nurl = \"cql://{origin}\"\n\
         [target]\nurl = \"cql://{target}\"\n[journal]\ndir = \"{}\"\nsize_limit = \"1MB\"\n",
        sandbox.dir().join("journal").display()
    );
    std::fs::write(&file, text).expect("written");
    cli(&["check", "--json", "--config", file.to_str().expect("UTF-8")])
}

fn named(shown: &serde_json::Value, name: &str, object: &str) -> bool {
    let all = shown["findings"].as_array().expect("a list");
    all.iter().any(|one| one["name"] == name && one["object"] == object)
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_types_and_orders_that_differ_are_named_by_check_and_by_a_switch() {
    let nodes = pair_with("ordered");
    let (mut old, mut new) = (Cql::of(nodes[0], "ordered"), Cql::of(nodes[1], "ordered"));
    let log = "CREATE TABLE log (k int, at int, n int, v int, PRIMARY KEY (k, at, n)) WITH CLUSTERING ORDER BY";
    for cql in [&mut old, &mut new] {
        cql.define("CREATE TYPE alike (a int, b text)");
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int, w frozen<alike>, tags map<text, int>)");
        cql.define("CREATE INDEX ON t (v)");
    }
    old.define(&format!("{log} (at DESC, n ASC)"));
    old.define("CREATE TYPE place (street text, city text)");
    old.define("CREATE INDEX by_tag ON t (keys(tags))");
    new.define(&format!("{log} (at ASC, n ASC)"));
    new.define("CREATE TYPE place (city text, street text)");

    let output = checked(nodes);
    let of_check: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let output = cli(&["switch", "target", "--dry-run", "--json", "--admin", &tandem.admin]);
    let of_switch: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for shown in [of_check, of_switch] {
        for (name, object) in [
            ("clustering_order_differs", "ordered.log: (at DESC, n ASC) -> (at ASC, n ASC)"),
            ("index_missing", "ordered.t (keys(tags))"),
            ("type_differs", "ordered.place: (street text, city text) -> (city text, street text)"),
        ] {
            assert!(named(&shown, name, object), "{name} {object} in {shown:#}");
            let all = shown["findings"].as_array().expect("a list").iter().filter(|one| one["name"] == name);
            let ours = all.filter(|one| one["object"].as_str().is_some_and(|object| object.starts_with("ordered.")));
            assert_eq!(ours.count(), 1, "{name} in {shown:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_is_made_on_both_sides_and_what_follows_it_too() {
    let (nodes, tandem) = stage("changes").await;
    let mut cql = through(&tandem, "changes", 4, false);
    for text in [
        "CREATE TYPE address (street text, number int)",
        "CREATE TABLE people (id int PRIMARY KEY, home frozen<address>)",
        "INSERT INTO people (id, home) VALUES (1, {street: 'Mill Lane', number: 3})",
        "ALTER TABLE people ADD age int",
        "INSERT INTO people (id, age) VALUES (1, 33)",
        "ALTER TABLE people DROP age",
        "ALTER TABLE people ADD age int",
        "INSERT INTO people (id, age) VALUES (2, 44)",
        "CREATE INDEX ON people (age)",
    ] {
        cql.query(text, &Ask::default()).unwrap_or_else(|failure| panic!("{text}: {failure:?}"));
    }
    tandem.settled().await;
    let all = "SELECT id, home, age FROM people";
    let [old, new] = nodes.map(|node| Cql::of(node, "changes").rows(all));
    assert_eq!(old, new);
    assert_eq!(old.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_emptied_of_the_servers_own_keyspaces_stays_on_the_target() {
    let (nodes, tandem) = stage("own").await;
    let repair =
        "INSERT INTO system_distributed.parent_repair_history (parent_id, keyspace_name) VALUES (now(), 'own')";
    nodes.iter().for_each(|node| drop(Cql::of(node, "own").run(repair)));
    let mut cql = through(&tandem, "own", 5, false);
    cql.define("ALTER KEYSPACE system_distributed WITH durable_writes = true");
    cql.define("TRUNCATE system_distributed.parent_repair_history");
    tandem.settled().await;
    let all = "SELECT keyspace_name FROM system_distributed.parent_repair_history WHERE keyspace_name = 'own' ALLOW FILTERING";
    let [old, new] = nodes.map(|node| Cql::of(node, "own").rows(all).len());
    assert_eq!((old, new > 0), (0, true), "{}", tandem.log());
    let noted = tandem.log().lines().filter(|line| line.contains("own keyspaces is not mirrored")).count();
    assert_eq!(noted, 2, "{}", tandem.log());
}

/// What the pulse of a side says.
fn answers(status: &serde_json::Value, side: &str) -> bool {
    status["sides"][side]["answers"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_or_is_gone_hurts_nobody_and_has_everything_in_the_end_promise_7() {
    let (old, new) = versions();
    let origin = cluster(&old, 1, &Options::default());
    let mut target = cluster(&new, 1, &Options::default());
    for node in [&origin.nodes[0], &target.nodes[0]] {
        make_keyspace(node, "away", 1);
        SCHEMA.iter().for_each(|text| Cql::of(node, "away").define(text));
    }
    let tandem = Tandem::start_cql(origin.contact(), target.contact(), "").await;
    let load = Load::start(tandem.address(), "away", 6);
    load.goes_on(200).await;
    target.nodes[0].freeze();
    load.goes_on(500).await;
    target.nodes[0].thaw();
    load.goes_on(100).await;
    tandem.status_is("answered by both", |status| answers(status, "origin") && answers(status, "target")).await;
    target.nodes[0].stop(Stop::Kill).expect("it ends");
    load.goes_on(500).await;
    tandem.status_is("left", |status| answers(status, "origin") && !answers(status, "target")).await;
    target.nodes[0].start().expect("it comes back");
    load.goes_on(100).await;
    assert_eq!(
        (load.errors.load(std::sync::atomic::Ordering::SeqCst), load.stale.load(std::sync::atomic::Ordering::SeqCst)),
        (0, 0)
    );
    let told = load.end().await;
    equal(&tandem, [&origin.nodes[0], &target.nodes[0]], "away").await;
    tandem.status_is("answered again", |status| answers(status, "target")).await;
    assert_eq!(missing(&mut Cql::of(&target.nodes[0], "away"), &told), Vec::<String>::new());
}

/// `TANDEM_CQL_ROUNDS` makes it more.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_tandem_is_killed_promises_1_to_5() {
    let rounds: u64 = std::env::var("TANDEM_CQL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let (nodes, mut tandem) = stage("kills").await;
    let load = Load::start(tandem.address(), "kills", 6);
    for round in 0..rounds {
        load.goes_on(20 + round * 7 % 50).await;
        tandem.kill();
        tandem.launch().await;
    }
    load.goes_on(50).await;
    let acked = load.acked.load(std::sync::atomic::Ordering::SeqCst);
    let stale = load.stale.load(std::sync::atomic::Ordering::SeqCst);
    let told = load.end().await;
    equal(&tandem, nodes, "kills").await;
    for node in nodes {
        assert_eq!(missing(&mut Cql::of(node, "kills"), &told), Vec::<String>::new());
    }
    assert_eq!(stale, 0);
    eprintln!("{rounds} SIGKILLs, {acked} writes acknowledged");
    assert!(acked > 20 * rounds, "{acked} writes prove little");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_there_and_back_drops_nobody_and_loses_nothing_promise_9() {
    let (nodes, tandem) = stage("switches").await;
    let load = Load::start(tandem.address(), "switches", 6);
    for to in ["target", "origin", "target"] {
        load.goes_on(200).await;
        tandem.switch_to(to).await;
        sleep(Duration::from_millis(200)).await;
    }
    load.goes_on(200).await;
    let seen = [&load.errors, &load.stale].map(|count| count.load(std::sync::atomic::Ordering::SeqCst));
    let told = load.end().await;
    equal(&tandem, nodes, "switches").await;
    for node in nodes {
        assert_eq!(missing(&mut Cql::of(node, "switches"), &told), Vec::<String>::new());
    }
    assert_eq!(seen, [0, 0], "{}", tandem.log());
}

/// What clients know is an id: the new primary knows it too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_prepared_before_a_switch_is_known_behind_it() {
    let (nodes, tandem) = stage("warm").await;
    for node in nodes {
        Cql::of(node, "warm").define("CREATE TABLE prepared (k int PRIMARY KEY, v int)");
    }
    let insert = "INSERT INTO prepared (k, v) VALUES (?, ?)";
    let statements = [insert, "SELECT v FROM prepared WHERE k = ?", "SELECT k, v FROM warm.prepared WHERE k = ?"];
    let mut clients: Vec<_> = [3, 4, 5]
        .map(|version| {
            let mut cql = through(&tandem, "warm", version, false);
            let prepared = statements.map(|text| cql.prepare(text, None).expect("prepared"));
            (i32::from(version), cql, prepared)
        })
        .into();
    for to in ["target", "origin"] {
        tandem.switch_to(to).await;
        for (k, cql, [insert, value, row]) in &mut clients {
            let key = k.to_be_bytes().to_vec();
            let mut run = |prepared: &Prepared, values: &[Value]| {
                let ask = Ask { values, ..Ask::default() };
                cql.execute(&prepared.id, &prepared.metadata_id, &ask).expect("it is known there")
            };
            run(insert, &[Value::Is(key.clone()), Value::Is(key.clone())]);
            assert_eq!(run(value, &[Value::Is(key.clone())]).rows().lines(), [format!("{k}")]);
            assert_eq!(run(row, &[Value::Is(key)]).rows().lines(), [format!("{k}|{k}")]);
        }
    }
    equal(&tandem, nodes, "warm").await;
}
