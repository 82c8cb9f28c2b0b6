//! Reading it. Not at one moment: what changes meanwhile is found half, and found again with the next look.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::cluster::fields::Fields;
use crate::protocol::cql::cluster::{column, each};
use crate::protocol::cql::tables::is_own;
use crate::protocol::cql::text::schema::{Column, Table};
use crate::protocol::cql::wire::response::code;

use super::{Defined, Definitions, Index, Keyspace, Map, Name, View, literal, map};

/// What of a table's options a statement may say: numbers, texts and maps of texts. Others are the server's own.
const NUMBERS: [&str; 7] = [
    "crc_check_chance",
    "default_time_to_live",
    "gc_grace_seconds",
    "max_index_interval",
    "memtable_flush_period_in_ms",
    "min_index_interval",
    "bloom_filter_fp_chance",
];
const TEXTS: [&str; 5] = ["comment", "speculative_retry", "additional_write_policy", "read_repair", "memtable"];
const MAPS: [&str; 3] = ["caching", "compaction", "compression"];

/// All that clients have there.
///
/// # Errors
/// The node does not answer.
pub(in crate::protocol::cql) async fn load(client: &Client) -> Result<Definitions, Error> {
    let mut all = Definitions::default();
    theirs(client, "SELECT * FROM system_schema.keyspaces", |row, keyspace| {
        let durable = row.cell("durable_writes") != Some(&[0]);
        all.keyspaces.insert(keyspace, Keyspace { replication: owned(row.pairs("replication")), durable });
    })
    .await?;
    theirs(client, "SELECT * FROM system_schema.types", |row, keyspace| {
        let fields = row.texts("field_names").into_iter().zip(row.texts("field_types")).collect();
        all.types.insert((keyspace, text(row, "type_name")), owned(fields));
    })
    .await?;
    let mut columns: BTreeMap<Name, Vec<Column>> = BTreeMap::new();
    let mut turned: BTreeMap<Name, BTreeSet<String>> = BTreeMap::new();
    theirs(client, "SELECT * FROM system_schema.columns", |row, keyspace| {
        let (table, Some(column)) = ((keyspace, text(row, "table_name")), column(row)) else { return };
        if row.text("clustering_order") == Some("desc") {
            turned.entry(table.clone()).or_default().insert(column.name.clone());
        }
        columns.entry(table).or_default().push(column);
    })
    .await?;
    theirs(client, "SELECT * FROM system_schema.tables", |row, keyspace| {
        let name = (keyspace, text(row, "table_name"));
        let is_compact = !row.texts("flags").contains(&"compound");
        all.tables.insert(name.clone(), Defined { is_compact, ..defined(row, name, &mut columns, &mut turned) });
    })
    .await?;
    theirs(client, "SELECT * FROM system_schema.views", |row, keyspace| {
        let name = (keyspace, text(row, "view_name"));
        let mut defined = defined(row, name.clone(), &mut columns, &mut turned);
        // Rows of a view live as long as those that they are of.
        defined.options.retain(|(option, _)| option != "default_time_to_live");
        let (base, condition) = (text(row, "base_table_name"), text(row, "where_clause"));
        let has_all_columns = row.cell("include_all_columns") == Some(&[1]);
        all.views.insert(name, View { defined, base, condition, has_all_columns });
    })
    .await?;
    theirs(client, "SELECT * FROM system_schema.indexes", |row, keyspace| {
        let index = Index { kind: text(row, "kind"), options: owned(row.pairs("options")) };
        all.indexes.insert(((keyspace, text(row, "table_name")), text(row, "index_name")), index);
    })
    .await?;
    let triggers = theirs(client, "SELECT * FROM system_schema.triggers", |row, keyspace| {
        all.triggers.insert(((keyspace, text(row, "table_name")), text(row, "trigger_name")));
    });
    match triggers.await {
        // What knows no triggers has none.
        Err(error) if error.code() == Some(code::INVALID) => {}
        known => known?,
    }
    all.options = known_options(client).await?;
    all.datacenters = datacenters(client).await?;
    Ok(all)
}

/// A table or a view, of its row and what is known of its columns.
fn defined(
    row: &Fields<'_, '_>,
    name: Name,
    columns: &mut BTreeMap<Name, Vec<Column>>,
    turned: &mut BTreeMap<Name, BTreeSet<String>>,
) -> Defined {
    let shape = Table::new(&name.0, &name.1, columns.remove(&name).unwrap_or_default());
    let descending = turned.remove(&name).unwrap_or_default();
    Defined { shape, descending, options: options(row), is_compact: false }
}

/// Rows that are of a keyspace of clients'.
async fn theirs(client: &Client, asked: &str, mut row: impl FnMut(&Fields<'_, '_>, String)) -> Result<(), Error> {
    each(client, asked, |fields| {
        if let Some(keyspace) = fields.text("keyspace_name").filter(|keyspace| !is_own(keyspace)) {
            row(fields, keyspace.to_owned());
        }
    })
    .await
}

fn options(row: &Fields<'_, '_>) -> Vec<(String, String)> {
    row.given().filter_map(|(name, bytes)| Some((name.to_owned(), option(row, name, bytes)?))).collect()
}

/// An option's value as a statement has it.
fn option(row: &Fields<'_, '_>, name: &str, bytes: &[u8]) -> Option<String> {
    match name {
        // What is off may not be said where the feature is not there.
        "cdc" => (bytes == [1]).then(|| "true".to_owned()),
        _ if NUMBERS.contains(&name) => number(bytes),
        _ if TEXTS.contains(&name) => row.text(name).map(literal),
        _ if MAPS.contains(&name) => Some(map(&owned(row.pairs(name)))),
        _ => None,
    }
}

/// An int or a double, by its length.
fn number(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        8 => Some(f64::from_be_bytes(bytes.try_into().ok()?).to_string()),
        _ => None,
    }
}

async fn known_options(client: &Client) -> Result<BTreeSet<String>, Error> {
    const TEXT: &str = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = 'system_schema' \
                        AND table_name = 'tables'";
    names(client, TEXT, "column_name").await
}

async fn datacenters(client: &Client) -> Result<BTreeSet<String>, Error> {
    let mut all = names(client, "SELECT data_center FROM system.local", "data_center").await?;
    all.extend(names(client, "SELECT data_center FROM system.peers", "data_center").await?);
    Ok(all)
}

async fn names(client: &Client, asked: &str, column: &str) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    each(client, asked, |row| names.extend(row.text(column).map(str::to_owned))).await?;
    Ok(names)
}

fn text(row: &Fields<'_, '_>, name: &str) -> String {
    row.text(name).unwrap_or_default().to_owned()
}

fn owned(entries: Vec<(&str, &str)>) -> Map {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
