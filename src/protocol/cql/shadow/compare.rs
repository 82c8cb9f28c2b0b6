//! Two answers to one read, compared row by row.
//!
//! Rows are told apart by their keys where the answer shows them, so that one row that is missing does not make all rows
//! behind it differ. Where an answer goes on (another page, a LIMIT that was reached), what lies behind the last row that
//! both have may just be cut off, and says nothing.
//!
//! A read cannot be made on both sides at one moment. [`settle`] decides by three answers: the primary's, the
//! secondary's after it, and the primary's after that. The secondary had applied everything that the first one saw, and
//! shows nothing that the last one does not see; so a row that the primary shows twice and the secondary does not differs,
//! and one that changed in between is alike if the secondary shows either.

use std::collections::HashMap;

use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::response::{Row, Rows};
use crate::protocol::cql::wire::types::Type;

use super::alike::alike;
use super::reading::Field;

/// More rows that differ are not named.
const NAMED_MAX: usize = 100;
/// Bytes of rows without keys that are read to find out which is like which: some milliseconds of the thread on which tandem
/// does everything but carry clients' traffic.
const TRIED_BYTES_MAX: usize = 4 << 20;

/// An answer, taken apart.
pub(super) struct Sheet<'a> {
    /// Names and types. `None`: the client asked not to be told.
    columns: Option<Vec<(&'a str, Type)>>,
    rows: Vec<Row<'a>>,
    /// There may be more rows than these.
    goes_on: bool,
}

/// How answers to a read are compared.
pub(super) struct Terms<'r> {
    /// What each column shows.
    pub(super) fields: &'r [Field],
    /// Columns that are not compared.
    pub(super) ignored: &'r [bool],
    /// Columns that tell rows apart.
    pub(super) identity: Option<&'r [usize]>,
    /// The order of rows is theirs.
    pub(super) is_ordered: bool,
}

/// What a comparison finds.
#[derive(Debug, PartialEq)]
pub(super) enum Compared<'a> {
    /// Nothing.
    Alike,
    /// These columns have other types, or are only there on one side.
    Types(Vec<String>),
    /// The same rows come in another order.
    Order,
    /// Some of the rows that differ: not more than are worth naming.
    Rows(Vec<Deviation<'a>>),
    /// Rows without keys are cut off somewhere: nothing can be said.
    Undecided,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Deviation<'a> {
    /// What tells it apart; empty where nothing does.
    key: Key<'a>,
    /// As the primary shows it.
    pub(super) ours: Option<Row<'a>>,
    /// As the secondary does.
    pub(super) theirs: Option<Row<'a>>,
    /// Columns that differ.
    pub(super) columns: Vec<usize>,
}

type Key<'a> = Vec<Option<&'a [u8]>>;
type Keyed<'a> = (Key<'a>, Row<'a>);

/// What three answers say.
#[derive(Debug, PartialEq)]
pub(super) enum Settled<'a> {
    /// The secondary shows what the primary showed before or after it.
    Alike,
    /// This does not change.
    Differs(Compared<'a>),
    /// What differs was written meanwhile: nothing can be said of it.
    Moving,
}

impl<'a> Sheet<'a> {
    /// `limit`: rows that the statement gives at most.
    ///
    /// # Errors
    /// Its bytes are no rows.
    pub(super) fn of(rows: &Rows<'a>, limit: Option<usize>) -> Result<Sheet<'a>, Error> {
        let columns = rows.metadata.columns;
        Ok(Sheet {
            columns: columns.map(|all| all.iter().map(|column| (column.name, column.kind())).collect()),
            rows: rows.iter().collect::<Result<_, _>>()?,
            goes_on: rows.metadata.paging_state.is_some() || limit.is_some_and(|limit| rows.len() >= limit),
        })
    }

    /// There may be more rows than these.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Its columns; none if they were not told.
    pub(super) fn columns(&self) -> &[(&'a str, Type)] {
        self.columns.as_deref().unwrap_or_default()
    }

    /// Names of its columns; none if they were not told.
    pub(super) fn names(&self) -> Vec<&'a str> {
        self.columns.iter().flatten().map(|(name, _)| *name).collect()
    }
}

/// Compare the primary's answer with the secondary's, which tells its columns.
pub(super) fn compare<'a>(terms: &Terms<'_>, ours: &Sheet<'a>, theirs: &Sheet<'a>) -> Compared<'a> {
    let both = Both { terms, ours, theirs, kinds: kinds(ours, theirs) };
    match types(ours, theirs) {
        differing if !differing.is_empty() => Compared::Types(differing),
        _ if both.are_alike_in_order() => Compared::Alike,
        _ => match terms.identity {
            Some(identity) => both.by_key(identity),
            None => both.without_keys(),
        },
    }
}

