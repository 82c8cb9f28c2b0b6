//! Values of every type, decoded: for comparisons that bytes cannot make, for answers of our own, and for tests. What is
//! only forwarded stays bytes.
//!
//! Source: native_protocol_v5.spec section 5 and 6; for vectors, `VectorType` of Cassandra 5.0.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use super::Error;
use super::primitive::{Reader, put_int};
use super::types::{Native, Type};

/// A decoded value.
#[allow(missing_docs, reason = "named as the specification names them; what is not evident is told")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    Null,
    /// No bytes, of a type whose values have some: neither null nor a value. Kept for what Thrift once allowed.
    Empty,
    Ascii(String),
    Bigint(i64),
    Blob(Vec<u8>),
    Boolean(bool),
    Counter(i64),
    /// `unscaled * 10^-scale`; equal numbers of other scales are other values.
    Decimal {
        scale: i32,
        unscaled: Varint,
    },
    Double(Exact<f64>),
    Float(Exact<f32>),
    Int(i32),
    /// Milliseconds since 1970.
    Timestamp(i64),
    Uuid([u8; 16]),
    Varchar(String),
    Varint(Varint),
    Timeuuid([u8; 16]),
    Inet(IpAddr),
    /// Days; 2^31 is 1970-01-01.
    Date(u32),
    /// Nanoseconds since midnight.
    Time(i64),
    Smallint(i16),
    Tinyint(i8),
    /// All of one sign.
    Duration {
        months: i32,
        days: i32,
        nanoseconds: i64,
    },
    List(Vec<Datum>),
    Map(Vec<(Datum, Datum)>),
    Set(Vec<Datum>),
    /// The fields in their order; those that the value leaves out are null.
    Udt(Vec<Datum>),
    Tuple(Vec<Datum>),
    Vector(Vec<Datum>),
    /// Of a class that is not known.
    Custom(Vec<u8>),
}

/// A float that equals itself, bit by bit.
#[derive(Clone, Copy, Debug)]
pub struct Exact<T>(pub T);

impl PartialEq for Exact<f32> {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl PartialEq for Exact<f64> {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Exact<f32> {}
impl Eq for Exact<f64> {}

/// An integer of any size: two's complement, big-endian, as short as it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Varint(Vec<u8>);

impl Varint {
    /// Bytes that are longer than they need be mean the same number. No bytes are none.
    pub fn new(bytes: &[u8]) -> Option<Varint> {
        let mut bytes = bytes;
        while let [sign @ (0x00 | 0xFF), rest @ ..] = bytes
            && rest.first().is_some_and(|next| (next ^ sign) & 0x80 == 0)
        {
            bytes = rest;
        }
        (!bytes.is_empty()).then(|| Varint(bytes.to_vec()))
    }

    /// As it is on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::convert::From<i64> for Varint {
    fn from(value: i64) -> Varint {
        Varint::new(&value.to_be_bytes()).expect("eight bytes are some")
    }
}

impl Datum {
    /// The value of this type in a cell or element; `None` is null.
    pub fn decode(kind: &Type, bytes: Option<&[u8]>) -> Result<Datum, Error> {
        let Some(bytes) = bytes else { return Ok(Datum::Null) };
        if let Type::Native(native) = kind {
            return decode_native(*native, bytes);
        }
        let mut reader = Reader::new(bytes);
        let datum = match kind {
            Type::Custom(_) => return Ok(Datum::Custom(bytes.to_vec())),
            _ if bytes.is_empty() => return Ok(Datum::Empty),
            Type::List(element) => elements(&mut reader, element).map(Datum::List),
            Type::Set(element) => elements(&mut reader, element).map(Datum::Set),
            Type::Map(key, value) => entries(&mut reader, key, value).map(Datum::Map),
            Type::Tuple(parts) => fields(&mut reader, parts.iter()).map(Datum::Tuple),
            Type::Udt { fields: named, .. } => fields(&mut reader, named.iter().map(|(_, kind)| kind)).map(Datum::Udt),
            Type::Vector(element, len) => vector(&mut reader, element, *len).map(Datum::Vector),
            Type::Native(native) => decode_native(*native, bytes),
        }?;
        match reader.rest().len() {
            0 => Ok(datum),
            extra => Err(Error::Invalid { field: "bytes after the value", value: extra as i64 }),
        }
    }

