//! One payment at S: gather, close, read, write, and what to do when the secondary refuses a row.
//!
//! The normal way is one pipeline: reads go to the primary, deletes to the secondary, rows stream from one into COPY of
//! the other as the bytes they are (a DataRow in binary is a tuple of `COPY .. (FORMAT binary)`), the schema is checked
//! to be the one that was read, and counter and COMMIT follow. A failed statement makes the COMMIT a ROLLBACK, so
//! nothing is waited for in between.
//! Five round trips, one after the other, are a small payment: S, the rows, the schema's check, the secondary's whole
//! transaction, the end of S. Larger ones add none on the secondary, and one on the primary for each batch of keys.
//!
//! A refusal is mended at the same S: a unique value held by a row that nobody owed makes the holder owed, three
//! times; then the table's rows go one group after the other under savepoints, halved until the refused ones are
//! known. Those are reported and absent on the secondary; all else is exact.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use crate::mirror::state::copier::{self, Owed, Paid, Refused};
use crate::protocol::postgres::catalog::{Kind, LoadError, quote};
use crate::protocol::postgres::client::{self, Client, DbError, Format, Param, SEND_BYTES};
use crate::protocol::postgres::key::Layout;
use crate::protocol::postgres::wire::back;
use crate::record::{TableId, get_varint};

use super::Options;
use super::closure::{close, parents_first, read_keys};
use super::copy::{CopyOut, Reader, Request};
use super::debt::{Arrays, Debt, Debts, batches, refused_key, refused_table, reorder, well_formed};
use super::link::{Link, beside, on_primary, on_secondary};
use super::schema::{At, Home, Pair};

/// How often the holders of unique values are looked for before a table goes row by row.
const ROUNDS: usize = 3;

/// Why an attempt ended.
pub(super) enum Trouble {
    /// The primary's connection, or its server.
    Primary(client::Error),
    /// The secondary's connection, or its server.
    Secondary(client::Error),
    /// The secondary refuses what was written to this table.
    Table(TableId, Box<DbError>),
    /// The primary refuses to read this table; S is gone with it.
    Unreadable(TableId, String),
    /// Not the schema that was read.
    Stale(String),
}

impl Trouble {
    pub(super) fn reading(at: At, table: TableId, error: client::Error) -> Trouble {
        match at {
            At::Primary => Trouble::reading_primary(table, error),
            // Only the closure reads there: as with the primary, the table is left out and S taken anew.
            At::Secondary => match Trouble::writing(table, error) {
                Trouble::Table(table, error) => Trouble::Unreadable(table, error.to_string()),
                trouble => trouble,
            },
        }
    }

    pub(super) fn reading_primary(table: TableId, error: client::Error) -> Trouble {
        match error {
            client::Error::Db(error) => match error.code.as_str() {
                "42P01" | "42703" | "42883" | "42704" | "3F000" | "55P03" | "40001" | "57014" => {
                    Trouble::Stale(error.to_string())
                }
                code if !about_the_statement(code) => Trouble::Primary(client::Error::Db(error)),
                _ => Trouble::Unreadable(table, error.to_string()),
            },
            error => Trouble::Primary(error),
        }
    }

    fn writing(table: TableId, error: client::Error) -> Trouble {
        match error {
            client::Error::Db(error) => match error.code.as_str() {
                "42P01" | "42703" => Trouble::Stale(error.to_string()),
                code if about_the_statement(code) => Trouble::Table(table, error),
                _ => Trouble::Secondary(client::Error::Db(error)),
            },
            error => Trouble::Secondary(error),
        }
    }

    /// What the engine is told, and whether the connections are still good.
    pub(super) fn told(self) -> (copier::Error, bool) {
        match self {
            Trouble::Primary(error) => (on_primary(error), false),
            Trouble::Secondary(error) => (on_secondary(error), false),
            Trouble::Table(_, error) => (copier::Error::Secondary(error.to_string()), false),
            Trouble::Unreadable(_, why) => (copier::Error::Stale(why), true),
            Trouble::Stale(why) => (copier::Error::Stale(why), true),
        }
    }
}

