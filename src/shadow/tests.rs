//! Sampler and service with a wire that answers as it is told. What holds under any schedule is in `simulation`.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backfill::Desk;
use crate::config::{Config, Live};
use crate::cutover::gate::{Gate, Route};
use crate::journal::{Entry, Journal, Lsn, Outcome};
use crate::mirror::{self, replay};
use crate::record::{Backend, Item, Reason, Record, RecordBuf, Side};

const TABLE: TableId = TableId(7);
/// What reads of it show rows of.
const PART: TableId = TableId(8);
const TABLES: &[(TableId, &str)] = &[(TABLE, "public.orders")];

/// A difference in a row of [`TABLE`].
pub(super) fn difference() -> Difference {
    Difference {
        how: How::OtherValue,
        table: Some(TABLE),
        name: "public.orders".to_owned(),
        key_hash: Some(1),
        columns: vec!["total".to_owned()],
        keys: Vec::new(),
        shown: None,
    }
}

/// A difference of the statement, whatever its values are.
fn of_all(how: How) -> Difference {
    Difference { how, key_hash: None, ..difference() }
}

/// This question shows another type, however often it is asked.
const STUBBORN: u32 = 99;

/// A board, with everything chosen.
pub(super) struct Stage {
    pub(super) board: Board,
    pub(super) live: Live,
    pub(super) gate: Gate,
    pub(super) journal: Journal,
    pub(super) mirror: mirror::Handle,
}

impl Stage {
    pub(super) fn new(change: impl FnOnce(&mut crate::config::Shadow)) -> Stage {
        let mut config = Config::from_text("proxy.toml", &crate::config::example(), []).expect("valid");
        change(&mut config.shadow);
        let live = Live::new(&config);
        live.change([("shadow.sample", "100%")].into_iter()).expect("allowed");
        let (gate, journal) = (Gate::new(route(1)), Journal::in_memory());
        let engine = replay::Config { self_repair: true, ..replay::Config::default() };
        let mirror = replay::Paths::in_memory().handle(&engine, journal.clone(), Desk::in_memory()).expect("new");
        let board = Board::new(&config.shadow, "test", live.clone(), gate.clone(), journal.clone());
        Stage { board, live, gate, journal, mirror }
    }

    /// With nothing chosen.
    pub(super) fn off() -> Stage {
        let stage = Stage::new(|_| {});
        stage.set("shadow.sample", "0");
        stage
    }

    /// The secondary has everything.
    pub(super) fn catch_up(&self) {
        self.mirror.show(mirror::Status { paid: self.journal.appended(), ..mirror::Status::default() });
    }

    pub(super) fn set(&self, key: &str, value: &str) {
        self.live.change([(key, value)].into_iter()).expect("allowed");
    }

    fn skips(&self) -> Vec<(Skip, u64)> {
        self.board.shapes().total().skips().collect()
    }
}

pub(super) fn route(epoch: u64) -> Route {
    Route { primary: Side::Origin, mirror: true, epoch }
}

pub(super) fn about() -> About<'static> {
    let client = Some("10.0.0.9".parse().expect("an address"));
    About { kind: "text", tables: TABLES.into(), client, user: "app", shape: "select * from orders where id = ?" }
}

/// A wire that answers from a list, then with the last of it; `None` never answers.
#[derive(Clone, Default)]
struct Scripted {
    repeats: Arc<Mutex<VecDeque<Option<Verdict>>>>,
    rechecks: Arc<Mutex<VecDeque<Rechecked>>>,
    asked: Arc<Notify>,
}

impl Scripted {
    fn new(repeats: impl Into<VecDeque<Option<Verdict>>>, rechecks: impl Into<VecDeque<Rechecked>>) -> Scripted {
        let (repeats, rechecks) = (Arc::new(Mutex::new(repeats.into())), Arc::new(Mutex::new(rechecks.into())));
        Scripted { repeats, rechecks, asked: Arc::default() }
    }

    fn differing(rechecks: impl Into<VecDeque<Rechecked>>) -> Scripted {
        Scripted::new([Some(Verdict::Differs(difference()))], rechecks)
    }
}

fn next<T: Clone>(list: &Mutex<VecDeque<T>>) -> T {
    let mut list = list.lock().expect("no test panics with it");
    if list.len() > 1 { list.pop_front() } else { list.front().cloned() }.expect("scripted")
}

impl Repeater for Scripted {
    type Read = u32;

    async fn repeat(&self, _: &u32, _: &Causal) -> Repeated {
        self.asked.notify_one();
        match next(&self.repeats) {
            Some(verdict) => Repeated { latency: Duration::from_millis(2), verdict },
            None => std::future::pending().await,
        }
    }

