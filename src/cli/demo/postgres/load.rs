//! The load: what applications do, as far as a mirror could stumble over it. Transfers between accounts with a serial
//! key, upserts by text, rows with uuid keys that come and go, orders whose lines cascade, rollbacks and savepoints; by
//! the simple and the extended protocol, in autocommit and in transactions.

use std::time::Duration;

use super::super::ledger::Ledger;
use super::super::load::{Actor, Trouble};
use super::schema::{ACCOUNTS, BRANCHES, TELLERS, Table};
use crate::dice::Dice;
use crate::protocol::postgres::client::{Client, Error, Format, Param, ServerConfig};

/// Rows that a client writes again and again.
const NOTES: u64 = 20;

/// One client's place in its work.
pub(in crate::cli::demo) struct Writer {
    proxy: ServerConfig,
    number: u32,
    dice: Dice,
    ledger: Ledger<Table>,
    /// Next history row.
    seq: u32,
    /// Next version, device, order.
    next: u64,
    devices: Vec<String>,
    orders: Vec<String>,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        let dropped = error.db().is_none_or(|error| error.severity != "ERROR");
        Trouble { why: error.to_string(), dropped }
    }
}

impl Actor for Writer {
    type Connection = Client;
    type Table = Table;
    const PAUSE: Duration = Duration::ZERO;

    async fn connect(&mut self) -> Result<Client, Trouble> {
        Ok(Client::connect(&self.proxy).await?)
    }

    async fn step(&mut self, client: &mut Client) -> Result<(), Trouble> {
        self.next += 1;
        match self.dice.below(10) {
            0..3 => self.transfer(client).await?,
            3 => self.transfer_in_part(client).await?,
            4 => self.give_up(client).await?,
            5 | 6 => self.note(client).await?,
            7 => self.device(client).await?,
            8 => self.gone_device(client).await?,
            _ => self.order(client).await?,
        }
        Ok(())
    }

