//! Rows of two columns as small texts: `1@5 .` is a one that was written at five, and a null; `-` is no row.

use proptest::prelude::*;

use super::*;
use crate::protocol::cql::wire::types::Native;

const INT: Type = Type::Native(Native::Int);

fn table(kind: &str) -> Table {
    let columns = [("k", "partition_key", "int"), ("a", "regular", kind), ("b", "regular", kind)];
    let described = |(name, role, kind)| Column::described(name, role, 0, kind);
    Table::new("Shop", "t", columns.into_iter().map(described).collect())
}

fn question(table: &Table) -> Question<'_> {
    let looked = |name| Looked { column: table.column(name).expect("it has it"), kinds: (&INT, &INT) };
    Question::of(table, ["a", "b"].into_iter().map(looked).collect())
}

fn cell(text: &str) -> Cell {
    let (value, stamp) = text.split_once('@').map_or((text, None), |(value, stamp)| (value, Some(stamp)));
    let value = value.parse::<i32>().ok().map(|value| value.to_be_bytes().to_vec());
    Cell { value, writetime: stamp.map(|stamp| stamp.parse().expect("a number")), ..Cell::default() }
}

fn seen(text: &str) -> Seen {
    (text != "-").then(|| text.split_whitespace().map(cell).collect())
}

/// `looks`: the secondary's, the primary's, the secondary's, the primary's.
fn judged(kind: &str, looks: [&str; 4]) -> Judged {
    let [early, before, theirs, after] = looks.map(seen);
    question(&table(kind)).judge(&Looks { early, before, theirs, after })
}

