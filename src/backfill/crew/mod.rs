//! Workers in other processes: chunks are lent to them, and what came of those comes back.
//!
//! The process that runs the mirror stays the owner of everything: the job, its file, what is owed. A worker does what needs
//! both databases and nothing else, for one chunk: rows are read here and written there, or read on both sides. So a worker
//! that is lost costs the time of its chunks.
//!
//! ```text
//!  worker                    crew                        walk
//!    take ------------------> waits  <------------------ seat
//!      <--- work, lease ----- lent   <------------------ lend
//!    beat ------------------> lease from now on
//!    put -------------------> over   ------------------> done
//!      (silence)              lease over, linger ------> lost: the chunk is done again
//! ```
//!
//! **Nothing of a chunk that failed arrives later**, which a walk relies on where no timestamp decides (what is settled by
//! state leaves no tombstone, nor does a TRUNCATE):
//! - A worker knows its lease, and counts it from before it *asked*: it is over there before it is over here, whatever the way
//!   took, as long as both clocks run equally fast. From [`MARGIN`] before its end on a worker sends nothing (see [`Lease`]).
//! - A chunk is lost when its lease is over *and* everything that was sent within it: `linger`, the servers' own timeout.
//!   Until then it counts as being copied, also when the walk is to end ([`Crew::recall`]).
//! - What a worker says later is refused.
//! - Of a comparison nothing can arrive: it is lost at the end of its lease, and forgotten as soon as nobody waits for it.
//! - A process that comes after one that lent waits as long before it begins (`Desk::lends`). What was being done then is done
//!   again, and compared behind that, so what still arrived meanwhile is found.
//!
//! What remains: a worker's machine that stands still, between its look at the lease and the write, for longer than a lease.
//! Both clocks of the machine are asked, so it has to stop within that moment. A verify finds what it leaves.

mod lease;
pub mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::metrics;
use crate::mirror::dirty::unix_now;

pub use lease::{Asked, Lease};
use message::{Compared, Copied, Doing, Done, Join, Joined, Pair, Task, Work};

/// A worker that says nothing for so long has lost its chunks.
pub const LEASE: Duration = Duration::from_secs(10);
/// A worker says as often that it works.
pub const BEAT: Duration = Duration::from_secs(2);
/// So long before the end of its lease a worker sends nothing more.
pub const MARGIN: Duration = Duration::from_secs(2);
/// How long a worker waits for a chunk before it asks again.
const HOLD: Duration = Duration::from_secs(5);
/// A worker of which nothing was heard for so long is gone.
const GONE: Duration = Duration::from_secs(20);
/// Workers at once: each has a connection to the admin API while it waits.
const WORKERS_MAX: usize = 32;
/// Chunks that a worker may have at once.
const CHUNKS_MAX: usize = 64;
/// How often somebody who waits for the end of all that is lent looks.
const LOOK: Duration = Duration::from_millis(100);
/// Workers that are remembered, those that are gone too.
const REMEMBERED_MAX: usize = 2 * WORKERS_MAX;
/// Letters of a worker's name.
const NAME_MAX: usize = 100;
/// Letters that are kept of why a chunk failed.
const WHY_MAX: usize = 300;

/// Whether a worker looks at the same two databases; if not, why.
pub type Judge = Box<dyn Fn(&Pair) -> Result<(), String> + Send + Sync>;

/// Where workers and the walk meet. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Crew {
    shared: Arc<Shared>,
}

struct Shared {
    judge: OnceLock<Judge>,
    now: Mutex<Now>,
    changed: Notify,
}

struct Now {
    /// Numbers workers and chunks, above those of the processes before.
    count: u64,
    workers: BTreeMap<u64, Worker>,
    waiting: VecDeque<Waiting>,
    loans: BTreeMap<u64, Lent>,
}

struct Worker {
    name: String,
    connections: usize,
    heard: Instant,
    left: bool,
    tally: Tally,
}

