//! A statement joined with its table: which partition it writes, which cells, and how a mirror must treat it.
//!
//! [`Table`] is what `system_schema.columns` says, given by the caller. Nothing here decides by values: an [`Effect`]
//! points at where they are (a bind marker's number, a literal's place), so it holds for every execution of a prepared
//! statement.

use super::expr::{Expr, Literal, Value};
use super::statement::{Body, Modification, Name, Operand, Operation, Operator, Restricted, Select, Statement, Verb};
use super::token::Span;

/// A table's columns, as far as writes are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its keyspace.
    pub keyspace: String,
    /// Its name.
    pub name: String,
    columns: Vec<Column>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, as the schema has it.
    pub name: String,
    /// Its part in the primary key.
    pub role: Role,
    /// What it is made of.
    pub cells: Cells,
    /// Its type, as `system_schema.columns` writes it.
    pub cql_type: String,
}

/// A column's part in the primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Partition key, by position.
    Partition(usize),
    /// Clustering column, by position.
    Clustering(usize),
    /// Once per partition.
    Static,
    /// Once per row.
    Regular,
}

/// What a column's value is made of: what happens when a write is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cells {
    /// One value: the newest wins. Frozen collections and tuples too.
    One,
    /// Adds up: a repeat counts twice.
    Counter,
    /// A list: its cells get names of the coordinator's making, so a repeat doubles them (CQL-CORNERS C2, C3).
    List,
    /// A set, a map or a user type: each element is a cell with a name of its own, and the newest wins.
    Elements,
}

impl Cells {
    /// It is made of several cells.
    pub fn has_parts(self) -> bool {
        matches!(self, Cells::List | Cells::Elements)
    }

    /// By a type's text in `system_schema.columns`.
    pub fn of(cql_type: &str) -> Cells {
        let name = cql_type.split('<').next().unwrap_or_default().trim();
        match name {
            "counter" => Cells::Counter,
            "list" => Cells::List,
            "set" | "map" => Cells::Elements,
            "frozen" | "tuple" | "vector" | "empty" => Cells::One,
            // A custom type's class, in quotes.
            _ if name.starts_with('\'') || super::keyword::is_native_type(name.as_bytes()) => Cells::One,
            // A user type that is not frozen.
            _ => Cells::Elements,
        }
    }
}

impl Column {
    /// From a row of `system_schema.columns`: `column_name`, `kind`, `position`, `type`.
    pub fn described(name: &str, kind: &str, position: i32, cql_type: &str) -> Column {
        let position = usize::try_from(position).unwrap_or_default();
        let role = match kind {
            "partition_key" => Role::Partition(position),
            "clustering" => Role::Clustering(position),
            "static" => Role::Static,
            _ => Role::Regular,
        };
        Column { name: name.to_owned(), role, cells: Cells::of(cql_type), cql_type: cql_type.to_owned() }
    }
}

impl Table {
    /// A table of these columns, in any order.
    pub fn new(keyspace: &str, name: &str, mut columns: Vec<Column>) -> Table {
        columns.sort_by_key(|column| match column.role {
            Role::Partition(position) => (0, position),
            Role::Clustering(position) => (1, position),
            Role::Static => (2, 0),
            Role::Regular => (3, 0),
        });
        Table { keyspace: keyspace.to_owned(), name: name.to_owned(), columns }
    }

    /// All columns: partition key, clustering, static, regular.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// By name, as the schema has it.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The partition key's columns in order.
    pub fn partition_key(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| matches!(column.role, Role::Partition(_)))
    }

    /// The clustering columns in order.
    pub fn clustering(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| matches!(column.role, Role::Clustering(_)))
    }

    /// Whether it counts: then it has no other columns beside its key.
    pub fn has_counters(&self) -> bool {
        self.columns.iter().any(|column| column.cells == Cells::Counter)
    }
}

