//! Constants as the bytes that a server makes of them, for the types that keys are made of.
//!
//! Formats are those of the native protocol specification, section 6; which constant suits which type follows
//! Cassandra's `Constants.Literal`. Types and spellings that are rare in keys (decimals, floats, dates as text) are
//! not read: the caller then knows the key by its text only.

use std::net::IpAddr;

use super::expr::Literal;
use super::token::unquoted;

/// Why a constant has no bytes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBytes {
    /// Its kind does not suit the type: the server refuses it too.
    Kind,
    /// It is no value of the type: the server refuses it too.
    Value,
    /// It may be a value, which is not read here.
    Unread,
}

impl Literal {
    /// What servers call this kind in errors.
    pub fn server_name(self) -> &'static str {
        match self {
            Literal::String => "STRING",
            Literal::Integer => "INTEGER",
            Literal::Float => "FLOAT",
            Literal::Boolean => "BOOLEAN",
            Literal::Duration => "DURATION",
            Literal::Uuid => "UUID",
            Literal::Hex => "HEX",
        }
    }
}

/// The bytes of the constant written `text` as a value of `cql_type`, a native type's name.
pub fn encode(literal: Literal, text: &[u8], cql_type: &str) -> Result<Vec<u8>, NoBytes> {
    match (cql_type, literal) {
        ("text" | "varchar", Literal::String) => Ok(unquoted(text).into_bytes()),
        ("ascii", Literal::String) => {
            Some(unquoted(text)).filter(|text| text.is_ascii()).map(String::into_bytes).ok_or(NoBytes::Value)
        }
        ("inet", Literal::String) => inet(&unquoted(text)),
        ("date" | "time" | "timestamp", Literal::String) => Err(NoBytes::Unread),
        ("tinyint", Literal::Integer) => integer::<i8>(text).map(|value| value.to_be_bytes().to_vec()),
        ("smallint", Literal::Integer) => integer::<i16>(text).map(|value| value.to_be_bytes().to_vec()),
        ("int", Literal::Integer) => integer::<i32>(text).map(|value| value.to_be_bytes().to_vec()),
        ("bigint" | "counter" | "timestamp" | "time", Literal::Integer) => {
            integer::<i64>(text).map(|value| value.to_be_bytes().to_vec())
        }
        ("varint", Literal::Integer) => varint(text),
        (
            "date" | "decimal" | "double" | "float" | "duration",
            Literal::Integer | Literal::Float | Literal::Duration,
        ) => Err(NoBytes::Unread),
        ("boolean", Literal::Boolean) => Ok(vec![u8::from(text.eq_ignore_ascii_case(b"true"))]),
        ("uuid", Literal::Uuid) => uuid(text).map(Vec::from),
        ("timeuuid", Literal::Uuid) => {
            uuid(text).and_then(|uuid| if uuid[6] >> 4 == 1 { Ok(uuid.to_vec()) } else { Err(NoBytes::Value) })
        }
        ("blob", Literal::Hex) => blob(text),
        _ if super::keyword::is_native_type(cql_type.as_bytes()) => Err(NoBytes::Kind),
        _ => Err(NoBytes::Unread),
    }
}

fn integer<T: std::str::FromStr>(text: &[u8]) -> Result<T, NoBytes> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(NoBytes::Value)
}

/// The shortest two's complement.
fn varint(text: &[u8]) -> Result<Vec<u8>, NoBytes> {
    let value = integer::<i128>(text).map_err(|_| NoBytes::Unread)?;
    let bytes = value.to_be_bytes();
    let sign = if value < 0 { 0xFF } else { 0 };
    let spare = |pair: &[u8]| pair[0] == sign && (pair[1] ^ sign) < 0x80;
    let skipped = bytes.windows(2).take_while(|pair| spare(pair)).count();
    Ok(bytes[skipped..].to_vec())
}

/// Numeric addresses only: a server would look other names up.
fn inet(text: &str) -> Result<Vec<u8>, NoBytes> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(address.octets().to_vec()),
        Ok(IpAddr::V6(address)) => Ok(address.octets().to_vec()),
        Err(_) => Err(NoBytes::Value),
    }
}

/// A UUID's sixteen bytes.
pub fn uuid(text: &[u8]) -> Result<[u8; 16], NoBytes> {
    let digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').collect();
    let bytes = std::str::from_utf8(&digits).ok().filter(|digits| digits.len() == 32);
    let value = bytes.and_then(|digits| u128::from_str_radix(digits, 16).ok()).ok_or(NoBytes::Value)?;
    Ok(value.to_be_bytes())
}

fn blob(text: &[u8]) -> Result<Vec<u8>, NoBytes> {
    let digits = text.get(2..).unwrap_or_default();
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>().ok_or(NoBytes::Value)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_become_the_bytes_of_their_type() {
        use Literal::*;
        for (literal, text, cql_type, bytes) in [
            (String, "'it''s'", "text", b"it's".to_vec()),
            (Integer, "-2", "int", vec![0xFF, 0xFF, 0xFF, 0xFE]),
            (Integer, "5", "bigint", vec![0, 0, 0, 0, 0, 0, 0, 5]),
            (Integer, "-1", "tinyint", vec![0xFF]),
            (Integer, "0", "varint", vec![0]),
            (Integer, "127", "varint", vec![0x7F]),
            (Integer, "128", "varint", vec![0, 0x80]),
            (Integer, "-128", "varint", vec![0x80]),
            (Integer, "-129", "varint", vec![0xFF, 0x7F]),
            (Boolean, "TRUE", "boolean", vec![1]),
            (Hex, "0xCaFe", "blob", vec![0xCA, 0xFE]),
            (Hex, "0x", "blob", vec![]),
            (String, "'127.0.0.1'", "inet", vec![127, 0, 0, 1]),
            (
                Uuid,
                "01020304-0506-1708-090a-0b0c0d0e0f10",
                "timeuuid",
                vec![1, 2, 3, 4, 5, 6, 0x17, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            ),
        ] {
            assert_eq!(encode(literal, text.as_bytes(), cql_type), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_a_server_refuses_has_no_bytes() {
        use Literal::*;
        for (literal, text, cql_type, why) in [
            (Integer, "1", "text", NoBytes::Kind),
            (String, "'1'", "int", NoBytes::Kind),
            (Integer, "2147483648", "int", NoBytes::Value),
            (Hex, "0xABC", "blob", NoBytes::Value),
            (String, "'nonsense'", "inet", NoBytes::Value),
            (Uuid, "01020304-0506-4708-090a-0b0c0d0e0f10", "timeuuid", NoBytes::Value),
            (String, "'2026-01-01'", "timestamp", NoBytes::Unread),
            (String, "'x'", "frozen<address>", NoBytes::Unread),
        ] {
            assert_eq!(encode(literal, text.as_bytes(), cql_type), Err(why), "{text}");
        }
    }
}
