//! Where operators, the mirror's engine and the copier's workers meet over one job at a time.
//!
//! An operator starts, holds and ends a job. The engine asks whether there is something to do beside its payments, and
//! for how long; workers take chunks and report them. The lock is held for moments and never across an await; what must
//! reach the disk does so between two snapshots.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::journal::{self, Journal, Lsn};
use crate::mirror::dirty::unix_now;
use crate::mirror::durable::{self, Durable};
use crate::mirror::handle::owe;
use crate::record::{Lane, Order, RecordBuf, Side, TableId};

use super::counts::Counts;
use super::crew::{Crew, LEASE, WorkerReport, millis};
use super::job::{Job, Line, State, Wants};
use super::lines::Lines;
use super::meters;
use super::request::{Kind, Request};
use super::trust::{Doubts, Trust};
use super::walked::{Sizes, Walked};
use super::work::{Chunk, Outcome, Paid, Pass, Stage, Surveyed};

/// How history is walked over.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections to each side that work at once.
    pub workers: usize,
    /// About as many rows a chunk.
    pub chunk_rows: u64,
    /// How long one state of the primary is held for chunks: what it has locked, and what it keeps from VACUUM.
    pub hold: Duration,
    /// Most bytes copied a second; 0: as many as go.
    pub rate: u64,
    /// While the mirror is further behind than this, it has the connections to itself.
    pub max_lag: Duration,
    /// A side that takes longer over next to nothing is left alone for a while.
    pub max_latency: Duration,
    /// Every backfill makes the tables that the secondary lacks.
    pub provision: bool,
    /// How keyspaces that are made are replicated, as `CREATE KEYSPACE` has it; none: as on the primary.
    pub replication: Option<String>,
    /// By replay: the part of its table that a key is in. Then each key is owed by a record of its own, which is refused alone
    /// and ordered with the writes of its part; and cells have timestamps.
    pub part_of: Option<PartOf>,
}

/// The part of a table that a key is in; `None`: that cannot be told.
pub type PartOf = fn(&[u8]) -> Option<u64>;

impl Default for Options {
    fn default() -> Options {
        Options {
            workers: 2,
            chunk_rows: 50_000,
            hold: Duration::from_millis(300),
            rate: 0,
            max_lag: Duration::from_secs(5),
            max_latency: Duration::from_millis(500),
            provision: false,
            replication: None,
            part_of: None,
        }
    }
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// One at a time.
    #[error("{0} {1} is under way: see `tandem {0} status`")]
    Busy(&'static str, u64),
    /// It makes no sense.
    #[error("{0}")]
    Nonsense(&'static str),
    /// There is nothing to hold, to let go or to end.
    #[error("no {0} is under way")]
    Idle(&'static str),
    /// The file could not be written.
    #[error(transparent)]
    Durable(#[from] durable::Error),
}

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

/// What the file holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Page {
    /// What people asked for: the last of each kind.
    jobs: BTreeMap<Kind, Job>,
    /// The last that nobody asked for: it takes nobody's report away.
    #[serde(default)]
    mending: Option<Job>,
    /// What is done again and again.
    #[serde(default)]
    standing: BTreeMap<Kind, Standing>,
    /// Labels of tables that are to be compared and mended when nothing else is under way.
    #[serde(default)]
    mends: BTreeSet<u64>,
    /// The side that jobs read from.
    primary: Option<Side>,
    number: u64,
    not_listed: u64,
    /// Tables whose rows on the secondary are ours.
    copied: BTreeSet<u64>,
    /// What is known of each table's history.
    #[serde(default)]
    trust: Trust,
    /// Tables of the target that were copied or compared at some time: of the others nobody knows.
    #[serde(default)]
    seen: BTreeSet<u64>,
    /// The secondary's payment counter, as far as chunks were done.
    landed: u64,
    /// Chunks may be lent: what is done of one may arrive so many milliseconds after this process ended.
    #[serde(default)]
    lends_ms: Option<u64>,
}

/// A request that is done again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Standing {
    request: Request,
    /// How often it was begun.
    rounds: u64,
    /// When the next one is due, in seconds since the epoch; none while one is under way.
    next_unix: Option<u64>,
}

/// What the engine is to do beside its payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Look which tables there are: [`Desk::surveyed`].
    Survey,
    /// Hold a state of the primary and let workers take chunks.
    Walk,
}

/// Why a walk waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// The mirror is behind.
    Lag,
    /// The rate is limited.
    Rate,
    /// The primary is away or overloaded.
    Primary,
    /// The secondary is away or overloaded.
    Secondary,
    /// What an earlier process lent may still be written.
    Lent,
    /// A schema change is under way on the primary, or a table is locked.
    Schema,
}

impl Throttle {
    /// All there are.
    pub const ALL: [Throttle; 6] =
        [Throttle::Lag, Throttle::Rate, Throttle::Primary, Throttle::Secondary, Throttle::Lent, Throttle::Schema];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Throttle::Lag => "lag",
            Throttle::Rate => "rate",
            Throttle::Primary => "primary",
            Throttle::Secondary => "secondary",
            Throttle::Lent => "lent",
            Throttle::Schema => "schema",
        }
    }

    /// For people.
    fn why(self) -> &'static str {
        match self {
            Throttle::Lag => "the mirror is behind (backfill.max_lag)",
            Throttle::Rate => "the rate is limited (backfill.rate)",
            Throttle::Primary => "the primary is away or overloaded",
            Throttle::Secondary => "the secondary is away or overloaded",
            Throttle::Lent => "chunks that workers had before tandem was started again may still be written",
            Throttle::Schema => "a schema change is under way, or a table is locked",
        }
    }
}

/// The desk. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Desk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    file: Durable,
    lines: Lines,
    crew: Crew,
    changed: Notify,
    memory: Mutex<Memory>,
    /// Held while the file is written: operators and the mirror save, and what is older must not come behind.
    saving: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Memory {
    page: Page,
    /// The page is not as the file has it.
    unsaved: bool,
    /// The mirror towards the primary was begun, for a switch that may end before its flip. It is paused, and nothing is done
    /// for the page meanwhile. Not in the file: which side is the primary the next process is told.
    on_trial: bool,
    /// No chunk is given out after this.
    until: Option<Instant>,
    /// Nor before this.
    lent_until: Option<Instant>,
    paid: Paid,
    /// What was known when the state was taken.
    before: Option<Before>,
    /// Until all of it is in the journal.
    owing: VecDeque<Owing>,
    found: Vec<Line>,
    /// Chunks that were reported since the last state.
    reported: usize,
    throttled: Option<Throttle>,
    /// What a side said that is in the way.
    hindrance: Option<String>,
    /// Which side is left alone until when, and why.
    rest: Option<(Throttle, Instant, String)>,
    /// Bytes that may be copied, and since when.
    budget: f64,
    budget_at: Instant,
    pace: Pace,
}

