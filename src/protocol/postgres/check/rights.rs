//! What tandem's own roles may do: the one on the origin reads, the one on the target writes.

use std::collections::BTreeSet;

use crate::check::{Finding, Rule};
use crate::protocol::postgres::catalog::Kind;
use crate::record::Side;

use super::facts::Facts;
use super::{on, rules};

pub(super) fn check(side: Side, facts: &Facts, found: &mut Vec<Finding>) {
    if !facts.is_known() {
        return;
    }
    let rights = &facts.rights;
    match side {
        Side::Origin => tables(facts, |oid| !rights.read.contains(&oid), side, rules::MAY_NOT_READ, found),
        Side::Target => tables(facts, |oid| !rights.write.contains(&oid), side, rules::MAY_NOT_WRITE, found),
    }
    tables(facts, |oid| rights.hidden.contains(&oid), side, rules::ROW_SECURITY_APPLIES, found);
    let wrong: &[(bool, &'static Rule)] = match side {
        Side::Origin => &[(!rights.stats, rules::MAY_NOT_SEE_STATS)],
        Side::Target => &[(!rights.create, rules::MAY_NOT_CREATE), (!rights.replica, rules::MAY_NOT_BE_REPLICA)],
    };
    found.extend(wrong.iter().filter(|(wrong, _)| *wrong).map(|(_, rule)| on(side, rule, facts.database.as_str())));
}

fn tables(facts: &Facts, wrong: impl Fn(u32) -> bool, side: Side, rule: &'static Rule, found: &mut Vec<Finding>) {
    let tables = facts.catalog.relations.values().filter(|one| matches!(one.kind, Kind::Table | Kind::Partitioned));
    let names: BTreeSet<_> = tables.filter(|one| wrong(one.oid)).map(|one| super::tables::name(one)).collect();
    found.extend(names.into_iter().map(|name| on(side, rule, name)));
}
