//! Questions, and frames read back. That they are the server's, byte for byte, is tried on real ones: `tests/it/cql_topology.rs`.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::super::identity::tests::facts;
use super::super::{Identity, Member, Moment};
use super::*;
use crate::protocol::cql::text::parse::parse;
use crate::protocol::cql::topology::identity::HostId;
use crate::protocol::cql::wire::frame::{Frame, From};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::response::{Outcome, Response};

fn question(text: &str) -> Option<Question> {
    Question::of(text.as_bytes(), &parse(text.as_bytes()), Some("system"))
}

fn rows_of(table: SystemTable) -> Vec<Vec<Cell>> {
    let identity = Identity::new(&facts("4.1.9", "3.4.6", 5), &facts("5.0.5", "3.4.7", 5), [7; 16], 1);
    let member = |last: u8| Member {
        host_id: HostId([last; 16]),
        address: SocketAddr::from(([10, 0, 0, last], 9042)),
        tokens: vec!["1".to_owned()],
    };
    let others: Vec<Member> = (2..7).map(member).collect();
    let address = SocketAddr::from(([10, 0, 0, 1], 9042));
    identity.rows(table, &Moment { address, schema_versions: &[[5; 16]], others: &others })
}

fn parameters() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}

/// The answer as one line: names and rows, or the error.
fn told(question: &Question, version: Version, parameters: &Parameters<'_>, asked: Asked<'_>) -> String {
    let mut out = BytesMut::new();
    question.put_answer(&mut out, (version, 9), asked, parameters, &rows_of(question.table())).unwrap();
    let frame = Frame::split(&out, From::Server, 1 << 20).unwrap().unwrap();
    assert_eq!((frame.bytes.len(), frame.header.stream, frame.header.version), (out.len(), 9, version));
    let envelope = Envelope::open(frame.header, frame.body()).unwrap();
    match Response::parse(&envelope).unwrap() {
        Response::Error(error) => format!("{:?}: {}", error.kind, error.message),
        Response::Result(Outcome::Rows(rows)) => {
            let names =
                rows.metadata.columns.map(|columns| columns.iter().map(|column| column.name).collect::<Vec<_>>());
            let row = |row: crate::protocol::cql::wire::response::Row<'_>| {
                let cell = |cell: Option<&[u8]>| cell.map_or("null".to_owned(), |cell| cell.escape_ascii().to_string());
                row.iter().map(cell).collect::<Vec<_>>().join("|")
            };
            let rows_told: Vec<String> = rows.iter().map(|one| row(one.unwrap())).collect();
            let more = if rows.metadata.paging_state.is_some() { ", and more" } else { "" };
            let new = if rows.metadata.new_id.is_some() { ", new id" } else { "" };
            format!("{}: {}{more}{new}", names.map_or("-".to_owned(), |names| names.join(",")), rows_told.join(" "))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_shows_nothing_of_nodes_and_what_is_elsewhere_is_no_question() {
    for text in ["SELECT now() FROM system.local", "SELECT * FROM k.local", "SELECT * FROM system.paxos", "USE system"]
    {
        assert_eq!(question(text), None, "{text}");
    }
    let bare = "SELECT * FROM local";
    assert_eq!(Question::of(bare.as_bytes(), &parse(bare.as_bytes()), Some("k")), None);
    assert!(question(bare).is_some());
}

#[test]
fn what_only_a_server_could_compute_is_refused() {
    let text = "SELECT token(key), writetime(cluster_name) FROM system.local";
    assert_eq!(told(&question(text).unwrap(), Version::V4, &parameters(), Asked::AsText), format!("Invalid: {BEYOND}"));
}

#[test]
fn bound_values_may_have_names() {
    let question = question("SELECT rack FROM system.local WHERE key = :k AND rpc_port = :p ALLOW FILTERING").unwrap();
    let port = 9042_i32.to_be_bytes();
    let (key, port) = (Value::Set(b"local"), Value::Set(&port));
    let asked = |values: &[(Option<&str>, Value<'_>)]| {
        let parameters = Parameters { values: Some(Values::Given(values)), ..parameters() };
        told(&question, Version::V4, &parameters, Asked::AsText)
    };
    assert_eq!(asked(&[(None, key), (None, port)]), "rack: rack1");
    assert_eq!(asked(&[(Some("p"), port), (Some("k"), key)]), "rack: rack1");
    let words = "Invalid null value in condition for column k";
    assert!(asked(&[(Some("p"), port), (Some("x"), key)]).starts_with("Invalid: "), "{words}");
    assert_eq!(asked(&[(None, key)]), "Invalid: Invalid amount of bind variables");
}

#[test]
fn pages_are_as_long_as_the_client_asked() {
    let question = question("SELECT native_port, rack FROM system.peers_v2 LIMIT 4").unwrap();
    let page = |state| Parameters { page_size: Some(3), paging_state: state, ..parameters() };
    let row = r"\x00\x00#R|rack1";
    assert_eq!(
        told(&question, Version::V4, &page(None), Asked::AsText),
        format!("native_port,rack: {row} {row} {row}, and more")
    );
    let second = [PAGING, &3_u64.to_be_bytes()].concat();
    assert_eq!(told(&question, Version::V4, &page(Some(&second)), Asked::AsText), format!("native_port,rack: {row}"));
    assert_eq!(
        told(&question, Version::V4, &page(Some(b"of a server")), Asked::AsText),
        "Protocol: Invalid value for the paging state"
    );
}

#[test]
fn the_columns_are_told_unless_the_client_knows_them() {
    let question = question("SELECT rack FROM system.local").unwrap();
    let skip = Parameters { skip_metadata: true, ..parameters() };
    let known = question.result_metadata_id;
    for (version, asked, wanted) in [
        (Version::V5, Asked::AsText, "-: rack1"),
        (Version::V4, Asked::Prepared(None), "-: rack1"),
        (Version::V5, Asked::Prepared(Some(&known)), "-: rack1"),
        (Version::V5, Asked::Prepared(Some(b"stale")), "rack: rack1, new id"),
    ] {
        assert_eq!(told(&question, version, &skip, asked), wanted);
    }
    assert_eq!(told(&question, Version::V5, &parameters(), Asked::Prepared(Some(&known))), "rack: rack1");
}

#[test]
fn only_the_question_about_the_schema_alone_is_about_agreement() {
    for (text, wanted) in [
        ("SELECT schema_version FROM system.local WHERE key='local'", true),
        ("SELECT * FROM system.local", false),
        ("SELECT schema_version FROM system.peers", false),
    ] {
        assert_eq!(question(text).unwrap().is_about_agreement(), wanted, "{text}");
    }
}

/// Words that questions are made of.
const WORDS: &[&str] = &[
    "SELECT",
    "*",
    "FROM",
    "system",
    ".",
    "local",
    "peers",
    "peers_v2",
    "WHERE",
    "key",
    "=",
    "'local'",
    "?",
    ":k",
    "IN",
    "(",
    ")",
    ",",
    "AND",
    "LIMIT",
    "1",
    "count",
    "JSON",
    "DISTINCT",
    "tokens",
    "AS",
    "x",
    "ORDER BY",
    "peer_port",
    "DESC",
    "ALLOW FILTERING",
    "token",
    "rack",
    "schema_version",
    "GROUP BY",
    "PER PARTITION LIMIT",
    "null",
    "writetime",
    "host_id",
];

proptest! {
    #[test]
    fn any_question_is_answered_with_one_whole_frame_in_every_version(
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..12),
        head in proptest::sample::select(&["SELECT * FROM local", "SELECT rack FROM peers WHERE", "SELECT", ""][..]),
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..3),
        (page_size, skip_metadata, known) in (any::<Option<i32>>(), any::<bool>(), any::<Option<[u8; 16]>>()),
        state in any::<Option<[u8; 14]>>(),
    ) {
        let text = format!("{head} {}", words.join(" "));
        let Some(question) = question(&text) else { return Ok(()) };
        let values: Vec<_> = values.iter().map(|bytes| (None, Value::Set(bytes.as_slice()))).collect();
        let state = state.as_ref().map(<[u8; 14]>::as_slice);
        let parameters = Parameters {
            values: Some(Values::Given(&values)),
            page_size,
            skip_metadata,
            paging_state: state,
            ..parameters()
        };
        for version in Version::ALL {
            let known = known.as_ref().filter(|_| version == Version::V5).map(<[u8; 16]>::as_slice);
            told(&question, version, &parameters, Asked::Prepared(known));
            let mut out = BytesMut::new();
            question.put_prepared(&mut out, version, -3).unwrap();
            let frame = Frame::split(&out, From::Server, 1 << 20).unwrap().unwrap();
            let envelope = Envelope::open(frame.header, frame.body()).unwrap();
            let response = Response::parse(&envelope).unwrap();
            let mut again = BytesMut::new();
            response.put(&mut again, version).unwrap();
            prop_assert_eq!(again, envelope.message);
        }
    }
}
