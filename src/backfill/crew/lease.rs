//! A lease, as a worker counts it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::{LEASE, MARGIN};

/// How often somebody who waits for the end of a lease looks.
const LOOK: Duration = Duration::from_millis(100);

/// When a worker asked, by both clocks of its machine: one of them goes on while the machine sleeps, the other cannot be set.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    at: Instant,
    wall: SystemTime,
}

impl Asked {
    /// As of now.
    pub fn now() -> Asked {
        Asked { at: Instant::now(), wall: SystemTime::now() }
    }

    /// As long ago as either clock says.
    fn elapsed(&self) -> Duration {
        self.at.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// How long something may still be sent for a chunk. Clones are the same.
#[derive(Clone, Debug)]
pub struct Lease(Option<Arc<Mutex<Term>>>);

#[derive(Debug)]
struct Term {
    from: Asked,
    /// Nothing is left of it from here on.
    length: Duration,
}

impl Lease {
    /// Of who owns what it works on.
    pub fn endless() -> Lease {
        Lease(None)
    }

    /// Of a chunk that was lent so long after it was asked for.
    pub fn since(asked: Asked, waited: Duration) -> Lease {
        Lease(Some(Arc::new(Mutex::new(Term { from: asked, length: waited + LEASE - MARGIN }))))
    }

    /// It was said to go on, by who was asked then. One that is over stays so.
    pub fn goes_on(&self, asked: Asked) {
        if let Some(term) = &self.0
            && self.left().is_some()
        {
            *term.lock().unwrap_or_else(PoisonError::into_inner) = Term { from: asked, length: LEASE - MARGIN };
        }
    }

    /// From now on nothing is sent.
    pub fn end(&self) {
        if let Some(term) = &self.0 {
            term.lock().unwrap_or_else(PoisonError::into_inner).length = Duration::ZERO;
        }
    }

    /// How long something may be sent; `None`: it is over.
    pub fn left(&self) -> Option<Duration> {
        let Some(term) = &self.0 else { return Some(Duration::MAX) };
        let term = term.lock().unwrap_or_else(PoisonError::into_inner);
        term.length.checked_sub(term.from.elapsed()).filter(|left| !left.is_zero())
    }

    /// Resolves when it is over. Cancel safe.
    pub async fn over(&self) {
        while let Some(left) = self.left() {
            sleep(left.min(LOOK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_before_the_one_who_lent_counts_it_as_over() {
        let (asked, waited) = (Asked::now(), Duration::from_secs(3));
        let lease = Lease::since(asked, waited);
        tokio::time::advance(waited + LEASE - MARGIN - Duration::from_millis(500)).await;
        assert!(lease.left().is_some());
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(lease.left(), None);
        lease.goes_on(Asked::now());
        assert_eq!(lease.left(), None, "over is over");
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_when_that_was_asked_for() {
        let lease = Lease::since(Asked::now(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(4)).await;
        let asked = Asked::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        lease.goes_on(asked);
        let left = lease.left().expect("it goes on");
        assert!(left <= LEASE - MARGIN - Duration::from_secs(3), "{left:?}");
        lease.end();
        assert_eq!(lease.left(), None);
        assert!(Lease::endless().left().is_some());
    }
}
