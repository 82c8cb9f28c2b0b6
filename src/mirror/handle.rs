//! How the rest of the process looks at an engine, whichever it is: its status, its two ledgers, and what an operator may
//! ask of it. To *pay* a record is to have it on the secondary: by copying the rows that it names, or by replaying it.
//!
//! What an operator owes again (a retry, a repair) goes through the journal as a record of backend 0: it is ordered
//! with the clients' writes, paid, retained and owed again after a crash as they are. A whole table that is no single
//! payment is walked over instead ([`Mending`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backfill::Desk;
use crate::journal::{self, Entry, Journal, Lsn, Outcome};
use crate::mirror::dirty::Dirty;
use crate::mirror::durable;
use crate::mirror::parked::{Kept, Parked};
use crate::mirror::twins::Twins;
use crate::mirror::waits::Waits;
use crate::record::{Backend, Item, Reason, Record, RecordBuf, TableId};

/// How much of the journal [`Handle::newest`] reads at once.
const NEWEST_READ_BYTES: usize = 1 << 20;

/// What the engine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Opening its connections, for the first time or after a failure.
    #[default]
    Connecting,
    /// Nothing is owed but what is in flight.
    Idle,
    /// Making a payment.
    Paying,
    /// Replaying records.
    Applying,
    /// Paying a backlog larger than one payment, or than the window of a replay: the secondary is equal at no point in
    /// time until it is done.
    CatchingUp,
    /// An operator said so.
    Paused,
    /// Another applier holds the lock on the secondary, or it answers others' clients; tries again.
    Fenced,
    /// The secondary is away, see [`Status::error`]; tries again.
    Away,
    /// The last attempt failed, see [`Status::error`]; tries again.
    Failed,
    /// The engine has ended.
    Stopped,
}

impl Phase {
    /// The word used in metrics, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Idle => "idle",
            Phase::Paying => "paying",
            Phase::Applying => "applying",
            Phase::CatchingUp => "catching up",
            Phase::Paused => "paused",
            Phase::Fenced => "fenced",
            Phase::Away => "away",
            Phase::Failed => "failed",
            Phase::Stopped => "stopped",
        }
    }
}

/// The engine's state, as of its last step.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// The last error, until it goes well again.
    pub error: Option<String>,
    /// Everything appended below is paid.
    pub paid: Lsn,
    /// The last payment made the secondary equal to the primary at one snapshot, parked keys and dirty tables apart. By
    /// replay: it follows without a backlog, the same and held tables apart.
    pub exact: bool,
    /// Units read and not paid.
    pub lag_records: u64,
    /// Distinct keys of ended units that wait for a payment; by replay none are known.
    pub lag_keys: u64,
    /// When the oldest unpaid unit was read: coarse, and since the start of the process.
    pub lag_since: Option<Instant>,
    /// The secondary's payment counter; by replay the records that this process applied.
    pub payments: u64,
    /// Keys paid by this process.
    pub paid_keys: u64,
    /// Rows written by this process.
    pub paid_rows: u64,
    /// Bytes written by this process.
    pub paid_bytes: u64,
    /// How long the last payment took, snapshot included.
    pub last_payment: Duration,
    /// Parked keys.
    pub parked: usize,
    /// Dirty tables.
    pub dirty: usize,
    /// What the last payments paid was appended from here on.
    pub recent: Lsn,
    /// Processes of the primary that may yet end units without an outcome, or have the numbers of those: the first few.
    pub undecided: Vec<u32>,
    /// Records that are being replayed now.
    pub in_flight: usize,
    /// Tables that wait: for somebody's lock; by replay because the secondary refuses a schema change or a TRUNCATE.
    pub held: Vec<Held>,
    /// Tables that wait for these, or for nodes that are away, and how far the others are.
    pub stuck: Option<Arc<Stuck>>,
}

