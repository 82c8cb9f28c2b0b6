//! RESULT: what a request gave. Metadata is walked when it is read, rows when they are iterated.
//!
//! Source: native_protocol_v5.spec section 4.2.5.

use bytes::{BufMut, BytesMut};

use super::event::SchemaChange;
use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::frame::Version;
use crate::protocol::cql::wire::primitive::{Reader, put_bytes, put_int, put_short_bytes, put_string};
use crate::protocol::cql::wire::types::{Columns, Native, Type};

mod kind {
    pub(super) const VOID: i32 = 1;
    pub(super) const ROWS: i32 = 2;
    pub(super) const SET_KEYSPACE: i32 = 3;
    pub(super) const PREPARED: i32 = 4;
    pub(super) const SCHEMA_CHANGE: i32 = 5;
}

mod flag {
    pub(super) const GLOBAL_TABLE: i32 = 0x01;
    pub(super) const MORE_PAGES: i32 = 0x02;
    pub(super) const NO_METADATA: i32 = 0x04;
    /// Since v5: a new result metadata id is here.
    pub(super) const CHANGED: i32 = 0x08;
}

/// What a request gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Nothing.
    Void,
    /// Rows.
    Rows(Rows<'a>),
    /// USE succeeded.
    SetKeyspace(&'a str),
    /// PREPARE succeeded.
    Prepared(Prepared<'a>),
    /// DDL succeeded.
    SchemaChange(SchemaChange<'a>),
}

impl<'a> Outcome<'a> {
    /// Read a RESULT.
    pub fn parse(version: Version, message: &'a [u8]) -> Result<Outcome<'a>, Error> {
        let mut reader = Reader::new(message);
        match reader.int("result kind")? {
            kind::VOID => Ok(Outcome::Void),
            kind::ROWS => Rows::read(&mut reader, version).map(Outcome::Rows),
            kind::SET_KEYSPACE => reader.string("keyspace").map(Outcome::SetKeyspace),
            kind::PREPARED => Prepared::read(&mut reader, version).map(Outcome::Prepared),
            kind::SCHEMA_CHANGE => SchemaChange::read(&mut reader).map(Outcome::SchemaChange),
            kind => Err(Error::Invalid { field: "result kind", value: kind.into() }),
        }
    }

    /// Append the message.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        match self {
            Outcome::Void => out.put_i32(kind::VOID),
            Outcome::Rows(rows) => {
                out.put_i32(kind::ROWS);
                rows.put(out, version)?;
            }
            Outcome::SetKeyspace(keyspace) => {
                out.put_i32(kind::SET_KEYSPACE);
                put_string(out, keyspace, "keyspace")?;
            }
            Outcome::Prepared(prepared) => {
                out.put_i32(kind::PREPARED);
                prepared.put(out, version)?;
            }
            Outcome::SchemaChange(change) => {
                out.put_i32(kind::SCHEMA_CHANGE);
                change.put(out, version)?;
            }
        }
        Ok(())
    }
}

/// What is said of a result's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata<'a> {
    version: Version,
    /// The table is said once. Servers set the flag also where they say nothing of the columns.
    global: bool,
    /// Columns of each row, also when they are not described.
    pub count: usize,
    /// `None`: the client asked not to be told.
    pub columns: Option<Columns<'a>>,
    /// There are more pages: this gives the next.
    pub paging_state: Option<&'a [u8]>,
    /// Since v5: the columns changed since the client prepared; this is their new id.
    pub new_id: Option<&'a [u8]>,
}

impl<'a> Metadata<'a> {
    /// Of no columns: what servers say of statements that give no rows.
    pub fn none(version: Version) -> Metadata<'static> {
        Metadata { version, global: false, count: 0, columns: None, paging_state: None, new_id: None }
    }

    /// Read what [`put_metadata`] has put, or what stands in a RESULT.
    pub fn parse(version: Version, bytes: &'a [u8]) -> Result<Metadata<'a>, Error> {
        Metadata::read(&mut Reader::new(bytes), version)
    }

    fn read(reader: &mut Reader<'a>, version: Version) -> Result<Metadata<'a>, Error> {
        let flags = reader.int("result flags")?;
        let has = |flag| flags & flag != 0;
        let count = reader.count("columns")?;
        let paging_state = has(flag::MORE_PAGES).then(|| reader.bytes("paging state")).transpose()?.flatten();
        let changed = has(flag::CHANGED) && version >= Version::V5;
        let new_id = changed.then(|| reader.short_bytes("result metadata id")).transpose()?;
        let described = !has(flag::NO_METADATA);
        let columns = described.then(|| Columns::read(reader, count, has(flag::GLOBAL_TABLE))).transpose()?;
        Ok(Metadata { version, global: has(flag::GLOBAL_TABLE), count, columns, paging_state, new_id })
    }

    fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        let new_id = self.new_id.filter(|_| version >= Version::V5);
        let set = |is: bool, flag: i32| if is { flag } else { 0 };
        let global = self.columns.map_or(self.global, |columns| columns.table().is_some());
        out.put_i32(
            set(global, flag::GLOBAL_TABLE)
                | set(self.paging_state.is_some(), flag::MORE_PAGES)
                | set(self.columns.is_none(), flag::NO_METADATA)
                | set(new_id.is_some(), flag::CHANGED),
        );
        put_int(out, self.count, "columns")?;
        if self.paging_state.is_some() {
            put_bytes(out, self.paging_state, "paging state")?;
        }
        if let Some(id) = new_id {
            put_short_bytes(out, id, "result metadata id")?;
        }
        self.columns.map_or(Ok(()), |columns| columns.put(out, self.version, version))
    }
}

/// Rows, not walked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows<'a> {
    /// Of their columns.
    pub metadata: Metadata<'a>,
    /// How many.
    count: usize,
    /// From the first row to the end of the message.
    content: &'a [u8],
}

