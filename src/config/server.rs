//! A cluster of the migration: where it is, which database, who tandem logs in as. Given as a URL, as keys, or both.
//!
//! The keys are the same for every wire; what a wire has no use for is refused, so that nobody believes in it.

use std::path::PathBuf;

use crate::net::tls::{self, Tls};

use super::section::{Origin, Target};
use super::source::{Error, Place, Section, Values};
use super::value::{Host, Secret, Setting, SslMode, Wire};

/// A checked `[origin]` or `[target]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Members of the cluster, at least one, in the order in which they are tried. CQL: contact points, the others are
    /// found.
    pub hosts: Vec<Address>,
    /// The database that is mirrored. CQL has none: empty.
    pub database: String,
    /// Who tandem itself logs in as; empty where a cluster of CQL asks nobody.
    pub user: String,
    /// Their password, if they need one.
    pub password: Option<Secret>,
    /// TLS towards it.
    pub sslmode: SslMode,
    /// Trusted certificates in PEM; `None`: those of the system.
    pub tls_ca: Option<PathBuf>,
    /// Certificate chain and private key in PEM that tandem shows to it.
    pub tls_cert: Option<(PathBuf, PathBuf)>,
    /// CQL: only its members are connected to; `None`: that of the first contact point.
    pub datacenter: Option<String>,
}

impl Server {
    /// TLS as connections to it need it.
    pub fn tls(&self) -> Tls {
        let mode = match self.sslmode {
            SslMode::Disable => tls::SslMode::Disable,
            SslMode::Allow => tls::SslMode::Allow,
            SslMode::Prefer => tls::SslMode::Prefer,
            SslMode::Require => tls::SslMode::Require,
            SslMode::VerifyCa => tls::SslMode::VerifyCa,
            SslMode::VerifyFull => tls::SslMode::VerifyFull,
        };
        Tls { mode, root_cert: self.tls_ca.clone(), client_cert: self.tls_cert.clone() }
    }
}

/// One member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a URL or the keys say; the keys go first.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    hosts: Vec<Host>,
    database: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    sslmode: Option<SslMode>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    datacenter: Option<String>,
}

impl Server {
    pub(super) fn origin(wire: Wire, values: &Values) -> Result<Server, Error> {
        let Origin { url, hosts, database, user, password_file, sslmode, tls_ca, tls_cert, tls_key, datacenter } =
            Origin::read(values)?;
        let keys = Parts { hosts, database, user, password: None, sslmode, tls_ca, tls_cert, tls_key, datacenter };
        server("origin", wire, url, keys, password_file, values)
    }

    pub(super) fn target(wire: Wire, values: &Values) -> Result<Server, Error> {
        let Target { url, hosts, database, user, password_file, sslmode, tls_ca, tls_cert, tls_key, datacenter } =
            Target::read(values)?;
        let keys = Parts { hosts, database, user, password: None, sslmode, tls_ca, tls_cert, tls_key, datacenter };
        server("target", wire, url, keys, password_file, values)
    }
}

/// How a wire's servers are written down.
struct Style {
    schemes: &'static [&'static str],
    example: &'static str,
    port: u16,
    /// There is no request for TLS within the protocol: a port has it or has not, so nothing is tried unasked.
    sslmode: SslMode,
}

impl Style {
    fn of(wire: Wire) -> Style {
        match wire {
            Wire::Postgres => Style {
                schemes: &["postgres://", "postgresql://"],
                example: "postgres://user@host:5432/database",
                port: 5432,
                sslmode: SslMode::Prefer,
            },
            Wire::Cql => {
                Style { schemes: &["cql://"], example: "cql://user@host:9042", port: 9042, sslmode: SslMode::Disable }
            }
        }
    }
}

fn server(
    name: &str,
    wire: Wire,
    url: Option<String>,
    mut keys: Parts,
    password_file: Option<PathBuf>,
    values: &Values,
) -> Result<Server, Error> {
    keys.password = password_file.map(|path| super::secret(&path, values.place("password_file"))).transpose()?;
    let style = Style::of(wire);
    let url = url.map(|url| parse(&url, &style).map_err(|message| bad_url(message, &style, values.place("url"))));
    let url = url.transpose()?;
    let url = url.unwrap_or_default();
    let hosts = if keys.hosts.is_empty() { url.hosts } else { keys.hosts };
    if hosts.is_empty() {
        return Err(Error::new(&values.place, format!("[{name}] needs `url` or `hosts`")));
    }
    let (database, datacenter) = (keys.database.or(url.database), keys.datacenter.or(url.datacenter));
    if let Some(misplaced) = misplaced(wire, database.is_some(), datacenter.is_some()) {
        return Err(Error::new(&values.place, format!("[{name}]: {misplaced}")));
    }
    let tls_cert = match (keys.tls_cert.or(url.tls_cert), keys.tls_key.or(url.tls_key)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(Error::new(&values.place, format!("[{name}]: `tls_cert` and `tls_key` go together"))),
    };
    let (sslmode, tls_ca) = (keys.sslmode.or(url.sslmode).unwrap_or(style.sslmode), keys.tls_ca.or(url.tls_ca));
    if sslmode == SslMode::Disable && (tls_ca.is_some() || tls_cert.is_some()) {
        let why = "without TLS `tls_ca` and `tls_cert` say nothing: set `sslmode`, best to verify-full";
        return Err(Error::new(&values.place, format!("[{name}]: {why}")));
    }
    let user = keys.user.or(url.user).filter(|user| !user.is_empty());
    if user.is_none() && wire == Wire::Postgres {
        return Err(Error::new(&values.place, format!("[{name}] needs `user`: who tandem logs in as")));
    }
    let user = user.unwrap_or_default();
    let address = |host: Host| Address { host: host.name, port: host.port.unwrap_or(style.port) };
    Ok(Server {
        hosts: hosts.into_iter().map(address).collect(),
        database: database.unwrap_or_else(|| if wire == Wire::Postgres { user.clone() } else { String::new() }),
        user,
        password: keys.password.or(url.password),
        sslmode,
        tls_ca,
        tls_cert,
        datacenter,
    })
}

