//! Accepts clients and runs their sessions.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use dashmap::{DashMap, DashSet};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::net::clients::{Clients, accept};
use crate::net::socket::Socket;
use crate::net::tls::Acceptor;
use crate::record::Side;

use super::client::{self, Endpoint, ServerConfig, SslMode};
use super::moving::mover::Ties;
use super::moving::sessions::{Card, Home, Who};
use super::relay::Relay;
use super::servers::Servers;
use super::session::Session;
use super::shared::Shared;
use super::startup::{self, Demands, First, Started};
use super::wire::{self, CANCEL_REQUEST, GSSENC_REQUEST, SSL_REQUEST};

/// The first byte of a TLS record of type handshake: direct TLS, without SSLRequest.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a listener serves with.
pub struct Front {
    /// What sessions share.
    pub shared: Arc<Shared>,
    /// Both sides, and who clients are there when tandem logs in for them.
    pub(super) servers: Arc<Servers>,
    /// Sessions that used types whose oids differ are closed at a switch.
    pub closes_types: bool,
    /// TLS towards clients.
    pub tls: Option<Acceptor>,
    /// Clients without TLS are refused.
    pub tls_required: bool,
    /// For each step of a login: until the first message, encryption included, and authentication (`limits.login_timeout`).
    pub login_timeout: Duration,
    /// Clients connected.
    pub clients: Clients,
    /// Who a CancelRequest is for.
    pub cancels: Cancels,
    /// Databases that clients used and that are not mirrored: each is named in the log once.
    pub elsewhere: Arc<DashSet<String>>,
}

/// Running sessions by the cancel keys that their clients were given, which are those of their first servers.
#[derive(Clone, Default)]
pub struct Cancels(Arc<DashMap<Vec<u8>, Weak<Card>>>);

impl Cancels {
    fn enter(&self, key: Vec<u8>, card: &Arc<Card>) {
        self.0.insert(key, Arc::downgrade(card));
    }

    pub(super) fn forget(&self, card: &Card) {
        self.0.remove(&card.key);
    }
}

/// Accept until stopped; returns when the last session is over. New clients are refused from the moment of the stop.
pub async fn serve(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    accept(listener, &stop, |client| one(client, front.clone(), stop.clone())).await;
}

type LoggedIn = Relay<Socket, Socket, Ties>;

async fn one(client: TcpStream, front: Arc<Front>, stop: CancellationToken) {
    let here = front.clients.enter();
    if here.is_unheard {
        return;
    }
    let login = login(client, &front, here.is_too_many, stop.clone());
    // What a login needs is ten times what a session holds: it is given back before the session begins. At the end nobody has
    // anything to finish in one, and who says nothing is not waited for.
    match Box::pin(stop.run_until_cancelled(login)).await {
        Some(Ok(Some(session))) => session.run().await,
        Some(Ok(None)) | None => {}
        Some(Err(error)) => tracing::debug!(%error, "a client did not get as far as a session"),
    }
    drop(here);
}

/// From the first byte to a session, if it comes to one.
async fn login(
    client: TcpStream,
    front: &Arc<Front>,
    is_too_many: bool,
    stop: CancellationToken,
) -> Result<Option<Box<LoggedIn>>, startup::Error> {
    let address = client.peer_addr().ok().map(|address| address.ip());
    let greeted = timeout(front.login_timeout, greet(client, front)).await.map_err(timed_out)??;
    let Some((mut client, first)) = greeted else { return Ok(None) };
    let elsewhere = elsewhere(&first.packet, &front.servers.of(Side::Origin).database);
    // The databases that are not mirrored stay where they are. For the others the gate says which side answers.
    let side = match elsewhere {
        Some(_) => Side::Origin,
        None => front.shared.gate.route_when_open().await.primary,
    };
    let Some((mut server, endpoint)) = reach(&mut client, &first, front, side, is_too_many).await? else {
        return Ok(None);
    };
    let config = front.servers.of(side);
    // The mirrored database may have another name there.
    match elsewhere.is_none() && config.database != front.servers.of(Side::Origin).database {
        true => server.write_all(&startup::with_database(&first.packet, &config.database)).await?,
        false => server.write_all(&first.packet).await?,
    }
    server.flush().await?;
    let primary = config.hosts.len() > 1;
    let demands =
        Demands { primary, sealed: client.is_private() && config.tls.mode != SslMode::Disable && !is_near(&server) };
    let relayed = timeout(front.login_timeout, startup::relay(&mut client, &mut server, demands)).await;
    if primary && matches!(relayed, Err(_) | Ok(Err(startup::Error::Standby))) {
        // The client, perhaps; or else a host that hangs, or was demoted, and another one is the primary.
        front.shared.catalog.stale();
    }
    let started = relayed.map_err(timed_out)??;
    metrics::CLIENTS_TOTAL.counter(&[("wire", "postgres")]).increment(1);
    let (mut session, card) =
        session(&first, &started, Home { side, endpoint, key: started.key.clone() }, elsewhere, front);
    session.comes_from(address);
    front.shared.sessions.enter(&card);
    front.cancels.enter(started.key, &card);
    let ties = Ties::new(front.clone(), card);
    Ok(Some(Box::new(Relay::new(client, server, session, ties, stop))))
}

