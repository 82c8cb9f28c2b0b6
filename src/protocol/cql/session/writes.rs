//! All that a write needs before it goes to the server: its turn among conditional statements, its place among the writes to
//! its tables, its record.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::cutover::gate::Pass;
use crate::journal::{self, Journal, Ticket};
use crate::metrics;
use crate::mirror::unwritten::Unwritten;
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::wire::frame::Frame;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::record::{Backend, RecordBuf, TableId};

use super::barriers::Writes;
use super::capture::Captured;
use super::contests::Contest;
use super::framing::Next;
use super::reach::Reach;
use super::turns::Turns;
use super::{Came, Fault, Halt, Has, Session, What, Writing};

/// How long a conditional statement waits for clocks at most: beyond that they are wrong, and the statement is decided as it
/// would be without tandem.
pub(super) const CLOCK_WAIT: Duration = Duration::from_secs(1);
/// Clocks are looked at again while they are waited for: somebody may set them.
pub(super) const CLOCK_LOOK: Duration = Duration::from_millis(100);
/// How long a client waits for a journal that is full: a disk that is a moment behind a burst of large writes catches up.
pub(super) const FULL_WAIT: Duration = Duration::from_secs(1);

/// What the journal has of a write; nothing where it is not mirrored.
#[derive(Default)]
struct Noted {
    ticket: Option<Ticket>,
    /// The journal did not take it.
    unwritten: Option<Unwritten>,
}

/// Places among the writes to its tables, and among the conditional ones; its record.
type WrittenDown = (Vec<Writes>, Option<Contest>, Noted);

impl Session {
    /// All that a write needs, then the write.
    pub(super) fn write(
        &mut self,
        frame: Frame<'_>,
        pass: Pass,
        mut captured: Captured,
        consistency: Consistency,
    ) -> Result<Next, Fault> {
        let (tables, contest, Noted { ticket, unwritten: _unwritten }) = match self.written_down(&mut captured) {
            Ok(written) => written,
            Err(halt) => {
                self.has.pass = Some(pass);
                return Ok(self.wait(halt));
            }
        };
        let Captured { kind, instead, conditional, decision, by_state, untried, is_barrier, .. } = captured;
        let Has { turns, alone, .. } = std::mem::take(&mut self.has);
        let begun = |reach: &Reach| Turns::begin(turns, reach.own().collect(), self.shared.before(self.side));
        let turns = conditional.as_ref().map(begun).unwrap_or_default();
        let writing = Writing {
            ticket,
            kind,
            consistency,
            conditional,
            contest,
            decision,
            by_state,
            turns,
            tables,
            untried,
            alone,
            is_barrier,
            _unwritten,
        };
        let bytes = instead.as_deref().unwrap_or(frame.bytes);
        self.depart(bytes, frame.header, pass, What::Write(Box::new(writing)));
        Ok(Next::More)
    }

    /// Its places among the writes to its tables, and its record, or what it has to wait for first.
    fn written_down(&mut self, captured: &mut Captured) -> Result<WrittenDown, Halt> {
        if let Some(reach) = &captured.conditional
            && let Some(halt) = self.conditional(reach)
        {
            return Err(halt);
        }
        let tables = self.tables(captured)?;
        // Before its record is.
        let contest = captured.conditional.as_ref().map(|reach| self.shared.contests.begin(reach.shown()));
        match self.begin(captured) {
            Ok(noted) => Ok((tables, contest, noted)),
            Err(halt) => {
                contest.into_iter().for_each(Contest::absent);
                Err(halt)
            }
        }
    }

