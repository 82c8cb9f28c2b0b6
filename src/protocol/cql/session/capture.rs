//! From a request that writes to what the journal keeps of it, and to what goes to the primary in its place.
//!
//! Three things may be changed in what the client sent, and nothing else: a timestamp is added to the frame where there
//! is none; a call, or a constant, that gives another value each time is replaced by the value; a prepared statement with such a call goes
//! as text. What is written down is then exactly what the primary executes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use smallvec::{SmallVec, smallvec};

use crate::protocol::cql::ballot::{Conditional, row_key};
use crate::protocol::cql::look::{Decided, Look};
use crate::protocol::cql::outcome::Kind;
use crate::protocol::cql::place::{self, Extent, Place, hash_of};
use crate::protocol::cql::stamps::{Stamps, now_micros};
use crate::protocol::cql::tables::{Table, Tables};
use crate::protocol::cql::text::edit::{self, Edit};
use crate::protocol::cql::text::generate::{Generated, TimeUuids};
use crate::protocol::cql::text::now;
use crate::protocol::cql::text::parse::parse;
use crate::protocol::cql::text::schema::Effect;
use crate::protocol::cql::text::stamp::stamp;
use crate::protocol::cql::text::statement::{Body, Class, Modification, Name, Statement as Parsed};
use crate::protocol::cql::text::token::Span;
use crate::protocol::cql::text::volatile::{Dialect, literals, volatile_calls};
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{
    BatchKind, Execute, Parameters, Query, Request, Statement, StatementText, Values,
};
use crate::protocol::cql::wire::{Envelope, Error, Opcode};
use crate::protocol::cql::write;
use crate::record::{Lane, Order, Reason, RecordBuf, TableId};

use super::allowed::{Allowed, Untried};
use super::assigned::Assigned;
use super::contests::{Contests, Seen};
use super::decision::Decision;
use super::known::{Known, Part, Way};
use super::reach::Reach;

/// One statement of a request.
pub(super) struct Piece<'a> {
    /// What it is.
    pub known: Arc<Known>,
    /// What is bound to its markers.
    pub values: Values<'a>,
    /// It was prepared, with names that mean what they meant there.
    pub is_prepared: bool,
}

/// A statement as the primary executes it.
enum Executed<'k> {
    /// As it was written.
    Same(&'k Known),
    /// With values that were made here.
    Made { text: Vec<u8>, statement: Box<Parsed> },
}

impl Executed<'_> {
    fn text(&self) -> &[u8] {
        match self {
            Executed::Same(known) => &known.text,
            Executed::Made { text, .. } => text,
        }
    }

    /// What is made is not only in the text: it may be where a write goes.
    fn statement(&self) -> &Parsed {
        match self {
            Executed::Same(known) => &known.statement,
            Executed::Made { statement, .. } => statement,
        }
    }

    fn is_made(&self) -> bool {
        matches!(self, Executed::Made { .. })
    }
}

/// What a request that writes leaves.
pub(super) struct Captured {
    /// For the journal; empty if nothing is mirrored.
    pub record: RecordBuf,
    /// How its answer is to be understood.
    pub kind: Kind,
    /// What goes to the primary instead of what the client sent.
    pub instead: Option<BytesMut>,
    /// Paxos decides it.
    pub conditional: Option<Reach>,
    /// What it leaves instead if it is applied and its ballot is known.
    pub decision: Option<Decision>,
    /// Something of it goes by state.
    pub by_state: bool,
    /// What there was of conditional writes beside a plain one.
    pub seen: Seen,
    /// To which of its tables nobody saw this client write.
    pub untried: Untried,
    /// The statement changes a schema or empties a table: others wait for it.
    pub is_barrier: bool,
}

/// Why a request cannot be captured as it is.
#[derive(Debug)]
pub(super) enum Refused {
    /// It names a table that the schema at hand lacks.
    Stranger,
    /// It cannot be put together again.
    Wire(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Wire(error)
    }
}

