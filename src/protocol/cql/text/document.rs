//! The document of `INSERT JSON`: which columns it gives, and the key's bytes.
//!
//! Names of members follow Cassandra's rule: any case means lower case, unless the name has quotes inside
//! (`"\"Name\""`).

use serde_json::{Map, Value};

use super::expr::Literal;
use super::literal::encode;
use super::schema::Column;

/// The columns that a document gives, by their names in the schema, and their values; `None` if it is no JSON object.
pub fn columns(document: &[u8]) -> Option<Vec<(String, Value)>> {
    let members: Map<String, Value> = serde_json::from_slice(document).ok()?;
    Some(members.into_iter().map(|(name, value)| (column(&name), value)).collect())
}

fn column(name: &str) -> String {
    match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(exact) => exact.to_owned(),
        None => name.to_lowercase(),
    }
}

/// The bytes of these columns in order; `None` if the document lacks one, or its value is not read here.
pub fn key<'t>(document: &[u8], of: impl Iterator<Item = &'t Column>) -> Option<Vec<Vec<u8>>> {
    let given = columns(document)?;
    let part = |column: &Column| {
        let (_, value) = given.iter().rev().find(|(name, _)| *name == column.name)?;
        bytes(value, &column.cql_type)
    };
    of.map(part).collect()
}

/// A scalar's bytes. Strings are taken for most types, as the server does.
fn bytes(value: &Value, cql_type: &str) -> Option<Vec<u8>> {
    let as_text = |literal, text: &str| encode(literal, text.as_bytes(), cql_type).ok();
    match value {
        Value::Bool(value) => as_text(Literal::Boolean, &value.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => as_text(Literal::Integer, &number.to_string()),
        Value::String(text) => match cql_type {
            "tinyint" | "smallint" | "int" | "bigint" | "varint" => as_text(Literal::Integer, text),
            "uuid" | "timeuuid" => as_text(Literal::Uuid, text),
            "blob" if text.starts_with("0x") => as_text(Literal::Hex, text),
            "boolean" => as_text(Literal::Boolean, text),
            _ => as_text(Literal::String, &format!("'{}'", text.replace('\'', "''"))),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Table;
    use super::*;

    fn table() -> Table {
        let columns =
            [("a", "partition_key", 0, "int"), ("B", "partition_key", 1, "text"), ("v", "regular", -1, "text")];
        let described =
            columns.map(|(name, kind, position, cql_type)| Column::described(name, kind, position, cql_type));
        Table::new("k", "t", described.to_vec())
    }

    #[test]
    fn the_key_is_found_by_names_as_the_server_reads_them() {
        let key = |document: &str| key(document.as_bytes(), table().partition_key());
        let expected = Some(vec![vec![0, 0, 0, 5], b"it's".to_vec()]);
        assert_eq!(key(r#"{"A": 5, "\"B\"": "it's", "v": null}"#), expected);
        assert_eq!(key(r#"{"\"B\"": "it's", "a": "5"}"#), expected);
        assert_eq!(key(r#"{"a": 5, "B": "x"}"#), None);
        assert_eq!(key(r#"{"a": 5.5, "\"B\"": "x"}"#), None);
        assert_eq!(key(r#"{"a": null, "\"B\"": "x"}"#), None);
        assert_eq!(key("[1]"), None);
        assert_eq!(key("{"), None);
    }
}
