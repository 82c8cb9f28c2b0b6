//! Connections on which reads are repeated: as the client would be there, inside transactions that only read.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::postgres::catalog::quote;
use crate::protocol::postgres::client::{Client, DataRow, Error, ServerConfig};
use crate::protocol::postgres::servers::Servers;
use crate::protocol::postgres::shared::Shared;
use crate::protocol::postgres::wire::{self, back};
use crate::record::Side;
use crate::shadow::Skip;

use super::answer::Answer;
use super::backends::{Backend, leave};
use super::{Asked, Asker, role};

/// What the servers call these connections.
pub(in crate::protocol::postgres) const APPLICATION_NAME: &str = "tandem shadow";
/// A server that grants no connection within this is not asked.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// The catalog's rows are the state's, functions tell of now. System tables have no file here.
const REWRITTEN: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'm') \
    AND c.relpersistence OPERATOR(pg_catalog.<>) 't' AND c.relfilenode OPERATOR(pg_catalog.<>) 0 \
    AND c.relfilenode OPERATOR(pg_catalog.<>) coalesce(pg_catalog.pg_relation_filenode(c.oid), c.relfilenode))";

/// Idle connections, by side and asker.
pub(super) struct Pool {
    servers: Arc<Servers>,
    shared: Arc<Shared>,
    idle: Mutex<Vec<Link>>,
    idle_max: usize,
}

/// One connection. Dropped while it is in use, what it was asked is cancelled.
pub(super) struct Link {
    /// With its process on the server; `None` only while it is dropped.
    open: Option<(Client, Backend)>,
    /// Nothing was asked of it, or its transaction is ending.
    idle: bool,
    side: Side,
    asker: Arc<Asker>,
    /// The role that it must take on: it logged in as tandem.
    role: Option<String>,
    /// The Parse of the read at hand was refused, with this SQLSTATE.
    refused: Option<String>,
}

/// Why a side could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is away, or has no room.
    Away,
    /// It took too long.
    Late,
    /// It would have had to write.
    Writes,
    /// Its role may not.
    Forbidden,
    /// The transaction had failed before.
    InTransaction,
    /// The answer is too large.
    Large,
}

impl Failed {
    /// What a SQLSTATE says of the moment; `None`: it is an answer.
    pub(super) fn of_code(code: &str) -> Option<Failed> {
        match (code, code.get(..2).unwrap_or_default()) {
            ("57014" | "55P03", _) => Some(Failed::Late),
            ("25006", _) => Some(Failed::Writes),
            (_, "25") => Some(Failed::InTransaction),
            (_, "08" | "40" | "53" | "55" | "57" | "58" | "XX") => Some(Failed::Away),
            _ => None,
        }
    }

    fn of(error: &Error) -> Failed {
        error.code().and_then(Failed::of_code).unwrap_or(Failed::Away)
    }

    pub(super) fn of_secondary(self) -> Skip {
        match self {
            Failed::Away => Skip::SecondaryFailed,
            other => other.of_any(),
        }
    }

    pub(super) fn of_primary(self) -> Skip {
        match self {
            Failed::Away => Skip::PrimaryFailed,
            other => other.of_any(),
        }
    }

    fn of_any(self) -> Skip {
        match self {
            Failed::Late => Skip::Timeout,
            Failed::Forbidden => Skip::NotAllowed,
            Failed::InTransaction => Skip::InTransaction,
            Failed::Large => Skip::AnswerTooLarge,
            Failed::Writes | Failed::Away => Skip::NotRepeatable,
        }
    }
}

impl Pool {
    pub(super) fn new(servers: Arc<Servers>, shared: Arc<Shared>, workers: usize) -> Pool {
        // Each worker uses one to either side.
        Pool { servers, shared, idle: Mutex::default(), idle_max: 2 * workers }
    }

    /// A connection to a side for this asker.
    pub(super) async fn link(&self, side: Side, asker: &Arc<Asker>) -> Result<Link, Failed> {
        while let Some(mut link) = self.take(side, asker) {
            if link.client().is_alive() {
                link.idle = false;
                return Ok(link);
            }
        }
        let (config, role) = self.config(side, asker);
        match Client::connect(&config).await {
            Ok(client) => {
                let backend = self.shared.repeating.enter(side, client.pid());
                let open = Some((client, backend));
                let mut link = Link { open, idle: false, side, asker: asker.clone(), role, refused: None };
                if let Some(role) = link.role.clone() {
                    role::bring(link.client(), &role).await?;
                }
                Ok(link)
            }
            Err(error) => {
                tracing::debug!(%error, %side, "no connection for a shadow read");
                Err(Failed::Away)
            }
        }
    }

