//! A PostgreSQL connection of our own: for the mirror, the catalog, the admin API. Sessions of clients do not use it;
//! they forward bytes.
//!
//! It is small because it does one thing: put messages into a buffer, send the buffer, read messages back. Rows stay
//! the bytes they came in ([`DataRow`]). Pipelining is the normal way: any number of `put_*` calls, one
//! [`Client::send`], then as many answers as were asked for.
//!
//! **Not cancel safe.** A future of this module that is dropped half-way leaves the connection between two messages
//! or inside one: drop the [`Client`] as well.
//!
//! Memory: the input buffer holds one message, at most [`ServerConfig::message_bytes_max`]; the output buffer holds
//! what was put since the last [`Client::send`], so whoever streams sends every [`SEND_BYTES`].

mod auth;
mod config;
mod error;
mod hang;
mod prepared;
mod row;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

pub use config::{
    ConfigError, DEFAULT_CONNECT_TIMEOUT, DEFAULT_MESSAGE_BYTES_MAX, DEFAULT_PORT, Endpoint, Host, ServerConfig,
    SslMode, TargetSession, Tls,
};
pub use error::{DbError, Error, QUERY_CANCELED};
pub use hang::Watch;
pub use row::{DataRow, Values};
pub use stream::dial;

use crate::net::socket::Socket;
use crate::record::Backend;

use super::wire::{self, CANCEL_REQUEST, Fields, Header, Message, VERSION_3_0, WireError, back, front};
use prepared::Prepared;
use stream::Attempt;

/// How much a streaming writer gathers before it sends.
pub const SEND_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 64 << 10;
/// How long the reason of a broken connection is looked for: what is said was said before it broke.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a value is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As the type's output function writes it.
    Text = 0,
    /// As the type's send function writes it.
    Binary = 1,
}

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub struct Param<'a> {
    /// Its type on that server; 0 = let the server infer it.
    pub oid: u32,
    /// How `value` is written.
    pub format: Format,
    /// `None` is NULL.
    pub value: Option<&'a [u8]>,
}

