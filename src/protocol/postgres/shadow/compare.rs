//! Two answers to one question: what is the same, what differs, and what nobody can tell apart.
//!
//! Bytes first: nearly all answers are equal to the byte. Where they are not, values are brought into normal form (see
//! [`super::normal`]) and rows are compared as a set, because the order that a statement does not ask for means nothing.
//! What it does ask for is compared as far as the answer's own columns tell it. Where the data leaves a choice (which of
//! equal rows a LIMIT takes), a difference that the choice explains is no difference, and no agreement either: *ties*.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::protocol::postgres::catalog::FIRST_NORMAL_OID;
use crate::protocol::postgres::plan::{Read, Sorted};
use crate::shadow::How;

use super::answer::{Answer, Described, values};
use super::leeway::Leeway;
use super::normal;

/// What comparing two answers found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// They say the same.
    Equal,
    /// They do not.
    Differs(Found),
    /// They do not, and the statement leaves that open.
    Ties,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) how: How,
    /// Positions of the columns that differ, where that can be said.
    pub(super) columns: Vec<usize>,
    /// Rows of the primary that the secondary has not, and the other way round.
    pub(super) missing: Vec<Bytes>,
    pub(super) extra: Vec<Bytes>,
}

impl Found {
    fn only(how: How) -> Found {
        Found { how, columns: Vec::new(), missing: Vec::new(), extra: Vec::new() }
    }
}

/// What is known of the question.
pub(super) struct Question<'a> {
    pub(super) read: &'a Read,
    /// By the plan.
    pub(super) leeway: Leeway,
    /// Columns, by position, that nobody compares.
    pub(super) ignored: &'a [usize],
    /// Columns, by position, with equal values that may look different.
    pub(super) looks: &'a [usize],
    /// Columns, by position, that name a row of the table that is read; empty: none do.
    pub(super) key: &'a [usize],
}

/// Compare what the primary said with what the secondary said.
pub(super) fn compare(question: &Question<'_>, primary: &Answer, secondary: &Answer) -> Compared {
    match (&primary.error, &secondary.error) {
        (None, None) => {}
        (Some(one), Some(other)) if class(one) == class(other) => return Compared::Equal,
        _ => return Compared::Differs(Found::only(How::OtherError)),
    }
    if let Some(found) = other_type(primary, secondary) {
        return Compared::Differs(found);
    }
    if primary.rows == secondary.rows {
        return Compared::Equal;
    }
    // Without a description nobody asked for more than bytes.
    let columns = secondary.columns.as_deref().unwrap_or_default();
    Rows { question, columns }.compare(&primary.rows, &secondary.rows)
}

/// The first two characters of a SQLSTATE (documentation, "PostgreSQL Error Codes").
pub(super) fn class(code: &str) -> &str {
    code.get(..2).unwrap_or(code)
}

fn other_type(primary: &Answer, secondary: &Answer) -> Option<Found> {
    let there = secondary.columns.as_deref().unwrap_or_default();
    let here = primary.columns.as_deref()?;
    if here.len() != there.len() {
        return Some(Found::only(How::OtherType));
    }
    // User types have other oids on each server.
    let same = |one: u32, other: u32| one == other || one.min(other) >= FIRST_NORMAL_OID;
    let differ = |(one, other): (&Described, &Described)| one.name != other.name || !same(one.type_oid, other.type_oid);
    let columns: Vec<usize> =
        here.iter().zip(there).enumerate().filter(|(_, pair)| differ(*pair)).map(|(at, _)| at).collect();
    (!columns.is_empty()).then(|| Found { columns, ..Found::only(How::OtherType) })
}

struct Rows<'a> {
    question: &'a Question<'a>,
    columns: &'a [Described],
}

