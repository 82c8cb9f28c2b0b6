//! pgbench unchanged through tandem, in each of its query modes: no transaction fails, nothing is set aside, and both sides end
//! equal.

use crate::support::bank::{TABLES, bank, pgbench};
use crate::support::sql;

/// Of each of the four clients, in each mode.
const TRANSACTIONS: &str = "150";

const SCRIPT: &str = "
\\set aid random(1, 100)
\\set n random(1, 1000000)
BEGIN;
INSERT INTO marks VALUES (:aid, :n) ON CONFLICT (aid) DO UPDATE SET n = marks.n + EXCLUDED.n;
DELETE FROM marks WHERE aid = :aid - 1 AND n % 3 = 0;
INSERT INTO log (aid) SELECT aid FROM marks WHERE aid = :aid RETURNING id;
UPDATE log SET seen = seen + 1 WHERE aid = :aid;
END;
SELECT count(*) FROM log WHERE aid = :aid;
";
const SCHEMA: &str = "CREATE TABLE marks (aid int PRIMARY KEY, n bigint); CREATE TABLE log (id bigserial PRIMARY KEY, aid int, seen int DEFAULT 0)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_runs_in_every_mode_and_leaves_nothing_dirty() {
    let stage = bank("[mirror]\nself_repair = false").await;
    sql(&stage.url(), SCHEMA).await;
    let script = stage.tandem.dir().join("script.sql");
    std::fs::write(&script, SCRIPT).expect("written");
    let script = format!("{}@1", script.display());
    for mode in ["simple", "extended", "prepared"] {
        let args = ["-n", "-c", "4", "-j", "2", "-M", mode, "-t", TRANSACTIONS];
        let scripts = ["-b", "tpcb-like@2", "-b", "select-only@1", "-f", &script];
        let mut pgbench = pgbench(&stage, stage.tandem.port, &[&args[..], &scripts].concat());
        let output = tokio::task::spawn_blocking(move || pgbench.output().expect("pgbench is installed"));
        let output = output.await.expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{mode}: {said}\n{complained}\n{}", stage.tandem.log());
        assert!(said.contains("number of transactions actually processed: 600/600"), "{mode}: {said}");
        assert!(!said.contains("failed transactions") || said.contains("failed transactions: 0 "), "{mode}: {said}");
        stage.tandem.nothing_set_aside().await;
    }
    stage.assert_equal(&[TABLES, &["marks", "log"]].concat()).await;
}
