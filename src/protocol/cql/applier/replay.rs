//! A write done again: its texts in the words of the server, its values, its timestamp, and the second at which its TTLs
//! begin.
//!
//! Timestamps decide, so a repeat changes nothing, but for lists: an overwrite that is repeated at its own timestamp
//! doubles the list. So what overwrites one goes by [`state`](super::state) as well, right after it, which finds a
//! doubled list and mends it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::protocol::cql::client::recent::Recent;
use crate::protocol::cql::client::{Client, Error, Member, MemberText, Prepared};
use crate::protocol::cql::cluster::Cluster;
use crate::protocol::cql::text::edit;
use crate::protocol::cql::text::parse::parse;
use crate::protocol::cql::text::statement::Statement as Parsed;
use crate::protocol::cql::text::volatile::translations;
use crate::protocol::cql::wire::Version;
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{Parameters, Statement, StatementText, Values};
use crate::protocol::cql::write::Write;

/// Statements that are remembered taken apart.
const TEXTS: usize = 4_096;
/// Longer ones are not: with their values in them they may be as long as a record, and do not come again.
const TEXT_BYTES: usize = 64 << 10;

/// A statement of a write, taken apart.
pub(super) struct Taken<'a> {
    pub(super) text: &'a [u8],
    pub(super) parsed: Arc<Parsed>,
    pub(super) values: Values<'a>,
    /// It was seen before, and has markers.
    comes_again: bool,
}

impl<'a> Taken<'a> {
    /// What is bound to a marker; nothing is null, or not set.
    pub(super) fn bytes(&self, number: usize) -> Option<&'a [u8]> {
        match self.values.get(number) {
            Some(Value::Set(bytes)) => Some(bytes),
            _ => None,
        }
    }
}

/// Takes statements apart, and remembers those that have markers: they may come again.
pub(super) struct Texts(Mutex<Recent<Box<[u8]>, Arc<Parsed>>>);

impl Default for Texts {
    fn default() -> Texts {
        Texts(Mutex::new(Recent::of(TEXTS)))
    }
}

impl Texts {
    /// The statements of a write. One that is no text was not written by us: it is left out, and the server will say so.
    pub(super) fn take_apart<'a>(&self, write: &Write<'a>) -> Vec<Taken<'a>> {
        let taken = |statement: Statement<'a>| match statement.text {
            StatementText::Text(text) => {
                let (parsed, comes_again) = self.parsed(text, statement.values.is_empty() || text.len() > TEXT_BYTES);
                Some(Taken { text, parsed, values: statement.values, comes_again })
            }
            StatementText::Prepared(_) => None,
        };
        write.batch.statements.iter().filter_map(taken).collect()
    }

    /// Taken apart, and whether it was before.
    fn parsed(&self, text: &[u8], is_passing: bool) -> (Arc<Parsed>, bool) {
        if is_passing {
            return (Arc::new(parse(text)), false);
        }
        let recent = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Box::from(text);
        if let Some(parsed) = recent().get(&key) {
            return (parsed, true);
        }
        let parsed = Arc::new(parse(text));
        recent().insert(key, parsed.clone());
        (parsed, false)
    }
}

/// Do it on this cluster.
pub(super) async fn execute(
    cluster: &Cluster,
    client: &Client,
    write: &Write<'_>,
    taken: &[Taken<'_>],
) -> Result<(), Error> {
    let parameters = parameters(client, &write.batch.parameters);
    let keyspace = parameters.keyspace;
    let mut ready = Vec::with_capacity(taken.len());
    for statement in taken {
        ready.push(Ready::of(cluster, client, statement, keyspace).await?);
    }
    match ready.as_slice() {
        [only] if !write.is_batch => only.execute(client, &parameters).await,
        all => {
            let members: Vec<Member<'_>> = all.iter().map(Ready::member).collect();
            client.batch(write.batch.kind, &members, &parameters).await.map(drop)
        }
    }
}

/// The client's own level would do for the client; a switch needs its writes on enough replicas of the secondary to be
/// read at it there, and at `LOCAL_QUORUM`.
fn parameters<'a>(client: &Client, of: &Parameters<'a>) -> Parameters<'a> {
    let consistency = match of.consistency {
        Consistency::Any | Consistency::One | Consistency::LocalOne | Consistency::NodeLocal => {
            Consistency::LocalQuorum
        }
        Consistency::Two | Consistency::Three => Consistency::Quorum,
        // Of a write that Paxos did not decide: servers refuse these.
        Consistency::Serial | Consistency::LocalSerial => Consistency::LocalQuorum,
        same => same,
    };
    let now_in_seconds = of.now_in_seconds.filter(|_| client.version() >= Version::V5);
    let own = Parameters::new(consistency);
    Parameters { timestamp: of.timestamp, keyspace: of.keyspace, now_in_seconds, ..own }
}

/// A statement as a server takes it.
struct Ready<'a> {
    how: How,
    values: Values<'a>,
}

enum How {
    /// It has markers, and comes again.
    Prepared(Arc<Prepared>),
    /// It has its values in it, all or some: what `now()` gave is in the text, so that it is another one each time. Prepared
    /// they would fill the server's memory of statements, and push out those of clients.
    Text(String),
}

impl<'a> Ready<'a> {
    async fn of(
        cluster: &Cluster,
        client: &Client,
        statement: &Taken<'a>,
        keyspace: Option<&str>,
    ) -> Result<Ready<'a>, Error> {
        let edits = translations(&statement.parsed, cluster.dialect());
        let text = String::from_utf8(edit::apply(statement.text, edits));
        let text = text.map_err(|_| Error::Answer("the text of a write is not UTF-8"))?;
        let values = statement.values;
        let how = match values.is_empty() {
            true => How::Text(text),
            false if !statement.comes_again => How::Text(text),
            // Before v5 a keyspace can only be named by QUERY, to those servers that heed it there.
            false if keyspace.is_some() && client.version() < Version::V5 => How::Text(text),
            false => How::Prepared(client.prepare(&text, keyspace).await?),
        };
        Ok(Ready { how, values })
    }

    fn member(&self) -> Member<'_> {
        let text = match &self.how {
            How::Prepared(prepared) => MemberText::Prepared(prepared),
            How::Text(text) => MemberText::Text(text),
        };
        Member { text, values: self.values }
    }

    async fn execute(&self, client: &Client, parameters: &Parameters<'_>) -> Result<(), Error> {
        let values = (!self.values.is_empty()).then_some(self.values);
        let answer = match &self.how {
            // It was prepared there.
            How::Prepared(prepared) => {
                client.execute(prepared, &Parameters { values, keyspace: None, ..*parameters }).await
            }
            How::Text(text) => client.query(text, &Parameters { values, ..*parameters }).await,
        };
        answer.map(drop)
    }
}
