//! The mirror's hands on PostgreSQL: [`Copier`] over two connections of ours.
//!
//! Who encodes: sessions put canonical keys into records (see [`super::key`]), this reads them. A schema change
//! ([`Owed::ddl`]) is a varint length and the `search_path` it was made under, then its text.
//!
//! The lock on the secondary is taken before the primary is looked at (promise 5). S is a `REPEATABLE READ, READ ONLY`
//! transaction of the primary's connection and exists when [`Copier::snapshot`] returned. Where the target's role may
//! not set `session_replication_role`, foreign keys act there and payments take another order (see `closure`); user
//! triggers must then be off by name.

mod change;
mod check;
mod closure;
mod contact;
mod copy;
pub(super) mod debt;
mod empty;
mod hashes;
mod history;
mod isolation;
mod link;
mod locks;
mod pay;
mod piece;
mod provision;
mod renames;
mod repeat;
mod rows;
pub(super) mod schema;
mod steps;
mod trouble;
mod volatile;
mod whole;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backfill::work::{Stage, Surveyed};
use crate::backfill::{Desk, Request};
use crate::mirror::dirty::PREPARED;
use crate::mirror::state::copier::{Copier, Error, Gone, Owed, Paid, Snapshot, Standing, WHOLE_BYTES_MAX};
use crate::mirror::twins::Twins;
use crate::protocol::postgres::client::{Error as ClientError, Format, Param, ServerConfig};
use crate::protocol::postgres::scope::Scope;
use crate::protocol::postgres::switch::strangers::own;
use crate::record::Backend;

pub use link::{APPLICATION_NAME, LOCK_APPLIER, LOCK_CLASS, LOCK_WRITERS};
use link::{Link, on_primary, on_secondary, unless};
pub(super) use link::{SETTINGS, STORE, STORE_IS_THERE};
use renames::Renames;
use trouble::Trouble;

/// How to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most keys in one statement: 1 000 to 10 000; more buys nothing.
    pub batch_keys: usize,
    /// Most rows of a table that a payment finds refused one by one, each in two or three round trips while all other
    /// tables wait: the table is refused whole beyond, as it would be when more are parked than may be.
    pub refused_max: usize,
    /// Tables of which all rows are owed are paid whole up to this size on the primary, in bytes, if they can be walked over.
    pub whole_bytes_max: u64,
    /// The secondary ends a session that is silent for 30 s, and with it the lock: every `gone`, `release`, `beat`
    /// and empty `pay` after this much silence says something to it.
    pub heartbeat: Duration,
    /// Both servers end a transaction of ours that is silent for this long; whole milliseconds. A payment shows thrice
    /// as often that it is alive, so only an applier that hangs is hit.
    pub silence_max: Duration,
    /// A side that has not moved for so long, nor answered a new connection, is given up: a snapshot that waits for it would keep
    /// the primary's VACUUM from its work, and another host may be the primary by now. One that answers may take as long as it
    /// wants.
    pub hang_max: Duration,
    /// Which tables are paid, and as what.
    pub scope: Scope,
}

impl Options {
    fn pulse(&self) -> Duration {
        self.silence_max / 3
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            batch_keys: 10_000,
            refused_max: 10_000,
            whole_bytes_max: WHOLE_BYTES_MAX,
            heartbeat: Duration::from_secs(5),
            silence_max: Duration::from_secs(10),
            hang_max: Duration::from_secs(30),
            scope: Scope::default(),
        }
    }
}

/// Transactions of this database, tandem's own left out, that may write: one that only reads is not told apart before it ends.
/// By their locks, which every role may see; one that is prepared goes by its name.
const UNDER_WAY: &str = "SELECT l.virtualtransaction FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid() \
    AND a.usesysid IS NOT NULL AND a.datname = pg_catalog.current_database() \
    AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker', 'walsender') \
    AND NOT (a.usename = CURRENT_USER AND pg_catalog.split_part(a.application_name, '/', 1) IN ({OWN})) \
    UNION ALL SELECT '{PREPARED}' || gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()";

/// Copies owed rows from one PostgreSQL to another.
pub struct PgCopier {
    primary: ServerConfig,
    secondary: ServerConfig,
    options: Options,
    link: Option<Link>,
    /// What the last link knew of them.
    renames: Renames,
    /// What is being built on the secondary, beside the mirror. A lock in name only: a future is no `Sync`.
    building: Mutex<Option<provision::Building>>,
}

impl PgCopier {
    /// Nothing is connected until [`Copier::open`].
    pub fn new(primary: ServerConfig, secondary: ServerConfig, options: Options) -> PgCopier {
        PgCopier { primary, secondary, options, link: None, renames: Renames::default(), building: Mutex::default() }
    }

