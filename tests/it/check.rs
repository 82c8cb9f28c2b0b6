//! `tandem check` on two servers: every problem that was planted is found by its name, and a clean pair has none.

use std::collections::BTreeSet;

use serde_json::Value;

use ::tandem::sandbox::{Options, Postgres, Sandbox, binaries, free_port};

use crate::support::tandem::{Tandem, cli};
use crate::support::{connect, pair, server_with, sql};

/// Runs `tandem check --json` on two databases; the exit code and what it printed.
fn check(origin: &str, target: &str, more: &[&str]) -> (Option<i32>, Value) {
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let file = sandbox.dir().join("proxy.toml");
    let journal = sandbox.dir().join("journal");
    let text = format!(
        "[[listen]]\nwire = \"postgres\"\naddress = \"127.0.0.1:{}\"\n[origin]\nurl = \"{origin}\"\n\
         [target]\nurl = \"{target}\"\n[journal]\ndir = \"{}\"\nsize_limit = \"1MB\"\n",
        free_port(),
        journal.display()
    );
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8");
    let output = cli(&[&["check", "--json", "--config", file], more].concat());
    assert!(!journal.exists(), "check makes nothing");
    let shown = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), shown)
}

fn found(report: &Value) -> BTreeSet<(String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().expect("a text").to_owned();
    let list = report["findings"].as_array().expect("a list");
    list.iter().map(|finding| (text(finding, "name"), text(finding, "object"))).collect()
}

/// What is different between two clusters of different versions, whatever is in them.
const OF_THE_VERSIONS: &[&str] = &["collation_differs", "extension_version_differs"];

#[tokio::test]
async fn a_clean_pair_has_no_findings() {
    let (origin, target) = pair();
    for server in [&origin, &target] {
        sql(&server.url("postgres"), "CREATE TABLE acc (id int PRIMARY KEY, v text)").await;
    }
    let (code, report) =
        check(&origin.url("postgres"), &target.url("postgres"), &["--ignore", &OF_THE_VERSIONS.join(",")]);
    assert_eq!(found(&report), BTreeSet::new());
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)));
}

