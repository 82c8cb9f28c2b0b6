//! History on PostgreSQL: chunks of tables, copied or compared at the payment's own S by workers of their own.
//!
//! A unit is a block of a table's file. S is exported, each worker reads at it on its own connection by TID range, the
//! cheapest order there is, whatever the key is and however it is collated. A row that leaves its block was written, so
//! the mirror owes it; a table whose file was replaced (VACUUM FULL, CLUSTER, a rewrite) has another number and is
//! walked over anew. Each chunk ends with the check of every read at S (see [`super::check`]).
//!
//! Writers hold the shared half of the applier's lock from their start, so a successor waits for them. Nobody else writes
//! to the secondary between the payment and the end of S: what workers read there is the state of S as well, and a row
//! that differs does differ (promise 8).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::backfill::Desk;
use crate::backfill::desk::Throttle;
use crate::backfill::work::{Chunk, Difference, Differs, Extent, Landed, Outcome, Pass, Surveyed, Unread};
use crate::mirror::state::copier::Error;
use crate::protocol::postgres::catalog::{Catalog, Kind, Relation};
use crate::protocol::postgres::client::{self, Client, DataRow, DbError, Format, Param, SEND_BYTES, ServerConfig};
use crate::protocol::postgres::key::{self, Returned};
use crate::protocol::postgres::scope::topmost;
use crate::protocol::postgres::wire::{self, back, front};
use crate::record::TableId;

use super::check;
use super::contact::{self, Met};
use super::copy::{BINARY_END, BINARY_START, put_text};
use super::debt::{Arrays, BATCH_BYTES, batches};
use super::link::{self, LOCK_CLASS, LOCK_WRITERS, Link, on_secondary};
use super::pay::COUNT;
use super::schema::{At, Home, Pair, STRETCH};
use super::trouble::{LOCKED, Trouble, loading, of_the_table, unlocked};

mod alike;

use alike::Luck;

/// Most rows of one batch: one DELETE and COPY, or one look-up on the other side.
const BATCH_ROWS: usize = 5_000;
/// Most bytes of rows that a worker keeps.
const ROWS_BYTES: usize = 1 << 20;

/// Two connections that work on chunks.
pub(super) struct Worker {
    primary: Client,
    secondary: Client,
    luck: Luck,
    /// A chunk with more rows is halved, if it can be.
    rows_max: u64,
}

/// Of so many times the rows that a chunk should have. How many it has nobody knows before it is read: behind a stretch of empty
/// blocks, which make chunks larger and larger, it may be millions.
const DENSE: u64 = 4;

/// What [`Link`] knows of history.
#[derive(Default)]
pub(super) struct History {
    workers: Vec<Worker>,
    /// The tables of the last survey.
    pairs: HashMap<TableId, Arc<Pair>>,
    /// Tables that were empty on the secondary when they were surveyed, and to which no payment wrote since: their
    /// chunks find nothing to clear.
    clean: HashSet<TableId>,
    used: Option<Instant>,
}

impl History {
    /// A payment writes to the table.
    pub(super) fn soil(&mut self, table: TableId) {
        self.clean.remove(&table);
    }

    /// Let go of workers that nobody needs: they hold a lock that a successor waits for.
    pub(super) fn rest(&mut self, idle: std::time::Duration) {
        if self.used.is_some_and(|used| used.elapsed() >= idle) {
            self.workers.clear();
            self.used = None;
        }
    }
}

/// What a survey asks one side for a file: oid, relfilenode, blocks, bytes.
const FILES: &str = "SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid), pg_catalog.pg_relation_size(c.oid) \
    / pg_catalog.current_setting('block_size')::pg_catalog.int8, pg_catalog.pg_total_relation_size(c.oid) \
    FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid >= 16384";

struct File {
    number: u64,
    blocks: u64,
    bytes: u64,
}

