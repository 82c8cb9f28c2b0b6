//! What a statement is: the facts that a proxy needs, with names resolved by CQL's case rules and every value's place
//! in the text. [`super::parse::parse`] makes one; [`super::schema`] joins it with a table's description.
//!
//! What the grammar does not explain is [`Body::Unknown`] and counts as a write: the server judges it, and what it
//! accepts must not be missed.

use super::expr::{Expr, Function};
use super::token::Span;

/// One request's text, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// What it does.
    pub body: Body,
    /// Its bind markers in order of appearance, which is how Cassandra numbers them, named or not. Empty if unknown.
    pub markers: Vec<Marker>,
    /// Every function call in it, in order of appearance, nested ones after those around them.
    pub calls: Vec<Call>,
}

/// A bind marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// `?`, or `:name`.
    pub span: Span,
    /// The name, case rules applied. A name used twice is two markers.
    pub name: Option<String>,
}

/// A function's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// From the name, its keyspace included, to the closing parenthesis.
    pub span: Span,
    /// The function's own name in the text.
    pub name_span: Span,
    /// What is called.
    pub function: Function,
    /// How many arguments it is given.
    pub arguments: usize,
}

/// What a statement does.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// `SELECT`.
    Select(Select),
    /// `INSERT`, `UPDATE`, `DELETE`.
    Modify(Modification),
    /// `BEGIN BATCH ... APPLY BATCH`.
    Batch(Batch),
    /// `TRUNCATE`.
    Truncate(Name),
    /// `USE`: the keyspace.
    Use(String),
    /// `CREATE`, `ALTER`, `DROP` of what a schema is made of.
    Schema(Schema),
    /// Roles, users, identities, grants.
    Access(Access),
    /// `LIST ROLES`, `LIST USERS`, `LIST ... PERMISSIONS`.
    List,
    /// `DESCRIBE`.
    Describe,
    /// `DESCRIBE CLUSTER`.
    DescribeCluster,
    /// Not understood: to be treated as a write.
    Unknown(Unknown),
}

/// What a statement does, coarsely: how a proxy routes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `SELECT`, and nothing else.
    Read,
    /// Changes rows; what is not understood is one of these.
    Write,
    /// Changes a schema.
    Schema,
    /// Empties a table.
    Truncate,
    /// Changes the session's keyspace.
    Use,
    /// Changes roles or permissions: noted, not mirrored.
    Access,
    /// Asks the server about itself: `LIST`, `DESCRIBE`.
    Inquiry,
}

impl Class {
    /// It is mirrored, where anything is.
    pub fn writes(self) -> bool {
        matches!(self, Class::Write | Class::Schema | Class::Truncate)
    }
}

impl Statement {
    /// How to route it.
    pub fn class(&self) -> Class {
        match &self.body {
            Body::Select(_) => Class::Read,
            Body::Modify(_) | Body::Batch(_) | Body::Unknown(_) => Class::Write,
            Body::Schema(_) => Class::Schema,
            Body::Truncate(_) => Class::Truncate,
            Body::Use(_) => Class::Use,
            Body::Access(_) => Class::Access,
            Body::List | Body::Describe | Body::DescribeCluster => Class::Inquiry,
        }
    }

    /// Its modifications: one, those of a batch, or none.
    pub fn modifications(&self) -> &[Modification] {
        match &self.body {
            Body::Modify(one) => std::slice::from_ref(one),
            Body::Batch(batch) => &batch.statements,
            _ => &[],
        }
    }

    /// Whether Paxos decides it: a modification with an `IF`, or a batch with one in it.
    pub fn is_conditional(&self) -> bool {
        self.modifications().iter().any(|modification| modification.condition.is_some())
    }

    /// `USING` of the statement, or of the batch as a whole.
    pub fn using(&self) -> Option<&Using> {
        match &self.body {
            Body::Modify(one) => Some(&one.using),
            Body::Batch(batch) => Some(&batch.using),
            _ => None,
        }
    }
}

/// A table, view, index, type or function as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The keyspace, if the statement names one; else the session's, or the request's, is meant.
    pub keyspace: Option<String>,
    /// Its own name.
    pub name: String,
}

