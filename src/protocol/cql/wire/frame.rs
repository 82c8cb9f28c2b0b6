//! Frames: a header of nine bytes, a body, and what the header's flags put before the message in the body.
//!
//! Source: native_protocol_v4.spec section 2, native_protocol_v5.spec section 2.4.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::primitive::{BytesMap, Reader, StringList};
use super::{Error, HeaderError};

/// Version, flags, stream id, opcode, length of the body.
pub const HEADER: usize = 9;
/// In the first byte: the frame is a response.
const RESPONSE: u8 = 0x80;
/// Where the stream id is.
pub const STREAM: Range<usize> = 2..4;
/// The stream of events.
pub const EVENT_STREAM: i16 = -1;

/// Flags of a frame's header.
pub mod flag {
    /// The body is compressed; ignored in v5.
    pub const COMPRESSED: u8 = 0x01;
    /// Trace this request; the response begins with a tracing id.
    pub const TRACING: u8 = 0x02;
    /// A custom payload is before the message, since v4.
    pub const PAYLOAD: u8 = 0x04;
    /// Warnings are before the message, since v4.
    pub const WARNINGS: u8 = 0x08;
    /// The client opts in to a beta version.
    pub const BETA: u8 = 0x10;
}

/// Versions of the protocol that are spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Since Cassandra 2.1.
    V3 = 3,
    /// Since Cassandra 2.2: unset values, warnings, custom payloads, date, time, smallint, tinyint.
    V4 = 4,
    /// Since Cassandra 4.0: segments, metadata ids, keyspace and time in requests, failure reasons, duration.
    V5 = 5,
}

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Version; 3] = [Version::V3, Version::V4, Version::V5];

    /// From the number in a header, without the direction bit.
    pub fn from_number(number: u8) -> Option<Version> {
        Version::ALL.into_iter().find(|&version| version as u8 == number)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", *self as u8)
    }
}

macro_rules! opcodes {
    ($($name:ident $value:literal $text:literal $response:literal $doc:literal,)*) => {
        /// What message a frame carries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Opcode { $(#[doc = $doc] $name = $value,)* }

        impl Opcode {
            /// From the byte in a header.
            pub const fn from_byte(byte: u8) -> Option<Opcode> {
                match byte { $($value => Some(Opcode::$name),)* _ => None }
            }

            /// As the specification writes it.
            pub const fn name(self) -> &'static str {
                match self { $(Opcode::$name => $text,)* }
            }

            /// A server sends it.
            pub const fn is_response(self) -> bool {
                match self { $(Opcode::$name => $response,)* }
            }
        }
    };
}

opcodes! {
    Error 0x00 "ERROR" true "The request failed.",
    Startup 0x01 "STARTUP" false "First message of a client, unless it asks for OPTIONS before.",
    Ready 0x02 "READY" true "The connection may be used.",
    Authenticate 0x03 "AUTHENTICATE" true "Credentials are asked for.",
    Credentials 0x04 "CREDENTIALS" false "How v1 logged in; no later version has it.",
    Options 0x05 "OPTIONS" false "Which options are there?",
    Supported 0x06 "SUPPORTED" true "These options are there.",
    Query 0x07 "QUERY" false "A statement as text.",
    Result 0x08 "RESULT" true "The request succeeded.",
    Prepare 0x09 "PREPARE" false "Prepare a statement.",
    Execute 0x0A "EXECUTE" false "Execute a prepared statement.",
    Register 0x0B "REGISTER" false "Send me these events.",
    Event 0x0C "EVENT" true "Something happened.",
    Batch 0x0D "BATCH" false "Several statements as one.",
    AuthChallenge 0x0E "AUTH_CHALLENGE" true "Another step of authentication.",
    AuthResponse 0x0F "AUTH_RESPONSE" false "Credentials.",
    AuthSuccess 0x10 "AUTH_SUCCESS" true "The credentials are good.",
}

/// Who sends the frames that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Requests.
    Client,
    /// Responses.
    Server,
}

/// The nine bytes before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the protocol.
    pub version: Version,
    /// See [`flag`].
    pub flags: u8,
    /// Ties a response to its request.
    pub stream: i16,
    /// What message the body holds; tells the direction too.
    pub opcode: Opcode,
    /// Bytes of the body.
    pub len: usize,
}

