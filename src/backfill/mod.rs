//! History: rows that were there before the mirror, or that it may have missed.
//!
//! Backfill copies them, verify compares both sides, repair has the mirror copy what differs. All three are walks over
//! the same [`work`]: chunks of tables, done by a wire's copier right after a payment, at the very state of the primary
//! that the payment made the secondary equal to. So a chunk never meets a write that is not on both sides: there are no
//! windows, no ghost rows, nothing regresses (promise 11), and a difference that is found is real (promise 8).
//!
//! [`Request`] says what is asked for, [`job`] is one walk as a value, [`desk`] where operators, the mirror's engine and the copier's workers meet over it,
//! [`crew`] where workers in other processes are lent chunks, [`lines`] keeps what was found to differ.

mod counts;
pub mod crew;
pub mod desk;
pub mod job;
pub mod lines;
mod meters;
mod report;
mod request;
#[cfg(test)]
mod simulation;
mod spans;
mod tract;
mod trust;
mod walked;
pub mod work;

pub use counts::Counts;
pub use desk::{Desk, Options, Refused};
pub use job::State;
pub use report::{Report, TableReport};
pub use request::{Compare, Conflict, Kind, Request, is_named};
pub use trust::Doubts;
