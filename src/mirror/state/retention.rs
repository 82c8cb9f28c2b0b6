//! Payments that one of the servers may yet lose, and so must stay owable.
//!
//! The primary can lose acknowledged commits that were not flushed (`synchronous_commit = off`, a failover), the
//! secondary can lose payments (a failover to an asynchronous standby). A payment is kept, as a position in the
//! journal and two numbers, until the primary's flushed position passed what was written when its snapshot was taken,
//! *and* it is older than the configured retention. The journal is trimmed no further than the oldest.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::journal::Lsn;

/// More are merged with their neighbours: the bound of promise 12, at the cost of a coarser release.
const PAYMENTS_MAX: usize = 4096;

/// How much of the journal [`Retention::recent`] spans at most, from the newest payment's first record.
const RECENT_BYTES: u64 = 4 << 20;

/// A payment that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The secondary's counter after it.
    pub number: u64,
    /// The primary's write position at its snapshot.
    pub written: u64,
    /// The first record that it paid for.
    pub oldest: Lsn,
    /// When it was made.
    pub at: Instant,
    /// Records whose schema changes it repeated.
    pub ddl: Vec<Lsn>,
}

/// The payments kept, oldest first: numbers and times grow from front to back, positions need not.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    payments: VecDeque<Payment>,
    flushed: u64,
}

impl Retention {
    /// Keep a payment.
    pub fn push(&mut self, payment: Payment) {
        self.payments.push_back(payment);
        if self.payments.len() > PAYMENTS_MAX {
            self.halve();
        }
    }

    /// The primary flushed this far, in the life that the payments kept were made in.
    pub fn flushed(&mut self, flushed: u64) {
        self.flushed = self.flushed.max(flushed);
    }

    /// Let go of what nobody can lose any more; the highest number let go.
    pub fn release(&mut self, keep: Duration, now: Instant) -> Option<u64> {
        let mut released = None;
        while let Some(first) = self.payments.front() {
            if first.written > self.flushed || now.duration_since(first.at) < keep {
                break;
            }
            released = self.payments.pop_front().map(|payment| payment.number);
        }
        released
    }

    /// The journal is needed from here on.
    pub fn oldest(&self) -> Option<Lsn> {
        self.payments.iter().map(|payment| payment.oldest).min()
    }

    /// What the last `count` payments paid was appended from here on; those that paid for something much older, such as a
    /// transaction of hours, are passed over.
    pub fn recent(&self, count: usize) -> Option<Lsn> {
        let newest = self.payments.iter().rev().take(count).map(|payment| payment.oldest).max()?;
        let near = |lsn: &Lsn| newest.0 - lsn.0 <= RECENT_BYTES;
        self.payments.iter().rev().take(count).map(|payment| payment.oldest).filter(near).min()
    }

    /// The primary began another life: everything kept is owed again from here on, and it may lack the schema changes of these
    /// records, if it is the same server: what that had flushed it has.
    pub fn lost_by_primary(&mut self) -> (Option<Lsn>, Vec<Lsn>) {
        let oldest = self.oldest();
        let undone = self.payments.drain(..).filter(|payment| payment.written > self.flushed);
        let changes = undone.flat_map(|payment| payment.ddl).collect();
        self.flushed = 0;
        (oldest, changes)
    }

    /// The secondary holds `payments`: later ones are owed again from here on.
    pub fn lost_by_secondary(&mut self, payments: u64) -> Option<Lsn> {
        let at = self.payments.partition_point(|payment| payment.number <= payments);
        self.payments.drain(at..).map(|payment| payment.oldest).min()
    }

    fn halve(&mut self) {
        let mut merged = VecDeque::with_capacity(PAYMENTS_MAX);
        let mut rest = std::mem::take(&mut self.payments).into_iter();
        while let Some(first) = rest.next() {
            merged.push_back(match rest.next() {
                Some(second) => first.join(second),
                None => first,
            });
        }
        self.payments = merged;
    }
}

impl Payment {
    /// Both as one, kept as long as either needs.
    fn join(mut self, later: Payment) -> Payment {
        self.ddl.extend(later.ddl);
        Payment {
            number: later.number,
            written: later.written.max(self.written),
            oldest: later.oldest.min(self.oldest),
            at: later.at,
            ddl: self.ddl,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(numbers: impl IntoIterator<Item = u64>) -> Retention {
        let mut retention = Retention::default();
        let at = Instant::now();
        for number in numbers {
            retention.push(Payment { number, written: number * 10, oldest: Lsn(number), at, ddl: Vec::new() });
        }
        retention
    }

    #[test]
    fn a_payment_is_kept_until_it_is_flushed_and_old() {
        let mut retention = kept([1, 2]);
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(retention.release(Duration::ZERO, now), None);
        retention.flushed(10);
        assert_eq!(retention.release(hour, now), None);
        assert_eq!(retention.release(Duration::ZERO, now), Some(1));
        assert_eq!(retention.oldest(), Some(Lsn(2)));
    }

    #[test]
    fn a_new_life_of_the_primary_owes_everything_kept() {
        let mut retention = kept([4, 5]);
        assert_eq!(retention.lost_by_primary().0, Some(Lsn(4)));
        assert_eq!(retention.oldest(), None);
    }

    #[test]
    fn a_secondary_that_lost_payments_owes_those_above_its_counter() {
        let mut retention = kept([4, 5, 6]);
        assert_eq!(retention.lost_by_secondary(6), None);
        assert_eq!(retention.lost_by_secondary(4), Some(Lsn(5)));
        assert_eq!(retention.oldest(), Some(Lsn(4)));
    }

    #[test]
    fn a_long_history_is_merged_and_forgets_nothing_promise_12() {
        let mut retention = kept(1..=20_000);
        assert!(retention.payments.len() <= PAYMENTS_MAX);
        assert_eq!(retention.oldest(), Some(Lsn(1)));
        assert!(retention.lost_by_secondary(15_000).expect("lost some") <= Lsn(15_001));
        assert!(retention.payments.iter().all(|payment| payment.number <= 15_000));
    }
}
