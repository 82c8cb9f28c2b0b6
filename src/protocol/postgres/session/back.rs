//! From the server to the client: take off what is ours, learn keys, hold what must not be known yet.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::protocol::postgres::lexer::Encoding;
use crate::protocol::postgres::plan::{Action, Script, Statement};
use crate::protocol::postgres::wire::{Fields, HEADER, Header, WireError, back, bare, message};

use super::counting::counts;
use super::expect::{Effect, Expect, View};
use super::savepoints::Stretch;
use super::statements::Undo;
use super::tickets::Mark;
use super::{Fault, Out, Session, Suspended, Wait};
use crate::journal::Outcome;

impl Session {
    /// Take what can be taken of the server's bytes; returns how many were. Stops when something must be held, or a
    /// message is cut.
    pub fn server(&mut self, input: &[u8], out: &mut Out<'_>) -> Result<usize, Fault> {
        if self.raw {
            out.to_client.extend_from_slice(input);
            return Ok(input.len());
        }
        self.shadow_begins(out);
        let taken = self.take_answers(input, out);
        self.shadow_keeps(out);
        taken
    }

    fn take_answers(&mut self, input: &[u8], out: &mut Out<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            at += self.stream_back(&input[at..], out);
            if !self.wants_server() || self.back_rest > 0 {
                return Ok(at);
            }
            let rest = &input[at..];
            let Some(header) = Header::peek(rest).map_err(Fault::Server)? else { return Ok(at) };
            if let (back::DATA_ROW, Some(pieces)) = (header.kind, &mut self.pieces) {
                pieces.show_head(out);
            }
            if self.streams_back(header.kind) {
                out.to_client.extend_from_slice(&rest[..HEADER]);
                at += HEADER;
                self.back_rest = header.size - HEADER;
                continue;
            }
            let Some(whole) = rest.get(..header.size) else {
                return self.shared.check_size(header).map(|()| at).map_err(Fault::Server);
            };
            if !self.back(header.kind, whole, out)? {
                self.holding = true;
                return Ok(at);
            }
            at += header.size;
        }
    }

    fn stream_back(&mut self, input: &[u8], out: &mut Out<'_>) -> usize {
        let take = self.back_rest.min(input.len());
        out.to_client.extend_from_slice(&input[..take]);
        self.back_rest -= take;
        take
    }

    /// Data goes through as it comes, unless it has columns of ours.
    fn streams_back(&self, kind: u8) -> bool {
        match kind {
            back::COPY_DATA => true,
            back::DATA_ROW => {
                let hidden = View::is_hidden;
                !matches!(self.expects.front(), Some(Expect::Execute { view, .. }) if hidden(view))
            }
            _ => false,
        }
    }

    /// One whole message. `false`: not now, something must be durable first.
    fn back(&mut self, kind: u8, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let body = &whole[HEADER..];
        match kind {
            back::NOTICE_RESPONSE | back::NOTIFICATION_RESPONSE => {}
            back::PARAMETER_STATUS => {
                self.parameter(body);
                if self.pieces.as_mut().is_some_and(|pieces| pieces.hold_setting(whole)) {
                    return Ok(true);
                }
            }
            back::PARSE_COMPLETE => return self.parse_complete(whole, out),
            back::BIND_COMPLETE => match self.expects.pop_front() {
                Some(Expect::Bind { shown: true, .. }) => {}
                Some(Expect::Bind { shown: false, .. }) => return Ok(true),
                _ => return Err(out_of_turn(kind)),
            },
            back::CLOSE_COMPLETE => match self.expects.pop_front() {
                Some(Expect::Close { statement, shown, .. }) => {
                    statement.iter().for_each(|name| self.statements.remove(name));
                    if !shown {
                        return Ok(true);
                    }
                }
                _ => return Err(out_of_turn(kind)),
            },
            back::ROW_DESCRIPTION | back::NO_DATA => return self.description(kind, whole, out),
            back::PARAMETER_DESCRIPTION => {
                self.note_types(kind, body);
                self.parameters_told(body).map_err(Fault::Server)?;
            }
            back::DATA_ROW => return self.asked_row(body, out).map(|()| true),
            back::COMMAND_COMPLETE | back::EMPTY_QUERY_RESPONSE | back::PORTAL_SUSPENDED => {
                return self.complete(kind, whole, out);
            }
            back::COPY_IN_RESPONSE => self.copy_begins(),
            back::ERROR_RESPONSE => return self.error(whole, out).map(|()| true),
            back::READY_FOR_QUERY => return self.ready(whole, out),
            _ => {}
        }
        out.to_client.extend_from_slice(whole);
        Ok(true)
    }

    fn parse_complete(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        let Some(Expect::Parse { shown, .. }) = self.expects.pop_front() else {
            return Err(out_of_turn(back::PARSE_COMPLETE));
        };
        if self.waits_for_parse()
            && let Wait::Parse(name, prepared) = std::mem::replace(&mut self.wait, Wait::Nothing)
        {
            self.statements.put(&name, prepared);
        }
        if shown {
            out.to_client.extend_from_slice(whole);
        }
        Ok(true)
    }

    /// RowDescription or NoData: of a Describe, or the head of a simple Query's rows.
    fn description(&mut self, kind: u8, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        self.note_types(kind, &whole[HEADER..]);
        let view = match self.expects.front() {
            Some(Expect::Describe { .. }) => match self.expects.pop_front() {
                Some(Expect::Describe { view, .. }) => view,
                _ => return Err(out_of_turn(kind)),
            },
            Some(Expect::Query { .. }) => View::Plain,
            _ => return Err(out_of_turn(kind)),
        };
        match view.asked() {
            Some(asked) if kind == back::ROW_DESCRIPTION && asked.shown => {
                let fields = describe_without(&whole[HEADER..], asked.hidden).map_err(Fault::Server)?;
                let mut shown = BytesMut::new();
                message(&mut shown, kind, |b| b.extend_from_slice(&fields));
                self.show_description(&view, &shown, out);
            }
            Some(_) | None if view.is_piece() && (kind == back::NO_DATA || view.asked().is_some()) => {}
            Some(_) if kind == back::ROW_DESCRIPTION => bare(out.to_client, back::NO_DATA),
            _ => self.show_description(&view, whole, out),
        }
        Ok(true)
    }

    /// A driver that declares no types binds by these.
    fn parameters_told(&mut self, body: &[u8]) -> Result<(), WireError> {
        let Some(Expect::Describe { of: Some((name, serial)), .. }) = self.expects.front() else { return Ok(()) };
        let mut fields = Fields::new(back::PARAMETER_DESCRIPTION, body);
        let types = (0..fields.u16()?).map(|_| fields.u32()).collect::<Result<Vec<_>, _>>()?;
        self.statements.told(name, *serial, types.into_iter());
        Ok(())
    }

    fn show_description(&mut self, view: &View, shown: &[u8], out: &mut Out<'_>) {
        match &mut self.pieces {
            Some(pieces) if view.is_described_late() => pieces.hold_head(shown),
            _ => out.to_client.extend_from_slice(shown),
        }
    }

    /// A row with hidden columns: learn the key, show the rest.
    fn asked_row(&mut self, body: &[u8], out: &mut Out<'_>) -> Result<(), Fault> {
        let Some(Expect::Execute { view, .. }) = self.expects.front() else {
            return Err(out_of_turn(back::DATA_ROW));
        };
        match *view {
            View::Count { after } => return self.count_row(after, body).map_err(Fault::Server),
            View::Ahead => return self.ahead_row(body).map_err(Fault::Server),
            View::Path => return self.path_row(body).map_err(Fault::Server),
            View::Names => return self.names_row(body).map_err(Fault::Server),
            View::Cursor => return self.cursor_row(body).map_err(Fault::Server),
            _ => {}
        }
        let (Some(asked), View::Asked { binary, script, .. } | View::Rest { binary, script }) = (view.asked(), view)
        else {
            return Err(out_of_turn(back::DATA_ROW));
        };
        let mut fields = Fields::new(back::DATA_ROW, body);
        let total = usize::from(fields.u16().map_err(Fault::Server)?);
        let shown = total.checked_sub(asked.hidden).ok_or_else(|| out_of_turn(back::DATA_ROW))?;
        let start = fields.rest();
        for _ in 0..shown {
            fields.value().map_err(Fault::Server)?;
        }
        if asked.shown && matches!(view, View::Asked { .. }) {
            let columns = &start[..start.len() - fields.rest().len()];
            message(out.to_client, back::DATA_ROW, |b| {
                b.put_u16(shown as u16);
                b.extend_from_slice(columns);
            });
        }
        let (binary, epoch) = (*binary, script.epoch);
        let catalog = self.shared.catalog.now();
        self.epoch = super::oldest(&self.keys, self.epoch, epoch);
        super::capture::returned(&mut self.keys, asked, fields, binary, (&catalog, epoch), &self.shared)
            .map_err(Fault::Server)?;
        self.spill();
        Ok(())
    }

    /// A statement is done. What commits is shown when its record is durable.
    fn complete(&mut self, kind: u8, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        if !self.is_durable() {
            return Ok(false);
        }
        let tag = whole.get(HEADER..whole.len() - 1).unwrap_or_default();
        let mut piece = false;
        match self.expects.front_mut() {
            Some(Expect::Query { script, at, text, from, upto, stretch, .. }) => {
                let done = script.as_ref().and_then(|script| script.statements.get(*at));
                if done.is_some_and(|done| matches!(done.action, Action::Savepoint(_))) {
                    *stretch = stretch.later(1);
                }
                let effect = effect_of_query(script.as_deref(), *at, text, (*from, *upto), *stretch);
                let upto = *upto;
                *at += 1;
                self.apply(effect, tag, upto);
            }
            Some(Expect::Execute { view, .. }) if kind == back::PORTAL_SUSPENDED => {
                if let View::Asked { portal, script, binary, .. } = view {
                    self.suspended.retain(|one| one.portal != *portal);
                    self.suspended.push(Suspended {
                        portal: portal.clone(),
                        script: script.clone(),
                        binary: *binary,
                        open: portal.is_empty(),
                    });
                    self.asking -= 1;
                }
                self.expects.pop_front();
            }
            Some(Expect::Execute { .. }) => {
                let Some(Expect::Execute { view, effect }) = self.expects.pop_front() else {
                    return Err(out_of_turn(kind));
                };
                if let View::Count { after } = view {
                    if after {
                        self.asking -= 1;
                        self.count_done();
                    }
                    return Ok(true);
                }
                if matches!(view, View::Ahead | View::Path | View::Names | View::Cursor | View::Rest { .. }) {
                    self.asking -= 1;
                    return Ok(true);
                }
                if let View::Asked { portal, .. } = &view {
                    self.suspended.retain(|one| one.portal != *portal);
                    self.asking -= 1;
                }
                self.counted_tag(tag);
                piece = view.is_piece();
                let upto = match effect {
                    Effect::Ends { upto, .. } | Effect::Commits { upto, .. } => upto,
                    _ => self.front_mark(),
                };
                self.apply(effect, tag, upto);
            }
            _ => return Err(out_of_turn(kind)),
        }
        match &mut self.pieces {
            Some(pieces) if piece => pieces.completed(whole, out),
            _ => out.to_client.extend_from_slice(whole),
        }
        Ok(true)
    }

    /// A statement completed under this tag; the records of its message, and those before, lie below `upto`.
    fn apply(&mut self, effect: Effect, tag: &[u8], upto: Mark) {
        self.chained = false;
        if matches!(tag, b"COMMIT" | b"PREPARE TRANSACTION") && !matches!(effect, Effect::Ends { .. }) {
            self.tickets.part(upto, Outcome::Committed); // Of a text that nobody could read.
        }
        if matches!(tag, b"BEGIN" | b"START TRANSACTION") {
            self.in_block = true;
        }
        let is_read = matches!(effect, Effect::Savepoint { .. } | Effect::Ends { .. });
        if !is_read && matches!(tag, b"SAVEPOINT" | b"RELEASE" | b"ROLLBACK") {
            self.savepoint_unread(tag);
        }
        match effect {
            Effect::None => {}
            Effect::Savepoint { savepoint, stretch } => self.savepoint_done(savepoint, stretch),
            Effect::Ends { chain, upto: ended } => self.transaction_ended(chain, tag, ended, upto),
            Effect::Commits { schema, .. } => {
                if !self.in_block {
                    self.tickets.part(upto, Outcome::Committed);
                }
                self.front_group().schema |= schema;
            }
            Effect::Prepared { name, inner, types, text } => {
                let serial = self.statements.next_serial();
                self.statements.put_sql(name, super::statements::SqlPrepared { inner, types, text, serial });
            }
            Effect::Deallocated { name } => self.statements.deallocate(name.as_deref()),
            Effect::Schema => self.front_group().schema = true,
        }
    }

    /// All below `ended` has its fate; what lies between it and `upto` shares it in part.
    fn transaction_ended(&mut self, chain: bool, tag: &[u8], ended: Mark, upto: Mark) {
        let outcome = if tag == b"ROLLBACK" { Outcome::Aborted } else { Outcome::Committed };
        self.tickets.settle(ended, outcome);
        self.tickets.part(upto, outcome);
        self.changes.transaction_over();
        self.front_group().ended = true;
        self.shadow_unit_over(outcome == Outcome::Aborted);
        self.in_block = chain;
        self.chained = chain;
    }

    /// The statement that failed may have committed before it did.
    fn failed_behind_a_commit(&mut self) {
        self.chained = false;
        let upto = match self.expects.front() {
            Some(Expect::Execute { effect: Effect::Commits { upto, .. }, .. }) => *upto,
            Some(Expect::Query { script: Some(script), at, from, upto, .. })
                if script.statements.get(*at).is_none_or(|statement| commits_by_itself(&statement.action)) =>
            {
                if *at == 0 { *from } else { *upto }
            }
            _ => return,
        };
        if !self.in_block {
            self.tickets.part(upto, Outcome::Committed);
        }
    }

    /// Syncs that came behind the Execute of a COPY and before its end are ignored by the server.
    fn copy_begins(&mut self) {
        let front = self.front_number();
        // Otherwise its CopyDone went out already.
        self.copy_in = self.copies.front().is_some_and(|&(group, _)| group <= front);
        if !matches!(self.expects.front(), Some(Expect::Execute { .. })) {
            return;
        }
        let mut ended = false;
        let mut ignored = 0;
        self.expects.retain(|expect| match expect {
            Expect::Sync { .. } if !ended => {
                ignored += 1;
                false
            }
            Expect::CopyEnd => {
                ended = true;
                false
            }
            _ => true,
        });
        for _ in 0..ignored {
            self.merge_front_group();
        }
    }

    /// An error ends a simple Query, or everything up to the next Sync.
    fn error(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<(), Fault> {
        self.failed_behind_a_commit();
        if !self.hidden_failed(whole) {
            self.show_error(whole, out)?;
        }
        self.front_group().failed = true;
        self.copies_failed();
        self.suspended.iter_mut().for_each(|one| one.open = false);
        if matches!(self.expects.front(), Some(Expect::Query { .. } | Expect::Function | Expect::Sync { .. }) | None) {
            return Ok(());
        }
        let refused_unnamed = matches!(self.expects.front(), Some(Expect::Parse { undo: Undo::Statement(name, _), .. }) if name.is_empty());
        let mut undo = Vec::new();
        while let Some(expect) = self.expects.front() {
            match expect {
                Expect::Sync { .. } => break,
                // The first is the one that failed.
                Expect::Execute { effect: Effect::Commits { upto, .. }, .. } if !undo.is_empty() => {
                    self.tickets.void(*upto);
                }
                Expect::Execute {
                    view:
                        view @ (View::Asked { .. }
                        | View::Rest { .. }
                        | View::Ahead
                        | View::Path
                        | View::Names
                        | View::Cursor
                        | View::Cancelled),
                    ..
                } => {
                    self.asking -= 1;
                    match view {
                        View::Path => self.path = None,
                        View::Names => self.names = None,
                        _ => {}
                    }
                }
                Expect::Execute { view: View::Count { after: true }, .. } => {
                    self.asking -= 1;
                    self.counting.pop_front();
                }
                // Only Sync ends the skipping: its ReadyForQuery comes for these too.
                Expect::Query { .. } | Expect::Function => self.merge_front_group(),
                _ => {}
            }
            let skipped = self.expects.pop_front();
            undo.push(skipped.and_then(|mut skipped| skipped.undo_mut().map(std::mem::take)).unwrap_or_default());
        }
        undo.into_iter().rev().for_each(|undo| self.undo(undo));
        if refused_unnamed {
            self.undo(Undo::Statement(Bytes::new(), None)); // The server drops the old one before it reads the new.
        }
        if !self.expects.is_empty() {
            return Ok(());
        }
        // The Parse that is waited for was the last message: it was refused or skipped.
        if matches!(self.wait, Wait::Parse(..)) {
            self.wait = Wait::Nothing;
        }
        self.skipping = true;
        Ok(())
    }

    pub(super) fn show_error(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<(), Fault> {
        let shift = self.pieces.as_mut().map_or(0, |pieces| pieces.failed());
        if shift > 0 {
            let body = shifted(&whole[HEADER..], shift).map_err(Fault::Server)?;
            message(out.to_client, back::ERROR_RESPONSE, |b| b.extend_from_slice(&body));
        } else {
            out.to_client.extend_from_slice(whole);
        }
        Ok(())
    }

    /// The server skipped a message that changed what a name means. Where a later one, behind the Sync, changed it again,
    /// that one replaced something older than it knew.
    fn undo(&mut self, undo: Undo) {
        let mut later = self.expects.iter_mut().filter_map(Expect::undo_mut);
        match later.find(|later| later.is_of_same_name(&undo)) {
            Some(later) => *later = undo,
            None => self.statements.undo(undo),
        }
    }

    /// No ReadyForQuery comes for the front group: what it holds waits for the next one.
    fn merge_front_group(&mut self) {
        let Some(group) = self.groups.pop_front() else { return };
        self.open_started |= self.groups.is_empty();
        let next = self.front_group();
        next.failed |= group.failed;
        next.schema |= group.schema;
        next.ended |= group.ended;
    }

    /// The number of the group that is being answered.
    fn front_number(&self) -> u64 {
        self.boundaries.saturating_sub(self.groups.len() as u64)
    }

    /// The COPY streams of the front group will not be read; later ones may.
    fn copies_failed(&mut self) {
        let front = self.front_number();
        self.copies.retain(|&(group, _)| group > front);
        self.copy_in = false;
    }

    /// The end of a group.
    fn ready(&mut self, whole: &[u8], out: &mut Out<'_>) -> Result<bool, Fault> {
        if !self.is_durable() {
            return Ok(false);
        }
        let status = whole.get(HEADER).copied().unwrap_or(b'I');
        let shown = match self.expects.pop_front() {
            Some(Expect::Sync { shown }) => shown,
            Some(Expect::Query { .. } | Expect::Function) => true,
            _ => return Err(out_of_turn(back::READY_FOR_QUERY)),
        };
        self.hurried = false;
        // The COPY that it ended did not begin.
        self.expects.pop_front_if(|next| matches!(next, Expect::CopyEnd));
        self.copies_failed();
        let group = self.groups.pop_front().ok_or_else(|| out_of_turn(back::READY_FOR_QUERY))?;
        // What it changed of the settings was reported before.
        let answered = self.front_number();
        self.dialect_moves.take_if(|of| *of < answered);
        self.shadow_ends(if shown { whole } else { &[] }, out);
        self.status = status;
        self.in_transaction = status == b'T' && self.groups.is_empty() && !self.open_started;
        self.in_block = status != b'I';
        if let Some(pieces) = self.pieces.take_if(|pieces| pieces.synced()) {
            pieces.finish(group.failed, out);
            if group.failed {
                self.close_skipped(out);
            }
        }
        // Others see a schema change when it is committed, the session itself at once: nobody can know that catalog.
        let schema = group.schema | std::mem::take(&mut self.carried_schema);
        let committed = schema && (status == b'I' || group.ended);
        self.carried_schema = status != b'I' && if group.ended { group.schema } else { schema };
        self.schema_stale |= group.schema && status != b'I';
        if status == b'I' {
            self.suspended.clear();
            self.unit_over(&group);
        } else if group.ended {
            self.chained_over(&group);
        }
        let answer = if shown { whole } else { &[] };
        if committed {
            self.learning = Some((self.shared.catalog.learned(), Bytes::copy_from_slice(answer)));
        } else {
            out.to_client.extend_from_slice(answer);
        }
        if self.nothing_in_flight() && matches!(self.wait, Wait::Room(_)) {
            self.wait = Wait::Nothing; // What it was for may be rolled back. If not, it comes again and waits again.
        }
        Ok(true)
    }

    /// Is something on its way that gives names of statements another meaning?
    pub(super) fn renaming(&self) -> bool {
        let renames = |action: &Action| matches!(action, Action::Prepare { .. } | Action::Deallocate { .. });
        self.expects.iter().any(|expect| match expect {
            Expect::Query { script: Some(script), .. } => script.statements.iter().any(|one| renames(&one.action)),
            Expect::Execute { effect, .. } => matches!(effect, Effect::Prepared { .. } | Effect::Deallocated { .. }),
            _ => false,
        })
    }

    /// The taken name's Parse is the newest message, so its answer is the last of those that are owed.
    fn waits_for_parse(&self) -> bool {
        matches!(self.wait, Wait::Parse(..)) && self.expects.is_empty()
    }

    /// What the completion of a statement changes whose records are written.
    pub(super) fn effect(&self, action: &Action, text: &Bytes) -> Effect {
        effect_of(action, text, self.tickets.mark(), self.changes.stretch())
    }

    pub(super) fn front_group(&mut self) -> &mut super::Group {
        match self.groups.front_mut() {
            Some(group) => group,
            None => &mut self.open_group,
        }
    }

    /// Settings that decide how text is read; the server reports every change.
    fn parameter(&mut self, body: &[u8]) {
        let mut fields = Fields::new(back::PARAMETER_STATUS, body);
        let (Ok(name), Ok(value)) = (fields.cstr(), fields.cstr()) else { return };
        self.set_parameter(name, value);
    }

    /// ParameterStatus messages of a server that the session moved to: its texts are read there by other settings, perhaps.
    pub fn reported(&mut self, mut reports: &[u8]) {
        while let Ok(Some(header)) = Header::peek(reports) {
            let Some((whole, rest)) = reports.split_at_checked(header.size) else { return };
            if header.kind == back::PARAMETER_STATUS {
                self.parameter(&whole[HEADER..]);
            }
            reports = rest;
        }
    }

    /// A setting as the server reported it, at start-up or later.
    pub fn set_parameter(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => self.dialect.standard_strings = value == b"on",
            b"client_encoding" => {
                let name = String::from_utf8_lossy(value);
                self.dialect.encoding = Encoding::named(&name);
                self.client_utf8 = name.eq_ignore_ascii_case("UTF8");
            }
            _ => {}
        }
    }
}

