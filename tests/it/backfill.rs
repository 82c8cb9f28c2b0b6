//! History on real servers: copied while clients write, compared at one state of both sides, repaired.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::history::{Churn, HISTORY, SCHEMA, TABLES, ask, counts, ended, public, walk};
use crate::support::stage::Stage;
use crate::support::tandem::cli;
use crate::support::{connect, rows, sql, until};

/// History on the origin that the target lacks.
async fn stage(more: &str) -> Stage {
    let stage = Stage::new(SCHEMA, more, &[]).await;
    sql(&stage.origin.url("postgres"), HISTORY).await;
    stage
}

#[tokio::test]
async fn history_is_copied_and_found_equal() {
    let stage = stage("").await;
    let report = walk(&stage, "backfill", public()).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    let [read, equal, rest @ ..] = counts(&report);
    assert_eq!((read, equal, rest), (32_560, 32_560, [0; 4]), "{report:#}");
    assert_eq!(report["rows"], 32_560);
    stage.assert_equal(TABLES).await;
}

#[tokio::test]
async fn clients_write_while_history_is_copied_and_nothing_regresses_promise_11() {
    // Small chunks and short states: many of them meet the writes.
    let stage = stage("[backfill]\nchunk_rows = 300\nhold = \"20ms\"\n").await;
    let churn = Churn::begin(&stage, 4, 1);
    let report = walk(&stage, "backfill", public()).await;
    let again = walk(&stage, "verify", public()).await;
    let acknowledged = churn.end().await;
    for report in [report, again] {
        assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
        let [read, equal, rest @ ..] = counts(&report);
        assert!(read > 25_000 && equal == read && rest == [0; 4], "{report:#}\n{}", stage.tandem.log());
    }
    assert!(acknowledged > 100, "{acknowledged}");
    stage.assert_equal(TABLES).await;
}

#[tokio::test]
async fn what_is_planted_is_found_and_repaired_and_nothing_else() {
    let stage = stage("").await;
    assert_eq!(walk(&stage, "backfill", public()).await["state"], "Done", "{}", stage.tandem.log());
    let plant = "SET session_replication_role = replica;
        DELETE FROM plain WHERE id IN (7, 20000);
        INSERT INTO plain VALUES (-1), (30000);
        UPDATE plain SET n = n + 0.001 WHERE id = 99;
        UPDATE plain SET v = NULL WHERE id = 100;
        DELETE FROM named WHERE name = (SELECT min(name) FROM named);
        UPDATE pairs SET tags[2] = 'other' WHERE v->>'i' = '5';
        UPDATE parts SET region = 'c' WHERE id = 1 AND region = 'b';
        DELETE FROM child WHERE id = 3;
        UPDATE wide t SET body = (SELECT o.body FROM wide o WHERE o.id = 3 - t.id) WHERE id IN (1, 2);";
    sql(&stage.target.url("postgres"), plant).await;
    let churn = Churn::begin(&stage, 2, 2);
    let found = walk(&stage, "verify", public()).await;
    let [read, equal, missing, extra, different, skipped] = counts(&found);
    assert_eq!((found["state"].as_str(), skipped), (Some("Done"), 0), "{found:#}");
    assert_eq!(read, equal + missing + extra + different, "{found:#}");
    // Clients may have mended some by writing the row.
    assert!((3..=5).contains(&missing) && (2..=3).contains(&extra) && (3..=5).contains(&different), "{found:#}");
    let listed = stage.tandem.client().get("/v1/verify/differences?values=true").await.expect("it answers");
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len() as u64, missing + extra + different);
    assert!(
        listed.iter().any(|one| one["table"] == "public.plain" && one["how"] == "extra" && one["key"] == "-1"),
        "{listed:#?}"
    );
    assert!(!stage.tandem.log().contains("30000"), "no key is logged: promise 13");
    let repaired = walk(&stage, "repair", public()).await;
    churn.end().await;
    assert_eq!(repaired["state"], "Done", "{repaired:#}\n{}", stage.tandem.log());
    let differed = counts(&repaired)[2..5].iter().sum::<u64>();
    assert!(differed > 0 && repaired["counts"]["repaired"] == differed, "{repaired:#}");
    stage.assert_equal(TABLES).await;
    let last = walk(&stage, "verify", public()).await;
    assert_eq!(counts(&last)[2..], [0; 4], "{last:#}");
}

#[tokio::test]
async fn what_hardly_differs_differs() {
    // A table each: what the digest of one chunk did not see, the next difference in it would show.
    let tables = [
        ("swapped", "int4", "VALUES (1, 7, 8), (2, 9, 8)", "UPDATE swapped SET a = 16 - a"),
        ("moved", "text", "VALUES (1, NULL, 'x'), (2, 'y', 'y')", "UPDATE moved SET a = b, b = a WHERE id = 1"),
        ("scale", "numeric", "VALUES (1, 1.0, 2)", "UPDATE scale SET a = 1.00"),
        ("zero", "float8", "VALUES (1, 0, 2)", "UPDATE zero SET a = '-0'"),
        ("blank", "bpchar", "VALUES (1, 'x ', 'y')", "UPDATE blank SET a = 'x'"),
        ("length", "interval", "VALUES (1, '30 days', NULL)", "UPDATE length SET a = '1 month'"),
        ("late", "timestamptz", "VALUES (1, 'infinity', '2026-01-01')", "UPDATE late SET b = b + '1 us'"),
        ("truth", "bool", "VALUES (1, true, NULL)", "UPDATE truth SET b = false"),
        ("bytes", "bytea", "VALUES (1, '', NULL)", "UPDATE bytes SET b = a, a = b"),
        ("doc", "jsonb", "VALUES (1, '[1.0]', NULL)", "UPDATE doc SET a = '[1.00]'"),
        ("none", "int4", "VALUES (1, NULL, NULL)", "UPDATE none SET b = 1"),
    ];
    let make = |(name, column, ..): &(&str, &str, &str, &str)| {
        format!("CREATE TABLE {name} (id int PRIMARY KEY, a {column}, b {column})")
    };
    let schema = tables.iter().map(make).collect::<Vec<_>>().join("; ");
    let stage = Stage::new(&schema, "", &[]).await;
    for (name, _, values, _) in tables {
        for side in [&stage.origin, &stage.target] {
            sql(&side.url("postgres"), &format!("INSERT INTO {name} {values}")).await;
        }
    }
    for (number, (name, _, _, change)) in (1..).zip(tables) {
        let table = json!({ "tables": [format!("public.{name}")] });
        let equal = walk(&stage, "verify", table.clone()).await;
        assert_eq!(counts(&equal)[2..], [0; 4], "{name}: {equal:#}");
        let alike = format!("tandem_history_chunks_total{{pass=\"forth\",end=\"alike\"}} {number}");
        let text = stage.tandem.metrics().await;
        assert!(text.lines().any(|line| line == alike), "{name}: {alike} is not in\n{text}");
        sql(&stage.target.url("postgres"), change).await;
        let found = walk(&stage, "verify", table).await;
        assert!(counts(&found)[4] > 0, "{name}: {found:#}");
    }
}

#[tokio::test]
async fn dry_runs_and_samples_look_and_change_nothing() {
    let stage = stage("").await;
    assert_eq!(walk(&stage, "backfill", public()).await["state"], "Done", "{}", stage.tandem.log());
    sql(&stage.target.url("postgres"), "DELETE FROM plain WHERE id <= 3; INSERT INTO plain VALUES (-1)").await;
    let dry = walk(&stage, "repair", json!({ "tables": ["*.pl*n", "public.named"], "dry_run": true })).await;
    assert_eq!(counts(&dry), [24_001, 23_997, 3, 1, 0, 0], "{dry:#}");
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT min(id) FROM plain").await, ["-1"]);
    assert_eq!(walk(&stage, "verify", public()).await["counts"]["missing"], 3);
    let mended = walk(&stage, "repair", json!({ "of": "verify" })).await;
    assert_eq!(mended["tables"].as_array().map(Vec::len), Some(1), "{mended:#}");
    assert_eq!(
        (counts(&mended), &mended["counts"]["repaired"]),
        ([20_001, 19_997, 3, 1, 0, 0], &json!(4)),
        "{mended:#}"
    );
    let none = stage.tandem.client().post("/v1/repair", &json!({ "action": "start", "of": "dirty" })).await;
    assert!(none.is_err_and(|error| error.to_string().contains("no table is dirty")));
    let part = walk(&stage, "verify", json!({ "exclude": ["*.named", "*.parts"], "sample": 0.2 })).await;
    let [read, ..] = counts(&part);
    assert!(part["state"] == "Failed" && (500..20_000).contains(&read), "only the table without a key: {part:#}");
    let names: Vec<_> = part["tables"].as_array().expect("a list").iter().map(|one| &one["table"]).collect();
    assert!(!names.contains(&&json!("public.named")) && names.contains(&&json!("public.plain")), "{names:?}");
    for (kind, wrong) in [("verify", json!({ "dry_run": true })), ("repair", json!({ "every_seconds": 5 }))] {
        let mut request = json!({ "action": "start" });
        request.as_object_mut().expect("an object").extend(wrong.as_object().expect("an object").clone());
        assert!(stage.tandem.client().post(&format!("/v1/{kind}"), &request).await.is_err(), "{kind} {request}");
    }
}

