//! What all sessions of a listener share.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Live, OnDdl, OnFull, OnUncaptured};
use crate::cutover::gate::Gate;
use crate::journal::{self, Journal};
use crate::metrics;
use crate::mirror::unwritten::{Lose, Unwritten};
use crate::record::{Item, Reason, RecordBuf, Side, TableId};
use crate::shadow;
use crate::telemetry::{Line, Seldom};

use super::bypass::Uncounted;
use super::cache::PlanCache;
use super::catalog::{Catalog, Setters, load};
use super::client::{self, Client, Endpoint, ServerConfig, Watch};
use super::logins::Logins;
use super::moving::sessions::Sessions;
use super::plan::{Action, Ddl, Fetch};
use super::shadow::{Asked, Backends};
use super::wire::{Header, WireError};

/// What all sessions of a listener share.
pub struct Shared {
    /// Every unit passes it.
    pub gate: Gate,
    /// Where captured writes go.
    pub journal: Journal,
    /// The primary's schema.
    pub catalog: Schema,
    /// Plans by shape.
    pub plans: PlanCache,
    /// What configuration decides.
    pub policy: Policy,
    /// Which of the servers' processes are the newest of their numbers.
    pub logins: Logins,
    /// Somebody waited for room in the journal and there was none.
    pub full: AtomicBool,
    /// Which reads are repeated on the secondary.
    pub(super) shadow: shadow::Handle<Asked>,
    /// The servers' processes that do so.
    pub(super) repeating: Backends,
    /// All of them, for the day on which they move.
    pub(super) sessions: Sessions,
    /// Units of which nobody knows yet what they write.
    pub(super) uncounted: Arc<Uncounted>,
    /// Called with tables whose writes the journal did not take.
    pub lost: Lose,
    /// The log's line for what it did not take, and for schema changes among that.
    pub(super) untaken: Line,
    pub(super) unrepeated: Line,
}

/// What configuration decides, some of it anew while tandem runs.
#[derive(Clone)]
pub struct Policy {
    /// Settings that operators change.
    pub live: Live,
    /// A longer statement is not analysed.
    pub statement_bytes_max: usize,
    /// Keys of one transaction that are kept in memory before they go to the journal.
    pub spill_bytes: usize,
    /// A larger message is refused.
    pub message_bytes_max: usize,
}

impl Policy {
    /// Wait for room when the journal is full, instead of marking dirty.
    pub fn block_when_full(&self) -> bool {
        self.live.get().on_full == OnFull::Block
    }

    /// Repeat schema changes on the secondary.
    pub fn mirror_ddl(&self) -> bool {
        self.live.get().ddl == OnDdl::Mirror
    }

    /// Repeat TRUNCATE on the secondary.
    pub fn mirror_truncate(&self) -> bool {
        self.live.get().truncate == OnDdl::Mirror
    }

    /// Why a statement is refused, if it is.
    pub fn refuses(&self, action: &Action) -> Option<String> {
        // Most statements are none of these: settings are looked at for those that are.
        let settings = || self.live.get();
        match action {
            Action::Ddl(ddl) if !ddl.temporary && settings().ddl == OnDdl::Refuse => Some(ddl.tag.clone()),
            Action::Truncate(_) if settings().truncate == OnDdl::Refuse => Some("TRUNCATE".to_owned()),
            Action::Counted(counted)
            | Action::Opaque(counted)
            | Action::Cursor(counted)
            | Action::Ddl(Ddl { counted: Some(counted), .. })
            | Action::Fetch(Fetch { counted: Some(counted), .. })
                if settings().on_uncaptured == OnUncaptured::Refuse =>
            {
                Some(counted.why.clone())
            }
            _ => None,
        }
    }
}

impl Shared {
    /// Processes of a side that work for clients of ours, or repeat what they read.
    pub(super) fn backends(&self, side: Side) -> HashSet<u32> {
        &self.sessions.pids() | &self.repeating.on(side)
    }

    /// A message that is not whole yet: would it be too large?
    pub fn check_size(&self, header: Header) -> Result<(), WireError> {
        let limit = self.policy.message_bytes_max;
        if header.size > limit {
            return Err(WireError::TooLarge { kind: char::from(header.kind), len: header.size, limit });
        }
        Ok(())
    }

