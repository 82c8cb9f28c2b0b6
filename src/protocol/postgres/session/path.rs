//! What unqualified names mean in a session, and dates and intervals: schema changes are repeated on the
//! secondary under the same schemas and settings.
//!
//! The server is asked once, by a hidden query, before the first schema change; again after whatever may have changed
//! the answer. A Query that does both is run in pieces, with the question in between.

use std::sync::OnceLock;

use crate::protocol::postgres::plan::{Action, Script, Statement};
use crate::protocol::postgres::schema_change::SETTINGS;
use crate::protocol::postgres::wire::{Fields, WireError, back};

use super::expect::View;
use super::{Out, Session, Wait};

const NAME: &[u8] = b"tandem path";

/// The schemas that are there, `$user` resolved, as `SET search_path` takes them; then the settings.
fn query() -> &'static str {
    static QUERY: OnceLock<String> = OnceLock::new();
    QUERY.get_or_init(|| {
        let path = "SELECT pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(s) \
            FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS u (s)), ', ')";
        let setting = |(name, _)| format!(", pg_catalog.current_setting('{name}')");
        SETTINGS.map(setting).into_iter().fold(path.to_owned(), |sql, setting| sql + &setting)
    })
}

impl Session {
    /// `true`: the server was asked, the message comes again when it answered.
    pub(super) fn ask_path(&mut self, statements: &[Statement], out: &mut Out<'_>) -> bool {
        let repeats = self.shared.policy.mirror_ddl();
        let needed = statements.iter().any(|statement| needs_path(&statement.action, repeats));
        let is_known = self.path.is_some() && !self.path_aged;
        if !needed || is_known || self.unanswered {
            return false;
        }
        if !self.can_ask_first() {
            let pipelined = !self.skipping && self.status != b'E';
            if pipelined {
                self.wait = Wait::Answers;
            }
            return pipelined;
        }
        (self.path, self.path_aged) = (Some(String::new()), false);
        self.ask_first(NAME, query().as_bytes(), View::Path, out);
        true
    }

    /// May a schema change in a Query run under a path that a statement before it in the same Query has set?
    pub(super) fn moves_path(&self, script: &Script) -> bool {
        let (mut moved, repeats) = (false, self.shared.policy.mirror_ddl());
        let meets = |statement: &Statement| {
            let meets = moved && needs_path(&statement.action, repeats);
            moved |= may_move_path(&statement.action) || self.path_touched && ends_settings(&statement.action);
            meets
        };
        !script.whole && script.statements.iter().any(meets)
    }

    /// The answer.
    pub(super) fn path_row(&mut self, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(back::DATA_ROW, body);
        let count = fields.u16()?;
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(String::from_utf8_lossy(fields.value()?.unwrap_or_default()).into_owned());
        }
        let mut texts = texts.into_iter();
        self.path = texts.next();
        self.settings = texts.collect();
        Ok(())
    }

    /// SET, DISCARD, ..: the next schema change asks again, and so does a statement that could be asked for keys.
    pub(super) fn path_may_differ(&mut self) {
        self.path_unknown();
        self.names_may_differ();
    }

    /// ROLLBACK TO, functions: the next schema change asks again.
    pub(super) fn path_unknown(&mut self) {
        self.path = None;
        self.path_touched = true;
    }
}

/// Is it repeated under the session's path? A table that is not made there is dirty by its name, which has a schema: where schema
/// changes are noted the path says it.
fn needs_path(action: &Action, repeats: bool) -> bool {
    match action {
        Action::Ddl(ddl) if !repeats => matches!(ddl.fills, Some((None, _))) && !ddl.temporary,
        Action::Ddl(ddl) if ddl.commits => ddl.mirrorable && !ddl.parted.is_empty(),
        Action::Ddl(ddl) => (ddl.mirrorable || ddl.fills.is_some()) && !ddl.temporary,
        _ => false,
    }
}

/// SET LOCAL ends with its transaction, and what is rolled back is undone.
pub(super) fn ends_settings(action: &Action) -> bool {
    matches!(action, Action::Commit { .. } | Action::Rollback { .. } | Action::PrepareTransaction { .. })
}

/// A setting, also one of those that texts are read under, code that may set one, what undoes one, or a schema that the
/// path may name.
pub(super) fn may_move_path(action: &Action) -> bool {
    match action {
        Action::Savepoint(_) => action.is_rollback_to(),
        Action::Setting | Action::Counted(_) | Action::Opaque(_) => true,
        Action::Fetch(fetch) => fetch.counted.is_some(),
        Action::Ddl(ddl) if ddl.makes_schema => true,
        other => other.is_of_session(),
    }
}

/// The schema in which an unqualified new name is created.
pub(in crate::protocol::postgres) fn first(path: &str) -> String {
    schemas(path).into_iter().next().unwrap_or_default()
}

/// The schemas of a path, as they are called.
pub(in crate::protocol::postgres) fn schemas(path: &str) -> Vec<String> {
    let (mut schemas, mut name, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut rest = path.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '"' if is_quoted && rest.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => schemas.push(std::mem::take(&mut name)),
            ' ' if !is_quoted => {}
            char => name.push(char),
        }
    }
    schemas.push(name);
    schemas.retain(|schema| !schema.is_empty());
    schemas
}

#[cfg(test)]
mod tests {
    use super::{first, schemas};

    #[test]
    fn a_new_name_is_created_in_the_first_schema() {
        for (path, schema) in [("one, public", "one"), ("\"a, \"\"b\", c", "a, \"b"), ("public", "public"), ("", "")] {
            assert_eq!(first(path), schema);
        }
        assert_eq!(schemas("\"a, \"\"b\", c, d"), ["a, \"b", "c", "d"]);
        assert!(schemas("").is_empty());
    }
}
