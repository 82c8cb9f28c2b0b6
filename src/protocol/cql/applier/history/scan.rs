//! Rows of a stretch of the ring, page by page, in the ring's order.
//!
//! A page is as many rows as about [`PAGE_BYTES`] hold, by what the pages before it took, so that a partition of any size
//! passes through bounded memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::ring::tokens;
use crate::backfill::work::Chunk;
use crate::protocol::cql::applier::state::diff::Moment;
use crate::protocol::cql::applier::state::rows::{Cell, Clustering, Form, cells, columns, selectors};
use crate::protocol::cql::applier::state::statement::Names;
use crate::protocol::cql::applier::state::{at, forms};
use crate::protocol::cql::client::{Answer, Client, Error, Prepared};
use crate::protocol::cql::text::schema::{Column, Table};
use crate::protocol::cql::wire::primitive::{Reader, Value};
use crate::protocol::cql::wire::request::{Parameters, Values};
use crate::protocol::cql::wire::response::code;

/// About so many bytes of rows are asked for at once.
const PAGE_BYTES: usize = 512 << 10;
/// Rows of the first page, of which nobody knows how large they are.
const FIRST_ROWS: i32 = 200;
/// Most rows of a page.
const ROWS_MAX: i32 = 5_000;
/// How many times smaller the next one is, if a page is too much.
const PAGE_CUT: i32 = 8;

/// What is asked of a table, and how its answers are read.
pub(super) struct Shape {
    pub(super) names: Names,
    table: Table,
    text: String,
}

impl Shape {
    pub(super) fn of(table: &Table) -> Shape {
        let names = Names::of(table);
        let token = format!("token({})", names.partition.join(", "));
        let (key, statics, regular) = (names.key(), columns(table, true), columns(table, false));
        let asked = [vec![token.clone()], selectors(&key, &statics), selectors(&[], &regular)].concat();
        let text = format!("SELECT {} FROM {} WHERE {token} > ? AND {token} <= ?", asked.join(", "), names.table);
        Shape { names, table: table.clone(), text }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn statics(&self) -> Vec<&Column> {
        columns(&self.table, true)
    }

    pub(super) fn regular(&self) -> Vec<&Column> {
        columns(&self.table, false)
    }

    /// How static and regular columns are compared, as an answer shows them.
    fn forms(&self, answer: &Answer) -> Result<Forms, Error> {
        let skip = 1 + self.names.partition.len() + self.names.clustering.len();
        Ok(Forms { statics: forms(answer, &self.statics(), skip)?, regular: forms(answer, &self.regular(), skip)? })
    }

    /// A line, taken apart.
    pub(super) fn read(&self, line: &Line) -> Found {
        let mut values = line.values().skip(1);
        let (partition, clustering) = (self.names.partition.len(), self.names.clustering.len());
        let partition = (0..partition).map(|_| values.next().flatten().unwrap_or_default().to_vec()).collect();
        let clustering: Vec<Option<Vec<u8>>> =
            (0..clustering).map(|_| values.next().flatten().map(<[u8]>::to_vec)).collect();
        let statics = cells(&mut values, &self.statics());
        let clustering: Option<Clustering> = clustering.into_iter().collect();
        let row = clustering.map(|clustering| (clustering, cells(&mut values, &self.regular())));
        Found { partition, statics, row }
    }

    /// The bytes of the line's partition key, and those of its clustering.
    pub(super) fn key(&self, line: &Line) -> (Bytes, Bytes) {
        let mut reader = Reader::new(&line.bytes);
        let mut skip = |count: usize| {
            for _ in 0..count {
                // It was read when it came.
                let _ = reader.bytes("key");
            }
            line.bytes.len() - reader.rest().len()
        };
        let (token, partition, clustering) =
            (skip(1), skip(self.names.partition.len()), skip(self.names.clustering.len()));
        (line.bytes.slice(token..partition), line.bytes.slice(partition..clustering))
    }
}

/// How columns are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) statics: Vec<Form>,
    pub(super) regular: Vec<Form>,
}

/// A row as it came.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) token: i64,
    pub(super) bytes: Bytes,
}

impl Line {
    /// The same in memory of its own.
    pub(super) fn kept(&self) -> Line {
        Line { bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }

    fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut reader = Reader::new(&self.bytes);
        std::iter::from_fn(move || if reader.rest().is_empty() { None } else { reader.bytes("value").ok() })
    }
}

/// What a line says.
pub(super) struct Found {
    pub(super) partition: Vec<Vec<u8>>,
    pub(super) statics: Vec<Cell>,
    /// `None`: the partition has nothing but its static columns.
    pub(super) row: Option<(Clustering, Vec<Cell>)>,
}

