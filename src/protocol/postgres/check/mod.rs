//! `tandem check` for PostgreSQL 14 to 18: is this pair of databases one that can be mirrored, and by these roles?
//!
//! Both sides are read first ([`facts`]: catalogs and settings, no rows), then compared without asking anybody:
//! [`server`] the clusters, [`tables`] what is mirrored, [`objects`] what a schema needs beside tables, [`rights`] what
//! tandem's own roles may do. [`rules`] names everything that is looked for. Nothing is changed on either side.

mod facts;
mod objects;
mod rights;
mod rules;
mod server;
mod tables;

pub use rules::RULES;

use crate::check::{Finding, Report, Rule};
use crate::config::Config;
use crate::record::Side;

use super::copier::Scope;
use super::setup::server_config;
pub(super) use facts::{Facts, read};

/// Look at both sides. One that cannot be reached is told, and the other looked at all the same.
pub async fn check(config: &Config) -> Report {
    let (origin, target) = (server_config(&config.origin, config), server_config(&config.target, config));
    let (origin, target) = tokio::join!(read(&origin), read(&target));
    let mut report = Report::default();
    for (side, facts) in [(Side::Origin, &origin), (Side::Target, &target)] {
        match facts {
            Ok(facts) => alone(side, facts, &mut report.findings),
            Err(error) => report.unreachable.push(format!("{side}: {error}")),
        }
    }
    if let (Ok(origin), Ok(target)) = (&origin, &target) {
        together(origin, target, &mut report.findings);
    }
    let scope = Scope::of(&config.mirror);
    report.findings.retain(|finding| !scope.excludes(&finding.object));
    report
}

fn alone(side: Side, facts: &Facts, found: &mut Vec<Finding>) {
    server::alone(side, facts, found);
    if side == Side::Origin {
        tables::origin(facts, found);
    }
    rights::check(side, facts, found);
}

/// What a switch minds as well: what is hard to mirror on `from`, and what both sides' schemas have not in common. In
/// these findings `from` is the origin and `to` the target, whichever they are.
pub(super) fn differences(from: &Facts, to: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    tables::origin(from, &mut found);
    together(from, to, &mut found);
    found
}

fn together(origin: &Facts, target: &Facts, found: &mut Vec<Finding>) {
    server::together(origin, target, found);
    tables::together(origin, target, found);
    objects::together(origin, target, found);
}

/// A finding on one side.
fn on(side: Side, rule: &'static Rule, object: impl Into<String>) -> Finding {
    Finding { rule, side: Some(side), object: object.into() }
}
