//! A client's connection, and the ways in which it says a statement: with its values in the text, beside the text, or
//! prepared; with timestamps of its own or without; in v5 with the keyspace in each request, in v4 with USE before all.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::schema::KEYSPACE;
use crate::cli::demo::load::Trouble;
use crate::protocol::cql::client::{Address, Answer, Client, Error, Member, MemberText, Prepared, Settings};
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::wire::Version;
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{BatchKind, Bound, Parameters, Values};
use crate::protocol::cql::wire::value::Datum;

/// Of all reads and writes.
pub(super) const LEVEL: Consistency = Consistency::LocalQuorum;

/// How a statement is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its values are in the text.
    Literal,
    /// Its values are beside the text.
    Beside,
    Prepared,
}

/// A statement: its text with a `?` for each value, and no other question mark.
pub(super) struct Said {
    pub(super) way: Way,
    pub(super) text: &'static str,
    pub(super) values: Vec<Datum>,
}

/// A connection to tandem.
pub(in crate::cli::demo) struct Line {
    client: Client,
    /// Writes carry the client's own timestamps.
    stamped: bool,
    last: i64,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble { dropped: error.refusal().is_none(), why: error.to_string() }
    }
}

impl Line {
    pub(super) async fn connect(address: &Address, newest: Version, stamped: bool) -> Result<Line, Error> {
        let client = Client::connect_with(&Settings::default(), address, newest, None).await?;
        let line = Line { client, stamped, last: 0 };
        if line.keyspace().is_none() {
            line.client.query(&format!("USE {KEYSPACE}"), &Parameters::new(LEVEL)).await?;
        }
        Ok(line)
    }

    /// Said in each request.
    fn keyspace(&self) -> Option<&'static str> {
        (self.client.version() >= Version::V5).then_some(KEYSPACE)
    }

    fn parameters(&mut self) -> Parameters<'static> {
        self.last = now_micros().max(self.last + 1);
        let timestamp = self.stamped.then_some(self.last);
        let serial_consistency = Some(Consistency::LocalSerial);
        Parameters { timestamp, serial_consistency, keyspace: self.keyspace(), ..Parameters::new(LEVEL) }
    }

    async fn prepare(&self, text: &str) -> Result<Arc<Prepared>, Error> {
        self.client.prepare(text, self.keyspace()).await
    }

    /// Execute it.
    pub(super) async fn run(&mut self, said: &Said) -> Result<Answer, Error> {
        let parameters = self.parameters();
        let bytes = bytes(&said.values)?;
        let values = bound(&bytes);
        let with = Parameters { values: (!values.is_empty()).then_some(Values::Given(&values)), ..parameters };
        match said.way {
            Way::Literal => self.client.query(&literal(said.text, &said.values), &parameters).await,
            Way::Beside => self.client.query(said.text, &with).await,
            Way::Prepared => {
                let prepared = self.prepare(said.text).await?;
                // The keyspace is that of the preparation.
                self.client.execute(&prepared, &Parameters { keyspace: None, ..with }).await
            }
        }
    }

    /// Execute them all at once, on one connection.
    pub(super) async fn run_all(&mut self, all: Vec<Said>) -> Result<(), Error> {
        let mut answers = Vec::with_capacity(all.len());
        for said in all {
            let stamp = self.parameters().timestamp.unwrap_or_default();
            let mut line = Line { client: self.client.clone(), stamped: self.stamped, last: stamp };
            let (done, answer) = oneshot::channel();
            tokio::spawn(async move {
                let _ = done.send(line.run(&said).await);
            });
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| Error::Lost("the task is gone".to_owned()))??;
        }
        Ok(())
    }

    /// Execute them as one batch.
    pub(super) async fn batch(&mut self, kind: BatchKind, all: &[Said]) -> Result<(), Error> {
        let parameters = self.parameters();
        let (mut texts, mut prepared) = (Vec::new(), Vec::new());
        let mut values = Vec::new();
        for said in all {
            texts.push(literal(said.text, &said.values));
            prepared.push(match said.way {
                Way::Prepared => Some(self.prepare(said.text).await?),
                _ => None,
            });
            values.push(if said.way == Way::Literal { Vec::new() } else { bytes(&said.values)? });
        }
        let bounds: Vec<_> = values.iter().map(|values| bound(values)).collect();
        let member = |at: usize| Member {
            text: match (&prepared[at], all[at].way) {
                (Some(prepared), _) => MemberText::Prepared(prepared),
                (None, Way::Literal) => MemberText::Text(&texts[at]),
                (None, _) => MemberText::Text(all[at].text),
            },
            values: Values::Given(&bounds[at]),
        };
        let members: Vec<_> = (0..all.len()).map(member).collect();
        self.client.batch(kind, &members, &parameters).await.map(drop)
    }

    /// The rows of a query, in pages of so many.
    pub(super) async fn pages(&mut self, said: &Said, page: i32) -> Result<Vec<Answer>, Error> {
        let parameters = Parameters { timestamp: None, page_size: Some(page), ..self.parameters() };
        self.client.pages(&literal(said.text, &said.values), &parameters).await
    }
}

