//! What a statement may change, as keys of the open unit.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::protocol::postgres::analysis::{analyze_behind, transaction_name};
use crate::protocol::postgres::catalog::Catalog;
use crate::protocol::postgres::evident::{self, NoParams, Param, Params, Source};
use crate::protocol::postgres::key::{self, Returned};
use crate::protocol::postgres::lexer::Tokens;
use crate::protocol::postgres::plan::{
    Action, Asked, CopyIn, Counted, Ddl, Evident, EvidentKey, Fetch, Meant, Script, Statement, Traces,
};
use crate::protocol::postgres::schema_change;
use crate::protocol::postgres::shared::Shared;
use crate::protocol::postgres::wire::{Fields, WireError, back, front};
use crate::record::{Reason, RecordBuf, TableId};

use super::counting::{counts, runs_user_code};
use super::names::Whose;
use super::statements::{Bound, Prepared};
use super::{Fault, Session, Wait};

/// The plan of a text that needs no attention.
pub(super) fn nothing() -> Arc<Script> {
    static NOTHING: OnceLock<Arc<Script>> = OnceLock::new();
    NOTHING
        .get_or_init(|| {
            Arc::new(Script { statements: Vec::new(), epoch: 0, exact: false, whole: false, behind: false })
        })
        .clone()
}

/// The plan of a text that is not analysed: it may write to any table, and commit. It is looked at anew whenever it runs.
fn unread(why: &str, catalog: &Catalog) -> Arc<Script> {
    let (tables, why) = (catalog.tables(), why.to_owned());
    let action = Action::Opaque(Counted { dirty: tables.map(|table| table.id).collect(), why, alone: true });
    let statements =
        vec![Statement { tokens: 0..0, params: 0, read: None, of_block: false, traces: Traces::ANY, action }];
    Arc::new(Script { statements, epoch: catalog.epoch, exact: true, whole: true, behind: true })
}

impl Session {
    /// The plan of a text. `None`: wait for the catalog first.
    pub(super) fn plan(&mut self, text: &[u8]) -> Result<Option<Arc<Script>>, Fault> {
        if !self.captures() {
            return Ok(Some(nothing()));
        }
        if text.len() > self.shared.policy.statement_bytes_max {
            return Ok(Some(unread("a statement longer than limits.statement_bytes", &self.shared.catalog.now())));
        }
        if self.dialect_moves.is_some() && leans_on_dialect(text) {
            // The server says what it changed before its next ReadyForQuery. Behind the change in one pipeline that is too late.
            if !self.groups.is_empty() && !self.copy_in {
                self.wait = Wait::Answers;
                return Ok(None);
            }
            return Ok(Some(unread(
                "a text behind a setting that says how texts are read",
                &self.shared.catalog.now(),
            )));
        }
        self.lex(text);
        let catalog = self.shared.catalog.now();
        let script = self.plan_of(text, &self.tokens, &catalog);
        if !self.reloaded && script.statements.iter().any(|statement| unknown(&statement.action)) {
            self.reloaded = true;
            self.wait = Wait::Catalog(self.shared.catalog.reloaded());
            return Ok(None);
        }
        Ok(Some(script))
    }

    /// The plan of a text that was cut into tokens, as the session's transaction has to have it.
    pub(super) fn plan_of(&self, text: &[u8], tokens: &Tokens, catalog: &Catalog) -> Arc<Script> {
        if self.made.any() {
            return Arc::new(analyze_behind(text, tokens, catalog, &self.made));
        }
        self.shared.plans.plan(text, tokens, catalog)
    }

    pub(super) fn lex(&mut self, text: &[u8]) {
        self.executed = None;
        self.tokens.lex(text, self.dialect);
    }

    /// Can a hidden RETURNING be added to this text without touching what the client's encoding means?
    pub(super) fn utf8(&self, text: &[u8]) -> bool {
        self.client_utf8 || text.is_ascii()
    }

    /// The bytes of a statement in the text that was lexed last.
    pub(super) fn range(&self, statement: &Statement) -> Option<Range<usize>> {
        let tokens = self.tokens.list().get(statement.tokens.clone())?;
        Some(tokens.first()?.start as usize..tokens.last()?.end as usize)
    }

