//! What the benchmarks of CQL need: nodes that answer at once, clients that ask as fast as they can, a plain byte splice.

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use tandem::protocol::cql::wire::compress::Scratch;
use tandem::protocol::cql::wire::frame::{Envelope, Frame, Frames, From, Opcode, Version};
use tandem::protocol::cql::wire::primitive::Consistency;
use tandem::protocol::cql::wire::request::{Parameters, Prepare, Query, Request, put_startup};
use tandem::protocol::cql::wire::response::{Outcome, Response};
use tandem::protocol::cql::wire::segment::{Form, Reader, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) mod crowd;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod splice;

/// No frame is longer.
const LIMIT: usize = 16 << 20;
const READ_BYTES: usize = 64 << 10;
/// A row of the table that is read and written: `k bigint PRIMARY KEY, v text`.
pub(crate) const READ: &str = "SELECT k, v FROM bench.kept WHERE k = ?";
/// The same table.
pub(crate) const WRITE: &str = "INSERT INTO bench.kept (k, v) VALUES (?, ?)";
/// Of `v`.
pub(crate) const VALUE_BYTES: usize = 100;

/// One end of a connection.
pub(crate) struct Line {
    socket: TcpStream,
    /// Who is at the other end.
    peer: From,
    input: BytesMut,
    out: BytesMut,
    segments: Option<(Reader, Writer)>,
    scratch: Scratch,
}

impl Line {
    pub(crate) fn new(socket: TcpStream, peer: From) -> Result<Line> {
        socket.set_nodelay(true)?;
        let (input, out) = (BytesMut::with_capacity(READ_BYTES), BytesMut::with_capacity(READ_BYTES));
        Ok(Line { socket, peer, input, out, segments: None, scratch: Scratch::default() })
    }

    /// Idle ends keep no memory.
    pub(crate) fn shrink(&mut self) {
        if self.input.is_empty() {
            (self.input, self.out) = Default::default();
        }
    }

    /// After STARTUP was answered.
    pub(crate) fn agree(&mut self, version: Version) {
        if version >= Version::V5 {
            self.segments = Some((Reader::new(Form::Plain, self.peer, LIMIT), Writer::new(Form::Plain)));
        }
    }

    /// To be sent with the next [`Line::flush`].
    pub(crate) fn push(&mut self, frame: &[u8]) {
        match &mut self.segments {
            Some((_, writer)) => writer.push(frame, &mut self.out, &mut self.scratch),
            None => self.out.extend_from_slice(frame),
        }
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        if let Some((_, writer)) = &mut self.segments {
            writer.close(&mut self.out, &mut self.scratch);
        }
        self.socket.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Wait for whole frames, and put them into `frames` instead of what is there. False: the peer hung up.
    pub(crate) async fn receive(&mut self, frames: &mut BytesMut) -> Result<bool> {
        frames.clear();
        loop {
            self.take(frames)?;
            if !frames.is_empty() {
                return Ok(true);
            }
            self.input.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Ok(false);
            }
        }
    }

    fn take(&mut self, frames: &mut BytesMut) -> Result<()> {
        let mut taken = 0;
        match &mut self.segments {
            None => {
                let whole = Frames::new(&self.input, self.peer, LIMIT);
                for frame in whole {
                    taken += frame.map_err(|refused| refused.error)?.bytes.len();
                }
                frames.extend_from_slice(&self.input[..taken]);
            }
            Some((reader, _)) => {
                while let Some(segment) =
                    reader.next(&self.input[taken..], &mut self.scratch).map_err(|refused| refused.error)?
                {
                    frames.extend_from_slice(segment.frames);
                    taken += segment.bytes.len();
                }
            }
        }
        bytes::Buf::advance(&mut self.input, taken);
        Ok(())
    }

    /// Send one request and wait for its answer, which must not be an ERROR.
    pub(crate) async fn ask(&mut self, version: Version, request: &Request<'_>) -> Result<BytesMut> {
        let mut out = BytesMut::new();
        Envelope::new(version, 0, request.opcode()).put(&mut out, |out| request.put(out, version))?;
        self.tell(&out).await
    }

    async fn tell(&mut self, frame: &[u8]) -> Result<BytesMut> {
        self.push(frame);
        self.flush().await?;
        let mut answer = BytesMut::new();
        ensure!(self.receive(&mut answer).await?, "the server hung up");
        let whole = Frame::split(&answer, From::Server, LIMIT).map_err(|refused| refused.error)?;
        let opcode = whole.context("a frame")?.header.opcode;
        ensure!(opcode != Opcode::Error, "refused: {}", String::from_utf8_lossy(&answer[9..]));
        Ok(answer)
    }

    /// Text without values.
    pub(crate) async fn say(&mut self, version: Version, text: &str) -> Result<()> {
        let parameters = Parameters::new(Consistency::One);
        self.ask(version, &Request::Query(Query { text: text.as_bytes(), parameters })).await.map(drop)
    }

    /// The id of a prepared statement.
    pub(crate) async fn prepare(&mut self, version: Version, text: &str) -> Result<Vec<u8>> {
        let answer = self.ask(version, &Request::Prepare(Prepare { text: text.as_bytes(), keyspace: None })).await?;
        let frame = Frame::split(&answer, From::Server, LIMIT).map_err(|refused| refused.error)?.context("a frame")?;
        match Response::parse(&Envelope::open(frame.header, frame.body())?)? {
            Response::Result(Outcome::Prepared(prepared)) => Ok(prepared.id.to_vec()),
            _ => anyhow::bail!("PREPARE was answered with something else"),
        }
    }
}

/// A client that may ask.
pub(crate) async fn connect(address: &str, version: Version) -> Result<Line> {
    let socket = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    let mut line = Line::new(socket, From::Server)?;
    let mut out = BytesMut::new();
    Envelope::new(version, 0, Opcode::Startup).put(&mut out, |out| put_startup(out, &[("CQL_VERSION", "3.0.0")]))?;
    line.tell(&out).await?;
    line.agree(version);
    Ok(line)
}