impl<'a> Param<'a> {
    /// A text value whose type the server infers.
    pub fn text(value: &'a str) -> Param<'a> {
        Param { oid: 0, format: Format::Text, value: Some(value.as_bytes()) }
    }

    /// A value in binary form.
    pub fn binary(oid: u32, value: &'a [u8]) -> Param<'a> {
        Param { oid, format: Format::Binary, value: Some(value) }
    }
}

/// One connection. See the module's page for what is and is not cancel safe (nothing is).
#[derive(Debug)]
pub struct Client {
    stream: Socket,
    input: BytesMut,
    out: BytesMut,
    config: Arc<ServerConfig>,
    endpoint: Endpoint,
    attempt: Attempt,
    pid: u32,
    /// The same as records name it.
    backend: Backend,
    cancel_key: Bytes,
    parameters: HashMap<String, String>,
    tag: Bytes,
    /// The last RowDescription of [`Client::next_row_of_statement`].
    columns: Bytes,
    status: u8,
    /// Syncs and Queries put since the start, and how many of them were answered by ReadyForQuery: `got <= put`.
    ready_put: u64,
    ready_got: u64,
    /// Which of them, counted from 1, nobody waits for: see [`Client::put_keepalive`], [`Client::put_unwaited`].
    unwaited: VecDeque<u64>,
    prepared: Prepared,
    /// What the server said unasked, as it came, where somebody wants it: see [`Client::keep_asides`].
    asides: Option<BytesMut>,
    moved: Arc<AtomicU64>,
}

/// A connection given back to whoever moves its bytes.
pub struct Released {
    /// The socket.
    pub stream: Socket,
    /// What was read and not looked at.
    pub unread: BytesMut,
    /// Notifications and changed parameters that came meanwhile, as they came.
    pub asides: BytesMut,
}

/// More than this was never said unasked between two questions.
const ASIDES_BYTES_MAX: usize = 16 << 20;

impl Client {
    /// Connect to the first host of the list that lets us in and will do.
    ///
    /// # Errors
    /// [`Error::Connect`] with the last host's error.
    pub async fn connect(config: &ServerConfig) -> Result<Client, Error> {
        if config.user.is_empty() {
            return Err(Error::Config("no user is configured for this connection".into()));
        }
        let config = Arc::new(config.clone());
        let mut last = Error::Config("no host is configured for this connection".into());
        for endpoint in &config.hosts {
            match Client::connect_host(&config, endpoint).await {
                Ok(client) => return Ok(client),
                Err(why) => last = Error::Connect { host: endpoint.clone(), why: Box::new(why) },
            }
        }
        Err(last)
    }

    async fn connect_host(config: &Arc<ServerConfig>, endpoint: &Endpoint) -> Result<Client, Error> {
        let mut last = None;
        for &attempt in config.tls.mode.attempts(endpoint) {
            let opened = timeout(config.connect_timeout, Client::enter(config, endpoint, attempt)).await;
            match opened.unwrap_or(Err(Error::Timeout(config.connect_timeout))) {
                Err(error) if tls_may_matter(&error) => last = last.or(Some(error)),
                other => return other,
            }
        }
        Err(last.expect("every mode has an attempt, and all of them failed"))
    }

    async fn enter(config: &Arc<ServerConfig>, endpoint: &Endpoint, attempt: Attempt) -> Result<Client, Error> {
        let stream = stream::open(config, endpoint, attempt).await?;
        let mut client = Client::over(stream, config.clone(), endpoint.clone(), attempt);
        client.ready_put = 1;
        client.start_up().await?;
        client.backend = match &config.logins {
            Some(logins) => logins.enter(endpoint, client.pid),
            None => Backend { id: client.pid, life: 0 },
        };
        match config.target_session {
            TargetSession::Any => {}
            TargetSession::ReadWrite => client.check_is("SHOW transaction_read_only", "off").await?,
            TargetSession::Primary => client.check_is("SELECT pg_catalog.pg_is_in_recovery()", "f").await?,
        }
        Ok(client)
    }

    fn over(stream: Socket, config: Arc<ServerConfig>, endpoint: Endpoint, attempt: Attempt) -> Client {
        Client {
            stream,
            input: BytesMut::new(),
            out: BytesMut::new(),
            config,
            endpoint,
            attempt,
            pid: 0,
            backend: Backend { id: 0, life: 0 },
            cancel_key: Bytes::new(),
            parameters: HashMap::new(),
            tag: Bytes::new(),
            columns: Bytes::new(),
            status: b'I',
            ready_put: 0,
            ready_got: 0,
            unwaited: VecDeque::new(),
            prepared: Prepared::default(),
            asides: None,
            moved: Arc::default(),
        }
    }

    /// Speak for a moment on a connection that somebody else logged in, and whose every question was answered.
    /// [`Client::release`] gives it back.
    pub fn adopt(stream: Socket, config: Arc<ServerConfig>, endpoint: Endpoint) -> Client {
        let mut client = Client::over(stream, config, endpoint, Attempt::Plain);
        client.keep_asides();
        client
    }

    /// From now on keep what the server says unasked, but for notices: it is for whoever gets the connection.
    pub fn keep_asides(&mut self) {
        self.asides.get_or_insert_default();
    }

    /// Give the connection to whoever moves its bytes from now on.
    pub fn release(self) -> Released {
        Released { stream: self.stream, unread: self.input, asides: self.asides.unwrap_or_default() }
    }

    /// Is the server still there, as far as is known without asking it? What it said is read.
    pub fn is_alive(&mut self) -> bool {
        let mut probe = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut probe);
            let mut cx = Context::from_waker(Waker::noop());
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut buf) {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && self.input.len() < ASIDES_BYTES_MAX => {
                    self.input.extend_from_slice(buf.filled());
                }
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Grows with whatever the connection sends or reads, for who looks at it from beside.
    pub fn moved(&self) -> Arc<AtomicU64> {
        self.moved.clone()
    }

    /// Settings that the server reported.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What a CancelRequest for this connection carries: process and key.
    pub fn cancel_key(&self) -> Vec<u8> {
        [&self.pid.to_be_bytes()[..], &self.cancel_key].concat()
    }

    async fn start_up(&mut self) -> Result<(), Error> {
        let config = Arc::clone(&self.config);
        put_startup(&mut self.out, &config)?;
        self.send().await?;
        auth::log_in(self, &config).await?;
        loop {
            let message = self.recv().await?;
            match message.kind {
                back::BACKEND_KEY_DATA => {
                    let mut fields = Fields::new(message.kind, &message.body);
                    self.pid = fields.u32()?;
                    self.cancel_key = Bytes::copy_from_slice(fields.rest());
                }
                back::READY_FOR_QUERY => return Ok(()),
                back::ERROR_RESPONSE => return Err(DbError::parse(&message.body)?.into()),
                back::NEGOTIATE_PROTOCOL_VERSION => (),
                kind => return Err(unexpected(kind, "starting")),
            }
        }
    }

    // A standby says `on`, and so does a server that is read-only by default.
    /// Otherwise it cannot be written to.
    async fn check_is(&mut self, question: &str, wanted: &str) -> Result<(), Error> {
        let rows = self.simple(question).await?;
        let answer = rows.first().map(|row| row.text(0)).transpose()?.flatten();
        if answer == Some(wanted) { Ok(()) } else { Err(Error::ReadOnly) }
    }

    /// The server's process that serves us.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The same as records name it.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The host that let us in.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A reported setting (`server_version`, `client_encoding`, ..).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Transaction status of the last ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The last CommandComplete's tag, e.g. `INSERT 0 2`.
    pub fn tag(&self) -> &str {
        std::str::from_utf8(&self.tag).unwrap_or_default()
    }

    /// The count in the last tag; 0 where it has none.
    pub fn affected(&self) -> u64 {
        self.tag().rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Nobody on the way can read along: TLS, or a socket of this machine.
    pub fn is_private(&self) -> bool {
        self.stream.is_private()
    }

    /// What cancels this connection's running statement, from anywhere.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            config: Arc::clone(&self.config),
            endpoint: self.endpoint.clone(),
            attempt: self.attempt,
            pid: self.pid,
            key: self.cancel_key.clone(),
        }
    }

    /// Run SQL by the simple protocol: any number of statements, all their rows in order, as text.
    ///
    /// # Errors
    /// [`Error::Db`] if the server refused; the connection is ready again then.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<DataRow>, Error> {
        self.put_query(sql);
        self.send().await?;
        self.rows().await
    }

