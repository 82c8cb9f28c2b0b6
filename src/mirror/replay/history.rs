//! Walks over history beside a mirror by replay.
//!
//! Copying needs no moment at which both sides are equal: each cell goes with its own timestamp, and timestamps decide
//! between it and what clients write meanwhile. What timestamps do not decide is not copied but owed, and the mirror makes it
//! equal in its turn (promise 11).
//!
//! Comparing needs one, and there is none: both sides are read while clients write. So a row that differs is only
//! *suspected*. Everything that the primary showed was in the journal before; once the journal is applied up to where it
//! ends now, the secondary has it. Then the row is looked at again, on the secondary first: if the primary shows what it
//! showed before, nobody wrote to the row meanwhile, and what the secondary shows should have been the same. A row that
//! never stands still is not called different, but skipped (promise 8).
//!
//! Comparisons write nothing: where the mirror is to end, they are dropped amid their work. What is being copied ends first, and a
//! switch waits for that before it holds clients.
//!
//! Dirty tables are walked over without being asked, if that is configured and their history was copied or compared before:
//! what was never copied is for a backfill to copy.

#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::backfill::Request;
use crate::backfill::crew::{Crew, Lost, Seat};
use crate::backfill::desk::{self, Errand, Throttle};
use crate::backfill::work::{Chunk, Difference, Differs, Landed, Outcome, Paid, Pass, Stage, Surveyed, Unread};
use crate::mirror::backoff::Backoff;
use crate::mirror::handle::{Handle, Pace, Stuck, behind_marks};
use crate::record::TableId;

use super::book::Book;

/// A row that shows the same difference so often, each time at a causal point of its own, differs.
const TIMES: usize = 2;
/// So often where no times show.
const TIMES_UNDATED: usize = 4;
/// Between two looks at what shows no times: whoever writes it all the time has written by then.
const AGAIN: Duration = Duration::from_millis(25);
/// How often rows that differ are looked at before they are skipped.
const LOOKS: usize = 12;
/// While nothing can be done before the mirror has done something, it is asked as often.
const IDLE: Duration = Duration::from_millis(100);
/// A mirror that is not through after this has a reason that holds chunks up as well.
const SETTLE: Duration = Duration::from_secs(60);
/// Less is no reason to give up what was compared so far.
const STUCK: Duration = Duration::from_secs(5);
/// How long what is being copied may take when the mirror ends.
const DRAIN: Duration = Duration::from_secs(5);
/// Pauses after a side was away or overloaded.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often dirty tables are looked for, while there is nothing else to do.
const MARKS: Duration = Duration::from_secs(1);
/// Between two walks over tables that nobody asked for; longer, up to the second, while they leave dirty what they found dirty.
const REPAIRS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

const ENDS: &str = "the mirror ends";

/// Why something could not be done now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The primary is away or overloaded: again, after a pause.
    #[error("primary: {0}")]
    Primary(String),
    /// The secondary is away or overloaded: again, after a pause.
    #[error("secondary: {0}")]
    Secondary(String),
    /// A side is there, and does not let us read a chunk.
    #[error("{}", .0.why)]
    Unread(Unread),
    /// The secondary is there, and cannot take rows of a chunk's table for now.
    #[error("{0}")]
    Waits(String),
    /// A worker did not do its chunk: somebody else does, at once.
    #[error(transparent)]
    Worker(#[from] Lost),
}

/// Who works on a chunk.
pub enum By {
    /// This process.
    Us,
    /// A worker in another one, if it waits still.
    Worker(Seat),
}

/// A row that showed differently on both sides, which were read one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// What it would be.
    pub difference: Difference,
    /// Changes with what both sides show.
    pub print: u64,
    /// Every cell that shows tells when it was written: an equal print means that nobody wrote in between. Without times, of
    /// counters and collections, the same values may have come back.
    pub is_dated: bool,
    /// How often it showed like this, one time after the other: 1, until it is looked at again.
    pub times: usize,
}

impl Suspect {
    /// It showed like this before, or not: is it certain now?
    fn again(&mut self, before: &Suspect) -> bool {
        self.times = if self.print == before.print { before.times + 1 } else { 1 };
        self.times >= if self.is_dated { TIMES } else { TIMES_UNDATED }
    }
}

