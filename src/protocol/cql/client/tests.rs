//! Peers that follow a script: what a real server does only when it is ill, or never.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::protocol::cql::outcome::{Kind, Outcome as Known};
use crate::protocol::cql::wire::compress::Scratch;
use crate::protocol::cql::wire::frame::{self, Frames, From};
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::response::{Event, ServerError};
use crate::protocol::cql::wire::segment::{self, Form};

const LIMIT: usize = 1 << 20;

/// The server's end of one connection.
struct Peer {
    socket: TcpStream,
    version: Version,
    input: BytesMut,
    segments: Option<(segment::Reader, segment::Writer)>,
    scratch: Scratch,
}

/// A request as it came.
#[derive(Debug)]
struct Asked {
    stream: i16,
    opcode: Opcode,
    message: Bytes,
}

impl Asked {
    fn text(&self) -> &str {
        std::str::from_utf8(request::text(&self.message).expect("a text")).expect("UTF-8")
    }
}

impl Peer {
    async fn accept(listener: &TcpListener, version: Version) -> Peer {
        let (socket, _) = listener.accept().await.expect("a client");
        Peer { socket, version, input: BytesMut::new(), segments: None, scratch: Scratch::default() }
    }

    /// Up to the answer to STARTUP.
    async fn ready(listener: &TcpListener, version: Version) -> Peer {
        let mut peer = Peer::accept(listener, version).await;
        let startup = peer.asked().await;
        assert_eq!(startup.opcode, Opcode::Startup);
        peer.answer(startup.stream, Response::Ready).await;
        peer.agree();
        peer
    }

    fn agree(&mut self) {
        if self.version == Version::V5 {
            let reader = segment::Reader::new(Form::Plain, From::Client, LIMIT);
            self.segments = Some((reader, segment::Writer::new(Form::Plain)));
        }
    }

    async fn asked(&mut self) -> Asked {
        loop {
            if let Some(asked) = self.take() {
                return asked;
            }
            assert_ne!(self.socket.read_buf(&mut self.input).await.expect("readable"), 0, "the client hung up");
        }
    }

    fn take(&mut self) -> Option<Asked> {
        let mut bytes = match &mut self.segments {
            None => frame::take(&mut self.input, From::Client, LIMIT).expect("a request")?.1,
            Some((reader, _)) => {
                let segment = reader.next(&self.input, &mut self.scratch).expect("a segment")?;
                let (size, frames) = (segment.bytes.len(), BytesMut::from(segment.frames));
                drop(self.input.split_to(size));
                frames
            }
        };
        let (header, frame) = frame::take(&mut bytes, From::Client, LIMIT).expect("a request")?;
        assert!(bytes.is_empty(), "the tests ask one thing at a time");
        let message = Bytes::copy_from_slice(&frame[frame::HEADER..]);
        Some(Asked { stream: header.stream, opcode: header.opcode, message })
    }

    async fn answer(&mut self, stream: i16, response: Response<'_>) {
        let mut frame = BytesMut::new();
        response.put_frame(&mut frame, self.version, stream).expect("put");
        self.send(&frame).await;
    }

    async fn refuse(&mut self, stream: i16, kind: ErrorKind<'_>) {
        self.answer(stream, Response::Error(ServerError::new(kind, "no"))).await;
    }

    async fn send(&mut self, frame: &[u8]) {
        let mut out = BytesMut::new();
        match &mut self.segments {
            None => out.extend_from_slice(frame),
            Some((_, writer)) => {
                writer.push(frame, &mut out, &mut self.scratch);
                writer.close(&mut out, &mut self.scratch);
            }
        }
        self.raw(&out).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("writable");
    }

    /// The client hangs up.
    async fn ended(mut self) {
        while self.socket.read_buf(&mut self.input).await.is_ok_and(|read| read > 0) {}
    }
}

fn keyspace(name: &str) -> Response<'_> {
    Response::Result(Outcome::SetKeyspace(name))
}