    fn take(&self, side: Side, asker: &Arc<Asker>) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().rposition(|link| link.side == side && link.asker == *asker)?;
        Some(idle.remove(at))
    }

    /// It was used, and everything that it was asked was answered. Its transaction ends now: it holds locks.
    pub(super) async fn give_back(&self, mut link: Link) {
        link.client().put_unwaited("ROLLBACK");
        if link.client().send().await.is_err() {
            return;
        }
        link.idle = true;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= self.idle_max {
            idle.remove(0);
        }
        idle.push(link);
    }

    /// As the client, where tandem can be that on both sides: what differs must not be how they were asked. Else as tandem, to
    /// become the client.
    fn config(&self, side: Side, asker: &Asker) -> (ServerConfig, Option<String>) {
        let own = self.servers.primary_first(side, &self.shared.catalog);
        let known = [side, side.other()].map(|side| self.servers.password_of(side, &asker.user));
        let (user, password, role) = match known {
            [Some(password), Some(_)] => (asker.user.clone(), password, None),
            _ => (own.user.clone(), own.password.clone(), Some(asker.user.clone())),
        };
        let mut params: HashMap<String, String> = asker.params.iter().cloned().collect();
        params.insert("application_name".to_owned(), APPLICATION_NAME.to_owned());
        let connect_timeout = own.connect_timeout.min(CONNECT_MAX);
        let params = params.into_iter().collect();
        (ServerConfig { user, password, params, connect_timeout, ..own.into_owned() }, role)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some((client, backend)) = self.open.take()
            && !self.idle
        {
            leave(client, backend);
        }
    }
}

impl Link {
    fn client(&mut self) -> &mut Client {
        &mut self.open.as_mut().expect("it is open until it is dropped").0
    }

    /// It logged in as tandem.
    pub(super) fn has_role(&self) -> bool {
        self.role.is_some()
    }

    /// Begin a transaction that only reads, at the newest state.
    pub(super) async fn begin(&mut self, asked: &Asked, limit: Duration) -> Result<(), Failed> {
        self.client().put_query("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY");
        self.put_settings(asked, limit, 1).await
    }

    /// Begin again.
    pub(super) async fn begin_again(&mut self, asked: &Asked, limit: Duration) -> Result<(), Failed> {
        self.client().put_unwaited("ROLLBACK");
        self.begin(asked, limit).await
    }

    /// Begin a transaction at a state that somebody exported.
    pub(super) async fn open_at(&mut self, snapshot: &str) -> Result<(), Failed> {
        let name = snapshot.replace('\'', "");
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{name}'");
        self.client().simple(&sql).await.map(drop).map_err(|error| Failed::of(&error))
    }

    /// Some table has another file than at the state that was opened. If it was emptied (TRUNCATE is not safe there, as its
    /// documentation says), it shows nothing of what it had. Whatever was prepared without a name is gone then.
    pub(super) async fn is_rewritten(&mut self) -> Result<bool, Failed> {
        let asked = self.client().simple(REWRITTEN).await.map_err(|error| Failed::of(&error))?;
        asked.first().ok_or(Failed::Away)?.bool(0).map_err(|error| Failed::of(&error))
    }

    /// What the client's session has set.
    pub(super) async fn set(&mut self, asked: &Asked, limit: Duration) -> Result<(), Failed> {
        self.put_settings(asked, limit, 0).await
    }

