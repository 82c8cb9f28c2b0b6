//! Rows as `SELECT JSON` shows them: Cassandra's own spacing and quoting.

use std::net::IpAddr;

use super::super::generate::uuid_text;
use super::super::partition::{element, integer};
use super::{Cell, ColumnSpec};

/// `{"name": value, ..}`.
pub(super) fn object<'c>(members: impl Iterator<Item = (&'c ColumnSpec, &'c Cell)>) -> String {
    let member = |(spec, cell): (&ColumnSpec, &Cell)| {
        let value = cell.as_deref().and_then(|bytes| value(&mut spec.type_option.as_slice(), bytes));
        format!("{}: {}", string(&member_name(&spec.name)), value.unwrap_or_else(|| "null".to_owned()))
    };
    format!("{{{}}}", members.map(member).collect::<Vec<_>>().join(", "))
}

/// Names with capitals have quotes of their own.
fn member_name(name: &str) -> String {
    if name.chars().any(char::is_uppercase) { format!("\"{name}\"") } else { name.to_owned() }
}

/// A value of the type that `option` begins with, which is taken off it. `None` where bytes and type disagree, or the
/// type is none that these tables have.
fn value(option: &mut &[u8], bytes: &[u8]) -> Option<String> {
    let (id, rest) = option.split_first_chunk::<2>()?;
    *option = rest;
    match u16::from_be_bytes(*id) {
        0x01 | 0x0D => Some(string(std::str::from_utf8(bytes).ok()?)),
        0x02 => Some(i64::from_be_bytes(bytes.try_into().ok()?).to_string()),
        0x03 => Some(format!("\"0x{}\"", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())),
        0x04 => Some((bytes.first()? != &0).to_string()),
        0x09 => Some(i32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        0x0C | 0x0F => Some(format!("\"{}\"", uuid_text(bytes.try_into().ok()?))),
        0x10 => Some(format!("\"{}\"", address(bytes)?)),
        0x20 | 0x22 => collection(option, bytes),
        0x21 => map(option, bytes),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

fn collection(option: &mut &[u8], bytes: &[u8]) -> Option<String> {
    let (count, mut rest) = integer(bytes)?;
    let element_type = *option;
    let mut all = Vec::new();
    for _ in 0..count {
        let (one, behind) = element(rest)?;
        *option = element_type;
        all.push(value(option, one)?);
        rest = behind;
    }
    Some(format!("[{}]", all.join(", ")))
}

fn map(option: &mut &[u8], bytes: &[u8]) -> Option<String> {
    let (count, mut rest) = integer(bytes)?;
    let types = *option;
    let mut all = Vec::new();
    for _ in 0..count {
        let (key, behind) = element(rest)?;
        let (item, behind) = element(behind)?;
        *option = types;
        let key = value(option, key)?;
        // A member's name is a string, whatever it is made of.
        let key = if key.starts_with('"') { key } else { string(&key) };
        all.push(format!("{key}: {}", value(option, item)?));
        rest = behind;
    }
    Some(format!("{{{}}}", all.join(", ")))
}

/// A string with its escapes.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
