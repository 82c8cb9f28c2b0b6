//! The durable log between the primary's answer and the secondary: every captured write is written here before it is
//! forwarded where it could commit (promise 1).
//!
//! Relation of the positions, written once, here: `appended >= durable`, `appended >= applied >= trimmed >= forgotten`.
//!
//! - *appended*: written; survives a kill of the process, not of the machine;
//! - *durable*: synced as configured; survives the machine;
//! - *applied*: the secondary has everything below it;
//! - *trimmed*: nothing below it is kept;
//! - *forgotten*: not after a crash either.
//!
//! An append copies its bytes into a mapped, never synced `ring` and returns: the pages are the kernel's, so that is
//! *written*. One thread moves the ring's bytes into zero-filled `segment` files with one sync for all that gathered
//! meanwhile (`writer`). After a crash `recovery` reads the segments, then what only the ring has. A position is a byte
//! offset in the log, so the ring, the segments and the readers agree on it without an index.

mod announce;
mod control;
mod entry;
mod linger;
mod options;
mod reader;
mod recovery;
mod ring;
pub mod room;
mod segment;
mod state;
pub mod storage;
#[cfg(test)]
mod tests;
mod writer;

use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use announce::{ANY, Announcer};
pub use control::Labels;
pub use options::{BEGIN_ANEW, Durability, OpenError, Options, SyncSample};
pub use recovery::{Last, Passed, Recovered, pass_by};

use entry::{Draft, HEADER, OUTCOME};
use state::{Drive, Ending, Shared, State, lock, remember};
use storage::{Disk, MemoryDisk, Storage};

/// A position: where an entry starts, in bytes from the beginning of the log. Grows with every append, is never used
/// again, also not after recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// A journal at a moment, see [`Journal::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The journal's name.
    pub journal: u64,
    /// Its opening's name.
    pub life: u64,
    /// To where it was durable.
    pub reached: Lsn,
}

/// How a unit ended on the primary. A ticket that is dropped without an outcome leaves the unit in doubt: the journal says
/// so too, unless the process ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The primary said so.
    Committed,
    /// The primary refused it or rolled it back.
    Aborted,
    /// It is over, and nobody will know how: whoever ran it lives on, so no proof that it is gone will come.
    Unknown,
}

/// What the journal holds, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A unit's record, opaque to the journal.
    Record {
        /// Its position, which also names the unit.
        lsn: Lsn,
        /// What was passed to [`Journal::begin`].
        payload: Bytes,
    },
    /// How an earlier unit ended.
    Outcome {
        /// Where this entry is.
        lsn: Lsn,
        /// The unit's record.
        of: Lsn,
        /// How it ended.
        outcome: Outcome,
    },
    /// An earlier unit's ticket was dropped: nobody will say how it ended.
    Dropped {
        /// Where this entry is.
        lsn: Lsn,
        /// The unit's record.
        of: Lsn,
    },
}

/// Why the journal did not take a record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No room: the configured size is used up, the disk is full, or it is slower than what comes in, which passes by
    /// itself. Wait for [`Journal::room`] as long as you can, then mark dirty.
    #[error("the journal is full")]
    Full,
    /// The record alone is larger than the journal takes: split it.
    #[error("a record of {0} bytes is larger than the journal takes")]
    TooLarge(usize),
    /// The disk failed; nothing more is accepted until a restart.
    #[error("the journal failed: {0}")]
    Broken(Arc<str>),
    /// The disk gave back other bytes than were durable. Nothing behind them can be read.
    #[error("its entry at position {0} is damaged, and this does not pass by itself: {BEGIN_ANEW}")]
    Damaged(u64),
    /// The position was trimmed.
    #[error("position {0:?} was trimmed")]
    Trimmed(Lsn),
}

/// Proof that a record is durable as configured. Functions that acknowledge a write take it by value, so that an early
/// acknowledgement does not compile.
#[derive(Debug)]
pub struct Durable(());

