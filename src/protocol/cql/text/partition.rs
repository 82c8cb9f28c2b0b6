//! Which partitions an execution writes, and which row: the effect of a statement joined with the values at hand.
//!
//! For lanes, for conditional statements of one partition passing one at a time, for keys that are dirty. Where a value
//! is computed by the server or written in a way that is not read here, there is no answer and the caller must treat
//! the whole table as meant.

use super::expr::{Expr, Value};
use super::literal::encode;
use super::schema::{Column, Effect, Given, Source, Table};
use super::statement::{Json, Modification};
use super::{document, token};

/// More partitions in one statement are not told apart.
pub const PARTITIONS_MAX: usize = 1024;

/// The key of one partition: each column's bytes, in the key's order.
pub type Key = Vec<Vec<u8>>;

/// The partitions that `modification` of `text`, whose effect on `table` is `effect`, writes when its markers are bound
/// to what `bound` gives: bytes, or `None` for null and unset.
pub fn partitions<'v>(
    text: &[u8],
    modification: &Modification,
    effect: &Effect<'_>,
    table: &Table,
    bound: impl Fn(usize) -> Option<&'v [u8]>,
) -> Option<Vec<Key>> {
    if let Some(json) = &modification.json {
        return Some(vec![document::key(&document(text, json, &bound)?, table.partition_key())?]);
    }
    let choices: Vec<Vec<Vec<u8>>> = (effect.key.iter().zip(table.partition_key()))
        .map(|(given, column)| choices(text, given, column, &bound))
        .collect::<Option<_>>()?;
    combined(&choices)
}

/// The clustering columns of the one row that is written; none, if it is not one, or not named in full.
pub fn row<'v>(
    text: &[u8],
    modification: &Modification,
    effect: &Effect<'_>,
    table: &Table,
    bound: impl Fn(usize) -> Option<&'v [u8]>,
) -> Option<Vec<Vec<u8>>> {
    let key: Vec<Vec<u8>> = match &modification.json {
        Some(json) => document::key(&document(text, json, &bound)?, table.clustering())?,
        None => {
            let value = |(given, column): (&Given<'_>, _)| match given {
                Given::One(value) => bytes(text, value, column, &bound),
                _ => None,
            };
            effect.clustering.iter().zip(table.clustering()).map(value).collect::<Option<_>>()?
        }
    };
    Some(key).filter(|key| !key.is_empty())
}

/// The document of an `INSERT JSON`.
fn document<'v>(text: &[u8], json: &Json, bound: &impl Fn(usize) -> Option<&'v [u8]>) -> Option<Vec<u8>> {
    match json.document.source() {
        Source::Marker(number) => bound(number).map(<[u8]>::to_vec),
        _ => Some(token::unquoted(json.document.span.of(text)).into_bytes()),
    }
}

/// The values that a column may have.
fn choices<'v>(
    text: &[u8],
    given: &Given<'_>,
    column: &Column,
    bound: &impl Fn(usize) -> Option<&'v [u8]>,
) -> Option<Vec<Vec<u8>>> {
    let one = |value: &Expr| bytes(text, value, column, bound);
    match given {
        Given::One(value) => Some(vec![one(value)?]),
        Given::AnyOf(values) if values.len() > PARTITIONS_MAX => None,
        Given::AnyOf(values) => values.iter().map(one).collect(),
        Given::AnyOfList(Expr { value: Value::Marker(number), .. }) => listed(bound(*number)?),
        _ => None,
    }
}

/// What a column is compared with: bytes, unless the server evaluates it.
pub fn bytes<'v>(
    text: &[u8],
    value: &Expr,
    column: &Column,
    bound: &impl Fn(usize) -> Option<&'v [u8]>,
) -> Option<Vec<u8>> {
    match value.source() {
        Source::Marker(number) => bound(number).map(<[u8]>::to_vec),
        Source::Literal(literal, span) => encode(literal, span.of(text), &column.cql_type).ok(),
        Source::Null | Source::Computed(_) => None,
    }
}

