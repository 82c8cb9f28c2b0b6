//! Who a proxy says it is.

use super::*;
use crate::protocol::cql::wire::primitive::Reader;
use crate::protocol::cql::wire::response::put_supported;

/// A node of this release, of protocols up to this version.
pub(in crate::protocol::cql::topology) fn facts(release: &str, cql: &str, newest: u8) -> Facts {
    let versions: Vec<String> = (3..=newest).map(|version| format!("{version}/v{version}")).collect();
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    let mut message = bytes::BytesMut::new();
    let options: [(&str, &[&str]); 3] =
        [("PROTOCOL_VERSIONS", &versions), ("COMPRESSION", &["snappy", "lz4"]), ("CQL_VERSION", &[cql])];
    put_supported(&mut message, &options).unwrap();
    Facts {
        cluster_name: format!("cluster of {release}"),
        data_center: "datacenter1".to_owned(),
        rack: "rack1".to_owned(),
        partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
        release_version: release.to_owned(),
        cql_version: cql.to_owned(),
        supported: Supported::read(&Reader::new(&message).string_multimap("options").unwrap()),
        authenticator: None,
    }
}

fn identity() -> Identity {
    Identity::new(&facts("4.1.9", "3.4.6", 5), &facts("5.0.5", "3.4.7", 5), [0xFF; 16], 1_700_000_000)
}

#[test]
fn it_is_the_origins_where_names_are_and_the_lower_where_versions_are() {
    let back = Identity::new(&facts("5.0.5", "3.4.7", 5), &facts("3.11.19", "3.4.4", 4), [0; 16], 0);
    assert_eq!(back.cluster_name, "cluster of 5.0.5");
    assert_eq!((back.release_version.as_str(), back.cql_version.as_str()), ("3.11.19", "3.4.4"));
    assert_eq!(back.supported.versions().len(), 2);
    let there = identity();
    assert_eq!(there.cluster_name, "cluster of 4.1.9");
    assert_eq!((there.release_version.as_str(), there.cql_version.as_str()), ("4.1.9", "3.4.6"));
    assert_eq!(String::from(there.host_id), "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

#[tokio::test]
async fn it_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(Identity::load(dir.path()).expect("nothing there"), None);
    identity().save(dir.path()).await.expect("saved");
    assert_eq!(Identity::load(dir.path()).expect("loaded"), Some(identity()));
}

#[test]
fn one_kept_by_an_earlier_release_of_tandem_is_still_read() {
    let kept = include_str!("kept.json");
    let identity: Identity = serde_json::from_str(kept).expect("it can be read");
    assert_eq!(serde_json::to_string_pretty(&identity).expect("it can be written"), kept.trim_end());
}

#[test]
fn tokens_are_of_the_partitioner_and_differ_between_proxies() {
    let murmur = tokens("org.apache.cassandra.dht.Murmur3Partitioner", [1; 16]);
    assert_eq!(murmur.len(), 16);
    assert!(murmur.is_sorted() && murmur.iter().all(|token| token.parse::<i64>().is_ok()));
    let other = tokens("org.apache.cassandra.dht.Murmur3Partitioner", [2; 16]);
    assert!(other.iter().all(|token| !murmur.contains(token)));
    let random = tokens("org.apache.cassandra.dht.RandomPartitioner", [1; 16]);
    assert!(random.iter().all(|token| token.parse::<u128>().is_ok_and(|token| token <= 1 << 127)));
    let ordered = tokens("org.apache.cassandra.dht.ByteOrderedPartitioner", [1; 16]);
    assert!(ordered.iter().all(|token| token.len() == 16 && u64::from_str_radix(token, 16).is_ok()));
}

#[test]
fn a_side_that_went_back_is_named_and_one_that_went_on_is_not() {
    assert_eq!(identity().contradictions(&facts("5.0.5", "3.4.7", 5)), [] as [String; 0]);
    assert_eq!(identity().contradictions(&facts("6.0.0", "3.4.8", 6)), [] as [String; 0]);
    let older = Facts { partitioner: "other".to_owned(), ..facts("3.11.19", "3.4.4", 4) };
    assert_eq!(
        identity().contradictions(&older),
        [
            "clients were told of protocols [V3, V4, V5], of which it speaks [V3, V4]",
            "clients were told of release 4.1.9, it runs 3.11.19",
            "clients make tokens by org.apache.cassandra.dht.Murmur3Partitioner, it has other",
        ]
    );
}
