//! How a connection to a server begins: TCP or a Unix socket, and what is agreed on TLS.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::net::socket::{self, Socket};
use crate::net::tls;
use crate::protocol::postgres::wire::SSL_REQUEST;

use super::config::{Endpoint, Host, ServerConfig, SslMode};
use super::{Error, tls_may_matter};

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

/// Connect to one host and agree on TLS. Not cancel safe: a cancelled connect is dropped whole.
pub(super) async fn open(config: &ServerConfig, endpoint: &Endpoint, attempt: Attempt) -> Result<Socket, Error> {
    let name = match &endpoint.host {
        Host::Unix(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", endpoint.port));
            return Ok(Socket::Unix(UnixStream::connect(path).await?));
        }
        Host::Tcp(name) => name,
    };
    let mut tcp = socket::dial(name, endpoint.port, config.connect_timeout, config.keepalive).await?;
    if attempt == Attempt::Plain || !offered(&mut tcp).await? {
        return match attempt {
            Attempt::Tls => Err(Error::Tls("the server has no TLS, and sslmode demands it".into())),
            _ => Ok(Socket::Tcp(tcp)),
        };
    }
    let server = ServerName::try_from(name.clone()).map_err(|error| Error::Tls(error.to_string()))?;
    let connector = TlsConnector::from(tls::client(&config.tls)?);
    let tls = connector.connect(server, tcp).await.map_err(|error| Error::Tls(error.to_string()))?;
    Ok(Socket::Tls(Box::new(tls.into())))
}

/// Connect to the first host that can be reached, and agree on TLS as configured, without saying who we are: for
/// connections whose start-up is relayed. Not cancel safe.
///
/// # Errors
/// The last host's.
pub async fn dial(config: &ServerConfig) -> Result<(Socket, Endpoint), Error> {
    let mut last = Error::Config("no host is configured for this connection".into());
    for endpoint in &config.hosts {
        for &attempt in config.tls.mode.attempts(endpoint) {
            let opened = tokio::time::timeout(config.connect_timeout, open(config, endpoint, attempt)).await;
            match opened.unwrap_or(Err(Error::Timeout(config.connect_timeout))) {
                Ok(stream) => return Ok((stream, endpoint.clone())),
                Err(why) => {
                    let other_way = tls_may_matter(&why);
                    last = Error::Connect { host: endpoint.clone(), why: Box::new(why) };
                    if !other_way {
                        break;
                    }
                }
            }
        }
    }
    Err(last)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_host_that_hangs_is_not_tried_again_without_tls() {
        let [hangs, answers] = [
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        ];
        let endpoint = |listener: &TcpListener| Endpoint {
            host: Host::Tcp("127.0.0.1".into()),
            port: listener.local_addr().expect("bound").port(),
        };
        let hosts = vec![endpoint(&hangs), endpoint(&answers)];
        let config = ServerConfig { hosts, connect_timeout: Duration::from_secs(1), ..ServerConfig::default() };
        assert_eq!(config.tls.mode, SslMode::Prefer);
        let answering = async {
            let (mut tcp, _) = answers.accept().await.expect("it is the next one");
            tcp.read_exact(&mut [0; 8]).await.expect("a question");
            tcp.write_all(b"N").await.expect("it reads");
        };
        let (dialed, ()) = tokio::join!(dial(&config), answering);
        assert_eq!(dialed.expect("the second host").1, config.hosts[1]);
        let mut tries = 0;
        // The kernel has taken them all.
        while tokio::time::timeout(Duration::from_millis(10), hangs.accept()).await.is_ok() {
            tries += 1;
        }
        assert_eq!(tries, 1);
    }
}
