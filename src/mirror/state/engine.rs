//! The loop that pays what is owed: one task over the journal, a wire's [`Copier`] and the [`Ledger`].
//!
//! ```text
//!             open
//! connecting -------> reading <---------------------------------------------------.
//!     ^                  | something ended, and the pause between payments is over |
//!     |                  v                                                         |
//!     |      gone? -> read -> freeze -> prepare -> snapshot S -> read -> collect -> pay
//!     '---- any error but Stale: the cut goes back to the ledger ------------------'
//! ```
//!
//! There is no tick. Idle, it waits for the journal to grow; an ended unit is paid at once. Under load the pause
//! between two payments follows the length of the last one, so that at most half of the time a snapshot is held, and
//! payments grow instead. A backlog larger than one payment is paid in parts without pauses, read no further ahead than
//! the cap: the journal is the spill.
//!
//! A payment whose answer was lost needs no case of its own: its cut is owed again, and paying twice is harmless
//! (promise 5). Schema changes are not harmless twice; [`super::book`] tells how they run once.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ::metrics::{Counter, Histogram};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backfill::desk::{self, Errand};
use crate::backfill::{self, Desk};
use crate::journal::{self, Journal, Lsn, Place};
use crate::metrics;
use crate::mirror::backoff::Backoff;
use crate::mirror::beside;
use crate::mirror::dirty::Dirty;
use crate::mirror::durable::{self, Durable};
use crate::mirror::handle::{Handle, Held, Mending, Pace, Phase, Status, behind_marks};
use crate::mirror::parked::Parked;
use crate::mirror::twins::Twins;
use crate::record::{Malformed, Reason, TableId};

use super::book::Book;
use super::copier::{self, Copier, Paid, Snapshot, Standing};
use super::ledger::{Cut, Ledger, Mark};
use super::retention::Retention;

mod history;
mod read;
mod repair;
mod settle;
mod waits;

/// Between two looks at the primary's transactions.
const HEED_PAUSE: Duration = Duration::from_secs(1);

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Distinct keys owed in memory; past it the journal is read no further, and the mirror catches up in parts. A
    /// payment may exceed it by a quarter, to stay exact, and by one read of the journal; what waits for a lock by another quarter.
    pub owed_keys_max: usize,
    /// What is kept in memory of units that are still being written, in bytes of their records: more is read again when
    /// it is owed.
    pub parts_bytes_max: usize,
    /// How much of the journal is read at once, in bytes.
    pub read_bytes: usize,
    /// The least pause between two payments.
    pub pause_min: Duration,
    /// The longest pause between two payments, however long they take.
    pub pause_max: Duration,
    /// How long a payment is kept owable after it was made, for a failover of either side.
    pub retention: Duration,
    /// The first pause after a failure.
    pub retry_min: Duration,
    /// The longest pause after failures.
    pub retry_max: Duration,
    /// How often in a row a stale snapshot is taken anew without a pause.
    pub stale_retries: u32,
    /// A unit open for so long is asked about, and again as often.
    pub lost_after: Duration,
    /// An idle engine makes an empty payment so often: it keeps both connections, learns what the primary flushed, and
    /// notices a new life. Below the secondary's `idle_session_timeout`.
    pub heartbeat: Duration,
    /// How long it goes on paying when told to stop.
    pub drain: Duration,
    /// How many keys may be parked.
    pub parked_max: usize,
    /// Dirty tables are repaired without being asked.
    pub self_repair: bool,
    /// They are owed whole up to this size on the primary, in bytes; larger ones are walked over: one payment of them would
    /// hold its snapshot, and all others up, for too long.
    pub whole_bytes_max: u64,
    /// The least time between two repairs.
    pub repair_every: Duration,
    /// Of the jitter between retries.
    pub seed: u64,
    /// How history is walked over.
    pub history: backfill::Options,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            owed_keys_max: 1_000_000,
            parts_bytes_max: 4 << 20,
            read_bytes: 1 << 20,
            pause_min: Duration::from_millis(2),
            pause_max: Duration::from_millis(300),
            retention: Duration::from_secs(60),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(10),
            stale_retries: 5,
            lost_after: Duration::from_millis(500),
            heartbeat: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            parked_max: 10_000,
            self_repair: false,
            whole_bytes_max: copier::WHOLE_BYTES_MAX,
            repair_every: Duration::from_secs(30),
            seed: u64::from(std::process::id()),
            history: backfill::Options::default(),
        }
    }
}

