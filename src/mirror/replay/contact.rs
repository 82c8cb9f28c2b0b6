//! The first contact with a table: before anything is written to one of the secondary's for the first time, it is looked at
//! whether it has rows. One that had none holds what tandem wrote; of one that had some a backfill is told, which must not
//! take them for its own.
//!
//! What was seen is on the disk before the write is sent: a process that comes after this one sees rows there, and would take
//! its own for a stranger's. Cost: one read and one save a table, once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::applier::{Applied, Applier, Job};
use super::book::Book;
use crate::record::{Item, TableId};

/// Clones share what is known.
#[derive(Clone)]
pub(super) struct Contact {
    book: Book,
    /// Tables of which the disk knows.
    met: Arc<Mutex<HashSet<TableId>>>,
    /// One looks at a time: whoever comes for the same table waits until the disk knows.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl Contact {
    pub(super) fn new(book: Book) -> Contact {
        Contact { book, met: Arc::default(), looking: Arc::default() }
    }

    /// Look at the job's tables that were never looked at.
    ///
    /// # Errors
    /// They cannot be looked at now: what becomes of the job.
    pub(super) async fn meet(&self, applier: &impl Applier, job: &Job) -> Result<(), Applied> {
        if self.strange(job).is_empty() {
            return Ok(());
        }
        let _looking = self.looking.lock().await;
        let mut met = self.strange(job);
        for table in met.clone() {
            if self.book.knows(table) {
                continue;
            }
            match applier.is_occupied(table, job.attempt).await? {
                Some(occupied) => self.book.meet(table, occupied),
                // Nothing can be written to it; it is met when it is there.
                None => _ = met.remove(&table),
            }
        }
        self.book.saved().await.map_err(|error| Applied::Away(error.to_string()))?;
        self.met.lock().unwrap_or_else(PoisonError::into_inner).extend(met);
        Ok(())
    }

    fn strange(&self, job: &Job) -> HashSet<TableId> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = |item: &Item<'_>| matches!(item, Item::Write { .. } | Item::Key { .. } | Item::Touch { .. });
        let tables = job.record.items().filter(writes).map(|item| item.table());
        tables.filter(|table| *table != TableId::NONE && !met.contains(table)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::applier::{Certainty, Error};
    use super::*;
    use crate::journal::Lsn;
    use crate::mirror::durable::Durable;
    use crate::record::{Backend, Record, RecordBuf};

    const T: TableId = TableId(3);
    const U: TableId = TableId(4);

    /// What is there, and which tables were looked at.
    #[derive(Default)]
    struct There {
        tables: HashMap<TableId, Result<bool, Applied>>,
        looked: Mutex<Vec<TableId>>,
    }

    impl Applier for There {
        async fn open(&self) -> Result<(), Error> {
            Ok(())
        }

        async fn apply(&self, _: &Job) -> Applied {
            Applied::Done
        }

        async fn is_occupied(&self, table: TableId, _: u32) -> Result<Option<bool>, Applied> {
            self.looked.lock().expect("not poisoned").push(table);
            self.tables.get(&table).cloned().transpose()
        }
    }

    fn job() -> Job {
        let mut record = RecordBuf::default();
        [T, U].iter().for_each(|table| record.key(*table, b"k", false));
        let record = Record::parse(record.finish(Backend { id: 0, life: 0 }).to_vec().into()).expect("made above");
        let (certainty, late, attempt) = (Certainty::Committed, false, 1);
        Job {
            lsn: Lsn(1),
            record,
            certainty,
            late,
            attempt,
            ended: Lsn(2),
            handed: Lsn(3),
            told: tokio::time::Instant::now(),
        }
    }

    #[tokio::test]
    async fn a_table_is_looked_at_once_and_the_disk_knows_before_it_is_written_to() {
        let file = Durable::in_memory("book");
        let contact = |file: &Durable| Contact::new(Book::open(file.clone()).expect("loads"));
        let there = There { tables: HashMap::from([(T, Ok(false)), (U, Ok(true))]), ..There::default() };
        let first = contact(&file);
        first.meet(&there, &job()).await.expect("it is there");
        first.meet(&there, &job()).await.expect("it is known");
        let book = Book::open(file.clone()).expect("loads");
        assert_eq!([T, U].map(|table| book.has_strangers(table)), [false, true]);
        // What was written since is no stranger's.
        let full = There { tables: HashMap::from([(T, Ok(true)), (U, Ok(true))]), ..There::default() };
        contact(&file).meet(&full, &job()).await.expect("it is known");
        let looked = |there: &There| there.looked.lock().expect("not poisoned").len();
        assert_eq!((looked(&there), looked(&full)), (2, 0));
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_looked_at_is_not_written_to_and_one_that_is_not_there_is_met_later() {
        let contact = Contact::new(Book::open(Durable::in_memory("book")).expect("absent"));
        let away = Applied::Away("unavailable".into());
        let there = There { tables: HashMap::from([(T, Err(away.clone()))]), ..There::default() };
        assert_eq!(contact.meet(&there, &job()).await, Err(away));
        let there = There { tables: HashMap::from([(T, Ok(false))]), ..There::default() };
        contact.meet(&there, &job()).await.expect("U is not there");
        assert!(!contact.book.knows(U) && contact.book.knows(T));
        let there = There { tables: HashMap::from([(U, Ok(true))]), ..There::default() };
        contact.meet(&there, &job()).await.expect("it was made");
        assert!(contact.book.knows(U) && contact.book.has_strangers(U));
    }
}
