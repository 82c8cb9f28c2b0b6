//! Payments between two real servers: an old origin, a new target.

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use tandem::journal::{Journal, Lsn, Place};
use tandem::mirror::state::copier::{Copier, Error, Owed, Paid};
use tandem::mirror::state::keys::Key;
use tandem::protocol::postgres::client::{Client, ServerConfig};
use tandem::protocol::postgres::copier::{Options, PgCopier};
use tandem::protocol::postgres::key;
use tandem::protocol::postgres::logins::Logins;
use tandem::protocol::postgres::scope::Scope;
use tandem::record::{Backend, TableId, put_varint};
use tandem::sandbox::{Options as SandboxOptions, Postgres, Stop, binaries};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{connect, pair, rows, server_with, sql, until};

struct World {
    origin: Postgres,
    target: Postgres,
    copier: PgCopier,
}

fn config(server: &Postgres) -> ServerConfig {
    server.url("postgres").parse().expect("a URL")
}

impl World {
    /// Both sides with this schema.
    async fn new(schema: &str) -> World {
        World::with(schema, schema).await
    }

    async fn with(origin_schema: &str, target_schema: &str) -> World {
        let (origin, target) = pair();
        sql(&origin.url("postgres"), origin_schema).await;
        sql(&target.url("postgres"), target_schema).await;
        let mut copier = PgCopier::new(config(&origin), config(&target), Options::default());
        copier.open().await.expect("both sides open");
        World { origin, target, copier }
    }

    /// Another applier takes over.
    async fn reopen(&mut self, options: Options) {
        self.copier = PgCopier::new(config(&self.origin), config(&self.target), options);
        while let Err(error) = self.copier.open().await {
            assert!(matches!(error, Error::Fenced(_)), "{error}");
        }
    }

    /// The mirror's role on the target may not say that foreign keys shall not act.
    async fn act_as_plain(&mut self) {
        let role = "CREATE ROLE plain LOGIN; GRANT ALL ON SCHEMA public TO plain; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; \
            GRANT ALL ON SCHEMA tandem TO plain; GRANT ALL ON ALL TABLES IN SCHEMA tandem TO plain";
        self.target(role).await;
        let mut plain = config(&self.target);
        plain.user = "plain".into();
        self.copier = PgCopier::new(config(&self.origin), plain, Options::default());
        while let Err(error) = self.copier.open().await {
            assert!(matches!(error, Error::Fenced(_)), "{error}");
        }
    }

    async fn origin(&self, script: &str) {
        sql(&self.origin.url("postgres"), script).await;
    }

    async fn target(&self, script: &str) {
        sql(&self.target.url("postgres"), script).await;
    }

    async fn try_pay(&mut self, owed: &Owed) -> Result<Paid, Error> {
        self.copier.snapshot().await?;
        self.copier.pay(owed, false).await
    }

    /// Pay, taking S anew as long as the schema is stale.
    async fn pay(&mut self, owed: &Owed) -> Paid {
        for _ in 0..5 {
            match self.try_pay(owed).await {
                Err(Error::Stale(why)) => eprintln!("stale: {why}"),
                other => return other.expect("paid"),
            }
        }
        panic!("stale five times");
    }

    /// All of `t` is refused with this error, and `u` is paid all the same.
    async fn assert_refused_beside_another(&mut self, code: &str) {
        let mut both = owed("t", [1]);
        owe(&mut both, "u", false, [1]);
        let paid = self.pay(&both).await;
        let [refused] = &paid.refused[..] else { panic!("one is refused: {:?}", paid.refused) };
        assert!(refused.table == table("t") && refused.key.is_none() && refused.why.contains(code), "{refused:?}");
        self.assert_same("u").await;
    }

    async fn assert_same(&self, table: &str) {
        let query = format!("SELECT t::text FROM {table} t ORDER BY 1");
        let (origin, target) = (self.origin.url("postgres"), self.target.url("postgres"));
        assert_eq!(rows(&origin, &query).await, rows(&target, &query).await, "{table}");
    }
}

fn table(name: &str) -> TableId {
    TableId::of("public", name)
}

/// A key of these columns, each given as name and type.
fn bytes(of: &[(&str, &str)], columns: &[&[u8]]) -> Key {
    let mut out = Vec::new();
    key::Layout::of(of.iter().copied()).begin(&mut out);
    columns.iter().for_each(|column| key::push(&mut out, column));
    out.into()
}

fn int(value: i32) -> Key {
    bytes(&[("id", "pg_catalog.int4")], &[&value.to_be_bytes()])
}

/// Owe these integer keys.
fn owe(owed: &mut Owed, name: &str, flagged: bool, keys: impl IntoIterator<Item = i32>) {
    owed.keys.entry(table(name)).or_default().extend(keys.into_iter().map(|key| (int(key), flagged)));
}

fn owed(name: &str, keys: impl IntoIterator<Item = i32>) -> Owed {
    let mut owed_keys = Owed::default();
    owe(&mut owed_keys, name, false, keys);
    owed_keys
}

fn ddl(name: &str, sql: &str) -> (TableId, Box<[u8]>) {
    let mut body = BytesMut::new();
    put_varint(&mut body, 6);
    body.extend_from_slice(b"public");
    body.extend_from_slice(sql.as_bytes());
    (if name.is_empty() { TableId::NONE } else { table(name) }, body[..].into())
}

#[tokio::test]
async fn owed_keys_are_made_equal_whether_present_changed_or_absent() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    world.origin("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (4, 'four')").await;
    world.target("INSERT INTO t VALUES (2, 'old'), (3, 'gone'), (4, 'not owed')").await;
    let paid = world.pay(&owed("t", [1, 2, 3, 77])).await;
    assert_eq!((paid.payments, paid.keys, paid.rows), (1, 4, 2));
    assert!(paid.refused.is_empty());
    let found = rows(&world.target.url("postgres"), "SELECT * FROM t ORDER BY 1").await;
    assert_eq!(found, ["1|one", "2|two", "4|not owed"]);
    assert_eq!(world.pay(&owed("t", [4])).await.payments, 2);
    world.assert_same("t").await;
    assert_eq!(world.pay(&Owed::default()).await.payments, 2);
}

#[tokio::test]
async fn all_types_arrive_as_they_are() {
    let types = "CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN pos AS int CHECK (VALUE > 0);";
    let binary = "CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, f float8, n numeric, ts timestamptz, d date, m mood, \
        r int4range, p pair, o pos, j jsonb, c char(5), i interval, u uuid, y bytea, a int[], x text, g int GENERATED ALWAYS AS (o + 1) STORED);";
    let text = "CREATE TABLE x (id int PRIMARY KEY, ms mood[], s text, c regclass);";
    let origin = format!("{types} {binary} {text}");
    // Other oids, other column order.
    let other = "CREATE TABLE x (c regclass, s text, ms mood[], id int PRIMARY KEY);";
    let target = format!(
        "CREATE TYPE shift AS ENUM ('x'); CREATE TABLE gone (id int); DROP TABLE gone; {types} {binary} {other}"
    );
    let mut world = World::with(&origin, &target).await;
    world
        .origin(
            "INSERT INTO b (f, n, ts, d, m, r, p, o, j, c, i, u, y, a, x) VALUES \
             ('NaN', 'NaN', 'infinity', '0044-03-15 BC', 'bad', '[1,5)', '(7,\"a,b\")', 3, '{\"a\":[1,null]}', 'ab', '1 mon 2 days', \
              gen_random_uuid(), '\\x00ff', '{1,NULL,3}', E'tab\\tback\\\\slash\\nline'), \
             ('-infinity', 1.500, '-infinity', 'infinity', NULL, 'empty', NULL, NULL, NULL, NULL, NULL, NULL, '', '{}', ''), \
             (0.1, 123456789012345678901234567890.123456789, now(), '2024-02-29', 'ok', '(,)', '(,)', 1, '1', '', '-1 sec', NULL, NULL, '{{1,2},{3,4}}', 'ü'); \
             INSERT INTO x VALUES (1, '{ok,bad,NULL}', E'a\\tb\\\\N\\n\\r', 'b'), (2, NULL, '\\N', NULL), (3, '{}', '', 'x')",
        )
        .await;
    let mut all = owed("b", 1..=3);
    owe(&mut all, "x", false, 1..=3);
    let paid = world.pay(&all).await;
    assert_eq!((paid.rows, paid.refused), (6, vec![]));
    world.assert_same("b").await;
    for (side, server) in [("origin", &world.origin), ("target", &world.target)] {
        let found = rows(&server.url("postgres"), "SELECT id, ms, quote_literal(s), c FROM x ORDER BY id").await;
        assert_eq!(found[0], "1|{ok,bad,NULL}|E'a\tb\\\\N\n\r'|b", "{side}");
        assert_eq!((found[1].as_str(), found[2].as_str()), ("2|NULL|E'\\\\N'|NULL", "3|{}|''|x"), "{side}");
    }
}

#[tokio::test]
async fn keys_of_every_form_find_their_rows() {
    let schema = "CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE DOMAIN code AS varchar(9); \
        CREATE TABLE e (m mood, c char(4), d code, PRIMARY KEY (m, c, d)); CREATE TABLE n (k numeric PRIMARY KEY, v int); \
        CREATE TABLE i (k interval PRIMARY KEY, v int); CREATE TABLE ts (k timestamptz, u uuid, b bytea, PRIMARY KEY (k, u, b))";
    let mut world = World::new(schema).await;
    world
        .origin(
            "INSERT INTO e VALUES ('bad', 'a', 'x'), ('ok', 'a', 'x'); INSERT INTO n VALUES (1.50, 1); INSERT INTO i VALUES ('1 mon', 1); \
             INSERT INTO ts VALUES ('2000-01-01 00:00:01+00', '00000000-0000-0000-0000-000000000001', 'b')",
        )
        .await;
    world.target("INSERT INTO e VALUES ('ok', 'gone', 'x'); INSERT INTO n VALUES (1.5, 0); INSERT INTO i VALUES ('30 days', 0)").await;
    let mut all = Owed::default();
    let mut one = |name: &str, key: Key| {
        all.keys.entry(table(name)).or_default().insert(key, false);
    };
    let e = [("m", "public.mood"), ("c", "pg_catalog.bpchar"), ("d", "public.code")];
    one("e", bytes(&e, &[b"bad", b"a", b"x"]));
    one("e", bytes(&e, &[b"ok", b"a", b"x"]));
    one("e", bytes(&e, &[b"ok", b"gone", b"x"]));
    // 1.5: two digits, weight 0, positive, scale 1.
    one("n", bytes(&[("k", "pg_catalog.numeric")], &[&[0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 19, 136]]));
    // One month, thirty days, 29 days and 24 hours are equal: three spellings of one key.
    for (micros, days, months) in [(0_i64, 0_i32, 1_i32), (0, 30, 0), (86_400_000_000, 29, 0)] {
        let spelling = [&micros.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat();
        one("i", bytes(&[("k", "pg_catalog.interval")], &[&spelling]));
    }
    let mut uuid = [0; 16];
    uuid[15] = 1;
    let ts = [("k", "pg_catalog.timestamptz"), ("u", "pg_catalog.uuid"), ("b", "pg_catalog.bytea")];
    one("ts", bytes(&ts, &[&1_000_000_i64.to_be_bytes(), &uuid, b"b"]));
    let paid = world.pay(&all).await;
    assert_eq!((paid.rows, paid.refused), (5, vec![]));
    for name in ["e", "n", "i", "ts"] {
        world.assert_same(name).await;
    }
}

#[tokio::test]
async fn unique_values_may_be_swapped_and_strangers_that_hold_one_are_owed_too() {
    let mut world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, u text, n int); CREATE UNIQUE INDEX ON t (lower(u)) WHERE n > 0",
    )
    .await;
    world.origin("INSERT INTO t VALUES (1, 'A', 1), (2, 'B', 1)").await;
    world.pay(&owed("t", [1, 2])).await;
    world
        .origin(
            "UPDATE t SET u = 'tmp' WHERE id = 1; UPDATE t SET u = 'A' WHERE id = 2; UPDATE t SET u = 'B' WHERE id = 1",
        )
        .await;
    world.pay(&owed("t", [1, 2])).await;
    world.assert_same("t").await;
    // A stranger holds what an owed row brings.
    world.target("INSERT INTO t VALUES (9, 'c', 1)").await;
    world.origin("INSERT INTO t VALUES (3, 'C', 2), (4, 'D', 2)").await;
    let paid = world.pay(&owed("t", [3, 4])).await;
    assert_eq!((paid.keys, paid.refused), (3, vec![]));
    world.assert_same("t").await;
}