/// What capturing needs to know.
pub(super) struct Ground<'a> {
    /// The schema.
    pub tables: &'a Tables,
    /// Where timestamps come from.
    pub stamps: &'a Stamps,
    /// Where `now()` comes from.
    pub timeuuids: &'a TimeUuids,
    /// What the primary calls its functions.
    pub dialect: Dialect,
    /// How far the primary's clocks are from ours, in microseconds.
    pub apart: i64,
    /// Conditional writes.
    pub contests: &'a Contests,
    /// Where the client was seen to write, if it may matter who it is.
    pub allowed: Option<&'a Allowed>,
    /// Tables that are not there are taken as they are named: the schema was just looked at.
    pub is_fresh: bool,
}

impl Ground<'_> {
    /// What a request that writes leaves, and what is sent in its place.
    pub(super) fn capture(
        &self,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
        pieces: &[Piece<'_>],
    ) -> Result<Captured, Refused> {
        if let [Piece { known, .. }] = pieces
            && matches!(known.class, Class::Schema | Class::Truncate)
        {
            return self.barrier(known, request);
        }
        let executed: Vec<Executed<'_>> = pieces.iter().map(|piece| self.executed(piece)).collect();
        let Some(parameters) = parameters(request) else {
            return Err(Refused::Wire(Error::Direction(true, request.opcode())));
        };
        let conditional = pieces.iter().any(|piece| piece.known.statement.is_conditional());
        let mut sorted = Sorted { conditional, ..Sorted::default() };
        let all = || pieces.iter().zip(&executed).enumerate();
        for (at, (piece, executed)) in all() {
            self.sort(at, piece, executed, &mut sorted)?;
        }
        let is_stamped = parameters.timestamp.is_none() && !sorted.conditional && !sorted.counters && sorted.mirrored;
        let reach = sorted.reach();
        let stamp = match parameters.timestamp {
            Some(stamp) => stamp,
            None if is_stamped => self.stamps.next(reach.own(), reach.heeded(), now_micros()),
            None => now_micros(),
        };
        let is_made = executed.iter().any(Executed::is_made);
        let stamped = Parameters { timestamp: is_stamped.then_some(stamp).or(parameters.timestamp), ..*parameters };
        let instead = (is_stamped || is_made).then(|| put_again(envelope, request, &executed, &stamped)).transpose()?;
        let mut seen = Seen::default();
        if !sorted.conditional && self.is_contested(pieces, &reach, stamp, &mut seen) {
            sorted = Sorted { contested: true, ..Sorted::default() };
            for (at, (piece, executed)) in all() {
                self.sort(at, piece, executed, &mut sorted)?;
            }
        }
        let mut record = RecordBuf::default();
        let mut decision = None;
        let tables = sorted.found.iter().map(|found| found.table);
        let untried = self.allowed.map_or_else(Untried::new, |allowed| allowed.untried(tables));
        let kind = sorted.kind(request, pieces);
        if sorted.mirrored {
            let is_untried = !untried.is_empty();
            let executed = &executed;
            let whole = Whole { request, pieces, executed, parameters, stamp, apart: self.apart, kind, is_untried };
            whole.write_down(&mut record, &sorted)?;
            decision = if sorted.conditional { self.decision(&whole, &sorted)? } else { None };
        }
        let conditional = sorted.conditional.then_some(reach);
        let by_state = sorted.goes_by_state();
        Ok(Captured { record, kind, instead, conditional, decision, by_state, seen, untried, is_barrier: false })
    }

    /// Whether a conditional write may be decided beside this plain one, above its timestamp.
    fn is_contested(&self, pieces: &[Piece<'_>], reach: &Reach, stamp: i64, seen: &mut Seen) -> bool {
        // Where the text says another timestamp, it may be any.
        let stamp = if pieces.iter().any(|piece| piece.known.is_stamped) { i64::MIN } else { stamp };
        let mut contested = false;
        for partition in reach.heeded() {
            contested |= self.contests.concern(partition, stamp, seen);
        }
        contested
    }

    /// What a conditional write leaves if it is applied. `None`: it goes by state.
    fn decision(&self, whole: &Whole<'_, '_>, sorted: &Sorted) -> Result<Option<Decision>, Error> {
        let [hash] = sorted.hashes()[..] else { return Ok(None) };
        // Where deletes are forgotten at once, its record would come too late: behind plain writes that came after it.
        let is_late = sorted.found.iter().any(|found| found.way == Way::InOrder || found.places.is_none());
        let (by_state, replayed): (Vec<&Found>, Vec<&Found>) =
            sorted.found.iter().partition(|found| found.way == Way::State);
        let pieces = pieces(&replayed);
        let is_mixed = by_state.iter().any(|found| pieces.binary_search(&found.piece).is_ok());
        if is_late || is_mixed || sorted.unknown {
            return Ok(None);
        }
        let Some(first) = replayed.first() else { return Ok(None) };
        let [(keyspace, _)] = whole.by_keyspace(&replayed)[..] else { return Ok(None) };
        let plan = whole.pieces[first.piece].known.plan(self.tables);
        let table = plan.parts.iter().find_map(|part| match part {
            Part::Mirrored { table, .. } => Some(table.clone()),
            _ => None,
        });
        let place = first.places.iter().flatten().next();
        let (Some(table), Some(key)) = (table, place.and_then(|place| row_key(&place.partition))) else {
            return Ok(None);
        };
        let places =
            by_state.iter().flat_map(|found| found.places.iter().flatten().map(|place| (found.table, place.clone())));
        Ok(Some(Decision {
            lanes: vec![(table.label, Lane::beside(hash))],
            places: places.collect(),
            table: table.id,
            key,
            since: now_micros(),
            write: Conditional::new(table, whole.body(&replayed, keyspace)?),
            consistency: (whole.parameters.consistency, whole.by_paxos()),
        }))
    }

    /// A statement as the primary will execute it. What goes as text although it was prepared names its tables with the
    /// keyspace in which it was: the session's, or the batch's, may be another one.
    fn executed<'k>(&self, piece: &'k Piece<'_>) -> Executed<'k> {
        let known = &piece.known;
        let times = if known.says_now { self.times(known) } else { Vec::new() };
        if !known.is_volatile && times.is_empty() {
            return Executed::Same(known);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let fresh = volatile_calls(&known.statement)
            .map(|(_, kind)| Generated::new(kind, now, self.timeuuids, random()))
            .collect::<Vec<_>>();
        let mut edits = literals(&known.statement, self.dialect, &fresh);
        let millis = now.as_millis().to_string();
        edits.extend(times.into_iter().map(|span| Edit { span, text: millis.clone() }));
        if let Some(keyspace) = known.keyspace.as_deref().filter(|_| piece.is_prepared) {
            edits.extend(edit::qualified(&known.statement, keyspace));
        }
        let text = edit::apply(&known.text, edits);
        Executed::Made { statement: Box::new(parse(&text)), text }
    }

    /// Where the text of a statement says `'now'` and means the time.
    fn times(&self, known: &Known) -> Vec<Span> {
        let times = |part: &Part| match part {
            Part::Mirrored { times, .. } => times.to_vec(),
            Part::NotMirrored | Part::Stranger(_) => Vec::new(),
        };
        known.plan(self.tables).parts.iter().flat_map(times).collect()
    }

    fn sort(&self, at: usize, piece: &Piece<'_>, executed: &Executed<'_>, sorted: &mut Sorted) -> Result<(), Refused> {
        let plan = piece.known.plan(self.tables);
        let statement = executed.statement();
        let assigned = Assigned::new(statement, piece.values);
        // What cannot be said again cannot be replayed. A call that was replaced had no marker in it.
        let is_told = assigned.is_told();
        sorted.unknown |= matches!(statement.body, Body::Unknown(_));
        let stamp_of = |modification| {
            let bound = |number| assigned.bytes(number);
            piece.known.is_stamped.then(|| stamp(executed.text(), statement, modification, bound)).flatten()
        };
        for (modification, part) in statement.modifications().iter().zip(&plan.parts) {
            match part {
                Part::NotMirrored => {}
                Part::Stranger(_) if !self.is_fresh => return Err(Refused::Stranger),
                Part::Stranger(name) => {
                    let keyspace = name.keyspace.as_deref().unwrap_or_default();
                    let table = TableId::of(keyspace, &name.name);
                    let of = hash_of([keyspace]);
                    let found = Found {
                        piece: at,
                        keyspace: of,
                        table,
                        way: if is_told { Way::Replay } else { Way::State },
                        stamp: stamp_of(modification),
                        is_pinned: false,
                        parts: None,
                        places: None,
                    };
                    sorted.add(found);
                }
                Part::Mirrored { table, way, is_pinned, key, .. } => {
                    sorted.counters |= table.shape.has_counters();
                    let bound = |number: &usize| assigned.bytes(*number);
                    let key = key.as_ref().and_then(|markers| markers.iter().map(bound).collect::<Option<Key<'_>>>());
                    let way = if is_told && !may_tell_time(piece, table) { *way } else { Way::State };
                    let by_state = way == Way::State || sorted.conditional || sorted.contested;
                    let all = || places(executed, modification, table, &assigned);
                    let places = (by_state || key.is_none()).then(all).flatten();
                    let parts = key.map(|key| smallvec![hash_of(key)]).or_else(|| places.as_deref().map(parts));
                    let is_pinned = *is_pinned;
                    let keyspace = hash_of([&table.shape.keyspace]);
                    let (table, stamp) = (table.label, stamp_of(modification));
                    sorted.add(Found { piece: at, keyspace, table, way, stamp, is_pinned, parts, places });
                }
            }
        }
        if sorted.unknown {
            sorted.mirrored = true;
        }
        Ok(())
    }

    fn barrier(&self, known: &Known, request: &Request<'_>) -> Result<Captured, Refused> {
        let name = match &known.statement.body {
            Body::Truncate(name) => Some(name.clone()),
            Body::Schema(schema) => table_of(schema).cloned(),
            _ => None,
        };
        // The request's own, or where it was prepared, before the session's.
        let keyspace = name.as_ref().and_then(|name| name.keyspace_or(known.keyspace.as_deref()));
        // Of a keyspace, a type, a function: of every table that may use it.
        let label =
            name.as_ref().zip(keyspace).map_or(TableId::NONE, |(name, keyspace)| TableId::of(keyspace, &name.name));
        let mut record = RecordBuf::default();
        let parameters = parameters(request).copied().unwrap_or(Parameters::new(Consistency::LocalQuorum));
        let all = Parameters {
            timestamp: Some(now_micros()),
            keyspace: known.keyspace.as_deref(),
            values: None,
            ..parameters
        };
        let statement = Statement { text: StatementText::Text(&known.text), values: Values::Given(&[]) };
        let mut body = BytesMut::new();
        write::put_statement(&mut body, statement, &all)?;
        record.ddl(label, &body);
        Ok(Captured {
            record,
            kind: Kind::Spread,
            instead: None,
            conditional: None,
            decision: None,
            by_state: false,
            seen: Seen::default(),
            untried: Untried::default(),
            is_barrier: true,
        })
    }
}

/// Whether a document among what is written may have a time in it that each server reads as its own.
fn may_tell_time(piece: &Piece<'_>, table: &Table) -> bool {
    let is_bound = |(_, value)| matches!(value, Value::Set(bytes) if now::may_be_in(bytes));
    piece.known.has_documents
        && table.shape.may_hold_timestamps()
        && (now::may_be_in(&piece.known.text) || piece.values.iter().any(is_bound))
}

/// A request, and how it is executed.
struct Whole<'r, 'a> {
    request: &'r Request<'a>,
    pieces: &'r [Piece<'a>],
    executed: &'r [Executed<'r>],
    parameters: &'r Parameters<'a>,
    stamp: i64,
    apart: i64,
    kind: Kind,
    is_untried: bool,
}

impl Whole<'_, '_> {
    fn write_down(&self, record: &mut RecordBuf, sorted: &Sorted) -> Result<(), Error> {
        if sorted.unknown {
            // Nobody knows what it does: the primary judges it, and if it is taken, something differs somewhere.
            record.dirty(TableId::NONE, Reason::Uncaptured);
        }
        let (by_state, replayed): (Vec<&Found>, Vec<&Found>) =
            sorted.found.iter().partition(|found| sorted.is_by_state(found));
        // In doubt what may not be done again goes by state, too.
        if sorted.goes_by_state() || self.is_untried && self.kind == Kind::Logged {
            let decided = match self.kind {
                Kind::Conditional => self.by_paxos(),
                Kind::Logged => Decided::Logged,
                _ => Decided::Unsaid,
            };
            record.stamp(sorted.newest(self.stamp));
            put_look(record, (self.parameters.consistency, decided));
        }
        by_state.iter().for_each(|found| found.settle(record));
        if replayed.is_empty() {
            return Ok(());
        }
        // Done again without the rest, a batch that never was there would be there by half.
        let is_part = !by_state.is_empty();
        for (keyspace, replayed) in self.by_keyspace(&replayed) {
            let mut lanes: Vec<(TableId, Lane)> = replayed.iter().flat_map(|found| found.lanes()).collect();
            lanes.sort_unstable();
            lanes.dedup();
            if let Some(((table, lane), others)) = lanes.split_first() {
                let mut body = self.body(&replayed, keyspace)?;
                if self.is_untried || is_part {
                    write::mark_once(&mut body);
                }
                record.write(*table, *lane, &body);
                others.iter().for_each(|(table, lane)| record.touch(*table, *lane));
            }
        }
        if sorted.contested {
            replayed.into_iter().for_each(|found| found.settle(record));
        }
        Ok(())
    }

    /// Which Paxos decides it.
    fn by_paxos(&self) -> Decided {
        Decided::of(self.parameters.serial_consistency)
    }

    /// A write has one keyspace for names without one, and a batch may have members that were prepared in others: each is a
    /// write of its own, and timestamps decide all the same.
    fn by_keyspace<'f>(&self, replayed: &[&'f Found]) -> SmallVec<[(Option<&str>, Vec<&'f Found>); 1]> {
        let own = |found: &&Found| self.pieces[found.piece].known.home();
        // Who needs none goes with the others.
        let any = replayed.iter().find_map(own);
        let mut all: SmallVec<[(Option<&str>, Vec<&Found>); 1]> = SmallVec::new();
        for found in replayed {
            let keyspace = own(found).or(any);
            match all.iter_mut().find(|(other, _)| *other == keyspace) {
                Some((_, members)) => members.push(found),
                None => all.push((keyspace, vec![found])),
            }
        }
        all
    }

    /// The write, of the statements in which these were found, with this keyspace for names without one.
    fn body(&self, replayed: &[&Found], keyspace: Option<&str>) -> Result<BytesMut, Error> {
        let statement = |at: usize| {
            let (piece, executed) = self.pieces.get(at).zip(self.executed.get(at))?;
            Some(Statement { text: StatementText::Text(executed.text()), values: piece.values })
        };
        let statements: Vec<Statement<'_>> = pieces(replayed).into_iter().filter_map(statement).collect();
        // A TTL begins with the coordinator's second, which is to be that of the replay.
        let now = i32::try_from((now_micros() + self.apart) / 1_000_000).unwrap_or(i32::MAX);
        let all = Parameters {
            timestamp: Some(self.stamp),
            now_in_seconds: Some(self.parameters.now_in_seconds.unwrap_or(now)),
            keyspace,
            ..*self.parameters
        };
        let mut body = BytesMut::new();
        match self.request {
            Request::Batch(batch) => write::put_statements(&mut body, batch.kind, &statements, &all)?,
            _ => {
                // A replayed statement knows no names.
                let (piece, statement) = (&self.pieces[0], statements[0]);
                let by_place = Assigned::new(&piece.known.statement, piece.values).by_place();
                let values = by_place.as_deref().map_or(statement.values, Values::Given);
                write::put_statement(&mut body, Statement { values, ..statement }, &all)?;
            }
        }
        Ok(body)
    }
}

