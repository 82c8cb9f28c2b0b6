//! CQL as text: what a proxy must know of a statement. No I/O, no clock, no state.
//!
//! [`parse::parse`] looks at a text once per shape and says what it is ([`statement::Statement`]); the session caches
//! the answer. [`schema`] joins it with a table's description: which partition, which cells, what cannot simply be
//! sent again; [`partition`] and [`stamp`] add an execution's values. [`names`] is what servers
//! call markers. [`plain`] is what a conditional statement did. [`volatile`] makes both sides get the same `now()`,
//! [`now`] the same `'now'`. [`system`]
//! answers what drivers ask about the cluster. [`shape`] is what a log may say.
//!
//! Clarity before speed: what is slow here is slow once per prepared statement.

pub mod document;
pub mod edit;
pub mod expr;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
pub mod generate;
pub mod keyword;
pub mod literal;
pub mod names;
pub mod now;
pub mod parse;
pub mod partition;
pub mod plain;
pub mod schema;
pub mod shape;
pub mod stamp;
pub mod statement;
pub mod system;
pub mod token;
pub mod volatile;
