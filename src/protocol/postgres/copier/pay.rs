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

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::mirror::state::copier::{self, Large, Owed, Paid, Refused, Waiting};
use crate::mirror::state::keys::{Key, Keys};
use crate::protocol::postgres::catalog::{LoadError, Relation, quote};
use crate::protocol::postgres::client::{self, Client, DbError, Format, Param, SEND_BYTES};
use crate::protocol::postgres::key::Layout;
use crate::protocol::postgres::schema_change::{self, Manner, SETTINGS};
use crate::protocol::postgres::wire::{Message, back};
use crate::record::TableId;

use super::Options;
use super::change;
use super::closure::{apart, close, parents_first, read_keys};
use super::contact;
use super::copy::{CopyOut, FLIGHT_BYTES, Part, Reader, Request};
use super::debt::{Arrays, BATCH_BYTES, Debt, Debts, batches, fits, refused_key, refused_table, reorder};
use super::link::{Link, Poison, beside, on_primary, on_secondary};
use super::locks;
use super::piece;
use super::renames::{Meant, meant};
use super::schema::{At, Home, Pair, Schema, tree};
use super::whole::{self, Stretch};

/// How often the holders of unique values are looked for before a table goes row by row.
const ROUNDS: usize = 3;

/// The SQLSTATE of a lock that was not waited for any longer.
pub(super) const LOCKED: &str = "55P03";

/// Why an attempt ended.
pub(super) enum Trouble {
    /// The primary's connection, or its server.
    Primary(client::Error),
    /// The secondary's connection, or its server.
    Secondary(client::Error),
    /// The secondary refuses what was written to this table.
    Table(TableId, Box<DbError>),
    /// The secondary misses something while this table is written: not the schema that was read, or its own code does not find
    /// what it names.
    Missing(TableId, Box<DbError>),
    /// The primary refuses to read this table; S is gone with it.
    Unreadable(TableId, String),
    /// The primary cannot read keys of this table: they were written under another one. S is gone with it.
    Unfit(TableId, String),
    /// Not the schema that was read.
    Stale(String),
    /// Somebody has locked one of these tables, or rows of it.
    Locked(At, Vec<TableId>, String),
    /// Somebody has locked on the secondary what a schema change of this table, if of any, wants.
    Behind(TableId, String),
}

impl Trouble {
    pub(super) fn reading(at: At, table: TableId, error: client::Error) -> Trouble {
        match at {
            At::Primary => Trouble::reading_primary(table, error),
            // Only the closure reads there: as with the primary, the table is left out and S taken anew.
            At::Secondary => match Trouble::writing(table, error) {
                Trouble::Table(table, error) => Trouble::Unreadable(table, error.to_string()),
                Trouble::Missing(_, error) => Trouble::Stale(error.to_string()),
                trouble => trouble,
            },
        }
    }

    pub(super) fn reading_primary(table: TableId, error: client::Error) -> Trouble {
        match error {
            client::Error::Db(error) => match error.code.as_str() {
                LOCKED => Trouble::Locked(At::Primary, vec![table], error.to_string()),
                "42P01" | "42703" | "42704" | "3F000" | "40001" | "57014" => Trouble::Stale(error.to_string()),
                // Values that are none: of the wrong length they are called a broken protocol.
                code if code.starts_with("22") || code == "08P01" => Trouble::Unfit(table, error.to_string()),
                // Rows that are damaged on its disk.
                "XX001" | "XX002" => Trouble::Unreadable(table, error.to_string()),
                code if !about_the_statement(code) => Trouble::Primary(client::Error::Db(error)),
                _ => Trouble::Unreadable(table, error.to_string()),
            },
            error => Trouble::Primary(error),
        }
    }

    pub(super) fn writing(table: TableId, error: client::Error) -> Trouble {
        match error {
            client::Error::Db(error) => match error.code.as_str() {
                LOCKED => Trouble::Locked(At::Secondary, vec![table], error.to_string()),
                "42P01" | "42703" => Trouble::Missing(table, error),
                code if of_the_table(code) => Trouble::Table(table, error),
                _ => Trouble::Secondary(client::Error::Db(error)),
            },
            error => Trouble::Secondary(error),
        }
    }

    /// What the engine is told, and whether the connections are still good.
    pub(super) fn told(self, schema: &Schema) -> (copier::Error, bool) {
        match self {
            Trouble::Behind(table, change) => {
                let name = if table == TableId::NONE { change.clone() } else { schema.name(table) };
                let why = format!("{change} waits for a lock on the secondary, and all other tables wait for it");
                (copier::Error::Waits(Waiting { name, why, owed: Vec::new() }), true)
            }
            Trouble::Primary(error) => (on_primary(error), false),
            Trouble::Secondary(error) => (on_secondary(error), false),
            Trouble::Table(_, error) => (copier::Error::Secondary(error.to_string()), false),
            Trouble::Missing(_, error) => (copier::Error::Stale(error.to_string()), true),
            Trouble::Unreadable(_, why) | Trouble::Unfit(_, why) | Trouble::Stale(why) | Trouble::Locked(_, _, why) => {
                (copier::Error::Stale(why), true)
            }
        }
    }
}

/// The SQLSTATE speaks of the statement and its rows (data, constraints, types, privileges), not of the server's state.
pub(super) fn about_the_statement(code: &str) -> bool {
    let classes = ["0A", "21", "22", "23", "42", "44", "P0", "54", "27", "38", "39", "2F"];
    // A table that a publication holds, without a replica identity, takes no DELETE (`CheckCmdReplicaIdentity`).
    code == "55000" || classes.iter().any(|class| code.starts_with(class))
}

/// Met while a table of the secondary is written, the SQLSTATE speaks of that table alone: besides the statement and its rows of a
/// file or an index of it that is damaged, or of a server that a foreign table of its triggers is on.
pub(super) fn of_the_table(code: &str) -> bool {
    about_the_statement(code) || ["XX001", "XX002", "58P01", "58030"].contains(&code) || code.starts_with("HV")
}

pub(super) fn loading(error: LoadError, side: fn(client::Error) -> Trouble) -> Trouble {
    match error {
        // Functions of the catalog answer for now: what is gone since the snapshot has no name and no privileges.
        LoadError::Client(client::Error::Value(_)) => Trouble::Stale("the schema changed while it was read".into()),
        LoadError::Client(error) => unlocked(error, side),
        other => side(client::Error::Config(other.to_string())),
    }
}

/// Who looks at a table that somebody has locked (VACUUM FULL, a long ALTER TABLE) looks again; the connection is as good as
/// before.
pub(super) fn unlocked(error: client::Error, side: fn(client::Error) -> Trouble) -> Trouble {
    if error.code() == Some(LOCKED) { Trouble::Stale(error.to_string()) } else { side(error) }
}

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