impl Name {
    /// The keyspace that is meant when the session is in `session`.
    pub fn keyspace_or<'n>(&'n self, session: Option<&'n str>) -> Option<&'n str> {
        self.keyspace.as_deref().or(session)
    }
}

/// `SELECT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// `SELECT JSON`.
    pub json: bool,
    /// `SELECT DISTINCT`.
    pub distinct: bool,
    /// What is selected; `None` for `*`.
    pub selectors: Option<Vec<Selector>>,
    /// Where from.
    pub table: Name,
    /// `WHERE`.
    pub relations: Vec<Relation>,
    /// `GROUP BY`.
    pub groups: Vec<Expr>,
    /// `ORDER BY`.
    pub orders: Vec<Order>,
    /// `PER PARTITION LIMIT`.
    pub per_partition_limit: Option<Expr>,
    /// `LIMIT`.
    pub limit: Option<Expr>,
    /// `ALLOW FILTERING`.
    pub allow_filtering: bool,
}

/// One thing selected.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// What.
    pub expr: Expr,
    /// `AS alias`.
    pub alias: Option<String>,
}

/// One part of `ORDER BY`.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// By what.
    pub column: String,
    /// `ANN OF` this vector.
    pub nearest: Option<Expr>,
    /// `DESC`.
    pub descending: bool,
}

/// One relation of `WHERE`, or one condition of `IF`.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation {
    /// What is restricted.
    pub left: Restricted,
    /// How.
    pub operator: Operator,
    /// To what.
    pub right: Operand,
}

/// What a relation restricts.
#[derive(Clone, Debug, PartialEq)]
pub enum Restricted {
    /// `c`.
    Column(String),
    /// `c[x]`.
    Element(String, Expr),
    /// `c.field`; in conditions only.
    Field(String, String),
    /// `(a, b)`.
    Columns(Vec<String>),
    /// `token(a, b)`.
    Token(Vec<String>),
    /// `expr(index, ..)`.
    Index(Name),
}

/// How a relation compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`.
    Eq,
    /// `!=`.
    NotEq,
    /// `<`, `<=`, `>`, `>=`, `BETWEEN`: a range.
    Range,
    /// `IN`.
    In,
    /// `CONTAINS`, `CONTAINS KEY`.
    Contains,
    /// `LIKE`, `IS NOT NULL`, `NOT IN`, a custom index: never names rows.
    Other,
}

/// What a relation compares with.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// One value: `= x`, and `IN ?` with a marker that stands for the whole list.
    One(Expr),
    /// `IN (x, y)`.
    Many(Vec<Expr>),
    /// `IS NOT NULL`.
    Nothing,
}

/// Which statement a modification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `INSERT`, by columns or `JSON`.
    Insert,
    /// `UPDATE`.
    Update,
    /// `DELETE`.
    Delete,
}

/// `INSERT`, `UPDATE` or `DELETE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Modification {
    /// Which.
    pub verb: Verb,
    /// Its text, without a `;`.
    pub span: Span,
    /// The table.
    pub table: Name,
    /// Where its name begins.
    pub table_at: usize,
    /// Where `USING` could be added: the place behind the table's name (`UPDATE`, `DELETE`) or at the end (`INSERT`).
    pub using_at: usize,
    /// `USING`.
    pub using: Using,
    /// What is assigned or deleted, in order. For an `INSERT` all its columns, those of the key as well; empty for
    /// `INSERT JSON` and for a `DELETE` of rows.
    pub assignments: Vec<Assignment>,
    /// `INSERT JSON`.
    pub json: Option<Json>,
    /// `WHERE`; empty for an `INSERT`.
    pub relations: Vec<Relation>,
    /// `IF`: a lightweight transaction.
    pub condition: Option<Condition>,
    /// The whole `IF` clause, if there is one.
    pub condition_span: Option<Span>,
}

/// `USING TIMESTAMP x AND TTL y`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Using {
    /// The whole clause, if there is one.
    pub span: Option<Span>,
    /// A literal or a marker: microseconds.
    pub timestamp: Option<Expr>,
    /// A literal or a marker: seconds.
    pub ttl: Option<Expr>,
}

