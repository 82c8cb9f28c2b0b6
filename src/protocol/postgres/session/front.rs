//! From the client to the server: capture keys, journal them before anything that could commit goes on.

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use crate::protocol::postgres::copy_stream::CopyStream;
use crate::protocol::postgres::plan::{Action, CopyIn, Script, Statement, Traces};
use crate::protocol::postgres::wire::{self, Fields, HEADER, Header, WireError, front};

use super::back::{commits_by_itself, savepoints};
use super::capture::leans_on_dialect;
use super::counting::counts;
use super::expect::{Effect, Expect, View};
use super::names::tables_of;
use super::pieces::Pieces;
use super::statements::{Bound, Portal, Prepared, Undo, names_one_table};
use super::{Fault, Group, Out, Session, Wait};

impl Session {
    /// Take what can be taken of the client's bytes; returns how many were. Stops when something must be waited for, or a
    /// message is cut.
    pub fn client(&mut self, input: &[u8], out: &mut Out<'_>) -> Result<usize, Fault> {
        if self.raw {
            out.to_server.extend_from_slice(input);
            return Ok(input.len());
        }
        let mut at = 0;
        loop {
            at += self.stream_front(&input[at..], out)?;
            if self.front_rest.0 > 0 || !self.wants_client() {
                return Ok(at);
            }
            let rest = &input[at..];
            let Some(header) = Header::peek(rest).map_err(Fault::Client)? else { return Ok(at) };
            if header.kind == front::COPY_DATA {
                out.to_server.extend_from_slice(&rest[..HEADER]);
                at += HEADER;
                self.front_rest = (header.size - HEADER, header.kind);
                continue;
            }
            let Some(whole) = rest.get(..header.size) else {
                return self.shared.check_size(header).map(|()| at).map_err(Fault::Client);
            };
            if self.discards(header.kind, out) {
                at += header.size;
                continue;
            }
            // Only now: a client that stops in the middle of a message keeps no switch waiting.
            if !self.enter(header.kind) {
                return Ok(at);
            }
            self.message.get_or_insert(self.tickets.mark());
            if !self.front(header.kind, whole, out)? {
                return Ok(at);
            }
            self.reloaded = false;
            self.is_captured = false;
            self.unanswered = false;
            self.message = None;
            at += header.size;
        }
    }

    /// Pass the gate, unless the session only leaves or is inside, and goes on there.
    fn enter(&mut self, kind: u8) -> bool {
        // No answer ends a pass for these: Flush, and what is left of a COPY that failed.
        let no_unit =
            matches!(kind, front::TERMINATE | front::FLUSH | front::COPY_DATA | front::COPY_DONE | front::COPY_FAIL);
        if no_unit {
            return true;
        }
        if self.pass.is_some() {
            // What is behind others that are under way may be a unit of its own: only their answers tell. The pass goes with
            // the last of them, or the transaction that it leaves open goes on.
            let ends = self.is_behind_others() && (self.stopping || self.slot.is_closed());
            if ends {
                self.wait = Wait::Answers;
            }
            return !ends;
        }
        if self.stopping {
            self.wait = Wait::End;
            return false;
        }
        if let Some(pass) = self.slot.try_enter() {
            return self.entered(pass);
        }
        let slot = self.slot.clone();
        self.wait = Wait::Gate(Box::pin(async move { slot.enter().await }));
        false
    }

    /// Is the message at hand the first behind others that the server answers without another word of the client? A COPY wants
    /// more of it. And one that is looked at again was let in before.
    fn is_behind_others(&self) -> bool {
        let first = self.message.is_none() && !self.open_started;
        first && !self.groups.is_empty() && !self.copying() && !self.copy_in
    }

    fn stream_front(&mut self, input: &[u8], out: &mut Out<'_>) -> Result<usize, Fault> {
        let take = self.front_rest.0.min(input.len());
        let chunk = &input[..take];
        out.to_server.extend_from_slice(chunk);
        self.front_rest.0 -= take;
        if take > 0 && self.front_rest.1 == front::COPY_DATA {
            self.copy_chunk(chunk)?;
        }
        Ok(take)
    }

    fn copy_chunk(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        if let Some((_, copy)) = self.copies.front_mut() {
            copy.feed(chunk, &mut self.keys);
            self.spill();
            self.copy_is_of_group();
        }
        Ok(())
    }

