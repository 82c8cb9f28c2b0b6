//! What is known of a statement: its text taken apart once, and how its writes are mirrored, once per schema.
//!
//! Prepared statements are found by the id that the server gave, which is a hash of text and keyspace and so the same for
//! every client; texts by keyspace and text. Past its limit a cache drops about half of what it holds: a driver that is
//! told `UNPREPARED` prepares again. Before a switch the new primary prepares what is here ([`super::super::warm`]).

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::protocol::cql::shadow::reading::{Unfit, fitness};
use crate::protocol::cql::tables::{Table, Tables, is_own};
use crate::protocol::cql::text::now;
use crate::protocol::cql::text::parse::parse;
use crate::protocol::cql::text::schema::{Effect, Mirroring, Source};
use crate::protocol::cql::text::shape::shape;
use crate::protocol::cql::text::statement::{Body, Class, Modification, Name, Statement};
use crate::protocol::cql::text::token::Span;
use crate::protocol::cql::text::volatile::{doubtful_calls, volatile_calls};
use crate::protocol::cql::topology::Question;
use crate::record::TableId;

/// A statement.
pub(in crate::protocol::cql) struct Known {
    /// As the client wrote it.
    pub text: Bytes,
    /// For names without one.
    pub keyspace: Option<Arc<str>>,
    /// Taken apart.
    pub statement: Statement,
    /// How it is routed.
    pub class: Class,
    /// The proxy answers it itself.
    pub question: Option<Question>,
    /// It calls what gives another value each time.
    pub is_volatile: bool,
    /// It has timestamps in its text.
    pub is_stamped: bool,
    /// It calls what nobody knows.
    pub is_doubtful: bool,
    /// It has the constant `'now'`, which may be a time.
    pub says_now: bool,
    /// It writes what documents of JSON say.
    pub has_documents: bool,
    plan: ArcSwapOption<Plan>,
    spoken: OnceLock<Spoken>,
}

/// What people are told of a read.
pub(in crate::protocol::cql) struct Spoken {
    /// Its table.
    pub label: TableId,
    /// The table's qualified name.
    pub name: String,
    /// Its text without data.
    pub shape: String,
}

/// How the writes of a statement are mirrored, with this schema.
pub(in crate::protocol::cql) struct Plan {
    epoch: u64,
    /// One for each modification.
    pub parts: Vec<Part>,
}

/// How one modification is mirrored.
pub(in crate::protocol::cql) enum Part {
    /// The table is a server's own.
    NotMirrored,
    /// Nobody knows a table of that name: the server will refuse it, or the schema that we have is old.
    Stranger(Name),
    /// Known.
    Mirrored {
        /// What it writes to.
        table: Arc<Table>,
        /// How.
        way: Way,
        /// It writes one partition, whatever is bound to it.
        is_pinned: bool,
        /// The markers that the partition key is bound to, if it is by nothing else.
        key: Option<Box<[usize]>>,
        /// Where its text has a time that each server would read as its own.
        times: Box<[Span]>,
    },
}

/// How a write reaches the secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) enum Way {
    /// Replayed; its timestamp decides.
    Replay,
    /// Replayed, in the order of its partition: deletes of this table are forgotten at once.
    InOrder,
    /// What it left is read and written.
    State,
}

impl Known {
    /// Takes the text apart: microseconds.
    pub(in crate::protocol::cql) fn new(text: Bytes, keyspace: Option<Arc<str>>) -> Known {
        let statement = parse(&text);
        let question = Question::of(&text, &statement, keyspace.as_deref());
        let is_volatile = volatile_calls(&statement).next().is_some();
        let is_doubtful = doubtful_calls(&statement).next().is_some();
        Known {
            class: statement.class(),
            question,
            is_volatile,
            is_stamped: is_stamped(&statement),
            is_doubtful,
            says_now: now::says_now(&text),
            has_documents: now::has_documents(&statement),
            text,
            keyspace,
            statement,
            plan: ArcSwapOption::empty(),
            spoken: OnceLock::new(),
        }
    }

