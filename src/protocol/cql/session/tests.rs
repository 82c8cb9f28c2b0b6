//! What a session forwards, writes down and holds back, frame by frame.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::policy::Policy;
use super::writes::{CLOCK_LOOK, CLOCK_WAIT, FULL_WAIT};
use super::*;
use crate::config::{Config, Live};
use crate::cutover::gate::{Gate, Route};
use crate::journal::storage::MemoryDisk;
use crate::journal::{Entry, Journal, Lsn};
use crate::protocol::cql::ballot::{Question, Unread};
use crate::protocol::cql::look::Decided;
use crate::protocol::cql::place::{Place, hash_of};
use crate::protocol::cql::shadow::Watch;
use crate::protocol::cql::stamps::{Stamps, now_micros};
use crate::protocol::cql::tables::{Table, Tables};
use crate::protocol::cql::text::generate::TimeUuids;
use crate::protocol::cql::text::schema::{self, Column};
use crate::protocol::cql::text::volatile::Dialect;
use crate::protocol::cql::topology::{Facts, Identity, Supported};
use crate::protocol::cql::wire::compress::Compression;
use crate::protocol::cql::wire::frame::Frames;
use crate::protocol::cql::wire::primitive::{Reader, Value, put_short_bytes, put_string_list};
use crate::protocol::cql::wire::request::{
    self, Batch, BatchKind, Bound, Execute, Parameters, Prepare, Query, Request, StatementText, Values,
};
use crate::protocol::cql::wire::response::{self, ErrorKind, Response, ServerError, WriteType, put_metadata};
use crate::protocol::cql::wire::{Envelope, Opcode, Version};
use crate::protocol::cql::write::Write;
use crate::record::{Item, Order, Record, TableId};
use shared::{Grounds, Parts};

mod shadowed;

struct Rig {
    shared: Arc<Shared>,
    session: Session,
    version: Version,
    /// What the client sent and the session did not take.
    kept: BytesMut,
    ballots: Ballots,
}

fn column(name: &str, kind: &str, position: i32, cql_type: &str) -> Column {
    Column::described(name, kind, position, cql_type)
}

fn tables() -> Tables {
    let table =
        |name: &str, gc_grace, columns| Table::new(schema::Table::new("shop", name, columns), [7; 16], gc_grace, 0);
    let key = || column("k", "partition_key", 0, "int");
    let plain = vec![key(), column("v", "regular", -1, "text"), column("u", "regular", -1, "timeuuid")];
    let wide = vec![key(), column("c", "clustering", 0, "int"), column("l", "regular", -1, "list<text>")];
    let counts = vec![key(), column("n", "regular", -1, "counter")];
    let gone = vec![key(), column("v", "regular", -1, "text")];
    let ids = vec![column("id", "partition_key", 0, "uuid"), column("v", "regular", -1, "text")];
    let times = vec![column("at", "partition_key", 0, "timestamp"), column("v", "regular", -1, "text")];
    let elsewhere = schema::Table::new("other", "t", gone.clone());
    Tables::new(
        [0; 16],
        [
            table("t", 864_000, plain),
            table("wide", 864_000, wide),
            table("counts", 864_000, counts),
            table("gone", 0, gone),
            table("ids", 864_000, ids),
            table("times", 864_000, times),
            Table::new(elsewhere, [8; 16], 864_000, 0),
        ],
    )
}

/// Above what it is wanted, and who wants it.
type Ballots = Arc<Mutex<Vec<(i64, oneshot::Sender<Result<i64, Unread>>)>>>;

/// A cluster that never changes, whose clocks are ahead by so many microseconds, and which asks who clients are, or does not. It
/// says a ballot when the test does.
struct Still(Arc<Tables>, Ballots, i64, bool);

impl Grounds for Still {
    fn tables(&self) -> Arc<Tables> {
        self.0.clone()
    }

    fn refresh(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn dialect(&self) -> Dialect {
        Dialect::of_release("4.1.9")
    }

    fn asks_who(&self) -> bool {
        self.3
    }

    fn behind(&self) -> i64 {
        -self.2
    }

    fn ahead(&self) -> i64 {
        self.2
    }

    fn apart(&self) -> i64 {
        self.2
    }

    fn ballot(&self, question: Question) -> BoxFuture<'static, Result<i64, Unread>> {
        assert_eq!((question.table, &question.key[..]), ([7; 16], &[0, 0, 0, 4][..]));
        let (say, said) = oneshot::channel();
        self.1.lock().expect("no panic").push((question.above, say));
        Box::pin(async move { said.await.unwrap_or(Err(Unread::Absent)) })
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9042))
}

fn identity() -> Identity {
    let facts = Facts {
        cluster_name: "origin".to_owned(),
        data_center: "dc1".to_owned(),
        rack: "r1".to_owned(),
        partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
        release_version: "4.1.9".to_owned(),
        cql_version: "3.4.6".to_owned(),
        supported: Supported::default(),
        authenticator: None,
    };
    Identity::new(&facts, &facts, [9; 16], 0)
}

/// As configured by default.
fn live() -> Live {
    let text = "[[listen]]\nwire = \"cql\"\naddress = \"127.0.0.1:1\"\n\
                [origin]\nurl = \"cql://h:1\"\n[target]\nurl = \"cql://h:2\"\n";
    Live::new(&Config::from_text("proxy.toml", text, []).expect("valid"))
}

fn shared(journal: Option<Journal>, ballots: &Ballots, watch: impl FnOnce(&Gate) -> Watch) -> Arc<Shared> {
    shared_ahead(journal, ballots, watch, 0)
}

/// The origin's clocks are ahead by so many microseconds.
fn shared_ahead(
    journal: Option<Journal>,
    ballots: &Ballots,
    watch: impl FnOnce(&Gate) -> Watch,
    ahead: i64,
) -> Arc<Shared> {
    let gate = Gate::new(Route { primary: Side::Origin, mirror: journal.is_some(), epoch: 1 });
    let still = |ahead, asks| Box::new(Still(Arc::new(tables()), ballots.clone(), ahead, asks)) as Box<dyn Grounds>;
    Arc::new(Shared::new(Parts {
        watch: watch(&gate),
        gate,
        journal,
        sync: None,
        sides: [still(ahead, true), still(0, false)],
        identity: identity(),
        stamps: Stamps::above(0),
        timeuuids: TimeUuids::new([1; 6], 1),
        statements_max: 100,
        policy: Policy::new(live()),
        lost: Arc::new(|_, _| {}),
        frame_bytes_max: 1 << 20,
        answer_timeout: Duration::from_secs(10),
        barriers: Barriers::default(),
    }))
}

/// A session whose writes nobody mirrors. Chance may choose its reads, and will not.
pub(in crate::protocol::cql) fn passthrough(framing: Framing) -> Session {
    gated(framing).0
}

/// A session whose writes go to this journal.
pub(in crate::protocol::cql) fn mirrored(framing: Framing, journal: Journal) -> Session {
    let mut session = Rig::over(journal, framing.version, framing.compression).session;
    session.keyspace = Some(Arc::from("shop"));
    session
}

/// The same with its gate.
pub(in crate::protocol::cql) fn gated(framing: Framing) -> (Session, Gate) {
    let watch = |gate: &Gate| shadowed::watch(&shadowed::board("0.000001%", gate, |_| {}));
    let shared = shared(None, &Ballots::default(), watch);
    let gate = shared.gate.clone();
    (Session::new(shared, framing, Side::Origin, address()), gate)
}

impl Rig {
    fn new(version: Version, compression: Option<Compression>) -> Rig {
        Rig::over(Journal::in_memory(), version, compression)
    }

    fn over(journal: Journal, version: Version, compression: Option<Compression>) -> Rig {
        let ballots = Ballots::default();
        Rig::with(shared(Some(journal), &ballots, |_| Watch::off()), ballots, Framing { version, compression })
    }

    fn with(shared: Arc<Shared>, ballots: Ballots, framing: Framing) -> Rig {
        let version = framing.version;
        let mut session = Session::new(shared.clone(), framing, Side::Origin, address());
        session.keyspace = Some(Arc::from("shop"));
        Rig { shared, session, version, kept: BytesMut::new(), ballots }
    }

    /// The ballot that was asked for last. Above what it was wanted.
    async fn ballot(&mut self, ballot: Result<i64, Unread>) -> i64 {
        tokio::task::yield_now().await;
        let (above, say) = self.ballots.lock().expect("no panic").pop().expect("one was asked for");
        say.send(ballot).expect("somebody waits");
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.wait();
        above
    }

    fn frame(&self, stream: i16, request: &Request<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        let envelope = Envelope::new(self.version, stream, request.opcode());
        envelope.put(&mut out, |out| request.put(out, self.version)).expect("short");
        out
    }

    /// As the peer's writer would send it.
    fn wrap(&self, frame: &[u8]) -> BytesMut {
        let mut out = Outbound::bare();
        out.agree(self.session.framing);
        out.push(frame);
        out.ready().split()
    }

    fn ask(&mut self, stream: i16, request: &Request<'_>) {
        let frame = self.frame(stream, request);
        self.send(&frame);
    }