    /// One whole message. `false`: not now, it comes again.
    fn front(&mut self, kind: u8, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        if self.skipping && !matches!(kind, front::SYNC | front::COPY_DATA | front::COPY_DONE | front::COPY_FAIL) {
            // The server skips it, so it means nothing.
            out.to_server.extend_from_slice(whole);
            return Ok(true);
        }
        if let Some(error) = self.refused.take() {
            self.refuse(kind, &error, out);
            return Ok(true);
        }
        if self.discarding && !matches!(kind, front::SYNC | front::TERMINATE) {
            return Ok(true);
        }
        if self.copy_in && !is_of_copy(kind) {
            // The server reads a COPY and takes nothing else: it ends the connection (08P01, then FATAL).
            out.to_server.extend_from_slice(whole);
            return Ok(true);
        }
        match kind {
            front::QUERY => return self.query(whole, out),
            front::PARSE => return self.parse(whole, out),
            front::BIND => return self.bind(whole, out),
            front::DESCRIBE => return self.describe(whole, out),
            front::EXECUTE => return self.execute(whole, out),
            front::CLOSE => return self.close(whole, out),
            front::SYNC => return self.sync(whole, out),
            front::FUNCTION_CALL => return self.function(whole, out),
            front::COPY_DONE | front::COPY_FAIL => return self.copy_end(kind, whole, out),
            _ => out.to_server.extend_from_slice(whole),
        }
        Ok(true)
    }

    // ---- simple protocol

