//! The journal as a whole: crashes chosen by seeds, full and failing disks, a real kill.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use futures_util::FutureExt;

use super::*;

/// Paste a failing seed here to run only that one.
const SEED: Option<u64> = None;
const SEEDS: u64 = 400;

fn small() -> Options {
    Options {
        size_limit_bytes: 6 * (16384 + 4096),
        segment_bytes: 16384,
        record_limit_bytes: 2000,
        ring_bytes: 8192,
        ..Options::default()
    }
}

/// Two records of the largest size fill a segment, and four the ring.
fn tight() -> Options {
    Options { record_limit_bytes: 8192 - HEADER, ring_bytes: 32768, ..small() }
}

fn open(disk: &MemoryDisk) -> (Journal, Recovered) {
    Journal::open_on(disk.storage(), small()).expect("opens")
}

fn is_durable(ticket: &mut Ticket) -> bool {
    poll_fn(|cx| ticket.poll_durable(cx)).now_or_never().is_some_and(|durable| durable.is_ok())
}

fn read_all(journal: &Journal) -> Vec<Entry> {
    let (mut at, mut all) = (journal.trimmed(), Vec::new());
    loop {
        let (entries, next) = journal.read(at, 3000).now_or_never().expect("no threads").expect("readable");
        all.extend(entries);
        if next == at {
            return all;
        }
        at = next;
    }
}