impl Table {
    /// A column has a timestamp in it, or a user type, which may have one.
    pub fn may_hold_timestamps(&self) -> bool {
        let is_plain = |word: &str| {
            let is_of_others = ["frozen", "list", "set", "map", "tuple", "vector"].contains(&word);
            let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
            is_number || is_of_others || word != "timestamp" && super::keyword::is_native_type(word.as_bytes())
        };
        let mut types = self.columns.iter().map(|column| column.cql_type.as_str());
        !types.all(|of| of.split(|sign: char| !sign.is_alphanumeric() && sign != '_').all(is_plain))
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The bind marker of this number.
    Marker(usize),
    /// A constant: its kind and its bytes in the text.
    Literal(Literal, Span),
    /// `null`.
    Null,
    /// Something to be evaluated: a call, a collection, arithmetic.
    Computed(Span),
}

impl Expr {
    /// Where its value comes from; a type hint around it changes nothing.
    pub fn source(&self) -> Source {
        match &self.value {
            Value::Marker(number) => Source::Marker(*number),
            Value::Literal(literal) => Source::Literal(*literal, self.span),
            Value::Null => Source::Null,
            Value::Hint(_, inner) => inner.source(),
            _ => Source::Computed(self.span),
        }
    }
}

/// What a statement says of one column of the primary key.
#[derive(Clone, Debug, PartialEq)]
pub enum Given<'s> {
    /// One value.
    One(&'s Expr),
    /// `IN (x, y)`: any of them.
    AnyOf(&'s [Expr]),
    /// `IN ?`: a marker that is bound to a list of values.
    AnyOfList(&'s Expr),
    /// `(a, b) = ?`: the part of this number of a tuple that is bound as one.
    PartOf(&'s Expr, usize),
    /// `(a, b) IN ..`: several, tied to other columns.
    Several,
    /// A member of the document of `INSERT JSON`.
    InDocument,
    /// Bounded, or not mentioned.
    Open,
}

impl Given<'_> {
    /// Whether it is one value, whatever that is.
    pub fn is_one(&self) -> bool {
        matches!(self, Given::One(_) | Given::PartOf(..) | Given::InDocument)
    }

    fn is_open(&self) -> bool {
        matches!(self, Given::Open)
    }
}

/// How much of a table a modification reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Named columns of rows that are named in full; for an `INSERT` the row itself as well.
    Cells,
    /// Static columns only: no row is named.
    Statics,
    /// Whole rows, named in full.
    Rows,
    /// Rows between bounds.
    Range,
    /// The whole partition.
    Partition,
}

/// What happens to a list that is not frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListWrite {
    /// Overwritten: a repeat with the same timestamp doubles it, one above does not.
    Overwrite,
    /// Appended, prepended, an element set or removed: only its state can be mirrored.
    Change,
}

/// How a mirror brings a modification to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mirroring {
    /// The statement itself, with its timestamp, as often as needed.
    Replay,
    /// The statement itself, but a repeat goes one microsecond higher (CQL-CORNERS C2).
    ReplayRising,
    /// What it left behind is read and written: the statement changes a list (C3).
    ListState,
    /// What it left behind is read and the difference added: the table counts (H6).
    CounterState,
}

/// What a modification does to its table.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect<'s> {
    /// The partition key, a value per column in the key's order.
    pub key: Vec<Given<'s>>,
    /// The clustering columns in order.
    pub clustering: Vec<Given<'s>>,
    /// How far it reaches.
    pub extent: Extent,
    /// Whether a static column is written or deleted: all rows of the partition show it.
    pub statics: bool,
    /// Whether the table counts.
    pub counters: bool,
    /// Lists that are not frozen, and what happens to each. `INSERT JSON` names all that it may overwrite.
    pub lists: Vec<(&'s str, ListWrite)>,
    /// Whether Paxos decides it. In a batch, one such statement makes the whole batch conditional.
    pub conditional: bool,
}

