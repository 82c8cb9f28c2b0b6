//! Schema changes and TRUNCATE: done again on the secondary, and waited for until all of its nodes have them.
//!
//! A schema change that is repeated is refused ("already exists", "not found"): then it is over if the secondary's table
//! fits the primary's, because whatever made it so was this, or comes later in the journal. Of columns: if they are there, or
//! gone, or the primary has it the other way round by now.
//!
//! One in doubt is done if the primary shows that it did it: it has the table or the column, or not; its nodes remember when they
//! emptied a table and when they dropped a column. What it does not show it may still be doing: that is waited for. What shows nothing
//! (options, fields of types) is left to an operator.
//!
//! What is no table ([`objects`]), or only a table's options, holds nothing up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::mirror::replay::{Certainty, Job};
use crate::protocol::cql::client::{Answer, Error};
use crate::protocol::cql::cluster::Cluster;
use crate::protocol::cql::cluster::clock::micros_of;
use crate::protocol::cql::definitions::{Definitions, load};
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::tables::{Table, Tables};
use crate::protocol::cql::text::edit::{self, drop_at};
use crate::protocol::cql::text::schema::{Column, Role};
use crate::protocol::cql::text::statement::{Action, Body, ColumnDrop, Name, Object, Schema};
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{Parameters, Values};
use crate::protocol::cql::wire::response::code;
use crate::protocol::cql::write::Write;
use crate::record::TableId;

use super::Sides;
use super::objects;
use super::quiet::linger;
use super::replay::Texts;
use super::state::rows::elements;
use super::trouble::Trouble;

/// Longer than `truncate_request_timeout`, which is 60 s.
const PATIENCE: Duration = Duration::from_secs(75);
/// A clock is not set by more, in microseconds, while tandem looks at it.
const CLOCK_SET: i64 = 10_000_000;

/// Do what the barrier says.
pub(super) async fn pass(sides: &Sides, job: &Job, table: TableId, body: &[u8]) -> Result<(), Trouble> {
    let write = Write::parse(body).map_err(|error| Trouble::Reject(error.to_string()))?;
    let taken = Texts::default().take_apart(&write);
    let [statement] = taken.as_slice() else {
        return Err(Trouble::Reject("a barrier of several statements cannot be read".to_owned()));
    };
    let keyspace = write.batch.parameters.keyspace;
    let sent = write.batch.parameters.timestamp.unwrap_or(i64::MAX);
    if job.certainty == Certainty::Unknown {
        let happened = happened(sides, &statement.parsed.body, keyspace, sent).await;
        if !happened.map_err(|trouble| listed(&statement.parsed.body, trouble))? {
            return Ok(());
        }
    }
    if job.late && is_back(sides, &statement.parsed.body, (table, keyspace)).await? {
        return Ok(());
    }
    let text = match &statement.parsed.body {
        Body::Schema(Schema { drop: Some(drop), name: Some(name), .. }) => {
            let at = dropped_at(sides, name, keyspace, drop).await?;
            edit::apply(statement.text, at.map(|micros| drop_at(drop, micros)).into_iter().collect())
        }
        _ => statement.text.to_vec(),
    };
    let text = String::from_utf8(text).map_err(|_| Trouble::Reject("a barrier is not UTF-8".to_owned()))?;
    let parameters = Parameters { keyspace, ..Parameters::new(Consistency::Quorum) };
    let client = sides.to_secondary.with_timeout(PATIENCE);
    let mut done = client.query(&text, &parameters).await.map(drop);
    if let Err(error) = &done
        && let Some(text) = keyspace_there(sides, &statement.parsed.body, error).await?
    {
        tracing::info!(text, "a keyspace is made on the secondary, whose datacenter has another name");
        done = client.query(&text, &parameters).await.map(drop);
    }
    let settled = settle(sides, &statement.parsed.body, (table, keyspace), done).await;
    settled.map_err(|trouble| listed(&statement.parsed.body, trouble))
}