    /// Is it worth a client's time to wait for room in a full journal? One that stays full is waited for once, not once
    /// for each unit, unless configuration says so (promise 7).
    pub fn waits_for_room(&self) -> bool {
        self.policy.block_when_full() || !self.full.load(Ordering::Relaxed)
    }

    /// What became of a record that needed room.
    pub fn stays_full(&self, full: bool) {
        if self.full.load(Ordering::Relaxed) == full || self.full.swap(full, Ordering::Relaxed) == full {
            return;
        }
        if full {
            tracing::error!("the journal stays full: tables that are written to are dirty until there is room");
        } else {
            tracing::info!("the journal has room again");
        }
    }

    /// The tables that keys name, and those whose rows foreign keys take along: a payment finds these by the keys of the rows
    /// that went, and no other way.
    pub fn concerned(&self, keys: &RecordBuf) -> BTreeSet<TableId> {
        let mut tables: BTreeSet<TableId> = keys.tables().collect();
        let moved = keys.items().filter(|item| matches!(item, Item::Key { moved: true, .. })).map(|item| item.table());
        tables.extend(self.catalog.now().taken_along(moved.collect::<BTreeSet<_>>()));
        tables
    }

    /// The journal did not take these keys: the tables that they concern are dirty, and again when the unit is over. A schema
    /// change among them is said of no table: its own is well again when its rows are, without the change.
    pub fn lose(&self, keys: &RecordBuf, error: &journal::Error) -> Unwritten {
        metrics::JOURNAL_REFUSED_TOTAL.counter(&[("wire", "postgres")]).increment(1);
        if *error == journal::Error::Full {
            tracing::debug!("the journal is full: a unit's tables are dirty");
        } else if let Some(left_out) = self.untaken.say() {
            tracing::error!(%error, left_out, "the journal did not take a record: its tables are dirty");
        }
        let mut tables = self.concerned(keys);
        tables.remove(&TableId::NONE);
        if keys.items().any(|item| matches!(item, Item::Ddl(..))) {
            tables.insert(TableId::NONE);
            if let Some(left_out) = self.unrepeated.say() {
                tracing::error!(left_out, "a schema change is lost with it: compare both schemas, then clear the mark");
            }
        }
        Unwritten::to(tables.into_iter(), &self.lost)
    }

    /// A schema change was not known for a while to who wrote meanwhile: what its triggers, rules or partitions did with their
    /// writes nobody has seen.
    pub fn missed_a_change(&self) {
        tracing::warn!("a schema change became known too late to who wrote meanwhile: every table is dirty");
        let catalog = self.catalog.now().clone();
        let tables: Vec<TableId> = catalog.tables().map(|table| table.id).collect();
        (self.lost)(&tables, Reason::Ddl);
    }
}

/// The primary's schema as sessions see it, and the way to ask for a newer one.
#[derive(Clone)]
pub struct Schema {
    inner: Arc<Inner>,
}

struct Inner {
    now: ArcSwap<Catalog>,
    /// Who stores a catalog holds it, so that a load which a switch has overtaken does not store another side's.
    storing: Mutex<()>,
    asked: AtomicU64,
    /// The newest load that somebody did not wait for any longer after a schema change; 0: none.
    missed: AtomicU64,
    /// The host that our own connection found to be the primary, and the side that it is on.
    host: ArcSwapOption<(Side, Endpoint)>,
    wake: Notify,
    done: watch::Sender<u64>,
}

/// A statement waits no longer than this for a catalog that knows what it names.
const RELOAD_WAIT: Duration = Duration::from_secs(5);
/// Schema changes that bypass the proxy are seen within this.
const RELOAD_EVERY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);
/// A host that says nothing for so long, nor lets anybody in, is left: another one may be the primary by now.
const HANGS: Duration = Duration::from_secs(10);

impl Schema {
    /// Start with a loaded catalog.
    pub fn new(catalog: Catalog) -> Schema {
        let inner = Inner {
            now: ArcSwap::from_pointee(catalog),
            storing: Mutex::default(),
            asked: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            host: ArcSwapOption::empty(),
            wake: Notify::new(),
            done: watch::Sender::new(0),
        };
        Schema { inner: Arc::new(inner) }
    }

