//! Both sides' tables, matched by qualified name: what a payment reads here and writes there.
//!
//! Each side has its own oids, column order and types. Columns meet by name, which is the primary's: what the secondary
//! calls otherwise is translated when its catalog is read (see [`crate::protocol::postgres::scope`]), and a table of
//! which only some rows are mirrored is read as if it had no others. What the secondary computes itself (generated
//! columns) is left out; columns that only the secondary has get their defaults.
//!
//! **Partitions.** All keys of a partition tree are paid at its topmost root, read and written through it: a row that
//! moved between partitions is one key there, and the sides may be partitioned differently. A partition that is owed whole
//! is paid there too, alone where that can be (see [`super::piece`]). Where a leaf's key is not
//! the root's (a root without a key), the leaf is paid as a table of its own. **Inheritance** is `ONLY`: each table has
//! its own keys.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::postgres::catalog::{self, Catalog, Column, FIRST_NORMAL_OID, ForeignKey, Kind, Relation, quote};
use crate::protocol::postgres::client::{self, Client, Format};
use crate::protocol::postgres::key::{self, Form, Layout, oid};
use crate::protocol::postgres::scope::{Rows, Scope, filter, topmost};
use crate::record::TableId;

use super::hashes::{Hashed, hashed};

/// One table on both sides.
#[derive(Debug)]
pub(in crate::protocol::postgres) struct Pair {
    pub(in crate::protocol::postgres) id: TableId,
    pub(in crate::protocol::postgres) primary: Arc<Relation>,
    pub(super) secondary: Arc<Relation>,
    /// Names of the columns that are copied, as the secondary orders them.
    columns: Vec<String>,
    /// Of the primary's rows only those for which this holds are there.
    filter: Option<String>,
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
    /// The numbers of the columns that are copied, in the order of [`Pair::columns`], by oid.
    pub(super) numbers: HashMap<u32, Vec<Option<i16>>>,
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

/// As what the values of a column are compared that has other types on the two sides. Where one type holds less than the other,
/// what was cut off differs, and is said to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Common {
    /// As they are.
    Same,
    Integer,
    /// Without zeros at the end: 1.0 is 1.00.
    Number,
    Text,
    /// Text without blanks at its end.
    Trimmed,
    Document,
}

/// Types whose values are written alike, whatever modifier their column has.
const UNMODIFIED: &[u32] = &[
    key::oid::BOOL,
    key::oid::BYTEA,
    key::oid::DATE,
    key::oid::INT2,
    key::oid::INT4,
    key::oid::INT8,
    key::oid::TEXT,
    key::oid::TIME,
    key::oid::TIMESTAMP,
    key::oid::TIMESTAMPTZ,
    key::oid::UUID,
    key::oid::VARCHAR,
    FLOAT4,
    FLOAT8,
    INTERVAL,
    JSON,
    JSONB,
    VARBIT,
];
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const INTERVAL: u32 = 1186;
const JSON: u32 = 114;
const JSONB: u32 = 3802;
const VARBIT: u32 = 1562;

impl Common {
    fn of(one: &Column, two: &Column) -> Option<Common> {
        use key::oid::{BPCHAR, INT2, INT4, INT8, NUMERIC, TEXT, VARCHAR};
        let both = |types: &[u32]| types.contains(&one.base_oid) && types.contains(&two.base_oid);
        match one.base_oid {
            _ if one.type_sql == two.type_sql && one.typmod == two.typmod => Some(Common::Same),
            own if own == two.base_oid && UNMODIFIED.contains(&own) => Some(Common::Same),
            _ if both(&[INT2, INT4, INT8]) => Some(Common::Integer),
            _ if both(&[INT2, INT4, INT8, NUMERIC]) => Some(Common::Number),
            _ if both(&[TEXT, VARCHAR]) => Some(Common::Text),
            _ if both(&[TEXT, VARCHAR, BPCHAR]) => Some(Common::Trimmed),
            // By the digits that each needs: what was copied is that text.
            _ if both(&[FLOAT4, FLOAT8]) => Some(Common::Text),
            _ if both(&[JSON, JSONB]) => Some(Common::Document),
            _ => None,
        }
    }

