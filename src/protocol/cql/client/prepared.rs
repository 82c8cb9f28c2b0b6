//! Statements that were prepared, and a bounded memory of them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::cql::wire::types::Type;

/// A statement that a server keeps. Good on every connection: who executes it where it is not known prepares it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its text.
    pub text: Box<str>,
    /// For names without one.
    pub keyspace: Option<Box<str>>,
    /// For EXECUTE.
    pub(super) id: Bytes,
    /// For EXECUTE, since v5.
    pub(super) result_metadata_id: Option<Bytes>,
    /// Its markers: the column's name or the marker's own, and the type.
    pub markers: Vec<(String, Type)>,
    /// Which markers make up the partition key, in its order; empty where some part of the key has no marker.
    pub pk_indexes: Vec<u16>,
}

/// The statements that were used last, up to a number. Two generations: what is used moves to the young one, and when
/// that is full the old one is forgotten, so each costs a look or two and nothing is ever sorted.
#[derive(Default)]
pub(super) struct Memory {
    young: HashMap<Key, Arc<Prepared>>,
    old: HashMap<Key, Arc<Prepared>>,
    half: usize,
}

type Key = (Option<Box<str>>, Box<str>);

impl Memory {
    pub(super) fn of(statements: usize) -> Memory {
        Memory { half: (statements / 2).max(1), ..Memory::default() }
    }

    pub(super) fn get(&mut self, text: &str, keyspace: Option<&str>) -> Option<Arc<Prepared>> {
        let key = (keyspace.map(Box::from), Box::from(text));
        if let Some(found) = self.young.get(&key) {
            return Some(found.clone());
        }
        let found = self.old.remove(&key)?;
        self.insert(found.clone());
        Some(found)
    }

    pub(super) fn insert(&mut self, prepared: Arc<Prepared>) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert((prepared.keyspace.clone(), prepared.text.clone()), prepared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str, keyspace: Option<&str>) -> Arc<Prepared> {
        Arc::new(Prepared {
            text: text.into(),
            keyspace: keyspace.map(Box::from),
            id: Bytes::copy_from_slice(text.as_bytes()),
            result_metadata_id: None,
            markers: Vec::new(),
            pk_indexes: Vec::new(),
        })
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut memory = Memory::of(4);
        memory.insert(prepared("used", None));
        for n in 0..100 {
            memory.insert(prepared(&n.to_string(), None));
            assert!(memory.get("used", None).is_some(), "after {n}");
            assert!(memory.young.len() + memory.old.len() <= 5);
        }
        assert!(memory.get("0", None).is_none());
    }

    #[test]
    fn the_same_text_means_another_statement_in_another_keyspace() {
        let mut memory = Memory::of(4);
        memory.insert(prepared("t", Some("a")));
        assert!(memory.get("t", None).is_none() && memory.get("t", Some("b")).is_none());
        assert_eq!(memory.get("t", Some("a")), Some(prepared("t", Some("a"))));
    }
}
