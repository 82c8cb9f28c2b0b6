//! How the engine reads the journal: as far as its memory goes, again where that was too little, and ahead for the end of units
//! that nobody ended. Both servers are told meanwhile that we are alive.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::journal::{self, Lsn};
use crate::record::Backend;

use super::super::copier::Copier;
use super::{Engine, Error};

/// Of how many processes [`Status::undecided`] tells.
///
/// [`Status::undecided`]: crate::mirror::handle::Status::undecided
const UNDECIDED: usize = 10;

/// How often the copier may say that we are alive while we do something else. What a server takes for silence is longer.
const BEAT: Duration = Duration::from_secs(1);

impl<C: Copier> Engine<C> {
    pub(super) fn behind(&self) -> bool {
        self.ledger.keys() >= self.config.owed_keys_max
    }

    /// Read the journal as far as it is appended now, or until `keys` keys are owed. False: there is more.
    pub(super) async fn advance(&mut self, keys: usize) -> Result<bool, Error> {
        let appended = self.journal.appended();
        loop {
            let left = self.ledger.to_recall();
            if left.is_none() && self.ledger.next() >= appended {
                return Ok(self.ledger.is_whole());
            }
            if self.ledger.keys() >= keys {
                return Ok(false);
            }
            match left {
                Some(from) => self.recall(from).await?,
                None => self.read_batch().await?,
            }
        }
    }

    /// Read again what was too much to be kept.
    async fn recall(&mut self, from: Lsn) -> Result<(), Error> {
        let journal = self.journal.clone();
        let (entries, _) = self.beside(journal.read(from, self.config.read_bytes)).await??;
        self.ledger.recall(entries).map_err(|why| Error::Malformed { at: from, why })?;
        // What is owed is never trimmed.
        if self.ledger.to_recall() == Some(from) { Err(journal::Error::Trimmed(from).into()) } else { Ok(()) }
    }

    async fn read_batch(&mut self) -> Result<(), Error> {
        let from = self.ledger.next();
        let journal = self.journal.clone();
        let reading = journal.read(from, self.config.read_bytes);
        let (entries, next) = self.beside(reading).await??;
        let now = Instant::now();
        let read = entries.into_iter().try_for_each(|entry| self.ledger.read(entry, now));
        if read.is_ok() {
            self.ledger.batch_read(from, next);
        }
        self.note_marks().await?;
        read.map_err(|why| Error::Malformed { at: self.ledger.next(), why })
    }

    /// Do work of our own; both servers are told meanwhile that we are alive, for a snapshot may be open.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep(BEAT) => {}
            }
            self.copier.beat().await?;
        }
    }

    pub(super) async fn beat(&mut self) -> Result<(), Error> {
        self.copier.beat().await?;
        self.last_contact = Instant::now();
        Ok(())
    }

    /// Dirty marks are durable before anything can trim their records.
    pub(super) async fn note_marks(&mut self) -> Result<(), Error> {
        while let Some(mark) = self.ledger.first_mark() {
            let dirty = self.dirty.clone();
            self.beside(dirty.mark(mark.table, mark.reason, mark.at)).await??;
            self.ledger.drop_mark();
        }
        Ok(())
    }

    /// Ask which of the units that nobody ended can no longer do anything. Always before a snapshot, never inside one.
    pub(super) async fn ask_gone(&mut self, now: Instant) -> Result<(), Error> {
        let lost_after = self.lost_after(*self.pace.borrow());
        let since = now - lost_after;
        let (backends, prepared) = self.ledger.lost(since);
        let mut gone = self.copier.gone(&backends, &prepared).await?;
        let (below, asked) = (self.gone_below, backends.len());
        let is_gone = |backend: &Backend| backend.life != 0 && backend.life <= below.0;
        let (before, left): (Vec<Backend>, Vec<Backend>) = backends.into_iter().partition(is_gone);
        let mut undecided: Vec<u32> =
            left.iter().filter(|backend| !gone.backends.contains(backend)).map(|backend| backend.id).collect();
        undecided.sort_unstable();
        undecided.dedup();
        undecided.truncate(UNDECIDED);
        self.status.send_if_modified(|status| std::mem::replace(&mut status.undecided, undecided.clone()) != undecided);
        gone.backends.extend(before);
        // An outcome that was written meanwhile says more than the proof, and so does the record that makes a part more than a
        // part, or names what it became. What is not read yet may hold them: behind a backlog the proof is asked for again.
        let written = self.journal.appended();
        self.advance(self.config.owed_keys_max).await?;
        if self.ledger.next() >= written || self.scout(written).await? {
            let ended = self.ledger.gone(&gone, since);
            debug!(asked, ended, "units without an outcome");
        }
        self.next_gone = Instant::now() + lost_after;
        self.last_contact = Instant::now();
        self.note_marks().await
    }

    /// What fills the memory cannot be paid before a schema change has ended, and that it did may be said only behind it: look
    /// ahead for what is said of open units. True: as far as this.
    async fn scout(&mut self, written: Lsn) -> Result<bool, Error> {
        if !self.put_off || !self.ledger.schema_in_doubt() {
            return Ok(false);
        }
        let here = self.ledger.next();
        let (_, mut at) = self.scouted.filter(|(from, _)| *from == here).unwrap_or((here, here));
        let journal = self.journal.clone();
        while at < written {
            let (entries, next) = self.beside(journal.read(at, self.config.read_bytes)).await??;
            let scouted = entries.into_iter().try_for_each(|entry| self.ledger.scout(entry));
            scouted.map_err(|why| Error::Malformed { at, why })?;
            at = next;
            self.scouted = Some((here, at));
        }
        Ok(true)
    }
}
