//! Clusters of which a node hangs, and clusters of two datacenters.

use std::collections::{BTreeMap, BTreeSet};

use super::scripted::{Scripted, hurry};
use super::*;

const MOMENT: Duration = Duration::from_millis(100);

/// Its connections stay open.
async fn hang(nodes: &Scripted, cluster: &Cluster, node: usize) {
    nodes.node(node).hangs = true;
    while !cluster.is_down(&nodes.address(node)) {
        sleep(MOMENT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_node_that_hangs_while_others_serve_however_long_it_does() {
    hurry();
    let nodes = Scripted::start(3, &[]).await;
    let cluster = nodes.enter(Settings::default(), Side::Target).await;
    hang(&nodes, &cluster, 2).await;
    // From here on its silence is known by nothing but attempts to reach it.
    sleep(DOWN).await;
    let over = Instant::now() + Duration::from_secs(30);
    let mut longest = Duration::ZERO;
    while Instant::now() < over {
        let asked = Instant::now();
        let client = cluster.client().await.expect("others serve");
        longest = longest.max(asked.elapsed());
        assert_ne!(*client.address(), nodes.address(2));
        sleep(MOMENT).await;
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn replicas_that_were_away_are_asked_again_by_a_clock_that_nobody_sets() {
    hurry();
    let nodes = Scripted::start(1, &[]).await;
    let cluster = nodes.enter(Settings::default(), Side::Target).await;
    assert!(cluster.has_all_replicas());
    cluster.replicas_are_away();
    assert!(!cluster.has_all_replicas());
    sleep(AWAY + MOMENT).await;
    assert!(cluster.has_all_replicas());
}

/// Clients would be taken there in between, and wait.
#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_reached_is_tried_last_until_it_can_be() {
    hurry();
    for connect_timeout in [3, 10].map(Duration::from_secs) {
        let nodes = Scripted::start(2, &[]).await;
        nodes.node(1).hangs = true;
        let cluster = nodes.enter(Settings { connect_timeout, ..Settings::default() }, Side::Target).await;
        let over = Instant::now() + Duration::from_secs(40);
        while Instant::now() < over {
            assert!(cluster.is_down(&nodes.address(1)), "{:?} before the end", over - Instant::now());
            assert_eq!(cluster.pick(), nodes.address(0));
            sleep(MOMENT).await;
        }
        nodes.node(1).hangs = false;
        while cluster.is_down(&nodes.address(1)) {
            sleep(MOMENT).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_nodes_that_are_not_connected_to_who_is_being_tried_is_waited_for_last() {
    hurry();
    let nodes = Scripted::start(3, &[]).await;
    let cluster = nodes.enter(Settings::default(), Side::Target).await;
    let inner = &cluster.inner;
    lock(&inner.clients).clear();
    nodes.node(1).hangs = true;
    let hung = nodes.address(1);
    let tried = inner.client_of(&hung);
    let others = async {
        for _ in 0..6 {
            let asked = Instant::now();
            lock(&inner.clients).retain(|address, _| *address == hung);
            inner.client().await.expect("others serve");
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        }
    };
    let (tried, ()) = tokio::join!(tried, others);
    tried.expect_err("it hangs");
}

/// Nodes 0 and 1 are in the west, 2 and 3 in the east.
async fn two_datacenters() -> Scripted {
    let nodes = Scripted::start(4, &[]).await;
    for node in 0..4 {
        nodes.node(node).datacenter = if node < 2 { "west" } else { "east" };
    }
    nodes
}

async fn enter(nodes: &Scripted, contacts: &[usize], datacenter: Option<&str>) -> Result<Cluster, Error> {
    let contacts: Vec<Address> = contacts.iter().map(|node| nodes.address(*node)).collect();
    Cluster::enter(&contacts, datacenter, Settings::default(), Side::Target).await
}

/// The nodes that clients and the mirror are taken to.
fn picked(nodes: &Scripted, cluster: &Cluster) -> BTreeSet<usize> {
    let picked: Vec<Address> = (0..8).map(|_| cluster.pick()).collect();
    (0..4).filter(|node| picked.contains(&nodes.address(*node))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_contact_point_elsewhere_says_which_nodes_there_are_and_serves_nobody() {
    hurry();
    let nodes = two_datacenters().await;
    let cluster = enter(&nodes, &[0], Some("east")).await.expect("it leads to the others");
    assert_eq!(cluster.facts().data_center, "east");
    assert_eq!(picked(&nodes, &cluster), BTreeSet::from([2, 3]));
    for node in [2, 3] {
        nodes.node(node).is_closed = true;
        cluster.inner.shunned.shun(nodes.address(node), DOWN);
    }
    lock(&cluster.inner.clients).clear();
    assert_eq!(picked(&nodes, &cluster), BTreeSet::from([2, 3]), "whoever is down");
    let said = cluster.client().await.expect_err("the others are elsewhere").to_string();
    assert!(said.starts_with("no node of datacenter east can be reached: cannot connect to 127.0.0.1:"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_whose_datacenter_is_away_is_not_entered_elsewhere() {
    hurry();
    let nodes = two_datacenters().await;
    [2, 3].into_iter().for_each(|node| nodes.node(node).is_closed = true);
    let said = enter(&nodes, &[0, 3, 1], Some("east")).await.expect_err("its nodes are away").to_string();
    assert!(said.starts_with("no node of datacenter east can be reached: cannot connect to 127.0.0.1:"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_datacenter_that_is_none_of_the_clusters_is_refused_with_those_that_are() {
    hurry();
    let nodes = two_datacenters().await;
    nodes.node(1).is_closed = true;
    let said = enter(&nodes, &[0, 1], Some("eats")).await.expect_err("there is none").to_string();
    assert_eq!(said, "the cluster has no datacenter eats; it has: east, west");
}

#[tokio::test(start_paused = true)]
async fn without_a_configured_datacenter_that_of_the_first_node_is_used_also_when_it_is_away() {
    hurry();
    let nodes = two_datacenters().await;
    let cluster = enter(&nodes, &[0, 2], None).await.expect("it can be reached");
    assert_eq!(picked(&nodes, &cluster), BTreeSet::from([0, 1]));
    for node in [0, 1] {
        hang(&nodes, &cluster, node).await;
    }
    // Those who look for nodes come to the other contact point many times meanwhile.
    sleep(3 * DOWN).await;
    assert_eq!(picked(&nodes, &cluster), BTreeSet::from([0, 1]));
    nodes.node(1).hangs = false;
    while cluster.client().await.is_err() {
        sleep(MOMENT).await;
    }
    assert_eq!(cluster.facts().data_center, "west");
}

#[tokio::test(start_paused = true)]
async fn nodes_elsewhere_count_for_agreement_while_they_can_be_reached_and_not_when_they_are_down() {
    hurry();
    let nodes = two_datacenters().await;
    let cluster = enter(&nodes, &[2], Some("east")).await.expect("it can be reached");
    let change = |node: usize| nodes.node(node).tables = BTreeMap::from([("t", vec!["k"])]);
    [1, 2, 3].into_iter().for_each(change);
    let said = cluster.agreed().await.expect_err("a node that is up lacks the table").to_string();
    let expected = format!("its nodes do not agree on one schema: {} in west has another than ", nodes.address(0));
    assert!(said.starts_with(&expected), "{said}");
    // It went down while nobody listened, and for good.
    nodes.node(0).is_closed = true;
    lock(&cluster.inner.clients).clear();
    let over = Instant::now() + 3 * DOWN;
    while Instant::now() < over {
        let asked = Instant::now();
        cluster.agreed().await.expect("those that are up agree");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        sleep(10 * MOMENT).await;
    }
    assert!(cluster.tables().table("k", "t").is_some());
    nodes.node(0).is_closed = false;
    cluster.inner.shunned.forgive(&nodes.address(0));
    cluster.agreed().await.expect_err("it is up, and lacks the table");
    change(0);
    cluster.agreed().await.expect("all have it");
}
