//! Cells of system tables, by the names of their columns.

use std::net::IpAddr;

use crate::protocol::cql::client::{Answer, Error};
use crate::protocol::cql::wire::primitive::Reader;
use crate::protocol::cql::wire::response::{Row, Rows};

/// Rows with names for their columns.
pub(super) struct Named<'a> {
    rows: Rows<'a>,
    names: Vec<&'a str>,
}

/// One of them. What is null, missing or of another length than its type reads as `None`.
pub(super) struct Fields<'n, 'a> {
    row: Row<'a>,
    names: &'n [&'a str],
}

impl<'a> Named<'a> {
    pub(super) fn of(answer: &'a Answer) -> Result<Named<'a>, Error> {
        let rows = answer.rows()?;
        let names = rows.metadata.columns.map(|columns| columns.iter().map(|column| column.name).collect());
        Ok(Named { rows, names: names.unwrap_or_default() })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Result<Fields<'_, 'a>, Error>> {
        self.rows.iter().map(|row| Ok(Fields { row: row?, names: &self.names }))
    }

    /// The only row, or the first.
    pub(super) fn first(&self) -> Result<Fields<'_, 'a>, Error> {
        self.iter().next().unwrap_or(Err(Error::Answer("a row of a system table is not there")))
    }
}

impl<'a> Fields<'_, 'a> {
    pub(super) fn cell(&self, name: &str) -> Option<&'a [u8]> {
        self.row.get(self.names.iter().position(|known| *known == name)?)?
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.cell(name)?).ok()
    }

    /// The elements of a set or list of texts.
    pub(super) fn texts(&self, name: &str) -> Vec<&'a str> {
        let mut reader = Reader::new(self.cell(name).unwrap_or_default());
        let count = reader.count("elements").unwrap_or_default();
        let text = |_| std::str::from_utf8(reader.bytes("element").ok()??).ok();
        (0..count).map_while(text).collect()
    }

    pub(super) fn int(&self, name: &str) -> Option<i32> {
        Some(i32::from_be_bytes(self.cell(name)?.try_into().ok()?))
    }

    pub(super) fn uuid(&self, name: &str) -> Option<[u8; 16]> {
        self.cell(name)?.try_into().ok()
    }

    pub(super) fn inet(&self, name: &str) -> Option<IpAddr> {
        let bytes = self.cell(name)?;
        let four = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
        four().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
    }
}