    fn send(&mut self, frame: &[u8]) {
        let bytes = self.wrap(frame);
        self.kept.extend_from_slice(&bytes);
        self.go_on();
    }

    fn go_on(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        self.session.client_sent(&mut kept).expect("goes on");
        self.kept = kept;
    }

    fn reply(&mut self, stream: i16, response: &Response<'_>) {
        let mut frame = BytesMut::new();
        response.put_frame(&mut frame, self.version, stream).expect("short");
        let mut bytes = self.wrap(&frame);
        self.session.server_sent(&mut bytes).expect("goes on");
        self.wait();
    }

    /// For what comes at once.
    fn wait(&mut self) {
        let _ = poll_fn(|cx| self.session.poll(cx)).now_or_never();
        self.go_on();
    }

    fn query(&mut self, stream: i16, text: &str) {
        let parameters = Parameters::new(Consistency::LocalQuorum);
        self.ask(stream, &Request::Query(Query { text: text.as_bytes(), parameters }));
    }

    fn void(&mut self, stream: i16) {
        self.reply(stream, &Response::Result(response::Outcome::Void));
    }

    /// Prepare a text, as the server answers it.
    fn prepare(&mut self, id: &[u8], text: &str) {
        self.ask(1, &Request::Prepare(Prepare { text: text.as_bytes(), keyspace: None }));
        self.sent();
        let mut metadata = BytesMut::new();
        put_metadata(&mut metadata, Version::V4, ("shop", "t"), &[]).expect("short");
        let mut message = BytesMut::new();
        message.extend_from_slice(&4_i32.to_be_bytes());
        put_short_bytes(&mut message, id, "id").expect("short");
        if self.version >= Version::V5 {
            put_short_bytes(&mut message, b"m", "id").expect("short");
        }
        message.extend_from_slice(&[0; 8]);
        if self.version >= Version::V4 {
            message.extend_from_slice(&[0; 4]);
        }
        message.extend_from_slice(&4_i32.to_be_bytes());
        message.extend_from_slice(&0_i32.to_be_bytes());
        let mut frame = BytesMut::new();
        let put = |out: &mut BytesMut| {
            out.extend_from_slice(&message);
            Ok(())
        };
        Envelope::new(self.version, 1, Opcode::Result).put(&mut frame, put).expect("short");
        let mut bytes = self.wrap(&frame);
        self.session.server_sent(&mut bytes).expect("goes on");
        self.told();
    }

    fn execute(&mut self, stream: i16, id: &[u8], values: &[Bound<'_>]) {
        let parameters = Parameters { values: Some(Values::Given(values)), ..Parameters::new(Consistency::One) };
        let result_metadata_id = (self.version >= Version::V5).then_some(&b"m"[..]);
        self.ask(stream, &Request::Execute(Execute { id, result_metadata_id, parameters }));
    }

    fn batch(&mut self, stream: i16, kind: BatchKind, members: &[StatementText<'_>]) {
        let values = Values::Given(&[]);
        let members: Vec<_> = members.iter().map(|text| request::Statement { text: *text, values }).collect();
        let parameters = Parameters::new(Consistency::LocalQuorum);
        let mut message = BytesMut::new();
        request::put_batch(&mut message, self.version, kind, &members, &parameters).expect("short");
        self.ask(stream, &Request::Batch(Batch::parse(self.version, &message).expect("a batch")));
    }

    /// The values of the first write in the journal.
    fn values(&self) -> Vec<(Option<String>, Option<Vec<u8>>)> {
        let journal = self.shared.journal.as_ref().expect("mirroring");
        let (entries, _) = journal.read(Lsn::default(), 1 << 20).now_or_never().expect("in memory").expect("whole");
        let Entry::Record { payload, .. } = &entries[0] else { panic!("no record") };
        let record = Record::parse(payload.clone()).expect("a record");
        let Some(Item::Write { body, .. }) = record.items().next() else { panic!("no write") };
        let write = Write::parse(body).expect("a write");
        let owned = |(name, value): Bound<'_>| match value {
            Value::Set(bytes) => (name.map(str::to_owned), Some(bytes.to_vec())),
            Value::Null | Value::Unset => (name.map(str::to_owned), None),
        };
        write.batch.statements.iter().next().expect("one").values.iter().map(owned).collect()
    }

    /// The frames that the server got.
    fn sent(&mut self) -> Vec<BytesMut> {
        let bytes = self.session.to_server.ready().split();
        self.unwrap(bytes, Sender::Client)
    }

    /// The frames that the client got.
    fn told(&mut self) -> Vec<BytesMut> {
        let bytes = self.session.to_client.ready().split();
        self.unwrap(bytes, Sender::Server)
    }

    fn unwrap(&self, mut bytes: BytesMut, from: Sender) -> Vec<BytesMut> {
        let mut inbound = Inbound::bare(from, 1 << 20);
        inbound.agree(self.session.framing);
        let mut frames = Vec::new();
        let all = inbound.offer(&mut bytes, |frame| {
            frames.push(BytesMut::from(frame.bytes));
            Ok::<_, HeaderError>(Next::More)
        });
        assert!(all.expect("well-formed") && bytes.is_empty());
        frames
    }

    /// The timestamps of the writes in the journal.
    fn stamps(&self) -> Vec<Option<i64>> {
        self.writes(|write| write.batch.parameters.timestamp)
    }

    /// With what the places in the journal were written, of each record.
    fn newest(&self) -> Vec<i64> {
        let journal = self.shared.journal.as_ref().expect("mirroring");
        let (entries, _) = journal.read(Lsn::default(), 1 << 20).now_or_never().expect("in memory").expect("whole");
        let stamp = |entry| {
            let Entry::Record { payload, .. } = entry else { return None };
            Record::parse(payload).expect("a record").items().find_map(|item| match item {
                Item::Stamp(stamp) => Some(stamp),
                _ => None,
            })
        };
        entries.into_iter().filter_map(stamp).collect()
    }

    /// Something of each write in the journal.
    fn writes<T>(&self, of: impl Fn(&Write<'_>) -> T) -> Vec<T> {
        let journal = self.shared.journal.as_ref().expect("mirroring");
        let (entries, _) = journal.read(Lsn::default(), 1 << 20).now_or_never().expect("in memory").expect("whole");
        let mut found = Vec::new();
        for entry in entries {
            let Entry::Record { payload, .. } = entry else { continue };
            for item in Record::parse(payload).expect("a record").items() {
                let Item::Write { body, .. } = item else { continue };
                found.push(of(&Write::parse(body).expect("a write")));
            }
        }
        found
    }

    /// What the journal holds, in words.
    fn journal(&self) -> Vec<String> {
        let journal = self.shared.journal.as_ref().expect("mirroring");
        let (entries, _) = journal.read(Lsn::default(), 1 << 20).now_or_never().expect("in memory").expect("whole");
        let mut words = Vec::new();
        for entry in entries {
            match entry {
                Entry::Record { payload, .. } => {
                    let record = Record::parse(payload).expect("a record");
                    words.push(record.items().map(|item| in_words(&item)).collect::<Vec<_>>().join(", "));
                }
                Entry::Outcome { outcome, .. } => words.push(format!("{outcome:?}")),
                Entry::Dropped { .. } => words.push("in doubt".to_owned()),
            }
        }
        words
    }
}

fn name(table: TableId) -> &'static str {
    if table == TableId::NONE {
        return "all";
    }
    let known = ["t", "wide", "counts", "gone", "ids", "times", "strange"];
    let other = Some("other.t").filter(|_| TableId::of("other", "t") == table);
    known.into_iter().find(|name| TableId::of("shop", name) == table).or(other).unwrap_or("?")
}

fn in_words(item: &Item<'_>) -> String {
    match item {
        Item::Write { table, lane, body } => {
            let write = Write::parse(body).expect("a write");
            let text = |statement: request::Statement<'_>| match statement.text {
                StatementText::Text(text) => String::from_utf8_lossy(text).into_owned(),
                StatementText::Prepared(_) => panic!("an id is no use to a stranger"),
            };
            let texts: Vec<String> = write.batch.statements.iter().map(text).collect();
            let all = write.batch.parameters;
            assert!(all.timestamp.is_some() && all.now_in_seconds.is_some());
            let place = match all.keyspace {
                Some("shop") => String::new(),
                other => format!(" in {}", other.unwrap_or("none")),
            };
            let order = if lane.order() == Order::Alone { " in order" } else { "" };
            format!("write {}{place}{order}: {}", name(*table), texts.join("; "))
        }
        Item::Stamp(_) => "stamped".to_owned(),
        Item::Look(said) => match Decided::of_said(*said) {
            Decided::Unsaid => format!("{item:?}"),
            Decided::Local => "by LocalSerial".to_owned(),
            Decided::Everywhere => "by Serial".to_owned(),
            Decided::Logged => "logged".to_owned(),
        },
        Item::Touch { table, lane } => {
            let order = match lane.order() {
                Order::Beside => "",
                Order::AtPlaces => " at places",
                Order::Alone => " alone",
            };
            format!("touch {}{order}", name(*table))
        }
        Item::Key { table, key, .. } => {
            let place = Place::decode(key).expect("a place");
            format!("{} {:?} {:?} {:?}", name(*table), place.extent, place.partition, place.clustering)
        }
        Item::Dirty(table, reason) => format!("dirty {} {}", name(*table), reason.as_str()),
        Item::Ddl(table, body) => {
            let write = Write::parse(body).expect("a write");
            let first = write.batch.statements.iter().next().expect("one");
            let StatementText::Text(text) = first.text else { panic!("an id is no use to a stranger") };
            format!("barrier {}: {}", name(*table), String::from_utf8_lossy(text))
        }
        other => format!("{other:?}"),
    }
}

