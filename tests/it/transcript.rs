//! The same script of odd statements, sent direct and through tandem with mirroring on: the answers are equal byte for
//! byte, but for what no two runs on one server share (oids of tables, process ids) and for where in PostgreSQL's source an error
//! was raised.

use tandem::protocol::postgres::wire::{Fields, Message, back};
use tandem::sandbox::{Options, binaries};

use crate::support::raw::{M, M::*, Raw};
use crate::support::{server_with, sql, tandem::Tandem};

/// A message in words, without what differs from run to run.
fn show(Message { kind, body }: Message) -> String {
    let mut body = body.to_vec();
    if kind == back::ROW_DESCRIPTION {
        blank_table_oids(&mut body);
    }
    if kind == back::NOTIFICATION_RESPONSE {
        body[..4].fill(0);
    }
    if kind == back::ERROR_RESPONSE || kind == back::NOTICE_RESPONSE {
        body = without_source(&body);
    }
    format!("{} {}", char::from(kind), body.escape_ascii())
}

/// File, line and routine of PostgreSQL's source: a statement that tandem ran by the extended protocol is refused by
/// another line, in the same words.
fn without_source(body: &[u8]) -> Vec<u8> {
    body.split_inclusive(|&byte| byte == 0)
        .filter(|field| !matches!(field[0], b'F' | b'L' | b'R'))
        .flatten()
        .copied()
        .collect()
}

fn blank_table_oids(body: &mut [u8]) {
    let mut fields = Fields::new(b'T', body);
    let mut at = Vec::new();
    for _ in 0..fields.u16().expect("a count") {
        fields.cstr().expect("a name");
        at.push(body.len() - fields.rest().len());
        fields.take(18).expect("the rest");
    }
    at.into_iter().for_each(|at| body[at..at + 4].fill(0));
}

