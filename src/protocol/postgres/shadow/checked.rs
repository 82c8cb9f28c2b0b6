//! What the secondary's planner makes of a read, before it runs there: views and policies are looked behind, every table
//! is named with its schema, the cost is told, and what the order of rows may decide. Kept by shape, side, and who asked with which settings, for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::protocol::postgres::analysis::is_unsteady;
use crate::protocol::postgres::catalog::{Catalog, Kind, Relation};
use crate::protocol::postgres::scope::{Scope, topmost};
use crate::record::TableId;
use crate::shadow::Skip;

use super::Asked;
use super::leeway::Leeway;

/// Costs change with the data.
const KEPT: Duration = Duration::from_secs(60);
/// More are not remembered.
const PLANS_MAX: usize = 10_000;

/// Plans that were looked at.
#[derive(Default)]
pub(super) struct Plans(Mutex<HashMap<u64, Checked>>);

#[derive(Clone, Copy)]
struct Checked {
    epoch: u64,
    at: Instant,
    verdict: Result<Leeway, Skip>,
}

impl Plans {
    /// What is known of a read ([`Asked::planned_on`]); `None`: nothing, or nothing new enough.
    pub(super) fn look_up(&self, place: u64, epoch: u64) -> Option<Result<Leeway, Skip>> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.get(&place)?;
        (known.epoch == epoch && known.at.elapsed() < KEPT).then_some(known.verdict)
    }

    /// What its last plan left open, however long ago.
    pub(super) fn leeway(&self, place: u64) -> Leeway {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.get(&place).and_then(|known| known.verdict.ok()).unwrap_or(Leeway::ALL)
    }

    /// Look at a plan of `EXPLAIN (VERBOSE, FORMAT JSON)`.
    ///
    /// # Errors
    /// Why the read is not repeated.
    pub(super) fn check(
        &self,
        (place, asked): (u64, &Asked),
        plan: &str,
        catalog: &Catalog,
        bounds: (&Scope, usize),
    ) -> Result<(), Skip> {
        let is_view = |table: &TableId| catalog.relation(*table).is_some_and(|one| one.kind == Kind::View);
        let hidden = asked.read.tables.iter().any(is_view);
        let checked = check(plan, catalog, bounds);
        let verdict = checked.map(|plan| Leeway::of(&plan, catalog, hidden, asked.read.limited));
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        plans.insert(place, Checked { epoch: catalog.epoch, at: Instant::now(), verdict });
        verdict.map(|_| ())
    }
}

fn check(plan: &str, catalog: &Catalog, (scope, cost_max): (&Scope, usize)) -> Result<Value, Skip> {
    let plan: Value = serde_json::from_str(plan).map_err(|_| Skip::Unsupported)?;
    let cost = plan[0]["Plan"]["Total Cost"].as_f64().unwrap_or(0.0);
    if cost_max > 0 && cost > cost_max as f64 {
        return Err(Skip::Expensive);
    }
    look(&plan, catalog, scope)?;
    Ok(plan)
}

fn look(node: &Value, catalog: &Catalog, scope: &Scope) -> Result<(), Skip> {
    match node {
        Value::String(text) if is_unsteady(text, catalog) => Err(Skip::Volatile),
        Value::Array(nodes) => nodes.iter().try_for_each(|node| look(node, catalog, scope)),
        Value::Object(fields) => {
            if let (Some(Value::String(name)), schema) = (fields.get("Relation Name"), fields.get("Schema")) {
                is_mirrored(schema.and_then(Value::as_str).unwrap_or_default(), name, catalog, scope)?;
            }
            fields.values().try_for_each(|node| look(node, catalog, scope))
        }
        _ => Ok(()),
    }
}

/// A table of the catalog of the primary, which has no temporary ones, no sequences and none of the server's own.
fn is_mirrored(schema: &str, name: &str, catalog: &Catalog, scope: &Scope) -> Result<(), Skip> {
    let is_mirrored = |relation: &Arc<Relation>| {
        // What is said of the rows of a partition is said of its root.
        let (name, root) = (relation.shown(), topmost(catalog, relation).shown());
        let rows = matches!(relation.kind, Kind::Table | Kind::Partitioned);
        rows && !scope.excludes(&root) && scope.is_alike(&root) && scope.is_alike(&name)
    };
    if catalog.relation(TableId::of(schema, name)).is_some_and(is_mirrored) { Ok(()) } else { Err(Skip::NotMirrored) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::analysis::schema::catalog;

    fn of(plan: &str) -> Result<(), Skip> {
        let mut scope = Scope::default();
        scope.exclude.extend(["a.*", "*.part_1"].map(str::to_owned));
        check(plan, &catalog(), (&scope, 1000)).map(drop)
    }

    #[test]
    fn what_a_plan_shows_decides() {
        let scan = |schema: &str, name: &str, filter: &str| {
            format!(
                "[{{\"Plan\": {{\"Node Type\": \"Seq Scan\", \"Relation Name\": \"{name}\", \"Schema\": \"{schema}\", \
                 \"Total Cost\": 41.5, \"Output\": [\"acc.id\"], \"Filter\": \"{filter}\"}}}}]"
            )
        };
        assert_eq!(of(&scan("public", "acc", "(acc.id = 1)")), Ok(()));
        assert_eq!(of(&scan("public", "acc", "(acc.at < now())")), Err(Skip::Volatile));
        assert_eq!(of(&scan("public", "acc_id_seq", "")), Err(Skip::NotMirrored));
        assert_eq!(of(&scan("pg_catalog", "pg_class", "")), Err(Skip::NotMirrored));
        assert_eq!(of(&scan("a", "twin", "")), Err(Skip::NotMirrored));
        assert_eq!(of(&scan("public", "part_1", "")), Ok(()), "patterns are of roots");
        assert_eq!(of(&scan("public", "remote", "")), Err(Skip::NotMirrored));
        assert_eq!(of("[{\"Plan\": {\"Total Cost\": 1000.5}}]"), Err(Skip::Expensive));
        assert_eq!(of("nothing"), Err(Skip::Unsupported));
    }
}
