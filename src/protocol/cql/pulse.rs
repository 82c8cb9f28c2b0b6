//! Something trivial to ask a node of Cassandra: see [`crate::net::pulse`].

use crate::net::pulse::Ask;
use crate::record::Side;

use super::client::Client;
use super::setup::Sides;
use super::wire::primitive::Consistency;
use super::wire::request::Parameters;

/// One side: whichever of its nodes our own connection is to.
pub struct Ping {
    sides: Sides,
    side: Side,
}

impl Ping {
    /// Of this side.
    pub(super) fn to(sides: &Sides, side: Side) -> Ping {
        Ping { sides: sides.clone(), side }
    }
}

impl Ask for Ping {
    type Link = Client;

    async fn connect(&self) -> Result<Client, String> {
        let cluster = self.sides.get(self.side).ok_or_else(|| self.sides.why_away(self.side))?;
        cluster.client().await.map_err(|error| error.to_string())
    }

    async fn ask(&self, link: &mut Client) -> Result<(), String> {
        let answer = link.query("SELECT key FROM system.local", &Parameters::new(Consistency::One)).await;
        answer.map(drop).map_err(|error| error.to_string())
    }
}
