//! `tandem check` for Cassandra: are these two clusters a pair that can be mirrored? Reads schemas, versions and clocks, no
//! rows; changes nothing.

use std::collections::BTreeSet;

use super::client::Error;
use super::cluster::{Cluster, Masked, Zone};
use super::definitions::Lack;
use super::tables::{Table, Tables, is_own};
use super::text::schema::Cells;
use super::topology::{Facts, Supported};
use crate::check::{self, Finding, Report};
use crate::config::{self, Config};
use crate::record::Side;

crate::check::rules! {
    SAME_CLUSTER: Error "same_cluster" "origin and target are one and the same cluster: correct the configuration";
    NO_COMMON_PROTOCOL: Error "no_common_protocol" "the clusters speak no version of the protocol in common: no client could be moved";
    PROTOCOL_OF_ONE_SIDE: Note "protocol_of_one_side" "only one cluster speaks it: clients are told that there is none";
    OLD_PROTOCOL: Warning "old_protocol" "it does not speak v5: TTLs are counted from when a write is replayed, and may end later there";
    PARTITIONER_DIFFERS: Warning "partitioner_differs" "token-aware clients choose other nodes after a switch; paging states of full scans are not portable";
    TABLE_MISSING: Error "table_missing" "the target lacks this table: create it, with the same columns";
    VIEW_MISSING: Warning "view_missing" "the target lacks this materialized view: backfill.provision makes it behind the copy where materialized_views_enabled is true in the target's cassandra.yaml; else make it by hand";
    INDEX_MISSING: Warning "index_missing" "the target has no index of it: statements that need it are refused after a switch; backfill.provision makes it behind the copy, else CREATE INDEX there";
    TYPE_DIFFERS: Error "type_differs" "the target's type has other fields, or in another order: values name none, so they change places or are refused; make it anew there, with its tables";
    CLUSTERING_ORDER_DIFFERS: Error "clustering_order_differs" "rows of a partition come in another order on the target: pages, LIMIT and what is first differ after a switch; make the table anew there, WITH CLUSTERING ORDER BY";
    COLUMNS_DIFFER: Error "columns_differ" "the target's table has other columns, types or keys: writes to it will be refused, or clients see other rows after a switch";
    TTL_DIFFERS: Warning "ttl_differs" "default_time_to_live differs: writes without a TTL live for another time on the target";
    DELETES_FORGOTTEN: Note "deletes_forgotten" "gc_grace_seconds is 0: writes to a partition of it are replayed one after the other, and a write that is late for hours is compared instead";
    BY_STATE: Note "by_state" "counters and lists are read on the primary and written on the secondary: nobody else may write to this table on the target";
    TRIGGER_UNCAPTURED: Warning "trigger_uncaptured" "what a trigger (ITrigger) writes is not captured: it stays on this side, and a write that is replayed here runs it once more; do its work in the application, or compare the tables that it writes to";
    MASKED_COLUMN: Error "masked_column" "a mask (MASKED WITH) hides the column's values from tandem's role, which would copy the mask in their place: GRANT UNMASK ON its keyspace to that role";
    TIME_ZONE_DIFFERS: Warning "time_zone_differs" "nodes read timestamps as text that say no zone in their own time zone ('2026-01-01 10:00'): the same statement writes and finds other rows there; set the zone of their Java alike (-Duser.timezone=UTC), or have clients say it";
    BALLOTS_HIDDEN: Warning "ballots_hidden" "system.paxos may not be read: lightweight transactions are mirrored by state, which is slower and does not carry deletes that no read shows; GRANT SELECT ON system.paxos to tandem's role";
    CLOCK_SKEW: Warning "clock_skew" "a coordinator's clock is far from this machine's: lightweight transactions wait that long for timestamps that tandem gave; set the clocks (NTP)";
}

/// A coordinator's clock may be off by this, in microseconds.
const SKEW_MICROS: i64 = 50_000;

