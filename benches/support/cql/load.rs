//! Clients that ask as fast as they are answered.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use futures_util::future::try_join_all;
use tandem::protocol::cql::wire::frame::{Envelope, Frames, From, Opcode, Version, restamp};
use tandem::protocol::cql::wire::primitive::{Consistency, Value};
use tandem::protocol::cql::wire::request::{Execute, Parameters, Request, Values};
use tokio::runtime::Builder;

use super::{LIMIT, Line, READ, VALUE_BYTES, WRITE, connect};
use crate::support::median;

/// Keys of the table.
const KEYS: u64 = 100_000;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A prepared SELECT of one row.
    Read,
    /// A prepared INSERT of one row.
    Write,
}

/// How much of it, and how.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) what: What,
    pub(crate) version: Version,
    pub(crate) clients: u16,
    /// Of each client.
    pub(crate) in_flight: i16,
    pub(crate) time: Duration,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.what == What::Read { "read" } else { "write" };
        write!(f, "{what}, {}, {} x {}", self.version, self.clients, self.in_flight)
    }
}

/// What came of it.
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    /// The median; NaN with several in flight.
    pub(crate) latency_us: f64,
}

/// What one client did.
#[derive(Default)]
struct Done {
    requests: u64,
    latency_us: Vec<f64>,
}

impl Load {
    /// All clients on this thread. Connecting is not counted.
    pub(crate) fn run(&self, address: SocketAddr) -> Result<Measured> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let clients = try_join_all((0..self.clients).map(|number| self.client(address, number))).await?;
            let began = Instant::now();
            let until = began + self.time;
            let done = try_join_all(clients.into_iter().map(|client| client.run(until))).await?;
            let requests = done.iter().map(|done| done.requests).sum();
            let latency_us = median(done.into_iter().flat_map(|done| done.latency_us));
            Ok(Measured { requests, per_second: requests as f64 / began.elapsed().as_secs_f64(), latency_us })
        })
    }

    async fn client(&self, address: SocketAddr, number: u16) -> Result<Client> {
        let mut line = connect(&address.to_string(), self.version).await?;
        let text = if self.what == What::Read { READ } else { WRITE };
        let id = line.prepare(self.version, text).await?;
        let (request, key) = self.request(&id)?;
        let in_flight = self.in_flight;
        Ok(Client { line, request, key, next: u64::from(number) * 1_000, in_flight })
    }

    /// A frame, and where its key is.
    fn request(&self, id: &[u8]) -> Result<(BytesMut, Range<usize>)> {
        // Nothing else in the frame looks like this.
        let (mark, text) = (0x5A5A_F00D_5A5A_F00D_u64.to_be_bytes(), [b'v'; VALUE_BYTES]);
        let values = [(None, Value::Set(&mark)), (None, Value::Set(&text))];
        let values = if self.what == What::Read { &values[..1] } else { &values[..] };
        let parameters = Parameters { values: Some(Values::Given(values)), ..Parameters::new(Consistency::LocalOne) };
        let request = Request::Execute(Execute { id, result_metadata_id: Some(&[0; 16]), parameters });
        let mut frame = BytesMut::new();
        Envelope::new(self.version, 0, Opcode::Execute).put(&mut frame, |out| request.put(out, self.version))?;
        let key = frame.windows(mark.len()).position(|window| window == mark).context("the key")?;
        Ok((frame, key..key + mark.len()))
    }
}

struct Client {
    line: Line,
    request: BytesMut,
    key: Range<usize>,
    next: u64,
    in_flight: i16,
}

impl Client {
    async fn run(mut self, until: Instant) -> Result<Done> {
        let mut done = Done::default();
        let mut frames = BytesMut::new();
        (0..self.in_flight).for_each(|stream| self.ask(stream));
        self.line.flush().await?;
        let mut asked = Instant::now();
        let mut open = self.in_flight;
        while open > 0 {
            ensure!(self.line.receive(&mut frames).await?, "the server hung up");
            let now = Instant::now();
            if self.in_flight == 1 {
                done.latency_us.push((now - asked).as_secs_f64() * 1e6);
            }
            for frame in Frames::new(&frames, From::Server, LIMIT) {
                let header = frame.map_err(|refused| refused.error)?.header;
                ensure!(header.opcode == Opcode::Result, "refused: {}", String::from_utf8_lossy(&frames));
                done.requests += 1;
                if now < until { self.ask(header.stream) } else { open -= 1 }
            }
            asked = Instant::now();
            self.line.flush().await?;
        }
        Ok(done)
    }

    fn ask(&mut self, stream: i16) {
        restamp(&mut self.request, stream);
        self.request[self.key.clone()].copy_from_slice(&(self.next % KEYS).to_be_bytes());
        self.next += 1;
        self.line.push(&self.request);
    }
}
