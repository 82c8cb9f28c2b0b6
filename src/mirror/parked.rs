//! Parked keys: rows that the secondary refuses, set aside so that the others go on (promise 6).
//!
//! A parked key is kept with its error, counted, listed, retried or discarded by an operator. It is never retried with
//! old contents: a retry owes the key again, and a payment copies what the row is then. So does any later write to it;
//! the payment that succeeds takes it out. The count is bounded: past it the key's table is dirty, which says more
//! with less.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::record::TableId;

use super::dirty::unix_now;
use super::durable::{Durable, Error};
use super::state::copier::{Owed, Refused};

/// The parked keys; cheap to clone, clones share one ledger. Locked briefly, also across the file write of a change.
#[derive(Clone)]
pub struct Parked {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    file: Durable,
    max: usize,
    entries: BTreeMap<Id, Entry>,
}

type Id = (u64, Option<Box<[u8]>>);

/// A key, or a whole table, that the secondary refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    table: u64,
    /// The table's qualified name.
    pub name: String,
    /// The key; `None`: the whole table.
    #[serde(with = "super::durable::hex")]
    pub key: Option<Box<[u8]>>,
    /// The key as an operator may see it, by name and on request only (promise 13).
    pub shown: String,
    /// The secondary's error, without row values.
    pub why: String,
    /// Seconds since the epoch of the first refusal.
    pub first_unix: u64,
    /// Seconds since the epoch of the last one.
    pub last_unix: u64,
    /// How often it was refused.
    pub attempts: u64,
    /// Refused by a payment that was not exact: its neighbours may have been in the way, so the next exact payment
    /// tries it again by itself.
    pub provisional: bool,
}

impl Entry {
    /// The table's label.
    pub fn table(&self) -> TableId {
        TableId(self.table)
    }

    /// What commands call it: sixteen hex digits made of table and key, the same after a restart, and no row value.
    pub fn id(&self) -> String {
        let mut hash = self.table ^ 0xcbf2_9ce4_8422_2325;
        for &byte in self.key.iter().flat_map(|key| key.iter()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        format!("{hash:016x}")
    }
}

impl Parked {
    /// Load what an earlier process left; keep at most `max`.
    pub fn open(file: Durable, max: usize) -> Result<Parked, Error> {
        let entries: Vec<Entry> = file.load()?.unwrap_or_default();
        let entries = entries.into_iter().map(|entry| ((entry.table, entry.key.clone()), entry)).collect();
        Ok(Parked { shared: Arc::new(Mutex::new(Shared { file, max, entries })) })
    }

