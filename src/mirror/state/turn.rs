//! The engines by state of both directions.

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::{Journal, Lsn};
use crate::mirror::Handle;
use crate::mirror::beside;
use crate::mirror::durable::{Durable, Error};
use crate::mirror::turning::{Directions, Turning};
use crate::record::Side;

use super::book::Book;
use super::copier::{self, Copier, Standing};
use super::engine::{Config, Engine, Paths};

/// Makes the hands of a direction, by its primary.
type Make<C> = Box<dyn Fn(Side) -> C + Send + Sync>;

/// How far the journal was when the files in this directory were written; `None`: there are none.
///
/// # Errors
/// One of them cannot be read.
pub fn reached(dir: &Path) -> Result<Option<Lsn>, Error> {
    beside::reached(dir, |book| Ok(Book::open(book)?.reached()))
}

/// Engines that copy rows.
pub struct ByState<C> {
    config: Config,
    make: Make<C>,
    forth: Durable,
    back: Durable,
}

impl<C: Copier + 'static> ByState<C> {
    /// The files are in this directory, which exists. What runs does so among `tasks` and ends with `stop`.
    ///
    /// # Errors
    /// A ledger cannot be read.
    pub fn in_dir(
        dir: &Path,
        config: Config,
        journal: Journal,
        make: Make<C>,
        tasks: (CancellationToken, TaskTracker),
    ) -> Result<Turning<ByState<C>>, Error> {
        let paths = Paths::in_dir(dir.to_owned(), config.history.clone())?;
        let handle = paths.handle(&config, journal)?;
        let back = Durable::in_dir(dir, beside::BOOK_BACK);
        Ok(Turning::new(handle, ByState { config, make, forth: paths.book, back }, tasks))
    }
}

