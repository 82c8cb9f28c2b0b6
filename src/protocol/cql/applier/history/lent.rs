//! A chunk that a worker in another process works on: what is asked of it, and what it says.
//!
//! The worker connects to both clusters itself. What it knows of their schemas may be older or newer than what is known here, so
//! each chunk says what its table is like, and a worker that sees it otherwise gives it back.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::backfill::crew::message::{self, Copied, Doing, Done, Hex, KEYS_BYTES, Pair, Seen, Task};
use crate::backfill::crew::{Lease, Loan, Lost};
use crate::backfill::work::{Chunk, Differs, Landed};
use crate::config::{Config, Server};
use crate::mirror::replay::history::{By, Compared, Error, Suspect};
use crate::protocol::cql::applier::Sides;
use crate::protocol::cql::applier::state::diff::Moment;
use crate::protocol::cql::client::{self, Client};
use crate::protocol::cql::cluster::Cluster;
use crate::protocol::cql::place::Place;
use crate::protocol::cql::tables::Table;
use crate::record::{Side, TableId};

use super::{Terms, compare, copy, difference};

/// Have it copied, if it is a worker that does; `None`: it waits for nothing any more.
pub(super) async fn copy(
    sides: &Sides,
    table: &Table,
    chunk: &Chunk,
    by: By,
    moment: Moment,
) -> Result<Option<Landed>, Error> {
    let Some(loan) = lend(sides, table, chunk, (by, Doing::Copy), moment) else { return Ok(None) };
    let Copied { rows, bytes, left, crowd, refused } = loan.copied().await?;
    let left = left.iter().map(|key| found(Differs::Missing, key, table)).collect::<Result<_, _>>()?;
    let refused: Vec<Box<[u8]>> = refused.into_iter().map(|key| key.0).collect();
    if refused.iter().any(|key| Place::decode(key).is_none()) {
        return Err(unreadable().into());
    }
    Ok(Some(Landed { rows, bytes, differing: left, crowd, refused, ..Landed::default() }))
}

/// The same of a comparison.
pub(super) async fn compare(
    sides: &Sides,
    table: &Table,
    chunk: &Chunk,
    by: By,
    moment: Moment,
) -> Result<Option<Compared>, Error> {
    let Some(loan) = lend(sides, table, chunk, (by, Doing::Compare), moment) else { return Ok(None) };
    let message::Compared { rows, suspects, crowd, left_out } = loan.compared().await?;
    let suspect = |(how, key, print): &(Differs, Hex, u64)| {
        // It is looked at here before anything is made of it.
        Ok::<_, Lost>(Suspect { difference: found(*how, key, table)?, print: *print, is_dated: false, times: 1 })
    };
    let suspects = suspects.iter().map(suspect).collect::<Result<_, _>>()?;
    Ok(Some(Compared { rows, suspects, crowd, left_out, moved: false }))
}

fn lend(sides: &Sides, table: &Table, chunk: &Chunk, (by, doing): (By, Doing), moment: Moment) -> Option<Loan> {
    let By::Worker(seat) = by else { return None };
    let there = sides.secondary.tables();
    let other = there.table(&table.shape.keyspace, &table.shape.name)?;
    let (primary, schema) = (sides.primary.side(), schema(table, other));
    seat.lend(Task { doing, primary, chunk: chunk.clone(), read: moment.read(), schema })
}

fn found(how: Differs, key: &Hex, table: &Table) -> Result<crate::backfill::work::Difference, Lost> {
    let place = Place::decode(&key.0).ok_or_else(unreadable)?;
    difference(how, &place, &table.shape).ok_or_else(unreadable)
}

fn unreadable() -> Lost {
    Lost { name: "?".to_owned(), why: "it named a row that cannot be one".to_owned() }
}

/// Another number whenever rows would be read or written otherwise.
fn schema(here: &Table, there: &Table) -> u64 {
    let mut hasher = DefaultHasher::new();
    for table in [here, there] {
        (table.id, table.gc_grace_seconds, format!("{:?}", table.shape)).hash(&mut hasher);
    }
    hasher.finish()
}

/// What this process sees of a side.
pub(in super::super::super) fn sees(cluster: &Cluster) -> Seen {
    Seen {
        cluster: cluster.facts().cluster_name.clone(),
        nodes: cluster.hosts().iter().map(|host| Hex::from(&host.id[..])).collect(),
    }
}

