//! Segments of v5: frames wrapped in checksums, several small ones together or a large one in parts, compressed or not.
//!
//! [`Reader`] gives a segment at a time, as it came and with the frames it completes; a session that need not look into
//! a large frame tells it not to collect the parts ([`Reader::pass`]). [`Writer`] packs frames into segments.
//!
//! Source: native_protocol_v5.spec section 2. Unlike all else in the protocol, the integers here are little-endian.

use bytes::{BufMut, BytesMut};

use super::compress::Scratch;
use super::frame::{From, HEADER, Header};
use super::{Error, HeaderError};

/// A payload's length has 17 bits.
pub const PAYLOAD_MAX: usize = (1 << 17) - 1;
/// The CRC32 behind the payload.
const TRAILER: usize = 4;
const CRC24_INIT: u32 = 0x0087_5060;
const CRC24_POLY: u32 = 0x0197_4F0B;
/// The state of CRC32 after the bytes FA 2D 55 CA, which come before every payload.
const CRC32_INIT: u32 = 0x4477_7ED3;

const CRC24: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 16;
        let mut bit = 0;
        while bit < 8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= CRC24_POLY;
            }
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Over the first bytes of a segment's header.
pub fn crc24(bytes: &[u8]) -> u32 {
    bytes.iter().fold(CRC24_INIT, |crc, &byte| (crc << 8 & 0x00FF_FFFF) ^ CRC24[usize::from((crc >> 16) as u8 ^ byte)])
}

/// Over a payload, as it is on the wire.
pub fn crc32(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(CRC32_INIT);
    hasher.update(payload);
    hasher.finalize()
}

/// How a connection's segments look: agreed in STARTUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Header of six bytes.
    Plain,
    /// Header of eight bytes, the payload compressed where that gains something.
    Lz4,
}

impl Form {
    /// Bytes of the header that CRC24 covers.
    const fn fields(self) -> usize {
        match self {
            Form::Plain => 3,
            Form::Lz4 => 5,
        }
    }

    const fn header(self) -> usize {
        self.fields() + 3
    }
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// Payload on the wire.
    len: usize,
    /// Payload decompressed; 0: it is not compressed.
    inflated: usize,
    /// Only whole frames are in it.
    self_contained: bool,
}

impl Head {
    fn peek(bytes: &[u8], form: Form) -> Result<Option<Head>, Error> {
        let Some(header) = bytes.get(..form.header()) else { return Ok(None) };
        let (fields, crc) = header.split_at(form.fields());
        let (fields, read, computed) = (little(fields), little(crc) as u32, crc24(fields));
        if read != computed {
            return Err(Error::HeaderChecksum { read, computed });
        }
        let length = |shift: u32| (fields >> shift) as usize & PAYLOAD_MAX;
        let (inflated, flag) = if form == Form::Lz4 { (length(17), 34) } else { (0, 17) };
        Ok(Some(Head { len: length(0), inflated, self_contained: fields >> flag & 1 == 1 }))
    }

    fn write(self, form: Form, header: &mut [u8]) {
        let flag = if form == Form::Lz4 { 34 } else { 17 };
        let fields = self.len as u64 | (self.inflated as u64) << 17 | u64::from(self.self_contained) << flag;
        let (head, crc) = header.split_at_mut(form.fields());
        head.copy_from_slice(&fields.to_le_bytes()[..form.fields()]);
        crc.copy_from_slice(&crc24(head).to_le_bytes()[..3]);
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// What a segment is to the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Whole frames, any number.
    Whole,
    /// The first part of a large frame with this header.
    First(Header),
    /// Neither its first nor its last part.
    Middle,
    /// Its last part.
    Last,
}

/// A segment whose checksums are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// As it came: what a relay between connections of the same [`Form`] forwards when nothing in it must change.
    pub bytes: &'a [u8],
    /// How it cuts frames.
    pub part: Part,
    /// The whole frames that may be read now: of [`Part::Whole`] those in it, of [`Part::Last`] the large one unless it was
    /// [passed](Reader::pass), else none.
    pub frames: &'a [u8],
}

/// Reads segments. Between calls it holds nothing but the parts of a large frame.
#[derive(Debug)]
pub struct Reader {
    form: Form,
    from: From,
    limit: usize,
    /// Parts of a large frame so far, unless it is passed.
    large: BytesMut,
    /// Bytes of the large frame that are still to come; 0: none is under way.
    missing: usize,
    passing: bool,
}

impl Reader {
    /// Of a connection with segments of this form; no frame of it may have a body over `limit`.
    pub fn new(form: Form, from: From, limit: usize) -> Reader {
        Reader { form, from, limit, large: BytesMut::new(), missing: 0, passing: false }
    }

    /// Bytes that the segment at the start of `input` has, once its header is there.
    pub fn size(&self, input: &[u8]) -> Result<Option<usize>, Error> {
        Ok(Head::peek(input, self.form)?.map(|head| self.form.header() + head.len + TRAILER))
    }