    /// The value, and as text where it was cast.
    fn shown(self, value: &str) -> String {
        match self {
            Common::Same => value.to_owned(),
            Common::Integer => format!("{value}::pg_catalog.int8::pg_catalog.text"),
            Common::Number => format!("pg_catalog.trim_scale({value}::pg_catalog.numeric)::pg_catalog.text"),
            Common::Text => format!("{value}::pg_catalog.text"),
            Common::Trimmed => format!("pg_catalog.rtrim({value}::pg_catalog.text)"),
            Common::Document => format!("{value}::pg_catalog.jsonb::pg_catalog.text"),
        }
    }
}

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

/// Types that have a first and a last value as aggregates, in all versions.
const ENDS: &[u32] = &[
    oid::INT2,
    oid::INT4,
    oid::INT8,
    oid::TEXT,
    oid::VARCHAR,
    oid::NUMERIC,
    oid::DATE,
    oid::TIME,
    oid::TIMESTAMP,
    oid::TIMESTAMPTZ,
];

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

    /// A table as a FROM item that takes an alias: its own rows, or those of all partitions.
    pub(super) fn table(&self, at: At) -> String {
        let relation = self.relation(at);
        let only = if relation.kind == Kind::Partitioned { "" } else { "ONLY " };
        self.filtered(format!("{only}{}", relation.sql()), at)
    }

    /// The same of a table that holds rows of this one, given by its name there.
    pub(super) fn part(&self, table: &str, at: At) -> String {
        self.filtered(format!("ONLY {table}"), at)
    }

    /// The planner takes a plain subquery for the table itself, with all of its indexes and its TIDs.
    fn filtered(&self, table: String, at: At) -> String {
        match (&self.filter, at) {
            (Some(filter), At::Primary) => format!("(SELECT *, tableoid, ctid FROM {table} WHERE ({filter}))"),
            _ => table,
        }
    }

    /// What that side calls a column, quoted.
    fn column(&self, name: &str, at: At) -> String {
        self.relation(at).column_sql(name)
    }

    pub(super) fn column_list(&self, prefix: &str, at: At) -> String {
        self.columns.iter().map(|name| format!("{prefix}{}", self.column(name, at))).collect::<Vec<_>>().join(", ")
    }

    /// `unnest($1, ..) u(k0, ..)`. Of several arrays it is the server's own by its bare name alone (`transformRangeFunction` in
    /// `parser/parse_clause.c`); of one it is whatever the path finds.
    fn unnest(&self) -> String {
        let of = if self.key.len() == 1 { "pg_catalog." } else { "" };
        let params: Vec<_> = (1..=self.key.len()).map(|n| format!("${n}")).collect();
        let names: Vec<_> = (0..self.key.len()).map(|n| format!("k{n}")).collect();
        format!("{of}unnest({}) u({})", params.join(", "), names.join(", "))
    }

    /// The value of the n-th key column in the parameters, as that side's type.
    pub(super) fn parameter(&self, n: usize, at: At) -> String {
        match (&self.key[n].casts, at) {
            (None, _) => format!("u.k{n}"),
            (Some((cast, _)), At::Primary) | (Some((_, cast)), At::Secondary) => format!("u.k{n}::{cast}"),
        }
    }

    fn matched(&self, at: At) -> String {
        let equal = |n: usize| {
            let name = &self.key[n].name;
            let equals = equals([find(self.relation(at), name)]);
            format!("t.{} {equals} {}", self.column(name, at), self.parameter(n, at))
        };
        (0..self.key.len()).map(equal).collect::<Vec<_>>().join(" AND ")
    }

    /// A key of one column whose parameter has its type: one scan of the index finds all, each row once.
    fn any(&self, at: At) -> Option<String> {
        match &self.key[..] {
            [KeyColumn { name, casts: None, .. }] => {
                let equals = equals([find(self.relation(at), name)]);
                Some(format!("t.{} {equals} ANY ($1)", self.column(name, at)))
            }
            _ => None,
        }
    }

    pub(in crate::protocol::postgres) fn read_sql(&self) -> String {
        self.read_beside_sql(&[])
    }

    /// The same, but for rows that lie in one of these tables.
    pub(super) fn read_beside_sql(&self, tables: &[u32]) -> String {
        let oids = tables.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let beside =
            if oids.is_empty() { oids } else { format!(" AND t.tableoid <> ALL ('{{{oids}}}'::pg_catalog.oid[])") };
        let (columns, table) = (self.column_list("t.", At::Primary), self.table(At::Primary));
        if let Some(any) = self.any(At::Primary) {
            return format!("SELECT {columns} FROM {table} t WHERE {any}{beside}");
        }
        let (once, matched) =
            (if self.wide { "DISTINCT ON (t.tableoid, t.ctid) " } else { "" }, self.matched(At::Primary));
        format!("SELECT {once}{columns} FROM {} JOIN {table} t ON {matched}{beside}", self.unnest())
    }

    /// How rows are read that are written to the other side.
    pub(super) fn format(&self) -> Format {
        if self.binary { Format::Binary } else { Format::Text }
    }

    /// The rows between two positions of a table that holds rows of this one.
    pub(super) fn read_stretch_sql(&self, table: &str) -> String {
        let (columns, part) = (self.column_list("t.", At::Primary), self.part(table, At::Primary));
        format!("SELECT {columns} FROM {part} t WHERE {STRETCH}")
    }

    /// The keys of the rows that [`Pair::read_stretch_sql`] reads, as [`Pair::asked`].
    pub(super) fn stretch_keys_sql(&self, table: &str) -> String {
        let (asked, part) = (self.asked("t", At::Primary), self.part(table, At::Primary));
        format!("SELECT {asked} FROM {part} t WHERE {STRETCH}")
    }

    pub(super) fn read_whole_sql(&self) -> String {
        format!("SELECT {} FROM {} t", self.column_list("t.", At::Primary), self.table(At::Primary))
    }

    /// Names of the columns that are copied.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The keys of the primary's rows as [`Pair::asked`], of those that are given.
    pub(super) fn present_sql(&self) -> String {
        let (asked, table) = (self.asked("t", At::Primary), self.table(At::Primary));
        match self.any(At::Primary) {
            Some(any) => format!("SELECT {asked} FROM {table} t WHERE {any}"),
            None => format!("SELECT {asked} FROM {} JOIN {table} t ON {}", self.unnest(), self.matched(At::Primary)),
        }
    }

    /// The digest of a row `t`: equal on both sides for equal rows. Values are compared
    /// in the text that both servers write for them, which names no oid, and hashed so that wide rows are short answers.
    /// Columns whose types differ have no text in common and are left out.
    pub(super) fn digest(&self, at: At) -> String {
        let columns: Vec<_> = self.compared().map(|(column, common)| self.shown(column, common, at)).collect();
        let columns = columns.join(", ");
        format!("pg_catalog.sha256(pg_catalog.convert_to(ROW({columns})::pg_catalog.text, 'UTF8'))")
    }

    /// Columns that both sides have, and as what their values can be compared. Also those that a side computes itself: what
    /// is not copied is not equal for that.
    fn shared(&self) -> impl Iterator<Item = (&Column, Option<Common>)> {
        let both = self.primary.columns.iter().filter_map(|here| Some((here, find(&self.secondary, &here.name)?)));
        both.map(|(here, there)| (here, Common::of(here, there)))
    }

    /// Those whose values can be.
    fn compared(&self) -> impl Iterator<Item = (&Column, Common)> {
        self.shared().filter_map(|(column, common)| Some((column, common?)))
    }

    /// Those whose values cannot be: their types are too different. By name.
    pub(super) fn not_compared(&self) -> Vec<String> {
        let not = self.shared().filter(|(_, common)| common.is_none());
        not.map(|(column, _)| column.name.clone()).collect()
    }

    /// A value of `t` as it is compared.
    fn shown(&self, column: &Column, common: Common, at: At) -> String {
        common.shown(&format!("t.{}", self.column(&column.name, at)))
    }

    /// Both sides can tell which of their rows lie between two keys, by operators of the server's own, and are one table each.
    pub(super) fn has_order(&self) -> bool {
        let one = |relation: &Relation| relation.kind == Kind::Table;
        let alike =
            |key: &KeyColumn| self.compared().any(|(column, common)| column.name == key.name && common == Common::Same);
        let native = |key: &KeyColumn, at| find(self.relation(at), &key.name).is_some_and(is_native);
        let ordered = |key: &KeyColumn| alike(key) && native(key, At::Primary) && native(key, At::Secondary);
        one(&self.primary) && one(&self.secondary) && self.key.iter().all(ordered)
    }

    /// Of the rows of a table that lie where `place` says: how many, and the first and the last key, column by column. Not
    /// by the key's index, which says nothing of places.
    pub(super) fn edges_sql(&self, table: &str, place: &str, at: At) -> String {
        let names: Vec<_> = self.key.iter().map(|key| self.column(&key.name, at)).collect();
        let part = self.part(table, at);
        if self.primary.key_columns().all(|column| ENDS.contains(&column.base_oid))
            && let [only] = &names[..]
        {
            let end = |end: &str| format!("pg_catalog.{end}(t.{only})::pg_catalog.text");
            let (first, last) = (end("min"), end("max"));
            return format!("SELECT pg_catalog.count(*), {first}, {last} FROM {part} t WHERE {place}");
        }
        let keys = |of: &str, more: &str| names.iter().map(|name| format!("{of}{name}{more}")).collect::<Vec<_>>();
        let (own, list) = (keys("t.", "").join(", "), names.join(", "));
        let down = keys("", " DESC").join(", ");
        let shown = [keys("a.", "::pg_catalog.text"), keys("z.", "::pg_catalog.text")].concat().join(", ");
        format!(
            "WITH chunk AS MATERIALIZED (SELECT {own} FROM {part} t WHERE {place}) \
             SELECT (SELECT pg_catalog.count(*) FROM chunk), {shown} \
             FROM (SELECT * FROM chunk ORDER BY {list} LIMIT 1) a, (SELECT * FROM chunk ORDER BY {down} LIMIT 1) z"
        )
    }

    /// How many rows there are from one key to another (the parameters, column by column), and their digest; not of more
    /// than the last parameter says.
    pub(super) fn sum_sql(&self, at: At, what: What) -> String {
        let own = self.key.iter().map(|key| format!("t.{}", self.column(&key.name, at))).collect::<Vec<_>>().join(", ");
        let types: Vec<_> = self.key.iter().filter_map(|key| find(&self.primary, &key.name)).collect();
        let edge = |first: usize| {
            let value = |(n, column): (usize, &&Column)| format!("${}::{}", first + n, column.type_sql);
            types.iter().enumerate().map(value).collect::<Vec<_>>().join(", ")
        };
        let (low, high, most) = (edge(1), edge(1 + types.len()), 1 + 2 * types.len());
        let name = |column| self.shown(column, Common::Same, at);
        let is_key = |column: &&Column| self.key.iter().any(|key| key.name == column.name);
        let key: Vec<_> = types.iter().map(|column| (Some(*column), name(column))).collect();
        let other = |(column, common)| match common {
            Common::Same => (Some(column), name(column)),
            common => (None, self.shown(column, common, at)),
        };
        let others: Vec<_> = match what {
            What::Rows => self.compared().filter(|(column, _)| !is_key(column)).map(other).collect(),
            What::Keys => Vec::new(),
        };
        let Hashed { selected, number } = hashed(&key, &others);
        format!(
            "SELECT pg_catalog.count(*), pg_catalog.sum({number}) FROM (SELECT {selected} FROM {} t \
             WHERE ROW({own}) OPERATOR(pg_catalog.>=) ROW({low}) AND ROW({own}) OPERATOR(pg_catalog.<=) ROW({high}) LIMIT ${most}::pg_catalog.int8) q",
            self.table(at)
        )
    }

    /// The digest of each row, then its key as [`Pair::asked`].
    pub(in crate::protocol::postgres) fn digest_sql(&self, at: At) -> String {
        let (digest, asked, table) = (self.digest(at), self.asked("t", at), self.table(at));
        match self.any(at) {
            Some(any) => format!("SELECT {digest}, {asked} FROM {table} t WHERE {any}"),
            None => format!("SELECT {digest}, {asked} FROM {} JOIN {table} t ON {}", self.unnest(), self.matched(at)),
        }
    }

    pub(in crate::protocol::postgres) fn delete_sql(&self) -> String {
        let table = self.table(At::Secondary);
        if let Some(any) = self.any(At::Secondary) {
            return format!("DELETE FROM {table} t WHERE {any}");
        }
        format!("DELETE FROM {table} t USING {} WHERE {}", self.unnest(), self.matched(At::Secondary))
    }

    pub(super) fn delete_whole_sql(&self) -> String {
        format!("DELETE FROM {}", self.table(At::Secondary))
    }

    /// Of the rows for which this holds.
    pub(super) fn delete_bound_sql(&self, bound: &str) -> String {
        format!("DELETE FROM {} t WHERE {bound}", self.table(At::Secondary))
    }

    pub(super) fn copy_sql(&self) -> String {
        self.copy_into(&self.secondary.sql())
    }

    pub(super) fn copy_into(&self, table: &str) -> String {
        let format = if self.binary { " (FORMAT binary)" } else { "" };
        format!("COPY {table} ({}) FROM STDIN{format}", self.column_list("", At::Secondary))
    }

    /// What a COPY writes, as a statement that can be explained.
    pub(in crate::protocol::postgres) fn insert_sql(&self) -> String {
        let (columns, table) = (self.column_list("", At::Secondary), self.secondary.sql());
        format!("INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {table}")
    }

    /// A scratch table that takes the same rows, without any constraint.
    pub(super) fn scratch_sql(&self) -> String {
        let (columns, table) = (self.column_list("", At::Secondary), self.secondary.sql());
        format!("CREATE TEMPORARY TABLE tandem_in ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA")
    }

    /// Expressions that yield the key of `alias` as [`crate::protocol::postgres::key::from_returned`] reads it.
    pub(super) fn asked(&self, alias: &str, at: At) -> String {
        let columns = self.primary.key_columns().zip(&self.key);
        let asked =
            columns.map(|(column, key)| Form::asked(column, &format!("{alias}.{}", self.column(&key.name, at))));
        asked.collect::<Vec<_>>().join(", ")
    }

    /// `SELECT key of child FROM child JOIN ..`: the rows of this table that point at keys of `parent` (given as its
    /// parameters), `pairs` being (child column, parent column).
    pub(super) fn pointing_sql(&self, parent: &Pair, pairs: &[(&str, &str)], at: At) -> String {
        let asked = self.asked("c", at);
        let (child, unnest) = (self.table(at), parent.unnest());
        let in_key = |name: &str| parent.key.iter().position(|column| column.name == name);
        if pairs.iter().all(|(_, referenced)| in_key(referenced).is_some()) {
            let equal = |(own, referenced): &(&str, &str)| {
                let n = in_key(referenced).expect("tested above");
                let equals = equals([find(self.relation(at), own), find(parent.relation(at), referenced)]);
                format!("c.{} {equals} {}", self.column(own, at), parent.parameter(n, at))
            };
            let on = pairs.iter().map(equal).collect::<Vec<_>>().join(" AND ");
            return format!("SELECT {asked} FROM {unnest} JOIN {child} c ON {on}");
        }
        // The key does not hold what is referenced: the parent's row does, while it is still the old one.
        let equal = |(own, referenced): &(&str, &str)| {
            let equals = equals([find(self.relation(at), own), find(parent.relation(at), referenced)]);
            format!("c.{} {equals} t.{}", self.column(own, at), parent.column(referenced, at))
        };
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
    /// Partitions that the primary is detaching: the secondary has them as such until it repeats that.
    detaching: HashSet<u32>,
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
        if conn.status() != b'I' {
            return self.read_primary(conn).await;
        }
        // Outside S: a table that changes between two questions would have the columns of before and the print of behind.
        conn.simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''").await?;
        let read = self.read_primary(conn).await;
        conn.simple("COMMIT").await?;
        read
    }

    async fn read_primary(&mut self, conn: &mut Client) -> Result<(), catalog::LoadError> {
        self.primary = catalog::load(conn).await?;
        let pending = "SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhdetachpending";
        let pending = conn.simple(pending).await?.iter().map(|row| row.parse(0)).collect::<Result<Vec<u32>, _>>()?;
        detach(&mut self.primary, &pending);
        self.detaching = pending.into_iter().collect();
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
        self.scope.translate(&mut self.secondary);
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
            detaching: HashSet::new(),
            scope: Scope::default(),
        }
    }

    /// Of tables outside there is nothing to pay; for both catalogs, before they are read.
    pub(in crate::protocol::postgres) fn within(self, scope: Scope) -> Schema {
        Schema { scope, ..self }
    }

    /// The primary has the table, and it is none of ours.
    pub(super) fn excludes(&self, id: TableId) -> bool {
        let root = self.primary.relation(id).map(|relation| topmost(&self.primary, relation));
        root.is_some_and(|root| self.scope.excludes(&root.shown()))
    }

    /// A table that a schema change names, and that is called otherwise on the secondary.
    pub(super) fn renamed_in(&self, id: TableId, path: &str, sql: &str) -> Option<String> {
        self.scope.renamed_in(&self.primary, id, path, sql)
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
        let root = topmost(&self.primary, &relation);
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

    /// All labels of the primary's table that is left out by configuration, its own and those of its parts; else none.
    pub(super) fn left_out(&self, id: TableId) -> Vec<TableId> {
        let root = self.primary.relation(id).map(|relation| topmost(&self.primary, relation));
        let Some(root) = root.filter(|root| self.scope.excludes(&root.shown())) else { return Vec::new() };
        let tables = self.primary.relations.values();
        tables.filter(|table| topmost(&self.primary, table).oid == root.oid).map(|table| table.id).collect()
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
        let secondary = self.secondary.relation(primary.id).cloned().ok_or_else(|| self.absent(primary))?;
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
        self.stands_alone(primary, &secondary)?;
        if primary.key.is_none() && !self.scope.keyless {
            return Err("it has no usable key".into());
        }
        let filter = self.filter(primary)?;
        self.acts_from_outside(primary)?;
        let root = topmost(&self.primary, primary).shown();
        let (columns, binary) =
            shared_columns(primary, &secondary).map_err(|name| no_column(&name, &self.scope.renamed(&root)))?;
        let key = self.key(primary, &secondary)?;
        let wide = !primary.key_columns().all(exact);
        let footprint = self.footprint(primary, &columns);
        let (id, primary) = (primary.id, Arc::clone(primary));
        Ok(Pair { id, primary, secondary, columns, filter, binary, key, wide, footprint })
    }

    /// A table that was detached on the primary alone: its rows would be another table's on the secondary.
    fn stands_alone(&self, primary: &Arc<Relation>, secondary: &Arc<Relation>) -> Result<(), String> {
        let (here, there) = (topmost(&self.primary, primary), topmost(&self.secondary, secondary));
        let is_detached = here.oid == primary.oid && !self.detaching.contains(&primary.oid);
        match self.primary.relation(there.id) {
            Some(root) if is_detached && there.oid != secondary.oid && !self.scope.excludes(&root.shown()) => {
                Err(format!("it is a partition of {} on the secondary: detach it there too", there.sql()))
            }
            _ => Ok(()),
        }
    }

    fn absent(&self, primary: &Relation) -> String {
        let name = primary.shown();
        match self.scope.there(&name) {
            Some(there) if there == name => "the secondary has no such table".to_owned(),
            Some(there) => format!("the secondary has no table {there}"),
            None => "its table on the secondary is another one's ([[tables]])".to_owned(),
        }
    }

    /// Which rows there are, checked against the columns that there are.
    fn filter(&self, primary: &Arc<Relation>) -> Result<Option<String>, String> {
        let root = topmost(&self.primary, primary).shown();
        let filter = match self.scope.rows(&root) {
            Rows::All => return Ok(None),
            Rows::Where(filter) => filter,
            Rows::NotBack => return Err("only some of its rows are on this side: it is not mirrored back".to_owned()),
        };
        let lacks = filter::columns(filter)?.into_iter().find(|name| find(primary, name).is_none());
        if let Some(name) = lacks {
            return Err(format!("its filter names the column {}, which it has not", quote(&name)));
        }
        // What its rows' going does to others is found through the rows, and those that are filtered out are not there.
        match self.acting_on(primary).find(|(fk, _)| !refers_to_key(fk, primary)) {
            Some((fk, child)) => Err(format!(
                "it is filtered, and the foreign key {} of {} acts by other columns than its key",
                quote(&fk.name),
                child.sql()
            )),
            None => Ok(Some(filter.to_owned())),
        }
    }

    /// Rows of a table that is not mirrored take rows of this one along, and nobody would know which.
    fn acts_from_outside(&self, child: &Relation) -> Result<(), String> {
        let parents = self.primary.foreign_keys.iter().filter(|fk| fk.child == child.oid && fk.acts());
        let parents = parents.filter_map(|fk| Some((fk, self.primary.relations.get(&fk.parent)?)));
        let outside = |parent: &Arc<Relation>| self.scope.excludes(&topmost(&self.primary, parent).shown());
        match parents.into_iter().find(|(_, parent)| outside(parent)) {
            Some((fk, parent)) => Err(format!(
                "its foreign key {} deletes or changes its rows with those of {}, which is not mirrored: include both, or exclude both",
                quote(&fk.name),
                parent.sql()
            )),
            None => Ok(()),
        }
    }

    /// Foreign keys to this table that write rows of another, and that other one.
    fn acting_on<'s>(&'s self, parent: &'s Relation) -> impl Iterator<Item = (&'s ForeignKey, &'s Arc<Relation>)> {
        let keys = self.primary.foreign_keys.iter().filter(|fk| fk.parent == parent.oid && fk.acts());
        keys.filter_map(|fk| Some((&**fk, self.primary.relations.get(&fk.child)?)))
    }

    /// Where rows with keys of this table may be taken away while other columns are not yet what they will be; they come
    /// again by their keys. `None`: other rows are found through them, or they are not found by their keys.
    pub(super) fn cleared(&self, id: TableId) -> Option<(Pair, Option<Vec<usize>>)> {
        let relation = self.primary.relation(id)?;
        let primary = topmost(&self.primary, relation);
        let places = permutation(relation, &primary)?;
        let secondary = self.secondary.relation(primary.id)?.clone();
        let is_found_through = |catalog: &Catalog, parent: &Relation| {
            let keys = catalog.foreign_keys.iter().filter(|fk| fk.parent == parent.oid && fk.acts());
            keys.into_iter().any(|fk| !refers_to_key(fk, parent))
        };
        let others = is_found_through(&self.primary, &primary) || is_found_through(&self.secondary, &secondary);
        let kinds = [primary.kind, secondary.kind];
        if others || primary.key.is_none() || !kinds.iter().all(|kind| matches!(kind, Kind::Table | Kind::Partitioned))
        {
            return None;
        }
        let key = self.key(&primary, &secondary).ok()?;
        let (columns, filter, binary) = (Vec::new(), None, false);
        let (id, wide) = (primary.id, !primary.key_columns().all(exact));
        let footprint = self.footprint(&primary, &columns);
        Some((Pair { id, primary, secondary, columns, filter, binary, key, wide, footprint }, places))
    }

    fn key(&self, primary: &Relation, secondary: &Relation) -> Result<Vec<KeyColumn>, String> {
        primary.key_columns().map(|column| self.key_column(column, secondary)).collect()
    }

    fn key_column(&self, column: &Column, secondary: &Relation) -> Result<KeyColumn, String> {
        let name = column.name.clone();
        let there = find(secondary, &name).ok_or_else(|| no_column(&name, &[]))?;
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

    fn footprint(&self, primary: &Relation, columns: &[String]) -> Footprint {
        let tree = tree(&self.primary, primary.oid);
        let known = || tree.iter().filter_map(|oid| self.primary.relations.get(oid));
        let heaps = known().filter(|relation| relation.kind == Kind::Table);
        let heaps = heaps.map(|relation| (relation.oid, relation.sql())).collect();
        let local = known().all(|relation| matches!(relation.kind, Kind::Table | Kind::Partitioned));
        let print = |&oid: &u32| (oid, self.prints.get(&oid).cloned().unwrap_or_default());
        let prints = tree.iter().map(print).collect();
        let number = |of: &Relation, name: &String| find(of, name).map(|column| column.attnum);
        let numbers = |of: &Arc<Relation>| (of.oid, columns.iter().map(|name| number(of, name)).collect());
        let numbers = known().map(numbers).collect();
        Footprint { prints, partitioned: primary.kind == Kind::Partitioned, heaps, local, numbers }
    }
}

