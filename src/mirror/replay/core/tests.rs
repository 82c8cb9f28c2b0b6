//! Events in, actions out: one rule a test.

use std::collections::BTreeSet;

use super::super::window::parked_at;
use super::*;
use crate::journal::Outcome;
use crate::mirror::durable::Durable;
use crate::mirror::parked::Entry as ParkedEntry;
use crate::mirror::waits::Waits;
use crate::record::Lane;

const T: TableId = TableId(1);
const U: TableId = TableId(2);

/// A core, the journal as it will be read, and the time.
struct Rig {
    core: Core,
    entries: Vec<Entry>,
    now: Instant,
    appended: u64,
}

impl Rig {
    fn new(config: Config) -> Rig {
        Rig::in_life(config, 0)
    }

    /// The journal's life begins at this position.
    fn in_life(config: Config, begun: u64) -> Rig {
        Rig::of_book(config, begun, Durable::in_memory("book"))
    }

    /// With what a process left before.
    fn of_book(config: Config, begun: u64, book: Durable) -> Rig {
        let now = Instant::now();
        let window = Window::new(Lsn(0), Lsn(begun), config.window_bytes);
        let file = Durable::in_memory;
        let ledgers = Ledgers {
            waits: Waits::default(),
            parked: Parked::open(file("parked"), config.parked_max).expect("absent"),
            dirty: Dirty::open(file("dirty")).expect("absent"),
            book: Book::open(book).expect("loads"),
        };
        let show = Box::new(|_: &Record, table: TableId| Shown { table: format!("{}", table.0), ..Shown::default() });
        let mut core = Core::new(config, window, ledgers, show, now);
        core.link = Link::Up;
        Rig { core, entries: Vec::new(), now, appended: 0 }
    }

    fn append(&mut self, entry: impl FnOnce(Lsn) -> Entry) -> Lsn {
        let lsn = Lsn(self.appended);
        self.entries.push(entry(lsn));
        self.appended += 1;
        lsn
    }

    /// A record whose outcome is open.
    fn open(&mut self, build: impl FnOnce(&mut RecordBuf)) -> Lsn {
        self.open_of(crate::record::Backend { id: 1, life: 1 }, build)
    }

    fn open_of(&mut self, backend: crate::record::Backend, build: impl FnOnce(&mut RecordBuf)) -> Lsn {
        let mut buf = RecordBuf::default();
        build(&mut buf);
        let payload = bytes::Bytes::copy_from_slice(buf.finish(backend));
        self.append(|lsn| Entry::Record { lsn, payload })
    }

    /// A key that we owe ourselves.
    fn owed(&mut self, key: &[u8]) -> Lsn {
        let lsn = self.open_of(crate::record::Backend { id: 0, life: 0 }, |r| r.key(T, key, false));
        self.end(lsn, Outcome::Committed);
        lsn
    }

    fn end(&mut self, of: Lsn, outcome: Outcome) {
        self.append(|lsn| Entry::Outcome { lsn, of, outcome });
    }

    fn committed(&mut self, build: impl FnOnce(&mut RecordBuf)) -> Lsn {
        let lsn = self.open(build);
        self.end(lsn, Outcome::Committed);
        lsn
    }

    /// Do all that is to be done but the jobs, which are named; the journal is read one entry at a time.
    fn jobs(&mut self) -> Vec<(Lsn, Certainty)> {
        let mut jobs = Vec::new();
        while let Some(action) = self.core.next(self.now, Lsn(self.appended)) {
            let at = |Lsn(from): Lsn| Ok((vec![self.entries[from as usize].clone()], Lsn(from + 1)));
            match action {
                Action::Apply(job) => jobs.push((job.lsn, job.certainty)),
                Action::Read(from) => self.core.read(at(from), self.now),
                Action::Scout(from) => self.core.scouted(at(from), self.now),
                Action::Save(records) => self.core.saved(records, Ok(()), self.now),
                Action::Open => self.core.opened(Ok(()), self.now),
            }
        }
        jobs
    }

    fn lsns(&mut self) -> Vec<Lsn> {
        self.jobs().into_iter().map(|(lsn, _)| lsn).collect()
    }

