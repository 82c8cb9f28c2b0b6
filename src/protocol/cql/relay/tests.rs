//! What a relay costs its process, on real sockets; and that it waits for nobody for ever, with time that is made.

use std::future::{pending, ready};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream as Socket;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::allocations;
use crate::cutover::gate::Route;
use crate::journal::Outcome::Committed;
use crate::journal::{Entry, Journal, Lsn};
use crate::protocol::cql::session::framing::{Framing, Outbound, with_scratch};
use crate::protocol::cql::session::tests::{gated, mirrored, passthrough};
use crate::protocol::cql::wire::compress::Compression;
use crate::protocol::cql::wire::frame::{Frame, From};
use crate::protocol::cql::wire::primitive::{Consistency, Value, put_string_list};
use crate::protocol::cql::wire::request::{
    BatchKind, Execute, Parameters, Prepare, Query, Request, Statement, StatementText, Values, put_batch,
};
use crate::protocol::cql::wire::response::{
    Event, Metadata, Outcome, OwnPrepared, Response, SchemaChange, SchemaObject, put_prepared,
};
use crate::protocol::cql::wire::types::{Native, Type};
use crate::protocol::cql::wire::{Envelope, Error, Opcode, Version};

/// Of the prepared statement.
const ID: &[u8] = b"0123456789abcdef";
/// Requests on their way at once.
const FLIGHTS: i16 = 16;

/// Nobody moves here.
struct Nowhere;

impl<S: Send + 'static> Beyond<S> for Nowhere {
    fn reach(&mut self, _: Side, _: Luggage) -> BoxFuture<'static, Result<(S, BytesMut), String>> {
        Box::pin(pending())
    }

    fn is_left(&self, _: Side, _: &S) -> bool {
        false
    }
}

/// A session that is to go somewhere gets there, once.
struct Elsewhere(Option<(DuplexStream, BytesMut)>);

impl Beyond<DuplexStream> for Elsewhere {
    fn reach(&mut self, _: Side, luggage: Luggage) -> BoxFuture<'static, Result<(DuplexStream, BytesMut), String>> {
        assert!(luggage.registered.is_some(), "it is told which events are wanted");
        Box::pin(ready(self.0.take().ok_or_else(|| "it was there before".to_owned())))
    }

    fn is_left(&self, _: Side, _: &DuplexStream) -> bool {
        false
    }
}

/// Connections that are there when the test says so.
struct Late(Vec<oneshot::Receiver<DuplexStream>>);

impl Beyond<DuplexStream> for Late {
    fn reach(&mut self, _: Side, _: Luggage) -> BoxFuture<'static, Result<(DuplexStream, BytesMut), String>> {
        let late = self.0.pop().expect("no more often");
        Box::pin(async { Ok((late.await.map_err(|error| error.to_string())?, BytesMut::new())) })
    }

    fn is_left(&self, _: Side, _: &DuplexStream) -> bool {
        false
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    (near, listener.accept().expect("a client").0)
}

fn socket(stream: TcpStream) -> Socket {
    stream.set_nonblocking(true).expect("a socket");
    Socket::from_std(stream).expect("in a runtime")
}

/// A client, its server, and a relay between them on a thread whose allocations are counted.
struct Ends {
    client: TcpStream,
    server: TcpStream,
    framing: Framing,
}

