//! A simple Query run statement by statement in the extended protocol, because one of its statements must be asked for
//! keys, and the simple protocol commits before it answers.
//!
//! A Query of several statements is a transaction block of its own, which pieces are not: one in which that shows goes as it
//! is, and the tables that it writes are dirty.
//!
//! The client sees what the simple protocol would have shown: ParseComplete, BindComplete and NoData are hidden, an
//! error's position is moved to where the client's text has it, the last CommandComplete waits for the commit. Comments go
//! with the statement that they stand before, or in.

use std::ops::Range;
use std::sync::Arc;
use std::task::Context;

use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::postgres::lexer::{Token, Tokens};
use crate::protocol::postgres::plan::{Action, Script, Statement};
use crate::protocol::postgres::wire::{self, front};

use super::counting::counts;
use super::expect::{Expect, View};
use super::front::could_commit;
use super::reached::Cursor;
use super::{Fault, Out, Session, Wait};

/// Then others have their turn.
const PIECES_AT_ONCE: usize = 100;

pub(super) struct Pieces {
    text: Bytes,
    script: Arc<Script>,
    spans: Vec<Span>,
    /// Of the text; cut once, for it may have many statements.
    tokens: Tokens,
    next: usize,
    /// The next one was captured, and waits for something; `Some(true)`: its keys are asked for.
    captured: Option<bool>,
    /// The cursor that the next one reads; `None`: ask.
    pub(super) cursor: Option<Cursor>,
    /// Statements that completed.
    done: usize,
    failed: bool,
    synced: bool,
    /// The RowDescription of a statement that returns nothing before it has run.
    head: BytesMut,
    /// The last CommandComplete, until the commit is known.
    held: BytesMut,
    /// Changed settings, which the server reports right before ReadyForQuery.
    settings: BytesMut,
}

/// Where a statement stands in its text.
struct Span {
    /// With what stands before it, from the semicolon of the one before, and behind it, up to its own.
    whole: Range<usize>,
    /// Where its last word ends.
    end: usize,
}

impl Span {
    fn of(statement: &Statement, tokens: &[Token], text: &[u8]) -> Option<Span> {
        let Range { start, end } = statement.tokens.clone();
        let before = start.checked_sub(1).and_then(|at| tokens.get(at));
        let start = before.map_or(0, |semicolon| semicolon.end as usize);
        let upto = tokens.get(end).map_or(text.len(), |semicolon| semicolon.start as usize);
        let end = tokens.get(end.checked_sub(1)?)?.end as usize;
        (start <= end && end <= upto).then_some(Span { whole: start..upto, end })
    }
}

impl Pieces {
    pub(super) fn new(text: Bytes, script: Arc<Script>, tokens: Tokens) -> Pieces {
        let spans = script.statements.iter().map(|statement| Span::of(statement, tokens.list(), &text));
        let spans = spans.collect::<Option<Vec<_>>>().unwrap_or_default();
        Pieces {
            text,
            script,
            spans,
            tokens,
            next: 0,
            captured: None,
            cursor: None,
            done: 0,
            failed: false,
            synced: false,
            head: BytesMut::new(),
            held: BytesMut::new(),
            settings: BytesMut::new(),
        }
    }

    /// A statement completed: all but the last are shown at once.
    pub(super) fn completed(&mut self, whole: &[u8], out: &mut Out<'_>) {
        self.show_head(out);
        self.done += 1;
        if self.done == self.spans.len() {
            self.held.extend_from_slice(whole);
        } else {
            out.to_client.extend_from_slice(whole);
        }
    }

    /// A ParameterStatus; `false`: show it now.
    pub(super) fn hold_setting(&mut self, whole: &[u8]) -> bool {
        let hold = !self.held.is_empty();
        if hold {
            self.settings.extend_from_slice(whole);
        }
        hold
    }

    /// What a statement returns, before it has run.
    pub(super) fn hold_head(&mut self, description: &[u8]) {
        self.head.extend_from_slice(description);
    }

