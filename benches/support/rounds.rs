//! Comparing in turns: many short rounds there and back, so that a noisy machine hits everybody.

use std::time::Duration;

use anyhow::Result;

use super::median;

/// What one arm did, round by round.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) per_second: Vec<f64>,
    pub(crate) latency_us: Vec<f64>,
    /// Of loads that are measured one by one.
    pub(crate) p99_us: Vec<f64>,
    pub(crate) settled_ms: Vec<f64>,
    pub(crate) requests: u64,
    pub(crate) cpu: Duration,
}

impl Samples {
    /// Over all rounds: ticks are too coarse for one.
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        (self.cpu > Duration::ZERO).then(|| self.cpu.as_secs_f64() * 1e6 / self.requests as f64)
    }

    pub(crate) fn rate(&self) -> f64 {
        median(self.per_second.iter().copied())
    }
}

/// The median of what two arms' rounds have to do with each other.
pub(crate) fn paired(one: &[f64], other: &[f64], relation: impl Fn(f64, f64) -> f64) -> f64 {
    median(one.iter().zip(other).map(|(one, other)| relation(*one, *other)))
}

/// All arms in turns, there and back. `turn` gets an arm's number and where its samples go.
pub(crate) fn in_turns(
    arms: usize,
    rounds: u32,
    mut turn: impl FnMut(usize, &mut Samples) -> Result<()>,
) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = (0..arms).map(|_| Samples::default()).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..arms).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order.into_iter().try_for_each(|at| turn(at, &mut samples[at]))?;
    }
    Ok(samples)
}
