//! A switch whose flip cannot be written: the moment in which everything is ready for the other side, and nothing may be
//! done there.

use serde_json::json;

use crate::support::stage::Stage;
use crate::support::{connect, load};

/// Clients at work.
const CLIENTS: u32 = 6;
/// Units before, between and after what happens.
const UNITS: u64 = 100;

/// Clients are held, or the walk is over.
async fn until_fenced(stage: &Stage) {
    let client = stage.tandem.client();
    loop {
        let report = client.get("/v1/switch").await.expect("it answers");
        if report["number"] != 0 && report["phase"] != "preparing" {
            return;
        }
    }
}

/// Clients begin again on the old primary at once, while the mirror back is already there.
#[tokio::test(flavor = "multi_thread")]
async fn a_flip_that_cannot_be_written_leaves_the_old_primary_and_all_its_writes_promise_10() {
    // The load may make the mirror late: that is not what is played here.
    let stage = Stage::new(load::SCHEMA, "[cutover]\nmax_lag = \"30s\"\n", &[]).await;
    let slow = connect(&stage.url()).await;
    let load = stage.load(CLIENTS);
    load.more(UNITS).await;
    // It keeps the walk before its flip until the disk is as it shall be.
    slow.batch_execute("BEGIN; SELECT").await.expect("begun");
    let request = json!({"to": "target", "max_hold_ms": 20_000});
    let in_the_way = stage.tandem.dir().join("tandem-data/switch-control.new");
    let hindered = async {
        until_fenced(&stage).await;
        std::fs::create_dir(&in_the_way).expect("made");
        slow.batch_execute("COMMIT").await.expect("the transaction ends");
    };
    let (ended, ()) = tokio::join!(stage.ask_switch(&request), hindered);
    assert_eq!((&ended["end"], &ended["phase"]), (&json!("aborted"), &json!("flipping")), "{ended:#}");
    load.more(UNITS).await;
    std::fs::remove_dir(&in_the_way).expect("ours");
    stage.steady().await;
    load.more(UNITS).await;
    let done = load.stop().await;
    stage.assert_kept(&done).await;
}
