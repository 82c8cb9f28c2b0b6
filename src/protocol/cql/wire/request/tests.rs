use proptest::prelude::*;

use super::*;
use crate::protocol::cql::wire::primitive::{Consistency, Value, range_in};
use crate::protocol::cql::wire::storm;

const QUERY: &[u8] = b"INSERT INTO t (k) VALUES (?)";

fn put(request: &Request<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    request.put(&mut out, version).unwrap();
    out
}

fn query(version: Version, message: &[u8]) -> Result<Query<'_>, Error> {
    Query::parse(version, message)
}

/// QUERY as native_protocol_v4.spec section 4.1.4 says it: text, consistency, a byte of flags, and what they announce.
#[test]
fn a_query_of_v4_reads_as_the_specification_says() {
    let message = [
        &[0, 0, 0, 28][..],
        QUERY,
        &[0, 6, 0x3F], // LOCAL_QUORUM; values, skip metadata, page size, paging state, serial, timestamp
        &[0, 2, 0, 0, 0, 1, b'x'], // two values
        &[0xFF, 0xFF, 0xFF, 0xFE], // the second is not set
        &[0, 0, 0x13, 0x88], // 5000 rows
        &[0, 0, 0, 2, 7, 7], // paging state
        &[0, 9],       // LOCAL_SERIAL
        &[0, 0, 0, 0, 0, 0, 0, 0x64], // 100 microseconds
    ]
    .concat();
    let read = query(Version::V4, &message).unwrap();
    let parameters = read.parameters;
    assert_eq!((read.text, text(&message)), (QUERY, Ok(QUERY)));
    assert_eq!((parameters.consistency, parameters.skip_metadata), (Consistency::LocalQuorum, true));
    let values: Vec<_> = parameters.values.unwrap().iter().collect();
    assert_eq!(values, [(None, Value::Set(b"x")), (None, Value::Unset)]);
    assert_eq!((parameters.page_size, parameters.paging_state), (Some(5000), Some(&[7, 7][..])));
    assert_eq!((parameters.serial_consistency, parameters.timestamp), (Some(Consistency::LocalSerial), Some(100)));
    assert_eq!((parameters.keyspace, parameters.now_in_seconds), (None, None));
    assert_eq!(put(&Request::Query(read), Version::V4), message);
    assert_eq!(range_in(&message, parameters.paging_state.unwrap()).map(|range| &message[range]), Some(&[7, 7][..]));
}

/// native_protocol_v5.spec section 4.1.6: four bytes of flags, a result metadata id, keyspace and time at the end.
#[test]
fn an_execute_of_v5_reads_as_the_specification_says() {
    let message = [
        &[0, 2][..],
        b"id",
        &[0, 4],
        b"meta",
        &[0, 1, 0, 0, 0x01, 0xC1], // ONE; values, names, keyspace, now in seconds
        &[0, 1, 0, 1, b'k', 0, 0, 0, 1, b'x'],
        &[0, 2, b'k', b's'],
        &[0, 0, 0, 9],
    ]
    .concat();
    let read = Execute::parse(Version::V5, &message).unwrap();
    assert_eq!(
        (read.id, read.result_metadata_id, prepared_id(&message)),
        (&b"id"[..], Some(&b"meta"[..]), Ok(&b"id"[..]))
    );
    assert_eq!(read.parameters.values.unwrap().iter().collect::<Vec<_>>(), [(Some("k"), Value::Set(b"x"))]);
    assert_eq!((read.parameters.keyspace, read.parameters.now_in_seconds), (Some("ks"), Some(9)));
    assert_eq!(put(&Request::Execute(read), Version::V5), message);
}

