//! What a PostgreSQL text will do: its statements, and for each where the keys come from that it may change.
//!
//! Structure (targets, pins, rows of VALUES) is read from PostgreSQL's own grammar; what a statement could *reach*
//! (functions, operators, types, views) is read from its tokens, because a name that is not in the text cannot be
//! called, and a list of tokens has no node that a walker could forget.
//!
//! The rule throughout: a superset of keys is harmless, a subset is a lost row. Anything not understood is counted.

mod ask;
mod copy;
mod merge;
mod operand;
mod reach;
mod read;
#[cfg(any(test, fuzzing))]
pub(crate) mod schema;
mod target;
mod traces;
mod utility;
mod write;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{CommonTableExpr, RawStmt, SelectStmt, WithClause};

use super::catalog::Catalog;
use super::grammar;
use super::lexer::{Kind, Reading, Token, Tokens};
use super::plan::{Action, Counted, Evident, Made, Meant, Script, Statement, Traces};

pub(super) use read::{has_many_looks, is_choosing, is_gathering, is_picking, is_strict, is_unsteady, words};

use reach::Reach;

/// More than this is not parsed at all: counted.
const TOKENS_MAX: usize = 2_000_000;

/// What to do with a text. Never fails: what is not understood is [`Action::Opaque`].
pub fn analyze(text: &[u8], tokens: &Tokens, catalog: &Catalog) -> Script {
    analyze_behind(text, tokens, catalog, &Made::default())
}

/// The same, behind what the session's transaction has made. In one text, too, what is behind a schema change may run
/// what that made.
pub fn analyze_behind(text: &[u8], tokens: &Tokens, catalog: &Catalog, made: &Made) -> Script {
    let analyzed = readable(text, tokens).and_then(|readable| {
        let nests = |token: &&Token| match token.kind {
            Kind::Ident => true,
            Kind::Op => !matches!(token.text(text), b"," | b"." | b";" | b")" | b"]"),
            _ => false,
        };
        let analyzed = grammar::with_stack(tokens.list().iter().filter(nests).count(), || {
            let tree = grammar::parse(&readable).ok_or("a text that does not parse")?;
            let mut scope =
                Scope { catalog, tokens, text, exact: false, span: 0..0, uses: OnceCell::new(), made: made.clone() };
            let statements = tree.stmts.iter().filter_map(|raw| scope.statement(raw)).collect();
            Ok((statements, scope.exact))
        });
        analyzed.unwrap_or(Err("a text too large to parse"))
    });
    let whole = analyzed.is_err();
    let (statements, by_literals) = analyzed.unwrap_or_else(|why| (vec![opaque(tokens, why)], true));
    let exact = by_literals || tokens.reading() != Reading::Plain;
    Script { statements, epoch: catalog.epoch, exact, whole, behind: made.any() }
}

fn opaque(tokens: &Tokens, why: &str) -> Statement {
    let action = Action::Opaque(Counted::because(why));
    Statement { tokens: 0..tokens.list().len(), params: 0, read: None, of_block: false, traces: Traces::ANY, action }
}

/// The text as UTF-8 with every token in its place: in other encodings the contents of literals and comments are
/// blotted out, and names that are not ASCII cannot be read.
fn readable<'a>(text: &'a [u8], tokens: &Tokens) -> Result<std::borrow::Cow<'a, str>, &'static str> {
    if tokens.reading() == Reading::Unreadable || tokens.list().len() > TOKENS_MAX {
        return Err("a text that the proxy cannot read");
    }
    if tokens.is_ascii() {
        return std::str::from_utf8(text).map(Into::into).map_err(|_| "a text that the proxy cannot read");
    }
    if let (true, Ok(text)) = (tokens.utf8(), std::str::from_utf8(text)) {
        return Ok(text.into());
    }
    let names = tokens.list().iter().filter(|token| !token.kind.is_literal());
    if names.into_iter().any(|token| !token.text(text).is_ascii()) {
        return Err("a name that is not ASCII, in another client encoding");
    }
    let blotted = text.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect::<String>();
    Ok(blotted.into())
}

/// The name in a PREPARE TRANSACTION, whatever kind of literal it is.
pub fn transaction_name(statement: &[u8]) -> Option<String> {
    grammar::look(std::str::from_utf8(statement).ok()?, |tree| {
        match tree.stmts.first()?.stmt.as_ref()?.node.as_ref()? {
            NodeEnum::TransactionStmt(transaction) => Some(transaction.gid.clone()),
            _ => None,
        }
    })
}