fn parse(version: Version, frame: &[u8]) -> (i16, Vec<u8>, Option<i64>) {
    let frame = Frames::new(frame, Sender::Client, 1 << 20).next().expect("a frame").expect("well-formed");
    let envelope = Envelope::open(frame.header, frame.body()).expect("opens");
    assert_eq!(frame.header.version, version);
    match Request::parse(&envelope).expect("a request") {
        Request::Query(query) => (frame.header.stream, query.text.to_vec(), query.parameters.timestamp),
        Request::Execute(execute) => (frame.header.stream, execute.id.to_vec(), execute.parameters.timestamp),
        Request::Batch(batch) => (frame.header.stream, Vec::new(), batch.parameters.timestamp),
        other => panic!("{other:?}"),
    }
}

fn error(kind: ErrorKind<'_>) -> Response<'_> {
    Response::Error(ServerError::new(kind, "no"))
}

const VERSIONS: [(Version, Option<Compression>); 5] = [
    (Version::V3, None),
    (Version::V4, None),
    (Version::V4, Some(Compression::Lz4)),
    (Version::V5, None),
    (Version::V5, Some(Compression::Lz4)),
];

#[test]
fn a_write_is_stamped_in_its_frame_written_down_and_then_forwarded_promise_1() {
    for (version, compression) in VERSIONS {
        let mut rig = Rig::new(version, compression);
        let text = "INSERT INTO t (k, v) VALUES (1, 'a')";
        rig.query(5, text);
        assert_eq!(rig.journal(), [format!("write t: {text}")]);
        let sent = rig.sent();
        let (stream, forwarded, stamp) = parse(version, &sent[0]);
        assert_eq!((stream, &forwarded[..]), (5, text.as_bytes()));
        assert!(stamp.is_some_and(|stamp| stamp > 1_700_000_000_000_000));
        rig.void(5);
        assert_eq!(rig.told().len(), 1);
        assert_eq!(rig.journal()[1], "Committed");
        assert!(rig.session.is_idle());
    }
}

#[test]
fn what_the_client_stamped_itself_goes_byte_for_byte() {
    let mut rig = Rig::new(Version::V5, None);
    let parameters = Parameters { timestamp: Some(42), ..Parameters::new(Consistency::One) };
    let request = Request::Query(Query { text: b"UPDATE t SET v = 'a' WHERE k = 1", parameters });
    let frame = rig.frame(3, &request);
    rig.ask(3, &request);
    assert_eq!(rig.sent(), [frame]);
}

#[test]
fn reads_go_byte_for_byte_and_leave_nothing() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "SELECT * FROM t");
    rig.query(2, "LIST ROLES");
    assert_eq!(rig.sent().len(), 2);
    assert!(rig.journal().is_empty());
    rig.void(2);
    rig.void(1);
    assert_eq!(rig.told().len(), 2);
}

#[test]
fn what_the_server_refused_is_not_applied_and_what_it_does_not_know_is_in_doubt_promises_2_and_3() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM t WHERE k = 1");
    rig.reply(1, &error(ErrorKind::Invalid));
    rig.query(2, "DELETE FROM t WHERE k = 2");
    let timeout = ErrorKind::WriteTimeout {
        consistency: Consistency::One,
        received: 0,
        block_for: 1,
        write_type: WriteType::Simple,
        contentions: None,
    };
    rig.reply(2, &error(timeout));
    assert_eq!(rig.told().len(), 2);
    let outcomes: Vec<String> = rig.journal().into_iter().filter(|words| !words.starts_with("write")).collect();
    assert_eq!(outcomes, ["Aborted", "in doubt"]);
}

#[test]
fn both_sides_get_the_same_now() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"id", "INSERT INTO t (k, v, u) VALUES (?, ?, now())");
    rig.execute(2, b"id", &[(None, Value::Set(&[0, 0, 0, 1])), (None, Value::Set(b"a"))]);
    let (_, forwarded, _) = parse(Version::V4, &rig.sent()[0]);
    let forwarded = String::from_utf8(forwarded).expect("text");
    assert!(!forwarded.contains("now"), "{forwarded}");
    assert_eq!(rig.journal(), [format!("write t: {forwarded}")]);
}

#[test]
fn both_sides_read_the_same_time_where_a_text_says_now() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"id", "INSERT INTO times (at, v) VALUES ('Now', ?)");
    rig.execute(2, b"id", &[(None, Value::Set(b"now"))]);
    let (_, forwarded, _) = parse(Version::V4, &rig.sent()[0]);
    let forwarded = String::from_utf8(forwarded).expect("UTF-8");
    let millis = forwarded.strip_prefix("INSERT INTO \"shop\".times (at, v) VALUES (").expect("it is made");
    let millis: i64 = millis.strip_suffix(", ?)").expect("the rest stays").parse().expect("a number");
    assert!((now_micros() / 1_000 - millis).abs() < 60_000, "{forwarded}");
    assert_eq!(rig.journal(), [format!("write times: {forwarded}")]);
}

#[test]
fn what_may_be_read_as_another_time_on_each_side_goes_by_state() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"id", "INSERT INTO times JSON ?");
    rig.execute(2, b"id", &[(None, Value::Set(b"{\"at\": 5, \"v\": \"nowhere\"}"))]);
    rig.execute(3, b"id", &[(None, Value::Set(b"{\"at\": 5, \"v\": \"now\"}"))]);
    rig.query(4, "UPDATE times SET v = 'now' WHERE at = 5");
    rig.query(5, "UPDATE t SET v = 'now' WHERE k = 5");
    let place = "times Partition [[0, 0, 0, 0, 0, 0, 0, 5]] [], touch times alone";
    let journal = rig.journal();
    assert!(journal[1].starts_with("stamped") && journal[1].ends_with(place), "{journal:?}");
    assert!(journal[2].starts_with("stamped") && journal[2].ends_with(place), "{journal:?}");
    assert_eq!(
        [&journal[0], &journal[3]],
        ["write times: INSERT INTO times JSON ?", "write t: UPDATE t SET v = 'now' WHERE k = 5"]
    );
}

#[test]
fn a_statement_that_nobody_prepared_here_is_prepared_again() {
    let mut rig = Rig::new(Version::V5, None);
    rig.execute(9, b"strange", &[]);
    assert!(rig.sent().is_empty());
    let told = rig.told();
    let frame = Frames::new(&told[0], Sender::Server, 1 << 20).next().expect("a frame").expect("well-formed");
    let envelope = Envelope::open(frame.header, frame.body()).expect("opens");
    let Ok(Response::Error(error)) = Response::parse(&envelope) else { panic!("not an error") };
    assert_eq!((frame.header.stream, error.kind), (9, ErrorKind::Unprepared { id: b"strange" }));
}

#[test]
fn lists_counters_and_conditional_statements_go_by_state() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "UPDATE wide SET l = l + ['x'] WHERE k = 1 AND c = 2");
    rig.query(2, "UPDATE counts SET n = n + 1 WHERE k = 3");
    rig.query(3, "UPDATE t SET v = 'a' WHERE k = 4 IF v = 'b'");
    assert_eq!(
        rig.journal(),
        [
            "stamped, wide Row [[0, 0, 0, 1]] [[0, 0, 0, 2]], touch wide at places",
            "stamped, counts Partition [[0, 0, 0, 3]] [], touch counts alone",
            "stamped, by Serial, t Partition [[0, 0, 0, 4]] [], touch t alone",
        ]
    );
    let stamps: Vec<bool> = rig.sent().iter().map(|frame| parse(Version::V4, frame).2.is_some()).collect();
    assert_eq!(stamps, [true, false, false], "neither counters nor Paxos take a stamp");
}

