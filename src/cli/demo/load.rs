//! The load, as far as it is the same for all wires: clients that write, read back what they wrote (at a switch after each
//! step: whoever answers must know it), connect again when they have to, and count what they see.

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::shadow::Tally;

/// A client that waits longer for an answer counts it as an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause before connecting again.
const RECONNECT: Duration = Duration::from_millis(20);
/// One step in so many is read back also when nothing happens.
const READ_BACK: u64 = 8;

/// A client of one wire: what it writes, and what it knows of it.
pub(super) trait Actor: Send + 'static {
    /// A connection to tandem.
    type Connection: Send;
    /// Where it writes.
    type Table: Copy + Eq + Hash + Send;
    /// Between two steps, so that servers can start beside the load on a small machine.
    const PAUSE: Duration;

    /// Connect to tandem.
    fn connect(&mut self) -> impl Future<Output = Result<Self::Connection, Trouble>> + Send;

    /// Write something. The ledger's effect holds it from before it is sent.
    fn step(&mut self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// What it wrote last is as it was told.
    fn reads_its_writes(
        &mut self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<bool, Trouble>> + Send;

    /// What it knows.
    fn ledger(&mut self) -> &mut Ledger<Self::Table>;
}

/// What went wrong for a client.
pub(super) struct Trouble {
    /// What it was told.
    pub(super) why: String,
    /// The connection is gone, or about to be.
    pub(super) dropped: bool,
}

/// What the clients share.
#[derive(Default)]
pub(super) struct Load {
    /// The clients end.
    pub(super) stop: CancellationToken,
    /// Tandem was killed less than a second ago: lost connections are no errors.
    pub(super) around_kill: AtomicBool,
    /// A switch is under way: every step is read back.
    pub(super) around_switch: AtomicBool,
    /// Writes acknowledged.
    pub(super) acked: AtomicU64,
    /// Errors seen.
    pub(super) errors: AtomicU64,
    /// What the first of them said.
    pub(super) first_error: OnceLock<String>,
    /// Connections lost to a kill, or refused while tandem starts.
    pub(super) reconnects: AtomicU64,
    /// Connections lost, or refused, without a kill.
    pub(super) dropped: AtomicU64,
    /// Reads that did not show a write which the same client had seen acknowledged.
    pub(super) stale: AtomicU64,
    /// The worst lag seen.
    pub(super) lag_ms_max: AtomicU64,
    /// What became of reads that were asked again on the other side.
    pub(super) shadowed: Tally,
}

impl Load {
    /// One client, until stopped. Comes back with what it knows.
    pub(super) async fn client<A: Actor>(self: Arc<Load>, mut actor: A) -> A {
        while !self.stop.is_cancelled() {
            match timeout(PATIENCE, actor.connect()).await {
                Ok(Ok(mut connection)) => self.work(&mut actor, &mut connection).await,
                Ok(Err(trouble)) => self.failed(&Trouble { dropped: true, ..trouble }),
                Err(_) => self.failed(&no_answer()),
            }
            sleep(RECONNECT).await;
        }
        actor
    }

    /// Write until the connection fails.
    async fn work<A: Actor>(&self, actor: &mut A, connection: &mut A::Connection) {
        let mut steps = 0_u64;
        while !self.stop.is_cancelled() {
            steps += 1;
            if !A::PAUSE.is_zero() {
                sleep(A::PAUSE).await;
            }
            let done = timeout(PATIENCE, actor.step(connection)).await;
            let acked = actor.ledger().learn(matches!(done, Ok(Ok(()))));
            self.acked.fetch_add(acked, Relaxed);
            if let Err(trouble) = done.unwrap_or_else(|_| Err(no_answer())) {
                return self.failed(&trouble);
            }
            if self.around_switch.load(Relaxed) || steps.is_multiple_of(READ_BACK) {
                let fresh = timeout(PATIENCE, actor.reads_its_writes(connection)).await;
                match fresh.unwrap_or_else(|_| Err(no_answer())) {
                    Ok(fresh) => self.stale.fetch_add(u64::from(!fresh), Relaxed),
                    Err(trouble) => return self.failed(&trouble),
                };
            }
        }
    }

    fn failed(&self, trouble: &Trouble) {
        // A kill takes connections. An error on one that goes on is no part of it.
        if trouble.dropped && self.around_kill.load(Relaxed) {
            self.reconnects.fetch_add(1, Relaxed);
            return;
        }
        self.dropped.fetch_add(u64::from(trouble.dropped), Relaxed);
        self.first_error.get_or_init(|| trouble.why.clone());
        self.errors.fetch_add(1, Relaxed);
    }
}

fn no_answer() -> Trouble {
    Trouble { why: "no answer in time".to_owned(), dropped: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_excuses_lost_connections_and_no_other_error() {
        let load = Load::default();
        let seen = |load: &Load| [&load.reconnects, &load.dropped, &load.errors].map(|count| count.load(Relaxed));
        let trouble = |dropped| Trouble { why: "no".to_owned(), dropped };
        load.around_kill.store(true, Relaxed);
        load.failed(&trouble(true));
        assert_eq!(seen(&load), [1, 0, 0]);
        load.failed(&trouble(false));
        assert_eq!(seen(&load), [1, 0, 1]);
        load.around_kill.store(false, Relaxed);
        load.failed(&trouble(true));
        assert_eq!(seen(&load), [1, 1, 2]);
    }
}
