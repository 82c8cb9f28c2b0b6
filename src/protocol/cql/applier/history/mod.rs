//! History on CQL: stretches of each table's ring, copied cell by cell with their own timestamps and expiries, and
//! compared.
//!
//! | what | how it gets to the secondary |
//! | --- | --- |
//! | cells with a timestamp that can be read | written with it ([`copy`]): a newer write or delete there wins, as it did here |
//! | sets, maps, user types that are not frozen; rows that are nothing but their key | written below what clients write now |
//! | collections and rows of which something expires, and no server tells when | by state, which finds out ([`expiry`](super::state::expiry)) |
//! | lists, counters | by state: their places are owed, and the mirror settles them in its turn |
//! | rows that the mirror settled while they were copied | by state, once more ([`beside`]) |
//! | tables that forget deletes within [`GRACE_MIN`] | by state: a copy could bring back what a delete took |
//!
//! Both sides are read in the ring's order, so they are compared as they stream by ([`compare`]): rows whose bytes are the
//! same are the same, and only others are taken apart.
//!
//! Both may be done by a worker in another process ([`lent`]): it does what [`copy`] and [`compare`] do between the two clusters,
//! on [`Terms`] of its own, and everything else stays here.

pub(super) mod beside;
mod compare;
mod copy;
pub(super) mod lent;
mod making;
mod provision;
mod ring;
mod scan;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::backfill::Request;
use crate::backfill::crew::Lease;
use crate::backfill::work::{Chunk, Difference, Differs, Extent, Outcome, Stage, Surveyed, Unread};
use crate::mirror::replay::history::{By, Compared, Error, Provisioned, Suspect, Walker};
use crate::protocol::cql::client::{self, Answer, Client};
use crate::protocol::cql::cluster::{Cluster, Masked};
use crate::protocol::cql::place::Place;
use crate::protocol::cql::shown;
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::tables::{Table, is_own};
use crate::protocol::cql::text::schema;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;
use crate::protocol::cql::wire::response::code;
use crate::record::Side;

use super::quiet::lingers;
use super::state::LEVEL;
use super::state::diff::Moment;
use super::state::statement::Names;
use super::trouble::Trouble;
use super::{Applier, Sides};
use scan::Shape;

/// Seconds for which a table must remember deletes to be copied: far longer than a chunk is under way.
const GRACE_MIN: i32 = 600;
/// Whose tokens are what [`ring`] says.
const PARTITIONER: &str = "org.apache.cassandra.dht.Murmur3Partitioner";
/// About the bytes of keys that are kept of one chunk, where they are not sent to anybody.
const KEYS_BYTES: usize = 16 << 20;
/// As [`lingers`], while nobody knows the cluster.
const LINGERS: Duration = Duration::from_secs(5);
/// Rows of a page of estimates.
const ESTIMATES: i32 = 5_000;

impl Walker for Applier {
    async fn provision(&self, request: &Request, stage: Stage) -> Result<Provisioned, Error> {
        let sides = self.sides().await.map_err(trouble)?;
        provision::provision(&sides, request, stage).await
    }

    async fn survey(&self) -> Result<Vec<Surveyed>, Error> {
        let sides = self.sides().await.map_err(trouble)?;
        sides.primary.refresh().await;
        sides.secondary.refresh().await;
        let sizes = sizes(&sides.primary).await;
        let masked = [
            (sides.primary.side(), sides.primary.masked().await.map_err(of_primary)?),
            (sides.secondary.side(), sides.secondary.masked().await.map_err(of_secondary)?),
        ];
        let (here, there) = (sides.primary.tables(), sides.secondary.tables());
        let mut tables: Vec<&Arc<Table>> = here.iter().filter(|table| !is_own(&table.shape.keyspace)).collect();
        tables.sort_by_key(|table| (&table.shape.keyspace, &table.shape.name));
        let mut found = Vec::new();
        for table in tables {
            let other = there.table(&table.shape.keyspace, &table.shape.name);
            let refused = hindrance(&sides, table, other.map(|other| &**other), &masked);
            let one = look(&sides, table, other.map(|other| &**other), (&sizes, refused)).await?;
            found.push(one);
        }
        Ok(found)
    }

    async fn copy(&self, chunk: &Chunk, by: By) -> Result<Outcome, Error> {
        let sides = self.sides().await.map_err(trouble)?;
        match self.walked(&sides, chunk) {
            Some(table) if chunk.compares.newer_stays && goes_by_state(&table) => {
                Ok(Outcome::Refused(Vec::new(), NO_NEWER.to_owned()))
            }
            Some(table) => copy::copy(&sides, &self.beside, &table, chunk, by).await,
            None => Ok(Outcome::Moved),
        }
    }

