use super::*;
use crate::protocol::postgres::testing::Server;

#[tokio::test]
async fn it_connects_asks_copies_and_goes_on_after_an_error() {
    for server in Server::all() {
        let mut client = Client::connect(&server.config()).await.expect("connects");
        assert!(client.pid() > 0);
        assert!(client.parameter("server_version").is_some());
        let rows = client.simple("SELECT 1, NULL; SELECT 'two', 't'::bool").await.expect("two statements");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].get(1).expect("a column"), None);
        assert!(rows[1].bool(1).expect("a bool"));

        let error = client.simple("SELECT 1/0").await.expect_err("refused");
        assert_eq!(error.code(), Some("22012"));

        client.simple("CREATE TEMP TABLE t (a int4, b text)").await.expect("created");
        let mut copy = client.copy_in("COPY t FROM STDIN").await.expect("copies");
        copy.write(b"1\tone\n2\t").await.expect("written");
        copy.write(b"two\n").await.expect("written");
        assert_eq!(copy.finish().await.expect("copied"), 2);
        let copy = client.copy_in("COPY t FROM STDIN").await.expect("copies");
        copy.abort("no").await.expect("given up");

        let param = 2_i32.to_be_bytes();
        let sql = "SELECT a, b FROM t WHERE a = $1";
        let rows = client.query(sql, &[Param::binary(23, &param)], Format::Binary).await.expect("found");
        assert_eq!(rows[0].get(0).expect("a column"), Some(&param[..]));
        assert_eq!(rows[0].text(1).expect("a column"), Some("two"));
        assert_eq!(client.status(), b'I');
        client.close().await;
    }
}

#[tokio::test]
async fn it_logs_in_by_scram_and_md5_over_tcp_and_says_what_is_wrong() {
    for server in Server::all() {
        let mut admin = Client::connect(&server.config()).await.expect("connects");
        for (role, method) in [("by_scram", "scram-sha-256"), ("by_md5", "md5")] {
            let sql = format!("SET password_encryption='{method}'; CREATE ROLE {role} LOGIN PASSWORD 'pass word'");
            admin.simple(&sql).await.expect("a role");
            let mut config = server.tcp_config();
            config.user = role.into();
            config.database = "postgres".into();
            let error = Client::connect(&config).await.expect_err("no password");
            assert!(error.to_string().contains("none is configured"), "{error}");
            config.password = Some("wrong".into());
            assert_eq!(Client::connect(&config).await.expect_err("wrong").code(), Some("28P01"));
            config.password = Some("pass word".into());
            Client::connect(&config).await.expect("lets us in");
            config.tls.mode = SslMode::Require;
            let error = Client::connect(&config).await.expect_err("the server has no TLS");
            assert!(error.to_string().contains("sslmode demands it"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_running_statement_can_be_cancelled() {
    let server = Server::any();
    let mut client = Client::connect(&server.config()).await.expect("connects");
    let token = client.cancel_token();
    client.put_statement("SELECT 1", &[], Format::Text);
    client.put_statement("SELECT pg_sleep(600)", &[], Format::Text);
    client.put_sync();
    client.send().await.expect("sent");
    // The first answer comes only with the buffer's flush: ask from elsewhere until the second one runs.
    let mut other = Client::connect(&server.config()).await.expect("connects");
    let sql = format!("SELECT 1 FROM pg_stat_activity WHERE pid={} AND wait_event='PgSleep'", client.pid());
    while other.simple(&sql).await.expect("asked").is_empty() {}
    token.cancel().await.expect("asked for");
    let error = client.rows().await.expect_err("cancelled");
    assert_eq!(error.code(), Some("57014"));
}

#[tokio::test]
async fn the_first_host_that_will_do_is_taken() {
    let server = Server::any();
    let mut config = server.config();
    let nowhere = Endpoint { host: Host::Tcp("127.0.0.1".into()), port: 1 };
    config.hosts.insert(0, nowhere.clone());
    config.target_session = TargetSession::ReadWrite;
    let client = Client::connect(&config).await.expect("the second host");
    assert_ne!(client.endpoint(), &nowhere);
    config.params.push(("default_transaction_read_only".into(), "on".into()));
    let error = Client::connect(&config).await.expect_err("read-only");
    assert!(error.to_string().contains("read-only"), "{error}");
    config.target_session = TargetSession::Primary;
    Client::connect(&config).await.expect("it asks for that itself, of a primary");
}

#[tokio::test]
async fn who_is_silent_hangs_only_if_nobody_is_let_in_either() {
    let [hangs, answers] = <[Server; 2]>::try_from(Server::all()).unwrap_or_else(|_| panic!("two versions"));
    let mut config = hangs.config();
    // That another host answers says nothing of this one.
    config.hosts.extend(answers.config().hosts);
    let mut client = Client::connect(&config).await.expect("the first host");
    let bound = Duration::from_secs(3);
    let watch = Watch::new(&client, bound);
    tokio::select! {
        done = client.simple("SELECT pg_sleep(5)") => drop(done.expect("it takes its time")),
        error = watch.hangs() => panic!("{error}"),
    }
    hangs.freeze();
    let watch = Watch::new(&client, bound);
    tokio::select! {
        _ = client.simple("SELECT 1") => panic!("it is frozen"),
        error = watch.hangs() => assert!(matches!(error, Error::Hangs(_)), "{error}"),
    }
}

#[tokio::test]
async fn tls_is_as_strict_as_configured() {
    let signed = rcgen::generate_simple_self_signed(vec!["elsewhere.example".into()]).expect("a certificate");
    let (cert, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root.pem");
    std::fs::write(&root, &cert).expect("written");
    let server = Server::with_tls(crate::sandbox::postgres::Tls { cert, key, ca: None });
    let mut admin = Client::connect(&server.config()).await.expect("connects");
    admin.simple("CREATE ROLE u LOGIN PASSWORD 'p'").await.expect("a role");
    let mut config = server.tcp_config();
    (config.user, config.password) = ("u".into(), Some("p".into()));
    for (mode, root, private) in [
        (SslMode::Disable, None, Some(false)),
        (SslMode::Prefer, None, Some(true)),
        (SslMode::Require, None, Some(true)),
        (SslMode::VerifyCa, Some(&root), Some(true)),
        (SslMode::VerifyCa, None, None),
        (SslMode::VerifyFull, Some(&root), None),
    ] {
        config.tls = Tls { mode, root_cert: root.cloned(), client_cert: None };
        match (Client::connect(&config).await, private) {
            (Ok(client), Some(private)) => assert_eq!(client.is_private(), private, "{mode:?}"),
            (Err(Error::Connect { why, .. }), None) => assert!(matches!(*why, Error::Tls(_)), "{mode:?}: {why}"),
            (other, _) => panic!("{mode:?}: {other:?}"),
        }
    }
}
