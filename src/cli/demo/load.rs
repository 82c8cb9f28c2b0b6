//! The load: what applications do, as far as a mirror could stumble over it. Transfers between accounts with a serial
//! key, upserts by text, rows with uuid keys that come and go, orders whose lines cascade, rollbacks and savepoints; by
//! the simple and the extended protocol, in autocommit and in transactions. Clients read back what they wrote, at a switch
//! after each step: whoever answers must know it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, State, Table};
use super::schema::{ACCOUNTS, BRANCHES, TELLERS};
use crate::protocol::postgres::client::{Client, Error, Format, Param, ServerConfig};

/// A client that waits longer for an answer counts it as an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause before connecting again.
const RECONNECT: Duration = Duration::from_millis(20);
/// One step in so many is read back also when nothing happens.
const READ_BACK: u64 = 8;
/// Rows that a client writes again and again.
const NOTES: u64 = 20;

/// What the clients share.
pub(super) struct Load {
    proxy: ServerConfig,
    /// The clients end.
    pub(super) stop: CancellationToken,
    /// Tandem was killed less than a second ago: lost connections are no errors.
    pub(super) around_kill: AtomicBool,
    /// A switch is under way: every step is read back.
    pub(super) around_switch: AtomicBool,
    /// Writes acknowledged.
    pub(super) acked: AtomicU64,
    /// Errors seen.
    pub(super) errors: AtomicU64,
    /// What the first of them said.
    pub(super) first_error: OnceLock<String>,
    /// Connections lost to a kill.
    pub(super) reconnects: AtomicU64,
    /// Connections lost, or refused, without a kill.
    pub(super) dropped: AtomicU64,
    /// Reads that did not show a write which the same client had seen acknowledged.
    pub(super) stale: AtomicU64,
    /// The worst lag seen.
    pub(super) lag_ms_max: AtomicU64,
}

/// One client's place in its work.
struct Writer {
    number: u32,
    dice: Dice,
    ledger: Ledger,
    /// Next history row.
    seq: u32,
    /// Next version, device, order.
    next: u64,
    devices: Vec<String>,
    orders: Vec<String>,
}

/// What one step writes: what the ledger must learn, either way.
#[derive(Default)]
struct Effect {
    history: Option<u32>,
    row: Option<(Table, String, State)>,
    writes: u64,
}

impl Load {
    pub(super) fn new(proxy: ServerConfig) -> Load {
        Load {
            proxy,
            stop: CancellationToken::new(),
            around_kill: AtomicBool::new(false),
            around_switch: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            first_error: OnceLock::new(),
            reconnects: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            lag_ms_max: AtomicU64::new(0),
        }
    }

    /// One client, until stopped. Says what it knows.
    pub(super) async fn client(self: std::sync::Arc<Load>, number: u32) -> Ledger {
        let mut writer = Writer::new(number);
        while !self.stop.is_cancelled() {
            match Client::connect(&self.proxy).await {
                Ok(mut client) => self.work(&mut client, &mut writer).await,
                Err(error) => self.failed(&error.to_string(), true),
            }
            sleep(RECONNECT).await;
        }
        writer.ledger
    }

    /// Write until the connection fails.
    async fn work(&self, client: &mut Client, writer: &mut Writer) {
        while !self.stop.is_cancelled() {
            let mut effect = Effect::default();
            let done = timeout(PATIENCE, writer.step(client, &mut effect)).await;
            writer.learn(&effect, matches!(done, Ok(Ok(()))));
            match done {
                Ok(Ok(())) => self.acked.fetch_add(effect.writes, Relaxed),
                Ok(Err(error)) => return self.failed(&error.to_string(), is_drop(&error)),
                Err(_) => return self.failed("no answer in time", true),
            };
            if self.around_switch.load(Relaxed) || writer.next.is_multiple_of(READ_BACK) {
                match timeout(PATIENCE, writer.reads_its_writes(client)).await {
                    Ok(Ok(fresh)) => self.stale.fetch_add(u64::from(!fresh), Relaxed),
                    Ok(Err(error)) => return self.failed(&error.to_string(), is_drop(&error)),
                    Err(_) => return self.failed("no answer in time", true),
                };
            }
        }
    }

    fn failed(&self, why: &str, dropped: bool) {
        if self.around_kill.load(Relaxed) {
            self.reconnects.fetch_add(1, Relaxed);
            return;
        }
        self.dropped.fetch_add(u64::from(dropped), Relaxed);
        self.first_error.get_or_init(|| why.to_owned());
        self.errors.fetch_add(1, Relaxed);
    }
}

