//! The way back, proven before there is a need for it: after the flip `to`'s writes are mirrored to `from`, and a
//! rollback loses nothing only if that works from the first one on.
//!
//! Clients write to `from` while we look, so no row of theirs may be touched. What is done instead is as near to a
//! payment as can be undone without a trace:
//!
//! - The applier's own tables are made on `from`, or written to where they are there, with both of its locks held; all
//!   of it is rolled back.
//! - The very statements of a payment are planned for every table, by the roles that will run them: reading on `to`,
//!   deleting and writing on `from`. `EXPLAIN` checks privileges, row security, columns, types and operators as running
//!   them does, and fires no trigger.
//! - A value is committed on `to`, read there, committed on `from`, and read back: both take writes, durably, and what
//!   arrives is what was sent. Its table is in the schema `tandem` and dropped again; one that a crash left is replaced
//!   the next time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::{Finding, Rule};
use crate::cutover::steps;
use crate::protocol::postgres::client::{self, Client, Format, ServerConfig};
use crate::protocol::postgres::copier::debt::Arrays;
use crate::protocol::postgres::copier::schema::{Home, Pair, Schema, operator_schemas};
use crate::protocol::postgres::copier::{LOCK_APPLIER, LOCK_CLASS, LOCK_WRITERS, STORE, STORE_IS_THERE};
use crate::protocol::postgres::logins::Logins;
use crate::protocol::postgres::scope::Scope;
use crate::record::Side;

use super::{Bounds, Error, SCHEMA, connect, literal, mark, rules, together};

/// Tables that are asked about at once: their statements fit any socket's buffers.
const TABLES_AT_ONCE: usize = 20;

/// Prove the way from `new`, which shall be the primary, back to `old`, which is it and is the side `from`. What does
/// not work is a finding. `scope` is that of the mirror back.
///
/// # Errors
/// A side that does not answer.
pub async fn prove(
    from: Side,
    old_server: &ServerConfig,
    new: &ServerConfig,
    (scope, bounds): (&Scope, Bounds),
) -> Result<Vec<Finding>, steps::Error> {
    let (old, new) = tokio::join!(connect(old_server, bounds), connect(new, bounds));
    let mut old = old.map_err(|error| Error::from(error).on(from))?;
    let mut new = new.map_err(|error| Error::from(error).on(from.other()))?;
    let journal = old_server.logins.as_ref().map(Logins::journal);
    let mut found = store(from, journal, &mut old).await.map_err(|error| Error::from(error).on(from))?;
    found.extend(tables(from, scope, &mut old, &mut new).await?);
    if found.iter().all(|found| found.rule != rules::REVERSE_STORE) {
        found.extend(probe(from, &mut old, &mut new).await?);
    }
    old.close().await;
    new.close().await;
    Ok(found)
}

fn finding(rule: &'static Rule, side: Side, object: impl Into<String>) -> Finding {
    Finding { rule, side: Some(side), object: object.into() }
}

/// What an applier does first on its secondary, in a transaction that is rolled back.
async fn store(from: Side, journal: Option<u64>, old: &mut Client) -> Result<Vec<Finding>, client::Error> {
    let there = old.simple(STORE_IS_THERE).await?;
    let there = there.first().ok_or(client::Error::Value(0))?.bool(0)?;
    let store = if there { "SELECT" } else { STORE };
    let lock = |number| format!("pg_catalog.pg_try_advisory_xact_lock({LOCK_CLASS}, {number})");
    let (applier, writers) = (lock(LOCK_APPLIER), lock(LOCK_WRITERS));
    let tried =
        old.simple(&format!("BEGIN; {store}; UPDATE tandem.payment SET n = n; SELECT {applier}, {writers}")).await;
    old.simple("ROLLBACK").await?;
    match tried {
        Ok(rows) => {
            let locks = rows.last().ok_or(client::Error::Value(0))?;
            let held = !(locks.bool(0)? && locks.bool(1)?);
            let held = held.then(|| "advisory locks".to_owned());
            let marked = mark::other(old, journal).await?;
            Ok(held.into_iter().chain(marked).map(|why| finding(rules::REVERSE_FENCED, from, why)).collect())
        }
        Err(client::Error::Db(error)) => Ok(vec![finding(rules::REVERSE_STORE, from, error.to_string())]),
        Err(error) => Err(error),
    }
}

/// Every table that both sides have.
async fn tables(from: Side, scope: &Scope, old: &mut Client, new: &mut Client) -> Result<Vec<Finding>, steps::Error> {
    let on_old = |error: Error| error.on(from);
    let on_new = |error: Error| error.on(from.other());
    let mut schema = Schema::new().within(scope.clone());
    schema.load_primary(new).await.map_err(Error::from).map_err(on_new)?;
    schema.load_secondary(old).await.map_err(Error::from).map_err(on_old)?;
    for (conn, side) in [(&mut *old, from), (&mut *new, from.other())] {
        find_operators(conn).await.map_err(|error| Error::from(error).on(side))?;
    }
    let (pairs, mut found) = pairs(from, &mut schema);
    for pairs in pairs.chunks(TABLES_AT_ONCE) {
        let read = |pair: &Pair| vec![(pair.read_sql(), Arrays::of(pair, &[]))];
        let write = |pair: &Pair| vec![(pair.delete_sql(), Arrays::of(pair, &[])), (pair.insert_sql(), Arrays::none())];
        let (reading, writing) = tokio::join!(refused(new, pairs, read), refused(old, pairs, write));
        let told = |side| move |why| finding(rules::REVERSE_TABLE, side, why);
        found.extend(reading.map_err(Error::from).map_err(on_new)?.into_iter().map(told(from.other())));
        found.extend(writing.map_err(Error::from).map_err(on_old)?.into_iter().map(told(from)));
    }
    Ok(found)
}

