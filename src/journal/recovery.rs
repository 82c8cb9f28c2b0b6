//! Opening a journal: what did the last life leave?
//!
//! 1. The control file names the journal, and says whether it was closed cleanly.
//! 2. The segments form a chain, each naming the one before it; only the last can be torn. Its entries are read until one
//!    does not verify.
//! 3. The ring may hold the entries after that. An entry that verifies at its place is the one that was appended there,
//!    however old the page it was found in.
//! 4. [`decide`] tells from the evidence whether anything can be missing.
//! 5. What was found is written and synced again (after a failed sync the kernel may show bytes that are not on the
//!    disk), and only then is the ring used anew.
//!
//! A log that ends below what files beside it name (`Options::beside`) went back, or is another one; one that ends below what
//! its control file says was durable is damaged: of both anything may be missing.
//!
//! When something may be missing, new positions begin above all that can have been handed out: the last segment's
//! header was durable before anything behind it left the ring, so nothing lies beyond its capacity and one ring.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};

use tokio::time::Instant;

use super::announce::Announced;
use super::control::{self, Control, Found, Labels};
use super::entry::{self, Stop};
use super::options::{OpenError, Options};
use super::ring::{self, Left, Ring};
use super::segment::{self, Bad, Header, PAGE, SECTOR, Segment, Slot, VERSION};
use super::state::{Drive, Ending, Shared, State, Waiting};
use super::storage::{Disk, Storage};
use super::writer::{Stepper, activate};
use super::{Durability, Lsn};

/// A journal that others write past: nobody opens it meanwhile.
pub struct Passed {
    _lock: Disk,
}

/// Say in a journal's directory, if there is one, that every label may be written to without it from now on: the next open
/// tells so.
///
/// # Errors
/// Another process has it, or it cannot be said.
pub fn pass_by(dir: &Path) -> Result<Option<Passed>, OpenError> {
    if !dir.exists() {
        return Ok(None);
    }
    let disk = Disk::open(dir)?;
    let failed = |error| OpenError::Io { place: disk.place(), error };
    if disk.list().map_err(failed)?.iter().any(|name| name == control::NAME) {
        let file = control::File::open(&disk).map_err(failed)?;
        match file.read().map_err(failed)? {
            Found::Control(mut control) => {
                control.lost.all = true;
                file.write(&mut control).map_err(failed)?;
            }
            Found::Newer(found) => return Err(OpenError::Newer { place: disk.place(), found, known: VERSION }),
            // Nothing can be read of it: the next open says so.
            Found::Nothing => {}
        }
    }
    Ok(Some(Passed { _lock: disk }))
}

/// How the last life of a journal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// There was none, or it was closed: nothing is missing.
    Clean,
    /// The process was killed: nothing is missing.
    Killed,
    /// The machine lost its power, or its disk failed: what was written and not durable may be missing.
    Lost,
}

/// What opening a journal found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// How the last life ended.
    pub last: Last,
    /// Nothing below is kept.
    pub trimmed: Lsn,
    /// Where new records go.
    pub appended: Lsn,
    /// Bytes of entries that were only in the ring.
    pub from_ring: u64,
    /// What was being written when something was lost, by label: dirty since then (promise 3). Told again at every open
    /// until [`super::Journal::confirm_loss`]. All of them, where that they are dirty could not be written down, where writes
    /// went [past the journal](pass_by), or where entries are gone that no power loss takes. Act on this, not on `last`: the open that noticed may itself have been cut
    /// short, and the next one then finds a clean end.
    pub active: Labels,
}

/// Is the ring that of the last life?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RingFound {
    /// There is none, or its header is torn or foreign.
    Missing,
    /// And no unsynced page was lost since.
    SameBoot,
    OtherBoot,
}

/// Does the log reach as far as was promised, by the clean close or else by the ring?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Whole,
    Short,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Last(Last),
    /// What a clean close had synced is gone.
    Damaged,
}

struct Case {
    clean: bool,
    /// `None`: any.
    ring: Option<RingFound>,
    reach: Option<Reach>,
    verdict: Verdict,
}

