//! What a plan leaves open of an answer and the statement's own words do not show.
//!
//! A view hides words: aggregates, windows, a LIMIT. And sums of floats, which come out otherwise where rows come in another order,
//! may be shown as something else than floats: as text, or rounded to numerics.

use std::collections::HashSet;

use serde_json::Value;

use crate::protocol::postgres::analysis::{is_choosing, is_gathering, is_picking, words};
use crate::protocol::postgres::catalog::Catalog;
use crate::record::TableId;

use super::normal::is_float;

/// Beside what [`crate::protocol::postgres::plan::Read`] says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leeway {
    /// An order that nothing fixes decides what is in the rows.
    pub(super) loose: bool,
    /// Aggregates put rows together in whatever order they come.
    pub(super) gathers: bool,
    /// Floats are added up: numbers in what is shown may be others.
    pub(super) rounds: bool,
    /// One of several equal values stands for all of them.
    pub(super) picks: bool,
}

impl Leeway {
    /// Nothing is known.
    pub(super) const ALL: Leeway = Leeway { loose: true, gathers: true, rounds: true, picks: true };

    /// Of a plan, as `EXPLAIN (VERBOSE, FORMAT JSON)` writes it. `hidden`: the read names views; of its own LIMIT it says itself.
    pub(super) fn of(plan: &Value, catalog: &Catalog, hidden: bool, limited: bool) -> Leeway {
        let mut look = Look { hidden, limits: usize::from(limited), ..Look::default() };
        look.scans(plan, catalog);
        look.node(plan);
        look.found
    }
}

#[derive(Default)]
struct Look {
    hidden: bool,
    /// How many LIMITs may still be the statement's own.
    limits: usize,
    /// Columns of the tables that are scanned, and those of them that are floats.
    columns: HashSet<String>,
    floats: HashSet<String>,
    found: Leeway,
}

impl Look {
    fn scans(&mut self, node: &Value, catalog: &Catalog) {
        match node {
            Value::Array(nodes) => nodes.iter().for_each(|node| self.scans(node, catalog)),
            Value::Object(fields) => {
                let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
                let scanned = catalog.relation(TableId::of(field("Schema"), field("Relation Name")));
                for column in scanned.iter().flat_map(|relation| &relation.columns) {
                    if is_float(column.base_oid) {
                        self.floats.insert(column.name.clone());
                    }
                    self.columns.insert(column.name.clone());
                }
                fields.values().for_each(|node| self.scans(node, catalog));
            }
            _ => {}
        }
    }

    fn node(&mut self, node: &Value) {
        match node {
            Value::String(text) => self.expression(text),
            Value::Array(nodes) => nodes.iter().for_each(|node| self.node(node)),
            Value::Object(fields) => {
                let field = |name: &str| fields.get(name).and_then(Value::as_str);
                // It may be an ARRAY(SELECT ..): what takes it shows no more than a number.
                self.found.gathers |= self.hidden && field("Parent Relationship") == Some("InitPlan");
                let node_type = field("Node Type");
                self.found.picks |=
                    self.hidden && matches!(node_type, Some("Unique" | "Group" | "Aggregate" | "SetOp"));
                match node_type {
                    // DISTINCT ON is one of the former, and a plain DISTINCT may be.
                    Some("Unique" | "WindowAgg") => self.found.loose |= self.hidden,
                    Some("Limit") if self.limits > 0 => self.limits -= 1,
                    Some("Limit") => self.found.loose |= self.hidden,
                    _ => {}
                }
                fields.values().for_each(|node| self.node(node));
            }
            _ => {}
        }
    }

    fn expression(&mut self, text: &str) {
        for (name, behind) in words(text).filter(|(_, behind)| behind.starts_with('(')) {
            // Words of SQL are written in capitals: ARRAY(SubPlan 1), JSON_ARRAYAGG(..).
            let name = name.to_ascii_lowercase();
            self.found.loose |= is_choosing(&name);
            self.found.picks |= is_picking(&name);
            if is_gathering(&name) {
                self.found.gathers = true;
                // The others put pieces together.
                self.found.rounds |= !name.contains("agg") && self.adds_floats(arguments(behind));
            }
        }
    }

