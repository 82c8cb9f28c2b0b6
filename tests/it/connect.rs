//! Connecting: what libpq's connection parameters do through tandem, compared with what they do without it. The client is
//! psycopg, whose libpq is a new one with TLS.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use ::tandem::sandbox::Options;

use crate::journeys::{PASSWORD, Place, Stage, python};
use crate::support::{newest, server_with, tandem::Tandem};

/// What became of each connection: its user, protocol, TLS, and whether a statement on it could be cancelled; or an error.
async fn libpq(conninfos: Vec<String>) -> Vec<Value> {
    let run = move |mut command: Command| {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python is installed");
        let mut lines = child.stdin.take().expect("piped");
        conninfos.iter().for_each(|line| writeln!(lines, "{line}").expect("it reads"));
        drop(lines);
        child.wait_with_output().expect("it ends")
    };
    let output = tokio::task::spawn_blocking(move || run(python("connect.py"))).await.expect("it ends");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn at(place: &Place, parameters: &[&str]) -> Vec<Value> {
    let (port, database, root) = (place.port, place.database, place.root_cert.display());
    let base = format!("host=localhost hostaddr=127.0.0.1 port={port} dbname={database} sslrootcert={root}");
    libpq(parameters.iter().map(|more| format!("{base} user=by_scram password='{PASSWORD}' {more}")).collect()).await
}

/// The error of one connection, without the address.
fn error(seen: &Value) -> &str {
    let error = seen["error"].as_str().unwrap_or_default();
    error
        .split_once("failed: connection to server at ")
        .and_then(|(_, rest)| rest.split_once("failed: "))
        .map_or(error, |(_, why)| why)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_parameters_mean_the_same() {
    let stage = Stage::build().await;
    let unbound = "channel_binding=disable";
    let parameters = [
        "sslmode=disable",
        "sslmode=disable gssencmode=prefer",
        "sslmode=disable channel_binding=require",
        "sslmode=disable min_protocol_version=3.2",
        "sslmode=disable max_protocol_version=latest",
        "sslmode=disable target_session_attrs=read-write",
        "sslmode=disable target_session_attrs=primary",
        "sslmode=disable target_session_attrs=standby",
        "sslmode=disable require_auth=scram-sha-256",
        "sslmode=disable require_auth=none",
        "sslmode=disable options='-c search_path=nowhere' application_name=x client_encoding=LATIN1",
        "sslmode=disable options='-c nonsense=1'",
        "sslmode=disable dbname=nowhere",
        "sslmode=disable replication=database",
        "sslmode=disable replication=false",
        &format!("{unbound} sslmode=prefer"),
        &format!("{unbound} sslmode=require"),
        &format!("{unbound} sslmode=verify-ca"),
        &format!("{unbound} sslmode=verify-full"),
        &format!("{unbound} sslmode=verify-full sslrootcert=/dev/null"),
        &format!("{unbound} sslmode=verify-full host=elsewhere"),
        &format!("{unbound} sslmode=require ssl_max_protocol_version=TLSv1.2"),
    ];
    let (direct, through) = (at(&stage.direct(), &parameters).await, at(&stage.through(), &parameters).await);
    for ((parameters, direct), through) in parameters.iter().zip(&direct).zip(&through) {
        let shown = |seen: &Value| if seen["error"].is_null() { seen.to_string() } else { error(seen).to_owned() };
        assert_eq!(shown(direct), shown(through), "{parameters}, direct (left) and through tandem (right)");
    }
    let came = through.iter().filter(|seen| seen["cancelled"] == true).count();
    assert!(came > 8, "too few connections came to be: {through:#?}");
    // Several hosts: the first that answers, in order or not.
    let port = stage.through().port;
    for (order, attrs) in [("disable", "any"), ("random", "read-write")] {
        let hosts =
            format!("host=127.0.0.1,127.0.0.1 port=1,{port} load_balance_hosts={order} target_session_attrs={attrs}");
        let login = format!("dbname=app user=by_scram password='{PASSWORD}' sslmode=disable");
        assert_eq!(libpq(vec![format!("{hosts} {login}")]).await[0]["cancelled"], true, "{hosts}");
    }
    // Direct TLS: the origin is too old for it, tandem is not.
    let direct_tls = at(&stage.through(), &[&format!("{unbound} sslmode=require sslnegotiation=direct")]).await;
    assert_eq!((&direct_tls[0]["tls"], &direct_tls[0]["cancelled"]), (&json!(true), &json!(true)), "{direct_tls:?}");
}

/// Between two TLS channels there is nothing to bind to: who insists is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_binding_is_refused_in_words() {
    let stage = Stage::build().await;
    let asks = ["sslmode=verify-full channel_binding=require", "sslmode=verify-full channel_binding=prefer"];
    assert!(at(&stage.direct(), &asks).await.iter().all(|seen| seen["user"] == "by_scram"));
    let seen = at(&stage.through(), &asks).await;
    assert!(error(&seen[0]).starts_with("channel binding is required, but server did not offer"), "{seen:?}");
    assert!(error(&seen[1]).contains("channel binding negotiation error"), "{seen:?}");
    assert!(
        error(&seen[1])
            .contains("HINT:  tandem stands between two TLS channels; connect to it with channel_binding=disable")
    );
}

/// Protocol 3.2 has longer cancel keys; servers speak it since 18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_server_is_spoken_to_in_its_new_protocol() {
    let (origin, target) =
        (server_with("origin", &newest(), &Options::default()), server_with("target", &newest(), &Options::default()));
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), "").await;
    let asks = ["min_protocol_version=3.2", "max_protocol_version=latest", "max_protocol_version=3.0"];
    let at = |port| asks.map(|ask| format!("host=127.0.0.1 port={port} user=postgres dbname=postgres {ask}")).to_vec();
    let (direct, through) = (libpq(at(origin.port())).await, libpq(at(tandem.port)).await);
    for (direct, through) in direct.iter().zip(&through).skip(usize::from(newest().major < 18)) {
        assert_eq!(direct, through);
        assert_eq!(through["cancelled"], true);
    }
    if newest().major >= 18 {
        assert_eq!([&through[0]["protocol"], &through[2]["protocol"]], [30_002, 30_000]);
    }
}
