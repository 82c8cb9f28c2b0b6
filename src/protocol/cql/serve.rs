//! Accepts clients and runs their sessions.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Secret;
use crate::metrics;
use crate::net::clients::{Clients, accept};
use crate::net::socket::Socket;
use crate::net::tls::Acceptor;
use crate::record::Side;

use super::cluster::Cluster;
use super::link::{Error, Kept, Link};
use super::relay::{Beyond, Relay};
use super::session::Session;
use super::session::shared::Shared;
use super::setup::Sides;
use super::startup::{self, ANONYMOUS, Door, Entrance, Login, Luggage};
use super::wire::frame::From as Sender;
use super::wire::response::{ErrorKind, Response, ServerError};

/// The first byte of a TLS record of type handshake. No version of CQL begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// Between two attempts to reach a server for a client that is there.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a server is looked for before the client is let go: it may find another proxy.
const REACH_FOR: Duration = Duration::from_secs(30);

/// For how many nodes that hang a new client waits, one after the other, before it is told.
const NODES_TRIED: usize = 3;

/// What a listener serves with.
pub struct Front {
    /// What sessions share.
    pub(super) shared: Arc<Shared>,
    /// How clients are logged in where they did not do so themselves.
    pub(super) logins: Logins,
    /// TLS towards clients.
    pub(super) tls: Option<Acceptor>,
    /// Clients without TLS are refused.
    pub(super) tls_required: bool,
    /// Clients connected.
    pub(super) clients: Clients,
}

/// Accept until stopped; returns when the last session is over. New clients are refused from the moment of the stop.
pub async fn serve(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    accept(listener, &stop, |client| one(client, front.clone(), stop.clone())).await;
    // What clients were told is written down to the end.
    front.shared.afterwards.close();
    front.shared.afterwards.wait().await;
}

async fn one(client: TcpStream, front: Arc<Front>, stop: CancellationToken) {
    let here = front.clients.enter();
    if here.is_unheard {
        return;
    }
    let login = timeout(front.logins.patience, login(client, &front, here.is_too_many, stop.clone()));
    // What a login needs is given back before the session begins. At the end nobody has anything to finish in one, and who says
    // nothing is not waited for.
    match Box::pin(stop.run_until_cancelled(login)).await {
        Some(Ok(Ok(Some(session)))) => session.run().await,
        Some(Ok(Ok(None))) | None => {}
        Some(Ok(Err(error))) => tracing::debug!(%error, "a client did not get as far as a session"),
        Some(Err(_)) => tracing::debug!("a client took too long to log in"),
    }
    drop(here);
}

/// Bytes of a frame of a client that has not logged in, and of what it is decompressed to.
const LOGIN_BYTES_MAX: usize = 128 << 10;

type LoggedIn = Relay<Socket, Socket, Ties>;

