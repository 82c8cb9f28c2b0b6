//! Every interleaving of small cases: two rows, one or two units, one or two payments, at most one crash, anywhere. The
//! real [`Ledger`] and [`Retention`] are driven as the engine drives them; servers, journal and process are values.
//!
//! The simulation beside this file meets many things at once, by chance. This one meets few things, and all of them:
//! that a rule of payments holds here is a proof for these sizes, and each rule is bent once to show that the proof
//! depends on it.
//!
//! A [`World`] is plain data, so that schedules which meet in the same world are walked on only once and still counted
//! one by one. What the code under test knows is not plain data; it is a function of what it was [`Told`], and is made
//! anew from that for every step. Two worlds are the same only if it was told the same.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::copier::{Gone, Owed};
use super::ledger::{Cut, Ledger};
use super::retention::{Payment, Retention};
use crate::journal::{Entry, Lsn, Outcome};
use crate::record::{Backend, RecordBuf, TableId};

const TABLE: TableId = TableId(1);
const A: usize = 0;
const B: usize = 1;

/// The values under the keys `A` and `B`.
type Rows = [Option<u8>; 2];

const FIRST: Rows = [Some(1), None];

/// One statement.
#[derive(Clone, Copy, PartialEq)]
enum Op {
    Insert(usize),
    Update(usize),
    Delete(usize),
    Rekey(usize, usize),
}

use Op::{Delete, Insert, Rekey, Update};

/// What units do. With one evident key the record is written before the statement is sent, else between the statements
/// and COMMIT.
const BODIES: [&[Op]; 7] = [
    &[Update(A)],
    &[Insert(B)],
    &[Delete(A)],
    &[Rekey(A, B)],
    &[Delete(A), Insert(A)],
    &[Update(A), Insert(B)],
    &[Rekey(A, B), Insert(A)],
];

/// How a unit ends.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Committed,
    Aborted,
    /// The answer never comes; the backend commits, and later it is gone.
    LostCommitted,
    /// The same, but it aborts.
    LostAborted,
    /// Prepared, answered, and committed later by somebody.
    Prepared,
}

const FATES: [Fate; 5] = [Fate::Committed, Fate::Aborted, Fate::LostCommitted, Fate::LostAborted, Fate::Prepared];

#[derive(Clone, Copy)]
struct Unit {
    body: &'static [Op],
    fate: Fate,
}

/// One atomic step of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Move {
    /// The statements run: rows are locked, nothing is visible.
    Lock,
    /// The record is in the journal.
    Append,
    /// The primary commits.
    Commit,
    /// The primary rolls back.
    Abort,
    /// The primary prepares: backends no longer matter.
    Prepare,
    /// COMMIT PREPARED, by anyone.
    Settle,
    /// The outcome is in the journal.
    Answer,
    /// The backend is gone.
    Exit,
}

/// One call of the engine. Calls of one step have nothing between them.
#[derive(Clone, Copy)]
enum Call {
    /// Read the journal as far as it is written.
    Read,
    /// Ask the primary which backends and prepared transactions are gone.
    Ask,
    /// Believe the answer.
    Believe,
    Freeze,
    Snapshot,
    Collect,
    /// Read the owed rows at S, write them to the secondary, commit there.
    Pay,
    /// The cut is paid, and kept owable.
    Mark,
    /// What ended by now counts as paid: only ever wrong.
    Forget,
    /// A backfill chunk of all rows is read at S, or now if there is no S.
    ReadChunk,
    /// It is written.
    WriteChunk,
}

use Call::{Ask, Believe, Collect, Forget, Freeze, Mark, Pay, Read, ReadChunk, Snapshot, WriteChunk};

/// A payment as the engine makes it, step by step.
type Program = &'static [&'static [Call]];

const KEPT: Program = &[&[Read, Ask], &[Read, Believe, Freeze], &[Snapshot], &[Read, Collect], &[Pay], &[Mark]];
/// With a backfill chunk at the same S.
const CHUNK: Program = &[
    &[Read, Ask],
    &[Read, Believe, Freeze],
    &[Snapshot],
    &[Read, Collect],
    &[Pay],
    &[ReadChunk],
    &[WriteChunk],
    &[Mark],
];
/// A payment with a limit pays its cut and nothing else.
const LIMITED: Program = &[&[Read, Ask], &[Read, Believe, Freeze], &[Snapshot], &[Pay], &[Mark]];

