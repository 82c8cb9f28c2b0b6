//! How long reads took on both sides of late, for plots: percentiles of the last seconds, not of all since the start.
//!
//! Whoever looks does so once a second. A window of several looks, because where few reads are sampled a second has none.

use std::collections::VecDeque;

use serde::Serialize;

use super::{Board, Histogram, Times};
use crate::record::Side;

/// Looks that make a window.
const LOOKS: usize = 10;

/// Times of the same reads on both sides, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sides {
    /// On the origin.
    pub origin: Times,
    /// On the target.
    pub target: Times,
}

/// The last looks at what was counted.
#[derive(Default)]
pub struct Recent {
    epoch: u64,
    looks: VecDeque<(Histogram, Histogram)>,
}

impl Recent {
    /// Look again. `None`: no read was compared lately.
    pub fn look(&mut self, board: &Board) -> Option<Sides> {
        let (route, (epoch, counted)) = (board.shared().gate.route(), board.shapes().times());
        if epoch != self.epoch {
            // The counts began anew, at nothing.
            *self = Recent { epoch, looks: [Default::default()].into() };
        }
        let [primary, secondary] = self.window(counted).map(|times| Times::of(&times));
        let (primary, secondary) = primary.zip(secondary).filter(|_| epoch == route.epoch)?;
        Some(match route.primary {
            Side::Origin => Sides { origin: primary, target: secondary },
            Side::Target => Sides { origin: secondary, target: primary },
        })
    }

    /// What was counted since the oldest look.
    fn window(&mut self, counted: (Histogram, Histogram)) -> [Histogram; 2] {
        let none = Default::default();
        let oldest = self.looks.front().unwrap_or(&none);
        let since = [counted.0.since(&oldest.0), counted.1.since(&oldest.1)];
        self.looks.push_back(counted);
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shadow::tests::{Stage, about};

    #[test]
    fn only_what_was_compared_lately_is_told_and_by_side() {
        let stage = Stage::new(|_| {});
        let mut recent = Recent::default();
        let shape = stage.board.shapes().place(&about(), 1).shape;
        let timed = |millis| {
            let (here, there) = (Duration::from_millis(millis), Duration::from_millis(millis * 2));
            shape.timed((Side::Origin, here), there);
        };
        timed(100);
        let first = recent.look(&stage.board).expect("a read");
        assert!((first.origin.p50 - 100.0).abs() < 7.0 && (first.target.p50 - 200.0).abs() < 14.0, "{first:?}");
        (0..LOOKS - 1).for_each(|_| _ = recent.look(&stage.board).expect("not long ago"));
        timed(10);
        let last = recent.look(&stage.board).expect("a read");
        assert!(last.origin.p99 < 11.0, "what is long ago is left out: {last:?}");
        (0..LOOKS).for_each(|_| _ = recent.look(&stage.board));
        assert_eq!(recent.look(&stage.board), None);
    }
}