#[test]
fn what_goes_by_state_is_as_new_as_its_text_says() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"id", "UPDATE wide USING TIMESTAMP ? SET l = l + ['x'] WHERE k = 1 AND c = 2");
    rig.query(2, "UPDATE wide USING TIMESTAMP 200 SET l = l + ['x'] WHERE k = 1 AND c = 2");
    rig.execute(3, b"id", &[(None, Value::Set(&300_i64.to_be_bytes()))]);
    rig.query(
        4,
        "BEGIN BATCH UPDATE wide USING TIMESTAMP 5 SET l = l + ['x'] WHERE k = 1 AND c = 2; \
         UPDATE wide USING TIMESTAMP 7 SET l = l + ['x'] WHERE k = 1 AND c = 3; APPLY BATCH",
    );
    let early = "UPDATE wide USING TIMESTAMP 11 SET l = ['x'] + l WHERE k = 1 AND c = 2";
    rig.batch(5, BatchKind::Unlogged, &[early, "DELETE FROM t USING TIMESTAMP 3 WHERE k = 7"].map(text));
    assert_eq!(rig.newest(), [200, 300, 7, 11]);
    // What says none has the frame's.
    let before = now_micros();
    rig.execute(6, b"id", &[(None, Value::Unset)]);
    rig.batch(7, BatchKind::Unlogged, &[early, "UPDATE wide SET l = l - ['x'] WHERE k = 1 AND c = 2"].map(text));
    let newest = rig.newest();
    assert!(newest.len() == 6 && newest[4..].iter().all(|stamp| *stamp >= before), "{newest:?}");
}

#[test]
fn a_batch_is_replayed_but_for_what_goes_by_state() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"id", "INSERT INTO t (k, v) VALUES (?, ?)");
    let values: &[Bound<'_>] = &[(None, Value::Set(&[0, 0, 0, 1])), (None, Value::Set(b"a"))];
    let mut message = BytesMut::new();
    let statements = [
        request::Statement { text: StatementText::Prepared(b"id"), values: Values::Given(values) },
        request::Statement {
            text: StatementText::Text(b"UPDATE wide SET l = ['y'] + l WHERE k = 1 AND c = 2"),
            values: Values::Given(&[]),
        },
        request::Statement { text: StatementText::Text(b"DELETE FROM gone WHERE k = 7"), values: Values::Given(&[]) },
    ];
    let parameters = Parameters::new(Consistency::One);
    request::put_batch(&mut message, Version::V4, BatchKind::Logged, &statements, &parameters).expect("short");
    let batch = Batch::parse(Version::V4, &message).expect("a batch");
    rig.ask(1, &Request::Batch(batch));
    let row = "stamped, logged, wide Row [[0, 0, 0, 1]] [[0, 0, 0, 2]], touch wide at places";
    let write = "write t: INSERT INTO t (k, v) VALUES (?, ?); DELETE FROM gone WHERE k = 7";
    assert_eq!(rig.journal(), [format!("{row}, {write}, touch gone alone")]);
}

fn text(text: &str) -> StatementText<'_> {
    StatementText::Text(text.as_bytes())
}

/// A session that prepared `here` in `shop` and `there` in `other`, where it is now.
fn in_two_keyspaces(here: &str, there: &str) -> Rig {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"here", here);
    rig.session.keyspace = Some(Arc::from("other"));
    rig.prepare(b"there", there);
    rig
}

#[test]
fn members_of_a_batch_are_replayed_in_the_keyspaces_in_which_they_were_prepared() {
    let [here, there] = [1, 2].map(|k| format!("INSERT INTO t (k, v) VALUES ({k}, 'a')"));
    let mut rig = in_two_keyspaces(&here, &there);
    let texts = [&b"UPDATE t SET v = 'b' WHERE k = 3"[..], b"DELETE FROM shop.t WHERE k = 4"].map(StatementText::Text);
    let prepared = [&b"here"[..], b"there"].map(StatementText::Prepared);
    rig.batch(1, BatchKind::Logged, &[prepared, texts].concat());
    let first = format!("stamped, logged, write t: {here}; DELETE FROM shop.t WHERE k = 4, touch t");
    let second = format!("write other.t in other: {there}; UPDATE t SET v = 'b' WHERE k = 3, touch other.t");
    assert_eq!(rig.journal(), [format!("{first}, {second}")]);
}

#[test]
fn a_prepared_member_that_goes_as_text_stays_in_its_keyspace() {
    let call = "INSERT INTO t (k, u) VALUES (1, now())";
    let mut rig = in_two_keyspaces(call, "DELETE FROM t WHERE k = 1");
    rig.batch(1, BatchKind::Unlogged, &[&b"here"[..], b"there"].map(StatementText::Prepared));
    rig.execute(2, b"here", &[]);
    let sent = rig.sent();
    for frame in &sent {
        let text = String::from_utf8_lossy(frame);
        assert!(text.contains("INSERT INTO \"shop\".t (k, u) VALUES (1, (timeuuid)"), "{text}");
    }
    assert_eq!(sent.len(), 2);
}

#[test]
fn a_refused_batch_over_two_keyspaces_may_be_there_in_part() {
    let unavailable = ErrorKind::Unavailable { consistency: Consistency::One, required: 1, alive: 0 };
    for (there, outcome) in [("other.t", "in doubt"), ("shop.gone", "Aborted")] {
        let mut rig = Rig::new(Version::V4, None);
        let members = ["shop.t", there].map(|table| format!("INSERT INTO {table} (k, v) VALUES (1, 'a')"));
        rig.batch(1, BatchKind::Unlogged, &members.each_ref().map(|text| StatementText::Text(text.as_bytes())));
        rig.reply(1, &error(unavailable));
        assert_eq!(rig.journal()[1], outcome, "{there}");
    }
}

#[test]
fn what_is_made_for_a_key_is_where_the_write_goes() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "INSERT INTO ids (id, v) VALUES (uuid(), 'a') IF NOT EXISTS");
    let [record] = &rig.journal()[..] else { panic!("one record") };
    assert!(record.starts_with("stamped, by Serial, ids Partition [["), "{record}");
}

#[test]
fn a_record_says_how_hard_to_look_for_what_a_low_level_wrote() {
    let mut rig = Rig::new(Version::V4, None);
    let counted = "counts Partition [[0, 0, 0, 3]] [], touch counts alone";
    let looks = [
        (Consistency::LocalOne, "stamped, Look(2), "),
        (Consistency::Quorum, "stamped, Look(1), "),
        (Consistency::LocalQuorum, "stamped, "),
    ];
    for (level, looks) in looks {
        let parameters = Parameters::new(level);
        let text = b"UPDATE counts SET n = n + 1 WHERE k = 3";
        rig.ask(1, &Request::Query(Query { text, parameters }));
        rig.void(1);
        assert_eq!(rig.journal().iter().rfind(|said| said.contains("counts")), Some(&format!("{looks}{counted}")));
    }
}

#[test]
fn deletes_of_a_table_that_forgets_them_at_once_keep_their_order() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM gone WHERE k = 7");
    assert_eq!(rig.journal(), ["write gone in order: DELETE FROM gone WHERE k = 7"]);
}

#[test]
fn schema_changes_and_truncates_are_barriers() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "TRUNCATE t");
    rig.wait();
    rig.query(2, "ALTER TABLE shop.wide ADD x int");
    rig.wait();
    rig.query(3, "CREATE TYPE u (a int)");
    let all = [
        "barrier t: TRUNCATE t",
        "barrier wide: ALTER TABLE shop.wide ADD x int",
        "barrier all: CREATE TYPE u (a int)",
    ];
    assert_eq!(rig.journal(), all);
    rig.void(1);
    assert_eq!(rig.told().len(), 1);
}

#[test]
fn what_is_done_to_the_servers_own_keyspaces_stays_there() {
    let mut rig = Rig::new(Version::V4, None);
    let texts = [
        "ALTER KEYSPACE system_auth WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3}",
        "TRUNCATE system_traces.events",
        "CREATE INDEX i ON system_distributed.repair_history (status)",
        "DROP INDEX system_distributed.i",
    ];
    for (stream, text) in (1..).zip(texts) {
        rig.query(stream, text);
        assert_eq!(rig.sent().len(), 1, "{text}");
    }
    rig.session.keyspace = Some(Arc::from("system_traces"));
    rig.query(9, "TRUNCATE sessions");
    assert_eq!(rig.sent().len(), 1);
    for stream in [1, 2, 3, 4, 9] {
        rig.void(stream);
    }
    assert_eq!((rig.told().len(), rig.journal().len()), (5, 0), "{:?}", rig.journal());
}

#[test]
fn what_configuration_refuses_does_not_run_and_what_it_notes_leaves_a_dirty_table() {
    let live = live();
    let set = |key: &str, value: &str| drop(live.change([(key, value)].into_iter()).expect("it may change"));
    let mut shared = shared(Some(Journal::in_memory()), &Ballots::default(), |_| Watch::off());
    Arc::get_mut(&mut shared).expect("nobody has it yet").policy = Policy::new(live.clone());
    let mut rig = Rig::with(shared, Ballots::default(), Framing { version: Version::V4, compression: None });
    let truncate = "TRUNCATE t";
    let strange = "FROBNICATE t";
    for (key, text) in
        [("mirror.truncate", truncate), ("mirror.ddl", "ALTER TABLE t ADD w int"), ("mirror.on_uncaptured", strange)]
    {
        set(key, "refuse");
        rig.query(1, text);
        assert!(rig.sent().is_empty(), "{text}");
        let told = rig.told().concat();
        assert!(String::from_utf8_lossy(&told).contains(&format!("{key} = \"refuse\"")), "{text}");
    }
    assert!(rig.journal().is_empty() && rig.shared.gate.inside() == 0);
    set("mirror.truncate", "note");
    set("mirror.on_uncaptured", "dirty");
    rig.query(1, truncate);
    rig.wait();
    rig.query(2, strange);
    rig.wait();
    assert_eq!(rig.journal()[0], "dirty t ddl");
    assert!(rig.journal()[1].ends_with("uncaptured"), "{:?}", rig.journal());
    rig.void(1);
    rig.void(2);
    set("mirror.ddl", "note");
    let before = rig.journal().len();
    rig.sent();
    rig.query(3, "ALTER TABLE t ADD w int");
    rig.wait();
    rig.void(3);
    rig.query(4, "CREATE TYPE u (a int)");
    assert_eq!(rig.sent().len(), 2, "both run");
    assert_eq!(rig.journal()[before..], ["dirty t ddl", "Committed"], "the type has no table");
}

