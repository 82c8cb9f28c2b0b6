//! What clients see of proxies, one or several.

use super::super::identity::tests::facts;
use super::*;

fn identity() -> Identity {
    Identity::new(&facts("4.1.9", "3.4.6", 5), &facts("5.0.5", "3.4.7", 5), [7; 16], 1_700_000_000)
}

fn member(last: u8, port: u16) -> Member {
    let tokens = vec![format!("{last}")];
    Member { host_id: HostId([last; 16]), address: SocketAddr::from(([10, 0, 0, last], port)), tokens }
}

/// A column of each row.
fn column(name: &str, table: SystemTable, moment: &Moment<'_>) -> Vec<Cell> {
    let place = columns(table).iter().position(|column| column.name == name).expect("a column");
    identity().rows(table, moment).into_iter().map(|mut row| row.swap_remove(place)).collect()
}

fn moment<'a>(schema_versions: &'a [[u8; 16]], others: &'a [Member]) -> Moment<'a> {
    Moment { address: SocketAddr::from(([10, 0, 0, 1], 9042)), schema_versions, others }
}

#[test]
fn a_proxy_that_is_alone_has_no_peers_and_is_where_the_client_has_reached_it() {
    let now = moment(&[[5; 16]], &[]);
    assert!(identity().rows(SystemTable::Peers, &now).is_empty());
    assert!(identity().rows(SystemTable::PeersV2, &now).is_empty());
    for (name, wanted) in [
        ("rpc_address", vec![10, 0, 0, 1]),
        ("rpc_port", 9042_i32.to_be_bytes().to_vec()),
        ("schema_version", vec![5; 16]),
        ("release_version", b"4.1.9".to_vec()),
        ("native_protocol_version", b"5".to_vec()),
    ] {
        assert_eq!(column(name, SystemTable::Local, &now), [Some(wanted)], "{name}");
    }
    assert_eq!(column("truncated_at", SystemTable::Local, &now), [None]);
}

#[test]
fn an_address_of_ipv4_is_one_also_on_a_socket_of_ipv6() {
    let now = Moment { address: "[::ffff:10.0.0.1]:9042".parse().expect("an address"), ..moment(&[], &[]) };
    assert_eq!(column("broadcast_address", SystemTable::Local, &now), [Some(vec![10, 0, 0, 1])]);
}

#[test]
fn the_others_are_peers_once_each() {
    let others = [member(2, 9042), member(1, 9042), member(3, 9042), member(3, 9043)];
    let now = moment(&[[5; 16]], &others);
    let ip = |last: u8| Some(vec![10, 0, 0, last]);
    assert_eq!(column("peer", SystemTable::Peers, &now), [ip(2), ip(3)]);
    assert_eq!(column("peer", SystemTable::PeersV2, &now), [ip(2), ip(3), ip(3)]);
    let port = |port: i32| Some(port.to_be_bytes().to_vec());
    assert_eq!(column("native_port", SystemTable::PeersV2, &now), [port(9042), port(9042), port(9043)]);
    let id = |last: u8| Some(vec![last; 16]);
    assert_eq!(column("host_id", SystemTable::PeersV2, &now), [id(2), id(3), id(3)]);
}

#[test]
fn a_primary_that_does_not_agree_on_its_schema_shows_in_the_peers() {
    let others = [member(2, 9042), member(3, 9042)];
    let versions = [[5; 16], [6; 16]];
    let now = moment(&versions, &others);
    let version = |one: u8| Some(vec![one; 16]);
    assert_eq!(column("schema_version", SystemTable::Local, &now), [version(5)]);
    for table in [SystemTable::Peers, SystemTable::PeersV2] {
        assert_eq!(column("schema_version", table, &now), [version(6), version(6)]);
        assert_eq!(column("schema_version", table, &moment(&versions[..1], &others)), [version(5), version(5)]);
        assert_eq!(column("schema_version", table, &moment(&[], &others)), [None, None]);
    }
}
