//! What every wire's switch finds of the mirror, before clients are held and while they are. Names are stable.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::steps::Error;
use crate::check::{self, Finding, NAMED_MAX, Rule};
use crate::mirror::{Handle, Phase, Status};
use crate::record::{Side, TableId};

crate::check::rules! {
    SIDE_FAILED: Error "side_failed" "a side does not answer, or refuses what a switch needs of it: mend that first";
    MIRROR_DOWN: Error "mirror_down" "the mirror does not run: `tandem status` says why; without it the new primary lacks writes";
    JOURNAL_BROKEN: Error "journal_broken" "the journal failed and takes nothing more, so nothing would be mirrored back: restart tandem first, on a disk that works, and wait until what is dirty is repaired";
    JOURNAL_FULL: Error "journal_full" "the journal has no room, so nothing would be mirrored back: make room on its disk, or wait until the mirror has caught up; `journal.size_limit` may be raised, restart tandem first";
    MIRROR_BEHIND: Error "mirror_behind" "the secondary is further behind than cutover.max_lag: wait until it has caught up, or raise the limit; clients would be held for as long as it takes";
    ROWS_PARKED: Error "rows_parked" "the secondary refuses these rows and lacks them: `tandem parked list` says why; mend that, then `tandem parked retry all`. Discarding only hides them: the rows stay missing after the switch";
    SCHEMA_REFUSED: Warning "schema_refused" "the secondary refused to make this, or to change it, and clients will miss it: `tandem parked list` says why; make it there, then retry it; discard only what no client needs";
    TABLES_DIRTY: Error "tables_dirty" "these tables are known to differ, or not known to agree: `tandem dirty list` says why; wait (mirror.self_repair), or `tandem repair --of dirty`";
    HISTORY_UNDER_WAY: Error "history_under_way" "history is being copied: the new primary would lack what is not there yet: wait for `tandem backfill wait`, or cancel it";
    HISTORY_UNVERIFIED: Warning "history_unverified" "the history of these tables was copied and not compared since: `tandem verify`";
    HISTORY_UNKNOWN: Warning "history_unknown" "these tables were neither copied nor compared: the target may lack rows that were there before tandem: `tandem verify`, of this table with --table";
    HISTORY_DIFFERS: Warning "history_differs" "the last comparison found rows that differ: `tandem repair`, then this finding is gone";
}

/// What stands in the way of a switch, and of what changes `known` says.
pub fn findings(handle: &Handle, known: &Known, max_lag: Duration, name: impl Fn(TableId) -> String) -> Vec<Finding> {
    let (status, lag, mut found) = (handle.status(), handle.lag(), Vec::new());
    let mut add = |rule, object: String| found.push(Finding { rule, side: None, object });
    let runs = matches!(status.phase, Phase::Idle | Phase::Paying | Phase::Applying | Phase::CatchingUp);
    if !runs {
        let why = status.error.map(|error| format!(": {error}")).unwrap_or_default();
        add(MIRROR_DOWN, format!("{}{why}", status.phase.as_str()));
    }
    found_of_journal(handle).into_iter().for_each(|(rule, object)| add(rule, object));
    if lag.seconds > max_lag.as_secs_f64() {
        add(MIRROR_BEHIND, format!("{:.1} s and {} keys behind", lag.seconds, lag.keys));
    }
    if known.parked.len() > known.refused.len() {
        add(ROWS_PARKED, format!("{} rows or tables", known.parked.len() - known.refused.len()));
    }
    known.refused.iter().for_each(|object| add(SCHEMA_REFUSED, object.clone()));
    known.dirty.iter().take(NAMED_MAX).for_each(|table| add(TABLES_DIRTY, name(*table)));
    known.copying.iter().for_each(|number| add(HISTORY_UNDER_WAY, format!("backfill {number}")));
    let doubts = handle.desk().doubts();
    doubts.unverified.into_iter().for_each(|table| add(HISTORY_UNVERIFIED, table));
    for (table, rows) in doubts.differing {
        add(HISTORY_DIFFERS, format!("{table}: {rows} rows"));
    }
    found
}

/// A journal that takes nothing: the way back would lack every write.
fn found_of_journal(handle: &Handle) -> Option<(&'static Rule, String)> {
    let status = handle.journal().status();
    match status.broken {
        Some(why) => Some((JOURNAL_BROKEN, why.to_string())),
        None => {
            status.full.then(|| (JOURNAL_FULL, format!("{} of {} bytes on disk", status.bytes, status.limit_bytes)))
        }
    }
}

