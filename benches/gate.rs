//! What the gate costs a unit while it is open, and what a flip costs held sessions: how long the opener is busy, and
//! when the last of them is in. Goal: at most 50 ns for a unit.
//!
//! `cargo bench --bench gate`

// It prints, and it measures real time.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tandem::cutover::gate::{Gate, Route};
use tandem::record::Side;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

const UNITS: u32 = 5_000_000;
const ROUNDS: usize = 21;

fn main() {
    println!("a unit in and out, one session:         {:>6.1} ns", units(1));
    println!("a unit in and out, two on two threads:  {:>6.1} ns", units(2));
    for (sessions, workers) in [(1_000, 1), (1_000, 2), (10_000, 2)] {
        let mut rounds: Vec<Flip> = (0..ROUNDS).map(|_| flip(sessions, workers)).collect();
        rounds.sort_by_key(|flip| flip.last);
        let Flip { drained, opened, last } = rounds[ROUNDS / 2];
        println!(
            "{sessions} held on {workers} workers: drained in {drained:?}, opened in {opened:?}, the last is in after {last:?}"
        );
    }
}

fn gate() -> Gate {
    Gate::new(Route { primary: Side::Origin, mirror: true, epoch: 1 })
}

/// Nanoseconds of one unit, each thread with a session of its own.
fn units(threads: u32) -> f64 {
    let gate = gate();
    let run = |gate: Gate| {
        let slot = gate.slot();
        for _ in 0..UNITS {
            black_box(slot.try_enter().unwrap().route());
        }
    };
    let began = Instant::now();
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| run(gate.clone())))));
    began.elapsed().as_nanos() as f64 / f64::from(UNITS)
}

/// Medians of one flip.
#[derive(Clone, Copy)]
struct Flip {
    drained: Duration,
    opened: Duration,
    last: Duration,
}

/// Sessions as tandem has them: tasks on single-threaded workers.
fn flip(sessions: usize, workers: usize) -> Flip {
    let gate = gate();
    gate.close();
    let waiting = Arc::new(AtomicUsize::new(0));
    let (ends, ended): (Vec<_>, Vec<_>) = (0..workers).map(|_| oneshot::channel()).unzip();
    let threads: Vec<_> = ends
        .into_iter()
        .map(|end| {
            let (gate, waiting) = (gate.clone(), waiting.clone());
            thread::spawn(move || worker(&gate, sessions / workers, &waiting, end))
        })
        .collect();
    while waiting.load(Ordering::SeqCst) < sessions {
        thread::sleep(Duration::from_millis(1));
    }
    // They have said that they will wait; now they do.
    thread::sleep(Duration::from_millis(20));
    let began = Instant::now();
    runtime().block_on(gate.drained());
    let drained = began.elapsed();
    let began = Instant::now();
    gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
    let opened = began.elapsed();
    let last = runtime().block_on(join_all(ended)).into_iter().map(Result::unwrap).max().unwrap() - began;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Flip { drained, opened, last }
}

fn worker(gate: &Gate, sessions: usize, waiting: &AtomicUsize, end: oneshot::Sender<Instant>) {
    runtime().block_on(async {
        let tasks: Vec<_> = (0..sessions)
            .map(|_| {
                let slot = gate.slot();
                tokio::spawn(async move { drop(slot.enter().await) })
            })
            .collect();
        waiting.fetch_add(sessions, Ordering::SeqCst);
        join_all(tasks).await;
        end.send(Instant::now()).unwrap();
    });
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}
