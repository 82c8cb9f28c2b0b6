//! What one payment owes, table by table, and how keys become parameters.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::mirror::state::copier::Refused;
use crate::mirror::state::keys::{Key, Keys};
use crate::protocol::postgres::client::{Param, put_value};
use crate::protocol::postgres::key::{self, Layout};
use crate::record::TableId;

use super::piece::Piece;
use super::schema::Pair;

/// Most bytes of keys in one statement.
pub(super) const BATCH_BYTES: usize = 16 << 20;

/// What one table owes.
pub(super) struct Debt<'a> {
    pub(super) pair: Arc<Pair>,
    /// Canonical keys of [`Pair::primary`] as the engine owes them, of the table and of its partitions; `true`:
    /// flagged, see closure.
    named: Vec<&'a Keys>,
    /// Those that were found since, or whose columns the table has in another order; what is said here of a key counts.
    more: Keys,
    /// Every row.
    pub(super) whole: bool,
    /// Every row of these, if not of all.
    pub(super) pieces: Vec<Piece>,
    /// Rows of it were deleted or re-keyed, and nothing says which: what points at it is owed whole.
    pub(super) lost: bool,
}

pub(super) type Debts<'a> = HashMap<TableId, Debt<'a>>;

impl<'a> Debt<'a> {
    pub(super) fn new(pair: Arc<Pair>) -> Debt<'a> {
        Debt { pair, named: Vec::new(), more: Keys::default(), whole: false, pieces: Vec::new(), lost: false }
    }

    /// Owe these keys, as they are.
    pub(super) fn owe_all(&mut self, keys: &'a Keys) {
        self.named.push(keys);
    }

    /// Owe a key. True if that is news: the key, or its flag.
    pub(super) fn owe(&mut self, key: Key, flagged: bool) -> bool {
        let news = match self.flag(&key) {
            None => true,
            Some(known) => flagged && !known,
        };
        if news {
            self.more.insert(key, flagged);
        }
        news
    }

    fn flag(&self, key: &[u8]) -> Option<bool> {
        if let Some(&flagged) = self.more.get(key) {
            return Some(flagged);
        }
        let said = self.named.iter().filter_map(|keys| keys.get(key)).copied();
        said.reduce(|one, other| one || other)
    }

    fn all(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let keys = self.named.iter().copied().chain([&self.more]).flatten();
        keys.map(|(key, &flagged)| (&key[..], flagged))
    }

    /// The key is owed, or every row is.
    pub(super) fn owes(&self, key: &[u8]) -> bool {
        self.whole || self.flag(key).is_some()
    }

    /// How the rows of its keys are read: those of pieces come with these.
    pub(super) fn read_sql(&self) -> Arc<str> {
        let heaps: Vec<u32> = self.pieces.iter().flat_map(|piece| &piece.heaps).map(|(oid, _)| *oid).collect();
        self.pair.read_beside_sql(&heaps).into()
    }

    /// The keys that are flagged.
    pub(super) fn flagged(&self) -> impl Iterator<Item = &[u8]> {
        self.all().filter(|(_, flagged)| *flagged).map(|(key, _)| key)
    }

    /// Rows of it may have been deleted or re-keyed.
    pub(super) fn lost_rows(&self) -> bool {
        self.lost || self.flagged().next().is_some()
    }

    /// Flag every key; those to which that is news.
    pub(super) fn flag_all(&mut self) -> Vec<Key> {
        let unflagged = |(key, _): &(&[u8], bool)| self.flag(key) == Some(false);
        let mut news: Vec<Key> = self.all().filter(unflagged).map(|(key, _)| Key::from(key)).collect();
        news.retain(|key| self.more.insert(key.clone(), true) != Some(true));
        news
    }

    /// The keys in order, so that trees are walked from left to right and locks are taken in one order.
    pub(super) fn sorted(&self) -> Vec<&[u8]> {
        if self.whole {
            return Vec::new();
        }
        let mut keys: Vec<(u128, &[u8])> = self.all().map(|(key, _)| (prefix(key), key)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().map(|(_, key)| key).collect()
    }
}

