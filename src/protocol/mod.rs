//! The wires. Siblings: one never imports another, and the core names none of them.

pub mod cql;
pub mod postgres;
