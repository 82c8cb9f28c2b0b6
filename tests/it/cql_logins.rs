//! TLS and logins, on every side, in every version: clients are who they are where they write, before and after a switch.

use std::sync::OnceLock;

use tandem::protocol::cql::stamps::now_micros;
use tandem::sandbox::cassandra::{Cluster, Node, Options};
use tandem::sandbox::postgres::Tls;

use crate::support::cassandra::{cluster, make_keyspace, pair, versions};
use crate::support::cql::{
    AUTH_RESPONSE, AUTH_SUCCESS, AUTHENTICATE, Ask, Cql, Dial, ERROR, Failure, Out, QUERY, trusting,
};
use crate::support::paper::{Paper, showing};
use crate::support::tandem::{Tandem, cli};

const UNAUTHORIZED: i32 = 0x2100;
const BAD_CREDENTIALS: i32 = 0x0100;

/// Of the nodes, of tandem's listener, of tandem and of clients.
struct Papers {
    node: Paper,
    listener: Paper,
    tandem: Paper,
    client: Paper,
}

/// An old node that asks for a login over mutual TLS, a new one that asks for a login over TLS.
fn guarded() -> (&'static [Cluster; 2], &'static Papers) {
    static GUARDED: OnceLock<([Cluster; 2], Papers)> = OnceLock::new();
    let made = GUARDED.get_or_init(|| {
        let papers = Papers { node: Paper::new(), listener: Paper::new(), tandem: Paper::new(), client: Paper::new() };
        let options = |ca| {
            let tls = Tls { cert: papers.node.cert.clone(), key: papers.node.key.clone(), ca };
            Options { authentication: true, tls: Some(tls), ..Options::default() }
        };
        let (mutual, mut simple) = (options(Some(papers.tandem.cert.clone())), options(None));
        simple.config.push("dynamic_data_masking_enabled: true".to_owned());
        let (old, new) = versions();
        let clusters = std::thread::scope(|scope| {
            let new = scope.spawn(move || cluster(&new, 1, &simple));
            [cluster(&old, 1, &mutual), new.join().expect("a cluster")]
        });
        (clusters, papers)
    });
    (&made.0, &made.1)
}

impl Papers {
    /// How tests themselves come to a guarded node: with tandem's certificate.
    fn to_node(&self, login: (&'static str, &'static str)) -> Dial {
        Dial { login: Some(login), tls: Some(showing(&self.node, &self.tandem)), ..Dial::default() }
    }

    /// How clients come to tandem.
    fn to_tandem(&self, version: u8, login: Option<(&'static str, &'static str)>) -> Dial {
        Dial { version, login, tls: Some(showing(&self.listener, &self.client)), ..Dial::default() }
    }
}

/// May do everything on guarded nodes.
pub(crate) const ROOT: (&str, &str) = ("cassandra", "cassandra");
const WRITER: (&str, &str) = ("writer", "writes");
const READER: (&str, &str) = ("reader", "reads");