#[tokio::test]
async fn a_row_that_the_secondary_refuses_is_parked_alone() {
    let origin = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE ok (id int PRIMARY KEY)";
    let target = "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v <> 13)); CREATE TABLE ok (id int PRIMARY KEY)";
    let mut world = World::with(origin, target).await;
    world.origin("INSERT INTO t SELECT i, i FROM generate_series(1, 40) i; INSERT INTO ok VALUES (1)").await;
    let mut all = owed("t", 1..=40);
    owe(&mut all, "ok", false, [1]);
    let paid = world.pay(&all).await;
    assert_eq!((paid.payments, paid.rows), (1, 40));
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert_eq!((refused.key.as_deref(), refused.shown.as_str()), (Some(&int(13)[..]), "13"));
    assert!(refused.why.contains("23514"), "{}", refused.why);
    let count = rows(&world.target.url("postgres"), "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM ok)").await;
    assert_eq!(count, ["39|1"]);
    // A row that was there and is refused with its new value is absent; all others are exact.
    world
        .origin("UPDATE t SET v = CASE id WHEN 5 THEN 13 ELSE -id END WHERE id <> 13; DELETE FROM t WHERE id = 40")
        .await;
    let paid = world.pay(&owed("t", 1..=40)).await;
    let mut refused: Vec<_> = paid.refused.iter().map(|refused| refused.shown.as_str()).collect();
    refused.sort_unstable();
    assert_eq!(refused, ["13", "5"]);
    let exact = "SELECT id, v FROM t WHERE id NOT IN (5, 13) ORDER BY id";
    let there = rows(&world.target.url("postgres"), "SELECT id, v FROM t ORDER BY id").await;
    assert_eq!(there, rows(&world.origin.url("postgres"), exact).await);
}

#[tokio::test]
async fn a_table_with_more_refused_rows_than_may_be_is_refused_whole_and_others_go_on() {
    let origin = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE ok (id int PRIMARY KEY)";
    let target = "CREATE TABLE t (id int PRIMARY KEY CHECK (id > 20)); CREATE TABLE ok (id int PRIMARY KEY)";
    let mut world = World::with(origin, target).await;
    world.origin("INSERT INTO t SELECT generate_series(1, 40); INSERT INTO ok VALUES (1)").await;
    world.target("INSERT INTO t VALUES (100)").await;
    let mut all = owed("t", (1..=40).chain([100]));
    owe(&mut all, "ok", false, [1]);
    world.reopen(Options { refused_max: 19, ..Options::default() }).await;
    let paid = world.pay(&all).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert_eq!((refused.key.as_deref(), refused.name.as_str()), (None, "\"public\".\"t\""));
    assert!(refused.why.contains("23514"), "{}", refused.why);
    let there = "SELECT (SELECT string_agg(id::text, ',') FROM t), (SELECT count(*) FROM ok)";
    assert_eq!(rows(&world.target.url("postgres"), there).await, ["100|1"], "as it was");
    world.reopen(Options { refused_max: 20, ..Options::default() }).await;
    let paid = world.pay(&all).await;
    assert_eq!((paid.rows, paid.refused.len()), (21, 20), "no more than may be");
}

#[tokio::test]
async fn a_table_owed_whole_has_only_the_rows_parked_that_are_refused() {
    let split = "CREATE TABLE t (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (30000); \
        CREATE TABLE high PARTITION OF t FOR VALUES FROM (30000) TO (100000)";
    let target = "CREATE TABLE t (id int PRIMARY KEY, v text, CHECK (id % 20000 <> 7), CHECK (id < 60000))";
    let mut world = World::with(split, target).await;
    world.origin("INSERT INTO t SELECT i, repeat('x', 40) FROM generate_series(1, 60001) i").await;
    world.target("INSERT INTO t VALUES (59999, 'of before')").await;
    let whole = Owed { tables: vec![table("t")], ..Owed::default() };
    let paid = world.pay(&whole).await;
    let mut refused: Vec<_> = paid.refused.iter().map(|refused| refused.shown.as_str()).collect();
    refused.sort_unstable();
    assert_eq!(refused, ["20007", "40007", "60000", "60001", "7"]);
    let sum = "SELECT count(*), sum(hashtext(t::text)) FROM t WHERE id % 20000 <> 7 AND id < 60000";
    assert_eq!(rows(&world.target.url("postgres"), sum).await, rows(&world.origin.url("postgres"), sum).await);
    assert_eq!(paid.rows, 59_996);
    world.reopen(Options { refused_max: 4, ..Options::default() }).await;
    let paid = world.pay(&whole).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert_eq!(refused.key, None);
    assert_eq!(rows(&world.target.url("postgres"), "SELECT count(*) FROM t").await, ["59996"], "as it was");
}

#[tokio::test]
async fn a_table_that_the_secondary_lacks_is_parked_and_others_go_on() {
    let origin = "CREATE TABLE here (id int PRIMARY KEY); CREATE TABLE lacks (id int PRIMARY KEY); CREATE TABLE narrow (id int PRIMARY KEY, v int)";
    let target = "CREATE TABLE here (id int PRIMARY KEY); CREATE TABLE narrow (id int PRIMARY KEY)";
    let mut world = World::with(origin, target).await;
    world.origin("INSERT INTO here VALUES (1); INSERT INTO lacks VALUES (1); INSERT INTO narrow VALUES (1)").await;
    let mut all = owed("here", [1]);
    owe(&mut all, "lacks", false, [1]);
    owe(&mut all, "narrow", false, [1]);
    let paid = world.pay(&all).await;
    let mut refused: Vec<_> =
        paid.refused.iter().map(|refused| (refused.name.as_str(), refused.why.as_str())).collect();
    refused.sort_unstable();
    assert_eq!(
        refused,
        [
            ("\"public\".\"lacks\"", "the secondary has no such table"),
            ("\"public\".\"narrow\"", "the secondary has no column \"v\"")
        ]
    );
    world.assert_same("here").await;
}

const FAMILY: &str = "CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE); \
    CREATE TABLE c (pid int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE, n int, PRIMARY KEY (pid, n)); \
    CREATE TABLE g (id int PRIMARY KEY, pid int, n int, FOREIGN KEY (pid, n) REFERENCES c ON DELETE CASCADE ON UPDATE CASCADE); \
    CREATE TABLE s (id int PRIMARY KEY, pid int REFERENCES p ON DELETE SET NULL ON UPDATE CASCADE); \
    CREATE TABLE byc (id int PRIMARY KEY, code text REFERENCES p (code) ON DELETE CASCADE ON UPDATE CASCADE); \
    CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self ON DELETE CASCADE);";
const FAMILY_ROWS: &str = "INSERT INTO p VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO c VALUES (1, 1), (1, 2), (2, 1); \
    INSERT INTO g VALUES (1, 1, 1), (2, 2, 1), (3, 1, 2); INSERT INTO s VALUES (1, 1), (2, 2); INSERT INTO byc VALUES (1, 'a'), (2, 'b'); \
    INSERT INTO self VALUES (1, NULL), (2, 1), (3, 2), (4, NULL)";

async fn cascades(world: &mut World) {
    world.origin(FAMILY_ROWS).await;
    world.target("SET session_replication_role = replica").await;
    world.target(FAMILY_ROWS).await;
    // Deleted; moved to a parent that is deleted; re-keyed; a referenced code changed.
    world
        .origin(
            "DELETE FROM p WHERE id = 1; DELETE FROM self WHERE id = 1; UPDATE p SET id = 7, code = 'z' WHERE id = 2",
        )
        .await;
    let mut all = Owed::default();
    owe(&mut all, "p", true, [1, 2, 7]);
    owe(&mut all, "self", true, [1]);
    let paid = world.pay(&all).await;
    assert_eq!(paid.refused, vec![]);
    for name in ["p", "c", "g", "s", "byc", "self"] {
        world.assert_same(name).await;
    }
    // Parent deleted and inserted again: nothing to see at S but the flag.
    world.origin("DELETE FROM p WHERE id = 7; INSERT INTO p VALUES (7, 'again')").await;
    let mut again = Owed::default();
    owe(&mut again, "p", true, [7]);
    world.pay(&again).await;
    for name in ["p", "c", "g", "s", "byc"] {
        world.assert_same(name).await;
    }
}

#[tokio::test]
async fn cascades_follow_where_foreign_keys_do_not_act() {
    let mut world = World::new(FAMILY).await;
    cascades(&mut world).await;
}

#[tokio::test]
async fn cascades_follow_where_foreign_keys_act() {
    let mut world = World::new(FAMILY).await;
    world.act_as_plain().await;
    cascades(&mut world).await;
}

#[tokio::test]
async fn a_deferred_foreign_key_without_its_parent_holds_up_no_other_table() {
    let schema = "CREATE TABLE p (id int PRIMARY KEY); \
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED); \
        CREATE TABLE other (id int PRIMARY KEY); \
        CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED); \
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED";
    let mut world = World::new(schema).await;
    world.act_as_plain().await;
    world.origin("INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 2), (3, NULL); INSERT INTO other VALUES (1)").await;
    world.origin("BEGIN; INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); COMMIT").await;
    world.target("INSERT INTO p VALUES (2)").await;
    let mut all = owed("c", [1, 2, 3]);
    for name in ["other", "a", "b"] {
        owe(&mut all, name, false, [1]);
    }
    let paid = world.pay(&all).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert_eq!((refused.table, refused.key.as_deref()), (table("c"), Some(&int(1)[..])));
    assert!(refused.why.contains("23503"), "{refused:?}");
    for name in ["other", "a", "b"] {
        world.assert_same(name).await;
    }
    assert_eq!(rows(&world.target.url("postgres"), "SELECT id FROM c ORDER BY 1").await, ["2", "3"]);
    // Once it is there, so is its child.
    let mut both = owed("p", [1]);
    owe(&mut both, "c", false, [1]);
    assert_eq!(world.pay(&both).await.refused, vec![]);
    world.assert_same("c").await;
}

#[tokio::test]
async fn a_constraint_trigger_that_fires_at_the_end_refuses_its_table_alone() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)").await;
    world
        .target(
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 2 = 0 THEN \
             RAISE EXCEPTION 'even' USING ERRCODE = '23514', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME; END IF; RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER odd AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION odd(); \
             ALTER TABLE t ENABLE ALWAYS TRIGGER odd",
        )
        .await;
    world.origin("INSERT INTO t VALUES (1), (2), (3); INSERT INTO other VALUES (1)").await;
    let mut all = owed("t", [1, 2, 3]);
    owe(&mut all, "other", false, [1]);
    let paid = world.pay(&all).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert_eq!((refused.table, refused.key.as_deref()), (table("t"), Some(&int(2)[..])));
    world.assert_same("other").await;
    assert_eq!(rows(&world.target.url("postgres"), "SELECT id FROM t ORDER BY 1").await, ["1", "3"]);
}

#[tokio::test]
async fn a_check_whose_function_does_not_find_its_table_refuses_its_table_alone() {
    let mut world =
        World::new("CREATE TABLE t (id int PRIMARY KEY, kind int); CREATE TABLE other (id int PRIMARY KEY)").await;
    world
        .target(
            "CREATE TABLE kinds (kind int); CREATE FUNCTION ok(int) RETURNS boolean LANGUAGE sql \
             AS 'SELECT EXISTS (SELECT FROM kinds WHERE kind = $1)'; ALTER TABLE t ADD CHECK (ok(kind))",
        )
        .await;
    world.origin("INSERT INTO t VALUES (1, 1); INSERT INTO other VALUES (1)").await;
    let mut all = owed("t", [1]);
    owe(&mut all, "other", false, [1]);
    let paid = world.pay(&all).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert!(refused.table == table("t") && refused.why.contains("42P01"), "{refused:?}");
    world.assert_same("other").await;
    // The next payments do not wait either.
    world.origin("INSERT INTO other VALUES (2)").await;
    assert_eq!(world.pay(&owed("other", [2])).await.refused, vec![]);
}

#[tokio::test]
async fn what_somebody_called_unnest_is_not_asked_for_the_rows_that_a_key_takes_along() {
    let schema = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE); \
        CREATE FUNCTION unnest(int[]) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1 WHERE false'; CREATE TYPE pair AS (a int); \
        CREATE FUNCTION same(pair, pair) RETURNS boolean LANGUAGE sql AS 'SELECT true'; \
        CREATE OPERATOR = (FUNCTION = same, LEFTARG = pair, RIGHTARG = pair)";
    let mut world = World::new(schema).await;
    let start = "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 2)";
    world.origin(start).await;
    world.target(start).await;
    world.origin("DELETE FROM p WHERE id = 1").await;
    let mut all = Owed::default();
    owe(&mut all, "p", true, [1]);
    world.pay(&all).await;
    world.assert_same("c").await;
}

