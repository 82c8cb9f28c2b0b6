//! Rows that differ, for an operator who asks for their values; never logged (promise 13).

use crate::protocol::cql::place::Place;
use crate::protocol::cql::shown::{self, hex};
use crate::protocol::cql::text::schema::Table;
use crate::protocol::cql::wire::response::Row;
use crate::protocol::cql::wire::types::Type;
use crate::protocol::cql::wire::value::{Datum, Exact};
use crate::shadow::Shown;

use super::compare::{Deviation, Sheet};

/// Bytes of a row that are shown.
const SHOWN_BYTES: usize = 2_000;

/// A row on both sides.
pub(super) fn rows(row: &Deviation<'_>, place: Option<&Place>, sheet: &Sheet<'_>, table: &Table) -> Shown {
    let side = |row: Option<Row<'_>>| row.map(|row| line(row, sheet)).unwrap_or_default();
    Shown {
        key: place.map(|place| shown::place(place, table)).unwrap_or_default(),
        primary: side(row.ours),
        secondary: side(row.theirs),
    }
}

/// `v = 'x', n = 3`.
fn line(row: Row<'_>, sheet: &Sheet<'_>) -> String {
    let cell = |((name, kind), cell): (&(&str, Type), Option<&[u8]>)| format!("{name} = {}", value(kind, cell));
    let mut text = sheet.columns().iter().zip(row.iter()).map(cell).collect::<Vec<_>>().join(", ");
    if text.len() > SHOWN_BYTES {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES));
        text.push_str("...");
    }
    text
}

fn value(kind: &Type, cell: Option<&[u8]>) -> String {
    match Datum::decode(kind, cell) {
        Ok(datum) => spoken(&datum),
        Err(_) => hex(cell.unwrap_or_default()),
    }
}

/// As a statement would have it, nearly.
fn spoken(datum: &Datum) -> String {
    let listed = |all: &[Datum]| all.iter().map(spoken).collect::<Vec<_>>().join(", ");
    match datum {
        Datum::Null => "null".to_owned(),
        Datum::Empty => "''".to_owned(),
        Datum::Ascii(text) | Datum::Varchar(text) => format!("'{}'", text.replace('\'', "''")),
        Datum::Bigint(number) | Datum::Counter(number) | Datum::Timestamp(number) | Datum::Time(number) => {
            number.to_string()
        }
        Datum::Int(number) => number.to_string(),
        Datum::Smallint(number) => number.to_string(),
        Datum::Tinyint(number) => number.to_string(),
        Datum::Boolean(is) => is.to_string(),
        Datum::Double(Exact(number)) => number.to_string(),
        Datum::Float(Exact(number)) => number.to_string(),
        Datum::Inet(address) => format!("'{address}'"),
        Datum::Uuid(id) | Datum::Timeuuid(id) => hex(id),
        Datum::List(all) | Datum::Vector(all) => format!("[{}]", listed(all)),
        Datum::Set(all) => format!("{{{}}}", listed(all)),
        Datum::Udt(all) | Datum::Tuple(all) => format!("({})", listed(all)),
        Datum::Map(all) => {
            let entry = |(key, value): &(Datum, Datum)| format!("{}: {}", spoken(key), spoken(value));
            format!("{{{}}}", all.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Datum::Blob(bytes) | Datum::Custom(bytes) => hex(bytes),
        Datum::Varint(number) => hex(number.as_bytes()),
        Datum::Decimal { scale, unscaled } => format!("{}e-{scale}", hex(unscaled.as_bytes())),
        Datum::Date(days) => days.to_string(),
        Datum::Duration { months, days, nanoseconds } => format!("{months}mo{days}d{nanoseconds}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::wire::types::Native;

    #[test]
    fn values_are_shown_as_statements_have_them() {
        let int = Type::Native(Native::Int);
        let list = Type::List(Box::new(int.clone()));
        let elements = [&[0, 0, 0, 2][..], &[0, 0, 0, 4, 0, 0, 0, 7], &[0xFF; 4]].concat();
        for (kind, cell, expected) in [
            (&int, Some(&[0, 0, 0, 7][..]), "7"),
            (&int, None, "null"),
            (&int, Some(&[1]), "0x01"),
            (&Type::Native(Native::Varchar), Some(b"it's"), "'it''s'"),
            (&list, Some(&elements), "[7, null]"),
        ] {
            assert_eq!(value(kind, cell), expected);
        }
    }
}
