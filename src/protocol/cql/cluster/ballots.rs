//! The ballots of conditional writes, from where replicas keep them: `system.paxos` is a table of each node, and has the
//! newest commit of each partition that the node is a replica of. Its `most_recent_commit_at` is what the write carries
//! for timestamp, to the microsecond (tried on 4.1 and 5.0).

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::protocol::cql::ballot::{Question, Unread};
use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{Bound, Parameters, Values};
use crate::protocol::cql::wire::response::code;

use super::clock::{Offset, micros_of};
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
/// So many nodes from the key on are asked one by one: a replica is the first of them, and mostly knows.
const NEAR: usize = 8;
/// Where those are away, or the nodes of a rack lie side by side on the ring, replicas are further on: so many at a time.
const ABREAST: usize = 8;
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
    let bounds = bounds(lock(&inner.clocks).values(), question).ok_or(Unread::Absent)?;
    let found = timeout(PATIENCE, look(inner, question, &bounds)).await;
    found.unwrap_or(Err(Unread::Absent))
}

/// `None`: nothing tells it from those before it.
fn bounds<'c>(clocks: impl Iterator<Item = &'c Offset> + Clone, question: &Question) -> Option<Bounds> {
    let least = clocks.clone().map(|offset| offset.least).min()?;
    let most = clocks.map(|offset| offset.most).max()?;
    let least = (question.since + least - CUT).max(question.above.saturating_add(1));
    let most = question.until + most + CUT;
    (least <= most).then_some(Bounds { least, most })
}

async fn look(inner: &Inner, question: &Question, bounds: &Bounds) -> Result<i64, Unread> {
    let mut pause = PAUSE;
    let mut silent = 0;
    while silent < ROUNDS {
        let hosts = inner.hosts.load_full();
        let around = ring::from(&hosts, ring::token(&question.key));
        match round(&around, bounds, |host| ask(inner, host, question)).await {
            Round::Said(said) => return said,
            Round::Silent { all_answered } => silent += usize::from(all_answered),
        }
        sleep(pause).await;
        pause *= 2;
    }
    Err(Unread::Absent)
}

/// What was heard when each node was asked once, until one knew.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    Said(Result<i64, Unread>),
    Silent { all_answered: bool },
}

async fn round<'h, F>(around: &[&'h Host], bounds: &Bounds, ask: impl Fn(&'h Host) -> F) -> Round
where
    F: Future<Output = Result<Option<i64>, Error>>,
{
    let (near, far) = around.split_at(around.len().min(NEAR));
    let mut all_answered = true;
    for several in near.chunks(1).chain(far.chunks(ABREAST)) {
        for asked in join_all(several.iter().map(|host| timeout(PATIENCE_EACH, ask(host)))).await {
            match asked {
                Ok(Ok(Some(ballot))) if ballot > bounds.most => return Round::Said(Err(Unread::Newer)),
                Ok(Ok(Some(ballot))) if ballot >= bounds.least => return Round::Said(Ok(ballot)),
                Ok(Err(error)) if is_refusal(&error) => return Round::Said(Err(Unread::Refused)),
                // No replica, or one that missed this commit.
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => all_answered = false,
            }
        }
    }
    Round::Silent { all_answered }
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::protocol::cql::client::Address;

    const NODES: u16 = 30;
    const BOUNDS: Bounds = Bounds { least: 100, most: 200 };

    fn hosts() -> Vec<Host> {
        let host = |port| Host {
            address: Address { host: "node".to_owned(), port },
            id: [0; 16],
            peer: None,
            datacenter: String::new(),
            release: String::new(),
            schema: None,
            tokens: Vec::new(),
        };
        (0..NODES).map(host).collect()
    }

    /// What comes of it where nodes answer so, who was asked, and how many at a time.
    async fn asked(answer: impl Fn(u16) -> Result<Option<i64>, Error>) -> (Round, Vec<u16>, usize) {
        let (asked, now, most) = (RefCell::new(Vec::new()), Cell::new(0), Cell::new(0));
        let hosts = hosts();
        let ask = async |host: &Host| {
            asked.borrow_mut().push(host.address.port);
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::task::yield_now().await;
            now.set(now.get() - 1);
            answer(host.address.port)
        };
        let heard = round(&hosts.iter().collect::<Vec<_>>(), &BOUNDS, ask).await;
        (heard, asked.take(), most.get())
    }

    #[tokio::test]
    async fn who_knows_is_found_wherever_it_is_and_few_are_asked_at_once() {
        for knows in 0..NODES {
            let answer = |node| Ok((node == knows).then_some(150));
            let (heard, asked, most) = asked(answer).await;
            assert_eq!(heard, Round::Said(Ok(150)), "node {knows}");
            assert!(most <= ABREAST && asked.len() < usize::from(knows) + ABREAST + 1, "node {knows}: {asked:?}");
            let one_by_one = usize::from(knows) < NEAR;
            assert!(!one_by_one || asked.len() == usize::from(knows) + 1, "node {knows}: {asked:?}");
        }
    }

    #[tokio::test]
    async fn the_ballot_before_ours_is_not_taken_for_ours_by_a_node_that_missed_our_commit() {
        let clocks = [Offset { least: -50, most: -40 }, Offset { least: 40, most: 50 }];
        let (since, until) = (CUT + 150, CUT + 250);
        let question = |above| Question { table: [0; 16], key: [0_u8; 4][..].into(), since, until, above };
        let hosts = hosts();
        let heard = async |above| {
            let bounds = bounds(clocks.iter(), &question(above))?;
            let ask = async |host: &Host| Ok(Some(if host.address.port == 0 { 150 } else { 180 }));
            Some(round(&hosts.iter().collect::<Vec<_>>(), &bounds, ask).await)
        };
        assert_eq!(heard(100).await, Some(Round::Said(Ok(150))));
        assert_eq!(heard(150).await, Some(Round::Said(Ok(180))));
        assert_eq!(heard(180).await, Some(Round::Silent { all_answered: true }));
        assert_eq!(heard(i64::MAX).await, None);
    }

    #[tokio::test]
    async fn near_nodes_that_are_away_hide_no_replica_further_on() {
        let away = || Error::NoHost("it is down".to_owned());
        let answer = |node| if node < 8 { Err(away()) } else { Ok((node == 20).then_some(150)) };
        assert_eq!(asked(answer).await.0, Round::Said(Ok(150)));
        let nobody = |node| if node < 8 { Err(away()) } else { Ok(None) };
        assert_eq!(asked(nobody).await.0, Round::Silent { all_answered: false });
        assert_eq!(asked(|_| Ok(Some(99))).await.0, Round::Silent { all_answered: true });
        assert_eq!(asked(|_| Ok(Some(201))).await.0, Round::Said(Err(Unread::Newer)));
    }
}
