//! Who this proxy says it is, for good.
//!
//! Made at the first start, when both sides were asked, and kept in the journal's directory. Where they differ, a client must
//! be served by either: it is told the lower version and what both support. Cluster, data center and rack are the origin's, for
//! applications are configured with them; after a switch the target's keyspaces may name other data centers, and then
//! drivers find no replica for a token and take any node, which is a proxy like every other.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::facts::{Facts, lower};
use super::{Member, Supported};
use crate::mirror::durable::{Durable, Error};
use crate::protocol::cql::text::generate::uuid_text;
use crate::protocol::cql::text::literal::uuid;

/// Its file in the journal's directory.
const FILE: &str = "cql-identity";
/// How many tokens a node of Cassandra has where nobody says otherwise.
const TOKENS: u64 = 16;

/// What a client is told of the proxy and its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the cluster: the origin's.
    pub cluster_name: String,
    /// The origin's.
    pub data_center: String,
    /// The origin's.
    pub rack: String,
    /// The origin's.
    pub partitioner: String,
    /// The lower of both sides.
    pub release_version: String,
    /// The lower of both sides.
    pub cql_version: String,
    /// What both sides support.
    pub supported: Supported,
    /// Of this proxy.
    pub host_id: HostId,
    /// Of this proxy, in ascending order of their texts.
    pub tokens: Vec<String>,
    /// The class that asks clients who they are, which is the origin's; `None`: nobody asks them, whatever the target does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticator: Option<String>,
    /// When it was made, in seconds since 1970: drivers are told that the node runs since then.
    pub generation: i32,
}

/// A UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(pub [u8; 16]);

impl From<HostId> for String {
    fn from(id: HostId) -> String {
        uuid_text(&id.0)
    }
}

impl TryFrom<String> for HostId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<HostId, &'static str> {
        uuid(text.as_bytes()).map(HostId).map_err(|_| "no UUID")
    }
}

impl Identity {
    /// At the first start. `random` makes the host id and the tokens; `now` is in seconds since 1970.
    pub fn new(origin: &Facts, target: &Facts, mut random: [u8; 16], now: i32) -> Identity {
        random[6] = random[6] & 0x0F | 0x40;
        random[8] = random[8] & 0x3F | 0x80;
        Identity {
            cluster_name: origin.cluster_name.clone(),
            data_center: origin.data_center.clone(),
            rack: origin.rack.clone(),
            partitioner: origin.partitioner.clone(),
            release_version: lower(&origin.release_version, &target.release_version).to_owned(),
            cql_version: lower(&origin.cql_version, &target.cql_version).to_owned(),
            supported: Supported::common([&origin.supported, &target.supported]),
            host_id: HostId(random),
            tokens: tokens(&origin.partitioner, random),
            authenticator: origin.authenticator.clone(),
            generation: now,
        }
    }

    /// What an earlier start has kept; `None` before the first.
    pub fn load(dir: &Path) -> Result<Option<Identity>, Error> {
        Durable::in_dir(dir, FILE).load()
    }

    /// Keep it. Durable when it resolves; blocks on no thread of the runtime.
    pub async fn save(&self, dir: &Path) -> Result<(), Error> {
        Durable::in_dir(dir, FILE).save_aside(self).await
    }

    /// How this proxy is seen by clients of the others.
    pub fn member(&self, address: SocketAddr) -> Member {
        Member { host_id: self.host_id, address, tokens: self.tokens.clone() }
    }

    /// What a side says that clients of this identity must not meet there, for a person to read; the side was replaced
    /// or went back to an older version.
    pub fn contradictions(&self, side: &Facts) -> Vec<String> {
        let offered = Supported::common([&self.supported, &side.supported]);
        let mut found = Vec::new();
        if offered.versions() != self.supported.versions() {
            let (told, spoken) = (self.supported.versions(), offered.versions());
            found.push(format!("clients were told of protocols {told:?}, of which it speaks {spoken:?}"));
        }
        if lower(&self.release_version, &side.release_version) != self.release_version {
            let (told, runs) = (&self.release_version, &side.release_version);
            found.push(format!("clients were told of release {told}, it runs {runs}"));
        }
        if self.partitioner != side.partitioner {
            let (told, has) = (&self.partitioner, &side.partitioner);
            found.push(format!("clients make tokens by {told}, it has {has}"));
        }
        found
    }
}

/// Spread over the partitioner's ring by a seed. Drivers that route by token spread their requests over the proxies by them.
fn tokens(partitioner: &str, seed: [u8; 16]) -> Vec<String> {
    let seed = u128::from_be_bytes(seed);
    let (mut high, low) = ((seed >> 64) as u64, seed as u64);
    let mut state = scramble(&mut high) ^ low;
    let mut tokens: Vec<String> = (0..TOKENS).map(|_| token(partitioner, scramble(&mut state))).collect();
    tokens.sort_unstable();
    tokens
}

fn token(partitioner: &str, bits: u64) -> String {
    match partitioner.rsplit('.').next() {
        // Of 0 to 2^127.
        Some("RandomPartitioner") => (u128::from(bits) << 63).to_string(),
        // Of byte strings, in hexadecimal.
        Some("ByteOrderedPartitioner") => format!("{bits:016x}"),
        _ => bits.cast_signed().to_string(),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): well spread numbers of any seed.
fn scramble(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

#[cfg(test)]
pub(super) mod tests;
