//! Parked keys and dirty tables: listed, and acted on.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::State;
use super::routes::Refused;
use crate::journal::Lsn;
use crate::mirror::{Handle, handle};
use crate::record::TableId;

/// A parked key, as the API shows it.
#[derive(Serialize)]
pub(super) struct ParkedKey {
    id: String,
    table: String,
    /// The whole table is refused.
    whole_table: bool,
    /// It is a schema change or a TRUNCATE, and its table waits for it.
    holds: bool,
    why: String,
    attempts: u64,
    first_unix: u64,
    last_unix: u64,
    /// The key's values, only when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// A dirty table, as the API shows it.
#[derive(Serialize)]
pub(super) struct DirtyTable {
    id: String,
    table: String,
    reasons: BTreeMap<&'static str, u64>,
    first_unix: u64,
    last_unix: u64,
}

/// What to do with a parked key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParkedAction {
    action: OnParked,
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnParked {
    Retry,
    Discard,
}

/// What to do with a dirty table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirtyAction {
    action: OnDirty,
    table: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnDirty {
    Repair,
    Clear,
}

/// An action that was taken.
#[derive(Serialize)]
pub(super) struct Done {
    /// It shows on the secondary when the mirror has applied this position; a repair without one is a walk.
    #[serde(skip_serializing_if = "Option::is_none")]
    settles_at: Option<u64>,
}

pub(super) fn parked(state: &State, values: bool) -> Result<Vec<ParkedKey>, Refused> {
    let entries = mirror(state)?.parked().list().into_iter();
    Ok(entries
        .map(|entry| ParkedKey {
            id: entry.id(),
            table: entry.name.clone(),
            whole_table: entry.key.is_none(),
            holds: entry.record.as_ref().is_some_and(|record| record.holds),
            why: entry.why.clone(),
            attempts: entry.attempts,
            first_unix: entry.first_unix,
            last_unix: entry.last_unix,
            key: values.then(|| entry.shown.clone()),
        })
        .collect())
}

pub(super) async fn act_on_parked(state: &State, asked: &ParkedAction) -> Result<Done, Refused> {
    let mirror = mirror(state)?;
    match asked.action {
        OnParked::Retry => done(mirror.retry_parked(&asked.id)),
        OnParked::Discard => {
            let discarded = mirror.discard_parked(&asked.id).await;
            if discarded.is_ok() {
                tracing::warn!(id = asked.id, "something parked was discarded by the admin API");
            }
            done(discarded.map(|()| None))
        }
    }
}

pub(super) fn dirty(state: &State) -> Result<Vec<DirtyTable>, Refused> {
    let tables = mirror(state)?.dirty().list().into_iter();
    Ok(tables
        .map(|dirty| DirtyTable {
            id: id(dirty.table),
            table: name(state, dirty.table),
            reasons: dirty.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect(),
            first_unix: dirty.first_unix,
            last_unix: dirty.last_unix,
        })
        .collect())
}

pub(super) async fn act_on_dirty(state: &State, asked: &DirtyAction) -> Result<Done, Refused> {
    let mirror = mirror(state)?;
    let named = |table: &TableId| id(*table) == asked.table || name(state, *table) == asked.table;
    let table = mirror.dirty().list().into_iter().map(|dirty| dirty.table).find(named);
    let table = table.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{} is not dirty", asked.table)))?;
    match asked.action {
        OnDirty::Repair => done(mirror.repair(table)),
        OnDirty::Clear => {
            tracing::warn!(table = asked.table, "a dirty mark was cleared by the admin API");
            done(mirror.clear_dirty(table).await.map(|()| None))
        }
    }
}

/// The table's name; what is said of none is said of schema changes.
fn name(state: &State, table: TableId) -> String {
    if table == TableId::NONE {
        return TableId::NONE_SHOWN.to_owned();
    }
    (state.names)(table).unwrap_or_else(|| id(table))
}

fn mirror(state: &State) -> Result<&Handle, Refused> {
    state.mirror.as_ref().ok_or_else(|| Refused(StatusCode::CONFLICT, "mirroring is off".to_owned()))
}

fn done(result: Result<Option<Lsn>, handle::Error>) -> Result<Done, Refused> {
    match result {
        Ok(lsn) => Ok(Done { settles_at: lsn.map(|lsn| lsn.0) }),
        Err(error) => {
            let code = match error {
                handle::Error::NotParked(_) | handle::Error::NotDirty => StatusCode::NOT_FOUND,
                _ => StatusCode::CONFLICT,
            };
            Err(Refused(code, error.to_string()))
        }
    }
}

fn id(table: TableId) -> String {
    format!("{:016x}", table.0)
}