async fn files(conn: &mut Client) -> Result<HashMap<u32, File>, client::Error> {
    let mut files = HashMap::new();
    for row in conn.simple(FILES).await? {
        let oid: u32 = row.parse(0)?;
        // Dropped meanwhile.
        let Some(node) = row.text(1)?.and_then(|node| node.parse::<u64>().ok()) else { continue };
        let size = |at| row.text(at).map(|text| text.and_then(|text| text.parse().ok()).unwrap_or(0));
        files.insert(oid, File { number: number(oid, node), blocks: size(2)?, bytes: size(3)? });
    }
    Ok(files)
}

fn number(oid: u32, node: u64) -> u64 {
    u64::from(oid) << 32 | node
}

/// Every table that is paid as one, and where its rows lie on both sides.
pub(super) async fn survey(link: &mut Link) -> Result<Vec<Surveyed>, Trouble> {
    let primary = link.schema.load_primary(&mut link.primary).await;
    primary.map_err(|error| loading(error, Trouble::Primary))?;
    let secondary = link.schema.load_secondary(&mut link.secondary).await;
    secondary.map_err(|error| loading(error, Trouble::Secondary))?;
    link.schema_stale = false;
    let here = files(&mut link.primary).await.map_err(|error| unlocked(error, Trouble::Primary))?;
    let there = files(&mut link.secondary).await.map_err(|error| unlocked(error, Trouble::Secondary))?;
    let mut ids: Vec<(String, TableId)> =
        link.schema.primary.relations.values().filter(|of| walkable(of)).map(|of| (of.shown(), of.id)).collect();
    ids.sort_unstable();
    link.history.pairs.clear();
    let (mut found, mut met) = (Vec::new(), Met::new());
    for (name, id) in ids {
        let told = Told::of(&link.schema.primary, id);
        if told == Told::Nowhere {
            continue;
        }
        match link.schema.home(id) {
            // Copied whole, by payments.
            Home::Pair(pair, _) if pair.key.is_empty() => (),
            Home::Pair(pair, _) if pair.id == id => {
                let one = look(link, &pair, name, (&here, &there), &mut met).await?;
                link.history.pairs.insert(id, pair);
                found.push(Surveyed { part_of: told.part_of(), ..one });
            }
            // Its rows are its root's.
            Home::Pair(..) | Home::Nowhere => (),
            Home::Refused(_, why) if told != Told::AtRoot => {
                found.push(Surveyed { part_of: told.part_of(), ..refused(id, name, why) });
            }
            Home::Refused(..) => (),
        }
    }
    link.contacts.note(&mut link.secondary, &mut met).await.map_err(Trouble::Secondary)?;
    link.contacts.learn(met);
    Ok(found)
}

fn walkable(relation: &Relation) -> bool {
    matches!(relation.kind, Kind::Table | Kind::Partitioned) && relation.schema != "tandem"
}

/// By which name a table is told of.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Its own.
    Itself,
    /// It is a partition: what is said of its root is said of it.
    AtRoot,
    /// Its root, which is called so, has no key, so each partition is walked over by its own.
    Apart(String),
    /// It is such a root, or between it and those that hold its rows: they are told of instead.
    Nowhere,
}

impl Told {
    fn of(catalog: &Catalog, id: TableId) -> Told {
        let Some(relation) = catalog.relation(id) else { return Told::Nowhere };
        let root = topmost(catalog, relation);
        let by_leaves = root.kind == Kind::Partitioned && root.key.is_none();
        match relation.kind {
            Kind::Partitioned if by_leaves => Told::Nowhere,
            _ if by_leaves => Told::Apart(root.shown()),
            _ if root.oid == relation.oid => Told::Itself,
            _ => Told::AtRoot,
        }
    }

    fn part_of(self) -> Option<String> {
        match self {
            Told::Apart(root) => Some(root),
            _ => None,
        }
    }
}

fn refused(table: TableId, name: String, why: String) -> Surveyed {
    Surveyed {
        table,
        name,
        part_of: None,
        labels: vec![table],
        rows: 0,
        bytes: 0,
        primary: Vec::new(),
        secondary: Vec::new(),
        occupied: false,
        refused: Some(why),
        unread: None,
        not_compared: Vec::new(),
    }
}

