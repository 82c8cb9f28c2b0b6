//! `tandem backfill`, `verify` and `repair`: asks the running tandem to walk over history, watches it, says how it went.
//!
//! The walk is the server's: it goes on when this command is left, and when tandem is started again.

use std::fmt::Write;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Admin, Failure, Output, field, worker};
use crate::admin::client::{self, Client};
use crate::backfill::crew::WorkerReport;
use crate::backfill::{Compare, Conflict, Counts, Kind, Report, State};
use crate::config::value::Setting;
use crate::mirror::dirty::unix_now;

pub(super) const BACKFILL_EXAMPLES: &str = "\
Examples:
  tandem backfill start                       copy all tables that have a key, then compare both sides
  tandem backfill start --table public.a      only this one; may be given more than once
  tandem backfill start --provision           make the tables that the target lacks; indexes and foreign keys at the end
  tandem backfill start --exclude 'audit.*'   all but these
  tandem backfill start --mode continuous     once more every ten minutes: what is new is copied, what differs mended
  tandem backfill start --detach              do not wait for the end
  tandem backfill status --watch              see it go on
  tandem backfill wait --state Verifying      for scripts: until it is there, or over
  tandem backfill pause                       and resume; what is copied stays copied
  tandem backfill cancel                      end it
  tandem backfill worker                      Cassandra: share the work with more processes, on any machine

Clients go on meanwhile: what they write is mirrored, and copied rows never replace newer ones. Ctrl-C leaves
the walk alone, and so does a restart of tandem: it goes on where it was.

Exit codes: 0 copied and equal; 1 something was left out or not compared, differs, or it was cancelled; 2 usage;
3 tandem could not be reached.";

pub(super) const VERIFY_EXAMPLES: &str = "\
Examples:
  tandem verify                               compare all rows of all tables that have a key, both ways
  tandem verify --table public.accounts       only this one; may be given more than once
  tandem verify --sample 1%                   only about so many, drawn in stretches
  tandem verify --every 1h --detach           again and again, until it is cancelled
  tandem verify --compare writetimes          Cassandra: the times of cells too; `values` for these alone
  tandem verify --since 2h                    Cassandra: only what was written within two hours
  tandem verify status                        where it is, or how the last one ended
  tandem verify differences --values          the keys of rows that differ, one a line of JSON
  tandem verify cancel                        end it; also pause, resume

Rows are compared at one state of both sides, while clients write: a row that is called different is different.

Exit codes: 0 equal; 1 rows differ, or something was left out or not compared; 2 usage; 3 tandem could not be reached.";

pub(super) const REPAIR_EXAMPLES: &str = "\
Examples:
  tandem repair                               compare all, have the mirror copy what differs, compare that again
  tandem repair --table public.accounts       only this one; may be given more than once
  tandem repair --of verify                   only tables in which the last verify found differences
  tandem repair --of dirty                    only dirty ones, chunk by chunk: `dirty repair` copies them at one go
  tandem repair --timestamp 1767225600000000  Cassandra: outdo deletes that hide a row, up to that time
  tandem repair --dry-run                     what it would do, without doing it
  tandem repair status                        where it is, or how the last one ended

Exit codes: 0 equal now; 1 rows differ still, or something was left out; 2 usage; 3 tandem could not be reached.";

/// How often a walk is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a tandem that stopped answering may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Backfill {
    #[command(subcommand)]
    action: BackfillAction,
}

