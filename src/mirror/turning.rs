//! The mirror of both directions: one engine at a time, behind one handle, over one journal.
//!
//! What the journal holds below the position of the last flip is on both sides; the engine of the new direction begins
//! there. Parked keys and dirty tables are the same in both directions: they say that the sides differ, and making them
//! equal in either direction ends it. Each direction has its own book, because each secondary counts its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::durable;
use super::{Handle, Phase};
use crate::journal::Lsn;
use crate::metrics;
use crate::net::keep::caught;
use crate::record::Side;

/// Pauses before an engine that panicked is made anew.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// The engines of both directions, by their primaries.
pub trait Directions: Send + Sync + 'static {
    /// Hands of one direction, opened before they are needed.
    type Ahead: Send;
    /// Why hands cannot be opened.
    type Refused: std::error::Error + Send;

    /// Open the hands of this direction. They write nothing by themselves.
    fn open(&self, primary: Side) -> impl Future<Output = Result<Self::Ahead, Self::Refused>> + Send;

    /// The engine of this direction, from this position on; it runs until told to stop.
    ///
    /// # Errors
    /// Its book cannot be read.
    fn engine(
        &self,
        handle: &Handle,
        direction: (Side, Lsn),
        ahead: Option<Self::Ahead>,
        stop: CancellationToken,
    ) -> Result<BoxFuture<'static, ()>, durable::Error>;
}

/// The engine of the direction that is in force.
pub struct Turning<D: Directions> {
    handle: Handle,
    directions: Arc<D>,
    running: Option<Running>,
    /// One that was told to end, and may not have ended yet.
    ending: Option<JoinHandle<()>>,
    ahead: Option<(Side, D::Ahead)>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Running {
    primary: Side,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl<D: Directions> Turning<D> {
    /// No engine runs yet; each runs among `tasks` and ends with `stop`.
    pub fn new(handle: Handle, directions: D, (stop, tasks): (CancellationToken, TaskTracker)) -> Turning<D> {
        let directions = Arc::new(directions);
        Turning { handle, directions, running: None, ending: None, ahead: None, stop, tasks }
    }

    /// How the rest of the process looks at whichever engine runs.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The primary of the engine that runs; one that was told to end is none.
    pub fn primary(&self) -> Option<Side> {
        self.running.as_ref().map(|running| running.primary)
    }

    /// Open the hands of this direction, which [`Turning::start`] will use. They write nothing by themselves.
    ///
    /// # Errors
    /// A side that does not answer, or another applier that keeps it off.
    pub async fn open_ahead(&mut self, primary: Side) -> Result<(), D::Refused> {
        self.ahead = None;
        self.ahead = Some((primary, self.directions.open(primary).await?));
        Ok(())
    }

    /// Close what was opened ahead.
    pub fn close_ahead(&mut self) {
        self.ahead = None;
    }

    /// Mirror from this side, which is the primary, to the other one, from this position on. An engine that runs already
    /// goes on.
    ///
    /// # Errors
    /// A file of the mirror cannot be read.
    pub async fn start(&mut self, primary: Side, from: Lsn) -> Result<(), durable::Error> {
        if self.primary() == Some(primary) {
            return Ok(());
        }
        self.stop().await;
        self.handle.desk.serves(primary);
        self.handle.on_trial.store(false, Ordering::Relaxed);
        self.begin(primary, from)
    }

    /// As [`Turning::start`], with the mirror paused, of a side that is the primary after the flip: [`Turning::flipped`]. If
    /// that does not come, what is known of history is as it was when the old primary's mirror is started again, and so is
    /// the journal: what either side may yet lose is still owed from it.
    ///
    /// # Errors
    /// A file of the mirror cannot be read.
    pub async fn ready(&mut self, primary: Side, from: Lsn) -> Result<(), durable::Error> {
        self.stop().await;
        self.handle.pause();
        self.handle.desk.turns();
        self.handle.on_trial.store(true, Ordering::Relaxed);
        self.begin(primary, from)
    }

    /// This side is the primary; its mirror runs already, and is still paused.
    pub fn flipped(&self, primary: Side) {
        self.handle.desk.serves(primary);
        self.handle.on_trial.store(false, Ordering::Relaxed);
    }

    fn begin(&mut self, primary: Side, from: Lsn) -> Result<(), durable::Error> {
        let ahead = self.ahead.take().filter(|(of, _)| *of == primary).map(|(_, ahead)| ahead);
        let stop = self.stop.child_token();
        let engine = self.directions.engine(&self.handle, (primary, from), ahead, stop.clone())?;
        let (directions, handle) = (self.directions.clone(), self.handle.clone());
        let task = self.tasks.spawn(keep(engine, directions, handle, (primary, from), stop.clone()));
        self.running = Some(Running { primary, stop, task });
        Ok(())
    }

    /// End the engine: it does what it can first. Cancel safe: call it again, or begin another one.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            self.ending = Some(running.task);
        }
        if let Some(ending) = &mut self.ending {
            // It was aborted, or its end was; there is no engine either way.
            let _ = ending.await;
        }
        self.ending = None;
    }

