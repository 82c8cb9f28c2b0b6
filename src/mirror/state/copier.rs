//! What the engine asks of a wire: open a snapshot on the primary, make owed rows on the secondary equal to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use crate::backfill::work::{Stage, Surveyed};
use crate::backfill::{Desk, Request};
use crate::journal::Place;
use crate::mirror::twins::Twins;
use crate::record::{Backend, TableId};

use super::keys::Keys;

/// All that is owed in one payment.
#[derive(Clone, Debug, Default)]
pub struct Owed {
    /// The keys of each table.
    pub keys: HashMap<TableId, Keys>,
    /// Tables of which every row is owed.
    pub tables: Vec<TableId>,
    /// Those of them whose rows may have been deleted or re-keyed while nobody kept their keys: all rows that point at them are
    /// owed too.
    pub lost: HashSet<TableId>,
    /// Those of them that no record owes whole: there were too many keys. If the payment is lost, only those keys are owed again.
    pub coarse: HashSet<TableId>,
    /// Schema changes to repeat first, in order, as the wire encoded them.
    pub ddl: Vec<(TableId, Box<[u8]>)>,
    /// Schema changes that the secondary has from an earlier payment, whose records were read again: never repeated, but they
    /// say what tables were called before.
    pub repeated: Vec<(TableId, Box<[u8]>)>,
    /// Schema changes of which nobody knows whether they happened: never repeated, but refused, so that they are listed.
    pub doubted: Vec<(TableId, Box<[u8]>)>,
    /// Keys that are parked, by the table that they were refused of: owed under another name, or with their table, they may
    /// be well again, which only the wire can tell.
    pub parked: Vec<(TableId, Box<[u8]>)>,
    /// To be kept by the secondary with the payment.
    pub place: Option<Place>,
    /// The secondary names another journal: the payment is made though nothing is owed, and names this one.
    pub claims: bool,
}

impl Owed {
    /// There is nothing to do on the secondary.
    pub fn is_nothing(&self) -> bool {
        let changes = self.ddl.is_empty() && self.repeated.is_empty() && self.doubted.is_empty();
        self.keys.is_empty() && self.tables.is_empty() && changes && !self.claims
    }

    /// The tables of which every row is owed, and whether no record owes it whole.
    pub(crate) fn whole(&self) -> impl Iterator<Item = (TableId, bool)> {
        self.tables.iter().map(|table| (*table, self.coarse.contains(table)))
    }
}

/// What a connect learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Hash of the primary's life: changes with every restart, crash restart, failover.
    pub life: u64,
    /// Hash that names the server which lives: changes with every failover, and stays where the same one is started again.
    pub timeline: u64,
    /// Hash of when the primary was started: stays where only its processes crashed; 0: not known.
    pub started: u64,
    /// Hash that names the database: stays through failovers to copies of its files, and is another for any other copy. 0: not known.
    pub identity: u64,
    /// How many payments the secondary holds. Less than remembered: it lost some, and their keys are owed again.
    pub payments: u64,
    /// Where the journal was at the last of them, if the secondary keeps it.
    pub place: Option<Place>,
    /// Tables of the primary that a crash of it empties.
    pub volatile: Vec<TableId>,
    /// Those of the secondary, and the hash of its life; 0: not known.
    pub behind: (Vec<TableId>, u64),
}

/// A snapshot of the primary that exists: it was taken after the lock on the secondary, and its first query answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The primary's write position when the snapshot was taken.
    pub written: u64,
    /// The primary's flushed position then; paid keys below it survive a crash of the primary.
    pub flushed: u64,
}

/// A key that the secondary refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The table.
    pub table: TableId,
    /// Its qualified name, for people.
    pub name: String,
    /// `None`: the whole table (missing there, other columns, no privilege). Of [`TableId::NONE`] it is a schema change, as
    /// [`Owed::ddl`] has it.
    pub key: Option<Box<[u8]>>,
    /// The key as an operator may see it on request, never logged.
    pub shown: String,
    /// The error's class and message without row values.
    pub why: String,
}

