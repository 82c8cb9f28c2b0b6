//! The journey with tokio-postgres, the Rust driver: binary format throughout, named statements, its own pipelining, portals,
//! COPY by the extended protocol, cancellation over TLS.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt, future};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::DbError;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Error, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::journeys::{PASSWORD, Place, Stage, TABLES, same};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokio_postgres_sees_no_difference() {
    let stage = Stage::build().await;
    let direct = travel(&stage.direct()).await;
    let through = travel(&stage.through()).await;
    same(&direct, &through);
    stage.assert_mirrored(TABLES).await;
}

/// What was seen, a line each.
struct Diary(Vec<String>);

impl Diary {
    fn say(&mut self, step: &str, seen: impl std::fmt::Debug) {
        self.0.push(format!("{step}: {seen:?}"));
    }
}

async fn travel(place: &Place) -> Vec<String> {
    let mut diary = Diary(Vec::new());
    logins(place, &mut diary).await.expect("logins");
    types(&place.client().await, &mut diary).await.expect("types");
    prepared(&place.client().await, &mut diary).await.expect("prepared");
    pipelined(&place.client().await, &mut diary).await.expect("pipelined");
    portals(&mut place.client().await, &mut diary).await.expect("portals");
    copies(&place.client().await, &mut diary).await.expect("copies");
    cancelled(place, &mut diary).await.expect("cancelled");
    errors(&place.client().await, &mut diary).await.expect("errors");
    transactions(&mut place.client().await, &mut diary).await.expect("transactions");
    assert!(diary.0.len() > 30, "it saw too little: {:#?}", diary.0);
    diary.0
}

impl Place {
    fn config(&self, user: &str) -> Config {
        let mut config = Config::new();
        config.host("localhost").hostaddr([127, 0, 0, 1].into()).port(self.port).dbname(self.database);
        config.user(user).password(PASSWORD).channel_binding(ChannelBinding::Disable).ssl_mode(SslMode::Require);
        config
    }

    fn tls(&self) -> MakeRustlsConnect {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.root_cert).expect("a certificate")).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        MakeRustlsConnect::new(config)
    }

    async fn connect(&self, config: &Config) -> Result<Client, Error> {
        let (client, connection) = config.connect(self.tls()).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn client(&self) -> Client {
        self.connect(&self.config("by_scram")).await.expect("it answers")
    }
}

/// What an error says, but for where in the server's source it was raised.
fn said(error: &Error) -> (String, String, Option<String>, Option<String>) {
    let db = error.as_db_error().expect("the server's own error");
    let place = db.position().map(|position| format!("{position:?}"));
    (db.code().code().to_owned(), db.message().to_owned(), db.detail().map(str::to_owned), place)
}

async fn logins(place: &Place, diary: &mut Diary) -> Result<(), Error> {
    for user in ["by_scram", "by_md5"] {
        for mode in [SslMode::Disable, SslMode::Require] {
            let client = place.connect(place.config(user).ssl_mode(mode)).await?;
            let row = client.query_one("SELECT current_user::text", &[]).await?;
            diary.say("login", (mode, row.get::<_, String>(0)));
        }
    }
    let wrong = place.connect(place.config("by_scram").password("wrong")).await.err();
    diary.say("wrong password", wrong.as_ref().and_then(Error::as_db_error).map(DbError::message));
    Ok(())
}

async fn types(client: &Client, diary: &mut Diary) -> Result<(), Error> {
    let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_709_251_199_123_456);
    let columns = "id, small, big, word, at, list, words, raw, flag";
    let row: [&(dyn ToSql + Sync); 8] = [
        &i16::MIN,
        &i64::MAX,
        &"naïve 🐘 'quote' \\ back",
        &at,
        &vec![Some(1), None, Some(-3)],
        &vec![Some("a"), Some("{,}"), None],
        &(0..=255).collect::<Vec<u8>>(),
        &true,
    ];
    let insert = format!("INSERT INTO typed ({columns}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    client.execute(&insert, &[&[&1 as &(dyn ToSql + Sync)], &row[..]].concat()).await?;
    let text = "INSERT INTO typed (id, num, uid, doc, docb) VALUES ($1, $2::text::numeric, $3::text::uuid, $4::text::json, $5::text::jsonb)";
    let uid = "80000000-0000-0000-0000-000000000001";
    client
        .execute(text, &[&2, &"-12345678901234567890.123456789", &uid, &"{\"a\": [1, null]}", &"{\"b\": \"ü\"}"])
        .await?;
    client
        .execute(
            &insert,
            &[
                &3,
                &None::<i16>,
                &None::<i64>,
                &None::<&str>,
                &None::<SystemTime>,
                &None::<Vec<i32>>,
                &None::<Vec<&str>>,
                &None::<Vec<u8>>,
                &None::<bool>,
            ],
        )
        .await?;
    for row in client.query(&format!("SELECT {columns} FROM typed ORDER BY id"), &[]).await? {
        let (id, small, big, word) = (
            row.get::<_, i32>(0),
            row.get::<_, Option<i16>>(1),
            row.get::<_, Option<i64>>(2),
            row.get::<_, Option<&str>>(3),
        );
        diary.say("numbers and words", (id, small, big, word, row.get::<_, Option<SystemTime>>(4)));
        diary.say("lists", (row.get::<_, Option<Vec<Option<i32>>>>(5), row.get::<_, Option<Vec<Option<&str>>>>(6)));
        diary.say("bytes", (row.get::<_, Option<&[u8]>>(7), row.get::<_, Option<bool>>(8)));
    }
    for message in client.simple_query("SELECT * FROM typed ORDER BY id; SELECT 1 WHERE false").await? {
        diary.say("types as text", shown(&message));
    }
    Ok(())
}