impl Rows<'_> {
    fn compare(&self, primary: &[Bytes], secondary: &[Bytes]) -> Compared {
        let here: Vec<Vec<u8>> = primary.iter().map(|row| self.normal(row)).collect();
        let there: Vec<Vec<u8>> = secondary.iter().map(|row| self.normal(row)).collect();
        if here == there {
            return Compared::Equal;
        }
        let (missing, extra) = apart(&here, &there);
        if missing.is_empty() && extra.is_empty() {
            return match self.is_in_order(primary, secondary) {
                true => Compared::Equal,
                false => Compared::Differs(Found::only(How::OtherOrder)),
            };
        }
        let of = |rows: &[Bytes], at: Vec<usize>| at.into_iter().map(|at| rows[at].clone()).collect::<Vec<_>>();
        let (missing, extra) = (of(primary, missing), of(secondary, extra));
        let (read, leeway) = (self.question.read, self.question.leeway);
        // However rows are chosen, as many are.
        let chosen = read.limited && !read.total && missing.len() == extra.len();
        let (missing, extra) = if chosen { self.of_same_rows(missing, extra) } else { (missing, extra) };
        let none = missing.is_empty() && extra.is_empty();
        if none || read.loose || leeway.loose || self.is_open(&missing, &extra) {
            return Compared::Ties;
        }
        Compared::Differs(self.found(missing, extra))
    }

    /// A difference that the statement leaves open.
    fn is_open(&self, missing: &[Bytes], extra: &[Bytes]) -> bool {
        let (read, leeway) = (self.question.read, self.question.leeway);
        let (gathers, picks) = (read.gathers || leeway.gathers, read.picks || leeway.picks);
        gathers && self.are_gathered(missing, extra) || picks && self.are_picked(missing, extra)
    }

    /// Those of the rows that a LIMIT took which are the same row on both sides, by their key: which others there are is open, what
    /// is in these is not.
    fn of_same_rows(&self, missing: Vec<Bytes>, extra: Vec<Bytes>) -> (Vec<Bytes>, Vec<Bytes>) {
        let key = self.question.key;
        if key.is_empty() || !self.question.read.rowwise {
            return (Vec::new(), Vec::new());
        }
        let keys = |rows: &[Bytes]| rows.iter().map(|row| self.key(key, row)).collect::<HashSet<_>>();
        let (here, there) = (keys(&missing), keys(&extra));
        if here.len() < missing.len() || there.len() < extra.len() {
            return (Vec::new(), Vec::new());
        }
        let of = |rows: Vec<Bytes>, other: &HashSet<Vec<u8>>| {
            rows.into_iter().filter(|row| other.contains(&self.key(key, row))).collect()
        };
        (of(missing, &there), of(extra, &here))
    }

    /// The rows are the same but for which of several equal values is shown.
    fn are_picked(&self, missing: &[Bytes], extra: &[Bytes]) -> bool {
        let left_out = |at: usize| self.question.ignored.contains(&at) || self.question.looks.contains(&at);
        let mut sides =
            [missing, extra].map(|rows| rows.iter().map(|row| self.normal_but(row, left_out)).collect::<Vec<_>>());
        sides.iter_mut().for_each(|side| side.sort_unstable());
        !self.question.looks.is_empty() && sides[0] == sides[1]
    }

    fn normal(&self, row: &[u8]) -> Vec<u8> {
        self.normal_but(row, |at| self.question.ignored.contains(&at))
    }

    fn normal_but(&self, row: &[u8], left_out: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(row.len() + 16);
        for (at, value) in values(row).enumerate() {
            if !left_out(at) {
                let (type_oid, binary) = self.kind(at);
                normal::put(&mut out, type_oid, binary, value);
            }
        }
        out
    }

    fn kind(&self, at: usize) -> (u32, bool) {
        self.columns.get(at).map_or((0, true), |column| (column.type_oid, column.binary))
    }

    /// The rows are the same: is their order, as far as the statement asks for one?
    fn is_in_order(&self, primary: &[Bytes], secondary: &[Bytes]) -> bool {
        let read = self.question.read;
        if read.total {
            return false;
        }
        let by: Vec<usize> = read.sort.iter().map_while(|sorted| self.position(sorted)).collect();
        let keys = |row: &Bytes| -> Vec<u8> {
            let mut out = Vec::new();
            let values: Vec<_> = values(row).collect();
            for &at in &by {
                let (type_oid, binary) = self.kind(at);
                normal::put(&mut out, type_oid, binary, values.get(at).copied().flatten());
            }
            out
        };
        primary.iter().map(keys).eq(secondary.iter().map(keys))
    }

    /// A column of the answer by which it is sorted, if equal means the same text there.
    fn position(&self, sorted: &Sorted) -> Option<usize> {
        let at = match sorted {
            Sorted::At(at) => *at,
            Sorted::Named(name) => {
                let mut named = self.columns.iter().enumerate().filter(|(_, column)| column.name == *name);
                let (at, _) = named.next()?;
                named.next().is_none().then_some(at)?
            }
        };
        let plain = crate::protocol::postgres::analysis::is_strict(self.columns.get(at)?.type_oid);
        (plain && !self.question.ignored.contains(&at)).then_some(at)
    }

    /// Aggregates of the same rows that came in another order: the same bytes in another one, and any floats. How far apart
    /// sums of floats may be that were added up in another order depends on what was added, which the answer does not
    /// show: where large ones cancel each other out, nothing of both is alike.
    fn are_gathered(&self, missing: &[Bytes], extra: &[Bytes]) -> bool {
        let mut sides = [missing, extra].map(|rows| rows.iter().map(|row| self.gathered(row)).collect::<Vec<_>>());
        sides.iter_mut().for_each(|side| side.sort_unstable());
        sides[0] == sides[1]
    }

    /// What is left of a row when the order inside its values means nothing, nor do its floats.
    fn gathered(&self, row: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, value) in values(row).enumerate() {
            let (type_oid, binary) = self.kind(at);
            let Some(value) = value.filter(|_| !self.question.ignored.contains(&at)) else {
                out.push(0);
                continue;
            };
            if normal::float(type_oid, binary, value).is_some_and(f64::is_finite) {
                out.push(2);
                continue;
            }
            let mut inside = Vec::new();
            match normal::without_numbers(type_oid, value).filter(|_| self.question.leeway.rounds) {
                Some(words) => inside = words,
                None => normal::put(&mut inside, type_oid, binary, Some(value)),
            }
            inside.sort_unstable();
            out.push(1);
            out.extend_from_slice(&inside);
        }
        out
    }

    fn found(&self, missing: Vec<Bytes>, extra: Vec<Bytes>) -> Found {
        let (how, columns) = match self.question.key {
            [] => self.by_count(&missing, &extra),
            key => self.by_key(key, &missing, &extra),
        };
        Found { how, columns, missing, extra }
    }

    fn by_count(&self, missing: &[Bytes], extra: &[Bytes]) -> (How, Vec<usize>) {
        match (missing, extra) {
            ([one], [other]) => (How::OtherValue, self.columns_that_differ(one, other)),
            _ => match missing.len().cmp(&extra.len()) {
                Ordering::Greater => (How::MissingRow, Vec::new()),
                Ordering::Less => (How::ExtraRow, Vec::new()),
                Ordering::Equal => (How::OtherValue, Vec::new()),
            },
        }
    }

    fn by_key(&self, key: &[usize], missing: &[Bytes], extra: &[Bytes]) -> (How, Vec<usize>) {
        let mut there: HashMap<Vec<u8>, &Bytes> = extra.iter().map(|row| (self.key(key, row), row)).collect();
        let mut columns = Vec::new();
        let mut lost = false;
        for row in missing {
            match there.remove(&self.key(key, row)) {
                Some(other) => columns.extend(self.columns_that_differ(row, other)),
                None => lost = true,
            }
        }
        columns.sort_unstable();
        columns.dedup();
        match (lost, there.is_empty()) {
            (true, _) => (How::MissingRow, columns),
            (false, false) => (How::ExtraRow, columns),
            (false, true) => (How::OtherValue, columns),
        }
    }

    fn key(&self, key: &[usize], row: &[u8]) -> Vec<u8> {
        let values: Vec<_> = values(row).collect();
        let mut out = Vec::new();
        for &at in key {
            let (type_oid, binary) = self.kind(at);
            normal::put(&mut out, type_oid, binary, values.get(at).copied().flatten());
        }
        out
    }

    fn columns_that_differ(&self, one: &[u8], other: &[u8]) -> Vec<usize> {
        let form = |at: usize, value: Option<&[u8]>| {
            let (mut out, (type_oid, binary)) = (Vec::new(), self.kind(at));
            normal::put(&mut out, type_oid, binary, value);
            out
        };
        let pairs = values(one).zip(values(other)).enumerate();
        let differ = pairs.filter(|&(at, (a, b))| !self.question.ignored.contains(&at) && form(at, a) != form(at, b));
        differ.map(|(at, _)| at).collect()
    }
}

