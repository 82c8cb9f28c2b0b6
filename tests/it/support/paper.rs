//! Certificates that tests make, and clients that show them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate that is its own authority.
pub(crate) struct Paper {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    secret: Vec<u8>,
}

impl Paper {
    /// Of this machine.
    pub(crate) fn new() -> Paper {
        Paper::of(SanType::DnsName("localhost".try_into().expect("ASCII")))
    }

    pub(crate) fn of(name: SanType) -> Paper {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(name);
        let cert = params.self_signed(&key).expect("a certificate");
        Paper { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), secret: key.serialize_der() }
    }

    /// Into the files `name.crt` and `name.key`: their paths.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> [String; 2] {
        [("crt", &self.cert), ("key", &self.key)].map(|(kind, text)| {
            let path = dir.join(format!("{name}.{kind}"));
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        })
    }
}

/// A client that trusts one certificate and shows another.
pub(crate) fn showing(trusted: &Paper, shown: &Paper) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.secret.clone()));
    let config = config.expect("versions").with_root_certificates(roots);
    Arc::new(config.with_client_auth_cert(vec![shown.der.clone()], key).expect("a key of that certificate"))
}
