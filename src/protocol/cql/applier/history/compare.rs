//! A stretch of the ring on both sides, side by side.
//!
//! Lines with another token stand alone. Of those with the same, what is in front on both sides is the same if its bytes
//! are; otherwise lines wait for their counterpart, one from each side at a time, so that as many wait as differ. Nobody
//! has to know how servers order rows within a partition. Where too much would wait (another order, or a wide partition of which
//! a side lacks the beginning), what waits is suspected as it is, and looked at again row by row.
//!
//! What is asked for decides whether times count beside values ([`Compares`]).
//!
//! Two cells are the same if their bytes are: `-0.0` is not `0.0`, a NaN is itself, `1.0` is not `1.00`. A collection that
//! is not frozen and empty is null, as it is for servers.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::scan::{Line, Lines, Shape};
use super::{Terms, difference, moment, of_primary, read_on_secondary, shape, weight};
use crate::backfill::work::{Chunk, Compares, Differs};
use crate::mirror::replay::history::{Compared, Error, Suspect};
use crate::protocol::cql::applier::Sides;
use crate::protocol::cql::applier::state::diff::{TTL_SLACK, expire_together};
use crate::protocol::cql::applier::state::rows::{Cell, Clustering};
use crate::protocol::cql::applier::state::{Occasion, Settler, Side};
use crate::protocol::cql::place::{Extent, Place};
use crate::protocol::cql::tables::Table;
use crate::protocol::cql::text::schema;

/// Rows that differ and are kept at once.
const SUSPECTS_MAX: usize = 50_000;
/// About the bytes of lines that wait for their counterparts.
const WAITING_BYTES: usize = 8 << 20;
/// What a line takes beside its bytes while it waits.
const LINE_BYTES: usize = 256;
/// Rows that are looked at again at once.
const LOOKS: usize = 32;

/// The secondary is read ahead of the primary nowhere: what differs is looked at again in any case.
pub(super) async fn compare(sides: &Sides, table: &Table, chunk: &Chunk, terms: &Terms) -> Result<Compared, Error> {
    let shape = shape(table);
    let moment = terms.moment;
    let theirs = Lines::of(&shape, sides.to_secondary.clone(), chunk, moment).await.map_err(read_on_secondary)?;
    let ours = Lines::of(&shape, sides.to_primary.clone(), chunk, moment).await.map_err(of_primary)?;
    let mut pair =
        Pair { ours, theirs, matched: Matched::new(&shape, chunk.compares, terms.keys_bytes, WAITING_BYTES) };
    while let Some(token) = pair.token().await? {
        pair.group(token).await?;
        if pair.matched.found.crowd > 0 && chunk.is_divisible() {
            break;
        }
    }
    Ok(pair.matched.into_compared())
}

struct Pair<'s> {
    ours: Lines<'s>,
    theirs: Lines<'s>,
    matched: Matched<'s>,
}

/// What both sides have shown so far, line by line.
struct Matched<'s> {
    shape: &'s Shape,
    compares: Compares,
    found: Compared,
    keys_bytes: usize,
    kept_bytes: usize,
    group: Group,
    waiting_max: usize,
    /// Lines were not waited with to the end: the counterpart of one that is suspected may be suspected too.
    was_too_much: bool,
}

/// What waits for its counterpart, of one token.
#[derive(Default)]
struct Group {
    /// By partition and clustering: ours, theirs.
    rows: HashMap<(Bytes, Bytes), [Option<Line>; 2]>,
    /// About what they take.
    rows_bytes: usize,
    /// The first line of each partition, which says what is static.
    firsts: HashMap<Bytes, [Option<Line>; 2]>,
}

