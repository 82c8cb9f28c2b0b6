//! Constants as the bytes that a server makes of them, for the types that keys are made of.
//!
//! Formats are those of the native protocol specification, section 6; which constant suits which type follows
//! Cassandra's `Constants.Literal`. Types and spellings that are rare in keys (decimals, floats, times as text) are
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
        ("date", Literal::String) => date(&unquoted(text)),
        ("time" | "timestamp", Literal::String) => Err(NoBytes::Unread),
        ("double", Literal::Float | Literal::Integer) => number::<f64>(text).map(|value| value.to_be_bytes().to_vec()),
        ("tinyint", Literal::Integer) => number::<i8>(text).map(|value| value.to_be_bytes().to_vec()),
        ("smallint", Literal::Integer) => number::<i16>(text).map(|value| value.to_be_bytes().to_vec()),
        ("int", Literal::Integer) => number::<i32>(text).map(|value| value.to_be_bytes().to_vec()),
        ("bigint" | "counter" | "timestamp" | "time", Literal::Integer) => {
            number::<i64>(text).map(|value| value.to_be_bytes().to_vec())
        }
        ("varint", Literal::Integer) => varint(text),
        // The days themselves, 1970-01-01 being 2^31.
        ("date", Literal::Integer) => number::<u32>(text).map(|value| value.to_be_bytes().to_vec()),
        ("float", Literal::Float | Literal::Integer) => number::<f32>(text).map(|value| value.to_be_bytes().to_vec()),
        ("decimal" | "duration", Literal::Integer | Literal::Float | Literal::Duration) => Err(NoBytes::Unread),
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

fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, NoBytes> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(NoBytes::Value)
}

/// `yyyy-mm-dd`, as days of which 1970-01-01 is 2^31.
fn date(text: &str) -> Result<Vec<u8>, NoBytes> {
    let (&[year, month, day], 10) =
        (&*text.split('-').map(str::parse).collect::<Result<Vec<i64>, _>>().unwrap_or_default(), text.len())
    else {
        return Err(NoBytes::Unread);
    };
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return Err(NoBytes::Value);
    }
    let days = days_since_1970(year, month, day) + (1 << 31);
    u32::try_from(days).map(|days| days.to_be_bytes().to_vec()).map_err(|_| NoBytes::Value)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Of the Gregorian calendar: years begin in March, so that the leap day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// The shortest two's complement.
fn varint(text: &[u8]) -> Result<Vec<u8>, NoBytes> {
    let value = number::<i128>(text).map_err(|_| NoBytes::Unread)?;
    let bytes = value.to_be_bytes();
    let sign = if value < 0 { 0xFF } else { 0 };
    let spare = |pair: &[u8]| pair[0] == sign && (pair[1] ^ sign) < 0x80;
    let skipped = bytes.windows(2).take_while(|pair| spare(pair)).count();
    Ok(bytes[skipped..].to_vec())
}

/// Numeric addresses only: a server would look other names up. One of IPv4 that is written as one of IPv6 is four bytes there,
/// as Java's `InetAddress` has it.
fn inet(text: &str) -> Result<Vec<u8>, NoBytes> {
    match text.parse().map(|address: IpAddr| address.to_canonical()) {
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
            (Float, "1.5", "double", 1.5_f64.to_be_bytes().to_vec()),
            (Integer, "-2", "double", (-2_f64).to_be_bytes().to_vec()),
            (Float, "1.1", "float", 1.1_f32.to_be_bytes().to_vec()),
            (Float, "-Infinity", "double", f64::NEG_INFINITY.to_be_bytes().to_vec()),
            (String, "'1970-01-01'", "date", vec![0x80, 0, 0, 0]),
            (Integer, "2147504426", "date", vec![0x80, 0, 0x51, 0x2A]),
            (String, "'2026-11-21'", "date", vec![0x80, 0, 0x51, 0x2A]),
            (String, "'2000-02-29'", "date", 2_147_494_664_u32.to_be_bytes().to_vec()),
            (String, "'1969-12-31'", "date", vec![0x7F, 0xFF, 0xFF, 0xFF]),
            (Hex, "0xCaFe", "blob", vec![0xCA, 0xFE]),
            (Hex, "0x", "blob", vec![]),
            (String, "'127.0.0.1'", "inet", vec![127, 0, 0, 1]),
            (String, "'::ffff:1.2.3.4'", "inet", vec![1, 2, 3, 4]),
            (String, "'::FFFF:102:304'", "inet", vec![1, 2, 3, 4]),
            (String, "'::1.2.3.4'", "inet", vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
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
            (String, "'2026-02-29'", "date", NoBytes::Value),
            (String, "'2026-1-29'", "date", NoBytes::Unread),
            (String, "'20684'", "date", NoBytes::Unread),
            (String, "'x'", "frozen<address>", NoBytes::Unread),
        ] {
            assert_eq!(encode(literal, text.as_bytes(), cql_type), Err(why), "{text}");
        }
    }
}