#[tokio::test]
async fn a_named_child_that_moved_and_went_takes_its_own_children_along() {
    let mut world = World::new(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE); \
         CREATE TABLE g (id int PRIMARY KEY, c int REFERENCES c ON DELETE CASCADE)",
    )
    .await;
    let start = "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1); INSERT INTO g VALUES (1, 1)";
    world.origin(start).await;
    world.target(start).await;
    world.origin("UPDATE c SET p = 2 WHERE id = 1; DELETE FROM p WHERE id = 2").await;
    let mut all = owed("c", [1]);
    owe(&mut all, "p", true, [2]);
    world.pay(&all).await;
    for name in ["p", "c", "g"] {
        world.assert_same(name).await;
    }
}

#[tokio::test]
async fn partitions_are_paid_through_their_root() {
    let origin = "CREATE TABLE m (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10); CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (10) TO (20)";
    // One partition there, and columns in another order.
    let target = "CREATE TABLE m (v text, at int, id int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE whole PARTITION OF m FOR VALUES FROM (0) TO (100)";
    let mut world = World::with(origin, target).await;
    world.origin("INSERT INTO m VALUES (1, 1, 'a'), (2, 11, 'b')").await;
    let of = [("id", "pg_catalog.int4"), ("at", "pg_catalog.int4")];
    let key = |id: i32, at: i32| bytes(&of, &[&id.to_be_bytes(), &at.to_be_bytes()]);
    let mut all = Owed::default();
    all.keys.entry(table("m1")).or_default().insert(key(1, 1), false);
    all.keys.entry(table("m")).or_default().insert(key(2, 11), false);
    assert_eq!(world.pay(&all).await.rows, 2);
    world.origin("UPDATE m SET at = 15 WHERE id = 1").await;
    let mut moved = Owed::default();
    moved.keys.entry(table("m1")).or_default().insert(key(1, 1), true);
    moved.keys.entry(table("m2")).or_default().insert(key(1, 15), false);
    world.pay(&moved).await;
    let query = "SELECT id, at, v FROM m ORDER BY 1";
    assert_eq!(rows(&world.target.url("postgres"), query).await, ["1|15|a", "2|11|b"]);
    // A new partition is noticed.
    world
        .origin("CREATE TABLE m3 PARTITION OF m FOR VALUES FROM (20) TO (30); INSERT INTO m VALUES (3, 21, 'c')")
        .await;
    let mut new = Owed::default();
    new.keys.entry(table("m3")).or_default().insert(key(3, 21), false);
    new.keys.entry(table("m")).or_default().insert(key(3, 21), false);
    world.pay(&new).await;
    assert_eq!(rows(&world.target.url("postgres"), query).await, ["1|15|a", "2|11|b", "3|21|c"]);
}

#[tokio::test]
async fn what_rewrites_a_table_under_the_snapshot_makes_it_stale() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    world.origin("INSERT INTO t VALUES (1, 1)").await;
    world.pay(&owed("t", [1])).await;
    for change in
        ["TRUNCATE t", "ALTER TABLE t ALTER v TYPE bigint", "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int)"]
    {
        world.copier.snapshot().await.expect("S");
        world.origin(change).await;
        let error = world.copier.pay(&owed("t", [1]), false).await.expect_err(change);
        assert!(matches!(error, Error::Stale(_)), "{change}: {error}");
        let kept = rows(&world.target.url("postgres"), "SELECT id, v FROM t").await;
        assert_eq!(kept, ["1|1"], "{change}");
        world.origin("INSERT INTO t VALUES (1, 1) ON CONFLICT DO NOTHING").await;
        world.pay(&owed("t", [1])).await;
    }
    // A column that was added between two snapshots changes no file: it is counted.
    world.origin("ALTER TABLE t ADD COLUMN w int DEFAULT 3").await;
    let error = world.try_pay(&owed("t", [1])).await.expect_err("another column");
    assert!(matches!(error, Error::Stale(_)), "{error}");
    assert!(world.pay(&owed("t", [1])).await.refused[0].why.contains("has no column"));
}

#[tokio::test]
async fn columns_that_swapped_their_names_under_the_snapshot_make_it_stale() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, a int, b int); \
        CREATE TABLE m (id int PRIMARY KEY, a int, b int) PARTITION BY RANGE (id); \
        CREATE TABLE m1 (b int, a int, id int NOT NULL); ALTER TABLE m ATTACH PARTITION m1 FOR VALUES FROM (0) TO (9)";
    let mut world = World::new(schema).await;
    world.origin("INSERT INTO t VALUES (1, 10, 20); INSERT INTO m VALUES (1, 10, 20)").await;
    let whole = |name: &str| Owed { tables: vec![table(name)], ..Owed::default() };
    for (name, all) in [("t", owed("t", [1])), ("t", whole("t")), ("m", owed("m", [1])), ("m", whole("m"))] {
        world.pay(&all).await;
        world.copier.snapshot().await.expect("S");
        let to = |from: &str, to: &str| format!("ALTER TABLE {name} RENAME {from} TO {to}");
        world.origin(&format!("BEGIN; {}; {}; {}; COMMIT", to("a", "c"), to("b", "a"), to("c", "b"))).await;
        let error = world.copier.pay(&all, false).await.expect_err(name);
        assert!(matches!(error, Error::Stale(_)), "{name}: {error}");
        world.pay(&all).await;
        let query = format!("SELECT a, b FROM {name}");
        let [origin, target] = [&world.origin, &world.target].map(|server| server.url("postgres"));
        assert_eq!(rows(&target, &query).await, rows(&origin, &query).await, "{name}");
    }
}

#[tokio::test]
async fn a_foreign_key_that_came_behind_our_back_is_noticed() {
    let schema = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (a int PRIMARY KEY, b int NOT NULL)";
    let mut world = World::new(schema).await;
    world.origin("INSERT INTO p VALUES (1); INSERT INTO c VALUES (1, 1), (2, 2)").await;
    world.pay(&Owed { tables: vec![table("c"), table("p")], ..Owed::default() }).await;
    // It changes no file, and not how many columns there are.
    let change = "ALTER TABLE c ADD FOREIGN KEY (b) REFERENCES p ON DELETE CASCADE NOT VALID";
    world.origin(change).await;
    world.target(change).await;
    world.origin("DELETE FROM p WHERE id = 1").await;
    let mut changed = Owed::default();
    owe(&mut changed, "p", true, [1]);
    let error = world.try_pay(&changed).await.expect_err("another foreign key");
    assert!(matches!(error, Error::Stale(_)), "{error}");
    assert_eq!(world.pay(&changed).await.refused, vec![]);
    assert_eq!(rows(&world.target.url("postgres"), "SELECT a, b FROM c").await, ["2|2"]);
}

#[tokio::test]
async fn keys_of_another_time_make_their_table_owed_whole() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE n (id inet PRIMARY KEY, v int)";
    let mut world = World::new(schema).await;
    let rows = "INSERT INTO t SELECT i, i FROM generate_series(1, 9) i; INSERT INTO n SELECT '10.0.0.0'::inet + i, i FROM generate_series(1, 9) i";
    world.origin(rows).await;
    world.target("INSERT INTO t VALUES (77, 0); INSERT INTO n VALUES ('::1', 0)").await;
    // A bigint; two columns where there is one; bytes that only the server can judge.
    let (number, address) = ([("id", "pg_catalog.int4")], [("id", "pg_catalog.inet")]);
    let strange = [
        ("t", bytes(&[("id", "pg_catalog.int8")], &[&1_i64.to_be_bytes()])),
        ("t", bytes(&number, &[&1_i32.to_be_bytes(), b"x"])),
        ("t", bytes(&number, &[b"xyz"])),
        ("n", bytes(&address, &[b"\xff\x01\x02"])),
    ];
    for (name, key) in strange {
        let mut all = Owed::default();
        all.keys.entry(table(name)).or_default().insert(key, false);
        world.origin(&format!("UPDATE {name} SET v = v + 1")).await;
        let paid = world.pay(&all).await;
        assert_eq!((paid.rows, paid.refused), (9, vec![]));
        world.assert_same(name).await;
    }
}

#[tokio::test]
async fn a_lock_on_the_origin_does_not_wait_for_a_slow_target() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (1)").await;
    world
        .target(
            "CREATE TABLE go (id int); CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
             WHILE NOT EXISTS (SELECT FROM public.go) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END'; \
             CREATE TRIGGER slow AFTER DELETE ON t EXECUTE FUNCTION slow(); ALTER TABLE t ENABLE ALWAYS TRIGGER slow",
        )
        .await;
    let (origin, target) = (world.origin.url("postgres"), world.target.url("postgres"));
    let client = async {
        let deletes = "SELECT FROM pg_stat_activity WHERE query LIKE 'DELETE FROM%' AND state = 'active'";
        while rows(&target, deletes).await.is_empty() {}
        // Before the read it waits for nothing, and after it for the flight only.
        sql(&origin, "SET lock_timeout = '30s'; BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT").await;
    };
    let owed = owed("t", [1]);
    let mut paying = std::pin::pin!(world.try_pay(&owed));
    tokio::select! {
        paid = &mut paying => panic!("it does not wait for the slow target: {paid:?}"),
        () = client => (),
    }
    let (paid, ()) = tokio::join!(paying, sql(&target, "INSERT INTO go VALUES (1)"));
    assert_eq!(paid.expect("paid").rows, 1);
}

#[tokio::test]
async fn a_snapshot_lives_while_we_do_something_else() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (1)").await;
    let short = Duration::from_millis(500);
    world.reopen(Options { silence_max: short, heartbeat: short / 3, ..Options::default() }).await;
    world.copier.snapshot().await.expect("S");
    let mut elsewhere = Client::connect(&config(&world.origin)).await.expect("connects");
    let busy = elsewhere.simple("SELECT pg_sleep(2)");
    tokio::pin!(busy);
    loop {
        tokio::select! {
            done = &mut busy => break drop(done.expect("slept")),
            () = tokio::task::yield_now() => world.copier.beat().await.expect("both sides are there"),
        }
    }
    assert_eq!(world.copier.pay(&owed("t", [1]), false).await.expect("paid").rows, 1);
}

#[tokio::test]
async fn schema_changes_are_repeated_first_and_may_come_twice() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let change = "ALTER TABLE t ADD COLUMN v text DEFAULT 'x'";
    world.origin(change).await;
    world.origin("CREATE TABLE n (id int PRIMARY KEY); INSERT INTO t VALUES (1); INSERT INTO n VALUES (1)").await;
    let mut all = owed("t", [1]);
    owe(&mut all, "n", false, [1]);
    all.ddl = vec![
        ddl("t", change),
        ddl("n", "CREATE TABLE n (id int PRIMARY KEY)"),
        ddl("bad", "ALTER TABLE n RENAME TO t"),
    ];
    all.ddl.truncate(2);
    for _ in 0..2 {
        assert_eq!(world.pay(&all).await.refused, vec![]);
        world.assert_same("t").await;
        world.assert_same("n").await;
    }
    let index = Owed { ddl: vec![ddl("t", "CREATE INDEX CONCURRENTLY byv ON t (v)")], ..Owed::default() };
    for _ in 0..2 {
        assert_eq!(world.pay(&index).await.refused, vec![]);
    }
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'byv'::regclass";
    assert_eq!(rows(&world.target.url("postgres"), valid).await, ["t"]);
}