async fn look(
    link: &mut Link,
    pair: &Pair,
    name: String,
    (here, there): (&HashMap<u32, File>, &HashMap<u32, File>),
    met: &mut Met,
) -> Result<Surveyed, Trouble> {
    let (primary, secondary) = (&link.schema.primary, &link.schema.secondary);
    let (from, to) = (leaves(primary, &pair.primary), leaves(secondary, &pair.secondary));
    let extents = |leaves: &[Arc<Relation>], files: &HashMap<u32, File>| -> Vec<Extent> {
        let known = leaves.iter().filter_map(|leaf| Some((leaf.sql(), files.get(&leaf.oid)?)));
        known.map(|(name, file)| Extent { name, file: file.number, units: file.blocks }).collect()
    };
    let labels = [&pair.primary].into_iter().chain(&from).map(|relation| relation.id).collect::<HashSet<_>>();
    let mut why = None;
    if !pair.footprint.local {
        why = Some("a partition of it is a foreign table".to_owned());
    } else if !link.replica {
        why = Some(REPLICA.to_owned());
    }
    let one = Surveyed {
        table: pair.id,
        name,
        part_of: None,
        labels: labels.into_iter().collect(),
        rows: from.iter().map(|leaf| leaf.rows.max(0.0) as u64).sum(),
        bytes: from.iter().filter_map(|leaf| here.get(&leaf.oid)).map(|file| file.bytes).sum(),
        primary: extents(&from, here),
        secondary: extents(&to, there),
        occupied: false,
        refused: why,
        unread: None,
        not_compared: pair.not_compared(),
    };
    // A file without blocks holds nothing; one with blocks may.
    let blocks = one.secondary.iter().any(|extent| extent.units > 0);
    let occupied = blocks
        && contact::is_occupied(&mut link.secondary, pair)
            .await
            .map_err(|error| unlocked(error, Trouble::Secondary))?;
    if occupied {
        link.history.clean.remove(&pair.id);
    } else {
        link.history.clean.insert(pair.id);
    }
    let ours = link.contacts.are_ours(pair);
    if !ours {
        met.insert(pair.secondary.oid, occupied);
    }
    Ok(Surveyed { occupied: occupied && !ours, ..one })
}

const REPLICA: &str = "the mirror's role may not set session_replication_role on the secondary, where foreign keys and \
    triggers would act on copied rows: GRANT SET ON PARAMETER session_replication_role TO it (15 and later), or use a \
    superuser";

/// The tables that hold its rows.
fn leaves(catalog: &Catalog, root: &Arc<Relation>) -> Vec<Arc<Relation>> {
    if root.kind != Kind::Partitioned {
        return vec![root.clone()];
    }
    let children = root.children.iter().filter_map(|oid| catalog.relations.get(oid));
    children.flat_map(|child| leaves(catalog, child)).filter(|leaf| leaf.kind == Kind::Table).collect()
}

/// Do chunks at S until the desk has no more. `servers` are the primary and the secondary.
pub(super) async fn walk(link: &mut Link, desk: &Desk, servers: (&ServerConfig, &ServerConfig)) -> Result<(), Trouble> {
    if link.schema_stale || link.history.pairs.is_empty() {
        return Err(Trouble::Stale("history is to be surveyed again".into()));
    }
    while link.history.workers.len() < desk.options().workers.max(1) {
        let worker = open(link, servers).await?;
        link.history.workers.push(worker);
    }
    let asked = Instant::now();
    let snapshot = link.export().await.map_err(Trouble::Primary)?;
    desk.felt(Throttle::Primary, asked.elapsed());
    let (pairs, clean) = (&link.history.pairs, &link.history.clean);
    let mut workers = std::mem::take(&mut link.history.workers);
    let working = join_all(workers.iter_mut().map(|worker| worker.work(desk, &snapshot, pairs, clean)));
    // S must outlive the workers, and nobody speaks on its connection.
    let done = link::beside(&mut link.primary, link.options.pulse(), working).await;
    done.into_iter().collect::<Result<(), Trouble>>()?;
    link.history.workers = workers;
    link.history.used = Some(Instant::now());
    Ok(())
}