/// How far the mirror is but for tables that wait for what may take as long as it likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// These tables.
    pub tables: BTreeSet<TableId>,
    /// Everything appended below that names none of them is paid.
    pub beyond: Lsn,
    /// When the oldest unpaid unit that names none of them was read.
    pub since: Option<Instant>,
    /// Why they wait, without row values.
    pub why: String,
}

/// A table that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its qualified name.
    pub table: String,
    /// What it waits for, or what the secondary says, without row values.
    pub why: String,
}

/// How eagerly payments are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Pace {
    /// With pauses, so that snapshots are held for half of the time at most.
    Usual,
    /// Not at all.
    Paused,
    /// Without pauses: clients wait for it.
    Hurried,
}

/// Lag at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Units read and not paid.
    pub records: u64,
    /// Distinct keys that wait for a payment.
    pub keys: u64,
    /// Journal between what is paid and what is appended.
    pub bytes: u64,
    /// Age of the oldest unpaid unit.
    pub seconds: f64,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal did not take the record.
    #[error("not owed again: {0}; try again when the mirror has caught up")]
    Journal(#[from] journal::Error),
    /// The ledger's file could not be written.
    #[error("not recorded: {0}")]
    Durable(#[from] durable::Error),
    /// Nothing parked is called so.
    #[error("no parked key has the id {0}; `tandem parked list` shows those there are")]
    NotParked(String),
    /// What is said of no table is not mended by copying one.
    #[error(
        "no table is meant: compare both schemas, make what is lacking, then `tandem dirty clear '(schema changes)'`"
    )]
    NoTable,
    /// The table is not dirty.
    #[error("the table is not dirty")]
    NotDirty,
    /// The engine has ended.
    #[error("the mirror has stopped")]
    Stopped,
}

/// How a whole table is made equal again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// It is owed, and one payment copies it.
    Whole,
    /// It is compared, and what differs is owed: a walk over history, when no other one is under way.
    Walked,
}

/// The engine's handle; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(in crate::mirror) journal: Journal,
    pub(in crate::mirror) parked: Parked,
    pub(in crate::mirror) dirty: Dirty,
    pub(in crate::mirror) status: watch::Receiver<Status>,
    /// What engines behind the handle show; one at a time.
    pub(in crate::mirror) shown: watch::Sender<Status>,
    pub(in crate::mirror) pace: watch::Sender<Pace>,
    pub(in crate::mirror) self_repair: bool,
    mending: Mending,
    pub(in crate::mirror) desk: Desk,
    pub(in crate::mirror) waits: Waits,
    pub(in crate::mirror) twins: Twins,
    /// An operator wants what is parked to be looked at.
    pub(in crate::mirror) nudges: Arc<Notify>,
    /// The engine is of a direction that may not come true: it trims nothing that the other one may need.
    pub(in crate::mirror) on_trial: Arc<AtomicBool>,
    /// How many parts of a walk over history write to the secondary beside the engine.
    pub(in crate::mirror) writing: watch::Sender<usize>,
}

impl Handle {
    /// A handle without an engine behind it yet: [`super::state::Engine::succeed`], [`super::replay::Engine::succeed`].
    /// `self_repair`: a table marked by [`Handle::mark_dirty`] is repaired at once, where it is owed whole.
    pub fn new(
        journal: Journal,
        (parked, dirty): (Parked, Dirty),
        desk: Desk,
        (mending, self_repair): (Mending, bool),
    ) -> Handle {
        let (shown, status) = watch::channel(Status::default());
        // By replay nobody asks the primary for its transactions.
        dirty.begins(journal.appended(), mending == Mending::Whole);
        // A repair that was asked for before is done from now on, and answers what was marked before.
        behind_marks(&journal, &dirty);
        Handle {
            parked,
            dirty,
            journal,
            status,
            shown,
            pace: watch::Sender::new(Pace::Usual),
            self_repair,
            mending,
            desk,
            waits: Waits::default(),
            twins: Twins::default(),
            nudges: Arc::default(),
            on_trial: Arc::default(),
            writing: watch::Sender::default(),
        }
    }