fn lsn(entry: &Entry) -> Lsn {
    match entry {
        Entry::Record { lsn, .. } | Entry::Outcome { lsn, .. } | Entry::Dropped { lsn, .. } => *lsn,
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Everything that was ever handed out, and what must never be missing.
#[derive(Default)]
struct Model {
    entries: Vec<(Entry, bool)>,
    labels: std::collections::BTreeSet<u64>,
}

impl Model {
    fn wrote(&mut self, entry: Entry) {
        let last = self.entries.last().map(|(entry, _)| lsn(entry));
        assert!(last.is_none_or(|last| last < lsn(&entry)), "an lsn was used again: {:?}", lsn(&entry));
        self.entries.push((entry, false));
    }

    fn durable_below(&mut self, position: Lsn) {
        self.entries.iter_mut().filter(|(entry, _)| lsn(entry) < position).for_each(|(_, durable)| *durable = true);
    }

    fn synced(&mut self, journal: &Journal) {
        if journal.shared.options.durability == Durability::Fsync {
            self.durable_below(journal.durable());
        }
    }

    /// What is read is what was written, in order; all that had to survive is there. What did not is forgotten;
    /// false if there was any.
    fn check(&mut self, journal: &Journal, all_must_survive: bool) -> bool {
        let mut complete = true;
        let (trimmed, found) = (journal.trimmed(), read_all(journal));
        let mut read = found.iter().filter(|entry| lsn(entry) >= trimmed).peekable();
        self.entries.retain(|(entry, durable)| {
            if lsn(entry) < trimmed {
                return false;
            }
            let survived = read.next_if(|read| *read == entry).is_some();
            assert!(survived || !(*durable || all_must_survive), "missing: {:?}", lsn(entry));
            complete &= survived;
            survived
        });
        assert_eq!(read.next(), None, "an entry that nobody wrote");
        complete
    }
}

fn simulate(seed: u64) {
    let (disk, mut random, mut model) = (MemoryDisk::default(), Random(seed), Model::default());
    // What is durable without a sync survives a kill only, so that only `Fsync` says more than the recovery does.
    let durability = [Durability::Fsync, Durability::Fsync, Durability::Os, Durability::Memory][seed as usize % 4];
    let shape = if (seed / 4).is_multiple_of(3) { tight } else { small };
    let options = || Options { durability, ..shape() };
    let (mut next_above, mut lossy) = (Lsn(0), false);
    for life in 0..6 {
        lossy &= interrupted_open(&disk, &mut random, options());
        let (journal, recovered) = Journal::open_on(disk.storage(), options()).expect("opens");
        assert!(recovered.appended >= next_above, "life {life} began below what was handed out");
        lossy |= recovered.last == Last::Lost;
        if !model.check(&journal, !lossy) {
            let active: std::collections::BTreeSet<u64> = recovered.active.list.iter().copied().collect();
            assert!(model.labels.is_subset(&active), "a label of a lost window is not reported");
        }
        model.labels.clear();
        model.durable_below(recovered.appended);
        // A killed process drops no ticket: they outlive it here.
        let _tickets = live(&journal, &disk, &mut random, &mut model);
        next_above = journal.appended();
        let crash = random.below(4);
        lossy = matches!(crash, 1 | 2);
        match crash {
            0 => drop(disk.storage()),
            1 => {
                disk.fail_after(random.below(6), libc::EIO);
                journal.sync_now();
                model.synced(&journal);
                disk.power_loss(random.below(u64::MAX >> 33));
            }
            2 => disk.power_loss(random.below(u64::MAX >> 33)),
            _ => {
                journal.close().now_or_never().expect("no threads").expect("closes");
                model.durable_below(journal.appended());
                model.labels.clear();
                disk.power_loss(seed);
            }
        }
    }
}

/// Sometimes a first attempt to open is cut short, by a kill or another power loss. It may be what notices a loss, and
/// leave a clean end to the next; true if there was one.
fn interrupted_open(disk: &MemoryDisk, random: &mut Random, options: Options) -> bool {
    if random.below(2) == 0 {
        return false;
    }
    let storage = disk.storage();
    disk.fail_after(random.below(20), libc::EIO);
    drop(Journal::open_on(storage, options));
    if random.below(2) == 0 {
        disk.power_loss(random.below(1 << 30));
    }
    true
}

fn live(journal: &Journal, disk: &MemoryDisk, random: &mut Random, model: &mut Model) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for _ in 0..random.below(300) {
        match random.below(12) {
            0..6 => {
                let limit = if random.below(8) == 0 { journal.shared.options.record_limit_bytes } else { 700 };
                let payload = vec![random.below(256) as u8; random.below(limit as u64 + 1) as usize];
                if let Ok(ticket) = journal.begin(&payload) {
                    model.wrote(Entry::Record { lsn: ticket.lsn(), payload: payload.into() });
                    tickets.push(ticket);
                }
            }
            6..8 if !tickets.is_empty() => {
                let ticket = tickets.swap_remove(random.below(tickets.len() as u64) as usize);
                let (lsn, of, outcome) = (journal.appended(), ticket.lsn(), Outcome::Committed);
                if random.below(3) == 0 {
                    drop(ticket);
                    model.wrote(Entry::Dropped { lsn, of });
                } else {
                    ticket.end(outcome);
                    model.wrote(Entry::Outcome { lsn, of, outcome });
                }
            }
            8 => {
                journal.sync_now();
                model.synced(journal);
                tickets.iter_mut().for_each(|ticket| assert!(is_durable(ticket)));
            }
            9 => disk.write_back(random.below(1 << 30)),
            10 if !model.entries.is_empty() => {
                let index = random.below(model.entries.len() as u64) as usize;
                journal.trim(lsn(&model.entries[index].0));
            }
            _ => {
                let label = random.below(20);
                if journal.announce(label) {
                    model.labels.insert(label);
                }
            }
        }
    }
    tickets
}

#[test]
fn after_any_crash_nothing_durable_is_missing_nothing_is_invented_and_no_lsn_is_used_again() {
    if let Some(seed) = SEED {
        return simulate(seed);
    }
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| simulate(seed));
        assert!(run.is_ok(), "seed {seed} failed");
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let ticket = journal.begin(b"only in the ring").expect("room");
    let lsn = ticket.lsn();
    let (journal, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.from_ring), (Last::Killed, 32));
    assert_eq!(journal.begun(), recovered.appended);
    assert_eq!(read_all(&journal), vec![Entry::Record { lsn, payload: Bytes::from_static(b"only in the ring") }]);
}

/// The header of so many bytes at this place, as the first version wrote it.
fn older(bytes: &mut [u8], at: usize, len: usize) {
    let header = &mut bytes[at..at + len];
    header[8..16].copy_from_slice(&1_u64.to_le_bytes());
    let crc = crc32fast::hash(header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_an_older_version_left_when_it_was_killed_is_all_there() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let ticket = journal.begin(b"only in the ring").expect("room");
    let lsn = ticket.lsn();
    let (control, segment, ring) = (72, segment::SECTOR, 48);
    for (name, len) in [("control", control), ("00000001.segment", segment), ("ring", ring)] {
        let is_there = disk.tamper(name, |bytes| {
            let slots = if name == "control" { vec![0, 32 << 10] } else { vec![0] };
            slots
                .into_iter()
                .filter(|at| bytes[at + 8] != 0)
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|at| older(bytes, at, len));
        });
        assert!(is_there, "{name}");
    }
    let (journal, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.from_ring), (Last::Killed, 32));
    assert_eq!(read_all(&journal), vec![Entry::Record { lsn, payload: Bytes::from_static(b"only in the ring") }]);
}

