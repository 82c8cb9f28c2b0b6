//! The parameters behind the statement of QUERY, EXECUTE and BATCH, and the values in them.

use bytes::{BufMut, BytesMut};

use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::frame::Version;
use crate::protocol::cql::wire::primitive::{Consistency, Reader, Value, put_bytes, put_short, put_string, put_value};

/// One byte before v5, four since. Servers heed [`flag::KEYSPACE`] in any version, and so is it read and put here.
mod flag {
    pub(super) const VALUES: u32 = 0x01;
    pub(super) const SKIP_METADATA: u32 = 0x02;
    pub(super) const PAGE_SIZE: u32 = 0x04;
    pub(super) const PAGING_STATE: u32 = 0x08;
    pub(super) const SERIAL_CONSISTENCY: u32 = 0x10;
    pub(super) const TIMESTAMP: u32 = 0x20;
    pub(super) const NAMES: u32 = 0x40;
    pub(super) const KEYSPACE: u32 = 0x80;
    pub(super) const NOW_IN_SECONDS: u32 = 0x100;
}

/// How a statement is to be executed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters<'a> {
    /// Ignored by DDL and USE.
    pub consistency: Consistency,
    /// For the markers. In BATCH each statement has its own.
    pub values: Option<Values<'a>>,
    /// The client knows the columns of the result.
    pub skip_metadata: bool,
    /// Rows of a page.
    pub page_size: Option<i32>,
    /// The page after the one that gave this.
    pub paging_state: Option<&'a [u8]>,
    /// Of the Paxos part.
    pub serial_consistency: Option<Consistency>,
    /// Microseconds since 1970; never `i64::MIN`. Any `USING TIMESTAMP` in the text wins over it.
    pub timestamp: Option<i64>,
    /// For names without one; by the specification since v5.
    pub keyspace: Option<&'a str>,
    /// Since v5: seconds since 1970 at which TTLs are to start and end.
    pub now_in_seconds: Option<i32>,
}

impl<'a> Parameters<'a> {
    /// Only a consistency.
    pub fn new(consistency: Consistency) -> Parameters<'static> {
        Parameters {
            consistency,
            values: None,
            skip_metadata: false,
            page_size: None,
            paging_state: None,
            serial_consistency: None,
            timestamp: None,
            keyspace: None,
            now_in_seconds: None,
        }
    }

    pub(super) fn read(reader: &mut Reader<'a>, version: Version) -> Result<Parameters<'a>, Error> {
        let consistency = reader.consistency()?;
        let flags = if version < Version::V5 {
            u32::from(reader.byte("query flags")?)
        } else {
            reader.int("query flags")?.cast_unsigned()
        };
        let has = |flag| flags & flag != 0;
        let values = has(flag::VALUES).then(|| Values::read(reader, version, has(flag::NAMES))).transpose()?;
        let page_size = has(flag::PAGE_SIZE).then(|| reader.int("page size")).transpose()?;
        let paging_state = has(flag::PAGING_STATE).then(|| reader.bytes("paging state")).transpose()?.flatten();
        let serial_consistency = has(flag::SERIAL_CONSISTENCY).then(|| reader.consistency()).transpose()?;
        let timestamp = has(flag::TIMESTAMP).then(|| reader.long("timestamp")).transpose()?;
        if timestamp == Some(i64::MIN) {
            return Err(Error::Timestamp);
        }
        let keyspace = has(flag::KEYSPACE).then(|| reader.string("keyspace")).transpose()?;
        let now_in_seconds = has(flag::NOW_IN_SECONDS).then(|| reader.int("now in seconds")).transpose()?;
        let skip_metadata = has(flag::SKIP_METADATA);
        Ok(Parameters {
            consistency,
            values,
            skip_metadata,
            page_size,
            paging_state,
            serial_consistency,
            timestamp,
            keyspace,
            now_in_seconds,
        })
    }

    pub(super) fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        if self.now_in_seconds.is_some() && version < Version::V5 {
            return Err(Error::Inexpressible { field: "now in seconds", version });
        }
        if self.timestamp == Some(i64::MIN) {
            return Err(Error::Timestamp);
        }
        out.put_u16(self.consistency.code());
        match version {
            Version::V5 => out.put_u32(self.flags()),
            _ => out.put_u8(self.flags() as u8),
        }
        if let Some(values) = &self.values {
            values.put(out, version)?;
        }
        self.page_size.into_iter().for_each(|rows| out.put_i32(rows));
        if self.paging_state.is_some() {
            put_bytes(out, self.paging_state, "paging state")?;
        }
        self.serial_consistency.into_iter().for_each(|level| out.put_u16(level.code()));
        self.timestamp.into_iter().for_each(|micros| out.put_i64(micros));
        if let Some(keyspace) = self.keyspace {
            put_string(out, keyspace, "keyspace")?;
        }
        self.now_in_seconds.into_iter().for_each(|seconds| out.put_i32(seconds));
        Ok(())
    }

    fn flags(&self) -> u32 {
        let set = |is: bool, flag: u32| if is { flag } else { 0 };
        set(self.values.is_some(), flag::VALUES)
            | set(self.values.is_some_and(|values| values.named()), flag::NAMES)
            | set(self.skip_metadata, flag::SKIP_METADATA)
            | set(self.page_size.is_some(), flag::PAGE_SIZE)
            | set(self.paging_state.is_some(), flag::PAGING_STATE)
            | set(self.serial_consistency.is_some(), flag::SERIAL_CONSISTENCY)
            | set(self.timestamp.is_some(), flag::TIMESTAMP)
            | set(self.keyspace.is_some(), flag::KEYSPACE)
            | set(self.now_in_seconds.is_some(), flag::NOW_IN_SECONDS)
    }
}

