//! Both sides' tables, matched by qualified name: what a payment reads here and writes there.
//!
//! Each side has its own oids, column order and types. Columns meet by name. What the secondary computes itself
//! (generated columns) is left out; columns that only the secondary has get their defaults.
//!
//! **Partitions.** All keys of a partition tree are paid at its topmost root, read and written through it: a row that
//! moved between partitions is one key there, and the sides may be partitioned differently. Where a leaf's key is not
//! the root's (a root without a key), the leaf is paid as a table of its own. **Inheritance** is `ONLY`: each table has
//! its own keys.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::postgres::catalog::{self, Catalog, Column, FIRST_NORMAL_OID, Kind, Relation, quote};
use crate::protocol::postgres::client::{self, Client};
use crate::protocol::postgres::key::{self, Form, Layout};
use crate::record::TableId;

use super::Scope;

/// One table on both sides.
#[derive(Debug)]
pub(in crate::protocol::postgres) struct Pair {
    pub(in crate::protocol::postgres) id: TableId,
    pub(in crate::protocol::postgres) primary: Arc<Relation>,
    pub(super) secondary: Arc<Relation>,
    /// Names of the columns that are copied, as the secondary orders them.
    columns: Vec<String>,
    /// Rows may be copied in binary form.
    pub(super) binary: bool,
    /// Empty: it has none, and is only ever paid whole.
    pub(in crate::protocol::postgres) key: Vec<KeyColumn>,
    /// Two spellings may be one key: rows are read once per row, not once per key, and all in one statement.
    pub(in crate::protocol::postgres) wide: bool,
    /// The table on the primary and all its partitions, as they were when the catalog was read.
    pub(super) footprint: Footprint,
}

/// What tells, at a later snapshot, that a table and its partitions are still the ones whose catalog was read.
#[derive(Debug)]
pub(in crate::protocol::postgres) struct Footprint {
    /// The table's and its partitions' oids, and the [`PRINT`] of each.
    pub(super) prints: Vec<(u32, String)>,
    pub(super) partitioned: bool,
    /// Those of them that hold rows: oid and name.
    pub(super) heaps: Vec<(u32, String)>,
    /// All rows are in these.
    pub(super) local: bool,
}

/// Changes with every change of a table's columns, key, constraints and foreign keys (those that point at it have
/// internal triggers here), for a row of `pg_class c`: the transactions that wrote its rows of the catalogs. What VACUUM
/// and ANALYZE write there they write in place.
pub(super) const PRINT: &str = "pg_catalog.concat_ws(',', c.relkind, c.relnatts, \
    (SELECT pg_catalog.sum(p.xmin::pg_catalog.text::pg_catalog.int8) FROM pg_catalog.pg_index p WHERE p.indrelid = c.oid), \
    (SELECT pg_catalog.sum(p.xmin::pg_catalog.text::pg_catalog.int8) FROM pg_catalog.pg_attribute p \
      WHERE p.attrelid = c.oid AND p.attnum > 0), \
    (SELECT pg_catalog.sum(p.xmin::pg_catalog.text::pg_catalog.int8) FROM pg_catalog.pg_constraint p \
      WHERE p.conrelid = c.oid), \
    (SELECT pg_catalog.sum(p.xmin::pg_catalog.text::pg_catalog.int8) FROM pg_catalog.pg_trigger p \
      WHERE p.tgrelid = c.oid))";

/// One column of a table's key.
#[derive(Debug)]
pub(in crate::protocol::postgres) struct KeyColumn {
    name: String,
    /// Oid of the values in the parameter, and of the parameter, which is an array of them.
    pub(super) element: u32,
    pub(super) array: u32,
    /// Cast that the parameter's values need, on the primary and on the secondary.
    casts: Option<(String, String)>,
}

/// What is digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Rows,
    Keys,
}

/// One of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum At {
    Primary,
    Secondary,
}

impl Pair {
    fn relation(&self, at: At) -> &Relation {
        match at {
            At::Primary => &self.primary,
            At::Secondary => &self.secondary,
        }
    }

    /// The table as a FROM item: its own rows, or those of all partitions.
    pub(super) fn table(&self, at: At) -> String {
        let relation = self.relation(at);
        let only = if relation.kind == Kind::Partitioned { "" } else { "ONLY " };
        format!("{only}{}", relation.sql())
    }

