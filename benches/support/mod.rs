//! What the benchmarks share: medians, what a process used, and (for `proxy` and `history`) the table, the peers and pgbench.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tandem::sandbox::Postgres;

pub(crate) mod compared;
pub(crate) mod cql;
pub(crate) mod idle;
pub(crate) mod peers;
pub(crate) mod pgbench;
pub(crate) mod report;
pub(crate) mod rounds;

/// The middle one; of none, NaN.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2));
    lower.zip(upper).map_or(f64::NAN, |(lower, upper)| (lower + upper) / 2.0)
}

/// User and system time that a process has used. Source: proc(5), `/proc/pid/stat`, fields 14 and 15, in ticks.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).context("a stat file")?;
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf takes a number and has no preconditions.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
}

/// Bytes of memory that are a process's own: anonymous and resident. Source: proc(5), `/proc/pid/status`, `RssAnon`.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("a kernel that tells RssAnon")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// The most memory that a process had at once, in bytes. Source: proc(5), `/proc/pid/status`, `VmHWM`.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a kernel that tells VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// Run SQL with psql, as the superuser; what it prints.
pub(crate) fn psql(server: &Postgres, database: &str, sql: &str) -> Result<String> {
    let mut command = Command::new(server.installation().bin.join("psql"));
    command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", database, "-c", sql]);
    let output = command.arg("-p").arg(server.port().to_string()).output().context("starting psql")?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
