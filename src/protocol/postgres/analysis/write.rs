//! INSERT, UPDATE and DELETE: evident keys where the text has them, a hidden RETURNING where it does not.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExprKind, BoolExprType, ColumnRef, DeleteStmt, IndexElem, InsertStmt, Node, OnConflictAction, OnConflictClause,
    OverridingKind, RangeVar, ResTarget, ReturningClause, SelectStmt, UpdateStmt, WithClause,
};

use super::super::catalog::{Catalog, Column, Events, Kind, Relation};
use super::super::key::Form;
use super::super::plan::{Action, Asked, Counted, Evident, EvidentKey, Meant, Operand};
use super::ask::Question;
use super::operand::string;
use super::reach::{MADE, Reach};
use super::target::{Named, TEMPORARY, Target, holders, key_names, labels, same_key, with_children, with_roots};
use super::{Scope, evident};
use crate::record::TableId;

/// A target with more leaves is asked instead of owing a key in each.
const LEAVES_MAX: usize = 16;

/// More combinations of `IN` lists are asked instead.
const ROWS_MAX: usize = 4096;

/// The operands that a row is known by: column name and value.
type Row = Vec<(String, Operand)>;

/// What one or several writes of a statement concern.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    keys: Vec<EvidentKey>,
    ask: Option<Asked>,
    /// The keys alone do not suffice.
    must_ask: bool,
    /// More than one write: a hidden RETURNING cannot answer for all.
    several: bool,
    dirty: Vec<TableId>,
    /// Why tables are dirty.
    unknown: Option<String>,
    /// Why hidden writes must be counted.
    counted: Option<String>,
    /// Foreign keys act on rows of other tables: the payment finds those by the keys that it is given.
    acts: bool,
    /// It is not given them.
    keyless: bool,
    opaque: bool,
    /// What the target's name means.
    meant: Meant,
}

impl Outcome {
    /// Hidden writes must be counted.
    pub(super) fn counted(why: impl Into<String>) -> Outcome {
        Outcome { counted: Some(why.into()), ..Outcome::default() }
    }

    /// These tables change and nobody knows where.
    pub(super) fn dirty(tables: Vec<TableId>, why: impl Into<String>) -> Outcome {
        Outcome { dirty: tables, unknown: Some(why.into()), ..Outcome::default() }
    }

    /// The server must be asked.
    pub(super) fn asked(asked: Asked) -> Outcome {
        Outcome { ask: Some(asked), must_ask: true, ..Outcome::default() }
    }

    /// With what may be written behind its back where this happens to rows of these tables. `moved`: foreign keys may act.
    pub(super) fn behind(mut self, catalog: &Catalog, named: &Named, events: Events, moved: bool) -> Outcome {
        self.counted = self.counted.or_else(|| named.counted(catalog, events, moved));
        self.acts |= moved && !named.reached(catalog).is_empty();
        self.keyless |= !self.dirty.is_empty();
        self.meant = named.meant();
        self
    }

    /// The server cannot be asked here (a CTE, EXPLAIN, COPY): what is not evident is dirty.
    pub(super) fn without_answer(mut self) -> Outcome {
        if let Some(asked) = self.ask.take().filter(|_| self.must_ask) {
            self.dirty.extend(asked.tables);
            self.unknown.get_or_insert_with(|| "a write whose keys cannot be asked for".to_owned());
            self.keyless = true;
        }
        self.must_ask = false;
        self
    }

    /// Another write of the same statement. At most one of the two may need the server's answer.
    pub(super) fn merge(&mut self, other: Outcome) {
        self.keys.extend(other.keys);
        self.ask = self.ask.take().or(other.ask);
        self.must_ask |= other.must_ask;
        self.dirty.extend(other.dirty);
        self.unknown = self.unknown.take().or(other.unknown);
        self.counted = self.counted.take().or(other.counted);
        self.acts |= other.acts;
        self.keyless |= other.keyless;
        self.opaque |= other.opaque;
        self.several = true;
        if (&self.meant, &other.meant) != (&Meant::Tables, &Meant::Tables) {
            self.meant = Meant::Others;
        }
    }