/// The SQLSTATE speaks of the statement and its rows (data, constraints, types, privileges), not of the server's state.
fn about_the_statement(code: &str) -> bool {
    ["0A", "21", "22", "23", "42", "44", "P0", "54", "27", "38", "39", "2F"].iter().any(|class| code.starts_with(class))
}

fn loading(error: LoadError, side: fn(client::Error) -> Trouble) -> Trouble {
    match error {
        LoadError::Client(error) => side(error),
        other => side(client::Error::Config(other.to_string())),
    }
}

/// Run one payment. On `Ok` the secondary has committed it; S is still open.
pub(super) async fn pay(link: &mut Link, owed: &Owed, options: &Options) -> Result<Paid, Trouble> {
    let mut payment = Payment::begin(link, owed, options).await?;
    close(payment.link, &mut payment.debts, options.batch_keys).await?;
    let mut rounds: HashMap<TableId, usize> = HashMap::new();
    loop {
        match payment.attempt().await {
            Ok(()) => break,
            Err(Trouble::Table(table, error)) => {
                let round = rounds.entry(table).or_default();
                *round += 1;
                payment.mend(table, &error, *round).await?;
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(payment.paid)
}

struct Payment<'p> {
    link: &'p mut Link,
    owed: &'p Owed,
    options: &'p Options,
    debts: Debts<'p>,
    /// Tables that go group by group.
    isolated: HashSet<TableId>,
    paid: Paid,
    /// The secondary is inside our transaction.
    begun: bool,
}

/// One statement that was put to the secondary.
enum Step {
    Plain,
    Delete(TableId),
    Copy(TableId),
    Count,
    Commit,
}

impl<'p> Payment<'p> {
    async fn begin(link: &'p mut Link, owed: &'p Owed, options: &'p Options) -> Result<Payment<'p>, Trouble> {
        let (debts, isolated) = (Debts::new(), HashSet::new());
        let mut payment = Payment { link, owed, options, debts, isolated, paid: Paid::default(), begun: false };
        let refused = payment.begin_and_repeat_ddl().await?;
        if payment.link.schema_stale || !owed.ddl.is_empty() || payment.owes_by_other_keys() {
            payment.load().await?;
        }
        payment.gather();
        for (table, why) in refused {
            let name = payment.link.schema.name(table);
            payment.refuse(table, name, why);
        }
        Ok(payment)
    }

    /// Was anything captured under another key than the table's as far as known?
    fn owes_by_other_keys(&self) -> bool {
        let other = |table, key: &[u8]| Layout::of_key(key) != self.link.schema.layout(table);
        self.owed.keys.iter().any(|(&table, keys)| keys.keys().any(|key| other(table, key)))
    }

    async fn load(&mut self) -> Result<(), Trouble> {
        // Until the payment is committed, what was read of the secondary may be rolled back.
        self.link.schema_stale = true;
        let link = &mut *self.link;
        let pulse = link.options.pulse();
        let primary = link.schema.load_primary(&mut link.primary);
        beside(&mut link.secondary, pulse, primary).await.map_err(|error| loading(error, Trouble::Primary))?;
        let secondary = link.schema.load_secondary(&mut link.secondary);
        beside(&mut link.primary, pulse, secondary).await.map_err(|error| loading(error, Trouble::Secondary))
    }

    /// With schema changes to repeat: begin the transaction with them. Returns those that the secondary refused.
    async fn begin_and_repeat_ddl(&mut self) -> Result<Vec<(TableId, String)>, Trouble> {
        let mut refused = Vec::new();
        if self.owed.ddl.is_empty() {
            return Ok(refused);
        }
        let (conn, pulse) = (&mut self.link.secondary, self.link.options.pulse());
        conn.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        self.begun = true;
        for (table, body) in &self.owed.ddl {
            if let Err(why) = beside(&mut self.link.primary, pulse, repeat(conn, body)).await? {
                refused.push((*table, why));
            }
        }
        set_search_path(conn, &self.link.search_path).await?;
        Ok(refused)
    }

    fn gather(&mut self) {
        let schema = &mut self.link.schema;
        let mut refused = Vec::new();
        for (&table, keys) in &self.owed.keys {
            let (pair, places) = match schema.home(table) {
                Home::Pair(pair, places) => (pair, places),
                Home::Nowhere => continue,
                Home::Refused(name, why) => {
                    refused.push(refused_table(table, name, why));
                    continue;
                }
            };
            let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
            let layout = schema.layout(table);
            debt.keys.reserve(keys.len());
            for (key, &flagged) in keys {
                if Layout::of_key(key) != layout {
                    // The table has got another key since: nothing says which row this was.
                    debt.whole = true;
                    continue;
                }
                if !well_formed(&pair, key) {
                    refused.push(refused_key(&pair, key, "the record's key is malformed".into()));
                    continue;
                }
                let key =
                    places.as_ref().map_or(Cow::Borrowed(&key[..]), |places| Cow::Owned(reorder(&pair, key, places)));
                debt.owe(key, flagged);
            }
        }
        for &table in &self.owed.tables {
            match schema.home(table) {
                Home::Pair(pair, _) => self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair)).whole = true,
                Home::Nowhere => (),
                Home::Refused(name, why) => refused.push(refused_table(table, name, why)),
            }
        }
        self.paid.refused = refused;
        for (table, why) in self.link.poisoned.clone() {
            let name = self.link.schema.name(table);
            self.refuse(table, name, why);
        }
    }

    /// Leave a table out.
    fn refuse(&mut self, table: TableId, name: String, why: String) {
        self.debts.remove(&table);
        self.isolated.remove(&table);
        self.paid.refused.push(refused_table(table, name, why));
    }

    async fn attempt(&mut self) -> Result<(), Trouble> {
        let order = self.order();
        let mut steps = Steps::default();
        if !self.begun {
            self.link.secondary.put_query("BEGIN");
            steps.put(Step::Plain);
            self.begun = true;
        }
        // One statement a table where foreign keys act: a table that points at itself must not lose half its rows.
        let batch_keys = if self.link.replica { self.options.batch_keys } else { usize::MAX };
        let sorted: HashMap<TableId, Vec<&[u8]>> = self.debts.iter().map(|(id, debt)| (*id, debt.sorted())).collect();
        let requests = requests(&self.debts, &order, &sorted, &self.isolated, batch_keys);
        let mut reader = Reader::new(requests);
        reader.pump(&mut self.link.primary).await.map_err(Trouble::Primary)?;
        for id in order.iter().rev() {
            delete(self.link, &self.debts[id], &sorted[id], batch_keys, &mut steps).await?;
        }
        let mut bytes = 0;
        for id in order.iter().filter(|id| !self.isolated.contains(id)) {
            bytes += copy(self.link, &mut reader, &self.debts[id].pair, &mut steps).await?;
        }
        let mut refused = Vec::new();
        if !self.isolated.is_empty() {
            steps.settle(self.link).await?;
            for id in order.iter().filter(|id| self.isolated.contains(id)) {
                let (keys, pair) = (&sorted[id], &self.debts[id].pair);
                bytes += isolate(self.link, pair, keys, self.options.batch_keys, &mut steps.rows, &mut refused).await?;
            }
        }
        check_schema(self.link, &self.debts).await?;
        let conn = &mut self.link.secondary;
        conn.put_statement("UPDATE tandem.payment SET n = n + 1 RETURNING n", &[], Format::Text);
        conn.put_sync();
        steps.put(Step::Count);
        conn.put_query("COMMIT");
        steps.put(Step::Commit);
        steps.settle(self.link).await?;
        self.paid.payments = steps.payments.ok_or(Trouble::Secondary(client::Error::Value(0)))?;
        self.paid.keys = sorted.values().map(|keys| keys.len() as u64).sum();
        (self.paid.rows, self.paid.bytes) = (steps.rows, bytes);
        self.paid.refused.append(&mut refused);
        self.link.payments = self.paid.payments;
        self.link.schema_stale = false;
        Ok(())
    }

    /// The order in which rows are written.
    fn order(&mut self) -> Vec<TableId> {
        let mut tables: Vec<TableId> = self.debts.keys().copied().collect();
        tables.sort_unstable();
        if self.link.replica { tables } else { parents_first(&mut self.link.schema, &tables) }
    }

    /// After a refusal: undo, change what is paid, and begin again.
    async fn mend(&mut self, table: TableId, error: &DbError, round: usize) -> Result<(), Trouble> {
        self.link.secondary.simple("ROLLBACK").await.map_err(Trouble::Secondary)?;
        self.begun = false;
        let (whole, pair) = match self.debts.get(&table) {
            Some(debt) => (debt.whole, debt.pair.clone()),
            None => return Err(Trouble::Secondary(error.clone().into())),
        };
        self.begin_and_repeat_ddl().await?;
        let by_rows = error.code.starts_with("22") || error.code.starts_with("23") || error.code.starts_with("P0");
        if !by_rows || whole || self.isolated.contains(&table) {
            self.refuse(table, pair.primary.sql(), error.to_string());
            return Ok(());
        }
        if error.code == "23505" && round <= ROUNDS {
            let holders = self.holders(&pair, error).await?;
            let debt = self.debts.get_mut(&table).expect("found above");
            let news = holders.into_iter().filter(|key| debt.owe(Cow::Owned(key.clone()), !self.link.replica)).count();
            if news > 0 {
                return if self.link.replica {
                    Ok(())
                } else {
                    close(self.link, &mut self.debts, self.options.batch_keys).await
                };
            }
        }
        self.isolated.insert(table);
        Ok(())
    }

    /// Rows of the secondary that hold a unique value which owed rows bring: a stranger's, or a dirty row.
    async fn holders(&mut self, pair: &Pair, error: &DbError) -> Result<Vec<Vec<u8>>, Trouble> {
        let (Some(schema), Some(index)) = (&error.schema, &error.constraint) else { return Ok(Vec::new()) };
        let name = format!("{}.{}", quote(schema), quote(index));
        let conn = &mut self.link.secondary;
        let Some(unique) = Unique::read(conn, &name).await.map_err(Trouble::Secondary)? else { return Ok(Vec::new()) };
        if !std::mem::replace(&mut self.begun, true) {
            conn.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        }
        conn.simple("SAVEPOINT tandem_scratch").await.map_err(Trouble::Secondary)?;
        let found = self.held_values(pair, &unique).await;
        self.link.secondary.simple("ROLLBACK TO tandem_scratch").await.map_err(Trouble::Secondary)?;
        match found {
            // Not even the scratch table takes the rows: then row by row.
            Err(Trouble::Table(..)) => Ok(Vec::new()),
            found => found,
        }
    }

    async fn held_values(&mut self, pair: &Pair, unique: &Unique) -> Result<Vec<Vec<u8>>, Trouble> {
        let refused = |error| Trouble::writing(pair.id, error);
        self.link.secondary.simple(&pair.scratch_sql()).await.map_err(refused)?;
        let keys = self.debts[&pair.id].sorted();
        for batch in batches(pair, &keys, self.options.batch_keys) {
            copy_batch(self.link, pair, batch, "pg_temp.tandem_in").await?;
        }
        let mut found = Vec::new();
        let (link, sql, none) = (&mut *self.link, unique.holders_sql(pair), Arrays::none());
        let reading = read_keys(&mut link.secondary, pair, &sql, &none, &mut found);
        beside(&mut link.primary, link.options.pulse(), reading).await.map_err(refused)?;
        Ok(found)
    }
}

/// The SQLSTATEs of a schema change that was done already.
const DONE_ALREADY: &[&str] = &[
    "42P07", "42701", "42710", "42P06", "42723", "42P16", // there already
    "42P01", "42703", "42704", "3F000", "42883", // gone already
];

/// Repeat one schema change: a varint length and the search path it was made under, then its text.
async fn repeat(conn: &mut Client, body: &[u8]) -> Result<Result<(), String>, Trouble> {
    let Some((path, sql)) = ddl(body) else { return Ok(Err("the record's schema change is malformed".into())) };
    conn.simple("SAVEPOINT tandem_ddl").await.map_err(Trouble::Secondary)?;
    set_search_path(conn, path).await?;
    let why = match conn.simple(&without_concurrently(sql)).await {
        Ok(_) => return Ok(Ok(())),
        Err(client::Error::Db(error)) => error,
        Err(error) => return Err(Trouble::Secondary(error)),
    };
    if !about_the_statement(&why.code) && !why.code.starts_with("25") && !why.code.starts_with("55") {
        return Err(Trouble::Secondary(client::Error::Db(why)));
    }
    conn.simple("ROLLBACK TO tandem_ddl").await.map_err(Trouble::Secondary)?;
    Ok(if DONE_ALREADY.contains(&why.code.as_str()) { Ok(()) } else { Err(why.to_string()) })
}

fn ddl(mut body: &[u8]) -> Option<(&str, &str)> {
    let len = usize::try_from(get_varint(&mut body)?).ok()?;
    let (path, sql) = body.split_at_checked(len)?;
    let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    Some((text(path)?, text(sql)?))
}

/// CONCURRENTLY cannot run inside a transaction, and ours locks nobody out but readers of the secondary: the change is
/// repeated without the word. It is reserved, so nothing else is spelt like it without quotes. Materialized views are
/// the exception: they may be refreshed so anywhere.
fn without_concurrently(sql: &str) -> Cow<'_, str> {
    use pg_query::protobuf::Token;
    let Ok(scanned) = pg_query::scan(sql) else { return Cow::Borrowed(sql) };
    if scanned.tokens.iter().any(|token| token.token == Token::Materialized as i32) {
        return Cow::Borrowed(sql);
    }
    let mut kept = Cow::Borrowed(sql);
    for token in scanned.tokens.iter().rev().filter(|token| token.token == Token::Concurrently as i32) {
        let range = usize::try_from(token.start).unwrap_or(0)..usize::try_from(token.end).unwrap_or(0);
        if kept.get(range.clone()).is_some() {
            kept.to_mut().replace_range(range, " ");
        }
    }
    kept
}

