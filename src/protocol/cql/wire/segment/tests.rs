use proptest::prelude::*;

use super::*;
use crate::protocol::cql::wire::frame::{Envelope, Opcode, Version};
use crate::protocol::cql::wire::primitive::put_long_string;
use crate::protocol::cql::wire::storm;

const FORMS: [Form; 2] = [Form::Plain, Form::Lz4];
const LIMIT: usize = 1 << 20;

/// A PREPARE with a text that LZ4 cannot shorten much.
fn frame(len: usize) -> BytesMut {
    let text: Vec<u8> = (0..len as u32).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
    let mut out = BytesMut::new();
    Envelope::new(Version::V5, 3, Opcode::Prepare).put(&mut out, |out| put_long_string(out, &text, "query")).unwrap();
    out
}

fn pack(form: Form, frames: &[&[u8]]) -> BytesMut {
    let (mut writer, mut out, mut scratch) = (Writer::new(form), BytesMut::new(), Scratch::default());
    frames.iter().for_each(|frame| writer.push(frame, &mut out, &mut scratch));
    writer.close(&mut out, &mut scratch);
    out
}

/// The parts that a reader sees, and how many bytes of frames each completed.
fn parts(form: Form, wire: &[u8]) -> Result<Vec<(Part, usize)>, Error> {
    let (mut reader, mut scratch) = (Reader::new(form, From::Client, LIMIT), Scratch::default());
    let (mut parts, mut rest) = (Vec::new(), wire);
    while let Some(segment) = reader.next(rest, &mut scratch).map_err(|refused| refused.error)? {
        parts.push((segment.part, segment.frames.len()));
        rest = &rest[segment.bytes.len()..];
    }
    assert!(rest.is_empty());
    Ok(parts)
}

/// A segment by the drawing of native_protocol_v5.spec section 2.1, with any contents.
fn by_hand(payload: &[u8], self_contained: bool) -> Vec<u8> {
    let fields = (payload.len() as u32 | u32::from(self_contained) << 17).to_le_bytes();
    let crc = crc24(&fields[..3]).to_le_bytes();
    [&fields[..3], &crc[..3], payload, &crc32(payload).to_le_bytes()].concat()
}

#[test]
fn checksums_start_as_the_specification_says() {
    assert_eq!(crc24(&[]), 0x0087_5060);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[0xFA, 0x2D, 0x55, 0xCA]);
    assert_eq!(crc32(&[]), hasher.clone().finalize());
    hasher.update(b"payload");
    assert_eq!(crc32(b"payload"), hasher.finalize());
}

#[test]
fn a_segment_looks_as_the_specification_draws_it() {
    let frame = frame(10);
    assert_eq!(pack(Form::Plain, &[&frame, &frame]), by_hand(&[&frame[..], &frame].concat(), true));
    let lz4 = pack(Form::Lz4, &[&frame]);
    let len = frame.len() as u64; // Not shortened: the uncompressed length is 0.
    assert_eq!(lz4[..5], (len | 1 << 34).to_le_bytes()[..5]);
    assert_eq!(lz4[8..8 + frame.len()], frame);
}

#[test]
fn small_frames_share_a_segment_and_large_ones_take_several() {
    let (small, large) = (frame(100), frame(300_000));
    for form in FORMS {
        let wire = pack(form, &[&small, &small, &large, &small]);
        let header = Header::peek(&large, From::Client, LIMIT).unwrap().unwrap();
        let expected = [
            (Part::Whole, 2 * small.len()),
            (Part::First(header), 0),
            (Part::Middle, 0),
            (Part::Last, large.len()),
            (Part::Whole, small.len()),
        ];
        assert_eq!(parts(form, &wire), Ok(expected.to_vec()));
        let unpacked = storm::unpack(form, &wire, &mut Scratch::default()).unwrap();
        assert_eq!(unpacked, [&small[..], &small, &large, &small].concat());
    }
}

#[test]
fn a_full_segment_is_closed_before_the_next_frame() {
    let frame = frame(60_000);
    let whole = [(Part::Whole, 2 * frame.len()), (Part::Whole, frame.len())];
    assert_eq!(parts(Form::Plain, &pack(Form::Plain, &[&frame, &frame, &frame])), Ok(whole.to_vec()));
    let exact = self::frame(PAYLOAD_MAX - HEADER - 4);
    assert_eq!(parts(Form::Lz4, &pack(Form::Lz4, &[&exact])), Ok(vec![(Part::Whole, PAYLOAD_MAX)]));
}

