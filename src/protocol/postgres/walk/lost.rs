//! What is lost with an old primary that is gone for good: the last values of the keys that were owed.
//!
//! Nobody has them any more, but somebody may want to know which rows they were: they are kept as a list in the data
//! directory, `switch-lost`, readable by its owner alone, because keys are values of rows (promise 13).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::check::Finding;
use crate::mirror::dirty::unix_now;
use crate::mirror::durable::{Durable, Error};
use crate::protocol::postgres::key;
use crate::record::TableId;

use super::rules;

/// A key; without one, all of a table.
pub(super) type Key = (TableId, Option<Box<[u8]>>);

/// The list, of every switch that gave a primary up.
pub(super) struct List(Durable);

#[derive(Default, Serialize, Deserialize)]
struct Page(Vec<Given>);

/// One switch.
#[derive(Serialize, Deserialize)]
struct Given {
    /// Seconds since the epoch.
    at_unix: u64,
    /// Keys by table, as an operator may read them; of a table without any, all rows may differ.
    tables: BTreeMap<String, Vec<String>>,
}

impl List {
    pub(super) fn in_dir(dir: &Path) -> List {
        List(Durable::in_dir(dir, "switch-lost"))
    }

    /// Add what was owed. Durable when it resolves.
    ///
    /// # Errors
    /// The disk said no, or the file is not ours.
    pub(super) async fn add(&self, owed: &BTreeSet<Key>, name: impl Fn(TableId) -> String) -> Result<(), Error> {
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (table, key) in owed {
            let keys = tables.entry(name(*table)).or_default();
            keys.extend(key.iter().map(|key| key::shown(key)));
        }
        let mut page: Page = self.0.load()?.unwrap_or_default();
        page.0.push(Given { at_unix: unix_now(), tables });
        self.0.save_aside(&page).await
    }
}

/// What a switch without the old primary would lose.
pub(super) fn findings(owed: &BTreeSet<Key>, lose: u64, name: impl Fn(TableId) -> String) -> Vec<Finding> {
    let mut tables: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    for (table, key) in owed {
        let (keys, whole) = tables.entry(name(*table)).or_default();
        *keys += usize::from(key.is_some());
        *whole |= key.is_none();
    }
    let told = |(name, (keys, whole)): (String, (usize, bool))| match whole {
        true => format!("{name}: any of its rows"),
        false => format!("{name}: {keys} keys"),
    };
    let found = |rule, object| Finding { rule, side: None, object };
    let mut found_all: Vec<Finding> = tables.into_iter().map(told).map(|text| found(rules::KEYS_LOST, text)).collect();
    if owed.len() as u64 > lose {
        found_all.push(found(rules::MORE_KEYS_LOST, format!("{} are owed, and {lose} may be lost", owed.len())));
    }
    found_all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: TableId) -> String {
        format!("t{}", table.0)
    }

    #[test]
    fn more_than_may_be_lost_refuses() {
        let owed = BTreeSet::from([(TableId(1), Some([7].into())), (TableId(1), Some([8].into())), (TableId(2), None)]);
        let named = |lose| findings(&owed, lose, name).iter().map(|one| one.rule.name).collect::<Vec<_>>();
        assert_eq!(named(3), ["keys_lost", "keys_lost"]);
        assert_eq!(named(2), ["keys_lost", "keys_lost", "more_keys_lost"]);
        assert_eq!(findings(&owed, 3, name)[1].object, "t2: any of its rows");
    }

    #[tokio::test]
    async fn what_was_lost_before_stays_on_the_list() {
        let list = List(Durable::in_memory("lost"));
        for table in [1, 2] {
            list.add(&BTreeSet::from([(TableId(table), None)]), name).await.expect("written");
        }
        let page: Page = list.0.load().expect("readable").expect("there");
        let tables: Vec<_> = page.0.iter().flat_map(|given| given.tables.keys()).collect();
        assert_eq!(tables, ["t1", "t2"]);
    }
}
