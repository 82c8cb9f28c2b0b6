//! What sessions share, without any server: a journal in memory, an open gate, the hand-built schema.

use std::sync::Arc;

use crate::config::{Config, Live};
use crate::cutover::gate::{Gate, Route};
use crate::journal::Journal;
#[cfg(test)]
use crate::journal::{Entry, Lsn, Outcome};
use crate::record::Side;
#[cfg(test)]
use crate::shadow::{Board, Queue};

use super::analysis::schema::catalog;
use super::cache::PlanCache;
use super::logins::Logins;
use super::moving::sessions::Sessions;
#[cfg(test)]
use super::shadow::Asked;
use super::shared::{Policy, Schema, Shared};

/// The longest message that is kept.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Mirroring, with the default policy but for short limits.
pub(crate) fn shared() -> Arc<Shared> {
    Arc::new(made())
}

/// The same with something else in it.
#[cfg(test)]
pub(crate) fn changed(change: impl FnOnce(&mut Shared)) -> Arc<Shared> {
    let mut shared = made();
    change(&mut shared);
    Arc::new(shared)
}

/// A journal that does nothing by itself: who writes a table for the first time waits for [`Journal::sync_now`].
#[cfg(test)]
pub(crate) fn slow_journal() -> Journal {
    let storage = crate::journal::storage::MemoryDisk::default().storage();
    Journal::open_on(storage, crate::journal::Options::default()).expect("it is new").0
}

/// The same, and it takes few records before each of those; clients wait for room in it.
#[cfg(test)]
pub(crate) fn narrow(shared: &mut Shared) {
    let storage = crate::journal::storage::MemoryDisk::default().storage();
    let options = crate::journal::Options {
        segment_bytes: 64 << 10,
        record_limit_bytes: 4 << 10,
        ring_bytes: 16 << 10,
        ..crate::journal::Options::default()
    };
    shared.journal = Journal::open_on(storage, options).expect("it is new").0;
    shared.policy.live.change([("journal.on_full", "block")].into_iter()).expect("it can be changed");
}

/// Until it takes nothing more.
#[cfg(test)]
pub(crate) fn fill(journal: &Journal) {
    for size in [2_000, 100, 1] {
        while journal.begin(&vec![7; size]).is_ok() {}
    }
}

/// The same, and every read is chosen to be repeated.
#[cfg(test)]
pub(crate) fn shadowed() -> (Arc<Shared>, Board, Queue<Asked>) {
    let mut shared = made();
    shared.policy.live.change([("shadow.sample", "100%")].into_iter()).expect("it can be changed");
    let (live, gate, journal) = (shared.policy.live.clone(), shared.gate.clone(), shared.journal.clone());
    let board = Board::new(&config().shadow, "postgres", live, gate, journal);
    let (reads, queue) = board.open();
    shared.shadow = reads;
    (Arc::new(shared), board, queue)
}

fn made() -> Shared {
    let journal = Journal::in_memory();
    Shared {
        gate: Gate::new(Route { primary: Side::Origin, mirror: true, epoch: 1 }),
        logins: Logins::new(journal.clone()),
        journal,
        catalog: Schema::new(catalog()),
        plans: PlanCache::new(100),
        policy: policy(),
        full: std::sync::atomic::AtomicBool::new(false),
        shadow: crate::shadow::Handle::off(),
        repeating: Default::default(),
        sessions: Sessions::default(),
        uncounted: Default::default(),
        lost: Arc::new(|_, _| {}),
        untaken: Default::default(),
        unrepeated: Default::default(),
    }
}

/// What a journal in memory has.
#[cfg(test)]
pub(crate) fn entries(journal: &Journal) -> Vec<Entry> {
    let read = journal.read(Lsn::default(), 16 << 20);
    futures_util::FutureExt::now_or_never(read).expect("at once").expect("read").0
}

/// The records, in order.
#[cfg(test)]
pub(crate) fn records(journal: &Journal) -> Vec<bytes::Bytes> {
    let records = entries(journal).into_iter().filter_map(|entry| match entry {
        Entry::Record { payload, .. } => Some(payload),
        _ => None,
    });
    records.collect()
}

/// The outcomes of the records, in order: C, A, U (unknown), or ? where there is none.
#[cfg(test)]
pub(crate) fn outcomes(journal: &Journal) -> String {
    let mut found: Vec<(Lsn, char)> = Vec::new();
    for entry in entries(journal) {
        match entry {
            Entry::Record { lsn, .. } => found.push((lsn, '?')),
            Entry::Outcome { of, outcome, .. } => {
                let letter = match outcome {
                    Outcome::Committed => 'C',
                    Outcome::Aborted => 'A',
                    Outcome::Unknown => 'U',
                };
                found.iter_mut().filter(|(lsn, _)| *lsn == of).for_each(|(_, known)| *known = letter);
            }
            Entry::Dropped { .. } => {}
        }
    }
    found.into_iter().map(|(_, letter)| letter).collect()
}

pub(super) fn config() -> Config {
    let text = "[[listen]]\nwire = \"postgres\"\naddress = \"127.0.0.1:1\"\n\
                [origin]\nurl = \"postgres://a@h:1/d\"\n[target]\nurl = \"postgres://a@h:2/d\"\n";
    Config::from_text("proxy.toml", text, []).expect("valid")
}

fn policy() -> Policy {
    Policy {
        live: Live::new(&config()),
        statement_bytes_max: 300,
        spill_bytes: 1 << 20,
        message_bytes_max: MESSAGE_BYTES_MAX,
    }
}