#[test]
fn a_segment_torn_at_any_byte_keeps_the_entries_before_the_tear() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let tickets: Vec<Ticket> = (0..5_u8).map(|n| journal.begin(&[n; 20]).expect("room")).collect();
    journal.sync_now();
    let end = journal.appended().0;
    for cut in 0..end {
        let disk = MemoryDisk::default();
        let (journal, _) = open(&disk);
        let _tickets: Vec<Ticket> = (0..5_u8).map(|n| journal.begin(&[n; 20]).expect("room")).collect();
        journal.sync_now();
        disk.power_loss(cut);
        disk.tamper("ring", |bytes| bytes.fill(0));
        disk.tamper("00000001.segment", |bytes| bytes[(segment::PAGE + cut) as usize..].fill(0xff));
        let (journal, recovered) = open(&disk);
        assert_eq!(recovered.last, Last::Lost);
        assert!(recovered.appended.0 >= end, "cut at {cut}");
        let whole = tickets.iter().filter(|ticket| ticket.lsn().0 + 36 <= cut).count();
        assert_eq!(read_all(&journal).len(), whole, "cut at {cut}");
    }
}

#[test]
fn what_a_clean_close_had_synced_and_is_gone_is_an_error() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    drop(journal.begin(b"synced").expect("room"));
    journal.close().now_or_never().expect("no threads").expect("closes");
    disk.power_loss(1);
    disk.tamper("ring", |bytes| bytes.fill(0));
    disk.tamper("00000001.segment", |bytes| bytes[segment::PAGE as usize..].fill(0));
    let Err(error) = Journal::open_on(disk.storage(), small()) else { panic!("opened a damaged journal") };
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_missing_segment_and_a_missing_control_file_are_errors() {
    for gone in ["00000001.segment", "control"] {
        let disk = MemoryDisk::default();
        let (journal, _) = open(&disk);
        while let Ok(ticket) = journal.begin(&[1; 1000]) {
            ticket.end(Outcome::Committed);
            journal.sync_now();
        }
        disk.storage().remove(gone).expect("there");
        let Err(error) = Journal::open_on(disk.storage(), small()) else { panic!("opened without {gone}") };
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_newer_version_is_refused() {
    for name in ["control", "00000001.segment", "ring"] {
        let disk = MemoryDisk::default();
        drop(open(&disk));
        drop(disk.storage());
        disk.tamper(name, |bytes| {
            let slots = if name == "control" { vec![0, 32 << 10] } else { vec![0] };
            slots.into_iter().for_each(|at| bytes[at + 8] = 3);
        });
        let Err(error) = Journal::open_on(disk.storage(), small()) else { panic!("opened a newer {name}") };
        assert!(matches!(error, OpenError::Newer { found: 3, known: 2, .. }), "{name}: {error}");
    }
}

#[test]
fn a_full_journal_refuses_records_takes_outcomes_and_has_room_again_after_a_trim() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let mut tickets = Vec::new();
    let refused = loop {
        match journal.begin(&[7; 1000]) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
        journal.sync_now();
    };
    assert_eq!(refused, Error::Full);
    let mut room = Box::pin(journal.room(1000));
    assert!(room.as_mut().now_or_never().is_none());
    tickets.into_iter().for_each(|ticket| ticket.end(Outcome::Committed));
    assert_eq!(journal.status().broken, None);
    journal.trim(journal.appended());
    journal.sync_now();
    room.now_or_never().expect("there is room").expect("not broken");
    assert!(journal.begin(&[7; 1000]).is_ok());
    assert!(journal.status().bytes <= journal.status().limit_bytes);
}

#[test]
fn what_fills_the_files_from_a_position_on_is_told() {
    let (journal, _) = open(&MemoryDisk::default());
    journal.sync_now();
    while journal.status().segments < 5 {
        assert!(!journal.is_filled_from(Lsn(0)), "of six");
        journal.begin(&[0; 1900]).expect("there is room").end(Outcome::Committed);
        journal.sync_now();
    }
    assert!(journal.is_filled_from(Lsn(0)) && !journal.is_filled_from(journal.appended()));
    let trimmed = read_all(&journal).iter().map(lsn).find(|lsn| lsn.0 > small().segment_bytes).expect("it is longer");
    assert!(!journal.is_filled_from(trimmed), "the first file is kept, and not for it");
}

#[test]
fn a_ring_full_of_unsynced_records_refuses_until_the_next_sync() {
    let (journal, _) = open(&MemoryDisk::default());
    while let Ok(ticket) = journal.begin(&[7; 500]) {
        ticket.end(Outcome::Aborted);
    }
    assert!(journal.room(500).now_or_never().is_none());
    journal.sync_now();
    journal.room(500).now_or_never().expect("there is room").expect("not broken");
}

#[test]
fn an_outcome_goes_with_the_next_records_sync() {
    let (journal, _) = open(&MemoryDisk::default());
    let due = || journal.shared.due(&journal.shared.lock());
    let ticket = journal.begin(b"first").expect("room");
    assert!(due());
    journal.sync_now();
    ticket.end(Outcome::Committed);
    assert!(!due() && journal.durable() < journal.appended());
    let _second = journal.begin(b"second").expect("room");
    assert!(due());
    journal.sync_now();
    assert_eq!(journal.durable(), journal.appended());
}

#[test]
fn a_record_over_the_limit_is_refused_alone() {
    let (journal, _) = open(&MemoryDisk::default());
    assert_eq!(journal.begin(&[0; 2001]).err(), Some(Error::TooLarge(2001)));
    assert!(journal.begin(&[0; 2000]).is_ok());
}

#[test]
fn a_journal_for_large_records_takes_the_largest_there_can_be_and_reads_it_back() {
    const LARGEST: usize = (16 << 20) - (4 << 10);
    let options = || Options::for_records(LARGEST);
    assert_eq!((options().ring_bytes, Options::for_records(1000).ring_bytes), (64 << 20, 8 << 20));
    let disk = MemoryDisk::default();
    let (journal, _) = Journal::open_on(disk.storage(), options()).expect("opens");
    assert_eq!(journal.begin(&vec![0; LARGEST + 1]).err(), Some(Error::TooLarge(LARGEST + 1)));
    let large = |n: u8| vec![n; LARGEST];
    // Once out of the ring, and once out of what a kill left and the segments have.
    let all = (0..3).map(|n| journal.begin(&large(n)).expect("room").lsn()).collect::<Vec<_>>();
    let check = |journal: &Journal| {
        let entries = read_all(journal);
        let found = all.iter().zip(0..).all(|(lsn, n)| {
            entries
                .iter()
                .any(|entry| matches!(entry, Entry::Record { lsn: at, payload } if at == lsn && *payload == large(n)))
        });
        assert!(found);
    };
    check(&journal);
    let (journal, recovered) = Journal::open_on(disk.storage(), options()).expect("opens");
    assert_eq!(recovered.last, Last::Killed);
    check(&journal);
}

#[test]
fn a_journal_whose_ring_had_another_size_opens_with_all_that_only_the_ring_had() {
    for (from, to) in [(small(), tight()), (tight(), small())] {
        let disk = MemoryDisk::default();
        let (journal, _) = Journal::open_on(disk.storage(), from.clone()).expect("opens");
        let largest = from.record_limit_bytes;
        let tickets: Vec<Ticket> = (0..3).map(|n| journal.begin(&vec![n; largest]).expect("room for three")).collect();
        let before = read_all(&journal);
        let (journal, recovered) = Journal::open_on(disk.storage(), to.clone()).expect("opens");
        assert_eq!((recovered.last, recovered.from_ring), (Last::Killed, 3 * (16 + largest as u64)));
        assert_eq!(read_all(&journal), before);
        let ticket = journal.begin(&vec![9; to.record_limit_bytes]).expect("room");
        assert!(ticket.lsn() > tickets[2].lsn());
        ticket.end(Outcome::Committed);
        journal.close().now_or_never().expect("no threads").expect("closes");
        let (journal, recovered) = Journal::open_on(disk.storage(), to).expect("opens");
        assert_eq!((recovered.last, read_all(&journal).len()), (Last::Clean, 5));
    }
}

#[test]
fn a_power_loss_before_a_larger_ring_was_used_jumps_over_all_that_the_older_one_could_hold() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let ticket = journal.begin(&[1; 2000]).expect("room");
    disk.power_loss(3);
    let (journal, recovered) = Journal::open_on(disk.storage(), tight()).expect("opens");
    assert_eq!(recovered.last, Last::Lost);
    assert!(journal.begin(&[2; 8000]).expect("room").lsn() > ticket.lsn());
}

