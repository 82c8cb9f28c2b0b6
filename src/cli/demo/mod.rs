//! `tandem demo`: a migration under fire, on real servers, in less than a minute.
//!
//! Two servers, tandem between them and a mixed load. The origin has rows that the target lacks: they are
//! copied while clients write, and compared. The target is killed for a while, tandem itself is
//! killed with SIGKILL and started again, and the primary is switched to the target and back, all under load. Clients
//! read back what they wrote. A share of all reads is asked again on the other side, and a difference planted there must be
//! found, named and mended. In the end both sides are compared row by row by connections of their own, and every write
//! that a client saw acknowledged must be there. Exit code 0 only if it is so.
//!
//! What is here is the same for all wires; [`postgres`] and [`cql`] are the servers, the load and the comparison of one each.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;

use super::{Failure, Output};
use crate::backfill::Kind;
use crate::config::{Wire, value::Setting};
use crate::sandbox::{self, Sandbox};

mod act;
mod cql;
mod history;
mod ledger;
mod load;
mod postgres;
mod progress;
mod report;
mod shadow;
mod switches;
mod tandem;

use act::Stage;
use load::{Actor, Load};
use progress::Progress;
use report::Report;
use tandem::Tandem;

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem demo
  tandem demo --wire cql
  tandem demo --seconds 60 --clients 32
  tandem --json demo | jq .ok
  tandem demo --keep                          leave the servers' files and tandem's journal behind

It needs PostgreSQL's programs: scripts/setup gets them; TANDEM_PG_BIN names folders that have them.
With --wire cql it needs Cassandra's jars and Java 17: scripts/setup --cql gets them; TANDEM_CASSANDRA names a folder that
has a folder of jars for each version, TANDEM_JAVA a program.";

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// What clients speak.
    #[arg(long, default_value = "postgres", value_parser = wire)]
    wire: Wire,
    /// How long the load runs [default: 20; 50 with --wire cql, whose servers take longer to start].
    #[arg(long, value_parser = clap::value_parser!(u64).range(5..))]
    seconds: Option<u64>,
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

/// The two servers of a wire, and what the demo must be able to do with them. Dropped, they are gone.
trait Pair: Sized + Send + 'static {
    /// What they speak.
    const WIRE: Wire;
    /// The table in which a difference is planted, as tandem calls it.
    const PLANTED: &str;
    /// How long the load runs unless somebody says otherwise: long enough for an outage.
    const SECONDS: u64;
    /// Who writes.
    type Actor: Actor;

    /// Start both, of the oldest and the newest version there is. Blocks.
    fn start(sandbox: &Sandbox) -> Result<Self, Failure>;

    /// What they are, for people.
    fn describe(&self) -> String;

    /// `[origin]`, `[target]` and what else tandem must know of them.
    fn config(&self) -> String;

    /// Make the tables, and what is there before the migration begins.
    async fn fill(&self) -> Result<(), Failure>;

    /// How many rows the origin and the target have.
    async fn rows(&self) -> Result<(u64, u64), Failure>;

    /// A client of tandem's, which listens on this port.
    fn actor(&self, number: u32, port: u16) -> Result<Self::Actor, Failure>;

    /// Change a row on the target that no client writes, past tandem.
    async fn plant(&self) -> Result<(), Failure>;

    /// Read that row through tandem, which listens on this port.
    async fn look(&self, port: u16) -> Result<(), Failure>;

    /// SIGKILL. Blocks.
    fn kill_target(&mut self) -> Result<(), Failure>;

    /// Start it again. Blocks.
    fn revive_target(&mut self) -> Result<(), Failure>;

    /// Compare both sides, and the target with what its clients know; without tandem.
    async fn compare(&self, actors: Vec<Self::Actor>, progress: &Progress) -> Result<Found, Failure>;
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Rows looked at, each pair once.
    rows: u64,
    /// Only the origin has them, or a client was told of them and the target does not know.
    lost: u64,
    /// Only the target has them.
    extra: u64,
    /// They differ.
    mismatched: u64,
}

/// Longest wait for the target to catch up after the load.
const SETTLE: Duration = Duration::from_secs(120);

impl From<sandbox::Error> for Failure {
    fn from(error: sandbox::Error) -> Failure {
        Failure::Unreachable(error.to_string())
    }
}

