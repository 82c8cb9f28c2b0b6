//! The notations that messages are made of: a checked [`Reader`], functions that put, and views of lists and maps.
//!
//! Source: native_protocol_v5.spec section 3. The views were walked when they were read, so iterating them cannot fail.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::Error;
use super::frame::Version;

/// Reads fields; every read says which field it reads, so that an error can name it.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], Error> {
        let short = Error::Short { field, need: len, left: self.rest.len() };
        let (head, tail) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let short = Error::Short { field, need: N, left: self.rest.len() };
        let (head, tail) = self.rest.split_first_chunk().ok_or(short)?;
        self.rest = tail;
        Ok(*head)
    }

    /// `[byte]`.
    #[inline]
    pub fn byte(&mut self, field: &'static str) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    /// `[short]`.
    #[inline]
    pub fn short(&mut self, field: &'static str) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// `[int]`.
    #[inline]
    pub fn int(&mut self, field: &'static str) -> Result<i32, Error> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    /// `[int]` that counts something: negative ones are refused.
    pub fn count(&mut self, field: &'static str) -> Result<usize, Error> {
        let value = self.int(field)?;
        usize::try_from(value).map_err(|_| Error::Invalid { field, value: i64::from(value) })
    }

    /// `[long]`.
    #[inline]
    pub fn long(&mut self, field: &'static str) -> Result<i64, Error> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    /// `[uuid]`.
    pub fn uuid(&mut self, field: &'static str) -> Result<[u8; 16], Error> {
        self.array(field)
    }

    /// `[string]`.
    #[inline]
    pub fn string(&mut self, field: &'static str) -> Result<&'a str, Error> {
        let len = self.short(field)?;
        utf8(self.take(len.into(), field)?, field)
    }

    /// `[long string]`, as bytes: whoever needs text checks it.
    #[inline]
    pub fn long_string(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        let len = self.count(field)?;
        self.take(len, field)
    }

    /// `[bytes]`: any negative length is null.
    #[inline]
    pub fn bytes(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, Error> {
        match usize::try_from(self.int(field)?) {
            Ok(len) => self.take(len, field).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// `[short bytes]`.
    #[inline]
    pub fn short_bytes(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        let len = self.short(field)?;
        self.take(len.into(), field)
    }

    /// `[value]`. Before v4 there is no "not set": every negative length is null.
    #[inline]
    pub fn value(&mut self, version: Version, field: &'static str) -> Result<Value<'a>, Error> {
        let len = self.int(field)?;
        match (usize::try_from(len), len) {
            (Ok(len), _) => self.take(len, field).map(Value::Set),
            (_, -1) => Ok(Value::Null),
            (_, _) if version < Version::V4 => Ok(Value::Null),
            (_, -2) => Ok(Value::Unset),
            _ => Err(Error::ValueLength(len)),
        }
    }

    /// `[consistency]`.
    pub fn consistency(&mut self) -> Result<Consistency, Error> {
        let code = self.short("consistency")?;
        Consistency::from_code(code).ok_or(Error::Consistency(code))
    }

    /// `[inetaddr]`: an address without a port.
    pub fn inetaddr(&mut self, field: &'static str) -> Result<IpAddr, Error> {
        match self.byte(field)? {
            4 => Ok(IpAddr::from(self.array::<4>(field)?)),
            16 => Ok(IpAddr::from(self.array::<16>(field)?)),
            len => Err(Error::Invalid { field, value: len.into() }),
        }
    }

    /// `[inet]`: an address and its port.
    pub fn inet(&mut self, field: &'static str) -> Result<(IpAddr, i32), Error> {
        Ok((self.inetaddr(field)?, self.int(field)?))
    }

    /// `[string list]`.
    pub fn string_list(&mut self, field: &'static str) -> Result<StringList<'a>, Error> {
        let (count, bytes) = self.counted(field, |reader| reader.string(field).map(drop))?;
        Ok(StringList { count, bytes })
    }

    /// `[string map]`.
    pub fn string_map(&mut self, field: &'static str) -> Result<StringMap<'a>, Error> {
        let (count, bytes) = self.counted(field, |r| r.string(field).and_then(|_| r.string(field)).map(drop))?;
        Ok(StringMap { count, bytes })
    }

    /// `[string multimap]`.
    pub fn string_multimap(&mut self, field: &'static str) -> Result<StringMultimap<'a>, Error> {
        let (count, bytes) = self.counted(field, |r| r.string(field).and_then(|_| r.string_list(field)).map(drop))?;
        Ok(StringMultimap { count, bytes })
    }

    /// `[bytes map]`.
    pub fn bytes_map(&mut self, field: &'static str) -> Result<BytesMap<'a>, Error> {
        let (count, bytes) = self.counted(field, |r| r.string(field).and_then(|_| r.bytes(field)).map(drop))?;
        Ok(BytesMap { count, bytes })
    }

    /// A `[short]` count and that many things; what they cover.
    pub(super) fn counted(
        &mut self,
        field: &'static str,
        mut skip: impl FnMut(&mut Reader<'a>) -> Result<(), Error>,
    ) -> Result<(u16, &'a [u8]), Error> {
        let count = self.short(field)?;
        let bytes = self.covered(|reader| (0..count).try_for_each(|_| skip(reader)))?;
        Ok((count, bytes))
    }

    /// What `skip` reads over.
    pub(super) fn covered(
        &mut self,
        skip: impl FnOnce(&mut Reader<'a>) -> Result<(), Error>,
    ) -> Result<&'a [u8], Error> {
        let before = self.rest;
        skip(self)?;
        Ok(&before[..before.len() - self.rest.len()])
    }
}

fn utf8<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Utf8(field))
}

/// Where `part`, a slice of `whole` that a view handed out, lies in it: to change bytes in place.
///
/// `None` if it is a slice of something else.
pub fn range_in(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// What is bound to a marker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// These bytes.
    Set(&'a [u8]),
    /// Null: deletes.
    Null,
    /// Not set: changes nothing. Since v4.
    Unset,
}

/// Never the bytes (promise 13).
impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Set(bytes) => write!(f, "Set({} bytes)", bytes.len()),
            Value::Null => f.write_str("Null"),
            Value::Unset => f.write_str("Unset"),
        }
    }
}

/// How many replicas have to answer.
#[allow(missing_docs, reason = "named as the specification names them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Consistency {
    Any,
    One,
    Two,
    Three,
    Quorum,
    All,
    LocalQuorum,
    EachQuorum,
    Serial,
    LocalSerial,
    LocalOne,
    /// Of Cassandra 4.1 and later, for the nodes' own use; they take it from clients too.
    NodeLocal,
}

impl Consistency {
    /// All of them; each at the place of its code.
    pub const ALL: [Consistency; 12] = {
        use Consistency::*;
        [Any, One, Two, Three, Quorum, All, LocalQuorum, EachQuorum, Serial, LocalSerial, LocalOne, NodeLocal]
    };
    const NAMES: [&'static str; 12] = [
        "ANY",
        "ONE",
        "TWO",
        "THREE",
        "QUORUM",
        "ALL",
        "LOCAL_QUORUM",
        "EACH_QUORUM",
        "SERIAL",
        "LOCAL_SERIAL",
        "LOCAL_ONE",
        "NODE_LOCAL",
    ];

    /// From the number on the wire.
    pub fn from_code(code: u16) -> Option<Consistency> {
        Consistency::ALL.get(usize::from(code)).copied()
    }

    /// The number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Consistency::NAMES[*self as usize])
    }
}

impl std::str::FromStr for Consistency {
    type Err = ();

    fn from_str(text: &str) -> Result<Consistency, ()> {
        let place = Consistency::NAMES.iter().position(|name| name.eq_ignore_ascii_case(text)).ok_or(())?;
        Ok(Consistency::ALL[place])
    }
}

macro_rules! view {
    ($(#[$doc:meta])* $name:ident, $item:ty, |$reader:ident| $next:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name<'a> {
            count: u16,
            bytes: &'a [u8],
        }

        impl<'a> $name<'a> {
            /// How many there are.
            pub fn len(&self) -> usize {
                self.count.into()
            }

            /// There are none.
            pub fn is_empty(&self) -> bool {
                self.count == 0
            }

            /// One after the other.
            pub fn iter(&self) -> impl Iterator<Item = $item> + 'a {
                let mut $reader = Reader::new(self.bytes);
                (0..self.count).map_while(move |_| $next)
            }

            /// Append as it was read.
            pub fn put(&self, out: &mut BytesMut) {
                out.put_u16(self.count);
                out.extend_from_slice(self.bytes);
            }
        }
    };
}

view!(
    /// A `[string list]` that was checked.
    StringList, &'a str, |reader| reader.string("string list").ok()
);
view!(
    /// A `[string map]` that was checked. Credentials may be in it: no Debug of what it holds.
    StringMap, (&'a str, &'a str), |reader| reader.string("key").ok().zip(reader.string("value").ok())
);
view!(
    /// A `[string multimap]` that was checked.
    StringMultimap, (&'a str, StringList<'a>), |reader| reader.string("key").ok().zip(reader.string_list("values").ok())
);
view!(
    /// A `[bytes map]` that was checked.
    BytesMap, (&'a str, Option<&'a [u8]>), |reader| reader.string("key").ok().zip(reader.bytes("value").ok())
);

impl<'a> StringMap<'a> {
    /// What this key says.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

impl<'a> StringMultimap<'a> {
    /// What this key says.
    pub fn get(&self, key: &str) -> Option<StringList<'a>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, values)| values)
    }
}

impl fmt::Debug for StringList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for StringMultimap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for StringMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(key, _)| key)).finish()
    }
}

impl fmt::Debug for BytesMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(key, _)| key)).finish()
    }
}

