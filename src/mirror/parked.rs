//! What the secondary refuses, set aside so that the rest goes on (promise 6): kept with its error, counted, listed,
//! retried or discarded by an operator. The count is bounded: past it the table is dirty, which says more with less.
//!
//! The mirror by state parks *keys*. One is never retried with old contents: a retry owes the key again, and a payment
//! copies what the row is then. So does any later write to it; the payment that succeeds takes it out.
//!
//! The mirror by replay parks *records*, whole, because the journal does not keep them for ever. A retry is the record
//! once more, at the journal's end, and it knows that it is late: what was ordered behind it has gone ahead.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::journal::Lsn;
use crate::record::TableId;

use super::dirty::unix_now;
use super::durable::{Durable, Error, Ledger};
use super::state::copier::{Owed, Paid, Refused, Renamed};

/// The parked keys; cheap to clone, clones share one ledger.
#[derive(Clone)]
pub struct Parked {
    ledger: Ledger<Entries>,
    max: usize,
}

/// By table and key; the file has them as a list.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
struct Entries(BTreeMap<Id, Entry>);

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
    /// What was parked is a record, and this is it. `None`: a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Kept>,
}

/// A parked record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The record that a retry appends.
    #[serde(with = "super::durable::hex")]
    bytes: Option<Box<[u8]>>,
    /// Nobody knows whether it happened on the primary.
    pub unknown: bool,
    /// It is a barrier that has not been given up: its table waits for it, and it is tried again by itself.
    pub holds: bool,
}

impl Kept {
    /// The record that a retry appends.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

/// A record that the secondary refuses.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    /// The table that it is listed under.
    pub table: TableId,
    /// Its qualified name.
    pub name: String,
    /// The record for an operator, on request only.
    pub shown: String,
    /// Why it is refused.
    pub why: String,
    /// Where it stood when it was refused first: its name together with the table.
    pub lsn: Lsn,
    /// The record that a retry appends.
    pub bytes: Box<[u8]>,
    /// See [`Kept`].
    pub unknown: bool,
    /// See [`Kept`].
    pub holds: bool,
}

/// How many records may be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of one table.
    pub of_table: usize,
    /// Their bytes together.
    pub bytes: usize,
}