impl Found {
    /// Every cell of the row expires, or it shows none: it does too, unless it was made by an INSERT that stays.
    pub(super) fn may_expire(&self) -> bool {
        let mut written = self.row.iter().flat_map(|(_, cells)| cells).filter(|cell| cell.value.is_some());
        self.row.is_some() && written.all(|cell| cell.ttl.is_some())
    }
}

/// The lines of a chunk on one side.
pub(super) struct Lines<'s> {
    shape: &'s Shape,
    client: Client,
    prepared: Arc<Prepared>,
    bounds: [[u8; 8]; 2],
    moment: Moment,
    page_rows: i32,
    /// No more at once: less than usual behind a page that was too much.
    rows_max: i32,
    state: Option<Vec<u8>>,
    is_over: bool,
    page: VecDeque<Line>,
    pub(super) forms: Forms,
}

impl<'s> Lines<'s> {
    pub(super) async fn of(
        shape: &'s Shape,
        client: Client,
        chunk: &Chunk,
        moment: Moment,
    ) -> Result<Lines<'s>, Error> {
        let prepared = client.prepare(&shape.text, None).await?;
        let (above, last) = tokens(chunk);
        Ok(Lines {
            shape,
            client,
            prepared,
            bounds: [above.to_be_bytes(), last.to_be_bytes()],
            moment,
            page_rows: FIRST_ROWS,
            rows_max: ROWS_MAX,
            state: None,
            is_over: false,
            page: VecDeque::new(),
            forms: Forms::default(),
        })
    }

    /// The next line stays where it is; its token.
    pub(super) async fn peek(&mut self) -> Result<Option<&Line>, Error> {
        while self.page.is_empty() && !self.is_over {
            self.turn().await?;
        }
        Ok(self.page.front())
    }

    /// The next line.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Error> {
        self.peek().await?;
        Ok(self.page.pop_front())
    }

    /// The next line, if it is there already.
    pub(super) fn pop(&mut self) -> Option<Line> {
        self.page.pop_front()
    }

    /// The line of the same row, if it is among those that are there; lines before it are left behind.
    pub(super) async fn same(&mut self, line: &Line) -> Result<Option<Line>, Error> {
        while self.peek().await?.is_some_and(|front| front.token < line.token) {
            self.page.pop_front();
        }
        let key = self.shape.key(line);
        let here = self.page.iter().take_while(|other| other.token == line.token);
        let at = here.enumerate().find(|(_, other)| self.shape.key(other) == key).map(|(at, _)| at);
        Ok(at.and_then(|at| self.page.drain(..=at).next_back()))
    }

    /// Another page; a smaller one, where so many deleted rows lie between so many others that they are not read at once.
    async fn turn(&mut self) -> Result<(), Error> {
        let answer = loop {
            match self.ask().await {
                Err(error) if is_too_much(&error) && self.page_rows > 1 => {
                    self.page_rows = (self.page_rows / PAGE_CUT).max(1);
                    self.rows_max = self.page_rows;
                }
                answer => break answer?,
            }
        };
        if self.forms == Forms::default() {
            self.forms = self.shape.forms(&answer)?;
        }
        let mut bytes = 0;
        for row in answer.rows()?.iter() {
            let row = row?;
            let token = row.get(0).flatten().and_then(|token| token.try_into().ok()).map(i64::from_be_bytes);
            let token = token.ok_or(Error::Answer("a row lacks its token"))?;
            bytes += row.bytes().len();
            self.page.push_back(Line { token, bytes: answer.keep(row.bytes()) });
        }
        self.rows_max = self.rows_max.saturating_mul(2).min(ROWS_MAX);
        if let Some(each) = bytes.checked_div(self.page.len()).filter(|each| *each > 0) {
            let rows = i32::try_from(PAGE_BYTES / each).unwrap_or(self.rows_max);
            self.page_rows = rows.clamp(1, self.rows_max);
        }
        self.state = answer.paging_state().map(<[u8]>::to_vec);
        self.is_over = self.state.is_none();
        Ok(())
    }

    async fn ask(&self) -> Result<Answer, Error> {
        let values = self.bounds.each_ref().map(|bound| (None, Value::Set(&bound[..])));
        let parameters = Parameters {
            values: Some(Values::Given(&values)),
            page_size: Some(self.page_rows),
            paging_state: self.state.as_deref(),
            ..at(&self.client, self.moment)
        };
        self.client.execute(&self.prepared, &parameters).await
    }
}

/// The server gave up on a page.
fn is_too_much(error: &Error) -> bool {
    matches!(error.code(), Some(code::READ_FAILURE | code::READ_TIMEOUT))
}
