//! The mirror's hands: what a record says, done on the secondary.
//!
//! | the record says | what is done |
//! | --- | --- |
//! | a write | the same statements, with the primary's timestamp and the second of their forwarding ([`replay`]) |
//! | a place | what the primary has there is read and written ([`state`]) |
//! | a barrier | the schema change or TRUNCATE, then the wait until all nodes have it ([`barrier`]) |
//!
//! A write in doubt is done on the primary too, with the same timestamp: then it is on both. What nobody may repeat (its
//! client may have no right to it, it is a part of a batch, it is too old, or it was parked while others passed it) goes by the
//! state of its partitions.

mod barrier;
mod history;
mod objects;
mod quiet;
mod replay;
mod state;
mod trouble;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep_until;

use crate::mirror::replay::{self as engine, Applied, Certainty, Job, Settled, Shown};
use crate::record::{Item, Lane, Record, TableId};

use super::client::Client;
use super::cluster::Cluster;
use super::look::{Decided, Look};
use super::place::{self, Place, hash_of};
use super::session::{Barriers, Writes};
use super::stamps::now_micros;
use super::tables::Table;
use super::text::expr::{Expr, Value as Literals};
use super::text::schema::{self, Column, Effect, Source};
use super::text::stamp::stamp;
use super::text::statement::{Assignment, Modification, Operation, Verb};
use super::wire::primitive::Value;
use super::write::Write;
use history::beside::Beside;
pub use history::lent::Hands;
pub(super) use history::lent::sees;
pub(super) use history::occupied;
pub use quiet::Quiet;
use quiet::linger;
use replay::{Taken, Texts};
pub(in crate::protocol::cql) use state::rows;
use state::{Occasion, Settler};
use trouble::Trouble;

/// A cluster, once it was reached. Asked anew for each job.
pub type Reach = Arc<dyn Fn() -> Option<Arc<Cluster>> + Send + Sync>;

/// Whether the history of a table was ever copied to the target, or compared with it.
pub type Copied = Arc<dyn Fn(TableId) -> bool + Send + Sync>;

/// Hints are kept so long, so a write is delivered that late at most. A repeat after that may meet purged tombstones.
const REPEATABLE: i64 = 3 * 3_600;

/// By then a batch's log was replayed if it was written: every 10 s are those that are older than two write timeouts, by default
/// 4 s (source: Cassandra's BatchlogManager).
const BATCH_LOG: Duration = Duration::from_secs(20);

/// How often a table that cannot be read is looked at before it is taken for one with rows: no write waits longer.
const LOOKS: u32 = 3;

/// Applies records to a secondary.
pub struct Applier {
    primary: Reach,
    secondary: Reach,
    quiet: Quiet,
    labels: Mutex<Labels>,
    texts: Texts,
    settled: Settled,
    /// History that is being copied, and what is settled beside it.
    beside: Beside,
    /// Tables whose history was copied or compared.
    copied: Copied,
    /// Writes and barriers of the primary's clients.
    barriers: Barriers,
}

/// Tables by their labels, as of one look at the schema.
#[derive(Default)]
struct Labels {
    of: Option<Arc<super::tables::Tables>>,
    tables: HashMap<TableId, Arc<Table>>,
}

/// Both clusters, and a connection to the secondary. What is plainly written again needs no more: a primary that is away
/// does not hold it up.
struct There {
    primary: Arc<Cluster>,
    secondary: Arc<Cluster>,
    to_secondary: Client,
}

impl There {
    async fn sides(&self) -> Result<Sides, Trouble> {
        let to_primary = self.primary.client().await.map_err(|error| Trouble::of_primary(&error))?;
        let There { primary, secondary, to_secondary } = self;
        let (primary, secondary, to_secondary) = (primary.clone(), secondary.clone(), to_secondary.clone());
        Ok(Sides { primary, secondary, to_primary, to_secondary })
    }
}

