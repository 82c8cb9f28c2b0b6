//! All that is done to a statement, done to any bytes: by the fuzzer, and by random statements in ordinary tests.

use super::generate::{Generated, TimeUuids};
use super::parse::parse;
use super::schema::{Column, Effect, Table, pk_indexes};
use super::shape::{SHAPE_BYTES_MAX, shape};
use super::statement::{Body, Statement};
use super::system::{Bound, ColumnSpec, Verdict, plan_text};
use super::token::tokens;
use super::volatile::{Dialect, literals, volatile_calls};
use super::{document, edit};

/// Panics where a promise is broken.
pub fn everything(text: &[u8]) {
    let together: Vec<u8> = tokens(text).flat_map(|token| token.span.of(text).to_vec()).collect();
    assert_eq!(together, text, "tokens are the text");
    let statement = parse(text);
    assert!(shape(text, &statement).len() <= SHAPE_BYTES_MAX + 3, "shapes are bounded");
    effects(&statement);
    for dialect in [Dialect { snake_case: false, date_of: true }, Dialect { snake_case: true, date_of: false }] {
        rewritten(text, &statement, dialect);
    }
    if let Body::Schema(schema) = &statement.body {
        let dropped = schema.drop.as_ref().map(|drop| edit::apply(text, vec![edit::drop_at(drop, 5)]));
        assert!(dropped.is_none_or(|text| matches!(parse(&text).body, Body::Schema(_))), "a drop stays a drop");
    }
    answers(text);
    let _ = document::key(text, table().partition_key());
}

fn table() -> Table {
    let columns = [("a", "partition_key", "int"), ("b", "clustering", "int"), ("c", "regular", "list<int>")];
    Table::new("k", "t", columns.map(|(name, kind, cql_type)| Column::described(name, kind, 0, cql_type)).to_vec())
}

fn effects(statement: &Statement) {
    let table = table();
    for modification in statement.modifications() {
        let effect = Effect::of(modification, &table);
        assert_eq!(effect.key.len(), 1);
        let _ = (effect.mirroring(), effect.key_sources());
    }
    assert!(pk_indexes(statement, &table).iter().all(|index| *index < statement.markers.len()), "indexes of markers");
}

/// What was rewritten is the same kind of statement, without volatile calls, and with the markers that it should have.
fn rewritten(text: &[u8], statement: &Statement, dialect: Dialect) {
    let makers = TimeUuids::new([0; 6], 0);
    let value = |kind| Generated::new(kind, std::time::Duration::from_secs(1), &makers, [0; 16]);
    let values: Vec<Generated> = volatile_calls(statement).map(|(_, kind)| value(kind)).collect();
    let literal = parse(&edit::apply(text, literals(statement, dialect, &values)));
    assert_eq!(literal.class(), statement.class(), "still the same");
    assert_eq!(literal.markers.len(), statement.markers.len(), "literals add no markers");
    assert_eq!(volatile_calls(&literal).count(), 0, "all calls are replaced");
}

fn answers(text: &[u8]) {
    let column = |name: &str, id: u8| ColumnSpec::new(name, &[0, id]);
    let columns = [column("key", 0x0D), column("peer", 0x10), column("peer_port", 0x09), column("a", 0x0C)];
    if let Some(Verdict::Answer(plan)) = plan_text(text, Some("system"), |_| columns.to_vec()) {
        let rows = [vec![Some(text.to_vec()), Some(vec![1; 4]), Some(vec![0; 4]), None], vec![]];
        for bound in [Bound::Null, Bound::Unset, Bound::Value(text)] {
            let _ = plan.run(&rows, &vec![bound; plan.markers.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words of every clause: statements come out whole often enough.
    const WORDS: &[&str] = &[
        "SELECT",
        "*",
        "FROM",
        "system.local",
        "peers_v2",
        "WHERE",
        "key",
        "=",
        "?",
        ":n",
        "'x'",
        "IN",
        "(",
        ")",
        ",",
        "JSON",
        "DISTINCT",
        "count(*)",
        "LIMIT",
        "1",
        "ORDER BY peer_port",
        "ALLOW FILTERING",
        "INSERT INTO t (a,b) VALUES (",
        "UPDATE t SET",
        "DELETE",
        "a",
        "c",
        "now()",
        "dateOf(now())",
        "to_date(uuid())",
        "[",
        "]",
        "{",
        "}",
        "+",
        "-1",
        "WHERE a=1 AND b=?",
        "IF EXISTS",
        "BEGIN BATCH",
        "APPLY BATCH",
        ";",
        "USING TTL ?",
        "ALTER TABLE t DROP c",
        "USING TIMESTAMP 5",
        "/* x */",
        "\"q\"",
        "(int)",
        "AS",
        "AND",
        "IS NOT NULL",
        "peer='1.2.3.4'",
        "token(a)",
        ">",
    ];

    proptest! {
        #[test]
        fn promises_hold_for_any_words(words in prop::collection::vec(prop::sample::select(WORDS), 0..30)) {
            everything(words.join(" ").as_bytes());
        }

        #[test]
        fn promises_hold_for_any_bytes(text in prop::collection::vec(any::<u8>(), 0..200)) {
            everything(&text);
        }

        #[test]
        fn promises_hold_for_selects_of_system_tables(
            what in prop::sample::select(vec!["*", "key", "peer", "count(*), peer", "DISTINCT peer", "JSON *", "JSON key AS \"K\""]),
            table in prop::sample::select(vec!["local", "system.peers", "peers_v2"]),
            rest in prop::collection::vec(prop::sample::select(vec![
                "WHERE peer=?", "WHERE key IN ?", "WHERE key IN ('a', ?)", "AND peer_port=1", "AND peer_port IN (?, 2)",
                "PER PARTITION LIMIT 1", "LIMIT ?", "ORDER BY peer_port DESC", "ALLOW FILTERING",
            ]), 0..4),
        ) {
            everything(format!("SELECT {what} FROM {table} {}", rest.join(" ")).as_bytes());
        }

        #[test]
        fn promises_hold_for_statements_that_are_whole(
            value in prop::sample::select(vec!["now()", "?", "[uuid()]", "(currentDate(), :x)", "{f: toTimestamp(now())}", "dateOf(?)"]),
            column in prop::sample::select(vec!["a", "\"B\"", "key"]),
            using in prop::sample::select(vec!["", "USING TTL ?", "USING TIMESTAMP :t AND TTL 5"]),
            condition in prop::sample::select(vec!["", "IF EXISTS", "IF a = now() AND b IN (?, uuid())"]),
        ) {
            everything(format!("INSERT INTO t (a, {column}) VALUES ({value}, ?) {using}").as_bytes());
            everything(format!("UPDATE t {using} SET {column} = {value}, c = c + {value} WHERE a = {value} {condition};").as_bytes());
            everything(format!("BEGIN BATCH {using} DELETE {column} FROM t WHERE a = {value} {condition}; APPLY BATCH").as_bytes());
            everything(format!("SELECT {value} FROM t WHERE {column} = {value}").as_bytes());
        }
    }
}
