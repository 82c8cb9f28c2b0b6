//! Places and bytes as operators may see them on request, never logged (promise 13).

use crate::protocol::cql::place::{Extent, Place};
use crate::protocol::cql::text::schema::{Column, Table};

/// `k = 1, c = 'x'`.
pub(super) fn place(place: &Place, table: &Table) -> String {
    let named = |columns: Vec<&Column>, values: &[Vec<u8>]| -> Vec<String> {
        columns
            .iter()
            .zip(values)
            .map(|(column, value)| format!("{} = {}", column.name, shown(&column.cql_type, value)))
            .collect()
    };
    let mut parts = named(table.partition_key().collect(), &place.partition);
    match place.extent {
        Extent::Row => parts.extend(named(table.clustering().collect(), &place.clustering)),
        Extent::Statics => parts.push("static columns".to_owned()),
        Extent::Partition => {}
    }
    parts.join(", ")
}

/// As a statement would have it, for the types that keys are usually made of.
fn shown(cql_type: &str, value: &[u8]) -> String {
    let number = |bytes: &[u8]| match bytes.len() {
        1 => i8::from_be_bytes([bytes[0]]).to_string(),
        2 => i16::from_be_bytes([bytes[0], bytes[1]]).to_string(),
        4 => bytes.try_into().map(i32::from_be_bytes).unwrap_or_default().to_string(),
        8 => bytes.try_into().map(i64::from_be_bytes).unwrap_or_default().to_string(),
        _ => hex(bytes),
    };
    match cql_type {
        "text" | "varchar" | "ascii" => format!("'{}'", String::from_utf8_lossy(value).replace('\'', "''")),
        "tinyint" | "smallint" | "int" | "bigint" | "timestamp" | "time" => number(value),
        "boolean" if value.len() == 1 => (value[0] != 0).to_string(),
        "uuid" | "timeuuid" if value.len() == 16 => {
            let digits = &hex(value)[2..];
            [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
        }
        _ => hex(value),
    }
}

/// `0x00ff`.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_as_statements_have_them() {
        let column = |name: &str, kind, position, cql_type| Column::described(name, kind, position, cql_type);
        let columns = vec![
            column("k", "partition_key", 0, "int"),
            column("name", "clustering", 0, "text"),
            column("id", "clustering", 1, "uuid"),
            column("at", "clustering", 2, "inet"),
        ];
        let table = Table::new("ks", "t", columns);
        let clustering = vec![b"it's".to_vec(), (0..16).collect(), vec![127, 0, 0, 1]];
        let row = Place { extent: Extent::Row, partition: vec![7_i32.to_be_bytes().to_vec()], clustering };
        let expected = "k = 7, name = 'it''s', id = 00010203-0405-0607-0809-0a0b0c0d0e0f, at = 0x7f000001";
        assert_eq!(place(&row, &table), expected);
    }
}
