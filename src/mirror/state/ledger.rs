//! What is owed: every key that a unit may have changed since the secondary last was made equal. In memory, pure, no
//! time of its own, no IO.
//!
//! A record in the journal is a unit *sent*: it was appended just before the message that could commit it was
//! forwarded. Only of a large unit there are *parts* before: no state of the primary shows what they name until the
//! record that is no part was written, so no payment looks for it, and if that record never comes nothing is owed. Parts
//! beyond a few are not kept in memory: once they ended they are recalled, read again.
//! [`Ledger::read`] takes entries in order. A unit waits in `open` until the journal, or a proof that nobody
//! can execute it any more, says that it *ended*; committed or aborted is the same to a key, the payment copies what is
//! there. Ended units coalesce into one set of keys, whatever their number.
//!
//! ```text
//!            read(Record)        read(Outcome), gone()          freeze()             paid
//! journal ----------------> open ----------------------> ended ---------> Cut ---------------> forgotten
//!                                                          ^                \  failed
//!                                                          '-----------------'  restore()
//! ```
//!
//! The order that makes a payment exact ("Why a payment is exact" in the architecture): `freeze`, then the snapshot S, then read on to
//! what is appended now, then [`Ledger::collect`]. Every unit that committed before S wrote its record before that, so
//! it is in the payment; every unit of the cut ended before S, so what S shows of it is final and the cut is paid. A
//! unit that ended in between is in the payment and stays owed.
//!
//! Schema changes are different: committed or aborted is not the same to them, and they must run once. They are owed in
//! the order of their records, which is the order of the locks that they held, when the journal says *committed*. One
//! whose unit was proven over without an answer has an unknown outcome and is neither repeated nor forgotten: it is parked,
//! for no payment shows what became of an index or a constraint, and its table is marked dirty with reason `ddl`. If other
//! columns came of it, the copier refuses the table until somebody repeats the change there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use crate::journal::{Entry, Lsn, Outcome, Place};
use crate::record::{Backend, Item, Malformed, Reason, Record, TableId};

use super::copier::{Gone, Owed, Renamed, names};
use super::keys::{Key, Keys};

/// What is owed, and how far the journal was read.
#[derive(Clone, Default)]
pub struct Ledger {
    /// Where reading goes on. Every unit below is in `open`, in `left`, in `ended`, in a cut, or paid.
    next: Lsn,
    open: BTreeMap<Lsn, Unit>,
    /// Parts that nothing closed yet, by who executes them.
    parts: HashMap<Backend, BTreeSet<Lsn>>,
    parts_bytes: usize,
    parts_bytes_max: usize,
    /// Parts that ended and were not kept, and when each was read.
    left: BTreeMap<Lsn, Instant>,
    ended: Owing,
    /// What the last payment could not take: in the next one all the same, and no reason to make it.
    aside: Owing,
    marks: VecDeque<Mark>,
    tables: HashSet<TableId>,
    /// Schema changes that the secondary has already, by record: read again, they are not owed again.
    repeated: HashSet<Lsn>,
    /// Schema changes that the primary may have lost, all below and these by record: read again, they are in doubt, whatever was
    /// said of their end.
    unsure: (Lsn, HashSet<Lsn>),
    /// Where reading stood when [`Ledger::lost`] was called last.
    asked: Lsn,
    /// Names that tables got while units were open, and where reading stood: those below may mean them by the old ones.
    names: Vec<(Lsn, TableId, TableId)>,
}

/// A unit that may still change something.
#[derive(Clone)]
struct Unit {
    backend: Backend,
    /// `None`: a part that is not kept.
    record: Option<Record>,
    /// Nothing that could commit it has been forwarded.
    part: bool,
    /// What it takes of `parts_bytes_max`.
    kept: usize,
    seen: Instant,
    /// The two-phase transactions that it, or a later record of the same transaction, may have become.
    prepared: Option<Prepared>,
    ddl: bool,
}

#[derive(Clone, Default)]
struct Prepared {
    names: Vec<Box<[u8]>>,
    /// Where the journal says that its PREPARE was answered: asked about after that, the backend no longer matters.
    sure: Option<Lsn>,
}

impl Unit {
    fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.record.iter().flat_map(Record::items)
    }

    /// A part that is not kept, of a two-phase transaction that may end at any time.
    fn is_wanted(&self) -> bool {
        self.record.is_none() && !self.part && self.prepared.is_some()
    }

    /// It may be part of these two-phase transactions.
    fn prepare(&mut self, names: &[Box<[u8]>]) {
        if !names.is_empty() {
            self.prepared.get_or_insert_default().names.extend_from_slice(names);
        }
    }
}

/// Coalesced keys of ended units.
#[derive(Clone, Default)]
struct Owing {
    owed: Owed,
    ddl: BTreeMap<Lsn, Vec<Ddl>>,
    /// As [`Owed::repeated`].
    repeated: BTreeMap<Lsn, Vec<Ddl>>,
    keys: usize,
    records: u64,
    oldest: Option<(Lsn, Instant)>,
}

/// A schema change as [`Owed::ddl`] hands it to the copier.
type Ddl = (TableId, Box<[u8]>);

/// All that ended before a snapshot, taken out of the ledger for one payment. It is paid as a whole, or goes back.
pub struct Cut {
    owing: Owing,
    /// Where reading stood when it was taken: everything in it lies below.
    pub upto: Lsn,
}

/// A table that a record says is dirty, as of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The table.
    pub table: TableId,
    /// Why.
    pub reason: Reason,
    /// Where the journal said so.
    pub at: Lsn,
}

impl Ledger {
    /// Nothing is owed below `from`. Parts are kept in memory up to so many bytes, of all units together.
    pub fn new(from: Lsn, parts_bytes_max: usize) -> Ledger {
        Ledger { next: from, parts_bytes_max, ..Ledger::default() }
    }

    /// Where reading goes on.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Everything below is paid. A cut that is out counts as paid: its owner knows better.
    pub fn paid(&self) -> Lsn {
        [self.first_open(), self.oldest_ended().map(|(lsn, _)| lsn)].into_iter().flatten().min().unwrap_or(self.next)
    }

    fn oldest_ended(&self) -> Option<(Lsn, Instant)> {
        [self.oldest_left(), self.ended.oldest, self.aside.oldest].into_iter().flatten().min()
    }

    fn oldest_left(&self) -> Option<(Lsn, Instant)> {
        self.left.first_key_value().map(|(&lsn, &seen)| (lsn, seen))
    }