#[test]
fn what_does_not_say_its_table_is_a_barrier_of_all() {
    let texts = ["DROP INDEX shop.i", "DROP MATERIALIZED VIEW v", "ALTER MATERIALIZED VIEW v WITH comment = 'x'"];
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "CREATE INDEX i ON t (v)");
    rig.wait();
    rig.void(1);
    for (stream, text) in (2..).zip(texts) {
        rig.query(stream, text);
    }
    let barriers: Vec<String> = rig.journal().into_iter().filter(|words| words.starts_with("barrier")).collect();
    let all = texts.map(|text| format!("barrier all: {text}"));
    assert_eq!(barriers, [&["barrier t: CREATE INDEX i ON t (v)".to_owned()][..], &all].concat());
}

#[test]
fn a_view_is_a_barrier_of_the_table_in_its_own_keyspace() {
    let mut rig = Rig::new(Version::V4, None);
    let text = "CREATE MATERIALIZED VIEW other.seen AS SELECT * FROM t WHERE v IS NOT NULL PRIMARY KEY (v, k)";
    rig.query(1, text);
    rig.wait();
    assert_eq!(rig.journal(), [format!("barrier other.t: {text}")]);
}

#[test]
fn a_barrier_is_of_the_keyspace_in_which_it_is_executed() {
    let mut rig = Rig::new(Version::V5, None);
    let parameters = Parameters { keyspace: Some("other"), ..Parameters::new(Consistency::LocalQuorum) };
    rig.ask(1, &Request::Query(Query { text: b"TRUNCATE t", parameters }));
    rig.wait();
    rig.void(1);
    rig.prepare(b"truncate", "TRUNCATE t");
    rig.session.keyspace = Some(Arc::from("other"));
    rig.execute(2, b"truncate", &[]);
    rig.wait();
    rig.void(2);
    let barriers: Vec<String> = rig.journal().into_iter().filter(|words| words.starts_with("barrier")).collect();
    assert_eq!(barriers, ["barrier other.t: TRUNCATE t", "barrier t: TRUNCATE t"]);
}

#[test]
fn what_surrounds_a_use_is_written_down_for_the_keyspace_in_which_it_is_executed_promise_1() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM t WHERE k = 1");
    rig.query(2, "USE other");
    rig.query(3, "DELETE FROM t WHERE k = 3");
    rig.ask(4, &Request::Prepare(Prepare { text: b"DELETE FROM t WHERE k = 4", keyspace: None }));
    rig.wait();
    assert_eq!(rig.sent().len(), 1, "the server may execute it in either keyspace once it has the next one");
    rig.void(1);
    assert_eq!(rig.sent().len(), 1, "it goes alone");
    rig.reply(2, &Response::Result(response::Outcome::SetKeyspace("other")));
    assert_eq!(rig.sent().len(), 2);
    let words =
        ["write t: DELETE FROM t WHERE k = 1", "Committed", "write other.t in other: DELETE FROM t WHERE k = 3"];
    assert_eq!(rig.journal()[..3], words);
}

#[tokio::test(start_paused = true)]
async fn a_use_that_is_not_answered_costs_the_server_promise_1() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "USE other");
    rig.query(2, "DELETE FROM t WHERE k = 2");
    assert_eq!(rig.sent().len(), 1);
    assert!(rig.session.sweep(Instant::now() + Duration::from_secs(11), false), "who knows where it is");
    rig.session.lose_server();
    rig.go_on();
    assert_eq!((rig.told().len(), rig.session.moves_to()), (1, Some(Side::Origin)));
    rig.session.arrive(Side::Origin);
    rig.go_on();
    assert_eq!(rig.session.luggage().keyspace.as_deref(), Some("shop"));
    assert_eq!(rig.journal(), ["write t: DELETE FROM t WHERE k = 2"]);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_wrong_are_not_waited_for_until_they_are_right() {
    let mut rig = Rig::new(Version::V4, None);
    let mut reach = Reach::default();
    reach.add(TableId::of("shop", "t"), Some(hash_of([4_i32.to_be_bytes()])));
    reach.heeded().for_each(|partition| rig.shared.stamps.raise(Side::Origin, partition, now_micros() + 3_600_000_000));
    rig.query(1, "DELETE FROM t WHERE k = 4");
    assert_eq!(rig.sent().len(), 1);
    rig.query(2, "DELETE FROM t WHERE k = 4 IF EXISTS");
    let mut waited = Duration::ZERO;
    while rig.sent().is_empty() {
        assert!(waited < CLOCK_WAIT + CLOCK_LOOK, "it has waited for {waited:?}");
        tokio::time::advance(CLOCK_LOOK).await;
        waited += CLOCK_LOOK;
        rig.wait();
    }
    assert!(waited >= CLOCK_WAIT, "it has waited for {waited:?} only");
}

#[test]
fn a_truncate_waits_for_writes_and_the_next_ones_wait_for_it() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM t WHERE k = 1");
    rig.query(2, "TRUNCATE t");
    rig.wait();
    assert_eq!(rig.sent().len(), 1);
    rig.void(1);
    assert_eq!(rig.sent().len(), 1);
    rig.query(3, "DELETE FROM t WHERE k = 2");
    rig.wait();
    assert!(rig.sent().is_empty());
    rig.void(2);
    assert_eq!(rig.sent().len(), 1);
    let words = ["write t: DELETE FROM t WHERE k = 1", "Committed", "barrier t: TRUNCATE t", "Committed"];
    assert_eq!(rig.journal()[..4], words);
}

#[tokio::test]
async fn conditional_statements_of_a_partition_take_turns_and_answers_go_on_meanwhile() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM t WHERE k = 4 IF EXISTS");
    rig.query(2, "SELECT * FROM t");
    rig.query(3, "DELETE FROM t WHERE k = 4 IF EXISTS");
    rig.query(4, "SELECT * FROM t");
    rig.wait();
    assert_eq!(rig.sent().len(), 2, "the second waits, and what is behind it");
    rig.void(2);
    assert_eq!(rig.told().len(), 1);
    rig.void(1);
    assert_eq!(rig.told().len(), 1, "the client waits for no ballot");
    assert!(rig.sent().is_empty(), "the next one of the partition does");
    rig.ballot(Ok(5)).await;
    assert_eq!(rig.sent().len(), 2);
    rig.void(4);
    rig.void(3);
    assert_eq!(rig.told().len(), 2);
}

#[tokio::test]
async fn a_conditional_statement_that_was_applied_becomes_a_plain_one_with_its_ballot() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "UPDATE t SET v = 'a' WHERE k = 4 IF v = 'b'");
    rig.query(2, "TRUNCATE t");
    rig.void(1);
    assert_eq!((rig.sent().len(), rig.shared.gate.inside()), (1, 2), "barriers and a flip wait too");
    rig.ballot(Ok(1_000)).await;
    assert_eq!((rig.sent().len(), rig.shared.gate.inside()), (1, 1));
    let place = "stamped, by Serial, t Partition [[0, 0, 0, 4]] [], touch t alone";
    let write = "write t: UPDATE t SET v = 'a' WHERE k = 4 ";
    assert_eq!(rig.journal(), [place, write, "Committed", "Aborted", "barrier t: TRUNCATE t"]);
    assert_eq!(rig.stamps(), [Some(1_000)]);
}

#[test]
fn a_ttl_begins_with_the_second_of_the_coordinators_clock() {
    let ballots = Ballots::default();
    let shared = shared_ahead(Some(Journal::in_memory()), &ballots, |_| Watch::off(), 100_000_000);
    let mut rig = Rig::with(shared, ballots, Framing { version: Version::V4, compression: None });
    let seconds = || now_micros() / 1_000_000 + 100;
    let before = seconds();
    rig.query(1, "INSERT INTO t (k, v) VALUES (4, 'a') USING TTL 60");
    let noted = rig.writes(|write| write.batch.parameters.now_in_seconds);
    assert!(matches!(noted[..], [Some(second)] if (before..=seconds()).contains(&i64::from(second))), "{noted:?}");
}

