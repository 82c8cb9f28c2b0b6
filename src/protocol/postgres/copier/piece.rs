//! A partition that is owed whole, alone: one that was emptied, made or attached, or that is dirty. Its rows are its root's,
//! and the others of them need not be looked at.
//!
//! Which rows of the secondary it stands for its bound says, an expression over columns of the root: the secondary may be
//! partitioned otherwise, or not at all. That takes values which compare alike on both sides. Texts in a range do not, since each
//! server has collations of its own, and hashes speak of their own server's oids: then the root is owed whole.
//!
//! A partition that was dropped or detached has no bound any more. Its rows leave the root of the secondary with the
//! change itself, if both sides are partitioned alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableStmt, AlterTableType, Node, ObjectType, RawStmt};

use crate::protocol::postgres::catalog::{Catalog, Relation, quote};
use crate::protocol::postgres::client::{self, Client, DataRow, Format, Param};
use crate::protocol::postgres::grammar;
use crate::protocol::postgres::key::oid;
use crate::record::TableId;

use super::check;
use super::link::{Link, beside};
use super::schema::{At, Pair, find, tree};
use super::trouble::{LOCKED, Trouble};

/// One partition, of which every row is owed.
pub(super) struct Piece {
    /// The tables that hold its rows on the primary: oid and name.
    pub(super) heaps: Vec<(u32, String)>,
    /// Holds for the rows of the root that are its own, on both sides.
    pub(super) bound: String,
}

/// The bound, and of each table above the partition how it is cut: strategy, by columns only, and one of them.
const BOUND: &str = "SELECT pg_catalog.pg_get_partition_constraintdef($1::pg_catalog.oid), p.partstrat, \
    p.partexprs IS NULL, a.attname FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass) r \
    JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = r.relid AND p.partrelid <> $1::pg_catalog.oid \
    CROSS JOIN LATERAL pg_catalog.unnest(p.partattrs::pg_catalog.int2[]) k(n) \
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.n";

/// How each of these is cut, and of what.
const CUT: &str = "SELECT c.oid, coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), ''), \
    coalesce(pg_catalog.pg_get_partkeydef(c.oid), '') FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::pg_catalog.oid[])";
const DEFAULT: &str = "DEFAULT";

/// What `part`, a partition of the pair's table, is there; `None`: the secondary cannot be told which rows are its.
pub(super) async fn of(link: &mut Link, pair: &Pair, part: &Relation) -> Result<Option<Piece>, Trouble> {
    // Where foreign keys act, a table's rows go in one statement.
    if !link.replica || !pair.footprint.local {
        return Ok(None);
    }
    let rows = ask(link, pair, BOUND, &part.oid.to_string()).await?;
    let Some(first) = rows.first() else { return Err(Trouble::Stale("a partition was detached".into())) };
    for row in &rows {
        let (strategy, columns, name) = (row.text(1), row.bool(2), row.text(3));
        let (strategy, name) = (strategy.map_err(Trouble::Primary)?, name.map_err(Trouble::Primary)?);
        let told = columns.map_err(Trouble::Primary)? && name.is_some_and(|name| compares(pair, name, strategy));
        if !told {
            return Ok(None);
        }
    }
    // A default partition without others takes everything.
    let bound = first.text(0).map_err(Trouble::Primary)?.unwrap_or("true").to_owned();
    let tables = tree(&link.schema.primary, part.oid);
    let heaps = pair.footprint.heaps.iter().filter(|(oid, _)| tables.contains(oid)).cloned().collect();
    Ok(Some(Piece { heaps, bound }))
}

/// Values of the column compare alike on both sides, as partitions of this strategy do.
fn compares(pair: &Pair, name: &str, strategy: Option<&str>) -> bool {
    let (Some(here), Some(there)) = (find(&pair.primary, name), find(&pair.secondary, name)) else { return false };
    let alike = (&here.type_sql, here.typmod) == (&there.type_sql, there.typmod)
        && pair.secondary.column_sql(name) == quote(name);
    let is_equal = TEXTS.contains(&here.type_oid) && here.deterministic && there.deterministic || here.typtype == b'e';
    alike
        && match strategy {
            Some("r") => ORDERED.contains(&here.type_oid),
            Some("l") => ORDERED.contains(&here.type_oid) || is_equal,
            _ => false,
        }
}

/// Types with one order on all servers.
const ORDERED: &[u32] = &[
    oid::INT2,
    oid::INT4,
    oid::INT8,
    oid::NUMERIC,
    oid::BOOL,
    oid::UUID,
    oid::DATE,
    oid::TIME,
    oid::TIMESTAMP,
    oid::TIMESTAMPTZ,
];
const TEXTS: &[u32] = &[oid::TEXT, oid::VARCHAR, oid::BPCHAR];

/// Bytes of these tables of the pair on the primary, with what belongs to them.
pub(super) async fn bytes(link: &mut Link, pair: &Pair, heaps: impl Iterator<Item = u32>) -> Result<u64, Trouble> {
    let sql = "SELECT coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(o)), 0) \
        FROM pg_catalog.unnest($1::pg_catalog.oid[]) o";
    let rows = ask(link, pair, sql, &array(heaps)).await?;
    rows.first().ok_or(client::Error::Value(0)).and_then(|row| row.parse(0)).map_err(Trouble::Primary)
}