    pub(super) fn column_list(&self, prefix: &str) -> String {
        self.columns.iter().map(|name| format!("{prefix}{}", quote(name))).collect::<Vec<_>>().join(", ")
    }

    /// `unnest($1, ..) u(k0, ..)`.
    fn unnest(&self) -> String {
        let params: Vec<_> = (1..=self.key.len()).map(|n| format!("${n}")).collect();
        let names: Vec<_> = (0..self.key.len()).map(|n| format!("k{n}")).collect();
        format!("unnest({}) u({})", params.join(", "), names.join(", "))
    }

    /// The value of the n-th key column in the parameters, as that side's type.
    pub(super) fn parameter(&self, n: usize, at: At) -> String {
        match (&self.key[n].casts, at) {
            (None, _) => format!("u.k{n}"),
            (Some((cast, _)), At::Primary) | (Some((_, cast)), At::Secondary) => format!("u.k{n}::{cast}"),
        }
    }

    fn matched(&self, at: At) -> String {
        let equal = |n: usize| format!("t.{} = {}", quote(&self.key[n].name), self.parameter(n, at));
        (0..self.key.len()).map(equal).collect::<Vec<_>>().join(" AND ")
    }

    /// A key of one column whose parameter has its type: one scan of the index finds all, each row once.
    fn any(&self) -> Option<String> {
        match &self.key[..] {
            [KeyColumn { name, casts: None, .. }] => Some(format!("t.{} = ANY ($1)", quote(name))),
            _ => None,
        }
    }

    pub(in crate::protocol::postgres) fn read_sql(&self) -> String {
        let (columns, table) = (self.column_list("t."), self.table(At::Primary));
        if let Some(any) = self.any() {
            return format!("SELECT {columns} FROM {table} t WHERE {any}");
        }
        let once = if self.wide { "DISTINCT ON (t.tableoid, t.ctid) " } else { "" };
        format!("SELECT {once}{columns} FROM {} JOIN {table} t ON {}", self.unnest(), self.matched(At::Primary))
    }

    /// The rows between two positions of a table that holds rows of this one.
    pub(super) fn read_stretch_sql(&self, table: &str) -> String {
        let columns = self.column_list("t.");
        format!(
            "SELECT {columns} FROM ONLY {table} t WHERE t.ctid >= $1::pg_catalog.tid AND t.ctid < $2::pg_catalog.tid"
        )
    }

    pub(super) fn read_whole_sql(&self) -> String {
        format!("SELECT {} FROM {} t", self.column_list("t."), self.table(At::Primary))
    }

    /// Names of the columns that are copied.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The keys of the primary's rows as [`Pair::asked`], of those that are given.
    pub(super) fn present_sql(&self) -> String {
        let (asked, table) = (self.asked("t"), self.table(At::Primary));
        match self.any() {
            Some(any) => format!("SELECT {asked} FROM {table} t WHERE {any}"),
            None => format!("SELECT {asked} FROM {} JOIN {table} t ON {}", self.unnest(), self.matched(At::Primary)),
        }
    }

    /// The digest of a row `t`: equal on both sides for equal rows. Values are compared
    /// in the text that both servers write for them, which names no oid, and hashed so that wide rows are short answers.
    /// Columns whose types differ have no text in common and are left out.
    pub(super) fn digest(&self) -> String {
        let columns: Vec<_> = self.alike().map(|column| format!("t.{}", quote(&column.name))).collect();
        let columns = columns.join(", ");
        format!("pg_catalog.sha256(pg_catalog.convert_to(ROW({columns})::pg_catalog.text, 'UTF8'))")
    }

    /// Columns that have the same type on both sides.
    fn alike(&self) -> impl Iterator<Item = &Column> {
        let same = |one: &&Column| {
            find(&self.secondary, &one.name).is_some_and(|two| {
                one.type_sql == two.type_sql && (one.typmod == two.typmod || one.base_oid == key::oid::VARCHAR)
            })
        };
        self.columns.iter().filter_map(|name| find(&self.primary, name)).filter(same)
    }

    /// Both sides can tell which of their rows lie between two keys, and are one table each.
    pub(super) fn has_order(&self) -> bool {
        let one = |relation: &Relation| relation.kind == Kind::Table;
        let alike = |key: &KeyColumn| self.alike().any(|column| column.name == key.name);
        one(&self.primary) && one(&self.secondary) && self.key.iter().all(alike)
    }

