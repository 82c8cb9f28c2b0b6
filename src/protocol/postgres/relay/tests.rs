//! Peers that are slow, rude or gone, over in-memory pipes and paused time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client, server};

use super::*;
use crate::net::tls::{self, SslMode, Tls};
use crate::protocol::postgres::rig::{self, MESSAGE_BYTES_MAX, shared};
use crate::protocol::postgres::session::OWED_MAX;
use crate::protocol::postgres::shared::Shared;
use crate::protocol::postgres::wire::{HEADER, back};
use crate::record::Backend;

/// What a pipe holds.
const PIPE: usize = 4096;
/// Paused time passes at once where nothing else can happen.
const LONG: Duration = Duration::from_secs(3600);

/// Both peers of a relay that runs.
struct Peers {
    client: DuplexStream,
    server: DuplexStream,
    shared: Arc<Shared>,
    cancelled: Cancelled,
    stop: CancellationToken,
    relay: JoinHandle<()>,
}

/// How often a statement was cancelled, and whether its primary is given up.
#[derive(Clone, Default)]
struct Cancelled(Arc<AtomicUsize>, Arc<AtomicBool>, Arc<Asked>);

/// Who wants what a client waits for to be cancelled.
#[derive(Default)]
struct Asked(Mutex<Option<oneshot::Sender<bool>>>, AtomicWaker);

impl<S: Send + 'static> Beyond<S> for Cancelled {
    fn cancel(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn register(&self, waker: &Waker) {
        self.2.1.register(waker);
    }

    fn heed(&mut self, rest: Rest) -> Heed {
        if let Some(asked) = self.2.0.lock().expect("no panic").take() {
            return Heed::Cancel(asked);
        }
        match rest == Rest::Busy && self.1.load(Ordering::Relaxed) {
            true => Heed::Leave(Stranded::GivenUp),
            false => Heed::Nothing,
        }
    }

    fn look(&mut self, server: S, _: Luggage) -> Detour<S> {
        Box::pin(async move { Ok(Arrived::back(server)) })
    }

    fn open(&mut self, _: Luggage) {}

    fn relocate(&mut self, _: S, _: Side, _: Luggage) -> Detour<S> {
        Box::pin(async { Err(Stranded::Unreachable("nobody moves here".into())) })
    }
}

impl Peers {
    fn new() -> Peers {
        Peers::over(shared())
    }

    fn over(shared: Arc<Shared>) -> Peers {
        let ((client, theirs), (ours, server)) = (duplex(PIPE), duplex(PIPE));
        let (cancelled, stop) = (Cancelled::default(), CancellationToken::new());
        let session = Session::new(shared.clone(), Backend { id: 7, life: 1 });
        let relay = Box::new(Relay::new(theirs, ours, session, cancelled.clone(), stop.clone()));
        Peers { client, server, shared, cancelled, stop, relay: tokio::spawn(relay.run()) }
    }

    /// A client that waits for room in a journal which has none, in autocommit.
    async fn without_room() -> Peers {
        let mut peers = Peers::over(rig::changed(rig::narrow));
        peers.ask("insert into acc values (1, 1, '')").await;
        peers.rested().await;
        peers.shared.journal.sync_now();
        assert_eq!(peers.server_sees(1).await, b"Q");
        peers.server.write_all(&answer("INSERT 0 1")).await.expect("sent");
        peers.rested().await;
        peers.shared.journal.sync_now();
        assert_eq!([message(&mut peers.client).await.0, message(&mut peers.client).await.0], *b"CZ");
        rig::fill(&peers.shared.journal);
        peers.ask("insert into acc values (2, 1, '')").await;
        peers.rested().await;
        assert_eq!(peers.shared.journal.status().waiting, 1, "there is no room");
        peers
    }

