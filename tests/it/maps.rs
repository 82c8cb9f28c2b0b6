//! Tables that are called otherwise on the target, and tables of which only some rows move, on real servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ::tandem::dice::Dice;
use ::tandem::sandbox::{Options, Postgres, binaries};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::history::{counts, walk};
use crate::support::stage::Stage;
use crate::support::tandem::Tandem;
use crate::support::{connect, rows, server_with, sql};

/// Names that change with a composite key, foreign keys to it that act, partitions.
const ORIGIN: &str = "CREATE SCHEMA old;
    CREATE TABLE users (tenant int, name text, mail text UNIQUE, note text, PRIMARY KEY (tenant, name));
    CREATE TABLE orders (id bigint PRIMARY KEY, tenant int NOT NULL, who text NOT NULL, kind text,
        FOREIGN KEY (tenant, who) REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE old.plain (id int PRIMARY KEY, v text);
    CREATE TABLE old.parts (id bigint, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE old.parts_a PARTITION OF old.parts FOR VALUES IN ('a');
    CREATE TABLE old.parts_b PARTITION OF old.parts FOR VALUES IN ('b', 'c');";

/// Columns in another order, one more, and a table that has the name of one that is called otherwise here.
const TARGET: &str = "CREATE SCHEMA app; CREATE SCHEMA new;
    CREATE TABLE app.accounts (note text, name text, org int, email text UNIQUE, more int DEFAULT 5, PRIMARY KEY (org, name));
    CREATE TABLE orders (id bigint PRIMARY KEY, tenant int NOT NULL, who text NOT NULL, kind text,
        FOREIGN KEY (tenant, who) REFERENCES app.accounts ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE new.plain (id int PRIMARY KEY, v text);
    CREATE TABLE new.parts (id bigint, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE new.parts_ab PARTITION OF new.parts FOR VALUES IN ('a', 'b');
    CREATE TABLE new.parts_c PARTITION OF new.parts FOR VALUES IN ('c');
    CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1);";

const HISTORY: &str = "
    INSERT INTO users SELECT i % 10, 'u' || i, 'm' || i, 'n' || i FROM generate_series(1, 3000) i;
    INSERT INTO orders SELECT i, i % 10, 'u' || i, (ARRAY['kept', 'gone'])[1 + i / 10 % 2] FROM generate_series(1, 3000) i;
    INSERT INTO old.plain SELECT i, 'v' || i FROM generate_series(1, 2000) i;
    INSERT INTO old.parts SELECT i, chr(97 + i % 3), i FROM generate_series(1, 2000) i;";

const MAPS: &str = "[backfill]\nchunk_rows = 200\nhold = \"20ms\"\n\
    [[tables]]\nfrom = \"public.users\"\nto = \"app.accounts\"\ncolumns = { tenant = \"org\", mail = \"email\" }\n\
    [[tables]]\nfrom = \"public.orders\"\nfilter = \"kind = 'kept' AND tenant < 8\"\n\
    [[tables]]\nfrom = \"old.*\"\nto = \"new.*\"\n";

/// What must be the same, asked of the origin and of the target.
const EQUAL: &[[&str; 2]] = &[
    ["SELECT (tenant, name, mail, note)::text FROM users", "SELECT (org, name, email, note)::text FROM app.accounts"],
    ["SELECT o::text FROM orders o WHERE kind = 'kept' AND tenant < 8", "SELECT o::text FROM orders o"],
    ["SELECT p::text FROM old.plain p", "SELECT p::text FROM new.plain p"],
    ["SELECT p::text FROM old.parts p", "SELECT p::text FROM new.parts p"],
    ["SELECT '(1)'", "SELECT users::text FROM users"],
];

async fn servers(origin: &str, target: &str) -> (Postgres, Postgres) {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let servers = (server_with("origin", &old, &Options::default()), server_with("target", &new, &Options::default()));
    sql(&servers.0.url("postgres"), origin).await;
    sql(&servers.1.url("postgres"), target).await;
    servers
}

async fn stage(maps: &str, target: &str) -> Stage {
    let (origin, target) = servers(&format!("{ORIGIN}{HISTORY}"), target).await;
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), maps).await;
    Stage { tandem, origin, target }
}

async fn assert_equal(stage: &Stage, equal: &[[&str; 2]]) {
    stage.tandem.settled().await;
    for [here, there] in equal {
        let mut sides =
            [rows(&stage.origin.url("postgres"), here).await, rows(&stage.target.url("postgres"), there).await];
        sides.iter_mut().for_each(|side| side.sort_unstable());
        let [origin, target] = sides;
        let lost: Vec<_> = origin.iter().filter(|row| target.binary_search(row).is_err()).take(3).collect();
        let extra: Vec<_> = target.iter().filter(|row| origin.binary_search(row).is_err()).take(3).collect();
        let same = lost.is_empty() && extra.is_empty() && origin.len() == target.len();
        assert!(same, "{there}: misses {lost:?} and has {extra:?}\n{}", stage.tandem.log());
    }
}

/// A client that changes, deletes, re-keys, brings back, and has rows enter and leave the filter, until told to stop.
fn churn(url: String, stop: Arc<AtomicBool>, seed: u64) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let (client, mut dice, mut done) = (connect(&url).await, Dice(seed), 0);
        while !stop.load(Relaxed) {
            match client.batch_execute(&statement(&mut dice)).await {
                Ok(()) => done += 1,
                Err(error) => {
                    let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                    assert!(code.starts_with("23") || code == "40P01", "{error:?}");
                    client.batch_execute("ROLLBACK").await.expect("it may have been a transaction");
                }
            }
        }
        done
    })
}

