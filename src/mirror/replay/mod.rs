//! Mirroring by replay: records hold writes, and a wire's [`applier`] does them on the secondary.

pub mod applier;
pub mod claims;

pub use applier::{Applied, Applier, Certainty, Error, Job, Shown};
