//! Any bytes as frames, segments and values: nothing may panic, nothing may read past its end, and what was understood must
//! survive being put and read again. Property tests run a few scripts, the fuzz targets `cql_frames` and `cql_segments` as
//! many as they are given time for. [`samples`] has every message, for tests to cut short and to damage.

use bytes::BytesMut;

use super::compress::{Compression, Scratch};
use super::frame::{Envelope, Frames, From, Version, take};
use super::primitive::{Consistency, Reader, Value, put_bytes, put_short, put_short_bytes, put_string};
use super::request::{
    BatchKind, Bound, Execute, Parameters, Prepare, Query, Request, Statement, StatementText, Token, Values, put_batch,
    put_startup,
};
use super::response::{
    ErrorKind, Event, Failures, Metadata, Outcome, Response, SchemaChange, SchemaObject, ServerError, WriteType,
    put_metadata, put_rows, put_supported,
};
use super::segment::{Form, Part, Reader as Segments, Writer};
use super::types::{Native, Type};
use super::value::Datum;
use super::{Error, Opcode};

/// Bodies that a storm may have.
pub const LIMIT: usize = 1 << 20;

/// Any bytes as frames of a client and of a server.
pub fn frames(script: &[u8]) {
    for from in [From::Client, From::Server] {
        let mut frames = Frames::new(script, from, LIMIT);
        for frame in frames.by_ref().map_while(Result::ok) {
            body(frame);
        }
        let mut buffer = BytesMut::from(script);
        while let Ok(Some((header, frame))) = take(&mut buffer, from, LIMIT) {
            assert_eq!(header.size(), frame.len());
        }
        assert_eq!(frames.rest(), &buffer[..]);
    }
}

fn body(frame: super::Frame<'_>) {
    let mut scratch = Scratch::default();
    for compression in [None, Some(Compression::Lz4), Some(Compression::Snappy)] {
        let Ok((header, body)) = scratch.open(frame, compression, LIMIT) else { continue };
        assert_eq!(header.len, body.len());
        let Ok(envelope) = Envelope::open(header, body) else { continue };
        if header.opcode.is_response() {
            response(&envelope);
        } else {
            request(&envelope);
        }
    }
}

fn request(envelope: &Envelope<'_>) {
    let Ok(request) = Request::parse(envelope) else { return };
    if let Request::Batch(batch) = request {
        assert_eq!(batch.statements.iter().count(), batch.statements.len());
    }
    survives(envelope, |envelope, out, version| Request::parse(envelope)?.put(out, version));
}

fn response(envelope: &Envelope<'_>) {
    let Ok(response) = Response::parse(envelope) else { return };
    if let Response::Result(Outcome::Rows(rows)) = response {
        rows.applied();
        let columns = rows.metadata.columns;
        columns.iter().for_each(|columns| assert_eq!(columns.iter().count(), rows.metadata.count));
        for row in rows.iter().map_while(Result::ok) {
            assert_eq!(row.iter().count(), rows.metadata.count);
            let kinds = columns.iter().flat_map(|columns| columns.iter().map(|column| column.kind()));
            kinds.zip(row.iter()).for_each(|(kind, cell)| value(&kind, cell));
        }
    }
    survives(envelope, |envelope, out, version| Response::parse(envelope)?.put(out, version));
}

/// Put and read again it is the same, in its own version, and can be read in every version in which it can be put.
fn survives(envelope: &Envelope<'_>, again: impl Fn(&Envelope<'_>, &mut BytesMut, Version) -> Result<(), Error>) {
    for version in Version::ALL {
        let mut once = BytesMut::new();
        let mut other = *envelope;
        other.header.version = version;
        if other.put(&mut once, |out| again(envelope, out, version)).is_err() {
            assert!(once.is_empty());
            continue;
        }
        let mut twice = BytesMut::new();
        let opened = open(&once);
        opened.put(&mut twice, |out| again(&opened, out, version)).expect("what was put can be read");
        assert_eq!(once, twice);
    }
}

