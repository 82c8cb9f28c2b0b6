//! How long to wait before trying again: twice as long each time, up to a bound, and a random part of it, so that
//! several appliers of one fleet do not knock together.

use std::time::Duration;

use crate::dice::Dice;

/// A growing pause with jitter; the same seed gives the same pauses.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    dice: Dice,
}

impl Backoff {
    /// Pauses from `min` to `max`.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff { min, max, failures: 0, dice: Dice(seed) }
    }

    /// It worked: begin anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: wait this long, between half of the bound reached and all of it.
    pub fn pause(&mut self) -> Duration {
        let pause = self.pause_after(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// How long one waits who failed so often before; for many who count for themselves.
    pub fn pause_after(&mut self, failures: u32) -> Duration {
        let bound = self.min.saturating_mul(1 << failures.min(20)).min(self.max);
        bound / 2 + bound.mul_f64(self.dice.fraction() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound_and_begin_anew() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        let pauses: Vec<_> = (0..40).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= min / 2 && pauses[0] <= min);
        assert!(pauses[39] >= max / 2 && pauses[39] <= max);
        backoff.reset();
        assert!(backoff.pause() <= min);
    }
}