/// What the completion of a simple Query's `at`-th statement changes. The Query's own records lie between the marks:
/// only behind its last statement does nothing follow that they could stand for. `stretch` lies behind the statement.
fn effect_of_query(
    script: Option<&Script>,
    at: usize,
    text: &Bytes,
    (from, upto): (Mark, Mark),
    stretch: Stretch,
) -> Effect {
    let Some((script, statement)) = script.and_then(|script| Some((script, script.statements.get(at)?))) else {
        return Effect::None;
    };
    let last = at + 1 == script.statements.len();
    // Nobody counts it, so nobody knows whether it changed the schema.
    let uncounted = counts(&statement.action) || matches!(statement.action, Action::Opaque(_));
    match effect_of(&statement.action, text, if last { upto } else { from }, stretch) {
        Effect::None if uncounted => Effect::Schema,
        Effect::Commits { upto, .. } if uncounted => Effect::Commits { schema: true, upto },
        effect => effect,
    }
}

/// Does it commit outside a transaction block, perhaps more than once?
pub(super) fn commits_by_itself(action: &Action) -> bool {
    match action {
        Action::FinishPrepared { .. } | Action::Commits | Action::Opaque(_) => true,
        Action::Ddl(ddl) => ddl.commits,
        _ => false,
    }
}

