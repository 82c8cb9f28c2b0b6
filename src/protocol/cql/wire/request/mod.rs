//! What clients ask: views of every request, in every version.
//!
//! A view borrows from the frame. Its fields may be changed and the view put again, in the same or another version, as
//! a frame of its own: so a proxy sets a default timestamp, a keyspace, another prepared id or other values. Who only
//! wants the text or the prepared id asks [`text`] or [`prepared_id`], which read nothing else.
//!
//! Source: native_protocol_v5.spec section 4.1. Like servers, what follows the last field is ignored.

mod batch;
mod parameters;

use bytes::{BufMut, BytesMut};

pub use batch::{Batch, BatchKind, Statement, StatementText, Statements, put_batch};
pub use parameters::{Bound, Parameters, Values};

use super::Error;
use super::frame::{Envelope, Opcode, Version};
use super::primitive::{
    Reader, StringList, StringMap, put_bytes, put_long_string, put_short, put_short_bytes, put_string,
};

/// Of PREPARE since v5: a keyspace follows.
const WITH_KEYSPACE: i32 = 0x01;

/// The statement of a QUERY or PREPARE, and nothing else of it.
#[inline]
pub fn text(message: &[u8]) -> Result<&[u8], Error> {
    Reader::new(message).long_string("query")
}

/// The prepared id of an EXECUTE, and nothing else of it.
#[inline]
pub fn prepared_id(message: &[u8]) -> Result<&[u8], Error> {
    Reader::new(message).short_bytes("prepared id")
}

/// Any request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Request<'a> {
    /// Options that the client chose.
    Startup(StringMap<'a>),
    /// What options are there?
    Options,
    /// A statement as text.
    Query(Query<'a>),
    /// A statement to prepare.
    Prepare(Prepare<'a>),
    /// A prepared statement.
    Execute(Execute<'a>),
    /// Several.
    Batch(Batch<'a>),
    /// Kinds of events.
    Register(StringList<'a>),
    /// Credentials.
    AuthResponse(Token<'a>),
}

/// Bytes of an authenticator: never shown (promise 13).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a>(pub Option<&'a [u8]>);

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl<'a> Request<'a> {
    /// Read the whole of it.
    pub fn parse(envelope: &Envelope<'a>) -> Result<Request<'a>, Error> {
        let (version, message) = (envelope.header.version, envelope.message);
        let mut reader = Reader::new(message);
        match envelope.header.opcode {
            Opcode::Startup => reader.string_map("startup options").map(Request::Startup),
            Opcode::Options => Ok(Request::Options),
            Opcode::Query => Query::parse(version, message).map(Request::Query),
            Opcode::Prepare => Prepare::parse(version, message).map(Request::Prepare),
            Opcode::Execute => Execute::parse(version, message).map(Request::Execute),
            Opcode::Batch => Batch::parse(version, message).map(Request::Batch),
            Opcode::Register => reader.string_list("event types").map(Request::Register),
            Opcode::AuthResponse => reader.bytes("token").map(|token| Request::AuthResponse(Token(token))),
            response => Err(Error::Direction(true, response)),
        }
    }

    /// Which message it is.
    pub fn opcode(&self) -> Opcode {
        match self {
            Request::Startup(_) => Opcode::Startup,
            Request::Options => Opcode::Options,
            Request::Query(_) => Opcode::Query,
            Request::Prepare(_) => Opcode::Prepare,
            Request::Execute(_) => Opcode::Execute,
            Request::Batch(_) => Opcode::Batch,
            Request::Register(_) => Opcode::Register,
            Request::AuthResponse(_) => Opcode::AuthResponse,
        }
    }

    /// Append the message, without a header.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        match self {
            Request::Startup(options) => options.put(out),
            Request::Options => {}
            Request::Query(query) => query.put(out, version)?,
            Request::Prepare(prepare) => prepare.put(out, version)?,
            Request::Execute(execute) => execute.put(out, version)?,
            Request::Batch(batch) => batch.put(out, version)?,
            Request::Register(kinds) => kinds.put(out),
            Request::AuthResponse(Token(token)) => put_bytes(out, *token, "token")?,
        }
        Ok(())
    }
}

/// QUERY: a statement as text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Query<'a> {
    /// Not checked to be UTF-8.
    pub text: &'a [u8],
    /// How it is to be executed.
    pub parameters: Parameters<'a>,
}

impl<'a> Query<'a> {
    /// Read a QUERY.
    pub fn parse(version: Version, message: &'a [u8]) -> Result<Query<'a>, Error> {
        let mut reader = Reader::new(message);
        Ok(Query { text: reader.long_string("query")?, parameters: Parameters::read(&mut reader, version)? })
    }

    /// Append the message.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        put_long_string(out, self.text, "query")?;
        self.parameters.put(out, version)
    }
}

/// PREPARE: a statement to be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prepare<'a> {
    /// Not checked to be UTF-8.
    pub text: &'a [u8],
    /// Since v5: for names without one.
    pub keyspace: Option<&'a str>,
}

impl<'a> Prepare<'a> {
    /// Read a PREPARE.
    pub fn parse(version: Version, message: &'a [u8]) -> Result<Prepare<'a>, Error> {
        let mut reader = Reader::new(message);
        let text = reader.long_string("query")?;
        let flags = if version < Version::V5 { 0 } else { reader.int("prepare flags")? };
        let keyspace = (flags & WITH_KEYSPACE != 0).then(|| reader.string("keyspace")).transpose()?;
        Ok(Prepare { text, keyspace })
    }

    /// Append the message. Before v5 there is no place for a keyspace.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        put_long_string(out, self.text, "query")?;
        match self.keyspace {
            None if version < Version::V5 => {}
            None => out.put_i32(0),
            Some(_) if version < Version::V5 => return Err(Error::Inexpressible { field: "keyspace", version }),
            Some(keyspace) => {
                out.put_i32(WITH_KEYSPACE);
                put_string(out, keyspace, "keyspace")?;
            }
        }
        Ok(())
    }
}

/// EXECUTE: a prepared statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Execute<'a> {
    /// As the answer to PREPARE gave it.
    pub id: &'a [u8],
    /// Since v5: what the client thinks the result's columns are.
    pub result_metadata_id: Option<&'a [u8]>,
    /// How it is to be executed.
    pub parameters: Parameters<'a>,
}

impl<'a> Execute<'a> {
    /// Read an EXECUTE.
    pub fn parse(version: Version, message: &'a [u8]) -> Result<Execute<'a>, Error> {
        let mut reader = Reader::new(message);
        let id = reader.short_bytes("prepared id")?;
        let v5 = version >= Version::V5;
        let result_metadata_id = v5.then(|| reader.short_bytes("result metadata id")).transpose()?;
        Ok(Execute { id, result_metadata_id, parameters: Parameters::read(&mut reader, version)? })
    }

    /// Append the message. v5 needs a result metadata id, before it there is no place for one.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        put_short_bytes(out, self.id, "prepared id")?;
        if version >= Version::V5 {
            let field = "EXECUTE without a result metadata id";
            let id = self.result_metadata_id.ok_or(Error::Inexpressible { field, version })?;
            put_short_bytes(out, id, "result metadata id")?;
        }
        self.parameters.put(out, version)
    }
}

/// Append a STARTUP message of our own.
pub fn put_startup(out: &mut BytesMut, options: &[(&str, &str)]) -> Result<(), Error> {
    put_short(out, options.len(), "startup options")?;
    options.iter().try_for_each(|(name, value)| {
        put_string(out, name, "startup option")?;
        put_string(out, value, "startup option")
    })
}

#[cfg(test)]
pub(super) mod tests;
