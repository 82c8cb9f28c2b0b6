//! Writers that go past the proxy, as far as the primary's statistics show them.
//!
//! The primary counts the rows written to each table, by whomever. Where they become more though nobody wrote to the
//! table through tandem for a whole window of the journal (`journal/announce.rs`), which is far longer than a backend
//! keeps its counts to itself, somebody else writes: the table is named, and dirty. A table that is written on both ways
//! is not told apart: what a statement through tandem counts there is not known exactly enough. Nor is anything while a CALL or
//! DO through tandem that may write anywhere is under way, or ended since the last look: only its own counts say to which tables
//! it wrote, and these are announced then. A database that runs one every ten seconds is not looked at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::record::{Reason, Side, TableId};

use super::catalog::{Catalog, Relation};
use super::client::{Client, DataRow, Error, ServerConfig};
use super::shared::Shared;

/// How often the primary is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const LOOK: Duration = Duration::from_secs(30);

const COUNTS: &str = "SELECT relid, n_tup_ins, n_tup_upd + n_tup_del FROM pg_catalog.pg_stat_user_tables";

/// Rows that the primary counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    inserted: u64,
    /// Updated or deleted.
    changed: u64,
}

impl Count {
    /// What came since; `None`: the server forgot its counts.
    fn since(self, last: Count) -> Option<Count> {
        let inserted = self.inserted.checked_sub(last.inserted)?;
        Some(Count { inserted, changed: self.changed.checked_sub(last.changed)? })
    }
}

/// Units that may write to any table and are counted behind it.
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    begun: AtomicU64,
    over: AtomicU64,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Anywhere(Arc<Uncounted>);

impl Uncounted {
    pub(super) fn begin(self: &Arc<Uncounted>) -> Anywhere {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Anywhere(self.clone())
    }

    /// Is one under way, or over since the last look, which left how many were over in `seen`?
    fn may_have_written(&self, seen: &mut u64) -> bool {
        let over = self.over.load(Ordering::SeqCst);
        let before = std::mem::replace(seen, over);
        over != before || over != self.begun.load(Ordering::SeqCst)
    }
}