/// The first bytes as a number: most comparisons need no look at the key itself, which lies elsewhere.
fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

/// Cut keys into statements of at most `count` keys, and about `limit` bytes.
pub(super) fn batches<'k>(pair: &Pair, keys: &'k [&'k [u8]], count: usize, limit: usize) -> Vec<&'k [&'k [u8]]> {
    if pair.wide && !keys.is_empty() {
        return vec![keys];
    }
    let mut batches = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, key) in keys.iter().enumerate() {
        bytes += key.len() + 4;
        if at > from && (bytes > limit || at - from == count) {
            batches.push(&keys[from..at]);
            (from, bytes) = (at, key.len() + 4);
        }
    }
    if from < keys.len() {
        batches.push(&keys[from..]);
    }
    batches
}

/// The key with its columns in another order: that of a partition tree's root.
pub(in crate::protocol::postgres) fn reorder(pair: &Pair, bytes: &[u8], places: &[usize]) -> Key {
    let columns: Vec<&[u8]> = key::columns(bytes).collect();
    let mut out = Vec::with_capacity(bytes.len());
    pair.primary.key.iter().for_each(|key| key.layout.begin(&mut out));
    for &place in places {
        key::push(&mut out, columns.get(place).copied().unwrap_or_default());
    }
    out.into()
}

/// The key has the layout of the table's present one, as many columns, and nothing behind them. What has not was
/// captured under another key.
pub(in crate::protocol::postgres) fn fits(layout: Option<Layout>, columns: usize, bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.get(size_of::<Layout>()..).filter(|_| Layout::of_key(bytes) == layout) else {
        return false;
    };
    for _ in 0..columns {
        let Some(len) = crate::record::get_varint(&mut rest).and_then(|len| usize::try_from(len).ok()) else {
            return false;
        };
        let Some((_, tail)) = rest.split_at_checked(len) else { return false };
        rest = tail;
    }
    rest.is_empty()
}

/// One binary array for each key column (`array_send` in `utils/adt/arrayfuncs.c`: dimensions, has-nulls flag, element
/// oid, length, lower bound, values).
pub(in crate::protocol::postgres) struct Arrays(Vec<(u32, BytesMut)>);

impl Arrays {
    pub(in crate::protocol::postgres) fn of(pair: &Pair, keys: &[&[u8]]) -> Arrays {
        let count = i32::try_from(keys.len()).expect("a payment holds far less than 2^31 keys");
        let start = |element: u32| {
            let mut array = BytesMut::with_capacity(20 + keys.len() * 12);
            array.put_i32(1);
            array.put_i32(0);
            array.put_u32(element);
            array.put_i32(count);
            array.put_i32(1);
            array
        };
        let mut arrays: Vec<_> = pair.key.iter().map(|column| (column.array, start(column.element))).collect();
        for bytes in keys {
            for ((_, array), value) in arrays.iter_mut().zip(key::columns(bytes)) {
                put_value(array, Some(value));
            }
        }
        Arrays(arrays)
    }

    /// For a statement whose parameters are `int8`: the bits of these.
    pub(in crate::protocol::postgres) fn numbers<const N: usize>(numbers: [u64; N]) -> Arrays {
        Arrays(numbers.iter().map(|number| (key::oid::INT8, BytesMut::from(&number.to_be_bytes()[..]))).collect())
    }

    /// For a statement without parameters.
    pub(in crate::protocol::postgres) fn none() -> Arrays {
        Arrays(Vec::new())
    }

    pub(in crate::protocol::postgres) fn params(&self) -> Vec<Param<'_>> {
        self.0.iter().map(|(oid, bytes)| Param::binary(*oid, bytes)).collect()
    }
}

/// A key that is left out.
pub(super) fn refused_key(pair: &Pair, bytes: &[u8], why: String) -> Refused {
    Refused { table: pair.id, name: pair.primary.sql(), key: Some(bytes.into()), shown: key::shown(bytes), why }
}

/// A table that is left out.
pub(super) fn refused_table(table: TableId, name: String, why: String) -> Refused {
    Refused { table, name, key: None, shown: String::new(), why }
}
