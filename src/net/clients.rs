//! Accepts clients, counts them, and waits for them in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::socket::keep_alive;
use crate::metrics;
use crate::telemetry::{Line, Seldom};

/// After a client could not be accepted: out of file descriptors, and those who are here will leave some.
const PAUSE: Duration = Duration::from_millis(50);
/// After this silence a client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Accept until stopped, and give each client to `one`; returns when the last of these is over. New clients are refused
/// from the moment of the stop.
pub async fn accept<F>(listener: TcpListener, stop: &CancellationToken, mut one: impl FnMut(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let sessions = TaskTracker::new();
    let mut refused = Seldom::default();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((client, _)) => {
                // A machine that is gone without a word would hold a connection, and on PostgreSQL its locks, for ever.
                if let Err(error) = keep_alive(&client, KEEPALIVE) {
                    tracing::debug!(%error, "a client that vanishes will not be noticed");
                }
                drop(sessions.spawn(one(client)));
            }
            Err(error) => {
                if let Some(left_out) = refused.say() {
                    tracing::warn!(%error, left_out, "a client could not be accepted");
                }
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    sessions.close();
    sessions.wait().await;
}

/// The clients of a wire, over all its listeners. Clones are the same.
#[derive(Clone)]
pub struct Clients {
    wire: &'static str,
    max: usize,
    connected: Arc<AtomicUsize>,
    /// The log's line for one that cannot be taken to its server: while that is away each is one.
    pub(crate) unreached: Arc<Line>,
}

/// A client that is connected until this is dropped.
pub struct Client<'c> {
    clients: &'c Clients,
    /// It is one too many (`limits.connections`).
    pub is_too_many: bool,
    /// Nor is there room to hear what it says, and to tell it so.
    pub is_unheard: bool,
}

/// Clients beyond those welcome that are heard, and told so. More may say nothing at all, and would take the files that the
/// process needs itself.
pub const HEARD_BEYOND: usize = 64;

impl Clients {
    /// None yet, of this wire; at most so many are welcome.
    pub fn new(wire: &'static str, max: usize) -> Clients {
        Clients { wire, max, connected: Arc::default(), unreached: Arc::default() }
    }

    /// One more.
    pub fn enter(&self) -> Client<'_> {
        let connected = self.connected.fetch_add(1, Ordering::Relaxed) + 1;
        self.show(connected);
        let is_unheard = connected > self.max.saturating_add(HEARD_BEYOND);
        if is_unheard {
            metrics::CLIENTS_REFUSED_TOTAL.counter(&[("wire", self.wire), ("reason", "limit")]).increment(1);
        }
        Client { clients: self, is_too_many: connected > self.max, is_unheard }
    }

    fn show(&self, connected: usize) {
        metrics::CLIENTS.gauge(&[("wire", self.wire)]).set(connected as f64);
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        let left = self.clients.connected.fetch_sub(1, Ordering::Relaxed) - 1;
        self.clients.show(left);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn whoever_is_one_too_many_hears_of_it_and_leaves_room() {
        let clients = Clients::new("postgres", 1);
        let first = clients.enter();
        assert!(!first.is_too_many && clients.enter().is_too_many);
        drop(first);
        assert!(!clients.enter().is_too_many);
    }

    #[test]
    fn who_says_nothing_does_not_take_every_file() {
        let clients = Clients::new("postgres", 1);
        let here: Vec<Client<'_>> = (0..=HEARD_BEYOND).map(|_| clients.enter()).collect();
        assert!(here.iter().all(|client| !client.is_unheard) && clients.enter().is_unheard);
        drop(here);
        assert!(!clients.enter().is_unheard);
    }

    #[tokio::test]
    async fn a_stop_refuses_newcomers_and_waits_for_those_who_are_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, (came, come)) = (CancellationToken::new(), oneshot::channel());
        let mut came = Some(came);
        let accepting = accept(listener, &stop, move |mut client| {
            assert!(socket2::SockRef::from(&client).keepalive().expect("asked"), "one that vanishes is noticed");
            let came = came.take();
            async move {
                came.map(|came| came.send(()));
                let _ = client.read(&mut [0]).await;
            }
        });
        let mut accepting = Box::pin(accepting);
        let client = TcpStream::connect(address).await.expect("accepted");
        tokio::select! {
            () = &mut accepting => panic!("nobody said stop"),
            came = come => came.expect("it is served"),
        }
        stop.cancel();
        tokio::select! {
            biased;
            () = &mut accepting => panic!("a client is still there"),
            () = tokio::task::yield_now() => {}
        }
        assert!(TcpStream::connect(address).await.is_err());
        drop(client);
        accepting.await;
    }
}
