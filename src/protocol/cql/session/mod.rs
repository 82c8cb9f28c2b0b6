//! One client: what it asks, what the server answers, and what the journal must know of it. No I/O.
//!
//! A relay feeds bytes from both sides in ([`Session::client_sent`], [`Session::server_sent`]) and sends what comes out.
//! Frames go through as the bytes they came in, unless something in them has to change ([`capture`]).
//!
//! **When a request may go on.** In this order: its stream id is free; no `USE` is on its way, which goes alone; the gate is
//! open and the server behind it is ours; if it writes, its statement's table is known, its turn among conditional
//! statements has come, the coordinator's clock has passed the stamps of its partition, its tables are announced, and its
//! record is written. What is not so at once is a [`Halt`]: the client's next frames wait behind this one, the server's
//! answers do not, so that a flip which waits for answers is never waited for.
//!
//! **When an answer may go on.** A write's waits until its record is durable, which the journal did while the server
//! worked. Answers overtake each other freely: the protocol allows it.

mod acknowledgements;
mod allowed;
mod answers;
pub(in crate::protocol::cql) mod assigned;
mod barriers;
mod capture;
mod contests;
mod decision;
mod flights;
pub(in crate::protocol::cql) mod framing;
pub(in crate::protocol::cql) mod known;
pub(in crate::protocol::cql) mod policy;
mod reach;
mod replies;
mod requests;
pub(in crate::protocol::cql) mod shared;
mod turns;
mod writes;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::cutover::gate::{Pass, Slot};
use crate::journal::{self, Announcer, Ticket};
use crate::mirror::unwritten::Unwritten;
use crate::protocol::cql::outcome::Kind;
use crate::protocol::cql::relay::ahead::Destination;
use crate::protocol::cql::shadow::Watched;
use crate::protocol::cql::startup::{ANONYMOUS, Luggage};
use crate::protocol::cql::wire::frame::From as Sender;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::{Error, HeaderError};
use crate::record::Side;

use acknowledgements::{Synced, Unacked};
use allowed::{Allowed, Untried};
use barriers::Alone;
pub use barriers::Barriers;
pub(in crate::protocol::cql) use barriers::Writes;
pub(in crate::protocol::cql) use capture::random;
use contests::Contest;
use decision::Decision;
use flights::Flights;
use framing::{Framing, Inbound, Next, Outbound};
use known::{Known, Recent};
use reach::Reach;
use shared::{Shared, Turn};
use turns::Turns;

/// Of statements of our own that nobody waits for.
const QUIET: Consistency = Consistency::LocalQuorum;
/// Requests of one client that may be on their way; the protocol's own limit is that of its ids.
const FLIGHTS_MAX: usize = 32_768;
/// How long a request may wait for a node that is known to be down. Others may be wrong about it: what it answers, it answers.
const LEFT_PATIENCE: Duration = Duration::from_secs(2);

/// What an answer means.
pub(in crate::protocol::cql) enum What {
    /// Nothing to us.
    Plain,
    /// A statement was prepared.
    Prepare(Arc<Known>),
    /// The session's keyspace may change.
    Use,
    /// The client may hear of events from now on: this is what it asked for.
    Register(Box<Bytes>),
    /// A write was executed or refused.
    Write(Box<Writing>),
    /// So was one that nobody mirrors.
    Unmirrored,
    /// A read that is repeated on the other side.
    Read(Box<Watched>),
}

/// A write on its way.
pub(in crate::protocol::cql) struct Writing {
    ticket: Option<Ticket>,
    kind: Kind,
    consistency: Consistency,
    /// Where it goes, if Paxos decides it.
    conditional: Option<Reach>,
    contest: Option<Contest>,
    decision: Option<Decision>,
    /// Something of it goes by state.
    by_state: bool,
    turns: Turns,
    tables: Vec<Writes>,
    /// To which of them nobody saw the client write.
    untried: Untried,
    alone: Option<Alone>,
    /// The schema is another one afterwards.
    is_barrier: bool,
    /// What it writes to, if the journal did not take it.
    _unwritten: Option<Unwritten>,
}