impl<'s> Effect<'s> {
    /// What `modification` does to `table`, which must be the table that it names.
    pub fn of(modification: &'s Modification, table: &'s Table) -> Effect<'s> {
        let given = |column: &Column| given(modification, &column.name);
        let clustering: Vec<Given<'s>> = table.clustering().map(given).collect();
        let statics = written(modification, table).any(|column| column.role == Role::Static);
        Effect {
            key: table.partition_key().map(given).collect(),
            extent: extent(modification, &clustering),
            clustering,
            statics,
            counters: table.has_counters(),
            lists: lists(modification, table),
            conditional: modification.condition.is_some(),
        }
    }

    /// Whether it writes exactly one partition.
    pub fn is_pinned(&self) -> bool {
        !self.key.is_empty() && self.key.iter().all(Given::is_one)
    }

    /// Where the partition key's values come from, if it is pinned by values that are bound or written one by one.
    pub fn key_sources(&self) -> Option<Vec<Source>> {
        let one = |given: &Given<'_>| match given {
            Given::One(value) => Some(value.source()),
            _ => None,
        };
        self.key.iter().map(one).collect()
    }

    /// How a mirror brings it to the other side, conditions aside.
    pub fn mirroring(&self) -> Mirroring {
        match () {
            () if self.counters => Mirroring::CounterState,
            () if self.lists.iter().any(|(_, write)| *write == ListWrite::Change) => Mirroring::ListState,
            () if !self.lists.is_empty() => Mirroring::ReplayRising,
            () => Mirroring::Replay,
        }
    }
}

fn given<'s>(modification: &'s Modification, column: &str) -> Given<'s> {
    if modification.json.is_some() {
        return Given::InDocument;
    }
    if modification.verb == Verb::Insert {
        return modification
            .assignments
            .iter()
            .find_map(|assignment| match &assignment.operation {
                Operation::Set(value) if assignment.column == column => Some(Given::One(value)),
                _ => None,
            })
            .unwrap_or(Given::Open);
    }
    restricted(&modification.relations, column)
}

/// What the relations of a `WHERE` say of a column of the primary key.
pub fn restricted<'s>(relations: &'s [super::statement::Relation], column: &str) -> Given<'s> {
    relations.iter().find_map(|relation| restriction(relation, column)).unwrap_or(Given::Open)
}

/// What a relation gives a column; `None` if it is about others, or gives bounds only.
fn restriction<'s>(relation: &'s super::statement::Relation, column: &str) -> Option<Given<'s>> {
    match (&relation.left, relation.operator, &relation.right) {
        (Restricted::Column(name), operator, right) if name == column => match (operator, right) {
            (Operator::Eq, Operand::One(value)) => Some(Given::One(value)),
            (Operator::In, Operand::Many(values)) => Some(Given::AnyOf(values)),
            (Operator::In, Operand::One(list)) => Some(Given::AnyOfList(list)),
            _ => None,
        },
        (Restricted::Columns(names), operator, right) => {
            let index = names.iter().position(|name| name == column)?;
            match (operator, right) {
                (Operator::Eq, Operand::One(Expr { value: Value::Tuple(parts), .. })) => {
                    parts.get(index).map(Given::One)
                }
                (Operator::Eq, Operand::One(tuple)) => Some(Given::PartOf(tuple, index)),
                (Operator::In, _) => Some(Given::Several),
                _ => None,
            }
        }
        _ => None,
    }
}

fn extent(modification: &Modification, clustering: &[Given<'_>]) -> Extent {
    let named = clustering.iter().all(|given| !given.is_open());
    let open = clustering.iter().all(Given::is_open);
    let rows = modification.verb == Verb::Delete && modification.assignments.is_empty();
    match () {
        // Bounds of a range leave columns open, but are relations beyond the key's.
        () if rows && open && !bounds_rows(modification) => Extent::Partition,
        () if rows && named => Extent::Rows,
        () if rows => Extent::Range,
        () if named => Extent::Cells,
        () => Extent::Statics,
    }
}

/// Whether a relation gives bounds.
fn bounds_rows(modification: &Modification) -> bool {
    modification.relations.iter().any(|relation| !matches!(relation.operator, Operator::Eq | Operator::In))
}

/// The columns that a modification writes, as the table has them. All of them for `INSERT JSON`.
fn written<'s>(modification: &'s Modification, table: &'s Table) -> impl Iterator<Item = &'s Column> {
    let all = modification.json.is_some();
    let named = move |column: &&Column| modification.assignments.iter().any(|one| one.column == column.name);
    table.columns.iter().filter(move |column| all || named(column))
}

fn lists<'s>(modification: &'s Modification, table: &'s Table) -> Vec<(&'s str, ListWrite)> {
    if modification.json.is_some() {
        let lists = table.columns.iter().filter(|column| column.cells == Cells::List);
        return lists.map(|column| (column.name.as_str(), ListWrite::Overwrite)).collect();
    }
    let list = |name: &str| table.column(name).is_some_and(|column| column.cells == Cells::List);
    let listed = modification.assignments.iter().filter(|assignment| list(&assignment.column));
    listed.filter_map(|one| Some((one.column.as_str(), list_write(&one.operation)?))).collect()
}

