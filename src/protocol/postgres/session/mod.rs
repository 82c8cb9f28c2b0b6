//! One client's session, without any IO: bytes of both directions in, bytes of both directions out.
//!
//! ```text
//!  client ──bytes──▶ front.rs ──▶ to_server        a captured write is journaled before what could commit it goes on
//!  client ◀── to_client ◀── back.rs ◀──bytes── server        a commit is shown when its record is durable
//! ```
//!
//! What the session holds:
//!
//! - a [`Pass`] while the primary may act for it;
//! - `keys`: what the open unit may have changed and is not in the journal yet. A message that could commit is
//!   forwarded only after the keys were appended ([`Session::append`]). They go when an answer says that the unit is over,
//!   not before: what was thought to end it may be skipped;
//! - `changes`: its schema changes, which leave records of their own (`savepoints.rs`);
//! - `tickets`: records of the open unit in the journal, oldest first (`tickets.rs`). They end when ReadyForQuery says
//!   that the session is outside any transaction, or that COMMIT AND CHAIN began the next one. What a statement did to
//!   the transaction is known by its CommandComplete; an error rolled back whatever was not committed before it;
//! - `expects`: what the server owes an answer to;
//! - `groups`: one for each ReadyForQuery to come.
//!
//! A statement whose keys only the server knows (*asked*) carries a hidden RETURNING. In the extended protocol nothing
//! commits before Sync, so no hidden transaction is needed: the Sync waits until the keys are there and journaled. A
//! simple Query with such a statement is run in pieces by the extended protocol, which leaves no trace for the client:
//! both forms use up the unnamed statement and portal, and both are one implicit transaction. Where the hidden RETURNING
//! would fail in this session though the client's own statement works, it is left off and the rows are counted
//! (`names.rs`).

mod back;
mod capture;
mod counting;
mod execute;
mod expect;
mod front;
mod hidden;
mod names;
mod path;
mod pieces;
mod reached;
mod savepoints;
mod shadow;
mod statements;
#[cfg(any(test, fuzzing))]
pub mod storm;
#[cfg(test)]
mod tests;
mod tickets;
mod traces;

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::cutover::gate::{Pass, Slot};
use crate::journal::{self, ANY, Announcer, Outcome};
use crate::mirror::unwritten::Unwritten;
use crate::record::{Backend, Item, RecordBuf, Side, TableId};

use super::copy_stream::CopyStream;
use super::lexer::{Dialect, Tokens};
use super::moving::sessions::Card;
use super::plan::{Action, Asked, Made, Script, Statement};
use super::shared::Shared;
use super::wire::WireError;

use counting::{Ahead, Counting};
use execute::Executed;
use expect::Expect;
pub(in crate::protocol::postgres) use path::{first as first_schema, schemas};
use pieces::Pieces;
use savepoints::{Changes, Stretch};
use statements::{Prepared, Statements};
use tickets::{Mark, Tickets};

/// Of one record, in bytes: well below what the journal takes.
const RECORD_MAX: usize = 512 << 10;
/// How long a unit waits for room in a full journal before its tables are dirty instead.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// Where output goes.
pub struct Out<'a> {
    /// To the primary.
    pub to_server: &'a mut BytesMut,
    /// To the client.
    pub to_client: &'a mut BytesMut,
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The client broke the protocol.
    #[error("client: {0}")]
    Client(WireError),
    /// The server broke the protocol.
    #[error("server: {0}")]
    Server(WireError),
    /// An answer came that nothing was asked for.
    #[error("server: answer of type {0:?} out of turn")]
    OutOfTurn(char),
    /// The journal failed while a client waited for it.
    #[error("{0}")]
    Journal(#[from] journal::Error),
}

