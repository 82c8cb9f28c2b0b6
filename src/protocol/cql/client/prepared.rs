//! Statements that were prepared.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::protocol::cql::wire::types::Type;

/// A statement that a server keeps. Good on every connection: who executes it where it is not known prepares it again.
#[derive(Debug)]
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
    /// Since when the server has no room for it.
    pub(super) crowded_out: OnceLock<Instant>,
}

/// How long a statement that a server has no room for is sent as its text.
const CROWDED: Duration = Duration::from_secs(60);

impl Prepared {
    /// The server prepared it and forgot it at once: its cache is full of what is used more often (Cassandra admits by
    /// frequency). Preparing it again for each execution would cost two round trips more, and not help.
    pub(super) fn crowd_out(&self) {
        let _ = self.crowded_out.set(Instant::now());
    }

    /// Whether to send its text instead.
    pub(super) fn goes_as_text(&self) -> bool {
        self.crowded_out.get().is_some_and(|since| since.elapsed() < CROWDED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_crowded_out_is_tried_again_after_a_while() {
        let (text, keyspace, id, result_metadata_id) = Default::default();
        let (markers, pk_indexes, crowded_out) = Default::default();
        let prepared = Prepared { text, keyspace, id, result_metadata_id, markers, pk_indexes, crowded_out };
        assert!(!prepared.goes_as_text());
        prepared.crowd_out();
        assert!(prepared.goes_as_text());
        tokio::time::advance(CROWDED).await;
        assert!(!prepared.goes_as_text());
    }
}
