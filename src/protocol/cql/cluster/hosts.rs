//! The nodes of a cluster, as one of them sees it, and which of them to use.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::protocol::cql::client::{Address, Client, Error};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;
use crate::protocol::cql::wire::response::code;

use super::fields::{Fields, Named};

/// More are counted, not named.
const NAMED_MAX: usize = 5;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where it takes clients.
    pub address: Address,
    /// Its id.
    pub id: [u8; 16],
    /// What other nodes call it by, where that is told.
    pub peer: Option<IpAddr>,
    /// Where it is.
    pub datacenter: String,
    /// What it is.
    pub release: String,
    /// The schema that it has, as the node that was asked has heard.
    pub schema: Option<[u8; 16]>,
    /// Where its ranges end; none where the partitioner's tokens are no numbers of 64 bits.
    pub tokens: Vec<i64>,
}

impl Host {
    /// They are one node. One that began with a copy of another one's files has its id, and is elsewhere.
    fn is(&self, other: &Host) -> bool {
        self.id == other.id && self.peer.zip(other.peer).is_none_or(|(here, there)| here == there)
    }
}

/// A node that is in both of these clusters, which are one then.
pub(super) fn in_both(one: &[Host], other: &[Host]) -> Option<Address> {
    other.iter().find(|node| one.iter().any(|host| host.is(node))).map(|node| node.address.clone())
}

/// All nodes: the one that is asked, then those that it knows of.
pub(super) async fn load(client: &Client) -> Result<Vec<Host>, Error> {
    let one = Parameters::new(Consistency::One);
    let local = client.query("SELECT * FROM system.local", &one).await?;
    let mut hosts: Vec<Host> = host(&Named::of(&local)?.first()?, client.address().clone()).into_iter().collect();
    if hosts.is_empty() {
        return Err(Error::Answer("the node does not say who it is"));
    }
    let peers = match client.query("SELECT * FROM system.peers_v2", &one).await {
        // Before 4.0 there is no such table.
        Err(error) if error.code() == Some(code::INVALID) => client.query("SELECT * FROM system.peers", &one).await?,
        other => other?,
    };
    for row in Named::of(&peers)?.iter() {
        let row = row?;
        let address = address(&row, client.address().port);
        hosts.extend(address.and_then(|address| host(&row, address)));
    }
    Ok(hosts)
}

/// A peer without an id or an address is one that is just coming or going.
fn host(row: &Fields<'_, '_>, address: Address) -> Option<Host> {
    Some(Host {
        address,
        id: row.uuid("host_id")?,
        peer: row.inet("broadcast_address").or_else(|| row.inet("peer")),
        datacenter: row.text("data_center")?.to_owned(),
        release: row.text("release_version")?.to_owned(),
        schema: row.uuid("schema_version"),
        tokens: row.texts("tokens").iter().filter_map(|token| token.parse().ok()).collect(),
    })
}

/// `native_address` is in peers_v2, `rpc_address` in peers; a node that listens everywhere says 0.0.0.0 there.
fn address(row: &Fields<'_, '_>, port: u16) -> Option<Address> {
    let told = row.inet("native_address").or_else(|| row.inet("rpc_address"));
    let host: IpAddr = told.filter(|address| !address.is_unspecified()).or_else(|| row.inet("peer"))?;
    let port = row.int("native_port").and_then(|port| u16::try_from(port).ok()).unwrap_or(port);
    Some(Address { host: host.to_string(), port })
}

/// Those of this datacenter.
///
/// # Errors
/// [`Error::NoDatacenter`].
pub(super) fn nearby(all: Vec<Host>, datacenter: &str) -> Result<Vec<Host>, Error> {
    let (near, far): (Vec<Host>, Vec<Host>) = all.into_iter().partition(|host| host.datacenter == datacenter);
    if near.is_empty() {
        let known: BTreeSet<String> = far.into_iter().map(|host| host.datacenter).collect();
        return Err(Error::NoDatacenter { wanted: datacenter.to_owned(), known: known.into_iter().collect() });
    }
    Ok(near)
}