    async fn compare(&self, chunk: &Chunk, by: By) -> Result<Compared, Error> {
        let sides = self.sides().await.map_err(trouble)?;
        match self.walked(&sides, chunk) {
            Some(table) => {
                let terms = Terms::ours();
                match lent::compare(&sides, &table, chunk, by, terms.moment).await? {
                    Some(compared) => Ok(compared),
                    None => compare::compare(&sides, &table, chunk, &terms).await,
                }
            }
            None => Ok(Compared { moved: true, ..Compared::default() }),
        }
    }

    async fn look(&self, chunk: &Chunk, suspects: &[Suspect]) -> Result<Vec<Option<Suspect>>, Error> {
        let sides = self.sides().await.map_err(trouble)?;
        match self.walked(&sides, chunk) {
            Some(table) => compare::look(&sides, &table, chunk, suspects).await,
            // The table is gone: there is nothing that could differ.
            None => Ok(vec![None; suspects.len()]),
        }
    }

    fn linger(&self) -> Duration {
        (self.secondary)().map_or(LINGERS, |cluster| lingers(&cluster, false))
    }
}

/// On what terms a chunk is worked on.
struct Terms {
    moment: Moment,
    /// Nothing is sent behind its end.
    lease: Lease,
    /// About the bytes of keys that are kept; what is beyond is only counted.
    keys_bytes: usize,
}

impl Terms {
    /// Nobody else may have it.
    fn ours() -> Terms {
        Terms { moment: moment(), lease: Lease::endless(), keys_bytes: KEYS_BYTES }
    }
}

impl Applier {
    /// The chunk's table, if it is still the one that was surveyed.
    fn walked(&self, sides: &Sides, chunk: &Chunk) -> Option<Arc<Table>> {
        let table = self.known_table(&sides.primary, chunk.table)?;
        let there = sides.secondary.tables();
        let other = there.table(&table.shape.keyspace, &table.shape.name)?;
        (number(&table, other) == chunk.file && table.shape == other.shape).then_some(table)
    }
}

const NO_NEWER: &str =
    "it has counters, lists, or forgets deletes soon: what is newer there cannot be told, say error or overwrite";

/// Rows of it, or all, are copied by the mirror, as they are on the primary.
fn goes_by_state(table: &Table) -> bool {
    let lists = table.shape.columns().iter().any(|column| column.cells == schema::Cells::List);
    lists || copy::is_left_to_mirror(table)
}

/// Another one when either table was made anew.
fn number(here: &Table, there: &Table) -> u64 {
    let mut hasher = DefaultHasher::new();
    (here.id, there.id).hash(&mut hasher);
    hasher.finish()
}

async fn look(
    sides: &Sides,
    table: &Table,
    other: Option<&Table>,
    (sizes, refused): (&Sizes, Option<String>),
) -> Result<Surveyed, Error> {
    let name = format!("{}.{}", table.shape.keyspace, table.shape.name);
    let (rows, bytes) = sizes.get(&name).copied().unwrap_or_default();
    let file = other.map_or(0, |other| number(table, other));
    let (mut is_occupied, mut unread) = (false, None);
    if refused.is_none() {
        match occupied(&sides.to_secondary, table).await {
            Ok(found) => is_occupied = found,
            // A keyspace whose replicas are away, or slow, is no reason to leave all others alone.
            Err(error) if matches!(error.code(), Some(code::UNAVAILABLE | code::READ_TIMEOUT)) => {
                unread = Some(format!("the target: {error}"));
            }
            Err(error) => return Err(of_secondary(error)),
        }
    }
    Ok(Surveyed {
        table: table.label,
        labels: vec![table.label],
        rows,
        bytes,
        primary: vec![Extent { name: name.clone(), file, units: ring::UNITS }],
        // What only the secondary has shows on the way forth.
        secondary: Vec::new(),
        occupied: is_occupied,
        refused,
        unread,
        not_compared: Vec::new(),
        name,
        part_of: None,
    })
}

/// Why a table cannot be walked over.
fn hindrance(sides: &Sides, table: &Table, other: Option<&Table>, masked: &[(Side, Masked); 2]) -> Option<String> {
    let Some(other) = other else {
        return Some("the target has no such table: make it there, or have it made (backfill.provision)".to_owned());
    };
    let differs = |column: &&schema::Column| other.shape.column(&column.name) != Some(*column);
    let columns = table.shape.columns().iter().filter(differs);
    if let Some(column) =
        columns.chain(other.shape.columns().iter().filter(|c| table.shape.column(&c.name).is_none())).next()
    {
        return Some(format!("the column {} is not the same on both sides", column.name));
    }
    let name = (table.shape.keyspace.clone(), table.shape.name.clone());
    let hidden = masked.iter().find_map(|(side, masked)| Some((side, masked.get(&name)?.first()?)));
    if let Some((side, column)) = hidden {
        return Some(format!("the {side} shows tandem's role the column {column} masked: GRANT UNMASK on it there"));
    }
    let strange = [&sides.primary, &sides.secondary].into_iter().find(|side| side.facts().partitioner != PARTITIONER);
    strange.map(|side| format!("only the Murmur3 partitioner is walked over, not {}", side.facts().partitioner))
}

