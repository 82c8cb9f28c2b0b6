//! Who else is at work on a server: orphaned backends of an earlier tandem, and clients that go past it.
//!
//! A statement that was forwarded may still run though nobody waits for it (POSTGRES-CORNERS 18), and a prepared
//! transaction outlives its session. Before the end of the journal is read, both must be over on the old primary
//! ([`quiesce`]). What is in the way is told with the shape of its statement, never with a value of it (promise 13).
//!
//! Without `pg_read_all_stats` the server hides what sessions of other roles do. That they are inside a transaction it
//! does not hide: each holds the lock of its own virtual transaction, and `pg_locks` is everybody's. So nothing is
//! missed then, only told with fewer words.
//!
//! `pg_stat_activity` stands still inside a transaction: every look is a statement of its own.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::protocol::postgres::client::{self, Client, DataRow, Error as ClientError, Format, Param};
use crate::protocol::postgres::lexer::{Dialect, Kind, Reading, Token, Tokens};
use crate::protocol::postgres::{copier, shadow};

use super::Error;

/// Longest shape that is told, in characters.
const SHAPE_MAX: usize = 200;

/// A session on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Of its process.
    pub pid: u32,
    /// The role.
    pub user: String,
    /// What the client calls itself.
    pub application: String,
    /// As `pg_stat_activity` has it; `None`: hidden from our role.
    pub state: Option<String>,
    /// Inside a transaction, or running a statement.
    pub open: bool,
    /// Since the transaction began.
    pub age: Option<Duration>,
    /// Of the last statement, without its literals.
    pub shape: Option<String>,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.pid, self.user)?;
        if !self.application.is_empty() {
            write!(f, " ({})", self.application)?;
        }
        match (&self.state, self.open) {
            (Some(state), _) => write!(f, ", {state}")?,
            (None, true) => write!(f, ", in a transaction")?,
            (None, false) => (),
        }
        if let Some(age) = self.age.filter(|_| self.open) {
            write!(f, " for {:.1} s", age.as_secs_f64())?;
        }
        match &self.shape {
            Some(shape) => write!(f, ": {shape}"),
            None => Ok(()),
        }
    }
}

/// A two-phase transaction that is neither committed nor rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub gid: String,
    /// The role.
    pub owner: String,
    /// Since it was prepared.
    pub age: Duration,
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prepared { gid, owner, age } = self;
        write!(f, "prepared transaction {gid:?} of {owner} for {:.1} s", age.as_secs_f64())
    }
}

/// Everything that is not over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Of sessions.
    pub sessions: Vec<Session>,
    /// Of nobody any more.
    pub prepared: Vec<Prepared>,
}

impl Open {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.prepared.is_empty()
    }

    /// A line for each, for people.
    pub fn lines(&self) -> Vec<String> {
        self.sessions.iter().map(Session::to_string).chain(self.prepared.iter().map(Prepared::to_string)).collect()
    }
}

/// Sessions of clients in this database, tandem's own connections left out. Workers act for somebody who is listed, and
/// vacuum changes no row.
const SESSIONS: &str = "SELECT * FROM (SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), a.state, \
      (1000 * EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start))::pg_catalog.int8, \
      CASE WHEN a.state IS NOT NULL THEN a.query END, \
      CASE WHEN a.state IS NULL OR a.state = 'disabled' THEN a.pid IN (SELECT l.pid FROM pg_catalog.pg_locks l \
        WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock') ELSE a.state NOT IN ('idle', 'starting') END AS open \
    FROM pg_catalog.pg_stat_activity a WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.usesysid IS NOT NULL \
    AND a.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
    AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker', 'walsender') \
    AND NOT (a.usename = CURRENT_USER AND pg_catalog.split_part(a.application_name, '/', 1) IN ({OWN}))) s";

/// Asked behind the sessions: who prepares in between is seen as one or the other.
const PREPARED: &str = "SELECT gid, owner, \
    (1000 * EXTRACT(epoch FROM pg_catalog.clock_timestamp() - prepared))::pg_catalog.int8 \
    FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared";

/// What tandem's own connections of its own role are called, but those of clients' sessions. Behind a `/` comes whose they are.
const OWN: &[&str] =
    &["tandem", "tandem check", copier::APPLICATION_NAME, shadow::link::APPLICATION_NAME, super::APPLICATION_NAME];

/// [`OWN`], as SQL has it.
pub(in crate::protocol::postgres) fn own() -> String {
    OWN.iter().map(|name| super::literal(name)).collect::<Vec<_>>().join(", ")
}

fn sessions_sql(which: &str) -> String {
    format!("{} {which} ORDER BY 5 DESC NULLS LAST, 1", SESSIONS.replace("{OWN}", &own()))
}

/// Other tandems at work in this database, by the names of their journals, and from where. They may have another role.
const TANDEMS: &str = "SELECT name, pg_catalog.min(host) FROM (SELECT pg_catalog.split_part(application_name, '/', 2) AS name, \
    pg_catalog.host(client_addr) AS host FROM pg_catalog.pg_stat_activity \
    WHERE datname = pg_catalog.current_database() AND application_name ~ '^tandem( mirror| switch)?/[0-9a-f]{16}$') s \
    WHERE name <> pg_catalog.split_part(pg_catalog.current_setting('application_name'), '/', 2) GROUP BY name ORDER BY name";

