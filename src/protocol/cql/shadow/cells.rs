//! A row that is being written, looked at cell by cell with the timestamps of its cells: whether the secondary is only behind,
//! or wrong.
//!
//! Three answers say nothing of a row that changed in between, and little of one that shows the same twice: it may have been
//! another meanwhile. A cell's value with its timestamp is a *version*: of one cell none comes twice, and none comes back once
//! a newer one was there. Four looks are taken: the secondary's ([`Looks::early`]), the primary's, then, once the secondary
//! has all that this one saw, the secondary's again, and the primary's. What the secondary shows last
//!
//! - is *in flight* if the primary shows the same value before or after it;
//! - *differs* if the primary's version is the same before and after: it was no other in between;
//! - *differs* if it is the very version of the early look, and the primary shows another: whatever the secondary gets, the
//!   primary had before. So the primary had moved on before its look, and the secondary, which has all that the primary showed,
//!   should have too;
//! - says nothing else: the primary may have had it between its looks.
//!
//! No timestamp of one side is compared with one of the other. Where a value has none to be read (a collection's elements, a
//! counter), the same value twice counts as the same version, and nothing is told by the early look.

use crate::protocol::cql::applier::rows::{Cell, cells, selectors};
use crate::protocol::cql::client::{Answer, Error};
use crate::protocol::cql::place::Place;
use crate::protocol::cql::text::edit::quoted;
use crate::protocol::cql::text::schema::{Cells, Column, Role, Table};
use crate::protocol::cql::wire::primitive::Value;
use crate::protocol::cql::wire::request::Bound;
use crate::protocol::cql::wire::types::Type;
use crate::shadow::How;

use super::alike::alike;
use super::reading::Form;

/// A column that is looked at, and its types on the primary and on the secondary.
pub(super) struct Looked<'c> {
    pub(super) column: &'c Column,
    pub(super) kinds: (&'c Type, &'c Type),
}

/// What is asked of a row.
pub(super) struct Question<'c> {
    pub(super) text: String,
    looked: Vec<Looked<'c>>,
}

/// A row's cells; `None`: it is not there.
pub(super) type Seen = Option<Vec<Cell>>;

/// A row as both sides showed it, in this order.
pub(super) struct Looks {
    /// The secondary's.
    pub(super) early: Seen,
    /// The primary's.
    pub(super) before: Seen,
    /// The secondary's, which has all that the one before saw.
    pub(super) theirs: Seen,
    /// The primary's.
    pub(super) after: Seen,
}

/// What the looks at a row say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// The secondary shows what the primary showed.
    Alike,
    /// Nothing can be said.
    Moving,
    /// It differs, in these columns.
    Differs(How, Vec<String>),
}

impl<'c> Question<'c> {
    /// Of these columns of a row. Those of its key are left out.
    pub(super) fn of(table: &Table, looked: Vec<Looked<'c>>) -> Question<'c> {
        let columns: Vec<&Column> = looked.iter().map(|looked| looked.column).collect();
        let key = table.partition_key().chain(table.clustering()).map(|column| format!("{} = ?", quoted(&column.name)));
        let selected = match columns.is_empty() {
            true => table.partition_key().map(|column| quoted(&column.name)).collect(),
            false => selectors(&[], &columns),
        };
        let (key, selected) = (key.collect::<Vec<_>>().join(" AND "), selected.join(", "));
        let text = format!("SELECT {selected} FROM {}.{} WHERE {key}", quoted(&table.keyspace), quoted(&table.name));
        Question { text, looked }
    }

    /// The values that name a row.
    pub(super) fn values(place: &Place) -> Vec<Bound<'_>> {
        place.partition.iter().chain(&place.clustering).map(|value| (None, Value::Set(value))).collect()
    }

    /// What was answered.
    ///
    /// # Errors
    /// It is no row.
    pub(super) fn seen(&self, answer: &Answer) -> Result<Seen, Error> {
        let rows = answer.rows()?;
        let Some(row) = rows.iter().next().transpose()? else { return Ok(None) };
        let columns: Vec<&Column> = self.looked.iter().map(|looked| looked.column).collect();
        Ok(Some(cells(&mut row.iter(), &columns)))
    }

