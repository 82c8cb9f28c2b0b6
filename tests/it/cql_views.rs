//! Materialized views on real Cassandra: made behind the copy, never taken for tables, and named where the target makes none.

use serde_json::json;
use tandem::sandbox::cassandra::{Node, Options};

use crate::cql_history::{schema_of, walk};
use crate::support::cassandra::{cluster, make_keyspace, pair, versions};
use crate::support::cql::{Ask, Cql, Dial};
use crate::support::history::counts;
use crate::support::tandem::{Tandem, cli};
use crate::support::until;

const CONFIG: &str = "[backfill]\nprovision = true\n[mirror]\nself_repair = false\n";

/// A table and views of it: renamed by quotes, of some rows, of all columns, in another order.
const SCHEMA: [&str; 6] = [
    "CREATE TABLE \"Sales\" (id int, \"At\" int, shop text, \"Sum\" int, note text, PRIMARY KEY (id, \"At\"))",
    "CREATE TABLE plain (k int PRIMARY KEY, v int)",
    "CREATE INDEX by_note ON \"Sales\" (note)",
    "CREATE MATERIALIZED VIEW by_shop AS SELECT * FROM \"Sales\" WHERE shop IS NOT NULL AND id IS NOT NULL \
     AND \"At\" IS NOT NULL PRIMARY KEY (shop, \"At\", id) WITH CLUSTERING ORDER BY (\"At\" DESC, id ASC) \
     AND comment = 'it''s by shop' AND gc_grace_seconds = 86400 AND compaction = {'class': 'LeveledCompactionStrategy'}",
    "CREATE MATERIALIZED VIEW \"LargeSums\" AS SELECT \"Sum\", id, \"At\", shop FROM \"Sales\" WHERE \"Sum\" IS NOT NULL \
     AND \"At\" >= 10 AND id IS NOT NULL PRIMARY KEY ((\"Sum\", id), \"At\")",
    "CREATE MATERIALIZED VIEW turned AS SELECT v, k FROM plain WHERE v IS NOT NULL AND k IS NOT NULL PRIMARY KEY (v, k)",
];
const VIEWS: [&str; 3] = ["by_shop", "\"LargeSums\"", "turned"];
const LATE: &str =
    "CREATE MATERIALIZED VIEW late AS SELECT * FROM plain WHERE v IS NOT NULL AND k IS NOT NULL PRIMARY KEY (v, k)";

fn history(node: &Node, keyspace: &str) {
    make_keyspace(node, keyspace, 1);
    let mut cql = Cql::of(node, keyspace);
    SCHEMA.iter().for_each(|text| cql.define(text));
    for n in 0..40 {
        cql.run(&format!("INSERT INTO \"Sales\" (id, \"At\", shop, \"Sum\") VALUES ({n}, {n}, 'shop{}', {n})", n % 3));
        cql.run(&format!("INSERT INTO plain (k, v) VALUES ({n}, {})", n % 7));
    }
}

/// Rows of a view, in an order of the reader's.
fn seen(node: &Node, keyspace: &str, view: &str) -> Vec<String> {
    let mut rows = Cql::of(node, keyspace).rows(&format!("SELECT * FROM {view}"));
    rows.sort_unstable();
    rows
}

