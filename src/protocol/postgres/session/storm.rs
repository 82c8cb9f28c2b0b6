//! Any bytes from both sides. A session must neither panic nor run in circles, must not say much more than it heard, and must
//! let go of the gate: [`run`] asserts it for one script. A property test runs a few, the fuzz target `postgres_session`
//! as many as it is given time for.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::task::Waker;

use bytes::BufMut;

use super::*;
use crate::protocol::postgres::rig::shared;
use crate::protocol::postgres::wire::{self, Header, back, front};
use crate::record::Backend;

/// Scripts of one journal, which keeps what they write.
const SCRIPTS: u32 = 500;
/// What a session may say to the server for each byte that it heard: hidden queries are longer than what they are for.
const WORDY: usize = 4096;

const STATEMENTS: &[&str] = &[
    "",
    ";",
    "select 1",
    "begin",
    "commit",
    "rollback; select 1",
    "savepoint s",
    "rollback to s",
    "insert into acc values (1, 2, 'x')",
    "insert into acc values ($1, 2, 'x') returning bal",
    "update acc set bal = 1 where bal = 2",
    "update acc set bal = 1 where bal = 2 returning id",
    "update acc set bal = 1 where bal = 2; commit; insert into pair values (1, 'b', 2)",
    "delete from acc where id = $1",
    "copy acc from stdin",
    "copy acc from stdin binary",
    "copy acc from stdin; copy pair from stdin csv",
    "copy acc to stdout",
    "prepare p as insert into acc values ($1, 1, '')",
    "execute p (3)",
    "deallocate all",
    "select write_it()",
    "call write_it()",
    "do 'begin end'",
    "create table fresh (id int primary key)",
    "truncate acc",
    "prepare transaction 'g'",
    "set search_path = x",
    "with w as (delete from acc returning *) insert into pair select 1, 'x', id from w",
    "selec",
    "insert into acc values (1, 2, 'un",
];
const TAGS: &[&str] =
    &["SELECT 1", "INSERT 0 1", "UPDATE 2", "BEGIN", "COMMIT", "ROLLBACK", "COPY 1", "CALL", "", "x y z"];
const NAMES: &[&str] = &["", "s", "tandem twin", "tandem counts"];
const FRONT: &[u8] = b"BCdcfDEHFPpQSX?";
const BACK: &[u8] = b"RK23CWdcGHDIEVvnNAtS1sTZ?";

/// One script: each of its bytes is a choice, or part of a message.
pub fn run(script: &[u8]) {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    thread_local! {
        static SHARED: RefCell<(u32, Option<Arc<Shared>>)> = const { RefCell::new((0, None)) };
    }
    // Waiting for a catalog needs a clock.
    let runtime = RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime without IO needs nothing of the system")
    });
    let _entered = runtime.enter();
    let shared = SHARED.with_borrow_mut(|(count, kept)| {
        *count += 1;
        if count.is_multiple_of(SCRIPTS) {
            *kept = None;
        }
        kept.get_or_insert_with(shared).clone()
    });
    let mut storm = Storm::new(shared.clone());
    let mut choices = Choices(script);
    while let Some(choice) = choices.next() {
        if storm.step(choice, &mut choices).is_err() {
            break;
        }
    }
    storm.session.server_closed();
    drop(storm);
    assert_eq!(shared.gate.inside(), 0);
}

struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::from(self.next().unwrap_or(0)) % list.len()]
    }

    /// Up to 255 bytes.
    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.next().unwrap_or(0)).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }
}

struct Storm {
    session: Session,
    from_client: BytesMut,
    from_server: BytesMut,
    to_server: BytesMut,
    to_client: BytesMut,
    heard: usize,
    said: usize,
}

impl Storm {
    fn new(shared: Arc<Shared>) -> Storm {
        let session = Session::new(shared, Backend { id: 7, life: 1 });
        let (from_client, from_server, to_server, to_client) = Default::default();
        Storm { session, from_client, from_server, to_server, to_client, heard: 0, said: 0 }
    }

    fn step(&mut self, choice: u8, choices: &mut Choices<'_>) -> Result<(), Fault> {
        let before = self.from_client.len() + self.from_server.len();
        match choice % 8 {
            0 => self.from_client.extend_from_slice(choices.bytes()),
            1 => self.from_server.extend_from_slice(choices.bytes()),
            2 => wire::message(&mut self.from_client, choices.of(FRONT), |b| b.extend_from_slice(choices.bytes())),
            3 => wire::message(&mut self.from_server, choices.of(BACK), |b| b.extend_from_slice(choices.bytes())),
            4 | 5 => ask(&mut self.from_client, choices),
            6 => answer(&mut self.from_server, choices),
            _ => self.answer_honestly(choices),
        }
        self.heard += self.from_client.len() + self.from_server.len() - before;
        self.turn()
    }

