//! What one client knows: which of its writes were acknowledged, and which may or may not have happened. In the end the
//! target must agree.
//!
//! A write whose answer was lost is *uncertain*, and the client never touches its row again: then each row's history is
//! known up to its last write. What all clients write together is known as a sum, between two bounds.

use std::collections::HashMap;
use std::hash::Hash;

/// A row's state: its version, or absent.
pub(super) type State = Option<u64>;

/// What may be found in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    acked: State,
    uncertain: Option<State>,
}

impl Row {
    fn allows(&self, found: State) -> bool {
        found == self.acked || self.uncertain == Some(found)
    }
}

/// What was added to one place: all that was acknowledged, and any part of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    acked: i64,
    lowest: i64,
    highest: i64,
}

impl Sum {
    fn add(&mut self, delta: i64, acked: bool) {
        if acked {
            self.acked += delta;
        } else {
            self.lowest += delta.min(0);
            self.highest += delta.max(0);
        }
    }

    /// What two clients added.
    pub(super) fn plus(self, other: Sum) -> Sum {
        Sum {
            acked: self.acked + other.acked,
            lowest: self.lowest + other.lowest,
            highest: self.highest + other.highest,
        }
    }

    /// The place may hold this.
    pub(super) fn allows(&self, found: i64) -> bool {
        (self.acked + self.lowest..=self.acked + self.highest).contains(&found)
    }
}

/// What one step writes: what the ledger must learn, either way.
#[derive(Debug)]
pub(super) struct Effect<T> {
    /// History rows, in order.
    pub(super) history: Vec<u32>,
    /// Rows of the client's own, and what they become.
    pub(super) rows: Vec<(T, String, State)>,
    /// What is added to a place that others add to.
    pub(super) sums: Vec<(T, String, i64)>,
    /// How many writes it counts as.
    pub(super) writes: u64,
}

impl<T> Default for Effect<T> {
    fn default() -> Effect<T> {
        Effect { history: Vec::new(), rows: Vec::new(), sums: Vec::new(), writes: 0 }
    }
}

/// One client's knowledge. `T` names the tables.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    /// Whose.
    pub(super) client: u32,
    /// Of the step that is under way.
    pub(super) effect: Effect<T>,
    /// Sequence numbers of history rows whose commit was acknowledged, in order.
    history: Vec<u32>,
    rows: HashMap<(T, String), Row>,
    sums: HashMap<(T, String), Sum>,
    /// The row that was written last.
    last: Option<(T, String)>,
}

impl<T: Copy + Eq + Hash> Ledger<T> {
    pub(super) fn new(client: u32) -> Ledger<T> {
        Ledger {
            client,
            effect: Effect::default(),
            history: Vec::new(),
            rows: HashMap::new(),
            sums: HashMap::new(),
            last: None,
        }
    }

    /// The step is over. How many writes were acknowledged with it.
    pub(super) fn learn(&mut self, acked: bool) -> u64 {
        let effect = std::mem::take(&mut self.effect);
        if acked {
            self.history.extend(effect.history);
        }
        for (table, key, state) in effect.rows {
            if acked {
                self.wrote(table, key, state);
            } else {
                self.rows.entry((table, key)).or_default().uncertain = Some(state);
            }
        }
        for (table, key, delta) in effect.sums {
            self.sums.entry((table, key)).or_default().add(delta, acked);
        }
        if acked { effect.writes } else { 0 }
    }

    fn wrote(&mut self, table: T, key: String, state: State) {
        self.last = Some((table, key.clone()));
        self.rows.insert((table, key), Row { acked: state, uncertain: None });
    }

    /// The client may write the row: nothing is uncertain.
    pub(super) fn knows(&self, table: T, key: &str) -> bool {
        self.rows.get(&(table, key.to_owned())).is_none_or(|row| row.uncertain.is_none())
    }

    /// The row as it was acknowledged last.
    pub(super) fn state(&self, table: T, key: &str) -> State {
        self.rows.get(&(table, key.to_owned())).and_then(|row| row.acked)
    }

