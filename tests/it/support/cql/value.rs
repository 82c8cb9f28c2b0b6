//! Values: bound, and shown as text.

use super::Parts;

/// A bound value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Is(Vec<u8>),
    Null,
    /// v4 and v5: leave the column as it is.
    Unset,
}

impl From<i32> for Value {
    fn from(number: i32) -> Value {
        Value::Is(number.to_be_bytes().to_vec())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Is(number.to_be_bytes().to_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Is(text.as_bytes().to_vec())
    }
}

/// A type, as metadata names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// The number of a simple type.
    Simple(u16),
    Custom(String),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Udt(String, Vec<(String, Type)>),
    Tuple(Vec<Type>),
}

impl Type {
    pub(crate) fn parse(parts: &mut Parts<'_>) -> Type {
        let inner = |parts: &mut Parts<'_>| Box::new(Type::parse(parts));
        match parts.short() {
            0x00 => Type::Custom(parts.string()),
            0x20 | 0x22 => Type::List(inner(parts)),
            0x21 => Type::Map(inner(parts), inner(parts)),
            0x30 => {
                let (_keyspace, name) = (parts.string(), parts.string());
                Type::Udt(name, (0..parts.short()).map(|_| (parts.string(), Type::parse(parts))).collect())
            }
            0x31 => Type::Tuple((0..parts.short()).map(|_| Type::parse(parts)).collect()),
            simple => Type::Simple(simple),
        }
    }

    pub(crate) fn show(&self, value: Option<&[u8]>) -> String {
        let Some(value) = value else { return "null".to_owned() };
        let mut parts = Parts(value);
        match self {
            Type::Simple(kind) => simple(*kind, value),
            Type::Custom(_) => hex(value),
            Type::List(of) => {
                let items = (0..parts.int()).map(|_| of.show(parts.bytes()));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            Type::Map(key, of) => {
                let items =
                    (0..parts.int()).map(|_| format!("{}: {}", key.show(parts.bytes()), of.show(parts.bytes())));
                format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
            }
            Type::Udt(_, fields) => shown(fields.iter().map(|(_, of)| of), parts),
            Type::Tuple(fields) => shown(fields.iter(), parts),
        }
    }
}

/// Fields at the end may be missing.
fn shown<'a>(fields: impl Iterator<Item = &'a Type>, mut parts: Parts<'_>) -> String {
    let items = fields.map(|of| of.show(if parts.0.is_empty() { None } else { parts.bytes() }));
    format!("({})", items.collect::<Vec<_>>().join(", "))
}

fn simple(kind: u16, value: &[u8]) -> String {
    let number = || {
        value.iter().fold(if value.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 }, |all: i128, byte| {
            all << 8 | i128::from(*byte)
        })
    };
    match kind {
        0x01 | 0x0A | 0x0D => String::from_utf8_lossy(value).into_owned(),
        0x04 => (value == [1]).to_string(),
        // bigint, counter, int, timestamp, varint, time, smallint, tinyint
        0x02 | 0x05 | 0x09 | 0x0B | 0x0E | 0x12 | 0x13 | 0x14 => number().to_string(),
        _ => hex(value),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