#[tokio::test]
async fn a_conditional_statement_is_told_from_those_before_it() {
    let mut rig = Rig::new(Version::V4, None);
    let delete = "DELETE FROM t WHERE k = 4 IF EXISTS";
    let began = now_micros();
    let mut above = Vec::new();
    for ballot in [Ok(began + 1_000), Err(Unread::Absent), Ok(began + 1_500)] {
        rig.query(1, delete);
        rig.void(1);
        above.push(rig.ballot(ballot).await);
    }
    assert!(above[0] <= began, "those before the process began");
    assert_eq!(above[1], began + 1_000);
    assert!((began..=now_micros()).contains(&above[2]), "the one before it may have had any ballot");
    rig.query(1, delete);
    let timeout = ErrorKind::WriteTimeout {
        consistency: Consistency::LocalQuorum,
        received: 0,
        block_for: 2,
        write_type: WriteType::Cas,
        contentions: None,
    };
    rig.reply(1, &error(timeout));
    rig.query(1, delete);
    rig.void(1);
    assert_eq!(rig.ballot(Err(Unread::Absent)).await, i64::MAX, "the one before it is in doubt");
}

#[tokio::test(start_paused = true)]
async fn a_conditional_statement_is_not_decided_below_what_the_old_primary_decided() {
    let ballots = Ballots::default();
    let shared = shared_ahead(Some(Journal::in_memory()), &ballots, |_| Watch::off(), 60_000_000);
    let mut rig = Rig::with(shared, ballots, Framing { version: Version::V4, compression: None });
    let delete = "DELETE FROM t WHERE k = 4 IF EXISTS";
    for _ in 0..2 {
        rig.query(1, delete);
        assert_eq!(rig.sent().len(), 1, "the same nodes know their ballots");
        rig.void(1);
        rig.ballot(Ok(now_micros() + 60_000_000)).await;
    }
    rig.shared.gate.close();
    rig.shared.gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
    rig.query(1, delete);
    rig.session.arrive(Side::Target);
    rig.go_on();
    assert!(rig.sent().is_empty() && rig.session.is_halted(), "the other nodes' clocks are not there yet");
    rig.query(2, "DELETE FROM t WHERE k = 5 IF EXISTS");
    for _ in 0..=CLOCK_WAIT.div_duration_f32(CLOCK_LOOK) as usize {
        tokio::time::advance(CLOCK_LOOK).await;
        rig.wait();
    }
    assert_eq!(rig.sent().len(), 2, "no longer than clocks are waited for, and only on that partition");
}

#[tokio::test]
async fn without_its_ballot_a_conditional_statement_goes_by_state() {
    for why in [Unread::Refused, Unread::Absent, Unread::Newer] {
        let mut rig = Rig::new(Version::V4, None);
        rig.query(1, "DELETE FROM t WHERE k = 4 IF EXISTS");
        rig.void(1);
        rig.ballot(Err(why)).await;
        assert_eq!(rig.journal(), ["stamped, by Serial, t Partition [[0, 0, 0, 4]] [], touch t alone", "Committed"]);
        assert_eq!(rig.shared.gate.inside(), 0);
    }
}

#[tokio::test]
async fn without_its_ballot_a_decision_whose_commit_timed_out_is_in_doubt_and_with_it_is_none_promise_3() {
    for (ballot, journal) in [(Err(Unread::Absent), "in doubt"), (Ok(1_000), "Aborted")] {
        let mut rig = Rig::new(Version::V4, None);
        rig.query(1, "DELETE FROM t WHERE k = 4 IF EXISTS");
        let timeout = ErrorKind::WriteTimeout {
            consistency: Consistency::LocalQuorum,
            received: 1,
            block_for: 2,
            write_type: WriteType::Simple,
            contentions: None,
        };
        rig.reply(1, &error(timeout));
        rig.ballot(ballot).await;
        assert_eq!(rig.journal().last().map(String::as_str), Some(journal));
        assert_eq!(rig.shared.gate.inside(), 0);
    }
}

#[test]
fn a_decision_that_nobody_may_see_yet_is_in_doubt_where_it_goes_by_state_promise_3() {
    let timeout = |write_type| ErrorKind::WriteTimeout {
        consistency: Consistency::LocalQuorum,
        received: 1,
        block_for: 2,
        write_type,
        contentions: None,
    };
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "UPDATE wide SET l = l + ['x'] WHERE k = 1 AND c = 2 IF EXISTS");
    rig.reply(1, &error(timeout(WriteType::Simple)));
    assert_eq!(rig.journal().last().map(String::as_str), Some("in doubt"), "{:?}", rig.journal());
    let insert = "INSERT INTO t (k, v) VALUES (1, 'a')";
    let others = [("UPDATE wide SET l = l + ['x'] WHERE k = 1 AND c = 2", "in doubt"), (insert, "Committed")];
    for (other, outcome) in others {
        let mut rig = Rig::new(Version::V4, None);
        rig.batch(1, BatchKind::Logged, &[insert, "INSERT INTO t (k) VALUES (2)", other].map(text));
        rig.reply(1, &error(timeout(WriteType::Batch)));
        assert_eq!(rig.journal().last().map(String::as_str), Some(outcome), "{other}: {:?}", rig.journal());
    }
}

#[test]
fn a_record_says_which_paxos_decides() {
    for (level, said) in [(Consistency::LocalSerial, "by LocalSerial"), (Consistency::Serial, "by Serial")] {
        let mut rig = Rig::new(Version::V4, None);
        let parameters = Parameters { serial_consistency: Some(level), ..Parameters::new(Consistency::LocalQuorum) };
        rig.ask(1, &Request::Query(Query { text: b"DELETE FROM t WHERE k = 4 IF EXISTS", parameters }));
        assert_eq!(rig.journal(), [format!("stamped, {said}, t Partition [[0, 0, 0, 4]] [], touch t alone")]);
    }
}

#[tokio::test]
async fn a_plain_write_that_a_conditional_one_may_have_overruled_names_its_place() {
    let mut rig = Rig::new(Version::V4, None);
    let (insert, place) = ("INSERT INTO t (k, v) VALUES (4, 'x')", "t Partition [[0, 0, 0, 4]] []");
    rig.query(1, "DELETE FROM t WHERE k = 4 IF EXISTS");
    rig.query(2, insert);
    rig.query(3, "INSERT INTO t (k, v) VALUES (5, 'x')");
    let elsewhere = "INSERT INTO wide (k, c) VALUES (4, 1)";
    rig.query(6, elsewhere);
    rig.void(1);
    rig.ballot(Err(Unread::Refused)).await;
    rig.query(4, &format!("{insert} USING TIMESTAMP 5"));
    rig.query(5, insert);
    let names = format!("stamped, write t: {insert}, {place}, touch t alone");
    let journal = rig.journal();
    assert_eq!(journal[1], names);
    assert_eq!(journal[2], "write t: INSERT INTO t (k, v) VALUES (5, 'x')");
    assert_eq!(journal[3], format!("write wide: {elsewhere}"), "Paxos decides of each table for itself");
    assert_eq!(journal[5], names.replace("'x')", "'x') USING TIMESTAMP 5"));
    assert_eq!(journal[6], format!("write t: {insert}"), "its stamp is above the ballot");
}

#[tokio::test]
async fn a_partition_that_cannot_be_told_may_be_any() {
    let mut rig = Rig::new(Version::V4, None);
    let [known, unknown] = ["1800000000000", "'yesterday'"];
    let insert = |at: &str| format!("INSERT INTO times (at, v) VALUES ({at}, 'a')");
    let delete = |at: &str| format!("DELETE FROM times WHERE at = {at} IF EXISTS");
    for (stream, conditional, plain) in [(1, known, unknown), (3, unknown, known), (5, unknown, unknown)] {
        rig.query(stream, &delete(conditional));
        // Until the stamps before are over.
        while rig.session.is_halted() {
            poll_fn(|cx| rig.session.poll(cx)).await.expect("goes on");
            rig.go_on();
        }
        rig.query(stream + 1, &insert(plain));
        let last = rig.journal().pop().expect("a record");
        let names = if plain == known { "touch times alone" } else { "dirty times uncaptured" };
        assert!(last.starts_with("stamped, write times: INSERT") && last.ends_with(names), "{last}");
        rig.reply(stream, &error(ErrorKind::Invalid));
        rig.void(stream + 1);
    }
    rig.query(7, &insert(unknown));
    assert_eq!(rig.journal().last(), Some(&format!("write times: {}", insert(unknown))), "none is on its way");
    let mut conditional = Reach::default();
    conditional.add(TableId::of("shop", "times"), Some(1));
    let newest = conditional.heeded().map(|place| rig.shared.stamps.newest(place)).max();
    assert_eq!(newest, rig.stamps().pop().flatten(), "the next one of any partition waits until it is over");
}

#[test]
fn a_conditional_statement_that_was_not_applied_leaves_nothing_promise_2() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM t WHERE k = 4 IF EXISTS");
    let mut metadata = BytesMut::new();
    let boolean = crate::protocol::cql::wire::types::Type::of_class("org.apache.cassandra.db.marshal.BooleanType");
    put_metadata(&mut metadata, Version::V4, ("shop", "t"), &[("[applied]", &boolean)]).expect("short");
    let mut message = BytesMut::from(&2_i32.to_be_bytes()[..]);
    message.extend_from_slice(&metadata);
    message.extend_from_slice(&1_i32.to_be_bytes());
    message.extend_from_slice(&[0, 0, 0, 1, 0]);
    let mut frame = BytesMut::new();
    let put = |out: &mut BytesMut| {
        out.extend_from_slice(&message);
        Ok(())
    };
    Envelope::new(Version::V4, 1, Opcode::Result).put(&mut frame, put).expect("short");
    rig.session.server_sent(&mut frame).expect("goes on");
    assert_eq!(rig.journal(), ["stamped, by Serial, t Partition [[0, 0, 0, 4]] [], touch t alone", "Aborted"]);
    assert_eq!(rig.told().len(), 1);
}

