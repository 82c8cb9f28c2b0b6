//! What is kept of a client's read until it is repeated: the request, the statement that it names, and the answer as it
//! came. Nothing is taken apart before the session is done with it.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::cql::client::{Answer, Error as ClientError};
use crate::protocol::cql::place::hash_of;
use crate::protocol::cql::session::known::Known;
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::wire::compress::{Compression, Scratch};
use crate::protocol::cql::wire::frame::{From, Header};
use crate::protocol::cql::wire::primitive::Value;
use crate::protocol::cql::wire::request::{Execute, Parameters, Query, Values};
use crate::protocol::cql::wire::response::{Outcome, Response, Rows, code};
use crate::protocol::cql::wire::{Envelope, Error, Frame, Opcode, Version};
use crate::shadow::Skip;

/// A read, and what the primary said.
pub struct Read {
    /// The statement.
    pub(super) known: Arc<Known>,
    /// Of the request.
    pub(super) opcode: Opcode,
    /// Of both frames.
    pub(super) version: Version,
    /// Of the answer's frame.
    pub(super) compression: Option<Compression>,
    /// The request's message.
    pub(super) asked: Bytes,
    /// The answer's frame.
    pub(super) answer: Bytes,
    /// When it was forwarded: seconds since 1970.
    pub(super) second: i32,
}

/// Now, in seconds since 1970.
pub(super) fn second() -> i32 {
    i32::try_from(now_micros() / 1_000_000).unwrap_or(i32::MAX)
}

impl Read {
    /// How it was asked for.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn parameters(&self) -> Result<Parameters<'_>, Error> {
        match self.opcode {
            Opcode::Execute => Execute::parse(self.version, &self.asked).map(|execute| execute.parameters),
            _ => Query::parse(self.version, &self.asked).map(|query| query.parameters),
        }
    }

    /// It came as the id of a prepared statement.
    pub(super) fn is_prepared(&self) -> bool {
        self.opcode == Opcode::Execute
    }

    /// A hash of the text, its values, and the page.
    pub(super) fn question(&self) -> u64 {
        let parameters = self.parameters().ok();
        let values = parameters.iter().filter_map(|asked| asked.values.as_ref()).flat_map(Values::iter);
        let bytes = values.map(|(_, value)| if let Value::Set(bytes) = value { bytes } else { &[] });
        let page = parameters.iter().filter_map(|asked| asked.paging_state);
        hash_of([&self.known.text[..]].into_iter().chain(bytes).chain(page))
    }

    /// The primary's answer, decompressed.
    ///
    /// # Errors
    /// It cannot be read, or is larger than `limit`.
    pub(super) fn opened(&self, limit: usize) -> Result<Opened, Error> {
        let whole = Frame::split(&self.answer, From::Server, limit).map_err(|refused| refused.error)?;
        let frame = whole.ok_or(Error::Short { field: "frame", need: 0, left: self.answer.len() })?;
        let mut scratch = Scratch::default();
        let (header, body) = scratch.open(frame, self.compression, limit)?;
        Ok(Opened { header, body: Bytes::copy_from_slice(body) })
    }
}

/// An answer, decompressed.
pub(super) struct Opened {
    header: Header,
    body: Bytes,
}

/// What a server said to a read.
pub(super) enum Said<'a> {
    /// Rows.
    Rows(Rows<'a>),
    /// It does not execute this statement, and why: a code that is the same each time.
    Refused(u32),
    /// It could not just now.
    Failed(u32),
    /// Something else.
    Other,
}

impl Opened {
    pub(super) fn said(&self) -> Said<'_> {
        let read = Envelope::open(self.header, &self.body).and_then(|envelope| Response::parse(&envelope));
        match read {
            Ok(Response::Error(error)) => refused(error.kind.code()),
            Ok(Response::Result(Outcome::Rows(rows))) => Said::Rows(rows),
            _ => Said::Other,
        }
    }
}

