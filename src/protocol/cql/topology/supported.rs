//! SUPPORTED: what a client may choose is what both sides and this proxy can do.
//!
//! A client that is connected while the origin is the primary must be served by the target after a switch, with the version
//! and the compression that it has chosen then.

use std::collections::BTreeMap;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use super::facts::lower;
use crate::protocol::cql::wire::compress::Compression;
use crate::protocol::cql::wire::primitive::StringMultimap;
use crate::protocol::cql::wire::response::put_supported;
use crate::protocol::cql::wire::{Error, Version};

const VERSIONS: &str = "PROTOCOL_VERSIONS";
const COMPRESSION: &str = "COMPRESSION";
const LANGUAGE: &str = "CQL_VERSION";
/// Options that tell of the sockets and shards of one node: wrong through a proxy.
const OF_ONE_NODE: [&str; 2] = ["SCYLLA_", "TABLETS_"];

/// Options, each with the values that may be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Supported(BTreeMap<String, Vec<String>>);

impl Supported {
    /// What a server said.
    pub fn read(options: &StringMultimap<'_>) -> Supported {
        let values =
            |list: crate::protocol::cql::wire::primitive::StringList<'_>| list.iter().map(str::to_owned).collect();
        Supported(options.iter().map(|(name, list)| (name.to_owned(), values(list))).collect())
    }

    /// What may be chosen where this proxy stands before all of these servers.
    pub fn common<'s>(sides: impl IntoIterator<Item = &'s Supported>) -> Supported {
        let common = sides.into_iter().cloned().reduce(|one, other| one.and(&other)).unwrap_or_default();
        common.narrowed()
    }

    /// The versions of the protocol, the oldest first.
    pub fn versions(&self) -> Vec<Version> {
        let offered = |version: &Version| self.values(VERSIONS).iter().any(|value| version_of(value) == Some(*version));
        Version::ALL.into_iter().filter(offered).collect()
    }

    /// Whether this may be chosen in STARTUP of this version.
    pub fn compresses(&self, version: Version, compression: Compression) -> bool {
        self.values(COMPRESSION).iter().any(|value| Compression::from_name(value) == Some(compression))
            && suits(version, compression)
    }

    /// The language that clients are told of; the lower of both sides.
    pub fn cql_version(&self) -> &str {
        self.values(LANGUAGE).first().map_or("3.0.0", String::as_str)
    }

    /// What a server says to a version that it does not speak.
    pub fn refusal(&self, version: u8) -> String {
        let spoken = self.values(VERSIONS).join(", ");
        format!("Invalid or unsupported protocol version ({version}); supported versions are ({spoken})")
    }

    /// Append the message, for a client of this version.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        let mut offered = self.clone();
        offered.keep(COMPRESSION, |value| Compression::from_name(value).is_some_and(|known| suits(version, known)));
        let values: Vec<(&String, Vec<&str>)> =
            offered.0.iter().map(|(name, values)| (name, values.iter().map(String::as_str).collect())).collect();
        let options: Vec<(&str, &[&str])> =
            values.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        put_supported(out, &options)
    }

    fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn keep(&mut self, name: &str, keep: impl Fn(&str) -> bool) {
        if let Some(values) = self.0.get_mut(name) {
            values.retain(|value| keep(value));
        }
    }

    /// What both have. Of what only servers know, what they say alike.
    fn and(mut self, other: &Supported) -> Supported {
        for name in [VERSIONS, COMPRESSION] {
            self.keep(name, |value| other.values(name).iter().any(|one| one.eq_ignore_ascii_case(value)));
        }
        // A newer server takes the older language.
        if let (Some(own), Some(theirs)) = (self.0.get_mut(LANGUAGE), other.values(LANGUAGE).first()) {
            own.iter_mut().for_each(|own| *own = lower(own, theirs).to_owned());
        }
        self.0.retain(|name, values| is_ours(name) || other.values(name) == values.as_slice());
        self
    }

    /// What this proxy can do of it.
    fn narrowed(mut self) -> Supported {
        self.keep(VERSIONS, |value| version_of(value).is_some());
        self.keep(COMPRESSION, |value| Compression::from_name(value).is_some());
        self.0.retain(|name, _| !OF_ONE_NODE.iter().any(|prefix| name.starts_with(prefix)));
        // All drivers look for these.
        for name in [VERSIONS, COMPRESSION, LANGUAGE] {
            self.0.entry(name.to_owned()).or_default();
        }
        self
    }
}

