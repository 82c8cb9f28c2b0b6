//! What a payment owes, table by table: where owed keys, tables and partitions are paid, what is refused, and what is left out
//! for now, being locked or too large.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::mirror::state::copier::{Large, Waiting};
use crate::mirror::state::keys::{Key, Keys};
use crate::protocol::postgres::key::Layout;
use crate::protocol::postgres::schema_change;
use crate::record::TableId;

use super::super::closure::apart;
use super::super::debt::{Debt, Debts, fits, refused_table, reorder};
use super::super::link::Link;
use super::super::piece::Piece;
use super::super::renames::{Meant, meant};
use super::super::schema::{Home, Pair};
use super::super::trouble::Trouble;
use super::super::{Options, change, locks, piece};
use super::Payment;
use super::changes::RefusedChange;

impl<'p> Payment<'p> {
    pub(super) fn gather(&mut self) {
        let owed = self.owed;
        let says = |body: &[u8]| schema_change::decode(body).is_none_or(|(_, sql)| change::may_change_keys(sql));
        let as_captured = !owed.ddl.iter().any(|(_, body)| says(body));
        for (&table, keys) in &owed.keys {
            let homes: Vec<_> = self.names(table).into_iter().filter_map(|name| self.home(name)).collect();
            // Of several tables that may be meant by a name it is the one whose key it is.
            let fits_one = |key: &Key| {
                let fits = |Meant { name, pair, .. }: &Meant| {
                    let layout = self.link.schema.layout(*name);
                    layout.is_some() && fits(layout, pair.key.len(), key)
                };
                as_captured && homes.iter().any(fits)
            };
            for Meant { name, pair, places } in &homes {
                let (unfit, layout) = (self.link.unfit.contains(&pair.id), self.link.schema.layout(*name));
                let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
                let is_others = |key: &Key| !unfit && homes.len() > 1 && fits_one(key);
                owe_keys(debt, keys, places.as_deref(), layout.filter(|_| !unfit), &is_others);
            }
        }
        for &table in &owed.tables {
            for name in self.names(table) {
                let Some(Meant { pair, .. }) = self.home(name) else { continue };
                let part = self.link.schema.primary.relation(name).filter(|part| part.id != pair.id);
                let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
                debt.lost |= owed.lost.contains(&table);
                match part {
                    Some(part) => self.parts.entry(pair.id).or_default().push(part.clone()),
                    None => debt.whole = true,
                }
            }
        }
        self.refuse_poisoned();
    }

    /// The names under which a table that is owed under this one may be paid.
    fn names(&self, table: TableId) -> Vec<TableId> {
        self.link.renames.names(table)
    }

    /// A table that could not be read is refused when it is owed. It is tried anew after a while; owed whole, by a repair or an
    /// operator who has done something about it, unless it was just now.
    fn refuse_poisoned(&mut self) {
        for (table, poison) in self.link.poisoned.clone() {
            let Some(debt) = self.debts.get(&table) else { continue };
            if poison.holds(debt.whole) {
                let name = self.link.schema.name(table);
                self.refuse(table, name, poison.why);
            }
        }
    }

    /// What foreign keys took along is found by the keys of the rows that went, over the tables between. Where one of these is
    /// left out nobody finds it: the tables that it may be of are dirty, but for those that are none of ours.
    pub(super) fn tell_bereft(&mut self) {
        if !self.link.schema.primary.foreign_keys.iter().any(|fk| fk.acts()) {
            return;
        }
        let flagged = self.owed.keys.iter().filter(|(_, keys)| keys.values().any(|&flagged| flagged));
        let flagged = flagged.map(|(table, _)| *table).chain(self.owed.lost.iter().copied());
        let flagged: Vec<TableId> = flagged.flat_map(|table| self.names(table)).collect();
        let reached: BTreeSet<TableId> = self.link.schema.primary.taken_along(flagged.iter().copied()).collect();
        let mut unseen: Vec<TableId> = Vec::new();
        for table in flagged {
            if self.is_left_out(table) {
                unseen.push(table);
            }
        }
        let mut bereft = BTreeSet::new();
        for table in reached {
            if self.is_left_out(table) {
                unseen.push(table);
                bereft.insert(table);
            }
        }
        let bereft = bereft.into_iter().filter_map(|table| self.place_of(table)).collect::<BTreeSet<_>>();
        let along = self.taken_along(unseen);
        self.paid.bereft.extend(&bereft | &along);
    }

    /// Tables of ours of which rows may have gone along with rows of these.
    fn taken_along(&mut self, with: impl IntoIterator<Item = TableId>) -> BTreeSet<TableId> {
        let along: Vec<TableId> = self.link.schema.primary.taken_along(with).collect();
        along.into_iter().filter_map(|table| self.place_of(table)).collect()
    }

    /// Where it is paid; `None`: it is none of ours.
    fn place_of(&mut self, table: TableId) -> Option<TableId> {
        match self.link.schema.home(table) {
            Home::Pair(pair, _) => Some(pair.id),
            Home::Refused(..) => Some(table),
            Home::Nowhere => None,
        }
    }

