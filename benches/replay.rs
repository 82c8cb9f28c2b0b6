//! What replaying a record costs beside the wire: reading it from the journal, its claims, its job, the watermark. The
//! secondary takes everything at once. Goal: 100 000 records for a second of processor time. Run on two busy cores, all five
//! rows together took 4.7 s of it for 1.5 million records, filling their journals included: three times the goal.
//!
//! `cargo bench --bench replay`

// It prints, and it measures real time.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem::journal::{Journal, Outcome};
use tandem::mirror::replay::{Applied, Applier, Config, Engine, Error, Job, Paths};
use tandem::record::{Backend, Lane, RecordBuf, TableId};
use tokio_util::sync::CancellationToken;

const RECORDS: u32 = 300_000;
const TABLE: TableId = TableId(1);
/// A small INSERT with its values.
const BODY: [u8; 200] = [7; 200];

/// Yields `.0` times, as a connection that is shared would.
struct Takes(u32);

impl Applier for Takes {
    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn apply(&self, _: &Job) -> Applied {
        for _ in 0..self.0 {
            tokio::task::yield_now().await;
        }
        Applied::Done
    }
}

fn main() {
    let free = |buf: &mut RecordBuf, _: u32| buf.write(TABLE, Lane::ANY, &BODY);
    let laned = |buf: &mut RecordBuf, n: u32| buf.write(TABLE, Lane::alone(u64::from(n % 1000 + 1) << 2), &BODY);
    let places = |buf: &mut RecordBuf, n: u32| buf.key(TABLE, &(n % 1000).to_le_bytes(), false);
    let hot = |buf: &mut RecordBuf, _: u32| buf.write(TABLE, Lane::alone(4), &BODY);
    println!("{:<32} {:>12} {:>12}", "records a second", "of processor", "of time");
    row("in any order, done at once", 0, free);
    row("in any order", 1, free);
    row("in 1000 lanes", 1, laned);
    row("1000 places", 1, places);
    row("in one lane, one at a time", 1, hot);
}

fn row(name: &str, yields: u32, build: impl Fn(&mut RecordBuf, u32)) {
    let (busy, took) = replay(yields, build);
    let rate = |time: Duration| f64::from(RECORDS) / time.as_secs_f64();
    println!("{name:<32} {:>12.0} {:>12.0}", rate(busy), rate(took));
}

/// Processor time of this process so far. Source: clock_gettime(2).
fn busy() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes only the struct, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time and time that a journal full of records takes.
fn replay(yields: u32, build: impl Fn(&mut RecordBuf, u32)) -> (Duration, Duration) {
    let journal = Journal::in_memory();
    let mut record = RecordBuf::default();
    for n in 0..RECORDS {
        record.clear();
        build(&mut record, n);
        journal.begin(record.finish(Backend { id: 1, life: 1 })).unwrap().end(Outcome::Committed);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let paths = Paths::in_memory();
        let (engine, handle) =
            Engine::new(Config::default(), journal.clone(), Arc::new(Takes(yields)), &paths).unwrap();
        let (began, before) = (Instant::now(), busy());
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        handle.settle(journal.appended()).await.unwrap();
        let measured = (busy() - before, began.elapsed());
        stop.cancel();
        running.await.unwrap();
        measured
    })
}
