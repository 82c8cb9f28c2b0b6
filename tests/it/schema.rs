//! Schema changes through tandem are repeated on the target, under the names that they had in the session that made
//! them, and the rows that follow arrive.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::stage::Stage;
use crate::support::{connect, pair, rows, sql, tandem::Tandem, until};

const TABLES: &str =
    "SELECT n.nspname, c.relname, count(a.*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND n.nspname IN ('public', 'one', 'two') GROUP BY 1, 2 ORDER BY 1, 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_are_repeated_where_the_session_meant_them() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    sql(&tandem.url("postgres"), "CREATE SCHEMA one").await;
    sql(&tandem.url("postgres"), "CREATE SCHEMA two").await;
    let client = connect(&tandem.url("postgres")).await;
    for statement in [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "SET search_path = one, public",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (2)",
        "ALTER TABLE t ADD v int DEFAULT 7",
        "INSERT INTO t VALUES (3)",
        "BEGIN",
        "SET LOCAL search_path = two",
        "CREATE TABLE u (id serial PRIMARY KEY, v text)",
        "INSERT INTO u (v) VALUES ('x')",
        "COMMIT",
        "CREATE INDEX ON t (v)",
        "CREATE TABLE gone (id int PRIMARY KEY)",
        "DROP TABLE gone",
        "BEGIN",
        "CREATE TABLE never (id int PRIMARY KEY)",
        "ROLLBACK",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    // The same by the extended protocol.
    client.execute("CREATE TABLE e (id int PRIMARY KEY)", &[]).await.expect("created");
    client.execute("INSERT INTO e VALUES ($1)", &[&5_i32]).await.expect("inserted");
    tandem.caught_up().await;
    assert_eq!(rows(&target_url, TABLES).await, rows(&origin_url, TABLES).await, "{}", tandem.log());
    for table in ["public.t", "one.t", "two.u", "one.e"] {
        let query = format!("SELECT * FROM {table} ORDER BY 1");
        assert_eq!(rows(&target_url, &query).await, rows(&origin_url, &query).await, "{table}: {}", tandem.log());
    }
    assert_eq!(rows(&target_url, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'one'").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_that_was_undone_behind_a_savepoint_is_not_repeated() {
    let schema = "CREATE TABLE kept (id int PRIMARY KEY); CREATE TABLE emptied (id int PRIMARY KEY);
        CREATE TABLE t (id int PRIMARY KEY); INSERT INTO kept VALUES (1); INSERT INTO emptied VALUES (1)";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    let refused = ["CREATE TABLE kept (id int)", "ALTER TABLE t ADD COLUMN id int", "DROP TABLE nothing"];
    for statement in [
        "BEGIN; SAVEPOINT s; DROP TABLE kept; TRUNCATE emptied; ROLLBACK TO s; COMMIT",
        "BEGIN",
        "SAVEPOINT s",
        "DROP TABLE kept",
        "ROLLBACK TO s",
        refused[0],
        "ROLLBACK TO s",
        "ALTER TABLE t ADD COLUMN v int",
        "SAVEPOINT s",
        refused[1],
        "ROLLBACK TO s",
        "CREATE TABLE never (id int PRIMARY KEY)",
        "ROLLBACK TO s",
        "CREATE TABLE made (id int PRIMARY KEY)",
        "RELEASE s",
        "INSERT INTO made VALUES (1)",
        "SAVEPOINT last",
        refused[2],
        "ROLLBACK TO last",
        "COMMIT",
        "INSERT INTO t VALUES (1, 2)",
    ] {
        let done = client.batch_execute(statement).await;
        assert_eq!(done.is_err(), refused.contains(&statement), "{statement}: {done:?}");
    }
    stage.assert_equal(&["kept", "emptied", "t", "made"]).await;
    let (origin, target) = (stage.origin.url("postgres"), stage.target.url("postgres"));
    assert_eq!(rows(&target, TABLES).await, rows(&origin, TABLES).await, "{}", stage.tandem.log());
    let parked = stage.tandem.client().get("/v1/parked").await.expect("it answers");
    assert_eq!(parked, serde_json::json!([]), "{parked:#}");
}

/// Its client stays connected, so its server's process never is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_of_which_nobody_knows_whether_it_was_committed_makes_its_table_dirty_and_holds_up_no_other() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    let text = "BEGIN; ALTER TABLE a ADD x int; COMMIT; BEGIN; INSERT INTO other VALUES (9); SELECT 1 / 0";
    client.batch_execute(text).await.expect_err("a division by zero");
    client.batch_execute("ROLLBACK").await.expect("rolled back");
    stage.write_arrives(1).await;
    stage.tandem.caught_up().await;
    let dirty = stage.tandem.client().get("/v1/dirty").await.expect("it answers");
    assert_eq!(dirty[0]["table"], "public.a", "{dirty:#}");
    until_refused(&stage.tandem, &["ALTER TABLE (\"public\".\"a\")"]).await;
    let admin = stage.tandem.client();
    let parked = admin.get("/v1/parked").await.expect("it answers");
    admin.post("/v1/parked", &json!({ "action": "retry", "id": parked[0]["id"] })).await.expect("taken");
    until_refused(&stage.tandem, &[]).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(x) FROM a").await, ["0"]);
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_means_there_what_the_sessions_settings_made_it_mean() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
        CREATE TABLE events (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at)";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    for statement in [
        "SET TIME ZONE 'Asia/Kolkata'; ALTER TABLE t ADD COLUMN a timestamptz NOT NULL DEFAULT '2024-01-01'",
        "SET datestyle = 'SQL, DMY'",
        "CREATE TABLE may PARTITION OF events FOR VALUES FROM ('01/05/2024') TO ('01/06/2024')",
        "ALTER TABLE t ADD CHECK (a < '02/03/2025')",
        "CREATE INDEX late ON t (id) WHERE a > '02/03/2024'",
        "INSERT INTO events VALUES ('2024-05-01')",
        "BEGIN; SET LOCAL TIME ZONE 'America/New_York'",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT '2024-07-01'",
        "COMMIT",
        "ALTER TABLE t ADD COLUMN b timestamptz DEFAULT '2024-01-01'",
        "RESET datestyle; SET check_function_bodies = off",
        "CREATE FUNCTION early() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM comes_later'",
        "ALTER TABLE t ADD COLUMN d timestamp DEFAULT 'now'",
        "INSERT INTO t (id, d) VALUES (3, '2024-01-01')",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    stage.assert_equal(&["t", "events", "may"]).await;
    let (origin, target) = (stage.origin.url("postgres"), stage.target.url("postgres"));
    for query in [
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'may'",
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid = 't'::regclass",
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'late'",
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum \
         WHERE adrelid = 't'::regclass AND attname <> 'd' ORDER BY adnum",
        "SELECT count(*) FROM pg_proc WHERE proname = 'early'",
    ] {
        assert_eq!(rows(&target, query).await, rows(&origin, query).await, "{query}: {}", stage.tandem.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commit_and_chain_committed_arrives_while_the_next_transaction_is_open() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    let client = connect(&tandem.url("postgres")).await;
    let script = ["CREATE TABLE t (id serial PRIMARY KEY, v text)", "INSERT INTO t (v) VALUES ('a')"];
    client.batch_execute("BEGIN").await.expect("an open transaction");
    for statement in script {
        client.batch_execute(statement).await.expect(statement);
    }
    client.batch_execute("COMMIT AND CHAIN").await.expect("a second transaction");
    tandem.settled().await;
    assert_eq!(rows(&target_url, "SELECT * FROM t").await, ["1|a"], "{}", tandem.log());
    client.batch_execute("INSERT INTO t (v) VALUES ('b')").await.expect("inserted");
    client.batch_execute("ROLLBACK AND CHAIN").await.expect("a third transaction");
    client.batch_execute("INSERT INTO t (v) VALUES ('c'); COMMIT").await.expect("committed");
    tandem.settled().await;
    assert_eq!(rows(&target_url, "SELECT * FROM t ORDER BY 1").await, ["1|a", "3|c"], "{}", tandem.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_prepared_before_a_schema_change_captures_by_the_new_schema() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    let url = tandem.url("postgres");
    for statement in [
        "CREATE TABLE p (id int, k int, v int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL UNIQUE, v int)",
        "CREATE TABLE s (a serial PRIMARY KEY, b int NOT NULL UNIQUE DEFAULT (random() * 1e9)::int, c int)",
    ] {
        sql(&url, statement).await;
    }
    let client = connect(&url).await;
    let insert = client.prepare("INSERT INTO p VALUES ($1, $2, 0)").await.expect("prepared");
    let update = client.prepare("UPDATE t SET v = v + 100 WHERE a = $1").await.expect("prepared");
    let asked = client.prepare("INSERT INTO s (c) VALUES ($1) RETURNING c").await.expect("prepared");
    client.execute(&insert, &[&1_i32, &1_i32]).await.expect("inserted");
    client.batch_execute("INSERT INTO t VALUES (1, 1, 0), (2, 2, 0)").await.expect("inserted");
    client.execute(&asked, &[&1_i32]).await.expect("inserted");
    sql(&url, "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)").await;
    sql(&url, "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)").await;
    sql(&url, "ALTER TABLE s DROP CONSTRAINT s_pkey, ADD PRIMARY KEY (b)").await;
    // Another session changed the schema: when it was told, all sessions know.
    client.execute(&insert, &[&2_i32, &11_i32]).await.expect("inserted");
    client.execute(&update, &[&1_i32]).await.expect("updated");
    assert_eq!(client.query_one(&asked, &[&2_i32]).await.expect("inserted").get::<_, i32>(0), 2);
    tandem.caught_up().await;
    for table in ["p", "t", "s"] {
        let query = format!("SELECT * FROM {table} ORDER BY 1");
        assert_eq!(rows(&target_url, &query).await, rows(&origin_url, &query).await, "{table}: {}", tandem.log());
    }
    tandem.settled().await; // Nothing is dirty.
}

/// Drivers that declare no types bind by those that the server described.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_prepared_before_its_columns_got_other_types_goes_on_with_its_own() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0);
        CREATE TABLE u (id int PRIMARY KEY, b int NOT NULL UNIQUE, amount float8); INSERT INTO u VALUES (1, 1, 0)";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    let by_key = client.prepare("UPDATE t SET v = v + 1 WHERE id = $1").await.expect("prepared");
    let asked = client.prepare("UPDATE u SET amount = $1 WHERE b = $2").await.expect("prepared");
    for statement in [
        "ALTER TABLE t ALTER id TYPE bigint",
        "ALTER TABLE u DROP CONSTRAINT u_pkey, ADD PRIMARY KEY (b), ALTER amount TYPE bigint",
    ] {
        sql(&stage.url(), statement).await;
    }
    for _ in 0..2 {
        assert_eq!(client.execute(&by_key, &[&1_i32]).await.expect("updated"), 1);
        assert_eq!(client.execute(&asked, &[&8.0_f64, &1_i32]).await.expect("updated"), 1);
    }
    let origin = stage.origin.url("postgres");
    assert_eq!(rows(&origin, "SELECT amount FROM u").await, ["8"], "the client's own value");
    stage.assert_equal(&["t", "u"]).await;
}

/// The routine of a table that is partitioned by time. What nobody owes in it tells whether somebody looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_come_and_go_and_the_others_are_not_copied() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    let client = connect(&tandem.url("postgres")).await;
    let run = async |statements: &[&str]| {
        for statement in statements {
            match statement.contains("CONCURRENTLY") {
                true => sql(&tandem.url("postgres"), statement).await, // The first change of its session.
                false => client.batch_execute(statement).await.expect(statement),
            }
        }
        tandem.caught_up().await;
    };
    run(&[
        "CREATE TABLE log (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')",
        "CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')",
        "INSERT INTO log SELECT i, date '2026-01-01' + i % 2, 'old' FROM generate_series(0, 99) i",
    ])
    .await;
    sql(&target_url, "UPDATE log SET v = 'planted' WHERE id = 51").await;
    for statements in [
        &[
            "CREATE TABLE log_3 PARTITION OF log FOR VALUES FROM ('2026-01-03') TO ('2026-01-04')",
            "INSERT INTO log SELECT i, '2026-01-03', 'new' FROM generate_series(0, 99) i",
        ][..],
        &["BEGIN; TRUNCATE log_1; INSERT INTO log VALUES (1, '2026-01-01', 'again'); COMMIT"],
        &[
            "CREATE TABLE log_4 (LIKE log INCLUDING ALL)",
            "INSERT INTO log_4 SELECT i, '2026-01-04', 'alone' FROM generate_series(0, 99) i",
            "ALTER TABLE log ATTACH PARTITION log_4 FOR VALUES FROM ('2026-01-04') TO ('2026-01-05')",
            "UPDATE log SET v = 'joined' WHERE id = 7",
        ],
        &["UPDATE log SET v = 'left' WHERE id = 2", "ALTER TABLE log DETACH PARTITION log_3 CONCURRENTLY"],
        &["UPDATE log_3 SET v = 'alone' WHERE id < 9", "DROP TABLE log_1"],
        &["DROP TABLE log_3"],
        &["DELETE FROM log WHERE id < 20", "INSERT INTO log VALUES (7, '2026-01-04', 'moved')"],
    ] {
        run(statements).await;
        for table in ["log", "log_3"] {
            let query = format!("SELECT id, day, v FROM {table} WHERE id <> 51 ORDER BY 1, 2");
            let there = rows(&origin_url, &format!("SELECT to_regclass('{table}') IS NOT NULL")).await == ["t"];
            if there {
                assert_eq!(
                    rows(&target_url, &query).await,
                    rows(&origin_url, &query).await,
                    "{table} behind {statements:?}"
                );
            }
        }
        let planted = rows(&target_url, "SELECT v FROM log WHERE id = 51 AND day = '2026-01-02'").await;
        assert_eq!(planted, ["planted"], "all was copied behind {statements:?}\n{}", tandem.log());
    }
    assert_eq!(rows(&target_url, TABLES).await, rows(&origin_url, TABLES).await, "{}", tandem.log());
    tandem.nothing_set_aside().await;
}

/// Keys that were captured under the old key, under the new one, and on both sides of the change are all paid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_gets_another_key_under_load() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    let url = tandem.url("postgres");
    sql(&url, "CREATE TABLE t (a int NOT NULL UNIQUE, b bigint NOT NULL UNIQUE, v int NOT NULL, CONSTRAINT k PRIMARY KEY (a))")
        .await;
    sql(&url, "INSERT INTO t SELECT n, 1000 + n, 0 FROM generate_series(1, 50) n").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> =
        (0..4_i32).map(|writer| tokio::spawn(write_until(url.clone(), writer, stop.clone()))).collect();
    for key in ["b", "a", "a, b", "b", "a"] {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        sql(&url, &format!("ALTER TABLE t DROP CONSTRAINT k, ADD CONSTRAINT k PRIMARY KEY ({key})")).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    stop.cancel();
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("a writer that did not fail");
    }
    assert!(written > 100, "only {written} writes");
    tandem.caught_up().await;
    let query = "SELECT * FROM t ORDER BY a";
    assert_eq!(rows(&target_url, query).await, rows(&origin_url, query).await, "{}", tandem.log());
}

async fn write_until(url: String, writer: i32, stop: tokio_util::sync::CancellationToken) -> u64 {
    let client = connect(&url).await;
    let by_a = client.prepare("UPDATE t SET v = v + 1 WHERE a = $1").await.expect("prepared");
    let by_b = client.prepare("UPDATE t SET v = v + 1 WHERE b = $1").await.expect("prepared");
    let mut written = 0;
    while !stop.is_cancelled() {
        let row = (written as i32 * 7 + writer * 13) % 50 + 1;
        client.execute(&by_a, &[&row]).await.expect("updated by a");
        client.execute(&by_b, &[&(1000 + i64::from(row))]).await.expect("updated by b");
        let fresh = 100_000 * (writer + 1) + written as i32;
        let text = format!(
            "BEGIN; INSERT INTO t VALUES ({fresh}, {fresh}, 0); UPDATE t SET b = -b WHERE a = {fresh}; COMMIT; \
             DELETE FROM t WHERE a = {fresh} AND v = {}",
            written % 2
        );
        client.batch_execute(&text).await.expect("written");
        written += 1;
    }
    written
}

/// Objects that are parked, by name.
async fn refused(tandem: &Tandem) -> Vec<String> {
    let parked = tandem.client().get("/v1/parked").await.expect("it answers");
    let named = |one: &Value| one["table"].as_str().expect("text").to_owned();
    let mut names: Vec<String> = parked.as_array().expect("a list").iter().map(named).collect();
    names.sort_unstable();
    names
}

async fn until_refused(tandem: &Tandem, expected: &[&str]) {
    let is_so = until(async || (refused(tandem).await == expected).then_some(()));
    assert!(is_so.await.is_some(), "{:?} is not {expected:?}\n{}", refused(tandem).await, tandem.log());
}

#[tokio::test]
async fn what_the_target_refuses_to_make_is_listed_until_it_is_there_or_discarded() {
    let mut stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, v text)", "", &[]).await;
    let (origin, target) = (stage.origin.url("postgres"), stage.target.url("postgres"));
    sql(&origin, "CREATE ROLE someone; CREATE TABLE only_here (id int PRIMARY KEY); CREATE TYPE inner_pair AS (a int)")
        .await;
    sql(&origin, "CREATE FUNCTION base(int) RETURNS int LANGUAGE sql AS 'SELECT $1'").await;
    sql(&target, "CREATE VIEW shown AS SELECT v, id FROM t").await;
    for change in [
        "CREATE VIEW seen AS SELECT id FROM only_here",
        "CREATE OR REPLACE VIEW shown AS SELECT id, v, 'secret' AS w FROM t",
        "CREATE TYPE outer_pair AS (a inner_pair, b int)",
        "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT base($1) * 2'",
        "CREATE SCHEMA theirs AUTHORIZATION someone",
        "CREATE VIEW fine AS SELECT id FROM t",
    ] {
        sql(&stage.url(), change).await;
    }
    let all =
        ["function public.twice", "schema theirs", "type public.outer_pair", "view public.seen", "view public.shown"];
    until_refused(&stage.tandem, &all).await;
    stage.tandem.kill();
    stage.tandem.launch().await;
    // A payment of everything is none of these.
    sql(&stage.url(), "INSERT INTO t VALUES (1, 'x')").await;
    stage.tandem.repair_all().await;
    stage.tandem.caught_up().await;
    until_refused(&stage.tandem, &all).await;
    assert!(!stage.tandem.log().contains("secret"), "no text is logged: promise 13");
    let looked = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    let findings = looked["findings"].as_array().expect("a list").iter();
    let named = findings.filter(|one| one["name"] == "schema_refused").map(|one| one["object"].as_str().expect("text"));
    assert_eq!(named.collect::<BTreeSet<_>>(), BTreeSet::from(all), "{looked:#}");
    // Made by hand, or no longer there on the origin.
    sql(&target, "CREATE TABLE only_here (id int PRIMARY KEY); CREATE VIEW seen AS SELECT id FROM only_here").await;
    sql(&stage.url(), "DROP FUNCTION twice(int)").await;
    until_refused(&stage.tandem, &["schema theirs", "type public.outer_pair", "view public.shown"]).await;
    // What it replaces must go, where both servers do not spell it alike.
    sql(&target, "CREATE TYPE inner_pair AS (a int); DROP VIEW shown").await;
    let client = stage.tandem.client();
    let actions = [("type public.outer_pair", "retry"), ("schema theirs", "discard"), ("view public.shown", "retry")];
    for (name, action) in actions {
        let parked = client.get("/v1/parked").await.expect("it answers");
        let one = parked.as_array().expect("a list").iter().find(|one| one["table"] == name).expect("it is listed");
        client.post("/v1/parked", &json!({ "action": action, "id": one["id"] })).await.expect("taken");
    }
    until_refused(&stage.tandem, &[]).await;
    let made = "SELECT to_regtype('outer_pair') || ' ' || (SELECT count(*) FROM pg_attribute WHERE attrelid = 'shown'::regclass)";
    assert_eq!(rows(&target, made).await, ["outer_pair 3"]);
}

