//! Moves bytes between one client and its server through a [`Session`], in one task.
//!
//! Buffers belong to the thread, not to the connection: an idle client costs a few hundred bytes. Only what a peer does
//! not take at once, or a message that is cut or must wait, is kept with the connection, and given back when it is gone.
//! Nothing is read from one side while the other side has not taken what came before: memory is bounded by the sizes of
//! one read and one message.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::metrics::{Counter, Histogram};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::metrics;

use super::session::{Fault, Out, Session};
use super::wire::{self, front};

#[cfg(test)]
mod tests;

/// One read. Larger messages take several.
const READ_BYTES: usize = 32 * 1024;
/// Buffers that a burst made larger than this are given back.
const KEEP_BYTES: usize = 64 * 1024;
/// How long a statement may go on whose client hung up, before it is cancelled: what was sent whole usually ends by then.
const ABANDONED: Duration = Duration::from_secs(2);

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

struct Scratch {
    read: Box<[u8]>,
    to_server: BytesMut,
    to_client: BytesMut,
    inward: Meter,
    outward: Meter,
}

/// What passes in one direction on this thread: kept handles, and a clock that is read for one read in sixteen only,
/// because reading it costs more than all else here.
struct Meter {
    bytes: Counter,
    seconds: Histogram,
    reads: u32,
}

impl Meter {
    fn new(direction: &'static str) -> Meter {
        let labels = &[("wire", "postgres"), ("direction", direction)];
        Meter {
            bytes: metrics::FORWARDED_BYTES_TOTAL.counter(labels),
            seconds: metrics::ADDED_LATENCY_SECONDS.histogram(labels),
            reads: 0,
        }
    }

    fn read(&mut self, len: usize) -> Option<Instant> {
        self.bytes.increment(len as u64);
        self.reads = self.reads.wrapping_add(1);
        self.reads.is_multiple_of(16).then(Instant::now)
    }

    fn passed(&self, began: Option<Instant>) {
        if let Some(began) = began {
            self.seconds.record(began.elapsed().as_secs_f64());
        }
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            read: vec![0; READ_BYTES].into_boxed_slice(),
            to_server: BytesMut::with_capacity(KEEP_BYTES),
            to_client: BytesMut::with_capacity(KEEP_BYTES),
            inward: Meter::new("in"),
            outward: Meter::new("out"),
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The client left and the server knows.
    Client,
    /// The server closed.
    Server,
    /// tandem stops, and the session was outside any unit.
    Stopped,
    /// The session could not go on.
    Fault(Fault),
    /// A socket failed.
    Io(io::Error),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Io(error)
    }
}

/// A client that hung up, while the server still acts for it.
pub(super) trait Abandoned {
    /// Ask the server to stop what it does. Called at most once; must not block.
    fn cancel(&mut self);
}

/// One client's session with its sockets.
pub(super) struct Relay<C, S, A> {
    client: C,
    server: S,
    session: Session,
    abandoned: A,
    from_client: BytesMut,
    from_server: BytesMut,
    to_client: BytesMut,
    to_server: BytesMut,
    client_gone: bool,
    /// The client left inside a message: end the stream to the server when what was forwarded is written.
    close_server: bool,
    patience: Option<Pin<Box<Sleep>>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: bool,
}

impl<C, S, A> Relay<C, S, A>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    A: Abandoned,
{
    pub(super) fn new(client: C, server: S, session: Session, abandoned: A, stop: CancellationToken) -> Self {
        Relay {
            client,
            server,
            session,
            abandoned,
            from_client: BytesMut::new(),
            from_server: BytesMut::new(),
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            client_gone: false,
            close_server: false,
            patience: None,
            stop: Box::pin(stop.cancelled_owned()),
            stopping: false,
        }
    }