#[tokio::test]
async fn keys_follow_their_table_to_its_new_name() {
    let tables = "CREATE SCHEMA s; CREATE SCHEMA app; CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2);
        CREATE TABLE w (id int PRIMARY KEY); CREATE TABLE app.x (id int PRIMARY KEY)";
    let mut world = World::new(tables).await;
    world.origin("UPDATE t SET v = 7; INSERT INTO w VALUES (1); INSERT INTO app.x VALUES (1)").await;
    let changes = ["ALTER TABLE t RENAME TO u", "ALTER TABLE w SET SCHEMA s", "ALTER SCHEMA app RENAME TO shop"];
    for change in changes {
        world.origin(change).await;
    }
    let mut all = owed("t", [1]);
    owe(&mut all, "u", false, [2]);
    all.tables = vec![table("w")];
    all.keys.insert(TableId::of("app", "x"), [(int(1), false)].into_iter().collect());
    all.ddl = vec![ddl("t", changes[0]), ddl("w", changes[1]), ddl("", changes[2])];
    let paid = world.pay(&all).await;
    for table in ["u", "s.w", "shop.x"] {
        world.assert_same(table).await;
    }
    let told: Vec<_> = paid.renamed.iter().map(|one| (one.from, one.to, &*one.name, one.is_gone)).collect();
    let (w, x) = (TableId::of("s", "w"), TableId::of("shop", "x"));
    let expected = [
        (table("t"), table("u"), "\"public\".\"u\"", true),
        (table("w"), w, "\"s\".\"w\"", true),
        (TableId::of("app", "x"), x, "\"shop\".\"x\"", true),
    ];
    assert_eq!((told, paid.refused), (expected.to_vec(), vec![]));
    // A session knew the old name still; and an answer may be lost, after which the change does not come again.
    world.origin("UPDATE u SET v = 8").await;
    world.reopen(Options::default()).await;
    world.origin("UPDATE u SET v = 9").await;
    let again = Owed { ddl: vec![ddl("t", changes[0])], ..owed("t", [1, 2]) };
    assert_eq!(world.pay(&again).await.rows, 2);
    world.origin("UPDATE u SET v = 10").await;
    let late = world.pay(&owed("t", [1, 2])).await;
    assert_eq!((late.rows, late.renamed), (2, vec![]));
    world.assert_same("u").await;
    // Another process learns it from what was repeated before it.
    world.origin("UPDATE u SET v = 11").await;
    world.reopen(Options::default()).await;
    let first = Owed { repeated: vec![ddl("t", changes[0])], ..Owed::default() };
    let told: Vec<_> = world.pay(&first).await.renamed.iter().map(|one| (one.from, one.to, one.is_gone)).collect();
    assert_eq!(told, [(table("t"), table("u"), true)]);
    assert_eq!(world.pay(&owed("t", [1, 2])).await.rows, 2);
    world.assert_same("u").await;
}

#[tokio::test]
async fn of_tables_that_swapped_their_names_each_gets_its_keys_and_neither_is_copied_whole() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i;
        CREATE TABLE new (id bigint PRIMARY KEY, v int); INSERT INTO new SELECT * FROM t";
    let mut world = World::new(tables).await;
    world.origin("UPDATE t SET v = 7 WHERE id = 1; UPDATE new SET v = 7 WHERE id = 1").await;
    let changes = ["ALTER TABLE t RENAME TO old", "ALTER TABLE new RENAME TO t"];
    for change in changes {
        world.origin(change).await;
    }
    world.origin("UPDATE t SET v = 8 WHERE id = 2").await;
    let long = |id: i64| bytes(&[("id", "pg_catalog.int8")], &[&id.to_be_bytes()]);
    let mut all = owed("t", [1]);
    all.keys.entry(table("t")).or_default().insert(long(2), false);
    all.keys.entry(table("new")).or_default().insert(long(1), false);
    all.ddl = vec![ddl("t", changes[0]), ddl("new", changes[1])];
    let paid = world.pay(&all).await;
    world.assert_same("t").await;
    world.assert_same("old").await;
    assert_eq!((paid.keys, paid.rows), (3, 3), "no table as a whole");
}

#[tokio::test]
async fn a_value_that_is_added_to_an_enum_is_there_for_rows_of_the_same_payment() {
    let mut world = World::new("CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, v mood)").await;
    let change = "ALTER TYPE mood ADD VALUE 'b'";
    world.origin(change).await;
    world.origin("INSERT INTO t VALUES (1, 'b')").await;
    let mut all = owed("t", [1]);
    all.ddl = vec![ddl("", change), ddl("t", "ALTER TABLE t ADD CONSTRAINT b CHECK (v = 'b')")];
    world.origin("ALTER TABLE t ADD CONSTRAINT b CHECK (v = 'b')").await;
    world.target("INSERT INTO t VALUES (1, 'a')").await;
    for _ in 0..2 {
        assert_eq!(world.pay(&all).await.refused, vec![]);
        world.assert_same("t").await;
    }
}

#[tokio::test]
async fn a_value_of_an_enum_that_got_another_name_has_it_there_and_may_come_twice() {
    let mut world =
        World::new("CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, v mood)").await;
    world.origin("INSERT INTO t VALUES (1, 'a')").await;
    world.pay(&owed("t", [1])).await;
    let change = "ALTER TYPE mood RENAME VALUE 'a' TO 'c'";
    world.origin(change).await;
    for _ in 0..2 {
        let all = Owed { ddl: vec![ddl("", change)], ..owed("t", [1]) };
        assert_eq!(world.pay(&all).await.refused, vec![]);
        world.assert_same("t").await;
        let labels = "SELECT enumlabel FROM pg_enum ORDER BY enumsortorder";
        assert_eq!(rows(&world.target.url("postgres"), labels).await, ["c", "b"]);
    }
    // Neither name is there: that is no sign that it was done.
    world.target("ALTER TYPE mood RENAME VALUE 'c' TO 'd'").await;
    let again = Owed { ddl: vec![ddl("", change)], ..Owed::default() };
    let paid = world.pay(&again).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert!(refused.why.contains("22023"), "{refused:?}");
    let changes = [Box::from(refused.key.as_deref().expect("the change"))];
    assert_eq!(world.copier.moot(&changes).await.expect("asked"), [false]);
    world.target("ALTER TYPE mood RENAME VALUE 'd' TO 'c'").await;
    assert_eq!(world.copier.moot(&changes).await.expect("asked"), [true], "made by hand");
}

#[tokio::test]
async fn a_damaged_page_on_the_target_is_its_table_s_alone_promise_7() {
    let mut world =
        World::new("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); CHECKPOINT").await;
    world.origin("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)").await;
    world.pay(&owed("t", [1])).await;
    world.target("CHECKPOINT").await;
    let path = rows(&world.target.url("postgres"), "SELECT pg_relation_filepath('t')").await;
    world.target.stop(Stop::Fast).expect("it stops");
    let file = world.target.data().join(&path[0]);
    let len = std::fs::metadata(&file).expect("it has a block").len();
    std::fs::write(&file, vec![0xa5; usize::try_from(len).expect("small")]).expect("damaged");
    world.target.start().expect("it starts");
    world.reopen(Options::default()).await;
    world.assert_refused_beside_another("XX001").await;
}

#[tokio::test]
async fn a_table_whose_file_the_origin_lost_is_refused_alone_promise_7() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)").await;
    let path = rows(&world.origin.url("postgres"), "SELECT pg_relation_filepath('t')").await;
    world.origin.stop(Stop::Fast).expect("it stops");
    std::fs::remove_file(world.origin.data().join(&path[0])).expect("it is there");
    world.origin.start().expect("it starts");
    world.reopen(Options::default()).await;
    world.assert_refused_beside_another("58P01").await;
}

/// As functions in C raise it that name no class of errors.
#[tokio::test]
async fn a_row_that_a_trigger_of_the_secondary_refuses_with_an_internal_error_is_parked_alone() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY)";
    let trigger = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 13 THEN \
        RAISE 'no' USING ERRCODE = 'XX000'; END IF; RETURN NEW; END $$; \
        CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER g";
    let mut world = World::with(schema, &format!("{schema}; {trigger}")).await;
    world.origin("INSERT INTO t SELECT generate_series(1, 20)").await;
    let paid = world.pay(&owed("t", 1..=20)).await;
    let [refused] = &paid.refused[..] else { panic!("one is refused: {:?}", paid.refused) };
    assert_eq!((refused.shown.as_str(), paid.rows), ("13", 19));
}

#[tokio::test]
async fn a_change_of_no_table_in_doubt_is_listed_and_not_repeated_promise_6() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (_, change) = ddl("", "CREATE VIEW v AS SELECT 1");
    let paid = world.pay(&Owed { doubted: vec![(TableId::NONE, change.clone())], ..Owed::default() }).await;
    let [refused] = &paid.refused[..] else { panic!("one is listed: {:?}", paid.refused) };
    assert_eq!((refused.name.as_str(), refused.key.as_ref()), ("view public.v", Some(&change)));
    assert!(refused.why.contains("nobody knows"), "{refused:?}");
    assert_eq!(rows(&world.target.url("postgres"), "SELECT to_regclass('v')").await, ["NULL"]);
    assert_eq!(world.copier.moot(&[change]).await.expect("asked"), [true], "the primary has none");
}

#[tokio::test]
async fn a_constraint_that_only_the_payments_rows_satisfy_is_repeated_behind_them() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    world.origin("INSERT INTO t VALUES (1, 0)").await;
    world.target("INSERT INTO t VALUES (1, NULL)").await;
    let mut all = owed("t", [1]);
    for change in ["ALTER TABLE t ALTER v SET NOT NULL", "CREATE UNIQUE INDEX u ON t (v)"] {
        world.origin(change).await;
        all.ddl.push(ddl("t", change));
    }
    assert_eq!(world.pay(&all).await.refused, vec![]);
    world.assert_same("t").await;
    let strict = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'v'";
    assert_eq!(rows(&world.target.url("postgres"), strict).await, ["t"]);
    // One that they do not satisfy is refused.
    world.target("INSERT INTO t VALUES (2, -1)").await;
    let again = Owed { ddl: vec![ddl("t", "ALTER TABLE t ADD CHECK (v >= 0)")], ..owed("t", [1]) };
    assert!(world.pay(&again).await.refused[0].why.contains("23514"));
}

#[tokio::test]
async fn changes_that_the_payments_own_rows_contradict_are_repeated_in_their_order() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, o int); CREATE TABLE s (id int PRIMARY KEY, v text); \
        CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int)";
    let mut world = World::new(schema).await;
    let rows_of_before =
        "INSERT INTO t VALUES (1, 10), (2, 20); INSERT INTO s VALUES (1, 'x'), (2, '2'); INSERT INTO c VALUES (1, 7)";
    world.origin(rows_of_before).await;
    world.target(rows_of_before).await;
    let mut all = owed("t", [1, 2]);
    owe(&mut all, "s", false, [1]);
    owe(&mut all, "p", false, [7]);
    for (name, sql) in [
        // Of these it is a row that comes that has to be there.
        ("", "INSERT INTO p VALUES (7)"),
        ("c", "ALTER TABLE c ADD CONSTRAINT gone FOREIGN KEY (p) REFERENCES p"),
        ("c", "ALTER TABLE c DROP CONSTRAINT gone"),
        ("c", "ALTER TABLE c ADD CONSTRAINT kept FOREIGN KEY (p) REFERENCES p"),
        ("c", "ALTER TABLE c RENAME p TO parent"),
        ("c", "ALTER TABLE c ADD COLUMN more int"),
        ("t", "ALTER TABLE t ADD COLUMN n bigint"),
        ("", "UPDATE t SET n = o"),
        ("t", "ALTER TABLE t ALTER n SET NOT NULL"),
        ("t", "ALTER TABLE t ADD CONSTRAINT gone CHECK (n IS NOT NULL)"),
        ("t", "ALTER TABLE t DROP CONSTRAINT gone"),
        ("t", "ALTER TABLE t DROP COLUMN o"),
        ("t", "ALTER TABLE t RENAME n TO o"),
        ("", "UPDATE s SET v = '1' WHERE id = 1"),
        ("s", "ALTER TABLE s ALTER v TYPE int USING v::int"),
        ("s", "ALTER TABLE s ADD CHECK (v < 5)"),
    ] {
        world.origin(sql).await;
        if !name.is_empty() {
            all.ddl.push(ddl(name, sql));
        }
    }
    assert_eq!(world.pay(&all).await.refused, vec![]);
    for name in ["t", "s", "p", "c"] {
        world.assert_same(name).await;
    }
    for query in [
        "SELECT attrelid::regclass, attname, atttypid::regtype, attnotnull FROM pg_attribute \
         WHERE attrelid::regclass::text IN ('t', 's', 'c') AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype IN ('c', 'f') \
         AND connamespace = 'public'::regnamespace ORDER BY 1",
    ] {
        let (origin, target) = (world.origin.url("postgres"), world.target.url("postgres"));
        assert_eq!(rows(&target, query).await, rows(&origin, query).await);
    }
}

