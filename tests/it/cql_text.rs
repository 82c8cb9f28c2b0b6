//! What `protocol::cql::text` says of statements, against what real servers of both versions say.

use std::time::Duration;

use tandem::protocol::cql::text::edit::apply;
use tandem::protocol::cql::text::generate::{Fresh, Generated, TimeUuids};
use tandem::protocol::cql::text::parse::parse;
use tandem::protocol::cql::text::schema::{Column, Table, pk_indexes};
use tandem::protocol::cql::text::statement::{Body, Name, Statement};
use tandem::protocol::cql::text::system::{self, Bound, ColumnSpec, SystemTable, Verdict};
use tandem::protocol::cql::text::volatile::{Dialect, literals, translations, volatile_calls};

use crate::support::cassandra::{clients, versions};
use crate::support::cql::{Ask, Cql, Rows, Value};
use crate::support::cql_type::option_of;

const STATEMENTS: &str = include_str!("cql_text.txt");

/// `INVALID` is for names and types, `SYNTAX` for the grammar.
const INVALID: i32 = 0x2200;

const SCHEMA: [&str; 6] = [
    "CREATE TYPE address (street text, \"No\" int)",
    "CREATE TABLE t (p int, q text, c int, d int, s text STATIC, v text, l list<text>, se set<text>, m map<text, int>, \
     u address, fu frozen<address>, fl frozen<list<text>>, tu tuple<int, text>, PRIMARY KEY ((p, q), c, d))",
    "CREATE TABLE x (k int PRIMARY KEY, dbl double, b blob, bo boolean, du duration, i uuid, num int)",
    "CREATE TABLE n (k int PRIMARY KEY, a counter, b counter)",
    "CREATE TABLE \"Odd\" (\"Key\" int PRIMARY KEY, \"a\"\"b\" int, type int, key int, ttl int, values int, json int, \
     distinct int, exists int)",
    "CREATE TYPE stamps (a timeuuid)",
];

const GENERATED: &str = "CREATE TABLE g (k uuid PRIMARY KEY, tu timeuuid, i uuid, ts timestamp, d date, ti time, n bigint, \
                         l list<timeuuid>, m map<text, timeuuid>, ut stamps, tp frozen<tuple<timeuuid, uuid>>)";

/// A server and what it calls its functions.
struct Side {
    cql: Cql,
    dialect: Dialect,
    keyspace: &'static str,
}

fn sides(keyspace: &'static str) -> [Side; 2] {
    let (old, new) = versions();
    let mut dialects = [old, new].map(|one| Dialect::of_release(&one.version)).into_iter();
    clients(keyspace).map(|mut cql| {
        SCHEMA.iter().chain([&GENERATED]).for_each(|define| cql.define(define));
        Side { cql, dialect: dialects.next().expect("two versions"), keyspace }
    })
}

