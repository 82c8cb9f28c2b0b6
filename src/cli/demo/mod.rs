//! `tandem demo`: a migration under fire, on real servers, in less than a minute.
//!
//! Two PostgreSQL servers, tandem between them and a mixed load. The origin has rows that the target lacks: they are
//! copied while clients write, and compared. The target is killed for a while, tandem itself is
//! killed with SIGKILL and started again, and the primary is switched to the target and back, all under load. Clients
//! read back what they wrote. In the end both sides are compared row by row by connections of their own, and every write
//! that a client saw acknowledged must be there. Exit code 0 only if it is so.

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
use crate::backfill::Kind;
use crate::config::{Wire, value::Setting};

mod compare;
mod history;
mod ledger;
mod load;
mod schema;
mod stage;
mod switches;

use history::{Compared, Copied, Walked};
use ledger::Ledger;
use load::Load;
use stage::Stage;
use switches::Switches;

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
#[derive(Debug, Default, Serialize)]
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
    /// Switches of the primary, to the target and back.
    switches: u64,
    /// How long 99 of 100 switches held clients at most.
    hold_ms_p99: f64,
    /// How long the longest switch held clients.
    hold_ms_max: f64,
    /// Reads that did not show what the same client had seen acknowledged.
    stale_reads: u64,
    /// Connections lost, or refused, but for `reconnects`.
    dropped_clients: u64,
    /// The copy of what was there before.
    backfill: Copied,
    /// The comparisons after it and in the end, by tandem.
    verify: Compared,
    /// Every switch happened.
    #[serde(skip)]
    switched: bool,
    /// Nothing lost, nothing extra, nothing different, nothing stale, no client dropped or told of an error.
    ok: bool,
}

/// Longest wait for the target to catch up after the load.
const SETTLE: Duration = Duration::from_secs(120);

/// Run it. The only command that needs more than one thread: servers start while clients write.
pub(super) fn run(command: Demo, output: &Output) -> Result<(), Failure> {
    if command.wire != Wire::Postgres {
        return Err(Failure::Refused(format!("there is no demo of {} yet: use --wire postgres", command.wire)));
    }
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
    if report.ok {
        Ok(())
    } else {
        Err(Failure::Refused("the sides differ, clients noticed, or a switch did not happen".to_owned()))
    }
}

async fn play(command: &Demo, bar: &ProgressBar) -> Result<Report, Failure> {
    bar.set_message("starting two PostgreSQL servers");
    let mut stage = tokio::task::block_in_place(|| Stage::build(command.keep))?;
    schema::create(&stage.origin_config()?).await?;
    schema::create(&stage.target_config()?).await?;
    schema::fill(&stage.origin_config()?).await?;
    stage.start_tandem().await?;
    tell(bar, &stage.describe());
    let before = (schema::count(&stage.origin_config()?).await?, schema::count(&stage.target_config()?).await?);
    tell(bar, &format!("rows before: {} on the origin, {} on the target", before.0, before.1));
    let load = Arc::new(Load::new(stage.proxy_config()?));
    let writers: Vec<_> = (0..command.clients).map(|number| tokio::spawn(load.clone().client(number))).collect();
    let watcher = tokio::spawn(watch(load.clone(), stage.admin()?, bar.clone()));
    let played = act(command, &mut stage, &load, bar).await;
    load.stop.cancel();
    let mut ledgers = Vec::new();
    for writer in writers {
        ledgers.push(writer.await.map_err(|error| Failure::Refused(format!("a client failed: {error}")))?);
    }
    let played = played?;
    bar.set_message("the load is over; waiting for the target to catch up");
    stage.settle(SETTLE).await?;
    let last = history::walk(Kind::Verify, &stage.admin()?).await?;
    tell(bar, &format!("verified in the end: {}", last.told()));
    watcher.abort();
    stage.end_tandem();
    bar.set_message("comparing both sides, without tandem");
    let report = report(command, &stage, &load, &ledgers).await?;
    if let Some(error) = load.first_error.get() {
        tell(bar, &format!("the first error that a client saw: {error}"));
    }
    if let Some(why) = played.switches.failed() {
        tell(bar, &format!("a switch did not happen, {why}"));
    }
    Ok(Report { verify: last.verify().plus(played.backfill.verify()), ..report.with(&played) }.judged())
}

/// What was done to the servers and to tandem.
struct Played {
    backfill: Walked,
    kills: u64,
    outage: Duration,
    switches: Switches,
}