/// What a payment did.
#[derive(Clone, Debug, Default)]
pub struct Paid {
    /// The secondary's payment counter after it.
    pub payments: u64,
    /// Keys made equal (present or absent), after closure over foreign keys.
    pub keys: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Tables to which it wrote, after closure over foreign keys.
    pub tables: Vec<TableId>,
    /// What had to be left out: parked by the engine, all else is exact.
    pub refused: Vec<Refused>,
    /// Of the parked keys those that were paid, but for what is refused again.
    pub settled: Vec<(TableId, Box<[u8]>)>,
    /// Tables that were owed whole and are too large for a payment: dirty, all else is exact.
    pub large: Vec<Large>,
    /// Tables of which rows may have gone along with those of tables that were left out, and nobody knows which: dirty, all else is
    /// exact.
    pub bereft: Vec<TableId>,
    /// Tables that somebody has locked, and what cannot be paid without them: nothing of them was paid, all else is exact.
    pub waiting: Vec<Waiting>,
    /// Labels of tables that were owed and are left out by configuration, with those of their parts: nothing of them was paid.
    pub left_out: BTreeSet<TableId>,
    /// Tables that got other names by the schema changes that were repeated, in their order.
    pub renamed: Vec<Renamed>,
}

/// A table got another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The label that it had.
    pub from: TableId,
    /// The label that it has.
    pub to: TableId,
    /// Its qualified name, for people.
    pub name: String,
    /// No table has the old one now.
    pub is_gone: bool,
}

impl Paid {
    /// The labels that a table may have by now, which had this one; itself first.
    pub fn names(&self, table: TableId) -> Vec<TableId> {
        names(table, self.renamed.iter().map(|one| (one.from, one.to)))
    }
}

/// The labels that a table may have after these changes of labels, in their order, whenever it had this one; itself first.
pub fn names(table: TableId, renamed: impl Iterator<Item = (TableId, TableId)>) -> Vec<TableId> {
    let mut names = vec![table];
    for (from, to) in renamed {
        if names.contains(&from) && !names.contains(&to) {
            names.push(to);
        }
    }
    names
}

/// A table that no payment takes for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its qualified name, for people.
    pub name: String,
    /// What it waits for.
    pub why: String,
    /// The names under which it is owed.
    pub owed: Vec<TableId>,
    /// Tables of which rows may have gone along with rows of it: by what it owes they are found, and by nothing else.
    pub along: Vec<TableId>,
}

/// A table that one payment does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Large {
    /// The table.
    pub table: TableId,
    /// Its qualified name, for people.
    pub name: String,
    /// What was owed, and why nothing less than the table would do.
    pub why: String,
    /// The names under which it was owed.
    pub owed: Vec<TableId>,
}

/// Tables are owed whole up to this size on the primary, in bytes, if there is another way: a payment of a larger one would
/// hold its snapshot, and all others up, for too long.
pub const WHOLE_BYTES_MAX: u64 = 256 << 20;

/// Why a copier stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The primary is away or refuses: retry after a pause, with a new [`Copier::open`].
    #[error("primary: {0}")]
    Primary(String),
    /// The secondary is away or refuses: retry after a pause, with a new [`Copier::open`].
    #[error("secondary: {0}")]
    Secondary(String),
    /// Another applier holds the lock, or the secondary is the primary of others.
    #[error("kept off the secondary: {0}")]
    Fenced(String),
    /// Both sides are one, under two names: nothing may be paid there.
    #[error("{0}")]
    OneDatabase(&'static str),
    /// The schema changed under the snapshot: take a new one, nothing was written.
    #[error("schema changed under the snapshot: {0}")]
    Stale(String),
    /// A schema change waits for somebody's lock on the secondary, and all that is owed with it: nothing was written.
    #[error("{}: {}", .0.name, .0.why)]
    Waits(Waiting),
}

/// The wire's hands. One owner; calls in this order: `open`, then any number of (`gone`, `under_way`, `survey`, \[`prepare`\] `snapshot`,
/// `pay` \[`lend`\] \[`walk`\] | `release`), `beat` anywhere between.
/// After any error but [`Error::Stale`] and [`Error::Waits`] only `open` may follow. Not cancel safe: a cancelled call needs `open` again.
pub trait Copier: Send {
    /// Connect both sides. The lock on the secondary is held *before* the primary is touched, and every writing
    /// connection of an earlier applier is proven over.
    fn open(&mut self) -> impl Future<Output = Result<Standing, Error>> + Send;

