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
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::metrics::{Counter, Histogram};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::backfill::desk::{self, Errand, Throttle};
use crate::backfill::work::Stage;
use crate::backfill::{self, Desk};
use crate::journal::{self, Journal, Lsn};
use crate::metrics;
use crate::mirror::backoff::Backoff;
use crate::mirror::dirty::Dirty;
use crate::mirror::durable::{self, Durable};
use crate::mirror::handle::{Handle, Held, Mending, Pace, Phase, Status, behind_marks, owe};
use crate::mirror::parked::{self, Parked};
use crate::mirror::twins::Twins;
use crate::record::{Malformed, Reason, RecordBuf, TableId};

use super::book::Book;
use super::copier::{self, Copier, Paid, Snapshot, Standing, Waiting};
use super::ledger::{Cut, Ledger, Mark};
use super::retention::{Payment, Retention};

/// How often the copier may say that we are alive while we do something else. What a server takes for silence is longer.
const BEAT: Duration = Duration::from_secs(1);

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
            book: Durable::in_dir(&dir, "mirror-book"),
            parked: Durable::in_dir(&dir, "mirror-parked"),
            dirty: Durable::in_dir(&dir, "mirror-dirty"),
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

/// How often it is looked whether a lock is gone for which something owed waits.
const LOOK_AT_LOCKS: Duration = Duration::from_millis(500);

/// Of the keys that are owed at most the share, as a divisor, that may wait for locks.
const ASIDE: usize = 4;