/// Both clusters and a connection to each, for one job.
struct Sides {
    primary: Arc<Cluster>,
    secondary: Arc<Cluster>,
    to_primary: Client,
    to_secondary: Client,
}

impl Applier {
    /// From this cluster to that one. `quiet` is what all appliers of the process to that one share.
    pub fn new(primary: Reach, secondary: Reach, quiet: Quiet, copied: Copied) -> Applier {
        Applier {
            primary,
            secondary,
            quiet,
            copied,
            labels: Mutex::default(),
            settled: Settled::default(),
            beside: Beside::default(),
            texts: Texts::default(),
            barriers: Barriers::default(),
        }
    }

    /// What is done on the primary is done among its clients' writes.
    #[must_use]
    pub fn among(self, barriers: Barriers) -> Applier {
        Applier { barriers, ..self }
    }

    async fn sides(&self) -> Result<Sides, Trouble> {
        self.there().await?.sides().await
    }

    async fn there(&self) -> Result<There, Trouble> {
        let away = || Trouble::Lost("secondary: it was never reached".to_owned());
        let secondary = (self.secondary)().ok_or_else(away)?;
        let never = || Trouble::Away("primary: it was never reached".to_owned());
        let primary = (self.primary)().ok_or_else(never)?;
        let to_secondary = secondary.client().await.map_err(|error| Trouble::of_secondary(&error))?;
        Ok(There { primary, secondary, to_secondary })
    }

    async fn do_all(&self, job: &Job) -> Result<(), Trouble> {
        let there = self.there().await?;
        if job.certainty == Certainty::Unknown && Decided::of_said(said(&job.record)) == Decided::Logged {
            sleep_until(job.told + BATCH_LOG).await;
        }
        self.settled.touched_by(&job.record);
        // What is settled by state is read after everything else was done.
        for item in job.record.items() {
            match item {
                Item::Write { body, .. } => self.write(&there, job, body).await?,
                Item::Ddl(table, body) => {
                    self.beside.pass(table).await;
                    barrier::pass(&there.sides().await?, job, table, body).await?;
                }
                Item::Table(_) => {
                    return Err(Trouble::Reject(
                        "a whole table is not owed here but walked over: ask for its repair".to_owned(),
                    ));
                }
                Item::Key { .. }
                | Item::Dirty(..)
                | Item::Touch { .. }
                | Item::Prepared(_)
                | Item::Stamp(_)
                | Item::Look(_) => {}
            }
        }
        let (mut sides, occasion) = (None, Occasion::of(job, newest(&job.record), Look::of_said(said(&job.record))));
        for item in job.record.items() {
            if let Item::Key { table, key, .. } = item {
                let place = Place::decode(key).ok_or_else(|| Trouble::Reject("a place cannot be read".to_owned()))?;
                let sides = match &sides {
                    Some(sides) => sides,
                    None => sides.insert(there.sides().await?),
                };
                self.settle(sides, (job, occasion), table, (&place, key)).await?;
            }
        }
        Ok(())
    }

    /// A table that is gone has nothing to be settled.
    async fn settle(
        &self,
        sides: &Sides,
        (job, occasion): (&Job, Occasion),
        label: TableId,
        (place, key): (&Place, &[u8]),
    ) -> Result<(), Trouble> {
        let lane = Lane::beside(hash_of(&place.partition));
        let look = occasion.look as u8;
        if job.certainty == Certainty::Committed && self.settled.covers(label, lane, key, (job.ended, look)) {
            return Ok(());
        }
        let Some(table) = self.table(&sides.primary, label).await else { return gone(&sides.primary, label).await };
        let table = common(&sides.secondary, &table);
        if table.shape.has_counters() {
            // Increments are waited for longer than other writes.
            self.quiet.reached(&sides.secondary, true).await;
        }
        let _settlement = self.beside.settle(label, place, key);
        let settler = Settler::new(sides, &table, occasion);
        if let Err(trouble) = settler.settle(place).await {
            sides.primary.refresh().await;
            // Dropped since the schema was looked at: the barrier behind this record drops it on the secondary.
            let is_known = self.known_table(&sides.primary, label).is_some();
            return if is_known { Err(trouble) } else { gone(&sides.primary, label).await };
        }
        self.settled.note(label, lane, key, (job.handed, look));
        Ok(())
    }

