//! What is mirrored: the origin's tables by themselves, and beside the target's.

use crate::check::{Finding, Rule};
use crate::protocol::postgres::catalog::{Catalog, Column, Kind, Relation};
use crate::record::Side;

use super::facts::Facts;
use super::{on, rules};

/// What people call it.
pub(super) fn name(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}

/// What makes a table hard or impossible to mirror, whatever the target is.
pub(super) fn origin(facts: &Facts, found: &mut Vec<Finding>) {
    for relation in facts.catalog.relations.values() {
        let broken = hard(relation).into_iter().filter(|(hard, _)| *hard);
        found.extend(broken.map(|(_, rule)| on(Side::Origin, rule, name(relation))));
    }
    let catalog = &facts.catalog;
    found.extend(catalog.schema_trigger().map(|name| on(Side::Origin, rules::EVENT_TRIGGER, name)));
    found.extend(catalog.login_triggers().map(|name| on(Side::Origin, rules::LOGIN_TRIGGER, name)));
    found.extend(facts.deferrable.iter().map(|key| on(Side::Origin, rules::DEFERRABLE_KEY, key)));
}

fn hard(relation: &Relation) -> [(bool, &'static Rule); 7] {
    let table = relation.kind == Kind::Table;
    let rows = table || relation.kind == Kind::Partitioned;
    [
        // A partitioned table's rows are paid by its leaves' keys where it has none itself.
        (table && relation.key.is_none(), rules::TABLE_WITHOUT_KEY),
        (rows && relation.hazards.triggers, rules::TRIGGERS),
        (rows && relation.hazards.rules, rules::RULES_ON_TABLE),
        (rows && relation.hazards.row_security, rules::ROW_SECURITY),
        (table && relation.unlogged, rules::UNLOGGED_TABLE),
        (relation.kind == Kind::Foreign, rules::FOREIGN_TABLE),
        (relation.kind == Kind::Materialized, rules::MATERIALIZED_VIEW),
    ]
}

/// Every table of the origin beside the target's of the same name.
pub(super) fn together(origin: &Facts, target: &Facts, found: &mut Vec<Finding>) {
    if !origin.is_known() || !target.is_known() {
        return;
    }
    let relations = origin.catalog.relations.values();
    for here in relations.filter(|one| matches!(one.kind, Kind::Table | Kind::Partitioned)) {
        match same(&target.catalog, here) {
            None => found.push(on(Side::Target, absent(&origin.catalog, here), name(here))),
            Some(there) if !matches!(there.kind, Kind::Table | Kind::Partitioned) => {
                found.push(on(Side::Target, rules::NOT_A_TABLE, name(here)));
            }
            Some(there) => {
                columns(here, there, found);
                collations(here, there, found);
            }
        }
    }
}

fn same<'a>(catalog: &'a Catalog, here: &Relation) -> Option<&'a Relation> {
    catalog.relation(here.id).map(|found| &**found)
}

/// A partition whose root has a key is paid through the root.
fn absent(catalog: &Catalog, here: &Relation) -> &'static Rule {
    let mut parents = here.parents.iter().filter_map(|oid| catalog.relations.get(oid));
    match parents.any(|parent| parent.kind == Kind::Partitioned && parent.key.is_some()) {
        true => rules::PARTITION_MISSING,
        false => rules::TABLE_MISSING,
    }
}

fn columns(here: &Relation, there: &Relation, found: &mut Vec<Finding>) {
    let mut tell = |rule, column: &Column| {
        found.push(on(Side::Target, rule, format!("{}.{}", name(here), column.name)));
    };
    for column in &here.columns {
        match find(there, column) {
            None => tell(rules::COLUMN_MISSING, column),
            Some(other) => {
                if (&column.type_sql, column.typmod) != (&other.type_sql, other.typmod) {
                    tell(rules::COLUMN_TYPE_DIFFERS, column);
                }
                if other.generated && !column.generated {
                    tell(rules::COLUMN_COMPUTED, column);
                }
                if other.not_null && !column.not_null {
                    tell(rules::NOT_NULL_DIFFERS, column);
                }
            }
        }
    }
    for column in there.columns.iter().filter(|column| find(here, column).is_none() && is_needed(column)) {
        tell(rules::COLUMN_UNKNOWN, column);
    }
    let order = |of: &Relation, other: &Relation| -> Vec<String> {
        of.columns.iter().filter(|column| find(other, column).is_some()).map(|column| column.name.clone()).collect()
    };
    if order(here, there) != order(there, here) {
        found.push(on(Side::Target, rules::COLUMN_ORDER_DIFFERS, name(here)));
    }
}

/// Of columns that are of one type.
fn collations(here: &Relation, there: &Relation, found: &mut Vec<Finding>) {
    let pairs = here.columns.iter().filter_map(|column| Some((column, find(there, column)?)));
    for (column, other) in pairs.filter(|(column, other)| column.type_sql == other.type_sql) {
        if column.collation != other.collation {
            let (collation, other) = (collation(column), collation(other));
            let object = format!("{}.{}: {collation} -> {other}", name(here), column.name);
            found.push(on(Side::Target, rules::COLUMN_COLLATION_DIFFERS, object));
        }
    }
}

fn collation(column: &Column) -> &str {
    if column.collation.is_empty() { "the database's" } else { &column.collation }
}

/// Rows without it are refused.
fn is_needed(column: &Column) -> bool {
    column.not_null && !column.has_default && !column.generated && column.identity == 0
}

fn find<'a>(relation: &'a Relation, column: &Column) -> Option<&'a Column> {
    relation.columns.iter().find(|other| other.name == column.name)
}
