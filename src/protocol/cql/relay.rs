//! Moves bytes between one client and its server through a [`Session`], in one task.
//!
//! Reads go into a buffer of the thread; what a connection keeps is what a peer did not take at once, and a frame that is
//! not all there or has to wait. Nothing is read from one side while the other has not taken what came before, so memory
//! is bounded by a read and a frame in each direction, and a read more of a client that waits: so it is noticed that it hung up. Where others wait for what the server has done for a client that
//! takes nothing, they are not made to wait for the client: its server is read further, to a larger bound, and beyond that
//! the client has hung up.

pub(super) mod ahead;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::metrics::Counter;
use bytes::{Buf, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::metrics;
use crate::net::flow::{offer, see_off};
use crate::record::Side;

use self::ahead::Ahead;
use super::session::{Fault, Session};
use super::startup::Luggage;

/// One read.
const READ_BYTES: usize = 64 * 1024;
/// More than this is not read ahead of a peer that does not take it.
const BACKLOG_BYTES: usize = 256 * 1024;
/// The same where others wait for what is on its way.
const AWAITED_BYTES: usize = 8 << 20;
/// How long a client may take nothing while they do.
const STALL: Duration = Duration::from_secs(2);
/// How long a request may wait whose client hung up, before it is dropped: it would be written over what is newer.
const ABANDONED: Duration = Duration::from_secs(2);
/// How often requests without an answer are looked for.
const SWEEP: Duration = Duration::from_secs(1);

thread_local! {
    static FORWARDED: (Counter, Counter) = (forwarded("in"), forwarded("out"));
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What a relay needs of the world beside its two sockets.
pub(super) trait Beyond<S>: Send {
    /// A connection to this side in the client's name, with what was read from it and not looked at. The future gives up
    /// by itself in the end.
    fn reach(&mut self, side: Side, luggage: Luggage) -> BoxFuture<'static, Result<(S, BytesMut), String>>;

    /// What this is a connection to, on this side, is known to be down while others serve.
    fn is_left(&self, side: Side, server: &S) -> bool;
}

/// How a connection ended.
enum End {
    Client,
    Stopped,
    Fault(Fault),
    Io(io::Error),
    /// No server takes the session.
    Stranded(String),
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

type Reaching<S> = BoxFuture<'static, Result<(S, BytesMut), String>>;

/// A client, its server, and what is between them.
pub(super) struct Relay<C, S, B> {
    client: C,
    server: Option<S>,
    session: Session,
    beyond: B,
    from_client: BytesMut,
    from_server: BytesMut,
    reaching: Option<(Side, Reaching<S>)>,
    ahead: Ahead<S>,
    sweep: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: bool,
    /// It sends no more.
    client_ended: bool,
    /// And something of it waits: how long that may go on.
    lingering: Option<Pin<Box<Sleep>>>,
    /// Nor does it hear anything.
    client_gone: bool,
    /// What was written and not flushed yet: TLS keeps some.
    unflushed: (bool, bool),
    stall: Stall,
}

/// Whether the client takes what is there for it.
#[derive(Default)]
struct Stall {
    /// It took something since the last look.
    took: bool,
    /// It has taken nothing since then.
    since: Option<Instant>,
    /// That is too long for those who wait: the server is read all the same.
    is_too_long: bool,
}

impl Stall {
    /// `is_full`: there is no room for more to it.
    fn look(&mut self, now: Instant, is_full: bool, is_awaited: impl FnOnce() -> bool) {
        let goes_on = std::mem::take(&mut self.took) || !is_full;
        self.since = if goes_on { None } else { self.since.or(Some(now)) };
        let is_long = self.since.is_some_and(|since| now.saturating_duration_since(since) >= STALL);
        self.is_too_long = is_long && is_awaited();
    }
}

impl<C, S, B> Relay<C, S, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Beyond<S>,
{
    /// Two connections that have begun, with what was read from each and not looked at.
    pub(super) fn new(
        client: (C, BytesMut),
        server: (S, BytesMut),
        session: Session,
        beyond: B,
        stop: CancellationToken,
    ) -> Relay<C, S, B> {
        Relay {
            ahead: Ahead::new(session.destination()),
            client: client.0,
            server: Some(server.0),
            session,
            beyond,
            from_client: client.1,
            from_server: server.1,
            reaching: None,
            sweep: Box::pin(sleep(SWEEP)),
            stop: Box::pin(stop.cancelled_owned()),
            stopping: false,
            client_ended: false,
            lingering: None,
            client_gone: false,
            unflushed: (false, false),
            stall: Stall::default(),
        }
    }

    /// Until one of them leaves, or tandem stops and what was read by then is answered.
    pub(super) async fn run(mut self) {
        match poll_fn(|cx| self.poll(cx)).await {
            End::Stopped => {
                self.server = None;
                return Box::pin(see_off(&mut self.client)).await;
            }
            End::Client => {}
            End::Fault(fault) => tracing::info!(%fault, "a client's connection ends"),
            End::Io(error) => tracing::debug!(%error, "a client's connection broke"),
            End::Stranded(why) => tracing::warn!(why, "a client's connection ends: no server takes it"),
        }
        // What was to be said is said, if the client takes it at once.
        poll_fn(|cx| {
            self.write_client(cx);
            Poll::Ready(())
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.step(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Do all that can be done now.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.stopping = self.stopping || self.stop.as_mut().poll(cx).is_ready();
        self.look_ahead(cx);
        loop {
            let mut moved = match self.session.poll(cx) {
                Poll::Ready(done) => done.map(|()| true)?,
                Poll::Pending => false,
            };
            moved |= self.reach(cx)?;
            moved |= self.read_server(cx)?;
            moved |= self.read_client(cx)?;
            let before = self.full();
            self.write_server(cx);
            self.write_client(cx);
            // Who was not read for want of room will not wake us either.
            let after = self.full();
            moved |= (before.0 && !after.0) || (before.1 && !after.1);
            moved |= self.linger(moved, cx);
            // When all is done: what was sent just now has to be woken for too.
            if !moved && !self.look_for_overdue(cx) {
                break;
            }
        }
        // What the server does for a client that has left it does all the same: who waits for that waits on.
        if self.client_ended && self.lingering.is_none() && self.session.is_answered() {
            return Err(End::Client);
        }
        if self.stopping && self.session.is_idle() && self.session.to_client.is_empty() {
            return Err(End::Stopped);
        }
        self.session.to_client.rest();
        self.session.to_server.rest();
        Ok(())
    }

    /// What waits of a client that sends no more goes on if it may soon, and else never. `true`: it is dropped.
    fn linger(&mut self, moved: bool, cx: &mut Context<'_>) -> bool {
        if moved || !self.client_ended || !self.session.is_waiting() {
            self.lingering = None;
            return false;
        }
        let lingering = self.lingering.get_or_insert_with(|| Box::pin(sleep(ABANDONED)));
        if lingering.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.lingering = None;
        self.drop_waiting();
        true
    }

    /// Whether it was time to look.
    fn look_for_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let mut looked = false;
        while self.session.waits_for_server() && self.sweep.as_mut().poll(cx).is_ready() {
            looked = true;
            let now = Instant::now();
            let side = self.session.side();
            let is_left = self.server.as_ref().is_some_and(|server| self.beyond.is_left(side, server));
            if self.session.sweep(now, is_left) {
                self.lose_server();
            }
            let is_full = self.full().0;
            self.stall.look(now, is_full, || self.session.holds_others_up());
            self.sweep.as_mut().reset(now + SWEEP);
        }
        looked
    }

    /// While a switch is prepared.
    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        let (session, beyond) = (&self.session, &mut self.beyond);
        self.ahead.poll(cx, session.side(), |side| {
            let luggage = session.luggage();
            (luggage.clone(), beyond.reach(side, luggage))
        });
    }

    fn lose_server(&mut self) {
        self.server = None;
        self.from_server.clear();
        self.session.lose_server();
    }

    /// Go where the session must be.
    fn reach(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.reaching.is_none()
            && let Some(side) = self.session.moves_to()
            && !self.session.waits_for_server()
        {
            let luggage = self.session.luggage();
            self.reaching = Some((
                side,
                match self.ahead.take(side, &luggage, cx) {
                    Some(made) => Box::pin(std::future::ready(Ok(made))),
                    None => self.beyond.reach(side, luggage),
                },
            ));
        }
        let Some((side, reaching)) = &mut self.reaching else { return Ok(false) };
        let Poll::Ready(reached) = reaching.as_mut().poll(cx) else { return Ok(false) };
        let side = *side;
        self.reaching = None;
        if self.session.moves_to() != Some(side) {
            // The gate turned again meanwhile: the server that is there goes on.
            self.session.watch_gate();
            return Ok(true);
        }
        let (server, unread) = reached.map_err(End::Stranded)?;
        self.server = Some(server);
        self.from_server = unread;
        self.session.arrive(side);
        self.session.server_sent(&mut self.from_server)?;
        Ok(true)
    }

    /// Whether there is no room for more to the client, and to the server.
    fn full(&self) -> (bool, bool) {
        (self.session.to_client.len() >= BACKLOG_BYTES, self.session.to_server.len() >= BACKLOG_BYTES)
    }

    fn read_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.full().0 && !(self.stall.is_too_long && self.session.holds_others_up()) {
            return Ok(false);
        }
        if self.session.to_client.len() >= AWAITED_BYTES {
            tracing::warn!("a client is hung up on: it takes no answers while others wait for its requests to end");
            self.lose_client();
            return Ok(true);
        }
        let Some(server) = &mut self.server else { return Ok(false) };
        match fill(server, &mut self.from_server, cx, |input| self.session.server_sent(input)) {
            Ok(Some(0)) => {
                self.lose_server();
                Ok(true)
            }
            Ok(Some(read)) => {
                FORWARDED.with(|(_, out)| out.increment(read as u64));
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(End::Io(error)) => {
                tracing::debug!(%error, "a server's connection broke");
                self.lose_server();
                Ok(true)
            }
            Err(end) => Err(end),
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let before = self.from_client.len();
        // What waited may go on; and a client that waits is hardly read, nor is any at the end: it would never come.
        if !self.session.is_halted() {
            self.session.client_sent(&mut self.from_client)?;
        }
        let moved = self.from_client.len() < before;
        let is_full = self.full() != (false, false);
        let is_ahead = self.session.is_halted();
        if is_ahead && !self.reads_ahead() || is_full || self.client_ended || self.stopping {
            return Ok(moved);
        }
        match fill(&mut self.client, &mut self.from_client, cx, |input| self.session.client_sent(input)) {
            Ok(Some(0)) => {
                self.client_ended = true;
                Ok(true)
            }
            Ok(Some(read)) => {
                FORWARDED.with(|(inward, _)| inward.increment(read as u64));
                Ok(true)
            }
            Ok(None) => Ok(moved),
            Err(End::Io(error)) => {
                tracing::debug!(%error, "a client's connection broke");
                self.lose_client();
                Ok(true)
            }
            Err(end) => Err(end),
        }
    }

    /// Whether there is room for another read of a client that waits, behind the frame that does.
    fn reads_ahead(&self) -> bool {
        self.from_client.len() < self.session.first_bytes(&self.from_client) + READ_BYTES
    }

    fn write_server(&mut self, cx: &mut Context<'_>) {
        let Some(server) = &mut self.server else { return };
        if let Err(error) = drain(server, self.session.to_server.ready(), &mut self.unflushed.1, cx) {
            tracing::debug!(%error, "a server's connection broke");
            self.lose_server();
            cx.waker().wake_by_ref();
        }
    }

    fn write_client(&mut self, cx: &mut Context<'_>) {
        let out = self.session.to_client.ready();
        if self.client_gone {
            return out.clear();
        }
        let before = out.len();
        match drain(&mut self.client, out, &mut self.unflushed.0, cx) {
            Ok(()) => self.stall.took |= out.len() < before,
            Err(error) => {
                tracing::debug!(%error, "a client's connection broke");
                self.lose_client();
                cx.waker().wake_by_ref();
            }
        }
    }

    /// What it asked for and was not sent is not sent any more.
    fn lose_client(&mut self) {
        (self.client_ended, self.client_gone) = (true, true);
        self.drop_waiting();
        self.session.to_client.ready().clear();
    }

    fn drop_waiting(&mut self) {
        self.from_client.clear();
        self.session.client_left();
    }
}

fn forwarded(direction: &'static str) -> Counter {
    metrics::FORWARDED_BYTES_TOTAL.counter(&[("wire", "cql"), ("direction", direction)])
}

/// One read, and what the session makes of it. `None`: there is nothing to read now; 0: the end.
fn fill<R: AsyncRead + Unpin>(
    peer: &mut R,
    kept: &mut BytesMut,
    cx: &mut Context<'_>,
    mut take: impl FnMut(&mut &[u8]) -> Result<(), Fault>,
) -> Result<Option<usize>, End> {
    READ.with_borrow_mut(|room| {
        let mut buffer = ReadBuf::new(room);
        match Pin::new(peer).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(None),
            Poll::Ready(read) => read?,
        }
        let read = buffer.filled();
        if read.is_empty() {
            return Ok(Some(0));
        }
        if kept.is_empty() {
            let mut input = read;
            take(&mut input)?;
            *kept = if input.is_empty() { BytesMut::new() } else { BytesMut::from(input) };
        } else {
            kept.extend_from_slice(read);
            let mut input = &kept[..];
            take(&mut input)?;
            let taken = kept.len() - input.len();
            kept.advance(taken);
            if kept.is_empty() {
                *kept = BytesMut::new();
            }
        }
        Ok(Some(read.len()))
    })
}

/// Write what the peer takes now.
fn drain<W: AsyncWrite + Unpin>(
    peer: &mut W,
    bytes: &mut BytesMut,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    let taken = offer(peer, bytes, unflushed, cx)?;
    bytes.advance(taken);
    Ok(())
}

#[cfg(test)]
mod tests;