impl Ends {
    fn new(framing: Framing, count: &'static AtomicU64) -> Ends {
        let ((client, ours), (server, theirs)) = (pair(), pair());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (client, server) = (socket(ours), socket(theirs));
                let (session, stop) = (passthrough(framing), CancellationToken::new());
                allocations::count(count);
                let ends = ((client, BytesMut::new()), (server, BytesMut::new()));
                Relay::new(ends.0, ends.1, session, Nowhere, stop).run().await;
            });
        });
        Ends { client, server, framing }
    }

    /// Frames as a peer's writer would send them together.
    fn wrap(&self, frames: &[BytesMut], from: From) -> Vec<u8> {
        let mut out = Outbound::bare();
        out.agree(self.framing);
        for frame in frames {
            let mut packed = BytesMut::new();
            let whole = Frame::split(frame, from, 1 << 20).expect("a frame").expect("all of it");
            match self.framing.compression.filter(|_| self.framing.version < Version::V5) {
                Some(compression) => with_scratch(|scratch| scratch.compress(whole, compression, &mut packed)),
                None => packed.extend_from_slice(frame),
            }
            out.push(&packed);
        }
        out.ready().to_vec()
    }

    fn frame(&self, stream: i16, opcode: Opcode, put: impl FnOnce(&mut BytesMut) -> Result<(), Error>) -> BytesMut {
        let mut out = BytesMut::new();
        Envelope::new(self.framing.version, stream, opcode).put(&mut out, put).expect("short");
        out
    }

    fn request(&self, stream: i16, request: Request<'_>) -> BytesMut {
        self.frame(stream, request.opcode(), |out| request.put(out, self.framing.version))
    }

    /// These requests arrive there, and these answers here, as they were sent.
    fn exchange(&mut self, (requests, answers): &(Vec<u8>, Vec<u8>)) {
        self.client.write_all(requests).expect("it reads");
        arrives(&mut self.server, requests);
        self.server.write_all(answers).expect("it reads");
        arrives(&mut self.client, answers);
    }

    fn prepare(&mut self) {
        let prepare =
            self.request(0, Request::Prepare(Prepare { text: b"INSERT INTO t (k) VALUES (?)", keyspace: None }));
        let version = self.framing.version;
        let own = OwnPrepared {
            id: ID,
            result_metadata_id: b"m",
            pk_indexes: &[0],
            table: ("shop", "t"),
            markers: &[("k", &Type::Native(Native::Int))],
        };
        let prepared = self.frame(0, Opcode::Result, |out| put_prepared(out, version, &own, &Metadata::none(version)));
        self.exchange(&(self.wrap(&[prepare], From::Client), self.wrap(&[prepared], From::Server)));
    }

    /// Each kind of request that comes again and again, and answers to all of them.
    fn work(&self) -> (Vec<u8>, Vec<u8>) {
        let values = [(None, Value::Set(&[0; 4])), (None, Value::Set(&[b'v'; 200]))];
        let values = Values::Given(&values);
        let parameters = Parameters::new(Consistency::LocalQuorum);
        let valued = Parameters { values: Some(values), ..parameters };
        let request = |stream: i16| match stream % 3 {
            0 => {
                self.request(stream, Request::Query(Query { text: b"SELECT v FROM t WHERE k = ?", parameters: valued }))
            }
            1 => {
                let execute = Execute { id: ID, result_metadata_id: Some(b"m"), parameters: valued };
                self.request(stream, Request::Execute(execute))
            }
            _ => {
                let one = Statement { text: StatementText::Prepared(ID), values };
                let version = self.framing.version;
                let put = |out: &mut BytesMut| put_batch(out, version, BatchKind::Logged, &[one, one], &parameters);
                self.frame(stream, Opcode::Batch, put)
            }
        };
        let requests: Vec<BytesMut> = (0..FLIGHTS).map(request).collect();
        let answer = |stream| {
            let mut out = BytesMut::new();
            let void = Response::Result(Outcome::Void);
            void.put_frame(&mut out, self.framing.version, stream).expect("short");
            out
        };
        let answers: Vec<BytesMut> = (0..FLIGHTS).map(answer).collect();
        (self.wrap(&requests, From::Client), self.wrap(&answers, From::Server))
    }
}

fn arrives(stream: &mut TcpStream, expected: &[u8]) {
    let mut all = vec![0; expected.len()];
    stream.read_exact(&mut all).expect("it is sent");
    assert!(all == expected, "the relay changed what it has to pass on");
}

#[test]
fn what_is_passed_on_costs_no_allocation() {
    for (version, compression) in [
        (Version::V3, None),
        (Version::V4, None),
        (Version::V4, Some(Compression::Lz4)),
        (Version::V4, Some(Compression::Snappy)),
        (Version::V5, None),
        (Version::V5, Some(Compression::Lz4)),
    ] {
        let count: &'static AtomicU64 = Box::leak(Box::default());
        let mut ends = Ends::new(Framing { version, compression }, count);
        ends.prepare();
        let work = ends.work();
        (0..20).for_each(|_| ends.exchange(&work));
        let before = count.load(SeqCst);
        (0..200).for_each(|_| ends.exchange(&work));
        assert_eq!(count.load(SeqCst) - before, 0, "{version}, {compression:?}: allocations of 200 rounds");
    }
}

