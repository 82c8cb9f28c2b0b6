//! Bytes that no driver would send, played to a real node and to tandem: both answer the same errors on the same streams, and
//! close the connection, or go on, alike. Where a node stumbles (an exception of Java's, or silence for ever) tandem answers
//! with an error, and closes or goes on.

use std::net::SocketAddrV4;
use std::time::Duration;

use tandem::sandbox::cassandra::Options;

use crate::support::cassandra::{cluster, pair, pair_with, versions};
use crate::support::cql::{
    AUTH_RESPONSE, BATCH, Cql, Dial, ERROR, EXECUTE, Failure, Frame, OPTIONS, Out, PREPARE, QUERY, REGISTER, STARTUP,
    SUPPORTED, sealed, wrap,
};
use crate::support::tandem::Tandem;

/// Of the request that shows whether the connection is still of use.
const PROBE: i16 = 99;
const STREAM: i16 = 5;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// After these a node says nothing any more, in some version or in all.
const STUNNING: [&str; 12] = [
    "half a body",
    "opcode 17",
    "opcode 255",
    "READY",
    "RESULT",
    "a response's version",
    "a length",
    "more than any limit",
    "the largest length",
    "version 6 ",
    "one with no opcode",
    "a good frame, then one with no opcode",
];
/// So long is it listened to; should it have been slow, the comparison only asks for less.
const STUNNED: Duration = Duration::from_millis(300);

/// How far the connection has come before the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was said.
    New(u8),
    /// It takes requests.
    Ready(u8),
    /// The same, with LZ4.
    Packed(u8),
}

impl Stage {
    fn version(self) -> u8 {
        match self {
            Stage::New(version) | Stage::Ready(version) | Stage::Packed(version) => version,
        }
    }

    fn open(self, address: SocketAddrV4) -> Cql {
        let dial = Dial { version: self.version(), lz4: matches!(self, Stage::Packed(_)), ..Dial::default() };
        match self {
            Stage::New(_) => Cql::open(address, &dial).expect("it listens"),
            Stage::Ready(_) | Stage::Packed(_) => Cql::dial(address, &dial).expect("ready"),
        }
    }
}

/// One line of the table.
struct Case {
    name: String,
    stage: Stage,
    bytes: Vec<u8>,
    /// How many answers a node gives at least.
    answers: usize,
    /// It waits for more bytes then, and gets none.
    unfinished: bool,
}

fn case(name: &str, stage: Stage, bytes: Vec<u8>) -> Case {
    Case { name: name.to_owned(), stage, bytes, answers: 1, unfinished: false }
}

impl Case {
    fn answered(self, answers: usize) -> Case {
        Case { answers, ..self }
    }

    fn unfinished(self) -> Case {
        Case { answers: 0, unfinished: true, ..self }
    }

    fn play_to_node(&self, address: SocketAddrV4) -> Heard {
        let stunning = STUNNING.iter().any(|name| format!("{} ", self.name).starts_with(name));
        let heard = self.play(address, if stunning { STUNNED } else { PATIENCE });
        assert!(stunning || heard.end != Some(End::Silent), "{} {:?}: {heard:?}", self.name, self.stage);
        heard
    }

