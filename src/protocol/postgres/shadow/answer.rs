//! What a server said to one read, cut into its parts. Nothing is copied: rows are slices of the bytes that came.

use bytes::{Buf, Bytes};

use crate::protocol::postgres::client::DbError;
use crate::protocol::postgres::wire::{Fields, HEADER, Header, WireError, back};

/// An answer, whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// What its columns are; `None`: nobody asked, or there are none.
    pub(super) columns: Option<Vec<Described>>,
    /// Bodies of its DataRows.
    pub(super) rows: Vec<Bytes>,
    /// The SQLSTATE, if it is an error.
    pub(super) error: Option<String>,
    /// A row limit ended it.
    pub(super) suspended: bool,
}

/// A column of a RowDescription (documentation, "Message Formats").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    /// The table that it is a column of, 0 = none.
    pub(super) table: u32,
    /// Its number in that table.
    pub(super) attnum: i16,
    pub(super) type_oid: u32,
    pub(super) binary: bool,
}

impl Answer {
    /// Of messages, the last of them ReadyForQuery. What is said unasked is passed over.
    ///
    /// # Errors
    /// They are no answer to one read.
    pub(super) fn read(mut bytes: Bytes) -> Result<Answer, WireError> {
        let mut answer = Answer::default();
        while let Some(header) = Header::peek(&bytes)? {
            if bytes.len() < header.size {
                break;
            }
            let mut body = bytes.split_to(header.size);
            body.advance(HEADER);
            answer.take(header.kind, body)?;
        }
        if bytes.is_empty() { Ok(answer) } else { Err(WireError::Malformed('?')) }
    }

    /// One message.
    pub(super) fn take(&mut self, kind: u8, body: Bytes) -> Result<(), WireError> {
        match kind {
            back::ROW_DESCRIPTION => self.columns = Some(described(&body)?),
            back::DATA_ROW => self.rows.push(body),
            back::ERROR_RESPONSE => {
                let error = DbError::parse(&body).map_err(|_| WireError::Malformed(char::from(kind)))?;
                self.error.get_or_insert(error.code);
            }
            back::PORTAL_SUSPENDED => self.suspended = true,
            back::COPY_IN_RESPONSE | back::COPY_OUT_RESPONSE | back::COPY_BOTH_RESPONSE | back::COPY_DATA => {
                return Err(WireError::Malformed(char::from(kind)));
            }
            _ => {}
        }
        Ok(())
    }
}

fn described(body: &[u8]) -> Result<Vec<Described>, WireError> {
    let mut fields = Fields::new(back::ROW_DESCRIPTION, body);
    (0..fields.u16()?).map(|_| column(&mut fields)).collect()
}

fn column(fields: &mut Fields<'_>) -> Result<Described, WireError> {
    let name = String::from_utf8_lossy(fields.cstr()?).into_owned();
    let (table, attnum, type_oid) = (fields.u32()?, fields.i16()?, fields.u32()?);
    // Size and modifier of the type.
    fields.take(6)?;
    Ok(Described { name, table, attnum, type_oid, binary: fields.i16()? == 1 })
}

/// The columns of a row; one that is cut short ends early.
pub(super) fn values(row: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut fields = Fields::new(back::DATA_ROW, row);
    let count = fields.u16().unwrap_or(0);
    (0..count).map_while(move |_| fields.value().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::wire;
    use bytes::{BufMut, BytesMut};

    fn said() -> BytesMut {
        let mut out = BytesMut::new();
        wire::message(&mut out, back::ROW_DESCRIPTION, |b| {
            b.put_u16(1);
            wire::cstr(b, b"id");
            b.put_u32(16_400);
            b.put_i16(2);
            b.put_u32(23);
            b.put_i16(4);
            b.put_i32(-1);
            b.put_i16(1);
        });
        wire::message(&mut out, back::NOTICE_RESPONSE, |b| b.put_u8(0));
        wire::message(&mut out, back::DATA_ROW, |b| {
            b.put_u16(1);
            b.put_i32(4);
            b.put_i32(7);
        });
        wire::message(&mut out, back::COMMAND_COMPLETE, |b| wire::cstr(b, b"SELECT 1"));
        wire::message(&mut out, back::READY_FOR_QUERY, |b| b.put_u8(b'I'));
        out
    }

    #[test]
    fn an_answer_is_its_columns_and_rows() {
        let answer = Answer::read(said().freeze()).expect("whole");
        let id = Described { name: "id".to_owned(), table: 16_400, attnum: 2, type_oid: 23, binary: true };
        assert_eq!((answer.columns, answer.rows.len(), answer.error), (Some(vec![id]), 1, None));
        assert_eq!(values(&answer.rows[0]).collect::<Vec<_>>(), [Some(&[0, 0, 0, 7][..])]);
    }

    #[test]
    fn an_answer_cut_anywhere_is_none_or_a_shorter_one() {
        let whole = said().freeze();
        for cut in 0..whole.len() {
            if let Ok(answer) = Answer::read(whole.slice(..cut)) {
                assert!(answer.rows.len() <= 1);
            }
        }
    }

    #[test]
    fn an_error_is_its_code() {
        let mut out = BytesMut::new();
        wire::error_response(&mut out, "ERROR", "22012", "division by zero", None);
        assert_eq!(Answer::read(out.freeze()).expect("whole").error.as_deref(), Some("22012"));
    }
}
