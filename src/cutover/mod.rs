//! Which side answers, and how that changes without losing a write.

pub mod gate;
