//! The API over real sockets, without a database.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Error};
use super::server::{Bounds, serve_within};
use super::*;
use crate::check::{Finding, Rule, Severity};
use crate::config::Config;
use crate::cutover::controller::{Controller, Defaults, recover};
use crate::cutover::gate::Route;
use crate::cutover::steps::{self, Compared, Steps};
use crate::cutover::store::InMemory;
use crate::journal::Lsn;
use crate::mirror::state;
use crate::mirror::state::copier::Idle;
use crate::record::{Reason, Side};

static EXPORTER: LazyLock<Exporter> = LazyLock::new(|| crate::metrics::install().expect("once in this binary"));

const ACCOUNTS: TableId = TableId(7);

/// A wire whose secondary hangs as soon as it is written to.
fn hangs() -> Idle {
    Idle { hangs: true, ..Idle::default() }
}

fn mirror() -> Handle {
    let config = state::Config::default();
    let built = state::Engine::new(config, Journal::in_memory(), hangs(), state::Paths::in_memory());
    built.map(|(_, handle)| handle).expect("nothing to load")
}

/// An API that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) url: String,
    authority: String,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    readiness: watch::Sender<Readiness>,
}

async fn run(token: Option<&str>) -> Running {
    run_with(token, None).await
}

async fn run_with(token: Option<&str>, mirror: Option<Handle>) -> Running {
    run_all(token, mirror, None, Bounds::default()).await
}

/// Sides that agree with everything, but for a finding.
struct Sides {
    finding: Option<&'static Rule>,
    /// The mirror pays when it is told to.
    pay: Arc<tokio::sync::Notify>,
}

impl Steps for Sides {
    async fn prepare(&mut self, to: Side, _: Duration) -> Vec<Finding> {
        let found = |rule| Finding { rule, side: Some(to), object: "public.accounts".to_owned() };
        self.finding.map(found).into_iter().collect()
    }

    async fn relax(&mut self) {}

    async fn quiesce(&mut self, _: Side) -> Result<(), steps::Error> {
        Ok(())
    }

    async fn hindrances(&mut self, _: Side) -> Vec<String> {
        Vec::new()
    }

    async fn apply(&mut self) -> Result<Lsn, steps::Error> {
        self.pay.notified().await;
        Ok(Lsn(7))
    }

    async fn verify(&mut self) -> Result<Compared, steps::Error> {
        Ok(Compared { keys: 3, different: 0 })
    }

    async fn ready(&mut self, _: Side) -> Result<(), steps::Error> {
        Ok(())
    }

    fn flip(&mut self, _: Route, _: Lsn) {}

    async fn settle(&mut self, _: Side) -> Result<(), steps::Error> {
        Ok(())
    }

    async fn undo(&mut self, _: Side) -> Result<(), steps::Error> {
        Ok(())
    }
}

/// An API over a controller that could switch, and what lets its mirror pay.
pub(crate) async fn run_switch(finding: Option<&'static Rule>) -> (Running, Arc<tokio::sync::Notify>) {
    let pay = Arc::new(tokio::sync::Notify::new());
    let known = recover(InMemory::default()).await.expect("in memory");
    let gate = Gate::new(known.control().route(true));
    let defaults = Defaults { max_hold: std::time::Duration::from_secs(5) };
    let (controller, handle) = Controller::new(known, gate.clone(), Sides { finding, pay: pay.clone() }, defaults);
    let running = run_all(None, None, Some((gate, handle)), Bounds::default()).await;
    let stop = running.stop.clone();
    tokio::spawn(async move { controller.run(stop).await.expect("nothing is in doubt") });
    (running, pay)
}

