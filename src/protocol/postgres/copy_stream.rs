//! Keys out of a `COPY .. FROM STDIN` stream, while it passes.
//!
//! The stream comes in chunks that may break anywhere. Only the bytes of key columns are kept, for one row at a time
//! and up to `FIELD_MAX`. Formats are those of `src/backend/commands/copyfromparse.c`. Anything that is not certain
//! ends the reading: the table is dirty then, and the stream goes on untouched.

use std::sync::Arc;

use super::catalog::Relation;
use super::key::{self, Form, Layout, NotEvident};
use super::lexer::Encoding;
use super::plan::{CopyFormat, CopyIn};
use crate::record::{Reason, RecordBuf};

/// A longer value is no key: an index entry cannot hold it.
const FIELD_MAX: usize = 64 << 10;

/// Reads the keys of a COPY stream as it goes by.
pub struct CopyStream {
    tables: Vec<Arc<Relation>>,
    /// `None`: the keys cannot be read off this stream, or no longer.
    reader: Option<Reader>,
}

impl CopyStream {
    /// For a COPY as the plan says, in this `client_encoding`.
    pub fn new(copy: &CopyIn, encoding: Encoding) -> CopyStream {
        CopyStream { tables: copy.tables.clone(), reader: Reader::new(copy, encoding) }
    }

    /// The next bytes of the stream: owe the keys of the rows that they complete.
    pub fn feed(&mut self, chunk: &[u8], keys: &mut RecordBuf) {
        self.read(keys, |reader, emit| reader.feed(chunk, emit));
    }

    /// CopyDone. What could not be read is dirty now.
    pub fn finish(&mut self, keys: &mut RecordBuf) {
        self.read(keys, |reader, emit| reader.finish(emit));
        if self.reader.is_none() {
            for table in &self.tables {
                let reason = if table.key.is_some() { Reason::Uncaptured } else { Reason::NoKey };
                keys.dirty(table.id, reason);
            }
        }
    }

    fn read(
        &mut self,
        keys: &mut RecordBuf,
        step: impl FnOnce(&mut Reader, &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident>,
    ) {
        let tables = &self.tables;
        let mut owe = |key: &mut [u8]| key::owe(tables, key, false, keys);
        if self.reader.as_mut().is_some_and(|reader| step(reader, &mut owe).is_err()) {
            self.reader = None;
        }
    }
}

/// Reads one stream.
struct Reader {
    table: Arc<Relation>,
    /// For each key column, where it stands in a row.
    at: Vec<usize>,
    /// The bytes of each key column in the row at hand.
    fields: Vec<Field>,
    column: usize,
    encoding: Encoding,
    parser: Parser,
    key: Vec<u8>,
}

#[derive(Default)]
struct Field {
    bytes: Vec<u8>,
    /// A quote or an escape was in it: it is not NULL, whatever it says.
    marked: bool,
    seen: bool,
    null: bool,
}

enum Parser {
    Text(Text),
    Csv(Csv),
    Binary(Binary),
}

impl Reader {
    /// `None`: the keys are not in the stream, or the format is one that the proxy does not follow.
    fn new(copy: &CopyIn, encoding: Encoding) -> Option<Reader> {
        let at = copy.key_at.clone()?;
        let table = copy.tables.first()?.clone();
        let parser = match &copy.format {
            CopyFormat::Text { delimiter, null, header } => Parser::Text(Text {
                delimiter: *delimiter,
                null: null.clone(),
                lines: Lines::new(*header),
                escape: false,
            }),
            CopyFormat::Csv { delimiter, null, quote, escape, header } => Parser::Csv(Csv {
                delimiter: *delimiter,
                null: null.clone(),
                quote: *quote,
                escape: *escape,
                lines: Lines::new(*header),
                state: Quoting::Outside,
            }),
            CopyFormat::Binary => Parser::Binary(Binary::default()),
            CopyFormat::Other => return None,
        };
        let fields = at.iter().map(|_| Field::default()).collect();
        Some(Reader { table, at, fields, column: 0, encoding, parser, key: Vec::new() })
    }

