//! What is lost with an old primary that is gone for good: the last values of the keys that were owed.
//!
//! Nobody has them any more, but somebody may want to know which rows they were: they are kept as a list in the data
//! directory, `switch-lost`, readable by its owner alone, because keys are values of rows (promise 13). What the other side lacks
//! for other reasons is lost too: it is told before, and no list has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::check::{self, Finding};
use crate::cutover::mirror;
use crate::mirror::Handle;
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
    let found = |rule, object| Finding { rule, side: None, object };
    let mut found_all: Vec<Finding> = tables.into_iter().map(told).map(|text| found(rules::KEYS_LOST, text)).collect();
    if owed.len() as u64 > lose {
        found_all.push(found(rules::MORE_KEYS_LOST, format!("{} are owed, and {lose} may be lost", owed.len())));
    }
    found_all
}

/// What is lost besides what is owed: rows that the new primary refused, tables that differ, history that it may not have
/// (`unseen`: tables of which nothing was copied or compared).
pub(super) fn besides(handle: &Handle, unseen: Vec<String>, name: impl Fn(TableId) -> String) -> Vec<Finding> {
    let mut parked: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    let mut changes = Vec::new();
    for entry in handle.parked().list() {
        if entry.change().is_some() {
            changes.push(entry.name);
            continue;
        }
        let (keys, whole) = parked.entry(entry.name).or_default();
        *keys += usize::from(entry.key.is_some());
        *whole |= entry.key.is_none();
    }
    let dirty = handle.dirty().list().into_iter().map(|dirty| name(dirty.table)).collect();
    let (desk, doubts) = (handle.desk(), handle.desk().doubts());
    let copying = desk.copying().map(|number| format!("backfill {number} is under way"));
    let unverified = doubts.unverified.into_iter().map(|table| format!("{table}: copied, and not compared since"));
    let differing = doubts.differing.into_iter().map(|(table, rows)| format!("{table}: {rows} rows differed"));
    let unseen = unseen.into_iter().map(|table| format!("{table}: neither copied nor compared"));
    let mut history: Vec<String> = copying.into_iter().chain(unverified).chain(differing).chain(unseen).collect();
    history.sort_unstable();
    let parked = parked.into_iter().map(told).collect();
    let found = check::each(rules::PARKED_LOST, None, parked).chain(check::each(rules::DIRTY_LOST, None, dirty));
    let found = found.chain(check::each(mirror::SCHEMA_REFUSED, None, changes));
    found.chain(check::each(rules::HISTORY_LOST, None, history)).collect()
}

fn told((name, (keys, whole)): (String, (usize, bool))) -> String {
    if whole { format!("{name}: any of its rows") } else { format!("{name}: {keys} keys") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::{Kind, Request};
    use crate::journal::Journal;
    use crate::mirror::state::copier::{Owed, Paid, Refused};
    use crate::mirror::state::{Config, Paths};
    use crate::record::Reason;

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
    async fn what_the_new_primary_lacks_for_other_reasons_is_found_too_promise_6() {
        let handle = Paths::in_memory().handle(&Config::default(), Journal::in_memory()).expect("in memory");
        let look = |unseen: &[&str]| {
            let found = besides(&handle, unseen.iter().map(|&name| name.to_owned()).collect(), name);
            found.into_iter().map(|found| format!("{} {}", found.rule.name, found.object)).collect::<Vec<_>>()
        };
        assert_eq!(look(&[]), Vec::<String>::new());
        let refused = |table, key: &[u8]| Refused {
            table: TableId(table),
            name: if table == 0 { "view v".into() } else { name(TableId(table)) },
            key: Some(key.into()),
            shown: String::new(),
            why: String::new(),
        };
        let paid = Paid { refused: vec![refused(1, b"k"), refused(1, b"l"), refused(0, b"change")], ..Paid::default() };
        handle.parked().paid(&Owed::default(), &paid, true).await.expect("in memory");
        handle.mark_dirty(&[TableId(2)], Reason::Uncaptured).expect("in memory");
        handle.desk().start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
        let expected = [
            "parked_lost t1: 2 keys",
            "dirty_lost t2",
            "schema_refused view v",
            "history_lost backfill 1 is under way",
            "history_lost t3: neither copied nor compared",
        ];
        assert_eq!(look(&["t3"]), expected);
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