    fn play(&self, address: SocketAddrV4, patience: Duration) -> Heard {
        let mut cql = self.stage.open(address);
        cql.patience(patience);
        let mut heard = Heard::default();
        // Whoever refuses the first bytes may close before the last ones are sent.
        let _ = cql.send_raw(&self.bytes);
        for _ in 0..self.answers {
            heard.listen(&mut cql);
        }
        if self.unfinished {
            cql.finish();
        } else if heard.end.is_none() {
            let probe = Frame::put(self.stage.version(), 0, PROBE, OPTIONS, &[]);
            let segments = !matches!(self.stage, Stage::New(_)) && self.stage.version() >= 5;
            let packed = matches!(self.stage, Stage::Packed(_));
            let _ = cql.send_raw(&if segments { wrap(&probe, packed) } else { probe });
        }
        while heard.end.is_none() {
            heard.listen(&mut cql);
        }
        // Answers may overtake each other.
        heard.frames.sort();
        heard
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    GoesOn,
    Silent,
}

/// What came back.
#[derive(Debug, Default)]
struct Heard {
    frames: Vec<String>,
    /// Of errors: for people.
    words: Vec<String>,
    end: Option<End>,
}

/// An exception of Java's that nobody has foreseen.
const STUMBLED: &str = "stumbled";

impl Heard {
    /// Whether tandem answered as well as this node.
    fn is_kept_by(&self, ours: &Heard) -> bool {
        let stumbled = |frame: &String| frame == STUMBLED;
        let mut frames = self.frames.clone();
        if self.end == Some(End::Silent) {
            // What is refused and not skipped is refused again.
            frames.dedup();
        }
        if frames.iter().any(stumbled) || frames.is_empty() && self.end == Some(End::Silent) {
            let good = frames.iter().filter(|frame| !stumbled(frame)).all(|frame| ours.frames.contains(frame));
            return good && ours.end != Some(End::Silent) && !ours.frames.is_empty();
        }
        frames == ours.frames && (self.end == ours.end || self.end == Some(End::Silent) && ours.end != self.end)
    }
}

impl Heard {
    fn listen(&mut self, cql: &mut Cql) {
        if self.end.is_some() {
            return;
        }
        let Some(frame) = cql.receive() else {
            self.end = Some(if cql.is_closed() { End::Closed } else { End::Silent });
            return;
        };
        if (frame.stream, frame.opcode) == (PROBE, SUPPORTED) {
            self.end = Some(End::GoesOn);
            return;
        }
        let said = format!("version {:#x}, stream {}, opcode {:#x}", frame.version, frame.stream, frame.opcode);
        if frame.opcode != ERROR {
            return self.frames.push(said);
        }
        let failure = Failure::parse(&frame);
        let stumbled = failure.code == 0 && failure.message.contains("java.lang.");
        self.frames.push(if stumbled { STUMBLED.to_owned() } else { format!("{said}, code {:#x}", failure.code) });
        self.words.push(failure.message);
    }
}

fn frame(version: u8, opcode: u8, body: &[u8]) -> Vec<u8> {
    Frame::put(version, 0, STREAM, opcode, body)
}

/// With another length than its body has.
fn lying(version: u8, opcode: u8, length: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = frame(version, opcode, body);
    frame[5..9].copy_from_slice(&length.to_be_bytes());
    frame
}

fn startup(version: u8, options: &[(&str, &str)]) -> Vec<u8> {
    frame(version, STARTUP, &Out::default().string_map(options).0)
}

/// A statement without parameters, at consistency ONE.
fn query(version: u8, text: &str) -> Out {
    let out = Out::default().long_string(text).short(1);
    if version >= 5 { out.int(0) } else { out.byte(0) }
}

const READ: &str = "SELECT key FROM system.local";

fn before_startup() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in [3, 4, 5] {
        let stage = Stage::New(version);
        let mut add = |name: &str, bytes| cases.push(case(&format!("{name} before STARTUP"), stage, bytes));
        add("QUERY", frame(version, QUERY, &query(version, READ).0));
        add("REGISTER", frame(version, REGISTER, &Out::default().short(0).0));
        add("AUTH_RESPONSE", frame(version, AUTH_RESPONSE, &Out::default().bytes(b"x").0));
        add("opcode 4", frame(version, 0x04, &[]));
        add("opcode 17", frame(version, 0x11, &[]));
        add("opcode 255", frame(version, 0xFF, &[]));
        add("READY", frame(version, 0x02, &[]));
        add("a response's version", frame(version | 0x80, OPTIONS, &[]));
        add("a length below zero", lying(version, OPTIONS, -1, &[]));
        add("a length far below zero", lying(version, QUERY, i32::MIN, &[]));
        add("the beta flag", Frame::put(version, 0x10, STREAM, OPTIONS, &[]));
        add("OPTIONS with a body", frame(version, OPTIONS, b"more"));
        add("STARTUP without options", startup(version, &[]));
        add("STARTUP without CQL_VERSION", startup(version, &[("DRIVER_NAME", "x")]));
        add("STARTUP with a strange CQL_VERSION", startup(version, &[("CQL_VERSION", "nonsense")]));
        add("STARTUP with an old CQL_VERSION", startup(version, &[("CQL_VERSION", "2.0.0")]));
        add("STARTUP with a new CQL_VERSION", startup(version, &[("CQL_VERSION", "9.9.9")]));
        let compression = |name| [("CQL_VERSION", "3.0.0"), ("COMPRESSION", name)];
        add("STARTUP with unknown compression", startup(version, &compression("zip")));
        add("STARTUP with no name of compression", startup(version, &compression("")));
        add("STARTUP that is cut off", frame(version, STARTUP, &[0, 1, 0, 5, b'C']));
        add("STARTUP without a body", frame(version, STARTUP, &[]));
        add("a compressed flag", Frame::put(version, 0x01, STREAM, OPTIONS, &[]));
        add("more than any limit", lying(version, OPTIONS, 300 << 20, &[]));
        add("the largest length", lying(version, QUERY, i32::MAX, &query(version, READ).0));
        cases.push(case("half a header", stage, vec![version, 0, 0]).unfinished());
        cases.push(case("half a body", stage, lying(version, STARTUP, 22, &[0, 1])).unfinished());
    }
    let options = |version: u8| frame(version, OPTIONS, &[]);
    cases.push(case("Snappy in v5", Stage::New(5), {
        startup(5, &[("CQL_VERSION", "3.0.0"), ("COMPRESSION", "snappy")])
    }));
    for version in [0, 6, 7, 0x41, 0x42, 0x7F] {
        cases.push(case(&format!("version {version}"), Stage::New(4), options(version)));
    }
    // A header of eight bytes.
    for version in [1, 2] {
        let startup = [&[version, 0, 9, STARTUP, 0, 0, 0, 2][..], &[0, 0]].concat();
        cases.push(case(&format!("version {version}"), Stage::New(4), startup));
    }
    cases.push(case("a payload in v3", Stage::New(3), Frame::put(3, 0x04, STREAM, OPTIONS, &[0, 0])));
    cases
}