/// What a journal is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Everything below is written.
    pub appended: Lsn,
    /// Everything below is durable as configured.
    pub durable: Lsn,
    /// Nothing below is kept.
    pub trimmed: Lsn,
    /// Bytes of segment files on disk, spare ones included.
    pub bytes: u64,
    /// The configured limit of them.
    pub limit_bytes: u64,
    /// Segments that hold entries.
    pub segments: usize,
    /// Segments kept ready.
    pub spare: usize,
    /// Units without an outcome that are not in doubt.
    pub open: u64,
    /// About how long ago the oldest entry that is kept was appended, in this process; zero when none is.
    pub oldest: Duration,
    /// Groups made durable since the journal was opened.
    pub syncs: u64,
    /// The last of them.
    pub last_sync: Option<SyncSample>,
    /// The files have no room for a record of the largest size.
    pub full: bool,
    /// How many wait for room.
    pub waiting: u64,
    /// Why nothing is accepted any more.
    pub broken: Option<Arc<str>>,
}

/// Handle to the journal; cheap to clone. When the last handle and ticket are gone, the threads end, and the next open
/// finds what a kill leaves: [`Journal::close`] is for an orderly end.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    _threads: Arc<Threads>,
}

/// Whom an append concerns.
struct Wake {
    /// The sync thread sleeps and shall not.
    sync: bool,
    readers: Vec<Waker>,
}

