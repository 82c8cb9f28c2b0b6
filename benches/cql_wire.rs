//! What the CQL codec costs a frame.

fn main() {}