/// A schema change that waits for rows.
struct Postponed<'p> {
    table: TableId,
    body: &'p [u8],
    /// Rows contradict it; else it only follows one of those.
    contradicted: bool,
}

/// A schema change that the secondary does not take.
struct RefusedChange<'p> {
    table: TableId,
    body: &'p [u8],
    refusal: Refusal,
}

/// The number of the payment is on the secondary if the payment is.
pub(super) const COUNT: &str = "UPDATE tandem.payment SET n = n + 1 RETURNING n";

/// How long at least a table that could not be read is not tried again.
const POISONED: Duration = Duration::from_secs(10);

/// What the secondary will answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Plain,
    Delete(TableId),
    Copy(TableId),
    /// The only one with a row.
    Count,
    Commit,
    /// ReadyForQuery.
    Ready,
}

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
        if self.link.schema_stale || !self.owed.ddl.is_empty() || self.owes_by_other_keys() {
            self.load().await?;
        }
        self.link.renames.learn(&self.owed.ddl, &self.link.schema);
        self.gather();
        refused.into_iter().for_each(|refused| self.refuse_change(refused));
        let doubted = self.owed.doubted.iter().map(|body| change::refused(None, body, change::IN_DOUBT.to_owned()));
        self.paid.refused.extend(doubted);
        self.leave_out_locked().await
    }

    async fn roll_back(&mut self) -> Result<(), Trouble> {
        self.begun = false;
        self.link.secondary.simple("ROLLBACK").await.map(drop).map_err(Trouble::Secondary)
    }

    /// Was anything captured under another key than the table's as far as known?
    fn owes_by_other_keys(&self) -> bool {
        self.owed.keys.iter().any(|(&table, keys)| {
            let layout = self.link.schema.layout(table);
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

    /// With schema changes to repeat: begin the transaction with them. Returns those that the secondary refused.
    ///
    /// Rows that contradict a change may be rows of this payment: the primary had written them when it took the change. These
    /// are taken away before all changes, which then happen in their order, and come as they are at S behind them. Where that
    /// is no help, the change waits for the rows, and what follows it for the change.
    async fn begin_and_repeat_ddl(&mut self) -> Result<Vec<RefusedChange<'p>>, Trouble> {
        if self.owed.ddl.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(repeated) = self.link.repeated.take() {
            return Ok(self.take_over(repeated));
        }
        let ddl = self.ddl();
        self.add_to_enums(&ddl).await?;
        loop {
            let (mut refused, mut again) = (Vec::new(), !self.begin_and_clear().await?);
            if !again {
                refused = self.repeat_ddl(&ddl).await?;
            }
            let were_cleared = self.cleared.clone();
            for it in refused.iter().filter(|it| it.table != TableId::NONE) {
                if were_cleared.contains(&it.table) {
                    self.cleared.remove(&it.table);
                    again |= self.kept.insert(it.table);
                } else if it.refusal.is_of_rows() && !self.kept.contains(&it.table) {
                    again |= self.cleared.insert(it.table);
                }
            }
            if !again {
                let (conn, manner) = (&mut self.link.secondary, Manner::plain(&self.link.search_path));
                read_under(conn, &manner).await.map_err(Trouble::Secondary)?;
                return Ok(refused);
            }
            self.roll_back().await?;
        }
    }

    /// They were repeated before S.
    fn take_over(&mut self, Repeated { refused, parted }: Repeated) -> Vec<RefusedChange<'p>> {
        (self.begun, self.parted) = (true, parted);
        let owed = &self.owed.ddl;
        let change = |(at, refusal): (usize, Refusal)| RefusedChange { table: owed[at].0, body: &owed[at].1, refusal };
        refused.into_iter().map(change).collect()
    }

    /// The schema changes to repeat.
    fn ddl(&self) -> Vec<(TableId, &'p [u8])> {
        let owed = self.owed.ddl.iter().map(|(table, body)| (*table, &body[..]));
        owed.filter(|(table, body)| !self.link.schema.excludes(*table) && !self.is_renamed(*table, body)).collect()
    }

    /// A value that is added to an enum cannot be used before it is committed. In its turn it is there already, or its type
    /// is made in the same transaction, and then it can be used.
    async fn add_to_enums(&mut self, ddl: &[(TableId, &'p [u8])]) -> Result<(), Trouble> {
        for (_, body) in ddl.iter().filter(|(_, body)| adds_to_enum(body)) {
            let (conn, pulse) = (&mut self.link.secondary, self.link.options.pulse());
            conn.simple("BEGIN").await.map_err(Trouble::Secondary)?;
            let _ = beside(&mut self.link.primary, pulse, repeat(conn, TableId::NONE, body)).await?;
            conn.simple("COMMIT").await.map_err(Trouble::Secondary)?;
        }
        Ok(())
    }

    /// Begin, and take away what the payment brings anew of tables of which that is wanted. False: they do not let go of it.
    async fn begin_and_clear(&mut self) -> Result<bool, Trouble> {
        self.link.secondary.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        self.begun = true;
        if self.cleared.is_empty() {
            return Ok(true);
        }
        self.load().await?;
        let schema = &self.link.schema;
        let homes: HashSet<TableId> =
            self.cleared.iter().filter_map(|table| Some(schema.cleared(*table)?.0.id)).collect();
        let mut debts = Debts::new();
        for (&table, keys) in &self.owed.keys {
            let Some((pair, places)) = schema.cleared(table).filter(|(pair, _)| homes.contains(&pair.id)) else {
                continue;
            };
            let (unfit, layout) = (self.link.unfit.contains(&pair.id), schema.layout(table));
            let debt = debts.entry(pair.id).or_insert_with(|| Debt::new(Arc::new(pair)));
            owe_keys(debt, keys, places.as_deref(), layout.filter(|_| !unfit), &|_| false);
        }
        for table in self.owed.tables.iter().filter(|table| homes.contains(table)) {
            let Some((pair, _)) = schema.cleared(*table).filter(|(pair, _)| pair.id == *table) else { continue };
            debts.entry(pair.id).or_insert_with(|| Debt::new(Arc::new(pair))).whole = true;
        }
        let large = large(self.link, &debts, self.options).await?;
        if !large.is_empty() {
            // They are mended by a walk: without their rows they would be for as long as that takes.
            let schema = &self.link.schema;
            let is_large = |table: &TableId| {
                schema.cleared(*table).is_some_and(|(pair, _)| large.iter().any(|(table, _)| *table == pair.id))
            };
            self.kept.extend(self.cleared.extract_if(|table| is_large(table)));
            return Ok(false);
        }
        let mut steps = Steps::default();
        for debt in debts.values() {
            delete(self.link, debt, &debt.sorted(), self.options.batch_keys, &mut steps).await?;
        }
        steps.put_sync(self.link);
        match steps.settle(self.link).await {
            Err(Trouble::Table(..) | Trouble::Missing(..)) => {
                self.kept.extend(self.cleared.drain());
                Ok(false)
            }
            settled => settled.map(|()| true),
        }
    }

    async fn repeat_ddl(&mut self, ddl: &[(TableId, &'p [u8])]) -> Result<Vec<RefusedChange<'p>>, Trouble> {
        let (mut refused, pulse) = (Vec::new(), self.link.options.pulse());
        self.behind_rows.clear();
        let others = self.owed.ddl.iter().filter(|(table, body)| !ddl.contains(&(*table, &body[..])));
        let by_hand = others.filter(|(_, body)| takes_away(body).is_some());
        self.parted = by_hand.map(|(table, _)| (*table, false)).collect();
        for &(table, body) in ddl {
            let behind = |contradicted| Postponed { table, body, contradicted };
            if self.waits(table, body) {
                self.behind_rows.push(behind(false));
                continue;
            }
            let conn = &mut self.link.secondary;
            match beside(&mut self.link.primary, pulse, repeat(conn, table, body)).await? {
                Ok(Done::Now) => self.parted.extend(takes_away(body).map(|known| (table, known))),
                Err(refusal) if refusal.is_of_rows() => match self.cannot_clear(table, &refusal) {
                    true => self.behind_rows.push(behind(true)),
                    false => refused.push(RefusedChange { table, body, refusal }),
                },
                // It may need what waits.
                _ if !self.behind_rows.is_empty() => self.behind_rows.push(behind(false)),
                Ok(Done::Before) => self.parted.extend(takes_away(body).map(|_| (table, false))),
                Err(refusal) => refused.push(RefusedChange { table, body, refusal }),
            }
        }
        Ok(refused)
    }

    /// A change follows another one that waits for rows, of the same table, or of none: then nobody knows of what.
    fn waits(&self, table: TableId, body: &[u8]) -> bool {
        let makes = || schema_change::decode(body).is_some_and(|(_, sql)| change::makes(sql));
        let follows = |of: TableId| of == table || of == TableId::NONE;
        self.behind_rows.iter().any(|behind| follows(behind.table))
            || table == TableId::NONE && !self.behind_rows.is_empty() && !makes()
    }

    /// The rows that contradict the change are not known to be the payment's, or it is not one too many but one too few.
    fn cannot_clear(&self, table: TableId, refusal: &Refusal) -> bool {
        table == TableId::NONE || !self.link.replica || refusal.code == "23503" || self.kept.contains(&table)
    }

    /// The change would mean another table there.
    fn is_renamed(&self, table: TableId, body: &[u8]) -> bool {
        let change = schema_change::decode(body);
        let named = change.and_then(|(manner, sql)| self.link.schema.renamed_in(table, manner.path, sql));
        if let Some(name) = &named {
            tracing::warn!(
                table = name,
                "a schema change is not repeated on the secondary, where this table is called otherwise: make it there by hand"
            );
        }
        named.is_some()
    }

    fn gather(&mut self) {
        let owed = self.owed;
        let says = |body: &[u8]| schema_change::decode(body).is_none_or(|(_, sql)| change::may_change_keys(sql));
        let as_captured = !owed.ddl.iter().any(|(_, body)| says(body));
        for (&table, keys) in &owed.keys {
            let homes: Vec<_> = self.names(table).into_iter().filter_map(|name| self.home(name)).collect();
            // Of several tables that may be meant by a name it is the one whose key it is.
            let fits_one = |key: &Key| {
                let fits = |Meant { name, pair, .. }: &Meant| {
                    let layout = self.link.schema.layout(*name);
                    layout.is_some() && fits(layout, pair.key.len(), key)
                };
                as_captured && homes.iter().any(fits)
            };
            for Meant { name, pair, places } in &homes {
                let (unfit, layout) = (self.link.unfit.contains(&pair.id), self.link.schema.layout(*name));
                let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
                let is_others = |key: &Key| !unfit && homes.len() > 1 && fits_one(key);
                owe_keys(debt, keys, places.as_deref(), layout.filter(|_| !unfit), &is_others);
            }
        }
        for &table in &owed.tables {
            for name in self.names(table) {
                let Some(Meant { pair, .. }) = self.home(name) else { continue };
                let part = self.link.schema.primary.relation(name).filter(|part| part.id != pair.id);
                let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
                debt.lost |= owed.lost.contains(&table);
                match part {
                    Some(part) => self.parts.entry(pair.id).or_default().push(part.clone()),
                    None => debt.whole = true,
                }
            }
        }
        self.refuse_poisoned();
    }

    /// The names under which a table that is owed under this one may be paid.
    fn names(&self, table: TableId) -> Vec<TableId> {
        self.link.renames.names(table)
    }

    /// A table that could not be read is refused when it is owed. Owed whole, by a repair or an operator who has done
    /// something about it, it is tried anew, unless it was just now.
    fn refuse_poisoned(&mut self) {
        for (table, Poison { why, since }) in self.link.poisoned.clone() {
            let Some(debt) = self.debts.get(&table) else { continue };
            if debt.whole && since.elapsed() > POISONED {
                self.link.poisoned.remove(&table);
                continue;
            }
            let name = self.link.schema.name(table);
            self.refuse(table, name, why);
        }
    }

    /// What somebody has locked waits, and what cannot be paid without it: one table must not hold up all others.
    async fn leave_out_locked(&mut self) -> Result<(), Trouble> {
        locks::look(self.link, &self.debts).await?;
        self.apart.clear();
        if self.link.locks.are_none() {
            return Ok(());
        }
        let apart = apart(self.link, &mut self.debts);
        let mut waiting: BTreeMap<TableId, Waiting> = BTreeMap::new();
        for &owed in self.owed.keys.keys().chain(&self.owed.tables) {
            for Meant { pair, .. } in meant(self.link, owed) {
                if !apart.contains(&pair.id) || self.is_refused(pair.id) {
                    continue;
                }
                let fresh =
                    || Waiting { name: pair.primary.sql(), why: self.link.locks.why(pair.id), owed: Vec::new() };
                let names = &mut waiting.entry(pair.id).or_insert_with(fresh).owed;
                if !names.contains(&owed) {
                    names.push(owed);
                }
            }
        }
        self.debts.retain(|id, _| !apart.contains(id));
        self.parts.retain(|id, _| !apart.contains(id));
        self.paid.waiting.extend(waiting.into_values());
        self.apart = apart;
        Ok(())
    }

    /// What a dropped or detached partition held is gone on the secondary too, or all of its table is owed.
    async fn owe_what_left(&mut self) -> Result<(), Trouble> {
        let parted = std::mem::take(&mut self.parted).into_iter();
        let parted: Vec<_> =
            parted.flat_map(|(table, known)| meant(self.link, table).into_iter().map(move |it| (it, known))).collect();
        for (Meant { name, pair, .. }, known) in parted {
            let is_left_out = self.is_refused(name) || self.link.poisoned.contains_key(&name);
            if !pair.footprint.partitioned || pair.id != name || is_left_out {
                continue;
            }
            if self.apart.contains(&name) {
                // Nothing can be asked about it now, and the change is not repeated again.
                let why = "a partition left it while somebody had locked it".to_owned();
                self.paid.large.push(Large { table: name, name: pair.primary.sql(), why, owed: Vec::new() });
                continue;
            }
            self.owe_parked(&pair);
            if !piece::are_alike(self.link, &pair, known).await? {
                self.owe_tree(&pair, Vec::new(), "a partition left it, and the secondary is partitioned otherwise")
                    .await?;
            }
            piece::let_go(self.link).await?;
        }
        Ok(())
    }

    /// Partitions that are owed whole: alone, or with all of their table.
    async fn owe_parts(&mut self) -> Result<(), Trouble> {
        for (table, parts) in std::mem::take(&mut self.parts) {
            let Some(debt) = self.debts.get(&table).filter(|debt| !debt.whole) else { continue };
            let pair = debt.pair.clone();
            let mut pieces = Vec::with_capacity(parts.len());
            for part in &parts {
                pieces.extend(piece::of(self.link, &pair, part).await?);
            }
            self.owe_parked(&pair);
            if pieces.len() == parts.len() {
                self.debts.get_mut(&table).expect("found above").pieces = pieces;
            } else {
                let owed = parts.iter().map(|part| part.id).collect();
                self.owe_tree(&pair, owed, "a partition is owed whole, and its rows cannot be told there").await?;
            }
            piece::let_go(self.link).await?;
        }
        Ok(())
    }

    /// All rows of a partitioned table are owed. More than a payment takes are compared, where that can be, and mended.
    async fn owe_tree(&mut self, pair: &Arc<Pair>, owed: Vec<TableId>, why: &str) -> Result<(), Trouble> {
        let bytes = bytes_to_walk(self.link, pair).await?;
        if bytes > self.options.whole_bytes_max {
            let (name, why) = (pair.primary.sql(), format!("{why}; the table has {} MiB", bytes >> 20));
            self.paid.large.push(Large { table: pair.id, name, why, owed });
        } else {
            self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone())).whole = true;
        }
        Ok(())
    }

    /// Of tables of which every row is owed, and which are more than a payment takes, only the keys are paid.
    async fn leave_out_large(&mut self) -> Result<(), Trouble> {
        for (table, bytes) in large(self.link, &self.debts, self.options).await? {
            let debt = self.debts.get_mut(&table).expect("found above");
            debt.whole = false;
            let name = debt.pair.primary.sql();
            let is_its = |owed: &&TableId| meant(self.link, **owed).iter().any(|meant| meant.pair.id == table);
            let owed = self.owed.tables.iter().filter(is_its).copied().collect();
            let why = format!("all of its rows are owed; the table has {} MiB", bytes >> 20);
            self.paid.large.push(Large { table, name, why, owed });
        }
        Ok(())
    }

    /// Rows of partitions were refused by their table's keys, which nobody may name when the partition is gone, or empty.
    fn owe_parked(&mut self, pair: &Arc<Pair>) {
        let layout = self.link.schema.layout(pair.id);
        let debt = self.debts.entry(pair.id).or_insert_with(|| Debt::new(pair.clone()));
        let parked = self.owed.parked.iter().filter(|(table, _)| *table == pair.id);
        for (_, key) in parked.filter(|(_, key)| fits(layout, pair.key.len(), key)) {
            debt.owe(Key::from(&key[..]), true);
        }
    }

    fn is_refused(&self, table: TableId) -> bool {
        self.paid.refused.iter().any(|refused| refused.table == table && refused.key.is_none())
    }

    /// Where a table is paid; one that cannot be paid is refused.
    fn home(&mut self, table: TableId) -> Option<Meant> {
        match self.link.schema.home(table) {
            Home::Pair(pair, places) => return Some(Meant { name: table, pair, places }),
            Home::Nowhere => (),
            Home::Refused(name, why) => self.paid.refused.push(refused_table(table, name, why)),
        }
        None
    }

    /// A schema change is refused, and its table with it. The table may be well again before the change is made.
    fn refuse_change(&mut self, RefusedChange { table, body, refusal }: RefusedChange<'_>) {
        let name = (table != TableId::NONE).then(|| self.link.schema.name(table));
        self.paid.refused.push(change::refused(name.as_deref(), body, refusal.why.clone()));
        if let Some(name) = name {
            self.refuse(table, name, refusal.why);
        }
    }

    /// Leave a table out.
    fn refuse(&mut self, table: TableId, name: String, why: String) {
        self.debts.remove(&table);
        self.isolated.remove(&table);
        self.parts.values_mut().for_each(|parts| parts.retain(|part| part.id != table));
        self.paid.refused.push(refused_table(table, name, why));
    }

    async fn attempt(&mut self) -> Result<(), Trouble> {
        let met = contact::meet(self.link, &self.debts, &mut self.begun).await?;
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
        steps.put_statement(self.link, Step::Count, COUNT, &Arrays::none());
        // One statement a table where foreign keys act: a table that points at itself must not lose half its rows.
        let batch_keys = if self.link.replica { options.batch_keys } else { usize::MAX };
        for id in order.iter().rev() {
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
            Some(debt) => (debt.whole && !debt.pair.footprint.local, debt.pair.clone()),
            None => return Err(Trouble::Secondary(error.clone().into())),
        };
        self.repeat_ddl_again().await?;
        if !self.debts.contains_key(&table) {
            return Ok(());
        }
        let by_rows = error.code.starts_with("22") || error.code.starts_with("23") || error.code.starts_with("P0");
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

    async fn repeat_ddl_again(&mut self) -> Result<(), Trouble> {
        for change in self.begin_and_repeat_ddl().await? {
            let is_it =
                |refused: &Refused| refused.table == TableId::NONE && refused.key.as_deref() == Some(change.body);
            if !self.paid.refused.iter().any(is_it) {
                self.refuse_change(change);
            }
        }
        Ok(())
    }

    /// The table is refused, and keeps its rows.
    async fn restore(&mut self, pair: &Pair) -> Result<(), Trouble> {
        let schema = &mut self.link.schema;
        let mut is_its = |table: TableId| matches!(schema.home(table), Home::Pair(home, _) if home.id == pair.id);
        let its: Vec<TableId> = self.cleared.extract_if(|table| is_its(*table)).collect();
        if its.is_empty() {
            return Ok(());
        }
        self.kept.extend(its);
        self.roll_back().await?;
        self.repeat_ddl_again().await
    }

    /// Rows of the secondary that hold a unique value which owed rows bring: a stranger's, or a dirty row.
    async fn holders(&mut self, pair: &Arc<Pair>, error: &DbError) -> Result<Vec<Key>, Trouble> {
        let (Some(schema), Some(index)) = (&error.schema, &error.constraint) else { return Ok(Vec::new()) };
        let name = format!("{}.{}", quote(schema), quote(index));
        let conn = &mut self.link.secondary;
        let Some(unique) = Unique::read(conn, &name).await.map_err(Trouble::Secondary)? else { return Ok(Vec::new()) };
        if !std::mem::replace(&mut self.begun, true) {
            conn.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        }
        conn.simple("SAVEPOINT tandem_scratch").await.map_err(Trouble::Secondary)?;
        let found = self.held_values(pair, &unique).await;
        self.link.secondary.simple("ROLLBACK TO tandem_scratch").await.map_err(Trouble::Secondary)?;
        match found {
            // Not even the scratch table takes the rows: then row by row.
            Err(Trouble::Table(..) | Trouble::Missing(..)) => Ok(Vec::new()),
            found => found,
        }
    }

    async fn held_values(&mut self, pair: &Arc<Pair>, unique: &Unique) -> Result<Vec<Key>, Trouble> {
        let refused = |error| Trouble::writing(pair.id, error);
        self.link.secondary.simple(&pair.scratch_sql()).await.map_err(refused)?;
        let (keys, sql) = (self.debts[&pair.id].sorted(), Arc::from(pair.read_sql()));
        for batch in batches(pair, &keys, self.options.batch_keys, BATCH_BYTES) {
            copy_part(self.link, pair, Part::Keys(batch, Arc::clone(&sql)), "pg_temp.tandem_in").await?;
        }
        let mut found = Vec::new();
        let link = &mut *self.link;
        link.secondary.put_statement(&unique.holders_sql(pair), &[], Format::Binary);
        link.secondary.put_sync();
        send_to_secondary(link).await?;
        let reading = async {
            read_keys(&mut link.secondary, pair, &mut found).await?;
            link.secondary.finish().await
        };
        beside(&mut link.primary, link.options.pulse(), reading).await.map_err(refused)?;
        Ok(found)
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

/// The SQLSTATEs of a schema change that was done already: what it makes is there.
const THERE_ALREADY: &[&str] = &["42P07", "42701", "42710", "42P06", "42723", "42P16"];
/// And what it drops, or calls otherwise, is not.
const GONE_ALREADY: &[&str] = &["42P01", "42703", "42704", "42883"];
/// Of those, what a view, a type, a function and their like are made of, if it is not there, or does not fit what is.
const UNMADE: &[&str] = &["42P16", "42P01", "42703", "42704", "42883"];
/// Done already if something in it was to be dropped.
const NO_SCHEMA: &str = "3F000";

/// Repeat one schema change: a varint length and the search path it was made under, then its text. What the secondary
/// refuses for good is told; what only a lock is in the way of, or a server that takes no writes, comes again.
async fn repeat(conn: &mut Client, table: TableId, body: &[u8]) -> Result<Result<Done, Refusal>, Trouble> {
    let Some((manner, sql)) = schema_change::decode(body) else {
        return Ok(Err(Refusal { code: String::new(), why: "the record's schema change is malformed".into() }));
    };
    conn.simple("SAVEPOINT tandem_ddl").await.map_err(Trouble::Secondary)?;
    let done = match read_under(conn, &manner).await {
        Ok(()) => conn.simple(&without_concurrently(sql)).await.map(drop),
        Err(error) => Err(error),
    };
    let why = match done {
        Ok(()) => return Ok(Ok(Done::Now)),
        Err(client::Error::Db(error)) => error,
        Err(error) => return Err(Trouble::Secondary(error)),
    };
    if why.code == LOCKED {
        return Err(Trouble::Behind(table, change::words(body)));
    }
    // Of a server that takes no writes, and of its state. All else is a refusal: one that came again for ever would hold up
    // all tables.
    let passes = why.code == "25006";
    // A library that the server has not.
    let is_absent = why.code == "58P01";
    if passes || !is_absent && ["08", "40", "53", "57", "58", "XX"].iter().any(|class| why.code.starts_with(class)) {
        return Err(Trouble::Secondary(client::Error::Db(why)));
    }
    conn.simple("ROLLBACK TO tandem_ddl").await.map_err(Trouble::Secondary)?;
    if why.code == "22023"
        && let Some(labeled) = change::Labeled::of(sql)
    {
        read_under(conn, &manner).await.map_err(Trouble::Secondary)?;
        if labeled.is_done(&labeled.labels(conn).await.map_err(Trouble::Secondary)?) {
            return Ok(Ok(Done::Before));
        }
    }
    let drops = sql.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("drop"));
    let says = |codes: &[&str]| codes.contains(&why.code.as_str());
    let unmade = table == TableId::NONE
        && (change::makes(sql) && says(UNMADE) || change::only_alters(sql) && says(GONE_ALREADY));
    let is_done = (says(THERE_ALREADY) || says(GONE_ALREADY)) && !unmade || drops && why.code == NO_SCHEMA;
    Ok(if is_done { Ok(Done::Before) } else { Err(Refusal { code: why.code.clone(), why: why.to_string() }) })
}

/// When a schema change happened on the secondary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Now,
    /// What it makes is there, or what it drops is not.
    Before,
}

/// Why the secondary does not take a schema change.
struct Refusal {
    /// The SQLSTATE; empty if it was not asked.
    code: String,
    why: String,
}

impl Refusal {
    /// With other rows it would be taken. What is wrong with a parameter is of no row.
    fn is_of_rows(&self) -> bool {
        self.code.starts_with("23") || self.code.starts_with("22") && self.code != "22023"
    }
}

/// Schema changes for which rows of this payment had to be there. Those that are refused still.
async fn repeat_behind_rows(link: &mut Link, changes: &[Postponed<'_>]) -> Result<Vec<Refused>, Trouble> {
    let (pulse, mut refused) = (link.options.pulse(), Vec::new());
    for &Postponed { table, body, contradicted } in changes {
        let why = match beside(&mut link.primary, pulse, repeat(&mut link.secondary, table, body)).await? {
            // It was not done a moment ago: what it speaks of is gone.
            Ok(Done::Before) if contradicted => "what it changes is no longer there".to_owned(),
            Ok(_) => continue,
            Err(refusal) => refusal.why,
        };
        let name = (table != TableId::NONE).then(|| link.schema.name(table));
        refused.push(change::refused(name.as_deref(), body, why.clone()));
        refused.extend(name.map(|name| refused_table(table, name, why)));
    }
    Ok(refused)
}

fn adds_to_enum(body: &[u8]) -> bool {
    let labeled = schema_change::decode(body).and_then(|(_, sql)| change::Labeled::of(sql));
    labeled.is_some_and(|labeled| labeled.was.is_none())
}

/// Tables of which every row is owed, and which are more than a payment takes; their size on the primary.
async fn large(link: &mut Link, debts: &Debts<'_>, options: &Options) -> Result<Vec<(TableId, u64)>, Trouble> {
    let mut large = Vec::new();
    for (&table, debt) in debts.iter().filter(|(_, debt)| debt.whole) {
        let bytes = bytes_to_walk(link, &debt.pair).await?;
        piece::let_go(link).await?;
        if bytes > options.whole_bytes_max {
            large.push((table, bytes));
        }
    }
    Ok(large)
}

/// Of a table that can be compared, in all of its columns, and mended; of others there is no other way than to pay them whole.
async fn bytes_to_walk(link: &mut Link, pair: &Pair) -> Result<u64, Trouble> {
    let has_place = pair.footprint.local && !pair.key.is_empty();
    let can_be_walked = link.replica && has_place && pair.not_compared().is_empty();
    if can_be_walked { piece::bytes(link, pair).await } else { Ok(0) }
}

/// Owe keys that were captured under the layout that the table has now, if it is given; of others nobody knows which rows they
/// meant, unless they are another table's.
fn owe_keys<'k>(
    debt: &mut Debt<'k>,
    keys: &'k Keys,
    places: Option<&[usize]>,
    layout: Option<Layout>,
    is_others: &dyn Fn(&Key) -> bool,
) {
    let columns = debt.pair.key.len();
    let is_known = |key: &Key| layout.is_some() && fits(layout, columns, key);
    match places {
        None if keys.keys().all(is_known) => debt.owe_all(keys),
        places => keys.iter().for_each(|(key, &flagged)| match places {
            _ if !is_known(key) && is_others(key) => {}
            _ if !is_known(key) => {
                debt.whole = true;
                debt.lost |= flagged;
            }
            None => drop(debt.owe(key.clone(), flagged)),
            Some(places) => drop(debt.owe(reorder(&debt.pair, key, places), flagged)),
        }),
    }
}

fn takes_away(body: &[u8]) -> Option<bool> {
    schema_change::decode(body).and_then(|(_, sql)| piece::takes_away(sql))
}

/// CONCURRENTLY cannot run inside a transaction, and ours locks nobody out but readers of the secondary: the change is
/// repeated without the word. It is reserved, so nothing else is spelt like it without quotes. Materialized views are
/// the exception: they may be refreshed so anywhere. Nor is there anything to FINALIZE then: it is a DETACH like any other.
fn without_concurrently(sql: &str) -> Cow<'_, str> {
    use pg_query::protobuf::Token;
    let Ok(scanned) = pg_query::scan(sql) else { return Cow::Borrowed(sql) };
    if scanned.tokens.iter().any(|token| token.token == Token::Materialized as i32) {
        return Cow::Borrowed(sql);
    }
    let mut kept = Cow::Borrowed(sql);
    for token in scanned.tokens.iter().rev().filter(|token| token.token == Token::Concurrently as i32) {
        let range = usize::try_from(token.start).unwrap_or(0)..usize::try_from(token.end).unwrap_or(0);
        if kept.get(range.clone()).is_some() {
            kept.to_mut().replace_range(range, " ");
        }
    }
    match kept.trim_end().rsplit_once(char::is_whitespace) {
        Some((start, last)) if last.trim_end_matches(';').eq_ignore_ascii_case("finalize") && piece::finalizes(sql) => {
            start.to_owned().into()
        }
        _ => kept,
    }
}

/// What follows in the transaction is read under these settings.
pub(super) async fn read_under(conn: &mut Client, manner: &Manner<'_>) -> Result<(), client::Error> {
    let mut sql = "SELECT pg_catalog.set_config('search_path', $1, true)".to_owned();
    for (at, (name, _)) in SETTINGS.iter().enumerate() {
        let _ = write!(sql, ", pg_catalog.set_config('{name}', ${}, true)", at + 2);
    }
    let values: Vec<_> = [manner.path].into_iter().chain(manner.values).map(Param::text).collect();
    conn.query(&sql, &values, Format::Text).await.map(drop)
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

async fn delete(
    link: &mut Link,
    debt: &Debt<'_>,
    keys: &[&[u8]],
    batch_keys: usize,
    steps: &mut Steps,
) -> Result<(), Trouble> {
    let step = Step::Delete(debt.pair.id);
    if debt.whole {
        steps.put_statement(link, step, &debt.pair.delete_whole_sql(), &Arrays::none());
    }
    for piece in debt.pieces.iter().filter(|_| !debt.whole) {
        steps.put_statement(link, step, &debt.pair.delete_bound_sql(&piece.bound), &Arrays::none());
    }
    let sql = debt.pair.delete_sql();
    for batch in batches(&debt.pair, keys, batch_keys, BATCH_BYTES) {
        steps.put_statement(link, step, &sql, &Arrays::of(&debt.pair, batch));
        if link.secondary.unsent() >= SEND_BYTES {
            steps.put_sync(link);
            send_to_secondary(link).await?;
            steps.keep_near(link).await?;
        }
    }
    Ok(())
}

/// Stream one table's rows; how many bytes. If they cannot be read, or were not those of S, the COPY is given up, so
/// that its connection lives on.
async fn copy(
    link: &mut Link,
    reader: &mut Reader<'_>,
    pair: &Pair,
    sql: String,
    steps: &mut Steps,
) -> Result<u64, Trouble> {
    let mut out = CopyOut::new(sql, pair.binary);
    let streamed = stream(link, reader, pair.id, &mut out).await;
    if streamed.is_err() {
        out.give_up(&mut link.secondary);
    } else if out.end(&mut link.secondary) {
        steps.wait_for(Step::Copy(pair.id));
    }
    streamed.map(|()| out.bytes())
}

/// Rows of all answers that are this table's into a COPY.
async fn stream(link: &mut Link, reader: &mut Reader<'_>, table: TableId, out: &mut CopyOut) -> Result<(), Trouble> {
    while reader.next_is(table) {
        while let Some(row) = next_row(link, out).await.map_err(|error| Trouble::reading_primary(table, error))? {
            if out.row(&mut link.secondary, &row).map_err(Trouble::Primary)? {
                out.close(&mut link.secondary);
                send_to_secondary(link).await?;
            }
        }
        reader.done(link).await?;
    }
    Ok(())
}

/// The primary may be long in finding a row: the secondary is told meanwhile that we are alive.
async fn next_row(link: &mut Link, out: &mut CopyOut) -> Result<Option<client::DataRow>, client::Error> {
    let (pulse, to) = (link.options.pulse(), &mut link.secondary);
    let next = link.primary.next_row_of_statement();
    tokio::pin!(next);
    loop {
        tokio::select! {
            biased;
            row = &mut next => return row,
            () = async { tokio::time::sleep(pulse).await } => {
                // If this fails, the next send will say so.
                let _ = out.wait(to).await;
            }
        }
    }
}

/// The secondary may be long in taking it: the primary is told meanwhile that we are alive.
async fn send_to_secondary(link: &mut Link) -> Result<(), Trouble> {
    let sending = link.secondary.send();
    beside(&mut link.primary, link.options.pulse(), sending).await.map_err(Trouble::Secondary)
}

/// Copy one part by itself and wait for the answer: how many rows and bytes.
async fn copy_part(link: &mut Link, pair: &Arc<Pair>, part: Part<'_>, table: &str) -> Result<(u64, u64), Trouble> {
    let mut reader = Reader::new([Request { pair: pair.clone(), part }].into());
    reader.pump(link).await.map_err(Trouble::Primary)?;
    let mut steps = Steps::default();
    let bytes = copy(link, &mut reader, pair, pair.copy_into(table), &mut steps).await?;
    steps.settle(link).await?;
    Ok((steps.rows, bytes))
}

/// Copies a table group by group, halving what is refused, until the refused keys are known, or there are too many.
struct Isolation<'i> {
    link: &'i mut Link,
    pair: &'i Arc<Pair>,
    options: &'i Options,
    rows: u64,
    bytes: u64,
    refused: Vec<Refused>,
    /// Has checked what is checked at the end only.
    immediate: Option<String>,
}

impl<'i> Isolation<'i> {
    async fn begin(link: &'i mut Link, pair: &'i Arc<Pair>, options: &'i Options) -> Result<Isolation<'i>, Trouble> {
        let sql = "SELECT 'SET CONSTRAINTS ' || pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', ') \
            || ' IMMEDIATE' FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace \
            WHERE c.condeferrable AND c.conrelid = ANY ($1::pg_catalog.oid[])";
        let oids: Vec<_> = tree(&link.schema.secondary, pair.secondary.oid).iter().map(u32::to_string).collect();
        let oids = format!("{{{}}}", oids.join(","));
        let rows = link.secondary.query(sql, &[Param::text(&oids)], Format::Text).await.map_err(Trouble::Secondary)?;
        let immediate =
            rows.first().map_or(Ok(None), |row| row.text(0)).map_err(Trouble::Secondary)?.map(str::to_owned);
        Ok(Isolation { link, pair, options, rows: 0, bytes: 0, refused: Vec::new(), immediate })
    }

    /// Those of these keys that the statement finds.
    async fn keys(&mut self, keys: &[&[u8]], sql: &Arc<str>) -> Result<(), Trouble> {
        let mut left: Vec<&[&[u8]]> = batches(self.pair, keys, self.options.batch_keys, BATCH_BYTES);
        left.reverse();
        while let Some(group) = left.pop() {
            let Err(error) = self.group(Part::Keys(group, sql.clone())).await? else { continue };
            match group {
                [_] if self.refused.len() == self.options.refused_max => {
                    return Err(Trouble::Table(self.pair.id, error));
                }
                [key] => self.refused.push(refused_key(self.pair, key, error.to_string())),
                group => {
                    let (low, high) = group.split_at(group.len() / 2);
                    left.extend([high, low]);
                }
            }
        }
        Ok(())
    }

    async fn stretch(&mut self, stretch: Stretch) -> Result<(), Trouble> {
        if self.group(Part::Stretch(stretch.clone())).await?.is_err() {
            let keys = stretch.keys(self.link, self.pair).await?;
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            self.keys(&keys, &Arc::from(self.pair.read_sql())).await?;
        }
        Ok(())
    }

    /// What else would be found at the end, and be of no row.
    async fn check(&mut self) -> Result<(), Trouble> {
        let Some(sql) = &self.immediate else { return Ok(()) };
        let checking = self.link.secondary.simple(sql);
        let checked = beside(&mut self.link.primary, self.link.options.pulse(), checking).await;
        checked.map(drop).map_err(|error| Trouble::writing(self.pair.id, error))
    }

    /// The inner error: the secondary refuses it, and it is as if it had not been tried.
    async fn group(&mut self, part: Part<'_>) -> Result<Result<(), Box<DbError>>, Trouble> {
        self.link.secondary.simple("SAVEPOINT tandem_group").await.map_err(Trouble::Secondary)?;
        let copied = match copy_part(self.link, self.pair, part, &self.pair.secondary.sql()).await {
            Ok(copied) => self.check().await.map(|()| copied),
            refused => refused,
        };
        let (error, end) = match copied {
            Ok((rows, bytes)) => {
                (self.rows, self.bytes) = (self.rows + rows, self.bytes + bytes);
                (None, "RELEASE tandem_group")
            }
            // A savepoint that is only gone back to stays, and the next one is inside it.
            Err(Trouble::Table(_, error)) => (Some(error), "ROLLBACK TO tandem_group; RELEASE tandem_group"),
            Err(trouble) => return Err(trouble),
        };
        self.link.secondary.simple(end).await.map_err(Trouble::Secondary)?;
        Ok(error.map_or(Ok(()), Err))
    }
}

/// How many statements may be on their way to the secondary with their answers unread. A short answer takes about 1 KiB
/// of a socket's buffer; were the buffer full, the server would wait for us while we wait for it.
const STEPS_AHEAD: usize = 64;

/// What was put to the secondary and not answered yet, and what the answers said so far.
#[derive(Default)]
struct Steps {
    waiting: VecDeque<Step>,
    /// How many [`Step::Ready`] are among them.
    answers: usize,
    /// Something was put since the last Sync.
    open: bool,
    /// The first refusal: all behind it failed with it.
    first: Option<Trouble>,
    rows: u64,
    payments: Option<u64>,
}

impl Steps {
    /// Put a statement; [`Steps::put_sync`] follows, if not at once.
    fn put_statement(&mut self, link: &mut Link, step: Step, sql: &str, params: &Arrays) {
        link.secondary.put_prepared(sql, &params.params(), Format::Text);
        self.waiting.push_back(step);
        self.open = true;
    }

    /// Let the statements put so far be answered.
    fn put_sync(&mut self, link: &mut Link) {
        if std::mem::take(&mut self.open) {
            link.secondary.put_sync();
            self.ready();
        }
    }

    fn put_query(&mut self, link: &mut Link, step: Step, sql: &str) {
        link.secondary.put_query(sql);
        self.wait_for(step);
    }

    /// A simple Query was put.
    fn wait_for(&mut self, step: Step) {
        self.waiting.push_back(step);
        self.ready();
    }

    fn ready(&mut self) {
        self.waiting.push_back(Step::Ready);
        self.answers += 1;
    }

    /// Read answers if too many are owed; what they refuse is told by [`Steps::settle`].
    async fn keep_near(&mut self, link: &mut Link) -> Result<(), Trouble> {
        if self.answers <= STEPS_AHEAD { Ok(()) } else { self.read_down_to(link, STEPS_AHEAD / 2).await }
    }

    /// Send what was put and read all answers.
    async fn settle(&mut self, link: &mut Link) -> Result<(), Trouble> {
        send_to_secondary(link).await?;
        self.read_down_to(link, 0).await?;
        self.first.take().map_or(Ok(()), Err)
    }

    async fn read_down_to(&mut self, link: &mut Link, left: usize) -> Result<(), Trouble> {
        while self.answers > left {
            let answer = link.secondary.recv();
            let answer = beside(&mut link.primary, link.options.pulse(), answer).await;
            let message = match (answer, self.first.take()) {
                // Its last words say more than that it is gone.
                (Err(client::Error::Closed), Some(first)) => return Err(first),
                (answer, first) => {
                    self.first = first;
                    answer.map_err(Trouble::Secondary)?
                }
            };
            self.note(&link.secondary, &message)?;
        }
        Ok(())
    }

    fn note(&mut self, conn: &Client, message: &Message) -> Result<(), Trouble> {
        match message.kind {
            back::DATA_ROW => {
                let row = client::DataRow(message.body.clone());
                self.payments = Some(row.parse(0).map_err(Trouble::Secondary)?);
            }
            back::COMMAND_COMPLETE => self.done(conn)?,
            back::ERROR_RESPONSE => {
                let error = DbError::parse(&message.body).map_err(|error| Trouble::Secondary(error.into()))?;
                self.refused(error);
            }
            back::READY_FOR_QUERY => {
                // After an error the statements up to the Sync are skipped.
                while self.waiting.pop_front().is_some_and(|step| step != Step::Ready) {}
                self.answers -= 1;
            }
            _ => (),
        }
        Ok(())
    }

    fn done(&mut self, conn: &Client) -> Result<(), Trouble> {
        match self.waiting.pop_front_if(|step| *step != Step::Ready) {
            Some(Step::Copy(_)) => self.rows += conn.affected(),
            Some(Step::Commit) if self.first.is_none() && conn.tag() != "COMMIT" => {
                return Err(Trouble::Secondary(client::Error::Unexpected { kind: 'C', doing: "committing" }));
            }
            _ => (),
        }
        Ok(())
    }

    fn refused(&mut self, error: DbError) {
        let step = self.waiting.front().copied();
        self.first.get_or_insert_with(|| match step {
            Some(Step::Delete(id) | Step::Copy(id)) => Trouble::writing(id, error.into()),
            _ => Trouble::Secondary(error.into()),
        });
    }
}

/// A unique index, column by column.
struct Unique {
    expressions: Vec<String>,
    predicate: Option<String>,
}

impl Unique {
    async fn read(conn: &mut Client, name: &str) -> Result<Option<Unique>, client::Error> {
        let sql = "SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k::pg_catalog.int4, false), \
            pg_catalog.pg_get_expr(i.indpred, i.indrelid) FROM pg_catalog.pg_index i, \
            pg_catalog.generate_series(1, i.indnkeyatts) k \
            WHERE i.indisunique AND i.indexrelid = pg_catalog.to_regclass($1) ORDER BY k";
        let rows = conn.query(sql, &[Param::text(name)], Format::Text).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let predicate = first.text(1)?.map(str::to_owned);
        Ok(Some(Unique { expressions: rows.iter().map(|row| row.string(0)).collect::<Result<_, _>>()?, predicate }))
    }

    fn holders_sql(&self, pair: &Pair) -> String {
        let values: Vec<_> =
            self.expressions.iter().enumerate().map(|(n, sql)| format!("{sql} AS tandem_u{n}")).collect();
        let equal: Vec<_> = (0..self.expressions.len()).map(|n| format!("h.tandem_u{n} = i.tandem_u{n}")).collect();
        let only = self.predicate.as_ref().map(|sql| format!(" WHERE {sql}")).unwrap_or_default();
        let (values, table) = (values.join(", "), pair.table(At::Secondary));
        format!(
            "SELECT {} FROM (SELECT *, {values} FROM {table}{only}) h \
             JOIN (SELECT {values} FROM pg_temp.tandem_in{only}) i ON {}",
            pair.asked("h", At::Secondary),
            equal.join(" AND ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_of_one_table_is_that_table_s_alone() {
        let trouble = |code: &str| {
            let error = DbError { code: code.into(), ..DbError::default() };
            Trouble::writing(TableId(1), client::Error::Db(Box::new(error)))
        };
        for code in ["XX001", "XX002", "58P01", "58030", "HV00N", "23505"] {
            assert!(matches!(trouble(code), Trouble::Table(TableId(1), _)), "{code}");
        }
        for code in ["53100", "57P01", "XX000", "58000", "40001"] {
            assert!(matches!(trouble(code), Trouble::Secondary(_)), "{code}");
        }
    }

    #[test]
    fn schema_changes_are_repeated_without_concurrently() {
        for (sql, expected) in [
            ("CREATE UNIQUE INDEX concurrently i ON t (a)", "CREATE UNIQUE INDEX   i ON t (a)"),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p  "),
            ("alter table t detach partition finalize  Finalize; ", "alter table t detach partition finalize "),
            ("ALTER TABLE t DETACH PARTITION finalize", ""),
            ("CREATE INDEX \"CONCURRENTLY\" ON t (ü) /* CONCURRENTLY */", ""),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", ""),
        ] {
            assert_eq!(without_concurrently(sql), if expected.is_empty() { sql } else { expected });
        }
    }
}
