//! The bytes of the CQL native protocol.