    /// The segment at the start of `input`, if it is all there; the caller advances by its [`bytes`](Segment::bytes).
    ///
    /// After an error the connection cannot go on, except that a refused frame may be answered.
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Result<Option<Segment<'a>>, HeaderError> {
        if self.missing == 0 {
            self.forget_large();
        }
        let Some(head) = Head::peek(input, self.form).map_err(HeaderError::lost)? else { return Ok(None) };
        let Some(bytes) = input.get(..self.form.header() + head.len + TRAILER) else { return Ok(None) };
        let payload = self.checked(bytes).map_err(HeaderError::lost)?;
        let payload = match head.inflated {
            0 => payload,
            inflated => scratch.inflate_block(payload, inflated).map_err(HeaderError::lost)?,
        };
        let part = self.part(head, payload)?;
        self.collect(part, payload);
        let frames = match part {
            Part::Whole => payload,
            Part::Last => &self.large[..],
            Part::First(_) | Part::Middle => &[],
        };
        Ok(Some(Segment { bytes, part, frames }))
    }

    /// Do not collect the large frame that is under way: its parts are relayed as they come.
    pub fn pass(&mut self) {
        self.passing = self.missing > 0;
        self.large = BytesMut::new();
    }

    /// The payload of a whole segment, if it is what its checksum says.
    fn checked<'a>(&self, segment: &'a [u8]) -> Result<&'a [u8], Error> {
        let (before, trailer) = segment.split_at(segment.len() - TRAILER);
        let payload = &before[self.form.header()..];
        match (little(trailer) as u32, crc32(payload)) {
            (read, computed) if read == computed => Ok(payload),
            (read, computed) => Err(Error::PayloadChecksum { read, computed }),
        }
    }

    fn part(&self, head: Head, payload: &[u8]) -> Result<Part, HeaderError> {
        let lost = |what| HeaderError::lost(Error::Segments(what));
        match (head.self_contained, self.missing) {
            (true, 0) => Ok(Part::Whole),
            (true, _) => Err(lost("a self-contained segment came before the parts of a message were complete")),
            (false, 0) => {
                let header = Header::peek(payload, self.from, self.limit)?;
                let header = header.ok_or_else(|| lost("the first part of a message is shorter than its header"))?;
                match header.size().cmp(&payload.len()) {
                    std::cmp::Ordering::Less => Err(lost("bytes follow the message in a segment that is a part")),
                    std::cmp::Ordering::Equal => Ok(Part::Whole),
                    std::cmp::Ordering::Greater => Ok(Part::First(header)),
                }
            }
            (false, missing) if payload.len() > missing => Err(lost("the parts are longer than their message")),
            (false, missing) if payload.len() == missing => Ok(Part::Last),
            (false, _) => Ok(Part::Middle),
        }
    }

    fn collect(&mut self, part: Part, payload: &[u8]) {
        match part {
            Part::Whole => return,
            Part::First(header) => self.missing = header.size() - payload.len(),
            Part::Middle | Part::Last => self.missing -= payload.len(),
        }
        if !self.passing {
            self.large.extend_from_slice(payload);
        }
    }

    /// An idle connection keeps no memory of a large frame.
    fn forget_large(&mut self) {
        self.passing = false;
        if !self.large.is_empty() {
            self.large = BytesMut::new();
        }
    }
}

impl HeaderError {
    /// What a segment's error means: nothing after it can be read; a real server answers on stream 0 and closes.
    fn lost(error: Error) -> HeaderError {
        HeaderError { error, version: super::Version::V5 as u8, stream: 0, size: None }
    }
}

/// A self-contained segment ends within a frame.
pub fn torn() -> HeaderError {
    HeaderError::lost(Error::Segments("a self-contained segment ends before its last message does"))
}

/// Packs frames into segments at the end of a buffer: [`push`](Writer::push) them, then [`close`](Writer::close) before
/// the buffer is sent. Until then nobody else may change the buffer.
#[derive(Debug)]
pub struct Writer {
    form: Form,
    /// Where in the buffer the open segment starts.
    open: Option<usize>,
}

impl Writer {
    /// For a connection with segments of this form.
    pub fn new(form: Form) -> Writer {
        Writer { form, open: None }
    }

    /// Append a whole frame to the segment that is open. False: there is none, or it does not fit in.
    #[inline]
    pub fn append(&mut self, frame: &[u8], out: &mut BytesMut) -> bool {
        let fits = |start| out.len() - start - self.form.header() + frame.len() <= PAYLOAD_MAX;
        let fits = self.open.is_some_and(fits);
        if fits {
            out.extend_from_slice(frame);
        }
        fits
    }

    /// Append a whole frame, together with those before it if they fit in one segment.
    pub fn push(&mut self, frame: &[u8], out: &mut BytesMut, scratch: &mut Scratch) {
        if self.append(frame, out) {
            return;
        }
        if frame.len() > PAYLOAD_MAX {
            self.close(out, scratch);
            return frame.chunks(PAYLOAD_MAX).for_each(|part| {
                let start = self.begin(out);
                out.extend_from_slice(part);
                self.seal(start, false, out, scratch);
            });
        }
        self.close(out, scratch);
        self.open = Some(self.begin(out));
        out.extend_from_slice(frame);
    }

    /// Finish the open segment, if there is one.
    pub fn close(&mut self, out: &mut BytesMut, scratch: &mut Scratch) {
        if let Some(start) = self.open.take() {
            self.seal(start, true, out, scratch);
        }
    }

    fn begin(&self, out: &mut BytesMut) -> usize {
        let start = out.len();
        out.put_bytes(0, self.form.header());
        start
    }

    fn seal(&self, start: usize, self_contained: bool, out: &mut BytesMut, scratch: &mut Scratch) {
        let at = start + self.form.header();
        let len = out.len() - at;
        let mut head = Head { len, inflated: 0, self_contained };
        if self.form == Form::Lz4
            && let Some(block) = scratch.deflate_block(&out[at..]).filter(|block| block.len() < len)
        {
            head = Head { len: block.len(), inflated: len, self_contained };
            out[at..at + block.len()].copy_from_slice(block);
            out.truncate(at + block.len());
        }
        head.write(self.form, &mut out[start..at]);
        out.put_u32_le(crc32(&out[at..]));
    }
}

const _: () = assert!(HEADER <= PAYLOAD_MAX);

#[cfg(test)]
mod tests;
