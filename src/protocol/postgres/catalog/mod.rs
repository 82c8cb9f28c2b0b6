//! What the proxy knows of a database's schema: tables, their keys, and what could write behind a statement's back.
//!
//! A [`Catalog`] is an immutable snapshot shared by all sessions; a schema change replaces it whole.

mod load;
pub mod routine;
mod setters;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

pub(in crate::protocol::postgres) use load::FIRST_NORMAL_OID;
pub use load::{LoadError, load, uncertain_extensions};
pub use setters::Setters;

use super::key::Layout;
use crate::record::TableId;

/// One database's schema as of some moment.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Grows with every reload that found a difference: what was prepared under another epoch is prepared anew.
    pub epoch: u64,
    /// The epoch in which each table was found new or other than before.
    pub changed: HashMap<TableId, u64>,
    /// `server_version_num`, e.g. 150018.
    pub version: u32,
    /// Every table, partition, foreign table and view outside the system schemas, by oid.
    pub relations: HashMap<u32, Arc<Relation>>,
    /// Oids by bare name, over all schemas.
    pub by_name: HashMap<String, Vec<u32>>,
    /// By label.
    pub by_id: HashMap<TableId, u32>,
    /// Names of functions, procedures, aggregates outside `pg_catalog` and `information_schema` (any schema),
    /// except those of extensions that compute, as far as anybody knows.
    pub user_functions: HashSet<String>,
    /// Those of them that may set something for their session, whatever calls them. Not loaded with the others, see
    /// [`Setters::load`].
    pub setters: Arc<Setters>,
    /// Symbols of operators outside `pg_catalog` whose function is one of those.
    pub user_operators: HashSet<String>,
    /// Names of types, outside the system schemas, that a cast or a domain check could run a user function for.
    pub user_types: HashSet<String>,
    /// Names of types none of which, in any schema, is a domain with a default; not those that tables have.
    pub plain_types: HashSet<String>,
    /// Names of types some of which, in any schema, are or hold dates or times: their literals may read the clock.
    pub timed_types: HashSet<String>,
    /// Names of procedures none of which, in any schema, can end its transaction on its way.
    pub calm_procedures: HashSet<String>,
    /// Names of functions that may answer otherwise although arguments and settings are the same, in any schema:
    /// volatile ones, and those of the server's own that tell the time, the user or what the server is.
    pub unsteady: HashSet<String>,
    /// Foreign keys.
    pub foreign_keys: Vec<Arc<ForeignKey>>,
    /// Event triggers that fire in clients' sessions and may write: by name, the event of each.
    pub event_triggers: BTreeMap<String, String>,
    /// The files of tables by oid, as they were when this was loaded: TRUNCATE gives them others.
    pub files: HashMap<u32, u32>,
    /// The statement that counts what a transaction wrote to each table, from the first session that needed it.
    pub count_sql: OnceLock<String>,
    /// The server's encoding is UTF8.
    pub utf8: bool,
}

/// The event of `pg_event_trigger` that is no schema change (17 and later).
const LOGIN: &str = "login";

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds rows: an ordinary table or a leaf partition.
    Table,
    /// A partitioned table; its rows are in its leaves.
    Partitioned,
    /// A view.
    View,
    /// A materialized view: REFRESH only, never mirrored.
    Materialized,
    /// A foreign table: never mirrored.
    Foreign,
}

/// A table, view, ...
#[derive(Clone, Debug)]
pub struct Relation {
    /// On this side.
    pub oid: u32,
    /// The label.
    pub id: TableId,
    /// Its schema.
    pub schema: String,
    /// Its bare name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// UNLOGGED: dirty after any restart of its server.
    pub unlogged: bool,
    /// In order of `attnum`, dropped ones left out.
    pub columns: Vec<Column>,
    /// The mirror's key, see [`Key`]. A partitioned table has its own, the leaves theirs.
    pub key: Option<Key>,
    /// Direct parent by partitioning or inheritance.
    pub parents: Vec<u32>,
    /// Direct children by partitioning or inheritance.
    pub children: Vec<u32>,
    /// What could run behind a statement's back.
    pub hazards: Hazards,
    /// Relations a view reads, directly, by oid.
    pub reads: Vec<u32>,
    /// Planner's estimate of rows.
    pub rows: f64,
    /// What its own server calls it, where we call it as the other side does (see [`super::scope`]).
    pub actual: Option<Box<Actual>>,
}

