//! Rows of the primary, written to the secondary with the timestamps and expiries that they have.
//!
//! Nobody is asked what the secondary has: what is older there loses, what is newer wins, and a delete that was mirrored
//! while the row was on its way hides it. What is written is written again without harm, so a batch that fails is tried
//! again; and a chunk that fails ends only when nothing of it can arrive any more. Where a worker writes, that holds for its lease
//! and what the servers may take behind it (`backfill/crew`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{sleep, timeout};

use super::beside::Beside;
use super::ring::tokens;
use super::scan::{Forms, Found, Lines, Shape};
use super::{GRACE_MIN, Terms, difference, lent, of_primary, shape, weight, written_on_secondary};
use crate::backfill::crew::Lease;
use crate::backfill::work::{Chunk, Differs, Landed, Outcome};
use crate::mirror::replay::history::{By, Error};
use crate::protocol::cql::applier::Sides;
use crate::protocol::cql::applier::quiet::calm;
use crate::protocol::cql::applier::state::at;
use crate::protocol::cql::applier::state::diff::{self, Moment};
use crate::protocol::cql::applier::state::expiry::LAST;
use crate::protocol::cql::applier::state::rows::{Cell, End, Form};
use crate::protocol::cql::applier::state::statement::Statement;
use crate::protocol::cql::applier::trouble::Trouble;
use crate::protocol::cql::client::{self, Client, Member, MemberText, Prepared};
use crate::protocol::cql::place::{Extent, Place};
use crate::protocol::cql::tables::Table;
use crate::protocol::cql::text::schema;
use crate::protocol::cql::wire::request::{BatchKind, Bound, Parameters, Values};
use crate::protocol::cql::wire::{self, Version};

/// Batches under way at once.
const FLIGHT: usize = 64;
/// Statements of a batch, and about the bytes of it: servers warn of more than 5 KiB only across partitions, and refuse
/// 50 KiB; one row may be larger than that and goes alone.
const BATCH: usize = 50;
const BATCH_BYTES: usize = 20 << 10;
/// Rows of one chunk that the secondary refuses, before its table is left out.
const REFUSED_MAX: usize = 1_000;
/// How often a batch is tried.
const TRIES: u32 = 3;
/// Before the second time; longer before the next.
const PAUSE: Duration = Duration::from_millis(200);

const NO_NEWER_ENDS: &str = "it has sets, maps, user types or rows of nothing but their key of which something expires: what is newer \
    there cannot be told, say error or overwrite";
const NO_NEWER_REFUSED: &str = "the target refuses rows of it, and to try them one by one would replace what is newer there: say error \
    or overwrite";
/// In microseconds, older than what any client wrote.
const OLDEST: i64 = 1;

pub(super) async fn copy(
    sides: &Sides,
    beside: &Beside,
    table: &Table,
    chunk: &Chunk,
    by: By,
) -> Result<Outcome, Error> {
    // Whoever copies: until it is over there as well.
    let under_way = beside.copy(table.label, tokens(chunk));
    let terms = Terms::ours();
    let landed = match lent::copy(sides, table, chunk, by, terms.moment).await? {
        Some(landed) => landed,
        None => copy_rows(sides, table, chunk, &terms).await?,
    };
    if landed.refused.len() > REFUSED_MAX {
        return Ok(Outcome::Refused(Vec::new(), format!("the target refuses more than {REFUSED_MAX} of its rows")));
    }
    if chunk.compares.newer_stays
        && let Some(why) = overwrites(&landed)
    {
        return Ok(Outcome::Refused(Vec::new(), why.to_owned()));
    }
    if landed.crowd > 0 && chunk.is_divisible() {
        return Ok(Outcome::Dense);
    }
    // What is not written here brings nothing back.
    let settled = if is_left_to_mirror(table) { Some(BTreeSet::new()) } else { under_way.end() };
    Ok(beside_settled(landed, settled, (chunk, &table.shape)))
}

/// What is left to the mirror it makes equal as a whole, with what is newer on the secondary: why that is not to be.
fn overwrites(landed: &Landed) -> Option<&'static str> {
    match landed {
        _ if landed.crowd > 0 || !landed.differing.is_empty() => Some(NO_NEWER_ENDS),
        _ if !landed.refused.is_empty() => Some(NO_NEWER_REFUSED),
        _ => None,
    }
}

