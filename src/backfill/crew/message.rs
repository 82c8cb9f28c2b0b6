//! What workers and the crew say to each other, as JSON. Keys of rows are in hexadecimal; what an operator sees of a key is
//! made where the schema is, and not sent.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::work::{Chunk, Differs};
use crate::mirror::durable::hex;
use crate::record::Side;

/// Most bytes of a message.
pub const BYTES_MAX: usize = 8 << 20;
/// About the bytes of keys that a worker keeps of one chunk: with what surrounds them, well below [`BYTES_MAX`].
pub const KEYS_BYTES: usize = 2 << 20;

/// Who comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// For people.
    pub name: String,
    /// tandem's version.
    pub version: String,
    /// Chunks at once.
    pub connections: usize,
    /// What it sees of both sides.
    pub sides: Pair,
}

/// What somebody sees of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Where the data was when the migration began.
    pub origin: Seen,
    /// Where it is going.
    pub target: Seen,
}

/// What somebody sees of a side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The cluster's name.
    pub cluster: String,
    /// The ids of its nodes.
    pub nodes: Vec<Hex>,
}

impl Pair {
    /// One of them.
    pub fn of(&self, side: Side) -> &Seen {
        match side {
            Side::Origin => &self.origin,
            Side::Target => &self.target,
        }
    }
}

impl Seen {
    /// An id of a node is in no two clusters.
    ///
    /// # Errors
    /// Why whoever sees `theirs` does not look at the same.
    pub fn agrees(&self, side: Side, theirs: &Seen) -> Result<(), String> {
        if self.cluster == theirs.cluster && self.nodes.iter().any(|node| theirs.nodes.contains(node)) {
            return Ok(());
        }
        let (ours, theirs) = (&self.cluster, &theirs.cluster);
        Err(format!(
            "the worker's {side} is another cluster: `{theirs}`, with no node of `{ours}`; give it the proxy.toml of this tandem"
        ))
    }
}

/// It may work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// What it is called from now on.
    pub worker: u64,
    /// Without a word for so long it loses its chunks.
    pub lease_ms: u64,
    /// It is to say as often that it works.
    pub beat_ms: u64,
}

/// A chunk is lent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Which loan this is.
    pub loan: u64,
    /// How long it was waited for: the lease began so long after it was asked for, or later.
    pub waited_ms: u64,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done with a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Copied or compared.
    pub doing: Doing,
    /// The side that is read, or counts.
    pub primary: Side,
    /// Where.
    pub chunk: Chunk,
    /// The moment that it is done as of, in microseconds since the epoch: by the clock of who lends it.
    pub read: i64,
    /// What the table is like on both sides: whoever finds another number does not see it so yet.
    pub schema: u64,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// Rows of the primary are written to the secondary.
    Copy,
    /// Rows of both sides are laid side by side.
    Compare,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// It was copied.
    Copied(Copied),
    /// It was compared.
    Compared(Compared),
    /// It was not done; nothing of it is under way.
    Failed {
        /// What happened.
        why: String,
    },
}

/// Of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Rows written.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Rows that only the mirror can make equal.
    pub left: Vec<Hex>,
    /// Those of them that were too many.
    pub crowd: u64,
    /// Rows that the secondary refuses.
    pub refused: Vec<Hex>,
}

/// Of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Rows of the primary.
    pub rows: u64,
    /// Rows that showed differently: how, their keys, and what changes with what was seen.
    pub suspects: Vec<(Differs, Hex, u64)>,
    /// Those of them that were too many.
    pub crowd: u64,
    /// Rows that differ and are not looked at.
    pub left_out: u64,
}

/// Bytes, as hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Hex(pub Box<[u8]>);

impl std::fmt::Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<&[u8]> for Hex {
    fn from(bytes: &[u8]) -> Hex {
        Hex(bytes.into())
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::show(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::parse(&text).map(Hex).ok_or_else(|| serde::de::Error::custom("not an even number of hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hexadecimal_digits() {
        let bytes = Hex::from(&[0_u8, 0xff, 0x1a][..]);
        let text = serde_json::to_string(&bytes).expect("JSON");
        assert_eq!(text, "\"00ff1a\"");
        assert_eq!(serde_json::from_str::<Hex>(&text).expect("its own"), bytes);
        for bad in ["\"0\"", "\"0g\"", "\"é\"", "7"] {
            assert!(serde_json::from_str::<Hex>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clusters_are_told_apart_by_their_nodes() {
        let seen = |cluster: &str, nodes: &[u8]| Seen {
            cluster: cluster.to_owned(),
            nodes: nodes.iter().map(|node| Hex::from(&[*node][..])).collect(),
        };
        let ours = seen("a", &[1, 2]);
        assert_eq!(ours.agrees(Side::Origin, &ours), Ok(()));
        assert_eq!(ours.agrees(Side::Origin, &seen("a", &[2, 9])), Ok(()), "one came, one went");
        let why = ours.agrees(Side::Origin, &seen("b", &[1])).expect_err("another name");
        assert!(why.contains("the worker's origin is another cluster: `b`"), "{why}");
        assert!(ours.agrees(Side::Target, &seen("a", &[3])).is_err(), "the same name is not enough");
    }
}
