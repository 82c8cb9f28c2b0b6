//! The demo's servers and tandem itself, as processes that can be killed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::admin::client::Client as Admin;
use crate::protocol::postgres::client::{Client, Error, ServerConfig};
use crate::sandbox::{self, Options, Postgres, Sandbox, Stop, binaries, free_port};

/// Who the clients are, on both sides.
const USER: &str = "postgres";
/// Longest time for tandem to start.
const READY: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Everything that plays. Dropped, all of it is gone.
pub(super) struct Stage {
    tandem: Option<Child>,
    origin: Postgres,
    target: Postgres,
    sandbox: Sandbox,
    keep: bool,
    port: u16,
    admin_port: u16,
}

impl From<sandbox::Error> for Failure {
    fn from(error: sandbox::Error) -> Failure {
        Failure::Unreachable(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Unreachable(error.to_string())
    }
}

impl Stage {
    /// Start two servers, of the oldest and the newest version there is. Blocks.
    pub(super) fn build(keep: bool) -> Result<Stage, Failure> {
        let (old, new) = binaries::oldest_and_newest()?;
        let sandbox = Sandbox::new(keep)?;
        let stage = Stage {
            tandem: None,
            origin: Postgres::start_new(&sandbox, &old, "origin", &Options::default())?,
            target: Postgres::start_new(&sandbox, &new, "target", &Options::default())?,
            port: free_port(),
            admin_port: free_port(),
            sandbox,
            keep,
        };
        std::fs::write(stage.config_file(), stage.config()).map_err(|error| Failure::Unreachable(error.to_string()))?;
        Ok(stage)
    }

    /// What plays, for people.
    pub(super) fn describe(&self) -> String {
        let kept = if self.keep { format!("\nfiles stay in {}", self.sandbox.dir().display()) } else { String::new() };
        format!(
            "origin: PostgreSQL {}, target: PostgreSQL {}, tandem on port {}, admin API on port {}{kept}",
            self.origin.installation().version,
            self.target.installation().version,
            self.port,
            self.admin_port,
        )
    }

    fn config(&self) -> String {
        format!(
            "[[listen]]\nwire = \"postgres\"\naddress = \"127.0.0.1:{}\"\n\n[origin]\nurl = \"{}\"\n\n\
             [target]\nurl = \"{}\"\n\n[[users]]\nname = \"{USER}\"\n\n[journal]\ndir = \"{}\"\n\n[admin]\naddress = \"127.0.0.1:{}\"\n",
            self.port,
            self.origin.url("app"),
            self.target.url("app"),
            self.sandbox.dir().join("journal").display(),
            self.admin_port,
        )
    }

    fn config_file(&self) -> PathBuf {
        self.sandbox.dir().join("proxy.toml")
    }

    /// Start tandem and wait until it serves clients.
    pub(super) async fn start_tandem(&mut self) -> Result<(), Failure> {
        let refused = |error: std::io::Error| Failure::Unreachable(format!("tandem does not start: {error}"));
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(refused)?;
        let program = std::env::current_exe().map_err(refused)?;
        // A group of its own: Ctrl-C ends the demo, and the demo ends tandem.
        let mut command = Command::new(program);
        command.args(["run", "--config"]).arg(self.config_file()).process_group(0).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(refused)?;
        self.sandbox.remember(child.id())?;
        self.tandem = Some(child);
        let admin = self.admin()?;
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            if admin.get("/v1/status").await.is_ok_and(|status| status["readiness"] == "ready") {
                return Ok(());
            }
            if self.tandem.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                break;
            }
            sleep(LOOK).await;
        }
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        Err(Failure::Unreachable(format!("tandem does not start: {}", last.join(" | "))))
    }

    fn log_file(&self) -> PathBuf {
        self.sandbox.dir().join("tandem.log")
    }

    /// SIGKILL.
    pub(super) fn kill_tandem(&mut self) {
        if let Some(mut child) = self.tandem.take() {
            let _ = child.kill();
            let _ = child.wait();
            self.sandbox.forget(child.id());
        }
    }

    /// The comparison needs nobody to write: the end is a kill, too.
    pub(super) fn end_tandem(&mut self) {
        self.kill_tandem();
    }

    pub(super) fn kill_target(&mut self) -> Result<(), Failure> {
        Ok(self.target.stop(Stop::Kill)?)
    }

    pub(super) fn revive_target(&mut self) -> Result<(), Failure> {
        Ok(self.target.start()?)
    }

    /// Wait until tandem says that the target has everything.
    pub(super) async fn settle(&self, patience: Duration) -> Result<(), Failure> {
        let admin = self.admin()?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if admin.get("/v1/status").await.is_ok_and(|status| is_settled(&status)) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Ok(()) // The comparison says what is missing.
    }

    pub(super) fn admin(&self) -> Result<Admin, Failure> {
        Ok(Admin::new(&format!("http://127.0.0.1:{}", self.admin_port), None)?)
    }

    pub(super) fn origin_config(&self) -> Result<ServerConfig, Failure> {
        config(&self.origin.url("app"))
    }

    pub(super) fn target_config(&self) -> Result<ServerConfig, Failure> {
        config(&self.target.url("app"))
    }

    pub(super) fn proxy_config(&self) -> Result<ServerConfig, Failure> {
        config(&format!("postgres://{USER}@127.0.0.1:{}/app", self.port))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill_tandem();
    }
}

/// How far the target is behind.
pub(super) fn lag_ms(status: &Value) -> Option<u64> {
    let seconds = status.pointer("/mirror/lag_seconds")?.as_f64()?;
    Some((seconds * 1_000.0) as u64)
}

/// Without a mirror there is nothing to wait for.
fn is_settled(status: &Value) -> bool {
    if status["mirror"].is_null() {
        return true;
    }
    let zero = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64) == Some(0);
    zero("/mirror/lag_records") && zero("/mirror/lag_keys")
}

fn config(url: &str) -> Result<ServerConfig, Failure> {
    url.parse().map_err(|error| Failure::Usage(format!("{error}")))
}

/// A connection.
pub(super) async fn reach(config: &ServerConfig) -> Result<Client, Failure> {
    Ok(Client::connect(config).await?)
}