/// What the workers committed is counted as a payment is: behind it, so that whoever has the number has the rows.
pub(super) async fn count(secondary: &mut Client, desk: &Desk) -> Result<u64, Error> {
    let asked = Instant::now();
    let rows = secondary.simple(COUNT).await.map_err(on_secondary)?;
    desk.felt(Throttle::Secondary, asked.elapsed());
    rows.first().ok_or(client::Error::Value(0)).and_then(|row| row.parse(0)).map_err(on_secondary)
}

async fn open(link: &Link, (primary, secondary): (&ServerConfig, &ServerConfig)) -> Result<Worker, Trouble> {
    let mut to = link::connect(secondary).await.map_err(Trouble::Secondary)?;
    link::prepare_secondary(&mut to).await.map_err(Trouble::Secondary)?;
    let lock = format!("SELECT pg_catalog.pg_advisory_lock_shared({LOCK_CLASS}, {LOCK_WRITERS})");
    let mut from = link::connect(primary).await.map_err(Trouble::Primary)?;
    let mut settings = vec![link::silence_max(&link.options), lock];
    if !link.search_path.is_empty() {
        settings.push(format!("SET search_path = {}", link.search_path));
    }
    for sql in &settings {
        to.simple(sql).await.map_err(Trouble::Secondary)?;
    }
    settings[1] = link::SETTINGS.to_owned();
    for sql in &settings {
        from.simple(sql).await.map_err(Trouble::Primary)?;
    }
    Ok(Worker { primary: from, secondary: to, luck: Luck::default(), rows_max: u64::MAX })
}

