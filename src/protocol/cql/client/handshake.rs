//! From a socket to a connection that takes requests: STARTUP in the newest version that the server speaks, and a login.
//!
//! Source: native_protocol_v5.spec sections 2.3 and 4.1.1 to 4.1.2; the token is SASL PLAIN (RFC 4616), which is what
//! Cassandra's `PasswordAuthenticator` and its kin take.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::socket::Socket;
use crate::protocol::cql::wire::compress::Compression;
use crate::protocol::cql::wire::frame::{Envelope, Header};
use crate::protocol::cql::wire::request::put_startup;
use crate::protocol::cql::wire::response::{Response, code};
use crate::protocol::cql::wire::{Opcode, Version, primitive};

use super::codec::Codec;
use super::error::{Error, Refusal};
use super::settings::{Address, Settings};
use super::stream;

/// A connection that takes requests.
pub(super) struct Entered {
    pub(super) stream: Socket,
    pub(super) codec: Codec,
    pub(super) version: Version,
    /// The class that asked who we are.
    pub(super) authenticator: Option<String>,
    /// What was read behind the last answer.
    pub(super) input: BytesMut,
}

/// Connect in the newest version that the server speaks. Not cancel safe: a cancelled attempt is dropped whole.
pub(super) async fn enter(settings: &Settings, address: &Address, newest: Version) -> Result<Entered, Error> {
    let mut last = None;
    for version in Version::ALL.into_iter().rev().filter(|version| *version <= newest) {
        let stream = stream::open(settings, address).await?;
        match (Login { stream, codec: Codec::new(settings.message_bytes_max), version, input: BytesMut::new() })
            .run(settings)
            .await
        {
            Err(error) if speaks_older(&error) => last = Some(error),
            other => return other,
        }
    }
    Err(last.unwrap_or(Error::Login("no version of the protocol is left to try")))
}

/// A server that asks by this class heeds nothing that is said: it knows its clients by the certificates that they showed.
pub(in crate::protocol::cql) fn is_by_certificate(class: &str) -> bool {
    class.rsplit('.').next() == Some("MutualTlsAuthenticator")
}

/// The server does not know the version. Some say so in the header of one that we do not know, some hang up.
fn speaks_older(error: &Error) -> bool {
    let foreign = matches!(error, Error::Wire(crate::protocol::cql::wire::Error::Version(_)));
    foreign || error.code() == Some(code::PROTOCOL)
}

struct Login {
    stream: Socket,
    codec: Codec,
    version: Version,
    input: BytesMut,
}

impl Login {
    async fn run(mut self, settings: &Settings) -> Result<Entered, Error> {
        let compression = settings.compression.filter(|how| *how == Compression::Lz4 || self.version < Version::V5);
        let mut options = vec![("CQL_VERSION", "3.0.0"), ("DRIVER_NAME", "tandem")];
        options.push(("DRIVER_VERSION", env!("CARGO_PKG_VERSION")));
        options.extend(compression.map(|how| ("COMPRESSION", how.name())));
        let (header, body) = self.ask(Opcode::Startup, |out| put_startup(out, &options)).await?;
        self.codec.agree(self.version, compression);
        match response(&header, &body)? {
            Response::Ready => Ok(self.entered(None)),
            Response::Authenticate(class) => self.log_in(settings, class).await,
            other => Err(Error::Unexpected { opcode: other.opcode(), doing: "starting" }),
        }
    }

    async fn log_in(mut self, settings: &Settings, class: &str) -> Result<Entered, Error> {
        if settings.user.is_empty() && !is_by_certificate(class) {
            return Err(Error::Login("the cluster asks for a login, and no `user` is configured"));
        }
        let password = settings.password.as_deref().unwrap_or_default();
        let token = ["", &settings.user, password].join("\0");
        let put = |out: &mut BytesMut| primitive::put_bytes(out, Some(token.as_bytes()), "token");
        let (header, body) = self.ask(Opcode::AuthResponse, put).await?;
        match response(&header, &body)? {
            Response::AuthSuccess(_) => Ok(self.entered(Some(class.to_owned()))),
            Response::AuthChallenge(_) => Err(Error::Login("the cluster asks for more than a name and a password")),
            other => Err(Error::Unexpected { opcode: other.opcode(), doing: "logging in" }),
        }
    }

    fn entered(self, authenticator: Option<String>) -> Entered {
        let Login { stream, codec, version, input } = self;
        Entered { stream, codec, version, authenticator, input }
    }

    /// One request, alone on the connection, and its answer.
    async fn ask(
        &mut self,
        opcode: Opcode,
        put: impl FnOnce(&mut BytesMut) -> Result<(), crate::protocol::cql::wire::Error>,
    ) -> Result<(Header, Bytes), Error> {
        let (mut frame, mut out) = (BytesMut::new(), BytesMut::new());
        Envelope::new(self.version, 1, opcode).put(&mut frame, put)?;
        self.codec.put(&frame, &mut out);
        self.codec.close(&mut out);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        loop {
            let mut answer = None;
            self.codec.take(&mut self.input, |header, body| answer = answer.take().or(Some((header, body))))?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Error::Lost("the server hung up during the login".to_owned()));
            }
        }
    }
}

/// Read an answer; an ERROR is an error.
fn response<'a>(header: &Header, body: &'a Bytes) -> Result<Response<'a>, Error> {
    let envelope = Envelope::open(*header, body)?;
    match header.opcode {
        Opcode::Error => {
            let refusal = Refusal::parse(header.version, body.slice_ref(envelope.message))?;
            Err(Error::Server(Box::new(refusal)))
        }
        _ => Ok(Response::parse(&envelope)?),
    }
}
