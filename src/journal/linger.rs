//! How long a record may wait for company before it is synced.
//!
//! Nobody needs a record to be durable before the primary has answered, and the primary syncs a log of its own, often on
//! the same disk: each sync of ours that can be saved makes its syncs shorter. So the sync thread gathers as long as
//! nobody waits. What it learns: if many of a group waited in the end, it gathered too long; if a sync had one record only,
//! there was no company to wait for; if hardly anybody waited it may gather a little longer. Who waits ends the gathering
//! at once.

use std::time::Duration;

/// A shorter wait is not worth its timer, whose slack is as large (prctl(2), PR_SET_TIMERSLACK).
const MIN: Duration = Duration::from_micros(50);
const MAX: Duration = Duration::from_millis(2);
const STEP: Duration = Duration::from_micros(20);

/// What was learned so far. Begins with no wait at all.
#[derive(Default)]
pub(super) struct Linger {
    learned: Duration,
}

impl Linger {
    /// How long to gather now; `None`: not at all.
    pub(super) fn patience(&self) -> Option<Duration> {
        (self.learned >= MIN).then_some(self.learned)
    }

    /// A sync of so many records is over, and so many waited for it when it was.
    pub(super) fn learn(&mut self, records: u32, waited: u32) {
        if records == 1 || waited * 3 > records {
            self.learned = self.learned * 3 / 4;
        } else if records > 1 && waited * 6 <= records {
            self.learned = (self.learned + STEP + self.learned / 16).min(MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rounds: u32, records: u32, waited: u32) -> Option<Duration> {
        let mut linger = Linger { learned: MAX / 2 };
        (0..rounds).for_each(|_| linger.learn(records, waited));
        linger.patience()
    }

    #[test]
    fn one_client_never_waits_for_company() {
        assert_eq!(Linger::default().patience(), None);
        assert_eq!(after(20, 1, 0), None);
    }

    #[test]
    fn company_is_waited_for_within_a_bound_while_hardly_anybody_waits() {
        assert_eq!(after(100, 6, 1), Some(MAX));
    }

    #[test]
    fn who_waits_shortens_it() {
        assert_eq!(after(20, 3, 2), None);
        assert_eq!(after(100, 4, 1), Some(MAX / 2), "neither many nor few");
        assert_eq!(after(100, 0, 0), Some(MAX / 2), "nothing was synced");
    }
}
