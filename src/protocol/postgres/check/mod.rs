//! `tandem check` for PostgreSQL 14 to 18: is this pair of databases one that can be mirrored, and by these roles?
//!
//! Both sides are read first ([`facts`]: catalogs and settings, no rows), then compared without asking anybody:
//! [`server`] the clusters, [`tables`] what is mirrored, [`objects`] what a schema needs beside tables, [`types`]
//! among it, [`privileges`] what clients may do, [`rights`] what tandem's own roles may. [`rules`] names everything that is looked for. Nothing is changed
//! on either side.

mod facts;
mod objects;
mod privileges;
mod rights;
mod rules;
mod server;
mod tables;
mod types;

pub use rules::RULES;

use std::collections::HashMap;
use std::sync::Arc;

use crate::check::{Finding, Report, Rule};
use crate::config::Config;
use crate::record::Side;

use super::catalog::{Kind, Relation};
use super::client::{Client, Error, ServerConfig};
use super::scope::{self, Scope, filter, topmost};
use super::setup::server_config;
pub(super) use facts::{Facts, OURS, read};

/// Look at both sides. One that cannot be reached is told, and the other looked at all the same.
pub async fn check(config: &Config) -> Report {
    let (source, target) = (server_config(&config.origin, config, None), server_config(&config.target, config, None));
    let (origin, mut target) = tokio::join!(read(&source), read(&target));
    let mut report = Report::default();
    for (side, facts) in [(Side::Origin, &origin), (Side::Target, &target)] {
        match facts {
            Ok(facts) => alone(side, facts, &mut report.findings),
            Err(error) => report.unreachable.push(format!("{side}: {error}")),
        }
    }
    let scope = Scope::of(config, Side::Origin);
    if let (Ok(origin), Ok(target)) = (&origin, &mut target) {
        scope.translate(&mut target.catalog);
        together(&scope, origin, target, &mut report.findings);
    }
    if let Ok(origin) = &origin {
        rights::check(Side::Origin, origin, |_| true, &mut report.findings);
    }
    if let Ok(target) = &target {
        // What only the target has is nobody's; a partition that only the target has is its root's.
        let mirrored = |table: &Arc<Relation>| match &origin {
            Ok(origin) if origin.is_known() => {
                let root = topmost(&target.catalog, table);
                let is_known = |table: &Relation| origin.catalog.relation(table.id).is_some();
                (is_known(table) || is_known(&root)) && !scope.excludes(&root.shown())
            }
            _ => true,
        };
        rights::check(Side::Target, target, mirrored, &mut report.findings);
    }
    if let Ok(origin) = &origin {
        let outside = scope.acting_from_outside(&origin.catalog).into_iter();
        let outside = outside.map(|(child, parent)| format!("{child} (with {parent})"));
        report.findings.extend(outside.map(|object| on(Side::Origin, rules::FOREIGN_KEY_FROM_OUTSIDE, object)));
        let names = scope::names(&origin.catalog);
        report.findings.retain(|finding| !scope.leaves_out(&finding.object, &names));
        match flaws(&source, &scope, origin).await {
            Ok(flaws) => report.findings.extend(flaws),
            Err(error) => report.unreachable.push(format!("{}: {error}", Side::Origin)),
        }
    }
    report
}

/// What `[[tables]]` says of the origin that is not so. What tandem starts with is the same.
async fn flaws(source: &ServerConfig, scope: &Scope, origin: &Facts) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    if scope.is_plain() || !origin.is_known() {
        return Ok(found);
    }
    let mut conn = Client::connect(&source.for_writing("tandem check")).await?;
    let mut flaws = scope.flaws(&origin.catalog);
    flaws.extend(filter::refused(&mut conn, scope, &origin.catalog).await?);
    conn.close().await;
    found.extend(flaws.into_iter().map(|(table, why)| on(Side::Origin, rules::TABLE_MAP, format!("{table}: {why}"))));
    Ok(found)
}

fn alone(side: Side, facts: &Facts, found: &mut Vec<Finding>) {
    server::alone(side, facts, found);
    if side == Side::Origin {
        tables::origin(facts, found);
        let uncertain = facts.uncertain.iter();
        found.extend(uncertain.map(|name| on(side, rules::EXTENSION_FUNCTIONS, name)));
    }
}

/// What a switch minds as well: what is hard to mirror on `from`, and what both sides' schemas have not in common. In
/// these findings `from` is the origin and `to` the target, whichever they are.
pub(super) fn differences(scope: &Scope, from: &Facts, to: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    tables::origin(from, &mut found);
    together(scope, from, to, &mut found);
    found
}

fn together(scope: &Scope, origin: &Facts, target: &Facts, found: &mut Vec<Finding>) {
    server::together(origin, target, found);
    tables::together(origin, target, found);
    objects::together(origin, target, found);
    let tables = origin.catalog.relations.values().filter(|one| matches!(one.kind, Kind::Table | Kind::Partitioned));
    let tables: HashMap<String, &Arc<Relation>> = tables.map(|one| (one.shown(), one)).collect();
    // A view is nobody's to exclude.
    let left_out = |name: &str| tables.get(name).is_some_and(|table| scope.excludes_table(&origin.catalog, table));
    privileges::together(&origin.privileges, &target.privileges, left_out, found);
}

/// A finding on one side.
fn on(side: Side, rule: &'static Rule, object: impl Into<String>) -> Finding {
    Finding { rule, side: Some(side), object: object.into() }
}