#[test]
fn a_large_frame_may_be_passed_and_is_not_collected() {
    let wire = pack(Form::Plain, &[&frame(300_000), &frame(5)]);
    let (mut reader, mut scratch) = (Reader::new(Form::Plain, From::Client, LIMIT), Scratch::default());
    let (mut relayed, mut rest, mut frames) = (Vec::new(), &wire[..], Vec::new());
    while let Some(segment) = reader.next(rest, &mut scratch).unwrap() {
        relayed.extend_from_slice(segment.bytes);
        frames.push(segment.frames.len());
        rest = &rest[segment.bytes.len()..];
        reader.pass();
        assert_eq!(reader.large.capacity(), 0);
    }
    assert_eq!((&relayed[..], frames), (&wire[..], vec![0, 0, 0, frame(5).len()]));
    assert_eq!(reader.missing, 0);
}

#[test]
fn a_segment_waits_until_it_is_all_there() {
    for form in FORMS {
        let wire = pack(form, &[&frame(50)]);
        let (mut reader, mut scratch) = (Reader::new(form, From::Client, LIMIT), Scratch::default());
        for end in 0..wire.len() {
            assert_eq!(reader.next(&wire[..end], &mut scratch), Ok(None));
        }
        assert_eq!(reader.size(&wire[..8]), Ok(Some(wire.len())));
        assert!(reader.next(&wire, &mut scratch).unwrap().is_some());
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    for form in FORMS {
        let frames = frame(50);
        let mut wire = pack(form, &[&frames]);
        for bit in 0..wire.len() * 8 {
            wire[bit / 8] ^= 1 << (bit % 8);
            let damaged = parts(form, &wire);
            let noticed = matches!(damaged, Err(Error::HeaderChecksum { .. } | Error::PayloadChecksum { .. }));
            assert!(noticed, "bit {bit}: {damaged:?}");
            wire[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn parts_that_do_not_fit_their_frames_are_errors() {
    let (whole, large) = (frame(5), frame(300_000));
    let first = by_hand(&large[..PAYLOAD_MAX], false);
    let error = |segments: &[&[u8]]| parts(Form::Plain, &segments.concat()).expect_err("an error");
    assert!(matches!(error(&[&by_hand(&whole[..8], false)]), Error::Segments(_)), "no header in the first part");
    assert!(matches!(error(&[&first, &by_hand(&whole, true)]), Error::Segments(_)), "whole frames between parts");
    let longer = by_hand(&vec![0; PAYLOAD_MAX], false);
    assert!(matches!(error(&[&first, &longer, &longer]), Error::Segments(_)), "more than the frame");
    let two = by_hand(&[&whole[..], &whole].concat(), false);
    assert!(matches!(error(&[&two]), Error::Segments(_)), "bytes behind the frame");
    assert_eq!(parts(Form::Plain, &by_hand(&whole, false)), Ok(vec![(Part::Whole, whole.len())]));
}

#[test]
fn a_frame_over_the_limit_is_refused_at_its_first_part() {
    let mut large = frame(200_000);
    large[5..9].copy_from_slice(&(LIMIT as u32 + 1).to_be_bytes());
    let first = by_hand(&large[..100], false);
    let (mut reader, mut scratch) = (Reader::new(Form::Plain, From::Client, LIMIT), Scratch::default());
    let refused = reader.next(&first, &mut scratch).expect_err("refused");
    assert_eq!((refused.error, refused.stream), (Error::TooLarge { len: LIMIT + 1, limit: LIMIT }, 3));
}

#[test]
fn a_block_that_is_none_is_an_error() {
    let (mut fields, payload) = (0_u64, [0xFF; 20]);
    fields |= 20 | 40 << 17 | 1 << 34;
    let header = &fields.to_le_bytes()[..5];
    let wire = [header, &crc24(header).to_le_bytes()[..3], &payload, &crc32(&payload).to_le_bytes()].concat();
    assert_eq!(parts(Form::Lz4, &wire), Err(Error::Compression("not an LZ4 block")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn frames_survive_in_any_segments(lens in proptest::collection::vec(prop_oneof![0..300_usize, 0..200_000_usize], 0..6), lz4: bool) {
        let form = FORMS[usize::from(lz4)];
        let frames: Vec<_> = lens.into_iter().map(frame).collect();
        let slices: Vec<_> = frames.iter().map(|frame| &frame[..]).collect();
        let unpacked = storm::unpack(form, &pack(form, &slices), &mut Scratch::default());
        prop_assert_eq!(unpacked, Ok(slices.concat()));
    }

    /// The fuzz target `cql_segments`, on bytes that are nothing and on segments with right checksums.
    #[test]
    fn any_bytes_as_segments_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), payloads in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..5)) {
        storm::segments(&bytes);
        let wire: Vec<_> = payloads.iter().flat_map(|(payload, whole)| by_hand(payload, *whole)).collect();
        storm::segments(&[&[0][..], &wire].concat());
        storm::segments(&[&[2][..], &wire].concat());
    }
}