/// Every combination, in order, each once.
fn combined(choices: &[Vec<Vec<u8>>]) -> Option<Vec<Key>> {
    let count = choices.iter().try_fold(1_usize, |count, column| count.checked_mul(column.len()))?;
    if count > PARTITIONS_MAX || choices.is_empty() {
        return None;
    }
    let mut keys: Vec<Key> = vec![Vec::new()];
    for column in choices {
        let longer = |key: &Key| {
            column.iter().map(|value| [key.as_slice(), std::slice::from_ref(value)].concat()).collect::<Vec<_>>()
        };
        keys = keys.iter().flat_map(longer).collect();
    }
    keys.sort_unstable();
    keys.dedup();
    Some(keys)
}

/// The elements of a list in its serialized form (native protocol, section 6): a count, then each with its length.
/// `None` if the bytes are no list, or one element is null.
pub fn listed(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (count, mut rest) = integer(bytes)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let (element, behind) = element(rest)?;
        all.push(element.to_vec());
        rest = behind;
    }
    Some(all)
}

/// `[int]`, and what is behind it.
pub(super) fn integer(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*head), rest))
}

/// `[bytes]` that are not null, and what is behind them.
pub(super) fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = integer(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn table() -> Table {
        let columns =
            [("a", "partition_key", 0, "int"), ("b", "partition_key", 1, "text"), ("v", "regular", -1, "text")];
        Table::new(
            "k",
            "t",
            columns.map(|(name, kind, at, cql_type)| Column::described(name, kind, at, cql_type)).to_vec(),
        )
    }

    /// Keys as text: `1/x 2/y`.
    fn keys(text: &str, bound: &[&[u8]]) -> Option<String> {
        let (statement, table) = (parse(text.as_bytes()), table());
        let modification = &statement.modifications()[0];
        let effect = Effect::of(modification, &table);
        let keys = partitions(text.as_bytes(), modification, &effect, &table, |number| bound.get(number).copied())?;
        let spoken = |key: &Key| {
            let number = i32::from_be_bytes(key[0].as_slice().try_into().unwrap());
            format!("{number}/{}", String::from_utf8_lossy(&key[1]))
        };
        Some(keys.iter().map(spoken).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn literals_and_bound_values_make_the_key() {
        let two = [0, 0, 0, 2];
        let list: &[u8] = &[0, 0, 0, 2, 0, 0, 0, 1, b'x', 0, 0, 0, 1, b'y'];
        for (text, bound, expected) in [
            ("INSERT INTO t (b, a, v) VALUES ('x', 1, ?)", vec![&b"v"[..]], Some("1/x")),
            ("INSERT INTO t (a, b) VALUES ((int)?, 'it''s')", vec![&two[..]], Some("2/it's")),
            ("UPDATE t SET v=? WHERE a=? AND b=:b", vec![&b"v"[..], &two, b"y"], Some("2/y")),
            ("DELETE FROM t WHERE a IN (1, ?, 1) AND b IN ?", vec![&two[..], list], Some("1/x 1/y 2/x 2/y")),
            ("INSERT INTO t JSON '{\"a\": 5, \"b\": \"it''s\"}'", vec![], Some("5/it's")),
            ("INSERT INTO t JSON ?", vec![&b"{\"A\": 5, \"b\": \"x\"}"[..]], Some("5/x")),
            ("INSERT INTO t (a, b) VALUES (?, 'x')", vec![], None),
            ("INSERT INTO t (a, b) VALUES (f(1), 'x')", vec![], None),
            ("INSERT INTO t (a) VALUES (1)", vec![], None),
            ("DELETE FROM t WHERE a = 1 AND b IN ?", vec![&[0, 0, 0, 9, 1][..]], None),
        ] {
            assert_eq!(keys(text, &bound).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn too_many_partitions_are_not_told_apart() {
        let many = (0..100).map(|number| format!("{number}")).collect::<Vec<_>>().join(",");
        let names = (0..100).map(|number| format!("'{number}'")).collect::<Vec<_>>().join(",");
        assert_eq!(keys(&format!("DELETE FROM t WHERE a IN ({many}) AND b IN ({names})"), &[]), None);
    }
}