/// What a worker did since it came.
#[derive(Clone, Debug, Default)]
struct Tally {
    chunks: u64,
    rows: u64,
    bytes: u64,
    compared: u64,
    lost: u64,
    why: Option<String>,
}

/// A worker asks for work.
struct Waiting {
    worker: u64,
    since: Instant,
    answer: oneshot::Sender<Work>,
}

/// A chunk that a worker has.
struct Lent {
    worker: u64,
    until: Instant,
    linger: Duration,
    doing: Doing,
    /// Its lease is not prolonged.
    is_recalled: bool,
    /// `None`, or closed: nobody waits for it any more.
    answer: Option<oneshot::Sender<Done>>,
}

/// A worker, as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// As it calls itself.
    pub name: String,
    /// `working`, `waiting`, or `gone`.
    pub state: String,
    /// Chunks that it may have at once.
    pub connections: usize,
    /// Chunks that it has now.
    pub under_way: usize,
    /// Chunks that it did since it came.
    pub chunks: u64,
    /// Rows that it copied.
    pub rows: u64,
    /// Bytes that it copied.
    pub bytes: u64,
    /// Rows that it compared.
    pub compared: u64,
    /// Chunks that it lost or gave back: others did them.
    pub lost: u64,
    /// Why the last of them.
    pub why: Option<String>,
}

/// Why a worker is not heard.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It may not work here.
    #[error("{0}")]
    Join(String),
    /// Nobody knows it.
    #[error("no such worker: tandem was started again, or has not heard of it for long; join again")]
    Unknown,
    /// It is too late.
    #[error("its lease was over: the chunk is not this worker's any more, and what it says of it does not count")]
    Late,
}

/// The worker did not do its chunk: it is to be done again.
#[derive(Debug, thiserror::Error)]
#[error("worker {name}: {why}")]
pub struct Lost {
    /// The worker.
    pub name: String,
    /// What happened.
    pub why: String,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}

impl Default for Crew {
    fn default() -> Crew {
        // More than was counted in any second before.
        let count = unix_now().saturating_mul(1_000_000);
        let now = Now { count, workers: BTreeMap::new(), waiting: VecDeque::new(), loans: BTreeMap::new() };
        Crew { shared: Arc::new(Shared { judge: OnceLock::new(), now: Mutex::new(now), changed: Notify::new() }) }
    }
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.shared.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on workers may come that this finds right.
    pub fn open(&self, judge: Judge) {
        let _ = self.shared.judge.set(judge);
    }

    /// They are clones of one.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Crew) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    // What workers do.

    /// A worker comes.
    ///
    /// # Errors
    /// [`Refused::Join`].
    pub fn join(&self, join: &Join) -> Result<Joined, Refused> {
        let refused = |why: String| Refused::Join(why);
        let judge = self.shared.judge.get().ok_or_else(|| refused(NO_WORKERS.to_owned()))?;
        let ours = env!("CARGO_PKG_VERSION");
        if join.version != ours {
            let theirs = &join.version;
            return Err(refused(format!("this tandem is {ours}, and the worker {theirs}: start the same version")));
        }
        if join.name.is_empty() || join.name.chars().count() > NAME_MAX || join.name.chars().any(char::is_control) {
            return Err(refused(format!("a worker's name has 1 to {NAME_MAX} letters")));
        }
        if !(1..=CHUNKS_MAX).contains(&join.connections) {
            return Err(refused(format!("a worker has 1 to {CHUNKS_MAX} chunks at once (--workers)")));
        }
        judge(&join.sides).map_err(refused)?;
        let worker = self.lock().join(join).ok_or_else(|| {
            refused(format!("there are {WORKERS_MAX} workers, and no more are taken: give each more --workers"))
        })?;
        tracing::info!(name = join.name, "history: a worker came");
        Ok(Joined { worker, lease_ms: millis(LEASE), beat_ms: millis(BEAT) })
    }

