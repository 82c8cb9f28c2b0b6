//! Mirroring by replay: records hold writes, and a wire's [`applier`] does them on the secondary, as many at once as do not
//! concern each other.
//!
//! ```text
//!            read              claims held, fate known            done
//! journal ---------> window ------------------------> applier ----------> applied, trimmed
//!                      ^                                |  |
//!                      '----- rests, lost, held --------'  '--> parked (refused)
//! ```
//!
//! [`claims`] say who may go before whom, the window holds what was read and is not done, the core decides, [`engine`] is
//! the loop that does, [`book`] keeps the little that must survive a restart beside the journal.
//!
//! What each promise rests on:
//!
//! - 2, 3: a record is handed out when its outcome is known: committed, or never to be known. That is so when its ticket
//!   was dropped, or when it is of an earlier life of the journal and that was read to its end.
//! - 4: claims queue in the journal's order, from reading a record until it is done or its unit aborted.
//! - 5: what is handed out again must end as done once; barriers and what was parked are not handed out again.
//! - 6: what the secondary refuses is parked, held or dirty, durably, before the journal may forget it.
//! - 7: nothing here is waited for by a client; the journal is the queue.
//! - 12: the window, the jobs in flight and what is parked are bounded.

pub mod applier;
pub mod book;
pub mod claims;
mod contact;
mod core;
pub mod engine;
pub mod history;
pub mod settled;
#[cfg(test)]
mod simulation;
pub mod turn;
mod window;

pub use applier::{Applied, Applier, Certainty, Error, Job, Shown};
pub use engine::{Config, Engine, Paths};
pub use settled::Settled;
pub use turn::{ByReplay, reached};