impl Header {
    /// `None`: the header is not there yet. Bodies longer than `limit` are refused; so is what the other direction sends.
    ///
    /// The checks come in a real server's order, so that the same frame gets the same refusal.
    #[inline]
    pub fn peek(bytes: &[u8], from: From, limit: usize) -> Result<Option<Header>, HeaderError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let Some(version) = Version::from_number(first & !RESPONSE) else { return refuse_version(bytes) };
        let Some(&[_, flags, s0, s1, opcode, l0, l1, l2, l3]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let stream = i16::from_be_bytes([s0, s1]);
        let len = i32::from_be_bytes([l0, l1, l2, l3]);
        let size = usize::try_from(len).ok().map(|len| HEADER + len);
        let refuse = |error| HeaderError { error, version: version as u8, stream, size };
        let Some(opcode) = Opcode::from_byte(opcode) else { return Err(refuse(Error::Opcode(opcode))) };
        let response = first & RESPONSE != 0;
        if response != opcode.is_response() || response != (from == From::Server) {
            return Err(refuse(Error::Direction(response, opcode)));
        }
        match usize::try_from(len) {
            Ok(len) if len <= limit => Ok(Some(Header { version, flags, stream, opcode, len })),
            Ok(len) => Err(refuse(Error::TooLarge { len, limit })),
            Err(_) => Err(refuse(Error::Invalid { field: "envelope header body length field", value: i64::from(len) })),
        }
    }

    /// Header and body together.
    pub fn size(&self) -> usize {
        HEADER + self.len
    }

    /// As bytes. A body over 2 GiB cannot be: [`Envelope::put`] checks.
    pub fn encode(&self) -> [u8; HEADER] {
        let response = if self.opcode.is_response() { RESPONSE } else { 0 };
        let [s0, s1] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes();
        [self.version as u8 | response, self.flags, s0, s1, self.opcode as u8, l0, l1, l2, l3]
    }
}

/// Versions that we do not speak are answered on stream 0 in a version that the client should know: its own where a
/// real server still can write it (1, 2, and 6 for the beta), else 5. v1 and v2 have a header of eight bytes.
fn refuse_version(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let number = bytes.first().map_or(0, |first| first & !RESPONSE);
    let header = if matches!(number, 1 | 2) { HEADER - 1 } else { HEADER };
    let Some((head, _)) = bytes.split_at_checked(header) else { return Ok(None) };
    let beta = head.get(1).is_some_and(|flags| flags & flag::BETA != 0);
    let len = head.last_chunk().map_or(-1, |&len| i32::from_be_bytes(len));
    Err(HeaderError {
        error: if number == 6 && !beta { Error::Beta(number) } else { Error::Version(number) },
        version: if matches!(number, 1 | 2 | 6) { number } else { Version::V5 as u8 },
        stream: 0,
        size: usize::try_from(len).ok().map(|len| header + len),
    })
}

/// Give a frame another stream id, in place. A slice that is no frame is left alone.
#[inline]
pub fn restamp(frame: &mut [u8], stream: i16) {
    if let Some(bytes) = frame.get_mut(STREAM) {
        bytes.copy_from_slice(&stream.to_be_bytes());
    }
}

/// A whole frame where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header, read.
    pub header: Header,
    /// Header and body as they came: what a relay forwards.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes`, if it is all there.
    #[inline]
    pub fn split(bytes: &'a [u8], from: From, limit: usize) -> Result<Option<Frame<'a>>, HeaderError> {
        let Some(header) = Header::peek(bytes, from, limit)? else { return Ok(None) };
        Ok(bytes.get(..header.size()).map(|bytes| Frame { header, bytes }))
    }

    /// What follows the header; compressed if the header says so and the version is below 5.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// The body is compressed: open it through [`compress::Scratch`](super::compress::Scratch).
    pub fn is_compressed(&self) -> bool {
        self.header.flags & flag::COMPRESSED != 0 && self.header.version < Version::V5
    }
}

/// Takes the first frame off a read buffer, without copying, to be kept or sent from another place.
pub fn take(buffer: &mut BytesMut, from: From, limit: usize) -> Result<Option<(Header, BytesMut)>, HeaderError> {
    let Some(header) = Header::peek(buffer, from, limit)? else { return Ok(None) };
    Ok((buffer.len() >= header.size()).then(|| (header, buffer.split_to(header.size()))))
}

