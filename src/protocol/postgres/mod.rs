//! PostgreSQL, protocol 3.0 and 3.2.

pub mod catalog;
pub mod key;
pub mod plan;
pub mod wire;