    /// What the session must do.
    pub(super) fn finish(mut self, reach: Reach) -> Action {
        self.dirty.sort();
        self.dirty.dedup();
        let reach = reach.why();
        let alone = self.counted.is_none() && reach.is_none() && !(self.acts && self.keyless);
        let counted = self.counted.or(self.unknown).or(reach);
        let counted = counted.map(|why| Counted { dirty: self.dirty, why, alone });
        if self.opaque {
            return Action::Opaque(counted.unwrap_or_default());
        }
        match self.ask {
            Some(asked) if self.must_ask => Action::Asked(Asked { also: self.keys, counted, ..asked }),
            ask if !self.keys.is_empty() => {
                let fallback = ask.filter(|_| !self.several);
                let fallback = fallback.map(|ask| Box::new(Asked { counted: counted.clone(), ..ask }));
                Action::Evident(Evident { keys: self.keys, counted, fallback, meant: self.meant })
            }
            _ => counted.map_or(Action::Pass, Action::Counted),
        }
    }
}

/// What a write does to its target, beside the rows that it names.
struct Write<'a> {
    name: &'a RangeVar,
    returning: Option<&'a ReturningClause>,
    /// Columns that it assigns in rows that exist.
    assigned: Vec<&'a str>,
    /// Those of them that may get another value: see [`anew`].
    anew: Vec<&'a str>,
    deletes: bool,
    inserts: bool,
    updates: bool,
    /// Rows of children are written too.
    below: bool,
}