/// The envelope of a whole frame that is not compressed.
pub(super) fn open(frame: &[u8]) -> Envelope<'_> {
    let from = if frame.first().is_some_and(|byte| byte & 0x80 != 0) { From::Server } else { From::Client };
    let frame = super::Frame::split(frame, from, usize::MAX).expect("a frame").expect("a whole one");
    Envelope::open(frame.header, frame.body()).expect("a body that was put")
}

/// Any bytes as a value of this type: what is decoded encodes to what decodes to it.
pub fn value(kind: &Type, bytes: Option<&[u8]>) {
    let Ok(datum) = Datum::decode(kind, bytes) else { return };
    let mut out = BytesMut::new();
    datum.put(&mut out).expect("a value is no longer than its bytes");
    let again = Reader::new(&out).bytes("value").expect("it was put");
    assert_eq!(Datum::decode(kind, again), Ok(datum));
}

/// Any bytes as segments, and as payloads that are packed and read again. The first byte chooses the form.
pub fn segments(script: &[u8]) {
    let Some((choice, script)) = script.split_first() else { return };
    let form = if choice & 1 == 0 { Form::Plain } else { Form::Lz4 };
    let mut scratch = Scratch::default();
    let mut reader = Segments::new(form, From::Client, LIMIT);
    let mut rest = script;
    while let Ok(Some(segment)) = reader.next(rest, &mut scratch) {
        assert!(segment.frames.len() <= LIMIT + super::frame::HEADER);
        let len = segment.bytes.len();
        if matches!(segment.part, Part::First(_)) && choice & 2 == 0 {
            reader.pass();
        }
        rest = &rest[len..];
    }
    packed(form, script, &mut scratch);
}

/// Frames whose bodies are the script, packed, read again, and read again with each byte of the first header damaged.
fn packed(form: Form, script: &[u8], scratch: &mut Scratch) {
    let (mut frames, mut wire, mut writer) = (BytesMut::new(), BytesMut::new(), Writer::new(form));
    for body in script.chunks(1 + script.len() / 3) {
        let start = frames.len();
        let envelope = Envelope::new(Version::V5, 1, Opcode::AuthResponse);
        envelope.put(&mut frames, |out| put_bytes(out, Some(body), "token")).expect("a short body");
        writer.push(&frames[start..], &mut wire, scratch);
    }
    writer.close(&mut wire, scratch);
    assert_eq!(unpack(form, &wire, scratch).as_deref(), Ok(&frames[..]));
    for at in 0..wire.len().min(12) {
        wire[at] ^= 0x10;
        assert_ne!(unpack(form, &wire, scratch).as_deref(), Ok(&frames[..]));
        wire[at] ^= 0x10;
    }
}

pub(super) fn unpack(form: Form, wire: &[u8], scratch: &mut Scratch) -> Result<Vec<u8>, Error> {
    let mut reader = Segments::new(form, From::Client, LIMIT);
    let (mut frames, mut rest) = (Vec::new(), wire);
    while let Some(segment) = reader.next(rest, scratch).map_err(|refused| refused.error)? {
        frames.extend_from_slice(segment.frames);
        rest = &rest[segment.bytes.len()..];
    }
    Ok(frames)
}