/// The connection is gone, or about to be.
fn is_drop(error: &Error) -> bool {
    error.db().is_none_or(|error| error.severity != "ERROR")
}

impl Writer {
    fn new(number: u32) -> Writer {
        Writer {
            number,
            dice: Dice(u64::from(number) + 1),
            ledger: Ledger::new(number),
            seq: 0,
            next: 0,
            devices: Vec::new(),
            orders: Vec::new(),
        }
    }

    fn learn(&mut self, effect: &Effect, acked: bool) {
        if let (Some(seq), true) = (effect.history, acked) {
            self.ledger.wrote_history(seq);
        }
        match &effect.row {
            Some((table, key, state)) if acked => self.ledger.wrote(*table, key, *state),
            Some((table, key, state)) => self.ledger.doubts(*table, key, *state),
            None => {}
        }
    }

    /// The last row that it wrote, and its last history row, are as it was told.
    async fn reads_its_writes(&self, client: &mut Client) -> Result<bool, Error> {
        let (row, history) = self.ledger.last();
        if let Some((table, key)) = row {
            let found = client.query(table.look_up(), &[Param::text(key)], Format::Text).await?;
            let found = found.first().map(|row| row.parse(0)).transpose()?;
            if !self.ledger.allows(table, key, found) {
                return Ok(false);
            }
        }
        let Some(seq) = history else { return Ok(true) };
        let sql = "SELECT FROM history WHERE client = $1 AND seq = $2";
        let (number, seq) = (self.number.to_string(), seq.to_string());
        let found = client.query(sql, &[Param::text(&number), Param::text(&seq)], Format::Text).await?;
        Ok(!found.is_empty())
    }

    async fn step(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        self.next += 1;
        match self.dice.below(10) {
            0..3 => self.transfer(client, effect).await,
            3 => self.transfer_in_part(client, effect).await,
            4 => self.give_up(client).await,
            5 | 6 => self.note(client, effect).await,
            7 => self.device(client, effect).await,
            8 => self.gone_device(client, effect).await,
            _ => self.order(client, effect).await,
        }
    }

    /// TPC-B: four tables in one transaction; the history row's key is the server's.
    async fn transfer(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        let (aid, tid, bid, delta) = self.transaction();
        client.simple("BEGIN").await?;
        if self.dice.below(2) == 0 {
            client.simple(&format!("UPDATE accounts SET balance = balance + {delta} WHERE aid = {aid}")).await?;
            client.simple(&format!("UPDATE tellers SET balance = balance + {delta} WHERE tid = {tid}")).await?;
            client.simple(&format!("UPDATE branches SET balance = balance + {delta} WHERE bid = {bid}")).await?;
        } else {
            for (table, key, id) in [("accounts", "aid", aid), ("tellers", "tid", tid), ("branches", "bid", bid)] {
                let sql = format!("UPDATE {table} SET balance = balance + $1 WHERE {key} = $2");
                execute(client, &sql, &[&delta.to_string(), &id.to_string()]).await?;
            }
        }
        self.history(client, aid, tid, delta, effect).await?;
        client.simple("COMMIT").await?;
        effect.writes = 4;
        Ok(())
    }

    /// The same with a part that is rolled back to a savepoint.
    async fn transfer_in_part(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        let (aid, tid, _, delta) = self.transaction();
        client.simple("BEGIN").await?;
        self.history(client, aid, tid, delta, effect).await?;
        client.simple("SAVEPOINT part").await?;
        client.simple(&format!("UPDATE accounts SET filler = 'never' WHERE aid = {aid}")).await?;
        client.simple("ROLLBACK TO SAVEPOINT part").await?;
        client.simple("COMMIT").await?;
        effect.writes = 1;
        Ok(())
    }

    async fn give_up(&mut self, client: &mut Client) -> Result<(), Error> {
        let (aid, _, bid, delta) = self.transaction();
        client.simple("BEGIN").await?;
        client.simple(&format!("UPDATE accounts SET balance = balance + {delta} WHERE aid = {aid}")).await?;
        client.simple(&format!("DELETE FROM notes WHERE name = 'client {} note 1'", self.number)).await?;
        client.simple(&format!("UPDATE branches SET balance = 0 WHERE bid = {bid}")).await?;
        client.simple("ROLLBACK").await?;
        Ok(())
    }

