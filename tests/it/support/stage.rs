//! Two servers and tandem between them, the same schema on both sides.

use ::tandem::sandbox::{Installation, Options, Postgres, binaries};

use serde_json::{Value, json};

use super::load::{self, Done, Load};
use super::tandem::Tandem;
use super::{rows, server_with, sql, until};

/// What a test plays on. Dropped, all of it is gone.
pub(crate) struct Stage {
    pub(crate) tandem: Tandem,
    pub(crate) origin: Postgres,
    pub(crate) target: Postgres,
}

impl Stage {
    /// With the schema of the load.
    pub(crate) async fn of_load() -> Stage {
        Stage::new(load::SCHEMA, "", &[]).await
    }

    /// With a schema, more lines for proxy.toml, and settings of the origin.
    pub(crate) async fn new(schema: &str, more: &str, origin_config: &[&str]) -> Stage {
        let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
        Stage::between([&old, &new], schema, more, origin_config).await
    }

    /// The same, of these versions.
    pub(crate) async fn between(
        [origin, target]: [&Installation; 2],
        schema: &str,
        more: &str,
        origin_config: &[&str],
    ) -> Stage {
        let config = origin_config.iter().map(|line| (*line).to_owned()).collect();
        let origin = server_with("origin", origin, &Options { config, ..Options::default() });
        let target = server_with("target", target, &Options::default());
        for server in [&origin, &target] {
            sql(&server.url("postgres"), schema).await;
        }
        let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), more).await;
        Stage { tandem, origin, target }
    }

    /// Through tandem.
    pub(crate) fn url(&self) -> String {
        self.tandem.url("postgres")
    }

    /// A write to `other (id int PRIMARY KEY)` arrives: everything that ended before it is paid.
    pub(crate) async fn write_arrives(&self, id: usize) {
        sql(&self.url(), &format!("INSERT INTO other VALUES ({id})")).await;
        let target = self.target.url("postgres");
        while rows(&target, &format!("SELECT 1 FROM other WHERE id = {id}")).await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Clients begin.
    pub(crate) fn load(&self, clients: u32) -> Load {
        Load::start(&self.url(), 1, clients)
    }

    /// Switch to a side; how it ended. The secondary has caught up first.
    pub(crate) async fn switch(&self, to: &str) -> Value {
        self.tandem.status_is("not behind", |status| status["mirror"]["lag_seconds"].as_f64() < Some(0.5)).await;
        self.ask_switch(&json!({ "to": to })).await
    }

    /// Ask for a switch; how it ended.
    pub(crate) async fn ask_switch(&self, request: &Value) -> Value {
        let client = self.tandem.client();
        // What the last one left is put away behind its end.
        let begun = until(async || match client.post("/v1/switch", request).await {
            Err(error) if error.to_string().contains("(phase undoing)") => None,
            begun => Some(begun),
        });
        let begun = begun.await.unwrap_or_else(|| panic!("it is never undone\n{}", self.tandem.log()));
        let number = begun.unwrap_or_else(|error| panic!("{error}\n{}", self.tandem.log()))["number"].clone();
        let ended = until(async || {
            let report = client.get("/v1/switch").await.expect("it answers");
            (report["last"]["number"] == number).then(|| report["last"].clone())
        });
        ended.await.unwrap_or_else(|| panic!("the switch never ends\n{}", self.tandem.log()))
    }

    /// No walk is under way any more, nor what comes behind it.
    pub(crate) async fn steady(&self) {
        self.phase("steady").await;
    }

    /// The walk has come to this phase.
    pub(crate) async fn phase(&self, phase: &str) {
        let there = until(async || {
            let report = self.tandem.client().get("/v1/switch").await.expect("it answers");
            (report["phase"] == phase).then_some(())
        });
        there.await.unwrap_or_else(|| panic!("never {phase}\n{}", self.tandem.log()));
    }

    /// The secondary has caught up, and all rows of all tables are equal, asked without tandem.
    pub(crate) async fn assert_equal(&self, tables: &[&str]) {
        self.tandem.settled().await;
        for table in tables {
            let query = format!("SET extra_float_digits = 1; SET timezone = 'UTC'; SELECT t::text FROM {table} t");
            let mut sides =
                [rows(&self.origin.url("postgres"), &query).await, rows(&self.target.url("postgres"), &query).await];
            sides.iter_mut().for_each(|side| side.sort_unstable());
            let [origin, target] = sides;
            let lost = origin.iter().find(|row| target.binary_search(row).is_err());
            let extra = target.iter().find(|row| origin.binary_search(row).is_err());
            let counts = (origin.len(), target.len());
            assert!(
                lost.is_none() && extra.is_none() && counts.0 == counts.1,
                "{table} differs: {counts:?} rows, the target misses {lost:?} and has {extra:?}\n{}",
                self.tandem.log()
            );
        }
    }

    /// Both sides are equal, and have what the clients were told.
    pub(crate) async fn assert_kept(&self, done: &Done) {
        assert_eq!((&done.refused, &done.stale), (&Vec::new(), &Vec::new()), "{}", self.tandem.log());
        self.assert_equal(load::TABLES).await;
        for (side, server) in [("origin", &self.origin), ("target", &self.target)] {
            done.memory.assert_kept(side, &server.url("postgres"), load::OWNED).await;
        }
    }
}