impl Entry {
    /// It is a schema change, which no table is listed for, and this is what would be repeated ([`Owed::ddl`]).
    pub fn change(&self) -> Option<&[u8]> {
        self.key.as_deref().filter(|_| self.table() == TableId::NONE && self.record.is_none())
    }

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
        Ok(Parked { ledger: Ledger::open(file)?, max })
    }

    /// All of them, by table and key.
    pub fn list(&self) -> Vec<Entry> {
        self.ledger.look(|entries| entries.0.values().cloned().collect())
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<Entry> {
        self.ledger.look(|entries| entries.0.values().find(|entry| entry.id() == id).cloned())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ledger.look(|entries| entries.0.len())
    }

    /// Nothing is parked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forget one: its row may differ from now on, and the operator knows. False: there is none.
    pub async fn discard(&self, id: &str) -> Result<bool, Error> {
        let found = self.ledger.change(|entries| {
            let before = entries.0.len();
            entries.0.retain(|_, entry| entry.id() != id);
            let found = entries.0.len() < before;
            (found, found)
        });
        self.ledger.saved().await.map(|()| found)
    }

    /// Keep a refused record, or say so again of one that is kept. False: there is no room. Durable with the next
    /// [`Parked::saved`].
    pub(crate) fn set_aside(&self, rejected: Rejected, bounds: Bounds) -> bool {
        self.ledger.change(|entries| {
            let kept = entries.set_aside(rejected, self.max, bounds);
            (kept, kept)
        })
    }

    /// The record of this table that was refused at this position first.
    pub(crate) fn record(&self, table: TableId, lsn: Lsn) -> Option<Entry> {
        self.ledger.look(|entries| entries.0.get(&of_record(table, lsn)).cloned())
    }

    /// It is on the secondary, or nobody wants it any more. True: it was here. Durable with the next [`Parked::saved`].
    pub(crate) fn release(&self, table: TableId, lsn: Lsn) -> bool {
        self.ledger.change(|entries| {
            let was = entries.0.remove(&of_record(table, lsn)).is_some();
            (was, was)
        })
    }

    /// Everything changed before is durable when it resolves.
    pub(crate) async fn saved(&self) -> Result<(), Error> {
        self.ledger.saved().await
    }

    /// The keys of all of them, by the table that they were refused of.
    pub(crate) fn keys(&self) -> Vec<(TableId, Box<[u8]>)> {
        self.ledger
            .look(|entries| entries.0.keys().filter_map(|(table, key)| Some((TableId(*table), key.clone()?))).collect())
    }

    /// A payment of `owed` went through: park what it refused, take out what it made equal. What no record owed is tried once
    /// more, so that one does: the secondary may lose this payment. Durable when it resolves. The answer names the tables that
    /// must be dirty: refused whole, or with more refused keys than may be kept.
    pub(crate) async fn paid(&self, owed: &Owed, paid: &Paid, exact: bool) -> Result<Vec<TableId>, Error> {
        let Paid { refused, settled, .. } = paid;
        let settled: HashSet<(u64, &[u8])> = settled.iter().map(|(table, key)| (table.0, &key[..])).collect();
        let is_settled = |(table, key): &Id| key.as_ref().is_some_and(|key| settled.contains(&(*table, &key[..])));
        let dirty = self.ledger.change(|entries| {
            let before = entries.0.len();
            let by_names = |owes: fn(&Owed, &Id) -> bool, id: &Id| match paid.renamed.is_empty() {
                true => owes(owed, id),
                false => paid.names(TableId(id.0)).iter().any(|name| owes(owed, &(name.0, id.1.clone()))),
            };
            let says = |id: &Id| is_settled(id) || by_names(covers, id);
            let mut again = false;
            entries.0.retain(|id, entry| {
                if !says(id) || refused.iter().any(|refused| is(refused, id)) {
                    return true;
                }
                let keep = !owed.coarse.is_empty() && !by_names(is_recorded, id);
                entry.provisional |= keep;
                again |= keep;
                keep
            });
            let left = entries.0.len() < before || again;
            let renamed = paid.renamed.iter().filter(|renamed| entries.renamed(renamed)).count() > 0;
            let dirty = refused.iter().filter_map(|refused| entries.park(refused, !exact, self.max)).collect();
            (left || renamed || !refused.is_empty(), dirty)
        });
        self.ledger.saved().await.map(|()| dirty)
    }

    /// Entries refused by inexact payments.
    pub(crate) fn provisional(&self) -> Vec<Entry> {
        let is = |entry: &&Entry| entry.provisional && entry.change().is_none();
        self.ledger.look(|entries| entries.0.values().filter(is).cloned().collect())
    }

    /// It is tried once more: an ordinary entry from now on.
    pub(crate) fn tried(&self, entry: &Entry) {
        self.ledger.change(|entries| {
            if let Some(entry) = entries.0.get_mut(&(entry.table, entry.key.clone())) {
                entry.provisional = false;
            }
            (false, ())
        });
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        Entries(entries.into_iter().map(|entry| ((entry.table, entry.key.clone()), entry)).collect())
    }
}

impl From<Entries> for Vec<Entry> {
    fn from(entries: Entries) -> Vec<Entry> {
        entries.0.into_values().collect()
    }
}

impl Entries {
    /// A table got another name, and what is refused of it with it; where another table has the old one, nobody knows whose it
    /// was, and it is listed of both. False: that is nothing.
    fn renamed(&mut self, renamed: &Renamed) -> bool {
        let is_its = |table: u64| table == renamed.from.0;
        let its: Vec<Entry> = match renamed.is_gone {
            true => self.0.extract_if(.., |(table, _), _| is_its(*table)).map(|(_, it)| it).collect(),
            false => self.0.iter().filter(|((table, _), _)| is_its(*table)).map(|(_, it)| it.clone()).collect(),
        };
        let any = !its.is_empty();
        for mut entry in its {
            (entry.table, entry.name) = (renamed.to.0, renamed.name.clone());
            self.0.entry((entry.table, entry.key.clone())).or_insert(entry);
        }
        any
    }

