//! What payments cost, beside the least that the same servers can do.
//!
//! - A million keys of a narrow table, whose places on the target are empty, beside a bare binary COPY of the same rows
//!   by key into the same places, and beside that with the places emptied first. Goal: 0.8 of its rate; our own CPU at
//!   most 3 us a key.
//! - An idle cycle. Goal: 100 us.
//! - Small payments, which are most nights, beside one row written and committed on the target; neither waits for the
//!   disk, which would hide everything else.
//!
//! Arms take turns; medians are shown, and the best of each: servers and bench share the machine with whom it has
//! besides, so that absolutes say little.
//!
//! `cargo bench --bench payment`

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what it measured by the clock")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tandem::mirror::state::copier::{Copier, Owed};
use tandem::protocol::postgres::client::{Client, ServerConfig};
use tandem::protocol::postgres::copier::{Options, PgCopier};
use tandem::protocol::postgres::{key, wire};
use tandem::record::TableId;
use tandem::sandbox::{self, Postgres, Sandbox, binaries};

const ROWS: usize = 1_000_000;
const ROUNDS: usize = 5;
const SCHEMA: &str = "CREATE TABLE t (id int8 PRIMARY KEY, a int, v text, at timestamptz); CREATE TABLE one (n int); \
    INSERT INTO one VALUES (0)";
/// Keys in one statement of the bare COPY: small enough that one may be on its way while another is answered.
const BARE_KEYS: usize = 2_000;

struct Bench {
    from: Client,
    to: Client,
    copier: PgCopier,
}

fn config(server: &Postgres) -> ServerConfig {
    server.url("postgres").parse().expect("a URL")
}

fn owed(keys: std::ops::Range<usize>) -> Owed {
    let mut owed = Owed::default();
    let table = owed.keys.entry(TableId::of("public", "t")).or_default();
    for id in keys {
        let mut bytes = Vec::with_capacity(13);
        key::Layout::of([("id", "pg_catalog.int8")]).begin(&mut bytes);
        key::push(&mut bytes, &(id as i64).to_be_bytes());
        table.insert(bytes.into(), false);
    }
    owed
}

fn cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: getrusage fills the struct that it is given, and RUSAGE_SELF is always valid.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn ids(batch: usize) -> String {
    let mut ids = String::new();
    for id in batch * BARE_KEYS..(batch + 1) * BARE_KEYS {
        write!(ids, "{}{id}", if ids.is_empty() { "" } else { "," }).expect("written");
    }
    ids
}

impl Bench {
    async fn fsync(&mut self, on: bool) {
        self.to.simple(&format!("ALTER SYSTEM SET fsync = {on}")).await.expect("set");
        self.to.simple("SELECT pg_reload_conf()").await.expect("reloaded");
    }

    /// The target's places, empty, and both servers with nothing left to do.
    async fn empty(&mut self) {
        for sql in ["DELETE FROM t", "VACUUM t", "CHECKPOINT"] {
            self.to.simple(sql).await.expect(sql);
        }
        self.from.simple("CHECKPOINT").await.expect("a checkpoint");
    }

    /// COPY by key from here, COPY there; with `emptying` what is there is deleted by key before.
    async fn bare(&mut self, emptying: bool) -> Duration {
        let batches: Vec<String> = (0..ROWS / BARE_KEYS).map(ids).collect();
        let began = Instant::now();
        self.to.simple("BEGIN").await.expect("begun");
        for ids in batches.iter().filter(|_| emptying) {
            self.to.simple(&format!("DELETE FROM t WHERE id = ANY ('{{{ids}}}')")).await.expect("deleted");
        }
        let mut copy = self.to.copy_in("COPY t FROM STDIN (FORMAT binary)").await.expect("a COPY");
        let mut ask = batches
            .iter()
            .map(|ids| format!("COPY (SELECT * FROM t WHERE id = ANY ('{{{ids}}}')) TO STDOUT (FORMAT binary)"));
        let mut answers = 0;
        for sql in ask.by_ref().take(2) {
            self.from.put_query(&sql);
        }
        self.from.send().await.expect("sent");
        while answers < batches.len() {
            let message = self.from.recv().await.expect("a message");
            match message.kind {
                wire::back::COPY_DATA => {
                    // One file: the header of the first, the end of the last.
                    let header = message.body.starts_with(b"PGCOPY");
                    let trailer = message.body[..] == [0xff, 0xff];
                    if (!header || answers == 0) && (!trailer || answers + 1 == batches.len()) {
                        copy.write(&message.body).await.expect("written");
                    } else if header && message.body.len() > 19 {
                        copy.write(&message.body[19..]).await.expect("written");
                    }
                }
                wire::back::READY_FOR_QUERY => {
                    answers += 1;
                    if let Some(sql) = ask.next() {
                        self.from.put_query(&sql);
                        self.from.send().await.expect("sent");
                    }
                }
                _ => (),
            }
        }
        assert_eq!(copy.finish().await.expect("copied"), ROWS as u64);
        self.to.simple("COMMIT").await.expect("committed");
        began.elapsed()
    }

