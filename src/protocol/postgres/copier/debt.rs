//! What one payment owes, table by table, and how keys become parameters.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::mirror::state::copier::Refused;
use crate::protocol::postgres::client::{Param, put_value};
use crate::protocol::postgres::key::{self, Layout};
use crate::record::TableId;

use super::schema::Pair;

/// Most bytes of keys in one statement.
const BATCH_BYTES: usize = 16 << 20;

/// What one table owes.
pub(super) struct Debt<'a> {
    pub(super) pair: Arc<Pair>,
    /// Canonical keys of [`Pair::primary`]; `true`: flagged, see closure.
    pub(super) keys: HashMap<Cow<'a, [u8]>, bool>,
    /// Every row.
    pub(super) whole: bool,
}

pub(super) type Debts<'a> = HashMap<TableId, Debt<'a>>;

impl<'a> Debt<'a> {
    pub(super) fn new(pair: Arc<Pair>) -> Debt<'a> {
        Debt { pair, keys: HashMap::new(), whole: false }
    }

    /// Owe a key. True if that is news: the key, or its flag.
    pub(super) fn owe(&mut self, key: Cow<'a, [u8]>, flagged: bool) -> bool {
        match self.keys.entry(key) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(flagged);
                true
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let news = flagged && !*entry.get();
                *entry.get_mut() |= flagged;
                news
            }
        }
    }

    /// The keys in order, so that trees are walked from left to right and locks are taken in one order.
    pub(super) fn sorted(&self) -> Vec<&[u8]> {
        if self.whole {
            return Vec::new();
        }
        let mut keys: Vec<&[u8]> = self.keys.keys().map(|key| &key[..]).collect();
        keys.sort_unstable();
        keys
    }
}

/// Cut keys into statements of at most `count` keys.
pub(super) fn batches<'k>(pair: &Pair, keys: &'k [&'k [u8]], count: usize) -> Vec<&'k [&'k [u8]]> {
    if pair.wide && !keys.is_empty() {
        return vec![keys];
    }
    let mut batches = Vec::new();
    for chunk in keys.chunks(count) {
        let (mut from, mut bytes) = (0, 0);
        for (at, key) in chunk.iter().enumerate() {
            bytes += key.len();
            if bytes > BATCH_BYTES && at > from {
                batches.push(&chunk[from..at]);
                (from, bytes) = (at, key.len());
            }
        }
        batches.push(&chunk[from..]);
    }
    batches
}

/// The key with its columns in another order: that of a partition tree's root.
pub(super) fn reorder(pair: &Pair, bytes: &[u8], places: &[usize]) -> Vec<u8> {
    let columns: Vec<&[u8]> = key::columns(bytes).collect();
    let mut out = Vec::with_capacity(bytes.len());
    pair.primary.key.iter().for_each(|key| key.layout.begin(&mut out));
    for &place in places {
        key::push(&mut out, columns.get(place).copied().unwrap_or_default());
    }
    out
}

/// The key has as many columns as the table's, and nothing behind them.
pub(super) fn well_formed(pair: &Pair, bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.get(size_of::<Layout>()..) else { return false };
    for _ in &pair.key {
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
pub(super) struct Arrays(Vec<(u32, BytesMut)>);

impl Arrays {
    pub(super) fn of(pair: &Pair, keys: &[&[u8]]) -> Arrays {
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

    /// For a statement without parameters.
    pub(super) fn none() -> Arrays {
        Arrays(Vec::new())
    }

    pub(super) fn params(&self) -> Vec<Param<'_>> {
        self.0.iter().map(|(oid, bytes)| Param::binary(*oid, bytes)).collect()
    }
}

/// A key that is left out.
pub(super) fn refused_key(pair: &Pair, bytes: &[u8], why: String) -> Refused {
    Refused {
        table: pair.id,
        name: pair.primary.sql(),
        key: Some(bytes.into()),
        shown: key::columns(bytes).map(shown).collect::<Vec<_>>().join(", "),
        why,
    }
}

/// A table that is left out.
pub(super) fn refused_table(table: TableId, name: String, why: String) -> Refused {
    Refused { table, name, key: None, shown: String::new(), why }
}

// Integers as numbers, text as text, anything else in hexadecimal.
fn shown(value: &[u8]) -> String {
    match (value.len(), std::str::from_utf8(value)) {
        (2, _) => i16::from_be_bytes(value.try_into().expect("two bytes")).to_string(),
        (_, Ok(text)) if !text.is_empty() && !text.contains(char::is_control) => text.to_owned(),
        (4, _) => i32::from_be_bytes(value.try_into().expect("four bytes")).to_string(),
        (8, _) => i64::from_be_bytes(value.try_into().expect("eight bytes")).to_string(),
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
