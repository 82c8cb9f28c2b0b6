//! A statement about `system.local`, `system.peers` or `system.peers_v2`, and the frames that answer it.
//!
//! Made of a text once; it says nothing of the rows, which differ from client to client and from moment to moment
//! ([`Identity::rows`](super::Identity::rows)). Answers are byte for byte what a server would send of the same rows, in every
//! version of the protocol, ids included: a driver may prepare with one proxy and execute with another.

use bytes::{BufMut, BytesMut};
use md5::{Digest, Md5};

use super::rows;
use crate::protocol::cql::text::statement::{Body, Statement};
use crate::protocol::cql::text::system::{Bound, Cell, ColumnSpec, Plan, SystemTable, Verdict, plan};
use crate::protocol::cql::wire::primitive::{Reader, Value, put_string_list};
use crate::protocol::cql::wire::request::{Parameters, Values};
use crate::protocol::cql::wire::response::{
    ErrorKind, Metadata, OwnPrepared, ServerError, put_metadata, put_prepared, put_rows,
};
use crate::protocol::cql::wire::types::Type;
use crate::protocol::cql::wire::{Envelope, Error, Opcode, Version};

/// Where the tables are.
const KEYSPACE: &str = "system";
/// Before the number of the row that a page begins with.
const PAGING: &[u8] = b"tandem";
/// Said of what only a server could compute: its answer would tell of nodes behind the proxy.
const BEYOND: &str = "This table is answered by a proxy, which knows columns, aliases, count(*), JSON, DISTINCT, WHERE with = and IN, \
                      ORDER BY and LIMIT, and nothing else of SELECT";

/// The request that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// QUERY.
    AsText,
    /// EXECUTE; since v5 with what the client knows of the result's columns.
    Prepared(Option<&'a [u8]>),
}

/// A statement that the proxy answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    table: SystemTable,
    id: [u8; 16],
    result_metadata_id: [u8; 16],
    /// Or why there is no answer, in the words of a server's Invalid error.
    plan: Result<Plan, String>,
}

impl Question {
    /// If `text`, parsed as `statement`, in a session of this keyspace asks for something that the proxy must answer.
    pub fn of(text: &[u8], statement: &Statement, keyspace: Option<&str>) -> Option<Question> {
        let table = SystemTable::of(statement, keyspace)?;
        let plan = match plan(text, statement, table, rows::columns(table)) {
            Verdict::Answer(plan) => Ok(plan),
            Verdict::Refused(words) => Err(words),
            Verdict::Elsewhere(elsewhere) if elsewhere.reads_columns => Err(BEYOND.to_owned()),
            Verdict::Elsewhere(_) => return None,
        };
        let result_metadata_id = metadata_id(plan.as_ref().map_or(&[], |plan| plan.columns.as_slice()));
        Some(Question { table, id: prepared_id(text, statement), result_metadata_id, plan })
    }

    /// What it asks about.
    pub fn table(&self) -> SystemTable {
        self.table
    }

    /// As a prepared statement: what a server would give it too.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Whether it is what drivers ask until the nodes agree on the schema: `SELECT schema_version FROM system.local`. A proxy that
    /// is alone answers it late rather than showing an agreement that is none ([`Moment`](super::Moment)).
    pub fn is_about_agreement(&self) -> bool {
        let only = |plan: &Plan| matches!(plan.columns.as_slice(), [only] if only.name == "schema_version");
        self.table == SystemTable::Local && self.plan.as_ref().is_ok_and(only)
    }

    /// Append the frame that answers PREPARE: PREPARED, or ERROR.
    pub fn put_prepared(&self, out: &mut BytesMut, version: Version, stream: i16) -> Result<(), Error> {
        let plan = match &self.plan {
            Ok(plan) => plan,
            Err(words) => return put_invalid(out, version, stream, words),
        };
        let types = types(&plan.markers)?;
        let markers: Vec<(&str, &Type)> = named(&plan.markers, &types);
        let pk_indexes: Vec<u16> = plan.pk_indexes.iter().filter_map(|index| u16::try_from(*index).ok()).collect();
        let own = OwnPrepared {
            id: &self.id,
            result_metadata_id: &self.result_metadata_id,
            pk_indexes: &pk_indexes,
            table: (KEYSPACE, self.table.name()),
            markers: &markers,
        };
        let bytes = self.metadata(plan, version)?;
        let result = Metadata::parse(version, &bytes)?;
        let envelope = Envelope::new(version, stream, Opcode::Result);
        envelope.put(out, |out| put_prepared(out, version, &own, &result))
    }