/// Nothing behind it waits for what is no table, nor for options: no row needs them.
fn listed(body: &Body, trouble: Trouble) -> Trouble {
    match (body, trouble) {
        (Body::Schema(Schema { action: Action::Drop, object: Object::Keyspace, .. }), trouble) => trouble,
        (Body::Schema(schema), Trouble::Reject(why)) if schema.object != Object::Table || schema.is_of_options() => {
            Trouble::Listed(why)
        }
        (_, trouble) => trouble,
    }
}

/// Whether what a change drops is there again on the primary. Done late, it would take the newer one of that name.
async fn is_back(sides: &Sides, body: &Body, (table, keyspace): (TableId, Option<&str>)) -> Result<bool, Trouble> {
    let Body::Schema(schema @ Schema { action: Action::Drop, .. }) = body else { return Ok(false) };
    if schema.object == Object::Table {
        return Ok(shown(&sides.primary).await?.iter().any(|one| one.label == table));
    }
    let there = objects::has(&sides.to_primary, schema, keyspace).await;
    Ok(there.map_err(|error| Trouble::of_primary(&error))? == Some(true))
}

/// How the secondary has to be told to make a keyspace that it refused, where only the name of its datacenter is another one.
async fn keyspace_there(sides: &Sides, body: &Body, error: &Error) -> Result<Option<String>, Trouble> {
    let Body::Schema(Schema { action: Action::Create, object: Object::Keyspace, name: Some(name), .. }) = body else {
        return Ok(None);
    };
    if !matches!(error.code(), Some(code::INVALID | code::CONFIG)) {
        return Ok(None);
    }
    let (primary, secondary) = definitions(sides).await?;
    Ok(primary.keyspace_there(&name.name, &secondary))
}

async fn definitions(sides: &Sides) -> Result<(Definitions, Definitions), Trouble> {
    let primary = load(&sides.to_primary).await.map_err(|error| Trouble::of_primary(&error))?;
    let secondary = load(&sides.to_secondary).await.map_err(|error| Trouble::of_secondary(&error))?;
    Ok((primary, secondary))
}

async fn settle(
    sides: &Sides,
    body: &Body,
    (table, keyspace): (TableId, Option<&str>),
    done: Result<(), Error>,
) -> Result<(), Trouble> {
    let is_schema = matches!(body, Body::Schema(_));
    if let Err(error) = &done
        && !is_schema
    {
        linger(error, &sides.secondary, false).await;
        return Err(Trouble::of_secondary(error));
    }
    if is_schema {
        sides.secondary.agreed().await.map_err(|error| Trouble::of_secondary(&error))?;
    }
    sides.secondary.refresh().await;
    let Err(error) = done else { return Ok(()) };
    sides.primary.refresh().await;
    let refused = matches!(error.code(), Some(code::ALREADY_EXISTS | code::INVALID | code::CONFIG));
    let Body::Schema(schema) = body else { return Err(Trouble::of_secondary(&error)) };
    let is_over = match (schema.object, schema.action, &schema.name) {
        _ if !refused => false,
        (Object::Table, ..) => is_over(schema, table, &sides.primary.tables(), &sides.secondary.tables()),
        (_, action, _) if objects::is_done_already(action, &error) => true,
        (Object::Type, Action::Alter, Some(name)) => {
            let (primary, secondary) = definitions(sides).await?;
            objects::type_fits(&primary, &secondary, name, keyspace)
        }
        (Object::View, Action::Create, name) => {
            // A switch names those that are missing: mostly the server makes none for anybody.
            let view = name.as_ref().map(|name| name.name.as_str());
            tracing::warn!(view, %error, "the secondary refuses a materialized view that a client made");
            true
        }
        _ => false,
    };
    if is_over { Ok(()) } else { Err(Trouble::of_secondary(&error)) }
}

/// Whether a refused change of a table is one that was done before.
fn is_over(schema: &Schema, label: TableId, primary: &Tables, secondary: &Tables) -> bool {
    let find = |tables: &Tables| tables.iter().find(|table| table.label == label).cloned();
    match (schema.action, find(primary), find(secondary)) {
        (Action::Drop, _, secondary) => secondary.is_none(),
        (Action::Create, Some(primary), Some(secondary)) => fits(&primary, &secondary),
        (Action::Alter, Some(primary), Some(secondary)) => {
            fits(&primary, &secondary) && is_altered(schema, &primary, &secondary)
        }
        // Later in the journal the primary dropped it.
        (Action::Alter, None, _) => true,
        (Action::Create, None, Some(_)) => true,
        (Action::Create, _, None) | (Action::Alter, Some(_), None) => false,
    }
}

