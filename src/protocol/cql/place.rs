//! What a record names that is mirrored by state: a partition, its static columns, or one row. Equal places are equal
//! bytes.
//!
//! ```text
//! place  := extent u8 (0 partition, 1 statics, 2 row), values of the partition key, values of the clustering columns
//! values := count u16, then each: length u32, bytes
//! ```
//! Integers big-endian; values as the protocol sends them, in the key's order.

use bytes::{BufMut, BytesMut};

use super::text::partition::{partitions, row};
use super::text::schema::{self, Effect, Table};
use super::text::statement::Modification;

/// How much of a partition is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Extent {
    /// All of it.
    Partition,
    /// Its static columns.
    Statics,
    /// One row, with the static columns that it shows.
    Row,
}

/// A place of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// How much is meant.
    pub extent: Extent,
    /// A value for each column of the partition key.
    pub partition: Vec<Vec<u8>>,
    /// A value for each clustering column; none but for a row.
    pub clustering: Vec<Vec<u8>>,
}

impl Place {
    /// All of a partition.
    pub fn partition(key: Vec<Vec<u8>>) -> Place {
        Place { extent: Extent::Partition, partition: key, clustering: Vec::new() }
    }

    /// As a record keeps it. `None`: a key that no server takes, of more than 65 535 columns or 4 GiB.
    pub fn encode(&self) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        out.put_u8(self.extent as u8);
        put_values(&mut out, &self.partition)?;
        put_values(&mut out, &self.clustering)?;
        Some(out)
    }

    /// Read it back; `None` if the bytes are no place.
    pub fn decode(bytes: &[u8]) -> Option<Place> {
        let (&extent, mut rest) = bytes.split_first()?;
        let extent = [Extent::Partition, Extent::Statics, Extent::Row].into_iter().find(|one| *one as u8 == extent)?;
        let (partition, clustering) = (values(&mut rest)?, values(&mut rest)?);
        rest.is_empty().then_some(Place { extent, partition, clustering })
    }
}

/// The places that `modification` of `text`, whose effect on `table` is `effect`, writes when its markers are bound to what
/// `bound` gives: rows, static columns, or else partitions. `None`: that cannot be told without the server.
pub fn written<'v>(
    text: &[u8],
    modification: &Modification,
    effect: &Effect<'_>,
    table: &Table,
    bound: impl Fn(usize) -> Option<&'v [u8]>,
) -> Option<Vec<Place>> {
    let keys = partitions(text, modification, effect, table, &bound)?;
    if effect.extent == schema::Extent::Statics {
        let statics = |partition| Place { extent: Extent::Statics, ..Place::partition(partition) };
        return Some(keys.into_iter().map(statics).collect());
    }
    let row = row(text, modification, effect, table, &bound);
    let place = |partition| match &row {
        Some(row) => Place { extent: Extent::Row, partition, clustering: row.clone() },
        None => Place::partition(partition),
    };
    Some(keys.into_iter().map(place).collect())
}

/// What stands for a partition where a number has to do: two may share one. Given a value for each column of its key.
pub fn hash_of(key: impl IntoIterator<Item = impl AsRef<[u8]>>) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, value| {
        let value = value.as_ref();
        let hash = (value.len() as u64).to_le_bytes().into_iter().fold(hash, mix);
        value.iter().copied().fold(hash, mix)
    });
    hash.max(1)
}

/// The part of its table that a place is in, as records of sessions have it.
pub fn part_of(place: &[u8]) -> Option<u64> {
    Some(hash_of(&Place::decode(place)?.partition))
}

fn put_values(out: &mut BytesMut, values: &[Vec<u8>]) -> Option<()> {
    out.put_u16(values.len().try_into().ok()?);
    for value in values {
        out.put_u32(value.len().try_into().ok()?);
        out.extend_from_slice(value);
    }
    Some(())
}

fn values(rest: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let (count, tail) = rest.split_first_chunk()?;
    *rest = tail;
    (0..u16::from_be_bytes(*count)).map(|_| value(rest)).collect()
}

fn value(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (len, tail) = rest.split_first_chunk()?;
    let (value, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = tail;
    Some(value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_round_trip_and_every_cut_of_one_is_none(
            partition in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..4),
            clustering in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..4),
        ) {
            let place = Place { extent: Extent::Row, partition, clustering };
            let bytes = place.encode().expect("short");
            prop_assert_eq!(Place::decode(&bytes), Some(place));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Place::decode(&bytes[..cut]), None);
            }
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Place::decode(&bytes);
        }
    }

    #[test]
    fn a_modification_writes_rows_if_they_are_named_and_else_statics_or_partitions() {
        use crate::protocol::cql::text::parse::parse;
        use crate::protocol::cql::text::schema::Column;

        let columns = [("k", "partition_key"), ("c", "clustering"), ("v", "regular"), ("s", "static")];
        let column = |(name, kind): &(&str, &str)| Column::described(name, kind, 0, "int");
        let table = Table::new("shop", "t", columns.iter().map(column).collect());
        let int = |value: i32| value.to_be_bytes().to_vec();
        let row = |k, c| Place { extent: Extent::Row, partition: vec![int(k)], clustering: vec![int(c)] };
        let all = |k| Place::partition(vec![int(k)]);
        let cases = [
            ("UPDATE t SET v = 1 WHERE k = 1 AND c = ?", vec![row(1, 7)]),
            ("INSERT INTO t (k, c, s) VALUES (1, 2, 3)", vec![row(1, 2)]),
            ("UPDATE t SET v = 1 WHERE k IN (1, 2) AND c = 3", vec![row(1, 3), row(2, 3)]),
            ("UPDATE t SET v = 1 WHERE k = 1 AND c IN (1, 2)", vec![all(1)]),
            ("UPDATE t SET v = 1 WHERE k = 1 AND c = twice(1)", vec![all(1)]),
            ("DELETE FROM t WHERE k = 1 AND c > 1", vec![all(1)]),
            ("DELETE FROM t WHERE k = 1", vec![all(1)]),
            ("UPDATE t SET s = 1 WHERE k = 1", vec![Place { extent: Extent::Statics, ..all(1) }]),
            ("INSERT INTO t JSON '{\"k\": 1, \"c\": 2}'", vec![row(1, 2)]),
            ("INSERT INTO t JSON '{\"C\": \"2\", \"k\": 1, \"v\": 3}'", vec![row(1, 2)]),
            ("INSERT INTO t JSON '{\"k\": 1, \"c\": 2.5}'", vec![all(1)]),
            ("INSERT INTO t JSON '{\"k\": 1}'", vec![all(1)]),
        ];
        let bound = int(7);
        for (text, expected) in cases {
            let parsed = parse(text.as_bytes());
            let [modification] = parsed.modifications() else { panic!("{text}") };
            let effect = Effect::of(modification, &table);
            let found = written(text.as_bytes(), modification, &effect, &table, |_| Some(&bound[..]));
            assert_eq!(found, Some(expected), "{text}");
        }
    }

    #[test]
    fn keys_that_split_differently_hash_differently() {
        assert_ne!(hash_of(["ab", "c"]), hash_of(["a", "bc"]));
        assert_ne!(hash_of([""; 0]), 0);
    }
}