/// The same with one rule bent.
mod bent {
    use super::*;

    pub(super) const FREEZE_AFTER_SNAPSHOT: Program =
        &[&[Read, Ask], &[Snapshot], &[Read, Believe, Freeze], &[Read, Collect], &[Pay], &[Mark]];
    pub(super) const ENDED_AT_THE_MARKING: Program =
        &[&[Read, Ask], &[Read, Believe, Freeze], &[Snapshot], &[Read, Collect], &[Pay], &[Mark, Read, Forget]];
    pub(super) const COLLECT_BEFORE_SNAPSHOT: Program =
        &[&[Read, Ask], &[Read, Believe, Freeze], &[Read, Collect], &[Snapshot], &[Pay], &[Mark]];
    pub(super) const GONE_INSIDE_SNAPSHOT: Program =
        &[&[Read], &[Snapshot], &[Ask], &[Believe, Freeze], &[Read, Collect], &[Pay], &[Mark]];
    pub(super) const OLDER_CHUNK: Program = &[
        &[ReadChunk],
        &[Read, Ask],
        &[Read, Believe, Freeze],
        &[Snapshot],
        &[Read, Collect],
        &[Pay],
        &[WriteChunk],
        &[Mark],
    ];
}

/// What breaks, once in a schedule, anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    /// tandem is killed: sessions and ledger are gone, the journal stays.
    Tandem,
    /// The primary loses what it did not flush, and all backends.
    Primary,
    /// The secondary loses its last payments.
    Secondary(usize),
    /// A payment commits and nobody hears of it.
    LostPayment,
}

/// A rule that is kept in the calls around the program.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// A new life of the primary owes again what was kept.
    PrimaryOwesAgain,
    /// Payments that the secondary lost are owed again.
    SecondaryOwesAgain,
    /// Payments are kept until the primary flushed what they show.
    KeepUntilFlushed,
    /// A record is written before its unit can commit.
    RecordFirst,
    /// A prepared transaction outlives its backend.
    PreparedStays,
}

/// One case: everything that is the same in all its schedules.
#[derive(Clone)]
struct Case {
    units: Vec<Unit>,
    payments: usize,
    program: Program,
    /// Payments are claimed to be exact.
    exact: bool,
    fault: Option<Fault>,
    bent: Option<Rule>,
    now: Instant,
}

impl Case {
    fn new(units: &[Unit], payments: usize) -> Case {
        let (units, now) = (units.to_vec(), Instant::now());
        Case { units, payments, program: KEPT, exact: true, fault: None, bent: None, now }
    }

    fn program(self, program: Program) -> Case {
        Case { program, ..self }
    }

    fn inexact(self) -> Case {
        Case { exact: false, ..self }
    }

    fn fault(self, fault: Fault) -> Case {
        Case { fault: Some(fault), ..self }
    }

    fn bend(self, rule: Rule) -> Case {
        Case { bent: Some(rule), ..self }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.bent != Some(rule)
    }

    /// How long payments are kept; no time passes here.
    fn retention(&self) -> Duration {
        Duration::from_secs(if matches!(self.fault, Some(Fault::Secondary(_))) { 60 } else { 0 })
    }

    fn script(&self, unit: Unit) -> Vec<Move> {
        let evident = matches!(unit.body, [Insert(_) | Update(_) | Delete(_)]) && unit.fate != Fate::Prepared;
        let (act, end) = match unit.fate {
            Fate::Committed => (Move::Commit, vec![Move::Answer]),
            Fate::Aborted => (Move::Abort, vec![Move::Answer]),
            Fate::LostCommitted => (Move::Commit, vec![Move::Exit]),
            Fate::LostAborted => (Move::Abort, vec![Move::Exit]),
            Fate::Prepared => (Move::Prepare, vec![Move::Answer, Move::Exit, Move::Settle]),
        };
        let mut script = if evident { vec![] } else { vec![Move::Lock] };
        script.extend(if self.keeps(Rule::RecordFirst) { [Move::Append, act] } else { [act, Move::Append] });
        script.extend(end);
        script
    }