impl Worker {
    async fn work(
        &mut self,
        desk: &Desk,
        snapshot: &str,
        pairs: &HashMap<TableId, Arc<Pair>>,
        clean: &HashSet<TableId>,
    ) -> Result<(), Trouble> {
        let Some(mut next) = desk.take(Instant::now()) else { return Ok(()) };
        self.rows_max = desk.options().chunk_rows.max(1).saturating_mul(DENSE);
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'; {}",
            check::SAVEPOINT
        );
        self.primary.simple(&begin).await.map_err(Trouble::Primary)?;
        loop {
            let pair = pairs.get(&next.table).ok_or_else(|| Trouble::Stale("a table is new".into()))?;
            let outcome = self.chunk(&next, pair, clean.contains(&next.table)).await?;
            desk.put(next, outcome);
            match desk.take(Instant::now()) {
                Some(chunk) => next = chunk,
                None => break,
            }
        }
        self.primary.simple("COMMIT").await.map_err(Trouble::Primary)?;
        Ok(())
    }

    async fn chunk(&mut self, chunk: &Chunk, pair: &Arc<Pair>, clean: bool) -> Result<Outcome, Trouble> {
        let began = Instant::now();
        let side = if chunk.pass == Pass::Back { At::Secondary } else { At::Primary };
        if !self.is_there(chunk, side).await? {
            return Ok(Outcome::Moved);
        }
        let done = match chunk.pass {
            Pass::Copy => self.copy(chunk, pair, clean).await,
            Pass::Forth => self.forth(chunk, pair).await,
            Pass::Back => self.back(chunk, pair).await,
        };
        let done = match done {
            Ok(Some(landed)) => Ok(Outcome::Done(Landed { took: began.elapsed(), ..landed })),
            Ok(None) => Ok(Outcome::Dense),
            Err(Trouble::Table(_, error)) => self.refused(chunk, pair, &error).await,
            Err(trouble) => Err(trouble),
        };
        match done {
            Err(Trouble::Unreadable(_, why) | Trouble::Unfit(_, why)) => {
                // S is as good as before, and so is what others did at it.
                self.primary.simple("ROLLBACK TO tandem_read").await.map_err(Trouble::Primary)?;
                Ok(Outcome::Unreadable(Unread { why, lasts: true }))
            }
            Err(Trouble::Locked(At::Secondary, _, why)) => {
                self.primary.simple("ROLLBACK TO tandem_read").await.map_err(Trouble::Primary)?;
                Ok(Outcome::Waits(why))
            }
            done => done,
        }
    }

    /// The extent's rows are where they were when it was surveyed. On the primary this is S's word, and that it is still
    /// true is checked behind each read.
    async fn is_there(&mut self, chunk: &Chunk, side: At) -> Result<bool, Trouble> {
        let (conn, trouble): (_, fn(client::Error) -> Trouble) = match side {
            At::Primary => (&mut self.primary, Trouble::Primary),
            At::Secondary => (&mut self.secondary, Trouble::Secondary),
        };
        let oid = (chunk.file >> 32) as u32;
        conn.put_prepared(FILENODE, &[Param::text(&oid.to_string())], Format::Text);
        conn.put_sync();
        conn.send().await.map_err(trouble)?;
        let rows = conn.rows().await.map_err(trouble)?;
        let node = rows.first().and_then(|row| row.parse::<u64>(0).ok());
        Ok(node.is_some_and(|node| number(oid, node) == chunk.file))
    }

    /// The chunk can be halved, and should be if it has so many rows.
    fn is_dense(&self, chunk: &Chunk, rows: u64) -> bool {
        rows > self.rows_max && chunk.is_divisible()
    }

    /// What keeps a read of this chunk from more rows than show that it is dense.
    fn limit(&self, chunk: &Chunk) -> String {
        if chunk.is_divisible() { format!(" LIMIT {}", self.rows_max.saturating_add(1)) } else { String::new() }
    }

    /// Rows of the primary replace what the secondary has under their keys, in one transaction. `None`: it is dense.
    async fn copy(&mut self, chunk: &Chunk, pair: &Arc<Pair>, clean: bool) -> Result<Option<Landed>, Trouble> {
        let asked = if clean { String::new() } else { format!(", {}", pair.asked("t", At::Primary)) };
        let (columns, part) = (pair.column_list("t.", At::Primary), pair.part(&chunk.name, At::Primary));
        let sql = format!("SELECT {columns}{asked} FROM {part} t WHERE {STRETCH}{}", self.limit(chunk));
        let check = self.put_read(&sql, chunk, pair, pair.format()).await?;
        let mut batch = Batch::new(pair);
        let mut into = Writes::default();
        into.put_query(&mut self.secondary, "BEGIN");
        let mut landed = Landed::default();
        loop {
            let row = self.primary.next_row_of_statement().await;
            let row = row.map_err(|error| Trouble::reading_primary(pair.id, error));
            let row = match row {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(trouble) => return Err(self.undo(&mut into, trouble).await),
            };
            landed.rows += 1;
            batch.add(pair, &row, clean).map_err(Trouble::Primary)?;
            if batch.is_full() {
                landed.bytes += batch.write(&mut self.secondary, pair, &mut into).await?;
            }
        }
        landed.bytes += batch.write(&mut self.secondary, pair, &mut into).await?;
        let held = check.read(&mut self.primary).await;
        if let Err(trouble) = held.and_then(|()| check::columns(&self.primary, pair)) {
            return Err(self.undo(&mut into, trouble).await);
        }
        if self.is_dense(chunk, landed.rows) {
            return self.roll_back(&mut into).await.map(|()| None);
        }
        into.put_query(&mut self.secondary, "COMMIT");
        match into.settle(&mut self.secondary, pair.id).await {
            Ok(()) => Ok(Some(landed)),
            Err(trouble) => Err(self.undo(&mut into, trouble).await),
        }
    }

    async fn undo(&mut self, into: &mut Writes, trouble: Trouble) -> Trouble {
        self.roll_back(into).await.err().unwrap_or(trouble)
    }

    /// Leave no transaction on the secondary.
    async fn roll_back(&mut self, into: &mut Writes) -> Result<(), Trouble> {
        // What was put is answered, with errors or without.
        let _ = into.settle(&mut self.secondary, TableId::NONE).await;
        self.secondary.simple("ROLLBACK").await.map(drop).map_err(Trouble::Secondary)
    }

    /// The secondary refuses rows of this chunk: which ones there are, or that it is no matter of rows.
    async fn refused(&mut self, chunk: &Chunk, pair: &Arc<Pair>, error: &DbError) -> Result<Outcome, Trouble> {
        let by_rows = ["22", "23", "P0", "XX000"].iter().any(|class| error.code.starts_with(class));
        let mut keys = Vec::new();
        if by_rows {
            let check = self.put_read(&pair.stretch_keys_sql(&chunk.name), chunk, pair, pair.format()).await?;
            let read = |error| Trouble::reading_primary(pair.id, error);
            while let Some(row) = self.primary.next_row_of_statement().await.map_err(read)? {
                keys.push(key_of(pair, &row, 0).map_err(Trouble::Primary)?.into());
            }
            check.read(&mut self.primary).await?;
        }
        Ok(Outcome::Refused(keys, error.to_string()))
    }

    /// Ask the primary for a stretch at S, and whether it was there.
    async fn put_read(
        &mut self,
        sql: &str,
        chunk: &Chunk,
        pair: &Arc<Pair>,
        format: Format,
    ) -> Result<check::Check, Trouble> {
        let [from, to] = stretch(chunk);
        self.primary.put_described(sql, &[Param::text(&from), Param::text(&to)], format);
        let check = check::put(&mut self.primary, [pair].into_iter());
        self.primary.send().await.map_err(Trouble::Primary)?;
        Ok(check)
    }

    /// Rows of the primary are looked for on the secondary. `None`: it is dense.
    async fn forth(&mut self, chunk: &Chunk, pair: &Arc<Pair>) -> Result<Option<Landed>, Trouble> {
        if let Some(rows) = self.alike(chunk, pair).await? {
            return Ok(Some(Landed { rows, alike: true, ..Landed::default() }));
        }
        let (digest, asked) = (pair.digest(At::Primary), pair.asked("t", At::Primary));
        let (part, limit) = (pair.part(&chunk.name, At::Primary), self.limit(chunk));
        let sql = format!("SELECT {digest}, {asked} FROM {part} t WHERE {STRETCH}{limit}");
        // What is asked is the same on both sides in binary, also where rows are not: digests and canonical keys.
        let check = self.put_read(&sql, chunk, pair, Format::Binary).await?;
        let mut rows: Vec<Keyed> = Vec::new();
        let reading = |error| Trouble::reading_primary(pair.id, error);
        while let Some(row) = self.primary.next_row_of_statement().await.map_err(reading)? {
            rows.push(digested(pair, &row).map_err(Trouble::Primary)?);
        }
        check.read(&mut self.primary).await?;
        let mut landed = Landed { rows: rows.len() as u64, ..Landed::default() };
        if self.is_dense(chunk, landed.rows) {
            return Ok(None);
        }
        for some in rows.chunks(BATCH_ROWS) {
            let keys: Vec<&[u8]> = some.iter().map(|(key, _)| &key[..]).collect();
            let there = self.look_up(At::Secondary, &pair.digest_sql(At::Secondary), pair, &keys, digested).await?;
            for (key, digest) in some {
                let how = match there.get(key) {
                    Some(other) if other == digest => continue,
                    Some(_) => Differs::Different,
                    None => Differs::Missing,
                };
                landed.differing.push(difference(how, key));
            }
        }
        Ok(Some(landed))
    }

    /// Rows of the secondary are looked for on the primary. `None`: it is dense.
    async fn back(&mut self, chunk: &Chunk, pair: &Arc<Pair>) -> Result<Option<Landed>, Trouble> {
        if let Some(rows) = self.alike(chunk, pair).await? {
            return Ok(Some(Landed { rows, alike: true, ..Landed::default() }));
        }
        let (asked, part) = (pair.asked("t", At::Secondary), pair.part(&chunk.name, At::Secondary));
        let sql = format!("SELECT {asked} FROM {part} t WHERE {STRETCH}{}", self.limit(chunk));
        let [from, to] = stretch(chunk);
        let params = [Param::text(&from), Param::text(&to)];
        let rows = self.secondary.query(&sql, &params, Format::Text).await;
        let rows = rows.map_err(|error| Trouble::reading(At::Secondary, pair.id, error))?;
        if self.is_dense(chunk, rows.len() as u64) {
            return Ok(None);
        }
        let keys = rows.iter().map(|row| key_of_text(pair, row)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(Trouble::Secondary)?;
        let mut landed = Landed { rows: keys.len() as u64, ..Landed::default() };
        for some in keys.chunks(BATCH_ROWS) {
            let some: Vec<&[u8]> = some.iter().map(|key| &key[..]).collect();
            let there = self.look_up(At::Primary, &pair.present_sql(), pair, &some, present).await?;
            let extra = some.into_iter().filter(|key| !there.contains_key(*key));
            landed.differing.extend(extra.map(|key| difference(Differs::Extra, key)));
        }
        Ok(Some(landed))
    }

    /// Rows of one side by key.
    async fn look_up(
        &mut self,
        at: At,
        sql: &str,
        pair: &Arc<Pair>,
        keys: &[&[u8]],
        read: ReadKeyed,
    ) -> Result<HashMap<Vec<u8>, Bytes>, Trouble> {
        let mut found = HashMap::with_capacity(keys.len());
        let conn = if at == At::Primary { &mut self.primary } else { &mut self.secondary };
        let trouble = |error| Trouble::reading(at, pair.id, error);
        for batch in batches(pair, keys, BATCH_ROWS, BATCH_BYTES) {
            conn.put_prepared(sql, &Arrays::of(pair, batch).params(), Format::Binary);
            let check = match at {
                At::Primary => Some(check::put(conn, [pair].into_iter())),
                At::Secondary => None,
            };
            if check.is_none() {
                conn.put_sync();
            }
            conn.send().await.map_err(trouble)?;
            while let Some(row) = conn.next_row_of_statement().await.map_err(trouble)? {
                found.extend([read(pair, &row).map_err(trouble)?]);
            }
            match check {
                Some(check) => check.read(conn).await?,
                None => conn.finish().await.map_err(trouble)?,
            }
        }
        Ok(found)
    }
}

