//! What all wires need of the network.

pub mod clients;
pub mod flow;
pub mod keep;
pub mod pulse;
pub mod socket;
pub mod tls;