    fn entry(&self, at: usize, written: Written) -> Entry {
        let lsn = Lsn(at as u64);
        match written {
            Written::Record { unit, life } => {
                Entry::Record { lsn, payload: record(&self.units[unit], backend(unit, life)) }
            }
            Written::Outcome { of, outcome } => Entry::Outcome { lsn, of: Lsn(of as u64), outcome },
        }
    }
}

fn backend(unit: usize, life: u64) -> Backend {
    Backend { id: u32::try_from(unit).expect("few units") + 1, life }
}

fn record(unit: &Unit, backend: Backend) -> Bytes {
    let mut buf = RecordBuf::default();
    for op in unit.body {
        match *op {
            Insert(key) | Update(key) => buf.key(TABLE, &[key as u8], false),
            Delete(key) => buf.key(TABLE, &[key as u8], true),
            Rekey(from, to) => {
                buf.key(TABLE, &[from as u8], true);
                buf.key(TABLE, &[to as u8], false);
            }
        }
    }
    if unit.fate == Fate::Prepared {
        buf.prepared(&name(&backend));
    }
    Bytes::copy_from_slice(buf.finish(backend))
}

fn name(backend: &Backend) -> Vec<u8> {
    backend.id.to_le_bytes().to_vec()
}

impl Unit {
    fn keys(&self) -> impl Iterator<Item = usize> {
        self.body.iter().flat_map(|op| match *op {
            Insert(key) | Update(key) | Delete(key) => [key, key],
            Rekey(from, to) => [from, to],
        })
    }

    fn meets(&self, other: &Unit) -> bool {
        self.keys().any(|key| other.keys().any(|theirs| theirs == key))
    }

    /// The rows after it; `None`: a duplicate key, it is rolled back.
    fn apply(&self, mut rows: Rows, seed: usize) -> Option<Rows> {
        for (nth, op) in self.body.iter().enumerate() {
            let value = Some((10 * (seed + 1) + nth) as u8);
            match *op {
                Insert(key) if rows[key].is_some() => return None,
                Insert(key) => rows[key] = value,
                Update(key) => rows[key] = rows[key].and(value),
                Delete(key) => rows[key] = None,
                Rekey(from, to) if rows[from].is_some() && rows[to].is_some() => return None,
                Rekey(from, to) if rows[from].is_some() => rows.swap(from, to),
                Rekey(..) => {}
            }
        }
        Some(rows)
    }
}

/// An entry of the journal; its position is its lsn.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Written {
    Record { unit: usize, life: u64 },
    Outcome { of: usize, outcome: Outcome },
}

/// What the code under test was told, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    /// The process began, over a journal trimmed to here.
    Born(u64),
    /// The journal up to here.
    Read(usize),
    /// Name those to ask about.
    Ask,
    /// Of these units the backends, of those the prepared transactions are gone: a bit each.
    Gone {
        life: u64,
        backends: u8,
        prepared: u8,
    },
    Freeze,
    Collect,
    /// The payment failed.
    Restore,
    Paid {
        number: u64,
        written: u64,
        flushed: u64,
    },
    PrimaryLost,
    SecondaryLost(u64),
}

/// The code under test.
struct Mirror<'a> {
    case: &'a Case,
    journal: &'a [Written],
    ledger: Ledger,
    cut: Option<Cut>,
    retention: Retention,
}

