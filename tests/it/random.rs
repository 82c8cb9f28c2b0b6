//! Scripts that nobody thought of: statements and messages drawn by a seed, in any order, pipelined or not, sent direct to
//! one server and through tandem to another. The answers are equal byte for byte, and origin and target in the end.
//! `TANDEM_SCRIPTS=10000` draws more.

use ::tandem::sandbox::{Options, binaries};

use crate::support::raw::{M, M::*, Raw};
use crate::support::{rows, server_with, sql, tandem::Tandem};
use crate::transcript::SETUP;

/// What every script begins with.
const RESET: &str = "
    TRUNCATE odd.acc, odd.ser, odd.log, odd.two, odd.par, odd.chi, odd.ser_chi, odd.part RESTART IDENTITY;
    INSERT INTO odd.acc SELECT i, i, 'n' || i FROM generate_series(1, 20) i;
    INSERT INTO odd.par VALUES (1), (2);";
const TABLES: &[&str] = &["acc", "ser", "log", "two", "par", "chi", "ser_chi", "part"];

/// For simple Queries.
const TEXTS: &[&str] = &[
    "begin",
    "begin",
    "begin",
    "commit",
    "commit",
    "rollback",
    "savepoint a",
    "rollback to a",
    "release a",
    "commit and chain",
    "rollback and chain",
    "begin; insert into odd.ser (v) values ('x'); commit; select 1",
    "insert into odd.ser (v) values ('1'); select 1/0",
    "insert into odd.ser (v) values ('1'); commit; insert into odd.ser (v) values ('2')",
    "insert into odd.ser (v) values ('1'); rollback; insert into odd.ser (v) values ('2'); select 1/0",
    "insert into odd.ser (v) values ('1'); begin; update odd.acc set v = 7 where id = 1",
    "select 1; select 2",
    "",
    "select 1/0",
    "select nope",
    "selec",
    "select count(*) from odd.ser",
    "select * from odd.acc where id < 4 order by id",
    "update odd.acc set v = v + 1 where id = 3",
    "update odd.acc set v = v + 1 where v > 17",
    "update odd.acc set id = id + 100 where id = 5",
    "update odd.acc set note = 'n2' where id = 4",
    "delete from odd.acc where id in (7, 8)",
    "delete from odd.acc where v = 12 returning note",
    "insert into odd.acc values (1, 1, 'd')",
    "insert into odd.acc values (200, 1, 'a') on conflict (id) do update set v = odd.acc.v + 1",
    "insert into odd.acc values (201, 1, 'n2') on conflict (note) do update set v = 9 returning *",
    "insert into odd.acc values (202, 1, 'n3') on conflict do nothing returning id",
    "insert into odd.ser (v) values ('a')",
    "insert into odd.ser (v) values ('b'), ('c') returning *",
    "insert into odd.ser (v) select note from odd.acc where id < 4 returning id",
    "insert into odd.ser (v) values (nope)",
    "insert into odd.ser default values",
    "with x as (delete from odd.acc where id = 9 returning *) insert into odd.ser (v) select note from x returning v",
    "delete from odd.par where id = 1",
    "insert into odd.chi values (1, 1), (2, 2) on conflict do nothing",
    "insert into odd.ser_chi (p) values (2)",
    "insert into odd.ser_chi (p) values (99)",
    "set constraints all immediate",
    "update odd.view set v = v + 1 where id = 2",
    "insert into odd.part (k) values (3), (13) returning *",
    "insert into odd.part (k) values (99)",
    "update odd.part set k = k + 10 where k < 5",
    "truncate odd.two",
    "prepare p1 as insert into odd.ser (v) values ($1)",
    "prepare p2 as update odd.acc set v = $2 where id = $1",
    "execute p1('q')",
    "execute p2(6, 66)",
    "deallocate p1",
    "deallocate all",
    "discard all",
    "update odd.acc a set v = s.id from odd.ser s where s.id = a.id returning a.id, s.v",
    "declare c cursor for select id from odd.acc order by id",
    "fetch 2 from c",
    "update odd.acc set v = 0 where current of c",
    "set search_path = odd",
    "set local search_path = odd",
    "reset search_path",
    "insert into ser (v) values ('path')",
    "update acc set v = 1 where id = 10",
    "do $$ begin insert into odd.ser (v) values ('do'); end $$",
    "do $$ begin raise exception 'no'; end $$",
    "create temp table ser (id int primary key, v text)",
    "drop table if exists pg_temp.ser",
    "merge into odd.acc a using odd.ser s on a.id = s.id when matched then update set v = 1 \
     when not matched then insert values (s.id + 500, 0, null)",
];