/// Of the nodes that are not `down` those with another schema than the first of these has. One that says none is just coming.
pub(super) fn dissenting(hosts: &[Host], down: impl Fn(&Address) -> bool) -> Vec<&Host> {
    let mut up = hosts.iter().filter(|host| host.schema.is_some() && !down(&host.address));
    let first = up.next().and_then(|host| host.schema);
    up.filter(|host| host.schema != first).collect()
}

/// These nodes, which dissent from the one that was asked, in words.
pub(super) fn named(dissenting: &[&Host], asked: &Address) -> String {
    let named = dissenting.iter().take(NAMED_MAX).map(|host| format!("{} in {}", host.address, host.datacenter));
    let mut names: Vec<String> = named.collect();
    names.extend(dissenting.len().checked_sub(NAMED_MAX + 1).map(|more| format!("{} more", more + 1)));
    format!("{} {} another than {asked}", names.join(", "), if dissenting.len() == 1 { "has" } else { "have" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, datacenter: &str, schema: Option<u8>) -> Host {
        Host {
            address: Address { host: name.to_owned(), port: 9042 },
            id: [0; 16],
            peer: None,
            datacenter: datacenter.to_owned(),
            release: "4.1.9".to_owned(),
            schema: schema.map(|byte| [byte; 16]),
            tokens: Vec::new(),
        }
    }

    #[test]
    fn a_node_is_known_by_its_id_unless_it_says_to_be_elsewhere() {
        let node = |id, peer: Option<&str>| Host {
            id: [id; 16],
            peer: peer.map(|address| address.parse().expect("an address")),
            ..host("a", "east", None)
        };
        let both = |one, other| in_both(&[node(9, None), one], &[node(8, None), other]).is_some();
        assert!(both(node(1, None), node(1, None)));
        assert!(both(node(1, Some("10.0.0.1")), node(1, Some("10.0.0.1"))));
        assert!(both(node(1, Some("10.0.0.1")), node(1, None)));
        assert!(!both(node(1, Some("10.0.0.1")), node(1, Some("10.0.0.2"))), "it began with a copy of its files");
        assert!(!both(node(1, Some("10.0.0.1")), node(2, Some("10.0.0.1"))), "an address that was another's");
    }

    #[test]
    fn only_one_datacenter_is_used() {
        let hosts = vec![host("a", "east", None), host("b", "west", None), host("c", "east", None)];
        let near = |datacenter| nearby(hosts.clone(), datacenter);
        let names = |hosts: Vec<Host>| hosts.into_iter().map(|host| host.address.host).collect::<Vec<_>>();
        assert_eq!(names(near("east").expect("it is there")), ["a", "c"]);
        assert_eq!(names(near("west").expect("it is there")), ["b"]);
        let said = near("north").expect_err("there is none").to_string();
        assert_eq!(said, "the cluster has no datacenter north; it has: east, west");
    }

    #[test]
    fn nodes_agree_when_all_that_are_up_have_one_schema() {
        let hosts = [host("a", "", Some(1)), host("b", "", Some(1)), host("c", "", Some(2)), host("d", "", None)];
        let names = |down: &dyn Fn(&Address) -> bool| -> Vec<String> {
            dissenting(&hosts, down).into_iter().map(|host| host.address.host.clone()).collect()
        };
        assert_eq!(names(&|_| false), ["c"]);
        assert_eq!(names(&|address| address.host == "c"), [""; 0]);
        assert_eq!(names(&|address| address.host.as_str() < "c"), [""; 0]);
        assert_eq!(names(&|_| true), [""; 0]);
    }

    #[test]
    fn nodes_that_dissent_are_named_with_their_datacenters_and_not_all_of_a_hundred() {
        let hosts: Vec<Host> = (0..100).map(|n| host(&format!("n{n}"), "west", None)).collect();
        let asked = Address { host: "a".to_owned(), port: 9042 };
        let named = |count| named(&hosts.iter().take(count).collect::<Vec<_>>(), &asked);
        assert_eq!(named(1), "n0:9042 in west has another than a:9042");
        assert_eq!(named(2), "n0:9042 in west, n1:9042 in west have another than a:9042");
        assert!(named(5).ends_with("n4:9042 in west have another than a:9042"));
        assert!(named(100).ends_with("n4:9042 in west, 95 more have another than a:9042"));
    }
}