impl Drop for Anywhere {
    fn drop(&mut self) {
        self.0.over.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the primary counted when it was asked last, by oid. The first answer, a while after the start, is the baseline:
/// until then backends of an earlier run may still report theirs.
#[derive(Default)]
struct Watch {
    last: HashMap<u32, Count>,
}

impl Watch {
    /// The tables that were written though `captured` says that nothing went through tandem, with the rows that came.
    fn compare(
        &mut self,
        now: HashMap<u32, Count>,
        catalog: &Catalog,
        captured: impl Fn(TableId) -> bool,
    ) -> Vec<(Arc<Relation>, u64)> {
        let more = |(oid, count): (&u32, &Count)| Some((*oid, count.since(*self.last.get(oid)?)?));
        let grown = now.iter().filter_map(more).filter(|(_, more)| more.inserted + more.changed > 0);
        let known = grown.filter_map(|(oid, more)| Some((catalog.relations.get(&oid)?.clone(), more)));
        // Foreign keys insert nothing.
        let strange = |table: &Relation, more: Count| !reached(table.oid, more.inserted == 0, catalog, &captured);
        let found = known.filter(|(table, more)| strange(table, *more));
        let mut found: Vec<_> = found.map(|(table, more)| (table, more.inserted + more.changed)).collect();
        found.sort_by_key(|(table, _)| table.oid);
        self.last = now;
        found
    }
}

/// Was the table captured, or, where `acted` may be, one whose foreign keys act on it?
fn reached(table: u32, acted: bool, catalog: &Catalog, captured: &impl Fn(TableId) -> bool) -> bool {
    let (mut open, mut seen) = (vec![table], HashSet::from([table]));
    while let Some(oid) = open.pop() {
        let Some(relation) = catalog.relations.get(&oid) else { continue };
        if captured(relation.id) {
            return true;
        }
        let acting = catalog.foreign_keys.iter().filter(|key| acted && key.child == oid && key.acts());
        let parents = acting.map(|key| key.parent);
        open.extend(parents.chain(relation.parents.iter().copied()).filter(|&oid| seen.insert(oid)));
    }
    false
}

/// Ask until stopped. What the primary does not answer is asked again.
pub async fn run(shared: Arc<Shared>, side: Side, server: Arc<ServerConfig>, stop: CancellationToken) {
    let (mut watch, mut client) = (Watch::default(), None);
    let (mut named, mut seen) = (HashSet::new(), 0);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let asked = timeout(LOOK, counts(&shared, side, &server, &mut client));
        let now = match stop.run_until_cancelled(asked).await {
            Some(Ok(Ok(now))) => now,
            None => return,
            Some(why) => {
                tracing::debug!(?why, "the primary's counts cannot be read");
                client = None;
                continue;
            }
        };
        if stop.is_cancelled() {
            return; // What the mirror does to an old primary is not a stranger's.
        }
        let catalog = shared.catalog.now().clone();
        let mut written = Vec::new();
        let anywhere = shared.uncounted.may_have_written(&mut seen);
        let captured = |table: TableId| anywhere || shared.journal.is_announced(table.0);
        for (table, rows) in watch.compare(now, &catalog, captured) {
            if named.insert(table.id) {
                let table = table.sql();
                tracing::warn!(table, rows, "somebody writes to this table past tandem: it is dirty");
            }
            metrics::BYPASSED_ROWS_TOTAL.counter(&[("wire", "postgres")]).increment(rows);
            written.push(table.id);
        }
        if !written.is_empty() {
            (shared.lost)(&written, Reason::Counts);
        }
    }
}

async fn counts(
    shared: &Shared,
    side: Side,
    server: &ServerConfig,
    client: &mut Option<Client>,
) -> Result<HashMap<u32, Count>, Error> {
    let conn = shared.catalog.connected(side, server, client).await?;
    let count = |row: &DataRow| Ok((row.parse(0)?, Count { inserted: row.parse(1)?, changed: row.parse(2)? }));
    conn.simple(COUNTS).await?.iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::analysis::schema::catalog;

    fn names(found: Vec<(Arc<Relation>, u64)>) -> Vec<(String, u64)> {
        found.into_iter().map(|(table, rows)| (table.name.clone(), rows)).collect()
    }

    fn changed(changed: u64) -> Count {
        Count { inserted: 0, changed }
    }

    #[test]
    fn a_table_that_grows_while_nobody_writes_to_it_through_tandem_is_named() {
        let (catalog, mut watch) = (catalog(), Watch::default());
        let nobody = |_| false;
        let counts = |acc, pair| HashMap::from([(1, changed(acc)), (2, changed(pair)), (999, changed(acc))]);
        assert!(names(watch.compare(counts(5, 5), &catalog, nobody)).is_empty(), "the first answer");
        assert_eq!(names(watch.compare(counts(5, 7), &catalog, nobody)), [("pair".to_owned(), 2)]);
        assert!(names(watch.compare(counts(5, 7), &catalog, nobody)).is_empty(), "nothing more came");
        assert!(names(watch.compare(counts(0, 1), &catalog, nobody)).is_empty(), "a server that forgot its counts");
        let pair = TableId::of("public", "pair");
        assert_eq!(names(watch.compare(counts(1, 9), &catalog, |table| table == pair)), [("acc".to_owned(), 1)]);
    }

    #[test]
    fn what_may_be_of_a_unit_that_writes_anywhere_is_nobodys_until_it_is_over_and_looked_at_once_more() {
        let (units, mut seen) = (Arc::<Uncounted>::default(), 0);
        assert!(!units.may_have_written(&mut seen));
        let (first, second) = (units.begin(), units.begin());
        assert!(units.may_have_written(&mut seen));
        drop(first);
        assert!(units.may_have_written(&mut seen) && units.may_have_written(&mut seen), "one is under way");
        drop(second);
        assert!(units.may_have_written(&mut seen), "it may have been counted behind the last look");
        assert!(!units.may_have_written(&mut seen));
        drop(units.begin());
        assert!(units.may_have_written(&mut seen) && !units.may_have_written(&mut seen));
    }

    #[test]
    fn what_foreign_keys_do_to_a_table_is_not_a_stranger() {
        let (catalog, mut watch) = (catalog(), Watch::default());
        let acc = TableId::of("public", "acc");
        for count in [1, 5] {
            let counts = HashMap::from([(24, changed(count))]);
            assert!(names(watch.compare(counts, &catalog, |table| table == acc)).is_empty(), "acc cascades to ref");
        }
        let more = HashMap::from([(24, changed(9))]);
        assert_eq!(names(watch.compare(more, &catalog, |_| false)), [("ref".to_owned(), 4)]);
        let inserted = HashMap::from([(24, Count { inserted: 1, changed: 9 })]);
        assert_eq!(
            names(watch.compare(inserted, &catalog, |table| table == acc)),
            [("ref".to_owned(), 1)],
            "foreign keys insert nothing"
        );
    }
}
