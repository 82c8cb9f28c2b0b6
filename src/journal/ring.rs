//! The ring: a mapped file that an append is copied into, and that is never synced.
//!
//! ```text
//! file   := header page (4096 bytes), size bytes; lsn L lies at L mod size
//! header := magic u64, version u32, crc u32, id u64, size u64, boot u128; at 64: appended u64; at 72: unmarked u64
//! ```
//!
//! The pages belong to the kernel, so that what was stored survives a kill of the process at any instruction: the entry is
//! copied first, then `appended` is stored. They reach the disk when the kernel likes, in any order: after a power loss
//! each entry must prove itself (see `entry`), and `boot` tells that there was one. `unmarked` says that something was lost
//! which could be written down nowhere else: a disk that is full still has this page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;

use super::segment::{PAGE, VERSION, u32_at, u64_at};

pub(super) const NAME: &str = "ring";
const MAGIC: u64 = u64::from_le_bytes(*b"tndmring");
const FIXED: usize = 48;
const APPENDED: usize = 64;
const UNMARKED: usize = 72;

pub(super) struct Ring {
    map: Arc<MmapRaw>,
    size: u64,
}

/// What an earlier life left in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub boot: u128,
    pub appended: u64,
    /// See [`Ring::unmarked`].
    pub unmarked: bool,
}

impl Ring {
    /// Over a mapped file of more than a page.
    pub(super) fn new(map: Arc<MmapRaw>) -> Ring {
        let size = map.len() as u64 - PAGE;
        Ring { map, size }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Copy `bytes` to where `lsn` lies. The caller owns `lsn..lsn + bytes.len()`: nobody else reads or writes there.
    pub(super) fn write(&self, lsn: u64, bytes: &[u8]) {
        let (at, first) = self.split(lsn, bytes.len());
        let (head, tail) = bytes.split_at(first);
        // SAFETY: `split` keeps both pieces inside the map; callers give one lsn range to one owner at a time, handed
        // over through the state's mutex, so there is no concurrent access to these bytes.
        unsafe {
            let start = self.map.as_mut_ptr().add(PAGE as usize);
            std::ptr::copy_nonoverlapping(head.as_ptr(), start.add(at), head.len());
            std::ptr::copy_nonoverlapping(tail.as_ptr(), start, tail.len());
        }
    }

    /// Copy out what lies at `lsn`. The caller keeps the range from being overwritten meanwhile.
    pub(super) fn read(&self, lsn: u64, out: &mut [u8]) {
        let (at, first) = self.split(lsn, out.len());
        let (head, tail) = out.split_at_mut(first);
        // SAFETY: as in `write`.
        unsafe {
            let start = self.map.as_ptr().add(PAGE as usize);
            std::ptr::copy_nonoverlapping(start.add(at), head.as_mut_ptr(), head.len());
            std::ptr::copy_nonoverlapping(start, tail.as_mut_ptr(), tail.len());
        }
    }

    /// Everything below is in the ring or was.
    pub(super) fn publish(&self, appended: u64) {
        self.at(APPENDED).store(appended, Ordering::Release);
    }

    /// That a label is dirty could not be written down, or now it could.
    pub(super) fn unmarked(&self, is: bool) {
        self.at(UNMARKED).store(u64::from(is), Ordering::Release);
    }

    /// Begin a life.
    pub(super) fn reset(&self, id: u64, boot: u128, appended: u64) {
        self.publish(appended);
        self.unmarked(false);
        let header = fixed(VERSION, id, self.size, boot);
        // SAFETY: the header page is inside the map, and no other thread knows this ring yet.
        unsafe { std::ptr::copy_nonoverlapping(header.as_ptr(), self.map.as_mut_ptr(), FIXED) };
    }

    /// What the last life left, if the header is whole and of this journal.
    pub(super) fn left(&self, id: u64) -> Option<Left> {
        let header = self.fixed();
        let boot = u128::from(u64_at(&header, 32)) | u128::from(u64_at(&header, 40)) << 64;
        let version = u32_at(&header, 8);
        let whole = version <= VERSION && header == fixed(version, id, self.size, boot);
        let unmarked = self.at(UNMARKED).load(Ordering::Acquire) != 0;
        whole.then(|| Left { boot, appended: self.at(APPENDED).load(Ordering::Acquire), unmarked })
    }

    /// The version in the header, if it is a ring at all.
    pub(super) fn version(&self) -> Option<u32> {
        let header = self.fixed();
        (u64_at(&header, 0) == MAGIC).then(|| u32_at(&header, 8))
    }

    fn fixed(&self) -> [u8; FIXED] {
        let mut header = [0; FIXED];
        // SAFETY: the header page is inside the map; it is written only by `reset`, before the ring is shared.
        unsafe { std::ptr::copy_nonoverlapping(self.map.as_ptr(), header.as_mut_ptr(), FIXED) };
        header
    }

    /// One of the two numbers that change.
    fn at(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: inside the map, which is aligned to a page, as the offset is to a number; accessed as this atomic only.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }

    /// Where the bytes at `lsn` begin, and how many of `len` lie before the ring wraps.
    fn split(&self, lsn: u64, len: usize) -> (usize, usize) {
        assert!(len as u64 <= self.size, "callers stay within the ring");
        let at = lsn % self.size;
        (at as usize, len.min((self.size - at) as usize))
    }
}

fn fixed(version: u32, id: u64, size: u64, boot: u128) -> [u8; FIXED] {
    let mut out = [0; FIXED];
    out[..8].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&version.to_le_bytes());
    out[16..24].copy_from_slice(&id.to_le_bytes());
    out[24..32].copy_from_slice(&size.to_le_bytes());
    out[32..].copy_from_slice(&boot.to_le_bytes());
    let crc = crc32fast::hash(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}