/// Nobody on the way to it can read along.
fn is_near(server: &Socket) -> bool {
    server.is_private() || server.peer().is_some_and(|peer| peer.ip().is_loopback())
}

/// The first messages: encryption, then a cancel, which is done here, or what begins a session.
async fn greet(client: TcpStream, front: &Arc<Front>) -> Result<Option<(Socket, First)>, startup::Error> {
    client.set_nodelay(true)?;
    let mut head = [0; 1];
    let direct = client.peek(&mut head).await? == 1 && head[0] == TLS_HANDSHAKE && front.tls.is_some();
    let mut client = if direct { encrypt(client, front).await? } else { Socket::Tcp(client) };
    loop {
        let first = startup::first(&mut client).await?;
        match (first.code, client) {
            (SSL_REQUEST, Socket::Tcp(mut plain)) if front.tls.is_some() => {
                plain.write_all(b"S").await?;
                client = encrypt(plain, front).await?;
            }
            // Encryption inside encryption: PostgreSQL refuses it too.
            (SSL_REQUEST, Socket::Tls(_)) => return Err(startup::Error::Length(8)),
            (SSL_REQUEST | GSSENC_REQUEST, mut same) => {
                same.write_all(b"N").await?;
                client = same;
            }
            (CANCEL_REQUEST, mut client) => {
                cancel(&first, front).await?;
                // Without the end of its TLS stream libpq takes the cancellation for failed.
                client.shutdown().await?;
                return Ok(None);
            }
            (_, mut plain @ Socket::Tcp(_)) if front.tls_required => {
                let text = "tandem takes only clients with TLS here";
                return refuse(&mut plain, "28000", text, Some("set sslmode=require")).await.map(|()| None);
            }
            (_, client) => return Ok(Some((client, first))),
        }
    }
}

async fn encrypt(client: TcpStream, front: &Front) -> Result<Socket, startup::Error> {
    // Asked for only where it is configured.
    let Some(acceptor) = &front.tls else { return Ok(Socket::Tcp(client)) };
    Ok(Socket::Tls(Box::new(acceptor.accept(client).await?.into())))
}

/// A connection to the primary, for a client that may have one; others are told why not.
async fn reach(
    client: &mut Socket,
    first: &First,
    front: &Front,
    side: Side,
    is_too_many: bool,
) -> Result<Option<(Socket, Endpoint)>, startup::Error> {
    if first.code >> 16 != 3 {
        let text = format!("unsupported frontend protocol {}.{}", first.code >> 16, first.code & 0xffff);
        return refuse(client, "0A000", &text, None).await.map(|()| None);
    }
    if is_too_many {
        let hint = Some("raise limits.connections in tandem's configuration");
        return refuse(client, "53300", "sorry, too many clients already (tandem)", hint).await.map(|()| None);
    }
    let server = front.servers.primary_first(side, &front.shared.catalog);
    match client::dial(&server).await {
        Ok(dialed) => {
            if server.hosts.first() != Some(&dialed.1) {
                // A failover, perhaps: our own connection finds out which host is the primary.
                front.shared.catalog.stale();
            }
            Ok(Some(dialed))
        }
        Err(error) => {
            if let Some(left_out) = front.clients.unreached.say() {
                tracing::warn!(%error, left_out, "the primary cannot be reached");
            }
            let hint = Some("tandem itself runs; see its log and `tandem status`");
            refuse(client, "08006", "tandem cannot reach the primary", hint).await.map(|()| None)
        }
    }
}