async fn set_search_path(conn: &mut Client, path: &str) -> Result<(), Trouble> {
    let sql = "SELECT pg_catalog.set_config('search_path', $1, true)";
    match conn.query(sql, &[Param::text(path)], Format::Text).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Trouble::Secondary(error)),
    }
}

fn requests<'k>(
    debts: &Debts<'_>,
    order: &[TableId],
    sorted: &'k HashMap<TableId, Vec<&'k [u8]>>,
    isolated: &HashSet<TableId>,
    batch_keys: usize,
) -> VecDeque<Request<'k>> {
    let mut requests = VecDeque::new();
    for id in order.iter().filter(|id| !isolated.contains(id)) {
        let debt = &debts[id];
        if debt.whole {
            requests.push_back(Request { pair: debt.pair.clone(), keys: None });
        }
        let batches = batches(&debt.pair, &sorted[id], batch_keys).into_iter();
        requests.extend(batches.map(|keys| Request { pair: debt.pair.clone(), keys: Some(keys) }));
    }
    requests
}

async fn delete(
    link: &mut Link,
    debt: &Debt<'_>,
    keys: &[&[u8]],
    batch_keys: usize,
    steps: &mut Steps,
) -> Result<(), Trouble> {
    let id = debt.pair.id;
    if debt.whole {
        link.secondary.put_query(&debt.pair.delete_whole_sql());
        steps.put(Step::Delete(id));
    }
    let sql = debt.pair.delete_sql();
    for batch in batches(&debt.pair, keys, batch_keys) {
        link.secondary.put_statement(&sql, &Arrays::of(&debt.pair, batch).params(), Format::Text);
        link.secondary.put_sync();
        steps.put(Step::Delete(id));
        if link.secondary.unsent() >= SEND_BYTES {
            send_to_secondary(link).await?;
        }
        steps.keep_near(link).await?;
    }
    Ok(())
}