/// What to go back to, if nothing of what was done at a state is known to have happened.
#[derive(Debug)]
struct Before {
    /// The job's number, and its tables.
    job: u64,
    tables: Vec<Walked>,
    /// So much was still to be owed.
    owing: usize,
}

/// Rows of a chunk that the mirror must copy.
#[derive(Clone, Debug)]
struct Owing {
    chunk: Chunk,
    keys: Arc<[Box<[u8]>]>,
    /// Of these keys so many are in the journal.
    owed: usize,
    /// Rows that differ besides, and were too many to be kept.
    crowd: u64,
    /// The chunk is to be looked at again when they are paid.
    again: bool,
}

impl Owing {
    /// Once the mirror has them, the chunk is as done as it can be.
    fn once(chunk: Chunk, keys: Vec<Box<[u8]>>) -> Owing {
        Owing { chunk, keys: keys.into(), owed: 0, crowd: 0, again: false }
    }

    /// The keys that go into the next record, if not all are in one: one at least, and no more than fit.
    fn next(&self, at_once: usize) -> &[Box<[u8]>] {
        let (left, mut bytes) = (&self.keys[self.owed..], 0);
        let mut fits = |key: &[u8]| {
            bytes += ITEM_BYTES + key.len();
            bytes <= RECORD_BYTES
        };
        let count = left.iter().take(at_once).take_while(|key| fits(key)).count();
        &left[..count.max(1)]
    }
}

/// How fast the pass goes, for the estimate of its end.
#[derive(Debug, Default)]
struct Pace {
    of: Option<(u64, State)>,
    began: Option<(Instant, f64)>,
}

/// Most bytes of rows that a verify found to differ and keeps by key.
const DIFFERENCES_BYTES: u64 = 64 << 20;
/// How many times as long as it took over nothing a side is left alone.
const REST: u32 = 10;
/// A state that lived shorter would be more handshake than work.
const HOLD_MIN: Duration = Duration::from_millis(20);

