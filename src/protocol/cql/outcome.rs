//! What an error says of the write that it answers: that it is not there, that it will be, or nothing.
//!
//! "Refused means absent" is false by error code alone: `Unavailable` for an unlogged batch leaves half of it written,
//! a counter's `WriteFailure` has counted, and a logged batch that timed out is replayed from its log. What is known
//! depends on the statement and on the phase that failed, so it is one function, and its test is the table that was tried
//! on real servers.
//!
//! Nothing here says what to do about [`Outcome::Unknown`]: that depends on whether a repeat is harmless.

use super::wire::Version;
use super::wire::primitive::Consistency;
use super::wire::response::{ErrorKind, WriteType};

/// How a server executes a write, which decides what its errors mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One statement, or a batch of any kind, that writes one partition: all of it or nothing.
    Single,
    /// A logged batch over several partitions: once its log is written, all of it will be there.
    Logged,
    /// One statement or an unlogged batch over several partitions: each partition by itself.
    Spread,
    /// Counters of one partition.
    Counter,
    /// Counters of several partitions: each partition by itself.
    Counters,
    /// Decided by Paxos: a statement with `IF`, or a batch with one in it.
    Conditional,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Single, Kind::Logged, Kind::Spread, Kind::Counter, Kind::Counters, Kind::Conditional];

    /// Each partition is written by itself, so that a refusal of one says nothing of the others.
    fn is_spread(self) -> bool {
        matches!(self, Kind::Spread | Kind::Counters)
    }
}

/// What is known of a write after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It changed nothing, and will not.
    Absent,
    /// It is there, or will be without anybody doing anything more.
    Committed,
    /// It may be there, in part too, or may appear later.
    Unknown,
}

/// What `error`, which came in this version of the protocol, says of a write of this kind. `None`: the connection was
/// lost, or no answer came in time.
pub fn outcome(kind: Kind, version: Version, error: Option<&ErrorKind<'_>>) -> Outcome {
    use ErrorKind as E;
    let Some(error) = error else { return Outcome::Unknown };
    match error {
        // Refused before anything was sent to a replica.
        E::Protocol | E::Authentication | E::Bootstrapping | E::Syntax | E::Unauthorized | E::Invalid => {
            Outcome::Absent
        }
        E::Config | E::AlreadyExists { .. } | E::Unprepared { .. } | E::FunctionFailure { .. } => Outcome::Absent,
        // Refused by the coordinator for want of replicas or room: partition by partition.
        E::Unavailable { .. } | E::Overloaded if kind.is_spread() => Outcome::Unknown,
        // Paxos looks for replicas at the serial level first, and behind its decision for those of the commit.
        E::Unavailable { consistency, .. } if kind == Kind::Conditional => before_paxos(*consistency),
        E::Unavailable { .. } => Outcome::Absent,
        // Too many hints, in the midst of the commit or behind the batch's log.
        E::Overloaded if matches!(kind, Kind::Conditional | Kind::Logged) => Outcome::Unknown,
        E::Overloaded => Outcome::Absent,
        E::ReadTimeout { .. } | E::ReadFailure { .. } => read_failed(kind),
        // The log is written, and will be replayed. v3 says so of failures as well, after which replicas refuse it again.
        E::WriteTimeout { write_type: WriteType::Batch, .. } if kind == Kind::Logged && version > Version::V3 => {
            Outcome::Committed
        }
        E::WriteTimeout { write_type, .. } | E::WriteFailure { write_type, .. } => decided(kind, *write_type),
        E::CdcWriteFailure | E::CasWriteUnknown { .. } => Outcome::Unknown,
        E::Server | E::Truncate | E::Other { .. } => Outcome::Unknown,
    }
}

/// Only the first look for replicas is at a serial level: what the other levels are said of comes later.
fn before_paxos(consistency: Consistency) -> Outcome {
    match consistency {
        Consistency::Serial | Consistency::LocalSerial => Outcome::Absent,
        _ => Outcome::Unknown,
    }
}

/// Only an operation on a list reads before it writes, and then nothing was written yet. Paxos reads in its midst, and
/// may be finishing what another began; a counter's leader reads while it adds.
fn read_failed(kind: Kind) -> Outcome {
    match kind {
        Kind::Single | Kind::Logged | Kind::Spread => Outcome::Absent,
        Kind::Counter | Kind::Counters | Kind::Conditional => Outcome::Unknown,
    }
}

