//! What tables were called before. A label is made of a name, so what was captured before a table got another one is owed
//! under the old one, and neither side has that any more when the schema change has been repeated.
//!
//! So keys are owed under every name that their table may have by now. Nobody knows what came before the change and what
//! behind it: where two tables have swapped their names, keys of either are owed to both, and one too many reads nothing,
//! or one row more. The names are remembered for a while: a session may have looked at an older catalog. What is forgotten with the
//! process, and what a payment was to tell whose answer was lost, is learned again from the changes that were repeated, as long as the
//! journal has them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pg_query::NodeEnum;
use pg_query::protobuf::{ObjectType, ParseResult, RangeVar};
use tokio::time::Instant;

use crate::mirror::state::copier::{Renamed, names};
use crate::protocol::postgres::grammar;
use crate::protocol::postgres::schema_change;
use crate::protocol::postgres::session::schemas;
use crate::record::TableId;

use super::link::Link;
use super::schema::{Home, Pair, Schema};

/// How long a name is remembered.
const KEPT: Duration = Duration::from_secs(60);

/// In the order in which they happened.
#[derive(Default)]
pub(super) struct Renames(Vec<Rename>);

struct Rename {
    from: TableId,
    to: TableId,
    at: Instant,
    /// The engine knows.
    told: bool,
}

impl Renames {
    /// Behind schema changes, and when both catalogs were read since.
    pub(super) fn learn<'b>(&mut self, ddl: impl Iterator<Item = &'b [u8]>, schema: &Schema) {
        self.0.retain(|one| !one.told || one.at.elapsed() < KEPT);
        let changes: Vec<Change> = ddl.filter_map(Change::of).collect();
        if changes.is_empty() {
            return;
        }
        let at = Instant::now();
        let tables = [&schema.primary, &schema.secondary].into_iter().flat_map(|catalog| catalog.relations.values());
        let tables: Vec<_> = tables.map(|table| (&*table.schema, &*table.name)).collect();
        for (from, to) in edges(&changes, &tables) {
            self.0.retain(|one| (one.from, one.to) != (from, to));
            self.0.push(Rename { from, to, at, told: false });
        }
    }

    /// The names that a table may have by now, which had this one.
    pub(super) fn names(&self, table: TableId) -> Vec<TableId> {
        names(table, self.0.iter().map(|one| (one.from, one.to)))
    }

    /// What the engine has not been told.
    pub(super) fn tell(&mut self, schema: &Schema) -> Vec<Renamed> {
        let is_there = |table| [&schema.primary, &schema.secondary].iter().any(|one| one.by_id.contains_key(&table));
        let mut news = Vec::new();
        for Rename { from, to, told, .. } in self.0.iter_mut().filter(|one| !one.told) {
            *told = true;
            news.push(Renamed { from: *from, to: *to, name: schema.name(*to), is_gone: !is_there(*from) });
        }
        news
    }
}

/// A table that may be meant by a label.
pub(super) struct Meant {
    /// The label that it has now.
    pub(super) name: TableId,
    /// Where it is paid.
    pub(super) pair: Arc<Pair>,
    /// The permutation that turns its key into that table's, if it is not the same.
    pub(super) places: Option<Vec<usize>>,
}

/// All tables that may be meant by a label and can be paid.
pub(super) fn meant(link: &mut Link, table: TableId) -> Vec<Meant> {
    let mut meant = Vec::new();
    for name in link.renames.names(table) {
        if let Home::Pair(pair, places) = link.schema.home(name) {
            meant.push(Meant { name, pair, places });
        }
    }
    meant
}

/// Old and new labels, of those that lead to a table that is there. `tables` are schema and name of those.
fn edges(changes: &[Change], tables: &[(&str, &str)]) -> Vec<(TableId, TableId)> {
    let mut known: HashSet<&str> = tables.iter().map(|(_, name)| *name).collect();
    known.extend(changes.iter().flat_map(Change::tables));
    let mut leads: HashSet<TableId> = tables.iter().map(|(schema, name)| TableId::of(schema, name)).collect();
    let mut edges = Vec::new();
    let there = leads.clone();
    for change in changes.iter().rev() {
        let mut of: Vec<_> = change.edges(&known).into_iter().filter(|(_, to)| leads.contains(to)).collect();
        // One table was meant, of the first schema that had it: one that is still there was not, unless another took its name.
        if !matches!(change, Change::Schema { .. }) && of.iter().any(|(from, _)| !there.contains(from)) {
            of.retain(|(from, _)| !there.contains(from));
        }
        leads.extend(of.iter().map(|(from, _)| *from));
        edges.extend(of);
    }
    edges.reverse();
    edges
}

/// A schema change by which tables get other names.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// One table, in one of these schemas.
    Table { schemas: Vec<String>, name: String, to: String },
    /// One table, out of one of these schemas into another.
    Moved { schemas: Vec<String>, name: String, to: String },
    /// All tables of a schema.
    Schema { name: String, to: String },
}

impl Change {
    fn of(body: &[u8]) -> Option<Change> {
        let (manner, sql) = schema_change::decode(body)?;
        grammar::look(sql, |tree| Change::of_tree(manner.path, tree))
    }

