//! What a payment that is on the secondary leaves behind: in the ledgers, in the book, and owed once more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::journal::Lsn;
use crate::mirror::handle::owe;
use crate::mirror::parked;
use crate::record::{Reason, RecordBuf, TableId};

use super::super::copier::{Copier, Paid, Snapshot};
use super::super::ledger::Cut;
use super::super::retention::Payment;
use super::{Engine, Error};

impl<C: Copier> Engine<C> {
    /// The payment is on the secondary.
    pub(super) async fn settled(
        &mut self,
        cut: &Cut,
        snapshot: &Snapshot,
        paid: &Paid,
        exact: bool,
        took: Duration,
    ) -> Result<(), Error> {
        let now = Instant::now();
        self.follow_renamed(paid).await?;
        // Before a mark is taken for answered: whoever wants the table again must not find it trusted.
        self.desk.leave_out(&paid.left_out).await?;
        self.record_refused(cut, paid, exact).await?;
        self.book.settle();
        self.record_repairs(cut, paid).await?;
        self.forget_made(now).await?;
        self.book.note(None, paid.tables.iter().copied());
        self.keep(cut, snapshot, paid.payments, now);
        self.make_room(paid).await?;
        if exact {
            self.owe_provisional();
        }
        self.stale = 0;
        self.backoff.reset();
        self.last_contact = now;
        self.next_payment = now + took.clamp(self.config.pause_min, self.config.pause_max);
        self.report(paid, exact, took);
        self.trim(now).await
    }

    /// What is said of tables by names that they had is said of those that they have. What is refused follows in
    /// [`crate::mirror::parked::Parked::paid`].
    async fn follow_renamed(&mut self, paid: &Paid) -> Result<(), Error> {
        if paid.renamed.is_empty() {
            return Ok(());
        }
        self.ledger.renamed(&paid.renamed);
        for renamed in &paid.renamed {
            debug!(table = renamed.name, "a table got another name");
            self.dirty.note_renamed(renamed.from, renamed.to, renamed.is_gone);
        }
        self.dirty.saved().await?;
        Ok(())
    }

    async fn record_refused(&mut self, cut: &Cut, paid: &Paid, exact: bool) -> Result<(), Error> {
        for refused in &paid.refused {
            warn!(
                table = refused.name,
                whole = refused.key.is_none(),
                why = refused.why,
                "the secondary refuses: parked"
            );
        }
        let here = self.journal.appended();
        for table in self.parked.paid(cut.owed(), paid, exact).await? {
            self.dirty.mark(table, Reason::Refused, here).await?;
        }
        for &table in &paid.bereft {
            if self.dirty.get(table).is_none() {
                warn!(
                    table = table.0,
                    "rows of it may have gone with those of a table that the secondary refuses: dirty"
                );
            }
            self.dirty.mark(table, Reason::Refused, here).await?;
        }
        for large in &paid.large {
            warn!(table = large.name, why = large.why, "too large for one payment: dirty");
            self.dirty.mark(large.table, Reason::Large, here).await?;
            // What is taken for small would be owed whole again: it is measured anew.
            self.large.0.retain(|table, _| *table != large.table && !large.owed.contains(table));
        }
        // Whoever owed them, an operator too, relies on their being made equal.
        if !paid.large.is_empty() {
            self.desk.mend(paid.large.iter().map(|large| large.table));
        }
        Ok(())
    }

    /// Schema changes that were refused are listed no longer when what they make is there, whoever made it.
    async fn forget_made(&mut self, now: Instant) -> Result<(), Error> {
        if now < self.next_look || self.parked.is_empty() {
            return Ok(());
        }
        self.next_look = now + self.config.heartbeat;
        let entries: Vec<parked::Entry> =
            self.parked.list().into_iter().filter(|entry| entry.change().is_some()).collect();
        if entries.is_empty() {
            return Ok(());
        }
        let changes: Vec<Box<[u8]>> = entries.iter().filter_map(|entry| Some(entry.change()?.into())).collect();
        let moot = self.copier.moot(&changes).await?;
        for (entry, _) in entries.iter().zip(moot).filter(|(_, moot)| *moot) {
            info!(object = entry.name, "what the secondary refused to make is there, or is no longer wanted");
            self.parked.discard(&entry.id()).await?;
        }
        Ok(())
    }

