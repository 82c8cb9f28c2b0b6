//! What clients see where tandem ends and the cluster begins: nodes that say nothing, clients that do not listen, and what is told of
//! the nodes behind the proxy.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use tandem::sandbox::cassandra::Node;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Ask, Cql, Dial, ERROR, Failure, Frame, Out, QUERY, READY, REGISTER, RESULT, Value};
use crate::support::tandem::Tandem;

const READ_TIMEOUT: i32 = 0x1200;
const WRITE_TIMEOUT: i32 = 0x1100;

fn through(tandem: &Tandem, keyspace: &str, version: u8) -> Cql {
    let dial = Dial { version, keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    Cql::dial(tandem.address(), &dial).expect("a login")
}

/// A way to a node on which its answers can be held back.
struct Dam {
    address: SocketAddrV4,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Dam {
    fn before(node: &Node) -> Dam {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (behind, watch) = (node.address(), gate.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(node) = TcpStream::connect(behind) else { continue };
                let pair = || (client.try_clone().expect("a socket"), node.try_clone().expect("a socket"));
                let (there, back) = (pair(), pair());
                let watch = watch.clone();
                std::thread::spawn(move || copy(there.0, there.1, || {}));
                std::thread::spawn(move || copy(back.1, back.0, || wait(&watch)));
            }
        });
        Dam { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), gate }
    }

    fn hold(&self, held: bool) {
        *self.gate.0.lock().expect("nobody panics with it") = held;
        self.gate.1.notify_all();
    }
}

fn wait((held, changed): &(Mutex<bool>, Condvar)) {
    drop(changed.wait_while(held.lock().expect("nobody panics with it"), |held| *held));
}

fn copy(mut from: TcpStream, mut to: TcpStream, before: impl Fn()) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        before();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// QUERY without parameters, at ONE, on a stream of its own.
fn send(cql: &mut Cql, version: u8, stream: i16, text: &str) {
    let out = Out::default().long_string(text).short(1);
    let out = if version >= 5 { out.int(0) } else { out.byte(0) };
    cql.send(version, 0, stream, QUERY, &out.0);
}

