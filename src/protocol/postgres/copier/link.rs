//! Opening both sides: settings, the applier's locks, the payment counter, the primary's life.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::journal::{Lsn, Place};
use crate::mirror::state::copier::{Error, Standing};
use crate::protocol::postgres::client::{self, Client, ServerConfig, Watch};
use crate::protocol::postgres::identity;
use crate::protocol::postgres::logins::Logins;
use crate::protocol::postgres::switch::mark;
use crate::record::TableId;

use super::Options;
use super::contact::Contacts;
use super::history::History;
use super::locks::Locks;
use super::pay::Repeated;
use super::renames::Renames;
use super::schema::{Schema, operator_schemas};
use super::volatile;

/// First half of our advisory locks: `tand` in ASCII.
pub const LOCK_CLASS: i32 = 0x7461_6e64;
/// Held exclusively by the one applier, for as long as it lives.
pub const LOCK_APPLIER: i32 = 1;
/// Held shared by every connection that writes to the secondary. A new applier takes it exclusively once: then every
/// statement of an older applier is over, on whatever connection it ran.
pub const LOCK_WRITERS: i32 = 2;

/// What the servers call our connections.
pub const APPLICATION_NAME: &str = "tandem mirror";

/// Why a table is left out.
#[derive(Clone)]
pub(super) struct Poison {
    pub(super) why: String,
    /// When that was found.
    since: Instant,
    /// It is not tried again before so long.
    pause: Duration,
}

/// How long a table that could not be read is not tried again: at first, and at most. A try that fails costs everybody a
/// snapshot.
const POISONED: Duration = Duration::from_secs(10);
const POISONED_MAX: Duration = Duration::from_secs(600);

impl Poison {
    /// The table is left out, unless it is time to try; `asked`: somebody wants all of it.
    pub(super) fn holds(&self, asked: bool) -> bool {
        self.since.elapsed() < if asked { POISONED } else { self.pause }
    }
}

/// Both connections, and what was learned through them.
pub(super) struct Link {
    pub(super) primary: Client,
    pub(super) secondary: Client,
    pub(super) schema: Schema,
    /// The catalogs must be read again before the next payment.
    pub(super) schema_stale: bool,
    /// `session_replication_role = replica` is ours: no foreign key, trigger or rule acts on the secondary.
    pub(super) replica: bool,
    pub(super) search_path: String,
    pub(super) payments: u64,
    /// The secondary can be told where the journal is.
    pub(super) keeps_place: bool,
    /// S exists.
    pub(super) at_snapshot: bool,
    /// The secondary is inside the transaction of the next payment, whose schema changes are repeated.
    pub(super) repeated: Option<Repeated>,
    /// The name under which S is exported.
    pub(super) exported: Option<String>,
    /// Tables that the primary would not let us read, and why: left out when they are owed, until it is time to try. One that was
    /// paid since is none of them.
    pub(super) poisoned: HashMap<TableId, Poison>,
    /// Tables that the primary refused to read once: a schema change under way may be why, and not the table.
    pub(super) doubtful: HashSet<TableId>,
    /// Tables with keys that one side could not read: the next payment owes all their rows.
    pub(super) unfit: HashSet<TableId>,
    pub(super) locks: Locks,
    pub(super) used: Instant,
    /// When the primary heard of us last inside S, but for payments.
    pub(super) held: Instant,
    pub(super) options: Options,
    pub(super) history: History,
    pub(super) contacts: Contacts,
    pub(super) renames: Renames,
}

impl Link {
    /// The table could not be read, and is not to be tried now.
    pub(super) fn is_poisoned(&self, table: TableId) -> bool {
        self.poisoned.get(&table).is_some_and(|poison| poison.holds(false))
    }

    /// The table could not be read, once more.
    pub(super) fn poison(&mut self, table: TableId, why: String) {
        let twice = |earlier: &Poison| (earlier.pause * 2).min(POISONED_MAX);
        let pause = self.poisoned.get(&table).map_or(POISONED, twice);
        self.poisoned.insert(table, Poison { why, since: Instant::now(), pause });
    }

    /// The search path of both connections, as SET takes it.
    pub(super) fn path(&self) -> String {
        path(&self.search_path).to_owned()
    }
}

fn path(search_path: &str) -> &str {
    if search_path.is_empty() { "''" } else { search_path }
}

