//! The read that showed each difference last, of those that are looked at until they are gone: that is the one to ask again.
//! Where several questions of several users are one difference, another one says nothing of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sampler::Job;

/// A read that showed a difference, and in which sight.
pub(super) struct Witness<R> {
    pub(super) job: Arc<Job<R>>,
    pub(super) sight: u64,
}

impl<R> Clone for Witness<R> {
    fn clone(&self) -> Witness<R> {
        Witness { job: self.job.clone(), sight: self.sight }
    }
}

/// By the difference's number. A read that is here keeps its room in the queue.
pub(super) struct Followed<R>(Mutex<HashMap<u64, Witness<R>>>);

impl<R> Default for Followed<R> {
    fn default() -> Followed<R> {
        Followed(Mutex::default())
    }
}

impl<R> Followed<R> {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Witness<R>>> {
        // Nothing in there panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has seen it again: whoever follows it asks this from now on. False: nobody does.
    pub(super) fn renew(&self, id: u64, witness: &Witness<R>) -> bool {
        match self.lock().get_mut(&id) {
            Some(known) if known.sight < witness.sight => *known = witness.clone(),
            known => return known.is_some(),
        }
        true
    }

    /// It is followed from now on, until the answer is dropped.
    pub(super) fn begin(&self, id: u64, witness: Witness<R>) -> Place<'_, R> {
        self.lock().insert(id, witness);
        Place { followed: self, id }
    }
}

/// A difference that is followed.
pub(super) struct Place<'f, R> {
    followed: &'f Followed<R>,
    id: u64,
}

impl<R> Place<'_, R> {
    /// Who showed it last.
    pub(super) fn witness(&self) -> Option<Witness<R>> {
        self.followed.lock().get(&self.id).cloned()
    }
}

impl<R> Drop for Place<'_, R> {
    fn drop(&mut self) {
        self.followed.lock().remove(&self.id);
    }
}