#[tokio::test]
async fn a_change_that_other_rows_contradict_is_refused_and_those_of_the_payment_are_there() {
    let mut world =
        World::new("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY)").await;
    world.target("INSERT INTO t VALUES (1, 0), (2, -1)").await;
    world
        .origin(
            "INSERT INTO t VALUES (1, 1); INSERT INTO other VALUES (1); ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)",
        )
        .await;
    let change = ddl("t", "ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)");
    let mut all = Owed { ddl: vec![change.clone()], ..owed("t", [1]) };
    owe(&mut all, "other", false, [1]);
    let paid = world.pay(&all).await;
    world.assert_same("other").await;
    let [it, table_of_it] = &paid.refused[..] else { panic!("the table, and the change: {:?}", paid.refused) };
    assert!(table_of_it.table == table("t") && table_of_it.key.is_none() && table_of_it.why.contains("23514"));
    assert_eq!((it.table, it.key.as_deref()), (TableId::NONE, Some(&change.1[..])));
    assert!(it.name.contains("\"public\".\"t\"") && it.shown.contains("v > 0"), "{it:?}");
    let there = "SELECT id, v FROM t ORDER BY 1";
    assert_eq!(rows(&world.target.url("postgres"), there).await, ["1|1", "2|-1"]);
    // It comes again as a change of no table. That its column is gone is no sign that it was made.
    world.target("ALTER TABLE t RENAME v TO w").await;
    let again = Owed { ddl: vec![ddl("", "ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)")], ..Owed::default() };
    assert!(world.pay(&again).await.refused[0].why.contains("42703"));
    let gone = Owed { ddl: vec![ddl("", "ALTER TABLE t DROP COLUMN v")], ..Owed::default() };
    assert_eq!(world.pay(&gone).await.refused, vec![]);
}

#[tokio::test]
async fn a_table_that_cannot_be_paid_keeps_the_rows_that_contradict_a_change() {
    let (origin, target) =
        ("CREATE TABLE t (id int PRIMARY KEY, v int)", "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v <> 13))");
    let other = "; CREATE TABLE other (id int PRIMARY KEY)";
    let mut world = World::with(&format!("{origin}{other}"), &format!("{target}{other}")).await;
    let change = "ALTER TABLE t ALTER v SET NOT NULL";
    world.origin(&format!("INSERT INTO t VALUES (1, 13); INSERT INTO other VALUES (1); {change}")).await;
    world.target("INSERT INTO t VALUES (1, NULL)").await;
    world.reopen(Options { refused_max: 0, ..Options::default() }).await;
    let mut all = Owed { ddl: vec![ddl("t", change)], ..owed("t", [1]) };
    owe(&mut all, "other", false, [1]);
    let paid = world.pay(&all).await;
    let named = |part: &str| paid.refused.iter().any(|refused| refused.why.contains(part));
    assert!(named("23514") && named("23502"), "{:?}", paid.refused);
    world.assert_same("other").await;
    assert_eq!(rows(&world.target.url("postgres"), "SELECT id, v FROM t").await, ["1|NULL"], "as it was");
}

#[tokio::test]
async fn a_change_behind_one_that_is_refused_keeps_its_place() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v int, o int)").await;
    world.target("INSERT INTO t VALUES (1, NULL, 5); CREATE VIEW seen AS SELECT o FROM t").await;
    world.origin("INSERT INTO t VALUES (1, 7, 5)").await;
    let mut all = owed("t", [1]);
    for change in ["ALTER TABLE t ALTER v SET NOT NULL", "ALTER TABLE t DROP COLUMN o"] {
        world.origin(change).await;
        all.ddl.push(ddl("t", change));
    }
    let paid = world.pay(&all).await;
    let [it, table_of_it] = &paid.refused[..] else { panic!("one, and its table: {:?}", paid.refused) };
    assert!(it.why.contains("2BP01") && table_of_it.why.contains("2BP01"), "{:?}", paid.refused);
    assert_eq!(rows(&world.target.url("postgres"), "SELECT id, v FROM t").await, ["1|7"]);
    let strict = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'v'";
    assert_eq!(rows(&world.target.url("postgres"), strict).await, ["t"]);
}

#[tokio::test]
async fn a_function_whose_library_the_secondary_lacks_is_refused_alone() {
    let mut world = World::new("CREATE TABLE other (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO other VALUES (1)").await;
    let change = "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'no_such_library', 'f'";
    let paid = world.pay(&Owed { ddl: vec![ddl("", change)], ..owed("other", [1]) }).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert!(refused.why.contains("58P01"), "{refused:?}");
    world.assert_same("other").await;
}

#[tokio::test]
async fn what_the_secondary_refuses_of_one_table_holds_up_no_other() {
    let both = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY);
        CREATE TABLE told (id int NOT NULL UNIQUE)";
    let mut world = World::new(both).await;
    world
        .origin("INSERT INTO t VALUES (1); INSERT INTO other VALUES (1), (2), (3), (4); INSERT INTO told VALUES (1)")
        .await;
    // A view that needs the column; a schema that is not there; rows that a publication cannot tell apart.
    world.target("CREATE VIEW report AS SELECT v FROM t; CREATE PUBLICATION all_of_it FOR ALL TABLES").await;
    world.target("ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE other REPLICA IDENTITY FULL").await;
    for (at, change, why) in
        [(1, "ALTER TABLE t DROP COLUMN v", "2BP01"), (2, "CREATE TABLE missing.x (id int)", "3F000")]
    {
        let paid = world.pay(&Owed { ddl: vec![ddl("t", change)], ..owed("other", [at]) }).await;
        let [refused, table_of_it] = &paid.refused[..] else { panic!("it, and its table: {:?}", paid.refused) };
        assert!(refused.why.contains(why) && refused.why == table_of_it.why && paid.rows == 1, "{refused:?}");
    }
    let gone = Owed { ddl: vec![ddl("t", "DROP TABLE missing.x")], ..owed("other", [3]) };
    assert_eq!(world.pay(&gone).await.refused, vec![], "what is gone need not be dropped");
    let mut all = owed("other", [4]);
    owe(&mut all, "told", false, [1]);
    let paid = world.pay(&all).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert!(refused.key.is_none() && refused.why.contains("55000"), "{refused:?}");
    world.assert_same("other").await;
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_refused_when_it_is_owed_and_tried_again_when_something_was_done() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (1); INSERT INTO other VALUES (1)").await;
    world.origin("CREATE ROLE blind LOGIN REPLICATION; GRANT ALL ON ALL TABLES IN SCHEMA public TO blind").await;
    world.origin("ALTER TABLE t ENABLE ROW LEVEL SECURITY").await;
    let blind = world.origin.url("postgres").replace("postgres@", "blind@");
    world.copier = PgCopier::new(blind.parse().expect("a URL"), config(&world.target), Options::default());
    while let Err(error) = world.copier.open().await {
        assert!(matches!(error, Error::Fenced(_)), "{error}");
    }
    let whole = Owed { tables: vec![table("t")], ..Owed::default() };
    assert_eq!(world.pay(&whole).await.refused.len(), 1);
    assert_eq!(world.pay(&owed("other", [1])).await.refused, vec![], "it is not owed");
    world.origin("ALTER ROLE blind BYPASSRLS").await;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while !world.pay(&whole).await.refused.is_empty() {
        assert!(tokio::time::Instant::now() < until, "never tried again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.assert_same("t").await;
}

#[tokio::test]
async fn a_table_whose_keys_are_owed_is_tried_again_after_a_while_too() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (1); CREATE ROLE blind LOGIN REPLICATION; GRANT ALL ON t TO blind").await;
    world.origin("ALTER TABLE t ENABLE ROW LEVEL SECURITY").await;
    let blind = world.origin.url("postgres").replace("postgres@", "blind@");
    world.copier = PgCopier::new(blind.parse().expect("a URL"), config(&world.target), Options::default());
    while let Err(error) = world.copier.open().await {
        assert!(matches!(error, Error::Fenced(_)), "{error}");
    }
    for _ in 0..2 {
        assert_eq!(world.pay(&owed("t", [1])).await.refused.len(), 1);
    }
    world.origin("ALTER ROLE blind BYPASSRLS").await;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while !world.pay(&owed("t", [1])).await.refused.is_empty() {
        assert!(tokio::time::Instant::now() < until, "never tried again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.assert_same("t").await;
}

/// Who went with them is known by their keys alone.
#[tokio::test]
async fn what_foreign_keys_took_along_over_a_table_that_is_left_out_is_told() {
    let schema = |more: &str| {
        format!(
            "CREATE TABLE p (id int PRIMARY KEY{more}); CREATE TABLE m (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE); \
             CREATE TABLE c (id int PRIMARY KEY, m int REFERENCES m ON DELETE CASCADE); \
             CREATE TABLE q (id int PRIMARY KEY); CREATE TABLE n (id int PRIMARY KEY, q int REFERENCES q ON DELETE SET NULL{more}); \
             CREATE TABLE d (id int PRIMARY KEY, n int REFERENCES n ON DELETE CASCADE, q int REFERENCES q)"
        )
    };
    let mut world = World::with(&schema(", v int"), &schema("")).await;
    for (parent, flagged, expected) in
        [("p", true, &["m", "c"][..]), ("p", false, &[]), ("q", true, &["n", "d"]), ("c", true, &[])]
    {
        let mut all = Owed::default();
        owe(&mut all, parent, flagged, [1]);
        let mut bereft = world.pay(&all).await.bereft;
        let mut expected: Vec<_> = expected.iter().map(|name| table(name)).collect();
        bereft.sort_unstable();
        expected.sort_unstable();
        assert_eq!(bereft, expected, "{parent}");
    }
}

#[tokio::test]
async fn a_row_without_a_key_that_the_secondary_refuses_is_its_table_s_alone() {
    let schema = |check: &str| format!("CREATE TABLE k (v int{check}); CREATE TABLE t (id int PRIMARY KEY)");
    let mut world = World::with(&schema(""), &schema(" CHECK (v <> 13)")).await;
    let mut scope = Scope::default();
    scope.keyless = true;
    world.reopen(Options { scope, ..Options::default() }).await;
    world.origin("INSERT INTO k VALUES (12), (13); INSERT INTO t VALUES (1)").await;
    let all = Owed { tables: vec![table("k")], ..owed("t", [1]) };
    let paid = world.pay(&all).await;
    let [refused] = &paid.refused[..] else { panic!("one is refused: {:?}", paid.refused) };
    assert!(refused.table == table("k") && refused.key.is_none() && refused.why.contains("23514"), "{refused:?}");
    world.assert_same("t").await;
}

#[tokio::test]
async fn a_schema_change_whose_table_somebody_has_locked_comes_again() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let change = "ALTER TABLE t ADD COLUMN v int";
    world.origin(change).await;
    let mut reader = Client::connect(&config(&world.target)).await.expect("connects");
    reader.simple("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE").await.expect("locked");
    let all = Owed { ddl: vec![ddl("t", change)], ..Owed::default() };
    world.copier.snapshot().await.expect("S");
    let error = world.copier.pay(&all, false).await.expect_err("it is locked");
    let Error::Waits(waiting) = &error else { panic!("{error}") };
    assert!(waiting.why.starts_with("ALTER TABLE waits for a lock"), "{}", waiting.why);
    reader.simple("COMMIT").await.expect("let go");
    assert_eq!(world.pay(&all).await.refused, vec![]);
    world.assert_same("t").await;
}

/// Pay until somebody's lock no longer keeps a table out.
async fn pay_all(world: &mut World, owed: &Owed) -> Paid {
    let paid = until(async || {
        let paid = world.pay(owed).await;
        paid.waiting.is_empty().then_some(paid)
    });
    paid.await.expect("the lock is gone")
}

#[tokio::test]
async fn a_locked_table_is_left_out_and_stays_owed() {
    let mut world = World::new(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)",
    )
    .await;
    world.origin("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1)").await;
    let mut all = owed("a", [1]);
    owe(&mut all, "b", false, [1]);
    owe(&mut all, "c", false, [1]);
    all.tables = vec![table("b")];
    let mut locker = Client::connect(&config(&world.origin)).await.expect("connects");
    locker.simple("BEGIN; LOCK TABLE a, b IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let error = world.try_pay(&all).await.expect_err("nobody knows yet").to_string();
    assert!(error.contains("55P03"), "{error}");
    let paid = world.try_pay(&all).await.expect("paid");
    let mut waiting: Vec<_> = paid.waiting.iter().map(|one| (one.name.as_str(), one.owed.clone())).collect();
    waiting.sort_unstable();
    let both = [("\"public\".\"a\"", vec![table("a")]), ("\"public\".\"b\"", vec![table("b")])];
    assert_eq!(waiting, both, "the first one tells of all");
    world.assert_same("c").await;
    locker.simple("COMMIT").await.expect("let go");
    assert_eq!(pay_all(&mut world, &all).await.rows, 3);
    world.assert_same("a").await;
    world.assert_same("b").await;
}

#[tokio::test]
async fn what_points_at_a_deleted_row_is_found_when_its_table_is_no_longer_locked() {
    let schema = "CREATE TABLE p (id int PRIMARY KEY); \
        CREATE TABLE c (id int PRIMARY KEY, pid int REFERENCES p ON DELETE CASCADE); \
        CREATE TABLE d (id int PRIMARY KEY, pid int REFERENCES p ON DELETE CASCADE); \
        CREATE TABLE g (id int PRIMARY KEY, cid int REFERENCES c ON DELETE CASCADE); \
        CREATE TABLE h (id int PRIMARY KEY, did int REFERENCES d ON DELETE CASCADE); CREATE TABLE o (id int PRIMARY KEY)";
    let tables = ["p", "c", "d", "g", "h", "o"];
    for role in ["replica", "where they act"] {
        let mut world = World::new(schema).await;
        let fill = "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 2); INSERT INTO d VALUES (1, 1), (2, 2); \
            INSERT INTO g VALUES (1, 1), (2, 2); INSERT INTO h VALUES (1, 1), (2, 2)";
        world.origin(fill).await;
        world.target(fill).await;
        if role != "replica" {
            world.act_as_plain().await;
        }
        // Row 2 of d moves to 1, and goes with it.
        world.origin("UPDATE d SET pid = 1 WHERE id = 2; DELETE FROM p WHERE id = 1; INSERT INTO o VALUES (1)").await;
        let mut all = owed("o", [1]);
        owe(&mut all, "p", true, [1]);
        owe(&mut all, "d", false, [2]);
        let mut locker = Client::connect(&config(&world.origin)).await.expect("connects");
        locker.simple("BEGIN; LOCK TABLE g IN ACCESS EXCLUSIVE MODE").await.expect("locked");
        let paid = world.pay(&all).await;
        let waiting: Vec<_> = paid.waiting.iter().flat_map(|one| &one.owed).copied().collect();
        assert!(waiting.contains(&table("p")), "{role}: {:?}", paid.waiting);
        let along: HashSet<TableId> = paid.waiting.iter().flat_map(|one| &one.along).copied().collect();
        assert_eq!(along, ["c", "d", "g", "h"].map(table).into(), "{role}: they are dirty if it is given up");
        world.assert_same("o").await;
        // What was paid is owed no longer.
        let keys = all.keys.into_iter().filter(|(id, _)| waiting.contains(id)).collect();
        let left = Owed { keys, ..Owed::default() };
        locker.simple("COMMIT").await.expect("let go");
        pay_all(&mut world, &left).await;
        for name in tables {
            world.assert_same(name).await;
        }
    }
}

#[tokio::test]
async fn a_table_owed_whole_is_replaced() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    world.target("INSERT INTO t SELECT i, 0 FROM generate_series(1, 50) i").await;
    world.origin("INSERT INTO t VALUES (7, 7), (70, 70)").await;
    let paid = world.pay(&Owed { tables: vec![table("t")], ..Owed::default() }).await;
    assert_eq!(paid.rows, 2);
    world.assert_same("t").await;
}

