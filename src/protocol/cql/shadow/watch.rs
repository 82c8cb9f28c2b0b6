//! The sessions' side: which reads are kept, and what of them. Nothing here waits, and a read that chance does not choose
//! costs neither a lock nor an allocation.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{self, Pages};
use crate::protocol::cql::session::known::Known;
use crate::protocol::cql::wire::compress::Compression;
use crate::protocol::cql::wire::request::{Execute, Query};
use crate::protocol::cql::wire::{Opcode, Version};
use crate::shadow::{About, Handle, Skip, Slot};

use super::read::{Read, second};
use super::reading::fitness;

/// Chooses reads. Shared by all sessions.
pub struct Watch {
    handle: Handle<Read>,
    pages: Pages,
}

/// A request that may be chosen, not compressed.
#[derive(Clone, Copy)]
pub(in crate::protocol::cql) struct Candidate<'a> {
    /// QUERY or EXECUTE.
    pub opcode: Opcode,
    /// Its version.
    pub version: Version,
    /// It, without what the header's flags put before it.
    pub message: &'a [u8],
}

/// A read that was chosen and is on its way.
pub(in crate::protocol::cql) struct Watched {
    slot: Slot<Read>,
    known: Arc<Known>,
    opcode: Opcode,
    version: Version,
    asked: Bytes,
    second: i32,
}

impl Watch {
    /// As configured.
    pub fn new(config: &config::Shadow, handle: Handle<Read>) -> Watch {
        Watch { handle, pages: config.pages }
    }

    /// Chooses none.
    pub fn off() -> Watch {
        Watch { handle: Handle::off(), pages: Pages::First }
    }

    /// Whether this read of `client`, which is about to be forwarded, is repeated; `known` is asked only where chance says so.
    #[inline]
    pub(in crate::protocol::cql) fn choose(
        &self,
        client: (&str, Option<IpAddr>),
        known: impl FnOnce() -> Option<Arc<Known>>,
        asked: Candidate<'_>,
    ) -> Option<Watched> {
        let found = OnceCell::new();
        let kind = if asked.opcode == Opcode::Execute { "prepared" } else { "text" };
        let slot = self.handle.sample(|| {
            let spoken = found.get_or_init(known).as_deref().map(Known::spoken);
            About {
                kind,
                tables: spoken.into_iter().map(|spoken| (spoken.label, &*spoken.name)).collect(),
                client: client.1,
                user: client.0,
                shape: spoken.map_or("", |spoken| &spoken.shape),
            }
        })?;
        self.keep(slot, found.into_inner().flatten(), asked)
    }

    #[cold]
    fn keep(&self, mut slot: Slot<Read>, known: Option<Arc<Known>>, asked: Candidate<'_>) -> Option<Watched> {
        // Nobody remembers what was prepared: only where there are more statements than are remembered.
        let known = known?;
        let unfit = match fitness(&known) {
            Err(unfit) => Some(unfit.into()),
            Ok(_) if self.pages == Pages::First && asked.is_later_page() => Some(Skip::LaterPage),
            Ok(_) => None,
        };
        if let Some(why) = unfit {
            slot.skip(why);
            return None;
        }
        if !slot.reserve(asked.message.len()) {
            return None;
        }
        slot.forwarded();
        let message = Bytes::copy_from_slice(asked.message);
        Some(Watched { slot, known, opcode: asked.opcode, version: asked.version, asked: message, second: second() })
    }
}

impl Candidate<'_> {
    /// It asks for what comes behind another answer.
    fn is_later_page(self) -> bool {
        let parameters = match self.opcode {
            Opcode::Execute => Execute::parse(self.version, self.message).map(|execute| execute.parameters),
            _ => Query::parse(self.version, self.message).map(|query| query.parameters),
        };
        parameters.is_ok_and(|parameters| parameters.paging_state.is_some())
    }
}

impl Watched {
    /// Its answer is all there.
    pub(in crate::protocol::cql) fn answered(self, frame: &[u8], compression: Option<Compression>) {
        let Watched { mut slot, known, opcode, version, asked, second } = self;
        if slot.keep(frame) {
            let answer = slot.take();
            slot.submit(Read { known, opcode, version, compression, asked, answer, second });
        }
    }

    /// The server did not answer.
    pub(in crate::protocol::cql) fn lost(self) {
        self.slot.skip(Skip::PrimaryFailed);
    }
}