    /// The catalog as of now.
    pub fn now(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.inner.now.load()
    }

    /// The server with the host first that was found to be the primary: clients that log in by themselves are sent there.
    pub fn primary_first<'a>(&self, side: Side, server: &'a ServerConfig) -> Cow<'a, ServerConfig> {
        match self.inner.host.load().as_deref() {
            Some((found, host)) if *found == side && server.hosts.first() != Some(host) => {
                Cow::Owned(server.preferring(host))
            }
            _ => Cow::Borrowed(server),
        }
    }

    /// A connection of our own was let in there: it is the primary.
    pub(super) fn found(&self, side: Side, host: &Endpoint) {
        self.inner.host.store(Some(Arc::new((side, host.clone()))));
    }

    /// A connection of one's own to that host: the one that is kept, or a new one, which is kept then.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connected<'c>(
        &self,
        side: Side,
        server: &ServerConfig,
        kept: &'c mut Option<Client>,
    ) -> Result<&'c mut Client, client::Error> {
        match kept {
            Some(kept) => Ok(kept),
            None => Ok(kept.insert(Client::connect(&self.primary_first(side, server)).await?)),
        }
    }

    /// Another side is the primary: its catalog takes the place of the old one, and every plan is made anew. Whoever
    /// follows the old primary was told to stop before.
    pub fn replace(&self, catalog: Catalog) {
        self.store(catalog, &CancellationToken::new());
    }

    /// `false`: it is too late for this one.
    fn store(&self, mut catalog: Catalog, stop: &CancellationToken) -> bool {
        let _storing = self.inner.storing.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_cancelled() {
            return false;
        }
        let before = self.now();
        catalog.follow(&before);
        if catalog.setters.is_unknown() {
            catalog.setters = before.setters.clone();
        }
        self.inner.now.store(Arc::new(catalog));
        true
    }

    /// A load was asked for that is not in place: what it will find is not known.
    pub fn is_stale(&self) -> bool {
        self.inner.asked.load(Ordering::SeqCst) > *self.inner.done.borrow()
    }

    /// Something changed: load anew soon.
    pub fn stale(&self) {
        self.inner.asked.fetch_add(1, Ordering::SeqCst);
        self.inner.wake.notify_one();
    }

    /// Resolves when a load that began after this call is in place: `true`; or after a bound: `false`.
    pub fn reloaded(&self) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let (_, loaded) = self.ask();
        Box::pin(loaded)
    }

    /// The same for who committed a schema change. If it is told so without waiting any longer, others write by a catalog that
    /// does not know it: what they write is dirty once it does.
    pub fn learned(&self) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let ((want, loaded), inner) = (self.ask(), self.inner.clone());
        Box::pin(async move {
            let loaded = loaded.await;
            if !loaded {
                inner.missed.fetch_max(want, Ordering::SeqCst);
            }
            loaded
        })
    }

    fn ask(&self) -> (u64, impl Future<Output = bool> + Send + use<>) {
        let want = self.inner.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.inner.wake.notify_one();
        let mut done = self.inner.done.subscribe();
        let loaded = async move {
            let wait = done.wait_for(|&done| done >= want);
            let loaded = tokio::time::timeout(RELOAD_WAIT, wait).await.is_ok();
            if !loaded {
                tracing::warn!("the catalog could not be loaded in time");
            }
            loaded
        };
        (want, loaded)
    }

    /// A load that began when so many were asked for is in place. `true`: others went on without it.
    fn arrived(&self, asked: u64) -> bool {
        self.inner.done.send_replace(asked);
        let missed = self.inner.missed.load(Ordering::SeqCst);
        // Who misses a later one meanwhile is told by the next.
        let is_over = (1..=asked).contains(&missed);
        is_over && self.inner.missed.compare_exchange(missed, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Load anew whenever asked, and now and then by itself. `missed` is called behind a load that came too late for who had
    /// [committed a schema change](Schema::learned).
    pub async fn run(self, side: Side, server: Arc<ServerConfig>, missed: impl Fn(), stop: CancellationToken) {
        let (mut client, mut failed) = (None, Seldom::default());
        loop {
            if stop.run_until_cancelled(self.wanted()).await.is_none() {
                return;
            }
            let asked = self.inner.asked.load(Ordering::SeqCst);
            let Some(loaded) = stop.run_until_cancelled(self.load(side, &server, &mut client)).await else { return };
            match loaded.map(|catalog| self.store(catalog, &stop)) {
                Ok(true) => {
                    if self.arrived(asked) {
                        missed();
                    }
                }
                // Another primary's is in place.
                Ok(false) => return,
                Err(error) => {
                    if let Some(left_out) = failed.say() {
                        tracing::warn!(%error, left_out, "the primary's catalog cannot be loaded");
                    }
                    client = None;
                    tokio::time::sleep(RETRY).await;
                    self.inner.wake.notify_one();
                }
            }
        }
    }

    /// Look for the host that is the primary whenever somebody met another one, and read nothing there: for whoever captures
    /// nothing.
    pub async fn seek(self, side: Side, server: Arc<ServerConfig>, stop: CancellationToken) {
        let mut failed = Seldom::default();
        while stop.run_until_cancelled(self.inner.wake.notified()).await.is_some() {
            match stop.run_until_cancelled(Client::connect(&server)).await {
                None => return,
                Some(Ok(conn)) => {
                    self.found(side, conn.endpoint());
                    conn.close().await;
                }
                Some(Err(error)) => {
                    if let Some(left_out) = failed.say() {
                        tracing::warn!(%error, left_out, "no host is known to be the primary");
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Resolves when it is time to load anew. Whoever followed the primary before may have taken the bell, and not answered.
    async fn wanted(&self) {
        if !self.is_stale() {
            let _ = tokio::time::timeout(RELOAD_EVERY, self.inner.wake.notified()).await;
        }
    }

    async fn load(&self, side: Side, server: &ServerConfig, client: &mut Option<Client>) -> anyhow::Result<Catalog> {
        let conn = match client {
            Some(conn) => conn,
            None => client.insert(Client::connect(server).await?),
        };
        self.found(side, conn.endpoint());
        let watch = Watch::new(conn, HANGS);
        let loaded = async {
            let mut catalog = load(conn).await?;
            catalog.setters = Setters::load(conn, Some(&self.now().setters)).await?;
            Ok(catalog)
        };
        tokio::select! {
            biased;
            loaded = loaded => loaded,
            error = watch.hangs() => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::analysis::schema::catalog;

    #[test]
    fn a_catalog_of_an_old_primary_that_comes_late_is_not_stored() {
        let schema = Schema::new(catalog());
        let follower = CancellationToken::new();
        assert!(schema.store(catalog(), &follower));
        follower.cancel();
        schema.replace(Catalog { relations: Default::default(), ..catalog() });
        let epoch = schema.now().epoch;
        assert!(!schema.store(catalog(), &follower));
        assert!(schema.now().relations.is_empty() && schema.now().epoch == epoch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_came_too_late_for_a_schema_change_is_told_once() {
        let schema = Schema::new(catalog());
        let first = schema.learned();
        assert!(!schema.arrived(1), "somebody waits for it, and gets it");
        assert!(first.await);
        assert!(!schema.learned().await, "nobody loads");
        schema.stale();
        assert!(!schema.arrived(1), "it began before the change");
        assert!(schema.arrived(3));
        assert!(!schema.reloaded().await);
        assert!(!schema.arrived(5), "no schema change");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_is_stale_until_a_load_that_began_behind_it_is_there() {
        let schema = Schema::new(catalog());
        assert!(!schema.is_stale());
        let learning = schema.reloaded();
        assert!(schema.is_stale(), "a schema change was committed, and nobody has read it");
        // The primary was switched meanwhile, and whoever follows the old one is gone: the new one's is read at once.
        schema.replace(catalog());
        schema.stale();
        let began = tokio::time::Instant::now();
        schema.wanted().await;
        assert!(schema.is_stale() && began.elapsed() < RELOAD_EVERY);
        let asked = schema.inner.asked.load(Ordering::SeqCst);
        schema.inner.done.send_replace(asked);
        assert!(!schema.is_stale() && learning.await);
    }
}
