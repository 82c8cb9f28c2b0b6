//! Tandem itself, as a process that can be killed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Failure;
use super::shadow::SAMPLE;
use crate::admin::client::Client as Admin;
use crate::config::Wire;
use crate::sandbox::{self, Sandbox, free_port};

/// Longest time for it to start.
const READY: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The process and its files. Dropped, it is gone.
pub(super) struct Tandem {
    child: Option<Child>,
    sandbox: Sandbox,
    /// Where clients connect to, on 127.0.0.1.
    pub(super) port: u16,
    /// Of the admin API.
    pub(super) admin_port: u16,
}

impl Tandem {
    /// Write its configuration; `servers` are the parts of it that name the origin, the target and their users.
    pub(super) fn new(sandbox: &Sandbox, wire: Wire, servers: &str) -> Result<Tandem, Failure> {
        let tandem = Tandem { child: None, sandbox: sandbox.clone(), port: free_port(), admin_port: free_port() };
        let config = format!(
            "[[listen]]\nwire = \"{wire}\"\naddress = \"127.0.0.1:{}\"\n\n{servers}\n\
             [shadow]\nsample = \"{SAMPLE}\"\n\n[journal]\ndir = \"{}\"\n\n[admin]\naddress = \"127.0.0.1:{}\"\n",
            tandem.port,
            sandbox.dir().join("journal").display(),
            tandem.admin_port,
        );
        std::fs::write(tandem.config_file(), config).map_err(|error| Failure::Unreachable(error.to_string()))?;
        Ok(tandem)
    }

    fn config_file(&self) -> PathBuf {
        self.sandbox.dir().join("proxy.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.sandbox.dir().join("tandem.log")
    }

    /// Start it and wait until it serves clients.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        self.spawn()?;
        let admin = self.admin()?;
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            if admin.get("/v1/status").await.is_ok_and(|status| status["readiness"] == "ready") {
                return Ok(());
            }
            if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                break;
            }
            sleep(LOOK).await;
        }
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        Err(Failure::Unreachable(format!("tandem does not start: {}", last.join(" | "))))
    }

    fn spawn(&mut self) -> Result<(), Failure> {
        let refused = |error: std::io::Error| Failure::Unreachable(format!("tandem does not start: {error}"));
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(refused)?;
        let program = std::env::current_exe().map_err(refused)?;
        let mut command = sandbox::tandem(program);
        // A group of its own: Ctrl-C ends the demo, and the demo ends tandem.
        command.args(["run", "--config"]).arg(self.config_file()).process_group(0).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(refused)?;
        self.sandbox.remember(child.id())?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            self.sandbox.forget(child.id());
        }
    }

    /// Wait until it says that the other side has everything, or patience is over: the comparison says what is missing.
    pub(super) async fn settle(&self, patience: Duration) -> Result<(), Failure> {
        let admin = self.admin()?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && !admin.get("/v1/status").await.is_ok_and(|status| is_settled(&status)) {
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn admin(&self) -> Result<Admin, Failure> {
        Ok(Admin::new(&format!("http://127.0.0.1:{}", self.admin_port), None)?)
    }
}

impl Drop for Tandem {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How far the other side is behind.
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