    /// Everything below that has ended is paid. What is open is owed when it ends, however old it is: history need not wait
    /// for it, for no state of the primary shows it before.
    pub fn ended_paid(&self) -> Lsn {
        self.oldest_ended().map_or(self.next, |(lsn, _)| lsn)
    }

    /// When the oldest unit was read that has ended and is not paid.
    pub fn ended_seen(&self) -> Option<Instant> {
        [self.oldest_left(), self.ended.oldest].into_iter().flatten().min().map(|(_, seen)| seen)
    }

    /// Ended keys that wait for a payment.
    pub fn keys(&self) -> usize {
        self.ended.keys + self.aside.keys
    }

    /// Units not paid: open ones, and ended ones as far as they were counted.
    pub fn records(&self) -> u64 {
        (self.open.len() + self.left.len()) as u64 + self.ended.records + self.aside.records
    }

    /// Something ended and is not paid, nor waits for a lock.
    pub fn due(&self) -> bool {
        self.ended.oldest.is_some()
    }

    /// When the oldest unpaid unit was read.
    pub fn oldest_seen(&self) -> Option<Instant> {
        let open = self.open.values().next().map(|unit| unit.seen);
        let ended = self.oldest_ended().map(|(_, seen)| seen);
        [open, ended].into_iter().flatten().min()
    }

    /// The record of the oldest open unit.
    pub fn first_open(&self) -> Option<Lsn> {
        self.open.keys().next().copied()
    }

    /// When the oldest open unit was read.
    pub fn open_since(&self) -> Option<Instant> {
        self.open.values().map(|unit| unit.seen).min()
    }

    /// Take one entry. On an error nothing was taken, and reading stays where it is.
    pub fn read(&mut self, entry: Entry, now: Instant) -> Result<(), Malformed> {
        match entry {
            Entry::Record { lsn, payload } => {
                self.next = lsn;
                self.record(lsn, payload, now)?;
            }
            Entry::Outcome { lsn, of, outcome } => {
                self.next = lsn;
                self.outcome(lsn, of, outcome);
            }
            // No proof that it ended: its backend may still commit it.
            Entry::Dropped { lsn, .. } => self.next = lsn,
        }
        self.next = Lsn(self.next.0 + 1);
        Ok(())
    }

    /// A batch was read: `next` is where the journal says to go on, `from` where the batch began. Units that stay open
    /// let go of the batch's buffer.
    pub fn batch_read(&mut self, from: Lsn, next: Lsn) {
        self.next = next;
        self.open.range_mut(from..).filter_map(|(_, unit)| unit.record.as_mut()).for_each(Record::detach);
    }

    /// An entry ahead of where reading stands: what it says of open units, and nothing else. It is read again in its turn, which
    /// says nothing new of them.
    pub fn scout(&mut self, entry: Entry) -> Result<(), Malformed> {
        match entry {
            Entry::Record { payload, .. } => {
                let record = Record::parse(payload)?;
                let name = |item| if let Item::Prepared(name) = item { Some(name.into()) } else { None };
                let names: Vec<Box<[u8]>> = record.items().filter_map(name).collect();
                self.prepare_earlier(record.backend, &names);
                if !record.part {
                    self.close(record.backend);
                }
            }
            Entry::Outcome { lsn, of, outcome } => self.outcome(lsn, of, outcome),
            Entry::Dropped { .. } => {}
        }
        Ok(())
    }

    fn record(&mut self, lsn: Lsn, payload: Bytes, now: Instant) -> Result<(), Malformed> {
        let record = Record::parse(payload)?;
        let (backend, part) = (record.backend, record.part);
        let mut unit = Unit { backend, record: None, part, kept: 0, seen: now, prepared: None, ddl: false };
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut only_keys = true;
        for item in record.items() {
            match item {
                Item::Prepared(name) => names.push(name.into()),
                Item::Ddl(..) => unit.ddl = true,
                Item::Key { .. } => {}
                _ => only_keys = false,
            }
        }
        self.prepare_earlier(backend, &names);
        unit.prepare(&names);
        if part {
            self.parts.entry(backend).or_default().insert(lsn);
            unit.kept = record.bytes();
        } else {
            self.close(backend);
        }
        // What else it may say is asked for before it ends.
        let has_only_keys = only_keys && !unit.ddl && names.is_empty();
        if part && has_only_keys && self.parts_bytes + unit.kept > self.parts_bytes_max {
            unit.kept = 0;
        } else {
            self.parts_bytes += unit.kept;
            unit.record = Some(record);
        }
        if backend.id == 0 {
            // Nobody executes it on the primary: the mirror's own retries and repairs, ended when written.
            self.end(lsn, lsn, unit, Some(Outcome::Committed));
        } else {
            self.open.insert(lsn, unit);
        }
        Ok(())
    }

    /// What could commit all that this backend left is forwarded from here on.
    fn close(&mut self, backend: Backend) {
        for lsn in self.parts.remove(&backend).into_iter().flatten() {
            if let Some(unit) = self.open.get_mut(&lsn) {
                unit.part = false;
            }
        }
    }

    /// A large or pipelined transaction has several records, and only the last of them names what it became. All that
    /// its backend left and nobody answered yet may belong to it.
    fn prepare_earlier(&mut self, backend: Backend, names: &[Box<[u8]>]) {
        if names.is_empty() {
            return;
        }
        let answered = |unit: &Unit| unit.prepared.as_ref().is_some_and(|prepared| prepared.sure.is_some());
        let of_backend = self.open.values_mut().filter(|unit| unit.backend == backend);
        of_backend.filter(|unit| !answered(unit)).for_each(|unit| unit.prepare(names));
    }

    /// The first record that has to be read again before all that is owed can be told: it ended, or it may stay open for
    /// as long as its two-phase transaction.
    pub fn to_recall(&self) -> Option<Lsn> {
        let open = || self.open.iter().find(|(_, unit)| unit.is_wanted()).map(|(&lsn, _)| lsn);
        self.left.keys().next().copied().or_else(open)
    }

