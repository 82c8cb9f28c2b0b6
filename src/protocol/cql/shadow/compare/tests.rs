//! Answers as small tables of numbers: `1 10, 2 20` is two rows of a key and a value.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::protocol::cql::shadow::reading::Form;
use crate::protocol::cql::wire::Version;
use crate::protocol::cql::wire::response::{Metadata, Outcome, put_metadata, put_rows};
use crate::protocol::cql::wire::types::Native;

const INT: Type = Type::Native(Native::Int);

/// A message with these columns and rows; `+` at the end: it goes on.
fn message(columns: &[(&str, &Type)], text: &str) -> Vec<u8> {
    let (rows, goes_on) = text.strip_suffix('+').map_or((text, false), |rows| (rows, true));
    let cells: Vec<Vec<Option<[u8; 4]>>> = rows
        .split(',')
        .map(|row| row.split_whitespace().map(|cell| cell.parse::<i32>().ok().map(i32::to_be_bytes)).collect())
        .filter(|row: &Vec<_>| !row.is_empty())
        .collect();
    let mut metadata = BytesMut::new();
    put_metadata(&mut metadata, Version::V5, ("ks", "t"), columns).expect("short");
    let mut metadata = Metadata::parse(Version::V5, &metadata).expect("just put");
    metadata.paging_state = goes_on.then_some(b"more");
    let mut out = BytesMut::new();
    let rows: Vec<Vec<Option<&[u8]>>> =
        cells.iter().map(|row| row.iter().map(|cell| cell.as_ref().map(|bytes| &bytes[..])).collect()).collect();
    put_rows(&mut out, Version::V5, &metadata, rows.iter().map(Vec::as_slice)).expect("short");
    out.to_vec()
}

fn sheet(message: &[u8]) -> Sheet<'_> {
    let Ok(Outcome::Rows(rows)) = Outcome::parse(Version::V5, message) else { panic!("rows") };
    Sheet::of(&rows, None).expect("rows")
}

struct Rule {
    identity: Option<Vec<usize>>,
    is_ordered: bool,
    ignored: Vec<bool>,
}

const KEYED: Rule = Rule { identity: None, is_ordered: true, ignored: Vec::new() };

fn keyed() -> Rule {
    Rule { identity: Some(vec![0]), ..KEYED }
}

fn on<T>(rule: &Rule, work: impl FnOnce(&Terms<'_>) -> T) -> T {
    let fields = vec![Field { column: None, form: Form::Exact }; 3];
    let identity = rule.identity.as_deref();
    work(&Terms { fields: &fields, ignored: &rule.ignored, identity, is_ordered: rule.is_ordered })
}

fn number(row: Option<Row<'_>>) -> Option<i32> {
    row?.get(0)??.try_into().ok().map(i32::from_be_bytes)
}

/// In a few words: `missing 1, value 2 [1]`.
fn said(compared: &Compared<'_>) -> String {
    let deviation = |one: &Deviation<'_>| match (number(one.ours), number(one.theirs)) {
        (Some(key), None) => format!("missing {key}"),
        (None, Some(key)) => format!("extra {key}"),
        (key, _) => format!("value {} {:?}", key.unwrap_or_default(), one.columns),
    };
    match compared {
        Compared::Alike => "alike".into(),
        Compared::Types(names) => format!("types {}", names.join(" ")),
        Compared::Order => "order".into(),
        Compared::Rows(rows) => rows.iter().map(deviation).collect::<Vec<_>>().join(", "),
        Compared::Undecided => "undecided".into(),
    }
}

const COLUMNS: [(&str, &Type); 2] = [("k", &INT), ("v", &INT)];

fn compared(rule: &Rule, ours: &str, theirs: &str) -> String {
    let (ours, theirs) = (message(&COLUMNS, ours), message(&COLUMNS, theirs));
    on(rule, |terms| said(&compare(terms, &sheet(&ours), &sheet(&theirs))))
}