    fn came_back(&mut self, lsn: Lsn, applied: Applied) {
        self.core.applied(lsn, applied, self.now);
    }

    fn parked(&self) -> Vec<ParkedEntry> {
        self.core.parked.list()
    }

    fn dirty(&self) -> Vec<(TableId, Reason)> {
        let tables = self.core.dirty.list();
        tables.iter().flat_map(|dirty| dirty.reasons.iter().map(|(reason, _)| (dirty.table, *reason))).collect()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

fn refused() -> Applied {
    Applied::Reject("too large".into())
}

fn later() -> Applied {
    Applied::Retry("timeout".into())
}

#[tokio::test]
async fn a_unit_is_applied_when_it_committed_and_never_when_it_aborted_promise_2() {
    let mut rig = Rig::new(Config::default());
    let (first, second) = (rig.open(|r| r.write(T, Lane::ANY, b"a")), rig.open(|r| r.write(T, Lane::ANY, b"b")));
    assert_eq!(rig.jobs(), []);
    rig.end(first, Outcome::Aborted);
    rig.end(second, Outcome::Committed);
    assert_eq!(rig.jobs(), [(second, Certainty::Committed)]);
    rig.came_back(second, Applied::Done);
    assert_eq!(rig.core.window.applied(), Lsn(rig.appended));
}

#[tokio::test]
async fn a_unit_whose_outcome_is_open_is_in_the_way_of_its_lane_only() {
    let mut rig = Rig::new(Config::default());
    let open = rig.open(|r| r.write(T, Lane::alone(0x70), b"a"));
    let behind = rig.committed(|r| r.write(T, Lane::alone(0x70), b"b"));
    let beside = rig.committed(|r| r.write(T, Lane::alone(0x80), b"c"));
    assert_eq!(rig.lsns(), [beside]);
    rig.came_back(beside, Applied::Done);
    assert_eq!(rig.core.window.applied(), open, "what is open is kept");
    rig.append(|lsn| Entry::Dropped { lsn, of: open });
    assert_eq!(rig.jobs(), [(open, Certainty::Unknown)]);
    rig.came_back(open, Applied::Done);
    assert_eq!(rig.lsns(), [behind]);
}

#[tokio::test]
async fn a_unit_of_an_earlier_life_is_unknown_once_that_life_was_read_to_its_end_promise_3() {
    let mut rig = Rig::in_life(Config::default(), 3);
    let orphan = rig.open(|r| r.write(T, Lane::ANY, b"a"));
    let answered = rig.open(|r| r.write(T, Lane::ANY, b"b"));
    assert_eq!(rig.jobs(), []);
    rig.end(answered, Outcome::Committed);
    assert_eq!(rig.jobs(), [(answered, Certainty::Committed), (orphan, Certainty::Unknown)]);
    let open = rig.open(|r| r.write(T, Lane::ANY, b"c"));
    assert_eq!(rig.jobs(), [], "{open:?} is of this life");
}

#[tokio::test]
async fn a_refused_record_is_parked_and_its_lane_goes_on() {
    let mut rig = Rig::new(Config::default());
    let bad = rig.committed(|r| r.write(T, Lane::alone(0x70), b"a"));
    let behind = rig.committed(|r| r.write(T, Lane::alone(0x70), b"b"));
    assert_eq!(rig.lsns(), [bad]);
    rig.came_back(bad, refused());
    assert_eq!(rig.core.window.applied(), bad, "before it is written down it is not done");
    assert_eq!(rig.lsns(), [behind]);
    let parked = rig.parked();
    let again = parked[0].record.as_ref().expect("a record").bytes().to_vec();
    let again = Record::parse(again.into()).expect("a record");
    assert_eq!(parked_at(&again), Some(bad));
    assert!(again.items().eq([Item::Write { table: T, lane: Lane::alone(0x70), body: b"a" }]));
}

#[tokio::test]
async fn a_record_that_fails_rests_ever_longer_and_is_parked_when_its_patience_is_over() {
    let config = Config { patience: Duration::from_secs(60), ..Config::default() };
    let mut rig = Rig::new(config);
    let bad = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    let (mut attempts, began) = (0, rig.now);
    while rig.parked().is_empty() {
        let jobs = rig.lsns();
        assert!(jobs.is_empty() || jobs == [bad]);
        attempts += jobs.len();
        jobs.into_iter().for_each(|lsn| rig.came_back(lsn, later()));
        rig.wait(Duration::from_millis(10));
    }
    assert!(rig.now - began >= Duration::from_secs(60));
    assert!((10..30).contains(&attempts), "{attempts} attempts");
}

#[tokio::test]
async fn nobody_loses_patience_with_a_secondary_that_is_away() {
    let mut rig = Rig::new(Config::default());
    let slow = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [slow]);
    rig.came_back(slow, later());
    let lost = rig.committed(|r| r.write(T, Lane::ANY, b"b"));
    assert_eq!(rig.lsns(), [lost]);
    rig.came_back(lost, Applied::Lost("reset".into()));
    rig.wait(Duration::from_secs(3600));
    assert_eq!(rig.lsns().len(), 2);
    rig.came_back(slow, later());
    assert_eq!(rig.parked(), []);
}

#[tokio::test]
async fn nor_who_failed_before_it_went_away_and_was_on_its_way_then() {
    let mut rig = Rig::new(Config::default());
    let slow = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [slow]);
    rig.came_back(slow, later());
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.lsns(), [slow]);
    rig.came_back(slow, Applied::Lost("reset".into()));
    rig.wait(Duration::from_secs(3600));
    assert_eq!(rig.lsns(), [slow]);
    rig.came_back(slow, later());
    assert_eq!(rig.parked(), []);
}