/// Nothing of the table is written here: all of its rows are left to the mirror.
pub(super) fn is_left_to_mirror(table: &Table) -> bool {
    table.shape.has_counters() || table.gc_grace_seconds < GRACE_MIN
}

/// What came of a chunk of which these places were settled by state meanwhile; `None`: too many to be kept.
fn beside_settled(
    mut landed: Landed,
    settled: Option<BTreeSet<Box<[u8]>>>,
    (chunk, table): (&Chunk, &schema::Table),
) -> Outcome {
    match settled {
        None if chunk.is_divisible() => return Outcome::Dense,
        // It is compared when the mirror is through with it.
        None => landed.crowd += 1,
        Some(settled) => {
            let places = settled.iter().filter_map(|key| Place::decode(key));
            landed.differing.extend(places.filter_map(|place| difference(Differs::Different, &place, table)));
        }
    }
    Outcome::Done(landed)
}

/// What needs both clusters and nothing else. If it fails, nothing of it is under way any more.
pub(super) async fn copy_rows(sides: &Sides, table: &Table, chunk: &Chunk, terms: &Terms) -> Result<Landed, Error> {
    let shape = shape(table);
    let by_state = is_left_to_mirror(table);
    let moment = terms.moment;
    // Where newer stays, what shows no time of its own is newer than nothing: what an older delete takes of it is missing, and
    // found; what it took from others would be found by nobody.
    let newest = if chunk.compares.newer_stays { Some(OLDEST) } else { moment.newest };
    let written = Moment { newest, ..moment };
    let lines = |moment| Lines::of(&shape, sides.to_primary.clone(), chunk, moment);
    let may_ask = !by_state && sides.to_primary.version() >= Version::V5;
    // Of collections no column tells what stays.
    let hidden = shape.regular().is_empty() || table.shape.columns().iter().any(|column| column.cells.has_parts());
    let (landed, batch) = (Landed::default(), Batch::default());
    let is_divisible = chunk.is_divisible();
    let mut copy =
        Copy { shape: &shape, by_state, may_ask, is_divisible, written, terms, landed, left_bytes: 0, batch };
    let mut flight = Flight::new();
    let ended = async {
        let mut asks = may_ask && hidden;
        loop {
            let last = match asks {
                true => Some(lines(moment.in_second(LAST)).await.map_err(of_primary)?),
                false => None,
            };
            let lines = lines(moment).await.map_err(of_primary)?;
            match copy.run(lines, last, &sides.to_secondary, &mut flight).await? {
                Ran::Through => return Ok(()),
                Ran::Unsure => asks = true,
            }
            (copy.landed, copy.left_bytes, copy.batch) = (Landed::default(), 0, Batch::default());
        }
    };
    let mut failed = ended.await.err();
    while let Some(written) = flight.next().await {
        failed = failed.or(copy.written(written).err());
    }
    match failed {
        None => Ok(copy.landed),
        Some(error) => {
            calm(&sides.secondary, false).await;
            Err(error)
        }
    }
}

struct Copy<'s> {
    shape: &'s Shape,
    /// Nothing of this table is written here.
    by_state: bool,
    /// The primary can be asked what stays.
    may_ask: bool,
    is_divisible: bool,
    /// With which what has no time of its own is written.
    written: Moment,
    terms: &'s Terms,
    landed: Landed,
    left_bytes: usize,
    batch: Batch,
}

/// Statements of one partition, and the places that they write.
#[derive(Default)]
struct Batch {
    statements: Vec<Statement>,
    bytes: usize,
    places: Vec<Place>,
}

/// How a run through the chunk ended.
enum Ran {
    Through,
    /// A row may end with its cells, or stay, and what stays was not asked for: in most chunks of most tables nothing expires. What
    /// was sent is sent again.
    Unsure,
}

/// What of a row is there in the last second.
enum Stays {
    /// Nobody asked.
    Unknown,
    Nothing,
    This(Found),
}

impl Stays {
    fn statics(&self) -> Option<Option<&[Cell]>> {
        match self {
            Stays::Unknown => None,
            Stays::Nothing => Some(None),
            Stays::This(found) => Some(Some(&found.statics)),
        }
    }

    fn row(&self) -> Option<Option<&[Cell]>> {
        match self {
            Stays::Unknown => None,
            Stays::Nothing => Some(None),
            Stays::This(found) => Some(found.row.as_ref().map(|(_, cells)| cells.as_slice())),
        }
    }
}