fn statement(dice: &mut Dice) -> String {
    let id = 1 + dice.below(3_000);
    let (tenant, other) = (id % 10, dice.below(10));
    match dice.below(12) {
        0 => format!("UPDATE users SET note = 'changed' || {other} WHERE tenant = {tenant} AND name = 'u{id}'"),
        1 => format!("UPDATE users SET tenant = {other} WHERE tenant = {tenant} AND name = 'u{id}'"),
        2 => format!("DELETE FROM users WHERE tenant = {tenant} AND name = 'u{id}'"),
        3 => format!("INSERT INTO users VALUES ({tenant}, 'u{id}', 'again {id}', NULL) ON CONFLICT DO NOTHING"),
        4 => format!("UPDATE orders SET kind = 'gone' WHERE id = {id}"),
        5 => format!("UPDATE orders SET kind = 'kept' WHERE id = {id}"),
        6 => format!("UPDATE orders SET id = id + 100000 WHERE id = {id}"),
        7 => format!("DELETE FROM orders WHERE id = {id}"),
        8 => format!("INSERT INTO orders SELECT {id} + 50000, tenant, name, 'kept' FROM users WHERE name = 'u{id}'"),
        9 => format!("UPDATE old.plain SET v = v || {other} WHERE id = {id}"),
        10 => format!("UPDATE old.parts SET region = 'b' WHERE id = {id} AND region = 'a'"),
        _ => format!(
            "BEGIN; DELETE FROM old.parts WHERE id = {id} AND region = 'c'; UPDATE orders SET kind = 'x' WHERE id < {id}; ROLLBACK"
        ),
    }
}

#[tokio::test]
async fn renamed_tables_and_filtered_rows_are_mirrored_copied_compared_and_repaired() {
    let stage = stage(MAPS, TARGET).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (1..=3).map(|seed| churn(stage.url(), stop.clone(), seed)).collect();
    let report = walk(&stage, "backfill", json!({})).await;
    let again = walk(&stage, "verify", json!({})).await;
    stop.store(true, Relaxed);
    let mut done = 0;
    for client in clients {
        done += client.await.expect("no panics in it");
    }
    assert!(done > 100, "{done}");
    for report in [report, again] {
        assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
        let [read, equal, rest @ ..] = counts(&report);
        assert!(read > 5_000 && equal == read && rest == [0; 4], "{report:#}\n{}", stage.tandem.log());
    }
    assert_equal(&stage, EQUAL).await;
    planted_differences_are_found(&stage).await;
    a_switch_names_them(&stage).await;
}

