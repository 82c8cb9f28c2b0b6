//! What can be told of a difference: table, columns, keys, and, for whoever asks by name, values.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::Patterns;
use crate::protocol::postgres::analysis::has_many_looks;
use crate::protocol::postgres::catalog::{Catalog, Column, Relation};
use crate::protocol::postgres::key::{self, Form};
use crate::protocol::postgres::lexer::hash;
use crate::protocol::postgres::plan::Read;
use crate::shadow::{Difference, Shown};

use super::answer::{Answer, Described, values};
use super::compare::Found;

/// Types that have collations: text, character, varchar.
const TEXTS: &[u32] = &[25, 1042, 1043];
/// More keys than this are not owed one by one.
const KEYS_MAX: usize = 1_000;

/// What is known of the columns of an answer.
pub(super) struct Told {
    name: String,
    table: Option<Arc<Relation>>,
    /// Positions of columns that nobody compares.
    pub(super) ignored: Vec<usize>,
    /// Positions of columns with equal values that may look different.
    pub(super) looks: Vec<usize>,
    /// Positions of the table's key, in its order; empty: not all of it is in the answer.
    pub(super) key: Vec<usize>,
}

impl Told {
    /// `primary` is where oids are those of the catalog.
    pub(super) fn new(read: &Read, primary: &Answer, catalog: &Catalog, ignore: Option<&Patterns>) -> Told {
        let columns = primary.columns.as_deref().unwrap_or_default();
        let table = read.only.and_then(|id| catalog.relation(id)).cloned();
        let names = |ids: &[crate::record::TableId]| {
            let names = ids.iter().filter_map(|id| catalog.relation(*id)).map(|relation| relation.shown());
            names.collect::<Vec<_>>().join(", ")
        };
        Told {
            name: table.as_ref().map_or_else(|| names(&read.tables), |table| table.shown()),
            ignored: ignore.filter(|ignore| !ignore.is_empty()).map_or_else(Vec::new, |ignore| {
                let is = |(_, column): &(usize, &Described)| is_ignored(column, read, catalog, ignore);
                columns.iter().enumerate().filter(is).map(|(at, _)| at).collect()
            }),
            looks: {
                let has = |(_, column): &(usize, &Described)| has_looks(column, read, catalog);
                columns.iter().enumerate().filter(has).map(|(at, _)| at).collect()
            },
            key: table.as_ref().and_then(|table| key_of(table, columns)).unwrap_or_default(),
            table,
        }
    }

    pub(super) fn difference(&self, found: &Found, primary: &Answer, secondary: &Answer) -> Difference {
        let columns = primary.columns.as_deref().or(secondary.columns.as_deref()).unwrap_or_default();
        let keys = self.keys(found, columns).unwrap_or_default();
        Difference {
            how: found.how,
            table: self.table.as_ref().map(|table| table.id),
            name: self.name.clone(),
            key_hash: hash_of_keys(&keys),
            columns: found.columns.iter().filter_map(|&at| Some(columns.get(at)?.name.clone())).collect(),
            shown: Some(Box::new(Shown {
                key: keys.first().map(|key| key::shown(key)).unwrap_or_default(),
                primary: side(primary, found.missing.first(), columns),
                secondary: side(secondary, found.extra.first(), columns),
            })),
            keys,
        }
    }

    /// The keys of all rows that differ, if all of them can be told.
    fn keys(&self, found: &Found, columns: &[Described]) -> Option<Vec<Box<[u8]>>> {
        let table = self.table.as_ref()?;
        if self.key.is_empty() || found.missing.len() + found.extra.len() > KEYS_MAX {
            return None;
        }
        let rows = found.missing.iter().chain(&found.extra);
        let mut keys = rows.map(|row| self.key_in(table, row, columns)).collect::<Option<Vec<_>>>()?;
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }

