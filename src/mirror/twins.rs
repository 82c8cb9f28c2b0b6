//! Twins on loan: two snapshots, one a side, that show the same state.
//!
//! Right after a payment the secondary is what the primary was at the payment's snapshot. Whoever wants to ask both sides
//! the same question about the same state says so here; the engine keeps the next such moment for as long as its
//! borrowers need to open snapshots of their own by the names that they are lent, and no longer than a bound. Then it
//! goes on paying: what borrowers have opened stays as it is, however long they look at it.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

/// More do not wait at once.
const WAITING_MAX: usize = 64;

/// Where borrowers and the engine meet. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Twins(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Vec<oneshot::Sender<Loan>>>,
    asked: Notify,
}

/// Both snapshots by name. While it is not dropped, and the bound is not over, they can be opened: drop it when they are.
#[derive(Clone, Debug)]
pub struct Loan {
    /// Of the primary.
    pub primary: Arc<str>,
    /// Of the secondary.
    pub secondary: Arc<str>,
    _held: mpsc::Sender<Infallible>,
}

impl Twins {
    fn lock(&self) -> MutexGuard<'_, Vec<oneshot::Sender<Loan>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when twins are lent, which may take as long as the mirror is behind: bound it. `None`: too many wait, or
    /// the engine ended. Cancel safe.
    pub async fn borrow(&self) -> Option<Loan> {
        let (sender, lent) = oneshot::channel();
        {
            let mut waiting = self.lock();
            waiting.retain(|other| !other.is_closed());
            if waiting.len() >= WAITING_MAX {
                return None;
            }
            waiting.push(sender);
        }
        self.0.asked.notify_one();
        lent.await.ok()
    }

    /// Does anybody wait?
    pub fn are_wanted(&self) -> bool {
        self.lock().iter().any(|waiting| !waiting.is_closed())
    }

    /// Resolves when somebody began to wait, also before it was called. For the engine alone. Cancel safe.
    pub fn asked(&self) -> impl Future<Output = ()> + use<'_> {
        self.0.asked.notified()
    }

    /// Lend to all who wait. Resolves when each of them has opened both snapshots or left, or `hold` is over.
    pub async fn lend(&self, primary: &str, secondary: &str, hold: Duration) {
        let (held, mut returned) = mpsc::channel(1);
        let loan = Loan { primary: primary.into(), secondary: secondary.into(), _held: held };
        for waiting in std::mem::take(&mut *self.lock()) {
            // Whoever left needs none.
            let _ = waiting.send(loan.clone());
        }
        drop(loan);
        let _ = timeout(hold, returned.recv()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const HOLD: Duration = Duration::from_millis(300);

    #[tokio::test(start_paused = true)]
    async fn the_engine_waits_until_all_have_opened_what_they_were_lent_and_no_longer() {
        let twins = Twins::default();
        let (one, two) = (twins.clone(), twins.clone());
        let one = tokio::spawn(async move { one.borrow().await.map(drop) });
        let two = tokio::spawn(async move {
            let loan = two.borrow().await.expect("it is lent");
            tokio::time::sleep(HOLD / 2).await;
            (loan.primary.to_string(), loan.secondary.to_string())
        });
        twins.asked().await;
        tokio::task::yield_now().await;
        assert!(twins.are_wanted());
        let began = Instant::now();
        twins.lend("p", "s", HOLD).await;
        assert_eq!(began.elapsed(), HOLD / 2);
        assert!(!twins.are_wanted() && one.await.expect("ends").is_some());
        assert_eq!(two.await.expect("ends"), ("p".to_owned(), "s".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_borrower_that_hangs_holds_the_mirror_up_for_the_bound_only() {
        let twins = Twins::default();
        let borrower = twins.clone();
        let hangs = tokio::spawn(async move {
            let _loan = borrower.borrow().await;
            std::future::pending::<()>().await;
        });
        twins.asked().await;
        let began = Instant::now();
        twins.lend("p", "s", HOLD).await;
        assert_eq!(began.elapsed(), HOLD);
        hangs.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gave_up_is_not_waited_for_and_too_many_are_sent_away() {
        let twins = Twins::default();
        assert!(timeout(HOLD, twins.borrow()).await.is_err());
        assert!(!twins.are_wanted());
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(twins.borrow())).collect();
        for each in &mut waiting {
            assert!(futures_util::poll!(each.as_mut()).is_pending());
        }
        assert!(twins.borrow().await.is_none());
    }
}
