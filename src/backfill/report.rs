//! What people are told of a job: where it is, what came of it so far, and when its pass may be over.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::counts::Counts;
use super::crew::WorkerReport;
use super::job::{Job, State};
use super::request::Request;

/// What is told of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Counts jobs.
    pub number: u64,
    /// What was asked for.
    pub request: Request,
    /// Where it is.
    pub state: State,
    /// Why it does not go faster, or ended as it did.
    pub why: Option<String>,
    /// Seconds since the epoch.
    pub began_unix: u64,
    /// Seconds since the epoch.
    pub ended_unix: Option<u64>,
    /// When it is done once more, in seconds since the epoch.
    #[serde(default)]
    pub next_unix: Option<u64>,
    /// Rows copied.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Of this pass, what is done: 0 to 1.
    pub done: f64,
    /// Seconds until this pass is over, if it goes on as it did: an estimate.
    pub eta_seconds: Option<f64>,
    /// Rows compared.
    pub counts: Counts,
    /// Rows that differ and were too many to be kept by key.
    pub not_listed: u64,
    /// Each table.
    pub tables: Vec<TableReport>,
    /// Other processes that take part, and what they did since they came, whichever walk it was for.
    #[serde(default)]
    pub workers: Vec<WorkerReport>,
}

/// One table of a [`Report`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its qualified name.
    pub table: String,
    /// Rows, as the primary's statistics guessed.
    pub rows_estimated: u64,
    /// Bytes on the primary when it was looked at.
    pub bytes_estimated: u64,
    /// Rows copied.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Of this pass, what is done: 0 to 1.
    pub done: f64,
    /// Rows compared.
    pub counts: Counts,
    /// Why it was left out.
    pub refused: Option<String>,
    /// Columns that are copied and not compared: their types are too different on the two sides.
    #[serde(default)]
    pub not_compared: Vec<String>,
}

/// How fast the pass goes, for the estimate of its end.
#[derive(Debug, Default)]
pub(super) struct Pace {
    of: Option<(u64, State)>,
    began: Option<(Instant, f64)>,
}

impl Pace {
    pub(super) fn eta(&mut self, report: &Report) -> Option<f64> {
        let now = Instant::now();
        let of = Some((report.number, report.state));
        if self.of != of || self.began.is_none() {
            self.of = of;
            self.began = Some((now, report.done));
        }
        let (began, from) = self.began?;
        let (took, gained) = ((now - began).as_secs_f64(), report.done - from);
        (gained > 0.0 && took >= 1.0).then(|| took * (1.0 - report.done) / gained)
    }
}

pub(super) fn report(job: &Job) -> Report {
    let tables: Vec<TableReport> = job
        .tables
        .iter()
        .map(|table| TableReport {
            table: table.name.clone(),
            rows_estimated: table.rows,
            bytes_estimated: table.bytes,
            rows: table.copied().rows,
            bytes: table.copied().bytes,
            done: share(table.progress(), job.state),
            counts: table.counts(),
            refused: table.refused.clone(),
            not_compared: table.not_compared.clone(),
        })
        .collect();
    let add = |(done, all): (u64, u64), (more, of): (u64, u64)| (done + more, all + of);
    let left = job.tables.iter().filter(|table| table.refused.is_none()).map(|table| table.progress());
    Report {
        number: job.number,
        request: job.request.clone(),
        state: job.shown(),
        why: job.why.clone(),
        began_unix: job.began_unix,
        ended_unix: job.ended_unix,
        rows: tables.iter().map(|table| table.rows).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        done: share(left.fold((0, 0), add), job.state),
        next_unix: None,
        eta_seconds: None,
        counts: job.counts(),
        not_listed: 0,
        tables,
        workers: Vec::new(),
    }
}

/// What is done of a pass: of one that was not begun nothing, of an empty one all.
fn share((done, all): (u64, u64), state: State) -> f64 {
    match state {
        State::Done => 1.0,
        State::Copying | State::CatchingUp | State::Verifying if all == 0 => 1.0,
        _ if all == 0 => 0.0,
        _ => done as f64 / all as f64,
    }
}
