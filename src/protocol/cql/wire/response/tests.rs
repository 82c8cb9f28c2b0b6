use std::net::{IpAddr, Ipv4Addr};

use bytes::BufMut;

use super::*;
use crate::protocol::cql::wire::primitive::{Consistency, put_string};
use crate::protocol::cql::wire::storm;
use crate::protocol::cql::wire::types::{Native, Type};

const LEVEL: Consistency = Consistency::Quorum;

fn put(response: &Response<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    response.put(&mut out, version).unwrap();
    out
}

fn error(version: Version, message: &[u8]) -> ErrorKind<'_> {
    ServerError::parse(version, message).unwrap().kind
}

/// An ERROR by native_protocol_v5.spec section 8: code, message, and what comes with the code.
fn body(code: u32, rest: &[&[u8]]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &[0, 3], b"why", &rest.concat()].concat()
}

const COUNTS: &[u8] = &[0, 4, 0, 0, 0, 1, 0, 0, 0, 2];

#[test]
fn errors_read_as_the_specification_says() {
    let (consistency, received, block_for) = (LEVEL, 1, 2);
    let timeout = body(0x1100, &[COUNTS, &[0, 3], b"CAS"]);
    let write_type = WriteType::Cas;
    let cas = ErrorKind::WriteTimeout { consistency, received, block_for, write_type, contentions: None };
    assert_eq!(error(Version::V4, &timeout), cas);
    assert_eq!(error(Version::V5, &timeout), cas, "servers leave contentions out where they did not count them");
    let contended = body(0x1100, &[COUNTS, &[0, 3], b"CAS", &[0, 7]]);
    let contentions = Some(7);
    let kind = ErrorKind::WriteTimeout { consistency, received, block_for, write_type, contentions };
    assert_eq!(error(Version::V5, &contended), kind);
    let unknown = body(0x1700, &[COUNTS]);
    assert_eq!(error(Version::V5, &unknown), ErrorKind::CasWriteUnknown { consistency, received, block_for });
    let unavailable = body(0x1000, &[&[0, 4, 0, 0, 0, 2, 0, 0, 0, 1]]);
    assert_eq!(error(Version::V3, &unavailable), ErrorKind::Unavailable { consistency, required: 2, alive: 1 });
    let unprepared = body(0x2500, &[&[0, 2], b"id"]);
    assert_eq!(error(Version::V4, &unprepared), ErrorKind::Unprepared { id: b"id" });
    assert_eq!(ServerError::code(&unprepared), Ok(code::UNPREPARED));
    let function = body(0x1400, &[&[0, 1, b'k', 0, 1, b'f', 0, 1, 0, 3], b"int"]);
    let ErrorKind::FunctionFailure { keyspace: "k", function: "f", arguments } = error(Version::V4, &function) else {
        panic!("a function failure")
    };
    assert_eq!(arguments.iter().collect::<Vec<_>>(), ["int"]);
}

#[test]
fn replicas_that_failed_are_counted_in_v4_and_named_in_v5() {
    let v4 = body(0x1500, &[COUNTS, &[0, 0, 0, 3], &[0, 6], b"SIMPLE"]);
    let ErrorKind::WriteFailure { failures, write_type: WriteType::Simple, .. } = error(Version::V4, &v4) else {
        panic!("a write failure")
    };
    assert_eq!(failures, Failures::Count(3));
    let replica = [4, 10, 0, 0, 1, 0, 2];
    let v5 = body(0x1500, &[COUNTS, &[0, 0, 0, 1], &replica, &[0, 6], b"SIMPLE"]);
    let ErrorKind::WriteFailure { failures: Failures::Reasons(reasons), .. } = error(Version::V5, &v5) else {
        panic!("reasons")
    };
    assert_eq!(reasons.iter().collect::<Vec<_>>(), [(IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), 2)]);
    let lie = body(0x1500, &[COUNTS, &[0x7F, 0xFF, 0xFF, 0xFF], &replica, &[0, 6], b"SIMPLE"]);
    assert!(ServerError::parse(Version::V5, &lie).is_err());
}

/// What `ErrorMessage.getBackwardsCompatibleException` of Cassandra makes of each error, for the versions that do not know it.
#[test]
fn older_versions_hear_errors_in_their_own_words() {
    let (consistency, received, block_for) = (LEVEL, 1, 2);
    for (version, kind) in
        Version::ALL.into_iter().flat_map(|version| storm::error_kinds().into_iter().map(move |kind| (version, kind)))
    {
        let message = put(&Response::Error(ServerError::new(kind, "why")), version);
        let heard = ServerError::parse(version, &message).unwrap();
        let timeout =
            |write_type| ErrorKind::WriteTimeout { consistency, received, block_for, write_type, contentions: None };
        let expected = match kind {
            ErrorKind::ReadFailure { data_present, .. } if version == Version::V3 => {
                ErrorKind::ReadTimeout { consistency, received, block_for, data_present }
            }
            ErrorKind::WriteFailure { write_type, .. } if version == Version::V3 => timeout(write_type),
            ErrorKind::CdcWriteFailure if version == Version::V3 => ErrorKind::Invalid,
            ErrorKind::CasWriteUnknown { .. } if version < Version::V5 => timeout(WriteType::Cas),
            ErrorKind::WriteTimeout { write_type, .. } if version < Version::V5 => timeout(write_type),
            ErrorKind::ReadFailure { data_present, .. } if version == Version::V5 => {
                let failures = Failures::Reasons(FailureReasons::NONE);
                ErrorKind::ReadFailure { consistency, received, block_for, failures, data_present }
            }
            ErrorKind::WriteFailure { write_type, .. } if version == Version::V5 => {
                let failures = Failures::Reasons(FailureReasons::NONE);
                ErrorKind::WriteFailure { consistency, received, block_for, failures, write_type }
            }
            same => same,
        };
        assert_eq!((heard.message, heard.kind), ("why", expected), "{version}");
    }
}