const SETUP: &str = "
    DROP SCHEMA IF EXISTS odd CASCADE; CREATE SCHEMA odd;
    CREATE TABLE odd.acc (id int PRIMARY KEY, v int, note text, UNIQUE (note));
    INSERT INTO odd.acc SELECT i, i, 'n' || i FROM generate_series(1, 20) i;
    CREATE TABLE odd.ser (id serial PRIMARY KEY, v text);
    DO $$ BEGIN CREATE ROLE odd_writer; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    GRANT USAGE ON SCHEMA odd TO odd_writer;
    CREATE TABLE odd.log (id serial PRIMARY KEY, v text);
    GRANT INSERT ON odd.log TO odd_writer; GRANT USAGE ON SEQUENCE odd.log_id_seq TO odd_writer;
    CREATE TABLE odd.two (a int, b text, v int, PRIMARY KEY (a, b));
    CREATE TABLE odd.par (id int PRIMARY KEY);
    CREATE TABLE odd.chi (id int PRIMARY KEY, p int REFERENCES odd.par ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO odd.par VALUES (1), (2);
    CREATE TABLE odd.ser_chi (id serial PRIMARY KEY, p int REFERENCES odd.par DEFERRABLE INITIALLY DEFERRED);
    CREATE VIEW odd.view AS SELECT id, v FROM odd.acc WHERE v < 1000;
    CREATE TABLE odd.part (id serial, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
    CREATE TABLE odd.part1 PARTITION OF odd.part FOR VALUES FROM (0) TO (10);
    CREATE TABLE odd.part2 PARTITION OF odd.part FOR VALUES FROM (10) TO (20);
";

/// Every script runs on a fresh connection; `odd` is made anew before each.
const SCRIPTS: &[&[M]] = &[
    &[Q("select 1"), Wait, Q("select 1; select 2"), Wait, Q(""), Wait, Q(" -- nothing"), Wait, Q(";;select 3;;")],
    &[Q("update odd.acc set v = v + 1 where id = 3"), Wait, Q("select v from odd.acc where id = 3")],
    &[Q("insert into odd.acc values (100, 1, 'x'), (101, 2, 'y') returning *")],
    &[Q("insert into odd.acc values (1, 1, 'dup')"), Wait, Q("select 1")],
    &[Q("insert into odd.ser (v) values ('a')"), Wait, Q("insert into odd.ser (v) values ('b'), ('c') returning v")],
    &[Q("insert into odd.ser (v) values ('a') returning *"), Wait, Q("select count(*) from odd.ser")],
    &[Q("insert into odd.ser (v) select note from odd.acc where id < 4 returning id, v")],
    &[Q("insert into odd.ser (v) values (nope)"), Wait, Q("select 1")],
    &[Q("/* lead */ insert into odd.ser (nope) values (1) -- trail")],
    &[Q("select 1; insert into odd.ser (v) values (nope)"), Wait, Q("select count(*) from odd.ser")],
    &[Q("insert into odd.ser (v) values ('kept'); select 1/0; select 2"), Wait, Q("select count(*) from odd.ser")],
    &[Q("insert into odd.ser (v) values ('a'); select * from odd.ser; insert into odd.ser (v) values ('b')")],
    &[Q("insert into odd.ser_chi (p) values (99)"), Wait, Q("select count(*) from odd.ser_chi")],
    &[Q("insert into odd.ser_chi (p) values (99); select 1"), Wait, Q("select count(*) from odd.ser_chi")],
    &[
        Q("begin"),
        Wait,
        Q("insert into odd.ser (v) values ('t')"),
        Wait,
        Q("update odd.acc set v = 0 where v > 15"),
        Wait,
        Q("savepoint s"),
        Wait,
        Q("insert into odd.acc values (1, 1, 'd')"),
        Wait,
        Q("select 1"),
        Wait,
        Q("rollback to s"),
        Wait,
        Q("commit"),
        Wait,
        Q("select count(*) from odd.ser"),
    ],
    &[Q("begin; insert into odd.ser (v) values ('q'); commit; select count(*) from odd.ser")],
    &[
        Q("insert into odd.ser (v) values ('1'); begin; insert into odd.ser (v) values ('2')"),
        Wait,
        Q("rollback"),
        Wait,
        Q("select count(*) from odd.ser"),
    ],
    &[
        Q("insert into odd.ser (v) values ('1'); rollback; insert into odd.ser (v) values ('2')"),
        Wait,
        Q("select v from odd.ser"),
    ],
    &[
        Q("insert into odd.ser (v) values ('1'); commit; insert into odd.ser (v) values ('2'); select 1/0"),
        Wait,
        Q("select v from odd.ser"),
    ],
    &[Q("insert into odd.ser (v) values ('1'); savepoint s; select 1"), Wait, Q("select count(*) from odd.ser")],
    &[Q("insert into odd.ser (v) values ('1'); commit and chain; select 1"), Wait, Q("select count(*) from odd.ser")],
    &[
        Q("begin"),
        Wait,
        Q("insert into odd.ser (v) values ('1')"),
        Wait,
        Q("commit and chain"),
        Wait,
        Q("insert into odd.ser (v) values ('2')"),
        Wait,
        Q("rollback"),
        Wait,
        Q("select v from odd.ser"),
    ],
    &[
        Q("begin"),
        Wait,
        Q("select nope"),
        Wait,
        Q("insert into odd.ser (v) values ('x')"),
        Wait,
        Q("commit"),
        Wait,
        Q("select 1"),
    ],
    &[
        Q("delete from odd.acc where id in (1, 2, 3)"),
        Wait,
        Q("delete from odd.acc where v > 10"),
        Wait,
        Q("select count(*) from odd.acc"),
    ],
    &[
        Q("update odd.acc set id = 500 where id = 5"),
        Wait,
        Q("update odd.acc set id = id + 1000 where id < 3 returning id"),
    ],
    &[Q("update odd.acc set id = id + 1000"), Wait, Q("select min(id) from odd.acc")],
    &[Q("insert into odd.acc values (1, 9, 'z') on conflict (id) do update set v = excluded.v returning v")],
    &[
        Q("insert into odd.acc values (77, 9, 'n1') on conflict (note) do update set v = 7"),
        Wait,
        Q("select id from odd.acc where v = 7"),
    ],
    &[Q("insert into odd.acc values (1, 9, 'n1') on conflict do nothing")],
    &[Q("with w as (update odd.acc set v = 0 where id = 1 returning id) select * from w")],
    &[Q("with w as (delete from odd.acc where v < 5 returning *) insert into odd.ser (v) select note from w")],
    &[Q("update odd.acc a set v = s.v::int from (select 1 as id, '5' as v) s where a.id = s.id")],
    &[Q("delete from odd.acc using odd.par where acc.id = par.id")],
    &[Q("truncate odd.ser"), Wait, Q("insert into odd.ser (v) values ('after')"), Wait, Q("select * from odd.ser")],
    &[
        Q("insert into odd.part (k) values (1), (11) returning k"),
        Wait,
        Q("update odd.part set k = 12 where k = 1"),
        Wait,
        Q("select count(*) from odd.part2"),
    ],
    &[Q("update odd.view set v = 3 where id = 4"), Wait, Q("update odd.view set v = v + 1 where v > 10 returning *")],
    &[Q("merge into odd.acc a using (values (1), (900)) s (id) on a.id = s.id when matched then update set v = 1 \
         when not matched then insert values (s.id, 0, 'm')")],
    &[
        Q("prepare p as insert into odd.acc values ($1, $2, $3)"),
        Wait,
        Q("execute p (300, 1, 'e')"),
        Wait,
        Q("execute p (300, 1, 'e')"),
        Wait,
        Q("deallocate p"),
        Wait,
        Q("execute p (1, 2, '3')"),
    ],
    &[Q("prepare p as select 1; execute p; prepare p as select 2"), Wait, Q("deallocate all")],
    &[
        Q("begin; declare c cursor for select * from odd.acc for update"),
        Wait,
        Q("fetch 2 from c"),
        Wait,
        Q("update odd.acc set v = -1 where current of c"),
        Wait,
        Q("commit"),
    ],
    &[
        Q("copy odd.acc from stdin"),
        Until(b'G'),
        Data("201\t1\ta\n20"),
        Data("2\t2\tb\n"),
        Done,
        Wait,
        Q("select * from odd.acc where id > 200"),
    ],
    &[Q("copy odd.acc (note, id) from stdin with (format csv)"), Until(b'G'), Data("\"a,b\",301\n"), Done],
    &[Q("copy odd.acc from stdin"), Until(b'G'), Data("401\t1\ta\n"), Fail, Wait, Q("select 1")],
    &[Q("copy odd.acc from stdin"), Until(b'G'), Data("rubbish\n"), Done, Wait, Q("select 1")],
    &[Q("copy odd.nope from stdin"), Wait, Q("select 1")],
    &[Q("copy odd.acc to stdout"), Wait, Q("copy (select 1) to stdout")],
    &[Q("copy odd.ser (v) from stdin"), Until(b'G'), Data("x\ny\n"), Done],
    &[
        P("", "copy odd.acc from stdin"),
        B("", "", &[], &[]),
        E("", 0),
        Ignored,
        Until(b'G'),
        Data("701\t1\ta7\n"),
        Done,
        S,
        Wait,
    ],
    // Extended protocol.
    &[P("", "update odd.acc set v = $1 where id = $2"), B("", "", &["5", "7"], &[]), Dp(""), E("", 0), S],
    &[P("", "update odd.acc set v = $1 where id = $2"), Ds(""), S, Wait, B("", "", &["5", "7"], &[1]), E("", 1), S],
    &[
        P("s", "insert into odd.ser (v) values ($1)"),
        Ds("s"),
        S,
        Wait,
        B("", "s", &["a"], &[]),
        Dp(""),
        E("", 0),
        S,
        Wait,
        B("", "s", &["b"], &[1]),
        E("", 1),
        S,
        Wait,
        C("s"),
        S,
        Wait,
        B("", "s", &["c"], &[]),
        E("", 0),
        S,
    ],
    &[
        P("s", "insert into odd.ser (v) values ($1) returning v, id"),
        Ds("s"),
        B("", "s", &["a"], &[0, 1]),
        Dp(""),
        E("", 0),
        S,
    ],
    &[P("s", "insert into odd.ser (v) values ($1) returning v, id"), B("", "s", &["a"], &[1]), Dp(""), E("", 0), S],
    &[
        P("", "insert into odd.ser (v) select note from odd.acc returning v"),
        B("", "", &[], &[]),
        E("", 3),
        E("", 0),
        S,
    ],
    &[
        P("", "update odd.acc set v = 1 where v < 10"),
        B("", "", &[], &[]),
        E("", 1),
        S,
        Wait,
        Q("select count(*) from odd.acc where v = 1"),
    ],
    &[
        P("", "insert into odd.ser (v) values ($1)"),
        B("", "", &["a"], &[]),
        E("", 0),
        B("", "", &["b"], &[]),
        E("", 0),
        H,
        B("", "", &["c"], &[]),
        E("", 0),
        S,
    ],
    &[
        P("", "insert into odd.ser (v) values ('1')"),
        B("", "", &[], &[]),
        E("", 0),
        P("", "select 1/0"),
        B("", "", &[], &[]),
        E("", 0),
        P("", "select 2"),
        S,
        Wait,
        Q("select count(*) from odd.ser"),
    ],
    &[P("a", "select 1"), P("a", "select 2"), S, Wait, B("", "a", &[], &[]), E("", 0), S],
    &[
        P("b", "begin"),
        B("", "b", &[], &[]),
        E("", 0),
        P("", "insert into odd.ser (v) values ('p')"),
        B("", "", &[], &[]),
        E("", 0),
        P("", "commit"),
        B("", "", &[], &[]),
        E("", 0),
        S,
        Wait,
        Q("select count(*) from odd.ser"),
    ],
    &[P("", "insert into odd.ser_chi (p) values (99)"), B("", "", &[], &[]), E("", 0), S, Wait, Q("select 1")],
    &[P("", ""), B("", "", &[], &[]), Dp(""), E("", 0), S],
    &[B("", "missing", &[], &[]), E("", 0), S, Wait, E("gone", 0), S, Wait, Q("select 1")],
    &[P("", "select generate_series(1, 5)"), B("p", "", &[], &[]), E("p", 2), E("p", 2), E("p", 2), S],
    &[
        Q("begin"),
        Wait,
        P("", "select * from odd.acc order by id"),
        B("p", "", &[], &[]),
        E("p", 2),
        S,
        Wait,
        E("p", 1),
        S,
        Wait,
        Q("commit"),
    ],
    // Pipelines: nobody waits.
    &[
        Q("update odd.acc set v = 1 where id = 1"),
        Q("insert into odd.ser (v) values ('x')"),
        Q("select 1"),
        Q("insert into odd.acc values (1, 1, 'dup')"),
        Q("insert into odd.ser (v) values ('y') returning v"),
    ],
    &[
        P("", "insert into odd.ser (v) values ('1')"),
        B("", "", &[], &[]),
        E("", 0),
        S,
        P("", "insert into odd.ser (v) values ('2')"),
        B("", "", &[], &[]),
        E("", 0),
        S,
        P("", "select nope"),
        S,
        P("", "update odd.acc set v = 4 where id = 4"),
        B("", "", &[], &[]),
        E("", 0),
        S,
    ],
    &[
        Q("begin"),
        Q("insert into odd.ser (v) values ('x')"),
        Q("commit"),
        Q("begin"),
        Q("update odd.acc set v = 1 where id = 1"),
        Q("rollback"),
        Q("select v from odd.acc where id = 1"),
    ],
    // Session state.
    &[
        Q("set standard_conforming_strings = off"),
        Wait,
        Q("update odd.acc set note = 'a\\'b' where id = 1"),
        Wait,
        Q("select note from odd.acc where id = 1"),
    ],
    &[
        Q("set client_encoding = 'LATIN1'"),
        Wait,
        Q("insert into odd.ser (v) values ('plain')"),
        Wait,
        Q("select v from odd.ser"),
    ],
    &[Q("listen ch"), Wait, Q("notify ch, 'x'"), Wait, Q("select 1")],
    &[
        Q("set search_path = odd"),
        Wait,
        Q("insert into ser (v) values ('s')"),
        Wait,
        Q("update acc set v = 2 where id = 2"),
    ],
    &[
        Q("create temp table acc (id int primary key, v int)"),
        Wait,
        Q("insert into acc values (1, 1)"),
        Wait,
        Q("update acc set v = 2 where id = 1"),
        Wait,
        Q("insert into acc select 2, 3"),
        Wait,
        Q("select * from acc"),
    ],
    &[
        Q("explain (costs off) update odd.acc set v = 1 where id = 1"),
        Wait,
        Q("values (1), (2)"),
        Wait,
        Q("table odd.par"),
        Wait,
        Q("show server_encoding"),
    ],
    &[
        Q("do $$ begin raise notice 'hello'; end $$"),
        Wait,
        Q("vacuum odd.par"),
        Wait,
        Q("select set_config('a.b', '1', false)"),
    ],
    &[Q("select $1"), Wait, Q("this is not sql"), Wait, Q("insert into odd.ser (v) values ($1)")],
    &[
        Q("create table odd.fresh (id int primary key)"),
        Wait,
        Q("insert into odd.fresh values (1)"),
        Wait,
        Q("alter table odd.fresh add v serial"),
        Wait,
        Q("insert into odd.fresh (id) values (2) returning *"),
        Wait,
        Q("drop table odd.fresh"),
        Wait,
        Q("select * from odd.fresh"),
    ],
    &[
        Q("begin"),
        Wait,
        Q("select 1/0"),
        Wait,
        Q("rollback; update odd.acc set v = 0 where v > 15; insert into odd.ser (v) values ('after')"),
        Wait,
        Q("select count(*) from odd.acc where v = 0; select count(*) from odd.ser"),
    ],
    &[
        Q("copy odd.par from stdin; copy odd.two from stdin"),
        Until(b'G'),
        Data("41\n"),
        Done,
        Until(b'G'),
        Data("1\tx\t2\n"),
        Done,
        Wait,
        Q("select * from odd.par order by 1; select * from odd.two"),
    ],
    &[
        Q("update odd.acc set v = 7 where v > 15; copy odd.par from stdin"),
        Until(b'G'),
        Data("41\n"),
        Done,
        Wait,
        Q("select count(*) from odd.par"),
    ],
    &[P("", "copy odd.par from stdin"), B("", "", &[], &[]), E("", 0), H, Until(b'G'), Ignored, Data("9\n"), Done, S],
    // Without a wait for the server to begin, which it does not.
    &[
        P("", "copy odd.nope from stdin"),
        B("", "", &[], &[]),
        E("", 0),
        S,
        Data("9\n"),
        Done,
        S,
        Wait,
        Q("insert into odd.ser (v) values ('after')"),
        Wait,
        Q("select * from odd.ser"),
    ],
    &[Q("copy odd.nope from stdin"), Data("9\n"), Done, Q("select 1")],
    &[Q("select 1/0"), Q("copy odd.par from stdin"), Until(b'G'), Data("9\n"), Done, Wait, Q("select * from odd.par")],
    &[
        Q("prepare s as insert into odd.ser (v) values ('sql') returning id"),
        P("s", "select 1"),
        S,
        Wait,
        B("", "s", &[], &[]),
        E("", 0),
        S,
        C("s"),
        P("s", "insert into odd.ser (v) values ($1) returning v"),
        S,
        Wait,
        Ds("s"),
        B("", "s", &["x"], &[]),
        Dp(""),
        E("", 0),
        S,
    ],
    &[
        P("s", "insert into odd.ser (v) values ($1)"),
        S,
        Q("discard all"),
        P("s", "insert into odd.two values ($1, 'b', 1)"),
        S,
        Wait,
        B("", "s", &["12"], &[]),
        E("", 0),
        S,
        Wait,
        Q("select * from odd.two"),
    ],
    &[
        P("", "insert into odd.ser (v) select note from odd.acc returning id"),
        B("", "", &[], &[]),
        E("", 2),
        E("", 3),
        S,
        Wait,
        Q("select count(*) from odd.ser"),
    ],
    // A simple Query drops the unnamed statement and portal, however it is run.
    &[P("", "select 1"), S, Wait, Q("insert into odd.ser (v) values ('a')"), Wait, B("", "", &[], &[]), E("", 0), S],
    &[P("", "select 1"), S, Wait, Q("insert into odd.ser (v) values (nope)"), Wait, B("", "", &[], &[]), E("", 0), S],
    &[
        Q("insert into odd.ser (id, v) select 1, 'a' union all select 1, 'b'"),
        Wait,
        B("", "", &[], &[]),
        E("", 0),
        S,
        Wait,
        Q("select 1"),
    ],
    &[
        Q("begin"),
        Wait,
        Q("insert into odd.ser (v) values ('a')"),
        Wait,
        E("", 0),
        S,
        Wait,
        Q("rollback"),
        Wait,
        B("", "", &[], &[]),
        S,
    ],
    &[
        P("", "insert into odd.par values ($1::int)"),
        S,
        Wait,
        Q("select 1"),
        Wait,
        B("", "", &[" 0012 "], &[]),
        E("", 0),
        S,
        Wait,
        Q("select * from odd.par"),
    ],
    // A portal of the transaction, behind messages that the server skips.
    &[
        Q("begin"),
        Wait,
        P("asks", "insert into odd.ser (v) values ($1)"),
        B("p", "asks", &["1"], &[]),
        S,
        Wait,
        Q("savepoint s"),
        Wait,
        P("bad", "nonsense"),
        P("reads", "select 1"),
        B("p", "reads", &[], &[]),
        S,
        Wait,
        Q("rollback to s"),
        Wait,
        E("p", 0),
        S,
        Wait,
        Q("commit"),
        Wait,
        Q("select * from odd.ser"),
    ],
    // What returns rows is described when it has run, or not at all.
    &[
        Q("insert into odd.ser (id, v) select 1, 'a' union all select 1, 'b' returning id"),
        Wait,
        Q("insert into odd.ser (v) values ('d'), ('e') returning id, 1 / (id - 6)"),
        Wait,
        Q("select 1; insert into odd.ser (v) values ('d') returning id; select v / (id - 3) from odd.acc"),
        Wait,
        Q("with w as (insert into odd.ser (v) values ('w') returning id) select 1 / (id - id) from w"),
        Wait,
        Q("select count(*) from odd.ser"),
    ],
    // What a hidden RETURNING may not read, or would not find.
    &[
        Q("set role odd_writer"),
        Wait,
        Q("insert into odd.log (v) values ('a')"),
        Wait,
        P("", "insert into odd.log (v) values ($1)"),
        B("", "", &["b"], &[]),
        Dp(""),
        E("", 0),
        S,
        Wait,
        Q("begin"),
        Q("insert into odd.log (v) select 'c'"),
        Q("commit"),
        Wait,
        Q("insert into odd.log (v) values ('d') returning id"),
        Wait,
        Q("reset role; insert into odd.log (v) values ('e')"),
        Wait,
        Q("insert into odd.log (v) values ('f') returning id"),
        Wait,
        Q("select * from odd.log"),
    ],
    &[
        Q("set search_path = odd; create temp table ser (x int)"),
        Wait,
        Q("insert into ser select 1"),
        Wait,
        P("", "insert into ser select 2"),
        B("", "", &[], &[]),
        E("", 0),
        S,
        Q("begin; drop table ser"),
        Q("insert into ser (v) values ('real')"),
        Q("rollback"),
        Wait,
        Q("update ser set x = 3; drop table ser; insert into ser (v) values ('real')"),
        Wait,
        Q("insert into ser (v) values ('real') returning id"),
        Wait,
        Q("select * from odd.ser"),
    ],
    // The server, reading a COPY, takes no Query.
    &[Q("copy odd.par from stdin"), Until(b'G'), Q("select 1")],
    &[Q("copy odd.par from stdin"), Q("insert into odd.ser (v) values ('x')")],
    &[
        P("", "insert into odd.par values ($1::int)"),
        B("", "", &[" 0012 "], &[]),
        E("", 0),
        S,
        Wait,
        B("", "", &["13"], &[]),
        E("", 0),
        S,
    ],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_statements_are_answered_byte_for_byte_as_without_tandem() {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    // The schema is made anew for every run of every script.
    let options = Options { config: vec!["fsync = off".to_owned()], ..Options::default() };
    let (origin, target) = (server_with("origin", &old, &options), server_with("target", &new, &options));
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    sql(&target_url, SETUP).await;
    sql(&origin_url, SETUP).await;
    let tandem = Tandem::start(&origin_url, &target_url, "").await;
    let mut wrong = Vec::new();
    for (number, script) in SCRIPTS.iter().enumerate() {
        sql(&origin_url, SETUP).await;
        let direct = run(origin.port(), script).await;
        sql(&origin_url, SETUP).await;
        let through = run(tandem.port, script).await;
        if direct != through {
            wrong.push(format!("script {number} {script:?}\n  direct  {direct:#?}\n  through {through:#?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} scripts differ:\n{}\n{}",
        wrong.len(),
        SCRIPTS.len(),
        wrong.join("\n"),
        tandem.log()
    );
}

async fn run(port: u16, script: &'static [M]) -> Vec<String> {
    let raw = tokio::task::spawn_blocking(move || {
        let answers = || Raw::connect(port).run(script).into_iter().map(show).collect();
        std::panic::catch_unwind(answers).unwrap_or_else(|panic| {
            vec![panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panicked".to_owned())]
        })
    });
    raw.await.expect("the thread ends")
}
