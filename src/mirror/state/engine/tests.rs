//! What the loop does while it is paused, while something is locked, and while a schema change takes long.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::copier::Waiting;
use super::*;
use crate::backfill::work::{Landed, Outcome, Surveyed};
use crate::backfill::{Kind, Request, State};
use crate::journal::storage::MemoryDisk;
use crate::mirror::handle::owe;
use crate::mirror::state::copier::{Gone, Idle, Owed, Refused, Renamed};
use crate::record::{Backend, RecordBuf};

#[tokio::test(start_paused = true)]
async fn a_paused_engine_keeps_its_connections() {
    let (idle, config) = (Idle::default(), Config::default());
    let heartbeat = config.heartbeat;
    let made = Engine::new(config, Journal::in_memory(), idle.clone(), Paths::in_memory());
    let (engine, handle) = made.expect("files load");
    handle.pause();
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    sleep(heartbeat * 6 + heartbeat / 2).await;
    assert_eq!(idle.beats.load(Ordering::Relaxed), 6);
    stop.cancel();
    running.await.expect("ends");
}

/// Pays everything at once, and has one table to walk over.
#[derive(Default)]
struct Pays {
    snapshots: Arc<AtomicU64>,
    walks: Arc<AtomicU64>,
    locked: bool,
    /// Columns of the table that cannot be compared.
    not_compared: Vec<String>,
    /// Each payment meets another schema.
    moves: bool,
    /// Payments meet a lock of the table.
    held: Arc<AtomicBool>,
    /// The secondary is away.
    away: Arc<AtomicBool>,
    /// Whoever is asked about is gone.
    all_gone: bool,
    /// What it keeps of the journal.
    place: Option<Place>,
    /// Its payments.
    payments: u64,
    /// The primary's database and timeline.
    primary: (u64, u64),
    /// The primary's transactions.
    under_way: Arc<std::sync::Mutex<BTreeSet<String>>>,
    seen: Arc<std::sync::Mutex<Seen>>,
}

const TABLE: TableId = TableId(1);
/// Its rows go along with the table's.
const ALONG: TableId = TableId(3);
/// It gives the table another name.
const RENAME: &[u8] = b"ALTER TABLE t RENAME TO u";
const RENAMED: TableId = TableId(9);

impl Copier for Pays {
    async fn open(&mut self) -> Result<Standing, copier::Error> {
        if self.away.load(Ordering::Relaxed) {
            return Err(copier::Error::Secondary("away".into()));
        }
        let ((identity, timeline), payments, place) = (self.primary, self.payments, self.place);
        Ok(Standing { life: 1, timeline, identity, place, payments, ..Standing::default() })
    }