impl Mirror<'_> {
    fn told<'a>(case: &'a Case, journal: &'a [Written], told: &[Told]) -> Mirror<'a> {
        let (ledger, retention) = Default::default();
        let mut mirror = Mirror { case, journal, ledger, cut: None, retention };
        told.iter().for_each(|&told| mirror.tell(told));
        mirror
    }

    fn tell(&mut self, told: Told) {
        match told {
            Told::Born(trimmed) => self.ledger = Ledger::new(Lsn(trimmed), 0),
            Told::Read(upto) => self.read(upto),
            Told::Ask => drop(self.ledger.lost(self.case.now)),
            Told::Gone { life, backends, prepared } => self.gone(life, backends, prepared),
            Told::Freeze => self.cut = Some(self.ledger.freeze()),
            Told::Collect => self.ledger.collect(self.cut.as_mut().expect("frozen before")),
            Told::Restore => self.cut.take().into_iter().for_each(|cut| self.ledger.restore(cut)),
            Told::Paid { number, written, flushed } => self.paid(number, written, flushed),
            Told::PrimaryLost => {
                let (oldest, _) = self.retention.lost_by_primary();
                self.rewind(oldest);
            }
            Told::SecondaryLost(payments) => {
                let oldest = self.retention.lost_by_secondary(payments);
                self.rewind(oldest);
            }
        }
    }

    fn read(&mut self, upto: usize) {
        while self.ledger.next().0 < upto as u64 {
            let at = usize::try_from(self.ledger.next().0).expect("a short journal");
            let entry = self.case.entry(at, self.journal[at]);
            self.ledger.read(entry, self.case.now).expect("well formed");
        }
    }

    fn gone(&mut self, life: u64, backends: u8, prepared: u8) {
        let units = |bits: u8| (0..self.case.units.len()).filter(move |unit| bits & (1 << unit) != 0);
        let lives = 1..=life;
        let gone = Gone {
            backends: units(backends).flat_map(|unit| lives.clone().map(move |life| backend(unit, life))).collect(),
            prepared: units(prepared).map(|unit| name(&backend(unit, life)).into()).collect(),
        };
        self.ledger.gone(&gone, self.case.now);
    }

    fn paid(&mut self, number: u64, written: u64, flushed: u64) {
        let cut = self.cut.take().expect("frozen before");
        if let Some(oldest) = cut.oldest() {
            self.retention.push(Payment { number, written, oldest, at: self.case.now, ddl: Vec::new() });
        }
        self.retention.flushed(flushed);
        self.retention.release(self.case.retention(), self.case.now);
    }

    fn rewind(&mut self, from: Option<Lsn>) {
        if let Some(from) = from {
            self.ledger.rewind(from);
        }
    }

    /// What the engine would trim the journal to.
    fn needed(&self) -> u64 {
        self.retention.oldest().map_or(self.ledger.paid(), |oldest| oldest.min(self.ledger.paid())).0
    }
}

/// Where a unit is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Progress {
    todo: Vec<Move>,
    begun: bool,
    locks: bool,
    prepared: bool,
    committed: bool,
    alive: bool,
    /// Where its record is.
    record: Option<usize>,
}

/// Lives of both servers: a connection to earlier ones is broken.
type Lives = (u64, u64);

/// The engine's side.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Applier {
    told: Vec<Told>,
    /// Next step of the program.
    at: usize,
    left: usize,
    /// `None`: not connected.
    connected: Option<Lives>,
    /// The primary's life and the payments of the secondary, as this process knows them.
    standing: Option<(u64, u64)>,
    /// S, and the positions written and flushed then.
    snapshot: Option<(Rows, u64, u64)>,
    answer: Option<Told>,
    chunk: Option<Rows>,
}

/// Everything that a schedule has led to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// Commits of the primary, each as the rows after it; those up to `flushed` survive its crash.
    commits: Vec<Rows>,
    flushed: usize,
    /// Payments of the secondary, likewise.
    payments: Vec<Rows>,
    lives: Lives,
    journal: Vec<Written>,
    trimmed: u64,
    units: Vec<Progress>,
    applier: Applier,
    fault: Option<Fault>,
    /// The primary flushes once, anywhere; always at once if it never crashes.
    flush_left: bool,
    /// History is on the secondary.
    copied: bool,
    wrong: bool,
}

/// Who acts next.
#[derive(Clone, Copy)]
enum Actor {
    Unit(usize),
    Applier,
    Flush,
    Fault,
}

impl World {
    fn new(case: &Case) -> World {
        let begin = |unit: &Unit| Progress {
            todo: case.script(*unit),
            begun: false,
            locks: false,
            prepared: false,
            committed: false,
            alive: true,
            record: None,
        };
        let applier = Applier {
            told: vec![Told::Born(0)],
            at: 0,
            left: case.payments,
            connected: Some((1, 1)),
            standing: Some((1, 0)),
            snapshot: None,
            answer: None,
            chunk: None,
        };
        let copied = !case.program.iter().any(|step| step.iter().any(|call| matches!(call, WriteChunk)));
        World {
            commits: vec![FIRST],
            flushed: 0,
            payments: vec![if copied { FIRST } else { [None; 2] }],
            lives: (1, 1),
            journal: Vec::new(),
            trimmed: 0,
            units: case.units.iter().map(begin).collect(),
            applier,
            fault: case.fault,
            flush_left: case.fault == Some(Fault::Primary),
            copied,
            wrong: false,
        }
    }