/// Look at both sides. One that cannot be reached is told, and the other looked at all the same.
pub async fn check(config: &Config) -> Report {
    let reach = |server, side| Cluster::connect(server, side, &config.limits);
    let (origin, target) = tokio::join!(reach(&config.origin, Side::Origin), reach(&config.target, Side::Target));
    let mut report = Report::default();
    for (side, reached) in [(Side::Origin, &origin), (Side::Target, &target)] {
        match reached {
            Ok(cluster) => alone(side, cluster, &mut report.findings).await,
            Err(error) => report.unreachable.push(told(side, error, config.server(side))),
        }
    }
    if let (Ok(origin), Ok(target)) = (&origin, &target) {
        if let Ok(Some(node)) = origin.node_also_in(target).await {
            report.findings.push(on(Side::Target, SAME_CLUSTER, format!("node {node}")));
        }
        protocols(&origin.facts(), &target.facts(), &mut report.findings);
        let zones = tokio::join!(origin.zones(), target.zones());
        report.findings.extend(zones_apart(TIME_ZONE_DIFFERS, &zones.0, &zones.1));
        tables(&origin.tables(), &target.tables(), &mut report.findings);
        if let (Ok(here), Ok(there)) = tokio::join!(origin.definitions(), target.definitions()) {
            let lacking = here.lacking(&there).into_iter();
            report.findings.extend(lacking.map(|(lack, what)| on(Side::Target, rule(lack), what)));
            for (side, definitions) in [(Side::Origin, &here), (Side::Target, &there)] {
                report.findings.extend(check::each(TRIGGER_UNCAPTURED, Some(side), definitions.triggered()));
            }
        }
    }
    report
}

fn told(side: Side, error: &Error, server: &config::Server) -> String {
    let login = matches!(error, Error::Login(_)) && server.user.is_empty();
    let hint = if login { ": it asks for a login; set user and password_file" } else { "" };
    format!("{side}: {error}{hint}")
}

fn on(side: Side, rule: &'static crate::check::Rule, object: impl Into<String>) -> Finding {
    Finding { rule, side: Some(side), object: object.into() }
}

async fn alone(side: Side, cluster: &Cluster, found: &mut Vec<Finding>) {
    if let Ok(false) = cluster.shows_ballots().await {
        found.push(on(side, BALLOTS_HIDDEN, "system.paxos"));
    }
    if let Ok(masked) = cluster.masked().await {
        found.extend(check::each(MASKED_COLUMN, Some(side), columns_masked(&masked)));
    }
    for host in cluster.hosts().iter() {
        let skew = cluster.clock(&host.address).map_or(0, |offset| offset.micros());
        if skew.abs() > SKEW_MICROS {
            found.push(on(side, CLOCK_SKEW, format!("{}: {} ms", host.address, skew / 1_000)));
        }
    }
}

/// Columns as people call them.
pub(super) fn columns_masked(masked: &Masked) -> Vec<String> {
    let named = |((keyspace, table), columns): (&(String, String), &Vec<String>)| {
        columns.iter().map(|column| format!("{keyspace}.{table}: {column}")).collect::<Vec<_>>()
    };
    masked.iter().flat_map(named).collect()
}

/// A finding, where nodes have not all one time zone.
pub(super) fn zones_apart(
    rule: &'static crate::check::Rule,
    origin: &BTreeSet<Zone>,
    target: &BTreeSet<Zone>,
) -> Option<Finding> {
    let told = |zones: &BTreeSet<Zone>| zones.iter().map(Zone::to_string).collect::<Vec<_>>().join(" and ");
    let differ = origin.union(target).count() > 1;
    let object = || format!("origin: {}; target: {}", told(origin), told(target));
    differ.then(|| Finding { rule, side: None, object: object() })
}

fn rule(lack: Lack) -> &'static crate::check::Rule {
    match lack {
        Lack::View => VIEW_MISSING,
        Lack::Index => INDEX_MISSING,
        Lack::Type => TYPE_DIFFERS,
        Lack::Order => CLUSTERING_ORDER_DIFFERS,
    }
}