/// The statements of a request in which these were found, in order.
fn pieces(found: &[&Found]) -> Vec<usize> {
    let mut pieces: Vec<usize> = found.iter().map(|found| found.piece).collect();
    pieces.sort_unstable();
    pieces.dedup();
    pieces
}

/// The table that a schema change is of. An index or a view says it only when it is made: to drop one is of any table.
fn table_of(schema: &crate::protocol::cql::text::statement::Schema) -> Option<&Name> {
    use crate::protocol::cql::text::statement::Object;
    match schema.object {
        Object::Table => schema.name.as_ref(),
        Object::Index | Object::Trigger | Object::View => schema.table.as_ref(),
        Object::Keyspace | Object::Type | Object::Function | Object::Aggregate => None,
    }
}

/// Random bits.
pub(in crate::protocol::cql) fn random() -> [u8; 16] {
    use std::hash::BuildHasher;
    // A hasher has a key of the system's randomness, each another one: two halves of 64 bits.
    let half = || std::collections::hash_map::RandomState::new().hash_one(0_u8).to_le_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half());
    bytes[8..].copy_from_slice(&half());
    bytes
}

/// What was found in a request.
#[derive(Default)]
struct Sorted {
    found: Vec<Found>,
    conditional: bool,
    /// Conditional writes may be decided beside it: its places are wanted.
    contested: bool,
    counters: bool,
    unknown: bool,
    mirrored: bool,
}