impl Desk {
    /// What an earlier process began goes on.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(file: Durable, lines: Lines, options: Options) -> Result<Desk, durable::Error> {
        let mut page: Page = file.load()?.unwrap_or_default();
        page.jobs = page.jobs.into_iter().map(|(kind, job)| (kind, job.resumed())).collect();
        page.mending = page.mending.map(Job::resumed);
        let lent_until = page.lends_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let memory = Memory {
            page,
            unsaved: false,
            on_trial: false,
            until: None,
            lent_until,
            paid: Paid::default(),
            before: None,
            owing: VecDeque::new(),
            found: Vec::new(),
            reported: 0,
            throttled: None,
            hindrance: None,
            rest: None,
            budget: 0.0,
            budget_at: Instant::now(),
            pace: Pace::default(),
        };
        let shared = Shared {
            options,
            file,
            lines,
            crew: Crew::default(),
            changed: Notify::new(),
            memory: Mutex::new(memory),
            saving: tokio::sync::Mutex::default(),
        };
        Ok(Desk { shared: Arc::new(shared) })
    }

    /// In this directory, which exists, as `history` and `history-differences.jsonl`.
    ///
    /// # Errors
    /// As [`Desk::open`].
    pub fn in_dir(dir: &Path, options: Options) -> Result<Desk, durable::Error> {
        Desk::open(Durable::in_dir(dir, "history"), Lines::in_dir(dir, DIFFERENCES_BYTES), options)
    }

    /// A desk without a disk: for tests, and where nothing is ever asked for.
    pub fn in_memory() -> Desk {
        let made = Desk::open(Durable::in_memory("history"), Lines::in_memory(1 << 20), Options::default());
        made.expect("memory holds no page that could be damaged")
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What operators do.

    /// Begin a job; its number. Durable when it resolves.
    ///
    /// # Errors
    /// Another one is under way, or the disk refuses.
    pub async fn start(&self, mut request: Request) -> Result<u64, Refused> {
        request.provision |= self.shared.options.provision && request.kind == Kind::Backfill;
        if request.provision {
            request.replication = request.replication.or_else(|| self.shared.options.replication.clone());
        }
        let times = self.shared.options.part_of.is_some();
        if let Some(why) = request.nonsense().or_else(|| request.needs_times().filter(|_| !times)) {
            return Err(Refused::Nonsense(why));
        }
        let number = {
            let mut memory = self.lock();
            memory.page.step_aside();
            if let Some(job) = memory.page.current() {
                return Err(Refused::Busy(job.request.kind.as_str(), job.number));
            }
            let kind = request.kind;
            memory.page.standing.remove(&kind);
            if request.every_seconds.is_some() {
                let standing = Standing { request: request.clone(), rounds: 1, next_unix: None };
                memory.page.standing.insert(kind, standing);
            }
            memory.begin(request, 0)
        };
        self.forget_lines();
        self.save().await?;
        self.shared.changed.notify_waiters();
        Ok(number)
    }

    /// Have these tables compared, and what differs mended, when nobody asks for anything else; [`TableId::NONE`] stands for all.
    /// On the disk with the mirror's next turn.
    pub fn mend(&self, tables: impl IntoIterator<Item = TableId>) {
        let mut memory = self.lock();
        memory.page.mends.extend(tables.into_iter().map(|table| table.0));
        memory.unsaved = true;
        drop(memory);
        self.shared.changed.notify_waiters();
    }

    /// A job is under way, or tables wait for one.
    pub fn is_busy(&self) -> bool {
        let memory = self.lock();
        memory.page.current().is_some() || !memory.page.mends.is_empty()
    }

    fn forget_lines(&self) {
        if let Err(error) = self.shared.lines.clear() {
            tracing::warn!(%error, "the rows that differed before could not be forgotten");
        }
    }

    /// Hold it; what is under way is finished.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub async fn pause(&self, kind: Kind) -> Result<(), Refused> {
        self.act(kind, |job| job.paused = true).await
    }

    /// Let it go on.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub async fn resume(&self, kind: Kind) -> Result<(), Refused> {
        self.act(kind, |job| job.paused = false).await
    }

    /// End it, and do not do it again; what is copied stays.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub async fn cancel(&self, kind: Kind) -> Result<(), Refused> {
        let stood = self.lock().page.standing.remove(&kind).is_some();
        match self.act(kind, |job| job.cancel(unix_now())).await {
            Err(Refused::Idle(_)) if stood => {
                self.lock().unsaved = true;
                Ok(self.save().await?)
            }
            done => done,
        }
    }

    async fn act(&self, kind: Kind, change: impl FnOnce(&mut Job)) -> Result<(), Refused> {
        {
            let mut memory = self.lock();
            let job = memory.page.current_mut().filter(|job| job.request.kind == kind);
            let job = job.ok_or(Refused::Idle(kind.as_str()))?;
            change(job);
            if job.state.is_over() {
                let job = job.clone();
                memory.page.learn(&job);
            }
            memory.unsaved = true;
        }
        self.save().await?;
        self.shared.changed.notify_waiters();
        Ok(())
    }

    /// The job of this kind that is under way, or the last that was asked for.
    pub fn report(&self, kind: Kind) -> Option<Report> {
        self.report_of(|page| page.shown(kind))
    }

    /// The job of this number, if it is still known.
    pub fn report_numbered(&self, kind: Kind, number: u64) -> Option<Report> {
        self.report_of(|page| page.all().find(|job| job.request.kind == kind && job.number == number))
    }

    fn report_of(&self, which: impl for<'p> Fn(&'p Page) -> Option<&'p Job>) -> Option<Report> {
        let mut memory = self.lock();
        let memory = &mut *memory;
        let job = which(&memory.page)?;
        let kind = job.request.kind;
        let mut report = report(job);
        report.workers = self.shared.crew.report();
        report.not_listed = memory.page.not_listed;
        report.next_unix = memory.page.standing.get(&kind).and_then(|standing| standing.next_unix);
        if !job.state.is_over() {
            let stuck = || memory.paid.why.clone().filter(|_| job.waits(&memory.paid));
            report.why = report.why.or_else(|| memory.why()).or_else(stuck).or_else(|| doubted(job));
            report.eta_seconds = memory.pace.eta(&report);
        }
        Some(report)
    }

    /// What speaks against relying on the secondary's history.
    pub fn doubts(&self) -> Doubts {
        let memory = self.lock();
        memory.page.trust.doubts(memory.page.current())
    }

    /// History is being copied: the secondary may lack rows that nobody wrote of late.
    pub fn is_copying(&self) -> bool {
        self.copying().is_some()
    }

    /// The backfill that is under way, held or not.
    pub fn copying(&self) -> Option<u64> {
        self.lock().page.current().filter(|job| job.is_copying()).map(|job| job.number)
    }

    /// Whether the table's history was ever copied to the target, or compared with it; of [`TableId::NONE`], that of all tables.
    pub fn has_seen(&self, table: TableId) -> bool {
        self.lock().page.seen.contains(&table.0)
    }

    /// What holds the job up that is under way.
    pub(super) fn throttle(&self) -> Option<Throttle> {
        self.lock().throttled
    }

    /// Rows that the last job found to differ, the first `max` of them. Blocks on the disk.
    pub fn differences(&self, max: usize) -> std::io::Result<Vec<Line>> {
        self.shared.lines.read(max)
    }

    // What the engine does.

    /// Workers in other processes.
    pub fn crew(&self) -> &Crew {
        &self.shared.crew
    }

    /// Chunks may be lent now, if workers are there: the disk knows it, for a process that comes after this one. What they write
    /// takes no longer than `linger`.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn lends(&self, linger: Duration) -> Result<bool, durable::Error> {
        let is_there = self.shared.crew.is_there();
        let lends_ms = is_there.then(|| millis(LEASE + linger));
        {
            let mut memory = self.lock();
            if memory.page.lends_ms != lends_ms {
                memory.page.lends_ms = lends_ms;
                memory.unsaved = true;
            }
        }
        if is_there {
            self.save().await?;
        }
        Ok(is_there)
    }

    /// How it works.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The mirror is turned round, and paused: the other side may be the primary soon. All that is known stays until
    /// [`Desk::serves`] says which one is.
    pub fn turns(&self) {
        self.lock().on_trial = true;
    }

    /// From now on this side is the primary. What was under way towards the other one has lost its ground; if it is the one
    /// that it was before, everything goes on.
    pub fn serves(&self, primary: Side) {
        let mut memory = self.lock();
        memory.on_trial = false;
        let before = memory.page.primary.replace(primary);
        if before != Some(primary) {
            memory.unsaved = true;
            memory.page.copied.clear();
            memory.page.forget();
            memory.page.landed = 0;
            memory.page.standing.remove(&Kind::Backfill);
            memory.page.mends.clear();
            if let Some(job) = memory.page.current_mut().filter(|_| before.is_some()) {
                job.fail("the primary was switched while it was under way: ask for it again", unix_now());
                tell(job);
            }
            memory.page.ordered();
        }
    }

    /// The secondary's payment counter, as a new connection found it. What it may have lost is copied again; the tables
    /// of which that is so are returned. A side that is the secondary on trial counts its own, and never had any of it.
    pub fn stand(&self, payments: u64) -> Vec<TableId> {
        let mut memory = self.lock();
        if memory.on_trial || payments >= memory.page.landed {
            return Vec::new();
        }
        memory.page.landed = payments;
        memory.unsaved = true;
        memory.page.current_mut().into_iter().for_each(Job::begin_anew);
        memory.page.copied.iter().copied().map(TableId).collect()
    }

    /// Resolves when something is asked for after this was called, not only after it was polled. Cancel safe.
    pub fn changed(&self) -> impl Future<Output = ()> + use<'_> {
        self.shared.changed.notified()
    }

    /// What is to be done now, the mirror being so far behind; or when to ask again.
    pub fn errand(&self, now: Instant, lag: Duration) -> Result<Errand, Option<Instant>> {
        let options = &self.shared.options;
        let mut memory = self.lock();
        (memory.throttled, memory.hindrance) = (None, None);
        let Some(wants) = memory.page.current().map(Job::wants) else {
            if memory.begin_mends() {
                return Ok(Errand::Survey);
            }
            let due = memory.page.due().ok_or(None)?;
            let left = due.saturating_sub(unix_now());
            if left > 0 {
                return Err(Some(now + Duration::from_secs(left.min(3_600))));
            }
            memory.begin_due();
            drop(memory);
            self.forget_lines();
            return Ok(Errand::Survey);
        };
        if wants != Wants::Nothing
            && let Some((side, until, why)) = memory.rest.clone().filter(|rest| rest.1 > now)
        {
            (memory.throttled, memory.hindrance) = (Some(side), Some(why));
            return Err(Some(until));
        }
        if wants == Wants::Walk
            && let Some(until) = memory.lent_until.filter(|until| *until > now)
        {
            memory.throttled = Some(Throttle::Lent);
            return Err(Some(until));
        }
        match wants {
            Wants::Nothing => Err(None),
            Wants::Survey => Ok(Errand::Survey),
            Wants::Walk if lag > options.max_lag => {
                memory.throttled = Some(Throttle::Lag);
                Err(Some(now + options.hold))
            }
            Wants::Walk => match memory.refill(options.rate, now) {
                None => Ok(Errand::Walk),
                Some(at) => {
                    memory.throttled = Some(Throttle::Rate);
                    Err(Some(at))
                }
            },
        }
    }

    /// What is to be made on the secondary, for whom, before a survey or at the end of the copy.
    pub fn makes(&self) -> Option<(Request, Stage)> {
        let memory = self.lock();
        memory.page.current().and_then(|job| Some((job.request.clone(), job.makes()?)))
    }

    /// It was made, but for these.
    pub fn made(&self, stage: Stage, unmade: Vec<String>, lacks: Vec<String>) {
        let mut memory = self.lock();
        if let Some(job) = memory.page.current_mut() {
            job.made(stage, unmade, lacks);
        }
        memory.unsaved = true;
    }

    /// The answer to [`Errand::Survey`]; `between` is where the journal ended, behind every dirty mark, before the survey and
    /// after it.
    pub fn surveyed(&self, found: Vec<Surveyed>, between: (Lsn, Lsn)) {
        let mut memory = self.lock();
        let copied = memory.page.copied.clone();
        if let Some(job) = memory.page.current_mut() {
            job.surveyed(found, |table| copied.contains(&table.0), between, Instant::now());
            if job.state.is_over() {
                job.ended_unix = Some(unix_now());
                tell(job);
            }
            memory.page.ordered();
            memory.unsaved = true;
        }
    }

    /// A state of the primary is held: give out chunks for a while. What is `paid` is on the secondary.
    pub fn open_at(&self, now: Instant, paid: impl Into<Paid>) {
        let mut memory = self.lock();
        memory.until = Some(now + self.shared.options.hold.max(HOLD_MIN));
        let owing = memory.owing.len();
        let before = |job: &Job| Before { job: job.number, tables: job.tables.clone(), owing };
        memory.before = memory.page.current().map(before);
        memory.paid = paid.into();
    }

    /// How long a side took over next to nothing. If that was long, history leaves it to its clients for a while: ten
    /// times as long, so that it takes a tenth of a tired server's time at most.
    pub fn felt(&self, side: Throttle, took: Duration) {
        if took > self.shared.options.max_latency {
            let why = format!("a trivial statement took {} ms (backfill.max_latency)", took.as_millis());
            self.rests(side, took, why);
        }
    }

    /// What took so long for nothing is left alone for ten times as long.
    pub fn rests(&self, throttle: Throttle, took: Duration, why: String) {
        self.lock().rest = Some((throttle, Instant::now() + REST * took, why));
    }

    /// Something is in the way, and may say why: nothing is done for a while.
    pub fn hindered(&self, throttle: Throttle, why: Option<String>) {
        let mut memory = self.lock();
        (memory.throttled, memory.hindrance) = (Some(throttle), why);
    }

    /// The schema changed, or a table moved: look again.
    pub fn survey_again(&self) {
        let mut memory = self.lock();
        memory.page.current_mut().into_iter().for_each(Job::survey_again);
    }

    /// The state is given up: what was taken and not reported is to be done again. What was found is owed, the job goes
    /// on to its next pass if this one is over, and the disk knows. What landed is on a secondary whose payment counter is
    /// `payments` or more; without a counter nothing is known to have landed, and all is done again.
    ///
    /// # Errors
    /// The journal or the disk refuses; nothing is lost: what is not owed yet is owed with the next call.
    pub async fn settle(
        &self,
        journal: &Journal,
        paid: impl Into<Paid>,
        payments: Option<u64>,
    ) -> Result<Settled, Error> {
        let paid = paid.into();
        let found = {
            let mut memory = self.lock();
            memory.until = None;
            let memory = &mut *memory;
            match (payments, memory.before.take()) {
                (Some(payments), _) if memory.reported > 0 => memory.page.landed = payments,
                (None, Some(before)) => {
                    memory.owing.truncate(before.owing);
                    memory.found.clear();
                    memory.reported = 0;
                    if let Some(job) = memory.page.current_mut().filter(|job| job.number == before.job) {
                        job.back_to(before.tables);
                    }
                }
                _ => {}
            }
            std::mem::take(&mut memory.found)
        };
        self.list(found).await;
        self.owe(journal)?;
        let settled = {
            let mut memory = self.lock();
            let reported = std::mem::take(&mut memory.reported);
            memory.settle(journal.appended(), paid, reported)
        };
        self.save().await?;
        Ok(settled)
    }

    /// Through the journal, as what operators owe: ordered with the clients' writes, paid and owed again as they are. What the
    /// journal does not take stays first in the queue.
    fn owe(&self, journal: &Journal) -> Result<(), journal::Error> {
        let at_once = if self.shared.options.part_of.is_some() { 1 } else { usize::MAX };
        loop {
            let Some(mut owing) = self.lock().owing.front().cloned() else { return Ok(()) };
            let allowed = self.timestamp_of(owing.chunk.job);
            while owing.owed < owing.keys.len() {
                let some = owing.next(at_once);
                owe(journal, &mut self.debt(owing.chunk.table, some, allowed))?;
                owing.owed += some.len();
                if let Some(first) = self.lock().owing.front_mut() {
                    first.owed = owing.owed;
                }
            }
            let mut memory = self.lock();
            memory.owing.pop_front();
            let Owing { chunk, keys, crowd, again, .. } = owing;
            if let Some(job) = memory.page.current_mut().filter(|job| job.number == chunk.job) {
                if again { job.owed(&chunk, (keys.len() as u64, crowd), journal.appended()) } else { job.close(&chunk) }
            }
        }
    }

    /// What is written for the job of that number, if it is known still, is written at this time.
    fn timestamp_of(&self, number: u64) -> Option<i64> {
        let memory = self.lock();
        memory.page.all().find(|job| job.number == number).and_then(|job| job.request.timestamp)
    }

    fn debt(&self, table: TableId, keys: &[Box<[u8]>], allowed: Option<i64>) -> RecordBuf {
        let mut record = RecordBuf::default();
        for key in keys {
            record.key(table, key, false);
            if let Some(part_of) = self.shared.options.part_of {
                allowed.into_iter().for_each(|timestamp| record.stamp(timestamp));
                record.touch(table, part_of(key).map_or(Lane::ANY, |part| Lane::new(Order::AtPlaces, part)));
            }
        }
        record
    }

    async fn list(&self, found: Vec<Line>) {
        if found.is_empty() {
            return;
        }
        let (lines, count) = (self.shared.lines.clone(), found.len() as u64);
        let added = tokio::task::spawn_blocking(move || lines.add(&found)).await;
        let dropped = match added {
            Ok(Ok(dropped)) => dropped,
            Ok(Err(error)) => {
                tracing::warn!(%error, "rows that differ could not be listed");
                count
            }
            Err(_) => count,
        };
        self.lock().page.not_listed += dropped;
    }

    async fn save(&self) -> Result<(), durable::Error> {
        let _saving = self.shared.saving.lock().await;
        let page = {
            let mut memory = self.lock();
            std::mem::take(&mut memory.unsaved).then(|| memory.kept())
        };
        let Some(page) = page else { return Ok(()) };
        let saved = self.shared.file.save_aside(&page).await;
        self.lock().unsaved |= saved.is_err();
        saved
    }

    // What workers do.

    /// The next chunk; `None`: enough for this state of the primary.
    pub fn take(&self, now: Instant) -> Option<Chunk> {
        let mut memory = self.lock();
        let (memory, rate) = (&mut *memory, self.shared.options.rate);
        if memory.until.is_none_or(|until| until <= now) || (rate > 0 && memory.budget <= 0.0) {
            return None;
        }
        let job = memory.page.current_mut()?;
        job.wake(now);
        job.take(&memory.paid)
    }

    /// What came of a chunk.
    pub fn put(&self, chunk: Chunk, outcome: Outcome) {
        let options = &self.shared.options;
        let micros = (options.hold.as_micros() as u64 / 4).max(1);
        let sizes = Sizes { rows: options.chunk_rows.max(1), micros };
        let mut memory = self.lock();
        let memory = &mut *memory;
        meters::ended(&chunk, &outcome);
        let Some(job) = memory.page.current_mut().filter(|job| job.number == chunk.job) else {
            return memory.put_late(chunk, outcome);
        };
        memory.reported += 1;
        let (table, name) = (chunk.table, job.name(chunk.table).to_owned());
        let copied: Option<Vec<u64>> =
            (chunk.pass == Pass::Copy).then(|| job.labels(table).map(|label| label.0).collect());
        match outcome {
            Outcome::Done(landed) => {
                memory.budget -= landed.bytes as f64;
                let seen = job.landed(&chunk, &landed, sizes);
                if seen.first && chunk.pass != Pass::Copy {
                    meters::differ(&landed);
                    let listed = landed.differing.iter().filter(|_| !job.background);
                    let lines = listed.map(|one| Line::of(job.number, job.name(chunk.table), one));
                    memory.found.extend(lines);
                }
                if !landed.refused.is_empty() {
                    memory.owing.push_back(Owing::once(chunk.clone(), landed.refused));
                }
                if seen.owes {
                    let keys: Vec<_> = landed.differing.into_iter().map(|one| one.key).collect();
                    let owing = Owing { crowd: landed.crowd, again: true, ..Owing::once(chunk, keys) };
                    memory.owing.push_back(owing);
                }
            }
            Outcome::Moved => job.survey_again(),
            Outcome::Dense => _ = job.halve(&chunk),
            Outcome::Unreadable(unread) => job.unreadable(&chunk, unread, Instant::now()),
            Outcome::Refused(keys, why) if keys.is_empty() => {
                job.refuse(chunk.table, why);
            }
            // Small enough, the mirror copies row by row, and parks what is refused.
            Outcome::Refused(keys, _) if keys.len() <= ROWS_OWED || !job.halve(&chunk) => {
                memory.owing.push_back(Owing::once(chunk, keys));
            }
            Outcome::Refused(..) => {}
        }
        if let Some(labels) = copied {
            memory.page.came(table, &name, labels);
        }
        memory.unsaved = true;
    }
}

