//! Storm.