    /// Of the rows of a table that lie where `place` says: how many, and the first and the last key, column by column. Not
    /// by the key's index, which says nothing of places.
    pub(super) fn edges_sql(&self, table: &str, place: &str) -> String {
        let names: Vec<_> = self.key.iter().map(|key| quote(&key.name)).collect();
        let keys = |of: &str, more: &str| names.iter().map(|name| format!("{of}{name}{more}")).collect::<Vec<_>>();
        let (own, list) = (keys("t.", "").join(", "), names.join(", "));
        let down = keys("", " DESC").join(", ");
        let shown = [keys("a.", "::pg_catalog.text"), keys("z.", "::pg_catalog.text")].concat().join(", ");
        format!(
            "WITH chunk AS MATERIALIZED (SELECT {own} FROM ONLY {table} t WHERE {place}) \
             SELECT (SELECT pg_catalog.count(*) FROM chunk), {shown} \
             FROM (SELECT * FROM chunk ORDER BY {list} LIMIT 1) a, (SELECT * FROM chunk ORDER BY {down} LIMIT 1) z"
        )
    }

    /// How many rows there are from one key to another (the parameters, column by column), and their digest; not of more
    /// than the last parameter says.
    pub(super) fn sum_sql(&self, at: At, what: What) -> String {
        let own = self.key.iter().map(|key| format!("t.{}", quote(&key.name))).collect::<Vec<_>>().join(", ");
        let types: Vec<_> = self.key.iter().filter_map(|key| find(&self.primary, &key.name)).collect();
        let edge = |first: usize| {
            let value = |(n, column): (usize, &&Column)| format!("${}::{}", first + n, column.type_sql);
            types.iter().enumerate().map(value).collect::<Vec<_>>().join(", ")
        };
        let (low, high, most) = (edge(1), edge(1 + types.len()), 1 + 2 * types.len());
        let sent: Vec<_> = match what {
            What::Rows => self.alike().map(sent).collect(),
            What::Keys => types.iter().copied().map(sent).collect(),
        };
        format!(
            "SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hash_record_extended(ROW(q.sent), 0)), \
             pg_catalog.sum(pg_catalog.hash_record_extended(ROW(q.sent), 1)) \
             FROM (SELECT pg_catalog.record_send(ROW({})) AS sent FROM {} t \
             WHERE ROW({own}) >= ROW({low}) AND ROW({own}) <= ROW({high}) LIMIT ${most}::pg_catalog.int8) q",
            sent.join(", "),
            self.table(at)
        )
    }

    /// The digest of each row, then its key as [`Pair::asked`].
    pub(in crate::protocol::postgres) fn digest_sql(&self, at: At) -> String {
        let (digest, asked, table) = (self.digest(), self.asked("t"), self.table(at));
        match self.any() {
            Some(any) => format!("SELECT {digest}, {asked} FROM {table} t WHERE {any}"),
            None => format!("SELECT {digest}, {asked} FROM {} JOIN {table} t ON {}", self.unnest(), self.matched(at)),
        }
    }

    pub(in crate::protocol::postgres) fn delete_sql(&self) -> String {
        let table = self.table(At::Secondary);
        if let Some(any) = self.any() {
            return format!("DELETE FROM {table} t WHERE {any}");
        }
        format!("DELETE FROM {table} t USING {} WHERE {}", self.unnest(), self.matched(At::Secondary))
    }

    pub(super) fn delete_whole_sql(&self) -> String {
        format!("DELETE FROM {}", self.table(At::Secondary))
    }

    pub(super) fn copy_sql(&self) -> String {
        self.copy_into(&self.secondary.sql())
    }

    pub(super) fn copy_into(&self, table: &str) -> String {
        let format = if self.binary { " (FORMAT binary)" } else { "" };
        format!("COPY {table} ({}) FROM STDIN{format}", self.column_list(""))
    }

    /// What a COPY writes, as a statement that can be explained.
    pub(in crate::protocol::postgres) fn insert_sql(&self) -> String {
        let (columns, table) = (self.column_list(""), self.secondary.sql());
        format!("INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {table}")
    }

    /// A scratch table that takes the same rows, without any constraint.
    pub(super) fn scratch_sql(&self) -> String {
        let (columns, table) = (self.column_list(""), self.secondary.sql());
        format!("CREATE TEMPORARY TABLE tandem_in ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA")
    }