    /// Append it as `[bytes]`: with its length, null as -1.
    pub fn put(&self, out: &mut BytesMut) -> Result<(), Error> {
        if *self == Datum::Null {
            out.put_i32(-1);
            return Ok(());
        }
        let at = out.len();
        out.put_i32(0);
        self.put_content(out)?;
        let len = out.len() - at - size_of::<i32>();
        let len = i32::try_from(len).map_err(|_| Error::TooLong { field: "value", len })?;
        out[at..at + size_of::<i32>()].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// Append it without a length. Nothing, for null.
    fn put_content(&self, out: &mut BytesMut) -> Result<(), Error> {
        match self {
            Datum::Null | Datum::Empty => {}
            Datum::Ascii(text) | Datum::Varchar(text) => out.extend_from_slice(text.as_bytes()),
            Datum::Bigint(value) | Datum::Counter(value) | Datum::Timestamp(value) | Datum::Time(value) => {
                out.put_i64(*value);
            }
            Datum::Blob(bytes) | Datum::Custom(bytes) => out.extend_from_slice(bytes),
            Datum::Boolean(value) => out.put_u8((*value).into()),
            Datum::Decimal { scale, unscaled } => {
                out.put_i32(*scale);
                out.extend_from_slice(&unscaled.0);
            }
            Datum::Double(Exact(value)) => out.put_f64(*value),
            Datum::Float(Exact(value)) => out.put_f32(*value),
            Datum::Int(value) => out.put_i32(*value),
            Datum::Uuid(id) | Datum::Timeuuid(id) => out.extend_from_slice(id),
            Datum::Varint(value) => out.extend_from_slice(&value.0),
            Datum::Inet(IpAddr::V4(address)) => out.extend_from_slice(&address.octets()),
            Datum::Inet(IpAddr::V6(address)) => out.extend_from_slice(&address.octets()),
            Datum::Date(days) => out.put_u32(*days),
            Datum::Smallint(value) => out.put_i16(*value),
            Datum::Tinyint(value) => out.put_i8(*value),
            Datum::Duration { months, days, nanoseconds } => {
                [i64::from(*months), i64::from(*days), *nanoseconds].into_iter().for_each(|part| put_vint(out, part));
            }
            Datum::List(elements) | Datum::Set(elements) => {
                put_int(out, elements.len(), "elements")?;
                elements.iter().try_for_each(|element| element.put(out))?;
            }
            Datum::Map(entries) => {
                put_int(out, entries.len(), "entries")?;
                entries.iter().try_for_each(|(key, value)| key.put(out).and_then(|()| value.put(out)))?;
            }
            Datum::Udt(fields) | Datum::Tuple(fields) => fields.iter().try_for_each(|field| field.put(out))?,
            Datum::Vector(elements) => elements.iter().try_for_each(|element| element.put_in_vector(out))?,
        }
        Ok(())
    }

    /// Elements of one length lie side by side; each other has its length before it, as an unsigned vint.
    fn put_in_vector(&self, out: &mut BytesMut) -> Result<(), Error> {
        if self.is_fixed() {
            return self.put_content(out);
        }
        let mut content = BytesMut::new();
        self.put_content(&mut content)?;
        put_unsigned_vint(out, content.len() as u64);
        out.extend_from_slice(&content);
        Ok(())
    }

    /// As [`Type::fixed_len`], of the value.
    fn is_fixed(&self) -> bool {
        match self {
            Datum::Boolean(_) | Datum::Int(_) | Datum::Float(_) | Datum::Bigint(_) | Datum::Double(_) => true,
            Datum::Timestamp(_) | Datum::Uuid(_) | Datum::Timeuuid(_) => true,
            Datum::Vector(elements) => elements.iter().all(Datum::is_fixed),
            _ => false,
        }
    }
}

fn decode_native(native: Native, bytes: &[u8]) -> Result<Datum, Error> {
    let text = |field| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Error::Utf8(field));
    match native {
        Native::Ascii if bytes.is_ascii() => text("ascii").map(Datum::Ascii),
        Native::Ascii => Err(Error::Utf8("ascii")),
        Native::Varchar => text("varchar").map(Datum::Varchar),
        Native::Blob => Ok(Datum::Blob(bytes.to_vec())),
        _ if bytes.is_empty() => Ok(Datum::Empty),
        Native::Bigint => Ok(Datum::Bigint(i64::from_be_bytes(exact(bytes, "bigint")?))),
        Native::Counter => Ok(Datum::Counter(i64::from_be_bytes(exact(bytes, "counter")?))),
        Native::Timestamp => Ok(Datum::Timestamp(i64::from_be_bytes(exact(bytes, "timestamp")?))),
        Native::Time => Ok(Datum::Time(i64::from_be_bytes(exact(bytes, "time")?))),
        Native::Boolean => exact(bytes, "boolean").map(|[byte]| Datum::Boolean(byte != 0)),
        Native::Double => Ok(Datum::Double(Exact(f64::from_be_bytes(exact(bytes, "double")?)))),
        Native::Float => Ok(Datum::Float(Exact(f32::from_be_bytes(exact(bytes, "float")?)))),
        Native::Int => Ok(Datum::Int(i32::from_be_bytes(exact(bytes, "int")?))),
        Native::Date => Ok(Datum::Date(u32::from_be_bytes(exact(bytes, "date")?))),
        Native::Smallint => Ok(Datum::Smallint(i16::from_be_bytes(exact(bytes, "smallint")?))),
        Native::Tinyint => Ok(Datum::Tinyint(i8::from_be_bytes(exact(bytes, "tinyint")?))),
        Native::Uuid => exact(bytes, "uuid").map(Datum::Uuid),
        Native::Timeuuid => exact(bytes, "timeuuid").map(Datum::Timeuuid),
        Native::Varint => varint(bytes, "varint").map(Datum::Varint),
        Native::Decimal => {
            let mut reader = Reader::new(bytes);
            let scale = reader.int("scale")?;
            Ok(Datum::Decimal { scale, unscaled: varint(reader.rest(), "decimal")? })
        }
        Native::Inet => match bytes.len() {
            4 => exact::<4>(bytes, "inet").map(|octets| Datum::Inet(octets.into())),
            _ => exact::<16>(bytes, "inet").map(|octets| Datum::Inet(octets.into())),
        },
        Native::Duration => duration(bytes),
    }
}

fn exact<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::Invalid { field, value: bytes.len() as i64 })
}