/// The contents of values.
pub(super) fn bytes(values: &[Datum]) -> Result<Vec<Option<Vec<u8>>>, crate::protocol::cql::wire::Error> {
    let content = |value: &Datum| {
        let mut out = BytesMut::new();
        value.put(&mut out)?;
        Ok((*value != Datum::Null).then(|| out[size_of::<i32>()..].to_vec()))
    };
    values.iter().map(content).collect()
}

/// As requests take them.
pub(super) fn bound(bytes: &[Option<Vec<u8>>]) -> Vec<Bound<'_>> {
    bytes.iter().map(|value| (None, value.as_deref().map_or(Value::Null, Value::Set))).collect()
}

/// The text with the values at their places.
fn literal(text: &str, values: &[Datum]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    for (at, part) in text.split('?').enumerate() {
        if at > 0 {
            put_literal(&mut out, values.next().unwrap_or(&Datum::Null));
        }
        out.push_str(part);
    }
    out
}

/// A constant of CQL. Of types that the demo has.
fn put_literal(out: &mut String, value: &Datum) {
    let _ = match value {
        Datum::Varchar(text) => write!(out, "'{}'", text.replace('\'', "''")),
        Datum::Bigint(n) | Datum::Timestamp(n) => write!(out, "{n}"),
        Datum::Int(n) => write!(out, "{n}"),
        Datum::Uuid(id) => write!(out, "{}", uuid_text(id)),
        Datum::List(elements) => return put_all(out, ('[', ']'), elements),
        Datum::Set(elements) => return put_all(out, ('{', '}'), elements),
        Datum::Tuple(parts) => return put_all(out, ('(', ')'), parts),
        Datum::Map(entries) => {
            out.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                put_literal(out, key);
                out.push_str(": ");
                put_literal(out, value);
            }
            write!(out, "}}")
        }
        // There is one type of users.
        Datum::Udt(fields) => {
            for (name, field) in ["{street: ", ", zip: "].into_iter().zip(fields) {
                out.push_str(name);
                put_literal(out, field);
            }
            write!(out, "}}")
        }
        _ => write!(out, "null"),
    };
}

fn put_all(out: &mut String, (open, close): (char, char), parts: &[Datum]) {
    out.push(open);
    for (at, part) in parts.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        put_literal(out, part);
    }
    out.push(close);
}

/// A version, as a value.
pub(super) fn version(version: u64) -> Datum {
    Datum::Bigint(version.cast_signed())
}

/// A cell of a bigint or a counter.
pub(super) fn bigint(cell: Option<&[u8]>) -> Option<i64> {
    Some(i64::from_be_bytes(cell?.try_into().ok()?))
}

/// Written with dashes or without.
pub(super) fn uuid(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

/// As it is written.
pub(super) fn uuid_text(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_constants() {
        let text = |text: &str| Datum::Varchar(text.to_owned());
        let values = [
            text("O'Reilly"),
            Datum::List(vec![Datum::Bigint(1), Datum::Bigint(2)]),
            Datum::Map(vec![(text("k"), Datum::Int(-1))]),
            Datum::Udt(vec![text("s"), Datum::Null]),
            Datum::Uuid(uuid("00010203-0405-0607-0809-0a0b0c0d0e0f")),
        ];
        assert_eq!(
            literal("f(?, ?, ?, ?, ?)", &values),
            "f('O''Reilly', [1, 2], {'k': -1}, {street: 's', zip: null}, 00010203-0405-0607-0809-0a0b0c0d0e0f)"
        );
    }
}