#[test]
fn a_timestamp_is_given_to_a_frame_without_one_and_nothing_else_changes() {
    let values = [(None, Value::Set(&b"x"[..])), (None, Value::Null)];
    for version in Version::ALL {
        let with = storm::full_parameters(version, &values);
        let without = Parameters { timestamp: None, ..with };
        let execute = |parameters| {
            put(&Request::Execute(Execute { id: b"id", result_metadata_id: Some(b"m"), parameters }), version)
        };
        let (mut read, message) = (execute(without), execute(with));
        let taken = read.split();
        let mut stamped = Execute::parse(version, &taken).unwrap();
        assert_eq!(stamped.parameters.timestamp, None);
        stamped.parameters.timestamp = Some(-7);
        assert_eq!(put(&Request::Execute(stamped), version), message);
    }
}

/// CQL-CORNERS H9: servers refuse it, in these words.
#[test]
fn the_smallest_timestamp_is_an_error_for_the_client() {
    let message = [&[0, 0, 0, 0, 0, 1, 0x20][..], &i64::MIN.to_be_bytes()].concat();
    let error = query(Version::V4, &message).expect_err("refused");
    let text =
        "Out of bound timestamp, must be in [-9223372036854775807, 9223372036854775807] (got -9223372036854775808)";
    assert_eq!((error.to_string().as_str(), error.code()), (text, 0x000A));
    let parameters = Parameters { timestamp: Some(i64::MIN), ..Parameters::new(Consistency::One) };
    assert_eq!(Query { text: QUERY, parameters }.put(&mut BytesMut::new(), Version::V4), Err(Error::Timestamp));
    let least = [&[0, 0, 0, 0, 0, 1, 0x20][..], &(i64::MIN + 1).to_be_bytes()].concat();
    assert_eq!(query(Version::V4, &least).unwrap().parameters.timestamp, Some(i64::MIN + 1));
}

#[test]
fn ids_text_keyspace_and_time_are_replaced() {
    let values = [(None, Value::Set(&b"x"[..]))];
    let parameters = storm::full_parameters(Version::V5, &values);
    let message =
        put(&Request::Execute(Execute { id: b"id", result_metadata_id: Some(b"m"), parameters }), Version::V5);
    let mut execute = Execute::parse(Version::V5, &message).unwrap();
    (execute.id, execute.result_metadata_id) = (b"another id", Some(&b""[..]));
    (execute.parameters.keyspace, execute.parameters.now_in_seconds) = (None, Some(-1));
    let again = put(&Request::Execute(execute), Version::V5);
    assert_eq!(Execute::parse(Version::V5, &again), Ok(execute));
    let mut query = Query { text: b"SELECT now()", parameters };
    query.text = b"SELECT ?";
    assert_eq!(self::query(Version::V5, &put(&Request::Query(query), Version::V5)), Ok(query));
}

#[test]
fn values_are_added_and_ordered_anew() {
    let message = [&[0, 0, 0, 0, 0, 1, 0x01, 0, 2][..], &[0, 0, 0, 1, b'a'], &[0, 0, 0, 1, b'b']].concat();
    let mut read = query(Version::V3, &message).unwrap();
    let values = read.parameters.values.unwrap();
    let [a, b] = [0, 1].map(|place| (None, values.get(place).unwrap()));
    let given = [b, (None, Value::Set(b"new")), a];
    read.parameters.values = Some(Values::Given(&given));
    let again = put(&Request::Query(read), Version::V3);
    let values: Vec<_> =
        query(Version::V3, &again).unwrap().parameters.values.unwrap().iter().map(|(_, value)| value).collect();
    assert_eq!(values, [Value::Set(b"b"), Value::Set(b"new"), Value::Set(b"a")]);
    let mixed = [(Some("a"), Value::Null), (None, Value::Null)];
    read.parameters.values = Some(Values::Given(&mixed));
    assert!(read.put(&mut BytesMut::new(), Version::V3).is_err());
}

