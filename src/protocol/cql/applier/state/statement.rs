//! The statements that write what differs.

use super::diff::Fix;
use super::rows::Clustering;
use crate::protocol::cql::text::edit::quoted;
use crate::protocol::cql::text::schema::{Column, Table};
use crate::protocol::cql::wire::primitive::Value;
use crate::protocol::cql::wire::request::Bound;

/// A statement with its values.
pub(in super::super) struct Statement {
    pub(in super::super) text: String,
    pub(in super::super) values: Vec<Option<Vec<u8>>>,
}

impl Statement {
    /// As a request takes them.
    pub(in super::super) fn bound(&self) -> Vec<Bound<'_>> {
        self.values.iter().map(|value| (None, value.as_deref().map_or(Value::Null, Value::Set))).collect()
    }
}

/// A table's names, as texts must have them.
pub(in super::super) struct Names {
    pub(in super::super) table: String,
    pub(in super::super) partition: Vec<String>,
    pub(in super::super) clustering: Vec<String>,
    counts: bool,
}

impl Names {
    pub(in super::super) fn of(shape: &Table) -> Names {
        Names {
            table: format!("{}.{}", quoted(&shape.keyspace), quoted(&shape.name)),
            partition: shape.partition_key().map(|column| quoted(&column.name)).collect(),
            clustering: shape.clustering().map(|column| quoted(&column.name)).collect(),
            counts: shape.has_counters(),
        }
    }

    /// All of a row's key.
    pub(in super::super) fn key(&self) -> Vec<String> {
        [&self.partition[..], &self.clustering].concat()
    }

    /// `row`: its clustering; `None` for static columns.
    pub(in super::super) fn statement(
        &self,
        fix: &Fix,
        columns: &[&Column],
        partition: &[Vec<u8>],
        row: Option<&Clustering>,
    ) -> Statement {
        let name = |column: &usize| quoted(&columns[*column].name);
        let counts = self.counts;
        let named = match row {
            Some(_) => self.key(),
            None => self.partition.clone(),
        };
        let key = partition.iter().chain(row.into_iter().flatten()).cloned().map(Some);
        let (table, relations) = (&self.table, relations(&named));
        let stamp = |at: i64| Some(at.to_be_bytes().to_vec());
        let expiry = |ttl: Option<i32>| Some(ttl.unwrap_or_default().to_be_bytes().to_vec());
        let (text, values): (String, Vec<Option<Vec<u8>>>) = match fix {
            Fix::Row { at, ttl } => {
                let markers = vec!["?"; named.len()].join(", ");
                let text = format!(
                    "INSERT INTO {table} ({}) VALUES ({markers}) USING TIMESTAMP ? AND TTL ?",
                    named.join(", ")
                );
                (text, key.chain([stamp(*at), expiry(*ttl)]).collect())
            }
            // A counter's deletes take their timestamp from the frame.
            Fix::NoRow { .. } if counts => (format!("DELETE FROM {table} WHERE {relations}"), key.collect()),
            Fix::Null { column, .. } if counts => {
                (format!("DELETE {} FROM {table} WHERE {relations}", name(column)), key.collect())
            }
            Fix::NoRow { at } => {
                let text = format!("DELETE FROM {table} USING TIMESTAMP ? WHERE {relations}");
                (text, [stamp(*at)].into_iter().chain(key).collect())
            }
            Fix::Null { at, column } => {
                let text = format!("DELETE {} FROM {table} USING TIMESTAMP ? WHERE {relations}", name(column));
                (text, [stamp(*at)].into_iter().chain(key).collect())
            }
            Fix::Cells { at, ttl, values } => {
                let set: Vec<String> = values.iter().map(|(column, _)| format!("{} = ?", name(column))).collect();
                let given = values.iter().map(|(_, value)| Some(value.clone()));
                (
                    self.update(&set.join(", "), &relations),
                    [stamp(*at), expiry(*ttl)].into_iter().chain(given).chain(key).collect(),
                )
            }
            Fix::Add { at, ttl, column, value } => {
                let set = format!("{0} = {0} + ?", name(column));
                (
                    self.update(&set, &relations),
                    [stamp(*at), expiry(*ttl), Some(value.clone())].into_iter().chain(key).collect(),
                )
            }
            Fix::Prepend { at, ttl, column, value } => {
                let set = format!("{0} = ? + {0}", name(column));
                (
                    self.update(&set, &relations),
                    [stamp(*at), expiry(*ttl), Some(value.clone())].into_iter().chain(key).collect(),
                )
            }
            Fix::Remove { at, column, keys } => {
                let set = format!("{0} = {0} - ?", name(column));
                (
                    self.update(&set, &relations),
                    [stamp(*at), expiry(None), Some(keys.clone())].into_iter().chain(key).collect(),
                )
            }
            Fix::Field { at, ttl, column, field, value } => {
                let set = format!("{}.{} = ?", name(column), quoted(field));
                (
                    self.update(&set, &relations),
                    [stamp(*at), expiry(*ttl), value.clone()].into_iter().chain(key).collect(),
                )
            }
            Fix::Count { deltas } => {
                let set: Vec<String> =
                    deltas.iter().map(|(column, _)| format!("{0} = {0} + ?", name(column))).collect();
                let given = deltas.iter().map(|(_, delta)| Some(delta.to_be_bytes().to_vec()));
                (format!("UPDATE {table} SET {} WHERE {relations}", set.join(", ")), given.chain(key).collect())
            }
        };
        Statement { text, values }
    }

    fn update(&self, set: &str, relations: &str) -> String {
        format!("UPDATE {} USING TIMESTAMP ? AND TTL ? SET {set} WHERE {relations}", self.table)
    }
}

/// Each of these columns is given.
pub(in super::super) fn relations(columns: &[String]) -> String {
    columns.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ")
}