const ORIGIN: &str = "
    CREATE ROLE reader LOGIN; ALTER ROLE reader SET work_mem = '8MB'; GRANT CREATE ON SCHEMA public TO reader;
    CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE lost AS ENUM ('x');
    CREATE TYPE fewer AS ENUM ('a', 'b'); CREATE TYPE sorted AS ENUM ('a', 'b'); CREATE TYPE pair AS (a int, b int);
    CREATE DOMAIN above AS int; CREATE TYPE span AS RANGE (subtype = int); CREATE DOMAIN alike AS text NOT NULL CHECK (VALUE <> '');
    CREATE SEQUENCE numbers; CREATE COLLATION odd (provider = icu, locale = 'de');
    CREATE EXTENSION IF NOT EXISTS citext;
    CREATE FUNCTION cypher(citext) RETURNS int LANGUAGE c AS '$libdir/citext', 'citext_hash';
    ALTER EXTENSION citext ADD FUNCTION cypher(citext);
    CREATE TABLE keyless (v int); CREATE TABLE nullable (k int UNIQUE);
    CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
    CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
    CREATE TABLE secret (id int PRIMARY KEY); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE fired (id int PRIMARY KEY);
    CREATE TRIGGER t AFTER INSERT ON fired FOR EACH ROW EXECUTE FUNCTION nothing();
    CREATE FUNCTION notes() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO keyless VALUES (1); END';
    CREATE EVENT TRIGGER noted ON sql_drop EXECUTE FUNCTION notes();
    CREATE TABLE ruled (id int PRIMARY KEY); CREATE RULE r AS ON DELETE TO ruled DO INSTEAD NOTHING;
    CREATE MATERIALIZED VIEW seen AS SELECT 1 AS one;
    CREATE FOREIGN DATA WRAPPER nobody; CREATE SERVER nowhere FOREIGN DATA WRAPPER nobody;
    CREATE FOREIGN TABLE far (id int) SERVER nowhere;
    CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE shown (id int PRIMARY KEY);
    CREATE TABLE shape (id int PRIMARY KEY, a int, b text, c int, missing int, sum int);
    CREATE COLLATION same (locale = 'C'); CREATE COLLATION other (locale = 'C');
    CREATE TABLE sorts (id int PRIMARY KEY, a text COLLATE \"C\", b text COLLATE same, c name);
    CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
    SELECT lo_create(0);";

const TARGET: &str = "
    DO 'BEGIN CREATE TYPE pg_temp.filler AS (a int); END'; CREATE TYPE mood AS ENUM ('good', 'bad', 'more');
    CREATE TYPE fewer AS ENUM ('a'); CREATE TYPE sorted AS ENUM ('b', 'a'); CREATE TYPE pair AS (b int, a int);
    CREATE DOMAIN above AS int CHECK (VALUE > 0); CREATE TYPE span AS RANGE (subtype = bigint); CREATE DOMAIN alike AS text NOT NULL CHECK (VALUE <> '');
    CREATE TABLE keyless (v int); CREATE TABLE nullable (k int UNIQUE);
    CREATE TABLE late (id int PRIMARY KEY); CREATE TABLE fast (id int PRIMARY KEY);
    CREATE TABLE secret (id int PRIMARY KEY); CREATE TABLE fired (id int PRIMARY KEY);
    CREATE TABLE ruled (id int PRIMARY KEY); CREATE VIEW shown AS SELECT 1 AS id;
    CREATE TABLE shape (id int PRIMARY KEY, b text, a bigint, c int NOT NULL, extra int NOT NULL, sum int GENERATED ALWAYS AS (c) STORED);
    CREATE COLLATION same (locale = 'C'); CREATE COLLATION other (locale = 'POSIX');
    CREATE TABLE sorts (id int PRIMARY KEY, a text, b text COLLATE same, c name);
    CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE part_all PARTITION OF part DEFAULT;
    CREATE TABLE strange (id int PRIMARY KEY); ALTER TABLE strange ENABLE ROW LEVEL SECURITY;
    CREATE ROLE mirror LOGIN;";

#[tokio::test]
async fn every_planted_problem_is_found_by_name_and_can_be_ignored() {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let config = [
        "track_counts = off",
        "idle_session_timeout = 1h",
        "max_prepared_transactions = 5",
        "datestyle = 'iso, dmy'",
        "timezone = 'Europe/Berlin'",
    ];
    let options = Options { config: config.map(str::to_owned).to_vec(), ..Options::default() };
    let origin = server_with("origin", &old, &options);
    let target = server_with("target", &new, &Options::default());
    sql(&origin.url("postgres"), ORIGIN).await;
    sql(&target.url("postgres"), TARGET).await;
    let as_role = |url: String, role: &str| url.replace("postgres@", &format!("{role}@"));
    let (from, to) = (as_role(origin.url("postgres"), "reader"), as_role(target.url("postgres"), "mirror"));

    let (code, report) = check(&from, &to, &[]);
    assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)));
    let findings = found(&report);
    let expected = [
        ("collation_differs", "public.other"),
        ("column_collation_differs", "public.sorts.a: pg_catalog.C -> the database's"),
        ("column_computed", "public.shape.sum"),
        ("column_missing", "public.shape.missing"),
        ("column_order_differs", "public.shape"),
        ("column_type_differs", "public.shape.a"),
        ("column_unknown", "public.shape.extra"),
        ("deferrable_key", "public.late (late_pkey)"),
        ("event_trigger", "noted"),
        ("extension_functions", "citext"),
        ("extension_missing", "citext"),
        ("collation_missing", "public.odd"),
        ("domain_differs", "public.above: () -> (CHECK ((VALUE > 0)))"),
        ("enum_order_differs", "public.sorted: (a, b) -> (b, a)"),
        ("foreign_table", "public.far"),
        ("idle_timeout", "idle_session_timeout"),
        ("large_objects", "postgres"),
        ("materialized_view", "public.seen"),
        ("may_not_be_replica", "postgres"),
        ("may_not_create", "postgres"),
        ("may_not_read", "public.fired"),
        ("may_not_see_stats", "postgres"),
        ("may_not_write", "public.part_all"),
        ("may_not_write", "public.shape"),
        ("not_a_table", "public.shown"),
        ("not_null_differs", "public.shape.c"),
        ("partition_missing", "public.part_1"),
        ("prepared_transactions_differ", "max_prepared_transactions"),
        ("role_missing", "reader"),
        ("role_setting_differs", "role reader: work_mem"),
        ("row_security", "public.secret"),
        ("row_security_applies", "public.secret"),
        ("rules", "public.ruled"),
        ("sequence_missing", "public.numbers"),
        ("setting_differs", "DateStyle: ISO, DMY -> ISO, MDY"),
        ("setting_differs", "TimeZone: Europe/Berlin -> UTC"),
        ("table_missing", "public.gone"),
        ("table_without_key", "public.keyless"),
        ("table_without_key", "public.nullable"),
        ("track_counts_off", "track_counts"),
        ("triggers", "public.fired"),
        ("type_differs", "public.fewer: lacks (b)"),
        ("type_differs", "public.pair: (a integer, b integer) -> (b integer, a integer)"),
        ("type_differs", "public.span: (integer) -> (bigint)"),
        ("type_missing", "public.lost"),
        ("type_oid_differs", "public.mood"),
        ("unlogged_table", "public.fast"),
    ];
    for (name, object) in expected {
        assert!(findings.contains(&(name.to_owned(), object.to_owned())), "{name} {object} in {findings:#?}");
    }
    assert!(!findings.contains(&("table_missing".to_owned(), "public.part_1".to_owned())));
    for alike in ["public.mood:", "public.alike:", "public.same", "public.sorts.b", "public.sorts.c"] {
        assert!(!findings.iter().any(|(_, object)| object.starts_with(alike)), "{alike} in {findings:#?}");
    }
    assert!(!findings.iter().any(|(_, object)| object == "public.strange"), "only the target has it: {findings:#?}");

    let names: BTreeSet<String> = findings.into_iter().map(|(name, _)| name).collect();
    for name in &names {
        let (_, report) = check(&from, &to, &["--ignore", name]);
        assert!(found(&report).iter().all(|(other, _)| other != name), "{name} is ignored");
    }
    let all: Vec<String> = names.into_iter().collect();
    let (code, report) = check(&from, &to, &["--ignore", &all.join(",")]);
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)));
}

