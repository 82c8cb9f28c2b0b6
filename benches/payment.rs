//! What a payment costs beside a bare binary COPY of the same rows between the same servers; an idle cycle; a small
//! payment. Prints ratios; the servers share the machine, so absolutes say little.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what it measured by the clock")]

use std::time::{Duration, Instant};

use tandem::mirror::state::copier::{Copier, Owed};
use tandem::protocol::postgres::client::{Client, ServerConfig};
use tandem::protocol::postgres::copier::{Options, PgCopier};
use tandem::protocol::postgres::{key, wire};
use tandem::record::TableId;
use tandem::sandbox::{self, Postgres, Sandbox, binaries};

const ROWS: i64 = 1_000_000;
const SCHEMA: &str = "CREATE TABLE t (id int8 PRIMARY KEY, a int, v text, at timestamptz); \
    CREATE TABLE bare (id int8 PRIMARY KEY, a int, v text, at timestamptz)";

fn config(server: &Postgres) -> ServerConfig {
    server.url("postgres").parse().expect("a URL")
}

fn owed(keys: std::ops::Range<i64>) -> Owed {
    let mut owed = Owed::default();
    let table = owed.keys.entry(TableId::of("public", "t")).or_default();
    for id in keys {
        let mut bytes = Vec::with_capacity(13);
        key::Layout::of([("id", "pg_catalog.int8")]).begin(&mut bytes);
        key::push(&mut bytes, &id.to_be_bytes());
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

async fn bare_copy(from: &mut Client, to: &mut Client) -> Duration {
    let began = Instant::now();
    from.put_query("COPY t TO STDOUT (FORMAT binary)");
    from.send().await.expect("sent");
    let mut copy = to.copy_in("COPY bare FROM STDIN (FORMAT binary)").await.expect("a COPY");
    loop {
        let message = from.recv().await.expect("a message");
        match message.kind {
            wire::back::COPY_DATA => copy.write(&message.body).await.expect("written"),
            wire::back::READY_FOR_QUERY => break,
            _ => (),
        }
    }
    copy.finish().await.expect("copied");
    began.elapsed()
}

async fn pay(copier: &mut PgCopier, owed: &Owed) -> (Duration, u64) {
    let began = Instant::now();
    copier.snapshot().await.expect("S");
    let rows = copier.pay(owed).await.expect("paid").rows;
    (began.elapsed(), rows)
}

fn per(total: Duration, count: u32) -> f64 {
    total.as_secs_f64() * 1e6 / f64::from(count)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let options = sandbox::Options { config: vec!["max_wal_size = 8GB".into()], ..sandbox::Options::default() };
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
    pay(&mut copier, &owed(0..1)).await;

    let began = Instant::now();
    for _ in 0..2_000 {
        copier.snapshot().await.expect("S");
        copier.release().await.expect("released");
    }
    println!("idle cycle: {:.0} us", per(began.elapsed(), 2_000));
    let ten = owed(0..10);
    let began = Instant::now();
    for _ in 0..500 {
        pay(&mut copier, &ten).await;
    }
    println!("payment of 10 keys: {:.0} us", per(began.elapsed(), 500));

    let bare = bare_copy(&mut from, &mut to).await;
    println!("bare COPY of {ROWS} rows: {:.2} us a row", per(bare, ROWS as u32));
    let all = owed(0..ROWS);
    for round in ["empty", "full"] {
        let before = cpu();
        let (took, rows) = pay(&mut copier, &all).await;
        let own = cpu() - before;
        println!(
            "payment of {rows} keys into an {round} table: {:.2} us a key, {:.2} of bare COPY, own CPU {:.2} us a key",
            per(took, ROWS as u32),
            took.as_secs_f64() / bare.as_secs_f64(),
            per(own, ROWS as u32)
        );
    }
}