/// Parameters with everything that the version has.
pub(super) fn full_parameters<'a>(version: Version, values: &'a [Bound<'a>]) -> Parameters<'a> {
    Parameters {
        values: Some(Values::Given(values)),
        skip_metadata: true,
        page_size: Some(5000),
        paging_state: Some(b"next"),
        serial_consistency: Some(Consistency::LocalSerial),
        timestamp: Some(-7),
        keyspace: (version >= Version::V5).then_some("ks"),
        now_in_seconds: (version >= Version::V5).then_some(1_700_000_000),
        ..Parameters::new(Consistency::LocalQuorum)
    }
}

/// Every message as a frame, with everything that the version has.
pub fn samples(version: Version) -> Vec<BytesMut> {
    let mut samples = requests(version);
    samples.extend(errors(version));
    samples.extend(responses(version));
    samples
}

fn sample(opcode: Opcode, version: Version, put: impl FnOnce(&mut BytesMut) -> Result<(), Error>) -> BytesMut {
    let mut out = BytesMut::new();
    Envelope::new(version, 0x0102, opcode).put(&mut out, put).expect("samples can be put");
    out
}

fn requests(version: Version) -> Vec<BytesMut> {
    let named = [(Some("a"), Value::Set(b"1")), (Some("b"), Value::Null)];
    let placed = [(None, Value::Set(b"1")), (None, Value::Null), (None, Value::Set(b""))];
    let with_names = full_parameters(version, &named);
    let parameters = full_parameters(version, &placed);
    let keyspace = (version >= Version::V5).then_some("ks");
    let statements = [
        Statement { text: StatementText::Text(b"DELETE FROM t"), values: Values::Given(&[]) },
        Statement { text: StatementText::Prepared(b"0123456789abcdef"), values: Values::Given(&placed) },
    ];
    let of_batch = Parameters { values: None, skip_metadata: false, page_size: None, paging_state: None, ..parameters };
    let bare = Parameters::new(Consistency::One);
    let execute = Execute { id: b"id", result_metadata_id: Some(b"meta"), parameters };
    let request = |request: Request<'_>| sample(request.opcode(), version, |out| request.put(out, version));
    vec![
        sample(Opcode::Startup, version, |out| put_startup(out, &[("CQL_VERSION", "3.0.0"), ("COMPRESSION", "lz4")])),
        request(Request::Options),
        request(Request::Query(Query { text: b"SELECT 1", parameters: with_names })),
        request(Request::Query(Query { text: b"SELECT 1", parameters: bare })),
        request(Request::Prepare(Prepare { text: b"SELECT ?", keyspace })),
        request(Request::Execute(execute)),
        sample(Opcode::Batch, version, |out| put_batch(out, version, BatchKind::Unlogged, &statements, &of_batch)),
        sample(Opcode::Register, version, |out| {
            put_short(out, 1, "event types")?;
            put_string(out, "SCHEMA_CHANGE", "event type")
        }),
        request(Request::AuthResponse(Token(Some(b"\0user\0password")))),
    ]
}

/// Bodies of ERROR that only some kinds have.
pub(super) fn error_kinds() -> Vec<ErrorKind<'static>> {
    let (consistency, received, block_for) = (Consistency::Quorum, 1, 2);
    let failures = Failures::Count(1);
    let mut kinds = vec![
        ErrorKind::Server,
        ErrorKind::Protocol,
        ErrorKind::Authentication,
        ErrorKind::Unavailable { consistency, required: 2, alive: 1 },
        ErrorKind::Overloaded,
        ErrorKind::Bootstrapping,
        ErrorKind::Truncate,
        ErrorKind::ReadTimeout { consistency, received, block_for, data_present: true },
        ErrorKind::ReadFailure { consistency, received, block_for, failures, data_present: false },
        ErrorKind::WriteFailure { consistency, received, block_for, failures, write_type: WriteType::Counter },
        ErrorKind::CdcWriteFailure,
        ErrorKind::CasWriteUnknown { consistency, received, block_for },
        ErrorKind::Syntax,
        ErrorKind::Unauthorized,
        ErrorKind::Invalid,
        ErrorKind::Config,
        ErrorKind::AlreadyExists { keyspace: "ks", table: "t" },
        ErrorKind::Unprepared { id: b"0123456789abcdef" },
        ErrorKind::Other { code: 0x7777, body: b"rest" },
    ];
    kinds.extend(["SIMPLE", "BATCH", "UNLOGGED_BATCH", "COUNTER", "BATCH_LOG", "CAS", "VIEW", "CDC", "NEW"].map(
        |name| {
            let contentions = (name == "CAS").then_some(3);
            let write_type = WriteType::from_name(name);
            ErrorKind::WriteTimeout { consistency, received, block_for, write_type, contentions }
        },
    ));
    kinds
}

