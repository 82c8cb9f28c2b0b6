//! A CQL connection of our own: for the mirror, the schema, the settling of what is in doubt. Sessions of clients do not
//! use it; they forward bytes.
//!
//! Many callers share one connection: a [`Client`] is a handle, cheap to clone, and a task owns the socket ([`task`]).
//! The newest version that the server speaks is used, v5 if it can be had, because only that can say at which second a
//! TTL begins. Answers stay the bytes they came in ([`Answer`]).
//!
//! **Cancel safe.** A future that is dropped leaves its request to the server: it may still be executed, and its answer is
//! thrown away when it comes.
//!
//! Memory: one message from the server, at most [`Settings::message_bytes_max`]; the requests under way, at most
//! [`Settings::in_flight_max`]; the texts of [`STATEMENTS`] prepared statements.

mod answer;
mod codec;
mod error;
mod handshake;
mod prepared;
pub(super) mod recent;
mod settings;
mod stream;
mod task;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

pub use answer::Answer;
#[cfg(test)]
pub(in crate::protocol::cql) use error::tests::refusal;
pub use error::{Error, Refusal};
pub(super) use handshake::is_by_certificate;
pub use prepared::Prepared;
pub use settings::{Address, Settings};
pub use stream::open;
pub use task::OnEvent;

use recent::Recent;

use super::wire::frame::{Envelope, Header};
use super::wire::primitive::{StringMultimap, put_string_list};
use super::wire::request::{self, BatchKind, Execute, Parameters, Prepare, Query, Statement, StatementText, Values};
use super::wire::response::{ErrorKind, Outcome, Response};
use super::wire::{self, Opcode, Version};
use task::{Connection, Job, Shared, Waiting};

/// Prepared statements that a connection remembers.
const STATEMENTS: usize = 8_192;
/// Requests between the callers and the task.
const QUEUE: usize = 128;

/// A handle to a connection. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    request_timeout: Duration,
}

struct Inner {
    jobs: mpsc::Sender<Job>,
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
    gone: watch::Receiver<bool>,
    version: Version,
    authenticator: Option<String>,
    address: Address,
    peer: Option<SocketAddr>,
    statements: Mutex<Recent<Key, Arc<Prepared>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.inner.address).field("version", &self.inner.version).finish()
    }
}

/// A statement of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// What it is.
    pub text: MemberText<'a>,
    /// By place.
    pub values: Values<'a>,
}

/// What a batch says a statement by.
#[derive(Clone, Copy, Debug)]
pub enum MemberText<'a> {
    /// Its text.
    Text(&'a str),
    /// Prepared, here or elsewhere.
    Prepared(&'a Arc<Prepared>),
}

impl<'a> Member<'a> {
    fn prepared(&self) -> Option<&'a Arc<Prepared>> {
        match self.text {
            MemberText::Text(_) => None,
            MemberText::Prepared(prepared) => Some(prepared),
        }
    }

    fn statement(&self) -> Statement<'a> {
        let text = match self.text {
            MemberText::Text(text) => StatementText::Text(text.as_bytes()),
            MemberText::Prepared(prepared) if prepared.goes_as_text() => StatementText::Text(prepared.text.as_bytes()),
            MemberText::Prepared(prepared) => StatementText::Prepared(&prepared.id),
        };
        Statement { text, values: self.values }
    }
}

