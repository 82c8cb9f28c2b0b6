//! The sessions' side: which reads are chosen, and room for their answers. Nothing here waits.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::shapes::Place;
use super::{About, Board, Skip};
use crate::config::live::Settings;
use crate::dice::Dice;
use crate::journal::Lsn;
use crate::record::{Side, TableId};

/// Where sessions offer their reads; cheap to clone.
pub struct Handle<R> {
    /// `None`: nothing is ever chosen.
    open: Option<Open<R>>,
}

struct Open<R> {
    board: Board,
    jobs: mpsc::Sender<Job<R>>,
}

/// A read that was chosen, with room for its answer. What is not submitted is counted as skipped.
pub struct Slot<R> {
    jobs: mpsc::Sender<Job<R>>,
    place: Place,
    tables: SmallVec<[TableId; 4]>,
    answer: BytesMut,
    started: Instant,
    sent: Lsn,
    primary: Side,
    epoch: u64,
    /// Why it cannot be compared any more; when it is submitted or dropped it is counted so.
    end: Option<Skip>,
    /// Last: given back when all else is gone. `None`: given to the job.
    room: Option<Room>,
}

/// A read in the queue.
pub(super) struct Job<R> {
    pub(super) read: R,
    pub(super) place: Place,
    pub(super) tables: SmallVec<[TableId; 4]>,
    /// Everything below was appended when it was forwarded.
    pub(super) sent: Lsn,
    /// Everything below was appended when the answer ended.
    pub(super) point: Lsn,
    pub(super) submitted: Instant,
    pub(super) primary: Side,
    pub(super) epoch: u64,
    /// How long the primary took.
    pub(super) took: std::time::Duration,
    /// Last: given back when all else is gone.
    pub(super) _room: Room,
}

/// A read's share of the queue; given back on drop.
pub(super) struct Room {
    board: Board,
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl<R> Clone for Handle<R> {
    fn clone(&self) -> Handle<R> {
        let open = self.open.as_ref().map(|open| Open { board: open.board.clone(), jobs: open.jobs.clone() });
        Handle { open }
    }
}

impl<R> Handle<R> {
    pub(super) fn new(board: Board, jobs: mpsc::Sender<Job<R>>) -> Handle<R> {
        Handle { open: Some(Open { board, jobs }) }
    }

    /// Where nothing is mirrored there is nothing to compare: never chooses.
    pub fn off() -> Handle<R> {
        Handle { open: None }
    }

    /// Ask right before a read is forwarded, inside its pass. `None`: it is not chosen, or there is no room; go on as ever.
    /// `about` is called only for a read that chance has chosen.
    pub fn sample<'a>(&self, about: impl FnOnce() -> About<'a>) -> Option<Slot<R>> {
        let open = self.open.as_ref()?;
        let bound = open.board.shared().live.sampled();
        if bound == 0 || roll() >= bound {
            return None;
        }
        open.choose(&about())
    }

    /// The settings that may change while tandem runs, such as the columns that are not compared.
    pub fn settings(&self) -> Option<arc_swap::Guard<std::sync::Arc<Settings>>> {
        self.open.as_ref().map(|open| open.board.shared().live.get())
    }
}

impl<R> Open<R> {
    #[cold]
    fn choose(&self, about: &About<'_>) -> Option<Slot<R>> {
        let shared = self.board.shared();
        let route = shared.gate.route();
        if !route.mirror || !is_wanted(&shared.live.get(), about) {
            return None;
        }
        let place = shared.shapes.place(about, route.epoch);
        let Ok(permit) = shared.room.clone().try_acquire_owned() else {
            place.shape.skipped(Skip::QueueFull);
            return None;
        };
        Some(Slot {
            jobs: self.jobs.clone(),
            place,
            tables: about.tables.iter().map(|(table, _)| *table).collect(),
            answer: BytesMut::new(),
            started: Instant::now(),
            sent: shared.journal.appended(),
            primary: route.primary,
            epoch: route.epoch,
            end: None,
            room: Some(Room { board: self.board.clone(), bytes: 0, _permit: permit }),
        })
    }
}

