//! Clients that write through tandem in every way that a mirror could stumble over, and remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tandem::protocol::cql::client::{Address, Client, Error, Settings};
use tandem::protocol::cql::outcome::{Kind, Outcome};
use tandem::protocol::cql::wire::primitive::{Consistency, Value};
use tandem::protocol::cql::wire::request::{Parameters, Values};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::cql::Cql;

/// What both sides must have.
pub(crate) const SCHEMA: [&str; 5] = [
    "CREATE TABLE plain (k bigint PRIMARY KEY, v text, u timeuuid, w int)",
    "CREATE TABLE wide (k int, c int, l list<text>, s set<int>, m map<text, int>, PRIMARY KEY (k, c))",
    "CREATE TABLE counts (k int PRIMARY KEY, n counter)",
    "CREATE TABLE forgets (k int PRIMARY KEY, v text) WITH gc_grace_seconds = 0",
    "CREATE TABLE decided (k int PRIMARY KEY, v int, at timestamp)",
];

/// All rows of all tables, with the times of their cells: what must be the same on both sides.
pub(crate) fn dump(cql: &mut Cql) -> BTreeMap<&'static str, Vec<String>> {
    let asked = [
        ("plain", "SELECT k, v, u, w, writetime(v), writetime(u), writetime(w) FROM plain"),
        ("wide", "SELECT k, c, l, s, m FROM wide"),
        ("counts", "SELECT k, n FROM counts"),
        ("forgets", "SELECT k, v, writetime(v) FROM forgets"),
        ("decided", "SELECT k, v, at, writetime(v) FROM decided"),
    ];
    let sorted = |cql: &mut Cql, text| {
        let mut rows = cql.rows(text);
        rows.sort_unstable();
        rows
    };
    asked.into_iter().map(|(table, text)| (table, sorted(cql, text))).collect()
}

/// The same on both sides; `None`: they are. Else the first difference.
pub(crate) fn difference(one: &mut Cql, other: &mut Cql) -> Option<String> {
    let (here, there) = (dump(one), dump(other));
    for (table, rows) in &here {
        let (left, right): (BTreeSet<_>, BTreeSet<_>) = (rows.iter().collect(), there[table].iter().collect());
        if left != right {
            let only = |one: &BTreeSet<&String>, other: &BTreeSet<&String>| {
                one.difference(other).take(3).map(|row| row.to_string()).collect::<Vec<_>>()
            };
            return Some(format!("{table}: only here {:?}, only there {:?}", only(&left, &right), only(&right, &left)));
        }
    }
    None
}

/// What one client knows.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The last value of each row of `plain` that was acknowledged (`None`: deleted); rows in doubt are left out.
    plain: BTreeMap<i64, Option<String>>,
    /// Increments of `counts` acknowledged, and in doubt.
    counted: BTreeMap<i32, (i64, i64)>,
    /// Elements appended to a list of `wide`, in their order; a list in doubt is left out.
    lists: BTreeMap<(i32, i32), Vec<String>>,
    doubtful_lists: BTreeSet<(i32, i32)>,
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    /// Writes acknowledged.
    pub(crate) acked: Arc<AtomicU64>,
    /// Errors that a client saw which say nothing of a lost connection.
    pub(crate) errors: Arc<AtomicU64>,
    /// Reads that did not show what the same client had been told.
    pub(crate) stale: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Told>>,
}

impl Load {
    /// So many clients, each with rows of its own.
    pub(crate) fn start(address: SocketAddrV4, keyspace: &'static str, clients: i32) -> Load {
        let (stop, acked, errors, stale) = Default::default();
        let mut load = Load { stop, acked, errors, stale, clients: Vec::new() };
        for number in 0..clients {
            let worker = Worker {
                number,
                address,
                keyspace,
                stop: load.stop.clone(),
                acked: load.acked.clone(),
                errors: load.errors.clone(),
                stale: load.stale.clone(),
                told: Told::default(),
                turn: 0,
            };
            load.clients.push(tokio::spawn(worker.run()));
        }
        load
    }