/// What the session waits for before it takes more from the client.
enum Wait {
    /// Nothing.
    Nothing,
    /// The gate.
    Gate(Pin<Box<dyn Future<Output = Pass> + Send>>),
    /// Another server: the primary behind the gate is on this side.
    Move(Side),
    /// Answers with keys, before a message that could commit.
    Keys,
    /// The answer to a Parse that may be refused because its name is taken.
    Parse(Bytes, Prepared),
    /// Every ReadyForQuery that is still to come.
    Answers,
    /// Nothing that could come: no unit begins any more, or nobody is left who could say more of this one.
    End,
    /// Room in the journal.
    Room(Awaited),
    /// Labels of tables to be durable.
    Announced(Awaited),
    /// A newer catalog, for a statement that names something unknown or after a schema change.
    Catalog(Awaited),
}

/// Something on its way; `false`: not in time.
type Awaited = Pin<Box<dyn Future<Output = bool> + Send>>;

/// One ReadyForQuery to come.
#[derive(Default)]
struct Group {
    /// Its records, and those before it.
    upto: Mark,
    /// An ErrorResponse came.
    failed: bool,
    /// A schema change completed in it.
    schema: bool,
    /// A transaction ended in it.
    ended: bool,
    /// An Execute of the client's is in it.
    executed: bool,
}

/// A portal whose statement ran to its end, while the client took only some of the rows that it returns.
struct Suspended {
    portal: Bytes,
    script: Arc<Script>,
    binary: bool,
    /// It can be read on: it is the unnamed one, which goes only where that is noticed, and no error came since.
    open: bool,
}

/// Answers that a session may be owed before it takes more of its client. A server keeps back a fraction of them, so that it
/// goes on without being told to hurry.
pub(super) const OWED_MAX: usize = 16 * 1024;

/// Buffers that a large statement made larger than this are given back when its unit is over.
const KEEP_BYTES: usize = 64 * 1024;

/// One client's session.
pub struct Session {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    pass: Option<Pass>,
    backend: Backend,
    dialect: Dialect,
    /// Reported by the server; text is captured only where it can be lexed.
    client_utf8: bool,
    /// The server's last word: `I`, `T` or `E`.
    status: u8,
    /// `status` is `T` and nothing that could end the transaction was forwarded since.
    in_transaction: bool,
    /// The last message was a ROLLBACK of a transaction that was open for sure.
    undoing: bool,
    statements: Statements,
    keys: RecordBuf,
    /// Tables of the open unit's keys that are in the journal already, as parts.
    parts: Vec<TableId>,
    changes: Changes,
    tickets: Tickets,
    /// Where the records of the message at hand begin, which may be looked at several times.
    message: Option<Mark>,
    /// A schema change completed in an earlier group of the open transaction.
    carried_schema: bool,
    /// The server is inside a transaction block, as far as it answered.
    in_block: bool,
    /// That block was begun by AND CHAIN, and nothing ran in it.
    chained: bool,
    expects: VecDeque<Expect>,
    groups: VecDeque<Group>,
    /// The group without a Sync: messages were forwarded, or its error was seen.
    open_group: Group,
    open_started: bool,
    /// The server skips what comes before the next Sync.
    skipping: bool,
    /// What the server said to a hidden query that failed in the place of the client's message, until that comes again.
    refused: Option<Bytes>,
    /// The client was told so, and what comes before its next Sync means nothing.
    discarding: bool,
    /// The server did not answer what was asked ahead of the message at hand, which goes without.
    unanswered: bool,
    /// Executes with a hidden RETURNING that were not answered.
    asking: usize,
    flushed: bool,
    /// The server was asked to hurry while the client's Sync waits: the client asked for one answer and gets it in two.
    hurried: bool,
    /// Statements whose hidden writes the server counts, oldest first.
    counting: VecDeque<Counting>,
    /// The same, asked for ahead of what may end its transaction.
    ahead: Option<Ahead>,
    wait: Wait,
    /// A statement that may change the dialect is in the group of this number, of which nothing is known yet.
    dialect_moves: Option<u64>,
    /// One ran in the open transaction, which may take it back.
    dialect_touched: bool,
    /// No unit begins any more.
    stopping: bool,
    holding: bool,
    pieces: Option<Box<Pieces>>,
    /// COPY streams that were sent for and did not end, each with the number of its group.
    copies: VecDeque<(u64, CopyStream)>,
    /// The server reads a COPY stream.
    copy_in: bool,
    /// How many messages went out that ReadyForQuery answers.
    boundaries: u64,
    /// Portals with a hidden RETURNING that a row limit suspended.
    suspended: Vec<Suspended>,
    /// A hidden RETURNING was executed with a row limit, and not all of those were answered.
    limited: bool,
    announcer: Announcer,
    /// The oldest epoch of the catalog under which `keys` were captured.
    epoch: u64,
    /// The ReadyForQuery of a committed schema change, shown when every session knows it: nobody who was told of it plans
    /// by the old catalog.
    learning: Option<(Awaited, Bytes)>,
    /// An unknown name already sent the session to the catalog for this message.
    reloaded: bool,
    schema_stale: bool,
    /// Rest of a message that is forwarded as it comes; the kind, to feed COPY.
    front_rest: (usize, u8),
    back_rest: usize,
    tokens: Tokens,
    /// What the EXECUTEs of those tokens mean.
    executed: Option<Box<Executed>>,
    raw: bool,
    /// What unqualified names mean in this session, for schema changes; `None`: ask.
    path: Option<String>,
    /// What else they are read under, with the path: see [`super::schema_change::SETTINGS`].
    settings: Vec<String>,
    /// A SET of the open transaction may be rolled back.
    path_touched: bool,
    /// A schema change was captured since the path was asked for: it may have made a schema that the path names.
    path_aged: bool,
    /// Tables that the open units wrote to past the journal, each with where its newest stands.
    unwritten: Vec<(Mark, Unwritten)>,
    /// The Query at hand is captured, and waits for the journal.
    is_captured: bool,
    /// What a hidden RETURNING would not find or may not read; `None`: ask.
    names: Option<names::Names>,
    /// Names may have meant something of the session's own.
    odd_names: bool,
    /// It may have temporary tables.
    may_have_temporary: bool,
    /// A cursor of the open transaction may write when it is read: it was declared over what writes, or code of the user's
    /// may have opened it.
    hot_cursor: bool,
    /// What it runs of which the catalog does not know.
    made: Made,
    /// The journal stayed full: the next append marks dirty.
    gave_up: bool,
    /// Works on tables that our catalog does not have.
    uncaptured: bool,
    /// Where its server is; `None`: it never moves.
    side: Option<Side>,
    /// How others see it.
    card: Option<Arc<Card>>,
    /// It was told of types whose oids are its server's own.
    user_types: bool,
    /// Its reads that are repeated on the secondary.
    shadow: shadow::Shadow,
}