impl Scope<'_> {
    pub(super) fn write(&mut self, node: &NodeEnum) -> Action {
        let reach = Reach::of(self);
        self.outcome(node).map_or_else(|| evident(Vec::new(), None), |outcome| outcome.finish(reach))
    }

    /// What a write concerns; `None`: not a write.
    pub(super) fn outcome(&mut self, node: &NodeEnum) -> Option<Outcome> {
        match node {
            NodeEnum::InsertStmt(insert) => Some(self.insert(insert)),
            NodeEnum::UpdateStmt(update) => Some(self.update(update)),
            NodeEnum::DeleteStmt(delete) => Some(self.delete(delete)),
            NodeEnum::MergeStmt(merge) => Some(self.merge(merge)),
            _ => None,
        }
    }

    /// The outcome together with what the statement's CTEs write.
    pub(super) fn with(&mut self, with: Option<&WithClause>, mut outcome: Outcome) -> Outcome {
        if let Some(inner) = self.with_writes(with) {
            outcome.merge(inner);
        }
        outcome
    }

    fn insert(&mut self, insert: &InsertStmt) -> Outcome {
        let Some(name) = insert.relation.as_ref() else { return Outcome::counted("an INSERT without target") };
        let conflict = insert.on_conflict_clause.as_deref();
        let updates = conflict.filter(|clause| clause.action == OnConflictAction::OnconflictUpdate as i32);
        let write = Write {
            name,
            returning: insert.returning_clause.as_ref(),
            assigned: updates.map(|clause| assigned(&clause.target_list)).unwrap_or_default(),
            anew: updates.map(anew).unwrap_or_default(),
            deletes: false,
            inserts: true,
            updates: updates.is_some(),
            below: false,
        };
        let overriding = insert.r#override == OverridingKind::OverridingUserValue as i32;
        let values = if overriding { None } else { values(insert) };
        let outcome = self.rows_written(&write, |scope, table| {
            let below = holders(scope.catalog, table, false);
            let on_key = |clause| conflicts_on_key(clause, table) && below.iter().all(|leaf| same_key(table, leaf));
            if !updates.is_none_or(on_key) {
                return None;
            }
            scope.inserted(insert, values?, table)
        });
        let select = insert.select_stmt.as_deref().and_then(|node| match node.node.as_ref() {
            Some(NodeEnum::SelectStmt(select)) => select.with_clause.as_ref(),
            _ => None,
        });
        let outcome = self.with(select, outcome);
        self.with(insert.with_clause.as_ref(), outcome)
    }

    fn inserted(&self, insert: &InsertStmt, values: &SelectStmt, table: &Arc<Relation>) -> Option<Vec<Row>> {
        let names: Vec<Option<&str>> = if insert.cols.is_empty() {
            table.columns.iter().map(|column| Some(column.name.as_str())).collect()
        } else {
            insert.cols.iter().map(plain_target).collect()
        };
        let keys = self.all_key_names(table);
        values
            .values_lists
            .iter()
            .map(|list| {
                let Some(NodeEnum::List(list)) = list.node.as_ref() else { return None };
                // It becomes columns of its own, and what stands behind it moves on.
                if list.items.iter().any(is_whole_row) {
                    return None;
                }
                let row = names.iter().zip(&list.items).filter_map(|(name, node)| Some(((*name)?, node)));
                let row = row.filter(|(name, _)| keys.iter().any(|key| key == name));
                row.map(|(name, node)| Some((name.to_owned(), self.operand(node)?))).collect()
            })
            .collect()
    }

    fn update(&mut self, update: &UpdateStmt) -> Outcome {
        let Some(name) = update.relation.as_ref() else { return Outcome::counted("an UPDATE without target") };
        let write = Write {
            name,
            returning: update.returning_clause.as_ref(),
            assigned: assigned(&update.target_list),
            anew: assigned(&update.target_list),
            deletes: false,
            inserts: false,
            updates: true,
            below: name.inh,
        };
        let condition = update.where_clause.as_deref();
        let mut outcome = self.rows_written(&write, |scope, table| {
            let old = scope.pinned(condition, name, table)?;
            let new = scope.moved_to(&old, &update.target_list, table)?;
            Some(old.into_iter().chain(new).collect())
        });
        // Before 18 the server returns new keys only: the old ones must be in the text.
        if outcome.must_ask && !self.returns_old() && self.rekeys(&write) {
            let Write { name, .. } = write;
            let plain =
                Write { name, returning: None, assigned: Vec::new(), anew: Vec::new(), updates: false, ..write };
            let old = self.rows_written(&plain, |scope, table| scope.pinned(condition, name, table));
            if old.must_ask || old.keys.is_empty() {
                outcome = outcome.without_answer();
            } else {
                outcome.keys = old.keys.into_iter().map(|key| EvidentKey { moved: true, ..key }).collect();
            }
        }
        self.with(update.with_clause.as_ref(), outcome)
    }

    fn delete(&mut self, delete: &DeleteStmt) -> Outcome {
        let Some(name) = delete.relation.as_ref() else { return Outcome::counted("a DELETE without target") };
        let write = Write {
            name,
            returning: delete.returning_clause.as_ref(),
            assigned: Vec::new(),
            anew: Vec::new(),
            deletes: true,
            inserts: false,
            updates: false,
            below: name.inh,
        };
        let condition = delete.where_clause.as_deref();
        let outcome = self.rows_written(&write, |scope, table| scope.pinned(condition, name, table));
        self.with(delete.with_clause.as_ref(), outcome)
    }

    pub(super) fn returns_old(&self) -> bool {
        self.catalog.version >= 180_000
    }

    /// The write can give a row another key, or move it to another leaf.
    fn rekeys(&self, write: &Write<'_>) -> bool {
        let Target::Known(named) = Target::of(self.catalog, write.name) else { return false };
        named.tables.iter().any(|table| self.rekeys_table(write, table))
    }

    fn rekeys_table(&self, write: &Write<'_>, table: &Arc<Relation>) -> bool {
        let holders = holders(self.catalog, table, write.below);
        // A BEFORE UPDATE trigger may assign the key, whatever SET says.
        let trigger = write.updates && holders.iter().any(|holder| holder.hazards.before_update);
        // An index that takes for equal what is not may have met another key.
        let loose = table.hazards.loose || holders.iter().any(|holder| holder.hazards.loose);
        let set = if loose { &write.assigned } else { &write.anew };
        let moves = table.kind == Kind::Partitioned && changes_leaf(set, table);
        moves || trigger || holders.iter().any(|holder| assigns_key(set, holder))
    }

    /// What the transaction has made may change which rows a write to the table concerns.
    pub(super) fn is_altered(&self, table: &Arc<Relation>) -> bool {
        self.made.any() && with_children(self.catalog, table).iter().any(|part| self.made.alters(part))
    }

    /// The columns that others refer to are assigned.
    fn assigns_referenced(&self, write: &Write<'_>, table: &Arc<Relation>) -> bool {
        let mut all = holders(self.catalog, table, write.below);
        all.push(table.clone());
        assigns_referenced(self.catalog, &write.assigned, &all)
    }

    /// The heart of it: for each table that the name could mean, the rows that the text names, else what the server
    /// must be asked, else a dirty mark.
    fn rows_written(&self, write: &Write<'_>, rows: impl Fn(&Self, &Arc<Relation>) -> Option<Vec<Row>>) -> Outcome {
        let named = match Target::of(self.catalog, write.name) {
            Target::Temporary => return Outcome::counted(TEMPORARY),
            Target::System => return Outcome { opaque: true, ..Outcome::counted("a system catalog is written") },
            Target::Unknown => return Outcome::counted(format!("unknown table {}", write.name.relname)),
            // Its rows may get other keys, and a RETURNING may fail: the server counts.
            Target::Known(named) if named.tables.iter().any(|table| self.is_altered(table)) => {
                return Outcome::counted(MADE);
            }
            Target::Known(named) => named,
        };
        let mut outcome = Outcome { dirty: labels(&named.behind), ..Outcome::default() };
        let mut unknown = Vec::new();
        for table in &named.tables {
            match self.evident_keys(write, table, &rows) {
                Some(keys) => outcome.keys.extend(keys),
                None => unknown.extend(holders(self.catalog, table, write.below)),
            }
        }
        self.ask_or_dirty(write, &named, unknown, &mut outcome);
        let events = Events::INSERT.only_if(write.inserts)
            | Events::UPDATE.only_if(write.updates)
            | Events::DELETE.only_if(write.deletes);
        let moved = write.deletes || named.tables.iter().any(|table| self.moves(write, table));
        outcome.behind(self.catalog, &named, events, moved || write.updates && !named.are_tables())
    }

    /// An UPDATE may give rows other keys, or other values that are referred to.
    fn moves(&self, write: &Write<'_>, table: &Arc<Relation>) -> bool {
        self.rekeys_table(write, table) || self.assigns_referenced(write, table)
    }

    fn evident_keys(
        &self,
        write: &Write<'_>,
        table: &Arc<Relation>,
        rows: &impl Fn(&Self, &Arc<Relation>) -> Option<Vec<Row>>,
    ) -> Option<Vec<EvidentKey>> {
        let holders = holders(self.catalog, table, write.below);
        // A row that goes to another leaf is inserted there, and what fires before that may give it another key.
        let goes = write.updates && table.kind == Kind::Partitioned && self.rekeys_table(write, table);
        let inserts = write.inserts || goes;
        if holders.len() > LEAVES_MAX || !holders.iter().all(|holder| can_be_evident(write, inserts, holder)) {
            return None;
        }
        // A row that changes its leaf leaves its key behind in the old one; all leaves are owed, so that is covered.
        let moved = write.deletes || self.moves(write, table);
        let rows = rows(self, table)?;
        let mut keys = Vec::new();
        for group in groups(&holders) {
            for row in &rows {
                let columns =
                    key_names(group.first()?).iter().map(|name| value_of(row, name)).collect::<Option<_>>()?;
                keys.push(EvidentKey { tables: group.clone(), columns, moved });
            }
        }
        (keys.len() <= ROWS_MAX.max(rows.len())).then_some(keys)
    }

    /// A hidden RETURNING is prepared even where all keys are evident, for the value that does not parse.
    fn ask_or_dirty(&self, write: &Write<'_>, named: &Named, unknown: Vec<Arc<Relation>>, outcome: &mut Outcome) {
        let all: Vec<_> = named.tables.iter().flat_map(|table| holders(self.catalog, table, write.below)).collect();
        let rekeys = write.updates && self.rekeys(write);
        let moved = write.deletes || rekeys || named.tables.iter().any(|table| self.assigns_referenced(write, table));
        let question =
            Question { name: write.name, returning: write.returning, rekeys: rekeys && self.returns_old(), moved };
        // A view of that name has no tableoid. Before 18 only UPDATE finds old keys elsewhere.
        let answers = named.are_tables() && (!rekeys || self.returns_old() || !write.inserts);
        let ask = answers.then(|| question.suffix(self, &named.tables, &all)).flatten();
        if unknown.is_empty() {
            // A fallback that cannot tell old keys is none.
            outcome.ask = ask.filter(|_| !rekeys || self.returns_old());
            return;
        }
        match ask {
            Some(asked) => {
                outcome.keys.clear(); // The answer names them all.
                outcome.ask = Some(asked);
                outcome.must_ask = true;
            }
            None => {
                outcome.dirty.extend(labels(&unknown));
                outcome.unknown.get_or_insert_with(|| cannot_ask(&named.tables, &unknown));
            }
        }
    }

    /// The rows that top-level equalities of a WHERE pin for this table's key; `None`: not all key columns.
    fn pinned(&self, condition: Option<&Node>, name: &RangeVar, table: &Arc<Relation>) -> Option<Vec<Row>> {
        if self.catalog.user_operators.contains("=") {
            return None;
        }
        let keys = self.all_key_names(table);
        let mut pins: Vec<(String, Vec<Operand>)> = Vec::new();
        let mut tuples: Vec<Vec<Row>> = Vec::new();
        let target = Pinning { scope: self, name, table, keys: &keys };
        target.collect(condition?, &mut pins, &mut tuples);
        let mut rows: Vec<Row> = vec![Vec::new()];
        for (column, values) in pins {
            rows = product(&rows, values.into_iter().map(|value| vec![(column.clone(), value)]).collect())?;
        }
        for tuple in tuples {
            // No row: an empty list, which nothing equals.
            let Some(known) = rows.first() else { break };
            if tuple.first()?.iter().any(|(name, _)| value_of(known, name).is_none()) {
                rows = product(&rows, tuple)?;
            }
        }
        Some(rows)
    }

    /// Key columns of the table and of everything that holds its rows.
    fn all_key_names(&self, table: &Arc<Relation>) -> Vec<String> {
        let holders = holders(self.catalog, table, true);
        let mut names: Vec<String> =
            holders.iter().flat_map(|holder| key_names(holder)).chain(key_names(table)).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The keys that re-keyed rows get; empty where no key column is assigned; `None`: not a constant.
    fn moved_to(&self, old: &[Row], list: &[Node], table: &Arc<Relation>) -> Option<Vec<Row>> {
        let all = holders(self.catalog, table, true);
        if all.iter().flat_map(|holder| holder.key_columns()).any(|column| column.generated) {
            return None;
        }
        let keys = self.all_key_names(table);
        let mut new = Row::new();
        for node in list {
            let Some(NodeEnum::ResTarget(target)) = node.node.as_ref() else { return None };
            if keys.contains(&target.name) {
                plain_target(node)?;
                new.push((target.name.clone(), self.operand(target.val.as_deref()?)?));
            }
        }
        if new.is_empty() {
            return Some(Vec::new());
        }
        let replaced = old.iter().map(|row| {
            let kept = row.iter().filter(|(name, _)| value_of(&new, name).is_none());
            kept.chain(&new).cloned().collect()
        });
        Some(replaced.collect())
    }
}