/// Stream one table's rows; how many bytes.
async fn copy(link: &mut Link, reader: &mut Reader<'_>, pair: &Pair, steps: &mut Steps) -> Result<u64, Trouble> {
    let mut out = CopyOut::new(pair.copy_sql(), pair.binary);
    while reader.next_is(pair.id) {
        let unreadable = |error| Trouble::reading_primary(pair.id, error);
        // The primary is silent while it works: let the secondary work meanwhile.
        out.close(&mut link.secondary);
        send_to_secondary(link).await?;
        stream(link, &mut out, unreadable).await?;
        reader.done(&mut link.primary).await.map_err(Trouble::Primary)?;
    }
    if out.end(&mut link.secondary) {
        steps.put(Step::Copy(pair.id));
    }
    Ok(out.bytes())
}

/// Rows of one answer into a COPY. If reading fails the COPY is given up, so that its connection lives on.
async fn stream(
    link: &mut Link,
    out: &mut CopyOut,
    unreadable: impl Fn(client::Error) -> Trouble,
) -> Result<(), Trouble> {
    loop {
        match next_row(link, out).await {
            Ok(Some(row)) if out.row(&mut link.secondary, &row).map_err(Trouble::Primary)? => {
                out.close(&mut link.secondary);
                send_to_secondary(link).await?;
            }
            Ok(Some(_)) => (),
            Ok(None) => return Ok(()),
            Err(error) => {
                out.give_up(&mut link.secondary);
                return Err(unreadable(error));
            }
        }
    }
}