    /// Where what is owed is written down.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whose answer waits for the secondary; told by the engine by replay.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Snapshots of both sides that show the same state; lent by the engine by state only.
    pub fn twins(&self) -> &Twins {
        &self.twins
    }

    /// What an engine would show, in tests without one.
    #[cfg(test)]
    pub(crate) fn show(&self, status: Status) {
        self.shown.send_replace(status);
    }

    /// Show that there is no engine, and why.
    pub(in crate::mirror) fn fails(&self, why: String) {
        self.shown.send_modify(|status| {
            status.phase = Phase::Failed;
            status.error = Some(why);
        });
    }

    /// The walks over history.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The status now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status and its changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// How far the secondary is behind, now. Records and keys are those that were read: an engine that hangs reads none,
    /// but its age grows all the same.
    pub fn lag(&self) -> Lag {
        let status = self.status.borrow();
        let read = status.lag_since.map_or(Duration::ZERO, |since| since.elapsed());
        Lag {
            records: status.lag_records,
            keys: status.lag_keys,
            bytes: self.journal.appended().0.saturating_sub(status.paid.0),
            seconds: read.max(self.journal.age(status.paid)).as_secs_f64(),
        }
    }

    /// Resolves when every unit whose record was appended below `lsn` has ended and is paid. Cancel safe.
    pub async fn settle(&self, lsn: Lsn) -> Result<(), Error> {
        self.shows(|status| status.paid >= lsn).await
    }

    /// As [`Handle::settle`], of the units that name this table, if others wait for what may take as long as it likes. Cancel
    /// safe.
    pub async fn settle_of(&self, table: TableId, lsn: Lsn) -> Result<(), Error> {
        let is_beyond = |stuck: &Stuck| stuck.beyond >= lsn && !stuck.tables.contains(&table);
        self.shows(|status| status.paid >= lsn || status.stuck.as_deref().is_some_and(is_beyond)).await
    }

    /// Resolves when the table waits for what may take as long as it likes: why it does.
    pub(in crate::mirror) async fn stuck(&self, table: TableId) -> String {
        let holds = |status: &Status| status.stuck.as_deref().is_some_and(|stuck| stuck.tables.contains(&table));
        let mut status = self.status.clone();
        let why = status.wait_for(holds).await.ok().and_then(|status| Some(status.stuck.as_ref()?.why.clone()));
        match why {
            Some(why) => why,
            // There will be no other status.
            None => std::future::pending().await,
        }
    }

    /// Resolves when the status is so, or can no longer become so.
    async fn shows(&self, is_so: impl Fn(&Status) -> bool) -> Result<(), Error> {
        let mut status = self.status.clone();
        let shown = status.wait_for(|status| is_so(status) || status.phase == Phase::Stopped).await;
        if is_so(&*shown.map_err(|_| Error::Stopped)?) { Ok(()) } else { Err(Error::Stopped) }
    }

    /// Begin no further payment until [`Handle::resume`]; the one under way is finished.
    pub fn pause(&self) {
        self.pace.send_replace(Pace::Paused);
    }

    /// Pay again, as usual.
    pub fn resume(&self) {
        self.pace.send_replace(Pace::Usual);
    }

    /// Pay without pauses until [`Handle::resume`]: clients wait for the end. Paused stays paused.
    pub fn hurry(&self) {
        self.pace.send_if_modified(|pace| {
            let usual = *pace == Pace::Usual;
            if usual {
                *pace = Pace::Hurried;
            }
            usual
        });
    }

    /// Resolves when no walk over history writes to the secondary beside the engine; workers are told to give back what they copy.
    /// Only while the mirror is hurried or paused: then nothing of it begins. Cancel safe.
    pub async fn history_rests(&self) {
        let mut writing = self.writing.subscribe();
        // The sender is ours: it does not end before us.
        let ended = async { drop(writing.wait_for(|parts| *parts == 0).await) };
        tokio::join!(self.desk.crew().recall(), ended);
    }