    /// A chunk for this worker, when there is one; `None`: ask again. Dropped, nothing is lent.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub async fn take(&self, worker: u64) -> Result<Option<Work>, Refused> {
        let receiver = {
            let mut now = self.lock();
            now.hear(worker)?;
            let (answer, receiver) = oneshot::channel();
            // It asks once at a time: what it asked before it does not hear any more.
            now.waiting.retain(|waiting| waiting.worker != worker);
            now.waiting.push_back(Waiting { worker, since: Instant::now(), answer });
            receiver
        };
        self.shared.changed.notify_waiters();
        let work = timeout(HOLD, receiver).await.ok().and_then(Result::ok);
        let _ = self.lock().hear(worker);
        Ok(work)
    }

    /// The worker works on these; those of them that it still has.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn beat(&self, worker: u64, holds: &[u64]) -> Result<Vec<u64>, Refused> {
        let mut now = self.lock();
        now.hear(worker)?;
        let at = Instant::now();
        let mut held = Vec::new();
        for number in holds {
            if let Some(lent) = now.loans.get_mut(number).filter(|lent| lent.is_of(worker, at) && lent.goes_on()) {
                lent.until = at + LEASE;
                held.push(*number);
            }
        }
        Ok(held)
    }

    /// What came of a chunk. The worker does nothing for it any more.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Late`].
    pub fn put(&self, worker: u64, loan: u64, done: Done) -> Result<(), Refused> {
        let mut now = self.lock();
        now.hear(worker)?;
        let at = Instant::now();
        if !now.loans.get(&loan).is_some_and(|lent| lent.is_of(worker, at)) {
            return Err(Refused::Late);
        }
        let answer = now.loans.remove(&loan).and_then(|lent| lent.answer);
        now.count_done(worker, &done);
        drop(now);
        self.shared.changed.notify_waiters();
        answer.and_then(|answer| answer.send(done).ok()).ok_or(Refused::Late)
    }

    /// The worker ends, and nothing of what it did is under way.
    pub fn leave(&self, worker: u64) {
        let mut now = self.lock();
        let at = Instant::now();
        let its: Vec<u64> =
            now.loans.iter().filter(|(_, lent)| lent.is_of(worker, at)).map(|(number, _)| *number).collect();
        for number in its {
            let Some(answer) = now.loans.remove(&number).and_then(|lent| lent.answer) else { continue };
            let _ = answer.send(Done::Failed { why: "it left".to_owned() });
        }
        if let Some(worker) = now.workers.get_mut(&worker) {
            worker.left = true;
            tracing::info!(name = worker.name, "history: a worker left");
        }
        drop(now);
        self.shared.changed.notify_waiters();
    }

    // What the walk does.

    /// Workers are there, or something is lent.
    pub fn is_there(&self) -> bool {
        let now = self.lock();
        !now.loans.is_empty() || now.workers.values().any(Worker::is_there)
    }

    /// Resolves when a worker waits. Cancel safe.
    pub async fn waits(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if self.lock().is_waited_for() {
                return;
            }
            changed.await;
        }
    }

    /// A worker that waits. Dropped, it goes on waiting.
    pub fn seat(&self, linger: Duration) -> Option<Seat> {
        let mut now = self.lock();
        now.is_waited_for().then(|| now.waiting.pop_front()).flatten().map(|waiting| Seat {
            crew: self.clone(),
            waiting: Some(waiting),
            linger,
        })
    }

    /// Have copies that are lent given back. Resolves when nothing of them is under way; nothing more may be lent meanwhile.
    pub async fn recall(&self) {
        loop {
            let changed = self.shared.changed.notified();
            let over = {
                let mut now = self.lock();
                let at = Instant::now();
                now.loans.retain(|_, lent| lent.is_awaited() || lent.over() > at);
                let copies = now.loans.values_mut().filter(|lent| lent.doing == Doing::Copy);
                let recalled = copies.map(|lent| {
                    lent.is_recalled = true;
                    lent.over().max(at + LOOK)
                });
                recalled.min()
            };
            let Some(over) = over else { return };
            tokio::select! {
                () = sleep_until(over) => {}
                () = changed => {}
            }
        }
    }

    /// Who has each copy that is lent, by name.
    pub fn copying(&self) -> Vec<String> {
        let now = self.lock();
        let copies = now.loans.values().filter(|lent| lent.doing == Doing::Copy);
        copies.filter_map(|lent| now.workers.get(&lent.worker)).map(|worker| worker.name.clone()).collect()
    }

    /// All workers, those that are gone too.
    pub fn report(&self) -> Vec<WorkerReport> {
        let now = self.lock();
        let under_way = |number: u64| now.loans.values().filter(|lent| lent.worker == number).count();
        now.workers.iter().map(|(number, worker)| worker.report(under_way(*number))).collect()
    }

    /// Workers that are there.
    pub(super) fn present(&self) -> usize {
        self.lock().workers.values().filter(|worker| worker.is_there()).count()
    }
}

