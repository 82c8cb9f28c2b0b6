//! Clusters of which a node hangs.

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
