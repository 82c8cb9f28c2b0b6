//! Mirroring by state: the journal names keys, payments copy their rows.
//!
//! [`ledger`] says what is owed, [`engine`] pays it through a wire's [`copier`], [`retention`] says what has to stay
//! owable because one of the two servers may yet lose it, [`book`] keeps the little that must survive a restart beside
//! the journal, [`turn`] has an engine for each direction, [`keys`] are kept small.

pub mod book;
pub mod copier;
pub mod engine;
pub mod keys;
pub mod ledger;
pub mod retention;
pub mod turn;

#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;

pub use engine::{Config, Engine, Paths};
pub use turn::{ByState, reached};
