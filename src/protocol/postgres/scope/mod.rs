//! Which tables are mirrored, which of their rows, and what the other side calls them.
//!
//! The rest of the mirror speaks of a table by the primary's words: its label, its name, its columns' names are those of
//! the primary. The secondary's catalog is *translated* when it is read ([`Scope::translate`]), so that both sides meet by
//! words; what the secondary itself calls a thing is needed where SQL is written for it, and nowhere else
//! ([`Relation::sql`], [`Relation::column_sql`]). Sessions and the journal know nothing of all this: a key is owed
//! whatever becomes of it.
//!
//! A filter is part of the primary's table as a payment reads it: a row for which it does not hold is not there. So a row
//! that leaves the filter is deleted on the secondary by the write that made it leave, as one that was deleted, and
//! chunks, twins and digests see what payments see. It must be immutable, or rows would come and go unwritten.
//!
//! The configuration speaks of origin and target, and a mirror of primary and secondary: after a switch the same maps are
//! read the other way round. Filters are not: the target has a part of the rows, and what it lacks must not be deleted
//! on the origin. A filtered table is not mirrored back.

mod change;
pub mod filter;
mod map;

use std::collections::HashMap;
use std::sync::Arc;

use crate::backfill::is_named;
use crate::config::{Config, Keyless};
use crate::record::{Side, TableId};

use super::catalog::{Actual, Catalog, Kind, Relation};
use map::Maps;

/// Which tables are mirrored, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Those without a key as well, whole.
    pub keyless: bool,
    /// Only these, if there are any: qualified names of the origin, in which `*` stands for any letters.
    pub include: Vec<String>,
    /// Not these of them.
    pub exclude: Vec<String>,
    maps: Arc<Maps>,
    primary: Side,
}

/// Which rows of a table are mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows<'a> {
    /// All.
    All,
    /// Those for which this holds, in the words of the primary, which is the origin.
    Where(&'a str),
    /// None: the primary is the target and has a part of them.
    NotBack,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope { keyless: false, include: Vec::new(), exclude: Vec::new(), maps: Arc::default(), primary: Side::Origin }
    }
}

impl Scope {
    /// As it is configured, for a mirror from this side.
    pub fn of(config: &Config, primary: Side) -> Scope {
        Scope {
            keyless: config.mirror.keyless == Keyless::Copy,
            include: config.mirror.include.clone(),
            exclude: config.mirror.exclude.clone(),
            maps: Arc::new(Maps::new(&config.tables)),
            primary,
        }
    }

    /// The same for a mirror from the given side.
    pub fn from(&self, primary: Side) -> Scope {
        Scope { primary, ..self.clone() }
    }

    /// The table is none of ours. `name` is qualified, and the primary's.
    pub fn excludes(&self, name: &str) -> bool {
        let origins = (self.primary == Side::Target).then(|| self.maps.to_origin(name)).flatten();
        let name = origins.as_deref().unwrap_or(name);
        is_named(&self.exclude, name) || !self.include.is_empty() && !is_named(&self.include, name)
    }

    /// The primary's table is none of ours: a partition goes by its root's name.
    pub fn excludes_table(&self, primary: &Catalog, table: &Arc<Relation>) -> bool {
        self.excludes(&topmost(primary, table).shown())
    }

