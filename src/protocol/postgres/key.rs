//! Keys in canonical form: equal rows have equal bytes, whatever text or format the client used.
//!
//! A key is the [`Layout`] of its columns, then, for each key column in index order, a varint length and the value in the
//! type's *binary send* format (`int4send`, `uuid_send`, `textsend` in UTF-8, ...), so that a payment can hand it to the
//! server as a binary parameter of the real type, and no client text is ever cast again. Types without a stable binary
//! form are kept as their text in UTF-8 ([`Form::Text`]).
//!
//! Values come from three places: client text (literals, text parameters, COPY), client binary parameters, and hidden
//! RETURNING columns. Whatever is not certain is refused, and the server is asked: a wrong key would be a lost row.

use std::sync::Arc;

use super::catalog::{Column, Relation};
use crate::record::RecordBuf;

/// How the values of one key column are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Binary send format of a built-in type that the proxy itself can parse from client text: smallint, int, bigint.
    Int(u8),
    /// `uuid`.
    Uuid,
    /// `text`, `varchar`: UTF-8 bytes.
    Utf8,
    /// `bool`.
    Bool,
    /// `bytea`.
    Bytea,
    /// `numeric`: canonical binary form, trailing zeros removed.
    Numeric,
    /// Another built-in type's binary form, known only from the server (`timestamptz_send`, ...).
    Binary,
    /// Text as the server wrote it, in UTF-8; cast back by name.
    Text,
}

/// Which columns a key has: a hash of their names and types, in order. A table may get another key while rows are owed
/// by its old one; whoever reads a key compares first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Layout([u8; 4]);

impl Layout {
    /// FNV-1a over each column's name and type as SQL, a zero byte behind each.
    pub fn of<'a>(columns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Layout {
        let words = columns.into_iter().flat_map(|(name, type_sql)| [name, type_sql]);
        let bytes = words.flat_map(|word| word.bytes().chain([0]));
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Layout(hash.to_le_bytes())
    }

    /// The layout that a key begins with; `None`: it is cut short.
    pub fn of_key(key: &[u8]) -> Option<Layout> {
        key.first_chunk().copied().map(Layout)
    }

    /// Begin a key.
    pub fn begin(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    /// Give a key another layout, for a table whose key has the same forms under other names.
    pub fn replace(self, key: &mut [u8]) {
        if let Some(layout) = key.first_chunk_mut() {
            *layout = self.0;
        }
    }
}

/// A key of which nothing is known but that there is one: the table is owed whole, and where it may have been deleted,
/// what points at the table as well.
pub const UNKNOWN: [u8; 4] = Layout([0; 4]).0;

/// Built-in types by oid, from `pg_type.dat`.
pub mod oid {
    #![allow(missing_docs, reason = "the names are PostgreSQL's")]
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
}

/// Types whose text depends on settings or is long: the server sends their binary form.
const SENT: &[(u32, &str)] = &[
    (26, "oidsend"),
    (700, "float4send"),
    (701, "float8send"),
    (790, "cash_send"),
    (829, "macaddr_send"),
    (774, "macaddr8_send"),
    (869, "inet_send"),
    (650, "cidr_send"),
    (1082, "date_send"),
    (1083, "time_send"),
    (1266, "timetz_send"),
    (1114, "timestamp_send"),
    (1184, "timestamptz_send"),
    (1186, "interval_send"),
    (1560, "bit_send"),
    (1562, "varbit_send"),
    // Ranges and multiranges of timestamp, timestamptz and date.
    (3908, "range_send"),
    (3910, "range_send"),
    (3912, "range_send"),
    (4533, "multirange_send"),
    (4534, "multirange_send"),
    (4535, "multirange_send"),
];

fn send_function(oid: u32) -> Option<&'static str> {
    SENT.iter().find(|(of, _)| *of == oid).map(|(_, name)| *name)
}

impl Form {
    /// The form of a column's values.
    pub fn of(column: &Column) -> Form {
        match column.base_oid {
            oid::INT2 => Form::Int(2),
            oid::INT4 => Form::Int(4),
            oid::INT8 => Form::Int(8),
            oid::UUID => Form::Uuid,
            oid::TEXT | oid::VARCHAR => Form::Utf8,
            oid::BOOL => Form::Bool,
            oid::BYTEA => Form::Bytea,
            oid::NUMERIC => Form::Numeric,
            other if send_function(other).is_some() => Form::Binary,
            _ => Form::Text,
        }
    }

