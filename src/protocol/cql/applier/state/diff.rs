//! What must be written to the secondary so that a row there becomes the primary's. Pure.
//!
//! A cell goes with its own timestamp and expiry, so that whatever is replayed later finds what it would have found on the
//! primary. Where no timestamp can be read (collections, rows that are nothing but their key), or where the right one
//! was tried and something above it is in the way, one has to be made up: see [`Moment`].

use std::collections::{BTreeMap, BTreeSet};

use super::Side;
use super::rows::{Cell, Clustering, End, Form, collected, elements, fields};
use crate::protocol::cql::wire::Error;

/// How far before the reading a timestamp lies that is made up for want of a better: what clients write now stays above it,
/// and what they stamped before a switch held them.
const BEFORE: i64 = 1_000_000;
/// Expiries that differ by no more are the same: the clocks of v3 and v4 count whole seconds.
pub(in super::super) const TTL_SLACK: i32 = 2;

/// When the two sides were read, and how often before.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Moment {
    /// Microseconds, from before the first read.
    pub(in super::super) read: i64,
    /// What the unit wrote with, if it is known.
    pub(in super::super) newest: Option<i64>,
    /// What is in the way may be outdone up to this one, if an operator said so; else up to the reading.
    pub(in super::super) allowed: Option<i64>,
    /// 0 is the first. From the second on, whatever still differs was not to be had with its own timestamp.
    pub(in super::super) round: usize,
}

impl Moment {
    /// As of this microsecond, before the first look at anything.
    pub(in super::super) fn of(read: i64) -> Moment {
        Moment { read, newest: None, allowed: None, round: 0 }
    }

    /// Microseconds.
    pub(in super::super) fn read(self) -> i64 {
        self.read
    }

    /// The second of the reading.
    pub(super) fn second(self) -> i64 {
        self.read / 1_000_000
    }

    /// The same, but what is shown is of that second.
    pub(in super::super) fn in_second(self, second: i64) -> Moment {
        Moment { read: second * 1_000_000, ..self }
    }

    /// As high as it must be by now, and no higher: whoever writes there next must be above it, by a clock of its own.
    fn least(self) -> i64 {
        match self.round {
            0 => i64::MIN,
            1 => self.before(),
            _ => self.allowed.unwrap_or(self.read),
        }
    }

    fn before(self) -> i64 {
        (self.read - BEFORE).min(self.allowed.unwrap_or(i64::MAX))
    }

    /// A timestamp where none can be read.
    fn made_up(self) -> i64 {
        self.own(self.newest.unwrap_or(self.before()))
    }

    /// The timestamp that a cell should have, unless that was tried.
    fn own(self, timestamp: i64) -> i64 {
        timestamp.max(self.least())
    }
}

/// One thing to write. Columns by their place; timestamps in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Fix {
    /// Make the row exist.
    Row { at: i64, ttl: Option<i32> },
    /// Make it not exist.
    NoRow { at: i64 },
    /// Set columns that are one cell, and lists.
    Cells { at: i64, ttl: Option<i32>, values: Vec<(usize, Vec<u8>)> },
    /// Make a column null.
    Null { at: i64, column: usize },
    /// Add elements to a set or a map, or to the end of a list.
    Add { at: i64, ttl: Option<i32>, column: usize, value: Vec<u8> },
    /// Add elements to the beginning of a list.
    Prepend { at: i64, ttl: Option<i32>, column: usize, value: Vec<u8> },
    /// Take elements from a set or keys from a map.
    Remove { at: i64, column: usize, keys: Vec<u8> },
    /// Set a field.
    Field { at: i64, ttl: Option<i32>, column: usize, field: String, value: Option<Vec<u8>> },
    /// Add to counters.
    Count { deltas: Vec<(usize, i64)> },
}

