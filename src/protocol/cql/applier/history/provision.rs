//! Making on the secondary what it lacks: keyspaces, types and tables before the copy, indexes and materialized views behind it.
//!
//! Both schemas are read whole and compared; what an earlier attempt made, or somebody by hand, is left alone. Options that
//! the secondary's version does not know are left out. A view that the secondary makes for nobody
//! is named with its statement, and is no failure: all rows are there without it. Not made: functions, aggregates, triggers,
//! column masks, roles and grants, and tables of the old storage format, which are named.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::{Defined, Definitions, Index, Keyspace, Map, Missing, Name, VIEW, View, literal, map};
use super::{of_primary, of_secondary};
use crate::backfill::Request;
use crate::backfill::work::Stage;
use crate::mirror::replay::history::{Error, Provisioned};
use crate::protocol::cql::applier::Sides;
use crate::protocol::cql::applier::trouble::Trouble;
use crate::protocol::cql::client::{self, Client};
use crate::protocol::cql::cluster::fields::{Fields, Named};
use crate::protocol::cql::tables::is_own;
use crate::protocol::cql::text::schema::{Column, Table};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;

/// Rows of a page.
const PAGE: i32 = 1_000;

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

/// What a server says that makes no views for anybody, as versions from 4.0 on do unless they are told otherwise.
const NO_VIEWS: &str = "views are disabled";
/// What is to be done about it, before the statement.
const ENABLE: &str = "set materialized_views_enabled: true in cassandra.yaml there, restart, and run";

/// What could not be made, for people.
pub(super) async fn provision(sides: &Sides, request: &Request, stage: Stage) -> Result<Provisioned, Error> {
    let here = load(&sides.to_primary).await.map_err(of_primary)?;
    let there = load(&sides.to_secondary).await.map_err(of_secondary)?;
    let replication = request.replication.as_deref();
    let missing = here.lacking(&there, |name| request.names(name, None), stage, replication);
    if missing.is_empty() {
        return Ok(Provisioned::default());
    }
    let provisioned = make(&sides.to_secondary, missing).await?;
    sides.secondary.agreed().await.map_err(of_secondary)?;
    sides.secondary.refresh().await;
    Ok(provisioned)
}

/// What cannot be made takes with it what would be in it.
async fn make(client: &Client, missing: Vec<Missing>) -> Result<Provisioned, Error> {
    let (mut made, mut without) = (Provisioned::default(), BTreeSet::new());
    for Missing { what, keyspace, text } in missing {
        if without.contains(&keyspace) {
            continue;
        }
        let Err(why) = make_one(client, &text).await? else {
            // Of a keyspace it is worth knowing where its replicas are.
            tracing::info!(
                what,
                text = text.ok().filter(|_| what.starts_with("keyspace")),
                "history: made on the target"
            );
            continue;
        };
        if what.starts_with("keyspace") {
            without.insert(keyspace);
        }
        match text {
            Ok(text) if what.starts_with(VIEW) && why.contains(NO_VIEWS) => {
                tracing::warn!(what, text, "history: the target makes no materialized views");
                made.lacks.push(format!("{what}: {ENABLE}: {text}"));
            }
            _ => made.unmade.push(format!("{what}: {why}")),
        }
    }
    Ok(made)
}

/// Made, or why it will never be.
async fn make_one(client: &Client, text: &Result<String, String>) -> Result<Result<(), String>, Error> {
    let text = match text {
        Ok(text) => text,
        Err(why) => return Ok(Err(why.clone())),
    };
    match client.query(text, &Parameters::new(Consistency::One)).await {
        Ok(_) => Ok(Ok(())),
        Err(error) => match Trouble::of_secondary(&error) {
            Trouble::Reject(why) | Trouble::Listed(why) => Ok(Err(why)),
            Trouble::Retry(_) | Trouble::Away(_) | Trouble::Lost(_) => Err(of_secondary(error)),
        },
    }
}

