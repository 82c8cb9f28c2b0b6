//! What the desk keeps, owes and tells, whoever comes to it in whatever order.

use std::collections::BTreeSet;

use super::owing::RECORD_BYTES;
use super::*;
use crate::backfill::work::{Difference, Differs, Landed};
use crate::journal::storage::MemoryDisk;
use crate::journal::{Entry, Journal};
use crate::record::{Item, Record};

/// Of nine units, the same on both sides.
fn table() -> Surveyed {
    Surveyed { occupied: false, ..Surveyed::of("public.t", 1, 9) }
}

#[tokio::test]
async fn what_a_chunk_leaves_to_the_mirror_is_owed_although_it_was_cancelled_meanwhile() {
    a_chunk_outlives_its_job(false).await;
    a_chunk_outlives_its_job(true).await;
}

/// Its job was cancelled while it was under way, and another one asked for, or not.
async fn a_chunk_outlives_its_job(is_followed: bool) {
    let (desk, journal) = (Desk::in_memory(), Journal::in_memory());
    let begin = async || {
        if !desk.is_busy() {
            desk.start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
        }
        desk.surveyed(vec![Surveyed { occupied: desk.has_seen(TableId(1)), ..table() }], (Lsn(0), Lsn(0)));
        desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
        desk.open_at(Instant::now(), Lsn(0));
    };
    begin().await;
    let chunk = desk.take(Instant::now()).expect("there is one");
    desk.cancel(Kind::Backfill).await.expect("it is under way");
    if is_followed {
        desk.start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
    }
    let differing = vec![Difference { how: Differs::Different, key: (*b"settled").into(), shown: String::new() }];
    let landed = Landed { rows: 9, differing, refused: vec![(*b"refused").into()], ..Landed::default() };
    desk.put(chunk, Outcome::Done(landed));
    desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
    let (entries, _) = journal.read(Lsn(0), 1 << 20).await.expect("memory");
    let owed = |key: &[u8]| {
        let holds =
            |entry: &Entry| matches!(entry, Entry::Record { payload, .. } if payload.windows(7).any(|w| w == key));
        entries.iter().any(holds)
    };
    assert!(owed(b"settled") && owed(b"refused"));
    // What it wrote is ours: the next one meets no strangers, and takes nothing of it for its own.
    begin().await;
    let next = desk.take(Instant::now()).expect("nothing of it is done");
    assert_eq!((next.from, desk.report(Kind::Backfill).map(|report| report.rows)), (0, Some(0)));
}

#[tokio::test]
async fn who_asks_and_leaves_gives_no_turn_back_while_the_file_is_written() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let desk = Desk::in_dir(dir.path(), Options::default()).expect("empty");
    desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    for _ in 0..200 {
        {
            let mut pause = std::pin::pin!(desk.pause(Kind::Verify));
            assert!(futures_util::poll!(pause.as_mut()).is_pending(), "the file is written elsewhere");
        }
        desk.resume(Kind::Verify).await.expect("written one after the other");
    }
    let again = Desk::in_dir(dir.path(), Options::default()).expect("whole");
    assert_eq!(
        again.report(Kind::Verify).map(|report| report.state),
        desk.report(Kind::Verify).map(|report| report.state)
    );
}

#[tokio::test]
async fn what_nobody_heard_was_not_written_is_written_with_the_next() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let lost = dir.path().join("gone");
    std::fs::create_dir(&lost).expect("made");
    let desk = Desk::in_dir(&lost, Options::default()).expect("empty");
    desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    std::fs::remove_dir_all(&lost).expect("removed");
    {
        let mut pause = std::pin::pin!(desk.pause(Kind::Verify));
        assert!(futures_util::poll!(pause.as_mut()).is_pending(), "the file is written elsewhere");
    }
    drop(desk.shared.saving.lock().await);
    std::fs::create_dir(&lost).expect("made");
    desk.save().await.expect("there is a folder");
    let again = Desk::in_dir(&lost, Options::default()).expect("whole");
    assert_eq!(
        again.report(Kind::Verify).map(|report| report.state),
        desk.report(Kind::Verify).map(|report| report.state)
    );
}

/// Keys of rows that differ.
fn differing(count: u64) -> Vec<Difference> {
    let key = |n: u64| [&[7; 12], &n.to_be_bytes()[..]].concat().into();
    (0..count).map(|n| Difference { how: Differs::Missing, key: key(n), shown: n.to_string() }).collect()
}

