//! Values that a server would make up by itself, made up once by the proxy for both sides.
//!
//! Pure: time and randomness are given. Facts of formats: UUIDs by RFC 9562; `date`, `time`, `timestamp` by the
//! native protocol specification, section 6.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What kind of value a volatile function gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fresh {
    /// `now()`, `currentTimeUUID()`.
    TimeUuid,
    /// `uuid()`.
    Uuid,
    /// `currentTimestamp()`.
    Timestamp,
    /// `currentDate()`.
    Date,
    /// `currentTime()`.
    Time,
}

/// A value made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// `timeuuid`.
    TimeUuid([u8; 16]),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `timestamp`: milliseconds since 1970.
    Timestamp(i64),
    /// `date`: days, 1970-01-01 being 2^31.
    Date(u32),
    /// `time`: nanoseconds since midnight, UTC.
    Time(i64),
}

const DAY_SECONDS: u64 = 24 * 60 * 60;

impl Generated {
    /// A value of this kind at `now`, the time since 1970 in UTC. `random` is used for a `uuid` only.
    pub fn new(kind: Fresh, now: Duration, timeuuids: &TimeUuids, random: [u8; 16]) -> Generated {
        let since_midnight = Duration::new(now.as_secs() % DAY_SECONDS, now.subsec_nanos());
        let saturated = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
        match kind {
            Fresh::TimeUuid => Generated::TimeUuid(timeuuids.next(now)),
            Fresh::Uuid => Generated::Uuid(random_uuid(random)),
            Fresh::Timestamp => Generated::Timestamp(saturated(now.as_millis())),
            Fresh::Date => {
                let days = u32::try_from(now.as_secs() / DAY_SECONDS).unwrap_or(u32::MAX);
                Generated::Date(days.saturating_add(1 << 31))
            }
            Fresh::Time => Generated::Time(saturated(since_midnight.as_nanos())),
        }
    }

    /// Its text as a term of its own type. The hint keeps overloads (`toTimestamp(..)`) unambiguous.
    pub fn literal(&self) -> String {
        match self {
            Generated::TimeUuid(bytes) => format!("(timeuuid){}", uuid_text(bytes)),
            Generated::Uuid(bytes) => format!("(uuid){}", uuid_text(bytes)),
            Generated::Timestamp(value) => format!("(timestamp){value}"),
            Generated::Date(value) => format!("(date){value}"),
            Generated::Time(value) => format!("(time){value}"),
        }
    }
}

/// The usual text of a UUID.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*bytes));
    let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Random bits as a UUID of version 4.
fn random_uuid(mut bits: [u8; 16]) -> [u8; 16] {
    bits[6] = bits[6] & 0x0F | 0x40;
    bits[8] = bits[8] & 0x3F | 0x80;
    bits
}

/// Makes UUIDs of version 1 that never repeat and never go back, whatever the clock does.
///
/// Two makers must differ in `node` or `sequence`: random ones for each process will do.
#[derive(Debug)]
pub struct TimeUuids {
    /// Clock sequence (14 bits) and node, as the last eight bytes hold them.
    identity: [u8; 8],
    /// The newest time given, in 100 ns since 1582.
    last: AtomicU64,
}

/// From 1582-10-15 to 1970-01-01, in 100 ns.
const GREGORIAN: u64 = 0x01B2_1DD2_1381_4000;

impl TimeUuids {
    /// A maker that signs as `node`, whose multicast bit is set as it is no hardware address.
    pub fn new(node: [u8; 6], sequence: u16) -> TimeUuids {
        let [high, low] = sequence.to_be_bytes();
        let [first, second, third, fourth, fifth, sixth] = node;
        let identity = [high & 0x3F | 0x80, low, first | 1, second, third, fourth, fifth, sixth];
        TimeUuids { identity, last: AtomicU64::new(0) }
    }

    /// The next one, at `now` since 1970 or just above the last.
    pub fn next(&self, now: Duration) -> [u8; 16] {
        let clock = u64::try_from(now.as_nanos() / 100).unwrap_or(u64::MAX).saturating_add(GREGORIAN);
        let mut given = clock;
        let raised = |last: u64| {
            given = clock.max(last.saturating_add(1));
            Some(given)
        };
        let _ = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raised);
        self.stamped(given)
    }

    /// Layout of RFC 9562, section 5.1: low, middle, version and high of the time; sequence; node.
    fn stamped(&self, time: u64) -> [u8; 16] {
        let [high0, high1, middle0, middle1, low @ ..] = time.to_be_bytes();
        let mut uuid = [0; 16];
        uuid[..4].copy_from_slice(&low);
        uuid[4..6].copy_from_slice(&[middle0, middle1]);
        uuid[6..8].copy_from_slice(&[high0 & 0x0F | 0x10, high1]);
        uuid[8..].copy_from_slice(&self.identity);
        uuid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> TimeUuids {
        TimeUuids::new([2, 3, 4, 5, 6, 7], 0x1234)
    }

    fn time_of(uuid: [u8; 16]) -> u64 {
        let high = u64::from(u16::from_be_bytes([uuid[6] & 0x0F, uuid[7]]));
        let middle = u64::from(u16::from_be_bytes([uuid[4], uuid[5]]));
        let low = u64::from(u32::from_be_bytes([uuid[0], uuid[1], uuid[2], uuid[3]]));
        high << 48 | middle << 32 | low
    }

    #[test]
    fn a_timeuuid_says_its_time_version_and_maker() {
        // The time in RFC 9562's well-known namespace UUIDs.
        let maker = TimeUuids::new([0x00, 0xC0, 0x4F, 0xD4, 0x30, 0xC8], 0x00B4);
        let uuid = maker.next(Duration::from_nanos(886_630_433_151_182_400));
        assert_eq!(uuid_text(&uuid), "6ba7b810-9dad-11d1-80b4-01c04fd430c8");
    }

    #[test]
    fn timeuuids_never_repeat_or_go_back() {
        let maker = maker();
        let times: Vec<u64> = [5, 5, 4, 5, 9, 1].map(|ms| time_of(maker.next(Duration::from_millis(ms)))).to_vec();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        assert_eq!(time_of(maker.next(Duration::from_millis(10))), GREGORIAN + 100_000);
    }

    #[test]
    fn values_have_the_text_of_their_type() {
        let now = Duration::new(1_795_274_362, 401_000_005);
        let value = |kind| Generated::new(kind, now, &maker(), [0xFF; 16]);
        assert_eq!(value(Fresh::Uuid).literal(), "(uuid)ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(value(Fresh::Timestamp).literal(), "(timestamp)1795274362401");
        assert_eq!(value(Fresh::Date).literal(), "(date)2147504426");
        assert_eq!(value(Fresh::Time).literal(), "(time)55162401000005");
    }
}
