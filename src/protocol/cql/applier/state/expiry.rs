//! When what no server tells the expiry of expires: elements of collections, and rows themselves.
//!
//! `TTL()` answers for columns that are one cell. But a read says in which second it happens (`now_in_seconds`, protocol v5), and
//! shows what would be alive then: so whoever reads a place once more in the [last second](LAST) learns what of it stays, and by
//! halving the time between learns when the rest ends, to the second. That is done for what is about to be written only, and
//! with the expiries of cells beside it as first guesses: what one statement wrote ends together.
//!
//! What expires later than the last second counts as what stays. What other writes change while this asks is seen by the
//! comparison that follows.

use std::collections::{BTreeMap, BTreeSet};

use super::Side;
use super::diff::{Moment, gaps, row_is_written};
use super::rows::{Cell, Clustering, End, Form, Parts, parts};
use crate::protocol::cql::wire::Error;

/// In 2038, two days before the last second that servers know.
pub(in super::super) const LAST: i64 = i32::MAX as i64 - 2 * 86_400;
/// Questions about one place, at most; fewer where it is large, by the parts that are kept of all answers.
const QUESTIONS: usize = 256;
const KEPT_MAX: usize = 1 << 20;
/// Clocks of clients and servers are not one: a guess may be wrong by this.
const GUESS_SLACK: i64 = 2;

/// Something in it may expire of which a read does not tell when.
pub(super) fn is_hidden(side: &Side) -> bool {
    let may = |forms: &[Form], cells: &[Cell]| {
        let written = || forms.iter().zip(cells).filter(|(_, cell)| cell.value.is_some());
        // A row that is nothing but its key; or one that ends when its cells do, or does not.
        let bare = written().next().is_none();
        bare || written().any(|(form, cell)| form.has_parts() || cell.ttl.is_some())
    };
    !side.forms.contains(&Form::Counter)
        && (side.statics.iter().any(|cells| may(&side.static_forms, cells))
            || side.rows.values().any(|cells| may(&side.forms, cells)))
}

/// Note what of `side` is not there in `last` any more.
pub(super) fn mark(side: &mut Side, last: &Side) -> Result<(), Error> {
    let nothing = |count: usize| vec![Cell::default(); count];
    if let Some(cells) = &mut side.statics {
        let last = last.statics.clone().unwrap_or_else(|| nothing(cells.len()));
        mark_cells(&side.static_forms, cells, &last)?;
    }
    let mut ends = BTreeMap::new();
    for (key, cells) in &mut side.rows {
        let found = last.rows.get(key);
        if found.is_none() {
            ends.insert(key.clone(), End::Sometime);
        }
        let nothing = nothing(cells.len());
        mark_cells(&side.forms, cells, found.unwrap_or(&nothing))?;
    }
    side.row_ends = Some(ends);
    Ok(())
}

fn mark_cells(forms: &[Form], cells: &mut [Cell], last: &[Cell]) -> Result<(), Error> {
    for ((form, cell), last) in forms.iter().zip(cells).zip(last) {
        if !form.has_parts() || cell.value == last.value {
            continue;
        }
        let (here, there) = (parts(form, cell)?, parts(form, last)?);
        let mut alive = vec![true; here.len()];
        outlive(&here, &mut alive, &there);
        cell.ends = alive.iter().map(|alive| if *alive { End::Never } else { End::Sometime }).collect();
    }
    Ok(())
}

/// Of those that were alive, in order, those that `later` shows still are.
fn outlive(all: &[Vec<u8>], alive: &mut [bool], later: &[Vec<u8>]) {
    let mut later = later.iter().peekable();
    for (part, alive) in all.iter().zip(alive) {
        *alive = *alive && later.next_if_eq(&part).is_some();
    }
}

/// A row (`column` is none) or a column of it, or of the static ones (`row` is none).
#[derive(Clone, Debug, PartialEq, Eq)]
struct What {
    row: Option<Clustering>,
    column: Option<usize>,
}

/// Something that is about to be written and will expire.
struct Wanted {
    what: What,
    form: Form,
    all: Parts,
    /// Those that do not end.
    stays: Parts,
    /// As of the second up to which everything is known.
    alive: Vec<bool>,
    /// Those whose end is looked for.
    open: BTreeSet<usize>,
    /// Those whose end was found, in seconds from now.
    ends: BTreeMap<usize, i32>,
}

