//! Nodes that are tried last for a while: they could not be reached, hang, or others call them down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::lock;
use crate::protocol::cql::client::Address;

/// Until when each of them is. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Shunned(Arc<Mutex<HashMap<Address, Instant>>>);

impl Shunned {
    /// For this long at the least: whoever is down for a minute is not back in a few seconds because somebody failed to reach
    /// it meanwhile.
    pub(super) fn shun(&self, address: Address, pause: Duration) {
        let until = Instant::now() + pause;
        lock(&self.0).entry(address).and_modify(|known| *known = until.max(*known)).or_insert(until);
    }

    /// It was reached, or others call it up.
    pub(super) fn forgive(&self, address: &Address) {
        lock(&self.0).remove(address);
    }

    pub(super) fn has(&self, address: &Address) -> bool {
        lock(&self.0).get(address).is_some_and(|until| *until > Instant::now())
    }

    /// Forget those whose time is over, and those of which this is not so.
    pub(super) fn retain(&self, is_known: impl Fn(&Address) -> bool) {
        lock(&self.0).retain(|address, until| is_known(address) && *until > Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_down_stays_so_though_somebody_failed_to_reach_it_meanwhile() {
        let (shunned, node) = (Shunned::default(), Address { host: "a".to_owned(), port: 9042 });
        let second = Duration::from_secs(1);
        shunned.shun(node.clone(), 60 * second);
        shunned.shun(node.clone(), 5 * second);
        advance(59 * second).await;
        assert!(shunned.has(&node));
        advance(second).await;
        assert!(!shunned.has(&node));
        shunned.shun(node.clone(), 5 * second);
        shunned.forgive(&node);
        assert!(!shunned.has(&node));
    }
}