    /// It returned something.
    pub(super) fn show_head(&mut self, out: &mut Out<'_>) {
        out.to_client.extend_from_slice(&std::mem::take(&mut self.head));
    }

    /// An error came; by how many characters its position moves.
    pub(super) fn failed(&mut self) -> usize {
        self.failed = true;
        self.head.clear();
        let start = self.spans.get(self.done).map_or(0, |span| span.whole.start);
        // Positions count characters; bytes that continue one do not count.
        self.text[..start].iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
    }

    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// ReadyForQuery: the commit succeeded, or an error was shown in its place.
    pub(super) fn finish(self, failed: bool, out: &mut Out<'_>) {
        if !failed {
            out.to_client.extend_from_slice(&self.held);
        }
        out.to_client.extend_from_slice(&self.settings);
    }
}

impl Session {
    /// Send what can be sent. `true`: something was, and all that can be.
    pub(super) fn run_pieces(&mut self, cx: &mut Context<'_>, out: &mut Out<'_>) -> Result<bool, Fault> {
        self.swap_tokens();
        let moved = self.run_some(cx, out);
        self.swap_tokens();
        moved
    }

    /// What a piece is captured by are the tokens of its Query, not those of what was read last.
    fn swap_tokens(&mut self) {
        if let Some(pieces) = &mut self.pieces {
            std::mem::swap(&mut self.tokens, &mut pieces.tokens);
        }
    }