    /// Expressions that yield the key of `alias` as [`crate::protocol::postgres::key::from_returned`] reads it.
    pub(super) fn asked(&self, alias: &str) -> String {
        let columns = self.primary.key_columns().zip(&self.key);
        let asked = columns.map(|(column, key)| Form::asked(column, &format!("{alias}.{}", quote(&key.name))));
        asked.collect::<Vec<_>>().join(", ")
    }

    /// `SELECT key of child FROM child JOIN ..`: the rows of this table that point at keys of `parent` (given as its
    /// parameters), `pairs` being (child column, parent column).
    pub(super) fn pointing_sql(&self, parent: &Pair, pairs: &[(&str, &str)], at: At) -> String {
        let asked = self.asked("c");
        let (child, unnest) = (self.table(at), parent.unnest());
        let in_key = |name: &str| parent.key.iter().position(|column| column.name == name);
        if pairs.iter().all(|(_, referenced)| in_key(referenced).is_some()) {
            let equal = |(own, referenced): &(&str, &str)| {
                let n = in_key(referenced).expect("tested above");
                format!("c.{} = {}", quote(own), parent.parameter(n, at))
            };
            let on = pairs.iter().map(equal).collect::<Vec<_>>().join(" AND ");
            return format!("SELECT {asked} FROM {unnest} JOIN {child} c ON {on}");
        }
        // The key does not hold what is referenced: the parent's row does, while it is still the old one.
        let equal = |(own, referenced): &(&str, &str)| format!("c.{} = t.{}", quote(own), quote(referenced));
        let on = pairs.iter().map(equal).collect::<Vec<_>>().join(" AND ");
        let (table, matched) = (parent.table(at), parent.matched(at));
        format!("SELECT {asked} FROM {unnest} JOIN {table} t ON {matched} JOIN {child} c ON {on}")
    }
}

/// What is known of both sides at the time of a snapshot.
pub(in crate::protocol::postgres) struct Schema {
    pub(in crate::protocol::postgres) primary: Catalog,
    pub(in crate::protocol::postgres) secondary: Catalog,
    pairs: HashMap<TableId, Result<Arc<Pair>, String>>,
    /// [`PRINT`] by oid on the primary.
    prints: HashMap<u32, String>,
    /// Array types of PostgreSQL's own types.
    arrays: HashMap<u32, u32>,
    readable: HashSet<u32>,
    writable: HashSet<u32>,
    scope: Scope,
}

/// Where an owed table is paid.
pub(in crate::protocol::postgres) enum Home {
    /// Here; the permutation that turns the owed key into this table's, if it is not the same.
    Pair(Arc<Pair>, Option<Vec<usize>>),
    /// Gone from both sides, or none of ours.
    Nowhere,
    /// It cannot be paid: its name, and why.
    Refused(String, String),
}

impl Schema {
    pub(in crate::protocol::postgres) async fn load_primary(
        &mut self,
        conn: &mut Client,
    ) -> Result<(), catalog::LoadError> {
        self.primary = catalog::load(conn).await?;
        self.pairs.clear();
        self.prints.clear();
        self.readable.clear();
        // Privileges are those of now: of a table that is gone since S nothing is known, and reading it will say so.
        let sql = format!(
            "SELECT c.oid, {PRINT}, coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true) \
             FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384"
        );
        for row in conn.simple(&sql).await? {
            self.prints.insert(row.parse(0)?, row.string(1)?);
            if row.bool(2)? {
                self.readable.insert(row.parse(0)?);
            }
        }
        let sql = "SELECT oid, typarray FROM pg_catalog.pg_type WHERE oid < 16384 AND typarray <> 0";
        for row in conn.simple(sql).await? {
            self.arrays.insert(row.parse(0)?, row.parse(1)?);
        }
        Ok(())
    }

    pub(in crate::protocol::postgres) async fn load_secondary(
        &mut self,
        conn: &mut Client,
    ) -> Result<(), catalog::LoadError> {
        self.secondary = catalog::load(conn).await?;
        self.pairs.clear();
        self.writable.clear();
        let sql = "SELECT oid FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') \
            AND pg_catalog.has_table_privilege(oid, 'SELECT') AND pg_catalog.has_table_privilege(oid, 'INSERT') \
            AND pg_catalog.has_table_privilege(oid, 'DELETE')";
        for row in conn.simple(sql).await? {
            self.writable.insert(row.parse(0)?);
        }
        Ok(())
    }