/// Other tandems that are connected here, for people.
pub async fn tandems(conn: &mut Client) -> Result<Vec<String>, ClientError> {
    let rows = conn.simple(TANDEMS).await?;
    let told = |row: &DataRow| {
        let from = row.text(1)?.map_or_else(String::new, |host| format!(", from {host}"));
        Ok(format!("journal {}{from}", row.string(0)?))
    };
    rows.iter().map(told).collect()
}

/// Every session of others, idle or not.
pub async fn all(conn: &mut Client, ours: &HashSet<u32>) -> Result<Vec<Session>, ClientError> {
    let rows = conn.simple(&sessions_sql("")).await?;
    strangers(&rows, ours)
}

fn strangers(rows: &[DataRow], ours: &HashSet<u32>) -> Result<Vec<Session>, ClientError> {
    let mut sessions = rows.iter().map(session).collect::<Result<Vec<_>, _>>()?;
    sessions.retain(|session| !ours.contains(&session.pid));
    Ok(sessions)
}

fn session(row: &DataRow) -> Result<Session, ClientError> {
    Ok(Session {
        pid: row.parse(0)?,
        user: row.string(1)?,
        application: row.string(2)?,
        state: row.text(3)?.map(str::to_owned),
        age: row.text(4)?.map(|_| row.parse(4)).transpose()?.map(milliseconds),
        shape: row.text(5)?.filter(|query| !query.is_empty()).map(shape),
        open: row.bool(6)?,
    })
}

fn milliseconds(count: i64) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(0))
}

/// What is not over on a server: sessions with an open transaction but those in `except`, and prepared transactions.
/// One round trip; the statements stay prepared for the next look.
pub async fn open(conn: &mut Client, except: &HashSet<u32>) -> Result<Open, ClientError> {
    for sql in [&sessions_sql("WHERE s.open"), PREPARED] {
        conn.put_prepared(sql, &[], Format::Text);
        conn.put_sync();
    }
    conn.send().await?;
    let sessions = conn.rows().await?;
    let prepared = conn.rows().await?;
    let prepared = prepared
        .iter()
        .map(|row| Ok(Prepared { gid: row.string(0)?, owner: row.string(1)?, age: milliseconds(row.parse(2)?) }));
    Ok(Open { sessions: strangers(&sessions, except)?, prepared: prepared.collect::<Result<_, ClientError>>()? })
}

/// How to wait for strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Pause between two looks.
    pub poll: Duration,
    /// Whoever is in the way for longer is terminated; `None`: nobody is.
    pub terminate_after: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { poll: Duration::from_millis(3), terminate_after: None }
    }
}

/// Wait until no transaction of a stranger is open, and none is prepared. `ours` are the process ids of tandem's own
/// connections and live sessions. Waits for as long as it takes: whoever holds clients has the limit, and asks
/// [`hindrances`] (on another connection, where this future was dropped).
///
/// # Errors
/// The server; or a stranger who may not be terminated.
pub async fn quiesce(conn: &mut Client, ours: &HashSet<u32>, patience: Patience) -> Result<(), Error> {
    let began = Instant::now();
    let mut told_to_end = HashSet::new();
    loop {
        let open = open(conn, ours).await?;
        if open.is_empty() {
            return Ok(());
        }
        if patience.terminate_after.is_some_and(|grace| began.elapsed() >= grace) {
            for session in &open.sessions {
                if told_to_end.insert(session.pid) {
                    terminate(conn, session).await?;
                }
            }
        }
        sleep(patience.poll).await;
    }
}

/// End a session. Its transaction is rolled back.
///
/// # Errors
/// [`Error::Refused`] where our role is neither its role nor a member of `pg_signal_backend`, or it is a superuser's.
pub async fn terminate(conn: &mut Client, session: &Session) -> Result<(), Error> {
    let pid = session.pid.to_string();
    let sql = "SELECT pg_catalog.pg_terminate_backend($1::pg_catalog.int4)";
    match conn.query(sql, &[Param::text(&pid)], Format::Text).await {
        Ok(_) => Ok(()),
        Err(client::Error::Db(error)) => Err(Error::Refused(format!("{session}: it cannot be terminated: {error}"))),
        Err(error) => Err(error.into()),
    }
}

