//! The other side of the queue: waits for the causal point, asks, asks again, and tells.
//!
//! One task takes reads in order and waits until the secondary has what each of them saw; those behind it wait for no less,
//! so nobody waits for a read that is ready. Up to `shadow.workers` reads are asked at once. A read that must be asked
//! again later leaves its worker to others meanwhile, and keeps its room in the queue.
//!
//! A switch does not wait for any of it: from the moment at which clients are held whatever is under way is dropped, and
//! counted as `switching`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::followed::{Followed, Place, Witness};
use super::lines::Lines;
use super::mismatches::At;
use super::sampler::Job;
use super::shapes::End;
use super::{Board, Difference, How, Rechecked, Repeated, Repeater, Skip, Verdict};
use crate::journal::Lsn;
use crate::metrics;
use crate::mirror;
use crate::mirror::backoff::Backoff;
use crate::record::{Reason, Side, TableId};

/// Pauses between two looks at a difference.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The same difference must be seen so often, the first sight apart.
const SIGHTS_MIN: u32 = 3;
/// A difference that is undecided for so many times `shadow.recheck` stays so.
const UNDECIDED_AFTER: u32 = 4;
/// Differences that are looked at until they are gone, at once: each keeps its read, and a place in the queue.
pub(super) const FOLLOWED_MAX: usize = 32;
/// How long, and how often, they are.
const FOLLOWED_FOR: Duration = Duration::from_secs(600);
const FOLLOWED_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The reads that were submitted.
pub struct Queue<R> {
    pub(super) board: Board,
    pub(super) jobs: mpsc::Receiver<Job<R>>,
}

#[cfg(test)]
impl<R> Queue<R> {
    /// What was submitted, for tests of sessions.
    pub(crate) fn taken(&mut self) -> Vec<R> {
        std::iter::from_fn(|| self.jobs.try_recv().ok()).map(|job| job.read).collect()
    }
}

/// Compares the reads of a queue.
pub struct Service<R: Repeater> {
    queue: Queue<R::Read>,
    work: Arc<Work<R>>,
}

/// What a read on the secondary may have to wait for: everything that the primary has shown.
pub struct Causal {
    board: Board,
    mirror: mirror::Handle,
    primary: Side,
    epoch: u64,
    /// Everything below was appended when the read was forwarded.
    sent: Lsn,
}

struct Work<R: Repeater> {
    board: Board,
    mirror: mirror::Handle,
    repeater: R,
    workers: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    lines: Lines,
    followed: Followed<R::Read>,
}

/// What becomes of a read that differs.
enum Decided {
    End(End),
    Mismatch(Difference),
    Skip(Skip),
}

impl<R: Repeater> Service<R> {
    /// `mirror` is the one that writes to the secondary.
    pub fn new(queue: Queue<R::Read>, repeater: R, mirror: mirror::Handle) -> Service<R> {
        let board = queue.board.clone();
        let work = Work {
            workers: Arc::new(Semaphore::new(board.config().workers)),
            followers: Arc::new(Semaphore::new(FOLLOWED_MAX)),
            lines: Lines::default(),
            followed: Followed::default(),
            board,
            mirror,
            repeater,
        };
        Service { queue, work: Arc::new(work) }
    }

    /// Until cancelled; what is under way then is dropped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut reads = JoinSet::new();
        while let Some(Some(job)) = stop.run_until_cancelled(self.queue.jobs.recv()).await {
            let Some(ready) = stop.run_until_cancelled(self.work.ready(&job)).await else { break };
            while let Some(ended) = reads.try_join_next() {
                noted(ended);
            }
            match ready {
                Ok(worker) => _ = reads.spawn(self.work.clone().judge(job, worker)),
                Err(why) => job.place.shape.skipped(why),
            }
        }
    }
}

fn noted(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a shadow read ended by a panic");
    }
}

impl Causal {
    /// The side that answers clients.
    pub fn primary(&self) -> Side {
        self.primary
    }

    /// The side that is asked again.
    pub fn secondary(&self) -> Side {
        self.primary.other()
    }

    /// Everything below was appended by now. What did not move between two looks at the primary says that no captured write
    /// came in between.
    pub fn position(&self) -> Lsn {
        self.board.shared().journal.appended()
    }

    /// No captured write came since the read was forwarded: nothing but those explains another answer of the primary.
    pub fn is_quiet(&self) -> bool {
        self.position() == self.sent
    }

    /// Resolves when the secondary has everything that the primary has shown by now. Cancel safe.
    ///
    /// # Errors
    /// It takes longer than `shadow.wait`, or a switch came in between.
    pub async fn reach(&self) -> Result<(), Skip> {
        self.reach_by(self.position(), Instant::now() + self.board.config().wait).await
    }