    /// The proxy can parse the column's values from client text and be sure that the stored key is the parsed one.
    pub fn evident(column: &Column) -> bool {
        match Form::of(column) {
            Form::Binary | Form::Text => false,
            Form::Numeric => column.typmod == -1,
            Form::Utf8 => column.deterministic,
            _ => true,
        }
    }

    /// Every session writes the column's values alike where [`Form::asked`] is asked.
    pub fn askable(column: &Column) -> bool {
        Form::of(column) != Form::Text || !column.text_varies
    }

    /// The SQL expression that a hidden RETURNING asks for, `value` being the qualified column: text or bytea, so that
    /// any format code that the client binds reads the same, and independent of the session's settings where the column is
    /// [`Form::askable`].
    pub fn asked(column: &Column, value: &str) -> String {
        match Form::of(column) {
            Form::Int(_) | Form::Uuid | Form::Bool | Form::Numeric => format!("{value}::pg_catalog.text"),
            Form::Bytea => format!("{value}::pg_catalog.bytea"),
            Form::Binary => {
                format!("pg_catalog.{}({value})", send_function(column.base_oid).unwrap_or("record_send"))
            }
            // Its cast to text may be somebody's own.
            Form::Text if column.typtype == b'e' => {
                format!("pg_catalog.convert_to(pg_catalog.textin(pg_catalog.enum_out({value})), 'UTF8')")
            }
            Form::Utf8 | Form::Text => format!("pg_catalog.convert_to({value}::pg_catalog.text, 'UTF8')"),
        }
    }

    /// What [`Form::asked`] yields is `bytea`, not text.
    fn asked_as_bytea(self) -> bool {
        matches!(self, Form::Bytea | Form::Binary | Form::Utf8 | Form::Text)
    }
}

/// A value that is not certain to be what the server stores or finds: ask the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of a key column cannot be read off the statement")]
pub struct NotEvident;

/// The hidden columns of one returned row are not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the primary answered a hidden RETURNING with a value that is not a key")]
pub struct NotAKey;

/// One hidden column's value. `None` from the server (a null) is for the caller: with `old` and `new` it says that
/// there was no such row.
#[derive(Clone, Copy, Debug)]
pub struct Returned<'a> {
    /// The bytes of the DataRow's column.
    pub value: &'a [u8],
    /// Its format code is 1.
    pub binary: bool,
}

/// The oid in a hidden `tableoid::text` column.
pub fn returned_oid(column: Returned<'_>) -> Result<u32, NotAKey> {
    std::str::from_utf8(column.value).ok().and_then(|text| text.parse().ok()).ok_or(NotAKey)
}

/// The canonical key from the hidden key columns of one row, appended to `out`.
pub fn from_returned(relation: &Relation, columns: &[Returned<'_>], out: &mut Vec<u8>) -> Result<(), NotAKey> {
    let key = relation.key.as_ref().ok_or(NotAKey)?;
    if key.columns.is_empty() || key.columns.len() != columns.len() {
        return Err(NotAKey);
    }
    key.layout.begin(out);
    for (column, returned) in relation.key_columns().zip(columns) {
        let form = Form::of(column);
        let mut value = Vec::with_capacity(returned.value.len());
        if form.asked_as_bytea() {
            if returned.binary {
                value.extend_from_slice(returned.value);
            } else {
                bytea(returned.value, &mut value).map_err(|NotEvident| NotAKey)?;
            }
            canonical_float(column.base_oid, &mut value);
        } else {
            parse(form, -1, returned.value, &mut value).map_err(|NotEvident| NotAKey)?;
        }
        push(out, &value);
    }
    Ok(())
}

/// Append one column's canonical value to a key.
pub fn push(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value.len();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(value);
}

/// Owe a key of whichever of these tables the name could mean: its forms are the same in all of them.
pub(crate) fn owe(tables: &[Arc<Relation>], key: &mut [u8], moved: bool, out: &mut RecordBuf) {
    for table in tables {
        table.key.iter().for_each(|of| of.layout.replace(key));
        out.key(table.id, key, moved);
    }
}

/// The columns of a key, as [`push`] wrote them; `None` behind the last, or where the bytes are cut short.
pub fn columns(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut key = key.get(size_of::<Layout>()..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::try_from(crate::record::get_varint(&mut key)?).ok()?;
        let (value, rest) = key.split_at_checked(len)?;
        key = rest;
        Some(value)
    })
}