    async fn recheck(&self, read: &u32, causal: &Causal) -> Rechecked {
        match causal.reach().await {
            Ok(()) if *read == STUBBORN => Rechecked::Persists(of_all(How::OtherType)),
            Ok(()) => next(&self.rechecks),
            Err(why) => Rechecked::Skipped(why),
        }
    }

    fn question(&self, read: &u32) -> u64 {
        u64::from(*read)
    }

    fn shown_by(&self, tables: &[TableId]) -> Vec<TableId> {
        tables.iter().copied().chain([PART]).collect()
    }

    fn asker(&self, _: &u32) -> u64 {
        7
    }
}

/// A service that runs until it is dropped.
struct Running {
    stage: Stage,
    handle: Handle<u32>,
    _stop: tokio_util::sync::DropGuard,
}

impl Running {
    fn new(repeater: Scripted) -> Running {
        Running::with(Stage::new(|_| {}), repeater)
    }

    fn with(stage: Stage, repeater: Scripted) -> Running {
        let (handle, queue) = stage.board.open();
        let stop = CancellationToken::new();
        tokio::spawn(Service::new(queue, repeater, stage.mirror.clone()).run(stop.clone()));
        Running { stage, handle, _stop: stop.drop_guard() }
    }

    fn read(&self) {
        self.handle.sample(about).expect("chosen").submit(1);
    }

    /// Resolves when a shape says so. Paused time runs on meanwhile.
    async fn until(&self, what: impl Fn(&Shape) -> bool) {
        let seen = async {
            while !what(&self.stage.board.shapes().total()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3_600), seen).await.expect("it happens");
    }

    async fn until_skipped(&self, why: Skip) {
        self.until(|total| total.skips().any(|(skip, _)| skip == why)).await;
    }
}

#[test]
fn off_and_not_chosen_cost_neither_a_look_nor_an_allocation() {
    static ALLOCATED: AtomicU64 = AtomicU64::new(0);
    let stage = Stage::new(|_| {});
    let (handle, _queue) = stage.board.open::<u32>();
    let sample = |reads: u64| {
        std::thread::scope(|scope| {
            let read = || {
                // The first read of a thread seeds its dice.
                let never = || -> About<'static> { panic!("nobody asks what it is") };
                handle.sample(never).is_none().then_some(()).expect("not chosen");
                crate::allocations::count(&ALLOCATED);
                for _ in 0..reads {
                    assert!(handle.sample(never).is_none());
                }
            };
            scope.spawn(read).join().expect("it does not panic");
        });
    };
    stage.set("shadow.sample", "0");
    sample(1_000);
    // One in a million: among ten there is none, but for one run in a hundred thousand.
    stage.set("shadow.sample", "0.0001%");
    sample(10);
    assert_eq!(ALLOCATED.load(SeqCst), 0);
}

#[test]
fn about_the_share_that_was_asked_for_is_chosen() {
    let stage = Stage::new(|_| {});
    let (handle, _queue) = stage.board.open::<u32>();
    stage.set("shadow.sample", "25%");
    let chosen = (0..4_000).filter(|_| handle.sample(about).is_some()).count();
    assert!((800..1_200).contains(&chosen), "{chosen}");
}

#[test]
fn filters_choose_by_table_user_client_and_statement() {
    let stage = Stage::new(|_| {});
    let (handle, _queue) = stage.board.open::<u32>();
    let cases = [
        ("shadow.tables", "public.*", "audit.*"),
        ("shadow.users", "app,batch", "batch"),
        ("shadow.clients", "10.0.*", "10.1.*"),
        ("shadow.statements", "*from orders*", "*from users*"),
        ("shadow.statements", "text", "prepared"),
    ];
    for (key, takes, takes_not) in cases {
        stage.set(key, takes);
        assert!(handle.sample(about).is_some(), "{key} = {takes}");
        stage.set(key, takes_not);
        assert!(handle.sample(about).is_none(), "{key} = {takes_not}");
        stage.set(key, "");
    }
    stage.set("shadow.clients", "10.0.0.*");
    let mapped = || About { client: Some("::ffff:10.0.0.5".parse().expect("an address")), ..about() };
    assert!(handle.sample(mapped).is_some(), "of IPv4, by a listener of both families");
    stage.set("shadow.clients", "");
    stage.gate.open(Route { mirror: false, ..route(1) });
    assert!(handle.sample(about).is_none(), "nothing is mirrored");
    assert!(Handle::<u32>::off().sample(about).is_none());
}

