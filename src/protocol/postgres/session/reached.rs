//! What SQL reaches of what the client made by the protocol, which shares its names: EXECUTE of a statement that was parsed,
//! and FETCH from a portal. Both show rows as they are, with our columns where the server's text has our RETURNING.
//!
//! And what the simple protocol does for a cursor alone: it sends what a binary one returns in binary.

use std::sync::Arc;

use crate::protocol::postgres::plan::{Action, Script, Statement};
use crate::protocol::postgres::wire::{self, Fields, WireError, back, front};

use super::expect::{Expect, View};
use super::names::literal;
use super::statements::Prepared;
use super::{Out, Session, Wait};

const NAME: &[u8] = b"tandem cursor";

/// A cursor as the server has it; the default is one that is not there.
#[derive(Default)]
pub(super) struct Cursor {
    pub(super) is_binary: bool,
    /// Its statement.
    text: Vec<u8>,
}

impl Session {
    /// What an EXECUTE names is given to the server as the client wrote it. `true`: it is on its way, the message comes again.
    pub(super) fn unask(&mut self, statements: &[Statement], out: &mut Out<'_>) -> bool {
        statements.iter().any(|statement| match &statement.action {
            Action::Execute { name, .. } => self.unask_one(name, out),
            _ => false,
        })
    }

    fn unask_one(&mut self, name: &str, out: &mut Out<'_>) -> bool {
        let parsed = self.statements.get(name.as_bytes()).filter(|parsed| parsed.asked.is_some());
        let Some(parsed) = parsed.cloned() else { return false };
        if !self.can_ask_first() {
            let is_pipelined = !self.skipping && self.status != b'E';
            if is_pipelined {
                self.wait = Wait::Answers;
            }
            return is_pipelined;
        }
        wire::close(out.to_server, b'S', name.as_bytes());
        wire::parse(out.to_server, name.as_bytes(), &parsed.text, &parsed.told);
        // Who binds it gets one that asks in its place.
        let (twin, serial) = (self.asks(&parsed.script), self.statements.next_serial());
        let undo = self.statements.put(name.as_bytes(), Prepared { asked: None, twin, serial, ..parsed });
        let is_alone = !self.open_started;
        self.expect(Expect::hidden_close());
        self.expect(Expect::Parse { shown: false, undo });
        if is_alone {
            wire::bare(out.to_server, front::SYNC);
            self.boundary(Expect::Sync { shown: false });
            self.wait = Wait::Answers;
        }
        is_alone
    }

    /// The plan of the portal that it reads, if our columns are in its rows.
    pub(super) fn portal_read(&self, action: &Action, cursor: &Cursor) -> Option<Arc<Script>> {
        let Action::Fetch(fetch) = action else { return None };
        let portal = self.statements.portal(fetch.cursor.as_bytes()).filter(|portal| portal.asked)?;
        let script = &portal.statement.as_ref()?.script;
        // SQL may have closed it, and given its name to another.
        let suffix = super::asked_of(script.statements.first()?)?.suffix.as_bytes();
        let is_it = cursor.text.windows(suffix.len()).any(|some| some == suffix);
        is_it.then(|| script.clone())
    }

    /// Ahead of a piece that reads a cursor. `true`: the server was asked, the piece comes again.
    pub(super) fn ask_cursor(&mut self, action: &Action, out: &mut Out<'_>) -> bool {
        let Action::Fetch(fetch) = action else { return false };
        let can_ask = self.can_ask_first();
        let Some(pieces) = self.pieces.as_mut().filter(|pieces| !fetch.is_move && pieces.cursor.is_none()) else {
            return false;
        };
        pieces.cursor = Some(Cursor::default());
        if can_ask {
            let sql = format!(
                "SELECT c.is_binary::pg_catalog.text, c.statement FROM pg_catalog.pg_cursors AS c \
                 WHERE c.name OPERATOR(pg_catalog.=) {}::pg_catalog.text",
                literal(&fetch.cursor)
            );
            self.ask_first(NAME, sql.as_bytes(), View::Cursor, out);
        }
        can_ask
    }

    /// The answer.
    pub(super) fn cursor_row(&mut self, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(back::DATA_ROW, body);
        fields.u16()?;
        let (is_binary, text) = (fields.value()? == Some(b"true"), fields.value()?.unwrap_or_default().to_vec());
        if let Some(pieces) = &mut self.pieces {
            pieces.cursor = Some(Cursor { is_binary, text });
        }
        Ok(())
    }
}
