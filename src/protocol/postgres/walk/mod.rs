//! A switch on PostgreSQL, step by step: sessions, both servers and the mirror together.
//!
//! | step | sessions | servers ([`super::switch`]) | mirror |
//! | --- | --- | --- | --- |
//! | prepare | open second connections, say what cannot move | findings, the way back proven, connections for the rest | not behind, nothing parked, nothing dirty |
//! | quiesce | who did something since says again what cannot move | nothing of others is open | |
//! | apply | | | hurries, pays up to the end; tables without a key are copied, where the configuration says so |
//! | verify | | the newest rows compared | names them |
//! | ready | | marked as the new primary, sequences, triggers | ends; the one of the other direction begins |
//! | flip | | the catalog is the new primary's | |
//! | settle | whoever is idle moves | the old primary refuses writes | |

mod lost;
mod numbers;
pub mod rules;
mod sessions;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::check::Finding;
use crate::config::{Config, Cutover, Immovable, OldPrimary, Strangers};
use crate::cutover::gate::Route;
use crate::cutover::mirror::{self, Known};
use crate::cutover::steps::{Compared, Error, Force, Steps};
use crate::cutover::store::Control;
use crate::journal::{Journal, Lsn};
use crate::mirror::Turning;
use crate::mirror::durable;
use crate::mirror::state::{ByState, copier};
use crate::net::keep;
use crate::record::{Reason, Side, TableId};

use super::catalog::{Catalog, FIRST_NORMAL_OID, Relation, load};
use super::client::{Client, Error as ClientError, ServerConfig};
use super::copier::PgCopier;
use super::moving::sessions::{Call, Card, Moving};
use super::scope::Scope;
use super::setup::Setup;
use super::shared::Shared;
use super::switch::newest::Comparison;
use super::switch::{self, Bounds, barrier, findings, mark, reverse, sequences, strangers, triggers};
use super::{bypass, servers::Servers};
use numbers::Numbers;

/// How long sessions have to get ready. They log in, sixteen at once.
const SESSIONS_READY: Duration = Duration::from_secs(20);
/// How long a mirror that connects is waited for.
const MIRROR_OPEN: Duration = Duration::from_secs(5);
/// How long sessions that cannot move are waited for, where the configuration says so, and how often they are looked at.
const PINNED_MAX: Duration = Duration::from_secs(60);
const PINNED_LOOK: Duration = Duration::from_millis(200);
/// How long schema changes of the old primary are waited for before clients are held.
const REPEATED: Duration = Duration::from_secs(2);
/// How long the lock of the mirror back may be held by what is ending.
const LOCK_GONE: Duration = Duration::from_secs(5);
/// How long the mirror towards the new primary, which was told to end, may take to be gone there. Clients are held.
const APPLIERS_GONE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(20);
/// Whoever is in the way of the fence for so long is terminated, where the configuration says so.
const GRACE: Duration = Duration::from_millis(200);
/// Reading the code of many thousand functions takes less.
const CODE_READ: Bounds = Bounds { lock: Duration::from_secs(2), statement: Duration::from_secs(30) };
/// Keys of the rows written last that are compared while clients are held.
const NEWEST: usize = 300;