fn said(answer: &Answer) -> String {
    match answer.outcome() {
        Outcome::SetKeyspace(name) => name.to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The answer to PREPARE: no markers, no columns.
async fn prepared(peer: &mut Peer, asked: &Asked, id: &[u8]) {
    assert_eq!(asked.opcode, Opcode::Prepare);
    let mut message = vec![0, 0, 0, 4];
    message.extend([0, id.len() as u8]);
    message.extend(id);
    // Markers: flags, columns, key; result: flags, columns.
    message.extend([0; 12]);
    message.extend([0, 0, 0, 4, 0, 0, 0, 0]);
    let mut frame = BytesMut::new();
    let envelope = Envelope::new(peer.version, asked.stream, Opcode::Result);
    let put = |out: &mut BytesMut| {
        out.extend_from_slice(&message);
        Ok(())
    };
    envelope.put(&mut frame, put).expect("put");
    peer.send(&frame).await;
}

async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, Address { host: "127.0.0.1".to_owned(), port })
}

fn settings() -> Settings {
    Settings { message_bytes_max: LIMIT, ..Settings::default() }
}

fn one() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}

async fn connected(settings: &Settings, version: Version) -> (Client, Peer) {
    let (listener, address) = listener().await;
    let connect = Client::connect_with(settings, &address, version, None);
    let (client, peer) = tokio::join!(connect, Peer::ready(&listener, version));
    (client.expect("connected"), peer)
}

/// A call, started and then forgotten when the peer has it.
async fn abandoned(client: &Client, peer: &mut Peer) -> Asked {
    let one = one();
    tokio::select! {
        asked = peer.asked() => asked,
        answer = client.query("SLOW", &one) => panic!("answered: {answer:?}"),
    }
}

#[tokio::test]
async fn answers_reach_their_callers_whatever_their_order() {
    for version in [Version::V4, Version::V5] {
        let (client, mut peer) = connected(&settings(), version).await;
        let (one, two) = (one(), one());
        let first = client.query("FIRST", &one);
        let second = client.query("SECOND", &two);
        let serve = async {
            let mut all = Vec::new();
            while all.len() < 2 {
                all.extend(peer.asked_of_many().await);
            }
            while let Some(asked) = all.pop() {
                peer.answer(asked.stream, keyspace(asked.text())).await;
            }
        };
        let (first, second, ()) = tokio::join!(first, second, serve);
        assert_eq!(
            (said(&first.expect("answered")), said(&second.expect("answered"))),
            ("FIRST".into(), "SECOND".into())
        );
    }
}

impl Peer {
    /// The requests of one segment, or one request.
    async fn asked_of_many(&mut self) -> Vec<Asked> {
        loop {
            if let Some((reader, _)) = &mut self.segments
                && let Some(segment) = reader.next(&self.input, &mut self.scratch).expect("a segment")
            {
                let asked = Frames::new(segment.frames, From::Client, LIMIT).map(|frame| {
                    let frame = frame.expect("a request");
                    let message = Bytes::copy_from_slice(frame.body());
                    Asked { stream: frame.header.stream, opcode: frame.header.opcode, message }
                });
                let (asked, size) = (asked.collect(), segment.bytes.len());
                drop(self.input.split_to(size));
                return asked;
            }
            if self.segments.is_none()
                && let Some(asked) = self.take()
            {
                return vec![asked];
            }
            assert_ne!(self.socket.read_buf(&mut self.input).await.expect("readable"), 0, "the client hung up");
        }
    }
}