    /// It names a float, or what no scanned table has, which may be one. Where there are several tables, the server writes columns
    /// with the names of theirs.
    fn adds_floats(&self, arguments: &str) -> bool {
        let named = words(arguments).any(|(name, behind)| {
            let before = arguments[..arguments.len() - behind.len() - name.len()].trim_end_matches('"');
            self.floats.contains(name) || before.ends_with('.') && !self.columns.contains(name)
        });
        named || ["::double precision", "::real"].iter().any(|cast| arguments.contains(cast))
    }
}

/// What is between the parentheses that it begins with.
fn arguments(behind: &str) -> &str {
    let mut depth = 0;
    let end = behind.char_indices().find(|(_, char)| {
        depth += match char {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    end.map_or(behind, |(end, _)| &behind[..end])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::protocol::postgres::analysis::schema;

    const NONE: Leeway = Leeway { loose: false, gathers: false, rounds: false, picks: false };

    /// With floats in `public.acc (id, bal, note)`.
    fn catalog() -> Catalog {
        let mut catalog = schema::catalog();
        let acc = catalog.by_id[&TableId::of("public", "acc")];
        let acc = catalog.relations.get_mut(&acc).expect("it is known");
        Arc::make_mut(acc).columns[1].base_oid = 701;
        catalog
    }

    /// Of an aggregate of its rows.
    fn of(output: &str, hidden: bool) -> Leeway {
        let scan = json!({"Node Type": "Seq Scan", "Relation Name": "acc", "Schema": "public", "Output": ["acc.bal"]});
        let plan = json!([{"Plan": {"Node Type": "Aggregate", "Output": [output], "Plans": [scan]}}]);
        Leeway::of(&plan, &catalog(), hidden, false)
    }

    #[test]
    fn sums_of_floats_are_seen_whatever_they_are_shown_as() {
        for output in [
            "(sum(acc.bal))::text",
            "('sum: '::text || (sum(bal))::text)",
            "round((avg(acc.bal))::numeric, 2)",
            "(PARTIAL sum((acc.bal + '1'::double precision)))",
            "stddev((acc.note)::double precision)",
            "sum(x.total)",
            "sum(\"acc\".\"bal\")",
        ] {
            assert_eq!(of(output, false), Leeway { gathers: true, rounds: true, ..NONE }, "{output}");
        }
        for output in ["sum(acc.note)", "sum(note)", "sum((acc.id * 2))", "string_agg((acc.bal)::text, ','::text)"] {
            assert_eq!(of(output, false), Leeway { gathers: true, ..NONE }, "{output}");
        }
        for output in ["acc.bal", "count(*)", "ARRAY[acc.bal]"] {
            assert_eq!(of(output, false), NONE, "{output}");
        }
        assert_eq!(of("max(acc.bal)", false), Leeway { picks: true, ..NONE });
        for output in ["ARRAY(SubPlan 1)", "JSON_ARRAYAGG(acc.id RETURNING json)"] {
            assert_eq!(of(output, false), Leeway { gathers: true, ..NONE }, "{output}");
        }
        assert!(of("mode() WITHIN GROUP (ORDER BY acc.id)", false).loose);
    }

    #[test]
    fn what_a_view_hides_is_open_and_what_the_statement_says_is_not() {
        let plan =
            |kind: &str| json!([{"Plan": {"Node Type": "Sort", "Plans": [{"Node Type": kind, "Output": ["t.a"]}]}}]);
        for kind in ["WindowAgg", "Limit", "Unique"] {
            assert!(Leeway::of(&plan(kind), &catalog(), true, false).loose, "{kind}");
            assert_eq!(Leeway::of(&plan(kind), &catalog(), false, false), NONE, "{kind}");
        }
        assert_eq!(Leeway::of(&plan("Limit"), &catalog(), true, true), NONE, "its own");
        for kind in ["Aggregate", "Group", "SetOp", "Unique"] {
            assert!(Leeway::of(&plan(kind), &catalog(), true, false).picks, "{kind}");
            assert!(!Leeway::of(&plan(kind), &catalog(), false, false).picks, "{kind}");
        }
        let initial = json!([{"Plan": {"Node Type": "Result", "Output": ["$0"],
            "Plans": [{"Node Type": "Seq Scan", "Parent Relationship": "InitPlan", "Output": ["t.a"]}]}}]);
        assert!(Leeway::of(&initial, &catalog(), true, false).gathers);
        assert_eq!(Leeway::of(&initial, &catalog(), false, false), NONE, "the statement says what it is");
        assert_eq!(Leeway::of(&plan("Seq Scan"), &catalog(), true, false), NONE);
    }
}