/// A row that is filtered out is extra, and what has another name is found and mended by the origin's.
async fn planted_differences_are_found(stage: &Stage) {
    let plant = "SET session_replication_role = replica;
        UPDATE app.accounts SET email = 'planted' WHERE (org, name) IN (SELECT org, name FROM app.accounts ORDER BY 1, 2 LIMIT 1);
        DELETE FROM app.accounts WHERE (org, name) IN (SELECT org, name FROM app.accounts ORDER BY 1 DESC, 2 DESC LIMIT 1);
        INSERT INTO orders VALUES (900000, 9, 'u9', 'gone');
        UPDATE new.parts SET v = -1 WHERE (id, region) IN (SELECT id, region FROM new.parts ORDER BY 1 LIMIT 1);";
    sql(&stage.target.url("postgres"), plant).await;
    // What the origin has and does not show is no more missing than it is equal.
    sql(&stage.origin.url("postgres"), "INSERT INTO users VALUES (9, 'nine', NULL, NULL)").await;
    let found = walk(stage, "verify", json!({})).await;
    assert_eq!(counts(&found)[2..], [2, 1, 2, 0], "{found:#}\n{}", stage.tandem.log());
    let listed = stage.tandem.client().get("/v1/verify/differences?values=true").await.expect("it answers");
    let tables: Vec<_> = listed.as_array().expect("a list").iter().map(|one| one["table"].as_str()).collect();
    assert!(tables.contains(&Some("public.users")) && tables.contains(&Some("old.parts")), "{listed:#}");
    let repaired = walk(stage, "repair", json!({})).await;
    assert_eq!((&repaired["state"], &repaired["counts"]["repaired"]), (&json!("Done"), &json!(5)), "{repaired:#}");
    assert_equal(stage, EQUAL).await;
}

async fn a_switch_names_them(stage: &Stage) {
    stage.tandem.caught_up().await;
    let looked = stage.ask_switch(&json!({ "to": "target", "dry_run": true })).await;
    assert_eq!(looked["end"], "refused", "{looked:#}");
    let mut named: Vec<String> = Vec::new();
    for found in looked["findings"].as_array().expect("a list") {
        if found["severity"] == "error" {
            named.push(format!(
                "{} {}",
                found["name"].as_str().unwrap_or("?"),
                found["object"].as_str().unwrap_or("?")
            ));
        }
    }
    named.sort();
    let renamed = |of: &str| format!("renamed_table {of}");
    let expected = [
        "filtered_table public.orders".to_owned(),
        renamed("old.parts is new.parts"),
        renamed("old.plain is new.plain"),
        renamed("public.users is app.accounts"),
        renamed("public.users: mail is email, tenant is org"),
        "reverse_table \"public\".\"orders\": only some of its rows".to_owned(),
    ];
    for expected in &expected {
        assert!(named.iter().any(|named| named.starts_with(expected.as_str())), "{expected} in {named:#?}\n{looked:#}");
    }
}

