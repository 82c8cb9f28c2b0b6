//! What tandem's own roles may do: the one on the origin reads, the one on the target writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::check::{Finding, Rule};
use crate::protocol::postgres::catalog::{Kind, Relation};
use crate::record::Side;

use super::facts::Facts;
use super::{on, rules};

/// `mirrored`: whether a table is, as far as anybody knows.
pub(super) fn check(side: Side, facts: &Facts, mirrored: impl Fn(&Arc<Relation>) -> bool, found: &mut Vec<Finding>) {
    if !facts.is_known() {
        return;
    }
    let rights = &facts.rights;
    let tables = facts.catalog.relations.values().filter(|one| matches!(one.kind, Kind::Table | Kind::Partitioned));
    let tables: Vec<_> = tables.filter(|one| mirrored(one)).collect();
    let mut tell = |rule, wrong: &dyn Fn(&u32) -> bool| {
        let wrong = tables.iter().filter(|one| wrong(&one.oid));
        let names: BTreeSet<_> = wrong.map(|one| super::tables::name(one)).collect();
        found.extend(names.into_iter().map(|name| on(side, rule, name)));
    };
    match side {
        Side::Origin => tell(rules::MAY_NOT_READ, &|oid| !rights.read.contains(oid)),
        Side::Target => tell(rules::MAY_NOT_WRITE, &|oid| !rights.write.contains(oid)),
    }
    tell(rules::ROW_SECURITY_APPLIES, &|oid| rights.hidden.contains(oid));
    let wrong: &[(bool, &'static Rule)] = match side {
        Side::Origin => &[(!rights.stats, rules::MAY_NOT_SEE_STATS)],
        Side::Target => &[(!rights.create, rules::MAY_NOT_CREATE), (!rights.replica, rules::MAY_NOT_BE_REPLICA)],
    };
    found.extend(wrong.iter().filter(|(wrong, _)| *wrong).map(|(_, rule)| on(side, rule, facts.database.as_str())));
}
