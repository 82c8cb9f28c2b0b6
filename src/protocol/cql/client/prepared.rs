//! Statements that were prepared.

use bytes::Bytes;

use crate::protocol::cql::wire::types::Type;

/// A statement that a server keeps. Good on every connection: who executes it where it is not known prepares it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its text.
    pub text: Box<str>,
    /// For names without one.
    pub keyspace: Option<Box<str>>,
    /// For EXECUTE.
    pub(super) id: Bytes,
    /// For EXECUTE, since v5.
    pub(super) result_metadata_id: Option<Bytes>,
    /// Its markers: the column's name or the marker's own, and the type.
    pub markers: Vec<(String, Type)>,
    /// Which markers make up the partition key, in its order; empty where some part of the key has no marker.
    pub pk_indexes: Vec<u16>,
}
