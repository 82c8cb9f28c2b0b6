//! What configuration says of writes that are not simply mirrored; it may change while clients are served.

use crate::config::{Live, OnDdl, OnFull, OnUncaptured};
use crate::protocol::cql::text::statement::Class;
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

    /// One that runs on the primary only leaves a dirty table; what is of no table leaves a line of the log.
    pub(super) fn note(&self, class: Class, record: &mut RecordBuf) {
        if self.of(class).is_none_or(|(_, on)| on != OnDdl::Note) {
            return;
        }
        let tables: Vec<TableId> = record.tables().filter(|table| *table != TableId::NONE).collect();
        record.clear();
        if tables.is_empty() {
            let then = "nothing remembers it: do it on the secondary by hand, if it shall have it";
            tracing::warn!("a schema change of no table runs on the primary only (mirror.ddl = \"note\"): {then}");
        }
        tables.into_iter().for_each(|table| record.dirty(table, Reason::Ddl));
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
