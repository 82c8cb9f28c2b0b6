//! Nodes that know their clients by certificates alone (Cassandra 5.0's `MutualTlsAuthenticator`): they see that of tandem.

use rcgen::SanType;
use tandem::sandbox::Sandbox;
use tandem::sandbox::cassandra::{Cluster, Options, Stop};
use tandem::sandbox::postgres::Tls;

use crate::support::cassandra::{cluster, make_keyspace, pair, versions};
use crate::support::cql::{Cql, Dial};
use crate::support::paper::{Paper, showing};
use crate::support::tandem::Tandem;

const KEYSPACE: &str = "identified";
const IDENTITY: &str = "spiffe://example.org/tandem";
/// In `cassandra.yaml`: nobody says a password, `identity_to_role` has the role of each certificate.
const AUTHENTICATOR: &str = "authenticator:\n  class_name: org.apache.cassandra.auth.MutualTlsAuthenticator\n  \
                             parameters:\n    validator_class_name: org.apache.cassandra.auth.SpiffeCertificateValidator\n";

/// A node that asks for passwords at first, so that somebody can say whose certificate is whose.
fn identified(node: &Paper, tandem: &Paper) -> Cluster {
    let tls = Tls { cert: node.cert.clone(), key: node.key.clone(), ca: Some(tandem.cert.clone()) };
    let options = Options { authentication: true, tls: Some(tls), ..Options::default() };
    let mut cluster = cluster(&versions().1, 1, &options);
    let tls = Some(showing(node, tandem));
    let dial = Dial { login: Some(("cassandra", "cassandra")), tls, ..Dial::default() };
    let mut cql = Cql::dial(cluster.contact(), &dial).expect("a login");
    cql.define(&format!(
        "CREATE KEYSPACE {KEYSPACE} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    ));
    cql.define(&format!("CREATE TABLE {KEYSPACE}.t (k int PRIMARY KEY, v int)"));
    cql.run("CREATE ROLE mover WITH LOGIN = true");
    cql.run(&format!("GRANT ALL PERMISSIONS ON KEYSPACE {KEYSPACE} TO mover"));
    cql.run("GRANT SELECT ON system.paxos TO mover");
    cql.run(&format!("ADD IDENTITY '{IDENTITY}' TO ROLE 'mover'"));
    let only = &mut cluster.nodes[0];
    only.stop(Stop::Drain).expect("it ends");
    let yaml = only.folder().join("cassandra.yaml");
    let text = std::fs::read_to_string(&yaml).expect("it is there");
    let changed = text.replace("authenticator: PasswordAuthenticator\n", AUTHENTICATOR);
    assert_ne!(text, changed);
    std::fs::write(&yaml, changed).expect("written");
    only.start().expect("it starts");
    cluster
}

fn rows(cql: &mut Cql) -> Vec<String> {
    let mut rows = cql.rows(&format!("SELECT k, v, writetime(v) FROM {KEYSPACE}.t"));
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_knows_roles_by_certificates_knows_tandem_by_its_own() {
    let (node, tandems) = (Paper::new(), Paper::of(SanType::URI(IDENTITY.try_into().expect("ASCII"))));
    let target = identified(&node, &tandems);
    let origin = pair()[0];
    make_keyspace(origin, KEYSPACE, 1);
    Cql::of(origin, KEYSPACE).define("CREATE TABLE t (k int PRIMARY KEY, v int)");
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let ([cert, key], [ca, _]) = (tandems.write(sandbox.dir(), "tandem"), node.write(sandbox.dir(), "node"));
    let to = format!("cql://{}?sslmode=verify-ca&sslrootcert={ca}&sslcert={cert}&sslkey={key}", target.contact());
    let tandem = Tandem::start_listening("cql", "", &format!("cql://{}", origin.address()), &to, "").await;
    let mut clients: Vec<Cql> = Vec::new();
    let mut k = 0;
    for side in [None, Some("target"), Some("origin")] {
        if let Some(side) = side {
            tandem.settled().await;
            tandem.switch_to(side).await;
        }
        clients.extend([3, 4, 5].map(|version| {
            let dial = Dial { version, ..Dial::default() };
            Cql::dial(tandem.address(), &dial)
                .unwrap_or_else(|failure| panic!("{side:?}: {failure:?}\n{}", tandem.log()))
        }));
        for cql in &mut clients {
            k += 1;
            cql.run(&format!("INSERT INTO {KEYSPACE}.t (k, v) VALUES ({k}, 0)"));
            assert!(cql.run(&format!("UPDATE {KEYSPACE}.t SET v = {k} WHERE k = {k} IF v = 0")).applied());
        }
    }
    tandem.settled().await;
    // It asks, and does not listen.
    let login = Some(("nobody", "nothing"));
    let direct = Dial { login, tls: Some(showing(&node, &tandems)), ..Dial::default() };
    let mut there = Cql::dial(target.contact(), &direct).expect("a certificate is enough");
    let here = rows(&mut Cql::of(origin, KEYSPACE));
    assert_eq!((rows(&mut there), here.len()), (here, k), "{}", tandem.log());
}