#[test]
fn a_closed_gate_holds_requests_and_lets_answers_through_promise_9() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "DELETE FROM t WHERE k = 1");
    rig.shared.gate.close();
    rig.query(2, "DELETE FROM t WHERE k = 2");
    rig.wait();
    assert_eq!((rig.sent().len(), rig.shared.gate.inside(), rig.shared.gate.held()), (1, 1, 1));
    rig.void(1);
    assert_eq!((rig.told().len(), rig.shared.gate.inside()), (1, 0), "a flip is not held up");
    rig.shared.gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
    rig.wait();
    assert_eq!(rig.session.moves_to(), Some(Side::Target));
    rig.session.arrive(Side::Target);
    rig.go_on();
    assert_eq!((rig.sent().len(), rig.journal().len()), (1, 3));
}

#[test]
fn what_a_lost_server_owed_is_answered_and_in_doubt_promise_3() {
    let mut rig = Rig::new(Version::V5, None);
    rig.query(1, "DELETE FROM t WHERE k = 1");
    rig.query(2, "SELECT * FROM t");
    rig.session.lose_server();
    assert_eq!(rig.told().len(), 2);
    assert_eq!(rig.journal()[1], "in doubt");
    rig.query(3, "SELECT * FROM t");
    assert_eq!(rig.session.moves_to(), Some(Side::Origin));
}

#[test]
fn a_write_that_nobody_mirrors_and_nobody_answers_is_no_read_that_timed_out() {
    for (version, compression) in VERSIONS {
        let ballots = Ballots::default();
        let shared = shared(None, &ballots, |_| Watch::off());
        let mut rig = Rig::with(shared, ballots, Framing { version, compression });
        rig.prepare(b"0123456789abcdef", "INSERT INTO t (k, v) VALUES (1, 'a')");
        rig.execute(1, b"0123456789abcdef", &[]);
        let parameters = Parameters::new(Consistency::One);
        let text = StatementText::Text(b"DELETE FROM gone WHERE k = 7");
        let statement = request::Statement { text, values: Values::Given(&[]) };
        let mut message = BytesMut::new();
        request::put_batch(&mut message, version, BatchKind::Logged, &[statement], &parameters).expect("short");
        rig.ask(2, &Request::Batch(Batch::parse(version, &message).expect("a batch")));
        let writes = [
            "DELETE FROM t WHERE k = 1",
            "DELETE FROM t WHERE k = 1 IF EXISTS",
            "TRUNCATE t",
            "DROP TABLE t",
            "DROP ROLE r",
        ];
        for (stream, text) in (3..).zip(writes.into_iter().chain(["SELECT * FROM t", "LIST ROLES"])) {
            rig.query(stream, text);
        }
        assert_eq!(rig.sent().len(), 9, "all of them are on their way");
        rig.session.lose_server();
        let mut told: Vec<(i16, &str)> = Vec::new();
        for frame in rig.told() {
            let frame = Frames::new(&frame, Sender::Server, 1 << 20).next().expect("a frame").expect("well-formed");
            let envelope = Envelope::open(frame.header, frame.body()).expect("opens");
            let Ok(Response::Error(error)) = Response::parse(&envelope) else { panic!("not an error") };
            let kind = match error.kind {
                // What drivers do not try again.
                ErrorKind::WriteTimeout { write_type: WriteType::UnloggedBatch, .. } => "write",
                ErrorKind::ReadTimeout { .. } => "read",
                other => panic!("{other:?}"),
            };
            told.push((frame.header.stream, kind));
        }
        told.sort_unstable();
        let expected = (1..).zip(std::iter::repeat_n("write", 7).chain(["read", "read"]));
        assert_eq!(told, expected.collect::<Vec<_>>(), "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_down_is_given_up_before_its_time_but_only_if_something_waits_and_others_serve() {
    let mut rig = Rig::new(Version::V5, None);
    let soon = Instant::now() + LEFT_PATIENCE + Duration::from_millis(1);
    assert!(!rig.session.sweep(soon, true), "nothing waits");
    rig.query(1, "SELECT * FROM t");
    assert!(!rig.session.sweep(soon, false), "nobody else serves, or it does");
    assert!(!rig.session.sweep(Instant::now() + LEFT_PATIENCE, true), "it may answer still");
    assert!(rig.session.sweep(soon, true));
    assert!(rig.told().is_empty(), "it is answered when the connection is given up");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_used_twice_is_free_again_when_the_proxy_has_answered() {
    let mut rig = Rig::new(Version::V5, None);
    rig.query(1, "SELECT * FROM t");
    rig.query(1, "SELECT * FROM wide");
    assert_eq!(rig.sent().len(), 1);
    assert!(!rig.session.sweep(Instant::now() + Duration::from_secs(11), false));
    rig.wait();
    assert_eq!((rig.told().len(), rig.sent().len()), (1, 1));
}

#[test]
fn a_table_that_nobody_knows_is_looked_for_once() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "INSERT INTO strange (k) VALUES (1)");
    assert!(rig.sent().is_empty() && rig.session.is_halted());
    rig.wait();
    assert_eq!(rig.journal(), ["write strange: INSERT INTO strange (k) VALUES (1)"]);
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn names_of_bound_values_do_not_reach_the_journal() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"id", "INSERT INTO t (k, v) VALUES (:key, :value)");
    rig.execute(2, b"id", &[(Some("value"), Value::Set(b"a")), (Some("key"), Value::Set(&[0, 0, 0, 1]))]);
    assert_eq!(rig.values(), [(None, Some(vec![0, 0, 0, 1])), (None, Some(b"a".to_vec()))]);
}

#[test]
fn values_bound_by_the_names_that_servers_give_markers_reach_the_journal() {
    let (key, word) = (Value::Set(&[0, 0, 0, 1]), Value::Set(b"a"));
    for is_prepared in [true, false] {
        let mut rig = Rig::new(Version::V4, None);
        let text = "UPDATE t USING TTL ? SET v = ? WHERE k = ?";
        let values = [(Some("k"), key), (Some("v"), word), (Some("[ttl]"), Value::Set(&[0, 0, 0, 9]))];
        if is_prepared {
            rig.prepare(b"id", text);
            rig.execute(2, b"id", &values);
        } else {
            let parameters = Parameters { values: Some(Values::Given(&values)), ..Parameters::new(Consistency::One) };
            rig.ask(2, &Request::Query(Query { text: text.as_bytes(), parameters }));
        }
        let ttl = vec![0, 0, 0, 9];
        assert_eq!(rig.values(), [(None, Some(ttl)), (None, Some(b"a".to_vec())), (None, Some(vec![0, 0, 0, 1]))]);
    }
}

#[test]
fn a_value_bound_by_a_name_that_only_the_server_knows_goes_by_state() {
    let mut rig = Rig::new(Version::V4, None);
    let (key, argument) = (Value::Set(&[0, 0, 0, 1]), (Some("arg0(system.somewhere)"), Value::Set(&[0])));
    rig.prepare(b"value", "UPDATE t SET u = minTimeuuid(?) WHERE k = ?");
    rig.execute(2, b"value", &[(Some("k"), key), argument]);
    rig.prepare(b"key", "UPDATE t SET v = 'a' WHERE k = blobAsInt(?)");
    rig.execute(3, b"key", &[argument]);
    let stamped = "stamped, Look(2), ";
    let place = format!("{stamped}t Partition [[0, 0, 0, 1]] [], touch t alone");
    assert_eq!(rig.journal(), [place, format!("{stamped}dirty t uncaptured")]);
}

#[test]
fn every_sent_stamp_is_another_one() {
    let mut rig = Rig::new(Version::V4, None);
    for stream in 0..50 {
        rig.query(stream, "INSERT INTO t (k, v) VALUES (1, 'a')");
    }
    let stamps: BTreeSet<i64> = rig.sent().iter().filter_map(|frame| parse(Version::V4, frame).2).collect();
    assert_eq!(stamps.len(), 50);
}

#[test]
fn who_asks_for_the_cluster_hears_of_the_proxy_and_the_server_is_not_asked() {
    let mut rig = Rig::new(Version::V4, None);
    rig.query(1, "SELECT cluster_name FROM system.local");
    rig.query(2, "SELECT * FROM system.peers_v2");
    rig.ask(3, &Request::Options);
    rig.ask(4, &Request::Prepare(Prepare { text: b"SELECT host_id FROM system.local WHERE key = ?", keyspace: None }));
    assert!(rig.sent().is_empty());
    let told = rig.told();
    assert_eq!(told.len(), 4);
    assert!(told[0].windows(6).any(|window| window == b"origin"));
}