/// Decide by the primary's answers before and after the secondary's.
pub(super) fn settle<'a>(
    terms: &Terms<'_>,
    (before, after): (&Sheet<'a>, &Sheet<'a>),
    theirs: &Sheet<'a>,
) -> Settled<'a> {
    let (first, last) = (compare(terms, before, theirs), compare(terms, after, theirs));
    if [&first, &last].contains(&&Compared::Alike) {
        return Settled::Alike;
    }
    if compare(terms, before, after) == Compared::Alike {
        return Settled::Differs(last);
    }
    let (Compared::Rows(first), Compared::Rows(last)) = (&first, last) else { return Settled::Moving };
    if terms.identity.is_none() {
        return Settled::Moving;
    }
    let both = Both { terms, ours: before, theirs: after, kinds: kinds(before, theirs) };
    let found: HashMap<&Key<'_>, &Deviation<'_>> = first.iter().map(|one| (&one.key, one)).collect();
    let twice: Vec<(&Deviation<'_>, Deviation<'a>)> =
        last.into_iter().filter_map(|one| Some((*found.get(&one.key)?, one))).collect();
    if twice.is_empty() {
        // Each row is as it was before, or as it was after.
        return Settled::Alike;
    }
    let lasting = twice.into_iter().filter(|(first, last)| both.stays(first, last)).map(|(_, last)| last);
    let lasting: Vec<Deviation<'a>> = lasting.collect();
    if lasting.is_empty() { Settled::Moving } else { Settled::Differs(Compared::Rows(lasting)) }
}

/// Rows that have keys, and that the secondary shows neither as the primary did before nor as it did after; first those that the
/// primary shows twice alike.
pub(super) fn disputed<'a>(
    terms: &Terms<'_>,
    (before, after): (&Sheet<'a>, &Sheet<'a>),
    theirs: &Sheet<'a>,
) -> Vec<Deviation<'a>> {
    match (compare(terms, before, theirs), compare(terms, after, theirs)) {
        (Compared::Rows(first), Compared::Rows(last)) if terms.identity.is_some() => {
            let both = Both { terms, ours: before, theirs: after, kinds: kinds(before, theirs) };
            let found: HashMap<&Key<'_>, &Deviation<'_>> = first.iter().map(|one| (&one.key, one)).collect();
            let mut twice: Vec<_> = last.into_iter().filter(|one| found.contains_key(&one.key)).collect();
            twice.sort_by_cached_key(|one| !both.stays(found[&one.key], one));
            twice
        }
        _ => Vec::new(),
    }
}

/// The types of the primary's columns and of the secondary's.
pub(super) fn kinds<'t>(ours: &'t Sheet<'_>, theirs: &'t Sheet<'_>) -> Vec<(&'t Type, &'t Type)> {
    let theirs = theirs.columns.as_deref().unwrap_or_default();
    let ours = ours.columns.as_deref().unwrap_or(theirs);
    ours.iter().zip(theirs).map(|((_, ours), (_, theirs))| (ours, theirs)).collect()
}

/// Names of columns that are not the same.
fn types(ours: &Sheet<'_>, theirs: &Sheet<'_>) -> Vec<String> {
    let (Some(ours), Some(theirs)) = (&ours.columns, &theirs.columns) else {
        let widths = [ours, theirs].map(|sheet| sheet.rows.first().map(|row| row.iter().count()));
        let differ = matches!(widths, [Some(ours), Some(theirs)] if ours != theirs);
        return if differ { theirs.names().into_iter().map(str::to_owned).collect() } else { Vec::new() };
    };
    let only = |one: &[(&str, Type)], other: &[(&str, Type)]| -> Vec<String> {
        one.iter().filter(|column| !other.contains(column)).map(|(name, _)| (*name).to_owned()).collect()
    };
    let mut names = only(ours, theirs);
    names.extend(only(theirs, ours));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() && ours != theirs {
        return ours.iter().map(|(name, _)| (*name).to_owned()).collect();
    }
    names
}

