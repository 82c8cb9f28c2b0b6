//! Framing of the PostgreSQL protocol, versions 3.0 and 3.2: message types, headers, builders, readers.
//!
//! Source of every constant: PostgreSQL documentation, chapter "Frontend/Backend Protocol", sections "Message Formats"
//! and "Message Flow". A message is one type byte and a big-endian i32 length that counts itself but not the type byte;
//! the first message of a client has no type byte.

use bytes::{BufMut, Bytes, BytesMut};

/// Protocol 3.0.
pub const VERSION_3_0: i32 = 3 << 16;
/// First message: cancel a request of another connection.
pub const CANCEL_REQUEST: i32 = 1234 << 16 | 5678;
/// First message: may we speak TLS?
pub const SSL_REQUEST: i32 = 1234 << 16 | 5679;
/// First message: may we speak GSSAPI encryption?
pub const GSSENC_REQUEST: i32 = 1234 << 16 | 5680;

/// Message types that a client sends.
pub mod front {
    #![allow(missing_docs, reason = "named as the protocol documentation names them")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Message types that a server sends.
pub mod back {
    #![allow(missing_docs, reason = "named as the protocol documentation names them")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// Type byte and length: five bytes.
pub const HEADER: usize = 5;

/// The peer broke the protocol; the connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length field is below 4.
    #[error("message of type {kind:?} says it is {len} bytes long; at least 4 are needed")]
    Length {
        /// The type byte as a character.
        kind: char,
        /// The length field.
        len: i32,
    },
    /// Larger than the configured limit.
    #[error("message of type {kind:?} is {len} bytes long; the limit is {limit}")]
    TooLarge {
        /// The type byte as a character.
        kind: char,
        /// The length field.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A field runs past the end of its message.
    #[error("message of type {0:?} is malformed")]
    Malformed(char),
}

/// A message's header: total size is `1 + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub kind: u8,
    /// Size of header and body together.
    pub size: usize,
}

impl Header {
    /// `None`: fewer than five bytes are there. A length below 4 is an error.
    pub fn peek(bytes: &[u8]) -> Result<Option<Header>, WireError> {
        let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(len) {
            Ok(len) if len >= 4 => Ok(Some(Header { kind, size: 1 + len })),
            _ => Err(WireError::Length { kind: char::from(kind), len }),
        }
    }
}

/// A whole message: type byte and body, the header already taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The type byte.
    pub kind: u8,
    /// What follows the length.
    pub body: Bytes,
}

/// Append a message; `body` writes what follows the length.
pub fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_i32(0);
    body(out);
    let len = i32::try_from(out.len() - at).expect("messages we build stay below 2 GiB");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Append a string and its terminating zero. A zero inside would end it early: the caller has checked.
pub fn cstr(out: &mut BytesMut, text: &[u8]) {
    debug_assert!(!text.contains(&0));
    out.extend_from_slice(text);
    out.put_u8(0);
}

/// Append a simple Query.
pub fn query(out: &mut BytesMut, sql: &[u8]) {
    message(out, front::QUERY, |b| cstr(b, sql));
}

/// Append a Parse.
pub fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    message(out, front::PARSE, |b| {
        cstr(b, name);
        cstr(b, sql);
        b.put_u16(u16::try_from(types.len()).expect("a Parse, also one that came, counts its types so"));
        types.iter().for_each(|&oid| b.put_u32(oid));
    });
}

/// Append an Execute.
pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) {
    message(out, front::EXECUTE, |b| {
        cstr(b, portal);
        b.put_i32(max_rows);
    });
}

/// Append a Describe (`what` = `b'S'` statement or `b'P'` portal).
pub fn describe(out: &mut BytesMut, what: u8, name: &[u8]) {
    message(out, front::DESCRIBE, |b| {
        b.put_u8(what);
        cstr(b, name);
    });
}

/// Append a Close (`what` = `b'S'` statement or `b'P'` portal).
pub fn close(out: &mut BytesMut, what: u8, name: &[u8]) {
    message(out, front::CLOSE, |b| {
        b.put_u8(what);
        cstr(b, name);
    });
}

/// Append a message without a body: Sync, Flush, CopyDone, Terminate, ParseComplete, NoData, ...
pub fn bare(out: &mut BytesMut, kind: u8) {
    message(out, kind, |_| ());
}

/// Append an ErrorResponse as PostgreSQL words it: severity, SQLSTATE, message, optional hint.
pub fn error_response(out: &mut BytesMut, severity: &str, code: &str, text: &str, hint: Option<&str>) {
    message(out, back::ERROR_RESPONSE, |b| {
        let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)];
        for (field, value) in fields.into_iter().chain(hint.map(|hint| (b'H', hint))) {
            b.put_u8(field);
            cstr(b, value.as_bytes());
        }
        b.put_u8(0);
    });
}

/// Reads fields out of a message body; every read is checked.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields of a message of this type.
    pub fn new(kind: u8, body: &'a [u8]) -> Fields<'a> {
        Fields { kind, rest: body }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or_else(|| self.malformed())?;
        self.rest = tail;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    /// Two bytes, signed, big-endian.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// Two bytes, unsigned, big-endian: counts, which the protocol lets run to 65535.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes, signed, big-endian.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Four bytes, unsigned, big-endian: oids.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A string without its terminating zero.
    pub fn cstr(&mut self) -> Result<&'a [u8], WireError> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or_else(|| self.malformed())?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// An i32 length and that many bytes; -1 is NULL.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.i32()? {
            -1 => Ok(None),
            len => Ok(Some(self.take(usize::try_from(len).map_err(|_| self.malformed())?)?)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        Ok(self.take(N)?.try_into().expect("take returned N bytes"))
    }

    fn malformed(&self) -> WireError {
        WireError::Malformed(char::from(self.kind))
    }
}