/// What our own connection brought. `Err`: the other side did not say anything about the statement.
pub(super) fn said(answer: &Result<Answer, ClientError>) -> Result<Said<'_>, Skip> {
    match answer {
        Ok(answer) => Ok(match answer.outcome() {
            Outcome::Rows(rows) => Said::Rows(rows),
            _ => Said::Other,
        }),
        Err(error) => match error.code() {
            Some(code) => Ok(refused(code)),
            None if matches!(error, ClientError::NoAnswer(_) | ClientError::Busy(_)) => Err(Skip::Timeout),
            None => Err(Skip::SecondaryFailed),
        },
    }
}

fn refused(code: u32) -> Said<'static> {
    match code {
        code::SYNTAX | code::INVALID | code::CONFIG | code::FUNCTION_FAILURE => Said::Refused(code),
        code => Said::Failed(code),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::cql::wire::primitive::{Reader, put_string_list};
    use crate::protocol::cql::wire::response::{Metadata, put_metadata, put_rows};
    use crate::protocol::cql::wire::types::{Native, Type};

    /// An answer of two rows, with all that servers put before a message.
    fn answer(version: Version, compression: Option<Compression>) -> Bytes {
        let (mut frame, mut warnings) = (BytesMut::new(), BytesMut::new());
        put_string_list(&mut warnings, ["slow"].into_iter(), "warnings").expect("short");
        let warnings = Reader::new(&warnings).string_list("warnings").expect("just put");
        let bare = Envelope::new(version, 3, Opcode::Result);
        let envelope = Envelope { tracing: Some([9; 16]), warnings: Some(warnings), ..bare };
        let mut columns = BytesMut::new();
        put_metadata(&mut columns, version, ("ks", "t"), &[("v", &Type::Native(Native::Int))]).expect("short");
        let columns = Metadata::parse(version, &columns).expect("just put");
        let rows: [&[Option<&[u8]>]; 2] = [&[Some(&[0; 4])], &[None]];
        let put = |out: &mut BytesMut| put_rows(out, version, &columns, rows);
        envelope.put(&mut frame, put).expect("short");
        let whole = Frame::split(&frame, From::Server, 1 << 20).expect("a frame").expect("all of it");
        let mut packed = BytesMut::new();
        match compression {
            Some(compression) => Scratch::default().compress(whole, compression, &mut packed),
            None => packed.extend_from_slice(whole.bytes),
        }
        packed.freeze()
    }

    #[test]
    fn answers_are_read_in_every_version_whatever_comes_before_their_rows() {
        for (version, compression) in [
            (Version::V3, None),
            (Version::V4, None),
            (Version::V4, Some(Compression::Lz4)),
            (Version::V4, Some(Compression::Snappy)),
            (Version::V5, None),
        ] {
            let read = Read {
                known: Arc::new(Known::new(Bytes::from_static(b"SELECT v FROM ks.t"), None)),
                opcode: Opcode::Query,
                version,
                compression,
                asked: Bytes::new(),
                answer: answer(version, compression),
                second: 0,
            };
            let opened = read.opened(1 << 20).expect("an answer");
            assert!(matches!(opened.said(), Said::Rows(rows) if rows.len() == 2), "{version} {compression:?}");
            assert!(read.opened(8).is_err(), "{version} {compression:?}: it is larger than may be");
            let cut = Read { answer: read.answer.slice(..read.answer.len() - 1), ..read };
            assert!(cut.opened(1 << 20).is_err());
        }
    }

    #[test]
    fn only_what_is_refused_each_time_is_an_answer() {
        for (code, is_answer) in [
            (code::SYNTAX, true),
            (code::INVALID, true),
            (code::CONFIG, true),
            (code::FUNCTION_FAILURE, true),
            (code::UNAVAILABLE, false),
            (code::OVERLOADED, false),
            (code::READ_TIMEOUT, false),
            (code::READ_FAILURE, false),
            (code::SERVER, false),
            (code::UNAUTHORIZED, false),
            (code::UNPREPARED, false),
        ] {
            assert_eq!(matches!(refused(code), Said::Refused(same) if same == code), is_answer, "{code:#06x}");
        }
    }
}
