//! The task that owns a socket: requests of many callers out, each answer to the caller who waits for it.
//!
//! A request's stream id is taken here and given back when its answer came, never before: a caller who stopped waiting
//! leaves an *orphan*, whose late answer must not become another caller's. The id's permit goes with it, so orphans
//! take room from new requests, and past a number of them the connection is given up: the server is not answering.
//!
//! A server that says nothing is asked for its options, on a stream id kept for that, and given up if it then says nothing
//! still: requests that hang in it are answered as lost, and whoever looks for a node takes another.
//!
//! Bounded: as many requests as there are permits; bytes to be sent, by [`OUT_BYTES`] and one request; bytes received,
//! by one message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep};

use crate::net::socket::Socket;
use crate::protocol::cql::wire::frame::{EVENT_STREAM, Envelope, Header, restamp};
use crate::protocol::cql::wire::response::Event;
use crate::protocol::cql::wire::{Opcode, Version};

use super::codec::Codec;
use super::error::{Error, Refusal};
use super::handshake::Entered;

/// While more than this waits to be sent, no further request is taken.
const OUT_BYTES: usize = 256 << 10;
/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// What a server is asked on whether it is still there. No request has it.
const HEARTBEAT_STREAM: i16 = i16::MAX;
/// Most requests under way: ids begin above [`NO_STREAM`].
pub(super) const STREAMS: usize = HEARTBEAT_STREAM as usize - 1;
/// Where servers answer what belongs to no request.
const NO_STREAM: i16 = 0;

/// Called with each EVENT, inside the task: it must be quick.
pub type OnEvent = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// A request, framed on a stream that is not its own yet.
pub(super) struct Job {
    pub(super) frame: BytesMut,
    pub(super) answer: oneshot::Sender<Result<(Header, Bytes), Error>>,
    /// One of as many as there are stream ids.
    pub(super) permit: OwnedSemaphorePermit,
}

/// What callers and the task both know.
pub(super) struct Shared {
    /// Requests whose callers left. May be one too low for a moment, never for good.
    pub(super) orphans: AtomicIsize,
    pub(super) orphans_max: isize,
    /// There are too many of them.
    pub(super) hopeless: Notify,
    /// It was given up because it said nothing; set before the connection is lost.
    pub(super) silent: AtomicBool,
}

/// When the server was heard last, and whether it was asked since.
struct Heartbeat {
    every: Duration,
    heard: Instant,
    asked: bool,
    due: Pin<Box<Sleep>>,
}

impl Heartbeat {
    fn new(every: Duration) -> Heartbeat {
        Heartbeat { every, heard: Instant::now(), asked: false, due: Box::pin(sleep(every)) }
    }

    fn hear(&mut self) {
        (self.heard, self.asked) = (Instant::now(), false);
    }

    /// It is due. Whether the server has to be asked now; an error: it was, and said nothing.
    fn beat(&mut self) -> Result<bool, String> {
        let now = Instant::now();
        let quiet_until = self.heard + self.every;
        if quiet_until > now {
            self.due.as_mut().reset(quiet_until);
            return Ok(false);
        }
        if self.asked {
            return Err(format!("the server has said nothing for {:?}", now - self.heard));
        }
        self.asked = true;
        self.due.as_mut().reset(now + self.every);
        Ok(true)
    }
}

/// A caller's wait. Dropped before the answer came, it leaves an orphan.
pub(super) struct Waiting {
    answer: oneshot::Receiver<Result<(Header, Bytes), Error>>,
    shared: Arc<Shared>,
    answered: bool,
}

impl Waiting {
    pub(super) fn new(answer: oneshot::Receiver<Result<(Header, Bytes), Error>>, shared: Arc<Shared>) -> Waiting {
        Waiting { answer, shared, answered: false }
    }

    /// Cancel safe: dropped, it leaves an orphan.
    pub(super) async fn answer(mut self) -> Result<(Header, Bytes), Error> {
        let answer = (&mut self.answer).await;
        self.answered = true;
        answer.unwrap_or_else(|_| Err(Error::Lost("it was closed".to_owned())))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Closed first: from here on the task cannot answer, so exactly one of both counts.
        self.answer.close();
        if self.answered || self.answer.try_recv().is_ok() {
            return;
        }
        if self.shared.orphans.fetch_add(1, Relaxed) + 1 >= self.shared.orphans_max {
            self.shared.hopeless.notify_one();
        }
    }
}

