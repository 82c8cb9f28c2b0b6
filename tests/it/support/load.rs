//! A mixed load that remembers what it was told: everything that a mirror could stumble over, by the simple and the
//! extended protocol. Clients reconnect when they are cut off. A row whose last write is in doubt is left alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::tandem::dice::Dice;
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, Error, NoTls};

use super::memory::{Effect, Memory};

/// The tables of the load: keys of one and two columns, given and serial; cascades over two levels; rows that all write.
pub(crate) const SCHEMA: &str = "
CREATE TABLE notes (name text PRIMARY KEY, version bigint NOT NULL, body text);
CREATE TABLE serials (id bigserial PRIMARY KEY, client int NOT NULL, seq bigint NOT NULL, version bigint NOT NULL DEFAULT 0);
CREATE TABLE parents (id bigint PRIMARY KEY, version bigint NOT NULL);
CREATE TABLE children (id bigserial PRIMARY KEY, what text,
  parent bigint NOT NULL REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
CREATE INDEX ON children (parent);
CREATE TABLE toys (child bigint REFERENCES children ON DELETE CASCADE, line int, PRIMARY KEY (child, line));
CREATE TABLE bulk (client int, seq int, version bigint NOT NULL, filler text DEFAULT repeat('x', 100), PRIMARY KEY (client, seq));
CREATE TABLE hot (id int PRIMARY KEY, n bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
INSERT INTO hot VALUES (1, 0, 'epoch'), (2, 0, 'epoch'), (3, 0, 'epoch');";

/// Tables with rows that belong to one client each, and what names their rows to it.
pub(crate) const OWNED: &[(&str, &str)] =
    &[("notes", "name"), ("serials", "client || ' ' || seq"), ("parents", "id"), ("bulk", "client || ' ' || seq")];

/// Every table.
pub(crate) const TABLES: &[&str] = &["notes", "serials", "parents", "children", "toys", "bulk", "hot"];

/// Pause before connecting again, for as long as nobody answers.
const RECONNECT: Duration = Duration::from_millis(10);
/// A load that makes no progress for this long is hindered.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time for one unit.
const ANSWER: Duration = Duration::from_secs(45);
/// Rows of `notes` and `bulk` that a client writes again and again.
const ROWS: u64 = 12;

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Writer>>,
}

struct Shared {
    url: String,
    stop: AtomicBool,
    acked: AtomicU64,
    errors: Errors,
}

/// What became of it.
pub(crate) struct Done {
    /// What the clients were told.
    pub(crate) memory: Memory,
    /// Units acknowledged.
    pub(crate) acked: u64,
    /// Connections lost with a unit on them.
    pub(crate) lost: u64,
    /// Errors that the server, or tandem, gave for another reason than its own end.
    pub(crate) refused: Vec<String>,
    /// Reads that were older than what was acknowledged before.
    pub(crate) stale: Vec<String>,
}

/// Errors, sorted.
#[derive(Default)]
struct Errors {
    lost: AtomicU64,
    refused: Mutex<Vec<String>>,
}

impl Errors {
    /// Sessions end by class 57 (shutdown, crash) or 08, or without a word.
    fn note(&self, error: &Error) {
        let ended = |db: &DbError| ["57P", "08"].iter().any(|class| db.code().code().starts_with(class));
        match error.as_db_error() {
            Some(db) if !ended(db) => self.refuse(format!("{}: {}", db.code().code(), db.message())),
            _ => drop(self.lost.fetch_add(1, Relaxed)),
        }
    }

    fn refuse(&self, what: String) {
        self.refused.lock().expect("no panics in it").push(what);
    }

    fn take(&self) -> (u64, Vec<String>) {
        (self.lost.load(Relaxed), std::mem::take(&mut self.refused.lock().expect("no panics in it")))
    }
}

impl Load {
    /// Clients `first..first + count` begin. The numbers name their rows.
    pub(crate) fn start(url: &str, first: u32, count: u32) -> Load {
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            stop: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            errors: Errors::default(),
        });
        let clients = (first..first + count).map(|number| tokio::spawn(client(shared.clone(), number))).collect();
        Load { shared, clients }
    }

    /// Returns when `units` more were acknowledged: clients are not hindered.
    pub(crate) async fn more(&self, units: u64) {
        let goal = self.shared.acked.load(Relaxed) + units;
        let reached = async {
            while self.shared.acked.load(Relaxed) < goal {
                tokio::time::sleep(RECONNECT).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, reached).await;
        assert!(done.is_ok(), "clients are hindered: {:?}", self.shared.errors.take());
    }

    /// Clients finish the unit that they are at.
    pub(crate) async fn stop(self) -> Done {
        self.shared.stop.store(true, Relaxed);
        let (mut memory, mut stale) = (Memory::default(), Vec::new());
        for client in self.clients {
            let writer = client.await.expect("a client does not panic");
            memory.merge(writer.memory);
            stale.extend(writer.stale);
        }
        let (lost, refused) = self.shared.errors.take();
        Done { memory, acked: self.shared.acked.load(Relaxed), lost, refused, stale }
    }
}