    /// What people are told of it, if it is a read.
    pub(in crate::protocol::cql) fn spoken(&self) -> &Spoken {
        self.spoken.get_or_init(|| {
            let (keyspace, name) = match &self.statement.body {
                Body::Select(select) => (select.table.keyspace_or(self.keyspace.as_deref()), &*select.table.name),
                _ => (None, ""),
            };
            let keyspace = keyspace.unwrap_or_default();
            let label = TableId::of(keyspace, name);
            Spoken { label, name: format!("{keyspace}.{name}"), shape: shape(&self.text, &self.statement) }
        })
    }

    /// What a session does with its executions.
    pub(super) fn habit(&self) -> Option<Habit> {
        match self.class {
            _ if self.question.is_some() => None,
            Class::Use | Class::Access => None,
            class if class.writes() => Some(Habit::Writes),
            Class::Read if fitness(self).err() != Some(Unfit::NotMirrored) => Some(Habit::Reads),
            _ => Some(Habit::Passes),
        }
    }

    /// It changes or empties what is a server's own, which each cluster has for itself, as it has its roles.
    pub(super) fn is_of_servers(&self) -> bool {
        let name = match &self.statement.body {
            Body::Truncate(name) => Some(name),
            // An index or a trigger is where its table is.
            Body::Schema(schema) => schema.table.as_ref().or(schema.name.as_ref()),
            _ => None,
        };
        name.and_then(|name| name.keyspace_or(self.keyspace.as_deref())).is_some_and(is_own)
    }

    /// The keyspace of the tables that it names without one. `None`: it does so of none.
    pub(super) fn home(&self) -> Option<&str> {
        let is_bare = |one: &Modification| one.table.keyspace.is_none();
        self.keyspace.as_deref().filter(|_| self.statement.modifications().iter().any(is_bare))
    }

    fn is(&self, text: &[u8], keyspace: Option<&str>) -> bool {
        self.text == text && self.keyspace.as_deref() == keyspace
    }

    /// How its writes are mirrored.
    pub(in crate::protocol::cql) fn plan(&self, tables: &Tables) -> Arc<Plan> {
        match self.plan.load_full() {
            Some(plan) if plan.epoch == tables.epoch => plan,
            _ => {
                let parts = self.statement.modifications().iter().map(|one| self.part(one, tables)).collect();
                let plan = Arc::new(Plan { epoch: tables.epoch, parts });
                self.plan.store(Some(plan.clone()));
                plan
            }
        }
    }

    fn part(&self, modification: &Modification, tables: &Tables) -> Part {
        let name = &modification.table;
        let keyspace = name.keyspace_or(self.keyspace.as_deref());
        if keyspace.is_some_and(is_own) {
            return Part::NotMirrored;
        }
        let Some(table) = keyspace.and_then(|keyspace| tables.table(keyspace, &name.name)) else {
            return Part::Stranger(Name { keyspace: keyspace.map(str::to_owned), name: name.name.clone() });
        };
        let effect = Effect::of(modification, &table.shape);
        let (text, shape) = (&self.text, &table.shape);
        let times = if self.says_now { now::times(text, modification, shape) } else { Vec::new() };
        let says_more = self.says_now && now::is_doubtful(text, &self.statement, modification, shape, &times);
        let way = match effect.mirroring() {
            _ if self.is_doubtful || says_more => Way::State,
            Mirroring::ListState | Mirroring::CounterState => Way::State,
            Mirroring::Replay | Mirroring::ReplayRising if table.gc_grace_seconds == 0 => Way::InOrder,
            Mirroring::Replay | Mirroring::ReplayRising => Way::Replay,
        };
        let (is_pinned, key, times) = (effect.is_pinned(), markers(&effect), times.into());
        Part::Mirrored { table: table.clone(), way, is_pinned, key, times }
    }
}

