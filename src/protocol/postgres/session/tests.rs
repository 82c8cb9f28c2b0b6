//! Sequences of messages that could lose a key, lose count of the answers, or keep the gate: hand-made answers, an
//! in-memory journal.

use std::collections::BTreeSet;
use std::task::Waker;

use bytes::BufMut;

use super::*;
use crate::journal::Entry;
use crate::protocol::postgres::analysis::schema::catalog;
use crate::protocol::postgres::catalog::Key;
use crate::protocol::postgres::lexer::LEXED;
use crate::protocol::postgres::moving::Form;
use crate::protocol::postgres::rig::{self, shared};
use crate::protocol::postgres::shared::Schema;
use crate::protocol::postgres::wire::{self, HEADER, Header, front};
use crate::record::{Backend, Item, Record, TableId};

pub(super) struct Peers {
    pub(super) session: Session,
    shared: Arc<Shared>,
    from_client: BytesMut,
    from_server: BytesMut,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Peers {
    fn new() -> Peers {
        Peers::over(shared())
    }

    pub(super) fn over(shared: Arc<Shared>) -> Peers {
        let session = Session::new(shared.clone(), Backend { id: 7, life: 1 });
        let (from_client, from_server, to_server, to_client) = Default::default();
        Peers { session, shared, from_client, from_server, to_server, to_client }
    }

    /// Let everything move that can.
    fn turn(&mut self) {
        for _ in 0..100 {
            let mut out = Out { to_server: &mut self.to_server, to_client: &mut self.to_client };
            let mut cx = Context::from_waker(Waker::noop());
            let mut moved = self.session.poll(&mut cx, &mut out).expect("no fault");
            let took = self.session.server(&self.from_server, &mut out).expect("no fault");
            let _ = self.from_server.split_to(took);
            moved |= took > 0;
            if self.session.wants_client() {
                let took = self.session.client(&self.from_client, &mut out).expect("no fault");
                let _ = self.from_client.split_to(took);
                moved |= took > 0;
            }
            if !moved && self.from_server.is_empty() {
                return;
            }
            // The journal's own thread makes records durable.
            std::thread::yield_now();
        }
    }

    /// The client sends; returns the kinds of what goes on to the server.
    pub(super) fn client(&mut self, make: impl FnOnce(&mut BytesMut)) -> String {
        make(&mut self.from_client);
        self.turn();
        kinds(&mut self.to_server)
    }

    /// The client sends the rows of a COPY, and its end.
    fn copy(&mut self, rows: &[u8]) -> String {
        self.client(|out| {
            wire::message(out, front::COPY_DATA, |b| b.put_slice(rows));
            wire::bare(out, front::COPY_DONE);
        })
    }

    pub(super) fn query(&mut self, text: &str) -> String {
        self.client(|out| wire::query(out, text.as_bytes()))
    }

    /// The server answers, one word a message; returns the kinds of what the client sees.
    pub(super) fn server(&mut self, answers: &str) -> String {
        for answer in answers.split_whitespace() {
            let (kind, body) = answer.split_at(1);
            wire::message(&mut self.from_server, kind.as_bytes()[0], |b| match kind {
                "C" => wire::cstr(b, body.replace('_', " ").as_bytes()),
                "E" => {
                    let code = if body.is_empty() { "22012" } else { body };
                    b.put_slice(format!("SERROR\0C{code}\0Mno\0\0").as_bytes());
                }
                "G" => b.put_slice(&[0, 0, 0]),
                "t" | "T" => b.put_u16(0),
                "n" => {}
                _ => b.put_slice(body.as_bytes()),
            });
        }
        for _ in 0..10_000 {
            self.turn();
            if self.from_server.is_empty() {
                break;
            }
        }
        kinds(&mut self.to_client)
    }

    /// The keys and dirty tables in the journal, by table.
    fn journaled(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in rig::entries(&self.shared.journal) {
            let Entry::Record { payload, .. } = entry else { continue };
            for item in Record::parse(payload).expect("a record").items() {
                found.insert(match item {
                    Item::Key { table, key, .. } => format!("{} {}", name(table), key.escape_ascii()),
                    Item::Table(table) => format!("{} all", name(table)),
                    Item::Dirty(table, _) => format!("{} dirty", name(table)),
                    Item::Ddl(..) => "ddl".to_owned(),
                    Item::Prepared(gid) => format!("prepared {}", gid.escape_ascii()),
                    Item::Write { .. } | Item::Touch { .. } | Item::Stamp(_) | Item::Look(_) => {
                        panic!("this wire replays nothing")
                    }
                });
            }
        }
        found
    }

    /// The server sends a row.
    fn row(&mut self, columns: &[&str]) {
        wire::message(&mut self.from_server, wire::back::DATA_ROW, |b| {
            b.put_u16(columns.len() as u16);
            for column in columns {
                b.put_u32(column.len() as u32);
                b.put_slice(column.as_bytes());
            }
        });
    }

    /// The outcomes of the records, in order: C, A, or ? where there is none.
    fn outcomes(&self) -> String {
        rig::outcomes(&self.shared.journal)
    }

    /// The tables of the schema changes that were committed, as the journal says.
    fn repeated(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (entry, outcome) in rig::records(&self.shared.journal).iter().zip(self.outcomes().chars()) {
            let record = Record::parse(entry.clone()).expect("a record");
            let changes = record.items().filter(|item| matches!(item, Item::Ddl(..)));
            found.extend(changes.filter(|_| outcome == 'C').map(|item| name(item.table())));
        }
        found
    }

    fn has(&self, what: &str) -> bool {
        self.journaled().iter().any(|item| item.starts_with(what))
    }
}

fn name(table: TableId) -> String {
    let catalog = catalog();
    catalog.relation(table).map_or("?".to_owned(), |relation| relation.name.clone())
}

fn kinds(bytes: &mut BytesMut) -> String {
    let mut found = String::new();
    while let Some(header) = Header::peek(bytes).expect("the protocol") {
        assert!(bytes.len() >= header.size && header.size >= HEADER, "whole messages");
        found.push(char::from(header.kind));
        let _ = bytes.split_to(header.size);
    }
    found
}

fn bind(out: &mut BytesMut, portal: &str, statement: &str, params: &[&str]) {
    wire::message(out, front::BIND, |b| {
        wire::cstr(b, portal.as_bytes());
        wire::cstr(b, statement.as_bytes());
        b.put_u16(0);
        b.put_u16(params.len() as u16);
        for param in params {
            b.put_u32(param.len() as u32);
            b.put_slice(param.as_bytes());
        }
        b.put_u16(0);
    });
}

#[test]
fn an_asked_update_behind_a_rollback_of_a_failed_transaction_is_captured() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.query("select 1/0");
    peers.server("E ZE");
    // Asked in pieces: nothing is forwarded as a Query of which nobody knows the keys.
    assert!(!peers.query("rollback; update acc set bal = 1 where bal = 2").contains('Q'));
}

#[test]
fn an_asked_update_that_cannot_be_asked_makes_its_table_dirty() {
    for text in [
        "update acc set bal = 1 where bal = 2; commit; select $1",
        "update acc set bal = 1 where bal = 2; copy pair from stdin",
    ] {
        let mut peers = Peers::new();
        assert_eq!(peers.query(text), "Q", "{text}");
        assert!(peers.has("acc dirty"), "{text}: {:?}", peers.journaled());
    }
    let mut peers = Peers::new();
    peers.session.set_parameter(b"client_encoding", b"LATIN1");
    peers.client(|out| wire::query(out, b"update acc set note = '\xe9' where bal = 2"));
    assert!(peers.has("acc dirty"), "{:?}", peers.journaled());
}