impl<C: Copier + 'static> Directions for ByState<C> {
    type Ahead = (C, Standing);
    type Refused = copier::Error;

    async fn open(&self, primary: Side) -> Result<(C, Standing), copier::Error> {
        let mut copier = (self.make)(primary);
        let standing = copier.open().await?;
        Ok((copier, standing))
    }

    fn engine(
        &self,
        handle: &Handle,
        (primary, from): (Side, Lsn),
        ahead: Option<(C, Standing)>,
        stop: CancellationToken,
    ) -> Result<BoxFuture<'static, ()>, Error> {
        let book = if primary == Side::Origin { &self.forth } else { &self.back };
        let (copier, opened) = match ahead {
            Some((copier, standing)) => (copier, Some(standing)),
            None => ((self.make)(primary), None),
        };
        let mut engine = Engine::succeed(handle, self.config.clone(), copier, book.clone(), from)?;
        engine.is_open(opened);
        Ok(engine.run(stop).boxed())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::mirror::Phase;
    use crate::mirror::dirty::Dirty;
    use crate::mirror::handle::owe;
    use crate::mirror::state::copier::{Gone, Idle, Owed, Paid, Snapshot};
    use crate::record::{Backend, Reason, RecordBuf, TableId};

    #[tokio::test]
    async fn one_engine_at_a_time_and_hands_opened_ahead_are_opened_once() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let hands = [Idle::default(), Idle::default()];
        let opens = hands.each_ref().map(|hands| hands.opened.clone());
        let make = Box::new(move |primary: Side| hands[primary.index()].clone());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let both = (stop.clone(), tasks.clone());
        let turning = ByState::in_dir(dir.path(), Config::default(), Journal::in_memory(), make, both);
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

    #[tokio::test]
    async fn what_lies_beside_the_journal_tells_how_far_that_was() {
        let dir = tempfile::tempdir().expect("a temp folder");
        assert_eq!(reached(dir.path()).expect("loads"), None);
        let file = |name| Durable::in_dir(dir.path(), name);
        Book::open(file(beside::BOOK)).expect("absent").intend([(Lsn(1_000), false)], 1).await.expect("saved");
        assert_eq!(reached(dir.path()).expect("loads"), Some(Lsn(1_001)));
        let dirty = Dirty::open(file(beside::DIRTY)).expect("absent");
        dirty.mark(TableId(1), Reason::Lost, Lsn(2_000)).await.expect("saved");
        assert_eq!(reached(dir.path()).expect("loads"), Some(Lsn(2_000)));
    }

    /// The keys of each payment that a secondary has.
    type Payments = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;

    #[derive(Default)]
    struct Pays {
        payments: Payments,
        /// Before it pays it panics so often.
        panics: Arc<AtomicU64>,
    }

    impl Copier for Pays {
        async fn open(&mut self) -> Result<Standing, copier::Error> {
            let payments = self.payments.lock().expect("no test panics with it").len() as u64;
            Ok(Standing { life: 1, payments, ..Standing::default() })
        }

        async fn gone<'a>(&'a mut self, _: &'a [Backend], _: &'a [Box<[u8]>]) -> Result<Gone, copier::Error> {
            Ok(Gone::default())
        }

        async fn snapshot(&mut self) -> Result<Snapshot, copier::Error> {
            Ok(Snapshot { written: 0, flushed: 0 })
        }

        async fn pay<'a>(&'a mut self, owed: &'a Owed, _: bool) -> Result<Paid, copier::Error> {
            let left = self.panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            assert!(left.is_err(), "as a bug would");
            let keys = owed.keys.values().flat_map(|keys| keys.keys().map(|key| key.to_vec())).collect();
            let mut payments = self.payments.lock().expect("no test panics with it");
            payments.push(keys);
            Ok(Paid { payments: payments.len() as u64, ..Paid::default() })
        }

        async fn release(&mut self) -> Result<(), copier::Error> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_secondary_loses_after_a_switch_that_ended_before_its_flip_is_owed_again() {
        let (dir, journal) = (tempfile::tempdir().expect("a temp folder"), Journal::in_memory());
        let (forth, tasks) = (Payments::default(), (CancellationToken::new(), TaskTracker::new()));
        let paid = forth.clone();
        let make = Box::new(move |primary| match primary {
            Side::Origin => Pays { payments: paid.clone(), ..Pays::default() },
            Side::Target => Pays::default(),
        });
        let turning = ByState::in_dir(dir.path(), Config::default(), journal.clone(), make, tasks);
        let mut turning = turning.expect("files load");
        let handle = turning.handle().clone();
        let settled = async || handle.settle(journal.appended()).await.expect("the engine runs");

        turning.start(Side::Origin, Lsn::default()).await.expect("starts");
        for key in 0..5 {
            let mut record = RecordBuf::default();
            record.key(TableId(1), &[key], false);
            owe(&journal, &mut record).expect("there is room");
            settled().await;
        }
        let (kept, mut status) = (journal.trimmed(), handle.watch());
        turning.ready(Side::Target, journal.appended()).await.expect("begins");
        status.wait_for(|status| status.phase == Phase::Paused).await.expect("it runs");
        assert_eq!(journal.trimmed(), kept, "it may not come true");

        turning.stop().await;
        {
            let mut payments = forth.lock().expect("no test panics with it");
            let left = payments.len() - 3;
            payments.truncate(left);
        }
        turning.start(Side::Origin, Lsn::default()).await.expect("starts");
        handle.resume();
        settled().await;
        let there: BTreeSet<Vec<u8>> =
            forth.lock().expect("no test panics with it").iter().flatten().cloned().collect();
        assert_eq!(there, (0..5).map(|key| vec![key]).collect());

        turning.ready(Side::Target, journal.appended()).await.expect("begins");
        turning.flipped(Side::Target);
        handle.resume();
        let trimmed = async {
            while journal.trimmed() < journal.appended() {
                sleep(Config::default().heartbeat).await;
            }
        };
        timeout(Config::default().heartbeat * 100, trimmed).await.expect("it came true");
    }

    async fn panicking(times: u64) -> (Turning<ByState<Pays>>, Payments, Arc<AtomicU64>) {
        let (dir, journal) = (tempfile::tempdir().expect("a temp folder"), Journal::in_memory());
        let (left, payments) = (Arc::new(AtomicU64::new(times)), Payments::default());
        let (counted, paid) = (left.clone(), payments.clone());
        let make = Box::new(move |_| Pays { payments: paid.clone(), panics: counted.clone() });
        let tasks = (CancellationToken::new(), TaskTracker::new());
        let turning = ByState::in_dir(dir.path(), Config::default(), journal.clone(), make, tasks);
        let mut turning = turning.expect("files load");
        turning.start(Side::Origin, Lsn::default()).await.expect("starts");
        let mut record = RecordBuf::default();
        record.key(TableId(1), b"k", false);
        owe(&journal, &mut record).expect("there is room");
        (turning, payments, left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_panicked_begins_anew_and_pays_what_it_owed() {
        let (turning, payments, left) = panicking(1).await;
        let handle = turning.handle().clone();
        let mut status = handle.watch();
        let shown = status.wait_for(|status| status.phase == Phase::Failed).await.expect("it panics").error.clone();
        assert!(shown.is_some_and(|why| why.contains("panicked")));
        handle.settle(handle.journal().appended()).await.expect("it runs again");
        assert_eq!(left.load(Ordering::Relaxed), 0);
        assert!(payments.lock().expect("no test panics with it").iter().any(|keys| keys == &[b"k".to_vec()]));
        status.wait_for(|status| status.error.is_none()).await.expect("all is well");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_always_panics_says_so_and_ends_when_it_is_told_to() {
        let (mut turning, _, left) = panicking(u64::MAX).await;
        let handle = turning.handle().clone();
        let mut status = handle.watch();
        for times in 1..4 {
            let again = status
                .wait_for(|status| status.phase == Phase::Failed && left.load(Ordering::Relaxed) <= u64::MAX - times);
            let why = again.await.expect("it panics").error.clone();
            assert!(why.is_some_and(|why| why.contains("panicked")));
            sleep(Config::default().heartbeat).await;
        }
        turning.stop().await;
        assert_eq!(handle.status().phase, Phase::Stopped);
    }
}
