//! Calls that each server would answer differently, evaluated once for both (CQL-CORNERS H8).
//!
//! Only the call itself is replaced; what is around it (`toTimestamp(now()) + 1h`) is deterministic and stays. The call
//! becomes a literal with a type hint; a statement that was prepared is sent as a text then.
//!
//! Names differ too: 5.0 dropped `dateOf` and `unixTimestampOf`, 4.1 lacks `to_timestamp` and its kin. A call is
//! translated for the side that lacks its name.
//!
//! A server evaluates a call anew for each row that one statement writes (`WHERE k IN (1, 2)`); here all rows get the
//! one value.

use super::edit::Edit;
use super::expr::Function;
use super::generate::{Fresh, Generated};
use super::statement::{Call, Statement};
use super::token::Span;

/// What a server calls its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dialect {
    /// `to_timestamp` and its kin exist: Cassandra 5.0 and newer.
    pub snake_case: bool,
    /// `dateOf` and `unixTimestampOf` exist: before 5.0.
    pub date_of: bool,
}

impl Dialect {
    /// By `release_version` of `system.local`. What is no version is taken for an old one.
    pub fn of_release(version: &str) -> Dialect {
        let major = version.split(['.', '-']).next().and_then(|major| major.parse::<u32>().ok());
        let modern = major.is_some_and(|major| major >= 5);
        Dialect { snake_case: modern, date_of: !modern }
    }
}

/// What can be said of a function by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Gives another value at each call: to be evaluated by the proxy.
    Volatile(Fresh),
    /// The server's own, and a function of its arguments.
    Pure,
    /// A user's function, or one of a newer server: may be volatile. What it writes can be mirrored by state only.
    Doubtful,
}

/// What can be said of a call.
pub fn nature(call: &Call) -> Nature {
    if !is_native(&call.function) {
        return Nature::Doubtful;
    }
    let name = call.function.name.as_str();
    match fresh(name) {
        Some(kind) if call.arguments == 0 => Nature::Volatile(kind),
        Some(_) => Nature::Doubtful,
        None if is_pure(name) => Nature::Pure,
        None => Nature::Doubtful,
    }
}

/// Names are found in the keyspace `system` if none is given. Quoted ones are compared as they are.
fn is_native(function: &Function) -> bool {
    function.keyspace.as_deref().is_none_or(|keyspace| keyspace == "system")
}

fn fresh(name: &str) -> Option<Fresh> {
    match name {
        "now" | "currenttimeuuid" | "current_timeuuid" => Some(Fresh::TimeUuid),
        "uuid" => Some(Fresh::Uuid),
        "currenttimestamp" | "current_timestamp" => Some(Fresh::Timestamp),
        "currentdate" | "current_date" => Some(Fresh::Date),
        "currenttime" | "current_time" => Some(Fresh::Time),
        _ => None,
    }
}

/// The server's own functions of 4.1 and 5.0, other than casts and conversions to and from blobs.
#[rustfmt::skip]
const PURE: &[&str] = &[
    "abs", "avg", "blob_as", "collection_avg", "collection_count", "collection_max", "collection_min", "collection_sum",
    "count", "dateof", "exp", "from_json", "fromjson", "log", "log10", "map_keys", "map_values", "mask_default",
    "mask_hash", "mask_inner", "mask_null", "mask_outer", "mask_replace", "max", "max_timeuuid", "maxtimeuuid", "min",
    "min_timeuuid", "mintimeuuid", "round", "similarity_cosine", "similarity_dot_product", "similarity_euclidean", "sum",
    "to_date", "to_json", "to_timestamp", "to_unix_timestamp", "todate", "tojson", "token", "totimestamp",
    "tounixtimestamp", "ttl", "unixtimestampof", "writetime",
];

fn is_pure(name: &str) -> bool {
    PURE.contains(&name) || conversion(name).is_some() || name.starts_with("cast_as_") || name.starts_with("castas")
}

/// `intAsBlob`, `int_as_blob`, `blobAsInt`, `blob_as_int`: the old name of each.
fn conversion(name: &str) -> Option<String> {
    let native = |word: &str| super::keyword::is_native_type(word.as_bytes());
    let typed = [("_as_blob", "asblob"), ("asblob", "asblob")].iter().find_map(|(ending, old)| {
        name.strip_suffix(ending).filter(|word| native(word)).map(|word| format!("{word}{old}"))
    });
    typed.or_else(|| {
        let word = name.strip_prefix("blob_as_").or_else(|| name.strip_prefix("blobas"))?;
        native(word).then(|| format!("blobas{word}"))
    })
}

/// The name under which a server knows a pure function of the given name; `None` if it is the same.
fn translated(name: &str, dialect: Dialect) -> Option<String> {
    let old = match name {
        "dateof" if !dialect.date_of => return Some("toTimestamp".into()),
        "unixtimestampof" if !dialect.date_of => return Some("toUnixTimestamp".into()),
        _ if dialect.snake_case => return None,
        "to_timestamp" => "toTimestamp".into(),
        "to_date" => "toDate".into(),
        "to_unix_timestamp" => "toUnixTimestamp".into(),
        "to_json" => "toJson".into(),
        "from_json" => "fromJson".into(),
        "min_timeuuid" => "minTimeuuid".into(),
        "max_timeuuid" => "maxTimeuuid".into(),
        "current_timeuuid" => "currentTimeUUID".into(),
        "current_timestamp" => "currentTimestamp".into(),
        "current_date" => "currentDate".into(),
        "current_time" => "currentTime".into(),
        _ => conversion(name)?,
    };
    (old != name).then_some(old)
}

/// Names that must change for a server of this dialect. Leaves volatile calls their meaning: for the text that is sent
/// as it is, such as a read.
pub fn translations(statement: &Statement, dialect: Dialect) -> Vec<Edit> {
    let native = statement.calls.iter().filter(|call| is_native(&call.function));
    native
        .filter_map(|call| Some(Edit { span: call.name_span, text: translated(&call.function.name, dialect)? }))
        .collect()
}

/// The volatile calls of a statement in order, and what each gives.
pub fn volatile_calls(statement: &Statement) -> impl Iterator<Item = (&Call, Fresh)> {
    statement.calls.iter().filter_map(|call| match nature(call) {
        Nature::Volatile(kind) => Some((call, kind)),
        _ => None,
    })
}

/// The calls that may be volatile, unknown to us: by state, or not capturable.
pub fn doubtful_calls(statement: &Statement) -> impl Iterator<Item = &Call> {
    statement.calls.iter().filter(|call| nature(call) == Nature::Doubtful)
}

/// What makes a text one for a server of this dialect, with literals in place of volatile calls: `values` are for
/// [`volatile_calls`] in order, and the same for both sides. Bind markers keep their numbers.
pub fn literals(statement: &Statement, dialect: Dialect, values: &[Generated]) -> Vec<Edit> {
    let literals =
        volatile_calls(statement).zip(values).map(|((call, _), value)| Edit { span: call.span, text: value.literal() });
    remaining_translations(statement, dialect).chain(literals).collect()
}

/// Translations outside of volatile calls, which are replaced whole.
fn remaining_translations(statement: &Statement, dialect: Dialect) -> impl Iterator<Item = Edit> {
    let replaced: Vec<Span> = volatile_calls(statement).map(|(call, _)| call.name_span).collect();
    translations(statement, dialect).into_iter().filter(move |edit| !replaced.contains(&edit.span))
}

#[cfg(test)]
mod tests;
