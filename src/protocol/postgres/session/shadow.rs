//! Reads that are repeated on the secondary: which ones, and what must be kept of them.
//!
//! A read is kept from the moment at which it goes to the primary to its ReadyForQuery, and only if nothing else that runs
//! is on its way: then all that comes is its answer. The bytes are copied beside the way that they go; nothing waits for
//! it, and nothing is changed. One at a time: what a client asks meanwhile is not chosen.
//!
//! What the session has set is known by its SET statements. Where a transaction that set something was rolled back, if only
//! to a savepoint, or where something was set that no statement shows, as a function of the user's may, it is not known any
//! more, and reads are skipped until RESET ALL or DISCARD ALL; until the latter where it may be the role, which RESET ALL
//! leaves alone.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::postgres::catalog::{FIRST_NORMAL_OID, routine};
use crate::protocol::postgres::evident;
use crate::protocol::postgres::lexer::{Dialect, Kind, Tokens};
use crate::protocol::postgres::moving::standby::startup_parameters;
use crate::protocol::postgres::plan::{Action, Read, Statement, Traces, Unfit, Words};
use crate::protocol::postgres::shadow::{Asked, Asker, Form};
use crate::record::TableId;
use crate::shadow::{About, Skip, Slot};

use super::capture::BindParams;
use super::expect::Expect;
use super::statements::Prepared;
use super::{Out, Session};

/// Of a statement's text people see so much.
const SHAPE_BYTES_MAX: usize = 1_000;
/// More settings of a session are not repeated.
const SETTINGS_MAX: usize = 32;
/// A longer SET statement is not.
const SETTING_BYTES_MAX: usize = 1_000;

/// Who the session is, as a setting.
const ROLE: &str = "role";

/// Settings that decide what a read answers, or in which form (documentation, "Client Connection Defaults"); custom
/// ones are as well.
const MATTERS: &[&str] = &[
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "client_encoding",
    "datestyle",
    "default_text_search_config",
    "extra_float_digits",
    "intervalstyle",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "names",
    "quote_all_identifiers",
    "role",
    "row_security",
    "search_path",
    "standard_conforming_strings",
    "time",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
];

/// With these a statement begins that writes.
const WRITES: &[&str] = &["copy", "delete", "insert", "merge", "truncate", "update"];

/// Words that stand for a moment when they are read as a date or time (documentation, "Special Date/Time Inputs").
const MOMENTS: &[&str] = &["now", "today", "tomorrow", "yesterday"];

/// What is known of the session for its reads.
#[derive(Default)]
pub(super) struct Shadow {
    client: Option<IpAddr>,
    /// Who asks: made for the first read that is chosen.
    asker: Option<Arc<Asker>>,
    /// The read that is being answered.
    taken: Option<Box<Taken>>,
    /// Its SET statements, each with what it sets.
    settings: Vec<(String, Bytes)>,
    /// They are not all that it has.
    unknown: bool,
    /// It may have been somebody else since it began.
    acted: bool,
    /// The open transaction set something.
    touched: bool,
    /// The open transaction did something else than read, or is not READ COMMITTED.
    spoilt: bool,
}

/// A read on its way.
struct Taken {
    slot: Slot<Asked>,
    asked: Asked,
    /// Answers to what was sent before it come first: so many ReadyForQuery.
    before: usize,
    /// Where its answer begins in what goes to the client.
    from: usize,
    /// It was bound to this portal, and not executed yet.
    portal: Option<Bytes>,
}

impl Session {
    /// Where its client is.
    pub(in crate::protocol::postgres) fn comes_from(&mut self, client: Option<IpAddr>) {
        self.shadow.client = client;
    }

    // ---- what the session did

    /// A statement of the text that was lexed last is about to run.
    pub(super) fn shadow_follows(&mut self, text: &[u8], statement: &Statement) {
        if matches!(statement.action, Action::Begin) {
            self.shadow.spoilt = self.names_isolation(text, statement);
        } else if statement.read.is_none() {
            self.shadow_spoils(statement);
            if sets(statement) {
                self.shadow_sets(text, statement);
            }
        }
    }

    /// What is no read, whatever it sets.
    fn shadow_spoils(&mut self, statement: &Statement) {
        self.shadow.spoilt = true;
        // Which of the settings were made behind the savepoint nobody knows.
        let goes_back = statement.action.is_rollback_to() && self.shadow.touched;
        if goes_back || self.executes_setter(statement) {
            self.shadow.unknown = true;
            self.shadow.acted |= !goes_back;
        }
    }

