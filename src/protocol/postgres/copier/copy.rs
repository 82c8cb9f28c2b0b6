//! Rows on their way: read requests ahead of the rows, and a COPY that is fed with the rows' own bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::protocol::postgres::client::{Client, DataRow, Error, SEND_BYTES};
use crate::protocol::postgres::wire::{self, WireError, front};
use crate::record::TableId;

use super::check::{self, Check};
use super::debt::Arrays;
use super::link::Link;
use super::schema::Pair;
use super::trouble::Trouble;
use super::whole::Stretch;

/// How many bytes of requests a flight has, if it is not one large request: two flights are less than any socket
/// buffer, so that neither end waits for the other for ever.
pub(super) const FLIGHT_BYTES: usize = 16 << 10;

/// Rows of one table to be read at S.
pub(super) struct Request<'k> {
    pub(super) pair: Arc<Pair>,
    pub(super) part: Part<'k>,
}

/// Which rows.
pub(super) enum Part<'k> {
    /// Those of these keys that the statement finds.
    Keys(&'k [&'k [u8]], Arc<str>),
    Stretch(Stretch),
    Whole,
}

/// Reads rows in flights, each with its check (see `check`). One more is on its way while one is answered.
pub(super) struct Reader<'k> {
    waiting: VecDeque<Request<'k>>,
    sent: VecDeque<Sent>,
}

/// An answer that is owed.
enum Sent {
    Rows(TableId),
    Check(Check),
}

impl<'k> Reader<'k> {
    pub(super) fn new(requests: VecDeque<Request<'k>>) -> Reader<'k> {
        Reader { waiting: requests, sent: VecDeque::new() }
    }

    /// Send what may be sent.
    pub(super) async fn pump(&mut self, link: &mut Link) -> Result<(), Error> {
        loop {
            let flights = self.sent.iter().filter(|sent| matches!(sent, Sent::Check(_))).count();
            let Some(next) = self.waiting.front() else { break };
            if flights > 1 || (flights == 1 && next.bytes() > FLIGHT_BYTES) {
                break;
            }
            self.put_flight(link);
        }
        link.primary.send().await
    }

    fn put_flight(&mut self, link: &mut Link) {
        let (mut read, mut bytes) = (Vec::<Arc<Pair>>::new(), 0);
        while let Some(request) = self.waiting.pop_front_if(|next| bytes == 0 || bytes + next.bytes() <= FLIGHT_BYTES) {
            bytes += request.bytes();
            request.put(&mut link.primary);
            self.sent.push_back(Sent::Rows(request.pair.id));
            if read.iter().all(|pair| pair.id != request.pair.id) {
                read.push(request.pair);
            }
        }
        self.sent.push_back(Sent::Check(check::put(&mut link.primary, read.iter())));
    }

    /// The next answer is of this table.
    pub(super) fn next_is(&self, table: TableId) -> bool {
        matches!(self.sent.front(), Some(Sent::Rows(id)) if *id == table)
    }

    /// The next answer was read to its end. If that was the last of its flight, all of it was there at S.
    pub(super) async fn done(&mut self, link: &mut Link) -> Result<(), Trouble> {
        self.sent.pop_front();
        if let Some(Sent::Check(check)) = self.sent.pop_front_if(|next| matches!(next, Sent::Check(_))) {
            check.read(&mut link.primary).await?;
            self.pump(link).await.map_err(Trouble::Primary)?;
        }
        Ok(())
    }
}

impl Request<'_> {
    /// About as much as it is on the wire.
    fn bytes(&self) -> usize {
        match &self.part {
            Part::Keys(keys, _) => 64 + keys.iter().map(|key| key.len() + 4).sum::<usize>(),
            // Small, but its rows are many: a flight of its own.
            Part::Stretch(_) | Part::Whole => FLIGHT_BYTES,
        }
    }

    fn put(&self, conn: &mut Client) {
        let format = self.pair.format();
        match &self.part {
            Part::Keys(keys, sql) => conn.put_described(sql, &Arrays::of(&self.pair, keys).params(), format),
            Part::Stretch(stretch) => conn.put_described(&stretch.sql, &stretch.params(), format),
            Part::Whole => conn.put_described(&self.pair.read_whole_sql(), &[], format),
        }
    }
}

