//! What all sessions of the process share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::cutover::gate::Gate;
use crate::journal::Journal;
use crate::mirror::Waits;
use crate::mirror::unwritten::Lose;
use crate::protocol::cql::ballot::{Question, Unread};
use crate::protocol::cql::relay::ahead::Destination;
use crate::protocol::cql::shadow::Watch;
use crate::protocol::cql::stamps::{Stamps, now_micros};
use crate::protocol::cql::tables::Tables;
use crate::protocol::cql::text::generate::TimeUuids;
use crate::protocol::cql::text::volatile::Dialect;
use crate::protocol::cql::topology::Identity;
use crate::record::Side;
use crate::telemetry::Line;

use super::barriers::Barriers;
use super::contests::Contests;
use super::known::Statements;
use super::policy::Policy;
use super::turns::Left;

/// Places where conditional statements of a partition wait for each other.
const TURNS: usize = 1024;

/// A cluster, as sessions see it.
pub(in crate::protocol::cql) trait Grounds: Send + Sync {
    /// Its schema, as somebody looked last.
    fn tables(&self) -> Arc<Tables>;

    /// Look at the schema again, now. Resolves when what was true at the call is seen, or cannot be.
    fn refresh(&self) -> BoxFuture<'static, ()>;

    /// What it calls its functions.
    fn dialect(&self) -> Dialect;

    /// It asks clients who they are; where it does not, all of them have the rights that we have.
    fn asks_who(&self) -> bool;

    /// How far the clocks of its coordinators may be behind this machine's, in microseconds; negative: they are ahead.
    fn behind(&self) -> i64;

    /// How far they may be ahead of it, in microseconds; negative: they are behind.
    fn ahead(&self) -> i64;

    /// How far they are from it, in microseconds: in the middle of them, and 0 where that is no second.
    fn apart(&self) -> i64;

    /// The ballot of a conditional write that was answered. Bounded in time.
    fn ballot(&self, question: Question) -> BoxFuture<'static, Result<i64, Unread>>;
}

/// What all sessions of the process share.
pub(in crate::protocol::cql) struct Shared {
    /// Which side answers.
    pub gate: Gate,
    /// Where writes are written down; nothing is without mirroring.
    pub journal: Option<Journal>,
    /// Answers wait for the secondary.
    pub(super) sync: Option<Synchronous>,
    /// Chooses reads that are repeated on the other side.
    pub(super) watch: Watch,
    /// What each side is.
    sides: [Box<dyn Grounds>; 2],
    /// What clients are told of the cluster.
    pub identity: Identity,
    /// Timestamps.
    pub stamps: Stamps,
    /// Where `now()` comes from.
    pub timeuuids: TimeUuids,
    /// Statements that were seen.
    pub statements: Statements,
    /// What is not simply mirrored.
    pub(super) policy: Policy,
    /// Called with tables whose writes the journal did not take.
    pub lost: Lose,
    /// The journal took nothing the last time: the log said so.
    pub full: AtomicBool,
    /// The log's line for records that no journal takes.
    pub(super) too_large: Line,
    /// Largest frame.
    pub frame_bytes_max: usize,
    /// A server that did not answer a request by then will not.
    pub answer_timeout: Duration,
    /// What holds writes back, by table.
    pub(super) barriers: Barriers,
    /// Conditional writes, by partition.
    pub(super) contests: Contests,
    /// Where sessions are to have a connection to.
    pub destination: Destination,
    /// What is done for clients when they have their answers.
    pub afterwards: TaskTracker,
    /// Ballots may not be read: the log said so.
    pub(super) unread: AtomicBool,
    sessions: AtomicU32,
    turns: Box<[Arc<Mutex<Left>>]>,
    /// Microseconds since 1970.
    begun: i64,
}

/// The right to run a conditional statement on a partition. In it is what those who had it left ([`super::turns`]).
pub(super) type Turn = OwnedMutexGuard<Left>;

/// How long an answer waits for the mirror to begin, beside its own patience: it first waits out what a process before this
/// one may have sent, which takes as long as the secondary works on a write and half a second (`applier/quiet.rs`).
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// Answers wait until the secondary has the write, or for so long.
pub(in crate::protocol::cql) struct Synchronous {
    pub waits: Waits,
    pub patience: Duration,
}

/// Whether the secondary has a write; else why not.
pub(super) type Applied = BoxFuture<'static, Result<(), String>>;