impl Pair<'_> {
    /// The least token that is in front.
    async fn token(&mut self) -> Result<Option<i64>, Error> {
        let ours = self.ours.peek().await.map_err(of_primary)?.map(|line| line.token);
        let theirs = self.theirs.peek().await.map_err(read_on_secondary)?.map(|line| line.token);
        Ok([ours, theirs].into_iter().flatten().min())
    }

    /// All lines of a token.
    async fn group(&mut self, token: i64) -> Result<(), Error> {
        loop {
            let ours = self.ours.peek().await.map_err(of_primary)?.filter(|line| line.token == token);
            let theirs = self.theirs.peek().await.map_err(read_on_secondary)?.filter(|line| line.token == token);
            match (ours, theirs) {
                (None, None) => break,
                (Some(ours), Some(theirs)) if ours.bytes == theirs.bytes => {
                    self.matched.found.rows += 1;
                    // Lines that are the same show the same static columns, wherever they are in their partition.
                    let _ = (self.ours.pop(), self.theirs.pop());
                }
                (ours, theirs) => {
                    let (here, there) = (ours.is_some(), theirs.is_some());
                    let ours = if here { self.ours.pop() } else { None };
                    let theirs = if there { self.theirs.pop() } else { None };
                    ours.into_iter().for_each(|line| self.matched.add(line, 0, there));
                    theirs.into_iter().for_each(|line| self.matched.add(line, 1, here));
                }
            }
        }
        self.matched.close();
        Ok(())
    }
}

