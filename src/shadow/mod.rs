//! Shadow reads: a share of the clients' reads is repeated on the secondary, and both answers and times are compared. It
//! answers the two questions before a switch: is the other side right, and is it fast enough?
//!
//! ```text
//!  session (a worker)                            service (the main thread)
//!  sample -> Slot -> keep, keep -> submit  --->  causal wait -> repeat -> match
//!            room in the queue, or none                            |
//!                                                  recheck, until alike (in flight, noise) or it lasts: a mismatch
//! ```
//!
//! *The secondary cannot hurt* (promise 7). Sampling never waits: a [`Slot`] is room for one read, and there is room or there
//! is none. What is chosen and not compared is counted with its reason ([`Skip`]). Off, a read costs one relaxed load; on and
//! not chosen, a random number: neither a lock nor an allocation.
//!
//! *A mismatch is real* (promise 8). A read is compared when the secondary has everything that was written before the
//! primary's answer ended: its *causal point*. The secondary may then already be ahead, so a difference is asked for again,
//! on both sides, until it is gone or lasts. Where the wire can show both sides at one state (PostgreSQL's twins) it decides
//! at once; else a difference must stay the same for `shadow.recheck`, over several looks, while the primary stays the same.
//! A primary that differs with itself shows noise; where it changes at each look and the wire cannot tell the versions of a
//! value apart, a read is left undecided, and counted so.
//!
//! What lasts is kept ([`Mismatches`], in memory: after a restart it is found again), said in the log (bounded), owed to the mirror
//! where the wire can name its keys and else dirty, and looked at again until it is gone.
//!
//! The core knows no wire and sees no rows: a wire implements [`Repeater`] and makes the verdicts.

mod board;
mod findings;
mod followed;
mod histogram;
mod lines;
mod mismatches;
mod recent;
mod report;
mod sampler;
mod service;
mod shapes;
#[cfg(test)]
mod simulation;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use crate::record::TableId;

pub use board::Board;
pub use findings::RULES;
pub use histogram::Histogram;
pub use mismatches::{Entry, Mismatches, State};
pub use recent::{Recent, Sides};
pub use report::{Counts, Mismatch, Report, ShapeReport, Summary, Times, Verdict as Answer};
pub use sampler::{Handle, Slot};
pub use service::{Causal, Queue, Service};
pub use shapes::{Shape, Shapes};

/// What a read is, to choose by and to count under. Made only for a read that may be chosen.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// How it came: `text` or `prepared`.
    pub kind: &'static str,
    /// The tables that it reads, with their qualified names; the first gives its metrics their label.
    pub tables: SmallVec<[(TableId, &'a str); 4]>,
    /// The client's address, where there is one.
    pub client: Option<IpAddr>,
    /// Who the client logged in as.
    pub user: &'a str,
    /// The statement's text without values: people see it (promise 13). Statements of one shape are counted together.
    pub shape: &'a str,
}

/// A wire's half: it asks the secondary, and compares. Every future may be dropped half-way: it took too long, a
/// switch holds clients, or tandem ends. What it had asked the servers must end then too, soon.
pub trait Repeater: Send + Sync + 'static {
    /// What the session keeps of a read: the request, the settings it was asked under, the primary's answer.
    type Read: Send + Sync + 'static;

    /// Ask the secondary, which has everything that the answer depends on, and compare. Bounded by `shadow.timeout`, here and
    /// by the core.
    fn repeat(&self, read: &Self::Read, causal: &Causal) -> impl Future<Output = Repeated> + Send;

    /// It differed: ask both sides again. Where no twins are to be had: ask the primary, then await [`Causal::reach`], ask the
    /// secondary, ask the primary again. Holds one of `shadow.workers`; called again after a pause where it stays
    /// undecided.
    fn recheck(&self, read: &Self::Read, causal: &Causal) -> impl Future<Output = Rechecked> + Send;

    /// A hash of all that was asked: the text, its values, who asked.
    fn question(&self, read: &Self::Read) -> u64;

    /// The tables whose rows are shown by those that a read names: the marks of the mirror are on these.
    fn shown_by(&self, tables: &[TableId]) -> Vec<TableId> {
        tables.to_vec()
    }

    /// A hash of who asked.
    fn asker(&self, read: &Self::Read) -> u64;
}

/// A read that was repeated.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// How long the secondary took, as the primary's time is measured: until the answer's last byte.
    pub latency: Duration,
    /// How it compares.
    pub verdict: Verdict,
}

/// How the secondary's answer compares with the one that the client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Alike.
    Match,
    /// Not alike.
    Differs(Difference),
    /// Not comparable.
    Skipped(Skip),
}

