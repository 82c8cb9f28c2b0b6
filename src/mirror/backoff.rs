//! How long to wait before trying again: twice as long each time, up to a bound, and a random part of it, so that
//! several appliers of one fleet do not knock together.

use std::time::Duration;

/// A growing pause with jitter; the same seed gives the same pauses.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    state: u64,
}

impl Backoff {
    /// Pauses from `min` to `max`.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff { min, max, failures: 0, state: seed }
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
        bound / 2 + bound.mul_f64(self.random() / 2.0)
    }

    /// In 0..1 (splitmix64, Steele et al. 2014).
    fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
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
