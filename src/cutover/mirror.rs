//! What every wire's switch finds of the mirror, before clients are held and while they are. Names are stable.

use std::collections::HashSet;
use std::time::Duration;

use super::steps::Error;
use crate::check::{self, Finding, NAMED_MAX};
use crate::mirror::{Handle, Phase, Status};
use crate::record::{Side, TableId};

crate::check::rules! {
    SIDE_FAILED: Error "side_failed" "a side does not answer, or refuses what a switch needs of it: mend that first";
    MIRROR_DOWN: Error "mirror_down" "the mirror does not run: `tandem status` says why; without it the new primary lacks writes";
    MIRROR_BEHIND: Error "mirror_behind" "the secondary is further behind than cutover.max_lag: wait until it has caught up, or raise the limit; clients would be held for as long as it takes";
    ROWS_PARKED: Error "rows_parked" "the secondary refuses these rows and lacks them: `tandem parked list`, then retry or discard";
    TABLES_DIRTY: Error "tables_dirty" "these tables are known to differ, or not known to agree: `tandem dirty repair`, and wait";
    HISTORY_UNDER_WAY: Error "history_under_way" "history is being copied: the new primary would lack what is not there yet: wait for `tandem backfill wait`, or cancel it";
    HISTORY_UNVERIFIED: Warning "history_unverified" "the history of these tables was copied and not compared since: `tandem verify`";
    HISTORY_UNKNOWN: Warning "history_unknown" "these tables were neither copied nor compared: the target may lack rows that were there before tandem: `tandem verify`, of this table with --table";
    HISTORY_DIFFERS: Warning "history_differs" "the last comparison found rows that differ: `tandem repair`, then this finding is gone";
}

/// What stands in the way of a switch.
pub fn findings(handle: &Handle, max_lag: Duration, name: impl Fn(TableId) -> String) -> Vec<Finding> {
    let (status, lag, mut found) = (handle.status(), handle.lag(), Vec::new());
    let mut add = |rule, object: String| found.push(Finding { rule, side: None, object });
    let runs = matches!(status.phase, Phase::Idle | Phase::Paying | Phase::Applying | Phase::CatchingUp);
    if !runs {
        let why = status.error.map(|error| format!(": {error}")).unwrap_or_default();
        add(MIRROR_DOWN, format!("{}{why}", status.phase.as_str()));
    }
    if lag.seconds > max_lag.as_secs_f64() {
        add(MIRROR_BEHIND, format!("{:.1} s and {} keys behind", lag.seconds, lag.keys));
    }
    if !handle.parked().is_empty() {
        add(ROWS_PARKED, format!("{} rows or tables", handle.parked().len()));
    }
    for dirty in handle.dirty().list().into_iter().take(NAMED_MAX) {
        add(TABLES_DIRTY, name(dirty.table));
    }
    let doubts = handle.desk().doubts();
    doubts.copying.into_iter().for_each(|number| add(HISTORY_UNDER_WAY, format!("backfill {number}")));
    doubts.unverified.into_iter().for_each(|table| add(HISTORY_UNVERIFIED, table));
    for (table, rows) in doubts.differing {
        add(HISTORY_DIFFERS, format!("{table}: {rows} rows"));
    }
    found
}

/// Tables of which nobody knows whether the target has what was there before the mirror.
pub fn unknown(mut names: Vec<String>) -> Vec<Finding> {
    names.sort_unstable();
    check::each(HISTORY_UNKNOWN, names).collect()
}

/// What a switch is prepared with: whatever comes to it while clients are held ends the walk.
#[derive(Debug, Default)]
pub struct Known {
    /// Dirty tables that the operator switches with.
    pub dirty: HashSet<TableId>,
    parked: usize,
}

impl Known {
    /// As it is now.
    pub fn of(handle: &Handle) -> Known {
        let dirty = handle.dirty().list().into_iter().map(|dirty| dirty.table).collect();
        Known { dirty, parked: handle.parked().len() }
    }

    /// Nothing came to it.
    ///
    /// # Errors
    /// [`Error::Refused`] says what did.
    pub fn still_holds(&self, handle: &Handle, name: impl Fn(TableId) -> String) -> Result<(), Error> {
        if let Some(dirty) = handle.dirty().list().into_iter().find(|dirty| !self.dirty.contains(&dirty.table)) {
            return Err(Error::Refused(format!("{} became dirty meanwhile: repair it first", name(dirty.table))));
        }
        if handle.parked().len() > self.parked {
            return Err(Error::Refused("the secondary refuses rows that it took before: see the parked ones".into()));
        }
        Ok(())
    }
}

/// As the mirror is when it has connected, or failed to. Cancel safe.
///
/// # Errors
/// It has ended.
pub async fn opened(handle: &Handle) -> Result<Status, Error> {
    let mut status = handle.watch();
    let open = |status: &Status| !matches!(status.phase, Phase::Connecting | Phase::Stopped);
    let shown = status.wait_for(open).await.map_err(|_| Error::Refused("the mirror has ended".into()))?;
    Ok(shown.clone())
}

/// The mirror back, which writes to `secondary`, runs. Cancel safe.
///
/// # Errors
/// It does not.
pub async fn runs(handle: &Handle, secondary: Side) -> Result<(), Error> {
    let shown = opened(handle).await?;
    match (shown.phase, shown.error) {
        (Phase::Failed | Phase::Away | Phase::Fenced, why) => {
            Err(Error::Side { side: secondary, why: why.unwrap_or_else(|| "the reverse mirror cannot open".into()) })
        }
        _ => Ok(()),
    }
}