/// What a server calls a table for which we have another word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// Its schema.
    pub schema: String,
    /// Its bare name.
    pub name: String,
    /// Its columns' names, by our words for them, where they differ.
    pub columns: HashMap<String, String>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its number.
    pub attnum: i16,
    /// Its type's oid.
    pub type_oid: u32,
    /// Base type's oid where the type is a domain, else `type_oid`.
    pub base_oid: u32,
    /// The type as SQL, e.g. `pg_catalog.int4`, `app.mood`, without modifier.
    pub type_sql: String,
    /// `atttypmod`, -1 = none (of the domain where the type is one).
    pub typmod: i32,
    /// `typtype`: b b(ase), e(num), d(omain), c(omposite), r(ange), m(ultirange).
    pub typtype: u8,
    /// What it sorts by, qualified; empty: as the database does, or its type has no collation.
    pub collation: String,
    /// Collation is deterministic (or the type has none).
    pub deterministic: bool,
    /// GENERATED ALWAYS AS (..) STORED or VIRTUAL: never written.
    pub generated: bool,
    /// 0 none, `a` always, `d` by default.
    pub identity: u8,
    /// NOT NULL.
    pub not_null: bool,
    /// Has a default (serial included).
    pub has_default: bool,
    /// Binary format may be copied between servers: no oid of a user type inside.
    pub binary_safe: bool,
    /// Sessions write its values as text in different ways: by DateStyle, extra_float_digits, search_path, ..
    pub text_varies: bool,
}

/// The mirror's key: primary key, else a unique index that is valid, immediate, total, without expressions, all NOT NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The index's name.
    pub name: String,
    /// Positions in [`Relation::columns`], in index order.
    pub columns: Vec<usize>,
    /// Which columns these are.
    pub layout: Layout,
}

impl Key {
    /// The key that is an index over these positions in a relation's columns.
    pub fn new(name: String, columns: Vec<usize>, of: &[Column]) -> Key {
        let layout = Layout::of(columns.iter().map(|&at| (of[at].name.as_str(), of[at].type_sql.as_str())));
        Key { name, columns, layout }
    }
}

/// What happens to rows, and what triggers fire on: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u8);

impl Events {
    /// Rows come.
    pub const INSERT: Events = Events(1);
    /// Rows change.
    pub const UPDATE: Events = Events(2);
    /// Rows go.
    pub const DELETE: Events = Events(4);
    /// All of it.
    pub const ALL: Events = Events(7);

    /// These, if that is so.
    #[must_use]
    pub fn only_if(self, so: bool) -> Events {
        if so { self } else { Events::default() }
    }

    /// Is any of `other` in it?
    pub fn meets(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Events) {
        self.0 |= other.0;
    }
}

/// What could write, or change what is written, behind a statement's back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hazards {
    /// Enabled row trigger BEFORE INSERT that could change the key.
    pub before_insert: bool,
    /// Enabled row trigger BEFORE UPDATE.
    pub before_update: bool,
    /// Any enabled user trigger.
    pub triggers: bool,
    /// On what triggers fire that may write: other tables, other rows, or what others refer to.
    pub fires: Events,
    /// Some of them can be put off to the end of the transaction.
    pub deferred: bool,
    /// Rules other than a view's ON SELECT.
    pub rules: bool,
    /// INSTEAD OF triggers, or rules DO INSTEAD: other rows are written than those that a statement names.
    pub instead_of: bool,
    /// Row level security is on.
    pub row_security: bool,
    /// A default, check constraint, policy, generated column, index or view body calls a user function.
    pub user_functions: bool,
    /// Somebody may write it, or what it is a partition of, who may not read it.
    pub blind: bool,
    /// A unique index takes for equal what the type's own equality tells apart: ON CONFLICT may mean a row with another key.
    pub loose: bool,
}

impl Hazards {
    /// A write to the table may write elsewhere, or other rows.
    pub fn may_write(self) -> bool {
        self.writer(Events::ALL).is_some() || self.instead_of
    }

    /// What may write elsewhere, or other rows, when this happens to the table's.
    pub fn writer(self, events: Events) -> Option<&'static str> {
        match () {
            () if self.rules => Some("rule"),
            () if self.fires.meets(events) => Some("trigger"),
            () if self.user_functions => Some("function"),
            () => None,
        }
    }
}

