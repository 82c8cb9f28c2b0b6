//! Settings that are changed while clients are connected.

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