/// What one read shows of everything that is wanted.
type Shown = Vec<Parts>;

/// A search for the ends of what will be written.
pub(super) struct Search {
    wanted: Vec<Wanted>,
    shown: BTreeMap<i64, Shown>,
    /// Everything that ends up to this second is found.
    known: i64,
    now: i64,
    guesses: Vec<i64>,
    questions: usize,
}

impl Search {
    /// For what must be written to make `theirs` as `ours`, which expires. `None`: nothing of it does.
    pub(super) fn of(ours: &Side, theirs: &Side, moment: Moment, guess: Option<i64>) -> Result<Option<Search>, Error> {
        let mut wanted = Vec::new();
        let nothing = |count: usize| vec![Cell::default(); count];
        if let Some(cells) = &ours.statics {
            let theirs = theirs.statics.clone().unwrap_or_else(|| nothing(cells.len()));
            want(&mut wanted, None, &ours.static_forms, cells, &theirs, moment)?;
        }
        for (key, cells) in &ours.rows {
            let others = theirs.rows.get(key);
            if ours.row_end(key) == Some(End::Sometime) && row_is_written(ours, theirs, key) {
                let what = What { row: Some(key.clone()), column: None };
                wanted.push(Wanted::new(what, Form::One, (vec![Vec::new()], Vec::new()), [0].into()));
            }
            let nothing = nothing(cells.len());
            want(&mut wanted, Some(key), &ours.forms, cells, others.unwrap_or(&nothing), moment)?;
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let now = moment.second();
        let kept: usize = wanted.iter().map(|one| one.all.len()).sum();
        let questions = (KEPT_MAX / kept).clamp(8, QUESTIONS);
        let mut guesses: BTreeSet<i64> = guess.into_iter().collect();
        let cells = ours.statics.iter().chain(ours.rows.values()).flatten();
        guesses.extend(cells.filter_map(|cell| Some(now + i64::from(cell.ttl?))).take(QUESTIONS));
        let guesses = guesses.into_iter().flat_map(|at| [at + GUESS_SLACK, at - GUESS_SLACK]).collect();
        let shown = [(LAST, wanted.iter().map(|one| one.stays.clone()).collect())].into();
        Ok(Some(Search { wanted, shown, known: now, now, guesses, questions }))
    }

    /// The second in which the place must be read next. `None`: all is known.
    pub(super) fn question(&mut self) -> Option<i64> {
        while self.wanted.iter().any(|one| !one.open.is_empty()) {
            let (alive, over) = self.bracket()?;
            if over - alive > 1 && self.questions > 0 {
                self.questions -= 1;
                let guess = self.guesses.iter().copied().find(|at| alive < *at && *at < over);
                return Some(guess.unwrap_or(alive + (over - alive) / 2));
            }
            // Where no more may be asked, it is kept for too long rather than not long enough.
            self.end_at(over);
        }
        None
    }

    /// What the place shows in that second.
    pub(super) fn answer(&mut self, second: i64, side: &Side) -> Result<(), Error> {
        let shown = self.wanted.iter().map(|one| one.shown(side)).collect::<Result<_, _>>()?;
        self.shown.insert(second, shown);
        Ok(())
    }

    /// No more can be asked.
    pub(super) fn give_up(&mut self) {
        self.questions = 0;
    }

    /// Between these two the first of what is open ends.
    fn bracket(&self) -> Option<(i64, i64)> {
        let mut alive = self.known;
        for (second, shown) in self.shown.range(self.known + 1..) {
            if self.wanted.iter().zip(shown).any(|(one, shown)| one.loses(shown)) {
                return Some((alive, *second));
            }
            alive = *second;
        }
        None
    }

    fn end_at(&mut self, second: i64) {
        let Some(shown) = self.shown.get(&second) else { return };
        for (one, shown) in self.wanted.iter_mut().zip(shown) {
            outlive(&one.all, &mut one.alive, shown);
        }
        self.known = second;
        let ttl = i32::try_from(second - self.now).unwrap_or(i32::MAX);
        for one in &mut self.wanted {
            let over: Vec<usize> = one.open.iter().copied().filter(|at| !one.alive[*at]).collect();
            for at in over {
                one.open.remove(&at);
                one.ends.insert(at, ttl);
            }
        }
    }

    /// Note the ends that were found.
    pub(super) fn tell(self, side: &mut Side) {
        for Wanted { what: What { row, column }, ends, .. } in self.wanted {
            let Some(column) = column else {
                let told = row.zip(ends.get(&0).copied());
                side.row_ends.get_or_insert_default().extend(told.map(|(row, ttl)| (row, End::In(ttl))));
                continue;
            };
            let cells = match &row {
                Some(row) => side.rows.get_mut(row),
                None => side.statics.as_mut(),
            };
            let Some(cell) = cells.and_then(|cells| cells.get_mut(column)) else { continue };
            for (at, ttl) in ends {
                cell.ends[at] = End::In(ttl);
            }
        }
    }
}

fn want(
    wanted: &mut Vec<Wanted>,
    row: Option<&Clustering>,
    forms: &[Form],
    ours: &[Cell],
    theirs: &[Cell],
    moment: Moment,
) -> Result<(), Error> {
    for (column, ((form, ours), theirs)) in forms.iter().zip(ours).zip(theirs).enumerate() {
        if !ours.ends.contains(&End::Sometime) {
            continue;
        }
        let open = gaps(form, ours, theirs, moment)?;
        let open: BTreeSet<usize> = open.into_iter().filter(|at| ours.ends[*at] == End::Sometime).collect();
        if !open.is_empty() {
            let what = What { row: row.cloned(), column: Some(column) };
            let all = parts(form, ours)?;
            let stays = all.iter().zip(&ours.ends).filter(|(_, end)| **end == End::Never);
            let stays = stays.map(|(part, _)| part.clone()).collect();
            wanted.push(Wanted::new(what, form.clone(), (all, stays), open));
        }
    }
    Ok(())
}

impl Wanted {
    fn new(what: What, form: Form, (all, stays): (Parts, Parts), open: BTreeSet<usize>) -> Wanted {
        let alive = vec![true; all.len()];
        Wanted { what, form, all, stays, alive, open, ends: BTreeMap::new() }
    }