    /// Nothing of it is paid, nor asked for.
    fn is_left_out(&mut self, table: TableId) -> bool {
        match self.link.schema.home(table) {
            Home::Pair(pair, _) => self.is_refused(pair.id) || self.link.is_poisoned(pair.id),
            Home::Refused(..) | Home::Nowhere => true,
        }
    }

    /// What somebody has locked waits, and what cannot be paid without it: one table must not hold up all others.
    pub(super) async fn leave_out_locked(&mut self) -> Result<(), Trouble> {
        locks::look(self.link, &self.debts).await?;
        self.apart.clear();
        if self.link.locks.are_none() {
            return Ok(());
        }
        let apart = apart(self.link, &mut self.debts);
        let mut waiting: BTreeMap<TableId, Waiting> = BTreeMap::new();
        for &owed in self.owed.keys.keys().chain(&self.owed.tables) {
            for Meant { pair, .. } in meant(self.link, owed) {
                if !apart.contains(&pair.id) || self.is_refused(pair.id) {
                    continue;
                }
                let fresh = || {
                    let why = self.link.locks.why(pair.id);
                    Waiting { name: pair.primary.sql(), why, owed: Vec::new(), along: Vec::new() }
                };
                let names = &mut waiting.entry(pair.id).or_insert_with(fresh).owed;
                if !names.contains(&owed) {
                    names.push(owed);
                }
            }
        }
        for (id, waiting) in &mut waiting {
            if self.debts.get(id).is_some_and(Debt::lost_rows) {
                waiting.along = self.taken_along([*id]).into_iter().collect();
            }
        }
        self.debts.retain(|id, _| !apart.contains(id));
        self.parts.retain(|id, _| !apart.contains(id));
        self.paid.waiting.extend(waiting.into_values());
        self.apart = apart;
        Ok(())
    }

    /// What a dropped or detached partition held is gone on the secondary too, or all of its table is owed.
    pub(super) async fn owe_what_left(&mut self) -> Result<(), Trouble> {
        let parted = std::mem::take(&mut self.parted).into_iter();
        let parted: Vec<_> =
            parted.flat_map(|(table, known)| meant(self.link, table).into_iter().map(move |it| (it, known))).collect();
        for (Meant { name, pair, .. }, known) in parted {
            let is_left_out = self.is_refused(name) || self.link.is_poisoned(name);
            if !pair.footprint.partitioned || pair.id != name || is_left_out {
                continue;
            }
            if self.apart.contains(&name) {
                // Nothing can be asked about it now, and the change is not repeated again.
                let why = "a partition left it while somebody had locked it".to_owned();
                self.paid.large.push(Large { table: name, name: pair.primary.sql(), why, owed: Vec::new() });
                continue;
            }
            self.owe_parked(&pair);
            if !piece::are_alike(self.link, &pair, known).await? {
                self.owe_tree(&pair, Vec::new(), "a partition left it, and the secondary is partitioned otherwise")
                    .await?;
            }
            piece::let_go(self.link).await?;
        }
        Ok(())
    }

    /// Partitions that are owed whole: alone, or with all of their table.
    pub(super) async fn owe_parts(&mut self) -> Result<(), Trouble> {
        for (table, parts) in std::mem::take(&mut self.parts) {
            let Some(debt) = self.debts.get(&table).filter(|debt| !debt.whole) else { continue };
            let pair = debt.pair.clone();
            let mut pieces = Vec::with_capacity(parts.len());
            for part in &parts {
                pieces.extend(piece::of(self.link, &pair, part).await?);
            }
            self.owe_parked(&pair);
            let owed = parts.iter().map(|part| part.id).collect();
            if pieces.len() == parts.len() {
                self.owe_pieces(&pair, pieces, owed).await?;
            } else {
                self.owe_tree(&pair, owed, "a partition is owed whole, and its rows cannot be told there").await?;
            }
            piece::let_go(self.link).await?;
        }
        Ok(())
    }

