//! A client that says exactly what it is told, message by message, on a plain socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ::tandem::protocol::postgres::wire::{self, Fields, HEADER, Header, Message, back, front};
use bytes::{BufMut, BytesMut};

/// One message, or a wait for what was asked so far.
#[derive(Clone, Copy, Debug)]
pub(crate) enum M {
    /// Query.
    Q(&'static str),
    /// Parse: name, text.
    P(&'static str, &'static str),
    /// Bind: portal, statement, text parameters, result format codes.
    B(&'static str, &'static str, &'static [&'static str], &'static [i16]),
    /// Describe a portal.
    Dp(&'static str),
    /// Describe a statement.
    Ds(&'static str),
    /// Execute: portal, row limit.
    E(&'static str, i32),
    /// Close a statement.
    C(&'static str),
    /// Sync.
    S,
    /// Sync that a COPY ignores: no ReadyForQuery comes for it.
    Ignored,
    /// Flush.
    H,
    /// CopyData.
    Data(&'static str),
    /// CopyDone.
    Done,
    /// CopyFail.
    Fail,
    /// Wait for every ReadyForQuery asked for so far.
    Wait,
    /// Wait for a message of this type.
    Until(u8),
}
use M::*;

/// The client, logged in as `postgres`.
pub(crate) struct Raw {
    stream: TcpStream,
    input: BytesMut,
    /// ReadyForQuery that are still to come.
    owed: usize,
    seen: Vec<Message>,
}

impl Raw {
    pub(crate) fn connect(port: u16) -> Raw {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(&startup(&[("user", "postgres"), ("database", "postgres")])).expect("sent");
        let mut raw = Raw { stream, input: BytesMut::new(), owed: 1, seen: Vec::new() };
        raw.wait();
        raw.seen.clear();
        raw
    }

    /// Say all of it; what was answered, up to the last ReadyForQuery.
    pub(crate) fn run(&mut self, script: &[M]) -> Vec<Message> {
        let mut out = BytesMut::new();
        for message in script {
            match *message {
                Q(text) => wire::query(&mut out, text.as_bytes()),
                P(name, text) => wire::parse(&mut out, name.as_bytes(), text.as_bytes(), &[]),
                B(portal, statement, params, formats) => bind(&mut out, portal, statement, params, formats),
                Dp(name) => wire::describe(&mut out, b'P', name.as_bytes()),
                Ds(name) => wire::describe(&mut out, b'S', name.as_bytes()),
                E(portal, rows) => wire::execute(&mut out, portal.as_bytes(), rows),
                C(name) => wire::close(&mut out, b'S', name.as_bytes()),
                S | Ignored => wire::bare(&mut out, front::SYNC),
                H => wire::bare(&mut out, front::FLUSH),
                Data(text) => wire::message(&mut out, front::COPY_DATA, |b| b.extend_from_slice(text.as_bytes())),
                Done => wire::bare(&mut out, front::COPY_DONE),
                Fail => wire::message(&mut out, front::COPY_FAIL, |b| wire::cstr(b, b"enough")),
                Wait | Until(_) => {}
            }
            self.owed += usize::from(matches!(message, Q(_) | S));
            if let Wait | Until(_) = message {
                self.send(&std::mem::take(&mut out));
                match *message {
                    Until(kind) => while self.next() != kind {},
                    _ => self.wait(),
                }
            }
        }
        self.send(&out);
        self.wait();
        std::mem::take(&mut self.seen)
    }

    /// What a script is answered on a connection of its own, in words; or why there was no answer.
    pub(crate) async fn answers(port: u16, script: &[M]) -> Vec<String> {
        let script = script.to_vec();
        let raw = tokio::task::spawn_blocking(move || {
            let answers = || Raw::connect(port).run(&script).into_iter().map(show).collect();
            std::panic::catch_unwind(answers).unwrap_or_else(|panic| {
                vec![panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panicked".to_owned())]
            })
        });
        raw.await.expect("the thread ends")
    }

    /// Bytes as they are; no answer is waited for.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    fn wait(&mut self) {
        while self.owed > 0 {
            self.next();
        }
    }

    /// The type of the next message.
    fn next(&mut self) -> u8 {
        loop {
            if let Some(header) = Header::peek(&self.input).expect("the protocol")
                && self.input.len() >= header.size
            {
                let whole = self.input.split_to(header.size).freeze();
                self.owed -= usize::from(header.kind == back::READY_FOR_QUERY);
                self.seen.push(Message { kind: header.kind, body: whole.slice(HEADER..) });
                return header.kind;
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk);
            let len = read.unwrap_or_else(|error| panic!("no answer ({error}) after {:#?}", self.seen));
            assert!(len > 0, "the connection ended after {:#?}", self.seen);
            self.input.extend_from_slice(&chunk[..len]);
        }
    }
}

/// A message in words, without what differs from run to run.
pub(crate) fn show(Message { kind, body }: Message) -> String {
    let mut body = body.to_vec();
    if kind == back::ROW_DESCRIPTION {
        blank_table_oids(&mut body);
    }
    if kind == back::NOTIFICATION_RESPONSE {
        body[..4].fill(0);
    }
    if kind == back::ERROR_RESPONSE || kind == back::NOTICE_RESPONSE {
        body = without_source(&body);
    }
    let text = format!("{} {}", char::from(kind), body.escape_ascii());
    // The schema of temporary tables has the backend's number.
    let mut parts = text.split("pg_temp_");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "pg_temp_" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// File, line and routine of PostgreSQL's source: a statement that tandem ran by the extended protocol is refused by
/// another line, in the same words.
fn without_source(body: &[u8]) -> Vec<u8> {
    body.split_inclusive(|&byte| byte == 0)
        .filter(|field| !matches!(field[0], b'F' | b'L' | b'R'))
        .flatten()
        .copied()
        .collect()
}

fn blank_table_oids(body: &mut [u8]) {
    let mut fields = Fields::new(b'T', body);
    let mut at = Vec::new();
    for _ in 0..fields.u16().expect("a count") {
        fields.cstr().expect("a name");
        at.push(body.len() - fields.rest().len());
        fields.take(18).expect("the rest");
    }
    at.into_iter().for_each(|at| body[at..at + 4].fill(0));
}

/// A StartupMessage.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> BytesMut {
    let mut packet = BytesMut::new();
    packet.put_i32(0);
    packet.put_i32(wire::VERSION_3_0);
    for text in parameters.iter().flat_map(|(name, value)| [*name, *value]).chain([""]) {
        wire::cstr(&mut packet, text.as_bytes());
    }
    let len = (packet.len() as i32).to_be_bytes();
    packet[..4].copy_from_slice(&len);
    packet
}

fn bind(out: &mut BytesMut, portal: &str, statement: &str, params: &[&str], formats: &[i16]) {
    wire::message(out, front::BIND, |b| {
        wire::cstr(b, portal.as_bytes());
        wire::cstr(b, statement.as_bytes());
        b.put_i16(0);
        b.put_i16(params.len() as i16);
        for param in params {
            b.put_i32(param.len() as i32);
            b.extend_from_slice(param.as_bytes());
        }
        b.put_i16(formats.len() as i16);
        formats.iter().for_each(|&code| b.put_i16(code));
    });
}
