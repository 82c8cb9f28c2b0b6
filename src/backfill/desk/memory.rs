//! What the desk has in memory: the page, what is under way, and what holds it up.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::journal::Lsn;
use crate::mirror::dirty::unix_now;

use super::super::job::{Job, Line};
use super::super::report::Pace;
use super::super::request::{Kind, Request};
use super::super::walked::Walked;
use super::super::work::{Chunk, Outcome, Paid, Pass};
use super::owing::Owing;
use super::page::Page;
use super::{Settled, Throttle, tell};

#[derive(Debug)]
pub(super) struct Memory {
    pub(super) page: Page,
    /// The page is not as the file has it.
    pub(super) unsaved: bool,
    /// The mirror towards the primary was begun, for a switch that may end before its flip. It is paused, and nothing is done
    /// for the page meanwhile. Not in the file: which side is the primary the next process is told.
    pub(super) on_trial: bool,
    /// No chunk is given out after this.
    pub(super) until: Option<Instant>,
    /// Nor before this.
    pub(super) lent_until: Option<Instant>,
    pub(super) paid: Paid,
    /// What was known when the state was taken.
    pub(super) before: Option<Before>,
    /// Until all of it is in the journal.
    pub(super) owing: VecDeque<Owing>,
    pub(super) found: Vec<Line>,
    /// Chunks that were reported since the last state.
    pub(super) reported: usize,
    pub(super) throttled: Option<Throttle>,
    /// What a side said that is in the way.
    pub(super) hindrance: Option<String>,
    /// Which side is left alone until when, and why.
    pub(super) rest: Option<(Throttle, Instant, String)>,
    /// Bytes that may be copied, and since when.
    pub(super) budget: f64,
    pub(super) budget_at: Instant,
    pub(super) pace: Pace,
}

/// What to go back to, if nothing of what was done at a state is known to have happened.
#[derive(Debug)]
pub(super) struct Before {
    /// The job's number, and its tables.
    pub(super) job: u64,
    pub(super) tables: Vec<Walked>,
    /// So much was still to be owed.
    pub(super) owing: usize,
}

impl Memory {
    /// A new job; its number.
    pub(super) fn begin(&mut self, request: Request, round: u64) -> u64 {
        let page = &mut self.page;
        page.number += 1;
        page.not_listed = 0;
        let (kind, number) = (request.kind, page.number);
        tracing::info!(number, round, kind = kind.as_str(), tables = ?request.tables, "history: asked for");
        page.jobs.insert(kind, Job::new(number, request, unix_now()).of_round(round));
        self.unsaved = true;
        number
    }

    /// So many chunks were reported: the job goes on to its next pass if this one is over.
    pub(super) fn settle(&mut self, appended: Lsn, paid: Paid, reported: usize) -> Settled {
        self.paid = paid;
        let Some(job) = self.page.current_mut() else { return Settled::default() };
        job.recall();
        let moved = job.advance(appended, &self.paid, unix_now());
        if moved {
            tell(job);
        }
        let over = job.state.is_over().then(|| job.clone());
        let clean = over.as_ref().map(|job| job.clean().collect()).unwrap_or_default();
        over.iter().for_each(|job| self.page.learn(job));
        self.page.ordered();
        self.unsaved |= moved || reported > 0;
        if let Some(job) = self.page.current_mut() {
            self.unsaved |= job.reserve();
        }
        Settled { clean, idle: reported == 0 && !moved }
    }

    /// The page as the disk shall have it: a chunk of which something is still to be owed is not done.
    pub(super) fn kept(&self) -> Page {
        let mut page = self.page.clone();
        for Owing { chunk, keys, crowd, again, .. } in &self.owing {
            let Some(job) = page.current_mut().filter(|job| job.number == chunk.job) else { continue };
            if *again { job.owed(chunk, (keys.len() as u64, *crowd), Lsn(0)) } else { job.open(chunk) }
        }
        page
    }

    /// What came of a chunk whose job was cancelled meanwhile. What it wrote is there; what the mirror must copy of it is owed all
    /// the same, or it would stay as no client left it.
    pub(super) fn put_late(&mut self, chunk: Chunk, outcome: Outcome) {
        let keys: Vec<Box<[u8]>> = match outcome {
            _ if chunk.pass != Pass::Copy => return,
            Outcome::Done(landed) => {
                landed.refused.into_iter().chain(landed.differing.into_iter().map(|one| one.key)).collect()
            }
            Outcome::Refused(keys, _) => keys,
            Outcome::Moved | Outcome::Dense | Outcome::Unreadable(_) | Outcome::Waits(_) => Vec::new(),
        };
        let (table, jobs) = (chunk.table, &self.page.jobs);
        // Another one may have taken the place of its job, and not know the table yet.
        let job = jobs.get(&Kind::Backfill).filter(|job| !job.name(table).is_empty());
        let labels: Option<Vec<u64>> = job.map(|job| job.labels(table).map(|label| label.0).collect());
        let name = job.map_or(String::new(), |job| job.name(table).to_owned());
        self.page.came(table, &name, labels.unwrap_or_else(|| vec![table.0]));
        self.owing.push_back(Owing::once(chunk, keys));
        (self.reported, self.unsaved) = (self.reported + 1, true);
    }

    /// What is to be mended, if there is anything.
    pub(super) fn begin_mends(&mut self) -> bool {
        let labels: Vec<u64> = std::mem::take(&mut self.page.mends).into_iter().collect();
        if labels.is_empty() {
            return false;
        }
        self.page.number += 1;
        let (number, tables) = (self.page.number, labels.len());
        tracing::info!(number, tables, "history: dirty tables are compared and mended");
        self.page.mending = Some(Job::mending(number, labels, unix_now()));
        self.unsaved = true;
        true
    }

    /// The next round of what is due first.
    pub(super) fn begin_due(&mut self) {
        let due = self.page.standing.values_mut().filter(|standing| standing.next_unix.is_some());
        let Some(standing) = due.min_by_key(|standing| standing.next_unix) else { return };
        standing.next_unix = None;
        let (request, round) = (standing.request.clone(), standing.rounds);
        standing.rounds += 1;
        self.begin(request, round);
    }

    /// Why it waits.
    pub(super) fn why(&self) -> Option<String> {
        let why = self.throttled?.why();
        Some(self.hindrance.as_ref().map_or_else(|| why.to_owned(), |said| format!("{why}: {said}")))
    }

    /// Let the budget grow, one second's worth at most; when there is some again, if there is none.
    pub(super) fn refill(&mut self, rate: u64, now: Instant) -> Option<Instant> {
        let gained = now.saturating_duration_since(self.budget_at).as_secs_f64() * rate as f64;
        self.budget = (self.budget + gained).min(rate as f64);
        self.budget_at = now;
        let missing = if rate > 0 && self.budget <= 0.0 { 1.0 - self.budget } else { return None };
        Some(now + Duration::from_secs_f64((missing / rate as f64).min(60.0)))
    }
}
