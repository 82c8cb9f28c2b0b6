//! What a job makes of what it is told, step by step.

use std::time::Duration;

use super::super::trust::Trust;
use super::super::walked::{DOUBTED, UNREADABLE_NOW, UNREADABLE_PAUSES};
use super::*;

fn differences(count: u64) -> Vec<Difference> {
    let one = |key: u64| {
        let key: Box<[u8]> = key.to_be_bytes().into();
        Difference { how: Differs::Missing, key, shown: String::new() }
    };
    (0..count).map(one).collect()
}

/// A table of one extent, the same on both sides.
fn table(file: u64, units: u64) -> Surveyed {
    Surveyed { rows: 1, bytes: 1, ..Surveyed::of("t", file, units) }
}

fn refused(why: &str) -> Surveyed {
    Surveyed { refused: Some(why.to_owned()), ..table(1, 2) }
}

fn sizes() -> Sizes {
    Sizes { rows: 100, micros: 100 }
}

fn begun(kind: Kind, table: Surveyed) -> Job {
    let mut job = Job::new(1, Request::new(kind), 0);
    job.surveyed(vec![table], |_| true, (Lsn(0), Lsn(0)), Instant::now());
    job.reserve();
    job
}

/// Take what there is until it is over; every chunk is found equal, of as many rows as it has units.
fn walked(job: &mut Job, table: &Surveyed) {
    for _ in 0..20 {
        while let Some(chunk) = job.take(&Lsn(9).into()) {
            let rows = if chunk.pass == Pass::Back { 0 } else { chunk.to - chunk.from };
            job.landed(&chunk, &Landed { rows, ..Landed::default() }, sizes());
        }
        job.advance(Lsn(9), &Lsn(9).into(), 0);
        if job.wants() == Wants::Survey {
            job.surveyed(vec![table.clone()], |_| true, (Lsn(9), Lsn(9)), Instant::now());
            job.reserve();
        }
    }
}

#[test]
fn a_table_whose_schema_is_behind_on_one_side_is_left_out_only_if_it_stays_so() {
    let mut job = begun(Kind::Backfill, table(1, 200));
    let chunk = job.take(&Lsn(0).into()).expect("there is one");
    job.landed(&chunk, &Landed { rows: 64, ..Landed::default() }, sizes());
    job.survey_again();
    job.surveyed(vec![refused("no column n")], |_| true, (Lsn(5), Lsn(5)), Instant::now());
    assert_eq!(
        (job.take(&Lsn(4).into()), job.advance(Lsn(6), &Lsn(4).into(), 0)),
        (None, false),
        "it waits for the mirror"
    );
    assert!(job.advance(Lsn(6), &Lsn(5).into(), 0) && job.wants() == Wants::Survey);
    // Another change came behind the first.
    job.surveyed(vec![refused("no column m")], |_| true, (Lsn(7), Lsn(7)), Instant::now());
    assert!(!job.advance(Lsn(8), &Lsn(6).into(), 0) && job.advance(Lsn(8), &Lsn(7).into(), 0));
    job.surveyed(vec![table(1, 200)], |_| true, (Lsn(8), Lsn(8)), Instant::now());
    walked(&mut job, &table(1, 200));
    assert_eq!((job.state, job.tables[0].copied().rows), (State::Done, 200), "{:?}", job.why);
}

#[test]
fn what_a_table_grew_by_since_the_first_look_is_not_called_equal() {
    let mut job = begun(Kind::Verify, table(1, 10));
    job.survey_again();
    job.surveyed(vec![table(1, 20)], |_| true, (Lsn(7), Lsn(8)), Instant::now());
    walked(&mut job, &table(1, 20));
    assert_eq!((job.state, job.tables[0].counts().read), (State::Done, 10));
    assert_eq!(job.clean().next(), Some((TableId(1), Lsn(0))), "marks of before the first look alone");
}

