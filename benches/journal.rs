//! What the journal costs: durable appends of 64 writers against the barest group commit that this disk allows, and
//! the price of an append that is written and not synced. Prints ratios; goals: at least 0.9, at most 5 us.
//!
//! `cargo bench --bench journal`; `TANDEM_BENCH_DIR` chooses the disk.

// It prints, and it measures real time.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::File;
use std::future::poll_fn;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tandem::journal::{Durability, Journal, Options, Outcome};
use tokio::sync::Notify;

const WRITERS: usize = 64;
const PAYLOAD: [u8; 200] = [7; 200];
/// Short, so that a noisy neighbour of the disk hits both arms alike; many, so that a median says something.
const ROUND: Duration = Duration::from_millis(250);
const ROUNDS: usize = 41;

fn main() {
    let base = std::env::var_os("TANDEM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let (bare, kept) = (Bare::new(&dir.path().join("bare")), Journal::open(&dir.path().join("journal"), options()));
    let (kept, _) = kept.unwrap();
    let runtime = runtime();
    let (mut ratios, mut rates) = (Vec::new(), [0.0; 2]);
    for _ in 0..ROUNDS {
        let turn = [bare.round(&runtime), journal(&kept, &runtime)];
        ratios.push(turn[1] / turn[0]);
        rates = [rates[0] + turn[0], rates[1] + turn[1]];
    }
    bare.end();
    ratios.sort_by(f64::total_cmp);
    println!(
        "durable append, {WRITERS} writers: {:.2} of a bare group commit (median of {ROUNDS} turns; in sum {:.2}, {:.0} and {:.0} a second)",
        ratios[ROUNDS / 2],
        rates[1] / rates[0],
        rates[1] / ROUNDS as f64,
        rates[0] / ROUNDS as f64
    );
    println!("written, not synced: {:.3} us", written(&dir.path().join("written")));
    println!("written, beside a running sync: {:.3} us", written_beside_sync(&dir.path().join("beside")));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Large enough for the whole run: trimming is not what is measured.
fn options() -> Options {
    Options { size_limit_bytes: 16 << 30, ..Options::default() }
}

/// Durable appends a second.
fn journal(journal: &Journal, runtime: &tokio::runtime::Runtime) -> f64 {
    let until = Instant::now() + ROUND;
    let counts = runtime.block_on(join_all((0..WRITERS).map(|_| async {
        let mut count = 0_u64;
        while Instant::now() < until {
            let mut ticket = journal.begin(&PAYLOAD).unwrap();
            poll_fn(|cx| ticket.poll_durable(cx)).await.unwrap();
            ticket.end(Outcome::Committed);
            count += 1;
        }
        count
    })));
    journal.trim(journal.appended());
    counts.iter().sum::<u64>() as f64 / ROUND.as_secs_f64()
}

/// The same work with nothing around it: a buffer, one thread that writes it into a prefilled file and syncs.
struct Bare {
    buffer: Mutex<Vec<u8>>,
    ready: Condvar,
    appended: AtomicU64,
    durable: AtomicU64,
    synced: Notify,
    stop: AtomicBool,
}

impl Bare {
    fn new(path: &Path) -> Arc<Bare> {
        let file = File::create_new(path).unwrap();
        (0..128).for_each(|n| file.write_all_at(&vec![0; 1 << 20], n << 20).unwrap());
        file.sync_all().unwrap();
        let bare = Arc::new(Bare {
            buffer: Mutex::default(),
            ready: Condvar::new(),
            appended: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            synced: Notify::new(),
            stop: AtomicBool::new(false),
        });
        thread::spawn({
            let bare = bare.clone();
            move || bare.sync(&file)
        });
        bare
    }

    /// Durable appends a second.
    fn round(&self, runtime: &tokio::runtime::Runtime) -> f64 {
        let until = Instant::now() + ROUND;
        let counts = runtime.block_on(join_all((0..WRITERS).map(|_| self.writer(until))));
        counts.iter().sum::<u64>() as f64 / ROUND.as_secs_f64()
    }

    fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ready.notify_one();
    }

    async fn writer(&self, until: Instant) -> u64 {
        let mut count = 0;
        while Instant::now() < until {
            let mine = self.append(16 + PAYLOAD.len());
            loop {
                let synced = self.synced.notified();
                tokio::pin!(synced);
                synced.as_mut().enable();
                if self.durable.load(Ordering::SeqCst) >= mine {
                    break;
                }
                synced.await;
            }
            // The outcome.
            self.append(24);
            count += 1;
        }
        count
    }

    fn append(&self, len: usize) -> u64 {
        let mut buffer = self.buffer.lock().unwrap();
        buffer.extend_from_slice(&[7; 256][..len]);
        if buffer.len() == len {
            self.ready.notify_one();
        }
        self.appended.fetch_add(len as u64, Ordering::SeqCst) + len as u64
    }

    fn sync(&self, file: &File) {
        let (mut at, mut batch) = (0, Vec::new());
        loop {
            let mut buffer = self.buffer.lock().unwrap();
            while buffer.is_empty() {
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                buffer = self.ready.wait_timeout(buffer, Duration::from_millis(100)).unwrap().0;
            }
            std::mem::swap(&mut *buffer, &mut batch);
            drop(buffer);
            file.write_all_at(&batch, at % (120 << 20)).unwrap();
            file.sync_data().unwrap();
            at += batch.len() as u64;
            self.durable.store(at, Ordering::SeqCst);
            self.synced.notify_waiters();
            batch.clear();
        }
    }
}

/// Microseconds of one `begin` and drop when nobody waits for the disk: less than fills the ring once.
fn written(dir: &Path) -> f64 {
    let options = Options { durability: Durability::Memory, ..Options::default() };
    let (journal, _) = Journal::open(dir, options).unwrap();
    let count = 8000;
    let began = Instant::now();
    (0..count).for_each(|_| drop(journal.begin(&PAYLOAD).unwrap()));
    began.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

/// The same while the sync thread runs without a pause; records that find no room are not counted.
fn written_beside_sync(dir: &Path) -> f64 {
    let (journal, _) = Journal::open(dir, Options::default()).unwrap();
    let (mut took, mut count) = (Duration::ZERO, 0_u32);
    for _ in 0..200 {
        let began = Instant::now();
        let fit = (0..200).filter(|_| journal.begin(&PAYLOAD).is_ok()).count();
        took += began.elapsed();
        count += fit as u32;
        thread::sleep(Duration::from_micros(500));
    }
    took.as_secs_f64() * 1e6 / f64::from(count)
}
