//! One schema change, repeated on the secondary under the settings that it was made under; whether it was done before, and what
//! a refusal means.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::protocol::postgres::client::{self, Client, Format, Param};
use crate::protocol::postgres::schema_change::{self, Manner, SETTINGS};
use crate::record::TableId;

use super::trouble::{LOCKED, Trouble};
use super::{change, piece};

/// The SQLSTATEs of a schema change that was done already: what it makes is there.
const THERE_ALREADY: &[&str] = &["42P07", "42701", "42710", "42P06", "42723", "42P16"];
/// And what it drops, or calls otherwise, is not.
const GONE_ALREADY: &[&str] = &["42P01", "42703", "42704", "42883"];
/// Of those, what a view, a type, a function and their like are made of, if it is not there, or does not fit what is.
const UNMADE: &[&str] = &["42P16", "42P01", "42703", "42704", "42883"];
/// Done already if something in it was to be dropped.
const NO_SCHEMA: &str = "3F000";

/// Repeat one schema change: a varint length and the search path it was made under, then its text. What the secondary
/// refuses for good is told; what only a lock is in the way of, or a server that takes no writes, comes again.
pub(super) async fn repeat(conn: &mut Client, table: TableId, body: &[u8]) -> Result<Result<Done, Refusal>, Trouble> {
    let Some((manner, sql)) = schema_change::decode(body) else {
        return Ok(Err(Refusal { code: String::new(), why: "the record's schema change is malformed".into() }));
    };
    conn.simple("SAVEPOINT tandem_ddl").await.map_err(Trouble::Secondary)?;
    let done = match read_under(conn, &manner).await {
        Ok(()) => conn.simple(&without_concurrently(sql)).await.map(drop),
        Err(error) => Err(error),
    };
    let why = match done {
        Ok(()) => return Ok(Ok(Done::Now)),
        Err(client::Error::Db(error)) => error,
        Err(error) => return Err(Trouble::Secondary(error)),
    };
    if why.code == LOCKED {
        return Err(Trouble::Behind(table, change::words(body)));
    }
    // Of a server that takes no writes, and of its state. All else is a refusal: one that came again for ever would hold up
    // all tables.
    let passes = why.code == "25006";
    // A library that the server has not.
    let is_absent = why.code == "58P01";
    if passes || !is_absent && ["08", "40", "53", "57", "58", "XX"].iter().any(|class| why.code.starts_with(class)) {
        return Err(Trouble::Secondary(client::Error::Db(why)));
    }
    conn.simple("ROLLBACK TO tandem_ddl").await.map_err(Trouble::Secondary)?;
    if why.code == "22023"
        && let Some(labeled) = change::Labeled::of(sql)
    {
        read_under(conn, &manner).await.map_err(Trouble::Secondary)?;
        if labeled.is_done(&labeled.labels(conn).await.map_err(Trouble::Secondary)?) {
            return Ok(Ok(Done::Before));
        }
    }
    let drops = sql.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("drop"));
    let says = |codes: &[&str]| codes.contains(&why.code.as_str());
    let unmade = table == TableId::NONE
        && (change::makes(sql) && says(UNMADE) || change::only_alters(sql) && says(GONE_ALREADY));
    let is_done = (says(THERE_ALREADY) || says(GONE_ALREADY)) && !unmade || drops && why.code == NO_SCHEMA;
    Ok(if is_done { Ok(Done::Before) } else { Err(Refusal { code: why.code.clone(), why: why.to_string() }) })
}

/// When a schema change happened on the secondary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Now,
    /// What it makes is there, or what it drops is not.
    Before,
}

/// Why the secondary does not take a schema change.
pub(super) struct Refusal {
    /// The SQLSTATE; empty if it was not asked.
    pub(super) code: String,
    pub(super) why: String,
}

impl Refusal {
    /// With other rows it would be taken. What is wrong with a parameter is of no row.
    pub(super) fn is_of_rows(&self) -> bool {
        self.code.starts_with("23") || self.code.starts_with("22") && self.code != "22023"
    }
}

/// CONCURRENTLY cannot run inside a transaction, and ours locks nobody out but readers of the secondary: the change is
/// repeated without the word. It is reserved, so nothing else is spelt like it without quotes. Materialized views are
/// the exception: they may be refreshed so anywhere. Nor is there anything to FINALIZE then: it is a DETACH like any other.
fn without_concurrently(sql: &str) -> Cow<'_, str> {
    use pg_query::protobuf::Token;
    let Ok(scanned) = pg_query::scan(sql) else { return Cow::Borrowed(sql) };
    if scanned.tokens.iter().any(|token| token.token == Token::Materialized as i32) {
        return Cow::Borrowed(sql);
    }
    let mut kept = Cow::Borrowed(sql);
    for token in scanned.tokens.iter().rev().filter(|token| token.token == Token::Concurrently as i32) {
        let range = usize::try_from(token.start).unwrap_or(0)..usize::try_from(token.end).unwrap_or(0);
        if kept.get(range.clone()).is_some() {
            kept.to_mut().replace_range(range, " ");
        }
    }
    match kept.trim_end().rsplit_once(char::is_whitespace) {
        Some((start, last)) if last.trim_end_matches(';').eq_ignore_ascii_case("finalize") && piece::finalizes(sql) => {
            start.to_owned().into()
        }
        _ => kept,
    }
}

/// What follows in the transaction is read under these settings.
pub(super) async fn read_under(conn: &mut Client, manner: &Manner<'_>) -> Result<(), client::Error> {
    let mut sql = "SELECT pg_catalog.set_config('search_path', $1, true)".to_owned();
    for (at, (name, _)) in SETTINGS.iter().enumerate() {
        let _ = write!(sql, ", pg_catalog.set_config('{name}', ${}, true)", at + 2);
    }
    let values: Vec<_> = [manner.path].into_iter().chain(manner.values).map(Param::text).collect();
    conn.query(&sql, &values, Format::Text).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_changes_are_repeated_without_concurrently() {
        for (sql, expected) in [
            ("CREATE UNIQUE INDEX concurrently i ON t (a)", "CREATE UNIQUE INDEX   i ON t (a)"),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p  "),
            ("alter table t detach partition finalize  Finalize; ", "alter table t detach partition finalize "),
            ("ALTER TABLE t DETACH PARTITION finalize", ""),
            ("CREATE INDEX \"CONCURRENTLY\" ON t (ü) /* CONCURRENTLY */", ""),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", ""),
        ] {
            assert_eq!(without_concurrently(sql), if expected.is_empty() { sql } else { expected });
        }
    }
}