impl<'s> Matched<'s> {
    fn new(shape: &'s Shape, compares: Compares, keys_bytes: usize, waiting_max: usize) -> Matched<'s> {
        let (found, group) = (Compared::default(), Group::default());
        Matched { shape, compares, found, keys_bytes, kept_bytes: 0, group, waiting_max, was_too_much: false }
    }

    fn into_compared(self) -> Compared {
        let mut found = self.found;
        if self.was_too_much {
            let mut seen = HashSet::new();
            found.suspects.retain(|suspect| seen.insert(suspect.difference.key.clone()));
        }
        found
    }

    /// `may_come`: the other side is not through with the token, so that the counterpart may be on its way. When it is through
    /// nothing waits: a partition of any size that only one side has passes by.
    fn add(&mut self, line: Line, side: usize, may_come: bool) {
        let key = self.shape.key(&line);
        if !self.shape.statics().is_empty() {
            // What is kept is none of its page, which would be kept with it.
            let firsts = self.group.firsts.entry(Bytes::copy_from_slice(&key.0)).or_default();
            firsts[side].get_or_insert_with(|| line.kept());
        }
        match self.group.rows.remove(&key) {
            Some(mut both) => {
                self.group.rows_bytes -= both.iter().flatten().map(waiting).sum::<usize>();
                both[side] = Some(line);
                self.row(both[0].as_ref(), both[1].as_ref());
            }
            None if may_come => self.wait(line.kept(), side),
            None => {
                let [ours, theirs] = if side == 0 { [Some(&line), None] } else { [None, Some(&line)] };
                self.row(ours, theirs);
            }
        }
    }

    fn wait(&mut self, line: Line, side: usize) {
        self.group.rows_bytes += waiting(&line);
        let mut alone = [None, None];
        let key = self.shape.key(&line);
        alone[side] = Some(line);
        self.group.rows.insert(key, alone);
        if self.group.rows_bytes > self.waiting_max {
            self.was_too_much = true;
            self.no_more();
        }
    }

    /// What waits is taken to have no counterpart.
    fn no_more(&mut self) {
        self.group.rows_bytes = 0;
        let rows = std::mem::take(&mut self.group.rows);
        rows.values().for_each(|[ours, theirs]| self.row(ours.as_ref(), theirs.as_ref()));
    }

    /// All of the token was there.
    fn close(&mut self) {
        self.no_more();
        let firsts = std::mem::take(&mut self.group.firsts);
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
        self.differ(&place, ours.as_deref(), theirs.as_deref());
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
        let (ours, theirs) = (there(&ours), there(&theirs));
        let differ = differ(&self.compares, ours, theirs);
        self.found.rows += u64::from(differ.is_some_and(|how| how != Differs::Extra));
        self.differ(&place, ours, theirs);
    }

    /// What differs is kept, or only counted.
    fn differ(&mut self, place: &Place, ours: Option<&[Cell]>, theirs: Option<&[Cell]>) {
        let Some(found) = suspect(self.shape.table(), &self.compares, place, ours, theirs) else { return };
        let is_ours = u64::from(found.difference.how != Differs::Extra);
        if is_old(&self.compares, ours, theirs) {
            self.found.left_out += 1;
        } else if self.found.suspects.len() < SUSPECTS_MAX && self.kept_bytes < self.keys_bytes {
            self.kept_bytes += weight(&found.difference);
            return self.found.suspects.push(found);
        } else {
            self.found.crowd += 1;
        }
        self.found.rows -= is_ours;
    }
}

/// About what a line takes while it waits.
fn waiting(line: &Line) -> usize {
    line.bytes.len() + LINE_BYTES
}

/// Static columns that are all null are not there.
fn there(statics: &Option<Vec<Cell>>) -> Option<&[Cell]> {
    statics.as_deref().filter(|cells| cells.iter().any(|cell| cell.value.is_some()))
}

/// How what both sides show of a place differs, if it does.
fn differ(compares: &Compares, ours: Option<&[Cell]>, theirs: Option<&[Cell]>) -> Option<Differs> {
    match (ours, theirs) {
        (None, None) => None,
        // It ends on both sides in a moment, or just did on one.
        (Some(cells), None) | (None, Some(cells)) if are_ending(cells) => None,
        (Some(_), None) => Some(Differs::Missing),
        (None, Some(_)) => Some(Differs::Extra).filter(|_| !compares.newer_stays),
        (Some(ours), Some(theirs)) => {
            let same = ours.iter().zip(theirs).all(|(ours, theirs)| is_same(compares, ours, theirs));
            Some(Differs::Different).filter(|_| !same)
        }
    }
}

/// Nothing of it was written since. What only the secondary has may be left of a delete, which no read shows.
fn is_old(compares: &Compares, ours: Option<&[Cell]>, theirs: Option<&[Cell]>) -> bool {
    let Some(since) = compares.since else { return false };
    // A time that cannot be read may be any.
    let old = |cell: &Cell| cell.value.is_none() || cell.writetime.is_some_and(|at| at < since);
    ours.is_some_and(|ours| ours.iter().any(|cell| cell.value.is_some()) && ours.iter().all(old))
        && theirs.unwrap_or_default().iter().all(old)
}

/// What both sides show of a place, if it is not the same.
fn suspect(
    table: &schema::Table,
    compares: &Compares,
    place: &Place,
    ours: Option<&[Cell]>,
    theirs: Option<&[Cell]>,
) -> Option<Suspect> {
    let how = differ(compares, ours, theirs)?;
    let mut print = DefaultHasher::new();
    for cells in [ours, theirs] {
        // What is left of a TTL gets less by itself.
        let lasting = cells.map(|cells| cells.iter().map(|cell| (&cell.value, cell.writetime)).collect::<Vec<_>>());
        lasting.hash(&mut print);
    }
    let valued = || [ours, theirs].into_iter().flatten().flatten().filter(|cell| cell.value.is_some());
    // A row that is nothing but its key shows no time.
    let is_dated = valued().next().is_some() && valued().all(|cell| cell.writetime.is_some());
    Some(Suspect { difference: difference(how, place, table)?, print: print.finish(), is_dated, times: 1 })
}

/// Whatever shows of a row ends in a moment. What is nothing but its key tells no end.
fn are_ending(cells: &[Cell]) -> bool {
    let mut valued = cells.iter().filter(|cell| cell.value.is_some()).peekable();
    valued.peek().is_some() && valued.all(is_ending)
}

/// Ends that are so near to each other are taken for the same, and one of them may be over.
fn is_ending(cell: &Cell) -> bool {
    cell.ttl.is_some_and(|left| left <= TTL_SLACK)
}

/// The same value, and what else must be.
fn is_same(compares: &Compares, ours: &Cell, theirs: &Cell) -> bool {
    match (&ours.value, &theirs.value) {
        (Some(_), None) if is_ending(ours) => return true,
        (None, Some(_)) if is_ending(theirs) => return true,
        _ => {}
    }
    if compares.newer_stays && theirs.writetime.is_some_and(|at| ours.writetime.is_none_or(|ours| ours < at)) {
        return true;
    }
    ours.value == theirs.value
        && (!compares.ttls || expire_together(ours.ttl, theirs.ttl))
        && (!compares.writetimes || ours.writetime == theirs.writetime)
}

/// Each of these rows again, on the secondary first.
pub(super) async fn look(
    sides: &Sides,
    table: &Table,
    chunk: &Chunk,
    suspects: &[Suspect],
) -> Result<Vec<Option<Suspect>>, Error> {
    let settler = Settler::new(sides, table, Occasion::default());
    let looks = suspects.iter().map(|suspect| look_at(&settler, (sides, table), &chunk.compares, suspect).boxed());
    stream::iter(looks.collect::<Vec<_>>()).buffered(LOOKS).try_collect().await
}

async fn look_at(
    settler: &Settler<'_>,
    (sides, table): (&Sides, &Table),
    compares: &Compares,
    before: &Suspect,
) -> Result<Option<Suspect>, Error> {
    let Some(place) = Place::decode(&before.difference.key) else { return Ok(None) };
    let moment = moment();
    let theirs = settler.read_side(&sides.to_secondary, &place, moment).await.map_err(read_on_secondary)?;
    let ours = settler.read_side(&sides.to_primary, &place, moment).await.map_err(of_primary)?;
    let cells = |side: &Side| match place.extent {
        Extent::Statics => there(&side.statics).map(<[Cell]>::to_vec),
        _ => side.rows.get(&place.clustering as &Clustering).cloned(),
    };
    Ok(suspect(&table.shape, compares, &place, cells(&ours).as_deref(), cells(&theirs).as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_in_another_order_is_found_equal_in_bounded_memory() {
        let column = |name, kind, place| schema::Column::described(name, kind, place, "int");
        let columns = vec![column("k", "partition_key", 0), column("c", "clustering", 0)];
        let shape = Shape::of(&schema::Table::new("shop", "t", columns));
        let line = |c: u32| {
            let values = [&7_i64.to_be_bytes()[..], &1_u32.to_be_bytes(), &c.to_be_bytes()];
            let bytes: Vec<u8> =
                values.iter().flat_map(|value| [&(value.len() as u32).to_be_bytes(), *value].concat()).collect();
            Line { token: 7, bytes: bytes.into() }
        };
        const ROWS: u32 = 1_000;
        for (waiting_max, suspected) in [(usize::MAX, 0), (100 * waiting(&line(0)), ROWS as usize)] {
            let mut matched = Matched::new(&shape, Compares::default(), usize::MAX, waiting_max);
            for c in 0..ROWS {
                matched.add(line(c), 0, true);
                matched.add(line(ROWS - 1 - c), 1, true);
                assert!(matched.group.rows_bytes <= waiting_max);
                assert_eq!(matched.group.rows_bytes, matched.group.rows.len() * waiting(&line(0)));
            }
            matched.close();
            let found = matched.into_compared();
            assert_eq!((found.rows, found.crowd), (u64::from(ROWS), 0));
            // Each row once at most, and the look at it tells.
            assert!(found.suspects.len() <= suspected, "{}", found.suspects.len());
        }
    }

    fn cell(value: &str, writetime: i64) -> Cell {
        Cell { value: Some(value.as_bytes().to_vec()), writetime: Some(writetime), ..Cell::default() }
    }

    fn differs(compares: &Compares, ours: Option<Cell>, theirs: Option<Cell>) -> Option<Differs> {
        differ(compares, ours.as_ref().map(std::slice::from_ref), theirs.as_ref().map(std::slice::from_ref))
    }

    #[test]
    fn times_count_as_far_as_they_are_asked_for() {
        let [values, ttls, writetimes] = [(false, false), (true, false), (true, true)]
            .map(|(ttls, writetimes)| Compares { ttls, writetimes, ..Compares::default() });
        let expires = Cell { ttl: Some(60), ..cell("a", 1) };
        let cases = [
            (cell("a", 1), cell("a", 1), [false, false, false]),
            (cell("a", 1), cell("a", 2), [false, false, true]),
            (cell("a", 1), expires, [false, true, true]),
            (cell("a", 1), cell("b", 1), [true, true, true]),
        ];
        for (ours, theirs, expected) in cases {
            let found = [values, ttls, writetimes]
                .map(|compares| differs(&compares, Some(ours.clone()), Some(theirs.clone())).is_some());
            assert_eq!(found, expected, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn what_ends_in_a_moment_may_have_ended_on_one_side() {
        let ends_in = |ttl| Cell { ttl: Some(ttl), ..cell("a", 1) };
        for (ttl, differ) in [(1, false), (TTL_SLACK, false), (TTL_SLACK + 1, true)] {
            let compares = Compares { ttls: true, writetimes: true, ..Compares::default() };
            let [missing, extra, gone] =
                [(Some(ends_in(ttl)), None), (None, Some(ends_in(ttl))), (Some(ends_in(ttl)), Some(Cell::default()))]
                    .map(|(ours, theirs)| differs(&compares, ours, theirs).is_some());
            assert_eq!([missing, extra, gone], [differ; 3], "{ttl}");
        }
        assert_eq!(
            differs(&Compares::default(), Some(Cell::default()), None),
            Some(Differs::Missing),
            "a key tells no end"
        );
        assert_eq!(differs(&Compares::default(), Some(cell("a", 1)), None), Some(Differs::Missing));
    }

    #[test]
    fn where_newer_stays_only_what_is_older_or_missing_differs() {
        let newer = Compares { newer_stays: true, ..Compares::default() };
        let collection = |value: &str| Cell { writetime: None, ..cell(value, 0) };
        assert_eq!(differs(&newer, Some(cell("a", 1)), Some(cell("b", 2))), None);
        assert_eq!(differs(&newer, Some(Cell::default()), Some(cell("b", 2))), None);
        assert_eq!(differs(&newer, None, Some(cell("b", 2))), None);
        assert_eq!(differs(&newer, Some(cell("a", 2)), Some(cell("b", 1))), Some(Differs::Different));
        assert_eq!(differs(&newer, Some(cell("a", 2)), None), Some(Differs::Missing));
        assert_eq!(differs(&newer, Some(collection("a")), Some(collection("b"))), Some(Differs::Different));
    }

    #[test]
    fn a_row_is_old_if_every_time_of_it_can_be_read_and_is() {
        let compares = Compares { since: Some(10), ..Compares::default() };
        let is_old = |ours: &[Cell], theirs: Option<&[Cell]>| is_old(&compares, Some(ours), theirs);
        assert!(is_old(&[cell("a", 9)], None) && is_old(&[cell("a", 9), Cell::default()], Some(&[cell("b", 1)])));
        assert!(!is_old(&[cell("a", 10)], None) && !is_old(&[cell("a", 9)], Some(&[cell("b", 10)])));
        assert!(!is_old(&[Cell { writetime: None, ..cell("a", 0) }], None), "a collection");
        assert!(!is_old(&[Cell::default()], None), "nothing but its key");
        assert!(!super::is_old(&compares, None, Some(&[cell("b", 1)])), "a delete may have been missed");
        assert!(!super::is_old(&Compares::default(), Some(&[cell("a", 1)]), None));
    }
}
