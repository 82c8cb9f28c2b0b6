//! The demo on two PostgreSQL servers.

mod compare;
mod load;
mod schema;

use super::ledger::Ledger;
use super::load::Actor;
use super::progress::Progress;
use super::{Failure, Found, Pair};
use crate::config::Wire;
use crate::protocol::postgres::client::{Client, Error, ServerConfig};
use crate::sandbox::{Options, Postgres, Sandbox, Stop, binaries};
use load::Writer;
use schema::Table;

/// Who the clients are, on both sides.
const USER: &str = "postgres";

/// Both servers.
pub(super) struct Servers {
    origin: Postgres,
    target: Postgres,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Unreachable(error.to_string())
    }
}

impl Servers {
    fn configs(&self) -> Result<[ServerConfig; 2], Failure> {
        Ok([config(&self.origin.url("app"))?, config(&self.target.url("app"))?])
    }
}

impl Pair for Servers {
    const WIRE: Wire = Wire::Postgres;
    const PLANTED: &str = "public.archive";
    const SECONDS: u64 = 20;
    type Actor = Writer;

    fn start(sandbox: &Sandbox) -> Result<Servers, Failure> {
        let (old, new) = binaries::oldest_and_newest()?;
        let start = |installation, name| Postgres::start_new(sandbox, installation, name, &Options::default());
        Ok(Servers { origin: start(&old, "origin")?, target: start(&new, "target")? })
    }

    fn describe(&self) -> String {
        let (origin, target) = (&self.origin.installation().version, &self.target.installation().version);
        format!("origin: PostgreSQL {origin}, target: PostgreSQL {target}")
    }

    fn config(&self) -> String {
        let (origin, target) = (self.origin.url("app"), self.target.url("app"));
        format!("[origin]\nurl = \"{origin}\"\n\n[target]\nurl = \"{target}\"\n\n[[users]]\nname = \"{USER}\"\n")
    }

    /// The target has the tables, and not a row.
    async fn fill(&self) -> Result<(), Failure> {
        let [origin, target] = self.configs()?;
        schema::create(&origin).await?;
        schema::create(&target).await?;
        schema::fill(&origin).await
    }

    async fn rows(&self) -> Result<(u64, u64), Failure> {
        let [origin, target] = self.configs()?;
        Ok((schema::count(&origin).await?, schema::count(&target).await?))
    }

    fn actor(&self, number: u32, port: u16) -> Result<Writer, Failure> {
        Ok(Writer::new(number, config(&format!("postgres://{USER}@127.0.0.1:{port}/app"))?))
    }

    async fn plant(&self) -> Result<(), Failure> {
        let [_, target] = self.configs()?;
        reach(&target).await?.simple(schema::PLANT).await?;
        Ok(())
    }

    async fn look(&self, port: u16) -> Result<(), Failure> {
        let tandem = config(&format!("postgres://{USER}@127.0.0.1:{port}/app"))?;
        reach(&tandem).await?.simple(schema::LOOK).await?;
        Ok(())
    }

    fn kill_target(&mut self) -> Result<(), Failure> {
        Ok(self.target.stop(Stop::Kill)?)
    }

    fn revive_target(&mut self) -> Result<(), Failure> {
        Ok(self.target.start()?)
    }

    async fn compare(&self, mut actors: Vec<Writer>, _: &Progress) -> Result<Found, Failure> {
        let [origin, target] = self.configs()?;
        let found = compare::sides(&origin, &target).await?;
        let ledgers: Vec<&Ledger<Table>> = actors.iter_mut().map(|actor| &*actor.ledger()).collect();
        Ok(Found { lost: found.lost + compare::missing(&target, &ledgers).await?, ..found })
    }
}

fn config(url: &str) -> Result<ServerConfig, Failure> {
    url.parse().map_err(|error| Failure::Usage(format!("{error}")))
}

/// A connection.
async fn reach(config: &ServerConfig) -> Result<Client, Failure> {
    Ok(Client::connect(config).await?)
}
