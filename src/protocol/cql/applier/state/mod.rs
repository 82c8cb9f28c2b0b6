//! A place made equal by its state: read on the secondary, then on the primary, what differs is written, and again until
//! nothing does.
//!
//! Nothing is held meanwhile. The secondary is read first, so whatever it has from the mirror the primary shows as well;
//! what the primary got since is written with its own timestamp, as the mirror will write it too. Counters are different:
//! only the owner of the place adds to the secondary's, and what is added is the difference of both readings.

pub(super) mod diff;
pub(super) mod expiry;
pub(in crate::protocol::cql) mod rows;
pub(super) mod statement;

use std::collections::{BTreeMap, BTreeSet};

use crate::mirror::replay::{Certainty, Job};
use crate::protocol::cql::client::{Answer, Client, Error, Member, MemberText};
use crate::protocol::cql::cluster::Cluster;
use crate::protocol::cql::look::{Decided, Look};
use crate::protocol::cql::place::{Extent, Place};
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::tables::Table;
use crate::protocol::cql::text::schema::Column;
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{BatchKind, Bound, Parameters, Values};
use crate::protocol::cql::wire::response::code;
use crate::protocol::cql::wire::{self, Version};
use crate::record::Backend;

use super::quiet::{calm, linger};
use super::trouble::Trouble;
use super::{Sides, said};
use diff::Moment;
use expiry::Search;
use rows::{Cell, Clustering, End, Form, Rows, columns, selectors};
use statement::{Names, Statement, relations};

/// How often a place is compared before others get their turn.
const ROUNDS: usize = 6;
/// Rows of a page.
const PAGE: i32 = 500;
/// Rows of one place that are kept at once.
const ROWS_MAX: usize = 50_000;
/// Statements of one batch.
const BATCH: usize = 50;
/// How often a row is made to end when the primary's does.
const ENDS_TRIED: usize = 3;
const TOO_LARGE: &str = "a partition has too many rows to be settled at once: compare the table";
pub(super) const LEVEL: Consistency = Consistency::LocalQuorum;

/// Settles places of one table.
pub(super) struct Settler<'s> {
    sides: &'s Sides,
    table: &'s Table,
    occasion: Occasion,
    names: Names,
}

/// One side's content of a place.
#[derive(Default)]
pub(super) struct Side {
    pub(super) statics: Option<Vec<Cell>>,
    pub(super) rows: Rows,
    /// When rows end by themselves, but for those that stay; `None`: nobody looked.
    pub(super) row_ends: Option<BTreeMap<Clustering, End>>,
    /// How each column is compared.
    pub(super) static_forms: Vec<Form>,
    pub(super) forms: Vec<Form>,
}

impl Side {
    /// When this row ends, if somebody looked.
    fn row_end(&self, key: &Clustering) -> Option<End> {
        self.row_ends.as_ref().map(|ends| ends.get(key).copied().unwrap_or_default())
    }
}

/// Why places are settled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Occasion {
    /// Something that concerns the place may still be going on, on the primary.
    is_doubtful: bool,
    /// It was tried before.
    is_again: bool,
    /// The newest timestamp that was written with, if it is known.
    newest: Option<i64>,
    /// See [`Moment`].
    allowed: Option<i64>,
    /// How the primary is read.
    pub(super) look: Look,
    /// How that is decided.
    decided: Decided,
}

impl Occasion {
    pub(super) fn of(job: &Job, newest: Option<i64>, look: Look) -> Occasion {
        // What we owe ourselves wrote nothing: it says how far an operator lets us go.
        let is_ours = job.record.backend == Backend { id: 0, life: 0 };
        let (newest, allowed) = if is_ours { (None, newest) } else { (newest, None) };
        let is_doubtful = job.certainty == Certainty::Unknown;
        // Fewer replicas may have it than had to acknowledge it; and of what we owe ourselves nobody knows how it was written:
        // what a quorum lacks is not deleted from the other side while a replica has it.
        let look = if is_doubtful || is_ours { Look::All } else { look };
        let decided = Decided::of_said(said(&job.record));
        Occasion { is_doubtful, is_again: job.attempt > 1, newest, allowed, look, decided }
    }
}