/// What is wrong inside a message, or with when it comes.
fn messages(version: u8) -> Vec<(&'static str, Vec<u8>)> {
    let query = |text| query(version, text).0;
    let flags = |out: Out, flags: i32| if version >= 5 { out.int(flags) } else { out.byte(flags as u8) };
    let asked = || Out::default().long_string(READ).short(1);
    let other = || Out::default().long_string("SELECT keyspace_name FROM system_schema.keyspaces").short(1);
    let batch = |out: Out| flags(out.short(1), 0).0;
    let id = |out: Out| if version >= 5 { out.short_bytes(b"m") } else { out };
    let mut messages = vec![
        ("QUERY without a body", frame(version, QUERY, &[])),
        ("QUERY that is cut off", frame(version, QUERY, &query(READ)[..20])),
        ("QUERY without parameters", frame(version, QUERY, &Out::default().long_string(READ).0)),
        ("QUERY with more behind it", frame(version, QUERY, &[&query(READ)[..], b"more"].concat())),
        (
            "QUERY whose text has a length below zero",
            frame(version, QUERY, &flags(Out::default().int(-1).short(1), 0).0),
        ),
        (
            "QUERY whose text is longer than all",
            frame(version, QUERY, &flags(Out::default().int(i32::MAX).short(1), 0).0),
        ),
        ("QUERY of nothing", frame(version, QUERY, &query(""))),
        ("QUERY that is no UTF-8", frame(version, QUERY, &flags(Out::default().bytes(b"SELECT '\xFF'").short(1), 0).0)),
        ("a consistency that is none", frame(version, QUERY, &flags(Out::default().long_string(READ).short(99), 0).0)),
        ("values that are cut off", frame(version, QUERY, &flags(asked(), 0x01).short(2).bytes(b"x").0)),
        ("a value with a length of -3", frame(version, QUERY, &flags(asked(), 0x01).short(1).int(-3).0)),
        ("values that nothing takes", frame(version, QUERY, &flags(asked(), 0x01).short(1).bytes(b"x").0)),
        ("a page size below zero", frame(version, QUERY, &flags(asked(), 0x04).int(-1).0)),
        ("a paging state that is none", frame(version, QUERY, &flags(asked(), 0x08).bytes(b"nonsense").0)),
        ("a serial consistency that is none", frame(version, QUERY, &flags(asked(), 0x10).short(4).0)),
        ("the least timestamp", frame(version, QUERY, &flags(asked(), 0x20).long(i64::MIN).0)),
        ("names without values", frame(version, QUERY, &flags(asked(), 0x40).0)),
        ("a statement that is none", frame(version, QUERY, &query("NONSENSE"))),
        ("PREPARE of nothing", frame(version, PREPARE, &flags_of_prepare(version, Out::default().long_string("")).0)),
        ("PREPARE without a body", frame(version, PREPARE, &[])),
        ("EXECUTE without a body", frame(version, EXECUTE, &[])),
        (
            "EXECUTE of what was not prepared",
            frame(version, EXECUTE, &flags(id(Out::default().short_bytes(&[7; 16])).short(1), 0).0),
        ),
        ("EXECUTE of an empty id", frame(version, EXECUTE, &flags(id(Out::default().short_bytes(&[])).short(1), 0).0)),
        ("BATCH without a body", frame(version, BATCH, &[])),
        ("BATCH of no kind", frame(version, BATCH, &batch(Out::default().byte(7).short(0)))),
        ("BATCH of nothing", frame(version, BATCH, &batch(Out::default().byte(0).short(0)))),
        (
            "BATCH with a statement of no kind",
            frame(version, BATCH, &batch(Out::default().byte(0).short(1).byte(3).long_string("x").short(0))),
        ),
        (
            "BATCH of what was not prepared",
            frame(version, BATCH, &batch(Out::default().byte(0).short(1).byte(1).short_bytes(&[7; 16]).short(0))),
        ),
        (
            "BATCH with a read",
            frame(version, BATCH, &batch(Out::default().byte(0).short(1).byte(0).long_string(READ).short(0))),
        ),
        ("BATCH that is cut off", frame(version, BATCH, &Out::default().byte(0).short(3).byte(0).long_string("x").0)),
        ("REGISTER for what is no event", frame(version, REGISTER, &Out::default().short(1).string("NONSENSE").0)),
        ("REGISTER without a body", frame(version, REGISTER, &[])),
        ("STARTUP again", startup(version, &[("CQL_VERSION", "3.0.0")])),
        ("AUTH_RESPONSE that nobody asked for", frame(version, AUTH_RESPONSE, &Out::default().bytes(b"\0a\0b").0)),
        ("AUTH_RESPONSE without a body", frame(version, AUTH_RESPONSE, &[])),
        ("OPTIONS with a body", frame(version, OPTIONS, b"more")),
        ("opcode 4", frame(version, 0x04, &[])),
        ("opcode 255", frame(version, 0xFF, b"body")),
        ("RESULT", frame(version, 0x08, &[0, 0, 0, 1])),
        ("a response's version", frame(version | 0x80, OPTIONS, &[])),
        ("a length below zero", lying(version, OPTIONS, -1, &[])),
        ("a negative stream", Frame::put(version, 0, -7, QUERY, &query(READ))),
        ("the stream of events", Frame::put(version, 0, -1, QUERY, &query(READ))),
        ("the beta flag", Frame::put(version, 0x10, STREAM, QUERY, &query(READ))),
        ("all flags of the header but compression and payload", Frame::put(version, 0xFA, STREAM, OPTIONS, &[])),
        ("a payload that is cut off", Frame::put(version, 0x04, STREAM, QUERY, &[0, 1, 0, 1])),
    ];
    if version >= 5 {
        messages
            .push(("a keyspace that is not there", frame(version, QUERY, &flags(other(), 0x80).string("nowhere").0)));
        messages.push(("an unknown flag", frame(version, QUERY, &flags(asked(), 0x4000).0)));
    } else {
        messages.push(("the flag of v5", frame(version, QUERY, &flags(other(), 0x80).string("nowhere").0)));
    }
    for (name, other) in [("version 6", 6), ("version 66", 66)] {
        messages.push((name, Frame::put(other, 0, STREAM, OPTIONS, &[])));
    }
    for other in [3, 4, 5].into_iter().filter(|other| *other != version) {
        messages.push(("another version than before", Frame::put(other, 0, STREAM, OPTIONS, &[])));
    }
    messages
}