#[test]
fn a_table_that_cannot_be_walked_over_is_left_out_once_all_is_paid() {
    for gone in [vec![refused("no key")], Vec::new()] {
        let mut job = begun(Kind::Backfill, table(1, 2));
        job.survey_again();
        for at in 5..5 + u64::from(DOUBTED) - 1 {
            job.surveyed(gone.clone(), |_| true, (Lsn(at), Lsn(at)), Instant::now());
            assert!(!job.advance(Lsn(at), &Lsn(at - 1).into(), 0) && job.advance(Lsn(at), &Lsn(at).into(), 0));
        }
        job.surveyed(gone, |_| true, (Lsn(9), Lsn(9)), Instant::now());
        walked(&mut job, &refused("no key"));
        assert_eq!(job.state, State::Failed);
        assert!(job.why.is_some_and(|why| why.contains("left out")));
    }
}

#[test]
fn a_table_that_could_not_be_looked_at_is_looked_at_again_behind_a_pause() {
    let unread = || Surveyed { unread: Some("replicas are away".to_owned()), occupied: false, ..table(1, 2) };
    let mut now = Instant::now();
    let mut job = begun(Kind::Backfill, unread());
    let survey = |job: &mut Job, found: Surveyed, now| {
        job.surveyed(vec![found], |_| false, (Lsn(5), Lsn(5)), now);
        job.reserve();
    };
    // Other tables have everything surveyed, and all is paid: it counts for nothing before its pause is over.
    for _ in 0..10 {
        assert_eq!((job.take(&Lsn(9).into()), job.advance(Lsn(9), &Lsn(9).into(), 0)), (None, false));
        job.wake(now);
        job.survey_again();
        survey(&mut job, unread(), now);
    }
    let mut looks = 1;
    while job.tables[0].refused.is_none() && looks < 100 {
        now += UNREADABLE_PAUSES.1;
        job.wake(now);
        assert!(job.advance(Lsn(9), &Lsn(9).into(), 0) && job.wants() == Wants::Survey, "{looks}");
        survey(&mut job, unread(), now);
        looks += 1;
    }
    assert_eq!(looks, UNREADABLE_NOW);
    // Found well behind a pause that is not over, and then not again: no pass ends without it.
    let mut job = begun(Kind::Verify, unread());
    survey(&mut job, table(1, 2), now);
    assert!(job.tables[0].doubt.is_none() && job.tables[0].aside.is_some());
    survey(&mut job, unread(), now);
    assert!(job.tables[0].doubt.is_some());
}

#[test]
fn a_table_that_waits_is_tried_until_it_does_not_and_holds_up_no_other() {
    let (mut now, other) = (Instant::now(), TableId(2));
    let second = Surveyed { table: other, name: "other".into(), labels: vec![other], ..table(1, 2) };
    let mut job = Job::new(1, Request::new(Kind::Backfill), 0);
    job.surveyed(vec![table(1, 2), second], |_| true, (Lsn(0), Lsn(0)), now);
    job.reserve();
    for pause in [5, 10, 20, 40, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60] {
        let chunk = job.take(&Lsn(0).into()).filter(|chunk| chunk.table == TableId(1)).expect("it is tried");
        job.waits_with(&chunk, "lock timeout".to_owned(), now);
        job.waits_with(&chunk, "lock timeout".to_owned(), now);
        job.recall();
        now += Duration::from_secs(pause - 1);
        job.wake(now);
        let meanwhile = job.take(&Lsn(0).into());
        assert_eq!(meanwhile.map(|chunk| chunk.table), Some(other), "{pause}");
        job.recall();
        now += Duration::from_secs(1);
        job.wake(now);
    }
    let said = job.tables[0].waits_for();
    assert!(said.is_some_and(|said| said.contains("lock timeout")) && job.tables[0].refused.is_none());
    let chunk = job.take(&Lsn(0).into()).expect("it is tried");
    job.landed(&chunk, &Landed { rows: 2, ..Landed::default() }, sizes());
    assert_eq!(job.tables[0].waits_for(), None);
}

#[test]
fn whose_rows_a_table_has_is_asked_when_it_can_be_looked_at() {
    for (first, occupied) in [(None, true), (Some("replicas are away".to_owned()), true), (None, false)] {
        let unread = Surveyed { unread: first.clone(), occupied: first.is_none() && occupied, ..table(1, 2) };
        let mut job = Job::new(1, Request::new(Kind::Backfill), 0);
        for found in [unread, Surveyed { occupied, ..table(1, 2) }] {
            job.surveyed(vec![found], |_| false, (Lsn(5), Lsn(5)), Instant::now());
        }
        assert_eq!(job.tables[0].refused.as_deref(), occupied.then_some(STRANGERS), "{first:?}");
    }
}