/// Rows of a refused chunk that are owed one by one.
const ROWS_OWED: usize = 1_000;
/// Bytes of keys in a record of what is owed: a small part of the least that a journal takes.
const RECORD_BYTES: usize = 64 << 10;
/// More than a record needs for a key beside its bytes.
const ITEM_BYTES: usize = 16;

/// What came of one state of the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Tables that are equal now, if the job ended, and since when nothing was missed of each.
    pub clean: Vec<(TableId, Lsn)>,
    /// Nothing could be done.
    pub idle: bool,
}

/// Why the engine's turn at the desk failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was found could not be owed.
    #[error("what history lacks could not be owed: {0}")]
    Journal(#[from] journal::Error),
    /// The page could not be saved.
    #[error(transparent)]
    Durable(#[from] durable::Error),
}

impl Page {
    fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().chain(&self.mending)
    }

    fn current(&self) -> Option<&Job> {
        self.all().find(|job| !job.state.is_over())
    }

    fn current_mut(&mut self) -> Option<&mut Job> {
        self.jobs.values_mut().chain(&mut self.mending).find(|job| !job.state.is_over())
    }

    /// What is said of this kind: what is under way, else what came last.
    fn shown(&self, kind: Kind) -> Option<&Job> {
        let of_kind = || self.all().filter(|job| job.request.kind == kind);
        of_kind().find(|job| !job.state.is_over()).or_else(|| of_kind().max_by_key(|job| job.number))
    }

    /// The other side is written now. What was not known to be equal there is not known to be when it is the secondary again.
    fn forget(&mut self) {
        if let Some(job) = self.current().cloned() {
            self.trust.learn(&job);
        }
        for (table, mut labels) in self.trust.forget() {
            // An older page names no parts.
            labels.extend(self.all().flat_map(|job| job.labels(table)).map(|label| label.0).chain([table.0]));
            labels.iter().for_each(|label| _ = self.seen.remove(label));
        }
    }

    /// Rows of the table were copied.
    fn came(&mut self, table: TableId, name: &str, labels: Vec<u64>) {
        self.seen.extend(labels.iter().copied());
        self.trust.copied(table, name, &labels);
        self.copied.extend(labels);
    }

    /// The job is over, or will go no further.
    fn learn(&mut self, job: &Job) {
        self.trust.learn(job);
        let compared: Vec<TableId> = job.verdicts().map(|(table, ..)| table).collect();
        self.seen.extend(compared.into_iter().flat_map(|table| job.labels(table)).map(|label| label.0));
        self.seen.extend(job.has_seen_all().then_some(TableId::NONE.0));
    }

    /// Who asks by name goes first: what was being mended is mended later.
    fn step_aside(&mut self) {
        let Some(job) = self.current_mut().filter(|job| job.background) else { return };
        job.cancel(unix_now());
        let (job, mended) = (job.clone(), job.mended());
        self.learn(&job);
        self.mends.extend(mended);
    }

    /// What is done again and again, and is over, gets its next time.
    fn ordered(&mut self) {
        for (kind, standing) in &mut self.standing {
            let over = self.jobs.get(kind).is_none_or(|job| job.state.is_over());
            let every = standing.request.every_seconds.unwrap_or_default();
            if over && standing.next_unix.is_none() {
                standing.next_unix = Some(unix_now() + every);
            }
        }
    }

    /// When the next round is due, in seconds since the epoch.
    fn due(&self) -> Option<u64> {
        self.standing.values().filter_map(|standing| standing.next_unix).min()
    }
}

