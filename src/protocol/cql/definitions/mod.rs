//! A cluster's schema as `system_schema` has it, beyond the columns that are written: what provisioning makes, a schema change
//! in doubt is looked for in, and clients would miss behind a switch.

use std::collections::{BTreeMap, BTreeSet};

use super::text::schema::Table;
use super::text::statement::Object;

mod lack;
mod load;

pub use lack::Lack;
pub(in crate::protocol::cql) use load::load;

/// A keyspace and a name in it.
pub(in crate::protocol::cql) type Name = (String, String);

/// A map as `system_schema` has it, of texts.
pub(in crate::protocol::cql) type Map = Vec<(String, String)>;

/// What is in `system_schema`, without what is the servers' own.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    pub(in crate::protocol::cql) keyspaces: BTreeMap<String, Keyspace>,
    /// Names and types of their fields.
    pub(in crate::protocol::cql) types: BTreeMap<Name, Map>,
    pub(in crate::protocol::cql) tables: BTreeMap<Name, Defined>,
    /// By table and name.
    pub(in crate::protocol::cql) indexes: BTreeMap<(Name, String), Index>,
    /// Materialized views.
    pub(in crate::protocol::cql) views: BTreeMap<Name, View>,
    /// Triggers, by table and name.
    pub(in crate::protocol::cql) triggers: BTreeSet<(Name, String)>,
    /// Columns of `system_schema.tables`: options of other names are not known there.
    pub(in crate::protocol::cql) options: BTreeSet<String>,
    pub(in crate::protocol::cql) datacenters: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) struct Keyspace {
    pub(in crate::protocol::cql) replication: Map,
    pub(in crate::protocol::cql) durable: bool,
}

/// A table.
#[derive(Clone, Debug)]
pub(in crate::protocol::cql) struct Defined {
    pub(in crate::protocol::cql) shape: Table,
    /// Clustering columns whose order is turned round.
    pub(in crate::protocol::cql) descending: BTreeSet<String>,
    /// Options with their values, as a statement has them.
    pub(in crate::protocol::cql) options: Vec<(String, String)>,
    /// Of the old storage format, which no statement makes any more.
    pub(in crate::protocol::cql) is_compact: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) struct Index {
    pub(in crate::protocol::cql) kind: String,
    /// `target` and `class_name` among it.
    pub(in crate::protocol::cql) options: Map,
}

/// A materialized view.
#[derive(Clone, Debug)]
pub(in crate::protocol::cql) struct View {
    /// Its columns and key; options without a time to live, which no view may be given.
    pub(in crate::protocol::cql) defined: Defined,
    /// Of the same keyspace.
    pub(in crate::protocol::cql) base: String,
    /// As the server wrote it down, names quoted where that is needed.
    pub(in crate::protocol::cql) condition: String,
    /// It was made with `*`.
    pub(in crate::protocol::cql) has_all_columns: bool,
}

impl Definitions {
    /// Whether it is there. `None`: that does not show. Of a function it does not show whether it was replaced, nor which of those
    /// with its name it is.
    pub(in crate::protocol::cql) fn has(&self, object: Object, keyspace: &str, name: &str) -> Option<bool> {
        let key = (keyspace.to_owned(), name.to_owned());
        match object {
            Object::Keyspace => Some(self.keyspaces.contains_key(keyspace)),
            Object::Type => Some(self.types.contains_key(&key)),
            Object::View => Some(self.views.contains_key(&key)),
            Object::Index => Some(self.indexes.keys().any(|(table, index)| table.0 == key.0 && *index == key.1)),
            Object::Table | Object::Function | Object::Aggregate | Object::Trigger => None,
        }
    }

    /// What runs beside writes, as people call it.
    pub fn triggered(&self) -> Vec<String> {
        self.triggers.iter().map(|((keyspace, table), name)| format!("{keyspace}.{table}: {name}")).collect()
    }

    /// Names and types of a type's fields, in order.
    pub(in crate::protocol::cql) fn fields(&self, keyspace: &str, name: &str) -> Option<&[(String, String)]> {
        self.types.get(&(keyspace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    /// With one type.
    #[cfg(test)]
    pub(in crate::protocol::cql) fn of_type(keyspace: &str, name: &str, fields: Map) -> Definitions {
        let types = BTreeMap::from([((keyspace.to_owned(), name.to_owned()), fields)]);
        Definitions { types, ..Definitions::default() }
    }
}

/// A text as a statement has it.
pub(in crate::protocol::cql) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A map of texts as a statement has it.
pub(in crate::protocol::cql) fn map(entries: &Map) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(key, value)| format!("{}: {}", literal(key), literal(value))).collect();
    format!("{{{}}}", entries.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_named_with_their_tables() {
        let table = ("shop".to_owned(), "orders".to_owned());
        let triggers = BTreeSet::from([(table, "audit".to_owned())]);
        assert_eq!(Definitions { triggers, ..Definitions::default() }.triggered(), ["shop.orders: audit"]);
    }
}
