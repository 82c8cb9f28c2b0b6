//! What a session must do with a statement: the result of analysis, cached by the statement's shape.
//!
//! A *shape* is the token sequence without the contents of literals: the grammar sees only token kinds, so statements
//! of one shape parse alike, and one plan serves them all. A plan therefore never holds an offset or a literal, only
//! indexes into the tokens of the text at hand.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use crate::record::TableId;

use super::catalog::Relation;

/// The plan of a whole Query text or Parse text.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its statements, in order; empty for an empty query.
    pub statements: Vec<Statement>,
    /// The catalog epoch it was made under.
    pub epoch: u64,
    /// The contents of literals had a say (COPY options, a text that does not parse): it serves this text only.
    pub exact: bool,
    /// Nobody could cut it into statements: the one that it has stands for all.
    pub whole: bool,
    /// It was made behind code of which the catalog does not know: it serves that transaction only.
    pub behind: bool,
}

/// One statement of a script.
#[derive(Clone, Debug)]
pub struct Statement {
    /// First and one-past-last token (whitespace, comments and the semicolon are outside).
    pub tokens: std::ops::Range<usize>,
    /// Highest `$n` used.
    pub params: u16,
    /// What a shadow read must know of a SELECT, VALUES or TABLE that writes nothing; `None`: it is none, or may write.
    pub read: Option<Arc<Read>>,
    /// Outside a transaction block it is refused or does nothing: LOCK, DECLARE, SET LOCAL, ..
    pub of_block: bool,
    /// What it may leave behind in its session.
    pub traces: Traces,
    /// What to do.
    pub action: Action,
}

/// A SELECT, VALUES or TABLE that writes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Why it is not repeated.
    pub unfit: Option<Unfit>,
    /// Tables and views that its words could name.
    pub tables: Vec<TableId>,
    /// The one table that it reads, by name; `None`: several, or none.
    pub only: Option<TableId>,
    /// ORDER BY, as far as it names columns of the answer.
    pub sort: Vec<Sorted>,
    /// The order is total, or there is at most one row: equal data has one answer.
    pub total: bool,
    /// The order decides which rows there are: LIMIT, OFFSET, DISTINCT ON.
    pub limited: bool,
    /// An order that the text need not fix decides what is in the rows: windows, LIMIT of a subquery.
    pub loose: bool,
    /// Aggregates put rows together in whatever order they come: the pieces of their values may be in another one, and
    /// sums of floats be rounded otherwise.
    pub gathers: bool,
    /// One of several equal values stands for all of them: DISTINCT, GROUP BY, UNION, min, max. They may look different.
    pub picks: bool,
    /// Each of its rows is one row of [`Read::only`].
    pub rowwise: bool,
    /// How people are told of it.
    pub spoken: Spoken,
}

/// How people are told of a read: told apart by nothing, and found when the read is first chosen to be repeated.
#[derive(Clone, Debug, Default)]
pub struct Spoken(pub OnceLock<Words>);

/// The words for a read.
#[derive(Clone, Debug)]
pub struct Words {
    /// Its text without literals, perhaps cut.
    pub shape: Box<str>,
    /// Its tables, with their qualified names.
    pub tables: Box<[(TableId, Box<str>)]>,
}

impl PartialEq for Spoken {
    fn eq(&self, _: &Spoken) -> bool {
        true
    }
}

impl Eq for Spoken {}

/// A column of the answer by which it is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sorted {
    /// Its position, from 0.
    At(usize),
    /// Its name.
    Named(String),
}

/// Why a read is not repeated: the data does not decide its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It answers otherwise at another time, to somebody else, or by chance.
    Volatile,
    /// It locks, or shows what each server has of its own: catalogs, statistics, places of rows.
    NotRepeatable,
}

/// What may be left behind in a session beside prepared statements: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces(u8);

impl Traces {
    /// Nothing.
    pub const NONE: Traces = Traces(0);
    /// Settings, custom ones and the role among them.
    pub const SETTINGS: Traces = Traces(1);
    /// Channels that it listens on.
    pub const CHANNELS: Traces = Traces(2);
    /// What exists in this session only: temporary tables, held cursors, advisory locks.
    pub const PINS: Traces = Traces(4);
    /// It asked what `nextval` gave to it.
    pub const LAST_VALUE: Traces = Traces(8);
    /// All that user code can do; it is taken to look after its own use of `lastval`.
    pub const ANY: Traces = Traces(7);

