//! The socket under a connection to a node: TCP, or TLS over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::net::tls::{self, SslMode};

use super::error::Error;
use super::settings::{Address, Settings};

/// A connected socket; reading and writing go straight through.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connect, and agree on TLS as configured; nothing is said yet. Not bounded in time: the caller bounds it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Tls`].
    pub async fn open(settings: &Settings, address: &Address) -> Result<Stream, Error> {
        let tcp = dial(settings, address).await?;
        if settings.tls.mode == SslMode::Disable {
            return Ok(Stream::Tcp(tcp));
        }
        let name = ServerName::try_from(address.host.clone()).map_err(|error| Error::Tls(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(tls::client(&settings.tls)?));
        match connector.connect(name, tcp).await {
            Ok(tls) => Ok(Stream::Tls(Box::new(tls))),
            // The port has none. What answers in clear is spoken to in clear, as was allowed.
            Err(_) if matches!(settings.tls.mode, SslMode::Allow | SslMode::Prefer) => {
                Ok(Stream::Tcp(dial(settings, address).await?))
            }
            Err(error) => Err(Error::Tls(error.to_string())),
        }
    }
}

async fn dial(settings: &Settings, address: &Address) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
    tcp.set_nodelay(true)?;
    let interval = settings.keepalive / 4 + Duration::from_secs(1);
    let probes = socket2::TcpKeepalive::new().with_time(settings.keepalive).with_interval(interval);
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&probes)?;
    Ok(tcp)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
