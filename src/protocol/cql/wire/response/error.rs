//! ERROR: why a request failed, which decides what is known of a write.
//!
//! Source: native_protocol_v4.spec section 9, native_protocol_v5.spec section 8. What older versions have no words for,
//! servers say in others, and so does [`ServerError::put`].

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use crate::protocol::cql::wire::frame::{Envelope, Opcode, Version, flag};
use crate::protocol::cql::wire::primitive::{Consistency, Reader, StringList, put_int, put_short_bytes, put_string};
use crate::protocol::cql::wire::{Error, HeaderError};

/// Codes of errors.
pub mod code {
    #![allow(missing_docs, reason = "named as the specification names them")]
    pub const SERVER: u32 = 0x0000;
    pub const PROTOCOL: u32 = 0x000A;
    pub const AUTHENTICATION: u32 = 0x0100;
    pub const UNAVAILABLE: u32 = 0x1000;
    pub const OVERLOADED: u32 = 0x1001;
    pub const BOOTSTRAPPING: u32 = 0x1002;
    pub const TRUNCATE: u32 = 0x1003;
    pub const WRITE_TIMEOUT: u32 = 0x1100;
    pub const READ_TIMEOUT: u32 = 0x1200;
    pub const READ_FAILURE: u32 = 0x1300;
    pub const FUNCTION_FAILURE: u32 = 0x1400;
    pub const WRITE_FAILURE: u32 = 0x1500;
    pub const CDC_WRITE_FAILURE: u32 = 0x1600;
    pub const CAS_WRITE_UNKNOWN: u32 = 0x1700;
    pub const SYNTAX: u32 = 0x2000;
    pub const UNAUTHORIZED: u32 = 0x2100;
    pub const INVALID: u32 = 0x2200;
    pub const CONFIG: u32 = 0x2300;
    pub const ALREADY_EXISTS: u32 = 0x2400;
    pub const UNPREPARED: u32 = 0x2500;
}

/// What kind of write a timeout or failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteType<'a> {
    /// One statement, no counter.
    Simple,
    /// A logged batch whose log is written: it will be replayed.
    Batch,
    /// An unlogged batch.
    UnloggedBatch,
    /// Counters, in a batch or not.
    Counter,
    /// A logged batch, while its log was written.
    BatchLog,
    /// The Paxos part of a conditional statement.
    Cas,
    /// The lock of a materialized view.
    View,
    /// Change data capture has no room.
    Cdc,
    /// One that this list does not know.
    Other(&'a str),
}

impl<'a> WriteType<'a> {
    const KNOWN: [WriteType<'static>; 8] = {
        use WriteType::*;
        [Simple, Batch, UnloggedBatch, Counter, BatchLog, Cas, View, Cdc]
    };

    /// From its name on the wire.
    pub fn from_name(name: &'a str) -> WriteType<'a> {
        WriteType::KNOWN.into_iter().find(|known| known.name() == name).unwrap_or(WriteType::Other(name))
    }

    /// Its name on the wire.
    pub fn name(self) -> &'a str {
        match self {
            WriteType::Simple => "SIMPLE",
            WriteType::Batch => "BATCH",
            WriteType::UnloggedBatch => "UNLOGGED_BATCH",
            WriteType::Counter => "COUNTER",
            WriteType::BatchLog => "BATCH_LOG",
            WriteType::Cas => "CAS",
            WriteType::View => "VIEW",
            WriteType::Cdc => "CDC",
            WriteType::Other(name) => name,
        }
    }
}

/// Replicas that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures<'a> {
    /// In v4: how many.
    Count(i32),
    /// In v5: which, and why.
    Reasons(FailureReasons<'a>),
}

impl Failures<'_> {
    /// How many replicas failed.
    pub fn len(&self) -> i32 {
        match self {
            Failures::Count(count) => *count,
            Failures::Reasons(reasons) => reasons.count.try_into().unwrap_or(i32::MAX),
        }
    }

    /// None did.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The map of v5: a replica, and the code of its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureReasons<'a> {
    count: usize,
    bytes: &'a [u8],
}

/// Why a replica failed: 0 unknown, 1 too many tombstones, 2 timeout, 3 incompatible schema, ...
pub type Failure = (IpAddr, u16);

impl<'a> FailureReasons<'a> {
    /// No replica.
    pub const NONE: FailureReasons<'static> = FailureReasons { count: 0, bytes: &[] };