    /// Read a chunk; `emit` gets each row's key in canonical form. After an error the table is dirty and nothing more
    /// may be fed.
    fn feed(&mut self, chunk: &[u8], emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        let is_text = !matches!(self.parser, Parser::Binary(_));
        if is_text && self.encoding == Encoding::Unsafe && !chunk.is_ascii() {
            return Err(NotEvident); // A byte inside a character may look like a backslash or a delimiter.
        }
        let mut parser = std::mem::replace(&mut self.parser, Parser::Binary(Binary::default()));
        let read = match &mut parser {
            Parser::Text(text) => chunk.iter().try_for_each(|&byte| text.byte(self, byte, emit)),
            Parser::Csv(csv) => chunk.iter().try_for_each(|&byte| csv.byte(self, byte, emit)),
            Parser::Binary(binary) => binary.feed(self, chunk, emit),
        };
        self.parser = parser;
        read
    }

    /// The client sent CopyDone: a last line may lack its newline.
    fn finish(&mut self, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        match &self.parser {
            Parser::Text(text) if text.lines.open() => self.feed(b"\n", emit),
            Parser::Csv(csv) if csv.lines.open() => self.feed(b"\n", emit),
            _ => Ok(()),
        }
    }

    /// The field that the column at hand goes to, if it is part of the key.
    fn field(&mut self) -> Option<&mut Field> {
        let place = self.at.iter().position(|&at| at == self.column)?;
        self.fields.get_mut(place)
    }

    fn push(&mut self, byte: u8) -> Result<(), NotEvident> {
        if let Some(field) = self.field() {
            if field.bytes.len() >= FIELD_MAX {
                return Err(NotEvident);
            }
            field.bytes.push(byte);
        }
        Ok(())
    }

    fn mark(&mut self) {
        if let Some(field) = self.field() {
            field.marked = true;
        }
    }

    fn end_field(&mut self, null: &[u8], quoted_counts: bool) {
        if let Some(field) = self.field() {
            field.seen = true;
            field.null = field.bytes == null && !(quoted_counts && field.marked);
        }
        self.column += 1;
    }

    fn clear(&mut self) {
        self.column = 0;
        for field in &mut self.fields {
            field.bytes.clear();
            field.marked = false;
            field.seen = false;
            field.null = false;
        }
    }

    /// A row is complete; `value` makes a canonical value of a field's bytes.
    fn end_row(
        &mut self,
        emit: &mut dyn FnMut(&mut [u8]),
        value: impl Fn(Form, i32, u32, &[u8], &mut Vec<u8>) -> Result<(), NotEvident>,
    ) -> Result<(), NotEvident> {
        self.key.clear();
        Layout::default().begin(&mut self.key);
        let mut canonical = Vec::new();
        // A row that is short, or whose key is NULL, is refused by the server.
        let whole = self.fields.iter().all(|field| field.seen && !field.null);
        if whole {
            for (column, field) in self.table.key_columns().zip(&self.fields) {
                canonical.clear();
                value(Form::of(column), column.typmod, column.base_oid, &field.bytes, &mut canonical)?;
                key::push(&mut self.key, &canonical);
            }
            emit(&mut self.key);
        }
        self.clear();
        Ok(())
    }
}

/// Line ends: `\n`, `\r` or `\r\n`, and what stands before the first row and behind the last.
struct Lines {
    header: bool,
    return_before: bool,
    done: bool,
    /// The first bytes of the line, to know `\.`.
    head: [u8; 2],
    len: usize,
}

impl Lines {
    fn new(header: bool) -> Lines {
        Lines { header, return_before: false, done: false, head: [0; 2], len: 0 }
    }

    fn open(&self) -> bool {
        self.len > 0 && !self.done
    }

    /// Note a byte of the line.
    fn note(&mut self, byte: u8) {
        if let Some(head) = self.head.get_mut(self.len) {
            *head = byte;
        }
        self.len += 1;
    }

    /// The second half of `\r\n`.
    fn swallow(&mut self, byte: u8) -> bool {
        std::mem::take(&mut self.return_before) && byte == b'\n'
    }

    fn is_end_marker(&self) -> bool {
        self.len == 2 && self.head == *b"\\."
    }