#[test]
fn a_statement_too_long_to_analyse_may_commit_and_is_dirty_each_time() {
    let long = format!("/* {} */ ", "x".repeat(400));
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.query("insert into acc values (5, 1, '')");
    peers.server("CINSERT_0_1 ZT");
    assert!(!peers.has("acc"), "nothing can commit yet");
    peers.query(&format!("{long} commit"));
    assert!(peers.has("acc "), "{:?}", peers.journaled());

    let mut peers = Peers::new();
    let text = format!("{long} insert into acc values ($1, 1, '')");
    peers.client(|out| {
        wire::parse(out, b"s", text.as_bytes(), &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 ZI");
    let before = peers.shared.journal.appended();
    for _ in 0..2 {
        peers.client(|out| {
            bind(out, "", "s", &["1"]);
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        });
        peers.server("2 CINSERT_0_1 ZI");
    }
    assert!(peers.shared.journal.appended() > before && peers.has("acc dirty"), "{:?}", peers.journaled());
}

/// An asked statement by this portal, its first row taken and the portal suspended.
fn suspended(peers: &mut Peers, portal: &str) {
    peers.client(|out| {
        wire::parse(out, b"", b"update acc set bal = 1 where bal = 2 returning bal", &[]);
        bind(out, portal, "", &[]);
        wire::execute(out, portal.as_bytes(), 1);
        wire::bare(out, front::SYNC);
    });
    let oid = catalog().by_name["acc"][0].to_string();
    assert_eq!(peers.server("1 2"), "12");
    peers.row(&["9", &oid, "41"]);
    assert_eq!(peers.server("s"), "Ds");
}

#[test]
fn the_rows_behind_a_row_limit_are_read_for_their_keys_and_not_shown() {
    let mut peers = Peers::new();
    suspended(&mut peers, "");
    assert_eq!(kinds(&mut peers.to_server), "EH", "the rest is asked for before the Sync goes on");
    let oid = catalog().by_name["acc"][0].to_string();
    peers.row(&["9", &oid, "42"]);
    assert_eq!(peers.server("CUPDATE_2"), "");
    assert_eq!(kinds(&mut peers.to_server), "S");
    assert_eq!(peers.journaled().len(), 2, "{:?}", peers.journaled());
    assert!(!peers.has("acc dirty"));
    assert_eq!(peers.server("ZI"), "Z");
    assert!(peers.session.is_idle());
}

#[test]
fn in_a_transaction_the_rest_of_a_portal_is_read_when_it_is_replaced() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    suspended(&mut peers, "");
    assert_eq!(peers.server("ZT"), "Z");
    kinds(&mut peers.to_server);
    // The client may still read on: nothing is asked until it says what comes next.
    assert_eq!(peers.client(|out| bind(out, "", "", &[])), "EH");
    assert_eq!(peers.server("CUPDATE_1"), "");
    assert_eq!(kinds(&mut peers.to_server), "B");
}

#[test]
fn a_portal_that_cannot_be_read_to_its_end_makes_its_table_dirty_at_commit() {
    let mut peers = Peers::new();
    suspended(&mut peers, "named");
    assert_eq!(kinds(&mut peers.to_server), "S");
    assert!(peers.has("acc dirty"), "{:?}", peers.journaled());

    // After an error it may be gone with a savepoint.
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    suspended(&mut peers, "");
    peers.server("ZT");
    peers.client(|out| {
        wire::parse(out, b"", b"nonsense", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("E ZE");
    kinds(&mut peers.to_server);
    assert_eq!(peers.query("rollback to s"), "Q");
    assert!(peers.has("acc dirty"), "{:?}", peers.journaled());
}

#[test]
fn a_counted_statement_that_was_skipped_behind_an_error_leaves_nothing_dirty() {
    // What does not parse may be anything, and may commit: a record says so before it is executed.
    for (text, answers, outcome) in [("selec", "E", "Aborted"), ("call p()", "1 2 n E", "Committed")] {
        let mut peers = Peers::new();
        peers.client(|out| {
            wire::parse(out, b"", text.as_bytes(), &[]);
            bind(out, "", "", &[]);
            wire::describe(out, b'P', b"");
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        });
        if text == "call p()" {
            counted_ahead(&mut peers, &[]);
        }
        peers.server(answers);
        peers.server("ZI");
        assert!(peers.session.is_idle() && peers.has("acc dirty"));
        let entries = format!("{:?}", rig::entries(&peers.shared.journal));
        assert!(entries.contains(outcome), "{text}: {entries}");
    }
}

#[test]
fn an_answer_that_is_asked_for_in_two_parts_may_be_sent_in_one() {
    let mut peers = Peers::new();
    let sent = peers.client(|out| {
        wire::parse(out, b"", b"update acc set bal = 1 where bal = 2", &[]);
        bind(out, "", "", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(sent.ends_with('H') && peers.session.answers_soon(), "{sent}");
    peers.server("1 2 CUPDATE_0");
    assert!(peers.session.answers_soon());
    assert_eq!(kinds(&mut peers.to_server), "S");
    peers.server("ZI");
    assert!(!peers.session.answers_soon());
}

#[test]
fn the_close_of_a_hidden_statement_is_not_shown() {
    let mut peers = Peers::new();
    let sent = peers.client(|out| {
        wire::parse(out, b"", b"insert into acc values ($1, 1, '')", &[]);
        bind(out, "", "", &["  1  e"]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(sent.starts_with("PCPB"), "a twin asks: {sent}");
    assert_eq!(peers.server("1 3 1 2"), "12");
}

#[test]
fn every_copy_of_a_query_is_read_with_its_own_columns() {
    let mut peers = Peers::new();
    peers.query("copy acc from stdin; copy pair from stdin");
    assert_eq!(peers.server("G"), "G");
    peers.copy(b"41\t1\tx\n");
    peers.server("CCOPY_1 G");
    peers.copy(b"42\ty\t1\n");
    let found = peers.journaled();
    assert!(found.iter().any(|item| item.starts_with("acc ")) && found.iter().any(|item| item.starts_with("pair ")));
    assert!(!found.iter().any(|item| item.ends_with("dirty")), "{found:?}");
}

/// A table that is written for the first time is announced, and waited for: the message comes again.
#[test]
fn a_copy_whose_end_waits_for_the_journal_does_not_take_the_next_ones_rows() {
    let mut peers = Peers::over(rig::changed(|shared| shared.journal = rig::slow_journal()));
    peers.query("copy acc from stdin; copy pair from stdin");
    assert_eq!(peers.server("G"), "G");
    for (line, answers) in [(&b"41\t1\tx\n"[..], "CCOPY_1 G"), (&b"42\ty\t1\n"[..], "CCOPY_1 ZI")] {
        let sent = peers.copy(line);
        assert_eq!(sent, "d", "it waits for its table");
        peers.shared.journal.sync_now();
        peers.turn();
        assert_eq!(kinds(&mut peers.to_server), "c");
        peers.server(answers);
    }
    let found = peers.journaled();
    assert!(found.iter().any(|item| item.starts_with("acc ")) && found.iter().any(|item| item.starts_with("pair ")));
    assert!(!found.iter().any(|item| item.ends_with("dirty")), "{found:?}");
}

#[test]
fn a_schema_change_that_waits_for_the_journal_is_written_down_once() {
    let mut peers = Peers::over(rig::changed(|shared| shared.journal = rig::slow_journal()));
    assert_eq!(peers.query("create index on acc (bal)"), "CPBECS", "it is asked what names mean");
    peers.server("3 1 2");
    peers.row(&["public"]);
    peers.server("CSELECT_1 3 ZI");
    assert_eq!(kinds(&mut peers.to_server), "", "it waits for its table");
    peers.shared.journal.sync_now();
    peers.turn();
    assert_eq!(kinds(&mut peers.to_server), "Q");
    let items = |entry| match entry {
        Entry::Record { payload, .. } => {
            Record::parse(payload).expect("a record").items().filter(|item| matches!(item, Item::Ddl(..))).count()
        }
        _ => 0,
    };
    assert_eq!(rig::entries(&peers.shared.journal).into_iter().map(items).sum::<usize>(), 1);
}

/// A schema that the path names may be there only now, and DISCARD ALL resets the path.
#[tokio::test]
async fn a_path_is_asked_for_again_behind_what_may_have_changed_it() {
    let mut peers = Peers::new();
    assert_eq!(peers.query("create table one (id int)"), "CPBECS");
    peers.server("3 1 2");
    peers.row(&["public"]);
    assert!(!peers.session.path_aged);
    peers.server("CSELECT_1 3 ZI");
    assert_eq!(kinds(&mut peers.to_server), "Q");
    assert!(peers.session.path_aged && peers.session.path.as_deref() == Some("public"));
    let mut peers = Peers::new();
    peers.session.path = Some("shop".to_owned());
    peers.query("discard all");
    peers.server("CDISCARD_ALL ZI");
    assert_eq!(peers.session.path, None);
}

#[tokio::test]
async fn a_schema_change_of_a_temporary_table_is_not_repeated() {
    for (text, repeated, dirty) in [
        ("drop table acc", &[][..], &[][..]),
        ("create index on acc (bal)", &[], &[]),
        ("drop table pair", &["pair"], &[]),
        ("drop table public.acc", &["acc"], &[]),
        ("drop table acc, pair", &[], &["acc dirty", "pair dirty"]),
    ] {
        let mut peers = Peers::new();
        peers.query("create temp table acc (id int)");
        peers.server("CCREATE_TABLE ZI");
        peers.session.path = Some("public".to_owned());
        if !text.contains("public") {
            assert_eq!(peers.query(text), "CPBECS", "{text}: it is asked what is temporary");
            peers.server("3 1 2");
            peers.row(&["t", "acc"]);
            peers.server("CSELECT_1 3 ZI");
            assert_eq!(kinds(&mut peers.to_server), "Q", "{text}");
        } else {
            assert_eq!(peers.query(text), "Q", "{text}");
        }
        peers.server("CDROP_TABLE ZI");
        assert_eq!(peers.repeated(), repeated, "{text}");
        let journaled = peers.journaled();
        let marks: Vec<&str> = journaled.iter().map(String::as_str).filter(|item| item.ends_with("dirty")).collect();
        assert_eq!(marks, dirty, "{text}");
    }
}

#[tokio::test]
async fn a_schema_change_behind_a_path_of_the_same_query_is_repeated_under_it() {
    for set in [
        "set search_path = x",
        "create schema shop",
        "select set_config('search_path', 'x', false)",
        "set time zone 'Asia/Kolkata'",
        "reset datestyle",
    ] {
        let mut peers = Peers::new();
        peers.session.path = Some("public".to_owned());
        assert_eq!(peers.query(&format!("{set}; create table t (id int)")), "PBDECPBECH", "{set}");
        peers.server("1 2 n CSET 3 1 2");
        peers.row(&["x"]);
        assert_eq!(peers.server("CSELECT_1 3"), "", "{set}");
        assert!(kinds(&mut peers.to_server).starts_with("PBDE"), "{set}");
        assert!(peers.has("ddl"), "{set}: {:?}", peers.journaled());
        assert!(peers.journaled().contains("? all"), "{set}: {:?}", peers.journaled());
    }
}

#[tokio::test]
async fn a_schema_change_says_what_it_was_read_under() {
    let mut peers = Peers::new();
    for (text, rows) in [
        ("create table one (id int)", &["public", "UTC", "ISO, DMY"][..]),
        ("set time zone 'Asia/Kolkata'", &[]),
        ("create table two (id int)", &["public", "Asia/Kolkata", "ISO, DMY"]),
    ] {
        assert_eq!(peers.query(text) == "Q", rows.is_empty(), "{text}");
        if !rows.is_empty() {
            peers.server("3 1 2");
            peers.row(rows);
            peers.server("CSELECT_1 3 ZI");
        }
        peers.server("CDONE ZI");
        kinds(&mut peers.to_server);
        peers.session.learning = None; // No catalog comes.
    }
    let said: Vec<String> = rig::records(&peers.shared.journal)
        .into_iter()
        .flat_map(|record| {
            let record = Record::parse(record).expect("a record");
            let body = |item: Item<'_>| match item {
                Item::Ddl(_, body) => Some(body.escape_ascii().to_string()),
                _ => None,
            };
            record.items().filter_map(body).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains(r"public\x00UTC\x00ISO, DMYcreate table one"), "{said:?}");
    assert!(said[1].contains(r"public\x00Asia/Kolkata\x00ISO, DMYcreate table two"), "{said:?}");
}

#[tokio::test]
async fn a_table_that_is_made_only_if_there_is_none_is_owed_whole_only_then() {
    for (text, owed) in [
        ("create table if not exists acc (id int)", false),
        ("create table if not exists fresh (id int)", true),
        ("create table acc (id int)", true),
        ("drop table acc; create table if not exists acc (id int)", true),
        ("alter table acc add column if not exists bal timestamptz default now()", false),
        ("alter table acc add column if not exists at timestamptz default now()", true),
    ] {
        let mut peers = Peers::new();
        peers.session.path = Some("public".to_owned());
        peers.query(text);
        peers.server("CDONE CDONE ZI");
        let owes = rig::records(&peers.shared.journal).into_iter().any(|record| {
            let record = Record::parse(record).expect("a record");
            record.items().any(|item| matches!(item, Item::Table(_)))
        });
        assert_eq!(owes, owed, "{text}");
    }
}

#[tokio::test]
async fn a_path_that_the_server_did_not_tell_is_asked_for_again() {
    let mut peers = Peers::new();
    peers.session.path = Some("public".to_owned());
    peers.query("set search_path = nowhere; create table t (id int)");
    peers.server("E");
    assert_eq!(peers.session.path, None);
}

#[test]
fn a_schema_change_whose_path_nobody_knows_is_said() {
    let mut peers = Peers::new();
    peers.session.path = Some("public".to_owned());
    assert_eq!(peers.query("set search_path = x; create table t (id int); copy acc from stdin"), "Q");
    peers.server("CSET CCREATE_TABLE G");
    peers.copy(b"1\t1\tx\n");
    assert!(peers.has("pair dirty"), "{:?}", peers.journaled());
}

fn with_setting(key: &str, value: &str) -> Peers {
    Peers::over(rig::changed(|shared| {
        shared.policy.live.change([(key, value)].into_iter()).expect("it can be changed");
    }))
}

/// What fills it, and what its transaction writes into it, nobody else writes down.
#[tokio::test]
async fn a_table_whose_making_is_noted_is_dirty_by_its_name() {
    let of = |schema: &str| format!("{:?}", TableId::of(schema, "x"));
    let dirty = |peers: &Peers| -> Vec<String> {
        let records = rig::records(&peers.shared.journal);
        let items = records.iter().flat_map(|record| {
            let record = Record::parse(record.clone()).expect("a record");
            let tables = record.items().filter_map(|item| match item {
                Item::Dirty(table, _) => Some(format!("{table:?}")),
                _ => None,
            });
            tables.collect::<Vec<_>>()
        });
        items.collect()
    };
    for (text, answers) in [
        ("create table x as select 1 as one", "CSELECT_1 ZI"),
        ("select 1 as one into x", "CSELECT_1 ZI"),
        ("begin; create table x (id int primary key); commit", "CBEGIN CCREATE_TABLE CCOMMIT ZI"),
    ] {
        let mut peers = with_setting("mirror.ddl", "note");
        assert_eq!(peers.query(text), "CPBECS", "{text}: it is asked where new names go");
        peers.server("3 1 2");
        peers.row(&["shop, public"]);
        peers.server("CSELECT_1 3 ZI");
        assert_eq!(kinds(&mut peers.to_server), "Q", "{text}");
        peers.server(answers);
        assert_eq!(dirty(&peers), [of("shop")], "{text}");
        assert!(peers.repeated().is_empty(), "{text}");
    }
    let mut peers = with_setting("mirror.ddl", "note");
    assert_eq!(peers.query("create table public.x (id int primary key)"), "Q", "it says where");
    assert_eq!(dirty(&peers), [of("public")]);
    let mut peers = with_setting("mirror.ddl", "note");
    assert_eq!(peers.query("create function f() returns int language sql as 'select 1'"), "Q");
    assert_eq!(dirty(&peers), [""; 0], "it has no table");
    // Nobody can ask in time.
    let mut peers = with_setting("mirror.ddl", "note");
    peers.session.path = Some("public".to_owned());
    assert_eq!(peers.query("set search_path = x; create table x (id int); copy acc from stdin"), "Q");
    peers.server("CSET CCREATE_TABLE G");
    peers.copy(b"1\t1\tx\n");
    assert!(peers.has("pair dirty"), "{:?}", peers.journaled());
}

#[tokio::test]
async fn what_is_noted_leaves_its_table_dirty_and_what_is_refused_does_not_run() {
    for (key, text) in [("mirror.truncate", "truncate acc"), ("mirror.ddl", "alter table acc add column x int")] {
        let mut peers = with_setting(key, "note");
        assert_eq!(peers.query(text), "Q", "{text}");
        assert_eq!(peers.journaled(), ["acc dirty".to_owned()].into(), "{text}");
        let mut peers = with_setting(key, "refuse");
        let sent = peers.query(text);
        assert_eq!(sent, "Q", "{text}: what raises an error goes in its place");
        assert_eq!(peers.server("E0A000 ZI"), "EZ");
        assert!(peers.journaled().is_empty() && peers.session.is_idle(), "{text}: {:?}", peers.journaled());
    }
}

#[test]
fn a_path_is_asked_for_when_what_may_set_it_was_answered() {
    let mut peers = Peers::new();
    peers.session.path = Some("public".to_owned());
    let parsed = |peers: &mut Peers, text: &str| {
        peers.client(|out| {
            wire::parse(out, b"", text.as_bytes(), &[]);
            bind(out, "", "", &[]);
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        })
    };
    assert_eq!(parsed(&mut peers, "set search_path = x"), "PBES");
    assert_eq!(parsed(&mut peers, "create table t (id int)"), "", "it waits");
    peers.server("1 2 CSET ZI");
    assert_eq!(kinds(&mut peers.to_server), "CPBECS");
}

#[test]
fn what_a_copy_that_failed_had_written_down_ends_with_it() {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.spill_bytes = 100));
    peers.query("copy acc from stdin");
    peers.server("G");
    let mut rows = Vec::new();
    for id in 0..1_000 {
        rows.extend_from_slice(format!("{id}\t1\tx\n").as_bytes());
    }
    peers.client(|out| wire::message(out, front::COPY_DATA, |b| b.put_slice(&rows)));
    assert!(!peers.outcomes().is_empty(), "so many are not kept in memory");
    peers.server("E ZI");
    assert!(peers.outcomes().chars().all(|outcome| outcome == 'A'), "{}", peers.outcomes());
}

/// Of each record in the journal: is it a part?
fn parts(peers: &Peers) -> Vec<bool> {
    rig::records(&peers.shared.journal)
        .into_iter()
        .map(|record| Record::parse(record).expect("a record").part)
        .collect()
}

#[test]
fn parts_of_a_unit_are_closed_right_before_what_could_commit_it() {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.spill_bytes = 100));
    peers.query("begin");
    peers.server("CBEGIN ZT");
    for keys in [20, 20] {
        owe(&mut peers.session, keys);
        peers.session.spill();
    }
    assert_eq!(parts(&peers), [true, true]);
    peers.query("commit");
    assert_eq!(parts(&peers), [true, true, false]);
    peers.server("CCOMMIT ZI");
    assert_eq!((peers.outcomes().as_str(), peers.session.parts.len()), ("CCC", 0));
    peers.query("update acc set v = 1 where id = 1");
    assert_eq!(parts(&peers).last(), Some(&false), "the next unit is whole");
}

#[test]
fn a_rollback_writes_nothing_down() {
    for (extended, failed) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut peers = Peers::over(rig::changed(|shared| shared.policy.spill_bytes = 100));
        peers.query("begin");
        peers.server("CBEGIN ZT");
        owe(&mut peers.session, 20);
        peers.session.spill();
        owe(&mut peers.session, 1);
        if failed {
            peers.query("select 1/0");
            peers.server("E ZE");
        }
        if extended {
            peers.client(|out| {
                wire::parse(out, b"", b"rollback", &[]);
                bind(out, "", "", &[]);
                wire::execute(out, b"", 0);
                wire::bare(out, front::SYNC);
            });
            peers.server("1 2 CROLLBACK ZI");
        } else {
            peers.query("rollback");
            peers.server("CROLLBACK ZI");
        }
        assert_eq!((parts(&peers), peers.outcomes().as_str()), (vec![true], "A"), "{extended} {failed}");
    }
}

/// In a transaction that wrote a row of `acc`, behind which it has a savepoint.
fn saved() -> Peers {
    let mut peers = Peers::new();
    for (text, answer) in [BEGIN, ("insert into acc values (5, 1, '')", "CINSERT_0_1 ZT"), SAVE] {
        peers.query(text);
        peers.server(answer);
    }
    peers
}

/// What lay before the savepoint is committed.
fn assert_saved(mut peers: Peers) {
    peers.query(BACK.0);
    peers.server(BACK.1);
    peers.query(COMMIT.0);
    assert!(peers.has("acc "), "{:?}", peers.journaled());
}

fn run(out: &mut BytesMut, text: &str) {
    wire::parse(out, b"", text.as_bytes(), &[]);
    bind(out, "", "", &[]);
    wire::execute(out, b"", 0);
}

fn run_all(out: &mut BytesMut, texts: &[&str]) {
    texts.iter().for_each(|text| run(out, text));
}

fn copy_fail(out: &mut BytesMut) {
    wire::message(out, front::COPY_FAIL, |b| wire::cstr(b, b"no more"));
}

#[test]
fn a_copy_that_its_client_gives_up_takes_nothing_from_before_a_savepoint() {
    let mut peers = saved();
    peers.query("copy pair from stdin");
    peers.server("G");
    peers.client(copy_fail);
    peers.server("E ZE");
    assert_saved(peers);

    // All of it in one group.
    let mut peers = Peers::new();
    peers.client(|out| {
        run_all(out, &["begin", "insert into acc values (5, 1, '')", "savepoint s", "copy pair from stdin"]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 CBEGIN 1 2 CINSERT_0_1 1 2 CSAVEPOINT 1 2 G");
    peers.client(|out| {
        copy_fail(out);
        wire::bare(out, front::SYNC);
    });
    peers.server("E ZE");
    assert_saved(peers);
}

#[test]
fn a_copy_that_its_client_gives_up_writes_nothing_down_outside_a_transaction() {
    for extended in [false, true] {
        let mut peers = Peers::new();
        peers.client(|out| match extended {
            true => {
                run(out, "copy pair from stdin");
                wire::bare(out, front::SYNC);
            }
            false => wire::query(out, b"copy pair from stdin"),
        });
        peers.server(if extended { "1 2 G" } else { "G" });
        peers.client(|out| {
            wire::message(out, front::COPY_DATA, |b| b.put_slice(b"1\t2\t3\n"));
            copy_fail(out);
            if extended {
                wire::bare(out, front::SYNC);
            }
        });
        peers.server("E ZI");
        assert!(peers.journaled().is_empty() && peers.session.keys.is_empty(), "{extended}: {:?}", peers.journaled());
    }
}

#[test]
fn a_rollback_that_the_server_skips_takes_nothing_from_before_a_savepoint() {
    // Behind an error in its group, ..
    let mut peers = saved();
    peers.client(|out| {
        run_all(out, &["select 1/0", "rollback"]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 E ZE");
    assert_saved(peers);
    // .. as a Query behind it, ..
    let mut peers = saved();
    peers.client(|out| {
        run(out, "select 1/0");
        wire::query(out, b"rollback");
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 E ZE");
    assert_saved(peers);
    // .. or in a transaction that failed before, and goes on.
    let mut peers = saved();
    peers.query("select 1/0");
    peers.server("E ZE");
    peers.client(|out| {
        run_all(out, &["rollback to s", "select 1/0", "rollback"]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 CROLLBACK 1 2 E ZE");
    assert_saved(peers);
}

/// What waited for keys and was skipped may not be taken for what comes next.
#[test]
fn a_statement_behind_one_that_the_server_skipped_is_captured() {
    const ASKED: &str = "update acc set bal = 1/0 where bal = 2";
    let skipped = |skipped: &[&str], answers: &str, status: &str, next: &str| {
        let mut peers = Peers::new();
        peers.client(|out| {
            run_all(out, skipped);
            wire::bare(out, front::SYNC);
            wire::query(out, next.as_bytes());
        });
        peers.server(answers);
        peers.server(status);
        peers
    };
    let one = "update acc set bal = 1 where id = 5";
    let peers = skipped(&["begin", ASKED, "commit"], "1 2 CBEGIN 1 2 E", "ZE", &format!("rollback; {one}"));
    assert!(peers.has("acc "), "{:?}", peers.journaled());
    let peers = skipped(&[ASKED, "commit"], "1 2 E", "ZI", one);
    assert!(peers.has("acc "), "{:?}", peers.journaled());
}

#[test]
fn parts_that_nothing_could_close_are_dirty() {
    let marks: Arc<std::sync::Mutex<Vec<TableId>>> = Arc::default();
    let seen = marks.clone();
    let lost: crate::mirror::unwritten::Lose = Arc::new(move |tables, _| seen.lock().expect("no panic").extend(tables));
    let mut peers = Peers::over(rig::changed(move |shared| {
        shared.lost = lost;
        shared.policy.spill_bytes = 100;
    }));
    peers.query("begin");
    peers.server("CBEGIN ZT");
    owe(&mut peers.session, 20);
    peers.session.spill();
    assert_eq!(parts(&peers), [true]);
    peers.session.unclosed(&journal::Error::Full);
    assert_eq!(*marks.lock().expect("no panic"), [TableId::of("public", "acc")]);
    assert!(peers.session.parts.is_empty());
}

#[test]
fn what_foreign_keys_took_along_with_rows_that_the_journal_did_not_take_is_dirty_too() {
    let marks: Arc<std::sync::Mutex<Vec<TableId>>> = Arc::default();
    let seen = marks.clone();
    let lost: crate::mirror::unwritten::Lose = Arc::new(move |tables, _| seen.lock().expect("no panic").extend(tables));
    let mut peers = Peers::over(rig::changed(move |shared| shared.lost = lost));
    let [lord, vassal] = ["lord", "vassal"].map(|name| TableId::of("public", name));
    for (moved, of_lords, expected) in
        [(true, true, &[lord, vassal][..]), (false, true, &[lord]), (true, false, &[vassal])]
    {
        let mut keys = RecordBuf::default();
        keys.key(if of_lords { lord } else { vassal }, b"k", moved);
        peers.session.unwritten(&keys, &journal::Error::Full);
        let mut marked = std::mem::take(&mut *marks.lock().expect("no panic"));
        let mut expected = expected.to_vec();
        marked.sort_unstable();
        expected.sort_unstable();
        assert_eq!(marked, expected, "moved: {moved}");
    }
}

/// Keys of the open unit, as one statement may name: so many.
fn owe(session: &mut Session, keys: u32) {
    let table = TableId::of("public", "acc");
    (0..keys).for_each(|key| session.keys.key(table, &key.to_be_bytes(), false));
}

#[test]
fn a_statement_that_names_more_than_a_record_takes_leaves_several() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    owe(&mut peers.session, 100_000);
    assert!(peers.session.append().expect("in memory"));
    assert!(peers.session.unwritten.is_empty(), "the journal took it");
    peers.query("commit");
    peers.server("CCOMMIT ZI");
    assert_eq!(peers.outcomes(), "CCC");
}

#[test]
fn what_the_journal_did_not_take_is_dirty_before_it_is_written_and_when_its_unit_is_over() {
    let marks: Arc<std::sync::Mutex<usize>> = Arc::default();
    let seen = marks.clone();
    let lost: crate::mirror::unwritten::Lose = Arc::new(move |_, _| *seen.lock().expect("no panic") += 1);
    let mut peers = Peers::over(rig::changed(move |shared| shared.lost = lost));
    let marked = || *marks.lock().expect("no panic");
    peers.query("begin");
    peers.server("CBEGIN ZT");
    owe(&mut peers.session, 1);
    let keys = std::mem::take(&mut peers.session.keys);
    peers.session.unwritten(&keys, &journal::Error::Full);
    assert_eq!(marked(), 1);
    peers.query("select 1");
    peers.server("CSELECT_1 ZT");
    assert_eq!(marked(), 1, "the transaction goes on");
    peers.query("commit");
    peers.server("CCOMMIT ZI");
    assert_eq!(marked(), 2);
    peers.session.unwritten(&keys, &journal::Error::Full);
    peers.session.server_closed();
    assert_eq!(marked(), 4, "nobody knows more of it than that its server is gone");
}

#[tokio::test(start_paused = true)]
async fn a_full_journal_that_an_open_unit_holds_up_is_waited_for_by_no_policy() {
    let shared = rig::changed(rig::narrow);
    let journal = shared.journal.clone();
    rig::fill(&journal);
    let mut room = Session::new(shared.clone(), Backend { id: 7, life: 1 }).room(1000);
    assert!(tokio::time::timeout(FULL_WAIT * 100, &mut room).await.is_err(), "the mirror may catch up");
    journal.hold_up_at(Some(journal::Lsn(0)));
    assert_eq!(tokio::time::timeout(FULL_WAIT * 3, &mut room).await, Ok(false));
    journal.hold_up_at(None);
    let mut room = Session::new(shared.clone(), Backend { id: 8, life: 1 }).room(1000);
    assert!(tokio::time::timeout(FULL_WAIT * 100, &mut room).await.is_err());
    shared.policy.live.change([("journal.on_full", "dirty")].into_iter()).expect("it can be changed");
    assert_eq!(tokio::time::timeout(FULL_WAIT * 3, &mut room).await, Ok(false), "whoever waits already hears of it");
}

#[test]
fn a_schema_change_that_the_journal_did_not_take_is_said_of_no_table_too() {
    let marks: Arc<std::sync::Mutex<BTreeSet<u64>>> = Arc::default();
    let seen = marks.clone();
    let lost: crate::mirror::unwritten::Lose =
        Arc::new(move |tables, _| seen.lock().expect("no panic").extend(tables.iter().map(|table| table.0)));
    let shared = rig::changed(move |shared| shared.lost = lost);
    let (mut keys, mut change) = (RecordBuf::default(), RecordBuf::default());
    keys.key(TableId(1), b"k", false);
    keys.prepared(b"gid");
    drop(shared.lose(&keys, &journal::Error::Full));
    assert_eq!(*marks.lock().expect("no panic"), BTreeSet::from([1]));
    change.ddl(TableId(1), b"CREATE INDEX ..");
    drop(shared.lose(&change, &journal::Error::Full));
    assert_eq!(*marks.lock().expect("no panic"), BTreeSet::from([TableId::NONE.0, 1]));
}

#[test]
fn an_error_of_an_earlier_query_does_not_end_the_capture_of_a_copy() {
    let mut peers = Peers::new();
    peers.query("select 1/0");
    peers.query("copy acc from stdin");
    assert_eq!(peers.server("E ZI G"), "EZG");
    peers.copy(b"41\t1\tx\n");
    assert!(peers.has("acc "), "{:?}", peers.journaled());
}

#[test]
fn a_sync_that_the_server_ignores_inside_a_copy_is_owed_no_answer() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"", b"copy acc from stdin", &[]);
        bind(out, "", "", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::FLUSH);
    });
    peers.server("1 2 G");
    peers.client(|out| {
        wire::bare(out, front::SYNC);
        wire::bare(out, front::COPY_DONE);
        wire::bare(out, front::SYNC);
    });
    assert_eq!(peers.server("CCOPY_0 ZI"), "CZ");
    assert!(peers.session.is_idle());
}

#[test]
fn a_copy_into_a_table_with_triggers_makes_every_table_dirty() {
    for (text, dirty) in
        [("copy trig from stdin", true), ("copy acc from stdin", false), ("copy temp from stdin", false)]
    {
        let mut peers = Peers::new();
        peers.session.reloaded = true; // Nobody loads a catalog here.
        peers.query(text);
        peers.server("G");
        peers.copy(b"41\t1\tx\n");
        peers.server("CCOPY_1 ZI");
        for table in ["pair dirty", "trig dirty"] {
            assert_eq!(peers.has(table), dirty, "{text}: {:?}", peers.journaled());
        }
    }
}

#[test]
fn the_stream_of_a_copy_that_was_refused_is_owed_no_answer() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"", b"copy acc from stdin", &[]);
        bind(out, "", "", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
        wire::message(out, front::COPY_DATA, |b| b.put_slice(b"41\t1\tx\n"));
        wire::bare(out, front::COPY_DONE);
        wire::bare(out, front::SYNC);
    });
    assert_eq!(peers.server("1 2 E ZI ZI"), "12EZZ");
    assert!(peers.session.is_idle() && peers.session.expects.is_empty());
}

#[test]
fn what_is_pipelined_behind_a_copy_is_journaled_should_the_server_refuse_the_copy() {
    let mut peers = Peers::new();
    peers.client(|out| {
        for text in ["copy pair from stdin", "insert into acc values (5, 1, 'x')"] {
            run(out, text);
            wire::bare(out, front::SYNC);
        }
    });
    assert!(peers.has("acc "), "{:?}", peers.journaled());
    assert_eq!(peers.server("1 2 E ZI 1 2 CINSERT_0_1 ZI"), "12EZ12CZ");
    assert_eq!(peers.outcomes(), "C");
    assert!(peers.session.is_idle());
}

#[test]
fn what_is_left_of_a_copy_that_failed_does_not_keep_the_gate() {
    let mut peers = Peers::new();
    peers.query("copy acc from stdin");
    assert_eq!(peers.server("G E ZI"), "GEZ");
    peers.client(|out| {
        wire::message(out, front::COPY_DATA, |b| b.put_slice(b"41\t1\tx\n"));
        wire::bare(out, front::COPY_DONE);
        wire::bare(out, front::FLUSH);
    });
    assert!(peers.session.is_idle());
    assert_eq!(peers.shared.gate.inside(), 0);
}

#[test]
fn a_query_that_the_server_skips_leaves_no_group_behind() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"", b"nonsense", &[]);
        wire::query(out, b"select 1");
    });
    assert_eq!(peers.server("E"), "E");
    peers.client(|out| wire::bare(out, front::SYNC));
    assert_eq!(peers.server("ZI"), "Z");
    assert!(peers.session.is_idle() && peers.session.groups.is_empty() && peers.session.expects.is_empty());
}

#[test]
fn a_parse_refused_because_sql_took_its_name_does_not_change_what_the_name_means() {
    let mut peers = Peers::new();
    peers.query("prepare s as insert into acc values (1, 1, '')");
    peers.client(|out| {
        wire::parse(out, b"s", b"select 1", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("CPREPARE ZI E");
    peers.server("ZI");
    peers.client(|out| {
        bind(out, "", "s", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(peers.has("acc "), "{:?}", peers.journaled());
}

#[test]
fn a_name_whose_parse_failed_means_nothing_known() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"s", b"select 1", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("E ZI");
    // Then it is prepared in a way that nobody sees, by a function.
    peers.client(|out| {
        bind(out, "", "s", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(peers.has("acc dirty"), "{:?}", peers.journaled());
}

#[test]
fn an_execute_owes_what_every_prepare_on_the_way_to_it_could_write() {
    let mut peers = Peers::new();
    peers.query("prepare p as insert into acc values (1, 1, '')");
    peers.server("CPREPARE ZI");
    peers.query("deallocate p");
    peers.query("prepare p as insert into pair values (2, 'b', 1)");
    peers.query("execute p");
    assert!(peers.has("pair "), "{:?}", peers.journaled());

    let mut peers = Peers::new();
    peers.query(
        "prepare p as insert into acc values (1, 1, ''); execute p; deallocate p; \
         prepare p as insert into pair values (2, 'b', 1); execute p",
    );
    assert!(peers.has("acc ") && peers.has("pair "), "{:?}", peers.journaled());
}

#[test]
fn a_statement_parsed_behind_a_deallocate_stays_known() {
    let mut peers = Peers::new();
    peers.query("deallocate all");
    peers.client(|out| {
        wire::parse(out, b"s", b"insert into acc values ($1, 1, '')", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("CDEALLOCATE_ALL ZI 1");
    peers.server("ZI");
    peers.client(|out| {
        bind(out, "", "s", &["1"]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(peers.has("acc ") && !peers.has("acc dirty"), "{:?}", peers.journaled());
}

#[test]
fn a_session_of_another_database_passes_the_gate_and_is_not_captured() {
    let mut peers = Peers::new();
    peers.session.leave_uncaptured();
    assert_eq!(peers.query("insert into acc values (1, 1, ''); select write_it()"), "Q");
    assert_eq!(peers.shared.gate.inside(), 1);
    assert!(peers.journaled().is_empty());
}

/// An INSERT by the extended protocol.
fn insert(out: &mut BytesMut) {
    wire::parse(out, b"", b"insert into acc values (1, 1, '')", &[]);
    bind(out, "", "", &[]);
    wire::execute(out, b"", 0);
    wire::bare(out, front::SYNC);
}

#[test]
fn a_client_that_always_has_something_under_way_leaves_the_gate_when_it_closes() {
    let simple = |out: &mut BytesMut| wire::query(out, b"insert into acc values (1, 1, '')");
    for (ask, asked, answers) in
        [(&simple as &dyn Fn(&mut BytesMut), "Q", "CINSERT_0_1 ZI"), (&insert, "PBES", "1 2 CINSERT_0_1 ZI")]
    {
        let mut peers = Peers::new();
        for _ in 0..2 {
            assert_eq!(peers.client(ask), asked);
        }
        peers.server(answers);
        assert_eq!((peers.client(ask).as_str(), peers.shared.gate.inside()), (asked, 1));
        peers.shared.gate.close();
        for inside in [1, 0] {
            assert_eq!(peers.client(ask), "", "it waits");
            peers.server(answers);
            assert_eq!(peers.shared.gate.inside(), inside);
        }
        assert_eq!((peers.client(|_| ()).as_str(), peers.outcomes().as_str()), ("", "CCC"));
        peers.shared.gate.open(peers.shared.gate.route());
        assert_eq!(peers.client(|_| ()), asked.repeat(2), "in the order in which they came");
    }
}

#[test]
fn a_transaction_that_is_sent_ahead_ends_behind_a_closed_gate() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.shared.gate.close();
    assert_eq!(peers.query("insert into acc values (1, 1, '')"), "", "perhaps of another unit");
    peers.server("CBEGIN ZT");
    assert_eq!(kinds(&mut peers.to_server), "Q", "it is of this one");
    assert_eq!(peers.query("commit"), "");
    peers.server("CINSERT_0_1 ZT");
    assert_eq!(kinds(&mut peers.to_server), "Q");
    assert_eq!(peers.query("select 1"), "");
    peers.server("CCOMMIT ZI");
    assert_eq!((kinds(&mut peers.to_server).as_str(), peers.shared.gate.inside()), ("", 0));
    assert_eq!(peers.outcomes(), "C");
}

#[test]
fn a_copy_goes_on_behind_a_closed_gate() {
    let stream = |out: &mut BytesMut| {
        wire::message(out, front::COPY_DATA, |b| b.put_slice(b"41\t1\tx\n"));
        wire::bare(out, front::COPY_DONE);
    };
    // The server ignores the Sync ahead of the stream, and waits for the one behind it.
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"", b"copy acc from stdin", &[]);
        bind(out, "", "", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    peers.shared.gate.close();
    peers.client(|out| {
        stream(out);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 G CCOPY_1");
    assert_eq!(kinds(&mut peers.to_server), "S");
    peers.server("ZI");
    assert_eq!(peers.shared.gate.inside(), 0);

    // What comes inside a stream, though the server ignores it, does not wait for the answer behind it.
    let mut peers = Peers::new();
    peers.query("copy acc from stdin; copy pair from stdin");
    peers.shared.gate.close();
    for answers in ["G", "CCOPY_1 G"] {
        peers.server(answers);
        assert_eq!(peers.client(|out| wire::bare(out, front::SYNC)), "S");
        assert_eq!(peers.client(stream), "dc");
    }
    peers.server("CCOPY_1 ZI");
    assert_eq!(peers.shared.gate.inside(), 0);
}

#[test]
fn a_session_that_is_to_stop_ends_what_is_under_way_and_begins_nothing_more() {
    let mut peers = Peers::new();
    peers.client(insert);
    peers.client(insert);
    peers.session.stop();
    for idle in [false, true] {
        assert_eq!(peers.client(insert), "");
        peers.server("1 2 CINSERT_0_1 ZI");
        assert_eq!(peers.session.is_idle(), idle);
    }
    assert_eq!((peers.client(insert).as_str(), peers.outcomes().as_str()), ("", "CC"));
    assert!(peers.session.is_idle() && !peers.session.wants_client());

    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.session.stop();
    for (text, answers, idle) in [("select 1", "CSELECT_1 ZT", false), ("commit", "CCOMMIT ZI", true)] {
        assert_eq!(peers.query(text), "Q");
        peers.server(answers);
        assert_eq!(peers.session.is_idle(), idle);
    }
}

#[test]
fn commit_and_chain_ends_a_unit_and_the_next_passes_the_gate_when_it_begins() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.query("insert into acc values (1, 1, '')");
    peers.server("CINSERT_0_1 ZT");
    peers.query("commit and chain");
    assert_eq!((peers.outcomes().as_str(), peers.shared.gate.inside()), ("?", 1));
    assert_eq!(peers.server("CCOMMIT ZT"), "CZ");
    assert_eq!((peers.outcomes().as_str(), peers.shared.gate.inside()), ("C", 0));
    peers.query("insert into acc values (2, 1, '')");
    assert_eq!(peers.shared.gate.inside(), 1);
    peers.server("CINSERT_0_1 ZT");
    peers.query("rollback and chain");
    peers.server("CROLLBACK ZT");
    assert_eq!((peers.outcomes().as_str(), peers.shared.gate.inside()), ("CA", 0));
    peers.query("commit");
    peers.server("CCOMMIT ZI");
    assert!(peers.session.is_idle());
}

#[test]
fn a_record_behind_commit_and_chain_waits_for_the_next_commit() {
    // In one Query, and in one pipeline.
    let mut peers = Peers::new();
    peers.query("begin; insert into acc values (1, 1, ''); commit and chain; insert into acc values (2, 1, '')");
    peers.server("CBEGIN CINSERT_0_1 CCOMMIT CINSERT_0_1 ZT");
    assert_eq!((peers.outcomes().as_str(), peers.shared.gate.inside()), ("?", 1));
    peers.query("rollback");
    peers.server("CROLLBACK ZI");
    assert_eq!(peers.outcomes(), "C", "a part of it is committed");

    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.query("insert into acc values (1, 1, '')");
    peers.query("commit and chain");
    peers.query("insert into acc values (2, 1, '')");
    peers.server("CINSERT_0_1 ZT CCOMMIT ZT");
    assert_eq!(peers.outcomes(), "C?");
    peers.server("CINSERT_0_1 ZT");
    assert_eq!(peers.outcomes(), "C?");
}

#[tokio::test]
async fn an_answer_that_proves_a_rollback_leaves_no_dirty_mark() {
    // The server, and what became of each record.
    let mark = "begin; create table fresh (v int); insert into keyless values (1)";
    for (text, answers, outcomes) in [
        (format!("{mark}; rollback"), "CBEGIN CCREATE_TABLE CINSERT_0_1 CROLLBACK ZI", "AA"),
        (format!("{mark}; commit"), "CBEGIN CCREATE_TABLE CINSERT_0_1 CROLLBACK ZI", "AA"),
        (format!("{mark}; commit"), "CBEGIN CCREATE_TABLE CINSERT_0_1 CCOMMIT ZI", "CC"),
        (format!("{mark}; commit"), "CBEGIN CCREATE_TABLE CINSERT_0_1 E ZI", "AA"),
        // The schema change and the mark have records of their own.
        (format!("{mark}; commit; select 1"), "CBEGIN CCREATE_TABLE CINSERT_0_1 CCOMMIT E ZI", "UC"),
        (format!("{mark}; rollback; select 1"), "CBEGIN CCREATE_TABLE CINSERT_0_1 CROLLBACK E ZI", "AA"),
        ("insert into keyless values (1); select 1/0".to_owned(), "CINSERT_0_1 E ZI", "A"),
        (
            "savepoint s; insert into keyless values (1); rollback to s".to_owned(),
            "CSAVEPOINT CINSERT_0_1 CROLLBACK ZI",
            "C",
        ),
    ] {
        let mut peers = Peers::new();
        peers.session.path = Some("public".to_owned());
        assert_eq!(peers.query(&text), "Q");
        peers.server(answers);
        assert_eq!(peers.outcomes(), outcomes, "{text}: {answers}");
    }
}

/// Without an outcome it would hold up every payment for as long as its client stays.
#[tokio::test]
async fn a_schema_change_in_doubt_is_said_to_be_so_while_its_client_stays() {
    let change = "begin; alter table acc add column x int; commit";
    let mut peers = Peers::new();
    for (text, answers, outcomes) in [
        (format!("{change}; select 1/0"), "CBEGIN CALTER_TABLE CCOMMIT E ZI", "U"),
        // In a transaction that goes on.
        (format!("{change} and chain; select 1"), "CBEGIN CALTER_TABLE CCOMMIT CSELECT_1 ZT", "U?"),
        ("rollback; select 1/0".to_owned(), "CROLLBACK E ZI", "UU"),
    ] {
        (peers.session.path, peers.session.path_aged) = (Some("public".to_owned()), false);
        (peers.session.learning, peers.session.schema_stale) = (None, false); // No catalog comes.
        assert_eq!(peers.query(&text), "Q", "{text}");
        peers.server(answers);
        assert_eq!(peers.outcomes(), outcomes, "{text}");
    }
}

/// It has no table that could be dirty.
#[tokio::test]
async fn a_schema_change_of_no_table_that_may_have_been_undone_is_told_as_what_it_is() {
    for (end, answer, outcomes) in [("commit", "CCOMMIT ZI", "U"), ("rollback", "CROLLBACK ZI", "A")] {
        let mut peers = Peers::new();
        (peers.session.path, peers.session.path_aged) = (Some("public".to_owned()), false);
        peers.query("begin");
        peers.server("CBEGIN ZT");
        assert_eq!(peers.query("create type mood as enum ('glad')"), "Q");
        peers.server("CCREATE_TYPE ZT");
        // Of a savepoint that nobody here has read.
        (peers.session.learning, peers.session.schema_stale) = (None, false); // No catalog comes.
        assert_eq!(peers.query("rollback to unread"), "Q");
        peers.server("CROLLBACK ZT");
        assert_eq!(peers.query(end), "Q");
        peers.server(answer);
        assert_eq!(peers.outcomes(), outcomes, "{end}: {:?}", peers.journaled());
        assert!(!peers.has("dirty"), "{:?}", peers.journaled());
    }
}

/// The tables of the schema changes that are to be repeated, after these queries, each with its answers.
fn repeated(script: &[(&str, &str)]) -> Vec<String> {
    let mut peers = Peers::new();
    for (text, answers) in script {
        (peers.session.path, peers.session.path_aged) = (Some("public".to_owned()), false);
        peers.session.schema_stale = false; // No catalog comes.
        assert_eq!(peers.query(text), "Q", "{text}");
        peers.server(answers);
    }
    peers.repeated()
}

const DROP: (&str, &str) = ("drop table acc", "CDROP_TABLE ZT");
const ALTER: (&str, &str) = ("alter table pair add column x int", "CALTER_TABLE ZT");
const BEGIN: (&str, &str) = ("begin", "CBEGIN ZT");
const SAVE: (&str, &str) = ("savepoint s", "CSAVEPOINT ZT");
const RELEASE: (&str, &str) = ("release s", "CRELEASE ZT");
const BACK: (&str, &str) = ("rollback to s", "CROLLBACK ZT");
const COMMIT: (&str, &str) = ("commit", "CCOMMIT ZI");

#[tokio::test]
async fn a_schema_change_that_rollback_to_undid_is_not_repeated() {
    let refused = ("drop table acc", "E ZE");
    let (none, both) = (&[][..], &["acc", "pair"][..]);
    for (script, tables) in [
        (&[BEGIN, SAVE, DROP, BACK, COMMIT][..], none),
        (&[BEGIN, SAVE, DROP, RELEASE, ALTER, COMMIT], both),
        (&[BEGIN, SAVE, refused, BACK, COMMIT], none),
        (&[BEGIN, DROP, SAVE, ALTER, BACK, COMMIT], &["acc"]),
        (&[BEGIN, SAVE, DROP, BACK, ALTER, COMMIT], &["pair"]),
        (&[BEGIN, SAVE, DROP, BACK, ALTER, BACK, COMMIT], none),
        // A savepoint hides an older one of its name, until it is gone.
        (&[BEGIN, SAVE, DROP, SAVE, ALTER, BACK, COMMIT], &["acc"]),
        (&[BEGIN, SAVE, DROP, SAVE, ALTER, BACK, RELEASE, BACK, COMMIT], none),
        (&[BEGIN, SAVE, DROP, SAVE, ALTER, RELEASE, COMMIT], both),
        // In a failed transaction no savepoint is made.
        (&[BEGIN, SAVE, DROP, ("select 1/0", "E ZE"), ("savepoint s", "E ZE"), BACK, COMMIT], none),
        // What is refused for its name undoes nothing more than the one that is not.
        (&[BEGIN, DROP, SAVE, ALTER, ("rollback to nothing", "E ZE"), BACK, COMMIT], &["acc"]),
        // Those of the last transaction are gone.
        (&[BEGIN, SAVE, COMMIT, BEGIN, DROP, ("rollback to s", "E ZE"), ("commit", "CROLLBACK ZI")], none),
    ] {
        assert_eq!(repeated(script), tables, "{script:?}");
    }
}

#[tokio::test]
async fn what_rollback_to_undid_is_not_repeated_though_it_was_in_the_journal() {
    let answers = "CBEGIN CALTER_TABLE CSAVEPOINT CDROP_TABLE CROLLBACK CCOMMIT ZI";
    let all = ("begin; alter table pair add column x int; savepoint s; drop table acc; rollback to s; commit", answers);
    assert_eq!(repeated(&[all]), ["pair"]);
    // It could have committed, and failed before it did.
    let fails = ("savepoint s; drop table acc; select 1/0; commit", "CSAVEPOINT CDROP_TABLE E ZE");
    assert_eq!(repeated(&[BEGIN, fails, BACK, COMMIT]), [""; 0]);
    let kept = ("savepoint s; drop table acc; release s; select 1", "CSAVEPOINT CDROP_TABLE CRELEASE CSELECT_1 ZT");
    assert_eq!(repeated(&[BEGIN, kept, COMMIT]), ["acc"]);
}

#[tokio::test]
async fn in_the_extended_protocol_a_schema_change_belongs_where_it_is_executed() {
    let texts = [&b"savepoint s"[..], b"drop table acc", b"rollback to s"];
    for (order, tables) in [([0, 1, 2], &[][..]), ([1, 0, 2], &["acc"])] {
        let mut peers = Peers::new();
        peers.query("begin");
        peers.server("CBEGIN ZT");
        peers.session.path = Some("public".to_owned());
        for at in [0, 1] {
            let name = format!("p{at}");
            peers.client(|out| {
                wire::parse(out, b"", texts[at], &[]);
                bind(out, &name, "", &[]);
            });
        }
        for at in &order[..2] {
            peers.session.path = Some("public".to_owned());
            peers.client(|out| wire::execute(out, format!("p{at}").as_bytes(), 0));
        }
        let answers = if order[0] == 0 { "CSAVEPOINT CDROP_TABLE" } else { "CDROP_TABLE CSAVEPOINT" };
        peers.client(|out| {
            wire::parse(out, b"", texts[2], &[]);
            bind(out, "", "", &[]);
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        });
        peers.server(&format!("1 2 1 2 {answers} 1 2 CROLLBACK ZT"));
        peers.session.schema_stale = false; // No catalog comes.
        peers.query("commit");
        peers.server("CCOMMIT ZI");
        assert_eq!(peers.repeated(), tables, "{order:?}");
    }
}

#[tokio::test]
async fn behind_a_savepoint_that_nobody_read_a_schema_change_is_in_doubt() {
    let unread = format!("/* {} */ savepoint s", "x".repeat(400));
    let mut peers = Peers::new();
    for (text, answers) in [BEGIN, DROP, (unread.as_str(), "CSAVEPOINT ZT"), BACK, COMMIT] {
        peers.session.path = Some("public".to_owned());
        peers.session.schema_stale = false; // No catalog comes.
        peers.query(text);
        peers.server(answers);
    }
    assert!(peers.repeated().is_empty() && peers.has("ddl") && peers.outcomes().contains('U'), "{}", peers.outcomes());
}

#[test]
fn a_statement_that_commits_by_itself_commits_what_came_before_it_even_if_it_fails() {
    let pipeline = |peers: &mut Peers| {
        peers.client(|out| {
            wire::parse(out, b"", b"insert into keyless values (1)", &[]);
            bind(out, "", "", &[]);
            wire::execute(out, b"", 0);
            wire::parse(out, b"", b"vacuum acc", &[]);
            bind(out, "", "", &[]);
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        })
    };
    let mut peers = Peers::new();
    pipeline(&mut peers);
    peers.server("1 2 CINSERT_0_1 1 2 E ZI");
    assert_eq!(peers.outcomes(), "C");
    let mut peers = Peers::new();
    pipeline(&mut peers);
    peers.server("1 2 E ZI");
    assert_eq!(peers.outcomes(), "A", "it was skipped");
}

/// The counts that are asked for ahead of what may end its transaction: these rows.
fn counted_ahead(peers: &mut Peers, rows: &[&[&str]]) -> String {
    peers.server("3 1 2");
    rows.iter().for_each(|row| peers.row(row));
    assert_eq!(peers.server("CSELECT_1 3 ZI"), "", "nobody sees it");
    kinds(&mut peers.to_server)
}

/// A function or procedure may do it, or a trigger. `acc` is the table with oid 1; the catalog knows of no files.
#[test]
fn a_table_that_was_emptied_in_secret_is_dirty() {
    for (before, after, dirty) in [
        (&["1", "0", "70"][..], &["1", "0", "71"][..], true),
        (&["1", "2", "70"], &["1", "1", "70"], true),
        (&["1", "2", "70"], &["1", "2", "70"], false),
        (&[], &["1", "0", "71"], true),
    ] {
        let mut peers = Peers::new();
        peers.query("begin");
        peers.server("CBEGIN ZT");
        peers.query("select write_it()");
        peers.server("3 1 2");
        if !before.is_empty() {
            peers.row(before);
        }
        peers.server("CSELECT_1 3 1 2 T CSELECT_1 3 1 2");
        peers.row(after);
        peers.server("CSELECT_1 3");
        peers.server("3 3 ZT");
        peers.query("commit");
        assert_eq!(peers.has("acc dirty"), dirty, "{before:?} {after:?}: {:?}", peers.journaled());
        assert!(!peers.has("pair"), "{:?}", peers.journaled());
    }
}

#[test]
fn what_may_commit_on_its_way_is_counted_by_files_that_were_asked_for_ahead() {
    for (file, dirty) in [("70", false), ("71", true)] {
        let mut peers = Peers::new();
        assert_eq!(peers.query("call nothing()"), "CPBECS");
        assert!(counted_ahead(&mut peers, &[&["1", "5", "70"]]).starts_with("PBDECPBEC"));
        let announced = |peers: &Peers, table| peers.shared.journal.is_announced(TableId::of("public", table).0);
        assert!(!announced(&peers, "acc") && !announced(&peers, "pair"), "it is not known what it writes");
        peers.server("1 2 n CCALL 3 1 2");
        peers.row(&["1", "0", file]);
        peers.server("CSELECT_1 3");
        peers.server("3 3 ZI");
        let records = rig::records(&peers.shared.journal);
        assert_eq!((records.len() == 2, &peers.outcomes()[..1]), (dirty, "A"), "all tables, until it is known which");
        assert_eq!(peers.outcomes(), if dirty { "AC" } else { "A" });
        assert!(peers.session.ahead.is_none());
        assert_eq!((announced(&peers, "acc"), announced(&peers, "pair")), (dirty, false));
    }
}

#[test]
fn a_fetch_behind_code_that_may_have_opened_a_cursor_is_counted() {
    for (text, answers, counted) in [
        ("select write_it()", &["3 1 2 CSELECT_0 3 1 2 T CSELECT_1 3 1 2 CSELECT_0 3", "3 3 ZT"][..], true),
        ("update trig set v = 1 where id = 1", &["CUPDATE_1 ZT"], false),
        ("select 1", &["CSELECT_1 ZT"], false),
    ] {
        let mut peers = Peers::new();
        peers.query("begin");
        peers.server("CBEGIN ZT");
        peers.query(text);
        answers.iter().for_each(|part| drop(peers.server(part)));
        kinds(&mut peers.to_server);
        assert_eq!(peers.query("fetch all from c") == "Q", !counted, "{text}");
    }
    let mut peers = Peers::new();
    assert_ne!(peers.query("begin; select write_it(); fetch all from c; commit"), "Q");
}

#[test]
fn a_fetch_that_is_counted_is_answered_in_the_cursors_own_format() {
    for is_binary in [true, false] {
        let mut peers = Peers::new();
        peers.query("begin");
        peers.server("CBEGIN ZT");
        peers.query("declare c cursor for select write_it()");
        peers.server("CDECLARE_CURSOR ZT");
        assert_eq!(peers.query("fetch all from c"), "CPBECS", "it is asked which cursor it is");
        peers.server("3 1 2");
        peers.row(&[if is_binary { "true" } else { "false" }, "declare c .."]);
        assert_eq!(peers.server("CSELECT_1 3 ZT"), "");
        let formats = [0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        let is_asked = peers.to_server.windows(formats.len()).any(|bytes| bytes == formats);
        assert_eq!(is_asked, is_binary);
    }
}

#[test]
fn what_was_parsed_is_executed_by_sql_without_our_columns_and_its_table_is_dirty() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"s1", b"update acc set bal = bal + 1 where bal < $1", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 ZI");
    assert_eq!(peers.query("execute s1(10)"), "CPS", "as the client wrote it");
    assert_eq!(peers.server("3 1 ZI"), "");
    assert_eq!(kinds(&mut peers.to_server), "Q");
    assert!(peers.has("acc dirty") && !peers.has("pair"), "{:?}", peers.journaled());
    peers.server("CUPDATE_1 ZI");
    assert_eq!(peers.query("execute s1(10)"), "Q");
    peers.server("CUPDATE_1 ZI");
    // Bound again, it asks.
    let sent = peers.client(|out| {
        bind(out, "", "s1", &["10"]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert_eq!(sent, "CPBEH");
    peers.server("3 1 2 CUPDATE_0");
    peers.server("ZI");
    // Keys that its arguments name are known.
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"s2", b"update acc set bal = 1 where id = $1", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 ZI");
    assert_eq!(peers.query("execute s2(5)"), "Q");
    assert!(peers.has("acc ") && !peers.has("acc dirty") && !peers.has("pair"), "{:?}", peers.journaled());
}

#[test]
fn a_portal_with_our_columns_is_counted_and_read_without_them_by_sql() {
    let bound = || {
        let mut peers = Peers::new();
        peers.query("begin");
        peers.server("CBEGIN ZT");
        peers.client(|out| {
            wire::parse(out, b"", b"update acc set bal = 0 where bal < 10 returning bal", &[]);
            bind(out, "c1", "", &[]);
            wire::bare(out, front::SYNC);
        });
        peers.server("1 2 ZT");
        peers
    };
    let mut peers = bound();
    assert_eq!(peers.query("fetch all from c1"), "CPBECS");
    peers.server("3 1 2");
    let portal = peers.session.statements.portal(b"c1").and_then(|portal| portal.statement.clone()).expect("bound");
    let suffix = asked_of(&portal.script.statements[0]).expect("asked").suffix.clone();
    peers.row(&["false", &format!("update .. returning bal{suffix}")]);
    peers.server("CSELECT_1 3 ZT");
    assert_eq!(kinds(&mut peers.to_server), "CPBECPBDECPBECCCS");
    peers.server("3 1 2 CSELECT_0 3 1 2 n");
    let oid = catalog().by_name["acc"][0].to_string();
    peers.row(&["0", &oid, "41"]);
    assert_eq!(peers.server("CFETCH_1 3 1 2 CSELECT_0 3 3 3 ZT"), "DCZ");
    peers.query("commit");
    assert!(peers.has("acc "), "{:?}", peers.journaled());
    // MOVE tells no rows: it is counted.
    let mut peers = bound();
    assert_eq!(peers.query("move all from c1"), "CPBECPBDECPBECCCS");
}

/// What PostgreSQL refuses or allows there it must go on refusing or allowing.
#[test]
fn a_query_that_is_a_block_to_one_of_its_statements_goes_as_it_is() {
    let update = "update acc set bal = 1 where bal = 2";
    for (text, whole) in [
        (format!("lock table acc; {update}"), true),
        (format!("declare c cursor for select 1; {update}"), true),
        (format!("set local work_mem = '1MB'; {update}"), true),
        (format!("set transaction read write; {update}"), true),
        (format!("set constraints all deferred; {update}"), true),
        (format!("{update}; vacuum acc"), true),
        (format!("begin; {update}; commit; lock table acc"), true),
        (format!("begin; lock table acc; {update}; commit"), false),
        (format!("begin; {update}; commit and chain; lock table acc"), false),
        (format!("set work_mem = '1MB'; {update}"), false),
    ] {
        let mut peers = Peers::new();
        assert_eq!(peers.query(&text) == "Q", whole, "{text}");
        assert_eq!(peers.has("acc dirty"), whole, "{text}: {:?}", peers.journaled());
    }
    // In a block that was begun before, pieces are in it; whether there is one the answers say.
    let mut peers = Peers::new();
    peers.query("begin");
    assert_eq!(peers.query(&format!("lock table acc; {update}")), "");
    peers.server("CBEGIN ZT");
    assert!(kinds(&mut peers.to_server).starts_with("PBDE"));
}

#[test]
fn a_call_that_never_ran_leaves_no_mark() {
    let mut peers = Peers::new();
    peers.query("call nothing()");
    counted_ahead(&mut peers, &[]);
    peers.server("E");
    peers.server("ZI");
    assert_eq!(peers.outcomes(), "A");
    let mut peers = Peers::new();
    peers.query("call nothing()");
    counted_ahead(&mut peers, &[]);
    peers.server("1 2 n E");
    peers.server("ZI");
    assert_eq!(peers.outcomes(), "C", "it may have committed before it failed");
}

#[test]
fn a_portal_that_nobody_knows_may_commit_what_came_before_it() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"", b"insert into acc values ($1, 1, '')", &[]);
        bind(out, "", "", &["5"]);
        wire::execute(out, b"", 0);
        wire::execute(out, b"cursor of sql", 0);
    });
    assert!(peers.has("acc ") && !peers.has("acc dirty"), "{:?}", peers.journaled());
}

/// A failed pipeline with these messages behind the error.
fn fail_before(peers: &mut Peers, skipped: impl FnOnce(&mut BytesMut)) {
    peers.client(|out| {
        wire::parse(out, b"bad", b"nonsense", &[]);
        skipped(out);
        wire::bare(out, front::SYNC);
    });
    peers.server("E ZI");
}

#[test]
fn a_name_means_what_it_meant_before_messages_that_the_server_skipped() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"", b"insert into acc values ($1, 1, '')", &[]);
        wire::parse(out, b"asks", b"update acc set bal = 1 where bal = 2", &[]);
        bind(out, "p", "asks", &[]);
        wire::bare(out, front::FLUSH);
    });
    peers.server("1 1 2");
    fail_before(&mut peers, |out| {
        wire::parse(out, b"", b"select 1", &[]);
        wire::parse(out, b"", b"select 2", &[]);
        bind(out, "p", "", &[]);
        wire::close(out, b'P', b"p");
    });
    // In a transaction, the portal would be there behind a savepoint.
    peers.client(|out| {
        bind(out, "", "", &["7"]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(peers.has("acc ") && !peers.has("acc dirty"), "{:?}", peers.journaled());
}

#[test]
fn a_portal_means_what_it_meant_before_messages_that_the_server_skipped() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.client(|out| {
        wire::parse(out, b"asks", b"update acc set bal = 1 where bal = 2", &[]);
        bind(out, "p", "asks", &[]);
        bind(out, "q", "asks", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 2 ZT");
    peers.client(|out| {
        wire::parse(out, b"bad", b"nonsense", &[]);
        wire::parse(out, b"reads", b"select 1", &[]);
        bind(out, "p", "reads", &[]);
        wire::close(out, b'P', b"q");
        wire::bare(out, front::SYNC);
    });
    peers.server("E ZE");
    for name in [b"p", b"q"] {
        assert!(peers.session.statements.portal(name).is_some_and(|portal| portal.asked));
    }
}

#[test]
fn what_a_pipeline_sent_behind_the_sync_keeps_its_meaning() {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"bad", b"nonsense", &[]);
        wire::parse(out, b"", b"select 1", &[]);
        wire::bare(out, front::SYNC);
        wire::parse(out, b"", b"insert into acc values ($1, 1, '')", &[]);
        wire::bare(out, front::SYNC);
    });
    peers.server("E ZI 1 ZI");
    peers.client(|out| {
        bind(out, "", "", &["7"]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert!(peers.has("acc ") && !peers.has("acc dirty"), "{:?}", peers.journaled());
}

#[test]
fn pieces_leave_no_unnamed_statement_behind() {
    let mut peers = Peers::new();
    assert_eq!(peers.query("update acc set bal = 1 where bal = 2"), "PBDEH");
    peers.server("1 2 T CUPDATE_0");
    assert_eq!(kinds(&mut peers.to_server), "CCS");
    assert_eq!(peers.server("3 3 ZI"), "CZ");
    assert_eq!(peers.query("update acc set bal = 1 where bal = 2"), "PBDEH");
    peers.server("1 2 E");
    peers.server("ZI");
    assert!(kinds(&mut peers.to_server).ends_with("SCCS"), "closed behind the error");
    assert!(!peers.session.is_idle());
    assert_eq!(peers.server("3 3 ZI"), "");
    assert!(peers.session.is_idle());
}

#[test]
fn a_table_made_from_what_a_with_deletes_is_counted_and_not_repeated() {
    for (into, journaled) in [("temp table t", ""), ("table s.t", "? dirty")] {
        let mut peers = Peers::new();
        peers.session.path = Some("public".to_owned());
        let text = format!("create {into} as with d as (delete from acc where id = 1 returning *) select * from d");
        assert_eq!(peers.query(&text), "CPBECPBDECPBECH", "{into}: counted before and after");
        peers.server("3 1 2 CSELECT_0 3 1 2 n CSELECT_1 3 1 2");
        peers.row(&["1", "1", "0"]);
        peers.server("CSELECT_1 3");
        assert_eq!(kinds(&mut peers.to_server), "CCS", "{into}");
        assert!(peers.has("acc dirty") && peers.has(journaled) && !peers.has("ddl"), "{:?}", peers.journaled());
    }
}

#[tokio::test]
async fn what_a_transaction_made_is_counted_until_it_ends() {
    let counted = "CPBECPBDECPBEC";
    for (made, answers) in [
        ("create function mig() returns int language sql as ''", "CCREATE_FUNCTION ZT"),
        ("do 'begin end'", "3 1 2 CSELECT_0 3 1 2 n CDO 3 1 2 CSELECT_0 3 3 3 ZT"),
    ] {
        let mut peers = Peers::new();
        peers.session.path = Some("public".to_owned());
        peers.client(|out| wire::parse(out, b"u", b"update acc set bal = 1 where id = $1", &[]));
        peers.server("1");
        peers.query("begin");
        peers.server("CBEGIN ZT");
        peers.client(|out| wire::query(out, made.as_bytes()));
        peers.server(answers);
        peers.session.schema_stale = false; // No catalog comes.
        assert!(peers.query("select mig()").starts_with(counted), "{made}");
        peers.server("3 1 2 CSELECT_0 3 1 2 T CSELECT_1 3 1 2 CSELECT_0 3");
        peers.server("3 3 ZT");
        kinds(&mut peers.to_server);
        let mut prepared = peers.client(|out| {
            bind(out, "", "u", &["7"]);
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        });
        if made.starts_with("do") {
            assert_eq!(prepared, "CPBECS", "what is temporary by now");
            peers.server("3 1 2 CSELECT_0 3 ZT");
            prepared = kinds(&mut peers.to_server);
        }
        assert!(prepared.starts_with("BCPBECECPBEC"), "{made}: {prepared}");
    }
}

#[test]
fn a_statement_that_was_prepared_before_a_temporary_name_hid_its_table_is_counted() {
    let mut peers = Peers::new();
    peers.client(|out| wire::parse(out, b"u", b"update acc set bal = 1 where id = $1", &[]));
    peers.server("1");
    let execute = |peers: &mut Peers| {
        peers.client(|out| {
            bind(out, "", "u", &["7"]);
            wire::execute(out, b"", 0);
            wire::bare(out, front::SYNC);
        })
    };
    assert_eq!(execute(&mut peers), "BES");
    peers.server("2 CUPDATE_1 ZI");
    peers.query("create temp view acc as select 1");
    peers.server("CCREATE_VIEW ZI");
    for name in [&["t", "acc"][..], &["t", "other"]] {
        assert_eq!(execute(&mut peers), "CPBECS", "it is asked what is temporary");
        peers.server("3 1 2");
        peers.row(name);
        peers.server("CSELECT_1 3 ZI");
        let sent = kinds(&mut peers.to_server);
        if name[1] == "other" {
            assert_eq!(sent, "BES");
            return;
        }
        assert!(sent.starts_with("BCPBECECPBEC"), "{sent}");
        peers.server("2 3 1 2 CSELECT_0 3 CUPDATE_1 3 1 2 CSELECT_0 3");
        kinds(&mut peers.to_server);
        peers.server("ZI");
        peers.session.names_may_differ();
    }
}

/// A view of another schema bears the name of `acc`, and what its trigger writes is not what the text names.
#[test]
fn a_write_to_a_name_that_may_mean_a_view_has_rows_of_its_own_where_the_session_says_so() {
    let with_view = || {
        rig::changed(|shared| {
            let mut catalog = catalog();
            let view = Arc::make_mut(catalog.relations.get_mut(&31).expect("a view"));
            (view.schema, view.name) = ("api".to_owned(), "acc".to_owned());
            catalog.by_name.entry("acc".to_owned()).or_default().push(31);
            shared.catalog = Schema::new(catalog);
        })
    };
    let acc = TableId::of("public", "acc").0.to_string();
    let insert = "insert into acc (id) values (5)";
    for is_table in [true, false] {
        for extended in [false, true] {
            let mut peers = Peers::over(with_view());
            let asked = match extended {
                true => peers.client(|out| wire::parse(out, b"i", insert.as_bytes(), &[])),
                false => peers.query(insert),
            };
            assert_eq!(asked, "CPBECS", "it is asked what the name means");
            peers.server("3 1 2");
            if is_table {
                peers.row(&["s", &acc]);
            }
            peers.server("CSELECT_1 3 ZI");
            if extended {
                assert_eq!(kinds(&mut peers.to_server), "P");
                peers.server("1");
                let sent = peers.client(|out| {
                    bind(out, "", "i", &[]);
                    wire::execute(out, b"", 0);
                    wire::bare(out, front::SYNC);
                });
                assert!(sent.starts_with("BCPBEC"), "{sent}");
                peers.server("2 3 1 2 CSELECT_0 3 CINSERT_0_1 3 1 2");
            } else {
                assert!(kinds(&mut peers.to_server).starts_with("CPBEC"));
                peers.server("3 1 2 CSELECT_0 3 1 2 n CINSERT_0_1 3 1 2");
            }
            peers.row(&["1", "1", "0"]);
            peers.server("CSELECT_1 3");
            peers.server(if extended { "ZI" } else { "3 3 ZI" });
            let journaled = peers.journaled();
            assert!(peers.has("acc \\"), "{journaled:?}");
            assert_eq!(peers.has("acc dirty"), !is_table, "extended {extended}: {journaled:?}");
            // Where the path may be another one it is asked again.
            peers.session.names_may_differ();
            let sent = peers.query(insert);
            assert!(sent.ends_with("CPBECS"), "{sent}");
        }
    }
}

#[test]
fn a_setting_in_the_same_text_makes_nothing_dirty() {
    let mut peers = Peers::new();
    for _ in 0..2 {
        let sent = peers.query("set local role x; update acc set bal = 1 where id = 7");
        if sent == "CPBECS" {
            peers.server("3 1 2 CSELECT_0 3 ZI");
        }
        peers.server("CSET CUPDATE_1 ZI");
    }
    assert!(peers.has("acc ") && !peers.has("pair dirty"), "{:?}", peers.journaled());
}

#[tokio::test]
async fn what_a_transaction_made_is_forgotten_with_it() {
    let mut peers = Peers::new();
    peers.session.path = Some("public".to_owned());
    peers.query("begin");
    peers.server("CBEGIN ZT");
    peers.query("create view v as select 1");
    peers.server("CCREATE_VIEW ZT");
    peers.session.schema_stale = false; // No catalog comes.
    assert!(peers.query("select 1") != "Q");
    peers.server("3 1 2 CSELECT_0 3 1 2 T CSELECT_1 3 1 2 CSELECT_0 3");
    peers.server("3 3 ZT");
    kinds(&mut peers.to_server);
    peers.query("rollback");
    peers.server("CROLLBACK ZI");
    peers.session.learning = None; // No catalog comes.
    assert_eq!(peers.query("select 1"), "Q");
}

#[test]
fn the_name_of_a_two_phase_transaction_is_read_from_any_literal() {
    for literal in [
        "'it''s'",
        "E'it\\'s'",
        "e'i\\164\\x27s'",
        "U&'it\\0027s'",
        "U&'it!0027s' UESCAPE '!'",
        "$tag$it's$tag$",
        "'it'\n'''s'",
    ] {
        let mut peers = Peers::new();
        peers.query(&format!("begin; insert into acc values (1, 1, ''); prepare transaction {literal}"));
        let name = format!("prepared {}", b"it's".escape_ascii());
        assert!(peers.has(&name), "{literal}: {:?}", peers.journaled());
    }
    // Of another encoding nobody knows what the server makes of it.
    let mut peers = Peers::new();
    peers.session.set_parameter(b"client_encoding", b"LATIN1");
    peers.client(|out| wire::query(out, b"prepare transaction '\xe9'"));
    assert!(peers.journaled().is_empty(), "it is refused");
}

/// The rows of a statement that was asked come behind the Bind of what is pipelined after it.
#[test]
fn every_record_of_a_pipelined_two_phase_transaction_lies_before_its_name() {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.spill_bytes = 100));
    peers.client(|out| {
        run_all(out, &["begin", "update acc set bal = 1 where bal = 2", "prepare transaction 'g'"]);
        wire::bare(out, front::SYNC);
    });
    peers.server("1 2 CBEGIN 1 2");
    let oid = catalog().by_name["acc"][0].to_string();
    (0..40).for_each(|id| peers.row(&[&oid, &id.to_string()]));
    peers.server("CUPDATE_40 1 2");
    let records: Vec<Vec<bool>> = rig::records(&peers.shared.journal)
        .into_iter()
        .map(|record| Record::parse(record).expect("a record"))
        .map(|record| record.items().map(|item| matches!(item, Item::Prepared(_))).collect())
        .collect();
    let named = records.iter().rposition(|items| items.contains(&true)).expect("its name");
    assert!(named > 1 && records.iter().skip(named + 1).all(Vec::is_empty), "{records:?}");
    peers.server("CPREPARE_TRANSACTION ZI");
    assert!(peers.session.is_idle());
}

#[test]
fn messages_cut_at_every_byte_mean_the_same() {
    let mut peers = Peers::new();
    let mut bytes = BytesMut::new();
    wire::query(&mut bytes, b"insert into acc values (1, 1, '')");
    for byte in bytes {
        peers.client(|out| out.put_u8(byte));
    }
    assert!(peers.has("acc "));
    assert_eq!(peers.server("CINSERT_0_1 ZI"), "CZ");
}

#[test]
fn texts_are_read_by_the_settings_of_the_server_that_the_session_moved_to() {
    for (before, after) in [("off", "on"), ("on", "off")] {
        let mut peers = Peers::new();
        peers.session.set_parameter(b"standard_conforming_strings", before.as_bytes());
        let mut reports = BytesMut::new();
        for (name, value) in [("TimeZone", "UTC"), ("standard_conforming_strings", after)] {
            wire::message(&mut reports, wire::back::PARAMETER_STATUS, |b| {
                wire::cstr(b, name.as_bytes());
                wire::cstr(b, value.as_bytes());
            });
        }
        peers.session.reported(&reports);
        peers.query(r"begin; insert into acc values (1, 1, ''); prepare transaction 'a\b'");
        // As an escape it is another name.
        let name = format!("prepared {}", br"a\b".escape_ascii());
        assert_eq!(peers.has(&name), after == "on", "{:?}", peers.journaled());
        // What is cut short says nothing.
        peers.session.reported(&reports[..reports.len() - 1]);
    }
}

#[test]
fn types_of_parameters_that_the_server_tells_are_noticed_for_a_move() {
    let described = |oid: u32| {
        let mut peers = Peers::new();
        peers.client(|out| {
            wire::parse(out, b"s", b"select $1", &[]);
            wire::describe(out, b'S', b"s");
            wire::bare(out, front::SYNC);
        });
        peers.server("1");
        wire::message(&mut peers.from_server, wire::back::PARAMETER_DESCRIPTION, |b| {
            b.put_u16(2);
            b.put_u32(23);
            b.put_u32(oid);
        });
        peers.server("n ZI");
        peers.session.luggage().user_types
    };
    assert!(!described(25));
    assert!(described(16_384));
}

#[test]
fn a_hidden_query_that_fails_is_not_the_clients_error_and_is_not_asked_for_ever() {
    let mut peers = Peers::new();
    assert_eq!(peers.query("create table t (id int)"), "CPBECS");
    assert_eq!(peers.server("E42501 ZI"), "");
    assert_eq!(kinds(&mut peers.to_server), "Q");
    assert!(peers.has("acc dirty"), "nobody knows where it is made: {:?}", peers.journaled());

    let mut peers = Peers::new();
    assert_eq!(peers.query("call p()"), "CPBECS");
    assert_eq!(peers.server("E ZI"), "");
    assert!(kinds(&mut peers.to_server).starts_with("PBDE"));

    // What names mean nobody knows, so all that it writes is counted.
    let mut peers = Peers::new();
    peers.query("set search_path = x");
    peers.server("CSET ZI");
    assert_eq!(peers.query("insert into acc values (1, 1, '')"), "CPBECS");
    assert_eq!(peers.server("E ZI"), "");
    let counted = kinds(&mut peers.to_server);
    assert!(counted.starts_with("CPBEC") && counted.matches('E').count() == 3, "{counted}");
}

#[test]
fn whoever_cancels_a_hidden_query_cancels_the_statement_behind_it() {
    for text in ["call p()", "create table t (id int)", "begin; create table t (id int); commit"] {
        let mut peers = Peers::new();
        assert_eq!(peers.query(text), "CPBECS", "{text}");
        assert_eq!(peers.server("E57014 ZI"), "E", "{text}");
        assert_eq!(kinds(&mut peers.to_server), "S", "{text}");
        assert_eq!(peers.server("ZI"), "Z", "{text}");
        assert!(peers.session.is_idle() && peers.journaled().is_empty(), "{text}: {:?}", peers.journaled());
        // The next one is asked for anew.
        assert_eq!(peers.query(text), "CPBECS", "{text}");
    }
    // In the extended protocol nothing counts up to the Sync, as behind any error.
    let mut peers = Peers::new();
    let run = |out: &mut BytesMut| {
        wire::parse(out, b"", b"call p()", &[]);
        bind(out, "", "", &[]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    };
    assert_eq!(peers.client(run), "CPBECS");
    assert_eq!(peers.server("E57014 ZI"), "E");
    assert_eq!(kinds(&mut peers.to_server), "S");
    assert_eq!(peers.server("ZI"), "Z");
    assert!(peers.session.is_idle());
}

#[test]
fn a_hidden_query_that_fails_in_a_transaction_has_failed_it() {
    let mut peers = Peers::new();
    peers.query("begin");
    peers.server("CBEGIN ZT");
    kinds(&mut peers.to_server);
    assert_eq!(peers.query("create table t (id int)"), "CPBECS");
    assert_eq!(peers.server("E42501 ZE"), "E");
    assert_eq!(kinds(&mut peers.to_server), "S");
    assert_eq!(peers.server("ZE"), "Z");
    assert_eq!(peers.query("rollback"), "Q");
    assert_eq!(peers.server("CROLLBACK ZI"), "CZ");
    assert!(peers.session.is_idle());
}

#[test]
fn a_piece_whose_hidden_query_fails_goes_on_without_or_is_cancelled_with_it() {
    let text = "set search_path = x; create table t (id int)";
    let mut peers = Peers::new();
    assert_eq!(peers.query(text), "CPBECS");
    assert_eq!(peers.server("E42501 ZI"), "");
    // Behind the setting it is asked for again, in the Query's own unit.
    assert_eq!(kinds(&mut peers.to_server), "PBDECPBECH");
    assert_eq!(peers.server("1 2 n CSET E42501"), "CE");
    assert_eq!(kinds(&mut peers.to_server), "CCS");
    assert_eq!(peers.server("ZI"), "Z");
}

/// The key of `acc` is a bigint from now on.
fn widen(peers: &Peers) {
    let mut catalog = catalog();
    let oid = catalog.by_name["acc"][0];
    let acc = Arc::make_mut(catalog.relations.get_mut(&oid).expect("it is there"));
    let id = &mut acc.columns[0];
    (id.type_oid, id.base_oid, id.type_sql) = (20, 20, "pg_catalog.int8".to_owned());
    acc.key = Some(Key::new("acc_pkey".to_owned(), vec![0], &acc.columns));
    peers.shared.catalog.replace(catalog);
}

/// A Bind of values in binary, executed.
fn run_binary(out: &mut BytesMut, statement: &str, values: &[&[u8]]) {
    wire::message(out, front::BIND, |b| {
        wire::cstr(b, b"");
        wire::cstr(b, statement.as_bytes());
        b.put_slice(&[0, 1, 0, 1]);
        b.put_u16(values.len() as u16);
        for value in values {
            b.put_u32(value.len() as u32);
            b.put_slice(value);
        }
        b.put_u16(0);
    });
    wire::execute(out, b"", 0);
    wire::bare(out, front::SYNC);
}

/// A statement that declares no types, and what a server says of its parameters, if it is asked.
fn prepared(text: &str, described: Option<&[u32]>) -> Peers {
    let mut peers = Peers::new();
    peers.client(|out| {
        wire::parse(out, b"s", text.as_bytes(), &[]);
        if described.is_some() {
            wire::describe(out, b'S', b"s");
        }
        wire::bare(out, front::SYNC);
    });
    peers.server("1");
    if let Some(types) = described {
        wire::message(&mut peers.from_server, wire::back::PARAMETER_DESCRIPTION, |b| {
            b.put_u16(types.len() as u16);
            types.iter().for_each(|&oid| b.put_u32(oid));
        });
        peers.server("n");
    }
    peers.server("ZI");
    peers
}

#[test]
fn values_are_read_by_the_types_that_a_statement_was_parsed_with() {
    let text = "update acc set bal = bal + 1 where id = $1";
    for described in [Some(&[23][..]), None] {
        let mut peers = prepared(text, described);
        widen(&peers);
        assert_eq!(peers.client(|out| run_binary(out, "s", &[&5_i32.to_be_bytes()])), "BES", "{described:?}");
        let key = 5_i64.to_be_bytes().escape_ascii().to_string();
        let journaled = peers.journaled();
        assert!(journaled.iter().all(|item| item.ends_with(&key)) && journaled.len() == 1, "{journaled:?}");
    }
}

#[test]
fn a_twin_is_parsed_with_the_types_that_its_statement_has_or_not_at_all() {
    let text = "update acc set bal = $1 where id = $2";
    // No integer is so long, so the server is asked.
    let run = |out: &mut BytesMut| run_binary(out, "s", &[&2.5_f64.to_be_bytes(), &[0; 16]]);
    let mut peers = prepared(text, Some(&[701, 23]));
    widen(&peers);
    run(&mut peers.from_client);
    peers.turn();
    let types = [&[0, 2][..], &701_u32.to_be_bytes(), &23_u32.to_be_bytes()].concat();
    assert!(peers.to_server.windows(types.len()).any(|some| some == types), "{:?}", peers.to_server);
    assert!(kinds(&mut peers.to_server).starts_with("CPBE"));

    let mut peers = prepared(text, None);
    widen(&peers);
    assert_eq!(peers.client(run), "BES");
    assert!(peers.has("acc dirty"), "{:?}", peers.journaled());
    // What becomes of other tables takes nothing from it.
    let mut peers = prepared(text, None);
    let mut changed = catalog();
    changed.user_functions.insert("new_one".to_owned());
    let pair = Arc::make_mut(changed.relations.get_mut(&2).expect("it is there"));
    pair.columns[2].typmod = 7;
    peers.shared.catalog.replace(changed);
    assert!(peers.client(run).starts_with("CPBE"));
    // Another server, where it moved, took the types of its own columns for it.
    let mut peers = prepared(text, None);
    widen(&peers);
    peers.session.moved(Backend { id: 2, life: 2 });
    assert_eq!(peers.client(|out| run_binary(out, "s", &[&[0; 8], &7_i64.to_be_bytes()])), "BES");
    let keys = |item: &String| item.starts_with("acc ") && item != "acc dirty";
    assert!(peers.journaled().iter().any(keys), "{:?}", peers.journaled());
    // Until values came as text it goes there with the types that the client was told.
    for (binary, goes) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut peers = prepared(text, Some(&[701, 23]));
        match binary {
            Some(true) => _ = peers.client(|out| run_binary(out, "s", &[&[0; 8], &[0; 4]])),
            Some(false) => _ = peers.client(|out| bind(out, "", "s", &["1", "2"])),
            None => {}
        }
        let luggage = peers.session.luggage();
        let sent = format!("{:?}", luggage.statements);
        let has = |message: &Bytes| message.windows(types.len()).any(|some| some == types);
        let told = luggage.statements.iter().any(|one| matches!(&one.form, Form::Parse(message) if has(message)));
        assert_eq!(told, goes, "{binary:?}: {sent}");
    }
    // Under the schema that it was parsed with it is the same statement.
    let mut peers = prepared(text, None);
    assert!(peers.client(run).starts_with("CPBE"));
}

/// Bytes that are cut into tokens while a Query of so many asked statements goes to the server.
fn lexed(statements: usize) -> usize {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.statement_bytes_max = 1 << 20));
    let text = "update acc set bal = 1 where bal = 2; ".repeat(statements);
    let before = LEXED.get();
    let mut sent = peers.query(&text);
    for _ in 0..statements {
        peers.turn();
        sent.push_str(&kinds(&mut peers.to_server));
    }
    // Behind the last one its Sync waits for the keys.
    assert_eq!(sent, "PBDE".repeat(statements) + "H");
    LEXED.get() - before
}

#[test]
fn a_query_in_pieces_is_cut_into_tokens_once_however_many_statements_it_has() {
    let (few, many) = (lexed(150), lexed(300));
    assert!(many <= 2 * few, "{few} bytes, then {many}");
}

/// Bytes that are cut into tokens for a Query that prepares a statement and executes it so often.
fn lexed_to_execute(times: usize) -> usize {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.statement_bytes_max = 1 << 20));
    let executes: String = (100..100 + times).map(|id| format!("; execute p({id})")).collect();
    let before = LEXED.get();
    assert_eq!(peers.query(&format!("prepare p as insert into acc values ($1, 1, ''){executes}")), "Q");
    let cut = LEXED.get() - before;
    assert_eq!(peers.journaled().len(), times, "{:?}", peers.journaled());
    cut
}

#[test]
fn a_query_that_prepares_is_cut_into_tokens_as_often_however_many_times_it_executes() {
    let (few, many) = (lexed_to_execute(150), lexed_to_execute(300));
    assert!(many <= 2 * few, "{few} bytes, then {many}");
}

#[test]
fn an_execute_means_what_was_prepared_last_before_it() {
    let mut peers = Peers::new();
    peers.query("prepare p as insert into pair values ($1, 1)");
    peers.server("CPREPARE ZI");
    let text = "execute p(1); deallocate p; prepare p as insert into acc values ($1, 1, ''); execute p(2); \
                deallocate p; prepare p as delete from acc where id = $1; execute p(3)";
    assert_eq!(peers.query(text), "Q");
    let found: Vec<_> = peers.journaled().into_iter().collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("acc ") && found[1].starts_with("acc ") && found[2].starts_with("pair "), "{found:?}");
}

#[test]
fn what_an_execute_writes_is_planned_with_the_trigger_that_its_query_made() {
    let mut peers = Peers::new();
    peers.session.path = Some("public".to_owned());
    let text = "prepare p as insert into acc values ($1, 1, ''); execute p(6); \
                create trigger t after insert on acc for each row execute function f(); execute p(7)";
    assert_eq!(peers.query(text), "Q");
    let found = peers.journaled();
    assert!(found.iter().any(|one| one.starts_with("acc dirty")), "{found:?}");
}

#[test]
fn a_large_statement_leaves_no_large_buffers_behind() {
    let mut peers = Peers::over(rig::changed(|shared| {
        shared.policy.statement_bytes_max = 1 << 20;
        shared.policy.spill_bytes = 1 << 20;
    }));
    let rows: Vec<String> = (0..20_000).map(|id| format!("({id},1,'')")).collect();
    peers.query(&format!("insert into acc values {}", rows.join(",")));
    let held = |peers: &Peers| {
        let session = &peers.session;
        [session.tokens.held(), session.keys.held(), session.expects.capacity() * size_of::<Expect>()]
    };
    assert!(held(&peers)[0] > 1 << 20, "{:?}", held(&peers));
    peers.server("CINSERT_0_20000 ZI");
    assert!(held(&peers).iter().all(|&held| held <= KEEP_BYTES), "{:?}", held(&peers));
    for _ in 0..10_000 {
        peers.client(|out| wire::bare(out, front::SYNC));
    }
    assert!(held(&peers)[2] > KEEP_BYTES, "{:?}", held(&peers));
    peers.server(&"ZI ".repeat(10_000));
    assert!(held(&peers).iter().all(|&held| held <= KEEP_BYTES), "{:?}", held(&peers));
}

#[test]
fn a_read_with_a_deep_tree_makes_nothing_dirty() {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.statement_bytes_max = 1 << 20));
    for text in [format!("select {}1 from acc", "bal+".repeat(60)), ["select id from acc"; 200].join(" union all ")] {
        assert_eq!(peers.query(&text), "Q");
        peers.server("CSELECT_1 ZI");
    }
    assert!(peers.journaled().is_empty(), "{:?}", peers.journaled());
}

#[test]
fn a_query_in_pieces_lets_others_have_their_turn() {
    let mut peers = Peers::over(rig::changed(|shared| shared.policy.statement_bytes_max = 1 << 20));
    let sent = peers.query(&"update acc set bal = 1 where bal = 2; ".repeat(1000));
    assert!(!sent.is_empty() && sent.len() <= 4 * 200, "{} messages at once", sent.len());
}

#[test]
fn a_schema_change_in_a_piece_that_waits_for_the_journal_is_written_down_once() {
    let mut peers = Peers::over(rig::changed(|shared| {
        let mut catalog = catalog();
        catalog.event_triggers.insert("watch".to_owned(), "ddl_command_end".to_owned());
        (shared.catalog, shared.journal) = (Schema::new(catalog), rig::slow_journal());
    }));
    assert_eq!(peers.query("alter table part detach partition part_1 concurrently"), "CPBECS");
    peers.server("3 1 2");
    peers.row(&["public"]);
    peers.server("CSELECT_1 3 ZI");
    assert_eq!(kinds(&mut peers.to_server), "CPBECS", "it is counted ahead");
    peers.server("3 1 2 CSELECT_0 3 ZI");
    let mut sent = String::new();
    for _ in 0..10 {
        peers.shared.journal.sync_now();
        peers.turn();
        sent.push_str(&kinds(&mut peers.to_server));
    }
    assert!(sent.starts_with("PBDE"), "{sent}");
    let items = |record: bytes::Bytes| {
        Record::parse(record).expect("a record").items().filter(|item| matches!(item, Item::Ddl(..))).count()
    };
    assert_eq!(rig::records(&peers.shared.journal).into_iter().map(items).sum::<usize>(), 1);
}

#[test]
fn comments_go_with_their_statements_in_pieces() {
    let mut peers = Peers::new();
    wire::query(
        &mut peers.from_client,
        b"/*+ hint */ update acc set bal = 1 where bal = 2 /* tag */; -- one\n ;; select /* in */ 2 -- two",
    );
    peers.turn();
    let sent = peers.to_server.escape_ascii().to_string();
    assert!(sent.contains("/*+ hint */ update acc set bal = 1 where bal = 2 RETURNING"), "{sent}");
    assert!(sent.contains(" /* tag */\\x00"), "{sent}");
    assert!(sent.contains("select /* in */ 2 -- two\\x00"), "{sent}");
}

fn call_by_oid(peers: &mut Peers, oid: u32) -> String {
    peers.client(|out| {
        wire::message(out, front::FUNCTION_CALL, |b| {
            b.put_u32(oid);
            b.put_slice(&[0, 0, 0, 0, 0, 1]);
        });
    })
}

#[test]
fn large_objects_that_are_read_by_the_fast_path_make_nothing_dirty() {
    for refuse in [false, true] {
        let mut peers = Peers::over(rig::changed(|shared| {
            let on = if refuse { "refuse" } else { "dirty" };
            shared.policy.live.change([("mirror.on_uncaptured", on)].into_iter()).expect("it can be changed");
        }));
        // loread
        assert_eq!(call_by_oid(&mut peers, 954), "F");
        assert_eq!(peers.server("V ZI"), "VZ");
        assert!(peers.journaled().is_empty() && peers.session.is_idle(), "{:?}", peers.journaled());
        // One of the user's.
        assert_eq!(call_by_oid(&mut peers, 16_400), if refuse { "Q" } else { "F" });
        assert_eq!(peers.has("acc dirty"), !refuse);
        assert_eq!(peers.server(if refuse { "E0A000 ZI" } else { "V ZI" }), if refuse { "EZ" } else { "VZ" });
        assert!(peers.session.is_idle());
    }
}

#[test]
fn a_text_behind_a_setting_that_says_how_it_is_read_waits_for_what_the_server_says() {
    let insert = r"insert into pair values (1, 'C:\\x', 2)";
    for set in [
        "set standard_conforming_strings = off",
        "set local standard_conforming_strings to off",
        "SET \"standard_conforming_strings\" = off",
        "select set_config('standard_conforming_strings', 'off', false)",
        "do 'begin set standard_conforming_strings = off; end'",
        "reset all",
    ] {
        let mut peers = Peers::new();
        let sent = peers.client(|out| {
            wire::query(out, set.as_bytes());
            wire::query(out, insert.as_bytes());
        });
        assert!(
            !sent.contains("QQ") && peers.journaled().iter().all(|item| !item.starts_with("pair ")),
            "{set}: {sent}"
        );
    }
    // What is plain means the same.
    let mut peers = Peers::new();
    assert_eq!(
        peers.client(|out| {
            wire::query(out, b"set standard_conforming_strings = off");
            wire::query(out, b"insert into pair values (1, 'x', 2)");
        }),
        "QQ"
    );

    for (before, after) in [("off", "on"), ("on", "off")] {
        let mut peers = Peers::new();
        peers.session.set_parameter(b"standard_conforming_strings", before.as_bytes());
        peers.client(|out| {
            wire::query(out, format!("set standard_conforming_strings = {after}").as_bytes());
            wire::query(out, insert.as_bytes());
        });
        peers.session.set_parameter(b"standard_conforming_strings", after.as_bytes());
        peers.server("CSET ZI");
        assert_eq!(kinds(&mut peers.to_server), "Q");
        // The grammar here reads no such escapes.
        let expected = if after == "on" { br"C:\\x".escape_ascii().to_string() } else { "pair dirty".to_owned() };
        let journaled = peers.journaled();
        assert!(journaled.iter().any(|item| item.starts_with("pair") && item.contains(&expected)), "{journaled:?}");
    }

    // In one pipeline the server says nothing before the end.
    let mut peers = Peers::new();
    assert_eq!(
        peers.client(|out| {
            run(out, "set standard_conforming_strings = off");
            run(out, insert);
            wire::bare(out, front::SYNC);
        }),
        "PBEPBES"
    );
    assert!(peers.has("pair dirty"), "{:?}", peers.journaled());
}

#[test]
fn a_query_that_changes_how_it_would_be_read_in_pieces_goes_as_it_is() {
    let set = "set standard_conforming_strings = off";
    for (text, whole) in [
        (format!(r"{set}; update acc set note = 'a\b' where bal = 2"), true),
        (format!(r"update acc set note = 'a\b' where bal = 2; {set}"), true),
        (format!("{set}; update acc set note = 'ab' where bal = 2"), false),
        (r"set work_mem = '1MB'; update acc set note = 'a\b' where bal = 2".to_owned(), false),
    ] {
        let mut peers = Peers::new();
        assert_eq!(peers.query(&text) == "Q", whole, "{text}");
        assert_eq!(peers.has("acc dirty"), whole, "{text}");
    }
}

#[test]
fn a_message_that_is_not_all_there_keeps_no_switch_waiting() {
    let mut peers = Peers::new();
    let mut message = BytesMut::new();
    wire::query(&mut message, b"insert into acc values (1, 1, '')");
    for half in [HEADER, message.len() / 2] {
        let sent = peers.from_client.len();
        assert_eq!(peers.client(|out| out.put_slice(&message[sent..half])), "");
        assert_eq!(peers.shared.gate.inside(), 0);
    }
    let sent = peers.from_client.len();
    assert_eq!(peers.client(|out| out.put_slice(&message[sent..])), "Q");
    assert_eq!(peers.shared.gate.inside(), 1);
}

/// A session on a journal without room, inside a transaction that wrote or not.
fn without_room(is_open: bool) -> Peers {
    let mut peers = Peers::over(rig::changed(rig::narrow));
    peers.query("insert into acc values (1, 1, '')");
    // It waits for its table, and for its record.
    for _ in 0..2 {
        peers.shared.journal.sync_now();
        peers.turn();
        if kinds(&mut peers.to_server) == "Q" {
            wire::message(&mut peers.from_server, wire::back::COMMAND_COMPLETE, |b| wire::cstr(b, b"INSERT 0 1"));
            wire::message(&mut peers.from_server, wire::back::READY_FOR_QUERY, |b| b.put_u8(b'I'));
            peers.turn();
        }
    }
    peers.shared.journal.sync_now();
    peers.turn();
    assert_eq!(kinds(&mut peers.to_client), "CZ");
    rig::fill(&peers.shared.journal);
    if is_open {
        assert_eq!(peers.query("begin"), "Q");
        assert_eq!(peers.server("CBEGIN ZT"), "CZ");
        assert_eq!(peers.query("insert into acc values (2, 1, '')"), "Q");
        assert_eq!(peers.server("CINSERT_0_1 ZT"), "CZ");
    }
    peers
}

impl Peers {
    /// Somebody wants what the client waits for to be cancelled. What goes to the server for that, if it is done.
    fn cancel(&mut self) -> Option<String> {
        let mut out = Out { to_server: &mut self.to_server, to_client: &mut self.to_client };
        let answered = self.session.cancel(&self.from_client, &mut out)?;
        let _ = self.from_client.split_to(answered);
        self.turn();
        Some(kinds(&mut self.to_server))
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_waits_for_room_is_cancelled_and_its_transaction_has_failed() {
    let mut peers = without_room(true);
    assert_eq!(peers.query("commit"), "", "it waits");
    assert_eq!(peers.cancel().as_deref(), Some("CPBECS"));
    assert_eq!(peers.server("3 1 2 E57014 ZE"), "E");
    assert_eq!(kinds(&mut peers.to_server), "S");
    assert_eq!(peers.server("ZE"), "Z");
    assert_eq!(peers.shared.gate.inside(), 1, "its transaction is open");
    assert_eq!(peers.query("rollback"), "Q", "which commits nothing, and waits for nothing");
    assert_eq!(peers.server("CROLLBACK ZI"), "CZ");
    assert_eq!(peers.shared.gate.inside(), 0);
    assert_eq!(peers.query("select 1"), "Q");
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_waits_for_room_is_cancelled_and_commits_nothing() {
    let mut peers = without_room(false);
    let sent = peers.client(|out| {
        wire::parse(out, b"", b"insert into acc values ($1, 1, '')", &[]);
        bind(out, "", "", &["5"]);
        wire::execute(out, b"", 0);
        wire::bare(out, front::SYNC);
    });
    assert_eq!(sent, "PBE");
    assert_eq!(peers.cancel().as_deref(), Some("CPBECH"), "in the same group");
    assert_eq!(peers.server("1 2 CINSERT_0_1 3 1 2 E57014"), "12CE");
    assert_eq!(kinds(&mut peers.to_server), "S");
    let next = peers.client(|out| {
        wire::close(out, b'S', b"s");
        wire::bare(out, front::SYNC);
    });
    assert_eq!(next, "CS", "what is behind it waits for nothing");
    assert_eq!(peers.server("ZI 3 ZI"), "Z3Z");
    assert_eq!(peers.shared.gate.inside(), 0);
    assert!(!peers.has("acc 5"), "{:?}", peers.journaled());
    assert_eq!(peers.query("select 1"), "Q");
}

#[tokio::test(start_paused = true)]
async fn pieces_that_wait_for_room_are_cancelled_as_one_statement() {
    let mut peers = without_room(false);
    assert_eq!(peers.query("update acc set bal = 1 where bal = 2"), "PBDE".to_owned() + "H", "its keys are asked for");
    assert_eq!(peers.server("1 2 T"), "");
    let oid = catalog().by_name["acc"][0].to_string();
    peers.row(&[&oid, "41"]);
    assert_eq!(peers.server("CUPDATE_1"), "", "it waits");
    assert_eq!(peers.cancel().as_deref(), Some("CPBECH"));
    assert_eq!(peers.server("3 1 2 E57014"), "E");
    assert_eq!(kinds(&mut peers.to_server), "CCS");
    peers.server("ZI");
    assert_eq!(kinds(&mut peers.to_server), "CCS", "what the server skipped");
    peers.server("3 3 ZI");
    assert_eq!(peers.shared.gate.inside(), 0);
    assert!(!peers.has("acc 41"), "{:?}", peers.journaled());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_means_the_first_of_a_pipeline_and_its_answer_comes_though_the_next_one_waits() {
    let mut peers = without_room(false);
    let sent = peers.client(|out| {
        wire::query(out, b"select 1");
        wire::query(out, b"insert into acc values (5, 1, '')");
    });
    assert_eq!(sent, "Q");
    assert_eq!(peers.cancel(), None, "the server works on it");
    assert_eq!(peers.server("E57014 ZI"), "EZ");
    assert!(peers.cancel().is_some(), "now it is the next one's turn");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_waits_for_room_ends_with_the_error_of_its_server() {
    let mut peers = without_room(false);
    assert_eq!(peers.query("copy acc from stdin"), "Q");
    assert_eq!(peers.server("G"), "G");
    assert_eq!(peers.copy(b"41\t1\tx\n"), "d", "its end waits");
    assert_eq!(peers.cancel(), None, "it is the server's");
    assert_eq!(peers.server("E57014 ZI"), "EZ");
    assert_eq!(kinds(&mut peers.to_server), "c", "which means nothing any more");
    assert_eq!(peers.query("select 1"), "Q");
}