const OTHER: &str = "it did something else than it was asked for";
const NO_WORKERS: &str = "workers are for Cassandra: elsewhere chunks are read in snapshots that the mirror holds, which no \
    other process has (and with mirror.mode = \"off\" there is nothing to copy)";

/// As messages and files say it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Now {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// `None`: there are too many.
    fn join(&mut self, join: &Join) -> Option<u64> {
        if self.workers.values().filter(|worker| worker.is_there()).count() >= WORKERS_MAX {
            return None;
        }
        // One that comes again goes on with what it had done.
        let before = self.workers.iter().find(|(_, worker)| worker.name == join.name && !worker.is_there());
        let before = before.map(|(number, _)| *number);
        let tally = before.and_then(|number| self.workers.remove(&number)).map(|worker| worker.tally);
        if self.workers.len() >= REMEMBERED_MAX {
            let gone = self.workers.iter().find(|(_, worker)| !worker.is_there()).map(|(number, _)| *number);
            gone.and_then(|number| self.workers.remove(&number));
        }
        let number = self.next();
        let worker = Worker {
            name: join.name.clone(),
            connections: join.connections,
            heard: Instant::now(),
            left: false,
            tally: tally.unwrap_or_default(),
        };
        self.workers.insert(number, worker);
        Some(number)
    }

    fn hear(&mut self, worker: u64) -> Result<(), Refused> {
        let known = self.workers.get_mut(&worker).filter(|worker| !worker.left).ok_or(Refused::Unknown)?;
        known.heard = Instant::now();
        Ok(())
    }

    fn is_waited_for(&mut self) -> bool {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        !self.waiting.is_empty()
    }

    fn count_done(&mut self, worker: u64, done: &Done) {
        let Some(Worker { tally, .. }) = self.workers.get_mut(&worker) else { return };
        let end = match done {
            Done::Copied(copied) => {
                tally.rows += copied.rows;
                tally.bytes += copied.bytes;
                "done"
            }
            Done::Compared(compared) => {
                tally.compared += compared.rows;
                "done"
            }
            Done::Failed { why } => {
                tally.lost += 1;
                tally.why = Some(why.chars().take(WHY_MAX).collect());
                "failed"
            }
        };
        tally.chunks += u64::from(end == "done");
        metrics::HISTORY_LENT_TOTAL.counter(&[("end", end)]).increment(1);
    }
}

impl Worker {
    fn is_there(&self) -> bool {
        !self.left && self.heard.elapsed() < GONE
    }

    fn report(&self, under_way: usize) -> WorkerReport {
        let state = match under_way {
            _ if !self.is_there() => "gone",
            0 => "waiting",
            _ => "working",
        };
        let Tally { chunks, rows, bytes, compared, lost, why } = self.tally.clone();
        let (name, connections) = (self.name.clone(), self.connections);
        WorkerReport { name, state: state.to_owned(), connections, under_way, chunks, rows, bytes, compared, lost, why }
    }
}

impl Lent {
    /// It is this worker's, now.
    fn is_of(&self, worker: u64, at: Instant) -> bool {
        self.worker == worker && at < self.until
    }