/// The wire's hands at a switch.
pub struct Walk {
    shared: Arc<Shared>,
    servers: Arc<Servers>,
    journal: Journal,
    cutover: Cutover,
    /// Which tables are mirrored, from the origin.
    scope: Scope,
    mirror: Turning<ByState<PgCopier>>,
    /// From here on the secondary is owed.
    since: Lsn,
    epoch: u64,
    /// What `prepare` opened.
    ahead: Option<Ahead>,
    /// Processes of the old primary that worked for sessions before the flip: they go, one after the other.
    leaving: HashSet<u32>,
    /// The old primary is gone for good: what is left of a switch without it.
    given_up: Option<GivenUp>,
    /// Triggers of the secondary may not be silent.
    touched: bool,
    lost: lost::List,
    numbers: Numbers,
    /// Triggers of the old primary that the flip silences; the mirror back waits for it.
    silenced: Option<triggers::Held>,
    /// The secondary may be marked as the primary that a walk was to make of it.
    marked: bool,
    /// Nothing on the secondary acts on what the mirror writes. Until that is known of an old primary, the mirror is paused.
    quiet: bool,
    /// What follows the primary: its catalog, and writers that bypass tandem.
    followers: Option<CancellationToken>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What is ready before clients are held.
struct Ahead {
    from: Client,
    to: Client,
    comparison: Comparison,
    /// Of `to`, and the epoch of the primary's of which it has all.
    catalog: Catalog,
    epoch: Option<u64>,
    known: Known,
    triggers: TriggerRights,
    bounds: Bounds,
}

/// A switch without the old primary.
struct GivenUp {
    to: Client,
    catalog: Catalog,
    /// So many keys may be lost.
    lose: u64,
    bounds: Bounds,
}

/// Whether the mirrors need triggers to be silent, by side.
#[derive(Clone, Copy)]
struct TriggerRights {
    /// The mirror's role may be `replica` there.
    calm_from: bool,
    calm_to: bool,
    /// Triggers of `to` are not what they shall be.
    asleep: bool,
}

impl TriggerRights {
    async fn read(to: Side, old: &mut Client, new: &mut Client) -> Result<TriggerRights, Error> {
        let on = |side: Side| move |error: ClientError| switch::Error::from(error).on(side);
        let calm_from = triggers::may_be_replica(old).await.map_err(on(to.other()))?;
        let calm_to = triggers::may_be_replica(new).await.map_err(on(to))?;
        let saved = triggers::read(new).await.map_err(on(to))?;
        Ok(TriggerRights { calm_from, calm_to, asleep: saved.iter().any(|trigger| trigger.saved.is_some()) })
    }
}

impl Walk {
    /// Nothing runs yet: [`Walk::begin`]. All that it starts runs among `tasks` and ends with `stop`.
    pub fn new(
        setup: &Setup,
        mirror: Turning<ByState<PgCopier>>,
        config: &Config,
        control: &Control,
        (stop, tasks): (CancellationToken, TaskTracker),
    ) -> Walk {
        Walk {
            shared: setup.shared.clone(),
            servers: setup.servers.clone(),
            journal: setup.shared.journal.clone(),
            cutover: config.cutover.clone(),
            scope: Scope::of(config, Side::Origin),
            mirror,
            since: Lsn(control.since),
            epoch: control.epoch,
            ahead: None,
            leaving: HashSet::new(),
            given_up: None,
            touched: true,
            lost: lost::List::in_dir(&config.journal.dir),
            numbers: Numbers::default(),
            silenced: None,
            marked: false,
            quiet: control.epoch == 1,
            followers: None,
            stop,
            tasks,
        }
    }

    /// Follow the primary and mirror from it; where an earlier process did not finish its walk, `undo` begins the mirror.
    ///
    /// # Errors
    /// A file of the mirror cannot be read.
    pub async fn begin(&mut self, control: &Control) -> Result<(), durable::Error> {
        (self.touched, self.marked) = (control.walk.is_some(), control.walk.is_some());
        self.follow(control.primary);
        if !self.quiet {
            // Until `settle` has seen to the triggers of the old primary.
            self.mirror.handle().pause();
        }
        match control.walk {
            Some(_) => Ok(()),
            None => self.mirror.start(control.primary, self.since).await,
        }
    }

    fn follow(&mut self, primary: Side) {
        self.followers.iter().for_each(CancellationToken::cancel);
        let stop = self.stop.child_token();
        let server = self.servers.of(primary).clone();
        let (shared, of, ends) = (self.shared.clone(), server.clone(), stop.clone());
        let follow = move || {
            let missed = shared.clone();
            shared.catalog.clone().run(primary, of.clone(), move || missed.missed_a_change(), ends.clone())
        };
        self.tasks.spawn(keep::kept("following the primary's schema", follow, stop.clone()));
        let (shared, ends) = (self.shared.clone(), stop.clone());
        let (asks, of, until) = (shared.clone(), server.clone(), stop.clone());
        let watch = move || bypass::run(shared.clone(), primary, server.clone(), ends.clone());
        self.tasks.spawn(keep::kept("looking for who writes past tandem", watch, stop.clone()));
        let numbers = self.numbers.clone();
        let ask = move || numbers.clone().run(asks.clone(), primary, of.clone(), until.clone());
        self.tasks.spawn(keep::kept("keeping where sequences stand", ask, stop.clone()));
        self.followers = Some(stop);
    }

    /// Which tables are mirrored, from the primary.
    fn scope(&self) -> Scope {
        self.scope.from(self.shared.gate.route().primary)
    }

    fn server(&self, side: Side) -> &ServerConfig {
        self.servers.of(side)
    }

    async fn connect(&self, side: Side, bounds: Bounds) -> Result<Client, Error> {
        switch::connect(self.server(side), bounds).await.map_err(|error| switch::Error::from(error).on(side))
    }

    // ---- prepare

