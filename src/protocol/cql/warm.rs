//! Before a switch: what clients have prepared is prepared on the nodes that they will go to. A prepared statement has the
//! same id on both sides (the MD5 of keyspace and text), so nobody is told there that it is unknown, and thousands of
//! clients do not prepare the same statements all at once behind the flip.
//!
//! Best effort: what is missing a client is told of as by any node, and its driver prepares it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::client::{Address, Client, Error};
use super::cluster::Cluster;
use super::session::known::{Known, Statements};
use super::wire::Version;

/// How long a switch waits for it; clients go on meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes at a time, and statements at a time for each.
const NODES: usize = 8;
const STATEMENTS: usize = 32;

/// Prepare all on every node of this cluster. Cancel safe: what was sent is prepared.
pub(super) async fn warm(statements: &Statements, cluster: &Cluster) {
    let statements = statements.all_prepared();
    let hosts = cluster.hosts();
    let up = hosts.iter().filter(|host| !cluster.is_down(&host.address));
    let on_each = stream::iter(up).for_each_concurrent(NODES, |host| {
        let statements = &statements;
        async move {
            let done = prepare(statements, cluster, &host.address).await;
            done.unwrap_or_else(|error| tracing::info!(%error, node = %host.address, "no statements prepared there"));
        }
    });
    if timeout(PATIENCE, on_each).await.is_err() {
        tracing::info!(
            statements = statements.len(),
            "not all that clients have prepared is prepared on the new primary"
        );
    }
}

async fn prepare(statements: &[Arc<Known>], cluster: &Cluster, node: &Address) -> Result<(), Error> {
    let client = cluster.client_of(node).await?;
    let mut prepared =
        stream::iter(statements.iter().cloned()).map(|known| one(&client, known)).buffer_unordered(STATEMENTS);
    while let Some(done) = prepared.next().await {
        match done {
            // Of a table that was dropped, or with names that need the keyspace which only v5 can give.
            Err(error) if error.code().is_none() => return Err(error),
            Err(_) | Ok(()) => {}
        }
    }
    Ok(())
}

async fn one(client: &Client, known: Arc<Known>) -> Result<(), Error> {
    let Ok(text) = std::str::from_utf8(&known.text) else { return Ok(()) };
    let keyspace = known.keyspace.as_deref().filter(|_| client.version() >= Version::V5);
    client.prepare_anew(text, keyspace).await.map(drop)
}