    /// Entries that were read again: what is not wanted of them is left alone.
    pub fn recall(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<(), Malformed> {
        for entry in entries {
            let Entry::Record { lsn, payload } = entry else { continue };
            if let Some(seen) = self.left.remove(&lsn) {
                for item in Record::parse(payload)?.items() {
                    self.ended.item(item);
                }
                self.ended.count(lsn, seen);
                self.follow_names(lsn);
            } else if let Some(unit) = self.open.get_mut(&lsn).filter(|unit| unit.is_wanted()) {
                let mut record = Record::parse(payload)?;
                record.detach();
                unit.record = Some(record);
            }
        }
        Ok(())
    }

    /// Is everything that a state of the primary may show in memory?
    pub fn is_whole(&self) -> bool {
        self.left.is_empty() && self.open.values().all(|unit| unit.part || unit.record.is_some())
    }

    /// It is in `open` no more.
    fn forget_part(&mut self, lsn: Lsn, unit: &Unit) {
        self.parts_bytes -= unit.kept;
        if unit.part
            && let Some(parts) = self.parts.get_mut(&unit.backend)
        {
            parts.remove(&lsn);
            if parts.is_empty() {
                self.parts.remove(&unit.backend);
            }
        }
    }

    fn outcome(&mut self, at: Lsn, of: Lsn, outcome: Outcome) {
        // Unknown: settled before, by a proof or by a payment, and read again.
        let Some(mut unit) = self.open.remove(&of) else { return };
        match (&mut unit.prepared, outcome) {
            // Its name says the rest: that it is not there, too.
            (Some(prepared), Outcome::Committed | Outcome::Unknown) => {
                prepared.sure = Some(at);
                self.open.insert(of, unit);
            }
            _ => self.end(at, of, unit, Some(outcome)),
        }
    }

    /// The unit can no longer change anything. `outcome: None`: nobody said how it ended.
    fn end(&mut self, at: Lsn, lsn: Lsn, unit: Unit, outcome: Option<Outcome>) {
        self.forget_part(lsn, &unit);
        if unit.part && !matches!(outcome, Some(Outcome::Committed | Outcome::Unknown)) {
            // Whatever ended it, it cannot have been a COMMIT.
            return;
        }
        let Some(record) = unit.record else {
            self.left.insert(lsn, unit.seen);
            return;
        };
        for item in record.items() {
            match item {
                Item::Dirty(..) if outcome == Some(Outcome::Aborted) => {}
                // As of its end: a payment before that may not have seen what it did.
                Item::Dirty(table, reason) => {
                    let names = names(table, self.names.iter().filter(|it| lsn < it.0).map(|it| (it.1, it.2)));
                    self.marks.extend(names.into_iter().map(|table| Mark { table, reason, at }));
                }
                Item::Ddl(table, body) => self.end_ddl(at, lsn, (table, body), outcome),
                other => self.ended.item(other),
            }
        }
        self.ended.count(lsn, unit.seen);
        self.follow_names(lsn);
    }

    /// A unit has ended that may be of before its tables got other names.
    fn follow_names(&mut self, lsn: Lsn) {
        let later = self.names.iter().filter(|(at, ..)| lsn < *at);
        later.for_each(|(_, from, to)| self.ended.renamed(*from, *to));
    }

    fn end_ddl(&mut self, at: Lsn, lsn: Lsn, (table, body): (TableId, &[u8]), outcome: Option<Outcome>) {
        let sure = lsn >= self.unsure.0 && !self.unsure.1.contains(&lsn);
        match outcome {
            Some(Outcome::Aborted) => {}
            _ if sure && self.repeated.contains(&lsn) => {
                self.ended.repeated.entry(lsn).or_default().push((table, body.into()));
            }
            Some(Outcome::Committed) if sure => self.ended.ddl.entry(lsn).or_default().push((table, body.into())),
            _ => {
                self.ended.doubt((table, body.into()));
                if table != TableId::NONE {
                    self.marks.push_back(Mark { table, reason: Reason::Ddl, at });
                }
            }
        }
    }

    /// What to ask [`super::copier::Copier::gone`] about: units open since before `since`.
    pub fn lost(&mut self, since: Instant) -> (Vec<Backend>, Vec<Box<[u8]>>) {
        self.asked = self.next;
        let lost = self.open.values().filter(|unit| unit.seen <= since);
        let backends: HashSet<_> = lost.clone().map(|unit| unit.backend).collect();
        let names: HashSet<_> = lost.filter_map(|unit| unit.prepared.as_ref()).flat_map(|all| &all.names).collect();
        (backends.into_iter().collect(), names.into_iter().cloned().collect())
    }

    /// The answer: units read before `since` whose executors are proven gone have ended. A two-phase transaction ends
    /// with its name; unless its PREPARE was answered before [`Ledger::lost`] the backend must be gone too, or the name
    /// may have appeared after the question. Units read later are not concerned: they may run on a backend that got a
    /// dead one's number. Everything that was written before the answer has been read, or scouted: nothing behind it says how
    /// they ended. Returns how many ended.
    pub fn gone(&mut self, gone: &Gone, since: Instant) -> usize {
        let backends: HashSet<_> = gone.backends.iter().collect();
        let names: HashSet<_> = gone.prepared.iter().collect();
        let asked = self.asked;
        let over = |unit: &Unit| {
            let backend = backends.contains(&unit.backend);
            unit.seen <= since
                && match &unit.prepared {
                    None => backend,
                    Some(prepared) => {
                        (prepared.sure.is_some_and(|at| at < asked) || backend)
                            && prepared.names.iter().all(|name| names.contains(name))
                    }
                }
        };
        let over: Vec<Lsn> = self.open.iter().filter(|(_, unit)| over(unit)).map(|(&lsn, _)| lsn).collect();
        for &lsn in &over {
            let unit = self.open.remove(&lsn).expect("found above");
            self.end(self.next, lsn, unit, None);
        }
        over.len()
    }

    /// Take out all that has ended, *before* the snapshot is taken.
    pub fn freeze(&mut self) -> Cut {
        self.tables.extend(self.ended.owed.keys.keys().chain(&self.ended.owed.tables));
        let mut owing = std::mem::take(&mut self.aside).merge(std::mem::take(&mut self.ended));
        owing.owed.ddl = owing.ddl.values().flatten().cloned().collect();
        owing.owed.repeated = owing.repeated.values().flatten().cloned().collect();
        Cut { owing, upto: self.next }
    }

    /// A schema change that is not in the cut may or may not be in the snapshot: its table would be copied across two
    /// schemas. Two-phase ones are not waited for.
    pub fn schema_in_doubt(&self) -> bool {
        !self.ended.ddl.is_empty() || self.open.values().any(|unit| unit.ddl && unit.prepared.is_none())
    }

    /// Add to the cut, *after* the snapshot was taken and the journal was read on, all else that is owed. It is in the
    /// payment, and it stays owed.
    pub fn collect(&self, cut: &mut Cut) {
        for (table, keys) in &self.ended.owed.keys {
            keys.iter().for_each(|(key, &moved)| cut.owing.key(*table, key, moved));
        }
        self.ended.owed.whole().for_each(|(table, coarse)| cut.owing.whole(table, coarse));
        cut.owing.owed.lost.extend(&self.ended.owed.lost);
        let sent = self.open.values().filter(|unit| !unit.part);
        sent.flat_map(Unit::items).for_each(|item| cut.owing.item(item));
    }

    /// The payment failed: all of it is owed again.
    pub fn restore(&mut self, cut: Cut) {
        self.ended = cut.owing.merge(std::mem::take(&mut self.ended));
    }

    /// The payment could not take this part of its cut: it is owed, and comes with the next one. No more than so many keys are
    /// kept of it: tables that have the most are owed whole instead, and returned.
    pub fn set_aside(&mut self, cut: Cut, keys_max: usize) -> Vec<TableId> {
        self.aside = cut.owing.merge(std::mem::take(&mut self.aside));
        let most = |(table, keys): (&TableId, &Keys)| (keys.len(), table.0);
        let mut whole = Vec::new();
        while self.aside.keys > keys_max {
            let Some((_, table)) = self.aside.owed.keys.iter().map(most).max() else { break };
            self.aside.owe_whole(TableId(table));
            whole.push(TableId(table));
        }
        whole
    }

    /// Tables got other names: what is owed under the old ones is owed under both, also by units that have not ended yet.
    pub fn renamed(&mut self, renamed: &[Renamed]) {
        for Renamed { from, to, .. } in renamed {
            self.ended.renamed(*from, *to);
            self.aside.renamed(*from, *to);
            self.names.push((self.next, *from, *to));
        }
        let first = [self.open.keys().next(), self.left.keys().next()].into_iter().flatten().min();
        self.names.retain(|(at, ..)| first.is_some_and(|first| first < at));
    }

    /// Something waits for a lock.
    pub fn has_aside(&self) -> bool {
        self.aside.oldest.is_some()
    }

    /// The first record of what waits for a lock, if nothing else is unpaid before it.
    pub fn held_by_aside(&self) -> Option<Lsn> {
        self.aside.oldest.map(|(lsn, _)| lsn).filter(|lsn| *lsn <= self.paid())
    }

    /// The tables that owe what waits for a lock.
    pub fn aside_tables(&self) -> HashSet<TableId> {
        let owed = &self.aside.owed;
        owed.keys.keys().chain(&owed.tables).chain(&owed.lost).copied().collect()
    }

    /// What waits for a lock is owed no more.
    pub fn give_up_aside(&mut self) {
        self.aside = Owing::default();
    }

    /// Read again from `from`: what was paid above it may have been lost.
    pub fn rewind(&mut self, from: Lsn) {
        self.next = from.min(self.paid());
        self.open.clear();
        self.parts.clear();
        self.parts_bytes = 0;
        self.left.clear();
        // The secondary may have lost those too: until it was asked, none is there.
        self.repeated.clear();
        (self.ended, self.aside) = (Owing::default(), Owing::default());
    }

    /// The primary may have lost the schema changes of all records below, and of these, which are read again.
    pub fn unsure(&mut self, below: Lsn, records: impl IntoIterator<Item = Lsn>) {
        self.unsure.0 = self.unsure.0.max(below);
        self.unsure.1.extend(records);
    }

    /// The schema changes of these records are on the secondary, those of no others: they are told, and not repeated.
    pub fn repeated(&mut self, records: impl IntoIterator<Item = Lsn>) {
        self.repeated = records.into_iter().collect();
        self.ended.repeated.extend(self.ended.ddl.extract_if(.., |lsn, _| self.repeated.contains(lsn)));
    }

    /// An open unit says that this table is dirty.
    pub fn may_dirty(&self, table: TableId) -> bool {
        let dirty = |item| matches!(item, Item::Dirty(t, _) if t == table);
        self.open.values().any(|unit| unit.items().any(dirty))
    }

    /// A table is dirty for a reason that no record tells.
    pub fn mark(&mut self, mark: Mark) {
        self.marks.push_back(mark);
    }

    /// The first dirty mark that nobody wrote down yet.
    pub fn first_mark(&self) -> Option<Mark> {
        self.marks.front().copied()
    }

    /// It is written down.
    pub fn drop_mark(&mut self) {
        self.marks.pop_front();
    }

    /// Take the tables seen in cuts so far.
    pub fn take_tables(&mut self) -> HashSet<TableId> {
        std::mem::take(&mut self.tables)
    }
}

impl Owing {
    /// What has to be paid for it; a dirty mark and a schema change are no payment's.
    fn item(&mut self, item: Item<'_>) {
        match item {
            Item::Key { table, key, moved } => self.key(table, key, moved),
            // This engine replays nothing: it would copy the table.
            Item::Table(table) | Item::Write { table, .. } | Item::Touch { table, .. } => self.table(table),
            Item::Dirty(..) | Item::Ddl(..) | Item::Prepared(_) | Item::Stamp(_) | Item::Look(_) => {}
        }
    }

