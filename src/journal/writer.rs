//! From the ring to the disk.
//!
//! One step takes everything appended so far, writes it to the segments, syncs once, and wakes whom that concerns: group
//! commit. While it syncs, the next group gathers in the ring. There is never a second sync in flight, a record lingers
//! for company only while nobody waits for it (`linger`), nothing spins. Outcomes linger longer: nobody ever waits for
//! them, so they go with the next record's sync, or after a nap; one that a power loss takes leaves its unit in doubt, which
//! is settled by state.
//!
//! Order that recovery relies on: a segment is synced before the next one's header is written, and a header is synced
//! before anything behind it leaves the ring. So only the last segment can be torn.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::control::{self, Control};
use super::linger::Linger;
use super::segment::{self, Header, PAGE, Segment, Slot};
use super::state::{Drive, Ending, Shared, State, lock};
use super::{Durability, SyncSample};

/// Bytes moved with one write.
const CHUNK: u64 = 1 << 20;
/// Slots kept ready, and how many may lie around before files are given back.
const SPARES: u64 = 2;
const SPARES_LIMIT: u64 = 4;
/// How long the sync thread sleeps when nothing wakes it: windows must end, and what needs no sync is moved lazily.
const NAP: Duration = Duration::from_secs(1);

/// A disk that was filled up by a segment that it has no room for is asked again after this.
const FULL_NAP: Duration = Duration::from_secs(30);

/// What only the one who steps uses.
pub(super) struct Stepper {
    pub file: control::File,
    pub control: Control,
    pub buffer: Vec<u8>,
}

/// Say in a slot's header what it holds from now on; durable when it returns.
pub(super) fn activate(slot: &Slot, header: &Header) -> io::Result<()> {
    slot.blob.write_at(0, &header.encode())?;
    slot.blob.sync()
}

/// Start the threads. They end with the journal.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let run = |name: &str, work: fn(&Shared)| {
        let shared = shared.clone();
        let guarded = move || {
            // Clients would wait for ever for what nobody syncs.
            if catch_unwind(AssertUnwindSafe(|| work(&shared))).is_err() {
                shared.fail(&io::Error::other("one of its threads panicked: the log has where"));
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(guarded)
    };
    Ok(vec![run("journal-sync", Shared::sync_loop)?, run("journal-fill", Shared::fill_loop)?])
}

/// What [`Shared::move_log`] did.
struct Moved {
    any: bool,
    control_due: bool,
}

impl Shared {
    fn sync_loop(&self) {
        let mut linger = Linger::default();
        loop {
            self.step();
            if !self.rest(&mut linger) {
                break;
            }
        }
        self.finish();
    }

    /// Sleep until there is something to do, and until company has joined it or somebody waits. False: the journal ends.
    fn rest(&self, linger: &mut Linger) -> bool {
        let mut state = self.lock();
        let (records, waited) = std::mem::take(&mut state.synced);
        linger.learn(records, waited);
        if state.ending == Ending::Open && !self.due(&state) {
            state.idle = true;
            state = self.sleep(state, NAP);
            state.idle = false;
        }
        let hurry = !state.waiting.durable.is_empty() || self.pressing(&state) || !self.due(&state);
        if let (false, Ending::Open, Some(patience)) = (hurry, state.ending, linger.patience()) {
            state.lingering = true;
            state = self.sleep(state, patience);
            state.lingering = false;
        }
        state.ending == Ending::Open
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, length: Duration) -> MutexGuard<'a, State> {
        self.work.wait_timeout(state, length).unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    /// Is there something that should not wait for the end of a nap?
    pub(super) fn due(&self, state: &State) -> bool {
        let awaited = self.options.durability != Durability::Memory && state.records > state.moved;
        self.pressing(state) || state.broken.is_none() && awaited
    }

    /// Is there something that should not wait for anything?
    fn pressing(&self, state: &State) -> bool {
        let filling = state.appended - state.moved > self.ring.size() / 4;
        state.broken.is_none() && (filling || state.control_due)
    }

    /// Wake the sync thread if it sleeps. A system call, so only when it has something to do.
    pub(super) fn kick(&self, state: &mut State) {
        if self.rouse(state) {
            self.work.notify_one();
        }
    }

    /// [`Shared::kick`] for who wakes it after the lock: true if it must be.
    pub(super) fn rouse(&self, state: &mut State) -> bool {
        let asleep = state.idle && self.due(state) || state.lingering && self.pressing(state);
        state.idle &= !asleep;
        state.lingering &= !asleep;
        asleep
    }

    /// Somebody waits for a record: gather no longer.
    pub(super) fn hurry(&self, state: &mut State) {
        if std::mem::take(&mut state.lingering) {
            self.work.notify_one();
        }
    }

    /// After the last append of a closing journal: sync everything and say so.
    pub(super) fn finish(&self) {
        if self.lock().ending == Ending::Closing {
            self.step();
            self.close_cleanly();
        }
    }

