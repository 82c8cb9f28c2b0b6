//! One extent of a table as a value: which of its units are done, given out, to be looked at again, or not drawn at all.

use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::journal::Lsn;

use super::counts::Counts;
use super::spans::Spans;
use super::walked::Copied;
use super::work::Extent;

/// One extent of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tract {
    pub(super) extent: Extent,
    /// What was copied and found here in this pass: forgotten with it, if the extent is another one.
    #[serde(default)]
    pub(super) copied: Copied,
    #[serde(default)]
    pub(super) counts: Counts,
    pub(super) done: Spans,
    /// Done, or under way, or to be done again.
    #[serde(skip)]
    pub(super) taken: Spans,
    pub(super) again: Vec<Again>,
    /// Units that were begun and not reported: something of them may have been done.
    #[serde(default)]
    pub(super) begun: Spans,
    /// Only units below are given out. It is on the disk before, so that a later process knows which may have been.
    #[serde(default)]
    pub(super) reserved: u64,
    /// Units that are not in the sample.
    #[serde(default)]
    pub(super) left_out: u64,
}

/// Units that differed and were owed: to be compared again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Again {
    pub(super) from: u64,
    pub(super) to: u64,
    /// When everything below is paid.
    pub(super) after: u64,
    pub(super) tries: u8,
    pub(super) differing: u64,
    /// Rows that differed besides, and were too many to be kept.
    #[serde(default)]
    pub(super) crowd: u64,
    #[serde(skip)]
    pub(super) taken: bool,
}

/// Units of a table's first chunk.
pub(super) const FIRST_STEP: u64 = 64;
/// As many chunks may be given out between two looks of the disk.
const RESERVED_STEPS: u64 = 16;

/// A part of the units, drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) ppm: u32,
    pub(super) seed: u64,
}

/// Units that are drawn together, at least.
const SAMPLE_UNITS: u64 = 16;
/// Most draws for an extent: its spans are kept on disk.
const DRAWS_MAX: u64 = 4_096;

impl Sample {
    /// The units that are not drawn. Of each extent some are.
    fn leaves_out(self, extent: &Extent) -> Spans {
        let len = extent.units.div_ceil(DRAWS_MAX).max(SAMPLE_UNITS);
        let draws = extent.units.div_ceil(len);
        let mut dice = Dice(self.seed ^ extent.file);
        let sure = dice.below(draws.max(1));
        let mut spans = Spans::default();
        for n in 0..draws {
            if dice.below(1_000_000) >= u64::from(self.ppm) && n != sure {
                spans.add(n * len, ((n + 1) * len).min(extent.units));
            }
        }
        spans
    }
}

impl Tract {
    pub(super) fn of(extent: &Extent, before: &mut Vec<Tract>, sample: Option<Sample>) -> Tract {
        let same = |tract: &Tract| tract.extent.name == extent.name && tract.extent.file == extent.file;
        match before.iter().position(same) {
            Some(at) => before.swap_remove(at),
            None => {
                let done = sample.map(|sample| sample.leaves_out(extent)).unwrap_or_default();
                let (taken, left_out) = (done.clone(), done.len());
                Tract {
                    extent: extent.clone(),
                    copied: Copied::default(),
                    counts: Counts::default(),
                    done,
                    taken,
                    again: Vec::new(),
                    begun: Spans::default(),
                    reserved: 0,
                    left_out,
                }
            }
        }
    }

    /// Units to be worked on, and whether they are looked at again. `begun`: also of those that were begun before.
    pub(super) fn take(&mut self, step: u64, paid: Lsn, begun: bool) -> Option<((u64, u64), bool)> {
        if let Some(again) = self.again.iter_mut().find(|again| !again.taken && again.after <= paid.0) {
            again.taken = true;
            return Some(((again.from, again.to), true));
        }
        let below = self.extent.units.min(self.reserved);
        let (from, to) = if begun {
            self.taken.gap(0, below, step)?
        } else {
            let mut passed = self.taken.clone();
            passed.add_all(&self.begun);
            passed.gap(0, below, step)?
        };
        self.taken.add(from, to);
        Some(((from, to), false))
    }

    pub(super) fn recall(&mut self) {
        let given_out = std::mem::replace(&mut self.taken, self.done.clone());
        for again in &mut self.again {
            again.taken = false;
            self.taken.add(again.from, again.to);
        }
        // What was given out, and is neither done nor to be looked at again.
        let mut unreported = given_out;
        unreported.remove_all(&self.taken);
        self.begun.add_all(&unreported);
    }

    /// Let more units be given out, if less than half as many are left.
    pub(super) fn reserve(&mut self, step: u64) -> bool {
        let ahead = RESERVED_STEPS * step.max(FIRST_STEP);
        let news = self.reserved < self.extent.units && self.reserved < self.taken.end() + ahead / 2;
        if news {
            self.reserved = self.taken.end() + ahead;
        }
        news
    }

    pub(super) fn is_done(&self) -> bool {
        self.again.is_empty() && self.done.len() >= self.extent.units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_about_as_large_as_asked_and_of_every_extent() {
        for (units, ppm) in
            [(1, 1), (15, 10_000), (16, 10_000), (100_000, 10_000), (10_000_000, 500_000), (77, 1_000_000)]
        {
            for seed in 0..20 {
                let extent = Extent { name: "t".into(), file: seed, units };
                let left_out = Sample { ppm, seed }.leaves_out(&extent).len();
                let (looked_at, asked) = (units - left_out, units as f64 * f64::from(ppm) / 1e6);
                let spare = (units.div_ceil(DRAWS_MAX).max(SAMPLE_UNITS) as f64 * 20.0).max(asked * 0.2);
                assert!(looked_at > 0, "{units} {ppm}: nothing is looked at");
                assert!((looked_at as f64 - asked).abs() <= spare, "{units} {ppm}: {looked_at} for {asked}");
            }
        }
    }
}
