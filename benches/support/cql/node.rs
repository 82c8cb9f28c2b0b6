//! A node that has one table, forgets what is written to it, and answers at once: what is measured through it is what is in
//! between. It says of itself what proxies and drivers ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::BytesMut;
use tandem::protocol::cql::wire::Error;
use tandem::protocol::cql::wire::frame::{Envelope, Frame, Frames, From, Opcode, Version, restamp};
use tandem::protocol::cql::wire::request::{prepared_id, text};
use tandem::protocol::cql::wire::response::{
    Metadata, Outcome, OwnPrepared, Response, put_metadata, put_prepared, put_rows, put_supported,
};
use tandem::protocol::cql::wire::types::{Native, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use super::{LIMIT, Line, READ, VALUE_BYTES};

/// Of prepared statements; their first byte says what they do.
const READS: [u8; 16] = *b"reads.the.table.";
const WRITES: [u8; 16] = *b"writes.its.rows.";
const LOCALHOST: &[u8] = &[127, 0, 0, 1];

/// A node, on a thread of its own.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl Node {
    /// It listens.
    pub(crate) fn start(name: &str, release: &str) -> Result<Node> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let script = Arc::new(Script::new(name, release)?);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, script.clone()));
            }
        });
        Ok(Node { address, _runtime: runtime })
    }
}

/// Whoever hangs up ends it.
async fn serve(client: TcpStream, script: Arc<Script>) -> Result<()> {
    let mut line = Line::new(client, From::Client)?;
    line.shrink();
    let mut frames = BytesMut::new();
    while line.receive(&mut frames).await? {
        let mut started = None;
        for frame in Frames::new(&frames, From::Client, LIMIT) {
            let frame = frame.map_err(|refused| refused.error)?;
            let mut answer = script.answer(frame)?;
            restamp(&mut answer, frame.header.stream);
            line.push(&answer);
            if frame.header.opcode == Opcode::Startup {
                started = Some(frame.header.version);
            }
        }
        line.flush().await?;
        if let Some(version) = started {
            line.agree(version);
        }
        if frames.len() < 1_024 {
            // One of thousands that say a word now and then.
            line.shrink();
        }
    }
    Ok(())
}

type Cell = Option<Vec<u8>>;

/// What it says. Answers that are asked for again and again are there in each version.
struct Script {
    local: Vec<(&'static str, Native, Cell)>,
    void: Vec<BytesMut>,
    row: Vec<BytesMut>,
}

impl Script {
    fn new(name: &str, release: &str) -> Result<Script> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let id = Some(name.bytes().chain(*b"0123456789abcdef").take(16).collect::<Vec<u8>>());
        // A set of one token.
        let tokens = [&1_i32.to_be_bytes()[..], &1_i32.to_be_bytes(), b"0"].concat();
        let local = vec![
            ("key", Native::Varchar, text("local")),
            ("broadcast_address", Native::Inet, Some(LOCALHOST.to_vec())),
            ("cluster_name", Native::Varchar, text(name)),
            ("cql_version", Native::Varchar, text("3.4.6")),
            ("data_center", Native::Varchar, text("datacenter1")),
            ("host_id", Native::Uuid, id.clone()),
            ("listen_address", Native::Inet, Some(LOCALHOST.to_vec())),
            ("native_protocol_version", Native::Varchar, text("5")),
            ("partitioner", Native::Varchar, text("org.apache.cassandra.dht.Murmur3Partitioner")),
            ("rack", Native::Varchar, text("rack1")),
            ("release_version", Native::Varchar, text(release)),
            ("rpc_address", Native::Inet, Some(LOCALHOST.to_vec())),
            ("schema_version", Native::Uuid, id),
            ("tokens", Native::Varchar, Some(tokens)),
        ];
        let kept = [
            ("k", Native::Bigint, Some(1_i64.to_be_bytes().to_vec())),
            ("v", Native::Varchar, Some(vec![b'v'; VALUE_BYTES])),
        ];
        let row = |version: &Version| rows(*version, "kept", &[&kept]);
        Ok(Script {
            local,
            void: Version::ALL.iter().map(void).collect::<Result<_, _>>()?,
            row: Version::ALL.iter().map(row).collect::<Result<_, _>>()?,
        })
    }

    fn answer(&self, frame: Frame<'_>) -> Result<BytesMut, Error> {
        let version = frame.header.version;
        let message = Envelope::open(frame.header, frame.body())?.message;
        match frame.header.opcode {
            Opcode::Options => put(version, Opcode::Supported, |out| {
                let versions = &["3/v3", "4/v4", "5/v5"];
                put_supported(
                    out,
                    &[("PROTOCOL_VERSIONS", versions), ("COMPRESSION", &[]), ("CQL_VERSION", &["3.4.6"])],
                )
            }),
            Opcode::Prepare => prepared(version, text(message)? == READ.as_bytes()),
            Opcode::Execute if prepared_id(message)? == READS => Ok(of(&self.row, version)),
            Opcode::Query => self.query(version, &String::from_utf8_lossy(text(message)?)),
            Opcode::Execute | Opcode::Batch => Ok(of(&self.void, version)),
            _ => put(version, Opcode::Ready, |_| Ok(())),
        }
    }