    /// One group. False when there was nothing to do, or the disk failed.
    pub(super) fn step(&self) -> bool {
        let mut stepper = lock(&self.stepper);
        self.try_step(&mut stepper).unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    // As few locks of the state as can be: whoever appends wants them too.
    fn try_step(&self, stepper: &mut Stepper) -> io::Result<bool> {
        let Some(moved) = self.move_log(&mut stepper.buffer)? else { return Ok(false) };
        let rotated = {
            let mut announced = lock(&self.announced);
            let dropped = announced.rotate(self.options.window);
            self.window.store(announced.window(), Ordering::Relaxed);
            dropped
        };
        if moved.control_due || rotated {
            self.write_control(stepper)?;
        }
        Ok(moved.any || moved.control_due)
    }

    /// Move what was appended to the segments. `None`: the disk failed before, and nothing is tried again.
    fn move_log(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Moved>> {
        let (mut at, to, cuts, mut segment) = {
            let mut state = self.lock();
            if state.broken.is_some() {
                return Ok(None);
            }
            if state.moved == state.appended {
                return Ok(Some(Moved { any: false, control_due: std::mem::take(&mut state.control_due) }));
            }
            state.synced.0 = std::mem::take(&mut state.gathered);
            (state.moved, state.appended, state.cuts.clone(), state.last())
        };
        let (from, began) = (at, Instant::now());
        for cut in cuts {
            self.copy(&segment, at, cut, buffer)?;
            segment.slot.blob.sync()?;
            segment = self.next_segment(&segment, cut)?;
            at = cut;
        }
        self.copy(&segment, at, to, buffer)?;
        if self.options.durability == Durability::Fsync {
            segment.slot.blob.sync()?;
        }
        let control_due = self.moved(to, SyncSample { took: began.elapsed(), bytes: to - from });
        Ok(Some(Moved { any: true, control_due }))
    }

    /// Copy a stretch of the ring into a segment. The last page is filled up with zeros: a page that is overwritten as a
    /// whole need not be read first, and recovery sees where the log ends.
    fn copy(&self, segment: &Segment, mut from: u64, to: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        while from < to {
            let some = (to - from).min(CHUNK);
            let end = segment.offset(from + some);
            let padding = if from + some == to { end.next_multiple_of(PAGE) - end } else { 0 };
            buffer.clear();
            buffer.resize((some + padding) as usize, 0);
            self.ring.read(from, &mut buffer[..some as usize]);
            segment.slot.blob.write_at(segment.offset(from), buffer)?;
            from += some;
        }
        Ok(())
    }

    /// Let the log go on in a free slot.
    fn next_segment(&self, last: &Segment, cut: u64) -> io::Result<Segment> {
        let slot = {
            let mut state = self.lock();
            state.cuts.pop_front();
            state.free.pop().expect("each cut has claimed a free slot")
        };
        let capacity = self.options.segment_bytes;
        let (id, ring) = (self.id, self.ring.size());
        activate(&slot, &Header { id, base: cut, capacity, previous: Some((last.base, cut)), ring })?;
        let segment = Segment { slot, base: cut, capacity, end: None };
        let mut state = self.lock();
        if let Some(last) = state.live.back_mut() {
            last.end = Some(cut);
        }
        state.live.push_back(segment.clone());
        state.fill = true;
        self.fill.notify_one();
        Ok(segment)
    }

    /// Say so. True: the control file is due.
    fn moved(&self, to: u64, sample: SyncSample) -> bool {
        let (wakers, control_due) = {
            let mut state = self.lock();
            state.moved = to;
            state.syncs += 1;
            state.last_sync = Some(sample);
            state.sample_age(Instant::now());
            if self.options.durability != Durability::Memory {
                state.durable = to;
                self.durable.store(to, Ordering::Release);
            }
            let later = state.waiting.durable.split_off(&to);
            let durable = std::mem::replace(&mut state.waiting.durable, later);
            state.synced.1 = durable.len() as u32;
            let mut wakers: Vec<Waker> = durable.into_values().collect();
            wakers.append(&mut state.waiting.room);
            (wakers, std::mem::take(&mut state.control_due))
        };
        wakers.into_iter().for_each(Waker::wake);
        if let Some(observe) = &self.options.on_sync {
            observe(sample);
        }
        control_due
    }

    /// Write the control file, then use again what it says is not needed.
    fn write_control(&self, stepper: &mut Stepper) -> io::Result<()> {
        let (trimmed, moved, confirmed) = {
            let mut state = self.lock();
            (state.trimmed.min(state.moved), state.moved, std::mem::take(&mut state.loss_confirmed))
        };
        let active = lock(&self.announced).list();
        if confirmed {
            stepper.control.lost = control::Labels::default();
        }
        stepper.control.trimmed = trimmed;
        stepper.control.durable = moved;
        stepper.control.active = active.clone();
        stepper.file.write(&mut stepper.control)?;
        self.lock().forgotten = trimmed;
        let mut wakers = lock(&self.announced).written(&active);
        wakers.append(&mut self.recycle(trimmed));
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn recycle(&self, trimmed: u64) -> Vec<Waker> {
        let mut state = self.lock();
        while state.frees(trimmed) {
            let segment = state.live.pop_front().expect("one is freed");
            // Another size than configured: left behind, the next open removes it.
            if segment.capacity == self.options.segment_bytes {
                state.free.push(segment.slot);
            }
        }
        state.fill = true;
        self.fill.notify_one();
        std::mem::take(&mut state.waiting.room)
    }

    fn close_cleanly(&self) {
        let mut stepper = lock(&self.stepper);
        if self.lock().broken.is_none() {
            let (end, trimmed) = {
                let mut state = self.lock();
                // From here on nothing is appended: the end that is written is the end.
                state.ending = Ending::Sealed;
                (state.appended, state.trimmed)
            };
            let written = self.move_log(&mut stepper.buffer).and_then(|_| self.sync_last()).and_then(|()| {
                stepper.control.trimmed = trimmed;
                stepper.control.clean = Some(end);
                stepper.control.active = control::Labels::default();
                let Stepper { file, control, .. } = &mut *stepper;
                file.write(control)
            });
            if let Err(error) = written {
                self.fail(&error);
            }
        }
        let wakers = {
            let mut state = self.lock();
            state.ending = Ending::Closed;
            state.waiting.all()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn sync_last(&self) -> io::Result<()> {
        let last = self.lock().last();
        last.slot.blob.sync()
    }

    /// The disk failed. What was not durable may be gone, whatever a second sync would say: nothing is tried again.
    pub(super) fn fail(&self, error: &io::Error) {
        tracing::error!(place = self.storage.place(), %error, "journal: the disk failed, nothing more is accepted");
        let mut wakers = {
            let mut state = self.lock();
            state.broken = Some(error.to_string().into());
            state.waiting.all()
        };
        wakers.append(&mut lock(&self.announced).wake());
        wakers.into_iter().for_each(Waker::wake);
    }

    fn fill_loop(&self) {
        let (mut told, mut not_before) = (false, Instant::now());
        loop {
            let is_time = Instant::now() >= not_before;
            let made = if is_time { self.fill_step() } else { Ok(false) };
            // Our own refusal has cost nothing. The disk's came when it was full, for everybody.
            if made.as_ref().is_err_and(|error| error.raw_os_error().is_some()) {
                not_before = Instant::now() + FULL_NAP;
            }
            if let (Err(error), false) = (&made, told) {
                tracing::warn!(place = self.storage.place(), %error, "journal: no room for another segment, will retry");
            }
            told = made.is_err() || told && !is_time;
            let mut state = self.lock();
            if state.ending != Ending::Open {
                return;
            }
            // Work that came while the lock was away has notified nobody.
            let more = std::mem::take(&mut state.fill) && made.is_ok();
            if !more && !matches!(made, Ok(true)) {
                drop(self.fill.wait_timeout(state, NAP));
            }
        }
    }

    /// Make a spare segment, or give one back; true if there may be more to do.
    pub(super) fn fill_step(&self) -> io::Result<bool> {
        let mut state = self.lock();
        let files = (state.live.len() + state.free.len()) as u64;
        if state.spare() > SPARES_LIMIT {
            let surplus = state.free.pop().expect("more than enough");
            drop(state);
            self.storage.remove(&segment::name(surplus.number))?;
            return Ok(true);
        }
        if state.ending != Ending::Open || state.spare() >= SPARES || files >= self.options.segments() {
            return Ok(false);
        }
        drop(state);
        if !self.options.leaves_room(&*self.storage, files) {
            let why = "the disk has less left than two segments, and the last one is for others";
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        let number = {
            let mut state = self.lock();
            state.next_slot += 1;
            state.next_slot - 1
        };
        let blob = self.storage.create(&segment::name(number), self.options.file_bytes())?;
        let wakers = {
            let mut state = self.lock();
            state.free.push(Slot { number, blob });
            std::mem::take(&mut state.waiting.room)
        };
        wakers.into_iter().for_each(Waker::wake);
        Ok(true)
    }

    /// Run every step there is to run, in this thread.
    pub(super) fn drain(&self) {
        self.step();
        while let Ok(true) = self.fill_step() {}
    }

    /// Keep a journal without threads going.
    pub(super) fn drive_inline(&self) {
        let behind = |state: &State| state.appended - state.moved > self.ring.size() / 4 || state.spare() == 0;
        if self.drive == Drive::Inline && behind(&self.lock()) {
            self.drain();
        }
    }
}

impl State {
    pub(super) fn last(&self) -> Segment {
        self.live.back().cloned().expect("never empty")
    }
}
