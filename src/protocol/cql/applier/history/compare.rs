//! A stretch of the ring on both sides, side by side.
//!
//! Lines with another token stand alone. Of those with the same, what is in front on both sides is the same if its bytes
//! are; otherwise lines wait for their counterpart, one from each side at a time, so that as many wait as differ. Nobody
//! has to know how servers order rows within a partition.
//!
//! Two cells are the same if their bytes are: `-0.0` is not `0.0`, a NaN is itself, `1.0` is not `1.00`. A collection that
//! is not frozen and empty is null, as it is for servers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::scan::{Line, Lines, Shape};
use super::{difference, moment, of_primary, of_secondary, shape};
use crate::backfill::work::{Chunk, Differs};
use crate::mirror::replay::history::{Compared, Error, Suspect};
use crate::protocol::cql::applier::Sides;
use crate::protocol::cql::applier::state::diff::expire_together;
use crate::protocol::cql::applier::state::rows::{Cell, Clustering};
use crate::protocol::cql::applier::state::{Occasion, Settler, Side};
use crate::protocol::cql::place::{Extent, Place};
use crate::protocol::cql::tables::Table;
use crate::protocol::cql::text::schema;

/// Rows that differ and are kept at once.
const SUSPECTS_MAX: usize = 50_000;
/// Rows that are looked at again at once.
const LOOKS: usize = 32;

/// The secondary is read ahead of the primary nowhere: what differs is looked at again in any case.
pub(super) async fn compare(sides: &Sides, table: &Table, chunk: &Chunk) -> Result<Compared, Error> {
    let shape = shape(table);
    let moment = moment();
    let theirs = Lines::of(&shape, sides.to_secondary.clone(), chunk, moment).await.map_err(of_secondary)?;
    let ours = Lines::of(&shape, sides.to_primary.clone(), chunk, moment).await.map_err(of_primary)?;
    let mut pair = Pair { shape: &shape, ours, theirs, found: Compared::default(), group: Group::default() };
    while let Some(token) = pair.token().await? {
        pair.group(token).await?;
        if pair.found.crowd > 0 && chunk.is_divisible() {
            break;
        }
    }
    Ok(pair.found)
}

struct Pair<'s> {
    shape: &'s Shape,
    ours: Lines<'s>,
    theirs: Lines<'s>,
    found: Compared,
    group: Group,
}

/// What waits for its counterpart, of one token.
#[derive(Default)]
struct Group {
    /// By partition and clustering: ours, theirs.
    rows: HashMap<(Bytes, Bytes), [Option<Line>; 2]>,
    /// The first line of each partition, which says what is static.
    firsts: HashMap<Bytes, [Option<Line>; 2]>,
}