async fn run_all(
    token: Option<&str>,
    mirror: Option<Handle>,
    switch: Option<(Gate, controller::Handle)>,
    bounds: Bounds,
) -> Running {
    let (gate, switch) = match switch {
        Some((gate, switch)) => (gate, Some(switch)),
        None => (Gate::new(Route { primary: Side::Origin, mirror: true, epoch: 1 }), None),
    };
    let (readiness, watched) = watch::channel(Readiness::Starting);
    let config = Config::from_text("proxy.toml", &crate::config::example(), []).expect("valid");
    let (live, journal) = (Live::new(&config), Journal::in_memory());
    let shadow =
        mirror.is_some().then(|| Board::new(&config.shadow, "test", live.clone(), gate.clone(), journal.clone()));
    let state = State {
        wire: Wire::Postgres,
        gate,
        journal: Some(journal),
        shadow,
        mirror,
        switch,
        pulses: None,
        names: Arc::new(|table| (table == ACCOUNTS).then(|| "public.accounts".to_owned())),
        live,
        level: None,
        exporter: EXPORTER.clone(),
        readiness: watched,
        token: token.map(Secret::new),
        started: Instant::now(),
        samples: Samples::default(),
        subscribers: Subscribers::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let authority = listener.local_addr().expect("bound").to_string();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve_within(bounds, listener, state, stop.clone()));
    Running { url: format!("http://{authority}"), authority, stop, served, readiness }
}

/// One request by hand, whole answer.
async fn raw(authority: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(authority).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer
}

