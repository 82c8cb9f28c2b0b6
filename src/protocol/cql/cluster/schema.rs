//! Reading a cluster's schema.
//!
//! The tables are Cassandra's since 3.0. A materialized view is none of `system_schema.tables`: its rows are its table's, and nobody
//! writes, copies or compares them. The tables are read in several pages, while somebody may change them: the look counts
//! only if the node's schema version was the same before and after it.

use std::collections::HashMap;

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::tables::{Table, is_own};
use crate::protocol::cql::text::schema::{self, Column};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;

use super::fields::{Fields, Named};

/// Rows of a page.
const PAGE: i32 = 1_000;
/// How often a schema that changes while it is read is read again; then what was read has to do until the next event.
const LOOKS: usize = 5;

const TABLES: &str =
    "SELECT keyspace_name, table_name, id, gc_grace_seconds, default_time_to_live FROM system_schema.tables";
const COLUMNS: &str = "SELECT keyspace_name, table_name, column_name, kind, position, type FROM system_schema.columns";

/// The node's schema version.
pub(super) async fn version(client: &Client) -> Result<[u8; 16], Error> {
    let answer = client.query("SELECT schema_version FROM system.local", &one()).await?;
    let version = Named::of(&answer)?.first()?.uuid("schema_version");
    version.ok_or(Error::Answer("the node says no schema version"))
}

/// All tables that are clients', and the schema version that they are of.
pub(super) async fn load(client: &Client) -> Result<([u8; 16], Vec<Table>), Error> {
    let mut before = version(client).await?;
    for _ in 1..LOOKS {
        let tables = look(client).await?;
        let after = version(client).await?;
        if after == before {
            return Ok((after, tables));
        }
        before = after;
    }
    Ok((before, look(client).await?))
}

async fn look(client: &Client) -> Result<Vec<Table>, Error> {
    let mut columns: HashMap<(String, String), Vec<Column>> = HashMap::new();
    each(client, COLUMNS, |row| {
        let (Some(name), Some(column)) = (name(row), column(row)) else { return };
        columns.entry(name).or_default().push(column);
    })
    .await?;
    let mut tables = Vec::new();
    each(client, TABLES, |row| {
        let (Some((keyspace, table)), Some(id)) = (name(row), row.uuid("id")) else { return };
        // A table that was made between the two questions; the version changed with it.
        let Some(columns) = columns.remove(&(keyspace.clone(), table.clone())) else { return };
        let (grace, ttl) = (row.int("gc_grace_seconds"), row.int("default_time_to_live"));
        let shape = schema::Table::new(&keyspace, &table, columns);
        tables.push(Table::new(shape, id, grace.unwrap_or_default(), ttl.unwrap_or_default()));
    })
    .await?;
    Ok(tables)
}

/// Every row of the answer.
pub(in crate::protocol::cql) async fn each(
    client: &Client,
    text: &str,
    mut row: impl FnMut(&Fields<'_, '_>),
) -> Result<(), Error> {
    for page in client.pages(text, &Parameters { page_size: Some(PAGE), ..one() }).await? {
        Named::of(&page)?.iter().try_for_each(|fields| fields.map(|fields| row(&fields)))?;
    }
    Ok(())
}

fn name(row: &Fields<'_, '_>) -> Option<(String, String)> {
    let keyspace = row.text("keyspace_name").filter(|keyspace| !is_own(keyspace))?;
    Some((keyspace.to_owned(), row.text("table_name")?.to_owned()))
}

/// A row of `system_schema.columns`.
pub(in crate::protocol::cql) fn column(row: &Fields<'_, '_>) -> Option<Column> {
    let position = row.int("position").unwrap_or_default();
    Some(Column::described(row.text("column_name")?, row.text("kind")?, position, row.text("type")?))
}

fn one() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}