/// What a look at a chunk on both sides found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Rows of the primary.
    pub rows: u64,
    /// Rows that showed differently, as many as are kept at once.
    pub suspects: Vec<Suspect>,
    /// Rows that showed differently, are not among `rows`, and were too many to be kept: only of a chunk that cannot be split, or is
    /// looked at again. Of any other the rest was not looked at.
    pub crowd: u64,
    /// Rows that differ and are not to be looked at; not among `rows`.
    pub left_out: u64,
    /// The extent is another one now: survey the table again.
    pub moved: bool,
}

/// What of the lacking could not be made on the secondary, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// It refuses this: a failure.
    pub unmade: Vec<String>,
    /// It is not set up for this, with the statement that makes it: no failure, for the rows are all there without.
    pub lacks: Vec<String>,
}

/// A wire's hands for history. Shared by all workers; nothing is remembered between two calls.
pub trait Walker: Send + Sync + 'static {
    /// Make on the secondary what the request's tables lack there.
    fn provision(&self, request: &Request, stage: Stage) -> impl Future<Output = Result<Provisioned, Error>> + Send {
        let _ = (request, stage);
        let unmade = vec!["this wire makes no tables".to_owned()];
        async { Ok(Provisioned { unmade, ..Provisioned::default() }) }
    }

    /// Which tables there are. Rows of both sides are found in the primary's extents, so there are none of the secondary.
    fn survey(&self) -> impl Future<Output = Result<Vec<Surveyed>, Error>> + Send;

    /// Write the chunk's rows to the secondary. What it may not write is left as differing: the mirror does it. However it
    /// ends, nothing that was sent for it may still arrive later.
    fn copy(&self, chunk: &Chunk, by: By) -> impl Future<Output = Result<Outcome, Error>> + Send;

    /// Look at the chunk's rows on both sides.
    fn compare(&self, chunk: &Chunk, by: By) -> impl Future<Output = Result<Compared, Error>> + Send;

    /// How long what was sent to the secondary may still be done there, if nobody waits for it.
    fn linger(&self) -> Duration;

    /// Look at these rows again, on the secondary first; `None` for those that are the same now.
    fn look(
        &self,
        chunk: &Chunk,
        suspects: &[Suspect],
    ) -> impl Future<Output = Result<Vec<Option<Suspect>>, Error>> + Send;
}

/// While it is there, a walk writes to the secondary.
struct Writing(watch::Sender<usize>);

impl Writing {
    fn begin(handle: &Handle) -> Writing {
        handle.writing.send_modify(|parts| *parts += 1);
        Writing(handle.writing.clone())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.send_modify(|parts| *parts -= 1);
    }
}

/// The task that walks.
pub(super) struct History<W> {
    handle: Handle,
    book: Book,
    walker: Arc<W>,
    backoff: Backoff,
    repairs: Repairs,
}

/// Walks over dirty tables that nobody asked for.
struct Repairs {
    next: Instant,
    pause: Duration,
    /// Those of the last walk.
    last: Vec<TableId>,
}

/// What to wait for before the next turn.
enum Rest {
    No,
    /// Until then, or until something is asked for.
    Until(Option<Instant>),
    /// Until then.
    Failed(Instant),
}

impl<W: Walker> History<W> {
    pub(super) fn new(handle: &Handle, book: Book, walker: Arc<W>) -> History<W> {
        let backoff = Backoff::new(PAUSES.0, PAUSES.1, u64::from(std::process::id()));
        let repairs = Repairs { next: Instant::now(), pause: REPAIRS.0, last: Vec::new() };
        History { handle: handle.clone(), book, walker, backoff, repairs }
    }