    /// Where the hidden RETURNING of a single statement goes, in the text that was lexed last.
    pub(super) fn splice<'a>(&self, script: &'a Script) -> Option<(usize, &'a str)> {
        let statement = script.statements.first()?;
        Some((self.range(statement)?.end, super::asked_of(statement)?.suffix.as_str()))
    }

    /// Must this Parse carry a hidden RETURNING from the start?
    pub(super) fn asks(&self, script: &Script) -> bool {
        matches!(script.statements.first().map(|statement| &statement.action), Some(Action::Asked(_)))
    }

    /// What is sent in place of a statement that configuration refuses: the server itself raises the error, so that the
    /// transaction's state is what it would be after any error.
    pub(super) fn refusal(&mut self, text: &[u8], script: &Script) -> Option<String> {
        let refuses = |statement: &Statement| self.shared.policy.refuses(&statement.action);
        let why = script.statements.iter().find_map(refuses).or_else(|| self.nameless(text, script))?;
        Some(raised(&why))
    }

    /// The same in place of a function that is called by its oid.
    pub(super) fn refused_call(&self) -> Option<String> {
        let action = Action::Counted(Counted::because(super::front::FAST_PATH));
        self.captures().then(|| self.shared.policy.refuses(&action))?.map(|why| raised(&why))
    }

    /// What PREPARE TRANSACTION wrote is owed until its name is gone: without the name it cannot be mirrored.
    fn nameless(&mut self, text: &[u8], script: &Script) -> Option<String> {
        let prepares = |statement: &&Statement| matches!(statement.action, Action::PrepareTransaction { .. });
        let mut all = script.statements.iter().filter(prepares).peekable();
        all.peek()?;
        self.lex(text);
        all.any(|statement| self.transaction_name(text, statement).is_none())
            .then(|| "PREPARE TRANSACTION with a name that tandem cannot read".to_owned())
    }

    /// The name in a PREPARE TRANSACTION of the text that was lexed last.
    fn transaction_name(&self, text: &[u8], statement: &Statement) -> Option<Vec<u8>> {
        let Action::PrepareTransaction { gid } = statement.action else { return None };
        let token = self.tokens.get(gid)?;
        let literal = token.text(text);
        if !self.utf8(literal) {
            return None;
        }
        let plain = evident::content(token.kind, literal).ok();
        plain.or_else(|| transaction_name(&text[self.range(statement)?]).map(String::into_bytes))
    }

    /// Keys of a statement that goes as text. `false`: they are not in the text, but the server can be asked.
    pub(super) fn capture_text(&mut self, text: &[u8], script: &Script, statement: &Statement) -> Result<bool, Fault> {
        if self.pieces.is_none() && counts(&statement.action) {
            self.dirty_any(); // Nobody counts a statement that goes as it is.
        }
        self.hot_cursor |= runs_user_code(&statement.action);
        match &statement.action {
            Action::Evident(evident) => {
                let source = Source { text, tokens: &self.tokens, utf8: self.client_utf8 };
                if evident.keys(source, &NoParams, &mut self.keys).is_err() {
                    if evident.fallback.is_some() && self.utf8(text) {
                        return Ok(false);
                    }
                    self.dirty_evident(evident);
                }
                self.counted(evident.counted.as_ref());
            }
            Action::Execute { name, args } => {
                let (name, args) = (name.clone(), args.clone());
                let meant = self.prepared_as(&name, script, statement, text);
                if meant.is_empty() {
                    self.unknown_write("EXECUTE of a statement that tandem did not see prepared");
                }
                meant.iter().for_each(|one| self.capture_execute(text, &args, one));
            }
            Action::CopyIn(copy) => {
                self.copy_expected(copy);
                self.counted_blind(copy);
            }
            Action::PrepareTransaction { .. } => self.capture_name(text, statement),
            other => {
                let range = self.range(statement).unwrap_or(0..text.len());
                self.capture_other(other, &text[range]);
            }
        }
        self.spill();
        Ok(true)
    }

    /// The unit may become this two-phase transaction. The text was lexed last.
    fn capture_name(&mut self, text: &[u8], statement: &Statement) {
        let name = self.transaction_name(text, statement).unwrap_or_default(); // Else it was refused.
        self.keys.prepared(&name);
    }

    /// Actions whose keys do not depend on values.
    pub(super) fn capture_other(&mut self, action: &Action, text: &[u8]) {
        self.made.note(action);
        match action {
            // The server could not be asked: nobody knows the keys.
            Action::Asked(asked) => {
                self.dirty_asked(asked);
                asked.also.iter().for_each(|key| self.dirty_key(key));
                self.counted(asked.counted.as_ref());
            }
            Action::Truncate(truncate) if self.shared.policy.mirror_truncate() => {
                truncate.tables.iter().for_each(|&table| self.keys.table(table));
            }
            Action::Truncate(truncate) => {
                truncate.tables.iter().for_each(|&table| self.keys.dirty(table, Reason::Ddl));
            }
            Action::Counted(counted) | Action::Fetch(Fetch { counted: Some(counted), .. }) => {
                self.counted(Some(counted));
                self.path_unknown();
                self.temporary_may_differ();
                if matches!(counted.why.as_str(), "DO" | "CALL") {
                    self.names_may_differ();
                }
            }
            Action::Opaque(counted) => {
                self.counted(Some(counted));
                self.path_may_differ();
            }
            Action::Ddl(ddl) if !ddl.temporary && self.whose(ddl) != Whose::Sessions => {
                self.path_aged = true;
                let is_known = self.whose(ddl) == Whose::Everybodys;
                let repeats = ddl.mirrorable && is_known;
                let fills = ddl.fills.as_ref().filter(|made| !self.is_there(ddl, made));
                if let (true, Some(path)) = (self.shared.policy.mirror_ddl() && repeats, &self.path) {
                    let table = ddl.parted.first().or(ddl.tables.first()).copied().unwrap_or(TableId::NONE);
                    self.changes.push(table, schema_change::encode(path, &self.settings, text));
                    ddl.parted.iter().skip(1).for_each(|&table| self.keys.dirty(table, Reason::Ddl));
                    ddl.rewritten.iter().for_each(|&table| self.keys.table(table));
                    if let Some(table) = fills.and_then(|made| self.label_of(made)) {
                        self.keys.table(table);
                    }
                } else {
                    let tables = if ddl.tables.is_empty() { &ddl.rewritten } else { &ddl.tables };
                    let noted: BTreeSet<_> = tables.iter().chain(&ddl.parted).collect();
                    noted.into_iter().for_each(|&table| self.keys.dirty(table, Reason::Ddl));
                    let made = fills.map(|made| self.label_of(made));
                    made.flatten().iter().for_each(|&table| self.keys.dirty(table, Reason::Ddl));
                    let unsaid = self.path.is_none() || !is_known;
                    let lost = tables.is_empty() && ddl.mirrorable && !ddl.commits && unsaid;
                    if made == Some(None) || lost && self.shared.policy.mirror_ddl() {
                        self.unknown_write("a schema change under a search_path that tandem does not know");
                    }
                }
            }
            Action::Ddl(_) => self.path_may_differ(),
            Action::Session => self.path_may_differ(),
            Action::Setting => self.path_unknown(),
            // As DEALLOCATE ALL does; and the session's settings are reset, too.
            Action::Deallocate { name: None } if text.to_ascii_lowercase().starts_with(b"discard") => {
                self.path_may_differ();
            }
            Action::Cursor(_) => self.hot_cursor = true,
            Action::Commit { .. } | Action::Rollback { .. } if self.path_touched => self.path = None,
            action @ Action::Savepoint(_) => {
                self.changes.cut();
                if action.is_rollback_to() {
                    self.path_unknown();
                    self.names = None;
                }
            }
            _ => {}
        }
    }

    /// A table that is made if there is none is there, and what this transaction has done before has not changed that.
    fn is_there(&self, ddl: &Ddl, made: &(Option<String>, String)) -> bool {
        ddl.unless_there
            && self.changes.is_empty()
            && !self.made.any()
            && self.label_of(made).is_some_and(|table| self.shared.catalog.now().by_id.contains_key(&table))
    }

    /// The table that is made by this name. `None`: nobody knows in which schema.
    fn label_of(&self, (schema, name): &(Option<String>, String)) -> Option<TableId> {
        let schema = schema.clone().or_else(|| self.path.as_deref().map(super::path::first))?;
        Some(TableId::of(&schema, name))
    }

    /// Keys of a statement whose parameters are bound. `false`: they cannot be read off.
    pub(super) fn capture_bind(&mut self, prepared: &Prepared, params: &BindParams<'_>) -> Result<bool, Fault> {
        let Some(statement) = prepared.script.statements.first() else { return Ok(true) };
        self.hot_cursor |= runs_user_code(&statement.action);
        match &statement.action {
            Action::Pass => return Ok(true),
            // They count in the order in which they run.
            Action::Ddl(_) | Action::Savepoint(_) | Action::PrepareTransaction { .. } => return Ok(true),
            // Its stream is expected at Execute.
            Action::CopyIn(copy) => self.counted_blind(copy),
            Action::Evident(evident) => {
                if needs_text(evident) {
                    self.lex(&prepared.text);
                }
                let source = Source { text: &prepared.text, tokens: &self.tokens, utf8: self.client_utf8 };
                let read = evident.keys(source, params, &mut self.keys);
                self.counted(evident.counted.as_ref());
                if read.is_err() {
                    let is_lost = prepared.is_lost(prepared.script.epoch);
                    if evident.fallback.is_none() || is_lost || !self.utf8(&prepared.text) || self.skipping {
                        self.dirty_evident(evident);
                        return Ok(true);
                    }
                    return Ok(false);
                }
            }
            Action::Asked(asked) => {
                self.lex(&prepared.text);
                let source = Source { text: &prepared.text, tokens: &self.tokens, utf8: self.client_utf8 };
                also(asked, source, params, &self.shared.catalog.now(), &mut self.keys);
                self.counted(asked.counted.as_ref());
                if prepared.asked.is_none() && !prepared.twin {
                    self.dirty_asked(asked);
                }
            }
            _ => {
                self.lex(&prepared.text);
                if !counts(&statement.action) {
                    return self.capture_text(&prepared.text, &prepared.script, statement);
                }
                self.capture_other(&statement.action, &prepared.text);
            }
        }
        self.spill();
        Ok(true)
    }

    /// What counts from its Execute on, not from its Bind.
    pub(super) fn capture_run(&mut self, prepared: &Prepared, statement: &Statement) {
        match &statement.action {
            action @ (Action::Ddl(_) | Action::Savepoint(_)) => {
                self.lex(&prepared.text);
                let range = self.range(statement).unwrap_or(0..prepared.text.len());
                self.capture_other(action, &prepared.text[range]);
            }
            Action::PrepareTransaction { .. } => {
                self.lex(&prepared.text);
                self.capture_name(&prepared.text, statement);
            }
            // It may have been asked for since the Bind.
            action if super::path::may_move_path(action) => self.path_unknown(),
            _ => {}
        }
    }

    /// Keys that an asked statement's answer does not name.
    pub(super) fn capture_also(&mut self, text: &[u8], asked: &Asked) {
        let source = Source { text, tokens: &self.tokens, utf8: self.client_utf8 };
        also(asked, source, &NoParams, &self.shared.catalog.now(), &mut self.keys);
        self.counted(asked.counted.as_ref());
    }

    /// Keys that cannot be read off a statement that must go as it is.
    pub(super) fn capture_unread(&mut self, statement: &Statement) {
        if let Action::Evident(evident) = &statement.action {
            self.dirty_evident(evident);
            self.counted(evident.counted.as_ref());
        }
    }

    pub(super) fn dirty_evident(&mut self, evident: &Evident) {
        evident.keys.iter().for_each(|key| self.dirty_key(key));
    }

    fn dirty_key(&mut self, key: &EvidentKey) {
        dirty_key(key, &self.shared.catalog.now(), &mut self.keys);
    }

    /// The keys that were asked for are not known.
    pub(super) fn dirty_asked(&mut self, asked: &Asked) {
        dirty_asked(asked, &self.shared.catalog.now(), &mut self.keys);
    }

    /// Tables that the plan knows to be dirty; others the server counts.
    pub(super) fn counted(&mut self, counted: Option<&Counted>) {
        let Some(counted) = counted else { return };
        counted.dirty.iter().for_each(|&table| self.keys.dirty(table, Reason::Uncaptured));
    }

    /// A write of which nothing is known.
    pub(super) fn unknown_write(&mut self, why: &'static str) {
        if self.captures() {
            tracing::warn!(why, "a write cannot be captured");
            self.dirty_any();
        }
    }

    /// Nobody counts while a stream goes by: what a trigger of its table, or a function of its WHERE, writes may be in any
    /// table, also in other rows of its own. A table that the catalog does not know is a temporary one.
    fn counted_blind(&mut self, copy: &CopyIn) {
        self.counted(copy.counted.as_ref());
        let Some(counted) = &copy.counted else { return };
        if !counted.alone && !counted.why.is_empty() && !counted.is_unknown() {
            self.dirty_any();
        }
    }

    /// Any table may have been written.
    pub(super) fn dirty_any(&mut self) {
        dirty_any(&self.shared.catalog.now(), &mut self.keys);
    }
}

