//! How far a coordinator's clock is from ours.
//!
//! `SELECT now()` asks it. A node makes its time UUIDs of milliseconds, so one answer says: at some moment between our
//! asking and our reading, its clock was within a millisecond above this. Several answers narrow it down.

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;

/// What a node's clock may be cut by.
const CUT: i64 = 1_000;
/// Questions of one measurement: enough that one falls near the beginning of a millisecond.
const SAMPLES: usize = 8;
/// 100 ns between 1582-10-15, where time UUIDs begin, and 1970 (RFC 9562, section 5.1).
const GREGORIAN: i64 = 0x01B2_1DD2_1381_4000;

/// A coordinator's clock minus ours, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// No less than this.
    pub least: i64,
    /// No more than this.
    pub most: i64,
}

impl Offset {
    /// In the middle of what is possible.
    pub fn micros(self) -> i64 {
        self.least.midpoint(self.most)
    }

    /// How wrong [`Offset::micros`] may be.
    pub fn error(self) -> i64 {
        (self.most - self.least + 1) / 2
    }

    /// What one answer says: it read `node` between `asked` and `answered` of ours.
    fn of(asked: i64, node: i64, answered: i64) -> Offset {
        Offset { least: node - answered, most: node + CUT - asked }
    }

    /// Both are true. Clocks that were set in between make them contradict: then the later one holds.
    fn and(self, later: Offset) -> Offset {
        let both = Offset { least: self.least.max(later.least), most: self.most.min(later.most) };
        if both.least <= both.most { both } else { later }
    }
}

/// How far clocks are apart is known no better than how long requests are on their way: below this it says nothing.
const SECOND: i64 = 1_000_000;

/// How far these clocks are from ours, in microseconds: in the middle of them, and 0 where that is no second.
pub(super) fn apart<'c>(clocks: impl Iterator<Item = &'c Offset> + Clone) -> i64 {
    let least = clocks.clone().map(|offset| offset.least).min().unwrap_or_default();
    let most = clocks.map(|offset| offset.most).max().unwrap_or_default();
    let middle = least.midpoint(most);
    if middle.abs() > SECOND { middle } else { 0 }
}

/// Ask the node several times.
pub(super) async fn measure(client: &Client) -> Result<Offset, Error> {
    let mut found = ask(client).await?;
    for _ in 1..SAMPLES {
        found = found.and(ask(client).await?);
    }
    Ok(found)
}

async fn ask(client: &Client) -> Result<Offset, Error> {
    let asked = now_micros();
    let answer = client.query("SELECT now() FROM system.local", &Parameters::new(Consistency::One)).await?;
    let answered = now_micros();
    let cell = answer.row()?.and_then(|row| row.get(0).flatten());
    let node = cell.and_then(|cell| cell.try_into().ok()).map(micros_of);
    let node = node.ok_or(Error::Answer("the node's clock is no time UUID"))?;
    Ok(Offset::of(asked, node, answered))
}

/// Microseconds since 1970 of a time UUID. Source: RFC 9562, section 5.1.
pub(in crate::protocol::cql) fn micros_of(uuid: [u8; 16]) -> i64 {
    let [l0, l1, l2, l3, m0, m1, h0, h1, ..] = uuid;
    let ticks = i64::from_be_bytes([h0 & 0x0F, h1, m0, m1, l0, l1, l2, l3]);
    (ticks - GREGORIAN).div_euclid(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_uuid_says_its_microsecond() {
        // 2022-02-22 19:22:22 UTC, from RFC 9562, appendix A.1.
        let uuid = 0xC232_AB00_9414_11EC_B3C8_9F6B_DECE_D846_u128.to_be_bytes();
        assert_eq!(micros_of(uuid), 1_645_557_742_000_000);
    }

    #[test]
    fn answers_narrow_the_offset_down_and_a_clock_that_was_set_is_believed_anew() {
        let first = Offset::of(1_000, 6_000, 1_800);
        assert_eq!(first, Offset { least: 4_200, most: 6_000 });
        assert_eq!((first.micros(), first.error()), (5_100, 900));
        let second = Offset::of(2_000, 7_000, 2_200);
        assert_eq!(first.and(second), Offset { least: 4_800, most: 6_000 });
        let set = Offset::of(3_000, 1_000, 3_100);
        assert_eq!(first.and(set), set);
    }

    #[test]
    fn clocks_are_apart_by_the_middle_of_them_if_that_is_more_than_a_second() {
        let around = |seconds: i64| Offset { least: seconds * SECOND - 500, most: seconds * SECOND + 500 };
        assert_eq!(apart([].iter()), 0);
        assert_eq!(apart([around(1), around(0)].iter()), 0);
        assert_eq!(apart([around(100)].iter()), 100 * SECOND);
        assert_eq!(apart([around(-100), around(-90)].iter()), -95 * SECOND);
    }
}
