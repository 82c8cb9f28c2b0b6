//! What can be wrong with bytes, in the words of a real server where it has words for it.

use super::frame::{Opcode, Version};

/// The bytes break the protocol, or a message cannot be written in it. Displays as what the peer may be told: shapes and
/// lengths, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field runs past the end of its message.
    #[error("Not enough bytes to read {field}: {need} are needed, {left} are left")]
    Short {
        /// The field.
        field: &'static str,
        /// Bytes it needs.
        need: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A length, count or number that the field cannot have.
    #[error("Invalid value for {field}: {value}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// A `[value]` whose length is below -2.
    #[error("Invalid ByteBuf length {0}")]
    ValueLength(i32),
    /// No consistency level has this code.
    #[error("Unknown code {0} for a consistency level")]
    Consistency(u16),
    /// Neither logged, unlogged nor of counters.
    #[error("Invalid BATCH message type {0}")]
    BatchKind(u8),
    /// Neither text nor prepared.
    #[error("Invalid query kind in BATCH messages. Must be 0 or 1 but got {0}")]
    StatementKind(u8),
    /// Not UTF-8.
    #[error("Cannot decode string as UTF8: {0}")]
    Utf8(&'static str),
    /// Types inside types inside types.
    #[error("Types are nested more than {0} deep")]
    Nested(usize),
    /// Over a limit that we were given.
    #[error("Request is too big: length {len} exceeds maximum allowed length {limit}.")]
    TooLarge {
        /// Length of the body.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// Below v3, above v5, or another vendor's.
    #[error("Invalid or unsupported protocol version ({0}); supported versions are (3/v3, 4/v4, 5/v5)")]
    Version(u8),
    /// v6 is no version of ours, but its drivers know this refusal.
    #[error("Beta version of the protocol used ({0}/v{0}-beta), but USE_BETA flag is unset")]
    Beta(u8),
    /// No message has this opcode.
    #[error("Unknown opcode {0}")]
    Opcode(u8),
    /// A response where a request is due, or the other way about.
    #[error("Wrong protocol direction (expected {}, got {}) for opcode {} ({})", expected(.0), found(.0), opcode(.1), .1.name())]
    Direction(bool, Opcode),
    /// The largest negative timestamp means "none" inside the server: nobody may send it.
    #[error("Out of bound timestamp, must be in [{}, {}] (got {})", i64::MIN + 1, i64::MAX, i64::MIN)]
    Timestamp,
    /// The custom payload flag came with v4.
    #[error("Received frame with CUSTOM_PAYLOAD flag for native protocol version < 4")]
    Payload,
    /// The header of a v5 segment does not match its CRC24.
    #[error("invalid, unrecoverable CRC mismatch detected in frame header. Read {read}, Computed {computed}")]
    HeaderChecksum {
        /// In the segment.
        read: u32,
        /// Over its header.
        computed: u32,
    },
    /// The payload of a v5 segment does not match its CRC32.
    #[error("invalid, unrecoverable CRC mismatch detected in frame body. Read {read}, Computed {computed}")]
    PayloadChecksum {
        /// In the segment.
        read: u32,
        /// Over its payload.
        computed: u32,
    },
    /// Frames and v5 segments do not fit each other.
    #[error("Segments and messages do not match: {0}")]
    Segments(&'static str),
    /// A compressed body that is none, or compressed where no compression was agreed.
    #[error("Cannot decompress: {0}")]
    Compression(&'static str),
    /// The message has something that this version of the protocol has no place for, or not enough for it.
    #[error("{field} cannot be written in protocol {version}")]
    Inexpressible {
        /// The field.
        field: &'static str,
        /// The version to write.
        version: Version,
    },
    /// Longer than the length before it can say.
    #[error("{field} is too long to be written: {len}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        len: usize,
    },
}

fn found(response: &bool) -> &'static str {
    if *response { "RESPONSE" } else { "REQUEST" }
}

fn expected(response: &bool) -> &'static str {
    found(&!response)
}

fn opcode(opcode: &Opcode) -> u8 {
    *opcode as u8
}

impl Error {
    /// The code of the ERROR that a real server would send for it.
    pub fn code(&self) -> u32 {
        match self {
            Error::TooLarge { .. } => super::response::code::INVALID,
            _ => super::response::code::PROTOCOL,
        }
    }
}

/// A header that is refused, with what it takes to answer and to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct HeaderError {
    /// What is wrong.
    pub error: Error,
    /// The version that the answer's header has to carry: what a real server puts there, 1 to 6.
    pub version: u8,
    /// The stream that the answer goes to. State and version errors go to stream 0, as real servers do.
    pub stream: i16,
    /// Size of the refused frame with its header, if it is known: whoever skips that much may go on reading.
    pub size: Option<usize>,
}
