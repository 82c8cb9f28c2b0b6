//! The first words: what version and compression, who is it; and the same again at another server, for a client that is
//! there already.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::link::{Error, Kept, Link, plain};
use super::session::framing::Framing;
use super::topology::Supported;
use super::wire::compress::Compression;
use super::wire::primitive::{Consistency, Reader};
use super::wire::request::{Parameters, Query};
use super::wire::response::{self, ErrorKind, Response, ServerError};
use super::wire::{Envelope, Opcode, Version};

/// How a client began, to begin again elsewhere in its name. Its credentials are in here: never shown.
#[derive(Clone)]
pub(super) struct Login {
    /// How frames travel.
    pub framing: Framing,
    /// The STARTUP message, as it came.
    startup: Bytes,
    /// What the client answered an authenticator with, if it did so in one step, as user and password do.
    token: Option<Bytes>,
}

impl Login {
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
    pub(super) kept: Kept,
    startup: Bytes,
}

/// Read until STARTUP. `supported` is what clients may choose from. `None`: the client left.
///
/// # Errors
/// The client sent what nobody understands; it was told.
pub(super) async fn greet<C>(client: &mut Link<C>, supported: &Supported) -> Result<Option<Hello>, Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let versions = supported.versions();
    let newest = versions.last().copied().unwrap_or(Version::V4);
    loop {
        let kept = match client.receive().await {
            Ok(kept) => kept,
            Err(Error::Closed) => return Ok(None),
            Err(Error::Refused(refused)) => {
                let mut out = BytesMut::new();
                match refused.error {
                    // With our own list of versions.
                    super::wire::Error::Version(number) => {
                        let text = supported.refusal(number);
                        let error = ServerError::new(ErrorKind::Protocol, &text);
                        Response::Error(error).put_frame(&mut out, newest, refused.stream)?;
                    }
                    _ => response::put_refusal(&mut out, &refused)?,
                }
                client.send(&out).await?;
                // A version that we do not speak: drivers try the next on the same connection, or on another.
                let Some(size) = refused.size.filter(|size| *size <= client.unread.len()) else {
                    return Err(Error::Refused(refused));
                };
                let _ = client.unread.split_to(size);
                continue;
            }
            Err(error) => return Err(error),
        };
        let header = kept.header;
        if !versions.contains(&header.version) {
            let text = supported.refusal(header.version as u8);
            client.tell(newest, 0, &Response::Error(ServerError::new(ErrorKind::Protocol, &text))).await?;
            continue;
        }
        let body = client.body(&kept);
        let envelope = Envelope::open(plain(header), &body)?;
        match header.opcode {
            Opcode::Options => {
                let mut out = BytesMut::new();
                Envelope::new(header.version, header.stream, Opcode::Supported)
                    .put(&mut out, |out| supported.put(out, header.version))?;
                client.send(&out).await?;
            }
            Opcode::Startup => {
                let options = Reader::new(envelope.message).string_map("startup options")?;
                let named = options.get("COMPRESSION").map(|name| (name, Compression::from_name(name)));
                let refusal = match named {
                    Some((_, Some(Compression::Snappy))) if header.version >= Version::V5 => {
                        Some("Snappy compression is not supported in protocol V5".to_owned())
                    }
                    Some((_, Some(known))) if supported.compresses(header.version, known) => None,
                    Some((name, _)) => Some(format!("Unknown compression algorithm: {name}")),
                    None => None,
                };
                if let Some(text) = refusal {
                    let error = ServerError::new(ErrorKind::Protocol, &text);
                    client.tell(header.version, header.stream, &Response::Error(error)).await?;
                    continue;
                }
                let compression = named.and_then(|(_, compression)| compression);
                let startup = Bytes::copy_from_slice(envelope.message);
                return Ok(Some(Hello { framing: Framing { version: header.version, compression }, kept, startup }));
            }
            other => {
                let text = format!("Unexpected message {other:?}, expecting STARTUP or OPTIONS");
                let error = ServerError::new(ErrorKind::Protocol, &text);
                client.tell(header.version, header.stream, &Response::Error(error)).await?;
            }
        }
    }
}

/// Relay a client's login to its server, to its end. `None`: the server refused it, and the client was told.
pub(super) async fn relay<C, S>(
    client: &mut Link<C>,
    server: &mut Link<S>,
    hello: Hello,
) -> Result<Option<Login>, Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    server.send(&hello.kept.bytes).await?;
    let mut answer = server.receive().await?;
    client.send(&answer.bytes).await?;
    let mut login = Login { framing: hello.framing, startup: hello.startup, token: None };
    if answer.header.opcode == Opcode::Error {
        return Ok(None);
    }
    server.agree(hello.framing);
    client.agree(hello.framing);
    let mut steps = 0;
    while !matches!(answer.header.opcode, Opcode::Ready | Opcode::AuthSuccess) {
        let said = client.receive().await?;
        let body = client.body(&said);
        let envelope = Envelope::open(plain(said.header), &body)?;
        if said.header.opcode == Opcode::AuthResponse {
            steps += 1;
            let token = Reader::new(envelope.message).bytes("token")?;
            login.token = token.filter(|_| steps == 1).map(Bytes::copy_from_slice);
        }
        server.send(&said.bytes).await?;
        answer = server.receive().await?;
        client.send(&answer.bytes).await?;
        // Like a real server: a wrong password may be followed by another try.
        if answer.header.opcode == Opcode::Error && said.header.opcode == Opcode::AuthResponse {
            return Ok(None);
        }
    }
    Ok(Some(login))
}

/// What a session needs at a server that it comes to later.
#[derive(Clone, Debug, Default)]
pub(super) struct Luggage {
    /// Its keyspace.
    pub keyspace: Option<Arc<str>>,
    /// The REGISTER message that it sent.
    pub registered: Option<Bytes>,
}

/// Begin again at another server, in the client's name. `user`: who it is there, if that is configured.
pub(super) async fn again<S>(
    server: &mut Link<S>,
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
        let configured = user.map(|(name, password)| Bytes::from(format!("\0{name}\0{password}")));
        let Some(token) = configured.or_else(|| login.token.clone()) else {
            let text = "the server asks for a password, and the client gave none: name it in [[users]]";
            return Err(Error::Server(text.to_owned()));
        };
        let answer = server
            .ask(version, Opcode::AuthResponse, |out| super::wire::primitive::put_bytes(out, Some(&token), "token"))
            .await?;
        if answer.header.opcode != Opcode::AuthSuccess {
            return Err(Error::Server("the server asks for more than one step of authentication".to_owned()));
        }
    }
    if let Some(keyspace) = &luggage.keyspace {
        let text = format!("USE \"{}\"", keyspace.replace('"', "\"\""));
        let query = Query { text: text.as_bytes(), parameters: Parameters::new(Consistency::One) };
        server.ask(version, Opcode::Query, |out| query.put(out, version)).await?;
    }
    if let Some(registered) = &luggage.registered {
        server.ask(version, Opcode::Register, put(registered)).await?;
    }
    Ok(())
}