#[test]
fn every_client_waits_until_its_table_is_known_to_be_written_to_and_none_for_a_journal_that_failed_promise_3() {
    let disk = MemoryDisk::default();
    let (journal, _) = Journal::open_on(disk.storage(), journal::Options::default()).expect("opens");
    let mut clients = [0, 1].map(|_| Rig::over(journal.clone(), Version::V4, None));
    for client in &mut clients {
        client.query(1, "DELETE FROM t WHERE k = 1");
        client.wait();
        assert!(client.sent().is_empty(), "its label is not durable");
    }
    journal.sync_now();
    for client in &mut clients {
        client.wait();
        assert_eq!(client.sent().len(), 1);
    }
    disk.fail_after(0, libc::EIO);
    clients[0].query(2, "DELETE FROM gone WHERE k = 1");
    journal.sync_now();
    clients[0].wait();
    assert_eq!(clients[0].sent().len(), 1, "the table is dirty instead");
}

/// A journal whose ring takes few records before the next sync.
fn narrow() -> Journal {
    let options = journal::Options {
        segment_bytes: 64 << 10,
        record_limit_bytes: 4 << 10,
        ring_bytes: 16 << 10,
        ..journal::Options::default()
    };
    Journal::open_on(MemoryDisk::default().storage(), options).expect("opens").0
}

/// A client with a write of which the journal has no room for a second one before it synced.
fn without_room() -> (Rig, Journal) {
    let journal = narrow();
    let mut client = Rig::over(journal.clone(), Version::V4, None);
    client.query(1, "DELETE FROM t WHERE k = 1");
    journal.sync_now();
    client.wait();
    assert_eq!(client.sent().len(), 1);
    while journal.begin(&[7; 2_000]).is_ok() {}
    client.query(2, &format!("INSERT INTO t (k, v) VALUES (1, '{}')", "v".repeat(3_000)));
    client.wait();
    assert!(client.sent().is_empty(), "there is no room");
    (client, journal)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_a_moment_behind_is_waited_for() {
    let (mut client, journal) = without_room();
    journal.sync_now();
    client.wait();
    assert_eq!(client.sent().len(), 1);
    assert!(!client.shared.full.load(Ordering::Relaxed), "no table is dirty");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_stays_full_is_waited_for_once_promise_7() {
    let (mut client, _journal) = without_room();
    tokio::time::advance(FULL_WAIT + Duration::from_millis(1)).await;
    client.wait();
    assert_eq!(client.sent().len(), 1, "the table is dirty instead");
    assert!(client.shared.full.load(Ordering::Relaxed));
    client.query(3, &format!("INSERT INTO t (k, v) VALUES (2, '{}')", "v".repeat(3_000)));
    assert_eq!(client.sent().len(), 1, "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_no_journal_takes_is_not_waited_for_and_says_nothing_of_others() {
    let journal = narrow();
    let mut client = Rig::over(journal.clone(), Version::V4, None);
    client.query(1, &format!("INSERT INTO t (k, v) VALUES (1, '{}')", "v".repeat(5_000)));
    journal.sync_now();
    client.wait();
    assert_eq!(client.sent().len(), 1);
    assert!(!client.shared.full.load(Ordering::Relaxed));
}

#[tokio::test]
async fn executes_that_share_a_pass_hold_a_flip_up_until_all_are_answered_promise_9() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"0123456789abcdef", "SELECT v FROM t WHERE k = 1");
    let execute = || {
        let parameters = Parameters::new(Consistency::One);
        Request::Execute(Execute { id: b"0123456789abcdef", result_metadata_id: None, parameters })
    };
    rig.ask(1, &execute());
    rig.ask(2, &execute());
    assert_eq!((rig.sent().len(), rig.shared.gate.inside()), (2, 2));
    rig.shared.gate.close();
    rig.ask(3, &execute());
    assert_eq!(rig.sent().len(), 0, "the gate is closed");
    rig.void(2);
    assert!(rig.shared.gate.drained().now_or_never().is_none(), "one is not answered");
    rig.void(1);
    assert!(rig.shared.gate.drained().now_or_never().is_some());
    rig.shared.gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
    rig.wait();
    assert_eq!(rig.session.moves_to(), Some(Side::Target));
}

#[tokio::test]
async fn executes_whose_server_is_lost_hold_no_flip_up() {
    let mut rig = Rig::new(Version::V5, None);
    rig.prepare(b"0123456789abcdef", "SELECT v FROM t WHERE k = 1");
    let parameters = Parameters::new(Consistency::One);
    let execute = Execute { id: b"0123456789abcdef", result_metadata_id: Some(b"m"), parameters };
    rig.ask(1, &Request::Execute(execute));
    assert_eq!(rig.shared.gate.inside(), 1);
    rig.session.lose_server();
    assert_eq!(rig.shared.gate.inside(), 0);
}

#[tokio::test]
async fn executes_that_write_are_looked_at_each_time() {
    let mut rig = Rig::new(Version::V4, None);
    rig.prepare(b"0123456789abcdef", "INSERT INTO t (k, v) VALUES (1, 'a')");
    for stream in 1..4 {
        let parameters = Parameters::new(Consistency::One);
        let execute = Execute { id: b"0123456789abcdef", result_metadata_id: None, parameters };
        rig.ask(stream, &Request::Execute(execute));
        rig.void(stream);
    }
    assert_eq!(rig.journal().iter().filter(|word| word.starts_with("write t")).count(), 3);
}

#[tokio::test]
async fn only_events_that_a_server_granted_are_asked_of_the_next_one() {
    for (version, compression) in [(Version::V4, Some(Compression::Snappy)), (Version::V5, None)] {
        let mut rig = Rig::new(version, compression);
        let asks = |rig: &mut Rig, kinds: &[&str]| {
            let mut list = BytesMut::new();
            put_string_list(&mut list, kinds.iter().copied(), "kinds").expect("short");
            let kinds = Reader::new(&list).string_list("kinds").expect("just put");
            rig.ask(1, &Request::Register(kinds));
            assert_eq!(rig.sent().len(), 1);
            list.freeze()
        };
        asks(&mut rig, &["SCHEMA_CHANGE", "NONSENSE"]);
        assert_eq!(rig.session.luggage().registered, None, "nobody has said yes");
        rig.reply(1, &Response::Error(ServerError::new(ErrorKind::Protocol, "Invalid value 'NONSENSE' for Type")));
        assert_eq!(rig.session.luggage().registered, None);
        let granted = asks(&mut rig, &["SCHEMA_CHANGE"]);
        rig.reply(1, &Response::Ready);
        asks(&mut rig, &["NONSENSE"]);
        rig.reply(1, &Response::Error(ServerError::new(ErrorKind::Protocol, "Invalid value 'NONSENSE' for Type")));
        assert_eq!(rig.session.luggage().registered, Some(granted));
    }
}

#[tokio::test]
async fn a_record_says_whether_its_client_was_seen_to_write_to_its_tables() {
    let mut rig = Rig::new(Version::V5, None);
    let text = "INSERT INTO t (k, v) VALUES (1, 1)";
    rig.query(1, text);
    rig.reply(1, &Response::Error(ServerError::new(ErrorKind::Unauthorized, "no MODIFY permission")));
    rig.query(1, text);
    rig.void(1);
    rig.query(1, text);
    let taken = StatementText::Text(text.as_bytes());
    rig.batch(2, BatchKind::Logged, &[taken, StatementText::Text(b"INSERT INTO wide (k, c, v) VALUES (2, 1, 1)")]);
    assert_eq!(rig.writes(|write| write.is_once), [true, true, false, true], "{:?}", rig.journal());
    let logged = |words: &String| words.contains("logged");
    assert_eq!(rig.journal().iter().filter(|words| logged(words)).count(), 1, "{:?}", rig.journal());
}

/// A session at a server that asks nobody who they are.
fn open_to_all() -> Rig {
    let mut rig = Rig::new(Version::V5, None);
    rig.shared.gate.close();
    rig.shared.gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
    rig.session.arrive(Side::Target);
    rig
}

#[tokio::test]
async fn a_part_of_a_batch_is_not_done_again_without_the_rest() {
    let insert = "INSERT INTO shop.t (k, v) VALUES (1, 'a')";
    let beside = [
        ("INSERT INTO shop.wide (k, c) VALUES (1, 1)", vec![false]),
        ("UPDATE shop.wide SET l = l + ['x'] WHERE k = 1 AND c = 2", vec![true]),
    ];
    for (other, is_once) in beside {
        let mut rig = open_to_all();
        rig.batch(1, BatchKind::Logged, &[insert, other].map(text));
        assert_eq!(rig.writes(|write| write.is_once), is_once, "{:?}", rig.journal());
    }
}

#[tokio::test]
async fn where_nobody_is_asked_who_they_are_everybody_may_write() {
    let mut rig = open_to_all();
    rig.query(1, "INSERT INTO t (k, v) VALUES (1, 1)");
    assert_eq!(rig.writes(|write| write.is_once), [false], "{:?}", rig.journal());
}
