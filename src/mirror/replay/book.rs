//! The little that must survive a restart beside the journal.
//!
//! Most records need nothing: what the journal still holds is done again, which ends as doing it once. What must not be
//! done again once something behind it was done is written here first: barriers (a second TRUNCATE would take what came
//! after the first), and records that were set aside. The journal keeps whole segments; how far records are done, a
//! position in the midst of one, is here too.

use std::collections::BTreeSet;

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

    /// This record is done for good.
    pub fn is_done(&self, lsn: Lsn) -> bool {
        self.ledger.look(|page| lsn.0 < page.released || page.settled.contains(&lsn.0))
    }

    /// This record must not be done again.
    pub fn settle(&self, lsn: Lsn) {
        self.ledger.change(|page| (page.settled.insert(lsn.0), ()));
    }

    /// Everything below is done for good.
    pub fn release(&self, lsn: Lsn) {
        self.ledger.change(|page| {
            let news = lsn.0 > page.released;
            page.released = page.released.max(lsn.0);
            page.settled = page.settled.split_off(&page.released);
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
        assert!(book.is_done(Lsn(7)) && !book.is_done(Lsn(6)));
        book.release(Lsn(9));
        book.saved().await.expect("saved");
        let book = Book::open(file).expect("loads");
        assert!(book.is_done(Lsn(8)) && !book.is_done(Lsn(9)));
        assert_eq!(book.reached(), Lsn(9));
        book.settle(Lsn(12));
        assert_eq!(book.reached(), Lsn(13));
    }
}
