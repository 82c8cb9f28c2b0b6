//! The load: what applications do, as far as a mirror could stumble over it. Statuses, one by one, many at once and in
//! batches; rows with `now()` and `uuid()`; rows that end by themselves; counters; lists that many append to; conditional
//! writes, also by all clients on one row; deletes and nulls. Half of the clients set timestamps, half speak v4.

use std::time::Duration;

use super::super::ledger::Ledger;
use super::super::load::{Actor, Trouble};
use super::line::{self, Line, Said, Way, version};
use super::schema::Table;
use crate::dice::Dice;
use crate::protocol::cql::client::Address;
use crate::protocol::cql::wire::Version;
use crate::protocol::cql::wire::request::BatchKind;
use crate::protocol::cql::wire::value::Datum;

/// Rows of each table that a client writes again and again.
const ROWS: u64 = 20;
/// Rows that all clients write.
const SHARED: u64 = 4;
/// When the first status of a client was, in milliseconds: 2026-01-01.
const SINCE: i64 = 1_767_225_600_000;
/// The one client with the table that is truncated, and when it does so.
const TRUNCATES: (u32, u64) = (0, 40);

/// One client's place in its work.
pub(in crate::cli::demo) struct Writer {
    proxy: Address,
    number: u32,
    dice: Dice,
    ledger: Ledger<Table>,
    /// Next status.
    seq: u32,
    /// Next version.
    next: u64,
    sessions: Vec<String>,
    truncated: bool,
}

impl Actor for Writer {
    type Connection = Line;
    type Table = Table;
    const PAUSE: Duration = Duration::from_millis(5);

    async fn connect(&mut self) -> Result<Line, Trouble> {
        let newest = if self.number % 4 < 2 { Version::V5 } else { Version::V4 };
        Ok(Line::connect(&self.proxy, newest, self.number % 2 == 1).await?)
    }

    async fn step(&mut self, line: &mut Line) -> Result<(), Trouble> {
        self.next += 1;
        self.ledger.effect.writes = 1;
        match self.dice.below(16) {
            0 | 1 => self.status(line).await,
            2 => self.statuses(line).await,
            3 | 4 => self.note(line).await,
            5 => self.gone_note(line).await,
            6 => self.session(line).await,
            7 => self.short_session(line).await,
            8 | 9 => self.click(line).await,
            10 | 11 => self.profile(line).await,
            12 => self.trail(line).await,
            13 => self.account(line).await,
            14 => self.contest(line).await,
            _ if self.number == TRUNCATES.0 => self.scratch(line).await,
            _ => self.batch(line).await,
        }
    }

