//! What drivers see of the cluster: the proxies, and nothing else.
//!
//! A driver asks whom it talks to, and connects to everybody it hears of. So a proxy answers for itself: `system.local`,
//! `system.peers` and `system.peers_v2` ([`question`], over the [`rows`] of the moment), SUPPORTED ([`supported`]) and
//! events ([`events`]). Who it says it is, the [`identity`], is made at the first start of what both sides say of themselves
//! ([`facts`]), kept, and the same on both sides of a switch: a driver that sees another cluster name or host id behind
//! an address that it knows drops the node, some for good.
//!
//! Only `schema_version` is the primary's, as it is: drivers wait on it for schema agreement.
//!
//! Data in, data out: no I/O but the identity's file, no clock. What the session does with it:
//! - OPTIONS: [`Supported::put`](supported::Supported::put). A version that it lacks:
//!   [`Supported::refusal`](supported::Supported::refusal).
//! - QUERY, PREPARE: [`Question::of`](question::Question::of) each text once, beside what else is known of it. If there is
//!   one, nothing is forwarded: [`put_answer`](question::Question::put_answer), [`put_prepared`](question::Question::put_prepared);
//!   EXECUTE of its [`id`](question::Question::id) likewise.
//! - REGISTER: [`events::forwarded`]; EVENT: [`events::passes`].

pub mod describe;
pub mod events;
pub mod facts;
pub mod identity;
pub mod question;
pub mod rows;
pub mod supported;

pub use facts::Facts;
pub use identity::Identity;
pub use question::Question;
pub use rows::{Member, Moment};
pub use supported::Supported;
