//! UNLOGGED tables: a crash of their server empties them, and nothing of that is in anybody's journal.

use crate::protocol::postgres::client::{Client, Error};
use crate::protocol::postgres::scope::Scope;
use crate::record::TableId;

use super::link::life;

const UNLOGGED: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence = 'u' AND c.relkind = 'r' \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tandem')";

/// Those of the primary that are mirrored.
pub(super) async fn of_primary(conn: &mut Client, scope: &Scope) -> Result<Vec<TableId>, Error> {
    Ok(labels(unlogged(conn).await?, scope))
}

/// Those of the secondary that are mirrored, and its life. It is not asked for that without need: who may not know it, does
/// without.
pub(super) async fn of_secondary(conn: &mut Client, scope: &Scope) -> Result<(Vec<TableId>, u64), Error> {
    let there = unlogged(conn).await?;
    let tables = labels(there.iter().filter_map(|name| scope.here(name)).collect(), scope);
    if tables.is_empty() {
        return Ok((tables, 0));
    }
    match life(conn).await {
        Ok(known) => Ok((tables, known.life)),
        Err(Error::Db(error)) => {
            tracing::warn!(%error, "crashes of the secondary are not noticed: verify its UNLOGGED tables behind one");
            Ok((tables, 0))
        }
        Err(error) => Err(error),
    }
}

async fn unlogged(conn: &mut Client) -> Result<Vec<String>, Error> {
    conn.simple(UNLOGGED).await?.iter().map(|row| row.string(0)).collect()
}

/// Of names in the primary's words.
fn labels(names: Vec<String>, scope: &Scope) -> Vec<TableId> {
    let ours = names.iter().filter(|name| !scope.excludes(name));
    ours.filter_map(|name| name.split_once('.')).map(|(schema, name)| TableId::of(schema, name)).collect()
}
