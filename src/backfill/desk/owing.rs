//! What a chunk found is owed through the journal, and listed; then the job goes on.

use std::sync::Arc;

use crate::journal::{self, Journal};
use crate::mirror::handle::owe;
use crate::record::{Lane, Order, RecordBuf, TableId};

use super::super::job::Line;
use super::super::work::{Chunk, Paid};
use super::{Desk, Error, Settled};

/// Rows of a chunk that the mirror must copy.
#[derive(Clone, Debug)]
pub(super) struct Owing {
    pub(super) chunk: Chunk,
    pub(super) keys: Arc<[Box<[u8]>]>,
    /// Of these keys so many are in the journal.
    pub(super) owed: usize,
    /// Rows that differ besides, and were too many to be kept.
    pub(super) crowd: u64,
    /// The chunk is to be looked at again when they are paid.
    pub(super) again: bool,
}

impl Owing {
    /// Once the mirror has them, the chunk is as done as it can be.
    pub(super) fn once(chunk: Chunk, keys: Vec<Box<[u8]>>) -> Owing {
        Owing { chunk, keys: keys.into(), owed: 0, crowd: 0, again: false }
    }

    /// The keys that go into the next record, if not all are in one: one at least, and no more than fit.
    fn next(&self, at_once: usize) -> &[Box<[u8]>] {
        let (left, mut bytes) = (&self.keys[self.owed..], 0);
        let mut fits = |key: &[u8]| {
            bytes += ITEM_BYTES + key.len();
            bytes <= RECORD_BYTES
        };
        let count = left.iter().take(at_once).take_while(|key| fits(key)).count();
        &left[..count.max(1)]
    }
}

impl Desk {
    /// The state is given up: what was taken and not reported is to be done again. What was found is owed, the job goes
    /// on to its next pass if this one is over, and the disk knows. What landed is on a secondary whose payment counter is
    /// `payments` or more; without a counter nothing is known to have landed, and all is done again.
    ///
    /// # Errors
    /// The journal or the disk refuses; nothing is lost: what is not owed yet is owed with the next call.
    pub async fn settle(
        &self,
        journal: &Journal,
        paid: impl Into<Paid>,
        payments: Option<u64>,
    ) -> Result<Settled, Error> {
        let paid = paid.into();
        let found = {
            let mut memory = self.lock();
            memory.until = None;
            let memory = &mut *memory;
            match (payments, memory.before.take()) {
                (Some(payments), _) if memory.reported > 0 => memory.page.landed = payments,
                (None, Some(before)) => {
                    memory.owing.truncate(before.owing);
                    memory.found.clear();
                    memory.reported = 0;
                    if let Some(job) = memory.page.current_mut().filter(|job| job.number == before.job) {
                        job.back_to(before.tables);
                    }
                }
                _ => {}
            }
            std::mem::take(&mut memory.found)
        };
        self.list(found).await;
        self.owe(journal)?;
        let settled = {
            let mut memory = self.lock();
            let reported = std::mem::take(&mut memory.reported);
            memory.settle(journal.appended(), paid, reported)
        };
        self.save().await?;
        Ok(settled)
    }

    /// Through the journal, as what operators owe: ordered with the clients' writes, paid and owed again as they are. What the
    /// journal does not take stays first in the queue.
    fn owe(&self, journal: &Journal) -> Result<(), journal::Error> {
        let at_once = if self.shared.options.part_of.is_some() { 1 } else { usize::MAX };
        loop {
            let Some(mut owing) = self.lock().owing.front().cloned() else { return Ok(()) };
            let allowed = self.timestamp_of(owing.chunk.job);
            while owing.owed < owing.keys.len() {
                let some = owing.next(at_once);
                owe(journal, &mut self.debt(owing.chunk.table, some, allowed))?;
                owing.owed += some.len();
                if let Some(first) = self.lock().owing.front_mut() {
                    first.owed = owing.owed;
                }
            }
            let mut memory = self.lock();
            memory.owing.pop_front();
            let Owing { chunk, keys, crowd, again, .. } = owing;
            if let Some(job) = memory.page.current_mut().filter(|job| job.number == chunk.job) {
                if again { job.owed(&chunk, (keys.len() as u64, crowd), journal.appended()) } else { job.close(&chunk) }
            }
        }
    }

    /// What is written for the job of that number, if it is known still, is written at this time.
    fn timestamp_of(&self, number: u64) -> Option<i64> {
        let memory = self.lock();
        memory.page.all().find(|job| job.number == number).and_then(|job| job.request.timestamp)
    }

    fn debt(&self, table: TableId, keys: &[Box<[u8]>], allowed: Option<i64>) -> RecordBuf {
        let mut record = RecordBuf::default();
        for key in keys {
            // Nobody knows how they came to differ: where a row is gone, so may be others that pointed at it.
            record.key(table, key, true);
            if let Some(part_of) = self.shared.options.part_of {
                allowed.into_iter().for_each(|timestamp| record.stamp(timestamp));
                record.touch(table, part_of(key).map_or(Lane::ANY, |part| Lane::new(Order::AtPlaces, part)));
            }
        }
        record
    }

    async fn list(&self, found: Vec<Line>) {
        if found.is_empty() {
            return;
        }
        let (lines, count) = (self.shared.lines.clone(), found.len() as u64);
        let added = tokio::task::spawn_blocking(move || lines.add(&found)).await;
        let dropped = match added {
            Ok(Ok(dropped)) => dropped,
            Ok(Err(error)) => {
                tracing::warn!(%error, "rows that differ could not be listed");
                count
            }
            Err(_) => count,
        };
        self.lock().page.not_listed += dropped;
    }
}

/// Bytes of keys in a record of what is owed: a small part of the least that a journal takes.
pub(super) const RECORD_BYTES: usize = 64 << 10;
/// More than a record needs for a key beside its bytes.
const ITEM_BYTES: usize = 16;
