//! The journey with `scylla`, the Rust driver: values of every type read and bound again, pages by stream and by hand, batches,
//! conditions, counters, a changing schema, traces; v4 with LZ4.

use std::cell::Cell;
use std::error::Error;
use std::iter;
use std::net::SocketAddrV4;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt};
use scylla::client::Compression;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use scylla::value::{Counter, CqlValue, Row};

use crate::journeys::same;
use crate::journeys_cql::{PATIENT, Turns, assert_mirrored};
use crate::support::cassandra::pair_with;
use crate::support::tandem::Tandem;

const ROWS: i32 = 10_000;
/// They go on while something is done to the cluster.
const WORKERS: i32 = 4;

/// A type, and a value of it as CQL writes it.
const TYPES: &[(&str, &str)] = &[
    ("ascii", "'plain'"),
    ("bigint", "-9223372036854775808"),
    ("blob", "0x00ff"),
    ("boolean", "true"),
    ("decimal", "-12345678901234567890.123456789"),
    ("double", "-0.1"),
    ("float", "1.5"),
    ("inet", "'2001:db8::1'"),
    ("int", "-1"),
    ("text", "'naïve 🐘 ''quote'''"),
    ("timestamp", "'2024-02-29T23:59:59.123Z'"),
    ("timeuuid", "01234567-89ab-11ee-8123-456789abcdef"),
    ("uuid", "01234567-89ab-41ee-8123-456789abcdef"),
    ("varint", "-1267650600228229401496703205376"),
    ("date", "'2024-02-29'"),
    ("time", "'23:59:59.123456789'"),
    ("smallint", "-32768"),
    ("tinyint", "-128"),
    ("duration", "1y2mo3d1s7ns"),
    ("list<int>", "[2, 1, 2]"),
    ("set<text>", "{'b', 'a'}"),
    ("map<text, bigint>", "{'b': 2, 'a': 1}"),
    ("frozen<list<frozen<map<text, frozen<set<int>>>>>>", "[{'x': {3, 1}}, {}]"),
    ("tuple<int, text, boolean>", "(7, null, true)"),
    ("frozen<address>", "{street: 'Main', no: 5}"),
    ("list<frozen<address>>", "[{street: 'A', no: 1}, {street: 'B'}]"),
];

type Done = Result<(), Box<dyn Error>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scylla_sees_no_difference() {
    let [old, _] = pair_with("rust_4");
    let direct = Traveller::travel(old.address(), "rust_4", None).await;
    let [origin, target] = pair_with("rust_4t").map(|node| node.address());
    let tandem = Tandem::start_cql(origin, target, "").await;
    let through = Traveller::travel(tandem.address(), "rust_4t", None).await;
    same(&direct, &through);
    assert_mirrored(&tandem, "rust_4t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scyllas_driver_sees_no_switch_there_and_back() {
    let [old, _] = pair_with("rust_switched");
    let direct = Traveller::travel(old.address(), "rust_switched", None).await;
    let [origin, target] = pair_with("rust_switchedt").map(|node| node.address());
    let tandem = Tandem::start_cql(origin, target, PATIENT).await;
    let through = Traveller::travel(tandem.address(), "rust_switchedt", Some(Turns::of(&tandem))).await;
    same(&direct, &through);
    assert_mirrored(&tandem, "rust_switchedt").await;
}

async fn define(session: &Session) -> Done {
    let columns: Vec<_> = TYPES.iter().enumerate().map(|(n, (kind, _))| format!("c{n} {kind}")).collect();
    for text in [
        "CREATE TYPE address (street text, no int)",
        &format!("CREATE TABLE typed (k int PRIMARY KEY, {})", columns.join(", ")),
        "CREATE TABLE item (k int, c int, v text, s text STATIC, PRIMARY KEY (k, c))",
        "CREATE TABLE visits (page text PRIMARY KEY, hits counter)",
        "CREATE TABLE bulk (k int, c int, v text, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)",
        "CREATE TABLE busy (k int, c int, v int, PRIMARY KEY (k, c))",
        "CREATE TABLE busy_hits (page text PRIMARY KEY, hits counter)",
        "CREATE TABLE busy_once (k int PRIMARY KEY, v int)",
    ] {
        session.query_unpaged(text, ()).await?;
    }
    session.refresh_metadata().await?;
    Ok(())
}

/// A session, and what was seen.
struct Traveller<'t> {
    session: Session,
    diary: Vec<String>,
    turns: Option<Turns<'t>>,
    /// Prepared once, used on both sides.
    statements: Prepared,
    /// What each worker has done: rows, increments and versions of its own.
    done: Vec<i32>,
}