fn client(tandem: &Tandem, keyspace: &str) -> Cql {
    let dial = Dial { keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    Cql::dial(tandem.address(), &dial).expect("a login")
}

/// Servers build views in their own time.
async fn views_are_equal(nodes: [&Node; 2], keyspace: &str) {
    for view in VIEWS {
        let same = until(async || {
            let [here, there] = nodes.map(|node| seen(node, keyspace, view));
            (!here.is_empty() && here == there).then_some(())
        });
        assert!(same.await.is_some(), "{view}: {:?}", nodes.map(|node| seen(node, keyspace, view)));
    }
}

/// What a switch says of this keyspace's views.
fn views_missing(tandem: &Tandem, keyspace: &str) -> Vec<String> {
    let output = cli(&["switch", "target", "--dry-run", "--json", "--admin", &tandem.admin]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let all = shown["findings"].as_array().unwrap_or_else(|| panic!("{shown:#}"));
    let of_views = all.iter().filter(|one| one["name"] == "view_missing");
    let objects = of_views.map(|one| {
        assert_eq!((&one["severity"], &one["side"]), (&json!("warning"), &json!("target")), "{one}");
        one["object"].as_str().expect("a name").to_owned()
    });
    objects.filter(|object| object.starts_with(&format!("{keyspace}."))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_copied_tables_are_made_behind_the_copy_and_are_no_tables_to_anybody() {
    let (nodes, keyspace) = (pair(), "viewed");
    let [old, new] = nodes;
    history(old, keyspace);
    let tandem = Tandem::start_cql(old.address(), new.address(), CONFIG).await;
    let all = ["viewed.LargeSums", "viewed.by_shop", "viewed.turned"];
    assert_eq!(views_missing(&tandem, keyspace), all);
    let report = walk(&tandem, "backfill", &json!({ "tables": ["viewed.*"] })).await;
    assert_eq!((&report["state"], &report["why"]), (&json!("Done"), &json!(null)), "{report:#}\n{}", tandem.log());
    // 40 rows of each table, and none of a view.
    let [read, equal, rest @ ..] = counts(&report);
    assert!(read == 80 && equal == 80 && rest == [0; 4], "{report:#}");
    assert_eq!(schema_of(old, keyspace), schema_of(new, keyspace), "{}", tandem.log());
    views_are_equal(nodes, keyspace).await;
    assert_eq!(views_missing(&tandem, keyspace), [""; 0]);

    let mut client = client(&tandem, keyspace);
    assert!(!client.rows("SELECT * FROM by_shop WHERE shop = 'shop1'").is_empty());
    for text in
        ["INSERT INTO turned (v, k) VALUES (1, 1)", "DELETE FROM by_shop WHERE shop = 'shop1'", "TRUNCATE turned"]
    {
        client.refusal(text, &Ask::default());
    }
    client.run("UPDATE plain SET v = 100 WHERE k = 1");
    client.run("DELETE FROM \"Sales\" WHERE id = 4");
    // One that clients make goes the same way.
    client.run(LATE);
    tandem.nothing_set_aside().await;
    views_are_equal(nodes, keyspace).await;
    assert_eq!(schema_of(old, keyspace), schema_of(new, keyspace), "{}", tandem.log());
    let report = walk(&tandem, "verify", &json!({ "tables": ["viewed.*"] })).await;
    let [read, equal, rest @ ..] = counts(&report);
    assert!(read == 79 && equal == 79 && rest == [0; 4], "{report:#}");

    Cql::of(new, keyspace).define("DROP MATERIALIZED VIEW turned");
    assert_eq!(views_missing(&tandem, keyspace), ["viewed.turned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_makes_no_views_gets_all_else_and_people_the_statements() {
    let (old, new) = versions();
    for (origin, target, keyspace) in [(pair()[0], new, "viewless_new"), (pair()[1], old, "viewless_old")] {
        history(origin, keyspace);
        // The last line counts.
        let config = vec!["materialized_views_enabled: false".to_owned()];
        let target = cluster(&target, 1, &Options { config, ..Options::default() });
        let target = &target.nodes[0];
        let tandem = Tandem::start_cql(origin.address(), target.address(), CONFIG).await;
        let tables = format!("{keyspace}.*");
        let report = walk(&tandem, "backfill", &json!({ "tables": [tables] })).await;
        assert_eq!(report["state"], "Done", "{report:#}\n{}", tandem.log());
        let [read, equal, rest @ ..] = counts(&report);
        assert!(read == 80 && equal == 80 && rest == [0; 4], "{report:#}");
        let why = report["why"].as_str().expect("it says what is missing");
        assert!(why.contains("materialized_views_enabled: true in cassandra.yaml"), "{why}");
        for view in VIEWS {
            let view = if view.starts_with('"') { view.to_owned() } else { format!("\"{view}\"") };
            assert!(
                why.contains(&format!("CREATE MATERIALIZED VIEW IF NOT EXISTS \"{keyspace}\".{view} AS SELECT")),
                "{why}"
            );
        }
        let indexes = format!("SELECT index_name FROM system_schema.indexes WHERE keyspace_name = '{keyspace}'");
        assert_eq!(Cql::of(target, keyspace).rows(&indexes), ["by_note"]);
        let waited = cli(&["backfill", "wait", "--admin", &tandem.admin]);
        assert!(waited.status.success(), "{waited:?}");
        assert_eq!(views_missing(&tandem, keyspace).len(), VIEWS.len());
        // What the views are of is mirrored as ever.
        let mut client = client(&tandem, keyspace);
        client.run(LATE);
        client.run("UPDATE plain SET v = 100 WHERE k = 1");
        tandem.nothing_set_aside().await;
        assert_eq!(Cql::of(target, keyspace).rows("SELECT v FROM plain WHERE k = 1"), ["100"]);
        assert_eq!(views_missing(&tandem, keyspace).len(), VIEWS.len() + 1);
        assert!(tandem.log().contains("refuses a materialized view that a client made"), "{}", tandem.log());
    }
}