const V4: Framing = Framing { version: Version::V4, compression: None };
/// Longer than anything that happens here, in time that is made.
const LONG: Duration = Duration::from_secs(60);

/// A relay with a client and a server that the test plays, each with so much room in both directions.
fn between(room: usize, stop: &CancellationToken) -> (DuplexStream, DuplexStream) {
    beside(room, stop, Nowhere)
}

fn beside(
    room: usize,
    stop: &CancellationToken,
    beyond: impl Beyond<DuplexStream> + 'static,
) -> (DuplexStream, DuplexStream) {
    around(room, stop, passthrough(V4), beyond)
}

fn around(
    room: usize,
    stop: &CancellationToken,
    session: Session,
    beyond: impl Beyond<DuplexStream> + 'static,
) -> (DuplexStream, DuplexStream) {
    let ((client, ours), (server, theirs)) = (duplex(room), duplex(room));
    let ends = ((ours, BytesMut::new()), (theirs, BytesMut::new()));
    tokio::spawn(Relay::new(ends.0, ends.1, session, beyond, stop.clone()).run());
    (client, server)
}

fn framed(stream: i16, opcode: Opcode, put: impl FnOnce(&mut BytesMut) -> Result<(), Error>) -> BytesMut {
    let mut out = BytesMut::new();
    Envelope::new(V4.version, stream, opcode).put(&mut out, put).expect("short");
    out
}

fn read(stream: i16) -> BytesMut {
    let query = Request::Query(Query { text: b"SELECT v FROM t", parameters: Parameters::new(Consistency::One) });
    framed(stream, Opcode::Query, |out| query.put(out, V4.version))
}

/// With so many bytes in it that mean nothing.
fn answer(stream: i16, bytes: usize) -> BytesMut {
    framed(stream, Opcode::Result, |out| {
        out.resize(out.len() + bytes, 0);
        Ok(())
    })
}

fn event(table: &str) -> BytesMut {
    let change = SchemaChange { change: "CREATED", keyspace: "shop", object: SchemaObject::Table(table) };
    framed(-1, Opcode::Event, |out| Event::Schema(change).put(out, V4.version))
}

#[tokio::test(start_paused = true)]
async fn a_request_after_a_pause_is_answered_though_the_server_never_does() {
    let (mut client, _silent) = between(4 << 10, &CancellationToken::new());
    // Whatever was to wake the relay has done so by now.
    sleep(10 * SWEEP).await;
    let asked = Instant::now();
    client.write_all(&read(7)).await.expect("it reads");
    let mut answer = [0; 9];
    timeout(LONG, client.read_exact(&mut answer)).await.expect("in bounded time").expect("an answer");
    assert_eq!((answer[0], &answer[2..5]), (0x84, &[0, 7, 0][..]), "an error on its stream");
    assert!(asked.elapsed() <= Duration::from_secs(10) + 2 * SWEEP, "{:?}", asked.elapsed());
}

