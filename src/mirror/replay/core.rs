//! What the engine decides: events in, actions out. Pure but for the ledgers, which it changes in memory; it does no IO,
//! waits for nothing, and is told the time.
//!
//! A job that was handed out comes back in one of four ways:
//!
//! | came back | then |
//! | --- | --- |
//! | done | whoever waited for it goes on; what must be remembered of it is written down first |
//! | not this time | it rests for a pause that grows, keeps its claims, and is parked when its patience is over |
//! | refused | it is *parked* and gives its claims up; a barrier is *held*: listed, tried again, its table waits |
//! | the secondary is lost | nothing more is handed out; when all are back, the link is opened anew after a pause |
//!
//! **What is ordered behind a parked record goes on.** It is applied without it, so a retry of the parked one comes late,
//! and is told so. The other choice, parking everything behind it as well, would turn one row that a guardrail refuses
//! into a table that stands still.
//!
//! **What gives way.** Behind a held barrier, or a record that rests, others wait in memory, which is bounded. When the
//! window is full and nothing else can move, the oldest of the resting is given up: a record is parked, a held barrier is
//! let go with its table marked dirty. So one table's trouble never stops the others for good (promise 6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::journal::{self, Entry, Lsn};
use crate::mirror::backoff::Backoff;
use crate::mirror::dirty::Dirty;
use crate::mirror::durable;
use crate::mirror::handle::{Held, Stuck};
use crate::mirror::parked::{Bounds, Parked, Rejected};
use crate::mirror::waits::Waits;
use crate::record::{Item, Malformed, Reason, Record, RecordBuf, TableId};

use super::Config;
use super::applier::{Applied, Certainty, Error, Job, Shown};
use super::book::Book;
use super::window::{Rule, Window, parked_as, retry_of};

/// The record for people, by this table of it.
pub(super) type Show = Box<dyn Fn(&Record, TableId) -> Shown + Send>;

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Action {
    /// See that the secondary is there.
    Open,
    /// Do this.
    Apply(Job),
    /// Read the journal from here.
    Read(Lsn),
    /// Read the journal from here, for outcomes only.
    Scout(Lsn),
    /// Write the ledgers down; these records are done then.
    Save(Vec<Lsn>),
}

/// The state of the connection to the secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Not before this moment.
    Down(Instant),
    /// Being opened.
    Opening,
    /// Jobs are handed out.
    Up,
    /// Lost; some jobs are not back yet.
    Losing,
}

/// What can go wrong for longer than a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Link,
    Journal,
    Ledgers,
    Held,
    Records,
}

/// See the module.
pub(super) struct Core {
    config: Config,
    pub(super) window: Window,
    parked: Parked,
    dirty: Dirty,
    book: Book,
    waits: Waits,
    show: Show,
    link: Link,
    /// Of the link, and of each record's rests.
    backoff: Backoff,
    /// The link fails because another applier holds the secondary.
    pub(super) fenced: bool,
    /// What went wrong last and has not gone well since.
    troubles: BTreeMap<Trouble, String>,
    /// Jobs handed out.
    away: usize,
    /// Records that failed, by when they are tried again.
    resting: BTreeSet<(Instant, Lsn)>,
    /// Barriers among them that the secondary refuses.
    held: BTreeMap<Lsn, Held>,
    /// Records that wait for nodes that are away.
    missing: BTreeSet<Lsn>,
    /// Records that are done when the ledgers are written down.
    closing: Vec<Lsn>,
    /// A ledger changed, and no record waits for it.
    unsaved: bool,
    saving: bool,
    save_after: Instant,
    reading: bool,
    read_after: Instant,
    /// How far records were done, and when: the journal keeps them for as long as is configured.
    marks: VecDeque<(Instant, Lsn)>,
    released: Lsn,
    pub(super) paused: bool,
    /// Clients wait for the end of the journal: pauses stay short.
    hurried: bool,
    /// Records done by this process.
    pub(super) done: u64,
    pub(super) failures: u64,
}

/// The three ledgers that the core changes.
pub(super) struct Ledgers {
    pub(super) parked: Parked,
    pub(super) dirty: Dirty,
    pub(super) book: Book,
    /// Who waits for records.
    pub(super) waits: Waits,
}