#[tokio::test]
async fn a_continuous_backfill_copies_what_is_new_and_mends_what_differs_until_it_is_cancelled() {
    let stage = stage("").await;
    let request = json!({ "exclude": ["public.keyless"], "every_seconds": 1 });
    assert_eq!(walk(&stage, "backfill", request).await["state"], "Done", "{}", stage.tandem.log());
    let new = "CREATE TABLE later (id int PRIMARY KEY)";
    sql(&stage.target.url("postgres"), &format!("{new}; DELETE FROM plain WHERE id = 5")).await;
    sql(&stage.origin.url("postgres"), &format!("{new}; INSERT INTO later VALUES (1), (2)")).await;
    let both = "SELECT (SELECT count(*) FROM plain) || ' ' || (SELECT count(*) FROM later)";
    for _ in 0..6_000 {
        if rows(&stage.target.url("postgres"), both).await == ["20000 2"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.assert_equal(&["plain", "later"]).await;
    let report = ended(&stage, "backfill").await;
    assert!(report["number"].as_u64() > Some(1) && report["rows"].as_u64() < Some(20_000), "{report:#}");
    let cancelled = stage.tandem.client().post("/v1/backfill", &json!({ "action": "cancel" })).await.expect("stands");
    assert!(cancelled["next_unix"].is_null(), "{cancelled:#}");
}

#[tokio::test]
async fn tables_that_the_target_lacks_are_made_there_as_asked() {
    let stage = stage("").await;
    let here = "CREATE SCHEMA \"My app\"; CREATE TYPE mood AS ENUM ('so', 'it''s'); CREATE DOMAIN pos AS int CHECK (value > 0);
        CREATE TABLE \"My app\".\"T x\" (id bigserial PRIMARY KEY, m mood DEFAULT 'so', p pos, n numeric(9, 2) CHECK (n > 0),
            twice int GENERATED ALWAYS AS (1 + 1) STORED, u uuid UNIQUE);
        CREATE INDEX ON \"My app\".\"T x\" (p) WHERE p > 3;
        CREATE TABLE ident (id int GENERATED BY DEFAULT AS IDENTITY (START WITH 5 INCREMENT BY 3), k text COLLATE \"C\" NOT NULL);
        CREATE UNIQUE INDEX ident_k ON ident (k);
        CREATE TABLE logs (id bigint, day date NOT NULL, t bigint REFERENCES \"My app\".\"T x\" ON DELETE CASCADE, PRIMARY KEY (id, day))
            PARTITION BY RANGE (day);
        CREATE TABLE logs_old PARTITION OF logs FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
        CREATE TABLE logs_rest PARTITION OF logs DEFAULT;
        CREATE INDEX ON logs (t);
        INSERT INTO \"My app\".\"T x\" (p, n, m) SELECT i, i / 3.0, 'it''s' FROM generate_series(1, 2000) i;
        INSERT INTO ident (k) SELECT 'k' || i FROM generate_series(1, 2000) i;
        INSERT INTO logs SELECT i, date '2019-06-01' + i, i FROM generate_series(1, 1000) i;";
    sql(&stage.origin.url("postgres"), here).await;
    let lacking = walk(&stage, "backfill", json!({ "tables": ["public.ident"] })).await;
    assert!(lacking["why"].as_str().is_some_and(|why| why.contains("no such table")), "{lacking:#}");
    let churn = Churn::begin(&stage, 1, 5);
    let request = json!({ "provision": true, "exclude": ["public.keyless"] });
    let report = walk(&stage, "backfill", request).await;
    churn.end().await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    assert_eq!(counts(&report)[2..], [0; 4], "{report:#}");
    stage.assert_equal(&["plain", "\"My app\".\"T x\"", "ident", "logs"]).await;
    let made = "SELECT c.relname || ' ' || pg_get_indexdef(c.oid) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
            WHERE i.indisvalid AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'pg_toast', 'tandem')
        UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE contype NOT IN ('n', 't')
            AND connamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'tandem')
        UNION ALL SELECT table_name || ' ' || concat_ws(' ', column_name, udt_name, column_default, is_nullable, is_identity,
            identity_increment, collation_name, generation_expression) FROM information_schema.columns
            WHERE table_schema IN ('public', 'My app') ORDER BY 1";
    let there = rows(&stage.target.url("postgres"), made).await;
    assert_eq!(there, rows(&stage.origin.url("postgres"), made).await);
    assert!(there.iter().any(|one| one.starts_with("logs_t_fkey")), "{there:#?}");
}

#[tokio::test]
async fn what_a_table_inherits_the_target_s_inherits_too_and_loses_with_it() {
    let stage = stage("").await;
    // Made with a parent, with two; what is its own by then; made before its parent; one whose parent is not asked for.
    let here = "CREATE TABLE animal (id int PRIMARY KEY, name text CONSTRAINT named CHECK (name <> ''), gone int DEFAULT 1, n int);
        CREATE TABLE tame (owner text NOT NULL, since date);
        CREATE TABLE dog (breed text DEFAULT 'none', PRIMARY KEY (id), CONSTRAINT own CHECK (breed <> 'cat')) INHERITS (tame, animal);
        ALTER TABLE dog ALTER gone SET DEFAULT 7; ALTER TABLE dog ALTER since SET NOT NULL;
        ALTER TABLE dog ALTER n SET NOT NULL; ALTER TABLE dog ALTER n ADD GENERATED BY DEFAULT AS IDENTITY (START WITH 10);
        CREATE TABLE puppy (PRIMARY KEY (id)) INHERITS (dog);
        CREATE TABLE cat (id int PRIMARY KEY, n int, name text, gone int, CONSTRAINT named CHECK (name <> '')); ALTER TABLE cat INHERIT animal;
        CREATE TABLE early (id int PRIMARY KEY); CREATE TABLE later (id int PRIMARY KEY);
        ALTER TABLE early INHERIT later; ALTER TABLE later ADD COLUMN w int DEFAULT 3;
        CREATE TABLE apart (id int PRIMARY KEY, v int DEFAULT 4); CREATE TABLE lone (PRIMARY KEY (id)) INHERITS (apart);
        INSERT INTO dog (owner, since, id, name) SELECT 'o', '2020-01-01', i, 'd' || i FROM generate_series(1, 100) i;
        INSERT INTO puppy SELECT * FROM dog; INSERT INTO animal VALUES (1, 'a', 1, 1); INSERT INTO cat VALUES (1, 1, 'c', 1);
        INSERT INTO early VALUES (1), (2); INSERT INTO lone VALUES (1), (2)";
    sql(&stage.origin.url("postgres"), here).await;
    let tables = json!([
        "public.animal",
        "public.tame",
        "public.dog",
        "public.puppy",
        "public.cat",
        "public.early",
        "public.later"
    ]);
    let request = json!({ "provision": true, "tables": tables, "exclude": ["public.tame"] });
    let report = walk(&stage, "backfill", json!({ "provision": true, "tables": ["public.lone"] })).await;
    let why = report["why"].as_str().unwrap_or_default();
    assert!(report["rows"] == 2 && why.contains("lone in public.apart"), "{report:#}\n{}", stage.tandem.log());
    // A table without a key is none that is copied; it is there for the others.
    sql(&stage.target.url("postgres"), "CREATE TABLE tame (owner text NOT NULL, since date)").await;
    let report = walk(&stage, "backfill", request).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    let shape = "SELECT c.relname || ' ' || concat_ws(' ', a.attname, a.attislocal, a.attinhcount, a.attnotnull, a.attidentity,
            pg_get_expr(d.adbin, d.adrelid)) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
            WHERE c.relname IN ('animal', 'dog', 'puppy', 'cat', 'early', 'later')
        UNION ALL SELECT conrelid::regclass || ' ' || concat_ws(' ', conname, conislocal, coninhcount) FROM pg_constraint
            WHERE contype = 'c' AND connamespace = 'public'::regnamespace
        UNION ALL SELECT table_name || ' ' || column_name || ' ' || ordinal_position FROM information_schema.columns
            WHERE table_name IN ('dog', 'puppy', 'cat') ORDER BY 1";
    let sides = [&stage.origin, &stage.target].map(|side| side.url("postgres"));
    assert_eq!(rows(&sides[1], shape).await, rows(&sides[0], shape).await, "{}", stage.tandem.log());
    let client = connect(&stage.url()).await;
    for change in [
        "ALTER TABLE animal DROP COLUMN gone",
        "ALTER TABLE animal DROP CONSTRAINT named",
        "ALTER TABLE later DROP COLUMN w",
    ] {
        client.batch_execute(change).await.expect(change);
    }
    stage.tandem.settled().await;
    let left = "SELECT table_name || ' ' || column_name FROM information_schema.columns
            WHERE table_name IN ('animal', 'dog', 'puppy', 'cat', 'early', 'later')
        UNION ALL SELECT conrelid::regclass || ' ' || conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace
        ORDER BY 1";
    let there = rows(&sides[1], left).await;
    assert_eq!(there, rows(&sides[0], left).await, "{}", stage.tandem.log());
    let has = |name: &str| there.iter().any(|one| one == name);
    assert!(!has("puppy gone") && has("cat gone") && has("cat named") && !has("early w"), "{there:#?}");
    stage.assert_equal(&["dog", "puppy", "cat", "early", "lone"]).await;
}