const FILENODE: &str = "SELECT relfilenode FROM pg_catalog.pg_class WHERE oid = $1::pg_catalog.oid";

fn stretch(chunk: &Chunk) -> [String; 2] {
    [format!("({},0)", chunk.from), format!("({},0)", chunk.to)]
}

fn difference(how: Differs, key: &[u8]) -> Difference {
    Difference { how, key: key.into(), shown: key::shown(key) }
}

/// The key in the columns from `at` on, as [`Pair::asked`] asks for them.
fn key_of(pair: &Pair, row: &DataRow, at: usize) -> Result<Vec<u8>, client::Error> {
    read_key(pair, row, at, pair.binary)
}

fn key_of_text(pair: &Pair, row: &DataRow) -> Result<Vec<u8>, client::Error> {
    read_key(pair, row, 0, false)
}

fn read_key(pair: &Pair, row: &DataRow, at: usize, binary: bool) -> Result<Vec<u8>, client::Error> {
    let mut columns = Vec::with_capacity(pair.key.len());
    for (n, value) in row.values().enumerate().skip(at) {
        columns.push(Returned { value: value?.ok_or(client::Error::Value(n))?, binary });
    }
    let mut key = Vec::new();
    key::from_returned(&pair.primary, &columns, &mut key).map_err(|_| client::Error::Value(at))?;
    Ok(key)
}