    async fn put_settings(&mut self, asked: &Asked, limit: Duration, before: usize) -> Result<(), Failed> {
        let mut questions = before;
        if let Some(role) = self.role.as_deref().map(|role| format!("SET LOCAL ROLE {}", quote(role))) {
            self.client().put_query(&role);
            questions += 1;
        }
        for setting in &asked.settings {
            self.client().put_query_bytes(setting);
            questions += 1;
        }
        let (limit, mut sql) = (limit.as_millis(), String::new());
        for name in ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"] {
            let _ = write!(sql, "SET LOCAL {name} = {limit}; ");
        }
        self.client().put_query(&sql);
        self.client().send().await.map_err(|error| Failed::of(&error))?;
        for at in 0..=questions {
            match self.client().finish().await {
                Ok(()) => {}
                Err(error @ Error::Db(_)) if at == before && self.role.is_some() => {
                    tracing::debug!(%error, "a shadow read's role cannot be taken on");
                    return Err(Failed::Forbidden);
                }
                // A setting that this side does not know: its answer would say nothing.
                Err(Error::Db(_)) => return Err(Failed::Writes),
                Err(error) => return Err(Failed::of(&error)),
            }
        }
        self.parse(asked).await
    }

    /// As the client did long before, perhaps: it is not part of the time that an answer takes. An error is an answer.
    async fn parse(&mut self, asked: &Asked) -> Result<(), Failed> {
        self.refused = None;
        if !asked.is_extended() {
            return Ok(());
        }
        asked.put_parse(self.client().out(), b"");
        self.client().put_sync();
        self.client().send().await.map_err(|error| Failed::of(&error))?;
        match self.client().finish().await {
            Ok(()) => Ok(()),
            Err(Error::Db(error)) => {
                self.refused = Some(error.code.clone());
                Ok(())
            }
            Err(error) => Err(Failed::of(&error)),
        }
    }

    /// The plan of a read, as JSON; `None`: it has none, and the transaction failed.
    pub(super) async fn explain(&mut self, asked: &Asked) -> Result<Option<String>, Failed> {
        const EXPLAIN: &[u8] = b"EXPLAIN (VERBOSE, FORMAT JSON) ";
        self.client().put_whole(|out| {
            asked.put_parse(out, EXPLAIN);
            asked.put(out, EXPLAIN, false);
        });
        self.client().send().await.map_err(|error| Failed::of(&error))?;
        let rows = match self.client().rows().await {
            Ok(rows) => rows,
            Err(Error::Db(_)) => return Ok(None),
            Err(error) => return Err(Failed::of(&error)),
        };
        // The unnamed statement is the explanation now.
        self.parse(asked).await?;
        let text = |row: &DataRow| row.string(0).ok();
        Ok(Some(rows.iter().filter_map(text).collect()))
    }

    /// Ask, and how long it took until the last byte.
    pub(super) async fn ask(&mut self, asked: &Asked, bytes_max: usize) -> Result<(Answer, Duration), Failed> {
        if let Some(code) = self.refused.take() {
            return Ok((Answer { error: Some(code), ..Answer::default() }, Duration::ZERO));
        }
        self.client().put_whole(|out| asked.put(out, b"", true));
        let began = Instant::now();
        self.client().send().await.map_err(|error| Failed::of(&error))?;
        let (mut answer, mut bytes) = (Answer::default(), 0);
        loop {
            let message = self.client().recv().await.map_err(|error| Failed::of(&error))?;
            bytes += message.body.len() + wire::HEADER;
            if bytes > bytes_max {
                return Err(Failed::Large);
            }
            if message.kind == back::READY_FOR_QUERY {
                return Ok((answer, began.elapsed()));
            }
            answer.take(message.kind, message.body).map_err(|_| Failed::Writes)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backends::Backends;
    use super::*;
    use crate::protocol::postgres::testing::Server;

    #[tokio::test]
    async fn a_table_that_was_emptied_behind_the_state_is_told_from_what_was_only_written_to() {
        let server = Server::any();
        let mut owner = Client::connect(&server.config()).await.expect("connects");
        owner.simple("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.expect("made");
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()";
        let name = owner.simple(begin).await.expect("begun")[0].string(0).expect("a name");
        let client = Client::connect(&server.config()).await.expect("connects");
        let backend = Backends::default().enter(Side::Origin, client.pid());
        let asker = Arc::new(Asker { user: "postgres".to_owned(), params: Vec::new() });
        let open = Some((client, backend));
        let mut link = Link { open, idle: true, side: Side::Origin, asker, role: None, refused: None };
        link.open_at(&name).await.expect("opened");
        owner.simple("COMMIT; UPDATE t SET id = 2; CREATE TABLE new ()").await.expect("written");
        assert_eq!(link.is_rewritten().await, Ok(false));
        owner.simple("TRUNCATE t").await.expect("emptied");
        assert_eq!(link.is_rewritten().await, Ok(true));
    }
}