    /// Whatever could move has moved.
    async fn rested(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Somebody wants what the client waits for to be cancelled. Was it?
    async fn cancel(&self) -> bool {
        let (asked, cancelled) = oneshot::channel();
        *self.cancelled.2.0.lock().expect("no panic") = Some(asked);
        self.cancelled.2.1.wake();
        timeout(LONG, cancelled).await.expect("it answers").unwrap_or(false)
    }

    async fn ask(&mut self, text: &str) {
        self.client.write_all(&query(text)).await.expect("sent");
    }

    /// What the server gets, message by message, until it has seen `count`.
    async fn server_sees(&mut self, count: usize) -> Vec<u8> {
        let mut kinds = Vec::new();
        while kinds.len() < count {
            kinds.push(message(&mut self.server).await.0);
        }
        kinds
    }

    /// The relay is over, and holds nothing.
    async fn ended(self) {
        timeout(LONG, self.relay).await.expect("it ends").expect("it does not panic");
        assert_eq!(self.shared.gate.inside(), 0);
    }
}

fn query(text: &str) -> BytesMut {
    let mut out = BytesMut::new();
    wire::query(&mut out, text.as_bytes());
    out
}

/// Answers to one statement outside a transaction.
fn answer(tag: &str) -> BytesMut {
    let mut out = BytesMut::new();
    wire::message(&mut out, back::COMMAND_COMPLETE, |b| wire::cstr(b, tag.as_bytes()));
    wire::message(&mut out, back::READY_FOR_QUERY, |b| b.extend_from_slice(b"I"));
    out
}

async fn message(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; HEADER];
    timeout(LONG, stream.read_exact(&mut head)).await.expect("something comes").expect("a message");
    let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
    stream.read_exact(&mut body).await.expect("all of it");
    (head[0], body)
}

/// Everything up to the end of the stream.
async fn rest_of(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    timeout(LONG, stream.read_to_end(&mut all)).await.expect("an end").expect("read");
    all
}

