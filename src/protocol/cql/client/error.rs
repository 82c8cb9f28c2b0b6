//! What can go wrong on a connection of ours, and what a server's error says.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::protocol::cql::outcome::{self, Kind, Outcome};
use crate::protocol::cql::wire;
use crate::protocol::cql::wire::response::{ErrorKind, ServerError};
use crate::protocol::cql::wire::{HeaderError, Opcode, Version};

use super::settings::Address;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No host of a list could be entered; the last one's error.
    #[error("cannot connect to {host}: {why}")]
    Connect {
        /// The last host tried.
        host: Address,
        /// Its error.
        why: Box<Error>,
    },
    /// The time for one host was over.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The socket, while connecting.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS cannot be had as configured.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server asks for a login that cannot be done as configured.
    #[error("login: {0}")]
    Login(&'static str),
    /// Bytes that are not the protocol, or a request that it cannot say.
    #[error("{0}")]
    Wire(#[from] wire::Error),
    /// A message that makes no sense here.
    #[error("the server answered {} while {doing}", .opcode.name())]
    Unexpected {
        /// What came.
        opcode: Opcode,
        /// What we were doing.
        doing: &'static str,
    },
    /// A row that is not what was asked for.
    #[error("an answer cannot be read: {0}")]
    Answer(&'static str),
    /// So many requests are under way that this one was never sent.
    #[error("not sent within {0:?}: too many requests are under way")]
    Busy(Duration),
    /// The request was sent, and its answer did not come in time.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// The connection ended before the answer came, or before the request was sent.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// No host can be used now.
    #[error("no node can be reached: {0}")]
    NoHost(String),
    /// Nodes that are up have another schema than others, and keep it; which.
    #[error("its nodes do not agree on one schema: {0}")]
    Disagreement(String),
    /// The configured datacenter is none of the cluster's.
    #[error("the cluster has no datacenter {wanted}; it has: {}", .known.join(", "))]
    NoDatacenter {
        /// What is configured.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Nodes of other datacenters may be there: they are not asked.
    #[error("no node of datacenter {datacenter} can be reached: {why}")]
    NoNode {
        /// The one that is used.
        datacenter: String,
        /// The last node's error.
        why: Box<Error>,
    },
    /// The server refused the request; the connection lives on.
    #[error("{0}")]
    Server(Box<Refusal>),
}

impl Error {
    /// The server's error, if that is what it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Error::Server(refusal) => Some(refusal),
            Error::Connect { why, .. } | Error::NoNode { why, .. } => why.refusal(),
            _ => None,
        }
    }

    /// The server's code, if it sent one: see [`wire::response::code`].
    pub fn code(&self) -> Option<u32> {
        Some(self.refusal()?.kind().code())
    }

    /// What is known of a write that this is the answer to.
    pub fn outcome(&self, kind: Kind) -> Outcome {
        match self {
            Error::Server(refusal) => outcome::outcome(kind, refusal.version, Some(&refusal.kind())),
            Error::NoAnswer(_) | Error::Lost(_) | Error::Unexpected { .. } | Error::Answer(_) => Outcome::Unknown,
            // Of an answer, if it is not of the request: then nothing was sent, and Unknown is careful.
            Error::Wire(_) => Outcome::Unknown,
            Error::Connect { .. } | Error::ConnectTimeout(_) | Error::Io(_) | Error::Tls(_) | Error::Login(_) => {
                Outcome::Absent
            }
            Error::Disagreement(_) => Outcome::Absent,
            Error::Busy(_) | Error::NoHost(_) | Error::NoDatacenter { .. } | Error::NoNode { .. } => Outcome::Absent,
        }
    }
}

impl From<crate::net::tls::Error> for Error {
    fn from(error: crate::net::tls::Error) -> Error {
        Error::Tls(error.to_string())
    }
}

impl From<HeaderError> for Error {
    fn from(refused: HeaderError) -> Error {
        Error::Wire(refused.error)
    }
}

/// An ERROR. `Display` shows its kind and its words up to what may be a row's value (promise 13).
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    version: Version,
    message: Bytes,
}