fn flags_of_prepare(version: u8, out: Out) -> Out {
    if version >= 5 { out.int(0) } else { out }
}

fn after_startup() -> Vec<Case> {
    let mut cases = Vec::new();
    for stage in [Stage::Ready(3), Stage::Ready(4), Stage::Ready(5), Stage::Packed(5)] {
        let version = stage.version();
        let as_sent = |bytes: Vec<u8>| if version >= 5 { wrap(&bytes, stage == Stage::Packed(5)) } else { bytes };
        for (name, bytes) in messages(version) {
            cases.push(case(name, stage, as_sent(bytes)));
        }
        let twice = || Frame::put(version, 0, STREAM, QUERY, &query(version, READ).0);
        cases.push(case("one stream for two requests", stage, as_sent([twice(), twice()].concat())).answered(2));
        let too_long = lying(version, QUERY, i32::MAX, &query(version, READ).0);
        cases.push(case("the largest length", stage, as_sent(too_long)));
        let half = case("half a body", stage, as_sent(lying(version, QUERY, 100, &[0, 1])));
        cases.push(if version >= 5 { half } else { half.unfinished() });
    }
    for (name, body) in GARBLED {
        let bytes = Frame::put(4, 0x01, STREAM, QUERY, body);
        cases.push(case(&format!("{name}, without LZ4"), Stage::Ready(4), bytes));
    }
    cases
}