impl Session {
    /// A session whose start-up is over: `backend` is whom the server named, `status` its first ReadyForQuery.
    pub fn new(shared: Arc<Shared>, backend: Backend) -> Session {
        let slot = Arc::new(shared.gate.slot());
        Session {
            shared,
            slot,
            pass: None,
            backend,
            dialect: Dialect::default(),
            client_utf8: true,
            status: b'I',
            in_transaction: false,
            undoing: false,
            statements: Statements::default(),
            keys: RecordBuf::default(),
            parts: Vec::new(),
            changes: Changes::default(),
            tickets: Tickets::default(),
            message: None,
            carried_schema: false,
            in_block: false,
            chained: false,
            expects: VecDeque::new(),
            groups: VecDeque::new(),
            open_group: Group::default(),
            open_started: false,
            skipping: false,
            refused: None,
            discarding: false,
            unanswered: false,
            asking: 0,
            flushed: false,
            hurried: false,
            counting: VecDeque::new(),
            ahead: None,
            wait: Wait::Nothing,
            dialect_moves: None,
            dialect_touched: false,
            stopping: false,
            holding: false,
            pieces: None,
            copies: VecDeque::new(),
            copy_in: false,
            boundaries: 0,
            suspended: Vec::new(),
            announcer: Announcer::default(),
            epoch: 0,
            learning: None,
            limited: false,
            reloaded: false,
            schema_stale: false,
            front_rest: (0, 0),
            back_rest: 0,
            tokens: Tokens::default(),
            executed: None,
            raw: false,
            gave_up: false,
            path: None,
            settings: Vec::new(),
            path_touched: false,
            path_aged: false,
            unwritten: Vec::new(),
            is_captured: false,
            names: None,
            odd_names: false,
            may_have_temporary: false,
            hot_cursor: false,
            made: Made::default(),
            uncaptured: false,
            side: None,
            card: None,
            user_types: false,
            shadow: shadow::Shadow::default(),
        }
    }

