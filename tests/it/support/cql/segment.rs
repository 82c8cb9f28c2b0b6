//! v5's outer framing, and the compression of v4.

use std::io::Read;

const SELF_CONTAINED: u64 = 1;
/// Largest payload of a segment.
const PAYLOAD_MAX: usize = (1 << 17) - 1;

/// v3 and v4: a compressed body has its length before it.
pub(super) fn lz4_body(body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
    out.extend(lz4_flex::block::compress(body));
    out
}

pub(super) fn unlz4_body(body: &[u8]) -> Vec<u8> {
    let length = u32::from_be_bytes(body[..4].try_into().expect("four bytes")) as usize;
    lz4_flex::block::decompress(&body[4..], length).expect("LZ4")
}

/// A frame in segments: one, or as many as it needs.
pub(crate) fn wrap(frame: &[u8], lz4: bool) -> Vec<u8> {
    let whole = u64::from(frame.len() <= PAYLOAD_MAX) * SELF_CONTAINED;
    let parts = frame.chunks(PAYLOAD_MAX).map(|part| if lz4 { compressed(part, whole) } else { plain(part, whole) });
    parts.collect::<Vec<_>>().concat()
}

fn plain(payload: &[u8], whole: u64) -> Vec<u8> {
    sealed(payload.len() as u64 | whole << 17, 3, payload)
}

fn compressed(payload: &[u8], whole: u64) -> Vec<u8> {
    let packed = lz4_flex::block::compress(payload);
    // An uncompressed length of 0 says that compression did not pay.
    let (bytes, length) = if packed.len() < payload.len() { (packed, payload.len()) } else { (payload.to_vec(), 0) };
    sealed(bytes.len() as u64 | (length as u64) << 17 | whole << 34, 5, &bytes)
}

/// `header` is what is before its checksum, of `size` bytes.
pub(crate) fn sealed(header: u64, size: usize, payload: &[u8]) -> Vec<u8> {
    let mut out = header.to_le_bytes()[..size].to_vec();
    out.extend(&crc24(header, size).to_le_bytes()[..3]);
    out.extend(payload);
    out.extend(crc32(payload).to_le_bytes());
    out
}

/// The payload of the next segment; its checksums must be right.
pub(super) fn read(stream: &mut dyn Read, lz4: bool) -> Option<Vec<u8>> {
    let size = if lz4 { 5 } else { 3 };
    let mut head = [0; 8];
    stream.read_exact(&mut head[..size + 3]).ok()?;
    let all = u64::from_le_bytes(head);
    let header = all & ((1 << (8 * size)) - 1);
    assert_eq!(crc24(header, size), (all >> (8 * size)) as u32, "the checksum of a segment's header");
    let mut payload = vec![0; (header & 0x1FFFF) as usize];
    stream.read_exact(&mut payload).ok()?;
    let mut sum = [0; 4];
    stream.read_exact(&mut sum).ok()?;
    assert_eq!(crc32(&payload), u32::from_le_bytes(sum), "the checksum of a segment's payload");
    match (header >> 17 & 0x1FFFF) as usize {
        length if lz4 && length > 0 => Some(lz4_flex::block::decompress(&payload, length).expect("LZ4")),
        _ => Some(payload),
    }
}

fn crc24(mut header: u64, size: usize) -> u32 {
    let mut crc = 0x875060_u32;
    for _ in 0..size {
        crc ^= ((header & 0xFF) as u32) << 16;
        header >>= 8;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x100_0000 != 0 {
                crc ^= 0x197_4F0B;
            }
        }
    }
    crc
}

fn crc32(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[0xFA, 0x2D, 0x55, 0xCA]);
    hasher.update(payload);
    hasher.finalize()
}
