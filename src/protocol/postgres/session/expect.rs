//! What the server still owes an answer to, in order: one entry for each message that went to it.
//!
//! The protocol answers in order, so a queue is enough to know which message an answer belongs to, and whether the
//! client may see it.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::postgres::plan::{Asked, Savepoint, Script, Statement};

use super::savepoints::Stretch;
use super::statements::Undo;
use super::tickets::Mark;

/// One message that the server will answer.
#[derive(Debug)]
pub(super) enum Expect {
    /// ParseComplete.
    Parse { shown: bool, undo: Undo },
    /// BindComplete.
    Bind { shown: bool, undo: Undo },
    /// RowDescription or NoData, after ParameterDescription for a statement: which one, by name and serial.
    Describe { view: View, of: Option<(Bytes, u64)> },
    /// Rows, then CommandComplete, EmptyQueryResponse, PortalSuspended.
    Execute { view: View, effect: Effect },
    /// CloseComplete; the named statement that is gone then.
    Close { statement: Option<Bytes>, shown: bool, undo: Undo },
    /// CopyDone or CopyFail went by: no answer of its own, Syncs before it were ignored if the copy began.
    CopyEnd,
    /// ReadyForQuery; hidden when the client did not ask for it.
    Sync { shown: bool },
    /// A simple Query: everything up to and with ReadyForQuery. `at` counts its statements that completed; the text is
    /// kept where a PREPARE in it may need it. Its own records lie between the marks; the next statement is in this stretch.
    Query { script: Option<Arc<Script>>, at: usize, text: Bytes, from: Mark, upto: Mark, stretch: Stretch, undo: Undo },
    /// FunctionCallResponse and ReadyForQuery.
    Function,
}

impl Expect {
    /// Of a Parse of ours, under a name of ours.
    pub(super) fn hidden_parse() -> Expect {
        Expect::Parse { shown: false, undo: Undo::Nothing }
    }

    /// Of a Bind of ours, under a name of ours.
    pub(super) fn hidden_bind() -> Expect {
        Expect::Bind { shown: false, undo: Undo::Nothing }
    }

    /// Of a Close of ours, of a name that the client has not.
    pub(super) fn hidden_close() -> Expect {
        Expect::Close { statement: None, shown: false, undo: Undo::Nothing }
    }

    /// What to undo if the server skips the message.
    pub(super) fn undo_mut(&mut self) -> Option<&mut Undo> {
        match self {
            Expect::Parse { undo, .. }
            | Expect::Bind { undo, .. }
            | Expect::Close { undo, .. }
            | Expect::Query { undo, .. } => Some(undo),
            _ => None,
        }
    }
}

/// What the client sees of an answer with rows.
#[derive(Clone, Debug)]
pub(super) enum View {
    /// As it comes.
    Plain,
    /// A piece of a simple Query, run by the extended protocol: NoData is not shown. `is_late`: it runs to its end
    /// before it says what its rows are.
    Piece { is_late: bool },
    /// A hidden query: counts before or after a statement.
    Count { after: bool },
    /// A hidden query: counts in a transaction before the statement's.
    Ahead,
    /// A hidden query: the schemas that unqualified names mean, and what texts are read under.
    Path,
    /// A hidden query: what a hidden RETURNING would not find or may not read.
    Names,
    /// A hidden query: which cursor bears a name.
    Cursor,
    /// A hidden statement that fails, in the place of what was cancelled.
    Cancelled,
    /// Hidden columns at the end are keys. `piece` as above; `binary`: the hidden columns come in binary format.
    Asked { script: Arc<Script>, at: usize, piece: bool, binary: bool, portal: Bytes },
    /// The rows behind the client's row limit: only their keys are of use, nobody sees them.
    Rest { script: Arc<Script>, binary: bool },
}

impl View {
    /// The hidden RETURNING, if there is one.
    pub(super) fn asked(&self) -> Option<&Asked> {
        match self {
            View::Asked { script, at, .. } => script.statements.get(*at).and_then(super::asked_of),
            View::Rest { script, .. } => script.statements.first().and_then(super::asked_of),
            _ => None,
        }
    }

    /// Rows are not for the client as they come.
    pub(super) fn is_hidden(&self) -> bool {
        let of_keys = matches!(self, View::Asked { .. } | View::Rest { .. });
        of_keys || matches!(self, View::Count { .. } | View::Ahead | View::Path | View::Names | View::Cursor)
    }

    /// A piece that the simple protocol describes only when it has run.
    pub(super) fn is_described_late(&self) -> bool {
        matches!(self, View::Piece { is_late: true } | View::Asked { piece: true, .. })
    }

    pub(super) fn is_piece(&self) -> bool {
        matches!(self, View::Piece { .. } | View::Asked { piece: true, .. })
    }
}

/// What a statement's completion changes in the session.
#[derive(Clone, Debug, Default)]
pub(super) enum Effect {
    /// Nothing that matters here.
    #[default]
    None,
    /// SQL-level PREPARE.
    Prepared { name: String, inner: Arc<Statement>, types: Vec<u32>, text: Bytes },
    /// DEALLOCATE or DISCARD ALL; `None` = all.
    Deallocated { name: Option<String> },
    /// The schema changed.
    Schema,
    /// COMMIT, ROLLBACK, PREPARE TRANSACTION: all below the mark belongs to what ends.
    Ends { chain: bool, upto: Mark },
    /// SAVEPOINT, RELEASE, ROLLBACK TO, and the stretch behind it.
    Savepoint { savepoint: Savepoint, stretch: Stretch },
    /// Commits by itself what lies below the mark, also if it fails, unless it is inside a block.
    Commits { schema: bool, upto: Mark },
}