/// Tables of which nobody knows whether the target has what was there before the mirror.
pub fn unknown(mut names: Vec<String>) -> Vec<Finding> {
    names.sort_unstable();
    check::each(HISTORY_UNKNOWN, None, names).collect()
}

/// What a switch is prepared with, as it is found: whatever comes to it until clients are held and all is paid ends the walk.
/// It is looked at once, for the findings too: what comes between two looks would be in neither.
#[derive(Debug, Default)]
pub struct Known {
    /// Dirty tables that the operator switches with.
    pub dirty: BTreeSet<TableId>,
    /// Each by itself: one that was discarded makes no room for another one.
    parked: HashSet<(TableId, Option<Box<[u8]>>)>,
    /// Those of them that are schema changes of no table, for people.
    refused: Vec<String>,
    /// The backfill that is under way.
    copying: Option<u64>,
}

impl Known {
    /// As it is now.
    pub fn of(handle: &Handle) -> Known {
        let parked = handle.parked().list();
        Known {
            dirty: handle.dirty().list().into_iter().map(|dirty| dirty.table).collect(),
            refused: parked.iter().filter(|entry| entry.change().is_some()).map(|entry| entry.name.clone()).collect(),
            parked: parked.into_iter().map(|entry| (entry.table(), entry.key)).collect(),
            copying: handle.desk().copying(),
        }
    }