#[tokio::test]
async fn what_needs_nodes_that_are_away_waits_for_them_however_long_and_however_much_waits_for_it() {
    let mut rig = Rig::new(Config { window_bytes: 600, ..Config::default() });
    let all: Vec<Lsn> = (0..20).map(|n| rig.committed(|r| r.write(T, Lane::ANY, &[n; 100]))).collect();
    for _ in 0..60 {
        for lsn in rig.lsns() {
            rig.came_back(lsn, Applied::Away("UNAVAILABLE".into()));
        }
        rig.wait(Duration::from_secs(60));
    }
    assert_eq!((rig.parked(), rig.dirty()), (vec![], vec![]));
    assert_eq!(rig.core.error().map(String::as_str), Some("UNAVAILABLE"));
    let mut done = Vec::new();
    for _ in 0..20 {
        for lsn in rig.lsns() {
            rig.came_back(lsn, Applied::Done);
            done.push(lsn);
        }
        rig.wait(Duration::from_secs(60));
    }
    assert_eq!(done, all);
}

#[tokio::test]
async fn the_journal_is_not_read_ahead_while_something_is_on_its_way() {
    let mut rig = Rig::new(Config { window_bytes: 300, ..Config::default() });
    let first = rig.committed(|r| r.write(T, Lane::alone(0x70), &[0; 200]));
    let second = rig.committed(|r| r.write(T, Lane::alone(0x70), &[1; 200]));
    assert_eq!(rig.lsns(), [first]);
    let scouted = rig.core.window.scouted();
    rig.committed(|r| r.write(T, Lane::alone(0x70), &[2; 200]));
    assert_eq!((rig.lsns(), rig.core.window.scouted(), rig.core.awaited(rig.now)), (vec![], scouted, None));
    rig.came_back(first, Applied::Done);
    assert_eq!(rig.lsns(), [second]);
}

#[tokio::test]
async fn a_lost_secondary_is_opened_anew_when_all_are_back_and_after_a_pause() {
    let mut rig = Rig::new(Config::default());
    let (a, b) = (rig.committed(|r| r.write(T, Lane::ANY, b"a")), rig.committed(|r| r.write(T, Lane::ANY, b"b")));
    assert_eq!(rig.lsns(), [a, b]);
    rig.came_back(a, Applied::Lost("reset".into()));
    assert_eq!((rig.core.link(), rig.lsns()), (Link::Losing, vec![]));
    rig.came_back(b, Applied::Done);
    let Link::Down(until) = rig.core.link() else { panic!("{:?}", rig.core.link()) };
    assert!(until > rig.now && rig.core.deadline(rig.now) == Some(until));
    assert_eq!(rig.core.error().map(String::as_str), Some("reset"));
    rig.now = until;
    assert_eq!(rig.lsns(), [a]);
    assert_eq!(rig.core.error(), None);
}