/// Whether this side has rows of it, or had some lately.
pub(in super::super) async fn occupied(client: &Client, table: &Table) -> Result<bool, client::Error> {
    let names = Names::of(&table.shape);
    let text = format!("SELECT {} FROM {} LIMIT 1", names.partition.join(", "), names.table);
    match client.query(&text, &Parameters::new(LEVEL)).await {
        Ok(answer) => Ok(answer.row()?.is_some()),
        // So many deleted rows that it does not look further, or too slow for it: there was something.
        Err(error) if error.code() == Some(code::READ_FAILURE) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Partitions and bytes of each table, as the nodes guess now and then.
type Sizes = HashMap<String, (u64, u64)>;

const SIZES: &str =
    "SELECT keyspace_name, table_name, partitions_count, mean_partition_size FROM system.size_estimates";

/// Each node knows of the ranges that are its own first. What cannot be asked is not known: nothing rests on it.
async fn sizes(cluster: &Cluster) -> Sizes {
    let mut sizes = Sizes::new();
    for host in cluster.hosts().iter() {
        let Ok(client) = cluster.client_of(&host.address).await else { continue };
        let parameters = Parameters { page_size: Some(ESTIMATES), ..Parameters::new(Consistency::One) };
        let Ok(pages) = client.pages(SIZES, &parameters).await else { continue };
        pages.iter().for_each(|page| _ = add_sizes(page, &mut sizes));
    }
    sizes
}

fn add_sizes(page: &Answer, sizes: &mut Sizes) -> Result<(), client::Error> {
    for row in page.rows()?.iter() {
        let row = row?;
        let text = |at| row.get(at).flatten().map(String::from_utf8_lossy).unwrap_or_default();
        let number = |at| row.get(at).flatten().and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes);
        let (partitions, each) = (number(2).max(0).unsigned_abs(), number(3).max(0).unsigned_abs());
        let sum = sizes.entry(format!("{}.{}", text(0), text(1))).or_default();
        *sum = (sum.0 + partitions, sum.1 + partitions.saturating_mul(each));
    }
    Ok(())
}

/// As of now, before anything is read.
fn moment() -> Moment {
    Moment::of(now_micros())
}

fn difference(how: Differs, place: &Place, table: &schema::Table) -> Option<Difference> {
    Some(Difference { how, key: place.encode()?.to_vec().into(), shown: shown::place(place, table) })
}

/// About the bytes that keeping it takes.
fn weight(difference: &Difference) -> usize {
    size_of::<Difference>() + difference.key.len() + difference.shown.len()
}

/// Reading on the primary failed.
fn of_primary(error: client::Error) -> Error {
    unread("primary", &error).unwrap_or_else(|| Error::Primary(error.to_string()))
}

/// The same on the secondary.
fn read_on_secondary(error: client::Error) -> Error {
    unread("secondary", &error).unwrap_or_else(|| of_secondary(error))
}

/// Other tables may be read all the same.
fn unread(side: &str, error: &client::Error) -> Option<Error> {
    let lasts = match error.code()? {
        code::READ_FAILURE => true,
        code::READ_TIMEOUT | code::UNAVAILABLE => false,
        _ => return None,
    };
    Some(Error::Unread(Unread { why: format!("{side}: {error}"), lasts }))
}

/// Writing there failed. Where replicas are away, those of other keyspaces may be there.
fn written_on_secondary(error: client::Error) -> Error {
    if error.code() == Some(code::UNAVAILABLE) {
        Error::Waits(format!("secondary: {error}"))
    } else {
        of_secondary(error)
    }
}

fn of_secondary(error: client::Error) -> Error {
    Error::Secondary(error.to_string())
}

/// Whose it is is what it begins with.
fn trouble(trouble: Trouble) -> Error {
    let (Trouble::Retry(why) | Trouble::Away(why) | Trouble::Reject(why) | Trouble::Listed(why) | Trouble::Lost(why)) =
        trouble;
    match why.strip_prefix("primary: ") {
        Some(why) => Error::Primary(why.to_owned()),
        None => Error::Secondary(why.strip_prefix("secondary: ").map(str::to_owned).unwrap_or(why)),
    }
}

/// A table's shape with what is asked of it.
fn shape(table: &Table) -> Shape {
    Shape::of(&table.shape)
}