/// Every combination matches exactly one case; a test holds that.
const CASES: [Case; 6] = [
    Case { clean: true, ring: None, reach: Some(Reach::Whole), verdict: Verdict::Last(Last::Clean) },
    Case { clean: true, ring: None, reach: Some(Reach::Short), verdict: Verdict::Damaged },
    Case {
        clean: false,
        ring: Some(RingFound::SameBoot),
        reach: Some(Reach::Whole),
        verdict: Verdict::Last(Last::Killed),
    },
    // The memory of the machine is intact and the log is not: its disk failed, or someone changed a file.
    Case {
        clean: false,
        ring: Some(RingFound::SameBoot),
        reach: Some(Reach::Short),
        verdict: Verdict::Last(Last::Lost),
    },
    // Even if the log reaches as far as the ring's header says: that page may be an old one.
    Case { clean: false, ring: Some(RingFound::OtherBoot), reach: None, verdict: Verdict::Last(Last::Lost) },
    Case { clean: false, ring: Some(RingFound::Missing), reach: None, verdict: Verdict::Last(Last::Lost) },
];

impl Case {
    fn matches(&self, clean: bool, ring: RingFound, reach: Reach) -> bool {
        self.clean == clean && self.ring.is_none_or(|it| it == ring) && self.reach.is_none_or(|it| it == reach)
    }
}

fn decide(clean: bool, ring: RingFound, reach: Reach) -> Verdict {
    let found = CASES.iter().find(|case| case.matches(clean, ring, reach));
    found.expect("every combination matches a case").verdict
}

/// The last segment and all valid entries from its base on.
struct Tail {
    segment: Segment,
    previous: Option<(u64, u64)>,
    bytes: Vec<u8>,
    /// The ring in front of it when it was begun.
    ring: u64,
}

impl Tail {
    fn end(&self) -> u64 {
        self.segment.base + self.bytes.len() as u64
    }
}

struct Recovery<'a> {
    storage: &'a dyn Storage,
    options: &'a Options,
    control: Control,
    file: control::File,
    /// There was no journal.
    is_new: bool,
    /// Where the log ends.
    found: u64,
    live: VecDeque<Segment>,
    free: Vec<Slot>,
    next_slot: u32,
}

pub(super) fn open(
    storage: Arc<dyn Storage>,
    options: Options,
    drive: Drive,
) -> Result<(Arc<Shared>, Recovered), OpenError> {
    options.check()?;
    let (mut recovery, headers) = Recovery::begin(&*storage, &options)?;
    let (ring, left) = recovery.ring()?;
    let mut tail = recovery.chain(headers)?;
    let seed = entry::seed(recovery.control.id);
    let in_segments = tail.end();
    let rest =
        ring.as_ref().filter(|_| left.is_some()).map_or(Vec::new(), |ring| ring_entries(ring, seed, in_segments));
    let from_ring: u64 = rest.iter().map(|entry| entry.len() as u64).sum();
    let end = in_segments + from_ring;
    recovery.found = end;

    let promised = recovery.control.clean.or(left.map(|left| left.appended)).unwrap_or(end);
    let last = recovery.verdict(left, end, promised)?;
    if last != Last::Clean || from_ring > 0 {
        recovery.settle(&mut tail, rest)?;
    }
    if last == Last::Lost {
        // Positions up to there may have been handed out, and lead nowhere.
        let old_ring = tail.ring.max(ring.as_ref().map_or(0, Ring::size));
        let full = tail.segment.base + tail.segment.capacity;
        recovery.jump(&mut tail, full.max(promised) + old_ring)?;
    }
    let went_back = recovery.went_back(tail.end());
    if let Some(reached) = went_back {
        recovery.jump(&mut tail, reached)?;
    }
    let appended = tail.end();
    let unmarked = left.is_some_and(|left| left.unmarked);
    let anything = unmarked || went_back.is_some() || end < recovery.control.durable;
    recovery.settle_control(last, anything, appended)?;
    let ring = recovery.fresh_ring(ring, appended)?;
    recovery.spare()?;
    recovery.control.clean = None;
    recovery.write_control()?;

    let recovered = Recovered {
        last,
        trimmed: Lsn(recovery.control.trimmed),
        appended: Lsn(appended),
        from_ring,
        active: recovery.control.lost.clone(),
    };
    Ok((recovery.finish(storage.clone(), options.clone(), drive, ring, tail, seed), recovered))
}

