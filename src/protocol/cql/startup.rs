//! The first words: what version and compression, who is it; and the same again at another server, for a client that is
//! there already.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::record::Side;

use super::client::is_by_certificate;
use super::link::{Error, Kept, Link, plain};
use super::session::framing::Framing;
use super::text::edit::quoted;
use super::topology::Supported;
use super::wire::compress::Compression;
use super::wire::primitive::{Consistency, Reader};
use super::wire::request::{Parameters, Query, Token, put_startup};
use super::wire::response::{self, ErrorKind, Response, ServerError};
use super::wire::{Envelope, Header, HeaderError, Opcode, Version};

/// How a client began, to begin again elsewhere in its name. Its credentials are in here: never shown.
#[derive(Clone)]
pub(super) struct Login {
    /// How frames travel.
    pub framing: Framing,
    /// The STARTUP message, as it came.
    startup: Bytes,
    /// What the client answered an authenticator with, if it did so in one step, as user and password do.
    token: Option<Bytes>,
    /// Whose servers took it. `None`: nobody has looked at it.
    taken_by: Option<Side>,
}

/// What Cassandra calls a client that did not say who it is; so do `[[users]]`.
pub(super) const ANONYMOUS: &str = "anonymous";

/// Who asks clients who they are. Clients meet the same on both sides of a switch: what the origin did at the first start.
pub(super) struct Door<'a> {
    /// The class that asks them; `None`: nobody does.
    pub authenticator: Option<&'a str>,
    /// The password of [`ANONYMOUS`], who is logged in where a server asks and nobody did.
    pub anonymous: Option<&'a str>,
}

impl Login {
    /// Of one that never said who it is.
    pub(super) fn anonymous() -> Result<Login, super::wire::Error> {
        let mut startup = BytesMut::new();
        put_startup(&mut startup, &[("CQL_VERSION", "3.0.0")])?;
        let framing = Framing { version: Version::V4, compression: None };
        Ok(Login { framing, startup: startup.freeze(), token: None, taken_by: None })
    }

    /// Who the client is, if it said so.
    pub(super) fn user(&self) -> Option<&str> {
        // SASL PLAIN: authorization identity, user, password, with zero bytes between them (RFC 4616).
        let token = self.token.as_ref()?;
        std::str::from_utf8(token.split(|byte| *byte == 0).nth(1)?).ok()
    }
}

/// What the client said before it began.
pub(super) struct Hello {
    pub(super) framing: Framing,
    startup: Bytes,
}

/// Read until STARTUP, which is returned as it came too. `supported` is what clients may choose from. `None`: the client left.
///
/// # Errors
/// The client sent what nobody understands; it was told.
pub(super) async fn greet<C>(client: &mut Link<C>, supported: &Supported) -> Result<Option<(Hello, Kept)>, Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let newest = supported.versions().last().copied().unwrap_or(Version::V4);
    loop {
        let kept = match client.receive().await {
            Ok(kept) => kept,
            Err(Error::Closed) => return Ok(None),
            Err(Error::Refused(refused)) => {
                turn_away(client, supported, newest, refused).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Header { version, stream, opcode, .. } = kept.header;
        if !supported.versions().contains(&version) {
            refuse(client, newest, 0, &supported.refusal(version as u8)).await?;
            continue;
        }
        match opcode {
            Opcode::Options => offer(client, supported, kept.header).await?,
            Opcode::Startup => match Hello::read(client, &kept, supported) {
                Ok(Ok(hello)) => return Ok(Some((hello, kept))),
                Ok(Err(refusal)) => refuse(client, version, stream, &refusal).await?,
                Err(garbled) => refuse(client, version, 0, &garbled.to_string()).await?,
            },
            other => {
                let text = format!("Unexpected message {}, expecting STARTUP or OPTIONS", other.name());
                refuse(client, version, 0, &text).await?;
            }
        }
    }
}

/// Answer OPTIONS.
async fn offer<C>(client: &mut Link<C>, supported: &Supported, header: Header) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    let envelope = Envelope::new(header.version, header.stream, Opcode::Supported);
    envelope.put(&mut out, |out| supported.put(out, header.version))?;
    client.send(&out).await
}

async fn refuse<C>(client: &mut Link<C>, version: Version, stream: i16, text: &str) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    client.tell(version, stream, &Response::Error(ServerError::new(ErrorKind::Protocol, text))).await
}