#[tokio::test]
async fn types_are_made_as_they_are_whatever_their_database_is_set_to() {
    let stage = stage("").await;
    sql(&stage.origin.url("postgres"), "ALTER DATABASE postgres SET DateStyle = 'SQL, DMY'").await;
    let here = "CREATE TYPE mood AS ENUM ('so', 'la'); CREATE DOMAIN feel AS mood DEFAULT 'la'; CREATE DOMAIN since AS date DEFAULT '03/04/2020';
        CREATE TYPE none AS ENUM (); CREATE TYPE empty AS (); CREATE TYPE span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi);
        CREATE TYPE \"Words\" AS RANGE (SUBTYPE = text, SUBTYPE_OPCLASS = text_pattern_ops, COLLATION = \"C\", MULTIRANGE_TYPE_NAME = many);
        CREATE TABLE typed (id int PRIMARY KEY, f feel, s since, x span, w \"Words\", m many);
        INSERT INTO typed SELECT i, 'so', '05/06/2021', span(i, i + 1), \"Words\"('a', 'b'), '{}' FROM generate_series(1, 100) i";
    sql(&stage.origin.url("postgres"), here).await;
    let report = walk(&stage, "backfill", json!({ "provision": true, "tables": ["public.typed"] })).await;
    assert_done(&report, &stage);
    sql(&stage.origin.url("postgres"), "ALTER DATABASE postgres RESET DateStyle").await;
    stage.assert_equal(&["typed"]).await;
    let types = "SET search_path = ''; SET DateStyle = 'ISO, YMD'; SELECT t.typname || ' ' || concat_ws(' ', t.typtype,
            pg_get_expr(t.typdefaultbin, 'pg_type'::regclass), g.rngsubtype::regtype, g.rngcollation::regcollation, k.opcname, g.rngsubdiff,
            g.rngmultitypid::regtype) FROM pg_type t LEFT JOIN pg_range g ON g.rngtypid = t.oid LEFT JOIN pg_opclass k ON k.oid = g.rngsubopc
            WHERE t.typnamespace = 'public'::regnamespace AND t.typtype <> 'b' ORDER BY 1";
    let there = rows(&stage.target.url("postgres"), types).await;
    assert_eq!(there, rows(&stage.origin.url("postgres"), types).await, "{}", stage.tandem.log());
    assert!(there.iter().any(|one| one == "since d '2020-04-03'::date"), "{there:#?}");
}

/// It ended well, with nothing left out.
fn assert_done(report: &Value, stage: &Stage) {
    let ended = (&report["state"], &report["why"]);
    assert_eq!(ended, (&json!("Done"), &Value::Null), "{report:#}\n{}", stage.tandem.log());
}

