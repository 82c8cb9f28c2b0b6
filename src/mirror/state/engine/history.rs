//! What is done at a payment's snapshot before it is over: it is lent to twins, and history is walked over.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use crate::backfill::desk::{Errand, Throttle};
use crate::backfill::work::Stage;
use crate::journal::Lsn;
use crate::mirror::handle::{Pace, behind_marks};

use super::super::copier::{self, Copier};
use super::{Engine, Error};

impl<C: Copier> Engine<C> {
    /// Somebody waits for twins, and nobody for the mirror.
    pub(super) fn may_lend(&self) -> bool {
        self.twins.are_wanted() && *self.pace.borrow() == Pace::Usual
    }

    /// S is paid, and kept: it is lent, and kept on if history is walked over.
    pub(super) async fn lend(&mut self, walk: bool) -> Result<(), copier::Error> {
        let hold = self.desk.options().hold;
        self.copier.lend(&self.twins, hold).await?;
        if walk { Ok(()) } else { self.copier.release().await }
    }

    /// What history wants; nothing while clients wait for the mirror, or an operator holds it.
    pub(super) fn errand(&self, now: Instant) -> Result<Errand, Option<Instant>> {
        if *self.pace.borrow() != Pace::Usual {
            return Err(None);
        }
        let lag = self.ledger.ended_seen().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let errand = self.desk.errand(now, lag)?;
        if errand == Errand::Walk && self.ledger.schema_in_doubt() {
            // Its tables may be as they were before it or behind it, and nobody knows which tables it concerns.
            self.desk.hindered(Throttle::Schema, None);
            return Err(Some(now + self.config.pause_max));
        }
        // At a state that lacks what a table owes nothing is walked over; the next payment may be whole.
        if let Some(held) = self.held.first().filter(|_| errand == Errand::Walk) {
            self.desk.hindered(Throttle::Schema, Some(format!("{}: {}", held.table, held.why)));
        }
        Ok(errand)
    }

    /// What history relies on. A schema change that is ending is waited for: a survey sees it before it is owed.
    fn paid_for_history(&self) -> Lsn {
        if self.ledger.schema_in_doubt() { self.ledger.paid() } else { self.ledger.ended_paid() }
    }

    /// Look where history lies.
    pub(super) async fn survey(&mut self) -> Result<(), Error> {
        self.provision(Stage::Tables).await?;
        self.heed_writers().await?;
        let (began, asked) = (behind_marks(&self.journal, &self.dirty), Instant::now());
        let found = match self.copier.survey().await {
            Ok(found) => found,
            Err(copier::Error::Stale(why)) => {
                self.go_stale(&why);
                self.desk.rests(Throttle::Schema, asked.elapsed().max(self.config.pause_min), why);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.last_contact = Instant::now();
        self.book.note(None, self.ledger.take_tables());
        let at = behind_marks(&self.journal, &self.dirty);
        self.desk.surveyed(found, (began, at));
        self.desk.settle(&self.journal, self.paid_for_history(), None).await?;
        Ok(())
    }

    /// Have made on the secondary what it lacks, if that is asked for now.
    async fn provision(&mut self, at: Stage) -> Result<(), Error> {
        let Some((request, stage)) = self.desk.makes().filter(|(_, stage)| *stage == at) else { return Ok(()) };
        if let Some(unmade) = self.copier.provision(&request, stage).await? {
            self.desk.made(stage, unmade, Vec::new());
        }
        self.last_contact = Instant::now();
        Ok(())
    }

    /// S is paid, and kept: history is copied and compared at it.
    pub(super) async fn walk(&mut self) -> Result<u64, copier::Error> {
        self.desk.open_at(Instant::now(), self.paid_for_history());
        let desk = self.desk.clone();
        self.copier.walk(&desk).await
    }

    /// S is over.
    pub(super) async fn walked(&mut self, walked: Result<u64, copier::Error>) -> Result<(), Error> {
        let now = Instant::now();
        self.last_contact = now;
        if let (Ok(payments), Some(standing)) = (&walked, &mut self.standing) {
            standing.payments = *payments;
        }
        if walked.is_ok() {
            self.provision(Stage::Rest).await?;
        }
        let paid = self.paid_for_history();
        let settled = self.desk.settle(&self.journal, paid, walked.as_ref().ok().copied()).await?;
        // Where nothing can be done before something is paid, asking at once would be all that is done.
        self.next_walk = if settled.idle { now + self.config.pause_max } else { now };
        for (table, since) in settled.clean {
            if !self.ledger.may_dirty(table) && self.dirty.repaired(table, since).await? {
                info!(table = table.0, "table found equal");
            }
        }
        match walked {
            Err(copier::Error::Stale(why)) => {
                self.desk.survey_again();
                self.go_stale(&why);
                Ok(())
            }
            walked => {
                walked?;
                Ok(())
            }
        }
    }
}
