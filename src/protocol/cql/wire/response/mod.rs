//! What servers answer: views of every response, and what a proxy answers in their place.
//!
//! Like those of requests, the views borrow, may be changed, and put themselves again, also for another version: then
//! errors and types become what a server would say in it. Source: native_protocol_v5.spec section 4.2 and 8.

mod error;
mod event;
mod result;

use bytes::BytesMut;

pub use error::{
    ErrorKind, Failure, FailureReasons, Failures, ServerError, WriteType, code, put_refusal, put_refusal_in,
};
pub use event::{Event, SchemaChange, SchemaObject};
pub use result::{
    Cells, Metadata, Outcome, OwnPrepared, PkIndexes, Prepared, Row, Rows, put_metadata, put_prepared, put_rows,
};

use super::Error;
use super::frame::{Envelope, Opcode, Version};
use super::primitive::{Reader, StringMultimap, put_bytes, put_short, put_string, put_string_list};
use super::request::Token;

/// Any response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Response<'a> {
    /// The request failed.
    Error(ServerError<'a>),
    /// The connection may be used.
    Ready,
    /// The class of the server's authenticator.
    Authenticate(&'a str),
    /// Options and their values.
    Supported(StringMultimap<'a>),
    /// The request succeeded.
    Result(Outcome<'a>),
    /// Something happened.
    Event(Event<'a>),
    /// Another step of authentication.
    AuthChallenge(Token<'a>),
    /// The credentials are good.
    AuthSuccess(Token<'a>),
}

impl<'a> Response<'a> {
    /// Read the whole of it, except rows, which are checked as they are iterated.
    pub fn parse(envelope: &Envelope<'a>) -> Result<Response<'a>, Error> {
        let (version, message) = (envelope.header.version, envelope.message);
        let mut reader = Reader::new(message);
        match envelope.header.opcode {
            Opcode::Error => ServerError::parse(version, message).map(Response::Error),
            Opcode::Ready => Ok(Response::Ready),
            Opcode::Authenticate => reader.string("authenticator").map(Response::Authenticate),
            Opcode::Supported => reader.string_multimap("supported options").map(Response::Supported),
            Opcode::Result => Outcome::parse(version, message).map(Response::Result),
            Opcode::Event => Event::parse(message).map(Response::Event),
            Opcode::AuthChallenge => reader.bytes("token").map(|token| Response::AuthChallenge(Token(token))),
            Opcode::AuthSuccess => reader.bytes("token").map(|token| Response::AuthSuccess(Token(token))),
            request => Err(Error::Direction(false, request)),
        }
    }

    /// Which message it is.
    pub fn opcode(&self) -> Opcode {
        match self {
            Response::Error(_) => Opcode::Error,
            Response::Ready => Opcode::Ready,
            Response::Authenticate(_) => Opcode::Authenticate,
            Response::Supported(_) => Opcode::Supported,
            Response::Result(_) => Opcode::Result,
            Response::Event(_) => Opcode::Event,
            Response::AuthChallenge(_) => Opcode::AuthChallenge,
            Response::AuthSuccess(_) => Opcode::AuthSuccess,
        }
    }

    /// Append the message, without a header.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        match self {
            Response::Error(error) => error.put(out, version)?,
            Response::Ready => {}
            Response::Authenticate(class) => put_string(out, class, "authenticator")?,
            Response::Supported(options) => options.put(out),
            Response::Result(outcome) => outcome.put(out, version)?,
            Response::Event(event) => event.put(out, version)?,
            Response::AuthChallenge(Token(token)) | Response::AuthSuccess(Token(token)) => {
                put_bytes(out, *token, "token")?;
            }
        }
        Ok(())
    }

    /// Append it as a frame.
    pub fn put_frame(&self, out: &mut BytesMut, version: Version, stream: i16) -> Result<(), Error> {
        Envelope::new(version, stream, self.opcode()).put(out, |out| self.put(out, version))
    }
}

/// Append a SUPPORTED message of our own.
pub fn put_supported(out: &mut BytesMut, options: &[(&str, &[&str])]) -> Result<(), Error> {
    put_short(out, options.len(), "supported options")?;
    options.iter().try_for_each(|(name, values)| {
        put_string(out, name, "supported option")?;
        put_string_list(out, values.iter().copied(), "supported option")
    })
}

#[cfg(test)]
mod tests;