struct Prepared {
    item: PreparedStatement,
    visit: PreparedStatement,
    newer: PreparedStatement,
    busy: PreparedStatement,
    find: PreparedStatement,
    hit: PreparedStatement,
    first: PreparedStatement,
    next: PreparedStatement,
}

impl Prepared {
    async fn on(session: &Session) -> Result<Prepared, Box<dyn Error>> {
        Ok(Prepared {
            item: session.prepare("INSERT INTO item (k, c, v) VALUES (?, ?, ?)").await?,
            visit: session.prepare("UPDATE visits SET hits = hits + ? WHERE page = ?").await?,
            newer: session.prepare("UPDATE item SET v = ? WHERE k = ? AND c = 1 IF v = ?").await?,
            busy: session.prepare("INSERT INTO busy (k, c, v) VALUES (?, ?, ?)").await?,
            find: session.prepare("SELECT v FROM busy WHERE k = ? AND c = ?").await?,
            hit: session.prepare("UPDATE busy_hits SET hits = hits + ? WHERE page = ?").await?,
            first: session.prepare("INSERT INTO busy_once (k, v) VALUES (?, ?) IF NOT EXISTS").await?,
            next: session.prepare("UPDATE busy_once SET v = ? WHERE k = ? IF v = ?").await?,
        })
    }

    /// One more of worker `k`; what was acknowledged is there.
    async fn work(&self, session: &Session, k: i32, n: i32) -> Result<(), Box<dyn Error>> {
        session.execute_unpaged(&self.busy, (k, n, n)).await?;
        let (read,) = session.execute_unpaged(&self.find, (k, n)).await?.into_rows_result()?.single_row::<(i32,)>()?;
        assert_eq!(read, n, "worker {k}");
        session.execute_unpaged(&self.hit, (Counter(1), k.to_string())).await?;
        let decided = match n {
            1 => session.execute_unpaged(&self.first, (k, n)).await?,
            _ => session.execute_unpaged(&self.next, (n, k, n - 1)).await?,
        };
        let row = decided.into_rows_result()?.first_row::<Row>()?;
        assert_eq!(row.columns.first(), Some(&Some(CqlValue::Boolean(true))), "version {n} of worker {k}");
        let mut batch = Batch::new(BatchType::Logged);
        batch.append_statement(self.busy.clone());
        batch.append_statement(self.busy.clone());
        session.batch(&batch, ((k, n, n), (k, -n, n))).await?;
        Ok(())
    }
}

