//! Answers, read.

use super::value::{Type, hex};
use super::{Frame, Parts, TRACING};

/// What a RESULT holds.
#[derive(Debug)]
pub(crate) enum Answer {
    Void,
    Rows(Rows),
    Keyspace(String),
    Prepared(Prepared),
    /// What happened, to what, and its names.
    Schema(Vec<String>),
}

#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Names and types.
    pub(crate) columns: Vec<(String, Type)>,
    pub(crate) rows: Vec<Vec<Option<Vec<u8>>>>,
    pub(crate) paging_state: Option<Vec<u8>>,
    /// v5: another one than the client named.
    pub(crate) new_metadata_id: Option<Vec<u8>>,
    pub(crate) has_metadata: bool,
    pub(crate) trace: Option<Vec<u8>>,
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) id: Vec<u8>,
    /// v5.
    pub(crate) metadata_id: Vec<u8>,
    pub(crate) pk_indexes: Vec<u16>,
    pub(crate) variables: Vec<(String, Type)>,
    pub(crate) columns: Vec<(String, Type)>,
}

/// An ERROR.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
    /// What the code is said with.
    pub(crate) rest: Vec<u8>,
}

impl Failure {
    pub(crate) fn parse(frame: &Frame) -> Failure {
        let (mut parts, _, _) = before_body(frame);
        Failure { code: parts.int(), message: parts.string(), rest: parts.0.to_vec() }
    }
}

/// Tracing's id and warnings come before the body, in this order.
fn before_body(frame: &Frame) -> (Parts<'_>, Option<Vec<u8>>, Vec<String>) {
    let mut parts = Parts(&frame.body);
    let trace = (frame.flags & TRACING != 0).then(|| parts.take(16).to_vec());
    let warnings = if frame.flags & 0x08 != 0 { parts.strings() } else { Vec::new() };
    (parts, trace, warnings)
}

impl Answer {
    pub(super) fn parse(frame: &Frame, version: u8) -> Answer {
        assert_eq!(frame.opcode, super::RESULT, "{frame:?}");
        let (mut parts, trace, warnings) = before_body(frame);
        match parts.int() {
            1 => Answer::Void,
            2 => Answer::Rows(Rows { trace, warnings, ..Rows::parse(&mut parts) }),
            3 => Answer::Keyspace(parts.string()),
            4 => Answer::Prepared(Prepared::parse(&mut parts, version)),
            5 => Answer::Schema(std::iter::from_fn(|| (!parts.0.is_empty()).then(|| parts.string())).collect()),
            other => panic!("a result of kind {other}"),
        }
    }

    pub(crate) fn rows(self) -> Rows {
        let Answer::Rows(rows) = self else { panic!("no rows: {self:?}") };
        rows
    }

    pub(crate) fn prepared(self) -> Prepared {
        let Answer::Prepared(prepared) = self else { panic!("not prepared: {self:?}") };
        prepared
    }

    /// What an LWT says first.
    pub(crate) fn applied(self) -> bool {
        self.rows().lines().first().is_some_and(|line| line.starts_with("true"))
    }
}

impl Rows {
    fn parse(parts: &mut Parts<'_>) -> Rows {
        let mut rows = Rows::metadata(parts);
        let width = rows.1;
        rows.0.rows =
            (0..parts.int()).map(|_| (0..width).map(|_| parts.bytes().map(<[u8]>::to_vec)).collect()).collect();
        rows.0
    }

    /// And how many columns there are, which is known without their names.
    fn metadata(parts: &mut Parts<'_>) -> (Rows, usize) {
        let (flags, width) = (parts.int(), parts.int() as usize);
        let mut rows = Rows { has_metadata: flags & 0x04 == 0, ..Rows::default() };
        rows.paging_state = (flags & 0x02 != 0).then(|| parts.bytes().unwrap_or_default().to_vec());
        rows.new_metadata_id = (flags & 0x08 != 0).then(|| parts.short_bytes().to_vec());
        if rows.has_metadata {
            rows.columns = columns(parts, flags, width);
        }
        (rows, width)
    }

    /// Columns separated by `|`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |row: &Vec<Option<Vec<u8>>>| {
            let cells = self.columns.iter().zip(row).map(|((_, of), value)| of.show(value.as_deref()));
            cells.collect::<Vec<_>>().join("|")
        };
        self.rows.iter().map(line).collect()
    }

    /// The one value there is, as a number.
    pub(crate) fn number(&self) -> i64 {
        let [line] = &self.lines()[..] else { panic!("{} rows, not one", self.rows.len()) };
        line.parse().unwrap_or_else(|_| panic!("no number: {line}"))
    }
}

fn columns(parts: &mut Parts<'_>, flags: i32, count: usize) -> Vec<(String, Type)> {
    let global = flags & 0x01 != 0;
    if global {
        parts.string(); // The keyspace, and the table.
        parts.string();
    }
    let column = |_| {
        if !global {
            parts.string(); // The keyspace, and the table.
            parts.string();
        }
        (parts.string(), Type::parse(parts))
    };
    (0..count).map(column).collect()
}

impl Prepared {
    fn parse(parts: &mut Parts<'_>, version: u8) -> Prepared {
        let id = parts.short_bytes().to_vec();
        let metadata_id = if version >= 5 { parts.short_bytes().to_vec() } else { Vec::new() };
        let (flags, width) = (parts.int(), parts.int() as usize);
        let pk_indexes = if version >= 4 { (0..parts.int()).map(|_| parts.short()).collect() } else { Vec::new() };
        let variables = columns(parts, flags, width);
        let columns = Rows::metadata(parts).0.columns;
        Prepared { id, metadata_id, pk_indexes, variables, columns }
    }

    pub(crate) fn id_hex(&self) -> String {
        hex(&self.id)
    }
}
