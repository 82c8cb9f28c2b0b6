//! A conditional write that was applied, as what is replayed of it: the plain write that it became, with its ballot for
//! timestamp. Then timestamps decide of it as of any other write, deletes included, which no read shows.
//!
//! Nobody is told the ballot. Replicas remember the newest of each partition ([`Question`]); conditional statements of a
//! partition pass one at a time, so the newest is ours, if it lies between our asking and the answer.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::tables::Table;
use super::text::parse::parse;
use super::text::plain::{Plain, Slot, plain};
use super::text::schema::{Effect, Extent};
use super::text::statement::{Modification, Statement as Parsed, Verb};
use super::wire::primitive::Value;
use super::wire::request::{Bound, Parameters, Statement, StatementText, Values};
use super::write::{self, Write};

/// Which ballot is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The server's id of the table.
    pub table: [u8; 16],
    /// The partition's key, as a server keeps it.
    pub key: Bytes,
    /// It is no older than this, by our clock in microseconds.
    pub since: i64,
    /// Nor newer than this.
    pub until: i64,
    /// By the coordinators' clocks it is above this: the ballots of those before it are not.
    pub above: i64,
}

/// Why a ballot is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Who may not read `system.paxos` is told no ballots.
    #[error("reading system.paxos is refused")]
    Refused,
    /// No replica that was asked in time has one of that time.
    #[error("no replica has it")]
    Absent,
    /// A newer one replaced it: somebody else decides about this partition too.
    #[error("a newer one replaced it")]
    Newer,
}

impl Unread {
    /// The word used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Unread::Refused => "refused",
            Unread::Absent => "absent",
            Unread::Newer => "newer",
        }
    }
}

/// A partition's key as a server keeps it: its only value; of several each with its length, and a zero behind it. `None`:
/// no server takes such a key.
pub fn row_key(values: &[Vec<u8>]) -> Option<Bytes> {
    if let [only] = values {
        return Some(Bytes::copy_from_slice(only));
    }
    let mut key = BytesMut::new();
    for value in values {
        key.put_u16(value.len().try_into().ok()?);
        key.extend_from_slice(value);
        key.put_u8(0);
    }
    Some(key.freeze())
}

/// A conditional write, kept until its ballot is known.
pub(in crate::protocol::cql) struct Conditional {
    /// What all of it writes to.
    table: Arc<Table>,
    /// A [`Write`], conditions included, with a timestamp that means nothing.
    body: BytesMut,
}

impl Conditional {
    /// All of `body` writes to `table`.
    pub(in crate::protocol::cql) fn new(table: Arc<Table>, body: BytesMut) -> Conditional {
        Conditional { table, body }
    }

    /// The write that it became. `None`: that cannot be said.
    pub(in crate::protocol::cql) fn at(&self, ballot: i64) -> Option<BytesMut> {
        let write = Write::parse(&self.body).ok()?;
        let statements = write.batch.statements.iter().map(Taken::of).collect::<Option<Vec<_>>>()?;
        let all = || statements.iter().flat_map(|taken| taken.parsed.modifications());
        let before = ballot - 1;
        // A write that only deletes has one timestamp, and none in its text.
        let deletes = all().all(|one| one.verb == Verb::Delete);
        let is_before = |one: &Modification| !deletes && self.is_range(one);
        let plains = statements.iter().map(|taken| plain(taken.text, &taken.parsed, is_before));
        let plains = plains.collect::<Option<Vec<Plain>>>()?;
        let before_bytes = before.to_be_bytes();
        let values: Vec<Vec<Bound<'_>>> =
            statements.iter().zip(&plains).map(|(taken, plain)| taken.bound(plain, &before_bytes)).collect();
        let put: Vec<Statement<'_>> = plains.iter().zip(&values).map(|(plain, values)| member(plain, values)).collect();
        let timestamp = Some(if deletes { before } else { ballot });
        let parameters = Parameters { timestamp, ..write.batch.parameters };
        let mut out = BytesMut::new();
        match put.as_slice() {
            [only] if !write.is_batch => write::put_statement(&mut out, *only, &parameters).ok()?,
            all => write::put_statements(&mut out, write.batch.kind, all, &parameters).ok()?,
        }
        Some(out)
    }

    /// It deletes a range, or all of the partition.
    fn is_range(&self, one: &Modification) -> bool {
        let extent = || Effect::of(one, &self.table.shape).extent;
        one.verb == Verb::Delete && matches!(extent(), Extent::Range | Extent::Partition)
    }
}

struct Taken<'a> {
    text: &'a [u8],
    parsed: Parsed,
    values: Values<'a>,
}

impl<'a> Taken<'a> {
    fn of(statement: Statement<'a>) -> Option<Taken<'a>> {
        let StatementText::Text(text) = statement.text else { return None };
        Some(Taken { text, parsed: parse(text), values: statement.values })
    }

    fn bound<'v>(&self, plain: &Plain, before: &'v [u8]) -> Vec<Bound<'v>>
    where
        'a: 'v,
    {
        let given: Vec<Bound<'v>> = self.values.iter().collect();
        let value = |slot: &Slot| match slot {
            Slot::Given(number) => given.get(*number).map_or(Value::Unset, |(_, value)| *value),
            Slot::Before => Value::Set(before),
        };
        plain.slots.iter().map(|slot| (None, value(slot))).collect()
    }
}