    fn key(&mut self, table: TableId, key: &[u8], moved: bool) {
        let keys = self.owed.keys.entry(table).or_default();
        if let Some(flag) = keys.get_mut(key) {
            *flag |= moved;
        } else {
            keys.insert(Key::from(key), moved);
            self.keys += 1;
        }
    }

    fn doubt(&mut self, change: Ddl) {
        if !self.owed.doubted.contains(&change) {
            self.owed.doubted.push(change);
        }
    }

    fn table(&mut self, table: TableId) {
        self.whole(table, false);
    }

    fn whole(&mut self, table: TableId, coarse: bool) {
        if !self.owed.tables.contains(&table) {
            self.owed.tables.push(table);
            self.owed.coarse.extend(coarse.then_some(table));
        } else if !coarse {
            self.owed.coarse.remove(&table);
        }
    }

    /// Every row in place of these keys.
    fn owe_whole(&mut self, table: TableId) {
        let keys = self.owed.keys.remove(&table).unwrap_or_default();
        self.keys -= keys.len();
        if keys.values().any(|&moved| moved) {
            self.owed.lost.insert(table);
        }
        self.whole(table, true);
    }

    fn renamed(&mut self, from: TableId, to: TableId) {
        for (key, moved) in self.owed.keys.get(&from).cloned().unwrap_or_default() {
            self.key(to, &key, moved);
        }
        if self.owed.tables.contains(&from) {
            self.whole(to, self.owed.coarse.contains(&from));
        }
        if self.owed.lost.contains(&from) {
            self.owed.lost.insert(to);
        }
    }

    fn count(&mut self, lsn: Lsn, seen: Instant) {
        self.records += 1;
        self.age(lsn, seen);
    }

