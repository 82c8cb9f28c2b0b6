//! Which of the processes that had one number is the newest.
//!
//! A unit without an outcome is over when its process is, and a server says which numbers its processes have. But numbers come again: at
//! once where a server restarts in a container, and then sessions of a pool keep them for days. So each login is
//! written down, of clients and of tandem itself. A server gives a number to one process at a time: whoever had it before a later
//! login there is gone.
//!
//! Numbers are a host's. What a session did on a host that is the primary no more is over for whoever asks the new one, as its number
//! is not there, or is another's.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::Journal;
use crate::record::Backend;

use super::client::Endpoint;

/// All logins of this process; cheap to clone.
#[derive(Clone)]
pub struct Logins {
    journal: Journal,
    newest: Arc<Mutex<HashMap<Endpoint, HashMap<u32, u64>>>>,
}

impl Logins {
    /// None so far. They are told apart by where this journal stood.
    pub fn new(journal: Journal) -> Logins {
        Logins { journal, newest: Arc::default() }
    }

    /// The name of the journal, which tells one tandem from another.
    pub fn journal(&self) -> u64 {
        self.journal.place().journal
    }

    /// The server has let somebody in, as this process.
    pub fn enter(&self, endpoint: &Endpoint, id: u32) -> Backend {
        let life = self.journal.appended().0 + 1;
        let mut newest = self.newest();
        if !newest.contains_key(endpoint) {
            newest.insert(endpoint.clone(), HashMap::new());
        }
        let here = newest.get_mut(endpoint).expect("entered above");
        if here.len() == here.capacity() && !here.contains_key(&id) {
            // Nobody owes what those did who were there before.
            let trimmed = self.journal.trimmed().0;
            here.retain(|_, life| *life > trimmed);
        }
        let known = here.entry(id).or_default();
        *known = life.max(*known);
        Backend { id, life }
    }

    /// Somebody else had its number there after it.
    pub fn is_over(&self, endpoint: &Endpoint, backend: Backend) -> bool {
        let newest = self.newest();
        newest.get(endpoint).and_then(|here| here.get(&backend.id)).is_some_and(|&life| life > backend.life)
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<Endpoint, HashMap<u32, u64>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of configurations, which are the same whoever has logged in by them.
impl PartialEq for Logins {
    fn eq(&self, other: &Logins) -> bool {
        Arc::ptr_eq(&self.newest, &other.newest)
    }
}

impl Eq for Logins {}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::client::Host;
    use crate::record::RecordBuf;

    fn host(name: &str) -> Endpoint {
        Endpoint { host: Host::Tcp(name.to_owned()), port: 1 }
    }

    fn write(journal: &Journal, backend: Backend) {
        let mut record = RecordBuf::default();
        record.key(crate::record::TableId(1), b"k", false);
        drop(journal.begin(record.finish(backend)).expect("there is room"));
    }

    #[test]
    fn who_had_a_number_is_over_when_it_is_given_again_and_its_successor_is_not() {
        let (journal, a, b) = (Journal::in_memory(), host("a"), host("b"));
        let logins = Logins::new(journal.clone());
        let first = logins.enter(&a, 7);
        assert!(first.life > 0 && !logins.is_over(&a, first));
        assert!(logins.is_over(&a, Backend { id: 7, life: 0 }), "it was there before tandem");
        write(&journal, first);
        // On another host it says nothing.
        logins.enter(&b, 7);
        assert!(!logins.is_over(&a, first) && logins.is_over(&b, first));
        let second = logins.enter(&a, 7);
        assert!(logins.is_over(&a, first) && !logins.is_over(&a, second));
        assert!(!logins.is_over(&a, Backend { id: 8, life: 0 }));
    }

    #[test]
    fn logins_before_all_that_is_owed_are_forgotten() {
        let (journal, a) = (Journal::in_memory(), host("a"));
        let logins = Logins::new(journal.clone());
        for id in 0..1_000 {
            logins.enter(&a, id);
        }
        write(&journal, logins.enter(&a, 0));
        journal.trim(journal.appended());
        for id in 1_000..10_000 {
            logins.enter(&a, id);
        }
        assert!(!logins.newest()[&a].contains_key(&1), "it is older than the journal");
        assert!(logins.newest()[&a].contains_key(&9_999));
    }
}