/// One request under way.
struct Pending {
    answer: oneshot::Sender<Result<(Header, Bytes), Error>>,
    _permit: OwnedSemaphorePermit,
}

/// The requests under way by their stream ids, which begin above [`NO_STREAM`].
#[derive(Default)]
struct Streams {
    slots: Vec<Option<Pending>>,
    free: Vec<i16>,
}

impl Streams {
    /// There are at most as many as permits, and those fit an id.
    fn take(&mut self, pending: Pending) -> Option<i16> {
        if let Some(stream) = self.free.pop() {
            self.slots[index(stream)?] = Some(pending);
            return Some(stream);
        }
        self.slots.push(Some(pending));
        i16::try_from(self.slots.len()).ok()
    }

    fn give_back(&mut self, stream: i16) -> Option<Pending> {
        let pending = self.slots.get_mut(index(stream)?)?.take()?;
        self.free.push(stream);
        Some(pending)
    }
}

fn index(stream: i16) -> Option<usize> {
    usize::try_from(stream).ok()?.checked_sub(1)
}

/// A connection at work.
pub(super) struct Connection {
    codec: Codec,
    version: Version,
    input: BytesMut,
    out: BytesMut,
    /// Something was written and not flushed.
    unflushed: bool,
    streams: Streams,
    shared: Arc<Shared>,
    heartbeat: Heartbeat,
    on_event: Option<OnEvent>,
}

impl Connection {
    pub(super) fn new(
        entered: Entered,
        shared: Arc<Shared>,
        heartbeat: Duration,
        on_event: Option<OnEvent>,
    ) -> (Connection, Socket) {
        let Entered { stream, codec, version, input, .. } = entered;
        let (out, streams, heartbeat) = (BytesMut::new(), Streams::default(), Heartbeat::new(heartbeat));
        (Connection { codec, version, input, out, unflushed: false, streams, shared, heartbeat, on_event }, stream)
    }

    /// Until the last handle is gone or the connection is lost; then everybody who waits is told why.
    pub(super) async fn run(mut self, stream: Socket, mut jobs: mpsc::Receiver<Job>, gone: watch::Sender<bool>) {
        let why = self.serve(stream, &mut jobs).await.err().unwrap_or_else(|| "it was closed".to_owned());
        gone.send_replace(true);
        jobs.close();
        let lost = || Err(Error::Lost(why.clone()));
        for pending in self.streams.slots.drain(..).flatten() {
            let _ = pending.answer.send(lost());
        }
        while let Some(job) = jobs.recv().await {
            let _ = job.answer.send(lost());
        }
    }

    async fn serve(&mut self, stream: Socket, jobs: &mut mpsc::Receiver<Job>) -> Result<(), String> {
        let (mut read, mut write) = tokio::io::split(stream);
        let shared = self.shared.clone();
        // What came behind the login's last answer.
        self.receive()?;
        loop {
            self.input.reserve(READ_BYTES);
            tokio::select! {
                read = read.read_buf(&mut self.input) => self.came(read)?,
                sent = send(&mut write, &mut self.out, self.unflushed), if self.must_send() => {
                    self.unflushed = sent.map_err(|error| error.to_string())?;
                }
                job = jobs.recv(), if self.out.len() < OUT_BYTES => match job {
                    Some(job) => self.take_all(job, jobs),
                    None => return self.hang_up(&mut write).await,
                },
                () = self.heartbeat.due.as_mut() => self.beat()?,
                () = shared.hopeless.notified() => {
                    return Err(format!("{} requests were never answered", shared.orphans.load(Relaxed)));
                }
            }
        }
    }

    fn beat(&mut self) -> Result<(), String> {
        let ask = self.heartbeat.beat().inspect_err(|_| self.shared.silent.store(true, Relaxed))?;
        if ask {
            let mut frame = BytesMut::new();
            let options = Envelope::new(self.version, HEARTBEAT_STREAM, Opcode::Options);
            options.put(&mut frame, |_| Ok(())).map_err(|error| error.to_string())?;
            self.codec.put(&frame, &mut self.out);
            self.codec.close(&mut self.out);
        }
        Ok(())
    }

