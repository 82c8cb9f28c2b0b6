//! A row of an answer, kept as the bytes it came in.

use bytes::Bytes;

use crate::protocol::postgres::wire::{Fields, WireError, back};

use super::Error;

/// Body of a DataRow message: a count, then a length and bytes for each column; the same bytes are a tuple of
/// `COPY .. (FORMAT binary)` when the columns were asked for in binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRow(pub Bytes);

impl DataRow {
    /// How many columns.
    pub fn len(&self) -> Result<usize, WireError> {
        Ok(usize::from(Fields::new(back::DATA_ROW, &self.0).u16()?))
    }

    /// No columns at all.
    pub fn is_empty(&self) -> bool {
        self.len().is_ok_and(|len| len == 0)
    }

    /// The columns in order; `None` is NULL. Each step is checked.
    pub fn values(&self) -> Values<'_> {
        let mut fields = Fields::new(back::DATA_ROW, &self.0);
        let left = fields.u16().unwrap_or(0);
        Values { fields, left }
    }

    /// One column's bytes; `None` is NULL.
    pub fn get(&self, at: usize) -> Result<Option<&[u8]>, Error> {
        Ok(self.values().nth(at).ok_or(Error::Value(at))??)
    }

    /// One column as text, NULL allowed.
    pub fn text(&self, at: usize) -> Result<Option<&str>, Error> {
        self.get(at)?.map(|bytes| std::str::from_utf8(bytes).map_err(|_| Error::Value(at))).transpose()
    }

    /// One column, asked for as text, parsed; NULL is an error.
    pub fn parse<T: std::str::FromStr>(&self, at: usize) -> Result<T, Error> {
        self.text(at)?.and_then(|text| text.parse().ok()).ok_or(Error::Value(at))
    }

    /// One text column; NULL is an error.
    pub fn string(&self, at: usize) -> Result<String, Error> {
        Ok(self.text(at)?.ok_or(Error::Value(at))?.to_owned())
    }

    /// One boolean column as text (`t`, `f`); NULL is an error.
    pub fn bool(&self, at: usize) -> Result<bool, Error> {
        match self.get(at)? {
            Some(b"t") => Ok(true),
            Some(b"f") => Ok(false),
            _ => Err(Error::Value(at)),
        }
    }
}

/// Iterator over a row's columns.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    fields: Fields<'a>,
    left: u16,
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Option<&'a [u8]>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.fields.value().inspect_err(|_| self.left = 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_checked() {
        let row = DataRow(Bytes::from_static(&[0, 3, 0, 0, 0, 1, b'7', 255, 255, 255, 255, 0, 0, 0, 1, b't']));
        assert_eq!(row.parse::<u32>(0).expect("number"), 7);
        assert_eq!(row.get(1).expect("there"), None);
        assert!(row.bool(2).expect("bool"));
        assert!(row.get(3).is_err());
    }

    #[test]
    fn a_row_cut_anywhere_is_an_error_or_a_shorter_row() {
        let whole = [0, 1, 0, 0, 0, 4, 1, 2, 3, 4];
        for cut in 2..whole.len() {
            let row = DataRow(Bytes::copy_from_slice(&whole[..cut]));
            assert!(row.get(0).is_err());
        }
    }
}
