//! Another codec's opinion: what `cassandra-protocol` reads, we read, and both write it as the same bytes.
//!
//! Only sound messages are shown to it: it panics on hostile bytes, and takes memory for whatever length they say. It
//! forgets the skip-metadata flag, keeps named values in a hash map and does not know what became of v5 at last: each of
//! these is stepped around here and nowhere else.

use std::io::Cursor;
use std::panic::catch_unwind;

use bytes::BytesMut;
use cassandra_protocol::compression::Compression;
use cassandra_protocol::frame::frame_decoder::{FrameDecoder, Lz4FrameDecoder, UncompressedFrameDecoder};
use cassandra_protocol::frame::frame_encoder::{FrameEncoder, Lz4FrameEncoder, UncompressedFrameEncoder};
use cassandra_protocol::frame::message_response::ResponseBody;
use cassandra_protocol::frame::{Direction, Envelope as Theirs, Serialize, Version as TheirVersion};
use proptest::prelude::*;

use super::compress::Scratch;
use super::frame::{HEADER, Version};
use super::primitive::Consistency;
use super::request::tests::{any_parameters, bound};
use super::request::{Execute, Parameters, Request, Values};
use super::response::{ErrorKind, Outcome, Response, WriteType};
use super::segment::{Form, PAYLOAD_MAX, Writer};
use super::{Envelope, Error, Opcode, storm};

/// The message as the other codec writes what it read, if it does without a panic.
fn theirs(frame: &[u8]) -> Option<Vec<u8>> {
    let frame = frame.to_vec();
    catch_unwind(move || {
        let envelope = Theirs::from_buffer(&frame, Compression::None).ok()?.envelope;
        let (mut out, version) = (Vec::new(), envelope.version);
        match envelope.direction {
            Direction::Request => envelope.request_body().ok()?.serialize(&mut Cursor::new(&mut out), version),
            Direction::Response => put_response(&envelope.response_body().ok()?, &mut Cursor::new(&mut out), version),
        }
        Some(out)
    })
    .ok()
    .flatten()
}

fn put_response(body: &ResponseBody, out: &mut Cursor<&mut Vec<u8>>, version: TheirVersion) {
    match body {
        ResponseBody::Error(error) => error.serialize(out, version),
        ResponseBody::Authenticate(authenticate) => authenticate.serialize(out, version),
        ResponseBody::Supported(supported) => supported.serialize(out, version),
        ResponseBody::Result(result) => result.serialize(out, version),
        ResponseBody::Event(event) => event.serialize(out, version),
        ResponseBody::AuthChallenge(challenge) => challenge.serialize(out, version),
        ResponseBody::AuthSuccess(success) => success.serialize(out, version),
        _ => {}
    }
}

/// The message as we write what we read.
fn ours(envelope: &Envelope<'_>) -> Result<BytesMut, Error> {
    let (mut out, version) = (BytesMut::new(), envelope.header.version);
    match envelope.header.opcode.is_response() {
        false => plain(Request::parse(envelope)?).put(&mut out, version)?,
        true => Response::parse(envelope)?.put(&mut out, version)?,
    }
    Ok(out)
}

/// Without the flag that the other codec forgets.
fn plain(request: Request<'_>) -> Request<'_> {
    let plain = |parameters| Parameters { skip_metadata: false, ..parameters };
    match request {
        Request::Query(query) => Request::Query(super::request::Query { parameters: plain(query.parameters), ..query }),
        Request::Execute(execute) => Request::Execute(Execute { parameters: plain(execute.parameters), ..execute }),
        other => other,
    }
}

/// It does not keep what it reads in order, or says it differently.
fn is_known_to_differ(envelope: &Envelope<'_>) -> bool {
    let two_names = |values: Option<Values<'_>>| values.is_some_and(|values| values.named() && values.len() != 1);
    match envelope.header.opcode.is_response() {
        false => match Request::parse(envelope) {
            Ok(Request::Startup(options)) => options.len() > 1,
            Ok(Request::Query(query)) => two_names(query.parameters.values),
            Ok(Request::Execute(execute)) => {
                two_names(execute.parameters.values) || execute.parameters.consistency == Consistency::NodeLocal
            }
            _ => false,
        },
        true => match Response::parse(envelope) {
            Ok(Response::Supported(options)) => options.len() > 1,
            // Of v4, though only v5 has it; and kinds of writes and errors that it does not know.
            Ok(Response::Error(error)) => match error.kind {
                ErrorKind::WriteTimeout { write_type: WriteType::Cas | WriteType::Other(_), .. } => true,
                ErrorKind::ReadFailure { .. } | ErrorKind::WriteFailure { .. } => {
                    envelope.header.version == Version::V3
                }
                ErrorKind::CasWriteUnknown { .. } => envelope.header.version < Version::V5,
                ErrorKind::CdcWriteFailure | ErrorKind::FunctionFailure { .. } => true,
                ErrorKind::Other { .. } => true,
                _ => false,
            },
            Ok(Response::Result(Outcome::Rows(rows))) => rows.metadata.columns.is_none(),
            // It writes partition key indexes that v3 does not have.
            Ok(Response::Result(Outcome::Prepared(_))) => envelope.header.version == Version::V3,
            _ => false,
        },
    }
}

#[test]
fn every_message_that_both_know_is_written_the_same() {
    let mut compared = 0;
    for frame in Version::ALL.into_iter().flat_map(storm::samples) {
        let envelope = storm::open(&frame);
        if is_known_to_differ(&envelope) {
            continue;
        }
        let Some(theirs) = theirs(&frame) else { continue };
        assert_eq!(ours(&envelope).as_deref(), Ok(&theirs[..]), "{:?}", envelope.header);
        compared += 1;
    }
    assert!(compared > 120, "only {compared} messages were compared");
}

/// Segments of the other codec around these frames.
fn their_segments(form: Form, frames: &[BytesMut]) -> Vec<u8> {
    let mut encoder: Box<dyn FrameEncoder> = match form {
        Form::Plain => Box::<UncompressedFrameEncoder>::default(),
        Form::Lz4 => Box::<Lz4FrameEncoder>::default(),
    };
    let mut wire = Vec::new();
    for frame in frames {
        if encoder.can_fit(frame.len()) {
            encoder.add_envelope(frame.to_vec());
            wire.extend_from_slice(encoder.finalize_self_contained());
            encoder.reset();
            continue;
        }
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let (taken, part) = encoder.finalize_non_self_contained(rest);
            wire.extend_from_slice(part);
            rest = &rest[taken..];
            encoder.reset();
        }
    }
    wire
}