/// -0 and 0 are one key, and so are all NaNs.
fn canonical_float(base_oid: u32, value: &mut [u8]) {
    if let (700, Ok(bytes)) = (base_oid, <[u8; 4]>::try_from(&*value)) {
        let float = f32::from_be_bytes(bytes);
        let same = if float == 0.0 {
            0.0
        } else if float.is_nan() {
            f32::NAN
        } else {
            float
        };
        value.copy_from_slice(&same.to_be_bytes());
    }
    if let (701, Ok(bytes)) = (base_oid, <[u8; 8]>::try_from(&*value)) {
        let float = f64::from_be_bytes(bytes);
        let same = if float == 0.0 {
            0.0
        } else if float.is_nan() {
            f64::NAN
        } else {
            float
        };
        value.copy_from_slice(&same.to_be_bytes());
    }
}

/// Parse the text that the type's input function would get. `typmod` is the column's.
pub(crate) fn parse(form: Form, typmod: i32, text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    match form {
        Form::Int(width) => int(width, int_text(text)?, out),
        Form::Uuid => uuid(text, out),
        Form::Utf8 => utf8(typmod, text, out),
        Form::Bool => boolean(text, out),
        Form::Bytea if text.is_ascii() => bytea(text, out),
        Form::Numeric if typmod == -1 => numeric(text, out),
        Form::Bytea | Form::Numeric | Form::Binary | Form::Text => Err(NotEvident),
    }
}

/// Read a binary parameter whose type is `declared`.
pub(crate) fn binary(
    form: Form,
    typmod: i32,
    declared: u32,
    value: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), NotEvident> {
    match (form, declared) {
        (Form::Int(width), oid::INT2 | oid::INT4 | oid::INT8) => int(width, int_binary(declared, value)?, out),
        (Form::Uuid, oid::UUID) if value.len() == 16 => extend(out, value),
        (Form::Utf8, oid::TEXT | oid::VARCHAR) => utf8(typmod, value, out),
        (Form::Bool, oid::BOOL) if value.len() == 1 => extend(out, &[u8::from(value != [0])]),
        (Form::Bytea, oid::BYTEA) => extend(out, value),
        (Form::Numeric, oid::NUMERIC) if typmod == -1 => numeric_binary(value, out),
        _ => Err(NotEvident),
    }
}

fn extend(out: &mut Vec<u8>, value: &[u8]) -> Result<(), NotEvident> {
    out.extend_from_slice(value);
    Ok(())
}

fn int_binary(declared: u32, value: &[u8]) -> Result<i64, NotEvident> {
    let wrong = |_| NotEvident;
    Ok(match declared {
        oid::INT2 => i16::from_be_bytes(value.try_into().map_err(wrong)?).into(),
        oid::INT4 => i32::from_be_bytes(value.try_into().map_err(wrong)?).into(),
        _ => i64::from_be_bytes(value.try_into().map_err(wrong)?),
    })
}

/// `isspace` in the C locale, which the input functions use.
fn trim(text: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | 0x09..=0x0d);
    let start = text.iter().position(|byte| !space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !space(byte)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// `pg_strtoint64`, decimal only: underscores and 0x are 16 and later.
pub(crate) fn int_text(text: &[u8]) -> Result<i64, NotEvident> {
    let text = trim(text);
    let (sign, digits) = match text.split_first() {
        Some((b'-', rest)) => (-1, rest),
        Some((b'+', rest)) => (1, rest),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NotEvident);
    }
    let mut value = 0_i64;
    for digit in digits {
        let digit = i64::from(digit - b'0') * sign;
        value = value.checked_mul(10).and_then(|value| value.checked_add(digit)).ok_or(NotEvident)?;
    }
    Ok(value)
}

