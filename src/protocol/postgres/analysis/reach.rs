//! What a statement could run behind its own text: user functions, operators, types, views and policies that call
//! them, and built-in functions that run SQL text.
//!
//! Read from tokens: a function is called as `name(` or as `value.name`, an operator by its symbol, a type by its
//! name. A column that bears such a name costs a count, nothing else.

use std::borrow::Cow;
use std::collections::HashSet;

use super::super::catalog::{Catalog, Kind as RelationKind, Relation};
use super::super::lexer::{Kind, Token};
use super::Scope;

/// Built-in functions that run SQL text, or open cursors, whose statements nobody sees; and large objects, which are
/// rows of no mirrored table.
const BUILTIN_WRITERS: &[&str] = &[
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "lo_creat",
    "lo_create",
    "lo_unlink",
    "lo_import",
    "lo_from_bytea",
    "lo_put",
    "lo_open",
    "lo_truncate",
    "lo_truncate64",
    "lowrite",
];

/// Why a statement is counted that names nothing of the user's.
pub(super) const MADE: &str = "code that the same transaction may have made";

/// What a statement reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Built-in code that cannot write.
    Builtin,
    /// `set_config`: what names mean may change.
    Settings,
    /// Code that could write: why.
    User(String),
}

impl Reach {
    /// Of the statement at hand: what it names, and what its transaction has made, which may run without a name.
    pub(super) fn of(scope: &Scope<'_>) -> Reach {
        match Reach::named(scope) {
            Reach::Builtin | Reach::Settings if scope.made.any() => Reach::User(MADE.to_owned()),
            named => named,
        }
    }

    /// What the statement at hand names.
    pub(super) fn named(scope: &Scope<'_>) -> Reach {
        let list = scope.tokens.list();
        let mut found = Reach::Builtin;
        for at in scope.span.clone() {
            let Some(token) = list.get(at) else { break };
            match token.kind {
                Kind::Ident | Kind::Quoted | Kind::UnicodeQuoted => match scope.word(at, token) {
                    Reach::Builtin => {}
                    Reach::Settings => found = Reach::Settings,
                    user => return user,
                },
                Kind::Op => {
                    let symbol = std::str::from_utf8(token.text(scope.text)).unwrap_or_default();
                    if scope.catalog.user_operators.contains(symbol) {
                        return Reach::User(format!("operator {symbol} of the user's"));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Why hidden writes must be counted.
    pub(super) fn why(self) -> Option<String> {
        match self {
            Reach::User(why) => Some(why),
            Reach::Builtin | Reach::Settings => None,
        }
    }
}

impl Scope<'_> {
    fn word(&self, at: usize, token: &Token) -> Reach {
        let name = name_of(token, self.text);
        let Some(name) = name else { return Reach::User("a name in U&\"\" form".to_owned()) };
        let name = name.as_ref();
        if self.could_call(at) {
            if self.catalog.user_functions.contains(name) && !self.is_builtin_call(at) {
                return Reach::User(format!("function {name}"));
            }
            if BUILTIN_WRITERS.contains(&name) {
                return Reach::User(format!("function {name}"));
            }
            if name == "set_config" {
                return Reach::Settings;
            }
        }
        if self.catalog.user_types.contains(name) {
            return Reach::User(format!("type {name}"));
        }
        match reads_user_code(self.catalog, name) {
            Some(relation) => Reach::User(format!("functions behind {}.{}", relation.schema, relation.name)),
            None => Reach::Builtin,
        }
    }

    /// `name(` or `.name`.
    fn could_call(&self, at: usize) -> bool {
        self.is_op(at + 1, b"(") || (at > 0 && self.is_op(at - 1, b"."))
    }

    /// `pg_catalog.name(`
    fn is_builtin_call(&self, at: usize) -> bool {
        at >= 2
            && self.is_op(at - 1, b".")
            && self.tokens.get(at - 2).is_some_and(|token| token.text(self.text).eq_ignore_ascii_case(b"pg_catalog"))
    }
}

/// Of a longer name the server takes the beginning (NAMEDATALEN of pg_config_manual.h, with its zero).
const NAME_BYTES_MAX: usize = 63;

/// The name that a word stands for; `None` for `U&""`.
pub(super) fn name_of<'a>(token: &Token, text: &'a [u8]) -> Option<Cow<'a, str>> {
    let word = std::str::from_utf8(token.text(text)).ok()?;
    match token.kind {
        Kind::Ident => {
            let word = cut(word);
            let folds = word.bytes().any(|byte| byte.is_ascii_uppercase());
            Some(if folds { word.to_ascii_lowercase().into() } else { word.into() })
        }
        Kind::Quoted => {
            let inner = word.get(1..word.len().checked_sub(1)?)?;
            let quotes = inner.contains('"');
            Some(if quotes { cut(&inner.replace("\"\"", "\"")).to_owned().into() } else { cut(inner).into() })
        }
        _ => None,
    }
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

/// A view (or a table with policies) of that name that runs user functions when it is read, however deep.
fn reads_user_code<'a>(catalog: &'a Catalog, name: &str) -> Option<&'a Relation> {
    let oids = catalog.by_name.get(name)?;
    let mut seen = HashSet::new();
    oids.iter().find_map(|&oid| reading_runs(catalog, oid, &mut seen))
}

fn reading_runs<'a>(catalog: &'a Catalog, oid: u32, seen: &mut HashSet<u32>) -> Option<&'a Relation> {
    let relation = catalog.relations.get(&oid)?;
    if !seen.insert(oid) {
        return None;
    }
    let view = relation.kind == RelationKind::View;
    if relation.hazards.user_functions && (view || relation.hazards.row_security) {
        return Some(relation);
    }
    relation.reads.iter().filter(|_| view).find_map(|&oid| reading_runs(catalog, oid, seen))
}