/// The secondary's row `theirs` should be as the primary's `ours`, which ends so, if that is known. `None`: there is no such
/// row.
pub(in super::super) fn of_row(
    forms: &[Form],
    ours: Option<&[Cell]>,
    theirs: Option<&[Cell]>,
    end: Option<End>,
    moment: Moment,
) -> Result<Vec<Fix>, Error> {
    match (ours, theirs) {
        (None, None) => Ok(Vec::new()),
        (None, Some(theirs)) => Ok(vec![gone(forms, theirs, moment)]),
        (Some(ours), Some(theirs)) => of_cells(forms, ours, theirs, moment),
        (Some(ours), None) => {
            let nothing = vec![Cell::default(); forms.len()];
            let mut fixes = of_cells(forms, ours, &nothing, moment)?;
            // A counter's row exists by being counted.
            if !forms.contains(&Form::Counter) {
                fixes.insert(0, appeared(ours, end, moment));
            }
            Ok(fixes)
        }
    }
}

/// The row as INSERT makes it, at the lowest timestamp that it shows. Where nobody knows how long it lives, it does as long as
/// the last of its cells.
pub(super) fn appeared(ours: &[Cell], end: Option<End>, moment: Moment) -> Fix {
    let written = || ours.iter().filter(|cell| cell.value.is_some());
    let lowest = written().filter_map(|cell| cell.writetime).min();
    let last = || {
        let ttls = written().map(|cell| cell.ttl.filter(|_| cell.writetime.is_some())).collect::<Option<Vec<i32>>>();
        ttls.and_then(|ttls| ttls.into_iter().max())
    };
    let at = lowest.map_or_else(|| moment.made_up(), |lowest| moment.own(lowest));
    Fix::Row { at, ttl: end.map_or_else(last, End::ttl) }
}

/// Whether [`of_row`] makes this row, or it is there and ends otherwise.
pub(super) fn row_is_written(ours: &Side, theirs: &Side, key: &Clustering) -> bool {
    match (theirs.rows.get(key), ours.row_end(key), theirs.row_end(key)) {
        (None, ..) => true,
        (Some(_), Some(ours), Some(theirs)) => !ours.is_like(theirs),
        (Some(_), ..) => false,
    }
}

/// At equal timestamps a delete wins.
fn gone(forms: &[Form], theirs: &[Cell], moment: Moment) -> Fix {
    let readable = forms.iter().zip(theirs).all(|(form, cell)| *form == Form::One || cell.value.is_none());
    let highest = theirs.iter().filter_map(|cell| cell.writetime).max().filter(|_| readable);
    Fix::NoRow { at: highest.map_or_else(|| moment.made_up(), |highest| moment.own(highest)) }
}

/// The same of a row that both have, or of static columns.
pub(in super::super) fn of_cells(
    forms: &[Form],
    ours: &[Cell],
    theirs: &[Cell],
    moment: Moment,
) -> Result<Vec<Fix>, Error> {
    let mut found = Found::default();
    for (column, ((form, ours), theirs)) in forms.iter().zip(ours).zip(theirs).enumerate() {
        match form {
            Form::One => found.one(column, ours, theirs, moment),
            Form::List => found.list(column, ours, theirs, moment)?,
            Form::Set => found.elements(column, 1, ours, theirs, moment)?,
            Form::Map => found.elements(column, 2, ours, theirs, moment)?,
            Form::Fields(names) => found.fields(column, names, ours, theirs, moment)?,
            Form::Counter => found.counter(column, ours, theirs, moment),
        }
    }
    Ok(found.fixes())
}

/// A column, and what is written to it.
type Written = (usize, Vec<u8>);

#[derive(Default)]
struct Found {
    /// By timestamp and expiry, for as few statements as can be.
    cells: BTreeMap<(i64, Option<i32>), Vec<Written>>,
    deltas: Vec<(usize, i64)>,
    others: Vec<Fix>,
}

impl Found {
    fn fixes(self) -> Vec<Fix> {
        let mut fixes = self.others;
        fixes.extend(self.cells.into_iter().map(|((at, ttl), values)| Fix::Cells { at, ttl, values }));
        if !self.deltas.is_empty() {
            fixes.push(Fix::Count { deltas: self.deltas });
        }
        fixes
    }

