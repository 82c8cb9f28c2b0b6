//! Foreign keys with actions: what a deleted or re-keyed row did to rows that nobody named.
//!
//! A *flagged* key owes, flagged, every row that points at it on the secondary or on the primary at S; and where a
//! referenced table has any flagged key, every owed key of the referencing table counts as flagged; until nothing is
//! new. A child whose own key may have become the foreign key's default is owed whole: the default is an expression,
//! and its rows have no name. Where foreign keys act on the secondary (no replica role), every key counts as flagged
//! and every foreign key as acting, because a delete must take the children along.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::postgres::catalog::{Act, Catalog, ForeignKey};
use crate::protocol::postgres::client::{self, Client, Format};
use crate::protocol::postgres::key::{Returned, from_returned};
use crate::record::TableId;

use super::debt::{Arrays, Debt, Debts, batches};
use super::link::{Link, beside};
use super::pay::Trouble;
use super::schema::{At, Home, Pair, Schema};

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
    let acting = |fk: &&Arc<ForeignKey>| all || fk.on_delete != Act::None || fk.on_update != Act::None;
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

/// Close what is owed over foreign keys.
pub(super) async fn close(link: &mut Link, debts: &mut Debts<'_>, batch_keys: usize) -> Result<(), Trouble> {
    let acting = !link.replica;
    if !acting && !debts.values().any(|debt| debt.keys.values().any(|&flagged| flagged)) {
        return Ok(());
    }
    let references = references(&mut link.schema, acting);
    if references.is_empty() {
        return Ok(());
    }
    if acting {
        debts.values_mut().for_each(|debt| debt.keys.values_mut().for_each(|flagged| *flagged = true));
        spread_whole(&mut link.schema, debts, &references);
    }
    let mut fresh: HashMap<TableId, Vec<Vec<u8>>> = HashMap::new();
    for (&id, debt) in &*debts {
        let flagged = debt.keys.iter().filter(|&(_, &flagged)| flagged);
        fresh.insert(id, flagged.map(|(key, _)| key.to_vec()).collect());
    }
    while fresh.values().any(|keys| !keys.is_empty()) {
        let mut next: HashMap<TableId, Vec<Vec<u8>>> = HashMap::new();
        for reference in &references {
            let Some(keys) = fresh.get(&reference.parent).filter(|keys| !keys.is_empty()) else { continue };
            if link.poisoned.contains_key(&reference.child) {
                continue;
            }
            let found = point_at(link, reference, keys, batch_keys).await?;
            let Home::Pair(child, _) = link.schema.home(reference.child) else { continue };
            let debt = debts.entry(child.id).or_insert_with(|| Debt::new(child));
            debt.whole |= reference.rekeys_by_default;
            let news = next.entry(reference.child).or_default();
            news.extend(found.into_iter().filter(|key| debt.owe(Cow::Owned(key.clone()), true)));
            // A named child may have moved here and gone with the parent, its own children with it.
            for (key, flagged) in debt.keys.iter_mut().filter(|(_, flagged)| !**flagged) {
                *flagged = true;
                news.push(key.to_vec());
            }
        }
        fresh = next;
    }
    if references.iter().any(|reference| reference.rekeys_by_default) {
        spread_whole(&mut link.schema, debts, &references);
    }
    Ok(())
}

/// Who is owed whole takes those that point at it along.
fn spread_whole(schema: &mut Schema, debts: &mut Debts<'_>, references: &[Reference]) {
    loop {
        let mut news = false;
        for reference in references {
            if !debts.get(&reference.parent).is_some_and(|debt| debt.whole) {
                continue;
            }
            if let Home::Pair(child, _) = schema.home(reference.child) {
                let debt = debts.entry(child.id).or_insert_with(|| Debt::new(child));
                news |= !debt.whole;
                debt.whole = true;
            }
        }
        if !news {
            return;
        }
    }
}

async fn point_at(
    link: &mut Link,
    reference: &Reference,
    keys: &[Vec<u8>],
    batch_keys: usize,
) -> Result<Vec<Vec<u8>>, Trouble> {
    let (Home::Pair(child, _), Home::Pair(parent, _)) =
        (link.schema.home(reference.child), link.schema.home(reference.parent))
    else {
        return Ok(Vec::new());
    };
    let columns: Vec<_> = reference.columns.iter().map(|(own, theirs)| (own.as_str(), theirs.as_str())).collect();
    let mut keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    keys.sort_unstable();
    let mut found = Vec::new();
    for batch in batches(&parent, &keys, batch_keys) {
        let arrays = Arrays::of(&parent, batch);
        for at in [At::Secondary, At::Primary] {
            let sql = child.pointing_sql(&parent, &columns, at);
            let (conn, silent) = match at {
                At::Primary => (&mut link.primary, &mut link.secondary),
                At::Secondary => (&mut link.secondary, &mut link.primary),
            };
            let trouble = |error| Trouble::reading(at, child.id, error);
            let reading = read_keys(conn, &child, &sql, &arrays, &mut found);
            beside(silent, link.options.pulse(), reading).await.map_err(trouble)?;
        }
    }
    Ok(found)
}

/// Run a query whose columns are [`Pair::asked`], and collect the keys.
pub(super) async fn read_keys(
    conn: &mut Client,
    pair: &Pair,
    sql: &str,
    arrays: &Arrays,
    found: &mut Vec<Vec<u8>>,
) -> Result<(), client::Error> {
    conn.put_statement(sql, &arrays.params(), Format::Binary);
    conn.put_sync();
    conn.send().await?;
    while let Some(row) = conn.next_row().await? {
        let mut columns = Vec::with_capacity(pair.key.len());
        for (at, value) in row.values().enumerate() {
            columns.push(Returned { value: value?.ok_or(client::Error::Value(at))?, binary: true });
        }
        let mut key = Vec::new();
        from_returned(&pair.primary, &columns, &mut key).map_err(|_| client::Error::Value(0))?;
        found.push(key);
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
