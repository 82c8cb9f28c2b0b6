//! What a payment leaves for later, and what makes all of it wait: locks, schema changes that are ending, snapshots that are stale.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::mirror::handle::Held;
use crate::record::TableId;

use super::super::copier::{Copier, Paid, Waiting};
use super::super::ledger::Cut;
use super::Engine;

/// How often it is looked whether a lock is gone for which something owed waits.
const LOOK_AT_LOCKS: Duration = Duration::from_millis(500);

/// Of the keys that are owed at most the share, as a divisor, that may wait for locks.
const ASIDE: usize = 4;

impl<C: Copier> Engine<C> {
    /// A table that is refused while a schema change is ending may differ only until that arrives: what it owes stays
    /// owed. Is there any?
    pub(super) fn put_off(&mut self, cut: &mut Cut, paid: &mut Paid) -> bool {
        let whole = paid.refused.extract_if(.., |refused| refused.key.is_none());
        let tables: HashSet<TableId> = whole.map(|refused| refused.table).collect();
        if !tables.is_empty() {
            debug!(tables = tables.len(), "owed until the schema change that is ending has arrived");
            self.ledger.restore(cut.split(&tables));
        }
        !tables.is_empty()
    }

    /// What waits for a lock stays owed. Is there any?
    pub(super) fn set_aside(&mut self, cut: &mut Cut, paid: &Paid) -> bool {
        self.hold(&paid.waiting, "left out of payments");
        let tables: HashSet<TableId> = paid.waiting.iter().flat_map(|waiting| &waiting.owed).copied().collect();
        if !tables.is_empty() {
            let whole = self.ledger.set_aside(cut.split(&tables), self.config.owed_keys_max / ASIDE);
            for table in whole {
                info!(table = table.0, "left out of payments for too many keys: owed whole");
            }
            self.next_aside = Instant::now() + LOOK_AT_LOCKS;
        }
        !tables.is_empty()
    }

    fn hold(&mut self, all: &[Waiting], what: &str) {
        for waiting in all {
            if !self.held.iter().any(|held| held.table == waiting.name) {
                warn!(table = waiting.name, why = waiting.why, "{what}");
            }
        }
        let held = |waiting: &Waiting| Held { table: waiting.name.clone(), why: waiting.why.clone() };
        self.held = all.iter().map(held).collect();
    }

    /// A schema change has its place among the rows, so they wait with it; the connections do no harm.
    pub(super) fn wait_behind(&mut self, change: Waiting) {
        self.hold(&[change], "the mirror waits behind a schema change");
        let held = &self.held;
        self.status.send_modify(|status| status.held.clone_from(held));
        self.stale += 1;
        let now = Instant::now();
        self.last_contact = now;
        self.next_payment = now + self.backoff.pause();
        self.next_walk = self.next_walk.max(self.next_payment);
        self.next_aside = self.next_aside.max(self.next_payment);
    }

    pub(super) fn go_stale(&mut self, why: &str) {
        debug!(why, attempt = self.stale, "snapshot thrown away");
        self.stale += 1;
        let pause = if self.stale <= self.config.stale_retries { self.config.pause_min } else { self.backoff.pause() };
        if self.stale > self.config.stale_retries {
            warn!(why, retry_in = ?pause, "mirror waits: no snapshot keeps its schema");
            self.status.send_modify(|status| status.error = Some(why.to_owned()));
        }
        self.next_payment = Instant::now() + pause;
        self.next_walk = self.next_walk.max(self.next_payment);
        self.next_aside = self.next_aside.max(self.next_payment);
    }
}
