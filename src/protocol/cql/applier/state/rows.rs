//! What is in a place: cells with their timestamps and expiries, as a read shows them.

use std::collections::BTreeMap;

use crate::protocol::cql::text::edit::quoted;
use crate::protocol::cql::text::schema::{Cells, Column, Role, Table};
use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::primitive::Reader;
use crate::protocol::cql::wire::response::Row;
use crate::protocol::cql::wire::types::Type;

/// A row's clustering, in the key's order; empty where the table has none.
pub(in super::super) type Clustering = Vec<Vec<u8>>;
/// The rows of a place.
pub(in super::super) type Rows = BTreeMap<Clustering, Vec<Cell>>;

/// A column's value in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::protocol::cql) struct Cell {
    /// `None`: null.
    pub(in crate::protocol::cql) value: Option<Vec<u8>>,
    /// Microseconds; only of columns that are one cell.
    pub(in crate::protocol::cql) writetime: Option<i64>,
    /// Seconds left; `None`: it stays.
    pub(in crate::protocol::cql) ttl: Option<i32>,
    /// Of its [`parts`], as far as that was looked for; none at all: nothing of it is known to expire.
    pub(in crate::protocol::cql) ends: Vec<End>,
}

/// When something ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::protocol::cql) enum End {
    /// It stays.
    #[default]
    Never,
    /// Nobody knows when.
    Sometime,
    /// In so many seconds.
    In(i32),
}

impl End {
    /// For what is written with it. Where nobody knows, it stays: the comparison that follows sees that.
    pub(in super::super) fn ttl(self) -> Option<i32> {
        match self {
            End::In(seconds) => Some(seconds),
            End::Never | End::Sometime => None,
        }
    }

    /// Whether both end, or neither does.
    pub(in super::super) fn is_like(self, other: End) -> bool {
        (self == End::Never) == (other == End::Never)
    }
}

impl Cell {
    /// When this part of it ends.
    pub(in super::super) fn end(&self, part: usize) -> End {
        self.ends.get(part).copied().unwrap_or_default()
    }
}

/// How a column's value is compared and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Form {
    /// One cell, with a timestamp that can be read.
    One,
    /// Elements.
    Set,
    /// Keys with values.
    Map,
    /// Fields with these names, each a cell.
    Fields(Vec<String>),
    /// Only ever written whole.
    List,
    /// Only ever added to.
    Counter,
}

impl Form {
    /// It is made of several cells, of which no read tells when they expire.
    pub(in super::super) fn has_parts(&self) -> bool {
        matches!(self, Form::Set | Form::Map | Form::Fields(_) | Form::List)
    }

    /// By what the schema says it is made of, and the type that a read shows.
    pub(in super::super) fn of(cells: Cells, kind: &Type) -> Form {
        match (cells, kind) {
            (Cells::Counter, _) => Form::Counter,
            (Cells::List, _) => Form::List,
            (Cells::Elements, Type::Set(_)) => Form::Set,
            (Cells::Elements, Type::Map(..)) => Form::Map,
            (Cells::Elements, Type::Udt { fields, .. }) => {
                Form::Fields(fields.iter().map(|(name, _)| name.clone()).collect())
            }
            (Cells::One | Cells::Elements, _) => Form::One,
        }
    }
}

/// The columns of a table that are not its key and are regular, or static.
pub(in super::super) fn columns(table: &Table, statics: bool) -> Vec<&Column> {
    let role = if statics { Role::Static } else { Role::Regular };
    table.columns().iter().filter(|column| column.role == role).collect()
}

/// A row that was asked for as [`selectors`] says: its clustering, and a cell for each column. `None`: it has no
/// clustering, so it is what a partition with nothing but statics shows.
pub(in super::super) fn read(row: &Row<'_>, clustering: usize, columns: &[&Column]) -> Option<(Clustering, Vec<Cell>)> {
    let mut values = row.iter();
    let key: Clustering = (0..clustering).map(|_| values.next()?.map(<[u8]>::to_vec)).collect::<Option<_>>()?;
    Some((key, cells(&mut values, columns)))
}

/// A cell for each column, of values that were asked for as [`selectors`] says.
pub(in crate::protocol::cql) fn cells<'a>(
    values: &mut impl Iterator<Item = Option<&'a [u8]>>,
    columns: &[&Column],
) -> Vec<Cell> {
    let mut next = || values.next().flatten();
    let cell = |column: &&Column| {
        let value = next().map(<[u8]>::to_vec);
        if column.cells != Cells::One {
            return Cell { value, ..Cell::default() };
        }
        let writetime = next().and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        let ttl = next().and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
        Cell { value, writetime, ttl, ends: Vec::new() }
    };
    columns.iter().map(cell).collect()
}

/// What to select to read these columns with [`read`].
pub(in crate::protocol::cql) fn selectors(clustering: &[String], columns: &[&Column]) -> Vec<String> {
    let mut selectors = clustering.to_vec();
    for column in columns {
        let name = quoted(&column.name);
        selectors.push(name.clone());
        if column.cells == Cells::One {
            selectors.extend([format!("WRITETIME({name})"), format!("TTL({name})")]);
        }
    }
    selectors
}

/// The elements of a set, or the keys and values of a map one after the other.
pub(in super::super) fn elements(value: Option<&[u8]>, per_entry: usize) -> Result<Vec<&[u8]>, Error> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let mut reader = Reader::new(value);
    let count = reader.count("elements")?;
    let mut elements = Vec::new();
    for _ in 0..count.saturating_mul(per_entry) {
        elements.push(reader.bytes("element")?.unwrap_or_default());
    }
    Ok(elements)
}

/// The fields of a value of a user's type; those it leaves out are null.
pub(in super::super) fn fields(value: Option<&[u8]>, count: usize) -> Result<Vec<Option<&[u8]>>, Error> {
    let mut reader = Reader::new(value.unwrap_or_default());
    let field = |_| if reader.rest().is_empty() { Ok(None) } else { reader.bytes("field") };
    (0..count).map(field).collect()
}

/// What the cells of a collection are told apart by.
pub(in super::super) type Parts = Vec<Vec<u8>>;

/// A set's elements, a map's keys, a list's elements, the numbers of the fields that are not null.
pub(in super::super) fn parts(form: &Form, cell: &Cell) -> Result<Parts, Error> {
    let value = cell.value.as_deref();
    Ok(match form {
        Form::Set | Form::List => elements(value, 1)?.into_iter().map(<[u8]>::to_vec).collect(),
        Form::Map => elements(value, 2)?.chunks_exact(2).map(|entry| entry[0].to_vec()).collect(),
        Form::Fields(names) => {
            let fields = fields(value, names.len())?;
            let numbers = fields.iter().enumerate().filter(|(_, field)| field.is_some());
            numbers.map(|(number, _)| number.to_be_bytes().to_vec()).collect()
        }
        Form::One | Form::Counter => Vec::new(),
    })
}

/// A set or map of these.
pub(in super::super) fn collected(elements: &[&[u8]], per_entry: usize) -> Vec<u8> {
    let mut out = Vec::new();
    // They were counted by an [int] where they come from.
    out.extend_from_slice(&((elements.len() / per_entry) as i32).to_be_bytes());
    for element in elements {
        out.extend_from_slice(&(element.len() as i32).to_be_bytes());
        out.extend_from_slice(element);
    }
    out
}
