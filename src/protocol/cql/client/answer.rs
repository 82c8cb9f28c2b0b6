//! What came back, kept as the bytes it came in and read as often as somebody wants.

use bytes::Bytes;

use crate::protocol::cql::wire::frame::{Envelope, Header};
use crate::protocol::cql::wire::primitive::StringList;
use crate::protocol::cql::wire::response::{Outcome, Row, Rows};
use crate::protocol::cql::wire::{Opcode, Version};

use super::error::{Error, Refusal};

/// A RESULT. Never shows values (promise 13).
#[derive(Clone, Debug)]
pub struct Answer {
    header: Header,
    body: Bytes,
}

impl Answer {
    /// Check it, so that reading it again cannot fail.
    pub(super) fn read(header: Header, body: Bytes, doing: &'static str) -> Result<Answer, Error> {
        let envelope = Envelope::open(header, &body)?;
        match header.opcode {
            Opcode::Result => {
                Outcome::parse(header.version, envelope.message)?;
                Ok(Answer { header, body })
            }
            Opcode::Error => {
                let refusal = Refusal::parse(header.version, body.slice_ref(envelope.message))?;
                Err(Error::Server(Box::new(refusal)))
            }
            opcode => Err(Error::Unexpected { opcode, doing }),
        }
    }

    fn envelope(&self) -> Envelope<'_> {
        Envelope::open(self.header, &self.body).expect("it was read when it came")
    }

    /// What the request gave.
    pub fn outcome(&self) -> Outcome<'_> {
        Outcome::parse(self.header.version, self.envelope().message).expect("it was read when it came")
    }

    /// What the server warns of.
    pub fn warnings(&self) -> Option<StringList<'_>> {
        self.envelope().warnings
    }

    /// The rows, if it has any.
    ///
    /// # Errors
    /// [`Error::Answer`] if it is another kind of result.
    pub fn rows(&self) -> Result<Rows<'_>, Error> {
        match self.outcome() {
            Outcome::Rows(rows) => Ok(rows),
            _ => Err(Error::Answer("rows were asked for, and none are said to be there")),
        }
    }

    /// A part of this answer's bytes, to be kept without it.
    pub(in crate::protocol::cql) fn keep(&self, part: &[u8]) -> Bytes {
        self.body.slice_ref(part)
    }

    /// The first row. `None`: there is none.
    ///
    /// # Errors
    /// As [`Answer::rows`], or its bytes are no row.
    pub fn row(&self) -> Result<Option<Row<'_>>, Error> {
        Ok(self.rows()?.iter().next().transpose()?)
    }

    /// What gives the next page; `None` on the last.
    pub fn paging_state(&self) -> Option<&[u8]> {
        match self.outcome() {
            Outcome::Rows(rows) => rows.metadata.paging_state,
            _ => None,
        }
    }

    /// The version that it is written in.
    pub fn version(&self) -> Version {
        self.header.version
    }
}
