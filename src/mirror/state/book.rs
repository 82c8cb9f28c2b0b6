//! The little that must survive a restart beside the journal.
//!
//! Keys need nothing: what the journal still holds is owed again. Schema changes must not run twice, so each is written
//! here *before* its payment, with the number that the secondary's counter will show if that payment commits: after a
//! crash the counter says whether it did. The numbers of payments whose records were trimmed are remembered too: a
//! secondary that has fewer has lost what nobody can owe again, and every table that was ever owed is dirty.
//!
//! One journal, one secondary: the numbers mean nothing once another journal's applier has paid in between, which the secondary
//! tells ([`Book::stranger`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::journal::Lsn;
use crate::mirror::durable::{Durable, Error};
use crate::record::TableId;

/// What is remembered. Every change is durable when the method returns, where its comment does not say otherwise.
pub struct Book {
    file: Durable,
    page: Page,
    saved: Page,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    /// The highest payment of which some record was trimmed.
    floor: u64,
    /// Tables that were ever owed.
    tables: BTreeSet<u64>,
    /// Records with schema changes, and the payment that repeats them.
    ddl: BTreeMap<u64, u64>,
    /// Those of them with changes of no table alone, of which it is not written down yet what was refused.
    #[serde(default)]
    unsettled: BTreeSet<u64>,
    /// The lives of the primary and of the secondary that were seen last; 0: none.
    #[serde(default)]
    lives: (u64, u64),
    /// This journal has paid here.
    #[serde(default)]
    ours: bool,
    /// The primary that was seen last.
    #[serde(default)]
    primary: Primary,
}

/// As of [`super::copier::Standing`]; zeros: none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Primary {
    #[serde(default)]
    identity: u64,
    timeline: u64,
    started: u64,
    /// Where the journal stood when it answered.
    answered: u64,
    /// As [`Book::meets`] tells.
    gone: u64,
    /// As [`Book::follows`] tells.
    #[serde(default)]
    unsure: u64,
}

impl Book {
    /// Load what an earlier process left.
    pub fn open(file: Durable) -> Result<Book, Error> {
        let page: Page = file.load()?.unwrap_or_default();
        Ok(Book { file, saved: page.clone(), page })
    }

    /// How far the journal was: behind the last record that is named.
    pub fn reached(&self) -> Lsn {
        let behind = self.page.ddl.keys().next_back().map_or(0, |lsn| lsn.saturating_add(1));
        Lsn(behind.max(self.page.primary.answered))
    }

    /// The secondary holds `payments`: schema changes that were meant for later ones have not happened. The records of
    /// those that have. Of no table, they are repeated if it is not known what was refused: twice they do no harm.
    pub async fn stand(&mut self, payments: u64) -> Result<Vec<Lsn>, Error> {
        let unsettled = std::mem::take(&mut self.page.unsettled);
        self.page.ddl.retain(|lsn, &mut number| number <= payments && !unsettled.contains(lsn));
        self.save().await?;
        Ok(self.page.ddl.keys().copied().map(Lsn).collect())
    }

    /// The secondary lacks payments whose records are gone: the tables that may differ. From now on `payments` is what
    /// it has.
    pub fn lost(&mut self, payments: u64) -> Option<Vec<TableId>> {
        let lost = payments < self.page.floor;
        self.page.floor = self.page.floor.min(payments);
        lost.then(|| self.page.tables.iter().copied().map(TableId).collect())
    }

    /// Another journal's applier has paid since, and the secondary holds `payments`: which of ours are among them its counter does
    /// not say. The records of schema changes of which nobody knows whether they happened, and all tables that were ever owed;
    /// `None`: this journal has paid nothing here. Durable with the next save.
    pub fn stranger(&mut self, payments: u64) -> Option<(Vec<Lsn>, Vec<TableId>)> {
        let Page { floor, tables, ddl, unsettled, ours, .. } = &mut self.page;
        if !*ours && *floor == 0 && tables.is_empty() && ddl.is_empty() {
            return None;
        }
        *floor = payments.min(*floor);
        ddl.values_mut().for_each(|number| *number = payments);
        let in_doubt = ddl.keys().filter(|lsn| !unsettled.contains(lsn)).copied().map(Lsn).collect();
        Some((in_doubt, tables.iter().copied().map(TableId).collect()))
    }

