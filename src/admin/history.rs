//! Walks over history: asked for, watched, held, ended. What they do is the desk's.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::State;
use super::routes::{Refused, number};
use crate::backfill::{self, Compare, Conflict, Desk, Kind, Report, Request};

/// Most differences of one answer.
const DIFFERENCES_MAX: usize = 10_000;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Asked {
    Start {
        #[serde(default)]
        tables: Vec<String>,
        #[serde(default)]
        exclude: Vec<String>,
        #[serde(default)]
        on_conflict: Conflict,
        #[serde(default = "yes")]
        verify: bool,
        #[serde(default)]
        provision: bool,
        #[serde(default)]
        dry_run: bool,
        replication: Option<String>,
        #[serde(default)]
        compare: Compare,
        since_seconds: Option<u64>,
        timestamp: Option<i64>,
        /// Of all rows: above 0, at most 1.
        sample: Option<f64>,
        every_seconds: Option<u64>,
        /// Of the tables, only these.
        of: Option<Of>,
    },
    Pause,
    Resume,
    Cancel,
}

/// Tables of which something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Of {
    /// Those that may differ.
    Dirty,
    /// Those that the last comparison found to differ.
    Verify,
}

fn yes() -> bool {
    true
}

/// A row that differs.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    job: u64,
    table: String,
    how: backfill::work::Differs,
    /// For who asks for values.
    key: Option<String>,
}

/// Which kind of walk a path is about.
pub(super) fn kind(path: &str) -> Option<Kind> {
    let name = path.strip_prefix("/v1/")?;
    [Kind::Backfill, Kind::Verify, Kind::Repair].into_iter().find(|kind| kind.as_str() == name)
}

/// The walk of this kind that is under way, or the last one; with `number=` that one.
pub(super) fn report(state: &State, kind: Kind, query: Option<&str>) -> Result<Report, Refused> {
    let (desk, name) = (desk(state)?, kind.as_str());
    let none = |why| Refused(StatusCode::NOT_FOUND, why);
    let Some(query) = query else {
        return desk.report(kind).ok_or_else(|| none(format!("no {name} was asked for yet")));
    };
    let number = number(query, "number")?;
    let gone = || none(format!("{name} {number} is not known any more: another one was asked for"));
    desk.report_numbered(kind, number).ok_or_else(gone)
}

/// Do what is asked.
pub(super) async fn act(state: &State, kind: Kind, asked: Asked) -> Result<Report, Refused> {
    let desk = desk(state)?;
    match asked {
        Asked::Start {
            mut tables,
            exclude,
            on_conflict,
            verify,
            provision,
            dry_run,
            replication,
            compare,
            since_seconds,
            timestamp,
            sample,
            every_seconds,
            of,
        } => {
            let mut labels = Vec::new();
            match of {
                None => (),
                Some(Of::Dirty) => labels = dirty(state)?,
                Some(Of::Verify) => tables.extend(differing(state)?),
            }
            let sample_ppm = sample.map(|share| (share * 1e6).ceil() as u32);
            let request = Request {
                kind,
                tables,
                exclude,
                labels: Vec::new(),
                on_conflict,
                verify,
                provision,
                replication,
                dry_run,
                compare,
                since_seconds,
                timestamp,
                sample_ppm,
                every_seconds,
            };
            desk.start(request.of_dirty(labels)).await.map_err(conflict)?;
        }
        Asked::Pause => desk.pause(kind).await.map_err(conflict)?,
        Asked::Resume => desk.resume(kind).await.map_err(conflict)?,
        Asked::Cancel => desk.cancel(kind).await.map_err(conflict)?,
    }
    report(state, kind, None)
}

/// Labels of the tables that are dirty.
fn dirty(state: &State) -> Result<Vec<u64>, Refused> {
    let dirty = state.mirror.iter().flat_map(|mirror| mirror.dirty().list());
    some(dirty.map(|dirty| dirty.table.0).collect(), "no table is dirty")
}

/// Names of the tables that the last comparison found to differ.
fn differing(state: &State) -> Result<Vec<String>, Refused> {
    let tables = report(state, Kind::Verify, None)?.tables.into_iter();
    some(
        tables.filter(|table| table.counts.differing() > 0).map(|table| table.table).collect(),
        "the last verify found no rows that differ",
    )
}

/// Nothing would mean all.
fn some<T>(found: Vec<T>, none: &str) -> Result<Vec<T>, Refused> {
    if found.is_empty() { Err(Refused(StatusCode::CONFLICT, none.to_owned())) } else { Ok(found) }
}

/// Rows that the last walk found to differ.
pub(super) async fn differences(state: &State, values: bool) -> Result<Vec<Difference>, Refused> {
    let desk = desk(state)?.clone();
    let read = tokio::task::spawn_blocking(move || desk.differences(DIFFERENCES_MAX)).await;
    let lines = read.map_err(std::io::Error::other).and_then(|lines| lines);
    let lines = lines.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let shown = |line: backfill::job::Line| Difference {
        job: line.job,
        table: line.table,
        how: line.how,
        key: values.then_some(line.key),
    };
    Ok(lines.into_iter().map(shown).collect())
}

pub(super) fn desk(state: &State) -> Result<&Desk, Refused> {
    let why = || "mirroring is off: there is nothing to copy to".to_owned();
    Ok(state.mirror.as_ref().ok_or_else(|| Refused(StatusCode::CONFLICT, why()))?.desk())
}

fn conflict(refused: backfill::Refused) -> Refused {
    let code = match refused {
        backfill::Refused::Nonsense(_) => StatusCode::BAD_REQUEST,
        backfill::Refused::Durable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    Refused(code, refused.to_string())
}