#[test]
fn a_full_disk_refuses_before_a_record_is_accepted() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    disk.limit_space(Some(0));
    let mut tickets = Vec::new();
    while let Ok(ticket) = journal.begin(&[7; 1000]) {
        tickets.push(ticket);
        journal.sync_now();
    }
    tickets.into_iter().for_each(|ticket| ticket.end(Outcome::Committed));
    journal.sync_now();
    assert_eq!(journal.status().broken, None);
    assert_eq!(journal.durable(), journal.appended());
    disk.limit_space(None);
    journal.sync_now();
    assert!(journal.begin(&[7; 1000]).is_ok());
}

#[test]
fn the_last_room_of_a_disk_is_left_to_others() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let (storage, spare) = (&journal.shared.storage, journal.status().spare);
    for (segments, more) in [(0, 0), (1, 0), (2, 1)] {
        disk.limit_space(None);
        let used = {
            disk.limit_space(Some(u64::MAX));
            u64::MAX - storage.free_bytes().expect("limited")
        };
        disk.limit_space(Some(used + segments * small().file_bytes()));
        journal.sync_now();
        assert_eq!(journal.status().spare, spare + more, "room for {segments}");
    }
}

#[test]
fn a_disk_without_room_for_a_spare_segment_does_not_keep_a_journal_from_opening() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    while journal.begin(&[7; 1000]).is_ok() {
        journal.sync_now();
    }
    let held = journal.appended();
    drop(journal);
    disk.limit_space(Some(0));
    let (journal, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.appended), (Last::Killed, held));
    assert!(matches!(journal.begin(&[7; 1000]), Err(Error::Full)));
}

