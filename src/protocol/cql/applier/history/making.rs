//! The statements that make what another cluster's schema lacks. Pure.
//!
//! The statements are built from `system_schema`, not asked for by DESCRIBE: every version has the former, and what one
//! version writes of an option the other may not know.

use std::collections::BTreeSet;

use crate::backfill::work::Stage;
use crate::protocol::cql::definitions::{Defined, Definitions, Index, Keyspace, Map, Name, View, literal, map};
use crate::protocol::cql::text::edit::quoted;
use crate::protocol::cql::text::schema::{Role, Table};

/// What people are told that a view is.
pub(super) const VIEW: &str = "materialized view";

/// Something to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// For people.
    pub(super) what: String,
    /// The keyspace that it is, or is in.
    pub(super) keyspace: String,
    /// The statement, or why there is none.
    pub(super) text: Result<String, String>,
}

impl Definitions {
    /// The statement that makes this keyspace there, if it can be told how.
    pub(in crate::protocol::cql::applier) fn keyspace_there(&self, name: &str, there: &Definitions) -> Option<String> {
        self.keyspaces.get(name)?.missing(name, there, None).text.ok()
    }

    /// What `there` lacks of this, of the tables that are meant, in the order in which it can be made.
    pub(super) fn unmade(
        &self,
        there: &Definitions,
        meant: impl Fn(&str) -> bool,
        stage: Stage,
        replication: Option<&str>,
    ) -> Vec<Missing> {
        let is_meant = |(keyspace, name): &Name| meant(&format!("{keyspace}.{name}"));
        match stage {
            Stage::Rest => {
                let indexes = self.indexes.iter().filter(|(name, _)| !there.indexes.contains_key(*name));
                let indexes = indexes.filter(|((table, _), _)| is_meant(table));
                let views = self.views.iter().filter(|(name, _)| !there.views.contains_key(*name));
                let views = views.filter(|((keyspace, _), view)| meant(&format!("{keyspace}.{}", view.base)));
                let views = views.map(|(_, view)| view.missing(&there.options));
                indexes.map(|(name, index)| index.missing(name)).chain(views).collect()
            }
            Stage::Tables => {
                let keyspaces: BTreeSet<&String> =
                    self.tables.keys().filter(|name| is_meant(name)).map(|(keyspace, _)| keyspace).collect();
                let mut missing = Vec::new();
                for (name, keyspace) in self.keyspaces.iter().filter(|(name, _)| keyspaces.contains(name)) {
                    if !there.keyspaces.contains_key(name) {
                        missing.push(keyspace.missing(name, there, replication));
                    }
                }
                let types = self.types.iter().filter(|(name, _)| keyspaces.contains(&name.0));
                missing.extend(in_order(types.filter(|(name, _)| !there.types.contains_key(*name)).collect()));
                let tables = self.tables.iter().filter(|(name, _)| is_meant(name) && !there.tables.contains_key(*name));
                missing.extend(tables.map(|(_, table)| table.missing(&there.options)));
                missing
            }
        }
    }
}

impl Keyspace {
    fn missing(&self, name: &str, there: &Definitions, replication: Option<&str>) -> Missing {
        let replication = match replication {
            Some(given) => Ok(given.to_owned()),
            None => self.replication_there(&there.datacenters).map(|replication| map(&replication)),
        };
        let text = replication.map(|replication| {
            let durable = if self.durable { "" } else { " AND durable_writes = false" };
            format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {replication}{durable}", quoted(name))
        });
        Missing { what: format!("keyspace {name}"), keyspace: name.to_owned(), text }
    }

    /// As it is here; the only datacenter of one side stands for the only one of the other.
    fn replication_there(&self, datacenters: &BTreeSet<String>) -> Result<Map, String> {
        let is_place = |key: &str| key != "class";
        let class = self.replication.iter().find(|(key, _)| key == "class").map_or("", |(_, class)| class);
        if !class.ends_with("NetworkTopologyStrategy") {
            return Ok(self.replication.clone());
        }
        let places: Vec<&String> = self.replication.iter().map(|(key, _)| key).filter(|key| is_place(key)).collect();
        if places.iter().all(|place| datacenters.contains(*place)) {
            return Ok(self.replication.clone());
        }
        match (places.as_slice(), datacenters.iter().collect::<Vec<_>>().as_slice()) {
            ([_], [there]) => {
                let renamed = |key: &String| if is_place(key) { (*there).clone() } else { key.clone() };
                Ok(self.replication.iter().map(|(key, value)| (renamed(key), value.clone())).collect())
            }
            (here, there) => Err(format!(
                "it is in the datacenters {here:?}, and the target has {there:?}: say backfill.replication, or make it there"
            )),
        }
    }
}

