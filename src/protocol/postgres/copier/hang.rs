//! A secondary that no longer answers, while a snapshot of the primary waits for it.
//!
//! S keeps VACUUM from all that changed since, so it is not held for a server that hangs: frozen, cut off, or without a disk. But
//! a statement may take long and say nothing, and given up it would only begin again. So silence is no sign by itself:
//! who answers a new connection, and be it by refusing it, is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::mirror::state::copier::Error;
use crate::protocol::postgres::client::{self, Client, ServerConfig};

use super::link::connect;

/// Looks at one server.
pub(super) struct Watch {
    config: ServerConfig,
    /// What its connection has sent and read so far.
    moved: Arc<AtomicU64>,
    bound: Duration,
}

impl Watch {
    pub(super) fn new(config: &ServerConfig, conn: &Client, bound: Duration) -> Watch {
        Watch { config: config.clone(), moved: conn.moved(), bound }
    }

    /// Ends when it hangs.
    async fn hangs(self) -> Error {
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
            if timeout(pause, connect(&self.config)).await.is_ok_and(|entered| answers(&entered)) {
                last = Instant::now();
            } else if last.elapsed() >= self.bound {
                let why = format!(
                    "it does not answer for {:?}, not even a new connection: the payment is given up",
                    self.bound
                );
                return Error::Secondary(why);
            }
        }
    }
}

fn answers(entered: &Result<Client, client::Error>) -> bool {
    match entered {
        Ok(_) | Err(client::Error::Db(_)) => true,
        Err(client::Error::Connect { why, .. }) => matches!(**why, client::Error::Db(_)),
        Err(_) => false,
    }
}

/// Do the work for as long as its server does not hang. Given up, its connections are in no known state.
pub(super) async fn unless_it_hangs<T>(
    watch: Option<Watch>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(watch) = watch else { return work.await };
    tokio::select! {
        biased;
        done = work => done,
        error = watch.hangs() => Err(error),
    }
}
