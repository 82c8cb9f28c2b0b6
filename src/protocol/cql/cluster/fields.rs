//! Cells of system tables, by the names of their columns.

use std::net::IpAddr;

use crate::protocol::cql::client::{Answer, Error};
use crate::protocol::cql::wire::primitive::Reader;
use crate::protocol::cql::wire::response::{Row, Rows};

/// Rows with names for their columns.
pub(in crate::protocol::cql) struct Named<'a> {
    rows: Rows<'a>,
    names: Vec<&'a str>,
}

/// One of them. What is null, missing or of another length than its type reads as `None`.
pub(in crate::protocol::cql) struct Fields<'n, 'a> {
    row: Row<'a>,
    names: &'n [&'a str],
}

impl<'a> Named<'a> {
    pub(in crate::protocol::cql) fn of(answer: &'a Answer) -> Result<Named<'a>, Error> {
        let rows = answer.rows()?;
        let names = rows.metadata.columns.map(|columns| columns.iter().map(|column| column.name).collect());
        Ok(Named { rows, names: names.unwrap_or_default() })
    }

    pub(in crate::protocol::cql) fn iter(&self) -> impl Iterator<Item = Result<Fields<'_, 'a>, Error>> {
        self.rows.iter().map(|row| Ok(Fields { row: row?, names: &self.names }))
    }

    /// The only row, or the first.
    pub(in crate::protocol::cql) fn first(&self) -> Result<Fields<'_, 'a>, Error> {
        self.iter().next().unwrap_or(Err(Error::Answer("a row of a system table is not there")))
    }
}

impl<'a> Fields<'_, 'a> {
    pub(in crate::protocol::cql) fn cell(&self, name: &str) -> Option<&'a [u8]> {
        self.row.get(self.names.iter().position(|known| *known == name)?)?
    }

    pub(in crate::protocol::cql) fn text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.cell(name)?).ok()
    }

    /// All columns that are not null, with their names.
    pub(in crate::protocol::cql) fn given(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.names.iter().zip(self.row.iter()).filter_map(|(name, cell)| Some((*name, cell?)))
    }

    /// The keys and values of a map of texts.
    pub(in crate::protocol::cql) fn pairs(&self, name: &str) -> Vec<(&'a str, &'a str)> {
        let mut reader = Reader::new(self.cell(name).unwrap_or_default());
        let count = reader.count("entries").unwrap_or_default();
        let mut text = || std::str::from_utf8(reader.bytes("entry").ok()??).ok();
        (0..count).map_while(|_| Some((text()?, text()?))).collect()
    }

    /// The elements of a set or list of texts.
    pub(in crate::protocol::cql) fn texts(&self, name: &str) -> Vec<&'a str> {
        let mut reader = Reader::new(self.cell(name).unwrap_or_default());
        let count = reader.count("elements").unwrap_or_default();
        let text = |_| std::str::from_utf8(reader.bytes("element").ok()??).ok();
        (0..count).map_while(text).collect()
    }

    pub(in crate::protocol::cql) fn int(&self, name: &str) -> Option<i32> {
        Some(i32::from_be_bytes(self.cell(name)?.try_into().ok()?))
    }

    pub(in crate::protocol::cql) fn uuid(&self, name: &str) -> Option<[u8; 16]> {
        self.cell(name)?.try_into().ok()
    }

    pub(in crate::protocol::cql) fn inet(&self, name: &str) -> Option<IpAddr> {
        let bytes = self.cell(name)?;
        let four = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
        four().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
    }
}