/// A worker's hands: its own connections to both clusters.
pub struct Hands {
    origin: Arc<Cluster>,
    target: Arc<Cluster>,
}

impl Hands {
    /// Connect to both.
    ///
    /// # Errors
    /// The side that is not there.
    pub async fn connect(config: &Config) -> Result<Hands, (Side, client::Error)> {
        let reach = async |server: &Server, side| {
            Cluster::connect(server, side, &config.limits).await.map(Arc::new).map_err(|error| (side, error))
        };
        let origin = reach(&config.origin, Side::Origin).await?;
        let target = reach(&config.target, Side::Target).await?;
        Ok(Hands { origin, target })
    }

    /// What it sees of both sides.
    pub fn sees(&self) -> Pair {
        Pair { origin: sees(&self.origin), target: sees(&self.target) }
    }

    /// Do a chunk. Nothing is sent when the lease is over, and whatever comes of it, nothing of it is under way any more.
    pub async fn work(&self, task: &Task, lease: &Lease) -> Done {
        match self.done(task, lease).await {
            Ok(done) => done,
            Err(why) => Done::Failed { why },
        }
    }

    async fn done(&self, task: &Task, lease: &Lease) -> Result<Done, String> {
        let sides = self.sides(task.primary).await?;
        let table = walked(&sides, task).await?;
        let terms = Terms { moment: Moment::of(task.read), lease: lease.clone(), keys_bytes: KEYS_BYTES };
        let told = |error: Error| error.to_string();
        match task.doing {
            Doing::Copy => {
                copy::copy_rows(&sides, &table, &task.chunk, &terms).await.map(copied).map_err(told).map(Done::Copied)
            }
            Doing::Compare => tokio::select! {
                found = compare::compare(&sides, &table, &task.chunk, &terms) => {
                    found.map(compared).map_err(told).map(Done::Compared)
                }
                () = lease.over() => Err("the lease is over".to_owned()),
            },
        }
    }

    async fn sides(&self, primary: Side) -> Result<Sides, String> {
        let (here, there) = match primary {
            Side::Origin => (&self.origin, &self.target),
            Side::Target => (&self.target, &self.origin),
        };
        let client = async |cluster: &Cluster| -> Result<Client, String> {
            cluster.client().await.map_err(|error| format!("{}: {error}", cluster.side()))
        };
        let (to_primary, to_secondary) = (client(here).await?, client(there).await?);
        Ok(Sides { primary: here.clone(), secondary: there.clone(), to_primary, to_secondary })
    }
}

/// The table, as whoever lent the chunk sees it; the schemas are looked at again if it is not so.
async fn walked(sides: &Sides, task: &Task) -> Result<Arc<Table>, String> {
    if let Some(table) = seen(sides, task.chunk.table, task.schema) {
        return Ok(table);
    }
    sides.primary.refresh().await;
    sides.secondary.refresh().await;
    let why =
        || format!("{} is not here as tandem sees it: a schema has changed, or the versions differ", task.chunk.name);
    seen(sides, task.chunk.table, task.schema).ok_or_else(why)
}

fn seen(sides: &Sides, label: TableId, wanted: u64) -> Option<Arc<Table>> {
    let (here, there) = (sides.primary.tables(), sides.secondary.tables());
    let table = here.iter().find(|table| table.label == label)?;
    let other = there.table(&table.shape.keyspace, &table.shape.name)?;
    (schema(table, other) == wanted).then(|| table.clone())
}

/// As many keys as a message may hold.
fn copied(landed: Landed) -> Copied {
    let Landed { rows, bytes, differing, mut crowd, refused, .. } = landed;
    let mut refused_bytes = 0;
    let mut fits = |key: &[u8]| {
        refused_bytes += key.len();
        refused_bytes <= KEYS_BYTES
    };
    let all = refused.len();
    let refused: Vec<Hex> = refused.into_iter().filter(|key| fits(key)).map(Hex).collect();
    crowd += (all - refused.len()) as u64;
    let left = differing.into_iter().map(|one| Hex(one.key)).collect();
    Copied { rows, bytes, left, crowd, refused }
}

fn compared(found: Compared) -> message::Compared {
    let Compared { rows, suspects, crowd, left_out, .. } = found;
    let suspects = suspects.into_iter().map(|one| (one.difference.how, Hex(one.difference.key), one.print)).collect();
    message::Compared { rows, suspects, crowd, left_out }
}