fn protocols(origin: &Facts, target: &Facts, found: &mut Vec<Finding>) {
    let common = Supported::common([&origin.supported, &target.supported]).versions();
    if common.is_empty() {
        found.push(Finding { rule: NO_COMMON_PROTOCOL, side: None, object: "both clusters".to_owned() });
    }
    for (side, facts) in [(Side::Origin, origin), (Side::Target, target)] {
        let spoken = Supported::common([&facts.supported]).versions();
        for version in spoken.iter().filter(|version| !common.contains(version)) {
            found.push(on(side, PROTOCOL_OF_ONE_SIDE, format!("v{}", *version as u8)));
        }
        if !spoken.contains(&super::wire::Version::V5) {
            found.push(on(side, OLD_PROTOCOL, facts.release_version.clone()));
        }
    }
    if origin.partitioner != target.partitioner {
        found.push(on(Side::Target, PARTITIONER_DIFFERS, target.partitioner.clone()));
    }
}

fn tables(origin: &Tables, target: &Tables, found: &mut Vec<Finding>) {
    let mirrored = origin.iter().filter(|table| !is_own(&table.shape.keyspace));
    let mut mirrored: Vec<(String, &Table)> = mirrored.map(|table| (name(table), &**table)).collect();
    mirrored.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (name, table) in mirrored {
        if table.gc_grace_seconds == 0 {
            found.push(on(Side::Origin, DELETES_FORGOTTEN, name.clone()));
        }
        if table.shape.columns().iter().any(|column| matches!(column.cells, Cells::Counter | Cells::List)) {
            found.push(on(Side::Origin, BY_STATE, name.clone()));
        }
        let Some(other) = target.table(&table.shape.keyspace, &table.shape.name) else {
            found.push(on(Side::Target, TABLE_MISSING, name));
            continue;
        };
        if other.shape != table.shape {
            found.push(on(Side::Target, COLUMNS_DIFFER, format!("{name}: {}", columns(table, other))));
        }
        if other.default_ttl != table.default_ttl {
            found.push(on(
                Side::Target,
                TTL_DIFFERS,
                format!("{name}: {} and {} s", table.default_ttl, other.default_ttl),
            ));
        }
    }
}

fn name(table: &Table) -> String {
    format!("{}.{}", table.shape.keyspace, table.shape.name)
}

/// The columns that only one has, or that are not the same.
fn columns(one: &Table, other: &Table) -> String {
    let all = |table: &Table| -> BTreeSet<(String, String)> {
        let columns = table.shape.columns().iter();
        columns.map(|column| (column.name.clone(), format!("{:?} {}", column.role, column.cql_type))).collect()
    };
    let (one, other) = (all(one), all(other));
    let names: BTreeSet<&str> = one.symmetric_difference(&other).map(|(name, _)| name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::text::schema::{self, Column};

    fn table(name: &str, grace: i32, ttl: i32, columns: &[(&str, &str, &str)]) -> Table {
        let column = |(name, kind, cql_type): &(&str, &str, &str)| Column::described(name, kind, 0, cql_type);
        let shape = schema::Table::new("shop", name, columns.iter().map(column).collect());
        Table::new(shape, [0; 16], grace, ttl)
    }

    #[test]
    fn what_the_sides_have_not_in_common_is_named_by_table_and_column() {
        let key = ("k", "partition_key", "int");
        let plain = || table("plain", 864_000, 0, &[key, ("v", "regular", "text")]);
        let origin = [
            plain(),
            table("counts", 864_000, 0, &[key, ("n", "regular", "counter")]),
            table("forgets", 0, 60, &[key, ("v", "regular", "text")]),
            table("gone", 864_000, 0, &[key]),
        ];
        let target = [
            plain(),
            table("counts", 864_000, 0, &[key, ("n", "regular", "counter")]),
            table("forgets", 0, 0, &[key, ("v", "regular", "blob"), ("w", "regular", "int")]),
        ];
        let mut found = Vec::new();
        tables(&Tables::new([0; 16], origin), &Tables::new([0; 16], target), &mut found);
        let found: Vec<(&str, &str)> = found.iter().map(|one| (one.rule.name, one.object.as_str())).collect();
        let expected = [
            ("by_state", "shop.counts"),
            ("deletes_forgotten", "shop.forgets"),
            ("columns_differ", "shop.forgets: v, w"),
            ("ttl_differs", "shop.forgets: 60 and 0 s"),
            ("table_missing", "shop.gone"),
        ];
        assert_eq!(found, expected);
    }
}