    async fn look(&mut self, to: Side, max_hold: Duration) -> Result<Vec<Finding>, Error> {
        let bounds = Bounds::default();
        let from = to.other();
        // A process that has just begun has not connected yet.
        let _ = timeout(MIRROR_OPEN, mirror::opened(self.mirror.handle())).await;
        let known = Known::of(self.mirror.handle());
        let mut found = self.mirror_findings(&known);
        let mut conn = self.connect(to, bounds).await?;
        switch::alone(&mut conn).await.map_err(|error| error.on(to))?;
        self.nobody_else_walks(&mut conn, to).await?;
        // Sessions of clients connect there now, and what they set up must be able to write.
        barrier::lift(&mut conn).await.map_err(|error| error.on(to))?;
        found.extend(self.server_findings(from, max_hold).await?);
        found.extend(reverse::prove(from, self.server(from), self.server(to), (&self.scope.from(to), bounds)).await?);
        self.ahead = Some(self.open(conn, to, known, bounds).await?);
        // What the origin lacks of the target's rows, the mirror back brought it.
        if to == Side::Target {
            found.extend(self.unknown_history().await?);
        }
        self.harvest(from).await?;
        found.extend(self.session_findings(to).await);
        self.open_back(to).await?;
        // The less is owed at the fence, the shorter clients wait.
        self.mirror.handle().hurry();
        Ok(found)
    }

    /// Two tandems that switch at once would undo each other's work.
    async fn nobody_else_walks(&self, conn: &mut Client, to: Side) -> Result<(), Error> {
        match switch::walked(conn).await.map_err(|error| switch::Error::from(error).on(to))? {
            Some(who) => Err(Error::Refused(format!("{to}: another tandem is at a switch here: {who}"))),
            None => Ok(()),
        }
    }

    async fn open(&self, mut to_conn: Client, to: Side, known: Known, bounds: Bounds) -> Result<Ahead, Error> {
        let epoch = self.repeated_epoch().await;
        let catalog = load(&mut to_conn).await.map_err(|error| switch::Error::from(error).on(to))?;
        let mut from_conn = self.connect(to.other(), bounds).await?;
        let comparison = Comparison::prepare(to.other(), &self.scope(), &mut from_conn, &mut to_conn).await?;
        let triggers = TriggerRights::read(to, &mut from_conn, &mut to_conn).await?;
        Ok(Ahead { from: from_conn, to: to_conn, comparison, catalog, epoch, known, triggers, bounds })
    }

    /// The primary's catalog as of which the secondary has every schema change. `None`: that takes too long, so the secondary's is read
    /// again while clients are held.
    async fn repeated_epoch(&self) -> Option<u64> {
        let epoch = self.shared.catalog.now().epoch;
        // Their records are older than what they made of the catalog.
        let (handle, end) = (self.mirror.handle(), self.journal.appended());
        handle.hurry();
        timeout(REPEATED, handle.settle(end)).await.is_ok_and(|settled| settled.is_ok()).then_some(epoch)
    }

    /// Open the mirror back. What held its lock a moment ago (the proof of the way back, a dry run) may not be gone yet.
    async fn open_back(&mut self, to: Side) -> Result<(), Error> {
        let began = tokio::time::Instant::now();
        loop {
            match self.mirror.open_ahead(to).await {
                Ok(()) => return Ok(()),
                Err(copier::Error::Fenced(_)) if began.elapsed() < LOCK_GONE => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(Error::Refused(format!("the mirror back cannot be opened: {error}"))),
            }
        }
    }

    fn mirror_findings(&self, known: &Known) -> Vec<Finding> {
        let (catalog, handle) = (self.shared.catalog.now(), self.mirror.handle());
        let mut found = mirror::findings(handle, known, self.cutover.max_lag, |table| name_of(&catalog, table));
        let copied: Vec<String> = self.copied_held(&catalog).map(|table| name_of(&catalog, table)).collect();
        found.retain(|finding| finding.rule != mirror::TABLES_DIRTY || !copied.contains(&finding.object));
        found
    }

