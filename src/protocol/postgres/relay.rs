//! Moves bytes between one client and its server through a [`Session`], in one task.
//!
//! Buffers belong to the thread, not to the connection: an idle client costs a few hundred bytes. Only what a peer does
//! not take at once, or a message that is cut or must wait, is kept with the connection, and given back when it is gone.
//! Nothing is read from one side while the other side has not taken what came before, but for one read ahead of a client
//! that waits, which is how it is noticed that it hung up: memory is bounded by the sizes of a few reads and one message.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use ::metrics::{Counter, Histogram};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::metrics;
use crate::net::flow::{FAREWELL, offer, see_off};
use crate::record::{Backend, Side};

use super::moving::Luggage;
use super::session::{Fault, Out, Session};
use super::wire::{self, front};

#[cfg(test)]
mod tests;

/// One read. Larger messages take several.
const READ_BYTES: usize = 32 * 1024;
/// Buffers that a burst made larger than this are given back.
const KEEP_BYTES: usize = 64 * 1024;
/// How long a statement may go on whose client hung up, before it is cancelled: what was sent whole usually ends by then. And
/// how long one may wait that was not forwarded, before it is dropped: whoever hung up may never have it run hours later.
const ABANDONED: Duration = Duration::from_secs(2);

thread_local! {
    /// One of a thread, taken for each poll: what a panic leaves in it is dropped with it.
    #[allow(clippy::vec_box, reason = "taken and put back for each poll, and not small")]
    static SCRATCH: RefCell<Vec<Box<Scratch>>> = const { RefCell::new(Vec::new()) };
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
    /// The session could not move.
    Stranded(Stranded),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

impl From<Stranded> for End {
    fn from(why: Stranded) -> End {
        End::Stranded(why)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Io(error)
    }
}

/// What a relay needs of the world beside its two sockets.
pub(super) trait Beyond<S> {
    /// The client hung up while the server acts for it: ask it to stop. Called at most once; must not block.
    fn cancel(&mut self);

    /// Wake this task when the session is called to something.
    fn register(&self, waker: &Waker);

    /// What the session is called to. Asked whenever there is nothing else to do, so it must be quick when the answer is
    /// nothing.
    fn heed(&mut self, rest: Rest) -> Heed;

    /// Look at what the session has, on its connection.
    fn look(&mut self, server: S, luggage: Luggage) -> Detour<S>;

    /// Open a connection to the other side ahead; must not block.
    fn open(&mut self, luggage: Luggage);

    /// Take the session to this side.
    fn relocate(&mut self, server: S, to: Side, luggage: Luggage) -> Detour<S>;
}

/// What a session does that has nothing to do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// A unit is under way.
    Busy,
    /// A unit waits before the closed gate, and nothing of it was forwarded: the server is idle, or in a transaction that AND
    /// CHAIN began and in which nothing ran.
    Held,
    /// It is between two units, and nothing is on its way.
    Idle,
}

/// What a session is called to.
pub(super) enum Heed {
    /// Nothing.
    Nothing,
    /// [`Beyond::look`].
    Look,
    /// [`Beyond::open`].
    Open,
    /// Pass the gate: another primary may be behind it.
    Move,
    /// Cancel what it waits for, if no server knows of that; and say whether that was so.
    Cancel(oneshot::Sender<bool>),
    /// End.
    Leave(Stranded),
}

/// While it is under way nothing is forwarded.
pub(super) type Detour<S> = Pin<Box<dyn Future<Output = Result<Arrived<S>, Stranded>> + Send>>;

/// How a detour ended.
pub(super) struct Arrived<S> {
    /// The connection to go on with.
    pub(super) server: S,
    /// What was read from it and not looked at.
    pub(super) unread: BytesMut,
    /// What the client must be told.
    pub(super) asides: BytesMut,
    /// What the client must be told of its settings, before its next answer.
    pub(super) reports: BytesMut,
    /// It is another server, and this is its process.
    pub(super) backend: Option<Backend>,
}

impl<S> Arrived<S> {
    /// The same server again, which said nothing.
    pub(super) fn back(server: S) -> Arrived<S> {
        let (unread, asides, reports) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        Arrived { server, unread, asides, reports, backend: None }
    }
}