fn errors(version: Version) -> Vec<BytesMut> {
    let error = |kind| sample(Opcode::Error, version, |out| ServerError::new(kind, "why").put(out, version));
    error_kinds().into_iter().map(error).collect()
}

fn responses(version: Version) -> Vec<BytesMut> {
    let response = |response: Response<'_>| sample(response.opcode(), version, |out| response.put(out, version));
    let schema = SchemaChange { change: "CREATED", keyspace: "ks", object: SchemaObject::Table("t") };
    let (v4, v6) = (([127, 0, 0, 1].into(), 9042), (std::net::Ipv6Addr::LOCALHOST.into(), 9042));
    vec![
        response(Response::Ready),
        response(Response::Authenticate("org.apache.cassandra.auth.PasswordAuthenticator")),
        sample(Opcode::Supported, version, |out| put_supported(out, &[("COMPRESSION", &["lz4", "snappy"])])),
        response(Response::Event(Event::Topology("NEW_NODE", v4))),
        response(Response::Event(Event::Status("DOWN", v6))),
        response(Response::Event(Event::Schema(schema))),
        response(Response::AuthChallenge(Token(None))),
        response(Response::AuthSuccess(Token(Some(b"done")))),
        response(Response::Result(Outcome::Void)),
        response(Response::Result(Outcome::SetKeyspace("ks"))),
        response(Response::Result(Outcome::SchemaChange(schema))),
        sample(Opcode::Result, version, |out| rows(out, version)),
        sample(Opcode::Result, version, |out| prepared(out, version)),
    ]
}

/// Types of every form.
pub fn types() -> Vec<Type> {
    let native = |native| Box::new(Type::Native(native));
    let udt = Type::Udt {
        keyspace: "ks".to_owned(),
        name: "address".to_owned(),
        fields: vec![("street".to_owned(), *native(Native::Varchar)), ("no".to_owned(), *native(Native::Int))],
    };
    let mut types: Vec<Type> = Native::ALL.iter().map(|native| Type::Native(*native)).collect();
    types.extend([
        Type::Custom("com.example.Strange".to_owned()),
        Type::List(native(Native::Int)),
        Type::Set(native(Native::Varchar)),
        Type::Map(native(Native::Varchar), Box::new(Type::List(native(Native::Date)))),
        Type::Tuple(vec![*native(Native::Int), *native(Native::Duration)]),
        Type::List(Box::new(udt.clone())),
        udt,
        Type::Vector(native(Native::Float), 2),
        Type::Vector(native(Native::Varchar), 2),
    ]);
    types
}

fn rows(out: &mut BytesMut, version: Version) -> Result<(), Error> {
    let types = types();
    let columns: Vec<_> = types.iter().map(|kind| ("column", kind)).collect();
    let mut described = BytesMut::new();
    put_metadata(&mut described, version, ("ks", "t"), &columns)?;
    let mut metadata = Metadata::parse(version, &described)?;
    metadata.paging_state = Some(b"next");
    metadata.new_id = (version >= Version::V5).then_some(b"new id");
    let row = vec![Some(&[0, 0, 0, 1][..]); columns.len()];
    put_rows(out, version, &metadata, [&row[..], &vec![None; columns.len()]])
}

fn prepared(out: &mut BytesMut, version: Version) -> Result<(), Error> {
    out.extend_from_slice(&4_i32.to_be_bytes());
    put_short_bytes(out, b"0123456789abcdef", "prepared id")?;
    if version >= Version::V5 {
        put_short_bytes(out, b"meta", "result metadata id")?;
    }
    let int = Type::Native(Native::Int);
    let mut markers = BytesMut::new();
    put_metadata(&mut markers, version, ("ks", "t"), &[("a", &int), ("b", &int)])?;
    let (counts, columns) = markers.split_at(8);
    out.extend_from_slice(counts);
    if version >= Version::V4 {
        out.extend_from_slice(&[0, 0, 0, 2, 0, 1, 0, 0]);
    }
    out.extend_from_slice(columns);
    out.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0]);
    Ok(())
}
