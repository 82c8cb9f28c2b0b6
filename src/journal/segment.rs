//! A segment: one file of fixed size that holds a stretch of the log.
//!
//! ```text
//! file   := header page (4096 bytes), capacity bytes of entries
//! header := magic u64, version u32, crc u32, id u64, base u64, capacity u64, previous u64, previous_end u64, ring u64
//! ```
//!
//! Files are numbered slots, written full of zeros once and used again and again: a sync into blocks that were written
//! before is twice as cheap as one that grows a file. What a slot holds is said by its header alone. A header fits a disk
//! sector, which is written whole or not at all, so a slot changes hands with one write and one sync, without a rename.
//! Each header names the segment before it (`previous`, and where that one ended): a missing segment is noticed.

use std::sync::Arc;

use super::storage::Blob;

/// Entries begin here.
pub(super) const PAGE: u64 = 4096;
/// The part of the header page that is used.
pub(super) const SECTOR: usize = 512;
/// What this tandem writes, and the newest it reads; one number for all files of a journal.
pub(super) const VERSION: u32 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"tndm-seg");
const NONE: u64 = u64::MAX;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The journal's id.
    pub id: u64,
    /// The first entry's lsn.
    pub base: u64,
    /// Bytes for entries.
    pub capacity: u64,
    /// Base and end of the segment before; `None` for the first of a journal.
    pub previous: Option<(u64, u64)>,
    /// Size of the ring in front of it: bounds the lsns that were handed out and are not here.
    pub ring: u64,
}

/// A header that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Newer(u32),
    Corrupt,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; SECTOR] {
        let (previous, end) = self.previous.unwrap_or((NONE, NONE));
        let mut out = [0; SECTOR];
        out[..8].copy_from_slice(&MAGIC.to_le_bytes());
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let fields = [self.id, self.base, self.capacity, previous, end, self.ring];
        for (place, field) in out[16..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `Ok(None)`: a slot that was never used.
    pub(super) fn decode(bytes: &[u8; SECTOR]) -> Result<Option<Header>, Bad> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let version = u32_at(bytes, 8);
        if u64_at(bytes, 0) != MAGIC {
            return Err(Bad::Corrupt);
        }
        if version > VERSION {
            return Err(Bad::Newer(version));
        }
        let mut zeroed = *bytes;
        zeroed[12..16].fill(0);
        if crc32fast::hash(&zeroed) != u32_at(bytes, 12) {
            return Err(Bad::Corrupt);
        }
        let previous = (u64_at(bytes, 40), u64_at(bytes, 48));
        Ok(Some(Header {
            id: u64_at(bytes, 16),
            base: u64_at(bytes, 24),
            capacity: u64_at(bytes, 32),
            previous: (previous.0 != NONE).then_some(previous),
            ring: u64_at(bytes, 56),
        }))
    }
}

/// Little-endian integer at `at`; zero past the end, which no caller reaches: buffers here have a fixed size.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// As [`u64_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The file name of a slot.
pub(super) fn name(number: u32) -> String {
    format!("{number:08}.segment")
}

/// The slot of a file name.
pub(super) fn number(name: &str) -> Option<u32> {
    name.strip_suffix(".segment")?.parse().ok()
}

/// A file that can hold a segment.
#[derive(Clone)]
pub(super) struct Slot {
    pub number: u32,
    pub blob: Arc<dyn Blob>,
}

/// A segment that is part of the log.
#[derive(Clone)]
pub(super) struct Segment {
    pub slot: Slot,
    pub base: u64,
    pub capacity: u64,
    /// Where it ended; `None` while it is the last.
    pub end: Option<u64>,
}

impl Segment {
    /// Where an lsn lies in the file.
    pub(super) fn offset(&self, lsn: u64) -> u64 {
        PAGE + (lsn - self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header = Header { id: 3, base: 100, capacity: 4096, previous: Some((50, 90)), ring: 65536 };

    #[test]
    fn a_header_reads_back_and_a_flipped_bit_is_noticed() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Ok(Some(HEADER)));
        for bit in 0..SECTOR * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_an_unused_slot() {
        assert_eq!(Header::decode(&[0; SECTOR]), Ok(None));
    }

    proptest! {
        #[test]
        fn decoding_outside_bytes_never_panics(bytes in proptest::array::uniform32(any::<u8>())) {
            let mut sector = HEADER.encode();
            sector[..32].copy_from_slice(&bytes);
            prop_assert!(Header::decode(&sector).is_err() || sector == HEADER.encode());
        }
    }
}