#[test]
fn a_log_that_was_removed_beside_what_names_its_positions_begins_above_them_and_all_is_lost_promise_6() {
    for (removed, reached) in [(true, 0), (true, 100_000), (false, 100_000)] {
        let disk = MemoryDisk::default();
        let at = if removed { 0 } else { close_after_one(&disk).0 };
        let (journal, recovered) =
            Journal::open_on(disk.storage(), Options { beside: Some(Lsn(reached)), ..small() }).expect("opens");
        assert_eq!(recovered.appended, Lsn(reached.max(at)));
        assert!(recovered.active.all);
        let ticket = journal.begin(b"record").expect("room");
        assert_eq!(ticket.lsn(), Lsn(reached.max(at)));
        ticket.end(Outcome::Committed);
        journal.sync_now();
        assert!(read_all(&journal).iter().any(|entry| lsn(entry) == recovered.appended));
        drop(journal);
        let again = Options { beside: Some(Lsn(reached)), ..small() };
        let (_, recovered) = Journal::open_on(disk.storage(), again).expect("opens");
        assert!(recovered.last == Last::Killed && recovered.active.all, "told until it is confirmed");
    }
}

#[test]
fn a_snapshot_that_was_brought_back_behind_a_boot_is_behind_the_place_that_was_kept() {
    let disk = MemoryDisk::default();
    let at = close_after_one(&disk);
    let (journal, _) = open(&disk);
    let other = journal.place();
    assert_eq!(other.reached, at);
    drop(journal);
    disk.power_loss(1);
    let (journal, recovered) = open(&disk);
    assert!(recovered.last == Last::Lost && journal.begun() > at, "positions are passed over");
    assert!(!journal.was_further(other), "this was durable");
    assert!(journal.was_further(Place { reached: Lsn(at.0 + 8), ..other }), "and this, elsewhere");
}

#[test]
fn a_log_of_one_file_gets_a_second_one_while_there_is_room_for_that() {
    let disk = MemoryDisk::default();
    disk.limit_space(Some(1 << 20));
    let (journal, _) = open(&disk);
    assert_eq!(journal.status().spare, 1);
    let used = (1 << 20) - journal.shared.storage.free_bytes().expect("limited");
    drop(journal);
    let disk = MemoryDisk::default();
    disk.limit_space(Some(used));
    let (journal, _) = open(&disk);
    assert_eq!(journal.status().spare, 1, "the last room of the disk");
}

#[test]
fn a_log_as_long_as_what_lies_beside_it_knows_is_whole() {
    let disk = MemoryDisk::default();
    let at = close_after_one(&disk);
    let (_, recovered) = Journal::open_on(disk.storage(), Options { beside: Some(at), ..small() }).expect("opens");
    assert_eq!((recovered.last, recovered.appended), (Last::Clean, at));
    assert!(recovered.active.is_empty());
}

#[test]
fn a_copy_of_the_directory_that_was_brought_back_is_behind_the_place_that_was_kept() {
    let (disk, mut place) = (MemoryDisk::default(), None);
    for life in 0..3 {
        let (journal, _) = open(&disk);
        assert!(place.is_none_or(|place| !journal.was_further(place)), "life {life}");
        journal.begin(b"record").expect("room").end(Outcome::Committed);
        place = Some(journal.place());
        assert!(!journal.was_further(journal.place()));
    }
    let kept = place.expect("there were three");
    let (journal, _) = open(&MemoryDisk::default());
    assert!(!journal.was_further(kept), "it is another one");
    let further = Place { reached: Lsn(1), ..journal.place() };
    assert!(journal.was_further(further));
    journal.begin(b"as far by now").expect("room").end(Outcome::Committed);
    assert!(!journal.was_further(further), "its own");
    assert!(journal.was_further(Place { life: !further.life, ..further }), "it began behind");
}

