//! The frames with which tandem answers for the cluster, against those of real nodes: byte for byte the same, where the rows are.

use bytes::BytesMut;
use tandem::protocol::cql::text::parse::parse;
use tandem::protocol::cql::text::system::SystemTable;
use tandem::protocol::cql::topology::question::Asked;
use tandem::protocol::cql::topology::{Facts, Identity, Question, Supported, rows};
use tandem::protocol::cql::wire::Version;
use tandem::protocol::cql::wire::primitive::{Consistency, Reader, Value, put_string_list};
use tandem::protocol::cql::wire::request::{Bound, Execute, Parameters, Prepare, Query, Request, Values};
use tandem::protocol::cql::wire::response::{Outcome, Rows};
use tandem::sandbox::cassandra::Node;

use crate::cql_text::{QUESTIONS, columns_of};
use crate::support::cassandra::pair;
use crate::support::cql::{Ask, Cql, Dial, EXECUTE, Frame, OPTIONS, PREPARE, QUERY, READY, REGISTER, RESULT, hex};

/// Questions with markers, and what is bound to them.
const BOUND: &[(&str, &[Bound<'_>])] = &[
    ("SELECT rack FROM system.local WHERE key = ?", &[(None, Value::Set(b"local"))]),
    ("SELECT rack FROM system.local WHERE key = :k", &[(Some("k"), Value::Set(b"local"))]),
    ("SELECT rack FROM system.local WHERE key = ?", &[(None, Value::Null)]),
    ("SELECT rack FROM system.local WHERE key = ?", &[]),
    ("SELECT rack FROM system.local", &[(None, Value::Set(b"local"))]),
    (
        "SELECT key FROM system.local WHERE key IN (?, ?) LIMIT ?",
        &[(None, Value::Set(b"x")), (None, Value::Set(b"local")), (None, Value::Set(&[0, 0, 0, 1]))],
    ),
    ("SELECT JSON key, rpc_port FROM system.local WHERE key IN ?", &[(None, Value::Set(b"\0\0\0\x01\0\0\0\x05local"))]),
    ("SELECT count(*) FROM system.local WHERE key = ?", &[(None, Value::Set(b"local"))]),
    ("SELECT count(*) FROM system.local WHERE key IN ('x', 'local')", &[]),
    ("SELECT count(*) FROM system.local WHERE key IN ('local')", &[]),
    ("SELECT count(*) FROM system.local WHERE rpc_port = 9042 ALLOW FILTERING", &[]),
    ("SELECT peer FROM system.peers_v2 WHERE peer = ?", &[(None, Value::Set(&[127, 0, 0, 9]))]),
];

/// How often the node may answer otherwise than from the rows that it showed just before.
const ATTEMPTS: usize = 50;

fn client(node: &Node, version: Version) -> Cql {
    Cql::with(node, "system", &Dial { version: version as u8, ..Dial::default() })
}

/// A request that the codec writes, and what the node says.
fn ask(cql: &mut Cql, version: Version, opcode: u8, request: &Request<'_>) -> Frame {
    let mut body = BytesMut::new();
    request.put(&mut body, version).expect("a request");
    cql.say(opcode, 0, &body)
}

/// The node's frame is what we make of the node's own rows; else how not.
fn same(theirs: &Frame, what: &str, put: impl FnOnce(&mut BytesMut, i16)) -> Result<(), String> {
    let mut ours = BytesMut::new();
    put(&mut ours, theirs.stream);
    let seen = |head: [u8; 3], body: &[u8]| (head, String::from_utf8_lossy(body).into_owned(), hex(body));
    let ours = seen([ours[0], ours[1], ours[4]], &ours[9..]);
    let theirs = seen([theirs.version, theirs.flags, theirs.opcode], &theirs.body);
    if ours == theirs { Ok(()) } else { Err(format!("{what}\nours:   {ours:?}\ntheirs: {theirs:?}")) }
}

/// As QUERY, PREPARE and EXECUTE, with and without what the client knows already.
pub(crate) fn assert_answers_like(node: &Node) {
    let unbound = QUESTIONS.iter().map(|text| (*text, &[][..]));
    for version in Version::ALL {
        let mut cql = client(node, version);
        for (text, values) in unbound.clone().chain(BOUND.iter().copied()) {
            let question = Question::of(text.as_bytes(), &parse(text.as_bytes()), Some("system"));
            let Some(question) = question else { continue };
            assert_answered_alike(&mut cql, version, (text, &question), values);
        }
    }
}

/// As the node answers it. Another test's tables may change the schema's version between what the node shows and what it
/// answers, and change it back: it is made of what the schema says. An answer that is wrong stays wrong.
fn assert_stays(
    cql: &mut Cql,
    question: &Question,
    mut same: impl FnMut(&mut Cql, &[Vec<Option<Vec<u8>>>]) -> Result<(), String>,
) {
    let mut differs = String::new();
    for _ in 0..ATTEMPTS {
        let rows = cql.run(&format!("SELECT * FROM system.{}", question.table().name())).rows().rows;
        match same(cql, &rows) {
            Ok(()) => return,
            Err(how) => differs = how,
        }
    }
    panic!("{differs}");
}

fn assert_answered_alike(cql: &mut Cql, version: Version, (text, question): (&str, &Question), values: &[Bound<'_>]) {
    let values = Some(Values::Given(values)).filter(|_| !values.is_empty());
    let prepare = Request::Prepare(Prepare { text: text.as_bytes(), keyspace: None });
    for skip_metadata in [false, true] {
        let parameters =
            Parameters { values, skip_metadata, page_size: Some(100), ..Parameters::new(Consistency::One) };
        let what = format!("{version} {text}, without metadata: {skip_metadata}");
        assert_stays(cql, question, |cql, rows| {
            let query = Request::Query(Query { text: text.as_bytes(), parameters });
            same(&ask(cql, version, QUERY, &query), &what, |out, stream| {
                question.put_answer(out, (version, stream), Asked::AsText, &parameters, rows).expect("an answer");
            })
        });
        assert_stays(cql, question, |cql, _| {
            same(&ask(cql, version, PREPARE, &prepare), &format!("PREPARE {what}"), |out, stream| {
                question.put_prepared(out, version, stream).expect("an answer");
            })
        });
        for is_known in [true, false] {
            assert_stays(cql, question, |cql, rows| {
                // A node may have forgotten it meanwhile.
                let theirs = ask(cql, version, PREPARE, &prepare);
                let Ok(Outcome::Prepared(prepared)) = Outcome::parse(version, &theirs.body) else { return Ok(()) };
                let another = |id| if is_known { id } else { &b"another"[..] };
                let known = prepared.result_metadata_id.map(another);
                let execute = Request::Execute(Execute { id: question.id(), result_metadata_id: known, parameters });
                same(&ask(cql, version, EXECUTE, &execute), &format!("EXECUTE {what}"), |out, stream| {
                    question
                        .put_answer(out, (version, stream), Asked::Prepared(known), &parameters, rows)
                        .expect("an answer");
                })
            });
        }
    }
}

#[test]
fn questions_about_the_cluster_are_answered_byte_for_byte_as_nodes_do() {
    pair().into_iter().for_each(assert_answers_like);
}

#[test]
fn the_tables_have_the_columns_that_nodes_have() {
    for node in pair() {
        for table in [SystemTable::Local, SystemTable::Peers, SystemTable::PeersV2] {
            let all = client(node, Version::V4).run(&format!("SELECT * FROM system.{}", table.name())).rows();
            assert_eq!(rows::columns(table), columns_of(&all), "{}", table.name());
        }
    }
}

fn facts(node: &Node) -> Facts {
    let mut cql = client(node, Version::V4);
    let select = Query { text: b"SELECT * FROM system.local", parameters: Parameters::new(Consistency::One) };
    let local = ask(&mut cql, Version::V4, QUERY, &Request::Query(select));
    let options = cql.say(OPTIONS, 0, &[]);
    let Ok(Outcome::Rows(rows)) = Outcome::parse(Version::V4, &local.body) else { panic!("no rows") };
    let rows: Rows<'_> = rows;
    let options = Reader::new(&options.body).string_multimap("options").expect("options");
    Facts::read(&rows, &options).expect("all that a node says of itself")
}

#[test]
fn an_identity_is_made_of_what_real_nodes_say() {
    let [old, new] = pair().map(facts);
    assert_eq!(old.cluster_name, new.cluster_name);
    let there = Identity::new(&old, &new, [3; 16], 1);
    let back = Identity::new(&new, &old, [3; 16], 1);
    assert_eq!(there, back);
    assert!(there.release_version.starts_with("4.1."), "{}", there.release_version);
    assert_eq!((there.cql_version.as_str(), there.supported.cql_version()), ("3.4.6", "3.4.6"));
    assert_eq!(there.partitioner, "org.apache.cassandra.dht.Murmur3Partitioner");
    for (side, facts) in [("old", old), ("new", new)] {
        assert_eq!(there.contradictions(&facts), [] as [String; 0], "{side}");
    }
}

/// A node takes every version and compression that is offered, and the language.
#[test]
fn what_is_offered_both_sides_take() {
    let common = Supported::common(pair().map(facts).each_ref().map(|facts| &facts.supported));
    assert_eq!(common.versions(), Version::ALL);
    for version in Version::ALL {
        let mut message = BytesMut::new();
        common.put(&mut message, version).expect("a message");
        let offered = Reader::new(&message).string_multimap("options").expect("options");
        let values = |name: &str| offered.get(name).expect("offered").iter().collect::<Vec<_>>();
        for node in pair() {
            for compression in values("COMPRESSION") {
                let mut cql =
                    Cql::open(node.address(), &Dial { version: version as u8, ..Dial::default() }).expect("it listens");
                let options = [("CQL_VERSION", values("CQL_VERSION")[0]), ("COMPRESSION", compression)];
                cql.startup(&options).unwrap_or_else(|failure| panic!("{version} {compression}: {failure:?}"));
            }
        }
    }
}

#[test]
fn kinds_of_events_are_read_in_any_case() {
    for node in pair() {
        let mut list = BytesMut::new();
        put_string_list(&mut list, ["Schema_Change", "status_change"].into_iter(), "kinds").expect("a list");
        let mut cql = client(node, Version::V4);
        assert_eq!(cql.say(REGISTER, 0, &list).opcode, READY);
        assert_eq!(cql.query("SELECT key FROM local", &Ask::default()).expect("rows").rows().lines(), ["local"]);
        list.clear();
        put_string_list(&mut list, ["NONSENSE"].into_iter(), "kinds").expect("a list");
        assert_ne!(cql.say(REGISTER, 0, &list).opcode, RESULT);
    }
}
