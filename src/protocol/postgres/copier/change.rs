//! Schema changes that concern no table: what they make, and whether that is there after all.
//!
//! One that the secondary refuses makes no row differ, so it is no table's. It is listed by itself until what it makes is on the
//! secondary as it is on the primary, however it came there, or is no longer on the primary.

use std::collections::HashSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, ObjectType, ParseResult, RangeVar};

use crate::mirror::state::copier::{Error, Refused};
use crate::protocol::postgres::catalog::quote;
use crate::protocol::postgres::client::{self, Client, Format, Param};
use crate::protocol::postgres::grammar;
use crate::protocol::postgres::schema_change::{self, Manner};
use crate::protocol::postgres::session::first_schema;
use crate::record::TableId;

use super::link::{Link, on_primary, on_secondary};
use super::repeat::read_under;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Relation,
    View,
    Type,
    Function,
    Schema,
}

/// An object by name; of functions all that have it.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    kind: Kind,
    schema: String,
    name: String,
    /// It may have been there before, and said something else: then it counts what it says, as its server spells it.
    replaces: bool,
}

impl Kind {
    /// For people.
    fn word(self) -> &'static str {
        match self {
            Kind::Relation => "relation",
            Kind::View => "view",
            Kind::Type => "type",
            Kind::Function => "function",
            Kind::Schema => "schema",
        }
    }

    /// One text for each that there is; with what it says, if that counts.
    fn sql(self, replaces: bool) -> String {
        let (what, says, of) = match self {
            Kind::Relation => ("c.relname", "''", "pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = $2"),
            Kind::View => (
                "c.relkind",
                "pg_catalog.pg_get_viewdef(c.oid)",
                "pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = $2",
            ),
            Kind::Type => ("t.typtype", "''", "pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname = $2"),
            Kind::Function => (
                "pg_catalog.oidvectortypes(p.proargtypes)",
                "p.prosrc, pg_catalog.pg_get_function_sqlbody(p.oid), p.proconfig, p.provolatile, p.prosecdef",
                "pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = $2",
            ),
            Kind::Schema => ("n.nspname", "''", "(SELECT $2::pg_catalog.text) q ON true"),
        };
        let says = if replaces { says } else { "''" };
        format!(
            "SELECT pg_catalog.concat_ws(' ', {what}, {says}) FROM pg_catalog.pg_namespace n JOIN {of} WHERE n.nspname = $1"
        )
    }
}

impl Made {
    fn of(path: &str, sql: &str) -> Option<Made> {
        grammar::look(sql, |tree| Made::of_tree(path, tree))
    }

    fn of_tree(path: &str, tree: &ParseResult) -> Option<Made> {
        let [statement] = &tree.stmts[..] else { return None };
        let in_path = |schema: &str| if schema.is_empty() { first_schema(path) } else { schema.to_owned() };
        let named = |kind, name: &RangeVar, replaces| {
            Some(Made { kind, schema: in_path(&name.schemaname), name: name.relname.clone(), replaces })
        };
        let listed = |kind, name: &[Node], replaces| {
            let parts: Vec<&str> = name.iter().filter_map(string).collect();
            let (name, schema) = parts.split_last()?;
            Some(Made { kind, schema: in_path(schema.last().unwrap_or(&"")), name: (*name).to_owned(), replaces })
        };
        match statement.stmt.as_ref()?.node.as_ref()? {
            NodeEnum::ViewStmt(view) => named(Kind::View, view.view.as_ref()?, view.replace),
            NodeEnum::CreateTableAsStmt(create) => named(Kind::Relation, create.into.as_ref()?.rel.as_ref()?, false),
            NodeEnum::CreateStmt(create) => named(Kind::Relation, create.relation.as_ref()?, false),
            NodeEnum::IndexStmt(index) if !index.idxname.is_empty() => {
                let table = index.relation.as_ref()?;
                named(Kind::Relation, &RangeVar { relname: index.idxname.clone(), ..table.clone() }, false)
            }
            NodeEnum::CreateSeqStmt(create) => named(Kind::Relation, create.sequence.as_ref()?, false),
            NodeEnum::CompositeTypeStmt(create) => named(Kind::Type, create.typevar.as_ref()?, false),
            NodeEnum::CreateEnumStmt(create) => listed(Kind::Type, &create.type_name, false),
            NodeEnum::CreateRangeStmt(create) => listed(Kind::Type, &create.type_name, false),
            NodeEnum::CreateDomainStmt(create) => listed(Kind::Type, &create.domainname, false),
            NodeEnum::CreateFunctionStmt(create) => listed(Kind::Function, &create.funcname, create.replace),
            NodeEnum::DefineStmt(define) => match ObjectType::try_from(define.kind) {
                Ok(ObjectType::ObjectType) => listed(Kind::Type, &define.defnames, false),
                Ok(ObjectType::ObjectAggregate) => listed(Kind::Function, &define.defnames, define.replace),
                _ => None,
            },
            NodeEnum::CreateSchemaStmt(create) if create.schema_elts.is_empty() && !create.schemaname.is_empty() => {
                let schema = create.schemaname.clone();
                Some(Made { kind: Kind::Schema, name: schema.clone(), schema, replaces: false })
            }
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self.kind {
            Kind::Schema => format!("schema {}", self.schema),
            kind => format!("{} {}.{}", kind.word(), self.schema, self.name),
        }
    }

    async fn on(&self, conn: &mut Client) -> Result<HashSet<String>, client::Error> {
        let params = [Param::text(&self.schema), Param::text(&self.name)];
        let rows = conn.query(&self.kind.sql(self.replaces), &params, Format::Text).await?;
        rows.iter().map(|row| row.string(0)).collect()
    }
}

fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(text) => Some(&text.sval),
        _ => None,
    }
}

