//! Which schema changes of an open transaction ROLLBACK TO undid: those are not repeated on the secondary.
//!
//! Keys stay whatever becomes of a savepoint: a superset is harmless. A schema change that was undone is not, nor one that
//! failed behind a savepoint, which only ROLLBACK TO gets out of. So changes are written down apart from keys. Statements
//! about savepoints cut what a session sends into *stretches*, in the order of execution, and the changes of each stretch
//! have records of their own. ROLLBACK TO, when it is answered, undoes the stretches from its savepoint's up to its own:
//! what of them is not in the journal is dropped, and what is there ends as rolled back, however far ahead it was sent.

use std::collections::VecDeque;
use std::ops::Range;

use crate::protocol::postgres::plan::{Savepoint, SavepointVerb};
use crate::record::{RecordBuf, TableId};

use super::Session;

/// What lies between two statements about savepoints: grows by one with each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stretch(u64);

/// A schema change that is not in the journal yet.
struct Change {
    stretch: Stretch,
    table: TableId,
    body: Vec<u8>,
    /// Nobody knows whether it was undone.
    doubtful: bool,
}

/// Schema changes of the open unit.
#[derive(Default)]
pub(super) struct Changes {
    now: Stretch,
    pending: VecDeque<Change>,
    /// The savepoints of the open transaction as the server answered, oldest first, each with the stretch behind it.
    savepoints: Vec<(String, Stretch)>,
    /// The server answered to a statement about savepoints that nobody here has read.
    unread: bool,
}

impl Changes {
    /// What is captured now belongs to this one.
    pub(super) fn stretch(&self) -> Stretch {
        self.now
    }

    /// What was captured so many statements about savepoints ago belongs to this one.
    pub(super) fn stretch_before(&self, statements: usize) -> Stretch {
        Stretch(self.now.0.saturating_sub(statements as u64))
    }

    /// A statement about savepoints was captured.
    pub(super) fn cut(&mut self) {
        self.now.0 += 1;
    }

    pub(super) fn push(&mut self, table: TableId, body: Vec<u8>) {
        self.pending.push_back(Change { stretch: self.now, table, body, doubtful: false });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Forget those behind the first ones.
    pub(super) fn truncate(&mut self, len: usize) {
        self.pending.truncate(len);
    }

    /// The unit is over, and nothing follows it yet.
    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// The oldest that are of one stretch, as a record of so many bytes at most or of one change; how many they are, and whether
    /// they are in doubt.
    pub(super) fn first(&self, bytes_max: usize) -> Option<(RecordBuf, usize, (Stretch, bool))> {
        let first = self.pending.front()?;
        let of = (first.stretch, first.doubtful);
        let (mut record, mut count) = (RecordBuf::default(), 0);
        for change in self.pending.iter().take_while(|change| (change.stretch, change.doubtful) == of) {
            if count > 0 && record.bytes() + change.body.len() > bytes_max {
                break;
            }
            record.ddl(change.table, &change.body);
            count += 1;
        }
        Some((record, count, of))
    }

    /// So many of the oldest are in the journal, or lost.
    pub(super) fn drop_first(&mut self, count: usize) {
        self.pending.drain(..count.min(self.pending.len()));
    }

    /// The transaction ended.
    pub(super) fn transaction_over(&mut self) {
        self.savepoints.clear();
        self.unread = false;
    }
}

impl Stretch {
    /// So many statements about savepoints later.
    pub(super) fn later(self, statements: usize) -> Stretch {
        Stretch(self.0 + statements as u64)
    }

    #[cfg(test)]
    pub(super) fn of(number: u64) -> Stretch {
        Stretch(number)
    }
}

impl Session {
    /// The server has done what a statement about savepoints says; `upto`: the stretch behind it.
    pub(super) fn savepoint_done(&mut self, Savepoint { verb, name }: Savepoint, upto: Stretch) {
        let savepoints = &mut self.changes.savepoints;
        if verb == SavepointVerb::Set {
            savepoints.push((name, upto));
            return;
        }
        // The newest of that name hides the older ones.
        let found = savepoints.iter().rposition(|(other, _)| *other == name).filter(|_| !self.changes.unread);
        match (verb, found) {
            (SavepointVerb::Release, Some(at)) => savepoints.truncate(at),
            (SavepointVerb::Release, None) => self.changes.unread = true,
            (_, Some(at)) => {
                savepoints.truncate(at + 1);
                let from = savepoints[at].1;
                self.undo_changes(from..upto);
            }
            (_, None) => self.doubt_changes(),
        }
    }

    /// The server answered to a statement about savepoints that is not known as one.
    pub(super) fn savepoint_unread(&mut self, tag: &[u8]) {
        self.changes.unread = true;
        if tag == b"ROLLBACK" {
            self.doubt_changes();
        }
    }

    fn undo_changes(&mut self, undone: Range<Stretch>) {
        self.changes.pending.retain(|change| !undone.contains(&change.stretch));
        self.tickets.undo(&undone);
    }

    /// Nobody knows which changes of the transaction were undone.
    fn doubt_changes(&mut self) {
        self.changes.pending.iter_mut().for_each(|change| change.doubtful = true);
        self.tickets.doubt_changes();
    }
}
