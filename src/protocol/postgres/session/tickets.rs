//! The records that a session has in the journal without an outcome, oldest first, and what the server's answers say
//! of their fate.
//!
//! A record lies between two [`Mark`]s. When the server says that a transaction ended, everything below the mark of the
//! statement that ended it has its fate and can never get another. A record of a simple Query with several
//! transactions in it has parts in more than one: it collects what happened to them, and ends with the last.

use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll};

use crate::journal::{self, Durable, Outcome, Ticket};

use super::savepoints::Stretch;

/// A place between records: those of the session that were written before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

/// The records without an outcome.
#[derive(Default)]
pub(super) struct Tickets {
    held: VecDeque<Held>,
    /// Where the oldest stands.
    first: Mark,
    /// The fate of all below is known.
    settled: Mark,
}

struct Held {
    ticket: Ticket,
    durable: Option<Durable>,
    kind: Kind,
    /// It is of schema changes, and they are of this stretch.
    changes: Option<Stretch>,
    /// A part of it was committed, ..
    committed: bool,
    /// .. a part of it was rolled back.
    aborted: bool,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Plain,
    /// It says that every table is dirty, should nothing better follow: what it stands for may commit on its way.
    Provisional,
    /// Something better followed, or nothing happened, or it was undone.
    Void,
    /// Nobody knows whether it was undone.
    Doubtful,
}

impl Held {
    fn add(&mut self, outcome: Outcome) {
        self.committed |= outcome != Outcome::Aborted;
        self.aborted |= outcome != Outcome::Committed;
    }

    /// Keys are owed either way; only a schema change is not the same committed and rolled back.
    fn outcome(&self) -> Outcome {
        match (&self.kind, self.committed, self.aborted) {
            (Kind::Doubtful, true, _) => Outcome::Unknown,
            (Kind::Void | Kind::Doubtful, ..) => Outcome::Aborted,
            (Kind::Provisional, ..) => Outcome::Committed,
            (Kind::Plain, true, true) if self.changes.is_some() => Outcome::Unknown,
            (Kind::Plain, true, _) => Outcome::Committed,
            (Kind::Plain, false, _) => Outcome::Aborted,
        }
    }
}