    fn query(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        if self.stale() || !self.rest_read(out) {
            return Ok(false);
        }
        let text = text_of(whole).map_err(Fault::Client)?;
        let Some(script) = self.plan(text)? else { return Ok(false) };
        if let Some(refusal) = self.refusal(text, &script) {
            self.put_refusal(&refusal, out);
            return Ok(true);
        }
        let statements = &script.statements;
        let asks = |session: &mut Session, out: &mut Out<'_>| {
            session.ask_path(statements, out)
                || session.ask_names(&script, out)
                || session.ask_temporary(statements, out)
                || session.ask_ahead(&script, out)
                || session.unask(statements, out)
        };
        if !self.is_captured && asks(self, out) {
            return Ok(false);
        }
        let script = self.askable(script);
        if !self.is_captured
            && let Some(is_taken) = self.capture_query(text, &script, out)?
        {
            return Ok(is_taken);
        }
        let undoes = matches!(&script.statements[..], [statement] if self.undoes(&statement.action));
        let ends = !self.in_transaction || script.statements.iter().any(|one| could_commit(&one.action));
        let needs_text = script.statements.iter().any(|one| matches!(one.action, Action::Prepare { .. }));
        // If it has to wait it comes again, and what it does is not to be written down twice.
        self.is_captured = ends && !undoes && !self.append()?;
        if self.is_captured {
            return Ok(false);
        }
        if let [statement] = &script.statements[..] {
            self.shadow_text(text, statement);
        }
        script.statements.iter().for_each(|statement| self.note_dialect(text, statement));
        out.to_server.extend_from_slice(whole);
        let text = if needs_text { Bytes::copy_from_slice(text) } else { Bytes::new() };
        let upto = self.tickets.mark();
        let from = self.message.unwrap_or(upto);
        let undo = self.statements.remove_unnamed();
        let stretch = self.changes.stretch_before(savepoints(&script.statements));
        self.boundary(Expect::Query { script: Some(script), at: 0, text, from, upto, stretch, undo });
        Ok(true)
    }

    /// The server raises an error in the place of what is refused.
    fn put_refusal(&mut self, refusal: &str, out: &mut Out<'_>) {
        wire::query(out.to_server, refusal.as_bytes());
        let (mark, undo) = (self.tickets.mark(), self.statements.remove_unnamed());
        let (text, stretch) = (Bytes::new(), self.changes.stretch());
        self.boundary(Expect::Query { script: None, at: 0, text, from: mark, upto: mark, stretch, undo });
    }

    /// What it leaves. `Some`: it does not go as it is, but in pieces (`true`), or not now.
    fn capture_query(&mut self, text: &[u8], script: &Arc<Script>, out: &mut Out<'_>) -> Result<Option<bool>, Fault> {
        for statement in &script.statements {
            self.leave_traces(text, statement);
            self.shadow_follows(text, statement);
        }
        let pieces = self.can_be_pieces(script, text);
        if pieces && (needs_pieces(script) || self.moves_path(script)) {
            return self.begin_pieces(text, script.clone()).map(Some);
        }
        // Everything up to here is answered before anything of this Query runs.
        if !self.asked_answered(out) {
            return Ok(Some(false));
        }
        self.captured_under(script.epoch);
        let doomed = self.is_doomed(script);
        let changes = self.changes.len();
        for statement in &script.statements {
            if !doomed && !self.capture_text(text, script, statement)? {
                if pieces {
                    // Each is captured when its piece goes.
                    self.changes.truncate(changes);
                    return self.begin_pieces(text, script.clone()).map(Some);
                }
                self.capture_unread(statement);
            }
        }
        Ok(None)
    }

    /// Can it be run in pieces? Not with a parameter, which a simple Query cannot have, not around a COPY, whose stream
    /// comes before the next piece, and not where our text would not fit the client's encoding.
    fn can_be_pieces(&self, script: &Script, text: &[u8]) -> bool {
        // With the messages before it answered, it comes again.
        let status_is_known = self.groups.is_empty();
        if status_is_known && self.leans_on_its_query(script) {
            return false;
        }
        // A server refuses what goes on behind a zero.
        if text.contains(&0) {
            return false;
        }
        // PostgreSQL has read it all before it runs any of it.
        let moves = |statement: &Statement| self.moves_dialect(text, statement);
        if script.statements.len() > 1 && leans_on_dialect(text) && script.statements.iter().any(moves) {
            return false;
        }
        let utf8 = self.utf8(text);
        let fits = |statement: &Statement| {
            let action = &statement.action;
            statement.params == 0
                && !matches!(action, Action::CopyIn(_))
                && (utf8 || !matches!(action, Action::Asked(_) | Action::Fetch(_)))
        };
        !self.is_doomed(script) && script.statements.iter().all(fits)
    }

    /// Several statements in one Query are a transaction block to PostgreSQL, though none of them begins one; pieces are
    /// none. Is there one that is taken otherwise there, refused or allowed?
    fn leans_on_its_query(&self, script: &Script) -> bool {
        let mut in_block = self.in_block;
        script.statements.len() > 1
            && script.statements.iter().any(|statement| {
                let leans = !in_block && (statement.of_block || commits_by_itself(&statement.action));
                in_block = match &statement.action {
                    Action::Begin => true,
                    Action::Commit { chain } | Action::Rollback { chain } => *chain,
                    Action::PrepareTransaction { .. } => false,
                    _ => in_block,
                };
                leans
            })
    }

    /// Will every statement be refused? In a failed transaction, unless one of them ends it.
    fn is_doomed(&self, script: &Script) -> bool {
        let failed = self.status == b'E' && self.groups.is_empty() && !self.open_started;
        failed && !script.statements.iter().any(|statement| ends_failure(&statement.action))
    }

    /// Run a simple Query by the extended protocol, statement by statement.
    fn begin_pieces(&mut self, text: &[u8], script: Arc<Script>) -> Result<bool, Fault> {
        if !self.groups.is_empty() {
            self.wait = Wait::Answers;
            return Ok(false);
        }
        self.statements.remove_unnamed();
        // They were cut for its plan, and nothing else was since.
        let tokens = std::mem::take(&mut self.tokens);
        self.pieces = Some(Box::new(Pieces::new(Bytes::copy_from_slice(text), script, tokens)));
        Ok(true)
    }

    // ---- extended protocol

    fn parse(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        if self.stale() {
            return Ok(false);
        }
        let mut fields = Fields::new(front::PARSE, &whole[HEADER..]);
        let name = fields.cstr().map_err(Fault::Client)?;
        let text = fields.cstr().map_err(Fault::Client)?;
        let types = declared(&mut fields).map_err(Fault::Client)?;
        self.note_declared(&types);
        let Some(script) = self.plan(text)? else { return Ok(false) };
        let statements = &script.statements;
        let asks = self.ask_path(statements, out) || self.ask_names(&script, out) || self.ask_ahead(&script, out);
        if asks || self.unask(statements, out) {
            return Ok(false);
        }
        let script = self.askable(script);
        // A name that is taken is refused by the server, unless it was freed by something not answered yet: only its
        // answer tells which statement the name means.
        let taken = !name.is_empty() && (self.statements.is_taken(name) || self.renaming());
        let asked = self.asks(&script) && self.utf8(text);
        if asked {
            self.parse_asked(name, text, &script, &types, out);
        } else {
            out.to_server.extend_from_slice(whole);
        }
        // Kept whatever the plan is: a schema change may turn a read into a write.
        let text = Bytes::copy_from_slice(text);
        let asked = asked.then(|| script.clone());
        let serial = self.statements.next_serial();
        let types: Arc<[u32]> = types.into();
        let (told, parsed) = (types.clone(), script.epoch);
        let is_inferred = self.groups.is_empty() && !self.carried_schema && !self.open_group.schema;
        let prepared = Prepared {
            script,
            text,
            types,
            told,
            parsed,
            is_inferred,
            bound: Bound::Never,
            asked,
            twin: false,
            serial,
        };
        if taken {
            self.expect(Expect::Parse { shown: true, undo: Undo::Nothing });
            wire::bare(out.to_server, front::FLUSH);
            self.wait = Wait::Parse(Bytes::copy_from_slice(name), prepared);
        } else {
            let undo = self.statements.put(name, prepared);
            self.expect(Expect::Parse { shown: true, undo });
        }
        Ok(true)
    }

    fn parse_asked(&mut self, name: &[u8], text: &[u8], script: &Script, types: &[u32], out: &mut Out<'_>) {
        let Some((end, suffix)) = self.splice(script) else { return };
        put_spliced(out, name, (&text[..end], suffix, &text[end..]), types);
    }

    fn bind(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let mut fields = Fields::new(front::BIND, &whole[HEADER..]);
        let portal = fields.cstr().map_err(Fault::Client)?;
        let name = fields.cstr().map_err(Fault::Client)?;
        if portal.is_empty() && !self.rest_read(out) {
            return Ok(false);
        }
        self.shadow_rebinds(portal);
        let Some(prepared) = self.statements.get(name).cloned() else {
            let undo = self.statements.put_portal(portal, Portal { statement: None, binary: false, asked: false });
            return Ok(self.forward(whole, out, Expect::Bind { shown: true, undo }));
        };
        let Some(mut prepared) = self.replanned(name, prepared)? else { return Ok(false) };
        if self.ask_names_again(&prepared.script, out) {
            return Ok(false);
        }
        if let Some(script) = self.heeded(&prepared.script) {
            prepared.script = script;
        }
        let statements = &prepared.script.statements;
        let asks = self.ask_path(statements, out) || self.ask_ahead(&prepared.script, out);
        if asks || self.unask(statements, out) {
            return Ok(false);
        }
        let params = super::capture::BindParams::read(fields, &prepared).map_err(Fault::Client)?;
        if self.refusal(&prepared.text, &prepared.script).is_some() || params.are_refused() {
            let undo =
                self.statements.put_portal(portal, Portal { statement: Some(prepared), binary: false, asked: false });
            return Ok(self.forward(whole, out, Expect::Bind { shown: true, undo }));
        }
        let bound = params.bound();
        if prepared.bound < bound {
            self.statements.bound(name, bound);
        }
        self.captured_under(prepared.script.epoch);
        self.leave_bound(&prepared, params.each());
        let evident = self.capture_bind(&prepared, &params)?;
        let carries = prepared.carries();
        let instead = !carries && (prepared.twin || !evident);
        if instead && !self.groups.is_empty() {
            // What the name means is certain when earlier messages were answered.
            self.wait = Wait::Answers;
            return Ok(false);
        }
        let asked = carries || instead && self.ask_instead(&prepared, out);
        let mut binary = false;
        // SQL knows it by its name.
        self.hot_cursor |= asked && !portal.is_empty();
        if asked {
            binary = self.bind_asked(whole, portal, name, &prepared, &params, out);
        } else {
            self.shadow_bind(portal, &prepared, &params);
            out.to_server.extend_from_slice(whole);
        }
        let undo = self.statements.put_portal(portal, Portal { statement: Some(prepared), binary, asked });
        self.expect(Expect::Bind { shown: true, undo });
        Ok(true)
    }

    /// A statement prepared under an older schema is planned anew: a partition, a trigger, another key may be there since.
    /// `None`: wait for the catalog first.
    fn replanned(&mut self, name: &[u8], mut prepared: Prepared) -> Result<Option<Prepared>, Fault> {
        let is_fresh = prepared.script.epoch == self.shared.catalog.now().epoch;
        let behind = self.made.any() || prepared.script.behind;
        if is_fresh && !behind || !self.captures() {
            return Ok(Some(prepared));
        }
        let Some(script) = self.plan(&prepared.text)? else { return Ok(None) };
        if names_one_table(&prepared.text) && !self.has_changed(&prepared, &script) {
            // Whatever else has changed: its columns have the types that they had.
            prepared.parsed = script.epoch;
        }
        prepared.infer(script.epoch);
        let now = script.statements.first().and_then(super::asked_of).map(|asked| asked.suffix.as_str());
        let old = prepared.asked.as_ref().and_then(|script| super::asked_of(script.statements.first()?));
        let twin = match old {
            Some(old) => now != Some(&old.suffix),
            None => self.asks(&script),
        };
        // By other types it would be another statement.
        let is_lost = prepared.is_lost(script.epoch);
        if twin && (now.is_none() || is_lost || !self.utf8(&prepared.text)) {
            let new = script.statements.first().and_then(super::asked_of).filter(|_| is_lost);
            for asked in [old.cloned(), new.cloned()].into_iter().flatten() {
                self.dirty_asked(&asked);
            }
            if self.made.any() {
                self.unknown_write("a statement prepared before what its transaction made on its table");
            }
            return Ok(Some(prepared));
        }
        let asked = if twin { prepared.asked } else { prepared.asked.map(|_| script.clone()) };
        let prepared = Prepared { script, asked, twin, ..prepared };
        self.statements.put(name, prepared.clone());
        Ok(Some(prepared))
    }

    /// A table that the statement writes to, by its plan of then or of now, is another one since it was parsed.
    fn has_changed(&self, prepared: &Prepared, now: &Script) -> bool {
        let catalog = self.shared.catalog.now();
        let mut tables = now.statements.iter().chain(&prepared.script.statements).flat_map(tables_of);
        tables.any(|table| catalog.changed_since(table, prepared.parsed))
    }

    /// Bind with our columns behind the client's: format codes must count them where the client gives one for each.
    fn bind_asked(
        &mut self,
        whole: &[u8],
        portal: &[u8],
        name: &[u8],
        prepared: &Prepared,
        params: &super::capture::BindParams<'_>,
        out: &mut Out<'_>,
    ) -> bool {
        let formats = params.result_formats();
        let hidden = prepared.script.statements.first().and_then(super::asked_of).map_or(0, |asked| asked.hidden);
        let carries = prepared.carries();
        let statement = if carries { name } else { TWIN };
        let codes = formats.len() / 2;
        if codes <= 1 && carries {
            out.to_server.extend_from_slice(whole);
            return formats.get(1) == Some(&1);
        }
        let values = params.values();
        wire::message(out.to_server, front::BIND, |b| {
            wire::cstr(b, portal);
            wire::cstr(b, statement);
            b.extend_from_slice(values);
            if codes <= 1 {
                b.put_u16(codes as u16);
                b.extend_from_slice(formats);
            } else {
                b.put_u16((codes + hidden) as u16);
                b.extend_from_slice(formats);
                b.put_bytes(0, hidden * 2);
            }
        });
        codes == 1 && formats.get(1) == Some(&1)
    }

    /// The keys of this one Bind cannot be read off: bind a twin of the statement that asks for them.
    fn ask_instead(&mut self, prepared: &Prepared, out: &mut Out<'_>) -> bool {
        let Some(statement) = prepared.script.statements.first() else { return false };
        if super::asked_of(statement).is_none() || !self.utf8(&prepared.text) || self.skipping {
            return false;
        }
        self.lex(&prepared.text);
        let Some((end, suffix)) = self.splice(&prepared.script) else { return false };
        let text = &prepared.text;
        wire::close(out.to_server, b'S', TWIN);
        self.expect(Expect::hidden_close());
        put_spliced(out, TWIN, (&text[..end], suffix, &text[end..]), &prepared.told);
        self.expect(Expect::hidden_parse());
        true
    }

    fn describe(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let mut fields = Fields::new(front::DESCRIBE, &whole[HEADER..]);
        let what = fields.u8().map_err(Fault::Client)?;
        let name = fields.cstr().map_err(Fault::Client)?;
        let statement = self.statements.get(name).filter(|_| what == b'S');
        let asked = match what {
            b'S' => statement.and_then(|prepared| prepared.asked.clone()),
            _ => self
                .statements
                .portal(name)
                .filter(|portal| portal.asked)
                .and_then(|p| Some(p.statement.as_ref()?.script.clone())),
        };
        let of = statement.map(|prepared| (Bytes::copy_from_slice(name), prepared.serial));
        let view = asked.map_or(View::Plain, |script| view_asked(&script, false, b""));
        Ok(self.forward(whole, out, Expect::Describe { view, of }))
    }

    fn execute(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let mut fields = Fields::new(front::EXECUTE, &whole[HEADER..]);
        let name = fields.cstr().map_err(Fault::Client)?;
        self.shadow_execute(name, whole);
        let Some(portal) = self.statements.portal(name).cloned() else {
            // A cursor that SQL declared, or nothing.
            if self.hot_cursor {
                self.unknown_write("a cursor read by its protocol name");
            }
            return self.execute_committing(whole, out, None);
        };
        let Some(prepared) = portal.statement.clone() else {
            self.unknown_write("a statement that tandem did not see prepared");
            self.hot_cursor = true;
            self.leave(Traces::ANY);
            return self.execute_committing(whole, out, None);
        };
        if let Some(refusal) = self.refusal(&prepared.text, &prepared.script) {
            // Prepared and bound as it came, so that its parameters are what they are; only it never runs.
            self.put_hidden(REFUSAL, refusal.as_bytes(), View::Plain, out);
            return Ok(true);
        }
        let Some(statement) = prepared.script.statements.first() else {
            return Ok(self.forward(whole, out, Expect::Execute { view: View::Plain, effect: Effect::None }));
        };
        if !self.is_captured {
            let statements = &prepared.script.statements;
            if self.ask_path(statements, out) || self.ask_temporary(statements, out) {
                return Ok(false);
            }
            // The name of a two-phase transaction speaks for what lies before it.
            let names = matches!(statement.action, Action::PrepareTransaction { .. });
            if names && !self.asked_answered(out) {
                return Ok(false);
            }
            self.capture_run(&prepared, statement);
        }
        let goes = self.run(name, whole, (&prepared, statement), &portal, out)?;
        self.is_captured = !goes;
        Ok(goes)
    }

    /// Execute of a portal whose statement is known.
    fn run(
        &mut self,
        name: &[u8],
        whole: &[u8],
        (prepared, statement): (&Prepared, &Statement),
        portal: &Portal,
        out: &mut Out<'_>,
    ) -> Result<bool, Fault> {
        self.shadow_runs(&prepared.text, statement);
        let is_utility = matches!(statement.action, Action::Pass) && statement.read.is_none();
        if is_utility || self.dialect_touched || statement.traces.meets(Traces::SETTINGS) {
            self.lex(&prepared.text);
            self.note_dialect(&prepared.text, statement);
        }
        let counts = counts(&statement.action) || self.hot_cursor && matches!(statement.action, Action::Fetch(_));
        // A statement of a transaction cannot commit, whatever it is.
        let commits = could_commit(&statement.action);
        if counts && commits && !self.in_transaction {
            if !self.asked_answered(out) || !self.append()? || !self.announce_any() {
                return Ok(false);
            }
            self.provisional();
        }
        if counts {
            self.count_before(statement, commits && !self.in_transaction, out);
        }
        if portal.asked {
            self.execute_asked(name, whole, prepared, portal.binary, out);
            if counts {
                self.count_after(out);
            }
            return Ok(true);
        }
        if let Action::CopyIn(copy) = &statement.action {
            self.copy_expected(copy);
        }
        if commits && !counts {
            return self.execute_committing(whole, out, Some((&statement.action, &prepared.text)));
        }
        let effect = self.effect(&statement.action, &prepared.text);
        self.forward(whole, out, Expect::Execute { view: View::Plain, effect });
        if counts {
            self.count_after(out);
        }
        Ok(true)
    }

    /// An Execute that could commit: what came before it is journaled first.
    fn execute_committing(
        &mut self,
        whole: &[u8],
        out: &mut Out<'_>,
        known: Option<(&Action, &Bytes)>,
    ) -> Result<bool, Fault> {
        if !self.asked_answered(out) {
            return Ok(false);
        }
        let undoes = known.is_some_and(|(action, _)| self.undoes(action));
        if !undoes && !self.append()? {
            return Ok(false);
        }
        self.in_transaction = false;
        let effect = known.map_or(Effect::None, |(action, text)| self.effect(action, text));
        let goes = self.forward(whole, out, Expect::Execute { view: View::Plain, effect });
        self.undoing = undoes;
        Ok(goes)
    }

    /// Does it roll a transaction back that is open for sure? Then it commits nothing, nor does the end of its group if nothing
    /// follows it there, and nobody need look for what was written. What that was is known until the answer comes: behind an
    /// error of its own group the server skips it, and a savepoint may bring back what lay before the error.
    fn undoes(&self, action: &Action) -> bool {
        let is_open = self.in_transaction || self.status == b'E' && self.groups.is_empty();
        is_open && self.changes.is_empty() && matches!(action, Action::Rollback { chain: false })
    }

    /// Without a RETURNING of the client's, a row limit would suspend the portal that the client believes has no rows.
    fn execute_asked(&mut self, name: &[u8], whole: &[u8], prepared: &Prepared, binary: bool, out: &mut Out<'_>) {
        let view = view_asked(&prepared.script, binary, name);
        if view.asked().is_some_and(|asked| asked.shown) {
            self.limited |= !whole.ends_with(&[0; 4]);
            out.to_server.extend_from_slice(whole);
        } else {
            wire::execute(out.to_server, name, 0);
        }
        self.asking += 1;
        self.flushed = false;
        self.expect(Expect::Execute { view, effect: Effect::None });
    }

    fn close(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let mut fields = Fields::new(front::CLOSE, &whole[HEADER..]);
        let what = fields.u8().map_err(Fault::Client)?;
        let name = fields.cstr().map_err(Fault::Client)?;
        let named = what == b'S' && !name.is_empty() && self.statements.is_taken(name);
        let statement = named.then(|| Bytes::copy_from_slice(name));
        if what == b'P' && name.is_empty() && !self.rest_read(out) {
            return Ok(false);
        }
        let undo = match (what, name.is_empty()) {
            (b'S', true) => self.statements.remove_unnamed(),
            (b'P', false) => self.statements.close_portal(name),
            _ => Undo::Nothing,
        };
        Ok(self.forward(whole, out, Expect::Close { statement, shown: true, undo }))
    }

    /// Sync commits what is outside a transaction block.
    fn sync(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        if self.copy_in {
            // The server reads the stream and ignores it.
            out.to_server.extend_from_slice(whole);
            return Ok(true);
        }
        // What is of another group commits, whatever becomes of the COPY.
        let copies = self.copies.iter().any(|&(group, _)| group == self.boundaries);
        self.drop_failed();
        let commits = !self.in_transaction && !copies && !self.undoing && !self.is_failed();
        if commits && (!self.asked_answered(out) || !self.append()?) {
            self.hurried = matches!(self.wait, Wait::Keys);
            return Ok(false);
        }
        out.to_server.extend_from_slice(whole);
        self.boundary(Expect::Sync { shown: true });
        Ok(true)
    }

    fn function(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let oid = Fields::new(front::FUNCTION_CALL, &whole[HEADER..]).u32().map_err(Fault::Client)?;
        if !LARGE_OBJECTS.contains(&oid) {
            if let Some(refusal) = self.refused_call() {
                self.put_refusal(&refusal, out);
                return Ok(true);
            }
            self.unknown_write(FAST_PATH);
            self.hot_cursor = true;
            self.leave(Traces::ANY);
        }
        if !self.asked_answered(out) || !self.append()? {
            return Ok(false);
        }
        out.to_server.extend_from_slice(whole);
        self.boundary(Expect::Function);
        Ok(true)
    }

    /// The end of a COPY stream: outside a transaction it commits.
    fn copy_end(&mut self, kind: u8, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        // It comes again if the journal is waited for: the stream is this one's until it goes.
        if let Some((_, copy)) = self.copies.front_mut()
            && kind == front::COPY_DONE
        {
            copy.finish(&mut self.keys);
        }
        let is_read = std::mem::take(&mut self.copy_in);
        if kind == front::COPY_FAIL && is_read && self.is_alone_outside() && self.copies.len() == 1 {
            // The server refuses the COPY, and with it all that is not committed. In a transaction a savepoint may bring back
            // what lay before it.
            self.keys.clear();
            self.parts.clear();
        } else if !self.in_transaction && !self.is_failed() && !self.append()? {
            return Ok(false);
        }
        self.copies.pop_front();
        self.copy_is_of_group();
        out.to_server.extend_from_slice(whole);
        if matches!(self.expects.back(), Some(Expect::Sync { .. })) {
            self.expects.push_back(Expect::CopyEnd);
        }
        Ok(true)
    }

    /// Is what the server works on all that is under way, and in no transaction block? It answered whatever came before.
    fn is_alone_outside(&self) -> bool {
        let groups = self.groups.len() + usize::from(self.open_started);
        groups == 1 && self.status == b'I' && !self.in_block
    }

    /// Its records belong to the group whose Execute or Query began the copy: they end with it, also if it fails half-way.
    fn copy_is_of_group(&mut self) {
        if !self.open_started
            && let Some(group) = self.groups.back_mut()
        {
            group.upto = self.tickets.mark();
        }
    }

    fn copying(&self) -> bool {
        !self.copies.is_empty()
    }

    /// A COPY was sent: its stream comes when the server asks for it. One Query may have several.
    pub(super) fn copy_expected(&mut self, copy: &CopyIn) {
        self.copies.push_back((self.boundaries, CopyStream::new(copy, self.dialect.encoding)));
    }

    // ---- what they share

    fn forward(&mut self, whole: &[u8], out: &mut Out<'_>, expect: Expect) -> bool {
        out.to_server.extend_from_slice(whole);
        self.expect(expect);
        true
    }

    /// The server will answer, unless it skips to the next Sync.
    pub(super) fn expect(&mut self, expect: Expect) {
        self.open_started = true;
        self.undoing = false;
        if !self.skipping {
            self.expects.push_back(expect);
        }
    }

    /// A message that ReadyForQuery answers went out.
    pub(super) fn boundary(&mut self, expect: Expect) {
        self.discarding = false;
        let open = std::mem::take(&mut self.open_group);
        self.groups.push_back(Group { upto: self.tickets.mark(), ..open });
        self.expects.push_back(expect);
        self.boundaries += 1;
        self.open_started = false;
        self.skipping = false;
        self.flushed = false;
        self.in_transaction = false;
        self.undoing = false;
    }

    /// Are all hidden keys there? If not, the server is asked to hurry and the message waits.
    pub(super) fn asked_answered(&mut self, out: &mut Out<'_>) -> bool {
        if self.asking == 0 {
            self.read_rest(out);
        }
        if self.asking == 0 {
            self.limited = false;
            return true;
        }
        if !self.flushed && self.open_started {
            wire::bare(out.to_server, front::FLUSH);
            self.flushed = true;
        }
        self.wait = Wait::Keys;
        false
    }

    /// The unnamed portal is about to go: is there nothing left in it that it did not tell?
    fn rest_read(&mut self, out: &mut Out<'_>) -> bool {
        !self.limited || self.asked_answered(out)
    }

    /// A portal that was not read to its end has written rows whose keys it did not tell: read on, for us alone.
    fn read_rest(&mut self, out: &mut Out<'_>) {
        for one in std::mem::take(&mut self.suspended) {
            let Some(asked) = one.script.statements.first().and_then(super::asked_of) else { continue };
            if !one.open || self.skipping {
                self.dirty_asked(asked);
                continue;
            }
            wire::execute(out.to_server, &one.portal, 0);
            self.asking += 1;
            self.flushed = false;
            let view = View::Rest { script: one.script, binary: one.binary };
            self.expect(Expect::Execute { view, effect: Effect::None });
        }
    }

    /// After a schema change of its own, a session waits for the catalog that knows it.
    fn stale(&mut self) -> bool {
        if !self.schema_stale {
            return false;
        }
        self.schema_stale = false;
        self.wait = Wait::Catalog(self.shared.catalog.reloaded());
        true
    }
}