impl Core {
    pub(super) fn new(config: Config, window: Window, ledgers: Ledgers, show: Show, now: Instant) -> Core {
        Core {
            backoff: Backoff::new(config.retry_min, config.retry_max, config.seed),
            link: Link::Down(now),
            fenced: false,
            troubles: BTreeMap::new(),
            away: 0,
            resting: BTreeSet::new(),
            held: BTreeMap::new(),
            missing: BTreeSet::new(),
            closing: Vec::new(),
            unsaved: false,
            saving: false,
            save_after: now,
            reading: false,
            read_after: now,
            marks: VecDeque::new(),
            released: window.next(),
            paused: false,
            hurried: false,
            done: 0,
            failures: 0,
            parked: ledgers.parked,
            dirty: ledgers.dirty,
            book: ledgers.book,
            waits: ledgers.waits,
            config,
            window,
            show,
        }
    }

    /// What to do now; ask until there is nothing.
    pub(super) fn next(&mut self, now: Instant, appended: Lsn) -> Option<Action> {
        if self.is_due_to_open(now) {
            self.link = Link::Opening;
            return Some(Action::Open);
        }
        if let Some(job) = self.next_job(now, appended) {
            return Some(Action::Apply(job));
        }
        if !self.saving && (self.unsaved || !self.closing.is_empty()) && self.save_after <= now {
            (self.saving, self.unsaved) = (true, false);
            return Some(Action::Save(std::mem::take(&mut self.closing)));
        }
        self.next_reading(now, appended)
    }

    fn is_due_to_open(&self, now: Instant) -> bool {
        matches!(self.link, Link::Down(until) if until <= now)
    }

    fn next_job(&mut self, now: Instant, appended: Lsn) -> Option<Job> {
        if self.link != Link::Up || self.paused {
            return None;
        }
        self.wake_rested(now);
        while self.away < self.config.in_flight_max {
            let job = self.window.take(appended)?;
            if job.record.items().any(|item| is_for_the_wire(&item)) {
                self.away += 1;
                return Some(job);
            }
            self.finish(job.lsn);
        }
        None
    }

    fn wake_rested(&mut self, now: Instant) {
        while let Some(&(at, lsn)) = self.resting.first().filter(|(at, _)| *at <= now) {
            self.resting.remove(&(at, lsn));
            if self.is_given_up(lsn) {
                self.let_go(lsn);
            } else {
                self.window.again(lsn);
            }
        }
    }

    fn next_reading(&mut self, now: Instant, appended: Lsn) -> Option<Action> {
        if self.reading || self.read_after > now {
            return None;
        }
        if !self.window.is_full() {
            self.reading = self.window.next() < appended;
            return self.reading.then(|| Action::Read(self.window.next()));
        }
        if !self.is_starved() {
            return None;
        }
        if self.window.scouted() < appended {
            self.reading = true;
            return Some(Action::Scout(self.window.scouted()));
        }
        if let Some(lsn) = self.in_the_way(now) {
            self.give_way(lsn);
            return self.next(now, appended);
        }
        None
    }

    /// Nothing moves but what rests, and the oldest of it has rested for long enough.
    fn in_the_way(&self, now: Instant) -> Option<Lsn> {
        let moves = self.away > 0 || self.saving || !self.closing.is_empty();
        if self.link != Link::Up || self.paused || moves {
            return None;
        }
        // Those who wait for nodes that are away do not fail.
        let since = |lsn| Some((lsn, self.window.get(lsn)?.failing_since?));
        let (oldest, since) = self.resting.iter().filter_map(|(_, lsn)| since(*lsn)).min()?;
        (now.duration_since(since) >= self.config.retry_max).then_some(oldest)
    }

    /// The journal is worth looking at when something is appended here or behind.
    pub(super) fn awaited(&self, now: Instant) -> Option<Lsn> {
        match () {
            () if self.reading || self.read_after > now => None,
            () if !self.window.is_full() => Some(self.window.next()),
            () if self.is_starved() => Some(self.window.scouted()),
            () => None,
        }
    }

    /// Nothing can be handed out, and nothing is on its way that would make room: what is in the window waits for what may be
    /// further on in the journal.
    fn is_starved(&self) -> bool {
        self.window.is_starved() && self.away == 0
    }

