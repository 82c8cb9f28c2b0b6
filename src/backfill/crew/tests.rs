//! Leases under paused time.

use tokio::time::advance;

use super::message::{Copied, Doing, Seen};
use super::*;
use crate::backfill::work::{Chunk, Pass};
use crate::record::Side;

const LINGER: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(1);

fn crew() -> Crew {
    let crew = Crew::default();
    crew.open(Box::new(|_| Ok(())));
    crew
}

fn join(name: &str) -> Join {
    let seen = || Seen { cluster: "c".to_owned(), nodes: Vec::new() };
    let sides = Pair { origin: seen(), target: seen() };
    Join { name: name.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), connections: 1, sides }
}

fn comes(crew: &Crew, name: &str) -> u64 {
    crew.join(&join(name)).expect("it may").worker
}

fn task() -> Task {
    let chunk = Chunk::of(Pass::Copy, 8);
    Task { doing: Doing::Copy, primary: Side::Origin, chunk, read: 1, schema: 1 }
}

fn rows(rows: u64) -> Done {
    Done::Copied(Copied { rows, ..Copied::default() })
}

/// A worker waits, and is lent a chunk.
async fn lent(crew: &Crew, worker: u64) -> (Work, Loan) {
    let asks = crew.clone();
    let asks = tokio::spawn(async move { asks.take(worker).await });
    crew.waits().await;
    let loan = crew.seat(LINGER).expect("it waits").lend(task()).expect("it waits");
    let work = asks.await.expect("no panic").expect("it is known").expect("lent");
    (work, loan)
}

/// How a loan ends; what is said meanwhile is said before time goes on.
fn ends(loan: Loan) -> tokio::task::JoinHandle<Result<Copied, Lost>> {
    tokio::spawn(loan.copied())
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_did_in_its_lease_comes_back() {
    let crew = crew();
    let worker = comes(&crew, "w");
    let (work, loan) = lent(&crew, worker).await;
    let ended = ends(loan);
    // Far longer than a lease: it says that it works.
    for _ in 0..20 {
        advance(BEAT).await;
        assert_eq!(crew.beat(worker, &[work.loan]).expect("known"), [work.loan]);
    }
    crew.put(worker, work.loan, rows(7)).expect("in time");
    assert_eq!(ended.await.expect("no panic").expect("done").rows, 7);
    assert!(matches!(crew.put(worker, work.loan, rows(7)), Err(Refused::Late)), "once");
    let report = &crew.report()[0];
    assert_eq!((report.rows, report.chunks, report.under_way, report.lost, &*report.state), (7, 1, 0, 0, "waiting"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_loses_its_chunk_when_nothing_of_it_can_arrive_and_is_refused_from_the_end_of_its_lease() {
    let crew = crew();
    let worker = comes(&crew, "w");
    let (work, loan) = lent(&crew, worker).await;
    let began = Instant::now();
    let ended = ends(loan);
    advance(LEASE - TICK).await;
    assert!(!ended.is_finished());
    advance(TICK).await;
    assert!(matches!(crew.put(worker, work.loan, rows(7)), Err(Refused::Late)));
    assert_eq!(crew.beat(worker, &[work.loan]).expect("known"), [0_u64; 0], "it does not get it back");
    let lost = ended.await.expect("no panic").expect_err("lost");
    assert!(began.elapsed() >= LEASE + LINGER, "what it sent last may arrive: {:?}", began.elapsed());
    assert_eq!(lost.name, "w");
    assert!(matches!(crew.put(worker, work.loan, rows(7)), Err(Refused::Late)));
    // Whoever is free does it.
    let other = comes(&crew, "other");
    let (work, loan) = lent(&crew, other).await;
    crew.put(other, work.loan, rows(8)).expect("in time");
    assert_eq!(loan.copied().await.expect("done").rows, 8);
    assert_eq!(crew.report().iter().map(|worker| (worker.rows, worker.lost)).collect::<Vec<_>>(), [(0, 1), (8, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_a_worker_gives_back_or_leaves_is_lost_at_once() {
    let crew = crew();
    let worker = comes(&crew, "w");
    let began = Instant::now();
    let (work, loan) = lent(&crew, worker).await;
    crew.put(worker, work.loan, Done::Failed { why: "the target is away".to_owned() }).expect("in time");
    assert!(loan.copied().await.is_err_and(|lost| lost.to_string() == "worker w: the target is away"));
    let (_, loan) = lent(&crew, worker).await;
    crew.leave(worker);
    assert!(loan.copied().await.is_err());
    assert!(began.elapsed() < LEASE && !crew.is_there());
    assert!(matches!(crew.take(worker).await, Err(Refused::Unknown)));
    assert_eq!(crew.report()[0].state, "gone");
}

#[tokio::test(start_paused = true)]
async fn what_is_recalled_is_under_way_until_its_worker_says_otherwise_or_its_lease_is_over() {
    let crew = crew();
    let worker = comes(&crew, "w");
    for (says, drops) in [(true, true), (true, false), (false, true), (false, false)] {
        let (work, loan) = lent(&crew, worker).await;
        let loan = (!drops).then(|| ends(loan));
        let began = Instant::now();
        let recalled = crew.clone();
        let recalled = tokio::spawn(async move { recalled.recall().await });
        tokio::task::yield_now().await;
        advance(BEAT).await;
        assert_eq!(crew.beat(worker, &[work.loan]).expect("known"), [0_u64; 0], "it is to stop");
        assert!(!recalled.is_finished());
        if says {
            assert_eq!(crew.put(worker, work.loan, rows(7)).is_ok(), !drops, "what is done is done");
        }
        recalled.await.expect("no panic");
        assert_eq!(began.elapsed() < LEASE, says);
        assert!(says || began.elapsed() >= LEASE + LINGER);
        if let Some(loan) = loan {
            assert_eq!(loan.await.expect("no panic").is_ok(), says);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_seat_that_is_not_used_goes_on_waiting_and_one_that_left_gets_nothing() {
    let crew = crew();
    let worker = comes(&crew, "w");
    let asks = crew.clone();
    let asks = tokio::spawn(async move { asks.take(worker).await });
    crew.waits().await;
    drop(crew.seat(LINGER).expect("it waits"));
    let seat = crew.seat(LINGER).expect("it still does");
    asks.abort();
    assert!(asks.await.is_err());
    assert!(seat.lend(task()).is_none());
    assert!(crew.seat(LINGER).is_none() && crew.report()[0].under_way == 0);
    assert_eq!(crew.take(worker).await.expect("known"), None, "after a while it is to ask again");
}

#[test]
fn who_may_not_work_is_told_why() {
    let why = |crew: &Crew, join: &Join| crew.join(join).expect_err("refused").to_string();
    assert!(why(&Crew::default(), &join("w")).contains("for Cassandra"));
    let crew = Crew::default();
    crew.open(Box::new(|_| Err("another cluster".to_owned())));
    assert_eq!(why(&crew, &join("w")), "another cluster");
    let crew = self::crew();
    let old = Join { version: "0.0.1".to_owned(), ..join("w") };
    assert!(why(&crew, &old).contains("the worker 0.0.1"));
    assert!(why(&crew, &join("a\nb")).contains("name"));
    assert!(why(&crew, &Join { connections: 0, ..join("w") }).contains("--workers"));
    assert!((0..WORKERS_MAX).all(|n| crew.join(&join(&n.to_string())).is_ok()), "there is room");
    assert!(why(&crew, &join("w")).contains("no more"));
}
