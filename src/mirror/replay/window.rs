//! The records that were read and are not done: which of them may be applied, and what the journal must keep. Pure: no
//! IO, no time of its own.
//!
//! A record may be applied when it holds all that it claims *and* its fate is known: the primary committed it, or nobody
//! will ever say. One whose fate is open keeps its claims, so that what must come behind it does, and is in nobody else's
//! way.
//!
//! ```text
//!            read                                   take                 done
//! journal ---------> waiting: claims? fate? ------------> handed out -----------> forgotten
//!                       |              ^  \ready/             |
//!                       | aborted      '-------- again -------'
//!                       '-----> forgotten
//! ```
//!
//! The window is bounded in bytes. When it is full and nothing in it can be handed out, what it waits for may stand
//! further on in the journal: an outcome. Then the journal is *scouted*: read ahead for the outcomes of these records
//! alone. What is scouted is read again when there is room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use crate::journal::{Entry, Lsn, Outcome};
use crate::record::{Backend, Item, Malformed, Record};

use super::applier::{Certainty, Job};
use super::claims::{self, Claims};

/// What a record takes beside its bytes, and what each of its claims takes: places in maps and queues. Estimates from
/// above.
const RECORD: usize = 200;
const CLAIM: usize = 100;

/// The window. A record is known by its position.
pub(super) struct Window {
    /// Where reading goes on: every record below is here, or done.
    next: Lsn,
    /// Every outcome below was seen, for the records that are here: `scouted >= next`.
    scouted: Lsn,
    /// Records below never get an outcome that the journal does not have yet.
    begun: Lsn,
    records: BTreeMap<Lsn, Waiting>,
    /// Records of earlier lives without a fate.
    orphans: BTreeSet<Lsn>,
    claims: Claims,
    ready: VecDeque<Lsn>,
    bytes: usize,
    bytes_max: usize,
    #[cfg(test)]
    pub(super) bent: Option<Rule>,
}

/// A record that is not done.
pub(super) struct Waiting {
    pub(super) record: Record,
    /// When it was read.
    pub(super) seen: Instant,
    /// When the journal said how it ended.
    told: Instant,
    /// How often it was handed out.
    pub(super) attempts: u32,
    /// When it failed first.
    pub(super) failing_since: Option<Instant>,
    /// Whether it happened, and where the journal said so.
    fate: Option<(Certainty, Lsn)>,
    /// What it takes.
    bytes: usize,
}

impl Waiting {
    /// Where it ended: what is marked or compared above that position has seen it.
    pub(super) fn ended(&self) -> Lsn {
        self.fate.map_or(Lsn(u64::MAX), |(_, at)| at)
    }

    /// Whether it happened, as far as anybody will ever know.
    pub(super) fn certainty(&self) -> Certainty {
        self.fate.map_or(Certainty::Unknown, |(certainty, _)| certainty)
    }
}

/// What a simulation bends, one at a time, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "only bent in tests"))]
pub(super) enum Rule {
    /// Nothing is applied before its outcome is known.
    OutcomeFirst,
    /// Writes of a lane go one after the other.
    Lanes,
    /// Places are settled one record at a time.
    Places,
    /// A place is not settled beside a write of its part.
    Parts,
    /// A place is settled again where something was replayed.
    Resettle,
    /// A barrier is alone on its table.
    Barriers,
    /// A barrier is not done again when something behind it was.
    BarriersOnce,
    /// Nor is what stands before it.
    PassedOnce,
    /// The journal keeps what is not done.
    KeepUndone,
    /// A unit that nobody answers is settled.
    SettleUnknown,
}

impl Window {
    /// Nothing below `from` is waiting; records below `begun` are of earlier lives.
    pub(super) fn new(from: Lsn, begun: Lsn, bytes_max: usize) -> Window {
        Window {
            next: from,
            scouted: from,
            begun,
            records: BTreeMap::new(),
            orphans: BTreeSet::new(),
            claims: Claims::default(),
            ready: VecDeque::new(),
            bytes: 0,
            bytes_max,
            #[cfg(test)]
            bent: None,
        }
    }

    /// Where reading goes on.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// Where scouting goes on.
    pub(super) fn scouted(&self) -> Lsn {
        self.scouted
    }