fn varint(bytes: &[u8], field: &'static str) -> Result<Varint, Error> {
    Varint::new(bytes).ok_or(Error::Short { field, need: 1, left: 0 })
}

fn duration(bytes: &[u8]) -> Result<Datum, Error> {
    let mut reader = Reader::new(bytes);
    let invalid = |value| Error::Invalid { field: "duration", value };
    let mut part = || vint(&mut reader, "duration");
    let (months, days, nanoseconds) = (part()?, part()?, part()?);
    let small = |value| i32::try_from(value).map_err(|_| invalid(value));
    match reader.rest().len() {
        0 => Ok(Datum::Duration { months: small(months)?, days: small(days)?, nanoseconds }),
        extra => Err(invalid(extra as i64)),
    }
}

fn elements(reader: &mut Reader<'_>, kind: &Type) -> Result<Vec<Datum>, Error> {
    (0..counted(reader)?).map(|_| Datum::decode(kind, reader.bytes("element")?)).collect()
}

fn entries(reader: &mut Reader<'_>, key: &Type, value: &Type) -> Result<Vec<(Datum, Datum)>, Error> {
    let count = counted(reader)?;
    let entry = |_| {
        let key = Datum::decode(key, reader.bytes("key")?)?;
        Ok((key, Datum::decode(value, reader.bytes("value")?)?))
    };
    (0..count).map(entry).collect()
}

/// An element has a length of four bytes at least: a lie about the count takes no memory.
fn counted(reader: &mut Reader<'_>) -> Result<usize, Error> {
    let count = reader.count("elements")?;
    let need = count.saturating_mul(size_of::<i32>());
    match reader.rest().len() {
        left if left < need => Err(Error::Short { field: "elements", need, left }),
        _ => Ok(count),
    }
}

/// A value may have fewer fields than its type: it is older than the others.
fn fields<'t>(reader: &mut Reader<'_>, kinds: impl Iterator<Item = &'t Type>) -> Result<Vec<Datum>, Error> {
    let field = |kind| match reader.rest() {
        [] => Ok(Datum::Null),
        _ => Datum::decode(kind, reader.bytes("field")?),
    };
    kinds.map(field).collect()
}

fn vector(reader: &mut Reader<'_>, kind: &Type, len: u16) -> Result<Vec<Datum>, Error> {
    let fixed = kind.fixed_len();
    let element = |_| {
        let len = match fixed {
            Some(len) => len,
            None => usize::try_from(unsigned_vint(reader, "element")?).unwrap_or(usize::MAX),
        };
        Datum::decode(kind, Some(reader.take(len, "element")?))
    };
    (0..len).map(element).collect()
}

/// As many ones lead the first byte as bytes follow it.
fn unsigned_vint(reader: &mut Reader<'_>, field: &'static str) -> Result<u64, Error> {
    let first = reader.byte(field)?;
    let extra = first.leading_ones();
    let high = u64::from(first) & (0xFF_u64 >> extra);
    let rest = reader.take(extra as usize, field)?;
    Ok(rest.iter().fold(if extra == 8 { 0 } else { high }, |value, &byte| value << 8 | u64::from(byte)))
}

fn vint(reader: &mut Reader<'_>, field: &'static str) -> Result<i64, Error> {
    let value = unsigned_vint(reader, field)?;
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

fn put_unsigned_vint(out: &mut BytesMut, value: u64) {
    let bits = (u64::BITS - value.leading_zeros()).max(1);
    let extra = ((bits - 1) / 7).min(8);
    let lead = !(0xFF_u16 >> extra) as u8;
    let high = if extra == 8 { 0 } else { (value >> (8 * extra)) as u8 };
    out.put_u8(high | lead);
    out.extend_from_slice(&value.to_be_bytes()[8 - extra as usize..]);
}

fn put_vint(out: &mut BytesMut, value: i64) {
    put_unsigned_vint(out, (value << 1 ^ value >> 63).cast_unsigned());
}

#[cfg(test)]
mod tests;