/// Start of a binary COPY: signature, flags, length of the header's extension (documentation, "COPY", "Binary Format").
pub(super) const BINARY_START: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub(super) const BINARY_END: &[u8] = &[0xff, 0xff];

/// A COPY into one table, begun with its first row.
pub(super) struct CopyOut {
    sql: String,
    binary: bool,
    /// Where the length of the CopyData being written stands in the output buffer.
    open: Option<usize>,
    started: bool,
    bytes: u64,
}

impl CopyOut {
    pub(super) fn new(sql: String, binary: bool) -> CopyOut {
        CopyOut { sql, binary, open: None, started: false, bytes: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Add a row. True: enough is gathered, [`CopyOut::close`] and send.
    pub(super) fn row(&mut self, conn: &mut Client, row: &DataRow) -> Result<bool, Error> {
        if !self.started {
            self.started = true;
            conn.put_query(&self.sql);
            self.data(conn.out());
            if self.binary {
                conn.out().extend_from_slice(BINARY_START);
            }
        }
        let out = conn.out();
        self.data(out);
        let before = out.len();
        if self.binary {
            out.extend_from_slice(&row.0)
        } else {
            put_text(out, row.values())?
        }
        self.bytes += (out.len() - before) as u64;
        Ok(out.len() >= SEND_BYTES)
    }

    /// No row came for a while: send what there is, or show that we are alive.
    pub(super) async fn wait(&mut self, conn: &mut Client) -> Result<(), Error> {
        if self.started {
            self.close(conn);
        } else {
            conn.put_keepalive();
        }
        conn.send().await
    }

    /// End it. False if it never began: there was no row.
    pub(super) fn end(&mut self, conn: &mut Client) -> bool {
        if !self.started {
            return false;
        }
        if self.binary {
            self.data(conn.out());
            conn.out().extend_from_slice(BINARY_END);
        }
        self.close(conn);
        wire::bare(conn.out(), front::COPY_DONE);
        true
    }

    /// Give it up: the server refuses it, and the transaction with it.
    pub(super) fn give_up(&mut self, conn: &mut Client) {
        if self.started {
            self.close(conn);
            wire::message(conn.out(), front::COPY_FAIL, |b| wire::cstr(b, b"the rows could not be read"));
        }
    }

    fn data(&mut self, out: &mut BytesMut) {
        if self.open.is_none() {
            out.put_u8(front::COPY_DATA);
            self.open = Some(out.len());
            out.put_i32(0);
        }
    }

    /// Complete the message being written: before anything else is put, and before each send.
    pub(super) fn close(&mut self, conn: &mut Client) {
        if let Some(at) = self.open.take() {
            let out = conn.out();
            let len = i32::try_from(out.len() - at).expect("one row and a send buffer stay below 2 GiB");
            out[at..at + 4].copy_from_slice(&len.to_be_bytes());
        }
    }
}

/// A line of COPY text (documentation, "COPY", "Text Format").
pub(super) fn put_text<'v>(
    out: &mut BytesMut,
    values: impl Iterator<Item = Result<Option<&'v [u8]>, WireError>>,
) -> Result<(), Error> {
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.put_u8(b'\t');
        }
        match value? {
            None => out.extend_from_slice(b"\\N"),
            Some(value) => put_escaped(out, value),
        }
    }
    out.put_u8(b'\n');
    Ok(())
}

fn put_escaped(out: &mut BytesMut, value: &[u8]) {
    let mut from = 0;
    for (at, byte) in value.iter().enumerate() {
        let escape = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.extend_from_slice(&value[from..at]);
        out.put_slice(&[b'\\', escape]);
        from = at + 1;
    }
    out.extend_from_slice(&value[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_text_is_escaped() {
        let mut body = BytesMut::new();
        body.put_u16(3);
        for value in [Some(&b"a\tb\\c\n\r"[..]), None, Some(b"")] {
            crate::protocol::postgres::client::put_value(&mut body, value);
        }
        let mut out = BytesMut::new();
        put_text(&mut out, DataRow(body.freeze()).values()).expect("a row");
        assert_eq!(&out[..], b"a\\tb\\\\c\\n\\r\t\\N\t\n");
    }
}
