//! The ballots of conditional writes, from where replicas keep them: `system.paxos` is a table of each node, and has the
//! newest commit of each partition that the node is a replica of. Its `most_recent_commit_at` is what the write carries
//! for timestamp, to the microsecond (tried on 4.1 and 5.0).

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::protocol::cql::ballot::{Question, Unread};
use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{Bound, Parameters, Values};
use crate::protocol::cql::wire::response::code;

use super::clock::micros_of;
use super::hosts::Host;
use super::{Inner, lock, ring};

const TEXT: &str = "SELECT most_recent_commit_at FROM system.paxos WHERE row_key = ? AND cf_id = ?";
/// The next conditional statement of the partition waits, and so does a switch: rather none than one that is late.
const PATIENCE: Duration = Duration::from_secs(1);
/// A node that hangs keeps nobody from asking the next.
const PATIENCE_EACH: Duration = Duration::from_millis(150);
/// A write is answered when one replica committed it, at the least: what none of them has when all were asked this often
/// has been replaced, or is nowhere.
const ROUNDS: usize = 4;
/// More nodes than this are not asked in one go: replicas are among the first.
const ASKED_MAX: usize = 8;
/// A commit may be on its way to a replica still.
const PAUSE: Duration = Duration::from_millis(5);
/// What a ballot may be above a clock that is cut to milliseconds.
const CUT: i64 = 1_000;

/// Which ballots are ours: microseconds.
struct Bounds {
    least: i64,
    most: i64,
}

/// See [`super::Cluster::ballot`].
pub(super) async fn read(inner: &Inner, question: &Question) -> Result<i64, Unread> {
    // Without a clock that was measured nothing says which ballot is whose.
    let bounds = bounds(inner, question).ok_or(Unread::Absent)?;
    let found = timeout(PATIENCE, look(inner, question, &bounds)).await;
    found.unwrap_or(Err(Unread::Absent))
}

fn bounds(inner: &Inner, question: &Question) -> Option<Bounds> {
    let clocks = lock(&inner.clocks);
    let least = clocks.values().map(|offset| offset.least).min()?;
    let most = clocks.values().map(|offset| offset.most).max()?;
    Some(Bounds { least: question.since + least - CUT, most: question.until + most + CUT })
}

async fn look(inner: &Inner, question: &Question, bounds: &Bounds) -> Result<i64, Unread> {
    let mut pause = PAUSE;
    let mut silent = 0;
    while silent < ROUNDS {
        let hosts = inner.hosts.load_full();
        let mut all_answered = true;
        for host in ring::from(&hosts, ring::token(&question.key)).into_iter().take(ASKED_MAX) {
            let asked = timeout(PATIENCE_EACH, ask(inner, host, question)).await;
            match asked {
                Ok(Ok(Some(ballot))) if ballot > bounds.most => return Err(Unread::Newer),
                Ok(Ok(Some(ballot))) if ballot >= bounds.least => return Ok(ballot),
                Ok(Err(error)) if is_refusal(&error) => return Err(Unread::Refused),
                // No replica, or one that missed this commit.
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => all_answered = false,
            }
        }
        silent += usize::from(all_answered);
        sleep(pause).await;
        pause *= 2;
    }
    Err(Unread::Absent)
}

async fn ask(inner: &Inner, host: &Host, question: &Question) -> Result<Option<i64>, Error> {
    if inner.is_down(&host.address) {
        return Err(Error::NoHost(format!("{} is down", host.address)));
    }
    newest(&inner.client_of(&host.address).await?, question).await
}

async fn newest(client: &Client, question: &Question) -> Result<Option<i64>, Error> {
    let prepared = client.prepare(TEXT, None).await?;
    let values: [Bound<'_>; 2] = [(None, Value::Set(&question.key)), (None, Value::Set(&question.table))];
    let parameters = Parameters { values: Some(Values::Given(&values)), ..Parameters::new(Consistency::One) };
    let answer = client.execute(&prepared, &parameters).await?;
    let ballot = answer.row()?.and_then(|row| row.get(0).flatten()?.try_into().ok());
    Ok(ballot.map(micros_of))
}

/// See [`super::Cluster::shows_ballots`].
pub(super) async fn are_shown(client: &Client) -> Result<bool, Error> {
    match client
        .query("SELECT most_recent_commit_at FROM system.paxos LIMIT 1", &Parameters::new(Consistency::One))
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.code(), Some(code::UNAUTHORIZED | code::INVALID))
}
