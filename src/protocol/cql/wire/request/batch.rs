//! BATCH: statements as text or prepared, each with its values, and parameters for all of them.

use bytes::{BufMut, BytesMut};

use super::{Parameters, Values};
use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::frame::Version;
use crate::protocol::cql::wire::primitive::{Reader, put_long_string, put_short, put_short_bytes};

/// What is promised of the statements together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BatchKind {
    /// All or none, by the batch log.
    Logged,
    /// Nothing.
    Unlogged,
    /// Of counters.
    Counter,
}

impl BatchKind {
    fn from_byte(byte: u8) -> Option<BatchKind> {
        [BatchKind::Logged, BatchKind::Unlogged, BatchKind::Counter].get(usize::from(byte)).copied()
    }
}

/// BATCH.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch<'a> {
    /// What is promised.
    pub kind: BatchKind,
    /// In their order.
    pub statements: Statements<'a>,
    /// Of all of them. Values have no meaning here, but servers read them.
    pub parameters: Parameters<'a>,
}

/// The statements of a batch, checked when they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statements<'a> {
    version: Version,
    count: u16,
    bytes: &'a [u8],
}

/// One statement of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statement<'a> {
    /// Text or prepared id.
    pub text: StatementText<'a>,
    /// By place: names do not work in batches.
    pub values: Values<'a>,
}

/// What a batch says a statement by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementText<'a> {
    /// Not checked to be UTF-8.
    Text(&'a [u8]),
    /// As the answer to PREPARE gave it.
    Prepared(&'a [u8]),
}

impl<'a> Batch<'a> {
    /// Read a BATCH.
    pub fn parse(version: Version, message: &'a [u8]) -> Result<Batch<'a>, Error> {
        let mut reader = Reader::new(message);
        let kind = reader.byte("batch type")?;
        let kind = BatchKind::from_byte(kind).ok_or(Error::BatchKind(kind))?;
        let (count, bytes) = reader.counted("batch statements", |reader| statement(reader, version).map(drop))?;
        let statements = Statements { version, count, bytes };
        Ok(Batch { kind, statements, parameters: Parameters::read(&mut reader, version)? })
    }

    /// Append the message.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        self.put_with(out, version, |_, statement| Some(statement))
    }

    /// Append the message with each statement as `edit` wants it, or without it. `edit` gets its place and the statement.
    pub fn put_with<'e>(
        &self,
        out: &mut BytesMut,
        version: Version,
        mut edit: impl FnMut(usize, Statement<'a>) -> Option<Statement<'e>>,
    ) -> Result<(), Error>
    where
        'a: 'e,
    {
        out.put_u8(self.kind as u8);
        let at = out.len();
        out.put_u16(0);
        let mut count = 0_u16; // At most as many as were read.
        for (place, statement) in self.statements.iter().enumerate() {
            let Some(statement) = edit(place, statement) else { continue };
            statement.put(out, version)?;
            count += 1;
        }
        out[at..at + size_of::<u16>()].copy_from_slice(&count.to_be_bytes());
        self.parameters.put(out, version)
    }
}

impl<'a> Statements<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Statement<'a>> + 'a {
        let (mut reader, version) = (Reader::new(self.bytes), self.version);
        (0..self.count).map_while(move |_| statement(&mut reader, version).ok())
    }
}

fn statement<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Statement<'a>, Error> {
    let text = match reader.byte("query kind in BATCH messages")? {
        0 => StatementText::Text(reader.long_string("query")?),
        1 => StatementText::Prepared(reader.short_bytes("prepared id")?),
        kind => return Err(Error::StatementKind(kind)),
    };
    Ok(Statement { text, values: Values::read(reader, version, false)? })
}

impl Statement<'_> {
    fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        match self.text {
            StatementText::Text(text) => {
                out.put_u8(0);
                put_long_string(out, text, "query")?;
            }
            StatementText::Prepared(id) => {
                out.put_u8(1);
                put_short_bytes(out, id, "prepared id")?;
            }
        }
        if self.values.named() {
            return Err(Error::Inexpressible { field: "named values of a batch", version });
        }
        self.values.put(out, version)
    }
}

/// Append the message of a batch of our own.
pub fn put_batch(
    out: &mut BytesMut,
    version: Version,
    kind: BatchKind,
    statements: &[Statement<'_>],
    parameters: &Parameters<'_>,
) -> Result<(), Error> {
    out.put_u8(kind as u8);
    put_short(out, statements.len(), "batch statements")?;
    statements.iter().try_for_each(|statement| statement.put(out, version))?;
    parameters.put(out, version)
}