    fn link(&mut self) -> Result<&mut Link, Error> {
        self.link.as_mut().ok_or_else(|| Error::Primary("not connected: open first".into()))
    }

    /// Resolves when a side hangs.
    fn hangs(&self) -> impl Future<Output = Error> + Send + use<> {
        let sides = self.link.as_ref().map(|link| link::hangs(&link.primary, &link.secondary, self.options.hang_max));
        async move {
            match sides {
                Some(sides) => sides.await,
                None => std::future::pending().await,
            }
        }
    }

    /// After an error that leaves a connection in no known state, only an open helps.
    fn lose<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.unlink();
        }
        result
    }

    fn unlink(&mut self) {
        if let Some(link) = self.link.take() {
            self.renames = link.renames;
        }
    }

    async fn ask_gone(&mut self, backends: &[Backend], prepared: &[Box<[u8]>]) -> Result<Gone, Error> {
        let logins = self.primary.logins.clone();
        let link = self.link()?;
        link.heartbeat().await?;
        let mut gone = Gone::default();
        if !backends.is_empty() {
            let alive = link.alive(backends).await?;
            let (logins, endpoint) = (logins.as_ref(), link.primary.endpoint());
            let succeeded = |backend: &Backend| logins.is_some_and(|logins| logins.is_over(endpoint, *backend));
            let over = |backend: &&Backend| !alive.contains(&backend.id) || succeeded(backend);
            gone.backends = backends.iter().filter(over).copied().collect();
        }
        if !prepared.is_empty() {
            // Read after the backends: who prepared and left is listed, who is listed no more has ended.
            let open = link.prepared().await?;
            gone.prepared = prepared.iter().filter(|gid| !open.contains(*gid)).cloned().collect();
        }
        Ok(gone)
    }

    /// After a snapshot whose schema did not hold the connections are as good as before.
    fn lose_unless_stale<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Err(Error::Stale(_) | Error::Waits(_))) { result } else { self.lose(result) }
    }

    async fn pay_at_snapshot(&mut self, owed: &Owed, keep: bool) -> Result<Paid, Error> {
        let options = self.options.clone();
        let link = self.link()?;
        if owed.is_nothing() {
            if keep {
                link.heartbeat().await?;
            } else {
                link.end_snapshot_and_beat().await?;
            }
            return Ok(Paid { payments: link.payments, ..Paid::default() });
        }
        link.used = Instant::now();
        let trouble = match pay::pay(link, owed, &options).await {
            Ok(paid) => {
                link.used = Instant::now();
                if !keep {
                    link.end_snapshot().await?;
                }
                return Ok(paid);
            }
            Err(trouble) => trouble,
        };
        match &trouble {
            Trouble::Unreadable(table, _) if !link.poisoned.contains_key(table) && link.doubtful.insert(*table) => (),
            // Every row is owed already, or it is not the keys.
            Trouble::Unfit(table, _) if link.unfit.insert(*table) => (),
            Trouble::Locked(at, tables, _) => link.locks.met(*at, tables),
            Trouble::Unreadable(table, why) | Trouble::Unfit(table, why) => {
                link.poison(*table, why.clone());
            }
            _ => (),
        }
        Err(link.give_up(trouble).await?)
    }
}

impl Link {
    /// S is over, if the connections are still good; what the engine is told.
    async fn give_up(&mut self, trouble: Trouble) -> Result<Error, Error> {
        let (error, alive) = trouble.told(&self.schema);
        if alive {
            self.roll_back().await?;
        }
        Ok(error)
    }

    /// A payment was made: what was known before it, it confirmed.
    fn paid(&mut self, payments: u64) {
        self.payments = payments;
        self.schema_stale = false;
        self.doubtful.clear();
        self.locks.paid();
        self.unfit.clear();
    }

    async fn heartbeat(&mut self) -> Result<(), Error> {
        self.history.rest(self.options.heartbeat);
        if self.used.elapsed() >= self.options.heartbeat {
            self.used = Instant::now();
            self.secondary.simple("SELECT 1").await.map_err(on_secondary)?;
        }
        Ok(())
    }

    /// S is open and nobody asks the primary anything.
    async fn hold(&mut self) -> Result<(), Error> {
        if self.at_snapshot && self.held.elapsed() >= self.options.pulse() {
            self.held = Instant::now();
            self.primary.simple("SELECT 1").await.map_err(on_primary)?;
        }
        Ok(())
    }

