//! The dirty ledger: tables known to differ, or not known to agree, and why. Only a payment of the whole table taken
//! after the last mark, or an operator, clears one (promise 6).
//!
//! A write past the journal may be under way when its table is marked, and when whoever waits for its answer is gone: a table
//! with such a mark is restless, and no payment or walk clears it that began before the primary's transactions of then were
//! over ([`Dirty::calm`]), where the wire can tell.
//!
//! A mark is durable when [`Dirty::mark`] resolves, and so before the journal is trimmed beyond the record that made it.
//! A table counts once however often it is marked, so the ledger is as large as the schema, never as large as traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::journal::Lsn;
use crate::record::{Reason, TableId};

use super::durable::{Durable, Error, Ledger};

/// The dirty tables; cheap to clone, clones share one ledger.
#[derive(Clone)]
pub struct Dirty {
    ledger: Ledger<Book>,
}

/// What the file holds.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Book {
    tables: BTreeMap<u64, Kept>,
    /// Marks of these tables by records below the position were cleared by an operator: reading them again is no news.
    cleared: BTreeMap<u64, u64>,
    /// Somebody calls [`Dirty::calm`].
    #[serde(skip)]
    is_calmed: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    /// Numbers of [`Reason`] and how often each was given.
    reasons: BTreeMap<u8, u64>,
    first_unix: u64,
    last_unix: u64,
    last_lsn: u64,
    #[serde(skip)]
    rest: Rest,
}

/// Whether a write that a mark is about may still be under way.
#[derive(Clone, Default)]
enum Rest {
    /// It is over, or in the journal.
    #[default]
    Calm,
    /// Nobody has looked since.
    Marked,
    /// Somebody looks.
    Asked,
    /// One of these transactions may be it.
    Awaits(BTreeSet<String>),
}

/// With this the name of a prepared transaction begins, see [`Dirty::calm`].
pub(crate) const PREPARED: &str = "prepared ";

/// Writes that are in no journal: nobody else tells when they are over.
const UNSEEN: [Reason; 2] = [Reason::Journal, Reason::Lost];

/// A dirty table, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyTable {
    /// The table's label.
    pub table: TableId,
    /// Why, and how many marks each reason has.
    pub reasons: Vec<(Reason, u64)>,
    /// Seconds since the epoch of the first mark.
    pub first_unix: u64,
    /// Seconds since the epoch of the last mark that said something new.
    pub last_unix: u64,
    /// The journal's position at the last mark: a payment whose cut lies above it covers them all.
    pub last: Lsn,
}

impl Dirty {
    /// Load what an earlier process left.
    pub fn open(file: Durable) -> Result<Dirty, Error> {
        Ok(Dirty { ledger: Ledger::open(file)? })
    }

    /// A process begins, and its journal here. The file has only the first mark of each reason: where an earlier process
    /// marked last is unknown, but for that it was no later than this. `is_calmed`: [`Dirty::calm`] is called.
    pub(crate) fn begins(&self, at: Lsn, is_calmed: bool) {
        self.ledger.change(|book| {
            book.is_calmed = is_calmed;
            for kept in book.tables.values_mut() {
                kept.last_lsn = kept.last_lsn.max(at.0);
                let is_unseen = UNSEEN.iter().any(|reason| kept.reasons.contains_key(&(*reason as u8)));
                if is_calmed && is_unseen {
                    kept.rest = Rest::Marked;
                }
            }
            (false, ())
        });
    }

    /// The primary is about to be asked which transactions are under way, for [`Dirty::calm`]. False: nobody wants to know.
    pub(crate) fn asks(&self) -> bool {
        self.ledger.change(|book| {
            let mut is_wanted = false;
            for kept in book.tables.values_mut().filter(|kept| !kept.is_calm()) {
                is_wanted = true;
                if matches!(kept.rest, Rest::Marked) {
                    kept.rest = Rest::Asked;
                }
            }
            (false, is_wanted)
        })
    }

    /// This table may be written to by what its mark is about.
    pub(crate) fn awaits(&self, table: TableId) -> bool {
        self.ledger.look(|book| book.tables.get(&table.0).is_some_and(|kept| !kept.is_calm()))
    }

    /// These transactions were under way on the primary behind [`Dirty::asks`]; the journal is here. True: of some table
    /// what the marks are about is over, and they count as made now.
    pub(crate) fn calm(&self, under_way: &BTreeSet<String>, at: Lsn) -> bool {
        self.ledger.change(|book| {
            let mut has_calmed = false;
            book.tables.values_mut().for_each(|kept| has_calmed |= kept.calm(under_way, at));
            (false, has_calmed)
        })
    }