    /// The line ended; `true`: it was a row.
    fn end(&mut self, by: u8) -> bool {
        self.return_before = by == b'\r';
        let header = std::mem::take(&mut self.header);
        self.len = 0;
        !header
    }
}

struct Text {
    delimiter: u8,
    null: Vec<u8>,
    lines: Lines,
    escape: bool,
}

impl Text {
    fn byte(&mut self, row: &mut Reader, byte: u8, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        if self.lines.done || self.lines.swallow(byte) {
            return Ok(());
        }
        if std::mem::take(&mut self.escape) {
            self.lines.note(byte);
            row.mark();
            return row.push(byte); // The raw field; unescaped when the row is complete.
        }
        match byte {
            b'\\' => {
                self.escape = true;
                self.lines.note(byte);
                row.push(byte)
            }
            b'\n' | b'\r' => self.end_line(row, byte, emit),
            byte if byte == self.delimiter => {
                self.lines.note(byte);
                row.end_field(&self.null, false);
                Ok(())
            }
            byte => {
                self.lines.note(byte);
                row.push(byte)
            }
        }
    }

    fn end_line(&mut self, row: &mut Reader, by: u8, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        if self.lines.is_end_marker() {
            self.lines.done = true;
            return Ok(());
        }
        row.end_field(&self.null, false);
        if !self.lines.end(by) {
            row.clear();
            return Ok(());
        }
        let utf8 = row.encoding == Encoding::Utf8;
        row.end_row(emit, |form, typmod, _, raw, out| {
            let content = unescape(raw)?;
            if !utf8 && !content.is_ascii() {
                return Err(NotEvident);
            }
            key::parse(form, typmod, &content, out)
        })
    }
}

/// `CopyReadAttributesText`.
fn unescape(raw: &[u8]) -> Result<Vec<u8>, NotEvident> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&next, tail)) = rest.split_first() else {
            out.push(byte); // A backslash at the end of the data.
            break;
        };
        rest = tail;
        out.push(match next {
            b'0'..=b'7' | b'x' => return Err(NotEvident), // Bytes by number: never in keys that applications write.
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => other,
        });
    }
    Ok(out)
}

struct Csv {
    delimiter: u8,
    null: Vec<u8>,
    quote: u8,
    escape: u8,
    lines: Lines,
    state: Quoting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Outside,
    Inside,
    /// Inside, behind an escape that is not the quote.
    Escape,
    /// Behind a quote that ends the part, unless another follows (where quote and escape are one).
    MaybeEnd,
}

impl Csv {
    fn byte(&mut self, row: &mut Reader, byte: u8, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        if self.lines.swallow(byte) {
            return Ok(());
        }
        match self.state {
            Quoting::Outside => self.outside(row, byte, emit),
            Quoting::Inside => self.inside(row, byte),
            Quoting::Escape => {
                self.state = Quoting::Inside;
                if byte == self.quote || byte == self.escape {
                    self.lines.note(byte);
                    return row.push(byte);
                }
                row.push(self.escape)?;
                self.inside(row, byte)
            }
            Quoting::MaybeEnd if byte == self.quote => {
                self.state = Quoting::Inside;
                self.lines.note(byte);
                row.push(byte)
            }
            Quoting::MaybeEnd => {
                self.state = Quoting::Outside;
                self.outside(row, byte, emit)
            }
        }
    }

    fn inside(&mut self, row: &mut Reader, byte: u8) -> Result<(), NotEvident> {
        self.lines.note(byte);
        if byte == self.quote {
            self.state = if self.quote == self.escape { Quoting::MaybeEnd } else { Quoting::Outside };
            return Ok(());
        }
        if byte == self.escape {
            self.state = Quoting::Escape;
            return Ok(());
        }
        row.push(byte)
    }

    fn outside(&mut self, row: &mut Reader, byte: u8, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        if matches!(byte, b'\n' | b'\r') {
            return self.end_line(row, byte, emit);
        }
        self.lines.note(byte);
        if byte == self.delimiter {
            row.end_field(&self.null, true);
        } else if byte == self.quote {
            self.state = Quoting::Inside;
            row.mark();
        } else {
            return row.push(byte);
        }
        Ok(())
    }

