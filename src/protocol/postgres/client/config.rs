//! Where a cluster is and how to log in: what a connection URL or a `key=value` string says, as types.
//!
//! The keywords are libpq's (PostgreSQL documentation, "Connection Strings" and "Parameter Key Words"), those of them
//! that mean something to a proxy; an unknown one is an error, because a misspelt `sslmode` must not mean `prefer`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use crate::net::tls::{SslMode, Tls};
use crate::protocol::postgres::logins::Logins;

/// Where PostgreSQL listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 5432;
/// One attempt at one host, TLS and authentication included.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// PostgreSQL's own limit of a field is 1 GiB; a larger message is not one that we asked for.
pub const DEFAULT_MESSAGE_BYTES_MAX: usize = 1 << 30;

/// What one host is reached by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory that holds the server's socket `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// One server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Name, address or socket directory.
    pub host: Host,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}

/// Which server of the list will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetSession {
    /// The first that lets us in.
    #[default]
    Any,
    /// The first that is neither a standby nor read-only by default.
    ReadWrite,
    /// The first that is no standby. What a session wants to be itself is its own.
    Primary,
}

/// How to reach and enter one database of one cluster. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Tried in this order.
    pub hosts: Vec<Endpoint>,
    /// The role.
    pub user: String,
    /// Its password, if one is needed.
    pub password: Option<String>,
    /// The database; empty: named like the role.
    pub database: String,
    /// TLS.
    pub tls: Tls,
    /// Settings for the start-up message (`application_name`, `options`, any `name=value` of the server's).
    pub params: Vec<(String, String)>,
    /// Which host will do.
    pub target_session: TargetSession,
    /// Limit for one host: connect, TLS, authentication.
    pub connect_timeout: Duration,
    /// TCP keepalive: idle time before the first probe; `None` = off.
    pub keepalive: Option<Duration>,
    /// A password may be sent in clear without TLS. Off unless asked for.
    pub allow_cleartext: bool,
    /// A larger message from the server ends the connection.
    pub message_bytes_max: usize,
    /// Where each login is written down.
    pub logins: Option<Logins>,
}

impl ServerConfig {
    /// The same with this host first.
    pub fn preferring(&self, host: &Endpoint) -> ServerConfig {
        let others = self.hosts.iter().filter(|other| *other != host);
        ServerConfig { hosts: std::iter::once(host).chain(others).cloned().collect(), ..self.clone() }
    }

    /// The same for a connection of tandem's own that writes, [`ServerConfig::called`] `name`. It may also where the
    /// database is read-only by default, as an old primary is after a switch: a setting of the start-up message counts
    /// more than one of the database. A standby is refused all the same.
    pub fn for_writing(&self, name: &str) -> ServerConfig {
        let mut config = ServerConfig { target_session: TargetSession::ReadWrite, ..self.clone() }.called(name);
        config.set_param("default_transaction_read_only", "off");
        config
    }

    /// The same for a connection of tandem's own: what the server calls it says whose it is, where there is a journal.
    pub fn called(mut self, name: &str) -> ServerConfig {
        match &self.logins {
            Some(logins) => self.set_param("application_name", &format!("{name}/{:016x}", logins.journal())),
            None => self.set_param("application_name", name),
        }
        self
    }

    fn set_param(&mut self, name: &str, value: &str) {
        self.params.retain(|(other, _)| other != name);
        self.params.push((name.to_owned(), value.to_owned()));
    }
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            hosts: Vec::new(),
            user: String::new(),
            password: None,
            database: String::new(),
            tls: Tls::default(),
            params: Vec::new(),
            target_session: TargetSession::Any,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            keepalive: Some(Duration::from_secs(60)),
            allow_cleartext: false,
            message_bytes_max: DEFAULT_MESSAGE_BYTES_MAX,
            logins: None,
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("params", &self.params)
            .field("target_session", &self.target_session)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// A connection string that cannot be understood. Never shows the string itself: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `postgres://..` and not `key=value ..`.
    #[error("expected postgres://user@host/database or key=value pairs, found neither")]
    Form,
    /// A keyword that is not known.
    #[error("unknown connection parameter {0:?}")]
    Unknown(String),
    /// A keyword whose value does not fit.
    #[error("connection parameter {key}: expected {expected}")]
    Value {
        /// The keyword.
        key: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// `%` not followed by two hexadecimal digits, or not UTF-8, or a zero byte.
    #[error("bad percent-encoding in the {0} of the URL")]
    Encoding(&'static str),
    /// As many ports as hosts, or one for all.
    #[error("{ports} ports for {hosts} hosts: give one for each, or one for all")]
    Ports {
        /// How many hosts.
        hosts: usize,
        /// How many ports.
        ports: usize,
    },
    /// An opened quote that is not closed, or a key without `=`.
    #[error("key=value string is malformed near byte {0}")]
    Pairs(usize),
    /// Nothing names a server.
    #[error("no host is named")]
    NoHost,
}

impl FromStr for ServerConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<ServerConfig, ConfigError> {
        let text = text.trim();
        let mut draft = Draft::default();
        match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            Some(rest) => draft.url(rest)?,
            None if text.contains("://") || !text.contains('=') => return Err(ConfigError::Form),
            None => draft.pairs(text)?,
        }
        draft.finish()
    }
}

