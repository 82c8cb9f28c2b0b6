//! The rows of `system.local`, `system.peers` and `system.peers_v2` as clients see them: this proxy and the others.
//!
//! Columns are those of Cassandra 4.1 and 5.0, which agree, in the order of `SELECT *`.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use super::identity::{HostId, Identity};
use crate::protocol::cql::text::system::{Cell, ColumnSpec, SystemTable};

/// Another proxy of the fleet, as it says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its own.
    pub host_id: HostId,
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Its own.
    pub tokens: Vec<String>,
}

/// What may be another at the next question.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Where the client that asks has reached this proxy.
    pub address: SocketAddr,
    /// The schema versions of the primary's nodes, each once; first that of the node that the client's requests go to.
    ///
    /// While there are several, a client must not find agreement. In a fleet the others show in the rows of peers; a proxy that
    /// is alone has only one row to show, so there the session holds its answers about `schema_version` for a while.
    pub schema_versions: &'a [[u8; 16]],
    /// The other proxies.
    pub others: &'a [Member],
}

// `[option]`s, native protocol v5, section 4.2.5.2.
const VARCHAR: &[u8] = &[0x00, 0x0D];
const INT: &[u8] = &[0x00, 0x09];
const UUID: &[u8] = &[0x00, 0x0C];
const INET: &[u8] = &[0x00, 0x10];
const SET_OF_VARCHAR: &[u8] = &[0x00, 0x22, 0x00, 0x0D];
const MAP_OF_UUID_TO_BLOB: &[u8] = &[0x00, 0x21, 0x00, 0x0C, 0x00, 0x03];

const LOCAL: &[(&str, &[u8])] = &[
    ("key", VARCHAR),
    ("bootstrapped", VARCHAR),
    ("broadcast_address", INET),
    ("broadcast_port", INT),
    ("cluster_name", VARCHAR),
    ("cql_version", VARCHAR),
    ("data_center", VARCHAR),
    ("gossip_generation", INT),
    ("host_id", UUID),
    ("listen_address", INET),
    ("listen_port", INT),
    ("native_protocol_version", VARCHAR),
    ("partitioner", VARCHAR),
    ("rack", VARCHAR),
    ("release_version", VARCHAR),
    ("rpc_address", INET),
    ("rpc_port", INT),
    ("schema_version", UUID),
    ("tokens", SET_OF_VARCHAR),
    ("truncated_at", MAP_OF_UUID_TO_BLOB),
];

const PEERS: &[(&str, &[u8])] = &[
    ("peer", INET),
    ("data_center", VARCHAR),
    ("host_id", UUID),
    ("preferred_ip", INET),
    ("rack", VARCHAR),
    ("release_version", VARCHAR),
    ("rpc_address", INET),
    ("schema_version", UUID),
    ("tokens", SET_OF_VARCHAR),
];

const PEERS_V2: &[(&str, &[u8])] = &[
    ("peer", INET),
    ("peer_port", INT),
    ("data_center", VARCHAR),
    ("host_id", UUID),
    ("native_address", INET),
    ("native_port", INT),
    ("preferred_ip", INET),
    ("preferred_port", INT),
    ("rack", VARCHAR),
    ("release_version", VARCHAR),
    ("schema_version", UUID),
    ("tokens", SET_OF_VARCHAR),
];

/// The columns of a table, in the order of `SELECT *`.
pub fn columns(table: SystemTable) -> &'static [ColumnSpec] {
    static ALL: LazyLock<[Vec<ColumnSpec>; 3]> = LazyLock::new(|| [LOCAL, PEERS, PEERS_V2].map(specs));
    match table {
        SystemTable::Local => &ALL[0],
        SystemTable::Peers => &ALL[1],
        SystemTable::PeersV2 => &ALL[2],
    }
}

fn specs(columns: &[(&str, &[u8])]) -> Vec<ColumnSpec> {
    columns.iter().map(|(name, option)| ColumnSpec::new(*name, option)).collect()
}

impl Identity {
    /// The rows of a table at this moment, cells in the order of [`columns`].
    pub fn rows(&self, table: SystemTable, moment: &Moment<'_>) -> Vec<Vec<Cell>> {
        match table {
            SystemTable::Local => {
                let own = self.member(moment.address);
                vec![self.row(LOCAL, &own, moment.schema_versions.first().copied())]
            }
            SystemTable::Peers => self.peers(moment, PEERS, |one, other| one.ip() == other.ip()),
            SystemTable::PeersV2 => self.peers(moment, PEERS_V2, |one, other| one == other),
        }
    }

    /// Each of the others whose address is no other's yet: in `system.peers` proxies that differ only in their port are one.
    fn peers(
        &self,
        moment: &Moment<'_>,
        columns: &[(&str, &[u8])],
        is_same: impl Fn(&SocketAddr, &SocketAddr) -> bool,
    ) -> Vec<Vec<Cell>> {
        let mut seen = vec![moment.address];
        let mut rows = Vec::new();
        for (place, member) in moment.others.iter().enumerate() {
            if seen.iter().any(|address| is_same(address, &member.address)) {
                continue;
            }
            seen.push(member.address);
            let last = moment.schema_versions.len().saturating_sub(1);
            let schema_version = moment.schema_versions.get((place + 1).min(last)).copied();
            rows.push(self.row(columns, member, schema_version));
        }
        rows
    }

    fn row(&self, columns: &[(&str, &[u8])], node: &Member, schema_version: Option<[u8; 16]>) -> Vec<Cell> {
        columns.iter().map(|(name, _)| self.cell(name, node, schema_version)).collect()
    }

    /// What a column says of a node, this one or another. Proxies have no port for each other: the one for clients stands for it.
    fn cell(&self, column: &str, node: &Member, schema_version: Option<[u8; 16]>) -> Cell {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let int = |value: i32| Some(value.to_be_bytes().to_vec());
        match column {
            "key" => text("local"),
            "bootstrapped" => text("COMPLETED"),
            "peer" | "broadcast_address" | "listen_address" | "rpc_address" | "native_address" => {
                inet(node.address.ip())
            }
            "peer_port" | "broadcast_port" | "listen_port" | "rpc_port" | "native_port" => {
                int(node.address.port().into())
            }
            "cluster_name" => text(&self.cluster_name),
            "cql_version" => text(&self.cql_version),
            "data_center" => text(&self.data_center),
            "gossip_generation" => int(self.generation),
            "host_id" => Some(node.host_id.0.to_vec()),
            "native_protocol_version" => {
                self.supported.versions().last().and_then(|version| text(&(*version as u8).to_string()))
            }
            "partitioner" => text(&self.partitioner),
            "rack" => text(&self.rack),
            "release_version" => text(&self.release_version),
            "schema_version" => schema_version.map(Vec::from),
            "tokens" => Some(set(&node.tokens)),
            // preferred_ip, preferred_port, truncated_at.
            _ => None,
        }
    }
}

fn inet(address: IpAddr) -> Cell {
    Some(match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    })
}

/// Of texts, as a set is serialized (native protocol v5, section 6.20).
fn set(texts: &[String]) -> Vec<u8> {
    let int = |len: usize| i32::try_from(len).unwrap_or(i32::MAX).to_be_bytes();
    let mut bytes = int(texts.len()).to_vec();
    for text in texts {
        bytes.extend_from_slice(&int(text.len()));
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;