const ROLES: &str = "
    CREATE ROLE app LOGIN; CREATE ROLE staff; GRANT staff TO app; CREATE ROLE boss LOGIN SUPERUSER; CREATE ROLE quiet LOGIN;
    CREATE ROLE actor LOGIN NOINHERIT; CREATE ROLE stage; GRANT stage TO actor; CREATE ROLE reads LOGIN; CREATE ROLE owner LOGIN;
    CREATE SCHEMA shop; CREATE TABLE shop.a (id int PRIMARY KEY, v text); CREATE TABLE shop.b (id int PRIMARY KEY);
    CREATE TABLE shop.c (id int PRIMARY KEY); CREATE VIEW shop.seen AS SELECT 1 AS one; CREATE SEQUENCE shop.n;
    CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE own (id int PRIMARY KEY);
    GRANT SELECT ON own TO PUBLIC;";

const GRANTS: &str = "
    GRANT USAGE ON SCHEMA shop TO staff, reads; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA shop TO staff;
    GRANT USAGE ON SEQUENCE shop.n TO app; GRANT SELECT (id), UPDATE (v) ON shop.a TO quiet; GRANT DELETE ON shop.b TO stage;
    GRANT SELECT ON shop.a TO reads; ALTER TABLE own OWNER TO owner;";

#[tokio::test]
async fn what_roles_may_do_on_the_origin_alone_is_named_by_role() {
    let (origin, target) = pair();
    sql(&origin.url("postgres"), &format!("{ROLES} {GRANTS}")).await;
    let there = "GRANT SELECT ON shop.a TO quiet; GRANT pg_read_all_data TO reads; GRANT staff TO reads; \
        REVOKE ALL ON FUNCTION shop.f() FROM PUBLIC; GRANT EXECUTE ON FUNCTION shop.f() TO staff, quiet, actor, stage, owner;";
    sql(&target.url("postgres"), &format!("{ROLES} {there}")).await;
    let missing = async || -> Vec<String> {
        let (_, report) = check(&origin.url("postgres"), &target.url("postgres"), &[]);
        let of_roles = found(&report).into_iter().filter(|(name, _)| name == "privilege_missing");
        of_roles.map(|(_, object)| object).collect()
    };
    let expected = [
        "app: USAGE on schema shop; SELECT, INSERT on tables shop.a, shop.b, shop.c and 1 more; USAGE on sequence shop.n",
        "owner: INSERT, UPDATE, DELETE, TRUNCATE on table public.own",
        "quiet: UPDATE on column shop.a.v",
        "stage: DELETE on table shop.b",
    ];
    assert_eq!(missing().await, expected);
    sql(&target.url("postgres"), GRANTS).await;
    assert_eq!(missing().await, Vec::<String>::new());
}