/// The primary may be long in finding a row: the secondary is told meanwhile that we are alive.
async fn next_row(link: &mut Link, out: &mut CopyOut) -> Result<Option<client::DataRow>, client::Error> {
    let (pulse, to) = (link.options.pulse(), &mut link.secondary);
    let next = link.primary.next_row();
    tokio::pin!(next);
    loop {
        tokio::select! {
            biased;
            row = &mut next => return row,
            () = async { tokio::time::sleep(pulse).await } => {
                // If this fails, the next send will say so.
                let _ = out.wait(to).await;
            }
        }
    }
}

/// The secondary may be long in taking it: the primary is told meanwhile that we are alive.
async fn send_to_secondary(link: &mut Link) -> Result<(), Trouble> {
    let sending = link.secondary.send();
    beside(&mut link.primary, link.options.pulse(), sending).await.map_err(Trouble::Secondary)
}

/// Copy one batch by itself and wait for the answer: how many rows and bytes.
async fn copy_batch(link: &mut Link, pair: &Pair, keys: &[&[u8]], table: &str) -> Result<(u64, u64), Trouble> {
    let arrays = Arrays::of(pair, keys);
    let from = &mut link.primary;
    from.put_statement(&pair.read_sql(), &arrays.params(), if pair.binary { Format::Binary } else { Format::Text });
    from.put_sync();
    from.send().await.map_err(Trouble::Primary)?;
    let mut out = CopyOut::new(pair.copy_into(table), pair.binary);
    stream(link, &mut out, |error| Trouble::reading_primary(pair.id, error)).await?;
    let mut steps = Steps::default();
    if out.end(&mut link.secondary) {
        steps.put(Step::Copy(pair.id));
        steps.settle(link).await?;
    }
    Ok((steps.rows, out.bytes()))
}