/// Run it. The only command that needs more than one thread: servers start while clients write.
pub(super) fn run(command: Demo, output: &Output) -> Result<(), Failure> {
    match command.wire {
        Wire::Postgres => perform::<postgres::Servers>(&command, output),
        Wire::Cql => perform::<cql::Nodes>(&command, output),
    }
}

fn perform<P: Pair>(command: &Demo, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Unreachable(format!("cannot start: {error}")))?;
    let progress = Progress::new(output);
    let report = runtime.block_on(async {
        tokio::select! {
            biased;
            // Everything is dropped on the way out: servers, processes, files.
            _ = tokio::signal::ctrl_c() => Err(Failure::Refused("interrupted".to_owned())),
            report = play::<P>(command, &progress) => report,
        }
    });
    // Servers that are being started are not waited for: the sandbox ends them with the process.
    runtime.shutdown_background();
    progress.end();
    let report = report?;
    let value = serde_json::to_value(&report).map_err(|error| Failure::Refused(error.to_string()))?;
    output.print(&value, report::screen);
    if report.ok {
        Ok(())
    } else {
        Err(Failure::Refused("the sides differ, clients noticed, or a switch did not happen".to_owned()))
    }
}

async fn play<P: Pair>(command: &Demo, progress: &Progress) -> Result<Report, Failure> {
    let seconds = command.seconds.unwrap_or(P::SECONDS);
    let mut stage = build::<P>(command, progress).await?;
    let load = Arc::new(Load::default());
    let actors = (0..command.clients).map(|number| stage.pair.actor(number, stage.tandem.port));
    let actors = actors.collect::<Result<Vec<_>, _>>()?;
    let clients: Vec<_> = actors.into_iter().map(|actor| tokio::spawn(load.clone().client(actor))).collect();
    let watcher = tokio::spawn(act::watch(load.clone(), stage.tandem.admin()?, progress.clone()));
    let played = act::act(seconds, &mut stage, &load, progress).await;
    load.stop.cancel();
    let actors = all(clients).await?;
    let mut played = played?;
    progress.now("the load is over; waiting for the target to catch up");
    stage.tandem.settle(SETTLE).await?;
    let last = history::walk(Kind::Verify, &stage.tandem.admin()?).await?;
    progress.tell(&format!("verified in the end: {}", last.told()));
    played.last = Some(last);
    watcher.abort();
    // The comparison needs nobody to write: the end is a kill, too.
    stage.tandem.kill();
    progress.now("comparing both sides, without tandem");
    let found = stage.pair.compare(actors, progress).await?;
    if let Some(error) = load.first_error.get() {
        progress.tell(&format!("the first error that a client saw: {error}"));
    }
    if let Some(why) = played.switches.failed() {
        progress.tell(&format!("a switch did not happen, {why}"));
    }
    Ok(Report { seconds, ..report::seen(P::WIRE, &load, found) }.with(&played).judged())
}

/// Servers with what was there before, and tandem between them.
async fn build<P: Pair>(command: &Demo, progress: &Progress) -> Result<Stage<P>, Failure> {
    let sandbox = Sandbox::new(command.keep)?;
    progress.now(format!("starting two servers of {}", P::WIRE));
    let servers = sandbox.clone();
    let pair = tokio::task::spawn_blocking(move || P::start(&servers)).await;
    let pair = pair.map_err(|error| Failure::Refused(format!("the start failed: {error}")))??;
    pair.fill().await?;
    let mut stage = Stage { tandem: Tandem::new(&sandbox, P::WIRE, &pair.config())?, pair };
    stage.tandem.start().await?;
    let kept = if command.keep { format!("\nfiles stay in {}", sandbox.dir().display()) } else { String::new() };
    let (port, admin) = (stage.tandem.port, stage.tandem.admin_port);
    progress.tell(&format!("{}, tandem on port {port}, admin API on port {admin}{kept}", stage.pair.describe()));
    let before = stage.pair.rows().await?;
    progress.tell(&format!("rows before: {} on the origin, {} on the target", before.0, before.1));
    Ok(stage)
}

async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Result<Vec<T>, Failure> {
    let mut all = Vec::with_capacity(tasks.len());
    for task in tasks {
        all.push(task.await.map_err(|error| Failure::Refused(format!("a client failed: {error}")))?);
    }
    Ok(all)
}