    /// What a finding speaks of is part of a table that is none of ours. `tables` are all ([`names`]).
    pub fn leaves_out(&self, object: &str, tables: &[Named]) -> bool {
        let is_of = |name: &str| {
            let rest = object.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ' ', ':']))
        };
        let mut of = tables.iter().filter(|table| is_of(&table.own)).peekable();
        match of.peek() {
            None => is_named(&self.exclude, object),
            Some(_) => of.any(|table| self.excludes(&table.root)),
        }
    }

    /// What the secondary calls the primary's table; `None`: nothing there can be it.
    pub fn there(&self, name: &str) -> Option<String> {
        match self.primary {
            Side::Origin => Some(self.maps.to_target(name)),
            Side::Target => self.maps.to_origin(name),
        }
    }

    /// What the primary calls the secondary's table; `None`: nothing there can be it.
    pub fn here(&self, name: &str) -> Option<String> {
        match self.primary {
            Side::Origin => self.maps.to_origin(name),
            Side::Target => Some(self.maps.to_target(name)),
        }
    }

    /// The primary's columns that have another name on the secondary, and that name.
    pub fn renamed(&self, name: &str) -> Vec<(&str, &str)> {
        let pairs = self.of_primary(name).map(|map| &map.columns[..]).unwrap_or_default();
        let pairs = pairs.iter().map(|(origin, target)| (origin.as_str(), target.as_str()));
        match self.primary {
            Side::Origin => pairs.collect(),
            Side::Target => pairs.map(|(origin, target)| (target, origin)).collect(),
        }
    }

    /// Which of the primary's rows are mirrored.
    pub fn rows(&self, name: &str) -> Rows<'_> {
        match (self.of_primary(name).and_then(|map| map.filter.as_deref()), self.primary) {
            (None, _) => Rows::All,
            (Some(filter), Side::Origin) => Rows::Where(filter),
            (Some(_), Side::Target) => Rows::NotBack,
        }
    }

    /// The table and its columns have the same names on both sides.
    pub fn keeps_names(&self, name: &str) -> bool {
        self.there(name).as_deref() == Some(name) && self.renamed(name).is_empty()
    }

    /// Clients ask both sides for the table in the same words, and the same rows are theirs.
    pub fn is_alike(&self, name: &str) -> bool {
        self.keeps_names(name) && self.rows(name) == Rows::All
    }

    /// Everything has its name, and all of its rows.
    pub fn is_plain(&self) -> bool {
        self.maps.is_empty()
    }

    fn of_primary(&self, name: &str) -> Option<&map::Map> {
        match self.primary {
            Side::Origin => self.maps.of(name),
            Side::Target => self.maps.of(&self.maps.to_origin(name)?),
        }
    }

    /// The secondary's catalog in the primary's words. A table that nothing of the primary is mirrored to has no label: it
    /// is nobody's, whatever its name is.
    pub fn translate(&self, catalog: &mut Catalog) {
        if self.is_plain() {
            return;
        }
        let roots: HashMap<u32, String> =
            catalog.relations.values().map(|one| (one.oid, topmost(catalog, one).shown())).collect();
        let relations = std::mem::take(&mut catalog.relations);
        catalog.by_id.clear();
        catalog.by_name.clear();
        for (oid, relation) in relations {
            let relation = self.translated(relation, &roots[&oid]);
            if relation.id != TableId::NONE {
                catalog.by_id.insert(relation.id, oid);
                catalog.by_name.entry(relation.name.clone()).or_default().push(oid);
            }
            catalog.relations.insert(oid, relation);
        }
    }

    fn translated(&self, relation: Arc<Relation>, root: &str) -> Arc<Relation> {
        let own = relation.shown();
        let Some(word) = self.here(&own) else {
            return Arc::new(Relation { id: TableId::NONE, ..Arc::unwrap_or_clone(relation) });
        };
        // Columns of a partition are its root's.
        let renamed = self.here(root).map(|root| self.renamed(&root)).unwrap_or_default();
        if word == own && renamed.is_empty() {
            return relation;
        }
        let mut one = Arc::unwrap_or_clone(relation);
        let (schema, name) = word.split_once('.').unwrap_or(("", &word));
        let mut actual = Actual {
            schema: std::mem::replace(&mut one.schema, schema.to_owned()),
            name: std::mem::replace(&mut one.name, name.to_owned()),
            columns: HashMap::new(),
        };
        one.id = TableId::of(schema, name);
        for column in &mut one.columns {
            let word = match renamed.iter().find(|(_, there)| *there == column.name) {
                Some((here, _)) => (*here).to_owned(),
                // It is not the column that the primary calls so.
                None if renamed.iter().any(|(here, _)| *here == column.name) => format!("{} (its own)", column.name),
                None => continue,
            };
            actual.columns.insert(word.clone(), std::mem::replace(&mut column.name, word));
        }
        one.actual = Some(Box::new(actual));
        Arc::new(one)
    }

    /// The primary's words for a column of the secondary, `schema.table.column`.
    pub fn column_here(&self, there: &str) -> Option<String> {
        let (table, column) = there.rsplit_once('.')?;
        let table = self.here(table)?;
        let renamed = self.renamed(&table).into_iter().find(|(_, other)| *other == column);
        let column = renamed.map_or(column, |(here, _)| here);
        Some(format!("{table}.{column}"))
    }

    /// Foreign keys that delete or change rows of a table that is mirrored with those of one that is not: the table and
    /// the other one. Nobody would know which rows, so the table is not paid.
    pub fn acting_from_outside(&self, primary: &Catalog) -> Vec<(String, String)> {
        let root = |oid| Some(topmost(primary, primary.relations.get(&oid)?).shown());
        let ends = primary.foreign_keys.iter().filter(|fk| fk.acts());
        let ends = ends.filter_map(|fk| Some((root(fk.child)?, root(fk.parent)?)));
        let mut found: Vec<_> = ends.filter(|(child, parent)| !self.excludes(child) && self.excludes(parent)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What contradicts the primary's tables: the map, and why. What only a server can say of a filter, it is asked
    /// ([`filter::refused`]).
    pub fn flaws(&self, primary: &Catalog) -> Vec<(String, String)> {
        if self.is_plain() {
            return Vec::new();
        }
        let tables = primary.relations.values().filter(|one| matches!(one.kind, Kind::Table | Kind::Partitioned));
        let tables: HashMap<String, &Arc<Relation>> = tables.map(|one| (one.shown(), one)).collect();
        let mut found = Vec::new();
        for map in self.maps.iter() {
            if let Some(filter) = &map.filter
                && let Err(why) = filter::columns(filter)
            {
                found.push((map.from.to_string(), why));
            }
            if self.primary == Side::Origin && !map.from.has_star() {
                let of_table = tables.get(&map.from.to_string()).map_or_else(
                    || vec!["the origin has no such table: correct it, or remove it from [[tables]]".to_owned()],
                    |table| of_table(map, primary, table),
                );
                found.extend(of_table.into_iter().map(|why| (map.from.to_string(), why)));
            }
        }
        found.extend(self.collisions(tables.keys()));
        found.sort_unstable();
        found
    }

    /// Two tables of the primary that are one on the secondary.
    fn collisions<'n>(&self, names: impl Iterator<Item = &'n String>) -> Vec<(String, String)> {
        let mut sources: HashMap<String, &String> = HashMap::new();
        let mut found = Vec::new();
        for name in names.filter(|name| !self.excludes(name)) {
            let Some(there) = self.there(name) else { continue };
            if let Some(other) = sources.insert(there.clone(), name) {
                let (one, other) = (name.min(other), name.max(other));
                found.push((
                    one.clone(),
                    format!("{there} would be the target of {other} as well: give one another name"),
                ));
            }
        }
        found
    }
}