/// Whether the secondary's columns are as a change would have them, or the primary's are not so any more. Of a change of the key's
/// names the key tells; options do not show.
fn is_altered(schema: &Schema, primary: &Table, secondary: &Table) -> bool {
    let has = |table: &Table, column: &String| table.shape.column(column).is_some();
    let dropped = schema.drop.iter().flat_map(|drop| &drop.columns);
    !schema.is_of_options()
        && schema.add.iter().all(|column| has(secondary, column) || !has(primary, column))
        && dropped.into_iter().all(|column| !has(secondary, column) || has(primary, column))
}

/// The same key, and nothing that contradicts: columns may be missing on either side, for a later change to add or drop.
fn fits(primary: &Table, secondary: &Table) -> bool {
    let key = |table: &Table| -> Vec<Column> {
        let columns = table.shape.columns().iter();
        columns.filter(|column| matches!(column.role, Role::Partition(_) | Role::Clustering(_))).cloned().collect()
    };
    let same_type = |column: &Column| {
        primary
            .shape
            .column(&column.name)
            .is_none_or(|other| other.cql_type == column.cql_type && other.role == column.role)
    };
    key(primary) == key(secondary) && secondary.shape.columns().iter().all(same_type)
}

/// Whether the primary did a barrier whose answer nobody saw, and which was sent when our clock showed `sent`.
async fn happened(sides: &Sides, body: &Body, keyspace: Option<&str>, sent: i64) -> Result<bool, Trouble> {
    match body {
        Body::Truncate(name) => {
            let tables = shown(&sides.primary).await?;
            match name.keyspace_or(keyspace).and_then(|keyspace| tables.table(keyspace, &name.name)) {
                Some(table) => was_emptied(sides, table, sent).await?.ok_or_else(unknown),
                // Dropped since: so will the secondary's be.
                None => Ok(false),
            }
        }
        Body::Schema(schema) => {
            let (mut epochs, over) = (sides.primary.epochs(), Instant::now() + still_under_way(sent));
            loop {
                let is_last = Instant::now() >= over;
                let is_done = shows(sides, schema, keyspace, sent).await?;
                if is_done || is_last {
                    return Ok(is_done);
                }
                // A node that was slow, or whose client left it, does it later.
                let _ = timeout_at(over, epochs.changed()).await;
            }
        }
        _ => Err(unknown()),
    }
}

fn unknown() -> Trouble {
    Trouble::Reject("nobody knows whether the primary did it: do it again there".to_owned())
}

/// Whether the primary shows that a schema change was done.
async fn shows(sides: &Sides, schema: &Schema, keyspace: Option<&str>, sent: i64) -> Result<bool, Trouble> {
    let Schema { action, object: Object::Table, name: Some(name), drop, add, .. } = schema else {
        sides.primary.agreed().await.map_err(|error| Trouble::of_primary(&error))?;
        let there = objects::has(&sides.to_primary, schema, keyspace).await;
        let there = there.map_err(|error| Trouble::of_primary(&error))?;
        return match (schema.action, there) {
            (Action::Create, Some(there)) => Ok(there),
            (Action::Drop, Some(there)) => Ok(!there),
            _ => Err(unknown()),
        };
    };
    let tables = shown(&sides.primary).await?;
    let find = |name: &Name| tables.table(name.keyspace_or(keyspace)?, &name.name);
    match (action, drop, add.as_slice()) {
        (Action::Create, ..) => Ok(find(name).is_some()),
        (Action::Drop, ..) => Ok(find(name).is_none()),
        // One that is there again was dropped all the same.
        (Action::Alter, Some(drop), _) => {
            let gone = |column: &String| find(name).is_none_or(|table| table.shape.column(column).is_none());
            let at = dropped_at(sides, name, keyspace, drop).await?;
            Ok(drop.columns.iter().all(gone) || at.is_some_and(|at| latest(sides, at) >= sent))
        }
        (Action::Alter, _, [add, ..]) => Ok(find(name).is_some_and(|table| table.shape.column(add).is_some())),
        _ => Err(unknown()),
    }
}