/// A repair of the table, at its first state.
async fn repairing(journal: &Journal, options: Options) -> Desk {
    let lines = Lines::in_memory(64 << 20);
    let desk = Desk::open(Durable::in_memory("history"), lines, options).expect("memory");
    desk.start(Request::new(Kind::Repair)).await.expect("nothing is under way");
    desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
    desk.settle(journal, Lsn(0), Some(0)).await.expect("nothing is owed");
    desk.open_at(Instant::now(), Lsn(0));
    desk
}

/// Everything that is owed, record by record.
async fn owed(journal: &Journal) -> Vec<(usize, Vec<Vec<u8>>)> {
    let (mut all, mut from) = (Vec::new(), Lsn(0));
    loop {
        let (entries, next) = journal.read(from, 1 << 20).await.expect("memory");
        if next == from {
            return all;
        }
        from = next;
        for entry in entries {
            let Entry::Record { payload, .. } = entry else { continue };
            let record = Record::parse(payload.clone()).expect("ours");
            let key = |item| if let Item::Key { key, .. } = item { Some(key.to_vec()) } else { None };
            all.push((payload.len(), record.items().filter_map(key).collect()));
        }
    }
}

#[tokio::test]
async fn what_a_chunk_owes_is_cut_into_records_that_the_journal_takes() {
    let journal = Journal::in_memory();
    let desk = repairing(&journal, Options::default()).await;
    let chunk = desk.take(Instant::now()).expect("there is one");
    let landed = Landed { rows: 60_000, differing: differing(60_000), ..Landed::default() };
    desk.put(chunk, Outcome::Done(landed));
    desk.settle(&journal, Lsn(0), Some(0)).await.expect("no record is too large");
    let records = owed(&journal).await;
    assert!(records.iter().all(|(bytes, _)| *bytes <= RECORD_BYTES + 1_024), "{:?}", records.first());
    let keys: BTreeSet<_> = records.iter().flat_map(|(_, keys)| keys).collect();
    assert_eq!((keys.len(), records.iter().map(|(_, keys)| keys.len()).sum()), (60_000, 60_000_usize));
}

#[tokio::test]
async fn what_a_full_journal_does_not_take_is_owed_later_and_counted_once() {
    let options = journal::Options {
        size_limit_bytes: 64 << 20,
        segment_bytes: 256 << 10,
        record_limit_bytes: 128 << 10,
        ring_bytes: 512 << 10,
        ..journal::Options::default()
    };
    let disk = MemoryDisk::default();
    let (journal, _) = Journal::open_on(disk.storage(), options).expect("memory");
    let desk = repairing(&journal, Options::default()).await;
    let chunk = desk.take(Instant::now()).expect("there is one");
    let landed = Landed { rows: 60_000, differing: differing(60_000), ..Landed::default() };
    desk.put(chunk.clone(), Outcome::Done(landed));
    let mut refusals = 0;
    while let Err(error) = desk.settle(&journal, Lsn(0), Some(0)).await {
        assert!(matches!(error, Error::Journal(journal::Error::Full)), "{error}");
        journal.sync_now();
        refusals += 1;
        assert!(refusals < 100, "it comes on");
        // What was done before stands, if the next state comes to nothing.
        desk.open_at(Instant::now(), Lsn(0));
        desk.settle(&journal, Lsn(0), None).await.err();
        journal.sync_now();
    }
    assert!(refusals > 0, "it was full");
    let counts = || desk.report(Kind::Repair).expect("asked for").counts;
    assert_eq!((counts().read, counts().missing, counts().repaired), (60_000, 60_000, 0));
    let keys: BTreeSet<_> = owed(&journal).await.into_iter().flat_map(|(_, keys)| keys).collect();
    assert_eq!(keys.len(), 60_000);

    // Paid, all of it is looked at once more, and found equal.
    desk.open_at(Instant::now(), journal.appended());
    let again = desk.take(Instant::now()).expect("it is looked at again");
    assert!(again.again && (again.from, again.to) == (chunk.from, chunk.to));
    desk.put(again, Outcome::Done(Landed { rows: 60_000, ..Landed::default() }));
    desk.settle(&journal, journal.appended(), Some(0)).await.expect("nothing is owed");
    assert_eq!((counts().read, counts().missing, counts().repaired), (60_000, 60_000, 60_000));
    assert_eq!(desk.differences(100_000).expect("memory").len(), 60_000);
}