    /// A payment was made. Durable with the next save.
    pub fn paid(&mut self) {
        self.page.ours = true;
    }

    /// These are the lives of the primary and of the secondary, 0 if one is not known: which of them is another than before.
    /// Durable with the next save.
    pub fn begins(&mut self, lives: (u64, u64)) -> (bool, bool) {
        let began = |known: &mut u64, now| now != 0 && ![0, now].contains(&std::mem::replace(known, now));
        (began(&mut self.page.lives.0, lives.0), began(&mut self.page.lives.1, lives.1))
    }

    /// The primary that was seen last is another database than this one. Of 0 nobody knows.
    pub fn is_of_another(&self, identity: u64) -> bool {
        ![0, identity].contains(&self.page.primary.identity) && identity != 0
    }

    /// This is the primary, at this timeline, and the journal is here; `None`: what was known is of another turn. Below the position
    /// that is returned the primary may have lost schema changes, for it was another server when it was seen before; whether that
    /// is news. Before [`Book::meets`]. Durable with the next save.
    pub fn follows(&mut self, identity: u64, timeline: u64, here: Option<Lsn>) -> (Lsn, bool) {
        let known = &mut self.page.primary;
        let moved = here.filter(|_| ![0, timeline].contains(&known.timeline));
        known.unsure = moved.map_or(known.unsure, |here| here.0);
        known.identity = identity;
        (Lsn(known.unsure), moved.is_some())
    }

    /// This server is the primary, and was started then; 0: not known. Who logged in to it with the journal below the position that is
    /// returned is gone: it was started since. Of another server nothing is said: both may have
    /// answered for a while. Durable with the next save.
    pub fn meets(&mut self, timeline: u64, started: u64) -> Lsn {
        let known = &mut self.page.primary;
        if started != 0 && known.started != started {
            known.gone = if known.timeline == timeline { known.answered } else { 0 };
            known.started = started;
        }
        known.timeline = timeline;
        Lsn(known.gone)
    }

    /// The primary answered when the journal was durable to here. In the file with the next save, and no reason for one.
    pub fn answered(&mut self, at: Lsn) {
        self.page.primary.answered = at.0;
    }

    /// The payment with this number is about to repeat the schema changes of these records, with whether they are of no table
    /// alone. What the one before was refused of is written down.
    pub async fn intend(&mut self, records: impl IntoIterator<Item = (Lsn, bool)>, number: u64) -> Result<(), Error> {
        for (lsn, alone) in records {
            self.page.ddl.insert(lsn.0, number);
            if alone {
                self.page.unsettled.insert(lsn.0);
            }
        }
        self.save().await
    }

    /// What the payment was refused of is written down. Durable with the next save, which is before the next payment.
    pub fn settle(&mut self) {
        self.page.unsettled.clear();
    }

    /// Payments up to this number were let go, and these tables were owed. Durable with the next save.
    pub fn note(&mut self, floor: Option<u64>, tables: impl IntoIterator<Item = TableId>) {
        self.page.floor = self.page.floor.max(floor.unwrap_or(0));
        self.page.tables.extend(tables.into_iter().map(|table| table.0));
    }

    /// The journal is about to be trimmed, and has forgotten what lies below `at`: a change that could be read again
    /// would be repeated, and an index without a name would be there twice.
    pub async fn trim(&mut self, at: Lsn) -> Result<(), Error> {
        self.page.ddl.retain(|&lsn, _| lsn >= at.0);
        self.save().await
    }