/// The threads, stopped and joined by the last handle.
struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Journal {
    /// Open the journal in a directory, or make one. Blocks: reads the last segment, and writes a few syncs' worth.
    pub fn open(dir: &Path, options: Options) -> Result<(Journal, Recovered), OpenError> {
        let disk = Arc::new(Disk::open(dir)?);
        let (shared, recovered) = recovery::open(disk, options, Drive::Threads)?;
        let journal = Journal::new(shared);
        let spawned = writer::spawn(&journal.shared);
        let handles = spawned.map_err(|error| OpenError::Io { place: dir.display().to_string(), error })?;
        *lock(&journal._threads.handles) = handles;
        Ok((journal, recovered))
    }

    /// Open the journal in any storage, without threads: nothing becomes durable but by [`Journal::sync_now`]. For
    /// simulations that choose when to crash.
    pub fn open_on(storage: Arc<dyn Storage>, options: Options) -> Result<(Journal, Recovered), OpenError> {
        let (shared, recovered) = recovery::open(storage, options, Drive::Manual)?;
        Ok((Journal::new(shared), recovered))
    }

    /// A journal in memory, for tests that need no disk: durable at once, 1 GiB large.
    pub fn in_memory() -> Journal {
        let options = Options {
            durability: Durability::Memory,
            size_limit_bytes: 1 << 30,
            segment_bytes: 4 << 20,
            record_limit_bytes: 1 << 20,
            ring_bytes: 4 << 20,
            ..Options::default()
        };
        let opened = recovery::open(MemoryDisk::default().storage(), options, Drive::Inline);
        let (shared, _) = opened.expect("these options are valid and this disk does not fail");
        Journal::new(shared)
    }

    fn new(shared: Arc<Shared>) -> Journal {
        let threads = Threads { shared: shared.clone(), handles: Mutex::default() };
        Journal { shared, _threads: Arc::new(threads) }
    }

    /// Append a record. *Written* when it returns: it survives a kill of the process. Never waits; room for the outcome
    /// is reserved with it.
    pub fn begin(&self, payload: &[u8]) -> Result<Ticket, Error> {
        if payload.len() > self.shared.options.record_limit_bytes {
            return Err(Error::TooLarge(payload.len()));
        }
        let draft = Draft::record(self.shared.seed, payload);
        let len = (HEADER + payload.len()) as u64;
        let (lsn, wake) = {
            let mut state = self.shared.lock();
            if let Some(refusal) = state.refusal() {
                return Err(refusal);
            }
            if !self.shared.fits(&state, len) {
                return Err(Error::Full);
            }
            state.open += 1;
            state.records = state.appended + len;
            state.gathered += 1;
            self.append(&mut state, &draft, payload)
        };
        self.wake(wake);
        self.shared.drive_inline();
        Ok(Ticket { journal: self.clone(), lsn: Lsn(lsn), settled: false, waits: false })
    }

    /// Copy an entry for which there is room. Whom it concerns is woken after the lock is released.
    fn append(&self, state: &mut State, draft: &Draft, payload: &[u8]) -> (u64, Wake) {
        let len = (HEADER + payload.len()) as u64;
        let lsn = state.place(len, self.shared.options.segment_bytes);
        self.shared.ring.write(lsn, &draft.header(lsn));
        self.shared.ring.write(lsn + HEADER as u64, payload);
        self.shared.ring.publish(state.appended);
        self.shared.appended.store(state.appended, Ordering::Release);
        let sync = self.shared.rouse(state);
        (lsn, Wake { sync, readers: std::mem::take(&mut state.waiting.appended) })
    }

    fn wake(&self, wake: Wake) {
        if wake.sync {
            self.shared.work.notify_one();
        }
        wake.readers.into_iter().for_each(Waker::wake);
    }

    /// Resolves when a record of `bytes` would fit again, or the journal broke. Others may be faster: ask
    /// [`Journal::begin`] again. Cancel safe.
    pub async fn room(&self, bytes: usize) -> Result<(), Error> {
        if bytes > self.shared.options.record_limit_bytes {
            return Err(Error::TooLarge(bytes));
        }
        let _waits = self.shared.waits();
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(refusal) = state.refusal() {
                return Poll::Ready(Err(refusal));
            }
            if self.shared.fits(&state, (HEADER + bytes) as u64) {
                return Poll::Ready(Ok(()));
            }
            remember(&mut state.waiting.room, cx);
            Poll::Pending
        })
        .await
    }

    /// Everything below is written.
    pub fn appended(&self) -> Lsn {
        Lsn(self.shared.appended.load(Ordering::Acquire))
    }

    /// Everything below is durable as configured.
    pub fn durable(&self) -> Lsn {
        match self.shared.options.durability {
            Durability::Memory => self.appended(),
            Durability::Os | Durability::Fsync => Lsn(self.shared.durable.load(Ordering::Acquire)),
        }
    }

    /// Resolves when something was appended at or after `lsn`. Cancel safe.
    pub async fn wait_appended(&self, lsn: Lsn) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.appended > lsn.0 {
                return Poll::Ready(());
            }
            remember(&mut state.waiting.appended, cx);
            Poll::Pending
        })
        .await;
    }

    /// Read entries from `from` on, in order, as far as *appended* when called: up to about `bytes` of them, at least one
    /// if there is one. The second value is where to read next; read until it is where you want to be. `from` is the
    /// position of an entry, or one returned here, or [`Journal::trimmed`]. Cancel safe.
    pub async fn read(&self, from: Lsn, bytes: usize) -> Result<(Vec<Entry>, Lsn), Error> {
        self.shared.read(from, bytes).await
    }

    /// Where this life of the journal began: whose record lies below and has no outcome will never get one.
    pub fn begun(&self) -> Lsn {
        Lsn(self.shared.lock().start)
    }

    /// Which journal this is, and how far. Kept elsewhere, it tells a copy of the directory that was brought back.
    pub fn place(&self) -> Place {
        Place { journal: self.shared.id, life: self.shared.life, reached: self.durable() }
    }

    /// This journal was further, at a place that was kept elsewhere, than it knows: what was written since is in another
    /// copy of it. Of another journal nothing can be said.
    pub fn was_further(&self, kept: Place) -> bool {
        let end = if kept.life == self.shared.life { self.appended() } else { Lsn(self.shared.found) };
        kept.journal == self.shared.id && kept.reached > end
    }

    /// Where reading can begin: nothing below is kept.
    pub fn trimmed(&self) -> Lsn {
        Lsn(self.shared.lock().trimmed)
    }

    /// What lies below is never read again, not after a crash either: it is trimmed, durably.
    pub fn forgotten(&self) -> Lsn {
        Lsn(self.shared.lock().forgotten)
    }

    /// Nothing below `lsn`, the position of an entry or *appended*, is needed any more. Whole segments are used again once
    /// that is durable; after a crash a little of what was trimmed may be there again.
    pub fn trim(&self, lsn: Lsn) {
        let mut state = self.shared.lock();
        state.trimmed = state.trimmed.max(lsn.0.min(state.appended));
        state.control_due |= state.frees(state.trimmed);
        self.shared.kick(&mut state);
    }

    /// Whoever trims says what is in its way: the open unit whose record is here, and nothing that it can do itself.
    pub fn hold_up_at(&self, at: Option<Lsn>) {
        self.shared.held_up.store(at.map_or(u64::MAX, |at| at.0), Ordering::Relaxed);
    }

    /// No room comes before the open unit whose record is here has ended, as far as whoever trims has said.
    pub fn held_up_at(&self) -> Option<Lsn> {
        Some(Lsn(self.shared.held_up.load(Ordering::Relaxed))).filter(|at| at.0 != u64::MAX)
    }

    /// The number of the window that runs. Who announced a label in it need not do so again before the next.
    pub fn window(&self) -> u64 {
        self.shared.window.load(Ordering::Relaxed)
    }

    /// Say that units with this label are about to be written, right before [`Journal::begin`]. True: go ahead, or hear from
    /// `begin` that the journal takes nothing more. False: wait for [`Journal::announced`] first. What is true stays so
    /// until the window after this one ends; who asks often keeps an [`Announcer`].
    pub fn announce(&self, label: u64) -> bool {
        let known = lock(&self.shared.announced).announce(label);
        if known == Some(true) {
            return true;
        }
        {
            let mut state = self.shared.lock();
            if state.refusal().is_some() {
                return true;
            }
            state.control_due |= known.is_none();
            self.shared.kick(&mut state);
        }
        if self.shared.drive == Drive::Inline && known.is_none() {
            self.shared.step();
        }
        self.shared.drive == Drive::Inline
    }

    /// What lies at this position and behind it takes three quarters of the files that there may be.
    pub fn is_filled_from(&self, from: Lsn) -> bool {
        let state = self.shared.lock();
        let kept = state.live.iter().filter(|segment| segment.end.is_none_or(|end| end > from.0)).count();
        4 * (kept + state.cuts.len()) as u64 >= 3 * self.shared.options.segments()
    }

    /// Was this label announced in the window that runs, or in the one before? That [`ANY`] was says nothing of it.
    pub fn is_announced(&self, label: u64) -> bool {
        lock(&self.shared.announced).is_known(label)
    }

    /// Resolves when an announced label is durable. Cancel safe.
    pub async fn announced(&self, label: u64) -> Result<(), Error> {
        poll_fn(|cx| self.poll_announced(label, cx)).await
    }

    /// [`Journal::announced`], for those who poll.
    pub fn poll_announced(&self, label: u64, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        {
            let mut announced = lock(&self.shared.announced);
            if announced.is_durable(label) {
                return Poll::Ready(Ok(()));
            }
            announced.wait(cx);
        }
        // After the waker is kept: whoever breaks the journal says so first and wakes then.
        self.shared.lock().refusal().map_or(Poll::Pending, |refusal| Poll::Ready(Err(refusal)))
    }

    /// The labels in [`Recovered::active`] are marked dirty, durably: forget them.
    pub fn confirm_loss(&self) {
        let mut state = self.shared.lock();
        state.loss_confirmed = true;
        state.control_due = true;
        self.shared.kick(&mut state);
    }

    /// That a label is dirty could not be written down, or all of it now is: a process that ends in between tells the next
    /// that every label may be.
    pub fn unmarked(&self, is: bool) {
        self.shared.ring.unmarked(is);
    }

    /// What the journal is doing.
    pub fn status(&self) -> Status {
        let durable = self.durable();
        let state = self.shared.lock();
        let files = state.live.len() + state.free.len();
        let kept = state.appended > state.trimmed;
        Status {
            appended: Lsn(state.appended),
            durable,
            trimmed: Lsn(state.trimmed),
            bytes: files as u64 * self.shared.options.file_bytes(),
            limit_bytes: self.shared.options.size_limit_bytes,
            segments: state.live.len(),
            spare: state.free.len(),
            open: state.open,
            oldest: state.ages.front().filter(|_| kept).map_or(Duration::ZERO, |(_, at)| at.elapsed()),
            syncs: state.syncs,
            last_sync: state.last_sync,
            full: self.shared.is_full(&state),
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            broken: state.broken.clone(),
        }
    }

    /// About how long ago the oldest entry at this position or behind it was appended, in this process; zero when none is.
    /// Never more than it is.
    pub fn age(&self, at: Lsn) -> Duration {
        self.shared.lock().age(at.0, Instant::now())
    }

    /// Do all that the threads would do, here and now. For a journal without threads.
    pub fn sync_now(&self) {
        self.shared.drain();
    }

    /// Sync everything, mark the end as clean, take nothing more. Units without an outcome stay in doubt. Cancel safe: the
    /// closing goes on.
    pub async fn close(&self) -> Result<(), Error> {
        {
            let mut state = self.shared.lock();
            if state.ending == Ending::Open {
                state.ending = Ending::Closing;
            }
            self.shared.work.notify_one();
            self.shared.fill.notify_one();
        }
        if self.shared.drive != Drive::Threads {
            self.shared.finish();
        }
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(reason) = &state.broken {
                return Poll::Ready(Err(Error::Broken(reason.clone())));
            }
            if state.ending == Ending::Closed {
                return Poll::Ready(Ok(()));
            }
            remember(&mut state.waiting.closed, cx);
            Poll::Pending
        })
        .await
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            if state.ending == Ending::Open {
                state.ending = Ending::Dropped;
            }
            self.shared.work.notify_one();
            self.shared.fill.notify_one();
        }
        // So that the directory is free when the handle is gone. A waker that drops the last handle does it on the sync
        // thread itself, which must not wait for itself.
        let me = std::thread::current().id();
        for handle in lock(&self.handles).drain(..).filter(|handle| handle.thread().id() != me) {
            let _ = handle.join();
        }
    }
}