#[test]
fn the_queue_is_bounded_in_reads_and_bytes_promise_12() {
    let stage = Stage::new(|shadow| {
        shadow.queue = 2;
        shadow.queue_bytes.0 = 100;
        shadow.max_answer.0 = 80;
    });
    let (handle, queue) = stage.board.open::<u32>();
    let (mut one, mut two) = (handle.sample(about).expect("room"), handle.sample(about).expect("room"));
    assert!(handle.sample(about).is_none());
    assert_eq!(stage.skips(), [(Skip::QueueFull, 1)]);
    assert!(one.keep(&[0; 50]) && one.reserve(30) && !one.keep(&[0]), "the answer is too large");
    assert!(!two.keep(&[0; 21]), "all answers are too large");
    assert_eq!(stage.board.queued(), (2, 80));
    one.submit(1);
    two.skip(Skip::Ties);
    assert_eq!(stage.skips(), [(Skip::QueueFull, 2), (Skip::AnswerTooLarge, 1)]);
    assert_eq!(stage.board.queued(), (0, 0));
    handle.sample(about).expect("room").submit(1);
    assert_eq!(stage.board.queued(), (1, 0));
    drop(queue);
    assert_eq!(stage.board.queued(), (0, 0));
}

#[test]
fn a_slot_that_is_not_submitted_is_counted() {
    let stage = Stage::new(|_| {});
    let (handle, queue) = stage.board.open::<u32>();
    drop(handle.sample(about));
    handle.sample(about).expect("room").skip(Skip::Volatile);
    drop(queue);
    handle.sample(about).expect("room").submit(1);
    assert_eq!(stage.skips(), [(Skip::Volatile, 1), (Skip::Abandoned, 1), (Skip::Stopped, 1)]);
    let mut slot = handle.sample(about).expect("room");
    assert!(slot.keep(b"ab") && slot.keep(b"c"));
    assert_eq!(slot.kept(), b"abc");
    assert_eq!(&*slot.take(), b"abc");
}