/// The code of an ERROR and how its body ends.
fn refusal(frame: &Frame) -> (i32, String) {
    assert_eq!(frame.opcode, ERROR, "{frame:?}");
    let failure = Failure::parse(frame);
    let rest = String::from_utf8_lossy(&failure.rest).into_owned();
    let kind = rest.chars().filter(|c| c.is_ascii_uppercase() || *c == '_').collect();
    (failure.code, kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_does_not_answer_is_answered_in_bounded_time_and_a_late_answer_reaches_nobody() {
    let nodes = pair_with("silent");
    for node in nodes {
        let mut cql = Cql::of(node, "silent");
        cql.define("CREATE TABLE t (k int PRIMARY KEY, v int)");
        cql.define("CREATE TABLE other (k int PRIMARY KEY, word text)");
        cql.define("CREATE TABLE n (k int PRIMARY KEY, v counter)");
    }
    let dam = Dam::before(nodes[0]);
    let tandem = Tandem::start_cql(dam.address, nodes[1].address(), "[limits]\nanswer_timeout = \"3s\"").await;
    through(&tandem, "silent", 4).run("INSERT INTO other (k, word) VALUES (1, 'other')");
    for version in [3_u8, 4, 5] {
        let mut cql = through(&tandem, "silent", version);
        let k = i32::from(version);
        // Of two partitions, or it would be one write.
        let batch = |kind: &str, one: String, other: String| format!("BEGIN {kind} BATCH {one} {other} APPLY BATCH");
        let insert = |k| format!("INSERT INTO t (k, v) VALUES ({k}, 1);");
        let asked = [
            (insert(k), (WRITE_TIMEOUT, "SIMPLE")),
            ("SELECT * FROM t".to_owned(), (READ_TIMEOUT, "")),
            (format!("INSERT INTO t (k, v) VALUES ({}, 1) IF NOT EXISTS", k + 10), (WRITE_TIMEOUT, "CAS")),
            (format!("UPDATE n SET v = v + 1 WHERE k = {k}"), (WRITE_TIMEOUT, "COUNTER")),
            (batch("", insert(k + 20), insert(k + 21)), (WRITE_TIMEOUT, "BATCH_LOG")),
            (batch("UNLOGGED", insert(k + 30), insert(k + 31)), (WRITE_TIMEOUT, "UNLOGGED_BATCH")),
        ];
        dam.hold(true);
        for (stream, (text, _)) in (10..).zip(&asked) {
            send(&mut cql, version, stream, text);
        }
        for _ in &asked {
            let frame = cql.receive().expect("an answer");
            let (text, (code, kind)) = &asked[frame.stream as usize - 10];
            assert_eq!(refusal(&frame), (*code, (*kind).to_owned()), "v{version}: {text}");
        }
        // The ids are the client's again, while the node owes their answers.
        for stream in (10..).take(asked.len()) {
            send(&mut cql, version, stream, "SELECT word FROM other");
        }
        dam.hold(false);
        for _ in &asked {
            let frame = cql.receive().expect("an answer");
            assert_eq!(frame.opcode, RESULT, "{frame:?}");
            assert!(String::from_utf8_lossy(&frame.body).contains("other"), "another's answer: {frame:?}");
        }
        assert_eq!(cql.rows("SELECT word FROM other"), ["other"]);
    }
    // What was in doubt is the same on both sides in the end.
    tandem.settled().await;
    for table in ["t", "n"] {
        let [old, new] = nodes.map(|node| {
            let mut rows = Cql::of(node, "silent").rows(&format!("SELECT k, v FROM {table}"));
            rows.sort();
            rows
        });
        assert_eq!(old, new, "{table}");
        assert!(!old.is_empty(), "{table}");
    }
}

/// A row of 100 KB, asked for so often without an answer being read that it would be 100 MB. Many more, and the node itself,
/// which bounds nothing here, runs out of memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_costs_a_bounded_amount_of_memory() {
    const REQUESTS: i16 = 1_000;
    let nodes = pair_with("unread");
    for node in nodes {
        Cql::of(node, "unread").define("CREATE TABLE t (k int PRIMARY KEY, v blob)");
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let values = [Value::Is(vec![7; 100_000])];
    let insert = "INSERT INTO t (k, v) VALUES (1, ?)";
    through(&tandem, "unread", 4).query(insert, &Ask { values: &values, ..Ask::default() }).expect("written");
    tandem.settled().await;
    let before = tandem.resident();
    let mut cql = through(&tandem, "unread", 4);
    (0..REQUESTS).for_each(|stream| send(&mut cql, 4, stream, "SELECT v FROM t WHERE k = 1"));
    // It answers others meanwhile; when it has stopped reading from the node, it holds all that it ever will.
    let mut last = 0;
    while tandem.resident() > last {
        last = tandem.resident();
        for _ in 0..50 {
            through(&tandem, "unread", 4).rows("SELECT k FROM t");
        }
    }
    let grown = last.saturating_sub(before) >> 20;
    assert!(grown < 32, "{grown} MB");
    for _ in 0..REQUESTS {
        assert_eq!(cql.receive().expect("an answer").opcode, RESULT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_told_of_and_the_nodes_behind_the_proxy_are_not() {
    let nodes = pair_with("told");
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    for version in [3, 4, 5] {
        let mut cql = through(&tandem, "told", version);
        let kinds = ["SCHEMA_CHANGE", "TOPOLOGY_CHANGE", "STATUS_CHANGE"];
        let body = kinds.iter().fold(Out::default().short(3), |out, kind| out.string(kind));
        assert_eq!(cql.say(REGISTER, 0, &body.0).opcode, READY);
        through(&tandem, "told", 4).run(&format!("CREATE TABLE t{version} (k int PRIMARY KEY)"));
        // Other tests change their keyspaces.
        let told = std::iter::from_fn(|| cql.receive()).find(|frame| {
            assert_eq!(frame.stream, -1);
            String::from_utf8_lossy(&frame.body).contains(&format!("t{version}"))
        });
        assert!(told.is_some(), "v{version}");
    }
    let mut cql = through(&tandem, "told", 5);
    // As drivers wait for it.
    assert_eq!(cql.rows("SELECT schema_version FROM system.local").len(), 1);
    for (keyspace, columns) in [(None, 3), (Some("told"), 4)] {
        let dial = Dial { version: 5, keyspace: keyspace.map(str::to_owned), ..Dial::default() };
        let [direct, ours] = [nodes[0].address(), tandem.address()]
            .map(|address| Cql::dial(address, &dial).expect("a login").run("DESCRIBE CLUSTER").rows());
        assert_eq!((direct.columns.len(), &direct.columns), (columns, &ours.columns));
        assert_eq!((&direct.rows[0][..2], ours.rows.len()), (&ours.rows[0][..2], 1));
        let cells = ours.rows.iter().flatten().flatten();
        let text: String = cells.map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
        assert!(!text.contains(&nodes[0].address().ip().to_string()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_noted_without_their_passwords() {
    let nodes = pair_with("noted");
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let mut cql = through(&tandem, "noted", 4);
    // Refused by a node where nobody logs in; noted all the same.
    let _ = cql.query("CREATE ROLE app WITH PASSWORD = 'xyzzy' AND LOGIN = true", &Ask::default());
    let noted = || tandem.log().lines().any(|line| line.contains("CreateRole") && line.contains("not mirrored"));
    while !noted() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!tandem.log().contains("xyzzy"));
}

/// A driver that always has requests under way, and a connection of a pool on which nothing was said yet.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_rest_or_never_speak_do_not_hold_up_the_end_and_what_was_written_was_answered() {
    const FLIGHTS: i32 = 16;
    let nodes = pair_with("leaving");
    for node in nodes {
        Cql::of(node, "leaving").define("CREATE TABLE t (k int PRIMARY KEY)");
    }
    let limits = "[limits]\nlogin_timeout = \"600s\"\ndrain_timeout = \"60s\"";
    let mut tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), limits).await;
    let silent = TcpStream::connect(tandem.address()).expect("it listens");
    let mut cql = through(&tandem, "leaving", 4);
    let (tell, busy) = mpsc::sync_channel(1);
    let load = std::thread::spawn(move || {
        let insert = |cql: &mut Cql, stream: i16, k: i32| {
            let text = format!("INSERT INTO t (k) VALUES ({k})");
            let out = Out::default().long_string(&text).short(1).byte(0);
            // It may have ended by now.
            let _ = cql.send_raw(&Frame::put(4, 0, stream, QUERY, &out.0));
        };
        let mut under_way: Vec<i32> = (0..FLIGHTS).collect();
        (0..).zip(&under_way).for_each(|(stream, k)| insert(&mut cql, stream, *k));
        let mut answered = BTreeSet::new();
        while let Some(frame) = cql.receive() {
            assert_eq!(frame.opcode, RESULT, "{frame:?}");
            let k = &mut under_way[frame.stream as usize];
            answered.insert(k.to_string());
            *k += FLIGHTS;
            insert(&mut cql, frame.stream, *k);
            if answered.len() == 200 {
                tell.send(()).expect("somebody waits");
            }
        }
        answered
    });
    busy.recv().expect("it is under way");
    assert_eq!(tandem.terminate(), Some(0), "{}", tandem.log());
    assert!(!tandem.log().contains("drain_timeout"), "{}", tandem.log());
    drop(silent);
    let answered = load.join().expect("no panic");
    let written: BTreeSet<String> = Cql::of(nodes[0], "leaving").rows("SELECT k FROM t").into_iter().collect();
    assert_eq!(written, answered);
}
