//! A socket with frames on it, for the first words of a connection: one after the other, awaited.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::session::framing::{Framing, Inbound, Next, Outbound, with_scratch};
use super::wire::frame::{self, From as Sender};
use super::wire::response::{Response, ServerError};
use super::wire::{Envelope, Frame, Header, HeaderError, Opcode, Version};

/// A whole frame, kept.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its header.
    pub header: Header,
    /// Header and body, as they came.
    pub bytes: BytesMut,
}

impl Kept {
    pub(super) fn frame(&self) -> Frame<'_> {
        Frame { header: self.header, bytes: &self.bytes }
    }
}

/// Why the first words of a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer closed.
    #[error("the connection was closed")]
    Closed,
    /// What came cannot be read.
    #[error("{0}")]
    Refused(HeaderError),
    /// A message cannot be read or written.
    #[error("{0}")]
    Wire(#[from] super::wire::Error),
    /// The server refused us.
    #[error("{0}")]
    Server(String),
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
}

impl From<HeaderError> for Error {
    fn from(refused: HeaderError) -> Error {
        Error::Refused(refused)
    }
}

/// A socket with frames on it.
pub(super) struct Link<S> {
    /// The socket.
    pub stream: S,
    /// What was read and not looked at.
    pub unread: BytesMut,
    inbound: Inbound,
    outbound: Outbound,
    framing: Option<Framing>,
    /// Bytes of a frame, and of a body that is decompressed.
    limit: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// A connection that has just begun: bare frames.
    pub(super) fn new(stream: S, peer: Sender, limit: usize) -> Link<S> {
        let (inbound, outbound) = (Inbound::bare(peer, limit), Outbound::bare());
        Link { stream, unread: BytesMut::new(), inbound, outbound, framing: None, limit }
    }

    /// From here on, in both directions.
    pub(super) fn agree(&mut self, framing: Framing) {
        self.inbound.agree(framing);
        self.outbound.agree(framing);
        self.framing = Some(framing);
    }

    /// Send a whole frame. Not cancel safe.
    pub(super) async fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.outbound.push(frame);
        let ready = self.outbound.ready().split();
        self.stream.write_all(&ready).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Send a response or an ERROR of our own.
    pub(super) async fn tell(&mut self, version: Version, stream: i16, response: &Response<'_>) -> Result<(), Error> {
        let mut out = BytesMut::new();
        response.put_frame(&mut out, version, stream)?;
        self.send(&out).await
    }

    /// The next whole frame. Cancel safe.
    pub(super) async fn receive(&mut self) -> Result<Kept, Error> {
        loop {
            let mut first = None;
            self.inbound.offer(&mut self.unread, |frame: Frame<'_>| {
                if first.is_some() {
                    return Ok::<_, HeaderError>(Next::Again);
                }
                first = Some(Kept { header: frame.header, bytes: BytesMut::from(frame.bytes) });
                Ok(Next::More)
            })?;
            if let Some(kept) = first {
                return Ok(kept);
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(Error::Closed);
            }
        }
    }

    /// Drop the frame that was refused, if it is all there and what follows it can be read.
    pub(super) fn skip(&mut self, refused: &HeaderError) -> bool {
        self.inbound.skip(&mut self.unread, refused.size).is_some()
    }

    /// Ask and wait for the answer, which must not be an ERROR.
    pub(super) async fn ask(
        &mut self,
        version: Version,
        opcode: Opcode,
        message: impl FnOnce(&mut BytesMut) -> Result<(), super::wire::Error>,
    ) -> Result<Kept, Error> {
        let mut out = BytesMut::new();
        Envelope::new(version, 0, opcode).put(&mut out, message)?;
        self.send(&out).await?;
        loop {
            let kept = self.receive().await?;
            match kept.header.opcode {
                // Somebody else's news.
                Opcode::Event => {}
                Opcode::Error => return Err(Error::Server(self.words(&kept))),
                _ => return Ok(kept),
            }
        }
    }

    /// What an ERROR says.
    pub(super) fn words(&self, kept: &Kept) -> String {
        let words = || {
            let body = self.body(kept).ok()?;
            let envelope = Envelope::open(plain(kept.header), &body).ok()?;
            Some(ServerError::parse(kept.header.version, envelope.message).ok()?.message.to_owned())
        };
        words().unwrap_or_else(|| "an ERROR that cannot be read".to_owned())
    }

    /// The class by which an AUTHENTICATE asks.
    pub(super) fn authenticator(&self, kept: &Kept) -> Option<String> {
        let body = self.body(kept).ok()?;
        let envelope = Envelope::open(plain(kept.header), &body).ok()?;
        match Response::parse(&envelope).ok()? {
            Response::Authenticate(class) => Some(class.to_owned()),
            _ => None,
        }
    }

    /// The body of a frame, decompressed.
    ///
    /// # Errors
    /// It cannot be decompressed, or into more than a frame may have.
    pub(super) fn body(&self, kept: &Kept) -> Result<BytesMut, super::wire::Error> {
        let compression = self.framing.and_then(|framing| framing.compression);
        with_scratch(|scratch| {
            scratch.open(kept.frame(), compression, self.limit).map(|(_, body)| BytesMut::from(body))
        })
    }
}

/// The header of a body that was decompressed.
pub(super) fn plain(header: Header) -> Header {
    Header { flags: header.flags & !frame::flag::COMPRESSED, ..header }
}