#[test]
fn of_rows_in_dispute_those_that_do_not_change_come_first() {
    // Ten are written all the time, the last one is not.
    let rows = |shown: i32| (1..11).map(|key| format!("{key} {}, ", key * 100 + shown)).collect::<String>();
    let [before, after, theirs] =
        [rows(1) + "11 5", rows(2) + "11 5", rows(3) + "11 6"].map(|text| message(&COLUMNS, &text));
    let keys = on(&keyed(), |terms| {
        let rows = disputed(terms, (&sheet(&before), &sheet(&after)), &sheet(&theirs));
        rows.iter().filter_map(|row| number(row.ours)).collect::<Vec<_>>()
    });
    assert_eq!(keys, [11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn rows_are_told_apart_by_their_keys() {
    let unordered = || Rule { is_ordered: false, ..keyed() };
    let ignoring = || Rule { ignored: vec![false, true], ..keyed() };
    for (rule, ours, theirs, expected) in [
        (keyed(), "", "", "alike"),
        (keyed(), "1 10, 2 20", "1 10, 2 20", "alike"),
        (keyed(), "1 10, 2 20, 3 30", "1 10, 3 30", "missing 2"),
        (keyed(), "1 10, 3 30", "1 10, 2 20, 3 30", "extra 2"),
        (keyed(), "1 10, 2 20", "1 10, 2 21", "value 2 [1]"),
        (keyed(), "1 10, 2 20", "1 10, 2 null", "value 2 [1]"),
        (keyed(), "1 10, 2 20", "2 20, 1 10", "order"),
        (unordered(), "1 10, 2 20", "2 20, 1 10", "alike"),
        (unordered(), "1 10, 2 20", "2 20, 1 11", "value 1 [1]"),
        (ignoring(), "1 10, 2 20", "1 11, 2 20", "alike"),
        // What is cut off is not missing.
        (keyed(), "1 10, 2 20+", "1 10, 2 20, 3 30", "alike"),
        (keyed(), "1 10, 2 20, 3 30", "1 10, 2 20+", "alike"),
        (keyed(), "1 10, 2 20+", "1 10", "missing 2"),
        (keyed(), "1 10, 2 20, 3 30+", "1 10, 3 30, 4 40+", "missing 2"),
        (keyed(), "1 10, 3 30, 4 40+", "1 10, 2 20, 3 30+", "extra 2"),
        (keyed(), "1 10+", "2 20+", "missing 1, extra 2"),
        (keyed(), "1 10, 2 20+", "1 10, 3 30+", "missing 2, extra 3"),
        (keyed(), "1 10, 2 20+", "1 10, 2 21+", "value 2 [1]"),
    ] {
        assert_eq!(compared(&rule, ours, theirs), expected, "{ours} against {theirs}");
    }
}

#[test]
fn rows_without_keys_are_paired_as_far_as_that_goes() {
    let bag = || Rule { identity: None, is_ordered: false, ignored: Vec::new() };
    for (rule, ours, theirs, expected) in [
        (KEYED, "1 10, 2 20", "1 10, 2 21", "value 2 [1]"),
        (KEYED, "1 10, 2 20", "2 20, 1 10", "order"),
        (KEYED, "1 10, 2 20", "1 10", "missing 2"),
        (KEYED, "1 10, 2 20+", "1 10", "undecided"),
        (bag(), "1 10, 2 20, 1 10", "2 20, 1 10, 1 10", "alike"),
        (bag(), "1 10, 2 20", "2 20, 3 30", "value 1 [0, 1]"),
        (bag(), "1 10, 1 10", "1 10", "missing 1"),
        (bag(), "1 10", "1 10, 1 10", "extra 1"),
    ] {
        assert_eq!(compared(&rule, ours, theirs), expected, "{ours} against {theirs}");
    }
}

#[test]
fn many_rows_without_keys_are_paired_by_their_bytes_and_the_rest_is_bounded() {
    let bag = |ignored| Rule { identity: None, is_ordered: false, ignored };
    let rows = |rows: Vec<i32>| rows.iter().map(|n| format!("{n} {}", n % 7)).collect::<Vec<_>>().join(", ");
    let (ours, turned) = (rows((0..5_000).collect()), rows((0..5_000).rev().collect()));
    assert_eq!(compared(&bag(vec![]), &ours, &turned), "alike");
    assert_eq!(compared(&bag(vec![]), &ours, &rows((1..5_000).rev().collect())), "missing 0");
    let others = rows((0..5_000).map(|n| n * 10).collect());
    assert_ne!(compared(&bag(vec![false, true]), &ours, &others), "alike");
    assert_eq!(compared(&bag(vec![]), &ours, &rows((5_000..10_000).collect())), "undecided");
}

#[test]
fn columns_of_another_type_are_named() {
    let bigint = Type::Native(Native::Bigint);
    let ours = message(&COLUMNS, "");
    for (columns, expected) in [
        (vec![("k", &INT), ("v", &bigint)], "types v"),
        (vec![("k", &INT), ("v", &INT), ("w", &INT)], "types w"),
        (vec![("v", &INT), ("k", &INT)], "types k v"),
        (COLUMNS.to_vec(), "alike"),
    ] {
        let theirs = message(&columns, "");
        assert_eq!(on(&keyed(), |terms| said(&compare(terms, &sheet(&ours), &sheet(&theirs)))), expected);
    }
}

#[test]
fn an_answer_that_does_not_tell_its_columns_has_those_of_the_other() {
    let (ours, theirs) = (message(&COLUMNS, "1 10"), message(&COLUMNS, "1 11"));
    let bare = Sheet { columns: None, ..sheet(&ours) };
    assert_eq!(on(&keyed(), |terms| said(&compare(terms, &bare, &sheet(&theirs)))), "value 1 [1]");
    let wide = message(&[("k", &INT), ("v", &INT), ("w", &INT)], "1 10 3");
    assert_eq!(on(&keyed(), |terms| said(&compare(terms, &bare, &sheet(&wide)))), "types k v w");
}

fn settled(rule: &Rule, before: &str, theirs: &str, after: &str) -> String {
    let [before, theirs, after] = [before, theirs, after].map(|rows| message(&COLUMNS, rows));
    on(rule, |terms| match settle(terms, (&sheet(&before), &sheet(&after)), &sheet(&theirs)) {
        Settled::Alike => "alike".into(),
        Settled::Moving => "moving".into(),
        Settled::Differs(found) => format!("differs: {}", said(&found)),
    })
}

#[test]
fn only_what_the_primary_shows_twice_can_differ() {
    let bare = || Rule { identity: None, ..KEYED };
    for (rule, before, theirs, after, expected) in [
        (keyed(), "1 10", "1 10", "1 11", "alike"),
        (keyed(), "1 10", "1 11", "1 11", "alike"),
        (keyed(), "1 10", "1 12", "1 10", "differs: value 1 [1]"),
        (keyed(), "1 10", "1 12", "1 11", "moving"),
        (keyed(), "1 10", "", "1 10", "differs: missing 1"),
        (keyed(), "1 10", "", "1 11", "moving"),
        (keyed(), "", "1 10", "", "differs: extra 1"),
        (keyed(), "", "1 10", "1 11", "moving"),
        // Each row by itself: one is as before, the other as after.
        (keyed(), "1 10, 2 20", "1 11, 2 20", "1 11, 2 21", "alike"),
        // A hot row beside one that differs hides nothing.
        (keyed(), "1 10, 2 20", "1 12, 2 22", "1 11, 2 20", "differs: value 2 [1]"),
        (bare(), "1 10, 2 20", "1 11, 2 20", "1 11, 2 21", "moving"),
        (bare(), "1 10", "1 12", "1 11", "moving"),
        (bare(), "1 10", "1 12", "1 10", "differs: value 1 [1]"),
    ] {
        assert_eq!(settled(&rule, before, theirs, after), expected, "{before} | {theirs} | {after}");
    }
}

fn rows() -> impl Strategy<Value = Vec<(i32, i32)>> {
    proptest::collection::btree_map(0..8_i32, 0..3_i32, 0..8).prop_map(|rows| rows.into_iter().collect())
}

fn written(rows: &[(i32, i32)]) -> String {
    rows.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
}

proptest! {
    /// What is found is what a comparison of maps finds.
    #[test]
    fn a_comparison_finds_each_row_that_differs_and_no_other(ours in rows(), theirs in rows()) {
        let mut expected = Vec::new();
        for (key, value) in &ours {
            match theirs.iter().find(|(other, _)| other == key) {
                None => expected.push(format!("missing {key}")),
                Some((_, other)) if other != value => expected.push(format!("value {key} [1]")),
                Some(_) => {}
            }
        }
        let extra = theirs.iter().filter(|(key, _)| ours.iter().all(|(other, _)| other != key));
        expected.extend(extra.map(|(key, _)| format!("extra {key}")));
        let expected = if expected.is_empty() { "alike".to_owned() } else { expected.join(", ") };
        prop_assert_eq!(compared(&keyed(), &written(&ours), &written(&theirs)), expected);
    }

    /// One row is missing on one side, and pages end anywhere behind it.
    #[test]
    fn a_page_never_shows_more_differences_than_there_are(rows in rows(), page in 1..6_usize, gone in 0..8_usize) {
        let mut theirs = rows.clone();
        let gone = (gone < theirs.len()).then(|| theirs.remove(gone).0);
        let paged = |rows: &[(i32, i32)]| match rows.len() > page {
            true => written(&rows[..page]) + "+",
            false => written(rows),
        };
        let found = compared(&keyed(), &paged(&rows), &paged(&theirs));
        let is_seen = gone.is_some_and(|gone| rows.iter().take(page).any(|(key, _)| *key == gone));
        match gone {
            Some(gone) if is_seen => prop_assert!(found.starts_with(&format!("missing {gone}")), "{}", found),
            _ => prop_assert_eq!(found, "alike"),
        }
    }

    /// The secondary follows: it shows each row as it was before or after.
    #[test]
    fn a_secondary_that_follows_is_never_said_to_differ(before in rows(), after in rows(), picks in any::<u8>()) {
        let theirs: Vec<(i32, i32)> = (0..8)
            .filter_map(|key| {
                let side = if picks >> key & 1 == 0 { &before } else { &after };
                side.iter().find(|(other, _)| *other == key).copied()
            })
            .collect();
        prop_assert_eq!(settled(&keyed(), &written(&before), &written(&theirs), &written(&after)), "alike");
    }
}
