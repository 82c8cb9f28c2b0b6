//! What the engine asks of a wire: do on the secondary what a record says.

use std::future::Future;

use tokio::time::Instant;

use crate::journal::Lsn;
use crate::record::{Record, TableId};

/// How sure it is that the unit happened on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// The primary said so.
    Committed,
    /// Nobody knows, and nobody will say (promise 3). It is settled: done once more on both sides where that is
    /// idempotent, else by the primary's state, else refused.
    Unknown,
}

/// A record whose turn has come.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its position in the journal; a retry of a parked record has a new one.
    pub lsn: Lsn,
    /// What it says. [`crate::record::Item::Dirty`] and [`crate::record::Item::Touch`] are the engine's affair.
    pub record: Record,
    /// Whether it happened.
    pub certainty: Certainty,
    /// It was parked, and what is ordered behind it may have been applied since: not to be replayed where only order
    /// decides, nor where what it meets may have been purged (a barrier, a tombstone's grace). Such parts go by state.
    pub late: bool,
    /// Which attempt this is, from 1. What an earlier one sent may have arrived, in this process or the one before.
    pub attempt: u32,
    /// Where the journal says how the unit ended.
    pub ended: Lsn,
    /// How far the journal was written when the job was handed out: whoever looks at the primary from now on sees what every unit
    /// that ended below this did.
    pub handed: Lsn,
    /// When the journal said how it ended, or that nobody knows.
    pub told: Instant,
}

/// What came of a job. However it ends, nothing that was sent for it may still arrive later: where that cannot be known,
/// wait for the secondary's own timeout first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The secondary has it, or has what replaced it.
    Done,
    /// Not this time, and others may fare better: tried again after a pause of its own, and parked when that goes on for
    /// too long. No row values in the reason, here and below (promise 13).
    Retry(String),
    /// Nodes that it needs are away, others may fare better: tried again after a pause of its own, for as long as that lasts.
    /// Nobody is parked for an outage.
    Away(String),
    /// The secondary will not take it: parked, or, for a barrier, its table is held.
    Reject(String),
    /// As [`Applied::Reject`], of a barrier that nothing behind it needs: parked, and everything goes on.
    Listed(String),
    /// The secondary is away: everybody pauses, then [`Applier::open`] is called, then this job is done again.
    Lost(String),
}

/// Why a secondary cannot be written to now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is away.
    #[error("secondary: {0}")]
    Lost(String),
    /// Another applier writes to it.
    #[error("another applier writes to the secondary: {0}")]
    Fenced(String),
}

/// A record as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The qualified name of the table that it is listed under.
    pub table: String,
    /// What an operator may see on request, with values, never logged (promise 13).
    pub contents: String,
}

/// The wire's hands. Shared by all jobs in flight.
///
/// The engine hands out a job when everything ordered before it is done, and as many at once as do not concern each
/// other. A job may be handed out again although it was done (a crash, a lost answer): doing it twice must end as doing it
/// once (promise 5). A future that is dropped half-way is a crash: its job comes again in the next life.
pub trait Applier: Send + Sync + 'static {
    /// See that the secondary is there and that nobody else applies: every writer of an earlier applier is proven over.
    /// Called before the first job, and after each [`Applied::Lost`] when no job is in flight.
    fn open(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Do everything that the record says. Bounded in time by the wire's own timeouts.
    fn apply(&self, job: &Job) -> impl Future<Output = Applied> + Send;

    /// Whether the secondary has rows of the table, to which nothing was written yet; `None`: it has no such table, or does not
    /// let us look. `attempt` is the job's for which it is asked.
    ///
    /// # Errors
    /// It cannot be told now: what becomes of the job.
    fn is_occupied(&self, table: TableId, attempt: u32) -> impl Future<Output = Result<Option<bool>, Applied>> + Send {
        let _ = (table, attempt);
        async { Ok(Some(false)) }
    }

    /// The record for people, by this table of it; asked only when it is parked or held.
    fn show(&self, record: &Record, table: TableId) -> Shown {
        let _ = record;
        Shown { table: format!("{:016x}", table.0), contents: String::new() }
    }
}