    /// As a byte.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// From [`Traces::bits`].
    pub fn from_bits(bits: u8) -> Traces {
        Traces(bits)
    }

    /// Is all of `other` in it?
    pub fn has(self, other: Traces) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any of `other` in it?
    pub fn meets(self, other: Traces) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Traces {
    type Output = Traces;

    fn bitor(self, other: Traces) -> Traces {
        Traces(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Traces {
    fn bitor_assign(&mut self, other: Traces) {
        self.0 |= other.0;
    }
}

/// What to do with a statement.
#[derive(Clone, Debug)]
pub enum Action {
    /// Changes no row that is mirrored, and cannot end a transaction: forward.
    Pass,
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT, RELEASE, ROLLBACK TO: keys stay, a superset is harmless; schema changes that are undone do not.
    Savepoint(Savepoint),
    /// PREPARE TRANSACTION; the token that holds the name.
    PrepareTransaction {
        /// Token index of the name's literal.
        gid: usize,
    },
    /// COMMIT PREPARED or ROLLBACK PREPARED.
    FinishPrepared {
        /// Token index of the name's literal.
        gid: usize,
    },
    /// Every key that could change is in the text or its parameters.
    Evident(Evident),
    /// The server must be asked: keys come by a hidden RETURNING.
    Asked(Asked),
    /// COPY .. FROM STDIN: keys come with the stream.
    CopyIn(CopyIn),
    /// Whole tables are owed (TRUNCATE).
    Truncate(Truncate),
    /// DECLARE of a cursor whose query could write: it runs when rows are fetched.
    Cursor(Counted),
    /// FETCH or MOVE.
    Fetch(Fetch),
    /// Writes that nobody names; the labels of tables known to be concerned (may be empty: count).
    Counted(Counted),
    /// A schema change.
    Ddl(Ddl),
    /// SQL-level PREPARE: the name as PostgreSQL folds it, and what it will do.
    Prepare {
        /// Folded name.
        name: String,
        /// The declared types' oids; 0 = inferred, `u32::MAX` = one that the proxy does not follow.
        types: Vec<u32>,
        /// The inner statement; its tokens are the same text's.
        inner: Arc<Statement>,
    },
    /// SQL-level EXECUTE.
    Execute {
        /// Folded name.
        name: String,
        /// The arguments, where they are plain constants or parameters; `None` = an expression.
        args: Vec<Option<Operand>>,
    },
    /// DEALLOCATE name or ALL; DISCARD ALL counts as ALL.
    Deallocate {
        /// `None` = all.
        name: Option<String>,
    },
    /// SET search_path, SET ROLE, DISCARD, CREATE TEMP, ..: what names mean may have changed for this session.
    Session,
    /// SET of what schema changes are read under (TimeZone, DateStyle, ..).
    Setting,
    /// Commits by itself and changes no row: VACUUM, REINDEX, CLUSTER.
    Commits,
    /// Not understood, or may commit by itself (CALL, DO, ..): treated as a counted write that can commit.
    Opaque(Counted),
}

impl Action {
    /// What names and settings mean may be different afterwards, for this session alone.
    pub fn is_of_session(&self) -> bool {
        match self {
            Action::Session => true,
            Action::Ddl(ddl) => ddl.temporary,
            _ => false,
        }
    }

    /// It undoes what stands behind a savepoint.
    pub fn is_rollback_to(&self) -> bool {
        matches!(self, Action::Savepoint(savepoint) if savepoint.verb == SavepointVerb::RollbackTo)
    }
}

/// A statement that reads from a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The cursor's name as PostgreSQL folds it.
    pub cursor: String,
    /// MOVE, which returns no rows.
    pub is_move: bool,
    /// The cursor may write when it is read, as far as its session knows.
    pub counted: Option<Counted>,
}

/// A statement about a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Savepoint {
    /// What it does.
    pub verb: SavepointVerb,
    /// The savepoint's name as PostgreSQL folds it.
    pub name: String,
}

/// What a statement does with a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavepointVerb {
    /// SAVEPOINT.
    Set,
    /// RELEASE.
    Release,
    /// ROLLBACK TO.
    RollbackTo,
}

/// Where a key value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A literal token; `negative`: a minus sign stood before it.
    Literal {
        /// Token index.
        token: usize,
        /// A minus sign stood before it.
        negative: bool,
        /// An explicit cast to this base type's oid stood on it; 0 = none.
        cast: u32,
    },
    /// `$n`, counted from 0.
    Param {
        /// Index.
        index: u16,
        /// It is used only here in the statement, so an undeclared type is the column's own.
        sole: bool,
        /// An explicit cast to this base type's oid stood on it; 0 = none.
        cast: u32,
    },
    /// Each element of the array `$n` (`= ANY($n)`), as `Param` otherwise; the cast is to the element's type.
    Elements {
        /// Index.
        index: u16,
        /// It is used only here in the statement.
        sole: bool,
        /// An explicit cast to an array of this type's oid stood on it; 0 = none.
        cast: u32,
    },
    /// TRUE or FALSE.
    Bool(bool),
    /// NULL: pins nothing that a key could be, no row is concerned.
    Null,
}