    fn read(reader: &mut Reader<'a>) -> Result<FailureReasons<'a>, Error> {
        let count = reader.count("failure reasons")?;
        let bytes = reader.covered(|reader| (0..count).try_for_each(|_| failure(reader).map(drop)))?;
        Ok(FailureReasons { count, bytes })
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Failure> + 'a {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| failure(&mut reader).ok())
    }
}

fn failure(reader: &mut Reader<'_>) -> Result<Failure, Error> {
    Ok((reader.inetaddr("failed replica")?, reader.short("failure reason")?))
}

/// An ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerError<'a> {
    /// For people.
    pub message: &'a str,
    /// For programs.
    pub kind: ErrorKind<'a>,
}

/// The code of an ERROR with what comes with it.
///
/// `consistency` is that of the request; `received` counts the replicas that answered, `block_for` those that it waits for.
#[allow(missing_docs, reason = "the fields are told above, the rest is named as the specification names it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind<'a> {
    Server,
    Protocol,
    Authentication,
    Unavailable {
        consistency: Consistency,
        required: i32,
        alive: i32,
    },
    Overloaded,
    Bootstrapping,
    Truncate,
    /// `contentions` comes with [`WriteType::Cas`], since v5.
    WriteTimeout {
        consistency: Consistency,
        received: i32,
        block_for: i32,
        write_type: WriteType<'a>,
        contentions: Option<u16>,
    },
    ReadTimeout {
        consistency: Consistency,
        received: i32,
        block_for: i32,
        data_present: bool,
    },
    ReadFailure {
        consistency: Consistency,
        received: i32,
        block_for: i32,
        failures: Failures<'a>,
        data_present: bool,
    },
    FunctionFailure {
        keyspace: &'a str,
        function: &'a str,
        arguments: StringList<'a>,
    },
    WriteFailure {
        consistency: Consistency,
        received: i32,
        block_for: i32,
        failures: Failures<'a>,
        write_type: WriteType<'a>,
    },
    CdcWriteFailure,
    /// Since v5; before it a [`ErrorKind::WriteTimeout`] of [`WriteType::Cas`].
    CasWriteUnknown {
        consistency: Consistency,
        received: i32,
        block_for: i32,
    },
    Syntax,
    Unauthorized,
    Invalid,
    Config,
    /// `table` is empty if it was a keyspace.
    AlreadyExists {
        keyspace: &'a str,
        table: &'a str,
    },
    Unprepared {
        id: &'a [u8],
    },
    /// A code that this list does not know, with what comes with it.
    Other {
        code: u32,
        body: &'a [u8],
    },
}

impl<'a> ServerError<'a> {
    /// One of our own.
    pub fn new(kind: ErrorKind<'a>, message: &'a str) -> ServerError<'a> {
        ServerError { message, kind }
    }

    /// The code of an ERROR, and nothing else of it.
    pub fn code(message: &[u8]) -> Result<u32, Error> {
        Reader::new(message).int("error code").map(i32::cast_unsigned)
    }

    /// Read an ERROR.
    pub fn parse(version: Version, message: &'a [u8]) -> Result<ServerError<'a>, Error> {
        let mut reader = Reader::new(message);
        let code = reader.int("error code")?.cast_unsigned();
        Ok(ServerError { message: reader.string("error message")?, kind: ErrorKind::read(code, version, &mut reader)? })
    }

    /// Append the message in the words of this version.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        let kind = self.kind.in_version(version);
        out.put_u32(kind.code());
        put_string(out, truncated(self.message), "error message")?;
        kind.put(out)
    }
}

/// A message that is too long for its length is cut: better than none.
fn truncated(message: &str) -> &str {
    let end = message.floor_char_boundary(usize::from(u16::MAX));
    &message[..end]
}

/// Append the ERROR that a real server answers a refused frame with: in the header that the client may know.
///
/// v1 and v2 have a stream id of one byte.
pub fn put_refusal(out: &mut BytesMut, refused: &HeaderError) -> Result<(), Error> {
    put_refusal_in(out, refused, &refused.error.to_string())
}

/// The same, in words of our own.
pub fn put_refusal_in(out: &mut BytesMut, refused: &HeaderError, text: &str) -> Result<(), Error> {
    let kind = if refused.error.code() == code::INVALID { ErrorKind::Invalid } else { ErrorKind::Protocol };
    let start = out.len();
    let envelope = Envelope::new(Version::V3, refused.stream, Opcode::Error);
    envelope.put(out, |out| ServerError::new(kind, text).put(out, Version::V3))?;
    out[start] = refused.version | 0x80;
    if matches!(refused.error, Error::Beta(_)) {
        out[start + 1] = flag::BETA;
    }
    if refused.version < Version::V3 as u8 {
        let frame = out.split_off(start);
        out.extend_from_slice(&frame[..2]);
        out.extend_from_slice(&frame[3..]);
    }
    Ok(())
}