/// The primary's tables, as all of its nodes have them: what one of them does not show, another may have.
pub(super) async fn shown(primary: &Cluster) -> Result<Arc<Tables>, Trouble> {
    let tables = primary.agreed_tables().await.map_err(|error| Trouble::of_primary(&error))?;
    tables.ok_or_else(|| Trouble::Retry("primary: its schema changes while it is looked at".to_owned()))
}

/// How long the primary may still do what was sent to it when our clock showed this.
fn still_under_way(sent: i64) -> Duration {
    PATIENCE.saturating_sub(Duration::from_micros(u64::try_from(now_micros() - sent).unwrap_or_default()))
}

/// Whether the primary emptied a table since it was asked to. Nodes remember when they did it last. `None`: they do not, or
/// it was shortly before.
async fn was_emptied(sides: &Sides, table: &Table, sent: i64) -> Result<Option<bool>, Trouble> {
    // A clock may have been set by less than that.
    sleep(still_under_way(sent)).await;
    let Ok(emptied) = emptied(sides).await else { return Ok(None) };
    Ok(match latest(sides, emptied_at(&emptied, table)?) {
        at if at >= sent => Some(true),
        at if at < sent - CLOCK_SET => Some(false),
        _ => None,
    })
}

/// Whether the primary emptied one of these tables, or made it anew, since this second of our clock, as far as clocks can
/// tell: else it did.
pub(super) async fn were_emptied(sides: &Sides, tables: &[&Table], since: i64) -> Result<bool, Trouble> {
    let since = since.saturating_mul(1_000_000);
    if tables.is_empty() {
        return Ok(false);
    }
    let emptied = emptied(sides).await.map_err(|error| Trouble::of_primary(&error))?;
    for table in tables {
        let at = emptied_at(&emptied, table)?;
        // Servers make a table's id of the time, unless they are told one.
        let made = if table.id[6] >> 4 == 1 { micros_of(table.id) } else { i64::MIN };
        if latest(sides, at) >= since - CLOCK_SET || latest(sides, made) >= since + 1_000_000 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When a node of the primary emptied each of its tables last.
async fn emptied(sides: &Sides) -> Result<Answer, Error> {
    sides.to_primary.query("SELECT truncated_at FROM system.local", &Parameters::new(Consistency::One)).await
}

/// When that was of this table, by the node's clock, in microseconds.
fn emptied_at(answer: &Answer, table: &Table) -> Result<i64, Trouble> {
    let row = answer.row().map_err(|error| Trouble::of_primary(&error))?;
    let all = row.and_then(|row| row.get(0).flatten());
    let all = elements(all, 2).map_err(|error| Trouble::Reject(error.to_string()))?;
    // A position of the node's commit log (12 bytes), then milliseconds since 1970.
    let at = all.chunks_exact(2).find(|entry| entry[0] == table.id).and_then(|entry| entry[1].last_chunk());
    Ok(at.map_or(i64::MIN, |millis| i64::from_be_bytes(*millis).saturating_mul(1_000)))
}

/// What our clock showed at most when that of the primary's node did, whose milliseconds are rounded down.
fn latest(sides: &Sides, micros: i64) -> i64 {
    let offset = sides.primary.clock(sides.to_primary.address()).map_or(0, |offset| offset.least);
    micros.saturating_add(999).saturating_sub(offset)
}

/// When the primary dropped the columns, in microseconds, as it recorded in milliseconds. A value that was written before
/// stays dropped on the secondary, however late it is replayed, and one that was written after the column was added
/// again stays there (CQL-CORNERS C10). `None`: the primary has no record of it.
async fn dropped_at(
    sides: &Sides,
    name: &Name,
    keyspace: Option<&str>,
    drop: &ColumnDrop,
) -> Result<Option<i64>, Trouble> {
    let Some(keyspace) = name.keyspace_or(keyspace) else { return Ok(None) };
    const TEXT: &str = "SELECT dropped_time FROM system_schema.dropped_columns \
                        WHERE keyspace_name = ? AND table_name = ? AND column_name = ?";
    let mut newest = None;
    for column in &drop.columns {
        let given = [keyspace, name.name.as_str(), column.as_str()].map(|text| (None, Value::Set(text.as_bytes())));
        let parameters = Parameters { values: Some(Values::Given(&given)), ..Parameters::new(Consistency::One) };
        let answer = sides.to_primary.query(TEXT, &parameters).await;
        let answer = answer.map_err(|error| Trouble::of_primary(&error))?;
        let row = answer.row().map_err(|error| Trouble::of_primary(&error))?;
        let millis = row.and_then(|row| row.get(0).flatten()?.try_into().ok()).map(i64::from_be_bytes);
        newest = newest.max(millis.map(|millis| millis.saturating_mul(1_000)));
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::text::parse::parse;

    #[test]
    fn only_what_takes_no_rows_with_it_holds_nothing_up() {
        for (text, is_listed) in [
            ("CREATE TYPE k.u (a int)", true),
            ("DROP INDEX k.i", true),
            ("ALTER KEYSPACE k WITH durable_writes = true", true),
            ("DROP KEYSPACE k", false),
            ("ALTER TABLE k.t ADD a int", false),
            ("ALTER TABLE k.t DROP a", false),
            ("ALTER TABLE k.t RENAME a TO b", false),
            ("ALTER TABLE k.t WITH compaction = {'class': 'UnifiedCompactionStrategy'}", true),
            ("ALTER TABLE k.t ALTER a MASKED WITH DEFAULT", true),
            ("TRUNCATE k.t", false),
        ] {
            let refused = listed(&parse(text.as_bytes()).body, Trouble::Reject(String::new()));
            assert_eq!(refused == Trouble::Listed(String::new()), is_listed, "{text}");
            let lost = Trouble::Lost(String::new());
            assert_eq!(listed(&parse(text.as_bytes()).body, lost.clone()), lost, "{text}");
        }
    }

    #[test]
    fn a_refused_change_of_columns_is_over_only_if_the_secondary_has_them_so() {
        let tables = |columns: &[&str]| {
            let key = Column::described(columns[0], "partition_key", 0, "int");
            let others = columns[1..].iter().map(|name| Column::described(name, "regular", -1, "int"));
            let shape =
                crate::protocol::cql::text::schema::Table::new("k", "t", [key].into_iter().chain(others).collect());
            Tables::new([0; 16], [Table::new(shape, [7; 16], 864_000, 0)])
        };
        for (text, primary, secondary, expected) in [
            ("ALTER TABLE k.t ADD b int", &["k", "a", "b"], &["k", "a"][..], false),
            ("ALTER TABLE k.t ADD b int", &["k", "a", "b"], &["k", "b"], true),
            ("ALTER TABLE k.t ADD a int, b int", &["k", "a", "b"], &["k", "a"], false),
            ("ALTER TABLE k.t ADD c int", &["k", "a", "b"], &["k", "a"], true),
            ("ALTER TABLE k.t DROP c", &["k", "a", "b"], &["k", "c"], false),
            ("ALTER TABLE k.t DROP c", &["k", "a", "b"], &["k", "a"], true),
            ("ALTER TABLE k.t DROP b", &["k", "a", "b"], &["k", "b"], true),
            ("ALTER TABLE k.t RENAME j TO k", &["k", "a", "b"], &["j", "a"], false),
            ("ALTER TABLE k.t RENAME j TO k", &["k", "a", "b"], &["k", "a"], true),
            (
                "ALTER TABLE k.t WITH compaction = {'class': 'UnifiedCompactionStrategy'}",
                &["k", "a", "b"],
                &["k"],
                false,
            ),
        ] {
            let Body::Schema(schema) = parse(text.as_bytes()).body else { panic!("{text}") };
            let is_over = is_over(&schema, TableId::of("k", "t"), &tables(primary), &tables(secondary));
            assert_eq!(is_over, expected, "{text} on {secondary:?}");
        }
        let Body::Schema(schema) = parse(b"ALTER TABLE k.t ADD b int").body else { panic!("a schema change") };
        let is_over = is_over(&schema, TableId::of("k", "t"), &Tables::new([0; 16], []), &tables(&["k"]));
        assert!(is_over, "the primary dropped it since");
    }
}