/// All keys can be read off the text and the parameters.
#[derive(Clone, Debug)]
pub struct Evident {
    /// For each table that the name could mean, and each row or pin, the operands of the key's columns.
    pub keys: Vec<EvidentKey>,
    /// Triggers, user functions: hidden writes must be counted as well.
    pub counted: Option<Counted>,
    /// How to ask instead, when a value turns out not to parse; without it, the tables are dirty then. Its answer names
    /// every key, so its `also` is empty.
    pub fallback: Option<Box<Asked>>,
    /// Whose rows these are.
    pub meant: Meant,
}

/// What the name means that a write has for its target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Meant {
    /// The tables of its keys: rows that were counted there are its own.
    #[default]
    Tables,
    /// One of these tables; or a view or foreign table of the same name, whose trigger or rule writes what it likes. The session
    /// knows which.
    Either(Vec<TableId>),
    /// Something else, or it may: whatever was counted was written in secret.
    Others,
}

/// One key of one table.
#[derive(Clone, Debug)]
pub struct EvidentKey {
    /// The ordinary tables and leaf partitions that could hold it; their keys have the same columns and forms.
    pub tables: Vec<Arc<Relation>>,
    /// Operands in order of the key's columns.
    pub columns: Vec<Operand>,
    /// The row may be deleted or re-keyed.
    pub moved: bool,
}

/// A hidden RETURNING.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Appended behind the statement's last token: ` RETURNING ...` or `, ...` (after a client's own list).
    pub suffix: String,
    /// The client has a RETURNING of its own: its columns come first and are shown.
    pub shown: bool,
    /// How many columns were added: `tableoid::text` first, then for each key column one, as `Form::asked` says.
    /// Where `rekeys`, that list comes twice: of the old row, then of the new one (all NULL where there is none).
    pub hidden: usize,
    /// The suffix has old and new keys.
    pub rekeys: bool,
    /// Keys that the answer does not name but the text does: of writing CTEs, and the old keys of re-keyed rows where
    /// the server cannot return them. If one of them does not parse, its tables are dirty.
    pub also: Vec<EvidentKey>,
    /// Rows may be deleted or re-keyed.
    pub moved: bool,
    /// The tables that it could mean, for a dirty mark if asking fails.
    pub tables: Vec<TableId>,
    /// Somebody may write one of them who may not read it.
    pub rights: bool,
    /// Triggers, user functions: hidden writes must be counted as well.
    pub counted: Option<Counted>,
}

/// TRUNCATE.
#[derive(Clone, Debug)]
pub struct Truncate {
    /// The tables that are emptied, by label.
    pub tables: Vec<TableId>,
    /// Triggers: hidden writes must be counted as well.
    pub counted: Option<Counted>,
}

/// COPY .. FROM STDIN.
#[derive(Clone, Debug)]
pub struct CopyIn {
    /// The tables that the name could mean.
    pub tables: Vec<Arc<Relation>>,
    /// Where each key column stands in the stream's columns; `None`: it is not in the stream, the table is dirty.
    pub key_at: Option<Vec<usize>>,
    /// How the stream is written.
    pub format: CopyFormat,
    /// Triggers, user functions: hidden writes must be counted as well.
    pub counted: Option<Counted>,
}

/// The options of a COPY stream that matter for finding keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// FORMAT text.
    Text {
        /// DELIMITER.
        delimiter: u8,
        /// NULL.
        null: Vec<u8>,
        /// HEADER.
        header: bool,
    },
    /// FORMAT csv.
    Csv {
        /// DELIMITER.
        delimiter: u8,
        /// NULL.
        null: Vec<u8>,
        /// QUOTE.
        quote: u8,
        /// ESCAPE.
        escape: u8,
        /// HEADER.
        header: bool,
    },
    /// FORMAT binary.
    Binary,
    /// Options that the proxy does not follow (ENCODING, ON_ERROR, ..): the table is dirty.
    Other,
}

