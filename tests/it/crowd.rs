//! Hundreds of clients on few rows.

use tokio::task::JoinSet;

use crate::support::connect;
use crate::support::stage::Stage;

/// Clients at once; each has a backend on the origin (`max_connections` of the sandbox is 400).
const CLIENTS: u32 = 200;
/// Units of each.
const UNITS: u32 = 6;
const SCHEMA: &str = "CREATE TABLE few (id int PRIMARY KEY, n bigint NOT NULL, who int);
    INSERT INTO few SELECT id, 0 FROM generate_series(1, 5) id;
    CREATE TABLE log (id bigserial PRIMARY KEY, who int NOT NULL);";

/// One client: every second unit in autocommit, the others transactions over two rows, taken in one order.
async fn work(url: String, who: u32) {
    let client = connect(&url).await;
    for unit in 0..UNITS {
        let (first, second) = (1 + (who + unit) % 4, 5);
        if unit % 2 == 0 {
            let sql = format!("UPDATE few SET n = n + 1, who = {who} WHERE id = {first}");
            client.batch_execute(&sql).await.expect("one update");
            continue;
        }
        client.batch_execute("BEGIN").await.expect("BEGIN");
        for id in [first, second] {
            let sql = "UPDATE few SET n = n + 1, who = $2 WHERE id = $1";
            client.execute(sql, &[&(id as i32), &(who as i32)]).await.expect("an update of two");
        }
        client.execute("INSERT INTO log (who) VALUES ($1)", &[&(who as i32)]).await.expect("an insert");
        let end = if who.is_multiple_of(5) { "ROLLBACK" } else { "COMMIT" };
        client.batch_execute(end).await.expect(end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_clients_on_few_rows_leave_both_sides_equal() {
    let stage = Stage::new(SCHEMA, "", &[]).await;
    let mut crowd = JoinSet::new();
    (0..CLIENTS).for_each(|who| drop(crowd.spawn(work(stage.url(), who))));
    while let Some(done) = crowd.join_next().await {
        done.expect("a client is served");
    }
    stage.assert_equal(&["few", "log"]).await;
    let counts =
        crate::support::rows(&stage.target.url("postgres"), "SELECT sum(n), (SELECT count(*) FROM log) FROM few").await;
    let (alone, pairs) = (CLIENTS * UNITS / 2, CLIENTS * 4 / 5 * UNITS / 2);
    assert_eq!(counts, [format!("{}|{pairs}", alone + 2 * pairs)]);
}