    /// End the engine where it is, as a crash does: what it was about is still owed. What it has sent to a server may be done
    /// there yet. Cancel safe: call it again, or begin another one.
    pub async fn abandon(&mut self) {
        let engine = self.running.as_ref().map(|running| &running.task).or(self.ending.as_ref());
        engine.inspect(|task| task.abort());
        self.stop().await;
        self.handle.shown.send_modify(|status| status.phase = Phase::Stopped);
    }
}

/// Run an engine to its end. After a panic it is as after a crash: what is not paid is in the journal, and an engine that
/// is made anew begins where a restart would.
async fn keep<D: Directions>(
    mut engine: BoxFuture<'static, ()>,
    directions: Arc<D>,
    handle: Handle,
    direction: (Side, Lsn),
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(AGAIN_MIN, AGAIN_MAX, u64::from(std::process::id()));
    while caught(engine).await.is_err() {
        let why = "the mirror panicked (the log has where), and begins anew".to_owned();
        let pause = backoff.pause();
        tracing::error!(retry_in = ?pause, "{why}");
        metrics::MIRROR_FAILURES_TOTAL.counter(&[]).increment(1);
        handle.fails(why.clone());
        engine = loop {
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                handle.shown.send_modify(|status| status.phase = Phase::Stopped);
                return;
            }
            match directions.engine(&handle, direction, None, stop.clone()) {
                Ok(engine) => break engine,
                Err(error) => handle.fails(error.to_string()),
            }
        };
        // Until it goes well again.
        handle.shown.send_modify(|status| status.error = Some(why));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;
    use crate::journal::Journal;
    use crate::mirror::state::Paths;
    use crate::mirror::state::engine::Config;

    /// Of engines that go on for a while, or for ever, when they are told to end.
    #[derive(Clone)]
    struct Slow {
        drain: Duration,
        running: Arc<AtomicUsize>,
    }

    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Directions for Slow {
        type Ahead = ();
        type Refused = Infallible;

        async fn open(&self, _: Side) -> Result<(), Infallible> {
            Ok(())
        }

        fn engine(
            &self,
            _: &Handle,
            _: (Side, Lsn),
            _: Option<()>,
            stop: CancellationToken,
        ) -> Result<BoxFuture<'static, ()>, durable::Error> {
            self.running.fetch_add(1, Ordering::Relaxed);
            let (drain, counted) = (self.drain, Counted(self.running.clone()));
            let engine = async move {
                let _counted = counted;
                stop.cancelled().await;
                sleep(drain).await;
            };
            Ok(engine.boxed())
        }
    }

    fn turning(drain: Duration) -> (Turning<Slow>, Arc<AtomicUsize>) {
        let running = Arc::new(AtomicUsize::new(0));
        let handle = Paths::in_memory().handle(&Config::default(), Journal::in_memory()).expect("files load");
        let slow = Slow { drain, running: running.clone() };
        (Turning::new(handle, slow, (CancellationToken::new(), TaskTracker::new())), running)
    }

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_mirror_whose_end_nobody_waited_for_begins_anew_promise_10() {
        let (mut turning, running) = turning(LONG);
        turning.start(Side::Origin, Lsn::default()).await.expect("starts");
        timeout(LONG / 100, turning.stop()).await.expect_err("it takes its time");
        assert_eq!(turning.primary(), None, "it ends");
        turning.start(Side::Origin, Lsn::default()).await.expect("starts");
        assert_eq!(turning.primary(), Some(Side::Origin));
        sleep(LONG * 2).await;
        assert_eq!(running.load(Ordering::Relaxed), 1, "one at a time, and there is one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_is_abandoned_at_once() {
        let (mut turning, running) = turning(Duration::MAX);
        for told in [false, true] {
            turning.start(Side::Origin, Lsn::default()).await.expect("starts");
            if told {
                timeout(LONG, turning.stop()).await.expect_err("it never ends");
            }
            turning.abandon().await;
            assert_eq!((turning.primary(), running.load(Ordering::Relaxed)), (None, 0));
            assert_eq!(turning.handle().status().phase, Phase::Stopped);
        }
    }
}
