//! Sets of numbers as sorted spans that do not touch: which units of an extent are done.

use serde::{Deserialize, Serialize};

/// Half-open spans, in order, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Add what lies from `from` to below `to`.
    pub(super) fn add(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|&(_, end)| end < from);
        let last = self.0.partition_point(|&(start, _)| start <= to);
        if let Some(&(start, _)) = self.0.get(first).filter(|_| first < last) {
            from = from.min(start);
            to = to.max(self.0[last - 1].1);
        }
        self.0.splice(first..last, [(from, to)]);
    }

    /// Take out what lies from `from` to below `to`.
    pub(super) fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let cut = |&(start, end): &(u64, u64)| [(start, end.min(from)), (start.max(to), end)];
        self.0 = self.0.iter().flat_map(cut).filter(|(start, end)| start < end).collect();
    }

    /// The first gap at or after `from` and below `below`, at most `len` long.
    pub(super) fn gap(&self, from: u64, below: u64, len: u64) -> Option<(u64, u64)> {
        let mut start = from;
        for &(first, end) in &self.0 {
            if start < first {
                break;
            }
            start = start.max(end);
        }
        let next = self.0.iter().map(|&(first, _)| first).find(|&first| first > start).unwrap_or(below);
        let end = next.min(below).min(start.saturating_add(len));
        (start < end).then_some((start, end))
    }

    /// Some number from `from` to below `to` is in it.
    pub(super) fn meets(&self, from: u64, to: u64) -> bool {
        self.0.iter().any(|&(start, end)| start < to && from < end)
    }

    /// Those below `below` that are not in it.
    pub(super) fn gaps(&self, below: u64) -> Spans {
        let mut gaps = Spans::default();
        gaps.add(0, below);
        self.0.iter().for_each(|&(from, to)| gaps.remove(from, to));
        gaps
    }

    /// Add all of these.
    pub(super) fn add_all(&mut self, others: &Spans) {
        others.0.iter().for_each(|&(from, to)| self.add(from, to));
    }

    /// Take out all of these.
    pub(super) fn remove_all(&mut self, others: &Spans) {
        others.0.iter().for_each(|&(from, to)| self.remove(from, to));
    }

    /// The number behind the last.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |&(_, end)| end)
    }

    /// How many numbers are in it.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spans_are_a_set(steps in prop::collection::vec((any::<bool>(), 0..40_u64, 0..12_u64), 0..60), len in 1..9_u64) {
            let (mut spans, mut set) = (Spans::default(), std::collections::BTreeSet::new());
            for (add, from, size) in steps {
                if add {
                    spans.add(from, from + size);
                    set.extend(from..from + size);
                } else {
                    spans.remove(from, from + size);
                    set.retain(|n| !(from..from + size).contains(n));
                }
                prop_assert!(spans.0.windows(2).all(|pair| pair[0].1 < pair[1].0), "{spans:?}");
                prop_assert_eq!(spans.len(), set.len() as u64);
                for from in 0..50 {
                    let first = (from..50).find(|n| !set.contains(n));
                    let end = |first: u64| (first..50).take(len as usize).take_while(|n| !set.contains(n)).last();
                    let gap = first.and_then(|first| Some((first, end(first)? + 1)));
                    prop_assert_eq!(spans.gap(from, 50, len), gap);
                    prop_assert_eq!(spans.meets(from, from + len), (from..from + len).any(|n| set.contains(&n)));
                    prop_assert_eq!(spans.gaps(from).len(), (0..from).filter(|n| !set.contains(n)).count() as u64);
                }
                prop_assert_eq!(spans.end(), set.last().map_or(0, |last| last + 1));
            }
        }
    }
}
