//! A server that no longer answers, while somebody waits for it: frozen, cut off, or without a disk.
//!
//! A statement may take long and say nothing, and given up it would only begin again. So silence is no sign by itself:
//! who answers a new connection, and be it by refusing it, is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Client, Endpoint, Error, ServerConfig, TargetSession};

/// Looks at the server of one connection.
pub struct Watch {
    config: Arc<ServerConfig>,
    endpoint: Endpoint,
    /// What the connection has sent and read so far.
    moved: Arc<AtomicU64>,
    bound: Duration,
}

impl Watch {
    /// It may be silent for `bound`.
    pub fn new(conn: &Client, bound: Duration) -> Watch {
        Watch { config: conn.config.clone(), endpoint: conn.endpoint.clone(), moved: conn.moved(), bound }
    }

    /// Ends when it hangs.
    pub async fn hangs(self) -> Error {
        let (pause, mut last) = (self.bound / 4, Instant::now());
        let mut before = self.moved.load(Ordering::Relaxed);
        loop {
            sleep(pause).await;
            let moved = self.moved.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, moved) != moved {
                last = Instant::now();
            }
            if last.elapsed() < self.bound / 2 {
                continue;
            }
            if timeout(pause, self.answers()).await == Ok(true) {
                last = Instant::now();
            } else if last.elapsed() >= self.bound {
                return Error::Hangs(self.bound);
            }
        }
    }

    /// Asked at the host of the connection: another one of the list says nothing of it.
    async fn answers(&self) -> bool {
        let (hosts, target_session) = (vec![self.endpoint.clone()], TargetSession::Any);
        let config = ServerConfig { hosts, target_session, ..ServerConfig::clone(&self.config) };
        match Client::connect(&config).await {
            Ok(_) => true,
            Err(error) => error.db().is_some(),
        }
    }
}