fn is_ours(name: &str) -> bool {
    [VERSIONS, COMPRESSION, LANGUAGE].contains(&name)
}

/// The version in `4/v4`; none in `6/v6-beta`.
fn version_of(value: &str) -> Option<Version> {
    let (number, name) = value.split_once('/')?;
    let version = number.parse().ok().and_then(Version::from_number)?;
    (name == version.to_string()).then_some(version)
}

/// v5 has no Snappy, though servers offer it there and then refuse it.
fn suits(version: Version, compression: Compression) -> bool {
    version < Version::V5 || compression != Compression::Snappy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::wire::primitive::Reader;

    type Options<'a> = &'a [(&'a str, &'a [&'a str])];

    fn supported(options: Options<'_>) -> Supported {
        let mut message = BytesMut::new();
        put_supported(&mut message, options).unwrap();
        Supported::read(&Reader::new(&message).string_multimap("options").unwrap())
    }

    /// As a client of this version reads it.
    fn told(supported: &Supported, version: Version) -> String {
        let mut message = BytesMut::new();
        supported.put(&mut message, version).unwrap();
        let options = Reader::new(&message).string_multimap("options").unwrap();
        let option = |(name, values): (&str, _)| {
            let values: crate::protocol::cql::wire::primitive::StringList<'_> = values;
            format!("{name}={}", values.iter().collect::<Vec<_>>().join(","))
        };
        options.iter().map(option).collect::<Vec<_>>().join(" ")
    }

    const OLD: Options<'_> = &[
        ("PROTOCOL_VERSIONS", &["3/v3", "4/v4", "5/v5", "6/v6-beta"]),
        ("COMPRESSION", &["snappy", "lz4"]),
        ("CQL_VERSION", &["3.4.6"]),
    ];
    const NEW: Options<'_> = &[
        ("PROTOCOL_VERSIONS", &["3/v3", "4/v4", "5/v5", "6/v6-beta"]),
        ("COMPRESSION", &["snappy", "lz4"]),
        ("CQL_VERSION", &["3.4.7"]),
    ];

    #[test]
    fn clients_may_choose_what_both_sides_and_the_proxy_can_do() {
        let common = Supported::common([&supported(OLD), &supported(NEW)]);
        let versions = "PROTOCOL_VERSIONS=3/v3,4/v4,5/v5";
        assert_eq!(told(&common, Version::V4), format!("COMPRESSION=snappy,lz4 CQL_VERSION=3.4.6 {versions}"));
        assert_eq!(told(&common, Version::V5), format!("COMPRESSION=lz4 CQL_VERSION=3.4.6 {versions}"));
        assert_eq!(common.versions(), Version::ALL);
        assert!(
            common.compresses(Version::V4, Compression::Snappy) && !common.compresses(Version::V5, Compression::Snappy)
        );
    }

    #[test]
    fn what_one_side_lacks_is_not_offered() {
        let lesser = supported(&[
            ("PROTOCOL_VERSIONS", &["2/v2", "3/v3", "4/v4", "65/dse-v1"]),
            ("COMPRESSION", &["LZ4", "zstd"]),
            ("CQL_VERSION", &["3.3.1"]),
            ("PRODUCT_TYPE", &["X"]),
        ]);
        let common = Supported::common([&supported(NEW), &lesser]);
        assert_eq!(told(&common, Version::V3), "COMPRESSION=lz4 CQL_VERSION=3.3.1 PROTOCOL_VERSIONS=3/v3,4/v4");
        let words = "Invalid or unsupported protocol version (5); supported versions are (3/v3, 4/v4)";
        assert_eq!(common.refusal(5), words);
    }

    #[test]
    fn what_servers_say_alike_is_kept_unless_it_is_about_one_node() {
        let server =
            supported(&[("PRODUCT_TYPE", &["X"]), ("SCYLLA_NR_SHARDS", &["4"]), ("PROTOCOL_VERSIONS", &["4/v4"])]);
        let common = Supported::common([&server, &server]);
        assert_eq!(told(&common, Version::V4), "COMPRESSION= CQL_VERSION= PRODUCT_TYPE=X PROTOCOL_VERSIONS=4/v4");
    }
}