impl<'a> Recovery<'a> {
    fn begin(storage: &'a dyn Storage, options: &'a Options) -> Result<(Self, Vec<(Header, Slot)>), OpenError> {
        let failed = |error| OpenError::Io { place: storage.place(), error };
        let names = storage.list().map_err(failed)?;
        let found = if names.iter().any(|name| name == control::NAME) {
            control::File::open(storage).and_then(|file| Ok((file.read()?, file)))
        } else {
            control::File::create(storage).map(|file| (Found::Nothing, file))
        };
        let (found, file) = found.map_err(failed)?;
        let mut recovery = Recovery {
            storage,
            options,
            control: Control::default(),
            file,
            is_new: false,
            found: 0,
            live: VecDeque::new(),
            free: Vec::new(),
            next_slot: 1,
        };
        let has_segments = names.iter().any(|name| segment::number(name).is_some());
        match found {
            Found::Newer(version) => return Err(recovery.newer(version)),
            Found::Control(control) => recovery.control = control,
            Found::Nothing if has_segments => return Err(recovery.damaged("the control file is gone")),
            Found::Nothing => {
                recovery.is_new = true;
                recovery.control = Control { id: control::random(), clean: Some(0), ..Control::default() };
                recovery.write_control()?;
            }
        }
        let headers = recovery.slots(&names)?;
        Ok((recovery, headers))
    }

    /// Read every slot's header; what holds nothing is free, or removed if its size is not the configured one.
    fn slots(&mut self, names: &[String]) -> Result<Vec<(Header, Slot)>, OpenError> {
        let mut headers = Vec::new();
        for number in names.iter().filter_map(|name| segment::number(name)) {
            self.next_slot = self.next_slot.max(number.saturating_add(1));
            let blob = self.io(self.storage.open(&segment::name(number)))?;
            let mut sector = [0; SECTOR];
            self.io(blob.read_at(0, &mut sector))?;
            let slot = Slot { number, blob };
            match Header::decode(&sector) {
                Ok(Some(header)) if header.id == self.control.id => headers.push((header, slot)),
                Ok(Some(_)) => return Err(self.damaged(&format!("segment {number} is another journal's"))),
                Ok(None) => self.release(slot)?,
                Err(Bad::Newer(version)) => return Err(self.newer(version)),
                Err(Bad::Corrupt) => return Err(self.damaged(&format!("the header of segment {number} is torn"))),
            }
        }
        Ok(headers)
    }

    fn release(&mut self, slot: Slot) -> Result<(), OpenError> {
        if self.io(slot.blob.size())? == self.options.file_bytes() {
            self.free.push(slot);
            Ok(())
        } else {
            self.io(self.storage.remove(&segment::name(slot.number)))
        }
    }

    /// The segments that are still part of the log: from the last one back, until one ended at or below `trimmed`.
    fn chain(&mut self, mut headers: Vec<(Header, Slot)>) -> Result<Tail, OpenError> {
        headers.sort_by_key(|(header, _)| header.base);
        let Some((last, slot)) = headers.pop() else { return self.first_segment() };
        let (mut previous, mut end) = (last.previous, None);
        let tail = self.scan(Segment { slot, base: last.base, capacity: last.capacity, end }, last)?;
        while let Some((base, ended)) = previous.filter(|(_, ended)| *ended > self.control.trimmed) {
            end = Some(ended);
            let (header, slot) = loop {
                let older = headers.pop().filter(|(header, _)| header.base >= base);
                let (header, slot) =
                    older.ok_or_else(|| self.damaged(&format!("the segment from {base} to {ended} is gone")))?;
                if header.base == base {
                    break (header, slot);
                }
                self.release(slot)?;
            };
            self.live.push_front(Segment { slot, base, capacity: header.capacity, end });
            previous = header.previous;
        }
        headers.into_iter().try_for_each(|(_, slot)| self.release(slot))?;
        Ok(tail)
    }

