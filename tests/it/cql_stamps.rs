//! What the mirror of CQL stands on: that timestamps, wherever they come from, decide what a cell holds, and the second that
//! a write takes for now when it ends. Each on a real node of each version.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::cassandra::{clients, pair_with};
use crate::support::cql::{Ask, Cql, Dial, Member, SERIAL, UNLOGGED, Value};

const INVALID: i32 = 0x2200;

fn at(at: i64) -> Ask<'static> {
    Ask { at: Some(at), ..Ask::default() }
}

fn micros() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()).expect("63 bits")
}

/// The microsecond of 1970's era in a timeuuid. (Source: RFC 4122, 4.1.4.)
fn micros_of(timeuuid: &[u8]) -> i64 {
    let field =
        |range: std::ops::Range<usize>| timeuuid[range].iter().fold(0_i64, |all, byte| all << 8 | i64::from(*byte));
    let ticks = (field(6..8) & 0x0FFF) << 48 | field(4..6) << 32 | field(0..4);
    (ticks - 0x01B2_1DD2_1381_4000) / 10
}

fn timeuuid(cql: &mut Cql, query: &str) -> i64 {
    let rows = cql.run(query).rows();
    micros_of(rows.rows[0][0].as_deref().expect("a timeuuid"))
}

/// Stamped UPDATE, then at once an LWT that needs it, many times: how many LWTs were applied and are not there, and how many
/// plain writes were not there for them. The stamps are `ahead` of this machine's clock, in microseconds: within the same
/// millisecond they already are by nature, for ballots begin at its start.
fn lost(cql: &mut Cql, key: i32, ahead: i64, mended: bool) -> (usize, usize) {
    let (mut conditional, mut plain, mut floor) = (0, 0, 0);
    for n in 0..50 {
        let stamp = (micros() + ahead).max(floor);
        cql.run_at(&format!("UPDATE t SET v = {n} WHERE k = {key}"), stamp);
        while mended && timeuuid(cql, "SELECT now() FROM system.local") / 1000 <= stamp / 1000 {}
        let applied = cql.run(&format!("UPDATE t SET v = {} WHERE k = {key} IF v = {n}", n + 1000)).applied();
        plain += usize::from(!applied);
        let seen = cql.run(&format!("SELECT v, writetime(v) FROM t WHERE k = {key}")).rows().lines().remove(0);
        let (value, written) = seen.split_once('|').expect("two columns");
        conditional += usize::from(applied && value != (n + 1000).to_string());
        let written: i64 = written.parse().expect("a time");
        floor = if mended { (written / 1000 + 1) * 1000 } else { 0 };
    }
    (conditional, plain)
}

#[test]
fn an_lwt_is_lost_to_an_earlier_stamp_unless_it_waits_for_the_coordinators_next_millisecond() {
    for mut cql in clients("stamp_lwt") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        assert_ne!(lost(&mut cql, 1, 20_000, false).0, 0, "stamps alone must lose some, or there is nothing to mend");
        assert_eq!(lost(&mut cql, 2, 2_000, true), (0, 0));
        assert_eq!(lost(&mut cql, 3, 0, true), (0, 0));
    }
}

/// The ballot of the last LWT in a partition, which one replica remembers.
fn ballot(cql: &mut Cql, keyspace: &str, table: &str) -> i64 {
    let tables =
        format!("SELECT id FROM system_schema.tables WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'");
    let id = cql.rows(&tables).remove(0);
    let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
    let paxos = format!("SELECT most_recent_commit_at FROM system.paxos WHERE row_key = 0x00000001 AND cf_id = {id}");
    timeuuid(cql, &paxos)
}

#[test]
fn what_an_lwt_writes_has_its_ballot_for_timestamp_which_can_be_read() {
    for mut cql in clients("stamp_ballot") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        // A default timestamp is ignored, one in the text is refused.
        let insert = "INSERT INTO t (k, v) VALUES (1, 1) IF NOT EXISTS";
        assert!(cql.query(insert, &at(5)).expect("applied").applied());
        let written = cql.run("SELECT writetime(v) FROM t WHERE k = 1").rows().number();
        assert_eq!(written, ballot(&mut cql, "stamp_ballot", "t"));
        let stamped = "UPDATE t USING TIMESTAMP 5 SET v = 2 WHERE k = 1 IF v = 1";
        assert_eq!(cql.refusal(stamped, &Ask::default()).code, INVALID);
    }
}