    /// Walk until told to stop; what is being copied is finished, if that does not take too long. Dropping the
    /// future is as safe as a crash: what was not reported is done again.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let crew = self.crew().clone();
        // What was lent is not dropped with the future: its worker writes until it hears of that, or its lease is over.
        let drained = async {
            stop.cancelled().await;
            sleep(DRAIN).await;
            crew.recall().await;
        };
        tokio::select! {
            () = self.work_off(&stop) => {}
            () = drained => {}
        }
    }

    fn crew(&self) -> &Crew {
        self.handle.desk.crew()
    }

    async fn work_off(&mut self, stop: &CancellationToken) {
        let desk = self.handle.desk.clone();
        let mut pace = self.handle.pace.subscribe();
        while !stop.is_cancelled() {
            // What is asked for from here on ends the rest, also if it comes before that begins.
            let changed = desk.changed();
            pace.mark_unchanged();
            let rest = match self.turn(stop).await {
                Ok(rest) => rest,
                Err(trouble) => self.hindered(trouble),
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = resting(rest, changed, &mut pace) => {}
            }
        }
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<Rest, Trouble> {
        let now = Instant::now();
        if self.handle.self_repair {
            self.mend(now);
        }
        match self.errand(now) {
            Ok(Errand::Survey) => self.survey(stop).await,
            Ok(Errand::Walk) => self.walk(stop).await,
            Err(later) if self.handle.self_repair => {
                let marks = now + MARKS;
                Ok(Rest::Until(Some(later.map_or(marks, |later| later.min(marks)))))
            }
            Err(later) => Ok(Rest::Until(later)),
        }
    }

    /// Ask for a walk over what is dirty.
    fn mend(&mut self, now: Instant) {
        let (desk, repairs) = (&self.handle.desk, &mut self.repairs);
        if now < repairs.next || desk.is_busy() || *self.handle.pace.borrow() != Pace::Usual {
            return;
        }
        let dirty = self.handle.dirty.list().into_iter().map(|dirty| dirty.table);
        let dirty: Vec<TableId> = dirty.filter(|table| desk.has_seen(*table)).collect();
        if dirty.is_empty() {
            return;
        }
        repairs.pause = if repairs.last == dirty { (2 * repairs.pause).min(REPAIRS.1) } else { REPAIRS.0 };
        repairs.next = now + repairs.pause;
        desk.mend(dirty.iter().copied());
        repairs.last = dirty;
    }

    /// What history wants; nothing while clients wait for the mirror, or an operator holds it.
    fn errand(&self, now: Instant) -> Result<Errand, Option<Instant>> {
        if *self.handle.pace.borrow() != Pace::Usual {
            return Err(None);
        }
        let since = {
            let status = self.handle.status.borrow();
            // What waits for what may take as long as it likes is no lag of the others.
            status.stuck.as_ref().map_or(status.lag_since, |stuck| stuck.since)
        };
        let lag = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.handle.desk.errand(now, lag)
    }

    fn hindered(&mut self, trouble: Trouble) -> Rest {
        let now = Instant::now();
        let throttle = match &trouble {
            Trouble::Side(Error::Primary(_) | Error::Unread(_)) => Throttle::Primary,
            Trouble::Side(Error::Secondary(_) | Error::Waits(_) | Error::Worker(_)) => Throttle::Secondary,
            Trouble::Desk(_) => Throttle::Lag,
        };
        tracing::debug!(why = %trouble, "history waits");
        self.handle.desk.hindered(throttle, Some(trouble.to_string()));
        Rest::Failed(now + self.backoff.pause())
    }

    async fn survey(&mut self, stop: &CancellationToken) -> Result<Rest, Trouble> {
        self.provision(Stage::Tables).await?;
        let end = || behind_marks(&self.handle.journal, &self.handle.dirty);
        let began = end();
        let mut found = read(self.walker.survey(), stop).await?;
        let is_seen = |one: &&mut Surveyed| one.refused.is_none() && one.unread.is_none();
        found.iter_mut().filter(is_seen).for_each(|one| self.meet(one));
        // Before anything is copied.
        self.book.saved().await.map_err(desk::Error::from)?;
        self.handle.desk.surveyed(found, (began, end()));
        self.settle().await?;
        Ok(Rest::No)
    }

    /// It was looked at; whose rows are there the book knows, if they came since the first look.
    fn meet(&self, one: &mut Surveyed) {
        one.labels.iter().for_each(|label| self.book.meet(*label, one.occupied));
        one.occupied &= one.labels.iter().any(|label| self.book.has_strangers(*label));
    }

    /// Have made on the secondary what it lacks, if that is asked for now.
    async fn provision(&self, at: Stage) -> Result<(), Error> {
        let desk = &self.handle.desk;
        let Some((request, stage)) = desk.makes().filter(|(_, stage)| *stage == at) else { return Ok(()) };
        let _writing = Writing::begin(&self.handle);
        let Provisioned { unmade, lacks } = self.walker.provision(&request, stage).await?;
        desk.made(stage, unmade, lacks);
        Ok(())
    }

    /// Workers take chunks for a while; what they found is owed, and what they did is on the disk.
    async fn walk(&mut self, stop: &CancellationToken) -> Result<Rest, Trouble> {
        let desk = self.handle.desk.clone();
        self.provision(Stage::Rest).await?;
        let lends = desk.lends(self.walker.linger()).await.map_err(desk::Error::from)?;
        desk.open_at(Instant::now(), self.paid());
        let through = CancellationToken::new();
        let ours = async {
            let workers = (0..desk.options().workers.max(1)).map(|_| self.work(stop));
            let worked = join_all(workers).await.into_iter().collect::<Result<(), Error>>();
            through.cancel();
            worked
        };
        let theirs = async { if lends { self.lend(stop, &through).await } else { Ok(()) } };
        let (ours, theirs) = futures_util::join!(ours, theirs);
        let worked = ours.and(theirs);
        let idle = self.settle().await?;
        worked?;
        self.backoff.reset();
        Ok(if idle { Rest::Until(Some(Instant::now() + IDLE)) } else { Rest::No })
    }

    async fn work(&self, stop: &CancellationToken) -> Result<(), Error> {
        while let Some(chunk) = self.take(stop) {
            self.one(chunk, By::Us, stop).await?;
        }
        Ok(())
    }

    fn take(&self, stop: &CancellationToken) -> Option<Chunk> {
        // Clients may wait for the mirror's end from now on.
        let goes_on = !stop.is_cancelled() && *self.handle.pace.borrow() == Pace::Usual;
        Some(()).filter(|()| goes_on).and_then(|()| self.handle.desk.take(Instant::now()))
    }

    /// Lend chunks to whoever waits, until ours are `through` with what there is: then there is no more.
    async fn lend(&self, stop: &CancellationToken, through: &CancellationToken) -> Result<(), Error> {
        let (mut lent, mut ended, mut more) = (FuturesUnordered::new(), Ok(()), true);
        while more || !lent.is_empty() {
            tokio::select! {
                biased;
                Some(one) = lent.next() => match one {
                    // What is not reported is given out again.
                    Err(Error::Worker(lost)) => tracing::warn!(%lost, "history: a chunk was not done by its worker"),
                    one => {
                        more &= one.is_ok();
                        ended = ended.and(one);
                    }
                },
                () = through.cancelled(), if more => more = false,
                () = self.crew().waits(), if more => {
                    let Some(seat) = self.crew().seat(self.walker.linger()) else { continue };
                    match self.take(stop) {
                        Some(chunk) => lent.push(self.one(chunk, By::Worker(seat), stop)),
                        None => more = false,
                    }
                }
            }
        }
        ended
    }

    async fn one(&self, chunk: Chunk, by: By, stop: &CancellationToken) -> Result<(), Error> {
        let began = Instant::now();
        let outcome = match chunk.pass {
            Pass::Copy if !chunk.again => self.copy(&chunk, by, stop).await,
            // What was left to the mirror is settled; what differs beside it may be newer.
            Pass::Copy if chunk.compares.newer_stays => Ok(Outcome::Done(Landed::default())),
            _ => read(self.compare(&chunk, by), stop).await,
        };
        let outcome = match outcome {
            Err(Error::Unread(unread)) => Outcome::Unreadable(unread),
            Err(error @ Error::Waits(_)) => Outcome::Waits(error.to_string()),
            outcome => outcome?,
        };
        self.handle.desk.put(chunk, timed(outcome, began));
        Ok(())
    }

    /// What an earlier attempt wrote may be gone on the primary since: then it is gone on the secondary too only if somebody
    /// looks. Where newer stays, so does what only the secondary has.
    async fn copy(&self, chunk: &Chunk, by: By, stop: &CancellationToken) -> Result<Outcome, Error> {
        let writing = Writing::begin(&self.handle);
        let copied = self.walker.copy(chunk, by).await?;
        drop(writing);
        match copied {
            Outcome::Done(landed) if chunk.begun && !chunk.compares.newer_stays => {
                match read(self.compare(chunk, By::Us), stop).await? {
                    Outcome::Done(Landed { mut differing, crowd, .. }) => {
                        differing.extend(landed.differing);
                        Ok(Outcome::Done(Landed { differing, crowd: landed.crowd + crowd, ..landed }))
                    }
                    other => Ok(other),
                }
            }
            copied => Ok(copied),
        }
    }

    /// Both sides at a causal point.
    async fn compare(&self, chunk: &Chunk, by: By) -> Result<Outcome, Error> {
        let Compared { mut rows, mut suspects, crowd, left_out, moved } = self.walker.compare(chunk, by).await?;
        if moved {
            return Ok(Outcome::Moved);
        }
        if crowd > 0 && chunk.is_divisible() {
            return Ok(Outcome::Dense);
        }
        let mut differing = Vec::new();
        for _ in 0..LOOKS {
            if suspects.is_empty() {
                break;
            }
            if suspects.iter().any(|suspect| suspect.times >= TIMES) {
                sleep(AGAIN).await;
            }
            self.caught_up(chunk.table).await?;
            let looks = self.walker.look(chunk, &suspects).await?;
            let mut restless = Vec::new();
            for (before, now) in suspects.iter().zip(looks) {
                let Some(mut now) = now else { continue };
                if now.again(before) {
                    differing.push(now.difference);
                } else {
                    restless.push(now);
                }
            }
            suspects = restless;
        }
        let of_primary = suspects.iter().filter(|suspect| suspect.difference.how != Differs::Extra).count();
        rows = rows.saturating_sub(of_primary as u64);
        let alike = differing.is_empty();
        let skipped = suspects.len() as u64 + left_out;
        Ok(Outcome::Done(Landed { rows, skipped, crowd, differing, alike, ..Landed::default() }))
    }

    /// Everything of the table that the primary showed until now is on the secondary.
    async fn caught_up(&self, table: TableId) -> Result<(), Error> {
        let settled = timeout(SETTLE, self.handle.settle_of(table, self.handle.journal.appended()));
        let settled = tokio::select! {
            biased;
            settled = settled => settled,
            why = self.stuck(table) => return Err(Error::Waits(why)),
        };
        let why = match settled {
            Ok(Ok(())) => return Ok(()),
            Err(_) => format!("the mirror did not catch up within {} s", SETTLE.as_secs()),
            Ok(Err(_)) => ENDS.to_owned(),
        };
        Err(Error::Secondary(why))
    }

    /// Resolves when the table waits for what may take as long as it likes, and has for a while: why it does.
    async fn stuck(&self, table: TableId) -> String {
        loop {
            self.handle.stuck(table).await;
            sleep(STUCK).await;
            if let Some(why) = self.handle.stuck(table).now_or_never() {
                return why;
            }
        }
    }

    fn paid(&self) -> Paid {
        let status = self.handle.status.borrow();
        let paid = Paid::from(status.paid);
        match status.stuck.as_deref() {
            None => paid,
            Some(Stuck { tables, beyond, why, .. }) => {
                Paid { beyond: *beyond, stuck: tables.clone(), why: Some(why.clone()), ..paid }
            }
        }
    }

    /// True: nothing could be done.
    async fn settle(&self) -> Result<bool, Trouble> {
        let Handle { desk, journal, dirty, .. } = &self.handle;
        let settled = desk.settle(journal, self.paid(), Some(0)).await?;
        for (table, since) in settled.clean {
            if dirty.repaired(table, since).await.map_err(desk::Error::from)? {
                tracing::info!(table = table.0, "table found equal");
            }
        }
        Ok(settled.idle)
    }
}