/// Positions of what only one of both has, counted as often as it is there.
fn apart(here: &[Vec<u8>], there: &[Vec<u8>]) -> (Vec<usize>, Vec<usize>) {
    let sorted = |rows: &[Vec<u8>]| {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by(|&a, &b| rows[a].cmp(&rows[b]));
        order
    };
    let (one, two) = (sorted(here), sorted(there));
    let (mut a, mut b) = (one.iter().copied().peekable(), two.iter().copied().peekable());
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return (missing, extra),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(&x), Some(&y)) => here[x].cmp(&there[y]),
        };
        if order != Ordering::Greater {
            missing.extend(a.next().filter(|_| order == Ordering::Less));
        }
        if order != Ordering::Less {
            extra.extend(b.next().filter(|_| order == Ordering::Greater));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::*;

    /// Text columns of these types.
    fn described(types: &[u32]) -> Vec<Described> {
        let column = |(at, &type_oid): (usize, &u32)| {
            let name = char::from(b'a' + at as u8).to_string();
            Described { name, table: 16_400, attnum: 1, type_oid, binary: false }
        };
        types.iter().enumerate().map(column).collect()
    }

    fn row(values: &[&str]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u16(values.len() as u16);
        for value in values {
            out.put_i32(value.len() as i32);
            out.extend_from_slice(value.as_bytes());
        }
        out.freeze()
    }

    fn answer(types: &[u32], rows: &[&[&str]]) -> Answer {
        let rows = rows.iter().map(|values| row(values)).collect();
        Answer { columns: Some(described(types)), rows, ..Answer::default() }
    }

    fn of(read: &Read, primary: &Answer, secondary: &Answer) -> Compared {
        compare(&Question { read, leeway: Leeway::default(), ignored: &[], looks: &[], key: &[] }, primary, secondary)
    }

    fn how(compared: Compared) -> Option<How> {
        match compared {
            Compared::Differs(found) => Some(found.how),
            Compared::Equal | Compared::Ties => None,
        }
    }

    const TWO: &[u32] = &[23, 25];

    #[test]
    fn order_that_nobody_asked_for_means_nothing() {
        let (one, other) = (answer(TWO, &[&["1", "x"], &["2", "y"]]), answer(TWO, &[&["2", "y"], &["1", "x"]]));
        assert_eq!(of(&Read::default(), &one, &other), Compared::Equal);
        let by = |sort| Read { sort, ..Read::default() };
        assert_eq!(how(of(&by(vec![Sorted::Named("b".into())]), &one, &other)), Some(How::OtherOrder));
        assert_eq!(how(of(&by(vec![Sorted::At(0)]), &one, &other)), Some(How::OtherOrder));
        assert_eq!(of(&by(vec![Sorted::Named("elsewhere".into())]), &one, &other), Compared::Equal);
        assert_eq!(how(of(&Read { total: true, ..Read::default() }, &one, &other)), Some(How::OtherOrder));
        let equal = (answer(TWO, &[&["1", "x"], &["1", "y"]]), answer(TWO, &[&["1", "y"], &["1", "x"]]));
        assert_eq!(of(&by(vec![Sorted::At(0)]), &equal.0, &equal.1), Compared::Equal);
    }

    #[test]
    fn each_kind_of_difference_is_told() {
        let one = answer(TWO, &[&["1", "x"], &["2", "y"]]);
        for (other, expected) in [
            (answer(TWO, &[&["1", "x"]]), How::MissingRow),
            (answer(TWO, &[&["1", "x"], &["2", "y"], &["2", "y"]]), How::ExtraRow),
            (answer(TWO, &[&["1", "x"], &["2", "z"]]), How::OtherValue),
            (answer(&[20, 25], &[&["1", "x"], &["2", "y"]]), How::OtherType),
            (answer(&[23], &[]), How::OtherType),
            (Answer { error: Some("42P01".into()), ..Answer::default() }, How::OtherError),
        ] {
            assert_eq!(how(of(&Read::default(), &one, &other)), Some(expected));
        }
    }

    #[test]
    fn errors_are_compared_by_class() {
        let error = |code: &str| Answer { error: Some(code.into()), ..Answer::default() };
        assert_eq!(of(&Read::default(), &error("22012"), &error("22003")), Compared::Equal);
        assert_eq!(how(of(&Read::default(), &error("22012"), &error("42P01"))), Some(How::OtherError));
    }

    #[test]
    fn rows_are_told_apart_by_their_key_and_columns_are_named() {
        let (one, other) = (answer(TWO, &[&["1", "x"], &["2", "y"]]), answer(TWO, &[&["1", "z"], &["3", "y"]]));
        let read = Read::default();
        let question = Question { read: &read, leeway: Leeway::default(), ignored: &[], looks: &[], key: &[0] };
        let Compared::Differs(found) = compare(&question, &one, &other) else { panic!("they differ") };
        assert_eq!((found.how, &found.columns[..]), (How::MissingRow, &[1][..]));
        assert_eq!((found.missing.len(), found.extra.len()), (2, 2));
    }

    #[test]
    fn named_columns_are_ignored() {
        let (one, other) = (answer(TWO, &[&["1", "x"]]), answer(TWO, &[&["1", "z"]]));
        let read = Read::default();
        let question = Question { read: &read, leeway: Leeway::default(), ignored: &[1], looks: &[], key: &[] };
        assert_eq!(compare(&question, &one, &other), Compared::Equal);
    }

    #[test]
    fn what_a_limit_takes_of_equals_is_open_but_not_how_many() {
        let read = Read { limited: true, ..Read::default() };
        let one = answer(TWO, &[&["1", "x"]]);
        assert_eq!(of(&read, &one, &answer(TWO, &[&["1", "y"]])), Compared::Ties);
        assert_eq!(how(of(&read, &one, &answer(TWO, &[]))), Some(How::MissingRow));
        let total = Read { total: true, ..read };
        assert_eq!(how(of(&total, &one, &answer(TWO, &[&["1", "y"]]))), Some(How::OtherValue));
        let loose = Read { loose: true, ..Read::default() };
        assert_eq!(of(&loose, &one, &answer(TWO, &[])), Compared::Ties);
    }

    #[test]
    fn what_is_in_a_row_that_a_limit_took_on_both_sides_is_not_open() {
        let read = Read { limited: true, rowwise: true, ..Read::default() };
        let keyed = |read: &Read, one: &[&[&str]], other: &[&[&str]]| {
            let question = Question { read, leeway: Leeway::default(), ignored: &[], looks: &[], key: &[0] };
            compare(&question, &answer(TWO, one), &answer(TWO, other))
        };
        let found = keyed(&read, &[&["1", "x"], &["2", "y"]], &[&["1", "z"], &["3", "w"]]);
        let Compared::Differs(found) = found else { panic!("{found:?}") };
        assert_eq!((found.how, &found.columns[..], found.missing.len()), (How::OtherValue, &[1][..], 1));
        assert_eq!(keyed(&read, &[&["1", "x"]], &[&["2", "x"]]), Compared::Ties);
        assert_eq!(keyed(&read, &[&["1", "x"], &["1", "y"]], &[&["1", "v"], &["1", "w"]]), Compared::Ties);
        for open in [Read { rowwise: false, ..read.clone() }, Read { loose: true, ..read }] {
            assert_eq!(keyed(&open, &[&["1", "x"]], &[&["1", "z"]]), Compared::Ties);
        }
    }

    #[test]
    fn which_of_several_equal_values_is_shown_is_open() {
        let read = Read { picks: true, ..Read::default() };
        let of = |read: &Read, looks: &[usize], one: &[&str], other: &[&str]| {
            let question = Question { read, leeway: Leeway::default(), ignored: &[], looks, key: &[] };
            compare(&question, &answer(TWO, &[one]), &answer(TWO, &[other]))
        };
        assert_eq!(of(&read, &[1], &["7", "Bob"], &["7", "bob"]), Compared::Ties);
        assert_eq!(how(of(&read, &[1], &["7", "Bob"], &["8", "bob"])), Some(How::OtherValue));
        assert_eq!(how(of(&read, &[], &["7", "Bob"], &["7", "bob"])), Some(How::OtherValue));
        assert_eq!(how(of(&Read::default(), &[1], &["7", "Bob"], &["7", "bob"])), Some(How::OtherValue));
    }

    #[test]
    fn what_is_gathered_in_another_order_is_open() {
        let read = Read { gathers: true, ..Read::default() };
        let types = &[1007, 701];
        let one = answer(types, &[&["{1,2}", "0.30000000000000004"]]);
        assert_eq!(of(&read, &one, &answer(types, &[&["{2,1}", "0.3"]])), Compared::Ties);
        assert_eq!(how(of(&read, &one, &answer(types, &[&["{2,3}", "0.3"]]))), Some(How::OtherValue));
        assert_eq!(how(of(&read, &one, &answer(types, &[&["{2,1}", "NaN"]]))), Some(How::OtherValue));
        assert_eq!(how(of(&read, &one, &answer(types, &[]))), Some(How::MissingRow));
    }

    #[test]
    fn sums_of_floats_in_another_order_are_no_difference_promise_8() {
        let read = Read { gathers: true, ..Read::default() };
        // Of single precision; and 1e17 + 3 - 1e17, added up in two orders.
        for (type_oid, one, other) in [(700, "2190.8315", "2190.832"), (701, "0", "3")] {
            let sums = |sum: &str| answer(&[20, type_oid], &[&["7", sum]]);
            assert_eq!(of(&read, &sums(one), &sums(other)), Compared::Ties);
            assert_eq!(how(of(&Read::default(), &sums(one), &sums(other))), Some(How::OtherValue));
        }
    }

    #[test]
    fn what_a_plan_leaves_open_is_open_and_nothing_else() {
        let read = Read::default();
        let of = |leeway, kind: u32, one: &str, other: &str| {
            let question = Question { read: &read, leeway, ignored: &[], looks: &[], key: &[] };
            let [one, other] = [one, other].map(|value| answer(&[25, kind], &[&["group", value]]));
            compare(&question, &one, &other)
        };
        let rounds = Leeway { gathers: true, rounds: true, ..Leeway::default() };
        for (kind, one, other) in [
            (25, "total: 2190.8315 kg", "total: -2.1e-7 kg"),
            (1700, "1.25", "1.26"),
            (3802, "{\"a\": 1}", "{\"a\": 2}"),
        ] {
            assert_eq!(of(rounds, kind, one, other), Compared::Ties);
            let gathers = Leeway { rounds: false, ..rounds };
            assert_eq!(how(of(gathers, kind, one, other)), Some(How::OtherValue), "{one}");
        }
        for (kind, one, other) in [
            (25, "total: 1", "sum: 1"),
            (25, "1", "NaN"),
            (23, "1", "2"),
            (1184, "2020-01-01 00:00:00+00", "2021-01-01 00:00:00+00"),
        ] {
            assert_eq!(how(of(rounds, kind, one, other)), Some(How::OtherValue), "{one}");
        }
        assert_eq!(of(Leeway { loose: true, ..Leeway::default() }, 23, "1", "2"), Compared::Ties);
    }

    fn some_rows() -> impl Strategy<Value = Vec<(i32, String)>> {
        prop::collection::vec((0..20_i32, "[a-c]{0,2}"), 0..12)
    }

    fn as_answer(rows: &[(i32, String)]) -> Answer {
        let rows = rows.iter().map(|(id, text)| row(&[&id.to_string(), text])).collect();
        Answer { columns: Some(described(TWO)), rows, ..Answer::default() }
    }

    proptest! {
        #[test]
        fn rows_in_any_order_are_equal(rows in some_rows(), seed in any::<u64>()) {
            let mut other = rows.clone();
            let turn = usize::try_from(seed % (rows.len() as u64 + 1)).expect("small");
            other.rotate_left(turn);
            other.reverse();
            prop_assert_eq!(of(&Read::default(), &as_answer(&rows), &as_answer(&other)), Compared::Equal);
        }

        #[test]
        fn any_other_set_of_rows_is_found(one in some_rows(), other in some_rows()) {
            let (mut a, mut b) = (one.clone(), other.clone());
            a.sort();
            b.sort();
            let compared = of(&Read::default(), &as_answer(&one), &as_answer(&other));
            prop_assert_eq!(compared == Compared::Equal, a == b);
            if let Compared::Differs(found) = compared {
                prop_assert_eq!(
                    one.len() as i64 - other.len() as i64,
                    found.missing.len() as i64 - found.extra.len() as i64
                );
            }
        }

        #[test]
        fn a_side_that_lost_a_row_is_found_whatever_was_asked(
            rows in some_rows().prop_filter("some", |rows| !rows.is_empty()),
            (limited, total, gathers) in any::<(bool, bool, bool)>(),
        ) {
            let read = Read { limited, total, gathers, ..Read::default() };
            let found = of(&read, &as_answer(&rows), &as_answer(&rows[1..]));
            prop_assert_eq!(how(found), Some(How::MissingRow));
        }
    }
}