/// `ON DELETE`, `ON UPDATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// NO ACTION or RESTRICT.
    None,
    /// CASCADE.
    Cascade,
    /// SET NULL.
    SetNull,
    /// SET DEFAULT.
    SetDefault,
}

/// A foreign key between leaf or partitioned tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// The referencing relation's oid.
    pub child: u32,
    /// The referenced relation's oid.
    pub parent: u32,
    /// Positions in the child's columns.
    pub child_columns: Vec<usize>,
    /// Positions in the parent's columns, same order.
    pub parent_columns: Vec<usize>,
    /// On delete of the parent.
    pub on_delete: Act,
    /// On update of the parent's columns.
    pub on_update: Act,
    /// DEFERRABLE.
    pub deferrable: bool,
}

impl ForeignKey {
    /// It writes rows of the child where those of the parent go or change.
    pub fn acts(&self) -> bool {
        self.on_delete != Act::None || self.on_update != Act::None
    }

    /// What it does to rows of the child.
    fn does(&self) -> Events {
        let changes = self.on_update != Act::None || matches!(self.on_delete, Act::SetNull | Act::SetDefault);
        Events::DELETE.only_if(self.on_delete == Act::Cascade) | Events::UPDATE.only_if(changes)
    }
}

impl Catalog {
    /// The relation with this label.
    pub fn relation(&self, id: TableId) -> Option<&Arc<Relation>> {
        self.relations.get(self.by_id.get(&id)?)
    }

    /// The tables whose rows foreign keys may delete or change, directly or not, where rows of these are deleted or get
    /// other values, and what happens there; partitions with what they are part of.
    pub fn reached(&self, from: impl IntoIterator<Item = u32>) -> HashMap<u32, Events> {
        let (mut reached, mut seen) = (HashMap::new(), HashSet::new());
        let mut open: Vec<u32> = from.into_iter().collect();
        while let Some(oid) = open.pop() {
            let Some(table) = self.relations.get(&oid).filter(|_| seen.insert(oid)) else { continue };
            open.extend(&table.parents); // What refers to a partitioned table refers to its partitions.
            for key in self.foreign_keys.iter().filter(|key| key.parent == oid && key.acts()) {
                for child in self.with_children(key.child) {
                    *reached.entry(child).or_default() |= key.does();
                    open.push(child);
                }
            }
        }
        reached
    }

    /// [`Catalog::reached`] by label: those that hold rows.
    pub fn taken_along(&self, with: impl IntoIterator<Item = TableId>) -> impl Iterator<Item = TableId> {
        let oids = with.into_iter().filter_map(|table| self.by_id.get(&table).copied());
        let reached = self.reached(oids).into_keys().filter_map(|oid| self.relations.get(&oid));
        reached.filter(|table| table.kind == Kind::Table).map(|table| table.id)
    }

    fn with_children(&self, oid: u32) -> Vec<u32> {
        let (mut all, mut at) = (vec![oid], 0);
        while let Some(table) = all.get(at).map(|oid| self.relations.get(oid)) {
            let children = table.iter().flat_map(|table| &table.children);
            let news: Vec<u32> = children.filter(|child| !all.contains(child)).copied().collect();
            all.extend(news);
            at += 1;
        }
        all
    }

    /// The event trigger that fires where a schema changes, if there is one.
    pub fn schema_trigger(&self) -> Option<&str> {
        self.event_triggers.iter().find(|(_, event)| *event != LOGIN).map(|(name, _)| name.as_str())
    }

    /// Event triggers that fire where a client logs in.
    pub fn login_triggers(&self) -> impl Iterator<Item = &str> {
        self.event_triggers.iter().filter(|(_, event)| *event == LOGIN).map(|(name, _)| name.as_str())
    }