    fn park(&mut self, refused: &Refused, provisional: bool, max: usize) -> Option<TableId> {
        let id = (refused.table.0, refused.key.clone());
        let now = unix_now();
        if let Some(entry) = self.0.get_mut(&id) {
            entry.attempts += 1;
            entry.last_unix = now;
            entry.why.clone_from(&refused.why);
            entry.provisional = provisional;
        } else if self.0.len() < max {
            self.0.insert(id, fresh(refused, now, provisional));
        } else {
            return Some(refused.table);
        }
        refused.key.is_none().then_some(refused.table)
    }

    fn set_aside(&mut self, rejected: Rejected, max: usize, bounds: Bounds) -> bool {
        let (id, now) = (of_record(rejected.table, rejected.lsn), unix_now());
        let record = Kept { bytes: Some(rejected.bytes), unknown: rejected.unknown, holds: rejected.holds };
        if let Some(entry) = self.0.get_mut(&id) {
            entry.attempts += 1;
            entry.last_unix = now;
            entry.why = rejected.why;
            entry.record = Some(record);
            return true;
        }
        let bytes = |entry: &Entry| entry.record.as_ref().map_or(0, |record| record.bytes().len());
        let of_table = self.0.range((id.0, None)..).take_while(|((table, _), _)| *table == id.0).count();
        let all: usize = self.0.values().map(bytes).sum();
        if self.0.len() >= max || of_table >= bounds.of_table || all + record.bytes().len() > bounds.bytes {
            return false;
        }
        let entry = Entry {
            table: id.0,
            name: rejected.name,
            key: id.1.clone(),
            shown: rejected.shown,
            why: rejected.why,
            first_unix: now,
            last_unix: now,
            attempts: 1,
            provisional: false,
            record: Some(record),
        };
        self.0.insert(id, entry);
        true
    }
}

/// A record is known by its position where a key is by itself.
fn of_record(table: TableId, lsn: Lsn) -> Id {
    (table.0, Some(lsn.0.to_be_bytes().into()))
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
        record: None,
    }
}

/// The payment said something about this entry. A table refused whole is well again only when it was paid whole.
fn covers(owed: &Owed, id: &Id) -> bool {
    is_recorded(owed, id) || owed.coarse.contains(&TableId(id.0))
}

/// A record says so.
fn is_recorded(owed: &Owed, (table, key): &Id) -> bool {
    let table = TableId(*table);
    if table == TableId::NONE && key.is_some() {
        return owed.ddl.iter().any(|(_, body)| Some(body) == key.as_ref());
    }
    let named = key.as_ref().is_some_and(|key| owed.keys.get(&table).is_some_and(|keys| keys.contains_key(&key[..])));
    named || owed.whole().any(|whole| whole == (table, false))
}

