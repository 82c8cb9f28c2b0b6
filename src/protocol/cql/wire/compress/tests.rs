use proptest::prelude::*;

use super::*;
use crate::protocol::cql::wire::frame::{Envelope, From, Opcode, Version};

const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Snappy];
const LIMIT: usize = 1 << 20;

fn frame(version: Version, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let put = |out: &mut BytesMut| {
        out.extend_from_slice(body);
        Ok(())
    };
    Envelope::new(version, 7, Opcode::Query).put(&mut out, put).unwrap();
    out
}

fn split(bytes: &[u8]) -> Frame<'_> {
    Frame::split(bytes, From::Client, usize::MAX >> 1).unwrap().unwrap()
}

fn compressed(body: &[u8]) -> BytesMut {
    let mut out = frame(Version::V4, body);
    out[1] |= flag::COMPRESSED;
    out
}

/// A raw LZ4 block by hand: token 0x11 is one literal and a match of five, one byte back.
#[test]
fn lz4_has_its_size_before_it_in_network_order() {
    let block = [0x11, b'a', 1, 0, 0x50, b'b', b'c', b'd', b'e', b'f'];
    let bytes = compressed(&[&[0, 0, 0, 11][..], &block].concat());
    let mut scratch = Scratch::default();
    let (header, body) = scratch.open(split(&bytes), Some(Compression::Lz4), LIMIT).unwrap();
    assert_eq!((header.flags, header.len, body), (0, 11, &b"aaaaaabcdef"[..]));
}

#[test]
fn a_body_that_says_it_is_large_is_refused_before_memory_is_taken() {
    let mut scratch = Scratch::default();
    let mut open =
        |compression, body: &[u8]| scratch.open(split(&compressed(body)), Some(compression), LIMIT).map(drop);
    let large = Err(Error::TooLarge { len: 0x7FFF_FFFF, limit: LIMIT });
    assert_eq!(open(Compression::Lz4, &[0x7F, 0xFF, 0xFF, 0xFF, 0]), large);
    assert_eq!(open(Compression::Snappy, &[0xFF, 0xFF, 0xFF, 0xFF, 0x07, 0]), large);
    let lie = Err(Error::Compression("the LZ4 block is shorter than its size allows"));
    assert_eq!(open(Compression::Lz4, &[0, 0x0F, 0xFF, 0xFF, 0x10, b'a']), lie);
    let lie = Err(Error::Compression("the Snappy body is shorter than its size allows"));
    assert_eq!(open(Compression::Snappy, &[0xFF, 0xFF, 0x3F, 0]), lie);
    assert!(scratch.bytes.is_empty());
}

#[test]
fn what_is_not_compressed_as_agreed_is_an_error() {
    let mut scratch = Scratch::default();
    let bytes = compressed(&[0, 0, 0, 9, 0xFF]);
    let none = scratch.open(split(&bytes), None, LIMIT).map(drop);
    assert_eq!(none, Err(Error::Compression("no compression was agreed")));
    for compression in BOTH {
        for body in [&[][..], &[0, 0, 0], &[0, 0, 0, 9, 0xFF], &[0, 0, 0, 2, 0x10, b'a']] {
            assert!(
                scratch.open(split(&compressed(body)), Some(compression), LIMIT).is_err(),
                "{compression:?} {body:?}"
            );
        }
    }
}

/// native_protocol_v5.spec section 2.4.1.2.
#[test]
fn v5_ignores_the_flag() {
    let mut bytes = frame(Version::V5, b"body");
    bytes[1] |= flag::COMPRESSED;
    let mut scratch = Scratch::default();
    assert_eq!(scratch.open(split(&bytes), Some(Compression::Lz4), LIMIT).unwrap().1, b"body");
}

#[test]
fn what_compression_does_not_shorten_is_left_alone() {
    let (bytes, mut out) = (frame(Version::V3, b"short"), BytesMut::new());
    for compression in BOTH {
        Scratch::default().compress(split(&bytes), compression, &mut out);
    }
    assert_eq!(out, [&bytes[..], &bytes].concat());
}

#[test]
fn names_are_read_in_any_case() {
    assert_eq!(Compression::from_name("LZ4"), Some(Compression::Lz4));
    assert_eq!(Compression::from_name("snappy"), Some(Compression::Snappy));
    assert_eq!(Compression::from_name("zstd"), None);
}

#[test]
fn memory_for_a_large_body_is_given_back() {
    let mut scratch = Scratch::default();
    let mut round = |len: usize| {
        let (bytes, mut out) = (frame(Version::V4, &vec![b'x'; len]), BytesMut::new());
        scratch.compress(split(&bytes), Compression::Lz4, &mut out);
        scratch.open(split(&out), Some(Compression::Lz4), LIMIT).unwrap();
        scratch.bytes.capacity()
    };
    assert!(round(LIMIT) >= LIMIT);
    assert!(round(1000) <= 2 * KEPT);
}

proptest! {
    #[test]
    fn bodies_survive(body in proptest::collection::vec(0..4_u8, 0..5000), snappy: bool) {
        let compression = BOTH[usize::from(snappy)];
        let (mut scratch, mut out) = (Scratch::default(), BytesMut::new());
        let bytes = frame(Version::V4, &body);
        scratch.compress(split(&bytes), compression, &mut out);
        prop_assert!(out.len() <= bytes.len());
        let (header, opened) = scratch.open(split(&out), Some(compression), LIMIT).unwrap();
        prop_assert_eq!((header, opened), (split(&bytes).header, &body[..]));
    }
}