impl Pair<'_> {
    /// The least token that is in front.
    async fn token(&mut self) -> Result<Option<i64>, Error> {
        let ours = self.ours.peek().await.map_err(of_primary)?.map(|line| line.token);
        let theirs = self.theirs.peek().await.map_err(of_secondary)?.map(|line| line.token);
        Ok([ours, theirs].into_iter().flatten().min())
    }

    /// All lines of a token.
    async fn group(&mut self, token: i64) -> Result<(), Error> {
        loop {
            let ours = self.ours.peek().await.map_err(of_primary)?.filter(|line| line.token == token);
            let theirs = self.theirs.peek().await.map_err(of_secondary)?.filter(|line| line.token == token);
            match (ours, theirs) {
                (None, None) => break,
                (Some(ours), Some(theirs)) if ours.bytes == theirs.bytes => {
                    self.found.rows += 1;
                    // Lines that are the same show the same static columns, wherever they are in their partition.
                    let _ = (self.ours.pop(), self.theirs.pop());
                }
                (ours, theirs) => {
                    let (here, there) = (ours.is_some(), theirs.is_some());
                    let ours = if here { self.ours.pop() } else { None };
                    let theirs = if there { self.theirs.pop() } else { None };
                    ours.into_iter().for_each(|line| self.wait(line, 0, there));
                    theirs.into_iter().for_each(|line| self.wait(line, 1, here));
                }
            }
        }
        self.close();
        Ok(())
    }

    /// `may_come`: the other side is not through with the token, so that the counterpart may be on its way. When it is through
    /// nothing waits: a partition of any size that only one side has passes by.
    fn wait(&mut self, line: Line, side: usize, may_come: bool) {
        let key = self.shape.key(&line);
        if !self.shape.statics().is_empty() {
            let firsts = self.group.firsts.entry(key.0.clone()).or_default();
            firsts[side].get_or_insert_with(|| line.clone());
        }
        let waiting = self.group.rows.entry(key.clone()).or_default();
        waiting[side] = Some(line);
        if !may_come || matches!(waiting, [Some(_), Some(_)]) {
            let [ours, theirs] = self.group.rows.remove(&key).unwrap_or_default();
            self.row(ours.as_ref(), theirs.as_ref());
        }
    }

    /// What still waits has no counterpart.
    fn close(&mut self) {
        let Group { rows, firsts } = std::mem::take(&mut self.group);
        rows.values().for_each(|[ours, theirs]| self.row(ours.as_ref(), theirs.as_ref()));
        firsts.values().for_each(|[ours, theirs]| self.statics(ours.as_ref(), theirs.as_ref()));
    }

    fn row(&mut self, ours: Option<&Line>, theirs: Option<&Line>) {
        let read = |line: Option<&Line>| line.map(|line| self.shape.read(line));
        let (ours, theirs) = (read(ours), read(theirs));
        let key = [&ours, &theirs].into_iter().flatten().find_map(|found| {
            let (clustering, _) = found.row.as_ref()?;
            Some((found.partition.clone(), clustering.clone()))
        });
        // A partition that shows nothing but its static columns has no row.
        let Some((partition, clustering)) = key else { return };
        let (ours, theirs) = (ours.and_then(|found| found.row), theirs.and_then(|found| found.row));
        self.found.rows += u64::from(ours.is_some());
        let place = Place { extent: Extent::Row, partition, clustering };
        let (ours, theirs) = (ours.map(|(_, cells)| cells), theirs.map(|(_, cells)| cells));
        let found = suspect(self.shape.table(), &place, ours.as_deref(), theirs.as_deref());
        self.suspect(found);
    }

    /// Static columns that differ count as a row.
    fn statics(&mut self, ours: Option<&Line>, theirs: Option<&Line>) {
        let read = |line: Option<&Line>| line.map(|line| self.shape.read(line));
        let (ours, theirs) = (read(ours), read(theirs));
        let Some(partition) = [&ours, &theirs].into_iter().flatten().map(|found| found.partition.clone()).next() else {
            return;
        };
        let place = Place { extent: Extent::Statics, ..Place::partition(partition) };
        let (ours, theirs) = (ours.map(|found| found.statics), theirs.map(|found| found.statics));
        let found = suspect(self.shape.table(), &place, there(&ours), there(&theirs));
        self.found.rows += u64::from(found.as_ref().is_some_and(|one| one.difference.how != Differs::Extra));
        self.suspect(found);
    }

    /// Kept, or only counted.
    fn suspect(&mut self, found: Option<Suspect>) {
        let Some(found) = found else { return };
        if self.found.suspects.len() < SUSPECTS_MAX {
            return self.found.suspects.push(found);
        }
        self.found.crowd += 1;
        self.found.rows -= u64::from(found.difference.how != Differs::Extra);
    }
}

/// Static columns that are all null are not there.
fn there(statics: &Option<Vec<Cell>>) -> Option<&[Cell]> {
    statics.as_deref().filter(|cells| cells.iter().any(|cell| cell.value.is_some()))
}

/// What both sides show of a place, if it is not the same.
fn suspect(table: &schema::Table, place: &Place, ours: Option<&[Cell]>, theirs: Option<&[Cell]>) -> Option<Suspect> {
    let how = match (ours, theirs) {
        (None, None) => return None,
        (Some(_), None) => Differs::Missing,
        (None, Some(_)) => Differs::Extra,
        (Some(ours), Some(theirs)) if ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs)) => {
            return None;
        }
        (Some(_), Some(_)) => Differs::Different,
    };
    let mut print = DefaultHasher::new();
    for cells in [ours, theirs] {
        // What is left of a TTL gets less by itself.
        let lasting = cells.map(|cells| cells.iter().map(|cell| (&cell.value, cell.writetime)).collect::<Vec<_>>());
        lasting.hash(&mut print);
    }
    Some(Suspect { difference: difference(how, place, table)?, print: print.finish() })
}

/// The same value, for as long.
fn is_same(ours: &Cell, theirs: &Cell) -> bool {
    ours.value == theirs.value && expire_together(ours.ttl, theirs.ttl)
}

/// Each of these rows again, on the secondary first.
pub(super) async fn look(sides: &Sides, table: &Table, suspects: &[Suspect]) -> Result<Vec<Option<Suspect>>, Error> {
    let settler = Settler::new(sides, table, Occasion::default());
    let looks = suspects.iter().map(|suspect| look_at(&settler, sides, table, suspect).boxed());
    stream::iter(looks.collect::<Vec<_>>()).buffered(LOOKS).try_collect().await
}

async fn look_at(
    settler: &Settler<'_>,
    sides: &Sides,
    table: &Table,
    before: &Suspect,
) -> Result<Option<Suspect>, Error> {
    let Some(place) = Place::decode(&before.difference.key) else { return Ok(None) };
    let moment = moment();
    let theirs = settler.read_side(&sides.to_secondary, &place, moment).await.map_err(of_secondary)?;
    let ours = settler.read_side(&sides.to_primary, &place, moment).await.map_err(of_primary)?;
    let cells = |side: &Side| match place.extent {
        Extent::Statics => there(&side.statics).map(<[Cell]>::to_vec),
        _ => side.rows.get(&place.clustering as &Clustering).cloned(),
    };
    Ok(suspect(&table.shape, &place, cells(&ours).as_deref(), cells(&theirs).as_deref()))
}
