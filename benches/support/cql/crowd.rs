//! Many clients that do nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tandem::protocol::cql::wire::frame::Version;
use tokio::runtime::{Builder, Runtime};

use super::{Line, READ, connect};
use crate::support::idle::raise_file_limit;

/// The clients, served while somebody waits for them.
pub(crate) struct Crowd {
    runtime: Runtime,
    version: Version,
    clients: Vec<Line>,
}

impl Crowd {
    /// Nobody.
    pub(crate) fn new(version: Version) -> Result<Crowd> {
        raise_file_limit();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Crowd { runtime, version, clients: Vec::new() })
    }

    /// More clients connect, and stay.
    pub(crate) fn join(&mut self, address: SocketAddr, count: usize) -> Result<()> {
        for _ in 0..count {
            let client = self.runtime.block_on(connect(&address.to_string(), self.version));
            let mut client = client.with_context(|| format!("client {}", self.clients.len()))?;
            client.shrink();
            self.clients.push(client);
        }
        Ok(())
    }

    /// Each prepares a statement.
    pub(crate) fn ask(&mut self) -> Result<()> {
        for client in &mut self.clients {
            self.runtime.block_on(client.prepare(self.version, READ))?;
            client.shrink();
        }
        Ok(())
    }
}
