use proptest::prelude::*;

use super::*;
use crate::protocol::cql::wire::response::{Response, put_refusal};
use crate::protocol::cql::wire::storm;

const LIMIT: usize = 1000;

fn refused(bytes: &[u8]) -> HeaderError {
    Header::peek(bytes, From::Client, LIMIT).expect_err("refused")
}

/// native_protocol_v4.spec section 1 and 2: OPTIONS of v4 on stream 1.
#[test]
fn a_header_reads_as_the_specification_draws_it() {
    let bytes = [0x04, 0x02, 0x00, 0x01, 0x05, 0, 0, 0, 0];
    let header = Header { version: Version::V4, flags: flag::TRACING, stream: 1, opcode: Opcode::Options, len: 0 };
    assert_eq!(Header::peek(&bytes, From::Client, LIMIT), Ok(Some(header)));
    assert_eq!(header.encode(), bytes);
    let ready = Header { stream: -1, opcode: Opcode::Ready, version: Version::V5, flags: 0, len: 3 };
    assert_eq!(ready.encode(), [0x85, 0, 0xFF, 0xFF, 0x02, 0, 0, 0, 3]);
    assert_eq!(Header::peek(&ready.encode(), From::Server, LIMIT), Ok(Some(ready)));
}

/// What drivers try first: 66 and 65 (DSE), and versions before ours. Texts and headers as servers gave them.
#[test]
fn other_versions_are_refused_on_stream_0_in_a_version_that_the_client_may_know() {
    let supported = "supported versions are (3/v3, 4/v4, 5/v5)";
    let cases = [
        (0x42, 5, format!("Invalid or unsupported protocol version (66); {supported}")),
        (0x41, 5, format!("Invalid or unsupported protocol version (65); {supported}")),
        (7, 5, format!("Invalid or unsupported protocol version (7); {supported}")),
        (2, 2, format!("Invalid or unsupported protocol version (2); {supported}")),
        (1, 1, format!("Invalid or unsupported protocol version (1); {supported}")),
        (6, 6, "Beta version of the protocol used (6/v6-beta), but USE_BETA flag is unset".to_owned()),
    ];
    for (number, version, text) in cases {
        let stream: &[u8] = if number < 3 { &[9] } else { &[0, 9] };
        let bytes = [&[number, 0], stream, &[5, 0, 0, 0, 0]].concat();
        let header = bytes.len();
        assert_eq!(Header::peek(&bytes[..header - 1], From::Client, LIMIT), Ok(None), "the whole header first");
        let refused = refused(&bytes);
        assert_eq!((refused.to_string(), refused.version, refused.stream), (text, version, 0));
        assert_eq!(refused.size, Some(header));
    }
    assert_eq!(refused(&[6, flag::BETA, 0, 9, 5, 0, 0, 0, 0]).error, Error::Version(6));
}

#[test]
fn a_refusal_is_a_frame_in_the_version_that_the_client_may_know() {
    let mut out = BytesMut::new();
    put_refusal(&mut out, &refused(&[0x42, 0, 0, 9, 5, 0, 0, 0, 0])).unwrap();
    assert_eq!(out[..5], [0x85, 0, 0, 0, 0]);
    assert!(matches!(Response::parse(&storm::open(&out)), Ok(Response::Error(_))));
    let mut old = BytesMut::from(&b"before"[..]);
    put_refusal(&mut old, &refused(&[1, 0, 9, 5, 0, 0, 0, 0])).unwrap();
    let frame = &old[6..];
    assert_eq!(frame[..4], [0x81, 0, 0, 0], "version, flags, a stream id of one byte, ERROR");
    assert_eq!(usize::from(frame[7]) + 8, frame.len());
}

#[test]
fn what_is_wrong_in_a_known_version_is_refused_on_its_own_stream() {
    let header = |opcode: u8, len: i32| [&[4, 0, 0, 9, opcode][..], &len.to_be_bytes()].concat();
    let unknown = refused(&header(0x11, 0));
    assert_eq!((unknown.to_string().as_str(), unknown.stream, unknown.version), ("Unknown opcode 17", 9, 4));
    let wrong = refused(&header(Opcode::Ready as u8, 0)).to_string();
    assert_eq!(wrong, "Wrong protocol direction (expected RESPONSE, got REQUEST) for opcode 2 (READY)");
    let large = refused(&header(Opcode::Query as u8, 1001));
    assert_eq!(large.to_string(), "Request is too big: length 1001 exceeds maximum allowed length 1000.");
    assert_eq!((large.size, large.error.code()), (Some(1010), 0x2200));
    let negative = refused(&header(Opcode::Query as u8, -1));
    assert_eq!(negative.to_string(), "Invalid value for envelope header body length field: -1");
    assert_eq!(negative.size, None);
    let response = [0x84, 0, 0, 9, Opcode::Ready as u8, 0, 0, 0, 0];
    assert!(Header::peek(&response, From::Client, LIMIT).is_err());
    assert!(Header::peek(&response, From::Server, LIMIT).is_ok());
}

#[test]
fn frames_come_one_after_the_other_until_one_is_not_all_there() {
    let samples = storm::samples(Version::V4);
    let requests: Vec<_> = samples.iter().filter(|frame| frame[0] & RESPONSE == 0).collect();
    let whole: Vec<u8> = requests.iter().flat_map(|frame| frame.iter().copied()).collect();
    for end in 0..=whole.len() {
        let mut frames = Frames::new(&whole[..end], From::Client, LIMIT);
        let read: usize = frames.by_ref().map(|frame| frame.unwrap().bytes.len()).sum();
        assert_eq!(read + frames.rest().len(), end);
        let ends = requests.iter().scan(0, |at, frame| {
            *at += frame.len();
            Some(*at)
        });
        assert_eq!(read, ends.take_while(|at| *at <= end).last().unwrap_or(0));
    }
}

