//! Answers that are there and may not go on yet: a write's waits until its record is durable, that to a change of the schema
//! until the schema was looked at, and with `mirror.mode = "sync"` both until the secondary has it.

use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::journal::{self, Ticket};
use crate::metrics;
use crate::protocol::cql::outcome::Kind;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::response::{ErrorKind, Response, ServerError, WriteType};

use super::decision::Reading;
use super::replies::{timed_out, timed_out_as};
use super::shared::Applied;
use super::{Fault, Session};

/// What an answer of the server that cannot be forwarded yet waits for.
pub(super) struct Unacked {
    pub(super) ticket: Ticket,
    /// It was conditional: this is written down before its record ends.
    pub(super) reading: Option<Reading>,
    pub(super) answer: BytesMut,
    pub(super) asked: Answers,
}

/// What an answer answers.
#[derive(Clone, Copy)]
pub(super) struct Answers {
    pub(super) stream: i16,
    pub(super) kind: Kind,
    pub(super) consistency: Consistency,
    pub(super) is_barrier: bool,
}

/// What an answer that waits for the secondary waits for.
pub(super) struct Synced {
    pub(super) applied: Applied,
    pub(super) answer: BytesMut,
    pub(super) asked: Answers,
}

impl Session {
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
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

    pub(super) fn poll_unacked(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
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
    pub(super) fn committed(&self, ticket: Ticket, reading: Option<Reading>) -> Option<Applied> {
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

    pub(super) fn poll_synced(&mut self, cx: &mut Context<'_>) -> bool {
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
}