impl<'a> ErrorKind<'a> {
    fn read(code: u32, version: Version, reader: &mut Reader<'a>) -> Result<ErrorKind<'a>, Error> {
        Ok(match code {
            code::SERVER => ErrorKind::Server,
            code::PROTOCOL => ErrorKind::Protocol,
            code::AUTHENTICATION => ErrorKind::Authentication,
            code::UNAVAILABLE => {
                let (consistency, required, alive) = counts(reader)?;
                ErrorKind::Unavailable { consistency, required, alive }
            }
            code::OVERLOADED => ErrorKind::Overloaded,
            code::BOOTSTRAPPING => ErrorKind::Bootstrapping,
            code::TRUNCATE => ErrorKind::Truncate,
            code::WRITE_TIMEOUT => {
                let (consistency, received, block_for) = counts(reader)?;
                let write_type = write_type(reader)?;
                // Servers send it only if Paxos itself gave up.
                let cas = version >= Version::V5 && write_type == WriteType::Cas;
                let contentions = reader.short("contentions").ok().filter(|_| cas);
                ErrorKind::WriteTimeout { consistency, received, block_for, write_type, contentions }
            }
            code::READ_TIMEOUT => {
                let (consistency, received, block_for) = counts(reader)?;
                let data_present = reader.byte("data present")? != 0;
                ErrorKind::ReadTimeout { consistency, received, block_for, data_present }
            }
            code::READ_FAILURE => {
                let (consistency, received, block_for) = counts(reader)?;
                let failures = failures(version, reader)?;
                let data_present = reader.byte("data present")? != 0;
                ErrorKind::ReadFailure { consistency, received, block_for, failures, data_present }
            }
            code::FUNCTION_FAILURE => ErrorKind::FunctionFailure {
                keyspace: reader.string("keyspace")?,
                function: reader.string("function")?,
                arguments: reader.string_list("argument types")?,
            },
            code::WRITE_FAILURE => {
                let (consistency, received, block_for) = counts(reader)?;
                let (failures, write_type) = (failures(version, reader)?, write_type(reader)?);
                ErrorKind::WriteFailure { consistency, received, block_for, failures, write_type }
            }
            code::CDC_WRITE_FAILURE => ErrorKind::CdcWriteFailure,
            code::CAS_WRITE_UNKNOWN => {
                let (consistency, received, block_for) = counts(reader)?;
                ErrorKind::CasWriteUnknown { consistency, received, block_for }
            }
            code::SYNTAX => ErrorKind::Syntax,
            code::UNAUTHORIZED => ErrorKind::Unauthorized,
            code::INVALID => ErrorKind::Invalid,
            code::CONFIG => ErrorKind::Config,
            code::ALREADY_EXISTS => {
                ErrorKind::AlreadyExists { keyspace: reader.string("keyspace")?, table: reader.string("table")? }
            }
            code::UNPREPARED => ErrorKind::Unprepared { id: reader.short_bytes("unknown id")? },
            code => ErrorKind::Other { code, body: reader.rest() },
        })
    }

    /// The number on the wire.
    pub fn code(&self) -> u32 {
        match self {
            ErrorKind::Server => code::SERVER,
            ErrorKind::Protocol => code::PROTOCOL,
            ErrorKind::Authentication => code::AUTHENTICATION,
            ErrorKind::Unavailable { .. } => code::UNAVAILABLE,
            ErrorKind::Overloaded => code::OVERLOADED,
            ErrorKind::Bootstrapping => code::BOOTSTRAPPING,
            ErrorKind::Truncate => code::TRUNCATE,
            ErrorKind::WriteTimeout { .. } => code::WRITE_TIMEOUT,
            ErrorKind::ReadTimeout { .. } => code::READ_TIMEOUT,
            ErrorKind::ReadFailure { .. } => code::READ_FAILURE,
            ErrorKind::FunctionFailure { .. } => code::FUNCTION_FAILURE,
            ErrorKind::WriteFailure { .. } => code::WRITE_FAILURE,
            ErrorKind::CdcWriteFailure => code::CDC_WRITE_FAILURE,
            ErrorKind::CasWriteUnknown { .. } => code::CAS_WRITE_UNKNOWN,
            ErrorKind::Syntax => code::SYNTAX,
            ErrorKind::Unauthorized => code::UNAUTHORIZED,
            ErrorKind::Invalid => code::INVALID,
            ErrorKind::Config => code::CONFIG,
            ErrorKind::AlreadyExists { .. } => code::ALREADY_EXISTS,
            ErrorKind::Unprepared { .. } => code::UNPREPARED,
            ErrorKind::Other { code, .. } => *code,
        }
    }

    /// What a server says instead, where the version has no word for it. Source: `ErrorMessage` of Cassandra 4.1.
    fn in_version(self, version: Version) -> ErrorKind<'a> {
        use ErrorKind::{
            CasWriteUnknown, CdcWriteFailure, FunctionFailure, Invalid, ReadFailure, ReadTimeout, WriteFailure,
            WriteTimeout,
        };
        match self {
            ReadFailure { consistency, received, block_for, data_present, .. } if version < Version::V4 => {
                ReadTimeout { consistency, received, block_for, data_present }
            }
            WriteFailure { consistency, received, block_for, write_type, .. } if version < Version::V4 => {
                WriteTimeout { consistency, received, block_for, write_type, contentions: None }
            }
            FunctionFailure { .. } | CdcWriteFailure if version < Version::V4 => Invalid,
            CasWriteUnknown { consistency, received, block_for } if version < Version::V5 => {
                WriteTimeout { consistency, received, block_for, write_type: WriteType::Cas, contentions: None }
            }
            WriteTimeout { consistency, received, block_for, write_type, .. } if version < Version::V5 => {
                WriteTimeout { consistency, received, block_for, write_type, contentions: None }
            }
            ReadFailure { consistency, received, block_for, failures, data_present } => {
                ReadFailure { consistency, received, block_for, failures: failures.in_version(version), data_present }
            }
            WriteFailure { consistency, received, block_for, failures, write_type } => {
                WriteFailure { consistency, received, block_for, failures: failures.in_version(version), write_type }
            }
            same => same,
        }
    }

