//! One payment at S: gather, close, read, write, and what to do when the secondary refuses a row.
//!
//! The normal way is one pipeline: reads go to the primary, deletes to the secondary, rows stream from one into COPY of
//! the other as the bytes they are (a DataRow in binary is a tuple of `COPY .. (FORMAT binary)`), the schema is checked
//! to be the one that was read, and counter and COMMIT follow. A failed statement makes the COMMIT a ROLLBACK, so
//! nothing is waited for in between.
//! Three round trips, one after the other, are a small payment: S; the rows with the schema's check, while the secondary
//! deletes; the secondary's COPY and COMMIT. The end of S is not waited for. Larger payments add none: the next flight
//! of reads is on its way while one is answered.
//!
//! A refusal is mended at the same S: a unique value held by a row that nobody owed makes the holder owed, three
//! times; then the table's rows go one group after the other under savepoints, halved until the refused ones are
//! known. Those are reported and absent on the secondary; all else is exact.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::journal::Place;
use crate::mirror::state::copier::{Owed, Paid};
use crate::protocol::postgres::catalog::{Relation, quote};
use crate::protocol::postgres::client::{self, DbError};
use crate::protocol::postgres::key::Layout;
use crate::protocol::postgres::schema_change::Manner;
use crate::record::TableId;

use super::Options;
use super::change;
use super::closure::{close, parents_first};
use super::contact;
use super::copy::{FLIGHT_BYTES, Part, Reader, Request};
use super::debt::{Arrays, Debt, Debts, batches};
use super::empty::empty;
use super::isolation::Isolation;
use super::link::{Link, beside};
use super::repeat::{Refusal, read_under};
use super::rows::{copy, delete};
use super::schema::tree;
use super::steps::{Step, Steps, send_to_secondary};
use super::trouble::{Trouble, about_the_statement, loading};
use super::whole::{self, Stretch};

mod changes;
mod gather;
mod unique;

use changes::{Postponed, repeat_behind_rows};

/// How often the holders of unique values are looked for before a table goes row by row.
const ROUNDS: usize = 3;

/// Run one payment. On `Ok` the secondary has committed it; S is still open.
pub(super) async fn pay(link: &mut Link, owed: &Owed, options: &Options) -> Result<Paid, Trouble> {
    let mut payment = Payment::begin(link, owed, options).await?;
    close(payment.link, &mut payment.debts).await?;
    payment.leave_out_large().await?;
    payment.paid.tables = payment.debts.keys().copied().collect();
    payment.paid.tables.iter().for_each(|table| payment.link.history.soil(*table));
    let mut rounds: HashMap<TableId, usize> = HashMap::new();
    loop {
        match payment.attempt().await {
            Ok(()) => break,
            Err(Trouble::Table(table, error)) => {
                let round = rounds.entry(table).or_default();
                *round += 1;
                payment.mend(table, &error, *round).await?;
            }
            // The schema was read a moment ago.
            Err(Trouble::Missing(table, error)) if payment.loaded => payment.mend(table, &error, 0).await?,
            Err(trouble) => return Err(trouble),
        }
    }
    payment.paid.renamed = payment.link.renames.tell(&payment.link.schema);
    Ok(payment.paid)
}

struct Payment<'p> {
    link: &'p mut Link,
    owed: &'p Owed,
    options: &'p Options,
    debts: Debts<'p>,
    /// Tables that go group by group.
    isolated: HashSet<TableId>,
    /// Partitions that are owed whole, by the table where they are paid.
    parts: BTreeMap<TableId, Vec<Arc<Relation>>>,
    /// Tables that a partition may have left, and whether it was there for sure on the secondary.
    parted: Vec<(TableId, bool)>,
    /// Tables that are left out because somebody has locked them, or others that they go with.
    apart: HashSet<TableId>,
    paid: Paid,
    /// The secondary is inside our transaction.
    begun: bool,
    /// Schema changes that the secondary's rows contradict as they are, and those that follow them: again when the rows of the
    /// payment are there.
    behind_rows: Vec<Postponed<'p>>,
    /// Tables whose owed rows are taken away before the schema changes, so that they contradict none.
    cleared: HashSet<TableId>,
    /// Tables for which that is no help: their rows stay until they are paid.
    kept: HashSet<TableId>,
    /// The catalogs were read in this payment.
    loaded: bool,
}

/// The number of the payment is on the secondary if the payment is.
pub(super) const COUNT: &str = "UPDATE tandem.payment SET n = n + 1 RETURNING n";

/// With it, where the journal was.
const COUNT_AT: &str =
    "UPDATE tandem.payment SET n = n + 1, journal = $1, journal_life = $2, journal_end = $3 RETURNING n";