    fn one(&mut self, column: usize, ours: &Cell, theirs: &Cell, moment: Moment) {
        let held = theirs.writetime.unwrap_or(i64::MIN);
        let Some(value) = &ours.value else {
            if theirs.value.is_some() {
                self.others.push(Fix::Null { at: moment.own(held), column });
            }
            return;
        };
        let same = theirs.value.as_ref() == Some(value) && expire_together(ours.ttl, theirs.ttl);
        let written = ours.writetime.unwrap_or_else(|| moment.made_up());
        // The same at a higher timestamp cannot be helped, and is the same.
        if same && written <= held {
            return;
        }
        let at = if held < written { written } else { held.saturating_add(1) };
        self.cells.entry((moment.own(at), ours.ttl)).or_default().push((column, value.clone()));
    }

    /// The elements of a list have names of the server's making, so it is written whole, above everything that is there,
    /// unless all that is there is as it must be: then the rest is added before it and behind it. That leaves no tombstone,
    /// which would take what clients add with a timestamp of a moment ago.
    fn list(&mut self, column: usize, ours: &Cell, theirs: &Cell, moment: Moment) -> Result<(), Error> {
        let at = moment.made_up();
        if ours.value.is_none() {
            if theirs.value.is_some() {
                self.others.push(Fix::Null { at, column });
            }
            return Ok(());
        }
        let here = lived(ours, elements(ours.value.as_deref(), 1)?);
        let there = lived(theirs, elements(theirs.value.as_deref(), 1)?);
        match rest(&here, &there, moment) {
            Rest::Nothing => {}
            Rest::All => {
                let mut runs = runs(ours, &here, 0);
                let (ttl, value) = runs.next().unwrap_or_else(|| (None, collected(&[], 1)));
                let mut more = runs.map(|(ttl, value)| Fix::Add { at, ttl, column, value }).peekable();
                if more.peek().is_none() {
                    self.cells.entry((at, ttl)).or_default().push((column, value));
                } else {
                    self.others.push(Fix::Cells { at, ttl, values: vec![(column, value)] });
                    self.others.extend(more);
                }
            }
            Rest::Around(before, behind) => {
                let before = runs(ours, &here[..before], 0).map(|(ttl, value)| Fix::Prepend { at, ttl, column, value });
                // What is put in front last is in front.
                self.others.extend(before.collect::<Vec<_>>().into_iter().rev());
                let behind = runs(ours, &here[behind..], behind);
                self.others.extend(behind.map(|(ttl, value)| Fix::Add { at, ttl, column, value }));
            }
        }
        Ok(())
    }

    fn elements(
        &mut self,
        column: usize,
        per_entry: usize,
        ours: &Cell,
        theirs: &Cell,
        moment: Moment,
    ) -> Result<(), Error> {
        let (here, there) =
            (elements(ours.value.as_deref(), per_entry)?, elements(theirs.value.as_deref(), per_entry)?);
        let at = moment.made_up();
        let mut missing: BTreeMap<Option<i32>, Vec<&[u8]>> = BTreeMap::new();
        for part in unlike(per_entry, (ours, &here), (theirs, &there)) {
            let entry = &here[part * per_entry..(part + 1) * per_entry];
            missing.entry(ours.end(part).ttl()).or_default().extend(entry);
        }
        for (ttl, entries) in missing {
            self.others.push(Fix::Add { at, ttl, column, value: collected(&entries, per_entry) });
        }
        let known: BTreeSet<&[u8]> = here.chunks_exact(per_entry).map(|entry| entry[0]).collect();
        let extra: Vec<&[u8]> =
            there.chunks_exact(per_entry).map(|entry| entry[0]).filter(|key| !known.contains(key)).collect();
        if !extra.is_empty() {
            self.others.push(Fix::Remove { at, column, keys: collected(&extra, 1) });
        }
        Ok(())
    }