/// LWTs that delete `v` of the row (1, 1).
const DELETES: &[&str] = &[
    "DELETE FROM t WHERE k = 1 AND c = 1 IF EXISTS",
    "DELETE v FROM t WHERE k = 1 AND c = 1 IF EXISTS",
    "UPDATE t SET v = null WHERE k = 1 AND c = 1 IF EXISTS",
    "BEGIN BATCH UPDATE t SET v = 2 WHERE k = 1 AND c = 2 IF v = null; DELETE FROM t WHERE k = 1; APPLY BATCH",
];

#[test]
fn what_an_lwt_deletes_is_deleted_one_microsecond_before_its_ballot() {
    let row = "SELECT v FROM t WHERE k = 1 AND c = 1";
    for mut cql in clients("stamp_delete") {
        cql.define("CREATE TABLE t (k int, c int, v int, PRIMARY KEY (k, c))");
        for text in DELETES {
            cql.run("TRUNCATE t");
            cql.run("INSERT INTO t (k, c, v) VALUES (1, 1, 1)");
            assert!(cql.run(text).applied());
            let ballot = ballot(&mut cql, "stamp_delete", "t");
            for (at, alive) in [(ballot - 1, false), (ballot, true)] {
                cql.run_at("UPDATE t SET v = 7 WHERE k = 1 AND c = 1", at);
                assert_eq!(cql.rows(row) == ["7"], alive, "{text}: written at {at}, ballot {ballot}");
            }
        }
        // So a conditional batch may write into what it deletes; as a plain batch at the ballot it would not.
        let batch = "BEGIN BATCH DELETE FROM t WHERE k = 1; INSERT INTO t (k, c, v) VALUES (1, 1, 9) IF NOT EXISTS; APPLY BATCH";
        cql.run("TRUNCATE t");
        assert!(cql.run(batch).applied());
        assert_eq!(cql.rows(row), ["9"]);
        cql.run("TRUNCATE t");
        cql.run_at(&batch.replace(" IF NOT EXISTS", ""), 100);
        assert!(cql.rows(row).is_empty());
    }
}

/// Two members of a conditional batch, and what the row (1, 1) is afterwards, whichever comes first. What the two leave
/// is put together at one timestamp, and only then gets the ballot: rows and cells that are deleted stay so, while
/// what is deleted as a range comes before everything that the batch writes.
const MEMBERS: &[(&str, &str, &[&str])] = &[
    ("DELETE FROM t WHERE k = 1", "INSERT INTO t (k, c, v) VALUES (1, 1, 9)", &["9"]),
    ("DELETE FROM t WHERE k = 1 AND c > 0", "INSERT INTO t (k, c, v) VALUES (1, 1, 9)", &["9"]),
    ("DELETE FROM t WHERE k = 1 AND c = 1", "INSERT INTO t (k, c, v) VALUES (1, 1, 9)", &[]),
    ("DELETE FROM t WHERE k = 1 AND c = 1", "UPDATE t SET v = 9 WHERE k = 1 AND c = 1", &[]),
    ("DELETE v FROM t WHERE k = 1 AND c = 1", "INSERT INTO t (k, c, v) VALUES (1, 1, 9)", &["null"]),
    ("UPDATE t SET v = null WHERE k = 1 AND c = 1", "INSERT INTO t (k, c, v) VALUES (1, 1, 9)", &["null"]),
];

#[test]
fn a_conditional_batch_may_write_into_a_range_that_it_deletes_and_not_into_a_row() {
    for mut cql in clients("stamp_members") {
        cql.define("CREATE TABLE t (k int, c int, v int, PRIMARY KEY (k, c))");
        for (one, other, wanted) in MEMBERS {
            for order in [[one, other], [other, one]] {
                cql.run("TRUNCATE t");
                cql.run("INSERT INTO t (k, c, v) VALUES (1, 1, 1)");
                let guard = "INSERT INTO t (k, c) VALUES (1, 7) IF NOT EXISTS";
                let batch = format!("BEGIN BATCH {guard}; {}; {}; APPLY BATCH", order[0], order[1]);
                assert!(cql.run(&batch).applied(), "{batch}");
                assert_eq!(cql.rows("SELECT v FROM t WHERE k = 1 AND c = 1"), *wanted, "{batch}");
            }
        }
    }
}

#[test]
fn every_member_of_a_conditional_batch_carries_the_ballot() {
    for mut cql in clients("stamp_batch") {
        cql.define("CREATE TABLE t (k int, c int, v int, PRIMARY KEY (k, c))");
        let batch = "BEGIN BATCH INSERT INTO t (k, c, v) VALUES (1, 1, 1) IF NOT EXISTS; \
                     INSERT INTO t (k, c, v) VALUES (1, 2, 2); APPLY BATCH";
        assert!(cql.query(batch, &at(5)).expect("applied").applied());
        let stamps = cql.rows("SELECT writetime(v) FROM t WHERE k = 1");
        assert!(stamps[0] == stamps[1] && stamps[0] != "5", "{stamps:?}");
        let elsewhere = batch.replace("(1, 2, 2)", "(2, 2, 2)");
        assert_eq!(cql.refusal(&elsewhere, &Ask::default()).code, INVALID, "one partition only");
    }
}

