//! History that a target lacks, walks over it, and clients that write to it meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ::tandem::dice::Dice;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use super::stage::Stage;
use super::until;

/// Keys of several kinds, wide rows, a composite key, partitions, generated and identity columns, a table without a key.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE plain (id bigint PRIMARY KEY, v text, n numeric(12, 3), at timestamptz);
    CREATE TABLE named (name text PRIMARY KEY, v double precision);
    CREATE TABLE pairs (a int, b uuid, v jsonb, tags text[], PRIMARY KEY (a, b));
    CREATE TABLE wide (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text, size int GENERATED ALWAYS AS (length(body)) STORED);
    CREATE TABLE parts (id bigint, region text NOT NULL, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
    CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b', 'c');
    CREATE TABLE parent (id int PRIMARY KEY, v text);
    CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE);
    CREATE TABLE keyless (v int);";

/// Those with a key.
pub(crate) const TABLES: &[&str] = &["plain", "named", "pairs", "wide", "parts", "parent", "child"];

/// Rows of them.
pub(crate) const HISTORY: &str = "
    INSERT INTO plain SELECT i, repeat('x', i % 90), i / 7.0, timestamptz '2020-01-01 UTC' + i * interval '1 minute'
        FROM generate_series(1, 20000) i;
    INSERT INTO named SELECT 'name ' || md5(i::text), i / 3.0 FROM generate_series(1, 4000) i;
    INSERT INTO pairs SELECT i % 50, lpad(to_hex(i), 32, '0')::uuid, jsonb_build_object('i', i), ARRAY['t', i::text]
        FROM generate_series(1, 3000) i;
    INSERT INTO wide (body) SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 60) i, generate_series(1, 400) j GROUP BY i;
    INSERT INTO parts SELECT i, chr(97 + i % 3), i FROM generate_series(1, 3000) i;
    INSERT INTO parent SELECT i, 'p' || i FROM generate_series(1, 500) i;
    INSERT INTO child SELECT i, 1 + i % 500 FROM generate_series(1, 2000) i;";

/// Ask for a walk; how it ended.
pub(crate) async fn walk(stage: &Stage, kind: &str, more: Value) -> Value {
    ask(stage, kind, more).await;
    ended(stage, kind).await
}

/// Ask for a walk.
pub(crate) async fn ask(stage: &Stage, kind: &str, more: Value) {
    let mut request = json!({ "action": "start" });
    request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let asked = stage.tandem.client().post(&format!("/v1/{kind}"), &request).await;
    asked.unwrap_or_else(|error| panic!("{error}\n{}", stage.tandem.log()));
}

/// How the walk ends.
pub(crate) async fn ended(stage: &Stage, kind: &str) -> Value {
    let report = until(async || {
        let report = stage.tandem.client().get(&format!("/v1/{kind}")).await.expect("it answers");
        ["Done", "Failed", "Cancelled"].iter().any(|state| report["state"] == *state).then_some(report)
    });
    report.await.unwrap_or_else(|| panic!("the {kind} never ends\n{}", stage.tandem.log()))
}

/// `read`, and the five that it is the sum of.
pub(crate) fn counts(report: &Value) -> [u64; 6] {
    ["read", "equal", "missing", "extra", "different", "skipped"]
        .map(|name| report["counts"][name].as_u64().expect("a number"))
}

/// Clients that change, delete, re-key and bring back rows of history, through tandem, until told to stop.
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Churn {
    pub(crate) fn begin(stage: &Stage, clients: u64, seed: u64) -> Churn {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |n| tokio::spawn(churn(stage.url(), stop.clone(), seed * 100 + n));
        Churn { clients: (0..clients).map(client).collect(), stop }
    }

    /// How many statements were acknowledged.
    pub(crate) async fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        let mut done = 0;
        for client in self.clients {
            done += client.await.expect("no panics in it");
        }
        done
    }
}

async fn churn(url: String, stop: Arc<AtomicBool>, seed: u64) -> u64 {
    let (mut dice, mut done) = (Dice(seed), 0);
    'connect: while !stop.load(Relaxed) {
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(connection);
        while !stop.load(Relaxed) {
            match client.batch_execute(&statement(&mut dice)).await {
                Ok(()) => done += 1,
                // The server's word: a duplicate, a row that is pointed at.
                Err(error) if error.code().is_some_and(|code| code.code().starts_with("23")) => (),
                Err(error) if error.code().is_some_and(|code| code.code() == "40P01") => (),
                Err(_) => continue 'connect,
            }
        }
    }
    done
}

fn statement(dice: &mut Dice) -> String {
    let (id, small) = (1 + dice.below(21_000), 1 + dice.below(3_000));
    match dice.below(12) {
        0..3 => format!("UPDATE plain SET v = 'changed {small}' WHERE id = {id}"),
        3 => format!("DELETE FROM plain WHERE id = {id}"),
        4 => format!("INSERT INTO plain VALUES ({id}, 'again') ON CONFLICT (id) DO UPDATE SET v = 'met'"),
        5 => format!("UPDATE plain SET id = id + 100000 WHERE id = {id}"),
        6 => format!("DELETE FROM named WHERE name = 'name ' || md5('{small}')"),
        // By the whole key: what is re-keyed by a condition is dirty before PostgreSQL 18.
        7 => format!("UPDATE parts SET region = 'b' WHERE id = {small} AND region = 'a'"),
        8 => format!("DELETE FROM parent WHERE id = {}", small / 6),
        9 => format!("INSERT INTO parent VALUES ({}, 'again') ON CONFLICT DO NOTHING", small / 6),
        10 => format!("BEGIN; UPDATE pairs SET v = '{{}}' WHERE a = {}; ROLLBACK", small % 50),
        _ => format!("UPDATE pairs SET b = '{:032x}' WHERE a = {} AND b = '{small:032x}'", small + 9_000, small % 50),
    }
}

/// Of a request: all of [`TABLES`].
pub(crate) fn public() -> Value {
    json!({ "tables": TABLES.iter().map(|name| format!("public.{name}")).collect::<Vec<_>>() })
}