/// Where the engine keeps what must survive a restart.
#[derive(Clone, Debug)]
pub struct Paths {
    pub(super) book: Durable,
    pub(super) parked: Durable,
    pub(super) dirty: Durable,
    pub(super) desk: Desk,
}

impl Paths {
    /// In this directory, which exists, as `mirror-book`, `mirror-parked`, `mirror-dirty`, `history`.
    ///
    /// # Errors
    /// The page of the walk over history cannot be read.
    pub fn in_dir(dir: PathBuf, history: backfill::Options) -> Result<Paths, durable::Error> {
        Ok(Paths {
            desk: Desk::in_dir(&dir, history)?,
            book: Durable::in_dir(&dir, beside::BOOK),
            parked: Durable::in_dir(&dir, "mirror-parked"),
            dirty: Durable::in_dir(&dir, beside::DIRTY),
        })
    }

    /// The handle of an engine over these files.
    ///
    /// # Errors
    /// A ledger cannot be read.
    pub fn handle(&self, config: &Config, journal: Journal) -> Result<Handle, durable::Error> {
        let ledgers = (Parked::open(self.parked.clone(), config.parked_max)?, Dirty::open(self.dirty.clone())?);
        Ok(Handle::new(journal, ledgers, self.desk.clone(), (Mending::Whole, config.self_repair)))
    }

    /// Where the dirty tables are.
    #[cfg(test)]
    pub(crate) fn dirty(&self) -> &Durable {
        &self.dirty
    }

    /// With the dirty tables elsewhere.
    #[cfg(test)]
    pub(crate) fn with_dirty(self, dirty: Durable) -> Paths {
        Paths { dirty, ..self }
    }

    /// With another desk.
    #[cfg(test)]
    pub(crate) fn with(self, desk: Desk) -> Paths {
        Paths { desk, ..self }
    }

    /// In memory, shared by clones: for tests.
    pub fn in_memory() -> Paths {
        Paths {
            book: Durable::in_memory("mirror-book"),
            parked: Durable::in_memory("mirror-parked"),
            dirty: Durable::in_memory("mirror-dirty"),
            desk: Desk::in_memory(),
        }
    }
}

