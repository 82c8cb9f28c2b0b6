//! Clients that wait for events and ask for nothing, as each driver does on one of its connections.

use std::time::Duration;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Cql, Dial, Out, READY, REGISTER};
use crate::support::tandem::Tandem;

/// Looks for an event, a second each.
const LOOKS: usize = 100;

/// Whether this client is told of this table within a second or so. Other tests change the schema of shared nodes, too.
fn hears(cql: &mut Cql, table: &str) -> bool {
    while let Some(event) = cql.receive() {
        assert_eq!((event.stream, event.opcode), (-1, 0x0C), "{event:?}");
        if event.body.windows(table.len()).any(|part| part == table.as_bytes()) {
            return true;
        }
    }
    assert!(!cql.is_closed());
    cql.patience(Duration::from_secs(1));
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_listens_hears_of_the_new_primary_after_each_switch() {
    let nodes = pair_with("heard");
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let dial = |version| Dial { version, ..Dial::default() };
    let mut listeners = [3, 4, 5].map(|version| Cql::dial(tandem.address(), &dial(version)).expect("a login"));
    for cql in &mut listeners {
        let kinds = ["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"];
        let list = kinds.into_iter().fold(Out::default().short(kinds.len()), Out::string);
        assert_eq!(cql.say(REGISTER, 0, &list.0).opcode, READY);
        cql.patience(Duration::from_secs(1));
    }
    for (side, name) in [(1, "target"), (0, "origin")] {
        tandem.settled().await;
        tandem.switch_to(name).await;
        for (n, cql) in listeners.iter_mut().enumerate() {
            // Only this node says so: it is past tandem.
            let mut direct = Cql::of(nodes[side], "heard");
            let heard = (0..LOOKS).any(|look| {
                let table = format!("only_{name}_{n}_{look}");
                direct.define(&format!("CREATE TABLE {table} (k int PRIMARY KEY)"));
                let heard = hears(cql, &table);
                direct.define(&format!("DROP TABLE {table}"));
                heard
            });
            assert!(heard, "listener {n}, {name}\n{}", tandem.log());
        }
    }
}