    fn end_line(&mut self, row: &mut Reader, by: u8, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        // The end of the data before 18, a value since: reading on owes too much at worst.
        let marker = self.lines.is_end_marker();
        row.end_field(&self.null, true);
        if !self.lines.end(by) {
            row.clear();
            return Ok(());
        }
        let utf8 = row.encoding == Encoding::Utf8;
        let read = row.end_row(emit, |form, typmod, _, raw, out| {
            if !utf8 && !raw.is_ascii() {
                return Err(NotEvident);
            }
            key::parse(form, typmod, raw, out)
        });
        if marker {
            row.clear();
            return Ok(());
        }
        read
    }
}

/// The signature of a binary stream, then flags and the extension's length.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

#[derive(Default)]
struct Binary {
    state: Expect,
    /// The integer being collected.
    head: Vec<u8>,
    /// Fields of the row that are still to come.
    fields: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Header,
    Skip(usize),
    Row,
    Length,
    Value(usize),
    End,
}

impl Binary {
    fn feed(&mut self, row: &mut Reader, mut chunk: &[u8], emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        while !chunk.is_empty() {
            match self.state {
                Expect::End => return Ok(()),
                Expect::Skip(left) => {
                    let len = left.min(chunk.len());
                    chunk = &chunk[len..];
                    self.state = if len == left { Expect::Row } else { Expect::Skip(left - len) };
                }
                Expect::Value(left) => {
                    let (value, rest) = chunk.split_at(left.min(chunk.len()));
                    value.iter().try_for_each(|&byte| row.push(byte))?;
                    chunk = rest;
                    self.state = Expect::Value(left - value.len());
                    if value.len() == left {
                        self.end_value(row, false, emit)?;
                    }
                }
                Expect::Header => {
                    if let Some(head) = self.collect(&mut chunk, SIGNATURE.len() + 8) {
                        self.header(&head)?;
                    }
                }
                Expect::Row => {
                    if let Some(head) = self.collect(&mut chunk, 2) {
                        self.row(&head, row, emit)?;
                    }
                }
                Expect::Length => {
                    if let Some(head) = self.collect(&mut chunk, 4) {
                        self.length(&head, row, emit)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn collect(&mut self, chunk: &mut &[u8], len: usize) -> Option<Vec<u8>> {
        let (head, rest) = chunk.split_at((len - self.head.len()).min(chunk.len()));
        self.head.extend_from_slice(head);
        *chunk = rest;
        (self.head.len() == len).then(|| std::mem::take(&mut self.head))
    }

    fn header(&mut self, head: &[u8]) -> Result<(), NotEvident> {
        let rest = head.strip_prefix(SIGNATURE).ok_or(NotEvident)?;
        let word = |at: usize| rest.get(at..at + 4).and_then(|word| word.try_into().ok()).map(i32::from_be_bytes);
        let extension = word(4).and_then(|len| usize::try_from(len).ok()).ok_or(NotEvident)?;
        self.state = if extension == 0 { Expect::Row } else { Expect::Skip(extension) };
        Ok(())
    }

    fn row(&mut self, head: &[u8], row: &mut Reader, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        let count = head.try_into().map(i16::from_be_bytes).map_err(|_| NotEvident)?;
        match usize::try_from(count) {
            Err(_) => self.state = Expect::End,
            Ok(0) => row.end_row(emit, key::binary)?,
            Ok(count) => {
                self.fields = count;
                self.state = Expect::Length;
            }
        }
        Ok(())
    }

    fn length(&mut self, head: &[u8], row: &mut Reader, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        let len = head.try_into().map(i32::from_be_bytes).map_err(|_| NotEvident)?;
        match usize::try_from(len) {
            Err(_) => self.end_value(row, true, emit),
            Ok(0) => self.end_value(row, false, emit),
            Ok(len) => {
                self.state = Expect::Value(len);
                Ok(())
            }
        }
    }

    fn end_value(&mut self, row: &mut Reader, null: bool, emit: &mut dyn FnMut(&mut [u8])) -> Result<(), NotEvident> {
        if let Some(field) = row.field() {
            field.seen = true;
            field.null = null;
        }
        row.column += 1;
        self.fields -= 1;
        self.state = Expect::Length;
        if self.fields == 0 {
            self.state = Expect::Row;
            let utf8 = row.encoding == Encoding::Utf8;
            row.end_row(emit, |form, typmod, declared, value, out| {
                if form == Form::Utf8 && !utf8 && !value.is_ascii() {
                    return Err(NotEvident);
                }
                key::binary(form, typmod, declared, value, out)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
