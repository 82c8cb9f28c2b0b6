//! Which tables a name could mean, and what stands between a statement and their rows.

use std::collections::HashSet;
use std::sync::Arc;

use pg_query::protobuf::RangeVar;

use super::super::catalog::{Catalog, Events, Kind, Relation};
use super::super::key::Form;
use super::super::plan::Meant;
use crate::record::TableId;

/// Why a write to what is named `pg_temp` is counted.
pub(super) const TEMPORARY: &str = "a temporary table or view";

/// What the target of a write is.
#[derive(Debug)]
pub(super) enum Target {
    /// Only a temporary table, which is never mirrored; or a temporary view, of tables that are. A trigger may write others.
    Temporary,
    /// A system catalog.
    System,
    /// Not in the catalog: new, temporary, or a mistake.
    Unknown,
    /// Everything the name could mean.
    Known(Named),
}

/// The relations that bear the name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Ordinary and partitioned tables as named.
    pub(super) tables: Vec<Arc<Relation>>,
    /// Base tables behind views of that name, and tables whose rows cannot be followed.
    pub(super) behind: Vec<Arc<Relation>>,
    /// Foreign tables: never mirrored, but what their triggers write may be.
    foreign: Vec<Arc<Relation>>,
    /// A view of that name.
    view: Option<String>,
}

impl Target {
    /// Resolve a name as PostgreSQL writes it.
    pub(super) fn of(catalog: &Catalog, name: &RangeVar) -> Target {
        match name.schemaname.as_str() {
            "pg_temp" => return Target::Temporary,
            "pg_catalog" | "information_schema" | "pg_toast" => return Target::System,
            _ => {}
        }
        let schema = Some(name.schemaname.as_str()).filter(|schema| !schema.is_empty());
        let found = named(catalog, schema, &name.relname);
        if !found.is_empty() {
            return Target::Known(Named::of(catalog, found));
        }
        if schema.is_none() && name.relname.starts_with("pg_") { Target::System } else { Target::Unknown }
    }
}

/// Every relation of that name, in the schema or over all of them.
pub(super) fn named(catalog: &Catalog, schema: Option<&str>, name: &str) -> Vec<Arc<Relation>> {
    let oids = catalog.by_name.get(name).into_iter().flatten();
    let mut found: Vec<_> = oids
        .filter_map(|oid| catalog.relations.get(oid))
        .filter(|relation| schema.is_none_or(|schema| schema == relation.schema))
        .cloned()
        .collect();
    found.sort_by_key(|relation| relation.oid);
    found
}

impl Named {
    fn of(catalog: &Catalog, found: Vec<Arc<Relation>>) -> Named {
        let mut all = Named::default();
        for relation in found {
            match relation.kind {
                Kind::Table | Kind::Partitioned => all.tables.push(relation),
                Kind::View => all.view(catalog, &relation),
                Kind::Foreign => all.foreign.push(relation),
                // It cannot be written at all.
                Kind::Materialized => {}
            }
        }
        all
    }

    /// Can the name mean nothing but tables whose rows are followed?
    pub(super) fn are_tables(&self) -> bool {
        self.view.is_none() && self.behind.is_empty() && self.foreign.is_empty()
    }

    /// Whose rows a statement writes that names this.
    pub(super) fn meant(&self) -> Meant {
        match () {
            () if self.tables.iter().any(|table| table.hazards.instead_of) => Meant::Others,
            () if self.are_tables() => Meant::Tables,
            () => Meant::Either(labels(&self.tables)),
        }
    }

    /// Why hidden writes must be counted where this happens to the rows, if at all. `moved`: foreign keys may act.
    pub(super) fn counted(&self, catalog: &Catalog, events: Events, moved: bool) -> Option<String> {
        let all = self.tables.iter().chain(&self.behind).chain(&self.foreign);
        let parts = all.flat_map(|table| with_children(catalog, table).into_iter().map(move |part| (part, table)));
        let writes = |part: &Relation, events| {
            let what = part.hazards.writer(events)?;
            Some(format!("{what} on {}.{}", part.schema, part.name))
        };
        let own = parts.into_iter().find_map(|(part, table)| {
            // An UPDATE may take a row from one partition to another.
            let leaves = table.kind == Kind::Partitioned && events.meets(Events::UPDATE);
            writes(&part, if leaves { Events::ALL } else { events })
        });
        let reached = || {
            let reached = if moved { self.reached(catalog) } else { Vec::new() };
            reached.into_iter().find_map(|(table, events)| writes(&table, events))
        };
        self.view.clone().or(own).or_else(reached)
    }