fn product(rows: &[Row], more: Vec<Row>) -> Option<Vec<Row>> {
    if rows.len().checked_mul(more.len())? > ROWS_MAX {
        return None;
    }
    Some(rows.iter().flat_map(|row| more.iter().map(move |extra| row.iter().chain(extra).cloned().collect())).collect())
}

fn value_of(row: &Row, name: &str) -> Option<Operand> {
    row.iter().find(|(column, _)| column == name).map(|(_, operand)| *operand)
}

/// Holders whose keys have the same columns and forms.
fn groups(holders: &[Arc<Relation>]) -> Vec<Vec<Arc<Relation>>> {
    let mut groups: Vec<Vec<Arc<Relation>>> = Vec::new();
    for holder in holders {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| same_key(first, holder))) {
            Some(group) => group.push(holder.clone()),
            None => groups.push(vec![holder.clone()]),
        }
    }
    groups
}

fn can_be_evident(write: &Write<'_>, inserts: bool, holder: &Relation) -> bool {
    let moved_by_trigger = (inserts && holder.hazards.before_insert) || (write.updates && holder.hazards.before_update);
    holder.key.is_some() && !moved_by_trigger && holder.key_columns().all(Form::evident)
}

/// Why the holders of rows of the tables that are named are not asked for their keys.
fn cannot_ask(named: &[Arc<Relation>], holders: &[Arc<Relation>]) -> String {
    let keyless = holders.iter().find(|holder| holder.key.is_none());
    let any = |is: fn(&Relation) -> bool| named.iter().chain(holders).find(|table| is(table));
    let because = |why: &str, table: &Relation| format!("{why} on {}.{}", table.schema, table.name);
    keyless
        .map(|table| because("no usable key", table))
        .or_else(|| any(|table| table.hazards.row_security).map(|table| because("row security", table)))
        .or_else(|| any(|table| table.hazards.rules).map(|table| because("rules", table)))
        .or_else(|| holders.first().map(|table| because("keys that cannot be asked for", table)))
        .unwrap_or_else(|| "no table".to_owned())
}