    async fn save(&mut self) -> Result<(), Error> {
        let answered = self.page.primary.answered;
        self.saved.primary.answered = answered;
        if self.page != self.saved {
            self.file.save_aside(&self.page).await?;
            self.saved = self.page.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(file: &Durable) -> Book {
        Book::open(file.clone()).expect("loads")
    }

    #[tokio::test]
    async fn the_counter_says_whether_a_schema_change_happened() {
        let file = Durable::in_memory("book");
        open(&file).intend([(Lsn(4), false)], 10).await.expect("saved");
        assert_eq!(open(&file).stand(10).await.expect("saved"), [Lsn(4)]);
        assert_eq!(open(&file).stand(9).await.expect("saved"), []);
        // The next payment has that number and is another one.
        assert_eq!(open(&file).stand(10).await.expect("saved"), []);
    }

    #[tokio::test]
    async fn what_was_refused_and_is_written_nowhere_is_tried_again() {
        let file = Durable::in_memory("book");
        open(&file).intend([(Lsn(4), true)], 10).await.expect("saved");
        assert_eq!(open(&file).stand(10).await.expect("saved"), []);
        let mut book = open(&file);
        book.intend([(Lsn(4), true)], 11).await.expect("saved");
        book.settle();
        book.intend([], 12).await.expect("saved");
        assert_eq!(open(&file).stand(11).await.expect("saved"), [Lsn(4)]);
    }

    #[tokio::test]
    async fn behind_another_journals_payments_the_counter_says_nothing() {
        let file = Durable::in_memory("book");
        let mut book = open(&file);
        assert_eq!(book.stranger(150), None, "nothing was paid here yet");
        book.paid();
        book.note(Some(100), [TableId(1)]);
        book.intend([(Lsn(4), false), (Lsn(5), true)], 101).await.expect("saved");
        let mut book = open(&file);
        assert_eq!(book.stranger(90), Some((vec![Lsn(4)], vec![TableId(1)])));
        assert_eq!(
            book.stand(90).await.expect("saved"),
            [Lsn(4)],
            "it is not repeated, and what is of no table may be"
        );
        assert_eq!(open(&file).lost(90), None, "said once");
    }

    #[tokio::test]
    async fn who_logged_in_to_a_primary_that_was_started_since_is_gone() {
        let file = Durable::in_memory("book");
        let mut book = open(&file);
        assert_eq!(book.meets(1, 7), Lsn(0));
        book.answered(Lsn(40));
        assert_eq!(book.meets(1, 7), Lsn(0), "connected anew");
        assert_eq!(book.meets(1, 0), Lsn(0), "not known");
        book.intend([(Lsn(4), false)], 10).await.expect("saved");
        book.answered(Lsn(50));
        book.trim(Lsn(0)).await.expect("nothing to be saved");
        let mut book = open(&file);
        assert_eq!((book.meets(1, 8), book.reached()), (Lsn(40), Lsn(40)));
        book.answered(Lsn(60));
        assert_eq!(book.meets(2, 9), Lsn(0), "another server, on which some may have been before");
        book.answered(Lsn(70));
        assert_eq!(book.meets(2, 10), Lsn(70));
    }

    #[tokio::test]
    async fn a_life_that_ended_while_nobody_looked_is_noticed() {
        let file = Durable::in_memory("book");
        let mut book = open(&file);
        assert_eq!(book.begins((7, 0)), (false, false), "nothing was known");
        book.stand(0).await.expect("saved");
        let mut book = open(&file);
        assert_eq!(book.begins((7, 4)), (false, false));
        assert_eq!(book.begins((8, 0)), (true, false));
        assert_eq!(book.begins((8, 5)), (false, true));
    }

    #[tokio::test]
    async fn a_failover_and_another_primary_are_told_from_what_was_written_down() {
        let file = Durable::in_memory("book");
        let mut book = open(&file);
        assert!(!book.is_of_another(7), "none was known");
        assert_eq!(book.follows(7, 1, Some(Lsn(3))), (Lsn(0), false), "none was known");
        book.meets(1, 1);
        book.stand(1).await.expect("saved");
        let mut book = open(&file);
        assert_eq!((book.is_of_another(8), book.is_of_another(7), book.is_of_another(0)), (true, false, false));
        assert_eq!(book.follows(7, 1, Some(Lsn(4))), (Lsn(0), false));
        assert_eq!(open(&file).follows(7, 2, Some(Lsn(5))), (Lsn(5), true));
        let mut book = open(&file);
        assert_eq!(book.follows(7, 2, Some(Lsn(6))), (Lsn(6), true), "whoever was told may have died of it");
        book.meets(2, 2);
        book.stand(1).await.expect("saved");
        assert_eq!(open(&file).follows(7, 2, Some(Lsn(7))), (Lsn(6), false));
    }

    #[tokio::test]
    async fn a_secondary_behind_the_floor_names_every_table() {
        let file = Durable::in_memory("book");
        let mut book = open(&file);
        book.note(Some(5), [TableId(1), TableId(2)]);
        book.trim(Lsn(9)).await.expect("saved");
        let mut book = open(&file);
        assert_eq!(book.lost(5), None);
        assert_eq!(book.lost(4), Some(vec![TableId(1), TableId(2)]));
        assert_eq!(book.lost(4), None);
    }
}