    /// Mirrored tables whose history was neither copied nor compared.
    fn unseen<'c>(&self, catalog: &'c Catalog) -> Vec<&'c Arc<Relation>> {
        let (scope, desk) = (self.scope(), self.mirror.handle().desk());
        let mirrored = catalog.tables().filter(|table| table.key.is_some() && is_theirs(table));
        let mirrored = mirrored.filter(|table| !scope.excludes_table(catalog, table));
        mirrored.filter(|table| !desk.has_seen(table.id)).collect()
    }

    /// Tables that have rows of which nobody knows whether the target has them.
    async fn unknown_history(&mut self) -> Result<Vec<Finding>, Error> {
        let catalog = self.shared.catalog.now();
        let tables = self.unseen(&catalog);
        let has_rows = |(n, table): (usize, &&Arc<Relation>)| {
            format!("SELECT {n} WHERE EXISTS (SELECT FROM ONLY {})", table.sql())
        };
        let mut filled: Vec<&Arc<Relation>> = Vec::new();
        // A few at a time: a statement has a length.
        for (at, some) in tables.chunks(100).enumerate() {
            let sql = some.iter().enumerate().map(has_rows).collect::<Vec<_>>().join(" UNION ALL ");
            let rows = self.ahead()?.from.simple(&sql).await;
            let rows = rows.map_err(|error| switch::Error::from(error).on(Side::Origin))?;
            for row in rows {
                let n: usize = row.parse(0).map_err(|error| switch::Error::from(error).on(Side::Origin))?;
                filled.extend(tables.get(100 * at + n).copied());
            }
        }
        Ok(mirror::unknown(filled.into_iter().map(|table| table.shown()).collect()))
    }

    /// Tables that are copied whole while clients are held.
    fn copied_held<'c>(&'c self, catalog: &'c Catalog) -> impl Iterator<Item = TableId> + 'c {
        let (scope, tables) = (self.scope(), catalog.tables().filter(|table| table.key.is_none() && is_theirs(table)));
        tables.filter(move |table| scope.keyless && !scope.excludes_table(catalog, table)).map(|table| table.id)
    }

    async fn server_findings(&self, from: Side, max_hold: Duration) -> Result<Vec<Finding>, Error> {
        let (ours, scope) = (|| self.shared.backends(from), self.scope());
        let question = findings::Question {
            from,
            scope: &scope,
            old: self.server(from),
            new: self.server(from.other()),
            ours: &ours,
            max_hold,
            barrier: self.cutover.old_primary == OldPrimary::ReadOnly,
            terminate: self.cutover.strangers == Strangers::Terminate,
        };
        let report = findings::find(question).await;
        // Of sides that could not be asked nothing is known.
        if report.unreachable.is_empty() {
            let differ = report.findings.iter().any(|finding| finding.rule.name == "type_oid_differs");
            self.shared.sessions.types_differ.store(differ, Ordering::Relaxed);
        }
        let copied = |found: Finding| match scope.keyless && found.rule == switch::TABLE_WITHOUT_KEY {
            true => Finding { rule: rules::TABLE_COPIED_HELD, ..found },
            false => found,
        };
        match report.unreachable.into_iter().next() {
            None => Ok(report.findings.into_iter().map(copied).collect()),
            Some(why) => Err(Error::Refused(why)),
        }
    }

    /// What sessions may have set in code of the server's, before they are asked what they have.
    async fn harvest(&self, from: Side) -> Result<(), Error> {
        let mut conn = self.connect(from, CODE_READ).await?;
        let harvested = self.shared.sessions.customs.harvest(&mut conn).await;
        conn.close().await;
        harvested.map_err(|error| switch::Error::from(error).on(from))
    }

    /// Call the sessions to get ready, and tell what stands in their way.
    async fn session_findings(&self, to: Side) -> Vec<Finding> {
        let sessions = &self.shared.sessions;
        let called = sessions.call(Call::Prepare(to));
        let here = sessions.all();
        let ready = sessions.wait(here.clone(), |moving| moving.has_answered(called.number));
        let _ = timeout(SESSIONS_READY, ready).await;
        if self.cutover.immovable == Immovable::Wait {
            let _ = timeout(PINNED_MAX, self.pinned_are_gone(to)).await;
        }
        sessions::findings(&sessions.all(), (&here, called.number), self.cutover.immovable)
    }

    /// Resolves when no session holds what no other server can be given. Clients go on meanwhile.
    async fn pinned_are_gone(&self, to: Side) {
        let sessions = &self.shared.sessions;
        let is_pinned = |card: &Arc<Card>| !card.stays && !card.pins().is_empty();
        loop {
            let pinned: Vec<_> = sessions.all().into_iter().filter(is_pinned).collect();
            if pinned.is_empty() {
                return;
            }
            tokio::time::sleep(PINNED_LOOK).await;
            let called = sessions.call_only(Call::Look(to), &pinned);
            let looked = sessions.wait(pinned, |moving| moving.was_looked_at(called.number));
            let _ = timeout(PINNED_LOOK, looked).await;
        }
    }

    // ---- without the old primary

    async fn look_without(&mut self, to: Side, lose: u64) -> Result<Vec<Finding>, Error> {
        let bounds = Bounds::default();
        let mut conn = self.connect(to, bounds).await?;
        switch::alone(&mut conn).await.map_err(|error| error.on(to))?;
        self.nobody_else_walks(&mut conn, to).await?;
        barrier::lift(&mut conn).await.map_err(|error| error.on(to))?;
        let catalog = load(&mut conn).await.map_err(|error| switch::Error::from(error).on(to))?;
        let owed = self.mirror.handle().owed().await.map_err(|error| Error::Refused(error.to_string()))?;
        let mut found = lost::findings(&owed, lose, |table| name_of(&catalog, table));
        // Nobody can ask any more whether they had rows before tandem. What the origin lacks of the target's, the mirror back brought it.
        let primarys = self.shared.catalog.now();
        let unseen = if to == Side::Target { self.unseen(&primarys) } else { Vec::new() };
        let unseen = unseen.into_iter().map(|table| table.shown()).collect();
        found.extend(lost::besides(self.mirror.handle(), unseen, |table| name_of(&catalog, table)));
        let (here, scope) = (self.numbers.of(to.other()), self.scope.from(to.other()));
        let numbers = numbers::findings(&mut conn, &scope, &here, to).await;
        found.extend(numbers.map_err(|error| switch::Error::from(error).on(to))?);
        self.given_up = Some(GivenUp { to: conn, catalog, lose, bounds });
        Ok(found)
    }

    /// The mirror ends with what it has paid; what is owed is written down, and its tables are dirty.
    async fn lose(&mut self) -> Result<Lsn, Error> {
        let refused = |error: &dyn std::fmt::Display| Error::Refused(error.to_string());
        let (journal, epoch) = (self.name(), self.epoch + 1);
        self.mirror.handle().pause();
        let Some(given_up) = &mut self.given_up else { return Err(Error::Refused("nothing was prepared".into())) };
        self.marked = true;
        mark::set(&mut given_up.to, journal, epoch).await.map_err(|error| refused(&error))?;
        // It may be waiting for the old primary, and clients are held.
        self.mirror.abandon().await;
        // Older rows must not come in behind those that clients write there.
        switch::unwritten(&mut given_up.to).await.map_err(|error| refused(&error))?;
        let end = self.journal.appended();
        // Clients may have written until the gate closed.
        let owed = self.mirror.handle().owed().await.map_err(|error| refused(&error))?;
        if owed.len() as u64 > given_up.lose {
            return Err(Error::Refused(format!("{} keys are owed by now, more than may be lost", owed.len())));
        }
        let catalog = &given_up.catalog;
        self.lost.add(&owed, |table| name_of(catalog, table)).await.map_err(|error| refused(&error))?;
        let tables: BTreeSet<TableId> = owed.iter().map(|(table, _)| *table).collect();
        for table in tables.into_iter().filter(|table| *table != TableId::NONE) {
            let dirty = self.mirror.handle().dirty();
            dirty.mark(table, Reason::Lost, end).await.map_err(|error| refused(&error))?;
        }
        Ok(end)
    }

    async fn ready_without(&mut self, to: Side) -> Result<(), Error> {
        let (here, scope) = (self.numbers.of(to.other()), self.scope.from(to.other()));
        let Some(given_up) = &mut self.given_up else { return Err(Error::Refused("nothing was prepared".into())) };
        let on_to = |error: switch::Error| error.on(to);
        let there = numbers::there(&mut given_up.to, &scope).await.map_err(|error| on_to(error.into()))?;
        sequences::advance(&mut given_up.to, &sequences::plan(&here, &there)).await.map_err(on_to)?;
        sequences::leap(&mut given_up.to, &there, &sequences::met(&here, &there)).await.map_err(on_to)?;
        let calm = triggers::may_be_replica(&mut given_up.to).await.map_err(|error| on_to(error.into()))?;
        self.touched = true;
        if triggers::wake(&mut given_up.to, calm, &[], given_up.bounds).await.map_err(on_to)? > 0 {
            given_up.catalog = load(&mut given_up.to).await.map_err(|error| on_to(error.into()))?;
        }
        let end = self.journal.appended();
        self.mirror.ready(to, end).await.map_err(|error| Error::Refused(error.to_string()))
    }

    // ---- clients are held

    /// Whoever did something since it was looked at, that could pin it to its server, is looked at again.
    async fn look_again(&self, to: Side) -> Result<(), Error> {
        let sessions = &self.shared.sessions;
        let doubtful: Vec<_> = sessions.all().into_iter().filter(|card| card.is_doubtful()).collect();
        let mut looked = 0;
        if !doubtful.is_empty() {
            let called = sessions.call_only(Call::Look(to), &doubtful);
            looked = called.number;
            let heard = |moving: &Moving| !moving.is_unheard() || moving.has_answered(called.number);
            sessions.wait(doubtful, |moving| moving.was_looked_at(called.number) && heard(moving)).await;
        }
        if self.cutover.immovable == Immovable::Close {
            return Ok(());
        }
        let all = sessions.all();
        let refusal = |card: &Arc<Card>| card.moving().refusal(looked).map(str::to_owned);
        if let Some((card, why)) = all.iter().find_map(|card| Some((card, refusal(card)?))) {
            return Err(Error::Refused(format!("{} is not ready: {why}", card.told())));
        }
        match all.iter().find(|card| !card.stays && !card.pins().is_empty()) {
            None => Ok(()),
            Some(card) => Err(Error::Refused(format!("{} cannot be moved: {}", card.told(), card.pins().join(", ")))),
        }
    }

    fn ahead(&mut self) -> Result<&mut Ahead, Error> {
        self.ahead.as_mut().ok_or_else(|| Error::Refused("nothing was prepared".into()))
    }

    /// The sides' triggers, where the mirror cannot keep them quiet by itself.
    async fn trade_triggers(&mut self, to: Side) -> Result<(), Error> {
        let from = to.other();
        let ahead = self.ahead()?;
        let (bounds, rights) = (ahead.bounds, ahead.triggers);
        let on_to = |error: switch::Error| error.on(to);
        self.touched |= rights.asleep || !rights.calm_to;
        let ahead = self.ahead()?;
        if rights.asleep || !rights.calm_to {
            let others = triggers::read(&mut ahead.from).await;
            let others = others.map_err(|error| switch::Error::from(error).on(from))?;
            if triggers::wake(&mut ahead.to, rights.calm_to, &others, bounds).await.map_err(on_to)? > 0 {
                // What they write is counted from now on.
                ahead.catalog = load(&mut ahead.to).await.map_err(|error| on_to(error.into()))?;
            }
        }
        if !rights.calm_from {
            let conn = self.connect(from, bounds).await?;
            self.silenced = Some(triggers::hold_still(conn, bounds).await.map_err(|error| error.on(from))?);
        }
        Ok(())
    }

    /// The mirror may write to the old primary: nothing there acts on what it writes.
    async fn silence(&mut self, old: Side) -> Result<(), Error> {
        if let Some(held) = self.silenced.take() {
            held.commit().await.map_err(|error| error.on(old))?;
            self.quiet = true;
            return Ok(());
        }
        let bounds = Bounds::default();
        let mut conn = self.connect(old, bounds).await?;
        switch::alone(&mut conn).await.map_err(|error| error.on(old))?;
        let replica = triggers::may_be_replica(&mut conn).await;
        if !replica.map_err(|error| switch::Error::from(error).on(old))? {
            triggers::still(&mut conn, bounds).await.map_err(|error| error.on(old))?;
        }
        self.quiet = true;
        Ok(())
    }

    /// The mirror goes on as usual, if it may.
    fn resume(&self) {
        if self.quiet {
            self.mirror.handle().resume();
        }
    }

    // ---- afterwards

    /// The mirror may write to the secondary again, whose triggers the walk may have woken. Of the primary's it has changed none: what
    /// silenced them was never committed. So nothing is asked of it: it may be why the walk ended, and gone for good. `false`: some
    /// fire that are not ours to silence, as they did before the walk.
    async fn silence_again(&self, secondary: Side) -> Result<bool, Error> {
        let mut conn = self.connect(secondary, Bounds::default()).await?;
        let on = |error: ClientError| switch::Error::from(error).on(secondary);
        switch::alone(&mut conn).await.map_err(|error| error.on(secondary))?;
        if triggers::may_be_replica(&mut conn).await.map_err(on)? {
            return Ok(true);
        }
        let firing = triggers::still_again(&mut conn, Bounds::default()).await.map_err(|error| error.on(secondary))?;
        for trigger in &firing {
            tracing::warn!(%secondary, %trigger, "it fires on what is mirrored: its table is not tandem's role's to alter");
        }
        Ok(firing.is_empty())
    }

    /// The name of the journal, which tells one tandem from another.
    fn name(&self) -> u64 {
        self.journal.place().journal
    }

    /// The primary says whose it is: it may be one from before marks were made, or of a journal that was begun anew.
    async fn mark(&self, primary: Side) -> Result<(), Error> {
        let mut conn = self.connect(primary, Bounds::default()).await?;
        match mark::renew(&mut conn, self.name(), self.epoch).await {
            Err(ClientError::Db(error)) => {
                tracing::warn!(%primary, %error, "it cannot be marked as the primary: see that no other tandem mirrors there");
                Ok(())
            }
            done => done.map_err(|error| switch::Error::from(error).on(primary)),
        }
    }

    /// The other side may be written by whichever tandem holds its lock.
    async fn unmark(&self, secondary: Side) -> Result<(), Error> {
        let mut conn = self.connect(secondary, Bounds::default()).await?;
        switch::alone(&mut conn).await.map_err(|error| error.on(secondary))?;
        let cleared = mark::clear(&mut conn, self.name()).await;
        cleared.map_err(|error| switch::Error::from(error).on(secondary))
    }

    /// What an old primary is after a switch: closed to others, as far as configured.
    async fn bar(&self, old: Side) -> Result<(), Error> {
        if self.cutover.old_primary == OldPrimary::Watch {
            return Ok(());
        }
        let mut conn = self.connect(old, Bounds::default()).await?;
        switch::alone(&mut conn).await.map_err(|error| error.on(old))?;
        let standing = barrier::look(&mut conn).await.map_err(|error| switch::Error::from(error).on(old))?;
        if !standing.is_up() && !standing.may_change {
            // It was a finding before, and a walk that waited for it would never end.
            tracing::warn!(%old, "it is not closed to writes of others: tandem's role does not own the database there");
            return Ok(());
        }
        barrier::raise(&mut conn).await.map_err(|error| error.on(old))?;
        let ours = &self.shared.backends(old) | &self.leaving;
        for session in barrier::passed(&mut conn, &ours).await.map_err(|error| error.on(old))? {
            tracing::warn!(%old, %session, "this session began before the old primary was closed to writes, and may write");
        }
        Ok(())
    }
}