    fn of_tree(path: &str, tree: &ParseResult) -> Option<Change> {
        let [statement] = &tree.stmts[..] else { return None };
        let within = |table: &RangeVar| match &*table.schemaname {
            "" => schemas(path),
            schema => vec![schema.to_owned()],
        };
        match statement.stmt.as_ref()?.node.as_ref()? {
            NodeEnum::RenameStmt(rename) => match ObjectType::try_from(rename.rename_type).ok()? {
                ObjectType::ObjectSchema => {
                    Some(Change::Schema { name: rename.subname.clone(), to: rename.newname.clone() })
                }
                // Any of these words may be said of a table.
                ObjectType::ObjectTable
                | ObjectType::ObjectIndex
                | ObjectType::ObjectView
                | ObjectType::ObjectMatview
                | ObjectType::ObjectSequence => {
                    let table = rename.relation.as_ref()?;
                    let (schemas, name) = (within(table), table.relname.clone());
                    Some(Change::Table { schemas, name, to: rename.newname.clone() })
                }
                _ => None,
            },
            NodeEnum::AlterObjectSchemaStmt(alter) => {
                let table = alter.relation.as_ref()?;
                let (schemas, name) = (within(table), table.relname.clone());
                Some(Change::Moved { schemas, name, to: alter.newschema.clone() })
            }
            _ => None,
        }
    }

    /// The tables that it names.
    fn tables(&self) -> Vec<&str> {
        match self {
            Change::Table { name, to, .. } => vec![name, to],
            Change::Moved { name, .. } => vec![name],
            Change::Schema { .. } => Vec::new(),
        }
    }

    /// Old and new labels. `known` are the names that tables have, or had.
    fn edges(&self, known: &HashSet<&str>) -> Vec<(TableId, TableId)> {
        match self {
            Change::Table { schemas, name, to } => {
                schemas.iter().map(|schema| (TableId::of(schema, name), TableId::of(schema, to))).collect()
            }
            Change::Moved { schemas, name, to } => {
                let label = TableId::of(to, name);
                schemas
                    .iter()
                    .map(|schema| (TableId::of(schema, name), label))
                    .filter(|(from, to)| from != to)
                    .collect()
            }
            Change::Schema { name, to } => {
                known.iter().map(|table| (TableId::of(name, table), TableId::of(to, table))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sql: &str) -> Change {
        let body = schema_change::encode("app, public", &[], sql.as_bytes());
        Change::of(&body).expect("it gives a table another name")
    }

    fn of(name: &str) -> TableId {
        TableId::of("app", name)
    }

    #[test]
    fn what_gives_a_table_another_name_is_told_from_what_does_not() {
        let both = || vec!["app".to_owned(), "public".to_owned()];
        let (name, to) = ("t".to_owned(), "u".to_owned());
        let renamed = Change::Table { schemas: both(), name: name.clone(), to: to.clone() };
        assert_eq!(change("ALTER TABLE IF EXISTS t RENAME TO u"), renamed);
        assert_eq!(change("ALTER VIEW t RENAME TO u"), renamed);
        let moved = Change::Moved { schemas: vec!["s".to_owned()], name: name.clone(), to: to.clone() };
        assert_eq!(change("ALTER TABLE s.t SET SCHEMA u"), moved);
        assert_eq!(change("ALTER SCHEMA t RENAME TO u"), Change::Schema { name, to });
        for other in ["ALTER TABLE t RENAME a TO b", "ALTER TABLE t RENAME CONSTRAINT a TO b", "DROP TABLE t"] {
            assert_eq!(Change::of(&schema_change::encode("app", &[], other.as_bytes())), None, "{other}");
        }
    }

    #[test]
    fn names_are_followed_in_the_order_in_which_they_were_given() {
        let swapped = [change("ALTER TABLE acc RENAME TO acc_old"), change("ALTER TABLE acc_new RENAME TO acc")];
        let edges = edges(&swapped, &[("app", "acc"), ("app", "acc_old")]);
        assert_eq!(edges, [(of("acc"), of("acc_old")), (of("acc_new"), of("acc"))]);
        let follow = |name| names(of(name), edges.iter().copied());
        assert_eq!(follow("acc"), [of("acc"), of("acc_old")]);
        assert_eq!(follow("acc_new"), [of("acc_new"), of("acc")]);
        assert_eq!(follow("other"), [of("other")]);
    }

    #[test]
    fn of_two_tables_that_a_bare_name_may_mean_it_is_the_one_that_is_gone() {
        let moved = [change("ALTER TABLE t SET SCHEMA archive")];
        let public = TableId::of("public", "t");
        let found = edges(&moved, &[("archive", "t"), ("public", "t")]);
        assert_eq!(found, [(of("t"), TableId::of("archive", "t"))]);
        let found = edges(&moved, &[("archive", "t"), ("public", "t"), ("app", "t")]);
        assert_eq!(found.len(), 2, "nobody knows: {found:?} {public:?}");
    }

    #[test]
    fn a_table_is_found_behind_a_schema_that_got_another_name_and_its_own_new_one() {
        let changes = [
            change("ALTER TABLE old.s SET SCHEMA middle"),
            change("ALTER SCHEMA middle RENAME TO shop"),
            change("ALTER TABLE shop.s RENAME TO t"),
            change("ALTER TABLE shop.t RENAME TO u"),
        ];
        let edges = edges(&changes, &[("shop", "u")]);
        let names = names(TableId::of("old", "s"), edges.iter().copied());
        assert_eq!(names.last(), Some(&TableId::of("shop", "u")));
        assert_eq!(names.len(), 5);
    }
}
