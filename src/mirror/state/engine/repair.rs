//! Dirty tables that nobody keeps so: small ones are owed whole, large ones walked over.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::mirror::handle::owe;
use crate::record::{RecordBuf, TableId};

use super::super::copier::{self, Copier};
use super::{Engine, Error};

/// How long it is believed how large a table is.
const MEASURED: Duration = Duration::from_secs(600);

impl<C: Copier> Engine<C> {
    /// A table is dirty that no open unit keeps so. The first repair is not waited for, only the next ones are: a table
    /// that is dirtied all the time is copied once in `repair_every`.
    pub(super) fn repairable(&self) -> bool {
        self.config.self_repair && self.dirty_tables().any(|table| !self.ledger.may_dirty(table))
    }

    /// Those that a payment can make equal: what is said of none is for an operator, and what may be written to by what no
    /// journal has is waited for.
    fn dirty_tables(&self) -> impl Iterator<Item = TableId> {
        self.dirty
            .list()
            .into_iter()
            .map(|dirty| dirty.table)
            .filter(|table| *table != TableId::NONE && !self.dirty.awaits(*table))
    }

    /// A full journal is tried again with the next turn.
    pub(super) async fn repair(&mut self) -> Result<(), Error> {
        let dirty: Vec<TableId> = self.dirty_tables().collect();
        if !self.measure(&dirty).await? {
            return Ok(());
        }
        let (large, small): (Vec<TableId>, Vec<TableId>) =
            dirty.into_iter().partition(|table| self.large.0.get(table) == Some(&true));
        // What is under way may be answering the marks.
        if !large.is_empty() && !self.desk.is_busy() {
            self.desk.mend(large);
        }
        for table in small {
            let mut record = RecordBuf::default();
            record.table(table);
            if owe(&self.journal, &mut record).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Which of these tables are large. What a walk leaves out, or does not know, or cannot compare in all of its columns, is
    /// not: no walk would find it clean. False: that cannot be told now.
    async fn measure(&mut self, tables: &[TableId]) -> Result<bool, Error> {
        let now = Instant::now();
        let (known, at) = &self.large;
        if now.duration_since(*at) < MEASURED && tables.iter().all(|table| known.contains_key(table)) {
            return Ok(true);
        }
        let found = match self.copier.survey().await {
            // A table that was taken for small would be one payment, however long.
            Err(copier::Error::Stale(why)) => {
                debug!(why, "dirty tables are measured later");
                return Ok(false);
            }
            found => found?,
        };
        self.last_contact = now;
        let is_large = |table: &TableId| {
            let of = found.iter().find(|one| one.labels.contains(table));
            let walked = of.filter(|one| one.refused.is_none() && one.not_compared.is_empty());
            walked.is_some_and(|one| one.bytes > self.config.whole_bytes_max)
        };
        self.large = (tables.iter().map(|table| (*table, is_large(table))).collect(), now);
        Ok(true)
    }
}
