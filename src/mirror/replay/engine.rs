//! The loop that replays: one task over the journal, a wire's [`Applier`] and the [`Core`](super::core), which decides.
//!
//! ```text
//!           .--> next action? --> open, apply, read, save: begun, not waited for
//!           |                             |
//!        event <-- whatever comes first --'      also: the journal grew, a rest is over, an operator, the end
//! ```
//!
//! Nothing here waits for one thing while another could go on: a disk that hangs stops what must be written down, not what
//! is applied. There is no tick but for the figures that are shown.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::metrics::Counter;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backfill::Desk;
use crate::journal::{self, Entry, Journal, Lsn};
use crate::metrics;
use crate::mirror::beside;
use crate::mirror::dirty::Dirty;
use crate::mirror::durable::{self, Durable};
use crate::mirror::handle::{Handle, Mending, Pace, Phase, Status};
use crate::mirror::parked::Parked;

use super::applier::{Applied, Applier, Error};
use super::book::Book;
use super::contact::Contact;
use super::core::{Action, Core, Ledgers, Link};
use super::window::Window;

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Records read and not done, in bytes with what it takes to keep them; past it the journal is read no further.
    pub window_bytes: usize,
    /// How much of the journal is read at once, in bytes.
    pub read_bytes: usize,
    /// Jobs handed out at once.
    pub in_flight_max: usize,
    /// The first pause after a failure, of a record or of the link.
    pub retry_min: Duration,
    /// The longest pause after failures.
    pub retry_max: Duration,
    /// A record that fails for so long while the secondary is there is parked.
    pub patience: Duration,
    /// How long the journal keeps what is done, for a secondary that loses it: a restart does it again.
    pub retention: Duration,
    /// How long it goes on when told to stop.
    pub drain: Duration,
    /// How many records may be parked.
    pub parked_max: usize,
    /// How many of one table; past it the table is dirty.
    pub parked_table_max: usize,
    /// How many bytes of records.
    pub parked_bytes_max: usize,
    /// Dirty tables whose history was copied or compared before are walked over without being asked.
    pub self_repair: bool,
    /// Of the jitter between retries.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            window_bytes: 64 << 20,
            read_bytes: 1 << 20,
            in_flight_max: 512,
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(10),
            patience: Duration::from_secs(60),
            retention: Duration::ZERO,
            drain: Duration::from_secs(5),
            parked_max: 10_000,
            parked_table_max: 1_000,
            parked_bytes_max: 16 << 20,
            self_repair: false,
            seed: u64::from(std::process::id()),
        }
    }
}

/// Where the engine keeps what must survive a restart.
#[derive(Clone, Debug)]
pub struct Paths {
    book: Durable,
    parked: Durable,
    dirty: Durable,
}

impl Paths {
    /// In this directory, which exists, as `mirror-book`, `mirror-parked`, `mirror-dirty`.
    pub fn in_dir(dir: &Path) -> Paths {
        Paths {
            book: Durable::in_dir(dir, beside::BOOK),
            parked: Durable::in_dir(dir, "mirror-parked"),
            dirty: Durable::in_dir(dir, beside::DIRTY),
        }
    }

    /// In memory, shared by clones: for tests.
    pub fn in_memory() -> Paths {
        Paths {
            book: Durable::in_memory("mirror-book"),
            parked: Durable::in_memory("mirror-parked"),
            dirty: Durable::in_memory("mirror-dirty"),
        }
    }

    /// The book of the first direction.
    pub fn book(&self) -> Durable {
        self.book.clone()
    }

    /// The handle of an engine over these files.
    ///
    /// # Errors
    /// A ledger cannot be read.
    pub fn handle(&self, config: &Config, journal: Journal, desk: Desk) -> Result<Handle, durable::Error> {
        let ledgers = (Parked::open(self.parked.clone(), config.parked_max)?, Dirty::open(self.dirty.clone())?);
        Ok(Handle::new(journal, ledgers, desk, (Mending::Walked, config.self_repair)))
    }
}

/// The journal is trimmed as often as this.
const TRIM: Duration = Duration::from_secs(1);

/// While nothing moves, the figures are shown as often as this.
const SHOW: Duration = Duration::from_secs(1);

/// Jobs that come back are taken so many at a time.
const RETURNS: usize = 256;