/// The bodies that the other codec reads out of segments.
fn their_bodies(form: Form, mut wire: Vec<u8>) -> Vec<Vec<u8>> {
    let mut decoder: Box<dyn FrameDecoder> = match form {
        Form::Plain => Box::<UncompressedFrameDecoder>::default(),
        Form::Lz4 => Box::<Lz4FrameDecoder>::default(),
    };
    let envelopes = decoder.consume(&mut wire, Compression::None).expect("segments");
    envelopes.into_iter().map(|envelope| envelope.body).collect()
}

fn frames() -> impl Strategy<Value = Vec<BytesMut>> {
    let token = (prop_oneof![0..2000_usize, PAYLOAD_MAX - 30..PAYLOAD_MAX + 30, 0..400_000_usize], any::<u64>());
    let frame = token.prop_map(|(len, seed)| {
        let noise = (0..len as u64).map(|at| (at.wrapping_mul(seed | 1) >> 40) as u8);
        let token: Vec<u8> = noise.collect();
        let mut out = BytesMut::new();
        let envelope = Envelope::new(Version::V5, 1, Opcode::AuthResponse);
        envelope.put(&mut out, |out| super::primitive::put_bytes(out, Some(&token), "token")).expect("a frame");
        out
    });
    proptest::collection::vec(frame, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_execute_is_read_and_written_the_same((parameters, values, named) in any_parameters(), id: Vec<u8>, which in 0..3_usize) {
        let version = Version::ALL[which];
        let bound: Vec<_> = values.iter().map(|owned| bound(owned, named, version)).collect();
        let parameters = Parameters {
            values: (!bound.is_empty()).then_some(Values::Given(&bound)),
            now_in_seconds: parameters.now_in_seconds.filter(|_| version >= Version::V5),
            ..parameters
        };
        let execute = Execute { id: &id[..id.len().min(16)], result_metadata_id: Some(b"meta"), parameters };
        let mut frame = BytesMut::new();
        Envelope::new(version, 1, Opcode::Execute).put(&mut frame, |out| execute.put(out, version)).expect("an EXECUTE");
        let envelope = storm::open(&frame);
        prop_assume!(!is_known_to_differ(&envelope));
        let ours = ours(&envelope).map(|message| message.to_vec());
        prop_assert_eq!(ours.ok(), theirs(&frame));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn segments_are_read_by_the_other_codec_and_its_by_us(frames in frames(), lz4: bool) {
        let form = if lz4 { Form::Lz4 } else { Form::Plain };
        let (mut writer, mut wire, mut scratch) = (Writer::new(form), BytesMut::new(), Scratch::default());
        frames.iter().for_each(|frame| writer.push(frame, &mut wire, &mut scratch));
        writer.close(&mut wire, &mut scratch);
        let bodies: Vec<_> = frames.iter().map(|frame| frame[HEADER..].to_vec()).collect();
        prop_assert_eq!(their_bodies(form, wire.to_vec()), bodies);
        let unpacked = storm::unpack(form, &their_segments(form, &frames), &mut scratch);
        prop_assert_eq!(unpacked, Ok(frames.iter().flat_map(|frame| frame.to_vec()).collect()));
    }
}