    fn age(&mut self, lsn: Lsn, seen: Instant) {
        let (oldest, since) = self.oldest.get_or_insert((lsn, seen));
        *oldest = lsn.min(*oldest);
        *since = seen.min(*since);
    }

    /// Both; `self` is the older and usually the larger one.
    fn merge(mut self, newer: Owing) -> Owing {
        newer.owed.whole().for_each(|(table, coarse)| self.whole(table, coarse));
        for (table, keys) in newer.owed.keys {
            let mine = self.owed.keys.entry(table).or_default();
            for (key, moved) in keys {
                let flag = mine.entry(key).or_insert_with(|| {
                    self.keys += 1;
                    false
                });
                *flag |= moved;
            }
        }
        newer.owed.doubted.into_iter().for_each(|change| self.doubt(change));
        self.owed.lost.extend(newer.owed.lost);
        self.owed.ddl.clear();
        self.owed.repeated.clear();
        self.owed.parked.clear();
        self.ddl.extend(newer.ddl);
        self.repeated.extend(newer.repeated);
        self.records += newer.records;
        if let Some((lsn, seen)) = newer.oldest {
            self.age(lsn, seen);
        }
        self
    }
}

impl Cut {
    /// Take out what these tables owe, or all where one of them owes nothing under its own name; never schema changes.
    /// Its units count on both sides: they are paid with the last of both.
    pub fn split(&mut self, tables: &HashSet<TableId>) -> Cut {
        let owed = &mut self.owing.owed;
        let named = |table| owed.keys.contains_key(table) || owed.tables.contains(table);
        let all = !tables.iter().all(named);
        let taken = |table: &TableId| all || tables.contains(table);
        let mut rest = Owing { records: self.owing.records, oldest: self.owing.oldest, ..Owing::default() };
        rest.owed.keys = owed.keys.extract_if(|table, _| taken(table)).collect();
        rest.owed.tables = owed.tables.extract_if(.., |table| taken(table)).collect();
        rest.owed.lost = owed.lost.extract_if(|table| taken(table)).collect();
        rest.owed.coarse = owed.coarse.extract_if(|table| taken(table)).collect();
        rest.keys = rest.owed.keys.values().map(HashMap::len).sum();
        // Nobody knows which of them. A part that is taken out again and again must not count all that was paid meanwhile.
        rest.records = rest.records.min((rest.keys + rest.owed.tables.len()) as u64);
        self.owing.keys -= rest.keys;
        Cut { owing: rest, upto: self.upto }
    }

    /// These keys are parked, see [`Owed::parked`], and the journal is here; `claims`: see [`Owed::claims`].
    pub fn tell(&mut self, keys: Vec<(TableId, Box<[u8]>)>, place: Place, claims: bool) {
        let owed = &mut self.owing.owed;
        (owed.parked, owed.place, owed.claims) = (keys, Some(place), claims);
    }

    /// What to pay.
    pub fn owed(&self) -> &Owed {
        &self.owing.owed
    }

    /// Keys in it.
    pub fn keys(&self) -> usize {
        self.owing.keys
    }

    /// Units in it.
    pub fn records(&self) -> u64 {
        self.owing.records
    }

    /// The first record that it pays for; `None`: it pays for nothing.
    pub fn oldest(&self) -> Option<Lsn> {
        self.owing.oldest.map(|(lsn, _)| lsn)
    }

    /// When the oldest of its units was read.
    pub fn oldest_seen(&self) -> Option<Instant> {
        self.owing.oldest.map(|(_, seen)| seen)
    }