/// Why a session cannot go on after a switch.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stranded {
    /// It has what no other server can be given.
    #[error("the primary was switched, and this session holds {}", .0.join(", "))]
    Pinned(Vec<String>),
    /// It waits for a server that an operator gave up.
    #[error("the primary was given up while this session waited for it")]
    GivenUp,
    /// The new primary does not take it.
    #[error("the primary was switched, and the new one cannot be reached for this session: {0}")]
    Unreachable(String),
    /// Its old server is gone, and with it what the session had.
    #[error("the primary was switched, and what this session had on the old one cannot be read: {0}")]
    Lost(io::Error),
}

/// One client's session with its sockets.
pub(super) struct Relay<C, S, B> {
    client: C,
    server: Place<S>,
    session: Session,
    beyond: B,
    from_client: BytesMut,
    from_server: BytesMut,
    to_client: BytesMut,
    to_server: BytesMut,
    /// What client and server took and may not have sent yet: TLS keeps some.
    unflushed: (bool, bool),
    /// Held back while the client asks nothing: some drivers do not expect them while they only listen.
    reports: BytesMut,
    client_gone: bool,
    /// The client sends no more, while something of it waits: how long that may go on.
    lingering: Option<Pin<Box<Sleep>>>,
    /// The client left inside a message: end the stream to the server when what was forwarded is written.
    close_server: bool,
    patience: Option<Pin<Box<Sleep>>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// tandem stops, and this is what the session did when it was told.
    stopping: Option<Rest>,
}

/// Where the connection to the server is.
enum Place<S> {
    Here(S),
    /// Its detour brings one back.
    Away(Detour<S>),
    /// Between the two, for the length of a call.
    Nowhere,
}

