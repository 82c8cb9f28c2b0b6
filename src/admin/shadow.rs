//! Shadow reads: what was compared, and the differences that lasted.

use hyper::StatusCode;
use serde::Serialize;

use super::State;
use super::routes::{Refused, number};
use crate::shadow::{Board, Mismatch, Report};

/// Differences that were forgotten.
#[derive(Serialize)]
pub(super) struct Cleared {
    cleared: usize,
}

pub(super) fn report(state: &State) -> Result<Report, Refused> {
    Ok(Report::of(board(state)?))
}

pub(super) fn mismatches(state: &State, values: bool) -> Result<Vec<Mismatch>, Refused> {
    Ok(Mismatch::list(board(state)?, values))
}

/// An operator has seen them: one with its number, or all without.
pub(super) fn clear(state: &State, query: Option<&str>) -> Result<Cleared, Refused> {
    let board = board(state)?;
    let id = match query {
        None | Some("") => None,
        Some(query) => Some(number(query, "id")?),
    };
    let cleared = board.mismatches().clear(id);
    if let Some(id) = id.filter(|_| cleared == 0) {
        return Err(Refused(StatusCode::NOT_FOUND, format!("no difference has the number {id}")));
    }
    tracing::warn!(cleared, "differences that shadow reads found were cleared by the admin API");
    Ok(Cleared { cleared })
}

fn board(state: &State) -> Result<&Board, Refused> {
    state.shadow.as_ref().ok_or_else(|| Refused(StatusCode::CONFLICT, "mirroring is off".to_owned()))
}