/// Built-in functions that work on large objects, which are not mirrored: what libpq's `lo_*` and drivers' large-object APIs call
/// (`pg_proc.dat`).
const LARGE_OBJECTS: &[u32] =
    &[952, 953, 954, 955, 956, 957, 958, 964, 715, 764, 765, 767, 1004, 3170, 3171, 3172, 3457, 3458, 3459, 3460];

/// What is said of any other.
pub(super) const FAST_PATH: &str = "a function called by the fast path";

/// The name of what raises an error in place of a statement that is refused.
const REFUSAL: &[u8] = b"tandem refusal";

/// The name of the statement that asks in place of another.
const TWIN: &[u8] = b"tandem twin";

/// Parse of a text with our RETURNING in it.
pub(super) fn put_spliced(out: &mut Out<'_>, name: &[u8], (head, suffix, tail): (&[u8], &str, &[u8]), types: &[u32]) {
    wire::message(out.to_server, front::PARSE, |b| {
        wire::cstr(b, name);
        b.extend_from_slice(head);
        b.extend_from_slice(suffix.as_bytes());
        wire::cstr(b, tail);
        b.put_u16(types.len() as u16);
        types.iter().for_each(|&oid| b.put_u32(oid));
    });
}

/// May this come while the server reads a COPY?
fn is_of_copy(kind: u8) -> bool {
    matches!(kind, front::COPY_DATA | front::COPY_DONE | front::COPY_FAIL | front::SYNC | front::FLUSH)
}