    /// The row that was written last, and the history row.
    pub(super) fn last(&self) -> (Option<(T, &str)>, Option<u32>) {
        (self.last.as_ref().map(|(table, key)| (*table, key.as_str())), self.history.last().copied())
    }

    /// The row may be as it was read: it is what this client wrote last, and nobody else writes it.
    pub(super) fn allows(&self, table: T, key: &str, found: State) -> bool {
        self.rows.get(&(table, key.to_owned())).is_none_or(|row| row.allows(found))
    }

    /// The rows that are not as they must be.
    pub(super) fn wrong(&self, found: &HashMap<(T, String), u64>) -> impl Iterator<Item = &(T, String)> {
        self.rows.iter().filter(|(key, row)| !row.allows(found.get(*key).copied())).map(|(key, _)| key)
    }

    /// How many acknowledged history rows are not among these, which are in order.
    pub(super) fn missing_history(&self, found: impl IntoIterator<Item = u32>) -> u64 {
        // Both are in order: each acknowledged number is met on the way, or was passed.
        let mut acked = self.history.iter().copied().peekable();
        let mut missing = 0;
        for seq in found {
            while acked.next_if(|&acked| acked < seq).is_some() {
                missing += 1;
            }
            acked.next_if_eq(&seq);
        }
        missing + acked.count() as u64
    }

    /// What it added, place by place.
    pub(super) fn sums(&self) -> impl Iterator<Item = (&(T, String), Sum)> {
        self.sums.iter().map(|(place, sum)| (place, *sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "k";

    fn step(ledger: &mut Ledger<()>, state: State, acked: bool) {
        ledger.effect.rows.push(((), KEY.to_owned(), state));
        ledger.learn(acked);
    }

    fn wrong(ledger: &Ledger<()>, found: State) -> u64 {
        ledger.wrong(&found.into_iter().map(|version| (((), KEY.to_owned()), version)).collect()).count() as u64
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut ledger = Ledger::new(1);
        step(&mut ledger, Some(3), true);
        assert_eq!([wrong(&ledger, Some(3)), wrong(&ledger, Some(2)), wrong(&ledger, None)], [0, 1, 1]);
        step(&mut ledger, None, true);
        assert_eq!([wrong(&ledger, Some(3)), wrong(&ledger, None)], [1, 0]);
    }

    #[test]
    fn a_client_reads_what_it_wrote_last() {
        let mut ledger = Ledger::new(1);
        ledger.effect.history.push(7);
        step(&mut ledger, Some(3), true);
        assert_eq!(ledger.last(), (Some(((), KEY)), Some(7)));
        assert!(ledger.allows((), KEY, Some(3)));
        assert!(!ledger.allows((), KEY, Some(2)) && !ledger.allows((), KEY, None));
    }

    #[test]
    fn an_uncertain_write_may_be_there() {
        let mut ledger = Ledger::new(1);
        step(&mut ledger, Some(3), true);
        step(&mut ledger, Some(4), false);
        assert!(!ledger.knows((), KEY));
        assert_eq!([wrong(&ledger, Some(3)), wrong(&ledger, Some(4)), wrong(&ledger, Some(5))], [0, 0, 1]);
    }

    #[test]
    fn only_acknowledged_history_is_missed() {
        let mut ledger = Ledger::<()>::new(1);
        for (seq, acked) in [(1, true), (2, false), (3, true), (5, true)] {
            ledger.effect.history.push(seq);
            ledger.learn(acked);
        }
        assert_eq!(ledger.missing_history([1, 3, 5]), 0);
        assert_eq!(ledger.missing_history([1, 2, 4]), 2);
        assert_eq!(ledger.missing_history([]), 3);
    }

    #[test]
    fn a_sum_lies_between_what_was_acknowledged_and_what_may_have_been_added() {
        let mut sum = Sum::default();
        for (delta, acked) in [(5, true), (3, false), (-2, false)] {
            sum.add(delta, acked);
        }
        let allowed: Vec<i64> = (0..12).filter(|found| sum.allows(*found)).collect();
        assert_eq!(allowed, [3, 4, 5, 6, 7, 8]);
        assert!(sum.plus(sum).allows(6) && !sum.plus(sum).allows(5));
    }
}
