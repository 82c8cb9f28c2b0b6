//! Foreign keys with actions: what a deleted or re-keyed row did to rows that nobody named.
//!
//! A *flagged* key owes, flagged, every row that points at it on the secondary or on the primary at S; and where a
//! referenced table has any flagged key, every owed key of the referencing table counts as flagged; until nothing is
//! new. A child whose own key may have become the foreign key's default is owed whole: the default is an expression,
//! and its rows have no name. Where foreign keys act on the secondary (no replica role), every key counts as flagged
//! and every foreign key as acting, because a delete must take the children along.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::mirror::state::keys::Key;
use crate::protocol::postgres::catalog::{Act, Catalog, ForeignKey};
use crate::protocol::postgres::client::{self, Client, Format};
use crate::protocol::postgres::key::{Returned, from_returned};
use crate::record::TableId;

use super::check;
use super::debt::{Arrays, BATCH_BYTES, Debt, Debts, batches};
use super::link::{Link, beside};
use super::schema::{At, Home, Pair, Schema};
use super::trouble::Trouble;

/// A foreign key as both sides may have it.
#[derive(PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) child: TableId,
    pub(super) parent: TableId,
    /// (child's column, parent's column).
    columns: Vec<(String, String)>,
    /// SET DEFAULT on a column of the child's key.
    rekeys_by_default: bool,
}