    async fn gone<'a>(&'a mut self, asked: &'a [Backend], _: &'a [Box<[u8]>]) -> Result<Gone, copier::Error> {
        let backends = if self.all_gone { asked.to_vec() } else { Vec::new() };
        Ok(Gone { backends, ..Gone::default() })
    }

    async fn snapshot(&mut self) -> Result<Snapshot, copier::Error> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_micros(50)).await;
        Ok(Snapshot { written: 0, flushed: 0 })
    }

    async fn pay<'a>(&'a mut self, owed: &'a Owed, _: bool) -> Result<Paid, copier::Error> {
        if self.moves {
            return Err(copier::Error::Stale("a table was moved".into()));
        }
        let mut seen = self.seen.lock().expect("no panic");
        seen.paid.extend(owed.keys.values().flat_map(HashMap::keys).map(|key| key.to_vec()));
        seen.changes.extend(owed.ddl.iter().map(|(_, body)| body.to_vec()));
        seen.claims += u64::from(owed.claims);
        let in_doubt = |body: &[u8]| Refused {
            table: TableId::NONE,
            name: "view v".into(),
            key: Some(body.into()),
            shown: String::new(),
            why: "nobody knows".into(),
        };
        let refused = owed.doubted.iter().map(|(_, body)| in_doubt(body)).collect();
        seen.keys = seen.keys.max(owed.keys.values().map(HashMap::len).sum());
        let is_other = |table: &&TableId| **table != TABLE;
        seen.others += owed.keys.keys().filter(is_other).map(|table| owed.keys[table].len()).sum::<usize>();
        let renames = owed.repeated.iter().filter(|(_, body)| **body == *RENAME);
        let renamed = renames.map(|_| Renamed { from: TABLE, to: RENAMED, name: "u".into(), is_gone: true }).collect();
        let mut paid = Paid { refused, renamed, payments: self.payments, ..Paid::default() };
        let is_owed = owed.keys.contains_key(&TABLE) || owed.tables.contains(&TABLE);
        if is_owed && self.held.load(Ordering::Relaxed) {
            let (name, why) = ("t".to_owned(), "waits for a lock".to_owned());
            paid.waiting.push(Waiting { name, why, owed: vec![TABLE], along: vec![ALONG] });
        } else if owed.tables.contains(&TABLE) {
            seen.whole = Some(owed.lost.contains(&TABLE));
        }
        Ok(paid)
    }

    async fn under_way(&mut self) -> Result<BTreeSet<String>, copier::Error> {
        Ok(self.under_way.lock().expect("no panic").clone())
    }

    async fn survey(&mut self) -> Result<Vec<Surveyed>, copier::Error> {
        if self.locked {
            sleep(Duration::from_secs(2)).await;
            return Err(copier::Error::Stale("55P03 canceling statement due to lock timeout".into()));
        }
        Ok(vec![Surveyed { not_compared: self.not_compared.clone(), ..Surveyed::of("public.t", 1, 9) }])
    }

    async fn walk<'a>(&'a mut self, desk: &'a Desk) -> Result<u64, copier::Error> {
        self.walks.fetch_add(1, Ordering::Relaxed);
        while let Some(chunk) = desk.take(Instant::now()) {
            desk.put(chunk, Outcome::Done(Landed { rows: 1, ..Landed::default() }));
        }
        Ok(0)
    }

    async fn release(&mut self) -> Result<(), copier::Error> {
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    /// Most keys in a payment.
    keys: usize,
    /// Keys of other tables that were paid.
    others: usize,
    /// The locked one was paid whole, and whether as one that lost rows.
    whole: Option<bool>,
    /// Every key that was paid.
    paid: HashSet<Vec<u8>>,
    /// Schema changes that were repeated.
    changes: Vec<Vec<u8>>,
    /// Payments that say whose they are.
    claims: u64,
}

