//! What conditional writes that take turns leave each other: above what the ballot of the next one is.
//!
//! Replicas remember the newest ballot of each partition that they know of. One that has not heard of our commit yet shows that
//! of the write before; where coordinators' clocks differ, that may lie between our asking and the answer, too. So whoever had
//! the turn leaves behind what its ballot is not above, and no ballot that is not above that is taken for one's own.
//!
//! Of one in doubt nobody knows when it is decided: the next one may do it, at a time of its own. That one goes by state.
//!
//! Partitions that share a place share that bound. Where clocks differ, a ballot may be below that of another
//! partition: then it is not found, and its write goes by state. Doubts are kept by partition: what became of one tells
//! nothing of another. None of them ends by time: servers forget an accepted proposal after three hours or `gc_grace_seconds`, but
//! only with `paxos_state_purging: legacy`, and who finds it with a SERIAL read and does not finish it begins that anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::shared::Turn;

/// In the place of a bound: one is in doubt.
const DOUBT: i64 = i64::MAX;
/// Partitions in doubt that a place tells apart. With more, all of the place are until the process ends.
const DOUBTED_MAX: usize = 1024;

/// What those who had a turn left there.
#[derive(Debug, Default)]
pub(in crate::protocol::cql) struct Left {
    /// Above what the ballot of the next one is, in microseconds.
    above: i64,
    /// Partitions of which one is in doubt.
    doubted: BTreeSet<u64>,
}

/// The turns of one conditional write on its way. Dropped before it is known what became of it, it is in doubt.
#[derive(Default)]
pub(super) struct Turns {
    held: Vec<Turn>,
    /// Those that it is about, and of them those that were in doubt before it.
    partitions: Vec<u64>,
    doubted: Vec<u64>,
    above: i64,
}

impl Left {
    fn is_doubted(&self, partition: u64) -> bool {
        self.is_full() || self.doubted.contains(&partition)
    }

    fn doubt(&mut self, partition: u64) {
        if self.is_full() {
            return;
        }
        self.doubted.insert(partition);
        if self.is_full() {
            tracing::warn!(
                "lightweight transactions on more than {DOUBTED_MAX} partitions were not answered: all that share their \
                 place go by state until tandem is started again"
            );
        }
    }

    fn decide(&mut self, partition: u64) {
        // Which ones found no room nobody knows.
        if !self.is_full() {
            self.doubted.remove(&partition);
        }
    }

    fn is_full(&self) -> bool {
        self.doubted.len() > DOUBTED_MAX
    }
}

impl Turns {
    /// It is forwarded. What was decided before all of `held` has no ballot above `before`.
    pub(super) fn begin(mut held: Vec<Turn>, partitions: Vec<u64>, before: i64) -> Turns {
        let above = held.iter().map(|turn| turn.above).fold(before, i64::max);
        let is_doubted = |partition: &u64| held.iter().any(|turn| turn.is_doubted(*partition));
        let doubted = partitions.iter().copied().filter(is_doubted).collect();
        held.iter_mut().for_each(|turn| partitions.iter().for_each(|partition| turn.doubt(*partition)));
        Turns { held, partitions, doubted, above }
    }

    /// Its ballot is above this, in microseconds.
    pub(super) fn above(&self) -> i64 {
        if self.doubted.is_empty() { self.above } else { DOUBT }
    }

    /// Somebody waits for it to end.
    pub(super) fn are_awaited(&self) -> bool {
        // One is kept with all the places, one by whoever has the turn, and one by each that waits.
        self.held.iter().any(|turn| Arc::strong_count(Turn::mutex(turn)) > 2)
    }

    /// It was refused: what was in doubt before it still is.
    pub(super) fn refused(&mut self) {
        let Turns { held, partitions, doubted, .. } = self;
        let decided = partitions.iter().filter(|partition| !doubted.contains(partition));
        held.iter_mut().for_each(|turn| decided.clone().for_each(|partition| turn.decide(*partition)));
    }

    /// It was looked at, and not applied. What was in doubt before it is decided, at `until` at the latest.
    pub(super) fn absent(&mut self, until: i64) {
        self.decided(if self.doubted.is_empty() { self.above } else { self.above.max(until) });
    }

    /// It was applied, with a ballot that is not above this.
    pub(super) fn applied(&mut self, until: i64) {
        self.decided(self.above.max(until));
    }

    fn decided(&mut self, bound: i64) {
        for turn in &mut self.held {
            turn.above = bound;
            self.partitions.iter().for_each(|partition| turn.decide(*partition));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Place(Arc<Mutex<Left>>);

    impl Place {
        fn turns(&self, partition: u64) -> Turns {
            let turn = self.0.clone().try_lock_owned().expect("nobody has it");
            Turns::begin(vec![turn], vec![partition], 0)
        }

        /// One on this partition that does this, and what the next one there is above.
        fn left(&self, partition: u64, of: impl FnOnce(&mut Turns)) -> i64 {
            of(&mut self.turns(partition));
            let mut next = self.turns(partition);
            next.refused();
            next.above()
        }
    }

    #[test]
    fn who_has_a_turn_knows_whether_others_wait_for_it() {
        let place = Place::default();
        let turns = place.turns(1);
        assert!(!turns.are_awaited());
        let next = place.0.clone().lock_owned();
        assert!(turns.are_awaited());
        drop(next);
        assert!(!turns.are_awaited());
    }

    #[test]
    fn the_next_one_is_above_what_was_applied_and_of_what_is_in_doubt_nobody_knows() {
        let place = Place::default();
        assert_eq!(place.left(1, |turns| turns.applied(100)), 100);
        assert_eq!(place.left(1, Turns::refused), 100);
        assert_eq!(place.left(1, |turns| turns.absent(150)), 100, "it has left no ballot");
        assert_eq!(place.left(1, |turns| turns.applied(150)), 150);
        assert_eq!(place.left(2, |turns| turns.applied(120)), 150, "of another partition");
        assert_eq!(place.left(1, |_| ()), DOUBT);
        assert_eq!(place.left(1, Turns::refused), DOUBT, "nobody looked");
        assert_eq!(place.left(1, |turns| turns.absent(180)), 180);
        assert_eq!(place.left(1, |_| ()), DOUBT);
        assert_eq!(place.left(1, |turns| turns.applied(190)), 190);
        let read = |turns: &mut Turns| {
            turns.applied(250);
            turns.applied(200);
        };
        assert_eq!(place.left(1, read), 200, "first a bound, then the ballot itself");
    }

    #[test]
    fn what_became_of_one_partition_tells_nothing_of_a_doubt_about_another() {
        let place = Place::default();
        assert_eq!(place.left(1, |_| ()), DOUBT);
        assert_eq!(place.left(2, |turns| turns.applied(100)), 100);
        assert_eq!(place.left(2, |turns| turns.absent(120)), 100);
        assert_eq!(place.left(1, Turns::refused), DOUBT);
        assert_eq!(place.left(1, |turns| turns.absent(150)), 150);
    }

    #[test]
    fn with_too_many_doubts_all_are() {
        let place = Place::default();
        (0..=DOUBTED_MAX as u64).for_each(|partition| _ = place.turns(partition));
        assert_eq!(place.left(9_999, |turns| turns.applied(100)), DOUBT);
    }

    #[test]
    fn what_was_decided_before_the_process_began_is_no_ballot_of_the_first_one() {
        let turn = Place::default().0.try_lock_owned().expect("nobody has it");
        assert_eq!(Turns::begin(vec![turn], vec![1], 70).above(), 70);
    }
}
