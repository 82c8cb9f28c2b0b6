//! What becomes of a conditional write that was applied: its ballot is read, and the plain write that it became is written
//! down with it, in place of the record that would settle its places by state.
//!
//! That other record was written before the write was forwarded (promise 1); it ends as aborted once this one is there, and
//! as committed where the ballot cannot be had. The client does not wait for any of it. What does is the next conditional write of
//! the partition, for whose ballot this one's would be taken; a barrier on the table, and a switch: both must find the record
//! in the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cutover::gate::Pass;
use crate::journal::{Outcome, Ticket};
use crate::metrics;
use crate::mirror::waits::Wait;
use crate::protocol::cql::ballot::{Conditional, Question, Unread};
use crate::protocol::cql::look::Decided;
use crate::protocol::cql::place::Place;
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::record::{Backend, Lane, RecordBuf, Side, TableId};

use super::barriers::Writes;
use super::capture::{put_look, settle};
use super::shared::Shared;
use super::turns::Turns;

/// What a conditional write leaves if it is applied.
pub(in crate::protocol::cql) struct Decision {
    /// The plain write that it becomes.
    pub write: Conditional,
    /// Where that writes.
    pub lanes: Vec<(TableId, Lane)>,
    /// With what level it was written, and how it was decided.
    pub consistency: (Consistency, Decided),
    /// What of it goes by state all the same.
    pub places: Vec<(TableId, Place)>,
    /// The server's id of the table.
    pub table: [u8; 16],
    /// The partition's key, as a server keeps it.
    pub key: Bytes,
    /// When it was forwarded at the earliest, in microseconds.
    pub since: i64,
}

/// What waits until all of it is written down.
pub(in crate::protocol::cql) struct Guards {
    /// A flip.
    pub _pass: Option<Pass>,
    /// The next conditional write of the partition.
    pub turns: Turns,
    /// Barriers.
    pub _tables: Vec<Writes>,
}

/// A decision whose ballot is being read.
pub(in crate::protocol::cql) struct Reading {
    decision: Decision,
    ballot: JoinHandle<Result<i64, Unread>>,
    number: u32,
    /// It was decided, and the answer was an error: fewer replicas may have it than acknowledge.
    refused: bool,
    guards: Guards,
}

impl Decision {
    /// Read its ballot, now that it was answered by `side`, with an error or without.
    pub(super) fn read(self, shared: &Shared, side: Side, number: u32, (refused, guards): (bool, Guards)) -> Reading {
        let (until, above) = (now_micros(), guards.turns.above());
        let question = Question { table: self.table, key: self.key.clone(), since: self.since, until, above };
        let ballot = shared.afterwards.spawn(shared.side(side).ballot(question));
        Reading { decision: self, ballot, number, refused, guards }
    }

    fn record(&self, ballot: i64) -> Option<RecordBuf> {
        let body = self.write.at(ballot)?;
        let mut record = RecordBuf::default();
        let ((table, lane), others) = self.lanes.split_first()?;
        record.write(*table, *lane, &body);
        others.iter().for_each(|(table, lane)| record.touch(*table, *lane));
        if !self.places.is_empty() {
            record.stamp(ballot);
            put_look(&mut record, self.consistency);
        }
        self.places.iter().for_each(|(table, place)| settle(&mut record, *table, place));
        Some(record)
    }
}

impl Reading {
    /// Write it down when its ballot is there. `ticket` is of the record that settles its places by state. Tells which
    /// of the two has to be waited for, if anybody wants to know.
    pub(super) fn finish(self, shared: &Arc<Shared>, ticket: Ticket) -> oneshot::Receiver<Wait> {
        let (tell, told) = oneshot::channel();
        let shared = shared.clone();
        let Reading { decision, ballot, number, refused, mut guards } = self;
        shared.afterwards.clone().spawn(async move {
            let read = ballot.await.unwrap_or(Err(Unread::Absent));
            if let Ok(ballot) = read {
                guards.turns.applied(ballot);
            }
            let (outcome, wait) = match write_down(&shared, &decision, read, number).await {
                Ok(wait) => (Some(Outcome::Aborted), wait),
                Err(why) => {
                    metrics::BALLOTS_UNREAD_TOTAL.counter(&[("reason", why)]).increment(1);
                    // In doubt it is looked for by Paxos first, which completes it.
                    let outcome = (!refused).then_some(Outcome::Committed);
                    (outcome, shared.sync.as_ref().map(|sync| sync.waits.wait(ticket.lsn())))
                }
            };
            if let Some(outcome) = outcome {
                ticket.end(outcome);
            }
            if let Some(wait) = wait {
                let _ = tell.send(wait);
            }
            drop(guards);
        });
        told
    }
}

/// Else the word for why not.
async fn write_down(
    shared: &Shared,
    decision: &Decision,
    read: Result<i64, Unread>,
    number: u32,
) -> Result<Option<Wait>, &'static str> {
    let ballot = read.map_err(|why| {
        if why == Unread::Refused && !shared.unread.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{why}: lightweight transactions are mirrored by state, which shows no deletes; grant SELECT on it"
            );
        }
        why.as_str()
    })?;
    let mut record = decision.record(ballot).ok_or("text")?;
    let journal = shared.journal.as_ref().ok_or("journal")?;
    for table in record.tables() {
        if !journal.announce(table.0) {
            journal.announced(table.0).await.map_err(|_| "journal")?;
        }
    }
    let ticket = journal.begin(record.finish(Backend { id: number, life: 0 })).map_err(|_| "journal")?;
    let wait = shared.sync.as_ref().map(|sync| sync.waits.wait(ticket.lsn()));
    ticket.end(Outcome::Committed);
    Ok(wait)
}