#[tokio::test(start_paused = true)]
async fn a_table_is_not_repaired_while_what_was_written_to_it_past_the_journal_is_under_way() {
    let (journal, copier) = (Journal::in_memory(), Pays::default());
    let (under_way, seen) = (copier.under_way.clone(), copier.seen.clone());
    under_way.lock().expect("no panic").insert("its transaction".to_owned());
    let config = Config { self_repair: true, ..Config::default() };
    let every = config.repair_every;
    let (engine, handle) = Engine::new(config, journal, copier, Paths::in_memory()).expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    handle.mark_dirty(&[TABLE], Reason::Journal).expect("memory");
    sleep(every * 3).await;
    assert!(seen.lock().expect("no panic").whole.is_some(), "it was paid");
    assert_eq!(handle.dirty().len(), 1, "and may differ since");
    under_way.lock().expect("no panic").clear();
    sleep(every * 2).await;
    assert!(handle.dirty().is_empty());
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn an_older_copy_of_the_journal_leaves_no_table_trusted() {
    let journal = Journal::in_memory();
    let further = Place { life: 0, reached: Lsn(1_000), ..journal.place() };
    for (place, dirty) in [(further, 1), (Place { reached: Lsn(0), ..further }, 0)] {
        let copier = Pays { place: Some(place), ..Pays::default() };
        let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
        let (engine, handle) = made.expect("files load");
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(handle.dirty().len(), dirty);
        stop.cancel();
        running.await.expect("ends");
    }
}

#[tokio::test(start_paused = true)]
async fn behind_payments_from_another_journal_no_table_is_trusted_and_no_schema_change_counts_as_made_promise_6() {
    for (paid_before, payments) in [(true, 150), (true, 90), (false, 150)] {
        let journal = Journal::in_memory();
        let mut change = RecordBuf::default();
        change.ddl(TableId::NONE, b"CREATE VIEW v ..");
        change.ddl(TABLE, b"ALTER ..");
        let change = journal.begin(change.finish(Backend { id: 6, life: 1 })).expect("there is room");
        let paths = Paths::in_memory();
        if paid_before {
            // Killed before its payment was committed; then another journal's applier counted on.
            let mut book = Book::open(paths.book.clone()).expect("loads");
            book.note(Some(95), [RENAMED]);
            book.intend([(change.lsn(), false)], 101).await.expect("saved");
        }
        change.end(journal::Outcome::Committed);
        let place = Some(Place { journal: !journal.place().journal, ..journal.place() });
        let copier = Pays { place, payments, ..Pays::default() };
        let (away, seen) = (copier.away.clone(), copier.seen.clone());
        let config = Config::default();
        let heartbeat = config.heartbeat;
        let (engine, handle) = Engine::new(config, journal.clone(), copier, paths).expect("files load");
        let stop = CancellationToken::new();
        // The change was read before anybody could be asked.
        away.store(true, Ordering::Relaxed);
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(Duration::from_secs(1)).await;
        away.store(false, Ordering::Relaxed);
        handle.settle(journal.appended()).await.expect("it runs");
        sleep(heartbeat * 3).await;
        let dirty: Vec<TableId> = handle.dirty().list().into_iter().map(|it| it.table).collect();
        let parked = handle.parked().list().len();
        {
            let seen = seen.lock().expect("no panic");
            if paid_before {
                assert_eq!((parked, seen.changes.len(), dirty), (2, 0, vec![TABLE, RENAMED]));
            } else {
                assert_eq!((parked, seen.changes.len(), dirty), (0, 2, Vec::new()), "the first start there");
            }
            assert_eq!(seen.claims, 1, "then it is this journal's");
        }
        stop.cancel();
        running.await.expect("ends");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secondary_that_others_paid_before_is_claimed_though_nothing_is_owed() {
    let journal = Journal::in_memory();
    let place = Some(Place { journal: !journal.place().journal, ..journal.place() });
    let copier = Pays { place, ..Pays::default() };
    let seen = copier.seen.clone();
    let config = Config::default();
    let heartbeat = config.heartbeat;
    let (engine, handle) = Engine::new(config, journal, copier, Paths::in_memory()).expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    sleep(heartbeat * 3).await;
    assert_eq!(seen.lock().expect("no panic").claims, 1);
    assert!(handle.dirty().is_empty());
    stop.cancel();
    running.await.expect("ends");
}

/// Behind a backlog that fills the memory lies how the units before it ended; their backend is gone long since.
#[tokio::test(start_paused = true)]
async fn a_unit_whose_end_was_not_read_yet_is_not_over_because_its_backend_is_promise_3() {
    let me = Backend { id: 5, life: 1 };
    let (journal, copier) = (Journal::in_memory(), Pays { all_gone: true, ..Pays::default() });
    let (away, seen) = (copier.away.clone(), copier.seen.clone());
    away.store(true, Ordering::Relaxed);
    let config = Config { owed_keys_max: 10, read_bytes: 100, ..Config::default() };
    let (mut part, mut change, mut last) = (RecordBuf::default(), RecordBuf::default(), RecordBuf::default());
    part.key(TABLE, b"of a large unit", false);
    change.ddl(TABLE, b"ALTER ..");
    last.key(TABLE, b"its last", false);
    let part = journal.begin(part.finish_part(me)).expect("there is room");
    let change = journal.begin(change.finish(Backend { id: 6, life: 1 })).expect("there is room");
    for key in 0..100_u32 {
        let mut record = RecordBuf::default();
        record.key(TableId(2), &key.to_be_bytes(), false);
        owe(&journal, &mut record).expect("there is room");
    }
    let last = journal.begin(last.finish(me)).expect("there is room");
    [part, change, last].into_iter().for_each(|unit| unit.end(journal::Outcome::Committed));
    let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    sleep(Duration::from_secs(2)).await;
    assert!(handle.status().lag_keys >= 10, "{:?}", handle.status());
    away.store(false, Ordering::Relaxed);
    handle.settle(journal.appended()).await.expect("it runs");
    {
        let seen = seen.lock().expect("no panic");
        assert!(seen.paid.contains(&b"its last"[..]) && seen.paid.contains(&b"of a large unit"[..]));
        assert_eq!(seen.changes, [b"ALTER ..".to_vec()]);
    }
    assert!(handle.dirty().is_empty(), "{:?}", handle.dirty().list());
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_table_is_known_by_the_name_that_it_had_before() {
    let journal = Journal::in_memory();
    let (mut unit, mut change) = (RecordBuf::default(), RecordBuf::default());
    unit.key(TABLE, b"in doubt", false);
    change.ddl(TABLE, RENAME);
    drop(journal.begin(unit.finish(Backend { id: 5, life: 1 })).expect("there is room"));
    let change = journal.begin(change.finish(Backend { id: 6, life: 1 })).expect("there is room");
    // Killed when the payment that repeated it was made: the book says so, and nothing followed the table yet.
    let paths = Paths::in_memory();
    let mut book = Book::open(paths.book.clone()).expect("loads");
    book.intend([(change.lsn(), false)], 1).await.expect("saved");
    change.end(journal::Outcome::Committed);
    let copier = Pays { all_gone: true, payments: 1, ..Pays::default() };
    let seen = copier.seen.clone();
    let (engine, handle) = Engine::new(Config::default(), journal.clone(), copier, paths).expect("files load");
    handle.mark_dirty(&[TABLE], Reason::Journal).expect("memory");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    handle.settle(journal.appended()).await.expect("it runs");
    let dirty: Vec<_> = handle.dirty().list().into_iter().map(|it| it.table).collect();
    assert_eq!(dirty, [RENAMED]);
    {
        let seen = seen.lock().expect("no panic");
        assert_eq!(
            (seen.others, seen.changes.len()),
            (1, 0),
            "its key is owed by the new name, the change not repeated"
        );
    }
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn what_a_locked_table_owes_is_bounded_and_others_are_paid_promise_12() {
    let (journal, copier) = (Journal::in_memory(), Pays::default());
    let (locked, seen) = (copier.held.clone(), copier.seen.clone());
    locked.store(true, Ordering::Relaxed);
    let config = Config { owed_keys_max: 100, read_bytes: 1 << 10, ..Config::default() };
    let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    for batch in 0..1000_u32 {
        let mut record = RecordBuf::default();
        (0..10).for_each(|key| record.key(TABLE, &(batch * 10 + key).to_be_bytes(), batch == 0));
        record.key(TableId(2), &batch.to_be_bytes(), false);
        owe(&journal, &mut record).expect("there is room");
    }
    sleep(Duration::from_secs(60)).await;
    {
        let seen = seen.lock().expect("no panic");
        assert!(seen.keys < 500, "{} keys in a payment", seen.keys);
        assert!(seen.others >= 1000, "{} keys of another table were paid", seen.others);
        assert_eq!(seen.whole, None);
    }
    assert!(handle.status().lag_keys <= 25, "{}", handle.status().lag_keys);
    locked.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(seen.lock().expect("no panic").whole, Some(true), "rows of it may have been deleted");
    assert_eq!(handle.status().lag_records, 0);
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_lock_does_not_fill_the_journal_promise_6() {
    let options = journal::Options {
        size_limit_bytes: 4 * (16_384 + 4_096),
        segment_bytes: 16_384,
        record_limit_bytes: 2_000,
        ring_bytes: 8_192,
        ..journal::Options::default()
    };
    let (journal, _) = Journal::open_on(MemoryDisk::default().storage(), options).expect("opens");
    journal.sync_now();
    let copier = Pays::default();
    let (locked, seen) = (copier.held.clone(), copier.seen.clone());
    locked.store(true, Ordering::Relaxed);
    let config = Config { retention: Duration::ZERO, self_repair: true, ..Config::default() };
    let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    let mut record = RecordBuf::default();
    record.key(TABLE, b"k", true);
    let first = owe(&journal, &mut record).expect("there is room");
    let size = journal.status().limit_bytes;
    let (mut had_room, mut marked) = (true, BTreeSet::new());
    while journal.appended().0 < 3 * size {
        had_room &= owe(&journal, &mut written()).is_ok();
        sleep(Duration::from_millis(20)).await;
        journal.sync_now();
        marked.extend(handle.dirty().list().into_iter().map(|it| (it.table, it.reasons[0].0)));
        if journal.appended().0 < size / 4 {
            assert!(marked.is_empty() && journal.trimmed() <= first, "it may be over in time");
        }
    }
    assert!(had_room, "others go on");
    assert!(journal.trimmed().0 > 2 * size);
    assert_eq!(marked, [(TABLE, Reason::Journal), (ALONG, Reason::Journal)].into());
    locked.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(60)).await;
    assert!(handle.dirty().is_empty(), "{:?}", handle.dirty().list());
    assert!(seen.lock().expect("no panic").whole.is_some(), "it is copied");
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_schema_change_of_no_table_in_doubt_is_listed_until_somebody_decides_promise_6() {
    let (journal, copier) = (Journal::in_memory(), Pays { all_gone: true, ..Pays::default() });
    let seen = copier.seen.clone();
    let config = Config { self_repair: true, ..Config::default() };
    let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
    let mut record = RecordBuf::default();
    record.ddl(TableId::NONE, b"CREATE VIEW v ..");
    drop(journal.begin(record.finish(Backend { id: 5, life: 1 })).expect("there is room"));
    // One that was parked when there was no more room.
    handle.dirty().note(TableId::NONE, Reason::Refused, Lsn(0));
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    sleep(Duration::from_secs(120)).await;
    let parked: Vec<_> = handle.parked().list().iter().map(|it| it.change().map(<[u8]>::to_vec)).collect();
    assert_eq!(parked, [Some(b"CREATE VIEW v ..".to_vec())]);
    let dirty: Vec<_> = handle.dirty().list().into_iter().map(|it| (it.table, it.reasons)).collect();
    assert_eq!(dirty, [(TableId::NONE, vec![(Reason::Refused, 1)])]);
    assert_eq!(handle.status().lag_records, 0);
    handle.retry_parked(&handle.parked().list()[0].id()).expect("there is room");
    handle.settle(journal.appended()).await.expect("it runs");
    assert!(handle.parked().is_empty());
    assert_eq!(seen.lock().expect("no panic").changes, [b"CREATE VIEW v ..".to_vec()]);
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test]
async fn what_was_parked_for_its_neighbours_is_tried_again_though_the_journal_is_full_at_first() {
    let options = journal::Options {
        size_limit_bytes: 3 * (16_384 + 4_096),
        segment_bytes: 16_384,
        record_limit_bytes: 2_000,
        ring_bytes: 8_192,
        ..journal::Options::default()
    };
    let (journal, _) = Journal::open_on(MemoryDisk::default().storage(), options).expect("opens");
    journal.sync_now();
    let made = Engine::new(Config::default(), journal.clone(), Pays::default(), Paths::in_memory());
    let (engine, handle) = made.expect("files load");
    let refuse = |key: &[u8]| Refused {
        table: TABLE,
        name: "t".into(),
        key: Some(key.into()),
        shown: String::new(),
        why: "23505 unique".into(),
    };
    let inexact = Paid { refused: vec![refuse(b"a"), refuse(b"b")], ..Paid::default() };
    handle.parked().paid(&Owed::default(), &inexact, false).await.expect("memory");
    while owe(&journal, &mut written()).is_ok() {
        journal.sync_now();
    }
    let full = journal.appended();
    engine.owe_provisional();
    assert_eq!((handle.parked().provisional().len(), journal.appended()), (2, full));
    journal.trim(full);
    journal.sync_now();
    engine.owe_provisional();
    assert!(handle.parked().provisional().is_empty());
    let owed = handle.owed().await.expect("it can be read");
    let keys: Vec<_> = owed.into_iter().filter(|(table, _)| *table == TABLE).filter_map(|(_, key)| key).collect();
    assert_eq!(keys, [b"a"[..].into(), b"b"[..].into()] as [Box<[u8]>; 2]);
}

#[tokio::test(start_paused = true)]
async fn the_journal_is_held_up_by_an_open_unit_when_all_else_is_paid_and_not_by_lag() {
    let (journal, copier) = (Journal::in_memory(), Pays::default());
    let away = copier.away.clone();
    away.store(true, Ordering::Relaxed);
    let config = Config { retention: Duration::ZERO, ..Config::default() };
    let (engine, handle) = Engine::new(config, journal.clone(), copier, Paths::in_memory()).expect("files load");
    owe(&journal, &mut written()).expect("there is room");
    let open = journal.begin(written().finish(Backend { id: 5, life: 1 })).expect("there is room");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(journal.held_up_at(), None, "the secondary is away");
    away.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(journal.held_up_at(), Some(open.lsn()));
    open.end(journal::Outcome::Committed);
    handle.settle(journal.appended()).await.expect("it runs");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(journal.held_up_at(), None);
    stop.cancel();
    running.await.expect("ends");
}

/// An engine with hands between these, until all that the journal has is paid or `refuses`.
async fn process(journal: &Journal, paths: &Paths, copier: Pays, refuses: bool) -> Handle {
    let (engine, handle) = Engine::new(Config::default(), journal.clone(), copier, paths.clone()).expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    match refuses {
        true => {
            let mut status = handle.watch();
            status.wait_for(|status| status.phase == Phase::Failed).await.expect("it runs");
        }
        false => handle.settle(journal.appended()).await.expect("it runs"),
    }
    // As it ends if it is killed.
    running.abort();
    handle
}

#[tokio::test(start_paused = true)]
async fn a_failover_between_two_processes_parks_schema_changes_that_it_may_have_lost() {
    let (journal, paths) = (Journal::in_memory(), Paths::in_memory());
    let at = |timeline, payments| Pays { primary: (7, timeline), payments, ..Pays::default() };
    let mut record = RecordBuf::default();
    record.ddl(TableId(7), b"CREATE INDEX ..");
    let change = journal.begin(record.finish(Backend { id: 5, life: 1 })).expect("there is room");
    change.end(journal::Outcome::Committed);
    assert_eq!(process(&journal, &paths, at(1, 0), false).await.parked().len(), 0);
    assert_eq!(process(&journal, &paths, at(1, 1), false).await.parked().len(), 0, "it is the same");
    assert_eq!(process(&journal, &paths, at(2, 1), false).await.parked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_primary_between_two_processes_is_not_paid_from() {
    let (journal, paths) = (Journal::in_memory(), Paths::in_memory());
    owe(&journal, &mut written()).expect("there is room");
    process(&journal, &paths, Pays { primary: (7, 1), ..Pays::default() }, false).await;
    let (other, snapshots) = (Pays { primary: (8, 1), ..Pays::default() }, Arc::new(AtomicU64::new(0)));
    let handle = process(&journal, &paths, Pays { snapshots: snapshots.clone(), ..other }, true).await;
    let said = handle.status().error.expect("it says why");
    assert!(said.contains("another database"), "{said}");
    assert_eq!(snapshots.load(Ordering::Relaxed), 0);
    // Put right, it goes on.
    process(&journal, &paths, Pays { primary: (7, 1), ..Pays::default() }, false).await;
}

fn verify(handle: &Handle) -> backfill::Report {
    handle.desk().report(Kind::Verify).expect("asked for")
}

#[tokio::test(start_paused = true)]
async fn while_a_schema_change_takes_long_history_waits_says_why_and_takes_no_snapshots() {
    let (journal, copier) = (Journal::in_memory(), Pays::default());
    let (snapshots, walks) = (copier.snapshots.clone(), copier.walks.clone());
    let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
    let (engine, handle) = made.expect("files load");
    let mut record = RecordBuf::default();
    record.ddl(TableId(7), b"CREATE INDEX CONCURRENTLY ..");
    let change = journal.begin(record.finish(Backend { id: 5, life: 1 })).expect("there is room");
    handle.desk().start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    let seconds = 600;
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        // Clients go on writing other tables.
        owe(&journal, &mut written()).expect("there is room");
    }
    let why = verify(&handle).why.expect("it waits");
    assert!(why.contains("a schema change is under way"), "{why}");
    assert_eq!(walks.load(Ordering::Relaxed), 0);
    let taken = snapshots.load(Ordering::Relaxed);
    assert!((seconds..2 * seconds).contains(&taken), "{taken} snapshots for {seconds} payments");
    change.end(journal::Outcome::Aborted);
    let mut waited = 0;
    while verify(&handle).state != State::Done {
        sleep(Duration::from_secs(1)).await;
        waited += 1;
        assert!(waited < 60, "{:?}", verify(&handle));
    }
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn while_a_table_is_locked_surveys_leave_the_time_to_payments_and_say_why() {
    let (journal, copier) = (Journal::in_memory(), Pays { locked: true, ..Pays::default() });
    let snapshots = copier.snapshots.clone();
    let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
    let (engine, handle) = made.expect("files load");
    handle.desk().start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    sleep(Duration::from_secs(3)).await;
    for _ in 0..10 {
        let before = snapshots.load(Ordering::Relaxed);
        owe(&journal, &mut written()).expect("there is room");
        handle.settle(journal.appended()).await.expect("it runs");
        assert!(snapshots.load(Ordering::Relaxed) > before);
    }
    let why = verify(&handle).why.expect("it waits");
    assert!(why.contains("a table is locked") && why.contains("55P03"), "{why}");
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_schema_that_never_holds_still_is_shown() {
    let (journal, copier) = (Journal::in_memory(), Pays { moves: true, ..Pays::default() });
    let made = Engine::new(Config::default(), journal.clone(), copier, Paths::in_memory());
    let (engine, handle) = made.expect("files load");
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    owe(&journal, &mut written()).expect("there is room");
    let mut status = handle.watch();
    let shown = status.wait_for(|status| status.error.is_some());
    let shown = tokio::time::timeout(Duration::from_secs(60), shown).await.expect("shown").expect("it runs").clone();
    assert_eq!(shown.error.as_deref(), Some("a table was moved"));
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_dirty_table_that_cannot_be_compared_is_paid_whole_however_large() {
    for not_compared in [vec!["at".to_owned()], Vec::new()] {
        let walks = Arc::new(AtomicU64::new(0));
        let copier = Pays { walks: walks.clone(), not_compared: not_compared.clone(), ..Pays::default() };
        let config = Config { self_repair: true, whole_bytes_max: 1, ..Config::default() };
        let journal = Journal::in_memory();
        let (engine, handle) = Engine::new(config, journal, copier, Paths::in_memory()).expect("files load");
        handle.dirty().note(TableId(1), Reason::Uncaptured, Lsn(0));
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(stop.clone()));
        sleep(Duration::from_secs(60)).await;
        assert!(handle.dirty().is_empty(), "{not_compared:?}: {:?}", handle.dirty().list());
        assert_eq!(walks.load(Ordering::Relaxed) > 0, not_compared.is_empty(), "what can be compared is walked over");
        stop.cancel();
        running.await.expect("ends");
    }
}

fn written() -> RecordBuf {
    let mut record = RecordBuf::default();
    record.key(TableId(2), b"k", false);
    record
}