/// Compressed bodies.
const GARBLED: [(&str, &[u8]); 5] = [
    ("a compressed body that is none", b"\0\0\0\x20nonsense"),
    ("a compressed body of nothing", &[]),
    ("a compressed body that says it is huge", &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0]),
    ("a compressed body that says it is less than nothing", &[0xFF, 0xFF, 0xFF, 0xFF, 0, 0]),
    ("a compressed body that says it is more than it is", &[0, 0, 0, 9, 0x10, 0x61]),
];

/// v5's outer framing.
fn segments() -> Vec<Case> {
    let good = |packed| wrap(&frame(5, QUERY, &query(5, READ).0), packed);
    let flipped = |packed: bool, at: usize| {
        let mut bytes = good(packed);
        let at = if at == usize::MAX { bytes.len() - 1 } else { at };
        bytes[at] ^= 0x40;
        bytes
    };
    let mut cases = Vec::new();
    for (stage, packed, header) in [(Stage::Ready(5), false, 6), (Stage::Packed(5), true, 8)] {
        let mut add = |name: &str, bytes| cases.push(case(name, stage, bytes));
        add("a segment whose length is wrong", flipped(packed, 0));
        add("a segment whose header's checksum is wrong", flipped(packed, header - 1));
        add("a segment whose payload is wrong", flipped(packed, header + 2));
        add("a segment whose payload's checksum is wrong", flipped(packed, usize::MAX));
        add("a frame without a segment", frame(5, OPTIONS, &[0; 64]));
        cases.push(case("half a segment", stage, good(packed)[..header + 3].to_vec()).unfinished());
        cases.push(
            case("a segment with two frames", stage, {
                let two = [frame(5, QUERY, &query(5, READ).0), Frame::put(5, 0, 6, QUERY, &query(5, READ).0)];
                wrap(&two.concat(), packed)
            })
            .answered(2),
        );
        cases.push(
            case("a good frame, then one with no opcode", stage, {
                wrap(&[frame(5, QUERY, &query(5, READ).0), Frame::put(5, 0, 6, 0xFF, &[])].concat(), packed)
            })
            .answered(2),
        );
        cases.push(
            case("one with no opcode, then a good frame", stage, {
                wrap(&[Frame::put(5, 0, 6, 0xFF, &[]), frame(5, QUERY, &query(5, READ).0)].concat(), packed)
            })
            .answered(2),
        );
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_is_answered_as_a_real_node_answers_it() {
    // A node of its own: who knows what is left of one after this.
    let own = cluster(&versions().0, 1, &Options::default());
    let (origin, target) = (own.nodes[0].address(), pair()[1].address());
    let tandem = Tandem::start_cql(origin, target, "").await;
    let mut differences = Vec::new();
    let cases = [before_startup(), after_startup(), segments()];
    for case in cases.iter().flatten() {
        let node = case.play_to_node(origin);
        let ours = case.play(tandem.address(), PATIENCE);
        if !node.is_kept_by(&ours) {
            differences.push(format!("{} {:?}\n  node   {node:?}\n  tandem {ours:?}", case.name, case.stage));
        }
    }
    let found = (differences.len(), differences.join("\n"), tandem.log());
    assert!(differences.is_empty(), "{} differences\n{}\n{}", found.0, found.1, found.2);
    assert!(!found.2.contains("panicked"), "{}", found.2);
}

/// Such bodies make a node run out of memory, or crash in the code of its decompressor: it must not see them.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decompressed_never_reaches_a_node() {
    let [origin, target] = pair_with("garbled").map(|node| node.address());
    let tandem = Tandem::start_cql(origin, target, "").await;
    for opcode in [QUERY, PREPARE, EXECUTE, BATCH, REGISTER, AUTH_RESPONSE, STARTUP] {
        for (name, body) in GARBLED {
            let heard = case(name, Stage::Packed(4), Frame::put(4, 0x01, STREAM, opcode, body));
            let heard = heard.play(tandem.address(), PATIENCE);
            let refused = [format!("version 0x84, stream 0, opcode {ERROR:#x}, code 0x0")];
            assert_eq!((&heard.frames[..], heard.end), (&refused[..], Some(End::GoesOn)), "{name}, opcode {opcode}");
        }
    }
    // The checksums are right.
    let payload = b"nonsense";
    let bytes = sealed(payload.len() as u64 | 32 << 17 | 1 << 34, 5, payload);
    let heard = case("a segment", Stage::Packed(5), bytes).play(tandem.address(), PATIENCE);
    let refused = [format!("version 0x85, stream 0, opcode {ERROR:#x}, code 0xa")];
    assert_eq!((&heard.frames[..], heard.end), (&refused[..], Some(End::Closed)));
    Cql::dial(origin, &Dial::default()).expect("the node lives");
}