/// `None` where nothing but a tombstone is left, which may be repeated.
fn list_write(operation: &Operation) -> Option<ListWrite> {
    match operation {
        Operation::Delete => None,
        Operation::Set(Expr { value: Value::Null, .. }) => None,
        Operation::Set(Expr { value: Value::List(items), .. }) if items.is_empty() => None,
        Operation::Set(_) => Some(ListWrite::Overwrite),
        _ => Some(ListWrite::Change),
    }
}

/// The markers that make the partition key, as a `PREPARED` answer's `pk_indexes` lists them: one per column in the
/// key's order, or none at all. The server counts markers whose value becomes the column's (through a hint, not through
/// a call), whatever the comparison, and of several the last; in a batch, if all of it is about one table.
pub fn pk_indexes(statement: &Statement, table: &Table) -> Vec<usize> {
    let direct = match &statement.body {
        Body::Select(Select { relations, .. }) => direct_markers(relations_of(relations)),
        _ if statement.modifications().iter().any(|one| !is_of(one, table)) => Vec::new(),
        _ => statement.modifications().iter().flat_map(markers_of).collect(),
    };
    let last = |column: &Column| direct.iter().rev().find(|(name, _)| *name == column.name).map(|(_, number)| *number);
    table.partition_key().map(last).collect::<Option<Vec<usize>>>().unwrap_or_default()
}

fn is_of(modification: &Modification, table: &Table) -> bool {
    let Name { keyspace, name } = &modification.table;
    *name == table.name && keyspace.as_ref().is_none_or(|keyspace| *keyspace == table.keyspace)
}

fn markers_of(modification: &Modification) -> Vec<(&str, usize)> {
    direct_markers(modification.assignments_set().chain(relations_of(&modification.relations)))
}

impl Modification {
    /// Columns and the values that are set as a whole.
    fn assignments_set(&self) -> impl Iterator<Item = (&str, &[Expr])> {
        self.assignments.iter().filter_map(|assignment| match &assignment.operation {
            Operation::Set(value) => Some((assignment.column.as_str(), std::slice::from_ref(value))),
            _ => None,
        })
    }
}

fn relations_of(relations: &[super::statement::Relation]) -> impl Iterator<Item = (&str, &[Expr])> {
    relations.iter().filter_map(|relation| match (&relation.left, &relation.right) {
        // A marker behind `IN` is a list.
        (Restricted::Column(_), Operand::One(_)) if relation.operator == Operator::In => None,
        (Restricted::Column(name), Operand::One(value)) => Some((name.as_str(), std::slice::from_ref(value))),
        (Restricted::Column(name), Operand::Many(values)) => Some((name.as_str(), values.as_slice())),
        _ => None,
    })
}

fn direct_markers<'s>(values: impl Iterator<Item = (&'s str, &'s [Expr])>) -> Vec<(&'s str, usize)> {
    let bound = |value: &Expr| match value.source() {
        Source::Marker(number) => Some(number),
        _ => None,
    };
    values.flat_map(|(name, all)| all.iter().filter_map(move |value| Some((name, bound(value)?)))).collect()
}

#[cfg(test)]
mod tests;