/// Copy a table group by group, halving what is refused, until the refused keys are known.
async fn isolate(
    link: &mut Link,
    pair: &Pair,
    keys: &[&[u8]],
    batch_keys: usize,
    rows: &mut u64,
    refused: &mut Vec<Refused>,
) -> Result<u64, Trouble> {
    let mut bytes = 0;
    let mut left: Vec<&[&[u8]]> = batches(pair, keys, batch_keys);
    left.reverse();
    while let Some(group) = left.pop() {
        link.secondary.simple("SAVEPOINT tandem_group").await.map_err(Trouble::Secondary)?;
        let error = match copy_batch(link, pair, group, &pair.secondary.sql()).await {
            Ok((copied, size)) => {
                link.secondary.simple("RELEASE tandem_group").await.map_err(Trouble::Secondary)?;
                *rows += copied;
                bytes += size;
                continue;
            }
            Err(Trouble::Table(_, error)) => error,
            Err(trouble) => return Err(trouble),
        };
        link.secondary.simple("ROLLBACK TO tandem_group").await.map_err(Trouble::Secondary)?;
        match group {
            [key] => refused.push(refused_key(pair, key, error.to_string())),
            group => {
                let (low, high) = group.split_at(group.len() / 2);
                left.extend([high, low]);
            }
        }
    }
    Ok(bytes)
}

