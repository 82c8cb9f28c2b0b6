//! What tandem knows of real clusters, and its own connections to them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tandem::protocol::cql::ballot::row_key;
use tandem::protocol::cql::client::{Address, Client, Settings};
use tandem::protocol::cql::cluster::{Cluster, token};
use tandem::protocol::cql::text::schema::{Cells, Role};
use tandem::protocol::cql::wire::Version;
use tandem::protocol::cql::wire::primitive::{Consistency, Value};
use tandem::protocol::cql::wire::request::{BatchKind, Parameters, Values};
use tandem::record::Side;
use tandem::sandbox::cassandra::{Node, Options, Stop};
use tokio::time::{sleep, timeout};

use crate::support::cassandra::{cluster, make_keyspace, pair_with, versions};
use crate::support::cql::Cql;

fn address(node: &Node) -> Address {
    Address { host: node.address().ip().to_string(), port: node.address().port() }
}

async fn known(node: &Node) -> Arc<Cluster> {
    let cluster = Cluster::enter(&[address(node)], None, Settings::default(), Side::Target).await;
    Arc::new(cluster.expect("it can be reached"))
}

fn one() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_says_what_it_is_and_what_it_has() {
    for node in pair_with("known") {
        let mut cql = Cql::of(node, "known");
        cql.run(
            "CREATE TABLE t (a int, b text, c bigint, s int static, l list<int>, m map<int, int>, f frozen<list<int>>, \
                 PRIMARY KEY ((a, b), c)) WITH gc_grace_seconds = 0 AND default_time_to_live = 60",
        );
        let cluster = known(node).await;
        assert_eq!(cluster.release(), node.distribution().version);
        assert_eq!(cluster.dialect().snake_case, cluster.release().starts_with('5'));
        assert_eq!(cluster.pick(), address(node));
        assert_eq!(cluster.hosts().len(), 1);
        assert_eq!(cluster.zones().await.len(), 1, "it says its time zone");
        assert!(cluster.masked().await.expect("it is asked").is_empty());
        let tables = cluster.tables();
        let table = tables.table("known", "t").expect("it is there");
        assert_eq!((table.gc_grace_seconds, table.default_ttl), (0, 60));
        let columns: Vec<(&str, Role, Cells)> =
            table.shape.columns().iter().map(|column| (column.name.as_str(), column.role, column.cells)).collect();
        let expected = [
            ("a", Role::Partition(0), Cells::One),
            ("b", Role::Partition(1), Cells::One),
            ("c", Role::Clustering(0), Cells::One),
            ("s", Role::Static, Cells::One),
            ("f", Role::Regular, Cells::One),
            ("l", Role::Regular, Cells::List),
            ("m", Role::Regular, Cells::Elements),
        ];
        assert_eq!(columns, expected);
        assert!(tables.table("system", "local").is_none(), "what is the node's own is not mirrored");
        let offset = cluster.clock(&address(node)).expect("it was asked");
        // Both clocks are this machine's.
        assert!(offset.least <= 0 && 0 <= offset.most, "{offset:?}");
        assert!(cluster.behind() >= 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_schema_is_seen_by_itself_and_at_once_by_who_asks() {
    for node in pair_with("seen") {
        let cluster = known(node).await;
        let mut epochs = cluster.epochs();
        let mut cql = Cql::of(node, "seen");
        cql.run("CREATE TABLE one (k int PRIMARY KEY)");
        let told = async {
            while cluster.tables().table("seen", "one").is_none() {
                epochs.changed().await.expect("it is looked at");
            }
        };
        timeout(Duration::from_secs(60), told).await.expect("an event came");
        let id = cluster.tables().table("seen", "one").expect("it is there").id;
        cql.run("DROP TABLE one");
        cql.run("CREATE TABLE one (k int PRIMARY KEY, v int)");
        cluster.refresh().await;
        let again = cluster.tables().table("seen", "one").cloned().expect("it is there again");
        assert!(again.id != id && again.shape.column("v").is_some());
        cluster.agreed().await.expect("all have it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_found_again() {
    let mut nodes = cluster(&versions().0, 1, &Options::default());
    make_keyspace(&nodes.nodes[0], "k", 1);
    let cluster = known(&nodes.nodes[0]).await;
    let client = cluster.client().await.expect("connected");
    nodes.nodes[0].stop(Stop::Kill).expect("killed");
    client.lost().await;
    cluster.connect_raw().await.expect_err("nobody is there");
    cluster.refresh().await;
    nodes.nodes[0].start().expect("it comes back");
    Cql::of(&nodes.nodes[0], "k").run("CREATE TABLE t (k int PRIMARY KEY)");
    let seen = async {
        while cluster.tables().table("k", "t").is_none() {
            cluster.refresh().await;
        }
    };
    timeout(Duration::from_secs(60), seen).await.expect("it is looked at again");
    cluster.connect_raw().await.expect("it is there");
    cluster.client().await.expect("connected").query("SELECT k FROM k.t", &one()).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_found_by_one_and_one_that_is_down_is_tried_last() {
    let mut nodes = cluster(&versions().1, 2, &Options::default());
    let cluster = known(&nodes.nodes[0]).await;
    let both: HashSet<Address> = nodes.nodes.iter().map(address).collect();
    // A node knows of another one before it knows where that one serves clients.
    let found = async {
        while cluster.hosts().iter().map(|host| host.address.clone()).collect::<HashSet<_>>() != both {
            cluster.refresh().await;
        }
    };
    timeout(Duration::from_secs(60), found).await.expect("each is found");
    let picked: HashSet<Address> = [cluster.pick(), cluster.pick()].into();
    assert_eq!(picked.len(), 2, "in turns");
    let (first, second) = (address(&nodes.nodes[0]), address(&nodes.nodes[1]));
    cluster.client_of(&second).await.expect("connected");
    nodes.nodes[1].stop(Stop::Kill).expect("killed");
    let _ = cluster.connect_raw_to(&second).await.expect_err("it is down");
    // What the other node says of it may come late: that it is up, too.
    let last = async {
        while [cluster.pick(), cluster.pick(), cluster.pick()].iter().any(|picked| *picked != first) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), last).await.expect("it is tried last");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_spoken_and_statements_survive_what_evicts_them() {
    for node in pair_with("spoken_by_us") {
        let mut cql = Cql::of(node, "spoken_by_us");
        cql.run("CREATE TABLE t (k int PRIMARY KEY, v text)");
        for version in Version::ALL {
            let client = Client::connect_with(&Settings::default(), &address(node), version, None).await.expect("in");
            assert_eq!(client.version(), version);
            let k = (version as i32).to_be_bytes();
            let long = "tandem".repeat(40_000);
            let values = [(None, Value::Set(&k)), (None, Value::Set(long.as_bytes()))];
            let parameters = Parameters { values: Some(Values::Given(&values)), ..one() };
            let insert =
                client.prepare("INSERT INTO spoken_by_us.t (k, v) VALUES (?, ?)", None).await.expect("prepared");
            assert_eq!(insert.markers.len(), 2);
            client.execute(&insert, &parameters).await.expect("written");
            cql.run(&format!("ALTER TABLE t ADD v{} int", version as u8));
            client.execute(&insert, &parameters).await.expect("prepared again, and written");
            let member = tandem::protocol::cql::client::Member {
                text: tandem::protocol::cql::client::MemberText::Prepared(&insert),
                values: Values::Given(&values),
            };
            client.batch(BatchKind::Logged, &[member], &one()).await.expect("written");
            let rows = client.pages("SELECT v FROM spoken_by_us.t", &Parameters { page_size: Some(1), ..one() }).await;
            let rows = rows.expect("read");
            let count: usize = rows.iter().map(|page| page.rows().expect("rows").len()).sum();
            assert_eq!(count, version as usize - 2);
        }
        let client = Client::connect(&Settings::default(), &address(node)).await.expect("in");
        let error = client.query("SELECT nothing FROM spoken_by_us.t", &one()).await.expect_err("refused");
        assert_eq!(error.code(), Some(0x2200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_a_connection() {
    let [node, _] = pair_with("shared");
    Cql::of(node, "shared").run("CREATE TABLE t (k int PRIMARY KEY, v int)");
    let client = Client::connect(&Settings::default(), &address(node)).await.expect("in");
    let insert = client.prepare("INSERT INTO shared.t (k, v) VALUES (?, ?)", None).await.expect("prepared");
    let write = async |k: i32| {
        let k = k.to_be_bytes();
        let values = [(None, Value::Set(&k[..])), (None, Value::Set(&k[..]))];
        let parameters = Parameters { values: Some(Values::Given(&values)), ..one() };
        client.execute(&insert, &parameters).await
    };
    let written = futures_util::future::join_all((0..3_000).map(write)).await;
    assert!(written.iter().all(Result::is_ok));
    let answer = client.query("SELECT count(*) FROM shared.t", &one()).await.expect("read");
    let cell = answer.row().expect("rows").and_then(|row| row.get(0).flatten()).expect("a count");
    assert_eq!(cell, 3_000_i64.to_be_bytes());
}

/// Keys whose hashes are the least number there is, which no token may be, and its neighbours.
const EDGES: [&str; 4] = [
    "0407747c8ae70b7f542c82e6fda37a5a",
    "b90feda453ae8bf01af599afdd852c18",
    "b7a5d1afcfbfa49dab200104e897e3a6",
    "7892b8c173924a0bbe96aa099d7c8c1a",
];
/// Types that a key may have (none is a duration), and two values of each.
const KINDS: [(&str, &str, &str); 20] = [
    ("ascii", "'a'", "''"),
    ("bigint", "-9223372036854775808", "1"),
    ("blob", "0x", "0xff80"),
    ("boolean", "true", "false"),
    ("date", "'0001-01-01'", "'2024-02-29'"),
    ("decimal", "-1.50", "1e40"),
    ("double", "-0.0", "1.5"),
    ("float", "NaN", "-1"),
    ("inet", "'::1'", "'127.0.0.1'"),
    ("int", "-1", "2147483647"),
    ("smallint", "-32768", "7"),
    ("text", "''", "'\u{1f980}'"),
    ("time", "'23:59:59.999999999'", "'00:00:00'"),
    ("timestamp", "-1", "253402300799999"),
    ("timeuuid", "c232ab00-9414-11ec-b3c8-9f6bdeced846", "00000000-0000-1000-8080-808080808080"),
    ("tinyint", "-128", "0"),
    ("uuid", "ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"),
    ("varint", "-170141183460469231731687303715884105729", "0"),
    ("frozen<map<text, frozen<list<int>>>>", "{}", "{'a': [1, -1]}"),
    ("frozen<tuple<int, text, blob>>", "(null, '', 0x)", "(-1, 'a', null)"),
];

#[test]
fn keys_have_the_tokens_that_servers_give_them() {
    for node in pair_with("tokens") {
        let mut cql = Cql::of(node, "tokens");
        let mut kinds = KINDS.to_vec();
        if node.distribution().version.starts_with('5') {
            kinds.push(("vector<float, 3>", "[1, -2, 0]", "[0, 0, 0]"));
        }
        let columns: Vec<String> = kinds.iter().enumerate().map(|(at, (kind, ..))| format!("k{at} {kind}")).collect();
        let names = (0..kinds.len()).map(|at| format!("k{at}")).collect::<Vec<_>>().join(", ");
        cql.define("CREATE TABLE one (k blob PRIMARY KEY)");
        cql.define(&format!("CREATE TABLE every ({}, PRIMARY KEY (({names})))", columns.join(", ")));
        // The last block has every length, and bytes that are negative to Java.
        let lengths = (1..=34).map(|length| "f180007f".repeat(17)[..2 * length].to_owned());
        for key in lengths.chain(EDGES.map(str::to_owned)) {
            cql.run(&format!("INSERT INTO one (k) VALUES (0x{key})"));
        }
        let values = |value: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
            kinds.iter().map(value).collect::<Vec<_>>().join(", ")
        };
        for values in [values(|kind| kind.1), values(|kind| kind.2)] {
            cql.run(&format!("INSERT INTO every ({names}) VALUES ({values})"));
        }
        for (table, key, keys) in [("one", "k", 34 + EDGES.len()), ("every", &*names, 2)] {
            let found = cql.run(&format!("SELECT token({key}), {key} FROM {table}")).rows();
            assert_eq!(found.rows.len(), keys);
            for row in &found.rows {
                let cells: Vec<Vec<u8>> = row.iter().map(|cell| cell.clone().expect("a key is whole")).collect();
                let told = i64::from_be_bytes(cells[0][..].try_into().expect("a bigint"));
                assert_eq!(token(&row_key(&cells[1..]).expect("short")), told, "{:02x?}", &cells[1..]);
            }
        }
        let least = cql.rows(&format!("SELECT token(k) FROM one WHERE k = 0x{}", EDGES[0]));
        assert_eq!(least, [i64::MAX.to_string()], "the test's own key");
    }
}
