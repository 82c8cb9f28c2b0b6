//! What the desk's file holds: jobs, what is done again and again, and what is known of each table.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::mirror::dirty::unix_now;
use crate::record::{Side, TableId};

use super::super::job::Job;
use super::super::request::{Kind, Request};
use super::super::trust::Trust;

/// What the file holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Page {
    /// What people asked for: the last of each kind.
    pub(super) jobs: BTreeMap<Kind, Job>,
    /// The last that nobody asked for: it takes nobody's report away.
    #[serde(default)]
    pub(super) mending: Option<Job>,
    /// What is done again and again.
    #[serde(default)]
    pub(super) standing: BTreeMap<Kind, Standing>,
    /// Labels of tables that are to be compared and mended when nothing else is under way.
    #[serde(default)]
    pub(super) mends: BTreeSet<u64>,
    /// The side that jobs read from.
    pub(super) primary: Option<Side>,
    pub(super) number: u64,
    pub(super) not_listed: u64,
    /// Tables whose rows on the secondary are ours.
    pub(super) copied: BTreeSet<u64>,
    /// What is known of each table's history.
    #[serde(default)]
    pub(super) trust: Trust,
    /// Tables of the target that were copied or compared at some time: of the others nobody knows.
    #[serde(default)]
    pub(super) seen: BTreeSet<u64>,
    /// The secondary's payment counter, as far as chunks were done.
    pub(super) landed: u64,
    /// Chunks may be lent: what is done of one may arrive so many milliseconds after this process ended.
    #[serde(default)]
    pub(super) lends_ms: Option<u64>,
}

/// A request that is done again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) request: Request,
    /// How often it was begun.
    pub(super) rounds: u64,
    /// When the next one is due, in seconds since the epoch; none while one is under way.
    pub(super) next_unix: Option<u64>,
}

impl Page {
    pub(super) fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().chain(&self.mending)
    }

    pub(super) fn current(&self) -> Option<&Job> {
        self.all().find(|job| !job.state.is_over())
    }

    pub(super) fn current_mut(&mut self) -> Option<&mut Job> {
        self.jobs.values_mut().chain(&mut self.mending).find(|job| !job.state.is_over())
    }

    /// What is said of this kind: what is under way, else what came last.
    pub(super) fn shown(&self, kind: Kind) -> Option<&Job> {
        let of_kind = || self.all().filter(|job| job.request.kind == kind);
        of_kind().find(|job| !job.state.is_over()).or_else(|| of_kind().max_by_key(|job| job.number))
    }

    /// The other side is written now. What was not known to be equal there is not known to be when it is the secondary again.
    pub(super) fn forget(&mut self) {
        if let Some(job) = self.current().cloned() {
            self.trust.learn(&job);
        }
        for (table, mut labels) in self.trust.forget() {
            // An older page names no parts.
            labels.extend(self.all().flat_map(|job| job.labels(table)).map(|label| label.0).chain([table.0]));
            labels.iter().for_each(|label| _ = self.seen.remove(label));
        }
    }

    /// What was known of tables with these labels is not known any more; whether anything was.
    pub(super) fn leave_out(&mut self, labels: &BTreeSet<TableId>) -> bool {
        let known = self.seen.len();
        self.seen.retain(|label| !labels.contains(&TableId(*label)));
        let trusted = self.trust.leave_out(labels);
        trusted || self.seen.len() < known
    }

    /// Rows of the table were copied.
    pub(super) fn came(&mut self, table: TableId, name: &str, labels: Vec<u64>) {
        self.seen.extend(labels.iter().copied());
        self.trust.copied(table, name, &labels);
        self.copied.extend(labels);
    }

    /// The job is over, or will go no further.
    pub(super) fn learn(&mut self, job: &Job) {
        self.trust.learn(job);
        let compared: Vec<TableId> = job.verdicts().map(|(table, ..)| table).collect();
        self.seen.extend(compared.into_iter().flat_map(|table| job.labels(table)).map(|label| label.0));
        self.seen.extend(job.has_seen_all().then_some(TableId::NONE.0));
    }

    /// Who asks by name goes first: what was being mended is mended later.
    pub(super) fn step_aside(&mut self) {
        let Some(job) = self.current_mut().filter(|job| job.background) else { return };
        job.cancel(unix_now());
        let (job, mended) = (job.clone(), job.mended());
        self.learn(&job);
        self.mends.extend(mended);
    }

    /// What is done again and again, and is over, gets its next time.
    pub(super) fn ordered(&mut self) {
        for (kind, standing) in &mut self.standing {
            let over = self.jobs.get(kind).is_none_or(|job| job.state.is_over());
            let every = standing.request.every_seconds.unwrap_or_default();
            if over && standing.next_unix.is_none() {
                standing.next_unix = Some(unix_now() + every);
            }
        }
    }

    /// When the next round is due, in seconds since the epoch. However the clock was set, that is no further than from one to the
    /// next.
    pub(super) fn due(&mut self) -> Option<u64> {
        let now = unix_now();
        for standing in self.standing.values_mut() {
            let latest = now.saturating_add(standing.request.every_seconds.unwrap_or_default());
            standing.next_unix = standing.next_unix.map(|next| next.min(latest));
        }
        self.standing.values().filter_map(|standing| standing.next_unix).min()
    }
}