    /// The records whose schema changes it holds, and whether these are of no table alone.
    pub fn ddl_records(&self) -> impl Iterator<Item = (Lsn, bool)> {
        let alone = |changes: &[Ddl]| changes.iter().all(|(table, _)| *table == TableId::NONE);
        self.owing.ddl.iter().map(move |(lsn, changes)| (*lsn, alone(changes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordBuf;

    const T: TableId = TableId(1);
    const ME: Backend = Backend { id: 7, life: 1 };

    struct Script {
        ledger: Ledger,
        parts: Vec<Entry>,
        at: u64,
        now: Instant,
    }

    impl Script {
        fn new() -> Script {
            Script { ledger: Ledger::new(Lsn(0), 100), parts: Vec::new(), at: 0, now: Instant::now() }
        }

        fn unit(&mut self, build: impl FnOnce(&mut RecordBuf)) -> Lsn {
            let mut buf = RecordBuf::default();
            build(&mut buf);
            let payload = Bytes::copy_from_slice(buf.finish(ME));
            let lsn = self.lsn();
            self.ledger.read(Entry::Record { lsn, payload }, self.now).expect("well formed");
            lsn
        }

        fn part(&mut self, keys: std::ops::Range<u8>) -> Lsn {
            let mut buf = RecordBuf::default();
            keys.for_each(|key| buf.key(T, &[key], false));
            let payload = Bytes::copy_from_slice(buf.finish_part(ME));
            let lsn = self.lsn();
            self.ledger.read(Entry::Record { lsn, payload: payload.clone() }, self.now).expect("well formed");
            self.parts.push(Entry::Record { lsn, payload });
            lsn
        }

        fn recalled(&mut self) -> bool {
            let asked = self.ledger.to_recall().is_some();
            self.ledger.recall(self.parts.clone()).expect("well formed");
            asked
        }

        fn ends(&mut self, of: Lsn, outcome: Outcome) {
            let lsn = self.lsn();
            self.ledger.read(Entry::Outcome { lsn, of, outcome }, self.now).expect("well formed");
        }

        fn lsn(&mut self) -> Lsn {
            self.at += 1;
            Lsn(self.at - 1)
        }

        fn gone(&mut self, backend: bool, name: &[u8]) -> usize {
            self.ledger.lost(self.now);
            let gone = Gone { backends: backend.then_some(ME).into_iter().collect(), prepared: vec![name.into()] };
            self.ledger.gone(&gone, self.now)
        }
    }

    fn keys(cut: &Cut) -> Vec<(Vec<u8>, bool)> {
        let mut keys: Vec<_> = cut.owed().keys.values().flatten().map(|(key, &moved)| (key.to_vec(), moved)).collect();
        keys.sort();
        keys
    }

    #[test]
    fn keys_coalesce_and_a_flag_is_never_lost() {
        let mut script = Script::new();
        for moved in [false, true, false] {
            let unit = script.unit(|buf| buf.key(T, b"k", moved));
            script.ends(unit, Outcome::Committed);
        }
        let cut = script.ledger.freeze();
        assert_eq!(keys(&cut), [(b"k".to_vec(), true)]);
        assert_eq!((cut.keys(), cut.records(), cut.oldest()), (1, 3, Some(Lsn(0))));
    }

    #[test]
    fn a_change_that_the_secondary_has_is_told_and_not_repeated() {
        let mut script = Script::new();
        let change = script.unit(|buf| buf.ddl(T, b"RENAME"));
        script.ends(change, Outcome::Committed);
        let cut = script.ledger.freeze();
        assert_eq!((cut.owed().ddl.len(), cut.owed().repeated.len()), (1, 0));
        // It was paid, and the answer was lost.
        script.ledger.restore(cut);
        script.ledger.repeated([change]);
        let told = |cut: &Cut| (cut.owed().ddl.len(), cut.ddl_records().count(), cut.owed().repeated.clone());
        let expected = (0, 0, vec![(T, b"RENAME"[..].into())]);
        let cut = script.ledger.freeze();
        assert_eq!(told(&cut), expected);
        script.ledger.restore(cut);
        assert_eq!(told(&script.ledger.freeze()), expected);
        assert!(script.ledger.freeze().owed().is_nothing());
        // After a restart it is read again.
        script.ledger.rewind(Lsn(0));
        script.ledger.repeated([change]);
        script.at = 0;
        let change = script.unit(|buf| buf.ddl(T, b"RENAME"));
        script.ends(change, Outcome::Committed);
        assert_eq!(told(&script.ledger.freeze()), expected);
    }

    #[test]
    fn a_unit_that_ends_when_its_table_has_another_name_is_owed_by_both() {
        let (mut script, to) = (Script::new(), TableId(2));
        script.unit(|buf| {
            buf.key(T, b"k", true);
            buf.dirty(T, Reason::Uncaptured);
        });
        script.ledger.renamed(&[Renamed { from: T, to, name: "u".into(), is_gone: true }]);
        let later = script.unit(|buf| buf.key(T, b"of another table", false));
        script.ends(later, Outcome::Committed);
        assert!(!script.ledger.freeze().owed().keys.contains_key(&to));
        assert_eq!(script.gone(true, b"none"), 1);
        let cut = script.ledger.freeze();
        assert!([T, to].iter().all(|table| cut.owed().keys[table].get(&b"k"[..]) == Some(&true)));
        let marks: Vec<TableId> = script.ledger.marks.iter().map(|mark| mark.table).collect();
        assert_eq!(marks, [T, to]);
        // Nobody is left who may mean it.
        script.ledger.renamed(&[]);
        assert!(script.ledger.names.is_empty());
    }

    #[test]
    fn a_unit_that_ends_after_the_freeze_is_in_the_payment_and_stays_owed() {
        let mut script = Script::new();
        let early = script.unit(|buf| buf.key(T, b"a", false));
        let late = script.unit(|buf| buf.key(T, b"b", true));
        script.unit(|buf| buf.key(T, b"c", false));
        script.ends(early, Outcome::Aborted);
        let mut cut = script.ledger.freeze();
        script.ends(late, Outcome::Committed);
        script.ledger.collect(&mut cut);
        assert_eq!(keys(&cut), [(b"a".to_vec(), false), (b"b".to_vec(), true), (b"c".to_vec(), false)]);
        assert_eq!(cut.oldest(), Some(early));
        drop(cut);
        assert_eq!(script.ledger.paid(), late);
        assert_eq!(keys(&script.ledger.freeze()), [(b"b".to_vec(), true)]);
    }

    #[test]
    fn parts_are_in_no_payment_before_what_could_commit_them_is_forwarded() {
        let mut script = Script::new();
        let parts = [script.part(0..2), script.part(2..4)];
        let mut cut = script.ledger.freeze();
        script.ledger.collect(&mut cut);
        assert_eq!((cut.keys(), script.ledger.paid()), (0, parts[0]));
        let last = script.unit(|_| {});
        script.ledger.collect(&mut cut);
        assert_eq!(cut.keys(), 4);
        for lsn in [parts[0], parts[1], last] {
            script.ends(lsn, Outcome::Aborted);
        }
        assert_eq!(script.ledger.freeze().keys(), 4, "committed or aborted is the same once it was sent");
    }

    #[test]
    fn parts_that_nothing_closed_leave_nothing_whatever_ended_them() {
        for gone in [true, false] {
            let mut script = Script::new();
            let parts = [script.part(0..2), script.part(2..40)];
            if gone {
                assert_eq!(script.gone(true, b""), 2);
            } else {
                parts.iter().for_each(|&lsn| script.ends(lsn, Outcome::Aborted));
            }
            assert!(!script.ledger.due() && script.ledger.to_recall().is_none());
            assert_eq!(script.ledger.paid(), script.ledger.next());
            let other = script.unit(|buf| buf.key(T, b"other", false));
            script.ends(other, Outcome::Committed);
            assert_eq!(script.ledger.freeze().keys(), 1);
            assert!(script.ledger.parts.is_empty() && script.ledger.parts_bytes == 0);
        }
    }

    #[test]
    fn parts_that_are_not_kept_are_read_again_when_they_ended() {
        let mut script = Script::new();
        let parts = [script.part(0..2), script.part(2..40), script.part(40..80)];
        assert!(script.ledger.is_whole() && !script.recalled());
        let last = script.unit(|buf| buf.key(T, &[80], false));
        assert!(!script.ledger.is_whole(), "a state may show what nobody holds");
        assert!(!script.recalled(), "it may take a while until they end");
        for lsn in [last, parts[0], parts[1], parts[2]] {
            script.ends(lsn, Outcome::Committed);
        }
        assert_eq!((script.ledger.keys(), script.ledger.ended_paid()), (3, parts[0]));
        drop(script.ledger.freeze());
        assert_eq!((script.ledger.paid(), script.ledger.records()), (parts[1], 2));
        assert!(script.recalled() && script.ledger.is_whole());
        assert_eq!(script.ledger.freeze().keys(), 78);
        assert_eq!(script.ledger.paid(), script.ledger.next());
    }

    #[test]
    fn parts_of_a_two_phase_transaction_are_read_again_while_it_waits_for_its_name_promise_3() {
        let mut script = Script::new();
        let part = script.part(0..40);
        let last = script.unit(|buf| buf.prepared(b"gid"));
        [part, last].into_iter().for_each(|lsn| script.ends(lsn, Outcome::Committed));
        assert!(script.recalled() && script.ledger.is_whole());
        let mut cut = script.ledger.freeze();
        script.ledger.collect(&mut cut);
        assert_eq!(cut.keys(), 40);
        assert_eq!(script.gone(true, b"gid"), 2);
        assert_eq!(script.ledger.freeze().keys(), 40);
    }

    #[test]
    fn a_failed_payment_is_owed_again_with_its_age() {
        let mut script = Script::new();
        let unit = script.unit(|buf| buf.key(T, b"a", true));
        script.ends(unit, Outcome::Committed);
        let mut cut = script.ledger.freeze();
        let later = script.unit(|buf| buf.key(T, b"a", false));
        script.ends(later, Outcome::Committed);
        script.ledger.collect(&mut cut);
        script.ledger.restore(cut);
        assert_eq!(script.ledger.paid(), unit);
        assert_eq!(script.ledger.keys(), 1);
        assert_eq!(keys(&script.ledger.freeze()), [(b"a".to_vec(), true)]);
    }

    #[test]
    fn what_waits_for_a_payment_is_owed_under_a_new_name_too() {
        let mut script = Script::new();
        let (old, new) = (TableId::of("public", "old"), TableId::of("public", "new"));
        let unit = script.unit(|buf| {
            buf.key(old, b"a", true);
            buf.key(new, b"a", false);
            buf.table(old);
        });
        script.ends(unit, Outcome::Committed);
        let aside = script.ledger.freeze();
        assert!(script.ledger.set_aside(aside, 100).is_empty());
        let renamed = Renamed { from: old, to: new, name: "new".into(), is_gone: true };
        script.ledger.renamed(&[renamed]);
        assert_eq!(script.ledger.keys(), 2);
        let cut = script.ledger.freeze();
        assert!(cut.owed().keys[&new][&b"a"[..]]);
        assert_eq!(cut.owed().tables, [old, new]);
    }

    #[test]
    fn what_a_table_owes_is_put_off_and_the_rest_is_paid() {
        let mut script = Script::new();
        let other = TableId::of("public", "other");
        let unit = script.unit(|buf| {
            buf.key(T, b"a", true);
            buf.key(other, b"b", false);
            buf.table(other);
            buf.ddl(T, b"change");
        });
        script.ends(unit, Outcome::Committed);
        let mut cut = script.ledger.freeze();
        let rest = cut.split(&HashSet::from([T]));
        assert_eq!((keys(&rest), rest.keys(), rest.owed().tables.len()), (vec![(b"a".to_vec(), true)], 1, 0));
        assert_eq!((keys(&cut), cut.keys(), cut.owed().tables.len()), (vec![(b"b".to_vec(), false)], 1, 1));
        script.ledger.restore(rest);
        assert_eq!((script.ledger.paid(), script.ledger.keys()), (unit, 1), "its record is not paid");
        let mut again = script.ledger.freeze();
        assert_eq!(again.owed().ddl, [], "the change has been repeated");
        let all = again.split(&HashSet::from([TableId::of("public", "root")]));
        assert_eq!((all.keys(), again.keys()), (1, 0), "a table that owes by other names");
    }

    #[test]
    fn what_is_set_aside_is_in_every_cut_and_no_reason_for_one() {
        let mut script = Script::new();
        let other = TableId::of("public", "other");
        let write = |script: &mut Script, table: TableId, moved: bool| {
            let unit = script.unit(|buf| buf.key(table, b"k", moved));
            script.ends(unit, Outcome::Committed);
            unit
        };
        let unit = write(&mut script, T, true);
        for _ in 0..9 {
            write(&mut script, other, false);
            assert!(script.ledger.due());
            let mut cut = script.ledger.freeze();
            assert!(cut.owed().keys[&T][&b"k"[..]], "its flag counts for others");
            let rest = cut.split(&HashSet::from([T]));
            assert_eq!(keys(&cut), [(b"k".to_vec(), false)]);
            script.ledger.set_aside(rest, 100);
            assert!(script.ledger.has_aside() && !script.ledger.due());
            assert_eq!((script.ledger.paid(), script.ledger.ended_paid()), (unit, unit));
            assert_eq!((script.ledger.keys(), script.ledger.records()), (1, 1), "what is paid counts no more");
        }
        let cut = script.ledger.freeze();
        assert!(!script.ledger.has_aside());
        script.ledger.restore(cut);
        assert!(script.ledger.due(), "a payment that failed is made again");
        drop(script.ledger.freeze());
        assert!(script.ledger.paid() > unit);
    }

    #[test]
    fn a_lost_unit_ends_when_its_backend_is_gone_promise_3() {
        let mut script = Script::new();
        let unit = script.unit(|buf| buf.key(T, b"a", false));
        assert_eq!(script.gone(false, b""), 0);
        assert_eq!(script.ledger.paid(), unit);
        assert_eq!(script.gone(true, b""), 1);
        assert_eq!(keys(&script.ledger.freeze()), [(b"a".to_vec(), false)]);
    }

    #[test]
    fn a_two_phase_unit_ends_with_its_name_and_not_with_its_backend() {
        let mut script = Script::new();
        let build = |buf: &mut RecordBuf| {
            buf.key(T, b"a", false);
            buf.prepared(b"gid");
        };
        let answered = script.unit(build);
        script.ends(answered, Outcome::Committed);
        assert_eq!(script.gone(true, b"other"), 0);
        assert_eq!(script.gone(false, b"gid"), 1);
        script.unit(build);
        assert_eq!(script.gone(false, b"gid"), 0, "its PREPARE may still arrive");
        assert_eq!(script.gone(true, b"gid"), 1);
        let refused = script.unit(build);
        script.ends(refused, Outcome::Aborted);
        assert!(script.ledger.open.is_empty());
    }

    #[test]
    fn every_record_of_a_transaction_that_was_prepared_waits_for_its_name_promise_3() {
        let mut script = Script::new();
        let spilled = script.unit(|buf| buf.key(T, b"a", false));
        let last = script.unit(|buf| buf.prepared(b"gid"));
        script.ends(spilled, Outcome::Committed);
        script.ends(last, Outcome::Committed);
        let later = script.unit(|buf| buf.key(T, b"b", false));
        script.ends(later, Outcome::Committed);
        assert_eq!(keys(&script.ledger.freeze()), [(b"b".to_vec(), false)], "the first is still in doubt");
        assert_eq!(script.ledger.paid(), spilled);
        assert_eq!(script.gone(true, b"other"), 0);
        assert_eq!(script.gone(false, b"gid"), 2);
        assert_eq!(keys(&script.ledger.freeze()), [(b"a".to_vec(), false)]);
    }

    #[test]
    fn a_unit_with_two_names_waits_for_both() {
        let mut script = Script::new();
        let unit = script.unit(|buf| {
            buf.prepared(b"one");
            buf.prepared(b"two");
        });
        script.ends(unit, Outcome::Committed);
        script.ledger.lost(script.now);
        let gone = |names: &[&[u8]]| Gone { backends: Vec::new(), prepared: names.iter().map(|&n| n.into()).collect() };
        assert_eq!(script.ledger.gone(&gone(&[b"one"]), script.now), 0);
        assert_eq!(script.ledger.gone(&gone(&[b"one", b"two"]), script.now), 1);
    }

    #[test]
    fn what_a_backend_did_before_an_answered_prepare_does_not_wait_for_the_next_name() {
        let mut script = Script::new();
        let first = script.unit(|buf| buf.prepared(b"one"));
        script.ends(first, Outcome::Committed);
        script.unit(|buf| buf.prepared(b"two"));
        assert_eq!(script.gone(false, b"one"), 1);
    }

    #[test]
    fn a_name_that_was_asked_about_before_its_prepare_was_answered_may_have_appeared_since_promise_3() {
        let mut script = Script::new();
        let unit = script.unit(|buf| buf.prepared(b"gid"));
        script.ledger.lost(script.now);
        script.ends(unit, Outcome::Committed);
        let gone = Gone { backends: Vec::new(), prepared: vec![b"gid"[..].into()] };
        assert_eq!(script.ledger.gone(&gone, script.now), 0);
        assert_eq!(script.gone(false, b"gid"), 1);
    }

    #[test]
    fn schema_changes_are_owed_in_order_of_record_once_and_only_if_committed() {
        let mut script = Script::new();
        let units: Vec<_> = (0..4_u8).map(|n| script.unit(|buf| buf.ddl(T, &[n]))).collect();
        assert!(script.ledger.schema_in_doubt());
        script.ends(units[2], Outcome::Committed);
        script.ends(units[1], Outcome::Aborted);
        script.ends(units[0], Outcome::Committed);
        assert_eq!(script.gone(true, b""), 1);
        assert!(script.ledger.marks.iter().any(|mark| mark.table == T && mark.reason == Reason::Ddl));
        let cut = script.ledger.freeze();
        assert!(!script.ledger.schema_in_doubt());
        let bodies: Vec<_> = cut.owed().ddl.iter().map(|(_, body)| body.to_vec()).collect();
        assert_eq!(bodies, [[0], [2]]);
        script.ledger.restore(cut);
        script.ledger.repeated([units[0]]);
        assert_eq!(script.ledger.freeze().owed().ddl, [(T, vec![2].into())]);
    }

    #[test]
    fn a_schema_change_of_which_nobody_knows_is_listed_whether_it_is_of_a_table_or_not_promise_6() {
        let mut script = Script::new();
        for (table, outcome) in [(T, Some(Outcome::Unknown)), (TableId::NONE, Some(Outcome::Unknown)), (T, None)] {
            let unit = script.unit(|buf| buf.ddl(table, b"change"));
            match outcome {
                Some(outcome) => script.ends(unit, outcome),
                None => assert_eq!(script.gone(true, b""), 1),
            }
            let cut = script.ledger.freeze();
            assert_eq!(cut.owed().doubted, [(table, b"change"[..].into())]);
            assert!(cut.owed().ddl.is_empty());
        }
        let marked: Vec<_> = script.ledger.marks.iter().map(|mark| (mark.table, mark.reason)).collect();
        assert_eq!(marked, [(T, Reason::Ddl); 2]);
    }

    /// Two committed changes that the secondary has, read again from the first on; asked in between, or not yet.
    fn read_again(ask: impl FnOnce(&mut Ledger, [Lsn; 2])) -> Cut {
        let mut script = Script::new();
        let entries = [0, 1, 2, 3_u64].map(|at| {
            let lsn = Lsn(at);
            if at >= 2 {
                return Entry::Outcome { lsn, of: Lsn(at - 2), outcome: Outcome::Committed };
            }
            let mut buf = RecordBuf::default();
            buf.ddl(T, &[at as u8]);
            Entry::Record { lsn, payload: Bytes::copy_from_slice(buf.finish(ME)) }
        });
        let now = script.now;
        let read = |ledger: &mut Ledger| {
            entries.clone().into_iter().for_each(|entry| ledger.read(entry, now).expect("well formed"));
        };
        read(&mut script.ledger);
        drop(script.ledger.freeze());
        script.ledger.repeated([Lsn(0), Lsn(1)]);
        script.ledger.rewind(Lsn(0));
        ask(&mut script.ledger, [Lsn(0), Lsn(1)]);
        read(&mut script.ledger);
        script.ledger.freeze()
    }

    #[test]
    fn a_schema_change_that_the_secondary_lost_is_owed_again_though_it_could_not_be_asked_at_once() {
        let changes = |cut: Cut| cut.owed().ddl.iter().map(|(_, body)| body[0]).collect::<Vec<_>>();
        assert_eq!(changes(read_again(|_, _| {})), [0, 1]);
        assert_eq!(changes(read_again(|ledger, [first, _]| ledger.repeated([first]))), [1]);
    }

    #[test]
    fn a_schema_change_that_the_primary_may_have_lost_is_listed_though_the_secondary_has_it() {
        let cut = read_again(|ledger, [first, second]| {
            ledger.unsure(Lsn(0), [second]);
            ledger.repeated([first, second]);
        });
        assert_eq!((cut.owed().ddl.len(), &cut.owed().doubted[..]), (0, &[(T, [1].into())][..]));
    }

    #[test]
    fn a_dirty_mark_counts_when_its_unit_ends_and_not_if_it_was_aborted() {
        let mut script = Script::new();
        let unit = script.unit(|buf| buf.dirty(T, Reason::Uncaptured));
        assert!(script.ledger.may_dirty(T));
        assert!(script.ledger.marks.is_empty());
        script.ends(unit, Outcome::Committed);
        assert!(!script.ledger.may_dirty(T));
        let at: Vec<_> = script.ledger.marks.iter().map(|mark| mark.at).collect();
        assert_eq!(at, [Lsn(1)]);
        let refused = script.unit(|buf| buf.dirty(T, Reason::Uncaptured));
        script.ends(refused, Outcome::Aborted);
        assert_eq!(script.ledger.marks.len(), 1);
    }

    #[test]
    fn a_record_of_a_newer_version_stops_reading_where_it_is() {
        let mut script = Script::new();
        script.unit(|buf| buf.key(T, b"a", false));
        let entry = Entry::Record { lsn: Lsn(1), payload: Bytes::from_static(&[9]) };
        assert_eq!(script.ledger.read(entry, script.now), Err(Malformed::Version(9)));
        assert_eq!(script.ledger.next(), Lsn(1));
    }
}
