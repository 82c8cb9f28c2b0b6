//! Keys in canonical form: equal rows have equal bytes, whatever text or format the client used.
//!
//! A key is, for each key column in index order, a varint length and the value in the type's *binary send* format
//! (`int4send`, `uuid_send`, `textsend` in UTF-8, ...), so that a payment can hand it to the server as a binary
//! parameter of the real type, and no client text is ever cast again. Types without a stable binary form are kept as
//! their text in the mirror's own settings ([`Form::Text`]).

/// How the values of one key column are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Binary send format of a built-in type that the proxy itself can parse from client text: smallint, int, bigint.
    Int(u8),
    /// `uuid`.
    Uuid,
    /// `text`, `varchar`: UTF-8 bytes.
    Utf8,
    /// `bool`.
    Bool,
    /// `bytea`.
    Bytea,
    /// `numeric`: canonical binary form, trailing zeros removed.
    Numeric,
    /// Another built-in type's binary form, known only from the server (`timestamptz_send`, ...).
    Binary,
    /// Text as the server wrote it under the mirror's settings; cast back by name.
    Text,
}
