//! How a cluster's nodes are reached and entered.

use std::fmt;
use std::time::Duration;

use crate::config;
use crate::net::tls::{SslMode, Tls};
use crate::protocol::cql::wire::compress::Compression;

pub use crate::config::server::Address;

/// Cassandra's own `native_transport_max_frame_size` was 256 MiB until 4.1 and is 16 MiB since.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What is the same for all connections to a cluster. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Empty: there is nobody to log in as.
    pub user: String,
    /// Of `user`.
    pub password: Option<String>,
    /// A port has TLS or has not: `prefer` and `allow` both try it and then do without.
    pub tls: Tls,
    /// LZ4, or Snappy below v5. Our connections are inside a datacenter: none.
    pub compression: Option<Compression>,
    /// Of one attempt: TCP, TLS, login.
    pub connect_timeout: Duration,
    /// For an answer, unless a request says otherwise. Longer than servers wait for their replicas, or every timeout of
    /// theirs becomes one of ours, which says less.
    pub request_timeout: Duration,
    /// A server that has said nothing for this long is asked for its options, and given up if it says nothing for as long
    /// again: TCP keeps the connection of a process that hangs, whatever is sent to it.
    pub heartbeat: Duration,
    /// Idle time before the first probe of TCP keepalive.
    pub keepalive: Duration,
    /// A larger message from a server ends the connection.
    pub message_bytes_max: usize,
    /// Requests under way at once on one connection; more wait. At most 32 766.
    pub in_flight_max: usize,
    /// Answers that nobody waits for any more and that still did not come: past this many the connection is given up.
    pub orphans_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            user: String::new(),
            password: None,
            tls: Tls { mode: SslMode::Disable, ..Tls::default() },
            compression: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(12),
            heartbeat: Duration::from_secs(5),
            keepalive: Duration::from_secs(60),
            message_bytes_max: MESSAGE_BYTES_MAX,
            in_flight_max: 1_024,
            orphans_max: 64,
        }
    }
}

impl Settings {
    /// Of an `[origin]` or a `[target]`.
    pub fn of(server: &config::Server, limits: &config::Limits) -> Settings {
        Settings {
            user: server.user.clone(),
            password: server.password.as_ref().map(|secret| secret.reveal().to_owned()),
            tls: server.tls(),
            connect_timeout: limits.connect_timeout,
            message_bytes_max: limits.message_bytes.bytes().min(MESSAGE_BYTES_MAX),
            ..Settings::default()
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("user", &self.user).field("tls", &self.tls).finish_non_exhaustive()
    }
}