/// It is killed; its answers meet a closed port.
#[tokio::test(start_paused = true)]
async fn what_a_client_wrote_that_broke_off_ends_as_its_server_says_promise_3() {
    let journal = Journal::in_memory();
    let session = mirrored(V4, journal.clone());
    let (mut client, mut server) = around(4 << 10, &CancellationToken::new(), session, Nowhere);
    let text = b"INSERT INTO t (k, v) VALUES (1, 'x')";
    let write = Request::Query(Query { text, parameters: Parameters::new(Consistency::LocalQuorum) });
    let write = framed(1, Opcode::Query, |out| write.put(out, V4.version));
    client.write_all(&[&write[..], &read(2)].concat()).await.expect("it reads");
    let mut asked = vec![0; read(2).len()];
    while !asked.ends_with(&read(2)) {
        asked.push(server.read_u8().await.expect("it is asked"));
    }
    drop(client);
    server.write_all(&answer(2, 0)).await.expect("it reads");
    // Whatever was to end the relay has done so by now.
    sleep(3 * SWEEP).await;
    let void = framed(1, Opcode::Result, |out| {
        out.extend_from_slice(&1_i32.to_be_bytes());
        Ok(())
    });
    server.write_all(&void).await.expect("it is still there");
    assert_eq!(timeout(LONG, server.read_u8()).await.expect("it leaves").ok(), None);
    let (entries, _) = journal.read(Lsn(0), 1 << 20).await.expect("in memory");
    let ends: Vec<_> = entries.iter().filter(|entry| !matches!(entry, Entry::Record { .. })).collect();
    assert!(matches!(ends[..], [Entry::Outcome { outcome: Committed, .. }]), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_longer_than_its_client_is_there_is_never_sent() {
    for is_broken in [false, true] {
        let (session, gate) = gated(V4);
        let (mut client, mut server) = around(4 << 10, &CancellationToken::new(), session, Nowhere);
        client.write_all(&read(1)).await.expect("it reads");
        server.read_exact(&mut read(1)).await.expect("it is asked");
        gate.close();
        client.write_all(&read(2)).await.expect("it reads");
        match is_broken {
            true => drop(client),
            false => client.shutdown().await.expect("closed"),
        }
        sleep(2 * ABANDONED).await;
        assert_eq!((gate.held(), gate.inside()), (0, 1), "what is on its way is waited for, and nothing else");
        gate.open(gate.route());
        sleep(SWEEP).await;
        server.write_all(&answer(1, 0)).await.expect("it is still there");
        let mut more = Vec::new();
        timeout(LONG, server.read_to_end(&mut more)).await.expect("it leaves").expect("the end");
        assert!(more.is_empty(), "it was asked: {}", more.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_moment_is_sent_though_its_client_has_left() {
    let (session, gate) = gated(V4);
    let (mut client, mut server) = around(4 << 10, &CancellationToken::new(), session, Nowhere);
    gate.close();
    client.write_all(&read(2)).await.expect("it reads");
    client.shutdown().await.expect("closed");
    sleep(ABANDONED / 2).await;
    gate.open(gate.route());
    let mut asked = read(2);
    timeout(LONG, server.read_exact(&mut asked)).await.expect("in bounded time").expect("it is asked");
    assert_eq!(asked, read(2));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_read_no_further_than_to_notice_that_it_leaves() {
    let (session, gate) = gated(V4);
    let (mut client, _server) = around(4 << 10, &CancellationToken::new(), session, Nowhere);
    gate.close();
    let (chunk, mut sent) = (read(2), 0);
    while sent < 64 << 20 && timeout(LONG, client.write_all(&chunk)).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 2 * READ_BYTES, "{sent} bytes were taken of a client that waits");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_is_given_up_when_what_it_was_asked_is_overdue() {
    let (connected, late) = oneshot::channel();
    let (mut client, _deaf) = beside(4 << 10, &CancellationToken::new(), Late(vec![late]));
    let text = format!("SELECT v FROM t WHERE k = '{}'", "x".repeat(20 << 10));
    let parameters = Parameters::new(Consistency::One);
    let asked = |stream| {
        let query = Request::Query(Query { text: text.as_bytes(), parameters });
        framed(stream, Opcode::Query, |out| query.put(out, V4.version))
    };
    // More than is read ahead of a server that does not take it.
    for stream in 0..13 {
        client.write_all(&asked(stream)).await.expect("it reads");
    }
    let mut told = 0;
    while told < 13 {
        let mut head = [0; 9];
        timeout(LONG, client.read_exact(&mut head)).await.expect("in bounded time").expect("an answer");
        let rest = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
        client.read_exact(&mut vec![0; rest]).await.expect("all of it");
        assert_eq!(head[4], 0, "an error");
        told += 1;
    }
    client.write_all(&read(7)).await.expect("it reads");
    let (mut next, theirs) = duplex(4 << 10);
    connected.send(theirs).expect("it is waited for");
    let mut seen = read(7);
    timeout(LONG, next.read_exact(&mut seen)).await.expect("in bounded time").expect("it is asked");
    assert_eq!(seen, read(7));
}

#[tokio::test(start_paused = true)]
async fn what_a_client_asks_while_it_does_not_read_is_asked_when_it_does() {
    let (mut client, mut server) = between(2 * BACKLOG_BYTES, &CancellationToken::new());
    let page = answer(1, 3 * BACKLOG_BYTES + READ_BYTES);
    client.write_all(&read(1)).await.expect("it reads");
    server.read_exact(&mut [0; 9]).await.expect("it is asked");
    server.write_all(&page).await.expect("it reads");
    // Whatever was to wake the relay has done so by now, and again after the second request.
    sleep(3 * SWEEP).await;
    client.write_all(&read(2)).await.expect("there is room");
    sleep(3 * SWEEP).await;
    let mut told = vec![0; page.len()];
    client.read_exact(&mut told).await.expect("the page");
    assert!(told == page, "the relay changed what it has to pass on");
    let mut asked = vec![0; 2 * read(1).len() - 9];
    timeout(LONG, server.read_exact(&mut asked)).await.expect("it is asked").expect("it is asked");
    assert!(asked.ends_with(&read(2)));
}

/// A client that asks this often and takes nothing, while the gate is closed for a switch, and its server.
async fn deaf(requests: i16, bytes: usize) -> (DuplexStream, DuplexStream) {
    let (session, gate) = gated(V4);
    let (mut client, mut server) = around(4 << 10, &CancellationToken::new(), session, Nowhere);
    for stream in 0..requests {
        client.write_all(&read(stream)).await.expect("it reads");
        server.read_exact(&mut read(stream)).await.expect("it is asked");
    }
    let serving = tokio::spawn(async move {
        for stream in 0..requests {
            server.write_all(&answer(stream, bytes)).await.expect("it reads");
        }
        server
    });
    sleep(10 * SWEEP).await;
    assert!(gate.inside() > 0, "nobody waits: it may take its time");
    gate.close();
    timeout(STALL + 2 * SWEEP, gate.drained()).await.expect("the switch waits for no client that takes nothing");
    (client, serving.await.expect("no panic"))
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_is_under_way_waits_for_no_client_that_takes_nothing_promise_9() {
    let (mut client, _server) = deaf(8, 2 * BACKLOG_BYTES).await;
    let mut told = answer(0, 2 * BACKLOG_BYTES);
    for stream in 0..8 {
        timeout(LONG, client.read_exact(&mut told)).await.expect("in bounded time").expect("an answer");
        assert!(told == answer(stream, 2 * BACKLOG_BYTES), "nothing is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_very_much_is_hung_up_on_where_others_wait() {
    let (mut client, _server) = deaf(40, 2 * BACKLOG_BYTES).await;
    let mut told = Vec::new();
    timeout(LONG, client.read_to_end(&mut told)).await.expect("in bounded time").expect("the end");
    assert!(told.len() < 40 * 2 * BACKLOG_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_rests_is_answered_what_was_read_and_no_more_when_tandem_stops() {
    let stop = CancellationToken::new();
    let (mut client, mut server) = between(4 << 10, &stop);
    let serving = tokio::spawn(async move {
        let mut asked = read(0);
        let mut served = 0;
        while server.read_exact(&mut asked).await.is_ok() {
            // So that there are always some behind it.
            sleep(Duration::from_millis(5)).await;
            server.write_all(&answer(i16::from_be_bytes([asked[2], asked[3]]), 0)).await.expect("it reads");
            served += 1;
        }
        served
    });
    for stream in 0..FLIGHTS {
        client.write_all(&read(stream)).await.expect("it reads");
    }
    let mut told = [0; 9];
    let mut answered = 0;
    let all = async {
        while client.read_exact(&mut told).await.is_ok() {
            answered += 1;
            if answered == 100 {
                stop.cancel();
            }
            // It may have ended by now.
            let _ = client.write_all(&read(i16::from_be_bytes([told[2], told[3]]))).await;
        }
    };
    timeout(LONG, all).await.expect("it ends");
    drop(client);
    assert_eq!(serving.await.expect("no panic"), answered);
}

#[tokio::test]
async fn what_a_client_was_told_reaches_it_though_it_asked_for_more_when_tandem_stopped() {
    let ((client, ours), (server, theirs)) = (pair(), pair());
    let [mut client, ours, mut server, theirs] = [client, ours, server, theirs].map(socket);
    // Larger than the answer, which is larger than what a client takes that does not read.
    socket2::SockRef::from(&ours).set_send_buffer_size(8 * READ_BYTES).expect("a socket");
    let page = answer(1, 2 * READ_BYTES);
    let stop = CancellationToken::new();
    let ends = ((ours, BytesMut::new()), (theirs, BytesMut::new()));
    tokio::spawn(Relay::new(ends.0, ends.1, passthrough(V4), Nowhere, stop.clone()).run());
    client.write_all(&read(1)).await.expect("it reads");
    let mut asked = read(0);
    server.read_exact(&mut asked).await.expect("it is asked");
    stop.cancel();
    // One thread: the relay has heard of it.
    tokio::task::yield_now().await;
    client.write_all(&read(2)).await.expect("there is room");
    server.write_all(&page).await.expect("it reads");
    let mut told = vec![0; 9];
    client.read_exact(&mut told).await.expect("an answer");
    assert_eq!(server.read(&mut asked).await.expect("it ends"), 0, "the second request came too late");
    client.read_to_end(&mut told).await.expect("all of it, and the end");
    assert!(told == page, "{} bytes of {}", told.len(), page.len());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_listens_hears_of_what_happens_after_its_server_was_lost() {
    let (mut next, theirs) = duplex(4 << 10);
    // It was heard of while the connection was made.
    let beyond = Elsewhere(Some((theirs, event("one"))));
    let (mut client, mut server) = beside(4 << 10, &CancellationToken::new(), beyond);
    register(&mut client, &mut server).await;
    drop(server);
    hears(&mut client, "one").await;
    next.write_all(&event("two")).await.expect("it reads");
    hears(&mut client, "two").await;
}

/// The client asks to be told of the schema's changes, and is granted it.
async fn register(client: &mut DuplexStream, server: &mut DuplexStream) {
    let register = framed(1, Opcode::Register, |out| put_string_list(out, ["SCHEMA_CHANGE"].into_iter(), "kinds"));
    client.write_all(&register).await.expect("it reads");
    server.read_exact(&mut register.clone()).await.expect("it is asked");
    let registered = framed(1, Opcode::Ready, |_| Ok(()));
    server.write_all(&registered).await.expect("it reads");
    client.read_exact(&mut registered.clone()).await.expect("an answer");
}

async fn hears(client: &mut DuplexStream, table: &str) {
    let expected = event(table);
    let mut told = expected.clone();
    timeout(LONG, client.read_exact(&mut told)).await.expect("in bounded time").expect("an event");
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_listens_follows_a_switch_when_the_gate_opens() {
    let (mut next, theirs) = duplex(4 << 10);
    let (session, gate) = gated(V4);
    let (mut client, mut server) =
        around(4 << 10, &CancellationToken::new(), session, Elsewhere(Some((theirs, BytesMut::new()))));
    register(&mut client, &mut server).await;
    gate.close();
    server.write_all(&event("before")).await.expect("it reads");
    hears(&mut client, "before").await;
    // A switch that was called off.
    gate.open(gate.route());
    server.write_all(&event("still")).await.expect("it reads");
    hears(&mut client, "still").await;
    gate.close();
    gate.open(Route { primary: Side::Target, ..gate.route() });
    let ended = timeout(LONG, server.read(&mut [0; 1])).await.expect("in bounded time");
    assert_eq!(ended.expect("no error"), 0, "it is left");
    next.write_all(&event("behind")).await.expect("it reads");
    hears(&mut client, "behind").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_listens_stays_where_it_is_if_the_switch_went_back_before_it_could_follow() {
    let ((connected, late), (connected_then, later)) = (oneshot::channel(), oneshot::channel());
    let (session, gate) = gated(V4);
    let beyond = Late(vec![later, late]);
    let (mut client, mut server) = around(4 << 10, &CancellationToken::new(), session, beyond);
    register(&mut client, &mut server).await;
    let turn = |primary| {
        gate.close();
        gate.open(Route { primary, ..gate.route() });
    };
    turn(Side::Target);
    // It is being connected by then.
    sleep(SWEEP).await;
    turn(Side::Origin);
    client.write_all(&read(7)).await.expect("it reads");
    server.read_exact(&mut read(7)).await.expect("it is asked");
    connected.send(duplex(4 << 10).0).expect("it is waited for");
    sleep(SWEEP).await;
    server.write_all(&answer(7, 3)).await.expect("it is still there");
    let mut told = answer(7, 3);
    timeout(LONG, client.read_exact(&mut told)).await.expect("in bounded time").expect("an answer");
    assert_eq!(told, answer(7, 3));
    turn(Side::Target);
    let (mut next, theirs) = duplex(4 << 10);
    connected_then.send(theirs).expect("it is waited for");
    next.write_all(&event("behind")).await.expect("it reads");
    hears(&mut client, "behind").await;
}
