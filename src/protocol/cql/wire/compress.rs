//! LZ4 and Snappy as CQL uses them, and the memory that they and segments work in.
//!
//! Below v5 the body of a frame is compressed: LZ4 is a raw block behind its decompressed size (four bytes, big-endian),
//! Snappy is its raw format, which begins with the size. In v5 a segment is, by LZ4 alone, and its header has the size.
//! Source: native_protocol_v4.spec section 5, native_protocol_v5.spec sections 2.2 and 2.3.2.

use std::fmt;

use bytes::{BufMut, BytesMut};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::Error;
use super::frame::{Frame, HEADER, Header, flag};

/// What `COMPRESSION` in STARTUP names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// `lz4`.
    Lz4,
    /// `snappy`, below v5.
    Snappy,
}

impl Compression {
    /// From the value of the option; servers read it in any case.
    pub fn from_name(name: &str) -> Option<Compression> {
        [Compression::Lz4, Compression::Snappy].into_iter().find(|known| known.name().eq_ignore_ascii_case(name))
    }

    /// The value of the option.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Lz4 => "lz4",
            Compression::Snappy => "snappy",
        }
    }
}

/// Bytes that [`Scratch`] keeps between uses; what a large body took beyond is given back.
const KEPT: usize = 256 << 10;

/// Memory for one (de)compression at a time: 16 KB to 400 KB, so one a thread, not one a connection.
pub struct Scratch {
    bytes: Vec<u8>,
    lz4: CompressTable,
    snappy: snap::raw::Encoder,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch { bytes: Vec::new(), lz4: CompressTable::default(), snappy: snap::raw::Encoder::new() }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("capacity", &self.bytes.capacity()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// The body of a frame, decompressed if it is compressed, with a header that says so.
    ///
    /// A size over `limit` is refused before memory is taken for it.
    pub fn open<'a>(
        &'a mut self,
        frame: Frame<'a>,
        compression: Option<Compression>,
        limit: usize,
    ) -> Result<(Header, &'a [u8]), Error> {
        if !frame.is_compressed() {
            return Ok((frame.header, frame.body()));
        }
        let body = match compression {
            Some(Compression::Lz4) => self.inflate_lz4(frame.body(), limit)?,
            Some(Compression::Snappy) => self.inflate_snappy(frame.body(), limit)?,
            None => return Err(Error::Compression("no compression was agreed")),
        };
        Ok((Header { flags: frame.header.flags & !flag::COMPRESSED, len: body.len(), ..frame.header }, body))
    }

    fn inflate_lz4(&mut self, body: &[u8], limit: usize) -> Result<&[u8], Error> {
        let (size, block) = body.split_first_chunk().ok_or(Error::Compression("no size before the LZ4 block"))?;
        let len = u32::from_be_bytes(*size) as usize;
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        self.inflate_block(block, len)
    }

    /// A raw LZ4 block that becomes `len` bytes, which the caller has checked. A block of `n` bytes cannot become more than
    /// 255 times as many, so a lie about the size takes no memory either.
    pub(super) fn inflate_block(&mut self, block: &[u8], len: usize) -> Result<&[u8], Error> {
        if len > block.len().saturating_mul(255) {
            return Err(Error::Compression("the LZ4 block is shorter than its size allows"));
        }
        if len == 0 {
            return Ok(&[]);
        }
        let out = self.room(len);
        match decompress_into(block, out) {
            Ok(written) if written == len => Ok(out),
            Ok(_) => Err(Error::Compression("the LZ4 block has another size than it says")),
            Err(_) => Err(Error::Compression("not an LZ4 block")),
        }
    }

    fn inflate_snappy(&mut self, body: &[u8], limit: usize) -> Result<&[u8], Error> {
        let bad = |_| Error::Compression("not Snappy");
        let len = snap::raw::decompress_len(body).map_err(bad)?;
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        // Three bytes copy 64 at most.
        if len > body.len().saturating_mul(64) {
            return Err(Error::Compression("the Snappy body is shorter than its size allows"));
        }
        let out = self.room(len);
        let written = snap::raw::Decoder::new().decompress(body, out).map_err(bad)?;
        Ok(&out[..written])
    }

    /// Append the frame with its body compressed; as it is if that gains nothing.
    pub fn compress(&mut self, frame: Frame<'_>, compression: Compression, out: &mut BytesMut) {
        let body = frame.body();
        let compressed = match compression {
            Compression::Lz4 => self.deflate_block(body),
            Compression::Snappy => self.deflate_snappy(body),
        };
        let prefix = if compression == Compression::Lz4 { size_of::<u32>() } else { 0 };
        let size = u32::try_from(body.len());
        let (Some(compressed), Ok(size)) = (compressed, size) else { return out.extend_from_slice(frame.bytes) };
        if compressed.len() + prefix >= body.len() {
            return out.extend_from_slice(frame.bytes);
        }
        out.reserve(HEADER + prefix + compressed.len());
        let flags = frame.header.flags | flag::COMPRESSED;
        out.extend_from_slice(&Header { flags, len: prefix + compressed.len(), ..frame.header }.encode());
        if compression == Compression::Lz4 {
            out.put_u32(size);
        }
        out.extend_from_slice(compressed);
    }

    /// As a raw LZ4 block.
    pub(super) fn deflate_block(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        self.grow(get_maximum_output_size(bytes.len()));
        let Scratch { bytes: out, lz4, .. } = self;
        let written = compress_into_with_table(bytes, out, lz4).ok()?;
        out.get(..written)
    }

    fn deflate_snappy(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        self.grow(snap::raw::max_compress_len(bytes.len()));
        let Scratch { bytes: out, snappy, .. } = self;
        let written = snappy.compress(bytes, out).ok()?;
        out.get(..written)
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        self.grow(len);
        &mut self.bytes[..len]
    }

    /// Zeroes are written only to memory that is new.
    fn grow(&mut self, len: usize) {
        if self.bytes.len() > KEPT && len <= KEPT {
            self.bytes.truncate(KEPT);
            self.bytes.shrink_to(KEPT);
        }
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
    }
}

#[cfg(test)]
mod tests;