    /// The same, of a text that was not; most statements need none.
    pub(super) fn shadow_runs(&mut self, text: &[u8], statement: &Statement) {
        if matches!(statement.action, Action::Begin) || sets(statement) {
            self.lex(text);
            self.shadow_follows(text, statement);
        } else if statement.read.is_none() {
            self.shadow_spoils(statement);
        }
    }

    fn names_isolation(&self, text: &[u8], statement: &Statement) -> bool {
        words(&self.tokens, text, statement)
            .any(|word| matches!(&word[..], "isolation" | "serializable" | "repeatable"))
    }

    fn shadow_sets(&mut self, text: &[u8], statement: &Statement) {
        let words: Vec<String> = words(&self.tokens, text, statement).take(4).collect();
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let first = words.first().copied().unwrap_or_default();
        match (first, words.get(1)) {
            ("discard", Some(&"all")) => {
                (self.shadow.settings, self.shadow.unknown, self.shadow.acted) = (Vec::new(), false, false);
                return;
            }
            ("reset", Some(&"all")) => {
                self.shadow.settings.retain(|(name, _)| name == ROLE);
                self.shadow.unknown &= self.shadow.acted;
                self.shadow.touched = true;
                return;
            }
            ("set" | "reset", _) => {}
            _ => {
                // `set_config` is seen by its name, not by its value; code of the user's by nothing that it sets.
                if statement.action.is_of_session() {
                    self.shadow.unknown = true;
                    self.shadow.acted |= names_identity(text);
                } else if self.may_set(first, statement, self.range(statement).map_or(text, |range| &text[range])) {
                    (self.shadow.unknown, self.shadow.acted) = (true, true);
                }
                return;
            }
        }
        words.retain(|word| *word != "session");
        let name = words.get(1).copied().unwrap_or_default();
        if name == "local" {
            return;
        }
        let custom = self.custom(statement, text);
        if custom.is_none() && MATTERS.binary_search(&name).is_err() {
            self.shadow.unknown |= name == "authorization";
            self.shadow.acted |= name == "authorization";
            return;
        }
        self.shadow.acted |= name == ROLE;
        // As it was at the start: so are our connections, which must not be given what tandem's own login has. One of the
        // session's own is empty from then on, not unset.
        let resets = custom.is_none() && (first == "reset" || self.is_as_at_first(statement, text));
        let name = custom.unwrap_or_else(|| canonical(name).to_owned());
        if resets {
            self.shadow.settings.retain(|(other, _)| *other != name);
            self.shadow.touched = true;
            return;
        }
        let range = self.range(statement).filter(|range| range.len() <= SETTING_BYTES_MAX);
        let Some(range) = range.filter(|_| self.shadow.settings.len() < SETTINGS_MAX) else {
            self.shadow.unknown = true;
            return;
        };
        self.shadow.settings.retain(|(other, _)| *other != name);
        self.shadow.touched = true;
        self.shadow.settings.push((name, Bytes::copy_from_slice(&text[range])));
    }

    /// Whether code of the user's that it runs may set something for the session. `first`: its first word.
    fn may_set(&self, first: &str, statement: &Statement, text: &[u8]) -> bool {
        let (counted, opaque) = match &statement.action {
            Action::Counted(counted) | Action::Cursor(counted) => (counted, false),
            Action::Opaque(counted) => (counted, true),
            _ => return false,
        };
        let setters = &self.shared.catalog.now().setters;
        if routine::could_set(&String::from_utf8_lossy(text), |name| setters.contains(name)) {
            return true;
        }
        match &*counted.why {
            "DO" | "CALL" => false,
            why if why.starts_with("function ") => false,
            // What a write's triggers set is not followed.
            _ if WRITES.contains(&first) => false,
            // It runs what it does not name.
            _ => opaque || !setters.is_empty(),
        }
    }

    /// An EXECUTE of what may set something, told from what was prepared.
    fn executes_setter(&self, statement: &Statement) -> bool {
        let Action::Execute { name, .. } = &statement.action else { return false };
        let may_set = |inner: &Statement, text: &[u8]| inner.action.is_of_session() || self.may_set("", inner, text);
        match (self.statements.sql(name), self.statements.get(name.as_bytes())) {
            (Some(known), _) => may_set(&known.inner, &known.text),
            (None, Some(known)) => known.script.statements.iter().any(|inner| may_set(inner, &known.text)),
            (None, None) => true,
        }
    }

