//! What the server answers: forwarded as it came, once it is clear what it says of the request, and of a write above all.

use std::sync::Arc;

use bytes::BytesMut;

use crate::cutover::gate::Pass;
use crate::journal;
use crate::protocol::cql::outcome::{self, Outcome};
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::topology::events;
use crate::protocol::cql::wire::frame::{self, Frame};
use crate::protocol::cql::wire::response::{self, Response};
use crate::protocol::cql::wire::{Envelope, Opcode, Version};

use super::acknowledgements::{Answers, Synced, Unacked};
use super::decision::{Decision, Guards};
use super::framing::Next;
use super::reach::Reach;
use super::{Fault, Session, What, Writing};

impl Session {
    #[inline]
    pub(super) fn answer(&mut self, frame: Frame<'_>) -> Result<Next, Fault> {
        if self.flights.arrive_bare(frame.header.stream) {
            self.to_client.push(frame.bytes);
            return Ok(Next::More);
        }
        self.looked_at(frame)
    }

    /// More than its bytes may count.
    fn looked_at(&mut self, frame: Frame<'_>) -> Result<Next, Fault> {
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
            // It will be there, and a read may not show it yet: who settles it in doubt looks later and harder, and by Paxos first.
            (Some(_), Outcome::Committed) if refused && writing.by_state && writing.decision.is_none() => {
                self.to_client.push(bytes);
            }
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