    /// Mark a table, as of a journal position. Durable when it resolves.
    pub async fn mark(&self, table: TableId, reason: Reason, at: Lsn) -> Result<(), Error> {
        self.note(table, reason, at);
        self.ledger.saved().await
    }

    /// [`Dirty::mark`] without waiting: durable with the next [`Dirty::saved`].
    pub(crate) fn note(&self, table: TableId, reason: Reason, at: Lsn) {
        self.ledger.change(|book| {
            let known = book.cleared.get(&table.0).is_some_and(|&below| at.0 < below);
            (!known && book.mark(table, reason, at), ())
        });
    }

    /// Everything noted before is durable when it resolves.
    pub(crate) async fn saved(&self) -> Result<(), Error> {
        self.ledger.saved().await
    }

    /// [`Dirty::saved`] for who cannot await: blocks for two syncs where something new was noted.
    pub(crate) fn save(&self) -> Result<(), Error> {
        self.ledger.save()
    }

    /// Everything noted before is durable already.
    pub(crate) fn is_saved(&self) -> bool {
        self.ledger.is_saved()
    }

    /// All dirty tables, by label.
    pub fn list(&self) -> Vec<DirtyTable> {
        self.ledger.look(|book| book.tables.iter().map(|(&table, kept)| kept.show(TableId(table))).collect())
    }

    /// One table.
    pub fn get(&self, table: TableId) -> Option<DirtyTable> {
        self.ledger.look(|book| book.tables.get(&table.0).map(|kept| kept.show(table)))
    }

    /// Some table was marked at this position or behind it.
    pub(crate) fn is_marked_at(&self, at: Lsn) -> bool {
        self.ledger.look(|book| book.tables.values().any(|kept| kept.last_lsn >= at.0))
    }

    /// How far the journal was: the highest position that is named.
    pub(crate) fn reached(&self) -> Lsn {
        let highest = |book: &Book| {
            let marks = book.tables.values().map(|kept| kept.last_lsn);
            marks.chain(book.cleared.values().copied()).max()
        };
        Lsn(self.ledger.look(highest).unwrap_or(0))
    }

    /// How many tables.
    pub fn len(&self) -> usize {
        self.ledger.look(|book| book.tables.len())
    }

    /// No table is dirty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole table was made equal by a payment whose cut was at `cut`: clear it, unless it was marked since.
    pub(crate) async fn repaired(&self, table: TableId, cut: Lsn) -> Result<bool, Error> {
        let covered = self.note_repaired(table, cut);
        self.ledger.saved().await.map(|()| covered)
    }

    /// [`Dirty::repaired`] without waiting: durable with the next [`Dirty::saved`].
    pub(crate) fn note_repaired(&self, table: TableId, cut: Lsn) -> bool {
        self.ledger.change(|book| {
            let covered = book.tables.get(&table.0).is_some_and(|kept| kept.last_lsn < cut.0 && kept.is_calm());
            if covered {
                book.tables.remove(&table.0);
            }
            (covered, covered)
        })
    }

    /// A table got another label: it is as dirty under that one. What the old one names now, if anything, stays dirty too:
    /// nobody knows which of both a mark meant. Durable with the next [`Dirty::saved`].
    pub(crate) fn note_renamed(&self, from: TableId, to: TableId, is_gone: bool) {
        self.ledger.change(|book| {
            let Some(kept) = book.tables.get(&from.0).cloned() else { return (false, ()) };
            book.tables.entry(to.0).or_insert_with(|| Kept { reasons: BTreeMap::new(), ..kept.clone() }).add(kept);
            if is_gone {
                book.tables.remove(&from.0);
            }
            (true, ())
        });
    }

    /// An operator says that the table is well. Marks by records below `at` are not believed again. False: was not dirty.
    pub async fn clear(&self, table: TableId, at: Lsn) -> Result<bool, Error> {
        let was = self.ledger.change(|book| {
            let was = book.tables.remove(&table.0).is_some();
            if was {
                book.cleared.insert(table.0, at.0);
            }
            (was, was)
        });
        self.ledger.saved().await.map(|()| was)
    }

    /// The journal holds nothing below `at`: what was remembered against re-reading it can go, with the next save.
    pub(crate) fn trimmed(&self, at: Lsn) {
        self.ledger.change(|book| (false, book.cleared.retain(|_, &mut below| below > at.0)));
    }
}

