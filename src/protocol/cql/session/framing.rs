//! Frames in and out of one connection: bare, as they follow each other up to v4, or wrapped in segments, as in v5.

use std::cell::RefCell;

use bytes::{Buf, BytesMut};

use crate::protocol::cql::wire::compress::{Compression, Scratch};
use crate::protocol::cql::wire::frame::{self, Frame, Frames, From};
use crate::protocol::cql::wire::segment::{self, Form};
use crate::protocol::cql::wire::{HeaderError, Version};

/// Larger buffers are given back.
const KEPT_BYTES: usize = 256 * 1024;
/// Buffers that a thread keeps for who has something to send: one for each direction of the connection at work.
const KEPT: usize = 2;

thread_local! {
    /// For (de)compression: a few of a thread, none of a connection.
    #[allow(clippy::vec_box, reason = "taken and put back for each frame, and kilobytes long")]
    static SCRATCHES: RefCell<Vec<Box<Scratch>>> = const { RefCell::new(Vec::new()) };
    /// For what is to be sent.
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Work with memory of this thread for compression. Who does so again while it works gets another.
pub(in crate::protocol::cql) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCHES.with_borrow_mut(Vec::pop).unwrap_or_default();
    let done = work(&mut scratch);
    SCRATCHES.with_borrow_mut(|scratches| scratches.push(scratch));
    done
}

/// What the reader of frames wants after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) enum Next {
    /// The next one.
    More,
    /// This frame cannot be taken now: it, and what follows, is to be offered again.
    Again,
}

/// How frames travel once a connection has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) struct Framing {
    /// The version that all frames have.
    pub version: Version,
    /// What was agreed in STARTUP.
    pub compression: Option<Compression>,
}

impl Framing {
    fn form(self) -> Option<Form> {
        let form = if self.compression == Some(Compression::Lz4) { Form::Lz4 } else { Form::Plain };
        (self.version >= Version::V5).then_some(form)
    }
}

/// The reading end of a connection.
pub(in crate::protocol::cql) struct Inbound {
    from: From,
    limit: usize,
    /// v5, after the first answer.
    segments: Option<segment::Reader>,
    /// Frames of a segment that could not be taken yet, bare; the first may be one that was refused.
    put_off: BytesMut,
}

impl Inbound {
    /// Bare frames, none of them with a body over `limit`.
    pub(in crate::protocol::cql) fn bare(from: From, limit: usize) -> Inbound {
        Inbound { from, limit, segments: None, put_off: BytesMut::new() }
    }

    /// From here on.
    pub(in crate::protocol::cql) fn agree(&mut self, framing: Framing) {
        self.segments = framing.form().map(|form| segment::Reader::new(form, self.from, self.limit));
    }