    /// The last row that it wrote, and its last statuses, are as it was told.
    async fn reads_its_writes(&mut self, line: &mut Line) -> Result<bool, Trouble> {
        let (row, status) = self.ledger.last();
        if let Some((table, key)) = row {
            let found = find(line, table, key).await?;
            if !self.ledger.allows(table, key, found) {
                return Ok(false);
            }
        }
        let Some(seq) = status else { return Ok(true) };
        // Several pages, so that some are asked for on both sides of a switch.
        let text = "SELECT at FROM user_status WHERE user = ? AND at > ?";
        let since = SINCE + i64::from(seq.saturating_sub(20)) * 1_000;
        let said = Said { way: Way::Literal, text, values: vec![self.user(), Datum::Timestamp(since)] };
        let newest = at(seq);
        for page in line.pages(&said, 3).await? {
            let rows: Vec<_> = page.rows()?.iter().collect::<Result<_, _>>().map_err(unreadable)?;
            if rows.iter().any(|row| row.get(0).and_then(line::bigint).map(Datum::Timestamp) == Some(newest.clone())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn ledger(&mut self) -> &mut Ledger<Table> {
        &mut self.ledger
    }
}

/// The version of a row; of an element of a list, whether it is there.
async fn find(line: &mut Line, table: Table, key: &str) -> Result<Option<u64>, Trouble> {
    let way = Way::Prepared;
    if let (Table::Trails, Some((list, element))) = (table, key.split_once('/')) {
        let values = vec![Datum::Varchar(list.to_owned())];
        let answer = line.run(&Said { way, text: "SELECT trail FROM profiles WHERE id = ?", values }).await?;
        let trail = answer.row()?.and_then(|row| row.get(0)?.map(elements)).unwrap_or_default();
        return Ok(trail.iter().any(|found| found.to_string() == element).then_some(1));
    }
    let text = match table {
        Table::Notes => "SELECT version FROM notes WHERE name = ?",
        Table::Sessions => "SELECT version FROM sessions WHERE id = ?",
        Table::Scratch => "SELECT version FROM scratch WHERE id = ?",
        Table::Accounts | Table::Contests => "SELECT version FROM accounts WHERE id = ?",
        _ => "SELECT version FROM profiles WHERE id = ?",
    };
    let answer = line.run(&Said { way, text, values: vec![table.key(key)] }).await?;
    Ok(answer.row()?.and_then(|row| line::bigint(row.get(0)?)).map(i64::cast_unsigned))
}

/// Of a list of bigints.
pub(super) fn elements(cell: &[u8]) -> Vec<i64> {
    let bytes = cell.get(size_of::<i32>()..).unwrap_or_default();
    // Each has its length before it.
    bytes.chunks_exact(12).filter_map(|element| line::bigint(element.get(4..))).collect()
}

fn unreadable(error: crate::protocol::cql::wire::Error) -> Trouble {
    Trouble { why: error.to_string(), dropped: false }
}

fn at(seq: u32) -> Datum {
    Datum::Timestamp(SINCE + i64::from(seq) * 1_000)
}

/// The number of the status that was then.
pub(super) fn seq(at: i64) -> Option<u32> {
    u32::try_from((at - SINCE) / 1_000).ok()
}

fn text(text: impl Into<String>) -> Datum {
    Datum::Varchar(text.into())
}

impl Writer {
    pub(super) fn new(number: u32, proxy: Address) -> Writer {
        Writer {
            proxy,
            number,
            dice: Dice(u64::from(number) + 1),
            ledger: Ledger::new(number),
            seq: 0,
            next: 0,
            sessions: Vec::new(),
            truncated: false,
        }
    }

    fn user(&self) -> Datum {
        text(format!("client {}", self.number))
    }

    fn says(&mut self, text: &'static str, values: Vec<Datum>) -> Said {
        let way = [Way::Literal, Way::Beside, Way::Prepared][self.dice.below(3) as usize];
        Said { way, text, values }
    }

    /// One of its rows that nothing is uncertain about, which becomes this.
    fn own(&mut self, table: Table, state: Option<u64>) -> Option<String> {
        let key = match table {
            Table::Scratch => self.dice.below(ROWS).to_string(),
            _ => format!("client {} row {}", self.number, self.dice.below(ROWS)),
        };
        if !self.ledger.knows(table, &key) {
            self.ledger.effect.writes = 0;
            return None;
        }
        self.ledger.effect.rows.push((table, key.clone(), state));
        Some(key)
    }

    fn next_status(&mut self) -> Said {
        self.seq += 1;
        self.ledger.effect.history.push(self.seq);
        let values = vec![self.user(), at(self.seq), text("it's here"), version(self.next)];
        self.says("INSERT INTO user_status (user, at, status, version) VALUES (?, ?, ?, ?)", values)
    }

    async fn status(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let said = self.next_status();
        line.run(&said).await?;
        Ok(())
    }

    /// Many at once on one connection.
    async fn statuses(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let count = 2 + self.dice.below(6);
        let all: Vec<Said> = (0..count).map(|_| self.next_status()).collect();
        line.run_all(all).await?;
        self.ledger.effect.writes = count;
        Ok(())
    }

    /// A row of its own, or one that all write, with values that the server makes.
    async fn note(&mut self, line: &mut Line) -> Result<(), Trouble> {
        if self.dice.below(4) == 0 {
            let name = text(format!("shared {}", self.dice.below(SHARED)));
            let values = vec![version(self.next), name];
            let said = self.says("UPDATE notes SET version = ?, id = uuid(), at = now() WHERE name = ?", values);
            line.run(&said).await?;
            return Ok(());
        }
        let Some(name) = self.own(Table::Notes, Some(self.next)) else { return Ok(()) };
        let (name, version, body) = (text(name), version(self.next), text("O'Reilly \\ \u{1f980}"));
        let said = match self.dice.below(5) {
            0 | 1 => self.says(
                "INSERT INTO notes (name, version, body, id, at) VALUES (?, ?, ?, uuid(), now())",
                vec![name, version, body],
            ),
            2 => self.says(
                "UPDATE notes SET version = ?, body = ?, at = now(), id = null WHERE name = ?",
                vec![version, body, name],
            ),
            3 => self.says("UPDATE notes SET version = ?, body = ? WHERE name = ?", vec![version, Datum::Null, name]),
            _ => self.says("INSERT INTO notes (name, version, id) VALUES (?, ?, uuid())", vec![name, version]),
        };
        line.run(&said).await?;
        Ok(())
    }

    /// A row goes, or a column of a shared one.
    async fn gone_note(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let said = if self.dice.below(4) == 0 {
            let name = text(format!("shared {}", self.dice.below(SHARED)));
            self.says("DELETE id FROM notes WHERE name = ?", vec![name])
        } else {
            let Some(name) = self.own(Table::Notes, None) else { return Ok(()) };
            self.says("DELETE FROM notes WHERE name = ?", vec![text(name)])
        };
        line.run(&said).await?;
        Ok(())
    }

    /// A row that ends in an hour by the table's default, or later by its own; or one that goes at once.
    async fn session(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let known = self.dice.coin() && !self.sessions.is_empty();
        let id = if known { self.sessions.swap_remove(0) } else { self.dice.uuid() };
        let (key, version) = (Table::Sessions.key(&id), version(self.next));
        let gone = known && self.dice.below(3) == 0;
        self.ledger.effect.rows.push((Table::Sessions, id.clone(), (!gone).then_some(self.next)));
        let said = match (gone, self.dice.below(3)) {
            (true, _) => self.says("DELETE FROM sessions WHERE id = ?", vec![key]),
            (_, 0) => self.says(
                "INSERT INTO sessions (id, version, agent) VALUES (?, ?, ?)",
                vec![key, version, text("by default")],
            ),
            (_, 1) => self.says(
                "INSERT INTO sessions (id, version, agent) VALUES (?, ?, ?) USING TTL ?",
                vec![key, version, text("two hours"), Datum::Int(7_200)],
            ),
            _ => self.says(
                "UPDATE sessions USING TTL ? SET version = ?, agent = ? WHERE id = ?",
                vec![Datum::Int(0), version, text("for ever"), key],
            ),
        };
        line.run(&said).await?;
        if !gone {
            self.sessions.push(id);
        }
        Ok(())
    }

    /// A row that ends while the demo runs.
    async fn short_session(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let ends = Datum::Int(1 + self.dice.below(30) as i32);
        let values = vec![Table::Sessions.key(&self.dice.uuid()), version(self.next), text("soon over"), ends];
        let said = self.says("INSERT INTO sessions (id, version, agent) VALUES (?, ?, ?) USING TTL ?", values);
        line.run(&said).await?;
        Ok(())
    }

    /// One counter, or two in a batch.
    async fn click(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let pages = 1 + self.dice.below(2);
        let mut all = Vec::new();
        for _ in 0..pages {
            let page = format!("page {}", self.dice.below(2 * SHARED));
            let (up, down) = (1 + self.dice.below(9) as i64, 1 + self.dice.below(9) as i64);
            self.ledger.effect.sums.push((Table::Clicks, format!("{page}/n"), up));
            self.ledger.effect.sums.push((Table::Clicks, format!("{page}/m"), -down));
            let values = vec![Datum::Bigint(up), Datum::Bigint(down), text(page)];
            all.push(self.says("UPDATE clicks SET n = n + ?, m = m - ? WHERE page = ? AND day = 1", values));
        }
        match all.as_slice() {
            [one] => drop(line.run(one).await?),
            all => line.batch(BatchKind::Counter, all).await?,
        }
        Ok(())
    }

    /// Collections and types of users: assigned, changed, taken away.
    async fn profile(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let Some(id) = self.own(Table::Profiles, Some(self.next)) else { return Ok(()) };
        let (id, new) = (text(id), version(self.next));
        let n = self.next as i32;
        let word = || text(format!("word {}", n % 7));
        let said = match self.dice.below(9) {
            0 | 1 => {
                let trail = Datum::List(vec![new.clone(), Datum::Bigint(0), new.clone()]);
                let home = Datum::Udt(vec![word(), Datum::Int(n)]);
                let pair = Datum::Tuple(vec![Datum::Int(n), word()]);
                let attrs = Datum::Map(vec![(text("a"), Datum::Int(n)), (text("b"), Datum::Int(1))]);
                let values = vec![id, new, Datum::Set(vec![word()]), attrs, trail, home.clone(), home, pair];
                let text = "INSERT INTO profiles (id, version, tags, attrs, trail, home, work, pair) \
                            VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
                self.says(text, values)
            }
            2 => self.says(
                "UPDATE profiles SET version = ?, trail = trail + ? WHERE id = ?",
                vec![new.clone(), Datum::List(vec![new]), id],
            ),
            3 => self.says(
                "UPDATE profiles SET version = ?, trail = ? + trail WHERE id = ?",
                vec![new.clone(), Datum::List(vec![new]), id],
            ),
            4 => self.says(
                "UPDATE profiles SET version = ?, trail = trail - ? WHERE id = ?",
                vec![new, Datum::List(vec![Datum::Bigint(0)]), id],
            ),
            5 => self.says(
                "UPDATE profiles SET version = ?, tags = tags + ? WHERE id = ?",
                vec![new, Datum::Set(vec![word()]), id],
            ),
            6 => self.says(
                "UPDATE profiles SET version = ?, attrs[?] = ? WHERE id = ?",
                vec![new, word(), Datum::Int(n), id],
            ),
            7 => self.says(
                "UPDATE profiles SET version = ?, home.zip = ?, pair = null WHERE id = ?",
                vec![new, Datum::Int(n), id],
            ),
            _ => self.says("UPDATE profiles SET version = ?, trail = null, tags = {} WHERE id = ?", vec![new, id]),
        };
        line.run(&said).await?;
        Ok(())
    }

    /// A list that all clients append to.
    async fn trail(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let list = format!("shared {}", self.dice.below(SHARED));
        let element = i64::from(self.number) << 32 | self.next.cast_signed();
        self.ledger.effect.rows.push((Table::Trails, format!("{list}/{element}"), Some(1)));
        let values = vec![Datum::List(vec![Datum::Bigint(element)]), text(list)];
        let said = match self.dice.below(3) {
            0 => self.says("UPDATE profiles SET trail = ? + trail WHERE id = ?", values),
            _ => self.says("UPDATE profiles SET trail = trail + ? WHERE id = ?", values),
        };
        line.run(&said).await?;
        Ok(())
    }

    /// A row of its own, by conditional writes: each must find what the one before left. Without timestamps of its own it
    /// writes plainly, too.
    async fn account(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let Some(id) = self.own(Table::Accounts, Some(self.next)) else { return Ok(()) };
        let (owner, new) = (Datum::Int(self.number as i32), version(self.next));
        let before = self.ledger.state(Table::Accounts, &id);
        let plain = self.number.is_multiple_of(2);
        let key = text(id.clone());
        let said = match (before, self.dice.below(4)) {
            (None, _) => self.says(
                "INSERT INTO accounts (id, version, owner) VALUES (?, ?, ?) IF NOT EXISTS",
                vec![key, new, owner],
            ),
            (Some(_), 0) if plain => {
                let said = self.says("UPDATE accounts SET version = ? WHERE id = ?", vec![new, key]);
                line.run(&said).await?;
                return Ok(());
            }
            (Some(before), 1) => {
                self.ledger.effect.rows = vec![(Table::Accounts, id, None)];
                self.says("DELETE FROM accounts WHERE id = ? IF version = ?", vec![key, version(before)])
            }
            (Some(before), _) => self.says(
                "UPDATE accounts SET version = ?, owner = ? WHERE id = ? IF version = ?",
                vec![new, owner, key, version(before)],
            ),
        };
        match line.run(&said).await?.rows()?.applied() {
            Some(true) => Ok(()),
            _ => Err(Trouble { why: format!("{} did not find version {before:?}", said.text), dropped: false }),
        }
    }

    /// A row that all clients compete for: its version counts who won.
    async fn contest(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let id = format!("contest {}", self.dice.below(SHARED));
        let found = find(line, Table::Contests, &id).await?;
        self.ledger.effect.sums.push((Table::Contests, id.clone(), 1));
        let before = found.map_or(Datum::Null, version);
        let values = vec![version(found.unwrap_or(0) + 1), Datum::Int(self.number as i32), text(id), before];
        let said = self.says("UPDATE accounts SET version = ?, owner = ? WHERE id = ? IF version = ?", values);
        if line.run(&said).await?.rows()?.applied() != Some(true) {
            self.ledger.effect = Default::default();
        }
        Ok(())
    }

    /// A table that is truncated once.
    async fn scratch(&mut self, line: &mut Line) -> Result<(), Trouble> {
        if !self.truncated && self.next > TRUNCATES.1 {
            self.truncated = true;
            let keys = (0..ROWS).map(|id| (Table::Scratch, id.to_string(), None));
            self.ledger.effect.rows.extend(keys);
            line.run(&Said { way: Way::Literal, text: "TRUNCATE scratch", values: Vec::new() }).await?;
            return Ok(());
        }
        let Some(id) = self.own(Table::Scratch, Some(self.next)) else { return Ok(()) };
        let values = vec![Table::Scratch.key(&id), version(self.next)];
        let said = self.says("INSERT INTO scratch (id, version) VALUES (?, ?)", values);
        line.run(&said).await?;
        Ok(())
    }

    /// Several tables in one logged batch, or one partition in an unlogged one.
    async fn batch(&mut self, line: &mut Line) -> Result<(), Trouble> {
        let mut all = vec![self.next_status(), self.next_status()];
        let mut kind = BatchKind::Unlogged;
        if self.dice.coin()
            && let Some(name) = self.own(Table::Notes, Some(self.next))
        {
            kind = BatchKind::Logged;
            let values = vec![text(name), version(self.next)];
            all.push(self.says("INSERT INTO notes (name, version, id, at) VALUES (?, ?, uuid(), now())", values));
        }
        self.ledger.effect.writes = all.len() as u64;
        line.batch(kind, &all).await?;
        Ok(())
    }
}