/// What keeps a server from being quiet, for people: everything that is open but tandem's own connections, of which those
/// in `own` do not show it. Sessions of tandem's clients are among it, for they may be what the drain waits for. And what the
/// mirror waits for: the processes of `undecided` units, also where they seem to do nothing.
///
/// # Errors
/// The server.
pub async fn hindrances(conn: &mut Client, own: &HashSet<u32>, undecided: &[u32]) -> Result<Vec<String>, ClientError> {
    let open = open(conn, own).await?;
    let mut lines = open.lines();
    let is_told = |pid: &u32| open.sessions.iter().any(|session| session.pid == *pid);
    let untold: Vec<u32> = undecided.iter().filter(|pid| !is_told(pid)).copied().collect();
    if !untold.is_empty() {
        let all = all(conn, &HashSet::new()).await?;
        let shown = |pid: u32| {
            let session = all.iter().find(|session| session.pid == pid);
            session.map_or_else(|| format!("process {pid}"), Session::to_string)
        };
        let why = "writes of a process of this number have no outcome: the mirror waits for its end";
        lines.extend(untold.into_iter().map(|pid| format!("{}: {why}", shown(pid))));
    }
    Ok(lines)
}

/// A statement as people may see it: its words and names, `?` for every literal, cut where it becomes long. What cannot
/// be told from a value is cut as well: behind the first place where the session's `standard_conforming_strings`
/// matters, behind the name of a setting (`SET app.token = abc` needs no quotes), and where the server has cut the text.
pub fn shape(query: &str) -> String {
    let (tokens, whole) = certain(query);
    let end = setting(&tokens, query.as_bytes()).unwrap_or(tokens.len());
    let (mut out, mut last) = (String::new(), 0);
    for token in &tokens[..end] {
        if out.chars().count() >= SHAPE_MAX {
            return out + " ..";
        }
        if !out.is_empty() && token.start > last {
            out.push(' ');
        }
        last = token.end;
        match token.kind.is_literal() {
            true => out.push('?'),
            false => out.push_str(&String::from_utf8_lossy(token.text(query.as_bytes()))),
        }
    }
    if end < tokens.len() || !whole {
        out.push_str(" ..");
    }
    out
}

/// Where a setting gets its value: the first `=` or `TO` of a statement that begins with `SET` or `ALTER`.
fn setting(tokens: &[Token], text: &[u8]) -> Option<usize> {
    let (mut begins, mut sets) = (true, false);
    tokens.iter().position(|token| {
        let is = |word: &str| token.text(text).eq_ignore_ascii_case(word.as_bytes());
        if begins {
            sets = is("set") || is("alter");
        }
        begins = is(";");
        sets && (is("=") || is("to"))
    })
}

/// The tokens that are the same whatever the session's dialect is, and whether these are all.
fn certain(query: &str) -> (Vec<Token>, bool) {
    let [standard, other] = [true, false].map(|standard_strings| {
        let mut tokens = Tokens::default();
        tokens.lex(query.as_bytes(), Dialect { standard_strings, ..Dialect::default() });
        tokens
    });
    let place = |token: &Token| (token.start, token.end, token.kind.is_literal(), token.kind == Kind::Quoted);
    let same = standard.list().iter().zip(other.list()).take_while(|(one, two)| place(one) == place(two)).count();
    let whole =
        same == standard.list().len() && same == other.list().len() && standard.reading() != Reading::Unreadable;
    (standard.list()[..same].to_vec(), whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_shows_no_value_promise_13() {
        let cases = [
            ("UPDATE acc SET v = 'secret', n = 47 WHERE id=11 -- secret", "UPDATE acc SET v = ?, n = ? WHERE id=?"),
            ("/* secret */ SELECT $$secret$$, E'sec\\'ret', B'101', U&'secret'", "SELECT ?, ?, ?, ?"),
            ("INSERT INTO \"Big Table\" VALUES ($1, -4.5e7)", "INSERT INTO \"Big Table\" VALUES ($1, -?)"),
            ("SET app.token TO secret", "SET app.token .."),
            ("set local x=secret", "set local x .."),
            (
                "BEGIN; UPDATE t SET a = b; ALTER ROLE r SET x = secret",
                "BEGIN; UPDATE t SET a = b; ALTER ROLE r SET x ..",
            ),
            ("SELECT 'it\\'s secret', 5", "SELECT .."),
            ("SELECT 'cut by the server: secr", "SELECT .."),
            ("SELECT $x$ cut by the server: secr", "SELECT .."),
            ("SELECT a FROM t WHERE b = E'secr", "SELECT a FROM t WHERE b = .."),
        ];
        for (query, expected) in cases {
            assert_eq!(shape(query), expected, "{query}");
        }
    }

    #[test]
    fn a_long_statement_is_cut_promise_12() {
        let shown = shape(&format!("SELECT {}", "column_name, ".repeat(1000)));
        assert!(shown.len() < SHAPE_MAX + 30 && shown.ends_with(" .."), "{shown}");
    }

    #[test]
    fn a_session_is_told_in_one_line() {
        let session = Session {
            pid: 7,
            user: "app".into(),
            application: "shop".into(),
            state: Some("idle in transaction".into()),
            open: true,
            age: Some(Duration::from_millis(12_340)),
            shape: Some("SELECT ?".into()),
        };
        assert_eq!(session.to_string(), "process 7 of app (shop), idle in transaction for 12.3 s: SELECT ?");
        let hidden = Session { application: String::new(), state: None, age: None, shape: None, ..session };
        assert_eq!(hidden.to_string(), "process 7 of app, in a transaction");
    }
}