    /// How long it took, and our own CPU.
    async fn pay(&mut self, owed: &Owed) -> (Duration, Duration) {
        let (began, before) = (Instant::now(), cpu());
        self.copier.snapshot().await.expect("S");
        let paid = self.copier.pay(owed, false).await.expect("paid");
        assert_eq!(paid.rows, owed.keys.values().map(|keys| keys.len() as u64).sum::<u64>());
        (began.elapsed(), cpu() - before)
    }

    async fn million(&mut self, emptying: bool) {
        let all = owed(0..ROWS);
        let (mut bare, mut paid, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            if !emptying {
                self.empty().await;
            }
            bare.push(us(self.bare(emptying).await) / ROWS as f64);
            if !emptying {
                self.empty().await;
            }
            let (took, cpu) = self.pay(&all).await;
            paid.push(us(took) / ROWS as f64);
            own.push(us(cpu) / ROWS as f64);
        }
        let ratios = bare.iter().zip(&paid).map(|(bare, paid)| bare / paid).collect();
        let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{ROWS} keys {}: {:.2} of the rate of a bare COPY by key, best {:.2} ({:.2} and {:.2} us a key), own CPU {:.2} us a key",
            if emptying { "replaced" } else { "into emptied places" },
            median(ratios),
            best(&bare) / best(&paid),
            best(&paid),
            best(&bare),
            median(own)
        );
    }

    async fn idle(&mut self) {
        let (mut bare, mut cycles) = (Vec::new(), Vec::new());
        let mut own = Duration::ZERO;
        for _ in 0..3_000 {
            let began = Instant::now();
            self.from.simple("BEGIN; SELECT pg_current_wal_insert_lsn(); COMMIT").await.expect("answered");
            bare.push(us(began.elapsed()));
            let (began, before) = (Instant::now(), cpu());
            self.copier.snapshot().await.expect("S");
            self.copier.pay(&Owed::default(), false).await.expect("paid");
            cycles.push(us(began.elapsed()));
            own += cpu() - before;
        }
        let (cycle, bare) = (median(cycles), median(bare));
        println!(
            "idle cycle: {cycle:.0} us, {:.1} times a bare empty transaction, own CPU {:.0} us",
            cycle / bare,
            us(own) / 3_000.0
        );
    }

    async fn small(&mut self, keys: usize) {
        let some = owed(0..keys);
        let (mut bare, mut paid) = (Vec::new(), Vec::new());
        for _ in 0..500 {
            let began = Instant::now();
            self.to.simple("UPDATE one SET n = n + 1").await.expect("updated");
            bare.push(us(began.elapsed()));
            paid.push(us(self.pay(&some).await.0));
        }
        let (paid, bare) = (median(paid), median(bare));
        println!("payment of {keys} keys: {paid:.0} us, {:.1} times one row written bare ({bare:.0} us)", paid / bare);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let options = sandbox::Options {
        config: vec!["max_wal_size = 8GB".into(), "autovacuum = off".into()],
        ..sandbox::Options::default()
    };
    let origin = Postgres::start_new(&sandbox, &old, "origin", &options).expect("a server");
    let target = Postgres::start_new(&sandbox, &new, "target", &options).expect("a server");
    let mut from = Client::connect(&config(&origin)).await.expect("connects");
    let mut to = Client::connect(&config(&target)).await.expect("connects");
    from.simple(SCHEMA).await.expect("a schema");
    to.simple(SCHEMA).await.expect("a schema");
    let fill = format!(
        "INSERT INTO t SELECT i, i, 'value number ' || i, now() FROM generate_series(0, {}) i; ANALYZE t",
        ROWS - 1
    );
    from.simple(&fill).await.expect("rows");
    let mut copier = PgCopier::new(config(&origin), config(&target), Options::default());
    copier.open().await.expect("opens");
    let mut bench = Bench { from, to, copier };
    bench.pay(&owed(0..1)).await;
    bench.idle().await;
    bench.fsync(false).await;
    for keys in [1, 10] {
        bench.small(keys).await;
    }
    bench.fsync(true).await;
    bench.million(false).await;
    bench.million(true).await;
}