/// How many of the statements are about savepoints.
pub(super) fn savepoints(statements: &[Statement]) -> usize {
    statements.iter().filter(|statement| matches!(statement.action, Action::Savepoint(_))).count()
}

/// What the completion of a statement changes.
fn effect_of(action: &Action, text: &Bytes, upto: Mark, stretch: Stretch) -> Effect {
    match action {
        Action::Savepoint(savepoint) => Effect::Savepoint { savepoint: savepoint.clone(), stretch },
        Action::Commit { chain } | Action::Rollback { chain } => Effect::Ends { chain: *chain, upto },
        Action::PrepareTransaction { .. } => Effect::Ends { chain: false, upto },
        action if commits_by_itself(action) => {
            let schema = matches!(action, Action::Ddl(ddl) if !ddl.temporary);
            Effect::Commits { schema, upto }
        }
        Action::Prepare { name, inner, types } => {
            Effect::Prepared { name: name.clone(), inner: inner.clone(), types: types.clone(), text: text.clone() }
        }
        Action::Deallocate { name } => Effect::Deallocated { name: name.clone() },
        Action::Ddl(ddl) if !ddl.temporary => Effect::Schema,
        _ => Effect::None,
    }
}

fn out_of_turn(kind: u8) -> Fault {
    Fault::OutOfTurn(char::from(kind))
}