/// The VALUES of an INSERT, if that is all there is.
fn values(insert: &InsertStmt) -> Option<&SelectStmt> {
    match insert.select_stmt.as_deref()?.node.as_ref()? {
        NodeEnum::SelectStmt(select) if !select.values_lists.is_empty() => Some(select),
        _ => None,
    }
}

/// `(row).*`
fn is_whole_row(node: &Node) -> bool {
    let path = match node.node.as_ref() {
        Some(NodeEnum::AIndirection(part)) => &part.indirection,
        Some(NodeEnum::ColumnRef(reference)) => &reference.fields,
        _ => return false,
    };
    path.last().is_some_and(|last| matches!(last.node, Some(NodeEnum::AStar(_))))
}

/// The columns that a SET list assigns.
pub(super) fn assigned(list: &[Node]) -> Vec<&str> {
    list.iter()
        .filter_map(|node| match node.node.as_ref() {
            Some(NodeEnum::ResTarget(target)) => Some(target.name.as_str()),
            _ => None,
        })
        .collect()
}

/// The columns that ON CONFLICT DO UPDATE assigns, but for those of `(column) .. SET column = EXCLUDED.column`: the row that is
/// there has what was given, or there would be no conflict. Many ORMs assign all columns so.
fn anew(clause: &OnConflictClause) -> Vec<&str> {
    let by_default = |elem: &&IndexElem| elem.collation.is_empty() && elem.opclass.is_empty();
    let arbiters: Vec<&str> = arbiters(clause).filter(by_default).map(|elem| &*elem.name).collect();
    let is_given = |target: &ResTarget| {
        let given = target.val.as_deref().and_then(excluded);
        target.indirection.is_empty() && given == Some(&*target.name) && arbiters.contains(&&*target.name)
    };
    let targets = clause.target_list.iter().filter_map(|node| match node.node.as_ref() {
        Some(NodeEnum::ResTarget(target)) => Some(target),
        _ => None,
    });
    targets.filter(|target| !is_given(target)).map(|target| &*target.name).collect()
}

