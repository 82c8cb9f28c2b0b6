//! A query of our own among the client's messages. It runs under a name of its own in the extended protocol, so the
//! client's unnamed statement and portal are left alone.
//!
//! Its error is not the client's, whose statement runs all the same, with the answer unknown. But where it ended the client's
//! transaction, or somebody cancelled it, it stands for the client's statement, which does not run: nobody is told of a
//! failure and has his write committed.
//!
//! A statement that waits, and of which the server does not know, is cancelled in the same way: one that fails goes in its
//! place, so that the server's transaction is what it would be behind a cancel of its own. Before the gate nothing goes to a
//! server, and no transaction is open: there the answer is ours.

use bytes::{BufMut, Bytes};

use crate::protocol::postgres::client::{DbError, QUERY_CANCELED};
use crate::protocol::postgres::wire::{self, HEADER, Header, back, front};

use super::expect::{Effect, Expect, View};
use super::{Out, Session, Wait};

/// The name of the statement that fails in the place of what was cancelled.
const CANCELLED: &[u8] = b"tandem cancelled";
/// What PostgreSQL says of a statement that it cancels for its client.
const CANCELED: &str = "canceling statement due to user request";

impl Session {
    /// What the client waits for is to be cancelled. `waiting`: what it sent and was not taken. `Some`: it was, and so many of
    /// these bytes are answered. `None`: it is the server's to cancel, which works on it, or nobody does.
    pub fn cancel(&mut self, waiting: &[u8], out: &mut Out<'_>) -> Option<usize> {
        let waits = matches!(self.wait, Wait::Gate(_) | Wait::Room(_) | Wait::Announced(_) | Wait::Catalog(_));
        // Of what is behind others in a pipeline, the first is meant.
        let is_next = self.groups.is_empty() && self.copies.is_empty() && self.learning.is_none();
        if !waits || !is_next || self.inside_message() {
            return None;
        }
        if self.pieces.is_some() {
            let is_open = self.pass.is_some() && (self.open_started || self.status == b'T');
            return is_open.then(|| self.cancel_there(out))?;
        }
        let header = Header::peek(waiting).ok().flatten().filter(|header| header.size <= waiting.len())?;
        if self.pass.is_none() {
            return self.cancel_here(header.kind, out).then_some(header.size);
        }
        // A Sync that ends nothing commits nothing.
        if header.kind == front::SYNC && !self.open_started { None } else { self.cancel_there(out) }
    }

    /// No server has anything of its unit. `false`: it is nothing that could be cancelled.
    fn cancel_here(&mut self, kind: u8, out: &mut Out<'_>) -> bool {
        let is_whole = matches!(kind, front::QUERY | front::FUNCTION_CALL);
        let is_part = matches!(kind, front::PARSE | front::BIND | front::DESCRIBE | front::EXECUTE | front::CLOSE);
        if self.status != b'I' || self.open_started || !is_whole && !is_part {
            return false;
        }
        wire::error_response(out.to_client, "ERROR", QUERY_CANCELED, CANCELED, None);
        if is_whole {
            wire::message(out.to_client, back::READY_FOR_QUERY, |b| b.put_u8(self.status));
        }
        self.discarding = is_part;
        self.wait = Wait::Nothing;
        (self.message, self.refused, self.reloaded, self.unanswered) = (None, None, false, false);
        true
    }

    /// The server fails in its place, and the message comes again.
    fn cancel_there(&mut self, out: &mut Out<'_>) -> Option<usize> {
        if !self.can_ask_first() {
            return None;
        }
        let fails = format!(
            "DO $tandem$ BEGIN RAISE EXCEPTION USING ERRCODE = '{QUERY_CANCELED}', MESSAGE = '{CANCELED}'; END $tandem$"
        );
        self.ask_first(CANCELLED, fails.as_bytes(), View::Cancelled, out);
        Some(0)
    }