fn write(stage: &Stage) -> Lsn {
    let mut record = RecordBuf::default();
    record.key(TABLE, b"k", false);
    let ticket = stage.journal.begin(record.finish(Backend { id: 0, life: 0 })).expect("room");
    let lsn = ticket.lsn();
    ticket.end(Outcome::Committed);
    lsn
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_when_the_secondary_has_what_it_saw_promise_8() {
    let scripted = Scripted::new([Some(Verdict::Match)], []);
    let running = Running::new(scripted.clone());
    write(&running.stage);
    running.read();
    let early = tokio::time::timeout(Duration::from_secs(1), scripted.asked.notified()).await;
    assert!(early.is_err(), "asked before the secondary has the write");
    running.stage.catch_up();
    running.until(|total| total.matched() == 1).await;
    let total = running.stage.board.shapes().total();
    assert_eq!((total.primary.count(), total.secondary.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_secondary_that_stays_behind_is_not_compared() {
    let running = Running::new(Scripted::new([Some(Verdict::Match)], []));
    write(&running.stage);
    let began = Instant::now();
    running.read();
    running.until_skipped(Skip::Behind).await;
    assert!(began.elapsed() >= running.stage.board.config().wait);
    assert_eq!(running.stage.board.queued(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_secondary_that_does_not_answer_holds_only_its_workers() {
    let stage = Stage::new(|shadow| (shadow.workers, shadow.queue) = (1, 3));
    let running = Running::with(stage, Scripted::new([None], []));
    (0..3).for_each(|_| running.read());
    assert!(running.handle.sample(about).is_none(), "there is no room, and nobody waits for it");
    running.until(|total| total.skips().any(|skip| skip == (Skip::Timeout, 3))).await;
    assert_eq!(running.stage.board.queued(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_alike_or_noise_when_asked_again_is_no_mismatch() {
    let running = Running::new(Scripted::differing([
        Rechecked::Moved,
        Rechecked::Again(difference()),
        Rechecked::InFlight,
        Rechecked::Noise,
        Rechecked::Skipped(Skip::PrimaryFailed),
        Rechecked::Moved,
    ]));
    running.read();
    running.until(|total| total.in_flight() == 1).await;
    running.read();
    running.until(|total| total.noise() == 1).await;
    running.read();
    running.until_skipped(Skip::PrimaryFailed).await;
    running.read();
    running.until_skipped(Skip::Moving).await;
    assert!(running.stage.board.mismatches().list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_the_same_difference_for_long_enough_is_a_mismatch_promise_8() {
    let other = Difference { key_hash: Some(2), ..difference() };
    let looks: Vec<_> = (0..60).map(|look| if look % 3 == 2 { other.clone() } else { difference() }).collect();
    let running = Running::new(Scripted::differing(looks.into_iter().map(Rechecked::Again).collect::<Vec<_>>()));
    running.read();
    running.until_skipped(Skip::Moving).await;
    assert_eq!(running.stage.board.open_mismatches(), 0);

    let running = Running::new(Scripted::differing([Rechecked::Again(difference())]));
    let began = Instant::now();
    running.read();
    running.until(|total| total.mismatched() == 1).await;
    assert!(began.elapsed() >= running.stage.board.config().recheck);
    let entry = &running.stage.board.mismatches().list()[0];
    assert_eq!((entry.how, &*entry.name, entry.state(1)), (How::OtherValue, "public.orders", State::Open));
    assert_eq!(&*entry.statement, "select * from orders where id = ?");
}

/// Items of records that were appended.
async fn owed(stage: &Stage) -> Vec<(TableId, Option<Vec<u8>>)> {
    let (entries, _) = stage.journal.read(stage.journal.trimmed(), 1 << 20).await.expect("readable");
    let mut owed = Vec::new();
    for entry in entries {
        let Entry::Record { payload, .. } = entry else { continue };
        owed.extend(Record::parse(payload).expect("ours").items().map(|item| match item {
            Item::Key { table, key, .. } => (table, Some(key.to_vec())),
            other => (other.table(), None),
        }));
    }
    owed
}

#[tokio::test(start_paused = true)]
async fn a_mismatch_owes_its_keys_and_is_gone_when_both_sides_are_alike() {
    let found = Difference { keys: vec![b"k".as_slice().into()], ..difference() };
    let script = [Rechecked::Persists(found), Rechecked::Moved, Rechecked::InFlight];
    let running = Running::new(Scripted::differing(script));
    running.read();
    running.until(|total| total.mismatched() == 1).await;
    let mismatches = running.stage.board.mismatches();
    assert_eq!(mismatches.open(1), 1);
    // The follower asks when the secondary has what is owed now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(owed(&running.stage).await, [(TABLE, Some(b"k".to_vec()))]);
    assert_eq!(running.stage.mirror.dirty().len(), 0);
    running.stage.catch_up();
    while mismatches.open(1) > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(mismatches.list()[0].state(1), State::Gone);
}

/// Until it is true. Paused time runs on meanwhile.
async fn until(what: impl AsyncFn() -> bool) {
    let seen = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), seen).await.expect("it happens");
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_shown_again_are_owed_again_while_their_difference_is_open() {
    let found = Difference { keys: vec![b"k".as_slice().into()], ..difference() };
    let running = Running::new(Scripted::differing([Rechecked::Persists(found)]));
    for count in 1..3 {
        running.read();
        running.until(|total| total.mismatched() == count).await;
        until(async || owed(&running.stage).await.len() as u64 == count).await;
        running.stage.catch_up();
    }
    assert_eq!(running.stage.board.mismatches().list().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_question_that_is_alike_again_says_nothing_of_another() {
    let unkeyed = Difference { key_hash: None, ..difference() };
    let running = Running::new(Scripted::differing([Rechecked::Persists(unkeyed)]));
    for question in 1..3 {
        running.handle.sample(about).expect("chosen").submit(question);
        running.until(|total| total.mismatched() == u64::from(question)).await;
        running.stage.catch_up();
    }
    assert_eq!(running.stage.board.open_mismatches(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_one_question_still_shows_another_one_that_is_alike_does_not_end() {
    let running = Running::new(Scripted::differing([Rechecked::Persists(of_all(How::OtherType)), Rechecked::InFlight]));
    running.stage.catch_up();
    for (question, count) in [(1, 1), (STUBBORN, 2)] {
        running.handle.sample(about).expect("chosen").submit(question);
        running.until(|total| total.mismatched() == count).await;
    }
    tokio::time::sleep(Duration::from_secs(900)).await;
    let board = &running.stage.board;
    assert_eq!((board.open_mismatches(), board.mismatches().list().len(), board.queued()), (1, 1, (0, 0)));
}

#[test]
fn what_is_shown_while_it_is_asked_again_is_not_gone() {
    let mismatches = Mismatches::default();
    let note = || {
        let at = mismatches::At { primary: Side::Origin, epoch: 1 };
        mismatches.note((1, &"select".into()), 1, difference(), at)
    };
    let first = note();
    note();
    assert!(!mismatches.gone(first.id, first.sight) && mismatches.open(1) == 1);
}

#[tokio::test(start_paused = true)]
async fn what_copying_rows_does_not_mend_is_not_copied() {
    for how in [How::OtherOrder, How::OtherType, How::OtherError] {
        let found = Difference { how, key_hash: None, ..difference() };
        let running = Running::new(Scripted::differing([Rechecked::Persists(found)]));
        running.read();
        running.until(|total| total.mismatched() == 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((running.stage.mirror.dirty().len(), running.stage.board.open_mismatches()), (0, 1), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_lasts_among_others_that_do_not_is_found() {
    let of = |keys: &[&[u8]], hash| Difference {
        key_hash: Some(hash),
        keys: keys.iter().map(|key| (*key).into()).collect(),
        ..difference()
    };
    let looks = (0..60_u8).map(|look| Rechecked::Again(of(&[b"k", &[look]], look.into()))).collect::<Vec<_>>();
    let running = Running::new(Scripted::differing(looks));
    running.read();
    running.until(|total| total.mismatched() == 1).await;
    // Each look shows others: none of them lasts.
    let looks = (0..60_u8).map(|look| Rechecked::Again(of(&[&[look], &[look + 1]], look.into()))).collect::<Vec<_>>();
    let running = Running::new(Scripted::differing(looks));
    running.read();
    running.until_skipped(Skip::Moving).await;
}

#[tokio::test(start_paused = true)]
async fn one_difference_too_many_to_be_followed_is_counted_and_followed_when_it_is_seen_again() {
    let of_row = |row| Rechecked::Persists(Difference { key_hash: Some(row), ..difference() });
    let rows = service::FOLLOWED_MAX as u64 + 1;
    let script = Scripted::differing((0..rows).map(of_row).chain([Rechecked::InFlight]).collect::<Vec<_>>());
    let running = Running::new(script.clone());
    for row in 0..rows {
        running.read();
        running.until(|total| total.mismatched() == row + 1).await;
        running.stage.catch_up();
    }
    let board = &running.stage.board;
    let gone = async |left| {
        while board.open_mismatches() > left {
            running.stage.catch_up();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    gone(1).await;
    assert_eq!((board.open_mismatches(), board.unfollowed_mismatches()), (1, 1), "nobody says that it is gone");
    *script.rechecks.lock().expect("no test panics with it") = [of_row(rows - 1), Rechecked::InFlight].into();
    running.read();
    running.until(|total| total.mismatched() == rows + 1).await;
    gone(0).await;
    assert_eq!(board.unfollowed_mismatches(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mismatch_without_keys_makes_its_table_dirty_and_is_marked_once() {
    let running = Running::new(Scripted::differing([Rechecked::Persists(difference())]));
    running.read();
    running.until(|total| total.mismatched() == 1).await;
    running.stage.catch_up();
    running.read();
    running.until(|total| total.mismatched() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dirty = running.stage.mirror.dirty().get(TABLE).expect("marked");
    assert_eq!(dirty.reasons, [(Reason::Shadow, 1)]);
    assert_eq!(running.stage.board.mismatches().list()[0].count, 2);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_dirty_for_another_reason_is_no_news() {
    for table in [TABLE, PART] {
        let running = Running::new(Scripted::differing([Rechecked::Persists(difference())]));
        running.stage.mirror.dirty().mark(table, Reason::Uncaptured, Lsn(1)).await.expect("in memory");
        running.read();
        running.until_skipped(Skip::Dirty).await;
        assert!(running.stage.board.mismatches().list().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_flip_says_nothing_after_it() {
    let running = Running::new(Scripted::differing([Rechecked::Persists(difference())]));
    write(&running.stage);
    running.read();
    let early = running.handle.sample(about).expect("room");
    running.stage.gate.open(Route { primary: Side::Target, ..route(2) });
    early.submit(2);
    running.stage.catch_up();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let board = &running.stage.board;
    assert_eq!((board.queued(), board.mismatches().list().len()), ((0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn while_clients_are_held_nothing_is_asked() {
    let running = Running::new(Scripted::new([Some(Verdict::Match)], []));
    running.stage.gate.close();
    running.read();
    running.until_skipped(Skip::Switching).await;
}

#[tokio::test(start_paused = true)]
async fn a_switch_ends_what_is_under_way_as_soon_as_clients_are_held() {
    let scripted = Scripted::new([None], []);
    let running = Running::new(scripted.clone());
    running.read();
    scripted.asked.notified().await;
    write(&running.stage);
    running.read();
    let began = Instant::now();
    running.stage.gate.close();
    running.until(|total| total.skips().any(|skip| skip == (Skip::Switching, 2))).await;
    assert!(began.elapsed() < running.stage.board.config().timeout, "neither its time was over, nor the wait");
    assert_eq!(running.stage.board.queued(), (0, 0));
}