/// Why a change is listed that nobody refused.
pub(super) const IN_DOUBT: &str =
    "nobody knows whether it happened on the primary: look there, then retry or discard it";

/// A change that the secondary refuses, of this table if of any. Its text may hold values: that is shown on request alone.
pub(super) fn refused(table: Option<&str>, body: &[u8], why: String) -> Refused {
    let (path, sql) = schema_change::decode(body).map(|(manner, sql)| (manner.path, sql)).unwrap_or_default();
    let of = table.map(|table| format!(" ({table})")).unwrap_or_default();
    let name = Made::of(path, sql).map_or_else(|| words(body) + &of, |made| made.shown());
    Refused { table: TableId::NONE, name, key: Some(body.into()), shown: sql.to_owned(), why }
}

/// The first words of a change: what it does, without any value.
pub(super) fn words(body: &[u8]) -> String {
    let sql = schema_change::decode(body).map_or("", |(_, sql)| sql);
    sql.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// It makes something: that what it names is not there is no sign that it was done before.
pub(super) fn makes(sql: &str) -> bool {
    sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("create"))
}

/// It changes something of a table that must be there, and drops nothing: that this is gone is no sign that it was done before.
pub(super) fn only_alters(sql: &str) -> bool {
    let drops = |node: &Node| {
        let Some(NodeEnum::AlterTableCmd(command)) = &node.node else { return true };
        command.subtype().as_str_name().starts_with("AT_Drop")
            || command.subtype().as_str_name().starts_with("AT_Detach")
    };
    let alters = grammar::look(sql, |tree| {
        let [statement] = &tree.stmts[..] else { return None };
        let NodeEnum::AlterTableStmt(alter) = statement.stmt.as_ref()?.node.as_ref()? else { return None };
        Some(!alter.cmds.iter().any(drops))
    });
    alters.unwrap_or(false)
}

/// It may change the key of a table.
pub(super) fn may_change_keys(sql: &str) -> bool {
    let may = grammar::look(sql, |tree| {
        let node = tree.stmts.first().and_then(|one| one.stmt.as_ref()?.node.as_ref());
        Some(matches!(node, Some(NodeEnum::AlterTableStmt(_))))
    });
    may.unwrap_or(true)
}

/// A value of an enum that is added, or gets another name.
pub(super) struct Labeled {
    /// The enum, as the statement has it.
    name: String,
    /// What the value was called.
    pub(super) was: Option<String>,
    is: String,
}

impl Labeled {
    pub(super) fn of(sql: &str) -> Option<Labeled> {
        grammar::look(sql, |tree| {
            let [statement] = &tree.stmts[..] else { return None };
            let NodeEnum::AlterEnumStmt(alter) = statement.stmt.as_ref()?.node.as_ref()? else { return None };
            let name = alter.type_name.iter().filter_map(string).map(quote).collect::<Vec<_>>().join(".");
            let was = Some(alter.old_val.clone()).filter(|was| !was.is_empty());
            Some(Labeled { name, was, is: alter.new_val.clone() })
        })
    }