pub(in crate::protocol::cql::applier) async fn load(client: &Client) -> Result<Definitions, client::Error> {
    let mut all = Definitions::default();
    each(client, "SELECT * FROM system_schema.keyspaces", |row, keyspace| {
        let durable = row.cell("durable_writes") != Some(&[0]);
        all.keyspaces.insert(keyspace, Keyspace { replication: owned(row.pairs("replication")), durable });
    })
    .await?;
    each(client, "SELECT * FROM system_schema.types", |row, keyspace| {
        let fields = row.texts("field_names").into_iter().zip(row.texts("field_types")).collect();
        all.types.insert((keyspace, text(row, "type_name")), owned(fields));
    })
    .await?;
    let mut columns: BTreeMap<Name, Vec<Column>> = BTreeMap::new();
    let mut turned: BTreeMap<Name, BTreeSet<String>> = BTreeMap::new();
    each(client, "SELECT * FROM system_schema.columns", |row, keyspace| {
        let (table, name) = ((keyspace, text(row, "table_name")), text(row, "column_name"));
        let position = row.int("position").unwrap_or_default();
        let column = Column::described(&name, &text(row, "kind"), position, &text(row, "type"));
        if row.text("clustering_order") == Some("desc") {
            turned.entry(table.clone()).or_default().insert(name);
        }
        columns.entry(table).or_default().push(column);
    })
    .await?;
    each(client, "SELECT * FROM system_schema.tables", |row, keyspace| {
        let name = (keyspace, text(row, "table_name"));
        let is_compact = !row.texts("flags").contains(&"compound");
        all.tables.insert(name.clone(), Defined { is_compact, ..defined(row, name, &mut columns, &mut turned) });
    })
    .await?;
    each(client, "SELECT * FROM system_schema.views", |row, keyspace| {
        let name = (keyspace, text(row, "view_name"));
        let mut defined = defined(row, name.clone(), &mut columns, &mut turned);
        // Rows of a view live as long as those that they are of.
        defined.options.retain(|(option, _)| option != "default_time_to_live");
        let (base, condition) = (text(row, "base_table_name"), text(row, "where_clause"));
        let has_all_columns = row.cell("include_all_columns") == Some(&[1]);
        all.views.insert(name, View { defined, base, condition, has_all_columns });
    })
    .await?;
    each(client, "SELECT * FROM system_schema.indexes", |row, keyspace| {
        let index = Index { kind: text(row, "kind"), options: owned(row.pairs("options")) };
        all.indexes.insert(((keyspace, text(row, "table_name")), text(row, "index_name")), index);
    })
    .await?;
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
async fn each(client: &Client, asked: &str, mut row: impl FnMut(&Fields<'_, '_>, String)) -> Result<(), client::Error> {
    for page in client.pages(asked, &Parameters { page_size: Some(PAGE), ..one() }).await? {
        for fields in Named::of(&page)?.iter() {
            let fields = fields?;
            if let Some(keyspace) = fields.text("keyspace_name").filter(|keyspace| !is_own(keyspace)) {
                row(&fields, keyspace.to_owned());
            }
        }
    }
    Ok(())
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

async fn known_options(client: &Client) -> Result<BTreeSet<String>, client::Error> {
    const TEXT: &str = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = 'system_schema' \
                        AND table_name = 'tables'";
    names(client, TEXT, "column_name").await
}

async fn datacenters(client: &Client) -> Result<BTreeSet<String>, client::Error> {
    let mut all = names(client, "SELECT data_center FROM system.local", "data_center").await?;
    all.extend(names(client, "SELECT data_center FROM system.peers", "data_center").await?);
    Ok(all)
}

async fn names(client: &Client, asked: &str, column: &str) -> Result<BTreeSet<String>, client::Error> {
    let mut names = BTreeSet::new();
    for page in client.pages(asked, &Parameters { page_size: Some(PAGE), ..one() }).await? {
        for fields in Named::of(&page)?.iter() {
            names.extend(fields?.text(column).map(str::to_owned));
        }
    }
    Ok(names)
}

fn text(row: &Fields<'_, '_>, name: &str) -> String {
    row.text(name).unwrap_or_default().to_owned()
}

fn owned(entries: Vec<(&str, &str)>) -> Map {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn one() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}
