//! TLS, for all wires: towards servers libpq's `sslmode`, which administrators know, over rustls; towards clients what
//! `[[listen]]` names. Files are read once, and again when they change.

mod kept;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{Accept, TlsAcceptor};

use kept::Kept;

/// How long the system's roots are kept, of which nobody says in which files they are.
const SYSTEM_ROOTS: Duration = Duration::from_secs(60);

/// TLS cannot be had as configured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// `sslmode`, with libpq's meanings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain first; TLS if the server refuses plain.
    Allow,
    /// TLS first; plain if the server has none or refuses it.
    #[default]
    Prefer,
    /// TLS or nothing; any certificate, unless a root certificate file is named: then as `verify-ca`.
    Require,
    /// TLS with a certificate that a known root signed.
    VerifyCa,
    /// And issued for the host's name.
    VerifyFull,
}

/// TLS as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether and how strictly.
    pub mode: SslMode,
    /// PEM file of the roots; `None`: the system's.
    pub root_cert: Option<PathBuf>,
    /// PEM files of our own certificate chain and key, where the server asks for one.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// Accepts clients.
pub struct Acceptor(Kept<ServerConfig>);

impl Acceptor {
    /// Agree on TLS with one that is there.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, client: S) -> Accept<S> {
        TlsAcceptor::from(self.0.now()).accept(client)
    }
}

/// What accepts clients with this certificate chain and key, PEM files both. `ca`: who signs the certificates that clients
/// must show. `alpn`: what a client without a negotiation in clear must ask for.
pub fn acceptor(cert: &Path, key: &Path, ca: Option<&Path>, alpn: &'static [&[u8]]) -> Result<Acceptor, Error> {
    let files = [cert, key].into_iter().chain(ca).map(Path::to_owned).collect();
    let (cert, key, ca) = (cert.to_owned(), key.to_owned(), ca.map(Path::to_owned));
    Kept::new(files, None, move || server(&cert, &key, ca.as_deref(), alpn)).map(Acceptor)
}

fn server(cert: &Path, key: &Path, ca: Option<&Path>, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error(error.to_string()))?;
    let builder = match ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(signed_by(ca, provider)?),
    };
    let mut config =
        builder.with_single_cert(chain, secret).map_err(|error| Error(format!("{}: {error}", cert.display())))?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Lets in clients whose certificate one of these signed.
fn signed_by(ca: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| pem(ca, &error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| pem(ca, &error))
}

/// How rustls is to behave as the client that `tls` describes.
pub fn client(tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
    // A few, as many as are configured.
    static KNOWN: LazyLock<Mutex<HashMap<Tls, Arc<Kept<ClientConfig>>>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known().get(tls).cloned();
    if let Some(kept) = found {
        return Ok(kept.now());
    }
    let files = tls.client_cert.iter().flat_map(|(cert, key)| [cert, key]).chain(&tls.root_cert).cloned().collect();
    let (lasts, described) = (tls.root_cert.is_none().then_some(SYSTEM_ROOTS), tls.clone());
    let kept = Arc::new(Kept::new(files, lasts, move || describe(&described))?);
    known().insert(tls.clone(), kept.clone());
    Ok(kept.now())
}

fn describe(tls: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(tls)?));
    let mut config = match &tls.client_cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| Error(error.to_string()))?
        }
    };
    // Each connection shows its certificate and looks at the server's: servers that tell roles by certificates see one.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect())
        .map_err(|error| pem(path, &error))
}

fn pem(path: &std::path::Path, error: &dyn std::fmt::Display) -> Error {
    Error(format!("{}: {error}", path.display()))
}

fn roots(tls: &Tls) -> Result<RootCertStore, Error> {
    let certificates = match &tls.root_cert {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

/// libpq's rungs between "any certificate" and "this host's": rustls alone knows only the top one.
#[derive(Debug)]
struct Verifier {
    provider: rustls::crypto::CryptoProvider,
    /// `None`: any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    names: bool,
}

impl Verifier {
    fn new(tls: &Tls) -> Result<Verifier, Error> {
        let provider = rustls::crypto::ring::default_provider();
        let verify = match tls.mode {
            SslMode::VerifyCa | SslMode::VerifyFull => true,
            SslMode::Require => tls.root_cert.is_some(),
            _ => false,
        };
        let chain = match verify {
            false => None,
            true => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots(tls)?), Arc::new(provider.clone()));
                Some(builder.build().map_err(|error| Error(error.to_string()))?)
            }
        };
        Ok(Verifier { provider, chain, names: tls.mode == SslMode::VerifyFull })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // The name is looked at last: everything else was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::duplex;
    use tokio_rustls::TlsConnector;

    use super::*;

    #[tokio::test]
    async fn renewed_certificates_are_shown_and_trusted_without_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let [cert, key, root] = ["crt", "key", "root"].map(|name| folder.path().join(name));
        let issue = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let put = |path: &Path, text: String| fs::write(path, text).expect("written");
        let first = issue();
        put(&cert, first.cert.pem());
        put(&key, first.signing_key.serialize_pem());
        put(&root, first.cert.pem());
        let acceptor = acceptor(&cert, &key, None, &[]).expect("it fits");
        let trust = Tls { mode: SslMode::VerifyFull, root_cert: Some(root.clone()), client_cert: None };
        let agree = async || {
            let connector = TlsConnector::from(client(&trust).expect("it fits"));
            let ((near, far), name) = (duplex(1 << 14), "localhost".try_into().expect("a name"));
            tokio::try_join!(connector.connect(name, near), acceptor.accept(far)).map(drop)
        };
        agree().await.expect("they agree");
        assert!(Arc::ptr_eq(&client(&trust).expect("it fits"), &client(&trust).expect("it fits")), "read once");

        let second = issue();
        put(&cert, second.cert.pem());
        agree().await.expect("the old one goes on while the key is not there yet");
        put(&key, second.signing_key.serialize_pem());
        agree().await.expect_err("nobody trusts it yet");
        put(&root, second.cert.pem());
        agree().await.expect("they agree");
    }
}