/// A client of v3 may say null as -2; the same bytes would be "not set" in v4.
#[test]
fn a_null_stays_null_from_v3_to_v4() {
    let message = [&[0, 0, 0, 0, 0, 1, 0x01, 0, 1][..], &[0xFF, 0xFF, 0xFF, 0xFE]].concat();
    let read = query(Version::V3, &message).unwrap();
    let v4 = put(&Request::Query(read), Version::V4);
    assert_eq!(query(Version::V4, &v4).unwrap().parameters.values.unwrap().get(0), Some(Value::Null));
    let unset = query(Version::V4, &message).unwrap();
    let v3 = unset.put(&mut BytesMut::new(), Version::V3);
    assert_eq!(v3, Err(Error::Inexpressible { field: "unset value", version: Version::V3 }));
}

#[test]
fn what_a_version_has_no_place_for_is_an_error() {
    let parameters = Parameters { now_in_seconds: Some(1), ..Parameters::new(Consistency::One) };
    let query = Query { text: QUERY, parameters };
    let error = Error::Inexpressible { field: "now in seconds", version: Version::V4 };
    assert_eq!(query.put(&mut BytesMut::new(), Version::V4), Err(error));
    let execute = Execute { id: b"", result_metadata_id: None, parameters };
    assert!(execute.put(&mut BytesMut::new(), Version::V5).is_err());
    let prepare = Prepare { text: QUERY, keyspace: Some("ks") };
    assert!(prepare.put(&mut BytesMut::new(), Version::V4).is_err());
    assert!(prepare.put(&mut BytesMut::new(), Version::V5).is_ok());
}

/// Servers read the flag in every version, though only v5 has it.
#[test]
fn a_keyspace_is_read_in_every_version() {
    let message = [0, 0, 0, 0, 0, 1, 0x80, 0, 1, b'k'];
    assert_eq!(query(Version::V4, &message).unwrap().parameters.keyspace, Some("k"));
}

#[test]
fn a_batch_is_edited_statement_by_statement() {
    let values = [(None, Value::Set(&b"x"[..]))];
    let statements = [
        Statement { text: StatementText::Text(b"one"), values: Values::Given(&[]) },
        Statement { text: StatementText::Prepared(b"two"), values: Values::Given(&values) },
        Statement { text: StatementText::Text(b"three"), values: Values::Given(&[]) },
    ];
    let parameters = Parameters { timestamp: Some(5), ..Parameters::new(Consistency::One) };
    let mut message = BytesMut::new();
    put_batch(&mut message, Version::V4, BatchKind::Counter, &statements, &parameters).unwrap();
    let mut batch = Batch::parse(Version::V4, &message).unwrap();
    assert_eq!((batch.kind, batch.parameters), (BatchKind::Counter, parameters));
    assert_eq!(batch.statements.iter().collect::<Vec<_>>(), statements);
    assert_eq!(put(&Request::Batch(batch), Version::V4), message);
    batch.parameters.timestamp = Some(6);
    let (mut edited, other) = (BytesMut::new(), [(None, Value::Unset)]);
    let edit = |place, statement| match place {
        0 => None,
        1 => Some(Statement { text: StatementText::Prepared(b"2"), values: Values::Given(&other) }),
        _ => Some(statement),
    };
    batch.put_with(&mut edited, Version::V5, edit).unwrap();
    let again = Batch::parse(Version::V5, &edited).unwrap();
    let expected = [Statement { text: StatementText::Prepared(b"2"), values: Values::Given(&other) }, statements[2]];
    assert_eq!(again.statements.iter().collect::<Vec<_>>(), expected);
    assert_eq!(again.parameters.timestamp, Some(6));
}

#[test]
fn kinds_that_a_batch_does_not_have_are_refused_as_servers_do() {
    let error = |message: &[u8]| Batch::parse(Version::V4, message).expect_err("refused").to_string();
    assert_eq!(error(&[3, 0, 0, 0, 1, 0]), "Invalid BATCH message type 3");
    assert_eq!(error(&[0, 0, 1, 2]), "Invalid query kind in BATCH messages. Must be 0 or 1 but got 2");
    let named = [(Some("a"), Value::Null)];
    let statement = Statement { text: StatementText::Text(b""), values: Values::Given(&named) };
    let parameters = Parameters::new(Consistency::One);
    assert!(put_batch(&mut BytesMut::new(), Version::V4, BatchKind::Logged, &[statement], &parameters).is_err());
}