    fn run_some(&mut self, cx: &mut Context<'_>, out: &mut Out<'_>) -> Result<bool, Fault> {
        let mut moved = false;
        for _ in 0..PIECES_AT_ONCE {
            let Some(pieces) = self.pieces.as_ref().filter(|pieces| !pieces.synced) else { return Ok(moved) };
            if !matches!(self.wait, Wait::Nothing) || self.is_owed_much() {
                return Ok(moved);
            }
            let next = pieces.next;
            let more = next < pieces.spans.len() && !pieces.failed;
            moved |= if more { self.piece(next, out)? } else { self.last_piece(out)? };
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    fn piece(&mut self, at: usize, out: &mut Out<'_>) -> Result<bool, Fault> {
        let Some(pieces) = &self.pieces else { return Ok(false) };
        let (text, script, whole) = (pieces.text.clone(), pieces.script.clone(), pieces.spans[at].whole.clone());
        let (end, captured) = (pieces.spans[at].end, pieces.captured);
        let Some(statement) = script.statements.get(at) else { return Ok(false) };
        if let Some(error) = self.refused.take() {
            return self.show_error(&error, out).map(|()| true);
        }
        let alone = std::slice::from_ref(statement);
        let asks = |session: &mut Session, out: &mut Out<'_>| {
            session.ask_path(alone, out)
                || session.ask_temporary(alone, out)
                || session.ask_cursor(&statement.action, out)
        };
        if captured.is_none() && asks(self, out) {
            return Ok(true);
        }
        let commits = could_commit(&statement.action);
        let is_asked = match captured {
            Some(is_asked) => is_asked,
            None => self.capture_piece(&text, &script, statement)?,
        };
        // If it has to wait it comes again, and what it does is not to be written down twice.
        if let Some(pieces) = &mut self.pieces {
            pieces.captured = Some(is_asked);
        }
        let asked = super::asked_of(statement).filter(|_| is_asked);
        if commits && (!self.asked_answered(out) || !self.append()?) {
            return Ok(true);
        }
        let counts = counts(&statement.action);
        let is_late = self.is_late(&text, statement);
        let provisional = counts && commits && !self.in_transaction;
        if provisional {
            if !self.announce_any() {
                return Ok(true);
            }
            self.provisional();
        }
        if counts {
            self.count_before(statement, provisional, out);
        }
        let suffix = asked.map_or("", |asked| asked.suffix.as_str());
        wire::message(out.to_server, front::PARSE, |b| {
            b.put_u8(0);
            b.extend_from_slice(&text[whole.start..end]);
            b.extend_from_slice(suffix.as_bytes());
            wire::cstr(b, &text[end..whole.end]);
            b.put_u16(0);
        });
        // Unnamed portal and statement, no parameters, all results as text, or in binary.
        let cursor = self.pieces.as_mut().and_then(|pieces| pieces.cursor.take()).unwrap_or_default();
        wire::message(out.to_server, front::BIND, |b| match cursor.is_binary {
            false => b.put_bytes(0, 8),
            true => b.put_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1]),
        });
        wire::describe(out.to_server, b'P', b"");
        wire::execute(out.to_server, b"", 0);
        let of_portal = self.portal_read(&statement.action, &cursor).map(|script| (script, 0));
        let asks = asked.is_some() || of_portal.is_some();
        let view = match asked.map(|_| (script.clone(), at)).or(of_portal) {
            Some((script, at)) => View::Asked { script, at, piece: true, binary: false, portal: Bytes::new() },
            None => View::Piece { is_late },
        };
        let effect = self.effect(&statement.action, &text);
        if asks && !self.skipping {
            self.asking += 1;
        }
        self.expect(Expect::hidden_parse());
        self.expect(Expect::hidden_bind());
        self.expect(Expect::Describe { view: view.clone(), of: None });
        self.expect(Expect::Execute { view, effect });
        if counts {
            self.count_after(out);
        }
        self.flushed = false;
        if commits {
            self.in_transaction = false;
        }
        self.unanswered = false;
        if let Some(pieces) = &mut self.pieces {
            pieces.next += 1;
            pieces.captured = None;
        }
        Ok(true)
    }

    fn last_piece(&mut self, out: &mut Out<'_>) -> Result<bool, Fault> {
        self.drop_failed();
        if !self.in_transaction && !self.is_failed() && (!self.asked_answered(out) || !self.append()?) {
            return Ok(true);
        }
        // A simple Query leaves neither an unnamed statement nor an unnamed portal.
        self.close_unnamed(out);
        wire::bare(out.to_server, front::SYNC);
        self.boundary(Expect::Sync { shown: true });
        if let Some(pieces) = &mut self.pieces {
            pieces.synced = true;
        }
        Ok(true)
    }

    /// What it may change. `true`: its keys are asked for.
    fn capture_piece(&mut self, text: &[u8], script: &Arc<Script>, statement: &Statement) -> Result<bool, Fault> {
        self.captured_under(script.epoch);
        self.note_dialect(text, statement);
        let is_asked = matches!(statement.action, Action::Asked(_)) || !self.capture_text(text, script, statement)?;
        if let Some(asked) = super::asked_of(statement).filter(|_| is_asked) {
            self.capture_also(text, asked);
        }
        Ok(is_asked)
    }

    /// Does it run to its end before it returns a row, or says what its rows are? With RETURNING, or a writing WITH, and as a
    /// utility (PORTAL_ONE_RETURNING, PORTAL_ONE_MOD_WITH and PORTAL_UTIL_SELECT in PostgreSQL's source). The text was lexed last.
    fn is_late(&self, text: &[u8], statement: &Statement) -> bool {
        let tokens = self.tokens.list().get(statement.tokens.clone()).unwrap_or_default();
        let is = |token: &Token, words: &[&[u8]]| words.iter().any(|word| token.text(text).eq_ignore_ascii_case(word));
        let Some(first) = tokens.first() else { return false };
        let writes = || tokens.iter().any(|token| is(token, &[b"insert", b"update", b"delete", b"merge"]));
        !is(first, &[b"select", b"values", b"table", b"(", b"with"]) || is(first, &[b"with"]) && writes()
    }

    fn close_unnamed(&mut self, out: &mut Out<'_>) {
        for what in *b"SP" {
            wire::close(out.to_server, what, b"");
            self.expect(Expect::hidden_close());
        }
    }

    /// The pieces failed, so the server skipped what closes the unnamed statement.
    pub(super) fn close_skipped(&mut self, out: &mut Out<'_>) {
        self.close_unnamed(out);
        wire::bare(out.to_server, front::SYNC);
        self.boundary(Expect::Sync { shown: false });
    }
}
