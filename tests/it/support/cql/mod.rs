//! A client that says exactly what it is told in CQL's native protocol, v3 to v5, and blocks for the answer. It shares no code with
//! tandem, so that both are not wrong in the same way. (Source: Cassandra's `doc/native_protocol_v3.spec` to `v5.spec`.)

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tandem::sandbox::cassandra::Node;

mod answer;
mod bytes;
mod segment;
mod value;

pub(crate) use answer::{Answer, Failure, Prepared, Rows};
pub(crate) use bytes::{Out, Parts};
pub(crate) use segment::{sealed, wrap};
pub(crate) use value::{Type, Value, hex};

/// Opcodes of requests.
pub(crate) const STARTUP: u8 = 0x01;
pub(crate) const OPTIONS: u8 = 0x05;
pub(crate) const QUERY: u8 = 0x07;
pub(crate) const PREPARE: u8 = 0x09;
pub(crate) const EXECUTE: u8 = 0x0A;
pub(crate) const REGISTER: u8 = 0x0B;
pub(crate) const BATCH: u8 = 0x0D;
pub(crate) const AUTH_RESPONSE: u8 = 0x0F;

/// Opcodes of answers.
pub(crate) const ERROR: u8 = 0x00;
pub(crate) const READY: u8 = 0x02;
pub(crate) const AUTHENTICATE: u8 = 0x03;
pub(crate) const SUPPORTED: u8 = 0x06;
pub(crate) const RESULT: u8 = 0x08;
pub(crate) const AUTH_SUCCESS: u8 = 0x10;

/// Consistency levels.
pub(crate) const ONE: u16 = 1;
pub(crate) const QUORUM: u16 = 4;
pub(crate) const ALL: u16 = 5;
pub(crate) const SERIAL: u16 = 8;

const COMPRESSED: u8 = 0x01;
pub(crate) const TRACING: u8 = 0x02;

/// How to connect. The default: v4, no compression, no login, no TLS.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) version: u8,
    pub(crate) lz4: bool,
    pub(crate) login: Option<(&'static str, &'static str)>,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) keyspace: Option<String>,
}

impl Default for Dial {
    fn default() -> Dial {
        Dial { version: 4, lz4: false, login: None, tls: None, keyspace: None }
    }
}

/// What may be said with a statement. The default: consistency ONE, and nothing more.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) consistency: u16,
    pub(crate) serial: Option<u16>,
    /// The default timestamp, microseconds.
    pub(crate) at: Option<i64>,
    /// v5: the second that is now for expiry.
    pub(crate) now_in_seconds: Option<i32>,
    pub(crate) page_size: Option<i32>,
    pub(crate) paging_state: Option<&'a [u8]>,
    /// v5: instead of the connection's own.
    pub(crate) keyspace: Option<&'a str>,
    pub(crate) skip_metadata: bool,
    pub(crate) values: &'a [Value],
    /// Flags of the frame.
    pub(crate) frame_flags: u8,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Ask {
            consistency: ONE,
            serial: None,
            at: None,
            now_in_seconds: None,
            page_size: None,
            paging_state: None,
            keyspace: None,
            skip_metadata: false,
            values: &[],
            frame_flags: 0,
        }
    }
}

/// A statement of a batch.
pub(crate) enum Member<'a> {
    Text(&'a str, &'a [Value]),
    Prepared(&'a [u8], &'a [Value]),
}

/// Kinds of batches.
pub(crate) const LOGGED: u8 = 0;
pub(crate) const UNLOGGED: u8 = 1;
pub(crate) const COUNTER: u8 = 2;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) version: u8,
    pub(crate) flags: u8,
    pub(crate) stream: i16,
    pub(crate) opcode: u8,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    /// As bytes, with the length that `body` has.
    pub(crate) fn put(version: u8, flags: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![version, flags];
        frame.extend(stream.to_be_bytes());
        frame.push(opcode);
        frame.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
        frame.extend(body);
        frame
    }
}

/// The client.
pub(crate) struct Cql {
    stream: Box<dyn Stream>,
    /// Below TLS.
    socket: TcpStream,
    version: u8,
    lz4: bool,
    /// v5, after the answer to STARTUP.
    segments: bool,
    input: Vec<u8>,
    next_stream: i16,
}