impl Writing {
    fn is_awaited(&self) -> bool {
        self.alone.is_some() || self.turns.are_awaited() || self.tables.iter().any(Writes::are_awaited)
    }
}

/// Why the client's next frame waits.
pub(in crate::protocol::cql) enum Halt {
    /// For an answer with the same stream id, or for any: too many are on their way.
    Answer,
    /// For this to be done.
    Until(BoxFuture<'static, Came>),
    /// For the other side: the gate opened on another primary.
    Move(Side),
    /// For nothing: the client is gone.
    Left,
}

/// What a wait brought.
pub(in crate::protocol::cql) enum Came {
    /// The gate is open.
    Pass(Pass),
    /// It is this statement's turn on a partition.
    Turn(Turn),
    /// No write to its table is under way, and none begins.
    Alone(Alone),
    /// The schema was looked at.
    Schema,
    /// Clocks went on for so long.
    Clock(Duration),
    /// The journal stays full.
    NoRoom,
    /// Nothing but that it is over.
    Over,
}

/// What the frame that is next already has.
#[derive(Default)]
struct Has {
    pass: Option<Pass>,
    turns: Vec<Turn>,
    alone: Option<Alone>,
    schema: bool,
    /// For how long clocks were waited for.
    clock: Duration,
    no_room: bool,
}

/// The session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::protocol::cql) enum Fault {
    /// The client sent what cannot be read; it was told.
    #[error("the client: {0}")]
    Client(HeaderError),
    /// The server sent what cannot be read.
    #[error("the server: {0}")]
    Server(HeaderError),
    /// An answer of our own cannot be written.
    #[error("an answer cannot be written: {0}")]
    Own(Error),
    /// The journal failed, and this client's write was forwarded: it must not be acknowledged.
    #[error("{0}")]
    Journal(#[from] journal::Error),
}

/// One client and its server.
pub(in crate::protocol::cql) struct Session {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    number: u32,
    framing: Framing,
    /// Where the client reached us.
    address: SocketAddr,
    /// Who it is, and where.
    client: (Arc<str>, Option<IpAddr>),
    /// Where it was seen to write.
    allowed: Allowed,
    side: Side,
    /// The connection to the server was lost, and there is no other yet.
    is_homeless: bool,
    keyspace: Option<Arc<str>>,
    /// A `USE` is on its way: what names without a keyspace mean is known when it is answered.
    is_using: bool,
    registered: Option<Bytes>,
    /// For who waits for events: the primary is another one.
    turned: Option<BoxFuture<'static, ()>>,
    flights: Flights,
    recent: Recent,
    /// When the client's frames that are looked at were read.
    now: Instant,
    announcer: Announcer,
    /// By position: durable is a prefix, so the first is the one to wait for.
    unacked: BTreeMap<journal::Lsn, Unacked>,
    /// Answers that wait for the schema to be looked at.
    late: Vec<(BoxFuture<'static, ()>, BytesMut)>,
    synced: Vec<Synced>,
    halt: Option<Halt>,
    has: Has,
    client_in: Inbound,
    server_in: Inbound,
    pub(super) to_client: Outbound,
    pub(super) to_server: Outbound,
}

impl Session {
    /// A client that was let in where it reached us, by the connection to `side`.
    pub(in crate::protocol::cql) fn new(
        shared: Arc<Shared>,
        framing: Framing,
        side: Side,
        address: SocketAddr,
    ) -> Session {
        let limit = shared.frame_bytes_max;
        let inbound = |from| {
            let mut inbound = Inbound::bare(from, limit);
            inbound.agree(framing);
            inbound
        };
        let outbound = || {
            let mut outbound = Outbound::bare();
            outbound.agree(framing);
            outbound
        };
        Session {
            slot: Arc::new(shared.gate.slot()),
            number: shared.number(),
            framing,
            address,
            client: (Arc::default(), None),
            allowed: Allowed::default(),
            side,
            is_homeless: false,
            keyspace: None,
            is_using: false,
            registered: None,
            turned: None,
            flights: Flights::new(),
            recent: Recent::default(),
            now: Instant::now(),
            announcer: Announcer::default(),
            unacked: BTreeMap::new(),
            late: Vec::new(),
            synced: Vec::new(),
            halt: None,
            has: Has::default(),
            client_in: inbound(Sender::Client),
            server_in: inbound(Sender::Server),
            to_client: outbound(),
            to_server: outbound(),
            shared,
        }
    }