    /// The last row that it wrote, and its last history row, are as it was told.
    async fn reads_its_writes(&mut self, client: &mut Client) -> Result<bool, Trouble> {
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

    fn ledger(&mut self) -> &mut Ledger<Table> {
        &mut self.ledger
    }
}

impl Writer {
    pub(super) fn new(number: u32, proxy: ServerConfig) -> Writer {
        Writer {
            proxy,
            number,
            dice: Dice(u64::from(number) + 1),
            ledger: Ledger::new(number),
            seq: 0,
            next: 0,
            devices: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// TPC-B: four tables in one transaction; the history row's key is the server's.
    async fn transfer(&mut self, client: &mut Client) -> Result<(), Error> {
        let (aid, tid, bid, delta) = self.transaction();
        client.simple("BEGIN").await?;
        if self.dice.coin() {
            client.simple(&format!("UPDATE accounts SET balance = balance + {delta} WHERE aid = {aid}")).await?;
            client.simple(&format!("UPDATE tellers SET balance = balance + {delta} WHERE tid = {tid}")).await?;
            client.simple(&format!("UPDATE branches SET balance = balance + {delta} WHERE bid = {bid}")).await?;
        } else {
            for (table, key, id) in [("accounts", "aid", aid), ("tellers", "tid", tid), ("branches", "bid", bid)] {
                let sql = format!("UPDATE {table} SET balance = balance + $1 WHERE {key} = $2");
                execute(client, &sql, &[&delta.to_string(), &id.to_string()]).await?;
            }
        }
        self.history(client, aid, tid, delta).await?;
        client.simple("COMMIT").await?;
        self.ledger.effect.writes = 4;
        Ok(())
    }

    /// The same with a part that is rolled back to a savepoint.
    async fn transfer_in_part(&mut self, client: &mut Client) -> Result<(), Error> {
        let (aid, tid, _, delta) = self.transaction();
        client.simple("BEGIN").await?;
        self.history(client, aid, tid, delta).await?;
        client.simple("SAVEPOINT part").await?;
        client.simple(&format!("UPDATE accounts SET filler = 'never' WHERE aid = {aid}")).await?;
        client.simple("ROLLBACK TO SAVEPOINT part").await?;
        client.simple("COMMIT").await?;
        self.ledger.effect.writes = 1;
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

    async fn history(&mut self, client: &mut Client, aid: u64, tid: u64, delta: i64) -> Result<(), Error> {
        self.seq += 1;
        self.ledger.effect.history.push(self.seq);
        let values =
            [self.number.to_string(), self.seq.to_string(), tid.to_string(), aid.to_string(), delta.to_string()];
        let sql = "INSERT INTO history (client, seq, tid, aid, delta) VALUES ($1, $2, $3, $4, $5)";
        execute(client, sql, &values.each_ref().map(String::as_str)).await
    }

    /// An upsert by a text key, in autocommit.
    async fn note(&mut self, client: &mut Client) -> Result<(), Error> {
        let name = format!("client {} note {}", self.number, self.dice.below(NOTES));
        if !self.ledger.knows(Table::Notes, &name) {
            return Ok(());
        }
        let version = self.next;
        self.ledger.effect.rows.push((Table::Notes, name.clone(), Some(version)));
        let sql = "INSERT INTO notes (name, version, body) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE \
                   SET version = excluded.version, body = excluded.body";
        execute(client, sql, &[&name, &version.to_string(), "O'Reilly \\ \u{1f980}"]).await?;
        self.ledger.effect.writes = 1;
        Ok(())
    }

    /// A row with a uuid key comes, or changes.
    async fn device(&mut self, client: &mut Client) -> Result<(), Error> {
        let version = self.next.to_string();
        let known = self.dice.coin() && !self.devices.is_empty();
        let (sql, id) = if known {
            let at = self.dice.below(self.devices.len() as u64) as usize;
            ("UPDATE devices SET version = $2, seen = now() WHERE id = $1", self.devices.swap_remove(at))
        } else {
            ("INSERT INTO devices (id, version, tags) VALUES ($1, $2, '{a,NULL,\"b c\"}')", self.dice.uuid())
        };
        self.ledger.effect.rows.push((Table::Devices, id.clone(), Some(self.next)));
        execute(client, sql, &[&id, &version]).await?;
        self.devices.push(id);
        self.ledger.effect.writes = 1;
        Ok(())
    }

    /// A row with a uuid key goes.
    async fn gone_device(&mut self, client: &mut Client) -> Result<(), Error> {
        let Some(id) = self.devices.pop() else { return Ok(()) };
        self.ledger.effect.rows.push((Table::Devices, id.clone(), None));
        client.simple(&format!("DELETE FROM devices WHERE id = '{id}'")).await?;
        self.ledger.effect.writes = 1;
        Ok(())
    }

    /// An order with its lines comes, or goes and takes its lines with it.
    async fn order(&mut self, client: &mut Client) -> Result<(), Error> {
        if self.orders.len() > 5 {
            let id = self.orders.swap_remove(self.dice.below(5) as usize);
            self.ledger.effect.rows.push((Table::Orders, id.clone(), None));
            execute(client, "DELETE FROM orders WHERE id = $1", &[&id]).await?;
            self.ledger.effect.writes = 1;
            return Ok(());
        }
        let id = (u64::from(self.number) << 32 | self.next).to_string();
        self.ledger.effect.rows.push((Table::Orders, id.clone(), Some(self.next)));
        client.simple("BEGIN").await?;
        client.simple(&format!("INSERT INTO orders (id, version, total) VALUES ({id}, {}, 1.50)", self.next)).await?;
        for line in 1..=self.dice.below(4) {
            let what = format!("{{\"line\": {line}}}");
            let sql = "INSERT INTO order_lines (order_id, line, what) VALUES ($1, $2, $3)";
            execute(client, sql, &[&id, &line.to_string(), &what]).await?;
        }
        client.simple("COMMIT").await?;
        self.orders.push(id);
        self.ledger.effect.writes = 1;
        Ok(())
    }
}

async fn execute(client: &mut Client, sql: &str, values: &[&str]) -> Result<(), Error> {
    let params: Vec<Param<'_>> = values.iter().map(|value| Param::text(value)).collect();
    client.query(sql, &params, Format::Text).await?;
    Ok(())
}