/// The rows between two positions.
pub(super) const STRETCH: &str = "t.ctid >= $1::pg_catalog.tid AND t.ctid < $2::pg_catalog.tid";

const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;

/// The server compares its values by its own operators. Those of an extension's type are its extension's.
fn is_native(column: &Column) -> bool {
    column.base_oid < FIRST_NORMAL_OID || column.typtype == b'e'
}

/// The operator that compares these. By its bare name one that somebody made for a domain or an enum would be found first.
fn equals<const N: usize>(columns: [Option<&Column>; N]) -> &'static str {
    let native = columns.into_iter().all(|column| column.is_some_and(is_native));
    if native { "OPERATOR(pg_catalog.=)" } else { "=" }
}

/// Types of which equal values have equal bytes, beside those that the canonical form makes so.
const EXACT: &[u32] = &[18, 19, 26, 650, 790, 774, 829, 869, 1082, 1083, 1114, 1184, 1560, 1562, 3220];

fn exact(column: &Column) -> bool {
    match Form::of(column) {
        Form::Int(_) | Form::Uuid | Form::Bool | Form::Bytea | Form::Numeric => true,
        Form::Utf8 => column.deterministic,
        Form::Binary | Form::Text => column.typtype == b'e' || EXACT.contains(&column.base_oid),
    }
}