/// What the wire has no use for.
fn misplaced(wire: Wire, database: bool, datacenter: bool) -> Option<&'static str> {
    match wire {
        Wire::Cql if database => Some("CQL has no `database`: all keyspaces of the cluster are mirrored"),
        Wire::Postgres if datacenter => Some("`datacenter` is for wire = \"cql\""),
        _ => None,
    }
}

/// The URL itself is not repeated: it may hold a password.
fn bad_url(message: String, style: &Style, place: &Place) -> Error {
    Error::new(place, format!("`url` must be like {}: {message}", style.example))
}

/// Source: PostgreSQL documentation, "Connection URIs" in the chapter on libpq.
fn parse(url: &str, style: &Style) -> Result<Parts, String> {
    let rest = style.schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or_else(|| format!("it begins with {}", style.schemes.first().unwrap_or(&"")))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let mut parts = Parts {
        hosts: Vec::from_text(hosts).ok_or("its host is not one")?,
        database: given(database)?,
        user: given(user)?,
        password: given(password)?.map(|text| Secret::new(&text)),
        ..Parts::default()
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        parameter(&mut parts, pair)?;
    }
    Ok(parts)
}

fn parameter(parts: &mut Parts, pair: &str) -> Result<(), String> {
    let (name, value) = pair.split_once('=').ok_or("a parameter has no value")?;
    let value = decode(value)?;
    match name {
        "sslmode" => {
            parts.sslmode = Some(SslMode::from_text(&value).ok_or(format!("sslmode is {}", SslMode::EXPECTS))?)
        }
        "sslrootcert" => parts.tls_ca = Some(PathBuf::from(value)),
        "sslcert" => parts.tls_cert = Some(PathBuf::from(value)),
        "sslkey" => parts.tls_key = Some(PathBuf::from(value)),
        "user" => parts.user = Some(value),
        "password" => parts.password = Some(Secret::new(&value)),
        "datacenter" => parts.datacenter = Some(value),
        "dbname" => parts.database = Some(value),
        // tandem always looks for the member that takes writes.
        "target_session_attrs" if value == "read-write" || value == "primary" => {}
        _ => return Err(format!("it cannot have the parameter `{name}`")),
    }
    Ok(())
}

fn given(text: &str) -> Result<Option<String>, String> {
    Ok(if text.is_empty() { None } else { Some(decode(text)?) })
}

/// Undo percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = digit().zip(digit()).ok_or("a % is not followed by two hexadecimal digits")?;
        out.push(u8::try_from(high * 16 + low).map_err(|_| "two hexadecimal digits are a byte")?);
    }
    String::from_utf8(out).map_err(|_| "it is not UTF-8 after percent-decoding".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_say_everything() {
        let style = Style::of(Wire::Postgres);
        let parts = parse(
            "postgresql://me:p%40ss@a:1,[::1]:2/my%20db?sslmode=verify-ca&sslrootcert=/ca.pem&sslcert=/c&sslkey=/k",
            &style,
        );
        let host = |name: &str, port| Host { name: name.to_owned(), port: Some(port) };
        let expected = Parts {
            hosts: vec![host("a", 1), host("::1", 2)],
            database: Some("my db".to_owned()),
            user: Some("me".to_owned()),
            password: Some(Secret::new("p@ss")),
            sslmode: Some(SslMode::VerifyCa),
            tls_ca: Some(PathBuf::from("/ca.pem")),
            tls_cert: Some(PathBuf::from("/c")),
            tls_key: Some(PathBuf::from("/k")),
            datacenter: None,
        };
        assert_eq!(parts, Ok(expected));
    }

    #[test]
    fn what_a_url_cannot_say_is_an_error() {
        for bad in [
            "mysql://a",
            "postgres://a:b:c@h:x/",
            "postgres://h/d?sslmode=maybe",
            "postgres://h/d?sslmod=require",
            "postgres://h/%zz",
            "postgres://h/%ff",
            "postgres://h/d?target_session_attrs=standby",
        ] {
            assert!(parse(bad, &Style::of(Wire::Postgres)).is_err(), "{bad}");
        }
    }
}