/// Append a count or length as a `[short]`.
pub fn put_short(out: &mut BytesMut, len: usize, field: &'static str) -> Result<(), Error> {
    out.put_u16(u16::try_from(len).map_err(|_| Error::TooLong { field, len })?);
    Ok(())
}

/// Append a count or length as an `[int]`.
pub fn put_int(out: &mut BytesMut, len: usize, field: &'static str) -> Result<(), Error> {
    out.put_i32(i32::try_from(len).map_err(|_| Error::TooLong { field, len })?);
    Ok(())
}

/// Append a `[string]`.
pub fn put_string(out: &mut BytesMut, text: &str, field: &'static str) -> Result<(), Error> {
    put_short_bytes(out, text.as_bytes(), field)
}

/// Append a `[short bytes]`.
pub fn put_short_bytes(out: &mut BytesMut, bytes: &[u8], field: &'static str) -> Result<(), Error> {
    put_short(out, bytes.len(), field)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// Append a `[long string]`.
pub fn put_long_string(out: &mut BytesMut, text: &[u8], field: &'static str) -> Result<(), Error> {
    put_int(out, text.len(), field)?;
    out.extend_from_slice(text);
    Ok(())
}

/// Append a `[bytes]`.
pub fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>, field: &'static str) -> Result<(), Error> {
    match bytes {
        Some(bytes) => put_long_string(out, bytes, field),
        None => {
            out.put_i32(-1);
            Ok(())
        }
    }
}

/// Append a `[value]`.
pub fn put_value(out: &mut BytesMut, value: Value<'_>, version: Version) -> Result<(), Error> {
    match value {
        Value::Set(bytes) => put_long_string(out, bytes, "value")?,
        Value::Null => out.put_i32(-1),
        Value::Unset if version < Version::V4 => return Err(Error::Inexpressible { field: "unset value", version }),
        Value::Unset => out.put_i32(-2),
    }
    Ok(())
}

/// Append a `[string list]`.
pub fn put_string_list<'t>(
    out: &mut BytesMut,
    texts: impl ExactSizeIterator<Item = &'t str>,
    field: &'static str,
) -> Result<(), Error> {
    put_short(out, texts.len(), field)?;
    texts.into_iter().try_for_each(|text| put_string(out, text, field))
}

/// Append an `[inetaddr]`.
pub fn put_inetaddr(out: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            out.put_u8(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.put_u8(16);
            out.extend_from_slice(&v6.octets());
        }
    }
}

#[cfg(test)]
mod tests;
