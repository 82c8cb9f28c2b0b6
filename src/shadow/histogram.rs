//! A histogram of durations with fixed buckets: bounded memory, no lock, about 6 % precise from a microsecond to a minute.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Each power of two of microseconds is cut into so many buckets.
const PARTS: usize = 8;
const PARTS_BITS: u32 = PARTS.trailing_zeros();
/// Powers of two that are told apart: the last ends at 2^27 us, which is two minutes.
const POWERS: usize = 27;
const BUCKETS: usize = (POWERS - PARTS_BITS as usize + 1) * PARTS;

/// Durations, counted.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Histogram {
    /// Count one.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// Add what another one counted.
    pub fn add(&self, other: &Histogram) {
        for (ours, theirs) in self.buckets.iter().zip(&other.buckets) {
            ours.fetch_add(theirs.load(Relaxed), Relaxed);
        }
    }

    /// What was counted here and not yet in `earlier`, an earlier state of this one.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let since = Histogram::default();
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        for (bucket, (now, then)) in since.buckets.iter().zip(pairs) {
            bucket.store(now.load(Relaxed).saturating_sub(then.load(Relaxed)), Relaxed);
        }
        since
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// The duration that this share of all (0 to 1) does not exceed; `None` when nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|bucket| {
            seen += bucket.load(Relaxed);
            seen >= rank
        });
        found.filter(|_| count > 0).map(|bucket| Duration::from_micros(middle(bucket)))
    }
}

/// Up to 8 us one bucket each; from there on the three bits behind the highest one count.
fn bucket(micros: u64) -> usize {
    if micros < PARTS as u64 {
        return micros as usize;
    }
    let power = micros.ilog2() - PARTS_BITS;
    let part = (micros >> power) as usize - PARTS;
    ((power as usize + 1) * PARTS + part).min(BUCKETS - 1)
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: usize) -> u64 {
    let low = |bucket: usize| match bucket / PARTS {
        0 => bucket as u64,
        power => ((PARTS + bucket % PARTS) as u64) << (power - 1),
    };
    let (from, to) = (low(bucket), low(bucket + 1));
    from + (to - from) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for millis in 1..=1_000 {
            histogram.record(Duration::from_millis(millis));
        }
        for (share, expected) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0), (0.001, 1.0), (1.0, 1_000.0)] {
            let found = histogram.quantile(share).expect("recorded").as_secs_f64() * 1_000.0;
            assert!((found / expected - 1.0_f64).abs() < 0.07, "{share}: {found} for {expected}");
        }
    }

    #[test]
    fn any_duration_has_a_bucket_and_buckets_are_in_order() {
        let mut last = 0;
        for micros in (0..64).flat_map(|power: u32| [1_u64 << power, (1 << power) + (1 << power) / 2]) {
            let at = bucket(micros);
            assert!(at >= last && at < BUCKETS, "{micros}");
            last = at;
        }
        let histogram = Histogram::default();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.count(), 2);
    }

    #[test]
    fn sums_are_as_if_all_was_recorded_in_one() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_millis(1));
        other.record(Duration::from_millis(100));
        one.add(&other);
        assert_eq!(one.count(), 2);
        assert_eq!(one.quantile(1.0), other.quantile(1.0));
        let since = one.since(&other);
        assert_eq!((since.count(), since.quantile(1.0)), (1, one.quantile(0.5)));
    }
}
