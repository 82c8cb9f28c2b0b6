//! What replaying a record costs beside the wire: reading it from the journal, its claims, its job, the watermark. The
//! secondary takes everything at once. Goal: 100 000 records a second on one core.
//!
//! `cargo bench --bench replay`

// It prints, and it measures real time.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Instant;

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
    println!("in any order, done at once:      {:>9.0} records a second", replay(0, free));
    println!("in any order:                    {:>9.0} records a second", replay(1, free));
    println!("in 1000 lanes:                   {:>9.0} records a second", replay(1, laned));
    println!("1000 places:                     {:>9.0} records a second", replay(1, places));
    println!("in one lane, one at a time:      {:>9.0} records a second", replay(1, hot));
}

/// Records a second, of a journal that is full of them.
fn replay(yields: u32, build: impl Fn(&mut RecordBuf, u32)) -> f64 {
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
        let began = Instant::now();
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        handle.settle(journal.appended()).await.unwrap();
        let took = began.elapsed();
        stop.cancel();
        running.await.unwrap();
        f64::from(RECORDS) / took.as_secs_f64()
    })
}