impl<'s> Settler<'s> {
    pub(super) fn new(sides: &'s Sides, table: &'s Table, occasion: Occasion) -> Settler<'s> {
        Settler { sides, table, occasion, names: Names::of(&table.shape) }
    }

    /// Until both sides are equal there.
    pub(super) async fn settle(&self, place: &Place) -> Result<(), Trouble> {
        let fits = place.partition.len() == self.names.partition.len()
            && (place.extent != Extent::Row || place.clustering.len() == self.names.clustering.len());
        if !fits {
            return Err(Trouble::Reject("a place has another key than its table: compare the table".to_owned()));
        }
        if self.occasion.is_doubtful {
            self.calm_down(place).await?;
        }
        let (mut before, mut tried) = (None, 0);
        for round in 0..ROUNDS {
            let mut moment =
                Moment { read: now_micros(), newest: self.occasion.newest, allowed: self.occasion.allowed, round };
            let theirs = self.read(&self.sides.to_secondary, place, moment, Trouble::of_secondary).await?;
            let mut ours = self.read(&self.sides.to_primary, place, moment, Trouble::of_primary).await?;
            // What the primary got since was not tried with its own timestamp yet.
            tried = if before.as_ref().is_some_and(|side| is_same(side, &ours)) { tried + 1 } else { 0 };
            moment.round = tried;
            self.find_ends(place, &mut ours, &theirs, moment).await?;
            let statements = self.statements(place, &ours, &theirs, moment)?;
            if statements.is_empty() {
                return Ok(());
            }
            // Others write on: what the primary showed last is there, and what came since brings records of its own. (Where many
            // count, the difference of two readings is never there.)
            let go_on = before.as_ref().is_some_and(|side| !is_same(side, &ours));
            let arrived = before.as_ref().is_some_and(|side| is_same(side, &theirs));
            if go_on && (arrived || (self.table.shape.has_counters() && round > 1)) {
                return Ok(());
            }
            self.write(&statements, moment).await?;
            before = Some(ours);
        }
        let again = if self.occasion.is_again { "still" } else { "again and again" };
        Err(Trouble::Retry(format!("both sides of a place in {} differ {again}", self.names.table)))
    }

    /// What was on its way to the primary has arrived or never will, and what Paxos began there is finished.
    async fn calm_down(&self, place: &Place) -> Result<(), Trouble> {
        calm(&self.sides.primary, self.table.shape.has_counters()).await;
        if self.table.shape.has_counters() {
            return Ok(());
        }
        let key = self.names.partition.first().map_or("*", String::as_str);
        let text = format!("SELECT {key} FROM {} WHERE {} LIMIT 1", self.names.table, relations(&self.names.partition));
        let values = bound(&place.partition);
        for (level, is_awaited) in self.occasion.decided.levels() {
            let parameters = Parameters { values: Some(Values::Given(&values)), ..Parameters::new(*level) };
            match self.sides.to_primary.query(&text, &parameters).await {
                // Not every table can be asked so; then there was no Paxos either.
                Err(error) if error.code() == Some(code::INVALID) => return Ok(()),
                Err(error) if !is_awaited && are_away(&error) => {}
                other => drop(other.map_err(|error| Trouble::of_primary(&error))?),
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        client: &Client,
        place: &Place,
        moment: Moment,
        trouble: fn(&Error) -> Trouble,
    ) -> Result<Side, Trouble> {
        let side = async {
            let mut side = self.read_side(client, place, moment).await?;
            // Told of one side only, it could not be compared.
            if self.sees_ends() && expiry::is_hidden(&side) {
                let last = self.read_side(client, place, moment.in_second(expiry::LAST)).await?;
                expiry::mark(&mut side, &last)?;
            } else if self.sees_ends() {
                side.row_ends = Some(BTreeMap::new());
            }
            Ok(side)
        };
        side.await.map_err(|error| match error {
            Error::Answer(_) => Trouble::Reject(error.to_string()),
            error => trouble(&error),
        })
    }

    /// Both sides can be asked what they will show.
    fn sees_ends(&self) -> bool {
        [&self.sides.to_primary, &self.sides.to_secondary].iter().all(|client| client.version() >= Version::V5)
    }

    /// When that ends which is about to be written and of which no server tells.
    async fn find_ends(&self, place: &Place, ours: &mut Side, theirs: &Side, moment: Moment) -> Result<(), Trouble> {
        let unreadable = |error: wire::Error| Trouble::Reject(error.to_string());
        let by_default = i64::from(self.table.default_ttl);
        let guess = self.occasion.newest.filter(|_| by_default > 0).map(|newest| newest / 1_000_000 + by_default);
        let Some(mut search) = Search::of(ours, theirs, moment, guess).map_err(unreadable)? else { return Ok(()) };
        while let Some(second) = search.question() {
            let then = self.read_side(&self.sides.to_primary, place, moment.in_second(second)).await;
            match then {
                Ok(then) => search.answer(second, &then).map_err(unreadable)?,
                // What has expired by then are tombstones, of which it reads only so many.
                Err(error) if error.code() == Some(code::READ_FAILURE) => search.give_up(),
                Err(error) => return Err(Trouble::of_primary(&error)),
            }
        }
        search.tell(ours);
        Ok(())
    }

    pub(super) async fn read_side(&self, client: &Client, place: &Place, moment: Moment) -> Result<Side, Error> {
        let shape = &self.table.shape;
        let mut side = Side::default();
        let statics = columns(shape, true);
        if !statics.is_empty() {
            let text = self.select("DISTINCT ", &selectors(&[], &statics), &self.names.partition);
            let answer = &self.ask(client, &text, &place.partition, moment).await?[0];
            side.static_forms = forms(answer, &statics, 0)?;
            side.statics = answer.row()?.and_then(|row| rows::read(&row, 0, &statics)).map(|(_, cells)| cells);
        }
        if place.extent == Extent::Statics {
            return Ok(side);
        }
        let regular = columns(shape, false);
        let (named, given) = match place.extent {
            Extent::Row => (self.names.key(), [&place.partition[..], &place.clustering].concat()),
            _ => (self.names.partition.clone(), place.partition.clone()),
        };
        // A row that is nothing but its key must show.
        let key = if self.names.clustering.is_empty() { &self.names.partition } else { &self.names.clustering };
        let text = self.select("", &selectors(key, &regular), &named);
        for page in self.ask(client, &text, &given, moment).await? {
            side.forms = forms(&page, &regular, key.len())?;
            for row in page.rows()?.iter() {
                let Some((key, cells)) = rows::read(&row?, key.len(), &regular) else { continue };
                side.rows.insert(if self.names.clustering.is_empty() { Clustering::new() } else { key }, cells);
            }
            if side.rows.len() > ROWS_MAX {
                return Err(Error::Answer(TOO_LARGE));
            }
        }
        Ok(side)
    }

    fn select(&self, distinct: &str, selectors: &[String], named: &[String]) -> String {
        // With statics only, something has to be selected.
        let selectors = if selectors.is_empty() { self.names.partition.join(", ") } else { selectors.join(", ") };
        format!("SELECT {distinct}{selectors} FROM {} WHERE {}", self.names.table, relations(named))
    }

    async fn ask(&self, client: &Client, text: &str, key: &[Vec<u8>], moment: Moment) -> Result<Vec<Answer>, Error> {
        let (prepared, values) = (client.prepare(text, None).await?, bound(key));
        let mut pages: Vec<Answer> = Vec::new();
        loop {
            let paging_state = pages.last().and_then(Answer::paging_state);
            if paging_state.is_none() && !pages.is_empty() {
                return Ok(pages);
            }
            // Half a place is none: what was not read would seem to be gone.
            if pages.len() > ROWS_MAX / PAGE as usize {
                return Err(Error::Answer(TOO_LARGE));
            }
            let values = Some(Values::Given(&values));
            let parameters = Parameters { values, paging_state, page_size: Some(PAGE), ..at(client, moment) };
            let look = self.look(client);
            let consistency = look.map_or(parameters.consistency, Look::level);
            let page = match client.execute(&prepared, &Parameters { consistency, ..parameters }).await {
                // Those that are there show what there is to be had.
                Err(error) if look.is_some() && are_away(&error) => {
                    self.cluster_of(client).replicas_are_away();
                    client.execute(&prepared, &parameters).await?
                }
                page => page?,
            };
            pages.push(page);
        }
    }

    /// How a side is read, if it is read harder than others are. An increment of our own that was not answered may be on few of
    /// the secondary's replicas: what they do not show would be added twice.
    fn look(&self, client: &Client) -> Option<Look> {
        let Occasion { look, is_again, is_doubtful, .. } = self.occasion;
        let look = match std::ptr::eq(client, &self.sides.to_primary) {
            true => look,
            false if self.table.shape.has_counters() && (is_again || is_doubtful) => Look::All,
            false => Look::default(),
        };
        (look > Look::default() && self.cluster_of(client).has_all_replicas()).then_some(look)
    }

    fn cluster_of(&self, client: &Client) -> &Cluster {
        let Sides { primary, secondary, to_primary, .. } = self.sides;
        if std::ptr::eq(client, to_primary) { primary } else { secondary }
    }

    fn statements(&self, place: &Place, ours: &Side, theirs: &Side, moment: Moment) -> Result<Vec<Statement>, Trouble> {
        let unreadable = |error: wire::Error| Trouble::Reject(error.to_string());
        let mut statements = Vec::new();
        let statics = columns(&self.table.shape, true);
        if !statics.is_empty() {
            let nothing = vec![Cell::default(); statics.len()];
            let cells = |side: &'_ Side| side.statics.clone().unwrap_or_else(|| nothing.clone());
            let fixes = diff::of_cells(&ours.static_forms, &cells(ours), &cells(theirs), moment).map_err(unreadable)?;
            statements.extend(fixes.iter().map(|fix| self.names.statement(fix, &statics, &place.partition, None)));
        }
        let regular = columns(&self.table.shape, false);
        let keys: BTreeSet<&Clustering> = ours.rows.keys().chain(theirs.rows.keys()).collect();
        for key in keys {
            let [here, there] = [ours, theirs].map(|side| side.rows.get(key).map(Vec::as_slice));
            let end = ours.row_end(key);
            let fixes = diff::of_row(&ours.forms, here, there, end, moment);
            let mut fixes = fixes.map_err(unreadable)?;
            // What it is made of may end with it: first that. A column that only the secondary has can keep it there.
            if fixes.is_empty() && moment.round < ENDS_TRIED && diff::row_is_written(ours, theirs, key) {
                fixes.extend(here.map(|here| diff::appeared(here, end, moment)));
            }
            statements.extend(fixes.iter().map(|fix| self.names.statement(fix, &regular, &place.partition, Some(key))));
        }
        Ok(statements)
    }

    async fn write(&self, statements: &[Statement], moment: Moment) -> Result<(), Trouble> {
        let client = &self.sides.to_secondary;
        let counts = self.table.shape.has_counters();
        // In one partition a batch is one write. Counters and their deletes are not to be mixed in one.
        for some in statements.chunks(if counts { 1 } else { BATCH }) {
            let values: Vec<Vec<Bound<'_>>> = some.iter().map(|statement| statement.bound()).collect();
            let timestamp = counts.then_some(moment.read);
            let parameters = Parameters { timestamp, ..at(client, moment) };
            let members: Vec<Member<'_>> = some.iter().zip(&values).map(member).collect();
            let done = match members.as_slice() {
                [Member { text: MemberText::Text(text), values }] => {
                    client.query(text, &Parameters { values: Some(*values), ..parameters }).await
                }
                several => client.batch(BatchKind::Unlogged, several, &parameters).await,
            };
            if let Err(error) = done {
                linger(&error, &self.sides.secondary, counts).await;
                return Err(Trouble::of_secondary(&error));
            }
        }
        Ok(())
    }
}

/// Not as many replicas answered as were asked.
fn are_away(error: &Error) -> bool {
    matches!(error.code(), Some(code::UNAVAILABLE | code::READ_TIMEOUT | code::READ_FAILURE))
}

/// Nothing was written between the two readings, as far as it shows. What is left of a TTL gets less by itself.
fn is_same(before: &Side, now: &Side) -> bool {
    let is_same = |(here, there): (&Cell, &Cell)| (&here.value, here.writetime) == (&there.value, there.writetime);
    let cells = |here: &[Cell], there: &[Cell]| here.len() == there.len() && here.iter().zip(there).all(is_same);
    let rows = || before.rows.iter().zip(&now.rows).all(|(here, there)| here.0 == there.0 && cells(here.1, there.1));
    before.rows.len() == now.rows.len()
        && rows()
        && cells(before.statics.as_deref().unwrap_or_default(), now.statics.as_deref().unwrap_or_default())
}

/// Everything of one round happens in one second.
pub(super) fn at(client: &Client, moment: Moment) -> Parameters<'static> {
    let second = i32::try_from(moment.read / 1_000_000).unwrap_or(i32::MAX);
    Parameters { now_in_seconds: Some(second).filter(|_| client.version() >= Version::V5), ..Parameters::new(LEVEL) }
}

fn member<'a>((statement, values): (&'a Statement, &'a Vec<Bound<'a>>)) -> Member<'a> {
    Member { text: MemberText::Text(&statement.text), values: Values::Given(values) }
}

pub(super) fn bound(key: &[Vec<u8>]) -> Vec<Bound<'_>> {
    key.iter().map(|value| (None, Value::Set(value.as_slice()))).collect()
}

/// How the columns of an answer are compared: they come behind `skip` others, each with its timestamp and expiry if it is
/// one cell.
pub(super) fn forms(answer: &Answer, columns: &[&Column], skip: usize) -> Result<Vec<Form>, Error> {
    let names = answer.rows()?.metadata.columns.ok_or(Error::Answer("an answer does not say its columns"))?;
    let form = |column: &&Column| {
        let found = names.iter().skip(skip).find(|shown| shown.name == column.name);
        let found = found.ok_or(Error::Answer("an answer lacks a column"))?;
        Ok(Form::of(column.cells, &found.kind()))
    };
    columns.iter().map(form).collect()
}
