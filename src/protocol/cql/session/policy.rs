//! What configuration says of writes that are not simply mirrored; it may change while clients are served.

use bytes::BytesMut;

use crate::config::{Live, OnDdl, OnFull, OnUncaptured};
use crate::protocol::cql::text::statement::Class;
use crate::protocol::cql::write;
use crate::record::{Item, Reason, RecordBuf, TableId};

/// See the module.
pub(in crate::protocol::cql) struct Policy(Live);

impl Policy {
    pub(in crate::protocol::cql) fn new(live: Live) -> Policy {
        Policy(live)
    }

    /// The setting that says what becomes of a statement of this kind.
    fn of(&self, class: Class) -> Option<(&'static str, OnDdl)> {
        let settings = self.0.get();
        match class {
            Class::Schema => Some(("mirror.ddl", settings.ddl)),
            Class::Truncate => Some(("mirror.truncate", settings.truncate)),
            _ => None,
        }
    }

    /// The setting for which a statement of this kind is refused.
    pub(super) fn refuses(&self, class: Class) -> Option<&'static str> {
        self.of(class).filter(|(_, on)| *on == OnDdl::Refuse).map(|(name, _)| name)
    }

    /// One that runs on the primary only leaves a dirty table; what is of no one table is listed among what is parked, and may
    /// be repeated from there.
    pub(super) fn note(&self, class: Class, record: &mut RecordBuf) {
        if self.of(class).is_none_or(|(_, on)| on != OnDdl::Note) {
            return;
        }
        let barrier = |item| match item {
            Item::Ddl(table, body) => Some((table, BytesMut::from(body))),
            _ => None,
        };
        let noted: Vec<(TableId, BytesMut)> = record.items().filter_map(barrier).collect();
        record.clear();
        for (table, mut body) in noted {
            if table == TableId::NONE {
                write::mark_once(&mut body);
                record.ddl(table, &body);
            } else {
                record.dirty(table, Reason::Ddl);
            }
        }
    }

    /// The setting for which a write is refused that leaves this: nobody knows what it writes.
    pub(super) fn refuses_uncaptured(&self, record: &RecordBuf) -> Option<&'static str> {
        let unknown = |item| matches!(item, Item::Dirty(_, Reason::Uncaptured));
        // Most are none of these: settings are looked at for those that are.
        let is_refused = record.items().any(unknown) && self.0.get().on_uncaptured == OnUncaptured::Refuse;
        is_refused.then_some("mirror.on_uncaptured")
    }

    /// Clients wait for room in a full journal.
    pub(super) fn blocks_when_full(&self) -> bool {
        self.0.get().on_full == OnFull::Block
    }
}