/// One modification that is mirrored.
struct Found {
    piece: usize,
    /// By hash.
    keyspace: u64,
    table: TableId,
    way: Way,
    /// What the text says in place of the frame's timestamp.
    stamp: Option<i64>,
    is_pinned: bool,
    /// Its partitions, by hash, if they can be told.
    parts: Option<Parts>,
    /// Where it writes, if that can be told and is settled by state.
    places: Option<Vec<Place>>,
}

/// Most statements write one partition, whose key has few columns.
type Parts = SmallVec<[u64; 1]>;
type Key<'v> = SmallVec<[&'v [u8]; 4]>;

impl Found {
    /// It is to be settled where it writes; if nobody knows where that is, all of its table.
    fn settle(&self, record: &mut RecordBuf) {
        match &self.places {
            Some(places) => places.iter().for_each(|place| settle(record, self.table, place)),
            None => record.dirty(self.table, Reason::Uncaptured),
        }
    }

    fn lanes(&self) -> impl Iterator<Item = (TableId, Lane)> {
        let order = if self.way == Way::InOrder { Order::Alone } else { Order::Beside };
        // 0: nobody knows where.
        let parts = self.parts.as_deref().unwrap_or(&[0]);
        parts.iter().map(move |part| (self.table, Lane::new(order, *part)))
    }
}