fn is_stamped(statement: &Statement) -> bool {
    let members = statement.modifications().iter().map(|one| &one.using);
    statement.using().into_iter().chain(members).any(|using| using.timestamp.is_some())
}

fn markers(effect: &Effect<'_>) -> Option<Box<[usize]>> {
    let marker = |source| match source {
        Source::Marker(number) => Some(number),
        _ => None,
    };
    effect.key_sources()?.into_iter().map(marker).collect()
}

/// Statements that were seen before. Shared by all sessions.
pub(in crate::protocol::cql) struct Statements {
    prepared: Cache<Box<[u8]>>,
    /// By a hash of keyspace and text: who finds one compares.
    texts: Cache<u64>,
    hashes: RandomState,
}

/// Longer texts have literals in them and do not come again.
const CACHED_TEXT_BYTES: usize = 2_048;
/// Texts that are kept take so many bytes at most, of those that were prepared and of the others. What a text is taken apart
/// into may be fifty times as large: a list of single digits, or of markers.
const CACHED_BYTES: usize = 4 << 20;

impl Statements {
    /// Keeps at most so many prepared ones, and so many texts.
    pub(in crate::protocol::cql) fn new(most: usize) -> Statements {
        Statements { prepared: Cache::new(most), texts: Cache::new(most), hashes: RandomState::default() }
    }

    /// The statement of a text, taken apart now if it was not seen before.
    pub(in crate::protocol::cql) fn text(&self, text: &[u8], keyspace: Option<&str>) -> Arc<Known> {
        let hash = self.hashes.hash_one((keyspace, text));
        if let Some(known) = self.texts.map.get(&hash).filter(|known| known.is(text, keyspace)) {
            return known.clone();
        }
        let known = Arc::new(Known::new(Bytes::copy_from_slice(text), keyspace.map(Arc::from)));
        if text.len() <= CACHED_TEXT_BYTES {
            self.texts.keep(hash, known.clone());
        }
        known
    }

    /// What a server prepared under this id.
    pub(in crate::protocol::cql) fn prepared(&self, id: &[u8]) -> Option<Arc<Known>> {
        self.prepared.map.get(id).map(|known| known.clone())
    }

    /// All that servers prepared, but for what the proxy answers itself.
    pub(in crate::protocol::cql) fn all_prepared(&self) -> Vec<Arc<Known>> {
        let all = self.prepared.map.iter().map(|entry| entry.value().clone());
        all.filter(|known| known.question.is_none()).collect()
    }

    /// A server prepared it.
    pub(in crate::protocol::cql) fn keep(&self, id: &[u8], known: Arc<Known>) {
        self.prepared.keep(id.into(), known);
    }
}

/// So many statements, and so many bytes of text, at most.
struct Cache<K> {
    map: DashMap<K, Arc<Known>, RandomState>,
    most: usize,
    bytes: AtomicUsize,
}

impl<K: Eq + Hash> Cache<K> {
    fn new(most: usize) -> Cache<K> {
        Cache { map: DashMap::default(), most: most.max(2), bytes: AtomicUsize::new(0) }
    }

    /// The newest stays, however large.
    fn keep(&self, key: K, known: Arc<Known>) {
        let more = known.text.len();
        let is_over = |cache: &Cache<K>| {
            cache.map.len() >= cache.most || cache.bytes.load(Ordering::Relaxed) + more > CACHED_BYTES
        };
        while is_over(self) && !self.map.is_empty() {
            self.halve();
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        if let Some(before) = self.map.insert(key, known) {
            self.bytes.fetch_sub(before.text.len(), Ordering::Relaxed);
        }
    }

    /// Make room: there is no good order of eviction for what does not fit. The first goes, so that it ends.
    fn halve(&self) {
        let mut keep = true;
        self.map.retain(|_, known| {
            keep = !keep;
            if !keep {
                self.bytes.fetch_sub(known.text.len(), Ordering::Relaxed);
            }
            keep
        });
    }
}

/// What a session does with executions of a statement that it need not look at otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) enum Habit {
    /// Writes it down, where it is mirrored.
    Writes,
    /// May have it read again on the other side.
    Reads,
    /// Nothing.
    Passes,
}

