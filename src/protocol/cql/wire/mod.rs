//! The bytes of the CQL native protocol, v3 to v5: no I/O, no clock, and no allocation where a view does.
//!
//! A *frame* is a header and a body ([`frame`]; the v5 specification says "envelope"). Up to v4 frames follow each other on
//! the connection and each says whether its body is compressed; v5 wraps them in checksummed *segments* ([`segment`],
//! which the v5 specification calls "frames"). A session relays frames as the bytes they came in; who must look inside
//! opens an [`Envelope`], then a [`request`] or a [`response`]: views that borrow. To rewrite a message, change fields of
//! its view and put it again: what was not changed is copied.
//!
//! Nothing here panics on outside bytes: every length is checked before it is used, and every [`Error`] displays as what
//! the peer may be told.
//!
//! Source of every constant: Apache Cassandra, `doc/native_protocol_v3.spec`, `_v4.spec`, `_v5.spec`; where the server does
//! more or other than they say, the comment says so.

pub mod compress;
mod error;
pub mod frame;
pub mod primitive;
pub mod request;
pub mod response;
pub mod segment;
pub mod types;
pub mod value;

#[cfg(test)]
mod oracle;
#[cfg(any(test, fuzzing))]
pub mod storm;

pub use error::{Error, HeaderError};
pub use frame::{Envelope, Frame, Header, Opcode, Version};