/// A place is to be settled; what it may not be beside is claimed with it.
pub(super) fn settle(record: &mut RecordBuf, table: TableId, place: &Place) {
    let Some(key) = place.encode() else { return };
    record.key(table, &key, true);
    let order = if place.extent == Extent::Row { Order::AtPlaces } else { Order::Alone };
    record.touch(table, Lane::new(order, hash_of(&place.partition)));
}

/// How hard to look for what was written with this level, and decided so.
pub(super) fn put_look(record: &mut RecordBuf, (level, decided): (Consistency, Decided)) {
    let said = Look::at_write(level).said(decided);
    if said > 0 {
        record.look(said);
    }
}

fn parts(places: &[Place]) -> Parts {
    places.iter().map(|place| hash_of(&place.partition)).collect()
}

impl Sorted {
    fn add(&mut self, found: Found) {
        self.mirrored = true;
        self.found.push(found);
    }

    /// Something of it is settled where it writes.
    fn goes_by_state(&self) -> bool {
        self.conditional || self.contested || self.found.iter().any(|found| found.way == Way::State)
    }

    /// It is settled where it writes, and not replayed.
    fn is_by_state(&self, found: &Found) -> bool {
        self.conditional || found.way == Way::State
    }

    /// The newest timestamp of what is settled where it writes: its text's, or the frame's.
    fn newest(&self, of_frame: i64) -> i64 {
        let settled = self.found.iter().filter(|found| self.contested || self.is_by_state(found));
        settled.map(|found| found.stamp.unwrap_or(of_frame)).max().unwrap_or(of_frame)
    }