fn session(
    first: &First,
    started: &Started,
    home: Home,
    elsewhere: Option<String>,
    front: &Front,
) -> (Session, Arc<Card>) {
    let backend = front.shared.logins.enter(&home.endpoint, started.pid);
    let mut session = Session::new(front.shared.clone(), backend);
    let raw = is_replication(&first.packet);
    if raw {
        session.pass_through();
        metrics::SESSIONS_UNCAPTURED_TOTAL.counter(&[("wire", "postgres")]).increment(1);
        tracing::info!("a replication connection is passed through: what is written by it is not mirrored");
    }
    let stays = elsewhere.is_some();
    if let Some(database) = elsewhere {
        session.leave_uncaptured();
        metrics::SESSIONS_UNCAPTURED_TOTAL.counter(&[("wire", "postgres")]).increment(1);
        if front.elsewhere.insert(database.clone()) {
            let mirrored = &front.servers.of(Side::Origin).database;
            tracing::warn!(database, mirrored, "clients of another database than origin's are not mirrored");
        }
    }
    for (name, value) in &started.parameters {
        session.set_parameter(name, value);
    }
    let text =
        |name| parameter(&first.packet, name).map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default();
    let who = Who { user: text(b"user"), application: text(b"application_name") };
    let encoding = started.parameters.iter().find(|(name, _)| name == b"client_encoding");
    let encoding = encoding.map(|(_, value)| String::from_utf8_lossy(value)).unwrap_or_default();
    let side = home.side;
    let card = Card::new(who, first.packet[..].into(), encoding.into(), (stays, raw), started.pid, home);
    let card = Arc::new(card);
    session.belongs_to(side, card.clone());
    (session, card)
}

/// `replication=..` in the start-up packet: a walsender speaks another dialect; it is passed through. What says no to it makes
/// an ordinary session (PostgreSQL's `ProcessStartupPacket` and `parse_bool`; what is neither is refused by the server).
fn is_replication(packet: &[u8]) -> bool {
    let says_no = |value: &[u8]| {
        let begins = |word: &[u8]| word.get(..value.len()).is_some_and(|start| start.eq_ignore_ascii_case(value));
        match value.len() {
            0 => false,
            1 => value == b"0" || begins(b"false") || begins(b"no"),
            _ => begins(b"false") || begins(b"no") || begins(b"off"),
        }
    };
    parameter(packet, b"replication").is_some_and(|value| !says_no(value))
}

/// The client's database, if it is not the mirrored one: its tables are not those of our catalog. Without a name it is
/// the user's (documentation, "StartupMessage").
fn elsewhere(packet: &[u8], mirrored: &str) -> Option<String> {
    let named = parameter(packet, b"database").filter(|name| !name.is_empty());
    let database = named.or_else(|| parameter(packet, b"user")).unwrap_or_default();
    (database != mirrored.as_bytes()).then(|| String::from_utf8_lossy(database).into_owned())
}

/// A parameter of the start-up packet; of one that is named twice the last counts.
fn parameter<'a>(packet: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut fields = packet.get(8..)?.split(|&byte| byte == 0);
    let mut found = None;
    while let (Some(key), Some(value)) = (fields.next().filter(|key| !key.is_empty()), fields.next()) {
        found = if key == name { Some(value) } else { found };
    }
    found
}

impl Front {
    /// Before servers that are not there.
    #[cfg(test)]
    pub(super) fn nowhere() -> Front {
        Front {
            shared: super::rig::shared(),
            servers: Arc::new(Servers::new(&super::rig::config(), None)),
            closes_types: false,
            tls: None,
            tls_required: false,
            login_timeout: Duration::from_secs(3_600),
            clients: Clients::new("postgres", 10),
            cancels: Cancels::default(),
            elsewhere: Arc::default(),
        }
    }

    /// Cancel what a session's server does for it.
    pub(super) async fn send_cancel(&self, home: &Home) -> io::Result<()> {
        let config = ServerConfig { hosts: vec![home.endpoint.clone()], ..(**self.servers.of(home.side)).clone() };
        let (mut stream, _) = client::dial(&config).await.map_err(io::Error::other)?;
        stream.write_all(&cancel_packet(&home.key)).await?;
        stream.flush().await?;
        // The server closes when the signal was sent.
        let mut end = [0; 1];
        let _ = timeout(Duration::from_secs(10), stream.read(&mut end)).await;
        Ok(())
    }
}

fn cancel_packet(key: &[u8]) -> Vec<u8> {
    let len = i32::try_from(8 + key.len()).expect("a cancel key is at most 256 bytes");
    [&len.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), key].concat()
}