/// Prepared statements that one client executed last, by their ids: what is done with them. Ids are hashes, so each has one
/// place.
#[derive(Default)]
pub(super) struct Recent([Option<([u8; RECENT_ID], Habit)>; RECENT]);

/// More than this would be memory of idle clients.
const RECENT: usize = 4;
/// An MD5 sum, with all servers that we know.
const RECENT_ID: usize = 16;

impl Recent {
    #[inline]
    pub(super) fn find(&self, id: &[u8]) -> Option<Habit> {
        let place = usize::from(*id.first()?) % RECENT;
        self.0[place].filter(|(known, _)| known[..] == *id).map(|(_, habit)| habit)
    }

    pub(super) fn keep(&mut self, id: &[u8], habit: Habit) {
        let Some((id, first)) = id.try_into().ok().zip(id.first()) else { return };
        self.0[usize::from(*first) % RECENT] = Some((id, habit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::text::schema::{Column, Table as Shape};

    #[test]
    fn what_is_kept_of_statements_is_bounded_in_number_and_in_bytes() {
        let known = |text: String| Arc::new(Known::new(Bytes::from(text), None));
        let kept = |statements: &Statements| {
            (statements.all_prepared().len(), statements.prepared.bytes.load(Ordering::Relaxed))
        };
        let many = Statements::new(100);
        for n in 0..1_000_u32 {
            many.keep(&n.to_be_bytes(), known(format!("SELECT v FROM t WHERE k = {n:04}")));
            assert!(many.prepared(&n.to_be_bytes()).is_some(), "the newest is there");
        }
        let (count, bytes) = kept(&many);
        assert!((1..=100).contains(&count) && bytes == count * 30, "{count} of {bytes} bytes");
        let large = Statements::new(100);
        for n in 0..50_u32 {
            large.keep(&n.to_be_bytes(), known(format!("SELECT v FROM t WHERE k = '{}'", "x".repeat(1 << 20))));
            assert!(large.prepared(&n.to_be_bytes()).is_some(), "the newest is there");
            // The same again is not counted twice.
            large.keep(&n.to_be_bytes(), known(format!("SELECT v FROM t WHERE k = '{}'", "x".repeat(1 << 20))));
        }
        let (count, bytes) = kept(&large);
        assert!((1..=4).contains(&count) && bytes <= CACHED_BYTES, "{count} of {bytes} bytes");
        let (count, bytes) = {
            large.keep(b"huge", known("x".repeat(CACHED_BYTES + 1)));
            kept(&large)
        };
        assert_eq!((count, bytes), (1, CACHED_BYTES + 1));
    }

    #[test]
    fn a_plan_is_of_the_tables_that_it_is_asked_for_also_when_the_sides_take_turns() {
        let tables = |id: u8| {
            let columns =
                vec![Column::described("k", "partition_key", 0, "int"), Column::described("v", "regular", -1, "int")];
            Tables::new([0; 16], [Table::new(Shape::new("shop", "t", columns), [id; 16], 864_000, 0)])
        };
        let known = Known::new(Bytes::from_static(b"UPDATE shop.t SET v = ? WHERE k = ?"), None);
        let [origin, target] = [tables(1), tables(2)];
        for (tables, id) in [(&origin, 1), (&target, 2), (&origin, 1)] {
            let plan = known.plan(tables);
            let Some(Part::Mirrored { table, .. }) = plan.parts.first() else { panic!("it is mirrored") };
            assert_eq!(table.id, [id; 16]);
        }
    }
}
