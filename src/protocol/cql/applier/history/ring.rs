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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_every_token_once() {
        assert_eq!(u128::from(UNITS) * u128::from(WIDTH), 1 << 64);
        assert_eq!((last_below(0), last_below(UNITS)), (i64::MIN, i64::MAX));
        assert_eq!(last_below(UNITS / 2), -1);
        assert!((1..=UNITS).step_by(4_095).all(|unit| last_below(unit - 1) < last_below(unit)));
    }
}