/// Where it ends.
fn close_after_one(disk: &MemoryDisk) -> Lsn {
    let (journal, _) = open(disk);
    journal.begin(b"record").expect("room").end(Outcome::Committed);
    journal.close().now_or_never().expect("no threads").expect("closes");
    journal.appended()
}

#[test]
fn a_damaged_entry_that_was_durable_long_ago_leaves_no_table_trusted_promise_6() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    for _ in 0..12 {
        journal.begin(&[7; 1000]).expect("room").end(Outcome::Committed);
        journal.sync_now();
    }
    journal.confirm_loss();
    journal.sync_now();
    drop(journal);
    assert!(disk.tamper("00000001.segment", |bytes| bytes[segment::PAGE as usize + 100] ^= 1));
    let (_, recovered) = open(&disk);
    assert_eq!(recovered.last, Last::Lost);
    assert!(recovered.active.all);
}

#[test]
fn a_failing_disk_fails_every_waiter_and_every_later_record() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let mut ticket = journal.begin(b"record").expect("room");
    assert!(!is_durable(&mut ticket));
    assert!(!journal.announce(1));
    disk.fail_after(0, libc::EIO);
    journal.sync_now();
    let failed = poll_fn(|cx| ticket.poll_durable(cx)).now_or_never().expect("does not hang");
    assert!(matches!(failed, Err(Error::Broken(_))));
    assert!(matches!(journal.begin(b"more"), Err(Error::Broken(_))));
    assert!(matches!(journal.announced(1).now_or_never(), Some(Err(Error::Broken(_)))));
    assert!(matches!(journal.room(1).now_or_never(), Some(Err(Error::Broken(_)))));
    assert!(journal.announce(1) && journal.announce(2), "nobody waits for it: the record is refused");
    ticket.end(Outcome::Committed);
}

#[test]
fn a_trimmed_position_is_not_readable_and_what_follows_is() {
    let (journal, _) = open(&MemoryDisk::default());
    let first = journal.begin(b"first").expect("room");
    let second = journal.begin(b"second").expect("room");
    journal.trim(second.lsn());
    assert_eq!(journal.read(first.lsn(), 100).now_or_never(), Some(Err(Error::Trimmed(first.lsn()))));
    assert_eq!(read_all(&journal).len(), 1);
}

#[test]
fn a_dropped_ticket_is_in_the_journal() {
    let (journal, _) = open(&MemoryDisk::default());
    let ticket = journal.begin(b"record").expect("room");
    let (lsn, of) = (journal.appended(), ticket.lsn());
    drop(ticket);
    assert_eq!(read_all(&journal)[1..], [Entry::Dropped { lsn, of }]);
}

#[test]
fn what_is_trimmed_may_be_read_again_after_a_crash_until_it_is_forgotten() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    let append = || {
        for _ in 0..20 {
            journal.begin(&[7; 900]).expect("room").end(Outcome::Committed);
            journal.sync_now();
        }
        journal.trim(journal.appended());
        journal.appended()
    };
    let first = append();
    assert_eq!((journal.trimmed(), journal.forgotten()), (first, Lsn(0)));
    journal.sync_now();
    assert_eq!(journal.forgotten(), first);
    let second = append();
    assert_eq!((journal.trimmed(), journal.forgotten()), (second, first));
    disk.power_loss(1);
    assert_eq!(open(&disk).0.trimmed(), first);
}

#[test]
fn a_lost_window_is_reported_until_it_is_confirmed() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    assert!(!journal.announce(42));
    journal.sync_now();
    assert!(journal.announce(42));
    disk.power_loss(1);
    for _ in 0..2 {
        let (_journal, recovered) = open(&disk);
        assert_eq!(recovered.active.list, vec![42]);
    }
    let (journal, _) = open(&disk);
    journal.confirm_loss();
    journal.sync_now();
    assert!(open(&disk).1.active.is_empty());
}

#[test]
fn what_could_not_be_marked_dirty_is_every_label_after_a_kill_and_after_a_clean_end() {
    for clean in [false, true] {
        let disk = MemoryDisk::default();
        let (journal, _) = open(&disk);
        journal.unmarked(true);
        if clean {
            journal.close().now_or_never().expect("no threads").expect("closes");
        }
        for _ in 0..2 {
            let (_journal, recovered) = open(&disk);
            assert!(recovered.active.all, "clean: {clean}");
        }
        let (journal, _) = open(&disk);
        journal.confirm_loss();
        journal.sync_now();
        journal.unmarked(true);
        journal.unmarked(false);
        assert!(open(&disk).1.active.is_empty(), "by then it could");
    }
}