/// What a dry run of a switch finds by these names: their objects.
async fn found(stage: &Stage, names: &[&str]) -> Vec<String> {
    stage.tandem.caught_up().await;
    stage.steady().await;
    let looked = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    let found = looked["findings"].as_array().expect("a list").iter();
    let named = found.filter(|one| names.iter().any(|name| one["name"] == *name));
    named.map(|one| one["object"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn a_partitioned_table_s_name_means_its_partitions_wherever_it_is_named() {
    let more = "[mirror]\ninclude = [\"public.parts\", \"public.events\", \"public.audit\"]\nexclude = [\"public.audit\", \"*.parts_a\"]\n";
    let stage = stage(more).await;
    let here = "CREATE TABLE events (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
        CREATE TABLE events_11 PARTITION OF events_1 DEFAULT; CREATE TABLE events_2 PARTITION OF events DEFAULT;
        CREATE INDEX ON events (v); INSERT INTO events SELECT i, 'v' || i FROM generate_series(1, 300) i;
        CREATE TABLE audit (v int) PARTITION BY RANGE (v); CREATE TABLE audit_1 PARTITION OF audit DEFAULT; INSERT INTO audit VALUES (1)";
    sql(&stage.origin.url("postgres"), here).await;
    let report = walk(&stage, "backfill", json!({ "provision": true, "tables": ["public.events"] })).await;
    assert_done(&report, &stage);
    stage.assert_equal(&["events"]).await;
    // What was never copied is known by each partition, also where a pattern looks like its own name.
    let history = ["history_unknown", "history_unverified"];
    let parts = ["public.parts_a", "public.parts_b"].map(str::to_owned);
    assert_eq!(found(&stage, &history).await, parts, "{}", stage.tandem.log());
    sql(&stage.target.url("postgres"), "DROP TABLE parts_a").await;
    assert_eq!(found(&stage, &["table_missing", "table_without_key"]).await, Vec::<String>::new());
    let report = walk(&stage, "backfill", json!({ "provision": true })).await;
    assert_done(&report, &stage);
    assert_eq!(found(&stage, &history).await, Vec::<String>::new());
    stage.assert_equal(&["parts", "events"]).await;
    let there = "SELECT to_regclass('audit') IS NULL AND to_regclass('audit_1') IS NULL";
    assert_eq!(rows(&stage.target.url("postgres"), there).await, ["t"]);
}

#[tokio::test]
async fn a_partitioned_table_whose_partitions_alone_have_keys_is_walked_over_by_them() {
    let schema = "CREATE TABLE log (id int, day int) PARTITION BY RANGE (day); CREATE TABLE none (id int) PARTITION BY RANGE (id);
        CREATE TABLE log_1 PARTITION OF log (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
        CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
        CREATE TABLE log_21 PARTITION OF log_2 (PRIMARY KEY (id, day)) DEFAULT; CREATE TABLE other (id int PRIMARY KEY)";
    let stage = Stage::new(schema, "", &[]).await;
    sql(&stage.origin.url("postgres"), "INSERT INTO log SELECT i, i % 20 FROM generate_series(1, 2000) i").await;
    for request in [json!({ "tables": ["public.log"] }), json!({})] {
        let report = walk(&stage, "backfill", request).await;
        assert_done(&report, &stage);
        assert_eq!(counts(&report), [2_000, 2_000, 0, 0, 0, 0], "{report:#}");
    }
    stage.assert_equal(&["log"]).await;
    sql(&stage.target.url("postgres"), "UPDATE log SET id = -1 WHERE id = 7; DELETE FROM log WHERE id = 15").await;
    let found = walk(&stage, "verify", json!({ "exclude": ["public.log"] })).await;
    assert_eq!(counts(&found), [0; 6], "{found:#}");
    for (table, differ) in [("public.log_1", [1, 1, 0, 0]), ("public.log", [2, 1, 0, 0])] {
        let found = walk(&stage, "verify", json!({ "tables": [table] })).await;
        assert_eq!(counts(&found)[2..], differ, "{table}: {found:#}");
    }
    let report = walk(&stage, "repair", json!({ "tables": ["public.log"] })).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(&["log"]).await;
    // A partition without one is named itself.
    for side in [&stage.origin, &stage.target] {
        sql(&side.url("postgres"), "CREATE TABLE log_3 PARTITION OF log DEFAULT").await;
    }
    let report = walk(&stage, "verify", json!({ "tables": ["public.log"] })).await;
    let why = report["why"].as_str().unwrap_or_default();
    assert!(report["state"] == "Failed" && why.contains("public.log_3") && why.contains("no usable key"), "{report:#}");
}

#[tokio::test]
async fn what_the_target_computes_and_the_origin_stores_is_compared() {
    let made = |sum: &str, twice: &str| {
        format!(
            "CREATE TABLE sums (id int PRIMARY KEY, a int, sum int {sum}, twice int GENERATED ALWAYS AS ({twice}) STORED)"
        )
    };
    let stage = Stage::new(&made("", "a * 2"), "", &[]).await;
    let there = made("GENERATED ALWAYS AS (a + 1) STORED", "CASE WHEN a = 9 THEN 0 ELSE a * 2 END");
    sql(&stage.target.url("postgres"), &format!("DROP TABLE sums; {there}")).await;
    let rows = "INSERT INTO sums SELECT i, i, CASE WHEN i = 5 THEN 0 ELSE i + 1 END FROM generate_series(1, 1000) i";
    sql(&stage.origin.url("postgres"), rows).await;
    walk(&stage, "backfill", json!({})).await;
    let report = walk(&stage, "verify", json!({})).await;
    assert_eq!(counts(&report)[1..], [998, 0, 0, 2, 0], "{report:#}\n{}", stage.tandem.log());
}

/// Types whose binary form holds oids go as text; their keys and digests do not.
#[tokio::test]
async fn equal_tables_that_are_not_copied_in_binary_are_found_equal_row_by_row() {
    let stage = stage("").await;
    sql(&stage.target.url("postgres"), "CREATE TYPE shifts_oids AS ENUM ('x')").await;
    for side in [&stage.origin, &stage.target] {
        let here = "CREATE TYPE mood AS ENUM ('a', 'b');
            CREATE TABLE by_uuid (id uuid PRIMARY KEY, m mood[]);
            INSERT INTO by_uuid SELECT md5(i::text)::uuid, '{a,b}' FROM generate_series(1, 300) i;
            CREATE TABLE by_time (id timestamptz PRIMARY KEY, m mood[]);
            INSERT INTO by_time SELECT timestamptz '2020-01-01' + i * interval '1 h', '{b}' FROM generate_series(1, 300) i;
            CREATE TABLE by_text (id text PRIMARY KEY, m mood[]) PARTITION BY RANGE (id);
            CREATE TABLE by_text_1 PARTITION OF by_text FOR VALUES FROM ('') TO ('k5');
            CREATE TABLE by_text_2 PARTITION OF by_text DEFAULT;
            INSERT INTO by_text SELECT 'k' || i, '{a}' FROM generate_series(1, 300) i;
            CREATE TABLE by_int (id int PRIMARY KEY, m mood[]);
            INSERT INTO by_int SELECT i, '{a}' FROM generate_series(1, 300) i";
        sql(&side.url("postgres"), here).await;
    }
    sql(&stage.target.url("postgres"), "UPDATE by_int SET m = '{b}' WHERE id = 7").await;
    let report = walk(&stage, "verify", json!({ "tables": ["public.by_*"] })).await;
    assert_eq!(counts(&report)[1..], [1199, 0, 0, 1, 0], "{report:#}\n{}", stage.tandem.log());
}

/// `half` and an operator = are in a schema of their own, so definitions leave that schema out.
const EXT: &str =
    "CREATE SCHEMA ext; CREATE FUNCTION ext.half(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 2';
    CREATE FUNCTION ext.same(point, point) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR ext.= (LEFTARG = point, RIGHTARG = point, FUNCTION = ext.same)";

/// Keys of types that an extension compares, and of types for which somebody made operators that lie.
const COMPARED: &str = "CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE SCHEMA ext;
    CREATE DOMAIN code AS text; CREATE TYPE mood AS ENUM ('so', 'la', 'ti');
    CREATE FUNCTION ext.never(code, code) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
    CREATE FUNCTION ext.never(mood, mood) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
    CREATE OPERATOR ext.= (LEFTARG = code, RIGHTARG = code, FUNCTION = ext.never);
    CREATE OPERATOR ext.>= (LEFTARG = code, RIGHTARG = code, FUNCTION = ext.never);
    CREATE OPERATOR ext.<= (LEFTARG = code, RIGHTARG = code, FUNCTION = ext.never);
    CREATE OPERATOR ext.= (LEFTARG = mood, RIGHTARG = mood, FUNCTION = ext.never);
    CREATE OPERATOR ext.>= (LEFTARG = mood, RIGHTARG = mood, FUNCTION = ext.never);
    CREATE AGGREGATE ext.min(code) (SFUNC = pg_catalog.text_smaller, STYPE = text, INITCOND = 'none');
    CREATE TABLE by_citext (k citext PRIMARY KEY, v int); CREATE TABLE by_ltree (k ltree PRIMARY KEY, v int);
    CREATE TABLE by_code (k code PRIMARY KEY, v int); CREATE TABLE by_mood (k mood, n int, v int, PRIMARY KEY (k, n))";

#[tokio::test]
async fn keys_are_compared_as_their_tables_do_whatever_operators_there_are() {
    let stage = Stage::new(COMPARED, "", &[]).await;
    let history = "INSERT INTO by_citext SELECT 'Key' || i, i FROM generate_series(1, 500) i;
        INSERT INTO by_ltree SELECT ('top.n' || i)::ltree, i FROM generate_series(1, 500) i;
        INSERT INTO by_code SELECT 'k' || i, i FROM generate_series(1, 500) i;
        INSERT INTO by_mood SELECT ('{so,la,ti}'::mood[])[1 + i % 3], i, i FROM generate_series(1, 500) i";
    sql(&stage.origin.url("postgres"), history).await;
    let tables = ["by_citext", "by_ltree", "by_code", "by_mood"];
    let asked = json!({ "tables": ["public.by_*"] });
    let report = walk(&stage, "backfill", asked.clone()).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    assert_eq!(counts(&report), [2_000, 2_000, 0, 0, 0, 0], "{report:#}\n{}", stage.tandem.log());
    for table in tables {
        let key = if table == "by_mood" { "k, n" } else { "k" };
        let writes = format!("UPDATE {table} SET v = -v WHERE v % 10 = 1; DELETE FROM {table} WHERE v % 10 = 2");
        sql(&stage.url(), &writes).await;
        let again = format!(
            "WITH gone AS (DELETE FROM {table} WHERE v = 3 RETURNING *) INSERT INTO {table} SELECT * FROM gone \
            ON CONFLICT ({key}) DO NOTHING"
        );
        sql(&stage.url(), &again).await;
    }
    sql(
        &stage.url(),
        "UPDATE by_citext SET v = 0 WHERE k = 'KEY400'; UPDATE by_citext SET k = 'kEY5' WHERE k = 'key5'",
    )
    .await;
    stage.assert_equal(&tables).await;
    let plant = "SET session_replication_role = replica; DELETE FROM by_citext WHERE v = 30; INSERT INTO by_ltree VALUES ('x.y');
        UPDATE by_code SET v = 0 WHERE v = 40; UPDATE by_mood SET k = 'so' WHERE v = 50; UPDATE by_citext SET k = 'KEY7' WHERE v = 7";
    sql(&stage.target.url("postgres"), plant).await;
    let found = walk(&stage, "verify", asked.clone()).await;
    // A row under another spelling of its key is one that is missing and one too many.
    assert_eq!(counts(&found)[2..], [3, 3, 1, 0], "{found:#}\n{}", stage.tandem.log());
    let repaired = walk(&stage, "repair", asked).await;
    // What had another spelling went when the row itself came.
    assert_eq!(
        (repaired["state"].as_str(), &repaired["counts"]["repaired"]),
        (Some("Done"), &json!(6)),
        "{repaired:#}"
    );
    stage.assert_equal(&tables).await;
    stage.tandem.nothing_set_aside().await;
}

#[tokio::test]
async fn what_the_origin_does_not_enforce_is_not_enforced_on_what_is_copied() {
    let stage = stage("").await;
    for side in [&stage.origin, &stage.target] {
        sql(&side.url("postgres"), EXT).await;
    }
    let here = "CREATE TABLE legacy (id int PRIMARY KEY, n int, v int CHECK (v > 0));
        INSERT INTO legacy SELECT i, i - 500, 7 FROM generate_series(1, 1000) i;
        ALTER TABLE legacy ADD CONSTRAINT positive CHECK (n > 0) NOT VALID; CREATE INDEX halves ON legacy (ext.half(n));
        CREATE DOMAIN sorted AS text COLLATE \"C\"; CREATE TYPE pair AS (a text COLLATE \"C\", b text); CREATE DOMAIN small AS int;
        CREATE TABLE typed (id int PRIMARY KEY, s sorted, p pair, m small);
        INSERT INTO typed SELECT i, 's' || i, ROW('p' || i, 'q')::pair, i FROM generate_series(1, 100) i;
        ALTER DOMAIN small ADD CONSTRAINT tiny CHECK (value < 10) NOT VALID;
        CREATE TABLE whole (id int, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (0) TO (1000);
        INSERT INTO whole SELECT i, -i FROM generate_series(1, 100) i; ALTER TABLE whole ADD CONSTRAINT above CHECK (n > 0) NOT VALID";
    sql(&stage.origin.url("postgres"), here).await;
    let concurrently = connect(&stage.origin.url("postgres")).await;
    let duplicates = concurrently.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY half_built ON legacy (v)").await;
    duplicates.expect_err("duplicates");
    let tables = json!(["public.legacy", "public.typed", "public.whole*"]);
    let report = walk(&stage, "backfill", json!({ "provision": true, "tables": tables })).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    let parked = stage.tandem.client().get("/v1/parked").await.expect("it answers");
    assert_eq!((counts(&report)[2..].to_vec(), parked), (vec![0; 4], json!([])), "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(&["legacy", "typed", "whole"]).await;
    let made = "SELECT conname || ' ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace AND contype = 'c'
        UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid IN ('legacy'::regclass, 'whole'::regclass)
            AND indisvalid
        UNION ALL SELECT typname || ' ' || typcollation::regcollation FROM pg_type WHERE typname = 'sorted'
        UNION ALL SELECT attname || ' ' || attcollation::regcollation FROM pg_attribute WHERE attrelid = 'pair'::regclass
        ORDER BY 1";
    let there = rows(&stage.target.url("postgres"), made).await;
    assert_eq!(there, rows(&stage.origin.url("postgres"), made).await, "{}", stage.tandem.log());
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT to_regclass('half_built') IS NULL").await, ["t"]);
}

#[tokio::test]
async fn a_killed_tandem_goes_on_with_its_backfill_where_it_was() {
    let mut stage = stage("[backfill]\nchunk_rows = 200\nhold = \"20ms\"\nrate = \"2MB\"\n").await;
    let churn = Churn::begin(&stage, 3, 3);
    ask(&stage, "backfill", public()).await;
    let mut rows = 0;
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(150 + 70 * round)).await;
        stage.tandem.kill();
        stage.tandem.launch().await;
        let report = stage.tandem.client().get("/v1/backfill").await.expect("it answers");
        let now = report["rows"].as_u64().expect("a number");
        assert!(now >= rows, "what was copied stays copied: {report:#}");
        rows = now;
    }
    let report = ended(&stage, "backfill").await;
    churn.end().await;
    assert_eq!((report["state"].as_str(), report["number"].as_u64()), (Some("Done"), Some(1)), "{report:#}");
    assert_eq!(counts(&report)[2..], [0; 4], "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(TABLES).await;
}

#[tokio::test]
async fn strangers_on_the_target_are_left_alone_or_replaced_as_asked() {
    let stage = stage("").await;
    sql(&stage.target.url("postgres"), "INSERT INTO plain VALUES (5, 'theirs'), (-5, 'theirs')").await;
    let report =
        walk(&stage, "backfill", json!({ "tables": ["public.plain", "public.named", "public.keyless"] })).await;
    assert_eq!(report["state"], "Failed", "{report:#}");
    let refused = |name: &str| {
        let table = report["tables"].as_array().expect("a list").iter().find(|table| table["table"] == name);
        table.unwrap_or_else(|| panic!("{report:#}"))["refused"].clone()
    };
    assert!(refused("public.plain").as_str().is_some_and(|why| why.contains("did not write")), "{report:#}");
    assert!(refused("public.keyless").as_str().is_some_and(|why| why.contains("key")), "{report:#}");
    assert!(refused("public.named").is_null(), "{report:#}");
    let kept = "SELECT id FROM plain ORDER BY 1";
    assert_eq!(rows(&stage.target.url("postgres"), kept).await, ["-5", "5"]);
    let report = walk(&stage, "backfill", json!({ "tables": ["public.plain"], "on_conflict": "overwrite" })).await;
    assert_eq!(report["state"], "Done", "{report:#}");
    stage.assert_equal(&["plain", "named"]).await;
}

#[tokio::test]
async fn a_write_of_a_client_makes_no_stranger_s_rows_tandem_s() {
    let mut stage = stage("").await;
    let (target, there) = (stage.target.url("postgres"), "SELECT id FROM plain ORDER BY 1");
    sql(&target, "INSERT INTO plain VALUES (5, 'theirs'), (-5, 'theirs')").await;
    sql(&stage.url(), "INSERT INTO plain VALUES (-7, 'ours'); DELETE FROM plain WHERE id = 7").await;
    stage.tandem.settled().await;
    let plain = json!({ "tables": ["public.plain"] });
    for _ in 0..2 {
        let report = walk(&stage, "backfill", plain.clone()).await;
        let why = report["why"].as_str().unwrap_or_default();
        assert!(report["state"] == "Failed" && why.contains("did not write"), "{report:#}\n{}", stage.tandem.log());
        assert_eq!(rows(&target, there).await, ["-7", "-5", "5"]);
        stage.tandem.kill();
        stage.tandem.launch().await;
    }
    // Emptied, and written to before the next look.
    sql(&target, "TRUNCATE plain").await;
    sql(&stage.url(), "INSERT INTO plain VALUES (-8, 'ours')").await;
    stage.tandem.settled().await;
    let report = walk(&stage, "backfill", plain).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(&["plain"]).await;
}

#[tokio::test]
async fn what_tandem_wrote_is_no_stranger_s_after_deletes_and_kills() {
    let mut stage = stage("").await;
    let writes = [
        "INSERT INTO plain VALUES (-1), (-2); DELETE FROM plain WHERE id IN (-1, 6); DELETE FROM parent WHERE id = 3",
        "UPDATE parts SET v = 0, region = 'a' WHERE id = 4; DELETE FROM pairs; INSERT INTO named VALUES ('one', 1)",
        "DELETE FROM plain WHERE id < 0; INSERT INTO plain VALUES (-3); UPDATE child SET parent = 7 WHERE id = 8",
    ];
    for write in writes {
        sql(&stage.url(), write).await;
        stage.tandem.kill();
        stage.tandem.launch().await;
    }
    stage.tandem.settled().await;
    let report = walk(&stage, "backfill", public()).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(TABLES).await;
    // Its memory of what it did is gone, and what it wrote is not.
    stage.tandem.kill();
    std::fs::remove_dir_all(stage.tandem.dir().join("tandem-data")).expect("its memory");
    stage.tandem.launch().await;
    let report = walk(&stage, "backfill", public()).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
}

#[tokio::test]
async fn rows_that_the_target_refuses_are_parked_one_by_one() {
    let stage = stage("").await;
    sql(&stage.target.url("postgres"), "ALTER TABLE plain ADD CHECK (id NOT IN (77, 15000))").await;
    let report = walk(&stage, "backfill", json!({ "tables": ["public.plain"] })).await;
    let parked = stage.tandem.client().get("/v1/parked?values=true").await.expect("it answers");
    let mut keys: Vec<_> =
        parked.as_array().expect("a list").iter().map(|one| one["key"].as_str().expect("shown")).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["15000", "77"], "{parked:#}\n{}", stage.tandem.log());
    let [read, equal, missing, ..] = counts(&report);
    assert_eq!((read, equal, missing), (20_000, 19_998, 2), "{report:#}");
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*) FROM plain").await, ["19998"]);
}

#[tokio::test]
async fn tables_that_move_or_change_while_they_are_copied_are_looked_at_again() {
    let stage = stage("[backfill]\nchunk_rows = 200\nhold = \"20ms\"\nrate = \"1MB\"\n").await;
    ask(&stage, "backfill", public()).await;
    let client = connect(&stage.url()).await;
    for change in [
        "UPDATE plain SET v = 'before' WHERE id % 10 = 0",
        "ALTER TABLE plain ADD COLUMN more int DEFAULT 7",
        "TRUNCATE child",
        "INSERT INTO child SELECT i, i FROM generate_series(1, 50) i",
        "ALTER TABLE named ALTER COLUMN v TYPE numeric",
        "CREATE TABLE later (id int PRIMARY KEY)",
    ] {
        client.batch_execute(change).await.expect(change);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    // Past tandem: these change no row, and all of their places.
    for change in ["VACUUM FULL plain", "CLUSTER parts_b USING parts_b_pkey", "VACUUM FULL pairs"] {
        sql(&stage.origin.url("postgres"), change).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let report = ended(&stage, "backfill").await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    assert_eq!(counts(&report)[2..], [0; 4], "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(TABLES).await;
}

/// A rewriting change moves the table at once; to the target it comes later.
#[tokio::test]
async fn columns_that_clients_add_while_a_table_is_copied_do_not_leave_it_out() {
    let stage = stage("[backfill]\nchunk_rows = 100\nhold = \"20ms\"\n").await;
    ask(&stage, "backfill", public()).await;
    let client = connect(&stage.url()).await;
    for n in 0..8 {
        for table in ["plain", "named"] {
            let change = format!("ALTER TABLE {table} ADD COLUMN g{n} int GENERATED ALWAYS AS ({n}) STORED");
            client.batch_execute(&change).await.expect("added");
        }
    }
    let report = ended(&stage, "backfill").await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    assert_eq!(counts(&report)[2..], [0; 4], "{report:#}\n{}", stage.tandem.log());
    stage.assert_equal(TABLES).await;
}

#[tokio::test]
async fn history_does_not_wait_for_a_transaction_that_is_only_prepared() {
    let stage = Stage::new(SCHEMA, "[backfill]\nmax_lag = \"1s\"\n", &["max_prepared_transactions = 5"]).await;
    sql(&stage.origin.url("postgres"), HISTORY).await;
    let client = connect(&stage.url()).await;
    let left = "BEGIN; UPDATE plain SET v = 'left' WHERE id = 5; PREPARE TRANSACTION 'left'";
    client.batch_execute(left).await.expect("prepared");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let report = walk(&stage, "backfill", public()).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    client.batch_execute("COMMIT PREPARED 'left'").await.expect("committed");
    stage.assert_equal(TABLES).await;
}

/// Why the verify waits, when it says this.
async fn waits(stage: &Stage, why: &str) {
    let told = until(async || {
        let report = stage.tandem.client().get("/v1/verify").await.expect("it answers");
        report["why"].as_str().is_some_and(|said| said.contains(why)).then_some(())
    });
    told.await.unwrap_or_else(|| panic!("it never says {why}\n{}", stage.tandem.log()));
}

#[tokio::test]
async fn history_says_that_it_waits_for_a_schema_change_and_goes_on_behind_it() {
    let stage = stage("").await;
    assert_eq!(walk(&stage, "backfill", public()).await["state"], "Done", "{}", stage.tandem.log());
    // A writer that the index is waited for with.
    let writer = connect(&stage.origin.url("postgres")).await;
    writer.batch_execute("BEGIN; UPDATE plain SET v = v WHERE id = 1").await.expect("written");
    let client = connect(&stage.url()).await;
    client.batch_execute("CREATE TABLE another (id int PRIMARY KEY)").await.expect("made");
    let building =
        tokio::spawn(async move { client.batch_execute("CREATE INDEX CONCURRENTLY slow ON plain (n)").await });
    let begun = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('slow')";
    until(async || (rows(&stage.origin.url("postgres"), begun).await == ["1"]).then_some(())).await.expect("begun");
    ask(&stage, "verify", public()).await;
    waits(&stage, "a schema change is under way").await;
    sql(&stage.url(), "UPDATE named SET v = 7").await;
    let paid = "SELECT count(*) FROM named WHERE v <> 7";
    let paid = until(async || (rows(&stage.target.url("postgres"), paid).await == ["0"]).then_some(())).await;
    paid.unwrap_or_else(|| panic!("payments wait for it\n{}", stage.tandem.log()));
    writer.batch_execute("ROLLBACK").await.expect("ended");
    building.await.expect("no panic in it").expect("built");
    let report = ended(&stage, "verify").await;
    assert_eq!((report["state"].as_str(), &counts(&report)[2..]), (Some("Done"), &[0; 4][..]), "{report:#}");
}

#[tokio::test]
async fn history_says_that_it_waits_for_a_locked_table_and_payments_go_on() {
    let stage = stage("").await;
    assert_eq!(walk(&stage, "backfill", public()).await["state"], "Done", "{}", stage.tandem.log());
    // As VACUUM FULL does, and ALTER TABLE.
    let locker = connect(&stage.origin.url("postgres")).await;
    locker.batch_execute("BEGIN; LOCK TABLE plain IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    ask(&stage, "verify", public()).await;
    waits(&stage, "a table is locked: ERROR 55P03").await;
    for n in 0..3 {
        sql(&stage.url(), &format!("UPDATE named SET v = {n}")).await;
        stage.tandem.caught_up().await;
    }
    locker.batch_execute("ROLLBACK").await.expect("ended");
    let report = ended(&stage, "verify").await;
    assert_eq!((report["state"].as_str(), &counts(&report)[2..]), (Some("Done"), &[0; 4][..]), "{report:#}");
    assert!(!stage.tandem.log().contains("mirror waits"), "{}", stage.tandem.log());
}

#[tokio::test]
async fn a_table_that_is_locked_on_the_target_holds_up_the_copy_of_no_other() {
    let stage = stage("").await;
    let says = async |what: &dyn Fn(&Value) -> bool| {
        let report = async || stage.tandem.client().get("/v1/backfill").await.expect("it answers");
        let said = until(async || Some(report().await).filter(what)).await;
        assert!(said.is_some(), "{:#}\n{}", report().await, stage.tandem.log());
    };
    // As CREATE INDEX does, and a transaction that somebody forgot.
    for lock in ["LOCK TABLE named IN SHARE MODE", "SELECT FROM named WHERE v > 1 LIMIT 1 FOR UPDATE"] {
        let locker = connect(&stage.target.url("postgres")).await;
        locker.batch_execute(&format!("BEGIN; {lock}")).await.expect("locked");
        ask(&stage, "backfill", json!({ "tables": ["public.named", "public.plain"] })).await;
        says(&|report| {
            let copied = |name| {
                let tables = report["tables"].as_array().into_iter().flatten();
                tables.filter(|table| table["table"] == name).any(|table| table["done"] == 1.0)
            };
            let why = report["why"].as_str().unwrap_or_default();
            copied("public.plain") && !copied("public.named") && why.contains("public.named: it is tried again")
        })
        .await;
        sql(&stage.url(), "UPDATE named SET v = v + 1").await;
        says(&|report| report["why"].as_str().is_some_and(|why| why.contains("waits for a lock on the secondary")))
            .await;
        locker.batch_execute("ROLLBACK").await.expect("ended");
        let report = ended(&stage, "backfill").await;
        assert_eq!((report["state"].as_str(), &counts(&report)[2..]), (Some("Done"), &[0; 4][..]), "{report:#}");
    }
    stage.assert_equal(&["named", "plain"]).await;
    assert!(!stage.tandem.log().contains("mirror waits"), "{}", stage.tandem.log());
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_left_out_with_what_the_server_says_and_the_others_are_copied() {
    let schema = "CREATE TABLE a_split (id int PRIMARY KEY, n int); CREATE TABLE whole (id int PRIMARY KEY, n int)";
    let stage = Stage::new(schema, "[[tables]]\nfrom = \"public.a_split\"\nfilter = \"100 / n > 0\"\n", &[]).await;
    let rows_of = |table: &str| format!("INSERT INTO {table} SELECT i, i % 4000 FROM generate_series(1, 50000) i;");
    sql(&stage.origin.url("postgres"), &["a_split", "whole"].map(rows_of).concat()).await;
    for kind in ["backfill", "verify"] {
        let report = walk(&stage, kind, json!({ "tables": ["public.*"] })).await;
        let (state, why) = (&report["state"], report["why"].as_str().unwrap_or_default());
        let named = why.contains("a_split") && why.contains("division by zero") && !why.contains("whole");
        assert!(state == "Failed" && named, "{report:#}\n{}", stage.tandem.log());
    }
    stage.assert_equal(&["whole"]).await;
}

#[tokio::test]
async fn columns_of_other_types_are_compared_where_they_can_be_and_named_where_not() {
    // A type on the origin, another one on the target, what differs there.
    let columns = [
        ("numeric(10,2)", "numeric(12,4)", "7"),
        ("int", "bigint", "7"),
        ("bigint", "numeric", "7"),
        ("varchar(20)", "text", "'x'"),
        ("char(5)", "char(9)", "'x'"),
        ("char(5)", "text", "'x'"),
        ("timestamp(3)", "timestamp", "'2020-01-01'"),
        ("timestamptz", "timestamptz(6)", "'2020-01-01'"),
        ("real", "double precision", "0.5"),
        ("json", "jsonb", "'[1, 2]'"),
    ];
    let made = |types: Vec<&str>| {
        let columns: Vec<String> = types.iter().enumerate().map(|(n, kind)| format!(", c{n} {kind}")).collect();
        format!(
            "CREATE TABLE cast_ (id int PRIMARY KEY{}); CREATE TABLE odd (id int PRIMARY KEY, v int);",
            columns.concat()
        )
    };
    let stage = Stage::new(&made(columns.iter().map(|column| column.0).collect()), "", &[]).await;
    let there = made(columns.iter().map(|column| column.1).collect()).replace("v int", "v text");
    sql(&stage.target.url("postgres"), &format!("DROP TABLE cast_, odd; {there}")).await;
    let rows = "INSERT INTO cast_ SELECT i, i / 4.0, i, i, 'v' || i, 'c' || i, 'd' || i, timestamp '2026-01-01' + i * interval '1 s', \
        timestamptz '2026-01-01' + i * interval '1 us', i * 0.1, json_build_object('b', i, 'a', 1.10) \
        FROM generate_series(1, 3000) i; INSERT INTO odd VALUES (1, 1)";
    sql(&stage.origin.url("postgres"), rows).await;
    let report = walk(&stage, "backfill", json!({ "tables": ["public.*"] })).await;
    assert_eq!(
        (&report["state"], &counts(&report)[2..]),
        (&json!("Done"), &[0; 4][..]),
        "{report:#}\n{}",
        stage.tandem.log()
    );
    let tables = report["tables"].as_array().expect("a list");
    let left_out: Vec<_> = tables.iter().map(|table| (&table["table"], &table["not_compared"])).collect();
    let expected = [(&json!("public.cast_"), &json!([])), (&json!("public.odd"), &json!(["v"]))];
    assert_eq!(left_out, expected, "{report:#}");
    let waited = cli(&["backfill", "wait", "--admin", &stage.tandem.admin]);
    let said = String::from_utf8_lossy(&waited.stderr);
    assert!(waited.status.code() == Some(1) && said.contains("public.odd.v"), "{waited:?}");
    assert!(doubts(&stage).await.iter().any(|(name, object)| name == "history_unverified" && object == "public.odd"));
    for (n, (.., other)) in columns.iter().enumerate() {
        let plant =
            format!("SET session_replication_role = replica; UPDATE cast_ SET c{n} = {other} WHERE id = {}", 100 + n);
        sql(&stage.target.url("postgres"), &plant).await;
    }
    let report = walk(&stage, "verify", json!({ "tables": ["public.*"] })).await;
    assert_eq!(report["counts"]["different"], columns.len(), "{report:#}");
}

#[tokio::test]
async fn an_index_that_was_never_finished_on_the_target_is_made_anew() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE UNIQUE INDEX \"Odd name\" ON t (n)";
    let stage = Stage::new(schema, "", &[]).await;
    sql(&stage.origin.url("postgres"), "INSERT INTO t SELECT i, i FROM generate_series(1, 100) i").await;
    let target = connect(&stage.target.url("postgres")).await;
    for text in ["DROP INDEX \"Odd name\"", "INSERT INTO t VALUES (1, 1), (2, 1)"] {
        target.batch_execute(text).await.expect("done");
    }
    target.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY \"Odd name\" ON t (n)").await.expect_err("it is not unique");
    target.batch_execute("TRUNCATE t").await.expect("done");
    let is_valid = "SELECT i.indisvalid::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = 'Odd name'";
    let url = stage.target.url("postgres");
    assert_eq!(rows(&url, is_valid).await, ["false"]);
    let report = walk(&stage, "backfill", json!({ "provision": true, "tables": ["public.t"] })).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    assert_eq!(rows(&url, is_valid).await, ["true"]);
}

#[tokio::test]
async fn chunks_that_turn_out_dense_are_halved_in_each_pass_promise_12() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int) WITH (autovacuum_enabled = off)";
    let stage = Stage::new(schema, "[backfill]\nchunk_rows = 300\nworkers = 1\n", &[]).await;
    // Empty blocks make chunks larger; then come full ones.
    let rows_here = "INSERT INTO t SELECT i, i FROM generate_series(1, 60000) i; DELETE FROM t WHERE id <= 40000; VACUUM (TRUNCATE off) t";
    for text in rows_here.split("; ") {
        sql(&stage.origin.url("postgres"), text).await;
    }
    let report = walk(&stage, "backfill", json!({ "tables": ["public.t"] })).await;
    assert_eq!(
        (&report["state"], &report["rows"]),
        (&json!("Done"), &json!(20_000)),
        "{report:#}\n{}",
        stage.tandem.log()
    );
    stage.assert_equal(&["t"]).await;
    // No short cut: rows that differ are looked at one by one.
    sql(
        &stage.target.url("postgres"),
        "UPDATE t SET n = -n; INSERT INTO t SELECT -i, i FROM generate_series(1, 5000) i",
    )
    .await;
    let report = walk(&stage, "verify", json!({ "tables": ["public.t"] })).await;
    let [_, equal, missing, extra, different, skipped] = counts(&report);
    assert_eq!(
        [equal, missing, extra, different, skipped],
        [0, 0, 5_000, 20_000, 0],
        "{report:#}\n{}",
        stage.tandem.log()
    );
    let text = stage.tandem.metrics().await;
    for pass in ["copy", "forth", "back"] {
        let is_dense = |line: &str| line.contains("end=\"dense\"") && line.contains(&format!("pass=\"{pass}\""));
        assert!(text.lines().any(is_dense), "{pass}\n{text}");
    }
}

/// A transaction on the target holds the first one's index up until it is cancelled.
#[tokio::test]
async fn a_backfill_does_not_take_what_is_built_for_one_that_was_cancelled_for_its_own() {
    let stage = Stage::new("CREATE SCHEMA s", "", &[]).await;
    let tables = "CREATE TABLE old (id int PRIMARY KEY, n int); CREATE INDEX old_n ON old (n); \
        CREATE TABLE new (id int PRIMARY KEY, n int); CREATE INDEX new_n ON new (n); INSERT INTO new VALUES (1, 1)";
    sql(&stage.origin.url("postgres"), tables).await;
    let (url, client) = (stage.target.url("postgres"), stage.tandem.client());
    let holder = connect(&url).await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("a snapshot");
    ask(&stage, "backfill", json!({ "provision": true, "tables": ["public.old"] })).await;
    until(async || (rows(&url, BUILDS_OLD).await == ["1"]).then_some(())).await.expect("it is being built");
    client.post("/v1/backfill", &json!({ "action": "cancel" })).await.expect("under way");
    ask(&stage, "backfill", json!({ "provision": true, "tables": ["public.new"] })).await;
    let is_made = until(async || (rows(&url, "SELECT to_regclass('new')").await == ["new"]).then_some(()));
    is_made.await.unwrap_or_else(|| panic!("never made\n{}", stage.tandem.log()));
    holder.batch_execute("COMMIT").await.expect("over");
    let report = ended(&stage, "backfill").await;
    assert_eq!((&report["state"], &report["rows"]), (&json!("Done"), &json!(1)), "{report:#}\n{}", stage.tandem.log());
    let made = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
        WHERE c.relname IN ('old_n', 'new_n') AND i.indisvalid";
    assert_eq!(rows(&url, made).await, ["new_n"]);
    assert_eq!(rows(&url, BUILDS_OLD).await, ["0"]);
}

#[tokio::test]
async fn what_is_built_for_a_backfill_that_is_cancelled_is_given_up() {
    let stage = Stage::new("CREATE SCHEMA s", "", &[]).await;
    let tables = "CREATE TABLE old (id int PRIMARY KEY, n int); CREATE INDEX old_n ON old (n)";
    sql(&stage.origin.url("postgres"), tables).await;
    let (url, client) = (stage.target.url("postgres"), stage.tandem.client());
    let holder = connect(&url).await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("a snapshot");
    ask(&stage, "backfill", json!({ "provision": true, "tables": ["public.old"] })).await;
    let is_building = async || rows(&url, BUILDS_OLD).await == ["1"];
    until(async || is_building().await.then_some(())).await.expect("it is being built");
    client.post("/v1/backfill", &json!({ "action": "cancel" })).await.expect("under way");
    let is_over = until(async || (!is_building().await).then_some(())).await;
    is_over.unwrap_or_else(|| panic!("it goes on\n{}", stage.tandem.log()));
    holder.batch_execute("COMMIT").await.expect("over");
}

/// Counts who builds the index of `old`.
const BUILDS_OLD: &str = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%INDEX CONCURRENTLY%old_n%' \
    AND pid <> pg_backend_pid() AND state = 'active'";

/// What a switch would find of history, by name and object.
async fn doubts(stage: &Stage) -> Vec<(String, String)> {
    stage.tandem.caught_up().await;
    stage.steady().await;
    let ended = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    let found = ended["findings"].as_array().expect("a list").iter();
    let text = |finding: &Value, field: &str| finding[field].as_str().expect("text").to_owned();
    let named = found.map(|finding| (text(finding, "name"), text(finding, "object")));
    named
        .filter(|(name, object)| name.starts_with("history") && (name != "history_unknown" || object == "public.named"))
        .collect()
}

#[tokio::test]
async fn a_switch_knows_what_is_not_copied_not_compared_or_different() {
    let found = |name: &str, object: &str| (name.to_owned(), object.to_owned());
    let stage = stage("").await;
    ask(&stage, "backfill", json!({ "tables": ["public.parent"], "verify": false })).await;
    ended(&stage, "backfill").await;
    let unknown = found("history_unknown", "public.named");
    assert_eq!(doubts(&stage).await, [found("history_unverified", "public.parent"), unknown.clone()]);
    assert_eq!(walk(&stage, "verify", json!({ "tables": ["public.parent"] })).await["state"], "Done");
    assert_eq!(doubts(&stage).await, std::slice::from_ref(&unknown));
    let plant = "SET session_replication_role = replica; DELETE FROM parent WHERE id IN (1, 2)";
    sql(&stage.target.url("postgres"), plant).await;
    walk(&stage, "verify", json!({ "tables": ["public.parent"] })).await;
    assert_eq!(doubts(&stage).await, [found("history_differs", "public.parent: 2 rows"), unknown.clone()]);
    assert_eq!(walk(&stage, "repair", json!({ "tables": ["public.parent"] })).await["state"], "Done");
    assert_eq!(doubts(&stage).await, [unknown]);
    let client = stage.tandem.client();
    ask(&stage, "backfill", json!({ "tables": ["public.named"] })).await;
    let paused = client.post("/v1/backfill", &json!({ "action": "pause" })).await.expect("under way");
    assert_eq!(paused["state"], "Paused");
    let refused = stage.ask_switch(&json!({ "to": "target" })).await;
    assert_eq!(refused["end"], "refused", "{refused:#}");
    let number = format!("backfill {}", paused["number"]);
    assert!(doubts(&stage).await.contains(&found("history_under_way", &number)), "{refused:#}");
    client.post("/v1/backfill", &json!({ "action": "resume" })).await.expect("held");
    assert_eq!(ended(&stage, "backfill").await["state"], "Done");
    assert_eq!(doubts(&stage).await, []);
}

#[tokio::test]
async fn tables_without_a_key_are_copied_while_clients_are_held_where_that_is_asked_for() {
    let stage = stage("[mirror]\nkeyless = \"copy\"\nself_repair = false\n").await;
    sql(&stage.origin.url("postgres"), "INSERT INTO keyless SELECT i / 2 FROM generate_series(1, 3000) i").await;
    sql(&stage.target.url("postgres"), "INSERT INTO keyless VALUES (-1), (-1)").await;
    let client = connect(&stage.url()).await;
    client
        .batch_execute("UPDATE keyless SET v = v + 1 WHERE v < 100; DELETE FROM keyless WHERE v = 500")
        .await
        .expect("written");
    stage.tandem.caught_up().await;
    stage.steady().await;
    let looked = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    let named = |name: &str| {
        let found = looked["findings"].as_array().expect("a list").iter();
        found.filter(|one| one["name"] == name).map(|one| one["object"].as_str().expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(
        (looked["end"].as_str(), named("table_copied_held")),
        (Some("ready"), vec!["public.keyless"]),
        "{looked:#}"
    );
    assert!(named("tables_dirty").is_empty() && named("table_without_key").is_empty(), "{looked:#}");
    let writer = tokio::spawn(async move {
        for done in 0..400 {
            if client.batch_execute("INSERT INTO keyless VALUES (9999)").await.is_err() {
                return done;
            }
        }
        400
    });
    let ended = stage.ask_switch(&json!({ "to": "target" })).await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    let written = writer.await.expect("no panics in it");
    let all = "SELECT count(*) || ' ' || sum(v) FROM keyless WHERE v";
    let old = rows(&stage.origin.url("postgres"), &format!("{all} <> 9999")).await;
    assert_eq!(rows(&stage.target.url("postgres"), &format!("{all} <> 9999")).await, old);
    assert_eq!(
        rows(&stage.target.url("postgres"), "SELECT count(*) FROM keyless WHERE v = 9999").await,
        [written.to_string()]
    );
}

#[tokio::test]
async fn excluded_tables_stay_where_they_are() {
    let stage = stage("[mirror]\nexclude = [\"public.pl*n\", \"public.parts\", \"public.keyless\"]\n").await;
    sql(&stage.target.url("postgres"), "DROP TABLE plain").await;
    let report = walk(&stage, "backfill", json!({})).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    let client = connect(&stage.url()).await;
    for write in [
        "UPDATE plain SET v = 'here' WHERE id < 9",
        "UPDATE parts SET v = v + 1 WHERE id = 4",
        "INSERT INTO keyless VALUES (1)",
        "ALTER TABLE plain ADD COLUMN more int",
        "UPDATE parent SET v = 'there' WHERE id = 4",
    ] {
        client.batch_execute(write).await.expect(write);
    }
    stage.tandem.caught_up().await;
    stage.steady().await;
    let looked = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    assert_eq!(looked["end"], "ready", "{looked:#}\n{}", stage.tandem.log());
    let there = "SELECT (SELECT count(*) FROM parts) + (SELECT count(*) FROM keyless) || ' ' || (SELECT v FROM parent WHERE id = 4)";
    assert_eq!(rows(&stage.target.url("postgres"), there).await, ["0 there"]);
    let parked = stage.tandem.client().get("/v1/parked").await.expect("it answers");
    assert_eq!(parked, json!([]), "{parked:#}");
}

#[tokio::test]
async fn a_table_that_was_excluded_for_a_while_is_of_unknown_history_if_it_was_written() {
    let mut stage = stage("").await;
    assert_eq!(walk(&stage, "backfill", public()).await["state"], "Done", "{}", stage.tandem.log());
    let config = stage.tandem.dir().join("proxy.toml");
    let all = std::fs::read_to_string(&config).expect("it is there");
    let some = format!("{all}[mirror]\nexclude = [\"public.plain\", \"public.parts\", \"public.child\"]\n");
    for text in [&some, &all] {
        stage.tandem.terminate();
        std::fs::write(&config, text).expect("written");
        stage.tandem.launch().await;
        if text == &some {
            let client = connect(&stage.url()).await;
            for write in ["UPDATE plain SET v = 'here' WHERE id < 9", "UPDATE parts SET v = v + 1 WHERE id = 4"] {
                client.batch_execute(write).await.expect(write);
            }
            stage.tandem.caught_up().await;
            stage.tandem.repair_all().await;
        }
    }
    let looked = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    let found = looked["findings"].as_array().expect("a list").iter();
    let found = found.filter(|one| one["name"] == "history_unknown");
    let found: Vec<&str> = found.filter_map(|one| one["object"].as_str()).collect();
    assert!(found.contains(&"public.plain"), "{looked:#}\n{}", stage.tandem.log());
    assert!(found.iter().any(|name| name.starts_with("public.parts")), "{looked:#}");
    assert!(!found.contains(&"public.child"), "nobody wrote it: {looked:#}");
}

#[tokio::test]
async fn metrics_tell_of_a_walk_what_its_report_tells() {
    let stage = stage("").await;
    sql(&stage.target.url("postgres"), "INSERT INTO named VALUES ('stranger', 1)").await;
    let tables = json!({ "tables": ["public.plain", "public.named"], "on_conflict": "overwrite" });
    let report = walk(&stage, "backfill", tables).await;
    assert_eq!(counts(&report)[2..], [0, 1, 0, 0], "{report:#}");
    let text = stage.tandem.metrics().await;
    for line in [
        "tandem_history_rows_total{pass=\"copy\"} 24000",
        "tandem_history_rows_total{pass=\"forth\"} 24000",
        "tandem_history_differences_total{how=\"extra\"} 1",
        "tandem_history_differing{kind=\"backfill\"} 0",
        "tandem_history_state{kind=\"backfill\",state=\"done\"} 1",
        "tandem_history_state{kind=\"backfill\",state=\"copying\"} 0",
        "tandem_history_done_ratio{kind=\"backfill\"} 1",
        "tandem_history_throttled{reason=\"lag\"} 0",
        &format!("tandem_history_bytes_total {}", report["bytes"]),
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    let alike = |pass| text.contains(&format!("tandem_history_chunks_total{{pass=\"{pass}\",end=\"alike\"}}"));
    assert!(alike("forth") && alike("back"), "equal chunks are found so without their rows: {text}");
    assert!(text.contains("tandem_history_chunk_seconds_bucket{pass=\"back\""), "{text}");
}