    /// Who writes to the secondary for a walk over history, for people.
    pub fn history_writers(&self) -> Vec<String> {
        let mut workers = self.desk.crew().copying();
        let ours = *self.writing.borrow() > workers.len();
        workers.sort_unstable();
        workers.dedup();
        let workers = workers.into_iter().map(|name| format!("worker {name}"));
        workers.chain(ours.then(|| "tandem itself".to_owned())).collect()
    }

    /// Keys of the records that the last payments paid, at most `max` of the newest ones.
    pub async fn newest(&self, max: usize) -> Result<Vec<(TableId, Box<[u8]>)>, Error> {
        let from = self.status.borrow().recent;
        let mut keys = VecDeque::new();
        self.each_item(from, |item| {
            if let Item::Key { table, key, .. } = item {
                keys.push_back((table, key.into()));
            }
            if keys.len() > max {
                keys.pop_front();
            }
        })
        .await?;
        Ok(keys.into())
    }

    /// What is not paid: keys, and tables that are owed whole or dirty (without a key). Units that were rolled back may be
    /// among it. All of it in memory.
    pub async fn owed(&self) -> Result<BTreeSet<(TableId, Option<Box<[u8]>>)>, Error> {
        let from = self.status.borrow().paid;
        let mut owed = BTreeSet::new();
        self.each_item(from, |item| {
            owed.insert(match item {
                Item::Key { table, key, .. } => (table, Some(key.into())),
                other => (other.table(), None),
            });
        })
        .await?;
        Ok(owed)
    }

