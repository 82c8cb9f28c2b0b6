//! Which sides a start takes.

use super::*;
use crate::cutover::gate::Route;
use crate::protocol::cql::cluster::scripted::{Scripted, hurry};

fn config(origin: &client::Address, target: &client::Address, dir: &std::path::Path) -> Config {
    let text = format!(
        "[[listen]]\nwire = \"cql\"\naddress = \"127.0.0.1:0\"\n[origin]\nurl = \"cql://{origin}\"\n[target]\nurl = \"cql://{target}\"\n\
         [journal]\ndir = \"{}\"\n",
        dir.display(),
    );
    Config::from_text("proxy.toml", &text, []).expect("valid")
}

async fn start(config: &Config, sides: Sides, tasks: &TaskTracker) -> Result<Setup, Error> {
    let gate = Gate::new(Route { primary: Side::Origin, mirror: false, epoch: 1 });
    Setup::over(sides, config, gate, None, (CancellationToken::new(), tasks.clone())).await
}

#[tokio::test(start_paused = true)]
async fn one_cluster_under_two_names_is_refused() {
    hurry();
    let cluster = Scripted::start(2, &[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&cluster.address(0), &cluster.address(1), folder.path());
    let refused = start(&config, Sides::default(), &TaskTracker::new()).await.map(drop);
    assert!(matches!(refused, Err(Error::OneCluster(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_side_that_was_away_and_comes_back_as_the_other_one_is_not_used() {
    hurry();
    let (cluster, other) = (Scripted::start(2, &[]).await, Scripted::start(1, &[]).await);
    let folder = tempfile::tempdir().expect("a folder");
    let first = config(&cluster.address(0), &other.address(0), folder.path());
    start(&first, Sides::default(), &TaskTracker::new()).await.expect("they are two");
    cluster.node(1).is_closed = true;
    let config = config(&cluster.address(0), &cluster.address(1), folder.path());
    let sides = Sides::default();
    start(&config, sides.clone(), &TaskTracker::new()).await.expect("one may be away");
    cluster.node(1).is_closed = false;
    while !sides.why_away(Side::Target).contains("one and the same cluster") {
        sleep(AGAIN).await;
    }
    assert!(sides.get(Side::Target).is_none());
}