    /// What foreign keys may do where rows of these go or change.
    pub(super) fn reached(&self, catalog: &Catalog) -> Vec<(Arc<Relation>, Events)> {
        let all = self.tables.iter().chain(&self.behind);
        let from = all.flat_map(|table| with_children(catalog, table)).map(|table| table.oid);
        let found = catalog.reached(from).into_iter();
        let mut found: Vec<_> =
            found.filter_map(|(oid, events)| Some((catalog.relations.get(&oid)?.clone(), events))).collect();
        found.sort_by_key(|(table, _)| table.oid);
        found
    }

    /// Which key a row seen through a view has is not known: its base tables cannot be followed.
    fn view(&mut self, catalog: &Catalog, view: &Arc<Relation>) {
        let why = || format!("view {}.{}", view.schema, view.name);
        self.view.get_or_insert_with(why);
        if view.hazards.instead_of || view.hazards.rules {
            return; // What is written is the trigger's business: counts tell.
        }
        // Whether PostgreSQL updates it by itself is not asked: who cannot be updated refuses, and then nothing is written.
        let mut seen = HashSet::from([view.oid]);
        let mut open: Vec<u32> = view.reads.clone();
        while let Some(oid) = open.pop() {
            let Some(relation) = catalog.relations.get(&oid).filter(|_| seen.insert(oid)) else { continue };
            match relation.kind {
                Kind::View => open.extend(&relation.reads),
                Kind::Table | Kind::Partitioned => self.behind.push(relation.clone()),
                Kind::Foreign | Kind::Materialized => {}
            }
        }
    }
}

/// The relation and everything below it.
pub(super) fn with_children(catalog: &Catalog, relation: &Arc<Relation>) -> Vec<Arc<Relation>> {
    let mut all = vec![relation.clone()];
    let mut seen = HashSet::from([relation.oid]);
    let mut at = 0;
    while let Some(parent) = all.get(at).cloned() {
        let children = parent.children.iter().filter_map(|oid| catalog.relations.get(oid));
        all.extend(children.filter(|child| seen.insert(child.oid)).cloned().collect::<Vec<_>>());
        at += 1;
    }
    all
}

/// The table, and what it is a partition of: what refers to that refers to it.
pub(super) fn with_roots(catalog: &Catalog, table: &Arc<Relation>) -> Vec<Arc<Relation>> {
    let mut all = vec![table.clone()];
    let mut at = 0;
    while let Some(part) = all.get(at).cloned() {
        let parents = part.parents.iter().filter_map(|oid| catalog.relations.get(oid));
        all.extend(parents.filter(|one| one.kind == Kind::Partitioned).cloned());
        at += 1;
    }
    all
}

/// The tables that hold the rows of a target: a partitioned table's leaves; an inheritance parent and, unless ONLY
/// was said (or rows are inserted), its children.
pub(super) fn holders(catalog: &Catalog, relation: &Arc<Relation>, below: bool) -> Vec<Arc<Relation>> {
    if relation.kind != Kind::Partitioned && !below {
        return vec![relation.clone()];
    }
    let mut all = with_children(catalog, relation);
    all.retain(|part| part.kind == Kind::Table);
    all
}

/// Labels for dirty marks.
pub(super) fn labels(tables: &[Arc<Relation>]) -> Vec<TableId> {
    let mut ids: Vec<_> = tables.iter().map(|table| table.id).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Names of the key's columns; empty: no key.
pub(super) fn key_names(relation: &Relation) -> Vec<&str> {
    relation.key_columns().map(|column| column.name.as_str()).collect()
}

/// The columns of both keys have the same names and forms, so that one list of operands or one hidden RETURNING
/// serves both.
pub(super) fn same_key(a: &Relation, b: &Relation) -> bool {
    let describe = |relation: &Relation| -> Vec<_> {
        relation
            .key_columns()
            .map(|column| (column.name.clone(), Form::of(column), column.base_oid, column.typmod))
            .collect()
    };
    describe(a) == describe(b)
}
