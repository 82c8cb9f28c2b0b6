//! A conditional statement that was applied, as the plain one that does the same: its conditions are taken out, and it
//! carries its ballot for timestamp.
//!
//! A server puts together what the members of a conditional batch leave as if all had one timestamp; then writes get the
//! ballot, and deletes the microsecond before it (tried on 4.1 and 5.0). So a batch may write into a range or a partition
//! that it deletes, which a plain batch at one timestamp may not: there such a delete is given the microsecond before in
//! its text. Deletes of rows and cells win within the batch either way.

use super::edit::{self, Edit};
use super::statement::{Modification, Statement};
use super::token::Span;

/// A statement without conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Its text.
    pub text: Vec<u8>,
    /// What is bound to each of its markers.
    pub slots: Vec<Slot>,
}

/// What is bound to a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The value that was bound to the marker of this number.
    Given(usize),
    /// The microsecond before the ballot.
    Before,
}

/// `text`, which is `statement`, without conditions. The modifications that `is_before` says get a timestamp of their own.
/// `None`: one of its members has a timestamp in the text, which the ballot overruled.
pub fn plain(text: &[u8], statement: &Statement, is_before: impl Fn(&Modification) -> bool) -> Option<Plain> {
    let all = statement.modifications();
    if all.iter().any(|one| one.using.timestamp.is_some()) {
        return None;
    }
    let conditions: Vec<Span> = all.iter().filter_map(|one| one.condition_span).collect();
    let befores: Vec<usize> = all.iter().filter(|one| is_before(one)).map(|one| one.using_at).collect();
    let given = statement.markers.iter().enumerate();
    // Both are in the order in which they stand.
    let kept = given.filter(|(_, marker)| {
        let next = conditions.partition_point(|span| span.end < marker.span.end);
        conditions.get(next).is_none_or(|span| marker.span.start < span.start)
    });
    let mut slots: Vec<(usize, Slot)> = kept.map(|(number, marker)| (marker.span.start, Slot::Given(number))).collect();
    slots.extend(befores.iter().map(|at| (*at, Slot::Before)));
    slots.sort_by_key(|(at, _)| *at);
    let gone = conditions.into_iter().map(|span| Edit { span, text: String::new() });
    let added =
        befores.into_iter().map(|at| Edit { span: Span { start: at, end: at }, text: " USING TIMESTAMP ?".to_owned() });
    let text = edit::apply(text, gone.chain(added).collect());
    Some(Plain { text, slots: slots.into_iter().map(|(_, slot)| slot).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::statement::Verb;
    use super::*;

    fn of(text: &str, is_before: impl Fn(&Modification) -> bool) -> (String, Vec<Slot>) {
        let plain = plain(text.as_bytes(), &parse(text.as_bytes()), is_before).expect("no timestamps");
        let reads = parse(&plain.text);
        assert!(!reads.is_conditional() && !reads.modifications().is_empty(), "{text}");
        assert_eq!(reads.markers.len(), plain.slots.len(), "{text}");
        (String::from_utf8(plain.text).expect("UTF-8"), plain.slots)
    }

    fn given(numbers: &[usize]) -> Vec<Slot> {
        numbers.iter().copied().map(Slot::Given).collect()
    }

    #[test]
    fn conditions_go_and_the_markers_in_them_too() {
        for (text, expected, markers) in [
            (
                "INSERT INTO t (k, v) VALUES (?, ?) IF NOT EXISTS USING TTL ?",
                "INSERT INTO t (k, v) VALUES (?, ?)  USING TTL ?",
                &[0, 1, 2][..],
            ),
            ("insert into t json ? if not exists;", "insert into t json ? ;", &[0]),
            (
                "UPDATE t USING TTL ? SET v = ? WHERE k = ? IF v = ? AND w IN (?, 'IF')",
                "UPDATE t USING TTL ? SET v = ? WHERE k = ? ",
                &[0, 1, 2],
            ),
            ("UPDATE t SET v = 1 WHERE k = 1 IF EXISTS", "UPDATE t SET v = 1 WHERE k = 1 ", &[]),
            ("DELETE v FROM t WHERE k = :k IF /* : */ v = :v -- x", "DELETE v FROM t WHERE k = :k  -- x", &[0]),
            ("UPDATE t SET exists = 1 WHERE k = 1 IF exists = 2", "UPDATE t SET exists = 1 WHERE k = 1 ", &[]),
        ] {
            assert_eq!(of(text, |_| false), (expected.to_owned(), given(markers)));
        }
    }

    #[test]
    fn a_batch_loses_all_conditions_and_what_it_deletes_first_says_so() {
        let text = "BEGIN BATCH UPDATE t SET v = ? WHERE k = ? IF v = ?; DELETE FROM t WHERE k = ?; \
                    INSERT INTO t (k, v) VALUES (?, 1) IF NOT EXISTS APPLY BATCH";
        let expected = "BEGIN BATCH UPDATE t SET v = ? WHERE k = ? ; DELETE FROM t USING TIMESTAMP ? WHERE k = ?; \
                        INSERT INTO t (k, v) VALUES (?, 1)  APPLY BATCH";
        let slots = [Slot::Given(0), Slot::Given(1), Slot::Before, Slot::Given(3), Slot::Given(4)];
        assert_eq!(of(text, |one| one.verb == Verb::Delete), (expected.to_owned(), slots.to_vec()));
    }

    #[test]
    fn a_plain_statement_stays_as_it_is() {
        let text = "DELETE FROM t WHERE k = ? AND c > ?";
        assert_eq!(of(text, |_| false), (text.to_owned(), given(&[0, 1])));
        let stamped = "INSERT INTO t (k) VALUES (1) USING TIMESTAMP 5";
        assert_eq!(plain(stamped.as_bytes(), &parse(stamped.as_bytes()), |_| false), None);
    }
}
