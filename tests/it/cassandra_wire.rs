//! The CQL codec against real nodes: what they send is read and written back byte for byte, what we write they take, and what
//! we refuse they refuse in the same words.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tandem::protocol::cql::wire::compress::{Compression, Scratch};
use tandem::protocol::cql::wire::frame::{EVENT_STREAM, Envelope, Frame, From, Header, Opcode, Version, flag};
use tandem::protocol::cql::wire::primitive::{Consistency, Reader, Value, put_short, put_string};
use tandem::protocol::cql::wire::request::{
    Batch, BatchKind, Bound, Execute, Parameters, Prepare, Query, Request, Statement, StatementText, Values, put_batch,
    put_startup,
};
use tandem::protocol::cql::wire::response::{
    ErrorKind, Event, Outcome, Prepared, Response, Rows, ServerError, code, put_refusal,
};
use tandem::protocol::cql::wire::segment::{self, Form, Writer};

use tandem::protocol::cql::wire::value::{Datum, Exact};

use crate::support::cassandra::pair_with;

const LIMIT: usize = 16 << 20;
const KINDS: [(Version, Option<Compression>); 8] = [
    (Version::V3, None),
    (Version::V4, None),
    (Version::V5, None),
    (Version::V3, Some(Compression::Lz4)),
    (Version::V4, Some(Compression::Lz4)),
    (Version::V5, Some(Compression::Lz4)),
    (Version::V3, Some(Compression::Snappy)),
    (Version::V4, Some(Compression::Snappy)),
];

/// A frame that came, its body decompressed.
struct Answer {
    header: Header,
    body: Bytes,
}

