//! Ids of prepared statements and of their results' metadata: equal on both sides of a migration, as long as text and schema are.

use md5::{Digest, Md5};
use tandem::protocol::cql::text::names::names;
use tandem::protocol::cql::text::parse::parse;
use tandem::sandbox::cassandra::Node;

use crate::support::cassandra::{make_keyspace, pair, pair_with};
use crate::support::cql::{Ask, Cql, Dial, EXECUTE, LOGGED, Member, ONE, Out, QUERY, RESULT, Value, hex};
use crate::support::tandem::Tandem;

const UNPREPARED: i32 = 0x2500;
/// The MD5 of nothing: a statement without a result has this for its metadata.
const NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

fn md5(text: &str) -> String {
    hex(&Md5::digest(text.as_bytes()))
}

fn client(node: &Node, keyspace: &str, version: u8) -> Cql {
    Cql::with(node, keyspace, &Dial { version, ..Dial::default() })
}

#[test]
fn the_id_is_the_md5_of_the_text_with_the_keyspace_that_it_needs() {
    make_both("prepared_other");
    for node in pair_with("prepared") {
        for keyspace in ["prepared", "prepared_other"] {
            client(node, keyspace, 4).define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        }
        let (bare, whole) = ("SELECT v FROM t WHERE k = ?", "SELECT v FROM prepared.t WHERE k = ?");
        for version in [3, 4, 5] {
            let mut cql = client(node, "prepared", version);
            for (text, keyspace, wanted) in [
                (bare, None, format!("prepared{bare}")),
                (whole, None, whole.to_owned()),
                (bare, Some("prepared_other"), format!("prepared_other{bare}")),
                (whole, Some("prepared_other"), whole.to_owned()),
            ] {
                if keyspace.is_some() && version < 5 {
                    continue;
                }
                let prepared = cql.prepare(text, keyspace).expect(text);
                assert_eq!(prepared.id_hex(), md5(&wanted), "v{version}: {text} {keyspace:?}");
                assert_eq!(prepared.pk_indexes, if version == 3 { vec![] } else { vec![0] });
            }
        }
    }
}

fn make_both(keyspace: &str) {
    pair().iter().for_each(|node| make_keyspace(node, keyspace, 1));
}

#[test]
fn a_prepared_statement_stays_in_the_keyspace_it_was_prepared_in() {
    make_both("prepared_there");
    for node in pair_with("prepared_here") {
        for (keyspace, value) in [("prepared_there", 2), ("prepared_here", 1)] {
            let mut cql = client(node, keyspace, 4);
            cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
            cql.run(&format!("INSERT INTO t (k, v) VALUES (1, {value})"));
        }
        let mut cql = client(node, "prepared_here", 4);
        let prepared = cql.prepare("SELECT v FROM t", None).expect("prepared");
        cql.run("USE prepared_there");
        assert_eq!(cql.rows("SELECT v FROM t"), ["2"]);
        let rows = cql.execute(&prepared.id, &[], &Ask::default()).expect("rows").rows();
        assert_eq!(rows.lines(), ["1"]);
    }
}