/// The columns that an ON CONFLICT names for its index.
fn arbiters(clause: &OnConflictClause) -> impl Iterator<Item = &IndexElem> {
    let elems = clause.infer.iter().flat_map(|infer| &infer.index_elems);
    elems.filter_map(|node| match node.node.as_ref() {
        Some(NodeEnum::IndexElem(elem)) if elem.expr.is_none() => Some(&**elem),
        _ => None,
    })
}

/// `EXCLUDED.column`
fn excluded(node: &Node) -> Option<&str> {
    let Some(NodeEnum::ColumnRef(reference)) = node.node.as_ref() else { return None };
    let [relation, column] = reference.fields.as_slice() else { return None };
    (string(relation)? == "excluded").then(|| string(column)).flatten()
}

/// An UPDATE that sets these may give the column another value: a generated one is computed from any others.
pub(super) fn assigns(set: &[&str], column: &Column) -> bool {
    set.contains(&column.name.as_str()) || column.generated && !set.is_empty()
}

/// Is one of them a column of these tables that others refer to?
pub(super) fn assigns_referenced(catalog: &Catalog, set: &[&str], tables: &[Arc<Relation>]) -> bool {
    let all: Vec<_> = tables.iter().flat_map(|table| with_roots(catalog, table)).collect();
    catalog.foreign_keys.iter().any(|reference| {
        all.iter().filter(|part| part.oid == reference.parent).any(|parent| {
            let mut columns = reference.parent_columns.iter().filter_map(|&at| parent.columns.get(at));
            columns.any(|column| assigns(set, column))
        })
    })
}