/// May it be read otherwise under other settings? A backslash, or what is not ASCII.
pub(super) fn leans_on_dialect(text: &[u8]) -> bool {
    !text.is_ascii() || text.contains(&b'\\')
}

/// A statement that raises an error.
fn raised(why: &str) -> String {
    let text = format!("tandem: this statement is refused while mirroring: {why}").replace('\'', "''");
    format!(
        "DO $tandem$ BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = '{text}', HINT = 'see mirror.on_uncaptured, mirror.ddl and mirror.truncate in the configuration of tandem'; END $tandem$"
    )
}

/// Any table may have been written.
pub(super) fn dirty_any(catalog: &Catalog, keys: &mut RecordBuf) {
    catalog.tables().for_each(|table| keys.dirty(table.id, Reason::Uncaptured));
}

/// Rows of these tables were written, and nobody knows which. Where they were deleted or got other keys, foreign keys
/// did what they do to rows that no payment finds.
fn unknown_rows(tables: impl Iterator<Item = TableId>, moved: bool, catalog: &Catalog, keys: &mut RecordBuf) {
    let tables: Vec<TableId> = tables.collect();
    tables.iter().for_each(|table| keys.dirty(*table, Reason::Uncaptured));
    if moved {
        catalog.taken_along(tables).for_each(|table| keys.dirty(table, Reason::Uncaptured));
    }
}