impl Steps for Walk {
    async fn prepare(&mut self, to: Side, max_hold: Duration) -> Vec<Finding> {
        match self.look(to, max_hold).await {
            Ok(found) => found,
            Err(error) => vec![Finding { rule: mirror::SIDE_FAILED, side: None, object: error.to_string() }],
        }
    }

    async fn give_up(&mut self, to: Side, force: &Force) -> Vec<Finding> {
        let found = match self.look_without(to, force.lose).await {
            Ok(found) => found,
            Err(error) => return vec![Finding { rule: mirror::SIDE_FAILED, side: None, object: error.to_string() }],
        };
        if force.goes_on(&found) {
            // Which oids the old primary gave to types nobody can ask any more.
            self.shared.sessions.types_differ.store(true, Ordering::Relaxed);
            self.shared.sessions.call(Call::GiveUp(to));
        }
        found
    }

    async fn relax(&mut self) {
        self.shared.sessions.call(Call::Rest);
        (self.ahead, self.given_up) = (None, None);
        self.mirror.close_ahead();
        self.resume();
        if let Some(secondary) = self.mirror.primary().map(Side::other)
            && self.epoch > 1
            && let Err(error) = self.bar(secondary).await
        {
            tracing::warn!(%error, "the secondary could not be closed to writes again");
        }
    }

