//! Questions of drivers and of people, and the answers that 4.1.9 and 5.0.5 gave to them.

use super::*;

const INET: &[u8] = &[0x00, 0x10];
const UUID: &[u8] = &[0x00, 0x0C];
const TOKENS: &[u8] = &[0x00, 0x22, 0x00, 0x0D];

fn columns(table: SystemTable) -> Vec<ColumnSpec> {
    let columns: &[(&str, &[u8])] = match table {
        SystemTable::Local => {
            &[("key", VARCHAR), ("host_id", UUID), ("rack", VARCHAR), ("rpc_port", INT), ("tokens", TOKENS)]
        }
        SystemTable::Peers => &[("peer", INET), ("rack", VARCHAR)],
        SystemTable::PeersV2 => &[("peer", INET), ("peer_port", INT), ("rack", VARCHAR)],
    };
    columns.iter().map(|(name, option)| ColumnSpec::new(*name, option)).collect()
}

fn int(value: i32) -> Cell {
    Some(value.to_be_bytes().to_vec())
}

fn text(value: &str) -> Cell {
    Some(value.as_bytes().to_vec())
}

fn rows(table: SystemTable) -> Vec<Vec<Cell>> {
    let peer = |last: u8| Some(vec![10, 0, 0, last]);
    match table {
        SystemTable::Local => {
            let tokens = [&[0, 0, 0, 2, 0, 0, 0, 2][..], b"-1", &[0, 0, 0, 1], b"5"].concat();
            vec![vec![text("local"), Some(vec![0x11; 16]), text("r\"1"), int(9042), Some(tokens)]]
        }
        SystemTable::Peers => vec![vec![peer(1), text("r1")], vec![peer(2), None]],
        SystemTable::PeersV2 => vec![
            vec![peer(1), int(7001), text("r1")],
            vec![peer(1), int(7002), text("r2")],
            vec![peer(2), int(7001), text("r3")],
        ],
    }
}

fn planned(question: &str) -> Verdict {
    plan_text(question.as_bytes(), Some("system"), columns).unwrap_or_else(|| panic!("{question}: no system table"))
}

