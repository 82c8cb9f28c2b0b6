//! Writes that no key names: functions, triggers, rules, CALL, DO.
//!
//! The primary counts, per table and transaction, the rows that were written, by whomever. A hidden query reads these
//! counts before and after such a statement, in its own transaction and before anything can commit; where they say more
//! than the statement itself accounts for, the table is dirty. It runs under names of its own in the extended protocol,
//! so the client's unnamed statement and portal are left alone.
//!
//! CALL and DO outside a transaction may commit on their way. Before they run, a record says that every table is dirty;
//! when the counts are there, a record that says which ones takes its place, and the first is ended as aborted. Their
//! counts are not compared with earlier ones: a count that PostgreSQL flushed in between would hide a write, while one
//! of an earlier transaction that it did not flush yet only owes too much.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use crate::protocol::postgres::catalog::Catalog;
use crate::protocol::postgres::plan::{Action, Counted, Statement};
use crate::protocol::postgres::wire::{Fields, WireError, back};
use crate::record::{Reason, TableId};

use super::expect::View;
use super::tickets::Mark;
use super::{Out, Session};

/// Statement and portal of the hidden query.
const NAME: &[u8] = b"tandem counts";

/// One statement being counted.
#[derive(Debug, Default)]
pub(super) struct Counting {
    before: HashMap<u32, u64>,
    after: HashMap<u32, u64>,
    /// Tables whose keys the statement itself names.
    own: HashSet<TableId>,
    /// Rows that its command tag claims.
    rows: u64,
    /// The provisional record right below the mark waits for the result.
    provisional: Option<Mark>,
}

/// Hidden writes that a statement may do; `None`: it does none.
pub(super) fn counted(action: &Action) -> Option<&Counted> {
    match action {
        Action::Counted(counted) | Action::Opaque(counted) => Some(counted),
        Action::Evident(evident) => evident.counted.as_ref(),
        Action::Asked(asked) => asked.counted.as_ref(),
        Action::Truncate(truncate) => truncate.counted.as_ref(),
        Action::Ddl(ddl) => ddl.counted.as_ref(),
        _ => None,
    }
}

/// Must the server count? Not where the plan knows all tables that could be written.
pub(super) fn counts(action: &Action) -> bool {
    counted(action).is_some_and(|counted| !counted.alone)
}

fn own(action: &Action) -> HashSet<TableId> {
    match action {
        Action::Evident(evident) => evident.keys.iter().flat_map(|key| &key.tables).map(|table| table.id).collect(),
        Action::Asked(asked) => asked.tables.iter().copied().collect(),
        Action::Truncate(truncate) => truncate.tables.iter().copied().collect(),
        _ => HashSet::new(),
    }
}

impl Session {
    /// Before the statement. `provisional`: it may commit by itself.
    pub(super) fn count_before(&mut self, statement: &Statement, provisional: bool, out: &mut Out<'_>) {
        if self.skipping {
            return;
        }
        let own = own(&statement.action);
        let mark = provisional.then(|| self.tickets.mark());
        self.counting.push_back(Counting { own, provisional: mark, ..Counting::default() });
        if !provisional {
            self.put_count(false, out);
        }
    }

    /// Behind the statement; its answer is needed before anything commits.
    pub(super) fn count_after(&mut self, out: &mut Out<'_>) {
        if !self.skipping {
            self.put_count(true, out);
            self.asking += 1;
            self.flushed = false;
        }
    }

    fn put_count(&mut self, after: bool, out: &mut Out<'_>) {
        let catalog = self.shared.catalog.now().clone();
        let sql = catalog.count_sql.get_or_init(|| query(&catalog));
        self.put_hidden(NAME, sql.as_bytes(), View::Count { after }, out);
    }

    /// A row of counts.
    pub(super) fn count_row(&mut self, after: bool, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(back::DATA_ROW, body);
        fields.u16()?;
        let mut number = || -> Result<u64, WireError> {
            let text = fields.value()?.and_then(|text| std::str::from_utf8(text).ok());
            text.and_then(|text| text.parse().ok()).ok_or(WireError::Malformed(char::from(back::DATA_ROW)))
        };
        let (oid, count) = (number()? as u32, number()?);
        if let Some(counting) = self.counting.front_mut() {
            if after { &mut counting.after } else { &mut counting.before }.insert(oid, count);
        }
        Ok(())
    }

    /// The statement's own command tag.
    pub(super) fn counted_tag(&mut self, tag: &[u8]) {
        let rows = tag.rsplit(|&byte| byte == b' ').next().and_then(|text| std::str::from_utf8(text).ok());
        if let Some(counting) = self.counting.front_mut() {
            counting.rows = rows.and_then(|text| text.trim_end_matches('\0').parse().ok()).unwrap_or(0);
        }
    }

    /// All counts of a statement are there: say which tables are dirty.
    pub(super) fn count_done(&mut self) {
        let Some(counting) = self.counting.pop_front() else { return };
        let catalog = self.shared.catalog.now();
        for table in counting.dirty(&catalog) {
            self.keys.dirty(table, Reason::Uncaptured);
        }
        if let Some(mark) = counting.provisional {
            self.tickets.void(mark);
        }
    }

    /// A provisional record: every table is dirty, unless a better one follows.
    pub(super) fn provisional(&mut self) {
        let mut buf = std::mem::take(&mut self.keys);
        self.dirty_any();
        std::mem::swap(&mut self.keys, &mut buf);
        match self.shared.journal.begin(buf.finish(self.backend)) {
            Ok(ticket) => self.tickets.push_provisional(ticket),
            Err(error) => self.unwritten(&buf, &error),
        }
    }
}

impl Counting {
    fn dirty(&self, catalog: &Catalog) -> Vec<TableId> {
        let (mut written, mut deferred) = (HashMap::<TableId, u64>::new(), false);
        for (oid, after) in &self.after {
            let more = after.saturating_sub(self.before.get(oid).copied().unwrap_or(0));
            if more > 0
                && let Some(relation) = catalog.relations.get(oid)
            {
                written.insert(relation.id, more);
                deferred |= relation.hazards.deferred;
            }
        }
        // What such a trigger writes in the COMMIT nobody can count.
        if deferred {
            return catalog.tables().map(|table| table.id).collect();
        }
        let own: u64 = self.own.iter().filter_map(|table| written.get(table)).sum();
        if own == self.rows && !self.own.is_empty() {
            written.retain(|table, _| !self.own.contains(table));
        }
        // What foreign keys did is among it, and nobody knows that it was only they: where nothing else could write, nothing
        // is counted, and the payment finds their rows.
        written.into_keys().collect()
    }
}

/// Rows written in this transaction, of every table that is mirrored, zeros left out.
fn query(catalog: &Catalog) -> String {
    let mut sql = String::from(
        "SELECT t.o::pg_catalog.text, t.n::pg_catalog.text FROM (SELECT o, \
         pg_catalog.pg_stat_get_xact_tuples_inserted(o) OPERATOR(pg_catalog.+) \
         pg_catalog.pg_stat_get_xact_tuples_updated(o) OPERATOR(pg_catalog.+) \
         pg_catalog.pg_stat_get_xact_tuples_deleted(o) AS n FROM pg_catalog.unnest('{",
    );
    for (number, table) in catalog.tables().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(sql, "{comma}{}", table.oid);
    }
    sql.push_str("}'::pg_catalog.oid[]) AS u (o)) AS t WHERE t.n OPERATOR(pg_catalog.>) 0");
    sql
}