    fn fields(
        &mut self,
        column: usize,
        names: &[String],
        ours: &Cell,
        theirs: &Cell,
        moment: Moment,
    ) -> Result<(), Error> {
        let at = moment.made_up();
        let (here, there) =
            (fields(ours.value.as_deref(), names.len())?, fields(theirs.value.as_deref(), names.len())?);
        let written = unlike_fields((ours, &here), (theirs, &there));
        for (number, part) in written {
            let ttl = part.and_then(|part| ours.end(part).ttl());
            let (field, value) = (names[number].clone(), here[number].map(<[u8]>::to_vec));
            self.others.push(Fix::Field { at, ttl, column, field, value });
        }
        Ok(())
    }

    fn counter(&mut self, column: usize, ours: &Cell, theirs: &Cell, moment: Moment) {
        let number =
            |cell: &Cell| cell.value.as_deref().and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        match (number(ours), number(theirs)) {
            (None, Some(_)) => self.others.push(Fix::Null { at: moment.read, column }),
            (None, None) => {}
            (Some(ours), theirs) if Some(ours) != theirs => {
                self.deltas.push((column, ours.wrapping_sub(theirs.unwrap_or_default())));
            }
            (Some(_), _) => {}
        }
    }
}

/// The parts of a collection that are written to make `theirs` as `ours`.
pub(super) fn gaps(form: &Form, ours: &Cell, theirs: &Cell, moment: Moment) -> Result<Vec<usize>, Error> {
    let listed =
        |cell: &'_ Cell, per_entry| elements(cell.value.as_deref(), per_entry).map(|all| all.len() / per_entry);
    let entries = |per_entry| -> Result<Vec<usize>, Error> {
        let here = elements(ours.value.as_deref(), per_entry)?;
        let there = elements(theirs.value.as_deref(), per_entry)?;
        Ok(unlike(per_entry, (ours, &here), (theirs, &there)))
    };
    Ok(match form {
        Form::Set => entries(1)?,
        Form::Map => entries(2)?,
        Form::List => {
            let (here, there) = (elements(ours.value.as_deref(), 1)?, elements(theirs.value.as_deref(), 1)?);
            match rest(&lived(ours, here), &lived(theirs, there), moment) {
                Rest::Nothing => Vec::new(),
                Rest::All => (0..listed(ours, 1)?).collect(),
                Rest::Around(before, behind) => (0..before).chain(behind..listed(ours, 1)?).collect(),
            }
        }
        Form::Fields(names) => {
            let count = names.len();
            let (here, there) = (fields(ours.value.as_deref(), count)?, fields(theirs.value.as_deref(), count)?);
            unlike_fields((ours, &here), (theirs, &there)).into_iter().filter_map(|(_, part)| part).collect()
        }
        Form::One | Form::Counter => Vec::new(),
    })
}

/// Entries of `ours`, by number, that `theirs` has not, or not so, or that end otherwise there.
fn unlike(per_entry: usize, (ours, here): (&Cell, &[&[u8]]), (theirs, there): (&Cell, &[&[u8]])) -> Vec<usize> {
    let entries = there.chunks_exact(per_entry).enumerate();
    let there: BTreeMap<&[u8], (&[&[u8]], End)> =
        entries.map(|(part, entry)| (entry[0], (entry, theirs.end(part)))).collect();
    let is_like = |part: usize, entry: &[&[u8]]| {
        there.get(entry[0]).is_some_and(|(other, end)| *other == entry && end.is_like(ours.end(part)))
    };
    let entries = here.chunks_exact(per_entry).enumerate();
    entries.filter(|(part, entry)| !is_like(*part, entry)).map(|(part, _)| part).collect()
}

/// Fields that differ, by number, and which part of `ours` each is, if it is not null there.
fn unlike_fields(
    (ours, here): (&Cell, &[Option<&[u8]>]),
    (theirs, there): (&Cell, &[Option<&[u8]>]),
) -> Vec<(usize, Option<usize>)> {
    let (mut found, mut parts) = (Vec::new(), [0, 0]);
    for (number, (here, there)) in here.iter().zip(there).enumerate() {
        let [part, other] = parts;
        let alike = here == there && (here.is_none() || ours.end(part).is_like(theirs.end(other)));
        if !alike {
            found.push((number, here.map(|_| part)));
        }
        parts = [part + usize::from(here.is_some()), other + usize::from(there.is_some())];
    }
    found
}

