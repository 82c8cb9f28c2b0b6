//! Where the primary's sequences stand, kept now and then for the night on which it is gone for good.
//!
//! A switch asks the old primary. One that is gone tells nothing, and rows tell only of numbers that are in them: a
//! sequence that applications ask by its name (Hibernate's, an invoice number's) would begin again. What is kept is ahead of what
//! was seen, by what is given out until the next look and some more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::check::Finding;
use crate::protocol::postgres::client::{self, Client, ServerConfig};
use crate::protocol::postgres::scope::Scope;
use crate::protocol::postgres::shared::Shared;
use crate::protocol::postgres::switch::{
    self,
    sequences::{self, Sequence},
};
use crate::record::Side;

use super::rules;

/// How often the primary is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);
/// What is given out between two looks is allowed for so often.
const AHEAD: i64 = 3;

/// What is kept, in memory: a tandem that starts without its primary ends.
#[derive(Clone, Default)]
pub(super) struct Numbers(Arc<Mutex<Option<Seen>>>);

struct Seen {
    side: Side,
    sequences: Vec<Sequence>,
}

impl Numbers {
    /// Of this side; nothing if it was never asked.
    pub(super) fn of(&self, side: Side) -> Vec<Sequence> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().filter(|seen| seen.side == side).map(|seen| seen.sequences.clone()).unwrap_or_default()
    }

    /// Ask until stopped.
    pub(super) async fn run(self, shared: Arc<Shared>, side: Side, server: Arc<ServerConfig>, stop: CancellationToken) {
        let (mut before, mut conn) = (Vec::new(), None);
        let asking = async {
            loop {
                match timeout(LOOK, look(&shared, side, &server, &mut conn)).await {
                    Ok(Ok(now)) => {
                        self.keep(side, &before, &now);
                        before = now;
                    }
                    why => {
                        tracing::debug!(?why, "the primary's sequences cannot be read");
                        conn = None;
                    }
                }
                sleep(EVERY).await;
            }
        };
        stop.run_until_cancelled(asking).await;
    }

    fn keep(&self, side: Side, before: &[Sequence], now: &[Sequence]) {
        let before: HashMap<&str, &Sequence> = before.iter().map(|then| (then.name.as_str(), then)).collect();
        let ahead = |now: &Sequence| now.ahead(before.get(now.name.as_str()).copied(), AHEAD);
        let seen = Seen { side, sequences: now.iter().map(ahead).collect() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

async fn look(
    shared: &Shared,
    side: Side,
    server: &ServerConfig,
    conn: &mut Option<Client>,
) -> Result<Vec<Sequence>, client::Error> {
    sequences::read(shared.catalog.connected(side, server, conn).await?).await
}

/// Those of the side that takes over, in the words of the one that is gone.
pub(super) async fn there(conn: &mut Client, scope: &Scope) -> Result<Vec<Sequence>, client::Error> {
    let mut there = sequences::read(conn).await?;
    sequences::translate(&mut there, scope);
    Ok(there)
}

/// Sequences of which neither rows nor what was seen of `here` tell anything, and those that stay where they stand.
pub(super) async fn findings(
    conn: &mut Client,
    scope: &Scope,
    here: &[Sequence],
    side: Side,
) -> Result<Vec<Finding>, client::Error> {
    let there = there(conn, scope).await?;
    let untold = sequences::untold(conn, &sequences::met(here, &there), &there).await?;
    let found = |rule| move |object| Finding { rule, side: Some(side), object };
    let unknown = untold.into_iter().map(found(rules::SEQUENCE_UNKNOWN));
    let forbidden = sequences::forbidden(&there).map(str::to_owned).map(found(switch::MAY_NOT_SET_SEQUENCE));
    Ok(unknown.chain(forbidden).collect())
}