/// How many statements may be on their way to the secondary with their answers unread. A short answer takes about 1 KiB
/// of a socket's buffer; were the buffer full, the server would wait for us while we wait for it.
const STEPS_AHEAD: usize = 64;

/// What was put to the secondary and not answered yet, and what the answers said so far.
#[derive(Default)]
struct Steps {
    waiting: VecDeque<Step>,
    /// The first refusal: all behind it failed with it.
    first: Option<Trouble>,
    rows: u64,
    payments: Option<u64>,
}

impl Steps {
    fn put(&mut self, step: Step) {
        self.waiting.push_back(step);
    }

    /// Read answers if too many are owed; what they refuse is told by [`Steps::settle`].
    async fn keep_near(&mut self, link: &mut Link) -> Result<(), Trouble> {
        if self.waiting.len() <= STEPS_AHEAD { Ok(()) } else { self.read_down_to(link, STEPS_AHEAD / 2).await }
    }

    /// Send what was put and read all answers.
    async fn settle(&mut self, link: &mut Link) -> Result<(), Trouble> {
        self.read_down_to(link, 0).await?;
        self.first.take().map_or(Ok(()), Err)
    }

    async fn read_down_to(&mut self, link: &mut Link, left: usize) -> Result<(), Trouble> {
        send_to_secondary(link).await?;
        let count = self.waiting.len().saturating_sub(left);
        for step in self.waiting.drain(..count).collect::<Vec<_>>() {
            let answer = outcome(&mut link.secondary);
            let answer = beside(&mut link.primary, link.options.pulse(), answer).await;
            let (row, error) = answer.map_err(Trouble::Secondary)?;
            self.note(&link.secondary, step, row, error)?;
        }
        Ok(())
    }

    fn note(
        &mut self,
        conn: &Client,
        step: Step,
        row: Option<client::DataRow>,
        error: Option<DbError>,
    ) -> Result<(), Trouble> {
        match (step, error) {
            (_, Some(_)) if self.first.is_some() => (),
            (Step::Delete(id) | Step::Copy(id), Some(error)) => self.first = Some(Trouble::writing(id, error.into())),
            (_, Some(error)) => self.first = Some(Trouble::Secondary(error.into())),
            (Step::Copy(_), None) => self.rows += conn.affected(),
            (Step::Count, None) => self.payments = row.and_then(|row| row.parse(0).ok()),
            (Step::Commit, None) if self.first.is_none() && conn.tag() != "COMMIT" => {
                return Err(Trouble::Secondary(client::Error::Unexpected { kind: 'C', doing: "committing" }));
            }
            _ => (),
        }
        Ok(())
    }
}

/// One answer up to ReadyForQuery: its last row, or its error.
async fn outcome(conn: &mut Client) -> Result<(Option<client::DataRow>, Option<DbError>), client::Error> {
    let (mut row, mut error) = (None, None);
    loop {
        let message = match (conn.recv().await, error) {
            (Err(client::Error::Closed), Some(fatal)) => return Err(DbError::into(fatal)),
            (message, earlier) => {
                error = earlier;
                message?
            }
        };
        match message.kind {
            back::DATA_ROW => row = Some(client::DataRow(message.body)),
            back::ERROR_RESPONSE if error.is_none() => error = Some(DbError::parse(&message.body)?),
            back::READY_FOR_QUERY => return Ok((row, error)),
            _ => (),
        }
    }
}

