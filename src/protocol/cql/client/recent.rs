//! A bounded memory of what was used last. Two generations: what is used moves to the young one, and when that is full the
//! old one is forgotten, so each use costs a look or two and nothing is ever sorted.

use std::collections::HashMap;
use std::hash::Hash;

/// See the module's page.
pub(in crate::protocol::cql) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Recent<K, V> {
    /// Keeps at most so many, and one.
    pub(in crate::protocol::cql) fn of(most: usize) -> Recent<K, V> {
        Recent { young: HashMap::new(), old: HashMap::new(), half: (most / 2).max(1) }
    }

    /// What is remembered under this key.
    pub(in crate::protocol::cql) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = self.old.remove_entry(key)?;
        self.insert(key, found.clone());
        Some(found)
    }

    /// Remember it, instead of what was there.
    pub(in crate::protocol::cql) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut recent = Recent::of(4);
        recent.insert(-1, "used");
        for n in 0..100 {
            recent.insert(n, "once");
            assert_eq!(recent.get(&-1), Some("used"), "after {n}");
            assert!(recent.young.len() + recent.old.len() <= 5);
        }
        assert_eq!(recent.get(&0), None);
    }

    #[test]
    fn the_newest_value_of_a_key_counts() {
        let mut recent = Recent::of(2);
        for n in 0..10 {
            recent.insert("key", n);
            assert_eq!(recent.get(&"key"), Some(n));
        }
    }
}