/// What an analysis looks at: one text, one catalog, and the statement at hand.
struct Scope<'a> {
    catalog: &'a Catalog,
    tokens: &'a Tokens,
    text: &'a [u8],
    /// A literal's content had a say.
    exact: bool,
    /// Tokens of the statement at hand.
    span: std::ops::Range<usize>,
    /// What statements before it have made.
    made: Made,
    /// How often it uses each parameter, once somebody asked.
    uses: OnceCell<HashMap<u16, usize>>,
}

impl Scope<'_> {
    fn statement(&mut self, raw: &RawStmt) -> Option<Statement> {
        let node = raw.stmt.as_ref()?.node.as_ref()?;
        let start = usize::try_from(raw.stmt_location).unwrap_or(0);
        let len = usize::try_from(raw.stmt_len).unwrap_or(0);
        let first = self.tokens.from(start);
        let last = if len == 0 { self.tokens.list().len() } else { self.tokens.from(start + len) };
        let mut span = first..last;
        // A statement that runs to the text's end may have its semicolon inside the span.
        while span.end > span.start && self.is_op(span.end - 1, b";") {
            span.end -= 1;
        }
        self.look_at(span);
        let action = self.action(node);
        let read = match (node, &action) {
            (NodeEnum::SelectStmt(select), Action::Pass) => Some(Arc::new(self.read(select))),
            _ => None,
        };
        self.exact |= read.as_ref().is_some_and(|read| self.heeds_literals(read));
        let traces = self.traces(node, &action);
        self.made.note(&action);
        let of_block = utility::is_of_block(node);
        Some(Statement { tokens: self.span.clone(), params: self.params(), read, of_block, traces, action })
    }

    /// These tokens are the statement at hand.
    fn look_at(&mut self, span: std::ops::Range<usize>) {
        self.span = span;
        self.uses.take();
    }

    fn action(&mut self, node: &NodeEnum) -> Action {
        match node {
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(_) | NodeEnum::UpdateStmt(_) | NodeEnum::DeleteStmt(_) | NodeEnum::MergeStmt(_) => {
                self.write(node)
            }
            NodeEnum::CopyStmt(copy) => self.copy(copy),
            other => self.utility(other),
        }
    }

    /// A SELECT: a read, unless it reaches user code, writes in a CTE, or makes a table.
    fn select(&mut self, select: &SelectStmt) -> Action {
        let inner = self.with_writes(select.with_clause.as_ref());
        if let Some(into) = leftmost(select).into_clause.as_ref() {
            return self.under_watch(self.filled("SELECT INTO", into, Reach::named(self), inner.is_some()));
        }
        let reach = Reach::of(self);
        if let Some(inner) = inner {
            return inner.finish(reach);
        }
        match reach {
            Reach::Builtin => Action::Pass,
            Reach::Settings => Action::Session,
            Reach::User(why) => Action::Counted(Counted::because(why)),
        }
    }

    /// Everything that the writing CTEs of a statement concern; `None`: none of them writes.
    fn with_writes(&mut self, with: Option<&WithClause>) -> Option<write::Outcome> {
        let mut all: Option<write::Outcome> = None;
        for cte in with.iter().flat_map(|with| &with.ctes) {
            let Some(NodeEnum::CommonTableExpr(cte)) = cte.node.as_ref() else { continue };
            if let Some(outcome) = self.cte_writes(cte) {
                all.get_or_insert_default().merge(outcome.without_answer());
            }
        }
        all
    }

    fn cte_writes(&mut self, cte: &CommonTableExpr) -> Option<write::Outcome> {
        match cte.ctequery.as_ref()?.node.as_ref()? {
            NodeEnum::SelectStmt(select) => self.with_writes(select.with_clause.as_ref()),
            node => self.outcome(node),
        }
    }

    fn params(&self) -> u16 {
        let list = self.tokens.list().get(self.span.clone()).unwrap_or_default();
        list.iter().filter_map(|token| self.param_number(token)).max().unwrap_or(0)
    }

    fn param_number(&self, token: &super::lexer::Token) -> Option<u16> {
        if token.kind != Kind::Param {
            return None;
        }
        std::str::from_utf8(token.text(self.text).get(1..)?).ok()?.parse().ok()
    }

    fn is_op(&self, at: usize, op: &[u8]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Op && token.text(self.text) == op)
    }
}

/// Where a SELECT INTO says so: the first SELECT of a set operation.
fn leftmost(mut select: &SelectStmt) -> &SelectStmt {
    while let Some(left) = select.larg.as_deref() {
        select = left;
    }
    select
}

fn evident(keys: Vec<super::plan::EvidentKey>, counted: Option<Counted>) -> Action {
    Action::Evident(Evident { keys, counted, fallback: None, meant: Meant::Tables })
}

#[cfg(test)]
mod tests;