#[test]
fn credentials_are_not_shown() {
    let token = Request::AuthResponse(Token(Some(b"\0user\0password")));
    assert_eq!(format!("{token:?}"), "AuthResponse(Token(..))");
}

/// Whatever field the cut is in, it is noticed: no request ends with something that may be left out.
#[test]
fn every_request_cut_anywhere_is_an_error() {
    for frame in Version::ALL.into_iter().flat_map(storm::samples).filter(|frame| frame[0] & 0x80 == 0) {
        let mut envelope = storm::open(&frame);
        for end in 0..envelope.message.len() {
            let message = envelope.message;
            envelope.message = &message[..end];
            assert!(Request::parse(&envelope).is_err(), "{:?} cut at {end}", envelope.header.opcode);
            envelope.message = message;
        }
    }
}

#[test]
fn what_follows_the_last_field_is_ignored() {
    let message = [&put(&Request::Options, Version::V4)[..], b"more"].concat();
    assert!(message.ends_with(b"more"));
    let query = [&[0, 0, 0, 0, 0, 1, 0][..], b"more"].concat();
    assert!(self::query(Version::V4, &query).is_ok());
}

/// A name, and a value: not set, null, or bytes.
pub(in crate::protocol::cql::wire) type Owned = (String, Option<Option<Vec<u8>>>);

pub(in crate::protocol::cql::wire) fn bound(owned: &Owned, named: bool, version: Version) -> Bound<'_> {
    let value = match &owned.1 {
        Some(Some(bytes)) => Value::Set(bytes),
        None if version >= Version::V4 => Value::Unset,
        _ => Value::Null,
    };
    (named.then_some(&owned.0), value)
}

pub(in crate::protocol::cql::wire) fn any_parameters() -> impl Strategy<Value = (Parameters<'static>, Vec<Owned>, bool)>
{
    let value = proptest::option::of(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)));
    let values = proptest::collection::vec(("[a-z]{0,5}", value), 0..6);
    let options =
        (any::<Option<i32>>(), any::<Option<i64>>(), any::<Option<i32>>(), 0..12_u16, proptest::option::of(8..10_u16));
    (values, options, any::<(bool, bool, bool, bool)>()).prop_map(
        |(values, (rows, micros, now, level, serial), flags)| {
            let parameters = Parameters {
                skip_metadata: flags.0,
                page_size: rows,
                paging_state: flags.1.then_some(b"state"),
                serial_consistency: serial.and_then(Consistency::from_code),
                timestamp: micros.filter(|micros| *micros != i64::MIN),
                keyspace: flags.2.then_some("ks"),
                now_in_seconds: now,
                ..Parameters::new(Consistency::from_code(level).unwrap())
            };
            (parameters, values, flags.3)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn requests_survive((parameters, values, named) in any_parameters(), text: Vec<u8>, which in 0..3_usize) {
        let version = Version::ALL[which];
        let bound: Vec<_> = values.iter().map(|owned| bound(owned, named, version)).collect();
        let values = (!bound.is_empty()).then_some(Values::Given(&bound));
        let now_in_seconds = parameters.now_in_seconds.filter(|_| version >= Version::V5);
        let parameters = Parameters { values, now_in_seconds, ..parameters };
        let query = Query { text: &text, parameters };
        let message = put(&Request::Query(query), version);
        prop_assert_eq!(Query::parse(version, &message), Ok(query));
        let result_metadata_id = (version >= Version::V5).then_some(&b"meta"[..]);
        let id = &text[..text.len().min(100)];
        let execute = Execute { id, result_metadata_id, parameters };
        let message = put(&Request::Execute(execute), version);
        prop_assert_eq!(Execute::parse(version, &message), Ok(execute));
    }
}