    fn key_in(&self, table: &Relation, row: &[u8], columns: &[Described]) -> Option<Box<[u8]>> {
        let values: Vec<_> = values(row).collect();
        let mut out = Vec::new();
        table.key.as_ref()?.layout.begin(&mut out);
        for (&at, column) in self.key.iter().zip(table.key_columns()) {
            let value = values.get(at).copied().flatten()?;
            key::push(&mut out, &canonical(column, columns.get(at)?, value)?);
        }
        Some(out.into())
    }
}

/// Of one key its own, as others have it.
fn hash_of_keys(keys: &[Box<[u8]>]) -> Option<u64> {
    match keys {
        [] => None,
        [one] => Some(hash(one)),
        several => Some(hash(&several.iter().flat_map(|key| hash(key).to_be_bytes()).collect::<Vec<_>>())),
    }
}

fn canonical(column: &Column, described: &Described, value: &[u8]) -> Option<Vec<u8>> {
    let (form, mut out) = (Form::of(column), Vec::new());
    let read = match described.binary {
        true => key::binary(form, column.typmod, described.type_oid, value, &mut out),
        false => key::parse(form, column.typmod, value, &mut out),
    };
    read.ok().map(|()| out)
}

/// Where a table's key is in an answer.
fn key_of(table: &Relation, columns: &[Described]) -> Option<Vec<usize>> {
    let place = |column: &Column| {
        let is = |described: &Described| described.table == table.oid && described.attnum == column.attnum;
        columns.iter().position(is)
    };
    table.key.as_ref()?;
    table.key_columns().map(place).collect()
}

fn is_ignored(described: &Described, read: &Read, catalog: &Catalog, ignore: &Patterns) -> bool {
    let named = |table: &Relation, column: &str| ignore.has(&format!("{}.{column}", table.shown()));
    match catalog.relations.get(&described.table) {
        Some(table) => {
            let column = table.columns.iter().find(|column| column.attnum == described.attnum);
            named(table, column.map_or(&*described.name, |column| &column.name))
        }
        // What became of a column in an expression has its name, if any.
        None => read.tables.iter().filter_map(|id| catalog.relation(*id)).any(|table| named(table, &described.name)),
    }
}

/// By its type, or by the collation of what it may be made of.
fn has_looks(described: &Described, read: &Read, catalog: &Catalog) -> bool {
    let is_text = TEXTS.contains(&described.type_oid);
    let column = |table: &Arc<Relation>| table.columns.iter().find(|column| column.attnum == described.attnum).cloned();
    match catalog.relations.get(&described.table).and_then(column) {
        // The values of an enum are equal when they look so.
        Some(column) => !column.deterministic || column.typtype != b'e' && has_many_looks(described.type_oid),
        None if is_text => {
            let mut tables = read.tables.iter().filter_map(|id| catalog.relation(*id));
            tables.any(|table| table.columns.iter().any(|column| !column.deterministic))
        }
        None => has_many_looks(described.type_oid),
    }
}

/// For people: what a side has.
fn side(answer: &Answer, row: Option<&Bytes>, columns: &[Described]) -> String {
    if let Some(code) = &answer.error {
        return format!("error {code}");
    }
    let mut out = String::new();
    for (at, value) in row.map(|row| values(row)).into_iter().flatten().enumerate() {
        let described = columns.get(at);
        let _ = write!(out, "{}{}=", if at > 0 { " " } else { "" }, described.map_or("?", |column| &column.name));
        match value {
            None => out.push_str("NULL"),
            Some(bytes) if described.is_some_and(|column| column.binary) => {
                bytes.iter().for_each(|byte| _ = write!(out, "{byte:02x}"));
            }
            Some(text) => out.push_str(&String::from_utf8_lossy(text)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_of_keys_has_its_own_hash_and_one_key_the_one_that_it_has_elsewhere() {
        let of = |keys: &[&[u8]]| hash_of_keys(&keys.iter().map(|key| (*key).into()).collect::<Vec<_>>());
        assert_eq!((of(&[]), of(&[b"a"])), (None, Some(hash(b"a"))));
        assert!(of(&[b"a", b"b"]).is_some() && of(&[b"a", b"b"]) != of(&[b"a", b"c"]));
        assert_ne!(of(&[b"a", b"b"]), of(&[b"a"]));
    }
}
