//! `tandem demo`: a migration under fire, on real servers, in less than a minute.
//!
//! Two PostgreSQL servers, tandem between them and a mixed load; the target is killed for a while, tandem itself is
//! killed with SIGKILL and started again, all under load. In the end both sides are compared row by row by connections
//! of their own, and every write that a client saw acknowledged must be there. Exit code 0 only if it is so.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Failure, Output};
use crate::config::{Wire, value::Setting};

mod compare;
mod ledger;
mod load;
mod schema;
mod stage;

use ledger::Ledger;
use load::Load;
use stage::Stage;

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem demo
  tandem demo --seconds 60 --clients 32
  tandem --json demo | jq .ok
  tandem demo --keep                          leave the servers' files and tandem's journal behind

It needs PostgreSQL's programs: scripts/setup gets them; TANDEM_PG_BIN names folders that have them.";

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// What clients speak.
    #[arg(long, default_value = "postgres", value_parser = wire)]
    wire: Wire,
    /// How long the load runs.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..))]
    seconds: u64,
    /// How many clients write at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=200))]
    clients: u32,
    /// Keep all files.
    #[arg(long)]
    keep: bool,
}

fn wire(text: &str) -> Result<Wire, String> {
    Wire::from_text(text).ok_or_else(|| format!("it must be {}", Wire::EXPECTS))
}

/// What happened; these names stay.
#[derive(Debug, Serialize)]
struct Report {
    /// What clients spoke.
    wire: &'static str,
    /// How long the load ran.
    seconds: u64,
    /// Writes that a client saw acknowledged.
    writes_acked: u64,
    /// Rows of both sides that were looked at.
    rows_compared: u64,
    /// Rows that only the origin has, and acknowledged writes that the target does not have.
    lost: u64,
    /// Rows that only the target has.
    extra: u64,
    /// Rows that differ.
    mismatched: u64,
    /// Errors that clients saw, other than `reconnects`.
    client_errors: u64,
    /// Connections lost in the second around a SIGKILL of tandem.
    reconnects: u64,
    /// How far the target was behind at the worst moment.
    lag_ms_max: u64,
    /// How long the target was away.
    target_outage_s: f64,
    /// SIGKILLs of tandem.
    kills: u64,
    /// Nothing lost, nothing extra, nothing different, no client error.
    ok: bool,
}

/// Longest wait for the target to catch up after the load.
const SETTLE: Duration = Duration::from_secs(120);

/// Run it. The only command that needs more than one thread: servers start while clients write.
pub(super) fn run(command: Demo, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Unreachable(format!("cannot start: {error}")))?;
    let bar = progress(output);
    let report = runtime.block_on(async {
        tokio::select! {
            report = play(&command, &bar) => report,
            // Everything is dropped on the way out: servers, processes, files.
            _ = tokio::signal::ctrl_c() => Err(Failure::Refused("interrupted".to_owned())),
        }
    });
    bar.finish_and_clear();
    let report = report?;
    let value = serde_json::to_value(&report).map_err(|error| Failure::Refused(error.to_string()))?;
    output.print(&value, screen);
    if report.ok { Ok(()) } else { Err(Failure::Refused("the sides differ, or clients saw errors".to_owned())) }
}

async fn play(command: &Demo, bar: &ProgressBar) -> Result<Report, Failure> {
    bar.set_message("starting two PostgreSQL servers");
    let mut stage = tokio::task::block_in_place(|| Stage::build(command.keep))?;
    schema::create(&stage.origin_config()?).await?;
    schema::create(&stage.target_config()?).await?;
    stage.start_tandem().await?;
    tell(bar, &stage.describe());
    let load = Arc::new(Load::new(stage.proxy_config()?));
    let writers: Vec<_> = (0..command.clients).map(|number| tokio::spawn(load.clone().client(number))).collect();
    let watcher = tokio::spawn(watch(load.clone(), stage.admin()?, bar.clone()));
    let played = act(command, &mut stage, &load, bar).await;
    load.stop.cancel();
    let mut ledgers = Vec::new();
    for writer in writers {
        ledgers.push(writer.await.map_err(|error| Failure::Refused(format!("a client failed: {error}")))?);
    }
    let (kills, outage) = played?;
    bar.set_message("the load is over; waiting for the target to catch up");
    stage.settle(SETTLE).await?;
    watcher.abort();
    stage.end_tandem();
    bar.set_message("comparing both sides, without tandem");
    let report = report(command, &stage, &load, &ledgers).await?;
    if let Some(error) = load.first_error.get() {
        tell(bar, &format!("the first error that a client saw: {error}"));
    }
    Ok(Report { kills, target_outage_s: (outage.as_secs_f64() * 10.0).round() / 10.0, ..report }.judged())
}

