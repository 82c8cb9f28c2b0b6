//! The little that must survive a restart beside the journal.
//!
//! Most records need nothing: what the journal still holds is done again, which ends as doing it once. What must not be
//! done again once something behind it was done is written here first: barriers (a second TRUNCATE would take what came
//! after the first), and records that were set aside. Nor may what stands before a barrier be done again behind it: a
//! TRUNCATE leaves nothing that would hide an older write. A barrier had its table for itself, so all that stands before
//! it and names the table was done. The journal keeps whole segments; how far records are done, a position in the midst
//! of one, is here too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::journal::Lsn;
use crate::mirror::durable::{Durable, Error, Ledger};
use crate::record::TableId;

/// What is remembered. Changes are durable with the next [`Book::saved`]; clones share one book.
#[derive(Clone)]
pub struct Book {
    ledger: Ledger<Page>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Page {
    /// Everything below is done, and nobody can lose it any more.
    released: u64,
    /// Records above that must not be done again.
    settled: BTreeSet<u64>,
    /// The newest of the barriers above, by table; 0 is that of all tables. Whatever stands before it and names the table
    /// must not be done again.
    #[serde(default)]
    barriers: BTreeMap<u64, u64>,
    /// Tables that were looked at before anything was written to them, or of which records were applied.
    #[serde(default)]
    tables: BTreeSet<u64>,
    /// Those of them that had rows then.
    #[serde(default)]
    strangers: BTreeSet<u64>,
}

impl Book {
    /// Load what an earlier process left.
    pub fn open(file: Durable) -> Result<Book, Error> {
        Ok(Book { ledger: Ledger::open(file)? })
    }

    /// How far the journal was: behind the last record that is named, or where those that are done end.
    pub fn reached(&self) -> Lsn {
        let settled = |page: &Page| page.settled.last().map_or(0, |lsn| lsn.saturating_add(1));
        self.ledger.look(|page| Lsn(page.released.max(settled(page))))
    }

    /// This record, which names these tables, is done for good.
    pub fn is_done(&self, lsn: Lsn, tables: impl Iterator<Item = TableId>) -> bool {
        self.ledger.look(|page| {
            let passed = |table: TableId| page.barriers.get(&table.0).is_some_and(|barrier| lsn.0 < *barrier);
            let is_passed = || !page.barriers.is_empty() && [TableId::NONE].into_iter().chain(tables).any(passed);
            lsn.0 < page.released || page.settled.contains(&lsn.0) || is_passed()
        })
    }

    /// This record must not be done again.
    pub fn settle(&self, lsn: Lsn) {
        self.ledger.change(|page| (page.settled.insert(lsn.0), ()));
    }

    /// What stands before this barrier and names its table must not be done again; without a table, nothing before it.
    pub fn pass(&self, lsn: Lsn, table: TableId) {
        self.ledger.change(|page| {
            let newest = page.barriers.entry(table.0).or_default();
            let news = lsn.0 > *newest;
            *newest = lsn.0.max(*newest);
            (news, ())
        });
    }

    /// Everything below is done for good.
    pub fn release(&self, lsn: Lsn) {
        self.ledger.change(|page| {
            let news = lsn.0 > page.released;
            page.released = page.released.max(lsn.0);
            page.settled = page.settled.split_off(&page.released);
            let released = page.released;
            page.barriers.retain(|_, barrier| *barrier > released);
            (news, ())
        });
    }

    /// The secondary's table was looked at: rows that are there when it is met first are a stranger's, until it has none.
    pub fn meet(&self, table: TableId, occupied: bool) {
        self.ledger.change(|page| {
            let is_new = page.tables.insert(table.0);
            let news = match occupied {
                true => is_new && page.strangers.insert(table.0),
                false => page.strangers.remove(&table.0),
            };
            (is_new || news, ())
        });
    }

    /// The secondary's table was met.
    pub fn knows(&self, table: TableId) -> bool {
        self.ledger.look(|page| page.tables.contains(&table.0))
    }

    /// What the secondary has of the table may not be ours.
    pub fn has_strangers(&self, table: TableId) -> bool {
        self.ledger.look(|page| !page.tables.contains(&table.0) || page.strangers.contains(&table.0))
    }

    /// Everything changed before is durable when it resolves.
    pub async fn saved(&self) -> Result<(), Error> {
        self.ledger.saved().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_there_first_are_a_stranger_s_until_there_are_none() {
        let book = Book::open(Durable::in_memory("book")).expect("absent");
        let (ours, theirs) = (TableId(1), TableId(2));
        assert!(book.has_strangers(ours), "nobody looked");
        for (table, occupied) in [(ours, false), (ours, true), (theirs, true), (theirs, true)] {
            book.meet(table, occupied);
        }
        assert!(!book.has_strangers(ours) && book.has_strangers(theirs));
        book.meet(theirs, false);
        assert!(!book.has_strangers(theirs));
    }

    #[tokio::test]
    async fn what_is_settled_is_done_after_a_restart_and_so_is_what_lies_below() {
        let file = Durable::in_memory("book");
        let book = Book::open(file.clone()).expect("absent");
        book.settle(Lsn(7));
        book.saved().await.expect("saved");
        let book = Book::open(file.clone()).expect("loads");
        let is_done = |book: &Book, lsn| book.is_done(Lsn(lsn), [TableId(1)].into_iter());
        assert!(is_done(&book, 7) && !is_done(&book, 6));
        book.release(Lsn(9));
        book.saved().await.expect("saved");
        let book = Book::open(file).expect("loads");
        assert!(is_done(&book, 8) && !is_done(&book, 9));
        assert_eq!(book.reached(), Lsn(9));
        book.settle(Lsn(12));
        assert_eq!(book.reached(), Lsn(13));
    }

    #[tokio::test]
    async fn what_stands_before_a_barrier_of_one_of_its_tables_is_done_after_a_restart() {
        let file = Durable::in_memory("book");
        let book = Book::open(file.clone()).expect("absent");
        let (emptied, other) = (TableId(1), TableId(2));
        [3, 7, 5].into_iter().for_each(|lsn| book.pass(Lsn(lsn), emptied));
        book.saved().await.expect("saved");
        let book = Book::open(file.clone()).expect("loads");
        let is_done = |lsn, tables: &[TableId]| book.is_done(Lsn(lsn), tables.iter().copied());
        assert!(is_done(6, &[emptied]) && is_done(6, &[other, emptied]) && !is_done(6, &[other]));
        assert!(!is_done(7, &[emptied]) && !is_done(8, &[emptied]));
        book.pass(Lsn(9), TableId::NONE);
        assert!(is_done(8, &[other]) && is_done(8, &[]) && !is_done(9, &[other]));
        book.release(Lsn(9));
        book.ledger.look(|page| assert!(page.barriers.is_empty()));
    }

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let page: Page = serde_json::from_str(r#"{"released": 5, "settled": [7]}"#).expect("reads");
        assert!(page.settled.contains(&7) && page.barriers.is_empty());
    }
}
