//! One table of a walk as a value: what is done of it, how large its chunks are, and whether it has to be left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::journal::Lsn;
use crate::record::TableId;

use super::counts::Counts;
use super::tract::{FIRST_STEP, Sample, Tract};
use super::work::{Chunk, Compares, Extent, Landed, Paid, Pass, Surveyed};

/// One table of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Walked {
    pub(super) table: TableId,
    pub(super) name: String,
    pub(super) labels: Vec<TableId>,
    /// Columns that are not compared.
    #[serde(default)]
    pub(super) not_compared: Vec<String>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) refused: Option<String>,
    /// It could not be walked over when it was looked at last: it is looked at once more before that is believed.
    #[serde(default)]
    pub(super) doubt: Option<Doubt>,
    /// How often it could not be read, in parts as small as there are.
    #[serde(default)]
    pub(super) unreadable: u8,
    /// Where that was last: an extent, and the first unit.
    #[serde(default)]
    pub(super) unread: Option<(usize, u64)>,
    /// It is not tried before.
    #[serde(skip)]
    pub(super) aside: Option<Instant>,
    /// How often in a row the secondary took nothing of it for now, and what was said of that last.
    #[serde(skip)]
    pub(super) waited: Option<(u32, String)>,
    /// It was never looked at with success.
    #[serde(default)]
    pub(super) is_unseen: bool,
    pub(super) extents: Vec<Tract>,
    /// Of passes that are over, as the two below.
    pub(super) copied_rows: u64,
    pub(super) copied_bytes: u64,
    pub(super) counts: Counts,
    /// Where the journal stood when the comparison began: marks above it are not answered by it.
    pub(super) since: u64,
    /// An earlier round copied it: it is only compared.
    #[serde(default)]
    pub(super) kept: bool,
    /// Units of a chunk; follows what chunks of this table cost.
    #[serde(skip)]
    pub(super) step: u64,
}

/// Why a table may have to be left out. A schema change that clients made comes to the secondary later: until it is there, the
/// sides differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doubt {
    pub(super) why: String,
    /// What had been appended when it was seen last. Paid, it is looked at once more.
    pub(super) until: u64,
    /// It was paid, and the look is due.
    is_ripe: bool,
    /// How often it was seen so.
    seen: u8,
}

/// Copied as history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copied {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// How often a table must be found unfit, each time with all that was appended before paid. A column may be dropped right behind
/// its being added: then two looks find the same column amiss.
pub(super) const DOUBTED: u8 = 4;
/// How often a table must be unreadable, each time at another state and behind another look at its schema.
const UNREADABLE: u8 = 3;
/// The same, where its server may only be short of something; and how long it is left alone, from the first time to the last.
pub(super) const UNREADABLE_NOW: u8 = 12;
pub(super) const UNREADABLE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a table that the secondary takes nothing of for now is left alone, from the first time to the last.
const WAITING_PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How often differences are owed before they are called lasting.
const TRIES: u8 = 3;
/// Most units of a chunk.
const MOST_STEP: u64 = 1 << 16;

/// What a chunk that was done means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// It was not looked at before.
    pub(super) first: bool,
    /// The mirror shall copy what differs: [`super::job::Job::owed`] follows when that is owed.
    pub(super) owes: bool,
}

/// How large chunks may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// About as many rows.
    pub(super) rows: u64,
    /// About so long, in microseconds.
    pub(super) micros: u64,
}

impl Walked {
    pub(super) fn new(found: &Surveyed) -> Walked {
        Walked {
            table: found.table,
            name: found.name.clone(),
            labels: found.labels.clone(),
            not_compared: found.not_compared.clone(),
            rows: found.rows,
            bytes: found.bytes,
            refused: None,
            doubt: None,
            unreadable: 0,
            unread: None,
            aside: None,
            waited: None,
            is_unseen: true,
            extents: Vec::new(),
            copied_rows: 0,
            copied_bytes: 0,
            counts: Counts::default(),
            since: 0,
            kept: false,
            step: FIRST_STEP,
        }
    }