    async fn reach_by(&self, point: Lsn, deadline: Instant) -> Result<(), Skip> {
        match self.until_switch(timeout_at(deadline, self.mirror.settle(point))).await? {
            Ok(Ok(())) => self.holds(),
            _ => Err(Skip::Behind),
        }
    }

    /// The work's end, or the switch that came first: then it is dropped where it stands.
    async fn until_switch<T>(&self, work: impl Future<Output = T>) -> Result<T, Skip> {
        self.holds()?;
        tokio::select! {
            biased;
            () = self.board.shared().gate.closed() => Err(Skip::Switching),
            done = work => Ok(done),
        }
    }

    /// The sides still have the roles that they had.
    fn holds(&self) -> Result<(), Skip> {
        let gate = &self.board.shared().gate;
        let route = gate.route();
        let same = route.epoch == self.epoch && route.mirror && !gate.is_closed();
        if same { Ok(()) } else { Err(Skip::Switching) }
    }
}

impl<R: Repeater> Work<R> {
    fn causal(&self, job: &Job<R::Read>) -> Causal {
        let (board, mirror) = (self.board.clone(), self.mirror.clone());
        Causal { board, mirror, primary: job.primary, epoch: job.epoch, sent: job.sent }
    }

    /// The secondary has what the read saw, and a worker is free.
    async fn ready(&self, job: &Job<R::Read>) -> Result<OwnedSemaphorePermit, Skip> {
        self.causal(job).reach_by(job.point, job.submitted + self.board.config().wait).await?;
        let waited = job.submitted.elapsed().as_secs_f64();
        metrics::SHADOW_WAIT_SECONDS.histogram(&[("wire", self.board.shared().wire)]).record(waited);
        Ok(self.worker().await)
    }

    async fn worker(&self) -> OwnedSemaphorePermit {
        self.workers.clone().acquire_owned().await.expect("it is never closed")
    }

    async fn judge(self: Arc<Self>, job: Job<R::Read>, worker: OwnedSemaphorePermit) {
        let causal = self.causal(&job);
        let decided = causal.until_switch(self.compared(&job, &causal, worker)).await;
        // What the sides were asked while they changed their roles says nothing.
        match decided.and_then(|decided| causal.holds().map(|()| decided)) {
            Err(why) | Ok(Decided::Skip(why)) => job.place.shape.skipped(why),
            Ok(Decided::End(end)) => job.place.shape.ended(end),
            Ok(Decided::Mismatch(found)) => self.alarm(job, &causal, found).await,
        }
    }

    async fn compared(&self, job: &Job<R::Read>, causal: &Causal, worker: OwnedSemaphorePermit) -> Decided {
        match self.repeat(job, causal).await {
            Verdict::Match => Decided::End(End::Match),
            Verdict::Skipped(why) => Decided::Skip(why),
            Verdict::Differs(found) => self.decide(job, causal, found, worker).await,
        }
    }

    async fn repeat(&self, job: &Job<R::Read>, causal: &Causal) -> Verdict {
        if let Err(why) = self.is_trusted(&job.tables) {
            return Verdict::Skipped(why);
        }
        let repeated = timeout(self.board.config().timeout, self.repeater.repeat(&job.read, causal)).await;
        let Ok(Repeated { latency, verdict }) = repeated else { return Verdict::Skipped(Skip::Timeout) };
        if !matches!(verdict, Verdict::Skipped(_)) {
            job.place.shape.timed((job.primary, job.took), latency);
        }
        verdict
    }

    /// Where it is known already that the sides may differ, a difference is no news.
    fn is_trusted(&self, tables: &[TableId]) -> Result<(), Skip> {
        let by_others = |(reason, _): &(Reason, u64)| *reason != Reason::Shadow;
        let is_dirty = |table| self.mirror.dirty().get(table).is_some_and(|dirty| dirty.reasons.iter().any(by_others));
        if !self.mirror.dirty().is_empty() && self.repeater.shown_by(tables).into_iter().any(is_dirty) {
            return Err(Skip::Dirty);
        }
        if self.mirror.desk().is_copying() { Err(Skip::Backfill) } else { Ok(()) }
    }

    /// Ask both sides again, until they are alike or the difference lasts.
    async fn decide(
        &self,
        job: &Job<R::Read>,
        causal: &Causal,
        first: Difference,
        worker: OwnedSemaphorePermit,
    ) -> Decided {
        let (lasts, mut worker) = (self.board.config().recheck, Some(worker));
        let mut pauses = Backoff::new(PAUSE.0, PAUSE.1.min(lasts), job.place.id);
        let began = Instant::now();
        let mut seen = Seen { keys: first.keys.clone(), what: first, since: began, sights: 0 };
        loop {
            let rechecked = self.recheck(job, causal).await;
            drop(worker.take());
            match rechecked {
                Rechecked::InFlight => return Decided::End(End::InFlight),
                Rechecked::Noise => return Decided::End(End::Noise),
                Rechecked::Persists(found) => return Decided::Mismatch(found),
                Rechecked::Skipped(why) => return Decided::Skip(why),
                Rechecked::Again(found) => {
                    seen.again(found);
                    if seen.sights >= SIGHTS_MIN && seen.since.elapsed() >= lasts {
                        return Decided::Mismatch(seen.what);
                    }
                }
                Rechecked::Moved => {}
            }
            if began.elapsed() >= lasts * UNDECIDED_AFTER {
                return Decided::Skip(Skip::Moving);
            }
            sleep(pauses.pause()).await;
            worker = Some(self.worker().await);
        }
    }

