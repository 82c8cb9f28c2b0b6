//! Sessions that move: at a switch each client keeps its connection to tandem, and gets another server behind it.
//!
//! ```text
//!  prepare   a second connection is opened and logged in for each session, and brought to the session's state
//!  flip      nothing: a session moves when it enters the gate and finds another primary behind it
//!  move      what changed since is brought over; then the two connections are swapped
//! ```
//!
//! What a session has is known from two sources. Prepared statements: tandem has seen each Parse. All else (settings,
//! role, channels, what cannot move at all) is read from the old server, and only if the session did something since the
//! last look that may leave traces ([`Traces`](super::plan::Traces)): most sessions never do, and move without a word to
//! anybody.
//!
//! [`sessions`] is the register of all sessions and the bell that calls them; [`state`] what a session has beside its
//! statements; [`customs`] the names of settings that no server lists; [`standby`] the connection that it moves to;
//! [`mover`] what one session does when it is called.

pub(crate) mod customs;
pub(crate) mod mover;
pub(crate) mod sessions;
pub(crate) mod standby;
pub(crate) mod state;

use bytes::Bytes;

/// What a session takes along that the server need not be asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Luggage {
    /// Prepared statements, as messages; the unnamed one comes last.
    pub(crate) statements: Vec<Parcel>,
    /// It used types whose oids are the server's own.
    pub(crate) user_types: bool,
    /// It is inside a transaction that AND CHAIN began and in which nothing ran.
    pub(crate) chained: bool,
}

/// A prepared statement on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// Its name; empty: the unnamed one.
    pub(crate) name: Bytes,
    /// Tells it from others that had the name.
    pub(crate) serial: u64,
    /// What makes it on a server.
    pub(crate) form: Form,
}

/// How a statement came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A whole Parse message.
    Parse(Bytes),
    /// A text with PREPARE.
    Sql(Bytes),
}
