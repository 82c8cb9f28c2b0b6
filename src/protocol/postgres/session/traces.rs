//! What the session leaves behind on its server, and how it goes to another one.

use bytes::{Bytes, BytesMut};

use crate::cutover::gate::Pass;
use crate::protocol::postgres::catalog::FIRST_NORMAL_OID;
use crate::protocol::postgres::evident;
use crate::protocol::postgres::lexer::{Kind, Token};
use crate::protocol::postgres::moving::sessions::Card;
use crate::protocol::postgres::moving::{Form, Luggage, Parcel};
use crate::protocol::postgres::plan::{Action, Statement, Traces};
use crate::protocol::postgres::wire::{self, Fields, back};
use crate::record::{Backend, Side};

use super::path::ends_settings;
use super::statements::{Prepared, SqlPrepared};
use super::{Out, Session, Wait};

/// Settings that say how the server reads a text, and what sets them under other names: SET NAMES, RESET ALL, DISCARD ALL.
const DIALECT: &[&str] = &["standard_conforming_strings", "client_encoding", "backslash_quote", "names", "all"];

/// Those that it reports.
const DIALECT_REPORTED: &[&str] = &["standard_conforming_strings", "client_encoding"];

impl Session {
    /// Where its server is, and where it tells what it leaves there. Without this it stays where it is for ever.
    pub(in crate::protocol::postgres) fn belongs_to(&mut self, side: Side, card: std::sync::Arc<Card>) {
        self.side = Some(side);
        self.card = Some(card);
    }

    /// The gate is passed. `false`: the primary behind it is another than the session's server, which goes first.
    pub(super) fn entered(&mut self, pass: Pass) -> bool {
        let elsewhere = self.side.is_some_and(|side| side != pass.route().primary) && !self.uncaptured && !self.raw;
        self.wait = if elsewhere { Wait::Move(pass.route().primary) } else { Wait::Nothing };
        self.pass = Some(pass);
        !elsewhere
    }

    /// The side to which the session must be taken before it goes on.
    pub fn must_move(&self) -> Option<Side> {
        match self.wait {
            Wait::Move(to) => Some(to),
            _ => None,
        }
    }

    /// Nothing runs, nobody was promised anything, and nothing is waited for but the gate. A transaction that AND CHAIN began
    /// has promised nothing before something ran in it, and holds no pass until then.
    pub fn is_between_units(&self) -> bool {
        let calm = self.pass.is_none() && self.nothing_in_flight();
        let waits = !matches!(self.wait, Wait::Nothing | Wait::Gate(_)) || self.pieces.is_some();
        calm && !waits && self.wants_server() && self.front_rest.0 == 0 && self.back_rest == 0
    }

    /// It is inside a transaction; between units, one that AND CHAIN began.
    pub fn in_block(&self) -> bool {
        self.in_block
    }

    /// Between units: pass the gate to find out whether the primary is another one now. `false`: it is held, or stays.
    pub fn pass_idle(&mut self) -> bool {
        let Some(pass) = self.slot.try_enter() else { return false };
        if self.entered(pass) {
            self.pass = None;
        }
        self.must_move().is_some()
    }

    /// It has another server now, with all that it had.
    pub fn moved(&mut self, backend: Backend) {
        self.wait = Wait::Nothing;
        self.side = self.pass.as_ref().map_or(self.side, |pass| Some(pass.route().primary));
        self.backend = backend;
        self.path = None;
        self.names = None;
        self.ahead = None;
        self.hot_cursor = false;
        self.schema_stale = false;
        self.suspended.clear();
        self.statements.moved(self.shared.catalog.now().epoch);
        // Whoever has a message passes again with it; whoever was called has nothing to do inside.
        self.pass = None;
    }

    /// The statement at hand, of a text that was lexed last, is about to run.
    pub(super) fn leave_traces(&mut self, text: &[u8], statement: &Statement) {
        let traces = statement.traces | self.executed(statement);
        self.leave(traces);
        if traces.meets(Traces::SETTINGS) {
            self.note_customs(text, statement, &[]);
        }
    }