/// How servers take a statement: the letters of the file, and the statement.
fn statements() -> impl Iterator<Item = (&'static str, &'static str)> {
    STATEMENTS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

impl Side {
    fn table(&mut self, name: &Name) -> Table {
        let of = format!("keyspace_name = '{}' AND table_name = '{}'", self.keyspace, name.name);
        let rows =
            self.cql.rows(&format!("SELECT column_name, kind, position, type FROM system_schema.columns WHERE {of}"));
        let described = |row: &String| match row.split('|').collect::<Vec<_>>()[..] {
            [name, kind, position, cql_type] => {
                Column::described(name, kind, position.parse().expect("a number"), cql_type)
            }
            _ => panic!("{row}"),
        };
        Table::new(self.keyspace, &name.name, rows.iter().map(described).collect())
    }

    /// What is said of a statement that this side takes.
    fn check_facts(&mut self, text: &str, statement: &Statement) {
        assert!(!matches!(statement.body, Body::Unknown(_)), "{text}: {:?}", statement.body);
        let answer = self.cql.prepare(text, None).unwrap_or_else(|failure| panic!("{text}: {failure:?}"));
        assert_eq!(answer.variables.len(), statement.markers.len(), "{text}");
        for (marker, (name, _)) in statement.markers.iter().zip(&answer.variables) {
            assert!(marker.name.as_ref().is_none_or(|own| own == name), "{text}: {name}");
        }
        let table = match &statement.body {
            Body::Select(select) => &select.table,
            _ => match statement.modifications() {
                [first, ..] => &first.table,
                [] => return assert!(answer.pk_indexes.is_empty(), "{text}"),
            },
        };
        let table = self.table(&table.clone());
        let expected: Vec<u16> = pk_indexes(statement, &table).into_iter().map(|index| index as u16).collect();
        assert_eq!(answer.pk_indexes, expected, "{text}");
    }

    /// The statement as this side is given it.
    fn check_rewritten(&mut self, text: &str, statement: &Statement) {
        let values: Vec<Generated> = volatile_calls(statement).map(|(_, kind)| generated(kind)).collect();
        let literal = utf8(apply(text.as_bytes(), literals(statement, self.dialect, &values)));
        let answer = self.cql.prepare(&literal, None).unwrap_or_else(|failure| panic!("{literal}: {failure:?}"));
        assert_eq!(answer.variables.len(), statement.markers.len(), "{literal}");
    }
}

fn generated(kind: Fresh) -> Generated {
    let maker = TimeUuids::new([1, 2, 3, 4, 5, 6], 7);
    Generated::new(kind, Duration::new(1_795_274_362, 401_442_674), &maker, [0xA5; 16])
}

fn utf8(text: Vec<u8>) -> String {
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn servers_agree_on_markers_keys_and_rewritten_statements() {
    let [mut old, mut new] = sides("cql_text");
    let mut surprises = Vec::new();
    for (taken, text) in statements() {
        let statement = parse(text.as_bytes());
        let by = |names: &[&str]| names.contains(&taken);
        for (side, as_it_is, rewritten) in [
            (&mut old, by(&["both", "old"]), by(&["both", "old", "new"])),
            (&mut new, by(&["both", "new", "only"]), by(&["both", "old", "new", "only"])),
        ] {
            let answer = side.cql.prepare(text, None);
            if answer.is_ok() != as_it_is {
                surprises.push((text, answer.err()));
                continue;
            }
            if as_it_is {
                side.check_facts(text, &statement);
            }
            if rewritten {
                side.check_rewritten(text, &statement);
            }
        }
        if by(&["old", "new"]) {
            let side = if taken == "old" { &mut new } else { &mut old };
            let translated = utf8(apply(text.as_bytes(), translations(&statement, side.dialect)));
            side.cql.prepare(&translated, None).unwrap_or_else(|failure| panic!("{translated}: {failure:?}"));
        }
    }
    assert!(surprises.is_empty(), "taken in another way than the table says: {surprises:#?}");
}

#[test]
fn both_sides_store_the_same_values_for_volatile_calls() {
    let mut sides = sides("cql_fresh");
    let text = "INSERT INTO g (k, tu, i, ts, d, ti, n) VALUES (?, now(), uuid(), toTimestamp(currentTimeUUID()) + 1h, \
                currentDate(), currentTime(), toUnixTimestamp(now()))";
    let statement = parse(text.as_bytes());
    let values: Vec<Generated> = volatile_calls(&statement).map(|(_, kind)| generated(kind)).collect();
    let [old, new] = sides.each_mut().map(|side| {
        let literal = utf8(apply(text.as_bytes(), literals(&statement, side.dialect, &values)));
        let key = [Value::Is(vec![0; 16])];
        side.cql.query(&literal, &Ask { values: &key, ..Ask::default() }).expect("written");
        side.cql.rows("SELECT tu, i, ts, d, ti, n FROM g")
    });
    assert_eq!(old, new);
    assert_eq!(old.len(), 1);
    let columns: Vec<&str> = old[0].split('|').collect();
    assert_eq!(columns[2..], ["1795277962401", "8000512a", "55162401442674", "1795274362401"]);
}

#[test]
fn system_tables_are_answered_as_a_server_answers() {
    for side in &mut sides("cql_system") {
        for question in QUESTIONS {
            let statement = parse(question.as_bytes());
            let table = SystemTable::of(&statement, None).expect("a system table");
            let all = side.cql.run(&format!("SELECT * FROM system.{}", table.name())).rows();
            let answer = side.cql.query(question, &Ask::default());
            match (system::plan(question.as_bytes(), &statement, table, &columns_of(&all)), answer) {
                (Verdict::Answer(plan), Ok(answer)) => {
                    let answer = answer.rows();
                    let names: Vec<&String> = plan.columns.iter().map(|column| &column.name).collect();
                    assert_eq!(names, answer.columns.iter().map(|(name, _)| name).collect::<Vec<_>>(), "{question}");
                    let types: Vec<&Vec<u8>> = plan.columns.iter().map(|column| &column.type_option).collect();
                    let theirs: Vec<Vec<u8>> = answer.columns.iter().map(|(_, of)| option_of(of)).collect();
                    assert_eq!(types, theirs.iter().collect::<Vec<_>>(), "{question}");
                    assert_eq!(plan.run(&all.rows, &[]).expect("rows"), answer.rows, "{question}");
                }
                (Verdict::Answer(plan), Err(failure)) => {
                    assert_eq!(plan.run(&all.rows, &[]), Err(failure.message), "{question}");
                    assert_eq!(failure.code, INVALID);
                }
                (Verdict::Refused(words), Err(failure)) => {
                    assert_eq!(words, failure.message, "{question}");
                    assert_eq!(failure.code, INVALID);
                }
                (verdict, answer) => panic!("{question}: {verdict:?}, but the server {answer:?}"),
            }
        }
    }
}

#[test]
fn prepared_questions_have_the_servers_markers_and_take_its_values() {
    let local = Value::from("local");
    let list = Value::Is([&[0, 0, 0, 1, 0, 0, 0, 5][..], b"local"].concat());
    let cases: [(&str, Vec<Value>); 9] = [
        ("SELECT rack FROM system.local WHERE key = ?", vec![local.clone()]),
        ("SELECT key FROM system.local WHERE key IN (?, :b) LIMIT :c", vec![local.clone(), local.clone(), 1.into()]),
        ("SELECT key FROM system.local WHERE key IN ? LIMIT ?", vec![list, Value::Unset]),
        (
            "SELECT key FROM system.local WHERE rpc_port = ? PER PARTITION LIMIT ? ALLOW FILTERING",
            vec![9042.into(), 1.into()],
        ),
        ("SELECT key FROM system.local LIMIT ?", vec![0.into()]),
        ("SELECT key FROM system.local WHERE key = ?", vec![Value::Null]),
        ("SELECT key FROM system.local WHERE key = ?", vec![Value::Unset]),
        ("SELECT JSON key FROM system.local WHERE key = (text)?", vec![local]),
        (
            "SELECT * FROM system.peers_v2 WHERE peer = ? AND peer_port = ?",
            vec![Value::Is(vec![127, 0, 0, 9]), 7000.into()],
        ),
    ];
    for side in &mut sides("cql_questions") {
        for (question, values) in &cases {
            let statement = parse(question.as_bytes());
            let table = SystemTable::of(&statement, None).expect("a system table");
            let all = side.cql.run(&format!("SELECT * FROM system.{}", table.name())).rows();
            let Verdict::Answer(plan) = system::plan(question.as_bytes(), &statement, table, &columns_of(&all)) else {
                panic!("{question}: no plan");
            };
            let theirs = side.cql.prepare(question, None).expect("prepared");
            let names: Vec<&String> = plan.markers.iter().map(|marker| &marker.name).collect();
            assert_eq!(names, theirs.variables.iter().map(|(name, _)| name).collect::<Vec<_>>(), "{question}");
            for (own, (_, of)) in plan.markers.iter().zip(&theirs.variables) {
                let own = own.type_option.strip_prefix(&[0x00, 0x20]).unwrap_or(&own.type_option);
                assert!(option_of(of).ends_with(own), "{question}: {own:?} for {of:?}");
            }
            let indexes: Vec<u16> = plan.pk_indexes.iter().map(|index| *index as u16).collect();
            assert_eq!(theirs.pk_indexes, indexes, "{question}");
            let bound: Vec<Bound<'_>> = values.iter().map(as_bound).collect();
            let answer = side.cql.execute(&theirs.id, &[], &Ask { values, ..Ask::default() });
            let answer = answer.map(|answer| answer.rows().rows).map_err(|failure| failure.message);
            assert_eq!(plan.run(&all.rows, &bound), answer, "{question}");
        }
    }
}

fn as_bound(value: &Value) -> Bound<'_> {
    match value {
        Value::Is(bytes) => Bound::Value(bytes),
        Value::Null => Bound::Null,
        Value::Unset => Bound::Unset,
    }
}

pub(crate) fn columns_of(rows: &Rows) -> Vec<ColumnSpec> {
    rows.columns.iter().map(|(name, of)| ColumnSpec::new(name.as_str(), &option_of(of))).collect()
}

pub(crate) const QUESTIONS: &[&str] = &[
    "SELECT * FROM system.local",
    "SELECT * FROM system.local WHERE key='local'",
    "SELECT cluster_name FROM system.local",
    "SELECT key AS a, KEY AS \"B\", key, tokens FROM \"system\".\"local\" WHERE key IN ('local', 'x')",
    "SELECT * FROM system.local WHERE key IN ()",
    "SELECT * FROM system.local WHERE key='nope'",
    "SELECT count(*) FROM system.local",
    "SELECT count(1) AS n, rack FROM system.local LIMIT 1",
    "SELECT count(*), rack FROM system.local WHERE key='nope'",
    "SELECT count(*) FROM system.peers_v2",
    "SELECT JSON * FROM system.local",
    "SELECT JSON key AS \"K\", count(*) FROM system.local",
    "SELECT DISTINCT key FROM system.local",
    "SELECT DISTINCT peer FROM system.peers_v2 LIMIT 3",
    "SELECT * FROM system.peers",
    "SELECT * FROM system.peers WHERE peer = '127.0.0.9'",
    "SELECT * FROM system.peers_v2 WHERE peer = '::1' AND peer_port = 7000",
    "SELECT * FROM system.peers_v2 WHERE peer = '127.0.0.9' ORDER BY peer_port DESC LIMIT 2",
    "SELECT key FROM system.local WHERE rpc_port = 9042 ALLOW FILTERING",
    "SELECT key FROM system.local WHERE key = 'local' AND rack = 'nope' ALLOW FILTERING",
    "SELECT key FROM system.local PER PARTITION LIMIT 1",
    "SELECT x FROM system.local",
    "SELECT x FROM system.local WHERE y = 1",
    "SELECT x FROM system.local WHERE rack = 'r'",
    "SELECT \"Xy\" FROM system.local LIMIT 0",
    "SELECT writetime(x) FROM system.local",
    "SELECT key FROM system.peers",
    "SELECT * FROM system.local WHERE rack = 'r'",
    "SELECT * FROM system.peers_v2 WHERE peer_port = 7000",
    "SELECT * FROM system.local WHERE key = 1",
    "SELECT * FROM system.local WHERE key = 0xCA",
    "SELECT * FROM system.local WHERE rpc_port = '9042' ALLOW FILTERING",
    "SELECT * FROM system.local WHERE key = null",
    "SELECT * FROM system.local WHERE rpc_port = null ALLOW FILTERING",
    "SELECT * FROM system.local WHERE key = 'a' AND key = 'b'",
    "SELECT * FROM system.peers WHERE peer = 'no address'",
    "SELECT * FROM system.local LIMIT 0",
    "SELECT * FROM system.local LIMIT -1",
    "SELECT DISTINCT rack FROM system.local",
    "SELECT DISTINCT * FROM system.local",
    "SELECT DISTINCT count(*) FROM system.local",
    "SELECT key FROM system.local ORDER BY key",
    "SELECT key FROM system.local ORDER BY nothing",
    "SELECT key FROM system.local WHERE key = 'local' ORDER BY key",
    "SELECT key FROM system.local WHERE key = 'local' ORDER BY nothing",
];