/// The obligation to say how a unit ended. Dropped without [`Ticket::end`], the unit is in doubt.
pub struct Ticket {
    journal: Journal,
    lsn: Lsn,
    settled: bool,
    waits: bool,
}

impl Ticket {
    /// The record's position.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Ready when the record is durable as configured. One waker a ticket.
    pub fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<Result<Durable, Error>> {
        let shared = &self.journal.shared;
        if shared.durable.load(Ordering::Acquire) > self.lsn.0 {
            return Poll::Ready(Ok(Durable(())));
        }
        let mut state = shared.lock();
        if shared.durable.load(Ordering::Acquire) > self.lsn.0 {
            return Poll::Ready(Ok(Durable(())));
        }
        if let Some(reason) = &state.broken {
            return Poll::Ready(Err(Error::Broken(reason.clone())));
        }
        self.waits = true;
        state.waiting.durable.insert(self.lsn.0, cx.waker().clone());
        shared.hurry(&mut state);
        Poll::Pending
    }

    /// Write how the unit ended. Never waits, never fails for want of room.
    pub fn end(mut self, outcome: Outcome) {
        self.settle(Draft::outcome(self.journal.shared.seed, outcome, self.lsn));
    }

    fn settle(&mut self, last: Draft) {
        let journal = &self.journal;
        let wake = {
            let mut state = journal.shared.lock();
            self.settled = true;
            state.open -= 1;
            self.stop_waiting(&mut state);
            if matches!(state.ending, Ending::Sealed | Ending::Closed) {
                return;
            }
            journal.append(&mut state, &last, &entry::unit(self.lsn)).1
        };
        journal.wake(wake);
        journal.shared.drive_inline();
    }

    fn stop_waiting(&self, state: &mut State) {
        // Who became durable waits no more.
        if self.waits && self.lsn.0 >= state.durable {
            state.waiting.durable.remove(&self.lsn.0);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(Draft::dropped(self.journal.shared.seed, self.lsn));
        }
    }
}

/// Reserved for each open unit; what the sizes of the options are reckoned with.
const _: () = assert!(OUTCOME == 24, "the documentation of `Options::ring_bytes` says so");