#[test]
fn writes_that_pass_a_journal_by_may_be_to_every_label() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("journal");
    assert!(pass_by(&path).expect("there is none").is_none());
    let reopened = || Journal::open(&path, Options { segment_bytes: 4 << 20, ..Options::default() }).expect("opens");
    let (journal, recovered) = reopened();
    assert!(recovered.active.is_empty());
    assert!(matches!(pass_by(&path), Err(OpenError::Locked(_))), "somebody writes to it");
    drop(journal);
    let passed = pass_by(&path).expect("it can be said").expect("there is one");
    let locked = Journal::open(&path, Options { segment_bytes: 4 << 20, ..Options::default() });
    assert!(matches!(locked, Err(OpenError::Locked(_))));
    drop(passed);
    assert!(reopened().1.active.all);
}

#[test]
fn labels_that_nobody_announces_again_leave_after_a_window() {
    let disk = MemoryDisk::default();
    let options = Options { window: Duration::ZERO, ..small() };
    let (journal, _) = Journal::open_on(disk.storage(), options).expect("opens");
    journal.announce(42);
    (0..4).for_each(|_| journal.sync_now());
    disk.power_loss(1);
    assert!(open(&disk).1.active.is_empty());
}

#[test]
fn more_labels_than_can_be_listed_stand_for_all() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    (0..=control::LABELS as u64 + 5).for_each(|label| assert!(!journal.announce(label)));
    journal.sync_now();
    assert!(journal.announce(1 << 32));
    disk.power_loss(1);
    assert!(open(&disk).1.active.all);
}

#[test]
fn what_stands_for_all_labels_leaves_after_a_window_as_each_of_them_does() {
    for many in [control::LABELS as u64 + 5, 0] {
        let disk = MemoryDisk::default();
        let options = Options { window: Duration::ZERO, ..small() };
        let (journal, _) = Journal::open_on(disk.storage(), options).expect("opens");
        (0..many).for_each(|label| assert!(!journal.announce(label)));
        assert!(!journal.announce(ANY));
        assert_eq!(journal.is_announced(1 << 32), many > 0, "they are too many to tell");
        (0..4).for_each(|_| journal.sync_now());
        assert!(!journal.is_announced(1 << 32) && !journal.is_announced(1));
        disk.power_loss(1);
        assert!(open(&disk).1.active.is_empty());
    }
}

#[test]
fn who_may_write_under_any_label_announces_none_and_may_have_lost_all() {
    let disk = MemoryDisk::default();
    let (journal, _) = open(&disk);
    assert!(!journal.announce(ANY));
    journal.sync_now();
    assert!(journal.announce(ANY) && !journal.is_announced(1));
    disk.power_loss(1);
    assert!(open(&disk).1.active.all);
}

#[tokio::test]
async fn a_journal_on_a_real_disk_syncs_reads_and_closes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("journal");
    let options = Options { size_limit_bytes: 100 << 20, segment_bytes: 4 << 20, ..Options::default() };
    let (journal, recovered) = Journal::open(&path, options.clone()).expect("opens");
    assert_eq!(recovered.last, Last::Clean);
    let mut ticket = journal.begin(b"record").expect("room");
    poll_fn(|cx| ticket.poll_durable(cx)).await.expect("durable");
    ticket.end(Outcome::Committed);
    for _ in 0..9 {
        journal.room(1 << 20).await.expect("not broken");
        journal.begin(&vec![1; 1 << 20]).expect("there was room").end(Outcome::Aborted);
    }
    assert!(!journal.announce(1));
    journal.announced(1).await.expect("not broken");
    let Err(second) = Journal::open(&path, options.clone()) else { panic!("opened twice") };
    assert!(second.to_string().contains(&path.display().to_string()), "{second}");

    journal.close().await.expect("closes");
    drop(journal);
    // With a larger ring than the one that is there.
    let (journal, recovered) = Journal::open(&path, Options { ring_bytes: 16 << 20, ..options }).expect("opens");
    assert_eq!(recovered.last, Last::Clean);
    let (mut at, mut count) = (journal.trimmed(), 0);
    while at < journal.appended() {
        let (entries, next) = journal.read(at, 1 << 20).await.expect("readable");
        count += entries.len();
        at = next;
    }
    assert_eq!(count, 20);
}

const CHILD: &str = "TANDEM_TEST_JOURNAL_CHILD";