fn is(refused: &Refused, (table, key): &Id) -> bool {
    refused.table.0 == *table && (refused.key.is_none() || refused.key == *key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use crate::mirror::state::keys::Keys;

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
        Owed { keys: HashMap::from([(T, Keys::from_iter([(key.into(), false)]))]), ..Owed::default() }
    }

    fn paid(refused: &[Refused]) -> Paid {
        Paid { refused: refused.to_vec(), ..Paid::default() }
    }

    fn open(file: &Durable, max: usize) -> Parked {
        Parked::open(file.clone(), max).expect("loads")
    }

    #[tokio::test]
    async fn a_refused_key_is_parked_durably_and_leaves_with_the_payment_that_succeeds() {
        let file = Durable::in_memory("parked");
        open(&file, 9).paid(&owing(b"k"), &paid(&[refused(b"k")]), true).await.expect("saved");
        let parked = open(&file, 9);
        parked.paid(&owing(b"k"), &paid(&[refused(b"k")]), true).await.expect("saved");
        assert_eq!(parked.list()[0].attempts, 2);
        parked.paid(&owing(b"other"), &paid(&[]), true).await.expect("saved");
        assert_eq!(parked.len(), 1);
        parked.paid(&owing(b"k"), &paid(&[]), true).await.expect("saved");
        assert!(open(&file, 9).is_empty());
    }

    #[tokio::test]
    async fn a_key_that_went_with_a_table_that_no_record_owed_whole_is_tried_once_more_so_that_one_does() {
        let parked = open(&Durable::in_memory("parked"), 9);
        parked.paid(&owing(b"k"), &paid(&[refused(b"k")]), true).await.expect("saved");
        let whole = Owed { tables: vec![T], coarse: [T].into(), ..Owed::default() };
        parked.paid(&whole, &paid(&[]), true).await.expect("saved");
        let [again] = &parked.provisional()[..] else { panic!("the secondary may lose it: {:?}", parked.list()) };
        parked.tried(again);
        parked.paid(&Owed { coarse: HashSet::new(), ..whole }, &paid(&[]), true).await.expect("saved");
        assert!(parked.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_was_owed_by_another_name_leaves_when_the_wire_says_that_it_was_paid() {
        let parked = open(&Durable::in_memory("parked"), 9);
        parked.paid(&owing(b"k"), &paid(&[refused(b"k")]), true).await.expect("saved");
        assert_eq!(parked.keys(), [(T, b"k"[..].into())]);
        let settled = Paid { settled: parked.keys(), ..paid(&[]) };
        parked
            .paid(&Owed::default(), &Paid { refused: vec![refused(b"k")], ..settled.clone() }, true)
            .await
            .expect("saved");
        assert_eq!(parked.len(), 1, "refused again");
        parked.paid(&Owed::default(), &settled, true).await.expect("saved");
        assert!(parked.is_empty());
    }

    #[tokio::test]
    async fn what_is_refused_of_a_table_follows_it_to_its_new_name() {
        let file = Durable::in_memory("parked");
        let parked = open(&file, 9);
        parked.paid(&owing(b"k"), &paid(&[refused(b"k"), refused(b"l")]), true).await.expect("saved");
        let to = TableId(4);
        let renamed = vec![Renamed { from: T, to, name: "public.old".into(), is_gone: false }];
        // Another table has its name now, and a row of that is refused.
        let swapped = Paid { renamed, ..paid(&[refused(b"m")]) };
        let l = Owed { keys: HashMap::from([(to, Keys::from_iter([(b"l"[..].into(), false)]))]), ..Owed::default() };
        parked.paid(&l, &swapped, true).await.expect("saved");
        let left: Vec<_> = open(&file, 9).list().into_iter().map(|one| (one.table(), one.name, one.key)).collect();
        let own = |key: &[u8]| (T, "public.acc".to_owned(), Some(key.into()));
        let old = (to, "public.old".to_owned(), Some(b"k"[..].into()));
        assert_eq!(left, [own(b"k"), own(b"m"), old], "nobody knows whose k was; l is paid");
    }

    #[tokio::test]
    async fn past_the_bound_the_table_is_dirty_promise_12() {
        let parked = open(&Durable::in_memory("parked"), 1);
        let dirty = parked.paid(&Owed::default(), &paid(&[refused(b"a"), refused(b"b")]), true).await.expect("saved");
        assert_eq!((parked.len(), dirty), (1, vec![T]));
    }

    #[tokio::test]
    async fn a_table_refused_whole_is_dirty_and_leaves_only_when_paid_whole() {
        let parked = open(&Durable::in_memory("parked"), 9);
        let whole = Refused { key: None, ..refused(b"") };
        assert_eq!(parked.paid(&owing(b"k"), &paid(&[whole]), true).await.expect("saved"), [T]);
        parked.paid(&owing(b"k"), &paid(&[]), true).await.expect("saved");
        assert_eq!(parked.len(), 1);
        parked.paid(&Owed { tables: vec![T], ..Owed::default() }, &paid(&[]), true).await.expect("saved");
        assert!(parked.is_empty());
    }

    fn rejected(lsn: u64) -> Rejected {
        Rejected {
            table: T,
            name: "ks.t".into(),
            shown: "1".into(),
            why: "too large".into(),
            lsn: Lsn(lsn),
            bytes: vec![7; 10].into(),
            unknown: true,
            holds: false,
        }
    }

    #[tokio::test]
    async fn a_refused_record_is_kept_whole_until_it_is_released() {
        let file = Durable::in_memory("parked");
        let bounds = Bounds { of_table: 9, bytes: 99 };
        let parked = open(&file, 9);
        assert!(parked.set_aside(rejected(4), bounds) && parked.set_aside(rejected(4), bounds));
        parked.saved().await.expect("saved");
        let parked = open(&file, 9);
        let entry = parked.record(T, Lsn(4)).expect("parked");
        assert_eq!((entry.attempts, entry.record.expect("a record").bytes()), (2, &[7; 10][..]));
        assert!(parked.release(T, Lsn(4)) && !parked.release(T, Lsn(4)));
        parked.saved().await.expect("saved");
        assert!(open(&file, 9).is_empty());
    }

    #[test]
    fn refused_records_are_bounded_by_count_table_and_bytes_promise_12() {
        let kept = |max, bounds| {
            let parked = open(&Durable::in_memory("parked"), max);
            (0..5).filter(|&lsn| parked.set_aside(rejected(lsn), bounds)).count()
        };
        assert_eq!(kept(3, Bounds { of_table: 9, bytes: 99 }), 3);
        assert_eq!(kept(9, Bounds { of_table: 2, bytes: 99 }), 2);
        assert_eq!(kept(9, Bounds { of_table: 9, bytes: 19 }), 1);
    }

    #[tokio::test]
    async fn a_schema_change_of_no_table_stays_until_it_is_repeated() {
        let file = Durable::in_memory("parked");
        let change = Refused { table: TableId::NONE, ..refused(b"change") };
        let refusing = open(&file, 9).paid(&Owed::default(), &paid(&[change]), true).await.expect("saved");
        assert_eq!(refusing, [], "no table is dirty for it");
        let parked = open(&file, 9);
        let all = Owed { tables: vec![TableId::NONE], ..Owed::default() };
        parked.paid(&all, &Paid::default(), true).await.expect("saved");
        assert_eq!(parked.list()[0].change(), Some(&b"change"[..]));
        let again = Owed { ddl: vec![(TableId::NONE, (*b"change").into())], ..Owed::default() };
        parked.paid(&again, &Paid::default(), true).await.expect("saved");
        assert!(open(&file, 9).is_empty());
    }

    #[tokio::test]
    async fn a_schema_change_of_a_table_stays_when_the_table_is_well_again() {
        let parked = open(&Durable::in_memory("parked"), 9);
        let (change, whole) =
            (Refused { table: TableId::NONE, ..refused(b"change") }, Refused { key: None, ..refused(b"") });
        assert_eq!(parked.paid(&Owed::default(), &paid(&[change, whole]), true).await.expect("saved"), [T]);
        parked.paid(&Owed { tables: vec![T], ..Owed::default() }, &Paid::default(), true).await.expect("saved");
        let left: Vec<_> = parked.list().iter().map(|entry| entry.change().map(<[u8]>::to_vec)).collect();
        assert_eq!(left, [Some(b"change".to_vec())]);
        // Its record came again, which names its table.
        let again = Owed { ddl: vec![(T, (*b"change").into())], ..Owed::default() };
        parked.paid(&again, &Paid::default(), true).await.expect("saved");
        assert!(parked.is_empty());
    }

    #[tokio::test]
    async fn a_discarded_key_is_gone_by_its_id() {
        let parked = open(&Durable::in_memory("parked"), 9);
        parked.paid(&owing(b"k"), &paid(&[refused(b"k")]), true).await.expect("saved");
        let id = parked.list()[0].id();
        assert_eq!(parked.get(&id).expect("parked").shown, "1");
        assert!(parked.discard(&id).await.expect("saved"));
        assert!(!parked.discard(&id).await.expect("saved"));
    }
}