/// A keyspace with a table, and roles where there are any.
fn prepare(address: std::net::SocketAddrV4, dial: &Dial, keyspace: &str) {
    let mut cql = Cql::dial(address, dial).expect("a login");
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    cql.define(&format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"));
    cql.define(&format!("CREATE TABLE {keyspace}.t (k int PRIMARY KEY, v int)"));
    if dial.login.is_some() {
        for (role, password) in [WRITER, READER, ("anonymous", "nobody")] {
            cql.run(&format!("CREATE ROLE IF NOT EXISTS {role} WITH PASSWORD = '{password}' AND LOGIN = true"));
        }
        for role in ["writer", "anonymous"] {
            cql.run(&format!("GRANT ALL PERMISSIONS ON KEYSPACE {keyspace} TO {role}"));
        }
        cql.run(&format!("GRANT SELECT ON KEYSPACE {keyspace} TO reader"));
    }
}

/// Where tandem's configuration finds the papers, and how it calls the guarded nodes.
struct Office {
    _sandbox: tandem::sandbox::Sandbox,
    listen: String,
    old: String,
    new: String,
}

fn office(clusters: &[Cluster; 2], papers: &Papers) -> Office {
    let sandbox = tandem::sandbox::Sandbox::new(false).expect("a temp folder");
    let dir = sandbox.dir().to_owned();
    for (paper, name) in
        [(&papers.node, "node"), (&papers.listener, "listener"), (&papers.tandem, "tandem"), (&papers.client, "client")]
    {
        paper.write(&dir, name);
    }
    std::fs::write(dir.join("anonymous.password"), "nobody").expect("written");
    let at = |name: &str| dir.join(name).display().to_string();
    let listen = format!(
        "tls_cert = \"{}\"\ntls_key = \"{}\"\ntls_ca = \"{}\"",
        at("listener.crt"),
        at("listener.key"),
        at("client.crt")
    );
    let url = |cluster: &Cluster, more: &str| {
        let ca = at("node.crt");
        format!("cql://cassandra:cassandra@{}?sslmode=verify-ca&sslrootcert={ca}{more}", cluster.contact())
    };
    let shown = format!("&sslcert={}&sslkey={}", at("tandem.crt"), at("tandem.key"));
    let (old, new) = (url(&clusters[0], &shown), url(&clusters[1], ""));
    Office { _sandbox: sandbox, listen, old, new }
}

/// tandem before guarded nodes, with TLS towards its clients.
pub(crate) struct Guarded {
    pub(crate) tandem: Tandem,
    /// Of its certificate.
    pub(crate) ca: std::path::PathBuf,
    _office: Office,
}

impl Guarded {
    /// Between the old and the new one, with an empty keyspace.
    pub(crate) async fn start(keyspace: &str) -> Guarded {
        let (clusters, papers) = guarded();
        let office = office(clusters, papers);
        clusters.iter().for_each(|cluster| empty(cluster, papers, keyspace));
        let origin = office.old.clone();
        Guarded::over(office, &origin).await
    }

    /// The new one behind an open node.
    pub(crate) async fn before(origin: &Node, keyspace: &str) -> Guarded {
        let (clusters, papers) = guarded();
        empty(&clusters[1], papers, keyspace);
        Guarded::over(office(clusters, papers), &format!("cql://{}", origin.address())).await
    }

    async fn over(office: Office, origin: &str) -> Guarded {
        let ca = office._sandbox.dir().join("listener.crt");
        let listen: Vec<&str> = office.listen.lines().filter(|line| !line.starts_with("tls_ca")).collect();
        let tandem = Tandem::start_listening("cql", &listen.join("\n"), origin, &office.new, "").await;
        Guarded { tandem, ca, _office: office }
    }

    /// Of both guarded nodes, direct.
    pub(crate) fn clients(&self, keyspace: &str) -> [Cql; 2] {
        guarded().0.each_ref().map(|cluster| direct(cluster, keyspace))
    }

    /// Of the new one.
    pub(crate) fn target(keyspace: &str) -> Cql {
        direct(&guarded().0[1], keyspace)
    }
}

fn direct(cluster: &Cluster, keyspace: &str) -> Cql {
    let dial = Dial { keyspace: Some(keyspace.to_owned()), ..guarded().1.to_node(ROOT) };
    Cql::dial(cluster.contact(), &dial).expect("a login")
}

fn empty(cluster: &Cluster, papers: &Papers, keyspace: &str) {
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    let mut cql = Cql::dial(cluster.contact(), &papers.to_node(ROOT)).expect("a login");
    cql.define(&format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"));
}

fn insert(cql: &mut Cql, keyspace: &str, k: i32) -> Result<(), Failure> {
    cql.query(&format!("INSERT INTO {keyspace}.t (k, v) VALUES ({k}, 1)"), &Ask::default()).map(|_| ())
}

fn count(cql: &mut Cql, keyspace: &str) -> String {
    cql.rows(&format!("SELECT count(*) FROM {keyspace}.t")).concat()
}

/// Clients of each version, before a switch, after it and after the way back; all stay connected, more come.
async fn there_and_back(tandem: &Tandem, keyspace: &str, dial: impl Fn(u8) -> Dial) -> i32 {
    let mut clients: Vec<Cql> = Vec::new();
    let mut written = 0;
    for side in [None, Some("target"), Some("origin")] {
        if let Some(side) = side {
            tandem.settled().await;
            tandem.switch_to(side).await;
        }
        for version in [3, 4, 5] {
            let dialed = Cql::dial(tandem.address(), &dial(version));
            clients.push(dialed.unwrap_or_else(|failure| panic!("v{version} {side:?}: {failure:?}\n{}", tandem.log())));
        }
        for cql in &mut clients {
            written += 1;
            insert(cql, keyspace, written).unwrap_or_else(|failure| panic!("{side:?}: {failure:?}\n{}", tandem.log()));
        }
        assert_eq!(count(&mut clients[0], keyspace), written.to_string());
    }
    tandem.settled().await;
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_who_they_are_on_both_sides_over_mutual_tls() {
    let (clusters, papers) = guarded();
    for cluster in clusters {
        prepare(cluster.contact(), &papers.to_node(ROOT), "own");
    }
    let office = office(clusters, papers);
    let tandem = Tandem::start_listening("cql", &office.listen, &office.old, &office.new, "").await;
    for version in [3, 4, 5] {
        let dial = |login| papers.to_tandem(version, Some(login));
        let failure = insert(&mut Cql::dial(tandem.address(), &dial(READER)).expect("a login"), "own", -1);
        assert_eq!(failure.expect_err("it may only read").code, UNAUTHORIZED);
        let wrong = Cql::dial(tandem.address(), &dial(("writer", "wrong"))).err();
        assert_eq!(wrong.map(|failure| failure.code), Some(BAD_CREDENTIALS));
        // Another try on the same connection, as a node has it.
        let mut cql = Cql::open(tandem.address(), &dial(WRITER)).expect("it listens");
        assert_eq!(cql.startup(&[("CQL_VERSION", "3.0.0")]).expect("asked").opcode, AUTHENTICATE);
        for (password, wanted) in [("wrong", 0), ("writes", AUTH_SUCCESS)] {
            let token = Out::default().bytes(format!("\0writer\0{password}").as_bytes());
            assert_eq!(cql.say(AUTH_RESPONSE, 0, &token.0).opcode, wanted, "v{version}");
        }
        assert_eq!(count(&mut cql, "own"), "0");
    }
    // Nobody without a certificate, nobody in clear.
    let without = Dial { tls: Some(trusting(papers.listener.der.clone())), ..papers.to_tandem(4, Some(WRITER)) };
    for dial in [without, Dial::default()] {
        let mut cql = Cql::open(tandem.address(), &dial).expect("it listens");
        cql.send_raw(&[4, 0, 0, 1, 5, 0, 0, 0, 0]).ok();
        assert!(cql.receive().is_none());
    }
    let written = there_and_back(&tandem, "own", |version| papers.to_tandem(version, Some(WRITER))).await;
    for cluster in clusters {
        let mut cql = Cql::dial(cluster.contact(), &papers.to_node(ROOT)).expect("a login");
        assert_eq!(count(&mut cql, "own"), written.to_string());
    }
    for secret in ["writes", "wrong", "cassandra:cassandra"] {
        assert!(!tandem.log().contains(secret), "{secret}");
    }
}

fn open_node(side: usize, keyspace: &str) -> &'static Node {
    let node = pair()[side];
    make_keyspace(node, keyspace, 1);
    Cql::of(node, keyspace).define("CREATE TABLE t (k int PRIMARY KEY, v int)");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_an_origin_that_asks_nobody_are_anonymous_on_a_target_that_asks() {
    let (clusters, papers) = guarded();
    let origin = open_node(0, "nobody");
    prepare(clusters[1].contact(), &papers.to_node(ROOT), "nobody");
    let office = office(clusters, papers);
    let from = format!("cql://{}", origin.address());
    let mut tandem = Tandem::start_listening("cql", "", &from, &office.new, "").await;
    let ignored = ["switch", "target", "--yes", "--ignore", "schema_differs", "--admin", &tandem.admin];
    let refused = cli(&ignored);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("login_fails") && said.contains("anonymous"), "{said}");
    tandem.terminate();
    let users = format!(
        "[[users]]\nname = \"anonymous\"\npassword_file = \"{}\"",
        office._sandbox.dir().join("anonymous.password").display()
    );
    let tandem = Tandem::start_listening("cql", "", &from, &office.new, &users).await;
    let written = there_and_back(&tandem, "nobody", |version| Dial { version, ..Dial::default() }).await;
    assert_eq!(count(&mut Cql::of(origin, "nobody"), "nobody"), written.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_an_origin_that_asks_are_asked_before_a_target_that_does_not() {
    let (clusters, papers) = guarded();
    prepare(clusters[0].contact(), &papers.to_node(ROOT), "asked");
    let target = open_node(1, "asked");
    let office = office(clusters, papers);
    let to = format!("cql://{}", target.address());
    let tandem = Tandem::start_listening("cql", "", &office.old, &to, "").await;
    let dial = |version| Dial { version, login: Some(WRITER), ..Dial::default() };
    let written = there_and_back(&tandem, "asked", dial).await;
    assert_eq!(count(&mut Cql::of(target, "asked"), "asked"), written.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_another_password_on_the_target_go_there_and_back() {
    const THERE: (&str, &str) = ("moved", "of the target");
    let (clusters, papers) = guarded();
    for (cluster, password) in clusters.iter().zip(["of the origin", THERE.1]) {
        prepare(cluster.contact(), &papers.to_node(ROOT), "moved");
        let mut cql = direct(cluster, "moved");
        cql.run(&format!("CREATE ROLE moved WITH PASSWORD = '{password}' AND LOGIN = true"));
        cql.run("GRANT ALL PERMISSIONS ON KEYSPACE moved TO moved");
    }
    let office = office(clusters, papers);
    let file = office._sandbox.dir().join("moved.password");
    std::fs::write(&file, THERE.1).expect("written");
    let users = format!("[[users]]\nname = \"moved\"\npassword_file = \"{}\"", file.display());
    let tandem = Tandem::start_listening("cql", &office.listen, &office.old, &office.new, &users).await;
    let mut cql = Cql::dial(tandem.address(), &papers.to_tandem(4, Some(("moved", "of the origin")))).expect("a login");
    for (k, side) in [(1, "target"), (2, "origin"), (3, "target"), (4, "origin")] {
        tandem.settled().await;
        tandem.switch_to(side).await;
        insert(&mut cql, "moved", k).unwrap_or_else(|failure| panic!("{side}: {failure:?}\n{}", tandem.log()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_shown_masked_are_named_until_tandem_may_see_them() {
    let (clusters, papers) = guarded();
    for cluster in clusters {
        prepare(cluster.contact(), &papers.to_node(ROOT), "masked");
    }
    direct(&clusters[0], "masked").define("CREATE TABLE people (k int PRIMARY KEY, v text)");
    let mut new = direct(&clusters[1], "masked");
    new.define("CREATE TABLE people (k int PRIMARY KEY, v text MASKED WITH DEFAULT)");
    new.run("REVOKE UNMASK ON KEYSPACE masked FROM writer");
    let office = office(clusters, papers);
    let masked = |login: &str| {
        let to = office.new.replace("cassandra:cassandra@", login);
        let tandem = Tandem::configured("cql", "", &office.old, &to, "");
        let file = tandem.dir().join("proxy.toml").display().to_string();
        let output = cli(&["check", "--json", "--config", &file]);
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = shown["findings"].as_array().unwrap_or_else(|| panic!("{shown:#}"));
        let named = all.iter().filter(|one| one["name"] == "masked_column");
        named.map(|one| one["object"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(masked("writer:writes@"), ["masked.people: v"]);
    assert_eq!(masked("cassandra:cassandra@"), [""; 0]);
    new.run("GRANT UNMASK ON TABLE people TO writer");
    assert_eq!(masked("writer:writes@"), [""; 0]);
}

/// What makes some nodes run out of memory.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decompressed_reaches_no_node_before_a_login_either() {
    let (clusters, papers) = guarded();
    let office = office(clusters, papers);
    let tandem = Tandem::start_listening("cql", &office.listen, &office.old, &office.new, "").await;
    for version in [3, 4] {
        let mut cql = Cql::open(tandem.address(), &papers.to_tandem(version, Some(WRITER))).expect("it listens");
        let startup = [("CQL_VERSION", "3.0.0"), ("COMPRESSION", "lz4")];
        assert_eq!(cql.startup(&startup).expect("asked").opcode, AUTHENTICATE);
        for opcode in [QUERY, AUTH_RESPONSE] {
            for body in [&b"\x7F\xFF\xFF\xFF\0\0"[..], b"\xFF\xFF\xFF\xFF\0\0", b"\0\0\0\x08nonsense"] {
                cql.send(version, 0x01, 7, opcode, body);
                let refused = cql.receive().expect("an answer");
                assert_eq!((refused.stream, refused.opcode, &refused.body[..4]), (0, ERROR, &[0; 4][..]), "{body:?}");
            }
        }
        let token = Out::default().bytes(b"\0writer\0writes");
        assert_eq!(cql.say(AUTH_RESPONSE, 0, &token.0).opcode, AUTH_SUCCESS, "v{version}: it goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_statements_arrive_by_state_where_ballots_may_not_be_read() {
    let (clusters, papers) = guarded();
    for cluster in clusters {
        prepare(cluster.contact(), &papers.to_node(ROOT), "unread");
        let mut cql = direct(cluster, "unread");
        cql.define("CREATE TABLE lwt (k int, c int, v int, m map<int, int>, l list<int>, PRIMARY KEY (k, c))");
    }
    let office = office(clusters, papers);
    let from = office.old.replace("cassandra:cassandra@", "writer:writes@");
    let tandem = Tandem::start_listening("cql", &office.listen, &from, &office.new, "").await;
    let dial = Dial { keyspace: Some("unread".to_owned()), ..papers.to_tandem(5, Some(WRITER)) };
    let mut cql = Cql::dial(tandem.address(), &dial).expect("a login");
    let old = now_micros() - 1_000_000;
    for k in 0..10 {
        for text in [
            "INSERT INTO lwt (k, c, v, m, l) VALUES (?, 1, 1, {1: 1}, [1]) IF NOT EXISTS USING TTL 5000",
            "UPDATE lwt SET v = 2, m[2] = 2, l = l + [2] WHERE k = ? AND c = 1 IF v = 1",
            "UPDATE lwt SET v = 9 WHERE k = ? AND c = 1 IF v = 1",
            "INSERT INTO lwt (k, c, v) VALUES (?, 2, 1) IF NOT EXISTS",
            "DELETE FROM lwt WHERE k = ? AND c = 2 IF EXISTS",
        ] {
            cql.run(&text.replace('?', &k.to_string()));
        }
        // Late, and dead on the primary.
        cql.run_at(&format!("INSERT INTO lwt (k, c, v) VALUES ({k}, 2, 3)"), old);
    }
    tandem.settled().await;
    let cells = "SELECT k, c, v, writetime(v), m, l FROM lwt";
    let [mut here, mut there] = clusters.each_ref().map(|cluster| direct(cluster, "unread"));
    let rows = here.rows(cells);
    assert_eq!((there.rows(cells), rows.len()), (rows, 10), "{}", tandem.log());
    let metrics = tandem.metrics().await;
    let unread = metrics.lines().find(|line| line.starts_with("tandem_ballots_unread_total"));
    assert!(unread.is_some_and(|line| line.contains("refused")), "{unread:?}");
    // In an hour and a half, what was inserted is gone, and what was not is there.
    let later = |cluster: &Cluster| {
        let dial = Dial { version: 5, keyspace: Some("unread".to_owned()), ..papers.to_node(ROOT) };
        let ask = Ask { now_in_seconds: Some((now_micros() / 1_000_000) as i32 + 5_400), ..Ask::default() };
        let mut cql = Cql::dial(cluster.contact(), &dial).expect("a login");
        cql.query("SELECT k, c, v, m, l FROM lwt WHERE k = 1", &ask).expect("rows").rows().lines()
    };
    assert_eq!(clusters.each_ref().map(later), [["1|1|2|{2: 2}|[2]"], ["1|1|2|{2: 2}|[2]"]]);
}