#[test]
fn the_nearest_timestamp_counts() {
    for mut cql in clients("stamp_order") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        let batch = |head: &str, insert: &str| format!("BEGIN BATCH {head} {insert}; APPLY BATCH");
        let insert = "INSERT INTO t (k, v) VALUES (1, 1)";
        let using = format!("{insert} USING TIMESTAMP 300");
        for (text, wanted) in [
            (insert.to_owned(), 100),
            (using.clone(), 300),
            (batch("", insert), 100),
            (batch("USING TIMESTAMP 200", insert), 200),
            (batch("", &using), 300),
        ] {
            cql.run("TRUNCATE t");
            cql.query(&text, &at(100)).expect("written");
            assert_eq!(cql.run("SELECT writetime(v) FROM t").rows().number(), wanted, "{text}");
        }
        assert_eq!(cql.refusal(&batch("USING TIMESTAMP 200", &using), &at(100)).code, INVALID, "both at once");
        // In a BATCH frame some may have their own.
        cql.run("TRUNCATE t");
        let other = "INSERT INTO t (k, v) VALUES (2, 2) USING TIMESTAMP 300";
        cql.batch(UNLOGGED, &[Member::Text(insert, &[]), Member::Text(other, &[])], &at(100)).expect("written");
        assert_eq!(cql.rows("SELECT k, writetime(v) FROM t"), ["1|100", "2|300"]);
        // What is read or defined may have one too.
        for text in ["SELECT * FROM t", "TRUNCATE t", "USE stamp_order", "CREATE TABLE u (k int PRIMARY KEY)"] {
            cql.query(text, &at(100)).expect(text);
        }
    }
}

#[test]
fn an_unset_bound_timestamp_is_the_default_one() {
    for mut cql in clients("stamp_bound") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        let insert = "INSERT INTO t (k, v) VALUES (1, 1) USING TIMESTAMP ?";
        cql.query(insert, &bound(&[Value::Unset], 100)).expect("written");
        assert_eq!(cql.run("SELECT writetime(v) FROM t").rows().number(), 100);
        cql.query(insert, &bound(&[200_i64.into()], 100)).expect("written");
        assert_eq!(cql.run("SELECT writetime(v) FROM t").rows().number(), 200);
        assert_eq!(cql.query(insert, &bound(&[Value::Null], 100)).expect_err("null").code, INVALID);
        assert!(cql.query("SELECT * FROM t", &at(i64::MIN)).is_err(), "-2^63 is no timestamp");
        assert!(cql.query("INSERT INTO t (k, v) VALUES (1, 1)", &at(i64::MIN)).is_err(), "-2^63 is no timestamp");
    }
}

fn bound(values: &[Value], at: i64) -> Ask<'_> {
    Ask { values, at: Some(at), ..Ask::default() }
}

/// Pairs of writes at one timestamp, and what stays, whichever comes first.
const TIES: &[(&str, &str, &[&str])] = &[
    ("INSERT INTO t (k, v) VALUES (1, 'live')", "DELETE FROM t WHERE k = 1", &[]),
    ("UPDATE t SET v = 'live' WHERE k = 1", "DELETE v FROM t WHERE k = 1", &[]),
    ("UPDATE t SET v = 'a' WHERE k = 1", "UPDATE t SET v = 'b' WHERE k = 1", &["b|null|null"]),
    ("UPDATE t SET v = 'z' WHERE k = 1", "UPDATE t USING TTL 9000 SET v = 'a' WHERE k = 1", &["a|null|9000"]),
    (
        "UPDATE t USING TTL 9000 SET v = 'a' WHERE k = 1",
        "UPDATE t USING TTL 5000 SET v = 'z' WHERE k = 1",
        &["a|null|9000"],
    ),
    // Each cell by itself: such a pair tears a row, on both sides alike.
    ("INSERT INTO t (k, v, w) VALUES (1, 'a', 'z')", "INSERT INTO t (k, v, w) VALUES (1, 'b', 'y')", &["b|z|null"]),
];