/// The whole frames at the start of a buffer, one after the other. Ends at the first that is not all there, or after an
/// error.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    from: From,
    limit: usize,
    failed: bool,
}

impl<'a> Frames<'a> {
    /// Frames of this side, none of them with a body over `limit`.
    pub fn new(bytes: &'a [u8], from: From, limit: usize) -> Frames<'a> {
        Frames { rest: bytes, from, limit, failed: false }
    }

    /// What was not handed out. After the last frame of a v5 segment it is empty, or the segment lied.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, HeaderError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let frame = Frame::split(self.rest, self.from, self.limit).transpose()?;
        match &frame {
            Ok(frame) => self.rest = self.rest.get(frame.bytes.len()..).unwrap_or_default(),
            Err(_) => self.failed = true,
        }
        Some(frame)
    }
}

/// A frame with its body opened: what the flags put before the message, and the message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Envelope<'a> {
    /// The header. Its `len` is what was read, not what [`Envelope::put`] writes.
    pub header: Header,
    /// Of a response whose request asked for tracing.
    pub tracing: Option<[u8; 16]>,
    /// Of a response.
    pub warnings: Option<StringList<'a>>,
    /// For a custom query handler of the server.
    pub payload: Option<BytesMap<'a>>,
    /// What the opcode says.
    pub message: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// One of our own, without anything before its message.
    pub fn new(version: Version, stream: i16, opcode: Opcode) -> Envelope<'static> {
        let header = Header { version, flags: 0, stream, opcode, len: 0 };
        Envelope { header, tracing: None, warnings: None, payload: None, message: &[] }
    }

    /// Open a body that is not compressed (any more).
    pub fn open(header: Header, body: &'a [u8]) -> Result<Envelope<'a>, Error> {
        let mut reader = Reader::new(body);
        let response = header.opcode.is_response();
        let has = |flag| header.flags & flag != 0;
        let tracing = (response && has(flag::TRACING)).then(|| reader.uuid("tracing id")).transpose()?;
        let warnings = (response && has(flag::WARNINGS)).then(|| reader.string_list("warnings")).transpose()?;
        if has(flag::PAYLOAD) && header.version < Version::V4 {
            return Err(Error::Payload);
        }
        let payload = has(flag::PAYLOAD).then(|| reader.bytes_map("custom payload")).transpose()?;
        Ok(Envelope { header, tracing, warnings, payload, message: reader.rest() })
    }

    /// Append it as a frame that is not compressed, with this message instead of its own. An error leaves `out` as it was.
    pub fn put(
        &self,
        out: &mut BytesMut,
        message: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let start = out.len();
        let put = self.put_body(out, message).and_then(|()| {
            let len = out.len() - start - HEADER;
            i32::try_from(len).map_err(|_| Error::TooLong { field: "message", len })?;
            let header = Header { len, flags: self.flags(), ..self.header };
            out[start..start + HEADER].copy_from_slice(&header.encode());
            Ok(())
        });
        put.inspect_err(|_| out.truncate(start))
    }

    fn put_body(
        &self,
        out: &mut BytesMut,
        message: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.put_bytes(0, HEADER);
        out.extend_from_slice(self.tracing.as_ref().map_or(&[], |id| &id[..]));
        if let Some(warnings) = self.warnings.filter(|_| self.header.version >= Version::V4) {
            warnings.put(out);
        }
        if let Some(payload) = self.payload.filter(|_| self.header.version >= Version::V4) {
            payload.put(out);
        }
        message(out)
    }

    /// What is there says which flags are set; v3 has neither warnings nor payloads, and loses them.
    fn flags(&self) -> u8 {
        let response = self.header.opcode.is_response();
        let asks = self.header.flags & flag::TRACING != 0 && !response;
        let v4 = self.header.version >= Version::V4;
        let set = |is: bool, flag: u8| if is { flag } else { 0 };
        self.header.flags & !(flag::COMPRESSED | flag::TRACING | flag::PAYLOAD | flag::WARNINGS)
            | set(asks || self.tracing.is_some(), flag::TRACING)
            | set(self.payload.is_some() && v4, flag::PAYLOAD)
            | set(self.warnings.is_some() && v4, flag::WARNINGS)
    }
}

#[cfg(test)]
mod tests;