/// For Parse, with parameters that fit.
const PREPARED: &[(&str, &[&str])] = &[
    ("insert into odd.ser (v) values ($1)", &["x"]),
    ("insert into odd.ser (v) values ($1) returning id", &["y"]),
    ("insert into odd.ser (v) select note from odd.acc where id < $1::int returning *", &["4"]),
    ("update odd.acc set v = $1::int where id = $2::int", &["5", "6"]),
    ("update odd.acc set v = $1 where id = $2", &["5", "6"]),
    ("update odd.acc set v = v where note = $1", &["n4"]),
    ("update odd.acc set v = 1 where id = $1", &["no number"]),
    ("delete from odd.acc where id = $1::int", &["11"]),
    ("delete from odd.acc where id = $1 returning *", &["13"]),
    ("select v from odd.acc where id = $1::int", &["2"]),
    ("select id from odd.acc order by id", &[]),
    ("select 1/$1::int", &["0"]),
    ("begin", &[]),
    ("commit", &[]),
    ("rollback", &[]),
    ("savepoint a", &[]),
    ("rollback to a", &[]),
    ("insert into odd.two values ($1::int, $2, 1) on conflict (a, b) do update set v = odd.two.v + 1", &["1", "k"]),
    ("insert into odd.acc (id) values ($1::int)", &["1"]),
    ("insert into odd.part (k) values ($1)", &["4"]),
    ("insert into odd.ser (v) values ($1)", &[]),
    ("selec", &[]),
    ("", &[]),
];

const NAMES: &[&str] = &["", "", "", "s1", "s2"];
const PORTALS: &[&str] = &["", "", "", "c1"];
const FORMATS: &[&[i16]] = &[&[], &[], &[0], &[1]];

/// Draws; the same seed draws the same (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    /// A few messages that belong together, sometimes with one missing.
    fn group(&mut self, script: &mut Vec<M>) {
        let (text, params) = self.one(PREPARED);
        let (name, portal) = (self.one(NAMES), self.one(PORTALS));
        let parts = [
            P(name, text),
            B(portal, name, params, self.one(FORMATS)),
            if self.roll(2) == 0 { Dp(portal) } else { Ds(name) },
            E(portal, self.one(&[0, 0, 0, 1])),
        ];
        for (at, part) in parts.into_iter().enumerate() {
            // Describe is often left out, the others seldom. Without its Bind an Execute would run a portal again, which
            // is refused where the statement has no RETURNING, and so not where it has a hidden one.
            match self.roll(if at == 2 { 2 } else { 12 }) {
                0 if at == 1 => break,
                0 => {}
                _ => script.push(part),
            }
        }
        match self.roll(12) {
            0 => script.push(C(name)),
            1 => script.push(H),
            _ => {}
        }
    }

    fn script(&mut self) -> Vec<M> {
        let mut script = Vec::new();
        for _ in 0..2 + self.roll(9) {
            if self.roll(2) == 0 {
                script.push(Q(self.one(TEXTS)));
            } else {
                for _ in 0..1 + self.roll(3) {
                    self.group(&mut script);
                }
                script.push(S);
            }
            if self.roll(2) == 0 {
                script.push(Wait);
            }
        }
        script
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_messages_are_answered_byte_for_byte_as_without_tandem() {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |text| text.parse().expect("a number"));
    let (scripts, first) = (number("TANDEM_SCRIPTS", 100), number("TANDEM_SEED", 1));
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let options = Options { config: vec!["fsync = off".to_owned()], ..Options::default() };
    let direct = server_with("direct", &old, &options);
    let (origin, target) = (server_with("origin", &old, &options), server_with("target", &new, &options));
    for server in [&direct, &origin, &target] {
        sql(&server.url("postgres"), SETUP).await;
    }
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), "").await;
    for seed in first..first + scripts {
        let script = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).script();
        sql(&direct.url("postgres"), RESET).await;
        sql(&tandem.url("postgres"), RESET).await;
        let (plain, through) = (Raw::answers(direct.port(), &script).await, Raw::answers(tandem.port, &script).await);
        let same = plain.iter().zip(&through).take_while(|(plain, through)| plain == through).count();
        assert!(
            plain == through,
            "seed {seed}, answer {same}:\n  {script:?}\n  direct  {:#?}\n  through {:#?}\n{}",
            &plain[same..plain.len().min(same + 3)],
            &through[same..through.len().min(same + 3)],
            tandem.log()
        );
    }
    tandem.settled().await;
    for table in TABLES {
        let query = format!("SELECT t::text FROM odd.{table} t ORDER BY 1");
        let [direct, origin, target] = [&direct, &origin, &target].map(|server| server.url("postgres"));
        let expected = rows(&direct, &query).await;
        assert_eq!(rows(&origin, &query).await, expected, "{table} of the origin");
        assert_eq!(rows(&target, &query).await, expected, "{table} of the target\n{}", tandem.log());
    }
}