    /// Wait until so many more writes are acknowledged.
    pub(crate) async fn goes_on(&self, writes: u64) {
        let from = self.acked.load(SeqCst);
        for _ in 0..18_000 {
            if self.acked.load(SeqCst) >= from + writes {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("clients do not get on: {} writes", self.acked.load(SeqCst) - from);
    }

    /// What they were told.
    pub(crate) async fn end(self) -> Vec<Told> {
        self.stop.store(true, SeqCst);
        let mut told = Vec::new();
        for client in self.clients {
            told.push(client.await.expect("no client panics"));
        }
        told
    }
}

/// What was acknowledged is there. Else what is not.
pub(crate) fn missing(cql: &mut Cql, told: &[Told]) -> Vec<String> {
    let mut wrong = Vec::new();
    let found: BTreeMap<String, String> = pairs(cql.rows("SELECT k, v FROM plain"));
    for (key, value) in told.iter().flat_map(|told| &told.plain) {
        let there = found.get(&key.to_string()).filter(|value| !value.is_empty());
        if there != value.as_ref() {
            wrong.push(format!("plain {key}: told {value:?}, found {there:?}"));
        }
    }
    let counts = pairs(cql.rows("SELECT k, n FROM counts"));
    for (key, (sure, doubtful)) in told.iter().flat_map(|told| &told.counted) {
        let there: i64 = counts.get(&key.to_string()).map_or(0, |n| n.parse().expect("a number"));
        if !(*sure..=sure + doubtful).contains(&there) {
            wrong.push(format!("counts {key}: told {sure} and perhaps {doubtful} more, found {there}"));
        }
    }
    for told in told {
        for ((k, c), list) in told.lists.iter().filter(|(key, _)| !told.doubtful_lists.contains(key)) {
            let there = cql.rows(&format!("SELECT l FROM wide WHERE k = {k} AND c = {c}"));
            let expected = format!("[{}]", list.join(", "));
            if there != [expected.clone()] {
                wrong.push(format!("wide {k} {c}: told {expected}, found {there:?}"));
            }
        }
    }
    wrong
}

fn pairs(lines: Vec<String>) -> BTreeMap<String, String> {
    let pair = |line: String| line.split_once('|').map(|(key, value)| (key.to_owned(), value.to_owned()));
    lines.into_iter().filter_map(pair).collect()
}

struct Worker {
    number: i32,
    address: SocketAddrV4,
    keyspace: &'static str,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    errors: Arc<AtomicU64>,
    stale: Arc<AtomicU64>,
    told: Told,
    turn: i64,
}

impl Worker {
    async fn run(mut self) -> Told {
        let address = Address { host: self.address.ip().to_string(), port: self.address.port() };
        let settings = Settings { connect_timeout: Duration::from_secs(5), ..Settings::default() };
        while !self.stop.load(SeqCst) {
            if let Ok(client) = Client::connect(&settings, &address).await {
                while !self.stop.load(SeqCst) && !client.is_lost() {
                    let begun = Instant::now();
                    self.step(&client).await;
                    // Both sides and their mirror share a machine: on a busy one clients are to be slower than the mirror.
                    sleep((begun.elapsed() * 2).min(Duration::from_millis(250))).await;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.told
    }

    /// Two clients in three stamp their writes themselves, as drivers do.
    fn parameters(&self) -> Parameters<'static> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let stamp = (self.number % 3 > 0).then(|| i64::try_from(now.as_micros()).expect("not so late"));
        Parameters { timestamp: stamp, keyspace: Some(self.keyspace), ..Parameters::new(Consistency::One) }
    }

    async fn step(&mut self, client: &Client) {
        self.turn += 1;
        match self.turn % 12 {
            0 => self.count(client).await,
            1 => self.append(client).await,
            2 => self.remove(client).await,
            3 => self.decide(client).await,
            4 => self.collect(client).await,
            5 => self.forget(client).await,
            _ => self.insert(client).await,
        }
    }

    /// What is known after an answer.
    fn judged<T>(&self, answer: &Result<T, Error>, kind: Kind) -> Outcome {
        let Err(error) = answer else {
            self.acked.fetch_add(1, SeqCst);
            return Outcome::Committed;
        };
        self.errors.fetch_add(u64::from(error.refusal().is_some()), SeqCst);
        error.outcome(kind)
    }

    async fn insert(&mut self, client: &Client) {
        let key = (i64::from(self.number) << 32) | (self.turn % 300);
        let value = format!("v{}", self.turn);
        let text = "INSERT INTO plain (k, v, u, w) VALUES (?, ?, now(), ?)";
        let answer = async {
            let prepared = client.prepare(text, Some(self.keyspace)).await?;
            let (key, turn) = (key.to_be_bytes(), (self.turn as i32).to_be_bytes());
            let values =
                [(None, Value::Set(&key[..])), (None, Value::Set(value.as_bytes())), (None, Value::Set(&turn))];
            let parameters = Parameters { values: Some(Values::Given(&values)), keyspace: None, ..self.parameters() };
            client.execute(&prepared, &parameters).await
        };
        let answer = answer.await;
        self.learn(key, Some(value), self.judged(&answer, Kind::Single));
        if answer.is_ok() && self.turn % 6 == 0 {
            self.read_back(client, key).await;
        }
    }

    fn learn(&mut self, key: i64, value: Option<String>, outcome: Outcome) {
        match outcome {
            Outcome::Committed => _ = self.told.plain.insert(key, value),
            Outcome::Unknown => _ = self.told.plain.remove(&key),
            Outcome::Absent => {}
        }
    }

    async fn read_back(&self, client: &Client, key: i64) {
        let text = format!("SELECT v FROM plain WHERE k = {key}");
        let Ok(answer) = client.query(&text, &self.parameters()).await else { return };
        let row = answer.row().expect("a row").and_then(|row| row.iter().next().flatten().map(<[u8]>::to_vec));
        let expected = self.told.plain.get(&key).cloned().flatten();
        if row != expected.map(String::into_bytes) {
            self.stale.fetch_add(1, SeqCst);
        }
    }

    async fn remove(&mut self, client: &Client) {
        let key = (i64::from(self.number) << 32) | (self.turn * 7 % 300);
        let text = format!("DELETE FROM plain WHERE k = {key}");
        let answer = client.query(&text, &self.parameters()).await;
        self.learn(key, None, self.judged(&answer, Kind::Single));
    }

    async fn count(&mut self, client: &Client) {
        let text = format!("UPDATE counts SET n = n + 1 WHERE k = {}", self.number);
        let answer = client.query(&text, &self.parameters()).await;
        let outcome = self.judged(&answer, Kind::Counter);
        let counted = self.told.counted.entry(self.number).or_default();
        match outcome {
            Outcome::Committed => counted.0 += 1,
            Outcome::Unknown => counted.1 += 1,
            Outcome::Absent => {}
        }
    }

    async fn append(&mut self, client: &Client) {
        let key = (self.number, (self.turn % 5) as i32);
        let element = format!("e{}", self.turn);
        let text = format!("UPDATE wide SET l = l + ['{element}'] WHERE k = {} AND c = {}", key.0, key.1);
        let answer = client.query(&text, &self.parameters()).await;
        match self.judged(&answer, Kind::Single) {
            Outcome::Committed => self.told.lists.entry(key).or_default().push(element),
            Outcome::Unknown => _ = self.told.doubtful_lists.insert(key),
            Outcome::Absent => {}
        }
    }

    /// A set and a map, in a batch with a plain row.
    async fn collect(&mut self, client: &Client) {
        let (n, turn, c) = (self.number, self.turn, self.turn % 5);
        let text = format!(
            "BEGIN BATCH UPDATE wide SET s = s + {{{turn}}}, m['k{c}'] = {turn} WHERE k = {n} AND c = {c};
             DELETE m['k1'] FROM wide WHERE k = {n} AND c = {c}; APPLY BATCH"
        );
        let answer = client.query(&text, &self.parameters()).await;
        self.judged(&answer, Kind::Logged);
    }

    async fn forget(&mut self, client: &Client) {
        let key = self.number * 100 + (self.turn % 3) as i32;
        let text = match self.turn % 4 {
            0 => format!("DELETE FROM forgets WHERE k = {key}"),
            turn => format!("INSERT INTO forgets (k, v) VALUES ({key}, 'f{turn}')"),
        };
        let answer = client.query(&text, &self.parameters()).await;
        self.judged(&answer, Kind::Single);
    }

    /// Rows that all clients want.
    async fn decide(&mut self, client: &Client) {
        let key = self.turn % 4;
        let text = match self.turn % 24 {
            3 => format!("INSERT INTO decided (k, v, at) VALUES ({key}, 0, toTimestamp(now())) IF NOT EXISTS"),
            _ => format!("UPDATE decided SET v = {} WHERE k = {key} IF EXISTS", self.turn),
        };
        let answer = client.query(&text, &Parameters { timestamp: None, ..self.parameters() }).await;
        self.judged(&answer, Kind::Conditional);
    }
}