/// Two answers that have the same columns.
struct Both<'s, 'a> {
    terms: &'s Terms<'s>,
    ours: &'s Sheet<'a>,
    theirs: &'s Sheet<'a>,
    kinds: Vec<(&'s Type, &'s Type)>,
}

impl<'a> Both<'_, 'a> {
    /// Columns in which two rows differ: looked at one by one, as far as they are taken.
    fn differing(&self, ours: Row<'a>, theirs: Row<'a>) -> impl Iterator<Item = usize> {
        let is_same = ours.bytes() == theirs.bytes();
        let columns = self.kinds.iter().zip(self.terms.fields).enumerate();
        let cells = columns.zip(ours.iter().zip(theirs.iter())).take_while(move |_| !is_same);
        cells.filter_map(|((at, (kinds, field)), (ours, theirs))| {
            (!self.is_ignored(at) && !alike(field.form, *kinds, ours, theirs)).then_some(at)
        })
    }

    fn are_alike(&self, ours: Row<'a>, theirs: Row<'a>) -> bool {
        self.differing(ours, theirs).next().is_none()
    }

    fn is_ignored(&self, at: usize) -> bool {
        self.terms.ignored.get(at).copied().unwrap_or_default()
    }

    /// The primary, asked before and after, shows it alike.
    fn stays(&self, first: &Deviation<'a>, last: &Deviation<'a>) -> bool {
        match (first.ours, last.ours) {
            (None, None) => true,
            (Some(before), Some(after)) => self.are_alike(before, after),
            _ => false,
        }
    }

    fn are_alike_in_order(&self) -> bool {
        let (ours, theirs) = (self.ours.rows.len(), self.theirs.rows.len());
        let enough = (ours <= theirs || self.theirs.goes_on) && (theirs <= ours || self.ours.goes_on);
        let mut pairs = self.ours.rows.iter().zip(&self.theirs.rows);
        enough && pairs.all(|(ours, theirs)| self.are_alike(*ours, *theirs))
    }

    fn by_key(&self, identity: &[usize]) -> Compared<'a> {
        let (ours, theirs) = (keyed(self.ours, identity), keyed(self.theirs, identity));
        let here: HashMap<&Key<'a>, Row<'a>> = ours.iter().map(|(key, row)| (key, *row)).collect();
        let there: HashMap<&Key<'a>, Row<'a>> = theirs.iter().map(|(key, row)| (key, *row)).collect();
        let (sure, tail) = covered(&ours, &there, self.theirs.goes_on);
        let (their_sure, their_tail) = covered(&theirs, &here, self.ours.goes_on);
        let ours_only = |(key, row): &Keyed<'a>| {
            let found = self.deviation(Some(*row), there.get(key).copied());
            let differs = found.theirs.is_none() || !found.columns.is_empty();
            differs.then(|| Deviation { key: key.clone(), ..found })
        };
        let theirs_only = |(key, row): &Keyed<'a>| {
            let found = Deviation { key: key.clone(), ..self.deviation(None, Some(*row)) };
            (!here.contains_key(key)).then_some(found)
        };
        let mut found: Vec<Deviation<'a>> = sure.iter().filter_map(ours_only).collect();
        found.extend(their_sure.iter().filter_map(theirs_only));
        if let (true, [first, ..], [their_first, ..]) = (found.is_empty(), tail, their_tail) {
            // Both go on, and not with the same row: one of the two is not where it should be.
            found.extend(ours_only(first));
            found.extend(theirs_only(their_first));
        }
        found.truncate(NAMED_MAX);
        if !found.is_empty() {
            return Compared::Rows(found);
        }
        let common = ours.iter().map(|(key, _)| key).filter(|key| there.contains_key(key));
        let their_common = theirs.iter().map(|(key, _)| key).filter(|key| here.contains_key(key));
        if self.terms.is_ordered && !common.eq(their_common) { Compared::Order } else { Compared::Alike }
    }

    fn without_keys(&self) -> Compared<'a> {
        let (ours, theirs) = (&self.ours.rows, &self.theirs.rows);
        let pairs = ours.iter().zip(theirs);
        if self.terms.is_ordered && ours.len() == theirs.len() {
            let other = pairs.map(|(ours, theirs)| self.deviation(Some(*ours), Some(*theirs)));
            let other: Vec<_> = other.filter(|one| !one.columns.is_empty()).take(NAMED_MAX).collect();
            return if self.unmatched().is_some_and(|(ours, _)| ours.is_empty()) {
                Compared::Order
            } else {
                Compared::Rows(other)
            };
        }
        match self.unmatched() {
            _ if self.ours.goes_on || self.theirs.goes_on => Compared::Undecided,
            None => Compared::Undecided,
            Some((ours, theirs)) if ours.is_empty() && theirs.is_empty() => Compared::Alike,
            Some((ours, theirs)) => {
                let pairs = ours.len().max(theirs.len()).min(NAMED_MAX);
                let at = |at: usize| self.deviation(ours.get(at).copied(), theirs.get(at).copied());
                Compared::Rows((0..pairs).map(at).collect())
            }
        }
    }

    fn deviation(&self, ours: Option<Row<'a>>, theirs: Option<Row<'a>>) -> Deviation<'a> {
        let columns = ours.zip(theirs).map(|(ours, theirs)| self.differing(ours, theirs).collect()).unwrap_or_default();
        Deviation { key: Vec::new(), ours, theirs, columns }
    }

    /// Rows that have no like on the other side. `None`: there are too many to tell.
    fn unmatched(&self) -> Option<(Vec<Row<'a>>, Vec<Row<'a>>)> {
        let (ours, mut theirs) = self.not_to_the_byte();
        let mut left = Vec::new();
        let mut tried = 0;
        for row in ours {
            let like = theirs.iter().position(|other| {
                tried += row.bytes().len() + other.bytes().len();
                tried <= TRIED_BYTES_MAX && self.are_alike(row, *other)
            });
            match like {
                _ if tried > TRIED_BYTES_MAX => return None,
                Some(at) => drop(theirs.swap_remove(at)),
                None => left.push(row),
            }
        }
        Some((left, theirs))
    }

    /// Rows that no row of the other side is equal to: to the byte, where they are compared.
    fn not_to_the_byte(&self) -> (Vec<Row<'a>>, Vec<Row<'a>>) {
        let cells = |row: &Row<'a>| -> Vec<Option<&'a [u8]>> {
            row.iter().enumerate().map(|(at, cell)| cell.filter(|_| !self.is_ignored(at))).collect()
        };
        let mut places: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, row) in self.theirs.rows.iter().enumerate() {
            places.entry(cells(row)).or_default().push(at);
        }
        let mut theirs: Vec<Option<Row<'a>>> = self.theirs.rows.iter().copied().map(Some).collect();
        let is_left = |row: &&Row<'a>| match places.get_mut(&cells(row)).and_then(Vec::pop) {
            Some(at) => theirs[at].take().is_none(),
            None => true,
        };
        let ours = self.ours.rows.iter().filter(is_left).copied().collect();
        (ours, theirs.into_iter().flatten().collect())
    }
}

fn keyed<'a>(sheet: &Sheet<'a>, identity: &[usize]) -> Vec<Keyed<'a>> {
    let key = |row: &Row<'a>| {
        let cells: Vec<Option<&'a [u8]>> = row.iter().collect();
        identity.iter().map(|at| cells.get(*at).copied().flatten()).collect()
    };
    sheet.rows.iter().map(|row| (key(row), *row)).collect()
}

/// The rows of which something can be said, and the others: where the other side goes on, those behind the last one that
/// it has too may just be cut off there.
fn covered<'r, 'a>(
    rows: &'r [Keyed<'a>],
    other: &HashMap<&Key<'a>, Row<'a>>,
    goes_on: bool,
) -> (&'r [Keyed<'a>], &'r [Keyed<'a>]) {
    let sure = match rows.iter().rposition(|(key, _)| other.contains_key(key)) {
        Some(last) if goes_on => last + 1,
        _ => rows.len(),
    };
    rows.split_at(sure)
}

#[cfg(test)]
mod tests;