/// An element of a list, and whether it stays.
type Lived<'a> = (&'a [u8], bool);

fn lived<'a>(cell: &Cell, elements: Vec<&'a [u8]>) -> Vec<Lived<'a>> {
    let stays = |part| cell.end(part) == End::Never;
    elements.into_iter().enumerate().map(|(part, element)| (element, stays(part))).collect()
}

/// What of a list must be written.
enum Rest {
    Nothing,
    All,
    /// Those before the first, and from the second on.
    Around(usize, usize),
}

fn rest(here: &[Lived<'_>], there: &[Lived<'_>], moment: Moment) -> Rest {
    match around(here, there) {
        _ if here == there => Rest::Nothing,
        Some(before) if moment.round == 0 => Rest::Around(before, before + there.len()),
        _ => Rest::All,
    }
}

/// Where `part` is in `whole`.
fn around<T: PartialEq>(whole: &[T], part: &[T]) -> Option<usize> {
    let last = whole.len().checked_sub(part.len())?;
    (0..=last).find(|at| whole[*at..].starts_with(part))
}

/// Elements of a list, the first of which is the part of that number, in runs of those that end together.
fn runs<'r>(
    cell: &'r Cell,
    elements: &'r [Lived<'_>],
    first: usize,
) -> impl Iterator<Item = (Option<i32>, Vec<u8>)> + 'r {
    let ttl = move |at: usize| cell.end(first + at).ttl();
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = at;
        let end = (from..elements.len()).find(|next| ttl(*next) != ttl(from)).unwrap_or(elements.len());
        at = end;
        let run: Vec<&[u8]> = elements.get(from..end)?.iter().map(|(element, _)| *element).collect();
        (!run.is_empty()).then(|| (ttl(from), collected(&run, 1)))
    })
}

