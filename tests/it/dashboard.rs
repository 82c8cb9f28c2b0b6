//! The dashboard in a real Chromium, over real servers: `tests/journeys/browser/dashboard.js` looks, types and clicks, and asks for
//! what only the test can do. Playwright drives it: it types real keys, watches the console and every request, and finds
//! the browser where the system has it; the crates that speak Chromium's protocol bring a hundred others with them.
//!
//! `TANDEM_SCREENSHOTS=docs cargo test --test it dashboard` makes the pictures of the documentation anew.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_postgres::Client;

use crate::journeys::driver;
use crate::support::stage::Stage;
use crate::support::tandem::Tandem;
use crate::support::{connect, pair, rows, sql, until};

const SCHEMA: &str = "CREATE TABLE acc (id bigserial PRIMARY KEY, bal bigint NOT NULL)";
/// The longest that a scene may take; Chromium alone needs a second or two to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// Debian's Chromium, or another one that is named.
fn chromium() -> PathBuf {
    let named = std::env::var_os("TANDEM_CHROMIUM").map(PathBuf::from);
    let known = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    let found = named.into_iter().chain(known).find(|path| path.exists());
    found.expect("there is no Chromium; run: scripts/setup --drivers, or set TANDEM_CHROMIUM")
}

/// Play a scene to its end; `act` does what it asks for and says what it wants to know.
async fn play<F: Future<Output = String>>(
    scene: &str,
    tandem_url: &str,
    token: &str,
    mut act: impl FnMut(String) -> F,
) {
    let modules = driver("browser", "package.json").parent().expect("a folder").to_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journeys/browser/dashboard.js");
    let mut command = tokio::process::Command::new("node");
    command.arg(script).arg(scene).env("BROWSER_MODULES", modules).env("CHROMIUM", chromium());
    command.env("ADMIN", tandem_url).env("TOKEN", token).kill_on_drop(true);
    if let Some(folder) = std::env::var_os("TANDEM_SCREENSHOTS") {
        command.env("SHOTS", Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("node");
    let mut answers = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let played = async {
        while let Some(line) = lines.next_line().await.expect("UTF-8") {
            if let Some(what) = line.strip_prefix("? ") {
                let answer = act(what.to_owned()).await;
                answers.write_all(format!("{answer}\n").as_bytes()).await.expect("it waits for it");
            }
        }
    };
    tokio::time::timeout(PATIENCE, played).await.unwrap_or_else(|_| panic!("the scene {scene} hangs"));
    let output = child.wait_with_output().await.expect("it ends");
    assert!(output.status.success(), "{scene}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The side that answers this client.
async fn who(stage: &Stage, client: &Client) -> String {
    let port: i32 = client.query_one("SELECT inet_server_port()", &[]).await.expect("answered").get(0);
    if port == i32::from(stage.origin.port()) { "origin".to_owned() } else { "target".to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_lives_fits_a_phone_and_can_be_read_by_everybody() {
    let stage = Stage::new(SCHEMA, "[mirror]\nself_repair = false", &[]).await;
    let stage = &stage;
    let client = &connect(&stage.url()).await;
    play("looks", &stage.tandem.admin, "", |what| async move {
        let api = stage.tandem.client();
        match what.as_str() {
            "write" => client
                .batch_execute("INSERT INTO acc (bal) SELECT * FROM generate_series(1, 50 + (random() * 100)::int)")
                .await
                .expect("written"),
            "backfill" => drop(api.post("/v1/backfill", &serde_json::json!({"action": "start"})).await.expect("begun")),
            "freeze the target" => stage.target.freeze(),
            "thaw the target" => stage.target.thaw(),
            // Nobody can know which rows this writes.
            "dirty" => client
                .batch_execute("DO $$ BEGIN EXECUTE 'UP' || 'DATE acc SET bal = 0 WHERE id = 1'; END $$")
                .await
                .expect("written"),
            other => panic!("{other}"),
        }
        String::new()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_on_both_sides_are_told_and_a_difference_is_shown_until_it_is_mended() {
    // Its rows cannot be told from a sum: the table is dirty until somebody asks for its repair.
    let stage = Stage::new(SCHEMA, "[mirror]\nself_repair = false", &[]).await;
    let stage = &stage;
    let client = &connect(&stage.url()).await;
    client.batch_execute("INSERT INTO acc (bal) SELECT * FROM generate_series(1, 50)").await.expect("written");
    stage.tandem.settled().await;
    play("reads", &stage.tandem.admin, "", |what| async move {
        let ask = async |sql: &str| drop(client.simple_query(sql).await.expect("answered"));
        match what.as_str() {
            "sample" => {
                let all = serde_json::json!({"shadow.sample": "100%"});
                stage.tandem.client().patch("/v1/settings", &all).await.expect("set");
            }
            "read" => {
                for _ in 0..8 {
                    ask("SELECT sum(bal) FROM acc").await;
                    ask("SELECT id, bal FROM acc WHERE id < 20 ORDER BY id").await;
                }
                for sql in
                    ["BEGIN", "UPDATE acc SET bal = bal WHERE id = 1", "SELECT bal FROM acc WHERE id = 1", "COMMIT"]
                {
                    ask(sql).await;
                }
            }
            "plant" => {
                sql(&stage.target.url("postgres"), "UPDATE acc SET bal = bal + 1 WHERE id = 3").await;
                // A read that comes while the mirror is late is passed over.
                let found = until(async || {
                    ask("SELECT sum(bal) FROM acc").await;
                    let status = stage.tandem.client().get("/v1/status").await.expect("it answers");
                    (status["shadow"]["mismatches"].as_u64() > Some(0)).then_some(())
                });
                found.await.expect("what was planted is found");
            }
            "mend" => stage.tandem.repair_all().await,
            other => panic!("{other}"),
        }
        String::new()
    })
    .await;
    stage.assert_equal(&["acc"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_looked_at_made_and_called_off_by_keyboard_alone() {
    let stage = Stage::new(SCHEMA, "[cutover]\nmax_hold = \"60s\"", &[]).await;
    let stage = &stage;
    let client = &connect(&stage.url()).await;
    client.batch_execute("INSERT INTO acc (bal) VALUES (1), (2)").await.expect("written");
    play("switches", &stage.tandem.admin, "", |what| async move {
        let run = async |sql: &str| client.batch_execute(sql).await.expect("run");
        match what.as_str() {
            "be immovable" => run("CREATE TEMP TABLE mine (id int)").await,
            "be movable" => run("DISCARD ALL").await,
            "switch to origin" | "switch to target" => {
                stage.steady().await;
                stage.tandem.switch_to(what.trim_start_matches("switch to ")).await;
            }
            "hold a transaction open" => {
                stage.steady().await;
                run("BEGIN; INSERT INTO acc (bal) VALUES (3)").await;
            }
            "who" => return who(stage, client).await,
            other => panic!("{other}"),
        }
        String::new()
    })
    .await;
    client.batch_execute("COMMIT").await.expect("the transaction was only waited for");
    stage.assert_equal(&["acc"]).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*) FROM acc").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_shown_as_such_and_found_again() {
    let mut stage = Stage::new(SCHEMA, "", &[]).await;
    let admin = stage.tandem.admin.clone();
    let tandem = &tokio::sync::Mutex::new(&mut stage.tandem);
    play("loses", &admin, "", |what| async move {
        let mut tandem = tandem.lock().await;
        match what.as_str() {
            "freeze" => tandem.freeze(),
            "thaw" => tandem.thaw(),
            "kill" => tandem.kill(),
            "start" => tandem.launch().await,
            other => panic!("{other}"),
        }
        String::new()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_and_kept_in_the_tab_alone() {
    let (origin, target) = pair();
    let tandem = Tandem::start_guarded(&origin.url("postgres"), &target.url("postgres"), "s3cret").await;
    play("enters", &tandem.admin, "s3cret", |what| async move { panic!("{what}") }).await;
}