    /// Let everything move that can.
    fn turn(&mut self) -> Result<(), Fault> {
        for _ in 0..10_000 {
            let said = self.to_server.len();
            let mut out = Out { to_server: &mut self.to_server, to_client: &mut self.to_client };
            let mut moved = self.session.poll(&mut Context::from_waker(Waker::noop()), &mut out)?;
            if self.session.wants_server() {
                let taken = self.session.server(&self.from_server, &mut out)?;
                drop(self.from_server.split_to(taken));
                moved |= taken > 0;
            }
            if self.session.wants_client() {
                let taken = self.session.client(&self.from_client, &mut out)?;
                drop(self.from_client.split_to(taken));
                moved |= taken > 0;
            }
            self.said += self.to_server.len() - said;
            self.to_client.clear();
            assert!(self.said <= WORDY * (self.heard + 1), "{} bytes for {} heard", self.said, self.heard);
            if !moved {
                return Ok(());
            }
        }
        panic!("the session runs in circles");
    }

    /// The server answers what was sent to it, as a server would.
    fn answer_honestly(&mut self, choices: &mut Choices<'_>) {
        let sent = std::mem::take(&mut self.to_server);
        let mut at = 0;
        while let Ok(Some(Header { kind, size })) = Header::peek(&sent[at..])
            && at + size <= sent.len()
        {
            let out = &mut self.from_server;
            match kind {
                front::PARSE => wire::bare(out, back::PARSE_COMPLETE),
                front::BIND => wire::bare(out, back::BIND_COMPLETE),
                front::CLOSE => wire::bare(out, back::CLOSE_COMPLETE),
                front::DESCRIBE => wire::bare(out, back::NO_DATA),
                front::EXECUTE => complete(out, choices.of(TAGS)),
                front::SYNC => ready(out, b'I'),
                front::QUERY => {
                    complete(out, choices.of(TAGS));
                    ready(out, choices.of(b"IIITE"));
                }
                _ => {}
            }
            at += size;
        }
    }
}

/// A message that a client could send.
fn ask(out: &mut BytesMut, choices: &mut Choices<'_>) {
    let (text, name) = (choices.of(STATEMENTS).as_bytes(), choices.of(NAMES).as_bytes());
    match choices.next().unwrap_or(0) % 10 {
        0 | 1 => wire::query(out, text),
        2 => wire::parse(out, name, text, &[]),
        3 => wire::message(out, front::BIND, |b| {
            wire::cstr(b, choices.of(NAMES).as_bytes());
            wire::cstr(b, name);
            b.put_u16(0);
            b.put_u16(1);
            let value = choices.bytes();
            b.put_u32(value.len() as u32);
            b.extend_from_slice(value);
            b.put_u16(0);
        }),
        4 => wire::execute(out, name, i32::from(choices.next().unwrap_or(0) % 3)),
        5 => wire::describe(out, choices.of(b"SP"), name),
        6 => wire::close(out, choices.of(b"SP"), name),
        7 => wire::message(out, front::COPY_DATA, |b| b.extend_from_slice(choices.bytes())),
        8 => wire::bare(out, choices.of(&[front::COPY_DONE, front::FLUSH, front::TERMINATE])),
        _ => wire::bare(out, front::SYNC),
    }
}

/// A message that a server could send.
fn answer(out: &mut BytesMut, choices: &mut Choices<'_>) {
    match choices.next().unwrap_or(0) % 8 {
        0 => complete(out, choices.of(TAGS)),
        1 => ready(out, choices.of(b"ITE?")),
        2 => wire::error_response(out, "ERROR", "22012", "no", None),
        3 => wire::message(out, back::COPY_IN_RESPONSE, |b| b.extend_from_slice(&[0, 0, 0])),
        4 => wire::message(out, back::DATA_ROW, |b| {
            let columns = choices.next().unwrap_or(0) % 5;
            b.put_u16(u16::from(columns));
            for _ in 0..columns {
                let value = choices.bytes();
                b.put_u32(value.len() as u32);
                b.extend_from_slice(value);
            }
        }),
        5 => wire::message(out, back::PARAMETER_STATUS, |b| {
            wire::cstr(b, b"client_encoding");
            wire::cstr(b, choices.of(&["UTF8", "LATIN1", "SJIS"]).as_bytes());
        }),
        6 => wire::bare(out, choices.of(&[back::PORTAL_SUSPENDED, back::EMPTY_QUERY_RESPONSE, back::NO_DATA])),
        _ => wire::bare(out, choices.of(&[back::PARSE_COMPLETE, back::BIND_COMPLETE, back::CLOSE_COMPLETE])),
    }
}

fn complete(out: &mut BytesMut, tag: &str) {
    wire::message(out, back::COMMAND_COMPLETE, |b| wire::cstr(b, tag.as_bytes()));
}

fn ready(out: &mut BytesMut, status: u8) {
    wire::message(out, back::READY_FOR_QUERY, |b| b.put_u8(status));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_bytes_of_either_side_break_a_session(script in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::run(&script);
        }
    }
}
