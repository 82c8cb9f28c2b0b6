//! Settings that are changed while clients are connected, and those that are not meant for the tests.

use std::process::Command;

use ::tandem::admin::client::Client;
use serde_json::json;

use crate::support::tandem::Tandem;
use crate::support::{connect, pair};

#[tokio::test]
async fn a_changed_setting_counts_for_sessions_that_are_there() {
    let (origin, target) = pair();
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), "").await;
    let client = connect(&tandem.url("postgres")).await;
    client.batch_execute("CREATE TABLE before (id int PRIMARY KEY)").await.expect("mirrored by default");
    let admin: Client = tandem.client();
    admin.patch("/v1/settings", &json!({"mirror.ddl": "refuse"})).await.expect("changed");
    let refused = client.batch_execute("CREATE TABLE after (id int PRIMARY KEY)").await;
    assert!(refused.is_err(), "{}", tandem.log());
    admin.patch("/v1/settings", &json!({"mirror.ddl": "note"})).await.expect("changed");
    client.batch_execute("CREATE TABLE after (id int PRIMARY KEY)").await.expect("it runs on the primary");
}

/// Where tandem moves something real, the environment has its settings: a test must not write there.
#[test]
fn settings_of_whoever_tests_reach_no_tandem_of_a_test() {
    let mut tests = Command::new(std::env::current_exe().expect("this test"));
    // One that starts the binary in two ways, and waits until the target has everything.
    tests.args(["--exact", "rounds::a_journal_in_use_is_refused_in_words"]);
    let real = [
        ("TANDEM_TARGET_URL", "postgres://nobody@127.0.0.1:1/real"),
        ("TANDEM_JOURNAL_DIR", "/proc/real"),
        ("TANDEM_ADMIN", "http://127.0.0.1:1"),
    ];
    let output = tests.envs(real).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