/// From the first byte to a session, if it comes to one.
async fn login(
    client: TcpStream,
    front: &Arc<Front>,
    is_too_many: bool,
    stop: CancellationToken,
) -> Result<Option<Box<LoggedIn>>, Error> {
    client.set_nodelay(true)?;
    let (address, from) = (client.local_addr()?, client.peer_addr()?);
    let Some(client) = encrypt(client, front).await? else { return Ok(None) };
    let limit = front.shared.frame_bytes_max.min(LOGIN_BYTES_MAX);
    let mut client = Link::new(client, Sender::Client, limit);
    let supported = &front.shared.identity.supported;
    let (login, side, server) = loop {
        let Some((hello, startup)) = startup::greet(&mut client, supported).await? else { return Ok(None) };
        let (version, stream) = (hello.framing.version, startup.header.stream);
        if is_too_many {
            let text = "tandem has as many clients as it may have (limits.connections)";
            metrics::CLIENTS_REFUSED_TOTAL.counter(&[("wire", "cql"), ("reason", "limit")]).increment(1);
            client.tell(version, stream, &Response::Error(ServerError::new(ErrorKind::Overloaded, text))).await?;
            return Ok(None);
        }
        let side = front.shared.gate.route_when_open().await.primary;
        let (mut server, answer) = match front.logins.begin(side, &startup).await {
            Ok(begun) => begun,
            Err(error @ (Error::Io(_) | Error::Timeout(_))) => {
                if let Some(left_out) = front.clients.unreached.say() {
                    tracing::warn!(%side, %error, left_out, "a client could not be taken to its server");
                }
                metrics::CLIENTS_REFUSED_TOTAL.counter(&[("wire", "cql"), ("reason", "unreachable")]).increment(1);
                let text = format!("tandem cannot reach a node of the {side}");
                client
                    .tell(version, stream, &Response::Error(ServerError::new(ErrorKind::Bootstrapping, &text)))
                    .await?;
                return Ok(None);
            }
            // Whatever made the server hang up, the client sees the same.
            Err(error) => return Err(error),
        };
        // A server whose STARTUP failed is left with what it has heard.
        let door = front.logins.door();
        let entrance = Entrance { client: &mut client, server: &mut server, side, supported, door };
        if let Some(login) = entrance.pass(&hello, stream, answer).await? {
            break (login, side, server);
        }
    };
    metrics::CLIENTS_TOTAL.counter(&[("wire", "cql")]).increment(1);
    let session = Session::new(front.shared.clone(), login.framing, side, address);
    let session = session.of(login.user(), from.ip());
    let login = Arc::new(login);
    front.logins.enter(&login);
    let ties = Ties { logins: front.logins.clone(), login };
    let (client, server) = ((client.stream, client.unread), (server.stream, server.unread));
    Ok(Some(Box::new(Relay::new(client, server, session, ties, stop))))
}

/// Clients of CQL encrypt from the first byte, or not at all: one port can serve both.
async fn encrypt(client: TcpStream, front: &Front) -> Result<Option<Socket>, Error> {
    let mut head = [0; 1];
    if client.peek(&mut head).await? == 0 {
        return Ok(None);
    }
    match &front.tls {
        Some(tls) if head[0] == TLS_HANDSHAKE => Ok(Some(Socket::Tls(Box::new(tls.accept(client).await?.into())))),
        Some(_) if front.tls_required => {
            metrics::CLIENTS_REFUSED_TOTAL.counter(&[("wire", "cql"), ("reason", "tls")]).increment(1);
            Err(Error::Io(io::Error::other("a client without TLS, which [[listen]] tls_required demands")))
        }
        _ => Ok(Some(Socket::Tcp(client))),
    }
}

/// How clients that are there are logged in to a server that they did not log in to themselves: elsewhere after a switch, or
/// again after a connection was lost.
#[derive(Clone)]
pub(super) struct Logins(Arc<Desk>);

pub(super) struct Desk {
    sides: Sides,
    /// Who they are there, where what they said does not hold.
    users: HashMap<String, Option<Secret>>,
    /// The class that asks clients who they are.
    authenticator: Option<String>,
    patience: Duration,
    frame_bytes_max: usize,
    known: Mutex<Vec<Weak<Login>>>,
}

impl std::ops::Deref for Logins {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.0
    }
}

impl Logins {
    /// `patience` is for all of a login.
    pub(super) fn new(
        sides: Sides,
        users: HashMap<String, Option<Secret>>,
        authenticator: Option<String>,
        (patience, frame_bytes_max): (Duration, usize),
    ) -> Logins {
        Logins(Arc::new(Desk { sides, users, authenticator, patience, frame_bytes_max, known: Mutex::default() }))
    }

    /// Try each user who is there on this side, and close the connection again. Who cannot log in is returned, with the
    /// reason.
    pub(super) async fn try_all(&self, side: Side) -> Vec<(String, String)> {
        let mut seen = HashSet::new();
        let mut known: Vec<Arc<Login>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        if self.authenticator.is_none() {
            // Whoever comes after the switch is nobody too.
            known.extend(Login::anonymous().map(Arc::new));
        }
        let mut failed = Vec::new();
        for login in known.into_iter().filter(|login| seen.insert(login.user().map(str::to_owned))) {
            if let Err(error) = self.again(&login, side, &Luggage::default()).await {
                failed.push((login.user().unwrap_or(ANONYMOUS).to_owned(), error.to_string()));
            }
        }
        failed
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Login>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, login: &Arc<Login>) {
        let mut known = self.lock();
        if known.len() == known.capacity() {
            known.retain(|login| login.strong_count() > 0);
        }
        known.push(Arc::downgrade(login));
    }