#[tokio::test]
async fn what_is_not_owed_yet_is_not_done_for_the_disk() {
    let (file, journal) = (Durable::in_memory("history"), Journal::in_memory());
    let open = || Desk::open(file.clone(), Lines::in_memory(1 << 20), Options::default()).expect("memory");
    let desk = open();
    desk.start(Request::new(Kind::Backfill)).await.expect("nothing is under way");
    desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
    desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
    desk.open_at(Instant::now(), Lsn(0));
    let chunk = desk.take(Instant::now()).expect("there is one");
    let landed = Landed { rows: 9, refused: vec![(*b"refused").into()], ..Landed::default() };
    desk.put(chunk.clone(), Outcome::Done(landed));
    // An operator has the page saved before the mirror's turn ends; then the process is killed.
    desk.pause(Kind::Backfill).await.expect("it is under way");
    let desk = open();
    desk.resume(Kind::Backfill).await.expect("it is under way");
    desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
    desk.settle(&journal, Lsn(0), Some(0)).await.expect("memory");
    desk.open_at(Instant::now(), Lsn(0));
    let again = desk.take(Instant::now()).expect("what it owes nobody knows");
    assert!(again.begun && (again.from, again.to) == (chunk.from, chunk.to));
}

/// The mirror was turned round and back, for a switch that ended before its flip.
fn called_off(desk: &Desk) {
    desk.turns();
    assert_eq!(desk.stand(3), [], "the other side counts its own payments");
    desk.serves(Side::Origin);
}

#[tokio::test]
async fn a_switch_that_ends_before_its_flip_leaves_all_that_is_known_of_history_promise_10() {
    let (desk, journal) = (Desk::in_memory(), Journal::in_memory());
    desk.serves(Side::Origin);
    let request = Request { verify: false, ..Request::new(Kind::Backfill) };
    desk.start(request).await.expect("nothing is under way");
    desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
    assert!(!desk.has_seen(TableId::NONE));
    while desk.is_busy() {
        desk.open_at(Instant::now(), Lsn(0));
        while let Some(chunk) = desk.take(Instant::now()) {
            desk.put(chunk, Outcome::Done(Landed { rows: 9, ..Landed::default() }));
        }
        desk.settle(&journal, journal.appended(), Some(7)).await.expect("memory");
    }
    assert!(desk.has_seen(TableId::NONE), "it was of all tables");
    desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    desk.mend([TableId(5)]);
    let told = || (desk.doubts(), desk.report(Kind::Backfill), desk.report(Kind::Verify));
    let before = told();
    assert_eq!(before.0.unverified, ["public.t"]);

    desk.turns();
    assert_eq!(told(), before, "nobody is told what may not come true");
    called_off(&desk);
    assert_eq!(told(), before);
    // A target that fell back behind the chunks that were copied is noticed still.
    assert_eq!(desk.stand(6), [TableId(1)]);

    // Switched, all of it is of the past. What was not known to be equal is not known to be after the way back.
    assert!(desk.has_seen(TableId(1)));
    desk.turns();
    desk.serves(Side::Target);
    assert_eq!((desk.doubts(), desk.stand(0)), (Doubts::default(), Vec::new()));
    let verify = desk.report(Kind::Verify).expect("asked for");
    assert_eq!((verify.state, desk.is_busy()), (State::Failed, false));
    assert!(!desk.has_seen(TableId(1)));
}

#[tokio::test]
async fn what_nobody_asked_for_takes_nobodys_report_away() {
    let desk = Desk::in_memory();
    desk.mend([TableId(1)]);
    assert_eq!(desk.errand(Instant::now(), Duration::ZERO), Ok(Errand::Survey));
    assert_eq!(desk.report(Kind::Repair).map(|report| report.number), Some(1), "it is shown");
    let asked = desk.start(Request::new(Kind::Repair)).await.expect("the other steps aside");
    assert_eq!(desk.report(Kind::Repair).map(|report| report.number), Some(asked));
    desk.cancel(Kind::Repair).await.expect("it is under way");
    assert_eq!(desk.report(Kind::Repair).map(|report| report.state), Some(State::Cancelled));
    // What stepped aside begins again: it is what is under way, and what was asked for has its end all the same.
    assert_eq!(desk.errand(Instant::now(), Duration::ZERO), Ok(Errand::Survey));
    assert_eq!(desk.report(Kind::Repair).map(|report| report.number), Some(asked + 1));
    assert!(desk.report_numbered(Kind::Repair, asked).is_some_and(|report| report.state.is_over()));
    assert_eq!(desk.report_numbered(Kind::Verify, asked), None);
}

