//! Why lists and counters are mirrored by state: what a repeated write does to them, on a real node of each version.

use crate::support::cassandra::clients;
use crate::support::cql::{Ask, Cql};

const INVALID: i32 = 0x2200;

/// A write of `['a', 'b']`, and what the list is when it is issued twice at one timestamp, and the second time at the next.
const REPEATS: &[(&str, &str, &str)] = &[
    ("UPDATE t SET l = ['a', 'b'] WHERE k = 1", "[a, b, a, b]", "[a, b]"),
    ("INSERT INTO t (k, l) VALUES (1, ['a', 'b'])", "[a, b, a, b]", "[a, b]"),
    (r#"INSERT INTO t JSON '{"k": 1, "l": ["a", "b"]}'"#, "[a, b, a, b]", "[a, b]"),
    ("UPDATE t SET l = l + ['a', 'b'] WHERE k = 1", "[a, b, a, b]", "[a, b, a, b]"),
    ("UPDATE t SET l = ['a', 'b'] + l WHERE k = 1", "[a, b, a, b]", "[a, b, a, b]"),
    ("UPDATE t SET f = ['a', 'b'] WHERE k = 1", "[a, b]", "[a, b]"),
    ("UPDATE t SET m = {1: 'a', 2: 'b'} WHERE k = 1", "{1: a, 2: b}", "{1: a, 2: b}"),
    ("UPDATE t SET s = {'a', 'b'} WHERE k = 1", "[a, b]", "[a, b]"),
];

#[test]
fn a_list_is_doubled_by_a_repeat_and_an_overwrite_is_not_at_the_next_timestamp() {
    for mut cql in clients("state_lists") {
        cql.define(
            "CREATE TABLE t (k int PRIMARY KEY, l list<text>, f frozen<list<text>>, m map<int, text>, s set<text>)",
        );
        for (text, at_once, later) in REPEATS {
            for (second, wanted) in [(100, at_once), (101, later)] {
                cql.run("TRUNCATE t");
                cql.run_at(text, 100);
                cql.run_at(text, second);
                let cells = cql.rows("SELECT l, f, m, s FROM t").remove(0).replace("null", "").replace('|', "");
                assert_eq!(cells, *wanted, "{text}, then at {second}");
            }
        }
    }
}

#[test]
fn appends_are_ordered_by_the_coordinators_clock_whatever_their_timestamps() {
    for mut cql in clients("state_appends") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, l list<text>)");
        cql.run_at("UPDATE t SET l = l + ['later'] WHERE k = 1", 200);
        cql.run_at("UPDATE t SET l = l + ['earlier'] WHERE k = 1", 100);
        assert_eq!(cql.rows("SELECT l FROM t"), ["[later, earlier]"]);
        for text in [
            "UPDATE t SET l[7] = 'x' WHERE k = 1",
            "DELETE l[7] FROM t WHERE k = 1",
            "UPDATE t SET l[0] = 'x' WHERE k = 2",
        ] {
            assert_eq!(cql.refusal(text, &Ask::default()).code, INVALID, "{text}");
        }
    }
}

/// Steps, each at its default timestamp, and what is read after each.
type Story = [(&'static str, i64, &'static [&'static str])];
const ADD: &str = "UPDATE t SET n = n + 3 WHERE k = 1";
const DELETE: &str = "DELETE FROM t WHERE k = 1";
const COUNTERS: &[&Story] = &[
    // A repeat adds again; an older one adds too, and the time of the newest stays.
    &[(ADD, 200, &["3|200"]), (ADD, 200, &["6|200"]), (ADD, 100, &["9|200"])],
    // A deleted counter keeps its sum: below the time of the delete it is hidden, above it is back.
    &[(ADD, 100, &["3|100"]), (DELETE, 200, &[]), (ADD, 150, &[]), (ADD, 300, &["9|300"])],
    &[(DELETE, 200, &[]), (ADD, 100, &[]), (ADD, 300, &["6|300"])],
];

#[test]
fn a_repeated_increment_counts_twice_and_a_deleted_counter_keeps_its_sum() {
    for mut cql in clients("state_counters") {
        for (number, story) in COUNTERS.iter().enumerate() {
            cql.define(&format!("CREATE TABLE t{number} (k int PRIMARY KEY, n counter)"));
            for (step, (text, at, wanted)) in story.iter().enumerate() {
                let table = format!(" t{number} ");
                cql.run_at(&text.replace(" t ", &table), *at);
                let seen = cql.rows(&format!("SELECT n, writetime(n) FROM{table}"));
                assert_eq!(seen, *wanted, "story {number}, step {step}");
            }
        }
    }
}

#[test]
fn a_counter_takes_no_timestamp_in_its_text_and_no_ttl() {
    for mut cql in clients("state_counter_text") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, n counter)");
        for text in [
            "UPDATE t USING TIMESTAMP 5 SET n = n + 1 WHERE k = 1",
            "UPDATE t USING TTL 5 SET n = n + 1 WHERE k = 1",
            "DELETE n FROM t USING TIMESTAMP 5 WHERE k = 1",
        ] {
            assert_eq!(cql.refusal(text, &Ask::default()).code, INVALID, "{text}");
        }
    }
}

#[test]
fn two_counters_become_equal_by_adding_their_difference() {
    let [mut origin, mut target] = clients("state_difference");
    let table = "CREATE TABLE t (k int PRIMARY KEY, n counter)";
    let value = |cql: &mut Cql| cql.run("SELECT n FROM t").rows().number();
    for cql in [&mut origin, &mut target] {
        cql.define(table);
    }
    (0..17).for_each(|_| drop(origin.run(ADD)));
    target.run(DELETE);
    target.run("UPDATE t SET n = n - 4 WHERE k = 1");
    let difference = value(&mut origin) - value(&mut target);
    target.run(&format!("UPDATE t SET n = n + {difference} WHERE k = 1"));
    assert_eq!((value(&mut origin), value(&mut target)), (51, 51));
}