    async fn write(&self, there: &There, job: &Job, body: &[u8]) -> Result<(), Trouble> {
        let write = Write::parse(body).map_err(|error| Trouble::Reject(error.to_string()))?;
        let taken = self.texts.take_apart(&write);
        let mut written = written(&there.primary, &write, &taken, (is_doubtful(job), &*self.copied));
        if is_once(job, &write) && !strange(&there.primary, &write, &taken).is_empty() {
            // The schema at hand may be older than the table; one that is gone has nothing to be looked for.
            there.primary.refresh().await;
            written = self::written(&there.primary, &write, &taken, (true, &*self.copied));
            for label in strange(&there.primary, &write, &taken) {
                gone(&there.primary, label).await?;
            }
        }
        let parameters = write.batch.parameters;
        let occasion = Occasion::of(job, newest_of(&write, &taken), Look::at_write(parameters.consistency));
        let then = forwarded(&write, &there.primary);
        if must_go_by_state(job, then, (&write, &written)) {
            return self.by_state(&there.sides().await?, occasion, written).await;
        }
        if job.certainty == Certainty::Unknown {
            let sides = there.sides().await?;
            let tables: Vec<&Table> = written.iter().map(|written| &*written.table).collect();
            // Until it is done: a client's TRUNCATE must not come between the look and what is done for it.
            let writes = self.begin_on_primary(&tables)?;
            // Done once more, it would be back behind a TRUNCATE (CQL-CORNERS C9).
            if let Some(then) = then
                && barrier::were_emptied(&sides, &tables, then).await?
            {
                drop(writes);
                return self.by_state(&sides, occasion, written).await;
            }
            let again = replay::execute(&sides.primary, &sides.to_primary, &write, &taken).await;
            if let Err(error) = again {
                linger(&error, &sides.primary, false).await;
                return Err(Trouble::of_primary(&error));
            }
            drop(writes);
        }
        let done = replay::execute(&there.secondary, &there.to_secondary, &write, &taken).await;
        if let Err(error) = done {
            linger(&error, &there.secondary, false).await;
            return Err(Trouble::of_secondary(&error));
        }
        // Where it was done before, lists are doubled now. What comes out of its order may bring back what a settlement
        // behind it saw gone. And a row without cells is there on one side only, where one was made by an INSERT and its copy by
        // an UPDATE, or the other way round (CQL-CORNERS H5).
        let is_doubtful = |written: &Written| written.has_lists || written.may_bare || job.late;
        let doubtful: Vec<Written> = written.into_iter().filter(is_doubtful).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        self.by_state(&there.sides().await?, occasion, doubtful).await
    }

    /// A place among the writes to these tables, as a client's write has one.
    fn begin_on_primary(&self, tables: &[&Table]) -> Result<Vec<Writes>, Trouble> {
        let begin = |table: &&Table| {
            // However long that takes: nobody has refused anything.
            let closed = || Trouble::Away("primary: a client is changing or emptying the table".to_owned());
            self.barriers.of(table.label).write().ok_or_else(closed)
        };
        tables.iter().map(begin).collect()
    }

    async fn by_state(&self, sides: &Sides, occasion: Occasion, written: Vec<Written>) -> Result<(), Trouble> {
        for Written { table, places, .. } in written {
            let unknown = "where a write writes cannot be told, and it may not be repeated: compare the table";
            let places = places.ok_or_else(|| Trouble::Reject(unknown.to_owned()))?;
            let table = common(&sides.secondary, &table);
            let settler = Settler::new(sides, &table, occasion);
            for place in &places {
                let key = place.encode().unwrap_or_default();
                let _settlement = self.beside.settle(table.label, place, &key);
                settler.settle(place).await?;
            }
        }
        Ok(())
    }

