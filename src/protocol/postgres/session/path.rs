//! What unqualified names mean in a session: schema changes are repeated on the secondary under the same schemas.
//!
//! The server is asked once, by a hidden query, before the first schema change; again after whatever may have changed
//! the answer.

use crate::protocol::postgres::plan::{Action, Script};
use crate::protocol::postgres::wire::{self, Fields, WireError, back, front};

use super::expect::{Expect, View};
use super::{Out, Session, Wait};

const NAME: &[u8] = b"tandem path";

/// The schemas that are there, `$user` resolved, as `SET search_path` takes them.
const SQL: &[u8] = b"SELECT pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(s) \
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS u (s)), ', ')";

impl Session {
    /// `true`: the server was asked, the message comes again when it answered.
    pub(super) fn ask_path(&mut self, script: &Script, out: &mut Out<'_>) -> bool {
        let changes = script.statements.iter().any(|statement| match &statement.action {
            Action::Ddl(ddl) => ddl.mirrorable && !ddl.temporary && !ddl.commits,
            _ => false,
        });
        let failed = self.skipping || self.status == b'E' || !self.groups.is_empty();
        if !changes || failed || self.path.is_some() || !self.shared.policy.mirror_ddl() {
            return false;
        }
        // Between units it is one of its own; behind messages of the client, it is one of theirs.
        let alone = !self.open_started;
        self.path = Some(String::new());
        self.put_hidden(NAME, SQL, View::Path, out);
        self.asking += 1;
        if alone {
            wire::bare(out.to_server, front::SYNC);
            self.boundary(Expect::Sync { shown: false });
            self.wait = Wait::Answers;
        } else {
            wire::bare(out.to_server, front::FLUSH);
            self.wait = Wait::Keys;
        }
        true
    }

    /// The answer.
    pub(super) fn path_row(&mut self, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(back::DATA_ROW, body);
        fields.u16()?;
        let path = fields.value()?.unwrap_or_default();
        self.path = Some(String::from_utf8_lossy(path).into_owned());
        Ok(())
    }

    /// SET, DISCARD, ROLLBACK TO, ..: the next schema change asks again.
    pub(super) fn path_may_differ(&mut self) {
        self.path = None;
        self.path_touched = true;
    }
}

/// The schema in which an unqualified new name is created.
pub(super) fn first(path: &str) -> String {
    match path.strip_prefix('"') {
        Some(quoted) => {
            let mut name = String::new();
            let mut rest = quoted.chars().peekable();
            while let Some(char) = rest.next() {
                if char == '"' && rest.next_if_eq(&'"').is_none() {
                    break;
                }
                name.push(char);
            }
            name
        }
        None => path.split(',').next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::first;

    #[test]
    fn a_new_name_is_created_in_the_first_schema() {
        for (path, schema) in [("one, public", "one"), ("\"a, \"\"b\", c", "a, \"b"), ("public", "public"), ("", "")] {
            assert_eq!(first(path), schema);
        }
    }
}
