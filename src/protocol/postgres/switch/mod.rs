//! What a switch does on the two servers, PostgreSQL 14 to 18. `from` is the primary when the switch begins, `to` the
//! side that shall be it.
//!
//! In the order of a walk:
//!
//! | step | here |
//! | --- | --- |
//! | prepare | [`walked`] by others; [`barrier::lift`] on `to`, before any session connects there; [`findings::find`]; [`reverse::prove`]; [`connect`] to both sides for what follows; [`newest::Comparison::prepare`] |
//! | quiesce | [`strangers::quiesce`] on `from`; where it does not come to an end, [`strangers::hindrances`] say why |
//! | verify | [`newest::Comparison::compare`] |
//! | ready | [`mark::set`], [`sequences::advance`] and [`triggers::wake`] on `to`; [`triggers::hold_still`] on `from` |
//! | flip | [`triggers::Held::commit`], before the mirror back writes its first row |
//! | settle | [`triggers::still`] on `from`, where that commit was lost; [`mark::clear`] and [`barrier::raise`] on `from`; [`barrier::passed`] are those who write there all the same |
//! | undo | [`triggers::still_again`] on `to`, before the mirror writes again; [`mark::clear`] there, behind that; [`barrier::raise`] on `to` if it was up |
//!
//! Where the mirror's role may be `replica` ([`triggers::may_be_replica`]) no trigger is silenced; [`triggers::wake`] is
//! called all the same, for what was silenced while it might not. A catalog of `to` that was read before that does not
//! know that its triggers fire again.
//!
//! Everything is a function over a [`Client`] and may be done again: half of it done, all of it done, or undone by an
//! earlier process is the same to it. What must be remembered on a server is in the schema `tandem` there, written in the
//! transaction that makes it true.
//!
//! While clients are held every millisecond counts: what can be asked in one round trip is, and every statement has its
//! bound on the server ([`Bounds`]), so that nothing of ours waits there after we gave up. None of these futures is
//! cancel safe: drop the connection as well.

pub mod barrier;
mod facts;
pub mod findings;
pub mod mark;
pub mod newest;
pub mod reverse;
mod rules;
pub mod sequences;
pub mod strangers;
pub mod triggers;

pub use rules::RULES;
pub(super) use rules::{MAY_NOT_SET_SEQUENCE, TABLE_WITHOUT_KEY};

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cutover::steps;
use crate::record::Side;

use super::catalog::LoadError;
use super::client::{self, Client, DataRow, ServerConfig};
use super::copier;

/// What the servers call our connections, and behind a `/` whose they are.
pub const APPLICATION_NAME: &str = "tandem switch";

/// How long one statement of ours may take on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Waiting for a lock. Well inside the time that clients are held: an autovacuum that holds a table gives way to us
    /// only after the server's `deadlock_timeout` (1 s), and one against wraparound never.
    pub lock: Duration,
    /// All of it.
    pub statement: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { lock: Duration::from_millis(500), statement: Duration::from_secs(2) }
    }
}