    fn hashes(&self) -> Vec<u64> {
        let mut hashes: Vec<u64> = self.found.iter().flat_map(|found| found.parts.iter().flatten()).copied().collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    fn reach(&self) -> Reach {
        let mut reach = Reach::default();
        for Found { table, parts, .. } in &self.found {
            match parts {
                Some(parts) => parts.iter().for_each(|part| reach.add(*table, Some(*part))),
                None => reach.add(*table, None),
            }
        }
        reach
    }

    fn kind(&self, request: &Request<'_>, pieces: &[Piece<'_>]) -> Kind {
        let text_batch = pieces.iter().any(|piece| matches!(piece.known.statement.body, Body::Batch(_)));
        let single = match self.found.as_slice() {
            [only] => only.is_pinned,
            // What a batch writes with one key into tables of one keyspace is one write to a server.
            several => {
                let is_there = |found: &Found| found.parts.is_some() && found.keyspace == several[0].keyspace;
                several.iter().all(is_there) && self.hashes().len() == 1
            }
        };
        match request {
            _ if self.conditional => Kind::Conditional,
            _ if self.counters && single => Kind::Counter,
            _ if self.counters => Kind::Counters,
            _ if single => Kind::Single,
            Request::Batch(batch) if batch.kind == BatchKind::Logged => Kind::Logged,
            _ if text_batch && is_logged(pieces) => Kind::Logged,
            _ => Kind::Spread,
        }
    }
}