impl Tickets {
    /// Behind the newest record.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.first.0 + self.held.len() as u64)
    }

    /// `changes`: a record of schema changes, of this stretch, and whether nobody knows if they were undone.
    pub(super) fn push(&mut self, ticket: Ticket, changes: Option<(Stretch, bool)>) {
        let kind = if changes.is_some_and(|(_, doubtful)| doubtful) { Kind::Doubtful } else { Kind::Plain };
        self.put(ticket, kind, changes.map(|(stretch, _)| stretch));
    }

    /// A record that stands for a statement which may commit before it says what it did.
    pub(super) fn push_provisional(&mut self, ticket: Ticket) {
        self.put(ticket, Kind::Provisional, None);
    }

    fn put(&mut self, ticket: Ticket, kind: Kind, changes: Option<Stretch>) {
        self.held.push_back(Held { ticket, durable: None, kind, changes, committed: false, aborted: false });
    }

    /// The schema changes of these stretches were undone.
    pub(super) fn undo(&mut self, undone: &Range<Stretch>) {
        let is_undone = |held: &&mut Held| held.changes.is_some_and(|stretch| undone.contains(&stretch));
        self.held.iter_mut().filter(is_undone).for_each(|held| held.kind = Kind::Void);
    }

    /// Nobody knows which schema changes were undone, of those whose fate is not known.
    pub(super) fn doubt_changes(&mut self) {
        let from = self.below(self.settled);
        let open = self.held.iter_mut().skip(from).filter(|held| held.changes.is_some() && held.kind == Kind::Plain);
        open.for_each(|held| held.kind = Kind::Doubtful);
    }

    /// The provisional record right below the mark stands for nothing any more.
    pub(super) fn void(&mut self, upto: Mark) {
        let at = self.below(upto).checked_sub(1);
        if let Some(held) = at.and_then(|at| self.held.get_mut(at)).filter(|held| held.kind == Kind::Provisional) {
            held.kind = Kind::Void;
        }
    }

    /// How many of those held lie below a mark.
    fn below(&self, upto: Mark) -> usize {
        (upto.0.saturating_sub(self.first.0) as usize).min(self.held.len())
    }

    /// Are all below the mark durable?
    pub(super) fn durable(&self, upto: Mark) -> bool {
        self.held.iter().take(self.below(upto)).all(|held| held.durable.is_some())
    }

    /// Ready when all below the mark are durable.
    pub(super) fn poll_durable(&mut self, upto: Mark, cx: &mut Context<'_>) -> Poll<Result<(), journal::Error>> {
        let below = self.below(upto);
        for held in self.held.iter_mut().take(below).filter(|held| held.durable.is_none()) {
            match held.ticket.poll_durable(cx) {
                Poll::Ready(Ok(durable)) => held.durable = Some(durable),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A transaction ended so: the fate of all below the mark is known.
    pub(super) fn settle(&mut self, upto: Mark, outcome: Outcome) {
        self.part(upto, outcome);
        self.settled = self.settled.max(upto);
    }

    /// A part of what lies below the mark ended so.
    pub(super) fn part(&mut self, upto: Mark, outcome: Outcome) {
        let (from, upto) = (self.below(self.settled), self.below(upto));
        self.held.iter_mut().take(upto).skip(from).for_each(|held| held.add(outcome));
    }

    /// End those below the mark whose fate is known.
    pub(super) fn end_settled(&mut self, upto: Mark) {
        self.end(self.settled.min(upto));
    }

    /// End all below the mark. The session is outside any transaction, and the last one of them ended so.
    pub(super) fn end_all(&mut self, upto: Mark, last: Outcome) {
        self.part(upto, last);
        self.end(upto);
    }

    fn end(&mut self, upto: Mark) {
        for held in self.held.drain(..self.below(upto)) {
            self.first.0 += 1;
            let outcome = held.outcome();
            held.ticket.end(outcome);
        }
    }

    /// Nobody will say how they ended.
    pub(super) fn abandon(&mut self) {
        self.first = self.mark();
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::journal::Journal;
    use crate::protocol::postgres::rig;

    struct Peers {
        journal: Journal,
        tickets: Tickets,
    }

    impl Peers {
        fn new() -> Peers {
            Peers { journal: Journal::in_memory(), tickets: Tickets::default() }
        }

        fn push(&mut self) -> Mark {
            self.push_of(None)
        }

        fn push_of(&mut self, changes: Option<Stretch>) -> Mark {
            self.tickets
                .push(self.journal.begin(&BytesMut::from("r")).expect("room"), changes.map(|stretch| (stretch, false)));
            self.tickets.mark()
        }

        fn outcomes(&self) -> String {
            rig::outcomes(&self.journal)
        }
    }

    #[test]
    fn a_fate_that_is_known_does_not_change() {
        let mut peers = Peers::new();
        let first = peers.push();
        peers.tickets.settle(first, Outcome::Committed);
        let second = peers.push();
        peers.tickets.settle(second, Outcome::Aborted);
        let last = peers.push();
        peers.tickets.end_all(last, Outcome::Committed);
        assert_eq!(peers.outcomes(), "CAC");
    }

    #[test]
    fn what_is_settled_ends_inside_a_transaction_and_the_rest_waits() {
        let mut peers = Peers::new();
        let first = peers.push();
        let second = peers.push();
        peers.tickets.settle(first, Outcome::Committed);
        peers.tickets.end_settled(second);
        assert_eq!(peers.outcomes(), "C?");
        assert_eq!(peers.tickets.mark(), second);
        peers.tickets.end_all(second, Outcome::Aborted);
        assert_eq!(peers.outcomes(), "CA");
    }

    #[test]
    fn a_record_of_two_transactions_is_committed_if_a_part_is_and_in_doubt_with_a_schema_change() {
        for (changes, outcome) in [(None, "C"), (Some(Stretch::default()), "U")] {
            let mut peers = Peers::new();
            let only = peers.push_of(changes);
            peers.tickets.part(only, Outcome::Committed);
            peers.tickets.end_all(only, Outcome::Aborted);
            assert_eq!(peers.outcomes(), outcome);
        }
    }

    #[test]
    fn a_provisional_record_counts_unless_it_is_void() {
        let mut peers = Peers::new();
        for _ in 0..2 {
            peers.tickets.push_provisional(peers.journal.begin(&BytesMut::from("r")).expect("room"));
        }
        let last = peers.tickets.mark();
        peers.tickets.void(last);
        peers.tickets.end_all(last, Outcome::Aborted);
        assert_eq!(peers.outcomes(), "CA");
    }

    #[test]
    fn schema_changes_of_undone_stretches_end_as_rolled_back() {
        let mut peers = Peers::new();
        for stretch in 0..4 {
            peers.push_of(Some(Stretch::of(stretch)));
        }
        let last = peers.push();
        peers.tickets.undo(&(Stretch::of(1)..Stretch::of(3)));
        peers.tickets.end_all(last, Outcome::Committed);
        assert_eq!(peers.outcomes(), "CAACC");
    }

    #[test]
    fn schema_changes_that_may_have_been_undone_are_in_doubt_only_if_committed() {
        for (last, outcomes) in [(Outcome::Committed, "CUC"), (Outcome::Aborted, "CAA")] {
            let mut peers = Peers::new();
            let first = peers.push_of(Some(Stretch::default()));
            peers.tickets.settle(first, Outcome::Committed);
            peers.push_of(Some(Stretch::default()));
            let upto = peers.push();
            peers.tickets.doubt_changes();
            peers.tickets.end_all(upto, last);
            assert_eq!(peers.outcomes(), outcomes);
        }
    }

    #[test]
    fn without_an_answer_everything_stays_in_doubt() {
        let mut peers = Peers::new();
        let only = peers.push();
        peers.tickets.settle(only, Outcome::Committed);
        peers.tickets.abandon();
        assert_eq!((peers.outcomes().as_str(), peers.tickets.mark()), ("?", only));
    }
}