impl Book {
    /// True when the file must say it: a busy table is marked by every record, and a count is not worth a sync. Nor is the
    /// position: after a restart all marks count as made at its beginning ([`Dirty::begins`]).
    fn mark(&mut self, table: TableId, reason: Reason, at: Lsn) -> bool {
        let now = unix_now();
        let kept = self.tables.entry(table.0).or_insert_with(|| Kept {
            reasons: BTreeMap::new(),
            first_unix: now,
            last_unix: now,
            last_lsn: at.0,
            rest: Rest::Calm,
        });
        if self.is_calmed && UNSEEN.contains(&reason) {
            kept.rest = Rest::Marked;
        }
        kept.last_unix = now;
        kept.last_lsn = kept.last_lsn.max(at.0);
        let count = kept.reasons.entry(reason as u8).or_insert(0);
        *count += 1;
        *count == 1
    }
}

impl Kept {
    fn add(&mut self, other: Kept) {
        other.reasons.into_iter().for_each(|(reason, count)| *self.reasons.entry(reason).or_insert(0) += count);
        self.first_unix = self.first_unix.min(other.first_unix);
        self.last_unix = self.last_unix.max(other.last_unix);
        self.last_lsn = self.last_lsn.max(other.last_lsn);
        if !(self.is_calm() && other.rest.is_calm()) {
            self.rest = Rest::Marked;
        }
    }

    fn is_calm(&self) -> bool {
        self.rest.is_calm()
    }

    fn calm(&mut self, under_way: &BTreeSet<String>, at: Lsn) -> bool {
        let left: BTreeSet<String> = match &self.rest {
            Rest::Calm | Rest::Marked => return false,
            Rest::Asked => under_way.clone(),
            Rest::Awaits(those) => {
                // What is not under way any more may have been prepared, and goes by another name then.
                let is_prepared = |one: &&String| one.starts_with(PREPARED);
                let may_be_prepared = those.difference(under_way).any(|one| !is_prepared(&one));
                let prepared = under_way.iter().filter(|one| may_be_prepared && is_prepared(one));
                those.intersection(under_way).chain(prepared).cloned().collect()
            }
        };
        if !left.is_empty() {
            self.rest = Rest::Awaits(left);
            return false;
        }
        self.rest = Rest::Calm;
        self.last_lsn = self.last_lsn.max(at.0);
        true
    }

    fn show(&self, table: TableId) -> DirtyTable {
        let reasons = self.reasons.iter().filter_map(|(&byte, &count)| Some((Reason::from_u8(byte)?, count)));
        DirtyTable {
            table,
            reasons: reasons.collect(),
            first_unix: self.first_unix,
            last_unix: self.last_unix,
            last: Lsn(self.last_lsn),
        }
    }
}

impl Rest {
    fn is_calm(&self) -> bool {
        matches!(self, Rest::Calm)
    }
}

