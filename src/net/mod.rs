//! What all wires need of the network.

pub mod socket;
pub mod tls;