    /// The client has this name, if it said one, and comes from there.
    pub(in crate::protocol::cql) fn of(self, user: Option<&str>, from: IpAddr) -> Session {
        Session { client: (Arc::from(user.unwrap_or(ANONYMOUS)), Some(from)), ..self }
    }

    /// Take what the client sent, as far as it may go on now.
    pub(super) fn client_sent(&mut self, input: &mut (impl Buf + AsRef<[u8]>)) -> Result<(), Fault> {
        if self.halt.is_some() {
            return Ok(());
        }
        // Once for all of them: it costs as much as what is done for one.
        self.now = Instant::now();
        loop {
            let refused = match self.offered(input) {
                Err(Fault::Client(refused)) => refused,
                other => return other,
            };
            // As a server does: what is refused whole does not end the connection.
            let skipped = self.client_in.skip(input, refused.size);
            self.refuse(&refused, skipped);
            if skipped.is_none() {
                return Err(Fault::Client(refused));
            }
        }
    }

    fn offered(&mut self, input: &mut (impl Buf + AsRef<[u8]>)) -> Result<(), Fault> {
        let limit = self.shared.frame_bytes_max;
        let mut reader = std::mem::replace(&mut self.client_in, Inbound::bare(Sender::Client, limit));
        let offered = reader.offer(input, |frame| {
            let next = self.request(frame)?;
            if next == Next::More {
                self.has = Has::default();
            }
            Ok(next)
        });
        self.client_in = reader;
        self.flights.leave();
        offered.map(|_| ())
    }

    /// Take what the server sent.
    pub(super) fn server_sent(&mut self, input: &mut (impl Buf + AsRef<[u8]>)) -> Result<(), Fault> {
        let limit = self.shared.frame_bytes_max;
        let mut reader = std::mem::replace(&mut self.server_in, Inbound::bare(Sender::Server, limit));
        let offered = reader.offer(input, |frame| self.answer(frame));
        self.server_in = reader;
        self.flights.leave();
        self.answered();
        match offered {
            Ok(_) => Ok(()),
            Err(Fault::Client(refused)) => Err(Fault::Server(refused)),
            Err(fault) => Err(fault),
        }
    }

    /// Wait for what is waited for. Ready: the client's frames can be offered again, or answers are there to be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut moved = self.poll_late(cx);
        moved |= self.poll_unacked(cx)?;
        moved |= self.poll_synced(cx);
        if let Some(turned) = &mut self.turned
            && turned.as_mut().poll(cx).is_ready()
        {
            self.turned = None;
            moved = true;
        }
        if let Some(Halt::Until(waiting)) = &mut self.halt
            && let Poll::Ready(came) = waiting.as_mut().poll(cx)
        {
            self.halt = None;
            moved = true;
            match came {
                Came::Pass(pass) => self.has.pass = Some(pass),
                Came::Turn(turn) => self.has.turns.push(turn),
                Came::Alone(alone) => self.has.alone = Some(alone),
                Came::Schema => self.has.schema = true,
                Came::Clock(waited) => self.has.clock += waited,
                Came::NoRoom => self.has.no_room = true,
                Came::Over => {}
            }
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Whoever waited for an answer looks again.
    fn answered(&mut self) {
        if matches!(self.halt, Some(Halt::Answer)) {
            self.halt = None;
        }
    }

    /// Whether more of the client is wanted.
    pub(super) fn is_halted(&self) -> bool {
        self.halt.is_some()
    }

    /// Something of the client's waits.
    pub(super) fn is_waiting(&self) -> bool {
        !matches!(self.halt, None | Some(Halt::Left))
    }

    /// The client is gone. What waits is not sent any more, and holds nobody up.
    pub(super) fn client_left(&mut self) {
        self.halt = Some(Halt::Left);
        self.has = Has::default();
    }

    /// How long the frame is that is first in what the client sent, if it is all there.
    pub(super) fn first_bytes(&self, kept: &[u8]) -> usize {
        self.client_in.first_bytes(kept)
    }

    /// The side that this session must go to before it can go on.
    pub(super) fn moves_to(&self) -> Option<Side> {
        match self.halt {
            Some(Halt::Move(side)) => Some(side),
            // It waits for events, and may ask nothing for long.
            _ if self.registered.is_some() => {
                let primary = self.shared.gate.route().primary;
                (self.is_homeless || primary != self.side).then_some(primary)
            }
            _ => None,
        }
    }

    /// Nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.is_answered() && self.halt.is_none()
    }

