//! Clients whose answer waits for the secondary: `mirror.mode = "sync"`.
//!
//! Whoever waits says so before the journal says that the unit committed, so that nobody waits for what is over. While the
//! secondary is away everybody is told so at once: what was written stays in the journal, and is applied in the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::journal::Lsn;

/// Those who wait, by the record that they wait for. Clones are the same.
#[derive(Clone, Default)]
pub struct Waits(Arc<Mutex<State>>, watch::Sender<bool>);

#[derive(Default)]
struct State {
    waiting: HashMap<Lsn, oneshot::Sender<Result<(), String>>>,
    /// Why nothing can be written to the secondary now.
    away: Option<String>,
}

/// Somebody who waits for a record. Dropped, nobody does.
pub struct Wait {
    lsn: Lsn,
    told: oneshot::Receiver<Result<(), String>>,
    waits: Waits,
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for this record, whose end is not written yet.
    pub fn wait(&self, lsn: Lsn) -> Wait {
        let (tell, told) = oneshot::channel();
        let mut state = self.lock();
        match &state.away {
            Some(why) => _ = tell.send(Err(why.clone())),
            None => _ = state.waiting.insert(lsn, tell),
        }
        Wait { lsn, told, waits: self.clone() }
    }

    /// What became of a record.
    pub(super) fn tell(&self, lsn: Lsn, became: impl FnOnce() -> Result<(), String>) {
        let waiting = self.lock().waiting.remove(&lsn);
        if let Some(waiting) = waiting {
            let _ = waiting.send(became());
        }
    }

    /// The secondary can be written to.
    pub(crate) fn there(&self) {
        self.lock().away = None;
        self.1.send_replace(true);
    }

    /// Resolves when the mirror has found out, once, whether the secondary is there: until then a record waits for the mirror,
    /// which waits out what an earlier process may have sent. Cancel safe.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut begun = self.1.subscribe();
        async move {
            // An error: the mirror is gone, and everybody was told so.
            let _ = begun.wait_for(|begun| *begun).await;
        }
    }

    /// It cannot.
    pub(super) fn away(&self, why: &str) {
        let mut state = self.lock();
        state.away = Some(why.to_owned());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(|waiting| _ = waiting.send(Err(why.to_owned())));
        self.1.send_replace(true);
    }
}

impl Wait {
    /// Resolves when the secondary has the record. Cancel safe.
    ///
    /// # Errors
    /// It has not, and why; the record is kept, or parked.
    pub async fn applied(mut self) -> Result<(), String> {
        (&mut self.told).await.unwrap_or_else(|_| Err("the mirror has ended".to_owned()))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.lock().waiting.remove(&self.lsn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn who_waits_hears_of_his_record_and_of_nothing_else() {
        let waits = Waits::default();
        let (one, other) = (waits.wait(Lsn(1)), waits.wait(Lsn(2)));
        waits.tell(Lsn(1), || Ok(()));
        waits.tell(Lsn(3), || Ok(()));
        assert_eq!(one.applied().await, Ok(()));
        let mut other = Box::pin(other.applied());
        assert!(other.as_mut().now_or_never().is_none());
        waits.tell(Lsn(2), || Err("parked".to_owned()));
        assert_eq!(other.await, Err("parked".to_owned()));
        assert!(waits.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn whoever_comes_before_the_mirror_hears_when_it_has_begun() {
        for begin in [|waits: &Waits| waits.there(), |waits: &Waits| waits.away("gone")] {
            let waits = Waits::default();
            let mut begun = Box::pin(waits.begun());
            assert!(begun.as_mut().now_or_never().is_none());
            begin(&waits);
            begun.await;
            assert!(waits.begun().now_or_never().is_some(), "for good");
        }
    }

    #[tokio::test]
    async fn while_the_secondary_is_away_nobody_waits() {
        let waits = Waits::default();
        let wait = waits.wait(Lsn(1));
        waits.away("gone");
        assert_eq!(wait.applied().await, Err("gone".to_owned()));
        assert_eq!(waits.wait(Lsn(2)).applied().await, Err("gone".to_owned()));
        waits.there();
        drop(waits.wait(Lsn(3)));
        assert!(waits.lock().waiting.is_empty(), "who went away is forgotten");
    }
}
