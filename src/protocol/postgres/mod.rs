//! PostgreSQL, protocol 3.0 and 3.2.
//!
//! [`serve()`] accepts clients; each is one task: [`startup`] relays the first messages, [`relay`] moves bytes through a
//! [`session`], which captures keys by the plans of [`analysis`].

pub mod analysis;
pub mod bypass;
pub mod cache;
pub mod catalog;
pub mod check;
pub mod client;
pub mod copier;
pub mod copy_stream;
pub mod evident;
mod grammar;
mod identity;
pub mod key;
pub mod lexer;
pub mod logins;
mod moving;
pub mod plan;
mod pulse;
mod relay;
#[cfg(any(test, fuzzing))]
mod rig;
mod schema_change;
pub mod scope;
mod serve;
mod servers;
pub mod session;
mod setup;
pub mod shadow;
pub mod shared;
mod startup;
pub mod switch;
#[cfg(test)]
mod testing;
pub mod walk;
pub mod wire;

pub use pulse::Ping;
pub use serve::{Front, serve};
pub use setup::{Error as SetupError, Setup, copier};
pub use walk::Walk;
