//! What conditional writes that take turns leave each other: above what the ballot of the next one is.
//!
//! Replicas remember the newest ballot of each partition that they know of. One that has not heard of our commit yet shows that
//! of the write before; where coordinators' clocks differ, that may lie between our asking and the answer, too. So whoever had
//! the turn leaves behind what its ballot is not above, and no ballot that is not above that is taken for one's own.
//!
//! Of one in doubt nobody knows when it is decided: the next one may do it, at a time of its own. That one goes by state.
//!
//! Partitions that share a place share what was left there. Where clocks differ, a ballot may be below that of another
//! partition: then it is not found, and its write goes by state.

use std::sync::Arc;

use super::shared::Turn;

/// In the place of a bound: one is in doubt.
const DOUBT: i64 = i64::MAX;

/// The turns of one conditional write on its way. Dropped before it is known what became of it, it is in doubt.
#[derive(Default)]
pub(super) struct Turns {
    held: Vec<Turn>,
    above: i64,
}

impl Turns {
    /// It is forwarded.
    pub(super) fn begin(held: Vec<Turn>) -> Turns {
        let above = held.iter().map(|turn| **turn).max().unwrap_or_default();
        let mut turns = Turns { held, above };
        turns.leave(DOUBT);
        turns
    }

    /// Its ballot is above this, in microseconds.
    pub(super) fn above(&self) -> i64 {
        self.above
    }

    /// Somebody waits for it to end.
    pub(super) fn are_awaited(&self) -> bool {
        // One is kept with all the places, one by whoever has the turn, and one by each that waits.
        self.held.iter().any(|turn| Arc::strong_count(Turn::mutex(turn)) > 2)
    }

    /// It was refused.
    pub(super) fn refused(&mut self) {
        self.leave(self.above);
    }

    /// It was looked at, and not applied. What was in doubt before it is decided, at `until` at the latest.
    pub(super) fn absent(&mut self, until: i64) {
        self.leave(if self.above == DOUBT { until } else { self.above });
    }

    /// It was applied, with a ballot that is not above this.
    pub(super) fn applied(&mut self, until: i64) {
        self.leave(if self.above == DOUBT { until } else { self.above.max(until) });
    }

    fn leave(&mut self, bound: i64) {
        self.held.iter_mut().for_each(|turn| **turn = bound);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Mutex;

    use super::*;

    /// What one that does this leaves to the next, behind what was there before.
    fn left(before: i64, of: impl FnOnce(&mut Turns)) -> i64 {
        let place = Arc::new(Mutex::new(before));
        let turn = || place.clone().try_lock_owned().expect("nobody has it");
        let mut turns = Turns::begin(vec![turn()]);
        assert_eq!(turns.above(), before);
        of(&mut turns);
        drop(turns);
        Turns::begin(vec![turn()]).above()
    }

    #[test]
    fn who_has_a_turn_knows_whether_others_wait_for_it() {
        let place = Arc::new(Mutex::new(0));
        let turns = Turns::begin(vec![place.clone().try_lock_owned().expect("nobody has it")]);
        assert!(!turns.are_awaited());
        let next = place.clone().lock_owned();
        assert!(turns.are_awaited());
        drop(next);
        assert!(!turns.are_awaited());
    }

    #[test]
    fn the_next_one_is_above_what_was_applied_and_of_what_is_in_doubt_nobody_knows() {
        assert_eq!(left(100, Turns::refused), 100);
        assert_eq!(left(100, |turns| turns.absent(150)), 100, "it has left no ballot");
        assert_eq!(left(100, |turns| turns.applied(150)), 150);
        assert_eq!(left(180, |turns| turns.applied(150)), 180, "of another partition");
        assert_eq!(left(100, |_| ()), DOUBT);
        assert_eq!(left(DOUBT, Turns::refused), DOUBT, "nobody looked");
        assert_eq!(left(DOUBT, |turns| turns.absent(150)), 150);
        assert_eq!(left(DOUBT, |turns| turns.applied(150)), 150);
        let read = |turns: &mut Turns| {
            turns.applied(200);
            turns.applied(150);
        };
        assert_eq!(left(100, read), 150, "first a bound, then the ballot itself");
    }
}