    /// All rows of these partitions are owed. More than a payment takes are compared, where that can be, and mended.
    async fn owe_pieces(&mut self, pair: &Arc<Pair>, pieces: Vec<Piece>, owed: Vec<TableId>) -> Result<(), Trouble> {
        let heaps: BTreeSet<u32> = pieces.iter().flat_map(|piece| &piece.heaps).map(|(oid, _)| *oid).collect();
        let bytes = bytes_to_walk(self.link, pair, heaps.into_iter()).await?;
        if bytes > self.options.whole_bytes_max {
            let why = format!("partitions are owed whole; they have {} MiB", bytes >> 20);
            self.paid.large.push(Large { table: pair.id, name: pair.primary.sql(), why, owed });
        } else {
            self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone())).pieces = pieces;
        }
        Ok(())
    }

    /// All rows of a partitioned table are owed. More than a payment takes are compared, where that can be, and mended.
    async fn owe_tree(&mut self, pair: &Arc<Pair>, owed: Vec<TableId>, why: &str) -> Result<(), Trouble> {
        let bytes = bytes_to_walk(self.link, pair, all_of(pair)).await?;
        if bytes > self.options.whole_bytes_max {
            let (name, why) = (pair.primary.sql(), format!("{why}; the table has {} MiB", bytes >> 20));
            self.paid.large.push(Large { table: pair.id, name, why, owed });
        } else {
            self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone())).whole = true;
        }
        Ok(())
    }

    /// Of tables of which every row is owed, and which are more than a payment takes, only the keys are paid.
    pub(super) async fn leave_out_large(&mut self) -> Result<(), Trouble> {
        for (table, bytes) in large(self.link, &self.debts, self.options).await? {
            let debt = self.debts.get_mut(&table).expect("found above");
            debt.whole = false;
            let name = debt.pair.primary.sql();
            let is_its = |owed: &&TableId| meant(self.link, **owed).iter().any(|meant| meant.pair.id == table);
            let owed = self.owed.tables.iter().filter(is_its).copied().collect();
            let why = format!("all of its rows are owed; the table has {} MiB", bytes >> 20);
            self.paid.large.push(Large { table, name, why, owed });
        }
        Ok(())
    }

    /// Rows of partitions were refused by their table's keys, which nobody may name when the partition is gone, or empty.
    fn owe_parked(&mut self, pair: &Arc<Pair>) {
        let layout = self.link.schema.layout(pair.id);
        let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
        let parked = self.owed.parked.iter().filter(|(table, _)| *table == pair.id);
        for (_, key) in parked.filter(|(_, key)| fits(layout, pair.key.len(), key)) {
            debt.owe(Key::from(&key[..]), true);
        }
    }

    fn is_refused(&self, table: TableId) -> bool {
        self.paid.refused.iter().any(|refused| refused.table == table && refused.key.is_none())
    }

    /// Where a table is paid; one that cannot be paid is refused.
    fn home(&mut self, table: TableId) -> Option<Meant> {
        match self.link.schema.home(table) {
            Home::Pair(pair, places) => return Some(Meant { name: table, pair, places }),
            Home::Nowhere => self.paid.left_out.extend(self.link.schema.left_out(table)),
            Home::Refused(name, why) => self.paid.refused.push(refused_table(table, name, why)),
        }
        None
    }

    /// A schema change is refused, and its table with it. The table may be well again before the change is made.
    pub(super) fn refuse_change(&mut self, RefusedChange { table, body, refusal }: RefusedChange<'_>) {
        let name = (table != TableId::NONE).then(|| self.link.schema.name(table));
        self.paid.refused.push(change::refused(name.as_deref(), body, refusal.why.clone()));
        if let Some(name) = name {
            self.refuse(table, name, refusal.why);
        }
    }

    /// Leave a table out.
    pub(super) fn refuse(&mut self, table: TableId, name: String, why: String) {
        self.debts.remove(&table);
        self.isolated.remove(&table);
        self.parts.values_mut().for_each(|parts| parts.retain(|part| part.id != table));
        self.paid.refused.push(refused_table(table, name, why));
    }
}

/// Tables of which every row is owed, and which are more than a payment takes; their size on the primary.
pub(super) async fn large(
    link: &mut Link,
    debts: &Debts<'_>,
    options: &Options,
) -> Result<Vec<(TableId, u64)>, Trouble> {
    let mut large = Vec::new();
    for (&table, debt) in debts.iter().filter(|(_, debt)| debt.whole) {
        let bytes = bytes_to_walk(link, &debt.pair, all_of(&debt.pair)).await?;
        piece::let_go(link).await?;
        if bytes > options.whole_bytes_max {
            large.push((table, bytes));
        }
    }
    Ok(large)
}

/// The tables that hold rows of the pair's on the primary.
fn all_of(pair: &Pair) -> impl Iterator<Item = u32> {
    pair.footprint.heaps.iter().map(|(oid, _)| *oid)
}

/// Of these tables of one that can be compared, in all of its columns, and mended; of others there is no other way than to pay them.
async fn bytes_to_walk(link: &mut Link, pair: &Pair, heaps: impl Iterator<Item = u32>) -> Result<u64, Trouble> {
    let has_place = pair.footprint.local && !pair.key.is_empty();
    let can_be_walked = link.replica && has_place && pair.not_compared().is_empty();
    if can_be_walked { piece::bytes(link, pair, heaps).await } else { Ok(0) }
}

/// Owe keys that were captured under the layout that the table has now, if it is given; of others nobody knows which rows they
/// meant, unless they are another table's.
pub(super) fn owe_keys<'k>(
    debt: &mut Debt<'k>,
    keys: &'k Keys,
    places: Option<&[usize]>,
    layout: Option<Layout>,
    is_others: &dyn Fn(&Key) -> bool,
) {
    let columns = debt.pair.key.len();
    let is_known = |key: &Key| layout.is_some() && fits(layout, columns, key);
    match places {
        None if keys.keys().all(is_known) => debt.owe_all(keys),
        places => keys.iter().for_each(|(key, &flagged)| match places {
            _ if !is_known(key) && is_others(key) => {}
            _ if !is_known(key) => {
                debt.whole = true;
                debt.lost |= flagged;
            }
            None => drop(debt.owe(key.clone(), flagged)),
            Some(places) => drop(debt.owe(reorder(&debt.pair, key, places), flagged)),
        }),
    }
}