impl Synchronous {
    /// Not longer than that, once the mirror has begun.
    pub(super) fn bounded(&self, applied: impl Future<Output = Result<(), String>> + Send + 'static) -> Applied {
        let (patience, begun) = (self.patience, self.waits.begun());
        Box::pin(async move {
            let mut applied = Box::pin(applied);
            tokio::select! {
                biased;
                told = &mut applied => return told,
                _ = timeout(BEGINS_WITHIN, begun) => {}
            }
            let late = |_| Err(format!("it did not have it within {patience:?}"));
            timeout(patience, applied).await.unwrap_or_else(late)
        })
    }
}

/// What [`Shared`] is made of.
pub(in crate::protocol::cql) struct Parts {
    pub gate: Gate,
    pub journal: Option<Journal>,
    pub sync: Option<Synchronous>,
    pub watch: Watch,
    pub sides: [Box<dyn Grounds>; 2],
    pub identity: Identity,
    pub stamps: Stamps,
    pub timeuuids: TimeUuids,
    pub statements_max: usize,
    pub policy: Policy,
    pub lost: Lose,
    pub frame_bytes_max: usize,
    pub answer_timeout: Duration,
    pub barriers: Barriers,
}

impl Shared {
    pub(in crate::protocol::cql) fn new(parts: Parts) -> Shared {
        Shared {
            gate: parts.gate,
            journal: parts.journal,
            sync: parts.sync,
            watch: parts.watch,
            sides: parts.sides,
            identity: parts.identity,
            stamps: parts.stamps,
            timeuuids: parts.timeuuids,
            statements: Statements::new(parts.statements_max),
            policy: parts.policy,
            lost: parts.lost,
            full: AtomicBool::new(false),
            too_large: Line::default(),
            frame_bytes_max: parts.frame_bytes_max,
            answer_timeout: parts.answer_timeout,
            barriers: parts.barriers,
            contests: Contests::default(),
            destination: Destination::default(),
            afterwards: TaskTracker::new(),
            unread: AtomicBool::new(false),
            sessions: AtomicU32::new(1),
            turns: (0..TURNS).map(|_| Arc::default()).collect(),
            begun: now_micros(),
        }
    }

    /// What records call a session.
    pub(super) fn number(&self) -> u32 {
        self.sessions.fetch_add(1, Ordering::Relaxed).max(1)
    }

    /// What this side is.
    pub(in crate::protocol::cql) fn side(&self, side: Side) -> &dyn Grounds {
        &*self.sides[side.index()]
    }

    /// Where conditional statements on these partitions wait for others: each place once, and in an order that is the same
    /// for all. What writes nothing that is known waits in the first.
    pub(super) fn places(&self, partitions: impl Iterator<Item = u64>) -> Vec<usize> {
        let spread = |hash: u64| (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % TURNS;
        let mut places: Vec<usize> = partitions.map(spread).collect();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() { vec![0] } else { places }
    }

    /// Not below what `side` decided before this process began, in microseconds.
    pub(super) fn before(&self, side: Side) -> i64 {
        self.begun.saturating_add(self.side(side).ahead())
    }

    /// One of those places.
    pub(super) fn turn(&self, place: usize) -> Arc<Mutex<Left>> {
        self.turns[place % TURNS].clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::journal::Lsn;

    #[tokio::test(start_paused = true)]
    async fn patience_with_the_secondary_begins_when_the_mirror_does() {
        let patience = Duration::from_secs(1);
        let sync = Synchronous { waits: Waits::default(), patience };
        let began = Instant::now();
        let early = sync.bounded(sync.waits.wait(Lsn(1)).applied());
        let begin = async {
            sleep(BEGINS_WITHIN / 2).await;
            sync.waits.there();
        };
        let (early, ()) = tokio::join!(early, begin);
        assert!(early.is_err_and(|why| why.contains("within 1s")));
        assert_eq!(began.elapsed(), BEGINS_WITHIN / 2 + patience);
        let late = sync.bounded(sync.waits.wait(Lsn(2)).applied());
        let began = Instant::now();
        assert!(late.await.is_err());
        assert_eq!(began.elapsed(), patience);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_does_not_begin_is_not_waited_for_for_ever() {
        let sync = Synchronous { waits: Waits::default(), patience: Duration::from_secs(1) };
        let began = Instant::now();
        assert!(sync.bounded(sync.waits.wait(Lsn(1)).applied()).await.is_err());
        assert_eq!(began.elapsed(), BEGINS_WITHIN + sync.patience);
    }
}
