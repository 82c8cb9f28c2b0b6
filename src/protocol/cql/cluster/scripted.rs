//! Nodes that follow a script: as much of a cluster as tandem looks at, and what a real one does only when it is ill.

use std::collections::BTreeMap;
use std::future::pending;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::{Address, Cluster, Settings};
use crate::protocol::cql::wire::frame::{self, Envelope, From};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request;
use crate::protocol::cql::wire::response::{
    ErrorKind, Metadata, Outcome, Response, ServerError, put_metadata, put_rows, put_supported,
};
use crate::protocol::cql::wire::types::{Native, Type};
use crate::protocol::cql::wire::{Opcode, Version};
use crate::record::Side;

const LIMIT: usize = 1 << 20;
const VERSION: Version = Version::V4;
/// What paused time goes on by, in a millisecond that passes.
const STEP: Duration = Duration::from_millis(20);

/// A cluster of them. What one says of another is what that one would say.
#[derive(Clone)]
pub(in crate::protocol::cql) struct Scripted(Arc<Vec<Node>>);

struct Node {
    address: Address,
    script: Mutex<Script>,
}

/// What a node does.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol::cql) struct Script {
    /// It takes connections, and answers nothing.
    pub hangs: bool,
    /// It hangs up on whoever comes.
    pub is_closed: bool,
    /// Where it is.
    pub datacenter: &'static str,
    /// Tables of the keyspace `k` and their columns, all of type int: the first is the key.
    pub tables: BTreeMap<&'static str, Vec<&'static str>>,
    /// Too few replicas are there for it.
    pub lacks: Option<Consistency>,
    /// What it was asked to execute beside what tandem looks at, a batch as one, and at which levels.
    pub done: Vec<String>,
    pub levels: Vec<Consistency>,
}

/// In a test whose time is paused: it goes on, twenty times as fast as outside, so that what comes over sockets comes in time.
pub(in crate::protocol::cql) fn hurry() {
    tokio::spawn(async {
        loop {
            sleep(STEP).await;
            thread::sleep(Duration::from_millis(1));
        }
    });
}