/// Why an attempt ended. All are tried again: what can be mended from outside (a server, a disk, an older binary) is.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Copier(#[from] copier::Error),
    #[error(
        "the primary is another database than the one that this journal is of: correct its url. If it took the place of that one (an \
         upgrade, a copy that was not made of its files), begin with an empty journal.dir and verify every table"
    )]
    Another,
    #[error("journal: {0}")]
    Journal(#[from] journal::Error),
    #[error("journal at {at:?}: {why}; nothing behind it is mirrored until it can be read")]
    Malformed { at: Lsn, why: Malformed },
    #[error(transparent)]
    Durable(#[from] durable::Error),
    #[error(transparent)]
    History(#[from] desk::Error),
}

/// The engine. One a process and direction; [`Engine::run`] is its task.
pub struct Engine<C> {
    config: Config,
    journal: Journal,
    copier: C,
    /// The copier is open already, and this is what its opening learned.
    opened: Option<Standing>,
    ledger: Ledger,
    retention: Retention,
    book: Book,
    parked: Parked,
    dirty: Dirty,
    desk: Desk,
    twins: Twins,
    backoff: Backoff,
    /// What the last connect and the payments since have shown. `payments` is at least what the book's floor says.
    standing: Option<Standing>,
    /// What the secondary kept of a copy of the journal that was further, or of another journal: said, until it keeps another.
    told: Option<Place>,
    /// Who logged in to the primary with the journal below is gone.
    gone_below: Lsn,
    /// When the primary is asked next which transactions are under way.
    next_heed: Instant,
    status: watch::Sender<Status>,
    pace: watch::Receiver<Pace>,
    /// [`Handle::on_trial`].
    on_trial: Arc<AtomicBool>,
    /// Kept so that the receiver lives on when every handle is gone.
    _pacing: watch::Sender<Pace>,
    /// No payment before. Moved by payments and failures.
    next_payment: Instant,
    next_gone: Instant,
    next_trim: Instant,
    next_repair: Instant,
    /// No look before at schema changes that were refused.
    next_look: Instant,
    /// No payment before for the sake of what waits for a lock.
    next_aside: Instant,
    /// Tables that somebody has locked.
    held: Vec<Held>,
    /// What each dirty table was found to be, and when.
    large: (HashMap<TableId, bool>, Instant),
    /// No walk over history before.
    next_walk: Instant,
    last_contact: Instant,
    stale: u32,
    /// How many snapshots in a row met a schema change that is ending, or that takes long.
    doubted: u32,
    /// The last payment left something out until a schema change has ended.
    put_off: bool,
    /// Where reading stood when it was looked ahead, and how far.
    scouted: Option<(Lsn, Lsn)>,
    meters: Meters,
}

/// A payment that is on the secondary.
struct Made {
    snapshot: Snapshot,
    paid: Paid,
    /// The secondary is equal to the primary at the snapshot.
    exact: bool,
    /// The snapshot still is, to be lent.
    lend: bool,
    /// The snapshot still is, for history.
    walk: bool,
}

/// What the loop does next.
enum Step {
    /// Also when nothing is owed: the heartbeat.
    Pay,
    /// Look where history lies.
    Survey,
    /// Owe what is dirty.
    Repair,
    AskGone,
    /// Paused: keep the connections.
    Beat,
    /// Nothing, until this moment comes or the journal grows.
    Wait {
        until: Instant,
        journal: bool,
    },
}

/// As [`Config::lost_after`], while somebody waits for the end.
const LOST_HURRIED: Duration = Duration::from_millis(20);

/// Schema changes that were repeated in less than this may be repeated again.
const PREPARED: Duration = Duration::from_secs(5);

/// Of how many payments back [`Status::recent`] tells.
const RECENT: usize = 16;

/// While there is nobody to pay, the lag is shown as often as this.
const SHOW: Duration = Duration::from_secs(1);

impl<C: Copier> Engine<C> {
    /// An engine over a journal; everything the journal still holds is owed. The files of `paths` are read.
    pub fn new(
        config: Config,
        journal: Journal,
        copier: C,
        paths: Paths,
    ) -> Result<(Engine<C>, Handle), durable::Error> {
        let handle = paths.handle(&config, journal)?;
        let from = handle.journal.trimmed();
        let engine = Engine::succeed(&handle, config, copier, paths.book, from)?;
        Ok((engine, handle))
    }

    /// An engine behind a handle whose last one has ended: the same journal and ledgers, another direction. What the
    /// journal holds from `from` on is owed; `book` is this direction's own.
    pub fn succeed(
        handle: &Handle,
        config: Config,
        copier: C,
        book: Durable,
        from: Lsn,
    ) -> Result<Engine<C>, durable::Error> {
        let from = from.max(handle.journal.trimmed());
        handle.shown.send_replace(Status { paid: from, recent: from, ..Status::default() });
        let now = Instant::now();
        Ok(Engine {
            ledger: Ledger::new(from, config.parts_bytes_max),
            retention: Retention::default(),
            book: Book::open(book)?,
            backoff: Backoff::new(config.retry_min, config.retry_max, config.seed),
            standing: None,
            told: None,
            gone_below: Lsn::default(),
            next_heed: now,
            next_payment: now,
            next_gone: now,
            next_trim: now,
            next_repair: now,
            next_look: now,
            next_aside: now,
            held: Vec::new(),
            large: (HashMap::new(), now),
            next_walk: now,
            last_contact: now,
            stale: 0,
            doubted: 0,
            put_off: false,
            scouted: None,
            meters: Meters::new(),
            config,
            journal: handle.journal.clone(),
            copier,
            opened: None,
            parked: handle.parked.clone(),
            dirty: handle.dirty.clone(),
            desk: handle.desk.clone(),
            twins: handle.twins.clone(),
            status: handle.shown.clone(),
            pace: handle.pace.subscribe(),
            on_trial: handle.on_trial.clone(),
            _pacing: handle.pace.clone(),
        })
    }

    /// Its copier was opened before.
    pub(super) fn is_open(&mut self, opened: Option<Standing>) {
        self.opened = opened;
    }

    /// Pay until told to stop; then go on until everything appended by then is paid, the primary or the secondary is
    /// away, or [`Config::drain`] is over. Dropping the future is as safe as a crash: the journal still owes.
    pub async fn run(mut self, stop: CancellationToken) {
        let bound = self.config.drain;
        tokio::select! {
            biased;
            () = self.work(&stop) => {}
            () = async { stop.cancelled().await; sleep(bound).await } => {
                warn!(lag_keys = self.ledger.keys(), "mirror stopped before everything was paid; the journal keeps the rest");
            }
        }
        self.show(Phase::Stopped);
    }

    #[cfg(test)]
    pub(super) fn copier_mut(&mut self) -> &mut C {
        &mut self.copier
    }

    async fn work(&mut self, stop: &CancellationToken) {
        while let Err(error) = self.attempt(stop).await {
            let pause = self.failed(&error);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.follow(pause) => {}
            }
        }
    }

    /// Wait before the next attempt. The journal is read meanwhile, so that the lag that is shown is the lag there is.
    async fn follow(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        let phase = self.status.borrow().phase;
        // What is wrong with the journal is said by the next attempt.
        while self.advance(self.config.owed_keys_max).await.is_ok() {
            self.show(phase);
            let now = Instant::now();
            if now >= until {
                return;
            }
            sleep_until(until.min(now + SHOW)).await;
        }
        sleep_until(until).await;
    }

    /// Count and show a failure; how long to wait.
    fn failed(&mut self, error: &Error) -> Duration {
        let phase = match error {
            Error::Copier(copier::Error::Fenced(_)) => Phase::Fenced,
            _ => Phase::Failed,
        };
        let pause = self.backoff.pause();
        self.meters.failures.increment(1);
        match error {
            Error::Copier(_) => warn!(%error, retry_in = ?pause, "mirror waits"),
            _ => error!(%error, retry_in = ?pause, "mirror cannot go on"),
        }
        self.status.send_modify(|status| status.error = Some(error.to_string()));
        self.show(phase);
        pause
    }

    /// Connect and pay, until an error or, told to stop, until nothing is left.
    async fn attempt(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        if self.standing.is_none() {
            self.show(Phase::Connecting);
        }
        let (standing, ahead) = match self.opened.take() {
            Some(standing) => (standing, true),
            None => (self.copier.open().await?, false),
        };
        // Its absent rows would be deleted on the secondary. What was opened ahead is of another turn than the book.
        if !ahead && self.book.is_of_another(standing.identity) {
            return Err(Error::Another);
        }
        let place = standing.place;
        self.stand(standing, ahead).await?;
        self.heed_place(place).await?;
        self.last_contact = Instant::now();
        let mut target = None;
        loop {
            self.advance(self.config.owed_keys_max).await?;
            if stop.is_cancelled() {
                let target = *target.get_or_insert_with(|| self.journal.appended());
                if self.ledger.paid() >= target || *self.pace.borrow() == Pace::Paused {
                    return self.trim(Instant::now()).await;
                }
            }
            if self.desk.makes_nothing() {
                self.copier.make_nothing();
            }
            let now = Instant::now();
            match self.step(now) {
                Step::Pay => self.payment().await?,
                Step::Survey => self.survey().await?,
                Step::Repair => self.repair().await?,
                Step::AskGone => self.ask_gone(now).await?,
                Step::Beat => self.beat().await?,
                Step::Wait { until, journal } => {
                    self.trim(now).await?;
                    self.rest();
                    self.wait(until, journal, stop).await;
                }
            }
        }
    }

    fn step(&mut self, now: Instant) -> Step {
        let heartbeat = self.last_contact + self.config.heartbeat;
        let pace = *self.pace.borrow_and_update();
        if pace == Pace::Paused {
            return if heartbeat <= now { Step::Beat } else { Step::Wait { until: heartbeat, journal: false } };
        }
        if self.next_repair <= now && self.repairable() {
            self.next_repair = now + self.config.repair_every;
            return Step::Repair;
        }
        let hurried = pace == Pace::Hurried;
        let gone = self.ledger.open_since().map(|since| (since + self.lost_after(pace)).max(self.next_gone));
        if gone.is_some_and(|at| at <= now) {
            return Step::AskGone;
        }
        let errand = self.errand(now);
        if errand == Ok(Errand::Survey) {
            return Step::Survey;
        }
        let due = self.ledger.due();
        let walk = errand.is_ok() && self.next_walk <= now;
        let lend = self.may_lend();
        let ready = self.next_payment <= now || ((self.behind() || hurried) && self.stale == 0);
        let aside = self.ledger.has_aside().then_some(self.next_aside);
        if heartbeat <= now || ((due || lend) && ready) || walk || aside.is_some_and(|at| at <= now) {
            return Step::Pay;
        }
        let payment = (due || lend).then_some(self.next_payment);
        let repair = self.repairable().then_some(self.next_repair);
        let walk = errand.map_or_else(|later| later, |_| Some(self.next_walk));
        let until = [gone, payment, aside, repair, walk].into_iter().flatten().fold(heartbeat, Instant::min);
        // A payment that waits for the end of the pause reads all that came meanwhile at once.
        Step::Wait { until, journal: !due && !self.behind() }
    }

    fn lost_after(&self, pace: Pace) -> Duration {
        if pace == Pace::Hurried { self.config.lost_after.min(LOST_HURRIED) } else { self.config.lost_after }
    }

    async fn wait(&mut self, until: Instant, journal: bool, stop: &CancellationToken) {
        let stopping = stop.is_cancelled();
        tokio::select! {
            biased;
            () = sleep_until(until) => {}
            () = self.journal.wait_appended(self.ledger.next()), if journal => {}
            _ = self.pace.changed() => {}
            () = self.desk.changed() => {}
            () = self.twins.asked() => {}
            () = stop.cancelled(), if !stopping => {}
        }
    }

    /// What a connect learned: owe again what either side has lost. Nothing before the rewind may fail. `ahead`: it was learned
    /// before this direction's turn, and its book is of an earlier one.
    async fn stand(&mut self, standing: Standing, ahead: bool) -> Result<(), Error> {
        let before = self.standing.replace(standing.clone());
        let mut from = None;
        let mut marks = Vec::new();
        let mut unsure = Vec::new();
        let here = (!ahead).then(|| self.journal.appended());
        let (unsure_below, moved) = self.book.follows(standing.identity, standing.timeline, here);
        if moved {
            // Another server took its place, which may lack what the old one had flushed, paid or not.
            warn!("another server is the primary: it may lack schema changes of the last one, which are parked");
        }
        if moved || before.is_none() && unsure_below > self.journal.trimmed() {
            from = Some(self.journal.trimmed());
        }
        if before.as_ref().is_some_and(|before| before.life != standing.life) {
            let (oldest, changes) = self.retention.lost_by_primary();
            if !moved && !changes.is_empty() {
                let changes = changes.len();
                error!(changes, "the primary may have lost schema changes that the secondary has: they are parked");
            }
            (from, unsure) = ([from, oldest].into_iter().flatten().min(), changes);
            info!(owed_from = ?from, "the primary began another life: what it may have lost is owed again");
        }
        if before.is_some_and(|before| before.payments > standing.payments) {
            let oldest = self.retention.lost_by_secondary(standing.payments);
            // One of them may have been no payment of ours yet: its answer was lost, and what it repeated was called repeated.
            from = [from, oldest, Some(self.ledger.paid())].into_iter().flatten().min();
            warn!(payments = standing.payments, owed_from = ?oldest, "the secondary lost payments: they are owed again");
        }
        let stranger = self.heed_stranger(&standing, ahead);
        if let Some((owed, changes, tables)) = &stranger {
            from = [from, Some(*owed)].into_iter().flatten().min();
            unsure.extend(changes);
            marks.extend(tables.iter().map(|table| (*table, Reason::Lost)));
        }
        if let Some(tables) = self.book.lost(standing.payments) {
            warn!(
                tables = tables.len(),
                "the secondary lost payments that the journal no longer holds: tables are dirty"
            );
            marks.extend(tables.into_iter().map(|table| (table, Reason::Lost)));
        }
        self.gone_below = self.book.meets(standing.timeline, standing.started);
        // Where nothing would be lost nothing is written down.
        let life = if standing.volatile.is_empty() { 0 } else { standing.life };
        let (primary, secondary) = self.book.begins((life, standing.behind.1));
        let emptied = [(primary, &standing.volatile), (secondary, &standing.behind.0)].into_iter();
        let emptied = emptied.filter(|(began, _)| *began && !ahead).flat_map(|(_, tables)| tables);
        let emptied: HashSet<TableId> = emptied.copied().collect();
        if !emptied.is_empty() {
            warn!(tables = emptied.len(), "a side began another life: tables that a crash of it empties are dirty");
            marks.extend(emptied.into_iter().map(|table| (table, Reason::Lost)));
        }
        let copied = self.desk.stand(if stranger.is_some() { 0 } else { standing.payments });
        if !copied.is_empty() {
            warn!(tables = copied.len(), "the secondary lost rows of history: tables are dirty");
            marks.extend(copied.into_iter().map(|table| (table, Reason::Lost)));
        }
        if let Some(from) = from {
            self.ledger.rewind(from);
            self.ledger.unsure(unsure_below, unsure);
            self.scouted = None;
        }
        let at = self.journal.appended();
        marks.into_iter().for_each(|(table, reason)| self.ledger.mark(Mark { table, reason, at }));
        // Before the book forgets that something was lost.
        self.note_marks().await?;
        let repeated = self.book.stand(standing.payments).await?;
        self.ledger.repeated(repeated);
        Ok(())
    }

    /// Another journal's applier paid the secondary last. If this journal's had paid there before, nobody knows what is left of that,
    /// nor what the other one still owes: where this one is owed from, its schema changes that are in doubt, and the tables that
    /// may differ.
    fn heed_stranger(&mut self, standing: &Standing, ahead: bool) -> Option<(Lsn, Vec<Lsn>, HashSet<TableId>)> {
        let place = standing.place.filter(|place| self.is_stranger(*place) && self.told != Some(*place))?;
        self.told = Some(place);
        if ahead {
            // Clients wrote there since: what this direction paid before counts no more.
            return None;
        }
        let other = format!("{:016x}", place.journal);
        let Some((changes, tables)) = self.book.stranger(standing.payments) else {
            let then = "what that one still owes is paid by nobody; tables may differ that are not copied or compared";
            warn!(other, "the secondary was paid from another journal before: {then}");
            return None;
        };
        let tables: HashSet<TableId> = tables.into_iter().chain(self.desk.seen()).collect();
        let owed = self.retention.lost_by_secondary(0).unwrap_or(Lsn(u64::MAX)).min(self.ledger.paid());
        let then = "what that one still owes is paid by nobody; tables are dirty, schema changes in doubt are parked";
        error!(
            other,
            tables = tables.len(),
            changes = changes.len(),
            "the secondary was paid from another journal: {then}"
        );
        Some((owed, changes, tables))
    }

    fn is_stranger(&self, place: Place) -> bool {
        place.journal != self.journal.place().journal
    }

    /// The secondary was paid from further on in this journal than it reaches: its directory is an older copy of itself. What
    /// was written since is owed by nobody, and what lies beside it may be believed of no table.
    async fn heed_place(&mut self, place: Option<Place>) -> Result<(), Error> {
        let news = place.filter(|place| self.journal.was_further(*place) && self.told != Some(*place));
        let Some(place) = news else { return Ok(()) };
        let found = self.copier.survey().await?;
        let at = self.journal.appended();
        let labels: HashSet<TableId> = found.iter().flat_map(|one| one.labels.iter().copied()).collect();
        labels.iter().for_each(|table| self.dirty.note(*table, Reason::Lost, at));
        self.dirty.saved().await?;
        self.told = Some(place);
        let then = "journal.dir is an older copy of itself (a backup, a snapshot of the machine), or lost its end in a power loss that \
            journal.durability does not survive: every table is dirty; compare both schemas too";
        error!(at = at.0, was = place.reached.0, tables = labels.len(), "the journal was further than it is: {then}");
        Ok(())
    }

    /// One payment. Whatever goes wrong, its cut is owed again.
    async fn payment(&mut self) -> Result<(), Error> {
        let catching_up = self.behind();
        self.show(if catching_up { Phase::CatchingUp } else { Phase::Paying });
        self.heed_writers().await?;
        let began = Instant::now();
        let mut cut = self.ledger.freeze();
        match self.pay(&mut cut).await {
            Ok(Made { snapshot, paid, exact, lend, walk }) => {
                let took = began.elapsed();
                if !exact {
                    // Nothing is walked over at such a state: asking at once would be all that is done.
                    self.next_walk = Instant::now() + self.config.pause_max;
                }
                let lent = if lend { self.lend(walk).await } else { Ok(()) };
                let walked = if walk && lent.is_ok() { Some(self.walk().await) } else { None };
                let written_down = self.settled(&cut, &snapshot, &paid, exact, took).await;
                if written_down.is_err() {
                    // What was refused is in no file: owe all of it again.
                    self.ledger.restore(cut);
                }
                written_down?;
                lent?;
                match walked {
                    Some(walked) => self.walked(walked).await,
                    None => Ok(()),
                }
            }
            Err(Error::Copier(copier::Error::Stale(why))) => {
                self.ledger.restore(cut);
                self.go_stale(&why);
                Ok(())
            }
            Err(Error::Copier(copier::Error::Waits(change))) => {
                self.ledger.restore(cut);
                self.wait_behind(change);
                Ok(())
            }
            Err(error) => {
                self.ledger.restore(cut);
                Err(error)
            }
        }
    }

    /// Look which of the writes past the journal are over: what is paid from now on, or begins to be compared, has them.
    async fn heed_writers(&mut self) -> Result<(), Error> {
        // It is a look at every lock of the primary.
        let now = Instant::now();
        if now < self.next_heed || !self.dirty.asks() {
            return Ok(());
        }
        self.next_heed = now + HEED_PAUSE;
        let under_way = self.copier.under_way().await?;
        if self.dirty.calm(&under_way, self.journal.appended()) {
            // The next cut lies behind.
            behind_marks(&self.journal, &self.dirty);
            self.advance(self.config.owed_keys_max).await?;
        }
        Ok(())
    }

    /// Snapshot, collect, pay. The order of the calls is the proof of exactness, see [`Ledger`].
    async fn pay(&mut self, cut: &mut Cut) -> Result<Made, Error> {
        let payments = self.standing.as_ref().map_or(0, |standing| standing.payments);
        self.book.intend(cut.ddl_records(), payments + 1).await?;
        let began = Instant::now();
        if !cut.owed().ddl.is_empty() {
            self.copier.prepare(cut.owed()).await?;
        }
        // What took long is not thrown away: it would take as long again, and meet the next one that is ending.
        let patient = began.elapsed() < PREPARED;
        let durable = self.journal.durable();
        let snapshot = self.copier.snapshot().await?;
        self.book.answered(durable);
        let exact = self.advance(self.config.owed_keys_max / 4).await?;
        let in_doubt = self.ledger.schema_in_doubt();
        self.doubted = if in_doubt { self.doubted.saturating_add(1) } else { 0 };
        if in_doubt && patient && self.doubted <= self.config.stale_retries {
            self.copier.release().await?;
            return Err(copier::Error::Stale("a schema change is ending".into()).into());
        }
        // A backlog is paid for what its cut holds: what else was read is neither all nor needed.
        if exact {
            self.ledger.collect(cut);
        }
        let mut exact = exact && !in_doubt;
        let now = Instant::now();
        let alike = exact && self.held.is_empty();
        let mut walk = alike && self.next_walk <= now && self.errand(now) == Ok(Errand::Walk);
        let mut lend = alike && self.may_lend();
        let claims = self.standing.as_ref().and_then(|standing| standing.place).is_some_and(|at| self.is_stranger(at));
        cut.tell(self.parked.keys(), self.journal.place(), claims);
        let mut paid = self.copier.pay(cut.owed(), lend || walk).await?;
        self.put_off = in_doubt && self.put_off(cut, &mut paid);
        if self.set_aside(cut, &paid) {
            if walk || lend {
                self.copier.release().await?;
            }
            (exact, walk, lend) = (false, false, false);
        }
        Ok(Made { snapshot, paid, exact, lend, walk })
    }

    fn rest(&self) {
        let paused = *self.pace.borrow() == Pace::Paused;
        self.show(match (paused, self.ledger.due()) {
            (true, _) => Phase::Paused,
            (false, false) => Phase::Idle,
            (false, true) => Phase::Paying,
        });
    }

    fn report(&self, paid: &Paid, exact: bool, took: Duration) {
        self.meters.paid(paid, took);
        self.status.send_modify(|status| {
            status.error = None;
            status.exact = exact;
            status.held.clone_from(&self.held);
            status.payments = paid.payments;
            status.paid_keys += paid.keys;
            status.paid_rows += paid.rows;
            status.paid_bytes += paid.bytes;
            status.last_payment = took;
            status.paid = self.ledger.paid();
            status.recent = self.retention.recent(RECENT).unwrap_or(status.recent);
        });
    }

    /// Publish the phase and what the ledger says. While a cut is out nothing of it counts as paid.
    fn show(&self, phase: Phase) {
        self.journal.hold_up_at(self.ledger.first_open().filter(|open| self.is_held_up_by(*open)));
        self.status.send_modify(|status| {
            status.phase = phase;
            status.paid = self.ledger.paid();
            status.lag_records = self.ledger.records();
            status.lag_keys = self.ledger.keys() as u64;
            status.lag_since = self.ledger.oldest_seen();
            status.parked = self.parked.len();
            status.dirty = self.dirty.len();
            if self.ledger.first_open().is_none() {
                status.undecided.clear();
            }
        });
    }
}

/// Handles of the metrics, looked up once.
struct Meters {
    payments: Counter,
    failures: Counter,
    keys: Counter,
    rows: Counter,
    bytes: Counter,
    seconds: Histogram,
}

impl Meters {
    fn new() -> Meters {
        Meters {
            payments: metrics::MIRROR_PAYMENTS_TOTAL.counter(&[]),
            failures: metrics::MIRROR_FAILURES_TOTAL.counter(&[]),
            keys: metrics::MIRROR_PAID_KEYS_TOTAL.counter(&[]),
            rows: metrics::MIRROR_PAID_ROWS_TOTAL.counter(&[]),
            bytes: metrics::MIRROR_PAID_BYTES_TOTAL.counter(&[]),
            seconds: metrics::MIRROR_PAYMENT_SECONDS.histogram(&[]),
        }
    }

    fn paid(&self, paid: &Paid, took: Duration) {
        self.payments.increment(1);
        self.keys.increment(paid.keys);
        self.rows.increment(paid.rows);
        self.bytes.increment(paid.bytes);
        self.seconds.record(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