    async fn quiesce(&mut self, from: Side) -> Result<(), Error> {
        if self.given_up.is_some() {
            return Ok(());
        }
        let ours = self.shared.backends(from);
        let terminate = self.cutover.strangers == Strangers::Terminate;
        let patience = strangers::Patience { terminate_after: terminate.then_some(GRACE), ..Default::default() };
        self.mirror.handle().hurry();
        self.look_again(from.other()).await?;
        let ahead = self.ahead()?;
        strangers::quiesce(&mut ahead.from, &ours, patience).await.map_err(|error| error.on(from))
    }

    async fn hindrances(&mut self, from: Side) -> Vec<String> {
        if self.given_up.is_some() {
            return Vec::new();
        }
        let undecided = self.mirror.handle().status().undecided;
        let asked = async {
            let mut conn = self.connect(from, Bounds::default()).await.ok()?;
            strangers::hindrances(&mut conn, &self.shared.repeating.on(from), &undecided).await.ok()
        };
        asked.await.unwrap_or_default()
    }

    async fn apply(&mut self) -> Result<Lsn, Error> {
        if self.given_up.is_some() {
            return self.lose().await;
        }
        let handle = self.mirror.handle();
        for table in self.copied_held(&self.shared.catalog.now()) {
            handle.repair(table).map_err(|error| Error::Refused(error.to_string()))?;
        }
        let end = self.journal.appended();
        handle.hurry();
        handle.settle(end).await.map_err(|error| Error::Refused(error.to_string()))?;
        let catalog = self.shared.catalog.now();
        let ahead = self.ahead.as_ref().ok_or_else(|| Error::Refused("nothing was prepared".into()))?;
        ahead.known.still_holds(handle, |table| name_of(&catalog, table))?;
        Ok(end)
    }