    async fn each_item(&self, from: Lsn, mut see: impl FnMut(Item<'_>)) -> Result<(), Error> {
        let (end, mut from) = (self.journal.appended(), from.max(self.journal.trimmed()));
        while from < end {
            let (entries, next) = self.journal.read(from, NEWEST_READ_BYTES).await?;
            for entry in entries {
                let Entry::Record { payload, .. } = entry else { continue };
                let Ok(record) = Record::parse(payload) else { continue };
                record.items().for_each(&mut see);
            }
            from = next;
        }
        Ok(())
    }

    /// The parked keys: to list, show and discard.
    pub fn parked(&self) -> &Parked {
        &self.parked
    }

    /// The dirty tables: to list.
    pub fn dirty(&self) -> &Dirty {
        &self.dirty
    }

    /// Owe a parked key again, or replay a parked record, late. It leaves the list when that succeeds. Where in the journal
    /// it is, if it is there.
    pub fn retry_parked(&self, id: &str) -> Result<Option<Lsn>, Error> {
        let entry = self.parked.get(id).ok_or_else(|| Error::NotParked(id.to_owned()))?;
        if let Some(kept) = &entry.record {
            return self.replay(kept).map(Some);
        }
        let Some(key) = &entry.key else { return self.repair(entry.table()) };
        let mut record = RecordBuf::default();
        match entry.change() {
            Some(change) => record.ddl(TableId::NONE, change),
            None => record.key(entry.table(), key, true),
        }
        Ok(Some(owe(&self.journal, &mut record)?))
    }

    fn replay(&self, kept: &Kept) -> Result<Lsn, Error> {
        if kept.holds {
            // It never left the journal, and is tried again by itself.
            self.nudges.notify_one();
            return Ok(self.status.borrow().paid);
        }
        let ticket = self.journal.begin(kept.bytes())?;
        let lsn = ticket.lsn();
        // Dropped, it is as unknown as it was.
        if !kept.unknown {
            ticket.end(Outcome::Committed);
        }
        Ok(lsn)
    }

    /// Forget something parked: the sides may differ there from now on, and the operator knows. A barrier that holds its
    /// table is given up: the table is dirty, and what waited goes on.
    pub async fn discard_parked(&self, id: &str) -> Result<(), Error> {
        let found = self.parked.discard(id).await?;
        self.nudges.notify_one();
        if found { Ok(()) } else { Err(Error::NotParked(id.to_owned())) }
    }

    /// Make a whole table equal again, dirty or not; [`TableId::NONE`], where tables are walked over: all of them. A dirty
    /// mark goes when that succeeds and no later mark was made. Where in the journal it is owed, if it is.
    pub fn repair(&self, table: TableId) -> Result<Option<Lsn>, Error> {
        if self.mending == Mending::Walked {
            self.desk.mend([table]);
            return Ok(None);
        }
        if table == TableId::NONE {
            return Err(Error::NoTable);
        }
        let mut record = RecordBuf::default();
        record.table(table);
        Ok(Some(owe(&self.journal, &mut record)?))
    }

    /// An operator says that the table is well after all.
    pub async fn clear_dirty(&self, table: TableId) -> Result<(), Error> {
        let known = self.dirty.clear(table, self.journal.appended()).await?;
        if known { Ok(()) } else { Err(Error::NotDirty) }
    }

    /// Rows of a table differ, as somebody saw: the keys, or any where none are given. If tandem repairs by itself the
    /// keys are owed, as any write; else the table is dirty, durably when this returns.
    pub async fn differs(&self, table: TableId, keys: &[Box<[u8]>]) -> Result<(), Error> {
        if self.self_repair && !keys.is_empty() {
            let mut record = RecordBuf::default();
            // May be a row too many: what points at it counts.
            keys.iter().for_each(|key| record.key(table, key, true));
            if owe(&self.journal, &mut record).is_ok() {
                return Ok(());
            }
        }
        self.dirty.mark(table, Reason::Shadow, self.journal.appended()).await?;
        if self.self_repair && self.mending == Mending::Whole {
            // As in [`Handle::mark_dirty`].
            let _ = self.repair(table);
        }
        Ok(())
    }

    /// Mark tables dirty without the journal, which is full or broken. Durable when it returns; blocks for two syncs the first
    /// time one of them gets a reason. Call it before the write is forwarded *and* when it has ended: only the second call
    /// keeps a repair in between from being believed.
    pub fn mark_dirty(&self, tables: &[TableId], reason: Reason) -> Result<(), Error> {
        self.note_dirty(tables, reason);
        self.dirty.save()?;
        self.mend_marked(tables);
        Ok(())
    }

    /// [`Handle::mark_dirty`], not durable yet.
    pub(in crate::mirror) fn note_dirty(&self, tables: &[TableId], reason: Reason) {
        let at = self.journal.appended();
        tables.iter().for_each(|table| self.dirty.note(*table, reason, at));
    }

    /// Have marked tables made equal at once, where that is wanted and the journal takes it.
    pub(in crate::mirror) fn mend_marked(&self, tables: &[TableId]) {
        // Who walks looks for marks by itself.
        if self.self_repair && self.mending == Mending::Whole {
            // Full or broken, as the caller knows: the engine tries again at its heartbeat.
            let mut tables = tables.iter().filter(|table| **table != TableId::NONE);
            let _ = tables.try_for_each(|table| self.repair(*table).map(drop));
        }
    }
}

/// The journal's end, behind every dirty mark: what is compared from now on answers them. An idle journal is given an empty
/// record for that; a full one stays as it is, and so do the marks.
pub(crate) fn behind_marks(journal: &Journal, dirty: &Dirty) -> Lsn {
    if dirty.is_marked_at(journal.appended()) {
        let _ = owe(journal, &mut RecordBuf::default());
    }
    journal.appended()
}

/// Append a record of our own: ended when written.
pub(crate) fn owe(journal: &Journal, record: &mut RecordBuf) -> Result<Lsn, journal::Error> {
    let ticket = journal.begin(record.finish(Backend { id: 0, life: 0 }))?;
    let lsn = ticket.lsn();
    ticket.end(Outcome::Committed);
    Ok(lsn)
}