/// What happens while the load runs: the target is away from a quarter to a half of the time; tandem is killed at
/// two thirds and again at five sixths.
async fn act(command: &Demo, stage: &mut Stage, load: &Load, bar: &ProgressBar) -> Result<(u64, Duration), Failure> {
    let began = Instant::now();
    let at = |part: f64| began + Duration::from_secs(command.seconds).mul_f64(part);
    sleep_until(at(0.25)).await;
    let away = Instant::now();
    tokio::task::block_in_place(|| stage.kill_target())?;
    tell(bar, "target killed (SIGKILL to all its processes); clients go on");
    sleep_until(at(0.5)).await;
    tokio::task::block_in_place(|| stage.revive_target())?;
    let outage = away.elapsed();
    tell(bar, &format!("target is back after {:.1} s", outage.as_secs_f64()));
    let mut kills = 0;
    for part in [2.0 / 3.0, 5.0 / 6.0] {
        sleep_until(at(part)).await;
        load.around_kill.store(true, Relaxed);
        stage.kill_tandem();
        tell(bar, "tandem killed (SIGKILL); starting it again");
        stage.start_tandem().await?;
        kills += 1;
        sleep(Duration::from_secs(1)).await;
        load.around_kill.store(false, Relaxed);
    }
    sleep_until(at(1.0)).await;
    Ok((kills, outage))
}

/// Show what goes on, and remember the worst lag.
async fn watch(load: Arc<Load>, admin: crate::admin::client::Client, bar: ProgressBar) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        let lag = match admin.get("/v1/status").await {
            Ok(status) => stage::lag_ms(&status),
            Err(_) => None,
        };
        load.lag_ms_max.fetch_max(lag.unwrap_or(0), Relaxed);
        let lag = lag.map_or("?".to_owned(), |ms| format!("{ms} ms"));
        let acked = load.acked.load(Relaxed);
        bar.set_message(format!("{acked} writes acknowledged, target {lag} behind"));
    }
}

async fn report(command: &Demo, stage: &Stage, load: &Load, ledgers: &[Ledger]) -> Result<Report, Failure> {
    let sides = compare::sides(&stage.origin_config()?, &stage.target_config()?).await?;
    let missing = ledger::missing(&stage.target_config()?, ledgers).await?;
    Ok(Report {
        wire: command.wire.as_str(),
        seconds: command.seconds,
        writes_acked: load.acked.load(Relaxed),
        rows_compared: sides.rows,
        lost: sides.lost + missing,
        extra: sides.extra,
        mismatched: sides.mismatched,
        client_errors: load.errors.load(Relaxed),
        reconnects: load.reconnects.load(Relaxed),
        lag_ms_max: load.lag_ms_max.load(Relaxed),
        target_outage_s: 0.0,
        kills: 0,
        ok: false,
    })
}

impl Report {
    /// A demo without writes proves nothing.
    fn judged(self) -> Report {
        let differ = self.lost + self.extra + self.mismatched + self.client_errors;
        Report { ok: differ == 0 && self.writes_acked > 0 && self.rows_compared > 0, ..self }
    }
}

/// A line that stays above the progress; where nobody watches a terminal, a line of standard error.
fn tell(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        let _ = writeln!(std::io::stderr(), "demo: {line}");
    } else {
        bar.println(line);
    }
}

fn progress(output: &Output) -> ProgressBar {
    if output.is_json() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a constant that the tests show");
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn screen(report: &Value) -> String {
    let number = |name: &str| super::field(report, &format!("/{name}"));
    let verdict = if report["ok"] == true { "OK: both sides are equal" } else { "NOT OK" };
    format!(
        "\n{verdict}\n\
         \n  writes acknowledged   {} in {} s\
         \n  target away           {} s, worst lag {} ms\
         \n  tandem killed         {} times, clients reconnected {} times\
         \n  errors seen           {}\
         \n  rows compared         {}\
         \n  lost / extra / differ {} / {} / {}\n",
        number("writes_acked"),
        number("seconds"),
        number("target_outage_s"),
        number("lag_ms_max"),
        number("kills"),
        number("reconnects"),
        number("client_errors"),
        number("rows_compared"),
        number("lost"),
        number("extra"),
        number("mismatched"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            wire: "postgres",
            seconds: 20,
            writes_acked: 1,
            rows_compared: 1,
            lost: 0,
            extra: 0,
            mismatched: 0,
            client_errors: 0,
            reconnects: 9,
            lag_ms_max: 5_000,
            target_outage_s: 5.0,
            kills: 2,
            ok: false,
        }
    }

    #[test]
    fn it_is_ok_only_if_nothing_is_wrong() {
        assert!(report().judged().ok);
        for wrong in [
            Report { lost: 1, ..report() },
            Report { extra: 1, ..report() },
            Report { mismatched: 1, ..report() },
            Report { client_errors: 1, ..report() },
            Report { writes_acked: 0, ..report() },
            Report { rows_compared: 0, ..report() },
        ] {
            assert!(!wrong.judged().ok);
        }
    }

    #[test]
    fn the_names_of_the_report_stay() {
        let value = serde_json::to_value(report()).expect("JSON");
        let names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        let stay = "client_errors extra kills lag_ms_max lost mismatched ok reconnects rows_compared seconds \
                    target_outage_s wire writes_acked";
        assert_eq!(names, stay.split_whitespace().collect::<Vec<_>>());
        assert!(!progress(&Output::new(true)).is_finished());
    }
}