impl Client {
    /// Connect to a node.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect(settings: &Settings, address: &Address) -> Result<Client, Error> {
        Client::connect_with(settings, address, Version::V5, None).await
    }

    /// Connect to a node in no newer version than this, and have its events handled: see [`Client::register`].
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect_with(
        settings: &Settings,
        address: &Address,
        newest: Version,
        on_event: Option<OnEvent>,
    ) -> Result<Client, Error> {
        let entered = timeout(settings.connect_timeout, handshake::enter(settings, address, newest)).await;
        let entered = entered
            .unwrap_or(Err(Error::ConnectTimeout(settings.connect_timeout)))
            .map_err(|why| Error::Connect { host: address.clone(), why: Box::new(why) })?;
        let shared = Arc::new(Shared {
            orphans: AtomicIsize::new(0),
            orphans_max: isize::try_from(settings.orphans_max).unwrap_or(isize::MAX),
            hopeless: Notify::new(),
            silent: AtomicBool::new(false),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (sender, gone) = watch::channel(false);
        let (version, authenticator, peer) = (entered.version, entered.authenticator.clone(), entered.stream.peer());
        let (connection, stream) = Connection::new(entered, shared.clone(), settings.heartbeat, on_event);
        tokio::spawn(connection.run(stream, queue, sender));
        let permits = settings.in_flight_max.clamp(1, task::STREAMS);
        let inner = Inner {
            jobs,
            permits: Arc::new(Semaphore::new(permits)),
            shared,
            gone,
            version,
            authenticator,
            address: address.clone(),
            peer,
            statements: Mutex::new(Recent::of(STATEMENTS)),
        };
        Ok(Client { inner: Arc::new(inner), request_timeout: settings.request_timeout })
    }

    /// The same connection with another patience for answers.
    pub fn with_timeout(&self, request_timeout: Duration) -> Client {
        Client { inner: self.inner.clone(), request_timeout }
    }

    /// The class that asked who we are; `None`: nobody did.
    pub fn authenticator(&self) -> Option<&str> {
        self.inner.authenticator.as_deref()
    }

    /// The version that is spoken.
    pub fn version(&self) -> Version {
        self.inner.version
    }

    /// The node.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Where the node is; `address` may name it.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.inner.peer
    }

    /// Resolves when the connection is lost, or nobody has it any more: whether that was because the server said nothing.
    /// Keeps no connection.
    pub fn fell_silent(&self) -> impl Future<Output = bool> + Send + use<> {
        let (mut gone, shared) = (self.inner.gone.clone(), self.inner.shared.clone());
        async move {
            let _ = gone.wait_for(|gone| *gone).await;
            shared.silent.load(Relaxed)
        }
    }

    /// The connection is lost: every call would fail.
    pub fn is_lost(&self) -> bool {
        *self.inner.gone.borrow()
    }

    /// Returns when the connection is lost. Cancel safe.
    pub async fn lost(&self) {
        // An error means that the task is gone.
        let _ = self.inner.gone.clone().wait_for(|gone| *gone).await;
    }

    /// What the server offers, read by `read`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn options<T>(&self, read: impl FnOnce(&StringMultimap<'_>) -> T) -> Result<T, Error> {
        let (header, body) = self.call(Opcode::Options, |_| Ok(())).await?;
        let envelope = Envelope::open(header, &body)?;
        match Response::parse(&envelope)? {
            Response::Supported(options) => Ok(read(&options)),
            other => Err(Error::Unexpected { opcode: other.opcode(), doing: "asking for options" }),
        }
    }

    /// From now on the server sends these kinds of events: `TOPOLOGY_CHANGE`, `STATUS_CHANGE`, `SCHEMA_CHANGE`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn register(&self, kinds: &[&str]) -> Result<(), Error> {
        let put = |out: &mut BytesMut| put_string_list(out, kinds.iter().copied(), "event types");
        let (header, body) = self.call(Opcode::Register, put).await?;
        match header.opcode {
            Opcode::Ready => Ok(()),
            _ => Answer::read(header, body, "registering for events").map(drop),
        }
    }

    /// Execute a text.
    ///
    /// # Errors
    /// [`Error`]; what it says of a write: [`Error::outcome`].
    pub async fn query(&self, text: &str, parameters: &Parameters<'_>) -> Result<Answer, Error> {
        let query = Query { text: text.as_bytes(), parameters: *parameters };
        let (header, body) = self.call(Opcode::Query, |out| query.put(out, self.version())).await?;
        Answer::read(header, body, "executing a statement")
    }

    /// Execute a text and give all its rows' pages. For results that are known to be small: they are kept in memory.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn pages(&self, text: &str, parameters: &Parameters<'_>) -> Result<Vec<Answer>, Error> {
        let mut pages: Vec<Answer> = Vec::new();
        loop {
            let state = pages.last().and_then(Answer::paging_state);
            if state.is_none() && !pages.is_empty() {
                return Ok(pages);
            }
            let next = self.query(text, &Parameters { paging_state: state, ..*parameters }).await?;
            pages.push(next);
        }
    }

    /// Prepare a text, or remember that it was. Before v5 no keyspace can be named: then names in the text need one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn prepare(&self, text: &str, keyspace: Option<&str>) -> Result<Arc<Prepared>, Error> {
        let known = self.memory().get(&key(text, keyspace));
        match known {
            Some(prepared) => Ok(prepared),
            None => self.prepare_anew(text, keyspace).await,
        }
    }

    /// Prepare a text, also where it was: the server may have forgotten it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn prepare_anew(&self, text: &str, keyspace: Option<&str>) -> Result<Arc<Prepared>, Error> {
        let prepare = Prepare { text: text.as_bytes(), keyspace };
        let (header, body) = self.call(Opcode::Prepare, |out| prepare.put(out, self.version())).await?;
        let answer = Answer::read(header, body, "preparing a statement")?;
        let Outcome::Prepared(told) = answer.outcome() else {
            return Err(Error::Answer("a statement was to be prepared, and is not said to be"));
        };
        let prepared = Arc::new(Prepared {
            text: text.into(),
            keyspace: keyspace.map(Box::from),
            id: Bytes::copy_from_slice(told.id),
            result_metadata_id: told.result_metadata_id.map(Bytes::copy_from_slice),
            markers: told.markers.iter().map(|marker| (marker.name.to_owned(), marker.kind())).collect(),
            pk_indexes: told.pk_indexes.iter().collect(),
            crowded_out: OnceLock::new(),
        });
        self.memory().insert(key(text, keyspace), prepared.clone());
        Ok(prepared)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Recent<Key, Arc<Prepared>>> {
        // Nothing in there panics half-way.
        self.inner.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Execute what was prepared, here or on another connection to this cluster: where the server does not know it, it is
    /// prepared again, and where the server does not keep it, it is sent as its text for a minute.
    ///
    /// # Errors
    /// [`Error`]; what it says of a write: [`Error::outcome`].
    pub async fn execute(&self, prepared: &Arc<Prepared>, parameters: &Parameters<'_>) -> Result<Answer, Error> {
        if !prepared.goes_as_text() {
            match self.execute_once(prepared, parameters).await {
                Err(error) if is_unprepared(&error) => {}
                other => return other,
            }
            let again = self.prepare_anew(&prepared.text, prepared.keyspace.as_deref()).await?;
            match self.execute_once(&again, parameters).await {
                Err(error) if is_unprepared(&error) => [prepared, &again].into_iter().for_each(|one| one.crowd_out()),
                other => return other,
            }
        }
        let keyspace = prepared.keyspace.as_deref().or(parameters.keyspace);
        self.query(&prepared.text, &Parameters { keyspace, ..*parameters }).await
    }

    async fn execute_once(&self, prepared: &Prepared, parameters: &Parameters<'_>) -> Result<Answer, Error> {
        let execute = Execute {
            id: &prepared.id,
            // Of a statement that was prepared where there is none: the server sends the metadata with the answer.
            result_metadata_id: Some(prepared.result_metadata_id.as_deref().unwrap_or_default()),
            parameters: *parameters,
        };
        let (header, body) = self.call(Opcode::Execute, |out| execute.put(out, self.version())).await?;
        Answer::read(header, body, "executing a prepared statement")
    }

    /// Execute a batch. One unknown id and nothing of it is executed: then what is prepared in it is prepared again, or sent
    /// as its text where the server does not keep it. For names without a keyspace that is the one of the parameters.
    ///
    /// # Errors
    /// [`Error`]; what it says of a write: [`Error::outcome`].
    pub async fn batch(
        &self,
        kind: BatchKind,
        members: &[Member<'_>],
        parameters: &Parameters<'_>,
    ) -> Result<Answer, Error> {
        match self.batch_once(kind, members, parameters).await {
            Err(error) if is_unprepared(&error) => {}
            other => return other,
        }
        let mut prepared: Vec<Arc<Prepared>> = members.iter().filter_map(Member::prepared).cloned().collect();
        for one in 0..prepared.len() {
            let again = self.prepare_anew(&prepared[one].text, prepared[one].keyspace.as_deref()).await?;
            prepared.push(again);
        }
        match self.batch_once(kind, members, parameters).await {
            Err(error) if is_unprepared(&error) => prepared.iter().for_each(|one| one.crowd_out()),
            other => return other,
        }
        self.batch_once(kind, members, parameters).await
    }

    async fn batch_once(
        &self,
        kind: BatchKind,
        members: &[Member<'_>],
        parameters: &Parameters<'_>,
    ) -> Result<Answer, Error> {
        let statements: Vec<Statement<'_>> = members.iter().map(Member::statement).collect();
        let put = |out: &mut BytesMut| request::put_batch(out, self.version(), kind, &statements, parameters);
        let (header, body) = self.call(Opcode::Batch, put).await?;
        Answer::read(header, body, "executing a batch")
    }

    /// One request and its answer, whatever that is.
    async fn call(
        &self,
        opcode: Opcode,
        put: impl FnOnce(&mut BytesMut) -> Result<(), wire::Error>,
    ) -> Result<(Header, Bytes), Error> {
        let mut frame = BytesMut::new();
        Envelope::new(self.version(), 0, opcode).put(&mut frame, put)?;
        let waiting = timeout(self.request_timeout, self.submit(frame)).await;
        let waiting = waiting.map_err(|_| Error::Busy(self.request_timeout))??;
        let answer = timeout(self.request_timeout, waiting.answer()).await;
        answer.map_err(|_| Error::NoAnswer(self.request_timeout))?
    }

    /// Cancelled, nothing was sent.
    async fn submit(&self, frame: BytesMut) -> Result<Waiting, Error> {
        let lost = || Error::Lost("it ended before the request was sent".to_owned());
        let permit = self.inner.permits.clone().acquire_owned().await.map_err(|_| lost())?;
        let place = self.inner.jobs.reserve().await.map_err(|_| lost())?;
        let (answer, answered) = oneshot::channel();
        place.send(Job { frame, answer, permit });
        Ok(Waiting::new(answered, self.inner.shared.clone()))
    }
}

/// What a statement is known by: its keyspace, for names without one, and its text.
type Key = (Option<Box<str>>, Box<str>);

fn key(text: &str, keyspace: Option<&str>) -> Key {
    (keyspace.map(Box::from), Box::from(text))
}

/// The server forgot a statement; nothing was executed.
fn is_unprepared(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| matches!(refusal.kind(), ErrorKind::Unprepared { .. }))
}

#[cfg(test)]
mod tests;