    async fn verify(&mut self) -> Result<Compared, Error> {
        if self.given_up.is_some() {
            return Ok(Compared::default());
        }
        let keys = self.mirror.handle().newest(NEWEST).await;
        let keys = keys.map_err(|error| Error::Refused(error.to_string()))?;
        let catalog = self.shared.catalog.now();
        let scope = self.scope();
        let is_ours = |table| !catalog.relation(table).is_some_and(|of| scope.excludes_table(&catalog, of));
        let keys: BTreeSet<_> = keys.into_iter().filter(|(table, _)| is_ours(*table)).collect();
        let ahead = self.ahead()?;
        let dirty = ahead.known.dirty.clone();
        let keys = keys.iter().filter(|(table, _)| !dirty.contains(table)).map(|(table, key)| (*table, &key[..]));
        let outcome = ahead.comparison.compare(&mut ahead.from, &mut ahead.to, keys).await?;
        if !outcome.tables.is_empty() {
            return Err(Error::Refused(format!("rows written last differ in {}", outcome.tables.join(", "))));
        }
        Ok(outcome.compared)
    }

    async fn ready(&mut self, to: Side) -> Result<(), Error> {
        if self.given_up.is_some() {
            return self.ready_without(to).await;
        }
        let (from, journal, epoch) = (to.other(), self.name(), self.epoch + 1);
        self.marked = true;
        mark::set(&mut self.ahead()?.to, journal, epoch).await.map_err(|error| error.on(to))?;
        self.mirror.stop().await;
        // A schema change whose catalog nobody has read yet has no epoch, and the secondary has it by now.
        let is_stale = self.shared.catalog.is_stale();
        let (epoch, scope) = (self.shared.catalog.now().epoch, self.scope.from(from));
        let ahead = self.ahead()?;
        let (old, new) = tokio::join!(sequences::read(&mut ahead.from), sequences::read(&mut ahead.to));
        let old = old.map_err(|error| switch::Error::from(error).on(from))?;
        let mut new = new.map_err(|error| switch::Error::from(error).on(to))?;
        sequences::translate(&mut new, &scope);
        sequences::advance(&mut ahead.to, &sequences::plan(&old, &new)).await.map_err(|error| error.on(to))?;
        if ahead.epoch != Some(epoch) || is_stale {
            ahead.catalog = load(&mut ahead.to).await.map_err(|error| switch::Error::from(error).on(to))?;
        }
        self.trade_triggers(to).await?;
        // Who applied there before it was marked.
        let gone = timeout(APPLIERS_GONE, switch::unwritten(&mut self.ahead()?.to)).await;
        let gone = gone.map_err(|_| Error::Refused(format!("{to}: another applier holds tandem's locks there")))?;
        gone.map_err(|error| switch::Error::from(error).on(to))?;
        // It opens, and pays nothing before the flip: should the walk end here, the old primary goes on being written to.
        let end = self.journal.appended();
        self.mirror.ready(to, end).await.map_err(|error| Error::Refused(error.to_string()))?;
        mirror::runs(self.mirror.handle(), from).await
    }