fn member<'a>(plain: &'a Plain, values: &'a [Bound<'a>]) -> Statement<'a> {
    Statement { text: StatementText::Text(&plain.text), values: Values::Given(values) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::text::schema::{Column, Table as Shape};
    use crate::protocol::cql::wire::primitive::Consistency;
    use crate::protocol::cql::wire::request::BatchKind;

    const BALLOT: i64 = 1_700_000_000_000_001;

    fn table() -> Arc<Table> {
        let columns = [("k", "partition_key", "int"), ("c", "clustering", "int"), ("v", "regular", "int")];
        let column = |(name, kind, cql_type): &(&str, &str, &str)| Column::described(name, kind, 0, cql_type);
        let shape = Shape::new("shop", "t", columns.iter().map(column).collect());
        Arc::new(Table::new(shape, [7; 16], 864_000, 0))
    }

    type Seen = (Option<i64>, Vec<String>, Vec<Vec<Vec<u8>>>);

    /// What these texts, each with as many values as it has markers, became: the frame's timestamp, the texts, the values.
    fn at(texts: &[&str], is_batch: bool) -> Option<Seen> {
        const GIVEN: [&[u8]; 4] = [b"0", b"1", b"2", b"3"];
        let count = |text: &str| parse(text.as_bytes()).markers.len();
        let values: Vec<Vec<Bound<'_>>> =
            texts.iter().map(|text| GIVEN[..count(text)].iter().map(|one| (None, Value::Set(one))).collect()).collect();
        let statements: Vec<Statement<'_>> = texts
            .iter()
            .zip(&values)
            .map(|(text, values)| Statement {
                text: StatementText::Text(text.as_bytes()),
                values: Values::Given(values),
            })
            .collect();
        let parameters = Parameters { timestamp: Some(5), ..Parameters::new(Consistency::Quorum) };
        let mut body = BytesMut::new();
        match is_batch {
            true => write::put_statements(&mut body, BatchKind::Logged, &statements, &parameters).expect("short"),
            false => write::put_statement(&mut body, statements[0], &parameters).expect("short"),
        }
        let plain = Conditional::new(table(), body).at(BALLOT)?;
        let write = Write::parse(&plain).expect("well-formed");
        assert_eq!(write.is_batch, is_batch);
        let text = |statement: Statement<'_>| Taken::of(statement).map(|taken| taken.text.to_vec()).expect("a text");
        let texts = write.batch.statements.iter().map(|one| String::from_utf8(text(one)).expect("UTF-8")).collect();
        let set = |value| match value {
            Value::Set(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        };
        let values = write.batch.statements.iter().map(|one| one.values.iter().map(|(_, value)| set(value)).collect());
        Some((write.batch.parameters.timestamp, texts, values.collect()))
    }

    #[test]
    fn what_it_writes_carries_the_ballot_and_what_it_deletes_the_microsecond_before() {
        let (stamp, texts, values) = at(&["UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ?"], false).expect("plain");
        assert_eq!((stamp, texts[0].as_str()), (Some(BALLOT), "UPDATE t SET v = ? WHERE k = ? AND c = ? "));
        assert_eq!(values, [[b"0", b"1", b"2"].map(|value| value.to_vec())]);
        for text in ["DELETE FROM t WHERE k = 1 AND c = 1 IF EXISTS", "DELETE v FROM t WHERE k = 1 AND c = 1 IF v = 1"]
        {
            assert_eq!(at(&[text], false).expect("plain").0, Some(BALLOT - 1), "{text}");
        }
    }

    #[test]
    fn a_batch_writes_into_the_range_that_it_deletes() {
        let members = [
            "DELETE FROM t WHERE k = ?",
            "DELETE FROM t WHERE k = ? AND c = 1",
            "INSERT INTO t (k, c) VALUES (?, 2) IF NOT EXISTS",
        ];
        let (stamp, texts, values) = at(&members, true).expect("plain");
        assert_eq!(stamp, Some(BALLOT));
        assert_eq!(texts[0], "DELETE FROM t USING TIMESTAMP ? WHERE k = ?");
        assert_eq!(texts[1], members[1], "a row that it deletes stays deleted");
        assert_eq!(values[0], [(BALLOT - 1).to_be_bytes().to_vec(), b"0".to_vec()]);
        assert_eq!(values[2], [b"0".to_vec()]);
        let as_text =
            "BEGIN BATCH DELETE FROM t WHERE k = 1; INSERT INTO t (k, c) VALUES (1, 2) IF NOT EXISTS; APPLY BATCH";
        let (stamp, texts, values) = at(&[as_text], false).expect("plain");
        assert_eq!((stamp, values[0].len()), (Some(BALLOT), 1), "{texts:?}");
    }

    #[test]
    fn a_member_with_a_timestamp_of_its_own_cannot_be_said() {
        assert!(at(&["INSERT INTO t (k, c) VALUES (1, 2) USING TIMESTAMP 3"], true).is_none());
    }

    #[test]
    fn a_key_of_several_columns_has_their_lengths_in_it() {
        assert_eq!(row_key(&[vec![1, 2]]).as_deref(), Some(&[1, 2][..]));
        assert_eq!(row_key(&[vec![1], vec![]]).as_deref(), Some(&[0, 1, 1, 0, 0, 0, 0][..]));
        assert_eq!(row_key(&[vec![0; 65_536], vec![]]), None);
    }
}