impl<'a> Rows<'a> {
    fn read(reader: &mut Reader<'a>, version: Version) -> Result<Rows<'a>, Error> {
        let metadata = Metadata::read(reader, version)?;
        let count = reader.count("rows")?;
        let content = reader.rest();
        // Every cell has a length of four bytes: a lie about the count is found before anything is done about it.
        let need = count.saturating_mul(metadata.count.max(1)).saturating_mul(size_of::<i32>());
        if content.len() < need {
            return Err(Error::Short { field: "rows", need, left: content.len() });
        }
        Ok(Rows { metadata, count, content })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One after the other. Ends after an error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Row<'a>, Error>> + 'a {
        let (mut reader, columns) = (Reader::new(self.content), self.metadata.count);
        let mut left = self.count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let row = reader.covered(|reader| (0..columns).try_for_each(|_| reader.bytes("cell").map(drop)));
            if row.is_err() {
                left = 0;
            }
            Some(row.map(|cells| Row { columns, cells }))
        })
    }

    /// The column `[applied]` of a conditional statement's answer, which servers always describe and put first: true if the
    /// statement took effect. `None`: it was not conditional.
    pub fn applied(&self) -> Option<bool> {
        let column = self.metadata.columns?.iter().next()?;
        if column.name != "[applied]" || !column.is(Native::Boolean) {
            return None;
        }
        let row = self.iter().next()?.ok()?;
        row.get(0)?.map(|cell| cell.first().is_some_and(|&byte| byte != 0))
    }

    /// Append the message. The cells go as they are: no value is written differently in another version.
    fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        self.metadata.put(out, version)?;
        put_int(out, self.count, "rows")?;
        out.extend_from_slice(self.content);
        Ok(())
    }
}

/// A row, checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    columns: usize,
    cells: &'a [u8],
}

/// Never the values (promise 13).
impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({} columns, {} bytes)", self.columns, self.cells.len())
    }
}

impl<'a> Row<'a> {
    /// The cells, one after the other; `None` is null.
    pub fn iter(&self) -> Cells<'a> {
        Cells { reader: Reader::new(self.cells), left: self.columns }
    }

    /// The cell of this column: outer `None` if there is no such column.
    pub fn get(&self, column: usize) -> Option<Option<&'a [u8]>> {
        self.iter().nth(column)
    }

    /// The cells as they are on the wire: equal bytes are equal rows.
    pub fn bytes(&self) -> &'a [u8] {
        self.cells
    }
}

/// Cells of a row.
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Cells<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.reader.bytes("cell").ok()
    }
}

/// Which markers make up the partition key, in its order. Empty in v3, and where some part of the key has no marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PkIndexes<'a>(&'a [u8]);

impl<'a> PkIndexes<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<PkIndexes<'a>, Error> {
        let count = reader.count("partition key indexes")?;
        reader.take(count.saturating_mul(size_of::<u16>()), "partition key indexes").map(PkIndexes)
    }

    /// Places of markers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u16> + 'a {
        self.0.chunks_exact(size_of::<u16>()).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The answer to PREPARE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    version: Version,
    /// For EXECUTE.
    pub id: &'a [u8],
    /// Since v5: for EXECUTE.
    pub result_metadata_id: Option<&'a [u8]>,
    /// Which markers make up the partition key.
    pub pk_indexes: PkIndexes<'a>,
    /// The markers.
    pub markers: Columns<'a>,
    /// Of what EXECUTE will give.
    pub result: Metadata<'a>,
}