/// The answer in one line: names, then rows; or `!` and the refusal; or `elsewhere`.
fn answer(question: &str, bound: &[Bound<'_>]) -> String {
    let plan = match planned(question) {
        Verdict::Answer(plan) => plan,
        Verdict::Refused(words) => return format!("! {words}"),
        Verdict::Elsewhere(elsewhere) => return format!("elsewhere, reads columns: {}", elsewhere.reads_columns),
    };
    let names = plan.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(",");
    match plan.run(&rows(plan.table()), bound) {
        Err(words) => format!("! {words}"),
        Ok(rows) => {
            let row = |row: &Vec<Cell>| {
                row.iter().zip(&plan.columns).map(|(cell, column)| spoken(cell, column)).collect::<Vec<_>>().join(",")
            };
            format!("{names}: {}", rows.iter().map(row).collect::<Vec<_>>().join(" "))
        }
    }
}

fn spoken(cell: &Cell, column: &ColumnSpec) -> String {
    let spec = ColumnSpec::new("v", &column.type_option);
    let json = json::object(std::iter::once((&spec, cell)));
    match (cell, column.type_option.as_slice()) {
        (Some(bytes), VARCHAR) => String::from_utf8(bytes.clone()).unwrap(),
        _ => json[6..json.len() - 1].replace('"', ""),
    }
}

#[test]
fn what_drivers_ask_is_answered() {
    for (question, expected) in [
        (
            "SELECT * FROM system.local WHERE key='local'",
            "key,host_id,rack,rpc_port,tokens: local,11111111-1111-1111-1111-111111111111,r\"1,9042,[-1, 5]",
        ),
        ("select rack from \"system\".\"local\"", "rack: r\"1"),
        ("SELECT key AS a, KEY AS \"B\", key FROM local", "a,B,key: local,local,local"),
        ("SELECT peer FROM system.peers", "peer: 10.0.0.1 10.0.0.2"),
        ("SELECT rack FROM system.peers WHERE peer = '10.0.0.2'", "rack: null"),
        (
            "SELECT * FROM system.peers_v2 WHERE peer='10.0.0.1' AND peer_port=7002",
            "peer,peer_port,rack: 10.0.0.1,7002,r2",
        ),
        ("SELECT rack FROM system.peers_v2 WHERE peer IN ('10.0.0.2', '10.0.0.9')", "rack: r3"),
        ("SELECT rack FROM system.peers_v2 WHERE peer='10.0.0.1' ORDER BY peer_port DESC", "rack: r2 r1"),
        ("SELECT DISTINCT peer FROM system.peers_v2", "peer: 10.0.0.1 10.0.0.2"),
        ("SELECT rack FROM system.peers_v2 LIMIT 2", "rack: r1 r2"),
        ("SELECT rack FROM system.peers_v2 PER PARTITION LIMIT 1", "rack: r1 r3"),
        ("SELECT count(*) FROM system.peers_v2 LIMIT 1", "count: 3"),
        ("SELECT count(*) AS n, rack FROM system.peers_v2", "n,rack: 3,r1"),
        ("SELECT count(1), rack FROM system.local WHERE key='nope'", "count,rack: 0,null"),
        ("SELECT key FROM system.local WHERE key IN ()", "key: "),
        ("SELECT key FROM system.local WHERE rpc_port = 9042 ALLOW FILTERING", "key: local"),
        ("SELECT key FROM system.local WHERE key='local' AND rack='x' ALLOW FILTERING", "key: "),
        (
            "SELECT JSON key AS \"K\", rack, rpc_port, tokens FROM local",
            "[json]: {\"\\\"K\\\"\": \"local\", \"rack\": \"r\\\"1\", \"rpc_port\": 9042, \"tokens\": [\"-1\", \"5\"]}",
        ),
        ("SELECT JSON count(*) FROM local", "[json]: {\"count\": 1}"),
        ("SELECT JSON * FROM peers WHERE peer='10.0.0.2'", "[json]: {\"peer\": \"10.0.0.2\", \"rack\": null}"),
    ] {
        assert_eq!(answer(question, &[]), expected, "{question}");
    }
}

#[test]
fn what_the_server_refuses_is_refused_in_its_words() {
    for (question, words) in [
        ("SELECT x FROM system.local", "Undefined column name x in table system.local"),
        ("SELECT \"Xy\" FROM system.local", "Undefined column name \"Xy\" in table system.local"),
        ("SELECT x FROM system.local WHERE y=1", "Undefined column name y in table system.local"),
        ("SELECT key FROM system.peers_v2", "Undefined column name key in table system.peers_v2"),
        ("SELECT writetime(x) FROM system.local", "Undefined column name x in table system.local"),
        ("SELECT * FROM system.local WHERE rack='r'", FILTERING),
        ("SELECT * FROM system.local WHERE key='local' AND rack='r'", FILTERING),
        ("SELECT * FROM system.peers_v2 WHERE peer_port=7000", FILTERING),
        ("SELECT * FROM system.local WHERE key=1", "Invalid INTEGER constant (1) for \"key\" of type text"),
        (
            "SELECT * FROM system.local WHERE rpc_port='9042' ALLOW FILTERING",
            "Invalid STRING constant (9042) for \"rpc_port\" of type int",
        ),
        ("SELECT * FROM system.local WHERE key=null", "Invalid null value in condition for column key"),
        (
            "SELECT * FROM system.local WHERE rpc_port=null ALLOW FILTERING",
            "Unsupported null value for column rpc_port",
        ),
        ("SELECT * FROM system.peers WHERE peer='nonsense'", "Unable to make inet address from 'nonsense'"),
        (
            "SELECT * FROM system.local WHERE key='a' AND key='b'",
            "key cannot be restricted by more than one relation if it includes an Equal",
        ),
        ("SELECT * FROM system.local LIMIT 0", "LIMIT must be strictly positive"),
        ("SELECT * FROM system.local LIMIT -1", "LIMIT must be strictly positive"),
        (
            "SELECT DISTINCT rack FROM system.local",
            "SELECT DISTINCT queries must only request partition key columns and/or static columns (not rack)",
        ),
        (
            "SELECT DISTINCT count(*) FROM system.local",
            "SELECT DISTINCT queries must request all the partition key columns (missing key)",
        ),
        (
            "SELECT key FROM system.local ORDER BY key",
            "ORDER BY is only supported when the partition key is restricted by an EQ or an IN.",
        ),
        (
            "SELECT key FROM system.local WHERE key='local' ORDER BY key",
            "Order by is currently only supported on the clustered columns of the PRIMARY KEY, got key",
        ),
    ] {
        assert_eq!(answer(question, &[]), format!("! {words}"), "{question}");
    }
}

#[test]
fn what_needs_a_server_is_sent_there() {
    for (question, reads_columns) in [
        ("SELECT now() FROM system.local", false),
        ("SELECT now() FROM system.local WHERE key='local'", false),
        ("SELECT now() FROM system.local WHERE rack='r' ALLOW FILTERING", true),
        ("SELECT now() FROM system.peers", true),
        ("SELECT now(), rack FROM system.local", true),
        ("SELECT writetime(rack) FROM system.local", true),
        ("SELECT ttl(rack) FROM system.local", true),
        ("SELECT CAST(rpc_port AS text) FROM system.local", true),
        ("SELECT max(rack) FROM system.local", true),
        ("SELECT tokens['x'] FROM system.local", true),
        ("SELECT key FROM system.local WHERE token(key) > 1", true),
        ("SELECT key FROM system.local GROUP BY key", true),
    ] {
        assert_eq!(answer(question, &[]), format!("elsewhere, reads columns: {reads_columns}"), "{question}");
    }
}

#[test]
fn other_tables_are_none_of_its_business() {
    let of = |question: &str, session| SystemTable::of(&parse(question.as_bytes()), session);
    assert_eq!(of("SELECT * FROM system.peers", None), Some(SystemTable::Peers));
    assert_eq!(of("SELECT * FROM peers", Some("system")), Some(SystemTable::Peers));
    assert_eq!(of("SELECT * FROM \"Peers\"", Some("system")), None);
    assert_eq!(of("SELECT * FROM peers", Some("app")), None);
    assert_eq!(of("SELECT * FROM peers", None), None);
    assert_eq!(of("SELECT * FROM app.local", Some("system")), None);
    assert_eq!(of("SELECT * FROM system.batches", None), None);
    assert_eq!(of("DELETE FROM system.peers WHERE peer='10.0.0.1'", None), None);
}

#[test]
fn markers_have_names_types_and_values() {
    let Verdict::Answer(plan) = planned("SELECT * FROM peers_v2 WHERE peer=? AND peer_port IN ? LIMIT :n") else {
        panic!("no plan");
    };
    let list_of_int = [LIST.as_slice(), INT].concat();
    assert_eq!(
        plan.markers,
        [ColumnSpec::new("peer", INET), ColumnSpec::new("in(peer_port)", &list_of_int), ColumnSpec::new("n", INT)]
    );
    assert_eq!(plan.pk_indexes, [0]);
    let ports = [&[0, 0, 0, 1, 0, 0, 0, 4][..], &7002_i32.to_be_bytes()].concat();
    let run = |bound: &[Bound<'_>]| plan.run(&rows(SystemTable::PeersV2), bound);
    let all = [Bound::Value(&[10, 0, 0, 1]), Bound::Value(&ports), Bound::Unset];
    assert_eq!(run(&all).unwrap().len(), 1);
    assert_eq!(run(&all[..2]), Err("Invalid amount of bind variables".into()));
    assert_eq!(
        run(&[Bound::Null, Bound::Value(&ports), Bound::Unset]),
        Err("Invalid null value in condition for column peer".into())
    );
    for cut in 0..ports.len() {
        assert!(run(&[Bound::Value(&[10, 0, 0, 1]), Bound::Value(&ports[..cut]), Bound::Unset]).is_err());
    }
    assert!(run(&[Bound::Value(&[]), Bound::Value(&[0x7F; 8]), Bound::Unset]).is_err());
}

#[test]
fn all_pages_of_markers_are_named_as_the_server_names_them() {
    let Verdict::Answer(plan) = planned("SELECT key FROM local WHERE key IN (?, :b) PER PARTITION LIMIT ? LIMIT ?")
    else {
        panic!("no plan");
    };
    let names: Vec<&str> = plan.markers.iter().map(|marker| marker.name.as_str()).collect();
    assert_eq!(names, ["key", "b", "[per_partition_limit]", "[limit]"]);
    assert_eq!(plan.pk_indexes, [1]);
}
