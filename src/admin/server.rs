//! Serving HTTP within bounds: connections, headers, bodies and time are limited, and a drain has a deadline, because a
//! client that neither reads nor closes would hold it for ever (hyper's graceful shutdown has no timeout of its own). One
//! that asks and does not read loses its connection: as many as there may be would keep operators out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::write_timeout::WriteTimeout;
use super::{State, routes};

/// Connections at once.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// What clients may take: those that tests shorten.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Connections at once; more wait in the listen queue.
    pub(super) connections_max: usize,
    /// How long a peer may take nothing of what is written to it.
    pub(super) stall_max: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections_max: CONNECTIONS_MAX, stall_max: Duration::from_secs(30) }
    }
}

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Time for a request's head; also the longest time a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for requests under way when tandem stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after an accept that failed, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serve until cancelled; then let requests under way finish, but not for long.
pub async fn serve(listener: TcpListener, state: State, stop: CancellationToken) {
    serve_within(Bounds::default(), listener, state, stop).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, state: State, stop: CancellationToken) {
    let state = Arc::new(state);
    let permits = Arc::new(Semaphore::new(bounds.connections_max));
    let connections = TaskTracker::new();
    let (looked, ends) = (state.clone(), stop.clone());
    connections.spawn(async move { looked.samples.run(&looked, &ends).await });
    while let Some((stream, permit)) = stop.run_until_cancelled(accept(&listener, &permits)).await {
        let (state, stop) = (state.clone(), stop.clone());
        let stream = WriteTimeout::new(stream, bounds.stall_max);
        connections.spawn(async move {
            connection(stream, state, stop).await;
            drop(permit);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "admin: cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: WriteTimeout<TcpStream>, state: Arc<State>, stop: CancellationToken) {
    let answered = service_fn(|request| {
        let (state, stop) = (state.clone(), stop.clone());
        async move { Ok::<_, Infallible>(routes::answer(request, &state, stop).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answered);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin: a connection ended early");
    }
}