    fn put(&self, out: &mut BytesMut) -> Result<(), Error> {
        match *self {
            ErrorKind::Unavailable { consistency, required, alive } => put_counts(out, consistency, required, alive),
            ErrorKind::WriteTimeout { consistency, received, block_for, write_type, contentions } => {
                put_counts(out, consistency, received, block_for);
                put_string(out, write_type.name(), "write type")?;
                contentions.into_iter().for_each(|count| out.put_u16(count));
            }
            ErrorKind::ReadTimeout { consistency, received, block_for, data_present } => {
                put_counts(out, consistency, received, block_for);
                out.put_u8(data_present.into());
            }
            ErrorKind::ReadFailure { consistency, received, block_for, failures, data_present } => {
                put_counts(out, consistency, received, block_for);
                failures.put(out)?;
                out.put_u8(data_present.into());
            }
            ErrorKind::FunctionFailure { keyspace, function, arguments } => {
                put_string(out, keyspace, "keyspace")?;
                put_string(out, function, "function")?;
                arguments.put(out);
            }
            ErrorKind::WriteFailure { consistency, received, block_for, failures, write_type } => {
                put_counts(out, consistency, received, block_for);
                failures.put(out)?;
                put_string(out, write_type.name(), "write type")?;
            }
            ErrorKind::CasWriteUnknown { consistency, received, block_for } => {
                put_counts(out, consistency, received, block_for);
            }
            ErrorKind::AlreadyExists { keyspace, table } => {
                put_string(out, keyspace, "keyspace")?;
                put_string(out, table, "table")?;
            }
            ErrorKind::Unprepared { id } => put_short_bytes(out, id, "unknown id")?,
            ErrorKind::Other { body, .. } => out.extend_from_slice(body),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Failures<'a> {
    fn in_version(self, version: Version) -> Failures<'a> {
        match self {
            Failures::Reasons(_) if version < Version::V5 => Failures::Count(self.len()),
            // The replicas are not known: an empty map says that some failed, and names none.
            Failures::Count(_) if version >= Version::V5 => Failures::Reasons(FailureReasons::NONE),
            same => same,
        }
    }

    fn put(&self, out: &mut BytesMut) -> Result<(), Error> {
        match self {
            Failures::Count(count) => out.put_i32(*count),
            Failures::Reasons(reasons) => {
                put_int(out, reasons.count, "failure reasons")?;
                out.extend_from_slice(reasons.bytes);
            }
        }
        Ok(())
    }
}

fn counts(reader: &mut Reader<'_>) -> Result<(Consistency, i32, i32), Error> {
    Ok((reader.consistency()?, reader.int("replicas that answered")?, reader.int("replicas that are needed")?))
}

fn put_counts(out: &mut BytesMut, consistency: Consistency, first: i32, second: i32) {
    out.put_u16(consistency.code());
    out.put_i32(first);
    out.put_i32(second);
}

fn write_type<'a>(reader: &mut Reader<'a>) -> Result<WriteType<'a>, Error> {
    reader.string("write type").map(WriteType::from_name)
}

fn failures<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Failures<'a>, Error> {
    match version {
        Version::V5 => FailureReasons::read(reader).map(Failures::Reasons),
        _ => reader.int("failures").map(Failures::Count),
    }
}