    pub(super) fn leave(&self, traces: Traces) {
        if let (true, Some(card)) = (traces != Traces::NONE, &self.card) {
            card.leave(traces);
        }
    }

    /// What the statement that an EXECUTE names leaves, each time.
    fn executed(&self, statement: &Statement) -> Traces {
        let Action::Execute { name, .. } = &statement.action else { return Traces::NONE };
        let parsed = || self.statements.get(name.as_bytes())?.script.statements.first().map(|one| one.traces);
        let prepared = self.statements.sql(name).map(|one| one.inner.traces);
        prepared.or_else(parsed).unwrap_or(Traces::ANY)
    }

    /// Names of custom settings, where the statement says that they are; else what may be some.
    fn note_customs(&self, text: &[u8], statement: &Statement, values: &[Option<&[u8]>]) {
        let customs = &self.shared.sessions.customs;
        let tokens = self.tokens.list().get(statement.tokens.clone()).unwrap_or_default();
        let literals = || tokens.iter().filter(|token| token.kind.is_literal());
        let content = |token: &Token| evident::content(token.kind, token.text(text)).unwrap_or_default();
        match settings(tokens, text) {
            Settings::Set => (0..tokens.len()).for_each(|at| customs.note(&dotted(tokens, at, text))),
            Settings::Block => literals().for_each(|token| {
                content(token)
                    .split(|&byte| byte == b'\'' || byte.is_ascii_whitespace())
                    .for_each(|one| customs.note(one));
            }),
            Settings::Called(names) => {
                for token in names {
                    match number(token, text).map(|n| values.get(n - 1)) {
                        None => customs.note(&content(token)),
                        Some(value) => match value {
                            Some(value) => value.iter().for_each(|value| customs.note(value)),
                            // It comes with an EXECUTE.
                            None => customs.is_indirect(),
                        },
                    }
                }
            }
            Settings::Unknown { indirect } => {
                if indirect {
                    customs.is_indirect();
                }
                literals().for_each(|token| customs.guess(&content(token)));
                values.iter().flatten().for_each(|value| customs.guess(value));
            }
        }
    }