impl Memory {
    /// A new job; its number.
    fn begin(&mut self, request: Request, round: u64) -> u64 {
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
    fn settle(&mut self, appended: Lsn, paid: Paid, reported: usize) -> Settled {
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
    fn kept(&self) -> Page {
        let mut page = self.page.clone();
        for Owing { chunk, keys, crowd, again, .. } in &self.owing {
            let Some(job) = page.current_mut().filter(|job| job.number == chunk.job) else { continue };
            if *again { job.owed(chunk, (keys.len() as u64, *crowd), Lsn(0)) } else { job.open(chunk) }
        }
        page
    }

    /// What came of a chunk whose job was cancelled meanwhile. What it wrote is there; what the mirror must copy of it is owed all
    /// the same, or it would stay as no client left it.
    fn put_late(&mut self, chunk: Chunk, outcome: Outcome) {
        let keys: Vec<Box<[u8]>> = match outcome {
            _ if chunk.pass != Pass::Copy => return,
            Outcome::Done(landed) => {
                landed.refused.into_iter().chain(landed.differing.into_iter().map(|one| one.key)).collect()
            }
            Outcome::Refused(keys, _) => keys,
            Outcome::Moved | Outcome::Dense | Outcome::Unreadable(_) => Vec::new(),
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
    fn begin_mends(&mut self) -> bool {
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
    fn begin_due(&mut self) {
        let due = self.page.standing.values_mut().filter(|standing| standing.next_unix.is_some());
        let Some(standing) = due.min_by_key(|standing| standing.next_unix) else { return };
        standing.next_unix = None;
        let (request, round) = (standing.request.clone(), standing.rounds);
        standing.rounds += 1;
        self.begin(request, round);
    }

    /// Why it waits.
    fn why(&self) -> Option<String> {
        let why = self.throttled?.why();
        Some(self.hindrance.as_ref().map_or_else(|| why.to_owned(), |said| format!("{why}: {said}")))
    }

    /// Let the budget grow, one second's worth at most; when there is some again, if there is none.
    fn refill(&mut self, rate: u64, now: Instant) -> Option<Instant> {
        let gained = now.saturating_duration_since(self.budget_at).as_secs_f64() * rate as f64;
        self.budget = (self.budget + gained).min(rate as f64);
        self.budget_at = now;
        let missing = if rate > 0 && self.budget <= 0.0 { 1.0 - self.budget } else { return None };
        Some(now + Duration::from_secs_f64((missing / rate as f64).min(60.0)))
    }
}

impl Pace {
    fn eta(&mut self, report: &Report) -> Option<f64> {
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

fn report(job: &Job) -> Report {
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

/// A table that cannot be walked over now.
fn doubted(job: &Job) -> Option<String> {
    let (table, doubt) = job.tables.iter().find_map(|table| Some((table, table.doubt.as_ref()?)))?;
    Some(format!("{}: {}: it is looked at again when the mirror has caught up", table.name, doubt.why))
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

fn tell(job: &Job) {
    let (number, kind, counts) = (job.number, job.request.kind.as_str(), job.counts());
    match job.state {
        State::Done => tracing::info!(number, kind, ?counts, "history: done"),
        State::Failed => tracing::warn!(number, kind, ?counts, why = job.why, "history: something was left out"),
        state => tracing::info!(number, kind, ?state, "history"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::work::{Difference, Differs, Extent, Landed};
    use crate::journal::Entry;
    use crate::journal::storage::MemoryDisk;
    use crate::record::{Item, Record};

    /// Of nine units, the same on both sides.
    fn table() -> Surveyed {
        let extents = vec![Extent { name: "t".into(), file: 1, units: 9 }];
        Surveyed {
            table: TableId(1),
            name: "public.t".into(),
            part_of: None,
            labels: vec![TableId(1)],
            rows: 9,
            bytes: 9,
            primary: extents.clone(),
            secondary: extents,
            occupied: false,
            refused: None,
            unread: None,
            not_compared: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_a_chunk_leaves_to_the_mirror_is_owed_although_it_was_cancelled_meanwhile() {
        a_chunk_outlives_its_job(false).await;
        a_chunk_outlives_its_job(true).await;
    }

    /// Its job was cancelled while it was under way, and another one asked for, or not.
    async fn a_chunk_outlives_its_job(is_followed: bool) {
        let (desk, journal) = (Desk::in_memory(), Journal::in_memory());
        let begin = async || {
            if !desk.is_busy() {
                desk.start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
            }
            desk.surveyed(vec![Surveyed { occupied: desk.has_seen(TableId(1)), ..table() }], (Lsn(0), Lsn(0)));
            desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
            desk.open_at(Instant::now(), Lsn(0));
        };
        begin().await;
        let chunk = desk.take(Instant::now()).expect("there is one");
        desk.cancel(Kind::Backfill).await.expect("it is under way");
        if is_followed {
            desk.start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
        }
        let differing = vec![Difference { how: Differs::Different, key: (*b"settled").into(), shown: String::new() }];
        let landed = Landed { rows: 9, differing, refused: vec![(*b"refused").into()], ..Landed::default() };
        desk.put(chunk, Outcome::Done(landed));
        desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
        let (entries, _) = journal.read(Lsn(0), 1 << 20).await.expect("memory");
        let owed = |key: &[u8]| {
            let holds =
                |entry: &Entry| matches!(entry, Entry::Record { payload, .. } if payload.windows(7).any(|w| w == key));
            entries.iter().any(holds)
        };
        assert!(owed(b"settled") && owed(b"refused"));
        // What it wrote is ours: the next one meets no strangers, and takes nothing of it for its own.
        begin().await;
        let next = desk.take(Instant::now()).expect("nothing of it is done");
        assert_eq!((next.from, desk.report(Kind::Backfill).map(|report| report.rows)), (0, Some(0)));
    }

    /// Keys of rows that differ.
    fn differing(count: u64) -> Vec<Difference> {
        let key = |n: u64| [&[7; 12], &n.to_be_bytes()[..]].concat().into();
        (0..count).map(|n| Difference { how: Differs::Missing, key: key(n), shown: n.to_string() }).collect()
    }

    /// A repair of the table, at its first state.
    async fn repairing(journal: &Journal, options: Options) -> Desk {
        let lines = Lines::in_memory(64 << 20);
        let desk = Desk::open(Durable::in_memory("history"), lines, options).expect("memory");
        desk.start(Request::new(Kind::Repair)).await.expect("nothing is under way");
        desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
        desk.settle(journal, Lsn(0), Some(0)).await.expect("nothing is owed");
        desk.open_at(Instant::now(), Lsn(0));
        desk
    }

    /// Everything that is owed, record by record.
    async fn owed(journal: &Journal) -> Vec<(usize, Vec<Vec<u8>>)> {
        let (mut all, mut from) = (Vec::new(), Lsn(0));
        loop {
            let (entries, next) = journal.read(from, 1 << 20).await.expect("memory");
            if next == from {
                return all;
            }
            from = next;
            for entry in entries {
                let Entry::Record { payload, .. } = entry else { continue };
                let record = Record::parse(payload.clone()).expect("ours");
                let key = |item| if let Item::Key { key, .. } = item { Some(key.to_vec()) } else { None };
                all.push((payload.len(), record.items().filter_map(key).collect()));
            }
        }
    }

    #[tokio::test]
    async fn what_a_chunk_owes_is_cut_into_records_that_the_journal_takes() {
        let journal = Journal::in_memory();
        let desk = repairing(&journal, Options::default()).await;
        let chunk = desk.take(Instant::now()).expect("there is one");
        let landed = Landed { rows: 60_000, differing: differing(60_000), ..Landed::default() };
        desk.put(chunk, Outcome::Done(landed));
        desk.settle(&journal, Lsn(0), Some(0)).await.expect("no record is too large");
        let records = owed(&journal).await;
        assert!(records.iter().all(|(bytes, _)| *bytes <= RECORD_BYTES + 1_024), "{:?}", records.first());
        let keys: BTreeSet<_> = records.iter().flat_map(|(_, keys)| keys).collect();
        assert_eq!((keys.len(), records.iter().map(|(_, keys)| keys.len()).sum()), (60_000, 60_000_usize));
    }

    #[tokio::test]
    async fn what_a_full_journal_does_not_take_is_owed_later_and_counted_once() {
        let options = journal::Options {
            size_limit_bytes: 64 << 20,
            segment_bytes: 256 << 10,
            record_limit_bytes: 128 << 10,
            ring_bytes: 512 << 10,
            ..journal::Options::default()
        };
        let disk = MemoryDisk::default();
        let (journal, _) = Journal::open_on(disk.storage(), options).expect("memory");
        let desk = repairing(&journal, Options::default()).await;
        let chunk = desk.take(Instant::now()).expect("there is one");
        let landed = Landed { rows: 60_000, differing: differing(60_000), ..Landed::default() };
        desk.put(chunk.clone(), Outcome::Done(landed));
        let mut refusals = 0;
        while let Err(error) = desk.settle(&journal, Lsn(0), Some(0)).await {
            assert!(matches!(error, Error::Journal(journal::Error::Full)), "{error}");
            journal.sync_now();
            refusals += 1;
            assert!(refusals < 100, "it comes on");
            // What was done before stands, if the next state comes to nothing.
            desk.open_at(Instant::now(), Lsn(0));
            desk.settle(&journal, Lsn(0), None).await.err();
            journal.sync_now();
        }
        assert!(refusals > 0, "it was full");
        let counts = || desk.report(Kind::Repair).expect("asked for").counts;
        assert_eq!((counts().read, counts().missing, counts().repaired), (60_000, 60_000, 0));
        let keys: BTreeSet<_> = owed(&journal).await.into_iter().flat_map(|(_, keys)| keys).collect();
        assert_eq!(keys.len(), 60_000);

        // Paid, all of it is looked at once more, and found equal.
        desk.open_at(Instant::now(), journal.appended());
        let again = desk.take(Instant::now()).expect("it is looked at again");
        assert!(again.again && (again.from, again.to) == (chunk.from, chunk.to));
        desk.put(again, Outcome::Done(Landed { rows: 60_000, ..Landed::default() }));
        desk.settle(&journal, journal.appended(), Some(0)).await.expect("nothing is owed");
        assert_eq!((counts().read, counts().missing, counts().repaired), (60_000, 60_000, 60_000));
        assert_eq!(desk.differences(100_000).expect("memory").len(), 60_000);
    }

    #[tokio::test]
    async fn what_is_not_owed_yet_is_not_done_for_the_disk() {
        let (file, journal) = (Durable::in_memory("history"), Journal::in_memory());
        let open = || Desk::open(file.clone(), Lines::in_memory(1 << 20), Options::default()).expect("memory");
        let desk = open();
        desk.start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
        desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
        desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
        desk.open_at(Instant::now(), Lsn(0));
        let chunk = desk.take(Instant::now()).expect("there is one");
        let landed = Landed { rows: 9, refused: vec![(*b"refused").into()], ..Landed::default() };
        desk.put(chunk.clone(), Outcome::Done(landed));
        // An operator has the page saved before the mirror's turn ends; then the process is killed.
        desk.pause(Kind::Backfill).await.expect("it is under way");
        let desk = open();
        desk.resume(Kind::Backfill).await.expect("it is under way");
        desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
        desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
        desk.open_at(Instant::now(), Lsn(0));
        let again = desk.take(Instant::now()).expect("what it owes nobody knows");
        assert!(again.begun && (again.from, again.to) == (chunk.from, chunk.to));
    }

    /// The mirror was turned round and back, for a switch that ended before its flip.
    fn called_off(desk: &Desk) {
        desk.turns();
        assert_eq!(desk.stand(3), [], "the other side counts its own payments");
        desk.serves(Side::Origin);
    }

    #[tokio::test]
    async fn a_switch_that_ends_before_its_flip_leaves_all_that_is_known_of_history_promise_10() {
        let (desk, journal) = (Desk::in_memory(), Journal::in_memory());
        desk.serves(Side::Origin);
        let request = Request { verify: false, ..Request::new(Kind::Backfill) };
        desk.start(request).await.expect("nothing is under way");
        desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
        assert!(!desk.has_seen(TableId::NONE));
        while desk.is_busy() {
            desk.open_at(Instant::now(), Lsn(0));
            while let Some(chunk) = desk.take(Instant::now()) {
                desk.put(chunk, Outcome::Done(Landed { rows: 9, ..Landed::default() }));
            }
            desk.settle(&journal, journal.appended(), Some(7)).await.expect("memory");
        }
        assert!(desk.has_seen(TableId::NONE), "it was of all tables");
        desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
        desk.mend([TableId(5)]);
        let told = || (desk.doubts(), desk.report(Kind::Backfill), desk.report(Kind::Verify));
        let before = told();
        assert_eq!(before.0.unverified, ["public.t"]);

        desk.turns();
        assert_eq!(told(), before, "nobody is told what may not come true");
        called_off(&desk);
        assert_eq!(told(), before);
        // A target that fell back behind the chunks that were copied is noticed still.
        assert_eq!(desk.stand(6), [TableId(1)]);

        // Switched, all of it is of the past. What was not known to be equal is not known to be after the way back.
        assert!(desk.has_seen(TableId(1)));
        desk.turns();
        desk.serves(Side::Target);
        assert_eq!((desk.doubts(), desk.stand(0)), (Doubts::default(), Vec::new()));
        let verify = desk.report(Kind::Verify).expect("asked for");
        assert_eq!((verify.state, desk.is_busy()), (State::Failed, false));
        assert!(!desk.has_seen(TableId(1)));
    }

    #[tokio::test]
    async fn what_nobody_asked_for_takes_nobodys_report_away() {
        let desk = Desk::in_memory();
        desk.mend([TableId(1)]);
        assert_eq!(desk.errand(Instant::now(), Duration::ZERO), Ok(Errand::Survey));
        assert_eq!(desk.report(Kind::Repair).map(|report| report.number), Some(1), "it is shown");
        let asked = desk.start(Request::new(Kind::Repair)).await.expect("the other steps aside");
        assert_eq!(desk.report(Kind::Repair).map(|report| report.number), Some(asked));
        desk.cancel(Kind::Repair).await.expect("it is under way");
        assert_eq!(desk.report(Kind::Repair).map(|report| report.state), Some(State::Cancelled));
        // What stepped aside begins again: it is what is under way, and what was asked for has its end all the same.
        assert_eq!(desk.errand(Instant::now(), Duration::ZERO), Ok(Errand::Survey));
        assert_eq!(desk.report(Kind::Repair).map(|report| report.number), Some(asked + 1));
        assert!(desk.report_numbered(Kind::Repair, asked).is_some_and(|report| report.state.is_over()));
        assert_eq!(desk.report_numbered(Kind::Verify, asked), None);
    }

    #[tokio::test]
    async fn what_is_done_again_and_again_has_its_next_time_behind_a_switch() {
        let desk = Desk::in_memory();
        desk.serves(Side::Origin);
        let request = Request { every_seconds: Some(60), ..Request::new(Kind::Verify) };
        desk.start(request).await.expect("nothing is under way");
        desk.serves(Side::Target);
        assert!(desk.report(Kind::Verify).is_some_and(|report| report.next_unix.is_some()));
    }

    #[tokio::test]
    async fn what_is_not_begun_is_not_shown_as_done() {
        let desk = Desk::in_memory();
        desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
        let done = || desk.report(Kind::Verify).map(|report| report.done);
        assert_eq!(done(), Some(0.0));
        desk.cancel(Kind::Verify).await.expect("it is under way");
        assert_ne!(done(), Some(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_is_slow_is_left_alone_and_named() {
        let desk = Desk::in_memory();
        desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
        desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
        let errand = || desk.errand(Instant::now(), Duration::ZERO);
        desk.felt(Throttle::Primary, Duration::from_millis(499));
        assert_eq!(errand(), Ok(Errand::Walk));
        desk.felt(Throttle::Secondary, Duration::from_millis(700));
        let until = Instant::now() + Duration::from_secs(7);
        assert_eq!((errand(), desk.throttle()), (Err(Some(until)), Some(Throttle::Secondary)));
        let why = desk.report(Kind::Verify).and_then(|report| report.why);
        assert!(why.as_ref().is_some_and(|why| why.contains("700 ms")), "{why:?}");
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!((errand(), desk.throttle()), (Ok(Errand::Walk), None));
    }
}
