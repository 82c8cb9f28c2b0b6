//! A query of our own among the client's messages. It runs under a name of its own in the extended protocol, so the
//! client's unnamed statement and portal are left alone.

use bytes::BufMut;

use crate::protocol::postgres::wire::{self, front};

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
}