    /// May texts behind it be read otherwise? The text was lexed last.
    pub(super) fn moves_dialect(&self, text: &[u8], statement: &Statement) -> bool {
        let undoes = ends_settings(&statement.action) || statement.action.is_rollback_to();
        if self.dialect_touched && undoes {
            return true;
        }
        let tokens = self.tokens.list().get(statement.tokens.clone()).unwrap_or_default();
        let is = |token: &Token, words: &[&str]| {
            let word = token.text(text);
            words.iter().any(|one| word.trim_ascii().eq_ignore_ascii_case(one.as_bytes()))
        };
        // What nobody could cut may do it.
        let Some(first) = tokens.first() else { return matches!(statement.action, Action::Opaque(_)) };
        if is(first, &["set", "reset", "discard"]) {
            let bare = |token: &Token| String::from_utf8_lossy(token.text(text)).trim_matches('"').to_lowercase();
            return tokens.iter().take(5).any(|token| DIALECT.contains(&&*bare(token)));
        }
        if !statement.traces.meets(Traces::SETTINGS) {
            return false;
        }
        let content = |token: &Token| {
            let content = evident::content(token.kind, token.text(text)).unwrap_or_default();
            String::from_utf8_lossy(&content).to_lowercase()
        };
        // A text may be long, and few speak of these; escapes may spell anything.
        let mentions = |name: &&str| text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name.as_bytes()));
        let may_spell = || text.contains(&b'\\') || DIALECT_REPORTED.iter().any(mentions);
        match settings(tokens, text) {
            Settings::Set => false,
            Settings::Called(names) => {
                names.iter().any(|token| token.kind == Kind::Param || DIALECT.contains(&&*content(token)))
            }
            Settings::Unknown { indirect: true } => true,
            Settings::Block | Settings::Unknown { .. } if !may_spell() => false,
            Settings::Block | Settings::Unknown { .. } => {
                tokens.iter().filter(|token| token.kind.is_literal()).any(|token| {
                    let content = content(token);
                    DIALECT_REPORTED.iter().any(|name| content.contains(name))
                })
            }
        }
    }

    /// A statement that is about to go, of a text that was lexed last, may change how texts behind it are read.
    pub(super) fn note_dialect(&mut self, text: &[u8], statement: &Statement) {
        if self.moves_dialect(text, statement) {
            (self.dialect_moves, self.dialect_touched) = (Some(self.boundaries), true);
        }
    }

    /// As [`Session::leave_traces`], of a statement whose parameters may be such names.
    pub(super) fn leave_bound(&mut self, prepared: &Prepared, values: &[Option<&[u8]>]) {
        let Some(statement) = prepared.script.statements.first() else { return };
        if statement.traces == Traces::NONE {
            return;
        }
        if statement.traces.meets(Traces::SETTINGS) {
            self.lex(&prepared.text);
            self.note_customs(&prepared.text, statement, values);
        }
        self.leave(statement.traces);
    }

    /// Types of the user's among those of a description: their oids are this server's own.
    pub(super) fn note_types(&mut self, kind: u8, body: &[u8]) {
        self.user_types |= match kind {
            _ if self.user_types => true,
            back::ROW_DESCRIPTION => has_user_types(body).unwrap_or(false),
            back::PARAMETER_DESCRIPTION => takes_user_types(body).unwrap_or(false),
            _ => false,
        };
    }

    /// Types of a client's Parse.
    pub(super) fn note_declared(&mut self, types: &[u32]) {
        self.user_types |= types.iter().any(|&oid| oid >= FIRST_NORMAL_OID);
    }

    /// What goes along.
    pub(in crate::protocol::postgres) fn luggage(&mut self) -> Luggage {
        let named: Vec<(Bytes, Prepared)> =
            self.statements.all().map(|(name, one)| (name.clone(), one.clone())).collect();
        let sql: Vec<(String, SqlPrepared)> =
            self.statements.all_sql().map(|(name, one)| (name.clone(), one.clone())).collect();
        let mut statements: Vec<Parcel> =
            sql.into_iter().filter_map(|(name, one)| self.sql_parcel(name, &one)).collect();
        statements.extend(named.into_iter().map(|(name, one)| self.parcel(name, &one)));
        if let Some(unnamed) = self.statements.get(b"").cloned() {
            statements.push(self.parcel(Bytes::new(), &unnamed));
        }
        Luggage { statements, user_types: self.user_types, chained: self.in_block }
    }

    /// As the server has it: with our RETURNING where that is in its text.
    fn parcel(&mut self, name: Bytes, prepared: &Prepared) -> Parcel {
        let mut message = BytesMut::new();
        let mut none = BytesMut::new();
        let (text, types) = (&prepared.text, prepared.elsewhere(prepared.bound));
        self.lex(text);
        let out = &mut Out { to_server: &mut message, to_client: &mut none };
        match prepared.asked.as_ref().and_then(|script| self.splice(script)) {
            Some((end, suffix)) => {
                super::front::put_spliced(out, &name, (&text[..end], suffix, &text[end..]), &types);
            }
            None => wire::parse(out.to_server, &name, text, &types),
        }
        Parcel { name, serial: prepared.serial, form: Form::Parse(message.freeze()) }
    }

    /// The PREPARE in a text that may have other statements.
    fn sql_parcel(&mut self, name: String, prepared: &SqlPrepared) -> Option<Parcel> {
        self.lex(&prepared.text);
        let script = self.shared.plans.plan(&prepared.text, &self.tokens, &self.shared.catalog.now());
        let makes = |one: &&Statement| matches!(&one.action, Action::Prepare { name: made, .. } if *made == name);
        let range = self.range(script.statements.iter().rfind(makes)?)?;
        let form = Form::Sql(prepared.text.slice(range));
        Some(Parcel { name: Bytes::from(name.into_bytes()), serial: prepared.serial, form })
    }
}

/// How a statement that may leave settings says which.
enum Settings<'t> {
    /// SET, RESET: its words, and no value.
    Set,
    /// DO: code in a literal.
    Block,
    /// All that calls `set_config` begins with one of these, a literal or a parameter.
    Called(Vec<&'t Token>),
    /// Not at all; `indirect`: it calls `set_config` with something else.
    Unknown { indirect: bool },
}