/// A value, by its place or by its name.
pub type Bound<'a> = (Option<&'a str>, Value<'a>);

/// The values of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// As they were read, and checked then.
    Read(ReadValues<'a>),
    /// As somebody wants them: all with names or none.
    Given(&'a [Bound<'a>]),
}

/// Values as they were read.
#[derive(Clone, Copy)]
pub struct ReadValues<'a> {
    version: Version,
    named: bool,
    count: u16,
    bytes: &'a [u8],
}

impl std::fmt::Debug for ReadValues<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Values<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> Values<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, version: Version, named: bool) -> Result<Values<'a>, Error> {
        let (count, bytes) = reader.counted("values", |reader| bound(reader, version, named).map(drop))?;
        Ok(Values::Read(ReadValues { version, named, count, bytes }))
    }

    /// Each value has its name.
    pub fn named(&self) -> bool {
        match self {
            Values::Read(read) => read.named,
            Values::Given(given) => given.first().is_some_and(|(name, _)| name.is_some()),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Values::Read(read) => read.count.into(),
            Values::Given(given) => given.len(),
        }
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Bound<'a>> + 'a {
        let (read, given) = match *self {
            Values::Read(read) => (Some(read), &[][..]),
            Values::Given(given) => (None, given),
        };
        read.into_iter().flat_map(|read| read.iter()).chain(given.iter().copied())
    }

    /// The value at this place. Of what was read, it takes as long as there are values before it.
    pub fn get(&self, place: usize) -> Option<Value<'a>> {
        self.iter().nth(place).map(|(_, value)| value)
    }

    /// Read values go as they came, unless the version that reads them would take them for something else.
    pub(super) fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        put_short(out, self.len(), "values")?;
        match self {
            Values::Read(read) if (read.version < Version::V4) == (version < Version::V4) => {
                out.extend_from_slice(read.bytes);
                Ok(())
            }
            values => values.iter().try_for_each(|bound| put_bound(out, bound, values.named(), version)),
        }
    }
}

impl<'a> ReadValues<'a> {
    fn iter(&self) -> impl Iterator<Item = Bound<'a>> + use<'a> {
        let (mut reader, version, named) = (Reader::new(self.bytes), self.version, self.named);
        (0..self.count).map_while(move |_| bound(&mut reader, version, named).ok())
    }
}

#[inline]
fn bound<'a>(reader: &mut Reader<'a>, version: Version, named: bool) -> Result<Bound<'a>, Error> {
    let name = if named { Some(reader.string("value name")?) } else { None };
    Ok((name, reader.value(version, "value")?))
}

fn put_bound(out: &mut BytesMut, bound: Bound<'_>, named: bool, version: Version) -> Result<(), Error> {
    match (bound.0, named) {
        (Some(name), true) => put_string(out, name, "value name")?,
        (None, false) => {}
        _ => return Err(Error::Inexpressible { field: "values of which only some have names", version }),
    }
    put_value(out, bound.1, version)
}