/// So many records are looked through at each turn for what waits; more, as often as this.
const STUCK_FEW: usize = 1_000;
const STUCK_EVERY: Duration = Duration::from_millis(200);

/// Of what was done last, at least so many bytes of the journal are kept, for [`Handle::newest`].
const RECENT_BYTES: u64 = 1 << 20;

type Read = Result<(Vec<Entry>, Lsn), journal::Error>;

/// The engine. One a process and direction; [`Engine::run`] is its task.
pub struct Engine<A> {
    config: Config,
    journal: Journal,
    applier: Arc<A>,
    pub(super) core: Core,
    ledgers: (Parked, Dirty, Book),
    contact: Contact,
    flight: FuturesUnordered<BoxFuture<'static, (Lsn, Applied)>>,
    opening: Option<BoxFuture<'static, Result<(), Error>>>,
    reading: Option<BoxFuture<'static, Event>>,
    saving: Option<BoxFuture<'static, Event>>,
    next_trim: Instant,
    /// No look before at what waits, where much does.
    next_stuck: Instant,
    recent: Recent,
    status: watch::Sender<Status>,
    pace: watch::Receiver<Pace>,
    /// [`Handle::on_trial`].
    on_trial: Arc<AtomicBool>,
    nudges: Arc<Notify>,
    /// Kept so that the receiver lives on when every handle is gone.
    _pacing: watch::Sender<Pace>,
    meters: Meters,
}

/// What happened.
enum Event {
    Opened(Result<(), Error>),
    Applied(Lsn, Applied),
    Read(Read),
    Scouted(Read),
    Saved(Vec<Lsn>, Result<(), durable::Error>),
    Nudged,
    /// The journal grew, a moment came, the pace changed, the end begins: look again.
    Look,
}