    fn actors(&self, case: &Case) -> Vec<Actor> {
        let mut actors: Vec<_> =
            (0..self.units.len()).filter(|&unit| self.may_move(case, unit)).map(Actor::Unit).collect();
        if self.applier.left > 0 {
            actors.push(Actor::Applier);
        }
        if self.flush_left {
            actors.push(Actor::Flush);
        }
        let paying = self.applier.left > 0 && matches!(case.program[self.applier.at], [Pay]);
        if self.fault.is_some_and(|fault| fault != Fault::LostPayment || paying) {
            actors.push(Actor::Fault);
        }
        actors
    }

    fn act(&mut self, case: &Case, actor: Actor) {
        match actor {
            Actor::Unit(unit) => self.step_unit(case, unit),
            Actor::Applier => self.step_applier(case),
            Actor::Flush => {
                self.flushed = self.commits.len() - 1;
                self.flush_left = false;
            }
            Actor::Fault => {
                let fault = self.fault.take().expect("an actor only then");
                self.break_down(case, fault);
            }
        }
    }

    fn primary(&self) -> Rows {
        *self.commits.last().expect("begins with one")
    }

    fn secondary(&self) -> Rows {
        *self.payments.last().expect("begins with one")
    }

    /// It has something to do, and nobody locks its rows.
    fn may_move(&self, case: &Case, unit: usize) -> bool {
        let me = &self.units[unit];
        let locks = matches!(me.todo.first(), Some(Move::Lock | Move::Commit)) && !me.locks;
        let held =
            |other: usize| other != unit && self.units[other].locks && case.units[unit].meets(&case.units[other]);
        !(me.todo.is_empty() || locks && (0..self.units.len()).any(held))
    }

    fn step_unit(&mut self, case: &Case, unit: usize) {
        let me = &mut self.units[unit];
        me.begun = true;
        match me.todo.remove(0) {
            Move::Lock => me.locks = true,
            Move::Append => {
                me.record = Some(self.journal.len());
                self.journal.push(Written::Record { unit, life: self.lives.0 });
            }
            Move::Commit | Move::Settle => self.commit(case, unit),
            Move::Abort => me.locks = false,
            Move::Prepare => self.prepare(case, unit),
            Move::Answer => {
                let outcome = if me.committed || me.prepared { Outcome::Committed } else { Outcome::Aborted };
                let of = me.record.expect("appended before");
                self.journal.push(Written::Outcome { of, outcome });
            }
            Move::Exit => me.alive = false,
        }
    }

    fn commit(&mut self, case: &Case, unit: usize) {
        let after = case.units[unit].apply(self.primary(), unit);
        self.commits.extend(after);
        if case.fault != Some(Fault::Primary) {
            self.flushed = self.commits.len() - 1;
        }
        let me = &mut self.units[unit];
        (me.locks, me.prepared, me.committed) = (false, false, after.is_some());
    }

    fn prepare(&mut self, case: &Case, unit: usize) {
        let possible = case.units[unit].apply(self.primary(), unit).is_some();
        let me = &mut self.units[unit];
        (me.locks, me.prepared) = (possible, possible);
        if !possible {
            me.todo.pop();
        }
    }

    fn step_applier(&mut self, case: &Case) {
        let Some(lives) = self.applier.connected else { return self.open(case) };
        let step = case.program[self.applier.at];
        let remote = step.iter().any(|call| matches!(call, Ask | Snapshot | Pay | ReadChunk | WriteChunk));
        if remote && lives != self.lives {
            return self.fail();
        }
        step.iter().for_each(|call| self.call(case, *call));
        self.applier.at += 1;
        if self.applier.at == case.program.len() {
            self.applier.at = 0;
            self.applier.left -= 1;
        }
    }