impl<S> Place<S> {
    fn take(&mut self) -> Option<S> {
        match std::mem::replace(self, Place::Nowhere) {
            Place::Here(server) => Some(server),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl<C, S, B> Relay<C, S, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    B: Beyond<S>,
{
    pub(super) fn new(client: C, server: S, session: Session, beyond: B, stop: CancellationToken) -> Self {
        Relay {
            client,
            server: Place::Here(server),
            session,
            beyond,
            from_client: BytesMut::new(),
            from_server: BytesMut::new(),
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            unflushed: (false, false),
            reports: BytesMut::new(),
            client_gone: false,
            lingering: None,
            close_server: false,
            patience: None,
            stop: Box::pin(stop.cancelled_owned()),
            stopping: None,
        }
    }

    /// Relay until one side ends. Returns when the server can no longer act for the client, or its connection is lost.
    /// Boxed, because a future holds its arguments twice.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = poll_fn(|cx| {
            let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
            let polled = self.poll(cx, &mut scratch);
            if polled.is_ready() {
                // Of messages before one that ended it: they are nobody else's.
                scratch.to_server.clear();
                scratch.to_client.clear();
            }
            SCRATCH.with_borrow_mut(|kept| kept.push(scratch));
            polled
        })
        .await;
        self.session.server_closed();
        Box::pin(self.say_goodbye(&end)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<End> {
        loop {
            match self.step(cx, scratch) {
                Ok(true) => {}
                Ok(false) => match self.heed(cx, scratch) {
                    Ok(true) => {}
                    Ok(false) => return self.hurry(cx),
                    Err(end) => return Poll::Ready(end),
                },
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    /// `Ok(true)`: something moved, go on.
    fn step(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        if matches!(self.server, Place::Away(_)) {
            return self.away(cx, scratch);
        }
        // The rest of a message that the old server began comes first.
        if let Some(to) = self.session.must_move().filter(|_| self.from_server.is_empty()) {
            return Ok(self.depart(|beyond, server, luggage| beyond.relocate(server, to, luggage)));
        }
        let mut moved = self.drive(cx, scratch)?;
        moved |= self.read_server(cx, scratch)?;
        moved |= self.read_client(cx, scratch)?;
        Ok(moved)
    }

    /// `Ok(true)`: the detour is over.
    fn away(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        let Place::Away(detour) = &mut self.server else { return Ok(false) };
        let Poll::Ready(arrived) = detour.as_mut().poll(cx) else { return Ok(false) };
        let Arrived { server, unread, asides, reports, backend } = arrived?;
        self.server = Place::Here(server);
        self.from_server.extend_from_slice(&unread);
        self.to_client.extend_from_slice(&asides);
        self.session.reported(&reports);
        self.reports.extend_from_slice(&reports);
        if let Some(backend) = backend {
            self.session.moved(backend);
        }
        self.feed_server(&[], cx, scratch)?;
        if !self.from_client.is_empty() {
            self.feed_client(&[], cx, scratch)?;
        }
        Ok(true)
    }

    /// `true`: the connection is on its way.
    fn depart(&mut self, detour: impl FnOnce(&mut B, S, Luggage) -> Detour<S>) -> bool {
        let Some(server) = self.server.take() else { return false };
        self.server = Place::Away(detour(&mut self.beyond, server, self.session.luggage()));
        true
    }

    /// What the session is called to when there is nothing else to do. `Ok(true)`: go on.
    fn heed(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        self.beyond.register(cx.waker());
        if matches!(self.server, Place::Away(_)) {
            return Ok(false);
        }
        match self.beyond.heed(self.rest()) {
            Heed::Leave(why) => Err(why.into()),
            // Nobody is left to be moved; but a server that never answers keeps the gate for as long as it is waited for.
            _ if self.client_gone => Ok(false),
            Heed::Nothing => Ok(false),
            Heed::Look => Ok(self.depart(B::look)),
            Heed::Open => {
                self.beyond.open(self.session.luggage());
                Ok(true)
            }
            Heed::Move => Ok(self.session.pass_idle()),
            Heed::Cancel(asked) => {
                // Whoever gave up waiting for an answer asks the server.
                let cancelled = !asked.is_closed() && self.cancel(cx, scratch)?;
                let _ = asked.send(cancelled);
                Ok(true)
            }
        }
    }

    /// `Ok(true)`: the client waited for what no server knows of, and is told that it is cancelled.
    fn cancel(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        let mut out = Out { to_server: &mut scratch.to_server, to_client: &mut scratch.to_client };
        let Some(answered) = self.session.cancel(&self.from_client, &mut out) else { return Ok(false) };
        let _ = self.from_client.split_to(answered);
        self.send(cx, scratch)?;
        if !self.from_client.is_empty() && self.session.wants_client() {
            self.feed_client(&[], cx, scratch)?;
        }
        Ok(true)
    }

    /// Whether anything of the session is on its way. What came of a message that is not whole yet, or that waits for the
    /// gate, is nothing that the server knows of.
    fn rest(&self) -> Rest {
        let calm = self.from_server.is_empty() && self.to_server.is_empty() && self.session.is_between_units();
        match calm {
            false => Rest::Busy,
            // A transaction that begins elsewhere moves with its first statement.
            true if self.session.in_block() => Rest::Held,
            true if self.from_client.is_empty() && self.session.wants_client() => Rest::Idle,
            true => Rest::Held,
        }
    }

    /// Write what is left over, and let the session go on with what it waited for.
    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<bool, End> {
        let Place::Here(server) = &mut self.server else { return Ok(false) };
        let mut moved = rest(server, &mut self.to_server, &mut self.unflushed.1, cx)?;
        if self.close_server && self.to_server.is_empty() {
            self.close_server = Pin::new(server).poll_shutdown(cx)?.is_pending();
        }
        if self.client_gone {
            self.to_client.clear();
        } else if !self.keeps() {
            match rest(&mut self.client, &mut self.to_client, &mut self.unflushed.0, cx) {
                Ok(did) => moved |= did,
                Err(error) => self.client_left(Some(error)),
            }
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
        let Place::Here(server) = &mut self.server else { return Ok(false) };
        let mut read = std::mem::take(&mut scratch.read);
        let result = match poll_read(server, &mut read, cx) {
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
        if self.lingering.is_some() {
            return Ok(self.linger(cx));
        }
        let waits = !self.session.wants_client();
        let has_room = if waits { self.reads_ahead() } else { !self.session.is_owed_much() };
        if self.client_gone || !self.to_server.is_empty() || !has_room {
            return Ok(false);
        }
        let mut read = std::mem::take(&mut scratch.read);
        let result = match poll_read(&mut self.client, &mut read, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) if waits => {
                self.lingering = Some(Box::pin(sleep(ABANDONED)));
                Ok(true)
            }
            Poll::Ready(Ok(0)) => {
                self.client_left(None);
                Ok(true)
            }
            Poll::Ready(Ok(len)) if waits => {
                scratch.inward.read(len);
                self.from_client.extend_from_slice(&read[..len]);
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

    /// Is there room for another read of a client that waits, behind the message that does?
    fn reads_ahead(&self) -> bool {
        let kept = self.from_client.len();
        let header = wire::Header::peek(&self.from_client).ok().flatten();
        let whole = header.map(|header| header.size).filter(|&size| size <= kept && !self.session.inside_message());
        kept < whole.unwrap_or_default() + READ_BYTES
    }

    /// A client that sends no more is gone when all that it sent went on, or has waited for too long. `true`: it is.
    fn linger(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(lingering) = &mut self.lingering else { return false };
        let gone = self.session.wants_client() || lingering.as_mut().poll_ready(cx);
        if gone {
            self.client_left(None);
        }
        gone
    }

    fn feed_client(&mut self, input: &[u8], cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        if !self.reports.is_empty() {
            self.to_client.unsplit(std::mem::take(&mut self.reports));
        }
        let mut out = Out { to_server: &mut scratch.to_server, to_client: &mut scratch.to_client };
        let (session, before) = (&mut self.session, self.from_client.len());
        feed(&mut self.from_client, input, |bytes| session.client(bytes, &mut out))?;
        if let Some(lingering) = self.lingering.as_mut().filter(|_| self.from_client.len() < before) {
            lingering.as_mut().reset(Instant::now() + ABANDONED);
        }
        self.send(cx, scratch)
    }

    /// Write both outputs; what a peer does not take at once stays with the connection.
    fn send(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        match &mut self.server {
            Place::Here(server) => {
                write(server, &mut scratch.to_server, &mut self.to_server, &mut self.unflushed.1, cx)?;
            }
            _ => self.to_server.unsplit(scratch.to_server.split()),
        }
        if self.client_gone {
            scratch.to_client.clear();
        } else if self.keeps() {
            self.to_client.extend_from_slice(&scratch.to_client);
            scratch.to_client.clear();
        } else if let Err(error) =
            write(&mut self.client, &mut scratch.to_client, &mut self.to_client, &mut self.unflushed.0, cx)
        {
            scratch.to_client.clear();
            self.client_left(Some(error));
        }
        Ok(())
    }

    /// The client is gone: tell the server, in order, behind what was forwarded. What waits is not forwarded any more, and
    /// nobody was told anything of it.
    fn client_left(&mut self, error: Option<io::Error>) {
        if self.client_gone {
            return;
        }
        if let Some(error) = error {
            tracing::debug!(%error, "client hung up");
        }
        (self.client_gone, self.lingering) = (true, None);
        self.from_client.clear();
        self.to_client.clear();
        self.session.client_left();
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
            self.beyond.cancel();
        }
        if self.stopping.is_none() && self.stop.as_mut().poll_ready(cx) {
            self.stopping = Some(self.rest());
            self.session.stop();
        }
        let told = self.to_client.is_empty() && !self.unflushed.0;
        if self.stopping.is_some() && self.session.is_idle() && told && !self.client_gone {
            return Poll::Ready(End::Stopped);
        }
        Poll::Pending
    }

    /// Tell the client why, in its own protocol, if it can still hear.
    async fn say_goodbye(&mut self, end: &End) {
        // The server need not wait for what the client takes.
        self.server = Place::Nowhere;
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
            End::Stranded(why) => {
                tracing::warn!(%why, "a session could not move");
                let text = format!("terminating connection: {why} (tandem)");
                wire::error_response(&mut out, "FATAL", "57P01", &text, Some("connect again"));
            }
            End::Io(error) => tracing::debug!(%error, "a connection was lost"),
            End::Client | End::Server => {}
        }
        if self.client_gone {
            return;
        }
        let bye = async {
            self.client.write_all(&out).await?;
            self.client.flush().await
        };
        let _ = timeout(Duration::from_secs(5), bye).await;
        // One that was busy when tandem stopped may ask for more until it hears of it.
        if self.stopping.is_some_and(|met| met != Rest::Idle) {
            see_off(&mut self.client).await;
        } else {
            let _ = timeout(FAREWELL, self.client.shutdown()).await;
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
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    if kept.is_empty() {
        let taken = offer(stream, new, unflushed, cx)?;
        kept.extend_from_slice(&new[taken..]);
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

/// Write what was kept. `true`: it is all taken now.
fn rest<S: AsyncWrite + Unpin>(
    stream: &mut S,
    kept: &mut BytesMut,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    let any = !kept.is_empty();
    let taken = offer(stream, kept, unflushed, cx)?;
    if taken < kept.len() {
        let _ = kept.split_to(taken);
        return Ok(false);
    }
    if any {
        *kept = BytesMut::new();
    }
    Ok(any)
}