#[tokio::test]
async fn a_large_table_and_a_partitioned_one_are_replaced_stretch_by_stretch() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE m (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); \
        CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10); CREATE TABLE m2 (v int, id int NOT NULL); \
        ALTER TABLE m ATTACH PARTITION m2 FOR VALUES FROM (10) TO (20); CREATE TABLE none (id int PRIMARY KEY)";
    let mut world = World::new(schema).await;
    world
        .origin(
            "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i; DELETE FROM t WHERE id % 7 = 0; \
             UPDATE t SET v = 'y' WHERE id % 5 = 0; INSERT INTO m SELECT i, i FROM generate_series(0, 19) i",
        )
        .await;
    world.target("INSERT INTO t VALUES (0, 'gone'); INSERT INTO none VALUES (1)").await;
    let blocks = "SELECT pg_relation_size('t') > 300 * 8192";
    assert_eq!(rows(&world.origin.url("postgres"), blocks).await, ["t"]);
    let paid = world.pay(&Owed { tables: ["t", "m", "none"].map(table).into(), ..Owed::default() }).await;
    assert_eq!((paid.rows, paid.refused), (30_000 - 30_000 / 7 + 20, vec![]));
    for name in ["t", "m", "none"] {
        world.assert_same(name).await;
    }
    // Emptied after S, it shows nothing to S.
    world.copier.snapshot().await.expect("S");
    world.origin("TRUNCATE t").await;
    let owed = Owed { tables: vec![table("t")], ..Owed::default() };
    let error = world.copier.pay(&owed, false).await.expect_err("emptied");
    assert!(matches!(error, Error::Stale(_)), "{error}");
}

/// The key of a row of a table that is partitioned by the second column of its key.
fn dated(id: i32, at: i32) -> Key {
    bytes(&[("id", "pg_catalog.int4"), ("at", "pg_catalog.int4")], &[&id.to_be_bytes(), &at.to_be_bytes()])
}

const DATED: &str = "CREATE TABLE m (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
    CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10); \
    CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (10) TO (20) PARTITION BY LIST (at); \
    CREATE TABLE m2_odd PARTITION OF m2 FOR VALUES IN (11, 13); CREATE TABLE m2_rest PARTITION OF m2 DEFAULT; \
    CREATE TABLE m3 PARTITION OF m DEFAULT";
const ALL_OF_M: &str = "SELECT id, at, v FROM m ORDER BY 1, 2";

async fn all_of_m(server: &Postgres) -> Vec<String> {
    rows(&server.url("postgres"), ALL_OF_M).await
}

#[tokio::test]
async fn a_partition_owed_whole_is_replaced_alone_however_the_target_is_partitioned() {
    let one = "CREATE TABLE m (v text, at int, id int, PRIMARY KEY (at, id))";
    let others = "CREATE TABLE m (v text, at int, id int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (MINVALUE) TO (12); CREATE TABLE m9 PARTITION OF m DEFAULT";
    for target in [DATED, one, others] {
        let mut world = World::with(DATED, target).await;
        // What nobody owes tells whether somebody looked.
        let kept = [(1, 5), (2, 11), (3, 12), (4, 30), (9, 5), (9, 13), (9, 14), (9, -1)];
        let planted = kept.map(|(id, at)| format!("({id}, {at}, 'planted')")).join(", ");
        world.target(&format!("INSERT INTO m (id, at, v) VALUES {planted}")).await;
        let left = |apart: fn(i32) -> bool| {
            let mut left: Vec<_> = kept.iter().filter(|(_, at)| !apart(*at)).copied().collect();
            left.sort_unstable();
            left.into_iter().map(|(id, at)| format!("{id}|{at}|planted")).collect::<Vec<_>>()
        };
        let emptied = |name: &str| Owed { tables: vec![table(name)], ..Owed::default() };
        for (name, apart) in [
            ("m1", (|at| (0..10).contains(&at)) as fn(i32) -> bool),
            ("m2_odd", |at| (0..10).contains(&at) || at == 11 || at == 13),
            ("m3", |at| !(10..20).contains(&at) || at == 11 || at == 13),
        ] {
            assert_eq!(world.pay(&emptied(name)).await.refused, vec![], "{name}, {target}");
            assert_eq!(all_of_m(&world.target).await, left(apart), "{name}, {target}");
        }
        // Beside keys: one of a row that is read with the partition, one that came to it, one that left it, others.
        world.origin("INSERT INTO m VALUES (1, 12, 'a'), (2, 14, 'b'), (3, 1, 'c'), (4, 11, 'd'), (5, -5, 'e')").await;
        let mut all = emptied("m2");
        let keys = [(1, 12), (3, 1), (3, 12), (5, -5), (9, 14)].map(|(id, at)| (dated(id, at), true));
        all.keys.entry(table("m1")).or_default().extend(keys);
        let paid = world.pay(&all).await;
        assert_eq!((paid.rows, paid.refused, paid.large), (5, vec![], vec![]), "{target}");
        assert_eq!(all_of_m(&world.target).await, all_of_m(&world.origin).await, "{target}");
    }
}

#[tokio::test]
async fn rows_of_a_partition_that_the_target_refuses_are_parked_alone_and_leave_when_it_is_emptied() {
    let mut world = World::with(DATED, &format!("{DATED}; ALTER TABLE m ADD CHECK (v <> 'bad')")).await;
    world.target("INSERT INTO m VALUES (7, 2, 'old'), (8, 15, 'kept')").await;
    world
        .origin("INSERT INTO m SELECT i, i % 10, CASE i WHEN 3 THEN 'bad' ELSE 'v' END FROM generate_series(0, 99) i")
        .await;
    world.origin("INSERT INTO m VALUES (5, 15, 'keyed')").await;
    let mut whole = Owed { tables: vec![table("m1")], ..Owed::default() };
    whole.keys.entry(table("m2")).or_default().extend([(dated(5, 15), false), (dated(1, 1), false)]);
    let paid = world.pay(&whole).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert_eq!((refused.table, refused.key.as_deref()), (table("m"), Some(&dated(3, 3)[..])));
    assert_eq!(rows(&world.target.url("postgres"), "SELECT count(*), min(v) FROM m WHERE at < 10").await, ["99|v"]);
    assert_eq!(rows(&world.target.url("postgres"), "SELECT v FROM m WHERE at > 9 ORDER BY 1").await, ["kept", "keyed"]);

    world.origin("TRUNCATE m1; INSERT INTO m VALUES (4, 4, 'bad')").await;
    let parked = [dated(3, 3), dated(4, 4), dated(8, 15)].map(|key| (table("m"), key[..].into()));
    whole = Owed { tables: vec![table("m1")], parked: parked.to_vec(), ..Owed::default() };
    let paid = world.pay(&whole).await;
    assert_eq!(paid.refused.len(), 1, "{:?}", paid.refused);
    assert_eq!(paid.settled, parked, "what is refused again is among them");
    assert_eq!(
        rows(&world.target.url("postgres"), "SELECT v FROM m").await,
        ["keyed"],
        "a parked key of elsewhere is paid too"
    );
}

#[tokio::test]
async fn a_partition_that_cannot_be_told_there_is_paid_with_its_table_unless_that_is_large() {
    let by_hash = "CREATE TABLE h (id int PRIMARY KEY, v int) PARTITION BY HASH (id); \
        CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
        CREATE TABLE h1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
        CREATE TABLE x (id text PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE x1 PARTITION OF x FOR VALUES FROM ('a') TO ('k')";
    let mut world = World::new(by_hash).await;
    world.origin("INSERT INTO h SELECT i, 1 FROM generate_series(1, 9) i; INSERT INTO x VALUES ('b')").await;
    let plant = "INSERT INTO h SELECT i, 0 FROM generate_series(5, 15) i; INSERT INTO x VALUES ('c')";
    world.target(plant).await;
    let mut all = Owed { tables: vec![table("h0"), table("x1")], ..Owed::default() };
    world.reopen(Options { whole_bytes_max: 0, ..Options::default() }).await;
    owe(&mut all, "h1", false, [1, 6]);
    let paid = world.pay(&all).await;
    let large: Vec<_> = paid.large.iter().map(|large| (large.table, large.owed.clone())).collect();
    assert_eq!((large.len(), paid.rows), (2, 2), "{:?}", paid.large);
    assert!(large.contains(&(table("h"), vec![table("h0")])) && large.contains(&(table("x"), vec![table("x1")])));
    let query = "SELECT count(*), sum(v) FROM h";
    assert_eq!(rows(&world.target.url("postgres"), query).await, ["12|2"], "the keys are paid");
    world.reopen(Options::default()).await;
    assert_eq!(world.pay(&all).await.large, vec![]);
    world.assert_same("h").await;
    world.assert_same("x").await;
}

#[tokio::test]
async fn a_large_table_is_never_one_payment_however_it_came_to_be_owed() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE k (id int PRIMARY KEY, v int); \
        CREATE TABLE c (id int PRIMARY KEY, kid int REFERENCES k ON DELETE CASCADE)";
    let mut world = World::new(schema).await;
    let fill = "INSERT INTO t SELECT i, 1 FROM generate_series(1, 9) i; INSERT INTO k SELECT i, 1 FROM generate_series(1, 9) i; \
        INSERT INTO c SELECT i, i FROM generate_series(1, 9) i";
    world.origin(fill).await;
    world.reopen(Options { whole_bytes_max: 0, ..Options::default() }).await;
    let mut all = Owed { tables: vec![table("t")], ..Owed::default() };
    owe(&mut all, "t", false, [3]);
    // One of another layout, which may have been deleted: what points at it is owed whole, too.
    owe(&mut all, "k", false, [4]);
    all.keys.entry(table("k")).or_default().insert(bytes(&[("id", "pg_catalog.int8")], &[&1_i64.to_be_bytes()]), true);
    let paid = world.pay(&all).await;
    let mut large: Vec<_> = paid.large.iter().map(|large| (large.name.as_str(), large.owed.clone())).collect();
    large.sort_unstable();
    let names = ["\"public\".\"c\"", "\"public\".\"k\"", "\"public\".\"t\""];
    assert_eq!(large, [(names[0], vec![]), (names[1], vec![]), (names[2], vec![table("t")])]);
    let there = "SELECT (SELECT string_agg(id::text, ',') FROM t), (SELECT string_agg(id::text, ',') FROM k), \
        (SELECT count(*) FROM c)";
    assert_eq!(rows(&world.target.url("postgres"), there).await, ["3|4|0"], "their keys are paid");
    world.reopen(Options::default()).await;
    assert_eq!(world.pay(&all).await.large, vec![]);
    for name in ["t", "k", "c"] {
        world.assert_same(name).await;
    }
}

