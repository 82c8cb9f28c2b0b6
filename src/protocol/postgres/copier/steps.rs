//! What was put to the secondary and not answered yet: statements go ahead of their answers, and the first refusal is told.

use std::collections::VecDeque;

use crate::protocol::postgres::client::{self, Client, DbError, Format};
use crate::protocol::postgres::wire::{Message, back};
use crate::record::TableId;

use super::debt::Arrays;
use super::link::{Link, beside};
use super::trouble::Trouble;

/// What the secondary will answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Plain,
    Delete(TableId),
    Copy(TableId),
    /// The only one with a row.
    Count,
    Commit,
    /// ReadyForQuery.
    Ready,
}

/// The secondary may be long in taking it: the primary is told meanwhile that we are alive.
pub(super) async fn send_to_secondary(link: &mut Link) -> Result<(), Trouble> {
    let sending = link.secondary.send();
    beside(&mut link.primary, link.options.pulse(), sending).await.map_err(Trouble::Secondary)
}

/// How many statements may be on their way to the secondary with their answers unread. A short answer takes about 1 KiB
/// of a socket's buffer; were the buffer full, the server would wait for us while we wait for it.
const STEPS_AHEAD: usize = 64;

/// What was put to the secondary and not answered yet, and what the answers said so far.
#[derive(Default)]
pub(super) struct Steps {
    waiting: VecDeque<Step>,
    /// How many [`Step::Ready`] are among them.
    answers: usize,
    /// Something was put since the last Sync.
    open: bool,
    /// The first refusal: all behind it failed with it.
    first: Option<Trouble>,
    pub(super) rows: u64,
    pub(super) payments: Option<u64>,
}

impl Steps {
    /// Put a statement; [`Steps::put_sync`] follows, if not at once.
    pub(super) fn put_statement(&mut self, link: &mut Link, step: Step, sql: &str, params: &Arrays) {
        link.secondary.put_prepared(sql, &params.params(), Format::Text);
        self.waiting.push_back(step);
        self.open = true;
    }

    /// Let the statements put so far be answered.
    pub(super) fn put_sync(&mut self, link: &mut Link) {
        if std::mem::take(&mut self.open) {
            link.secondary.put_sync();
            self.ready();
        }
    }

    pub(super) fn put_query(&mut self, link: &mut Link, step: Step, sql: &str) {
        link.secondary.put_query(sql);
        self.wait_for(step);
    }

    /// A simple Query was put.
    pub(super) fn wait_for(&mut self, step: Step) {
        self.waiting.push_back(step);
        self.ready();
    }

    fn ready(&mut self) {
        self.waiting.push_back(Step::Ready);
        self.answers += 1;
    }

    /// Read answers if too many are owed; what they refuse is told by [`Steps::settle`].
    pub(super) async fn keep_near(&mut self, link: &mut Link) -> Result<(), Trouble> {
        if self.answers <= STEPS_AHEAD { Ok(()) } else { self.read_down_to(link, STEPS_AHEAD / 2).await }
    }

    /// Send what was put and read all answers.
    pub(super) async fn settle(&mut self, link: &mut Link) -> Result<(), Trouble> {
        send_to_secondary(link).await?;
        self.read_down_to(link, 0).await?;
        self.first.take().map_or(Ok(()), Err)
    }

    async fn read_down_to(&mut self, link: &mut Link, left: usize) -> Result<(), Trouble> {
        while self.answers > left {
            let answer = link.secondary.recv();
            let answer = beside(&mut link.primary, link.options.pulse(), answer).await;
            let message = match (answer, self.first.take()) {
                // Its last words say more than that it is gone.
                (Err(client::Error::Closed), Some(first)) => return Err(first),
                (answer, first) => {
                    self.first = first;
                    answer.map_err(Trouble::Secondary)?
                }
            };
            self.note(&link.secondary, &message)?;
        }
        Ok(())
    }

    fn note(&mut self, conn: &Client, message: &Message) -> Result<(), Trouble> {
        match message.kind {
            back::DATA_ROW => {
                let row = client::DataRow(message.body.clone());
                self.payments = Some(row.parse(0).map_err(Trouble::Secondary)?);
            }
            back::COMMAND_COMPLETE => self.done(conn)?,
            back::ERROR_RESPONSE => {
                let error = DbError::parse(&message.body).map_err(|error| Trouble::Secondary(error.into()))?;
                self.refused(error);
            }
            back::READY_FOR_QUERY => {
                // After an error the statements up to the Sync are skipped.
                while self.waiting.pop_front().is_some_and(|step| step != Step::Ready) {}
                self.answers -= 1;
            }
            _ => (),
        }
        Ok(())
    }

    fn done(&mut self, conn: &Client) -> Result<(), Trouble> {
        match self.waiting.pop_front_if(|step| *step != Step::Ready) {
            Some(Step::Copy(_)) => self.rows += conn.affected(),
            Some(Step::Commit) if self.first.is_none() && conn.tag() != "COMMIT" => {
                return Err(Trouble::Secondary(client::Error::Unexpected { kind: 'C', doing: "committing" }));
            }
            _ => (),
        }
        Ok(())
    }

    fn refused(&mut self, error: DbError) {
        let step = self.waiting.front().copied();
        self.first.get_or_insert_with(|| match step {
            Some(Step::Delete(id) | Step::Copy(id)) => Trouble::writing(id, error.into()),
            _ => Trouble::Secondary(error.into()),
        });
    }
}