    /// When there may be something to do although nothing happened.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let open = match self.link {
            Link::Down(until) => Some(until),
            _ => None,
        };
        let rested = self.resting.first().map(|(at, _)| *at).filter(|_| self.link == Link::Up && !self.paused);
        let saves = !self.saving && (self.unsaved || !self.closing.is_empty());
        let save = saves.then_some(self.save_after);
        let read = Some(self.read_after).filter(|at| !self.reading && *at > now);
        [open, rested, save, read].into_iter().flatten().min()
    }

    /// The link is, or is not, there.
    pub(super) fn opened(&mut self, opened: Result<(), Error>, now: Instant) {
        self.fenced = matches!(opened, Err(Error::Fenced(_)));
        match opened {
            Ok(()) => {
                self.link = Link::Up;
                self.waits.there();
                self.troubles.remove(&Trouble::Link);
                // Nobody's patience ends while the secondary is away.
                self.window.forgive();
            }
            Err(error) => self.lost(error.to_string(), now),
        }
    }

    fn lost(&mut self, why: String, now: Instant) {
        let pause = self.backoff.pause();
        warn!(why, retry_in = ?pause, "mirror waits for the secondary");
        self.failures += 1;
        self.waits.away(&why);
        self.troubles.insert(Trouble::Link, why);
        self.link = Link::Down(now + pause);
    }

    /// A job came back.
    pub(super) fn applied(&mut self, lsn: Lsn, applied: Applied, now: Instant) {
        self.away -= 1;
        if !matches!(applied, Applied::Away(_)) {
            self.missing.remove(&lsn);
        }
        match applied {
            Applied::Done => {
                self.backoff.reset();
                self.finish(lsn);
            }
            Applied::Retry(why) => self.failed(lsn, why, now),
            Applied::Away(why) => self.missed(lsn, why, now),
            Applied::Reject(why) if self.is_barrier(lsn) => self.hold(lsn, why, now),
            Applied::Reject(why) | Applied::Listed(why) => self.park(lsn, why),
            Applied::Lost(why) => {
                self.window.again(lsn);
                self.link = Link::Losing;
                self.waits.away(&why);
                self.troubles.insert(Trouble::Link, why);
            }
        }
        if self.link == Link::Losing && self.away == 0 {
            let why = self.troubles.remove(&Trouble::Link).unwrap_or_default();
            self.lost(why, now);
        }
    }

    /// It is on the secondary.
    fn finish(&mut self, lsn: Lsn) {
        self.done += 1;
        self.waits.tell(lsn, || Ok(()));
        self.unhold(lsn);
        if self.resting.is_empty() {
            self.troubles.remove(&Trouble::Records);
        }
        if self.note_done(lsn) {
            self.closing.push(lsn);
        } else {
            self.window.done(lsn);
        }
    }

    /// Change the ledgers as a record says that is done; true: they must be written down first.
    fn note_done(&self, lsn: Lsn) -> bool {
        let Some(waiting) = self.window.get(lsn) else { return false };
        let mut news = false;
        for item in waiting.record.items() {
            match item {
                Item::Dirty(table, reason) => self.dirty.note(table, reason, waiting.ended()),
                Item::Ddl(..) if !self.window.keeps(Rule::BarriersOnce) => continue,
                Item::Ddl(table, _) => {
                    self.settle(lsn);
                    // Nobody knows when the primary did it: what was written down behind it may have been there before.
                    if waiting.certainty() == Certainty::Unknown && table != TableId::NONE {
                        self.dirty.note(table, Reason::Ddl, waiting.ended());
                    }
                }
                Item::Table(table) if self.dirty.note_repaired(table, lsn) => info!(table = table.0, "table repaired"),
                Item::Key { .. }
                | Item::Table(_)
                | Item::Prepared(_)
                | Item::Stamp(_)
                | Item::Look(_)
                | Item::Write { .. }
                | Item::Touch { .. } => {
                    continue;
                }
            }
            news = true;
        }
        let parked = parked_as(&waiting.record, lsn);
        let was_parked = !self.parked.is_empty() && self.parked.release(listed_under(&waiting.record), parked);
        news || was_parked
    }

    /// It must not be done again; nor, where it is a barrier, what stands before it, which was done when it had its table.
    fn settle(&self, lsn: Lsn) {
        self.book.settle(lsn);
        for item in self.window.get(lsn).into_iter().flat_map(|waiting| waiting.record.items()) {
            if let Item::Ddl(table, _) = item
                && self.window.keeps(Rule::PassedOnce)
            {
                self.book.pass(lsn, table);
            }
        }
    }

    /// Not this time.
    fn failed(&mut self, lsn: Lsn, why: String, now: Instant) {
        self.failures += 1;
        let Some(waiting) = self.window.get_mut(lsn) else { return };
        let since = *waiting.failing_since.get_or_insert(now);
        let is_over = now.duration_since(since) >= self.config.patience;
        match (is_over, self.is_barrier(lsn)) {
            (false, _) => {
                self.troubles.insert(Trouble::Records, why);
                self.rest(lsn, now);
            }
            (true, true) => self.hold(lsn, why, now),
            (true, false) => self.park(lsn, why),
        }
    }

    /// Not while nodes are away that it needs.
    fn missed(&mut self, lsn: Lsn, why: String, now: Instant) {
        self.failures += 1;
        self.troubles.insert(Trouble::Records, why);
        self.window.get_mut(lsn).into_iter().for_each(|waiting| waiting.failing_since = None);
        self.missing.insert(lsn);
        self.rest(lsn, now);
    }

    fn rest(&mut self, lsn: Lsn, now: Instant) {
        let Some(waiting) = self.window.get(lsn) else { return };
        let attempts = if self.hurried { 0 } else { waiting.attempts.saturating_sub(1) };
        let pause = self.backoff.pause_after(attempts);
        self.resting.insert((now + pause, lsn));
    }

    /// What comes after it cannot do without it. A table that is owed whole is no such thing: it can.
    fn is_barrier(&self, lsn: Lsn) -> bool {
        let barrier = |item| matches!(item, Item::Ddl(..));
        self.window.get(lsn).is_some_and(|waiting| waiting.record.items().any(barrier))
    }

    /// The secondary refuses a barrier: its table waits until it does not, or an operator gives it up.
    fn hold(&mut self, lsn: Lsn, why: String, now: Instant) {
        if self.is_given_up(lsn) {
            return self.let_go(lsn);
        }
        let is_new = !self.held.contains_key(&lsn);
        let Some(rejected) = self.rejected(lsn, &why, true) else { return };
        self.waits.tell(lsn, || Err(why.clone()));
        if is_new {
            warn!(table = rejected.name, why, "the secondary refuses a barrier: its table waits");
        }
        let held = Held { table: rejected.name.clone(), why };
        let waits = format!("{} waits for a change that the secondary refuses: {}", held.table, held.why);
        self.troubles.insert(Trouble::Held, waits);
        self.held.insert(lsn, held);
        let kept = self.parked.set_aside(rejected, self.bounds());
        self.unsaved |= is_new;
        if !kept {
            return self.let_go(lsn);
        }
        self.window.get_mut(lsn).into_iter().for_each(|waiting| _ = waiting.failing_since.get_or_insert(now));
        self.rest(lsn, now);
    }

    /// An operator discarded a barrier that is held.
    fn is_given_up(&self, lsn: Lsn) -> bool {
        let listed = |record: &Record| self.parked.record(listed_under(record), parked_as(record, lsn));
        self.held.contains_key(&lsn) && self.window.get(lsn).is_some_and(|waiting| listed(&waiting.record).is_none())
    }

    /// What waits for a held barrier goes on without it.
    fn let_go(&mut self, lsn: Lsn) {
        self.unhold(lsn);
        let Some(waiting) = self.window.get(lsn) else { return };
        for table in tables(&waiting.record) {
            error!(table = table.0, "a barrier was given up: its table is dirty, and what waited goes on");
            self.dirty.note(table, Reason::Ddl, waiting.ended());
        }
        self.settle(lsn);
        self.closing.push(lsn);
    }

    fn unhold(&mut self, lsn: Lsn) {
        self.held.remove(&lsn);
        if self.held.is_empty() {
            self.troubles.remove(&Trouble::Held);
        }
    }

    /// Set a record aside; what waits for it goes on.
    fn park(&mut self, lsn: Lsn, why: String) {
        let Some(rejected) = self.rejected(lsn, &why, false) else { return };
        warn!(table = rejected.name, why, "the secondary refuses: parked");
        self.waits.tell(lsn, || Err(why.clone()));
        if !self.parked.set_aside(rejected, self.bounds()) {
            self.refuse_tables(lsn);
        }
        self.settle(lsn);
        self.closing.push(lsn);
    }

    /// No more of its records may be parked.
    fn refuse_tables(&self, lsn: Lsn) {
        let Some(waiting) = self.window.get(lsn) else { return };
        for table in tables(&waiting.record) {
            self.dirty.note(table, Reason::Refused, waiting.ended());
        }
    }

    fn rejected(&self, lsn: Lsn, why: &str, holds: bool) -> Option<Rejected> {
        let waiting = self.window.get(lsn)?;
        let table = listed_under(&waiting.record);
        let shown = (self.show)(&waiting.record, table);
        let first = parked_as(&waiting.record, lsn);
        let mut again = RecordBuf::default();
        again.again(&waiting.record);
        Some(Rejected {
            table,
            name: shown.table,
            shown: shown.contents,
            why: why.to_owned(),
            lsn: first,
            bytes: again.finish(retry_of(first)).into(),
            unknown: waiting.certainty() == Certainty::Unknown,
            holds,
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds { of_table: self.config.parked_table_max, bytes: self.config.parked_bytes_max }
    }

    /// Too much waits for it.
    fn give_way(&mut self, lsn: Lsn) {
        self.resting.retain(|(_, resting)| *resting != lsn);
        let why = "given up, because too much waited for it".to_owned();
        if !self.is_barrier(lsn) {
            return self.park(lsn, why);
        }
        // It stays in the list, for a late retry.
        if let Some(rejected) = self.rejected(lsn, &why, false) {
            self.parked.set_aside(rejected, self.bounds());
        }
        self.let_go(lsn);
    }

    /// How eager to be.
    pub(super) fn pace(&mut self, paused: bool, hurried: bool, now: Instant) {
        if hurried && !self.hurried {
            self.rest_no_more(now, |_| true);
            if let Link::Down(until) = &mut self.link {
                *until = now.min(*until);
            }
        }
        (self.paused, self.hurried) = (paused, hurried);
    }

    /// An operator did something: what is held is looked at now.
    pub(super) fn nudged(&mut self, now: Instant) {
        let held: BTreeSet<Lsn> = self.held.keys().copied().collect();
        self.rest_no_more(now, |lsn| held.contains(&lsn));
    }

    fn rest_no_more(&mut self, now: Instant, which: impl Fn(Lsn) -> bool) {
        let woken = |(at, lsn): (Instant, Lsn)| if which(lsn) { (at.min(now), lsn) } else { (at, lsn) };
        self.resting = std::mem::take(&mut self.resting).into_iter().map(woken).collect();
    }

    /// A stretch of the journal was read.
    pub(super) fn read(&mut self, read: Result<(Vec<Entry>, Lsn), journal::Error>, now: Instant) {
        self.reading = false;
        let (entries, next) = match read {
            Ok(read) => read,
            Err(error) => return self.cannot_read(&format!("journal: {error}"), now),
        };
        self.troubles.remove(&Trouble::Journal);
        for entry in entries {
            if let Err(why) = self.window.read(entry, now, |lsn, record| self.book.is_done(lsn, named(record))) {
                return self.malformed(why, now);
            }
        }
        self.window.batch_read(next);
    }

    /// A stretch of the journal was scouted.
    pub(super) fn scouted(&mut self, read: Result<(Vec<Entry>, Lsn), journal::Error>, now: Instant) {
        self.reading = false;
        match read {
            Ok((entries, next)) => {
                entries.iter().for_each(|entry| self.window.scout(entry));
                self.window.scouted_to(next);
            }
            Err(error) => self.cannot_read(&format!("journal: {error}"), now),
        }
    }

    fn malformed(&mut self, why: Malformed, now: Instant) {
        let at = self.window.next();
        self.cannot_read(&format!("journal at {at:?}: {why}; nothing behind it is mirrored until it can be read"), now);
    }

    fn cannot_read(&mut self, why: &str, now: Instant) {
        error!(why, "mirror cannot read on");
        self.failures += 1;
        self.troubles.insert(Trouble::Journal, why.to_owned());
        self.read_after = now + self.config.retry_max;
    }

    /// The ledgers are, or are not, written down.
    pub(super) fn saved(&mut self, records: Vec<Lsn>, saved: Result<(), durable::Error>, now: Instant) {
        self.saving = false;
        match saved {
            Ok(()) => {
                self.troubles.remove(&Trouble::Ledgers);
                records.into_iter().for_each(|lsn| self.window.done(lsn));
            }
            Err(error) => {
                error!(%error, "mirror cannot remember what it did");
                self.failures += 1;
                self.troubles.insert(Trouble::Ledgers, error.to_string());
                self.unsaved = true;
                self.closing.extend(records);
                self.save_after = now + self.config.retry_min.max(Duration::from_millis(100));
            }
        }
    }

    /// From here on the journal is needed. `Some`: more of it than before may go.
    pub(super) fn release(&mut self, now: Instant, forgotten: Lsn) -> Option<Lsn> {
        let applied = self.window.applied();
        if self.marks.back().is_none_or(|(_, last)| *last < applied) {
            self.marks.push_back((now, applied));
        }
        let old = |at: Instant| now.duration_since(at) >= self.config.retention;
        let mut released = None;
        while let Some((_, lsn)) = self.marks.pop_front_if(|(at, _)| old(*at)) {
            released = Some(lsn);
        }
        let released = released.filter(|lsn| *lsn > self.released)?;
        self.released = released;
        self.book.release(released);
        self.dirty.trimmed(forgotten);
        self.unsaved = true;
        Some(released)
    }

    /// The link.
    pub(super) fn link(&self) -> Link {
        self.link
    }

    /// The engine ends.
    pub(super) fn end(&self) {
        self.waits.away("the mirror has ended");
    }

    /// Jobs handed out.
    pub(super) fn away(&self) -> usize {
        self.away
    }

    /// Barriers that the secondary refuses.
    pub(super) fn held(&self) -> impl ExactSizeIterator<Item = &Held> {
        self.held.values()
    }

    /// Something waits for what may take as long as it likes.
    pub(super) fn is_stuck(&self) -> bool {
        !self.held.is_empty() || !self.missing.is_empty()
    }

    /// What of the others is done. `None`: nothing waits, or all there is waits with it.
    pub(super) fn stuck(&self) -> Option<Stuck> {
        let waits = self.held.keys().chain(&self.missing).filter_map(|lsn| self.window.get(*lsn));
        let mut stuck: BTreeSet<TableId> = waits.flat_map(|waiting| named(&waiting.record)).collect();
        let mut first = None;
        for (lsn, waiting) in self.window.records() {
            // What names several tables takes the others with it.
            if named(&waiting.record).any(|table| stuck.contains(&table)) {
                stuck.extend(named(&waiting.record));
            } else if first.is_none() {
                first = Some((lsn, waiting.seen));
            }
        }
        if stuck.is_empty() || stuck.contains(&TableId::NONE) {
            return None;
        }
        let (beyond, since) = first.map_or((self.window.next(), None), |(lsn, seen)| (lsn, Some(seen)));
        let held = self.troubles.get(&Trouble::Held).or_else(|| self.troubles.get(&Trouble::Records));
        Some(Stuck { tables: stuck, beyond, since, why: held.cloned().unwrap_or_default() })
    }

    /// What goes wrong, the worst first.
    pub(super) fn error(&self) -> Option<&String> {
        self.troubles.values().next()
    }
}

fn is_for_the_wire(item: &Item<'_>) -> bool {
    match item {
        Item::Write { .. } | Item::Key { .. } | Item::Table(_) | Item::Ddl(..) => true,
        Item::Touch { .. } | Item::Dirty(..) | Item::Prepared(_) | Item::Stamp(_) | Item::Look(_) => false,
    }
}

/// The tables that a record changes.
fn tables(record: &Record) -> BTreeSet<TableId> {
    named(record).collect()
}

/// The same as they come, [`TableId::NONE`] only where that means all of them.
fn named(record: &Record) -> impl Iterator<Item = TableId> {
    let is_beside = |item: &Item<'_>| matches!(item, Item::Prepared(_) | Item::Stamp(_) | Item::Look(_));
    record.items().filter(move |item| !is_beside(item)).map(|item| item.table())
}

/// The table under which a record is parked.
fn listed_under(record: &Record) -> TableId {
    record.items().map(|item| item.table()).find(|table| *table != TableId::NONE).unwrap_or(TableId::NONE)
}

#[cfg(test)]
mod tests;