/// Types behind those that they are made of.
fn in_order(mut types: Vec<(&Name, &Map)>) -> Vec<Missing> {
    let mut ordered = Vec::new();
    while !types.is_empty() {
        let names: Vec<Name> = types.iter().map(|(name, _)| (*name).clone()).collect();
        let waits = |(name, fields): &(&Name, &Map)| {
            let others = names.iter().filter(|other| other.0 == name.0 && *other != *name);
            others.into_iter().any(|other| fields.iter().any(|(_, kind)| mentions(kind, &other.1)))
        };
        let (waiting, ready): (Vec<_>, Vec<_>) = types.iter().copied().partition(waits);
        // No circles are possible; if names only seem to be one, the server judges.
        let (next, left) = if ready.is_empty() { (waiting, Vec::new()) } else { (ready, waiting) };
        ordered.extend(next.into_iter().map(made_type));
        types = left;
    }
    ordered
}

fn made_type(((keyspace, name), fields): (&Name, &Map)) -> Missing {
    let fields: Vec<String> = fields.iter().map(|(field, kind)| format!("{} {kind}", quoted(field))).collect();
    let text = format!("CREATE TYPE IF NOT EXISTS {}.{} ({})", quoted(keyspace), quoted(name), fields.join(", "));
    Missing { what: format!("type {keyspace}.{name}"), keyspace: keyspace.clone(), text: Ok(text) }
}

/// A type's text has this name among its words.
fn mentions(kind: &str, name: &str) -> bool {
    if name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_') {
        return kind.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').any(|word| word == name);
    }
    kind.contains(&quoted(name))
}

impl Defined {
    fn missing(&self, known: &BTreeSet<String>) -> Missing {
        let what = format!("table {}.{}", self.shape.keyspace, self.shape.name);
        let text = match self.is_compact {
            true => Err("it is of the old storage format (COMPACT STORAGE): make it there".to_owned()),
            false => Ok(self.text(known)),
        };
        Missing { what, keyspace: self.shape.keyspace.clone(), text }
    }

    fn text(&self, known: &BTreeSet<String>) -> String {
        let mut columns = Vec::new();
        for column in self.shape.columns() {
            let is_static = if column.role == Role::Static { " STATIC" } else { "" };
            columns.push(format!("{} {}{is_static}", quoted(&column.name), column.cql_type));
        }
        let (table, columns, key) = (self.name(), columns.join(", "), self.key());
        format!("CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY ({key})){}", self.with(known))
    }

    fn name(&self) -> String {
        format!("{}.{}", quoted(&self.shape.keyspace), quoted(&self.shape.name))
    }

    fn key(&self) -> String {
        let names = |columns: Vec<&str>| columns.into_iter().map(quoted).collect::<Vec<_>>();
        let partition = names(self.shape.partition_key().map(|column| &*column.name).collect());
        let clustering = names(self.shape.clustering().map(|column| &*column.name).collect());
        [vec![format!("({})", partition.join(", "))], clustering].concat().join(", ")
    }

    fn with(&self, known: &BTreeSet<String>) -> String {
        let mut options = Vec::new();
        if !self.descending.is_empty() {
            let order = |name: &str| if self.descending.contains(name) { "DESC" } else { "ASC" };
            let orders =
                self.shape.clustering().map(|column| format!("{} {}", quoted(&column.name), order(&column.name)));
            options.push(format!("CLUSTERING ORDER BY ({})", orders.collect::<Vec<_>>().join(", ")));
        }
        let given = self.options.iter().filter(|(name, _)| known.contains(name));
        options.extend(given.map(|(name, value)| format!("{name} = {value}")));
        if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(" AND ")) }
    }
}

impl View {
    fn missing(&self, known: &BTreeSet<String>) -> Missing {
        let Table { keyspace, name, .. } = &self.defined.shape;
        Missing { what: format!("{VIEW} {keyspace}.{name}"), keyspace: keyspace.clone(), text: Ok(self.text(known)) }
    }

    fn text(&self, known: &BTreeSet<String>) -> String {
        let Defined { shape, .. } = &self.defined;
        let columns = match self.has_all_columns {
            true => "*".to_owned(),
            false => shape.columns().iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", "),
        };
        format!(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS {} AS SELECT {columns} FROM {}.{} WHERE {} PRIMARY KEY ({}){}",
            self.defined.name(),
            quoted(&shape.keyspace),
            quoted(&self.base),
            self.condition,
            self.defined.key(),
            self.defined.with(known),
        )
    }
}