    /// The name in `SET a.b`.
    fn custom(&self, statement: &Statement, text: &[u8]) -> Option<String> {
        let tokens = self.tokens.list().get(statement.tokens.clone()).unwrap_or_default();
        let is_end = |word: &[u8]| word == b"=" || word.eq_ignore_ascii_case(b"to");
        let until = tokens.iter().position(|token| is_end(token.text(text)));
        let named = &tokens[..until.unwrap_or(tokens.len())];
        let dot = named.iter().position(|token| token.text(text) == b".")?;
        let parts = named[dot.saturating_sub(1)..].iter().map(|token| String::from_utf8_lossy(token.text(text)));
        Some(parts.map(|part| part.trim_matches('"').to_ascii_lowercase()).collect())
    }

    /// `SET .. TO DEFAULT`, `SET ROLE NONE`, `SET TIME ZONE LOCAL`.
    fn is_as_at_first(&self, statement: &Statement, text: &[u8]) -> bool {
        let tokens = self.tokens.list().get(statement.tokens.clone()).unwrap_or_default();
        let is = |at: usize, word: &str| {
            tokens.get(at).is_some_and(|token| token.text(text).eq_ignore_ascii_case(word.as_bytes()))
        };
        let last = tokens.len().saturating_sub(1);
        let names = |word| (1..last).any(|at| is(at, word));
        let none = || ["none", "'none'", "\"none\""].iter().any(|word| is(last, word));
        is(last, "default") || is(last, "local") && names("zone") || names(ROLE) && none()
    }

    /// A transaction ended.
    pub(super) fn shadow_unit_over(&mut self, rolled_back: bool) {
        self.shadow.unknown |= std::mem::take(&mut self.shadow.touched) && rolled_back;
        self.shadow.spoilt = false;
    }

    // ---- which reads

    /// A simple Query is about to go.
    pub(super) fn shadow_text(&mut self, text: &[u8], statement: &Statement) {
        let Some(read) = &statement.read else { return };
        let Some((mut slot, tokens)) = self.sample("text", text, read) else { return };
        if !slot.reserve(text.len()) {
            return;
        }
        let why = self.why_not(read, (text, &tokens), &[]);
        self.take_read(slot, why, (read, text, &tokens), Form::Simple, None);
    }

    /// A Bind is about to go.
    pub(super) fn shadow_bind(&mut self, portal: &[u8], prepared: &Prepared, params: &BindParams<'_>) {
        let Some(read) = prepared.script.statements.first().and_then(|statement| statement.read.clone()) else {
            return;
        };
        let Some((mut slot, tokens)) = self.sample("prepared", &prepared.text, &read) else { return };
        if !slot.reserve(prepared.text.len() + params.values().len()) {
            return;
        }
        let why = self.why_not(&read, (&prepared.text, &tokens), params.each());
        // Their oids are this server's own.
        let foreign = prepared.types.iter().any(|&oid| oid >= FIRST_NORMAL_OID).then_some(Skip::Unsupported);
        let form = Form::Extended {
            types: prepared.elsewhere(params.bound()).into(),
            values: Bytes::copy_from_slice(params.values()),
            results: Bytes::copy_from_slice(params.result_formats()),
        };
        let portal = Some(Bytes::copy_from_slice(portal));
        self.take_read(slot, why.or(foreign), (&read, &prepared.text, &tokens), form, portal);
    }

    /// A portal gets another meaning.
    pub(super) fn shadow_rebinds(&mut self, portal: &[u8]) {
        if self.shadow.taken.as_ref().is_some_and(|taken| taken.portal.as_deref() == Some(portal)) {
            self.shadow_skip(Skip::Unsupported);
        }
    }

    /// An Execute is about to go.
    pub(super) fn shadow_execute(&mut self, portal: &[u8], whole: &[u8]) {
        self.open_group.executed = true;
        let Some(taken) = &mut self.shadow.taken else { return };
        let limited = !whole.ends_with(&[0; 4]);
        if taken.portal.as_deref() == Some(portal) && !limited {
            taken.portal = None;
            taken.slot.forwarded();
        } else {
            self.shadow_skip(if limited { Skip::RowLimit } else { Skip::Unsupported });
        }
    }

