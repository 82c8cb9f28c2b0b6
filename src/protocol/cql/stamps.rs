//! Timestamps that tandem gives to writes whose clients give none: unique in the process, growing, also over restarts.
//!
//! A timestamp is in microseconds since 1970 and goes into the frame, never into the text: `USING TIMESTAMP` is refused by
//! conditional statements, by counters and by a guardrail, the default timestamp is not.
//!
//! **Steps of two.** Whoever repeats a write whose repetition is not harmless does so one microsecond higher, and must
//! not meet the next write there.
//!
//! **One order with Paxos.** The ballot of a conditional statement is the coordinator's clock cut to milliseconds, so a
//! microsecond stamp is ahead of it by up to one: given a stamp right before, half of all conditional updates are answered
//! `[applied]` and are not there. So a conditional statement waits until the coordinator's clock has passed the newest
//! stamp of its partition ([`Stamps::newest`]), and its answer raises what that partition gets next ([`Stamps::raise`]).
//! Two clusters know nothing of each other's ballots, and their clocks may differ by more: after a switch a conditional
//! statement waits until the coordinator's clock has passed those of the other side too ([`Stamps::floor`]).
//! Partitions share [`SHARDS`] places; who shares one waits a little too often.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::record::Side;

/// Places for the newest stamps of partitions; a power of two.
const SHARDS: usize = 1024;
/// Between one stamp and the next.
const STEP: i64 = 2;

/// The stamps of one process. Lock-free.
pub struct Stamps {
    last: AtomicI64,
    partitions: Box<[Partition]>,
}

#[derive(Default)]
struct Partition {
    newest: AtomicI64,
    /// By side.
    floors: [AtomicI64; 2],
}

/// Microseconds since 1970 by the clock of this machine.
pub fn now_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

impl Stamps {
    /// All stamps will be above `floor`: what an earlier process gave last, at most.
    pub fn above(floor: i64) -> Stamps {
        let partitions = (0..SHARDS).map(|_| Partition::default()).collect();
        Stamps { last: AtomicI64::new(floor), partitions }
    }

    /// A stamp for a write to the partitions with these hashes, above what was raised of those that it heeds, as of `now`.
    pub fn next(&self, partitions: impl Iterator<Item = u64>, heeded: impl Iterator<Item = u64>, now: i64) -> i64 {
        let floor = |partition| {
            [Side::Origin, Side::Target].map(|side| self.floor(side, partition)).into_iter().fold(now, i64::max)
        };
        let least = heeded.map(floor).fold(now, i64::max);
        let after = |last: i64| Some(least.max(last.saturating_add(STEP)));
        let stamp = self.last.fetch_update(Relaxed, Relaxed, after).map_or(least, |last| least.max(last + STEP));
        partitions.for_each(|partition| _ = self.place(partition).newest.fetch_max(stamp, Relaxed));
        stamp
    }

    /// The newest stamp that this partition was given, or one that it shares its place with; 0: none.
    pub fn newest(&self, partition: u64) -> i64 {
        self.place(partition).newest.load(Relaxed)
    }

    /// Whatever is given to this partition from now on is above the millisecond of `ballot`, which is of this side.
    pub fn raise(&self, side: Side, partition: u64, ballot: i64) {
        let next = ballot.div_euclid(1_000).saturating_add(1).saturating_mul(1_000);
        self.place(partition).floors[side.index()].fetch_max(next, Relaxed);
    }

    /// Above what this side's ballots of this partition are, or of one that it shares its place with; 0: there are none.
    pub fn floor(&self, side: Side, partition: u64) -> i64 {
        self.place(partition).floors[side.index()].load(Relaxed)
    }

    /// The newest of all: what an heir has to begin above.
    pub fn last(&self) -> i64 {
        self.last.load(Relaxed)
    }

    fn place(&self, partition: u64) -> &Partition {
        // The hash may be weak in its low bits.
        let spread = partition.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.partitions[spread as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn next(stamps: &Stamps, partitions: &[u64], now: i64) -> i64 {
        let all = || partitions.iter().copied();
        stamps.next(all(), all(), now)
    }

    #[test]
    fn stamps_follow_the_clock_in_steps_of_two_and_never_go_back() {
        let stamps = Stamps::above(1_000);
        assert_eq!(next(&stamps, &[1], 500), 1_002);
        assert_eq!(next(&stamps, &[1], 500), 1_004);
        assert_eq!(next(&stamps, &[], 2_000), 2_000);
        assert_eq!(next(&stamps, &[2], 1_999), 2_002);
        assert_eq!(stamps.last(), 2_002);
    }

    #[test]
    fn a_ballot_raises_what_its_partition_gets_next_above_its_millisecond() {
        let stamps = Stamps::above(0);
        assert_eq!(stamps.newest(7), 0);
        stamps.raise(Side::Origin, 7, 5_001);
        assert_eq!(next(&stamps, &[7], 5_300), 6_000);
        assert_eq!(stamps.newest(7), 6_000);
        stamps.raise(Side::Target, 7, 4_999);
        assert_eq!(next(&stamps, &[7], 5_300), 6_002);
        assert_eq!([Side::Origin, Side::Target].map(|side| stamps.floor(side, 7)), [6_000, 5_000]);
    }

    #[test]
    fn a_write_to_many_partitions_is_above_the_ballots_of_all_and_stands_in_all() {
        let stamps = Stamps::above(0);
        stamps.raise(Side::Origin, 8, 5_001);
        assert_eq!(next(&stamps, &[7, 8], 5_300), 6_000);
        assert_eq!([7, 8].map(|partition| stamps.newest(partition)), [6_000, 6_000]);
    }

    #[test]
    fn two_threads_never_get_the_same_stamp() {
        let stamps = Arc::new(Stamps::above(0));
        let draw = |stamps: Arc<Stamps>| move || (0..10_000).map(|now| next(&stamps, &[now], now as i64 / 7)).collect();
        let threads: Vec<std::thread::JoinHandle<Vec<i64>>> =
            (0..2).map(|_| std::thread::spawn(draw(stamps.clone()))).collect();
        let drawn: Vec<i64> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
    }
}
