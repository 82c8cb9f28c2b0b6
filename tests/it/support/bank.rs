//! pgbench and its tables.

use std::process::{Command, Stdio};

use super::connect;
use super::stage::Stage;

/// The tables of pgbench.
pub(crate) const TABLES: &[&str] = &["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"];

/// Both sides as `pgbench -i` leaves them, but the history has a key. `more` is added to proxy.toml.
pub(crate) async fn bank(more: &str) -> Stage {
    let mut stage = Stage::new("SELECT 1", more, &[]).await;
    stage.tandem.kill();
    for server in [&stage.origin, &stage.target] {
        let mut init = pgbench(&stage, server.port(), &["-i", "-I", "dtgp", "-q"]);
        assert!(init.stderr(Stdio::null()).status().expect("pgbench is installed").success());
        let key = "ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY";
        connect(&server.url("postgres")).await.batch_execute(key).await.expect("a key");
    }
    stage.tandem.launch().await;
    stage
}

/// The origin's pgbench, as it is, on the server at `port`.
pub(crate) fn pgbench(stage: &Stage, port: u16, args: &[&str]) -> Command {
    let mut command = Command::new(stage.origin.installation().bin.join("pgbench"));
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]).args(args).arg("postgres");
    command.stdin(Stdio::null());
    command
}
