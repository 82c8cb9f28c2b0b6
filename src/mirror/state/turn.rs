//! The mirror of both directions: one engine at a time, behind one handle, over one journal.
//!
//! What the journal holds below the position of the last flip is on both sides; the engine of the new direction owes from
//! there on. Parked keys and dirty tables are the same in both directions: they say that the sides differ, and a payment
//! in either direction ends it. Each direction has its own book, because each secondary counts its own payments.

use std::path::Path;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::{Journal, Lsn};
use crate::mirror::Handle;
use crate::mirror::durable::{Durable, Error};
use crate::record::Side;

use super::copier::{self, Copier, Standing};
use super::engine::{Config, Engine, Paths};

/// Makes the hands of a direction, by its primary.
type Make<C> = Box<dyn Fn(Side) -> C + Send + Sync>;

/// The engine of the direction that is in force.
pub struct Turning<C> {
    handle: Handle,
    config: Config,
    make: Make<C>,
    forth: Durable,
    back: Durable,
    running: Option<Running>,
    /// Hands of the other direction, opened before they are needed.
    ahead: Option<Ahead<C>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Ahead<C> {
    primary: Side,
    copier: C,
    standing: Standing,
}

struct Running {
    primary: Side,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl<C: Copier + 'static> Turning<C> {
    /// Its files are in this directory, which exists. No engine runs yet; each runs among `tasks` and ends with `stop`.
    pub fn in_dir(
        dir: &Path,
        config: Config,
        journal: Journal,
        make: Make<C>,
        (stop, tasks): (CancellationToken, TaskTracker),
    ) -> Result<Turning<C>, Error> {
        let paths = Paths::in_dir(dir.to_owned(), config.history.clone())?;
        let handle = paths.handle(&config, journal)?;
        let back = Durable::in_dir(dir, "mirror-book-back");
        Ok(Turning { handle, config, make, forth: paths.book, back, running: None, ahead: None, stop, tasks })
    }

    /// How the rest of the process looks at whichever engine runs.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The primary of the engine that runs.
    pub fn primary(&self) -> Option<Side> {
        self.running.as_ref().map(|running| running.primary)
    }

    /// Open the hands of this direction, which [`Turning::start`] will use. They write nothing by themselves.
    ///
    /// # Errors
    /// A side that does not answer, or another applier that holds its lock.
    pub async fn open_ahead(&mut self, primary: Side) -> Result<(), copier::Error> {
        self.ahead = None;
        let mut copier = (self.make)(primary);
        let standing = copier.open().await?;
        self.ahead = Some(Ahead { primary, copier, standing });
        Ok(())
    }

    /// Close what was opened ahead.
    pub fn close_ahead(&mut self) {
        self.ahead = None;
    }

    /// Mirror from this side to the other one, from this position on. An engine that runs already goes on.
    pub async fn start(&mut self, primary: Side, from: Lsn) -> Result<(), Error> {
        if self.primary() == Some(primary) {
            return Ok(());
        }
        self.stop().await;
        self.handle.desk.serves(primary);
        let book = if primary == Side::Origin { &self.forth } else { &self.back };
        let (copier, opened) = match self.ahead.take() {
            Some(Ahead { primary: of, copier, standing }) if of == primary => (copier, Some(standing)),
            _ => ((self.make)(primary), None),
        };
        let mut engine = Engine::succeed(&self.handle, self.config.clone(), copier, book.clone(), from)?;
        engine.is_open(opened);
        let stop = self.stop.child_token();
        let task = self.tasks.spawn(engine.run(stop.clone()));
        self.running = Some(Running { primary, stop, task });
        Ok(())
    }

    /// End the engine: it pays what it can first, see [`Engine::run`]. Cancel safe: call it again.
    pub async fn stop(&mut self) {
        if let Some(running) = &mut self.running {
            running.stop.cancel();
            // A panic was logged where it happened; there is no engine either way.
            let _ = (&mut running.task).await;
        }
        self.running = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::mirror::Phase;
    use crate::mirror::state::copier::{Gone, Owed, Paid, Snapshot};
    use crate::record::Backend;

    /// Counts how often it was opened.
    struct Opens(Arc<AtomicU64>);

    impl Copier for Opens {
        async fn open(&mut self) -> Result<Standing, copier::Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Standing { life: 1, payments: 0 })
        }

        async fn gone<'a>(&'a mut self, _: &'a [Backend], _: &'a [Box<[u8]>]) -> Result<Gone, copier::Error> {
            Ok(Gone::default())
        }

        async fn snapshot(&mut self) -> Result<Snapshot, copier::Error> {
            Ok(Snapshot { written: 0, flushed: 0 })
        }

        async fn pay<'a>(&'a mut self, _: &'a Owed, _: bool) -> Result<Paid, copier::Error> {
            panic!("nothing is owed");
        }

        async fn release(&mut self) -> Result<(), copier::Error> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn one_engine_at_a_time_and_hands_opened_ahead_are_opened_once() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let opens = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let counted = opens.clone();
        let make = Box::new(move |primary| Opens(counted[usize::from(primary == Side::Target)].clone()));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let both = (stop.clone(), tasks.clone());
        let turning = Turning::in_dir(dir.path(), Config::default(), Journal::in_memory(), make, both);
        let mut turning = turning.expect("files load");
        let mut status = turning.handle().watch();

        turning.start(Side::Origin, Lsn::default()).await.expect("starts");
        status.wait_for(|status| status.phase == Phase::Idle).await.expect("it runs");
        turning.open_ahead(Side::Target).await.expect("opens");
        turning.start(Side::Target, Lsn::default()).await.expect("turns");
        status.wait_for(|status| status.phase == Phase::Idle).await.expect("it runs");
        assert_eq!(turning.primary(), Some(Side::Target));
        assert_eq!(opens.map(|opens| opens.load(Ordering::Relaxed)), [1, 1]);

        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert_eq!(turning.handle().status().phase, Phase::Stopped);
    }
}
