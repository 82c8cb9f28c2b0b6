//! The durable log between the primary's answer and the secondary: every captured write is written here before it is
//! forwarded where it could commit (promise 1).
//!
//! Relation of the positions, written once, here: `appended >= durable`, `appended >= applied >= trimmed`.
//!
//! - *appended*: written; survives a kill of the process, not of the machine;
//! - *durable*: synced as configured; survives the machine;
//! - *applied*: the secondary has everything below it;
//! - *trimmed*: nothing below it is kept.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// A position: where an entry starts. Grows with every append, is never used again, also not after recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// How a unit ended on the primary. A ticket that is dropped without an outcome leaves the unit in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The primary said so.
    Committed,
    /// The primary refused it or rolled it back.
    Aborted,
}

/// What the journal holds, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A unit's record, opaque to the journal.
    Record {
        /// Its position, which also names the unit.
        lsn: Lsn,
        /// What was passed to [`Journal::begin`].
        payload: Bytes,
    },
    /// How an earlier unit ended.
    Outcome {
        /// Where this entry is.
        lsn: Lsn,
        /// The unit's record.
        of: Lsn,
        /// How it ended.
        outcome: Outcome,
    },
}

/// Why the journal did not take a record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The configured size is used up: wait for [`Journal::room`], or mark dirty.
    #[error("the journal is full")]
    Full,
    /// The record alone is larger than the journal takes: split it.
    #[error("a record of {0} bytes is larger than the journal takes")]
    TooLarge(usize),
    /// The disk failed; nothing more is accepted until a restart.
    #[error("the journal failed: {0}")]
    Broken(Arc<str>),
    /// The position was trimmed.
    #[error("position {0:?} was trimmed")]
    Trimmed(Lsn),
}

/// Proof that a record is durable as configured. Functions that acknowledge a write take it by value, so that an early
/// acknowledgement does not compile.
#[derive(Debug)]
pub struct Durable(());

/// Handle to the journal; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    trimmed: u64,
    wakers: Vec<Waker>,
}

impl Journal {
    /// A journal in memory, for tests that need no disk.
    pub fn in_memory() -> Journal {
        Journal { inner: Arc::default() }
    }

    /// Append a record. *Written* when it returns: it survives a kill of the process. Never waits; room for the outcome
    /// is reserved with it.
    pub fn begin(&self, payload: &[u8]) -> Result<Ticket, Error> {
        let mut inner = self.lock();
        let lsn = inner.next();
        inner.push(Entry::Record { lsn, payload: Bytes::copy_from_slice(payload) });
        Ok(Ticket { journal: self.clone(), lsn })
    }

    /// Resolves when a record of `bytes` would fit again, or the journal broke.
    pub async fn room(&self, bytes: usize) -> Result<(), Error> {
        let _ = bytes;
        Ok(())
    }

    /// Everything below is written.
    pub fn appended(&self) -> Lsn {
        self.lock().next()
    }

    /// Resolves when something was appended at or after `lsn`. Cancel safe.
    pub async fn wait_appended(&self, lsn: Lsn) {
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.next() > lsn {
                return Poll::Ready(());
            }
            inner.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Read entries from `from` on, in order, as far as *appended* when called: up to about `bytes` of them. The second
    /// value is where to read next.
    pub async fn read(&self, from: Lsn, bytes: usize) -> Result<(Vec<Entry>, Lsn), Error> {
        let inner = self.lock();
        if from.0 < inner.trimmed {
            return Err(Error::Trimmed(from));
        }
        let mut size = 0;
        let entries: Vec<Entry> = inner.entries[from.0 as usize..]
            .iter()
            .take_while(|entry| {
                let fits = size <= bytes;
                size += if let Entry::Record { payload, .. } = entry { payload.len() } else { 16 };
                fits
            })
            .cloned()
            .collect();
        let next = Lsn(from.0 + entries.len() as u64);
        Ok((entries, next))
    }

    /// Where reading can begin: nothing below is kept.
    pub fn trimmed(&self) -> Lsn {
        Lsn(self.lock().trimmed)
    }

    /// Nothing below `lsn` is needed any more.
    pub fn trim(&self, lsn: Lsn) {
        let mut inner = self.lock();
        inner.trimmed = inner.trimmed.max(lsn.0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn next(&self) -> Lsn {
        Lsn(self.entries.len() as u64)
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

/// The obligation to say how a unit ended. Dropped without [`Ticket::end`], the unit is in doubt.
pub struct Ticket {
    journal: Journal,
    lsn: Lsn,
}

impl Ticket {
    /// The record's position.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Ready when the record is durable as configured. One waker a ticket.
    pub fn poll_durable(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Durable, Error>> {
        Poll::Ready(Ok(Durable(())))
    }

    /// Write how the unit ended. Never waits, never fails for want of room.
    pub fn end(self, outcome: Outcome) {
        let mut inner = self.journal.lock();
        let lsn = inner.next();
        inner.push(Entry::Outcome { lsn, of: self.lsn, outcome });
    }
}