/// The foreign keys of both sides, between the tables where payments are made.
pub(super) fn references(schema: &mut Schema, all: bool) -> Vec<Reference> {
    let acting = |fk: &&Arc<ForeignKey>| all || fk.acts();
    let drafts =
        |catalog: &Catalog| catalog.foreign_keys.iter().filter(acting).filter_map(|fk| draft(catalog, fk)).collect();
    let mut found: Vec<Reference> = drafts(&schema.primary);
    found.extend::<Vec<_>>(drafts(&schema.secondary));
    let mut references: Vec<Reference> = Vec::new();
    for mut reference in found {
        let (Home::Pair(child, _), Home::Pair(parent, _)) =
            (schema.home(reference.child), schema.home(reference.parent))
        else {
            continue;
        };
        // Rows that have no name are owed with their table.
        if child.key.is_empty() || parent.key.is_empty() {
            continue;
        }
        (reference.child, reference.parent) = (child.id, parent.id);
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    references
}

fn draft(catalog: &Catalog, fk: &ForeignKey) -> Option<Reference> {
    let (child, parent) = (catalog.relations.get(&fk.child)?, catalog.relations.get(&fk.parent)?);
    let name = |relation: &crate::protocol::postgres::catalog::Relation, at: usize| relation.columns[at].name.clone();
    let columns = fk.child_columns.iter().zip(&fk.parent_columns);
    let in_key = |at: &usize| child.key.as_ref().is_some_and(|key| key.columns.contains(at));
    let by_default = fk.on_delete == Act::SetDefault || fk.on_update == Act::SetDefault;
    Some(Reference {
        child: child.id,
        parent: parent.id,
        columns: columns.map(|(&own, &theirs)| (name(child, own), name(parent, theirs))).collect(),
        rekeys_by_default: by_default && fk.child_columns.iter().any(in_key),
    })
}

/// Tables that are not paid while others are locked: those themselves, and what takes their rows along. Who lost rows is
/// known by them to the rows that pointed at them, so they stay until these can be read; rows of tables that are paid
/// meanwhile count as flagged where a table above them is flagged and waits. Where foreign keys act on the secondary, all
/// that they join waits.
pub(super) fn apart(link: &mut Link, debts: &mut Debts<'_>) -> HashSet<TableId> {
    let acting = !link.replica;
    let mut apart: HashSet<TableId> = link.locks.tables().collect();
    let references = references(&mut link.schema, acting);
    if acting {
        grow(&mut apart, &references, |r, apart| match (apart.contains(&r.child), apart.contains(&r.parent)) {
            (true, false) => Some(r.parent),
            (false, true) => Some(r.child),
            _ => None,
        });
        return apart;
    }
    let mut flagged: HashSet<TableId> = debts.iter().filter(|(_, debt)| debt.lost_rows()).map(|(id, _)| *id).collect();
    grow(&mut flagged, &references, |r, flagged| flagged.contains(&r.parent).then_some(r.child));
    grow(&mut apart, &references, |r, apart| {
        (apart.contains(&r.child) && flagged.contains(&r.parent)).then_some(r.parent)
    });
    let waits = |r: &&Reference| apart.contains(&r.parent) && flagged.contains(&r.parent) && !apart.contains(&r.child);
    for reference in references.iter().filter(waits) {
        if let Some(debt) = debts.get_mut(&reference.child) {
            debt.flag_all();
        }
    }
    apart
}

/// Add the table that a reference brings, until nothing is new.
fn grow(
    tables: &mut HashSet<TableId>,
    references: &[Reference],
    brings: impl Fn(&Reference, &HashSet<TableId>) -> Option<TableId>,
) {
    loop {
        let brought = references.iter().filter_map(|reference| brings(reference, tables));
        let news: Vec<TableId> = brought.filter(|table| !tables.contains(table)).collect();
        if news.is_empty() {
            return;
        }
        tables.extend(news);
    }
}

/// Close what is owed over foreign keys.
pub(super) async fn close(link: &mut Link, debts: &mut Debts<'_>) -> Result<(), Trouble> {
    let acting = !link.replica;
    if !acting && !debts.values().any(Debt::lost_rows) {
        return Ok(());
    }
    let references = references(&mut link.schema, acting);
    if references.is_empty() {
        return Ok(());
    }
    if acting {
        debts.values_mut().for_each(|debt| drop(debt.flag_all()));
        debts.values_mut().for_each(|debt| debt.lost |= debt.whole);
    }
    spread_lost(&mut link.schema, debts, &references);
    let mut fresh: HashMap<TableId, Vec<Key>> = HashMap::new();
    for (&id, debt) in &*debts {
        fresh.insert(id, debt.flagged().map(Key::from).collect());
    }
    while fresh.values().any(|keys| !keys.is_empty()) {
        let mut next: HashMap<TableId, Vec<Key>> = HashMap::new();
        for reference in &references {
            let Some(keys) = fresh.get(&reference.parent).filter(|keys| !keys.is_empty()) else { continue };
            if link.is_poisoned(reference.child) {
                continue;
            }
            let found = point_at(link, reference, keys).await?;
            let Home::Pair(child, _) = link.schema.home(reference.child) else { continue };
            let debt = debts.entry(child.id).or_insert_with(|| Debt::new(child));
            debt.whole |= reference.rekeys_by_default;
            debt.lost |= reference.rekeys_by_default;
            let news = next.entry(reference.child).or_default();
            news.extend(found.into_iter().filter(|key| debt.owe(key.clone(), true)));
            // A named child may have moved here and gone with the parent, its own children with it.
            news.append(&mut debt.flag_all());
        }
        fresh = next;
    }
    spread_lost(&mut link.schema, debts, &references);
    Ok(())
}

/// Who lost rows that have no name takes those that point at it along.
fn spread_lost(schema: &mut Schema, debts: &mut Debts<'_>, references: &[Reference]) {
    loop {
        let mut news = false;
        for reference in references {
            if !debts.get(&reference.parent).is_some_and(|debt| debt.lost) {
                continue;
            }
            if let Home::Pair(child, _) = schema.home(reference.child) {
                let debt = debts.entry(child.id).or_insert_with(|| Debt::new(child));
                news |= !debt.lost;
                (debt.whole, debt.lost) = (true, true);
            }
        }
        if !news {
            return;
        }
    }
}

async fn point_at(link: &mut Link, reference: &Reference, keys: &[Key]) -> Result<Vec<Key>, Trouble> {
    let (Home::Pair(child, _), Home::Pair(parent, _)) =
        (link.schema.home(reference.child), link.schema.home(reference.parent))
    else {
        return Ok(Vec::new());
    };
    let columns: Vec<_> = reference.columns.iter().map(|(own, theirs)| (own.as_str(), theirs.as_str())).collect();
    let sqls = [At::Primary, At::Secondary].map(|at| child.pointing_sql(&parent, &columns, at));
    let mut keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    keys.sort_unstable();
    let mut found = Vec::new();
    for batch in batches(&parent, &keys, link.options.batch_keys, BATCH_BYTES) {
        ask_both(link, [&child, &parent], &sqls, &Arrays::of(&parent, batch), &mut found).await?;
    }
    Ok(found)
}

/// Ask both sides at once; the primary at S, and for proof that it was S.
async fn ask_both(
    link: &mut Link,
    pairs: [&Arc<Pair>; 2],
    sqls: &[String; 2],
    arrays: &Arrays,
    found: &mut Vec<Key>,
) -> Result<(), Trouble> {
    let (child, pulse) = (pairs[0], link.options.pulse());
    let Link { primary, secondary, .. } = link;
    // Their parents are read, too.
    let tables = || pairs.iter().map(|pair| pair.id).collect();
    let trouble = |at| {
        move |error| match Trouble::reading(at, child.id, error) {
            Trouble::Locked(at, _, why) => Trouble::Locked(at, tables(), why),
            trouble => trouble,
        }
    };
    primary.put_prepared(&sqls[0], &arrays.params(), Format::Binary);
    let check = check::put(primary, pairs.into_iter());
    secondary.put_prepared(&sqls[1], &arrays.params(), Format::Binary);
    secondary.put_sync();
    beside(secondary, pulse, primary.send()).await.map_err(Trouble::Primary)?;
    beside(primary, pulse, secondary.send()).await.map_err(Trouble::Secondary)?;
    let reading = async {
        read_keys(secondary, child, found).await?;
        secondary.finish().await
    };
    beside(primary, pulse, reading).await.map_err(trouble(At::Secondary))?;
    beside(secondary, pulse, read_keys(primary, child, found)).await.map_err(trouble(At::Primary))?;
    check.read(primary).await
}

/// Collect the keys of a statement whose columns are [`Pair::asked`].
pub(super) async fn read_keys(conn: &mut Client, pair: &Pair, found: &mut Vec<Key>) -> Result<(), client::Error> {
    while let Some(row) = conn.next_row_of_statement().await? {
        let mut columns = Vec::with_capacity(pair.key.len());
        for (at, value) in row.values().enumerate() {
            columns.push(Returned { value: value?.ok_or(client::Error::Value(at))?, binary: true });
        }
        let mut key = Vec::new();
        from_returned(&pair.primary, &columns, &mut key).map_err(|_| client::Error::Value(0))?;
        found.push(key.into());
    }
    Ok(())
}

/// Tables in an order in which parents come before children; tables of a cycle in any order.
pub(super) fn parents_first(schema: &mut Schema, tables: &[TableId]) -> Vec<TableId> {
    let references = references(schema, true);
    let mut left: Vec<TableId> = tables.to_vec();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waits =
            |id: TableId| references.iter().any(|r| r.child == id && r.parent != id && left.contains(&r.parent));
        let at = left.iter().position(|&id| !waits(id)).unwrap_or(0);
        order.push(left.remove(at));
    }
    order
}