fn shown(message: &SimpleQueryMessage) -> Vec<String> {
    match message {
        SimpleQueryMessage::Row(row) => (0..row.len()).map(|at| row.get(at).unwrap_or("NULL").to_owned()).collect(),
        SimpleQueryMessage::CommandComplete(rows) => vec![rows.to_string()],
        SimpleQueryMessage::RowDescription(columns) => columns.iter().map(|column| column.name().to_owned()).collect(),
        other => vec![format!("{other:?}")],
    }
}

async fn prepared(client: &Client, diary: &mut Diary) -> Result<(), Error> {
    let add = client.prepare("INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id, name").await?;
    diary.say(
        "described",
        (add.params(), add.columns().iter().map(|column| (column.name(), column.type_())).collect::<Vec<_>>()),
    );
    for n in 0..6 {
        let row = client.query_one(&add, &[&format!("p{n}"), &n]).await?;
        diary.say("prepared", (row.get::<_, i32>(0), row.get::<_, &str>(1)));
    }
    let typed = client.prepare_typed("UPDATE item SET qty = qty + $1 WHERE id = $2", &[Type::INT4]).await?;
    diary.say("typed", (client.execute(&typed, &[&10, &1]).await?, client.execute(&typed, &[&10, &-1]).await?));
    drop((add, typed)); // Closed on the server.
    diary.say("left", client.query("SELECT name FROM pg_prepared_statements", &[]).await?.len());
    Ok(())
}

/// Nothing is awaited between the statements: the driver sends them at once.
async fn pipelined(client: &Client, diary: &mut Diary) -> Result<(), Error> {
    let add = client.prepare("INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id").await?;
    let (add, client) = (&add, &client);
    let many = (0..30).map(|n| async move { client.query_one(add, &[&format!("b{n}"), &n]).await });
    let keys: Vec<i32> = future::try_join_all(many).await?.iter().map(|row| row.get(0)).collect();
    diary.say("pipelined", keys);
    let (first, failed, last) = tokio::join!(
        client.batch_execute("UPDATE account SET balance = balance - 1 WHERE id = 1"),
        client.query("SELECT 1/0", &[]),
        client.query_one("SELECT balance::text FROM account WHERE id = 1", &[]),
    );
    diary.say("between", (first.is_ok(), failed.err().as_ref().map(said), last?.get::<_, String>(0)));
    Ok(())
}

async fn portals(client: &mut Client, diary: &mut Diary) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT name FROM item ORDER BY id", &[]).await?;
    let writes = transaction
        .bind("INSERT INTO item (name, qty) SELECT 'w' || i, i FROM generate_series(1, 5) i RETURNING name", &[])
        .await?;
    for (portal, rows) in [(&portal, 2), (&writes, 2), (&portal, 3), (&writes, 0)] {
        let rows = transaction.query_portal(portal, rows).await?;
        diary.say("portal", rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
    }
    transaction.commit().await
}