    /// A new journal; or one whose very first opening was interrupted.
    fn first_segment(&mut self) -> Result<Tail, OpenError> {
        if self.control.clean != Some(0) {
            return Err(self.damaged("there is no segment"));
        }
        self.begin_segment(0, None)
    }

    fn scan(&self, segment: Segment, header: Header) -> Result<Tail, OpenError> {
        let size = self.io(segment.slot.blob.size())?;
        if size < PAGE + header.capacity {
            return Err(self.damaged(&format!("segment {} is cut short", segment.slot.number)));
        }
        let mut bytes = vec![0; header.capacity as usize];
        self.io(segment.slot.blob.read_at(PAGE, &mut bytes))?;
        let valid = valid_prefix(entry::seed(header.id), header.base, &bytes);
        bytes.truncate(valid);
        Ok(Tail { segment, previous: header.previous, bytes, ring: header.ring })
    }

    /// The last life's ring, if there is one that can be read.
    fn ring(&self) -> Result<(Option<Ring>, Option<Left>), OpenError> {
        let names = self.io(self.storage.list())?;
        if !names.iter().any(|name| name == ring::NAME) {
            return Ok((None, None));
        }
        let size = self.io(self.storage.open(ring::NAME).and_then(|blob| blob.size()))?;
        if size <= PAGE || !size.is_multiple_of(PAGE) {
            return Ok((None, None));
        }
        let ring = Ring::new(self.io(self.storage.map(ring::NAME))?);
        if let Some(version) = ring.version().filter(|version| *version > VERSION) {
            return Err(self.newer(version));
        }
        let left = ring.left(self.control.id);
        Ok((Some(ring), left))
    }

    fn verdict(&self, left: Option<Left>, end: u64, promised: u64) -> Result<Last, OpenError> {
        let ring = match left {
            None => RingFound::Missing,
            Some(left) if left.boot == self.storage.boot() => RingFound::SameBoot,
            Some(_) => RingFound::OtherBoot,
        };
        let reach = if end >= promised { Reach::Whole } else { Reach::Short };
        match decide(self.control.clean.is_some(), ring, reach) {
            Verdict::Last(last) => Ok(last),
            Verdict::Damaged => Err(self.damaged(&format!("it was closed at {promised} and its entries end at {end}"))),
        }
    }

    /// To where the log reached when files beside it were written, if it does not, or if that was another one.
    fn went_back(&self, end: u64) -> Option<u64> {
        let reached = self.options.beside?.0;
        if !self.is_new && reached <= end {
            return None;
        }
        let then = "its files were removed or replaced, and what they held is lost: every table is dirty";
        tracing::error!(
            place = self.storage.place(),
            end,
            reached,
            "the journal is not the one that its directory knows: {then}"
        );
        Some(reached.max(end))
    }

    /// Write what was found, and sync it.
    fn settle(&mut self, tail: &mut Tail, rest: Vec<Vec<u8>>) -> Result<(), OpenError> {
        for entry in rest {
            if tail.bytes.len() + entry.len() > tail.segment.capacity as usize {
                self.write_tail(tail)?;
                let (base, end) = (tail.segment.base, tail.end());
                let next = self.begin_segment(end, Some((base, end)))?;
                self.retire(std::mem::replace(tail, next), end);
            }
            tail.bytes.extend_from_slice(&entry);
        }
        self.write_tail(tail)
    }

