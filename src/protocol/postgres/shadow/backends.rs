//! The servers' processes that repeat reads: a switch does not take them for somebody else's, nor wait for them.
//!
//! They log in as clients do, so that no name tells them apart: their numbers do. A number is kept until its process has
//! hung up. A connection that is dropped while it was asked something does not end by that alone: a server notices that
//! nobody listens when it has an answer. So its statement is cancelled, and its end is waited for, by a task of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::protocol::postgres::client::Client;
use crate::record::Side;

/// A cancel request that met no statement, as between two, is made again.
const CANCEL_EVERY: Duration = Duration::from_millis(50);
/// Who has not hung up by then is out of reach.
const GONE_MAX: Duration = Duration::from_secs(10);

/// All of them; cheap to clone.
#[derive(Clone, Default)]
pub(in crate::protocol::postgres) struct Backends(Arc<Mutex<HashSet<(Side, u32)>>>);

/// One, until it is dropped.
pub(super) struct Backend {
    all: Backends,
    side: Side,
    pid: u32,
}

impl Backends {
    /// Process ids on a side.
    pub(in crate::protocol::postgres) fn on(&self, side: Side) -> HashSet<u32> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(of, _)| *of == side).map(|(_, pid)| *pid).collect()
    }

    pub(super) fn enter(&self, side: Side, pid: u32) -> Backend {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((side, pid));
        Backend { all: self.clone(), side, pid }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(self.side, self.pid));
    }
}

/// Nobody waits for what it was asked any more.
pub(super) fn leave(client: Client, backend: Backend) {
    // Without a runtime the process ends.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move { timeout(GONE_MAX, end(client, backend)).await.is_ok() });
    }
}

async fn end(mut client: Client, _backend: Backend) {
    let statement = client.cancel_token();
    let gone = client.hang_up();
    tokio::pin!(gone);
    loop {
        // A server that cannot be reached ends it by its own timeout.
        let _ = statement.cancel().await;
        if timeout(CANCEL_EVERY, gone.as_mut()).await.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_until_it_has_ended() {
        let all = Backends::default();
        let (one, other) = (all.enter(Side::Origin, 7), all.enter(Side::Target, 7));
        assert_eq!((all.on(Side::Origin), all.on(Side::Target)), ([7].into(), [7].into()));
        drop(one);
        assert_eq!((all.on(Side::Origin), all.on(Side::Target)), ([].into(), [7].into()));
        drop(other);
    }
}
