//! The mirror: what makes the secondary equal to the primary. Two engines over one journal: by [`state`] (owed keys are
//! paid by copying rows) and, for wires whose timestamps converge, by [`replay`]. Everybody else looks at either through
//! one [`Handle`]; [`turning`] has an engine for each direction.

pub mod backoff;
mod beside;
pub mod dirty;
pub mod durable;
pub mod handle;
pub mod parked;
pub mod replay;
pub mod state;
pub mod turning;
pub mod twins;
pub mod unwritten;
pub mod waits;

pub use handle::{Handle, Phase, Status};
pub use turning::Turning;
pub use twins::Twins;
pub use waits::Waits;