    /// Where its rows lie now. What is known of an extent that kept its file stays true.
    pub(super) fn look(&mut self, found: &Surveyed, pass: Pass, sample: Option<Sample>) {
        let extents = match pass {
            Pass::Copy if self.kept => &Vec::new(),
            Pass::Copy | Pass::Forth => &found.primary,
            Pass::Back => &found.secondary,
        };
        let mut before = std::mem::take(&mut self.extents);
        self.extents = extents.iter().map(|extent| Tract::of(extent, &mut before, sample)).collect();
        self.labels = found.labels.clone();
        self.not_compared = found.not_compared.clone();
        self.doubt = None;
        if self.unread.is_none() {
            self.unreadable = 0;
        }
        if self.step == 0 {
            self.step = FIRST_STEP;
        }
    }

    /// It cannot be walked over, as far as can be seen. What was done of it stays done, should it turn out that it can.
    pub(super) fn doubt(&mut self, why: &str, at: Lsn) {
        if self.refused.is_some() {
            return;
        }
        let first = Doubt { why: why.to_owned(), until: at.0, is_ripe: false, seen: 1 };
        self.doubt = match self.doubt.take() {
            Some(doubt) if doubt.why == why && !doubt.is_ripe => Some(doubt),
            Some(doubt) if doubt.why == why => Some(Doubt { seen: doubt.seen + 1, ..first }),
            _ => Some(first),
        };
        self.refused = self.doubt.take_if(|doubt| doubt.seen >= DOUBTED).map(|doubt| doubt.why);
    }

    /// It could not be looked at: that counts once behind each pause, and it is looked at again then.
    pub(super) fn unseen(&mut self, why: &str, at: Lsn, now: Instant) {
        if self.refused.is_some() {
            return;
        }
        if self.aside.is_none() {
            self.unreadable(why.to_owned(), false, now);
        }
        // Without it a pass would be over that has not looked at it.
        self.doubt = Some(Doubt { why: why.to_owned(), until: at.0, is_ripe: false, seen: 0 });
    }

    /// It cannot be read: once too often, or it is left alone for a while, unless that `lasts`.
    pub(super) fn unreadable(&mut self, why: String, lasts: bool, now: Instant) {
        self.unreadable += 1;
        if self.unreadable >= if lasts { UNREADABLE } else { UNREADABLE_NOW } {
            return self.refuse(why);
        }
        tracing::warn!(table = self.name, why, "history: a table cannot be read");
        if !lasts {
            let pause = UNREADABLE_PAUSES.0 * 2_u32.saturating_pow(u32::from(self.unreadable) - 1);
            self.aside = Some(now + pause.min(UNREADABLE_PAUSES.1));
        }
    }

    /// The secondary takes nothing of it for now: it is left alone for a while.
    pub(super) fn waits(&mut self, why: String, now: Instant) {
        // Another worker met the same.
        if self.aside.is_some_and(|until| until > now) {
            return;
        }
        let times = self.waited.take().map_or(0, |(times, _)| times);
        if times == 0 {
            tracing::warn!(table = self.name, why, "history: a table waits");
        }
        self.aside = Some(now + (WAITING_PAUSES.0 * 2_u32.saturating_pow(times)).min(WAITING_PAUSES.1));
        self.waited = Some((times + 1, why));
    }

    /// Why nothing of it is done now, for people.
    pub(super) fn waits_for(&self) -> Option<String> {
        let doubt = self.doubt.as_ref().map(|doubt| &doubt.why);
        let doubt = doubt.map(|why| format!("{why}: it is looked at again when the mirror has caught up"));
        let waited = || self.waited.as_ref().map(|(_, why)| format!("it is tried again now and then: {why}"));
        Some(format!("{}: {}", self.name, doubt.or_else(waited)?))
    }

    pub(super) fn refuse(&mut self, why: String) {
        tracing::warn!(table = self.name, why, "history: a table is left out");
        self.refused = Some(why);
    }

    /// What is in doubt can be told now, if so much is paid, and it was left alone for long enough.
    pub(super) fn ripen(&mut self, paid: Lsn) -> bool {
        let is_tried = self.refused.is_none() && self.aside.is_none();
        let doubt = self.doubt.as_mut().filter(|doubt| is_tried && doubt.until <= paid.0);
        doubt.map(|doubt| doubt.is_ripe = true).is_some()
    }

    /// Chunks of it may be taken.
    pub(super) fn is_walked(&self) -> bool {
        self.refused.is_none() && self.doubt.is_none()
    }

    /// The pass is over: the next one walks over it anew.
    pub(super) fn turn(&mut self) {
        (self.counts, Copied { rows: self.copied_rows, bytes: self.copied_bytes }) = (self.counts(), self.copied());
        self.extents.clear();
    }