    /// Forward everything as it is from now on: for dialects that are not SQL sessions.
    pub fn pass_through(&mut self) {
        self.raw = true;
    }

    /// Nothing that this session writes is mirrored: its database is not the one that is. It passes the gate as others.
    pub fn leave_uncaptured(&mut self) {
        self.uncaptured = true;
    }

    /// Are writes captured now?
    fn captures(&self) -> bool {
        !self.uncaptured && self.pass.as_ref().is_some_and(|pass| pass.route().mirror)
    }

    /// May more be taken from the client now?
    pub fn wants_client(&self) -> bool {
        matches!(self.wait, Wait::Nothing) && self.pieces.is_none() && self.learning.is_none()
    }

    /// Are so many answers on their way that more is to be asked when some of them came?
    pub fn is_owed_much(&self) -> bool {
        self.expects.len() >= OWED_MAX
    }

    /// Was a message forwarded in part?
    pub fn inside_message(&self) -> bool {
        self.front_rest.0 > 0
    }

    /// May more be taken from the server now?
    pub fn wants_server(&self) -> bool {
        // Rows bring keys, which have no place until the journal has. Other answers need none: a client is told what there is.
        let full = self.asking > 0 && matches!(self.wait, Wait::Room(_) | Wait::Announced(_));
        !self.holding && self.learning.is_none() && !full
    }

    /// Is the rest of an answer on its way, that the client asked for as a whole? What there is of it can go with it, for
    /// one wake-up of the client instead of two.
    pub fn answers_soon(&self) -> bool {
        self.holding || self.hurried
    }

    /// Is the primary still able to act for this session?
    pub fn is_idle(&self) -> bool {
        self.pass.is_none() && self.learning.is_none()
    }

    /// Begin no unit any more: what is under way ends, a transaction when its client ends it.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The client is gone. What waits is not forwarded, and the server rolls back what was not committed.
    pub fn client_left(&mut self) {
        self.wait = Wait::End;
    }

    /// Drive what the session waits for. `true`: something changed, feed it again.
    pub fn poll(&mut self, cx: &mut Context<'_>, out: &mut Out<'_>) -> Result<bool, Fault> {
        let mut moved = false;
        if self.holding && self.poll_durable(cx)? {
            self.holding = false;
            moved = true;
        }
        moved |= self.poll_learning(cx, out);
        match &mut self.wait {
            Wait::Gate(entering) => {
                if let Poll::Ready(pass) = entering.as_mut().poll(cx) {
                    self.entered(pass);
                    moved = true;
                }
            }
            Wait::Room(room) => {
                if let Poll::Ready(made) = room.as_mut().poll(cx) {
                    self.gave_up = !made;
                    self.shared.stays_full(!made);
                    self.wait = Wait::Nothing;
                    moved = true;
                }
            }
            Wait::Catalog(done) | Wait::Announced(done) => {
                if done.as_mut().poll(cx).is_ready() {
                    self.wait = Wait::Nothing;
                    moved = true;
                }
            }
            Wait::Keys if self.asking == 0 => {
                self.wait = Wait::Nothing;
                moved = true;
            }
            // A COPY that began is answered when it ends, which is the client's to say.
            Wait::Answers if self.groups.is_empty() || self.copy_in => {
                self.wait = Wait::Nothing;
                moved = true;
            }
            Wait::Nothing | Wait::Move(_) | Wait::Keys | Wait::Parse(..) | Wait::Answers | Wait::End => {}
        }
        if self.pieces.is_some() && matches!(self.wait, Wait::Nothing) {
            moved |= self.run_pieces(cx, out)?;
        }
        Ok(moved)
    }