    /// All of them, by table and key.
    pub fn list(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<Entry> {
        self.lock().entries.values().find(|entry| entry.id() == id).cloned()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Nothing is parked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forget one: its row may differ from now on, and the operator knows. False: there is none.
    pub fn discard(&self, id: &str) -> Result<bool, Error> {
        let mut shared = self.lock();
        let before = shared.entries.len();
        shared.entries.retain(|_, entry| entry.id() != id);
        let found = shared.entries.len() < before;
        if found {
            shared.save()?;
        }
        Ok(found)
    }

    /// A payment went through: park what it refused, take out what it made equal. Durable when it returns. The answer
    /// names the tables that must be dirty: refused whole, or with more refused keys than may be kept.
    pub(crate) fn paid(&self, owed: &Owed, refused: &[Refused], exact: bool) -> Result<Vec<TableId>, Error> {
        let mut shared = self.lock();
        if shared.entries.is_empty() && refused.is_empty() {
            return Ok(Vec::new());
        }
        let before = shared.entries.len();
        shared.entries.retain(|id, _| !covers(owed, id) || refused.iter().any(|refused| is(refused, id)));
        let left = shared.entries.len() < before;
        let dirty = refused.iter().filter_map(|refused| shared.park(refused, !exact)).collect();
        if left || !refused.is_empty() {
            shared.save()?;
        }
        Ok(dirty)
    }

    /// Entries refused by inexact payments, which are ordinary ones from now on.
    pub(crate) fn take_provisional(&self) -> Vec<Entry> {
        let mut shared = self.lock();
        let provisional = shared.entries.values_mut().filter(|entry| entry.provisional);
        provisional
            .map(|entry| {
                entry.provisional = false;
                entry.clone()
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn park(&mut self, refused: &Refused, provisional: bool) -> Option<TableId> {
        let id = (refused.table.0, refused.key.clone());
        let now = unix_now();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.attempts += 1;
            entry.last_unix = now;
            entry.why.clone_from(&refused.why);
            entry.provisional = provisional;
        } else if self.entries.len() < self.max {
            self.entries.insert(id, fresh(refused, now, provisional));
        } else {
            return Some(refused.table);
        }
        refused.key.is_none().then_some(refused.table)
    }

    fn save(&self) -> Result<(), Error> {
        self.file.save(&self.entries.values().collect::<Vec<_>>())
    }
}

fn fresh(refused: &Refused, now: u64, provisional: bool) -> Entry {
    Entry {
        table: refused.table.0,
        name: refused.name.clone(),
        key: refused.key.clone(),
        shown: refused.shown.clone(),
        why: refused.why.clone(),
        first_unix: now,
        last_unix: now,
        attempts: 1,
        provisional,
    }
}

/// The payment said something about this entry. A table refused whole is well again only when it was paid whole.
fn covers(owed: &Owed, (table, key): &Id) -> bool {
    let table = TableId(*table);
    let named = key.as_ref().is_some_and(|key| owed.keys.get(&table).is_some_and(|keys| keys.contains_key(key)));
    named || owed.tables.contains(&table)
}

fn is(refused: &Refused, (table, key): &Id) -> bool {
    refused.table.0 == *table && (refused.key.is_none() || refused.key == *key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const T: TableId = TableId(3);

    fn refused(key: &[u8]) -> Refused {
        Refused {
            table: T,
            name: "public.acc".into(),
            key: Some(key.into()),
            shown: "1".into(),
            why: "23514 check constraint".into(),
        }
    }

    fn owing(key: &[u8]) -> Owed {
        Owed { keys: HashMap::from([(T, HashMap::from([(key.into(), false)]))]), ..Owed::default() }
    }

    fn open(file: &Durable, max: usize) -> Parked {
        Parked::open(file.clone(), max).expect("loads")
    }

    #[test]
    fn a_refused_key_is_parked_durably_and_leaves_with_the_payment_that_succeeds() {
        let file = Durable::in_memory("parked");
        open(&file, 9).paid(&owing(b"k"), &[refused(b"k")], true).expect("saved");
        let parked = open(&file, 9);
        parked.paid(&owing(b"k"), &[refused(b"k")], true).expect("saved");
        assert_eq!(parked.list()[0].attempts, 2);
        parked.paid(&owing(b"other"), &[], true).expect("saved");
        assert_eq!(parked.len(), 1);
        parked.paid(&owing(b"k"), &[], true).expect("saved");
        assert!(open(&file, 9).is_empty());
    }

    #[test]
    fn past_the_bound_the_table_is_dirty_promise_12() {
        let parked = open(&Durable::in_memory("parked"), 1);
        let dirty = parked.paid(&Owed::default(), &[refused(b"a"), refused(b"b")], true).expect("saved");
        assert_eq!((parked.len(), dirty), (1, vec![T]));
    }

    #[test]
    fn a_table_refused_whole_is_dirty_and_leaves_only_when_paid_whole() {
        let parked = open(&Durable::in_memory("parked"), 9);
        let whole = Refused { key: None, ..refused(b"") };
        assert_eq!(parked.paid(&owing(b"k"), &[whole], true).expect("saved"), [T]);
        parked.paid(&owing(b"k"), &[], true).expect("saved");
        assert_eq!(parked.len(), 1);
        parked.paid(&Owed { tables: vec![T], ..Owed::default() }, &[], true).expect("saved");
        assert!(parked.is_empty());
    }

    #[test]
    fn a_discarded_key_is_gone_by_its_id() {
        let parked = open(&Durable::in_memory("parked"), 9);
        parked.paid(&owing(b"k"), &[refused(b"k")], true).expect("saved");
        let id = parked.list()[0].id();
        assert_eq!(parked.get(&id).expect("parked").shown, "1");
        assert!(parked.discard(&id).expect("saved"));
        assert!(!parked.discard(&id).expect("saved"));
    }
}
