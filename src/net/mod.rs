//! What all wires need of the network.

pub mod tls;