    /// The backend is gone: what it had open can only have been rolled back, or is in doubt if it could have committed.
    pub fn server_closed(&mut self) {
        self.tickets.abandon();
        self.parts.clear();
        self.unwritten.clear();
        self.pass = None;
    }

    /// `true` when every ticket that the front group's answers wait for is durable.
    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        match self.tickets.poll_durable(self.front_mark(), cx) {
            Poll::Ready(done) => Ok(done.map(|()| true)?),
            Poll::Pending => Ok(false),
        }
    }

    /// `true`: the schema change that was waited for is known, and its answer shown.
    fn poll_learning(&mut self, cx: &mut Context<'_>, out: &mut Out<'_>) -> bool {
        let Some((reload, answer)) = &mut self.learning else { return false };
        let Poll::Ready(loaded) = reload.as_mut().poll(cx) else { return false };
        out.to_client.extend_from_slice(answer);
        self.schema_stale |= !loaded;
        self.learning = None;
        true
    }

    /// The answers of the front group stand behind the records below it.
    fn front_mark(&self) -> Mark {
        self.groups.front().map_or(self.tickets.mark(), |group| group.upto)
    }

    fn is_durable(&self) -> bool {
        self.tickets.durable(self.front_mark())
    }

    /// Write what the open unit leaves to the journal. After it, what could commit it may be forwarded. Keys come last:
    /// the record that names a two-phase transaction speaks for those before it. `false`: wait first.
    fn append(&mut self) -> Result<bool, Fault> {
        if !self.announce_parts() || !self.append_changes() || !self.append_keys(Share::Last) {
            return Ok(false);
        }
        // Its parts count from here on, also where nothing is left to be said.
        Ok(self.parts.is_empty() || self.write_down(&mut RecordBuf::default(), None, Share::Last))
    }

    /// What they name may still have to be known after a power loss. `false`: wait first.
    fn announce_parts(&mut self) -> bool {
        if self.parts.is_empty() {
            return true;
        }
        let parts = std::mem::take(&mut self.parts);
        let announced = self.announce(parts.iter().copied());
        self.parts = parts;
        announced
    }

    /// `false`: wait first.
    fn append_keys(&mut self, share: Share) -> bool {
        while !self.keys.is_empty() {
            let keys = std::mem::take(&mut self.keys);
            let announced = self.announce(keys.tables());
            self.keys = keys;
            // One statement may name more than a record takes.
            if !announced || !self.append_record(share) {
                return false;
            }
        }
        true
    }

    /// Write the first of them, a record's worth. `false`: wait first.
    fn append_record(&mut self, share: Share) -> bool {
        let rest = self.keys.split_off(RECORD_MAX);
        let mut keys = std::mem::take(&mut self.keys);
        let taken = self.write_down(&mut keys, None, share);
        self.keys = keys;
        if !taken {
            self.keys.append(&rest);
            return false;
        }
        // After the append: a catalog that came in between has not been missed.
        self.owe_changed();
        self.keys.clear();
        if !rest.is_empty() {
            self.keys = rest;
        }
        true
    }

    /// Write the schema changes, each stretch of them apart. `false`: wait first.
    fn append_changes(&mut self) -> bool {
        while let Some((mut record, count, of)) = self.changes.first(RECORD_MAX) {
            if !self.announce(record.tables()) || !self.write_down(&mut record, Some(of), Share::Last) {
                return false;
            }
            self.changes.drop_first(count);
        }
        true
    }

    /// Put a record into the journal; one that the journal does not take makes its tables dirty. `false`: wait first.
    fn write_down(&mut self, record: &mut RecordBuf, changes: Option<(Stretch, bool)>, share: Share) -> bool {
        let bytes = match share {
            Share::Part => record.finish_part(self.backend),
            Share::Last => record.finish(self.backend),
        };
        match self.shared.journal.begin(bytes) {
            Ok(ticket) => {
                self.shared.stays_full(false);
                self.tickets.push(ticket, changes);
                match share {
                    Share::Part => {
                        let parts = &mut self.parts;
                        self.shared.concerned(record).into_iter().for_each(|table| {
                            if !parts.contains(&table) {
                                parts.push(table)
                            }
                        });
                    }
                    Share::Last => self.parts.clear(),
                }
            }
            Err(journal::Error::Full) if !std::mem::take(&mut self.gave_up) && self.shared.waits_for_room() => {
                self.wait = Wait::Room(self.room(record.bytes()));
                return false;
            }
            Err(error) => {
                self.unwritten(record, &error);
                if share == Share::Last {
                    self.unclosed(&error);
                }
            }
        }
        true
    }

    /// The journal did not take what says that parts count.
    fn unclosed(&mut self, error: &journal::Error) {
        if self.parts.is_empty() {
            return;
        }
        let mut parts = RecordBuf::default();
        std::mem::take(&mut self.parts).into_iter().for_each(|table| parts.table(table));
        self.unwritten(&parts, error);
    }

    /// The journal did not take this.
    fn unwritten(&mut self, keys: &RecordBuf, error: &journal::Error) {
        let (mark, unwritten) = (self.tickets.mark(), self.shared.lose(keys, error));
        self.unwritten.iter_mut().for_each(|(_, earlier)| earlier.hand_over(&unwritten));
        self.unwritten.push((mark, unwritten));
        self.unwritten.retain(|(_, some)| !some.is_empty());
    }

    /// What was written past the journal below the mark has ended.
    fn unwritten_over(&mut self, upto: Mark) {
        // Who is in flight behind it may have the same mark.
        let is_last = self.nothing_in_flight();
        self.unwritten.retain(|(mark, _)| *mark > upto || (*mark == upto && !is_last));
    }

    /// The journal knows durably which tables are being written, so that after a power loss only those are dirty
    /// (promise 3). `false`: wait first.
    fn announce(&mut self, tables: impl Iterator<Item = TableId>) -> bool {
        let journal = &self.shared.journal;
        let Some(pending) = self.announcer.announce(journal, tables.map(|table| table.0)) else { return true };
        let journal = journal.clone();
        self.wait = Wait::Announced(Box::pin(async move { journal.announced(pending).await.is_ok() }));
        false
    }

    /// As [`Session::announce`], for a statement that may write to any table, and is counted: those that it wrote to are
    /// announced with what the counts say.
    fn announce_any(&mut self) -> bool {
        self.announce(std::iter::once(TableId(ANY)))
    }

    /// The schema changed since `keys` were captured: what they say of tables that it concerns may be too little, since
    /// the statement may run after the change. Those tables are owed whole, and where triggers or rules may write, dirty.
    fn owe_changed(&mut self) {
        let catalog = self.shared.catalog.now();
        if catalog.epoch == self.epoch {
            return;
        }
        let mut more = RecordBuf::default();
        let mut seen = HashSet::new();
        for item in self.keys.items() {
            if let Item::Key { table, .. } = item
                && seen.insert(table)
                && catalog.changed_since(table, self.epoch)
            {
                more.table(table);
                let relation = catalog.relation(table);
                if relation.is_none_or(|relation| relation.hazards.may_write()) {
                    capture::dirty_any(&catalog, &mut more);
                }
            }
        }
        if more.is_empty() {
            return;
        }
        match self.shared.journal.begin(more.finish(self.backend)) {
            Ok(ticket) => self.tickets.push(ticket, None),
            Err(error) => self.unwritten(&more, &error),
        }
    }

    /// Keys are captured under the catalog of this epoch.
    fn captured_under(&mut self, epoch: u64) {
        self.epoch = oldest(&self.keys, self.epoch, epoch);
    }

    /// Resolves with `true` when there is room. A disk that is a moment behind is waited for by any policy; a journal
    /// that stays full is waited for only where configuration says so (promise 7), and not where an open unit holds it up:
    /// that may be this one, or wait for a lock of this one.
    fn room(&self, bytes: usize) -> Awaited {
        let (shared, bytes) = (self.shared.clone(), bytes.min(RECORD_MAX));
        Box::pin(async move {
            let journal = &shared.journal;
            loop {
                let held_up = journal.held_up_at();
                if let Ok(room) = tokio::time::timeout(FULL_WAIT, journal.room(bytes)).await {
                    return room.is_ok();
                }
                let stays = held_up.is_some() && held_up == journal.held_up_at();
                if stays || !shared.policy.block_when_full() {
                    return false;
                }
            }
        })
    }

    /// A large transaction does not pile up in memory: its keys go to the journal as they come.
    fn spill(&mut self) {
        if matches!(self.wait, Wait::End) {
            // Nothing commits any more: of whatever did, the keys went to the journal before.
            return self.keys.clear();
        }
        // What is waited for must not be replaced by another wait, and none may begin anew.
        let waits = matches!(self.wait, Wait::Parse(..) | Wait::Room(_) | Wait::Announced(_));
        if self.keys.bytes() >= self.shared.policy.spill_bytes && !waits {
            self.append_keys(Share::Part);
        }
    }

    /// ReadyForQuery with state `I` ends the unit: its records end, whatever was not appended was rolled back.
    fn unit_over(&mut self, group: &Group) {
        // What nothing else decided was committed at the end of the group, or rolled back by its error.
        let last = if group.failed { Outcome::Aborted } else { Outcome::Committed };
        self.tickets.end_all(group.upto, last);
        self.changes.transaction_over();
        self.unwritten_over(group.upto);
        self.hot_cursor &= !self.nothing_in_flight();
        self.dialect_touched &= !self.nothing_in_flight();
        self.shadow_unit_over(group.failed);
        self.names_end();
        self.ahead_over();
        if std::mem::take(&mut self.path_touched) {
            self.path = None;
            self.names = None;
        }
        if self.nothing_in_flight() {
            // What was committed nobody is told before the catalog knows it.
            self.made.forget();
            self.keys.clear();
            self.parts.clear();
            self.changes.clear();
            self.is_captured = false;
            self.statements.transaction_over();
            self.pass = None;
            self.give_back();
        }
    }

    /// What a large unit needed an idle session does not keep.
    fn give_back(&mut self) {
        if self.tokens.held() > KEEP_BYTES {
            self.tokens = Tokens::default();
        }
        if self.keys.held() > KEEP_BYTES {
            self.keys = RecordBuf::default();
        }
        self.expects.shrink_to(KEEP_BYTES / size_of::<Expect>());
        self.groups.shrink_to(KEEP_BYTES / size_of::<Group>());
        self.executed = None;
    }

    /// COMMIT AND CHAIN ended a unit, and nothing ran in the next: it passes the gate when it begins.
    fn chained_over(&mut self, group: &Group) {
        self.tickets.end_settled(group.upto);
        self.unwritten_over(group.upto);
        self.names_end();
        if self.chained && self.nothing_in_flight() && self.keys.is_empty() && self.changes.is_empty() {
            self.pass = None;
        }
    }

    /// Does the end of what is open at the server commit nothing? It skips it, or it is in a failed transaction.
    fn is_failed(&self) -> bool {
        self.skipping || self.status == b'E' && self.nothing_in_flight()
    }

    /// What the server skips to the end of, outside a transaction, it has rolled back: what follows does not wait for its keys.
    fn drop_failed(&mut self) {
        if self.skipping && self.status == b'I' && !self.in_block {
            self.keys.clear();
            self.parts.clear();
        }
    }

    fn nothing_in_flight(&self) -> bool {
        self.groups.is_empty() && !self.open_started
    }
}

/// What a record is of its unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// Written while the unit goes on.
    Part,
    /// Written just before what could commit the unit is forwarded.
    Last,
}

/// The oldest epoch of keys: of those that are there, if any, and of those that come.
fn oldest(keys: &RecordBuf, of_these: u64, of_more: u64) -> u64 {
    if keys.is_empty() { of_more } else { of_more.min(of_these) }
}

/// The hidden RETURNING of a statement that is asked, or may be.
fn asked_of(statement: &Statement) -> Option<&Asked> {
    match &statement.action {
        Action::Asked(asked) => Some(asked),
        Action::Evident(evident) => evident.fallback.as_deref(),
        _ => None,
    }
}