impl<A: Applier> Engine<A> {
    /// An engine over a journal; everything the journal still holds is replayed, but what the book says is done.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn new(
        config: Config,
        journal: Journal,
        applier: Arc<A>,
        paths: &Paths,
    ) -> Result<(Engine<A>, Handle), durable::Error> {
        let handle = paths.handle(&config, journal, Desk::in_memory())?;
        let from = handle.journal.trimmed();
        let engine = Engine::succeed(&handle, config, applier, paths.book(), from)?;
        Ok((engine, handle))
    }

    /// An engine behind a handle whose last one has ended: the same journal and ledgers, another direction. What the
    /// journal holds from `from` on is replayed; `book` is this direction's own.
    ///
    /// # Errors
    /// The book cannot be read.
    pub fn succeed(
        handle: &Handle,
        config: Config,
        applier: Arc<A>,
        book: Durable,
        from: Lsn,
    ) -> Result<Engine<A>, durable::Error> {
        let journal = handle.journal.clone();
        let from = from.max(journal.trimmed());
        let (parked, dirty, book) = (handle.parked.clone(), handle.dirty.clone(), Book::open(book)?);
        let waits = handle.waits.clone();
        let ledgers = Ledgers { parked: parked.clone(), dirty: dirty.clone(), book: book.clone(), waits };
        let window = Window::new(from, journal.begun(), config.window_bytes);
        let shows = applier.clone();
        let show = Box::new(move |record: &_, table| shows.show(record, table));
        let now = Instant::now();
        handle.shown.send_replace(Status { paid: from, recent: from, ..Status::default() });
        Ok(Engine {
            core: Core::new(config.clone(), window, ledgers, show, now),
            contact: Contact::new(book.clone()),
            ledgers: (parked, dirty, book),
            flight: FuturesUnordered::new(),
            opening: None,
            reading: None,
            saving: None,
            next_trim: now,
            next_stuck: now,
            recent: Recent { older: from, newer: from },
            status: handle.shown.clone(),
            pace: handle.pace.subscribe(),
            on_trial: handle.on_trial.clone(),
            nudges: handle.nudges.clone(),
            _pacing: handle.pace.clone(),
            meters: Meters::new(),
            config,
            journal,
            applier,
        })
    }

    /// What must survive a restart.
    pub(super) fn book(&self) -> &Book {
        &self.ledgers.2
    }

    /// Its applier was opened before.
    pub(super) fn is_open(&mut self) {
        self.core.opened(Ok(()), Instant::now());
    }

    /// Replay until told to stop; then go on until everything appended by then is done, the secondary is away, or
    /// [`Config::drain`] is over. Dropping the future is as safe as a crash: the journal still has what is not done.
    pub async fn run(mut self, stop: CancellationToken) {
        let bound = self.config.drain;
        tokio::select! {
            biased;
            () = self.work(&stop) => {}
            () = async { stop.cancelled().await; sleep(bound).await } => {
                warn!(records = self.core.window.len(), "mirror stopped before everything was applied; the journal keeps the rest");
            }
        }
        self.core.end();
        self.show(Some(Phase::Stopped));
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let mut target = None;
        loop {
            let (pace, now) = (*self.pace.borrow_and_update(), Instant::now());
            self.core.pace(pace == Pace::Paused, pace == Pace::Hurried, now);
            while let Some(action) = self.core.next(now, self.journal.appended()) {
                self.begin(action);
            }
            self.trim(now, false);
            self.show(None);
            if stop.is_cancelled() {
                let target = *target.get_or_insert_with(|| self.journal.appended());
                if self.is_over(target) {
                    return self.close().await;
                }
            }
            let event = self.event(now, stop).await;
            self.take(event);
            self.take_returned();
            // Where everything is ready at once, others of this thread want their turn.
            tokio::task::consume_budget().await;
        }
    }

    fn is_over(&self, target: Lsn) -> bool {
        let stands = self.core.paused || matches!(self.core.link(), Link::Down(_) | Link::Opening);
        self.core.window.applied() >= target || (stands && self.core.away() == 0)
    }

    /// What is done is remembered; what fails is done again in the next life.
    async fn close(&mut self) {
        self.trim(Instant::now(), true);
        let (parked, dirty, book) = &self.ledgers;
        if let Err(error) = save(parked, dirty, book).await {
            warn!(%error, "mirror cannot remember what it did");
        }
    }

    fn begin(&mut self, action: Action) {
        let journal = self.journal.clone();
        let bytes = self.config.read_bytes;
        match action {
            Action::Open => {
                let applier = self.applier.clone();
                self.opening = Some(async move { applier.open().await }.boxed());
            }
            Action::Apply(job) => {
                let (applier, contact) = (self.applier.clone(), self.contact.clone());
                let applying = async move {
                    let applied = match contact.meet(&*applier, &job).await {
                        Ok(()) => applier.apply(&job).await,
                        Err(applied) => applied,
                    };
                    (job.lsn, applied)
                };
                self.flight.push(applying.boxed());
            }
            Action::Read(from) => {
                self.reading = Some(async move { Event::Read(journal.read(from, bytes).await) }.boxed());
            }
            Action::Scout(from) => {
                self.reading = Some(async move { Event::Scouted(journal.read(from, bytes).await) }.boxed());
            }
            Action::Save(records) => {
                let (parked, dirty, book) = self.ledgers.clone();
                self.saving = Some(async move { Event::Saved(records, save(&parked, &dirty, &book).await) }.boxed());
            }
        }
    }

    /// Whatever comes first. Cancel safe: what was begun goes on.
    async fn event(&mut self, now: Instant, stop: &CancellationToken) -> Event {
        let awaited = self.core.awaited(now);
        let until = self.core.deadline(now).map_or(now + SHOW, |at| at.min(now + SHOW));
        let stopping = stop.is_cancelled();
        tokio::select! {
            biased;
            Some(event) = OptionFuture::from(self.reading.as_mut()) => {
                self.reading = None;
                event
            }
            Some(event) = OptionFuture::from(self.saving.as_mut()) => {
                self.saving = None;
                event
            }
            Some(opened) = OptionFuture::from(self.opening.as_mut()) => {
                self.opening = None;
                Event::Opened(opened)
            }
            Some((lsn, applied)) = self.flight.next() => Event::Applied(lsn, applied),
            _ = self.pace.changed() => Event::Look,
            () = self.nudges.notified() => Event::Nudged,
            () = self.journal.wait_appended(awaited.unwrap_or_default()), if awaited.is_some() => Event::Look,
            () = sleep_until(until) => Event::Look,
            () = stop.cancelled(), if !stopping => Event::Look,
        }
    }

    fn take(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Opened(opened) => self.core.opened(opened, now),
            Event::Applied(lsn, applied) => self.core.applied(lsn, applied, now),
            Event::Read(read) => self.core.read(read, now),
            Event::Scouted(read) => self.core.scouted(read, now),
            Event::Saved(records, saved) => self.core.saved(records, saved, now),
            Event::Nudged => self.core.nudged(now),
            Event::Look => {}
        }
    }

    /// More jobs that are back already.
    fn take_returned(&mut self) {
        for _ in 0..RETURNS {
            let Some(Some((lsn, applied))) = self.flight.next().now_or_never() else { return };
            self.take(Event::Applied(lsn, applied));
        }
    }

    /// Give up the part of the journal that nobody needs.
    fn trim(&mut self, now: Instant, last: bool) {
        let kept = self.on_trial.load(Ordering::Relaxed);
        if kept || !last && now < self.next_trim {
            return;
        }
        self.next_trim = now + TRIM;
        self.recent.moved(self.core.window.applied());
        if let Some(released) = self.core.release(now, self.journal.forgotten()) {
            self.journal.trim(released.min(self.recent.older));
        }
    }

    fn phase(&self) -> Phase {
        let core = &self.core;
        match core.link() {
            _ if core.fenced => Phase::Fenced,
            Link::Down(_) | Link::Opening if core.error().is_none() => Phase::Connecting,
            Link::Down(_) | Link::Opening | Link::Losing => Phase::Away,
            Link::Up if core.paused => Phase::Paused,
            Link::Up if core.window.is_full() => Phase::CatchingUp,
            Link::Up if core.window.is_empty() => Phase::Idle,
            Link::Up => Phase::Applying,
        }
    }

    /// Publish what the core says. Watchers are told of what they may wait for at once, of figures with it.
    fn show(&mut self, phase: Option<Phase>) {
        let core = &self.core;
        let (phase, now) = (phase.unwrap_or_else(|| self.phase()), Instant::now());
        self.status.send_modify(|status| {
            status.phase = phase;
            if status.error.as_ref() != core.error() {
                status.error = core.error().cloned();
            }
            status.paid = core.window.applied();
            status.recent = self.recent.older;
            status.exact = matches!(phase, Phase::Idle | Phase::Applying) && core.held().len() == 0;
            status.lag_records = core.window.len() as u64;
            status.lag_since = core.window.oldest_seen();
            status.payments = core.done;
            status.in_flight = core.away();
            // Looked at in full, however much waits: not at each turn.
            if !core.is_stuck() {
                status.stuck = None;
            } else if core.window.len() < STUCK_FEW || self.next_stuck <= now {
                self.next_stuck = now + STUCK_EVERY;
                status.stuck = core.stuck().map(Arc::new);
            }
            if !core.held().eq(&status.held) {
                status.held = core.held().cloned().collect();
            }
            status.parked = self.ledgers.0.len();
            status.dirty = self.ledgers.1.len();
        });
        self.meters.count(core.done, core.failures);
    }
}

async fn save(parked: &Parked, dirty: &Dirty, book: &Book) -> Result<(), durable::Error> {
    // The book last: what it says is settled is in the others.
    parked.saved().await?;
    dirty.saved().await?;
    book.saved().await
}

/// Two positions up to which everything was done, some way apart.
#[derive(Clone, Copy)]
struct Recent {
    older: Lsn,
    newer: Lsn,
}

impl Recent {
    fn moved(&mut self, applied: Lsn) {
        if applied.0 - self.newer.0 >= RECENT_BYTES {
            (self.older, self.newer) = (self.newer, applied);
        }
    }
}

/// Handles of the metrics, looked up once.
struct Meters {
    done: Counter,
    failures: Counter,
    /// What the two counted so far.
    counted: (u64, u64),
}

impl Meters {
    fn new() -> Meters {
        Meters {
            done: metrics::MIRROR_APPLIED_TOTAL.counter(&[]),
            failures: metrics::MIRROR_FAILURES_TOTAL.counter(&[]),
            counted: (0, 0),
        }
    }

    fn count(&mut self, done: u64, failures: u64) {
        self.done.increment(done - self.counted.0);
        self.failures.increment(failures - self.counted.1);
        self.counted = (done, failures);
    }
}