fn dirty_asked(asked: &Asked, catalog: &Catalog, keys: &mut RecordBuf) {
    unknown_rows(asked.tables.iter().copied(), asked.moved, catalog, keys);
}

fn dirty_key(key: &EvidentKey, catalog: &Catalog, keys: &mut RecordBuf) {
    unknown_rows(key.tables.iter().map(|table| table.id), key.moved, catalog, keys);
}

/// The hidden columns of one row: `tableoid`, then the key as it was in that epoch; twice where rows are re-keyed.
pub(super) fn returned(
    keys: &mut RecordBuf,
    asked: &Asked,
    mut fields: Fields<'_>,
    binary: bool,
    (catalog, epoch): (&Catalog, u64),
    shared: &Shared,
) -> Result<(), WireError> {
    let halves = if asked.rekeys { 2 } else { 1 };
    for _ in 0..halves {
        let mut columns = Vec::with_capacity(asked.hidden);
        for _ in 0..asked.hidden / halves {
            columns.push(fields.value()?.map(|value| Returned { value, binary }));
        }
        let Some(columns) = columns.into_iter().collect::<Option<Vec<_>>>() else { continue };
        let Some((oid, columns)) = columns.split_first() else { continue };
        let oid = key::returned_oid(*oid).map_err(|_| WireError::Malformed(char::from(back::DATA_ROW)))?;
        // Not in the catalog: a temporary table, or one younger than the catalog, which is told to look again.
        let Some(relation) = catalog.relations.get(&oid) else {
            dirty_asked(asked, catalog, keys);
            shared.catalog.stale();
            continue;
        };
        if catalog.changed_since(relation.id, epoch) {
            keys.key(relation.id, &key::UNKNOWN, asked.moved); // The statement asked for the key that the table had.
            continue;
        }
        let mut key = Vec::new();
        match key::from_returned(relation, columns, &mut key) {
            Ok(()) => keys.key(relation.id, &key, asked.moved),
            Err(_) => unknown_rows([relation.id].into_iter(), asked.moved, catalog, keys),
        }
    }
    Ok(())
}