#[tokio::test]
async fn a_late_answer_is_nobody_elses_and_its_id_is_not_used_before_it_came() {
    let (client, mut peer) = connected(&settings(), Version::V4).await;
    let late = abandoned(&client, &mut peer).await;
    let serve = async {
        let next = peer.asked().await;
        assert_ne!(next.stream, late.stream);
        peer.answer(late.stream, keyspace("late")).await;
        peer.answer(next.stream, keyspace("next")).await;
    };
    let (answer, ()) = {
        let one = one();
        let call = client.query("NEXT", &one);
        tokio::join!(call, serve)
    };
    assert_eq!(said(&answer.expect("answered")), "next");
    // Now that it came, the id is free again.
    let one = one();
    let (answer, asked) = tokio::join!(client.query("THIRD", &one), async {
        let asked = peer.asked().await;
        peer.answer(asked.stream, keyspace("third")).await;
        asked
    });
    assert_eq!(said(&answer.expect("answered")), "third");
    assert!(asked.stream <= late.stream + 1);
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_given_up() {
    let settings = Settings { orphans_max: 3, ..settings() };
    let (client, mut peer) = connected(&settings, Version::V4).await;
    for _ in 0..3 {
        abandoned(&client, &mut peer).await;
    }
    client.lost().await;
    let error = client.query("NEXT", &one()).await.expect_err("it is lost");
    assert!(matches!(error, Error::Lost(_)), "{error}");
    peer.ended().await;
}

#[tokio::test]
async fn orphans_take_room_and_who_finds_none_was_never_sent() {
    let settings = Settings { in_flight_max: 1, request_timeout: Duration::from_millis(50), ..settings() };
    let (client, mut peer) = connected(&settings, Version::V4).await;
    let asked = abandoned(&client, &mut peer).await;
    let error = client.query("NEXT", &one()).await.expect_err("no room");
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert_eq!(error.outcome(Kind::Counter), Known::Absent);
    peer.answer(asked.stream, keyspace("late")).await;
    let error = client.query("THIRD", &one()).await.expect_err("no answer");
    assert!(matches!(error, Error::NoAnswer(_)), "{error}");
    assert_eq!(peer.asked().await.text(), "THIRD");
}

/// What the peer does to a connection on which one request is under way; what the caller is told.
async fn told<F: Future<Output = Peer>>(version: Version, ill: impl FnOnce(Peer, Asked) -> F) -> String {
    let (client, mut peer) = connected(&settings(), version).await;
    let one = one();
    let (answer, peer) = tokio::join!(client.query("Q", &one), async {
        let asked = peer.asked().await;
        ill(peer, asked).await
    });
    let error = answer.expect_err("an error");
    client.lost().await;
    peer.ended().await;
    assert_eq!(error.outcome(Kind::Single), Known::Unknown);
    error.to_string()
}

#[tokio::test]
async fn what_breaks_a_connection_is_told_to_those_who_wait() {
    let closed = told(Version::V4, async |mut peer: Peer, _| {
        peer.socket.shutdown().await.expect("shut");
        peer
    });
    assert_eq!(closed.await, "the connection was lost: the server closed it");
    let large = told(Version::V4, async |mut peer: Peer, asked: Asked| {
        let header =
            Header { version: Version::V4, flags: 0, stream: asked.stream, opcode: Opcode::Result, len: LIMIT + 1 };
        peer.raw(&header.encode()).await;
        peer
    });
    assert!(large.await.contains("exceeds maximum allowed length"));
    let strange = told(Version::V4, async |mut peer: Peer, asked: Asked| {
        peer.answer(asked.stream + 7, keyspace("k")).await;
        peer
    });
    assert!(strange.await.contains("on which nothing was asked"));
    let refused = told(Version::V4, async |mut peer: Peer, _| {
        peer.refuse(0, ErrorKind::Protocol).await;
        peer
    });
    assert_eq!(refused.await, "the connection was lost: 0x000a no");
    let garbled = told(Version::V5, async |mut peer: Peer, asked: Asked| {
        let (mut frame, mut out) = (BytesMut::new(), BytesMut::new());
        keyspace("k").put_frame(&mut frame, Version::V5, asked.stream).expect("put");
        let mut writer = segment::Writer::new(Form::Plain);
        writer.push(&frame, &mut out, &mut peer.scratch);
        writer.close(&mut out, &mut peer.scratch);
        out[9] ^= 1;
        peer.raw(&out).await;
        peer
    });
    assert!(garbled.await.contains("CRC mismatch detected in frame body"));
}

#[tokio::test]
async fn an_older_version_is_spoken_where_the_newer_is_refused() {
    let (listener, address) = listener().await;
    let serve = async {
        let mut newer = Peer::accept(&listener, Version::V5).await;
        let startup = newer.asked().await;
        // In the version that the server knows, as servers do.
        newer.version = Version::V4;
        newer.refuse(startup.stream, ErrorKind::Protocol).await;
        Peer::ready(&listener, Version::V4).await
    };
    let settings = settings();
    let (client, _peer) = tokio::join!(Client::connect(&settings, &address), serve);
    assert_eq!(client.expect("connected").version(), Version::V4);
}

#[tokio::test]
async fn a_login_says_name_and_password_and_nothing_shows_them() {
    let settings = Settings { user: "me".to_owned(), password: Some("hunter2".to_owned()), ..settings() };
    assert!(!format!("{settings:?}").contains("hunter2"));
    let (listener, address) = listener().await;
    let serve = async |settings: Settings, good: bool| {
        let asked = async {
            let mut peer = Peer::accept(&listener, Version::V5).await;
            let startup = peer.asked().await;
            peer.answer(startup.stream, Response::Authenticate("PasswordAuthenticator")).await;
            peer.agree();
            if settings.user.is_empty() {
                return Bytes::new();
            }
            let token = peer.asked().await;
            match good {
                true => peer.answer(token.stream, Response::AuthSuccess(request::Token(None))).await,
                false => peer.refuse(token.stream, ErrorKind::Authentication).await,
            }
            token.message
        };
        tokio::join!(Client::connect(&settings, &address), asked)
    };
    let (client, token) = serve(settings.clone(), true).await;
    assert_eq!(client.expect("a login").version(), Version::V5);
    assert_eq!(&token[..], b"\0\0\0\x0b\0me\0hunter2");
    let (client, _) = serve(settings, false).await;
    assert_eq!(client.expect_err("refused").code(), Some(wire::response::code::AUTHENTICATION));
    let (client, _) = serve(self::settings(), false).await;
    assert!(client.expect_err("nobody to log in as").to_string().contains("no `user` is configured"));
}

#[tokio::test]
async fn what_a_server_forgot_is_prepared_again() {
    let (client, mut peer) = connected(&settings(), Version::V4).await;
    let serve = async {
        let first = peer.asked().await;
        prepared(&mut peer, &first, b"id").await;
        for opcode in [Opcode::Execute, Opcode::Batch] {
            let asked = peer.asked().await;
            assert_eq!(asked.opcode, opcode);
            peer.refuse(asked.stream, ErrorKind::Unprepared { id: b"id" }).await;
            let again = peer.asked().await;
            assert_eq!(again.text(), "INSERT");
            prepared(&mut peer, &again, b"id").await;
            let asked = peer.asked().await;
            assert_eq!(asked.opcode, opcode);
            peer.answer(asked.stream, keyspace("done")).await;
        }
    };
    let ask = async {
        let statement = client.prepare("INSERT", None).await.expect("prepared");
        assert!(Arc::ptr_eq(&client.prepare("INSERT", None).await.expect("known"), &statement));
        let parameters = one();
        assert_eq!(said(&client.execute(&statement, &parameters).await.expect("executed")), "done");
        let member = Member { text: MemberText::Prepared(&statement), values: Values::Given(&[(None, Value::Null)]) };
        let answer = client.batch(BatchKind::Logged, &[member], &parameters).await.expect("executed");
        assert_eq!(said(&answer), "done");
    };
    tokio::join!(serve, ask);
}

/// Cassandra's cache admits by frequency: when it is full, what is new is forgotten as soon as it was prepared.
#[tokio::test]
async fn what_a_server_has_no_room_for_goes_as_its_text() {
    const ASKED: [(&str, Opcode); 2] = [("INSERT", Opcode::Execute), ("UPDATE", Opcode::Batch)];
    let (client, mut peer) = connected(&settings(), Version::V4).await;
    let serve = async {
        let told = |asked: &Asked, text: &str| asked.message.windows(text.len()).any(|some| some == text.as_bytes());
        for (text, opcode) in ASKED {
            // Prepared, and prepared again once, both in vain.
            for _ in 0..2 {
                let asked = peer.asked().await;
                assert_eq!(asked.text(), text);
                prepared(&mut peer, &asked, b"id").await;
                let asked = peer.asked().await;
                assert_eq!((asked.opcode, told(&asked, text)), (opcode, false));
                peer.refuse(asked.stream, ErrorKind::Unprepared { id: b"id" }).await;
            }
            // Then in full, the next one at once.
            for _ in 0..2 {
                let asked = peer.asked().await;
                let in_full = if opcode == Opcode::Batch { Opcode::Batch } else { Opcode::Query };
                assert_eq!((asked.opcode, told(&asked, text)), (in_full, true));
                peer.answer(asked.stream, keyspace("done")).await;
            }
        }
    };
    let ask = async {
        for (text, opcode) in ASKED {
            for _ in 0..2 {
                let statement = client.prepare(text, None).await.expect("prepared");
                let values = Values::Given(&[(None, Value::Null)]);
                let member = Member { text: MemberText::Prepared(&statement), values };
                let answer = match opcode {
                    Opcode::Batch => client.batch(BatchKind::Logged, &[member], &one()).await,
                    _ => client.execute(&statement, &Parameters { values: Some(values), ..one() }).await,
                };
                assert_eq!(said(&answer.expect("executed")), "done");
            }
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn events_are_handed_over_and_are_no_answers() {
    let (listener, address) = listener().await;
    let (sender, mut events) = mpsc::channel(8);
    let on_event: OnEvent = Arc::new(move |event: &Event<'_>| {
        sender.try_send(format!("{event:?}")).expect("room");
    });
    let settings = settings();
    let connect = Client::connect_with(&settings, &address, Version::V4, Some(on_event));
    let (client, mut peer) = tokio::join!(connect, Peer::ready(&listener, Version::V4));
    let client = client.expect("connected");
    let (registered, ()) = tokio::join!(client.register(&["STATUS_CHANGE"]), async {
        let asked = peer.asked().await;
        assert_eq!(asked.opcode, Opcode::Register);
        let up = Event::Status("UP", ("127.0.0.9".parse().expect("an address"), 9042));
        peer.answer(-1, Response::Event(up)).await;
        peer.answer(asked.stream, Response::Ready).await;
    });
    registered.expect("registered");
    assert!(events.recv().await.expect("an event").contains("127.0.0.9"));
    drop(client);
    peer.ended().await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_whether_something_was_asked_or_not() {
    let settings = Settings { heartbeat: Duration::from_millis(20), ..settings() };
    for version in [Version::V4, Version::V5] {
        // It takes what is sent to it, and hangs.
        let (idle, _peer) = connected(&settings, version).await;
        assert!(idle.fell_silent().await);
        assert!(idle.is_lost());
        let (busy, _peer) = connected(&settings, version).await;
        let error = busy.query("SLOW", &one()).await.expect_err("it hangs");
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert_eq!(error.outcome(Kind::Single), Known::Unknown);
    }
}

#[tokio::test]
async fn a_server_that_says_it_is_there_may_take_its_time() {
    let settings = Settings { heartbeat: Duration::from_millis(300), ..settings() };
    let (client, mut peer) = connected(&settings, Version::V5).await;
    let one = one();
    let serve = async {
        let slow = peer.asked().await;
        assert_eq!(slow.opcode, Opcode::Query);
        for _ in 0..2 {
            let beat = peer.asked().await;
            assert_eq!(beat.opcode, Opcode::Options);
            peer.answer(beat.stream, Response::Ready).await;
        }
        peer.answer(slow.stream, keyspace("late")).await;
    };
    let (answer, ()) = tokio::join!(client.query("SLOW", &one), serve);
    assert_eq!(said(&answer.expect("answered")), "late");
    let silent = client.fell_silent();
    drop(peer);
    assert!(!silent.await, "it hung up");
}