#[derive(Debug, Subcommand)]
enum BackfillAction {
    /// Copy history to the secondary.
    #[command(after_help = BACKFILL_EXAMPLES)]
    Start {
        #[command(flatten)]
        walk: Walk,
        /// Rows of the target that tandem did not write: leave the table alone, or replace and delete them.
        #[arg(long, value_enum, default_value_t = OnConflict::Error)]
        on_conflict: OnConflict,
        /// Do not compare both sides afterwards.
        #[arg(long)]
        no_verify: bool,
        /// Make the tables that the target lacks, as `backfill.provision` does always.
        #[arg(long)]
        provision: bool,
        /// Once, or again and again: later rounds copy tables that are new, and mend what differs.
        #[arg(long, value_enum, default_value_t = Mode::Once)]
        mode: Mode,
        /// Of the continuous mode: the pause between two rounds.
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = pause)]
        every: Duration,
    },
    /// Take part in copying and comparing, from this process or another machine (Cassandra).
    #[command(after_help = worker::EXAMPLES)]
    Worker(worker::Worker),
    #[command(flatten)]
    Other(Act),
}

impl Backfill {
    /// What is asked for is a worker, which is a process of its own; else the command.
    pub(super) fn worker(self) -> Result<worker::Worker, Box<Backfill>> {
        match self.action {
            BackfillAction::Worker(worker) => Ok(worker),
            action => Err(Box::new(Backfill { action })),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnConflict {
    /// Leave the table alone.
    Error,
    /// The origin's rows count.
    Overwrite,
    /// Cassandra: each cell's newest value counts, and rows that only the target has stay.
    Newer,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compared {
    /// Values.
    Values,
    /// Values, and when they expire.
    Ttls,
    /// Values, when they expire, and when they were written.
    Writetimes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Once,
    Continuous,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Verify {
    #[command(flatten)]
    walk: Walk,
    /// Compare about this share of all rows, drawn in stretches: 1%, or 0.01.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sample: Option<f64>,
    /// Once more so long after the end, again and again, until it is cancelled: 1h.
    #[arg(long, value_name = "DURATION", value_parser = pause)]
    every: Option<Duration>,
    /// Cassandra: only rows of which something was written so lately, and rows that only the target has: 2h.
    #[arg(long, value_name = "DURATION", value_parser = pause)]
    since: Option<Duration>,
    /// Cassandra: what makes two rows differ.
    #[arg(long, value_enum, default_value_t = Compared::Ttls)]
    compare: Compared,
    #[command(subcommand)]
    action: Option<Act>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    Dirty,
    Verify,
}

impl Of {
    fn as_str(self) -> &'static str {
        match self {
            Of::Dirty => "dirty",
            Of::Verify => "verify",
        }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Repair {
    #[command(flatten)]
    walk: Walk,
    /// Only tables that are known to differ: dirty ones, or those in which the last verify found differences.
    #[arg(long, value_enum)]
    of: Option<Of>,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Cassandra: outdo deletes of the target that hide a row up to this timestamp, in microseconds since 1970; unset, up to the
    /// moment of the repair. One that lies ahead hides what clients write until then.
    #[arg(long, value_name = "MICROSECONDS")]
    timestamp: Option<i64>,
    #[command(subcommand)]
    action: Option<Act>,
}

#[derive(Debug, Args)]
struct Walk {
    /// Only this table, with its schema and its partitions; `*` stands for any letters. May be given more than once.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// Not this table, as above.
    #[arg(long, value_name = "TABLE")]
    exclude: Vec<String>,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Where it is, or how the last one ended.
    Status {
        /// Until it is over.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Wait until it is in this state, or over.
    Wait {
        /// Initializing, Planning, Copying, CatchingUp, Verifying, Done, ..
        #[arg(long, default_value = "Done", value_parser = state)]
        state: State,
        #[command(flatten)]
        admin: Admin,
    },
    /// Hold it.
    Pause(Admin),
    /// Let it go on.
    Resume(Admin),
    /// End it; what is copied stays.
    Cancel(Admin),
    /// Rows that differ, one a line of JSON.
    Differences {
        /// With the keys of the rows.
        #[arg(long)]
        values: bool,
        #[command(flatten)]
        admin: Admin,
    },
}

fn share(text: &str) -> Result<f64, String> {
    let (number, of) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let share = number.trim().parse::<f64>().map(|number| number / of).ok();
    share.filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(|| "say 1%, or 0.01".to_owned())
}

fn pause(text: &str) -> Result<Duration, String> {
    let pause = Duration::from_text(text).filter(|pause| *pause >= Duration::from_secs(1));
    pause.ok_or_else(|| format!("it must be {}", Duration::EXPECTS))
}

fn state(text: &str) -> Result<State, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "there is no such state".to_owned())
}

pub(super) async fn backfill(command: Backfill, output: &Output) -> Result<(), Failure> {
    match command.action {
        BackfillAction::Start { walk, on_conflict, no_verify, provision, mode, every } => {
            let on_conflict = match on_conflict {
                OnConflict::Error => Conflict::Error,
                OnConflict::Overwrite => Conflict::Overwrite,
                OnConflict::Newer => Conflict::Newer,
            };
            let every = (mode == Mode::Continuous).then_some(every.as_secs());
            let request = json!({ "on_conflict": on_conflict, "verify": !no_verify, "provision": provision, "every_seconds": every });
            start(Kind::Backfill, &walk, &request, output).await
        }
        BackfillAction::Worker(_) => Err(Failure::Usage("a worker is a process of its own".to_owned())),
        BackfillAction::Other(act) => do_it(Kind::Backfill, act, output).await,
    }
}

pub(super) async fn verify(command: Verify, output: &Output) -> Result<(), Failure> {
    if let Some(act) = command.action {
        return do_it(Kind::Verify, act, output).await;
    }
    let every = command.every.map(|every| every.as_secs());
    let compare = match command.compare {
        Compared::Values => Compare::Values,
        Compared::Ttls => Compare::Ttls,
        Compared::Writetimes => Compare::Writetimes,
    };
    let since = command.since.map(|since| since.as_secs());
    let request =
        json!({ "sample": command.sample, "every_seconds": every, "compare": compare, "since_seconds": since });
    start(Kind::Verify, &command.walk, &request, output).await
}

pub(super) async fn repair(command: Repair, output: &Output) -> Result<(), Failure> {
    match command.action {
        Some(act) => do_it(Kind::Repair, act, output).await,
        None => {
            let request =
                json!({ "dry_run": command.dry_run, "of": command.of.map(Of::as_str), "timestamp": command.timestamp });
            start(Kind::Repair, &command.walk, &request, output).await
        }
    }
}

async fn start(kind: Kind, walk: &Walk, more: &Value, output: &Output) -> Result<(), Failure> {
    let client = walk.admin.client()?;
    let mut request = json!({ "action": "start", "tables": walk.tables, "exclude": walk.exclude });
    if let (Some(request), Some(more)) = (request.as_object_mut(), more.as_object()) {
        request.extend(more.clone());
    }
    let begun = parse(client.post(&path(kind), &request).await?)?;
    if walk.detach {
        output.print(&json(&begun), |_| format!("{} {} was asked for", kind.as_str(), begun.number));
        return Ok(());
    }
    finish(kind, Some(begun.number), &client, output, State::Done).await
}

async fn do_it(kind: Kind, act: Act, output: &Output) -> Result<(), Failure> {
    let action = match act {
        Act::Status { watch: true, admin } => return finish(kind, None, &admin.client()?, output, State::Done).await,
        Act::Wait { state, admin } => return finish(kind, None, &admin.client()?, output, state).await,
        Act::Status { watch: false, admin } => {
            let report = parse(admin.client()?.get(&path(kind)).await?)?;
            output.print(&json(&report), |_| standing(&report));
            return Ok(());
        }
        Act::Differences { values, admin } => {
            let list = admin.client()?.get(&format!("/v1/verify/differences?values={values}")).await?;
            output.print(&list, |list| {
                let lines = list.as_array().into_iter().flatten().map(Value::to_string);
                let lines = lines.collect::<Vec<_>>().join("\n");
                if lines.is_empty() { "no rows are known to differ".to_owned() } else { lines }
            });
            return Ok(());
        }
        Act::Pause(admin) => ("pause", admin),
        Act::Resume(admin) => ("resume", admin),
        Act::Cancel(admin) => ("cancel", admin),
    };
    let (action, admin) = action;
    let answer = admin.client()?.post(&path(kind), &json!({ "action": action })).await?;
    output.print(&answer, |answer| {
        format!("{} {}: {}", kind.as_str(), field(answer, "/number"), field(answer, "/state"))
    });
    Ok(())
}

/// Watch the one of this number, or what there is, until it is there or over: another one that takes its turn behind it is not
/// what was waited for. Ctrl-C ends this command only.
async fn finish(
    kind: Kind,
    mut number: Option<u64>,
    client: &Client,
    output: &Output,
    wanted: State,
) -> Result<(), Failure> {
    let mut before = None;
    let report = loop {
        let report = look(kind, number, client).await?;
        number = Some(report.number);
        if before.replace(report.state) != Some(report.state) {
            output.tell(&format!("{:<12} {}", word(report.state), about(report.state)));
        }
        if report.state == wanted || report.state.is_over() {
            break report;
        }
        output.hint(&progress(&report));
        sleep(LOOK).await;
    };
    output.hint("");
    output.print(&json(&report), |_| standing(&report));
    verdict(&report, wanted)
}

/// A tandem that does not answer gets some time to come back: the walk goes on then.
async fn look(kind: Kind, number: Option<u64>, client: &Client) -> Result<Report, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let path = number.map_or_else(|| path(kind), |number| format!("{}?number={number}", path(kind)));
    loop {
        match client.get(&path).await {
            Err(client::Error::Unreachable { .. }) if Instant::now() < deadline => sleep(LOOK).await,
            answer => return parse(answer?),
        }
    }
}

fn verdict(report: &Report, wanted: State) -> Result<(), Failure> {
    let differing = report.counts.differing();
    let left_out = not_compared(report);
    // What is older than was asked for is skipped, too.
    let skipped = if report.request.since_seconds.is_some() { 0 } else { report.counts.skipped };
    match report.state {
        State::Done if differing == 0 && left_out.is_empty() && skipped == 0 => Ok(()),
        State::Done if differing == 0 && left_out.is_empty() => Err(Failure::Refused(format!(
            "{skipped} rows were written at every look and were not judged: verify their tables again when fewer write to them"
        ))),
        State::Done if differing == 0 => Err(Failure::Refused(format!(
            "columns whose types are too different were not compared: {}",
            left_out.join(", ")
        ))),
        State::Done => Err(Failure::Refused(format!(
            "{differing} rows differ: `tandem verify differences` lists them, `tandem repair` copies them"
        ))),
        State::Failed => Err(Failure::Refused(report.why.clone().unwrap_or_else(|| "it failed".to_owned()))),
        State::Cancelled => Err(Failure::Refused("it was cancelled".to_owned())),
        state if state == wanted => Ok(()),
        state => Err(Failure::Refused(format!("it is {}", word(state)))),
    }
}

/// Columns of which nobody knows whether they are equal, of a walk that compares.
fn not_compared(report: &Report) -> Vec<String> {
    let compares = report.request.kind != Kind::Backfill || report.request.verify;
    let tables = report.tables.iter().filter(|table| compares && table.refused.is_none());
    tables.flat_map(|table| table.not_compared.iter().map(|column| format!("{}.{column}", table.table))).collect()
}

fn word(state: State) -> String {
    field(&json!(state), "")
}

fn about(state: State) -> &'static str {
    match state {
        State::Initializing => "waiting for the mirror",
        State::Planning => "looking which tables there are, and how large",
        State::Copying => "rows are copied; clients go on",
        State::CatchingUp => "what clients wrote meanwhile is paid",
        State::Verifying => "rows are compared, both ways",
        State::Paused => "held by an operator: resume lets it go on",
        State::Done => "it is over",
        State::Failed => "it is over, and something was left out",
        State::Cancelled => "an operator ended it",
    }
}

/// A line that the next one replaces.
fn progress(report: &Report) -> String {
    const WIDTH: usize = 24;
    let full = ((report.done * WIDTH as f64) as usize).min(WIDTH);
    let mut line = format!("  [{}{}] {:5.1} %", "#".repeat(full), " ".repeat(WIDTH - full), report.done * 100.0);
    let _ = match report.state {
        State::Verifying => write!(line, "  {} rows compared", HumanCount(report.counts.read)),
        _ => write!(line, "  {} rows, {}", HumanCount(report.rows), HumanBytes(report.bytes)),
    };
    if let Some(left) = report.eta_seconds {
        let _ = write!(line, ", about {} left", HumanDuration(Duration::from_secs_f64(left.min(1e9))));
    }
    if let Some(why) = &report.why {
        let _ = write!(line, " ({why})");
    }
    line
}

/// What there is to say of it.
fn standing(report: &Report) -> String {
    let kind = report.request.kind.as_str();
    let mut text = format!("{kind} {}: {}", report.number, word(report.state));
    if let Some(why) = &report.why {
        let _ = write!(text, " ({why})");
    }
    if let Some(next) = report.next_unix {
        let left = next.saturating_sub(unix_now());
        let _ = write!(text, ", once more in {}", HumanDuration(Duration::from_secs(left)));
    }
    text.push('\n');
    if report.request.kind == Kind::Backfill {
        let _ = writeln!(text, "copied: {} rows, {}", HumanCount(report.rows), HumanBytes(report.bytes));
    }
    let _ = writeln!(text, "compared: {}", compared(&report.counts));
    if report.request.dry_run && report.state == State::Done {
        let Counts { missing, extra, different, .. } = report.counts;
        let (copied, deleted) = (HumanCount(missing + different), HumanCount(extra));
        let _ = writeln!(text, "a repair would copy {copied} rows and delete {deleted}; nothing was changed");
    }
    if report.not_listed > 0 {
        let _ = writeln!(text, "of those that differ {} are not listed: there are too many", report.not_listed);
    }
    for table in &report.tables {
        let _ = match &table.refused {
            Some(why) => writeln!(text, "  {:<32} left out: {why}", table.table),
            None => writeln!(
                text,
                "  {:<32} {:5.1} %  {} rows copied; {}",
                table.table,
                table.done * 100.0,
                HumanCount(table.rows),
                compared(&table.counts)
            ),
        };
    }
    let left_out = not_compared(report);
    if !left_out.is_empty() {
        let _ = writeln!(text, "not compared, for their types are too different: {}", left_out.join(", "));
    }
    for worker in &report.workers {
        let (rows, compared) = (HumanCount(worker.rows), HumanCount(worker.compared));
        let WorkerReport { name, state, under_way, chunks, lost, .. } = worker;
        let _ = write!(
            text,
            "  worker {name}: {state}, {under_way} chunks now, {chunks} done; {rows} rows copied, {compared} compared"
        );
        let _ = match (&worker.why, lost) {
            (Some(why), 1..) => writeln!(text, "; {lost} lost or given back, the last: {why}"),
            _ => writeln!(text),
        };
    }
    text
}

fn compared(counts: &Counts) -> String {
    let Counts { read, equal, missing, extra, different, skipped, repaired } = *counts;
    let mut text = format!("{} rows, {} equal", HumanCount(read), HumanCount(equal));
    for (count, name) in [
        (missing, "missing"),
        (extra, "extra"),
        (different, "different"),
        (skipped, "skipped"),
        (repaired, "of them repaired"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {} {name}", HumanCount(count));
        }
    }
    text
}

fn path(kind: Kind) -> String {
    format!("/v1/{}", kind.as_str())
}

fn parse(value: Value) -> Result<Report, Failure> {
    serde_json::from_value(value).map_err(|error| Failure::Unreachable(format!("an answer of another tandem: {error}")))
}

fn json(report: &Report) -> Value {
    json!(report)
}