    fn query(&self, version: Version, text: &str) -> Result<BytesMut, Error> {
        match text {
            _ if text.contains("now()") => {
                rows(version, "local", &[&[("now", Native::Timeuuid, Some(now().to_vec()))]])
            }
            _ if text.contains("system.local") => rows(version, "local", &[&self.local]),
            _ if text.contains("system_schema.tables") => rows(version, "tables", &[&table()]),
            _ if text.contains("system_schema.columns") => {
                let [k, v] = [("k", "partition_key", 0, "bigint"), ("v", "regular", -1, "text")].map(column);
                rows(version, "columns", &[&k, &v])
            }
            _ if text.contains("system") => rows(version, "nothing", &[]),
            _ if text.starts_with("SELECT") => Ok(of(&self.row, version)),
            _ => Ok(of(&self.void, version)),
        }
    }
}

fn of(answers: &[BytesMut], version: Version) -> BytesMut {
    let place = Version::ALL.iter().position(|known| *known == version);
    place.and_then(|place| answers.get(place).cloned()).unwrap_or_default()
}

fn put(
    version: Version,
    opcode: Opcode,
    message: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
) -> Result<BytesMut, Error> {
    let mut out = BytesMut::new();
    Envelope::new(version, 0, opcode).put(&mut out, message)?;
    Ok(out)
}

fn void(version: &Version) -> Result<BytesMut, Error> {
    let void = Response::Result(Outcome::Void);
    put(*version, Opcode::Result, |out| void.put(out, *version))
}

/// Rows with the same columns, which the first tells; of none, a column of which there is no row.
fn rows(version: Version, table: &str, rows: &[&[(&str, Native, Cell)]]) -> Result<BytesMut, Error> {
    let nothing = [("nothing", Native::Int, None)];
    let first = rows.first().copied().unwrap_or(&nothing);
    let types: Vec<(&str, Type)> = first.iter().map(|(name, native, _)| (*name, kind(name, *native))).collect();
    let columns: Vec<(&str, &Type)> = types.iter().map(|(name, kind)| (*name, kind)).collect();
    let mut metadata = BytesMut::new();
    put_metadata(&mut metadata, version, ("system", table), &columns)?;
    let metadata = Metadata::parse(version, &metadata)?;
    let cells: Vec<Vec<Option<&[u8]>>> =
        rows.iter().map(|row| row.iter().map(|(_, _, cell)| cell.as_deref()).collect()).collect();
    put(version, Opcode::Result, |out| put_rows(out, version, &metadata, cells.iter().map(Vec::as_slice)))
}

fn kind(name: &str, native: Native) -> Type {
    if name == "tokens" { Type::Set(Box::new(Type::Native(native))) } else { Type::Native(native) }
}

fn prepared(version: Version, reads: bool) -> Result<BytesMut, Error> {
    let (k, v) = (Type::Native(Native::Bigint), Type::Native(Native::Varchar));
    let columns = [("k", &k), ("v", &v)];
    let table = ("bench", "kept");
    let mut metadata = BytesMut::new();
    put_metadata(&mut metadata, version, table, &columns)?;
    let result = if reads { Metadata::parse(version, &metadata)? } else { Metadata::none(version) };
    let own = OwnPrepared {
        id: if reads { &READS } else { &WRITES },
        result_metadata_id: &[0; 16],
        pk_indexes: &[0],
        table,
        markers: if reads { &columns[..1] } else { &columns },
    };
    put(version, Opcode::Result, |out| put_prepared(out, version, &own, &result))
}

fn table() -> Vec<(&'static str, Native, Cell)> {
    vec![
        ("keyspace_name", Native::Varchar, Some(b"bench".to_vec())),
        ("table_name", Native::Varchar, Some(b"kept".to_vec())),
        ("id", Native::Uuid, Some(vec![7; 16])),
        ("gc_grace_seconds", Native::Int, Some(864_000_i32.to_be_bytes().to_vec())),
        ("default_time_to_live", Native::Int, Some(0_i32.to_be_bytes().to_vec())),
    ]
}

fn column((name, role, position, cql_type): (&str, &str, i32, &str)) -> Vec<(&'static str, Native, Cell)> {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    vec![
        ("keyspace_name", Native::Varchar, text("bench")),
        ("table_name", Native::Varchar, text("kept")),
        ("column_name", Native::Varchar, text(name)),
        ("kind", Native::Varchar, text(role)),
        ("position", Native::Int, Some(position.to_be_bytes().to_vec())),
        ("type", Native::Varchar, text(cql_type)),
    ]
}

/// A time UUID of this millisecond. Source: RFC 9562, section 5.1.
fn now() -> [u8; 16] {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ticks = 0x01B2_1DD2_1381_4000 + since.as_millis() as u64 * 10_000;
    let mut uuid = [0; 16];
    uuid[..4].copy_from_slice(&(ticks as u32).to_be_bytes());
    uuid[4..6].copy_from_slice(&((ticks >> 32) as u16).to_be_bytes());
    uuid[6..8].copy_from_slice(&((ticks >> 48) as u16 | 0x1000).to_be_bytes());
    uuid[8] = 0x80;
    uuid
}