/// Keys of some types are compared by operators of extensions.
async fn find_operators(conn: &mut Client) -> Result<(), client::Error> {
    let schemas = operator_schemas(conn).await?;
    match schemas.is_empty() {
        true => Ok(()),
        false => conn.simple(&format!("SET search_path = {}", schemas.join(", "))).await.map(drop),
    }
}

/// The tables as they would be paid. One without a key is not mirrored either way, and a finding elsewhere.
fn pairs(from: Side, schema: &mut Schema) -> (Vec<Arc<Pair>>, Vec<Finding>) {
    let both = |id| schema.secondary.by_id.contains_key(&id);
    let tables = schema.primary.tables().filter(|table| table.key.is_some()).map(|table| table.id);
    let tables: Vec<_> = tables.filter(|id| both(*id)).collect();
    let (mut pairs, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for id in tables {
        match schema.home(id) {
            Home::Nowhere => (),
            Home::Pair(pair, _) => drop(pairs.insert(pair.id.0, pair)),
            Home::Refused(name, why) => drop(refused.insert(name, why)),
        }
    }
    let refused = refused.into_iter().map(|(name, why)| {
        // The mirror's words for the sides are those after the switch: who reads this is before it.
        let why = why.replace("on the secondary", "on the old primary").replace("on the primary", "on the new primary");
        finding(rules::REVERSE_TABLE, from, format!("{name}: {why}"))
    });
    (pairs.into_values().collect(), refused.collect())
}

/// The tables of which a server will not even plan these statements, and why.
async fn refused(
    conn: &mut Client,
    pairs: &[Arc<Pair>],
    statements: impl Fn(&Pair) -> Vec<(String, Arrays)>,
) -> Result<Vec<String>, client::Error> {
    let mut asked = Vec::new();
    for pair in pairs {
        for (sql, arrays) in statements(pair) {
            conn.put_statement(&format!("EXPLAIN {sql}"), &arrays.params(), Format::Text);
            conn.put_sync();
            asked.push(pair);
        }
    }
    conn.send().await?;
    let mut found = Vec::new();
    for pair in asked {
        match conn.finish().await {
            Ok(()) => (),
            Err(client::Error::Db(error)) => found.push(format!("{}: {error}", pair.primary.sql())),
            Err(error) => return Err(error),
        }
    }
    found.dedup_by(|one, other| one == other);
    Ok(found)
}

/// A value goes the way that rows will go.
async fn probe(from: Side, old: &mut Client, new: &mut Client) -> Result<Option<Finding>, steps::Error> {
    // What encodings and quoting could spoil, and what nobody has written before.
    let sent = format!("\u{e9}\u{20ac} '\\\t\" {}/{}", old.pid(), new.pid());
    let refused = |side: Side| {
        move |error: client::Error| match error {
            client::Error::Db(error) => Ok(Some(finding(rules::REVERSE_STORE, side, error.to_string()))),
            other => Err(Error::from(other).on(side)),
        }
    };
    let read = match pass(new, &sent).await {
        Ok(read) => read,
        Err(error) => return refused(from.other())(error),
    };
    match pass(old, &read).await {
        Ok(arrived) if arrived == sent => Ok(None),
        Ok(_) => Ok(Some(finding(rules::REVERSE_LOST, from, "tandem.probe"))),
        Err(error) => refused(from)(error),
    }
}

/// Commit a value, read it, and leave nothing behind.
async fn pass(conn: &mut Client, value: &str) -> Result<String, client::Error> {
    let rows = conn.simple("SELECT pg_catalog.to_regnamespace('tandem') IS NULL").await?;
    let alone = rows.first().ok_or(client::Error::Value(0))?.bool(0)?;
    let write = [
        SCHEMA.to_owned(),
        "DROP TABLE IF EXISTS tandem.probe".to_owned(),
        "CREATE TABLE tandem.probe (value text)".to_owned(),
        format!("INSERT INTO tandem.probe VALUES ({})", literal(value)),
    ];
    together(conn, &write).await?;
    let rows = conn.simple("SELECT value FROM tandem.probe").await?;
    let schema = alone.then(|| "DROP SCHEMA tandem".to_owned());
    let remove: Vec<_> = std::iter::once("DROP TABLE tandem.probe".to_owned()).chain(schema).collect();
    together(conn, &remove).await?;
    rows.first().ok_or(client::Error::Value(0))?.string(0)
}