async fn get(running: &Running, path: &str) -> String {
    raw(&running.authority, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn status_and_settings_answer_and_settings_change() {
    let running = run(None).await;
    let client = Client::new(&running.url, None).expect("a URL");
    let status = client.get("/v1/status").await.expect("answered");
    assert_eq!(status["phase"], "mirroring");
    assert_eq!(status["primary"], "origin");
    let changed = client.patch("/v1/settings", &json!({"mirror.ddl": "refuse"})).await.expect("changed");
    assert_eq!(changed["mirror.ddl"], "refuse");
    assert_eq!(client.get("/v1/settings").await.expect("answered")["mirror.ddl"], "refuse");
    let refused = client.patch("/v1/settings", &json!({"mirror.dll": "refuse"})).await;
    assert!(matches!(refused, Err(Error::Refused(why)) if why.contains("did you mean `mirror.ddl`")));
    let refused = client.patch("/v1/settings", &json!({"log.level": "tandem=loud"})).await;
    assert!(matches!(refused, Err(Error::Refused(why)) if why.contains("log.level")));
}

#[tokio::test]
async fn the_lag_grows_while_the_mirror_hangs_in_a_payment_of_nothing() {
    let storage = crate::journal::storage::MemoryDisk::default().storage();
    let (journal, _) = Journal::open_on(storage, crate::journal::Options::default()).expect("it is new");
    let config = state::Config::default();
    let heartbeat = config.heartbeat;
    let built = state::Engine::new(config, journal.clone(), hangs(), state::Paths::in_memory());
    let (engine, mirror) = built.expect("nothing to load");
    let stop = CancellationToken::new();
    tokio::time::pause();
    let running = tokio::spawn(engine.run(stop.clone()));
    tokio::time::sleep(2 * heartbeat).await;
    assert_eq!((mirror.status().phase, mirror.lag().seconds), (crate::mirror::Phase::Paying, 0.0));
    let mut record = crate::record::RecordBuf::default();
    record.key(ACCOUNTS, b"k", false);
    crate::mirror::handle::owe(&journal, &mut record).expect("there is room");
    journal.sync_now();
    tokio::time::sleep(Duration::from_secs(120)).await;
    tokio::time::resume();
    assert!(mirror.lag().seconds > 100.0, "{:?}", mirror.lag());
    let api = run_with(None, Some(mirror)).await;
    // All tests of this process have the same gauges: another one may just be setting its own.
    let grown = async {
        loop {
            let shown = get(&api, "/metrics").await;
            let of = |metric| crate::metrics::sum(&shown, metric, None);
            if of(&crate::metrics::MIRROR_LAG_SECONDS) > 100.0 && of(&crate::metrics::MIRROR_LAG_BYTES) > 0.0 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), grown).await.expect("it is shown");
    running.abort();
}

#[tokio::test]
async fn readiness_follows_the_listeners() {
    let running = run(None).await;
    assert!(get(&running, "/readyz").await.starts_with("HTTP/1.1 503"));
    running.readiness.send_replace(Readiness::Ready);
    assert!(get(&running, "/readyz").await.starts_with("HTTP/1.1 200"));
    running.readiness.send_replace(Readiness::Draining);
    assert!(get(&running, "/readyz").await.ends_with("draining\n"));
    assert!(get(&running, "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_token_guards_all_but_health_and_metrics() {
    let running = run(Some("s3cret")).await;
    for (path, _, guarded) in ROUTES.iter().filter(|(path, ..)| *path != "/v1/events") {
        let refused = get(&running, path).await.starts_with("HTTP/1.1 401");
        assert_eq!(refused, *guarded, "{path}");
    }
    let wrong = Client::new(&running.url, Some(&Secret::new("s3cres"))).expect("a URL");
    assert!(matches!(wrong.get("/v1/status").await, Err(Error::Refused(_))));
    let right = Client::new(&running.url, Some(&Secret::new("s3cret"))).expect("a URL");
    right.get("/v1/status").await.expect("the token is right");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_named() {
    let running = run(None).await;
    assert!(get(&running, "/v1/nothing").await.starts_with("HTTP/1.1 404"));
    let answer =
        raw(&running.authority, "DELETE /v1/settings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"));
    assert!(answer.to_lowercase().contains("allow: get, patch"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let running = run(None).await;
    let client = Client::new(&running.url, None).expect("a URL");
    let answer = client.patch("/v1/settings", &json!({"mirror.ddl": "x".repeat(100_000)})).await;
    assert!(answer.is_err());
    client.get("/v1/status").await.expect("still serving");
}

#[tokio::test]
async fn clients_that_ask_and_never_read_do_not_keep_others_out() {
    use tokio::io::AsyncWriteExt;
    let bounds = Bounds { connections_max: 2, stall_max: std::time::Duration::from_millis(100) };
    let running = run_all(None, None, None, bounds).await;
    for _ in 0..bounds.connections_max {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        // The less it takes, the sooner it takes nothing.
        socket.set_recv_buffer_size(4_096).expect("set");
        let mut stream = socket.connect(running.authority.parse().expect("an address")).await.expect("connected");
        // For ever: with the last answer in the system's buffers it would only be idle.
        let asked = "GET /dashboard/page.js HTTP/1.1\r\nhost: localhost\r\n\r\n";
        tokio::spawn(async move { while stream.write_all(asked.as_bytes()).await.is_ok() {} });
    }
    let answer = tokio::time::timeout(std::time::Duration::from_secs(120), get(&running, "/healthz")).await;
    assert!(answer.expect("it is let in").starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn dirty_tables_are_listed_by_name_repaired_and_cleared() {
    let mirror = mirror();
    mirror.mark_dirty(&[ACCOUNTS], Reason::Uncaptured).expect("marked");
    let running = run_with(None, Some(mirror)).await;
    let client = Client::new(&running.url, None).expect("a URL");
    let list = client.get("/v1/dirty").await.expect("answered");
    assert_eq!(list[0]["table"], "public.accounts");
    assert_eq!(list[0]["reasons"]["uncaptured"], 1);
    let repair = json!({"action": "repair", "table": "public.accounts"});
    assert!(client.post("/v1/dirty", &repair).await.expect("owed")["settles_at"].is_u64());
    let clear = json!({"action": "clear", "table": list[0]["id"]});
    client.post("/v1/dirty", &clear).await.expect("cleared");
    assert_eq!(client.get("/v1/dirty").await.expect("answered"), json!([]));
    let again = client.post("/v1/dirty", &clear).await;
    assert!(matches!(again, Err(Error::Missing(why)) if why.contains("is not dirty")));
    let wrong = client.post("/v1/dirty", &json!({"action": "burn", "table": "x"})).await;
    assert!(matches!(wrong, Err(Error::Refused(why)) if why.contains("unknown variant")));
}

#[tokio::test]
async fn parked_keys_that_are_not_there_are_named() {
    let running = run_with(None, Some(mirror())).await;
    let client = Client::new(&running.url, None).expect("a URL");
    assert_eq!(client.get("/v1/parked").await.expect("answered"), json!([]));
    for action in ["retry", "discard"] {
        let answer = client.post("/v1/parked", &json!({"action": action, "id": "00ff"})).await;
        assert!(matches!(answer, Err(Error::Missing(why)) if why.contains("00ff")));
    }
}

#[tokio::test]
async fn shadow_reads_are_shown_turned_on_and_their_differences_cleared() {
    let running = run_with(None, Some(mirror())).await;
    let client = Client::new(&running.url, None).expect("a URL");
    let report = client.get("/v1/shadow").await.expect("answered");
    assert_eq!(
        (&report["verdict"], &report["compared"], &report["statements"]),
        (&json!("off"), &json!(0), &json!([]))
    );
    client.patch("/v1/settings", &json!({"shadow.sample": "5%"})).await.expect("changed");
    let status = client.get("/v1/status").await.expect("answered");
    assert_eq!((&status["shadow"]["verdict"], &status["shadow"]["sample"]), (&json!("unproven"), &json!(0.05)));
    assert_eq!(client.get("/v1/shadow").await.expect("answered")["findings"][0]["name"], "shadow_unproven");
    assert_eq!(client.get("/v1/mismatches?values=true").await.expect("answered"), json!([]));
    assert_eq!(client.delete("/v1/mismatches").await.expect("answered"), json!({"cleared": 0}));
    for (path, why) in [("/v1/mismatches?id=7", "has the number 7"), ("/v1/mismatches?di=7", "must be id=NUMBER")] {
        assert!(matches!(client.delete(path).await, Err(error) if error.to_string().contains(why)), "{path}");
    }
    let metrics = get(&running, "/metrics").await;
    assert!(metrics.contains("tandem_shadow_sample_ratio 0.05"), "{metrics}");
}

#[tokio::test]
async fn without_a_mirror_its_ledgers_say_so() {
    let running = run(None).await;
    let client = Client::new(&running.url, None).expect("a URL");
    for path in ["/v1/parked", "/v1/dirty", "/v1/switch", "/v1/shadow", "/v1/mismatches"] {
        assert!(matches!(client.get(path).await, Err(Error::Refused(why)) if why.starts_with("mirroring is off")));
    }
}

const STRANGE: Rule = Rule { name: "strange", severity: Severity::Error, advice: "look at it" };

/// The report, as soon as it is so.
async fn report_until(client: &Client, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    loop {
        let report = client.get("/v1/switch").await.expect("answered");
        if is(&report) {
            return report;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_switch_is_begun_watched_and_told() {
    let (running, pay) = run_switch(None).await;
    let client = Client::new(&running.url, None).expect("a URL");
    let begun = client.post("/v1/switch", &json!({"to": "target"})).await.expect("begun");
    assert_eq!(begun["number"], 1);
    report_until(&client, |report| report["phase"] == "applying").await;
    let status = client.get("/v1/status").await.expect("answered");
    assert_eq!((&status["phase"], &status["switch"]["to"]), (&json!("switching"), &json!("target")));
    let twice = client.post("/v1/switch", &json!({"to": "target"})).await;
    assert!(matches!(twice, Err(Error::Refused(why)) if why.contains("a switch is under way (phase applying)")));
    pay.notify_one();
    let report = report_until(&client, |report| report["phase"] == "steady" && !report["last"].is_null()).await;
    assert_eq!((&report["primary"], &report["epoch"]), (&json!("target"), &json!(2)));
    assert_eq!((&report["last"]["end"], &report["last"]["compared"]), (&json!("switched"), &json!(3)));
    let status = client.get("/v1/status").await.expect("answered");
    assert_eq!((&status["phase"], &status["switch"]["last"]), (&json!("switched"), &json!("switched")));
    let there = client.post("/v1/switch", &json!({"to": "target"})).await;
    assert!(matches!(there, Err(Error::Refused(why)) if why == "target already answers clients"));
}

#[tokio::test]
async fn a_switch_that_is_called_off_leaves_all_as_before() {
    let (running, _) = run_switch(None).await;
    let client = Client::new(&running.url, None).expect("a URL");
    let nothing = client.post("/v1/switch/abort", &json!(null)).await;
    assert!(matches!(nothing, Err(Error::Refused(why)) if why == "no switch is under way"));
    client.post("/v1/switch", &json!({"to": "target"})).await.expect("begun");
    report_until(&client, |report| report["phase"] == "applying").await;
    let aborted = client.post("/v1/switch/abort", &json!(null)).await.expect("called off");
    assert_eq!((&aborted["primary"], &aborted["last"]["end"]), (&json!("origin"), &json!("aborted")));
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_switch_is_told_and_can_be_ignored() {
    let (running, _) = run_switch(Some(&STRANGE)).await;
    let client = Client::new(&running.url, None).expect("a URL");
    client.post("/v1/switch", &json!({"to": "target"})).await.expect("begun");
    let report = report_until(&client, |report| !report["last"].is_null()).await;
    assert_eq!(report["last"]["end"], "refused");
    assert_eq!(
        report["last"]["findings"][0],
        json!({"name": "strange", "severity": "error", "side": "target", "object": "public.accounts", "advice": "look at it"})
    );
    report_until(&client, |report| report["phase"] == "steady").await;
    let dry = json!({"to": "target", "dry_run": true, "ignore": ["strange"]});
    client.post("/v1/switch", &dry).await.expect("begun");
    let report = report_until(&client, |report| report["last"]["number"] == 2).await;
    assert_eq!((&report["last"]["end"], &report["primary"]), (&json!("ready"), &json!("origin")));
}

#[tokio::test]
async fn a_switch_that_cannot_be_is_refused_with_the_reason() {
    let (running, _) = run_switch(None).await;
    let body = |body: &str| {
        format!(
            "POST /v1/switch HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for (wrong, code, why) in [
        (r#"{"to":"target","max_hold_ms":99}"#, "400", "between 100 and 60000"),
        (r#"{"to":"target","max_hold_ms":60001}"#, "400", "between 100 and 60000"),
        (r#"{"to":"nowhere"}"#, "400", "unknown variant"),
        (r#"{"to":"target","dryrun":true}"#, "400", "unknown field"),
        (r#"{"to":"origin"}"#, "409", "origin already answers clients"),
    ] {
        let answer = raw(&running.authority, &body(wrong)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(why), "{wrong}: {answer}");
    }
    let accepted = raw(&running.authority, &body(r#"{"to":"target","dry_run":true}"#)).await;
    assert!(accepted.starts_with("HTTP/1.1 202"), "{accepted}");
}

#[tokio::test]
async fn events_tell_each_change_of_a_switch() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (running, pay) = run_switch(None).await;
    let mut stream = tokio::net::TcpStream::connect(&running.authority).await.expect("connected");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut seen = Vec::new();
    let mut until = async |what: &str| {
        while !String::from_utf8_lossy(&seen).contains(what) {
            assert!(stream.read_buf(&mut seen).await.expect("read") > 0, "{what}");
        }
    };
    until("event: switch\ndata: {\"phase\":\"steady\",\"primary\":\"origin\"").await;
    let client = Client::new(&running.url, None).expect("a URL");
    client.post("/v1/switch", &json!({"to": "target"})).await.expect("begun");
    until("{\"phase\":\"applying\"").await;
    pay.notify_one();
    until("{\"phase\":\"steady\",\"primary\":\"target\"").await;
}

#[tokio::test]
async fn readers_of_events_leave_room_for_operators() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = run(None).await;
    let subscribe = async || {
        let mut stream = tokio::net::TcpStream::connect(&running.authority).await.expect("connected");
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
        let mut head = vec![0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut head).await.expect("an answer");
        (String::from_utf8(head).expect("ASCII"), stream)
    };
    let mut readers = Vec::new();
    for _ in 0..32 {
        readers.push(subscribe().await);
    }
    assert!(readers.iter().all(|(head, _)| head == "HTTP/1.1 200"));
    assert_eq!(subscribe().await.0, "HTTP/1.1 503");
    assert!(get(&running, "/v1/status").await.contains("\"readiness\""));
    readers.clear();
    while subscribe().await.0 != "HTTP/1.1 200" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn metrics_render_in_text() {
    let running = run(None).await;
    get(&running, "/healthz").await;
    let answer = get(&running, "/metrics").await;
    assert!(answer.contains("# TYPE tandem_admin_requests_total counter"), "{answer}");
    assert!(answer.contains("tandem_units_inside 0"), "{answer}");
}

#[tokio::test]
async fn a_stop_ends_streams_of_events_too() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = run(None).await;
    let mut stream = tokio::net::TcpStream::connect(&running.authority).await.expect("connected");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("event: status") {
        assert!(stream.read_buf(&mut seen).await.expect("read") > 0);
    }
    running.stop.cancel();
    running.served.await.expect("it ends");
}

#[test]
fn the_openapi_file_has_every_route_and_no_other() {
    let file = include_str!("../../docs/openapi.json");
    let file: serde_json::Value = serde_json::from_str(file).expect("JSON");
    let mut described = Vec::new();
    for (path, methods) in file["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            described.push((path.clone(), method.to_uppercase()));
        }
    }
    let mut served: Vec<(String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods, _)| methods.iter().map(|method| ((*path).to_owned(), (*method).to_owned())))
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}
