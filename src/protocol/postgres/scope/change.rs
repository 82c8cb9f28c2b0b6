//! Which tables a schema change speaks of.
//!
//! A change is repeated on the secondary in the client's words. One that names a table which is called otherwise there, or
//! whose columns are, would mean another table or none: it is not repeated, and its author is told in the log to make it
//! by hand. Until then rows that the secondary's table cannot take are parked with their table, by name.

use serde_json::Value;

use crate::protocol::postgres::catalog::Catalog;
use crate::protocol::postgres::grammar;
use crate::record::TableId;

use super::Scope;

impl Scope {
    /// A table that the change names, by label or in its text, and that has other names on the secondary. `path` are the
    /// schemas in which it looked for names, as `SET search_path` takes them.
    pub fn renamed_in(&self, primary: &Catalog, table: TableId, path: &str, sql: &str) -> Option<String> {
        if self.is_plain() {
            return None;
        }
        let labelled = primary.relation(table).map(|relation| relation.shown());
        let named = grammar::look(sql, |tree| {
            let mut named = Vec::new();
            collect(&serde_json::to_value(tree).ok()?, &mut named);
            Some(named)
        });
        let named = named.into_iter().flatten().map(|(schema, name)| match schema {
            Some(schema) => format!("{schema}.{name}"),
            None => resolved(primary, path, &name),
        });
        labelled.into_iter().chain(named).find(|name| !self.keeps_names(name))
    }
}

/// Names of tables, wherever the grammar has them: schema, if it is said, and name.
fn collect(tree: &Value, found: &mut Vec<(Option<String>, String)>) {
    match tree {
        Value::Array(nodes) => nodes.iter().for_each(|node| collect(node, found)),
        Value::Object(fields) => {
            if let (Some(schema), Some(Value::String(name))) = (fields.get("schemaname"), fields.get("relname")) {
                found.push((schema.as_str().filter(|schema| !schema.is_empty()).map(str::to_owned), name.clone()));
            }
            fields.values().for_each(|node| collect(node, found));
        }
        _ => (),
    }
}

/// Where a name is found; a new one is made in the first schema.
fn resolved(primary: &Catalog, path: &str, name: &str) -> String {
    let schemas = path.split(',').map(|schema| schema.trim().trim_matches('"').replace("\"\"", "\""));
    let mut names = schemas.map(|schema| (TableId::of(&schema, name), format!("{schema}.{name}")));
    let first = names.next();
    let is_there = |(id, _): &(TableId, String)| primary.relation(*id).is_some();
    match first {
        Some(first) if is_there(&first) => first.1,
        first => names.find(is_there).or(first).map(|(_, name)| name).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scope;
    use super::*;
    use crate::protocol::postgres::analysis::schema::catalog;
    use crate::record::Side;

    #[test]
    fn a_change_that_names_a_table_with_another_name_is_known() {
        let scope = scope(
            &[("public.acc", "app.a", &[], ""), ("old.*", "new.*", &[], ""), ("public.pair", "", &[("v", "w")], "")],
            Side::Origin,
        );
        let (acc, none) = (TableId::of("public", "acc"), TableId::NONE);
        for (table, path, sql, named) in [
            (acc, "public", "DROP TABLE acc", Some("public.acc")),
            (none, "public", "CREATE INDEX ON acc (id)", Some("public.acc")),
            (none, "old, public", "ALTER TABLE acc ADD x int", Some("public.acc")),
            (none, "public, old", "CREATE TABLE x (a int)", None),
            (none, "\"old\", public", "CREATE TABLE x (a int)", Some("old.x")),
            (none, "public", "CREATE TABLE x (a int REFERENCES pair)", Some("public.pair")),
            (none, "public", "ALTER TABLE keyless ADD x int", None),
            (none, "public", "nonsense", None),
        ] {
            assert_eq!(scope.renamed_in(&catalog(), table, path, sql).as_deref(), named, "{sql}");
        }
    }
}
