//! A connected socket, a client's to us or ours to a server: TCP, a Unix socket, or TLS over TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout};
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

/// Connect to a server by TCP: to the first address of its name that takes us. Each has its share of `patience`, so that one that is
/// dead leaves some to the others; for the last the caller sets the bound. A server that says nothing for `keepalive` is asked
/// whether it is still there.
///
/// # Errors
/// The system's, of the last address, and those of resolving the name.
pub async fn dial(host: &str, port: u16, patience: Duration, keepalive: Option<Duration>) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let tcp = first(&addresses, patience).await?;
    tcp.set_nodelay(true)?;
    keepalive.map_or(Ok(()), |idle| keep_alive(&tcp, idle))?;
    Ok(tcp)
}

async fn first(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + patience;
    let Some((last, others)) = addresses.split_last() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its name has no address"));
    };
    for (at, address) in others.iter().enumerate() {
        let left = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / left;
        if let Ok(Ok(tcp)) = timeout(share, TcpStream::connect(address)).await {
            return Ok(tcp);
        }
    }
    TcpStream::connect(last).await
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An address that takes no connection and refuses none, as a machine that is off: the queue of its listener is full.
    async fn dead() -> (SocketAddr, Vec<socket2::Socket>) {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let listener = new();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&loopback.into()).expect("a port");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().expect("bound").as_socket().expect("an address");
        let mut kept = vec![listener];
        for _ in 0..4 {
            let waiting = new();
            waiting.set_nonblocking(true).expect("set");
            // Under way, which is an error to who does not want to wait.
            let _ = waiting.connect(&address.into());
            kept.push(waiting);
        }
        (address, kept)
    }

    #[tokio::test]
    async fn a_dead_address_of_a_name_leaves_time_for_the_others() {
        let (dead, _kept) = dead().await;
        timeout(Duration::from_millis(200), TcpStream::connect(dead)).await.expect_err("it is dead");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let alive = listener.local_addr().expect("bound");
        let patience = Duration::from_secs(3);
        for addresses in [&[dead, alive][..], &[alive, dead], &[dead, dead, alive]] {
            let tcp = timeout(patience, first(addresses, patience)).await.expect("in time").expect("it listens");
            assert_eq!(tcp.peer_addr().expect("connected"), alive);
        }
        assert_eq!(first(&[], patience).await.expect_err("nowhere").kind(), io::ErrorKind::NotFound);
        // Of several that refuse, the last says why.
        drop(listener);
        let refused = first(&[alive, alive], patience).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