#[test]
fn metadata_ids_agree_between_versions_and_a_wrong_one_is_answered_with_the_right_one() {
    let mut seen = Vec::new();
    for node in pair_with("prepared_result") {
        let mut cql = client(node, "prepared_result", 5);
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int, w text)");
        cql.run("INSERT INTO t (k, v, w) VALUES (1, 2, 'x')");
        let select = cql.prepare("SELECT * FROM t", None).expect("prepared");
        for text in ["INSERT INTO t (k, v) VALUES (?, ?)", "UPDATE t SET v = ? WHERE k = ? IF v = ?"] {
            assert_eq!(hex(&cql.prepare(text, None).expect(text).metadata_id), NOTHING, "{text}");
        }
        let skip = Ask { skip_metadata: true, ..Ask::default() };
        let known = cql.execute(&select.id, &select.metadata_id, &skip).expect("rows").rows();
        assert!(known.new_metadata_id.is_none() && !known.has_metadata);
        let wrong = cql.execute(&select.id, &[7; 16], &skip).expect("rows").rows();
        assert!(wrong.has_metadata);
        assert_eq!(wrong.new_metadata_id, Some(select.metadata_id.clone()));
        seen.push(select);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn a_changed_table_forgets_its_statements_and_only_the_metadata_id_is_another_one() {
    for node in pair_with("prepared_alter") {
        for version in [4, 5] {
            let table = format!("t{version}");
            let mut cql = client(node, "prepared_alter", version);
            cql.define(&format!("CREATE TABLE {table} (k int PRIMARY KEY)"));
            let text = format!("SELECT * FROM {table}");
            let before = cql.prepare(&text, None).expect("prepared");
            cql.define(&format!("ALTER TABLE {table} ADD v int"));
            let failure = cql.execute(&before.id, &before.metadata_id, &Ask::default()).expect_err("forgotten");
            assert_eq!(failure.code, UNPREPARED, "v{version}: {failure:?}");
            assert_eq!(failure.rest[2..], before.id);
            let after = cql.prepare(&text, None).expect("prepared");
            assert_eq!(after.id, before.id);
            assert_eq!(after.metadata_id != before.metadata_id, version == 5);
            assert_eq!(after.columns.len(), 2);
        }
    }
}

#[test]
fn variables_are_named_as_a_rewrite_must_name_them() {
    for node in pair_with("prepared_names") {
        let mut cql = client(node, "prepared_names", 4);
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        for (text, names, pk) in [
            ("INSERT INTO t (k, v) VALUES (?, ?) USING TIMESTAMP ? AND TTL ?", "k v [timestamp] [ttl]", vec![0]),
            ("SELECT v FROM t WHERE k = :key LIMIT ?", "key [limit]", vec![0]),
            ("INSERT INTO t (v, k) VALUES (:a, :a)", "a a", vec![1]),
            (
                "BEGIN BATCH USING TIMESTAMP ? INSERT INTO t (k, v) VALUES (?, ?); DELETE FROM t WHERE k = ?; APPLY BATCH",
                "[timestamp] k v k",
                vec![],
            ),
        ] {
            let prepared = cql.prepare(text, None).expect(text);
            let found: Vec<_> = prepared.variables.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((found.join(" ").as_str(), prepared.pk_indexes), (names, pk), "{text}");
        }
    }
}

#[test]
fn markers_without_a_name_are_called_as_servers_call_them() {
    const SCHEMA: [&str; 2] = [
        "CREATE TYPE u (\"F\" int, g int)",
        "CREATE TABLE t (k int, \"C\" int, d int, v int, f float, l list<int>, s set<int>, m map<int, int>, n u, \
         fu frozen<u>, tu tuple<int, int>, b bigint, st int static, PRIMARY KEY (k, \"C\", d))",
    ];
    let named = [
        "INSERT INTO t (k, \"C\", d, v, f, l, tu, fu) VALUES (?, ?, :given, (int)?, ?, ?, (?, ?), {\"F\": ?, g: ?}) \
         USING TIMESTAMP ? AND TTL ?",
        "INSERT INTO t JSON ? DEFAULT UNSET",
        "UPDATE t USING TTL ? SET v = ?, l = l + ?, s = s - ?, m = m + ?, n = ?, tu = ? WHERE k = ? AND \"C\" = ? AND d = ?",
        "UPDATE t SET l = ? + l, m = m - ?, s += ? WHERE k IN ? AND \"C\" IN (?, ?) AND d = ?",
        "UPDATE t SET l[?] = ?, m[?] = ?, n.\"F\" = ? WHERE k = ? AND (\"C\", d) = (?, ?)",
        "UPDATE t SET v = ?, l -= ? WHERE k IN (?, ?) AND (\"C\", d) IN ((?, ?), (?, ?))",
        "UPDATE t SET v = ? WHERE k = ? AND (\"C\", d) IN (?, ?)",
        "DELETE l[?], m[?], s[?], n.g FROM t USING TIMESTAMP ? WHERE k = ? AND \"C\" = ? AND d IN ?",
        "DELETE FROM t WHERE k = ? AND (\"C\", d) > ? AND (\"C\", d) <= (?, ?)",
        "DELETE FROM t WHERE k = ? AND (\"C\", d) IN ?",
        "UPDATE t SET v = ? WHERE k = ? AND \"C\" = ? AND d = ? \
         IF v = ? AND v IN ? AND v IN (?, ?) AND l[?] = ? AND m[?] != ? AND m[?] IN ? AND n.g = ? AND n.\"F\" IN ?",
        "BEGIN BATCH USING TIMESTAMP ? UPDATE t SET st = ? WHERE k = ?; DELETE st FROM t WHERE k = ? APPLY BATCH",
        "SELECT * FROM t WHERE k = ? AND \"C\" > ? PER PARTITION LIMIT ? LIMIT ?",
    ];
    let untold = "UPDATE t SET b = toUnixTimestamp((date)?) WHERE k = 1 AND \"C\" = 1 AND d = 1";
    for node in pair_with("prepared_called") {
        let mut cql = client(node, "prepared_called", 4);
        SCHEMA.iter().for_each(|text| cql.define(text));
        for text in named {
            let (statement, prepared) = (parse(text.as_bytes()), cql.prepare(text, None).expect(text));
            assert_eq!(statement.markers.len(), prepared.variables.len(), "{text}");
            let called = names(&statement);
            for (number, (theirs, _)) in prepared.variables.iter().enumerate() {
                match &statement.markers[number].name {
                    Some(given) => assert_eq!(given, theirs, "{text}"),
                    None => {
                        let ours = &called[number];
                        assert!(ours.contains(theirs), "{text}: {number} is {theirs}, and not {ours:?}");
                    }
                }
            }
        }
        assert_eq!(cql.prepare(untold, None).expect("prepared").variables[0].0, "arg0(system.tounixtimestamp)");
        assert_eq!(names(&parse(untold.as_bytes())), [Vec::<String>::new()]);
    }
}

fn through(tandem: &Tandem, keyspace: &str, version: u8) -> Cql {
    let dial = Dial { version, keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    Cql::dial(tandem.address(), &dial).expect("a login")
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_batch_write_where_they_were_prepared_on_both_sides() {
    make_both("prepared_away");
    let nodes = pair_with("prepared_home");
    for (node, keyspace) in nodes.iter().flat_map(|node| ["prepared_home", "prepared_away"].map(|of| (node, of))) {
        client(node, keyspace, 4).define("CREATE TABLE t (k int PRIMARY KEY, v int, u timeuuid)");
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let (insert, fresh) = ("INSERT INTO t (k, v) VALUES (?, ?)", "INSERT INTO t (k, v, u) VALUES (?, ?, now())");
    let mut all = [Vec::new(), Vec::new()];
    for version in [3, 4, 5] {
        let mut cql = through(&tandem, "prepared_home", version);
        let [home, fresh] = [insert, fresh].map(|text| cql.prepare(text, None).expect("prepared"));
        cql.run("USE prepared_away");
        let away = cql.prepare(insert, None).expect("prepared");
        let row = |number: i32| [(i32::from(version) * 10 + number).into(), number.into()];
        let members = [
            Member::Prepared(&home.id, &row(1)),
            Member::Prepared(&away.id, &row(2)),
            Member::Prepared(&fresh.id, &row(3)),
            Member::Text("INSERT INTO t (k, v) VALUES (?, ?)", &row(4)),
        ];
        cql.batch(LOGGED, &members, &Ask::default()).expect("executed");
        let alone = Ask { values: &row(5), ..Ask::default() };
        cql.execute(&fresh.id, &fresh.metadata_id, &alone).expect("executed");
        for (rows, numbers) in all.iter_mut().zip([&[1, 3, 5][..], &[2, 4]]) {
            rows.extend(numbers.iter().map(|number| format!("{version}{number}|{number}")));
        }
    }
    tandem.settled().await;
    for (node, (keyspace, wanted)) in
        nodes.iter().flat_map(|node| ["prepared_home", "prepared_away"].into_iter().zip(&all).map(move |of| (node, of)))
    {
        let mut found = client(node, keyspace, 4).rows("SELECT k, v FROM t");
        found.sort();
        assert_eq!(found, *wanted, "{keyspace}");
    }
    let uuids = |node| client(node, "prepared_home", 4).rows("SELECT k, u, writetime(u) FROM t");
    assert_eq!(uuids(nodes[0]), uuids(nodes[1]));
}

/// Parameters of QUERY and EXECUTE: values with their names.
fn named(out: Out, version: u8, values: &[(&str, Value)]) -> Out {
    let flags = 0x41;
    let out = out.short(usize::from(ONE));
    let out = if version >= 5 { out.int(flags) } else { out.byte(flags as u8) };
    values.iter().fold(out.short(values.len()), |out, (name, value)| {
        let Value::Is(bytes) = value else { panic!("a value") };
        out.string(name).bytes(bytes)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bound_by_the_servers_own_names_is_on_both_sides() {
    let nodes = pair_with("prepared_by_name");
    for node in nodes {
        let mut cql = client(node, "prepared_by_name", 4);
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int, m map<int, int>, b bigint)");
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    for version in [4, 5] {
        let mut cql = through(&tandem, "prepared_by_name", version);
        let key = i32::from(version);
        for (text, values) in [
            ("INSERT INTO t (k, v) VALUES (?, ?)", vec![("v", 1.into()), ("k", key.into())]),
            ("UPDATE t USING TTL ? SET v = ? WHERE k = :key", {
                vec![("key", (key + 10).into()), ("[ttl]", 5000.into()), ("v", 2.into())]
            }),
            ("UPDATE t SET m[?] = ? WHERE k = ?", {
                vec![("value(m)", 3.into()), ("key(m)", 4.into()), ("k", (key + 20).into())]
            }),
            // Of an argument the server alone knows the name.
            ("UPDATE t SET b = toUnixTimestamp(?) WHERE k IN ?", {
                let days = Value::Is(2_147_500_000_u32.to_be_bytes().to_vec());
                let list = [1_i32, 4, key + 30].map(i32::to_be_bytes).concat();
                vec![("in(k)", Value::Is(list)), ("arg0(system.tounixtimestamp)", days)]
            }),
        ] {
            let text = text.replace("(?) WHERE", "((date)?) WHERE");
            let query = named(Out::default().long_string(&text), version, &values);
            let asked = cql.say(QUERY, 0, &query.0);
            assert_eq!(asked.opcode, RESULT, "v{version} {text}: {asked:?}");
            let prepared = cql.prepare(&text, None).expect("prepared");
            let again: Vec<(&str, Value)> = (values.iter().cloned())
                .map(|(name, value)| match (name, &value) {
                    ("k" | "key", Value::Is(bytes)) => (name, Value::from(bytes[3] as i32 + 100)),
                    _ => (name, value),
                })
                .collect();
            let id = Out::default().short_bytes(&prepared.id);
            let id = if version >= 5 { id.short_bytes(&prepared.metadata_id) } else { id };
            let asked = cql.say(EXECUTE, 0, &named(id, version, &again).0);
            assert_eq!(asked.opcode, RESULT, "v{version} {text}: {asked:?}");
        }
    }
    tandem.nothing_set_aside().await;
    let [old, new] = nodes
        .map(|node| client(node, "prepared_by_name", 4).rows("SELECT k, v, writetime(v), m, b, writetime(b) FROM t"));
    assert_eq!(old.len(), 14);
    assert_eq!(old, new);
}