fn is_logged(pieces: &[Piece<'_>]) -> bool {
    use crate::protocol::cql::text::statement::BatchKind;
    pieces
        .iter()
        .any(|piece| matches!(&piece.known.statement.body, Body::Batch(batch) if batch.kind == BatchKind::Logged))
}

fn parameters<'r, 'a>(request: &'r Request<'a>) -> Option<&'r Parameters<'a>> {
    match request {
        Request::Query(Query { parameters, .. }) | Request::Execute(Execute { parameters, .. }) => Some(parameters),
        Request::Batch(batch) => Some(&batch.parameters),
        _ => None,
    }
}

/// The request again, with other texts and parameters. A prepared statement whose text was changed goes as text.
fn put_again(
    envelope: &Envelope<'_>,
    request: &Request<'_>,
    executed: &[Executed<'_>],
    parameters: &Parameters<'_>,
) -> Result<BytesMut, Error> {
    let version = envelope.header.version;
    let made = |at: usize| executed.get(at).filter(|executed| executed.is_made()).map(Executed::text);
    let mut out = BytesMut::new();
    let mut header = envelope.header;
    if matches!(request, Request::Execute(_)) && made(0).is_some() {
        header.opcode = Opcode::Query;
    }
    let again = Envelope { header, ..*envelope };
    again.put(&mut out, |out| match request {
        Request::Query(query) => {
            Query { text: made(0).unwrap_or(query.text), parameters: *parameters }.put(out, version)
        }
        Request::Execute(execute) => match made(0) {
            Some(text) => {
                let parameters = Parameters { keyspace: None, skip_metadata: false, ..*parameters };
                Query { text, parameters }.put(out, version)
            }
            None => Execute { parameters: *parameters, ..*execute }.put(out, version),
        },
        Request::Batch(batch) => {
            let batch = crate::protocol::cql::wire::request::Batch { parameters: *parameters, ..*batch };
            batch.put_with(out, version, |at, statement| {
                Some(match made(at) {
                    Some(text) => Statement { text: StatementText::Text(text), ..statement },
                    None => statement,
                })
            })
        }
        _ => Ok(()),
    })?;
    Ok(out)
}

/// Where a modification writes; `None` where that cannot be told without the server.
fn places(
    executed: &Executed<'_>,
    modification: &Modification,
    table: &Table,
    assigned: &Assigned<'_, '_>,
) -> Option<Vec<Place>> {
    let effect = Effect::of(modification, &table.shape);
    place::written(executed.text(), modification, &effect, &table.shape, |number| assigned.bytes(number))
}