impl Traveller<'_> {
    async fn travel(address: SocketAddrV4, keyspace: &str, turns: Option<Turns<'_>>) -> Vec<String> {
        let session = SessionBuilder::new()
            .known_node_addr(address.into())
            .use_keyspace(keyspace, false)
            // Its parser of types does not know quoted names, which other tests have.
            .keyspaces_to_fetch([keyspace])
            .compression(Some(Compression::Lz4))
            .connection_timeout(Duration::from_secs(20))
            .build()
            .await
            .expect("a session");
        define(&session).await.expect("schema");
        let statements = Prepared::on(&session).await.expect("statements");
        let mut traveller =
            Traveller { session, diary: Vec::new(), turns, statements, done: vec![0; WORKERS as usize] };
        traveller.discovers();
        traveller.binds_values().await.expect("values");
        traveller.does_again(0).await.expect("counters, conditions, batches");
        traveller.turns_pages().await.expect("pages");
        traveller.changes_the_schema().await.expect("schema");
        traveller.is_traced().await.expect("traces");
        traveller.makes_mistakes().await;
        traveller.takes_a_turn().await.expect("a last look");
        traveller.turns.iter().for_each(Turns::assert_taken);
        assert!(traveller.diary.len() > 40, "it saw too little: {:#?}", traveller.diary);
        traveller.diary.iter().map(|line| line.replace(keyspace, "KEYSPACE")).collect()
    }

    fn say(&mut self, step: &str, seen: impl std::fmt::Debug) {
        self.diary.push(format!("{step}: {seen:?}"));
    }

    async fn run(&self, text: &str, values: impl SerializeRow) -> Done {
        self.session.query_unpaged(text, values).await?;
        Ok(())
    }

    async fn rows(&self, text: &str, values: impl SerializeRow) -> Result<Vec<Vec<Option<CqlValue>>>, Box<dyn Error>> {
        let result = self.session.query_unpaged(text, values).await?.into_rows_result()?;
        let rows = result.rows::<Row>()?.collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().map(|row| row.columns).collect())
    }

    fn discovers(&mut self) {
        let state = self.session.get_cluster_state();
        let nodes: Vec<_> = state
            .get_nodes_info()
            .iter()
            .map(|node| (node.datacenter.clone(), node.rack.clone(), node.is_connected()))
            .collect();
        self.say("nodes", nodes);
        let keyspace = self.session.get_keyspace().expect("it uses one");
        let mut tables: Vec<_> = state.get_keyspace(&*keyspace).expect("known").tables.keys().cloned().collect();
        tables.sort();
        self.say("tables", tables);
    }

    /// Written as text, read, bound again under another key, and read again.
    async fn binds_values(&mut self) -> Done {
        let names: Vec<_> = (0..TYPES.len()).map(|n| format!("c{n}")).collect();
        let (names, literals) =
            (names.join(", "), TYPES.iter().map(|(_, value)| *value).collect::<Vec<_>>().join(", "));
        self.run(&format!("INSERT INTO typed (k, {names}) VALUES (1, {literals})"), ()).await?;
        let read = self.rows(&format!("SELECT {names} FROM typed WHERE k = 1"), ()).await?.remove(0);
        let marks = vec!["?"; TYPES.len() + 1].join(", ");
        let insert = self.session.prepare(format!("INSERT INTO typed (k, {names}) VALUES ({marks})")).await?;
        for (key, values) in [(2, read.clone()), (3, vec![None; TYPES.len()])] {
            let mut bound = vec![Some(CqlValue::Int(key))];
            bound.extend(values);
            self.session.execute_unpaged(&insert, &bound).await?;
        }
        let again = self.rows(&format!("SELECT {names} FROM typed WHERE k = 2"), ()).await?.remove(0);
        assert_eq!(read, again);
        for ((kind, _), value) in TYPES.iter().zip(again) {
            self.say(kind, value);
        }
        let empty = self.rows("SELECT * FROM typed WHERE k = 3", ()).await?.remove(0);
        self.say("empty", empty.iter().flatten().count());
        let nothing = self.rows("SELECT * FROM typed WHERE k = ?", (9,)).await?;
        self.say("nothing", nothing);
        Ok(())
    }

    /// The same statements again, with other keys.
    async fn does_again(&mut self, from: i32) -> Done {
        self.counts().await?;
        self.sets_conditions(from + 2).await?;
        self.writes_batches(from + 30).await
    }

    async fn counts(&mut self) -> Done {
        let add = &self.statements.visit;
        for amount in [5, -2, 10] {
            self.session.execute_unpaged(add, (Counter(amount), "home")).await?;
        }
        let mut batch = Batch::new(BatchType::Counter);
        batch.append_statement(add.clone());
        batch.append_statement(add.clone());
        self.session.batch(&batch, ((Counter(1), "home"), (Counter(1), "away"))).await?;
        for page in ["home", "away"] {
            let rows = self.rows("SELECT page, hits FROM visits WHERE page = ?", (page,)).await?;
            self.say("counter", rows);
        }
        Ok(())
    }

    async fn sets_conditions(&mut self, k: i32) -> Done {
        for _ in 0..2 {
            let seen = self.rows("INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS", (k, 1, "new")).await?;
            self.say("if not exists", seen);
        }
        for old in ["wrong", "new", "new"] {
            let seen = self.session.execute_unpaged(&self.statements.newer, ("newer", k, old)).await?;
            let seen = seen.into_rows_result()?.first_row::<Row>()?;
            self.say("if", seen.columns);
        }
        let mut batch = Batch::new(BatchType::Logged);
        batch.append_statement("INSERT INTO item (k, c, v) VALUES (?, 5, 'a') IF NOT EXISTS");
        batch.append_statement("INSERT INTO item (k, c, v) VALUES (?, 6, 'b')");
        let applied = self.session.batch(&batch, ((k,), (k,))).await?.into_rows_result()?.rows_num();
        let rows = self.rows("SELECT c, v FROM item WHERE k = ?", (k,)).await?;
        self.say("conditional batch", (applied, rows));
        Ok(())
    }

    async fn writes_batches(&mut self, from: i32) -> Done {
        let insert = self.statements.item.clone();
        for (k, kind) in [(from, BatchType::Logged), (from + 1, BatchType::Unlogged)] {
            let mut batch = Batch::new(kind);
            batch.append_statement(insert.clone());
            batch.append_statement("INSERT INTO item (k, c, v) VALUES (?, ?, 'text')");
            batch.append_statement(insert.clone());
            batch.set_timestamp(Some(1_000));
            self.session.batch(&batch, ((k, 0, "zero"), (k, 1), (k, 2, "two"))).await?;
            let rows = self.rows("SELECT c, v, writetime(v) FROM item WHERE k = ?", (k,)).await?;
            self.say("batch", rows);
        }
        let k = from + 4;
        let text = format!(
            "BEGIN BATCH INSERT INTO item (k, c, v) VALUES ({k}, 1, 'x'); UPDATE item SET s = 'y' WHERE k = {k}; APPLY BATCH"
        );
        self.run(&text, ()).await?;
        let rows = self.rows("SELECT c, v, s FROM item WHERE k = ?", (k,)).await?;
        self.say("text batch", rows);
        Ok(())
    }

    /// Something may be done to the cluster now; nobody who works meanwhile may notice.
    async fn takes_a_turn(&mut self) -> Done {
        let Traveller { session, statements, done, turns, .. } = self;
        let over = Cell::new(false);
        let work = async |k: i32, n: &mut i32| {
            for least in (0..5).rev().chain(iter::repeat(0)) {
                *n += 1;
                statements.work(session, k, *n).await?;
                if over.get() && least == 0 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Done::Ok(())
        };
        let other = async {
            if let Some(turns) = turns {
                turns.next().await;
            }
            over.set(true);
        };
        let workers = done.iter_mut().zip(0..).map(|(n, k)| work(k, n));
        let (worked, ()) = tokio::join!(try_join_all(workers), other);
        worked?;
        for k in 0..WORKERS {
            let rows = self.rows("SELECT count(*) FROM busy WHERE k = ?", (k,)).await?;
            let hits = self.rows("SELECT hits FROM busy_hits WHERE page = ?", (k.to_string(),)).await?;
            let version = self.rows("SELECT v FROM busy_once WHERE k = ?", (k,)).await?;
            let n = self.done[k as usize];
            assert_eq!(rows, [[Some(CqlValue::BigInt(2 * i64::from(n)))]]);
            assert_eq!(hits, [[Some(CqlValue::Counter(Counter(n.into())))]]);
            assert_eq!(version, [[Some(CqlValue::Int(n))]]);
        }
        Ok(())
    }

    async fn turns_pages(&mut self) -> Done {
        let insert = self.session.prepare("INSERT INTO bulk (k, c, v) VALUES (?, ?, ?)").await?;
        // Some of so many at once come too late on a busy node: what is not there yet is written again.
        let mut left: Vec<i32> = (0..ROWS).collect();
        for _ in 0..20 {
            let write = async |n: i32| {
                let written = self.session.execute_unpaged(&insert, (n % 100, n, format!("value {n}"))).await;
                written.err().map(|_| n)
            };
            left = stream::iter(left).map(write).buffer_unordered(200).filter_map(async |left| left).collect().await;
        }
        self.say("inserted", (ROWS, left));
        let mut select = Statement::new("SELECT k, c, v FROM bulk");
        select.set_page_size(700);
        let mut rows = self.session.query_iter(select, ()).await?.rows_stream::<(i32, i32, String)>()?;
        let (mut found, mut sum) = (0, 0);
        while let Some((_, c, _)) = rows.try_next().await? {
            (found, sum) = (found + 1, sum + c);
            if found == 2000 || found == 6000 {
                self.takes_a_turn().await?;
                self.does_again(found).await?;
            }
        }
        self.say("paged", (found, sum));
        let mut some = self.session.prepare("SELECT c FROM bulk WHERE k = ? AND c < ?").await?;
        some.set_page_size(20);
        let (mut state, mut pages) = (PagingState::start(), Vec::new());
        loop {
            let (page, next) = self.session.execute_single_page(&some, (3, 5000), state).await?;
            let page = page.into_rows_result()?;
            let numbers = page.rows::<(i32,)>()?.map(|row| row.map(|(c,)| c)).collect::<Result<Vec<_>, _>>()?;
            pages.push(numbers);
            match next {
                PagingStateResponse::HasMorePages { state: next } => state = next,
                PagingStateResponse::NoMorePages => break,
            }
        }
        self.say("one partition", pages);
        let count = self.rows("SELECT count(*) FROM bulk", ()).await?;
        self.say("count", count);
        Ok(())
    }

    async fn changes_the_schema(&mut self) -> Done {
        let select = self.session.prepare("SELECT * FROM item WHERE k = 34").await?;
        self.run("ALTER TABLE item ADD extra list<text>", ()).await?;
        self.run("UPDATE item SET extra = ['p', 'q'] WHERE k = 34 AND c = 1", ()).await?;
        let executed = self.session.execute_unpaged(&select, ()).await?.into_rows_result()?.first_row::<Row>()?;
        self.say("executed", executed.columns);
        self.run("CREATE TABLE gone (k int PRIMARY KEY)", ()).await?;
        self.run("INSERT INTO gone (k) VALUES (1)", ()).await?;
        self.run("TRUNCATE gone", ()).await?;
        let truncated = self.rows("SELECT * FROM gone", ()).await?;
        self.say("truncated", truncated);
        self.run("DROP TABLE gone", ()).await?;
        let agreed = self.session.check_schema_agreement().await?.is_some();
        self.say("agreed", agreed);
        Ok(())
    }

    async fn is_traced(&mut self) -> Done {
        let mut insert = Statement::new("INSERT INTO item (k, c, v) VALUES (40, 1, 'traced')");
        insert.set_tracing(true);
        let id = self.session.query_unpaged(insert, ()).await?.tracing_id().expect("it is traced");
        let trace = self.session.get_tracing_info(&id).await?;
        self.say("trace", (trace.request, trace.events.len() > 2));
        Ok(())
    }

    async fn makes_mistakes(&mut self) {
        for text in [
            "SELEC",
            "SELECT * FROM nowhere",
            "INSERT INTO item (k) VALUES ('text')",
            "CREATE TABLE item (k int PRIMARY KEY)",
        ] {
            let error = self.session.query_unpaged(text, ()).await.expect_err("a mistake").to_string();
            self.say("error", error);
        }
    }
}