/// What a table map says of a table that is not so.
fn of_table(map: &map::Map, catalog: &Catalog, table: &Arc<Relation>) -> Vec<String> {
    let has = |name: &str| table.columns.iter().any(|column| column.name == name);
    let in_filter = map.filter.as_deref().and_then(|filter| filter::columns(filter).ok()).unwrap_or_default();
    let named = map.columns.iter().map(|(name, _)| name).chain(&in_filter);
    let lacks = named.filter(|name| !has(name));
    let mut found: Vec<String> = lacks.map(|name| format!("the origin's table has no column {name}")).collect();
    // Two columns would be one: one that keeps its name, and one that gets it.
    for (name, there) in &map.columns {
        if has(there) && !map.columns.iter().any(|(other, _)| other == there) {
            found.push(format!("{name} is to be called {there} on the target, where another column has that name"));
        }
    }
    if topmost(catalog, table).oid != table.oid {
        found.push("it is a partition: say it of the table that it is a part of".to_owned());
    }
    found.dedup();
    found
}

/// A table's qualified name, and that of the table that it is a part of, in the end, or itself.
#[derive(Debug)]
pub struct Named {
    own: String,
    root: String,
}

/// All tables of the primary.
pub fn names(primary: &Catalog) -> Vec<Named> {
    let named = |one: &Arc<Relation>| Named { own: one.shown(), root: topmost(primary, one).shown() };
    primary.relations.values().map(named).collect()
}

/// Tables that are no partition of another.
pub(super) fn roots(catalog: &Catalog) -> impl Iterator<Item = &Arc<Relation>> {
    let tables = catalog.relations.values().filter(|one| matches!(one.kind, Kind::Table | Kind::Partitioned));
    tables.filter(|one| topmost(catalog, one).oid == one.oid)
}

/// The partitioned table that it is a part of, in the end; or itself.
pub(super) fn topmost(catalog: &Catalog, relation: &Arc<Relation>) -> Arc<Relation> {
    let mut root = Arc::clone(relation);
    while let Some(parent) = root.parents.first().and_then(|oid| catalog.relations.get(oid)) {
        if parent.kind != Kind::Partitioned {
            break;
        }
        root = Arc::clone(parent);
    }
    root
}

#[cfg(test)]
mod tests;