#[derive(Default)]
struct Draft {
    config: ServerConfig,
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<Option<u16>>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Draft {
    fn url(&mut self, rest: &str) -> Result<(), ConfigError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = match authority.rsplit_once('@') {
            Some((login, hosts)) => {
                self.login(login)?;
                hosts
            }
            None => authority,
        };
        self.config.database = decode(database, "database")?;
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            self.host_port(host)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(ConfigError::Encoding("parameters"))?;
            self.set(&decode(key, "parameters")?, &decode(value, "parameters")?)?;
        }
        Ok(())
    }

    fn login(&mut self, login: &str) -> Result<(), ConfigError> {
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        self.config.user = decode(user, "user")?;
        self.config.password = password.map(|text| decode(text, "password")).transpose()?;
        Ok(())
    }

    fn host_port(&mut self, text: &str) -> Result<(), ConfigError> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => (address, rest.strip_prefix(':')),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        self.hosts.push(decode(host, "host")?);
        self.ports.push(port.filter(|port| !port.is_empty()).map(parse_port).transpose()?);
        Ok(())
    }

    fn pairs(&mut self, text: &str) -> Result<(), ConfigError> {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let equals = text[at..].find('=').ok_or(ConfigError::Pairs(at))? + at;
            let key = text[at..equals].trim();
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(ConfigError::Pairs(at));
            }
            let (value, next) = pair_value(text, equals + 1)?;
            self.set(key, &value)?;
            at = next;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let config = &mut self.config;
        match key {
            "host" => self.hosts = list(value),
            "hostaddr" => self.addresses = list(value),
            "port" => {
                self.ports = value
                    .split(',')
                    .map(|port| if port.is_empty() { Ok(None) } else { parse_port(port).map(Some) })
                    .collect::<Result<_, _>>()?;
            }
            "user" => config.user = value.to_owned(),
            "password" => config.password = Some(value.to_owned()),
            "dbname" => config.database = value.to_owned(),
            "sslmode" => config.tls.mode = ssl_mode(value)?,
            "sslrootcert" if value == "system" => config.tls.root_cert = None,
            "sslrootcert" => config.tls.root_cert = Some(value.into()),
            "sslcert" => self.cert = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            "connect_timeout" => config.connect_timeout = timeout(value)?,
            "keepalives" if value == "0" => config.keepalive = None,
            "keepalives" => config.keepalive = config.keepalive.or(ServerConfig::default().keepalive),
            "keepalives_idle" => {
                config.keepalive = Some(Duration::from_secs(number(key, value)?.max(1)));
            }
            "target_session_attrs" => config.target_session = target_session(value)?,
            "application_name" | "options" | "client_encoding" => {
                config.params.push((key.to_owned(), value.to_owned()))
            }
            // What libpq can do and we need not: accepted where they ask for nothing more than we do anyway.
            "gssencmode" | "channel_binding" if matches!(value, "disable" | "prefer") => (),
            "keepalives_interval" | "keepalives_count" | "tcp_user_timeout" | "fallback_application_name" => (),
            other => return Err(ConfigError::Unknown(other.to_owned())),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ServerConfig, ConfigError> {
        let names = if self.addresses.is_empty() { self.hosts } else { self.addresses };
        if names.is_empty() {
            return Err(ConfigError::NoHost);
        }
        let ports = match self.ports.len() {
            0 => vec![None; names.len()],
            1 => vec![self.ports[0]; names.len()],
            len if len == names.len() => self.ports,
            len => return Err(ConfigError::Ports { hosts: names.len(), ports: len }),
        };
        self.config.hosts = names.into_iter().zip(ports).map(endpoint).collect();
        self.config.tls.client_cert = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(ConfigError::Value { key: "sslcert".into(), expected: "sslcert and sslkey together" }),
        };
        Ok(self.config)
    }
}

fn endpoint((name, port): (String, Option<u16>)) -> Endpoint {
    let host = if name.starts_with('/') { Host::Unix(name.into()) } else { Host::Tcp(name) };
    Endpoint { host, port: port.unwrap_or(DEFAULT_PORT) }
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::to_owned).collect()
}