/// The document of `INSERT JSON`.
#[derive(Clone, Debug, PartialEq)]
pub struct Json {
    /// A string or a marker.
    pub document: Expr,
    /// `DEFAULT UNSET`: columns that the document lacks stay as they are, else they become null.
    pub default_unset: bool,
}

/// A column and what happens to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The column.
    pub column: String,
    /// What happens.
    pub operation: Operation,
}

/// What happens to a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// `c = x`, and an `INSERT`'s value.
    Set(Expr),
    /// `c = c + x`, `c += x`, `c = c -1` (an integer with its sign): append, add, increment.
    Add(Expr),
    /// `c = x + c`: prepend.
    Prepend(Expr),
    /// `c = c - x`, `c -= x`: remove, decrement.
    Subtract(Expr),
    /// `c[at] = x`.
    SetElement(Expr, Expr),
    /// `c.field = x`.
    SetField(String, Expr),
    /// `DELETE c`.
    Delete,
    /// `DELETE c[at]`.
    DeleteElement(Expr),
    /// `DELETE c.field`.
    DeleteField(String),
}

/// `IF` of a modification.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `IF EXISTS`.
    Exists,
    /// `IF NOT EXISTS`.
    NotExists,
    /// `IF c = x AND ...`.
    Columns(Vec<Relation>),
}

/// A batch written as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its guarantee.
    pub kind: BatchKind,
    /// `USING` of all its statements.
    pub using: Using,
    /// Its statements; it may have none.
    pub statements: Vec<Modification>,
}

/// What a batch guarantees. The same for batches as text and as frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchKind {
    /// All or nothing.
    Logged,
    /// Each partition by itself.
    Unlogged,
    /// Of counters.
    Counter,
}

/// A statement that changes a schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// What is done.
    pub action: Action,
    /// To what kind of thing.
    pub object: Object,
    /// Its name; for a keyspace both parts are the keyspace. An index may be created without one.
    pub name: Option<Name>,
    /// The table of an index or a trigger, the base table of a view that is created.
    pub table: Option<Name>,
    /// `IF EXISTS`, `IF NOT EXISTS`, `OR REPLACE`: may be repeated.
    pub tolerant: bool,
    /// `ALTER TABLE .. DROP ..`.
    pub drop: Option<ColumnDrop>,
    /// The columns of `ALTER TABLE .. ADD ..`.
    pub add: Vec<String>,
    /// `ALTER TABLE .. RENAME ..`.
    pub renames: bool,
}

impl Schema {
    /// `ALTER TABLE` of what no row needs: options, masks.
    pub fn is_of_options(&self) -> bool {
        let is_of_columns = self.drop.is_some() || !self.add.is_empty() || self.renames;
        (self.action, self.object) == (Action::Alter, Object::Table) && !is_of_columns
    }
}

/// `CREATE`, `ALTER`, `DROP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words themselves")]
pub enum Action {
    Create,
    Alter,
    Drop,
}

/// What a schema is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words themselves")]
pub enum Object {
    Keyspace,
    Table,
    Type,
    Index,
    View,
    Function,
    Aggregate,
    Trigger,
}

/// Columns that `ALTER TABLE` drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDrop {
    /// Their names.
    pub columns: Vec<String>,
    /// `USING TIMESTAMP n`, if it is there.
    pub using: Option<Span>,
    /// Where it would be.
    pub using_at: usize,
}

/// A statement about who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `CREATE ROLE`, `CREATE USER`.
    CreateRole,
    /// `ALTER ROLE`, `ALTER USER`.
    AlterRole,
    /// `DROP ROLE`, `DROP USER`.
    DropRole,
    /// `ADD IDENTITY`, `DROP IDENTITY`.
    Identity,
    /// `GRANT`.
    Grant,
    /// `REVOKE`.
    Revoke,
}

/// Where and why a text was not understood. Carries no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The byte at which it could not go on.
    pub at: usize,
    /// What would have been understood there.
    pub expected: &'static str,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "not understood at byte {}: expected {}; treated as a write", self.at, self.expected)
    }
}