    /// Nothing came to it, and the way back is still there.
    ///
    /// # Errors
    /// [`Error::Refused`] says what did.
    pub fn still_holds(&self, handle: &Handle, name: impl Fn(TableId) -> String) -> Result<(), Error> {
        if let Some((rule, why)) = found_of_journal(handle) {
            return Err(Error::Refused(format!("{}: {why}: {}", rule.name, rule.advice)));
        }
        let now = Known::of(handle);
        if let Some(table) = now.dirty.difference(&self.dirty).next() {
            return Err(Error::Refused(format!("{} became dirty meanwhile: repair it first", name(*table))));
        }
        if !now.parked.is_subset(&self.parked) {
            return Err(Error::Refused("the secondary refuses rows that it took before: see the parked ones".into()));
        }
        if let Some(number) = now.copying.filter(|_| now.copying != self.copying) {
            let why = "the new primary would lack what is not there yet: wait for it, or cancel it";
            return Err(Error::Refused(format!("backfill {number} began meanwhile: {why}")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::{Kind, Request};
    use crate::journal::storage::MemoryDisk;
    use crate::journal::{Journal, Lsn, Options, Outcome};
    use crate::mirror::state::copier::{Owed, Paid, Refused};
    use crate::mirror::state::{Config, Paths};
    use crate::record::Reason;

    fn mirror() -> Handle {
        over(Journal::in_memory())
    }

    fn over(journal: Journal) -> Handle {
        Paths::in_memory().handle(&Config::default(), journal).expect("in memory")
    }

    fn on_disk() -> (MemoryDisk, Journal) {
        let disk = MemoryDisk::default();
        let options = Options {
            size_limit_bytes: 3 * (16_384 + 4_096),
            segment_bytes: 16_384,
            record_limit_bytes: 2_000,
            ring_bytes: 8_192,
            ..Options::default()
        };
        let (journal, _) = Journal::open_on(disk.storage(), options).expect("opens");
        journal.sync_now();
        (disk, journal)
    }

    fn name(table: TableId) -> String {
        format!("t{}", table.0)
    }

    async fn refuse(handle: &Handle, refused: Refused) {
        let paid = Paid { refused: vec![refused], ..Paid::default() };
        handle.parked().paid(&Owed::default(), &paid, true).await.expect("in memory");
    }

    async fn park(handle: &Handle, key: &[u8]) {
        let (table, key) = (TableId(1), Some(key.into()));
        let refused = Refused { table, name: name(table), key, shown: "1".into(), why: "23514".into() };
        refuse(handle, refused).await;
    }

    /// What was found, and why the walk may not go on after what came.
    fn looked(handle: &Handle, known: &Known) -> (Vec<&'static str>, Option<String>) {
        let found = findings(handle, known, Duration::from_secs(1), name);
        let found = found.iter().map(|finding| finding.rule.name).filter(|name| *name != MIRROR_DOWN.name);
        (found.collect(), known.still_holds(handle, name).err().map(|error| error.to_string()))
    }

    #[tokio::test]
    async fn what_comes_while_a_switch_is_prepared_is_either_found_or_ends_it() {
        let handle = mirror();
        let known = Known::of(&handle);
        assert_eq!(looked(&handle, &known), (Vec::new(), None));
        park(&handle, b"k").await;
        let (found, ended) = looked(&handle, &known);
        assert!(found.is_empty() && ended.is_some_and(|why| why.contains("parked")));
        handle.discard_parked(&handle.parked().list()[0].id()).await.expect("in memory");
        handle.dirty().mark(TableId(2), Reason::Lost, Lsn(0)).await.expect("in memory");
        let (found, ended) = looked(&handle, &known);
        assert!(found.is_empty() && ended.is_some_and(|why| why.contains("t2 became dirty")));
        // What was found, and switched with all the same, ends nothing.
        let known = Known::of(&handle);
        assert_eq!(looked(&handle, &known), (vec!["tables_dirty"], None));
    }

    #[tokio::test]
    async fn a_journal_whose_disk_failed_is_in_the_way_of_a_switch_promise_10() {
        let (disk, journal) = on_disk();
        let handle = over(journal.clone());
        let known = Known::of(&handle);
        assert_eq!(looked(&handle, &known), (Vec::new(), None));
        let ticket = journal.begin(b"record").expect("there is room");
        disk.fail_after(0, libc::EIO);
        journal.sync_now();
        let (found, ended) = looked(&handle, &known);
        assert_eq!(found, ["journal_broken"]);
        assert!(ended.is_some_and(|why| why.contains("journal_broken") && why.contains("restart tandem first")));
        drop(ticket);
    }

    #[tokio::test]
    async fn a_full_journal_is_in_the_way_of_a_switch_until_there_is_room() {
        let (_disk, journal) = on_disk();
        let handle = over(journal.clone());
        let known = Known::of(&handle);
        while let Ok(ticket) = journal.begin(&[0; 2_000]) {
            ticket.end(Outcome::Committed);
            journal.sync_now();
        }
        let (found, ended) = looked(&handle, &known);
        assert_eq!(found, ["journal_full"]);
        assert!(ended.is_some_and(|why| why.contains("journal_full")));
        journal.trim(journal.appended());
        journal.sync_now();
        assert_eq!(looked(&handle, &known), (Vec::new(), None));
    }

    #[tokio::test]
    async fn one_row_less_that_is_parked_makes_no_room_for_another_one() {
        let handle = mirror();
        park(&handle, b"known").await;
        let known = Known::of(&handle);
        assert_eq!(looked(&handle, &known), (vec!["rows_parked"], None));
        handle.discard_parked(&handle.parked().list()[0].id()).await.expect("in memory");
        assert_eq!(looked(&handle, &known).1, None);
        park(&handle, b"fresh").await;
        assert!(looked(&handle, &known).1.is_some_and(|why| why.contains("parked")));
    }

    #[tokio::test]
    async fn what_the_secondary_refuses_to_make_is_named_and_ends_no_switch_that_knows_of_it() {
        let handle = mirror();
        let (table, key) = (TableId::NONE, Some((*b"change").into()));
        let refused = Refused { table, name: "view public.v".into(), key, shown: String::new(), why: "42P01".into() };
        refuse(&handle, refused).await;
        let known = Known::of(&handle);
        assert_eq!(looked(&handle, &known), (vec!["schema_refused"], None));
        let found = findings(&handle, &known, Duration::from_secs(1), name);
        assert!(found.iter().any(|finding| finding.object == "view public.v"));
    }

    #[tokio::test]
    async fn a_backfill_that_begins_while_a_switch_is_prepared_ends_it() {
        let handle = mirror();
        let known = Known::of(&handle);
        handle.desk().start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
        assert!(looked(&handle, &known).1.is_some_and(|why| why.starts_with("backfill 1 began meanwhile")));
        let known = Known::of(&handle);
        assert_eq!(looked(&handle, &known), (vec!["history_under_way"], None));
        handle.desk().cancel(Kind::Backfill).await.expect("it is under way");
        assert_eq!(looked(&handle, &known).1, None);
        handle.desk().start(Request::new(Kind::Verify)).await.expect("nothing is under way");
        assert_eq!(looked(&handle, &known).1, None, "who compares is in nobody's way");
    }
}