/// Answer a header that cannot be read. Drivers that asked for a version that we do not speak try the next, on the same
/// connection or on another.
async fn turn_away<C>(
    client: &mut Link<C>,
    supported: &Supported,
    newest: Version,
    refused: HeaderError,
) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let text = match refused.error {
        // With our own list of versions.
        super::wire::Error::Version(number) => supported.refusal(number),
        _ => refused.error.to_string(),
    };
    // A server that has agreed on no version answers in its newest, except to those who would not understand it.
    let version = if Version::from_number(refused.version).is_some() { newest as u8 } else { refused.version };
    let mut out = BytesMut::new();
    response::put_refusal_in(&mut out, &HeaderError { version, ..refused.clone() }, &text)?;
    client.send(&out).await?;
    if client.skip(&refused) { Ok(()) } else { Err(Error::Refused(refused)) }
}

impl Hello {
    /// Of a STARTUP. The inner error is what the client asks for and cannot have.
    fn read<C>(
        client: &Link<C>,
        kept: &Kept,
        supported: &Supported,
    ) -> Result<Result<Hello, String>, super::wire::Error>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let version = kept.header.version;
        let body = client.body(kept)?;
        let envelope = Envelope::open(plain(kept.header), &body)?;
        let options = Reader::new(envelope.message).string_map("startup options")?;
        let named = options.get("COMPRESSION").map(|name| (name, Compression::from_name(name)));
        match named {
            Some((_, Some(Compression::Snappy))) if version >= Version::V5 => {
                return Ok(Err("Snappy compression is not supported in protocol V5".to_owned()));
            }
            Some((_, Some(known))) if supported.compresses(version, known) => {}
            Some((name, _)) => return Ok(Err(format!("Unknown compression algorithm: {name}"))),
            None => {}
        }
        let compression = named.and_then(|(_, compression)| compression);
        let startup = Bytes::copy_from_slice(envelope.message);
        Ok(Ok(Hello { framing: Framing { version, compression }, startup }))
    }
}

/// A client and a server between the first words and the first request.
pub(super) struct Entrance<'a, C, S> {
    pub(super) client: &'a mut Link<C>,
    pub(super) server: &'a mut Link<S>,
    /// Where that server is.
    pub(super) side: Side,
    pub(super) supported: &'a Supported,
    pub(super) door: Door<'a>,
}

impl<C, S> Entrance<'_, C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Relay a client's login to its server, from the answer to STARTUP, which came on this stream, to its end. `None`: the server
    /// refused it, and the client was told; it may begin again.
    ///
    /// # Errors
    /// One of them left, or what it sent cannot be read.
    pub(super) async fn pass(mut self, hello: &Hello, stream: i16, answer: Kept) -> Result<Option<Login>, Error> {
        let version = hello.framing.version;
        let login = Login { framing: hello.framing, startup: hello.startup.clone(), token: None, taken_by: None };
        if answer.header.opcode == Opcode::Error {
            self.client.send(&answer.bytes).await?;
            // From here on v5 would speak in segments, or would not: servers close.
            return if version >= Version::V5 { Err(Error::Closed) } else { Ok(None) };
        }
        self.server.agree(hello.framing);
        let password = self.door.anonymous.or_else(|| heeds_nothing(self.server, &answer).then_some(""));
        match (answer.header.opcode, self.door.authenticator, password) {
            (Opcode::Authenticate, None, Some(password)) => {
                answer_authenticator(self.server, version, &plain_token(ANONYMOUS, password)).await?;
                self.client.tell(version, stream, &Response::Ready).await?;
                self.client.agree(hello.framing);
                Ok(Some(login))
            }
            (Opcode::Ready, Some(class), _) => {
                self.client.tell(version, stream, &Response::Authenticate(class)).await?;
                self.client.agree(hello.framing);
                Ok(Some(Login { token: Some(self.ask().await?), ..login }))
            }
            _ => {
                self.client.send(&answer.bytes).await?;
                self.client.agree(hello.framing);
                self.relay(login, answer).await.map(Some)
            }
        }
    }

    async fn relay(&mut self, mut login: Login, mut answer: Kept) -> Result<Login, Error> {
        let mut steps = 0;
        while !matches!(answer.header.opcode, Opcode::Ready | Opcode::AuthSuccess) {
            let said = self.said().await?;
            if said.header.opcode == Opcode::AuthResponse {
                steps += 1;
                login.token = self.token(&said)?.filter(|_| steps == 1);
            }
            self.server.send(&said.bytes).await?;
            answer = self.server.receive().await?;
            self.client.send(&answer.bytes).await?;
            // A wrong password may be followed by another try.
            if answer.header.opcode == Opcode::Error {
                steps = 0;
            }
        }
        login.taken_by = Some(self.side);
        Ok(login)
    }

    /// Ask in the place of a server that asks nobody: what is said is needed on the other side.
    async fn ask(&mut self) -> Result<Bytes, Error> {
        loop {
            let said = self.said().await?;
            let Header { version, stream, opcode, .. } = said.header;
            if opcode != Opcode::AuthResponse {
                let text = format!("Unexpected message {}, expecting SASL_RESPONSE", opcode.name());
                refuse(self.client, version, stream, &text).await?;
                continue;
            }
            let token = self.token(&said)?.unwrap_or_default();
            self.client.tell(version, stream, &Response::AuthSuccess(Token(None))).await?;
            return Ok(token);
        }
    }

    /// What the client says next that is not about the cluster.
    async fn said(&mut self) -> Result<Kept, Error> {
        loop {
            let said = self.client.receive().await?;
            let Header { version, opcode, .. } = said.header;
            // What cannot be decompressed crashes some servers: they do not get to see it.
            if said.frame().is_compressed()
                && let Err(garbled) = self.client.body(&said)
            {
                let text = garbled.to_string();
                let told = ServerError::new(ErrorKind::Server, &text);
                self.client.tell(version, 0, &Response::Error(told)).await?;
                continue;
            }
            if opcode != Opcode::Options {
                return Ok(said);
            }
            offer(self.client, self.supported, said.header).await?;
        }
    }

    fn token(&self, said: &Kept) -> Result<Option<Bytes>, Error> {
        let body = self.client.body(said)?;
        let envelope = Envelope::open(plain(said.header), &body)?;
        Ok(Reader::new(envelope.message).bytes("token")?.map(Bytes::copy_from_slice))
    }
}

