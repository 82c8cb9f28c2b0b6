//! Calls that each server would answer differently, evaluated once for both (CQL-CORNERS H8).
//!
//! Only the call itself is replaced; what is around it (`toTimestamp(now()) + 1h`) is deterministic and stays. In a
//! text the call becomes a literal with a type hint. In a text that is prepared it becomes one more bind marker, so
//! that one prepared statement serves every execution. Servers refuse markers inside list, set and map literals (tried
//! on 4.1 and 5.0): such a statement is sent as text with literals at each execution.
//!
//! Names differ too: 5.0 dropped `dateOf` and `unixTimestampOf`, 4.1 lacks `to_timestamp` and its kin. A call is
//! translated for the side that lacks its name.
//!
//! A server evaluates a call anew for each row that one statement writes (`WHERE k IN (1, 2)`); here all rows get the
//! one value.

use super::edit::{self, Edit};
use super::expr::{Expr, Function, Value};
use super::generate::{Fresh, Generated};
use super::statement::{Body, Call, Operand, Operation, Restricted, Statement};
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

/// Whether a statement as it is means the same on a server of this dialect.
pub fn is_portable(statement: &Statement, dialect: Dialect) -> bool {
    volatile_calls(statement).next().is_none() && translations(statement, dialect).is_empty()
}

/// The text for a server of this dialect, with literals in place of volatile calls: `values` are for
/// [`volatile_calls`] in order, and the same for both sides. Bind markers keep their numbers.
pub fn with_literals(text: &[u8], statement: &Statement, dialect: Dialect, values: &[Generated]) -> Vec<u8> {
    edit::apply(text, literals(statement, dialect, values))
}

/// What [`with_literals`] changes.
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

/// How a statement is prepared on a server of some dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// As it is, values as they come.
    Same,
    /// Another text, and values in another order.
    Rewritten(Rewritten),
    /// Not at all: each execution is a QUERY of [`with_literals`] with the client's values.
    AsText,
}

/// A text to prepare in place of a client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The text.
    pub text: Vec<u8>,
    /// What is bound to each of its markers in order.
    pub slots: Vec<Slot>,
}

/// What is bound to a marker of a rewritten text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The client's value of this number; by name, the client's names stay valid.
    Given(usize),
    /// A value made up at each execution.
    Fresh(Fresh, FreshName),
}

/// The name of a marker that was added, for values that are bound by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreshName(pub String);

impl Rewritten {
    /// The values in the order of the rewritten text: the client's `given` ones and what `make` makes. A value that
    /// the client left out is left out again, for the server to complain about.
    pub fn arrange<V: Clone>(&self, given: &[V], mut make: impl FnMut(Fresh) -> V) -> Vec<V> {
        let value = |slot: &Slot| match slot {
            Slot::Given(number) => given.get(*number).cloned(),
            Slot::Fresh(kind, _) => Some(make(*kind)),
        };
        self.slots.iter().filter_map(value).collect()
    }

    /// The values to add, with their names, to those that a client bound by name.
    pub fn additions(&self) -> impl Iterator<Item = (&str, Fresh)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Fresh(kind, FreshName(name)) => Some((name.as_str(), *kind)),
            Slot::Given(_) => None,
        })
    }
}

/// How to prepare a statement on a server of this dialect so that volatile calls are evaluated by the proxy.
pub fn prepared(text: &[u8], statement: &Statement, dialect: Dialect) -> Prepared {
    if is_portable(statement, dialect) {
        return Prepared::Same;
    }
    let calls: Vec<(&Call, Fresh)> = volatile_calls(statement).collect();
    if calls.iter().any(|(call, _)| is_in_collection(statement, call.span)) {
        return Prepared::AsText;
    }
    let added = calls.iter().zip(free_names(statement));
    let markers: Vec<(Edit, Slot)> = added.map(|((call, kind), name)| marker(call, *kind, name)).collect();
    let mut slots: Vec<(usize, Slot)> =
        statement.markers.iter().enumerate().map(|(number, marker)| (marker.span.start, Slot::Given(number))).collect();
    slots.extend(markers.iter().map(|(edit, slot)| (edit.span.start, slot.clone())));
    slots.sort_by_key(|(place, _)| *place);
    let edits = remaining_translations(statement, dialect).chain(markers.into_iter().map(|(edit, _)| edit));
    Prepared::Rewritten(Rewritten {
        text: edit::apply(text, edits.collect()),
        slots: slots.into_iter().map(|(_, slot)| slot).collect(),
    })
}

fn marker(call: &Call, kind: Fresh, name: String) -> (Edit, Slot) {
    let edit = Edit { span: call.span, text: format!("({}):{name}", kind.cql_type()) };
    (edit, Slot::Fresh(kind, FreshName(name)))
}

/// Names for markers that the statement does not use yet.
fn free_names(statement: &Statement) -> impl Iterator<Item = String> {
    let taken = |name: &str| statement.markers.iter().any(|marker| marker.name.as_deref() == Some(name));
    (0..).map(|number| format!("tandem_{number}")).filter(move |name| !taken(name))
}

/// Whether a place is inside a list, set or map literal of a value that is written or compared with.
fn is_in_collection(statement: &Statement, place: Span) -> bool {
    let mut found = false;
    let mut look = |expr: &Expr| {
        let literal = matches!(expr.value, Value::List(_) | Value::Set(_) | Value::Map(_));
        found |= literal && expr.span.start < place.start && place.end < expr.span.end;
    };
    if !matches!(statement.body, Body::Select(_)) {
        values(statement).into_iter().for_each(|value| value.walk(&mut look));
    }
    found
}

/// All values of a statement's modifications.
fn values(statement: &Statement) -> Vec<&Expr> {
    let mut all = Vec::new();
    for modification in statement.modifications() {
        for assignment in &modification.assignments {
            match &assignment.operation {
                Operation::SetElement(at, value) => all.extend([at, value]),
                Operation::Set(value)
                | Operation::Add(value)
                | Operation::Prepend(value)
                | Operation::Subtract(value)
                | Operation::SetField(_, value)
                | Operation::DeleteElement(value) => all.push(value),
                Operation::Delete | Operation::DeleteField(_) => {}
            }
        }
        let conditions = match &modification.condition {
            Some(super::statement::Condition::Columns(conditions)) => conditions.as_slice(),
            _ => &[],
        };
        for relation in modification.relations.iter().chain(conditions) {
            if let Restricted::Element(_, at) = &relation.left {
                all.push(at);
            }
            match &relation.right {
                Operand::One(value) => all.push(value),
                Operand::Many(values) => all.extend(values),
                Operand::Nothing => {}
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
