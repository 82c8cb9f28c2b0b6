//! Large tables of the secondary of which every row is owed are emptied at once: deleted one by one their rows would take minutes,
//! with S open and nothing else paid, and be left to VACUUM.
//!
//! TRUNCATE has a price, so small tables keep their DELETE. Nobody reads the table there before the payment is committed, and a
//! snapshot from before finds it empty afterwards: who compares both sides at one looks for that (shadow reads). It
//! takes a right of its own, a moment without readers, and that every table whose foreign keys point there is emptied with it. Where
//! that is not so the rows are deleted after all.

use std::collections::{BTreeMap, HashSet};

use crate::protocol::postgres::catalog::Catalog;
use crate::protocol::postgres::client::{self, Client};
use crate::record::TableId;

use super::debt::{Debt, Debts};
use super::link::{Link, beside};
use super::schema::{At, tree};
use super::trouble::Trouble;

/// A table that is owed whole.
struct Whole {
    /// As TRUNCATE takes it.
    sql: String,
    /// Its oid, then those of its partitions.
    tables: Vec<u32>,
}

/// Empty what is larger than this on the secondary, in the payment's transaction, which may have `begun`. What was emptied.
pub(super) async fn empty(
    link: &mut Link,
    debts: &Debts<'_>,
    bytes_max: u64,
    begun: &mut bool,
) -> Result<HashSet<TableId>, Trouble> {
    let whole = |(id, debt): (&TableId, &Debt<'_>)| {
        let tables = tree(&link.schema.secondary, debt.pair.secondary.oid);
        (*id, Whole { sql: debt.pair.table(At::Secondary), tables })
    };
    let all: BTreeMap<TableId, Whole> = debts.iter().filter(|(_, debt)| debt.whole).map(whole).collect();
    // Where foreign keys act, their rows must go with the others.
    if !link.replica || all.is_empty() {
        return Ok(HashSet::new());
    }
    let (pulse, conn, catalog) = (link.options.pulse(), &mut link.secondary, &link.schema.secondary);
    let emptying = async {
        if !std::mem::replace(begun, true) {
            conn.simple("BEGIN").await?;
        }
        conn.simple("SAVEPOINT tandem_empty").await?;
        match truncate(conn, catalog, all, bytes_max).await {
            Err(client::Error::Db(error)) => {
                tracing::info!(%error, "large tables of the secondary cannot be emptied at once: their rows are deleted");
                conn.simple("ROLLBACK TO tandem_empty").await?;
                Ok(HashSet::new())
            }
            emptied => emptied,
        }
    };
    beside(&mut link.primary, pulse, emptying).await.map_err(Trouble::Secondary)
}

async fn truncate(
    conn: &mut Client,
    catalog: &Catalog,
    mut all: BTreeMap<TableId, Whole>,
    bytes_max: u64,
) -> Result<HashSet<TableId>, client::Error> {
    let mut large = HashSet::new();
    for (id, bytes, may) in sizes(conn, &all).await? {
        if !may {
            all.remove(&id);
        } else if bytes > bytes_max {
            large.insert(id);
        }
    }
    let emptied = emptied(catalog, all, &large);
    if !emptied.is_empty() {
        let names: Vec<_> = emptied.values().map(|whole| &*whole.sql).collect();
        conn.simple(&format!("TRUNCATE {}", names.join(", "))).await?;
    }
    Ok(emptied.into_keys().collect())
}

/// Of each its bytes with what belongs to it, and whether it may be emptied.
async fn sizes(conn: &mut Client, all: &BTreeMap<TableId, Whole>) -> Result<Vec<(TableId, u64, bool)>, client::Error> {
    let pairs = all.values().flat_map(|whole| whole.tables.iter().map(|oid| format!("({}, {oid})", whole.tables[0])));
    let sql = format!(
        "SELECT v.r, coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(v.o)), 0), \
         coalesce(pg_catalog.has_table_privilege(v.r, 'TRUNCATE'), false) \
         FROM (SELECT p.r::pg_catalog.oid AS r, p.o::pg_catalog.oid::pg_catalog.regclass AS o \
         FROM (VALUES {}) p(r, o)) v GROUP BY v.r",
        pairs.collect::<Vec<_>>().join(", ")
    );
    let rows = conn.simple(&sql).await?;
    let mut sizes = Vec::with_capacity(rows.len());
    for row in &rows {
        let oid: u32 = row.parse(0)?;
        let found = all.iter().find(|(_, whole)| whole.tables[0] == oid);
        let (id, _) = found.ok_or(client::Error::Value(0))?;
        sizes.push((*id, row.parse(1)?, row.bool(2)?));
    }
    Ok(sizes)
}

/// The large ones that can be, and what points at them.
fn emptied(catalog: &Catalog, mut all: BTreeMap<TableId, Whole>, large: &HashSet<TableId>) -> BTreeMap<TableId, Whole> {
    let children = |whole: &Whole| -> Vec<u32> {
        let keys = catalog.foreign_keys.iter().filter(|fk| whole.tables.contains(&fk.parent));
        keys.map(|fk| fk.child).collect()
    };
    loop {
        let oids: HashSet<u32> = all.values().flat_map(|whole| whole.tables.iter().copied()).collect();
        let before = all.len();
        all.retain(|_, whole| children(whole).iter().all(|child| oids.contains(child)));
        if all.len() == before {
            break;
        }
    }
    let mut emptied: BTreeMap<TableId, Whole> = all.extract_if(.., |id, _| large.contains(id)).collect();
    loop {
        let pointing: HashSet<u32> = emptied.values().flat_map(children).collect();
        let mut more = all.extract_if(.., |_, whole| whole.tables.iter().any(|oid| pointing.contains(oid))).peekable();
        if more.peek().is_none() {
            break;
        }
        emptied.extend(more);
    }
    emptied
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::postgres::catalog::{Act, ForeignKey};

    fn points(child: u32, parent: u32) -> Arc<ForeignKey> {
        let (child_columns, parent_columns) = (vec![0], vec![0]);
        let (on_delete, on_update, deferrable) = (Act::None, Act::None, false);
        let name = "fk".to_owned();
        Arc::new(ForeignKey { name, child, parent, child_columns, parent_columns, on_delete, on_update, deferrable })
    }

    #[test]
    fn what_points_at_a_table_that_is_emptied_is_emptied_with_it_or_it_is_not() {
        // 1 <- 2 <- 3, 4 <- 5, where 5 is not owed; 6 alone, 7 with a partition 70 that points at itself.
        let keys = vec![points(2, 1), points(3, 2), points(5, 4), points(70, 7), points(1, 1)];
        let catalog = Catalog { foreign_keys: keys, ..Catalog::default() };
        let of = |large: &[u64]| {
            let whole = |id: u64| Whole { sql: String::new(), tables: vec![u32::try_from(id).expect("small")] };
            let mut all: BTreeMap<_, _> = [1, 2, 3, 4, 6].map(|id| (TableId(id), whole(id))).into();
            all.insert(TableId(7), Whole { sql: String::new(), tables: vec![7, 70] });
            let found = emptied(&catalog, all, &large.iter().copied().map(TableId).collect());
            found.into_keys().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(of(&[1]), [1, 2, 3]);
        assert_eq!(of(&[3, 6]), [3, 6]);
        assert!(of(&[4]).is_empty());
        assert_eq!(of(&[7]), [7]);
    }
}
