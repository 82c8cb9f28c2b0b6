//! What all handles share: the positions, the room that is left, who waits for what.
//!
//! One short mutex guards it. An append takes it to get its place and to copy its bytes; nothing that can block is done
//! under it. Wakers are taken out under the lock and woken after it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::announce::Announced;
use super::entry::{HEADER, OUTCOME};
use super::options::Options;
use super::ring::Ring;
use super::segment::{Segment, Slot};
use super::storage::Storage;
use super::writer::Stepper;
use super::{Error, SyncSample};

/// How far apart the moments are of which it is remembered what the log had reached.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Who runs the steps that move the log to the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    /// Two threads: one syncs, one makes spare segments.
    Threads,
    /// The caller, by [`super::Journal::sync_now`].
    Manual,
    /// The append itself, when much has gathered: a journal in memory.
    Inline,
}

pub(super) struct Shared {
    pub options: Options,
    pub drive: Drive,
    pub storage: Arc<dyn Storage>,
    pub id: u64,
    /// Told apart from every other opening of it, of copies too.
    pub life: u64,
    /// Where it ended when it was opened, before positions were passed over that may have been handed out.
    pub found: u64,
    pub seed: u32,
    pub ring: Ring,
    pub state: Mutex<State>,
    /// The sync thread waits here.
    pub work: Condvar,
    /// The thread that makes spare segments waits here.
    pub fill: Condvar,
    /// Copies of the state's fields, for those who only look.
    pub appended: AtomicU64,
    pub durable: AtomicU64,
    pub announced: Mutex<Announced>,
    /// [`Announced::window`], for those who only look.
    pub window: AtomicU64,
    pub stepper: Mutex<Stepper>,
    /// How many wait for room.
    pub waiting: AtomicU64,
    /// [`super::Journal::held_up_at`]; `u64::MAX`: nowhere.
    pub held_up: AtomicU64,
}

/// Somebody waits for room.
pub(super) struct Waits<'a>(&'a AtomicU64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Invariants: `trimmed <= moved <= appended`, `durable <= appended`, `records <= appended`;
/// `appended + open * OUTCOME - floor() <= ring size`: outcomes always have room in the ring;
/// and the segment being filled with the free slots takes as much: outcomes always have room on the disk.
pub(super) struct State {
    pub appended: u64,
    /// Where the newest record ends: up to here somebody waits, or will. Outcomes behind it hurry nobody.
    pub records: u64,
    /// Everything below is in the segments (and synced, if that is configured): its place in the ring may be used again.
    pub moved: u64,
    pub durable: u64,
    pub trimmed: u64,
    /// Where the control file says that reading begins: `forgotten <= trimmed`.
    pub forgotten: u64,
    /// There is something for the thread that fills segments.
    pub fill: bool,
    /// Where this life began: the ring holds nothing below.
    pub start: u64,
    /// Units without an outcome; room for it is reserved.
    pub open: u64,
    /// Where readers are copying out of the ring.
    pub pins: Vec<u64>,
    /// The log, oldest first; the last is being written. Never empty.
    pub live: VecDeque<Segment>,
    /// Where later segments begin that no slot was given to yet; each has one in `free`.
    pub cuts: VecDeque<u64>,
    /// Files that are ready.
    pub free: Vec<Slot>,
    /// Where the newest segment, given a slot or not, is full.
    pub full_at: u64,
    pub next_slot: u32,
    pub control_due: bool,
    pub loss_confirmed: bool,
    /// The sync thread sleeps: an append must wake it.
    pub idle: bool,
    /// It gathers company for records that nobody waits for yet.
    pub lingering: bool,
    /// Records appended since the last step.
    pub gathered: u32,
    /// So many records were in the last step, and so many sessions waited for it.
    pub synced: (u32, u32),
    pub broken: Option<Arc<str>>,
    pub ending: Ending,
    pub waiting: Waiting,
    /// When the log reached a position, about every second, and when it reached the newest.
    pub ages: VecDeque<(u64, Instant)>,
    pub syncs: u64,
    pub last_sync: Option<SyncSample>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Open,
    /// The last handle is gone; threads stop, and the next life finds what a kill leaves.
    Dropped,
    /// Sync everything and say so.
    Closing,
    /// Nothing is appended any more; the end is being written.
    Sealed,
    Closed,
}