#[tokio::test]
async fn a_refused_barrier_holds_its_table_only_says_why_and_is_tried_again() {
    let mut rig = Rig::new(Config::default());
    let barrier = rig.committed(|r| r.ddl(T, b"TRUNCATE"));
    let behind = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    let beside = rig.committed(|r| r.write(U, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [barrier, beside]);
    rig.came_back(barrier, Applied::Reject("a node is down".into()));
    rig.came_back(beside, Applied::Done);
    assert_eq!(rig.lsns(), []);
    assert_eq!(rig.core.held().collect::<Vec<_>>(), [&Held { table: "1".into(), why: "a node is down".into() }]);
    assert!(rig.core.error().is_some_and(|why| why.contains("a node is down")));
    assert!(rig.parked()[0].record.as_ref().expect("a record").holds);
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.lsns(), [barrier]);
    rig.came_back(barrier, Applied::Done);
    assert_eq!(rig.lsns(), [behind]);
    assert!(rig.parked().is_empty() && rig.dirty().is_empty() && rig.core.error().is_none());
    assert!(rig.core.book.is_done(barrier, [T].into_iter()), "a restart does not do it again: promise 5");
}

#[tokio::test]
async fn what_a_barrier_wiped_is_not_done_again_by_the_next_process_promise_5() {
    let book = Durable::in_memory("book");
    let mut rig = Rig::of_book(Config::default(), 0, book.clone());
    let away = rig.committed(|r| r.write(U, Lane::ANY, b"a"));
    let wiped = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    let both = rig.committed(|r| {
        r.write(U, Lane::ANY, b"b");
        r.touch(T, Lane::ANY);
    });
    let barrier = rig.committed(|r| r.ddl(T, b"TRUNCATE"));
    let behind = rig.committed(|r| r.write(T, Lane::ANY, b"c"));
    assert_eq!(rig.lsns(), [away, wiped, both]);
    [wiped, both].into_iter().for_each(|lsn| rig.came_back(lsn, Applied::Done));
    assert_eq!(rig.lsns(), [barrier]);
    rig.came_back(barrier, Applied::Done);
    assert_eq!(rig.lsns(), [behind]);
    rig.core.book.saved().await.expect("saved");
    let Rig { entries, appended, .. } = rig;
    let mut next = Rig { entries, appended, ..Rig::of_book(Config::default(), appended, book) };
    assert_eq!(next.lsns(), [away, behind]);
}

#[tokio::test]
async fn a_refused_barrier_that_nothing_needs_is_listed_and_holds_nothing_up() {
    let mut rig = Rig::new(Config::default());
    let barrier = rig.committed(|r| r.ddl(TableId::NONE, b"CREATE TYPE"));
    let behind = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [barrier]);
    rig.came_back(barrier, Applied::Listed("it may not".into()));
    assert_eq!(rig.lsns(), [behind]);
    rig.came_back(behind, Applied::Done);
    assert_eq!((rig.core.held().len(), rig.dirty().len()), (0, 0));
    let parked = rig.parked();
    let entry = parked[0].record.as_ref().expect("a record");
    assert!(parked.len() == 1 && !entry.holds && parked[0].why == "it may not", "{parked:?}");
}

#[tokio::test]
async fn a_barrier_in_doubt_leaves_its_table_dirty_for_writes_may_have_come_before_it() {
    for (of, dirty) in [(T, vec![(T, Reason::Ddl)]), (TableId::NONE, vec![])] {
        let mut rig = Rig::new(Config::default());
        let barrier = rig.open(|r| r.ddl(of, b"TRUNCATE"));
        rig.append(|lsn| Entry::Dropped { lsn, of: barrier });
        let behind = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
        assert_eq!(rig.lsns(), [barrier]);
        rig.came_back(barrier, Applied::Done);
        assert_eq!(rig.lsns(), [behind]);
        assert_eq!(rig.dirty(), dirty);
    }
}

