//! The control file: what must be known besides the log itself.
//!
//! ```text
//! file := slot, slot (32 KiB each, written in turn, so that one is always whole)
//! slot := magic u64, version u32, crc u32, id u64, sequence u64, trimmed u64, flags u64, end u64,
//!         active u64, lost u64, then so many labels u64 of each
//! ```
//!
//! `end` is where the log ends, of one that was closed cleanly; else to where it was durable (0: an older tandem wrote it).

use std::io;
use std::sync::Arc;

use super::segment::{VERSION, u32_at, u64_at};
use super::storage::{Blob, Storage};

pub(super) const NAME: &str = "control";
const MAGIC: u64 = u64::from_le_bytes(*b"tndmctrl");
const SLOT: usize = 32 << 10;
const LABELS_AT: usize = 72;

/// So many labels of each list fit; beyond that the list stands for every label.
pub(super) const LABELS: usize = (SLOT - LABELS_AT) / 8 / 2;

const CLEAN: u64 = 1;
const ACTIVE_ALL: u64 = 2;
const LOST_ALL: u64 = 4;

/// A set of labels that knows when it has become too large to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The labels, sorted.
    pub list: Vec<u64>,
    /// There were more than can be listed: take it as every label there is.
    pub all: bool,
}

impl Labels {
    pub(super) fn new(mut list: Vec<u64>) -> Labels {
        list.sort_unstable();
        list.dedup();
        let all = list.len() > LABELS;
        list.truncate(LABELS);
        Labels { list, all }
    }

    pub(super) fn and(&self, other: &Labels) -> Labels {
        let both = Labels::new([&self.list[..], &other.list[..]].concat());
        Labels { all: both.all || self.all || other.all, ..both }
    }

    /// True when it names nothing.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && !self.all
    }
}

/// The control state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    pub id: u64,
    pub sequence: u64,
    pub trimmed: u64,
    /// Closed cleanly: the log reaches exactly here. `None` while a journal is open.
    pub clean: Option<u64>,
    /// The log reached at least here when this was written.
    pub durable: u64,
    /// Labels announced in this window and the one before.
    pub active: Labels,
    /// Labels of earlier power losses that nobody confirmed to have handled.
    pub lost: Labels,
}

/// What was found in a control file.
pub(super) enum Found {
    Nothing,
    Newer(u32),
    Control(Control),
}

/// The file, which remembers whose turn it is.
pub(super) struct File {
    blob: Arc<dyn Blob>,
}

impl File {
    pub(super) fn create(storage: &dyn Storage) -> io::Result<File> {
        Ok(File { blob: storage.create(NAME, 2 * SLOT as u64)? })
    }

    pub(super) fn open(storage: &dyn Storage) -> io::Result<File> {
        Ok(File { blob: storage.open(NAME)? })
    }

    /// The newest whole slot.
    pub(super) fn read(&self) -> io::Result<Found> {
        let mut bytes = vec![0; 2 * SLOT];
        self.blob.read_at(0, &mut bytes)?;
        let slots = [&bytes[..SLOT], &bytes[SLOT..]];
        let newer = slots.iter().filter(|slot| u64_at(slot, 0) == MAGIC).map(|slot| u32_at(slot, 8)).max();
        if let Some(version) = newer.filter(|version| *version > VERSION) {
            return Ok(Found::Newer(version));
        }
        let newest = slots.into_iter().filter_map(decode).max_by_key(|control| control.sequence);
        Ok(newest.map_or(Found::Nothing, Found::Control))
    }

    /// Make `control` the newest; durable when it returns.
    pub(super) fn write(&self, control: &mut Control) -> io::Result<()> {
        control.sequence += 1;
        self.blob.write_at((control.sequence % 2) * SLOT as u64, &encode(control))?;
        self.blob.sync()
    }
}

fn encode(control: &Control) -> Vec<u8> {
    let flag = |set, bit| if set { bit } else { 0 };
    let flags =
        flag(control.clean.is_some(), CLEAN) | flag(control.active.all, ACTIVE_ALL) | flag(control.lost.all, LOST_ALL);
    let (active, lost) = (&control.active.list, &control.lost.list);
    let fixed = [control.id, control.sequence, control.trimmed, flags, control.clean.unwrap_or(control.durable)];
    let mut out = Vec::with_capacity(SLOT);
    out.extend(MAGIC.to_le_bytes());
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 4]);
    let fields = fixed.into_iter().chain([active.len() as u64, lost.len() as u64]);
    fields.chain(active.iter().copied()).chain(lost.iter().copied()).for_each(|n| out.extend(n.to_le_bytes()));
    let crc = crc32fast::hash(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(slot: &[u8]) -> Option<Control> {
    let (active, lost) = (u64_at(slot, 56), u64_at(slot, 64));
    if u64_at(slot, 0) != MAGIC || active.max(lost) > LABELS as u64 {
        return None;
    }
    let (active, lost) = (active as usize, lost as usize);
    let mut bytes = slot.get(..LABELS_AT + 8 * (active + lost))?.to_vec();
    bytes[12..16].fill(0);
    if crc32fast::hash(&bytes) != u32_at(slot, 12) {
        return None;
    }
    let flags = u64_at(slot, 40);
    let labels = |from: usize, count: usize| (from..from + count).map(|n| u64_at(slot, LABELS_AT + 8 * n)).collect();
    Some(Control {
        id: u64_at(slot, 16),
        sequence: u64_at(slot, 24),
        trimmed: u64_at(slot, 32),
        clean: (flags & CLEAN != 0).then(|| u64_at(slot, 48)),
        durable: u64_at(slot, 48),
        active: Labels { list: labels(0, active), all: flags & ACTIVE_ALL != 0 },
        lost: Labels { list: labels(active, lost), all: flags & LOST_ALL != 0 },
    })
}

/// Sixty-four bits that nobody else has: the standard library seeds its hashers from the system.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