/// DETACH CONCURRENTLY begins with this, and waits long: from then on no new snapshot shows their rows in the table above.
fn detach(catalog: &mut Catalog, partitions: &[u32]) {
    for oid in partitions {
        let Some(partition) = catalog.relations.get_mut(oid) else { continue };
        for parent in std::mem::take(&mut Arc::make_mut(partition).parents) {
            if let Some(parent) = catalog.relations.get_mut(&parent) {
                Arc::make_mut(parent).children.retain(|child| child != oid);
            }
        }
    }
}

/// A table and all its partitions.
pub(super) fn tree(catalog: &Catalog, root: u32) -> Vec<u32> {
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(relation) = tree.get(at).and_then(|oid| catalog.relations.get(oid)) {
        if relation.kind == Kind::Partitioned {
            tree.extend(&relation.children);
        }
        at += 1;
    }
    tree
}

pub(super) fn find<'a>(relation: &'a Relation, name: &str) -> Option<&'a Column> {
    relation.columns.iter().find(|column| column.name == name)
}

/// The columns that are copied, and whether in binary form; else one that the secondary lacks.
fn shared_columns(primary: &Relation, secondary: &Relation) -> Result<(Vec<String>, bool), String> {
    for column in primary.columns.iter().filter(|column| !column.generated) {
        if find(secondary, &column.name).is_none() {
            return Err(column.name.clone());
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

/// By the secondary's name for it.
fn no_column(name: &str, renamed: &[(&str, &str)]) -> String {
    let there = renamed.iter().find(|(here, _)| *here == name).map_or(name, |(_, there)| *there);
    format!("the secondary has no column {}", quote(there))
}

/// The foreign key references columns of the parent's key only.
fn refers_to_key(fk: &ForeignKey, parent: &Relation) -> bool {
    let key = parent.key.as_ref().map(|key| &key.columns[..]).unwrap_or_default();
    fk.parent_columns.iter().all(|column| key.contains(column))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::analysis::schema::catalog;

    /// The hand-built `public.acc (id, bal, note)` on both sides, the secondary's as it is changed.
    fn acc(change: impl Fn(&mut Vec<Column>)) -> Arc<Pair> {
        let (id, mut secondary) = (TableId::of("public", "acc"), catalog());
        let table = secondary.relations.get_mut(&secondary.by_id[&id]).expect("known");
        change(&mut Arc::make_mut(table).columns);
        let known: HashSet<u32> = secondary.relations.keys().copied().collect();
        let mut schema =
            Schema { primary: catalog(), secondary, readable: known.clone(), writable: known, ..Schema::new() };
        match schema.home(id) {
            Home::Pair(pair, _) => pair,
            Home::Nowhere => panic!("it is there"),
            Home::Refused(_, why) => panic!("{why}"),
        }
    }

    #[test]
    fn what_the_secondary_computes_is_not_copied_and_compared_all_the_same() {
        let compared = |pair: &Pair| pair.compared().map(|(column, _)| column.name.clone()).collect::<Vec<_>>();
        let plain = acc(|_| ());
        assert_eq!(
            (plain.columns(), compared(&plain)),
            (&["id", "bal", "note"].map(String::from)[..], plain.columns.clone())
        );
        let computed = acc(|columns| columns[1].generated = true);
        assert_eq!(
            (computed.columns(), compared(&computed)),
            (&["id", "note"].map(String::from)[..], plain.columns.clone())
        );
        assert!(computed.digest(At::Secondary).contains("bal") && computed.not_compared().is_empty());
        let other = acc(|columns| {
            columns[1] = Column {
                generated: true,
                type_sql: "pg_catalog.uuid".to_owned(),
                base_oid: oid::UUID,
                ..columns[1].clone()
            };
        });
        assert_eq!(
            (compared(&other), other.not_compared()),
            (vec!["id".to_owned(), "note".to_owned()], vec!["bal".to_owned()])
        );
        let lacking = acc(|columns| columns.swap(0, 2));
        assert_eq!((lacking.columns()[0].as_str(), compared(&lacking)[0].as_str()), ("note", "id"));
    }
}
