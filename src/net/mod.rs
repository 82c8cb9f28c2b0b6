//! What all wires need of the network.

pub mod clients;
pub mod socket;
pub mod tls;