/// Resolves when a side hangs.
pub(super) fn hangs(
    primary: &Client,
    secondary: &Client,
    bound: Duration,
) -> impl Future<Output = Error> + Send + use<> {
    let (primary, secondary) = (Watch::new(primary, bound), Watch::new(secondary, bound));
    async move {
        tokio::select! {
            error = primary.hangs() => on_primary(error),
            error = secondary.hangs() => on_secondary(error),
        }
    }
}

/// Do the work, unless the server that it asks hangs: given up, its connections are in no known state.
pub(super) async fn unless<T>(
    hangs: impl Future<Output = Error>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = work => done,
        error = hangs => Err(error),
    }
}

/// Run `work` on one connection and show the other one, silent inside its transaction, every `pulse` that we are
/// alive. If that fails its next use will say so.
pub(super) async fn beside<T>(silent: &mut Client, pulse: Duration, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = async { sleep(pulse).await } => {
                silent.put_keepalive();
                let _ = silent.send().await;
            }
        }
    }
}

/// For both sides: text forms and plans that do not depend on a role's settings. Plans are made once for a table, and
/// for any number of keys.
pub(in crate::protocol::postgres) const SETTINGS: &str = "SET row_security = off; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
    SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET xmloption = 'content'; \
    SET lc_monetary = 'C'; SET standard_conforming_strings = on; SET jit = off; SET enable_seqscan = off; \
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET lock_timeout = '2s'; SET statement_timeout = 0; \
    SET max_parallel_workers_per_gather = 0; SET plan_cache_mode = force_generic_plan; SET client_min_messages = error";

/// For the secondary: a payment that was answered survives, and a silent applier loses its locks.
const SECONDARY_SETTINGS: &str = "SET synchronous_commit = on; SET idle_session_timeout = '30s'";

/// Neither side keeps a transaction of an applier that went silent.
pub(super) fn silence_max(options: &Options) -> String {
    format!("SET idle_in_transaction_session_timeout = {}", options.silence_max.as_millis())
}

/// Not every platform has them.
const WISHES: &[&str] = &[
    "SET client_connection_check_interval = '1s'",
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = '10s'",
];

/// `IF NOT EXISTS` asks for the right to make a schema even where it is there.
pub(in crate::protocol::postgres) const STORE: &str = "DO 'BEGIN IF pg_catalog.to_regnamespace(''tandem'') IS NULL THEN CREATE SCHEMA tandem; END IF; END'; \
    CREATE TABLE IF NOT EXISTS tandem.payment (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), \
    n bigint NOT NULL, owner_pid integer, owner_since timestamptz, journal bigint, journal_life bigint, journal_end bigint); INSERT INTO tandem.payment (n) VALUES (0) ON CONFLICT DO NOTHING; \
    CREATE TABLE IF NOT EXISTS tandem.contact (origin text, relation oid, strangers boolean NOT NULL, PRIMARY KEY (origin, relation))";

/// Versions before had a store without a place for where the journal was; who may not add it goes on without.
const KEEPS_PLACE: &str = "SELECT pg_catalog.count(*) = 3 FROM pg_catalog.pg_attribute WHERE NOT attisdropped \
    AND attrelid = pg_catalog.to_regclass('tandem.payment') AND attname IN ('journal', 'journal_life', 'journal_end')";
const ADD_PLACE: &str = "ALTER TABLE tandem.payment ADD COLUMN IF NOT EXISTS journal bigint, \
    ADD COLUMN IF NOT EXISTS journal_life bigint, ADD COLUMN IF NOT EXISTS journal_end bigint";

/// Whether nothing of [`STORE`] is missing.
pub(in crate::protocol::postgres) const STORE_IS_THERE: &str = "SELECT pg_catalog.to_regclass('tandem.payment') IS NOT NULL AND pg_catalog.to_regclass('tandem.contact') IS NOT NULL";