/// A RowDescription's body without its last `hidden` columns.
fn describe_without(body: &[u8], hidden: usize) -> Result<BytesMut, WireError> {
    let mut fields = Fields::new(back::ROW_DESCRIPTION, body);
    let total = usize::from(fields.u16()?);
    let shown = total.checked_sub(hidden).ok_or(WireError::Malformed('T'))?;
    let start = fields.rest();
    for _ in 0..shown {
        fields.cstr()?;
        fields.take(18)?;
    }
    let mut out = BytesMut::with_capacity(body.len());
    out.put_u16(shown as u16);
    out.extend_from_slice(&start[..start.len() - fields.rest().len()]);
    Ok(out)
}

/// An ErrorResponse's body with its position moved: the server saw a piece, the client sent the whole.
fn shifted(body: &[u8], by: usize) -> Result<BytesMut, WireError> {
    let mut fields = Fields::new(back::ERROR_RESPONSE, body);
    let mut out = BytesMut::with_capacity(body.len() + 8);
    while fields.rest().has_remaining() {
        let field = fields.u8()?;
        out.put_u8(field);
        if field == 0 {
            break;
        }
        let value = fields.cstr()?;
        let position = std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
        match (field, position) {
            (b'P', Some(position)) => out.extend_from_slice((position + by).to_string().as_bytes()),
            _ => out.extend_from_slice(value),
        }
        out.put_u8(0);
    }
    Ok(out)
}
