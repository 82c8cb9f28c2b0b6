//! The demo as users run it: it says so when everything is well, and it is well.

use crate::support::tandem::cli;

#[test]
fn the_demo_ends_well() {
    ends_well(&["--json", "demo", "--seconds", "8", "--clients", "6"]);
}

#[test]
fn the_demo_ends_well_on_cassandra() {
    ends_well(&["--json", "demo", "--wire", "cql", "--seconds", "15", "--clients", "6"]);
}

fn ends_well(arguments: &[&str]) {
    let demo = cli(arguments);
    let said = String::from_utf8_lossy(&demo.stdout);
    let told = String::from_utf8_lossy(&demo.stderr);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{told}"));
    assert_eq!(report["ok"], true, "{report}\n{told}");
    assert_eq!(report["kills"], 2, "{report}");
    assert_eq!(report["switches"], 5, "{report}");
    assert_eq!(demo.status.code(), Some(0), "{report}");
}
