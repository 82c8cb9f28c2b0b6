//! The engines by replay of both directions.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backfill::Desk;
use crate::journal::{Journal, Lsn};
use crate::mirror::Handle;
use crate::mirror::beside;
use crate::mirror::durable::{self, Durable};
use crate::mirror::turning::{Directions, Turning};
use crate::record::Side;

use super::applier::{Applier, Error};
use super::book::Book;
use super::engine::{Config, Engine, Paths};
use super::history::{History, Walker};

/// Makes the hands of a direction, by its primary.
type Make<A> = Box<dyn Fn(Side) -> A + Send + Sync>;

/// How far the journal was when the files in this directory were written; `None`: there are none.
///
/// # Errors
/// One of them cannot be read.
pub fn reached(dir: &Path) -> Result<Option<Lsn>, durable::Error> {
    beside::reached(dir, |book| Ok(Book::open(book)?.reached()))
}

/// Engines that replay writes.
pub struct ByReplay<A> {
    config: Config,
    make: Make<A>,
    forth: Durable,
    back: Durable,
}

impl<A: Applier + Walker> ByReplay<A> {
    /// The files are in this directory, which exists. What runs does so among `tasks` and ends with `stop`.
    ///
    /// # Errors
    /// A ledger cannot be read.
    pub fn in_dir(
        dir: &Path,
        config: Config,
        (journal, desk): (Journal, Desk),
        make: Make<A>,
        tasks: (CancellationToken, TaskTracker),
    ) -> Result<Turning<ByReplay<A>>, durable::Error> {
        let paths = Paths::in_dir(dir);
        let handle = paths.handle(&config, journal, desk)?;
        let back = Durable::in_dir(dir, beside::BOOK_BACK);
        Ok(Turning::new(handle, ByReplay { config, make, forth: paths.book(), back }, tasks))
    }
}

impl<A: Applier + Walker> Directions for ByReplay<A> {
    type Ahead = Arc<A>;
    type Refused = Error;

    async fn open(&self, primary: Side) -> Result<Arc<A>, Error> {
        let applier = Arc::new((self.make)(primary));
        applier.open().await?;
        Ok(applier)
    }

    fn engine(
        &self,
        handle: &Handle,
        (primary, from): (Side, Lsn),
        ahead: Option<Arc<A>>,
        stop: CancellationToken,
    ) -> Result<BoxFuture<'static, ()>, durable::Error> {
        let book = if primary == Side::Origin { &self.forth } else { &self.back };
        let (is_open, applier) = (ahead.is_some(), ahead.unwrap_or_else(|| Arc::new((self.make)(primary))));
        let walker = applier.clone();
        let mut engine = Engine::succeed(handle, self.config.clone(), applier, book.clone(), from)?;
        if is_open {
            engine.is_open();
        }
        // Chunks under way end first: what they owe is in the journal before the engine looks where that ends.
        let history = History::new(handle, engine.book().clone(), walker).run(stop);
        let last = CancellationToken::new();
        let engine = engine.run(last.clone());
        let history = async move {
            let _end = last.drop_guard();
            history.await;
        };
        Ok(async move { _ = futures_util::join!(engine, history) }.boxed())
    }
}
