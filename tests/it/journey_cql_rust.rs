//! The journey with `scylla`, the Rust driver: values of every type read and bound again, pages by stream and by hand, batches,
//! conditions, counters, a changing schema, traces; v4 with LZ4.

use std::error::Error;
use std::net::SocketAddrV4;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::stream::{self, StreamExt};
use scylla::client::Compression;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::unprepared::Statement;
use scylla::value::{Counter, CqlValue, Row};

use crate::journeys::same;
use crate::journeys_cql::assert_mirrored;
use crate::support::cassandra::pair_with;
use crate::support::tandem::Tandem;

const ROWS: i32 = 10_000;

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
    let direct = Traveller::travel(old.address(), "rust_4").await;
    let [origin, target] = pair_with("rust_4t").map(|node| node.address());
    let tandem = Tandem::start_cql(origin, target, "").await;
    let through = Traveller::travel(SocketAddrV4::new([127, 0, 0, 1].into(), tandem.port), "rust_4t").await;
    same(&direct, &through);
    assert_mirrored(&tandem, "rust_4t").await;
}

/// A session, and what was seen.
struct Traveller {
    session: Session,
    diary: Vec<String>,
}

impl Traveller {
    async fn travel(address: SocketAddrV4, keyspace: &str) -> Vec<String> {
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
        let mut traveller = Traveller { session, diary: Vec::new() };
        traveller.discovers();
        traveller.defines().await.expect("schema");
        traveller.binds_values().await.expect("values");
        traveller.counts().await.expect("counters");
        traveller.sets_conditions().await.expect("conditions");
        traveller.writes_batches().await.expect("batches");
        traveller.turns_pages().await.expect("pages");
        traveller.changes_the_schema().await.expect("schema");
        traveller.is_traced().await.expect("traces");
        traveller.makes_mistakes().await;
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
    }

    async fn defines(&mut self) -> Done {
        let columns: Vec<_> = TYPES.iter().enumerate().map(|(n, (kind, _))| format!("c{n} {kind}")).collect();
        for text in [
            "CREATE TYPE address (street text, no int)",
            &format!("CREATE TABLE typed (k int PRIMARY KEY, {})", columns.join(", ")),
            "CREATE TABLE item (k int, c int, v text, s text STATIC, PRIMARY KEY (k, c))",
            "CREATE TABLE visits (page text PRIMARY KEY, hits counter)",
            "CREATE TABLE bulk (k int, c int, v text, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)",
        ] {
            self.run(text, ()).await?;
        }
        self.session.refresh_metadata().await?;
        let state = self.session.get_cluster_state();
        let keyspace = self.session.get_keyspace().expect("it uses one");
        let mut tables: Vec<_> = state.get_keyspace(&*keyspace).expect("known").tables.keys().cloned().collect();
        tables.sort();
        self.say("tables", tables);
        Ok(())
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

    async fn counts(&mut self) -> Done {
        let add = self.session.prepare("UPDATE visits SET hits = hits + ? WHERE page = ?").await?;
        for amount in [5, -2, 10] {
            self.session.execute_unpaged(&add, (Counter(amount), "home")).await?;
        }
        let mut batch = Batch::new(BatchType::Counter);
        batch.append_statement(add.clone());
        batch.append_statement(add);
        self.session.batch(&batch, ((Counter(1), "home"), (Counter(1), "away"))).await?;
        for page in ["home", "away"] {
            let rows = self.rows("SELECT page, hits FROM visits WHERE page = ?", (page,)).await?;
            self.say("counter", rows);
        }
        Ok(())
    }

    async fn sets_conditions(&mut self) -> Done {
        for _ in 0..2 {
            let seen = self.rows("INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS", (2, 1, "new")).await?;
            self.say("if not exists", seen);
        }
        for old in ["wrong", "new", "new"] {
            let seen = self.rows("UPDATE item SET v = ? WHERE k = 2 AND c = 1 IF v = ?", ("newer", old)).await?;
            self.say("if", seen);
        }
        let mut batch = Batch::new(BatchType::Logged);
        batch.append_statement("INSERT INTO item (k, c, v) VALUES (2, 5, 'a') IF NOT EXISTS");
        batch.append_statement("INSERT INTO item (k, c, v) VALUES (2, 6, 'b')");
        let applied = self.session.batch(&batch, ((), ())).await?.into_rows_result()?.rows_num();
        let rows = self.rows("SELECT c, v FROM item WHERE k = 2", ()).await?;
        self.say("conditional batch", (applied, rows));
        Ok(())
    }

    async fn writes_batches(&mut self) -> Done {
        let insert = self.session.prepare("INSERT INTO item (k, c, v) VALUES (?, ?, ?)").await?;
        for (k, kind) in [(30, BatchType::Logged), (31, BatchType::Unlogged)] {
            let mut batch = Batch::new(kind);
            batch.append_statement(insert.clone());
            batch.append_statement("INSERT INTO item (k, c, v) VALUES (?, ?, 'text')");
            batch.append_statement(insert.clone());
            batch.set_timestamp(Some(1_000));
            self.session.batch(&batch, ((k, 0, "zero"), (k, 1), (k, 2, "two"))).await?;
            let rows = self.rows("SELECT c, v, writetime(v) FROM item WHERE k = ?", (k,)).await?;
            self.say("batch", rows);
        }
        let text = "BEGIN BATCH INSERT INTO item (k, c, v) VALUES (34, 1, 'x'); UPDATE item SET s = 'y' WHERE k = 34; APPLY BATCH";
        self.run(text, ()).await?;
        let rows = self.rows("SELECT c, v, s FROM item WHERE k = 34", ()).await?;
        self.say("text batch", rows);
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
        let rows = self.session.query_iter(select, ()).await?.rows_stream::<(i32, i32, String)>()?;
        let found: Vec<_> = rows.try_collect().await?;
        self.say("paged", (found.len(), found.iter().map(|(_, c, _)| i64::from(*c)).sum::<i64>()));
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