    /// A connection broke: what was frozen is owed again.
    fn fail(&mut self) {
        let me = &mut self.applier;
        me.told.push(Told::Restore);
        (me.at, me.connected, me.snapshot, me.answer, me.chunk) = (0, None, None, None, None);
    }

    /// Connect, and owe again what either side has lost.
    fn open(&mut self, case: &Case) {
        let now = (self.lives.0, self.payments.len() as u64 - 1);
        let me = &mut self.applier;
        let before = me.standing.replace(now);
        if before.is_some_and(|before| before.0 != now.0) && case.keeps(Rule::PrimaryOwesAgain) {
            me.told.push(Told::PrimaryLost);
        }
        if before.is_some_and(|before| before.1 > now.1) && case.keeps(Rule::SecondaryOwesAgain) {
            me.told.push(Told::SecondaryLost(now.1));
        }
        me.connected = Some(self.lives);
    }

    fn call(&mut self, case: &Case, call: Call) {
        let read = Told::Read(self.journal.len());
        match call {
            Read => self.applier.told.push(read),
            Ask => {
                self.applier.told.push(Told::Ask);
                self.applier.answer = Some(self.ask(case));
            }
            Believe => self.applier.told.extend(self.applier.answer.take()),
            Freeze => self.applier.told.push(Told::Freeze),
            Snapshot => {
                let written = self.commits.len() as u64 - 1;
                self.applier.snapshot = Some((self.primary(), written, self.flushed as u64));
            }
            Collect => self.applier.told.push(Told::Collect),
            Pay => self.pay(case),
            Mark => self.mark(case),
            Forget => self.applier.told.extend([Told::Freeze, Told::Paid { number: 0, written: 0, flushed: 0 }]),
            ReadChunk => self.applier.chunk = Some(self.applier.snapshot.map_or(self.primary(), |(rows, ..)| rows)),
            WriteChunk => self.write_chunk(case),
        }
    }

    /// The primary says who is gone. What the ledger does not ask about does no harm in the answer.
    fn ask(&self, case: &Case) -> Told {
        let bits = |over: &dyn Fn(&Progress) -> bool| {
            let units = self.units.iter().enumerate().filter(|(_, unit)| over(unit));
            units.fold(0_u8, |bits, (nth, _)| bits | 1 << nth)
        };
        let stays = case.keeps(Rule::PreparedStays);
        Told::Gone {
            life: self.lives.0,
            backends: bits(&|unit| !unit.alive),
            prepared: bits(&|unit| !unit.prepared || (!stays && !unit.alive)),
        }
    }

    fn pay(&mut self, case: &Case) {
        let mirror = Mirror::told(case, &self.journal, &self.applier.told);
        let mut rows = self.secondary();
        let (at, ..) = self.applier.snapshot.expect("taken before");
        copy(&mut rows, &at, mirror.cut.as_ref().expect("frozen before").owed());
        self.payments.push(rows);
        self.check(case);
    }

    fn write_chunk(&mut self, case: &Case) {
        let chunk = self.applier.chunk.take().expect("read before");
        if !self.copied {
            *self.payments.last_mut().expect("begins with one") = chunk;
            self.copied = true;
        }
        self.check(case);
    }

    /// An exact payment made the secondary equal to S.
    fn check(&mut self, case: &Case) {
        let (at, ..) = self.applier.snapshot.expect("taken before");
        self.wrong |= case.exact && self.copied && self.secondary() != at;
    }

    fn mark(&mut self, case: &Case) {
        let (_, written, flushed) = self.applier.snapshot.take().expect("taken before");
        let flushed = if case.keeps(Rule::KeepUntilFlushed) { flushed } else { written };
        // What the payment itself said, whatever became of the secondary since.
        let number = self.applier.standing.map_or(0, |(_, payments)| payments) + 1;
        self.applier.standing = self.applier.standing.map(|(life, _)| (life, number));
        self.applier.told.push(Told::Paid { number, written, flushed });
        let mirror = Mirror::told(case, &self.journal, &self.applier.told);
        self.trimmed = self.trimmed.max(mirror.needed());
    }

    fn break_down(&mut self, case: &Case, fault: Fault) {
        match fault {
            Fault::Tandem => self.kill_tandem(),
            Fault::Primary => self.crash_primary(),
            Fault::Secondary(lost) => {
                self.payments.truncate(self.payments.len().saturating_sub(lost).max(1));
                self.lives.1 += 1;
            }
            Fault::LostPayment => {
                self.pay(case);
                self.fail();
            }
        }
    }