    /// Which of these units' executors can no longer change anything: backend gone, also where another one has its number now, or
    /// two-phase transaction ended.
    fn gone<'a>(
        &'a mut self,
        backends: &'a [Backend],
        prepared: &'a [Box<[u8]>],
    ) -> impl Future<Output = Result<Gone, Error>> + Send + 'a;

    /// The primary's transactions of others that may yet write, each by a name that no other one gets; outside S.
    fn under_way(&mut self) -> impl Future<Output = Result<BTreeSet<String>, Error>> + Send {
        async { Ok(BTreeSet::new()) }
    }

    /// Begin the payment of these, before S, with the schema changes that come first: they may take hours, and S keeps the
    /// primary's VACUUM from its work. The next [`Copier::pay`] is of them, unless S is given up before.
    fn prepare<'a>(&'a mut self, owed: &'a Owed) -> impl Future<Output = Result<(), Error>> + Send + 'a {
        let _ = owed;
        async { Ok(()) }
    }

    /// Take the snapshot S. When this returns, S exists.
    fn snapshot(&mut self) -> impl Future<Output = Result<Snapshot, Error>> + Send;

    /// Make every owed row (closed over foreign keys) on the secondary equal to S, in one transaction; end S, or keep it
    /// for [`Copier::lend`] and [`Copier::walk`].
    fn pay<'a>(&'a mut self, owed: &'a Owed, keep: bool) -> impl Future<Output = Result<Paid, Error>> + Send + 'a;

    /// Make on the secondary what the request's tables lack there, outside S; what could not be made, for people. `None`:
    /// it is being made, ask again.
    fn provision<'a>(
        &'a mut self,
        request: &'a Request,
        stage: Stage,
    ) -> impl Future<Output = Result<Option<Vec<String>>, Error>> + Send + 'a {
        let _ = (request, stage);
        async { Ok(Some(vec!["this wire makes no tables".to_owned()])) }
    }

    /// Nothing is to be made any more: what is being made is given up.
    fn make_nothing(&mut self) {}

    /// Which of these schema changes of no table, which the secondary refused, are of no more interest, outside S: what they make
    /// is there, or is no longer on the primary.
    fn moot<'a>(&'a mut self, changes: &'a [Box<[u8]>]) -> impl Future<Output = Result<Vec<bool>, Error>> + Send + 'a {
        let none = vec![false; changes.len()];
        async { Ok(none) }
    }

    /// Which tables there are and where their rows lie, outside S.
    fn survey(&mut self) -> impl Future<Output = Result<Vec<Surveyed>, Error>> + Send {
        async { Ok(Vec::new()) }
    }

    /// At S, right after its payment, when the secondary is equal to it: do chunks of history until the desk has no more;
    /// end S. Returns the secondary's payment counter, which grows with a walk as with a payment: a secondary that shows
    /// less may have lost chunks.
    fn walk<'a>(&'a mut self, desk: &'a Desk) -> impl Future<Output = Result<u64, Error>> + Send + 'a {
        let _ = desk;
        async {
            self.release().await?;
            Err(Error::Secondary("this wire has no history to walk over".into()))
        }
    }

    /// At S, right after its payment, when the secondary is equal to it: lend both states, for `hold` at most. S stays.
    fn lend<'a>(&'a mut self, twins: &'a Twins, hold: Duration) -> impl Future<Output = Result<(), Error>> + Send + 'a {
        let _ = (twins, hold);
        async { Ok(()) }
    }

    /// End S, paid or not.
    fn release(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Nothing else was asked for a while, inside S or outside: keep both sides from taking us for dead.
    fn beat(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }
}

/// Answer of [`Copier::gone`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Proven over.
    pub backends: Vec<Backend>,
    /// Prepared transactions that are no longer there.
    pub prepared: Vec<Box<[u8]>>,
}

/// Hands that are owed nothing, for tests of what uses them.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Idle {
    /// How often they were opened.
    pub(crate) opened: std::sync::Arc<std::sync::atomic::AtomicU64>,
    /// How often they were let speak.
    pub(crate) beats: std::sync::Arc<std::sync::atomic::AtomicU64>,
    /// Their secondary hangs as soon as it is written to.
    pub(crate) hangs: bool,
}

#[cfg(test)]
impl Copier for Idle {
    async fn open(&mut self) -> Result<Standing, Error> {
        self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Standing { life: 1, payments: 0, ..Standing::default() })
    }

    async fn gone<'a>(&'a mut self, _: &'a [Backend], _: &'a [Box<[u8]>]) -> Result<Gone, Error> {
        Ok(Gone::default())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Error> {
        Ok(Snapshot { written: 0, flushed: 0 })
    }

    async fn pay<'a>(&'a mut self, _: &'a Owed, _: bool) -> Result<Paid, Error> {
        assert!(self.hangs, "nothing is owed, or it is paused");
        std::future::pending().await
    }

    async fn release(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn beat(&mut self) -> Result<(), Error> {
        self.beats.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}
