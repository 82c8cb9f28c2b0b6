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

mod allowed;
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
pub(in crate::protocol::cql) mod shared;
mod turns;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::cutover::gate::{Pass, Route, Slot};
use crate::journal::{self, Announcer, Journal, Ticket};
use crate::metrics;
use crate::mirror::unwritten::Unwritten;
use crate::protocol::cql::outcome::{self, Kind, Outcome};
use crate::protocol::cql::relay::ahead::Destination;
use crate::protocol::cql::shadow::{Candidate, Watched};
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::startup::{ANONYMOUS, Luggage};
use crate::protocol::cql::text::statement::{Body, Class};
use crate::protocol::cql::topology::question::Asked;
use crate::protocol::cql::topology::{Moment, Question, events};
use crate::protocol::cql::wire::frame::{self, Frame, From as Sender};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::{self, Request, StatementText, Values};
use crate::protocol::cql::wire::response::{self, ErrorKind, Response, ServerError, WriteType};
use crate::protocol::cql::wire::{Envelope, Error, Header, HeaderError, Opcode, Version};
use crate::record::{Backend, RecordBuf, Side, TableId};

use allowed::{Allowed, Untried};
use barriers::{Alone, Writes};
pub(in crate::protocol::cql) use capture::random;
use capture::{Captured, Ground, Piece, Refused};
use contests::Contest;
use decision::{Decision, Guards, Reading};
use flights::{Flight, Flights};
use framing::{Framing, Inbound, Next, Outbound, with_scratch};
use known::{Habit, Known, Recent};
use reach::Reach;
use shared::{Applied, Shared, Turn};
use turns::Turns;

/// Of statements of our own that nobody waits for.
const QUIET: Consistency = Consistency::LocalQuorum;
/// Requests of one client that may be on their way; the protocol's own limit is that of its ids.
const FLIGHTS_MAX: usize = 32_768;
/// How long a request may wait for a node that is known to be down. Others may be wrong about it: what it answers, it answers.
const LEFT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a conditional statement waits for clocks at most: beyond that they are wrong, and the statement is decided as it
/// would be without tandem.
const CLOCK_WAIT: Duration = Duration::from_secs(1);
/// Clocks are looked at again while they are waited for: somebody may set them.
const CLOCK_LOOK: Duration = Duration::from_millis(100);
/// How long a client waits for a journal that is full: a disk that is a moment behind a burst of large writes catches up.
const FULL_WAIT: Duration = Duration::from_secs(1);

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

/// What an answer of the server that cannot be forwarded yet waits for.
struct Unacked {
    ticket: Ticket,
    /// It was conditional: this is written down before its record ends.
    reading: Option<Reading>,
    answer: BytesMut,
    asked: Answers,
}

/// What an answer answers.
#[derive(Clone, Copy)]
struct Answers {
    stream: i16,
    kind: Kind,
    consistency: Consistency,
    is_barrier: bool,
}

/// What an answer that waits for the secondary waits for.
struct Synced {
    applied: Applied,
    answer: BytesMut,
    asked: Answers,
}

/// What the journal has of a write; nothing where it is not mirrored.
#[derive(Default)]
struct Noted {
    ticket: Option<Ticket>,
    /// The journal did not take it.
    unwritten: Option<Unwritten>,
}