async fn client(shared: Arc<Shared>, number: u32) -> Writer {
    let mut writer =
        Writer { number, dice: Dice(u64::from(number) + 1), memory: Memory::default(), next: 0, stale: Vec::new() };
    while !shared.stop.load(Relaxed) {
        if let Ok((client, connection)) = tokio_postgres::connect(&shared.url, NoTls).await {
            tokio::spawn(connection);
            shared.work(&client, &mut writer).await;
        }
        tokio::time::sleep(RECONNECT).await;
    }
    writer
}

impl Shared {
    /// Until the first error or the stop.
    async fn work(&self, client: &Client, writer: &mut Writer) {
        while !self.stop.load(Relaxed) {
            let mut effects = Vec::new();
            let done = tokio::time::timeout(ANSWER, writer.unit(client, &mut effects)).await;
            writer.memory.learn(effects, matches!(done, Ok(Ok(()))));
            match done {
                Ok(Ok(())) => self.acked.fetch_add(1, Relaxed),
                Ok(Err(error)) => return self.errors.note(&error),
                Err(_) => return self.errors.refuse("no answer in time".to_owned()),
            };
        }
    }
}

struct Writer {
    number: u32,
    dice: Dice,
    memory: Memory,
    next: u64,
    /// Reads that were older than what was acknowledged.
    stale: Vec<String>,
}

type Answer = Result<(), Error>;

impl Writer {
    async fn unit(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        self.next += 1;
        match self.dice.below(13) {
            0 | 1 => self.note(client, effects).await,
            2 => self.gone_note(client, effects).await,
            3 => self.renamed_note(client, effects).await,
            4 => self.serial(client, effects).await,
            5 => self.family(client, effects).await,
            6 => self.moved_family(client, effects).await,
            7 => self.bulk(client, effects).await,
            8 => self.bump(client, effects).await,
            9 => self.give_up(client).await,
            10 => self.in_part(client, effects).await,
            11 => self.look(client).await,
            _ => self.everything(client, effects).await,
        }
    }

    fn some_note(&mut self) -> String {
        format!("{} it's \\ ü {}", self.number, self.dice.below(ROWS))
    }

    /// An upsert in autocommit.
    async fn note(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let name = self.some_note();
        if !self.memory.is_sure("notes", &name) {
            return Ok(());
        }
        effects.push(Effect::Row("notes", name.clone(), Some(self.next)));
        let sql = "INSERT INTO notes VALUES ($1, $2, 'tab\there') ON CONFLICT (name) DO UPDATE SET version = excluded.version";
        client.execute(sql, &[&name, &(self.next as i64)]).await.map(drop)
    }

    async fn gone_note(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let name = self.some_note();
        if !self.memory.is_sure("notes", &name) {
            return Ok(());
        }
        effects.push(Effect::Row("notes", name.clone(), None));
        client.batch_execute(&format!("DELETE FROM notes WHERE name = '{}'", name.replace('\'', "''"))).await
    }

    /// A key becomes another one.
    async fn renamed_note(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let (old, new) = (self.some_note(), format!("{} once {}", self.number, self.next));
        if !self.memory.has("notes", &old) {
            return Ok(());
        }
        effects.push(Effect::Row("notes", old.clone(), None));
        effects.push(Effect::Row("notes", new.clone(), Some(self.next)));
        let sql = "UPDATE notes SET name = $2, version = $3 WHERE name = $1";
        client.execute(sql, &[&old, &new, &(self.next as i64)]).await.map(drop)
    }

    /// The server's default makes the key.
    async fn serial(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        effects.push(Effect::Row("serials", format!("{} {}", self.number, self.next), Some(0)));
        let sql = "INSERT INTO serials (client, seq) VALUES ($1, $2)";
        client.execute(sql, &[&(self.number as i32), &(self.next as i64)]).await.map(drop)
    }

    fn some_parent(&mut self) -> i64 {
        i64::from(self.number) * 1_000 + self.dice.below(6) as i64
    }

    /// A parent with children and their toys comes, or goes and takes them with it.
    async fn family(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let id = self.some_parent();
        if self.memory.has("parents", &id.to_string()) {
            effects.push(Effect::Row("parents", id.to_string(), None));
            return client.execute("DELETE FROM parents WHERE id = $1", &[&id]).await.map(drop);
        }
        if !self.memory.is_sure("parents", &id.to_string()) {
            return Ok(());
        }
        effects.push(Effect::Row("parents", id.to_string(), Some(self.next)));
        client.batch_execute("BEGIN").await?;
        client.execute("INSERT INTO parents VALUES ($1, $2)", &[&id, &(self.next as i64)]).await?;
        client.execute("INSERT INTO children (parent, what) VALUES ($1, 'a'), ($1, 'b')", &[&id]).await?;
        let toys = "INSERT INTO toys SELECT id, line FROM children, generate_series(1, 2) line WHERE parent = $1";
        client.execute(toys, &[&id]).await?;
        client.batch_execute("COMMIT").await
    }