/// What only reads is dropped where the mirror is to end: nothing of it can arrive later.
async fn read<T>(reads: impl Future<Output = Result<T, Error>>, stop: &CancellationToken) -> Result<T, Error> {
    stop.run_until_cancelled(reads).await.unwrap_or_else(|| Err(Error::Secondary(ENDS.to_owned())))
}

async fn resting(rest: Rest, changed: impl Future<Output = ()>, pace: &mut watch::Receiver<Pace>) {
    let until = match rest {
        Rest::No => return,
        Rest::Failed(at) => return sleep_until(at).await,
        Rest::Until(at) => at,
    };
    tokio::select! {
        () = async { sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => {}
        () = changed => {}
        _ = pace.changed() => {}
    }
}

fn timed(outcome: Outcome, began: Instant) -> Outcome {
    match outcome {
        Outcome::Done(landed) => Outcome::Done(Landed { took: began.elapsed(), ..landed }),
        other => other,
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Side(#[from] Error),
    #[error(transparent)]
    Desk(#[from] desk::Error),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinHandle;

    use super::*;
    use crate::backfill::crew::message::{Doing, Done, Join, Pair, Seen, Task, Work};
    use crate::backfill::crew::{LEASE, Lost};
    use crate::backfill::lines::Lines;
    use crate::backfill::work::Extent;
    use crate::backfill::{self, Desk, Kind};
    use crate::journal::Journal;
    use crate::mirror::durable::Durable;
    use crate::mirror::replay::engine::{Config, Paths};
    use crate::record::Side;

    /// At which look it is called different, if the looks show this.
    fn found_at(is_dated: bool, prints: &[u64]) -> Option<usize> {
        let show = |print| {
            let difference = Difference { how: Differs::Different, key: Box::default(), shown: String::new() };
            Suspect { difference, print, is_dated, times: 1 }
        };
        let mut before = show(prints[0]);
        for (at, print) in prints.iter().enumerate().skip(1) {
            let mut now = show(*print);
            if now.again(&before) {
                return Some(at);
            }
            before = now;
        }
        None
    }

    #[test]
    fn what_tells_when_it_was_written_differs_if_nobody_wrote_between_two_looks() {
        assert_eq!(found_at(true, &[1, 2, 3, 3]), Some(3));
        assert_eq!(found_at(true, &[1, 2, 1, 2, 1]), None);
    }

    #[test]
    fn where_no_times_show_the_same_values_may_have_come_back() {
        assert_eq!(found_at(false, &[1, 1, 1, 1]), Some(3));
        assert_eq!(found_at(false, &[1, 1, 1, 2, 2, 2, 1]), None);
    }

    const LINGER: Duration = Duration::from_secs(3);
    const SOON: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(60);

    /// A chunk takes so long here, and with a worker as long as that likes.
    struct Slow {
        ours: Duration,
        begun: AtomicUsize,
    }

    impl Slow {
        async fn work(&self, chunk: &Chunk, (by, doing): (By, Doing)) -> Result<(), Lost> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            let By::Worker(seat) = by else {
                sleep(self.ours).await;
                return Ok(());
            };
            let task = Task { doing, primary: Side::Origin, chunk: chunk.clone(), read: 0, schema: 0 };
            let loan = seat.lend(task).expect("it waits");
            match doing {
                Doing::Copy => loan.copied().await.map(drop),
                Doing::Compare => loan.compared().await.map(drop),
            }
        }
    }

    impl Walker for Slow {
        async fn survey(&self) -> Result<Vec<Surveyed>, Error> {
            Ok(vec![Surveyed {
                table: TableId(1),
                name: "k.t".to_owned(),
                part_of: None,
                labels: vec![TableId(1)],
                rows: 1_000,
                bytes: 1_000,
                primary: vec![Extent { name: "k.t".to_owned(), file: 1, units: 1_000 }],
                secondary: Vec::new(),
                occupied: false,
                refused: None,
                unread: None,
                not_compared: Vec::new(),
            }])
        }

        async fn copy(&self, chunk: &Chunk, by: By) -> Result<Outcome, Error> {
            self.work(chunk, (by, Doing::Copy)).await?;
            Ok(Outcome::Done(Landed::default()))
        }

        async fn compare(&self, chunk: &Chunk, by: By) -> Result<Compared, Error> {
            self.work(chunk, (by, Doing::Compare)).await?;
            Ok(Compared::default())
        }

        fn linger(&self) -> Duration {
            LINGER
        }

        async fn look(&self, _: &Chunk, suspects: &[Suspect]) -> Result<Vec<Option<Suspect>>, Error> {
            Ok(vec![None; suspects.len()])
        }
    }

    struct Walk {
        handle: Handle,
        stop: CancellationToken,
        task: JoinHandle<()>,
        worker: u64,
        lent: Work,
    }

    /// A walk of this kind, amid a chunk here and one that a worker has.
    async fn walk(kind: Kind, ours: Duration) -> Walk {
        let options = backfill::Options { workers: 1, chunk_rows: 10, ..backfill::Options::default() };
        let desk = Desk::open(Durable::in_memory("history"), Lines::in_memory(1 << 20), options).expect("in memory");
        desk.serves(Side::Origin);
        desk.crew().open(Box::new(|_| Ok(())));
        let seen = || Seen { cluster: "c".to_owned(), nodes: Vec::new() };
        let join = Join {
            name: "w".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: 1,
            sides: Pair { origin: seen(), target: seen() },
        };
        let worker = desk.crew().join(&join).expect("it may").worker;
        let asks = desk.crew().clone();
        let taken = tokio::spawn(async move { asks.take(worker).await.expect("known") });
        desk.crew().waits().await;
        desk.start(Request::new(kind)).await.expect("nothing is under way");
        let paths = Paths::in_memory();
        let handle = paths.handle(&Config::default(), Journal::in_memory(), desk).expect("in memory");
        let (walker, stop) = (Arc::new(Slow { ours, begun: AtomicUsize::new(0) }), CancellationToken::new());
        let history = History::new(&handle, Book::open(paths.book()).expect("in memory"), walker.clone());
        let task = tokio::spawn(history.run(stop.clone()));
        let lent = taken.await.expect("no panic").expect("lent");
        while walker.begun.load(Ordering::Relaxed) < 2 {
            sleep(AGAIN).await;
        }
        Walk { handle, stop, task, worker, lent }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_compared_here_or_by_a_worker_ends_at_once_with_the_mirror() {
        let walk = walk(Kind::Verify, LONG).await;
        timeout(SOON, walk.handle.history_rests()).await.expect("nothing is written");
        assert_eq!(walk.handle.history_writers(), [""; 0]);
        walk.stop.cancel();
        timeout(SOON, walk.task).await.expect("at once").expect("no panic");
        let crew = walk.handle.desk.crew();
        assert_eq!(crew.beat(walk.worker, &[walk.lent.loan]).expect("known"), [0_u64; 0], "it is to stop");
        assert_eq!(crew.report()[0].under_way, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_copied_is_waited_for_by_who_asks_and_named() {
        let walk = walk(Kind::Backfill, LONG).await;
        walk.handle.hurry();
        timeout(LEASE + 2 * LINGER, walk.handle.history_rests()).await.expect_err("ours goes on");
        assert_eq!(walk.handle.history_writers(), ["tandem itself"], "the lease of the other is over");
        walk.task.abort();
        assert!(walk.task.await.is_err());
        timeout(SOON, walk.handle.history_rests()).await.expect("nobody writes any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_told_to_give_back_what_it_copies_before_a_switch_holds_clients() {
        let walk = walk(Kind::Backfill, SOON / 10).await;
        walk.handle.hurry();
        timeout(SOON, walk.handle.history_rests()).await.expect_err("it copies");
        assert_eq!(walk.handle.history_writers(), ["worker w"]);
        let crew = walk.handle.desk.crew();
        assert_eq!(crew.beat(walk.worker, &[walk.lent.loan]).expect("known"), [0_u64; 0], "it is to stop");
        crew.put(walk.worker, walk.lent.loan, Done::Failed { why: "the lease is over".to_owned() }).expect("in time");
        timeout(SOON, walk.handle.history_rests()).await.expect("it is given back");
        walk.stop.cancel();
        timeout(SOON, walk.task).await.expect("at once").expect("no panic");
    }
}