    /// Whatever was sent is answered, and the answers wait for nothing.
    pub(super) fn is_answered(&self) -> bool {
        self.flights.is_empty() && self.unacked.is_empty() && self.late.is_empty() && self.synced.is_empty()
    }

    /// Requests are on their way.
    pub(super) fn waits_for_server(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Others wait for what the server does for this client: a flip, the next conditional write of a partition, a barrier, or
    /// writes behind one.
    pub(super) fn holds_others_up(&self) -> bool {
        let is_awaited = |what: &What| matches!(what, What::Write(writing) if writing.is_awaited());
        !self.flights.is_empty() && self.slot.is_closed() || self.flights.any(is_awaited)
    }

    /// Answer what the server did not answer in time. True: the server is given up; one that is known to be down, while others
    /// serve, as soon as something waits for it in vain.
    pub(super) fn sweep(&mut self, now: Instant, is_left: bool) -> bool {
        let waits_since = |patience| now.checked_sub(patience).is_some_and(|before| self.flights.any_before(before));
        if is_left && waits_since(LEFT_PATIENCE.min(self.shared.answer_timeout)) {
            return true;
        }
        let Some(before) = now.checked_sub(self.shared.answer_timeout) else { return false };
        // Where it is may never be known again.
        let mut is_lost = false;
        // Nor does a server that takes nothing ever make room for what the client asks next.
        let is_stuck = !self.to_server.is_empty();
        for flight in self.flights.overdue(before) {
            is_lost |= is_stuck || matches!(flight.what, What::Use);
            self.answer_for_server(flight);
        }
        self.flights.leave();
        is_lost || self.flights.is_hopeless()
    }

    /// The connection to the server is lost: whatever was on its way is answered as unknown.
    pub(super) fn lose_server(&mut self) {
        for flight in self.flights.lost() {
            self.answer_for_server(flight);
        }
        self.flights.leave();
        (self.is_homeless, self.is_using) = (true, false);
        self.to_server = Outbound::bare();
        self.to_server.agree(self.framing);
    }

    /// The session has another server, which knows who it is and where.
    pub(super) fn arrive(&mut self, side: Side) {
        if side != self.side {
            self.allowed.forget();
        }
        (self.side, self.is_homeless) = (side, false);
        self.watch_gate();
        if matches!(self.halt, Some(Halt::Move(_))) {
            self.halt = None;
        }
        let limit = self.shared.frame_bytes_max;
        self.server_in = Inbound::bare(Sender::Server, limit);
        self.server_in.agree(self.framing);
        self.to_server = Outbound::bare();
        self.to_server.agree(self.framing);
    }

    /// Who waits for events is to follow a switch also if it asks for nothing.
    pub(super) fn watch_gate(&mut self) {
        let (gate, side) = (self.shared.gate.clone(), self.side);
        let turned = || -> BoxFuture<'static, ()> { Box::pin(async move { gate.turned_from(side).await }) };
        self.turned = self.registered.is_some().then(turned);
    }

    /// Where it is.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Where all of them are to have a connection to.
    pub(super) fn destination(&self) -> &Destination {
        &self.shared.destination
    }

    /// What a new server must be told: the keyspace, and the events that the client wants.
    pub(super) fn luggage(&self) -> Luggage {
        Luggage { keyspace: self.keyspace.clone(), registered: self.registered.clone() }
    }
}

impl From<HeaderError> for Fault {
    fn from(refused: HeaderError) -> Fault {
        Fault::Client(refused)
    }
}

#[cfg(test)]
pub(super) mod tests;