/// A CancelRequest goes to the session, which may wait for what no server knows of; or else to the server that it has now. An
/// unknown key goes nowhere.
async fn cancel(first: &First, front: &Arc<Front>) -> Result<(), startup::Error> {
    let key = first.packet.get(8..).unwrap_or_default();
    let Some(card) = front.cancels.0.get(key).and_then(|entry| entry.value().upgrade()) else {
        tracing::debug!("a cancel request for no session of ours");
        return Ok(());
    };
    if card.cancel().await {
        return Ok(());
    }
    let home = card.moving().home.clone();
    front.send_cancel(&home).await.map_err(startup::Error::Io)
}

async fn refuse<C: AsyncWrite + Unpin>(
    client: &mut C,
    code: &str,
    text: &str,
    hint: Option<&str>,
) -> Result<(), startup::Error> {
    metrics::CLIENTS_REFUSED_TOTAL.counter(&[("wire", "postgres"), ("reason", "refused")]).increment(1);
    let mut out = BytesMut::new();
    wire::error_response(&mut out, "FATAL", code, text, hint);
    client.write_all(&out).await?;
    client.shutdown().await?;
    Ok(())
}

fn timed_out(_: tokio::time::error::Elapsed) -> startup::Error {
    startup::Error::Io(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};

    use tokio::task::JoinHandle;
    use tokio::time::Instant;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::config::Config;
    use crate::net::tls::{self, SslMode, Tls};

    #[test]
    fn a_session_that_says_no_to_replication_is_an_ordinary_one() {
        let of = |value: &str| is_replication(format!("12345678user\0app\0replication\0{value}\0\0").as_bytes());
        for no in ["false", "FALSE", "f", "fa", "no", "n", "off", "of", "0"] {
            assert!(!of(no), "{no}");
        }
        for yes in ["database", "true", "t", "on", "1", "yes", "o", "", "nothing", "offer"] {
            assert!(of(yes), "{yes}: a walsender, or refused by the server");
        }
        assert!(!is_replication(b"12345678user\0app\0\0"));
    }

    fn packet(fields: &str) -> Vec<u8> {
        [&[0; 8][..], fields.as_bytes(), b"\0"].concat()
    }

    /// The size of what a function of three arguments returns.
    fn returned<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_client_holds_no_more_than_its_session() {
        let (task, session) = (returned(one), size_of::<LoggedIn>());
        assert!(task <= 512 && session <= 2_048, "{task} bytes of task and {session} bytes of session");
    }

    async fn served(front: Front, stop: &CancellationToken) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        (address, tokio::spawn(serve(listener, Arc::new(front), stop.clone())))
    }

    /// An origin that asks everybody for SASL.
    async fn asking() -> Arc<Servers> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while let Ok((mut client, _)) = listener.accept().await {
                startup::first(&mut client).await.expect("a first message");
                let mut out = BytesMut::new();
                wire::message(&mut out, wire::back::AUTHENTICATION, |b| {
                    b.extend_from_slice(b"\0\0\0\x0aSCRAM-SHA-256\0\0");
                });
                client.write_all(&out).await.expect("it reads");
                asked.push(client);
            }
        });
        let text = format!(
            "[[listen]]\nwire = \"postgres\"\naddress = \"127.0.0.1:1\"\n[origin]\nurl = \
             \"postgres://a@127.0.0.1:{port}/d?sslmode=disable\"\n[target]\nurl = \"postgres://a@h:2/d\"\n"
        );
        Arc::new(Servers::new(&Config::from_text("proxy.toml", &text, []).expect("valid"), None))
    }

    /// A first message with this code.
    fn first_message(code: i32, fields: &str) -> Vec<u8> {
        let len = i32::try_from(8 + fields.len()).expect("short");
        [&len.to_be_bytes()[..], &code.to_be_bytes(), fields.as_bytes()].concat()
    }

    fn startup_message() -> Vec<u8> {
        first_message(wire::VERSION_3_0, "user\0a\0database\0d\0\0")
    }

    #[tokio::test]
    async fn each_step_of_a_login_has_its_time_and_no_more() {
        const STEP: Duration = Duration::from_millis(200);
        let stop = CancellationToken::new();
        let front = Front { login_timeout: STEP, servers: asking().await, ..Front::nowhere() };
        let (address, _serving) = served(front, &stop).await;
        let steps =
            [(Vec::new(), &b""[..]), (first_message(SSL_REQUEST, ""), b"N"), (startup_message(), b"R\0\0\0\x17")];
        for (said, heard) in steps {
            let began = Instant::now();
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.write_all(&said).await.expect("it reads");
            let mut told = Vec::new();
            let ended = timeout(Duration::from_secs(60), client.read_to_end(&mut told)).await.expect("it is cut off");
            assert!(ended.is_ok() && told.starts_with(heard), "{}", told.escape_ascii());
            assert!(began.elapsed() >= STEP);
        }
    }

    /// A certificate that is its own authority, and what shows it: files.
    fn paper(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (cert, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        std::fs::write(&cert, issued.cert.pem()).expect("written");
        std::fs::write(&key, issued.signing_key.serialize_pem()).expect("written");
        (cert, key)
    }

    #[tokio::test]
    async fn a_client_without_tls_is_refused_where_it_is_required_and_told_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = paper(folder.path(), "own");
        let acceptor = tls::acceptor(&cert, &key, None, &[]).expect("it fits");
        let stop = CancellationToken::new();
        let front = Front { tls: Some(acceptor), tls_required: true, servers: asking().await, ..Front::nowhere() };
        let (address, _serving) = served(front, &stop).await;
        let mut plain = TcpStream::connect(address).await.expect("it listens");
        plain.write_all(&startup_message()).await.expect("it reads");
        let mut told = Vec::new();
        plain.read_to_end(&mut told).await.expect("the end");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with('E') && told.contains("\0C28000\0"), "{told:?}");
        assert!(told.contains("\0Hset sslmode=require\0"), "{told:?}");
        let trust = Tls { mode: SslMode::VerifyFull, root_cert: Some(cert), client_cert: None };
        assert_eq!(logs_in(address, &trust).await.expect("it is let in"), wire::back::AUTHENTICATION);
    }

    #[tokio::test]
    async fn a_client_must_show_a_certificate_that_the_authority_signed_where_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let [own, known, foreign] = ["own", "known", "foreign"].map(|name| paper(folder.path(), name));
        let acceptor = tls::acceptor(&own.0, &own.1, Some(&known.0), &[]).expect("it fits");
        let stop = CancellationToken::new();
        let front = Front { tls: Some(acceptor), tls_required: true, servers: asking().await, ..Front::nowhere() };
        let (address, _serving) = served(front, &stop).await;
        let showing = |client_cert| Tls { mode: SslMode::VerifyFull, root_cert: Some(own.0.clone()), client_cert };
        for stranger in [None, Some(foreign)] {
            assert!(logs_in(address, &showing(stranger)).await.is_err(), "it is refused before it says who it is");
        }
        let let_in = logs_in(address, &showing(Some(known))).await;
        assert_eq!(let_in.expect("it is let in"), wire::back::AUTHENTICATION);
    }

    /// Log in over TLS: the type of the first answer.
    async fn logs_in(address: SocketAddr, with: &Tls) -> io::Result<u8> {
        let mut plain = TcpStream::connect(address).await?;
        plain.write_all(&first_message(SSL_REQUEST, "")).await?;
        assert_eq!(plain.read_u8().await?, b'S');
        let connector = TlsConnector::from(tls::client(with).expect("it fits"));
        let mut client = connector.connect("localhost".try_into().expect("a name"), plain).await?;
        client.write_all(&startup_message()).await?;
        client.flush().await?;
        client.read_u8().await
    }

    #[tokio::test]
    async fn clients_that_say_nothing_do_not_hold_up_the_end() {
        let stop = CancellationToken::new();
        let (address, serving) = served(Front::nowhere(), &stop).await;
        let mut silent = TcpStream::connect(address).await.expect("it listens");
        let mut begun = TcpStream::connect(address).await.expect("it listens");
        begun.write_all(&[&[0, 0, 0, 8][..], &SSL_REQUEST.to_be_bytes()].concat()).await.expect("it reads");
        // Both are there then.
        assert_eq!(begun.read_u8().await.expect("an answer"), b'N');
        stop.cancel();
        timeout(Duration::from_secs(60), serving).await.expect("it waits for nobody").expect("it does not panic");
        for client in [&mut silent, &mut begun] {
            assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
        }
    }

    #[test]
    fn a_client_of_another_database_is_told_from_one_of_ours() {
        assert_eq!(elsewhere(&packet("user\0app\0database\0shop\0"), "shop"), None);
        assert_eq!(elsewhere(&packet("user\0shop\0"), "shop"), None);
        assert_eq!(elsewhere(&packet("database\0\0user\0shop\0"), "shop"), None);
        assert_eq!(elsewhere(&packet("user\0shop\0database\0other\0"), "shop").as_deref(), Some("other"));
        assert_eq!(elsewhere(&packet("user\0app\0application_name\0database\0"), "shop").as_deref(), Some("app"));
    }
}