/// How long it is believed how large a table is.
const MEASURED: Duration = Duration::from_secs(600);

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
        let standing = match self.opened.take() {
            Some(standing) => standing,
            None => self.copier.open().await?,
        };
        self.stand(standing).await?;
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

    fn behind(&self) -> bool {
        self.ledger.keys() >= self.config.owed_keys_max
    }

    /// Read the journal as far as it is appended now, or until `keys` keys are owed. False: there is more.
    async fn advance(&mut self, keys: usize) -> Result<bool, Error> {
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
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
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

    async fn beat(&mut self) -> Result<(), Error> {
        self.copier.beat().await?;
        self.last_contact = Instant::now();
        Ok(())
    }

    /// Dirty marks are durable before anything can trim their records.
    async fn note_marks(&mut self) -> Result<(), Error> {
        while let Some(mark) = self.ledger.first_mark() {
            let dirty = self.dirty.clone();
            self.beside(dirty.mark(mark.table, mark.reason, mark.at)).await??;
            self.ledger.drop_mark();
        }
        Ok(())
    }

    /// What a connect learned: owe again what either side has lost. Nothing before the rewind may fail.
    async fn stand(&mut self, standing: Standing) -> Result<(), Error> {
        let before = self.standing.replace(standing.clone());
        let mut from = None;
        let mut marks = Vec::new();
        if before.as_ref().is_some_and(|before| before.life != standing.life) {
            let (oldest, mut schemas) = self.retention.lost_by_primary();
            from = oldest;
            if schemas.extract_if(.., |table| *table == TableId::NONE).count() > 0 {
                error!(
                    "the primary may have lost schema changes of no table that the secondary has: compare both schemas"
                );
            }
            marks.extend(schemas.into_iter().map(|table| (table, Reason::Ddl)));
            info!(owed_from = ?oldest, "the primary began another life: what it may have lost is owed again");
        }
        if before.is_some_and(|before| before.payments > standing.payments) {
            let oldest = self.retention.lost_by_secondary(standing.payments);
            from = [from, oldest].into_iter().flatten().min();
            warn!(payments = standing.payments, owed_from = ?oldest, "the secondary lost payments: they are owed again");
        }
        if let Some(tables) = self.book.lost(standing.payments) {
            warn!(
                tables = tables.len(),
                "the secondary lost payments that the journal no longer holds: tables are dirty"
            );
            marks.extend(tables.into_iter().map(|table| (table, Reason::Lost)));
        }
        let copied = self.desk.stand(standing.payments);
        if !copied.is_empty() {
            warn!(tables = copied.len(), "the secondary lost rows of history: tables are dirty");
            marks.extend(copied.into_iter().map(|table| (table, Reason::Lost)));
        }
        if let Some(from) = from {
            self.ledger.rewind(from);
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

    /// Ask which of the units that nobody ended can no longer do anything. Always before a snapshot, never inside one.
    async fn ask_gone(&mut self, now: Instant) -> Result<(), Error> {
        let lost_after = self.lost_after(*self.pace.borrow());
        let since = now - lost_after;
        let (backends, prepared) = self.ledger.lost(since);
        let gone = self.copier.gone(&backends, &prepared).await?;
        // An outcome that was written meanwhile says more than the proof, and so does the record that makes a part more than a
        // part, or names what it became. What is not read yet may hold them: behind a backlog the proof is asked for again.
        let written = self.journal.appended();
        self.advance(self.config.owed_keys_max).await?;
        if self.ledger.next() >= written || self.scout(written).await? {
            let ended = self.ledger.gone(&gone, since);
            debug!(asked = backends.len(), ended, "units without an outcome");
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

    /// One payment. Whatever goes wrong, its cut is owed again.
    async fn payment(&mut self) -> Result<(), Error> {
        let catching_up = self.behind();
        self.show(if catching_up { Phase::CatchingUp } else { Phase::Paying });
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
        let snapshot = self.copier.snapshot().await?;
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
        cut.tell_parked(self.parked.keys());
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

    /// Somebody waits for twins, and nobody for the mirror.
    fn may_lend(&self) -> bool {
        self.twins.are_wanted() && *self.pace.borrow() == Pace::Usual
    }

    /// S is paid, and kept: it is lent, and kept on if history is walked over.
    async fn lend(&mut self, walk: bool) -> Result<(), copier::Error> {
        let hold = self.desk.options().hold;
        self.copier.lend(&self.twins, hold).await?;
        if walk { Ok(()) } else { self.copier.release().await }
    }

    /// What history wants; nothing while clients wait for the mirror, or an operator holds it.
    fn errand(&self, now: Instant) -> Result<Errand, Option<Instant>> {
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
        Ok(errand)
    }

    /// What history relies on. A schema change that is ending is waited for: a survey sees it before it is owed.
    fn paid_for_history(&self) -> Lsn {
        if self.ledger.schema_in_doubt() { self.ledger.paid() } else { self.ledger.ended_paid() }
    }

    /// Look where history lies.
    async fn survey(&mut self) -> Result<(), Error> {
        self.provision(Stage::Tables).await?;
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
    async fn walk(&mut self) -> Result<u64, copier::Error> {
        self.desk.open_at(Instant::now(), self.paid_for_history());
        let desk = self.desk.clone();
        self.copier.walk(&desk).await
    }

    /// S is over.
    async fn walked(&mut self, walked: Result<u64, copier::Error>) -> Result<(), Error> {
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

    /// A table that is refused while a schema change is ending may differ only until that arrives: what it owes stays
    /// owed. Is there any?
    fn put_off(&mut self, cut: &mut Cut, paid: &mut Paid) -> bool {
        let whole = paid.refused.extract_if(.., |refused| refused.key.is_none());
        let tables: HashSet<TableId> = whole.map(|refused| refused.table).collect();
        if !tables.is_empty() {
            debug!(tables = tables.len(), "owed until the schema change that is ending has arrived");
            self.ledger.restore(cut.split(&tables));
        }
        !tables.is_empty()
    }

    /// What waits for a lock stays owed. Is there any?
    fn set_aside(&mut self, cut: &mut Cut, paid: &Paid) -> bool {
        self.hold(&paid.waiting, "left out of payments");
        let tables: HashSet<TableId> = paid.waiting.iter().flat_map(|waiting| &waiting.owed).copied().collect();
        if !tables.is_empty() {
            let whole = self.ledger.set_aside(cut.split(&tables), self.config.owed_keys_max / ASIDE);
            for table in whole {
                info!(table = table.0, "left out of payments for too many keys: owed whole");
            }
            self.next_aside = Instant::now() + LOOK_AT_LOCKS;
        }
        !tables.is_empty()
    }

    fn hold(&mut self, all: &[Waiting], what: &str) {
        for waiting in all {
            if !self.held.iter().any(|held| held.table == waiting.name) {
                warn!(table = waiting.name, why = waiting.why, "{what}");
            }
        }
        let held = |waiting: &Waiting| Held { table: waiting.name.clone(), why: waiting.why.clone() };
        self.held = all.iter().map(held).collect();
    }

    /// A schema change has its place among the rows, so they wait with it; the connections do no harm.
    fn wait_behind(&mut self, change: Waiting) {
        self.hold(&[change], "the mirror waits behind a schema change");
        let held = &self.held;
        self.status.send_modify(|status| status.held.clone_from(held));
        self.stale += 1;
        let now = Instant::now();
        self.last_contact = now;
        self.next_payment = now + self.backoff.pause();
        self.next_walk = self.next_walk.max(self.next_payment);
        self.next_aside = self.next_aside.max(self.next_payment);
    }

    fn go_stale(&mut self, why: &str) {
        debug!(why, attempt = self.stale, "snapshot thrown away");
        self.stale += 1;
        let pause = if self.stale <= self.config.stale_retries { self.config.pause_min } else { self.backoff.pause() };
        if self.stale > self.config.stale_retries {
            warn!(why, retry_in = ?pause, "mirror waits: no snapshot keeps its schema");
            self.status.send_modify(|status| status.error = Some(why.to_owned()));
        }
        self.next_payment = Instant::now() + pause;
        self.next_walk = self.next_walk.max(self.next_payment);
        self.next_aside = self.next_aside.max(self.next_payment);
    }

    /// The payment is on the secondary.
    async fn settled(
        &mut self,
        cut: &Cut,
        snapshot: &Snapshot,
        paid: &Paid,
        exact: bool,
        took: Duration,
    ) -> Result<(), Error> {
        let now = Instant::now();
        self.follow_renamed(paid).await?;
        self.record_refused(cut, paid, exact).await?;
        self.book.settle();
        self.record_repairs(cut, paid).await?;
        self.forget_made(now).await?;
        self.book.note(None, paid.tables.iter().copied());
        self.keep(cut, snapshot, paid.payments, now);
        if exact {
            self.owe_provisional()?;
        }
        self.stale = 0;
        self.backoff.reset();
        self.last_contact = now;
        self.next_payment = now + took.clamp(self.config.pause_min, self.config.pause_max);
        self.report(paid, exact, took);
        self.trim(now).await
    }

    /// What is said of tables by names that they had is said of those that they have. What is refused follows in
    /// [`Parked::paid`].
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

    /// Tables copied whole are clean, unless they were marked after the cut or an open unit may still change them.
    async fn record_repairs(&mut self, cut: &Cut, paid: &Paid) -> Result<(), Error> {
        let whole = |table: &&TableId| {
            !paid.refused.iter().any(|refused| refused.key.is_none() && refused.table == **table)
                && !paid.large.iter().any(|large| large.table == **table || large.owed.contains(table))
        };
        let is_table = |table: &&TableId| **table != TableId::NONE;
        for &owed in cut.owed().tables.iter().filter(is_table).filter(|table| !self.ledger.may_dirty(**table)) {
            for table in paid.names(owed).iter().filter(whole) {
                if !self.ledger.may_dirty(*table) && self.dirty.repaired(*table, cut.upto).await? {
                    info!(table = table.0, "table repaired");
                }
            }
        }
        Ok(())
    }

    /// Keep the payment owable, and let go of those that nobody can lose any more.
    fn keep(&mut self, cut: &Cut, snapshot: &Snapshot, number: u64, now: Instant) {
        if let Some(standing) = &mut self.standing {
            standing.payments = number;
        }
        if let Some(oldest) = cut.oldest() {
            let ddl = cut.ddl_tables();
            self.retention.push(Payment { number, written: snapshot.written, oldest, at: now, ddl });
        }
        self.retention.flushed(snapshot.flushed);
        let floor = self.retention.release(self.config.retention, now);
        self.book.note(floor, self.ledger.take_tables());
    }

    /// What inexact payments parked is tried once more, now that nothing unpaid can be in its way.
    fn owe_provisional(&mut self) -> Result<(), Error> {
        for entry in self.parked.take_provisional() {
            let mut record = RecordBuf::default();
            if let Some(key) = &entry.key {
                record.key(entry.table(), key, true);
                owe(&self.journal, &mut record)?;
            }
        }
        Ok(())
    }

    /// A table is dirty that no open unit keeps so. The first repair is not waited for, only the next ones are: a table
    /// that is dirtied all the time is copied once in `repair_every`.
    fn repairable(&self) -> bool {
        self.config.self_repair && self.dirty_tables().any(|table| !self.ledger.may_dirty(table))
    }

    /// Those that a payment can make equal: what is said of none is for an operator.
    fn dirty_tables(&self) -> impl Iterator<Item = TableId> {
        self.dirty.list().into_iter().map(|dirty| dirty.table).filter(|table| *table != TableId::NONE)
    }

    /// A full journal is tried again with the next turn.
    async fn repair(&mut self) -> Result<(), Error> {
        let dirty: Vec<TableId> = self.dirty_tables().collect();
        if !self.measure(&dirty).await? {
            return Ok(());
        }
        let (large, small): (Vec<TableId>, Vec<TableId>) =
            dirty.into_iter().partition(|table| self.large.0.get(table) == Some(&true));
        // What is under way may be answering the marks.
        if !large.is_empty() && !self.desk.is_busy() {
            self.desk.mend(large);
        }
        for table in small {
            let mut record = RecordBuf::default();
            record.table(table);
            if owe(&self.journal, &mut record).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Which of these tables are large. What a walk leaves out, or does not know, or cannot compare in all of its columns, is
    /// not: no walk would find it clean. False: that cannot be told now.
    async fn measure(&mut self, tables: &[TableId]) -> Result<bool, Error> {
        let now = Instant::now();
        let (known, at) = &self.large;
        if now.duration_since(*at) < MEASURED && tables.iter().all(|table| known.contains_key(table)) {
            return Ok(true);
        }
        let found = match self.copier.survey().await {
            // A table that was taken for small would be one payment, however long.
            Err(copier::Error::Stale(why)) => {
                debug!(why, "dirty tables are measured later");
                return Ok(false);
            }
            found => found?,
        };
        self.last_contact = now;
        let is_large = |table: &TableId| {
            let of = found.iter().find(|one| one.labels.contains(table));
            let walked = of.filter(|one| one.refused.is_none() && one.not_compared.is_empty());
            walked.is_some_and(|one| one.bytes > self.config.whole_bytes_max)
        };
        self.large = (tables.iter().map(|table| (*table, is_large(table))).collect(), now);
        Ok(true)
    }

    /// Give up the part of the journal that nobody needs; at most once a second, because the book is synced first.
    async fn trim(&mut self, now: Instant) -> Result<(), Error> {
        let needed = self.retention.oldest().map_or(self.ledger.paid(), |oldest| oldest.min(self.ledger.paid()));
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
        self.status.send_modify(|status| {
            status.phase = phase;
            status.paid = self.ledger.paid();
            status.lag_records = self.ledger.records();
            status.lag_keys = self.ledger.keys() as u64;
            status.lag_since = self.ledger.oldest_seen();
            status.parked = self.parked.len();
            status.dirty = self.dirty.len();
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
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::backfill::work::{Extent, Landed, Outcome, Surveyed};
    use crate::backfill::{Kind, Request, State};
    use crate::mirror::state::copier::{Gone, Owed, Refused};
    use crate::record::Backend;

    /// Counts how often it was let speak.
    struct Counts(Arc<AtomicU64>);

    impl Copier for Counts {
        async fn open(&mut self) -> Result<Standing, copier::Error> {
            Ok(Standing { life: 1, payments: 0 })
        }

        async fn gone<'a>(&'a mut self, _: &'a [Backend], _: &'a [Box<[u8]>]) -> Result<Gone, copier::Error> {
            Ok(Gone::default())
        }

        async fn snapshot(&mut self) -> Result<Snapshot, copier::Error> {
            Ok(Snapshot { written: 0, flushed: 0 })
        }

        async fn pay<'a>(&'a mut self, _: &'a Owed, _: bool) -> Result<Paid, copier::Error> {
            panic!("it pays nothing while it is paused");
        }

        async fn release(&mut self) -> Result<(), copier::Error> {
            Ok(())
        }

        async fn beat(&mut self) -> Result<(), copier::Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_engine_keeps_its_connections() {
        let (beats, config) = (Arc::new(AtomicU64::new(0)), Config::default());
        let heartbeat = config.heartbeat;
        let made = Engine::new(config, Journal::in_memory(), Counts(beats.clone()), Paths::in_memory());
        let (engine, handle) = made.expect("files load");
        handle.pause();
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(heartbeat * 6 + heartbeat / 2).await;
        assert_eq!(beats.load(Ordering::Relaxed), 6);
        stop.cancel();
        running.await.expect("ends");
    }

    /// Pays everything at once, and has one table to walk over.
    #[derive(Default)]
    struct Pays {
        snapshots: Arc<AtomicU64>,
        walks: Arc<AtomicU64>,
        locked: bool,
        /// Columns of the table that cannot be compared.
        not_compared: Vec<String>,
        /// Each payment meets another schema.
        moves: bool,
        /// Payments meet a lock of the table.
        held: Arc<AtomicBool>,
        /// The secondary is away.
        away: Arc<AtomicBool>,
        /// Whoever is asked about is gone.
        all_gone: bool,
        seen: Arc<std::sync::Mutex<Seen>>,
    }

    const TABLE: TableId = TableId(1);

    impl Copier for Pays {
        async fn open(&mut self) -> Result<Standing, copier::Error> {
            if self.away.load(Ordering::Relaxed) {
                return Err(copier::Error::Secondary("away".into()));
            }
            Ok(Standing { life: 1, payments: 0 })
        }

        async fn gone<'a>(&'a mut self, asked: &'a [Backend], _: &'a [Box<[u8]>]) -> Result<Gone, copier::Error> {
            let backends = if self.all_gone { asked.to_vec() } else { Vec::new() };
            Ok(Gone { backends, ..Gone::default() })
        }

        async fn snapshot(&mut self) -> Result<Snapshot, copier::Error> {
            self.snapshots.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_micros(50)).await;
            Ok(Snapshot { written: 0, flushed: 0 })
        }

        async fn pay<'a>(&'a mut self, owed: &'a Owed, _: bool) -> Result<Paid, copier::Error> {
            if self.moves {
                return Err(copier::Error::Stale("a table was moved".into()));
            }
            let mut seen = self.seen.lock().expect("no panic");
            seen.paid.extend(owed.keys.values().flat_map(HashMap::keys).map(|key| key.to_vec()));
            seen.changes.extend(owed.ddl.iter().map(|(_, body)| body.to_vec()));
            let in_doubt = |body: &[u8]| Refused {
                table: TableId::NONE,
                name: "view v".into(),
                key: Some(body.into()),
                shown: String::new(),
                why: "nobody knows".into(),
            };
            let refused = owed.doubted.iter().map(|body| in_doubt(body)).collect();
            seen.keys = seen.keys.max(owed.keys.values().map(HashMap::len).sum());
            let is_other = |table: &&TableId| **table != TABLE;
            seen.others += owed.keys.keys().filter(is_other).map(|table| owed.keys[table].len()).sum::<usize>();
            let mut paid = Paid { refused, ..Paid::default() };
            let is_owed = owed.keys.contains_key(&TABLE) || owed.tables.contains(&TABLE);
            if is_owed && self.held.load(Ordering::Relaxed) {
                let (name, why) = ("t".to_owned(), "waits for a lock".to_owned());
                paid.waiting.push(Waiting { name, why, owed: vec![TABLE] });
            } else if owed.tables.contains(&TABLE) {
                seen.whole = Some(owed.lost.contains(&TABLE));
            }
            Ok(paid)
        }

        async fn survey(&mut self) -> Result<Vec<Surveyed>, copier::Error> {
            if self.locked {
                sleep(Duration::from_secs(2)).await;
                return Err(copier::Error::Stale("55P03 canceling statement due to lock timeout".into()));
            }
            let extents = vec![Extent { name: "t".into(), file: 1, units: 9 }];
            Ok(vec![Surveyed {
                table: TableId(1),
                name: "public.t".into(),
                part_of: None,
                labels: vec![TableId(1)],
                rows: 9,
                bytes: 9,
                primary: extents.clone(),
                secondary: extents,
                occupied: true,
                refused: None,
                unread: None,
                not_compared: self.not_compared.clone(),
            }])
        }

        async fn walk<'a>(&'a mut self, desk: &'a Desk) -> Result<u64, copier::Error> {
            self.walks.fetch_add(1, Ordering::Relaxed);
            while let Some(chunk) = desk.take(Instant::now()) {
                desk.put(chunk, Outcome::Done(Landed { rows: 1, ..Landed::default() }));
            }
            Ok(0)
        }

        async fn release(&mut self) -> Result<(), copier::Error> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Seen {
        /// Most keys in a payment.
        keys: usize,
        /// Keys of other tables that were paid.
        others: usize,
        /// The locked one was paid whole, and whether as one that lost rows.
        whole: Option<bool>,
        /// Every key that was paid.
        paid: HashSet<Vec<u8>>,
        /// Schema changes that were repeated.
        changes: Vec<Vec<u8>>,
    }

    /// Behind a backlog that fills the memory lies how the units before it ended; their backend is gone long since.
    #[tokio::test(start_paused = true)]
    async fn a_unit_whose_end_was_not_read_yet_is_not_over_because_its_backend_is_promise_3() {
        let me = Backend { id: 5, life: 1 };
        let (journal, copier) = (Journal::in_memory(), Pays { all_gone: true, ..Pays::default() });
        let (away, seen) = (copier.away.clone(), copier.seen.clone());
        away.store(true, Ordering::Relaxed);
        let config = Config { owed_keys_max: 10, read_bytes: 100, ..Config::default() };
        let (mut part, mut change, mut last) = (RecordBuf::default(), RecordBuf::default(), RecordBuf::default());
        part.key(TABLE, b"of a large unit", false);
        change.ddl(TABLE, b"ALTER ..");
        last.key(TABLE, b"its last", false);
        let part = journal.begin(part.finish_part(me)).expect("there is room");
        let change = journal.begin(change.finish(Backend { id: 6, life: 1 })).expect("there is room");
        for key in 0..100_u32 {
            let mut record = RecordBuf::default();
            record.key(TableId(2), &key.to_be_bytes(), false);
            owe(&journal, &mut record).expect("there is room");
        }
        let last = journal.begin(last.finish(me)).expect("there is room");
        [part, change, last].into_iter().for_each(|unit| unit.end(journal::Outcome::Committed));
        let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(Duration::from_secs(2)).await;
        assert!(handle.status().lag_keys >= 10, "{:?}", handle.status());
        away.store(false, Ordering::Relaxed);
        handle.settle(journal.appended()).await.expect("it runs");
        {
            let seen = seen.lock().expect("no panic");
            assert!(seen.paid.contains(&b"its last"[..]) && seen.paid.contains(&b"of a large unit"[..]));
            assert_eq!(seen.changes, [b"ALTER ..".to_vec()]);
        }
        assert!(handle.dirty().is_empty(), "{:?}", handle.dirty().list());
        stop.cancel();
        running.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_locked_table_owes_is_bounded_and_others_are_paid_promise_12() {
        let (journal, copier) = (Journal::in_memory(), Pays::default());
        let (locked, seen) = (copier.held.clone(), copier.seen.clone());
        locked.store(true, Ordering::Relaxed);
        let config = Config { owed_keys_max: 100, read_bytes: 1 << 10, ..Config::default() };
        let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        for batch in 0..1000_u32 {
            let mut record = RecordBuf::default();
            (0..10).for_each(|key| record.key(TABLE, &(batch * 10 + key).to_be_bytes(), batch == 0));
            record.key(TableId(2), &batch.to_be_bytes(), false);
            owe(&journal, &mut record).expect("there is room");
        }
        sleep(Duration::from_secs(60)).await;
        {
            let seen = seen.lock().expect("no panic");
            assert!(seen.keys < 500, "{} keys in a payment", seen.keys);
            assert!(seen.others >= 1000, "{} keys of another table were paid", seen.others);
            assert_eq!(seen.whole, None);
        }
        assert!(handle.status().lag_keys <= 25, "{}", handle.status().lag_keys);
        locked.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(seen.lock().expect("no panic").whole, Some(true), "rows of it may have been deleted");
        assert_eq!(handle.status().lag_records, 0);
        stop.cancel();
        running.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_schema_change_of_no_table_in_doubt_is_listed_until_somebody_decides_promise_6() {
        let (journal, copier) = (Journal::in_memory(), Pays { all_gone: true, ..Pays::default() });
        let seen = copier.seen.clone();
        let config = Config { self_repair: true, ..Config::default() };
        let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
        let mut record = RecordBuf::default();
        record.ddl(TableId::NONE, b"CREATE VIEW v ..");
        drop(journal.begin(record.finish(Backend { id: 5, life: 1 })).expect("there is room"));
        // One that was parked when there was no more room.
        handle.dirty().note(TableId::NONE, Reason::Refused, Lsn(0));
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(Duration::from_secs(120)).await;
        let parked: Vec<_> = handle.parked().list().iter().map(|it| it.change().map(<[u8]>::to_vec)).collect();
        assert_eq!(parked, [Some(b"CREATE VIEW v ..".to_vec())]);
        let dirty: Vec<_> = handle.dirty().list().into_iter().map(|it| (it.table, it.reasons)).collect();
        assert_eq!(dirty, [(TableId::NONE, vec![(Reason::Refused, 1)])]);
        assert_eq!(handle.status().lag_records, 0);
        handle.retry_parked(&handle.parked().list()[0].id()).expect("there is room");
        handle.settle(journal.appended()).await.expect("it runs");
        assert!(handle.parked().is_empty());
        assert_eq!(seen.lock().expect("no panic").changes, [b"CREATE VIEW v ..".to_vec()]);
        stop.cancel();
        running.await.expect("ends");
    }

    fn verify(handle: &Handle) -> backfill::Report {
        handle.desk().report(Kind::Verify).expect("asked for")
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_schema_change_takes_long_history_waits_says_why_and_takes_no_snapshots() {
        let (journal, copier) = (Journal::in_memory(), Pays::default());
        let (snapshots, walks) = (copier.snapshots.clone(), copier.walks.clone());
        let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
        let (engine, handle) = made.expect("files load");
        let mut record = RecordBuf::default();
        record.ddl(TableId(7), b"CREATE INDEX CONCURRENTLY ..");
        let change = journal.begin(record.finish(Backend { id: 5, life: 1 })).expect("there is room");
        handle.desk().start(Request::new(Kind::Verify)).await.expect("nothing is under way");
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        let seconds = 600;
        for _ in 0..seconds {
            sleep(Duration::from_secs(1)).await;
            // Clients go on writing other tables.
            owe(&journal, &mut written()).expect("there is room");
        }
        let why = verify(&handle).why.expect("it waits");
        assert!(why.contains("a schema change is under way"), "{why}");
        assert_eq!(walks.load(Ordering::Relaxed), 0);
        let taken = snapshots.load(Ordering::Relaxed);
        assert!((seconds..2 * seconds).contains(&taken), "{taken} snapshots for {seconds} payments");
        change.end(journal::Outcome::Aborted);
        let mut waited = 0;
        while verify(&handle).state != State::Done {
            sleep(Duration::from_secs(1)).await;
            waited += 1;
            assert!(waited < 60, "{:?}", verify(&handle));
        }
        stop.cancel();
        running.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_table_is_locked_surveys_leave_the_time_to_payments_and_say_why() {
        let (journal, copier) = (Journal::in_memory(), Pays { locked: true, ..Pays::default() });
        let snapshots = copier.snapshots.clone();
        let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
        let (engine, handle) = made.expect("files load");
        handle.desk().start(Request::new(Kind::Verify)).await.expect("nothing is under way");
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(Duration::from_secs(3)).await;
        for _ in 0..10 {
            let before = snapshots.load(Ordering::Relaxed);
            owe(&journal, &mut written()).expect("there is room");
            handle.settle(journal.appended()).await.expect("it runs");
            assert!(snapshots.load(Ordering::Relaxed) > before);
        }
        let why = verify(&handle).why.expect("it waits");
        assert!(why.contains("a table is locked") && why.contains("55P03"), "{why}");
        stop.cancel();
        running.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_schema_that_never_holds_still_is_shown() {
        let (journal, copier) = (Journal::in_memory(), Pays { moves: true, ..Pays::default() });
        let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
        let (engine, handle) = made.expect("files load");
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        owe(&journal, &mut written()).expect("there is room");
        let mut status = handle.watch();
        let shown = status.wait_for(|status| status.error.is_some());
        let shown =
            tokio::time::timeout(Duration::from_secs(60), shown).await.expect("shown").expect("it runs").clone();
        assert_eq!(shown.error.as_deref(), Some("a table was moved"));
        stop.cancel();
        running.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dirty_table_that_cannot_be_compared_is_paid_whole_however_large() {
        for not_compared in [vec!["at".to_owned()], Vec::new()] {
            let walks = Arc::new(AtomicU64::new(0));
            let copier = Pays { walks: walks.clone(), not_compared: not_compared.clone(), ..Pays::default() };
            let config = Config { self_repair: true, whole_bytes_max: 1, ..Config::default() };
            let journal = Journal::in_memory();
            let (engine, handle) = Engine::new(config, journal, copier, Paths::in_memory()).expect("files load");
            handle.dirty().note(TableId(1), Reason::Uncaptured, Lsn(0));
            let stop = CancellationToken::new();
            let running = tokio::spawn(engine.run(stop.clone()));
            sleep(Duration::from_secs(60)).await;
            assert!(handle.dirty().is_empty(), "{not_compared:?}: {:?}", handle.dirty().list());
            assert_eq!(
                walks.load(Ordering::Relaxed) > 0,
                not_compared.is_empty(),
                "what can be compared is walked over"
            );
            stop.cancel();
            running.await.expect("ends");
        }
    }

    fn written() -> RecordBuf {
        let mut record = RecordBuf::default();
        record.key(TableId(2), b"k", false);
        record
    }
}