#[test]
fn a_message_that_is_too_long_is_cut_between_letters() {
    let long = "ä".repeat(40_000);
    let message = put(&Response::Error(ServerError::new(ErrorKind::Invalid, &long)), Version::V4);
    assert_eq!(ServerError::parse(Version::V4, &message).unwrap().message, "ä".repeat(32_767));
}

fn described(version: Version, columns: &[(&str, &Type)]) -> BytesMut {
    let mut out = BytesMut::new();
    put_metadata(&mut out, version, ("system", "local"), columns).unwrap();
    out
}

fn rows(version: Version, message: &[u8]) -> Rows<'_> {
    match Outcome::parse(version, message) {
        Ok(Outcome::Rows(rows)) => rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_of_our_own_are_read_again() {
    let (key, count) = (Type::Native(Native::Varchar), Type::Native(Native::Int));
    for version in Version::ALL {
        let described = described(version, &[("key", &key), ("count", &count)]);
        let mut metadata = Metadata::parse(version, &described).unwrap();
        metadata.paging_state = Some(b"next");
        let mut out = BytesMut::new();
        let sent: [&[Option<&[u8]>]; 2] = [&[Some(b"local"), None], &[Some(b""), Some(&[0, 0, 0, 1])]];
        put_rows(&mut out, version, &metadata, sent).unwrap();
        let read = rows(version, &out);
        assert_eq!((read.metadata, read.len(), read.applied()), (metadata, 2, None));
        let cells: Vec<Vec<_>> = read.iter().map(|row| row.unwrap().iter().collect()).collect();
        assert_eq!(cells, sent);
        assert_eq!(read.iter().next().unwrap().unwrap().get(1), Some(None));
        assert_eq!(read.iter().next().unwrap().unwrap().get(2), None);
        let wrong: [&[Option<&[u8]>]; 1] = [&[None]];
        assert!(put_rows(&mut BytesMut::new(), version, &metadata, wrong).is_err());
    }
}

#[test]
fn a_conditional_answer_says_whether_it_was_applied() {
    let (boolean, int) = (Type::Native(Native::Boolean), Type::Native(Native::Int));
    let answer = |columns: &[(&str, &Type)], row: &[Option<&[u8]>]| {
        let described = described(Version::V4, columns);
        let mut out = BytesMut::new();
        put_rows(&mut out, Version::V4, &Metadata::parse(Version::V4, &described).unwrap(), [row]).unwrap();
        rows(Version::V4, &out).applied()
    };
    assert_eq!(answer(&[("[applied]", &boolean)], &[Some(&[1])]), Some(true));
    assert_eq!(answer(&[("[applied]", &boolean), ("v", &int)], &[Some(&[0]), None]), Some(false));
    assert_eq!(answer(&[("[applied]", &int)], &[Some(&[0, 0, 0, 1])]), None);
    assert_eq!(answer(&[("v", &boolean)], &[Some(&[1])]), None);
}

/// The body of Rows by native_protocol_v5.spec section 4.2.5.2: metadata that changed, and rows without their description.
#[test]
fn changed_metadata_and_rows_without_it_are_read() {
    let changed =
        [&[0, 0, 0, 2][..], &[0, 0, 0, 0x0E], &[0, 0, 0, 1], &[0, 0, 0, 1, 9], &[0, 2], b"id", &[0, 0, 0, 0]].concat();
    let v5 = rows(Version::V5, &changed);
    assert_eq!((v5.metadata.new_id, v5.metadata.paging_state), (Some(&b"id"[..]), Some(&[9][..])));
    assert_eq!((v5.metadata.columns, v5.metadata.count, v5.len()), (None, 1, 0));
    assert_eq!(put(&Response::Result(Outcome::Rows(v5)), Version::V5), changed);
}

#[test]
fn a_lie_about_the_number_of_rows_is_found_at_once() {
    let message = |columns: i32, rows: i32| {
        [&[0, 0, 0, 2, 0, 0, 0, 4][..], &columns.to_be_bytes(), &rows.to_be_bytes(), &[0; 8]].concat()
    };
    assert!(Outcome::parse(Version::V4, &message(i32::MAX, i32::MAX)).is_err());
    assert!(Outcome::parse(Version::V4, &message(0, i32::MAX)).is_err());
    assert!(Outcome::parse(Version::V4, &message(-1, 0)).is_err());
    let cut = message(1, 2);
    assert_eq!(rows(Version::V4, &cut).iter().filter(Result::is_ok).count(), 2);
    let long = [&message(1, 2)[..16], &[0, 0, 0, 9, 0, 0, 0, 0]].concat();
    assert_eq!(rows(Version::V4, &long).iter().map(|row| row.is_ok()).collect::<Vec<_>>(), [false]);
}

/// native_protocol_v4.spec section 4.2.5.4.
#[test]
fn a_prepared_statement_reads_as_the_specification_says() {
    let columns = [&[0, 2][..], b"ks", &[0, 1], b"t", &[0, 1], b"a", &[0, 9], &[0, 1], b"b", &[0, 0x0D]].concat();
    let result = [0, 0, 0, 4, 0, 0, 0, 0];
    let id = [&[0, 0, 0, 4, 0, 2][..], b"id"].concat();
    let v4 = [&id[..], &[0, 0, 0, 1, 0, 0, 0, 2], &[0, 0, 0, 2, 0, 1, 0, 0], &columns, &result].concat();
    let Ok(Outcome::Prepared(mut prepared)) = Outcome::parse(Version::V4, &v4) else { panic!("prepared") };
    assert_eq!((prepared.id, prepared.result_metadata_id), (&b"id"[..], None));
    assert_eq!(prepared.pk_indexes.iter().collect::<Vec<_>>(), [1, 0]);
    assert_eq!(prepared.markers.iter().map(|marker| marker.name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(prepared.result, Metadata::none(Version::V4));
    assert_eq!(put(&Response::Result(Outcome::Prepared(prepared)), Version::V4), v4);
    let v3 = [&id[..], &[0, 0, 0, 1, 0, 0, 0, 2], &columns, &result].concat();
    assert_eq!(put(&Response::Result(Outcome::Prepared(prepared)), Version::V3), v3);
    assert!(matches!(Outcome::parse(Version::V3, &v3), Ok(Outcome::Prepared(read)) if read.pk_indexes.is_empty()));
    (prepared.id, prepared.result_metadata_id) = (b"other", Some(&b"meta"[..]));
    let v5 = put(&Response::Result(Outcome::Prepared(prepared)), Version::V5);
    assert!(v5[6..].starts_with(b"other\0\x04meta"));
    for end in 4..v4.len() {
        assert!(Outcome::parse(Version::V4, &v4[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn schema_changes_and_events_read_as_the_specification_says() {
    let mut message = BytesMut::new();
    for text in ["SCHEMA_CHANGE", "DROPPED", "FUNCTION", "ks", "f"] {
        put_string(&mut message, text, "text").unwrap();
    }
    message.put_slice(&[0, 1, 0, 3]);
    message.put_slice(b"int");
    let event = Event::parse(&message).unwrap();
    let Event::Schema(SchemaChange { change: "DROPPED", keyspace: "ks", object: SchemaObject::Function("f", _) }) =
        event
    else {
        panic!("{event:?}")
    };
    assert_eq!(
        (put(&Response::Event(event), Version::V4), Event::kind_of(&message)),
        (message.clone(), Ok("SCHEMA_CHANGE"))
    );
    let v3 = put(&Response::Event(event), Version::V3);
    let change = SchemaChange { change: "UPDATED", keyspace: "ks", object: SchemaObject::Keyspace };
    assert_eq!(Event::parse(&v3), Ok(Event::Schema(change)));
    let status = Response::Event(Event::Status("UP", (Ipv4Addr::LOCALHOST.into(), 9042)));
    assert_eq!(put(&status, Version::V4)[..], *b"\0\x0dSTATUS_CHANGE\0\x02UP\x04\x7f\0\0\x01\0\0\x23\x52");
}

#[test]
fn what_is_supported_is_a_multimap() {
    let mut message = BytesMut::new();
    put_supported(&mut message, &[("COMPRESSION", &["lz4"]), ("PROTOCOL_VERSIONS", &["3/v3", "4/v4", "5/v5"])])
        .unwrap();
    let options = Reader::new(&message).string_multimap("options").unwrap();
    assert_eq!(options.get("PROTOCOL_VERSIONS").unwrap().iter().last(), Some("5/v5"));
}

#[test]
fn answers_of_our_own_are_whole_frames() {
    let mut out = BytesMut::new();
    Response::Ready.put_frame(&mut out, Version::V4, 7).unwrap();
    assert_eq!(out[..], [0x84, 0, 0, 7, 2, 0, 0, 0, 0]);
    Response::Result(Outcome::SetKeyspace("ks")).put_frame(&mut out, Version::V5, -1).unwrap();
    assert_eq!(out[9..], [0x85, 0, 0xFF, 0xFF, 8, 0, 0, 0, 8, 0, 0, 0, 3, 0, 2, b'k', b's']);
}