    pub(in crate::protocol::postgres) fn new() -> Schema {
        Schema {
            primary: Catalog::default(),
            secondary: Catalog::default(),
            pairs: HashMap::new(),
            prints: HashMap::new(),
            arrays: HashMap::new(),
            readable: HashSet::new(),
            writable: HashSet::new(),
            scope: Scope::default(),
        }
    }

    /// Of tables outside there is nothing to pay.
    pub(super) fn within(self, scope: Scope) -> Schema {
        Schema { scope, ..self }
    }

    /// The primary has the table, and it is none of ours.
    pub(super) fn excludes(&self, id: TableId) -> bool {
        let root = self.primary.relation(id).map(|relation| root_of(&self.primary, relation));
        root.is_some_and(|root| self.scope.excludes(&root.shown()))
    }

    /// A table's name on whichever side has it, for people.
    pub(super) fn name(&self, id: TableId) -> String {
        let found = |catalog: &Catalog| Some(catalog.relation(id)?.sql());
        found(&self.primary).or_else(|| found(&self.secondary)).unwrap_or_else(|| format!("table {:016x}", id.0))
    }

    /// The layout of the keys by which the table is owed now.
    pub(in crate::protocol::postgres) fn layout(&self, id: TableId) -> Option<Layout> {
        self.primary.relation(id)?.key.as_ref().map(|key| key.layout)
    }

    /// Where the keys of this table are paid.
    pub(in crate::protocol::postgres) fn home(&mut self, id: TableId) -> Home {
        let Some(relation) = self.primary.relation(id).cloned() else {
            return match self.secondary.by_id.contains_key(&id) {
                true => Home::Refused(self.name(id), "the primary has no such table any more".into()),
                false => Home::Nowhere,
            };
        };
        let root = root_of(&self.primary, &relation);
        if self.scope.excludes(&root.shown()) {
            return Home::Nowhere;
        }
        let (home, permutation) = match permutation(&relation, &root) {
            Some(permutation) => (root, permutation),
            None => (relation, None),
        };
        match self.pair(&home) {
            Ok(pair) => Home::Pair(pair, permutation),
            Err(why) => Home::Refused(home.sql(), why),
        }
    }

    fn pair(&mut self, relation: &Arc<Relation>) -> Result<Arc<Pair>, String> {
        if let Some(known) = self.pairs.get(&relation.id) {
            return known.clone();
        }
        let made = self.make(relation).map(Arc::new);
        self.pairs.insert(relation.id, made.clone());
        made
    }

    fn make(&self, primary: &Arc<Relation>) -> Result<Pair, String> {
        let secondary = self.secondary.relation(primary.id).cloned().ok_or("the secondary has no such table")?;
        for (side, kind) in [("primary", primary.kind), ("secondary", secondary.kind)] {
            if !matches!(kind, Kind::Table | Kind::Partitioned) {
                return Err(format!("it is no table on the {side}"));
            }
        }
        if !self.readable.contains(&primary.oid) {
            return Err("the mirror's role may not SELECT from it on the primary".into());
        }
        if !self.writable.contains(&secondary.oid) {
            return Err("the mirror's role may not SELECT, INSERT and DELETE there on the secondary".into());
        }
        if primary.key.is_none() && !self.scope.keyless {
            return Err("it has no usable key".into());
        }
        let (columns, binary) = shared_columns(primary, &secondary)?;
        let key = primary.key_columns().map(|column| self.key_column(column, &secondary)).collect::<Result<_, _>>()?;
        let wide = !primary.key_columns().all(exact);
        let footprint = self.footprint(primary);
        Ok(Pair { id: primary.id, primary: Arc::clone(primary), secondary, columns, binary, key, wide, footprint })
    }

    fn key_column(&self, column: &Column, secondary: &Relation) -> Result<KeyColumn, String> {
        let name = column.name.clone();
        let there = find(secondary, &name).ok_or_else(|| format!("the secondary has no column {}", quote(&name)))?;
        let text = KeyColumn {
            name,
            element: TEXT,
            array: TEXT_ARRAY,
            casts: Some((column.type_sql.clone(), there.type_sql.clone())),
        };
        Ok(match (Form::of(column), self.arrays.get(&column.base_oid)) {
            (Form::Text, _) | (_, None) => text,
            (_, Some(&array)) => KeyColumn { element: column.base_oid, array, casts: None, ..text },
        })
    }