/// What was read "at S" was there at S: no table was rewritten, truncated, dropped, renamed or widened since, and the
/// partitions are the known ones. `pg_class` is read at S; `pg_relation_filenode`, `to_regclass` and
/// `pg_partition_tree` answer for now. The tables are locked by the reads before, so now stays true until S ends.
async fn check_schema(link: &mut Link, debts: &Debts<'_>) -> Result<(), Trouble> {
    let sql = "SELECT (SELECT pg_catalog.count(*) FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.int4[]) u(o, n) \
        JOIN pg_catalog.pg_class c ON c.oid = u.o AND c.relnatts = u.n \
        AND c.relfilenode = coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)), \
        (SELECT pg_catalog.count(*) FROM unnest($3::pg_catalog.oid[], $4::pg_catalog.text[]) r(o, n) \
        WHERE pg_catalog.to_regclass(n) = o), \
        (SELECT pg_catalog.count(*) FROM unnest($5::pg_catalog.oid[]) r(o), pg_catalog.pg_partition_tree(o))";
    let (mut oids, mut natts, mut roots, mut names, mut trees) = (vec![], vec![], vec![], vec![], vec![]);
    let mut partitions = 0;
    for debt in debts.values() {
        let tree = link.schema.tree(&debt.pair);
        if debt.pair.primary.kind == Kind::Partitioned {
            partitions += tree.len();
            trees.push(debt.pair.primary.oid.to_string());
        }
        oids.extend(tree.iter().map(|(oid, _)| oid.to_string()));
        natts.extend(tree.iter().map(|(_, natts)| natts.to_string()));
        roots.push(debt.pair.primary.oid.to_string());
        names.push(format!("\"{}\"", debt.pair.primary.sql().replace('\\', "\\\\").replace('"', "\\\"")));
    }
    if roots.is_empty() {
        return Ok(());
    }
    let expected = [oids.len(), roots.len(), partitions];
    let arrays = [oids, natts, roots, names, trees].map(|values| format!("{{{}}}", values.join(",")));
    let params = [0, 1, 2, 3, 4].map(|at| Param::text(&arrays[at]));
    let asking = link.primary.query(sql, &params, Format::Text);
    let rows = beside(&mut link.secondary, link.options.pulse(), asking).await.map_err(Trouble::Primary)?;
    let row = rows.first().ok_or(Trouble::Primary(client::Error::Value(0)))?;
    for (at, expected) in expected.into_iter().enumerate() {
        if row.parse::<usize>(at).map_err(Trouble::Primary)? != expected {
            return Err(Trouble::Stale("a table was rewritten, changed or moved".into()));
        }
    }
    Ok(())
}

/// A unique index, column by column.
struct Unique {
    expressions: Vec<String>,
    predicate: Option<String>,
}

impl Unique {
    async fn read(conn: &mut Client, name: &str) -> Result<Option<Unique>, client::Error> {
        let sql = "SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k::pg_catalog.int4, false), \
            pg_catalog.pg_get_expr(i.indpred, i.indrelid) FROM pg_catalog.pg_index i, \
            pg_catalog.generate_series(1, i.indnkeyatts) k \
            WHERE i.indisunique AND i.indexrelid = pg_catalog.to_regclass($1) ORDER BY k";
        let rows = conn.query(sql, &[Param::text(name)], Format::Text).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let predicate = first.text(1)?.map(str::to_owned);
        Ok(Some(Unique { expressions: rows.iter().map(|row| row.string(0)).collect::<Result<_, _>>()?, predicate }))
    }

    fn holders_sql(&self, pair: &Pair) -> String {
        let values: Vec<_> =
            self.expressions.iter().enumerate().map(|(n, sql)| format!("{sql} AS tandem_u{n}")).collect();
        let equal: Vec<_> = (0..self.expressions.len()).map(|n| format!("h.tandem_u{n} = i.tandem_u{n}")).collect();
        let only = self.predicate.as_ref().map(|sql| format!(" WHERE {sql}")).unwrap_or_default();
        let (values, table) = (values.join(", "), pair.table(At::Secondary));
        format!(
            "SELECT {} FROM (SELECT *, {values} FROM {table}{only}) h \
             JOIN (SELECT {values} FROM pg_temp.tandem_in{only}) i ON {}",
            pair.asked("h"),
            equal.join(" AND ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_changes_are_repeated_without_concurrently() {
        for (sql, expected) in [
            ("CREATE UNIQUE INDEX concurrently i ON t (a)", "CREATE UNIQUE INDEX   i ON t (a)"),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p  "),
            ("CREATE INDEX \"CONCURRENTLY\" ON t (ü) /* CONCURRENTLY */", ""),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", ""),
        ] {
            assert_eq!(without_concurrently(sql), if expected.is_empty() { sql } else { expected });
        }
    }
}
