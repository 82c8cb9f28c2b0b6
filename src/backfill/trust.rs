//! How the history of each table stands, for whoever is about to rely on it: copied and not compared since, or compared
//! and found to differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::job::Job;
use crate::record::TableId;

/// What speaks against a switch. Tables by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Copied, and not compared since.
    pub unverified: Vec<String>,
    /// Found to differ, and not to be equal since: how many rows.
    pub differing: Vec<(String, u64)>,
}

/// What is kept of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Trust(BTreeMap<u64, Table>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Table {
    name: String,
    unverified: bool,
    differing: u64,
    /// Of its parts, too.
    #[serde(default)]
    labels: BTreeSet<u64>,
}

impl Trust {
    /// Rows of the table were copied.
    pub(super) fn copied(&mut self, table: TableId, name: &str, labels: &[u64]) {
        let known = self.of(table, name);
        known.unverified = true;
        known.labels.extend(labels);
    }

    /// The job is over, or will go no further.
    pub(super) fn learn(&mut self, job: &Job) {
        for (table, name, differing) in job.verdicts() {
            let known = self.of(table, name);
            // Of columns and rows that were not compared nobody knows more than before.
            let unverified = known.unverified && job.is_partial(table);
            (known.name, known.unverified, known.differing) = (name.to_owned(), unverified, differing);
            known.labels.extend(job.labels(table).map(|label| label.0));
        }
        for (table, name, differing) in job.found() {
            let known = self.of(table, name);
            known.differing = differing;
            known.labels.extend(job.labels(table).map(|label| label.0));
        }
    }

    /// The side that was written is no longer written. Those of which something spoke against a switch, with labels of parts.
    pub(super) fn forget(&mut self) -> Vec<(TableId, BTreeSet<u64>)> {
        let doubtful = std::mem::take(&mut self.0).into_iter().filter(|(_, of)| of.unverified || of.differing > 0);
        doubtful.map(|(table, of)| (TableId(table), of.labels)).collect()
    }

    /// Nothing is said of these tables any more; whether anything was.
    pub(super) fn leave_out(&mut self, labels: &BTreeSet<TableId>) -> bool {
        let known = self.0.len();
        self.0.retain(|table, _| !labels.contains(&TableId(*table)));
        self.0.len() < known
    }

    /// What speaks against a switch now. What the job that is under way has found so far counts as well.
    pub(super) fn doubts(&self, current: Option<&Job>) -> Doubts {
        let mut now = self.clone();
        current.into_iter().for_each(|job| now.learn(job));
        let tables = || now.0.values();
        Doubts {
            unverified: tables().filter(|of| of.unverified).map(|of| of.name.clone()).collect(),
            differing: tables().filter(|of| of.differing > 0).map(|of| (of.name.clone(), of.differing)).collect(),
        }
    }

    fn of(&mut self, table: TableId, name: &str) -> &mut Table {
        let new = || Table { name: name.to_owned(), unverified: false, differing: 0, labels: BTreeSet::new() };
        self.0.entry(table.0).or_insert_with(new)
    }
}
