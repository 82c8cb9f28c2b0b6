//! Plain writes beside conditional ones of the same partition of the same table.
//!
//! A conditional write whose ballot cannot be read goes by state, and what reads do not show is not mirrored: that it
//! deleted something. A plain write with an older timestamp that is replayed behind it would bring that back. So a plain
//! write names its place as well, to be settled behind it, while a conditional one of its partition is on its way, and
//! where its timestamp is not above what the ballots of earlier ones may be.
//!
//! Both sides say what they do before they look at the other (as at the gate, `cutover/gate.rs`): a conditional write is
//! counted before its record is written; a plain one looks again when its own is, and is written anew if it was overtaken.
//!
//! Partitions share [`SHARDS`] places; who shares one names its place without need.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU64};

use smallvec::SmallVec;

use crate::protocol::cql::stamps::now_micros;

/// A power of two.
const SHARDS: usize = 1024;
/// In microseconds: what was not answered may still be decided. Paxos looks at it when its record is settled, and that
/// may take a while.
const DECIDED_WITHIN: i64 = 10_000_000;

/// Of all partitions.
pub(in crate::protocol::cql) struct Contests(Box<[Arc<Shard>]>);

#[derive(Default)]
struct Shard {
    /// Conditional writes that were begun, ever.
    begun: AtomicU64,
    /// Those that are over.
    over: AtomicU64,
    /// No ballot of theirs is above this, in microseconds.
    until: AtomicI64,
}

/// A conditional write is on its way. Dropped, nobody knows what became of it.
pub(in crate::protocol::cql) struct Contest(Vec<Arc<Shard>>);

/// What a plain write saw: of each of its places the conditional writes that were begun.
#[derive(Default)]
pub(in crate::protocol::cql) struct Seen(SmallVec<[(usize, u64); 2]>);

impl Default for Contests {
    fn default() -> Contests {
        Contests((0..SHARDS).map(|_| Arc::default()).collect())
    }
}

impl Contests {
    /// A conditional write of these partitions of its table, by hash, begins.
    pub(super) fn begin(&self, partitions: impl Iterator<Item = u64>) -> Contest {
        let shards: Vec<Arc<Shard>> = partitions.map(|hash| self.0[at(hash)].clone()).collect();
        for shard in &shards {
            shard.begun.fetch_add(1, SeqCst);
        }
        Contest(shards)
    }

    /// Whether a plain write of this partition with this timestamp must name its place.
    pub(super) fn concern(&self, partition: u64, stamp: i64, seen: &mut Seen) -> bool {
        let at = at(partition);
        let shard = &self.0[at];
        // Looked at in this order, one that ends meanwhile is seen.
        let over = shard.over.load(SeqCst);
        let begun = shard.begun.load(SeqCst);
        seen.0.push((at, begun));
        begun > over || stamp <= shard.until.load(SeqCst)
    }

    /// Whether a conditional write began since.
    pub(super) fn overtook(&self, seen: &Seen) -> bool {
        seen.0.iter().any(|(at, begun)| self.0[*at].begun.load(SeqCst) != *begun)
    }
}

impl Contest {
    /// It was refused, or not applied.
    pub(super) fn absent(mut self) {
        self.end(0);
    }

    /// It was applied, with a ballot that is not above this.
    pub(super) fn applied(mut self, until: i64) {
        self.end(until);
    }

    fn end(&mut self, until: i64) {
        for shard in self.0.drain(..) {
            shard.until.fetch_max(until, SeqCst);
            shard.over.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for Contest {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.end(now_micros() + DECIDED_WITHIN);
        }
    }
}

fn at(partition: u64) -> usize {
    // The hash may be weak in its low bits.
    (partition.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: i64 = i64::MAX;

    fn concern(contests: &Contests, partition: u64, stamp: i64) -> bool {
        contests.concern(partition, stamp, &mut Seen::default())
    }

    #[test]
    fn a_plain_write_names_its_place_while_a_conditional_one_is_on_its_way() {
        let contests = Contests::default();
        assert!(!concern(&contests, 7, 1));
        let contest = contests.begin([7].into_iter());
        assert!(concern(&contests, 7, LATE));
        assert!(!concern(&contests, 8, LATE), "another partition");
        contest.absent();
        assert!(!concern(&contests, 7, 1));
    }

    #[test]
    fn and_where_it_is_not_above_the_ballots_of_earlier_ones() {
        let contests = Contests::default();
        contests.begin([7].into_iter()).applied(1_000);
        contests.begin([7].into_iter()).applied(900);
        assert!(concern(&contests, 7, 1_000));
        assert!(!concern(&contests, 7, 1_001));
        drop(contests.begin([7].into_iter()));
        assert!(concern(&contests, 7, now_micros()), "nobody knows when that is decided");
    }

    #[test]
    fn a_plain_write_that_is_overtaken_notices() {
        let contests = Contests::default();
        let mut seen = Seen::default();
        assert!(!contests.concern(7, 5, &mut seen));
        assert!(!contests.overtook(&seen));
        contests.begin([8].into_iter()).absent();
        assert!(!contests.overtook(&seen));
        contests.begin([7].into_iter()).absent();
        assert!(contests.overtook(&seen), "although it is over");
    }
}
