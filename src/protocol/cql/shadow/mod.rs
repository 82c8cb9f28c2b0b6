//! Shadow reads: what clients read is read again on the secondary, and compared row by row and cell by cell.
//!
//! A session that forwards a read asks the core whether it is chosen ([`crate::shadow::Handle::sample`]); if so it keeps the
//! request and a copy of the answer ([`watch`], [`read`]). [`reading`] says what text and schema say of it, [`ask`] asks for it again,
//! [`compare`] and [`alike`] compare, [`cells`] looks closer at rows that are being written, and [`repeater`] puts them together for the core.
//!
//! Never repeated: what each server evaluates by itself, what is not mirrored, and nothing at a serial level, for that may
//! finish another's transaction. A page is a read of its own: paging states mean the same on both sides, whichever versions
//! those are.

mod alike;
mod ask;
mod cells;
mod compare;
mod read;
pub(in crate::protocol::cql) mod reading;
mod repeater;
mod shown;
mod watch;

pub use read::Read;
pub use repeater::Repeater;
pub use watch::Watch;
pub(in crate::protocol::cql) use watch::{Candidate, Watched};
