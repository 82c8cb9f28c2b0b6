//! An entry's bytes, the same in the ring and in a segment; integers little-endian:
//!
//! ```text
//! entry := lsn u64, word u32 (length << 8 | kind), sum u32, payload of that length
//! ```
//!
//! `sum` is the CRC-32 of the journal's id, the word and the payload, combined with the lsn. An entry is therefore valid
//! in one place of one journal only: what a recycled segment or an earlier lap of the ring left behind never verifies,
//! not even where a header was torn and half of it is new. As an lsn is never used twice, an entry that verifies *is*
//! what was appended there.

use super::{Lsn, Outcome};

/// Bytes before the payload.
pub(super) const HEADER: usize = 16;

/// Size of an outcome in the log: the header and the lsn of its unit.
pub(super) const OUTCOME: u64 = HEADER as u64 + 8;

/// The word's length has 24 bits.
pub(super) const LENGTH_LIMIT: usize = (1 << 24) - 1;

const RECORD: u8 = 1;
const COMMITTED: u8 = 2;
const ABORTED: u8 = 3;
const DROPPED: u8 = 4;
const UNKNOWN: u8 = 5;

/// What an entry's header says once the whole entry verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record,
    Outcome { of: Lsn, outcome: Outcome },
    Dropped { of: Lsn },
}

/// Why there is no entry at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It may be one: this many bytes are needed to tell.
    Short(usize),
    /// It is none.
    Invalid,
}

/// An entry without its place: what can be computed before the lock is taken.
pub(super) struct Draft {
    word: u32,
    sum: u32,
}

impl Draft {
    /// `payload` is at most [`LENGTH_LIMIT`].
    pub(super) fn record(seed: u32, payload: &[u8]) -> Draft {
        Draft::new(seed, RECORD, payload)
    }

    /// The payload is the unit's lsn, as [`unit()`] encodes it.
    pub(super) fn outcome(seed: u32, outcome: Outcome, of: Lsn) -> Draft {
        let kind = match outcome {
            Outcome::Committed => COMMITTED,
            Outcome::Aborted => ABORTED,
            Outcome::Unknown => UNKNOWN,
        };
        Draft::new(seed, kind, &unit(of))
    }

    /// Nobody says how the unit ended; as long as an outcome.
    pub(super) fn dropped(seed: u32, of: Lsn) -> Draft {
        Draft::new(seed, DROPPED, &unit(of))
    }

    fn new(seed: u32, kind: u8, payload: &[u8]) -> Draft {
        let word = (payload.len() as u32) << 8 | u32::from(kind);
        Draft { word, sum: sum(seed, word, payload) }
    }

    /// The header of this entry at `lsn`.
    pub(super) fn header(&self, lsn: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&lsn.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.word.to_le_bytes());
        bytes[12..].copy_from_slice(&(self.sum ^ place(lsn)).to_le_bytes());
        bytes
    }
}

/// The payload of an outcome.
pub(super) fn unit(of: Lsn) -> [u8; 8] {
    of.0.to_le_bytes()
}

/// Where every checksum of a journal starts.
pub(super) fn seed(id: u64) -> u32 {
    crc32fast::hash(&id.to_le_bytes())
}

/// The entry that begins `bytes`, which lie at `lsn`, and its length with the header.
pub(super) fn decode(seed: u32, lsn: u64, bytes: &[u8]) -> Result<(Kind, usize), Stop> {
    let header = bytes.first_chunk::<HEADER>().ok_or(Stop::Short(HEADER))?;
    let (at, word, stored) = fields(header);
    let len = HEADER + (word >> 8) as usize;
    if at != lsn || !matches!(word as u8, RECORD | COMMITTED | ABORTED | DROPPED | UNKNOWN) {
        return Err(Stop::Invalid);
    }
    let payload = bytes.get(HEADER..len).ok_or(Stop::Short(len))?;
    if sum(seed, word, payload) ^ place(lsn) != stored {
        return Err(Stop::Invalid);
    }
    Ok((kind(word as u8, payload)?, len))
}

fn kind(kind: u8, payload: &[u8]) -> Result<Kind, Stop> {
    if kind == RECORD {
        return Ok(Kind::Record);
    }
    let of = Lsn(u64::from_le_bytes(payload.try_into().map_err(|_| Stop::Invalid)?));
    Ok(match kind {
        COMMITTED => Kind::Outcome { of, outcome: Outcome::Committed },
        ABORTED => Kind::Outcome { of, outcome: Outcome::Aborted },
        UNKNOWN => Kind::Outcome { of, outcome: Outcome::Unknown },
        _ => Kind::Dropped { of },
    })
}

fn fields(header: &[u8; HEADER]) -> (u64, u32, u32) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *header;
    let [i, j, k, l, m, n, o, p] = rest;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes([i, j, k, l]), u32::from_le_bytes([m, n, o, p]))
}

fn sum(seed: u32, word: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&word.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Spreads the lsn over the sum (multiplicative hashing): nearly free under the lock, where a CRC would not be.
fn place(lsn: u64) -> u32 {
    (lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(lsn: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Draft::record(7, payload).header(lsn).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn an_entry_cut_anywhere_asks_for_more() {
        let bytes = record(40, b"payload");
        for cut in 0..bytes.len() {
            assert!(matches!(decode(7, 40, &bytes[..cut]), Err(Stop::Short(need)) if need > cut), "cut at {cut}");
        }
        assert_eq!(decode(7, 40, &bytes), Ok((Kind::Record, bytes.len())));
    }

    #[test]
    fn an_entry_verifies_only_at_its_place_in_its_journal() {
        let bytes = record(40, b"payload");
        assert_eq!(decode(7, 41, &bytes), Err(Stop::Invalid));
        assert_eq!(decode(8, 40, &bytes), Err(Stop::Invalid));
    }

    #[test]
    fn a_header_torn_between_two_laps_does_not_verify() {
        let (old, new) = (record(40, b"same length"), record(80, b"other bytes"));
        for tear in 1..new.len() {
            let mixed = [&new[..tear], &old[tear..]].concat();
            assert_eq!(decode(7, 80, &mixed), Err(Stop::Invalid), "torn at {tear}");
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(payload in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = record(40, &payload);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(decode(7, 40, &bytes).is_err());
        }

        #[test]
        fn decoding_outside_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(7, 40, &bytes);
        }
    }
}