/// What is said of how text sorts in databases of two servers.
fn sorting(origin: &Postgres, here: &str, target: &Postgres, there: &str) -> Vec<String> {
    let (_, report) = check(&origin.url(here), &target.url(there), &[]);
    let of_texts = found(&report).into_iter().filter(|(name, _)| name == "collation_differs");
    of_texts.map(|(_, object)| object).collect()
}

#[tokio::test]
async fn a_provider_that_the_older_side_does_not_know_sorts_differently() {
    let (origin, target) = pair();
    let plain = "CREATE DATABASE app TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'";
    sql(&origin.url("postgres"), plain).await;
    sql(&target.url("postgres"), plain).await;
    assert_eq!(sorting(&origin, "app", &target, "app"), [""; 0]);
    let builtin = "CREATE DATABASE builtin TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'";
    let conn = connect(&target.url("postgres")).await;
    // Known from 17 on.
    if conn.batch_execute(builtin).await.is_ok() {
        assert_eq!(sorting(&origin, "app", &target, "builtin"), ["locale: C -> C.UTF-8", "provider: libc -> builtin"]);
    }
}

#[tokio::test]
async fn databases_and_collations_of_icu_are_compared_by_its_locales() {
    let (old, _) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let server = server_with("both", &old, &Options::default());
    let conn = connect(&server.url("postgres")).await;
    for (database, locale) in [("german", "de-DE"), ("alike", "de_DE"), ("swedish", "sv-SE")] {
        let made = format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE '{locale}'"
        );
        if conn.batch_execute(&made).await.is_err() {
            // Built without ICU, or older than 15, which has collations of it only.
            return;
        }
        sql(&server.url(database), &format!("CREATE COLLATION c (provider = icu, locale = '{locale}')")).await;
    }
    assert_eq!(sorting(&server, "german", &server, "alike"), [""; 0]);
    assert_eq!(sorting(&server, "german", &server, "swedish"), ["locale: de-DE -> sv-SE", "public.c"]);
}

#[tokio::test]
async fn one_server_for_both_sides_is_told() {
    let server = crate::support::server("both");
    sql(&server.url("postgres"), "CREATE DATABASE other").await;
    let (code, report) = check(&server.url("postgres"), &server.url("other"), &[]);
    assert_eq!(code, Some(1));
    assert!(found(&report).iter().any(|(name, _)| name == "same_system_id"));
    let elsewhere = server.url("postgres").replace("127.0.0.1", "localhost");
    let (_, report) = check(&server.url("postgres"), &elsewhere, &[]);
    assert!(found(&report).iter().any(|(name, _)| name == "same_database"));
}

#[tokio::test]
async fn one_database_under_two_names_is_not_mirrored_into_itself() {
    let server = crate::support::server("both");
    let elsewhere = server.url("postgres").replace("127.0.0.1", "localhost");
    let mut tandem = Tandem::configured("postgres", "", &server.url("postgres"), &elsewhere, "");
    tandem.spawn();
    assert_eq!(tandem.ended_soon().await, Some(2), "{}", tandem.log());
    assert!(tandem.log().contains("one and the same database under two names"), "{}", tandem.log());
}

#[tokio::test]
async fn a_side_that_does_not_answer_exits_with_3_and_the_other_is_looked_at() {
    let server = crate::support::server("origin");
    sql(&server.url("postgres"), "CREATE TABLE keyless (v int)").await;
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres", free_port());
    let (code, report) = check(&server.url("postgres"), &nobody, &[]);
    assert_eq!(code, Some(3));
    assert!(found(&report).contains(&("table_without_key".to_owned(), "public.keyless".to_owned())));
    assert_eq!(report["unreachable"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_name_that_no_finding_has_is_wrong_usage() {
    let (code, _) = check("postgres://a@localhost/a", "postgres://a@localhost/b", &["--ignore", "tabel_without_key"]);
    assert_eq!(code, Some(2));
}