    fn footprint(&self, primary: &Relation) -> Footprint {
        let mut tree = vec![primary.oid];
        let mut at = 0;
        while let Some(relation) = tree.get(at).and_then(|oid| self.primary.relations.get(oid)) {
            if relation.kind == Kind::Partitioned {
                tree.extend(&relation.children);
            }
            at += 1;
        }
        let known = || tree.iter().filter_map(|oid| self.primary.relations.get(oid));
        let heaps = known().filter(|relation| relation.kind == Kind::Table);
        let heaps = heaps.map(|relation| (relation.oid, relation.sql())).collect();
        let local = known().all(|relation| matches!(relation.kind, Kind::Table | Kind::Partitioned));
        let print = |&oid: &u32| (oid, self.prints.get(&oid).cloned().unwrap_or_default());
        let prints = tree.iter().map(print).collect();
        Footprint { prints, partitioned: primary.kind == Kind::Partitioned, heaps, local }
    }
}

const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;

/// Types of which equal values have equal bytes, beside those that the canonical form makes so.
const EXACT: &[u32] = &[18, 19, 26, 650, 790, 774, 829, 869, 1082, 1083, 1114, 1184, 1560, 1562, 3220];

fn exact(column: &Column) -> bool {
    match Form::of(column) {
        Form::Int(_) | Form::Uuid | Form::Bool | Form::Bytea | Form::Numeric => true,
        Form::Utf8 => column.deterministic,
        Form::Binary | Form::Text => column.typtype == b'e' || EXACT.contains(&column.base_oid),
    }
}

/// A column of a row that is digested in the form of `record_send`, which names the oids of the columns' types: what
/// the other server may know by another oid goes as text.
fn sent(column: &Column) -> String {
    let same = column.type_oid < FIRST_NORMAL_OID && column.binary_safe;
    format!("t.{}{}", quote(&column.name), if same { "" } else { "::pg_catalog.text" })
}

fn find<'a>(relation: &'a Relation, name: &str) -> Option<&'a Column> {
    relation.columns.iter().find(|column| column.name == name)
}

fn shared_columns(primary: &Relation, secondary: &Relation) -> Result<(Vec<String>, bool), String> {
    for column in primary.columns.iter().filter(|column| !column.generated) {
        if find(secondary, &column.name).is_none() {
            return Err(format!("the secondary has no column {}", quote(&column.name)));
        }
    }
    let mut binary = true;
    let mut names = Vec::new();
    for there in secondary.columns.iter().filter(|column| !column.generated) {
        if let Some(here) = find(primary, &there.name) {
            binary &= here.binary_safe && there.binary_safe && here.type_sql == there.type_sql;
            names.push(there.name.clone());
        }
    }
    Ok((names, binary))
}

fn root_of(catalog: &Catalog, relation: &Arc<Relation>) -> Arc<Relation> {
    let mut root = Arc::clone(relation);
    while let Some(parent) = root.parents.first().and_then(|oid| catalog.relations.get(oid)) {
        if parent.kind != Kind::Partitioned {
            break;
        }
        root = Arc::clone(parent);
    }
    root
}

/// Where each column of the root's key stands in the relation's; `None`: their keys are not of the same columns.
/// `Some(None)`: same order.
fn permutation(relation: &Relation, root: &Relation) -> Option<Option<Vec<usize>>> {
    let own: Vec<_> = relation.key_columns().map(|column| column.name.as_str()).collect();
    let places: Option<Vec<usize>> =
        root.key_columns().map(|column| own.iter().position(|name| *name == column.name)).collect();
    let places = places.filter(|places| places.len() == own.len() && !own.is_empty());
    match places {
        _ if relation.oid == root.oid => Some(None),
        Some(places) if places.iter().copied().eq(0..own.len()) => Some(None),
        Some(places) => Some(Some(places)),
        None => None,
    }
}

/// The schemas beside `pg_catalog` that have an operator `=`: a key of type `citext` must be compared by its own.
pub(in crate::protocol::postgres) async fn operator_schemas(conn: &mut Client) -> Result<Vec<String>, client::Error> {
    let sql = "SELECT DISTINCT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_operator o \
        JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oprname = '=' AND n.nspname <> 'pg_catalog'";
    conn.simple(sql).await?.iter().map(|row| row.string(0)).collect()
}