    /// With the tokens of its text, which is lexed only for a read that is going to be repeated, and once for its words.
    fn sample(&self, kind: &'static str, text: &[u8], read: &Read) -> Option<(Slot<Asked>, Tokens)> {
        let card = self.card.as_ref().filter(|_| self.captures() && self.shadow.taken.is_none())?;
        let slot = self.shared.shadow.sample(|| {
            let words = read.spoken.0.get_or_init(|| self.words_of(text, read));
            let tables = words.tables.iter().map(|(table, name)| (*table, &**name)).collect();
            About { kind, tables, client: self.shadow.client, user: &card.who.user, shape: &words.shape }
        })?;
        Some((slot, lexed(text, self.dialect)))
    }

    fn words_of(&self, text: &[u8], read: &Read) -> Words {
        let catalog = self.shared.catalog.now();
        let name = |id: &TableId| (*id, catalog.relation(*id).map_or_else(Box::default, |table| table.shown().into()));
        let shape = shape_of(text, &lexed(text, self.dialect)).into();
        Words { shape, tables: read.tables.iter().map(name).collect() }
    }

    fn why_not(&self, read: &Read, (text, tokens): (&[u8], &Tokens), values: &[Option<&[u8]>]) -> Option<Skip> {
        let inside = self.in_block || self.status != b'I';
        let moment = || is_moment(text, tokens) || values.iter().flatten().any(|value| names_moment(value));
        match read.unfit {
            Some(Unfit::Volatile) => Some(Skip::Volatile),
            Some(Unfit::NotRepeatable) => Some(Skip::NotRepeatable),
            None if inside && (self.shadow.spoilt || !self.keys.is_empty() || !self.changes.is_empty()) => {
                Some(Skip::InTransaction)
            }
            // Something else is on its way, whose answer comes first, or is part of the same transaction.
            None if self.open_group.executed || !self.expects.iter().all(is_idle) => Some(Skip::Unsupported),
            None if self.shadow.unknown => Some(Skip::Unsupported),
            None if moment() => Some(Skip::Volatile),
            None => None,
        }
    }

    fn take_read(
        &mut self,
        slot: Slot<Asked>,
        why_not: Option<Skip>,
        (read, text, tokens): (&Arc<Read>, &[u8], &Tokens),
        form: Form,
        portal: Option<Bytes>,
    ) {
        if let Some(why) = why_not {
            return slot.skip(why);
        }
        let asked = Asked {
            read: read.clone(),
            shape: tokens.shape_hash(),
            text: Bytes::copy_from_slice(text),
            form,
            asker: self.asker(),
            settings: self.shadow.settings.iter().map(|(_, text)| text.clone()).collect(),
            answer: Bytes::new(),
        };
        self.shadow.taken = Some(Box::new(Taken { slot, asked, before: self.groups.len(), from: 0, portal }));
    }

    fn asker(&mut self) -> Arc<Asker> {
        let card = self.card.clone();
        let make = || {
            let Some(card) = card else { return Arc::new(Asker { user: String::new(), params: Vec::new() }) };
            let mut params = startup_parameters(&card.packet);
            params.retain(|(name, _)| name != "application_name");
            if !params.iter().any(|(name, _)| name == "client_encoding") && !card.encoding.is_empty() {
                params.push(("client_encoding".to_owned(), card.encoding.to_string()));
            }
            Arc::new(Asker { user: card.who.user.clone(), params })
        };
        self.shadow.asker.get_or_insert_with(make).clone()
    }

    // ---- the answer

    /// Bytes of the server's are about to be taken: what comes behind this in `out` is the answer's.
    pub(super) fn shadow_begins(&mut self, out: &Out<'_>) {
        if let Some(taken) = &mut self.shadow.taken {
            taken.from = out.to_client.len();
        }
    }

    /// They were taken.
    pub(super) fn shadow_keeps(&mut self, out: &Out<'_>) {
        let Some(taken) = self.shadow.taken.as_mut().filter(|taken| taken.before == 0) else { return };
        if !taken.slot.keep(out.to_client.get(taken.from..).unwrap_or_default()) {
            self.shadow.taken = None;
        }
    }