impl Refusal {
    /// Check it, so that [`Refusal::error`] cannot fail.
    pub(super) fn parse(version: Version, message: Bytes) -> Result<Refusal, wire::Error> {
        ServerError::parse(version, &message)?;
        Ok(Refusal { version, message })
    }

    /// The whole of it. Its message may hold row values: not for logs.
    pub fn error(&self) -> ServerError<'_> {
        ServerError::parse(self.version, &self.message).expect("it was read when it came")
    }

    /// Code and what comes with it.
    pub fn kind(&self) -> ErrorKind<'_> {
        self.error().kind
    }

    /// The message without what may be a row's value: to the first quote, parenthesis or number.
    fn discreet(&self) -> &str {
        let message = self.error().message;
        let number = |at: usize| {
            let before = message[..at].chars().next_back();
            message[at..].starts_with(|letter: char| letter.is_ascii_digit())
                && before.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_')
        };
        let end = message.char_indices().find(|&(at, letter)| matches!(letter, '\'' | '"' | '(' | '$') || number(at));
        message[..end.map_or(message.len(), |(at, _)| at)].trim_end_matches([' ', ':', '-'])
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind as E;
        let kind = self.kind();
        write!(f, "{:#06x} ", kind.code())?;
        match kind {
            E::Unavailable { consistency, required, alive } => {
                write!(f, "unavailable: {alive} of {required} replicas are alive for {consistency}")
            }
            E::WriteTimeout { consistency, received, block_for, write_type, .. } => {
                let name = write_type.name();
                write!(f, "write timeout ({name}): {received} of {block_for} replicas answered for {consistency}")
            }
            E::WriteFailure { consistency, received, block_for, write_type, .. } => {
                let name = write_type.name();
                write!(f, "write failure ({name}): {received} of {block_for} replicas answered for {consistency}")
            }
            E::ReadTimeout { consistency, received, block_for, .. } => {
                write!(f, "read timeout: {received} of {block_for} replicas answered for {consistency}")
            }
            E::ReadFailure { consistency, received, block_for, .. } => {
                write!(f, "read failure: {received} of {block_for} replicas answered for {consistency}")
            }
            _ => f.write_str(self.discreet()),
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({self})")
    }
}

#[cfg(test)]
pub(in crate::protocol::cql) mod tests {
    use super::*;
    use bytes::BytesMut;

    pub(in crate::protocol::cql) fn refusal(kind: ErrorKind<'_>, message: &str) -> Refusal {
        let mut out = BytesMut::new();
        ServerError::new(kind, message).put(&mut out, Version::V5).expect("short");
        Refusal::parse(Version::V5, out.freeze()).expect("well-formed")
    }

    #[test]
    fn a_refusal_shows_no_row_values() {
        for (said, shown) in [
            ("Invalid STRING constant (secret) for \"v\" of type int", "0x2200 Invalid STRING constant"),
            ("line 1:31 no viable alternative at input 'secret'", "0x2200 line"),
            ("Undefined column name v2 in table k.t1", "0x2200 Undefined column name v2 in table k.t1"),
            ("List index 4711 out of bound, list has size 0", "0x2200 List index"),
            ("Unable to make long from: 'secret'", "0x2200 Unable to make long from"),
        ] {
            assert_eq!(refusal(ErrorKind::Invalid, said).to_string(), shown);
        }
    }

    #[test]
    fn an_error_says_what_is_known_of_the_write() {
        assert_eq!(Error::Busy(Duration::ZERO).outcome(Kind::Counter), Outcome::Absent);
        assert_eq!(Error::NoAnswer(Duration::ZERO).outcome(Kind::Single), Outcome::Unknown);
        let refused = Error::Server(Box::new(refusal(ErrorKind::Overloaded, "")));
        assert_eq!(refused.outcome(Kind::Single), Outcome::Absent);
        assert_eq!(refused.outcome(Kind::Spread), Outcome::Unknown);
        assert_eq!(refused.code(), Some(wire::response::code::OVERLOADED));
    }
}