/// What happens while the load runs: history is copied and compared; a switch to the target and back; then the target is away for a fifth of the time;
/// tandem is killed twice; and the last switches end at the target, as a migration does. Longer runs switch more often.
async fn act(command: &Demo, stage: &mut Stage, load: &Load, bar: &ProgressBar) -> Result<Played, Failure> {
    let rounds = command.seconds.div_ceil(20);
    let mut switches = Switches::default();
    let began = Instant::now();
    let at = |part: f64| began + Duration::from_secs(command.seconds).mul_f64(part);
    sleep_until(at(0.02)).await;
    let backfill = history::walk(Kind::Backfill, &stage.admin()?).await?;
    tell(bar, &format!("history copied and compared under load: {}", backfill.told()));
    sleep_until(at(0.05)).await;
    switch(2 * rounds, &mut switches, stage, load, bar).await?;
    sleep_until(at(0.25)).await;
    let away = Instant::now();
    tokio::task::block_in_place(|| stage.kill_target())?;
    tell(bar, "target killed (SIGKILL to all its processes); clients go on");
    sleep_until(at(0.45)).await;
    tokio::task::block_in_place(|| stage.revive_target())?;
    let outage = away.elapsed();
    tell(bar, &format!("target is back after {:.1} s", outage.as_secs_f64()));
    let mut kills = 0;
    for part in [0.55, 0.65] {
        sleep_until(at(part)).await;
        load.around_kill.store(true, Relaxed);
        stage.kill_tandem();
        tell(bar, "tandem killed (SIGKILL); starting it again");
        stage.start_tandem().await?;
        kills += 1;
        sleep(Duration::from_secs(1)).await;
        load.around_kill.store(false, Relaxed);
    }
    sleep_until(at(0.75)).await;
    switch(2 * rounds + 1, &mut switches, stage, load, bar).await?;
    sleep_until(at(1.0)).await;
    Ok(Played { backfill, kills, outage, switches })
}

/// Pause between two switches, in which clients write on the new primary.
const BETWEEN: Duration = Duration::from_millis(500);

async fn switch(
    count: u64,
    switches: &mut Switches,
    stage: &Stage,
    load: &Load,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let admin = stage.admin()?;
    for to in switches::sides(count) {
        switches.go(to, &admin, load, |line| tell(bar, line)).await;
        if switches.failed().is_none() {
            tell(bar, &format!("switched: {to} answers clients; they were held for {} ms", switches.last_ms()));
        }
        sleep(BETWEEN).await;
    }
    Ok(())
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
        bar.set_message(format!("{acked} writes acknowledged, the other side {lag} behind"));
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
        stale_reads: load.stale.load(Relaxed),
        dropped_clients: load.dropped.load(Relaxed),
        ..Report::default()
    })
}

impl Report {
    fn with(self, played: &Played) -> Report {
        Report {
            backfill: played.backfill.backfill(),
            kills: played.kills,
            target_outage_s: (played.outage.as_secs_f64() * 10.0).round() / 10.0,
            switches: played.switches.count(),
            hold_ms_p99: played.switches.held_ms(0.99),
            hold_ms_max: played.switches.held_ms(1.0),
            switched: played.switches.failed().is_none(),
            ..self
        }
    }

    /// A demo without writes or without switches proves nothing.
    fn judged(self) -> Report {
        let differ = self.lost + self.extra + self.mismatched;
        let noticed = self.client_errors + self.stale_reads + self.dropped_clients;
        let played = self.writes_acked > 0 && self.rows_compared > 0 && self.switched && self.switches > 0;
        let copied = self.backfill.is_whole() && self.verify.is_equal();
        Report { ok: differ + noticed == 0 && played && copied, ..self }
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
         \n  history copied        {} rows in {} s\
         \n  verified by tandem    {} rows equal\
         \n  writes acknowledged   {} in {} s\
         \n  target away           {} s, worst lag {} ms\
         \n  tandem killed         {} times, clients reconnected {} times\
         \n  switched              {} times, clients held {} ms at most\
         \n  stale / dropped       {} / {}\
         \n  errors seen           {}\
         \n  rows compared         {}\
         \n  lost / extra / differ {} / {} / {}\n",
        number("backfill/rows"),
        number("backfill/seconds"),
        number("verify/equal"),
        number("writes_acked"),
        number("seconds"),
        number("target_outage_s"),
        number("lag_ms_max"),
        number("kills"),
        number("reconnects"),
        number("switches"),
        number("hold_ms_max"),
        number("stale_reads"),
        number("dropped_clients"),
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
    use crate::backfill::State;

    fn report() -> Report {
        Report {
            wire: "postgres",
            seconds: 20,
            writes_acked: 1,
            rows_compared: 1,
            reconnects: 9,
            lag_ms_max: 5_000,
            target_outage_s: 5.0,
            kills: 2,
            switches: 5,
            hold_ms_p99: 30.0,
            hold_ms_max: 30.0,
            switched: true,
            backfill: Copied { state: State::Done, rows: 60_110, seconds: 1.5 },
            verify: Compared { equal: 120_000, ..Compared::default() },
            ..Report::default()
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
            Report { stale_reads: 1, ..report() },
            Report { dropped_clients: 1, ..report() },
            Report { switched: false, ..report() },
            Report { switches: 0, ..report() },
            Report { backfill: Copied { rows: 0, ..report().backfill }, ..report() },
            Report { backfill: Copied { state: State::Failed, ..report().backfill }, ..report() },
            Report { verify: Compared { missing: 1, ..report().verify }, ..report() },
            Report { verify: Compared::default(), ..report() },
        ] {
            assert!(!wrong.judged().ok);
        }
    }

    #[test]
    fn the_names_of_the_report_stay() {
        let value = serde_json::to_value(report()).expect("JSON");
        let names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        let stay = "backfill client_errors dropped_clients extra hold_ms_max hold_ms_p99 kills lag_ms_max lost \
                    mismatched ok reconnects rows_compared seconds stale_reads switches target_outage_s verify wire \
                    writes_acked";
        assert_eq!(names, stay.split_whitespace().collect::<Vec<_>>());
        assert!(!progress(&Output::new(true)).is_finished());
    }
}