    /// Bounded: a wait for the causal point, and three questions.
    async fn recheck(&self, job: &Job<R::Read>, causal: &Causal) -> Rechecked {
        let config = self.board.config();
        let rechecked = timeout(config.wait + config.timeout * 3, self.repeater.recheck(&job.read, causal)).await;
        rechecked.unwrap_or(Rechecked::Skipped(Skip::Timeout))
    }

    /// A difference lasted: keep it, say it, have it mended, and look at it until it is gone.
    async fn alarm(&self, job: Job<R::Read>, causal: &Causal, found: Difference) {
        if let Err(why) = self.is_trusted(&job.tables) {
            return job.place.shape.skipped(why);
        }
        job.place.shape.ended(End::Mismatch);
        let at = At { primary: job.primary, epoch: job.epoch };
        let question = match found.how {
            // One may be refused what another one is not.
            How::OtherError => self.repeater.asker(&job.read),
            _ => self.repeater.question(&job.read),
        };
        let noted = self.board.mismatches().note((job.place.id, &job.place.text), question, found.clone(), at);
        if noted.is_news {
            self.tell(&job, noted.id, &found);
        }
        // Keys are owed each time: they may have been paid since, and differ again.
        if noted.is_news || !found.keys.is_empty() {
            self.mend(&found).await;
        }
        let witness = Witness { job: Arc::new(job), sight: noted.sight };
        if self.followed.renew(noted.id, &witness) {
            return;
        }
        // One that nobody had time for is followed when it is seen again.
        if let Ok(_follower) = self.followers.clone().try_acquire_owned()
            && let Some(_following) = self.board.mismatches().follow(noted.id)
        {
            let place = self.followed.begin(noted.id, witness);
            // A switch ends it.
            let _ = causal.until_switch(self.follow(noted.id, &place)).await;
        }
    }

    /// Say it.
    fn tell(&self, job: &Job<R::Read>, id: u64, found: &Difference) {
        if let Some(left_out) = self.lines.next(job.place.id, found.how) {
            tracing::error!(
                id,
                how = found.how.as_str(),
                table = found.name,
                key_hash = found.key_hash.map(|hash| format!("{hash:016x}")),
                columns = found.columns.join(","),
                statement = &*job.place.text,
                left_out = (left_out > 0).then_some(left_out),
                "the sides differ: `tandem shadow mismatches`"
            );
        }
    }

    /// Have it mended, where copying rows mends it: not a collation, a schema, a right.
    async fn mend(&self, found: &Difference) {
        if let Some(table) = found.table.filter(|_| found.how.is_of_rows())
            && let Err(error) = self.mirror.differs(table, &found.keys).await
        {
            tracing::error!(%error, table = found.name, "a difference was found, and could not be marked");
        }
    }

    /// Until both sides are alike, an operator has forgotten it, or for long enough.
    async fn follow(&self, id: u64, place: &Place<'_, R::Read>) {
        let until = Instant::now() + FOLLOWED_FOR;
        let mut pauses = Backoff::new(FOLLOWED_EVERY.0, FOLLOWED_EVERY.1, id);
        while Instant::now() < until {
            sleep(pauses.pause()).await;
            let worker = self.worker().await;
            let Some(Witness { job, sight }) = place.witness() else { return };
            if !self.board.mismatches().is_open(id) {
                return;
            }
            let alike = self.recheck(&job, &self.causal(&job)).await == Rechecked::InFlight;
            drop(worker);
            if alike && self.board.mismatches().gone(id, sight) {
                return tracing::info!(id, "a difference is gone");
            }
        }
    }
}

/// A difference that was seen, and since when it is the same.
struct Seen {
    what: Difference,
    /// Of its keys those that were seen every time.
    keys: Vec<Box<[u8]>>,
    since: Instant,
    sights: u32,
}

impl Seen {
    fn again(&mut self, found: Difference) {
        let common: Vec<_> = self.keys.iter().filter(|key| found.keys.contains(key)).cloned().collect();
        // Of several rows some may only have been on their way: those seen every time last.
        let same = self.what.is_like(&found) || self.what.is_kind_of(&found) && !common.is_empty();
        self.keys = if same { common } else { found.keys.clone() };
        if !same {
            (self.since, self.sights) = (Instant::now(), 0);
        }
        self.what = found;
        self.sights += 1;
    }
}
