//! Something trivial to ask a PostgreSQL server: see [`crate::net::pulse`].

use std::sync::Arc;

use crate::net::pulse::{Ask, PATIENCE};
use crate::record::Side;

use super::client::{Client, ServerConfig, TargetSession};
use super::servers::Servers;
use super::shared::Schema;

/// One side, asked as tandem's own role.
pub struct Ping {
    side: Side,
    servers: Arc<Servers>,
    schema: Schema,
}

impl Ping {
    /// Of this side.
    pub(super) fn to(side: Side, servers: Arc<Servers>, schema: Schema) -> Ping {
        Ping { side, servers, schema }
    }
}

impl Ask for Ping {
    type Link = Client;

    async fn connect(&self) -> Result<Client, String> {
        let server = self.servers.primary_first(self.side, &self.schema).into_owned();
        Client::connect(&asked(server)).await.map_err(|error| error.to_string())
    }

    async fn ask(&self, link: &mut Client) -> Result<(), String> {
        link.simple("SELECT 1").await.map(drop).map_err(|error| error.to_string())
    }
}

/// Of several hosts the primary, which may be read-only, as an old one is: a standby answers, and takes no client's write. Each has
/// its share of the patience, so that one that is off leaves some to the others.
fn asked(server: ServerConfig) -> ServerConfig {
    let hosts = u32::try_from(server.hosts.len()).unwrap_or(u32::MAX).max(1);
    let connect_timeout = server.connect_timeout.min(PATIENCE / hosts);
    let target_session = if hosts > 1 { TargetSession::Primary } else { TargetSession::Any };
    ServerConfig { target_session, connect_timeout, ..server }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::client::{Endpoint, Host};
    use crate::protocol::postgres::testing::Server;

    #[tokio::test]
    async fn a_host_that_says_nothing_does_not_make_its_side_silent() {
        // The system takes the connection, and nobody ever looks at it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = silent.local_addr().expect("bound").port();
        let server = Server::any();
        let mut config = server.config();
        config.hosts.insert(0, Endpoint { host: Host::Tcp("127.0.0.1".into()), port });
        let connected = tokio::time::timeout(PATIENCE, Client::connect(&asked(config))).await;
        connected.expect("in time").expect("the second host answers");
    }

    #[test]
    fn of_several_hosts_each_has_its_share_and_a_standby_is_none() {
        let server = |hosts: &str| format!("host={hosts} user=u").parse::<ServerConfig>().expect("valid");
        let (one, two) = (asked(server("a")), asked(server("a,b")));
        assert_eq!((one.target_session, one.connect_timeout), (TargetSession::Any, PATIENCE));
        assert_eq!((two.target_session, two.connect_timeout), (TargetSession::Primary, PATIENCE / 2));
    }
}
