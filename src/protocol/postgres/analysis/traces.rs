//! What a statement may leave behind in its session, for the day on which the session moves to the other side.
//!
//! Read from the statement's kind and from the functions that it names. A superset costs one look at the session before
//! it moves; a subset would lose something that the client has set.

use pg_query::NodeEnum;
use pg_query::protobuf::{DiscardMode, Node, VariableSetStmt};

use super::super::lexer::Kind;
use super::super::plan::{Action, Traces};
use super::Scope;
use super::reach::name_of;

/// Functions that take a lock until the session ends.
const SESSION_LOCKS: &[&str] =
    &["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];

/// Functions that answer with what `nextval` gave to this session before.
const LAST_VALUES: &[&str] = &["lastval", "currval"];

/// CURSOR_OPT_HOLD of parsenodes.h.
const HOLD: i32 = 0x0020;

impl Scope<'_> {
    /// Of the statement at hand, whose action is known.
    pub(super) fn traces(&self, node: &NodeEnum, action: &Action) -> Traces {
        self.of_kind(node) | of_action(action) | self.of_words()
    }

    fn of_kind(&self, node: &NodeEnum) -> Traces {
        use NodeEnum as N;
        match node {
            N::VariableSetStmt(set) => of_setting(set),
            N::ListenStmt(_) | N::UnlistenStmt(_) => Traces::CHANNELS,
            N::DeclareCursorStmt(declare) if declare.options & HOLD != 0 => Traces::PINS,
            N::ClosePortalStmt(_) => Traces::PINS,
            N::DiscardStmt(discard) => match DiscardMode::try_from(discard.target) {
                Ok(DiscardMode::DiscardAll) => Traces::ANY,
                Ok(DiscardMode::DiscardTemp) => Traces::PINS,
                _ => Traces::NONE,
            },
            N::PrepareStmt(prepare) => prepare.query.as_deref().map_or(Traces::NONE, |inner| self.of_inner(inner)),
            // What it names was looked at when it was prepared.
            _ => Traces::NONE,
        }
    }

    fn of_inner(&self, inner: &Node) -> Traces {
        inner.node.as_ref().map_or(Traces::ANY, |node| self.of_kind(node))
    }

    fn of_words(&self) -> Traces {
        let list = self.tokens.list();
        let name = |at: usize| list.get(at).filter(|token| is_word(token.kind)).map(|token| name_of(token, self.text));
        let of = |at: usize| match name(at) {
            Some(name) if self.is_op(at + 1, b"(") => of_call(name.as_deref()),
            // Functions and types as well.
            Some(Some(schema)) if schema == "pg_temp" && self.is_op(at + 1, b".") => Traces::PINS,
            _ => Traces::NONE,
        };
        self.span.clone().fold(Traces::NONE, |all, at| all | of(at))
    }
}

fn is_word(kind: Kind) -> bool {
    matches!(kind, Kind::Ident | Kind::Quoted | Kind::UnicodeQuoted)
}

/// `None`: a name that nobody reads.
fn of_call(name: Option<&str>) -> Traces {
    match name {
        None => Traces::ANY,
        Some("set_config") => Traces::SETTINGS,
        Some(name) if SESSION_LOCKS.contains(&name) || name.starts_with("pg_advisory_unlock") => Traces::PINS,
        Some(name) if LAST_VALUES.contains(&name) => Traces::LAST_VALUE,
        Some(_) => Traces::NONE,
    }
}

/// SET LOCAL ends with its transaction.
fn of_setting(set: &VariableSetStmt) -> Traces {
    if set.is_local || set.name.eq_ignore_ascii_case("transaction") { Traces::NONE } else { Traces::SETTINGS }
}

fn of_action(action: &Action) -> Traces {
    match action {
        // Settings by which names change, and temporary tables.
        Action::Session => Traces::SETTINGS | Traces::PINS,
        // Code of the user's may do anything.
        Action::Opaque(_) | Action::Counted(_) | Action::Cursor(_) => Traces::ANY,
        Action::Ddl(ddl) if ddl.counted.is_some() => Traces::ANY,
        Action::Ddl(ddl) if ddl.temporary => Traces::SETTINGS | Traces::PINS,
        Action::Evident(evident) if evident.counted.is_some() => Traces::ANY,
        Action::Asked(asked) if asked.counted.is_some() => Traces::ANY,
        Action::Truncate(truncate) if truncate.counted.is_some() => Traces::ANY,
        Action::CopyIn(copy) if copy.counted.is_some() => Traces::ANY,
        Action::Prepare { inner, .. } => of_action(&inner.action),
        _ => Traces::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::analysis::{analyze, schema::catalog};
    use crate::protocol::postgres::lexer::{Dialect, Tokens};

    fn traces(text: &str) -> Traces {
        let mut tokens = Tokens::default();
        tokens.lex(text.as_bytes(), Dialect::default());
        let script = analyze(text.as_bytes(), &tokens, &catalog());
        script.statements.iter().fold(Traces::NONE, |all, one| all | one.traces)
    }

    #[test]
    fn plain_work_leaves_nothing_behind() {
        for text in [
            "select 1",
            "update acc set bal = 1 where id = 2",
            "insert into acc values (1, 2, 'x') returning bal",
            "begin; set local work_mem = '1MB'; set transaction isolation level serializable; commit",
            "select pg_advisory_xact_lock(1), nextval('s')",
            "declare c cursor for select 1; fetch c",
            "prepare p as select 1; execute p",
            "create table fresh (id int primary key)",
        ] {
            assert_eq!(traces(text), Traces::NONE, "{text}");
        }
    }

    #[test]
    fn what_a_session_would_miss_is_seen() {
        for (text, left) in [
            ("set work_mem = '1MB'", Traces::SETTINGS),
            ("set session characteristics as transaction read only", Traces::SETTINGS),
            ("reset work_mem", Traces::SETTINGS),
            ("set app.tenant = '7'", Traces::SETTINGS),
            ("listen news", Traces::CHANNELS),
            ("unlisten *", Traces::CHANNELS),
            ("select pg_advisory_lock(1)", Traces::PINS),
            ("select pg_catalog.\"pg_try_advisory_lock\"(1)", Traces::PINS),
            ("select lastval()", Traces::LAST_VALUE),
            ("prepare p as select currval('s')", Traces::LAST_VALUE),
            ("discard all", Traces::ANY),
            ("create function pg_temp.f() returns int language sql as 'select 1'", Traces::PINS),
            ("create type \"pg_temp\".mood as enum ()", Traces::PINS),
            ("do 'begin end'", Traces::ANY),
            ("select write_it()", Traces::ANY),
            ("selec", Traces::ANY),
        ] {
            assert!(traces(text).has(left), "{text}: {:?}", traces(text));
        }
        let temporary = traces("create temp table mine (id int)");
        assert!(temporary.has(Traces::PINS));
        assert!(traces("select set_config('app.tenant', '7', false)").has(Traces::SETTINGS));
    }
}