#[test]
fn writes_at_one_timestamp_end_the_same_in_either_order() {
    for node in pair_with("stamp_ties") {
        let mut cql = Cql::with(node, "stamp_ties", &Dial { version: 5, ..Dial::default() });
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v text, w text)");
        let ask = Ask { at: Some(100), now_in_seconds: Some(2_000_000_000), ..Ask::default() };
        for (one, other, wanted) in TIES {
            for order in [[one, other], [other, one]] {
                cql.run("TRUNCATE t");
                order.iter().for_each(|text| drop(cql.query(text, &ask).expect(text)));
                let rows = cql.query("SELECT v, w, ttl(v) FROM t WHERE k = 1", &ask).expect("rows").rows();
                assert_eq!(rows.lines(), *wanted, "{order:?}");
            }
        }
    }
}

#[test]
fn a_repeated_ttl_ends_when_the_first_did_if_it_says_when_that_was() {
    const THEN: i32 = 2_000_000_000;
    for node in pair_with("stamp_ttl") {
        let mut cql = Cql::with(node, "stamp_ttl", &Dial { version: 5, ..Dial::default() });
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        cql.define("CREATE TABLE d (k int PRIMARY KEY, v int) WITH default_time_to_live = 1000");
        let insert = "INSERT INTO t (k, v) VALUES (1, 1) USING TTL 1000";
        let by_default = "INSERT INTO d (k, v) VALUES (1, 1)";
        // Written at a second, repeated at another; seconds left at the second second.
        for (text, table, first, again, left) in [
            (insert, "t", THEN, THEN, Some(980)),
            (insert, "t", THEN, THEN + 20, Some(1000)),
            (insert, "t", THEN + 20, THEN, Some(1000)),
            (insert, "t", THEN - 1000, THEN - 1000, None),
            (insert, "t", THEN - 1000, THEN + 20, Some(1000)), // It had expired, and is back.
            (by_default, "d", THEN, THEN, Some(980)),
            (by_default, "d", THEN - 1000, THEN - 1000, None),
        ] {
            cql.run(&format!("TRUNCATE {table}"));
            let now = |second| Ask { at: Some(100), now_in_seconds: Some(second), ..Ask::default() };
            cql.query(text, &now(first)).expect("written");
            cql.query(text, &now(again)).expect("written");
            let select = format!("SELECT ttl(v) FROM {table} WHERE k = 1");
            let seen = cql.query(&select, &now(THEN + 20)).expect("rows").rows().lines();
            assert_eq!(seen, Vec::from_iter(left.map(|seconds| seconds.to_string())), "{text} at {first}, {again}");
        }
        // A conditional statement and a batch keep it too.
        let now = Ask { now_in_seconds: Some(THEN), serial: Some(SERIAL), ..Ask::default() };
        cql.run("TRUNCATE t");
        let conditional = "INSERT INTO t (k, v) VALUES (1, 1) IF NOT EXISTS USING TTL 1000";
        assert!(cql.query(conditional, &now).expect("an answer").applied());
        cql.batch(UNLOGGED, &[Member::Text(&insert.replace("(1, 1)", "(2, 2)"), &[])], &now).expect("written");
        assert_eq!(cql.query("SELECT ttl(v) FROM t", &now).expect("rows").rows().lines(), ["1000", "1000"]);
    }
}

#[test]
fn what_is_repeated_after_truncate_is_back() {
    for mut cql in clients("stamp_truncate") {
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        cql.run_at("INSERT INTO t (k, v) VALUES (1, 1)", 100);
        cql.run("TRUNCATE t");
        assert!(cql.rows("SELECT * FROM t").is_empty());
        cql.run_at("INSERT INTO t (k, v) VALUES (1, 1)", 100);
        assert_eq!(cql.rows("SELECT * FROM t"), ["1|1"]);
    }
}

#[test]
fn a_late_value_of_a_column_that_was_dropped_and_added_needs_the_drop_to_have_its_own_time() {
    for mut cql in clients("stamp_drop") {
        let early = micros() - 60_000_000;
        for (table, using, wanted) in
            [("late", String::new(), "1|null"), ("timed", format!(" USING TIMESTAMP {}", early - 1), "1|7")]
        {
            cql.define(&format!("CREATE TABLE {table} (k int PRIMARY KEY, b int)"));
            cql.define(&format!("ALTER TABLE {table} DROP b{using}"));
            cql.define(&format!("ALTER TABLE {table} ADD b int"));
            cql.run_at(&format!("INSERT INTO {table} (k, b) VALUES (1, 7)"), early);
            assert_eq!(cql.rows(&format!("SELECT k, b FROM {table}")), [wanted], "{table}");
        }
        let recorded = "SELECT dropped_time FROM system_schema.dropped_columns WHERE keyspace_name = 'stamp_drop' \
                        AND table_name = 'timed'";
        assert_eq!(cql.run(recorded).rows().number(), (early - 1) / 1000, "in milliseconds");
    }
}