impl Cql {
    /// A socket, on which nothing was said.
    pub(crate) fn open(address: SocketAddrV4, dial: &Dial) -> std::io::Result<Cql> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let below = socket.try_clone()?;
        let stream: Box<dyn Stream> = match &dial.tls {
            None => Box::new(socket),
            Some(config) => {
                let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
                let session = rustls::ClientConnection::new(config.clone(), name).expect("a TLS session");
                Box::new(rustls::StreamOwned::new(session, socket))
            }
        };
        let (version, lz4) = (dial.version, dial.lz4);
        Ok(Cql { stream, socket: below, version, lz4, segments: false, input: Vec::new(), next_stream: 1 })
    }

    /// Connected and logged in.
    pub(crate) fn dial(address: SocketAddrV4, dial: &Dial) -> Result<Cql, Failure> {
        let mut cql = Cql::open(address, dial).expect("it listens");
        let mut options = vec![("CQL_VERSION", "3.0.0")];
        options.extend(dial.lz4.then_some(("COMPRESSION", "lz4")));
        let mut answer = cql.startup(&options)?;
        if answer.opcode == AUTHENTICATE {
            let (user, password) = dial.login.expect("the server asks for a login");
            answer = cql.say(AUTH_RESPONSE, 0, &Out::default().bytes(format!("\0{user}\0{password}").as_bytes()).0);
            cql.refused(&answer)?;
        }
        assert!([READY, AUTH_SUCCESS].contains(&answer.opcode), "{answer:?}");
        if let Some(keyspace) = &dial.keyspace {
            cql.query(&format!("USE {keyspace}"), &Ask::default())?;
        }
        Ok(cql)
    }

    /// A v4 client of a node, in a keyspace.
    pub(crate) fn of(node: &Node, keyspace: &str) -> Cql {
        Cql::with(node, keyspace, &Dial::default())
    }

    pub(crate) fn with(node: &Node, keyspace: &str, dial: &Dial) -> Cql {
        let keyspace = Some(keyspace.to_owned());
        Cql::dial(node.address(), &Dial { keyspace, ..dial.clone() }).expect("a login")
    }

    /// STARTUP. Whatever the answer is but an error, v5 speaks in segments from then on.
    pub(crate) fn startup(&mut self, options: &[(&str, &str)]) -> Result<Frame, Failure> {
        let answer = self.say(STARTUP, 0, &Out::default().string_map(options).0);
        self.refused(&answer)?;
        self.segments = self.version >= 5;
        Ok(answer)
    }

    fn refused(&self, answer: &Frame) -> Result<(), Failure> {
        if answer.opcode == ERROR { Err(Failure::parse(answer)) } else { Ok(()) }
    }

    /// QUERY.
    pub(crate) fn query(&mut self, text: &str, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let body = Out::default().long_string(text).then(|out| self.parameters(out, ask));
        self.ask(QUERY, ask, &body.0)
    }

    /// A statement without more: its answer, which is no error.
    pub(crate) fn run(&mut self, text: &str) -> Answer {
        self.query(text, &Ask::default()).unwrap_or_else(|failure| panic!("{text}: {failure:?}"))
    }

    /// A change of the schema, and a wait until all nodes have it; none may be down.
    pub(crate) fn define(&mut self, text: &str) {
        self.run(text);
        let mut versions = |query| self.rows(query).into_iter().collect::<BTreeSet<_>>();
        while !versions("SELECT schema_version FROM system.peers_v2")
            .is_subset(&versions("SELECT schema_version FROM system.local"))
        {
            std::thread::yield_now();
        }
    }

    /// With a default timestamp.
    pub(crate) fn run_at(&mut self, text: &str, at: i64) -> Answer {
        let ask = Ask { at: Some(at), ..Ask::default() };
        self.query(text, &ask).unwrap_or_else(|failure| panic!("{text}: {failure:?}"))
    }

    /// The rows of a SELECT as text, columns separated by `|`.
    pub(crate) fn rows(&mut self, text: &str) -> Vec<String> {
        self.run(text).rows().lines()
    }

    /// How it is refused.
    pub(crate) fn refusal(&mut self, text: &str, ask: &Ask<'_>) -> Failure {
        match self.query(text, ask) {
            Err(failure) => failure,
            Ok(answer) => panic!("{text} was not refused: {answer:?}"),
        }
    }

    /// PREPARE.
    pub(crate) fn prepare(&mut self, text: &str, keyspace: Option<&str>) -> Result<Prepared, Failure> {
        let mut body = Out::default().long_string(text);
        if self.version >= 5 {
            body = body.int(i32::from(keyspace.is_some()));
            body = keyspace.into_iter().fold(body, Out::string);
        }
        Ok(self.ask(PREPARE, &Ask::default(), &body.0)?.prepared())
    }

    /// EXECUTE. `result_id`: v5's, of the metadata that the client knows.
    pub(crate) fn execute(&mut self, id: &[u8], result_id: &[u8], ask: &Ask<'_>) -> Result<Answer, Failure> {
        let mut body = Out::default().short_bytes(id);
        if self.version >= 5 {
            body = body.short_bytes(result_id);
        }
        let body = body.then(|out| self.parameters(out, ask));
        self.ask(EXECUTE, ask, &body.0)
    }

    /// BATCH.
    pub(crate) fn batch(&mut self, kind: u8, members: &[Member<'_>], ask: &Ask<'_>) -> Result<Answer, Failure> {
        let mut body = Out::default().byte(kind).short(members.len());
        for member in members {
            body = match member {
                Member::Text(text, values) => body.byte(0).long_string(text).values(values),
                Member::Prepared(id, values) => body.byte(1).short_bytes(id).values(values),
            };
        }
        let body = body.short(usize::from(ask.consistency)).then(|out| self.extras(out, ask, 0));
        self.ask(BATCH, ask, &body.0)
    }

    fn parameters(&self, out: Out, ask: &Ask<'_>) -> Out {
        let mut flags = 0;
        flags |= if ask.values.is_empty() { 0 } else { 0x01 };
        flags |= if ask.skip_metadata { 0x02 } else { 0 };
        self.extras(out.short(usize::from(ask.consistency)), ask, flags)
    }

    /// The flags, and all that QUERY, EXECUTE and BATCH have in common after them.
    fn extras(&self, out: Out, ask: &Ask<'_>, mut flags: u32) -> Out {
        let optional = [
            (0x04, ask.page_size.is_some()),
            (0x08, ask.paging_state.is_some()),
            (0x10, ask.serial.is_some()),
            (0x20, ask.at.is_some()),
            (0x80, ask.keyspace.is_some()),
            (0x100, ask.now_in_seconds.is_some()),
        ];
        flags |= optional.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum::<u32>();
        let mut out = if self.version >= 5 { out.int(flags.cast_signed()) } else { out.byte(flags as u8) };
        if flags & 0x01 != 0 {
            out = out.values(ask.values);
        }
        out = ask.page_size.into_iter().fold(out, Out::int);
        out = ask.paging_state.into_iter().fold(out, Out::bytes);
        out = ask.serial.into_iter().fold(out, |out, level| out.short(usize::from(level)));
        out = ask.at.into_iter().fold(out, Out::long);
        out = ask.keyspace.into_iter().fold(out, Out::string);
        ask.now_in_seconds.into_iter().fold(out, Out::int)
    }

    fn ask(&mut self, opcode: u8, ask: &Ask<'_>, body: &[u8]) -> Result<Answer, Failure> {
        let answer = self.say(opcode, ask.frame_flags, body);
        self.refused(&answer)?;
        Ok(Answer::parse(&answer, self.version))
    }

    /// A request on a stream of its own, and its answer.
    pub(crate) fn say(&mut self, opcode: u8, flags: u8, body: &[u8]) -> Frame {
        let stream = self.next_stream;
        self.next_stream = stream.wrapping_add(1) & 0x7FFF;
        self.send(self.version, flags, stream, opcode, body);
        let answer = self.receive().expect("an answer");
        assert_eq!(answer.stream, stream, "the answer to another request: {answer:?}");
        answer
    }

    /// A request with any header.
    pub(crate) fn send(&mut self, version: u8, flags: u8, stream: i16, opcode: u8, body: &[u8]) {
        let small = self.lz4 && !self.segments && opcode != STARTUP && opcode != OPTIONS;
        let (flags, body) = if small { (flags | COMPRESSED, segment::lz4_body(body)) } else { (flags, body.to_vec()) };
        let frame = Frame::put(version, flags, stream, opcode, &body);
        let bytes = if self.segments { segment::wrap(&frame, self.lz4) } else { frame };
        self.send_raw(&bytes).expect("sent");
    }

    /// Bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// [`Cql::receive`] waits no longer.
    pub(crate) fn patience(&self, patience: Duration) {
        self.socket.set_read_timeout(Some(patience)).expect("a socket");
    }

    /// Nothing more is going to be sent.
    pub(crate) fn finish(&self) {
        // The other end may have closed already.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// After [`Cql::receive`] gave nothing: the other end closed, and is not just silent.
    pub(crate) fn is_closed(&self) -> bool {
        let short = self.socket.set_read_timeout(Some(Duration::from_millis(1)));
        match short.and_then(|()| self.socket.peek(&mut [0])) {
            Ok(left) => left == 0,
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        }
    }

    /// The next frame; `None`: the server closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Frame> {
        self.fill(8)?;
        // Before v3 the stream's id had one byte.
        let narrow = self.input[0] & 0x7F < 3;
        let header = if narrow { 8 } else { 9 };
        self.fill(header)?;
        let length = u32::from_be_bytes(self.input[header - 4..header].try_into().expect("four bytes")) as usize;
        self.fill(header + length)?;
        let mut frame: Vec<u8> = self.input.drain(..header + length).collect();
        if narrow {
            frame.insert(2, 0);
        }
        let (flags, body) = (frame[1], frame[9..].to_vec());
        let body = if flags & COMPRESSED != 0 && self.lz4 { segment::unlz4_body(&body) } else { body };
        let stream = i16::from_be_bytes([frame[2], frame[3]]);
        Some(Frame { version: frame[0], flags, stream, opcode: frame[4], body })
    }

    fn fill(&mut self, wanted: usize) -> Option<()> {
        while self.input.len() < wanted {
            let more = match self.segments {
                true => segment::read(&mut self.stream, self.lz4)?,
                false => read_some(&mut self.stream, wanted - self.input.len())?,
            };
            self.input.extend(more);
        }
        Some(())
    }
}

/// No more than wanted: what comes after the answer to STARTUP is framed in another way.
fn read_some(stream: &mut dyn Stream, wanted: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0; wanted];
    stream.read_exact(&mut buffer).ok()?;
    Some(buffer)
}

/// TLS that trusts one certificate, made out to `localhost`.
pub(crate) fn trusting(certificate: rustls::pki_types::CertificateDer<'static>) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth())
}
