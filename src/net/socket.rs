//! A connected socket, a client's to us or ours to a server: TCP, a Unix socket, or TLS over TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connected socket; reading and writing go straight through.
#[derive(Debug)]
pub enum Socket {
    /// TCP, in clear.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, as its client or its server.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Nobody on the way can read along: TLS, or a socket of this machine.
    pub fn is_private(&self) -> bool {
        !matches!(self, Socket::Tcp(_))
    }

    /// Who is at the other end; `None`: that has no address, or is gone.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.peer_addr().ok(),
            Socket::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            Socket::Unix(_) => None,
        }
    }
}

/// Connect to a server by TCP. One that says nothing for `keepalive` is asked whether it is still there. Not bounded in
/// time: the caller bounds it.
///
/// # Errors
/// The system's, and those of resolving the name.
pub async fn dial(host: &str, port: u16, keepalive: Option<Duration>) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    keepalive.map_or(Ok(()), |idle| keep_alive(&tcp, idle))?;
    Ok(tcp)
}

/// A peer that says nothing for `idle` is asked whether it is still there.
///
/// # Errors
/// The system's.
pub fn keep_alive(tcp: &TcpStream, idle: Duration) -> io::Result<()> {
    let probes = socket2::TcpKeepalive::new().with_time(idle).with_interval(idle / 4 + Duration::from_secs(1));
    socket2::SockRef::from(tcp).set_tcp_keepalive(&probes)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