    /// Everything below is done.
    pub(super) fn applied(&self) -> Lsn {
        if !self.keeps(Rule::KeepUndone) {
            return self.next;
        }
        self.records.keys().next().copied().unwrap_or(self.next)
    }

    /// How many records are not done.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Everything that was read is done.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// No more is read for now.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Nothing can be handed out.
    pub(super) fn is_starved(&self) -> bool {
        self.ready.is_empty()
    }

    /// When the oldest record was read.
    pub(super) fn oldest_seen(&self) -> Option<Instant> {
        self.records.values().next().map(|waiting| waiting.seen)
    }

    /// All of the records, in order.
    pub(super) fn records(&self) -> impl Iterator<Item = (Lsn, &Waiting)> {
        self.records.iter().map(|(lsn, waiting)| (*lsn, waiting))
    }

    /// One of the records.
    pub(super) fn get(&self, lsn: Lsn) -> Option<&Waiting> {
        self.records.get(&lsn)
    }

    /// One of the records.
    pub(super) fn get_mut(&mut self, lsn: Lsn) -> Option<&mut Waiting> {
        self.records.get_mut(&lsn)
    }

    /// Whatever failed, did so while the secondary went away.
    pub(super) fn forgive(&mut self) {
        self.records.values_mut().for_each(|waiting| waiting.failing_since = None);
    }

    /// Take one entry; a record that is `done` already is passed over. On an error nothing was taken, and reading stays
    /// where it is.
    pub(super) fn read(
        &mut self,
        entry: Entry,
        now: Instant,
        done: impl Fn(Lsn, &Record) -> bool,
    ) -> Result<(), Malformed> {
        let at = match &entry {
            Entry::Record { lsn, .. } | Entry::Outcome { lsn, .. } | Entry::Dropped { lsn, .. } => *lsn,
        };
        self.next = at;
        match entry {
            Entry::Record { lsn, payload } => {
                let record = Record::parse(payload)?;
                if !done(lsn, &record) {
                    self.record(lsn, record, now);
                }
            }
            other => self.ended(&other),
        }
        self.next = Lsn(at.0 + 1);
        Ok(())
    }

    /// A batch was read: `next` is where the journal says to go on.
    pub(super) fn batch_read(&mut self, next: Lsn) {
        self.next = next;
        self.scouted_to(next);
    }

    /// Look only whether this is an outcome that somebody waits for.
    pub(super) fn scout(&mut self, entry: &Entry) {
        self.ended(entry);
    }

    /// Everything below was scouted, or read.
    pub(super) fn scouted_to(&mut self, upto: Lsn) {
        self.scouted = upto;
        if upto >= self.begun {
            for lsn in std::mem::take(&mut self.orphans) {
                self.doubt(lsn, self.begun);
            }
        }
    }

    fn record(&mut self, lsn: Lsn, mut record: Record, now: Instant) {
        // It may wait for long, and would keep what it was read with.
        record.detach();
        let bytes = RECORD + record.bytes() + CLAIM * claims::of(&record).count();
        let waiting = Waiting { record, seen: now, told: now, attempts: 0, failing_since: None, fate: None, bytes };
        let claimed = claims::of(&waiting.record);
        #[cfg(test)]
        let claimed = bend(self.bent, claimed);
        self.claims.enter(lsn, claimed);
        self.bytes += waiting.bytes;
        self.records.insert(lsn, waiting);
        if lsn < self.begun {
            self.orphans.insert(lsn);
        }
        if !self.keeps(Rule::OutcomeFirst) {
            self.fate(lsn, Certainty::Committed, lsn);
        }
    }

    /// What the entry says of an earlier record.
    fn ended(&mut self, entry: &Entry) {
        match *entry {
            Entry::Record { .. } => {}
            Entry::Outcome { lsn, of, outcome: Outcome::Committed } => self.fate(of, Certainty::Committed, lsn),
            // Said twice, where the journal was scouted: the second time it is gone.
            Entry::Outcome { of, outcome: Outcome::Aborted, .. } => self.done(of),
            Entry::Outcome { lsn, of, outcome: Outcome::Unknown } | Entry::Dropped { lsn, of } => self.doubt(of, lsn),
        }
    }