    /// The primary's table of this label; the schema is looked at again if it is not there.
    async fn table(&self, cluster: &Cluster, label: TableId) -> Option<Arc<Table>> {
        if let Some(table) = self.known_table(cluster, label) {
            return Some(table);
        }
        cluster.refresh().await;
        self.known_table(cluster, label)
    }

    fn known_table(&self, cluster: &Cluster, label: TableId) -> Option<Arc<Table>> {
        let tables = cluster.tables();
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if !labels.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &tables)) {
            labels.tables = tables.iter().map(|table| (table.label, table.clone())).collect();
            labels.of = Some(tables);
        }
        labels.tables.get(&label).cloned()
    }
}

/// It is, if all nodes say so: one that lost touch with the others may never have heard of it.
async fn gone(primary: &Cluster, label: TableId) -> Result<(), Trouble> {
    let is_there = barrier::shown(primary).await?.iter().any(|table| table.label == label);
    if is_there { Err(Trouble::Retry("primary: not all of its nodes showed the table".to_owned())) } else { Ok(()) }
}

fn newest(record: &Record) -> Option<i64> {
    let stamp = |item| match item {
        Item::Stamp(stamp) => Some(stamp),
        _ => None,
    };
    record.items().find_map(stamp)
}

/// The newest timestamp of a write's modifications: what their texts say, or else the write's own.
fn newest_of(write: &Write<'_>, taken: &[Taken<'_>]) -> Option<i64> {
    let own = write.batch.parameters.timestamp;
    let stamps = taken.iter().flat_map(|statement| {
        let all = statement.parsed.modifications().iter();
        all.map(|one| stamp(statement.text, &statement.parsed, one, |number| statement.bytes(number)).or(own))
    });
    stamps.max().unwrap_or(own)
}

/// How hard to look, and how it is decided, in the wire's own measure.
fn said(record: &Record) -> u8 {
    let said = |item| match item {
        Item::Look(said) => Some(said),
        _ => None,
    };
    record.items().find_map(said).unwrap_or_default()
}

/// It may have been done, and others may have been done since.
fn is_doubtful(job: &Job) -> bool {
    job.late || job.certainty == Certainty::Unknown
}

/// In doubt, and not to be done again: of a client that may have no right to it, or a part of what was asked for.
fn is_once(job: &Job, write: &Write<'_>) -> bool {
    write.is_once && job.certainty == Certainty::Unknown
}

/// Tables that it writes to and that the primary's schema, as far as it is at hand, lacks.
fn strange(primary: &Cluster, write: &Write<'_>, taken: &[Taken<'_>]) -> Vec<TableId> {
    let tables = primary.tables();
    let lacks = |modification: &Modification| {
        let name = &modification.table;
        let keyspace = name.keyspace_or(write.batch.parameters.keyspace)?;
        tables.table(keyspace, &name.name).is_none().then(|| TableId::of(keyspace, &name.name))
    };
    taken.iter().flat_map(|statement| statement.parsed.modifications()).filter_map(lacks).collect()
}

/// In which second it was forwarded, by our clock.
fn forwarded(write: &Write<'_>, primary: &Cluster) -> Option<i64> {
    // It was noted by the clocks of the primary.
    write.batch.parameters.now_in_seconds.map(|then| i64::from(then) - primary.apart() / 1_000_000)
}