async fn ask(link: &mut Link, pair: &Pair, sql: &str, of: &str) -> Result<Vec<DataRow>, Trouble> {
    let (params, pulse) = ([Param::text(of)], link.options.pulse());
    let asking = link.primary.query(sql, &params, Format::Text);
    let asked = beside(&mut link.secondary, pulse, asking).await;
    asked.map_err(|error| locked(pair, At::Primary, error, check::refused))
}

/// A lock of this table is in the way of a question, or whatever else is wrong with that side.
fn locked(pair: &Pair, at: At, error: client::Error, other: fn(client::Error) -> Trouble) -> Trouble {
    match error.code() {
        Some(LOCKED) => Trouble::Locked(at, vec![pair.id], error.to_string()),
        _ => other(error),
    }
}

/// Give back the locks that questions took.
pub(super) async fn let_go(link: &mut Link) -> Result<(), Trouble> {
    let pulse = link.options.pulse();
    let back = link.primary.simple("ROLLBACK TO tandem_read");
    beside(&mut link.secondary, pulse, back).await.map_err(Trouble::Primary)?;
    Ok(())
}

/// Both sides have the table in the same partitions: what left it on the primary left it on the secondary. A default
/// partition may hold what another one held, unless that one is known to have been there.
pub(super) async fn are_alike(link: &mut Link, pair: &Pair, known: bool) -> Result<bool, Trouble> {
    let pulse = link.options.pulse();
    let Link { primary, secondary, schema, .. } = link;
    let here = cut(primary, &schema.primary, &pair.primary);
    let here =
        beside(secondary, pulse, here).await.map_err(|error| locked(pair, At::Primary, error, check::refused))?;
    let there = cut(secondary, &schema.secondary, &pair.secondary);
    let there = beside(primary, pulse, there).await;
    let there = there.map_err(|error| locked(pair, At::Secondary, error, Trouble::Secondary))?;
    Ok(here == there && (known || here.values().all(|cut| cut.bound != DEFAULT)))
}

#[derive(PartialEq, Eq)]
struct Cut {
    parent: Option<TableId>,
    bound: String,
    key: String,
}

async fn cut(
    conn: &mut Client,
    catalog: &Catalog,
    root: &Arc<Relation>,
) -> Result<BTreeMap<TableId, Cut>, client::Error> {
    let oids = array(tree(catalog, root.oid).into_iter());
    let mut all = BTreeMap::new();
    for row in conn.query(CUT, &[Param::text(&oids)], Format::Text).await? {
        let Some(one) = catalog.relations.get(&row.parse(0)?) else { continue };
        let parent = one.parents.first().and_then(|oid| catalog.relations.get(oid)).map(|parent| parent.id);
        all.insert(one.id, Cut { parent, bound: row.string(1)?, key: row.string(2)? });
    }
    Ok(all)
}

fn array(oids: impl Iterator<Item = u32>) -> String {
    format!("{{{}}}", oids.map(|oid| oid.to_string()).collect::<Vec<_>>().join(","))
}

/// A schema change may take a partition from its table; if it succeeds, was that partition there for sure?
pub(super) fn takes_away(sql: &str) -> Option<bool> {
    let of = |statement: &RawStmt| match statement.stmt.as_ref()?.node.as_ref()? {
        NodeEnum::DropStmt(drop) => {
            let tables = [ObjectType::ObjectTable, ObjectType::ObjectSchema].contains(&drop.remove_type());
            tables.then_some(!drop.missing_ok)
        }
        NodeEnum::AlterTableStmt(alter) => detaches(alter).then_some(!alter.missing_ok),
        _ => None,
    };
    grammar::look(sql, |tree| tree.stmts.iter().find_map(of))
}

fn detaches(alter: &AlterTableStmt) -> bool {
    let is = |kind| alters(alter, kind);
    is(AlterTableType::AtDetachPartition) || is(AlterTableType::AtDetachPartitionFinalize)
}

/// It ends a DETACH CONCURRENTLY that was cut off.
pub(super) fn finalizes(sql: &str) -> bool {
    let is = |statement: &RawStmt| {
        let node = statement.stmt.as_ref().and_then(|node| node.node.as_ref());
        matches!(node, Some(NodeEnum::AlterTableStmt(alter)) if alters(alter, AlterTableType::AtDetachPartitionFinalize))
    };
    grammar::look(sql, |tree| Some(tree.stmts.iter().any(is))).unwrap_or(false)
}

fn alters(alter: &AlterTableStmt, kind: AlterTableType) -> bool {
    let is = |node: &Node| matches!(&node.node, Some(NodeEnum::AlterTableCmd(command)) if command.subtype() == kind);
    alter.cmds.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_partition_away_is_told_from_what_does_not() {
        for (sql, expected) in [
            ("DROP TABLE p", Some(true)),
            ("DROP TABLE IF EXISTS p, q", Some(false)),
            ("DROP SCHEMA old CASCADE", Some(true)),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", Some(true)),
            ("ALTER TABLE IF EXISTS t DETACH PARTITION p FINALIZE", Some(false)),
            ("ALTER TABLE t ATTACH PARTITION p DEFAULT", None),
            ("DROP INDEX i", None),
            ("no SQL", None),
        ] {
            assert_eq!(takes_away(sql), expected, "{sql}");
        }
    }
}