impl<'p> Payment<'p> {
    fn of(link: &'p mut Link, owed: &'p Owed, options: &'p Options) -> Payment<'p> {
        Payment {
            link,
            owed,
            options,
            debts: Debts::new(),
            isolated: HashSet::new(),
            parts: BTreeMap::new(),
            parted: Vec::new(),
            apart: HashSet::new(),
            paid: Paid::default(),
            begun: false,
            behind_rows: Vec::new(),
            cleared: HashSet::new(),
            kept: HashSet::new(),
            loaded: false,
        }
    }

    async fn begin(link: &'p mut Link, owed: &'p Owed, options: &'p Options) -> Result<Payment<'p>, Trouble> {
        let mut payment = Payment::of(link, owed, options);
        payment.begin_and_gather().await?;
        // What cannot be paid, or not now, keeps its rows.
        let left_out = payment.paid.refused.iter().any(|refused| refused.key.is_none());
        if !payment.cleared.is_empty() && (left_out || !payment.paid.waiting.is_empty()) {
            payment.kept.extend(payment.cleared.drain());
            payment.roll_back().await?;
            payment.debts.clear();
            payment.parts.clear();
            payment.paid = Paid::default();
            payment.begin_and_gather().await?;
        }
        payment.owe_what_left().await?;
        payment.owe_parts().await?;
        Ok(payment)
    }

    async fn begin_and_gather(&mut self) -> Result<(), Trouble> {
        let refused = self.begin_and_repeat_ddl().await?;
        let changed = !self.owed.ddl.is_empty() || !self.owed.repeated.is_empty();
        if self.link.schema_stale || changed || self.owes_what_is_new() {
            self.load().await?;
        }
        let changes = self.owed.repeated.iter().chain(&self.owed.ddl).map(|(_, body)| &body[..]);
        self.link.renames.learn(changes, &self.link.schema);
        self.gather();
        refused.into_iter().for_each(|refused| self.refuse_change(refused));
        self.tell_bereft();
        self.list_doubted();
        self.leave_out_locked().await
    }

    /// Nobody knows whether these happened: they are listed, and their tables are paid like any other.
    fn list_doubted(&mut self) {
        let schema = &self.link.schema;
        let ours = self.owed.doubted.iter().filter(|(table, _)| !schema.excludes(*table));
        let listed = ours.map(|(table, body)| {
            let name = (*table != TableId::NONE).then(|| schema.name(*table));
            change::refused(name.as_deref(), body, change::IN_DOUBT.to_owned())
        });
        self.paid.refused.extend(listed);
    }

    async fn roll_back(&mut self) -> Result<(), Trouble> {
        self.begun = false;
        self.link.secondary.simple("ROLLBACK").await.map(drop).map_err(Trouble::Secondary)
    }

    /// Was anything captured under another key than the table's as far as known, or of a table that is not?
    fn owes_what_is_new(&self) -> bool {
        let schema = &self.link.schema;
        let is_new = |&table: &TableId| schema.primary.relation(table).is_none();
        self.owed.tables.iter().any(is_new)
            || self.owed.keys.iter().any(|(&table, keys)| {
                let layout = schema.layout(table);
                keys.keys().any(|key| Layout::of_key(key) != layout)
            })
    }

    async fn load(&mut self) -> Result<(), Trouble> {
        // Until the payment is committed, what was read of the secondary may be rolled back.
        self.link.schema_stale = true;
        self.loaded = true;
        let link = &mut *self.link;
        let pulse = link.options.pulse();
        let primary = link.schema.load_primary(&mut link.primary);
        beside(&mut link.secondary, pulse, primary).await.map_err(|error| loading(error, Trouble::Primary))?;
        let secondary = link.schema.load_secondary(&mut link.secondary);
        beside(&mut link.primary, pulse, secondary).await.map_err(|error| loading(error, Trouble::Secondary))
    }

    async fn attempt(&mut self) -> Result<(), Trouble> {
        let met = contact::meet(self.link, &self.debts, &mut self.begun).await?;
        let emptied = empty(self.link, &self.debts, self.options.whole_bytes_max, &mut self.begun).await?;
        let order = self.order();
        let mut steps = Steps::default();
        let (debts, options) = (&self.debts, self.options);
        let sorted: HashMap<TableId, Vec<&[u8]>> = debts.iter().map(|(id, debt)| (*id, debt.sorted())).collect();
        let mut stretches = whole::stretches(self.link, debts).await?;
        let mut apart: HashMap<TableId, Vec<Stretch>> = HashMap::new();
        for id in &self.isolated {
            apart.extend(stretches.remove(id).flatten().map(|stretches| (*id, stretches)));
        }
        let requests = requests(debts, &order, &sorted, stretches, &self.isolated, options.batch_keys);
        let mut reader = Reader::new(requests);
        reader.pump(self.link).await.map_err(Trouble::Primary)?;
        if !std::mem::replace(&mut self.begun, true) {
            steps.put_statement(self.link, Step::Plain, "BEGIN", &Arrays::none());
        }
        match self.owed.place.filter(|_| self.link.keeps_place) {
            Some(Place { journal, life, reached }) => {
                let numbers = Arrays::numbers([journal, life, reached.0]);
                steps.put_statement(self.link, Step::Count, COUNT_AT, &numbers);
            }
            None => steps.put_statement(self.link, Step::Count, COUNT, &Arrays::none()),
        }
        // One statement a table where foreign keys act: a table that points at itself must not lose half its rows.
        let batch_keys = if self.link.replica { options.batch_keys } else { usize::MAX };
        for id in order.iter().rev().filter(|id| !emptied.contains(id)) {
            delete(self.link, &debts[id], &sorted[id], batch_keys, &mut steps).await?;
        }
        steps.put_sync(self.link);
        send_to_secondary(self.link).await?;
        let mut bytes = 0;
        for id in order.iter().filter(|id| !self.isolated.contains(id)) {
            let pair = &debts[id].pair;
            bytes += copy(self.link, &mut reader, pair, pair.copy_sql(), &mut steps).await?;
        }
        let mut refused = Vec::new();
        if !self.isolated.is_empty() {
            steps.settle(self.link).await?;
            for id in order.iter().filter(|id| self.isolated.contains(id)) {
                let mut isolation = Isolation::begin(self.link, &debts[id].pair, options).await?;
                let sql = debts[id].read_sql();
                for stretch in apart.remove(id).unwrap_or_default() {
                    isolation.stretch(stretch).await?;
                }
                isolation.keys(&sorted[id], &sql).await?;
                steps.rows += isolation.rows;
                bytes += isolation.bytes;
                refused.append(&mut isolation.refused);
            }
        }
        if !self.link.replica {
            // Not before: rows of a cycle need one another. No table is changed while something is to be checked still.
            steps.put_query(self.link, Step::Plain, "SET CONSTRAINTS ALL IMMEDIATE");
        }
        if !self.behind_rows.is_empty() {
            steps.settle(self.link).await.map_err(|trouble| self.at_the_end(trouble))?;
            refused.extend(repeat_behind_rows(self.link, &self.behind_rows).await?);
        }
        // All that was read has been checked.
        steps.put_query(self.link, Step::Commit, "COMMIT");
        steps.settle(self.link).await.map_err(|trouble| self.at_the_end(trouble))?;
        self.paid.payments = steps.payments.ok_or(Trouble::Secondary(client::Error::Value(0)))?;
        self.paid.keys = sorted.values().map(|keys| keys.len() as u64).sum();
        (self.paid.rows, self.paid.bytes) = (steps.rows, bytes);
        let is_paid = |table, key: &[u8]| self.debts.get(table).is_some_and(|debt| debt.owes(key));
        self.paid.settled = self.owed.parked.iter().filter(|(table, key)| is_paid(table, key)).cloned().collect();
        self.paid.refused.append(&mut refused);
        self.link.paid(self.paid.payments);
        self.debts.keys().for_each(|table| drop(self.link.poisoned.remove(table)));
        self.link.contacts.learn(met);
        Ok(())
    }

    /// What is checked at the end only (deferred constraints, constraint triggers) is of the table that its words name; if
    /// that is not the payment's, of the one that it refers to.
    fn at_the_end(&self, trouble: Trouble) -> Trouble {
        let Trouble::Secondary(client::Error::Db(error)) = trouble else { return trouble };
        let paid = |oid| {
            let is_in = |debt: &&Debt<'_>| tree(&self.link.schema.secondary, debt.pair.secondary.oid).contains(&oid);
            self.debts.values().find(is_in).map(|debt| debt.pair.id)
        };
        let catalog = &self.link.schema.secondary;
        let name =
            error.schema.as_deref().zip(error.table.as_deref()).map(|(schema, table)| [quote(schema), quote(table)]);
        let named = name.and_then(|name| catalog.relations.values().find(|one| one.sql() == name.join(".")));
        let its = |child: u32| {
            let is_it = |name: &str| error.constraint.as_deref() == Some(name);
            catalog.foreign_keys.iter().filter(move |fk| fk.child == child && is_it(&fk.name)).map(|fk| fk.parent)
        };
        let table = named.and_then(|one| paid(one.oid).or_else(|| its(one.oid).find_map(paid)));
        match table {
            Some(table) if about_the_statement(&error.code) => Trouble::Table(table, error),
            _ => Trouble::Secondary(client::Error::Db(error)),
        }
    }

    /// The order in which rows are written.
    fn order(&mut self) -> Vec<TableId> {
        let mut tables: Vec<TableId> = self.debts.keys().copied().collect();
        tables.sort_unstable();
        if self.link.replica { tables } else { parents_first(&mut self.link.schema, &tables) }
    }

    /// After a refusal: undo, change what is paid, and begin again.
    async fn mend(&mut self, table: TableId, error: &DbError, round: usize) -> Result<(), Trouble> {
        self.roll_back().await?;
        let (read_at_once, pair) = match self.debts.get(&table) {
            // Rows without a key are not told apart either.
            Some(debt) => {
                let pair = debt.pair.clone();
                (pair.key.is_empty() || debt.whole && !pair.footprint.local, pair)
            }
            None => return Err(Trouble::Secondary(error.clone().into())),
        };
        self.repeat_ddl_again().await?;
        if !self.debts.contains_key(&table) {
            return Ok(());
        }
        // What functions raise may be of a row: in PL/pgSQL, and in C where they name no other class.
        let by_rows = ["22", "23", "P0", "XX000"].iter().any(|class| error.code.starts_with(class));
        if !by_rows || read_at_once || self.isolated.contains(&table) {
            self.refuse(table, pair.primary.sql(), error.to_string());
            return self.restore(&pair).await;
        }
        let by_key = !self.debts[&table].whole && self.debts[&table].pieces.is_empty();
        if error.code == "23505" && round <= ROUNDS && by_key {
            let holders = self.holders(&pair, error).await?;
            let debt = self.debts.get_mut(&table).expect("found above");
            let flagged = !self.link.replica;
            let news = holders.into_iter().filter(|key| debt.owe(key.clone(), flagged)).count();
            if news > 0 {
                return if self.link.replica { Ok(()) } else { close(self.link, &mut self.debts).await };
            }
        }
        self.isolated.insert(table);
        Ok(())
    }
}

/// What came of schema changes that were repeated before S.
pub(super) struct Repeated {
    /// Those that the secondary does not take, by their place in [`Owed::ddl`].
    refused: Vec<(usize, Refusal)>,
    /// Tables that a partition may have left, and whether it was there for sure.
    parted: Vec<(TableId, bool)>,
}

/// Begin the payment's transaction with its schema changes, before S: they may take hours, and S keeps VACUUM from its work.
/// Where rows are in the way of one the payment begins with them anew: it knows what to do about that.
pub(super) async fn repeat_before(link: &mut Link, owed: &Owed, options: &Options) -> Result<(), Trouble> {
    let mut payment = Payment::of(link, owed, options);
    let ddl = payment.ddl();
    payment.add_to_enums(&ddl).await?;
    payment.begin_and_clear().await?;
    let refused = payment.repeat_ddl(&ddl).await?;
    if !payment.behind_rows.is_empty() || refused.iter().any(|it| it.refusal.is_of_rows()) {
        return payment.roll_back().await;
    }
    let Payment { link, parted, .. } = payment;
    read_under(&mut link.secondary, &Manner::plain(&link.search_path)).await.map_err(Trouble::Secondary)?;
    let place = |body: &[u8]| owed.ddl.iter().position(|(_, other)| std::ptr::eq(&**other, body));
    let refused = refused.into_iter().filter_map(|it| Some((place(it.body)?, it.refusal))).collect();
    link.repeated = Some(Repeated { refused, parted });
    Ok(())
}

fn requests<'k>(
    debts: &Debts<'_>,
    order: &[TableId],
    sorted: &'k HashMap<TableId, Vec<&'k [u8]>>,
    mut stretches: HashMap<TableId, Option<Vec<Stretch>>>,
    isolated: &HashSet<TableId>,
    batch_keys: usize,
) -> VecDeque<Request<'k>> {
    let mut requests = VecDeque::new();
    for id in order.iter().filter(|id| !isolated.contains(id)) {
        let debt = &debts[id];
        let request = |part| Request { pair: debt.pair.clone(), part };
        match stretches.remove(id) {
            None => (),
            Some(None) => requests.push_back(request(Part::Whole)),
            Some(Some(stretches)) => requests.extend(stretches.into_iter().map(Part::Stretch).map(request)),
        }
        let batches = batches(&debt.pair, &sorted[id], batch_keys, FLIGHT_BYTES / 2).into_iter();
        let sql = debt.read_sql();
        requests.extend(batches.map(|batch| Part::Keys(batch, sql.clone())).map(request));
    }
    requests
}