fn number(key: &str, value: &str) -> Result<u64, ConfigError> {
    value.parse().map_err(|_| ConfigError::Value { key: key.to_owned(), expected: "a number of seconds" })
}

fn timeout(value: &str) -> Result<Duration, ConfigError> {
    match number("connect_timeout", value)? {
        0 => Ok(DEFAULT_CONNECT_TIMEOUT),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

fn parse_port(text: &str) -> Result<u16, ConfigError> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ConfigError::Value { key: "port".into(), expected: "a number from 1 to 65535" }),
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, ConfigError> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            let expected = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(ConfigError::Value { key: "sslmode".into(), expected });
        }
    })
}

fn target_session(value: &str) -> Result<TargetSession, ConfigError> {
    match value {
        "any" => Ok(TargetSession::Any),
        "read-write" | "primary" => Ok(TargetSession::ReadWrite),
        _ => Err(ConfigError::Value { key: "target_session_attrs".into(), expected: "any or read-write" }),
    }
}

fn pair_value(text: &str, start: usize) -> Result<(String, usize), ConfigError> {
    let skipped = text[start..].len() - text[start..].trim_start().len();
    let mut chars = text[start + skipped..].char_indices().peekable();
    let quoted = chars.next_if(|&(_, c)| c == '\'').is_some();
    let mut value = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next().ok_or(ConfigError::Pairs(start))?.1),
            '\'' if quoted => return Ok((value, trim_from(text, start + skipped + at + 1))),
            c if c.is_whitespace() && !quoted => return Ok((value, trim_from(text, start + skipped + at))),
            c => value.push(c),
        }
    }
    if quoted { Err(ConfigError::Pairs(start)) } else { Ok((value, text.len())) }
}

fn trim_from(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

fn decode(text: &str, part: &'static str) -> Result<String, ConfigError> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'%' => hex(bytes.next()).zip(hex(bytes.next())).map(|(high, low)| high << 4 | low),
            byte => Some(byte),
        };
        out.push(plain.filter(|&byte| byte != 0).ok_or(ConfigError::Encoding(part))?);
    }
    String::from_utf8(out).map_err(|_| ConfigError::Encoding(part))
}

fn hex(byte: Option<u8>) -> Option<u8> {
    char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint { host: Host::Tcp(host.into()), port }
    }

    #[test]
    fn a_url_names_hosts_login_database_and_parameters() {
        let config: ServerConfig =
            "postgres://us%40er:p%3Aw@one,two:5433,[::1]:7/db%20x?sslmode=require&target_session_attrs=read-write"
                .parse()
                .expect("valid");
        assert_eq!(config.hosts, [tcp("one", 5432), tcp("two", 5433), tcp("::1", 7)]);
        assert_eq!((config.user.as_str(), config.password.as_deref()), ("us@er", Some("p:w")));
        assert_eq!(config.database, "db x");
        assert_eq!(config.tls.mode, SslMode::Require);
        assert_eq!(config.target_session, TargetSession::ReadWrite);
    }

    #[test]
    fn socket_directories_come_by_percent_encoding_or_as_a_parameter() {
        for text in
            ["postgres://u@%2Ftmp%2Fpg:7/db", "postgres:///db?host=/tmp/pg&port=7&user=u", "host=/tmp/pg port=7"]
        {
            let config: ServerConfig = text.parse().expect("valid");
            assert_eq!(config.hosts, [Endpoint { host: Host::Unix("/tmp/pg".into()), port: 7 }], "{text}");
        }
    }

    #[test]
    fn pairs_may_be_quoted() {
        let config: ServerConfig = r"host=a,b port = 1 password='it\'s a \\' user=u dbname=d".parse().expect("valid");
        assert_eq!(config.hosts, [tcp("a", 1), tcp("b", 1)]);
        assert_eq!(config.password.as_deref(), Some(r"it's a \"));
        assert_eq!(config.database, "d");
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("postgres://h/d?sslmod=require", "unknown connection parameter \"sslmod\""),
            ("postgres://h/d?sslmode=yes", "connection parameter sslmode: expected disable, allow"),
            ("postgres://h:0/d", "connection parameter port: expected a number from 1 to 65535"),
            ("postgres://u:%zz@h/d", "bad percent-encoding in the password"),
            ("mysql://h/d", "expected postgres://"),
            ("host=a,b,c port=1,2", "2 ports for 3 hosts"),
            ("user='u", "malformed near byte"),
            ("user=u", "no host is named"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<ServerConfig>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let config: ServerConfig = "postgres://u:secret@h/d".parse().expect("valid");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
