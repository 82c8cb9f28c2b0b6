//! Requests into bytes and bytes into responses, for one connection that has agreed on version and compression. No I/O.

use bytes::{Bytes, BytesMut};

use crate::protocol::cql::wire::compress::{Compression, Scratch};
use crate::protocol::cql::wire::frame::{Frame, Frames, From, Header};
use crate::protocol::cql::wire::segment::{self, Form};
use crate::protocol::cql::wire::{Error, HeaderError, Version};

/// The state of a connection's bytes, both ways.
pub(super) struct Codec {
    compression: Option<Compression>,
    limit: usize,
    /// Since v5, after the answer to STARTUP.
    segments: Option<(segment::Reader, segment::Writer)>,
    scratch: Scratch,
}

impl Codec {
    /// As it is before the answer to STARTUP: frames, not compressed.
    pub(super) fn new(limit: usize) -> Codec {
        Codec { compression: None, limit, segments: None, scratch: Scratch::default() }
    }

    /// The server took our STARTUP: what was agreed in it holds from here on.
    pub(super) fn agree(&mut self, version: Version, compression: Option<Compression>) {
        self.compression = compression;
        if version >= Version::V5 {
            let form = if compression.is_some() { Form::Lz4 } else { Form::Plain };
            let reader = segment::Reader::new(form, From::Server, self.limit);
            self.segments = Some((reader, segment::Writer::new(form)));
        }
    }

    /// Append a request's frame.
    pub(super) fn put(&mut self, frame: &[u8], out: &mut BytesMut) {
        match (&mut self.segments, self.compression) {
            (Some((_, writer)), _) => writer.push(frame, out, &mut self.scratch),
            (None, None) => out.extend_from_slice(frame),
            (None, Some(compression)) => match Frame::split(frame, From::Client, usize::MAX) {
                Ok(Some(frame)) => self.scratch.compress(frame, compression, out),
                _ => out.extend_from_slice(frame),
            },
        }
    }

    /// What was put is all there is for now: it may be sent.
    pub(super) fn close(&mut self, out: &mut BytesMut) {
        if let Some((_, writer)) = &mut self.segments {
            writer.close(out, &mut self.scratch);
        }
    }

    /// Take the responses that are whole off the input.
    pub(super) fn take(
        &mut self,
        input: &mut BytesMut,
        mut each: impl FnMut(Header, Bytes),
    ) -> Result<(), HeaderError> {
        let Some((reader, _)) = &mut self.segments else { return self.take_frames(input, each) };
        while let Some(segment) = reader.next(input, &mut self.scratch)? {
            let mut frames = Frames::new(segment.frames, From::Server, self.limit);
            for frame in frames.by_ref() {
                let frame = frame?;
                each(frame.header, Bytes::copy_from_slice(frame.body()));
            }
            if !frames.rest().is_empty() {
                let error = Error::Segments("a self-contained segment ends amid a message");
                return Err(HeaderError { error, version: Version::V5 as u8, stream: 0, size: None });
            }
            let size = segment.bytes.len();
            drop(input.split_to(size));
        }
        Ok(())
    }

    fn take_frames(&mut self, input: &mut BytesMut, mut each: impl FnMut(Header, Bytes)) -> Result<(), HeaderError> {
        while let Some(frame) = Frame::split(input, From::Server, self.limit)? {
            let size = frame.bytes.len();
            let lost = |error| HeaderError { error, version: frame.header.version as u8, stream: 0, size: None };
            let (header, body) = self.scratch.open(frame, self.compression, self.limit).map_err(lost)?;
            each(header, Bytes::copy_from_slice(body));
            drop(input.split_to(size));
        }
        Ok(())
    }
}