async fn copies(client: &Client, diary: &mut Diary) -> Result<(), Error> {
    let text: String =
        (0..500).map(|n| if n % 7 == 0 { format!("{n}\t\\N\n") } else { format!("{n}\ttab\\t{n}\n") }).collect();
    let mut sink = Box::pin(client.copy_in("COPY bulk FROM STDIN").await?);
    for chunk in text.as_bytes().chunks(777) {
        sink.feed(Bytes::copy_from_slice(chunk)).await?;
    }
    diary.say("copied", sink.as_mut().finish().await?);
    let sink = client.copy_in("COPY bulk (word, id) FROM STDIN (FORMAT binary)").await?;
    let mut writer = Box::pin(BinaryCopyInWriter::new(sink, &[Type::TEXT, Type::INT4]));
    for n in 500..1000 {
        writer.as_mut().write(&[&format!("word {n}"), &n]).await?;
    }
    diary.say("copied as binary", writer.as_mut().finish().await?);
    for form in ["text", "csv", "binary"] {
        let out = client.copy_out(&format!("COPY (SELECT * FROM bulk ORDER BY id) TO STDOUT (FORMAT {form})")).await?;
        let bytes = out.try_fold(Vec::new(), |all: Vec<u8>, chunk| future::ok([all, chunk.to_vec()].concat())).await?;
        diary.say("copied out", (form, bytes.len(), bytes[..60].escape_ascii().to_string()));
    }
    let mut sink = Box::pin(client.copy_in::<_, Bytes>("COPY bulk FROM STDIN").await?);
    sink.send(Bytes::from_static(b"2000\tlost\n1\tthere already\n")).await?;
    diary.say("copy refused", sink.as_mut().finish().await.err().as_ref().map(said));
    let mut sink = Box::pin(client.copy_in::<_, Bytes>("COPY bulk FROM STDIN").await?);
    sink.send(Bytes::from_static(b"3000\tgiven up\n")).await?;
    drop(sink);
    let row = client.query_one("SELECT count(*), count(word), sum(id) FROM bulk", &[]).await?;
    diary.say("in all", (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)));
    Ok(())
}

/// By a cancel request without TLS, and by one with.
async fn cancelled(place: &Place, diary: &mut Diary) -> Result<(), Error> {
    for mode in [SslMode::Disable, SslMode::Require] {
        let client = place.connect(place.config("by_scram").ssl_mode(mode)).await?;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let token = client.cancel_token();
        let running = tokio::spawn(async move {
            let update = "UPDATE account SET balance = 7 WHERE id = 1 AND pg_sleep(60) IS NOT NULL";
            (client.execute(update, &[]).await, client)
        });
        let watcher = place.client().await;
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
        while watcher.query_one(asleep, &[&pid]).await?.get::<_, i64>(0) == 0 {}
        token.cancel_query(place.tls()).await?;
        let (ended, client) = running.await.expect("it ends");
        diary.say("cancelled", ended.err().as_ref().map(said));
        let row = client.query_one("SELECT balance::text FROM account WHERE id = 1", &[]).await?;
        diary.say("after it", row.get::<_, String>(0));
    }
    Ok(())
}

async fn errors(client: &Client, diary: &mut Diary) -> Result<(), Error> {
    for text in ["INSERT INTO account VALUES (1, 1)", "SELECT nope", "UPDATE account SET balance = -1", "SELEC"] {
        diary.say("error", client.execute(text, &[]).await.err().as_ref().map(said));
        diary.say("simple error", client.simple_query(text).await.err().as_ref().map(said));
    }
    let unique = client.execute("INSERT INTO account VALUES ($1, $2::int)", &[&2, &5]).await.err();
    diary.say("error with values", unique.as_ref().map(said));
    diary.say("goes on", client.query_one("SELECT 1", &[]).await?.get::<_, i32>(0));
    Ok(())
}

async fn transactions(client: &mut Client, diary: &mut Diary) -> Result<(), Error> {
    let mut outer = client.transaction().await?;
    outer.execute("UPDATE account SET balance = balance - 10 WHERE id = 1", &[]).await?;
    let inner = outer.transaction().await?; // A savepoint.
    inner.execute("UPDATE account SET balance = balance + 1000 WHERE id = 2", &[]).await?;
    let refused = inner.execute("UPDATE account SET balance = balance - 1000 WHERE id = 1", &[]).await;
    diary.say("refused", refused.err().as_ref().map(said));
    diary.say("aborted", inner.query("SELECT 1", &[]).await.err().as_ref().map(said));
    inner.rollback().await?;
    let inner = outer.savepoint("named").await?;
    inner.execute("UPDATE account SET balance = balance + 10 WHERE id = 2", &[]).await?;
    inner.commit().await?;
    outer.commit().await?;
    let dropped =
        client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::Serializable).start().await?;
    dropped.execute("DELETE FROM account", &[]).await?;
    drop(dropped); // Rolled back behind our back.
    for row in client.query("SELECT id, balance::text FROM account ORDER BY id", &[]).await? {
        diary.say("accounts", (row.get::<_, i32>(0), row.get::<_, String>(1)));
    }
    Ok(())
}
