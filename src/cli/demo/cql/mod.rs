//! The demo on two nodes of Apache Cassandra, each a cluster.

mod compare;
mod line;
mod load;
mod schema;

use std::time::Duration;

use super::ledger::Ledger;
use super::load::Actor;
use super::progress::Progress;
use super::{Failure, Found, Pair};
use crate::config::Wire;
use crate::protocol::cql::client::{Address, Client, Error, Settings};
use crate::protocol::cql::wire;
use crate::sandbox::Sandbox;
use crate::sandbox::cassandra::distribution::oldest_and_newest;
use crate::sandbox::cassandra::{Cluster, Distribution, Node, Options, Stop};
use load::Writer;
use schema::Table;

/// Both clusters.
pub(super) struct Nodes {
    origin: Cluster,
    target: Cluster,
}

/// A truncation takes longer than anything that clients wait for.
const PATIENCE: Duration = Duration::from_secs(60);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Unreachable(error.to_string())
    }
}

impl From<wire::Error> for Failure {
    fn from(error: wire::Error) -> Failure {
        Failure::Unreachable(format!("an answer cannot be read: {error}"))
    }
}

impl Nodes {
    /// Connections to origin and target, without tandem.
    async fn clients(&self) -> Result<[Client; 2], Failure> {
        Ok([reach(&self.origin).await?, reach(&self.target).await?])
    }

    /// The target has one node.
    fn target(&mut self) -> Result<&mut Node, Failure> {
        self.target.nodes.first_mut().ok_or_else(|| Failure::Unreachable("the target has no node".to_owned()))
    }
}

impl Pair for Nodes {
    const WIRE: Wire = Wire::Cql;
    const PLANTED: &str = "zdmapp.lexicon";
    const SECONDS: u64 = 50;
    type Actor = Writer;

    /// Both at once: a start is seconds of processor time.
    fn start(sandbox: &Sandbox) -> Result<Nodes, Failure> {
        let (old, new) = oldest_and_newest()?;
        let start = |distribution: &Distribution| Cluster::start(sandbox, distribution, 1, &Options::default());
        let (origin, target) = std::thread::scope(|scope| {
            let origin = scope.spawn(|| start(&old));
            let target = start(&new);
            (origin.join(), target)
        });
        let origin = origin.map_err(|_| Failure::Unreachable("the origin's start failed by a panic".to_owned()))?;
        Ok(Nodes { origin: origin?, target: target? })
    }

    fn describe(&self) -> String {
        let version = |cluster: &Cluster| {
            cluster.nodes.first().map_or_else(String::new, |node| node.distribution().version.clone())
        };
        format!("origin: Cassandra {}, target: Cassandra {}", version(&self.origin), version(&self.target))
    }

    fn config(&self) -> String {
        let (origin, target) = (self.origin.contact(), self.target.contact());
        format!("[origin]\nurl = \"cql://{origin}\"\n\n[target]\nurl = \"cql://{target}\"\n")
    }

    /// Both sides get the tables, and the origin alone what is there before.
    async fn fill(&self) -> Result<(), Failure> {
        let [origin, target] = self.clients().await?;
        schema::create(&origin).await?;
        schema::create(&target).await?;
        schema::fill(&origin).await
    }

    async fn rows(&self) -> Result<(u64, u64), Failure> {
        let [origin, target] = self.clients().await?;
        Ok((schema::count(&origin).await?, schema::count(&target).await?))
    }

    fn actor(&self, number: u32, port: u16) -> Result<Writer, Failure> {
        Ok(Writer::new(number, Address { host: "127.0.0.1".to_owned(), port }))
    }

    async fn plant(&self) -> Result<(), Failure> {
        let [_, target] = self.clients().await?;
        schema::run(&target, schema::PLANT).await
    }

    async fn look(&self, port: u16) -> Result<(), Failure> {
        let address = Address { host: "127.0.0.1".to_owned(), port };
        schema::run(&Client::connect(&Settings::default(), &address).await?, schema::LOOK).await
    }

    fn kill_target(&mut self) -> Result<(), Failure> {
        Ok(self.target()?.stop(Stop::Kill)?)
    }

    fn revive_target(&mut self) -> Result<(), Failure> {
        Ok(self.target()?.start()?)
    }

    async fn compare(&self, mut actors: Vec<Writer>, progress: &Progress) -> Result<Found, Failure> {
        let [origin, target] = self.clients().await?;
        let found = compare::sides(&origin, &target, progress).await?;
        let ledgers: Vec<&Ledger<Table>> = actors.iter_mut().map(|actor| &*actor.ledger()).collect();
        let missing = compare::missing(&target, &ledgers, progress).await?;
        Ok(Found { lost: found.lost + missing, ..found })
    }
}

async fn reach(cluster: &Cluster) -> Result<Client, Failure> {
    let contact = cluster.contact();
    let address = Address { host: contact.ip().to_string(), port: contact.port() };
    let settings = Settings { request_timeout: PATIENCE, ..Settings::default() };
    Ok(Client::connect(&settings, &address).await?)
}