    /// ReadyForQuery came, of which this is shown next: all or nothing.
    pub(super) fn shadow_ends(&mut self, ready: &[u8], out: &Out<'_>) {
        self.shadow_keeps(out);
        if let Some(taken) = self.shadow.taken.as_mut().filter(|taken| taken.before > 0) {
            taken.before -= 1;
            taken.from = out.to_client.len() + ready.len();
            return;
        }
        let Some(taken) = self.shadow.taken.take() else { return };
        let Taken { mut slot, mut asked, portal, .. } = *taken;
        if portal.is_some() {
            return slot.skip(Skip::Abandoned);
        }
        if slot.keep(ready) {
            asked.answer = slot.take();
            slot.submit(asked);
        }
    }

    fn shadow_skip(&mut self, why: Skip) {
        if let Some(taken) = self.shadow.taken.take() {
            taken.slot.skip(why);
        }
    }
}

/// Nothing runs by it: what drivers send between two statements.
fn is_idle(expect: &Expect) -> bool {
    match expect {
        Expect::Parse { .. } | Expect::Bind { .. } | Expect::Describe { .. } | Expect::Close { .. } => true,
        Expect::Sync { .. } => true,
        Expect::Execute { .. } | Expect::CopyEnd | Expect::Query { .. } | Expect::Function => false,
    }
}

/// It may set something by itself; what a write's triggers set is not followed.
fn sets(statement: &Statement) -> bool {
    let writes = matches!(statement.action, Action::Evident(_) | Action::Asked(_) | Action::Truncate(_));
    statement.traces.meets(Traces::SETTINGS) && !writes
}

/// The setting that a word of SQL stands for.
fn canonical(name: &str) -> &str {
    match name {
        "names" => "client_encoding",
        "time" => "timezone",
        name => name,
    }
}

/// It may say who the session is from now on.
fn names_identity(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    [ROLE, "session_authorization"].iter().any(|name| text.contains(name))
}

/// The plain words of a statement, in lower case.
fn words(tokens: &Tokens, text: &[u8], statement: &Statement) -> impl Iterator<Item = String> {
    let of = tokens.list().get(statement.tokens.clone()).unwrap_or_default();
    let plain = of.iter().filter(|token| matches!(token.kind, Kind::Ident | Kind::Quoted));
    plain.map(|token| String::from_utf8_lossy(token.text(text)).trim_matches('"').to_ascii_lowercase())
}

fn lexed(text: &[u8], dialect: Dialect) -> Tokens {
    let mut tokens = Tokens::default();
    tokens.lex(text, dialect);
    tokens
}

/// The text without values.
fn shape_of(text: &[u8], tokens: &Tokens) -> String {
    let mut out = String::new();
    let mut end = 0;
    for token in tokens.list() {
        if out.len() >= SHAPE_BYTES_MAX {
            out.push_str(" ..");
            break;
        }
        if token.start != end && !out.is_empty() {
            out.push(' ');
        }
        end = token.end;
        match token.kind.is_literal() {
            true => out.push('?'),
            false => out.push_str(&String::from_utf8_lossy(token.text(text))),
        }
    }
    out
}

/// A literal may stand for a moment.
fn is_moment(text: &[u8], tokens: &Tokens) -> bool {
    tokens.list().iter().any(|token| {
        let strings = matches!(token.kind, Kind::String | Kind::Escaped | Kind::Dollar | Kind::Unicode);
        strings && evident::content(token.kind, token.text(text)).map_or(true, |content| names_moment(&content))
    })
}