type Flight = FuturesUnordered<BoxFuture<'static, Written>>;

/// What came of a batch.
enum Written {
    Done,
    /// The secondary has judged it.
    Refused(Vec<Place>),
    Failed(Error),
}

impl<'s> Copy<'s> {
    async fn run(
        &mut self,
        mut lines: Lines<'_>,
        mut last: Option<Lines<'_>>,
        client: &Client,
        flight: &mut Flight,
    ) -> Result<Ran, Error> {
        let mut partition = Bytes::new();
        while let Some(line) = lines.next().await.map_err(of_primary)? {
            let (key, _) = self.shape.key(&line);
            let is_new = key != partition;
            partition = key;
            let found = self.shape.read(&line);
            if self.may_ask && last.is_none() && found.may_expire() {
                return Ok(Ran::Unsure);
            }
            let stays = match &mut last {
                Some(last) => last
                    .same(&line)
                    .await
                    .map_err(of_primary)?
                    .map_or(Stays::Nothing, |line| Stays::This(self.shape.read(&line))),
                None => Stays::Unknown,
            };
            self.landed.bytes += line.bytes.len() as u64;
            self.landed.rows += u64::from(found.row.is_some());
            if is_new || self.batch.is_full() {
                self.send(client, flight).await?;
            }
            self.add(&found, &stays, &lines.forms, is_new).map_err(|error| Error::Primary(error.to_string()))?;
            if self.landed.refused.len() > REFUSED_MAX || (self.is_divisible && self.landed.crowd > 0) {
                break;
            }
        }
        self.send(client, flight).await?;
        Ok(Ran::Through)
    }

    async fn send(&mut self, client: &Client, flight: &mut Flight) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        if batch.statements.is_empty() {
            return Ok(());
        }
        while flight.len() >= FLIGHT {
            if let Some(written) = flight.next().await {
                self.written(written)?;
            }
        }
        flight.push(write(client.clone(), batch, self.terms.moment, self.terms.lease.clone()).boxed());
        Ok(())
    }

    fn written(&mut self, written: Written) -> Result<(), Error> {
        match written {
            Written::Done => Ok(()),
            Written::Refused(places) => {
                self.landed.refused.extend(places.iter().filter_map(|place| Some(place.encode()?.to_vec().into())));
                Ok(())
            }
            Written::Failed(error) => Err(error),
        }
    }

    /// A line; its static columns with the first one of a partition.
    fn add(&mut self, found: &Found, stays: &Stays, forms: &Forms, is_first: bool) -> Result<(), wire::Error> {
        let statics = self.shape.statics();
        if is_first && found.statics.iter().any(|cell| cell.value.is_some()) {
            let place = Place { extent: Extent::Statics, ..Place::partition(found.partition.clone()) };
            let cells = self.leave(&forms.statics, &found.statics, stays.statics(), &place);
            let fixes = diff::of_cells(&forms.statics, &cells, &vec![Cell::default(); cells.len()], self.written)?;
            let statement = |fix| self.shape.names.statement(fix, &statics, &found.partition, None);
            let statements = fixes.iter().filter(|_| !self.by_state).map(statement).collect();
            self.batch.add(statements, place);
        }
        let Some((clustering, cells)) = &found.row else { return Ok(()) };
        let place = Place { extent: Extent::Row, partition: found.partition.clone(), clustering: clustering.clone() };
        let cells = self.leave(&forms.regular, cells, stays.row(), &place);
        let is_bare = cells.iter().all(|cell| cell.value.is_none());
        let end = match stays.row() {
            // It lives as long as what it consists of.
            Some(None) if !is_bare => None,
            Some(None) => {
                self.leave_to_mirror(&place);
                return Ok(());
            }
            Some(Some(_)) => Some(End::Never),
            None => None,
        };
        let fixes = diff::of_row(&forms.regular, Some(&cells), None, end, self.written)?;
        let regular = self.shape.regular();
        let statement = |fix| self.shape.names.statement(fix, &regular, &found.partition, Some(clustering));
        let statements = fixes.iter().filter(|_| !self.by_state).map(statement).collect();
        self.batch.add(statements, place);
        Ok(())
    }

    /// What of these cells is to be written here; for the others, their place is left to the mirror: lists, and collections
    /// of which something expires. `stays`: what of them does not, if that is known.
    fn leave(&mut self, forms: &[Form], cells: &[Cell], stays: Option<Option<&[Cell]>>, place: &Place) -> Vec<Cell> {
        let lasts = |column: usize| stays.is_none_or(|stays| stays.is_some_and(|stays| stays[column] == cells[column]));
        let is_left = |column: usize| match &forms[column] {
            Form::List => cells[column].value.is_some(),
            form => form.has_parts() && cells[column].value.is_some() && !lasts(column),
        };
        if self.by_state || (0..cells.len()).any(is_left) {
            self.leave_to_mirror(place);
        }
        let written = |column| if is_left(column) { Cell::default() } else { cells[column].clone() };
        (0..cells.len()).map(written).collect()
    }

    fn leave_to_mirror(&mut self, place: &Place) {
        // Of what is beyond, the chunk's next look finds more.
        if self.left_bytes >= self.terms.keys_bytes {
            self.landed.crowd += 1;
            return;
        }
        let Some(left) = difference(Differs::Missing, place, self.shape.table()) else { return };
        self.left_bytes += weight(&left);
        self.landed.differing.push(left);
    }
}