pub(super) async fn open(
    primary: &ServerConfig,
    secondary: &ServerConfig,
    options: &Options,
) -> Result<(Link, Standing), Error> {
    let mut conn = connect(secondary).await.map_err(on_secondary)?;
    let watch = Watch::new(&conn, options.hang_max);
    let entered = enter(&mut conn, secondary, options);
    let (replica, payments, keeps_place, place) = unless(async { on_secondary(watch.hangs().await) }, entered).await?;
    // From here on no older applier can write: only now may the primary be looked at.
    let mut from = connect(primary).await.map_err(on_primary)?;
    let sides = hangs(&from, &conn, options.hang_max);
    let learned = async {
        if identity::are_one(&mut from, &mut conn, LOCK_APPLIER).await.map_err(on_primary)? {
            return Err(Error::OneDatabase(identity::ONE_DATABASE));
        }
        from.simple(SETTINGS).await.map_err(on_primary)?;
        from.simple(&silence_max(options)).await.map_err(on_primary)?;
        // Between payments we keep nothing there.
        from.simple("SET idle_session_timeout = 0").await.map_err(on_primary)?;
        let Life { life, timeline, started } = life(&mut from).await.map_err(on_primary)?;
        let identity = identity::of(&mut from).await.map_err(on_primary)?;
        let volatile = volatile::of_primary(&mut from, &options.scope).await.map_err(on_primary)?;
        let behind = volatile::of_secondary(&mut conn, &options.scope).await.map_err(on_secondary)?;
        let mut schemas = operator_schemas(&mut from).await.map_err(on_primary)?;
        schemas.extend(operator_schemas(&mut conn).await.map_err(on_secondary)?);
        schemas.sort_unstable();
        schemas.dedup();
        let search_path = schemas.join(", ");
        let set = format!("SET search_path = {}", path(&search_path));
        from.simple(&set).await.map_err(on_primary)?;
        conn.simple(&set).await.map_err(on_secondary)?;
        let contacts = Contacts::load(&mut from, &mut conn).await?;
        Ok((Standing { life, timeline, identity, started, payments, place, volatile, behind }, search_path, contacts))
    };
    let (standing, search_path, contacts) = unless(sides, learned).await?;
    let link = Link {
        primary: from,
        secondary: conn,
        schema: Schema::new().within(options.scope.clone()),
        schema_stale: true,
        replica,
        search_path,
        payments,
        keeps_place,
        at_snapshot: false,
        repeated: None,
        exported: None,
        poisoned: HashMap::new(),
        doubtful: HashSet::new(),
        unfit: HashSet::new(),
        locks: Locks::default(),
        used: Instant::now(),
        held: Instant::now(),
        options: options.clone(),
        history: History::default(),
        contacts,
        renames: Renames::default(),
    };
    Ok((link, standing))
}

/// The locks on the secondary, and what it tells of payments.
async fn enter(
    conn: &mut Client,
    secondary: &ServerConfig,
    options: &Options,
) -> Result<(bool, u64, bool, Option<Place>), Error> {
    let replica = prepare_secondary(conn).await.map_err(on_secondary)?;
    conn.simple(&silence_max(options)).await.map_err(on_secondary)?;
    let journal = secondary.logins.as_ref().map(Logins::journal);
    // Who may not write takes no lock from those who may.
    not_of_others(conn, journal).await?;
    take_locks(conn).await?;
    // Whoever let go of the lock to switch to this side has marked it before.
    not_of_others(conn, journal).await?;
    let payments = counter(conn).await.map_err(on_secondary)?;
    let keeps_place = keeps_place(conn).await.map_err(on_secondary)?;
    let place = if keeps_place { place(conn).await.map_err(on_secondary)? } else { None };
    Ok((replica, payments, keeps_place, place))
}

/// The secondary may be an old primary that is read-only by default: the mirror writes there all the same.
pub(super) async fn connect(config: &ServerConfig) -> Result<Client, client::Error> {
    Client::connect(&config.for_writing(APPLICATION_NAME)).await
}

pub(super) async fn prepare_secondary(conn: &mut Client) -> Result<bool, client::Error> {
    conn.simple(SETTINGS).await?;
    conn.simple(SECONDARY_SETTINGS).await?;
    for wish in WISHES {
        allowed(conn, wish).await?;
    }
    // Since 15 it can be granted (GRANT SET ON PARAMETER); before that it takes a superuser or a provider's role.
    allowed(conn, "SET session_replication_role = replica").await
}

