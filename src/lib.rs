//! tandem: a wire-level dual-write migration proxy.
//!
//! Applications point their connection strings at it. It forwards their traffic to the *primary*, mirrors writes to
//! the *secondary* through a durable journal, and keeps the secondary an exact state of the primary. `ARCHITECTURE.md`
//! tells the words, the promises and the shape; the numbers of the promises are used in comments and tests.
//!
//! Dependencies point one way: [`protocol`] calls the core (`journal`, `mirror`, `cutover`, `net`, `record`), and
//! nothing in the core names a protocol.

pub mod admin;
#[cfg(test)]
mod allocations;
pub mod backfill;
pub mod check;
pub mod cli;
pub mod config;
pub mod cutover;
pub mod dice;
pub mod journal;
pub mod metrics;
pub mod mirror;
pub mod net;
pub mod protocol;
pub mod proxy;
pub mod record;
pub mod sandbox;
#[cfg(test)]
mod seeds;
pub mod shadow;
pub mod telemetry;