/// Not a test of its own: the process that [`a_process_killed_by_the_kernel_has_lost_nothing_it_told`] kills.
#[test]
fn child_that_appends_until_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let options = Options { size_limit_bytes: 64 << 20, segment_bytes: 4 << 20, ..Options::default() };
    let (journal, _) = Journal::open(Path::new(&dir), options).expect("opens");
    let mut told = std::io::stderr().lock();
    for n in 0_u64.. {
        let ticket = journal.begin(&n.to_le_bytes()).or_else(|_| {
            journal.trim(journal.durable());
            journal.begin(&n.to_le_bytes())
        });
        let Ok(ticket) = ticket else { continue };
        if writeln!(told, "{n} {}", ticket.lsn().0).is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_process_killed_by_the_kernel_has_lost_nothing_it_told() {
    let dir = tempfile::tempdir().expect("temp dir");
    let exe = std::env::current_exe().expect("this test");
    let mut child = Command::new(exe)
        .args(["--exact", "journal::tests::child_that_appends_until_killed", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut told: Vec<String> = lines.by_ref().take(3000).map(|line| line.expect("text")).collect();
    child.kill().expect("running");
    child.wait().expect("gone");
    // Also what was told between our last line and the kill; the very last line may be cut.
    told.extend(lines.map_while(Result::ok));

    let options = Options { size_limit_bytes: 64 << 20, segment_bytes: 4 << 20, ..Options::default() };
    let (journal, recovered) = Journal::open(dir.path(), options).expect("opens");
    assert_eq!(recovered.last, Last::Killed);
    let (mut at, mut found) = (journal.trimmed(), std::collections::BTreeMap::new());
    while at < journal.appended() {
        let (entries, next) = journal.read(at, 1 << 20).await.expect("readable");
        for entry in entries {
            if let Entry::Record { lsn, payload } = entry {
                found.insert(segment::u64_at(&payload, 0), lsn.0);
            }
        }
        at = next;
    }
    let pairs = told.iter().filter_map(|line| line.split_once(' '));
    let told: Vec<(u64, u64)> = pairs.filter_map(|(n, lsn)| Some((n.parse().ok()?, lsn.parse().ok()?))).collect();
    assert!(told.len() >= 2900);
    let cut = told.len() - 1;
    for (n, lsn) in &told[..cut] {
        assert!(*lsn < journal.trimmed().0 || found.get(n) == Some(lsn), "record {n} at {lsn} is missing");
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_of_what_is_kept_is_told_by_position_and_never_too_high() {
    let (journal, _) = open(&MemoryDisk::default());
    let second = Duration::from_secs(1);
    assert_eq!(journal.age(journal.appended()), Duration::ZERO, "there is nothing");
    let append = || {
        let at = journal.appended();
        journal.begin(b"record").expect("there is room").end(Outcome::Committed);
        journal.sync_now();
        at
    };
    let first = append();
    tokio::time::advance(30 * second).await;
    let later = append();
    tokio::time::advance(10 * second).await;
    let ages = [first, later, journal.appended()].map(|at| journal.age(at).as_secs());
    assert_eq!(ages, [40, 10, 0]);
}

#[tokio::test]
async fn a_full_journal_and_who_waits_for_it_are_seen() {
    let (journal, _) = open(&MemoryDisk::default());
    journal.sync_now();
    let seen = || (journal.status().full, journal.status().waiting);
    assert_eq!(seen(), (false, 0));
    while let Ok(ticket) = journal.begin(&[0; 2000]) {
        ticket.end(Outcome::Committed);
        journal.sync_now();
    }
    let mut room = Box::pin(journal.room(2000));
    assert!((&mut room).now_or_never().is_none());
    assert_eq!(seen(), (true, 1));
    journal.trim(journal.appended());
    journal.sync_now();
    room.await.expect("there is room");
    assert_eq!(seen(), (false, 0));
}

#[tokio::test]
async fn a_panic_of_the_thread_that_syncs_breaks_the_journal_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().expect("temp dir");
    let options = Options { on_sync: Some(Arc::new(|_| panic!("as a bug would"))), ..Options::default() };
    let (journal, _) = Journal::open(&dir.path().join("journal"), options).expect("opens");
    let said = async {
        loop {
            match journal.begin(b"record") {
                // What was synced before the panic is durable; nobody waits for more than that.
                Ok(mut ticket) => drop(poll_fn(|cx| ticket.poll_durable(cx)).await),
                Err(error) => return error,
            }
        }
    };
    let said = tokio::time::timeout(Duration::from_secs(120), said).await.expect("nobody waits for ever");
    assert!(matches!(said, Error::Broken(why) if why.contains("panicked")));
    assert!(journal.status().broken.is_some());
}