pub(super) fn assigns_key(set: &[&str], table: &Relation) -> bool {
    table.key_columns().any(|column| assigns(set, column))
}

/// An UPDATE of a partitioned table that sets these may take a row to another leaf: the table's own key contains its partition
/// columns; without one, any column may be one of them.
pub(super) fn changes_leaf(set: &[&str], root: &Relation) -> bool {
    if root.key.is_none() { !set.is_empty() } else { assigns_key(set, root) }
}

/// A target column without subscript or field.
fn plain_target(node: &Node) -> Option<&str> {
    match node.node.as_ref() {
        Some(NodeEnum::ResTarget(target)) if target.indirection.is_empty() => Some(&target.name),
        _ => None,
    }
}

/// ON CONFLICT (key) DO UPDATE that leaves the key alone: the row that is there has the key that was given. Columns
/// alone mean every unique index over them, whatever it compares by.
fn conflicts_on_key(clause: &OnConflictClause, table: &Relation) -> bool {
    let keys = key_names(table);
    let Some(infer) = clause.infer.as_deref() else { return false };
    let by_name = table.key.as_ref().is_some_and(|key| key.name == infer.conname);
    let mut columns: Vec<&str> = arbiters(clause).map(|elem| &*elem.name).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut wanted = keys.clone();
    wanted.sort_unstable();
    let by_columns = infer.conname.is_empty() && columns == wanted && infer.where_clause.is_none();
    let kept = !assigns_key(&anew(clause), table);
    (by_name || by_columns) && kept && !table.hazards.before_update && !table.hazards.loose
}

/// Looks for pins of one table's key in a WHERE.
struct Pinning<'a, 'b> {
    scope: &'a Scope<'b>,
    name: &'a RangeVar,
    table: &'a Arc<Relation>,
    keys: &'a [String],
}

impl Pinning<'_, '_> {
    fn collect(&self, node: &Node, pins: &mut Vec<(String, Vec<Operand>)>, tuples: &mut Vec<Vec<Row>>) {
        match node.node.as_ref() {
            Some(NodeEnum::BoolExpr(all)) if all.boolop == BoolExprType::AndExpr as i32 => {
                all.args.iter().for_each(|arg| self.collect(arg, pins, tuples));
            }
            Some(NodeEnum::AExpr(expr)) if equality(&expr.name) => {
                let (Some(left), Some(right)) = (expr.lexpr.as_deref(), expr.rexpr.as_deref()) else { return };
                if expr.kind == AExprKind::AexprOp as i32 {
                    self.equal(left, right, pins, tuples);
                } else if expr.kind == AExprKind::AexprIn as i32 {
                    self.within(left, right, pins, tuples);
                } else if expr.kind == AExprKind::AexprOpAny as i32 {
                    self.any(left, right, pins);
                }
            }
            _ => {}
        }
    }