fn settings<'t>(tokens: &'t [Token], text: &[u8]) -> Settings<'t> {
    let is = |at: usize, word: &[u8]| tokens.get(at).is_some_and(|token| token.text(text).eq_ignore_ascii_case(word));
    if is(0, b"set") || is(0, b"reset") {
        return Settings::Set;
    }
    if is(0, b"do") {
        return Settings::Block;
    }
    let calls: Vec<usize> = (0..tokens.len()).filter(|&at| is(at, b"set_config") && is(at + 1, b"(")).collect();
    let whole = |at: &usize| is(at + 3, b",") || is(at + 3, b"::");
    let named = |token: &&Token| token.kind.is_literal() || token.kind == Kind::Param;
    let names: Option<Vec<&Token>> =
        calls.iter().map(|at| tokens.get(at + 2).filter(named).filter(|_| whole(at))).collect();
    match names {
        Some(names) if !names.is_empty() => Settings::Called(names),
        names => Settings::Unknown { indirect: names.is_none() },
    }
}

/// Of `$n`; from 1 on.
fn number(token: &Token, text: &[u8]) -> Option<usize> {
    let digits = token.text(text).strip_prefix(b"$").filter(|_| token.kind == Kind::Param)?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|&n| n > 0)
}

/// `a.b.c`, from the word at `at` on.
fn dotted(tokens: &[Token], at: usize, text: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    for (index, token) in tokens[at..].iter().enumerate() {
        let fits = if index % 2 == 0 { token.kind == Kind::Ident } else { token.text(text) == b"." };
        if !fits {
            break;
        }
        name.extend_from_slice(token.text(text));
    }
    name
}

fn has_user_types(body: &[u8]) -> Result<bool, wire::WireError> {
    let mut fields = Fields::new(back::ROW_DESCRIPTION, body);
    for _ in 0..fields.u16()? {
        fields.cstr()?;
        // Table oid, column number; then the type's oid; size, modifier, format.
        fields.take(6)?;
        if fields.u32()? >= FIRST_NORMAL_OID {
            return Ok(true);
        }
        fields.take(8)?;
    }
    Ok(false)
}

/// ParameterDescription: a driver that declares none learns the types of its parameters here.
fn takes_user_types(body: &[u8]) -> Result<bool, wire::WireError> {
    let mut fields = Fields::new(back::PARAMETER_DESCRIPTION, body);
    for _ in 0..fields.u16()? {
        if fields.u32()? >= FIRST_NORMAL_OID {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::lexer::{Dialect, Tokens};

    /// How names are said, and the tokens that are or begin them.
    fn said(text: &str) -> String {
        let mut tokens = Tokens::default();
        tokens.lex(text.as_bytes(), Dialect::default());
        match settings(tokens.list(), text.as_bytes()) {
            Settings::Set => "set".to_owned(),
            Settings::Block => "block".to_owned(),
            Settings::Called(names) => {
                let names = names.into_iter().map(|token| String::from_utf8_lossy(token.text(text.as_bytes())));
                names.collect::<Vec<_>>().join(" ")
            }
            Settings::Unknown { indirect } => format!("indirect: {indirect}"),
        }
    }

    #[test]
    fn values_are_told_from_the_names_that_they_are_given_to() {
        for (text, how) in [
            ("set app.tenant = 'john.doe'", "set"),
            ("RESET app.tenant", "set"),
            ("do 'begin perform set_config(''app.tenant'', ''7'', false); end'", "block"),
            ("select set_config('app.tenant', 'john.doe', false)", "'app.tenant'"),
            ("select pg_catalog.SET_CONFIG($1::text, $2, false), set_config('a.b', $3, true)", "$1 'a.b'"),
            ("select set_config('app.' || $1, 'john.doe', false)", "indirect: true"),
            ("select set_config('a.b', k, false), set_config(k, v, false) from t", "indirect: true"),
            ("select app.login('john.doe')", "indirect: false"),
        ] {
            assert_eq!(said(text), how, "{text}");
        }
    }
}