/// How much a peer can send while the other one takes nothing.
async fn taken(stream: &mut DuplexStream, chunk: &[u8], most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        match timeout(LONG, stream.write(&chunk[sent % chunk.len()..])).await {
            Ok(len) => sent += len.expect("it is open"),
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_server_up_and_not_the_memory() {
    let mut peers = Peers::new();
    peers.ask("select * from acc").await;
    assert_eq!(peers.server_sees(1).await, b"Q");
    let mut row = BytesMut::new();
    wire::message(&mut row, back::DATA_ROW, |b| b.extend_from_slice(&[1; 1000]));
    let sent = taken(&mut peers.server, &row, 64 << 20).await;
    assert!(sent < 4 * READ_BYTES, "{sent} bytes were taken for a client that reads nothing");
    // All of it arrives when the client reads on.
    let (mut reader, writer) = tokio::io::split(peers.client);
    let reading = tokio::spawn(async move {
        let mut seen = vec![0; sent];
        reader.read_exact(&mut seen).await.expect("all of it");
        seen
    });
    let seen = reading.await.expect("read");
    assert!(seen.chunks(row.len()).all(|chunk| row.starts_with(chunk)));
    drop(writer);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_holds_the_client_up_and_not_the_memory() {
    let mut peers = Peers::new();
    peers.ask("copy acc from stdin").await;
    peers.server_sees(1).await;
    let mut head = BytesMut::new();
    wire::message(&mut head, back::COPY_IN_RESPONSE, |b| b.extend_from_slice(&[0, 0, 0]));
    peers.server.write_all(&head).await.expect("sent");
    let mut data = BytesMut::new();
    wire::message(&mut data, front::COPY_DATA, |b| b.extend_from_slice(b"41\t1\tx\n"));
    let sent = taken(&mut peers.client, &data, 64 << 20).await;
    assert!(sent < 4 * READ_BYTES, "{sent} bytes were taken for a server that reads nothing");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_on_without_an_answer_is_read_no_further_than_what_it_may_be_owed() {
    let Peers { mut client, server, relay, .. } = Peers::new();
    let (mut asked, mut answers) = tokio::io::split(server);
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let reading = tokio::spawn(async move {
        let mut read = [0; PIPE];
        while let Ok(len @ 1..) = asked.read(&mut read).await {
            counted.fetch_add(len, Ordering::Relaxed);
        }
    });
    let mut syncs = BytesMut::new();
    (0..1000).for_each(|_| wire::bare(&mut syncs, front::SYNC));
    let sent = taken(&mut client, &syncs, HEADER * 1_000_000).await;
    let owed = seen.load(Ordering::Relaxed) / HEADER;
    assert!(owed < 2 * OWED_MAX, "{owed} answers are owed");
    // It is read on when they come.
    let mut ready = BytesMut::new();
    wire::message(&mut ready, back::READY_FOR_QUERY, |b| b.extend_from_slice(b"I"));
    let mut told = vec![0; owed * ready.len()];
    let all = ready.repeat(owed);
    let (written, read) = tokio::join!(answers.write_all(&all), client.read_exact(&mut told));
    written.and(read.map(|_| ())).expect("it relays");
    syncs.rotate_left(sent % HEADER);
    let more = taken(&mut client, &syncs, HEADER * 1_000_000).await;
    assert!(more > sent / 2, "{more} bytes more, behind {sent}");
    relay.abort();
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_is_announced_behind_what_it_sent_and_its_write_is_journaled() {
    let mut peers = Peers::new();
    peers.ask("insert into acc values (1, 1, '')").await;
    peers.client.shutdown().await.expect("half-closed");
    assert_eq!(peers.server_sees(2).await, b"QX");
    assert_eq!(peers.shared.gate.inside(), 1, "the server may still act");
    let appended = peers.shared.journal.appended();
    assert!(appended > crate::journal::Lsn::default(), "the write was journaled before it went on");
    peers.server.write_all(&answer("INSERT 0 1")).await.expect("sent");
    peers.server.shutdown().await.expect("closed");
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_put_inside_a_message_that_a_client_left_in() {
    // Of a message that goes on only whole, nothing was forwarded.
    let mut peers = Peers::new();
    peers.client.write_all(&query("select 1")[..7]).await.expect("sent");
    peers.client.shutdown().await.expect("closed");
    assert_eq!(peers.server_sees(1).await, b"X");
    peers.server.shutdown().await.expect("closed");
    peers.ended().await;

    let mut peers = Peers::new();
    peers.client.write_all(b"d\x00\x00\x10\x001\n2").await.expect("sent");
    peers.client.shutdown().await.expect("closed");
    assert_eq!(
        rest_of(&mut peers.server).await,
        b"d\x00\x00\x10\x001\n2",
        "then the end of the stream, without Terminate"
    );
    peers.server.shutdown().await.expect("closed");
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_statement_whose_client_left_is_cancelled_once_and_keeps_the_gate_until_the_server_is_done() {
    let mut peers = Peers::new();
    peers.ask("select pg_sleep(600)").await;
    peers.client.shutdown().await.expect("closed");
    peers.server_sees(2).await;
    tokio::time::sleep(ABANDONED * 10).await;
    assert_eq!(peers.cancelled.0.load(Ordering::Relaxed), 1);
    assert_eq!(peers.shared.gate.inside(), 1);
    peers.server.shutdown().await.expect("closed");
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_statement_whose_client_left_lets_the_gate_go_when_its_primary_is_given_up() {
    let mut peers = Peers::new();
    peers.ask("select pg_sleep(600)").await;
    peers.client.shutdown().await.expect("closed");
    peers.server_sees(2).await;
    peers.cancelled.1.store(true, Ordering::Relaxed);
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_unit_waits_for_a_moment_is_served_to_the_end() {
    let mut peers = Peers::new();
    peers.shared.gate.close();
    peers.ask("insert into acc values (1, 1, '')").await;
    peers.client.shutdown().await.expect("closed");
    assert!(timeout(ABANDONED / 2, peers.server.read_u8()).await.is_err(), "the gate is closed");
    peers.shared.gate.open(peers.shared.gate.route());
    assert_eq!(peers.server_sees(2).await, b"QX");
    peers.server.write_all(&answer("INSERT 0 1")).await.expect("sent");
    peers.server.shutdown().await.expect("closed");
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_waits_for_longer_than_its_client_is_there_never_runs() {
    let mut held = Peers::new();
    held.shared.gate.close();
    held.ask("insert into acc values (1, 1, '')").await;
    for (mut peers, is_broken) in
        [(held, false), (Peers::without_room().await, false), (Peers::without_room().await, true)]
    {
        match is_broken {
            true => drop(std::mem::replace(&mut peers.client, duplex(1).0)),
            false => peers.client.shutdown().await.expect("closed"),
        }
        assert_eq!(peers.server_sees(1).await, b"X");
        assert_eq!(peers.shared.gate.held() + peers.shared.journal.status().waiting, 0, "nobody waits any more");
        peers.shared.gate.open(peers.shared.gate.route());
        peers.shared.journal.sync_now();
        peers.rested().await;
        peers.server.shutdown().await.expect("closed");
        assert_eq!(rest_of(&mut peers.server).await, b"");
        peers.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_read_no_further_than_to_notice_that_it_leaves() {
    let mut peers = Peers::new();
    peers.shared.gate.close();
    let chunk = query("insert into acc values (1, 1, '')");
    let sent = taken(&mut peers.client, &chunk, 64 << 20).await;
    assert!(sent < 4 * READ_BYTES, "{sent} bytes were taken of a client that waits");
    // All of them go on, in order, when it need not wait any more.
    peers.shared.gate.open(peers.shared.gate.route());
    for _ in 0..sent / chunk.len() {
        let (kind, body) = message(&mut peers.server).await;
        assert_eq!((kind, &body[..]), (front::QUERY, &chunk[HEADER..]));
        peers.server.write_all(&answer("INSERT 0 1")).await.expect("sent");
        assert_eq!([message(&mut peers.client).await.0, message(&mut peers.client).await.0], *b"CZ");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_before_the_gate_is_cancelled_without_the_server() {
    let mut peers = Peers::new();
    assert!(!peers.cancel().await, "nothing waits");
    peers.shared.gate.close();
    let mut extended = BytesMut::new();
    wire::parse(&mut extended, b"", b"insert into acc values (1, 1, '')", &[]);
    wire::bare(&mut extended, front::FLUSH);
    wire::bare(&mut extended, front::SYNC);
    for asked in [query("insert into acc values (1, 1, '')"), extended] {
        peers.client.write_all(&asked).await.expect("sent");
        peers.rested().await;
        assert!(peers.cancel().await);
        let (kind, body) = message(&mut peers.client).await;
        assert_eq!(kind, back::ERROR_RESPONSE);
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.contains("\0C57014\0Mcanceling statement due to user request\0"), "{text:?}");
        assert_eq!(message(&mut peers.client).await, (back::READY_FOR_QUERY, b"I".to_vec()));
    }
    assert!(!peers.cancel().await, "nothing waits any more");
    peers.shared.gate.open(peers.shared.gate.route());
    peers.ask("select 1").await;
    assert_eq!(message(&mut peers.server).await, (front::QUERY, b"select 1\0".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_is_cancelled_by_an_error_of_the_server_and_what_it_works_on_by_itself() {
    let mut peers = Peers::without_room().await;
    assert!(peers.cancel().await);
    assert_eq!(peers.server_sees(6).await, b"CPBECS");
    let mut failed = BytesMut::new();
    for kind in [back::CLOSE_COMPLETE, back::PARSE_COMPLETE, back::BIND_COMPLETE] {
        wire::bare(&mut failed, kind);
    }
    wire::error_response(&mut failed, "ERROR", "57014", "canceling statement due to user request", None);
    wire::message(&mut failed, back::READY_FOR_QUERY, |b| b.extend_from_slice(b"I"));
    peers.server.write_all(&failed).await.expect("sent");
    assert_eq!(peers.server_sees(1).await, b"S", "so that the client hears how it stands");
    assert!(!peers.cancel().await, "it is the server's");
    peers.server.write_all(&failed[failed.len() - 6..]).await.expect("sent");
    assert_eq!([message(&mut peers.client).await.0, message(&mut peers.client).await.0], *b"EZ");
    assert_eq!(peers.shared.gate.inside(), 0);
    peers.ask("select 1").await;
    assert_eq!(peers.server_sees(1).await, b"Q");
}

/// A client whose connection has a bug.
struct Panics;

impl AsyncRead for Panics {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        panic!("a bug")
    }
}

impl AsyncWrite for Panics {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_panics_takes_nobody_along() {
    let stop = CancellationToken::new();
    let panicked = relay(Panics, duplex(PIPE).0, &stop).await;
    assert!(panicked.is_err_and(|error| error.is_panic()));
    let mut peers = Peers::new();
    peers.ask("select 1").await;
    assert_eq!(message(&mut peers.server).await, (front::QUERY, b"select 1\0".to_vec()));
    peers.server.write_all(&answer("SELECT 1")).await.expect("sent");
    assert_eq!([message(&mut peers.client).await.0, message(&mut peers.client).await.0], *b"CZ");
}

#[tokio::test(start_paused = true)]
async fn what_lay_before_rubbish_goes_to_nobody_elses_server() {
    let mut rude = Peers::new();
    rude.client.write_all(&[&query("select 2")[..], b"Q\x00\x00\x00\x03"].concat()).await.expect("sent");
    assert_eq!(message(&mut rude.client).await.0, back::ERROR_RESPONSE);
    let mut peers = Peers::new();
    peers.ask("select 1").await;
    assert_eq!(message(&mut peers.server).await, (front::QUERY, b"select 1\0".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_client_hears_the_last_words_of_the_server_and_its_end() {
    let mut peers = Peers::new();
    let mut words = BytesMut::new();
    wire::error_response(&mut words, "FATAL", "57P01", "terminating connection due to administrator command", None);
    peers.server.write_all(&words).await.expect("sent");
    peers.server.shutdown().await.expect("closed");
    assert_eq!(rest_of(&mut peers.client).await, words);
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_inside_a_unit_ends_the_client_and_leaves_the_unit_in_doubt() {
    let mut peers = Peers::new();
    peers.ask("insert into acc values (1, 1, '')").await;
    peers.server_sees(1).await;
    peers.server.shutdown().await.expect("closed");
    assert_eq!(rest_of(&mut peers.client).await, b"");
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn rubbish_is_answered_in_the_protocol_and_ends_the_connection() {
    let huge = u32::try_from(MESSAGE_BYTES_MAX + 1).expect("small").to_be_bytes();
    for rubbish in
        [&b"Q\x00\x00\x00\x03"[..], &[&b"Q"[..], &huge].concat(), b"Q\x00\x00\x00\x05x", b"P\x00\x00\x00\x05\x00"]
    {
        let mut peers = Peers::new();
        peers.client.write_all(rubbish).await.expect("sent");
        let (kind, body) = message(&mut peers.client).await;
        assert_eq!(kind, back::ERROR_RESPONSE);
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.starts_with("SFATAL\0") && text.contains("\0C08P01\0Mtandem: client: "), "{text:?}");
        assert_eq!(rest_of(&mut peers.client).await, b"");
        assert_eq!(rest_of(&mut peers.server).await, b"", "the server saw nothing of it");
        peers.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let mut peers = Peers::new();
    peers.server.write_all(&answer("SELECT 1")).await.expect("sent");
    let (kind, body) = message(&mut peers.client).await;
    assert_eq!(kind, back::ERROR_RESPONSE);
    assert!(String::from_utf8_lossy(&body).contains("tandem: server: answer of type"), "{}", body.escape_ascii());
    peers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_unit_and_says_goodbye() {
    let mut peers = Peers::new();
    peers.ask("insert into acc values (1, 1, '')").await;
    peers.server_sees(1).await;
    peers.stop.cancel();
    tokio::time::sleep(LONG).await;
    assert!(!peers.relay.is_finished(), "the unit is not over");
    peers.server.write_all(&answer("INSERT 0 1")).await.expect("sent");
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(message(&mut peers.client).await);
    }
    assert_eq!([kinds[0].0, kinds[1].0], *b"CZ");
    assert!(String::from_utf8_lossy(&kinds[2].1).contains("\0C57P01\0"));
    peers.ended().await;
}

/// A connection with TLS: the end that began it, and the other one.
async fn encrypted() -> (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = (folder.path().join("crt"), folder.path().join("key"));
    std::fs::write(&cert, issued.cert.pem()).expect("written");
    std::fs::write(&key, issued.signing_key.serialize_pem()).expect("written");
    let acceptor = tls::acceptor(&cert, &key, None, &[]).expect("it fits");
    let trust = Tls { mode: SslMode::VerifyFull, root_cert: Some(cert), client_cert: None };
    let connector = TlsConnector::from(tls::client(&trust).expect("it fits"));
    let ((near, far), name) = (duplex(PIPE), "localhost".try_into().expect("a name"));
    tokio::try_join!(connector.connect(name, near), acceptor.accept(far)).expect("they agree")
}

/// A relay between these, for a session of its own.
fn relay<C, S>(client: C, server: S, stop: &CancellationToken) -> JoinHandle<()>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let session = Session::new(shared(), Backend { id: 7, life: 1 });
    tokio::spawn(Box::new(Relay::new(client, server, session, Cancelled::default(), stop.clone())).run())
}

/// More than a pipe holds, and less than TLS takes before it.
fn page() -> BytesMut {
    let mut out = BytesMut::new();
    wire::message(&mut out, back::DATA_ROW, |b| b.extend_from_slice(&[1; 4 * PIPE]));
    out.unsplit(answer("SELECT 1"));
    out
}

#[tokio::test(start_paused = true)]
async fn what_tls_keeps_of_an_answer_reaches_a_client_that_reads_late() {
    let ((mut client, theirs), (ours, mut server)) = (encrypted().await, duplex(PIPE));
    let relay = relay(theirs, ours, &CancellationToken::new());
    client.write_all(&query("select * from acc")).await.expect("sent");
    assert_eq!(message(&mut server).await.0, front::QUERY);
    server.write_all(&page()).await.expect("sent");
    tokio::time::sleep(LONG).await;
    let mut seen = vec![0; page().len()];
    timeout(LONG, client.read_exact(&mut seen)).await.expect("all of it comes").expect("read");
    assert!(seen == page());
    drop((client, server));
    relay.await.expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn what_tls_keeps_of_a_request_reaches_a_server_that_reads_late() {
    let ((mut client, theirs), (ours, mut server)) = (duplex(PIPE), encrypted().await);
    let relay = relay(theirs, ours, &CancellationToken::new());
    let asked = query(&format!("select '{}'", "x".repeat(4 * PIPE)));
    client.write_all(&asked).await.expect("sent");
    tokio::time::sleep(LONG).await;
    let mut seen = vec![0; asked.len()];
    timeout(LONG, server.read_exact(&mut seen)).await.expect("all of it comes").expect("read");
    assert!(seen == asked);
    drop((client, server));
    relay.await.expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_tls_keeps_of_the_last_answer() {
    let ((mut client, theirs), (ours, mut server)) = (encrypted().await, duplex(PIPE));
    let stop = CancellationToken::new();
    let relay = relay(theirs, ours, &stop);
    client.write_all(&query("select * from acc")).await.expect("sent");
    assert_eq!(message(&mut server).await.0, front::QUERY);
    server.write_all(&page()).await.expect("sent");
    tokio::time::sleep(LONG).await;
    stop.cancel();
    tokio::time::sleep(LONG).await;
    let mut seen = vec![0; page().len()];
    timeout(LONG, client.read_exact(&mut seen)).await.expect("all of it comes").expect("read");
    assert!(seen == page());
    assert!(String::from_utf8_lossy(&message(&mut client).await.1).contains("\0C57P01\0"));
    relay.await.expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_rests_is_answered_what_was_sent_on_and_no_more_when_tandem_stops() {
    let mut peers = Peers::new();
    for _ in 0..16 {
        peers.ask("insert into acc values (1, 1, '')").await;
    }
    let mut server = peers.server;
    let serving = tokio::spawn(async move {
        let mut served = 0;
        while server.read_u8().await.is_ok() {
            let rest = server.read_u32().await.expect("a message") as usize - 4;
            server.read_exact(&mut vec![0; rest]).await.expect("all of it");
            // So that there are always some behind it.
            tokio::time::sleep(Duration::from_millis(5)).await;
            server.write_all(&answer("INSERT 0 1")).await.expect("it reads");
            served += 1;
        }
        served
    });
    let mut answered = 0;
    loop {
        let (kind, body) = message(&mut peers.client).await;
        if kind == back::ERROR_RESPONSE {
            assert!(String::from_utf8_lossy(&body).contains("\0C57P01\0"));
            break;
        }
        answered += usize::from(kind == back::READY_FOR_QUERY);
        if kind == back::READY_FOR_QUERY {
            peers.client.write_all(&query("insert into acc values (1, 1, '')")).await.expect("it reads");
        }
        if answered == 100 {
            peers.stop.cancel();
        }
        assert!(answered < 200, "it goes on and on");
    }
    drop(peers.client);
    timeout(LONG, peers.relay).await.expect("it ends").expect("it does not panic");
    assert_eq!(serving.await.expect("no panic"), answered);
    assert_eq!(peers.shared.gate.inside(), 0);
}

#[tokio::test]
async fn what_a_client_was_told_reaches_it_though_it_asked_for_more_when_tandem_stopped() {
    let ((mut client, ours), (mut server, theirs)) = (pair().await, pair().await);
    // Larger than the answer, which is larger than what a client takes that does not read.
    socket2::SockRef::from(&ours).set_send_buffer_size(1 << 20).expect("a socket");
    socket2::SockRef::from(&client).set_recv_buffer_size(PIPE).expect("a socket");
    let stop = CancellationToken::new();
    let relay = relay(ours, theirs, &stop);
    client.write_all(&query("select * from acc")).await.expect("it reads");
    assert_eq!(message(&mut server).await.0, front::QUERY);
    stop.cancel();
    // One thread: the relay has heard of it.
    tokio::task::yield_now().await;
    // More than one read: there is some that nobody reads.
    client.write_all(&query(&"x".repeat(2 * READ_BYTES))).await.expect("there is room");
    let mut told = BytesMut::new();
    wire::message(&mut told, back::DATA_ROW, |b| b.extend_from_slice(&[1; 64 * PIPE]));
    told.unsplit(answer("SELECT 1"));
    server.write_all(&told).await.expect("it reads");
    let more = timeout(Duration::from_secs(60), server.read(&mut [0])).await.expect("something comes");
    assert_eq!(more.expect("it ends"), 0, "the second request came too late");
    let seen = rest_of(&mut client).await;
    assert!(seen.starts_with(&told), "{} bytes of {}", seen.len(), told.len());
    assert!(String::from_utf8_lossy(&seen[told.len()..]).contains("\0C57P01\0"));
    drop(client);
    relay.await.expect("it does not panic");
}

/// A connection of real sockets.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    (near, listener.accept().await.expect("a client").0)
}

/// The other side: a server that waits for its session.
#[derive(Clone, Default)]
struct Elsewhere(Arc<Mutex<Option<DuplexStream>>>);

impl Beyond<DuplexStream> for Elsewhere {
    fn cancel(&mut self) {}

    fn register(&self, _: &Waker) {}

    fn heed(&mut self, _: Rest) -> Heed {
        Heed::Nothing
    }

    fn look(&mut self, server: DuplexStream, _: Luggage) -> Detour<DuplexStream> {
        Box::pin(async move { Ok(Arrived::back(server)) })
    }

    fn open(&mut self, _: Luggage) {}

    fn relocate(&mut self, _: DuplexStream, _: Side, _: Luggage) -> Detour<DuplexStream> {
        let server = self.0.lock().expect("no test panics with it").take().expect("it moves once");
        Box::pin(async move { Ok(Arrived { backend: Some(Backend { id: 9, life: 1 }), ..Arrived::back(server) }) })
    }
}

fn notification(payload: &str) -> BytesMut {
    let mut out = BytesMut::new();
    wire::message(&mut out, back::NOTIFICATION_RESPONSE, |b| {
        b.extend_from_slice(&[0; 4]);
        wire::cstr(b, b"news");
        wire::cstr(b, payload.as_bytes());
    });
    out
}

#[tokio::test(start_paused = true)]
async fn a_session_moves_with_its_next_unit_and_behind_what_the_old_server_began_to_say() {
    use crate::cutover::gate::Route;
    use crate::protocol::postgres::client::{Endpoint, Host};
    use crate::protocol::postgres::moving::sessions::{Card, Home, Who};

    let ((mut client, theirs), (ours, mut old), (there, mut new)) = (duplex(PIPE), duplex(PIPE), duplex(PIPE));
    let shared = shared();
    let endpoint = Endpoint { host: Host::Tcp("a".into()), port: 1 };
    let home = Home { side: Side::Origin, endpoint, key: Vec::new() };
    let card = Card::new(Who::default(), Box::default(), "UTF8".into(), (false, false), 7, home);
    let mut session = Session::new(shared.clone(), Backend { id: 7, life: 1 });
    session.belongs_to(Side::Origin, Arc::new(card));
    let elsewhere = Elsewhere(Arc::new(Mutex::new(Some(there))));
    let relay = Box::new(Relay::new(theirs, ours, session, elsewhere, CancellationToken::new()));
    let relay = tokio::spawn(relay.run());

    shared.gate.close();
    let told = notification("last words");
    old.write_all(&told[..7]).await.expect("the beginning of a message");
    client.write_all(&query("SELECT 1")).await.expect("held");
    tokio::task::yield_now().await;
    shared.gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
    tokio::task::yield_now().await;
    old.write_all(&told[7..]).await.expect("the rest of it");
    assert_eq!(message(&mut client).await.0, back::NOTIFICATION_RESPONSE);
    assert_eq!(message(&mut new).await.0, front::QUERY);
    new.write_all(&answer("SELECT 1")).await.expect("answered");
    assert_eq!(message(&mut client).await.0, back::COMMAND_COMPLETE);
    assert_eq!(message(&mut client).await.0, back::READY_FOR_QUERY);
    assert!(rest_of(&mut old).await.is_empty(), "nothing of the unit went there");
    drop(client);
    assert_eq!(message(&mut new).await.0, front::TERMINATE);
    drop(new);
    timeout(LONG, relay).await.expect("it ends").expect("it does not panic");
    assert_eq!(shared.gate.inside(), 0);
}