fn differs(how: How, columns: &[&str]) -> Judged {
    Judged::Differs(how, columns.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn every_cell_is_judged_by_what_the_primary_can_have_had() {
    let value = |columns| differs(How::OtherValue, columns);
    let (missing, extra) = (|| differs(How::MissingRow, &[]), || differs(How::ExtraRow, &[]));
    for (looks, expected) in [
        // The first column is hot; the second is stale.
        (["1@1 7@1", "2@2 8@1", "3@3 7@1", "4@4 8@1"], value(&["b"])),
        (["1@1 .", "2@2 8@1", "3@3 .", "4@4 8@1"], value(&["b"])),
        // It was deleted on the primary, and stays on the secondary.
        (["1@1 7@1", "2@2 .", "3@3 7@1", "4@4 ."], value(&["b"])),
        // Both sides follow.
        (["1@1 8@1", "2@2 8@1", "2@2 8@1", "4@4 8@1"], Judged::Alike),
        (["1@1 8@1", "2@2 8@1", "4@4 8@1", "4@4 9@5"], Judged::Alike),
        (["1@1 8@1", "2@2 8@1", "3@3 8@1", "4@4 8@1"], Judged::Moving),
        // The same twice, and another in between.
        (["1@1 8@1", "1@1 8@1", "2@2 8@1", "1@3 8@1"], Judged::Moving),
        (["1@1 8@1", "1@1 8@1", "2@2 8@1", "1@1 8@1"], value(&["a"])),
        ([". 8@1", ". 8@1", "2@2 8@1", ". 8@1"], Judged::Moving),
        // A version that the primary left behind.
        (["1@1 8@1", "2@2 8@1", "1@1 8@1", "3@3 8@1"], value(&["a"])),
        // Written again with the value that it had.
        (["1@1 8@1", "2@2 8@1", "1@3 8@1", "3@4 8@1"], Judged::Moving),
        // Whole rows.
        (["-", "1@1 8@1", "-", "2@2 8@1"], missing()),
        (["-", "1@1 8@1", "-", "2@2 8@3"], Judged::Moving),
        (["-", "1@1 8@1", "-", "-"], Judged::Alike),
        (["1@1 8@1", "-", "1@1 8@1", "-"], extra()),
        (["-", "-", "1@1 8@1", "-"], Judged::Moving),
        (["1@1 8@1", "-", "1@1 8@1", "1@5 8@5"], Judged::Alike),
        (["1@1 8@1", "-", "1@1 8@1", "2@5 8@5"], value(&["a"])),
    ] {
        assert_eq!(judged("int", looks), expected, "{looks:?}");
    }
}

#[test]
fn without_timestamps_the_same_value_twice_is_the_same_version() {
    for (looks, expected) in [
        (["1 8", "1 8", "2 8", "1 8"], differs(How::OtherValue, &["a"])),
        (["2 8", "1 8", "2 8", "3 8"], Judged::Moving),
        (["-", ". .", "-", ". ."], differs(How::MissingRow, &[])),
        (["-", "-", ". .", "-"], differs(How::ExtraRow, &[])),
    ] {
        assert_eq!(judged("set<int>", looks), expected, "{looks:?}");
    }
}

#[test]
fn a_row_is_asked_for_by_its_whole_key_with_timestamps_where_there_are_any() {
    let place = Place::partition(vec![vec![0, 0, 0, 1]]);
    assert_eq!(
        question(&table("int")).text,
        "SELECT \"a\", WRITETIME(\"a\"), TTL(\"a\"), \"b\", WRITETIME(\"b\"), TTL(\"b\") FROM \"Shop\".\"t\" WHERE \"k\" = ?"
    );
    assert_eq!(question(&table("set<int>")).text, "SELECT \"a\", \"b\" FROM \"Shop\".\"t\" WHERE \"k\" = ?");
    assert_eq!(Question::of(&table("int"), Vec::new()).text, "SELECT \"k\" FROM \"Shop\".\"t\" WHERE \"k\" = ?");
    assert_eq!(Question::values(&place).len(), 1);
}

/// A write to one column, or `None`: the row's deletion. With its timestamp.
type Op = (Option<(usize, i32)>, i64);

/// Few values, so that one comes back; timestamps that tie, and come late.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec((proptest::option::weighted(0.8, (0..2_usize, 0..3_i32)), 1..20_i64), 0..24)
}

/// What these writes make of a row, in whichever order they come: the newest wins, a deletion over a value of its time, the
/// greater of two values.
fn state<'o>(ops: impl Iterator<Item = &'o Op> + Clone) -> Seen {
    let deleted = ops.clone().filter(|(write, _)| write.is_none()).map(|(_, at)| *at).max().unwrap_or_default();
    let cell = |column: usize| {
        let writes = ops.clone().filter_map(|(write, at)| write.map(|(named, value)| (named, *at, value)));
        let newest = writes.filter(|(named, at, _)| *named == column && *at > deleted).max();
        newest.map(|(_, at, value)| cell(&format!("{value}@{at}"))).unwrap_or_default()
    };
    let cells = vec![cell(0), cell(1)];
    cells.iter().any(|cell| cell.value.is_some()).then_some(cells)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The secondary has all that the primary's first look saw, nothing that its last one does not, and in any order.
    #[test]
    fn a_secondary_that_follows_is_never_said_to_differ_however_hot_the_row(
        ops in ops(), first in 0..24_usize, last in 0..24_usize, early in any::<u32>(), late in any::<u32>(),
    ) {
        let last = last.min(ops.len());
        let first = first.min(last);
        let has = |picks: u32| move |(at, _): &(usize, &Op)| picks >> at & 1 == 1;
        let looks = Looks {
            early: state(ops[..first].iter().enumerate().filter(has(early & late)).map(|(_, op)| op)),
            before: state(ops[..first].iter()),
            theirs: state(ops[..last].iter().enumerate().filter(|one| one.0 < first || has(late)(one)).map(|(_, op)| op)),
            after: state(ops[..last].iter()),
        };
        let table = table("int");
        prop_assert!(!matches!(question(&table).judge(&looks), Judged::Differs(..)));
    }

    /// The second column is lost on the way: the row is as hot as can be, and it is found all the same.
    #[test]
    fn a_stale_column_of_a_hot_row_is_found(hot in proptest::collection::vec(0..3_i32, 4), stale in 0..3_i32, wanted in 3..6_i32) {
        let at = |look: usize, b: i32| seen(&format!("{}@{} {b}@1", hot[look], look + 2));
        let looks = Looks { early: at(0, stale), before: at(1, wanted), theirs: at(2, stale), after: at(3, wanted) };
        prop_assert_eq!(question(&table("int")).judge(&looks), differs(How::OtherValue, &["b"]));
    }
}