/// An integer in the column's own width.
pub(crate) fn int(width: u8, value: i64, out: &mut Vec<u8>) -> Result<(), NotEvident> {
    match width {
        2 => extend(out, &i16::try_from(value).map_err(|_| NotEvident)?.to_be_bytes()),
        4 => extend(out, &i32::try_from(value).map_err(|_| NotEvident)?.to_be_bytes()),
        _ => extend(out, &value.to_be_bytes()),
    }
}

/// `string_to_uuid`: 32 digits, a hyphen allowed behind any group of four, braces around all.
fn uuid(text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let braced = text.strip_prefix(b"{");
    let mut rest = braced.unwrap_or(text);
    for at in 0..16 {
        let (pair, tail) = rest.split_at_checked(2).ok_or(NotEvident)?;
        out.push(hex(pair[0])? << 4 | hex(pair[1])?);
        rest = if at % 2 == 1 && at < 15 { tail.strip_prefix(b"-").unwrap_or(tail) } else { tail };
    }
    let end: &[u8] = if braced.is_some() { b"}" } else { b"" };
    if rest == end { Ok(()) } else { Err(NotEvident) }
}

fn hex(digit: u8) -> Result<u8, NotEvident> {
    char::from(digit).to_digit(16).map(|value| value as u8).ok_or(NotEvident)
}

/// `text`, or `varchar(n)` where the value fits: what is too long is an error or loses blanks.
fn utf8(typmod: i32, text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let text = std::str::from_utf8(text).map_err(|_| NotEvident)?;
    let fits = typmod < 4 || text.chars().count() <= (typmod - 4) as usize;
    if fits && !text.contains('\0') { extend(out, text.as_bytes()) } else { Err(NotEvident) }
}

/// `parse_bool`: unique prefixes of true, false, yes, no, on, off; 1 and 0.
fn boolean(text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let word = trim(text).to_ascii_lowercase();
    let value = match word.as_slice() {
        b"1" | b"on" | b"t" | b"tr" | b"tru" | b"true" | b"y" | b"ye" | b"yes" => 1,
        b"0" | b"of" | b"off" | b"f" | b"fa" | b"fal" | b"fals" | b"false" | b"n" | b"no" => 0,
        _ => return Err(NotEvident),
    };
    extend(out, &[value])
}

/// `byteain`: hex or escape format. Also what a server writes for a bytea column.
fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    match text.strip_prefix(b"\\x") {
        Some(digits) => bytea_hex(digits, out),
        None => bytea_escape(text, out),
    }
}

pub(super) fn bytea_hex(digits: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let mut rest = digits;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if matches!(first, b' ' | b'\n' | b'\t' | b'\r') {
            continue;
        }
        let (&second, tail) = rest.split_first().ok_or(NotEvident)?;
        rest = tail;
        out.push(hex(first)? << 4 | hex(second)?);
    }
    Ok(())
}

fn bytea_escape(text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Ok(()),
            [b'\\', b'\\', tail @ ..] => {
                out.push(b'\\');
                tail
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                tail
            }
            [b'\\', ..] => return Err(NotEvident),
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
        };
    }
}

const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xc000;
const NUMERIC_INFINITY: u16 = 0xd000;
const NUMERIC_MINUS_INFINITY: u16 = 0xf000;

/// Larger exponents are the server's business.
const EXPONENT_MAX: i64 = 1000;

/// `numeric_in` into the canonical binary form.
fn numeric(text: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let text = trim(text);
    let (negative, body) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    match body.to_ascii_lowercase().as_slice() {
        b"nan" if body.len() == text.len() => return special(NUMERIC_NAN, out),
        b"inf" | b"infinity" if negative => return special(NUMERIC_MINUS_INFINITY, out),
        b"inf" | b"infinity" => return special(NUMERIC_INFINITY, out),
        _ => {}
    }
    let (mantissa, exponent) = match body.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) if body[at + 1..].iter().all(|byte| !byte.is_ascii_whitespace()) => {
            (&body[..at], int_text(&body[at + 1..])?)
        }
        Some(_) => return Err(NotEvident),
        None => (body, 0),
    };
    let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
    let digits: Vec<u8> = mantissa.iter().enumerate().filter(|(at, _)| *at != point).map(|(_, &byte)| byte).collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) || exponent.abs() > EXPONENT_MAX {
        return Err(NotEvident);
    }
    decimal(negative, &digits, point as i64 + exponent, out)
}

