//! Units too large for memory: their keys are in the journal before they end, and nobody pays for them before that.

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Client, CopyInSink};

use crate::support::stage::Stage;
use crate::support::{connect, rows};

const SCHEMA: &str = "CREATE TABLE large (id bigint PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY);";
const TABLES: &[&str] = &["large", "other"];
/// Records of so many keys are more than the mirror keeps in memory.
const ROWS: std::ops::Range<i64> = 0..400_000;

/// Most of a COPY: it goes on.
async fn copy_most(client: &Client, first: i64) -> std::pin::Pin<Box<CopyInSink<Bytes>>> {
    let mut sink = Box::pin(client.copy_in("COPY large FROM STDIN").await.expect("it begins"));
    for chunk in ROWS.collect::<Vec<_>>().chunks(10_000) {
        let lines: String = chunk.iter().map(|id| format!("{}\tx\n", first + id)).collect();
        sink.send(Bytes::from(lines)).await.expect("the server reads");
    }
    sink
}

async fn paid_keys(stage: &Stage) -> u64 {
    let metrics = stage.tandem.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("tandem_mirror_paid_keys_total "));
    line.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_copy_is_in_nobodys_payment_before_it_ends_and_leaves_nothing_if_it_fails() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let client = connect(&stage.url()).await;
    let mut sink = copy_most(&client, 0).await;
    stage
        .tandem
        .status_is("most of it is in the journal", |status| status["mirror"]["lag_records"].as_u64() > Some(20))
        .await;
    for id in 0..3 {
        stage.write_arrives(id).await;
    }
    assert_eq!(paid_keys(&stage).await, 3, "of the COPY there is nothing to be seen");
    assert_eq!(sink.as_mut().finish().await.expect("it ends"), ROWS.end as u64);
    stage.assert_equal(TABLES).await;
    let paid = paid_keys(&stage).await;
    assert!(paid >= ROWS.end as u64, "{paid}");

    let sink = copy_most(&client, ROWS.end).await;
    stage.write_arrives(3).await;
    // Given up: the client says CopyFail.
    drop(sink);
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT count(*) FROM large").await, [ROWS.end.to_string()]);
    stage.tandem.settled().await;
    assert_eq!(paid_keys(&stage).await, paid + 1, "nothing of what was rolled back was looked for");
    stage.assert_equal(TABLES).await;
}
