//! Texts before and after; servers' acceptance of the latter is tried in `tests/it`.

use super::super::edit;
use super::super::parse::parse;
use super::super::statement::Body;
use super::*;

const OLD: Dialect = Dialect { snake_case: false, date_of: true };
const NEW: Dialect = Dialect { snake_case: true, date_of: false };

fn found(text: &str) -> Vec<(&str, Fresh)> {
    let statement = parse(text.as_bytes());
    assert!(!matches!(statement.body, Body::Unknown(_)), "{text}: {:?}", statement.body);
    volatile_calls(&statement).map(|(call, kind)| (&text[call.span.start..call.span.end], kind)).collect()
}

#[test]
fn every_form_of_a_volatile_call_is_found() {
    use Fresh::*;
    for (call, kind) in [
        ("NOW()", TimeUuid),
        ("system.now()", TimeUuid),
        ("\"system\" . \"now\" ( )", TimeUuid),
        ("\"now\"()", TimeUuid),
        ("now /* c */ ()", TimeUuid),
        ("now -- c\n()", TimeUuid),
        ("currentTimeUUID()", TimeUuid),
        ("current_timeuuid()", TimeUuid),
        ("uuid()", Uuid),
        ("UUID()", Uuid),
        ("currentTimestamp()", Timestamp),
        ("current_timestamp()", Timestamp),
        ("currentDate()", Date),
        ("current_date()", Date),
        ("currentTime()", Time),
        ("current_time()", Time),
    ] {
        for (before, after) in [
            ("INSERT INTO t (a) VALUES (", ")"),
            ("INSERT INTO t (a) VALUES (toTimestamp(", ") + 1h)"),
            ("INSERT INTO t (a) VALUES (minTimeuuid((timestamp)", "))"),
            ("INSERT INTO t (a) VALUES ([", "])"),
            ("INSERT INTO t (a) VALUES ({'x': (", ", 1)})"),
            ("INSERT INTO t (a) VALUES ({f: ", "})"),
            ("INSERT INTO t (a) VALUES (CAST(", " AS text))"),
            ("UPDATE t SET l = l + [", "] WHERE k=1"),
            ("UPDATE t SET m[", "] = 1 WHERE k=1"),
            ("UPDATE t SET a = 1 WHERE k = ", ""),
            ("UPDATE t SET a = 1 WHERE k IN (1, ", ")"),
            ("UPDATE t SET a = 1 WHERE k=1 IF b < ", ""),
            ("DELETE m[", "] FROM t WHERE k=1"),
            ("BEGIN BATCH INSERT INTO t (a) VALUES (", ") APPLY BATCH"),
            ("SELECT * FROM t WHERE a > maxTimeuuid(", ")"),
            ("SELECT ", " FROM t"),
            ("SELECT a, toDate(", ") AS x FROM t"),
        ] {
            assert_eq!(found(&format!("{before}{call}{after}")), [(call, kind)], "{before}{call}{after}");
        }
    }
}

#[test]
fn what_only_looks_like_a_volatile_call_is_left_alone() {
    for text in [
        "INSERT INTO t (now, uuid) VALUES ('now()', $$uuid()$$) /* now() */",
        "SELECT now, \"uuid\" FROM now",
        "INSERT INTO t (a) VALUES (ks.now())",
        "INSERT INTO t (a) VALUES (\"NOW\"())",
        "INSERT INTO t (a) VALUES (now(1))",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn unknown_functions_are_doubtful() {
    let doubtful = |text: &str| doubtful_calls(&parse(text.as_bytes())).count();
    for (text, count) in [
        ("INSERT INTO t (a) VALUES (ks.f(1))", 1),
        ("INSERT INTO t (a) VALUES (f(g(now())))", 2),
        ("INSERT INTO t (a) VALUES (\"NOW\"())", 1),
        ("INSERT INTO t (a) VALUES (toTimestamp(now()))", 0),
        ("INSERT INTO t (a) VALUES (intAsBlob(blob_as_int(0x00)))", 0),
        ("INSERT INTO t (a) VALUES (wrongAsBlob(1))", 1),
        ("UPDATE t SET a=1 WHERE token(k) = token(1)", 0),
    ] {
        assert_eq!(doubtful(text), count, "{text}");
    }
}

#[test]
fn literals_take_the_place_of_calls() {
    let text = "INSERT INTO t (a,b,c,d) VALUES (?, dateOf(NOW()), current_date() , uuid())";
    let statement = parse(text.as_bytes());
    let values = [Generated::TimeUuid([0x11; 16]), Generated::Date(2_147_504_426), Generated::Uuid([0x44; 16])];
    let rewritten =
        |dialect| String::from_utf8(edit::apply(text.as_bytes(), literals(&statement, dialect, &values))).unwrap();
    let timeuuid = "(timeuuid)11111111-1111-1111-1111-111111111111";
    let uuid = "(uuid)44444444-4444-4444-4444-444444444444";
    assert_eq!(
        rewritten(OLD),
        format!("INSERT INTO t (a,b,c,d) VALUES (?, dateOf({timeuuid}), (date)2147504426 , {uuid})")
    );
    assert_eq!(
        rewritten(NEW),
        format!("INSERT INTO t (a,b,c,d) VALUES (?, toTimestamp({timeuuid}), (date)2147504426 , {uuid})")
    );
}

#[test]
fn names_are_translated_for_the_side_that_lacks_them() {
    let to = |text: &str, dialect| {
        let statement = parse(text.as_bytes());
        String::from_utf8(edit::apply(text.as_bytes(), translations(&statement, dialect))).unwrap()
    };
    let old = "SELECT dateOf(a), unixTimestampOf(b), system.\"dateof\"(c), toTimestamp(d), blobAsInt(e) FROM t";
    assert_eq!(to(old, OLD), old);
    assert_eq!(
        to(old, NEW),
        "SELECT toTimestamp(a), toUnixTimestamp(b), system.toTimestamp(c), toTimestamp(d), blobAsInt(e) FROM t"
    );
    let new = "SELECT to_timestamp(a), to_unix_timestamp(b), int_as_blob(c), blob_as_int(d), current_date() FROM t";
    assert_eq!(to(new, NEW), new);
    assert_eq!(
        to(new, OLD),
        "SELECT toTimestamp(a), toUnixTimestamp(b), intasblob(c), blobasint(d), currentDate() FROM t"
    );
    assert_eq!(to("SELECT ks.to_date(a), dateof FROM t", OLD), "SELECT ks.to_date(a), dateof FROM t");
}

#[test]
fn dialects_follow_releases() {
    assert_eq!(Dialect::of_release("4.1.9"), OLD);
    assert_eq!(Dialect::of_release("5.0.5"), NEW);
    assert_eq!(Dialect::of_release("5.1-SNAPSHOT"), NEW);
    assert_eq!(Dialect::of_release("3.0.8"), OLD);
    assert_eq!(Dialect::of_release("unknown"), OLD);
}