    fn flip(&mut self, route: Route, since: Lsn) {
        (self.since, self.epoch, self.marked) = (since, route.epoch, false);
        self.leaving = self.shared.sessions.pids();
        // First: a catalog of the old primary that is being loaded now must not take the new one's place.
        self.followers.iter().for_each(CancellationToken::cancel);
        let schema = &self.shared.catalog;
        // Who waits at the gate logs in the moment it opens.
        if let Some(ahead) = self.ahead.take() {
            schema.found(route.primary, ahead.to.endpoint());
            schema.replace(ahead.catalog);
        }
        // The mirror back waits until the old primary is there again and has been told.
        let without = self.given_up.take();
        let waits = without.is_some();
        if let Some(GivenUp { to, catalog, .. }) = without {
            schema.found(route.primary, to.endpoint());
            schema.replace(catalog);
        }
        // It was read before the flip: what follows the new primary reads it again at once.
        schema.stale();
        self.follow(route.primary);
        self.mirror.flipped(route.primary);
        self.quiet = self.silenced.is_none() && !waits;
        self.resume();
    }

    async fn settle(&mut self, primary: Side) -> Result<(), Error> {
        // Whoever is idle moves now; the others do with their next unit.
        self.shared.sessions.call(Call::Move(primary));
        self.mirror.close_ahead();
        self.mark(primary).await?;
        self.silence(primary.other()).await?;
        self.resume();
        self.unmark(primary.other()).await?;
        self.bar(primary.other()).await
    }

    async fn undo(&mut self, primary: Side) -> Result<(), Error> {
        self.shared.sessions.call(Call::Rest);
        (self.ahead, self.silenced, self.given_up) = (None, None, None);
        self.mirror.close_ahead();
        let other = primary.other();
        if self.mirror.primary() != Some(primary) {
            // The mirror of the other direction has paid nothing, and must not begin to.
            self.mirror.handle().pause();
            self.mirror.stop().await;
            if self.touched {
                self.quiet |= self.silence_again(other).await?;
                self.touched = false;
            }
            self.mirror.start(primary, self.since).await.map_err(|error| Error::Refused(error.to_string()))?;
        }
        self.resume();
        if self.marked {
            // As long as the mark is there our own mirror alone gets the lock back.
            let _ = timeout(MIRROR_OPEN, mirror::opened(self.mirror.handle())).await;
            self.unmark(other).await?;
            self.marked = false;
        }
        if self.epoch > 1 {
            self.bar(other).await?;
        }
        Ok(())
    }
}

/// Neither PostgreSQL's nor tandem's.
fn is_theirs(table: &Relation) -> bool {
    table.oid >= FIRST_NORMAL_OID && table.schema != "tandem"
}

/// What people call a table.
fn name_of(catalog: &Catalog, table: TableId) -> String {
    match catalog.relation(table) {
        Some(relation) => relation.sql(),
        None if table == TableId::NONE => TableId::NONE_SHOWN.to_owned(),
        None => format!("table {:016x}", table.0),
    }
}