impl Answer {
    fn envelope(&self) -> Envelope<'_> {
        Envelope::open(self.header, &self.body).expect("a body")
    }

    /// Read, after it was seen that it is written back as it came.
    fn response(&self) -> Response<'_> {
        let envelope = self.envelope();
        let response = Response::parse(&envelope).expect("a response");
        let mut again = BytesMut::new();
        response.put(&mut again, self.header.version).expect("it can be written");
        assert_eq!(again, envelope.message, "{response:?}");
        response
    }

    fn outcome(&self) -> Outcome<'_> {
        match self.response() {
            Response::Result(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn rows(&self) -> Rows<'_> {
        match self.outcome() {
            Outcome::Rows(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    fn prepared(&self) -> Prepared<'_> {
        match self.outcome() {
            Outcome::Prepared(prepared) => prepared,
            other => panic!("{other:?}"),
        }
    }

    fn error(&self) -> ServerError<'_> {
        match self.response() {
            Response::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Every cell, decoded by the types that came with it.
    fn data(&self) -> Vec<Vec<Datum>> {
        let rows = self.rows();
        let kinds: Vec<_> = rows.metadata.columns.expect("described").iter().map(|column| column.kind()).collect();
        let decode = |(kind, cell)| Datum::decode(kind, cell).expect("a value of its type");
        rows.iter().map(|row| kinds.iter().zip(row.expect("a row").iter()).map(decode).collect()).collect()
    }
}

/// A connection, spoken by the codec alone.
struct Wire {
    socket: TcpStream,
    version: Version,
    compression: Option<Compression>,
    /// Since STARTUP was answered in v5.
    segments: Option<(segment::Reader, Writer)>,
    scratch: Scratch,
    unread: BytesMut,
}

impl Wire {
    fn raw(address: SocketAddrV4, version: Version) -> Wire {
        let socket = TcpStream::connect(address).expect("a node");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        let (scratch, unread) = (Scratch::default(), BytesMut::new());
        Wire { socket, version, compression: None, segments: None, scratch, unread }
    }

    fn open(address: SocketAddrV4, version: Version, compression: Option<Compression>) -> Wire {
        let mut wire = Wire::raw(address, version);
        let mut options = vec![("CQL_VERSION", "3.0.0")];
        options.extend(compression.map(|compression| ("COMPRESSION", compression.name())));
        let mut startup = BytesMut::new();
        let envelope = Envelope::new(version, 1, Opcode::Startup);
        envelope.put(&mut startup, |out| put_startup(out, &options)).expect("a STARTUP");
        wire.send(&startup);
        wire.compression = compression.filter(|_| version < Version::V5); // READY may be compressed already.
        assert_eq!(wire.receive().response(), Response::Ready);
        let form = if compression.is_some() { Form::Lz4 } else { Form::Plain };
        let segments = || (segment::Reader::new(form, From::Server, LIMIT), Writer::new(form));
        wire.segments = (version >= Version::V5).then(segments);
        wire
    }

    fn ask_with(
        &mut self,
        envelope: Envelope<'_>,
        put: impl FnOnce(&mut BytesMut) -> Result<(), tandem::protocol::cql::wire::Error>,
    ) -> Answer {
        let mut frame = BytesMut::new();
        envelope.put(&mut frame, put).expect("a request");
        self.send(&frame);
        let answer = self.receive();
        assert_eq!(answer.header.stream, envelope.header.stream);
        answer
    }

    fn ask(&mut self, request: Request<'_>) -> Answer {
        let version = self.version;
        self.ask_with(Envelope::new(version, 300, request.opcode()), |out| request.put(out, version))
    }

    fn run(&mut self, text: &str) -> Answer {
        self.query(text, Parameters::new(Consistency::One))
    }

    fn query(&mut self, text: &str, parameters: Parameters<'_>) -> Answer {
        self.ask(Request::Query(Query { text: text.as_bytes(), parameters }))
    }

    fn send(&mut self, frame: &[u8]) {
        let mut out = BytesMut::new();
        match (&mut self.segments, self.compression) {
            (Some((_, writer)), _) => {
                writer.push(frame, &mut out, &mut self.scratch);
                writer.close(&mut out, &mut self.scratch);
            }
            (None, Some(compression)) => {
                let frame = Frame::split(frame, From::Client, LIMIT).expect("a frame").expect("a whole one");
                self.scratch.compress(frame, compression, &mut out);
            }
            (None, None) => out.extend_from_slice(frame),
        }
        self.socket.write_all(&out).expect("the node reads");
    }

    fn receive(&mut self) -> Answer {
        loop {
            if let Some((answer, len)) = self.answer() {
                let _ = self.unread.split_to(len);
                if let Some(answer) = answer {
                    return answer;
                }
                continue;
            }
            let mut buffer = [0; 65_536];
            let read = self.socket.read(&mut buffer).expect("an answer");
            assert!(read > 0, "the node hung up");
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }

    /// Others change their keyspaces of the same node meanwhile.
    fn await_schema_event(&mut self, keyspace: &str) {
        loop {
            let event = self.receive();
            assert_eq!(event.header.stream, EVENT_STREAM);
            if matches!(event.response(), Response::Event(Event::Schema(change)) if change.keyspace == keyspace) {
                return;
            }
        }
    }

    /// What was read up to now, and how many bytes it took; these tests ask one thing at a time.
    fn answer(&mut self) -> Option<(Option<Answer>, usize)> {
        let Some((reader, _)) = &mut self.segments else {
            let frame = Frame::split(&self.unread, From::Server, LIMIT).expect("a frame")?;
            let (header, body) = self.scratch.open(frame, self.compression, LIMIT).expect("a body");
            return Some((Some(Answer { header, body: Bytes::copy_from_slice(body) }), frame.bytes.len()));
        };
        let segment = reader.next(&self.unread, &mut self.scratch).expect("a segment")?;
        let frame = Frame::split(segment.frames, From::Server, LIMIT).expect("a frame");
        let answer = frame.map(|frame| Answer { header: frame.header, body: Bytes::copy_from_slice(frame.body()) });
        Some((answer, segment.bytes.len()))
    }
}

/// A column's type as CQL says it, and a value of it.
fn values() -> Vec<(&'static str, Datum)> {
    let uuid = *b"\x01\x23\x45\x67\x89\xab\x11\xee\x81\x23\x45\x67\x89\xab\xcd\xef";
    let varint = |number: i64| tandem::protocol::cql::wire::value::Varint::from(number);
    let text = |text: &str| Datum::Varchar(text.to_owned());
    vec![
        ("ascii", Datum::Ascii("plain".to_owned())),
        ("bigint", Datum::Bigint(i64::MIN)),
        ("blob", Datum::Blob(vec![0, 255])),
        ("boolean", Datum::Boolean(true)),
        ("decimal", Datum::Decimal { scale: 2, unscaled: varint(-12_345) }),
        ("double", Datum::Double(Exact(-0.5))),
        ("float", Datum::Float(Exact(1.5))),
        ("int", Datum::Int(-1)),
        ("timestamp", Datum::Timestamp(1_700_000_000_123)),
        ("uuid", Datum::Uuid(uuid)),
        ("text", text("grün")),
        ("varint", Datum::Varint(varint(1 << 40))),
        ("timeuuid", Datum::Timeuuid(uuid)),
        ("inet", Datum::Inet([127, 0, 0, 1].into())),
        ("inet", Datum::Inet(std::net::Ipv6Addr::LOCALHOST.into())),
        ("date", Datum::Date(1 << 31)),
        ("time", Datum::Time(86_399_999_999_999)),
        ("smallint", Datum::Smallint(-2)),
        ("tinyint", Datum::Tinyint(-3)),
        ("duration", Datum::Duration { months: 14, days: 3, nanoseconds: 1_000_000_007 }),
        ("list<int>", Datum::List(vec![Datum::Int(2), Datum::Int(1)])),
        ("set<text>", Datum::Set(vec![text("a"), text("b")])),
        ("map<text, frozen<list<int>>>", Datum::Map(vec![(text("k"), Datum::List(vec![Datum::Int(7)]))])),
        ("tuple<int, text>", Datum::Tuple(vec![Datum::Int(1), Datum::Null])),
        ("frozen<address>", Datum::Udt(vec![text("street"), Datum::Int(7)])),
        ("address", Datum::Udt(vec![text("street"), Datum::Null])),
    ]
}

fn vectors() -> Vec<(&'static str, Datum)> {
    let text = |text: &str| Datum::Varchar(text.to_owned());
    vec![
        ("vector<float, 2>", Datum::Vector(vec![Datum::Float(Exact(1.0)), Datum::Float(Exact(-2.0))])),
        ("vector<text, 2>", Datum::Vector(vec![text("ab"), text("")])),
        ("vector<smallint, 2>", Datum::Vector(vec![Datum::Smallint(1), Datum::Smallint(2)])),
    ]
}

#[test]
fn values_of_every_type_come_back_as_they_were_bound_with_the_timestamp_that_was_given() {
    for (node, new) in pair_with("wire_types").into_iter().zip([false, true]) {
        let mut columns = values();
        columns.extend(vectors().into_iter().filter(|_| new));
        let mut first = Wire::open(node.address(), Version::V4, None);
        first.run("USE wire_types").outcome();
        first.run("CREATE TYPE address (street text, no int)").outcome();
        let declared: Vec<_> = columns.iter().enumerate().map(|(n, (kind, _))| format!("c{n} {kind}")).collect();
        first.run(&format!("CREATE TABLE t (k int PRIMARY KEY, {})", declared.join(", "))).outcome();
        for (k, (version, compression)) in KINDS.into_iter().enumerate() {
            let mut wire = Wire::open(node.address(), version, compression);
            let names: Vec<_> = (0..columns.len()).map(|n| format!("c{n}")).collect();
            let marks = vec!["?"; columns.len() + 1].join(", ");
            let insert = format!("INSERT INTO wire_types.t (k, {}) VALUES ({marks})", names.join(", "));
            let prepared = wire.ask(Request::Prepare(Prepare { text: insert.as_bytes(), keyspace: None }));
            let prepared = prepared.prepared();
            assert_eq!(
                prepared.pk_indexes.iter().collect::<Vec<_>>(),
                if version == Version::V3 { vec![] } else { vec![0] }
            );
            let bound: Vec<BytesMut> =
                [Datum::Int(k as i32)].iter().chain(columns.iter().map(|(_, datum)| datum)).map(encoded).collect();
            let bound: Vec<Bound<'_>> = bound.iter().map(|bytes| (None, Value::Set(&bytes[4..]))).collect();
            let stamp = 1_600_000_000_000_000 + k as i64;
            let written = stamped(&mut wire, &prepared, &bound, stamp);
            assert_eq!(written.outcome(), Outcome::Void);
            let read = wire.run(&format!("SELECT {} FROM wire_types.t WHERE k = {k}", names.join(", ")));
            let expected: Vec<_> = columns.iter().map(|(_, datum)| datum.clone()).collect();
            assert_eq!(read.data(), [expected], "{version} {compression:?}");
            let written = wire.run(&format!("SELECT writetime(c0) FROM wire_types.t WHERE k = {k}"));
            assert_eq!(written.data(), [[Datum::Bigint(stamp)]]);
        }
    }
}

fn encoded(datum: &Datum) -> BytesMut {
    let mut out = BytesMut::new();
    datum.put(&mut out).expect("a value");
    out
}

/// An EXECUTE without a timestamp, as a client sends it, that is given one on its way.
fn stamped(wire: &mut Wire, prepared: &Prepared<'_>, bound: &[Bound<'_>], stamp: i64) -> Answer {
    let version = wire.version;
    let parameters = Parameters { values: Some(Values::Given(bound)), ..Parameters::new(Consistency::One) };
    let sent = Execute { id: prepared.id, result_metadata_id: prepared.result_metadata_id, parameters };
    let mut frame = BytesMut::new();
    Envelope::new(version, 5, Opcode::Execute).put(&mut frame, |out| sent.put(out, version)).expect("an EXECUTE");
    let frame = Frame::split(&frame, From::Client, LIMIT).expect("a frame").expect("a whole one");
    let envelope = Envelope::open(frame.header, frame.body()).expect("a body");
    let mut execute = Execute::parse(version, envelope.message).expect("an EXECUTE");
    execute.parameters.timestamp = Some(stamp);
    wire.ask_with(envelope, |out| execute.put(out, version))
}

#[test]
fn batches_conditions_pages_and_large_messages_work_in_every_version() {
    for node in pair_with("wire_shapes") {
        Wire::open(node.address(), Version::V4, None)
            .run("CREATE TABLE wire_shapes.t (k int, c int, v text, PRIMARY KEY (k, c))");
        for (k, (version, compression)) in KINDS.into_iter().enumerate() {
            let mut wire = Wire::open(node.address(), version, compression);
            let insert = b"INSERT INTO wire_shapes.t (k, c, v) VALUES (?, ?, ?)";
            let prepared = wire.ask(Request::Prepare(Prepare { text: insert, keyspace: None }));
            let prepared = prepared.prepared();
            let (k_bytes, long) = ((k as i32).to_be_bytes(), "tandem".repeat(50_000));
            let row = |c: &'static [u8; 4], v| [(None, Value::Set(&k_bytes[..])), (None, Value::Set(c)), (None, v)];
            let (one, two) = (row(&[0, 0, 0, 1], Value::Set(long.as_bytes())), row(&[0, 0, 0, 2], Value::Null));
            let statements = [
                Statement { text: StatementText::Prepared(prepared.id), values: Values::Given(&one) },
                Statement { text: StatementText::Text(insert), values: Values::Given(&two) },
            ];
            let parameters = Parameters { timestamp: Some(77), ..Parameters::new(Consistency::One) };
            let put = |out: &mut BytesMut| put_batch(out, version, BatchKind::Logged, &statements, &parameters);
            assert_eq!(wire.ask_with(Envelope::new(version, 2, Opcode::Batch), put).outcome(), Outcome::Void);

            let page = Parameters { page_size: Some(1), ..Parameters::new(Consistency::One) };
            let select = format!("SELECT v, writetime(v) FROM wire_shapes.t WHERE k = {k}");
            let first = wire.query(&select, page);
            assert_eq!(first.data(), [[Datum::Varchar(long.clone()), Datum::Bigint(77)]]);
            let paging_state = first.rows().metadata.paging_state;
            assert!(paging_state.is_some());
            let second = wire.query(&select, Parameters { paging_state, skip_metadata: true, ..page });
            assert_eq!((second.rows().len(), second.rows().metadata.columns), (1, None));

            let conditional = |c| format!("INSERT INTO wire_shapes.t (k, c) VALUES ({k}, {c}) IF NOT EXISTS");
            assert_eq!(wire.run(&conditional(3)).rows().applied(), Some(true));
            assert_eq!(wire.run(&conditional(3)).rows().applied(), Some(false));
            assert_eq!(wire.run(&select).rows().applied(), None);
        }
    }
}

#[test]
fn what_comes_before_a_message_and_what_only_v5_has_are_understood() {
    for node in pair_with("wire_more") {
        let mut first = Wire::open(node.address(), Version::V4, None);
        first.run("CREATE TABLE wire_more.t (k int PRIMARY KEY, v text)").outcome();
        for version in [Version::V4, Version::V5] {
            let mut wire = Wire::open(node.address(), version, None);
            let insert = |k: usize| format!("INSERT INTO wire_more.t (k) VALUES ({k})");
            let texts: Vec<_> = (0..20).map(insert).collect();
            let values = Values::Given(&[]);
            let statements: Vec<_> =
                texts.iter().map(|text| Statement { text: StatementText::Text(text.as_bytes()), values }).collect();
            let mut envelope = Envelope::new(version, 2, Opcode::Batch);
            envelope.header.flags = flag::TRACING;
            let payload = [0, 1, 0, 1, b'k', 0, 0, 0, 1, b'v'];
            envelope.payload = Some(Reader::new(&payload).bytes_map("payload").expect("a payload"));
            let parameters = Parameters::new(Consistency::One);
            let put = |out: &mut BytesMut| put_batch(out, version, BatchKind::Unlogged, &statements, &parameters);
            let answer = wire.ask_with(envelope, put);
            let opened = answer.envelope();
            assert!(opened.tracing.is_some(), "BATCH is traced too");
            assert_eq!(opened.warnings.map(|warnings| warnings.len()), Some(1));
            assert_eq!(answer.outcome(), Outcome::Void);
        }
        let mut wire = Wire::open(node.address(), Version::V5, Some(Compression::Lz4));
        let prepare = Prepare { text: b"SELECT * FROM t WHERE k = :k", keyspace: Some("wire_more") };
        let answer = wire.ask(Request::Prepare(prepare));
        let prepared = answer.prepared();
        assert_eq!(prepared.markers.table(), Some(("wire_more", "t")));
        let values = [(Some("k"), Value::Set(&[0, 0, 0, 1][..]))];
        let parameters = Parameters { values: Some(Values::Given(&values)), ..Parameters::new(Consistency::One) };
        let execute = Execute { id: prepared.id, result_metadata_id: Some(b"stale"), parameters };
        let changed = wire.ask(Request::Execute(execute));
        assert_eq!(changed.rows().metadata.new_id, prepared.result_metadata_id);
        let ttl = Parameters {
            now_in_seconds: Some(1_000_000_000),
            keyspace: Some("wire_more"),
            ..Parameters::new(Consistency::One)
        };
        wire.query("INSERT INTO t (k, v) VALUES (99, 'x') USING TTL 100", ttl).outcome();
        let later = Parameters { now_in_seconds: Some(1_000_000_060), ..ttl };
        assert_eq!(wire.query("SELECT ttl(v) FROM t WHERE k = 99", later).data(), [[Datum::Int(40)]]);
    }
}

#[test]
fn errors_and_events_of_real_nodes_are_understood() {
    for node in pair_with("wire_errors") {
        for (version, compression) in KINDS {
            let mut wire = Wire::open(node.address(), version, compression);
            let supported = wire.ask(Request::Options);
            let Response::Supported(options) = supported.response() else { panic!("{:?}", supported.response()) };
            assert!(options.get("PROTOCOL_VERSIONS").expect("versions").iter().any(|version| version == "5/v5"));
            let mut kinds = BytesMut::new();
            put_short(&mut kinds, 1, "event types").expect("one");
            put_string(&mut kinds, "SCHEMA_CHANGE", "event type").expect("short");
            let kinds = Reader::new(&kinds).string_list("event types").expect("a list");
            assert_eq!(wire.ask(Request::Register(kinds)).response(), Response::Ready);
            let mut other = Wire::open(node.address(), version, None);
            other.run("CREATE TABLE wire_errors.t (k int PRIMARY KEY)").outcome();
            wire.await_schema_event("wire_errors");
            let kind = |answer: Answer| answer.error().kind.code();
            let again = other.run("CREATE TABLE wire_errors.t (k int PRIMARY KEY)");
            assert_eq!(again.error().kind, ErrorKind::AlreadyExists { keyspace: "wire_errors", table: "t" });
            assert_eq!(kind(other.run("SELEC")), code::SYNTAX);
            assert_eq!(kind(other.run("SELECT * FROM wire_errors.none")), code::INVALID);
            let parameters = Parameters::new(Consistency::Three);
            assert_eq!(
                other.query("SELECT * FROM wire_errors.t", parameters).error().kind,
                ErrorKind::Unavailable { consistency: Consistency::Three, required: 3, alive: 1 }
            );
            let unknown = Execute { id: b"0123456789abcdef", result_metadata_id: Some(b"meta"), parameters };
            assert_eq!(
                other.ask(Request::Execute(unknown)).error().kind,
                ErrorKind::Unprepared { id: b"0123456789abcdef" }
            );
            other.run("DROP TABLE wire_errors.t").outcome();
        }
    }
}

/// The same frame to a node and to our splitter gets the same version, stream, code and text.
#[test]
fn headers_that_we_refuse_are_refused_by_nodes_in_the_same_words() {
    for node in pair_with("wire_refused") {
        let versions = [0x42, 0x41, 7, 6].map(|version| vec![version, 0, 0, 9, 5, 0, 0, 0, 0]);
        let old = [2, 1].map(|version| vec![version, 0, 9, 5, 0, 0, 0, 0]);
        for bytes in versions.iter().chain(&old) {
            refused_alike(&mut Wire::raw(node.address(), Version::V4), bytes);
        }
        for opcode in [0x11, Opcode::Ready as u8] {
            let mut wire = Wire::open(node.address(), Version::V4, None);
            refused_alike(&mut wire, &[4, 0, 0, 9, opcode, 0, 0, 0, 0]);
        }
    }
}

fn refused_alike(wire: &mut Wire, bytes: &[u8]) {
    let refused = Header::peek(bytes, From::Client, LIMIT).expect_err("refused");
    let mut ours = BytesMut::new();
    put_refusal(&mut ours, &refused).expect("an ERROR");
    wire.socket.write_all(bytes).expect("the node reads");
    let len = if refused.version < 3 { 8 } else { 9 };
    let (header, text) = ours.split_at(len);
    let mut their_header = vec![0; len];
    wire.socket.read_exact(&mut their_header).expect("a header");
    let size = their_header.last_chunk().map_or(0, |&size| u32::from_be_bytes(size));
    let mut their_text = vec![0; size as usize];
    wire.socket.read_exact(&mut their_text).expect("a body");
    let read = |body: &[u8]| {
        let error = ServerError::parse(Version::V3, body).expect("an ERROR");
        (error.kind.code(), error.message.replace(", 6/v6-beta", ""))
    };
    let until_len = ..len - 4;
    assert_eq!((&header[until_len], read(text)), (&their_header[until_len], read(&their_text)), "{bytes:?}");
}

#[test]
fn requests_that_we_refuse_are_refused_by_nodes_in_the_same_words() {
    let stamp = [&[0, 0, 0, 1, b'x', 0, 1, 0x20][..], &i64::MIN.to_be_bytes()].concat();
    let in_words = [
        (Opcode::Query, stamp),
        (Opcode::Query, vec![0, 0, 0, 1, b'x', 0, 0x0C, 0]),
        (Opcode::Query, vec![0, 0, 0, 1, b'x', 0, 1, 1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFD]),
        (Opcode::Batch, vec![3, 0, 0, 0, 1, 0]),
        (Opcode::Batch, vec![0, 0, 1, 2, 0, 1, 0]),
    ];
    // Nodes say of these that something was short, or show the exception that they met; we name the field.
    let short = [
        (Opcode::Query, vec![0, 0, 0, 9, b'x', 0, 1, 0]),
        (Opcode::Query, vec![0xFF, 0xFF, 0xFF, 0xFF, 0, 1, 0]),
        (Opcode::Query, vec![0, 0, 0, 1, b'x', 0]),
        (Opcode::Query, vec![0, 0, 0, 1, b'x', 0, 1, 4, 0]),
        (Opcode::Query, vec![0, 0, 0, 1, b'x', 0, 1, 1, 0, 1, 0, 0, 0, 9, 1]),
        (Opcode::Execute, vec![0, 9, 1]),
    ];
    for node in pair_with("wire_bad") {
        let refused = |(opcode, body): &(Opcode, Vec<u8>)| {
            let mut wire = Wire::open(node.address(), Version::V4, None);
            let header = Header { version: Version::V4, flags: 0, stream: 3, opcode: *opcode, len: body.len() };
            let ours = Request::parse(&Envelope::open(header, body).expect("a body")).expect_err("refused");
            let theirs = wire.ask_with(Envelope::new(Version::V4, 3, *opcode), |out| {
                out.extend_from_slice(body);
                Ok(())
            });
            let theirs = theirs.error();
            ((ours.code(), ours.to_string()), (theirs.kind.code(), theirs.message.to_owned()))
        };
        for (ours, theirs) in in_words.iter().map(refused) {
            assert_eq!(ours, theirs);
        }
        for (ours, theirs) in short.iter().map(refused) {
            assert!([code::SERVER, code::PROTOCOL].contains(&theirs.0), "{ours:?} {theirs:?}");
        }
    }
}

#[test]
fn batches_are_edited_on_their_way() {
    let [node, _] = pair_with("wire_edit");
    let mut wire = Wire::open(node.address(), Version::V4, None);
    wire.run("CREATE TABLE wire_edit.t (k int PRIMARY KEY, v int)").outcome();
    let text = b"INSERT INTO wire_edit.t (k, v) VALUES (?, ?)";
    let rows = [[1, 1], [2, 2]].map(|row: [i32; 2]| row.map(i32::to_be_bytes));
    let bound = rows.each_ref().map(|row| row.each_ref().map(|bytes| (None, Value::Set(&bytes[..]))));
    let statements =
        bound.each_ref().map(|values| Statement { text: StatementText::Text(text), values: Values::Given(values) });
    let mut message = BytesMut::new();
    put_batch(&mut message, Version::V4, BatchKind::Logged, &statements, &Parameters::new(Consistency::One))
        .expect("a batch");
    let batch = Batch::parse(Version::V4, &message).expect("a batch");
    let other = [bound[1][0], (None, Value::Set(&[0, 0, 0, 9][..]))];
    let edit = |place, statement| match place {
        0 => Some(statement),
        _ => Some(Statement { text: StatementText::Text(text), values: Values::Given(&other) }),
    };
    let envelope = Envelope::new(Version::V4, 1, Opcode::Batch);
    wire.ask_with(envelope, |out| batch.put_with(out, Version::V4, edit)).outcome();
    let read = wire.run("SELECT k, v FROM wire_edit.t");
    let of = |k, v| vec![Datum::Int(k), Datum::Int(v)];
    assert_eq!(read.data(), [of(1, 1), of(2, 9)]);
}