impl Index {
    fn missing(&self, ((keyspace, table), name): &(Name, String)) -> Missing {
        let option = |wanted: &str| self.options.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
        let class = option("class_name").filter(|_| self.kind == "CUSTOM");
        let others: Map =
            self.options.iter().filter(|(key, _)| key != "target" && key != "class_name").cloned().collect();
        let mut text = format!(
            "CREATE {}INDEX IF NOT EXISTS {} ON {}.{} ({})",
            if class.is_some() { "CUSTOM " } else { "" },
            quoted(name),
            quoted(keyspace),
            quoted(table),
            option("target").unwrap_or_default(),
        );
        if let Some(class) = class {
            text += &format!(" USING {}", literal(class));
            if !others.is_empty() {
                text += &format!(" WITH OPTIONS = {}", map(&others));
            }
        }
        Missing { what: format!("index {keyspace}.{name}"), keyspace: keyspace.clone(), text: Ok(text) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::cql::text::schema::Column;

    fn pairs(entries: &[(&str, &str)]) -> Map {
        entries.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| name.to_string()).collect()
    }

    fn here() -> Definitions {
        let network = pairs(&[("class", "org.apache.cassandra.locator.NetworkTopologyStrategy"), ("east", "3")]);
        let column = |name: &str, kind, position, cql_type| Column::described(name, kind, position, cql_type);
        let columns = vec![
            column("k", "partition_key", 0, "int"),
            column("Bucket", "partition_key", 1, "int"),
            column("at", "clustering", 0, "timestamp"),
            column("name", "static", -1, "text"),
            column("v", "regular", -1, "map<int, frozen<outer>>"),
        ];
        let table = Defined {
            shape: Table::new("ks", "t", columns),
            descending: names(&["at"]),
            options: pairs(&[("comment", "'it''s'"), ("gc_grace_seconds", "60"), ("memtable", "'trie'")]),
            is_compact: false,
        };
        let name = |name: &str| ("ks".to_owned(), name.to_owned());
        let plain = Index { kind: "COMPOSITES".to_owned(), options: pairs(&[("target", "values(v)")]) };
        let custom = pairs(&[("class_name", "StorageAttachedIndex"), ("target", "name"), ("case_sensitive", "false")]);
        let custom = Index { kind: "CUSTOM".to_owned(), options: custom };
        let columns = vec![
            column("at", "clustering", 1, "timestamp"),
            column("k", "clustering", 0, "int"),
            column("Bucket", "partition_key", 0, "int"),
        ];
        let view = View {
            defined: Defined {
                shape: Table::new("ks", "By Bucket", columns),
                descending: names(&["k"]),
                options: pairs(&[("comment", "''"), ("memtable", "'trie'")]),
                is_compact: false,
            },
            base: "t".to_owned(),
            condition: "\"Bucket\" IS NOT NULL AND k IS NOT NULL AND at IS NOT NULL".to_owned(),
            has_all_columns: false,
        };
        let mut whole = view.clone();
        (whole.defined.shape, whole.has_all_columns) = (renamed(&view.defined.shape, "whole"), true);
        Definitions {
            keyspaces: BTreeMap::from([("ks".to_owned(), Keyspace { replication: network, durable: false })]),
            types: BTreeMap::from([
                (name("outer"), pairs(&[("a", "frozen<zinner>"), ("b", "int")])),
                (name("zinner"), pairs(&[("c", "text")])),
            ]),
            tables: BTreeMap::from([(name("t"), table)]),
            indexes: BTreeMap::from([((name("t"), "i".to_owned()), plain), ((name("t"), "j".to_owned()), custom)]),
            views: BTreeMap::from([(name("By Bucket"), view), (name("whole"), whole)]),
            options: names(&["comment", "gc_grace_seconds", "memtable"]),
            triggers: BTreeSet::new(),
            datacenters: names(&["east"]),
        }
    }

    fn renamed(table: &Table, name: &str) -> Table {
        Table::new(&table.keyspace, name, table.columns().to_vec())
    }

    fn texts(missing: Vec<Missing>) -> Vec<String> {
        missing.into_iter().map(|one| one.text.unwrap_or_else(|why| format!("-- {why}"))).collect()
    }

    #[test]
    fn what_the_target_lacks_is_made_in_order_with_the_options_that_it_knows() {
        let there = Definitions {
            options: names(&["comment", "gc_grace_seconds"]),
            datacenters: names(&["west"]),
            ..Definitions::default()
        };
        let expected = [
            "CREATE KEYSPACE IF NOT EXISTS \"ks\" WITH replication = {'class': \
             'org.apache.cassandra.locator.NetworkTopologyStrategy', 'west': '3'} AND durable_writes = false",
            "CREATE TYPE IF NOT EXISTS \"ks\".\"zinner\" (\"c\" text)",
            "CREATE TYPE IF NOT EXISTS \"ks\".\"outer\" (\"a\" frozen<zinner>, \"b\" int)",
            "CREATE TABLE IF NOT EXISTS \"ks\".\"t\" (\"k\" int, \"Bucket\" int, \"at\" timestamp, \"name\" text STATIC, \
             \"v\" map<int, frozen<outer>>, PRIMARY KEY ((\"k\", \"Bucket\"), \"at\")) WITH CLUSTERING ORDER BY (\"at\" DESC) \
             AND comment = 'it''s' AND gc_grace_seconds = 60",
        ];
        assert_eq!(texts(here().unmade(&there, |_| true, Stage::Tables, None)), expected);
        let expected = [
            "CREATE INDEX IF NOT EXISTS \"i\" ON \"ks\".\"t\" (values(v))",
            "CREATE CUSTOM INDEX IF NOT EXISTS \"j\" ON \"ks\".\"t\" (name) USING 'StorageAttachedIndex' WITH OPTIONS = \
             {'case_sensitive': 'false'}",
            "CREATE MATERIALIZED VIEW IF NOT EXISTS \"ks\".\"By Bucket\" AS SELECT \"Bucket\", \"k\", \"at\" FROM \"ks\".\"t\" \
             WHERE \"Bucket\" IS NOT NULL AND k IS NOT NULL AND at IS NOT NULL PRIMARY KEY ((\"Bucket\"), \"k\", \"at\") \
             WITH CLUSTERING ORDER BY (\"k\" DESC, \"at\" ASC) AND comment = ''",
            "CREATE MATERIALIZED VIEW IF NOT EXISTS \"ks\".\"whole\" AS SELECT * FROM \"ks\".\"t\" \
             WHERE \"Bucket\" IS NOT NULL AND k IS NOT NULL AND at IS NOT NULL PRIMARY KEY ((\"Bucket\"), \"k\", \"at\") \
             WITH CLUSTERING ORDER BY (\"k\" DESC, \"at\" ASC) AND comment = ''",
        ];
        assert_eq!(texts(here().unmade(&there, |_| true, Stage::Rest, None)), expected);
    }

    #[test]
    fn what_is_there_or_not_meant_is_left_alone() {
        for stage in [Stage::Tables, Stage::Rest] {
            assert_eq!(here().unmade(&here(), |_| true, stage, None), []);
            assert_eq!(here().unmade(&Definitions::default(), |name| name != "ks.t", stage, None), []);
        }
    }

    #[test]
    fn where_replicas_go_is_never_guessed() {
        let there = |datacenters| Definitions { datacenters: names(datacenters), ..Definitions::default() };
        let made =
            |here: &Definitions, there, given| texts(here.unmade(&there, |_| true, Stage::Tables, given))[0].clone();
        assert!(made(&here(), there(&["east", "west"]), None).contains("'east': '3'"));
        let refused = made(&here(), there(&["west", "north"]), None);
        assert!(refused.starts_with("-- ") && refused.contains("backfill.replication"), "{refused}");
        let given = made(&here(), there(&["west", "north"]), Some("{'class': 'SimpleStrategy'}"));
        assert!(given.contains("replication = {'class': 'SimpleStrategy'}"), "{given}");
        let mut simple = here();
        let keyspace = simple.keyspaces.get_mut("ks").expect("it is there");
        keyspace.replication = pairs(&[("class", "SimpleStrategy"), ("replication_factor", "2")]);
        assert!(made(&simple, there(&["west"]), None).contains("'replication_factor': '2'"));
    }

    #[test]
    fn what_no_statement_makes_is_named() {
        let mut old = here();
        old.tables.values_mut().for_each(|table| table.is_compact = true);
        let missing = old.unmade(&here(), |_| true, Stage::Tables, None);
        assert_eq!(missing, []);
        let missing = old.unmade(&Definitions::default(), |_| true, Stage::Tables, Some("{}")).pop().expect("a table");
        assert!(missing.what == "table ks.t" && missing.text.is_err_and(|why| why.contains("COMPACT STORAGE")));
    }
}