fn names_moment(value: &[u8]) -> bool {
    let mut words = value.split(|byte| !byte.is_ascii_alphabetic());
    words.any(|word| MOMENTS.iter().any(|moment| word.eq_ignore_ascii_case(moment.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use bytes::{BufMut, BytesMut};

    use super::*;
    use crate::allocations;
    use crate::protocol::postgres::client::{Endpoint, Host};
    use crate::protocol::postgres::moving::sessions::{Card, Home, Who};
    use crate::protocol::postgres::rig;
    use crate::protocol::postgres::session::tests::Peers;
    use crate::protocol::postgres::shared::Shared;
    use crate::protocol::postgres::wire::{self, front};
    use crate::record::Side;
    use crate::shadow::{Board, Queue};

    struct Chosen {
        peers: Peers,
        board: Board,
        queue: Queue<Asked>,
    }

    impl Chosen {
        fn new() -> Chosen {
            let (shared, board, queue) = rig::shadowed();
            Chosen { peers: of_client(shared), board, queue }
        }

        /// A text and its answer.
        fn run(&mut self, text: &str, answers: &str) {
            self.peers.query(text);
            self.peers.server(answers);
        }

        fn skipped(&self) -> BTreeMap<&'static str, u64> {
            self.board.shapes().total().skips().map(|(why, count)| (why.as_str(), count)).collect()
        }
    }

    fn of_client(shared: Arc<Shared>) -> Peers {
        let mut peers = Peers::over(shared);
        let endpoint = Endpoint { host: Host::Tcp("a".into()), port: 1 };
        let home = Home { side: Side::Origin, endpoint, key: vec![1] };
        let who = Who { user: "app".into(), application: String::new() };
        let packet = b"\0\0\0\0\0\0\0\0user\0app\0TimeZone\0UTC\0\0";
        let card = Card::new(who, packet[..].into(), "UTF8".into(), (false, false), 7, home);
        peers.session.belongs_to(Side::Origin, Arc::new(card));
        peers
    }

    /// What a read of either protocol allocates when all that is made once is there.
    fn allocated(shared: Arc<Shared>, count: &'static AtomicU64) -> u64 {
        let reads = move || {
            let mut peers = of_client(shared);
            let mut read = || {
                peers.query("select * from acc where id = 1");
                peers.server("T CSELECT_0 ZI");
                peers.client(|out| {
                    wire::parse(out, b"", b"select * from acc", &[]);
                    put_bind(out, 0);
                });
                peers.server("1 2 CSELECT_0 ZI");
            };
            (0..20).for_each(|_| read());
            allocations::count(count);
            let before = count.load(SeqCst);
            (0..20).for_each(|_| read());
            count.load(SeqCst) - before
        };
        std::thread::spawn(reads).join().expect("it ended")
    }

    #[test]
    fn what_is_not_chosen_costs_no_allocation() {
        static OFF: AtomicU64 = AtomicU64::new(0);
        static NONE: AtomicU64 = AtomicU64::new(0);
        let (shared, _board, _queue) = rig::shadowed();
        shared.policy.live.change([("shadow.sample", "0")].into_iter()).expect("it can be changed");
        assert_eq!(allocated(shared, &NONE), allocated(rig::shared(), &OFF));
        assert!(OFF.load(SeqCst) > 0, "it counts");
    }

    fn answer(words: &[(u8, &[u8])]) -> BytesMut {
        let mut out = BytesMut::new();
        words.iter().for_each(|(kind, body)| wire::message(&mut out, *kind, |b| b.put_slice(body)));
        out
    }

    #[test]
    fn a_read_is_kept_with_all_of_its_answer() {
        let mut chosen = Chosen::new();
        chosen.run("select * from acc", "T CSELECT_0 ZI");
        let reads = chosen.queue.taken();
        let [read] = &reads[..] else { panic!("one read") };
        assert_eq!((&read.text[..], &read.asker.user[..]), (&b"select * from acc"[..], "app"));
        assert_eq!(read.answer, answer(&[(b'T', &[0, 0]), (b'C', b"SELECT 0\0"), (b'Z', b"I")]));
        let params: Vec<_> = read.asker.params.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(params, [("TimeZone", "UTC"), ("client_encoding", "UTF8")]);
    }

    fn put_bind(out: &mut BytesMut, max_rows: i32) {
        wire::message(out, front::BIND, |b| b.put_bytes(0, 8));
        wire::execute(out, b"", max_rows);
        wire::bare(out, front::SYNC);
    }

    #[test]
    fn what_drivers_send_between_statements_is_no_part_of_an_answer() {
        let mut chosen = Chosen::new();
        chosen.peers.client(|out| {
            wire::parse(out, b"", b"select * from acc", &[]);
            wire::bare(out, front::SYNC);
        });
        chosen.peers.server("1 ZI");
        chosen.peers.client(|out| {
            wire::close(out, b'S', b"old");
            wire::bare(out, front::SYNC);
            put_bind(out, 0);
        });
        chosen.peers.server("3 ZI 2 CSELECT_0 ZI");
        let reads = chosen.queue.taken();
        let expected = answer(&[(b'2', b""), (b'C', b"SELECT 0\0"), (b'Z', b"I")]);
        assert_eq!(reads.iter().map(|read| &read.answer[..]).collect::<Vec<_>>(), [&expected[..]]);
        chosen.peers.client(|out| put_bind(out, 5));
        chosen.peers.server("2 s ZI");
        assert_eq!(chosen.skipped(), [("row_limit", 1)].into());
    }

    #[test]
    fn a_statement_on_its_way_before_a_read_leaves_it_alone() {
        let mut chosen = Chosen::new();
        chosen.peers.query("select bal from acc");
        // Not chosen: one at a time.
        chosen.peers.query("select id from acc");
        chosen.peers.server("T CSELECT_0 ZI T CSELECT_0 ZI");
        assert_eq!(chosen.queue.taken().len(), 1);
        chosen.peers.query("delete from acc where id = 1");
        chosen.peers.query("select id from acc");
        chosen.peers.server("CDELETE_1 ZI T CSELECT_0 ZI");
        assert_eq!((chosen.queue.taken().len(), chosen.skipped()), (0, [("unsupported", 1)].into()));
    }

    #[test]
    fn a_transaction_is_fit_until_it_writes() {
        let mut chosen = Chosen::new();
        chosen.run("begin", "CBEGIN ZT");
        chosen.run("select * from acc", "T CSELECT_0 ZT");
        assert_eq!(chosen.queue.taken().len(), 1);
        chosen.run("update acc set bal = 1 where id = 1", "CUPDATE_1 ZT");
        chosen.run("select * from acc", "T CSELECT_0 ZT");
        chosen.run("commit", "CCOMMIT ZI");
        chosen.run("begin isolation level serializable", "CBEGIN ZT");
        chosen.run("select * from acc", "T CSELECT_0 ZT");
        chosen.run("commit", "CCOMMIT ZI");
        assert_eq!((chosen.queue.taken().len(), chosen.skipped()), (0, [("in_transaction", 2)].into()));
        chosen.run("select now()", "T CSELECT_1 ZI");
        chosen.run("select * from acc for update", "T CSELECT_1 ZI");
        chosen.run("select * from acc where note = 'today'", "T CSELECT_1 ZI");
        let expected = [("in_transaction", 2), ("volatile", 2), ("not_repeatable", 1)];
        assert_eq!(chosen.skipped(), expected.into());
    }

    #[test]
    fn what_the_session_set_goes_along_until_it_is_not_known() {
        let mut chosen = Chosen::new();
        for text in ["set time zone 'UTC'", "set work_mem = '1MB'", "set app.tenant to '7'", "set timezone = 'CET'"] {
            chosen.run(text, "CSET ZI");
        }
        chosen.run("select * from acc", "T CSELECT_0 ZI");
        let set = |chosen: &mut Chosen| chosen.queue.taken().pop().map(|read| read.settings);
        let texts = ["set app.tenant to '7'", "set timezone = 'CET'"];
        assert_eq!(set(&mut chosen), Some(texts.map(Bytes::from).to_vec()));
        for text in ["begin", "set search_path = a", "rollback"] {
            let status = if text == "rollback" { "CROLLBACK ZI" } else { "CSET ZT" };
            chosen.run(text, status);
        }
        chosen.run("select * from acc", "T CSELECT_0 ZI");
        assert_eq!((set(&mut chosen), chosen.skipped()), (None, [("unsupported", 1)].into()));
        chosen.run("discard all", "CDISCARD_ALL ZI");
        chosen.run("select * from acc", "T CSELECT_0 ZI");
        assert_eq!(set(&mut chosen), Some(Vec::new()));
    }

    #[test]
    fn what_was_set_is_not_known_behind_a_rollback_to_a_savepoint() {
        let mut chosen = Chosen::new();
        for (text, status) in [
            ("begin", "CBEGIN ZT"),
            ("savepoint s", "CSAVEPOINT ZT"),
            ("set search_path = b", "CSET ZT"),
            ("rollback to s", "CROLLBACK ZT"),
            ("commit", "CCOMMIT ZI"),
            ("select * from acc", "T CSELECT_0 ZI"),
        ] {
            chosen.run(text, status);
        }
        assert_eq!((chosen.queue.taken().len(), chosen.skipped()), (0, [("unsupported", 1)].into()));
    }

    #[test]
    fn what_code_of_the_users_may_have_set_is_not_known() {
        for (text, known) in [
            ("select become('red')", false),
            ("select 1 @@@ 2", false),
            ("select * from bad_view", false),
            ("do $$ begin perform set_config('app.tenant', 'red', false); end $$", false),
            ("do $$ begin perform become('red'); end $$", false),
            ("execute what", false),
            ("select balance_of(1)", true),
            ("do $$ begin update acc set bal = 1; end $$", true),
            ("insert into trig values (1, 2)", true),
        ] {
            let mut chosen = Chosen::new();
            chosen.peers.query(text);
            let shadow = &chosen.peers.session.shadow;
            assert_eq!((shadow.unknown, shadow.acted), (!known, !known), "{text}");
        }
    }

    #[test]
    fn what_is_as_at_first_is_not_asked_for_again() {
        let mut chosen = Chosen::new();
        let mut after = |texts: &[&str]| {
            texts.iter().for_each(|text| chosen.run(text, "CSET ZI"));
            chosen.run("select * from acc", "T CSELECT_0 ZI");
            let read = chosen.queue.taken().pop().expect("chosen");
            chosen.run("discard all", "CDISCARD_ALL ZI");
            read.settings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>()
        };
        for text in
            ["reset role", "set role none", "set role 'none'", "set role to default", "SET SESSION ROLE = DEFAULT"]
        {
            assert_eq!(after(&["set role other", text]), [""; 0], "{text}");
        }
        for text in ["reset timezone", "set time zone local", "set time zone default", "RESET TIME ZONE"] {
            assert_eq!(after(&["set time zone 'CET'", "set timezone to 'UTC'", text]), [""; 0], "{text}");
        }
        assert_eq!(after(&["set role other", "set time zone 'CET'", "reset all"]), ["set role other"]);
        assert_eq!(after(&["set role \"default\""]), ["set role \"default\""]);
        assert_eq!(after(&["set App.tenant To '7'", "reset app.tenant"]), ["reset app.tenant"]);
    }

    #[test]
    fn who_a_session_is_stays_unknown_until_all_is_discarded() {
        for texts in [
            &["set session authorization other", "reset all"][..],
            &["select set_config('role', 'other', false)", "reset all"],
            &["begin", "set role other", "rollback", "reset all"],
            &["set role other", "begin", "reset role", "rollback", "reset all"],
        ] {
            let mut chosen = Chosen::new();
            let mut status = "CSET ZI";
            for text in texts {
                match *text {
                    "begin" => status = "CSET ZT",
                    "rollback" => status = "CROLLBACK ZI",
                    _ => {}
                }
                chosen.run(text, status);
            }
            chosen.run("select * from acc", "T CSELECT_0 ZI");
            assert_eq!((chosen.queue.taken().len(), chosen.skipped()), (0, [("unsupported", 1)].into()), "{texts:?}");
            chosen.run("discard all", "CDISCARD_ALL ZI");
            chosen.run("select * from acc", "T CSELECT_0 ZI");
            assert_eq!(chosen.queue.taken().len(), 1, "{texts:?}");
        }
        let mut chosen = Chosen::new();
        chosen.run("select set_config('app.tenant', '7', false)", "CSET ZI");
        chosen.run("reset all", "CSET ZI");
        chosen.run("select * from acc", "T CSELECT_0 ZI");
        assert_eq!(chosen.queue.taken().len(), 1);
    }

    #[test]
    fn people_see_a_statement_without_its_values() {
        let shape = |text: &str| shape_of(text.as_bytes(), &lexed(text.as_bytes(), Dialect::default()));
        assert_eq!(shape("select  a from t\nwhere b='secret' and c = $1 -- 7"), "select a from t where b=? and c = $1");
        assert!(shape(&"select a, ".repeat(1_000)).len() < SHAPE_BYTES_MAX + 20);
    }

    #[test]
    fn words_that_stand_for_a_moment_are_seen() {
        let is = |text: &str| is_moment(text.as_bytes(), &lexed(text.as_bytes(), Dialect::default()));
        assert!(
            is("select 'NOW'::timestamptz") && is("select * from t where at > 'today'") && is("select $$yesterday$$")
        );
        assert!(!is("select 'know', 'nowhere', now from t") && names_moment(b"tomorrow allballs"));
    }

    #[test]
    fn settings_that_matter_are_found_by_search() {
        assert!(MATTERS.is_sorted());
    }
}