#[tokio::test]
async fn a_refused_change_of_a_table_is_listed_until_it_is_made_though_its_rows_are_well_again() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, v text)", "", &[]).await;
    let target = stage.target.url("postgres");
    sql(&target, "CREATE VIEW seen AS SELECT v FROM t").await;
    for statement in ["ALTER TABLE t DROP COLUMN v", "INSERT INTO t VALUES (1)"] {
        sql(&stage.url(), statement).await;
    }
    let listed = ["ALTER TABLE (\"public\".\"t\")"];
    let repaired = until(async || {
        stage.tandem.repair_all().await;
        (refused(&stage.tandem).await == listed).then_some(())
    });
    assert!(repaired.await.is_some(), "{:?}\n{}", refused(&stage.tandem).await, stage.tandem.log());
    assert_eq!(rows(&target, "SELECT id FROM t").await, ["1"]);
    sql(&target, "DROP VIEW seen").await;
    let client = stage.tandem.client();
    let parked = client.get("/v1/parked").await.expect("it answers");
    client.post("/v1/parked", &json!({ "action": "retry", "id": parked[0]["id"] })).await.expect("taken");
    until_refused(&stage.tandem, &[]).await;
    stage.assert_equal(&["t"]).await;
}

/// Which tables are dirty, by name.
async fn dirty(tandem: &Tandem) -> Vec<String> {
    let listed = tandem.client().get("/v1/dirty").await.expect("it answers");
    listed.as_array().expect("a list").iter().map(|one| one["table"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owed_to_a_table_follows_it_to_its_new_name() {
    let schema =
        "CREATE SCHEMA s; CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE acc (id int PRIMARY KEY, v int);
        INSERT INTO acc SELECT i, 0 FROM generate_series(1, 9) i; CREATE TABLE acc_new (id int PRIMARY KEY, v int);
        CREATE TABLE told (id int PRIMARY KEY, v int); INSERT INTO told VALUES (1, 0)";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    let run = async |script: &[&str]| {
        for statement in script {
            client.batch_execute(statement).await.expect(statement);
        }
    };
    run(&["BEGIN", "UPDATE acc SET v = 1 WHERE id = 1", "ALTER TABLE acc RENAME TO acc2", "COMMIT"]).await;
    stage.assert_equal(&["acc2"]).await;
    run(&["BEGIN; UPDATE acc2 SET v = 2 WHERE id = 2; ALTER TABLE acc2 SET SCHEMA s; COMMIT"]).await;
    stage.assert_equal(&["s.acc2"]).await;
    run(&["BEGIN; UPDATE s.acc2 SET v = 3 WHERE id > 7; ALTER SCHEMA s RENAME TO z; ALTER TABLE z.acc2 SET SCHEMA public; COMMIT"])
        .await;
    stage.assert_equal(&["acc2"]).await;
    // The target is behind, and two tables swap their names.
    let locker = connect(&stage.target.url("postgres")).await;
    locker.batch_execute("BEGIN; LOCK TABLE acc2 IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    run(&[
        "UPDATE acc2 SET v = 4 WHERE id = 4",
        "INSERT INTO acc_new SELECT id, -v FROM acc2",
        "BEGIN",
        "ALTER TABLE acc2 RENAME TO acc_old",
        "ALTER TABLE acc_new RENAME TO acc2",
        "COMMIT",
        "UPDATE acc2 SET v = 5 WHERE id = 5",
        "UPDATE acc_old SET v = 6 WHERE id = 6",
    ])
    .await;
    locker.batch_execute("COMMIT").await.expect("let go");
    stage.assert_equal(&["acc2", "acc_old"]).await;
    // What is only known to be dirty is so under the new name.
    run(&["DO $$ BEGIN UPDATE told SET v = 1; END $$"]).await;
    stage.tandem.caught_up().await;
    assert_eq!(dirty(&stage.tandem).await, ["public.told"]);
    run(&["ALTER TABLE told RENAME TO known"]).await;
    stage.write_arrives(1).await;
    assert_eq!(dirty(&stage.tandem).await, ["public.known"]);
    stage.tandem.repair_all().await;
    stage.assert_equal(&["known"]).await;
    run(&["BEGIN", "ALTER TABLE known RENAME TO told", "UPDATE told SET v = 2", "COMMIT"]).await;
    stage.write_arrives(2).await;
    if !dirty(&stage.tandem).await.is_empty() {
        assert_eq!(dirty(&stage.tandem).await, ["public.told"]);
        stage.tandem.repair_all().await;
    }
    stage.assert_equal(&["told"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_a_temporary_table_is_its_sessions_alone() {
    let schema = "CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE orders (id int PRIMARY KEY, v int);
        INSERT INTO orders VALUES (1, 1), (2, 2); CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE mixed (id int PRIMARY KEY);
        CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE orders (id int, v int); END $$;
        CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    let own = "CREATE TEMP TABLE orders AS SELECT * FROM public.orders WHERE id = 1";
    for statement in [
        own,
        "CREATE INDEX orders_v ON orders (v)",
        "CREATE TRIGGER nop AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION nop()",
        "COMMENT ON COLUMN orders.v IS 'mine'",
        "ALTER TABLE orders ADD COLUMN x int",
        "ALTER TABLE orders DROP COLUMN v",
        "DROP TABLE orders",
        &format!("{own}; DROP TABLE orders"),
        "BEGIN",
        "CREATE TEMP TABLE stage (id int) ON COMMIT DROP",
        "ALTER TABLE stage ADD COLUMN v int",
        "SELECT make()",
        "DROP TABLE orders",
        "COMMIT",
        "SELECT make(); DROP TABLE orders",
        "INSERT INTO orders VALUES (3, 3)",
        "DROP TABLE gone",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    // The same by the extended protocol.
    for statement in
        [own, "ALTER TABLE orders RENAME TO mine", "DROP TABLE mine", "CREATE INDEX everybodys ON orders (v)"]
    {
        client.execute(statement, &[]).await.expect(statement);
    }
    stage.assert_equal(&["orders"]).await;
    let (origin, target) = (stage.origin.url("postgres"), stage.target.url("postgres"));
    assert_eq!(rows(&target, TABLES).await, rows(&origin, TABLES).await, "{}", stage.tandem.log());
    let indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'orders' ORDER BY 1";
    assert_eq!(rows(&target, indexes).await, ["everybodys", "orders_pkey"]);
    assert_eq!(rows(&target, "SELECT count(*) FROM pg_trigger WHERE tgname = 'nop'").await, ["0"]);
    // Nobody repeats what is of both.
    client.batch_execute("CREATE TEMP TABLE mine (id int)").await.expect("made");
    client.batch_execute("DROP TABLE mine, mixed").await.expect("dropped");
    stage.write_arrives(1).await;
    assert_eq!(dirty(&stage.tandem).await.len(), 1, "{}", stage.tandem.log());
    assert_eq!(rows(&target, "SELECT count(*) FROM mixed").await, ["0"]);
}
