//! Something trivial to ask a PostgreSQL server: see [`crate::net::pulse`].

use crate::net::pulse::Ask;

use super::client::{Client, ServerConfig, TargetSession};

/// One side, asked as tandem's own role. Any of its hosts will do: an old primary may be read-only, and answers.
pub struct Ping(ServerConfig);

impl Ping {
    /// Of this side.
    pub(super) fn to(server: &ServerConfig) -> Ping {
        Ping(ServerConfig { target_session: TargetSession::Any, ..server.clone() })
    }
}

impl Ask for Ping {
    type Link = Client;

    async fn connect(&self) -> Result<Client, String> {
        Client::connect(&self.0).await.map_err(|error| error.to_string())
    }

    async fn ask(&self, link: &mut Client) -> Result<(), String> {
        link.simple("SELECT 1").await.map(drop).map_err(|error| error.to_string())
    }
}