pub(in super::super) fn expire_together(ours: Option<i32>, theirs: Option<i32>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(ours), Some(theirs)) => ours.abs_diff(theirs) <= TTL_SLACK.unsigned_abs(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: i64 = 10_000_000;
    const FIRST: Moment = Moment { read: READ, newest: None, allowed: None, round: 0 };
    const SECOND: Moment = Moment { read: READ, newest: None, allowed: None, round: 1 };
    const THIRD: Moment = Moment { read: READ, newest: None, allowed: None, round: 2 };

    fn cell(value: &[u8], writetime: i64) -> Cell {
        Cell { value: Some(value.to_vec()), writetime: Some(writetime), ..Cell::default() }
    }

    fn unreadable(value: Vec<u8>) -> Cell {
        Cell { value: Some(value), ..Cell::default() }
    }

    fn one(ours: &Cell, theirs: &Cell, moment: Moment) -> Vec<Fix> {
        let (ours, theirs) = (std::slice::from_ref(ours), std::slice::from_ref(theirs));
        of_cells(&[Form::One], ours, theirs, moment).expect("well-formed")
    }

    fn cells(at: i64, ttl: Option<i32>, value: &[u8]) -> Vec<Fix> {
        vec![Fix::Cells { at, ttl, values: vec![(0, value.to_vec())] }]
    }

    #[test]
    fn a_cell_goes_with_its_own_timestamp_or_just_above_what_is_in_its_way() {
        let null = Cell::default();
        assert_eq!(one(&cell(b"a", 100), &null, FIRST), cells(100, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &cell(b"b", 50), FIRST), cells(100, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &cell(b"b", 100), FIRST), cells(101, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &cell(b"b", 200), FIRST), cells(201, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &cell(b"a", 50), FIRST), cells(100, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &cell(b"a", 200), FIRST), []);
        assert_eq!(one(&null, &cell(b"b", 200), FIRST), [Fix::Null { at: 200, column: 0 }]);
        assert_eq!(one(&null, &null, FIRST), []);
    }

    #[test]
    fn what_still_differs_after_a_write_goes_above_whatever_hides_it() {
        for (moment, least) in [(SECOND, READ - BEFORE), (THIRD, READ)] {
            assert_eq!(one(&cell(b"a", 100), &Cell::default(), moment), cells(least, None, b"a"));
            assert_eq!(one(&cell(b"a", READ + 5), &Cell::default(), moment), cells(READ + 5, None, b"a"));
            assert_eq!(one(&Cell::default(), &cell(b"b", 200), moment), [Fix::Null { at: least, column: 0 }]);
        }
    }

    #[test]
    fn an_operator_says_how_far_what_hides_a_row_is_outdone() {
        let allow = |moment: Moment, at| Moment { allowed: Some(at), ..moment };
        let null = Cell::default();
        assert_eq!(one(&cell(b"a", 100), &null, allow(FIRST, READ + 9)), cells(100, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &null, allow(SECOND, READ + 9)), cells(READ - BEFORE, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &null, allow(THIRD, READ + 9)), cells(READ + 9, None, b"a"));
        assert_eq!(one(&cell(b"a", 100), &null, allow(SECOND, 500)), cells(500, None, b"a"));
        assert_eq!(one(&null, &cell(b"b", 200), allow(THIRD, 500)), [Fix::Null { at: 500, column: 0 }]);
    }

    #[test]
    fn expiry_is_part_of_a_cell() {
        let expiring = |ttl| Cell { ttl: Some(ttl), ..cell(b"a", 100) };
        assert_eq!(one(&expiring(60), &expiring(59), FIRST), []);
        assert_eq!(one(&expiring(60), &cell(b"a", 100), FIRST), cells(101, Some(60), b"a"));
        assert_eq!(one(&cell(b"a", 100), &expiring(60), FIRST), cells(101, None, b"a"));
    }

    #[test]
    fn a_row_appears_at_its_lowest_timestamp_and_goes_at_the_highest_that_is_there() {
        let forms = [Form::One, Form::One];
        let row = [cell(b"a", 100), cell(b"b", 300)];
        let appear = of_row(&forms, Some(&row), None, None, FIRST).expect("well-formed");
        assert_eq!(appear[0], Fix::Row { at: 100, ttl: None });
        assert_eq!(appear.len(), 3);
        let go = |theirs: &[Cell], moment| of_row(&forms, None, Some(theirs), None, moment).expect("well-formed");
        assert_eq!(go(&row, FIRST), [Fix::NoRow { at: 300 }]);
        assert_eq!(go(&row, SECOND), [Fix::NoRow { at: READ - BEFORE }]);
        let bare = [Cell::default(), Cell::default()];
        assert_eq!(go(&bare, FIRST), [Fix::NoRow { at: READ - BEFORE }]);
        let appear = of_row(&forms, Some(&bare), None, None, FIRST).expect("well-formed");
        assert_eq!(appear, [Fix::Row { at: READ - BEFORE, ttl: None }]);
        assert_eq!(of_row(&forms, None, None, None, FIRST), Ok(vec![]));
    }

    #[test]
    fn a_row_of_expiring_cells_expires_with_the_last() {
        let expiring = |ttl| Cell { ttl: Some(ttl), ..cell(b"a", 100) };
        let row = [expiring(10), expiring(20)];
        let appear = of_row(&[Form::One, Form::One], Some(&row), None, None, FIRST).expect("well-formed");
        assert_eq!(appear[0], Fix::Row { at: 100, ttl: Some(20) });
    }

    #[test]
    fn only_the_elements_that_differ_are_touched() {
        let map = |entries: &[&[u8]]| unreadable(collected(entries, 2));
        let (ours, theirs) = (map(&[b"a", b"1", b"b", b"2"]), map(&[b"b", b"3", b"c", b"4"]));
        let fixes = of_cells(&[Form::Map], &[ours], &[theirs], FIRST).expect("well-formed");
        let at = READ - BEFORE;
        assert_eq!(
            fixes,
            [
                Fix::Add { at, ttl: None, column: 0, value: collected(&[b"a", b"1", b"b", b"2"], 2) },
                Fix::Remove { at, column: 0, keys: collected(&[b"c"], 1) },
            ]
        );
        let set = |elements: &[&[u8]]| unreadable(collected(elements, 1));
        let fixes = of_cells(&[Form::Set], &[Cell::default()], &[set(&[b"x"])], FIRST).expect("well-formed");
        assert_eq!(fixes, [Fix::Remove { at, column: 0, keys: collected(&[b"x"], 1) }]);
        let fixes = of_cells(&[Form::Set], &[set(&[b"x"])], &[set(&[b"x"])], FIRST).expect("well-formed");
        assert_eq!(fixes, []);
    }

    fn list(elements: &[&[u8]]) -> Cell {
        unreadable(collected(elements, 1))
    }

    fn of_list(ours: &Cell, theirs: &Cell, moment: Moment) -> Vec<Fix> {
        of_cells(&[Form::List], std::slice::from_ref(ours), std::slice::from_ref(theirs), moment).expect("well-formed")
    }

    #[test]
    fn a_list_is_written_whole_with_what_the_unit_wrote_with() {
        let (ours, doubled) = (list(&[b"a", b"b"]), list(&[b"a", b"b", b"a", b"b"]));
        let whole = |at| cells(at, None, ours.value.as_deref().expect("a list"));
        assert_eq!(of_list(&ours, &doubled, Moment { newest: Some(77), ..FIRST }), whole(77));
        assert_eq!(of_list(&ours, &doubled, Moment { newest: Some(77), ..THIRD }), whole(READ));
        assert_eq!(of_list(&ours, &doubled, FIRST), whole(READ - BEFORE));
        assert_eq!(of_list(&Cell::default(), &doubled, FIRST), [Fix::Null { at: READ - BEFORE, column: 0 }]);
        assert_eq!(of_list(&ours, &ours, FIRST), []);
    }

    #[test]
    fn what_is_as_it_must_be_in_a_list_stays() {
        let (at, column) = (77, 0);
        let moment = Moment { newest: Some(at), ..FIRST };
        let ours = list(&[b"a", b"b", b"c"]);
        let add = |elements: &[&[u8]]| Fix::Add { at, ttl: None, column, value: collected(elements, 1) };
        let prepend = |elements: &[&[u8]]| Fix::Prepend { at, ttl: None, column, value: collected(elements, 1) };
        assert_eq!(of_list(&ours, &list(&[b"a", b"b"]), moment), [add(&[b"c"])]);
        assert_eq!(of_list(&ours, &list(&[b"b"]), moment), [prepend(&[b"a"]), add(&[b"c"])]);
        assert_eq!(of_list(&ours, &Cell::default(), moment), [add(&[b"a", b"b", b"c"])]);
        let again = Moment { round: 1, ..moment };
        assert_eq!(
            of_list(&ours, &list(&[b"b"]), again),
            cells(READ - BEFORE, None, ours.value.as_deref().expect("a list")),
            "what did not help is not done again"
        );
    }

    #[test]
    fn counters_differ_by_what_is_added() {
        let count = |number: i64| unreadable(number.to_be_bytes().to_vec());
        let fix = |ours: &Cell, theirs: &Cell| {
            let (ours, theirs) = (std::slice::from_ref(ours), std::slice::from_ref(theirs));
            of_cells(&[Form::Counter], ours, theirs, FIRST).expect("well-formed")
        };
        assert_eq!(fix(&count(7), &count(9)), [Fix::Count { deltas: vec![(0, -2)] }]);
        assert_eq!(fix(&count(7), &Cell::default()), [Fix::Count { deltas: vec![(0, 7)] }]);
        assert_eq!(fix(&Cell::default(), &count(9)), [Fix::Null { at: READ, column: 0 }]);
        assert_eq!(fix(&count(7), &count(7)), []);
    }
}