    // Outside any transaction: inside one, pg_stat_activity is frozen. What a process is some roles may not see; whose database it is
    // in, and that it is of no role, all do.
    async fn alive(&mut self, backends: &[Backend]) -> Result<HashSet<u32>, Error> {
        let pids: Vec<String> = backends.iter().map(|backend| backend.id.to_string()).collect();
        let pids = format!("{{{}}}", pids.join(","));
        let sql = "SELECT pid FROM pg_catalog.pg_stat_activity WHERE pid = ANY ($1::pg_catalog.int8[]) \
            AND usesysid IS NOT NULL AND datname = pg_catalog.current_database() \
            AND coalesce(backend_type, 'client backend') = 'client backend'";
        let rows = self.primary.query(sql, &[Param::text(&pids)], Format::Text).await.map_err(on_primary)?;
        rows.iter().map(|row| row.parse(0).map_err(on_primary)).collect()
    }

    async fn under_way(&mut self) -> Result<BTreeSet<String>, Error> {
        self.heartbeat().await?;
        let rows = self
            .primary
            .simple(&UNDER_WAY.replace("{OWN}", &own()).replace("{PREPARED}", PREPARED))
            .await
            .map_err(on_primary)?;
        rows.iter().map(|row| row.string(0).map_err(on_primary)).collect()
    }

    async fn prepared(&mut self) -> Result<HashSet<Box<[u8]>>, Error> {
        let rows = self.primary.simple("SELECT gid FROM pg_catalog.pg_prepared_xacts").await.map_err(on_primary)?;
        rows.iter().map(|row| Ok(row.get(0).map_err(on_primary)?.unwrap_or_default().into())).collect()
    }

    async fn begin_snapshot(&mut self) -> Result<Snapshot, Error> {
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
            SELECT pg_catalog.pg_current_wal_insert_lsn() - '0/0', pg_catalog.pg_current_wal_flush_lsn() - '0/0'; ";
        let rows = self.primary.simple(&format!("{sql}{}", check::SAVEPOINT)).await.map_err(on_primary)?;
        self.at_snapshot = true;
        self.exported = None;
        self.held = Instant::now();
        let row = rows.first().ok_or_else(|| Error::Primary("the snapshot's query has no answer".into()))?;
        Ok(Snapshot { written: row.parse(0).map_err(on_primary)?, flushed: row.parse(1).map_err(on_primary)? })
    }

    /// Nobody but us writes to the secondary: until the next payment its newest state is S.
    async fn lend(&mut self, twins: &Twins, hold: Duration) -> Result<(), Error> {
        let primary = self.export().await.map_err(on_primary)?;
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_catalog.pg_export_snapshot()";
        let rows = self.secondary.simple(sql).await.map_err(on_secondary)?;
        let secondary = rows.first().ok_or_else(|| Error::Secondary("a snapshot has no name".into()))?;
        let secondary = secondary.string(0).map_err(on_secondary)?;
        twins.lend(&primary, &secondary, hold).await;
        self.secondary.simple("COMMIT").await.map_err(on_secondary)?;
        Ok(())
    }

    /// The name of S. Not from inside a savepoint, and S has one until it is exported.
    async fn export(&mut self) -> Result<String, ClientError> {
        if let Some(name) = &self.exported {
            return Ok(name.clone());
        }
        let rows = self.primary.simple("RELEASE tandem_read; SELECT pg_catalog.pg_export_snapshot()").await?;
        let name = rows.first().ok_or(ClientError::Value(0))?.string(0)?;
        self.exported = Some(name.clone());
        Ok(name)
    }

    async fn end_snapshot(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.at_snapshot) {
            // Nothing depends on the answer: it is read with the next one.
            self.primary.put_unwaited("COMMIT");
            self.primary.send().await.map_err(on_primary)?;
        }
        Ok(())
    }

    async fn end_snapshot_and_beat(&mut self) -> Result<(), Error> {
        self.end_snapshot().await?;
        if self.repeated.take().is_some() {
            self.secondary.simple("ROLLBACK").await.map_err(on_secondary)?;
        }
        self.heartbeat().await
    }

    /// Undo both sides after a payment that ended early, and read the catalogs anew.
    async fn roll_back(&mut self) -> Result<(), Error> {
        self.at_snapshot = false;
        self.schema_stale = true;
        self.repeated = None;
        // Answers that nobody read would be taken for those of the next statement: read them all.
        self.primary.drain().await.map_err(on_primary)?;
        self.secondary.drain().await.map_err(on_secondary)?;
        self.primary.simple("ROLLBACK").await.map_err(on_primary)?;
        self.secondary.simple("ROLLBACK").await.map_err(on_secondary)?;
        Ok(())
    }
}

