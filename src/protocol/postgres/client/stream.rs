//! The socket under a connection, ours to a server or a client's to us: TCP, a Unix socket, or TLS over TCP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::net::tls;
use crate::protocol::postgres::wire::SSL_REQUEST;

use super::Error;
use super::config::{Endpoint, Host, ServerConfig, SslMode};

/// A connected socket; reading and writing go straight through.
#[derive(Debug)]
pub enum Stream {
    /// TCP, in clear.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, as its client or its server.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What to do about TLS on one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// In clear.
    Plain,
    /// TLS; in clear if the server says that it has none.
    TlsOrPlain,
    /// TLS or nothing.
    Tls,
}

impl SslMode {
    /// What to try, in order.
    pub(super) fn attempts(self, endpoint: &Endpoint) -> &'static [Attempt] {
        match (&endpoint.host, self) {
            (Host::Unix(_), _) | (_, SslMode::Disable) => &[Attempt::Plain],
            (_, SslMode::Allow) => &[Attempt::Plain, Attempt::Tls],
            (_, SslMode::Prefer) => &[Attempt::TlsOrPlain, Attempt::Plain],
            _ => &[Attempt::Tls],
        }
    }
}

impl Stream {
    /// Connect to one host and agree on TLS. Not cancel safe: a cancelled connect is dropped whole.
    pub(super) async fn open(config: &ServerConfig, endpoint: &Endpoint, attempt: Attempt) -> Result<Stream, Error> {
        let name = match &endpoint.host {
            Host::Unix(dir) => {
                let path = dir.join(format!(".s.PGSQL.{}", endpoint.port));
                return Ok(Stream::Unix(UnixStream::connect(path).await?));
            }
            Host::Tcp(name) => name,
        };
        let mut tcp = TcpStream::connect((name.as_str(), endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        keepalive(config, &tcp)?;
        if attempt == Attempt::Plain || !offered(&mut tcp).await? {
            return match attempt {
                Attempt::Tls => Err(Error::Tls("the server has no TLS, and sslmode demands it".into())),
                _ => Ok(Stream::Tcp(tcp)),
            };
        }
        let server = ServerName::try_from(name.clone()).map_err(|error| Error::Tls(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(tls::client(&config.tls)?));
        let tls = connector.connect(server, tcp).await.map_err(|error| Error::Tls(error.to_string()))?;
        Ok(Stream::Tls(Box::new(tls.into())))
    }

    /// Connect to the first host that can be reached, and agree on TLS as configured, without saying who we are: for
    /// connections whose start-up is relayed. Not cancel safe.
    ///
    /// # Errors
    /// The last host's.
    pub async fn dial(config: &ServerConfig) -> Result<(Stream, Endpoint), Error> {
        let mut last = Error::Config("no host is configured for this connection".into());
        for endpoint in &config.hosts {
            for &attempt in config.tls.mode.attempts(endpoint) {
                let opened =
                    tokio::time::timeout(config.connect_timeout, Stream::open(config, endpoint, attempt)).await;
                match opened.unwrap_or(Err(Error::Timeout(config.connect_timeout))) {
                    Ok(stream) => return Ok((stream, endpoint.clone())),
                    Err(why) => last = Error::Connect { host: endpoint.clone(), why: Box::new(why) },
                }
            }
        }
        Err(last)
    }

    /// Nobody on the way can read along: TLS, or a socket of this machine.
    pub fn is_private(&self) -> bool {
        !matches!(self, Stream::Tcp(_))
    }
}

fn keepalive(config: &ServerConfig, tcp: &TcpStream) -> io::Result<()> {
    let Some(idle) = config.keepalive else { return Ok(()) };
    let settings = socket2::TcpKeepalive::new().with_time(idle).with_interval(idle / 4 + Duration::from_secs(1));
    socket2::SockRef::from(tcp).set_tcp_keepalive(&settings)
}

/// SSLRequest is answered by one byte, `S` or `N` (documentation, "SSL Session Encryption"). Nothing may follow it
/// in clear: what a man in the middle stuffed behind it would be taken for the server's first encrypted words.
async fn offered(tcp: &mut TcpStream) -> Result<bool, Error> {
    let mut request = [0; 8];
    request[..4].copy_from_slice(&8_i32.to_be_bytes());
    request[4..].copy_from_slice(&SSL_REQUEST.to_be_bytes());
    tcp.write_all(&request).await?;
    match tcp.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => Err(Error::Unexpected { kind: char::from(other), doing: "asking for TLS" }),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
