//! Chunks that are being copied, and what the mirror does to the same rows meanwhile where no timestamp decides between
//! the two.
//!
//! - A place that is settled by state may have lost a row of which no tombstone tells: both sides showed none. A copy that was
//!   read before would bring it back. So whoever copies learns which places were settled meanwhile, and owes them again:
//!   the settlement that follows sees what the copy wrote.
//! - A TRUNCATE leaves no tombstones either, and a change of the schema changes what a copy writes. So a barrier waits for the
//!   chunks of its table that have begun; those that begin later read what the primary has behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::protocol::cql::ballot::row_key;
use crate::protocol::cql::cluster::token;
use crate::protocol::cql::place::Place;
use crate::record::TableId;

/// More places of one chunk are not kept: it is looked at as a whole.
const PLACES_MAX: usize = 10_000;

/// Chunks and settlements that are under way.
#[derive(Default)]
pub(in super::super) struct Beside {
    now: Mutex<Now>,
    ended: Notify,
}

#[derive(Default)]
struct Now {
    /// Counts everything that began.
    count: u64,
    copies: BTreeMap<u64, Copying>,
    settlements: BTreeMap<u64, (TableId, i64, Box<[u8]>)>,
}

struct Copying {
    table: TableId,
    /// Tokens above the first and up to the second.
    tokens: (i64, i64),
    places: BTreeSet<Box<[u8]>>,
}

/// A chunk is being copied until this is dropped.
pub(in super::super) struct Copies<'b> {
    beside: &'b Beside,
    number: u64,
}

/// A place is being settled until this is dropped.
pub(in super::super) struct Settlement<'b> {
    beside: &'b Beside,
    number: u64,
}

impl Beside {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the first look at the primary.
    pub(in super::super) fn copy(&self, table: TableId, tokens: (i64, i64)) -> Copies<'_> {
        let mut now = self.lock();
        let number = now.begin();
        now.copies.insert(number, Copying { table, tokens, places: BTreeSet::new() });
        Copies { beside: self, number }
    }

    /// Before the first look at either side.
    pub(in super::super) fn settle(&self, table: TableId, place: &Place, key: &[u8]) -> Settlement<'_> {
        let mut now = self.lock();
        let number = now.begin();
        // What no server takes is written nowhere, and in nobody's way.
        let token = row_key(&place.partition).map_or(i64::MIN, |key| token(&key));
        now.settlements.insert(number, (table, token, key.into()));
        Settlement { beside: self, number }
    }

    /// Wait for the copies of this table that have begun; of all tables if it is none. Cancel safe.
    pub(in super::super) async fn pass(&self, table: TableId) {
        let until = self.lock().count;
        loop {
            let ended = self.ended.notified();
            let waits =
                |(number, copy): (&u64, &Copying)| *number <= until && (table == TableId::NONE || copy.table == table);
            if !self.lock().copies.iter().any(waits) {
                return;
            }
            ended.await;
        }
    }
}

impl Now {
    fn begin(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

impl Copying {
    fn note(&mut self, (table, token, key): &(TableId, i64, Box<[u8]>)) {
        let (above, last) = self.tokens;
        if *table == self.table && above < *token && *token <= last && self.places.len() <= PLACES_MAX {
            self.places.insert(key.clone());
        }
    }
}

impl Copies<'_> {
    /// Behind the last write: the places that were settled meanwhile, or are. `None`: too many.
    pub(in super::super) fn end(self) -> Option<BTreeSet<Box<[u8]>>> {
        let mut now = self.beside.lock();
        let now = &mut *now;
        let copy = now.copies.get_mut(&self.number)?;
        now.settlements.values().for_each(|settlement| copy.note(settlement));
        let places = std::mem::take(&mut copy.places);
        (places.len() <= PLACES_MAX).then_some(places)
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        self.beside.lock().copies.remove(&self.number);
        self.beside.ended.notify_waiters();
    }
}

impl Drop for Settlement<'_> {
    fn drop(&mut self) {
        let mut now = self.beside.lock();
        let now = &mut *now;
        if let Some(settlement) = now.settlements.remove(&self.number) {
            now.copies.values_mut().for_each(|copy| copy.note(&settlement));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const TABLE: TableId = TableId(1);
    const ALL: (i64, i64) = (i64::MIN, i64::MAX);

    fn place(key: &str) -> (Place, Vec<u8>) {
        let place = Place::partition(vec![key.as_bytes().to_vec()]);
        let bytes = place.encode().expect("short").to_vec();
        (place, bytes)
    }

    fn settled(beside: &Beside, table: TableId, key: &str) {
        let (place, key) = place(key);
        drop(beside.settle(table, &place, &key));
    }

    #[test]
    fn a_copy_learns_of_every_settlement_that_it_overlaps_and_of_no_other() {
        let beside = Beside::default();
        settled(&beside, TABLE, "before");
        let (into, into_key) = place("ends within");
        let ends_within = beside.settle(TABLE, &into, &into_key);
        let (around, around_key) = place("around");
        let goes_on = beside.settle(TABLE, &around, &around_key);
        let copy = beside.copy(TABLE, ALL);
        drop(ends_within);
        settled(&beside, TABLE, "within");
        settled(&beside, TableId(2), "another table");
        let mine = copy.end().expect("few");
        drop(goes_on);
        let expected = [into_key, around_key, place("within").1].map(Vec::into_boxed_slice);
        assert_eq!(mine, BTreeSet::from(expected));
    }

    #[test]
    fn only_places_of_the_chunk_concern_it() {
        let beside = Beside::default();
        let of = token(&row_key(&place("here").0.partition).expect("short"));
        let copy = beside.copy(TABLE, (of - 1, of));
        let other = beside.copy(TABLE, (of, i64::MAX));
        settled(&beside, TABLE, "here");
        assert_eq!(copy.end().map(|places| places.len()), Some(1));
        assert_eq!(other.end().map(|places| places.len()), Some(0));
    }

    #[test]
    fn too_many_places_are_said_to_be_so() {
        let beside = Beside::default();
        let copy = beside.copy(TABLE, ALL);
        (0..=PLACES_MAX).for_each(|n| settled(&beside, TABLE, &n.to_string()));
        assert_eq!(copy.end(), None);
    }

    #[tokio::test]
    async fn a_barrier_waits_for_the_copies_of_its_table_that_have_begun() {
        let beside = Beside::default();
        let (copy, other) = (beside.copy(TABLE, ALL), beside.copy(TableId(2), ALL));
        let mut barrier = Box::pin(beside.pass(TABLE));
        assert_eq!(barrier.as_mut().now_or_never(), None);
        let later = beside.copy(TABLE, ALL);
        drop(copy);
        barrier.await;
        let mut of_all = Box::pin(beside.pass(TableId::NONE));
        drop(other);
        assert_eq!(of_all.as_mut().now_or_never(), None);
        drop(later);
        of_all.await;
    }
}