/// The operator's filters.
fn is_wanted(settings: &Settings, about: &About<'_>) -> bool {
    let of_tables = settings.tables.is_empty() || about.tables.iter().any(|(_, name)| settings.tables.has(name));
    let of_client = || match about.client {
        _ if settings.clients.is_empty() => true,
        // A listener of both families shows a client of IPv4 as ::ffff:10.0.0.5.
        client => client.is_some_and(|client| settings.clients.has(&client.to_canonical().to_string())),
    };
    of_tables
        && settings.users.allow(about.user)
        && (settings.statements.allow(about.kind) || settings.statements.has(about.shape))
        && of_client()
}

/// 32 random bits.
fn roll() -> u64 {
    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }
    let mut dice = Dice(STATE.get().unwrap_or_else(|| RandomState::new().hash_one(0)));
    let rolled = dice.below(1 << 32);
    STATE.set(Some(dice.0));
    rolled
}

impl<R> Slot<R> {
    /// Copy a part of the answer, in order. False: there is no room for it; the read will be skipped, and nothing more needs
    /// to be kept.
    pub fn keep(&mut self, part: &[u8]) -> bool {
        let kept = self.reserve(part.len());
        if kept {
            self.answer.extend_from_slice(part);
        }
        kept
    }

    /// Room for bytes that the read keeps elsewhere, such as its request. False as of [`Slot::keep`].
    pub fn reserve(&mut self, bytes: usize) -> bool {
        if self.end.is_none() {
            self.end = self.room.as_mut().and_then(|room| room.grow(bytes).err());
            if self.end.is_some() {
                self.answer = BytesMut::new();
            }
        }
        self.end.is_none()
    }

    /// The answer so far.
    pub fn kept(&self) -> &[u8] {
        &self.answer
    }

    /// The answer so far, to become part of the read that is submitted.
    pub fn take(&mut self) -> Bytes {
        self.answer.split().freeze()
    }

    /// The read is forwarded only now: it had to wait for something.
    pub fn forwarded(&mut self) {
        self.started = Instant::now();
        self.sent = self.room.as_ref().map_or(self.sent, |room| room.board.shared().journal.appended());
    }

    /// The answer has ended: compare it. At once, when its last byte came from the primary, and before the pass is dropped:
    /// this is the read's causal point and its time.
    pub fn submit(mut self, read: R) {
        if self.end.is_some() {
            return;
        }
        let Some(room) = self.room.take() else { return };
        let submitted = Instant::now();
        let job = Job {
            read,
            place: self.place.clone(),
            tables: std::mem::take(&mut self.tables),
            sent: self.sent,
            point: room.board.shared().journal.appended(),
            submitted,
            primary: self.primary,
            epoch: self.epoch,
            took: submitted - self.started,
            _room: room,
        };
        // There is room for as many as have permits.
        if self.jobs.try_send(job).is_err() {
            self.place.shape.skipped(Skip::Stopped);
        }
    }

    /// It cannot be compared, and why.
    pub fn skip(mut self, why: Skip) {
        self.end.get_or_insert(why);
    }
}

impl<R> Drop for Slot<R> {
    fn drop(&mut self) {
        if self.room.is_some() {
            self.place.shape.skipped(self.end.unwrap_or(Skip::Abandoned));
        }
    }
}

impl Room {
    fn grow(&mut self, bytes: usize) -> Result<(), Skip> {
        let shared = self.board.shared();
        let whole = self.bytes.saturating_add(bytes);
        if whole > shared.config.max_answer.bytes() {
            return Err(Skip::AnswerTooLarge);
        }
        let limit = shared.config.queue_bytes.bytes();
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= limit);
        shared.bytes.fetch_update(Relaxed, Relaxed, fits).map_err(|_| Skip::QueueFull)?;
        self.bytes = whole;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.board.shared().bytes.fetch_sub(self.bytes, Relaxed);
    }
}
