//! CQL, native protocol v3, v4 and v5, as Apache Cassandra and its kin speak it.
//!
//! [`wire`] is bytes and nothing else: frames, segments, views of messages, the splices that a proxy makes.

pub mod wire;