    pub(super) fn copied(&self) -> Copied {
        self.extents.iter().map(|tract| tract.copied).fold(
            Copied { rows: self.copied_rows, bytes: self.copied_bytes },
            |sum, copied| Copied { rows: sum.rows + copied.rows, bytes: sum.bytes + copied.bytes },
        )
    }

    pub(super) fn counts(&self) -> Counts {
        let mut sum = self.counts;
        self.extents.iter().for_each(|tract| sum.add(tract.counts));
        sum
    }

    pub(super) fn take(&mut self, pass: Pass, paid: &Paid) -> Option<Chunk> {
        let (table, step) = (self.table, self.step.max(1));
        // What is compared needs what clients wrote to be there, also behind a copy that was begun before: a table that waits for
        // its own sake holds up no other.
        let is_stuck = paid.is_stuck(&self.labels);
        if is_stuck && pass != Pass::Copy {
            return None;
        }
        let paid = paid.of(&self.labels);
        let mut tracts = self.extents.iter_mut().enumerate();
        tracts.find_map(|(extent, tract)| {
            let ((from, to), again) = tract.take(step, paid, !is_stuck)?;
            let Extent { name, file, .. } = tract.extent.clone();
            let begun = tract.begun.meets(from, to);
            let (job, compares) = (0, Compares::default());
            Some(Chunk { job, pass, again, begun, table, extent, name, file, from, to, compares })
        })
    }

    pub(super) fn landed(&mut self, chunk: &Chunk, landed: &Landed, sizes: Sizes, mends: bool) -> Seen {
        let tract = &mut self.extents[chunk.extent];
        let differing = landed.differing.len() as u64;
        let place =
            tract.again.iter().position(|again| again.taken && (again.from, again.to) == (chunk.from, chunk.to));
        let first = place.is_none();
        let owes = match place {
            None => {
                tract.counts.add(Counts::of(chunk.pass, landed));
                mends && differing + landed.crowd > 0
            }
            Some(at) => {
                let again = &mut tract.again[at];
                // Room was made for as many that were skipped.
                let seen = again.crowd.saturating_sub(landed.crowd);
                // What a copy left to the mirror was never counted.
                if chunk.pass != Pass::Copy {
                    tract.counts.seen(seen, landed);
                    tract.counts.repaired += again.differing.saturating_sub(differing.saturating_sub(seen));
                }
                again.differing = if seen > 0 { differing } else { again.differing.min(differing) };
                again.crowd = again.crowd.min(landed.crowd);
                again.tries = if seen > 0 { 1 } else { again.tries + 1 };
                let owes = differing + landed.crowd > 0 && again.tries <= TRIES;
                if !owes {
                    tract.again.remove(at);
                }
                owes
            }
        };
        if !owes {
            tract.done.add(chunk.from, chunk.to);
        }
        tract.begun.remove(chunk.from, chunk.to);
        self.waited = None;
        if self.unread.is_some_and(|(extent, unit)| extent == chunk.extent && (chunk.from..chunk.to).contains(&unit)) {
            (self.unreadable, self.unread) = (0, None);
        }
        if chunk.pass == Pass::Copy && first {
            tract.copied.rows += landed.rows;
            tract.copied.bytes += landed.bytes;
        }
        self.pace(chunk.to - chunk.from, landed, sizes);
        Seen { first, owes }
    }

    /// Chunks as large as will take the time, and hold the rows, that they may.
    fn pace(&mut self, units: u64, landed: &Landed, sizes: Sizes) {
        let micros = (landed.took.as_micros() as u64).max(1);
        let by_time = units.saturating_mul(sizes.micros) / micros;
        let by_rows = units.saturating_mul(sizes.rows) / landed.rows.max(1);
        // Twice at most, for the next stretch may be denser.
        self.step = by_time.min(by_rows).min(self.step.saturating_mul(2)).clamp(1, MOST_STEP);
    }

    /// How much of it is done in this pass, in units.
    pub(super) fn progress(&self) -> (u64, u64) {
        let done = |tract: &Tract| tract.done.len().min(tract.extent.units) - tract.left_out;
        let all = |tract: &Tract| tract.extent.units - tract.left_out;
        (self.extents.iter().map(done).sum(), self.extents.iter().map(all).sum())
    }
}