    fn equal(&self, left: &Node, right: &Node, pins: &mut Vec<(String, Vec<Operand>)>, tuples: &mut Vec<Vec<Row>>) {
        if let (Some(names), Some(row)) = (self.columns(left), self.tuple(left, right)) {
            if row.len() == names.len() {
                tuples.push(vec![row]);
            }
            return;
        }
        for (column, value) in [(left, right), (right, left)] {
            if let (Some(column), Some(value)) = (self.key_column(column), self.scope.operand(value)) {
                add_pin(pins, column, vec![value]);
                return;
            }
        }
    }

    /// `column = ANY (array)`.
    fn any(&self, left: &Node, right: &Node, pins: &mut Vec<(String, Vec<Operand>)>) {
        let Some(column) = self.key_column(left) else { return };
        let values = match right.node.as_ref() {
            Some(node) if is_long(node) => return,
            Some(NodeEnum::AArrayExpr(list)) => list.elements.iter().map(|item| self.scope.operand(item)).collect(),
            _ => self.scope.elements(right).map(|operand| vec![operand]),
        };
        if let Some(values) = values {
            add_pin(pins, column, values);
        }
    }

    fn within(&self, left: &Node, right: &Node, pins: &mut Vec<(String, Vec<Operand>)>, tuples: &mut Vec<Vec<Row>>) {
        let Some(NodeEnum::List(list)) = right.node.as_ref().filter(|node| !is_long(node)) else { return };
        if let Some(column) = self.key_column(left) {
            if let Some(values) = list.items.iter().map(|item| self.scope.operand(item)).collect() {
                add_pin(pins, column, values);
            }
        } else if let Some(rows) = list.items.iter().map(|item| self.tuple(left, item)).collect() {
            tuples.push(rows);
        }
    }

    /// The key columns of `(a, b)`.
    fn columns(&self, node: &Node) -> Option<Vec<String>> {
        match node.node.as_ref()? {
            NodeEnum::RowExpr(row) => row.args.iter().map(|arg| self.key_column(arg)).collect(),
            _ => None,
        }
    }

    fn tuple(&self, left: &Node, right: &Node) -> Option<Row> {
        let names = self.columns(left)?;
        let NodeEnum::RowExpr(values) = right.node.as_ref()? else { return None };
        if values.args.len() != names.len() {
            return None;
        }
        names.into_iter().zip(&values.args).map(|(name, value)| Some((name, self.scope.operand(value)?))).collect()
    }

    /// A reference to a key column of the target.
    fn key_column(&self, node: &Node) -> Option<String> {
        let NodeEnum::ColumnRef(reference) = node.node.as_ref()? else { return None };
        let column = self.target_column(reference)?;
        self.keys.iter().find(|key| *key == column).cloned()
    }

    fn target_column<'c>(&self, reference: &'c ColumnRef) -> Option<&'c str> {
        let fields: Vec<&str> = reference.fields.iter().map(string).collect::<Option<_>>()?;
        let alias = self.name.alias.as_ref().map(|alias| alias.aliasname.as_str());
        match fields.as_slice() {
            [column] => Some(column),
            [table, column] => (*table == alias.unwrap_or(&self.name.relname)).then_some(*column),
            [schema, table, column] => {
                let same = alias.is_none() && *table == self.name.relname && *schema == self.table.schema;
                same.then_some(*column)
            }
            _ => None,
        }
    }
}

/// One pin of a column suffices; the shortest list is the best.
fn add_pin(pins: &mut Vec<(String, Vec<Operand>)>, column: String, values: Vec<Operand>) {
    match pins.iter_mut().find(|(pinned, _)| *pinned == column) {
        Some((_, known)) if known.len() > values.len() => *known = values,
        Some(_) => {}
        None => pins.push((column, values)),
    }
}

/// More alternatives than rows that would be evident.
fn is_long(list: &NodeEnum) -> bool {
    match list {
        NodeEnum::List(list) => list.items.len() > ROWS_MAX,
        NodeEnum::AArrayExpr(list) => list.elements.len() > ROWS_MAX,
        _ => false,
    }
}

fn equality(name: &[Node]) -> bool {
    let names: Vec<_> = name.iter().filter_map(string).collect();
    matches!(names.as_slice(), ["="] | ["pg_catalog", "="])
}