    /// What a conditional statement still has to wait for. One whose partition cannot be told waits for the newest stamp of
    /// all.
    fn conditional(&mut self, reach: &Reach) -> Option<Halt> {
        let places = self.shared.places(reach.own());
        while let Some(place) = places.get(self.has.turns.len()) {
            let place = self.shared.turn(*place);
            match place.clone().try_lock_owned() {
                Ok(turn) => self.has.turns.push(turn),
                Err(_) => return Some(Halt::Until(Box::pin(async { Came::Turn(place.lock_owned().await) }))),
            }
        }
        let stamps = &self.shared.stamps;
        let newest = match reach.is_told() {
            true => reach.heeded().map(|hash| stamps.newest(hash)).max().unwrap_or_default(),
            false => stamps.last(),
        };
        // This side knows nothing of them.
        let ballots = reach.heeded().map(|hash| stamps.floor(self.side.other(), hash)).max().unwrap_or_default();
        let newest = newest.max(ballots);
        // A ballot is cut to milliseconds.
        let ahead = newest + self.shared.side(self.side).behind() - now_micros() + 1_001;
        if newest == 0 || ahead <= 0 {
            return None;
        }
        let left = CLOCK_WAIT.saturating_sub(self.has.clock);
        if left.is_zero() {
            metrics::CLOCKS_BEHIND_TOTAL.counter(&[]).increment(1);
            return None;
        }
        let pause = Duration::from_micros(ahead.unsigned_abs()).min(left).min(CLOCK_LOOK);
        let until = Instant::now() + pause;
        Some(Halt::Until(Box::pin(async move {
            tokio::time::sleep_until(until).await;
            Came::Clock(pause)
        })))
    }

    /// A place among the writes to its tables; a barrier must be alone on its own.
    fn tables(&self, captured: &Captured) -> Result<Vec<Writes>, Halt> {
        let mut named = captured.record.tables().filter(|table| *table != TableId::NONE);
        if captured.is_barrier {
            return match named.next().filter(|_| self.has.alone.is_none()) {
                None => Ok(Vec::new()),
                Some(table) => {
                    let barrier = self.shared.barriers.of(table);
                    Err(Halt::Until(Box::pin(async { Came::Alone(barrier.alone().await) })))
                }
            };
        }
        let enter = |table| {
            let barrier = self.shared.barriers.of(table);
            barrier.write().ok_or_else(|| {
                Halt::Until(Box::pin(async {
                    barrier.opened().await;
                    Came::Over
                }))
            })
        };
        named.map(enter).collect()
    }

    /// Write it down. Without room the tables are dirty instead: no client waits for the mirror.
    fn begin(&mut self, captured: &mut Captured) -> Result<Noted, Halt> {
        let Some(journal) = self.shared.journal.as_ref().filter(|_| !captured.record.is_empty()) else {
            return Ok(Noted::default());
        };
        if let Some(pending) = self.announcer.announce(journal, captured.record.tables().map(|table| table.0)) {
            let journal = journal.clone();
            return Err(Halt::Until(Box::pin(async move {
                // A journal that failed says so when the record is begun.
                let _ = journal.announced(pending).await;
                Came::Over
            })));
        }
        match journal.begin(captured.record.finish(Backend { id: self.number, life: 0 })) {
            Ok(ticket) if self.shared.contests.overtook(&captured.seen) => {
                ticket.end(journal::Outcome::Aborted);
                Err(Halt::Until(Box::pin(std::future::ready(Came::Over))))
            }
            Ok(ticket) => {
                self.shared.full.store(false, Ordering::Relaxed);
                Ok(Noted { ticket: Some(ticket), ..Noted::default() })
            }
            Err(journal::Error::Full) if self.waits_for_room() => Err(self.room(journal.clone(), &captured.record)),
            Err(error) => {
                metrics::JOURNAL_REFUSED_TOTAL.counter(&[("wire", "cql")]).increment(1);
                if matches!(error, journal::Error::TooLarge(_)) {
                    if let Some(left_out) = self.shared.too_large.say() {
                        tracing::error!(%error, left_out, "a write is not mirrored: its tables are dirty");
                    }
                } else if !self.shared.full.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the journal takes nothing: tables that are written to become dirty");
                }
                let unwritten = Unwritten::to(captured.record.tables(), &self.shared.lost);
                Ok(Noted { ticket: None, unwritten: Some(unwritten) })
            }
        }
    }

    /// Is a full journal worth this client's time? One that stays full is waited for by one write, not by each.
    fn waits_for_room(&self) -> bool {
        self.shared.policy.blocks_when_full() || !self.has.no_room && !self.shared.full.load(Ordering::Relaxed)
    }

    fn room(&self, journal: Journal, record: &RecordBuf) -> Halt {
        let patience = if self.shared.policy.blocks_when_full() { Duration::MAX } else { FULL_WAIT };
        let bytes = record.bytes();
        Halt::Until(Box::pin(async move {
            // One that broke says so when the record is begun.
            let waited = tokio::time::timeout(patience, journal.room(bytes)).await;
            waited.map_or(Came::NoRoom, |_| Came::Over)
        }))
    }
}