    /// Relay until one side ends. Returns when the server can no longer act for the client, or its connection is lost.
    /// Boxed, because a future holds its arguments twice.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = poll_fn(|cx| SCRATCH.with_borrow_mut(|scratch| self.poll(cx, scratch))).await;
        self.session.server_closed();
        Box::pin(self.say_goodbye(&end)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<End> {
        loop {
            match self.step(cx, scratch) {
                Ok(true) => {}
                Ok(false) => return self.hurry(cx),
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    /// `Ok(true)`: something moved, go on.
    fn step(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        let mut moved = self.drive(cx, scratch)?;
        moved |= self.read_server(cx, scratch)?;
        moved |= self.read_client(cx, scratch)?;
        Ok(moved)
    }

    /// Write what is left over, and let the session go on with what it waited for.
    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        let mut moved = rest(&mut self.server, &mut self.to_server, cx)?;
        if self.close_server && self.to_server.is_empty() {
            self.close_server = Pin::new(&mut self.server).poll_shutdown(cx)?.is_pending();
        }
        if self.client_gone {
            self.to_client.clear();
        } else if !self.keeps()
            && let Err(error) = rest(&mut self.client, &mut self.to_client, cx).map(|did| moved |= did)
        {
            self.client_left(Some(error));
        }
        let mut out = Out { to_server: &mut scratch.to_server, to_client: &mut scratch.to_client };
        moved |= self.session.poll(cx, &mut out)?;
        self.send(cx, scratch)?;
        if moved && !self.from_server.is_empty() {
            self.feed_server(&[], cx, scratch)?;
        }
        if moved && !self.from_client.is_empty() {
            self.feed_client(&[], cx, scratch)?;
        }
        Ok(moved)
    }

    /// Output for the client is kept for what comes next, as long as it is little.
    fn keeps(&self) -> bool {
        self.session.answers_soon() && self.to_client.len() < READ_BYTES
    }

    fn read_server(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        if !self.session.wants_server() || !self.to_client.is_empty() && !self.keeps() {
            return Ok(false);
        }
        let mut read = std::mem::take(&mut scratch.read);
        let result = match poll_read(&mut self.server, &mut read, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) if self.client_gone => Err(End::Client),
            Poll::Ready(Ok(0)) => Err(End::Server),
            Poll::Ready(Ok(len)) => {
                let began = scratch.outward.read(len);
                let fed = self.feed_server(&read[..len], cx, scratch);
                scratch.outward.passed(began);
                fed.map(|()| true)
            }
            Poll::Ready(Err(error)) => Err(End::Io(error)),
        };
        scratch.read = read;
        result
    }

    fn feed_server(&mut self, input: &[u8], cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        let mut out = Out { to_server: &mut scratch.to_server, to_client: &mut scratch.to_client };
        let session = &mut self.session;
        feed(&mut self.from_server, input, |bytes| session.server(bytes, &mut out))?;
        self.send(cx, scratch)?;
        // Answers may have freed what the client sent meanwhile.
        if !self.from_client.is_empty() && self.session.wants_client() {
            self.feed_client(&[], cx, scratch)?;
        }
        Ok(())
    }

    fn read_client(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        if self.client_gone || !self.session.wants_client() || !self.to_server.is_empty() {
            return Ok(false);
        }
        let mut read = std::mem::take(&mut scratch.read);
        let result = match poll_read(&mut self.client, &mut read, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => {
                self.client_left(None);
                Ok(true)
            }
            Poll::Ready(Ok(len)) => {
                let began = scratch.inward.read(len);
                let fed = self.feed_client(&read[..len], cx, scratch);
                scratch.inward.passed(began);
                fed.map(|()| true)
            }
            Poll::Ready(Err(error)) => {
                self.client_left(Some(error));
                Ok(true)
            }
        };
        scratch.read = read;
        result
    }

    fn feed_client(&mut self, input: &[u8], cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        let mut out = Out { to_server: &mut scratch.to_server, to_client: &mut scratch.to_client };
        let session = &mut self.session;
        feed(&mut self.from_client, input, |bytes| session.client(bytes, &mut out))?;
        self.send(cx, scratch)
    }

    /// Write both outputs; what a peer does not take at once stays with the connection.
    fn send(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        write(&mut self.server, &mut scratch.to_server, &mut self.to_server, cx)?;
        if self.client_gone {
            scratch.to_client.clear();
        } else if self.keeps() {
            self.to_client.extend_from_slice(&scratch.to_client);
            scratch.to_client.clear();
        } else if let Err(error) = write(&mut self.client, &mut scratch.to_client, &mut self.to_client, cx) {
            scratch.to_client.clear();
            self.client_left(Some(error));
        }
        Ok(())
    }

    /// The client is gone: tell the server, in order, behind what was forwarded.
    fn client_left(&mut self, error: Option<io::Error>) {
        if self.client_gone {
            return;
        }
        if let Some(error) = error {
            tracing::debug!(%error, "client hung up");
        }
        self.client_gone = true;
        self.from_client.clear();
        self.to_client.clear();
        if self.session.inside_message() {
            // Nothing may be put inside a message: the end of the stream says it.
            self.close_server = true;
        } else {
            wire::bare(&mut self.to_server, front::TERMINATE);
        }
        self.patience = Some(Box::pin(sleep(ABANDONED)));
    }

    /// Timers, when nothing else moves: an abandoned statement, and the end of tandem itself.
    fn hurry(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll_ready(cx)
        {
            self.patience = None;
            self.abandoned.cancel();
        }
        if !self.stopping && self.stop.as_mut().poll_ready(cx) {
            self.stopping = true;
        }
        if self.stopping && self.session.is_idle() && self.to_client.is_empty() && !self.client_gone {
            return Poll::Ready(End::Stopped);
        }
        Poll::Pending
    }

    /// Tell the client why, in its own protocol, if it can still hear.
    async fn say_goodbye(&mut self, end: &End) {
        let mut out = std::mem::take(&mut self.to_client);
        match end {
            End::Stopped => wire::error_response(
                &mut out,
                "FATAL",
                "57P01",
                "terminating connection: tandem is shutting down",
                None,
            ),
            End::Fault(fault) => {
                tracing::warn!(%fault, "a session could not go on");
                wire::error_response(&mut out, "FATAL", "08P01", &format!("tandem: {fault}"), None);
            }
            End::Io(error) => tracing::debug!(%error, "a connection was lost"),
            End::Client | End::Server => {}
        }
        if !self.client_gone {
            let bye = tokio::io::AsyncWriteExt::write_all(&mut self.client, &out);
            let _ = tokio::time::timeout(Duration::from_secs(5), bye).await;
            let shut = tokio::io::AsyncWriteExt::shutdown(&mut self.client);
            let _ = tokio::time::timeout(Duration::from_secs(1), shut).await;
        }
    }
}

trait PollReady {
    fn poll_ready(self, cx: &mut Context<'_>) -> bool;
}

impl<F: Future<Output = ()>> PollReady for Pin<&mut F> {
    fn poll_ready(self, cx: &mut Context<'_>) -> bool {
        self.poll(cx).is_ready()
    }
}

/// Hand bytes to the session: straight from the read buffer where nothing was kept.
fn feed(kept: &mut BytesMut, input: &[u8], mut take: impl FnMut(&[u8]) -> Result<usize, Fault>) -> Result<(), Fault> {
    if kept.is_empty() {
        let taken = take(input)?;
        kept.extend_from_slice(&input[taken..]);
        return Ok(());
    }
    kept.extend_from_slice(input);
    let taken = take(kept)?;
    if taken == kept.len() {
        *kept = BytesMut::new();
    } else {
        let _ = kept.split_to(taken);
    }
    Ok(())
}

fn poll_read<S: AsyncRead + Unpin>(stream: &mut S, into: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(into);
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

/// Write `new` behind what is kept; keep what is not taken.
fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    new: &mut BytesMut,
    kept: &mut BytesMut,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    if kept.is_empty() {
        let mut at = 0;
        while at < new.len() {
            match Pin::new(&mut *stream).poll_write(cx, &new[at..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(len)) => at += len,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        kept.extend_from_slice(&new[at..]);
        if kept.is_empty() {
            let _ = Pin::new(stream).poll_flush(cx)?;
        }
    } else {
        kept.extend_from_slice(new);
    }
    if new.capacity() > KEEP_BYTES * 4 {
        *new = BytesMut::with_capacity(KEEP_BYTES);
    } else {
        new.clear();
    }
    Ok(())
}

/// Write what was kept. `true`: it is all gone.
fn rest<S: AsyncWrite + Unpin>(stream: &mut S, kept: &mut BytesMut, cx: &mut Context<'_>) -> io::Result<bool> {
    if kept.is_empty() {
        return Ok(false);
    }
    while !kept.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, kept) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(len)) => {
                let _ = kept.split_to(len);
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(false),
        }
    }
    *kept = BytesMut::new();
    let _ = Pin::new(stream).poll_flush(cx)?;
    Ok(true)
}