    fn is_awaited(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    fn goes_on(&self) -> bool {
        self.is_awaited() && !self.is_recalled
    }

    /// When nothing of it can arrive any more.
    fn over(&self) -> Instant {
        self.until + self.linger
    }
}

/// A worker that waits for a chunk.
pub struct Seat {
    crew: Crew,
    waiting: Option<Waiting>,
    linger: Duration,
}

/// A chunk that was lent.
pub struct Loan {
    crew: Crew,
    number: u64,
    worker: u64,
    answer: oneshot::Receiver<Done>,
}

impl Seat {
    /// Give the worker this to do; `None`: it does not wait any more, and has nothing.
    pub fn lend(mut self, task: Task) -> Option<Loan> {
        let Waiting { worker, since, answer } = self.waiting.take()?;
        let (sender, receiver) = oneshot::channel();
        let mut now = self.crew.lock();
        let (number, at) = (now.next(), Instant::now());
        let waited_ms = millis(at.saturating_duration_since(since));
        // Before the worker can know of it.
        let (until, doing) = (at + LEASE, task.doing);
        let linger = if doing == Doing::Copy { self.linger } else { Duration::ZERO };
        let lent = Lent { worker, until, linger, doing, is_recalled: false, answer: Some(sender) };
        now.loans.insert(number, lent);
        if answer.send(Work { loan: number, waited_ms, task }).is_err() {
            now.loans.remove(&number);
            return None;
        }
        drop(now);
        Some(Loan { crew: self.crew.clone(), number, worker, answer: receiver })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.crew.lock().waiting.push_front(waiting);
        }
    }
}

impl Loan {
    /// What came of a copy. Dropped, it is not lent any longer, but may be under way: [`Crew::recall`].
    ///
    /// # Errors
    /// It was lost; nothing of it is under way any more.
    pub async fn copied(self) -> Result<Copied, Lost> {
        match self.done().await? {
            (Done::Copied(copied), _) => Ok(copied),
            (_, loan) => Err(loan.lost(OTHER.to_owned())),
        }
    }

    /// The same of a comparison.
    ///
    /// # Errors
    /// As [`Loan::copied`].
    pub async fn compared(self) -> Result<Compared, Lost> {
        match self.done().await? {
            (Done::Compared(compared), _) => Ok(compared),
            (_, loan) => Err(loan.lost(OTHER.to_owned())),
        }
    }

    async fn done(mut self) -> Result<(Done, Loan), Lost> {
        loop {
            let until = self.crew.lock().loans.get(&self.number).map(|lent| lent.until);
            tokio::select! {
                biased;
                done = &mut self.answer => match done {
                    Ok(Done::Failed { why }) => return Err(self.lost(why)),
                    Ok(done) => return Ok((done, self)),
                    Err(_) => break,
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)) => {}
            }
            let now = self.crew.lock();
            if now.loans.get(&self.number).is_some_and(|lent| lent.until <= Instant::now()) {
                break;
            }
        }
        let over = self.crew.lock().loans.get(&self.number).map(Lent::over);
        sleep_until(over.unwrap_or_else(Instant::now)).await;
        let why = format!("it said nothing for {} s: the chunk is done again", LEASE.as_secs());
        let mut now = self.crew.lock();
        now.loans.remove(&self.number);
        if let Some(worker) = now.workers.get_mut(&self.worker) {
            worker.tally.lost += 1;
            worker.tally.why = Some(why.clone());
        }
        drop(now);
        self.crew.shared.changed.notify_waiters();
        metrics::HISTORY_LENT_TOTAL.counter(&[("end", "lost")]).increment(1);
        Err(self.lost(why))
    }

    /// What it says is of no use.
    pub fn lost(&self, why: String) -> Lost {
        let name = self.crew.lock().workers.get(&self.worker).map(|worker| worker.name.clone());
        Lost { name: name.unwrap_or_default(), why }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.answer.close();
        let mut now = self.crew.lock();
        if now.loans.get(&self.number).is_some_and(|lent| lent.doing == Doing::Compare) {
            now.loans.remove(&self.number);
        }
        drop(now);
        self.crew.shared.changed.notify_waiters();
    }
}
