//! What an applier sent may still be done when nobody waits for it any more: by nodes that are slow, or after the process
//! was killed. It is over when the servers' own timeouts are; nobody else begins before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::trouble::may_linger;
use crate::protocol::cql::client::Error;
use crate::protocol::cql::cluster::Cluster;

/// Beside a server's timeout: its clock's ticks, and the way there.
const SLACK: Duration = Duration::from_millis(500);

/// Since when nothing is sent to a secondary that nobody waits for. Clones are the same: one for all appliers of a process
/// to that side.
#[derive(Clone, Debug)]
pub struct Quiet(Arc<Mutex<Instant>>);

/// Something is being sent. Dropped before it is over, it may be done later.
pub(super) struct Sending<'q>(Option<&'q Quiet>);

impl Quiet {
    /// As of now: what an earlier process sent, it sent before.
    pub fn since_now() -> Quiet {
        Quiet(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn sending(&self) -> Sending<'_> {
        Sending(Some(self))
    }

    /// Resolves when nothing that was sent before is still on its way to this cluster; `counts`: increments neither.
    pub(super) async fn reached(&self, cluster: &Cluster, counts: bool) {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sleep_until(since + lingers(cluster, counts)).await;
    }
}

impl Sending<'_> {
    /// Somebody waited until it was over.
    pub(super) fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(Quiet(since)) = self.0 {
            *since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// How long what was sent to this cluster may still be done.
pub(super) fn lingers(cluster: &Cluster, counts: bool) -> Duration {
    let timeouts = cluster.timeouts();
    SLACK + if counts { timeouts.write.max(timeouts.counter) } else { timeouts.write }
}

/// What was sent to this cluster before, to a table that counts or not, is over when this returns.
pub(super) async fn calm(cluster: &Cluster, counts: bool) {
    sleep(lingers(cluster, counts)).await;
}

/// What ended with this error may still be done: not when this returns.
pub(super) async fn linger(error: &Error, cluster: &Cluster, counts: bool) {
    if may_linger(error) {
        calm(cluster, counts).await;
    }
}