#[tokio::test]
async fn a_large_partition_is_never_one_payment_either() {
    let schema = "CREATE TABLE m (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE p (id int, at int, v text, PRIMARY KEY (id, at)); \
        CREATE TABLE q PARTITION OF m FOR VALUES FROM (10) TO (20)";
    let mut world = World::new(schema).await;
    let attach = "ALTER TABLE m ATTACH PARTITION p FOR VALUES FROM (0) TO (10)";
    world.origin(&format!("INSERT INTO p VALUES (1, 5, 'a'); {attach}; INSERT INTO m VALUES (2, 12, 'b')")).await;
    world.reopen(Options { whole_bytes_max: 1, ..Options::default() }).await;
    let mut all = Owed { tables: vec![table("p")], ddl: vec![ddl("m", attach)], ..Owed::default() };
    all.keys.entry(table("q")).or_default().insert(dated(2, 12), false);
    let paid = world.pay(&all).await;
    let large: Vec<_> = paid.large.iter().map(|large| (large.table, large.owed.clone())).collect();
    assert_eq!((large, paid.rows), (vec![(table("m"), vec![table("p")])], 1));
    assert_eq!(all_of_m(&world.target).await, ["2|12|b"], "its key is paid");
    world.reopen(Options::default()).await;
    all.ddl.clear();
    let paid = world.pay(&all).await;
    assert_eq!((paid.large, paid.refused), (vec![], vec![]));
    world.assert_same("m").await;
}

#[tokio::test]
async fn a_large_table_of_the_target_that_is_owed_whole_is_emptied_at_once_not_row_by_row() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY REFERENCES t); \
        CREATE TABLE held (id int PRIMARY KEY); CREATE TABLE holds (id int PRIMARY KEY REFERENCES held); \
        CREATE TABLE m (id int PRIMARY KEY) PARTITION BY RANGE (id); \
        CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (1000000); CREATE TABLE k (id int PRIMARY KEY, v int)";
    let mut world = World::new(schema).await;
    world.origin("INSERT INTO t VALUES (7, 'left'); INSERT INTO c VALUES (7); INSERT INTO k VALUES (1, 1)").await;
    let fill = "INSERT INTO t SELECT i, 'old' FROM generate_series(1, 200000) i; INSERT INTO c VALUES (7), (8); \
        INSERT INTO held SELECT generate_series(1, 100000); INSERT INTO holds VALUES (5); \
        INSERT INTO m SELECT generate_series(1, 100000)";
    world.target(fill).await;
    world.reopen(Options { whole_bytes_max: 1 << 20, ..Options::default() }).await;
    let mut all = Owed { tables: ["t", "c", "held", "m"].map(table).into(), ..Owed::default() };
    owe(&mut all, "k", false, [1]);
    let paid = world.pay(&all).await;
    assert_eq!((paid.rows, paid.refused, paid.large), (3, vec![], vec![]));
    for name in ["t", "c", "held", "m", "k"] {
        world.assert_same(name).await;
    }
    // What a DELETE leaves is there until VACUUM. What points at one of them is not owed: its rows are deleted.
    let kept =
        "SELECT pg_relation_size('t') < 100000, pg_relation_size('m1') < 100000, pg_relation_size('held') > 1000000";
    assert_eq!(rows(&world.target.url("postgres"), kept).await, ["t|t|t"]);
}

#[tokio::test]
async fn a_large_table_that_may_not_be_emptied_at_once_has_its_rows_deleted() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (7)").await;
    world.target("INSERT INTO t SELECT generate_series(1, 100000)").await;
    world.reopen(Options { whole_bytes_max: 1 << 20, ..Options::default() }).await;
    // A reader's lock is not in the way of a DELETE.
    let mut reader = Client::connect(&config(&world.target)).await.expect("connects");
    reader.simple("BEGIN; SELECT FROM t LIMIT 1").await.expect("it reads");
    let paid = world.pay(&Owed { tables: vec![table("t")], ..Owed::default() }).await;
    assert_eq!((paid.rows, paid.refused, paid.large), (1, vec![], vec![]));
    world.assert_same("t").await;
    reader.simple("COMMIT").await.expect("it is done");
}

#[tokio::test]
async fn a_partition_that_leaves_a_table_that_is_locked_holds_up_no_other() {
    let others = "CREATE TABLE b (id int PRIMARY KEY, v int)";
    let target = "CREATE TABLE m (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE rest PARTITION OF m DEFAULT";
    let mut world = World::with(&format!("{DATED}; {others}"), &format!("{target}; {others}")).await;
    let fill = "INSERT INTO m VALUES (1, 1, 'a'), (2, 11, 'b')";
    world.origin(fill).await;
    world.target(fill).await;
    world.origin("DROP TABLE m2; INSERT INTO b VALUES (1, 1)").await;
    let locker = connect(&world.origin.url("postgres")).await;
    locker.batch_execute("BEGIN; LOCK TABLE ONLY m1 IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let all = Owed { ddl: vec![ddl("m", "DROP TABLE m2")], ..owed("b", [1]) };
    let paid = world.pay(&all).await;
    let large: Vec<_> = paid.large.iter().map(|large| (large.table, large.owed.clone())).collect();
    assert_eq!((large, paid.rows), (vec![(table("m"), vec![])], 1), "it is dirty, the other is paid");
    locker.batch_execute("COMMIT").await.expect("let go");
    world.reopen(Options::default()).await;
    world.pay(&Owed { tables: vec![table("m")], ..Owed::default() }).await;
    world.assert_same("m").await;
}

#[tokio::test]
async fn a_large_table_with_a_column_that_cannot_be_compared_is_one_payment() {
    let schema = |of: &str| format!("CREATE TABLE t (id int PRIMARY KEY, at {of})");
    let mut world = World::with(&schema("timestamp"), &schema("timestamptz")).await;
    world.origin("INSERT INTO t SELECT i, '2026-01-02 03:04' FROM generate_series(1, 9) i").await;
    world.reopen(Options { whole_bytes_max: 0, ..Options::default() }).await;
    let paid = world.pay(&Owed { tables: vec![table("t")], ..Owed::default() }).await;
    assert_eq!((paid.large, paid.rows), (vec![], 9), "no walk would find it clean");
}

#[tokio::test]
async fn what_a_partition_held_leaves_the_target_with_it_however_that_is_partitioned() {
    let other = "CREATE TABLE m (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE rest PARTITION OF m DEFAULT";
    for (target, alike) in [(DATED, true), (other, false)] {
        let mut world = World::with(DATED, target).await;
        let fill = "INSERT INTO m VALUES (1, 1, 'a'), (2, 11, 'b'), (3, 12, 'c'), (4, 30, 'd')";
        world.origin(fill).await;
        world.target(fill).await;
        // Nobody owes it: alike on both sides, nobody looks.
        world.target("INSERT INTO m VALUES (9, 30, 'planted')").await;
        for (change, gone) in [
            ("ALTER TABLE m DETACH PARTITION m1", "m1"),
            ("ALTER TABLE m2 DETACH PARTITION m2_odd", "m2_odd"),
            ("DROP TABLE m2", "m2"),
        ] {
            world.origin(change).await;
            let mut owed = Owed { ddl: vec![ddl("m", change)], ..Owed::default() };
            if change.starts_with("ALTER") {
                owed.tables.push(table(gone));
            }
            let paid = world.pay(&owed).await;
            assert_eq!(paid.large, vec![]);
            assert_eq!(paid.refused.is_empty(), alike || change.starts_with("DROP"), "{:?}", paid.refused);
            let mut expected = all_of_m(&world.origin).await;
            expected.extend(alike.then(|| "9|30|planted".to_owned()));
            assert_eq!(all_of_m(&world.target).await, expected, "{change}, {target}");
        }
        if alike {
            world.assert_same("m1").await;
            world.assert_same("m2_odd").await;
        }
    }
}

#[tokio::test]
async fn a_partition_that_was_detached_on_the_origin_alone_is_refused_and_leaves_no_row_in_its_table() {
    let mut world = World::new(DATED).await;
    let fill = "INSERT INTO m VALUES (1, 1, 'a'), (2, 30, 'd')";
    world.origin(fill).await;
    world.target(fill).await;
    world.origin("ALTER TABLE m DETACH PARTITION m1").await;
    let paid = world.pay(&Owed { tables: ["m", "m1"].map(table).into(), ..Owed::default() }).await;
    let [refused] = &paid.refused[..] else { panic!("one refused: {:?}", paid.refused) };
    assert!(refused.table == table("m1") && refused.why.contains("is a partition of"), "{refused:?}");
    assert_eq!(all_of_m(&world.target).await, ["2|30|d"]);
    world.target("ALTER TABLE m DETACH PARTITION m1").await;
    world.reopen(Options::default()).await;
    assert_eq!(world.pay(&Owed { tables: vec![table("m1")], ..Owed::default() }).await.refused, vec![]);
    world.assert_same("m1").await;
}

#[tokio::test]
async fn a_partition_is_attached_and_its_rows_are_made_equal_alone() {
    let schema = format!("{DATED}; CREATE TABLE m4 (id int NOT NULL, at int NOT NULL, v text, PRIMARY KEY (id, at))");
    let mut world = World::new(&schema).await;
    world.origin("INSERT INTO m4 SELECT i, 20, 'v' FROM generate_series(1, 9) i").await;
    world.target("INSERT INTO m4 VALUES (1, 25, 'gone'); INSERT INTO m VALUES (9, 1, 'planted')").await;
    let change = "ALTER TABLE m ATTACH PARTITION m4 FOR VALUES FROM (20) TO (30)";
    world.origin(change).await;
    let all = Owed { tables: vec![table("m4")], ddl: vec![ddl("m4", change)], ..Owed::default() };
    assert_eq!(world.pay(&all).await.refused, vec![]);
    world.assert_same("m4").await;
    assert_eq!(rows(&world.target.url("postgres"), "SELECT count(*) FROM m").await, ["10"]);
}

#[tokio::test]
async fn while_a_partition_is_detached_concurrently_payments_go_on() {
    let dated = "CREATE TABLE m (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
        CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10); CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (10) TO (20)";
    let mut world = World::new(dated).await;
    let fill = "INSERT INTO m VALUES (1, 1, 'a'), (2, 11, 'b')";
    world.origin(fill).await;
    world.target(fill).await;
    // It waits for who has looked at the table.
    let mut reader = Client::connect(&config(&world.origin)).await.expect("connects");
    reader.simple("BEGIN; SELECT FROM m").await.expect("read");
    let url = world.origin.url("postgres");
    let change = "ALTER TABLE m DETACH PARTITION m1 CONCURRENTLY";
    let detaching = tokio::spawn(async move { sql(&url, change).await });
    let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
    while rows(&world.origin.url("postgres"), pending).await != ["1"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.origin("UPDATE m SET v = 'c'; UPDATE m1 SET v = 'd'; INSERT INTO m VALUES (3, 12, 'e')").await;
    let mut all = Owed::default();
    all.keys.entry(table("m1")).or_default().extend([(self::dated(1, 1), false)]);
    all.keys.entry(table("m2")).or_default().extend([(self::dated(2, 11), false), (self::dated(3, 12), false)]);
    assert_eq!(world.pay(&all).await.refused, vec![]);
    assert_eq!(all_of_m(&world.target).await, ["1|1|d", "2|11|c", "3|12|e"], "there it is a partition still");
    reader.simple("COMMIT").await.expect("ended");
    detaching.await.expect("detached");
    let all = Owed { tables: vec![table("m1")], ddl: vec![ddl("m", change)], ..Owed::default() };
    assert_eq!(world.pay(&all).await.refused, vec![]);
    for name in ["m", "m1"] {
        world.assert_same(name).await;
    }
}

#[tokio::test]
async fn one_applier_at_a_time() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.pay(&owed("t", [1])).await;
    let mut second = PgCopier::new(config(&world.origin), config(&world.target), Options::default());
    let error = second.open().await.expect_err("the first holds the lock");
    assert!(matches!(&error, Error::Fenced(why) if why.contains("tandem mirror")), "{error}");
    // The zombie's session is ended: whatever it still had open cannot be committed, and the successor counts on.
    world.copier.snapshot().await.expect("S");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'";
    world.target(kill).await;
    let standing = loop {
        match second.open().await {
            Err(Error::Fenced(_)) => (),
            other => break other.expect("opens"),
        }
    };
    assert_eq!(standing.payments, 1);
    let error = world.copier.pay(&owed("t", [1]), false).await.expect_err("fenced off");
    assert!(matches!(error, Error::Secondary(_)), "{error}");
}

