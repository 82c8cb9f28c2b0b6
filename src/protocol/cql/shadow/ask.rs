//! Asking a side what a client asked, over a connection of our own: the mirror's are left alone, so that large answers do
//! not stand in its way.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config;
use crate::protocol::cql::client::{Answer, Client, Error, Settings};
use crate::protocol::cql::setup::Sides;
use crate::protocol::cql::wire::Version;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::{Bound, Parameters, Values};
use crate::record::Side;

use super::read::Read;

/// Answers that did not come: past this many the connection is made anew.
const ORPHANS_MAX: usize = 16;

/// The connection to a side.
pub(super) struct Line {
    side: Side,
    sides: Sides,
    timeout: Duration,
    client: Mutex<Option<Client>>,
}

/// What a side said, and how long it took to.
pub(super) struct Told {
    pub(super) answer: Result<Answer, Error>,
    pub(super) took: Duration,
}

impl Line {
    pub(super) fn new(side: Side, sides: Sides, timeout: Duration) -> Line {
        Line { side, sides, timeout, client: Mutex::new(None) }
    }

    /// Ask for what was asked for, at this level, as of this second.
    pub(super) async fn ask(&self, read: &Read, asked: &Parameters<'_>, level: Consistency, second: i32) -> Told {
        let began = Instant::now();
        match self.client().await {
            Ok(client) => ask(&client, read, asked, level, second).await,
            Err(error) => Told { answer: Err(error), took: began.elapsed() },
        }
    }

    /// Ask something of our own.
    pub(super) async fn look(
        &self,
        text: &str,
        values: &[Bound<'_>],
        (level, second): (Consistency, i32),
    ) -> Result<Answer, Error> {
        let client = self.client().await?;
        let now_in_seconds = Some(second).filter(|_| client.version() >= Version::V5);
        let parameters = Parameters { values: Some(Values::Given(values)), now_in_seconds, ..Parameters::new(level) };
        client.query(text, &parameters).await
    }

    /// It is made by who finds none, while others wait.
    async fn client(&self) -> Result<Client, Error> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_lost()) {
            return Ok(client.clone());
        }
        *held = None;
        let cluster = self.sides.get(self.side).ok_or_else(|| Error::NoHost("it was never reached".to_owned()))?;
        let own = Settings { request_timeout: self.timeout, orphans_max: ORPHANS_MAX, ..cluster.settings().clone() };
        Ok(held.insert(Client::connect(&own, &cluster.pick()).await?).clone())
    }
}

async fn ask(client: &Client, read: &Read, asked: &Parameters<'_>, level: Consistency, second: i32) -> Told {
    let began = Instant::now();
    let failed = |error| Told { answer: Err(error), took: began.elapsed() };
    let Ok(text) = std::str::from_utf8(&read.known.text) else {
        return failed(Error::Answer("the text of a read is not UTF-8"));
    };
    let is_modern = client.version() >= Version::V5;
    let parameters = Parameters {
        values: asked.values.filter(|values| !values.is_empty()),
        page_size: asked.page_size,
        paging_state: asked.paging_state,
        keyspace: read.known.keyspace.as_deref(),
        now_in_seconds: Some(asked.now_in_seconds.unwrap_or(second)).filter(|_| is_modern),
        ..Parameters::new(level)
    };
    // Before v5 a keyspace can only be named by QUERY, to those servers that heed it there.
    if !read.is_prepared() || !is_modern && parameters.keyspace.is_some() {
        let answer = client.query(text, &parameters).await;
        return Told { answer, took: began.elapsed() };
    }
    let prepared = match client.prepare(text, parameters.keyspace).await {
        Ok(prepared) => prepared,
        Err(error) => return failed(error),
    };
    // That it has to be prepared here is not the statement's.
    let began = Instant::now();
    let answer = client.execute(&prepared, &Parameters { keyspace: None, ..parameters }).await;
    Told { answer, took: began.elapsed() }
}

/// The level at which a read is repeated: the client's own, but of one datacenter, and never one that makes it a write.
pub(super) fn repeated(level: Consistency, configured: Option<config::Consistency>) -> Consistency {
    use Consistency::{Any, LocalOne, LocalQuorum, NodeLocal, One};
    match (configured.map(of_config), level) {
        (Some(configured), _) => configured,
        (None, Any | One | LocalOne | NodeLocal) => LocalOne,
        (None, _) => LocalQuorum,
    }
}

/// The level at which both sides are asked again: one at which a write that was acknowledged is seen.
pub(super) fn sure(configured: Option<config::Consistency>) -> Consistency {
    match configured.map(of_config) {
        Some(level @ (Consistency::Quorum | Consistency::All)) => level,
        _ => Consistency::LocalQuorum,
    }
}

fn of_config(level: config::Consistency) -> Consistency {
    match level {
        config::Consistency::One => Consistency::One,
        config::Consistency::Two => Consistency::Two,
        config::Consistency::Three => Consistency::Three,
        config::Consistency::Quorum => Consistency::Quorum,
        config::Consistency::All => Consistency::All,
        config::Consistency::LocalQuorum => Consistency::LocalQuorum,
        config::Consistency::LocalOne => Consistency::LocalOne,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_repeated_in_one_datacenter_and_never_decides_a_transaction() {
        use Consistency as C;
        for (level, expected) in [
            (C::One, C::LocalOne),
            (C::LocalOne, C::LocalOne),
            (C::Two, C::LocalQuorum),
            (C::Quorum, C::LocalQuorum),
            (C::All, C::LocalQuorum),
            (C::EachQuorum, C::LocalQuorum),
            (C::Serial, C::LocalQuorum),
            (C::LocalSerial, C::LocalQuorum),
        ] {
            assert_eq!(repeated(level, None), expected, "{level:?}");
            assert_eq!(repeated(level, Some(config::Consistency::LocalOne)), C::LocalOne);
        }
        assert_eq!(sure(None), C::LocalQuorum);
        assert_eq!(
            sure(Some(config::Consistency::LocalOne)),
            C::LocalQuorum,
            "what differs is asked for again with care"
        );
        assert_eq!(sure(Some(config::Consistency::All)), C::All);
    }
}