/// Names alone are no obstacle to the way back.
#[tokio::test]
async fn a_switch_that_takes_new_names_mirrors_back_by_the_old_ones() {
    let maps = "[mirror]\nexclude = [\"public.orders\"]\n[[tables]]\nfrom = \"public.users\"\nto = \"app.accounts\"\n\
        columns = { tenant = \"org\", mail = \"email\" }\n[[tables]]\nfrom = \"old.*\"\nto = \"new.*\"\ncolumns = { n = \"num\" }\n";
    let origin = format!(
        "{ORIGIN}{HISTORY}ALTER TABLE orders DROP CONSTRAINT orders_tenant_who_fkey;
         CREATE TABLE old.counted (n int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY); INSERT INTO old.counted DEFAULT VALUES"
    );
    let target = format!(
        "{TARGET}DROP TABLE orders, users; ALTER TABLE app.accounts DROP COLUMN more;
         CREATE TABLE new.counted (num int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)"
    );
    let (origin, target) = servers(&origin, &target).await;
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), maps).await;
    let stage = Stage { tandem, origin, target };
    let report = walk(&stage, "backfill", json!({})).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    stage.tandem.caught_up().await;
    let ended = stage.ask_switch(&json!({ "to": "target", "ignore": ["renamed_table"] })).await;
    assert_eq!(ended["end"], "switched", "{ended:#}\n{}", stage.tandem.log());
    stage.steady().await;
    let client = connect(&stage.url()).await;
    for write in [
        "INSERT INTO app.accounts VALUES ('new', 'new', 3, 'new')",
        "UPDATE app.accounts SET org = 77, email = 'moved' WHERE org = 1 AND name = 'u1'",
        "DELETE FROM new.plain WHERE id < 50",
        "UPDATE new.parts SET region = 'c', v = -5 WHERE id = 4",
        // What the old primary has counted is not given out again.
        "INSERT INTO new.counted DEFAULT VALUES",
    ] {
        client.batch_execute(write).await.expect(write);
    }
    let mut equal: Vec<_> = [EQUAL[0], EQUAL[2], EQUAL[3]].to_vec();
    equal.push(["SELECT n::text FROM old.counted", "SELECT num::text FROM new.counted"]);
    assert_equal(&stage, &equal).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT num FROM new.counted ORDER BY 1").await, ["1", "2"]);
    let back = stage.switch("origin").await;
    assert_eq!(back["end"], "refused", "the names are findings in either direction: {back:#}");
    let back = stage.ask_switch(&json!({ "to": "origin", "ignore": ["renamed_table"] })).await;
    assert_eq!(back["end"], "switched", "{back:#}\n{}", stage.tandem.log());
    let client = connect(&stage.url()).await;
    client.batch_execute("UPDATE users SET note = 'back' WHERE name = 'new'").await.expect("the old names");
    assert_equal(&stage, &equal).await;
}

/// What `[[tables]]` says and is not so keeps tandem from starting, and `tandem check` says the same.
#[tokio::test]
async fn maps_that_cannot_be_followed_are_named_before_anything_is_copied() {
    let (origin, target) = servers(ORIGIN, "").await;
    let refused = |keys: &str, why: &'static str| {
        let maps = format!("[[tables]]\n{keys}\n");
        let (origin, target) = (origin.url("postgres"), target.url("postgres"));
        async move {
            let told = check(&origin, &target, &maps).await;
            assert!(told.iter().any(|told| told.contains(why)), "{maps} {why}: {told:#?}");
        }
    };
    refused("from = \"public.user\"\nto = \"a.b\"", "the origin has no such table").await;
    refused("from = \"public.users\"\ncolumns = { email = \"mail\" }", "no column email").await;
    refused("from = \"public.users\"\nto = \"public.orders\"", "would be the target of public.users as well").await;
    refused("from = \"public.users\"\nfilter = \"tenant = \"", "no expression").await;
    refused("from = \"public.users\"\nfilter = \"tenant = 'x'\"", "invalid input syntax").await;
    refused("from = \"public.users\"\nfilter = \"tenant > random()\"", "must be marked IMMUTABLE").await;
    refused("from = \"public.users\"\nfilter = \"mail < now()::text\"", "must be marked IMMUTABLE").await;
    refused("from = \"public.users\"\nfilter = \"count(tenant) > 1\"", "aggregate functions are not allowed").await;
    refused("from = \"old.parts_a\"\nto = \"a.b\"", "it is a partition").await;
    assert_eq!(
        check(
            &origin.url("postgres"),
            &target.url("postgres"),
            "[[tables]]\nfrom = \"public.*\"\nfilter = \"tenant = 3\"\n"
        )
        .await,
        Vec::<String>::new()
    );
}

/// Findings of `tandem check` of the rule `table_map`.
async fn check(origin: &str, target: &str, maps: &str) -> Vec<String> {
    let text = format!(
        "[[listen]]\nwire = \"postgres\"\naddress = \"127.0.0.1:1\"\n[origin]\nurl = \"{origin}\"\n[target]\nurl = \"{target}\"\n{maps}"
    );
    let config = ::tandem::config::Config::from_text("proxy.toml", &text, []).expect("the file itself is sound");
    let report = ::tandem::protocol::postgres::check::check(&config).await;
    assert_eq!(report.unreachable, Vec::<String>::new());
    let of_maps = report.findings.into_iter().filter(|found| found.rule.name == "table_map");
    of_maps.map(|found| found.object).collect()
}

