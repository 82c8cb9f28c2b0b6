//! The schema changes of a payment: repeated in their order before its rows, and what is done about rows that are in the way.

use std::collections::HashSet;
use std::sync::Arc;

use crate::mirror::state::copier::Refused;
use crate::protocol::postgres::schema_change::{self, Manner};
use crate::record::TableId;

use super::super::debt::{Debt, Debts, refused_table};
use super::super::empty::empty;
use super::super::link::{Link, beside};
use super::super::repeat::{Done, Refusal, read_under, repeat};
use super::super::rows::delete;
use super::super::schema::{Home, Pair};
use super::super::steps::Steps;
use super::super::trouble::Trouble;
use super::super::{change, piece};
use super::gather::{large, owe_keys};
use super::{Payment, Repeated};

/// A schema change that waits for rows.
pub(super) struct Postponed<'p> {
    table: TableId,
    body: &'p [u8],
    /// Rows contradict it; else it only follows one of those.
    contradicted: bool,
}

/// A schema change that the secondary does not take.
pub(super) struct RefusedChange<'p> {
    pub(super) table: TableId,
    pub(super) body: &'p [u8],
    pub(super) refusal: Refusal,
}

impl<'p> Payment<'p> {
    /// With schema changes to repeat: begin the transaction with them. Returns those that the secondary refused.
    ///
    /// Rows that contradict a change may be rows of this payment: the primary had written them when it took the change. These
    /// are taken away before all changes, which then happen in their order, and come as they are at S behind them. Where that
    /// is no help, the change waits for the rows, and what follows it for the change.
    pub(super) async fn begin_and_repeat_ddl(&mut self) -> Result<Vec<RefusedChange<'p>>, Trouble> {
        if self.owed.ddl.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(repeated) = self.link.repeated.take() {
            return Ok(self.take_over(repeated));
        }
        let ddl = self.ddl();
        self.add_to_enums(&ddl).await?;
        loop {
            let (mut refused, mut again) = (Vec::new(), !self.begin_and_clear().await?);
            if !again {
                refused = self.repeat_ddl(&ddl).await?;
            }
            let were_cleared = self.cleared.clone();
            for it in refused.iter().filter(|it| it.table != TableId::NONE) {
                if were_cleared.contains(&it.table) {
                    self.cleared.remove(&it.table);
                    again |= self.kept.insert(it.table);
                } else if it.refusal.is_of_rows() && !self.kept.contains(&it.table) {
                    again |= self.cleared.insert(it.table);
                }
            }
            if !again {
                let (conn, manner) = (&mut self.link.secondary, Manner::plain(&self.link.search_path));
                read_under(conn, &manner).await.map_err(Trouble::Secondary)?;
                return Ok(refused);
            }
            self.roll_back().await?;
        }
    }

    /// They were repeated before S.
    fn take_over(&mut self, Repeated { refused, parted }: Repeated) -> Vec<RefusedChange<'p>> {
        (self.begun, self.parted) = (true, parted);
        let owed = &self.owed.ddl;
        let change = |(at, refusal): (usize, Refusal)| RefusedChange { table: owed[at].0, body: &owed[at].1, refusal };
        refused.into_iter().map(change).collect()
    }

    /// The schema changes to repeat.
    pub(super) fn ddl(&self) -> Vec<(TableId, &'p [u8])> {
        let owed = self.owed.ddl.iter().map(|(table, body)| (*table, &body[..]));
        owed.filter(|(table, body)| !self.link.schema.excludes(*table) && !self.is_renamed(*table, body)).collect()
    }

    /// A value that is added to an enum cannot be used before it is committed. In its turn it is there already, or its type
    /// is made in the same transaction, and then it can be used.
    pub(super) async fn add_to_enums(&mut self, ddl: &[(TableId, &'p [u8])]) -> Result<(), Trouble> {
        for (_, body) in ddl.iter().filter(|(_, body)| adds_to_enum(body)) {
            let (conn, pulse) = (&mut self.link.secondary, self.link.options.pulse());
            conn.simple("BEGIN").await.map_err(Trouble::Secondary)?;
            let _ = beside(&mut self.link.primary, pulse, repeat(conn, TableId::NONE, body)).await?;
            conn.simple("COMMIT").await.map_err(Trouble::Secondary)?;
        }
        Ok(())
    }

    /// Begin, and take away what the payment brings anew of tables of which that is wanted. False: they do not let go of it.
    pub(super) async fn begin_and_clear(&mut self) -> Result<bool, Trouble> {
        self.link.secondary.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        self.begun = true;
        if self.cleared.is_empty() {
            return Ok(true);
        }
        self.load().await?;
        let schema = &self.link.schema;
        let homes: HashSet<TableId> =
            self.cleared.iter().filter_map(|table| Some(schema.cleared(*table)?.0.id)).collect();
        let mut debts = Debts::new();
        for (&table, keys) in &self.owed.keys {
            let Some((pair, places)) = schema.cleared(table).filter(|(pair, _)| homes.contains(&pair.id)) else {
                continue;
            };
            let (unfit, layout) = (self.link.unfit.contains(&pair.id), schema.layout(table));
            let debt = debts.entry(pair.id).or_insert_with(|| Debt::new(Arc::new(pair)));
            owe_keys(debt, keys, places.as_deref(), layout.filter(|_| !unfit), &|_| false);
        }
        for table in self.owed.tables.iter().filter(|table| homes.contains(table)) {
            let Some((pair, _)) = schema.cleared(*table).filter(|(pair, _)| pair.id == *table) else { continue };
            debts.entry(pair.id).or_insert_with(|| Debt::new(Arc::new(pair))).whole = true;
        }
        let large = large(self.link, &debts, self.options).await?;
        if !large.is_empty() {
            // They are mended by a walk: without their rows they would be for as long as that takes.
            let schema = &self.link.schema;
            let is_large = |table: &TableId| {
                schema.cleared(*table).is_some_and(|(pair, _)| large.iter().any(|(table, _)| *table == pair.id))
            };
            self.kept.extend(self.cleared.extract_if(|table| is_large(table)));
            return Ok(false);
        }
        let emptied = empty(self.link, &debts, self.options.whole_bytes_max, &mut self.begun).await?;
        let mut steps = Steps::default();
        for (_, debt) in debts.iter().filter(|(id, _)| !emptied.contains(id)) {
            delete(self.link, debt, &debt.sorted(), self.options.batch_keys, &mut steps).await?;
        }
        steps.put_sync(self.link);
        match steps.settle(self.link).await {
            Err(Trouble::Table(..) | Trouble::Missing(..)) => {
                self.kept.extend(self.cleared.drain());
                Ok(false)
            }
            settled => settled.map(|()| true),
        }
    }

    pub(super) async fn repeat_ddl(&mut self, ddl: &[(TableId, &'p [u8])]) -> Result<Vec<RefusedChange<'p>>, Trouble> {
        let (mut refused, pulse) = (Vec::new(), self.link.options.pulse());
        self.behind_rows.clear();
        let others = self.owed.ddl.iter().filter(|(table, body)| !ddl.contains(&(*table, &body[..])));
        let by_hand = others.filter(|(_, body)| takes_away(body).is_some());
        self.parted = by_hand.map(|(table, _)| (*table, false)).collect();
        for &(table, body) in ddl {
            let behind = |contradicted| Postponed { table, body, contradicted };
            if self.waits(table, body) {
                self.behind_rows.push(behind(false));
                continue;
            }
            let conn = &mut self.link.secondary;
            match beside(&mut self.link.primary, pulse, repeat(conn, table, body)).await? {
                Ok(Done::Now) => self.parted.extend(takes_away(body).map(|known| (table, known))),
                Err(refusal) if refusal.is_of_rows() => match self.cannot_clear(table, &refusal) {
                    true => self.behind_rows.push(behind(true)),
                    false => refused.push(RefusedChange { table, body, refusal }),
                },
                // It may need what waits.
                _ if !self.behind_rows.is_empty() => self.behind_rows.push(behind(false)),
                Ok(Done::Before) => self.parted.extend(takes_away(body).map(|_| (table, false))),
                Err(refusal) => refused.push(RefusedChange { table, body, refusal }),
            }
        }
        Ok(refused)
    }

    /// A change follows another one that waits for rows, of the same table, or of none: then nobody knows of what.
    fn waits(&self, table: TableId, body: &[u8]) -> bool {
        let makes = || schema_change::decode(body).is_some_and(|(_, sql)| change::makes(sql));
        let follows = |of: TableId| of == table || of == TableId::NONE;
        self.behind_rows.iter().any(|behind| follows(behind.table))
            || table == TableId::NONE && !self.behind_rows.is_empty() && !makes()
    }

    /// The rows that contradict the change are not known to be the payment's, or it is not one too many but one too few.
    fn cannot_clear(&self, table: TableId, refusal: &Refusal) -> bool {
        table == TableId::NONE || !self.link.replica || refusal.code == "23503" || self.kept.contains(&table)
    }

    /// The change would mean another table there.
    fn is_renamed(&self, table: TableId, body: &[u8]) -> bool {
        let change = schema_change::decode(body);
        let named = change.and_then(|(manner, sql)| self.link.schema.renamed_in(table, manner.path, sql));
        if let Some(name) = &named {
            tracing::warn!(
                table = name,
                "a schema change is not repeated on the secondary, where this table is called otherwise: make it there by hand"
            );
        }
        named.is_some()
    }

    pub(super) async fn repeat_ddl_again(&mut self) -> Result<(), Trouble> {
        for change in self.begin_and_repeat_ddl().await? {
            let is_it =
                |refused: &Refused| refused.table == TableId::NONE && refused.key.as_deref() == Some(change.body);
            if !self.paid.refused.iter().any(is_it) {
                self.refuse_change(change);
            }
        }
        Ok(())
    }

    /// The table is refused, and keeps its rows.
    pub(super) async fn restore(&mut self, pair: &Pair) -> Result<(), Trouble> {
        let schema = &mut self.link.schema;
        let mut is_its = |table: TableId| matches!(schema.home(table), Home::Pair(home, _) if home.id == pair.id);
        let its: Vec<TableId> = self.cleared.extract_if(|table| is_its(*table)).collect();
        if its.is_empty() {
            return Ok(());
        }
        self.kept.extend(its);
        self.roll_back().await?;
        self.repeat_ddl_again().await
    }
}

/// Schema changes for which rows of this payment had to be there. Those that are refused still.
pub(super) async fn repeat_behind_rows(link: &mut Link, changes: &[Postponed<'_>]) -> Result<Vec<Refused>, Trouble> {
    let (pulse, mut refused) = (link.options.pulse(), Vec::new());
    for &Postponed { table, body, contradicted } in changes {
        let why = match beside(&mut link.primary, pulse, repeat(&mut link.secondary, table, body)).await? {
            // It was not done a moment ago: what it speaks of is gone.
            Ok(Done::Before) if contradicted => "what it changes is no longer there".to_owned(),
            Ok(_) => continue,
            Err(refusal) => refusal.why,
        };
        let name = (table != TableId::NONE).then(|| link.schema.name(table));
        refused.push(change::refused(name.as_deref(), body, why.clone()));
        refused.extend(name.map(|name| refused_table(table, name, why)));
    }
    Ok(refused)
}

fn adds_to_enum(body: &[u8]) -> bool {
    let labeled = schema_change::decode(body).and_then(|(_, sql)| change::Labeled::of(sql));
    labeled.is_some_and(|labeled| labeled.was.is_none())
}

fn takes_away(body: &[u8]) -> Option<bool> {
    schema_change::decode(body).and_then(|(_, sql)| piece::takes_away(sql))
}
