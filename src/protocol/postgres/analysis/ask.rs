//! The hidden RETURNING: what is asked of the server when keys are not in the text.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{RangeVar, ReturningClause, ReturningOptionKind};

use super::super::catalog::{Relation, quote};
use super::super::key::Form;
use super::super::lexer::Kind;
use super::super::plan::Asked;
use super::Scope;
use super::reach::name_of;
use super::target::{labels, same_key};

/// Names for the two rows that no client would choose.
const OLD: &str = "tandem_old_row";
const NEW: &str = "tandem_new_row";

/// Where a hidden RETURNING goes.
pub(super) struct Question<'a> {
    /// The statement's target.
    pub(super) name: &'a RangeVar,
    /// The client's own list.
    pub(super) returning: Option<&'a ReturningClause>,
    /// Old and new keys are needed.
    pub(super) rekeys: bool,
    /// Rows may be deleted or re-keyed.
    pub(super) moved: bool,
}

impl Question<'_> {
    /// One suffix that serves every table that could hold the rows of those that are named; `None`: it would change what the
    /// statement does, or the tables' keys differ.
    pub(super) fn suffix(
        &self,
        scope: &Scope<'_>,
        named: &[Arc<Relation>],
        holders: &[Arc<Relation>],
    ) -> Option<Asked> {
        let first = holders.first()?;
        let key = first.key.as_ref()?;
        // The policies and rules that a statement meets are those of the table that it names.
        let is_forbidden = named.iter().chain(holders).any(|table| forbids(table));
        let are_alike = holders.iter().all(|holder| same_key(first, holder));
        if is_forbidden || !are_alike || !first.key_columns().all(Form::askable) {
            return None;
        }
        let shown = self.returning.is_some_and(|clause| !clause.exprs.is_empty());
        let (with, rows) = self.rows(scope, shown)?;
        let columns = rows.iter().flat_map(|row| list(first, row)).collect::<Vec<_>>().join(", ");
        let suffix = if shown { format!(", {columns}") } else { format!(" RETURNING {with}{columns}") };
        Some(Asked {
            suffix,
            shown,
            hidden: rows.len() * (1 + key.columns.len()),
            rekeys: self.rekeys,
            also: Vec::new(),
            moved: self.moved,
            tables: labels(holders),
            rights: holders.iter().any(|holder| holder.hazards.blind),
            counted: None,
        })
    }

    /// The names by which the row (or the old and the new one) is called, and what declares them; `None`: the names that
    /// the client's own RETURNING leaves to us may mean something else.
    fn rows(&self, scope: &Scope<'_>, shown: bool) -> Option<(String, Vec<String>)> {
        if !self.rekeys {
            return Some((String::new(), vec![self.target()]));
        }
        if !shown {
            let with = format!("WITH (OLD AS {}, NEW AS {}) ", quote(OLD), quote(NEW));
            return Some((with, vec![quote(OLD), quote(NEW)]));
        }
        // What the statement itself calls so hides the row ("unless masked", `transformReturningClause`).
        let named = |kind, default: &str| match self.option(kind) {
            Some(name) => Some(quote(name)),
            None => (!scope.may_call_something(default)).then(|| default.to_owned()),
        };
        let old = named(ReturningOptionKind::ReturningOptionOld, "old")?;
        let new = named(ReturningOptionKind::ReturningOptionNew, "new")?;
        Some((String::new(), vec![old, new]))
    }

    /// The target as the statement calls it: a table of another schema that is called so too may stand beside it.
    fn target(&self) -> String {
        let RangeVar { schemaname, relname, alias, .. } = self.name;
        match alias {
            Some(alias) => quote(&alias.aliasname),
            None if schemaname.is_empty() => quote(relname),
            None => format!("{}.{}", quote(schemaname), quote(relname)),
        }
    }

    fn option(&self, kind: ReturningOptionKind) -> Option<&str> {
        self.returning?.options.iter().find_map(|node| match node.node.as_ref() {
            Some(NodeEnum::ReturningOption(option)) if option.option == kind as i32 => Some(option.value.as_str()),
            _ => None,
        })
    }
}

impl Scope<'_> {
    /// The statement at hand has the word elsewhere than right before a column of it: there it may be the name of a table
    /// or an alias.
    fn may_call_something(&self, word: &str) -> bool {
        self.span.clone().filter(|&at| !self.is_op(at + 1, b".")).any(|at| {
            let token = self.tokens.get(at);
            let name = token.filter(|token| matches!(token.kind, Kind::Ident | Kind::Quoted | Kind::UnicodeQuoted));
            name.is_some_and(|token| name_of(&token, self.text).is_none_or(|name| name == word))
        })
    }
}

/// RETURNING needs SELECT policies to agree and is refused under rules.
fn forbids(relation: &Relation) -> bool {
    relation.hazards.row_security || relation.hazards.rules || relation.hazards.instead_of
}

fn list(relation: &Relation, row: &str) -> Vec<String> {
    let mut all = vec![format!("{row}.tableoid::pg_catalog.text")];
    all.extend(relation.key_columns().map(|column| Form::asked(column, &format!("{row}.{}", quote(&column.name)))));
    all
}