#[test]
fn frames_end_after_one_that_is_refused() {
    let mut bytes = storm::samples(Version::V3)[1].to_vec();
    bytes.extend([9; 9]);
    let mut frames = Frames::new(&bytes, From::Client, LIMIT);
    assert!(frames.next().unwrap().is_ok());
    assert!(frames.next().unwrap().is_err());
    assert!(frames.next().is_none());
}

#[test]
fn a_frame_gets_another_stream_in_place() {
    let mut frame = storm::samples(Version::V5)[2].clone();
    let body = frame[HEADER..].to_vec();
    restamp(&mut frame, -7);
    let header = Header::peek(&frame, From::Client, LIMIT).unwrap().unwrap();
    assert_eq!((header.stream, &frame[HEADER..]), (-7, &body[..]));
    restamp(&mut [1, 2, 3], 1);
}

#[test]
fn what_comes_before_a_message_is_read_and_kept() {
    let body =
        [&[7; 16][..], &[0, 1, 0, 2, b'w', b'!'], &[0, 1, 0, 1, b'k', 0xFF, 0xFF, 0xFF, 0xFF], b"message"].concat();
    let flags = flag::TRACING | flag::WARNINGS | flag::PAYLOAD;
    let header = Header { version: Version::V4, flags, stream: 3, opcode: Opcode::Result, len: body.len() };
    let envelope = Envelope::open(header, &body).unwrap();
    assert_eq!(envelope.tracing, Some([7; 16]));
    assert_eq!(envelope.warnings.unwrap().iter().collect::<Vec<_>>(), ["w!"]);
    assert_eq!(envelope.payload.unwrap().iter().collect::<Vec<_>>(), [("k", None)]);
    assert_eq!(envelope.message, b"message");
    let mut out = BytesMut::new();
    envelope
        .put(&mut out, |out| {
            out.extend_from_slice(envelope.message);
            Ok(())
        })
        .unwrap();
    assert_eq!(out, [&header.encode()[..], &body].concat());
    assert_eq!(
        (0..body.len() - 7).filter(|&end| Envelope::open(header, &body[..end]).is_ok()).collect::<Vec<_>>(),
        [] as [usize; 0]
    );
}

#[test]
fn a_request_that_asks_for_tracing_has_no_tracing_id() {
    let header = Header {
        flags: flag::TRACING,
        ..Header::peek(&[4, 0, 0, 0, 7, 0, 0, 0, 1], From::Client, 9).unwrap().unwrap()
    };
    let envelope = Envelope::open(header, b"x").unwrap();
    assert_eq!((envelope.tracing, envelope.message), (None, &b"x"[..]));
    let mut out = BytesMut::new();
    envelope
        .put(&mut out, |out| {
            out.extend_from_slice(b"x");
            Ok(())
        })
        .unwrap();
    assert_eq!(out[1], flag::TRACING);
}

#[test]
fn v3_has_no_custom_payload() {
    let header = Header { version: Version::V3, flags: flag::PAYLOAD, stream: 0, opcode: Opcode::Query, len: 0 };
    assert_eq!(Envelope::open(header, &[0, 0]), Err(Error::Payload));
    let mut envelope = Envelope::open(Header { version: Version::V4, ..header }, &[0, 0]).unwrap();
    envelope.header.version = Version::V3;
    let mut out = BytesMut::new();
    envelope.put(&mut out, |_| Ok(())).unwrap();
    assert_eq!(out[..], Header { flags: 0, len: 0, ..envelope.header }.encode());
}

#[test]
fn what_cannot_be_put_leaves_the_buffer_as_it_was() {
    let mut out = BytesMut::from(&b"before"[..]);
    let put = Envelope::new(Version::V4, 0, Opcode::Query).put(&mut out, |out| {
        out.put_u8(1);
        Err(Error::Timestamp)
    });
    assert_eq!((put, &out[..]), (Err(Error::Timestamp), &b"before"[..]));
}

#[test]
fn every_message_survives() {
    Version::ALL.into_iter().flat_map(storm::samples).for_each(|sample| storm::frames(&sample));
}

/// Everything in a sample is needed, except that an unknown error ends where it ends, and the rows of nothing.
#[test]
fn every_message_cut_anywhere_is_an_error_or_waits_for_more() {
    for frame in Version::ALL.into_iter().flat_map(storm::samples) {
        let from = if frame[0] & RESPONSE == 0 { From::Client } else { From::Server };
        for end in 0..frame.len() {
            assert_eq!(Frame::split(&frame[..end], from, storm::LIMIT), Ok(None));
            let mut cut = frame[..end].to_vec();
            let Some(len) = end.checked_sub(HEADER) else { continue };
            cut[5..HEADER].copy_from_slice(&(len as u32).to_be_bytes());
            storm::frames(&cut);
        }
    }
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![Just(Version::V3), Just(Version::V4), Just(Version::V5)];
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (version, any::<prop::sample::Index>(), damage).prop_map(|(version, which, damage)| {
        let samples = storm::samples(version);
        let mut frame = which.get(&samples).to_vec();
        for (at, byte) in damage {
            *at.get_mut(&mut frame) = byte;
        }
        // Often the length is still right for what follows it.
        let len = (frame.len() - HEADER) as u32;
        frame[5..HEADER].copy_from_slice(&len.to_be_bytes());
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The fuzz target `cql_frames`, on messages with some bytes damaged.
    #[test]
    fn damaged_messages_never_panic(frame in script()) {
        storm::frames(&frame);
    }

    /// The same on bytes that are nothing.
    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        storm::frames(&bytes);
    }
}
