//! The ring of tokens, cut into units of equal width.
//!
//! Murmur3's tokens are all 64-bit numbers but the least, which no key has. A chunk asks for tokens *above* the end of the
//! chunk before it, so the first begins at the least.

use crate::backfill::work::Chunk;

/// Units of every table. A table of a billion partitions has a thousand of them in each.
pub(super) const UNITS: u64 = 1 << 20;
/// Tokens of a unit, less one: the most that 64 bits hold divided by [`UNITS`].
const WIDTH: u64 = u64::MAX / UNITS + 1;

/// Tokens above the first and up to the second.
pub(super) fn tokens(chunk: &Chunk) -> (i64, i64) {
    (last_below(chunk.from), last_below(chunk.to))
}

/// The last token below a unit.
fn last_below(unit: u64) -> i64 {
    if unit == 0 {
        return i64::MIN;
    }
    let last = u128::from(unit) * u128::from(WIDTH) - 1;
    // From the ring's order to a number's.
    (last as u64 ^ (1 << 63)) as i64
}

/// The token of a partition key, by `Murmur3Partitioner.getToken`; several columns as `CompositeType` writes them.
pub(super) fn token(key: &[Vec<u8>]) -> i64 {
    match key {
        [one] => hash(one),
        several => {
            let mut bytes = Vec::new();
            for value in several {
                // Servers take no key of 64 KiB.
                bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
                bytes.extend_from_slice(value);
                bytes.push(0);
            }
            hash(&bytes)
        }
    }
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The first half of MurmurHash3_x64_128, as `MurmurHash.hash3_x64_128` has it: the bytes of the tail are signed there.
fn hash(bytes: &[u8]) -> i64 {
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let word = |at: usize| block[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        h1 = (h1 ^ mixed1(word(0))).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mixed2(word(8))).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let word = |bytes: &[u8]| {
        let signed = bytes.iter().enumerate().map(|(at, byte)| ((*byte as i8) as i64 as u64) << (8 * at));
        signed.fold(0, |word, byte| word ^ byte)
    };
    let (first, second) = tail.split_at(tail.len().min(8));
    h2 ^= mixed2(word(second));
    h1 ^= mixed1(word(first));
    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    let token = finished(h1).wrapping_add(finished(h2)) as i64;
    // The least means "before all keys".
    if token == i64::MIN { i64::MAX } else { token }
}

fn mixed1(word: u64) -> u64 {
    word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mixed2(word: u64) -> u64 {
    word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finished(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As servers say: `SELECT token(k)`.
    #[test]
    fn tokens_are_those_of_servers() {
        assert_eq!(token(&[b"123".to_vec()]), -7_468_325_962_851_647_638);
        assert_eq!(token(&[b"\x00\xff\x10\xfa\x99".repeat(10)]), 5_837_342_703_291_459_765);
        assert_eq!(token(&[b"\xfe".repeat(8)]), -8_927_430_733_708_461_935);
        assert_eq!(token(&[b"\x10".repeat(8)]), 1_446_172_840_243_228_796);
        assert_eq!(token(&[b"9223372036854775807".to_vec()]), 7_162_290_910_810_015_547);
    }

    #[test]
    fn units_cover_every_token_once() {
        assert_eq!(u128::from(UNITS) * u128::from(WIDTH), 1 << 64);
        assert_eq!((last_below(0), last_below(UNITS)), (i64::MIN, i64::MAX));
        assert_eq!(last_below(UNITS / 2), -1);
        assert!((1..=UNITS).step_by(4_095).all(|unit| last_below(unit - 1) < last_below(unit)));
    }
}