/// Paxos names its own phases `CAS`; a plain write type is that of the commit after it: the ballot was accepted, and
/// whoever looks by Paxos next completes it.
fn decided(kind: Kind, write_type: WriteType<'_>) -> Outcome {
    match (kind, write_type) {
        (Kind::Conditional, WriteType::Simple) => Outcome::Committed,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::frame::{Envelope, Opcode};
    use super::super::wire::primitive::{Reader, StringList};
    use super::super::wire::response::{FailureReasons, Failures, Response, ServerError};
    use super::*;

    /// What is known by error and by [`Kind::ALL`]: single, logged, spread, counter, counters, conditional.
    const TABLE: &str = "
        SERVER                      U U U U U U
        PROTOCOL                    A A A A A A
        AUTHENTICATION              A A A A A A
        UNAVAILABLE                 A A U A U U
        UNAVAILABLE/SERIAL          A A U A U A
        OVERLOADED                  A U U A U U
        BOOTSTRAPPING               A A A A A A
        TRUNCATE                    U U U U U U
        WRITE_TIMEOUT/SIMPLE        U U U U U C
        WRITE_TIMEOUT/BATCH         U C U U U U
        WRITE_TIMEOUT/UNLOGGED_BATCH U U U U U U
        WRITE_TIMEOUT/COUNTER       U U U U U U
        WRITE_TIMEOUT/BATCH_LOG     U U U U U U
        WRITE_TIMEOUT/CAS           U U U U U U
        WRITE_TIMEOUT/VIEW          U U U U U U
        WRITE_TIMEOUT/CDC           U U U U U U
        WRITE_TIMEOUT/NEW           U U U U U U
        READ_TIMEOUT                A A A U U U
        READ_FAILURE                A A A U U U
        FUNCTION_FAILURE            A A A A A A
        WRITE_FAILURE/SIMPLE        U U U U U C
        WRITE_FAILURE/BATCH         U U U U U U
        WRITE_FAILURE/UNLOGGED_BATCH U U U U U U
        WRITE_FAILURE/COUNTER       U U U U U U
        WRITE_FAILURE/BATCH_LOG     U U U U U U
        WRITE_FAILURE/CAS           U U U U U U
        WRITE_FAILURE/VIEW          U U U U U U
        WRITE_FAILURE/CDC           U U U U U U
        WRITE_FAILURE/NEW           U U U U U U
        CDC_WRITE_FAILURE           U U U U U U
        CAS_WRITE_UNKNOWN           U U U U U U
        SYNTAX                      A A A A A A
        UNAUTHORIZED                A A A A A A
        INVALID                     A A A A A A
        CONFIG                      A A A A A A
        ALREADY_EXISTS              A A A A A A
        UNPREPARED                  A A A A A A
        OTHER                       U U U U U U
        no answer                   U U U U U U
    ";

    const WRITE_TYPES: [WriteType<'static>; 9] = {
        use WriteType::*;
        [Simple, Batch, UnloggedBatch, Counter, BatchLog, Cas, View, Cdc, Other("NEW")]
    };

    /// Every error there is. A new one does not compile until it has a name here and a line above.
    fn name(error: &ErrorKind<'_>) -> String {
        use ErrorKind as E;
        let plain = match error {
            E::WriteTimeout { write_type, .. } => return format!("WRITE_TIMEOUT/{}", write_type.name()),
            E::WriteFailure { write_type, .. } => return format!("WRITE_FAILURE/{}", write_type.name()),
            E::Server => "SERVER",
            E::Protocol => "PROTOCOL",
            E::Authentication => "AUTHENTICATION",
            E::Unavailable { consistency: Consistency::LocalSerial, .. } => "UNAVAILABLE/SERIAL",
            E::Unavailable { .. } => "UNAVAILABLE",
            E::Overloaded => "OVERLOADED",
            E::Bootstrapping => "BOOTSTRAPPING",
            E::Truncate => "TRUNCATE",
            E::ReadTimeout { .. } => "READ_TIMEOUT",
            E::ReadFailure { .. } => "READ_FAILURE",
            E::FunctionFailure { .. } => "FUNCTION_FAILURE",
            E::CdcWriteFailure => "CDC_WRITE_FAILURE",
            E::CasWriteUnknown { .. } => "CAS_WRITE_UNKNOWN",
            E::Syntax => "SYNTAX",
            E::Unauthorized => "UNAUTHORIZED",
            E::Invalid => "INVALID",
            E::Config => "CONFIG",
            E::AlreadyExists { .. } => "ALREADY_EXISTS",
            E::Unprepared { .. } => "UNPREPARED",
            E::Other { .. } => "OTHER",
        };
        plain.to_owned()
    }

    fn errors(none: StringList<'_>) -> Vec<ErrorKind<'_>> {
        use ErrorKind as E;
        let (consistency, received, block_for) = (Consistency::Quorum, 1, 2);
        let failures = Failures::Reasons(FailureReasons::NONE);
        let mut all = vec![
            E::Server,
            E::Protocol,
            E::Authentication,
            E::Unavailable { consistency, required: 2, alive: 1 },
            E::Unavailable { consistency: Consistency::LocalSerial, required: 2, alive: 1 },
            E::Overloaded,
            E::Bootstrapping,
            E::Truncate,
            E::ReadTimeout { consistency, received, block_for, data_present: false },
            E::ReadFailure { consistency, received, block_for, failures, data_present: false },
            E::FunctionFailure { keyspace: "k", function: "f", arguments: none },
            E::CdcWriteFailure,
            E::CasWriteUnknown { consistency, received, block_for },
            E::Syntax,
            E::Unauthorized,
            E::Invalid,
            E::Config,
            E::AlreadyExists { keyspace: "k", table: "t" },
            E::Unprepared { id: b"id" },
            E::Other { code: 0x7777, body: b"" },
        ];
        for write_type in WRITE_TYPES {
            all.push(E::WriteTimeout { consistency, received, block_for, write_type, contentions: None });
            all.push(E::WriteFailure { consistency, received, block_for, failures, write_type });
        }
        all
    }

    fn row(of: impl Fn(Kind) -> Outcome) -> Vec<&'static str> {
        let letter = |kind| match of(kind) {
            Outcome::Absent => "A",
            Outcome::Committed => "C",
            Outcome::Unknown => "U",
        };
        Kind::ALL.into_iter().map(letter).collect()
    }

    #[test]
    fn every_error_says_of_every_write_what_was_tried() {
        let none = Reader::new(&[0, 0]).string_list("none").expect("an empty list");
        let mut said: Vec<(String, Vec<&str>)> = errors(none)
            .iter()
            .map(|error| (name(error), row(|kind| outcome(kind, Version::V5, Some(error)))))
            .collect();
        said.push(("no answer".to_owned(), row(|kind| outcome(kind, Version::V5, None))));
        let mut expected: Vec<(String, Vec<&str>)> = TABLE
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let (name, letters) = words.split_at(words.len() - Kind::ALL.len());
                (name.join(" "), letters.to_vec())
            })
            .collect();
        said.sort();
        expected.sort();
        assert_eq!(said, expected);
    }

    /// v4 has no `CAS_WRITE_UNKNOWN`: what a server says instead must mean the same.
    #[test]
    fn the_words_of_older_versions_say_the_same() {
        let none = Reader::new(&[0, 0]).string_list("none").expect("an empty list");
        for error in errors(none) {
            for version in [Version::V3, Version::V4] {
                let mut frame = bytes::BytesMut::new();
                let response = Response::Error(ServerError::new(error, "no"));
                Envelope::new(version, 0, Opcode::Error)
                    .put(&mut frame, |out| response.put(out, version))
                    .expect("put");
                let told = ServerError::parse(version, &frame[9..]).expect("it reads back").kind;
                for kind in Kind::ALL {
                    let (here, there) = (outcome(kind, Version::V5, Some(&error)), outcome(kind, version, Some(&told)));
                    let safer = there == Outcome::Unknown || here == there;
                    // What v3 says of a full change log cannot be told from a refusal.
                    let named = version == Version::V3 && matches!(error, ErrorKind::CdcWriteFailure);
                    assert!(safer || named, "{error:?} in {version}: {here:?} became {there:?} of {kind:?}");
                }
            }
        }
    }
}