fn special(sign: u16, out: &mut Vec<u8>) -> Result<(), NotEvident> {
    numeric_parts(&[], 0, sign, 0, out)
}

/// `0.digits * 10^point`, trailing and leading zeros removed, in groups of four digits around the decimal point.
fn decimal(negative: bool, digits: &[u8], point: i64, out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let Some(first) = digits.iter().position(|&digit| digit != b'0') else {
        return numeric_parts(&[], 0, 0, 0, out);
    };
    let last = digits.iter().rposition(|&digit| digit != b'0').map_or(first, |at| at + 1);
    let (digits, point) = (&digits[first..last], point - first as i64);
    let scale = (digits.len() as i64 - point).max(0);
    let weight = (point - 1).div_euclid(4);
    let lead = (weight + 1) * 4 - point; // Zeros in front that complete the first group.
    let mut padded = vec![b'0'; lead as usize];
    padded.extend_from_slice(digits);
    padded.resize(padded.len().next_multiple_of(4), b'0');
    let groups: Vec<u16> = padded
        .as_chunks::<4>()
        .0
        .iter()
        .map(|group| group.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
        .collect();
    numeric_parts(&groups, weight, if negative { NUMERIC_NEGATIVE } else { 0 }, scale, out)
}

fn numeric_parts(groups: &[u16], weight: i64, sign: u16, scale: i64, out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let count = i16::try_from(groups.len()).map_err(|_| NotEvident)?;
    let weight = i16::try_from(weight).map_err(|_| NotEvident)?;
    let scale = u16::try_from(scale).ok().filter(|&scale| scale < 0x4000).ok_or(NotEvident)?;
    for part in [count.to_be_bytes(), weight.to_be_bytes(), sign.to_be_bytes(), scale.to_be_bytes()] {
        out.extend_from_slice(&part);
    }
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Ok(())
}

/// A client's `numeric_send` bytes into the canonical form.
fn numeric_binary(value: &[u8], out: &mut Vec<u8>) -> Result<(), NotEvident> {
    let (words, rest) = value.as_chunks::<2>();
    let words: Vec<u16> = words.iter().map(|word| u16::from_be_bytes(*word)).collect();
    let [count, weight, sign, scale, groups @ ..] = words.as_slice() else { return Err(NotEvident) };
    if !rest.is_empty() || groups.len() != usize::from(*count) || groups.iter().any(|&group| group > 9999) {
        return Err(NotEvident);
    }
    match *sign {
        NUMERIC_NAN | NUMERIC_INFINITY | NUMERIC_MINUS_INFINITY => special(*sign, out),
        0 | NUMERIC_NEGATIVE => {
            let digits: String = groups.iter().map(|group| format!("{group:04}")).collect();
            let point = (i64::from(*weight as i16) + 1) * 4;
            // The server truncates to the declared scale: more digits than that are not what it stores.
            let fraction = digits.trim_end_matches('0').len() as i64 - point;
            if fraction > i64::from(*scale) {
                return Err(NotEvident);
            }
            decimal(*sign == NUMERIC_NEGATIVE, digits.as_bytes(), point, out)
        }
        _ => Err(NotEvident),
    }
}

/// A key as an operator may see it, by name and on request only (promise 13).
pub fn shown(key: &[u8]) -> String {
    columns(key).map(column_shown).collect::<Vec<_>>().join(", ")
}

// Integers as numbers, text as text, anything else in hexadecimal.
fn column_shown(value: &[u8]) -> String {
    match (value.len(), std::str::from_utf8(value)) {
        (2, _) => i16::from_be_bytes(value.try_into().expect("two bytes")).to_string(),
        (_, Ok(text)) if !text.is_empty() && !text.contains(char::is_control) => text.to_owned(),
        (4, _) => i32::from_be_bytes(value.try_into().expect("four bytes")).to_string(),
        (8, _) => i64::from_be_bytes(value.try_into().expect("eight bytes")).to_string(),
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests;
