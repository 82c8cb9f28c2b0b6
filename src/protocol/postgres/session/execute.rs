//! EXECUTE of SQL: which statement a name means, and what it writes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::postgres::evident::{Arguments, NoParams, Source};
use crate::protocol::postgres::lexer::Tokens;
use crate::protocol::postgres::plan::{Action, Made, Operand, Script, Statement};

use super::Session;
use super::counting::{counts, runs_user_code};
use super::expect::{Effect, Expect};
use super::statements::SqlPrepared;

/// More texts than this are cut again.
const TEXTS_MAX: usize = 16;

/// What the EXECUTEs of one text mean, found once for all of them.
#[derive(Default)]
pub(super) struct Executed {
    own: Option<Own>,
    /// Texts of what they execute, as they are planned now.
    texts: Vec<Planned>,
}

/// What the text prepares itself.
struct Own {
    /// By name, which of its statements prepare it.
    prepares: HashMap<String, Vec<usize>>,
    /// The text itself, where it executes one of them.
    text: Bytes,
}

struct Planned {
    text: Bytes,
    tokens: Tokens,
    /// Behind this.
    made: Made,
    script: Arc<Script>,
}

impl Own {
    fn of(script: &Script) -> Own {
        let mut prepares: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, statement) in script.statements.iter().enumerate() {
            if let Action::Prepare { name, .. } = &statement.action {
                prepares.entry(name.clone()).or_default().push(at);
            }
        }
        Own { prepares, text: Bytes::new() }
    }
}

impl Planned {
    fn is_of(&self, text: &Bytes) -> bool {
        // The same memory, which is kept here: nobody compares the bytes.
        self.text.as_ptr() == text.as_ptr() && self.text.len() == text.len()
    }

    /// The statement that stood there when it was prepared.
    fn statement(&self, inner: &Statement, types: &[u32]) -> Option<(Arc<Statement>, Vec<u32>)> {
        let behind = self.script.statements.partition_point(|one| one.tokens.start <= inner.tokens.start);
        let statement = self.script.statements.get(behind.checked_sub(1)?)?;
        match &statement.action {
            Action::Prepare { inner: other, types, .. } if other.tokens == inner.tokens => {
                Some((other.clone(), types.clone()))
            }
            // By Parse.
            _ if statement.tokens == inner.tokens => Some((Arc::new(statement.clone()), types.to_vec())),
            _ => None,
        }
    }
}

impl Session {
    /// Every statement that a name of SQL may mean when what was sent so far has run: the one that its own script prepared last
    /// before it; else the one it means now, and those that are being prepared. Keys too many do no harm.
    pub(super) fn prepared_as(
        &mut self,
        name: &str,
        script: &Script,
        execute: &Statement,
        text: &[u8],
    ) -> Vec<SqlPrepared> {
        if let Some(own) = self.prepared_here(name, script, execute, text) {
            return vec![own]; // Had it failed, the server would have skipped what follows.
        }
        let mut meant: Vec<_> = self.statements.sql(name).cloned().into_iter().collect();
        meant.extend(self.statements.get(name.as_bytes()).and_then(|parsed| {
            let inner = Arc::new(parsed.script.statements.first()?.clone());
            Some(SqlPrepared { inner, types: parsed.told.to_vec(), text: parsed.text.clone(), serial: 0 })
        }));
        for expect in &self.expects {
            match expect {
                Expect::Query { script: Some(script), text, .. } => {
                    let all = script.statements.iter().filter_map(|statement| prepared(statement, name, text));
                    meant.extend(all);
                }
                Expect::Execute { effect: Effect::Prepared { name: other, inner, types, text }, .. }
                    if other == name =>
                {
                    let (inner, types, text) = (inner.clone(), types.clone(), text.clone());
                    meant.push(SqlPrepared { inner, types, text, serial: 0 });
                }
                _ => {}
            }
        }
        meant
    }

    fn prepared_here(&mut self, name: &str, script: &Script, execute: &Statement, text: &[u8]) -> Option<SqlPrepared> {
        let own = self.executed.get_or_insert_default().own.get_or_insert_with(|| Own::of(script));
        let all = own.prepares.get(name)?;
        let is_before =
            |at: &usize| script.statements.get(*at).is_some_and(|one| one.tokens.end <= execute.tokens.start);
        let last = *all.get(all.partition_point(is_before).checked_sub(1)?)?;
        if own.text.is_empty() {
            own.text = Bytes::copy_from_slice(text);
        }
        prepared(script.statements.get(last)?, name, &own.text)
    }

    /// What such a statement writes. The schema may have changed since it was prepared.
    pub(super) fn capture_execute(&mut self, text: &[u8], args: &[Option<Operand>], meant: &SqlPrepared) {
        let mut executed = self.executed.take().unwrap_or_default();
        let planned = self.planned_now(&mut executed.texts, &meant.text);
        let (inner, types) =
            planned.statement(&meant.inner, &meant.types).unwrap_or((meant.inner.clone(), meant.types.clone()));
        match &inner.action {
            Action::Evident(evident) => {
                let source = Source { text: &meant.text, tokens: &planned.tokens, utf8: self.client_utf8 };
                let own = Source { text, tokens: &self.tokens, utf8: self.client_utf8 };
                let arguments = Arguments { source: own, args, types: &types };
                if evident.keys_executed(source, arguments, &NoParams, &mut self.keys).is_err() {
                    self.dirty_evident(evident);
                }
                self.counted(evident.counted.as_ref());
                // Its rows are those of a temporary table, or of what a temporary view is of.
                if self.hides(evident.keys.iter().flat_map(|key| &key.tables).map(|table| table.id)) {
                    self.dirty_any();
                }
            }
            other => self.capture_other(other, &meant.text),
        }
        self.hot_cursor |= runs_user_code(&inner.action);
        if counts(&inner.action) {
            self.dirty_any();
        }
        self.executed = Some(executed);
    }

    /// The one of the planned texts that this is, planned now if it was not behind what is made by now.
    fn planned_now<'a>(&self, texts: &'a mut Vec<Planned>, text: &Bytes) -> &'a Planned {
        let catalog = self.shared.catalog.now();
        let is_now = |one: &Planned| one.script.epoch == catalog.epoch && one.made == self.made;
        let at = match texts.iter().position(|one| one.is_of(text)) {
            Some(at) if is_now(&texts[at]) => at,
            known => {
                let mut tokens = Tokens::default();
                match known {
                    Some(at) => tokens = texts.swap_remove(at).tokens,
                    None => tokens.lex(text, self.dialect),
                }
                let script = self.plan_of(text, &tokens, &catalog);
                if texts.len() >= TEXTS_MAX {
                    texts.clear();
                }
                texts.push(Planned { text: text.clone(), tokens, made: self.made.clone(), script });
                texts.len() - 1
            }
        };
        &texts[at]
    }
}

/// The statement, if it prepares one by this name.
fn prepared(statement: &Statement, name: &str, text: &Bytes) -> Option<SqlPrepared> {
    match &statement.action {
        Action::Prepare { name: other, inner, types } if other == name => {
            Some(SqlPrepared { inner: inner.clone(), types: types.clone(), text: text.clone(), serial: 0 })
        }
        _ => None,
    }
}
