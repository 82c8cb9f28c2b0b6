//! A write as the journal keeps it: enough to replay it on a fresh connection, years later, by a stranger.
//!
//! Layout:
//!
//! ```text
//! write := version u8 (1 or 2), form u8 (0 = one statement, 1 = a batch), BATCH message of protocol v5
//! ```
//!
//! Version 2 says that it may not be done again on the primary: nobody had seen its client write to one of its tables before, or
//! it is not all that its client asked for.
//!
//! The message holds texts instead of prepared ids, values by place instead of by name, and always a timestamp, a
//! `now_in_seconds` and, where names in it need one, a keyspace: nothing in it depends on the connection that it came by.

use bytes::{BufMut, BytesMut};

use super::wire::Version;
use super::wire::request::{Batch, BatchKind, Parameters, Statement, put_batch};

const VERSION: u8 = 1;
const ONCE: u8 = 2;

/// The largest record: a write with what it touches. What Cassandra takes as a message (`native_transport_max_frame_size`), or
/// as a mutation (half a segment of its commit log), is by default 16 MiB; so is what a journal can keep. A page less, and two
/// of them fill one of its segments.
pub const RECORD_BYTES_MAX: usize = (16 << 20) - (4 << 10);

/// One request that writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Write<'a> {
    /// It was a batch. Otherwise there is one statement, to be executed alone.
    pub is_batch: bool,
    /// It may not be done again where it was executed: whether its client may write there was not seen before, or half of what
    /// its client wants whole would be there.
    pub is_once: bool,
    /// The statements, all by text; consistency, timestamp, now in seconds and keyspace.
    pub batch: Batch<'a>,
}

/// The bytes are not a write that this version can read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Cut short.
    #[error("a write is cut short")]
    Truncated,
    /// Written by a newer tandem.
    #[error("a write has version {0}, this tandem reads versions up to {ONCE}")]
    Version(u8),
    /// Its message cannot be read.
    #[error("a write cannot be read: {0}")]
    Message(#[from] super::wire::Error),
}

impl<'a> Write<'a> {
    /// Read it back.
    pub fn parse(bytes: &'a [u8]) -> Result<Write<'a>, Malformed> {
        let (&[version, form], message) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
        if !(VERSION..=ONCE).contains(&version) {
            return Err(Malformed::Version(version));
        }
        let is_once = version == ONCE;
        Ok(Write { is_batch: form == 1, is_once, batch: Batch::parse(Version::V5, message)? })
    }
}

/// Append one statement, to be executed alone. What its parameters say of values is not used.
///
/// # Errors
/// Something in it is longer than the protocol can say.
pub fn put_statement(
    out: &mut BytesMut,
    statement: Statement<'_>,
    parameters: &Parameters<'_>,
) -> Result<(), super::wire::Error> {
    put(out, false, BatchKind::Unlogged, &[statement], parameters)
}

/// Append a batch.
///
/// # Errors
/// Something in it is longer than the protocol can say.
pub fn put_statements(
    out: &mut BytesMut,
    kind: BatchKind,
    statements: &[Statement<'_>],
    parameters: &Parameters<'_>,
) -> Result<(), super::wire::Error> {
    put(out, true, kind, statements, parameters)
}

/// What was put here says that it may not be done again on the primary. See [`Write::is_once`].
pub fn mark_once(write: &mut BytesMut) {
    if let Some(version) = write.first_mut() {
        *version = ONCE;
    }
}

fn put(
    out: &mut BytesMut,
    is_batch: bool,
    kind: BatchKind,
    statements: &[Statement<'_>],
    parameters: &Parameters<'_>,
) -> Result<(), super::wire::Error> {
    out.put_u8(VERSION);
    out.put_u8(is_batch.into());
    let parameters =
        Parameters { values: None, skip_metadata: true, page_size: None, paging_state: None, ..*parameters };
    put_batch(out, Version::V5, kind, statements, &parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::wire::primitive::{Consistency, Value};
    use crate::protocol::cql::wire::request::{StatementText, Values};

    fn parameters() -> Parameters<'static> {
        Parameters {
            timestamp: Some(1_700_000_000_000_001),
            keyspace: Some("shop"),
            now_in_seconds: Some(1_700_000_000),
            ..Parameters::new(Consistency::LocalQuorum)
        }
    }

    fn statement() -> Statement<'static> {
        const VALUES: &[(Option<&str>, Value<'_>)] =
            &[(None, Value::Set(b"k")), (None, Value::Unset), (None, Value::Null)];
        let text = b"INSERT INTO t (k, a, b) VALUES (?, ?, ?)";
        Statement { text: StatementText::Text(text), values: Values::Given(VALUES) }
    }

    #[test]
    fn a_statement_reads_back_as_it_was() {
        let mut out = BytesMut::new();
        put_statement(&mut out, statement(), &parameters()).expect("short");
        let write = Write::parse(&out).expect("well-formed");
        assert!(!write.is_batch);
        assert_eq!(write.batch.statements.iter().collect::<Vec<_>>(), [statement()]);
        assert_eq!(write.batch.parameters, Parameters { skip_metadata: true, ..parameters() });
    }

    #[test]
    fn it_says_whether_it_may_be_done_again() {
        let mut out = BytesMut::new();
        put_statement(&mut out, statement(), &parameters()).expect("short");
        assert!(!Write::parse(&out).expect("well-formed").is_once);
        let before = out.clone();
        mark_once(&mut out);
        let write = Write::parse(&out).expect("well-formed");
        assert!(write.is_once);
        assert_eq!(write, Write { is_once: true, ..Write::parse(&before).expect("well-formed") });
    }

    #[test]
    fn a_batch_reads_back_as_it_was_and_every_cut_of_it_is_an_error() {
        let mut out = BytesMut::new();
        put_statements(&mut out, BatchKind::Logged, &[statement(), statement()], &parameters()).expect("short");
        let write = Write::parse(&out).expect("well-formed");
        assert!(write.is_batch && write.batch.kind == BatchKind::Logged);
        assert_eq!(write.batch.statements.len(), 2);
        for cut in 0..out.len() {
            assert!(Write::parse(&out[..cut]).is_err(), "cut at {cut}");
        }
        out[0] = 9;
        assert!(matches!(Write::parse(&out), Err(Malformed::Version(9))));
    }
}
