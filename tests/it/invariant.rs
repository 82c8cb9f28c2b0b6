//! The secondary is at every moment a state that the primary had: seen from outside, under load. Each transfer of TPC-B
//! adds the same amount to an account, a teller, a branch and the history, so their sums agree in every state of the
//! primary; they must agree in every reading of the target, too.

use std::process::{Child, Stdio};

use crate::support::bank::{TABLES, bank, pgbench};
use crate::support::connect;

/// Transfers of each of the four clients.
const TRANSFERS: u32 = 400;
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
    (SELECT count(*) FROM pgbench_history)";

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn sums_agree_in_every_reading(mode: &str) {
    let stage = bank("").await;
    let transfers = TRANSFERS.to_string();
    let args = ["-n", "-c", "4", "-j", "2", "-M", mode, "-t", &transfers];
    let mut pgbench = pgbench(&stage, stage.tandem.port, &args);
    let mut running =
        Running(pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench is installed"));
    let reader = connect(&stage.target.url("postgres")).await;
    let (mut seen, mut last) = (0, 0);
    let mut done = None;
    while done.is_none() {
        done = running.0.try_wait().expect("it is ours");
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.expect("the target answers");
        let row = reader.query_one(SUMS, &[]).await.expect("the target answers");
        reader.batch_execute("COMMIT").await.expect("the target answers");
        let [accounts, tellers, branches, history, count]: [i64; 5] = std::array::from_fn(|at| row.get(at));
        assert_eq!([accounts, tellers, branches], [history; 3], "after {count} transfers");
        assert!(count >= last, "the secondary went backward, from {last} to {count} transfers");
        seen += u32::from(count > last);
        last = count;
    }
    assert!(done.is_some_and(|status| status.success()), "{}", stage.tandem.log());
    assert!(seen > 3, "the target moved {seen} times while it was watched");
    stage.assert_equal(TABLES).await;
    let count: i64 = reader.query_one("SELECT count(*) FROM pgbench_history", &[]).await.expect("it answers").get(0);
    assert_eq!(count, i64::from(4 * TRANSFERS));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_of_the_target_is_a_state_of_the_primary_simple_protocol() {
    sums_agree_in_every_reading("simple").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_of_the_target_is_a_state_of_the_primary_prepared_statements() {
    sums_agree_in_every_reading("prepared").await;
}