fn also(asked: &Asked, source: Source<'_>, params: &impl Params, catalog: &Catalog, keys: &mut RecordBuf) {
    for each in &asked.also {
        let one = Evident { keys: vec![each.clone()], counted: None, fallback: None, meant: Meant::Tables };
        if one.keys(source, params, keys).is_err() {
            dirty_key(each, catalog, keys);
        }
    }
}

/// Does any key stand in the text itself?
fn needs_text(evident: &Evident) -> bool {
    use crate::protocol::postgres::plan::Operand;
    evident.keys.iter().flat_map(|key| &key.columns).any(|operand| matches!(operand, Operand::Literal { .. }))
}

/// Does the statement name something that the catalog does not have?
fn unknown(action: &Action) -> bool {
    let counted = match action {
        Action::Counted(counted) | Action::Opaque(counted) => Some(counted),
        Action::CopyIn(copy) => copy.counted.as_ref(),
        _ => None,
    };
    counted.is_some_and(Counted::is_unknown)
}

/// The parameters of a Bind, where they stand in its bytes.
pub(super) struct BindParams<'a> {
    formats: &'a [u8],
    values: Vec<Option<&'a [u8]>>,
    raw: &'a [u8],
    results: &'a [u8],
    of: &'a Prepared,
}

impl<'a> BindParams<'a> {
    /// Reads what follows the names of portal and statement.
    pub(super) fn read(mut fields: Fields<'a>, of: &'a Prepared) -> Result<BindParams<'a>, WireError> {
        let raw = fields.rest();
        let codes = usize::from(fields.u16()?);
        let formats = fields.take(codes * 2)?;
        let count = fields.u16()?;
        let values = (0..count).map(|_| fields.value()).collect::<Result<_, _>>()?;
        let raw = &raw[..raw.len() - fields.rest().len()];
        let codes = usize::from(fields.u16()?);
        let results = fields.take(codes * 2)?;
        if !fields.rest().is_empty() {
            return Err(WireError::Malformed(char::from(front::BIND)));
        }
        Ok(BindParams { formats, values, raw, results, of })
    }

    /// Too many or too few for a statement that we know well: the server will say so, in its own words.
    pub(super) fn are_refused(&self) -> bool {
        self.of.script.statements.first().is_some_and(|statement| {
            let takes = self.of.types.len().max(usize::from(statement.params));
            matches!(statement.action, Action::Evident(_) | Action::Asked(_)) && self.values.len() != takes
        })
    }

    /// Each value; `None` is NULL.
    pub(super) fn each(&self) -> &[Option<&'a [u8]>] {
        &self.values
    }

    /// How they come.
    pub(super) fn bound(&self) -> Bound {
        if self.formats.chunks_exact(2).any(|code| code == [0, 1]) { Bound::Binary } else { Bound::Text }
    }

    /// Parameter formats and values, as they came.
    pub(super) fn values(&self) -> &'a [u8] {
        self.raw
    }

    /// Result format codes, two bytes each.
    pub(super) fn result_formats(&self) -> &'a [u8] {
        self.results
    }
}

impl Params for BindParams<'_> {
    fn get(&self, index: u16) -> Option<Param<'_>> {
        let index = usize::from(index);
        let value = *self.values.get(index)?;
        let at = if self.formats.len() == 2 { 0 } else { index * 2 };
        let binary = self.formats.get(at + 1) == Some(&1);
        Some(Param { declared: self.of.read_as(index), binary, value })
    }
}