/// A row's key, and what else is asked of it.
type Keyed = (Vec<u8>, Bytes);

type ReadKeyed = fn(&Pair, &DataRow) -> Result<Keyed, client::Error>;

/// A row of [`Pair::digest_sql`], in binary.
fn digested(pair: &Pair, row: &DataRow) -> Result<Keyed, client::Error> {
    let digest = row.get(0)?.ok_or(client::Error::Value(0))?;
    Ok((read_key(pair, row, 1, true)?, Bytes::copy_from_slice(digest)))
}

fn present(pair: &Pair, row: &DataRow) -> Result<Keyed, client::Error> {
    Ok((read_key(pair, row, 0, true)?, Bytes::new()))
}

/// Rows on their way to the secondary, and their keys where it may have them.
struct Batch {
    columns: usize,
    binary: bool,
    rows: BytesMut,
    keys: Vec<Vec<u8>>,
    count: usize,
}

impl Batch {
    fn new(pair: &Pair) -> Batch {
        Batch { columns: pair.columns().len(), binary: pair.binary, rows: BytesMut::new(), keys: Vec::new(), count: 0 }
    }

    fn add(&mut self, pair: &Pair, row: &DataRow, clean: bool) -> Result<(), client::Error> {
        self.count += 1;
        if !clean {
            self.keys.push(key_of(pair, row, self.columns)?);
        }
        if !self.binary {
            return put_text(&mut self.rows, row.values().take(self.columns));
        }
        if clean {
            self.rows.extend_from_slice(&row.0);
            return Ok(());
        }
        self.rows.put_u16(self.columns as u16);
        for value in row.values().take(self.columns) {
            client::put_value(&mut self.rows, value?);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_BYTES || self.keys.len() >= BATCH_ROWS
    }

    /// Delete what is there and copy what is here; how many bytes. Answers are read later.
    async fn write(&mut self, conn: &mut Client, pair: &Arc<Pair>, into: &mut Writes) -> Result<u64, Trouble> {
        if std::mem::take(&mut self.count) == 0 {
            return Ok(0);
        }
        if !self.keys.is_empty() {
            let mut keys: Vec<&[u8]> = self.keys.iter().map(|key| &key[..]).collect();
            keys.sort_unstable();
            for batch in batches(pair, &keys, BATCH_ROWS, BATCH_BYTES) {
                conn.put_prepared(&pair.delete_sql(), &Arrays::of(pair, batch).params(), Format::Text);
                conn.put_sync();
                into.answers += 1;
            }
            self.keys.clear();
        }
        into.put_query(conn, &pair.copy_sql());
        if self.binary {
            conn.put_copy_data(BINARY_START);
        }
        // A message is one write of the kernel's at most.
        for part in self.rows.chunks(SEND_BYTES) {
            conn.put_copy_data(part);
            conn.send().await.map_err(Trouble::Secondary)?;
        }
        if self.binary {
            conn.put_copy_data(BINARY_END);
        }
        wire::bare(conn.out(), front::COPY_DONE);
        conn.send().await.map_err(Trouble::Secondary)?;
        let bytes = self.rows.len() as u64;
        self.rows.clear();
        Ok(bytes)
    }
}

/// What was put to the secondary and is not answered yet.
#[derive(Default)]
struct Writes {
    answers: usize,
}

impl Writes {
    fn put_query(&mut self, conn: &mut Client, sql: &str) {
        conn.put_query(sql);
        self.answers += 1;
    }

    /// Read all answers: the first refusal, if there is one.
    async fn settle(&mut self, conn: &mut Client, table: TableId) -> Result<(), Trouble> {
        conn.send().await.map_err(Trouble::Secondary)?;
        let mut refused = None;
        while self.answers > 0 {
            let message = conn.recv().await.map_err(Trouble::Secondary)?;
            match message.kind {
                back::ERROR_RESPONSE if refused.is_none() => {
                    refused = Some(DbError::parse(&message.body).map_err(|error| Trouble::Secondary(error.into()))?);
                }
                back::READY_FOR_QUERY => self.answers -= 1,
                _ => (),
            }
        }
        match refused {
            None => Ok(()),
            Some(error) if error.code == LOCKED => Err(Trouble::Locked(At::Secondary, vec![table], error.to_string())),
            Some(error) if of_the_table(&error.code) => Err(Trouble::Table(table, Box::new(error))),
            Some(error) => Err(Trouble::Secondary(error.into())),
        }
    }
}