    /// Run one statement with parameters by the extended protocol, and collect its rows.
    ///
    /// # Errors
    /// [`Error::Db`] if the server refused; the connection is ready again then.
    pub async fn query(&mut self, sql: &str, params: &[Param<'_>], format: Format) -> Result<Vec<DataRow>, Error> {
        self.put_statement(sql, params, format);
        self.put_sync();
        self.send().await?;
        self.rows().await
    }

    /// As [`Client::query`] on a connection that is somebody else's: under a name of its own, which is free again behind
    /// it. The unnamed statement of whom the connection belongs to stays what it is.
    ///
    /// # Errors
    /// [`Error::Db`] if the server refused; the connection is ready again then.
    pub(in crate::protocol::postgres) async fn query_as(
        &mut self,
        name: &str,
        sql: &str,
        params: &[Param<'_>],
        format: Format,
    ) -> Result<Vec<DataRow>, Error> {
        self.put_as(name, sql, params, format);
        self.put_sync();
        self.send().await?;
        self.rows().await
    }

    /// Put a statement of [`Client::query_as`], without Sync.
    pub(in crate::protocol::postgres) fn put_as(
        &mut self,
        name: &str,
        sql: &str,
        params: &[Param<'_>],
        format: Format,
    ) {
        let types: Vec<u32> = params.iter().map(|param| param.oid).collect();
        // One that was refused may have left it.
        wire::close(&mut self.out, b'S', name.as_bytes());
        self.put_parse(name, sql, &types);
        self.put_bind(name, params, format);
        self.put_execute();
        wire::close(&mut self.out, b'S', name.as_bytes());
    }

    /// All rows up to ReadyForQuery. For answers known to be small; else [`Client::next_row`].
    pub async fn rows(&mut self) -> Result<Vec<DataRow>, Error> {
        let mut rows = Vec::new();
        while let Some(row) = self.next_row().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// The next row of what is running; `None` at ReadyForQuery.
    ///
    /// # Errors
    /// [`Error::Db`] after everything up to ReadyForQuery was read.
    pub async fn next_row(&mut self) -> Result<Option<DataRow>, Error> {
        loop {
            let message = self.recv().await?;
            match message.kind {
                back::DATA_ROW => return Ok(Some(DataRow(message.body))),
                back::READY_FOR_QUERY => return Ok(None),
                back::ERROR_RESPONSE => return Err(self.failed(&message.body).await),
                back::COPY_IN_RESPONSE | back::COPY_OUT_RESPONSE | back::COPY_BOTH_RESPONSE => {
                    return Err(unexpected(message.kind, "reading rows"));
                }
                _ => (),
            }
        }
    }

    /// The next row of one of several statements before a Sync; `None` at the statement's end.
    ///
    /// # Errors
    /// [`Error::Db`] after everything up to ReadyForQuery was read.
    pub async fn next_row_of_statement(&mut self) -> Result<Option<DataRow>, Error> {
        loop {
            let message = self.recv().await?;
            match message.kind {
                back::DATA_ROW => return Ok(Some(DataRow(message.body))),
                back::ROW_DESCRIPTION => self.columns = message.body,
                back::COMMAND_COMPLETE => return Ok(None),
                back::ERROR_RESPONSE => return Err(self.failed(&message.body).await),
                back::READY_FOR_QUERY => return Err(unexpected(message.kind, "reading rows")),
                _ => (),
            }
        }
    }

    /// Of which table, by oid, and which column there, by number, each column is of the rows of the last statement of
    /// [`Client::put_described`]; 0 where it is of none.
    ///
    /// # Errors
    /// The server did not say so as it should.
    pub fn columns(&self) -> Result<Vec<(u32, i16)>, Error> {
        let mut fields = Fields::new(back::ROW_DESCRIPTION, &self.columns);
        let mut columns = Vec::new();
        for _ in 0..fields.u16()? {
            fields.cstr()?;
            columns.push((fields.u32()?, fields.i16()?));
            // Its type, that one's size and modifier, and the format.
            fields.take(12)?;
        }
        Ok(columns)
    }

    /// Read on to ReadyForQuery, rows ignored.
    ///
    /// # Errors
    /// [`Error::Db`] with the first error on the way; the connection is ready again then.
    pub async fn finish(&mut self) -> Result<(), Error> {
        while self.next_row().await?.is_some() {}
        Ok(())
    }

    // The error that an ErrorResponse stands for, once the connection is ready again. A server that says FATAL hangs
    // up instead of becoming ready: then its words are worth more than "closed".
    async fn failed(&mut self, body: &[u8]) -> Error {
        let error = match DbError::parse(body) {
            Ok(error) => Error::from(error),
            Err(error) => return error.into(),
        };
        while self.ready_got < self.ready_put {
            match self.recv().await {
                Ok(message) if message.kind == back::READY_FOR_QUERY => break,
                Ok(_) => (),
                Err(_) => break,
            }
        }
        error
    }

    /// Read everything up to the last ReadyForQuery that is owed, whatever it says; unsent messages are sent first.
    pub async fn drain(&mut self) -> Result<(), Error> {
        self.send().await?;
        while self.ready_got < self.ready_put {
            let message = self.read_message().await?;
            match message.kind {
                back::READY_FOR_QUERY => {
                    self.note_ready(&message.body)?;
                }
                back::ERROR_RESPONSE => self.prepared.doubtful = true,
                _ => (),
            }
        }
        Ok(())
    }

    /// Start `COPY .. FROM STDIN`.
    ///
    /// # Errors
    /// [`Error::Db`] if the server refused the statement.
    pub async fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>, Error> {
        self.put_query(sql);
        self.send().await?;
        match self.recv().await? {
            message if message.kind == back::COPY_IN_RESPONSE => Ok(CopyIn { client: self }),
            message if message.kind == back::ERROR_RESPONSE => Err(self.failed(&message.body).await),
            message => Err(unexpected(message.kind, "starting a COPY")),
        }
    }

    /// The next message, except notices, notifications and changed parameters.
    ///
    /// # Errors
    /// The socket's, or bytes that are not the protocol; a server's ErrorResponse is a message like others.
    pub async fn recv(&mut self) -> Result<Message, Error> {
        loop {
            let message = self.read_message().await?;
            match message.kind {
                back::NOTICE_RESPONSE => continue,
                back::NOTIFICATION_RESPONSE => self.note_aside(&message)?,
                back::PARAMETER_STATUS => {
                    self.note_aside(&message)?;
                    self.note_parameter(&message.body)?;
                }
                back::READY_FOR_QUERY if self.note_ready(&message.body)? => return Ok(message),
                back::READY_FOR_QUERY => (),
                back::ERROR_RESPONSE => {
                    self.prepared.doubtful = true;
                    return Ok(message);
                }
                _ if self.unwaited.front() == Some(&(self.ready_got + 1)) => (),
                back::COMMAND_COMPLETE => {
                    self.tag = message.body.slice(..message.body.len().saturating_sub(1));
                    return Ok(message);
                }
                _ => return Ok(message),
            }
        }
    }

    /// The body of the next message, which must be of this type.
    ///
    /// # Errors
    /// [`Error::Db`] if it is an ErrorResponse (and nothing was read behind it), [`Error::Unexpected`] if another.
    pub async fn expect(&mut self, kind: u8, doing: &'static str) -> Result<Bytes, Error> {
        let message = self.recv().await?;
        match message.kind {
            found if found == kind => Ok(message.body),
            back::ERROR_RESPONSE => Err(DbError::parse(&message.body)?.into()),
            found => Err(unexpected(found, doing)),
        }
    }

    async fn read_message(&mut self) -> Result<Message, Error> {
        let limit = self.config.message_bytes_max;
        loop {
            let wanted = match Header::peek(&self.input)? {
                Some(Header { kind, size }) if size > limit => {
                    return Err(WireError::TooLarge { kind: char::from(kind), len: size, limit }.into());
                }
                Some(Header { kind, size }) if self.input.len() >= size => {
                    let mut body = self.input.split_to(size).freeze();
                    body.advance(wire::HEADER);
                    return Ok(Message { kind, body });
                }
                Some(Header { size, .. }) => size - self.input.len(),
                None => wire::HEADER,
            };
            self.input.reserve(wanted.max(READ_BYTES));
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Error::Closed);
            }
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
    }

    // False: it answers what nobody waits for.
    fn note_ready(&mut self, body: &[u8]) -> Result<bool, WireError> {
        self.status = Fields::new(back::READY_FOR_QUERY, body).u8()?;
        self.ready_got += 1;
        let unwaited = self.unwaited.front() == Some(&self.ready_got);
        if unwaited {
            self.unwaited.pop_front();
        }
        Ok(!unwaited)
    }

    fn note_aside(&mut self, said: &Message) -> Result<(), WireError> {
        let Some(asides) = &mut self.asides else { return Ok(()) };
        let len = asides.len() + said.body.len();
        if len > ASIDES_BYTES_MAX {
            return Err(WireError::TooLarge { kind: char::from(said.kind), len, limit: ASIDES_BYTES_MAX });
        }
        wire::message(asides, said.kind, |b| b.extend_from_slice(&said.body));
        Ok(())
    }

    fn note_parameter(&mut self, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(back::PARAMETER_STATUS, body);
        let name = String::from_utf8_lossy(fields.cstr()?).into_owned();
        let value = String::from_utf8_lossy(fields.cstr()?).into_owned();
        self.parameters.insert(name, value);
        Ok(())
    }

    /// The output buffer, for messages that have no `put_*` here.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Put messages of others, the last of them a Query or a Sync.
    pub(in crate::protocol::postgres) fn put_whole(&mut self, put: impl FnOnce(&mut BytesMut)) {
        put(&mut self.out);
        self.ready_put += 1;
    }

    /// Put a simple Query.
    pub fn put_query(&mut self, sql: &str) {
        self.put_query_bytes(sql.as_bytes());
    }

    /// Put a simple Query in the connection's own encoding.
    pub fn put_query_bytes(&mut self, sql: &[u8]) {
        wire::query(&mut self.out, sql);
        self.ready_put += 1;
    }

    /// Put a Parse: `types` may be shorter than the parameters, 0 = infer.
    pub fn put_parse(&mut self, name: &str, sql: &str, types: &[u32]) {
        wire::parse(&mut self.out, name.as_bytes(), sql.as_bytes(), types);
    }

    /// Put a Bind of a statement to the unnamed portal; all result columns in one format.
    pub fn put_bind(&mut self, statement: &str, params: &[Param<'_>], results: Format) {
        let count = u16::try_from(params.len()).expect("our statements have few parameters");
        wire::message(&mut self.out, front::BIND, |b| {
            wire::cstr(b, b"");
            wire::cstr(b, statement.as_bytes());
            b.put_u16(count);
            params.iter().for_each(|param| b.put_i16(param.format as i16));
            b.put_u16(count);
            params.iter().for_each(|param| put_value(b, param.value));
            b.put_u16(1);
            b.put_i16(results as i16);
        });
    }

    /// Put an Execute of the unnamed portal, all rows.
    pub fn put_execute(&mut self) {
        wire::execute(&mut self.out, b"", 0);
    }

    /// Put Parse, Bind, Execute of an unnamed statement, without Sync.
    pub fn put_statement(&mut self, sql: &str, params: &[Param<'_>], results: Format) {
        let types: Vec<u32> = params.iter().map(|param| param.oid).collect();
        self.put_parse("", sql, &types);
        self.put_bind("", params, results);
        self.put_execute();
    }

    /// As [`Client::put_statement`], of a statement that stays prepared: for those that are put again and again with
    /// the same types of parameters. After an error each is parsed anew.
    pub fn put_prepared(&mut self, sql: &str, params: &[Param<'_>], results: Format) {
        self.put_bound(sql, params, results);
        self.put_execute();
    }

    /// The same; the server says before the rows what they are of, see [`Client::columns`].
    pub fn put_described(&mut self, sql: &str, params: &[Param<'_>], results: Format) {
        self.put_bound(sql, params, results);
        wire::describe(&mut self.out, b'P', b"");
        self.put_execute();
    }

    fn put_bound(&mut self, sql: &str, params: &[Param<'_>], results: Format) {
        let choice = self.prepared.choose(sql);
        for name in &choice.close {
            wire::close(&mut self.out, b'S', name.as_bytes());
        }
        if choice.parse {
            let types: Vec<u32> = params.iter().map(|param| param.oid).collect();
            self.put_parse(&choice.name, sql, &types);
        }
        self.put_bind(&choice.name, params, results);
    }

    /// Put a Sync: the server answers it with ReadyForQuery.
    pub fn put_sync(&mut self) {
        wire::bare(&mut self.out, front::SYNC);
        self.ready_put += 1;
    }

    /// Put a Sync whose answer is skipped when it comes: the server's clocks for idle sessions and idle transactions
    /// begin anew. Not inside `COPY .. FROM STDIN`, where servers ignore a Sync, and leave it unanswered.
    pub fn put_keepalive(&mut self) {
        self.put_sync();
        self.unwaited.push_back(self.ready_put);
    }

    /// Put a simple Query whose answer is skipped when it comes. An error is not: whoever reads next is told.
    pub fn put_unwaited(&mut self, sql: &str) {
        self.put_query(sql);
        self.unwaited.push_back(self.ready_put);
    }

    /// Put one CopyData.
    pub fn put_copy_data(&mut self, data: &[u8]) {
        wire::message(&mut self.out, front::COPY_DATA, |b| b.extend_from_slice(data));
    }

    /// How much waits to be sent.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Send everything that was put. While this writes nothing is read: do not ask for megabytes of answers and put
    /// megabytes more behind them.
    ///
    /// # Errors
    /// A server that hangs up says why first: then [`Error::Db`] with its words, else the socket's error. Either way
    /// the connection is of no more use.
    pub async fn send(&mut self) -> Result<(), Error> {
        match self.write().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words().await.unwrap_or(error.into())),
        }
    }

    async fn write(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.out.clear();
        self.stream.flush().await
    }

    // What cannot be written to may still be read from.
    async fn last_words(&mut self) -> Option<Error> {
        let told = async {
            loop {
                let message = self.recv().await.ok()?;
                if message.kind == back::ERROR_RESPONSE {
                    return Some(DbError::parse(&message.body).ok()?.into());
                }
            }
        };
        timeout(LAST_WORDS, told).await.ok().flatten()
    }

    /// Say nothing more. Resolves when the server has hung up too, which it does behind the statement at hand: its process
    /// ends then. What it still says is thrown away.
    pub async fn hang_up(&mut self) {
        let _ = self.stream.shutdown().await;
        let mut unread = [0; 4 << 10];
        while matches!(self.stream.read(&mut unread).await, Ok(1..)) {}
    }

    /// Say goodbye. Dropping the connection does as well, only less politely.
    pub async fn close(mut self) {
        wire::bare(&mut self.out, front::TERMINATE);
        // Whether it arrives or not, this end is closed.
        if self.send().await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// A running `COPY .. FROM STDIN`. Dropped unfinished it leaves the connection inside the COPY.
#[derive(Debug)]
pub struct CopyIn<'a> {
    client: &'a mut Client,
}

impl CopyIn<'_> {
    /// Add data; it is sent every [`SEND_BYTES`]. The pieces need not be rows.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.client.put_copy_data(data);
        if self.client.unsent() >= SEND_BYTES {
            self.client.send().await?;
        }
        Ok(())
    }

    /// End it; how many rows were copied.
    ///
    /// # Errors
    /// [`Error::Db`] if the server refused a row; nothing was copied then.
    pub async fn finish(self) -> Result<u64, Error> {
        wire::bare(&mut self.client.out, front::COPY_DONE);
        self.client.send().await?;
        self.client.finish().await?;
        Ok(self.client.affected())
    }

    /// Give it up; nothing was copied.
    pub async fn abort(self, why: &str) -> Result<(), Error> {
        let why: Vec<u8> = why.bytes().filter(|&byte| byte != 0).collect();
        wire::message(&mut self.client.out, front::COPY_FAIL, |b| wire::cstr(b, &why));
        self.client.send().await?;
        match self.client.finish().await {
            Ok(()) | Err(Error::Db(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Cancels whatever a connection is running; sent on a connection of its own, without an answer.
#[derive(Clone, Debug)]
pub struct CancelToken {
    config: Arc<ServerConfig>,
    endpoint: Endpoint,
    attempt: Attempt,
    pid: u32,
    key: Bytes,
}

impl CancelToken {
    /// Ask for it. The statement may have ended by itself meanwhile: then the next one is hit, so cancel only what is
    /// known to run, and wait for its answer before going on.
    pub async fn cancel(&self) -> Result<(), Error> {
        let limit = self.config.connect_timeout;
        timeout(limit, self.ask()).await.unwrap_or(Err(Error::Timeout(limit)))
    }

    async fn ask(&self) -> Result<(), Error> {
        let mut stream = stream::open(&self.config, &self.endpoint, self.attempt).await?;
        let mut request = BytesMut::new();
        let len = i32::try_from(12 + self.key.len()).expect("a cancel key came in one message");
        request.put_i32(len);
        request.put_i32(CANCEL_REQUEST);
        request.put_u32(self.pid);
        request.extend_from_slice(&self.key);
        stream.write_all(&request).await?;
        stream.flush().await?;
        // The server hangs up once the signal is on its way.
        let _ = stream.read_u8().await;
        Ok(())
    }
}

/// Append a value of a Bind or a tuple: length and bytes, -1 for NULL.
pub fn put_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => out.put_i32(-1),
        Some(bytes) => {
            out.put_i32(i32::try_from(bytes.len()).expect("values are cut into batches below 1 GiB"));
            out.extend_from_slice(bytes);
        }
    }
}

fn put_startup(out: &mut BytesMut, config: &ServerConfig) -> Result<(), Error> {
    let database = if config.database.is_empty() { &config.user } else { &config.database };
    let mut pairs = vec![("user", config.user.as_str()), ("database", database.as_str())];
    if !config.params.iter().any(|(name, _)| name == "client_encoding") {
        pairs.push(("client_encoding", "UTF8"));
    }
    pairs.extend(config.params.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if pairs.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(Error::Config("a connection parameter holds a zero byte".into()));
    }
    let at = out.len();
    out.put_i32(0);
    out.put_i32(VERSION_3_0);
    for (name, value) in pairs {
        wire::cstr(out, name.as_bytes());
        wire::cstr(out, value.as_bytes());
    }
    out.put_u8(0);
    let len = i32::try_from(out.len() - at).map_err(|_| Error::Config("connection parameters are too long".into()))?;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

fn unexpected(kind: u8, doing: &'static str) -> Error {
    Error::Unexpected { kind: char::from(kind), doing }
}

// libpq's rule for `allow` and `prefer`: the other way is tried when TLS itself failed or when pg_hba.conf refused
// this one (28000), not when the password was wrong or nobody was there.
fn tls_may_matter(error: &Error) -> bool {
    matches!(error, Error::Tls(_)) || error.code() == Some("28000")
}

#[cfg(test)]
mod tests;
