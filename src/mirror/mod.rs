//! The mirror: what makes the secondary equal to the primary. Two engines over one journal: by *state* (owed keys are
//! paid by copying rows) and, for wires whose timestamps converge, by *replay*.

pub mod dirty;
pub mod durable;
pub mod parked;
pub mod replay;
pub mod state;