/// Wakers, by what they wait for.
#[derive(Default)]
pub(super) struct Waiting {
    /// By the lsn of the record that shall become durable.
    pub durable: BTreeMap<u64, Waker>,
    pub appended: Vec<Waker>,
    pub room: Vec<Waker>,
    pub closed: Vec<Waker>,
}

impl Waiting {
    /// Everybody: the journal broke or closed.
    pub(super) fn all(&mut self) -> Vec<Waker> {
        let mut all: Vec<Waker> = std::mem::take(&mut self.durable).into_values().collect();
        all.append(&mut self.room);
        all.append(&mut self.closed);
        all
    }
}

/// Keep a waker once, however often its task asks.
pub(super) fn remember(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn waits(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waits(&self.waiting)
    }

    /// Would a record's entry of `len` bytes fit now, its outcome included, and every outcome owed so far?
    pub(super) fn fits(&self, state: &State, len: u64) -> bool {
        let reserved = (state.open + 1) * OUTCOME;
        self.fits_ring(state, len, reserved) && self.fits_disk(state, len, reserved)
    }

    /// Has the disk no room for the largest record? The ring is full for a moment only.
    pub(super) fn is_full(&self, state: &State) -> bool {
        let largest = (HEADER + self.options.record_limit_bytes) as u64;
        !self.fits_disk(state, largest, (state.open + 1) * OUTCOME)
    }

    fn fits_ring(&self, state: &State, len: u64, reserved: u64) -> bool {
        let size = self.ring.size();
        reserved <= size / 4 && state.appended + len + reserved - state.floor() <= size
    }

    /// Only segments that exist count, so that a full disk is met here and not when the record must be written.
    fn fits_disk(&self, state: &State, len: u64, reserved: u64) -> bool {
        let capacity = self.options.segment_bytes;
        let (spare, left) = (state.spare(), state.full_at - state.appended);
        let (spare, left) = if len <= left {
            (spare, left - len)
        } else if spare > 0 {
            (spare - 1, capacity - len)
        } else {
            return false;
        };
        // Each crossing into another segment may waste less than one outcome.
        left + spare * (capacity - OUTCOME) >= reserved
    }
}

impl State {
    /// Give the next `len` bytes of the log out.
    pub(super) fn place(&mut self, len: u64, capacity: u64) -> u64 {
        let lsn = self.appended;
        if lsn + len > self.full_at {
            self.cuts.push_back(lsn);
            self.full_at = lsn + capacity;
        }
        self.appended += len;
        lsn
    }

    /// Nothing at or above may be overwritten in the ring.
    pub(super) fn floor(&self) -> u64 {
        self.pins.iter().copied().fold(self.moved, u64::min)
    }

    /// Free slots that no cut has claimed.
    pub(super) fn spare(&self) -> u64 {
        (self.free.len() - self.cuts.len()) as u64
    }

    /// Why nothing is accepted any more.
    pub(super) fn refusal(&self) -> Option<Error> {
        if let Some(reason) = &self.broken {
            return Some(Error::Broken(reason.clone()));
        }
        let ended = matches!(self.ending, Ending::Closing | Ending::Sealed | Ending::Closed);
        ended.then(|| Error::Broken("it was closed".into()))
    }

    /// A segment at the front is no longer needed.
    pub(super) fn frees(&self, trimmed: u64) -> bool {
        self.live.front().is_some_and(|segment| segment.end.is_some_and(|end| end <= trimmed))
    }

    /// How long ago what lies at this position was appended, as far as the samples tell.
    pub(super) fn age(&self, at: u64, now: Instant) -> Duration {
        let behind = self.ages.partition_point(|(position, _)| *position <= at);
        self.ages.get(behind).map_or(Duration::ZERO, |(_, reached)| now.saturating_duration_since(*reached))
    }

    /// Remember when the log reached this position; at most about a thousand samples, coarser as they age.
    pub(super) fn sample_age(&mut self, now: Instant) {
        while self.ages.len() > 1 && self.ages[1].0 <= self.trimmed {
            self.ages.pop_front();
        }
        // The last sample stands for all that came since the one before it.
        if self.ages.len() > 1 && now - self.ages[self.ages.len() - 2].1 < SAMPLE_EVERY {
            self.ages.pop_back();
        }
        self.ages.push_back((self.appended, now));
        if self.ages.len() > 1024 {
            let mut index = 0;
            self.ages.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