/// Why a step was not done on a side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection, or the server refused.
    #[error("{0}")]
    Client(#[from] client::Error),
    /// Its catalog cannot be read.
    #[error("{0}")]
    Catalog(#[from] LoadError),
    /// It is not as it must be.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// The same for the controller, which wants to know where.
    pub fn on(self, side: Side) -> steps::Error {
        match self {
            Error::Refused(why) => steps::Error::Refused(format!("{side}: {why}")),
            other => steps::Error::Side { side, why: other.to_string() },
        }
    }
}

/// A connection for a switch: to the primary of the cluster, able to write there, with settings that do not depend on
/// the role's, and what it commits is durable. One round trip beside the login.
pub async fn connect(server: &ServerConfig, bounds: Bounds) -> Result<Client, client::Error> {
    let mut conn = Client::connect(&server.for_writing(APPLICATION_NAME)).await?;
    let (lock, statement) = (bounds.lock.as_millis().max(1), bounds.statement.as_millis().max(1));
    let settings = copier::SETTINGS;
    conn.simple(&format!(
        "{settings}; SET search_path = ''; SET synchronous_commit = on; SET idle_session_timeout = 0; \
         SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = {lock}; \
         SET statement_timeout = {statement}"
    ))
    .await?;
    Ok(conn)
}

/// Resolves when no earlier connection of this tandem's switches is at work in this database: what an earlier attempt, or a
/// process that died, had sent is over then. Such a connection ends with its statement ([`Bounds`]), for nobody listens any more;
/// only one whose machine or network vanished without a word stays, idle, until the server notices hours later. It is ended.
///
/// # Errors
/// One is still there after seconds.
pub async fn alone(conn: &mut Client) -> Result<(), Error> {
    // Later ones wait for ours: nobody waits for each other.
    let earlier = format!(
        "SELECT a.pid, CASE WHEN a.state = 'idle' AND a.state_change < pg_catalog.clock_timestamp() - interval '{VANISHED}' \
         THEN pg_catalog.pg_terminate_backend(a.pid) END \
         FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_stat_activity own WHERE own.pid = pg_catalog.pg_backend_pid() \
         AND a.usename = CURRENT_USER AND a.datname = own.datname AND a.application_name = own.application_name \
         AND (a.backend_start, a.pid) < (own.backend_start, own.pid)"
    );
    let began = Instant::now();
    while let Some(row) = conn.simple(&earlier).await?.first() {
        if began.elapsed() > ALONE {
            let pid: u32 = row.parse(0)?;
            return Err(Error::Refused(format!("process {pid}, of an earlier attempt at a switch, does not end")));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Another tandem is at a switch in this database: which, for people.
pub async fn walked(conn: &mut Client) -> Result<Option<String>, client::Error> {
    let others = format!(
        "SELECT a.pid, a.application_name FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_stat_activity own \
         WHERE own.pid = pg_catalog.pg_backend_pid() AND a.usename = CURRENT_USER AND a.datname = own.datname \
         AND pg_catalog.split_part(a.application_name, '/', 1) = '{APPLICATION_NAME}' \
         AND a.application_name <> own.application_name"
    );
    let rows = conn.simple(&others).await?;
    let told = |row: &DataRow| Ok(format!("process {} ({})", row.string(0)?, row.string(1)?));
    rows.first().map(told).transpose()
}

/// Resolves when no mirror holds a lock here any more: what it sent last is done, and whoever comes sees the [`mark`]. Not
/// cancel safe.
pub async fn unwritten(conn: &mut Client) -> Result<(), client::Error> {
    let (class, locks) =
        (copier::LOCK_CLASS, [copier::LOCK_APPLIER, copier::LOCK_WRITERS].map(|lock| lock.to_string()));
    let writers = format!(
        "SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database \
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {class} AND l.objid IN ({}) \
         AND d.datname = pg_catalog.current_database()",
        locks.join(", ")
    );
    while !conn.simple(&writers).await?.is_empty() {
        sleep(POLL).await;
    }
    Ok(())
}

/// How long earlier connections are waited for: more than any statement of a switch may take.
const ALONE: Duration = Duration::from_secs(40);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// Idle for so long, and nobody hung up: the server would have read what was sent, or the end.
const VANISHED: &str = "1 second";

/// The schema of what must be remembered, made where it is missing. `IF NOT EXISTS` asks for the right to make it even
/// where it is there.
const SCHEMA: &str =
    "DO 'BEGIN IF pg_catalog.to_regnamespace(''tandem'') IS NULL THEN CREATE SCHEMA tandem; END IF; END'";

/// Run statements as one transaction; the rows of all of them. Refused, nothing of it was done and the connection is ready again.
async fn together(conn: &mut Client, statements: &[String]) -> Result<Vec<DataRow>, client::Error> {
    let done = conn.simple(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await;
    if let Err(client::Error::Db(_)) = &done {
        conn.simple("ROLLBACK").await?;
    }
    done
}

/// A text constant of SQL, as `standard_conforming_strings` reads it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An element of an array in its text form.
fn array<T: std::fmt::Display>(elements: impl IntoIterator<Item = T>) -> String {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    format!("{{{}}}", elements.join(","))
}