/// Places among the writes to its tables, and among the conditional ones; its record.
type WrittenDown = (Vec<Writes>, Option<Contest>, Noted);

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

    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.late.len();
        let mut at = 0;
        while at < self.late.len() {
            if self.late[at].0.as_mut().poll(cx).is_ready() {
                let (_, answer) = self.late.swap_remove(at);
                self.to_client.push(&answer);
            } else {
                at += 1;
            }
        }
        self.late.len() < before
    }

    fn poll_unacked(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let mut moved = false;
        while let Some(mut first) = self.unacked.first_entry() {
            match first.get_mut().ticket.poll_durable(cx) {
                Poll::Pending => break,
                Poll::Ready(durable) => {
                    let _durable: journal::Durable = durable?;
                    let Unacked { ticket, reading, answer, asked } = first.remove();
                    match self.committed(ticket, reading) {
                        None => self.to_client.push(&answer),
                        Some(applied) => self.synced.push(Synced { applied, answer, asked }),
                    }
                    moved = true;
                }
            }
        }
        Ok(moved)
    }

    /// It happened. What its answer waits for, if it waits.
    fn committed(&self, ticket: Ticket, reading: Option<Reading>) -> Option<Applied> {
        let sync = self.shared.sync.as_ref();
        if let Some(reading) = reading {
            let told = reading.finish(&self.shared, ticket);
            let ended = |_| "tandem ends".to_owned();
            return sync.map(|sync| sync.bounded(async move { told.await.map_err(ended)?.applied().await }));
        }
        let wait = sync.map(|sync| sync.bounded(sync.waits.wait(ticket.lsn()).applied()));
        ticket.end(journal::Outcome::Committed);
        wait
    }

    fn poll_synced(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let mut at = 0;
        while at < self.synced.len() {
            let Poll::Ready(applied) = self.synced[at].applied.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            let Synced { answer, asked, .. } = self.synced.swap_remove(at);
            match applied {
                Ok(()) => self.to_client.push(&answer),
                Err(why) => self.tell_unsynced(asked, &why),
            }
            moved = true;
        }
        moved
    }

    /// The primary has it, the secondary has not.
    fn tell_unsynced(&mut self, asked: Answers, why: &str) {
        let side = self.side.other();
        metrics::UNSYNCED_TOTAL.counter(&[("side", side.as_str())]).increment(1);
        let text =
            format!("tandem: the {side} does not have this write yet, the {} has; it stays recorded: {why}", self.side);
        let kind = match asked.kind {
            _ if asked.is_barrier => ErrorKind::Server,
            // Its log is written; drivers repeat it if it is said not to be.
            Kind::Logged => timed_out_as(WriteType::Batch, asked.consistency, self.framing.version),
            kind => timed_out(kind, asked.consistency, self.framing.version),
        };
        self.tell(asked.stream, &Response::Error(ServerError::new(kind, &text)));
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
        for flight in self.flights.overdue(before) {
            is_lost |= matches!(flight.what, What::Use);
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

    // ---- requests

    fn request(&mut self, frame: Frame<'_>) -> Result<Next, Fault> {
        let header = frame.header;
        if header.version != self.framing.version {
            self.refuse_version(header);
            return Ok(Next::More);
        }
        if self.is_using || self.flights.is_used(header.stream) || self.flights.len() >= FLIGHTS_MAX {
            return Ok(self.wait(Halt::Answer));
        }
        if let Some(habit) = self.forwarded(frame) {
            let what = match habit {
                Habit::Reads => self.watched(frame.header, frame.body(), || self.executed(frame)),
                Habit::Writes => What::Unmirrored,
                Habit::Passes => What::Plain,
            };
            self.send(frame.bytes, header, None, what);
            return Ok(Next::More);
        }
        let Some(pass) = self.has.pass.take().or_else(|| self.slot.try_enter()) else {
            let slot = self.slot.clone();
            let entering = async move { Came::Pass(slot.enter().await) };
            return Ok(self.wait(Halt::Until(Box::pin(entering))));
        };
        let route = pass.route();
        if route.primary != self.side || self.is_homeless {
            return Ok(self.wait(Halt::Move(route.primary)));
        }
        let wanted = matches!(
            header.opcode,
            Opcode::Query | Opcode::Prepare | Opcode::Execute | Opcode::Batch | Opcode::Register
        );
        // What cannot be decompressed crashes some servers: they do not get to see it.
        let wanted = wanted || frame.is_compressed();
        if header.opcode == Opcode::Options {
            let mut out = BytesMut::new();
            let envelope = Envelope::new(header.version, header.stream, Opcode::Supported);
            if envelope.put(&mut out, |out| self.shared.identity.supported.put(out, header.version)).is_ok() {
                self.to_client.push(&out);
                return Ok(Next::More);
            }
        }
        if !wanted {
            self.depart(frame.bytes, header, pass, What::Plain);
            return Ok(Next::More);
        }
        let taken = self.inflated(frame, |session, header, body| {
            let understood = Envelope::open(header, body).and_then(|envelope| {
                let request = Request::parse(&envelope)?;
                Ok((envelope, request))
            });
            match understood {
                Ok((envelope, request)) => session.understood(frame, pass, &envelope, &request),
                // The server says what it thinks of it.
                Err(_) => {
                    session.depart(frame.bytes, frame.header, pass, What::Plain);
                    Ok(Next::More)
                }
            }
        });
        match taken {
            // As a server: it has not learned of the stream yet.
            Err(Fault::Client(garbled)) => {
                let text = garbled.error.to_string();
                self.tell(0, &Response::Error(ServerError::new(ErrorKind::Server, &text)));
                Ok(Next::More)
            }
            taken => taken,
        }
    }

    /// Whether it is what most requests are, the EXECUTE of a statement that nobody here has to look at, and may go on: then it
    /// goes as it is, on the pass of all such requests.
    fn forwarded(&mut self, frame: Frame<'_>) -> Option<Habit> {
        let is_bare = frame.header.flags & frame::flag::PAYLOAD == 0 && !frame.is_compressed();
        if frame.header.opcode != Opcode::Execute || !is_bare || self.has.pass.is_some() || self.is_homeless {
            return None;
        }
        let habit = request::prepared_id(frame.body()).ok().and_then(|id| self.habit(id))?;
        let route = self.flights.enter(&self.slot)?;
        let is_free = route.primary == self.side && !(habit == Habit::Writes && self.mirrors(route));
        is_free.then_some(habit)
    }

    /// What is done with executions of a prepared statement. `None`: there is more to it than that.
    fn habit(&mut self, id: &[u8]) -> Option<Habit> {
        self.recent.find(id).or_else(|| {
            let habit = self.shared.statements.prepared(id)?.habit()?;
            self.recent.keep(id, habit);
            Some(habit)
        })
    }

    /// The statement that an EXECUTE names.
    fn executed(&self, frame: Frame<'_>) -> Option<Arc<Known>> {
        self.shared.statements.prepared(request::prepared_id(frame.body()).ok()?)
    }

    /// What the answer to a read means: chance, the operator and the room there is may have it repeated. `known` is asked only
    /// for one that is chosen.
    fn watched(&self, header: Header, message: &[u8], known: impl FnOnce() -> Option<Arc<Known>>) -> What {
        let asked = Candidate { opcode: header.opcode, version: header.version, message };
        let client = (&*self.client.0, self.client.1);
        self.shared.watch.choose(client, known, asked).map_or(What::Plain, |chosen| What::Read(Box::new(chosen)))
    }

    /// Work on the body of a frame, decompressed, with the header that it then has.
    fn inflated<T>(
        &mut self,
        frame: Frame<'_>,
        work: impl FnOnce(&mut Session, Header, &[u8]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Framing { version, compression } = self.framing;
        let limit = self.shared.frame_bytes_max;
        let stream = frame.header.stream;
        // Servers do not heed the flag where no compression was agreed.
        let Some(compression) = compression else { return work(self, frame.header, frame.body()) };
        with_scratch(|scratch| {
            let opened = scratch.open(frame, Some(compression), limit);
            let (header, body) = opened
                .map_err(|error| Fault::Client(HeaderError { error, version: version as u8, stream, size: None }))?;
            work(self, header, body)
        })
    }

    fn understood(
        &mut self,
        frame: Frame<'_>,
        pass: Pass,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
    ) -> Result<Next, Fault> {
        match request {
            Request::Register(kinds) if events::forwarded(kinds).is_empty() => {
                self.tell(frame.header.stream, &Response::Ready);
            }
            Request::Register(_) => {
                let asked = Box::new(Bytes::copy_from_slice(envelope.message));
                self.depart(frame.bytes, frame.header, pass, What::Register(asked));
            }
            Request::Prepare(prepare) => {
                let known = self.known(prepare.text, prepare.keyspace);
                if let Some(question) = &known.question {
                    let mut out = BytesMut::new();
                    question.put_prepared(&mut out, self.framing.version, frame.header.stream).map_err(Fault::Own)?;
                    self.to_client.push(&out);
                    self.shared.statements.keep(question.id(), known.clone());
                    return Ok(Next::More);
                }
                self.depart(frame.bytes, frame.header, pass, What::Prepare(known));
            }
            Request::Query(query) => {
                let known = self.known(query.text, query.parameters.keyspace);
                let values = query.parameters.values.unwrap_or(Values::Given(&[]));
                return self.statements(frame, pass, envelope, request, &[Piece { known, values, is_prepared: false }]);
            }
            Request::Execute(execute) => {
                let Some(known) = self.shared.statements.prepared(execute.id) else {
                    self.unprepared(frame.header.stream, execute.id);
                    return Ok(Next::More);
                };
                let values = execute.parameters.values.unwrap_or(Values::Given(&[]));
                return self.statements(frame, pass, envelope, request, &[Piece { known, values, is_prepared: true }]);
            }
            Request::Batch(batch) => {
                // There are only writes in a batch: if nobody mirrors them, nobody need know more of them.
                if !self.mirrors(pass.route()) && batch.statements.iter().all(|statement| self.knows(statement.text)) {
                    self.depart(frame.bytes, frame.header, pass, What::Unmirrored);
                    return Ok(Next::More);
                }
                let mut pieces = Vec::with_capacity(batch.statements.len());
                for statement in batch.statements.iter() {
                    let (known, is_prepared) = match statement.text {
                        StatementText::Text(text) => (self.known(text, batch.parameters.keyspace), false),
                        StatementText::Prepared(id) => match self.shared.statements.prepared(id) {
                            Some(known) => (known, true),
                            None => {
                                self.unprepared(frame.header.stream, id);
                                return Ok(Next::More);
                            }
                        },
                    };
                    pieces.push(Piece { known, values: statement.values, is_prepared });
                }
                return self.statements(frame, pass, envelope, request, &pieces);
            }
            _ => self.depart(frame.bytes, frame.header, pass, What::Plain),
        }
        Ok(Next::More)
    }

    /// The statement of a text, with the keyspace that the request names, or else the session's.
    fn known(&self, text: &[u8], keyspace: Option<&str>) -> Arc<Known> {
        self.shared.statements.text(text, keyspace.or(self.keyspace.as_deref()))
    }

    /// What the server prepared, it prepared for us too.
    fn knows(&self, text: StatementText<'_>) -> bool {
        match text {
            StatementText::Text(_) => true,
            StatementText::Prepared(id) => self.shared.statements.prepared(id).is_some(),
        }
    }

    fn mirrors(&self, route: Route) -> bool {
        route.mirror && self.shared.journal.is_some()
    }

    fn statements(
        &mut self,
        frame: Frame<'_>,
        pass: Pass,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
        pieces: &[Piece<'_>],
    ) -> Result<Next, Fault> {
        if let [Piece { known, .. }] = pieces
            && let Some(question) = &known.question
            // In a batch it is a read where there can be none: the server's to refuse.
            && !matches!(request, Request::Batch(_))
        {
            if question.is_about_agreement() && !self.has.schema {
                self.has.pass = Some(pass);
                return Ok(self.look_at_schema());
            }
            self.say(frame.header.stream, question, request)?;
            return Ok(Next::More);
        }
        if let [Piece { known, .. }] = pieces {
            match known.statement.body {
                Body::DescribeCluster => {
                    self.describe(frame.header.stream)?;
                    return Ok(Next::More);
                }
                Body::Access(access) => {
                    tracing::info!(statement = ?access, side = %self.side, "roles and grants are not mirrored");
                }
                _ if known.is_of_servers() => {
                    let class = known.class;
                    tracing::info!(?class, side = %self.side, "what is done to the servers' own keyspaces is not mirrored");
                }
                _ => {}
            }
        }
        let classes = || pieces.iter().map(|piece| piece.known.class);
        if classes().any(|class| class == Class::Use) {
            return Ok(self.use_keyspace(frame, pass));
        }
        let is_of_servers = matches!(pieces, [piece] if piece.known.is_of_servers());
        if !classes().any(Class::writes) || is_of_servers || !self.mirrors(pass.route()) {
            let what = match pieces {
                _ if classes().any(|class| class.writes() || class == Class::Access) => What::Unmirrored,
                [Piece { known, .. }] if known.habit() == Some(Habit::Reads) => {
                    self.watched(envelope.header, envelope.message, || Some(known.clone()))
                }
                _ => What::Plain,
            };
            self.depart(frame.bytes, frame.header, pass, what);
            return Ok(Next::More);
        }
        if let [Piece { known, .. }] = pieces
            && let Some(setting) = self.shared.policy.refuses(known.class)
        {
            self.refuse_by(setting, frame.header.stream);
            return Ok(Next::More);
        }
        let side = self.shared.side(self.side);
        let tables = side.tables();
        let ground = Ground {
            tables: &tables,
            stamps: &self.shared.stamps,
            timeuuids: &self.shared.timeuuids,
            dialect: side.dialect(),
            contests: &self.shared.contests,
            allowed: side.asks_who().then_some(&self.allowed),
            is_fresh: self.has.schema,
        };
        match ground.capture(envelope, request, pieces) {
            Ok(mut captured) => {
                if let [Piece { known, .. }] = pieces {
                    self.shared.policy.note(known.class, &mut captured.record);
                }
                if let Some(setting) = self.shared.policy.refuses_uncaptured(&captured.record) {
                    self.refuse_by(setting, frame.header.stream);
                    return Ok(Next::More);
                }
                self.write(frame, pass, captured, consistency(request))
            }
            Err(Refused::Stranger) => {
                self.has.pass = Some(pass);
                Ok(self.look_at_schema())
            }
            Err(Refused::Wire(error)) => {
                let refused = ServerError::new(ErrorKind::Invalid, "tandem cannot put this request together again");
                tracing::warn!(%error, "a request was refused");
                self.tell(frame.header.stream, &Response::Error(refused));
                self.has = Has::default();
                Ok(Next::More)
            }
        }
    }

    /// Alone on its way: a server executes what comes in any order, and what was sent before it or is sent behind it would be
    /// written down for one keyspace and executed in the other.
    fn use_keyspace(&mut self, frame: Frame<'_>, pass: Pass) -> Next {
        if !self.flights.is_empty() {
            self.has.pass = Some(pass);
            return self.wait(Halt::Answer);
        }
        self.is_using = true;
        self.depart(frame.bytes, frame.header, pass, What::Use);
        Next::More
    }

    /// Configuration says so.
    fn refuse_by(&mut self, setting: &str, stream: i16) {
        let text = format!("tandem: {setting} = \"refuse\": this statement is not to run while a mirror is on");
        self.tell(stream, &Response::Error(ServerError::new(ErrorKind::Invalid, &text)));
        self.has = Has::default();
    }

    /// Wait until the nodes have one schema, and it was looked at; or until that takes too long.
    fn look_at_schema(&mut self) -> Next {
        let looking = self.shared.side(self.side).refresh();
        self.wait(Halt::Until(Box::pin(async move {
            looking.await;
            Came::Schema
        })))
    }

    fn describe(&mut self, stream: i16) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        let (to, owned) = ((self.framing.version, stream), self.keyspace.is_some());
        self.shared.identity.put_description(&mut out, to, self.address, owned).map_err(Fault::Own)?;
        self.to_client.push(&out);
        Ok(())
    }

    /// What is asked about the cluster is answered here.
    fn say(&mut self, stream: i16, question: &Question, request: &Request<'_>) -> Result<(), Fault> {
        let (parameters, asked) = match request {
            Request::Query(query) => (&query.parameters, Asked::AsText),
            Request::Execute(execute) => (&execute.parameters, Asked::Prepared(execute.result_metadata_id)),
            _ => return Ok(()),
        };
        let versions = [self.shared.side(self.side).tables().version];
        let moment = Moment { address: self.address, schema_versions: &versions, others: &[] };
        let rows = self.shared.identity.rows(question.table(), &moment);
        let mut out = BytesMut::new();
        let to = (self.framing.version, stream);
        question.put_answer(&mut out, to, asked, parameters, &rows).map_err(Fault::Own)?;
        self.to_client.push(&out);
        Ok(())
    }

    /// All that a write needs, then the write.
    fn write(
        &mut self,
        frame: Frame<'_>,
        pass: Pass,
        mut captured: Captured,
        consistency: Consistency,
    ) -> Result<Next, Fault> {
        let (tables, contest, Noted { ticket, unwritten: _unwritten }) = match self.written_down(&mut captured) {
            Ok(written) => written,
            Err(halt) => {
                self.has.pass = Some(pass);
                return Ok(self.wait(halt));
            }
        };
        let Captured { kind, instead, conditional, decision, untried, is_barrier, .. } = captured;
        let Has { turns, alone, .. } = std::mem::take(&mut self.has);
        let begun = |reach: &Reach| Turns::begin(turns, reach.own().collect(), self.shared.before(self.side));
        let turns = conditional.as_ref().map(begun).unwrap_or_default();
        let writing = Writing {
            ticket,
            kind,
            consistency,
            conditional,
            contest,
            decision,
            turns,
            tables,
            untried,
            alone,
            is_barrier,
            _unwritten,
        };
        let bytes = instead.as_deref().unwrap_or(frame.bytes);
        self.depart(bytes, frame.header, pass, What::Write(Box::new(writing)));
        Ok(Next::More)
    }

    /// Its places among the writes to its tables, and its record, or what it has to wait for first.
    fn written_down(&mut self, captured: &mut Captured) -> Result<WrittenDown, Halt> {
        if let Some(reach) = &captured.conditional
            && let Some(halt) = self.conditional(reach)
        {
            return Err(halt);
        }
        let tables = self.tables(captured)?;
        // Before its record is.
        let contest = captured.conditional.as_ref().map(|reach| self.shared.contests.begin(reach.shown()));
        match self.begin(captured) {
            Ok(noted) => Ok((tables, contest, noted)),
            Err(halt) => {
                contest.into_iter().for_each(Contest::absent);
                Err(halt)
            }
        }
    }

    /// What a conditional statement still has to wait for. One whose partition cannot be told waits for the newest stamp of
    /// all.
    fn conditional(&mut self, reach: &Reach) -> Option<Halt> {
        let places = self.shared.places(reach.own());
        while let Some(place) = places.get(self.has.turns.len()) {
            let place = self.shared.turn(*place);
            match place.clone().try_lock_owned() {
                Ok(turn) => self.has.turns.push(turn),
                Err(_) => return Some(Halt::Until(Box::pin(async { Came::Turn(place.lock_owned().await) }))),
            }
        }
        let stamps = &self.shared.stamps;
        let newest = match reach.is_told() {
            true => reach.heeded().map(|hash| stamps.newest(hash)).max().unwrap_or_default(),
            false => stamps.last(),
        };
        // This side knows nothing of them.
        let ballots = reach.heeded().map(|hash| stamps.floor(self.side.other(), hash)).max().unwrap_or_default();
        let newest = newest.max(ballots);
        // A ballot is cut to milliseconds.
        let ahead = newest + self.shared.side(self.side).behind() - now_micros() + 1_001;
        if newest == 0 || ahead <= 0 {
            return None;
        }
        let left = CLOCK_WAIT.saturating_sub(self.has.clock);
        if left.is_zero() {
            metrics::CLOCKS_BEHIND_TOTAL.counter(&[]).increment(1);
            return None;
        }
        let pause = Duration::from_micros(ahead.unsigned_abs()).min(left).min(CLOCK_LOOK);
        let until = Instant::now() + pause;
        Some(Halt::Until(Box::pin(async move {
            tokio::time::sleep_until(until).await;
            Came::Clock(pause)
        })))
    }

    /// A place among the writes to its tables; a barrier must be alone on its own.
    fn tables(&self, captured: &Captured) -> Result<Vec<Writes>, Halt> {
        let mut named = captured.record.tables().filter(|table| *table != TableId::NONE);
        if captured.is_barrier {
            return match named.next().filter(|_| self.has.alone.is_none()) {
                None => Ok(Vec::new()),
                Some(table) => {
                    let barrier = self.shared.barriers.of(table);
                    Err(Halt::Until(Box::pin(async { Came::Alone(barrier.alone().await) })))
                }
            };
        }
        let enter = |table| {
            let barrier = self.shared.barriers.of(table);
            barrier.write().ok_or_else(|| {
                Halt::Until(Box::pin(async {
                    barrier.opened().await;
                    Came::Over
                }))
            })
        };
        named.map(enter).collect()
    }

    /// Write it down. Without room the tables are dirty instead: no client waits for the mirror.
    fn begin(&mut self, captured: &mut Captured) -> Result<Noted, Halt> {
        let Some(journal) = self.shared.journal.as_ref().filter(|_| !captured.record.is_empty()) else {
            return Ok(Noted::default());
        };
        if let Some(pending) = self.announcer.announce(journal, captured.record.tables().map(|table| table.0)) {
            let journal = journal.clone();
            return Err(Halt::Until(Box::pin(async move {
                // A journal that failed says so when the record is begun.
                let _ = journal.announced(pending).await;
                Came::Over
            })));
        }
        match journal.begin(captured.record.finish(Backend { id: self.number, life: 0 })) {
            Ok(ticket) if self.shared.contests.overtook(&captured.seen) => {
                ticket.end(journal::Outcome::Aborted);
                Err(Halt::Until(Box::pin(std::future::ready(Came::Over))))
            }
            Ok(ticket) => {
                self.shared.full.store(false, Ordering::Relaxed);
                Ok(Noted { ticket: Some(ticket), ..Noted::default() })
            }
            Err(journal::Error::Full) if self.waits_for_room() => Err(self.room(journal.clone(), &captured.record)),
            Err(error) => {
                metrics::JOURNAL_REFUSED_TOTAL.counter(&[("wire", "cql")]).increment(1);
                if matches!(error, journal::Error::TooLarge(_)) {
                    if let Some(left_out) = self.shared.too_large.say() {
                        tracing::error!(%error, left_out, "a write is not mirrored: its tables are dirty");
                    }
                } else if !self.shared.full.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the journal takes nothing: tables that are written to become dirty");
                }
                let unwritten = Unwritten::to(captured.record.tables(), &self.shared.lost);
                Ok(Noted { ticket: None, unwritten: Some(unwritten) })
            }
        }
    }

    /// Is a full journal worth this client's time? One that stays full is waited for by one write, not by each.
    fn waits_for_room(&self) -> bool {
        self.shared.policy.blocks_when_full() || !self.has.no_room && !self.shared.full.load(Ordering::Relaxed)
    }

    fn room(&self, journal: Journal, record: &RecordBuf) -> Halt {
        let patience = if self.shared.policy.blocks_when_full() { Duration::MAX } else { FULL_WAIT };
        let bytes = record.bytes();
        Halt::Until(Box::pin(async move {
            // One that broke says so when the record is begun.
            let waited = tokio::time::timeout(patience, journal.room(bytes)).await;
            waited.map_or(Came::NoRoom, |_| Came::Over)
        }))
    }

    fn depart(&mut self, bytes: &[u8], header: Header, pass: Pass, what: What) {
        self.send(bytes, header, Some(pass), what);
    }

    fn send(&mut self, bytes: &[u8], header: Header, pass: Option<Pass>, what: What) {
        let flight = Flight { client: header.stream, pass, since: self.now, what };
        let id = self.flights.depart(flight);
        if id == header.stream {
            self.to_server.push(bytes);
        } else {
            let mut renamed = BytesMut::from(bytes);
            frame::restamp(&mut renamed, id);
            self.to_server.push(&renamed);
        }
    }

    fn wait(&mut self, halt: Halt) -> Next {
        self.halt = Some(halt);
        Next::Again
    }

    // ---- answers

    fn answer(&mut self, frame: Frame<'_>) -> Result<Next, Fault> {
        let header = frame.header;
        if header.stream < 0 && header.opcode == Opcode::Event {
            self.event(frame)?;
            return Ok(Next::More);
        }
        let Some(flight) = self.flights.arrive(header.stream) else {
            tracing::debug!(stream = header.stream, "a late answer was dropped: its request was answered before");
            return Ok(Next::More);
        };
        let mut renamed = BytesMut::new();
        let bytes = if flight.client == header.stream {
            frame.bytes
        } else {
            renamed.extend_from_slice(frame.bytes);
            frame::restamp(&mut renamed, flight.client);
            &renamed[..]
        };
        match flight.what {
            What::Plain | What::Unmirrored => self.to_client.push(bytes),
            What::Read(watched) => {
                self.to_client.push(bytes);
                watched.answered(frame.bytes, self.framing.compression);
            }
            What::Write(writing) => {
                self.written(*writing, (flight.client, flight.pass), frame, bytes)?;
            }
            What::Prepare(known) => {
                self.look(frame, |session, response| {
                    if let Response::Result(response::Outcome::Prepared(prepared)) = response {
                        session.shared.statements.keep(prepared.id, known);
                    }
                })?;
                self.to_client.push(bytes);
            }
            What::Register(asked) => {
                self.look(frame, |session, response| {
                    // What one server refuses is asked of no other.
                    if matches!(response, Response::Ready) {
                        session.registered = Some(*asked);
                        session.watch_gate();
                    }
                })?;
                self.to_client.push(bytes);
            }
            What::Use => {
                self.is_using = false;
                self.look(frame, |session, response| {
                    if let Response::Result(response::Outcome::SetKeyspace(keyspace)) = response {
                        session.keyspace = Some(Arc::from(*keyspace));
                    }
                })?;
                self.to_client.push(bytes);
            }
        }
        Ok(Next::More)
    }

    /// Read an answer; what cannot be read is the client's to judge.
    fn look(&mut self, frame: Frame<'_>, see: impl FnOnce(&mut Session, &Response<'_>)) -> Result<(), Fault> {
        self.inflated(frame, |session, header, body| {
            if let Ok(response) = Envelope::open(header, body).and_then(|envelope| Response::parse(&envelope)) {
                see(session, &response);
            }
            Ok(())
        })
    }

    fn event(&mut self, frame: Frame<'_>) -> Result<(), Fault> {
        self.inflated(frame, |session, _, message| {
            if events::passes(message).unwrap_or(true) {
                session.to_client.push(frame.bytes);
            }
            Ok(())
        })
    }

    fn written(
        &mut self,
        mut writing: Writing,
        (stream, pass): (i16, Option<Pass>),
        frame: Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        // What cannot be read says nothing.
        let (mut found, mut refused) = (Outcome::Unknown, false);
        let version = self.framing.version;
        self.look(frame, |_, response| {
            refused = matches!(response, Response::Error(_));
            found = judge(&writing, version, response);
        })?;
        if found == Outcome::Committed {
            self.allowed.wrote(std::mem::take(&mut writing.untried));
        }
        // The ballot was the coordinator's clock at most.
        let until = || now_micros() + self.shared.side(self.side).ahead();
        for hash in writing.conditional.iter().flat_map(Reach::shown) {
            self.shared.stamps.raise(self.side, hash, until());
        }
        match found {
            Outcome::Absent if refused => writing.turns.refused(),
            Outcome::Absent => writing.turns.absent(until()),
            Outcome::Committed => writing.turns.applied(until()),
            Outcome::Unknown => {}
        }
        match (writing.contest.take(), found) {
            (Some(contest), Outcome::Absent) => contest.absent(),
            (Some(contest), Outcome::Committed) => contest.applied(until()),
            (Some(_), Outcome::Unknown) | (None, _) => {}
        }
        let Writing { kind, consistency, is_barrier, .. } = writing;
        let asked = Answers { stream, kind, consistency, is_barrier };
        match (writing.ticket, found) {
            (None, _) => self.to_client.push(bytes),
            (Some(ticket), Outcome::Absent) => {
                ticket.end(journal::Outcome::Aborted);
                self.to_client.push(bytes);
            }
            // In doubt: whoever applies it settles it.
            (Some(_), Outcome::Unknown) => self.to_client.push(bytes),
            (Some(ticket), Outcome::Committed) if writing.is_barrier => {
                let (refreshed, answer) = (self.shared.side(self.side).refresh(), BytesMut::from(bytes));
                match self.committed(ticket, None) {
                    None => self.late.push((refreshed, answer)),
                    Some(applied) => {
                        let applied = Box::pin(async move { tokio::join!(refreshed, applied).1 });
                        self.synced.push(Synced { applied, answer, asked });
                    }
                }
            }
            (Some(ticket), Outcome::Committed) => {
                let guards = Guards { _pass: pass, turns: writing.turns, _tables: writing.tables };
                let read = |decision: Decision| decision.read(&self.shared, self.side, self.number, (refused, guards));
                let reading = writing.decision.map(read);
                let answer = BytesMut::from(bytes);
                self.unacked.insert(ticket.lsn(), Unacked { ticket, reading, answer, asked });
            }
        }
        Ok(())
    }

    /// The server did not answer, and will not be heard any more.
    fn answer_for_server(&mut self, flight: Flight) {
        self.answered();
        let text = "tandem: the server did not answer";
        let kind = match &flight.what {
            What::Write(writing) => timed_out(writing.kind, writing.consistency, self.framing.version),
            // Nobody looked at what it writes: it may be there in part.
            What::Unmirrored => timed_out(Kind::Spread, QUIET, self.framing.version),
            _ => ErrorKind::ReadTimeout { consistency: QUIET, received: 0, block_for: 1, data_present: false },
        };
        self.tell(flight.client, &Response::Error(ServerError::new(kind, text)));
        if let What::Read(watched) = flight.what {
            watched.lost();
        }
    }

    fn unprepared(&mut self, stream: i16, id: &[u8]) {
        let text = "tandem does not know this prepared statement: prepare it again";
        self.tell(stream, &Response::Error(ServerError::new(ErrorKind::Unprepared { id }, text)));
    }

    /// An answer of our own.
    fn tell(&mut self, stream: i16, response: &Response<'_>) {
        let mut out = BytesMut::new();
        match response.put_frame(&mut out, self.framing.version, stream) {
            Ok(()) => self.to_client.push(&out),
            Err(error) => tracing::error!(%error, "an answer could not be written"),
        }
    }

    /// Answer a header as servers do. `stream`: its own, if that is known.
    fn refuse(&mut self, refused: &HeaderError, stream: Option<i16>) {
        let mut refused = refused.clone();
        let mut text = refused.error.to_string();
        if let Error::Version(number) = refused.error {
            text = self.shared.identity.supported.refusal(number);
            if refused.version >= Version::V3 as u8 {
                refused.version = self.framing.version as u8;
            }
        }
        // Below v5 a server has not read the stream when it looks at the version.
        if self.framing.version >= Version::V5 {
            refused.stream = stream.unwrap_or(refused.stream);
        }
        let mut out = BytesMut::new();
        if response::put_refusal_in(&mut out, &refused, &text).is_ok() {
            self.to_client.push(&out);
        }
    }

    /// A version that exists, but not on this connection.
    fn refuse_version(&mut self, header: Header) {
        let (got, had) = (header.version, self.framing.version);
        let text = format!(
            "Invalid message version. Got {}/{got} but previous messages on this connection had version {}/{had}",
            got as u8, had as u8
        );
        self.tell(header.stream, &Response::Error(ServerError::new(ErrorKind::Protocol, &text)));
    }
}