    fn must_send(&self) -> bool {
        self.unflushed || !self.out.is_empty()
    }

    fn came(&mut self, read: std::io::Result<usize>) -> Result<(), String> {
        match read {
            Ok(0) => Err("the server closed it".to_owned()),
            Ok(_) => {
                self.heartbeat.hear();
                self.receive()
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// This request and those that wait behind it, in one piece.
    fn take_all(&mut self, first: Job, jobs: &mut mpsc::Receiver<Job>) {
        let mut next = Some(first);
        while let Some(Job { mut frame, answer, permit }) = next {
            // Whoever left before the request was sent takes it along; the orphan that was counted is none.
            if answer.is_closed() {
                self.shared.orphans.fetch_sub(1, Relaxed);
            } else if let Some(stream) = self.streams.take(Pending { answer, _permit: permit }) {
                restamp(&mut frame, stream);
                self.codec.put(&frame, &mut self.out);
            }
            next = if self.out.len() < OUT_BYTES { jobs.try_recv().ok() } else { None };
        }
        self.codec.close(&mut self.out);
    }

    /// Hand out the answers that are whole.
    fn receive(&mut self) -> Result<(), String> {
        let Connection { codec, input, streams, shared, on_event, version, .. } = self;
        let mut refused = None;
        codec
            .take(input, |header, body| {
                let handed = hand_out(streams, shared, on_event.as_ref(), *version, header, body);
                refused = refused.take().or(handed.err());
            })
            .map_err(|error| error.to_string())?;
        refused.map_or(Ok(()), Err)
    }

    /// Nobody has anything more to say: what was said is sent, answers are not waited for.
    async fn hang_up(&mut self, write: &mut WriteHalf<Socket>) -> Result<(), String> {
        let sent = async {
            write.write_all_buf(&mut self.out).await?;
            write.shutdown().await
        };
        sent.await.map_err(|error: std::io::Error| error.to_string())
    }
}

/// Some bytes, or a flush once there are none left; whether a flush is still needed. Cancel safe.
async fn send(write: &mut WriteHalf<Socket>, out: &mut BytesMut, unflushed: bool) -> std::io::Result<bool> {
    if !out.is_empty() {
        write.write_buf(out).await?;
        return Ok(true);
    }
    if unflushed {
        write.flush().await?;
    }
    Ok(false)
}

fn hand_out(
    streams: &mut Streams,
    shared: &Shared,
    on_event: Option<&OnEvent>,
    version: Version,
    header: Header,
    body: Bytes,
) -> Result<(), String> {
    if header.version != version {
        return Err(format!("the server answered in {} on a connection of {version}", header.version));
    }
    match header.stream {
        EVENT_STREAM => return event(on_event, &header, &body),
        // That it came is all there is to know.
        HEARTBEAT_STREAM => return Ok(()),
        _ => {}
    }
    let Some(pending) = streams.give_back(header.stream) else { return Err(uncalled(&header, body)) };
    if pending.answer.send(Ok((header, body))).is_err() {
        shared.orphans.fetch_sub(1, Relaxed);
    }
    Ok(())
}

fn event(on_event: Option<&OnEvent>, header: &Header, body: &Bytes) -> Result<(), String> {
    let read = || Event::parse(Envelope::open(*header, body)?.message);
    let event = read().map_err(|error| error.to_string())?;
    on_event.into_iter().for_each(|on_event| on_event(&event));
    Ok(())
}

/// What is said to nobody is said of the connection.
fn uncalled(header: &Header, body: Bytes) -> String {
    let said =
        Envelope::open(*header, &body).and_then(|open| Refusal::parse(header.version, body.slice_ref(open.message)));
    match said {
        Ok(refusal) if header.opcode == Opcode::Error && header.stream == NO_STREAM => refusal.to_string(),
        _ => format!("an answer came for stream {}, on which nothing was asked", header.stream),
    }
}