impl<'a> Prepared<'a> {
    fn read(reader: &mut Reader<'a>, version: Version) -> Result<Prepared<'a>, Error> {
        let id = reader.short_bytes("prepared id")?;
        let v5 = version >= Version::V5;
        let result_metadata_id = v5.then(|| reader.short_bytes("result metadata id")).transpose()?;
        let flags = reader.int("metadata flags")?;
        let count = reader.count("markers")?;
        let pk_indexes = if version < Version::V4 { PkIndexes(&[]) } else { PkIndexes::read(reader)? };
        let markers = Columns::read(reader, count, flags & flag::GLOBAL_TABLE != 0)?;
        let result = Metadata::read(reader, version)?;
        Ok(Prepared { version, id, result_metadata_id, pk_indexes, markers, result })
    }

    fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        put_short_bytes(out, self.id, "prepared id")?;
        if version >= Version::V5 {
            let field = "a prepared statement without a result metadata id";
            let id = self.result_metadata_id.ok_or(Error::Inexpressible { field, version })?;
            put_short_bytes(out, id, "result metadata id")?;
        }
        out.put_i32(if self.markers.table().is_some() { flag::GLOBAL_TABLE } else { 0 });
        put_int(out, self.markers.len(), "markers")?;
        if version >= Version::V4 {
            put_int(out, self.pk_indexes.iter().len(), "partition key indexes")?;
            out.extend_from_slice(self.pk_indexes.0);
        }
        self.markers.put(out, self.version, version)?;
        self.result.put(out, version)
    }
}

/// Append metadata of our own, of columns of one table. Parsed back, it is a [`Metadata`] for [`Prepared`] or [`put_rows`].
pub fn put_metadata(
    out: &mut BytesMut,
    version: Version,
    (keyspace, table): (&str, &str),
    columns: &[(&str, &Type)],
) -> Result<(), Error> {
    out.put_i32(flag::GLOBAL_TABLE);
    put_int(out, columns.len(), "columns")?;
    put_string(out, keyspace, "keyspace")?;
    put_string(out, table, "table")?;
    columns.iter().try_for_each(|(name, kind)| {
        put_string(out, name, "column name")?;
        kind.put(out, version)
    })
}

/// What a PREPARED message of our own says besides the result's metadata. All markers are of one table.
#[derive(Clone, Copy, Debug)]
pub struct OwnPrepared<'a> {
    /// For EXECUTE.
    pub id: &'a [u8],
    /// Since v5: for EXECUTE.
    pub result_metadata_id: &'a [u8],
    /// Which markers make up the partition key. Since v4.
    pub pk_indexes: &'a [u16],
    /// Keyspace and table.
    pub table: (&'a str, &'a str),
    /// Names and types.
    pub markers: &'a [(&'a str, &'a Type)],
}

/// Append a RESULT message that answers PREPARE.
pub fn put_prepared(
    out: &mut BytesMut,
    version: Version,
    own: &OwnPrepared<'_>,
    result: &Metadata<'_>,
) -> Result<(), Error> {
    let mut markers = BytesMut::new();
    put_metadata(&mut markers, version, own.table, own.markers)?;
    // Servers do not name the table where there is no marker of it.
    let markers = if own.markers.is_empty() { None } else { Metadata::parse(version, &markers)?.columns };
    let indexes = own.pk_indexes.iter().flat_map(|index| index.to_be_bytes()).collect::<Vec<u8>>();
    let prepared = Prepared {
        version,
        id: own.id,
        result_metadata_id: Some(own.result_metadata_id),
        pk_indexes: PkIndexes(&indexes),
        markers: markers.unwrap_or(Columns::NONE),
        result: *result,
    };
    Outcome::Prepared(prepared).put(out, version)
}

/// Append a RESULT message with rows of our own, each with as many cells as the metadata has columns.
pub fn put_rows<'r>(
    out: &mut BytesMut,
    version: Version,
    metadata: &Metadata<'_>,
    rows: impl IntoIterator<Item = &'r [Option<&'r [u8]>]>,
) -> Result<(), Error> {
    out.put_i32(kind::ROWS);
    metadata.put(out, version)?;
    let at = out.len();
    out.put_i32(0);
    let mut count = 0_usize;
    for row in rows {
        if row.len() != metadata.count {
            return Err(Error::Inexpressible { field: "a row with other cells than columns", version });
        }
        row.iter().try_for_each(|cell| put_bytes(out, *cell, "cell"))?;
        count += 1;
    }
    let len = i32::try_from(count).map_err(|_| Error::TooLong { field: "rows", len: count })?;
    out[at..at + size_of::<i32>()].copy_from_slice(&len.to_be_bytes());
    Ok(())
}
