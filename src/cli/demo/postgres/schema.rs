//! The demo's tables: integer, serial, text, uuid and composite keys, a cascade, the bank of TPC-B, and an archive that
//! nobody writes to.

use super::super::Failure;
use super::reach;
use crate::protocol::postgres::client::ServerConfig;

/// Rows of the bank.
pub(super) const ACCOUNTS: u64 = 10_000;
/// Rows of the bank.
pub(super) const TELLERS: u64 = 100;
/// Rows of the bank.
pub(super) const BRANCHES: u64 = 10;

/// Every table and its key's columns.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("archive", "id"),
    ("branches", "bid"),
    ("tellers", "tid"),
    ("accounts", "aid"),
    ("history", "id"),
    ("notes", "name"),
    ("devices", "id"),
    ("orders", "id"),
    ("order_lines", "order_id, line"),
];

/// Tables with rows that belong to one client each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cli::demo) enum Table {
    Notes,
    Devices,
    Orders,
}

impl Table {
    pub(super) const ALL: [Table; 3] = [Table::Notes, Table::Devices, Table::Orders];

    /// Key and version of all rows.
    pub(super) fn query(self) -> &'static str {
        match self {
            Table::Notes => "SELECT name, version FROM notes",
            Table::Devices => "SELECT id, version FROM devices",
            Table::Orders => "SELECT id, version FROM orders",
        }
    }

    /// The version of one row, by its key.
    pub(super) fn look_up(self) -> &'static str {
        match self {
            Table::Notes => "SELECT version FROM notes WHERE name = $1",
            Table::Devices => "SELECT version FROM devices WHERE id = $1",
            Table::Orders => "SELECT version FROM orders WHERE id = $1",
        }
    }
}

const TABLES_SQL: &str = "
CREATE TABLE archive (id bigint PRIMARY KEY, at timestamptz NOT NULL, what text NOT NULL, n numeric);
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

/// A change past tandem to a row that nobody writes.
pub(super) const PLANT: &str = "UPDATE archive SET what = 'planted', n = n + 1 WHERE id = 7";
/// That row.
pub(super) const LOOK: &str = "SELECT id, at, what, n FROM archive WHERE id = 7";

/// Rows that were there before.
pub(super) const ARCHIVED: u64 = 50_000;

/// Create the database `app` and its tables, without a row.
pub(super) async fn create(config: &ServerConfig) -> Result<(), Failure> {
    let maintenance = ServerConfig { database: "postgres".to_owned(), ..config.clone() };
    reach(&maintenance).await?.simple("CREATE DATABASE app").await?;
    let mut client = reach(config).await?;
    client.simple(TABLES_SQL).await?;
    Ok(())
}

/// What was there before the migration began.
pub(super) async fn fill(config: &ServerConfig) -> Result<(), Failure> {
    reach(config).await?.simple(&rows()).await?;
    Ok(())
}

/// How many rows there are, in all tables.
pub(super) async fn count(config: &ServerConfig) -> Result<u64, Failure> {
    let counts = TABLES.iter().map(|(table, _)| format!("(SELECT count(*) FROM {table})")).collect::<Vec<_>>();
    let rows = reach(config).await?.simple(&format!("SELECT {}", counts.join(" + "))).await?;
    rows.first().map_or(Ok(0), |row| Ok(row.parse(0)?))
}

fn rows() -> String {
    format!(
        "INSERT INTO archive SELECT n, timestamptz '2020-01-01 UTC' + n * interval '1 minute', md5(n::text), n / 7.0
         FROM generate_series(1, {ARCHIVED}) n;
         INSERT INTO branches SELECT n, 0 FROM generate_series(1, {BRANCHES}) n;
         INSERT INTO tellers SELECT n, 1 + n % {BRANCHES}, 0 FROM generate_series(1, {TELLERS}) n;
         INSERT INTO accounts SELECT n, 1 + n % {BRANCHES}, 0, repeat('x', 84) FROM generate_series(1, {ACCOUNTS}) n;"
    )
}