#[test]
fn a_table_of_which_rows_were_skipped_is_not_known_to_be_equal() {
    for (skipped, unverified) in [(0, 0), (1, 1)] {
        let mut trust = Trust::default();
        trust.copied(TableId(1), "t", &[1]);
        let mut job = begun(Kind::Verify, Surveyed { secondary: Vec::new(), ..table(1, 2) });
        let chunk = job.take(&Lsn(0).into()).expect("there is one");
        job.landed(&chunk, &Landed { rows: 2 - skipped, skipped, ..Landed::default() }, sizes());
        walked(&mut job, &Surveyed { secondary: Vec::new(), ..table(1, 2) });
        assert_eq!(job.state, State::Done);
        trust.learn(&job);
        assert_eq!(trust.doubts(None).unverified.len(), unverified, "{skipped}");
    }
}

#[test]
fn a_job_of_tables_that_are_gone_does_not_say_that_all_is_well() {
    let request = Request { labels: vec![7], ..Request::new(Kind::Repair) };
    let mut job = Job::new(1, request, 0);
    job.surveyed(vec![table(1, 2)], |_| true, (Lsn(0), Lsn(0)), Instant::now());
    assert_eq!(job.state, State::Failed);
    assert!(job.why.is_some_and(|why| why.contains("any more")));
}

#[test]
fn what_the_target_is_not_set_up_for_is_told_and_only_what_it_refuses_is_a_failure() {
    let told = |one: &str| vec![one.to_owned()];
    for (unmade, state) in [(Vec::new(), State::Done), (told("an index"), State::Failed)] {
        let mut job = begun(Kind::Backfill, table(1, 2));
        job.made(Stage::Rest, unmade.clone(), told("a view"));
        job.made(Stage::Rest, unmade.clone(), told("a view"));
        walked(&mut job, &table(1, 2));
        let why = job.why.unwrap_or_default();
        assert_eq!((job.state, why.matches("a view").count()), (state, 1), "{why}");
        assert!(unmade.iter().all(|one| why.contains(one)), "{why}");
    }
}

#[test]
fn what_was_found_in_an_extent_is_forgotten_with_it() {
    let mut job = begun(Kind::Repair, table(1, 64));
    let chunk = job.take(&Lsn(0).into()).expect("there is one");
    assert!(job.landed(&chunk, &Landed { rows: 64, differing: differences(3), ..Landed::default() }, sizes()).owes);
    job.owed(&chunk, (3, 0), Lsn(5));
    assert_eq!(job.counts().differing(), 3);
    job.survey_again();
    walked(&mut job, &table(2, 64));
    let expected = Counts { read: 64, equal: 64, ..Counts::default() };
    assert_eq!((job.state, job.counts()), (State::Done, expected));
}

#[test]
fn what_differs_and_is_too_much_to_be_kept_at_once_is_mended_in_turns() {
    let mut job = begun(Kind::Repair, Surveyed { secondary: Vec::new(), ..table(1, 1) });
    let sizes = sizes();
    // Of 500 rows, 10 are equal; 100 are kept at once.
    for crowd in [390, 290, 190, 90] {
        let chunk = job.take(&Lsn(1).into()).expect("it goes on");
        let landed = Landed { rows: 110, differing: differences(100), crowd, ..Landed::default() };
        assert!(job.landed(&chunk, &landed, sizes).owes);
        job.owed(&chunk, (100, crowd), Lsn(1));
    }
    for (left, owes) in [(90, true), (0, false)] {
        let chunk = job.take(&Lsn(1).into()).expect("it goes on");
        let landed = Landed { rows: 500, differing: differences(left), ..Landed::default() };
        assert_eq!(job.landed(&chunk, &landed, sizes).owes, owes);
        job.owed(&chunk, (left, 0), Lsn(1));
    }
    let expected = Counts { read: 500, equal: 10, missing: 490, repaired: 490, ..Counts::default() };
    assert_eq!(job.counts(), expected);
}