/// Seconds since the epoch, for people.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TableId = TableId(7);

    fn reopened(file: &Durable) -> Dirty {
        Dirty::open(file.clone()).expect("loads")
    }

    #[tokio::test]
    async fn a_mark_survives_a_restart_promise_6() {
        let file = Durable::in_memory("dirty");
        reopened(&file).mark(T, Reason::Uncaptured, Lsn(5)).await.expect("saved");
        let tables = reopened(&file).list();
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].reasons, [(Reason::Uncaptured, 1)]);
    }

    #[tokio::test]
    async fn a_payment_clears_only_marks_below_its_cut() {
        let dirty = reopened(&Durable::in_memory("dirty"));
        dirty.mark(T, Reason::Counts, Lsn(5)).await.expect("saved");
        assert!(!dirty.repaired(T, Lsn(5)).await.expect("saved"));
        assert!(dirty.repaired(T, Lsn(6)).await.expect("saved"));
        assert!(dirty.is_empty());
    }

    #[tokio::test]
    async fn a_walk_that_began_before_a_later_mark_does_not_clear_it_after_a_restart() {
        let file = Durable::in_memory("dirty");
        let dirty = reopened(&file);
        for at in [100, 200] {
            dirty.mark(T, Reason::Journal, Lsn(at)).await.expect("saved");
        }
        let dirty = reopened(&file);
        dirty.begins(Lsn(300), false);
        assert!(!dirty.repaired(T, Lsn(150)).await.expect("saved"));
        assert!(dirty.repaired(T, Lsn(301)).await.expect("saved"), "it looked since");
    }

    #[tokio::test]
    async fn what_was_written_past_the_journal_is_clean_when_its_transaction_was_over_before() {
        let dirty = reopened(&Durable::in_memory("dirty"));
        dirty.begins(Lsn(0), true);
        let under_way = |those: &[&str]| those.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
        dirty.mark(T, Reason::Journal, Lsn(5)).await.expect("saved");
        assert!(!dirty.repaired(T, Lsn(9)).await.expect("saved"), "nobody looked");
        assert!(dirty.asks() && !dirty.calm(&under_way(&["its", "another"]), Lsn(10)));
        assert!(!dirty.calm(&under_way(&["its", "a later one"]), Lsn(11)));
        assert!(!dirty.repaired(T, Lsn(12)).await.expect("saved") && dirty.awaits(T), "it may write yet");
        assert!(dirty.calm(&under_way(&["a later one"]), Lsn(20)));
        assert!(!dirty.repaired(T, Lsn(12)).await.expect("saved"), "that looked before");
        assert!(dirty.repaired(T, Lsn(21)).await.expect("saved"));
        dirty.mark(T, Reason::Journal, Lsn(22)).await.expect("saved");
        assert!(dirty.asks());
        dirty.note(T, Reason::Journal, Lsn(23));
        assert!(!dirty.calm(&under_way(&[]), Lsn(24)) && dirty.awaits(T), "marked again since it was asked");
        assert!(dirty.asks() && dirty.calm(&under_way(&[]), Lsn(25)) && !dirty.asks());
        assert!(dirty.repaired(T, Lsn(26)).await.expect("saved"));
        dirty.mark(T, Reason::Journal, Lsn(27)).await.expect("saved");
        assert!(dirty.asks() && !dirty.calm(&under_way(&["7/120"]), Lsn(27)));
        assert!(!dirty.calm(&under_way(&["prepared x", "7/121"]), Lsn(28)), "it may be that one");
        assert!(!dirty.calm(&under_way(&["prepared x", "prepared y"]), Lsn(28)) && dirty.awaits(T));
        assert!(dirty.calm(&under_way(&["prepared y"]), Lsn(28)) && dirty.repaired(T, Lsn(29)).await.expect("saved"));
        dirty.mark(T, Reason::Uncaptured, Lsn(30)).await.expect("saved");
        assert!(dirty.repaired(T, Lsn(31)).await.expect("saved"), "its record said when it was over");
    }

    #[tokio::test]
    async fn after_a_restart_what_was_under_way_is_waited_for_too() {
        let file = Durable::in_memory("dirty");
        reopened(&file).mark(T, Reason::Lost, Lsn(5)).await.expect("saved");
        let dirty = reopened(&file);
        dirty.begins(Lsn(7), true);
        assert!(dirty.asks() && !dirty.repaired(T, Lsn(9)).await.expect("saved"));
        assert!(dirty.calm(&BTreeSet::new(), Lsn(9)) && !dirty.asks());
        assert!(dirty.repaired(T, Lsn(10)).await.expect("saved"));
    }

    #[tokio::test]
    async fn a_mark_follows_a_table_to_its_new_name() {
        let file = Durable::in_memory("dirty");
        let dirty = reopened(&file);
        let (swapped, old) = (TableId(8), TableId(9));
        dirty.mark(T, Reason::Uncaptured, Lsn(5)).await.expect("saved");
        dirty.mark(swapped, Reason::Counts, Lsn(6)).await.expect("saved");
        dirty.note_renamed(T, old, false);
        dirty.note_renamed(swapped, T, true);
        dirty.saved().await.expect("saved");
        let dirty = reopened(&file);
        let reasons = |table| dirty.get(table).map(|dirty| dirty.reasons);
        assert_eq!(reasons(old), Some(vec![(Reason::Uncaptured, 1)]));
        assert_eq!(reasons(T), Some(vec![(Reason::Uncaptured, 1), (Reason::Counts, 1)]));
        assert_eq!(reasons(swapped), None);
        assert!(!dirty.repaired(T, Lsn(6)).await.expect("saved"), "its last mark lies there");
    }

    #[tokio::test]
    async fn a_cleared_table_is_not_dirty_again_by_records_read_again() {
        let file = Durable::in_memory("dirty");
        let dirty = reopened(&file);
        dirty.mark(T, Reason::Uncaptured, Lsn(5)).await.expect("saved");
        assert!(dirty.clear(T, Lsn(9)).await.expect("saved"));
        let dirty = reopened(&file);
        dirty.mark(T, Reason::Uncaptured, Lsn(5)).await.expect("saved");
        assert!(dirty.is_empty());
        dirty.mark(T, Reason::Uncaptured, Lsn(9)).await.expect("saved");
        assert_eq!(dirty.len(), 1);
    }
}