impl From<HeaderError> for Fault {
    fn from(refused: HeaderError) -> Fault {
        Fault::Client(refused)
    }
}

fn consistency(request: &Request<'_>) -> Consistency {
    match request {
        Request::Query(request::Query { parameters, .. }) | Request::Execute(request::Execute { parameters, .. }) => {
            parameters.consistency
        }
        Request::Batch(batch) => batch.parameters.consistency,
        _ => QUIET,
    }
}

/// What a write says that is not known to be everywhere: nothing that drivers would try again elsewhere.
fn timed_out(kind: Kind, consistency: Consistency, version: Version) -> ErrorKind<'static> {
    let write_type = match kind {
        Kind::Single => WriteType::Simple,
        Kind::Logged => WriteType::BatchLog,
        Kind::Spread => WriteType::UnloggedBatch,
        Kind::Counter | Kind::Counters => WriteType::Counter,
        Kind::Conditional => WriteType::Cas,
    };
    timed_out_as(write_type, consistency, version)
}

fn timed_out_as(write_type: WriteType<'static>, consistency: Consistency, version: Version) -> ErrorKind<'static> {
    let contentions = (write_type == WriteType::Cas && version >= Version::V5).then_some(0);
    ErrorKind::WriteTimeout { consistency, received: 0, block_for: 1, write_type, contentions }
}

/// What an answer says of a write.
fn judge(writing: &Writing, version: Version, response: &Response<'_>) -> Outcome {
    match response {
        Response::Error(error) => outcome::outcome(writing.kind, version, Some(&error.kind)),
        Response::Result(response::Outcome::Rows(rows)) if writing.conditional.is_some() => {
            // `[applied]` is the first column, whatever else comes with a refusal.
            let applied = rows.iter().next().and_then(|row| row.ok()?.iter().next().flatten().map(|cell| cell == [1]));
            if applied == Some(false) { Outcome::Absent } else { Outcome::Committed }
        }
        _ => Outcome::Committed,
    }
}

#[cfg(test)]
pub(super) mod tests;