/// Whether a write in doubt may not be done again: its client may have no right to it; or it is but a part of a batch, whose rest
/// goes by state and may not be there at all; or it is too long ago, so that it may meet what was purged (CQL-CORNERS C9); or it
/// would double a list, on the primary too (C2).
fn must_go_by_state(job: &Job, then: Option<i64>, (write, written): (&Write<'_>, &[Written])) -> bool {
    let age = then.map_or(0, |then| now_micros() / 1_000_000 - then);
    let grace = |written: &Written| i64::from(written.table.gc_grace_seconds).min(REPEATABLE);
    is_once(job, write) || is_doubtful(job) && written.iter().any(|written| written.has_lists || age >= grace(written))
}

/// What each modification writes to, as far as tables are known. Its places are only told where somebody may need them.
fn written(
    primary: &Cluster,
    write: &Write<'_>,
    taken: &[Taken<'_>],
    (is_doubtful, copied): (bool, &dyn Fn(TableId) -> bool),
) -> Vec<Written> {
    let tables = primary.tables();
    let keyspace = write.batch.parameters.keyspace;
    let mut all = Vec::new();
    for statement in taken {
        for modification in statement.parsed.modifications() {
            let name = &modification.table;
            let table = name.keyspace_or(keyspace).and_then(|keyspace| tables.table(keyspace, &name.name));
            all.extend(table.map(|table| Written::of(statement, modification, table, (is_doubtful, copied))));
        }
    }
    all
}

/// The table as far as the secondary has it too. A column that only the primary has is added there by a barrier that waits
/// behind this record; what is written to it has records behind that barrier.
fn common(secondary: &Cluster, table: &Arc<Table>) -> Arc<Table> {
    let tables = secondary.tables();
    let Some(other) = tables.table(&table.shape.keyspace, &table.shape.name) else { return table.clone() };
    let both = |column: &&Column| other.shape.column(&column.name) == Some(*column);
    let columns: Vec<Column> = table.shape.columns().iter().filter(both).cloned().collect();
    if columns.len() == table.shape.columns().len() {
        return table.clone();
    }
    let shape = schema::Table::new(&table.shape.keyspace, &table.shape.name, columns);
    Arc::new(Table::new(shape, table.id, table.gc_grace_seconds, table.default_ttl))
}

/// Where a modification writes.
struct Written {
    table: Arc<Table>,
    /// It writes lists that are not frozen.
    has_lists: bool,
    /// It may leave rows without a cell, of a table whose rows were made by the copy of its history.
    may_bare: bool,
    /// `None`: that cannot be told, or nobody wanted to know.
    places: Option<Vec<Place>>,
}

impl Written {
    fn of(
        statement: &Taken<'_>,
        modification: &Modification,
        table: &Arc<Table>,
        (is_doubtful, copied): (bool, &dyn Fn(TableId) -> bool),
    ) -> Written {
        let effect = Effect::of(modification, &table.shape);
        let has_lists = !effect.lists.is_empty();
        let may_bare = may_bare(statement, modification, &effect, table) && copied(table.label);
        let places = || places(statement, modification, &effect, table);
        let places = if is_doubtful || has_lists || may_bare { places() } else { None };
        // Not a whole partition for what one row may lack.
        let is_row = |place: &Place| place.extent == place::Extent::Row || table.shape.clustering().next().is_none();
        let may_bare = may_bare && places.as_ref().is_some_and(|places| places.iter().all(is_row));
        Written { table: table.clone(), has_lists, may_bare, places }
    }
}

/// It takes cells of rows away, and makes no row as an INSERT does: a row may lose its last cell by it.
fn may_bare(statement: &Taken<'_>, modification: &Modification, effect: &Effect<'_>, table: &Table) -> bool {
    let is_null = |value: &Expr| match value.source() {
        Source::Null => true,
        Source::Marker(number) => matches!(statement.values.get(number), Some(Value::Null)),
        Source::Literal(..) | Source::Computed(_) => false,
    };
    // Of a collection without elements nothing is left either.
    let is_empty = |value: &Expr| match (value.source(), &value.value) {
        (Source::Marker(number), _) => matches!(statement.values.get(number), Some(Value::Set([0, 0, 0, 0]))),
        (_, Literals::List(items) | Literals::Set(items)) => items.is_empty(),
        _ => false,
    };
    let has_parts = |name: &str| table.shape.column(name).is_some_and(|column| column.cells.has_parts());
    let takes = |Assignment { column, operation }: &Assignment| match operation {
        Operation::Set(value) => is_null(value) || (has_parts(column) && is_empty(value)),
        Operation::SetElement(_, value) | Operation::SetField(_, value) => is_null(value),
        Operation::Add(_) | Operation::Prepend(_) => false,
        Operation::Subtract(_) | Operation::Delete | Operation::DeleteElement(_) | Operation::DeleteField(_) => true,
    };
    let of_rows = effect.extent == schema::Extent::Cells && !effect.counters;
    of_rows && modification.verb != Verb::Insert && modification.assignments.iter().any(takes)
}

fn places(
    statement: &Taken<'_>,
    modification: &Modification,
    effect: &Effect<'_>,
    table: &Table,
) -> Option<Vec<Place>> {
    place::written(statement.text, modification, effect, &table.shape, |number| statement.bytes(number))
}

impl engine::Applier for Applier {
    async fn open(&self) -> Result<(), engine::Error> {
        let lost = |why: String| engine::Error::Lost(why);
        let secondary = (self.secondary)().ok_or_else(|| lost("it was never reached".to_owned()))?;
        secondary.client().await.map_err(|error| lost(error.to_string()))?;
        // It may have lost what it had.
        self.settled.clear();
        // What an earlier applier sent last, in this process or the one before, may still be on its way.
        self.quiet.reached(&secondary, false).await;
        Ok(())
    }

    async fn apply(&self, job: &Job) -> Applied {
        let sending = self.quiet.sending();
        let done = self.do_all(job).await;
        sending.over();
        match done {
            Ok(()) => Applied::Done,
            Err(trouble) => trouble.into(),
        }
    }

    async fn is_occupied(&self, label: TableId, attempt: u32) -> Result<Option<bool>, Applied> {
        let there = self.there().await?;
        let on_secondary = || there.secondary.tables().iter().find(|table| table.label == label).cloned();
        let Some(table) = self.known_table(&there.primary, label).or_else(on_secondary) else { return Ok(None) };
        match history::occupied(&there.to_secondary, &table).await {
            Ok(occupied) => Ok(Some(occupied)),
            Err(error) => match Trouble::of_secondary(&error) {
                // What is wrong with it the write will tell.
                Trouble::Reject(_) => Ok(None),
                Trouble::Retry(_) if attempt > LOOKS => Ok(Some(true)),
                trouble => Err(trouble.into()),
            },
        }
    }

    fn show(&self, record: &Record, table: TableId) -> Shown {
        let known = (self.primary)().and_then(|cluster| self.known_table(&cluster, table));
        let name = |table: &Arc<Table>| format!("{}.{}", table.shape.keyspace, table.shape.name);
        let contents: Vec<String> = record.items().filter_map(shown).collect();
        Shown { table: known.as_ref().map_or_else(|| format!("{:016x}", table.0), name), contents: contents.join("\n") }
    }
}

/// For an operator who asks: texts with their values, and where places are.
fn shown(item: Item<'_>) -> Option<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match item {
        Item::Write { body, .. } | Item::Ddl(_, body) => {
            let write = Write::parse(body).ok()?;
            let statement = |taken: &Taken<'_>| {
                let values = taken.values.iter().map(|(_, value)| match value {
                    Value::Set(bytes) => format!("0x{}", hex(bytes)),
                    Value::Null => "null".to_owned(),
                    Value::Unset => "unset".to_owned(),
                });
                format!("{} [{}]", String::from_utf8_lossy(taken.text), values.collect::<Vec<_>>().join(", "))
            };
            let statements: Vec<String> = Texts::default().take_apart(&write).iter().map(statement).collect();
            Some(format!("{} at {:?}", statements.join("; "), write.batch.parameters.timestamp))
        }
        Item::Key { key, .. } => Some(format!("the state of 0x{}", hex(key))),
        Item::Dirty(..) | Item::Touch { .. } | Item::Table(_) | Item::Prepared(_) | Item::Stamp(_) | Item::Look(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests;