/// Tables that the target lacks are made under the target's names, with their keys, indexes, constraints and foreign keys.
#[tokio::test]
async fn what_the_target_lacks_is_made_under_the_targets_names() {
    let more = "CREATE TYPE old.mood AS ENUM ('ok', 'bad');
        CREATE TABLE old.\"Odd, one\" (id serial PRIMARY KEY, mood old.mood DEFAULT 'ok', tenant int, who text CHECK (who <> 'nobody'),
            size int GENERATED ALWAYS AS (length(who)) STORED, FOREIGN KEY (tenant, who) REFERENCES users ON UPDATE CASCADE);
        CREATE TABLE old.numbered (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, up int REFERENCES old.numbered);
        CREATE INDEX ON users (lower(mail)) WHERE tenant > 3; CREATE INDEX ON orders (kind); CREATE UNIQUE INDEX ON old.plain (v, id);
        CREATE TABLE apart (id int PRIMARY KEY);";
    let (origin, target) = servers(&format!("{ORIGIN}{HISTORY}{more}"), "").await;
    sql(
        &origin.url("postgres"),
        "INSERT INTO old.\"Odd, one\" (tenant, who) SELECT i % 10, 'u' || i FROM generate_series(1, 100) i; \
        INSERT INTO old.numbered (up) VALUES (1), (1)",
    )
    .await;
    let maps = format!("[mirror]\nexclude = [\"*.apart\"]\n{MAPS}");
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), &maps).await;
    let stage = Stage { tandem, origin, target };
    let report = walk(&stage, "backfill", json!({ "provision": true })).await;
    assert_eq!(report["state"], "Done", "{report:#}\n{}", stage.tandem.log());
    let mut equal: Vec<_> = EQUAL[..4].to_vec();
    equal.push(["SELECT t::text FROM old.\"Odd, one\" t", "SELECT t::text FROM new.\"Odd, one\" t"]);
    equal.push(["SELECT t::text FROM old.numbered t", "SELECT t::text FROM new.numbered t"]);
    assert_equal(&stage, &equal).await;
    let made = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid >= 16384 UNION ALL \
        SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid >= 16384 AND contype IN ('c', 'f') \
        AND conparentid = 0";
    let made = rows(&stage.target.url("postgres"), made).await;
    for expected in [
        "CREATE UNIQUE INDEX users_pkey ON app.accounts USING btree (org, name)",
        "CREATE UNIQUE INDEX users_mail_key ON app.accounts USING btree (email)",
        "CREATE INDEX users_lower_idx ON app.accounts USING btree (lower(email)) WHERE (org > 3)",
        "CREATE INDEX orders_kind_idx ON public.orders USING btree (kind)",
        "CREATE UNIQUE INDEX plain_v_id_idx ON new.plain USING btree (v, id)",
        "orders FOREIGN KEY (tenant, who) REFERENCES app.accounts(org, name) ON UPDATE CASCADE ON DELETE CASCADE",
        "new.\"Odd, one\" FOREIGN KEY (tenant, who) REFERENCES app.accounts(org, name) ON UPDATE CASCADE",
        "new.\"Odd, one\" CHECK ((who <> 'nobody'::text))",
        "new.numbered FOREIGN KEY (up) REFERENCES new.numbered(n)",
    ] {
        assert!(made.iter().any(|made| made == expected), "{expected} in {made:#?}\n{}", stage.tandem.log());
    }
    let there = "SELECT to_regclass('public.users') IS NULL AND to_regclass('public.apart') IS NULL";
    assert_eq!(rows(&stage.target.url("postgres"), there).await, ["t"]);
    let again = walk(&stage, "backfill", json!({ "provision": true })).await;
    assert_eq!((&again["state"], &again["why"]), (&json!("Done"), &report["why"]), "{again:#}");
}