    fn write_tail(&self, tail: &Tail) -> Result<(), OpenError> {
        let mut bytes = tail.bytes.clone();
        // Zeros after the end, as the writer leaves them.
        bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        let segment = &tail.segment;
        let header = Header { ring: tail.ring, ..self.header(segment.base, segment.capacity, tail.previous) };
        self.io(segment.slot.blob.write_at(PAGE, &bytes))?;
        // What began it may be in a page that a failed sync left.
        self.io(activate(&segment.slot, &header))
    }

    /// Go on at `base`, above every position that may have been handed out.
    fn jump(&mut self, tail: &mut Tail, base: u64) -> Result<(), OpenError> {
        if tail.bytes.is_empty() {
            // An empty segment is moved instead of left behind: power losses in a row take no room.
            let capacity = tail.segment.capacity;
            let header = self.header(base, capacity, tail.previous);
            self.io(activate(&tail.segment.slot, &header))?;
            tail.segment.base = base;
            tail.ring = header.ring;
            return Ok(());
        }
        let end = tail.end();
        let next = self.begin_segment(base, Some((tail.segment.base, end)))?;
        self.retire(std::mem::replace(tail, next), end);
        Ok(())
    }

    fn retire(&mut self, tail: Tail, end: u64) {
        self.live.push_back(Segment { end: Some(end), ..tail.segment });
    }

    fn begin_segment(&mut self, base: u64, previous: Option<(u64, u64)>) -> Result<Tail, OpenError> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.create_slot()?,
        };
        let header = self.header(base, self.options.segment_bytes, previous);
        self.io(activate(&slot, &header))?;
        let segment = Segment { slot, base, capacity: header.capacity, end: None };
        Ok(Tail { segment, previous, bytes: Vec::new(), ring: header.ring })
    }

    fn header(&self, base: u64, capacity: u64, previous: Option<(u64, u64)>) -> Header {
        Header { id: self.control.id, base, capacity, previous, ring: self.options.ring_bytes }
    }

    fn create_slot(&mut self) -> Result<Slot, OpenError> {
        let number = self.next_slot;
        self.next_slot += 1;
        let blob = self.io(self.storage.create(&segment::name(number), self.options.file_bytes()))?;
        Ok(Slot { number, blob })
    }

    /// One spare to begin with: without it nothing that must cross into another segment is accepted. It comes later where the
    /// disk is full.
    fn spare(&mut self) -> Result<(), OpenError> {
        let fits = (self.live.len() as u64 + 1) < self.options.segments();
        if self.free.is_empty() && fits && self.options.leaves_room(self.storage, self.live.len() as u64 + 1) {
            let slot = self.create_slot()?;
            self.free.push(slot);
        }
        Ok(())
    }

    /// From here on the segments alone hold everything: a crash before the new life begins finds a clean end.
    fn settle_control(&mut self, last: Last, anything: bool, appended: u64) -> Result<(), OpenError> {
        if last == Last::Lost {
            self.control.lost = self.control.lost.and(&self.control.active);
        }
        self.control.lost.all |= anything;
        self.control.active = Labels::default();
        self.control.clean = Some(appended);
        self.control.durable = appended;
        self.write_control()
    }

    fn fresh_ring(&self, old: Option<Ring>, appended: u64) -> Result<Ring, OpenError> {
        let ring = match old.filter(|ring| ring.size() == self.options.ring_bytes) {
            Some(ring) => ring,
            None => {
                self.io(self.storage.create(ring::NAME, self.options.ring_bytes + PAGE))?;
                Ring::new(self.io(self.storage.map(ring::NAME))?)
            }
        };
        ring.reset(self.control.id, self.storage.boot(), appended);
        Ok(ring)
    }

    fn write_control(&mut self) -> Result<(), OpenError> {
        let written = self.file.write(&mut self.control);
        self.io(written)
    }

    fn finish(
        mut self,
        storage: Arc<dyn Storage>,
        options: Options,
        drive: Drive,
        ring: Ring,
        tail: Tail,
        seed: u32,
    ) -> Arc<Shared> {
        let appended = tail.end();
        let full_at = tail.segment.base + tail.segment.capacity;
        self.live.push_back(tail.segment);
        let state = State {
            fill: false,
            appended,
            records: appended,
            moved: appended,
            durable: appended,
            trimmed: self.control.trimmed,
            forgotten: self.control.trimmed,
            start: appended,
            open: 0,
            pins: Vec::new(),
            live: self.live,
            cuts: VecDeque::new(),
            free: self.free,
            full_at,
            next_slot: self.next_slot,
            control_due: false,
            loss_confirmed: false,
            idle: false,
            lingering: false,
            gathered: 0,
            synced: (0, 0),
            broken: None,
            ending: Ending::Open,
            waiting: Waiting::default(),
            ages: VecDeque::from([(appended, Instant::now())]),
            syncs: 0,
            last_sync: None,
        };
        // Written is durable: no ticket ever waits.
        let durable = if options.durability == Durability::Memory { u64::MAX } else { appended };
        Arc::new(Shared {
            drive,
            storage,
            id: self.control.id,
            life: control::random(),
            found: self.found,
            seed,
            ring,
            state: Mutex::new(state),
            work: Condvar::new(),
            fill: Condvar::new(),
            appended: AtomicU64::new(appended),
            durable: AtomicU64::new(durable),
            announced: Mutex::new(Announced::new()),
            window: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            held_up: AtomicU64::new(u64::MAX),
            stepper: Mutex::new(Stepper { file: self.file, control: self.control, buffer: Vec::new() }),
            options,
        })
    }

    fn io<T>(&self, result: io::Result<T>) -> Result<T, OpenError> {
        result.map_err(|error| OpenError::Io { place: self.storage.place(), error })
    }

    fn damaged(&self, what: &str) -> OpenError {
        OpenError::Damaged { place: self.storage.place(), what: what.into() }
    }

    fn newer(&self, found: u32) -> OpenError {
        OpenError::Newer { place: self.storage.place(), found, known: VERSION }
    }
}