    /// Its sessions' answers find nobody; their backends do what they were sent, and end.
    fn kill_tandem(&mut self) {
        for unit in self.units.iter_mut().filter(|unit| unit.begun) {
            if unit.record.is_none() {
                (unit.todo, unit.locks, unit.alive) = (Vec::new(), false, false);
            }
            unit.todo.iter_mut().filter(|todo| **todo == Move::Answer).for_each(|todo| *todo = Move::Exit);
        }
        let trimmed = self.trimmed;
        let me = &mut self.applier;
        me.told = vec![Told::Born(trimmed)];
        (me.at, me.connected, me.standing) = (0, None, None);
        (me.snapshot, me.answer, me.chunk) = (None, None, None);
    }

    /// What is not prepared is gone; answers that were under way arrive.
    fn crash_primary(&mut self) {
        self.commits.truncate(self.flushed + 1);
        self.lives.0 += 1;
        for unit in self.units.iter_mut().filter(|unit| unit.begun) {
            unit.alive = false;
            if unit.todo.iter().any(|todo| matches!(todo, Move::Commit | Move::Abort | Move::Prepare)) {
                (unit.todo, unit.locks) = (Vec::new(), false);
            }
        }
    }

    /// Nobody acts any more: one more payment, and both sides are equal.
    fn end(&mut self, case: &Case) {
        assert!(self.units.iter().all(|unit| unit.todo.is_empty()), "a unit waits for a lock that nobody frees");
        self.applier.left = 1;
        while self.applier.left > 0 {
            self.step_applier(case);
        }
        self.wrong |= self.secondary() != self.primary();
    }
}

fn copy(rows: &mut Rows, at: &Rows, owed: &Owed) {
    for key in owed.keys.get(&TABLE).into_iter().flat_map(HashMap::keys) {
        rows[usize::from(key[0])] = at[usize::from(key[0])];
    }
}

/// How many schedules there are, and how many of them end or pass through a wrong state.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Count {
    schedules: u64,
    wrong: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.schedules += other.schedules;
        self.wrong += other.wrong;
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Count>>(counts: I) -> Count {
        let mut sum = Count::default();
        counts.for_each(|count| sum += count);
        sum
    }
}

/// Every schedule from here on.
fn explore(case: &Case, world: World, seen: &mut HashMap<World, Count>) -> Count {
    if let Some(count) = seen.get(&world) {
        return *count;
    }
    let actors = world.actors(case);
    let mut count = Count::default();
    for &actor in &actors {
        let mut next = world.clone();
        next.act(case, actor);
        count += explore(case, next, seen);
    }
    if actors.is_empty() {
        let mut last = world.clone();
        last.end(case);
        count = Count { schedules: 1, wrong: u64::from(last.wrong) };
    }
    seen.insert(world, count);
    count
}

fn all(case: &Case) -> Count {
    explore(case, World::new(case), &mut HashMap::new())
}

/// All cases of this kind together.
fn sum(cases: impl IntoIterator<Item = Case>) -> Count {
    cases.into_iter().map(|case| all(&case)).sum()
}