    /// A parent's key changes, and its children follow.
    async fn moved_family(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let (old, new) = (self.some_parent(), self.some_parent());
        if !self.memory.has("parents", &old.to_string())
            || !self.memory.is_sure("parents", &new.to_string())
            || self.memory.has("parents", &new.to_string())
        {
            return Ok(());
        }
        effects.push(Effect::Row("parents", old.to_string(), None));
        effects.push(Effect::Row("parents", new.to_string(), Some(self.next)));
        client.batch_execute(&format!("UPDATE parents SET id = {new}, version = {} WHERE id = {old}", self.next)).await
    }

    /// Statements of many rows, their keys known to the server only.
    async fn bulk(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let (number, from) = (self.number, self.dice.below(ROWS - 3));
        let keys: Vec<String> = (from..from + 3).map(|seq| format!("{number} {seq}")).collect();
        if !keys.iter().all(|key| self.memory.is_sure("bulk", key)) {
            return Ok(());
        }
        let kept = self.dice.below(3) > 0;
        let (state, version) = (kept.then_some(self.next), self.next);
        effects.extend(keys.into_iter().map(|key| Effect::Row("bulk", key, state)));
        let range = format!("client = {number} AND seq BETWEEN {from} AND {}", from + 2);
        let sql = if kept {
            format!(
                "INSERT INTO bulk SELECT {number}, seq, {version} FROM generate_series({from}, {}) seq \
                 ON CONFLICT (client, seq) DO UPDATE SET version = excluded.version, filler = NULL",
                from + 2
            )
        } else {
            format!("DELETE FROM bulk WHERE {range}")
        };
        client.simple_query(&sql).await.map(drop)
    }

    /// A row that everybody writes.
    async fn bump(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let id = 1 + self.dice.below(3) as i32;
        effects.push(Effect::Bump(id));
        client.execute("UPDATE hot SET n = n + 1, at = clock_timestamp() WHERE id = $1", &[&id]).await.map(drop)
    }

    /// What was acknowledged is read again.
    async fn look(&mut self, client: &Client) -> Answer {
        let name = self.some_note();
        if !self.memory.has("notes", &name) {
            return Ok(());
        }
        let known = self.memory.version("notes", &name).map(|version| version as i64);
        let row = client.query_opt("SELECT version FROM notes WHERE name = $1", &[&name]).await?;
        let read: Option<i64> = row.map(|row| row.get(0));
        if read != known {
            self.stale.push(format!("a note is {read:?}, its writer was told {known:?}"));
        }
        Ok(())
    }

    /// Nothing of it may ever be seen.
    async fn give_up(&mut self, client: &Client) -> Answer {
        let number = self.number;
        let script = format!(
            "BEGIN; UPDATE hot SET n = n + 1000 WHERE id = 1; DELETE FROM bulk WHERE client = {number}; \
             INSERT INTO serials (client, seq) VALUES ({number}, -1); DELETE FROM parents WHERE id / 1000 = {number}; ROLLBACK"
        );
        for statement in script.split("; ") {
            client.batch_execute(statement).await?;
        }
        Ok(())
    }

    /// A part is rolled back to a savepoint, and the rest commits.
    async fn in_part(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        let (number, next) = (self.number, self.next);
        effects.push(Effect::Row("serials", format!("{number} {next}"), Some(0)));
        let id = self.some_parent();
        client.batch_execute("BEGIN").await?;
        client.batch_execute(&format!("INSERT INTO serials (client, seq) VALUES ({number}, {next})")).await?;
        client.batch_execute("SAVEPOINT part").await?;
        client.batch_execute(&format!("DELETE FROM parents WHERE id = {id}")).await?;
        let failed = client.batch_execute("INSERT INTO hot VALUES (1, 0)").await;
        if failed.as_ref().is_err_and(|error| error.as_db_error().is_none()) {
            return failed;
        }
        client.batch_execute("ROLLBACK TO SAVEPOINT part").await?;
        client.batch_execute("COMMIT").await
    }

    /// One transaction over most tables; hot rows in one order, so that nobody waits in a circle.
    async fn everything(&mut self, client: &Client, effects: &mut Vec<Effect>) -> Answer {
        client.batch_execute("BEGIN").await?;
        self.note(client, effects).await?;
        self.serial(client, effects).await?;
        self.bulk(client, effects).await?;
        for id in 1..=2 {
            effects.push(Effect::Bump(id));
            client.execute("UPDATE hot SET n = n + 1 WHERE id = $1", &[&id]).await?;
        }
        client.batch_execute("COMMIT").await
    }
}
