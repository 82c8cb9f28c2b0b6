//! How a connection to a node begins: TCP, and TLS over it where that is configured.

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::net::socket::{self, Socket};
use crate::net::tls::{self, SslMode};

use super::error::Error;
use super::settings::{Address, Settings};

/// Connect, and agree on TLS as configured; nothing is said yet. Not bounded in time: the caller bounds it.
///
/// # Errors
/// [`Error::Io`], [`Error::Tls`].
pub async fn open(settings: &Settings, address: &Address) -> Result<Socket, Error> {
    let dial = || socket::dial(&address.host, address.port, settings.connect_timeout, Some(settings.keepalive));
    let tcp = dial().await?;
    if settings.tls.mode == SslMode::Disable {
        return Ok(Socket::Tcp(tcp));
    }
    let name = ServerName::try_from(address.host.clone()).map_err(|error| Error::Tls(error.to_string()))?;
    let connector = TlsConnector::from(tls::client(&settings.tls)?);
    match connector.connect(name, tcp).await {
        Ok(tls) => Ok(Socket::Tls(Box::new(tls.into()))),
        // The port has none. What answers in clear is spoken to in clear, as was allowed.
        Err(_) if matches!(settings.tls.mode, SslMode::Allow | SslMode::Prefer) => Ok(Socket::Tcp(dial().await?)),
        Err(error) => Err(Error::Tls(error.to_string())),
    }
}