    /// Append the frame that answers QUERY or EXECUTE over these rows of the table: RESULT, or ERROR.
    pub fn put_answer(
        &self,
        out: &mut BytesMut,
        (version, stream): (Version, i16),
        asked: Asked<'_>,
        parameters: &Parameters<'_>,
        rows: &[Vec<Cell>],
    ) -> Result<(), Error> {
        let answered = self.plan.as_ref().map_err(String::clone).and_then(|plan| {
            let bound = bound(&plan.markers, parameters.values, asked)?;
            Ok((plan, plan.run(rows, &bound)?))
        });
        let (plan, rows) = match answered {
            Ok(answered) => answered,
            Err(words) => return put_invalid(out, version, stream, &words),
        };
        let Some(page) = Page::of(parameters, rows.len()) else {
            return put_error(out, version, stream, ErrorKind::Protocol, "Invalid value for the paging state");
        };
        let bytes = self.metadata(plan, version)?;
        let mut metadata = Metadata::parse(version, &bytes)?;
        metadata.paging_state = page.next.as_deref();
        match asked {
            Asked::Prepared(Some(known)) if known != self.result_metadata_id => {
                metadata.new_id = Some(&self.result_metadata_id)
            }
            _ if parameters.skip_metadata => metadata.columns = None,
            _ => {}
        }
        let rows: Vec<Vec<Option<&[u8]>>> =
            rows[page.rows].iter().map(|row| row.iter().map(Option::as_deref).collect()).collect();
        let mut warnings = BytesMut::new();
        put_string_list(&mut warnings, plan.warning().into_iter(), "warnings")?;
        let warnings = plan.warning().map(|_| Reader::new(&warnings).string_list("warnings")).transpose()?;
        let envelope = Envelope { warnings, ..Envelope::new(version, stream, Opcode::Result) };
        envelope.put(out, |out| put_rows(out, version, &metadata, rows.iter().map(Vec::as_slice)))
    }

    fn metadata(&self, plan: &Plan, version: Version) -> Result<BytesMut, Error> {
        let types = types(&plan.columns)?;
        let mut bytes = BytesMut::new();
        put_metadata(&mut bytes, version, (KEYSPACE, self.table.name()), &named(&plan.columns, &types))?;
        Ok(bytes)
    }
}

fn put_invalid(out: &mut BytesMut, version: Version, stream: i16, words: &str) -> Result<(), Error> {
    put_error(out, version, stream, ErrorKind::Invalid, words)
}

fn put_error(out: &mut BytesMut, version: Version, stream: i16, kind: ErrorKind<'_>, words: &str) -> Result<(), Error> {
    let envelope = Envelope::new(version, stream, Opcode::Error);
    envelope.put(out, |out| ServerError::new(kind, words).put(out, version))
}

fn types(columns: &[ColumnSpec]) -> Result<Vec<Type>, Error> {
    columns.iter().map(|column| Type::read(&mut Reader::new(&column.type_option))).collect()
}

fn named<'a>(columns: &'a [ColumnSpec], types: &'a [Type]) -> Vec<(&'a str, &'a Type)> {
    columns.iter().map(|column| column.name.as_str()).zip(types).collect()
}

/// As servers make it, so that every node and every proxy has the same: MD5 of the text, after the keyspace that the text lacks.
fn prepared_id(text: &[u8], statement: &Statement) -> [u8; 16] {
    let is_whole = matches!(&statement.body, Body::Select(select) if select.table.keyspace.is_some());
    let keyspace = if is_whole { "" } else { KEYSPACE };
    Md5::new().chain_update(keyspace).chain_update(text).finalize().into()
}

/// As servers make it: MD5 of names and classes.
fn metadata_id(columns: &[ColumnSpec]) -> [u8; 16] {
    let class = |column: &ColumnSpec| Type::read(&mut Reader::new(&column.type_option)).map(|of| of.class());
    let sum = columns.iter().fold(Md5::new(), |sum, column| {
        let class = class(column).unwrap_or_default();
        sum.chain_update(&column.name).chain_update([0]).chain_update(class).chain_update([0, 0])
    });
    sum.finalize().into()
}

/// The values in the order of the markers, or the server's words about them.
fn bound<'v>(markers: &[ColumnSpec], values: Option<Values<'v>>, asked: Asked<'_>) -> Result<Vec<Bound<'v>>, String> {
    let values = values.unwrap_or(Values::Given(&[]));
    if values.len() != markers.len() {
        let (wanted, given) = (markers.len(), values.len());
        return Err(match asked {
            Asked::AsText => "Invalid amount of bind variables".to_owned(),
            Asked::Prepared(_) => format!("there were {wanted} markers(?) in CQL but {given} bound variables"),
        });
    }
    if !values.named() {
        return Ok(values.iter().map(|(_, value)| as_bound(value)).collect());
    }
    let find = |name: &str| values.iter().find(|(given, _)| *given == Some(name)).map(|(_, value)| as_bound(value));
    Ok(markers.iter().map(|marker| find(&marker.name).unwrap_or(Bound::Null)).collect())
}

fn as_bound(value: Value<'_>) -> Bound<'_> {
    match value {
        Value::Set(bytes) => Bound::Value(bytes),
        Value::Null => Bound::Null,
        Value::Unset => Bound::Unset,
    }
}

/// Which of the rows go with this answer.
struct Page {
    rows: std::ops::Range<usize>,
    next: Option<Vec<u8>>,
}

impl Page {
    /// `None`: the client's paging state is none of ours.
    fn of(parameters: &Parameters<'_>, count: usize) -> Option<Page> {
        let first = parameters.paging_state.map_or(Some(0), place)?.min(count);
        let size = parameters.page_size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let end = size.map_or(count, |size| first.saturating_add(size).min(count));
        let next = (end < count).then(|| {
            let mut state = BytesMut::from(PAGING);
            state.put_u64(end as u64);
            state.to_vec()
        });
        Some(Page { rows: first..end, next })
    }
}

fn place(state: &[u8]) -> Option<usize> {
    let place = state.strip_prefix(PAGING)?.try_into().ok()?;
    usize::try_from(u64::from_be_bytes(place)).ok()
}

#[cfg(test)]
mod tests;