#[tokio::test]
async fn a_held_barrier_that_an_operator_discards_is_given_up_and_its_table_is_dirty() {
    let mut rig = Rig::new(Config::default());
    let barrier = rig.committed(|r| r.ddl(T, b"ALTER"));
    let behind = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [barrier]);
    rig.came_back(barrier, refused());
    assert_eq!(rig.lsns(), []);
    let id = rig.parked()[0].id();
    assert!(rig.core.parked.discard(&id).await.expect("in memory"));
    rig.core.nudged(rig.now);
    assert_eq!(rig.lsns(), [behind]);
    assert_eq!(rig.dirty(), [(T, Reason::Ddl)]);
    assert!(rig.parked().is_empty() && rig.core.held().len() == 0);
}

#[tokio::test]
async fn past_the_bound_of_parked_records_the_table_is_dirty_and_nothing_stops_promises_6_12() {
    let mut rig = Rig::new(Config { parked_table_max: 2, ..Config::default() });
    for _ in 0..4 {
        let bad = rig.committed(|r| {
            r.write(T, Lane::ANY, b"a");
            // Of no table, which is not every table.
            r.stamp(5);
            r.look(2);
        });
        assert_eq!(rig.lsns(), [bad]);
        rig.came_back(bad, refused());
    }
    assert_eq!(rig.lsns(), []);
    assert_eq!((rig.parked().len(), rig.dirty()), (2, vec![(T, Reason::Refused)]));
    assert!(rig.core.window.is_empty());
}

#[tokio::test]
async fn a_full_window_looks_ahead_for_the_outcomes_that_it_waits_for_promise_12() {
    let mut rig = Rig::new(Config { window_bytes: 1000, ..Config::default() });
    let open = rig.open(|r| r.write(T, Lane::alone(0x70), b"a"));
    let behind: Vec<Lsn> = (0..10).map(|_| rig.committed(|r| r.write(T, Lane::alone(0x70), b"b"))).collect();
    assert_eq!(rig.jobs(), []);
    assert!(rig.core.window.is_full() && rig.core.window.len() < 10);
    rig.end(open, Outcome::Committed);
    let mut done = Vec::new();
    while let [lsn] = rig.lsns()[..] {
        rig.came_back(lsn, Applied::Done);
        done.push(lsn);
    }
    assert_eq!(done, [&[open], &behind[..]].concat());
}

#[tokio::test]
async fn what_holds_up_a_full_window_gives_way_after_a_while_promise_6() {
    let mut rig = Rig::new(Config { window_bytes: 1000, ..Config::default() });
    let barrier = rig.committed(|r| r.ddl(T, b"ALTER"));
    for _ in 0..10 {
        rig.committed(|r| r.write(T, Lane::ANY, b"b"));
    }
    let beside = rig.committed(|r| r.write(U, Lane::ANY, b"a"));
    let mut seen = Vec::new();
    for _ in 0..100 {
        for lsn in rig.lsns() {
            rig.came_back(lsn, if lsn == barrier { refused() } else { Applied::Done });
            seen.push(lsn);
        }
        rig.wait(Duration::from_secs(1));
    }
    assert!(seen.contains(&beside), "the other table goes on");
    assert_eq!(rig.dirty(), [(T, Reason::Ddl)]);
    assert!(!rig.parked()[0].record.as_ref().expect("a record").holds);
    assert!(rig.core.window.is_empty());
}

#[tokio::test]
async fn a_dirty_mark_of_a_record_is_written_down_before_the_record_is_done() {
    let mut rig = Rig::new(Config::default());
    let mark = rig.committed(|r| r.dirty(T, Reason::Uncaptured));
    let aborted = rig.open(|r| r.dirty(U, Reason::Uncaptured));
    rig.end(aborted, Outcome::Aborted);
    assert_eq!(rig.jobs(), [], "there is nothing to apply");
    assert_eq!(rig.dirty(), [(T, Reason::Uncaptured)]);
    assert!(rig.core.window.applied() > mark);
}

#[tokio::test]
async fn nothing_is_handed_out_while_paused_or_beyond_the_bound() {
    let mut rig = Rig::new(Config { in_flight_max: 2, ..Config::default() });
    let all: Vec<Lsn> = (0..3).map(|_| rig.committed(|r| r.write(T, Lane::ANY, b"a"))).collect();
    rig.core.pace(true, false, rig.now);
    assert_eq!(rig.lsns(), []);
    rig.core.pace(false, false, rig.now);
    assert_eq!(rig.lsns(), all[..2]);
    rig.came_back(all[1], Applied::Done);
    assert_eq!(rig.lsns(), all[2..]);
}