/// Could this end a transaction, or commit by itself?
pub(super) fn could_commit(action: &Action) -> bool {
    let ends = matches!(action, Action::Commit { .. } | Action::Rollback { .. } | Action::PrepareTransaction { .. });
    ends || commits_by_itself(action)
}

/// Must the server be asked for keys or counts between the statements?
fn needs_pieces(script: &Script) -> bool {
    let asks = |action: &Action| matches!(action, Action::Asked(_)) || counts(action);
    !script.whole && script.statements.iter().any(|statement| asks(&statement.action))
}

/// Could this make statements run again in a failed transaction?
fn ends_failure(action: &Action) -> bool {
    could_commit(action) || matches!(action, Action::Savepoint(_))
}

/// The view on an answer with our columns.
fn view_asked(script: &Arc<Script>, binary: bool, portal: &[u8]) -> View {
    View::Asked { script: script.clone(), at: 0, piece: false, binary, portal: Bytes::copy_from_slice(portal) }
}

/// A Query's text: everything but the terminating zero, which must be there and be the only one.
fn text_of(whole: &[u8]) -> Result<&[u8], WireError> {
    match whole[HEADER..].split_last() {
        Some((0, text)) => Ok(text),
        _ => Err(WireError::Malformed('Q')),
    }
}

fn declared(fields: &mut Fields<'_>) -> Result<Vec<u32>, WireError> {
    let count = fields.u16()?;
    (0..count).map(|_| fields.u32()).collect()
}