impl Batch {
    fn add(&mut self, statements: Vec<Statement>, place: Place) {
        if statements.is_empty() {
            return;
        }
        let bytes = |statement: &Statement| statement.values.iter().flatten().map(Vec::len).sum::<usize>();
        self.bytes += statements.iter().map(bytes).sum::<usize>();
        self.statements.extend(statements);
        self.places.push(place);
    }

    fn is_full(&self) -> bool {
        self.statements.len() >= BATCH || self.bytes >= BATCH_BYTES
    }
}

/// Written again while it fails; all of it has the timestamps of the primary.
async fn write(client: Client, batch: Batch, moment: Moment, lease: Lease) -> Written {
    let mut tries = 0;
    loop {
        tries += 1;
        let over = || Written::Failed(Error::Secondary("the chunk was lent, and its lease is over".to_owned()));
        let Some(left) = lease.left() else { return over() };
        let Ok(written) = timeout(left, write_once(&client, &batch, moment)).await else { return over() };
        let Err(error) = written else { return Written::Done };
        match Trouble::of_secondary(&error) {
            Trouble::Reject(_) => return Written::Refused(batch.places),
            _ if tries == TRIES => return Written::Failed(written_on_secondary(error)),
            _ => sleep(PAUSE * tries).await,
        }
    }
}

async fn write_once(client: &Client, batch: &Batch, moment: Moment) -> Result<(), client::Error> {
    let mut prepared: Vec<Arc<Prepared>> = Vec::with_capacity(batch.statements.len());
    for statement in &batch.statements {
        prepared.push(client.prepare(&statement.text, None).await?);
    }
    let values: Vec<Vec<Bound<'_>>> = batch.statements.iter().map(Statement::bound).collect();
    let parameters = at(client, moment);
    if let ([prepared], [values]) = (prepared.as_slice(), values.as_slice()) {
        let parameters = Parameters { values: Some(Values::Given(values)), ..parameters };
        return client.execute(prepared, &parameters).await.map(drop);
    }
    let member = |(prepared, values)| Member { text: MemberText::Prepared(prepared), values: Values::Given(values) };
    let members: Vec<Member<'_>> = prepared.iter().zip(values.iter().map(Vec::as_slice)).map(member).collect();
    client.batch(BatchKind::Unlogged, &members, &parameters).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::work::Pass;

    #[test]
    fn a_chunk_of_which_too_much_was_settled_is_done_in_smaller_parts_and_then_compared() {
        let columns = vec![schema::Column::described("k", "partition_key", 0, "int")];
        let table = schema::Table::new("shop", "t", columns);
        let became = |settled, to| beside_settled(Landed::default(), settled, (&Chunk::of(Pass::Copy, to), &table));
        assert_eq!(became(None, 2), Outcome::Dense);
        assert_eq!(became(None, 1), Outcome::Done(Landed { crowd: 1, ..Landed::default() }));
        let place = Place::partition(vec![vec![0, 0, 0, 4]]);
        let key: Box<[u8]> = place.encode().expect("short").to_vec().into();
        let Outcome::Done(landed) = became(Some(BTreeSet::from([key.clone()])), 2) else { panic!("it is done") };
        assert_eq!((landed.crowd, landed.differing.len(), &landed.differing[0].key), (0, 1, &key));
    }
}