    /// Every table that holds rows of its own, in no order.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations.values().filter(|relation| relation.kind == Kind::Table)
    }

    /// Take over the epoch of the catalog before this one, or begin the next where they differ in more than estimates.
    pub fn follow(&mut self, before: &Catalog) {
        let next = before.epoch + 1;
        let differs = |relation: &Relation| match before.relation(relation.id) {
            Some(old) => !relation.same(old) || self.references(relation.oid) != before.references(old.oid),
            None => true,
        };
        let of = |relation: &Arc<Relation>| {
            let since = if differs(relation) { next } else { before.changed.get(&relation.id).copied().unwrap_or(0) };
            (relation.id, since)
        };
        self.changed = self.relations.values().map(of).collect();
        let tables = self.relations.len() != before.relations.len() || self.changed.values().any(|&at| at == next);
        let others = self.code() != before.code() || self.event_triggers != before.event_triggers;
        self.epoch = before.epoch + u64::from(tables || others);
    }

    /// What runs without being a table's.
    fn code(&self) -> [&HashSet<String>; 6] {
        let (functions, types) = (&self.user_functions, &self.user_types);
        [functions, &self.user_operators, types, &self.plain_types, &self.calm_procedures, &self.unsteady]
    }

    /// The foreign keys from and to a table.
    fn references(&self, oid: u32) -> Vec<&ForeignKey> {
        let of = self.foreign_keys.iter().filter(|key| key.child == oid || key.parent == oid);
        of.map(|key| &**key).collect()
    }

    /// These, and all whose rows they show: partitions, children, and what views read; and what those are partitions of.
    pub fn shown_by(&self, tables: &[TableId]) -> Vec<TableId> {
        let named = tables.iter().filter_map(|table| self.by_id.get(table).copied()).collect();
        let shown = self.closure(named, |relation| [&relation.children[..], &relation.reads].concat());
        let is_root = |oid: &u32| self.relations.get(oid).is_some_and(|parent| parent.kind == Kind::Partitioned);
        let all = self.closure(shown, |relation| relation.parents.iter().copied().filter(is_root).collect());
        all.iter().filter_map(|oid| Some(self.relations.get(oid)?.id)).collect()
    }

    /// These relations, what `next` says of them, what it says of that, and so on: each once.
    fn closure(&self, mut open: Vec<u32>, next: impl Fn(&Relation) -> Vec<u32>) -> Vec<u32> {
        let (mut seen, mut all) = (HashSet::new(), Vec::new());
        while let Some(oid) = open.pop() {
            if let Some(relation) = self.relations.get(&oid).filter(|_| seen.insert(oid)) {
                open.extend(next(relation));
                all.push(oid);
            }
        }
        all
    }

    /// Is the table another one than it was in that epoch?
    pub fn changed_since(&self, table: TableId, epoch: u64) -> bool {
        self.epoch != epoch && self.changed.get(&table).is_none_or(|&changed| changed > epoch)
    }
}

impl Relation {
    /// As operators write it.
    pub(crate) fn shown(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Do both say the same, but for the estimate?
    fn same(&self, other: &Relation) -> bool {
        (self.oid, self.kind, self.unlogged, &self.hazards) == (other.oid, other.kind, other.unlogged, &other.hazards)
            && (&self.columns, &self.parents, &self.children, &self.reads)
                == (&other.columns, &other.parents, &other.children, &other.reads)
            && self.key == other.key
    }

    /// `schema.name`, quoted where SQL needs it, for text that goes to its server or a person.
    pub fn sql(&self) -> String {
        let (schema, name) = match &self.actual {
            Some(actual) => (&actual.schema, &actual.name),
            None => (&self.schema, &self.name),
        };
        format!("{}.{}", quote(schema), quote(name))
    }

    /// The column of this name, or word, quoted for its server.
    pub fn column_sql(&self, name: &str) -> String {
        let actual = self.actual.as_ref().and_then(|actual| actual.columns.get(name));
        quote(actual.map_or(name, String::as_str))
    }

    /// The key's columns.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().flat_map(|key| key.columns.iter().map(|&at| &self.columns[at]))
    }
}

/// Quote an identifier, always.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use crate::protocol::postgres::analysis::schema::catalog;
    use crate::record::TableId;

    #[test]
    fn what_views_and_roots_show_are_rows_of_the_tables_behind_them() {
        let catalog = catalog();
        for (name, expected) in [
            ("acc", &["acc"][..]),
            ("part", &["part", "part_1", "part_2"]),
            ("part_1", &["part", "part_1"]),
            ("parent", &["child", "parent"]),
            ("child", &["child"]),
            ("deep_view", &["acc", "bad_view", "deep_view"]),
            ("unknown", &[]),
        ] {
            let shown = catalog.shown_by(&[TableId::of("public", name)]);
            let mut names: Vec<_> = shown.iter().filter_map(|id| Some(catalog.relation(*id)?.name.as_str())).collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{name}");
        }
    }
}
