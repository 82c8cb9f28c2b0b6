//! What can be configured, and why a journal does not open.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Lsn;
use super::entry;
use super::segment::PAGE;
use super::storage::Storage;

/// Records that fit the ring. One fits whatever goes on: readers' pins leave half of the ring to the appends, and a quarter
/// is for outcomes.
const RING_RECORDS: u64 = 4;
/// Records that fit a segment. One that does not fit behind the others leaves the rest of its segment empty.
const SEGMENT_RECORDS: u64 = 2;

/// What to do with a log that cannot be read. What lies beside it says that there was one: see [`Options::beside`].
pub const BEGIN_ANEW: &str = "with tandem stopped, move `control`, `ring` and `*.segment` out of its directory, and nothing else \
    (`switch-control` says which side answers clients); start tandem: every table is dirty; then verify and repair all";

/// What makes a record durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Written is enough: it survives a kill of the process.
    Memory,
    /// It is in a file of the operating system, which writes it out when it likes.
    Os,
    /// It is on the disk.
    #[default]
    Fsync,
}

/// What one sync did.
#[derive(Clone, Copy, Debug)]
pub struct SyncSample {
    /// From the first write to the end of the sync.
    pub took: Duration,
    /// Bytes of the log that became durable together.
    pub bytes: u64,
}

/// Settings of a journal.
#[derive(Clone)]
pub struct Options {
    /// What makes a record durable.
    pub durability: Durability,
    /// Bytes that all segments together may take on disk, at least three segments; beyond that [`super::Error::Full`].
    /// The ring and the control file (64 KiB) come on top.
    pub size_limit_bytes: u64,
    /// Bytes of entries in one segment, at least twice the record limit. Two spare ones are kept ready.
    pub segment_bytes: u64,
    /// Bytes of a record's payload, at most 16 MiB - 1.
    pub record_limit_bytes: usize,
    /// Bytes written and not yet durable at any time, at least four times the record limit, whole pages. A quarter of it
    /// bounds the units without an outcome: 24 bytes each.
    pub ring_bytes: u64,
    /// How long an announced label stays active at least when nobody announces it again.
    pub window: Duration,
    /// How far the log was when files beside it were written that name positions; `None`: there are none. A log that ends
    /// below went back, or is a new one: it goes on from there, and says that anything may be missing.
    pub beside: Option<Lsn>,
    /// Called after each sync, on the thread that syncs: return quickly.
    pub on_sync: Option<Arc<dyn Fn(SyncSample) + Send + Sync>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            durability: Durability::Fsync,
            size_limit_bytes: 4 << 30,
            segment_bytes: 32 << 20,
            record_limit_bytes: 1 << 20,
            ring_bytes: 8 << 20,
            window: Duration::from_secs(600),
            beside: None,
            on_sync: None,
        }
    }
}

/// Why a journal did not open. The operator must act; trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "journal directory {0} is in use: a tandem runs with it, or still drains (limits.drain_timeout). Wait for its end, or end it; \
         another directory would be another migration, in which the origin answers clients"
    )]
    Locked(String),
    /// Written by a newer tandem.
    #[error("journal in {place} has version {found}, this tandem reads up to {known}: start the newer tandem")]
    Newer {
        /// The directory.
        place: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Bytes that were synced are gone or changed.
    #[error(
        "journal in {place} is damaged: {what}. Writes that were acknowledged may be missing from it: {BEGIN_ANEW}"
    )]
    Damaged {
        /// The directory.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The settings contradict each other.
    #[error("journal settings: {0}")]
    Options(&'static str),
    /// The disk refused.
    #[error("journal in {place}: {error}")]
    Io {
        /// The directory.
        place: String,
        /// What the system said.
        error: io::Error,
    },
}

impl Options {
    /// For records of up to so many bytes: the ring is as large as they need.
    pub fn for_records(record_limit_bytes: usize) -> Options {
        let own = Options::default();
        let needed = RING_RECORDS * ((entry::HEADER + record_limit_bytes) as u64).next_multiple_of(PAGE);
        Options { record_limit_bytes, ring_bytes: own.ring_bytes.max(needed), ..own }
    }

    /// Segments that fit the size limit.
    pub(super) fn segments(&self) -> u64 {
        self.size_limit_bytes / self.file_bytes()
    }

    /// Size of a segment's file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.segment_bytes + PAGE
    }

    /// The disk takes another segment and has one left: it may be another's too, such as a server's that ends when it
    /// cannot write. But of the `files` that there are one alone would be full for ever: it takes two to go from one to the
    /// other.
    pub(super) fn leaves_room(&self, storage: &dyn Storage, files: u64) -> bool {
        let needed = if files < 2 { 1 } else { 2 };
        storage.free_bytes().is_none_or(|free| free >= needed * self.file_bytes())
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let record = self.record_limit_bytes as u64;
        let rules = [
            (self.record_limit_bytes <= entry::LENGTH_LIMIT, "the record limit is at most 16 MiB - 1"),
            (self.ring_bytes.is_multiple_of(PAGE), "the ring is whole pages of 4096 bytes"),
            (self.ring_bytes >= RING_RECORDS * record, "the ring is at least four times the record limit"),
            (self.segment_bytes.is_multiple_of(PAGE), "a segment is whole pages of 4096 bytes"),
            (self.segment_bytes >= SEGMENT_RECORDS * record, "a segment is at least twice the record limit"),
            (self.segments() >= 3, "the size limit is at least three segments"),
        ];
        rules.iter().find(|(kept, _)| !kept).map_or(Ok(()), |(_, rule)| Err(OpenError::Options(rule)))
    }
}