    /// Tables copied whole are clean, unless they were marked after the cut or an open unit may still change them. What only a
    /// want of room had copied is not: nothing owes it again if the secondary loses it.
    async fn record_repairs(&mut self, cut: &Cut, paid: &Paid) -> Result<(), Error> {
        let whole = |table: &&TableId| {
            !paid.refused.iter().any(|refused| refused.key.is_none() && refused.table == **table)
                && !paid.large.iter().any(|large| large.table == **table || large.owed.contains(table))
        };
        let recorded = cut.owed().whole().filter(|(table, coarse)| *table != TableId::NONE && !coarse);
        for (owed, _) in recorded.filter(|(table, _)| !self.ledger.may_dirty(*table)) {
            for table in paid.names(owed).iter().filter(whole) {
                if !self.ledger.may_dirty(*table) && self.dirty.repaired(*table, cut.upto).await? {
                    let left_out = paid.left_out.contains(table);
                    info!(table = table.0, left_out, "table repaired");
                }
            }
        }
        Ok(())
    }

    /// Keep the payment owable, and let go of those that nobody can lose any more.
    fn keep(&mut self, cut: &Cut, snapshot: &Snapshot, number: u64, now: Instant) {
        if let Some(standing) = &mut self.standing {
            standing.payments = number;
            standing.place = standing.place.map(|_| self.journal.place());
        }
        self.book.paid();
        if let Some(oldest) = cut.oldest() {
            let ddl = cut.ddl_records().map(|(lsn, _)| lsn).collect();
            self.retention.push(Payment { number, written: snapshot.written, oldest, at: now, ddl });
        }
        self.retention.flushed(snapshot.flushed);
        let floor = self.retention.release(self.config.retention, now);
        self.book.note(floor, self.ledger.take_tables());
    }

    /// What waits for a lock must not keep the journal until it is full, and every table that is written to dirty: its tables are,
    /// and with them those that only it could name.
    async fn make_room(&mut self, paid: &Paid) -> Result<(), Error> {
        if !self.ledger.held_by_aside().is_some_and(|from| self.journal.is_filled_from(from)) {
            return Ok(());
        }
        let mut tables = self.ledger.aside_tables();
        tables.extend(paid.waiting.iter().flat_map(|waiting| waiting.owed.iter().chain(&waiting.along)));
        tables.remove(&TableId::NONE);
        let here = self.journal.appended();
        tables.iter().for_each(|table| self.dirty.note(*table, Reason::Journal, here));
        for waiting in &paid.waiting {
            let then = "the journal must not fill: it is dirty, with the tables whose rows go along with its";
            warn!(table = waiting.name, why = waiting.why, "waits for too long: {then}");
        }
        self.dirty.saved().await?;
        self.ledger.give_up_aside();
        Ok(())
    }

    /// What inexact payments parked is tried once more, now that nothing unpaid can be in its way. What a full journal does
    /// not take is tried behind the next payment: this one's trim may make the room.
    pub(super) fn owe_provisional(&self) {
        for entry in self.parked.provisional() {
            if let Some(key) = &entry.key {
                let mut record = RecordBuf::default();
                record.key(entry.table(), key, true);
                if owe(&self.journal, &mut record).is_err() {
                    return;
                }
            }
            self.parked.tried(&entry);
        }
    }

    /// Give up the part of the journal that nobody needs; at most once a second, because the book is synced first.
    pub(super) async fn trim(&mut self, now: Instant) -> Result<(), Error> {
        let needed = self.needed();
        let kept = self.on_trial.load(Ordering::Relaxed);
        if kept || now < self.next_trim || needed <= self.journal.trimmed() {
            return Ok(());
        }
        self.next_trim = now + Duration::from_secs(1);
        let forgotten = self.journal.forgotten();
        self.book.trim(forgotten).await?;
        self.dirty.trimmed(forgotten);
        self.journal.trim(needed);
        Ok(())
    }

    /// Below it nobody needs the journal.
    fn needed(&self) -> Lsn {
        self.retention.oldest().map_or(self.ledger.paid(), |oldest| oldest.min(self.ledger.paid()))
    }

    /// Nothing is left to be trimmed before this open unit.
    pub(super) fn is_held_up_by(&self, open: Lsn) -> bool {
        self.needed() == open && open <= self.journal.trimmed()
    }
}