    /// Offer each whole frame of `input` to `take`, and advance it behind those that were taken. True: nothing is
    /// left that could be taken before more is read.
    pub(in crate::protocol::cql) fn offer<E: std::convert::From<HeaderError>>(
        &mut self,
        input: &mut (impl Buf + AsRef<[u8]>),
        mut take: impl FnMut(Frame<'_>) -> Result<Next, E>,
    ) -> Result<bool, E> {
        if !self.put_off.is_empty() {
            let (taken, all) = walk(&self.put_off, self.from, self.limit, &mut take);
            self.put_off.advance(taken);
            if !all? {
                return Ok(false);
            }
            self.put_off = BytesMut::new();
        }
        if self.segments.is_none() {
            let (taken, all) = walk(input.as_ref(), self.from, self.limit, &mut take);
            input.advance(taken);
            return all;
        }
        loop {
            match self.segment(input, &mut take)? {
                None => return Ok(true),
                Some(false) => return Ok(false),
                Some(true) => {}
            }
        }
    }

    /// How long the first frame of `input` is: 0 if it is not all there, or lies elsewhere.
    pub(in crate::protocol::cql) fn first_bytes(&self, input: &[u8]) -> usize {
        if self.segments.is_some() || !self.put_off.is_empty() {
            return 0;
        }
        let first = Frames::new(input, self.from, self.limit).next();
        first.and_then(Result::ok).map_or(0, |frame| frame.bytes.len())
    }

    /// Drop the frame that [`offer`](Inbound::offer) refused, if it has this size and is all there, so that what follows it
    /// can be offered: its stream id.
    pub(in crate::protocol::cql) fn skip(
        &mut self,
        input: &mut (impl Buf + AsRef<[u8]>),
        size: Option<usize>,
    ) -> Option<i16> {
        let size = size?;
        // Where a segment itself was refused, nothing after it can be read.
        let amid = self.segments.is_some();
        let bytes = if amid { &self.put_off[..] } else { input.as_ref() };
        let stream = bytes.get(..size)?.get(frame::STREAM)?.try_into().ok()?;
        match amid {
            true => self.put_off.advance(size),
            false => input.advance(size),
        }
        Some(i16::from_be_bytes(stream))
    }

    /// The next segment: `None` if it is not all there, else whether all of its frames were taken.
    fn segment<E: std::convert::From<HeaderError>>(
        &mut self,
        input: &mut (impl Buf + AsRef<[u8]>),
        take: &mut impl FnMut(Frame<'_>) -> Result<Next, E>,
    ) -> Result<Option<bool>, E> {
        let (from, limit) = (self.from, self.limit);
        let Some(reader) = &mut self.segments else { return Ok(None) };
        let put_off = &mut self.put_off;
        let walked = with_scratch(|scratch| {
            let Some(segment) = reader.next(input.as_ref(), scratch)? else { return Ok(None) };
            let (taken, all) = walk(segment.frames, from, limit, take);
            let rest = &segment.frames[taken..];
            match all {
                Ok(true) if !rest.is_empty() => return Err(segment::torn().into()),
                Ok(true) => {}
                Ok(false) | Err(_) => put_off.extend_from_slice(rest),
            }
            Ok::<_, E>(Some((segment.bytes.len(), all)))
        });
        let Some((len, all)) = walked? else { return Ok(None) };
        input.advance(len);
        all.map(Some)
    }
}

/// How many bytes of frames were taken, and whether that was every whole one. Those before an error were.
fn walk<E: std::convert::From<HeaderError>>(
    bytes: &[u8],
    from: From,
    limit: usize,
    take: &mut impl FnMut(Frame<'_>) -> Result<Next, E>,
) -> (usize, Result<bool, E>) {
    let mut taken = 0;
    for frame in Frames::new(bytes, from, limit) {
        let next = frame.map_err(E::from).and_then(|frame| Ok((frame.bytes.len(), take(frame)?)));
        match next {
            Ok((len, Next::More)) => taken += len,
            Ok((_, Next::Again)) => return (taken, Ok(false)),
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(true))
}

/// The writing end of a connection: frames go to a buffer, and from there to the socket.
pub(in crate::protocol::cql) struct Outbound {
    buffer: BytesMut,
    segments: Option<segment::Writer>,
}

impl Outbound {
    /// Bare frames.
    pub(in crate::protocol::cql) fn bare() -> Outbound {
        Outbound { buffer: BytesMut::new(), segments: None }
    }

    /// From here on.
    pub(in crate::protocol::cql) fn agree(&mut self, framing: Framing) {
        self.segments = framing.form().map(segment::Writer::new);
    }

    /// Append a whole frame.
    pub(in crate::protocol::cql) fn push(&mut self, frame: &[u8]) {
        if self.buffer.is_empty() && self.buffer.capacity() == 0 {
            self.buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        match &mut self.segments {
            None => self.buffer.extend_from_slice(frame),
            Some(segments) => {
                if !segments.append(frame, &mut self.buffer) {
                    with_scratch(|scratch| segments.push(frame, &mut self.buffer, scratch));
                }
            }
        }
    }

    /// What is to be sent, complete; whoever sent a part of it advances it.
    pub(in crate::protocol::cql) fn ready(&mut self) -> &mut BytesMut {
        if let Some(segments) = &mut self.segments {
            with_scratch(|scratch| segments.close(&mut self.buffer, scratch));
        }
        &mut self.buffer
    }

    /// Bytes that wait to be sent.
    pub(in crate::protocol::cql) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing waits to be sent.
    pub(in crate::protocol::cql) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// All was sent: an idle connection keeps no memory, and the next one on this thread need not ask for any.
    pub(in crate::protocol::cql) fn rest(&mut self) {
        if !self.buffer.is_empty() {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        // Also what lies before what was sent.
        if !buffer.try_reclaim(1) || buffer.try_reclaim(KEPT_BYTES + 1) {
            return;
        }
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
}