    /// The values that the enum has; the change's names must mean what they meant to its session.
    pub(super) async fn labels(&self, conn: &mut Client) -> Result<HashSet<String>, client::Error> {
        let sql =
            "SELECT enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = pg_catalog.to_regtype($1)::pg_catalog.oid";
        let rows = conn.query(sql, &[Param::text(&self.name)], Format::Text).await?;
        rows.iter().map(|row| row.string(0)).collect()
    }

    /// Where the enum has these values, the change has happened.
    pub(super) fn is_done(&self, labels: &HashSet<String>) -> bool {
        labels.contains(&self.is) && self.was.as_ref().is_none_or(|was| !labels.contains(was))
    }

    /// It has happened on the secondary, or is no longer so on the primary.
    async fn is_moot(&self, link: &mut Link, manner: &Manner<'_>) -> Result<bool, Error> {
        let here = self.labels_under(&mut link.primary, manner).await.map_err(on_primary)?;
        let there = self.labels_under(&mut link.secondary, manner).await.map_err(on_secondary)?;
        Ok(!self.is_done(&here) || self.is_done(&there))
    }

    async fn labels_under(&self, conn: &mut Client, manner: &Manner<'_>) -> Result<HashSet<String>, client::Error> {
        conn.simple("BEGIN").await?;
        read_under(conn, manner).await?;
        let labels = self.labels(conn).await?;
        conn.simple("COMMIT").await?;
        Ok(labels)
    }
}

/// Which of these are of no more interest.
pub(super) async fn moot(link: &mut Link, changes: &[Box<[u8]>]) -> Result<Vec<bool>, Error> {
    let mut moot = Vec::with_capacity(changes.len());
    for body in changes {
        let Some((manner, sql)) = schema_change::decode(body) else {
            moot.push(false);
            continue;
        };
        moot.push(if let Some(made) = Made::of(manner.path, sql) {
            let here = made.on(&mut link.primary).await.map_err(on_primary)?;
            here.is_subset(&made.on(&mut link.secondary).await.map_err(on_secondary)?)
        } else if let Some(labeled) = Labeled::of(sql) {
            labeled.is_moot(link, &manner).await?
        } else {
            false
        });
    }
    Ok(moot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_makes_is_named_without_its_values() {
        for (sql, expected) in [
            ("CREATE VIEW v AS SELECT 1", Some("view app.v")),
            ("CREATE OR REPLACE VIEW \"S\".\"V\" AS SELECT 'x'", Some("view S.V")),
            ("CREATE TYPE public.mood AS ENUM ('x')", Some("type public.mood")),
            ("CREATE TYPE pair AS (a int)", Some("type app.pair")),
            ("CREATE DOMAIN pos AS int CHECK (value > 0)", Some("type app.pos")),
            ("CREATE FUNCTION s.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", Some("function s.f")),
            ("CREATE TABLE t (p public.mood)", Some("relation app.t")),
            ("CREATE INDEX i ON s.t (a)", Some("relation s.i")),
            ("CREATE INDEX ON s.t (a)", None),
            ("CREATE SCHEMA s", Some("schema s")),
            ("CREATE SCHEMA s CREATE VIEW v AS SELECT 1", None),
            ("ALTER TYPE mood ADD VALUE 'secret'", None),
        ] {
            let made = Made::of("app, public", sql).map(|made| made.shown());
            assert_eq!(made.as_deref(), expected, "{sql}");
        }
        let body = b"\x03appALTER TYPE mood ADD VALUE 'secret'";
        let refused = refused(None, body, "42704".into());
        assert_eq!((&*refused.name, refused.key.as_deref()), ("ALTER TYPE", Some(&body[..])));
    }

    #[test]
    fn what_only_alters_is_told_from_what_drops() {
        assert!(only_alters("ALTER TABLE t ALTER n SET NOT NULL") && only_alters("ALTER TABLE t ADD CHECK (n > 0)"));
        for other in [
            "ALTER TABLE t DROP COLUMN n",
            "ALTER TABLE t ADD m int, DROP CONSTRAINT c",
            "ALTER TABLE t RENAME n TO o",
            "ALTER TABLE t DETACH PARTITION p",
            "DROP TABLE t",
            "CREATE TABLE t ()",
        ] {
            assert!(!only_alters(other), "{other}");
        }
    }

    #[test]
    fn only_what_makes_something_begins_so() {
        assert!(makes(" create view v as select 1") && !makes("DROP VIEW v") && !makes("crea"));
    }
}