    /// Lock order is accounts, tellers, branches everywhere: no deadlocks.
    fn transaction(&mut self) -> (u64, u64, u64, i64) {
        let delta = self.dice.below(10_000) as i64 - 5_000;
        (1 + self.dice.below(ACCOUNTS), 1 + self.dice.below(TELLERS), 1 + self.dice.below(BRANCHES), delta)
    }

    async fn history(
        &mut self,
        client: &mut Client,
        aid: u64,
        tid: u64,
        delta: i64,
        effect: &mut Effect,
    ) -> Result<(), Error> {
        self.seq += 1;
        effect.history = Some(self.seq);
        let values =
            [self.number.to_string(), self.seq.to_string(), tid.to_string(), aid.to_string(), delta.to_string()];
        let sql = "INSERT INTO history (client, seq, tid, aid, delta) VALUES ($1, $2, $3, $4, $5)";
        execute(client, sql, &values.each_ref().map(String::as_str)).await
    }

    /// An upsert by a text key, in autocommit.
    async fn note(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        let name = format!("client {} note {}", self.number, self.dice.below(NOTES));
        if !self.ledger.knows(Table::Notes, &name) {
            return Ok(());
        }
        let version = self.next;
        effect.row = Some((Table::Notes, name.clone(), Some(version)));
        let sql = "INSERT INTO notes (name, version, body) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE \
                   SET version = excluded.version, body = excluded.body";
        execute(client, sql, &[&name, &version.to_string(), "O'Reilly \\ \u{1f980}"]).await?;
        effect.writes = 1;
        Ok(())
    }

    /// A row with a uuid key comes, or changes.
    async fn device(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        let version = self.next.to_string();
        let known = self.dice.below(2) == 0 && !self.devices.is_empty();
        let (sql, id) = if known {
            let at = self.dice.below(self.devices.len() as u64) as usize;
            ("UPDATE devices SET version = $2, seen = now() WHERE id = $1", self.devices.swap_remove(at))
        } else {
            ("INSERT INTO devices (id, version, tags) VALUES ($1, $2, '{a,NULL,\"b c\"}')", self.dice.uuid())
        };
        effect.row = Some((Table::Devices, id.clone(), Some(self.next)));
        execute(client, sql, &[&id, &version]).await?;
        self.devices.push(id);
        effect.writes = 1;
        Ok(())
    }

    /// A row with a uuid key goes.
    async fn gone_device(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        let Some(id) = self.devices.pop() else { return Ok(()) };
        effect.row = Some((Table::Devices, id.clone(), None));
        client.simple(&format!("DELETE FROM devices WHERE id = '{id}'")).await?;
        effect.writes = 1;
        Ok(())
    }

    /// An order with its lines comes, or goes and takes its lines with it.
    async fn order(&mut self, client: &mut Client, effect: &mut Effect) -> Result<(), Error> {
        if self.orders.len() > 5 {
            let id = self.orders.swap_remove(self.dice.below(5) as usize);
            effect.row = Some((Table::Orders, id.clone(), None));
            execute(client, "DELETE FROM orders WHERE id = $1", &[&id]).await?;
            effect.writes = 1;
            return Ok(());
        }
        let id = (u64::from(self.number) << 32 | self.next).to_string();
        effect.row = Some((Table::Orders, id.clone(), Some(self.next)));
        client.simple("BEGIN").await?;
        client.simple(&format!("INSERT INTO orders (id, version, total) VALUES ({id}, {}, 1.50)", self.next)).await?;
        for line in 1..=self.dice.below(4) {
            let what = format!("{{\"line\": {line}}}");
            let sql = "INSERT INTO order_lines (order_id, line, what) VALUES ($1, $2, $3)";
            execute(client, sql, &[&id, &line.to_string(), &what]).await?;
        }
        client.simple("COMMIT").await?;
        self.orders.push(id);
        effect.writes = 1;
        Ok(())
    }
}

async fn execute(client: &mut Client, sql: &str, values: &[&str]) -> Result<(), Error> {
    let params: Vec<Param<'_>> = values.iter().map(|value| Param::text(value)).collect();
    client.query(sql, &params, Format::Text).await?;
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same client in each demo.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn uuid(&mut self) -> String {
        let bits = u128::from(self.next()) << 64 | u128::from(self.next());
        let hex = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}