#[tokio::test]
async fn transactions_that_are_under_way_are_those_of_others_in_this_database() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.origin("CREATE DATABASE another").await;
    world.origin("CREATE ROLE other LOGIN; GRANT ALL ON t TO other").await;
    assert_eq!(world.copier.under_way().await.expect("asked").len(), 0);
    let theirs = connect(&world.origin.url("postgres").replace("postgres@", "other@")).await;
    let elsewhere = connect(&world.origin.url("another")).await;
    for client in [&theirs, &elsewhere] {
        client.batch_execute("BEGIN; SELECT 1").await.expect("begun");
    }
    let first = world.copier.under_way().await.expect("asked");
    assert_eq!(first.len(), 1);
    theirs.batch_execute("INSERT INTO t VALUES (1)").await.expect("inserted");
    assert_eq!(world.copier.under_way().await.expect("asked"), first, "the same one");
    theirs.batch_execute("COMMIT; BEGIN; SELECT 1").await.expect("begun");
    let second = world.copier.under_way().await.expect("asked");
    assert!(second.len() == 1 && second.is_disjoint(&first), "{first:?} {second:?}");
}

#[tokio::test]
async fn where_the_journal_was_is_kept_with_the_payment_and_an_older_store_learns_to() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.target("ALTER TABLE tandem.payment DROP journal, DROP journal_life, DROP journal_end").await;
    let mut place = None;
    for number in 0..2 {
        let standing = loop {
            match world.copier.open().await {
                Err(Error::Fenced(_)) => (),
                other => break other.expect("opens"),
            }
        };
        assert_eq!((standing.payments, standing.place), (number, place));
        place = Some(Place { journal: u64::MAX - 1, life: 7, reached: Lsn(1 << 40) });
        // The second one owes nothing, and says whose it is all the same.
        let owed = if number == 0 { owed("t", [1]) } else { Owed { claims: true, ..Owed::default() } };
        world.pay(&Owed { place, ..owed }).await;
        assert_eq!(
            rows(&world.target.url("postgres"), "SELECT n FROM tandem.payment").await,
            [(number + 1).to_string()]
        );
    }
    // Who does not own the store pays all the same.
    world.target("ALTER TABLE tandem.payment DROP journal, DROP journal_life, DROP journal_end").await;
    world.act_as_plain().await;
    world.pay(&Owed { place, ..owed("t", [1]) }).await;
}

#[tokio::test]
async fn who_is_gone_is_told_from_who_is_there() {
    let (mut world, options) = (World::new("CREATE TABLE t (id int PRIMARY KEY)").await, "max_prepared_transactions");
    assert_eq!(rows(&world.origin.url("postgres"), &format!("SHOW {options}")).await.len(), 1);
    let logins = Some(Logins::new(Journal::in_memory()));
    let origin = ServerConfig { logins, ..config(&world.origin) };
    world.copier = PgCopier::new(origin.clone(), config(&world.target), Options::default());
    while let Err(error) = world.copier.open().await {
        assert!(matches!(error, Error::Fenced(_)), "{error}");
    }
    let alive = Client::connect(&origin).await.expect("connects");
    let gone = Client::connect(&origin).await.expect("connects");
    let unheard = Client::connect(&config(&world.origin)).await.expect("connects");
    let mirror = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tandem mirror%' \
        ORDER BY backend_start DESC";
    let mirror = rows(&world.origin.url("postgres"), mirror).await[0].parse().expect("a number");
    let background = "SELECT pid FROM pg_stat_activity WHERE usesysid IS NULL LIMIT 1";
    let background = rows(&world.origin.url("postgres"), background).await[0].parse().expect("a number");
    let elsewhere = ServerConfig { database: "template1".to_owned(), ..config(&world.origin) };
    let elsewhere = Client::connect(&elsewhere).await.expect("connects");
    let before = |id: u32| Backend { id, life: 0 };
    let asked = [
        alive.backend(),
        unheard.backend(),
        gone.backend(),
        before(alive.pid()),
        before(mirror),
        before(background),
        elsewhere.backend(),
    ];
    gone.close().await;
    let expected = &asked[2..];
    loop {
        let found = world.copier.gone(&asked, &[b"none"[..].into()]).await.expect("asked");
        assert_eq!(found.prepared.len(), 1);
        assert!(
            found.backends.ends_with(&expected[1..]) && !found.backends.iter().any(|found| asked[..2].contains(found)),
            "who had a number before somebody who logged in is gone: {found:?}"
        );
        if found.backends == expected {
            break;
        }
    }
}

#[tokio::test]
async fn a_crash_of_the_primary_is_another_life() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.copier = PgCopier::new(config(&world.origin), config(&world.target), Options::default());
    let open = async |copier: &mut PgCopier| loop {
        match copier.open().await {
            Ok(standing) => break standing,
            Err(Error::Fenced(_)) => (),
            Err(error) => panic!("{error}"),
        }
    };
    let first = open(&mut world.copier).await;
    let again = open(&mut world.copier).await;
    assert_eq!(first, again);
    // A backend is killed: the server restarts inside, its start time stays.
    let victim = Client::connect(&config(&world.origin)).await.expect("connects");
    let status =
        std::process::Command::new("kill").args(["-9", &victim.pid().to_string()]).status().expect("kill runs");
    assert!(status.success());
    let life = loop {
        match world.copier.open().await {
            Ok(standing) if standing.life != first.life => break standing,
            _ => (),
        }
    };
    assert_eq!((life.timeline, life.started), (first.timeline, first.started));
    world.origin.restart(Stop::Fast).expect("it comes back");
    let restarted = open(&mut world.copier).await;
    assert_eq!(restarted.timeline, first.timeline);
    assert!(![first.started, 0].contains(&restarted.started));
}

#[tokio::test]
async fn a_payment_of_many_statements_passes() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    world.origin("INSERT INTO t SELECT i, 'value number ' || i FROM generate_series(1, 200000) i").await;
    // More statements than a socket holds answers; then COPYs that several answers fill.
    for batch_keys in [500, 10_000] {
        world.reopen(Options { batch_keys, ..Options::default() }).await;
        assert_eq!(world.pay(&owed("t", 1..=200_000)).await.rows, 200_000);
    }
    let sum = "SELECT count(*), sum(hashtext(t::text)) FROM t";
    assert_eq!(rows(&world.target.url("postgres"), sum).await, rows(&world.origin.url("postgres"), sum).await);
}

#[tokio::test]
async fn one_side_may_be_slow_while_the_other_waits_in_its_transaction() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.origin("INSERT INTO t VALUES (1)").await;
    world
        .target(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2.5); RETURN NULL; END'; \
             CREATE TRIGGER slow AFTER DELETE ON t EXECUTE FUNCTION slow(); ALTER TABLE t ENABLE ALWAYS TRIGGER slow",
        )
        .await;
    world.reopen(Options { silence_max: Duration::from_secs(1), ..Options::default() }).await;
    assert_eq!(world.pay(&owed("t", [1])).await.rows, 1);
    world.target("DROP TRIGGER slow ON t").await;
    let mut locker = Client::connect(&config(&world.origin)).await.expect("connects");
    locker.simple("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let unlocked = tokio::spawn(async move { locker.simple("SELECT pg_sleep(1.5); COMMIT").await.map(drop) });
    assert_eq!(world.pay(&owed("t", [1])).await.rows, 1);
    unlocked.await.expect("ends").expect("unlocked");
}

#[tokio::test]
async fn an_empty_payment_says_something_to_the_secondary() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.reopen(Options { heartbeat: Duration::ZERO, ..Options::default() }).await;
    let heard = "SELECT state_change FROM pg_stat_activity WHERE application_name LIKE 'tandem mirror%'";
    let before = rows(&world.target.url("postgres"), heard).await;
    assert_eq!(before.len(), 1);
    world.pay(&Owed::default()).await;
    assert_ne!(rows(&world.target.url("postgres"), heard).await, before);
}

#[tokio::test]
async fn a_connection_that_cannot_be_written_to_tells_why() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut client = Client::connect(&config(&world.target)).await.expect("connects");
    world.target(&format!("SELECT pg_terminate_backend({}, 5000)", client.pid())).await;
    let error = loop {
        client.put_keepalive();
        if let Err(error) = client.send().await {
            break error;
        }
    };
    assert_eq!(error.code(), Some("57P01"), "{error}");
}

#[tokio::test]
async fn a_two_phase_transaction_is_gone_when_somebody_ended_it() {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let two_phase =
        SandboxOptions { config: vec!["max_prepared_transactions = 5".into()], ..SandboxOptions::default() };
    let (origin, target) = (server_with("origin", &old, &two_phase), server_with("target", &new, &two_phase));
    let mut copier = PgCopier::new(config(&origin), config(&target), Options::default());
    copier.open().await.expect("opens");
    let script = |gid: &str| format!("BEGIN; CREATE TABLE {gid} (); PREPARE TRANSACTION '{gid}'");
    for gid in ["kept", "committed", "undone"] {
        sql(&origin.url("postgres"), &script(gid)).await;
    }
    let asked = ["kept", "committed", "undone"].map(|gid| Box::<[u8]>::from(gid.as_bytes()));
    assert_eq!(copier.gone(&[], &asked).await.expect("asked").prepared, Vec::<Box<[u8]>>::new());
    sql(&origin.url("postgres"), "COMMIT PREPARED 'committed'").await;
    sql(&origin.url("postgres"), "ROLLBACK PREPARED 'undone'").await;
    assert_eq!(copier.gone(&[], &asked).await.expect("asked").prepared, asked[1..]);
}

/// What a payment ends with came by.
fn is_committing(bytes: &[u8]) -> bool {
    let find = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).position(|window| window == part);
    find(bytes, b"n + 1 RETURNING n").is_some_and(|at| find(&bytes[at..], b"COMMIT\0").is_some())
}

/// Relays one connection to `port` until a payment's COMMIT comes by: that is forwarded or not, its answer never.
async fn cut_at_commit(port: u16, forwarded: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server answers");
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        loop {
            tokio::select! {
                read = client.read_buf(&mut up) => {
                    let read = read.expect("read");
                    let last = read == 0 || is_committing(&up[up.len().saturating_sub(4096)..]);
                    if !last || forwarded {
                        server.write_all(&up[up.len() - read..]).await.expect("written");
                    }
                    if last {
                        break;
                    }
                }
                read = server.read_buf(&mut down) => {
                    assert_ne!(read.expect("read"), 0);
                    client.write_all(&down.split()).await.expect("written");
                }
            }
        }
        if forwarded {
            // What is answered now is lost; the last answer is the COMMIT's, in which the session is idle again.
            while !down.ends_with(b"Z\0\0\0\x05I") {
                server.read_buf(&mut down).await.expect("read");
            }
        }
    });
    address.port()
}

#[tokio::test]
async fn after_a_lost_commit_the_counter_tells_and_the_payment_is_repeated() {
    for forwarded in [true, false] {
        let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
        world.origin("INSERT INTO t VALUES (1, 'one'), (2, 'two')").await;
        world.pay(&owed("t", [1])).await;
        world.origin("DELETE FROM t WHERE id = 1").await;
        let mut through = config(&world.target);
        through.hosts[0].port = cut_at_commit(through.hosts[0].port, forwarded).await;
        let direct =
            std::mem::replace(&mut world.copier, PgCopier::new(config(&world.origin), through, Options::default()));
        drop(direct);
        while !rows(&world.target.url("postgres"), "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")
            .await
            .is_empty()
        {}
        assert_eq!(world.copier.open().await.expect("opens").payments, 1);
        let error = world.try_pay(&owed("t", [1, 2])).await.expect_err("the answer is lost");
        assert!(matches!(error, Error::Secondary(_)), "{error}");
        world.copier = PgCopier::new(config(&world.origin), config(&world.target), Options::default());
        let standing = loop {
            match world.copier.open().await {
                Err(Error::Fenced(_)) => (),
                other => break other.expect("opens"),
            }
        };
        assert_eq!(standing.payments, if forwarded { 2 } else { 1 });
        world.pay(&owed("t", [1, 2])).await;
        world.assert_same("t").await;
    }
}
