//! A query of our own among the client's messages. It runs under a name of its own in the extended protocol, so the
//! client's unnamed statement and portal are left alone.
//!
//! Its error is not the client's, whose statement runs all the same, with the answer unknown. But where it ended the client's
//! transaction, or somebody cancelled it, it stands for the client's statement, which does not run: nobody is told of a
//! failure and has his write committed.

use bytes::{BufMut, Bytes};

use crate::protocol::postgres::client::{DbError, QUERY_CANCELED};
use crate::protocol::postgres::wire::{self, HEADER, front};

use super::expect::{Effect, Expect, View};
use super::{Out, Session, Wait};

impl Session {
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
        if kind == front::QUERY {
            wire::bare(out.to_server, front::SYNC);
            self.boundary(Expect::Sync { shown: true });
        } else {
            self.discarding = true;
        }
    }
}