/// How both sides compare when they are asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rechecked {
    /// They are alike now: a write was in flight. Also when the secondary shows what the primary showed at either look.
    InFlight,
    /// The primary differs with itself although nothing was written in between.
    Noise,
    /// The primary changed between its two looks: nothing can be said. Asked again later.
    Moved,
    /// They differ while the primary stayed the same; it may still be on its way. Asked again later; the same difference for
    /// long enough is a mismatch.
    Again(Difference),
    /// They differ at one and the same state: a mismatch.
    Persists(Difference),
    /// Not comparable any more.
    Skipped(Skip),
}

/// A difference, without its values but for [`Difference::shown`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Of which kind.
    pub how: How,
    /// The table, where one can be told.
    pub table: Option<TableId>,
    /// Its qualified name, or what people should look for instead.
    pub name: String,
    /// A hash of the keys of all rows that differ, where they can be told: the same for the same keys.
    pub key_hash: Option<u64>,
    /// The columns that differ.
    pub columns: Vec<String>,
    /// The keys of rows that differ, as records hold them, where all of them can be named; else none. They are owed again.
    pub keys: Vec<Box<[u8]>>,
    /// The rows, for an operator who asks for values by name.
    pub shown: Option<Box<Shown>>,
}

impl Difference {
    /// The same difference, as far as can be told, however its values are.
    fn is_like(&self, other: &Difference) -> bool {
        self.is_kind_of(other) && self.key_hash == other.key_hash
    }

    /// The same, perhaps of other rows.
    fn is_kind_of(&self, other: &Difference) -> bool {
        (self.how, self.table, &self.name) == (other.how, other.table, &other.name)
    }
}

impl How {
    /// Rows differ: copying them again mends it.
    pub(crate) fn is_of_rows(self) -> bool {
        matches!(self, How::MissingRow | How::ExtraRow | How::OtherValue)
    }
}

/// Values of rows that differ. Never in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown {
    /// The row's key.
    pub key: String,
    /// The row on the primary; empty: it is not there.
    pub primary: String,
    /// The row on the secondary; empty: it is not there.
    pub secondary: String,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown(..)")
    }
}

/// Declares an enum whose variants are words.
macro_rules! words {
    ($(#[$attr:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)+ }) => {
        $(#[$attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])* $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in metrics, logs and the admin API.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// How two answers differ.
    How {
        /// The secondary lacks a row.
        MissingRow = "missing_row",
        /// The secondary has a row too many.
        ExtraRow = "extra_row",
        /// A row has other values.
        OtherValue = "other_value",
        /// The same rows in another order than the statement asks for.
        OtherOrder = "other_order",
        /// A column has another type, or other columns came.
        OtherType = "other_type",
        /// One side refused, or both did for different reasons.
        OtherError = "other_error",
    }
}

words! {
    /// Why a read that was chosen was not compared.
    Skip {
        /// `shadow.queue` or `shadow.queue_bytes` is used up.
        QueueFull = "queue_full",
        /// The answer is larger than `shadow.max_answer`.
        AnswerTooLarge = "answer_too_large",
        /// The secondary did not have what the answer shows within `shadow.wait`.
        Behind = "behind",
        /// In a transaction that wrote, or whose snapshot is older than the read.
        InTransaction = "in_transaction",
        /// It calls what answers differently each time.
        Volatile = "volatile",
        /// It is not proven to be a read that may be repeated.
        NotRepeatable = "not_repeatable",
        /// It reads tables that are not mirrored, or the system's own.
        NotMirrored = "not_mirrored",
        /// A page behind the first, and `shadow.pages` says that those are not compared.
        LaterPage = "later_page",
        /// It was cut off after some rows, and which ones is open.
        RowLimit = "row_limit",
        /// Rows that are equal in the order asked for: which come first is open.
        Ties = "ties",
        /// The secondary took longer than `shadow.timeout`.
        Timeout = "timeout",
        /// The secondary expects it to cost more than `shadow.max_cost`.
        Expensive = "expensive",
        /// The secondary could not be asked.
        SecondaryFailed = "secondary_failed",
        /// The primary could not be asked again.
        PrimaryFailed = "primary_failed",
        /// tandem cannot compare it.
        Unsupported = "unsupported",
        /// tandem may not ask as this user on the other side.
        NotAllowed = "not_allowed",
        /// A switch came in between.
        Switching = "switching",
        /// The primary changed at every look.
        Moving = "moving",
        /// A table that it reads is dirty already, for another reason.
        Dirty = "dirty",
        /// History is being copied.
        Backfill = "backfill",
        /// The session ended, or something else came before the answer's end.
        Abandoned = "abandoned",
        /// tandem ends.
        Stopped = "stopped",
    }
}

#[cfg(test)]
mod tests;
