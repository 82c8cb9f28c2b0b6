//! The demo's tables: integer, serial, text, uuid and composite keys, a cascade, and the bank of TPC-B.

use super::Failure;
use super::stage::reach;
use crate::protocol::postgres::client::ServerConfig;

/// Rows of the bank.
pub(super) const ACCOUNTS: u64 = 10_000;
/// Rows of the bank.
pub(super) const TELLERS: u64 = 100;
/// Rows of the bank.
pub(super) const BRANCHES: u64 = 10;

/// Every table and its key's columns.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("branches", "bid"),
    ("tellers", "tid"),
    ("accounts", "aid"),
    ("history", "id"),
    ("notes", "name"),
    ("devices", "id"),
    ("orders", "id"),
    ("order_lines", "order_id, line"),
];

const TABLES_SQL: &str = "
CREATE TABLE branches (bid int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE tellers (tid int PRIMARY KEY, bid int NOT NULL REFERENCES branches, balance bigint NOT NULL);
CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL REFERENCES branches, balance bigint NOT NULL, filler text);
CREATE TABLE history (
  id bigserial PRIMARY KEY, client int NOT NULL, seq int NOT NULL, tid int NOT NULL, aid int NOT NULL,
  delta bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(), UNIQUE (client, seq));
CREATE TABLE notes (name text PRIMARY KEY, version bigint NOT NULL, body text NOT NULL, rnd float8 DEFAULT random());
CREATE TABLE devices (id uuid PRIMARY KEY, version bigint NOT NULL, tags text[] NOT NULL, seen timestamptz DEFAULT now());
CREATE TABLE orders (id bigint PRIMARY KEY, version bigint NOT NULL, total numeric NOT NULL DEFAULT 0);
CREATE TABLE order_lines (
  order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, line int NOT NULL, what jsonb NOT NULL,
  PRIMARY KEY (order_id, line));
";

/// Create and fill the database `app`. There is no backfill in the demo: both sides begin equal.
pub(super) async fn create(config: &ServerConfig) -> Result<(), Failure> {
    let maintenance = ServerConfig { database: "postgres".to_owned(), ..config.clone() };
    reach(&maintenance).await?.simple("CREATE DATABASE app").await?;
    let mut client = reach(config).await?;
    client.simple(TABLES_SQL).await?;
    client.simple(&rows()).await?;
    Ok(())
}

fn rows() -> String {
    format!(
        "INSERT INTO branches SELECT n, 0 FROM generate_series(1, {BRANCHES}) n;
         INSERT INTO tellers SELECT n, 1 + n % {BRANCHES}, 0 FROM generate_series(1, {TELLERS}) n;
         INSERT INTO accounts SELECT n, 1 + n % {BRANCHES}, 0, repeat('x', 84) FROM generate_series(1, {ACCOUNTS}) n;"
    )
}