    /// Behind what was cancelled before the gate, up to its Sync, nothing means anything; and the Sync is answered here.
    pub(super) fn discards(&mut self, kind: u8, out: &mut Out<'_>) -> bool {
        let is_ours = self.discarding && self.pass.is_none() && self.nothing_in_flight();
        if !is_ours || kind == front::TERMINATE {
            return false;
        }
        if kind == front::SYNC {
            self.discarding = false;
            wire::message(out.to_client, back::READY_FOR_QUERY, |b| b.put_u8(self.status));
        }
        true
    }

    /// Can a hidden query go ahead of the message at hand? Not into a failed transaction, and not between messages whose
    /// answers are not there.
    pub(super) fn can_ask_first(&self) -> bool {
        !self.skipping && self.status != b'E' && self.groups.is_empty()
    }

    /// Put a hidden query ahead of the message at hand, which comes again when it is answered. Between units it is one of
    /// its own; behind messages of the client, it is one of theirs.
    pub(super) fn ask_first(&mut self, name: &[u8], sql: &[u8], view: View, out: &mut Out<'_>) {
        let alone = !self.open_started;
        self.put_hidden(name, sql, view, out);
        self.asking += 1;
        if alone {
            wire::bare(out.to_server, front::SYNC);
            self.boundary(Expect::Sync { shown: false });
            self.wait = Wait::Answers;
        } else {
            wire::bare(out.to_server, front::FLUSH);
            self.wait = Wait::Keys;
        }
    }

    /// Put a hidden query without parameters; `view` says who takes its rows. The caller flushes or syncs.
    pub(super) fn put_hidden(&mut self, name: &[u8], sql: &[u8], view: View, out: &mut Out<'_>) {
        wire::close(out.to_server, b'S', name);
        wire::parse(out.to_server, name, sql, &[]);
        wire::message(out.to_server, front::BIND, |b| {
            wire::cstr(b, name);
            wire::cstr(b, name);
            b.put_bytes(0, 6);
        });
        wire::execute(out.to_server, name, 0);
        // The portal must not stay: in a transaction the next one takes its name.
        wire::close(out.to_server, b'P', name);
        self.expect(Expect::hidden_close());
        self.expect(Expect::hidden_parse());
        self.expect(Expect::hidden_bind());
        self.expect(Expect::Execute { view, effect: Effect::None });
        self.expect(Expect::hidden_close());
    }

    /// An error came. Was it for a query of ours that is a unit of its own? Then the client does not see it, or not now.
    pub(super) fn hidden_failed(&mut self, whole: &[u8]) -> bool {
        let is_end = |expect: &&Expect| matches!(expect, Expect::Sync { .. } | Expect::Query { .. } | Expect::Function);
        if !matches!(self.expects.iter().find(is_end), Some(Expect::Sync { shown: false })) {
            return false;
        }
        let error = DbError::parse(whole.get(HEADER..).unwrap_or_default()).unwrap_or_default();
        if matches!(&*error.severity, "FATAL" | "PANIC") {
            return false; // The last word of the server.
        }
        if !matches!(self.wait, Wait::Answers) {
            return true; // Nobody waits for it: it closes what is not needed any more.
        }
        let is_spared = self
            .expects
            .iter()
            .take_while(|expect| !is_end(expect))
            .any(|expect| matches!(expect, Expect::Execute { view: View::Path | View::Names | View::Ahead, .. }));
        if is_spared && self.status == b'I' && error.code != QUERY_CANCELED {
            tracing::warn!(code = error.code, "the server did not answer what it was asked ahead of a statement");
            self.unanswered = true;
        } else {
            self.refused = Some(Bytes::copy_from_slice(whole));
            self.ahead = None;
        }
        true
    }

    /// The error of a query of ours answers the message at hand, which does not run.
    pub(super) fn refuse(&mut self, kind: u8, error: &[u8], out: &mut Out<'_>) {
        out.to_client.extend_from_slice(error);
        if matches!(kind, front::QUERY | front::FUNCTION_CALL) {
            wire::bare(out.to_server, front::SYNC);
            self.boundary(Expect::Sync { shown: true });
        } else {
            self.discarding = true;
        }
    }
}
