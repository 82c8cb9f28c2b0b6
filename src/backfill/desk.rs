//! Where operators, the mirror's engine and the copier's workers meet over one job at a time.
//!
//! An operator starts, holds and ends a job. The engine asks whether there is something to do beside its payments, and
//! for how long; workers take chunks and report them. The lock is held for moments and never across an await; what must
//! reach the disk does so between two snapshots.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::journal::{self, Lsn};
use crate::mirror::dirty::unix_now;
use crate::mirror::durable::{self, Durable};
use crate::record::{Side, TableId};

use super::crew::{Crew, LEASE, millis};
use super::job::{Job, Line, State, Wants};
use super::lines::Lines;
use super::meters;
use super::report::{Pace, Report, report};
use super::request::{Conflict, Kind, Request};
use super::trust::Doubts;
use super::walked::{Sizes, Walked};
use super::work::{Chunk, Outcome, Paid, Pass, Stage, Surveyed};

mod memory;
mod owing;
mod page;

use memory::{Before, Memory};
use owing::Owing;
use page::{Page, Standing};

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
    saving: Arc<tokio::sync::Mutex<()>>,
}

/// Most bytes of rows that a verify found to differ and keeps by key.
const DIFFERENCES_BYTES: u64 = 64 << 20;
/// How many times as long as it took over nothing a side is left alone.
const REST: u32 = 10;
/// A state that lived shorter would be more handshake than work.
const HOLD_MIN: Duration = Duration::from_millis(20);

const UNDONE: &str =
    "newer rows of the target would not stay: a backfill is done again and again, which `tandem backfill cancel` ends";

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
            saving: Arc::default(),
        };
        Ok(Desk { shared: Arc::new(shared) })
    }

    /// The file of what is asked for and known, beside the journal.
    pub(crate) const FILE: &str = "history";

    /// How far the journal was when this file was written: the highest position that a walk remembers.
    pub(crate) fn reached(file: Durable) -> Result<Lsn, durable::Error> {
        let page: Page = file.load()?.unwrap_or_default();
        Ok(page.jobs.values().chain(&page.mending).map(Job::reached).max().unwrap_or_default())
    }

    /// In this directory, which exists, as `history` and `history-differences.jsonl`.
    ///
    /// # Errors
    /// As [`Desk::open`].
    pub fn in_dir(dir: &Path, options: Options) -> Result<Desk, durable::Error> {
        Desk::open(Durable::in_dir(dir, Desk::FILE), Lines::in_dir(dir, DIFFERENCES_BYTES), options)
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
            if request.on_conflict == Conflict::Newer && memory.page.standing.contains_key(&kind) {
                return Err(Refused::Nonsense(UNDONE));
            }
            // What is done once takes nothing away from what is done again and again.
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

    /// End it, and do not do it again; what is copied stays. What was asked for once beside it ends alone.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub async fn cancel(&self, kind: Kind) -> Result<(), Refused> {
        let stood = {
            let page = &mut self.lock().page;
            let is_beside =
                page.current().is_some_and(|job| job.request.kind == kind && job.request.every_seconds.is_none());
            !is_beside && page.standing.remove(&kind).is_some()
        };
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
            report.why = report
                .why
                .or_else(|| memory.why())
                .or_else(stuck)
                .or_else(|| job.tables.iter().find_map(Walked::waits_for));
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

    /// All tables of which [`Desk::has_seen`] is so.
    pub fn seen(&self) -> Vec<TableId> {
        let tables =
            |page: &Page| page.seen.iter().copied().map(TableId).filter(|table| *table != TableId::NONE).collect();
        tables(&self.lock().page)
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

    /// Writes to these tables, by all of their labels, were left out of what is mirrored: what was known of their history is no longer
    /// so. Durable when it resolves.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn leave_out(&self, labels: &BTreeSet<TableId>) -> Result<(), durable::Error> {
        let forgot = {
            let mut memory = self.lock();
            let forgot = memory.page.leave_out(labels);
            memory.unsaved |= forgot;
            forgot
        };
        if forgot {
            tracing::warn!(
                labels = labels.len(),
                "writes to tables that are left out: their history counts as unknown"
            );
            self.save().await?;
        }
        Ok(())
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

    /// Nothing is to be made for anybody who is under way or holds.
    pub fn makes_nothing(&self) -> bool {
        self.lock().page.current().is_none_or(|job| !job.request.provision)
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

    async fn save(&self) -> Result<(), durable::Error> {
        let turn = self.shared.saving.clone().lock_owned().await;
        let page = {
            let mut memory = self.lock();
            std::mem::take(&mut memory.unsaved).then(|| memory.kept())
        };
        let Some(page) = page else { return Ok(()) };
        // Who asked may have gone: an operator's request ends with their connection.
        let desk = self.clone();
        let then = move |saved: bool| {
            desk.lock().unsaved |= !saved;
            drop(turn);
        };
        self.shared.file.save_then(&page, then).await
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
            Outcome::Waits(why) => job.waits_with(&chunk, why, Instant::now()),
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

fn tell(job: &Job) {
    let (number, kind, counts) = (job.number, job.request.kind.as_str(), job.counts());
    match job.state {
        State::Done => tracing::info!(number, kind, ?counts, "history: done"),
        State::Failed => tracing::warn!(number, kind, ?counts, why = job.why, "history: something was left out"),
        state => tracing::info!(number, kind, ?state, "history"),
    }
}

#[cfg(test)]
mod tests;