/// One unit of each of these bodies and every fate.
fn singles(bodies: &[&'static [Op]]) -> Vec<Vec<Unit>> {
    let units = bodies.iter().flat_map(|body| FATES.map(|fate| Unit { body, fate }));
    units.map(|unit| vec![unit]).collect()
}

/// Two committed units of every two of three bodies, and two bodies that meet with every two fates without two phases.
fn pairs() -> Vec<Vec<Unit>> {
    let committed = |nth: usize| Unit { body: BODIES[nth], fate: Fate::Committed };
    let mut pairs: Vec<_> = [(1, 3), (1, 4), (1, 6), (3, 4), (3, 6), (4, 6)]
        .map(|(first, second)| vec![committed(first), committed(second)])
        .into();
    for first in &FATES[..4] {
        let fates = FATES[..4].iter();
        pairs.extend(fates.map(|&fate| vec![Unit { body: BODIES[0], fate: *first }, Unit { body: BODIES[3], fate }]));
    }
    pairs
}

fn cases(units: Vec<Vec<Unit>>, payments: usize) -> impl Iterator<Item = Case> {
    units.into_iter().map(move |units| Case::new(&units, payments))
}

fn exact(schedules: u64) -> Count {
    Count { schedules, wrong: 0 }
}

/// The least of the bodies, and the one that does most.
const FEW: [&[Op]; 2] = [BODIES[0], BODIES[6]];

#[test]
fn schedules_are_counted_one_by_one() {
    let unit = |body| Unit { body, fate: Fate::Committed };
    // Two units of three steps that never wait, one payment of six: 12! / (3! 3! 6!).
    assert_eq!(all(&Case::new(&[unit(BODIES[0]), unit(BODIES[1])], 1)), exact(18_480));
}

#[test]
fn two_units_and_one_payment_promises_2_to_4() {
    assert_eq!(sum(cases(pairs(), 1)), exact(939_510));
}

#[test]
fn one_unit_and_two_payments_promises_2_to_4() {
    assert_eq!(sum(cases(singles(&BODIES), 1)), exact(10_836));
    assert_eq!(sum(cases(singles(&BODIES), 2)), exact(164_528));
}

#[test]
fn a_crash_of_tandem_anywhere_promise_3() {
    assert_eq!(sum(cases(singles(&BODIES), 1).map(|case| case.fault(Fault::Tandem))), exact(530_103));
}

#[test]
fn a_crash_of_the_primary_anywhere_promise_3() {
    assert_eq!(sum(cases(singles(&FEW), 1).map(|case| case.fault(Fault::Primary))), exact(2_003_728));
}

#[test]
fn a_crash_of_the_secondary_anywhere_promise_4() {
    assert_eq!(sum(cases(singles(&BODIES), 1).map(|case| case.fault(Fault::Secondary(1)))), exact(781_707));
}

#[test]
fn a_payment_that_nobody_heard_of_is_made_again_promise_5() {
    assert_eq!(sum(cases(singles(&BODIES), 1).map(|case| case.fault(Fault::LostPayment))), exact(175_364));
}

#[test]
fn a_chunk_at_the_same_snapshot_promise_11() {
    assert_eq!(sum(cases(singles(&BODIES), 2).map(|case| case.program(CHUNK))), exact(611_439));
}

#[test]
fn a_payment_with_a_limit_is_not_exact_and_loses_nothing() {
    assert_eq!(sum(cases(singles(&BODIES), 2).map(|case| case.program(LIMITED).inexact())), exact(75_504));
}

#[test]
fn every_order_of_the_steps_but_the_right_one_is_caught() {
    let programs = [
        (bent::FREEZE_AFTER_SNAPSHOT, 33),
        (bent::ENDED_AT_THE_MARKING, 408),
        (bent::COLLECT_BEFORE_SNAPSHOT, 180),
        (bent::GONE_INSIDE_SNAPSHOT, 77),
        (LIMITED, 678),
        (bent::OLDER_CHUNK, 1955),
    ];
    for (nth, (program, wrong)) in programs.into_iter().enumerate() {
        let count = sum(cases(singles(&BODIES), 1).map(|case| case.program(program)));
        assert_eq!(count.wrong, wrong, "program {nth}");
    }
}

#[test]
fn every_rule_around_the_steps_is_needed() {
    let rules = [
        (Rule::PrimaryOwesAgain, Some(Fault::Primary)),
        (Rule::KeepUntilFlushed, Some(Fault::Primary)),
        (Rule::SecondaryOwesAgain, Some(Fault::Secondary(1))),
        (Rule::RecordFirst, None),
        (Rule::PreparedStays, None),
    ];
    for (nth, (rule, fault)) in rules.into_iter().enumerate() {
        let fates = if rule == Rule::PreparedStays { &FATES[4..] } else { &FATES[..1] };
        let units = fates
            .iter()
            .flat_map(|&fate| FEW.iter().map(move |body| Unit { body, fate }).map(|unit| vec![unit]))
            .collect();
        let count = sum(cases(units, 1).map(|case| Case { fault, ..case.bend(rule) }));
        assert!(count.wrong > 0, "rule {nth}: nothing wrong in {} schedules", count.schedules);
    }
}