/// How many bytes from the front are valid entries.
fn valid_prefix(seed: u32, base: u64, bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok((_, len)) = entry::decode(seed, base + at as u64, &bytes[at..]) {
        at += len;
    }
    at
}

/// The valid entries that the ring holds from `lsn` on.
fn ring_entries(ring: &Ring, seed: u32, mut lsn: u64) -> Vec<Vec<u8>> {
    let limit = lsn + ring.size();
    let mut found = Vec::new();
    while let Some(entry) = ring_entry(ring, seed, lsn, limit - lsn) {
        lsn += entry.len() as u64;
        found.push(entry);
    }
    found
}

fn ring_entry(ring: &Ring, seed: u32, lsn: u64, room: u64) -> Option<Vec<u8>> {
    let mut need = entry::HEADER;
    loop {
        if need as u64 > room {
            return None;
        }
        let mut bytes = vec![0; need];
        ring.read(lsn, &mut bytes);
        match entry::decode(seed, lsn, &bytes) {
            Ok(_) => return Some(bytes),
            Err(Stop::Short(more)) => need = more,
            Err(Stop::Invalid) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_evidence_matches_exactly_one_case() {
        for clean in [true, false] {
            for ring in [RingFound::Missing, RingFound::SameBoot, RingFound::OtherBoot] {
                for reach in [Reach::Whole, Reach::Short] {
                    let cases = CASES.iter().filter(|case| case.matches(clean, ring, reach)).count();
                    assert_eq!(cases, 1, "clean {clean}, ring {ring:?}, reach {reach:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_clean_close_or_an_intact_ring_promises_that_nothing_is_missing() {
        for ring in [RingFound::Missing, RingFound::OtherBoot] {
            assert_eq!(decide(false, ring, Reach::Whole), Verdict::Last(Last::Lost));
        }
        assert_eq!(decide(false, RingFound::SameBoot, Reach::Short), Verdict::Last(Last::Lost));
        assert_eq!(decide(false, RingFound::SameBoot, Reach::Whole), Verdict::Last(Last::Killed));
        assert_eq!(decide(true, RingFound::Missing, Reach::Short), Verdict::Damaged);
    }
}
