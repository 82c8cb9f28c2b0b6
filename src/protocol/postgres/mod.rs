//! PostgreSQL, protocol 3.0 and 3.2.

pub mod analysis;
pub mod catalog;
pub mod client;
pub mod evident;
pub mod key;
pub mod lexer;
pub mod plan;
#[cfg(test)]
mod testing;
pub mod wire;