#[tokio::test]
async fn what_is_done_again_and_again_has_its_next_time_behind_a_switch() {
    let desk = Desk::in_memory();
    desk.serves(Side::Origin);
    let request = Request { every_seconds: Some(60), ..Request::new(Kind::Verify) };
    desk.start(request).await.expect("nothing is under way");
    desk.serves(Side::Target);
    assert!(desk.report(Kind::Verify).is_some_and(|report| report.next_unix.is_some()));
}

#[tokio::test]
async fn a_clock_that_was_set_back_puts_off_what_is_done_again_and_again_by_one_round_at_most() {
    let desk = Desk::in_memory();
    let tables = vec!["public.gone".to_owned()];
    let request = Request { tables, every_seconds: Some(60), ..Request::new(Kind::Verify) };
    desk.start(request).await.expect("nothing is under way");
    // No such table: it is over.
    desk.surveyed(Vec::new(), (Lsn(0), Lsn(0)));
    let later = unix_now() + 7_200;
    desk.lock().page.standing.values_mut().for_each(|standing| standing.next_unix = Some(later));
    assert!(desk.errand(Instant::now(), Duration::ZERO).is_err());
    let next = desk.report(Kind::Verify).and_then(|report| report.next_unix);
    assert!(next.is_some_and(|next| next <= unix_now() + 60), "{next:?}");
}

#[tokio::test]
async fn what_is_asked_for_once_leaves_what_is_done_again_and_again() {
    for kind in [Kind::Verify, Kind::Backfill] {
        let desk = Desk::in_memory();
        let next = || desk.report(kind).and_then(|report| report.next_unix);
        let fail = |desk: &Desk| desk.surveyed(Vec::new(), (Lsn(0), Lsn(0)));
        // No such table: it is over.
        let request = Request { tables: vec!["public.gone".to_owned()], ..Request::new(kind) };
        desk.start(Request { every_seconds: Some(3_600), ..request.clone() }).await.expect("nothing is under way");
        fail(&desk);
        let due = next();
        assert!(due.is_some());
        desk.start(request.clone()).await.expect("nothing is under way");
        fail(&desk);
        assert_eq!(next(), due, "it was done beside it");
        desk.start(request.clone()).await.expect("nothing is under way");
        desk.cancel(kind).await.expect("it is under way");
        assert_eq!(next(), due, "it ended alone");
        let newer = Request { on_conflict: Conflict::Newer, ..request };
        assert!(matches!(desk.start(newer).await, Err(Refused::Nonsense(_))));
        desk.cancel(kind).await.expect("it stands");
        assert_eq!(next(), None);
    }
}

#[tokio::test]
async fn what_is_not_begun_is_not_shown_as_done() {
    let desk = Desk::in_memory();
    desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    let done = || desk.report(Kind::Verify).map(|report| report.done);
    assert_eq!(done(), Some(0.0));
    desk.cancel(Kind::Verify).await.expect("it is under way");
    assert_ne!(done(), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_is_slow_is_left_alone_and_named() {
    let desk = Desk::in_memory();
    desk.start(Request::new(Kind::Verify)).await.expect("nothing is under way");
    desk.surveyed(vec![table()], (Lsn(0), Lsn(0)));
    let errand = || desk.errand(Instant::now(), Duration::ZERO);
    desk.felt(Throttle::Primary, Duration::from_millis(499));
    assert_eq!(errand(), Ok(Errand::Walk));
    desk.felt(Throttle::Secondary, Duration::from_millis(700));
    let until = Instant::now() + Duration::from_secs(7);
    assert_eq!((errand(), desk.throttle()), (Err(Some(until)), Some(Throttle::Secondary)));
    let why = desk.report(Kind::Verify).and_then(|report| report.why);
    assert!(why.as_ref().is_some_and(|why| why.contains("700 ms")), "{why:?}");
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!((errand(), desk.throttle()), (Ok(Errand::Walk), None));
}