/// Hidden writes are possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Tables that are certainly concerned and whose keys nobody knows: dirty without counting.
    pub dirty: Vec<TableId>,
    /// Why, for people: `function call`, `trigger on public.acc`, `rule`, ...
    pub why: String,
    /// Nothing but these can be written in secret: there is nothing to count.
    pub alone: bool,
}

impl Counted {
    /// The server must count.
    pub fn because(why: impl Into<String>) -> Counted {
        Counted { why: why.into(), ..Counted::default() }
    }

    /// The statement names something that the catalog does not have: its own of the session, or younger.
    pub fn is_unknown(&self) -> bool {
        self.why.starts_with("unknown")
    }
}

/// What a schema change makes that statements run, before any catalog knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// Nothing.
    #[default]
    None,
    /// Something that a statement may use: a view, an operator, a domain, ..
    Used,
    /// The same, which only the session has, for as long as it lasts.
    Lasting,
    /// A function: triggers may call it already.
    Function,
    /// What runs behind writes to its tables, and may change which rows they concern.
    Behind,
    /// An event trigger: it runs behind schema changes.
    Watching,
}

/// What runs in a session of which the catalog does not know: its transaction made it, or may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    any: bool,
    lasting: bool,
    functions: bool,
    watching: bool,
    behind: HashSet<TableId>,
}

impl Made {
    /// A statement is about to run.
    pub fn note(&mut self, action: &Action) {
        match action {
            Action::Ddl(ddl) => {
                self.any |= ddl.code != Code::None;
                self.lasting |= ddl.code == Code::Lasting;
                self.functions |= ddl.code == Code::Function;
                self.watching |= ddl.code == Code::Watching;
                if ddl.code == Code::Behind {
                    self.behind.extend(&ddl.tables);
                }
            }
            // What nobody reads, scripts of extensions, and DO: often a schema change with a condition.
            Action::Opaque(counted) => self.any |= counted.why != "CALL",
            Action::Counted(counted) => self.any |= counted.why == "DO",
            _ => {}
        }
    }

    /// Is there something?
    pub fn any(&self) -> bool {
        self.any
    }

    /// A write to the table may concern other rows than the catalog says.
    pub fn alters(&self, table: &Relation) -> bool {
        self.behind.contains(&table.id) || self.functions && table.hazards.triggers
    }

    /// An event trigger may run behind a schema change.
    pub fn watches(&self) -> bool {
        self.watching
    }

    /// The catalog knows what the transaction made, or it is rolled back.
    pub fn forget(&mut self) {
        *self = Made { any: self.lasting, lasting: self.lasting, ..Made::default() };
    }
}

/// A schema change.
#[derive(Clone, Debug, Default)]
pub struct Ddl {
    /// Tables concerned, where they are known.
    pub tables: Vec<TableId>,
    /// `CREATE TABLE`, `ALTER TABLE`, ..: for people and metrics.
    pub tag: String,
    /// Can be repeated inside a transaction on the secondary and leaves rows as they are, or rewrites are owed whole.
    pub mirrorable: bool,
    /// Tables whose rows may have been rewritten or created by it: owed whole.
    pub rewritten: Vec<TableId>,
    /// Partitioned tables, the topmost of their trees, that a partition leaves with its rows. The first one is what the change
    /// is repeated under: whoever repeats it sees whether the rows are gone there too.
    pub parted: Vec<TableId>,
    /// Schema (where it is written) and name of a table that it creates: owed whole, for what it was filled with and what
    /// the same transaction writes into it before any catalog knows it.
    pub fills: Option<(Option<String>, String)>,
    /// `CREATE TABLE IF NOT EXISTS`: it makes and fills nothing where the table is there.
    pub unless_there: bool,
    /// Some of the tables concerned may be gone behind it.
    pub drops: bool,
    /// It concerns only temporary objects.
    pub temporary: bool,
    /// Names without a schema of tables, and of what is like them, that must be there: in a session some may be temporary ones.
    pub bare: Vec<String>,
    /// It names others with their schema.
    pub has_qualified: bool,
    /// It commits by itself (CREATE INDEX CONCURRENTLY, ..).
    pub commits: bool,
    /// What later statements may run because of it.
    pub code: Code,
    /// It makes a schema, which a path may have named before.
    pub makes_schema: bool,
    /// What it runs over rows, or the query that fills the new table, may write: hidden writes must be counted as well.
    pub counted: Option<Counted>,
}
