//! Writes that the journal did not take: their tables are dirty, from before the write is forwarded until a repair that
//! began when it had ended.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Handle;
use crate::record::{Reason, TableId};
use crate::telemetry::Seldom;

/// Marks tables dirty, durably: all of them with one replacement of the file.
pub type Lose = Arc<dyn Fn(&[TableId], Reason) + Send + Sync>;

/// A file that could not be replaced is tried again after this: until then the journal says that it lacks something.
const AGAIN: Duration = Duration::from_secs(1);

/// What sessions call when the journal of this mirror takes nothing.
pub fn lose(handle: &Handle) -> Lose {
    let (handle, failed) = (handle.clone(), AtomicBool::new(false));
    // One at a time: who succeeds has written down what others failed to.
    let turn = Mutex::new(Turn::default());
    Arc::new(move |tables, reason| {
        handle.note_dirty(tables, reason);
        if failed.load(Ordering::Acquire) || !handle.dirty.is_saved() {
            let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            failed.store(!turn.save(&handle), Ordering::Release);
        }
        handle.mend_marked(tables);
    })
}

#[derive(Default)]
struct Turn {
    /// No attempt before.
    again: Option<Instant>,
    said: Seldom,
}

impl Turn {
    /// Write down what was noted, or have the journal say that it is not. `false`: it is not.
    fn save(&mut self, handle: &Handle) -> bool {
        let now = Instant::now();
        if self.again.is_some_and(|again| now < again) {
            handle.journal.unmarked(true);
            return false;
        }
        let saved = handle.dirty.save();
        handle.journal.unmarked(saved.is_err());
        self.again = saved.is_err().then(|| Instant::now() + AGAIN);
        if let (Err(error), Some(left_out)) = (&saved, saved.is_err().then(|| self.said.say()).flatten()) {
            let then = "unless they can be until then, every table is dirty after the next start if the machine runs on and its disk \
                stays mounted; else verify every table";
            tracing::error!(%error, left_out, "dirty marks could not be made durable: {then}");
        }
        saved.is_ok()
    }
}

/// Tables that are written to past the journal. Marked when this is made and again when it is dropped, which is when the write
/// has ended: a repair in between may have looked before the write was there.
pub struct Unwritten {
    lose: Lose,
    tables: BTreeSet<TableId>,
}

impl Unwritten {
    /// The tables are marked.
    pub fn to(tables: impl Iterator<Item = TableId>, lose: &Lose) -> Unwritten {
        let unwritten = Unwritten { lose: lose.clone(), tables: tables.collect() };
        unwritten.mark();
        unwritten
    }

    /// Nothing is left to be marked.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// A later write to some of the tables, which has just marked them, marks them when it has ended.
    pub fn hand_over(&mut self, later: &Unwritten) {
        self.tables.retain(|table| !later.tables.contains(table));
    }

    fn mark(&self) {
        if !self.is_empty() {
            let tables: Vec<TableId> = self.tables.iter().copied().collect();
            (self.lose)(&tables, Reason::Journal);
        }
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.mark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::storage::MemoryDisk;
    use crate::journal::{Journal, Options};
    use crate::mirror::dirty::Dirty;
    use crate::mirror::durable::Durable;
    use crate::mirror::state::{Config, Paths};

    #[test]
    fn tables_are_marked_before_the_write_and_when_it_has_ended() {
        let marks: Arc<Mutex<Vec<u64>>> = Arc::default();
        let (seen, marked) = (marks.clone(), || std::mem::take(&mut *marks.lock().expect("no panic")));
        let lose: Lose =
            Arc::new(move |tables, _| seen.lock().expect("no panic").extend(tables.iter().map(|table| table.0)));
        let tables = |tables: &[u64]| tables.iter().map(|table| TableId(*table)).collect::<Vec<_>>().into_iter();
        let mut first = Unwritten::to(tables(&[7, 8]), &lose);
        assert_eq!(marked(), [7, 8]);
        let second = Unwritten::to(tables(&[8, 9]), &lose);
        assert_eq!(marked(), [8, 9]);
        first.hand_over(&second);
        drop(first);
        assert_eq!(marked(), [7]);
        drop(second);
        assert_eq!(marked(), [8, 9]);
    }

    #[test]
    fn a_thousand_tables_at_once_are_one_replacement_of_the_file() {
        let paths = Paths::in_memory();
        let handle = paths.handle(&Config::default(), Journal::in_memory()).expect("in memory");
        let lose = lose(&handle);
        let unwritten = Unwritten::to((0..1_000).map(TableId), &lose);
        assert_eq!((handle.dirty().len(), paths.dirty().puts()), (1_000, 1));
        drop(unwritten);
        assert_eq!(paths.dirty().puts(), 1, "the file says it already");
    }

    #[tokio::test(start_paused = true)]
    async fn marks_that_cannot_be_written_down_are_tried_again_after_a_second_and_the_journal_says_so_promise_6() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let within = dir.path().join("within");
        let disk = MemoryDisk::default();
        let (journal, _) = Journal::open_on(disk.storage(), Options::default()).expect("opens");
        let file = Durable::in_dir(&within, "mirror-dirty");
        let paths = Paths::in_memory().with_dirty(file.clone());
        let handle = paths.handle(&Config::default(), journal).expect("absent");
        let lose = lose(&handle);
        let written = || Dirty::open(file.clone()).expect("loads").len();

        lose(&[TableId(1)], Reason::Journal);
        std::fs::create_dir(&within).expect("made");
        lose(&[TableId(2)], Reason::Journal);
        assert_eq!(written(), 0, "it is not tried at each write");
        tokio::time::advance(AGAIN).await;
        lose(&[TableId(2)], Reason::Journal);
        assert_eq!(written(), 2);

        std::fs::remove_dir_all(&within).expect("ours");
        lose(&[TableId(3)], Reason::Journal);
        drop((lose, handle));
        let (_, recovered) = Journal::open_on(disk.storage(), Options::default()).expect("opens");
        assert!(recovered.active.all, "nobody knows what else is dirty");
    }
}
