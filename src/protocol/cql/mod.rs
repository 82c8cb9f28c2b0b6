//! CQL, native protocol v3, v4 and v5, as Apache Cassandra and its kin speak it.
//!
//! [`wire`] is bytes and nothing else: frames, segments, views of messages, the splices that a proxy makes. [`text`] is
//! statements and nothing else: what they write, and what must be changed so that both sides write the same.
//! [`write`](mod@write) is what the journal keeps of a write, [`place`] what it keeps of one that is mirrored by state;
//! [`outcome`] says what an error means for it, [`stamps`] when it happened, [`tables`] where;
//! [`ballot`] is what a conditional one became. [`topology`] is
//! what drivers see of the cluster.

pub mod applier;
pub mod ballot;
pub mod check;
pub mod client;
pub mod cluster;
pub mod definitions;
mod link;
mod look;
pub mod outcome;
pub mod place;
mod pulse;
mod relay;
pub mod rules;
mod serve;
mod session;
mod setup;
mod shadow;
mod shown;
pub mod stamps;
mod startup;
pub mod tables;
pub mod text;
pub mod topology;
mod walk;
mod warm;
pub mod wire;
pub mod write;

pub use applier::Hands;
pub use place::part_of;
pub use pulse::Ping;
pub use serve::{Front, serve};
pub use session::Barriers;
pub use setup::{Error as SetupError, Mirroring, Setup, Sides, appliers};
pub use shadow::{Read, Repeater, Watch};
pub use walk::Walk;
pub use write::RECORD_BYTES_MAX;