/// SASL PLAIN (RFC 4616), which `PasswordAuthenticator` and its kin take.
fn plain_token(user: &str, password: &str) -> Bytes {
    Bytes::from(["", user, password].join("\0"))
}

/// The server asks, and knows us by our certificate all the same.
fn heeds_nothing<S: AsyncRead + AsyncWrite + Unpin>(server: &Link<S>, asked: &Kept) -> bool {
    server.authenticator(asked).is_some_and(|class| is_by_certificate(&class))
}

async fn answer_authenticator<S>(server: &mut Link<S>, version: Version, token: &[u8]) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let put = |out: &mut BytesMut| super::wire::primitive::put_bytes(out, Some(token), "token");
    match server.ask(version, Opcode::AuthResponse, put).await?.header.opcode {
        Opcode::AuthSuccess => Ok(()),
        _ => Err(Error::Server("the server asks for more than one step of authentication".to_owned())),
    }
}

/// What a session needs at a server that it comes to later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Luggage {
    /// Its keyspace.
    pub keyspace: Option<Arc<str>>,
    /// The REGISTER message that it sent.
    pub registered: Option<Bytes>,
}

/// Begin again at another server, of this side, in the client's name. `user`: who it is there, if that is configured.
pub(super) async fn again<S>(
    (server, side): (&mut Link<S>, Side),
    login: &Login,
    user: Option<(&str, &str)>,
    luggage: &Luggage,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let version = login.framing.version;
    let put = |message: &[u8]| {
        let message = message.to_vec();
        move |out: &mut BytesMut| {
            out.extend_from_slice(&message);
            Ok(())
        }
    };
    let answer = server.ask(version, Opcode::Startup, put(&login.startup)).await?;
    server.agree(login.framing);
    if answer.header.opcode == Opcode::Authenticate {
        let (own, configured) = (login.token.clone(), user.map(|(name, password)| plain_token(name, password)));
        let token = match login.taken_by {
            Some(taken_by) if taken_by != side => configured.or(own),
            // What this side took it takes again; and a name that nobody has verified has no right to its password.
            _ => own.or(configured),
        };
        let token = token.or_else(|| heeds_nothing(server, &answer).then(|| plain_token(ANONYMOUS, "")));
        let Some(token) = token else {
            let text = "the server asks for a password, and the client gave none: [[users]] with the name anonymous is who it is";
            return Err(Error::Server(text.to_owned()));
        };
        answer_authenticator(server, version, &token).await?;
    }
    if let Some(keyspace) = &luggage.keyspace {
        let text = format!("USE {}", quoted(keyspace));
        let query = Query { text: text.as_bytes(), parameters: Parameters::new(Consistency::One) };
        server.ask(version, Opcode::Query, |out| query.put(out, version)).await?;
    }
    if let Some(registered) = &luggage.registered {
        server.ask(version, Opcode::Register, put(registered)).await?;
    }
    Ok(())
}