impl Scripted {
    /// So many nodes with these tables.
    pub(in crate::protocol::cql) async fn start(nodes: usize, tables: &[(&'static str, &[&'static str])]) -> Scripted {
        let tables = tables.iter().map(|(name, columns)| (*name, columns.to_vec())).collect();
        let script = Script { tables, datacenter: "dc1", ..Script::default() };
        let (mut all, mut listeners) = (Vec::new(), Vec::new());
        for _ in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let address = Address { host: "127.0.0.1".to_owned(), port };
            all.push(Node { address, script: Mutex::new(script.clone()) });
            listeners.push(listener);
        }
        let all = Scripted(Arc::new(all));
        for (number, listener) in listeners.into_iter().enumerate() {
            let all = all.clone();
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    if all.node(number).is_closed {
                        continue;
                    }
                    tokio::spawn(all.clone().serve(number, socket));
                }
            });
        }
        all
    }

    /// Tandem's view of them, by way of the first.
    pub(in crate::protocol::cql) async fn enter(&self, settings: Settings, side: Side) -> Cluster {
        Cluster::enter(&[self.address(0)], None, settings, side).await.expect("it can be reached")
    }

    pub(in crate::protocol::cql) fn address(&self, node: usize) -> Address {
        self.0[node].address.clone()
    }

    pub(in crate::protocol::cql) fn node(&self, node: usize) -> MutexGuard<'_, Script> {
        self.0[node].script.lock().expect("nobody panicked")
    }

    /// On all nodes.
    pub(in crate::protocol::cql) fn change(&self, change: impl Fn(&mut Script)) {
        (0..self.0.len()).for_each(|node| change(&mut self.node(node)));
    }

    async fn serve(self, me: usize, mut socket: TcpStream) {
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        loop {
            while let Some((header, frame)) = frame::take(&mut input, From::Client, LIMIT).expect("a request") {
                if self.node(me).hangs {
                    pending::<()>().await;
                }
                let (opcode, message) = self.answer(me, header.version, header.opcode, &frame[frame::HEADER..]);
                let envelope = Envelope::new(VERSION, header.stream, opcode);
                let put = |out: &mut BytesMut| {
                    out.extend_from_slice(&message);
                    Ok(())
                };
                envelope.put(&mut out, put).expect("short");
            }
            // Whoever asked may be gone.
            if socket.write_all_buf(&mut out).await.is_err() || !matches!(socket.read_buf(&mut input).await, Ok(1..)) {
                return;
            }
        }
    }

    fn answer(&self, me: usize, version: Version, opcode: Opcode, message: &[u8]) -> (Opcode, BytesMut) {
        let refusal = |kind| said(Response::Error(ServerError::new(kind, "no")));
        match opcode {
            _ if version != VERSION => refusal(ErrorKind::Protocol),
            Opcode::Startup | Opcode::Register => said(Response::Ready),
            Opcode::Options => {
                let mut out = BytesMut::new();
                put_supported(&mut out, &[("CQL_VERSION", &["3.4.6"]), ("PROTOCOL_VERSIONS", &["4/v4"])]).expect("put");
                (Opcode::Supported, out)
            }
            Opcode::Query => {
                let text = std::str::from_utf8(request::text(message).expect("a text")).expect("UTF-8");
                // Behind the text and its length.
                let level = message[4 + text.len()..].first_chunk().map(|code| u16::from_be_bytes(*code));
                if let Some(consistency) = self.node(me).lacks.filter(|lacks| level == Some(lacks.code())) {
                    return refusal(ErrorKind::Unavailable { consistency, required: 2, alive: 1 });
                }
                self.query(me, text).map_or_else(
                    || {
                        let level = level.and_then(Consistency::from_code).expect("a level");
                        self.done(me, text.to_owned(), level)
                    },
                    |rows| (Opcode::Result, rows),
                )
            }
            Opcode::Batch => {
                let batch = request::Batch::parse(VERSION, message).expect("a batch");
                let text = |statement: request::Statement<'_>| match statement.text {
                    request::StatementText::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    request::StatementText::Prepared(_) => panic!("nothing is prepared here"),
                };
                let texts: Vec<String> = batch.statements.iter().map(text).collect();
                self.done(me, texts.join("; "), batch.parameters.consistency)
            }
            _ => refusal(ErrorKind::Invalid),
        }
    }

    fn done(&self, me: usize, text: String, level: Consistency) -> (Opcode, BytesMut) {
        let mut node = self.node(me);
        node.done.push(text);
        node.levels.push(level);
        said(Response::Result(Outcome::Void))
    }

    fn query(&self, me: usize, text: &str) -> Option<BytesMut> {
        let tables = self.node(me).tables.clone();
        let columns = || tables.iter().flat_map(|(name, columns)| columns.iter().map(move |column| (name, column)));
        let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        let rows = match text {
            "SELECT * FROM system.local" => rows(&LOCAL, vec![self.local(me)]),
            "SELECT * FROM system.peers_v2" => {
                let others = (0..self.0.len()).filter(|node| *node != me);
                rows(&PEERS, others.map(|node| self.peer(node)).collect())
            }
            "SELECT schema_version FROM system.local" => rows(&["schema_version"], vec![vec![self.schema(me)]]),
            _ if text.contains("FROM system_schema.tables") => {
                let table = |name: &str| {
                    let mut row = words(&["k", name]);
                    row.extend([id(7), 864_000_i32.to_be_bytes().to_vec(), vec![0; 4]]);
                    row
                };
                rows(&TABLES, tables.keys().map(|name| table(name)).collect())
            }
            _ if text.contains("FROM system_schema.columns") => {
                let column = |(table, name): (&&str, &&str)| {
                    let kind = if tables[*table][0] == *name { "partition_key" } else { "regular" };
                    let mut row = words(&["k", table, name, kind]);
                    row.extend([vec![0; 4], b"int".to_vec()]);
                    row
                };
                rows(&COLUMNS, columns().map(column).collect())
            }
            // What is not told: clocks, settings, when columns were dropped.
            _ if text.starts_with("SELECT") => rows(&["value"], Vec::new()),
            _ => return None,
        };
        Some(rows)
    }

    fn local(&self, node: usize) -> Vec<Vec<u8>> {
        let datacenter = self.node(node).datacenter;
        let told = ["one", datacenter, "rack1", "org.apache.cassandra.dht.Murmur3Partitioner", "4.1.9", "3.4.6"];
        let told = told.iter().map(|text| text.as_bytes().to_vec());
        [self.host_id(node), self.schema(node)].into_iter().chain(told).collect()
    }

    fn peer(&self, node: usize) -> Vec<Vec<u8>> {
        let (address, port) = (vec![127, 0, 0, 1], i32::from(self.0[node].address.port).to_be_bytes().to_vec());
        let datacenter = self.node(node).datacenter.as_bytes().to_vec();
        vec![self.host_id(node), self.schema(node), datacenter, b"4.1.9".to_vec(), address.clone(), address, port]
    }

    /// No node of another cluster has it.
    fn host_id(&self, node: usize) -> Vec<u8> {
        let port = self.0[node].address.port.to_be_bytes();
        [vec![0; 14], port.to_vec()].concat()
    }

    /// Nodes with the same tables say the same.
    fn schema(&self, node: usize) -> Vec<u8> {
        let mut hasher = DefaultHasher::new();
        self.node(node).tables.hash(&mut hasher);
        [[0; 8], hasher.finish().to_be_bytes()].concat()
    }
}

const LOCAL: [&str; 8] = [
    "host_id",
    "schema_version",
    "cluster_name",
    "data_center",
    "rack",
    "partitioner",
    "release_version",
    "cql_version",
];
const PEERS: [&str; 7] =
    ["host_id", "schema_version", "data_center", "release_version", "peer", "native_address", "native_port"];
const TABLES: [&str; 5] = ["keyspace_name", "table_name", "id", "gc_grace_seconds", "default_time_to_live"];
const COLUMNS: [&str; 6] = ["keyspace_name", "table_name", "column_name", "kind", "position", "type"];

fn id(number: usize) -> Vec<u8> {
    vec![u8::try_from(number).expect("few"); 16]
}

fn said(response: Response<'_>) -> (Opcode, BytesMut) {
    let mut out = BytesMut::new();
    response.put(&mut out, VERSION).expect("put");
    (response.opcode(), out)
}

fn rows(columns: &[&str], rows: Vec<Vec<Vec<u8>>>) -> BytesMut {
    let (blob, mut metadata, mut out) = (Type::Native(Native::Blob), BytesMut::new(), BytesMut::new());
    let columns: Vec<(&str, &Type)> = columns.iter().map(|name| (*name, &blob)).collect();
    put_metadata(&mut metadata, VERSION, ("system", "table"), &columns).expect("short");
    let metadata = Metadata::parse(VERSION, &metadata).expect("just put");
    let rows: Vec<Vec<Option<&[u8]>>> =
        rows.iter().map(|row| row.iter().map(|cell| Some(cell.as_slice())).collect()).collect();
    put_rows(&mut out, VERSION, &metadata, rows.iter().map(Vec::as_slice)).expect("short");
    out
}
