//! TRUNCATE and schema changes against the writes of other clients.
//!
//! No timestamp orders them, so what the journal says must be what happened: a write that is written down before a
//! TRUNCATE was executed before it. So one of these waits until every write to its table is answered, and holds back the
//! next ones until it is answered itself. Writers cost each other an atomic; the order of both sides' looks is that of the
//! gate (`cutover/gate.rs`): each says what it does before it looks at the other.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use crate::record::TableId;

/// By table; one that was written to is never forgotten. Clones are the same: what the mirror does on the primary has its place
/// among the writes, too.
#[derive(Clone, Default)]
pub struct Barriers(Arc<DashMap<TableId, Arc<Barrier>, RandomState>>);

/// What is under way on one table.
#[derive(Default)]
pub(in crate::protocol::cql) struct Barrier {
    writes: AtomicU64,
    closed: AtomicBool,
    changed: Notify,
    /// One at a time.
    turn: Arc<Mutex<()>>,
}

/// A write is under way.
pub(in crate::protocol::cql) struct Writes(Arc<Barrier>);

/// No write is under way, and none begins.
pub(in crate::protocol::cql) struct Alone {
    barrier: Arc<Barrier>,
    _turn: OwnedMutexGuard<()>,
}

impl Barriers {
    /// That of a table.
    pub(in crate::protocol::cql) fn of(&self, table: TableId) -> Arc<Barrier> {
        if let Some(known) = self.0.get(&table) {
            return known.clone();
        }
        self.0.entry(table).or_default().clone()
    }
}

impl Barrier {
    /// Begin a write. `None`: not now, see [`Barrier::opened`].
    pub(in crate::protocol::cql) fn write(self: &Arc<Barrier>) -> Option<Writes> {
        self.writes.fetch_add(1, SeqCst);
        // Dropped again, it tells whoever waits for it.
        let writes = Writes(self.clone());
        (!self.closed.load(SeqCst)).then_some(writes)
    }

    /// Resolves when writes may begin, or might. Cancel safe.
    pub(super) async fn opened(self: Arc<Barrier>) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.closed.load(SeqCst) {
                return;
            }
            changed.await;
        }
    }

    /// Hold writes back and wait until none is under way. Cancel safe.
    pub(in crate::protocol::cql) async fn alone(self: Arc<Barrier>) -> Alone {
        let turn = self.turn.clone().lock_owned().await;
        self.closed.store(true, SeqCst);
        let alone = Alone { barrier: self.clone(), _turn: turn };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.writes.load(SeqCst) == 0 {
                return alone;
            }
            changed.await;
        }
    }
}

impl Writes {
    /// Somebody waits for it to end.
    pub(super) fn are_awaited(&self) -> bool {
        self.0.closed.load(SeqCst)
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.0.writes.fetch_sub(1, SeqCst);
        if self.0.closed.load(SeqCst) {
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.barrier.closed.store(false, SeqCst);
        self.barrier.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn whoever_wants_to_be_alone_waits_for_writes_and_holds_the_next_ones_back() {
        let barriers = Barriers::default();
        let barrier = barriers.of(TableId(1));
        let write = barrier.write().expect("open");
        assert!(!write.are_awaited());
        let mut alone = Box::pin(barrier.clone().alone());
        assert!(alone.as_mut().now_or_never().is_none() && write.are_awaited());
        assert!(barriers.of(TableId(1)).write().is_none());
        assert!(barriers.of(TableId(2)).write().is_some(), "another table is not concerned");
        drop(write);
        let alone = alone.await;
        let mut opened = Box::pin(barrier.clone().opened());
        assert!(opened.as_mut().now_or_never().is_none());
        drop(alone);
        opened.await;
        assert!(barrier.write().is_some());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_the_table_open() {
        let barrier = Barriers::default().of(TableId(1));
        let write = barrier.write().expect("open");
        let mut alone = Box::pin(barrier.clone().alone());
        assert!(alone.as_mut().now_or_never().is_none());
        drop(alone);
        assert!(barrier.write().is_some());
        drop(write);
    }
}