    /// How clients are let in.
    fn door(&self) -> Door<'_> {
        Door { authenticator: self.authenticator.as_deref(), anonymous: self.password(ANONYMOUS) }
    }

    fn password(&self, user: &str) -> Option<&str> {
        Some(self.users.get(user)?.as_ref()?.reveal())
    }

    async fn connect(&self, side: Side) -> Result<Socket, Error> {
        self.cluster(side)?.connect_raw().await.map_err(|error| Error::Io(io::Error::other(error)))
    }

    fn cluster(&self, side: Side) -> Result<Arc<Cluster>, Error> {
        self.sides.get(side).ok_or_else(|| Error::Io(io::Error::other("it was never there")))
    }

    /// A node that answers this STARTUP, and what it answers.
    async fn begin(&self, side: Side, startup: &Kept) -> Result<(Link<Socket>, Kept), Error> {
        let cluster = self.cluster(side)?;
        let patience = cluster.settings().connect_timeout;
        for _ in 0..cluster.hosts().len().clamp(1, NODES_TRIED) {
            let socket = self.connect(side).await?;
            let node = socket.peer();
            let mut server = Link::new(socket, Sender::Server, self.frame_bytes_max);
            let answer = timeout(patience, async {
                server.send(&startup.bytes).await?;
                server.receive().await
            });
            if let Ok(answer) = answer.await {
                return Ok((server, answer?));
            }
            // Systems take connections for a process that hangs: it is left for the next one.
            node.into_iter().for_each(|node| cluster.suspect(node));
        }
        Err(Error::Timeout(patience))
    }

    async fn again(&self, login: &Login, side: Side, luggage: &Luggage) -> Result<(Socket, BytesMut), Error> {
        let cluster = self.sides.get(side);
        // A node that hangs is left for the next one.
        let each = cluster.as_ref().map_or(self.patience, |cluster| cluster.settings().connect_timeout);
        let patience = self.patience.min(each);
        let mut node = None;
        let reached = timeout(patience, async {
            let socket = self.connect(side).await?;
            node = socket.peer();
            let mut server = Link::new(socket, Sender::Server, self.frame_bytes_max);
            let name = login.user().unwrap_or(ANONYMOUS);
            let user = self.password(name).map(|password| (name, password));
            startup::again((&mut server, side), login, user, luggage).await?;
            Ok((server.stream, server.unread))
        });
        let reached = reached.await;
        if let (Err(_), Some(cluster), Some(node)) = (&reached, cluster, node) {
            cluster.suspect(node);
        }
        reached.unwrap_or(Err(Error::Timeout(patience)))
    }
}

/// What a session has beside its sockets.
struct Ties {
    logins: Logins,
    login: Arc<Login>,
}

impl Beyond<Socket> for Ties {
    fn is_left(&self, side: Side, server: &Socket) -> bool {
        let (cluster, node) = (self.logins.sides.get(side), server.peer());
        cluster.zip(node).is_some_and(|(cluster, node)| cluster.is_left(node))
    }

    fn reach(&mut self, side: Side, luggage: Luggage) -> BoxFuture<'static, Result<(Socket, BytesMut), String>> {
        let (logins, login) = (self.logins.clone(), self.login.clone());
        Box::pin(async move {
            let until = Instant::now() + REACH_FOR;
            loop {
                match logins.again(&login, side, &luggage).await {
                    Ok(reached) => return Ok(reached),
                    // The server was asked and said no: it will say so again.
                    Err(Error::Server(words)) => return Err(words),
                    Err(error) if Instant::now() >= until => return Err(error.to_string()),
                    Err(_) => sleep(PAUSE).await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
