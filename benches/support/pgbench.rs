//! PostgreSQL's own load generator.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tandem::sandbox::{Postgres, Sandbox, binaries};

use super::median;

/// Where the program is, and where its files go.
pub(crate) struct Pgbench {
    program: PathBuf,
    dir: PathBuf,
}

/// What clients do.
#[derive(Clone, Copy)]
pub(crate) enum Script<'a> {
    /// pgbench's `select-only`.
    Select,
    /// Its own language.
    Own(&'a str),
}

/// How much of it, and how.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) script: Script<'a>,
    /// `simple` or `prepared`.
    pub(crate) protocol: &'a str,
    pub(crate) clients: u32,
    pub(crate) seconds: u32,
    /// Measure each transaction, for a median.
    pub(crate) each: bool,
    /// Transactions a second; `None`: as many as go.
    pub(crate) rate: Option<u32>,
}

/// What it said.
pub(crate) struct Measured {
    pub(crate) transactions: u64,
    pub(crate) per_second: f64,
    /// Median with [`Load::each`], otherwise the mean.
    pub(crate) latency_us: f64,
    /// With [`Load::each`]; otherwise NaN.
    pub(crate) p99_us: f64,
}

impl Pgbench {
    pub(crate) fn find(sandbox: &Sandbox) -> Result<Pgbench> {
        let programs = binaries::installations()?.into_iter().map(|one| one.bin.join("pgbench"));
        let program = programs.into_iter().find(|path| path.is_file());
        let program = program.context("no PostgreSQL with pgbench: apt-get install postgresql")?;
        Ok(Pgbench { program, dir: sandbox.dir().to_owned() })
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]).arg(port.to_string());
        command
    }

    /// The tables of pgbench, filled.
    pub(crate) fn fill(&self, server: &Postgres, database: &str, scale: u32) -> Result<()> {
        let mut command = self.command(server.port());
        output(command.args(["-i", "-q", "-s"]).arg(scale.to_string()).arg(database)).map(drop)
    }

    pub(crate) fn run(&self, port: u16, database: &str, load: &Load<'_>) -> Result<Measured> {
        let mut command = self.command(port);
        command.args(["-n", "-M", load.protocol, "-T"]).arg(load.seconds.to_string());
        command.arg("-c").arg(load.clients.to_string()).arg("-j").arg(load.clients.min(2).to_string());
        let log = self.dir.join("pgbench");
        if load.each {
            command.arg("-l").arg(format!("--log-prefix={}", log.display()));
        }
        if let Some(rate) = load.rate {
            command.arg("-R").arg(rate.to_string());
        }
        match load.script {
            Script::Select => command.args(["-b", "select-only"]),
            Script::Own(text) => command.arg("-f").arg(self.file(text)?),
        };
        let said = output(command.arg(database))?;
        let mut measured = parse(&said).with_context(|| format!("what pgbench said: {said}"))?;
        if load.each {
            let mut all = logged(&self.dir)?;
            all.sort_by(f64::total_cmp);
            measured.p99_us = all.get(all.len() * 99 / 100).copied().unwrap_or(f64::NAN);
            measured.latency_us = median(all);
        }
        Ok(measured)
    }

    fn file(&self, script: &str) -> Result<PathBuf> {
        let path = self.dir.join("script.sql");
        std::fs::write(&path, script)?;
        Ok(path)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("starting pgbench")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || errors.contains("aborted") {
        bail!("pgbench: {}", errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse(said: &str) -> Result<Measured> {
    let number = |label: &str| -> Result<f64> {
        let rest = said.lines().find_map(|line| line.strip_prefix(label)).with_context(|| format!("no '{label}'"))?;
        Ok(rest.split([' ', '/']).next().unwrap_or_default().parse()?)
    };
    ensure!(number("number of failed transactions: ")? == 0.0, "transactions failed");
    Ok(Measured {
        transactions: number("number of transactions actually processed: ")? as u64,
        per_second: number("tps = ")?,
        latency_us: number("latency average = ")? * 1e3,
        p99_us: f64::NAN,
    })
}

/// Third column: microseconds (documentation of pgbench, "Per-Transaction Logging"). The logs are removed.
fn logged(dir: &Path) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgbench.")) {
            let log = std::fs::read_to_string(&path)?;
            all.extend(log.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
            std::fs::remove_file(path)?;
        }
    }
    Ok(all)
}