impl Copier for PgCopier {
    async fn open(&mut self) -> Result<Standing, Error> {
        self.unlink();
        let (mut link, standing) = link::open(&self.primary, &self.secondary, &self.options).await?;
        link.renames = std::mem::take(&mut self.renames);
        self.link = Some(link);
        Ok(standing)
    }

    async fn gone<'a>(&'a mut self, backends: &'a [Backend], prepared: &'a [Box<[u8]>]) -> Result<Gone, Error> {
        let gone = unless(self.hangs(), self.ask_gone(backends, prepared)).await;
        self.lose(gone)
    }

    async fn under_way(&mut self) -> Result<BTreeSet<String>, Error> {
        let under_way = unless(self.hangs(), async { self.link()?.under_way().await }).await;
        self.lose(under_way)
    }

    async fn prepare<'a>(&'a mut self, owed: &'a Owed) -> Result<(), Error> {
        let (options, hangs) = (self.options.clone(), self.hangs());
        let prepared = async {
            let link = self.link()?;
            link.used = Instant::now();
            let prepared = pay::repeat_before(link, owed, &options).await;
            link.used = Instant::now();
            match prepared {
                Ok(()) => Ok(()),
                Err(trouble) => Err(link.give_up(trouble).await?),
            }
        };
        let done = unless(hangs, prepared).await;
        self.lose_unless_stale(done)
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let snapshot = unless(self.hangs(), async { self.link()?.begin_snapshot().await }).await;
        self.lose(snapshot)
    }

    async fn pay<'a>(&'a mut self, owed: &'a Owed, keep: bool) -> Result<Paid, Error> {
        let done = unless(self.hangs(), self.pay_at_snapshot(owed, keep)).await;
        self.lose_unless_stale(done)
    }

    async fn provision<'a>(&'a mut self, request: &'a Request, stage: Stage) -> Result<Option<Vec<String>>, Error> {
        let hangs = self.hangs();
        let made = async {
            let building = self.building.get_mut().unwrap_or_else(PoisonError::into_inner);
            let link = self.link.as_mut().ok_or_else(|| Error::Primary("not connected: open first".into()))?;
            link.used = Instant::now();
            provision::provision(link, building, &self.secondary, (request, stage)).await
        };
        let made = unless(hangs, made).await;
        self.lose(made)
    }

    fn make_nothing(&mut self) {
        let building = self.building.get_mut().unwrap_or_else(PoisonError::into_inner);
        if building.take().is_some()
            && let Some(link) = &mut self.link
        {
            link.schema_stale = true;
        }
    }

    async fn survey(&mut self) -> Result<Vec<Surveyed>, Error> {
        let hangs = self.hangs();
        let surveyed = async {
            let link = self.link()?;
            link.used = Instant::now();
            match history::survey(link).await {
                Ok(found) => Ok(found),
                Err(trouble) => Err(link.give_up(trouble).await?),
            }
        };
        let done = unless(hangs, surveyed).await;
        self.lose_unless_stale(done)
    }

    async fn walk<'a>(&'a mut self, desk: &'a Desk) -> Result<u64, Error> {
        let servers = (self.primary.clone(), self.secondary.clone());
        let hangs = self.hangs();
        let walked = async {
            let link = self.link()?;
            let walked = history::walk(link, desk, (&servers.0, &servers.1)).await;
            link.used = Instant::now();
            match walked {
                Ok(()) => {
                    link.end_snapshot().await?;
                    link.payments = history::count(&mut link.secondary, desk).await?;
                    Ok(link.payments)
                }
                Err(trouble) => Err(link.give_up(trouble).await?),
            }
        };
        let done = unless(hangs, walked).await;
        self.lose_unless_stale(done)
    }

    async fn moot<'a>(&'a mut self, changes: &'a [Box<[u8]>]) -> Result<Vec<bool>, Error> {
        let asked = unless(self.hangs(), async { change::moot(self.link()?, changes).await }).await;
        self.lose(asked)
    }

    async fn lend<'a>(&'a mut self, twins: &'a Twins, hold: Duration) -> Result<(), Error> {
        let hangs = self.hangs();
        let lent = async {
            let link = self.link()?;
            link.used = Instant::now();
            link.lend(twins, hold).await
        };
        let lent = unless(hangs, lent).await;
        self.lose(lent)
    }

    async fn beat(&mut self) -> Result<(), Error> {
        let hangs = self.hangs();
        let beaten = async {
            let link = self.link()?;
            link.hold().await?;
            link.heartbeat().await
        };
        let beaten = unless(hangs, beaten).await;
        self.lose(beaten)
    }

    async fn release(&mut self) -> Result<(), Error> {
        let released = unless(self.hangs(), async { self.link()?.end_snapshot_and_beat().await }).await;
        self.lose(released)
    }
}