async fn allowed(conn: &mut Client, sql: &str) -> Result<bool, client::Error> {
    match conn.simple(sql).await {
        Ok(_) => Ok(true),
        Err(client::Error::Db(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn take_locks(conn: &mut Client) -> Result<(), Error> {
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {LOCK_APPLIER})");
    let rows = conn.simple(&sql).await.map_err(on_secondary)?;
    if rows.first().is_none_or(|row| !row.bool(0).unwrap_or(false)) {
        return Err(Error::Fenced(holder(conn).await));
    }
    let sql = format!(
        "SELECT pg_catalog.pg_advisory_lock({LOCK_CLASS}, {LOCK_WRITERS}); \
         SELECT pg_catalog.pg_advisory_lock_shared({LOCK_CLASS}, {LOCK_WRITERS}); \
         SELECT pg_catalog.pg_advisory_unlock({LOCK_CLASS}, {LOCK_WRITERS})"
    );
    match conn.simple(&sql).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some("55P03") => {
            Err(Error::Fenced("a writing connection of an older applier is still open".into()))
        }
        Err(error) => Err(on_secondary(error)),
    }
}

/// The secondary answers no clients of another tandem.
async fn not_of_others(conn: &mut Client, journal: Option<u64>) -> Result<(), Error> {
    match mark::other(conn, journal).await.map_err(on_secondary)? {
        Some(why) => Err(Error::Fenced(why)),
        None => Ok(()),
    }
}

async fn holder(conn: &mut Client) -> String {
    let sql = format!(
        "SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.client_addr::pg_catalog.text, 'local') \
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' \
         AND l.granted AND l.classid = {LOCK_CLASS} AND l.objid = {LOCK_APPLIER}"
    );
    let found = conn.simple(&sql).await.ok().and_then(|rows| rows.into_iter().next());
    let told = found.and_then(|row| {
        let (pid, name, from) = (row.string(0).ok()?, row.string(1).ok()?, row.string(2).ok()?);
        Some(format!("process {pid} ({name}) from {from}"))
    });
    let told = told.unwrap_or_else(|| "not visible to this role".into());
    format!("another applier holds the lock: {told}")
}

async fn counter(conn: &mut Client) -> Result<u64, client::Error> {
    let there = conn.simple(STORE_IS_THERE).await?;
    if !there.first().map(|row| row.bool(0)).transpose()?.unwrap_or(false) {
        conn.simple(STORE).await?;
    }
    let sql = "UPDATE tandem.payment SET owner_pid = pg_catalog.pg_backend_pid(), owner_since = pg_catalog.now() \
        RETURNING n";
    conn.simple(sql).await?.first().ok_or(client::Error::Value(0))?.parse(0)
}

async fn keeps_place(conn: &mut Client) -> Result<bool, client::Error> {
    let there = conn.simple(KEEPS_PLACE).await?;
    let there = there.first().ok_or(client::Error::Value(0))?.bool(0)?;
    if there { Ok(true) } else { allowed(conn, ADD_PLACE).await }
}

async fn place(conn: &mut Client) -> Result<Option<Place>, client::Error> {
    let rows = conn.simple("SELECT journal, journal_life, journal_end FROM tandem.payment").await?;
    let row = rows.first().ok_or(client::Error::Value(0))?;
    if row.text(0)?.is_none() {
        return Ok(None);
    }
    let number = |at| Ok::<u64, client::Error>(row.parse::<i64>(at)?.cast_unsigned());
    Ok(Some(Place { journal: number(0)?, life: number(1)?, reached: Lsn(number(2)?) }))
}

/// Hashes, as [`Standing`] has them.
pub(super) struct Life {
    pub(super) life: u64,
    timeline: u64,
    started: u64,
}

/// What names a life of the server (POSTGRES-CORNERS 5): a crash restart keeps the start time and resets statistics;
/// a failover changes the timeline; a restored copy has the same system id and another start. Statistics are reset by hand, too.
pub(super) async fn life(conn: &mut Client) -> Result<Life, client::Error> {
    let sql = "SELECT pg_catalog.concat_ws('/', s.system_identifier, \
        pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)), \
        pg_catalog.concat_ws('/', pg_catalog.pg_postmaster_start_time(), b.stats_reset), \
        pg_catalog.pg_postmaster_start_time() \
        FROM pg_catalog.pg_control_system() s, pg_catalog.pg_stat_bgwriter b";
    let rows = conn.simple(sql).await?;
    let row = rows.first().ok_or(client::Error::Value(0))?;
    let (timeline, start) = (row.string(0)?, row.string(1)?);
    // The label's hash serves as well; 0 means unknown.
    let life = TableId::of("life", &format!("{timeline}/{start}")).0.max(1);
    let started = TableId::of("started", &row.string(2)?).0.max(1);
    Ok(Life { life, timeline: TableId::of("timeline", &timeline).0, started })
}

pub(super) fn on_primary(error: client::Error) -> Error {
    Error::Primary(error.to_string())
}

pub(super) fn on_secondary(error: client::Error) -> Error {
    Error::Secondary(error.to_string())
}
