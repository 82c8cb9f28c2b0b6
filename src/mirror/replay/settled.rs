//! Places that were settled by state, so that a place which many write is settled once for all of them.
//!
//! Whoever looked at a place saw what every unit did that had ended by then; what such a unit's record asks for was done
//! with it. That holds as long as nothing else is replayed there: an older write, or a truncation, may undo what was seen,
//! and then the next record's settlement is the one that mends it. Claims see to it that a write of a part and a place in
//! it are never at work at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::journal::Lsn;
use crate::record::{Item, Lane, Order, Record, TableId};

/// More places are forgotten, which costs a look each.
const MAX: usize = 10_000;

/// Places that were settled since the secondary was opened.
#[derive(Default)]
pub struct Settled(Mutex<Places>);

/// The places of a part by their keys, each with how far the journal was written when it was looked at, and how hard
/// ([`Item::Look`]).
type LookedAt = HashMap<Box<[u8]>, (Lsn, u8)>;

/// By table and part.
#[derive(Default)]
struct Places {
    of: HashMap<TableId, HashMap<Option<u64>, LookedAt>>,
    count: usize,
}

impl Settled {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ended here, and is found by who looks so hard, was seen when the place with this key, in the part of this lane,
    /// was settled.
    pub fn covers(&self, table: TableId, lane: Lane, key: &[u8], (ended, look): (Lsn, u8)) -> bool {
        let places = self.lock();
        let looked_at = || places.of.get(&table)?.get(&lane.part())?.get(key).copied();
        looked_at().is_some_and(|(handed, looked)| ended < handed && look <= looked)
    }

    /// The place was settled, and looked at when the journal was written so far, so hard.
    pub fn note(&self, table: TableId, lane: Lane, key: &[u8], handed: (Lsn, u8)) {
        let mut places = self.lock();
        if places.count >= MAX {
            *places = Places::default();
        }
        let part = places.of.entry(table).or_default().entry(lane.part()).or_default();
        let is_new = part.insert(key.into(), handed).is_none();
        places.count += usize::from(is_new);
    }

    /// A record is about to be applied: what its writes and barriers touch has to be looked at again. What only asks for
    /// places to be settled, also whole parts, undoes nothing.
    pub fn touched_by(&self, record: &Record) {
        let writes = record.items().any(|item| matches!(item, Item::Write { .. }));
        let mut places = self.lock();
        for item in record.items() {
            match item {
                Item::Write { table, lane, .. } | Item::Touch { table, lane }
                    if writes && lane.order() != Order::AtPlaces =>
                {
                    places.forget(table, lane.part());
                }
                Item::Ddl(TableId::NONE, _) | Item::Table(TableId::NONE) => *places = Places::default(),
                Item::Ddl(table, _) | Item::Table(table) => places.forget(table, None),
                _ => {}
            }
        }
    }

    /// The secondary may have lost what it had.
    pub fn clear(&self) {
        *self.lock() = Places::default();
    }
}

impl Places {
    /// A part of a table, or all of it.
    fn forget(&mut self, table: TableId, part: Option<u64>) {
        let Some(parts) = self.of.get_mut(&table) else { return };
        let forgotten: Vec<LookedAt> = match part {
            Some(_) => [part, None].iter().filter_map(|part| parts.remove(part)).collect(),
            None => parts.drain().map(|(_, places)| places).collect(),
        };
        self.count -= forgotten.iter().map(HashMap::len).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Backend, RecordBuf};

    const T: TableId = TableId(1);
    const U: TableId = TableId(2);
    /// As hashes are: their lowest bits are lost in a lane.
    const PART: u64 = 0x73;
    const OTHER: u64 = 0x83;

    fn at(part: u64) -> Lane {
        Lane::new(Order::AtPlaces, part)
    }

    fn settled() -> Settled {
        let settled = Settled::default();
        for (table, part) in [(T, PART), (T, OTHER), (U, PART)] {
            settled.note(table, at(part), b"k", (Lsn(100), 1));
        }
        settled
    }

    fn covered_after(build: impl FnOnce(&mut RecordBuf)) -> [bool; 3] {
        let (settled, mut buf) = (settled(), RecordBuf::default());
        build(&mut buf);
        let record = Record::parse(buf.finish(Backend { id: 1, life: 1 }).to_vec().into()).expect("valid");
        settled.touched_by(&record);
        [(T, PART), (T, OTHER), (U, PART)]
            .map(|(table, part)| settled.covers(table, Lane::beside(part), b"k", (Lsn(99), 0)))
    }

    #[test]
    fn a_place_covers_what_had_ended_when_it_was_looked_at() {
        let settled = settled();
        let covers = |key, ended, look| settled.covers(T, at(PART), key, (Lsn(ended), look));
        assert!(covers(b"k", 99, 0) && covers(b"k", 99, 1));
        assert!(!covers(b"k", 100, 0) && !covers(b"l", 99, 0));
        assert!(!covers(b"k", 99, 2), "nobody looked so hard");
        settled.clear();
        assert!(!covers(b"k", 99, 0));
    }

    #[test]
    fn what_is_replayed_there_later_undoes_it() {
        assert_eq!(covered_after(|r| r.write(T, Lane::beside(PART), b"w")), [false, true, true]);
        assert_eq!(covered_after(|r| r.write(T, Lane::ANY, b"w")), [false, false, true]);
        assert_eq!(covered_after(|r| r.ddl(T, b"TRUNCATE")), [false, false, true]);
        assert_eq!(covered_after(|r| r.ddl(TableId::NONE, b"DROP KEYSPACE")), [false, false, false]);
        assert_eq!(covered_after(|r| r.touch(T, Lane::new(Order::AtPlaces, PART))), [true, true, true]);
        let elsewhere = |r: &mut RecordBuf| {
            r.write(U, Lane::beside(OTHER), b"w");
            r.touch(T, Lane::alone(PART));
        };
        assert_eq!(covered_after(elsewhere), [false, true, true]);
    }

    #[test]
    fn a_part_that_is_settled_whole_again_and_again_is_looked_at_once_for_all() {
        let whole = |r: &mut RecordBuf| {
            r.key(T, b"k", true);
            r.touch(T, Lane::alone(PART));
        };
        assert_eq!(covered_after(whole), [true, true, true]);
    }

    #[test]
    fn no_more_are_kept_than_fit() {
        let settled = Settled::default();
        for n in 0..=MAX as u64 {
            settled.note(T, at(n << 2), b"k", (Lsn(1), 0));
        }
        assert_eq!(settled.lock().count, 1);
    }
}
