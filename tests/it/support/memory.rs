//! What clients were told: the last acknowledged state of each of their rows, and what may have happened beside it. Both
//! sides must agree with it in the end.

use std::collections::HashMap;

use super::rows;

/// A row's state: its version, or absent.
pub(crate) type State = Option<u64>;

/// What one unit does if it commits.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// The row of this table and key is then in this state. Only its client writes it.
    Row(&'static str, String, State),
    /// This row of `hot` is then greater by one. Everybody writes it.
    Bump(i32),
}

#[derive(Clone, Debug, Default)]
struct Row {
    acked: State,
    doubts: Vec<State>,
}

/// What one client knows, or all of them.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    rows: HashMap<(&'static str, String), Row>,
    /// Per hot row: acknowledged and doubtful increments.
    bumps: HashMap<i32, (u64, u64)>,
}

impl Memory {
    /// A unit was acknowledged, or (not `acked`) its answer was lost.
    pub(crate) fn learn(&mut self, effects: Vec<Effect>, acked: bool) {
        for effect in effects {
            match effect {
                Effect::Row(table, key, state) => {
                    let row = self.rows.entry((table, key)).or_default();
                    if acked { *row = Row { acked: state, doubts: Vec::new() } } else { row.doubts.push(state) }
                }
                Effect::Bump(id) => {
                    let (sure, doubtful) = self.bumps.entry(id).or_default();
                    *(if acked { sure } else { doubtful }) += 1;
                }
            }
        }
    }

    /// Nothing about the row is in doubt: its client may write it and know what came of it.
    pub(crate) fn is_sure(&self, table: &'static str, key: &str) -> bool {
        self.rows.get(&(table, key.to_owned())).is_none_or(|row| row.doubts.is_empty())
    }

    /// The row is there, for sure.
    pub(crate) fn has(&self, table: &'static str, key: &str) -> bool {
        self.rows.get(&(table, key.to_owned())).is_some_and(|row| row.acked.is_some() && row.doubts.is_empty())
    }

    /// Its version, as acknowledged.
    pub(crate) fn version(&self, table: &'static str, key: &str) -> State {
        self.rows.get(&(table, key.to_owned())).and_then(|row| row.acked)
    }

    /// All that another client knows, too.
    pub(crate) fn merge(&mut self, other: Memory) {
        self.rows.extend(other.rows);
        for (id, (sure, doubtful)) in other.bumps {
            let known = self.bumps.entry(id).or_default();
            *known = (known.0 + sure, known.1 + doubtful);
        }
    }

    /// What of it the server does not have, or has and nobody asked for.
    pub(crate) async fn wrong(&self, url: &str, tables: &[(&'static str, &str)]) -> Vec<String> {
        let mut found = HashMap::new();
        for (table, key) in tables {
            for line in rows(url, &format!("SELECT {key}, version FROM {table}")).await {
                let (key, version) = line.rsplit_once('|').expect("two columns");
                found.insert((*table, key.to_owned()), version.parse().expect("a version"));
            }
        }
        let mut wrong = Vec::new();
        for (key, row) in &self.rows {
            let state = found.get(key).copied();
            if row.acked != state && !row.doubts.contains(&state) {
                wrong.push(format!("{key:?} is {state:?}, the client knows {row:?}"));
            }
        }
        let strange = found.keys().filter(|key| !self.rows.contains_key(*key));
        wrong.extend(strange.map(|key| format!("{key:?} was never written")));
        for line in rows(url, "SELECT id, n FROM hot").await {
            let (id, n) = line.split_once('|').expect("two columns");
            let (id, n): (i32, u64) = (id.parse().expect("a number"), n.parse().expect("a number"));
            let (sure, doubtful) = self.bumps.get(&id).copied().unwrap_or_default();
            if !(sure..=sure + doubtful).contains(&n) {
                wrong.push(format!("hot {id} is {n}, of {sure} acknowledged and {doubtful} doubtful increments"));
            }
        }
        wrong
    }

    /// Every acknowledged write is there, and nothing that was never asked for.
    pub(crate) async fn assert_kept(&self, side: &str, url: &str, tables: &[(&'static str, &str)]) {
        assert_eq!(self.wrong(url, tables).await, Vec::<String>::new(), "{side}");
    }
}

#[test]
fn a_memory_knows_what_it_was_told_and_what_is_in_doubt() {
    let mut memory = Memory::default();
    let row = |state| vec![Effect::Row("t", "k".to_owned(), state)];
    memory.learn(row(Some(1)), true);
    assert!(memory.has("t", "k") && memory.is_sure("t", "k"));
    memory.learn(row(None), false);
    assert!(!memory.has("t", "k") && !memory.is_sure("t", "k") && memory.is_sure("t", "other"));
}
