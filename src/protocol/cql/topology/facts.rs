//! What one side says of itself: SUPPORTED, and its row of `system.local`.

use crate::protocol::cql::wire::primitive::StringMultimap;
use crate::protocol::cql::wire::response::Rows;

use super::Supported;

/// What a node says of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Of the cluster.
    pub cluster_name: String,
    /// Where the node is.
    pub data_center: String,
    /// Where in it.
    pub rack: String,
    /// The class that makes tokens of keys.
    pub partitioner: String,
    /// `4.1.9`.
    pub release_version: String,
    /// `3.4.6`.
    pub cql_version: String,
    /// What its clients may choose.
    pub supported: Supported,
    /// The class that asks its clients who they are; `None`: nobody asks.
    pub authenticator: Option<String>,
}

/// The row of `system.local` lacks this column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's answer about system.local lacks {0}")]
pub struct Lacks(pub &'static str);

impl Facts {
    /// From the answers to `SELECT * FROM system.local` and OPTIONS.
    pub fn read(local: &Rows<'_>, options: &StringMultimap<'_>) -> Result<Facts, Lacks> {
        let text = |name: &'static str| {
            let place =
                local.metadata.columns.and_then(|columns| columns.iter().position(|column| column.name == name));
            let cell = local.iter().next().and_then(Result::ok).zip(place).and_then(|(row, place)| row.get(place)?);
            cell.and_then(|cell| std::str::from_utf8(cell).ok()).map(str::to_owned).ok_or(Lacks(name))
        };
        Ok(Facts {
            cluster_name: text("cluster_name")?,
            data_center: text("data_center")?,
            rack: text("rack")?,
            partitioner: text("partitioner")?,
            release_version: text("release_version")?,
            cql_version: text("cql_version")?,
            supported: Supported::read(options),
            authenticator: None,
        })
    }
}

/// The lower of two versions, such as `4.1.9` and `5.0-beta1`; of equal ones the first.
pub(super) fn lower<'v>(one: &'v str, other: &'v str) -> &'v str {
    if order(other) < order(one) { other } else { one }
}

/// Numbers up to the first that is none; a release comes after what led to it.
fn order(version: &str) -> (Vec<u32>, bool) {
    let (release, before) = version.split_once(['-', '~']).map_or((version, false), |(release, _)| (release, true));
    let mut numbers: Vec<u32> = release.split('.').map_while(|number| number.parse().ok()).collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    (numbers, !before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_version_is_the_one_that_was_released_first() {
        for (lesser, greater) in [
            ("4.1.9", "5.0.5"),
            ("4.1.9", "4.1.10"),
            ("3.11", "4.0"),
            ("4.0-rc1", "4.0.0"),
            ("5.0-beta1", "5.0.5"),
            ("4.1", "4.1.1"),
            ("3.4.6", "3.4.7"),
            ("nonsense", "1"),
        ] {
            assert_eq!(lower(lesser, greater), lesser);
            assert_eq!(lower(greater, lesser), lesser);
        }
        assert_eq!(lower("4.0", "4.0.0"), "4.0");
    }
}