    fn doubt(&mut self, lsn: Lsn, at: Lsn) {
        match self.keeps(Rule::SettleUnknown) {
            true => self.fate(lsn, Certainty::Unknown, at),
            false => self.done(lsn),
        }
    }

    fn fate(&mut self, lsn: Lsn, certainty: Certainty, at: Lsn) {
        let Some(waiting) = self.records.get_mut(&lsn).filter(|waiting| waiting.fate.is_none()) else { return };
        (waiting.fate, waiting.told) = (Some((certainty, at)), Instant::now());
        self.orphans.remove(&lsn);
        if self.claims.holds_all(lsn) {
            self.ready.push_back(lsn);
        }
    }

    /// Hand one out, now that the journal is written up to `appended`.
    pub(super) fn take(&mut self, appended: Lsn) -> Option<Job> {
        while let Some(lsn) = self.ready.pop_front() {
            let Some(waiting) = self.records.get_mut(&lsn) else { continue };
            waiting.attempts += 1;
            return Some(Job {
                lsn,
                record: waiting.record.clone(),
                certainty: waiting.certainty(),
                late: parked_at(&waiting.record).is_some(),
                attempt: waiting.attempts,
                ended: waiting.ended(),
                handed: appended,
                told: waiting.told,
            });
        }
        None
    }

    /// It was handed out and came back undone: it is next.
    pub(super) fn again(&mut self, lsn: Lsn) {
        self.ready.push_front(lsn);
    }

    /// It is done, or never happened: who waits for it goes on.
    pub(super) fn done(&mut self, lsn: Lsn) {
        let Some(waiting) = self.records.remove(&lsn) else { return };
        self.bytes -= waiting.bytes;
        self.orphans.remove(&lsn);
        let mut free = Vec::new();
        self.claims.leave(lsn, &mut free);
        let known = |lsn: &Lsn| self.records.get(lsn).is_some_and(|waiting| waiting.fate.is_some());
        self.ready.extend(free.into_iter().filter(known));
    }

    #[cfg(not(test))]
    pub(super) fn keeps(&self, _: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.bent != Some(rule)
    }
}

#[cfg(test)]
fn bend<'a>(
    bent: Option<Rule>,
    claimed: impl Iterator<Item = (claims::Resource<'a>, claims::Mode)>,
) -> impl Iterator<Item = (claims::Resource<'a>, claims::Mode)> {
    use claims::{Mode, Resource};
    claimed.filter_map(move |claim| match (bent, claim) {
        (Some(Rule::Lanes), (Resource::Part(..), Mode::Alone)) | (Some(Rule::Places), (Resource::Place(..), _)) => None,
        (Some(Rule::Parts), (resource @ Resource::Part(..), Mode::AtPlaces)) => Some((resource, Mode::Beside)),
        (Some(Rule::Barriers), (resource @ (Resource::Table(_) | Resource::All), _)) => Some((resource, Mode::Beside)),
        _ => Some(claim),
    })
}

/// The unit of a retry of what was parked at `lsn`: the mirror's own, so without a backend on the primary.
pub(super) fn retry_of(lsn: Lsn) -> Backend {
    // The first record of a journal stands at 0, which says nothing here.
    Backend { id: 0, life: lsn.0 + 1 }
}

/// What the record is called in the list of what is parked, if it is or were: by where it was parked first. What we owe
/// ourselves is owed anew by every walk that finds it to differ, so it is called by its keys.
pub(super) fn parked_as(record: &Record, lsn: Lsn) -> Lsn {
    let by_keys = || {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let mut name = None;
        for item in record.items() {
            let Item::Key { table, key, .. } = item else { continue };
            let hash = name.unwrap_or(0xcbf2_9ce4_8422_2325_u64) ^ table.0;
            name = Some((key.len() as u64).to_le_bytes().iter().chain(key).fold(hash, mix));
        }
        // Above every position, and below the one that has none behind it.
        let name = name.map(|name| Lsn((name | 1 << 63) & !1));
        name.filter(|_| record.backend == (Backend { id: 0, life: 0 }))
    };
    parked_at(record).or_else(by_keys).unwrap_or(lsn)
}

/// Where the record was parked that this one is a retry of.
pub(super) fn parked_at(record: &Record) -> Option<Lsn> {
    let Backend { id, life } = record.backend;
    life.checked_sub(1).filter(|_| id == 0).map(Lsn)
}
