//! What a client's request is, and whether it may go on: most do as they came; a write goes by [`super::writes`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::cutover::gate::{Pass, Route};
use crate::protocol::cql::shadow::Candidate;
use crate::protocol::cql::text::statement::{Body, Class};
use crate::protocol::cql::topology::events;
use crate::protocol::cql::wire::frame::{self, Frame};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::{self, Request, StatementText, Values};
use crate::protocol::cql::wire::response::{ErrorKind, Response, ServerError};
use crate::protocol::cql::wire::{Envelope, Header, HeaderError, Opcode};

use super::capture::{Ground, Piece, Refused};
use super::flights::Flight;
use super::framing::{Framing, Next, with_scratch};
use super::known::{Habit, Known};
use super::{Came, FLIGHTS_MAX, Fault, Halt, Has, QUIET, Session, What};

impl Session {
    #[inline]
    pub(super) fn request(&mut self, frame: Frame<'_>) -> Result<Next, Fault> {
        let header = &frame.header;
        if header.version != self.framing.version {
            self.refuse_version(frame.header);
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
            self.send(frame.bytes, frame.header.stream, None, what);
            return Ok(Next::More);
        }
        self.examined(frame)
    }

    /// It has to be looked at.
    fn examined(&mut self, frame: Frame<'_>) -> Result<Next, Fault> {
        let header = frame.header;
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
    pub(super) fn inflated<T>(
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
            apart: side.apart(),
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

    /// Wait until the nodes have one schema, and it was looked at; or until that takes too long.
    fn look_at_schema(&mut self) -> Next {
        let looking = self.shared.side(self.side).refresh();
        self.wait(Halt::Until(Box::pin(async move {
            looking.await;
            Came::Schema
        })))
    }

    pub(super) fn depart(&mut self, bytes: &[u8], header: Header, pass: Pass, what: What) {
        self.send(bytes, header.stream, Some(pass), what);
    }

    fn send(&mut self, bytes: &[u8], stream: i16, pass: Option<Pass>, what: What) {
        let id = self.flights.depart(Flight { client: stream, pass, since: self.now, what });
        if id == stream {
            self.to_server.push(bytes);
        } else {
            let mut renamed = BytesMut::from(bytes);
            frame::restamp(&mut renamed, id);
            self.to_server.push(&renamed);
        }
    }

    pub(super) fn wait(&mut self, halt: Halt) -> Next {
        self.halt = Some(halt);
        Next::Again
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