    fn shown(&self, side: &Side) -> Result<Parts, Error> {
        let cells = match &self.what.row {
            Some(row) => side.rows.get(row),
            None => side.statics.as_ref(),
        };
        match (cells, self.what.column) {
            (None, _) => Ok(Vec::new()),
            (Some(_), None) => Ok(vec![Vec::new()]),
            (Some(cells), Some(column)) => parts(&self.form, &cells[column]),
        }
    }

    fn loses(&self, shown: &[Vec<u8>]) -> bool {
        let mut alive = self.alive.clone();
        outlive(&self.all, &mut alive, shown);
        self.open.iter().any(|at| !alive[*at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::applier::state::rows::collected;

    const NOW: i64 = 1_000_000;
    const MOMENT: Moment = Moment { read: NOW * 1_000_000, newest: None, allowed: None, round: 0 };

    /// Elements, and when each ends, in seconds from now.
    type Lives = [(u8, Option<i64>)];

    /// What a server shows of a list or set in that second.
    fn shown(form: Form, lives: &Lives, second: i64) -> Side {
        let alive = lives.iter().filter(|(_, end)| end.is_none_or(|end| second < NOW + end));
        let alive: Vec<[u8; 1]> = alive.map(|(element, _)| [*element]).collect();
        let mut side = Side { forms: vec![form], ..Side::default() };
        if !alive.is_empty() {
            let elements: Vec<&[u8]> = alive.iter().map(|element| &element[..]).collect();
            let cell = Cell { value: Some(collected(&elements, 1)), ..Cell::default() };
            side.rows.insert(Clustering::new(), vec![cell]);
        }
        side
    }

    fn marked(form: Form, lives: &Lives) -> Side {
        let mut side = shown(form.clone(), lives, NOW);
        mark(&mut side, &shown(form, lives, LAST)).expect("well-formed");
        side
    }

    /// What is found of `ours` where the secondary has `theirs`: the ends of elements and of the row, and how often it was asked.
    fn found(form: Form, ours: &Lives, theirs: &Lives, guess: Option<i64>) -> (Vec<End>, Option<End>, usize) {
        let (mut side, other) = (marked(form.clone(), ours), marked(form.clone(), theirs));
        let search = Search::of(&side, &other, MOMENT, guess.map(|guess| NOW + guess)).expect("well-formed");
        let mut asked = 0;
        if let Some(mut search) = search {
            while let Some(second) = search.question() {
                asked += 1;
                search.answer(second, &shown(form.clone(), ours, second)).expect("well-formed");
            }
            search.tell(&mut side);
        }
        (side.rows[&Clustering::new()][0].ends.clone(), side.row_end(&Clustering::new()), asked)
    }

    #[test]
    fn each_element_of_a_list_ends_when_it_does_also_among_its_likes() {
        let lives = [(1, Some(60)), (2, None), (1, None), (1, Some(90)), (3, Some(60)), (4, Some(61))];
        let (ends, row, _) = found(Form::List, &lives, &[], None);
        // Of equal elements nobody can tell which one goes; what is shown at any time is the same.
        let visible = |second: i64| {
            let alive = lives.iter().zip(&ends).filter(|(_, end)| end.ttl().is_none_or(|ttl| second < i64::from(ttl)));
            alive.map(|((element, _), _)| *element).collect::<Vec<_>>()
        };
        for second in [0, 59, 60, 61, 89, 90, 1_000] {
            let cell = shown(Form::List, &lives, NOW + second).rows[&Clustering::new()][0].clone();
            let expected: Vec<u8> = parts(&Form::List, &cell).expect("a list").into_iter().flatten().collect();
            assert_eq!(visible(second), expected, "in {second} s");
        }
        assert_eq!(row, Some(End::Never));
    }

    #[test]
    fn a_row_ends_with_the_last_of_it() {
        let lives = [(1, Some(60)), (2, Some(600))];
        assert_eq!(found(Form::Set, &lives, &[], None).1, Some(End::In(600)));
    }

    #[test]
    fn a_good_guess_saves_questions_and_a_bad_one_costs_few() {
        let lives = [(1, Some(86_400)), (2, None)];
        let asked = |guess| {
            let (ends, _, asked) = found(Form::Set, &lives, &[], guess);
            assert_eq!(ends, [End::In(86_400), End::Never]);
            asked
        };
        assert!(asked(Some(86_401)) <= 4, "{}", asked(Some(86_401)));
        assert!(asked(None) <= 32 && asked(Some(5)) <= 34);
    }

    #[test]
    fn only_what_is_written_is_asked_about() {
        let many: Vec<(u8, Option<i64>)> = (0..200).map(|n| (n, Some(1_000 + i64::from(n) * 60))).collect();
        let (ends, _, asked) = found(Form::List, &many, &many[..199], None);
        assert!(asked <= 32 && ends[198] == End::Sometime && ends[199] == End::In(12_940), "{asked}");
        assert_eq!(found(Form::List, &many, &many, None).2, 0, "both end, and nothing is missing");
    }

    #[test]
    fn what_ends_here_and_stays_there_is_written_and_the_other_way_round() {
        let (ends, stays) = ([(1, Some(60))], [(1, None)]);
        assert_eq!(found(Form::Set, &ends, &stays, None).0, [End::In(60)]);
        let (ours, theirs) = (marked(Form::Set, &stays), marked(Form::Set, &ends));
        let cell = |side: &Side| side.rows[&Clustering::new()][0].clone();
        assert_eq!(gaps(&Form::Set, &cell(&ours), &cell(&theirs), MOMENT), Ok(vec![0]));
    }

    #[test]
    fn too_many_ends_are_too_late_rather_than_too_early() {
        let many: Vec<(u8, Option<i64>)> = (0..=255).map(|n| (n, Some(1_000 + i64::from(n) * 7))).collect();
        let (ends, _, asked) = found(Form::List, &many, &[], None);
        assert_eq!(asked, QUESTIONS);
        for ((_, end), found) in many.iter().zip(&ends) {
            assert!(found.ttl().map(i64::from) >= *end, "{end:?} {found:?}");
        }
    }
}
