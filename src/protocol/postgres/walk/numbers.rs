//! Where the primary's sequences stand, kept now and then for the night on which it is gone for good.
//!
//! A switch asks the old primary. One that is gone tells nothing, and rows tell only of numbers that are in them: a
//! sequence that applications ask by its name (Hibernate's, an invoice number's) would begin again. What is kept is ahead of what
//! was seen, by what is given out until the next look and some more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::check::Finding;
use crate::mirror::durable::{Durable, Error};
use crate::protocol::postgres::client::{self, Client, ServerConfig};
use crate::protocol::postgres::shared::Shared;
use crate::protocol::postgres::switch::sequences::{self, Sequence};
use crate::record::Side;

use super::rules;

/// How often the primary is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);
/// What is given out between two looks is allowed for so often.
const AHEAD: i64 = 3;

/// What is kept, in the data directory as `sequences`.
#[derive(Clone)]
pub(super) struct Numbers(Durable);

#[derive(Debug, Serialize, Deserialize)]
struct Page {
    side: Side,
    sequences: Vec<Sequence>,
}

impl Numbers {
    pub(super) fn in_dir(dir: &Path) -> Numbers {
        Numbers(Durable::in_dir(dir, "sequences"))
    }

    /// Of this side; nothing if it was never asked.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn of(&self, side: Side) -> Result<Vec<Sequence>, Error> {
        let page: Option<Page> = self.0.load()?;
        Ok(page.filter(|page| page.side == side).map(|page| page.sequences).unwrap_or_default())
    }

    /// Ask until stopped.
    pub(super) async fn run(self, shared: Arc<Shared>, side: Side, server: Arc<ServerConfig>, stop: CancellationToken) {
        let (mut before, mut conn) = (Vec::new(), None);
        let asking = async {
            loop {
                match timeout(LOOK, look(&shared, side, &server, &mut conn)).await {
                    Ok(Ok(now)) => {
                        if now != before {
                            self.keep(side, &before, &now).await;
                            before = now;
                        }
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

    async fn keep(&self, side: Side, before: &[Sequence], now: &[Sequence]) {
        let then = |sequence: &Sequence| before.iter().find(|then| then.name == sequence.name).cloned();
        let sequences = now.iter().map(|sequence| sequence.ahead(then(sequence).as_ref(), AHEAD)).collect();
        if let Err(error) = self.0.save_aside(&Page { side, sequences }).await {
            tracing::warn!(%error, "where sequences stand cannot be kept");
        }
    }
}

async fn look(
    shared: &Shared,
    side: Side,
    server: &ServerConfig,
    conn: &mut Option<Client>,
) -> Result<Vec<Sequence>, client::Error> {
    if conn.is_none() {
        *conn = Some(Client::connect(&shared.catalog.primary_first(side, server)).await?);
    }
    match conn {
        Some(conn) => sequences::read(conn).await,
        None => Ok(Vec::new()),
    }
}

/// Sequences of which neither rows nor what is kept tell anything.
pub(super) fn unknown(names: Vec<String>, side: Side) -> impl Iterator<Item = Finding> {
    names.into_iter().map(move |object| Finding { rule: rules::SEQUENCE_UNKNOWN, side: Some(side), object })
}