    /// What the looks say of the row.
    pub(super) fn judge(&self, looks: &Looks) -> Judged {
        match (&looks.before, &looks.theirs, &looks.after) {
            (None, None, _) | (_, None, None) => Judged::Alike,
            (Some(before), None, Some(after)) => self.missing(before, after),
            (None, Some(theirs), None) => self.extra(looks.early.as_deref(), theirs),
            (before, Some(theirs), after) => {
                self.values_of([looks.early.as_deref(), before.as_deref(), Some(theirs), after.as_deref()])
            }
        }
    }

    /// Nobody deletes a row and leaves the version of a cell as it was.
    fn missing(&self, before: &[Cell], after: &[Cell]) -> Judged {
        let mut pairs = self.regular().map(|at| (&before[at], &after[at]));
        let stayed = pairs.clone().any(|(before, after)| before.writetime.is_some() && is_same(before, after));
        // A row of nothing but its key, or of values without timestamps.
        let is_bare = pairs.all(|(before, after)| before.writetime.is_none() && is_same(before, after));
        if stayed || is_bare { Judged::Differs(How::MissingRow, Vec::new()) } else { Judged::Moving }
    }

    /// It is not there before and after. A version that it had already must have gone.
    fn extra(&self, early: Option<&[Cell]>, theirs: &[Cell]) -> Judged {
        let stayed = early.is_some_and(|early| self.regular().any(|at| is_stuck(&early[at], &theirs[at])));
        let is_bare = self.regular().all(|at| theirs[at].writetime.is_none());
        if stayed || is_bare { Judged::Differs(How::ExtraRow, Vec::new()) } else { Judged::Moving }
    }

    /// Cells of the row itself: static ones are there without it.
    fn regular(&self) -> impl Iterator<Item = usize> + Clone {
        let regular = |(at, looked): (usize, &Looked<'_>)| (looked.column.role == Role::Regular).then_some(at);
        self.looked.iter().enumerate().filter_map(regular)
    }

    fn values_of(&self, looks: [Option<&[Cell]>; 4]) -> Judged {
        let null = Cell::default();
        let (mut differing, mut is_moving) = (Vec::new(), false);
        for (at, looked) in self.looked.iter().enumerate() {
            let [early, before, theirs, after] =
                looks.map(|look| look.and_then(|cells| cells.get(at)).unwrap_or(&null));
            match verdict(looked, [early, before, theirs, after]) {
                Judged::Alike => {}
                Judged::Moving => is_moving = true,
                Judged::Differs(..) => differing.push(looked.column.name.clone()),
            }
        }
        match (differing.is_empty(), is_moving) {
            (false, _) => Judged::Differs(How::OtherValue, differing),
            (true, true) => Judged::Moving,
            (true, false) => Judged::Alike,
        }
    }
}

/// What the looks at a cell say.
fn verdict(looked: &Looked<'_>, [early, before, theirs, after]: [&Cell; 4]) -> Judged {
    let shows = |ours: &Cell| alike(Form::Exact, looked.kinds, ours.value.as_deref(), theirs.value.as_deref());
    if shows(before) || shows(after) {
        return Judged::Alike;
    }
    // Null has no timestamp: there may have been a value in between, where a value would have one.
    let is_known = before.writetime.is_some() || looked.column.cells != Cells::One;
    match is_known && is_same(before, after) || is_stuck(early, theirs) {
        true => Judged::Differs(How::OtherValue, Vec::new()),
        false => Judged::Moving,
    }
}

/// The same version, or the same value where that is all there is.
fn is_same(one: &Cell, other: &Cell) -> bool {
    (&one.value, one.writetime) == (&other.value, other.writetime)
}

/// The very version that was there early.
fn is_stuck(early: &Cell, theirs: &Cell) -> bool {
    theirs.writetime.is_some() && is_same(early, theirs)
}

#[cfg(test)]
mod tests;