#[tokio::test]
async fn while_clients_wait_nothing_rests_for_long() {
    let mut rig = Rig::new(Config::default());
    let slow = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    for _ in 0..10 {
        assert_eq!(rig.lsns(), [slow]);
        rig.came_back(slow, later());
        rig.now = rig.core.deadline(rig.now).expect("it rests");
    }
    assert_eq!(rig.lsns(), [slow]);
    rig.came_back(slow, later());
    assert_eq!(rig.lsns(), []);
    rig.core.pace(false, true, rig.now);
    assert_eq!(rig.lsns(), [slow]);
    rig.came_back(slow, later());
    rig.wait(Config::default().retry_min);
    assert_eq!(rig.lsns(), [slow]);
}

#[tokio::test]
async fn a_repair_that_the_secondary_refuses_is_parked_and_holds_nothing() {
    let mut rig = Rig::new(Config::default());
    let repair = rig.committed(|r| r.table(T));
    let behind = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [repair]);
    rig.came_back(repair, refused());
    assert_eq!(rig.lsns(), [behind]);
    assert_eq!((rig.parked().len(), rig.core.held().len()), (1, 0));
}

#[tokio::test]
async fn what_is_owed_again_and_refused_again_is_parked_once() {
    let mut rig = Rig::new(Config::default());
    for key in [b"a", b"a", b"b", b"a"] {
        let owed = rig.owed(key);
        assert_eq!(rig.lsns(), [owed]);
        rig.came_back(owed, refused());
    }
    let attempts: BTreeSet<u64> = rig.parked().iter().map(|entry| entry.attempts).collect();
    assert_eq!((rig.parked().len(), attempts), (2, BTreeSet::from([1, 3])));
    let owed = rig.owed(b"a");
    assert_eq!(rig.lsns(), [owed]);
    rig.came_back(owed, Applied::Done);
    assert_eq!(rig.parked().len(), 1, "it is on the secondary");
}

#[tokio::test]
async fn a_disk_that_fails_keeps_the_record_until_it_does_not() {
    let mut rig = Rig::new(Config::default());
    let bad = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [bad]);
    rig.came_back(bad, refused());
    let action = rig.core.next(rig.now, Lsn(rig.appended));
    assert!(matches!(&action, Some(Action::Save(records)) if *records == [bad]), "{action:?}");
    let error = durable::Error::Io { path: "parked".into(), source: std::io::ErrorKind::StorageFull.into() };
    rig.core.saved(vec![bad], Err(error), rig.now);
    assert_eq!((rig.lsns(), rig.core.window.applied()), (vec![], bad));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.lsns(), []);
    assert!(rig.core.window.is_empty());
}

#[tokio::test]
async fn a_record_of_a_newer_tandem_stops_the_reading_and_is_read_when_that_is_mended() {
    let mut rig = Rig::new(Config::default());
    let first = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    rig.append(|lsn| Entry::Record { lsn, payload: bytes::Bytes::from_static(&[9]) });
    assert_eq!(rig.lsns(), [first], "what was read is applied");
    assert!(rig.core.error().is_some_and(|why| why.contains("version 9")));
    assert_eq!(rig.core.window.next(), Lsn(2));
}

#[tokio::test]
async fn the_journal_keeps_what_is_done_for_as_long_as_is_configured() {
    let mut rig = Rig::new(Config { retention: Duration::from_secs(5), ..Config::default() });
    let done = rig.committed(|r| r.write(T, Lane::ANY, b"a"));
    assert_eq!(rig.lsns(), [done]);
    rig.came_back(done, Applied::Done);
    assert_eq!(rig.core.release(rig.now, Lsn(0)), None);
    rig.wait(Duration::from_secs(5));
    assert_eq!(rig.core.release(rig.now, Lsn(0)), Some(Lsn(rig.appended)));
    assert!(rig.core.book.is_done(done, [T].into_iter()));
}
