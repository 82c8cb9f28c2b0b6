//! What is known of a cluster, and the connections to it: which nodes there are, what its schema is, what its clocks say.
//!
//! A task holds a *control connection* to one node ([`control`]): it listens for events, looks at nodes and schema when one
//! came, when somebody asks and now and then, and goes to another node when that one is lost. What it sees is published
//! whole: readers take a shared pointer and never wait.
//!
//! Only one datacenter is used, for as long as the process runs: the configured one, or that of the first contact point that
//! answered. `LOCAL_QUORUM` in another one says nothing of what was written here. Contact points elsewhere are asked which
//! nodes there are ([`control`]), and nothing else.

mod ballots;
pub(super) mod clock;
mod control;
pub(in crate::protocol::cql) mod fields;
mod hosts;
mod masks;
mod ring;
mod schema;
#[cfg(test)]
pub(in crate::protocol::cql) mod scripted;
mod shunned;
#[cfg(test)]
mod tests;
mod timeouts;
mod zones;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config;
use crate::metrics;
use crate::net::keep;
use crate::net::socket::Socket;
use crate::record::Side;

use super::ballot::{Question, Unread};
use super::client::{self, Address, Client, Error, Settings};
use super::definitions::{Definitions, load};
use super::session::shared::Grounds;
use super::tables::Tables;
use super::text::volatile::Dialect;
use super::topology::Facts;
pub use clock::Offset;
pub use hosts::Host;
pub use masks::Masked;
pub use ring::token;
pub(in crate::protocol::cql) use schema::{column, each};
use shunned::Shunned;
pub use timeouts::Timeouts;
pub use zones::Zone;

/// How long a node that could not be reached is tried last.
const SHUNNED: Duration = Duration::from_secs(5);
/// How long a node that others call down is.
const DOWN: Duration = Duration::from_secs(60);
/// Longest wait for the nodes to have one schema. Cassandra's own drivers wait as long.
const AGREEMENT: Duration = Duration::from_secs(10);
/// Between two looks at whether they do.
const LOOK: Duration = Duration::from_millis(100);
/// A change is on its way to all nodes for less. Those that lack it for longer may be down.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How long a node that may be down is reached for.
const REACH: Duration = Duration::from_secs(2);
/// How long replicas are taken to be away that did not all answer.
const AWAY: Duration = Duration::from_secs(10);

/// A cluster. Dropped, its connections end.
pub struct Cluster {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

struct Inner {
    side: Side,
    settings: Settings,
    contacts: Vec<Address>,
    /// The one that is used; known once a node was entered.
    datacenter: OnceLock<String>,
    facts: ArcSwapOption<Facts>,
    timeouts: ArcSwap<Timeouts>,
    /// Those of our datacenter, one at least; the one with the control connection is the first.
    hosts: ArcSwap<Vec<Host>>,
    tables: ArcSwap<Tables>,
    /// [`Tables::epoch`], for who waits for another.
    epoch: watch::Sender<u64>,
    /// How often somebody asked for a look, and up to which of them it was done: `seen <= asked`.
    asked: watch::Sender<u64>,
    seen: watch::Sender<u64>,
    shunned: Shunned,
    clients: Mutex<HashMap<Address, Slot>>,
    clocks: Mutex<HashMap<Address, Offset>>,
    /// [`clock::apart`], for who cannot wait.
    apart: AtomicI64,
    turn: AtomicUsize,
    /// Until when replicas are taken to be away.
    away_until: Mutex<Option<Instant>>,
}

/// The connection to a node. Whoever finds none makes it, while others wait.
type Slot = Arc<tokio::sync::Mutex<Held>>;

#[derive(Default)]
struct Held {
    client: Option<Client>,
    /// When it could not be made, last.
    failed: Option<Instant>,
}

impl Held {
    fn living(&self) -> Option<Client> {
        self.client.clone().filter(|client| !client.is_lost())
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("side", &self.inner.side).field("hosts", &self.hosts()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connect to the first contact point that can be reached, and look at everything once.
    ///
    /// # Errors
    /// The last contact point's.
    pub async fn connect(server: &config::Server, side: Side, limits: &config::Limits) -> Result<Cluster, Error> {
        Cluster::enter(&server.hosts, server.datacenter.as_deref(), Settings::of(server, limits), side).await
    }

    /// The same, of settings.
    ///
    /// # Errors
    /// The last contact point's.
    pub async fn enter(
        contacts: &[Address],
        datacenter: Option<&str>,
        settings: Settings,
        side: Side,
    ) -> Result<Cluster, Error> {
        let inner = Arc::new(Inner {
            side,
            settings,
            contacts: contacts.to_vec(),
            datacenter: datacenter.map(|name| OnceLock::from(name.to_owned())).unwrap_or_default(),
            facts: ArcSwapOption::empty(),
            timeouts: ArcSwap::default(),
            hosts: ArcSwap::default(),
            tables: ArcSwap::default(),
            epoch: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            seen: watch::Sender::new(0),
            shunned: Shunned::default(),
            clients: Mutex::default(),
            clocks: Mutex::default(),
            apart: AtomicI64::new(0),
            turn: AtomicUsize::new(0),
            away_until: Mutex::default(),
        });
        let control = control::attach(&inner).await?;
        inner.measure().await;
        let stop = CancellationToken::new();
        let (followed, mut control) = (inner.clone(), Some(control));
        let follow = move || control::keep(followed.clone(), control.take());
        let follow = keep::kept("following a cluster's schema and nodes", follow, stop.clone());
        let measured = inner.clone();
        let clocks = move || control::watch_clocks(measured.clone());
        let clocks = keep::kept("looking at a cluster's clocks", clocks, stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
        tokio::spawn(stop.clone().run_until_cancelled_owned(clocks));
        Ok(Cluster { inner, _stop: stop.drop_guard() })
    }

    /// Which one it is.
    pub fn side(&self) -> Side {
        self.inner.side
    }

    /// Its tables, as of the last look. Never waits.
    pub fn tables(&self) -> Arc<Tables> {
        self.inner.tables.load_full()
    }

    /// [`Tables::epoch`], for who waits for another look that found something else.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.inner.epoch.subscribe()
    }

    /// Look at nodes and schema again, now. Resolves when what was true at the call is seen, or cannot be.
    pub fn refresh(&self) -> BoxFuture<'static, ()> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut seen = inner.seen.subscribe();
            let mut ours = 0;
            inner.asked.send_modify(|asked| {
                *asked += 1;
                ours = *asked;
            });
            let _ = seen.wait_for(|seen| *seen >= ours).await;
        })
    }

    /// What a node says of itself and of the cluster.
    pub fn facts(&self) -> Arc<Facts> {
        self.inner.facts.load_full().expect("read before the first handle was given out")
    }

    /// How long its nodes work on a write, as one of them says.
    pub fn timeouts(&self) -> Timeouts {
        **self.inner.timeouts.load()
    }

    /// What the node is: `4.1.9`.
    pub fn release(&self) -> String {
        self.facts().release_version.clone()
    }

    /// What it calls its functions.
    pub fn dialect(&self) -> Dialect {
        Dialect::of_release(&self.facts().release_version)
    }

    /// The nodes of our datacenter.
    pub fn hosts(&self) -> Arc<Vec<Host>> {
        self.inner.hosts.load_full()
    }

    /// A node that the other one has too, in any datacenter: they are one cluster.
    ///
    /// # Errors
    /// No node of one can be asked.
    pub async fn node_also_in(&self, other: &Cluster) -> Result<Option<Address>, Error> {
        let nodes = async |cluster: &Cluster| hosts::load(&cluster.client().await?).await;
        let (ours, theirs) = tokio::try_join!(nodes(self), nodes(other))?;
        Ok(hosts::in_both(&ours, &theirs))
    }

    /// What is the same for all connections.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// A node to connect to: another one each time, those that are up before the others.
    pub fn pick(&self) -> Address {
        self.inner.candidates().into_iter().next().expect("looked at before the first handle was given out")
    }

    /// A socket to a node, TLS agreed where it is configured, and nothing said: for a session of a client.
    ///
    /// # Errors
    /// The last node's.
    pub async fn connect_raw(&self) -> Result<Socket, Error> {
        let mut last = None;
        for address in self.inner.candidates() {
            match self.connect_raw_to(&address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(self.inner.no_node(last))
    }

    /// The same, to this node.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect_raw_to(&self, address: &Address) -> Result<Socket, Error> {
        let patience = self.inner.settings.connect_timeout;
        let opened = timeout(patience, client::open(&self.inner.settings, address)).await;
        opened.unwrap_or(Err(Error::ConnectTimeout(patience))).map_err(|why| {
            self.inner.shunned.shun(address.clone(), SHUNNED);
            Error::Connect { host: address.clone(), why: Box::new(why) }
        })
    }

    /// This node did not let anybody in lately.
    pub fn is_down(&self, node: &Address) -> bool {
        self.inner.is_down(node)
    }

    /// This node is down, and another one is not.
    pub fn is_left(&self, node: SocketAddr) -> bool {
        self.inner.is_down(&address_of(node)) && self.hosts().iter().any(|host| !self.inner.is_down(&host.address))
    }

    /// This node did not let a client in: it is tried last for a while.
    pub fn suspect(&self, node: SocketAddr) {
        self.inner.shunned.shun(address_of(node), SHUNNED);
    }

    /// A connection of our own to some node, shared with others.
    ///
    /// # Errors
    /// The last node's.
    pub async fn client(&self) -> Result<Client, Error> {
        self.inner.client().await
    }

    /// A connection of our own to this node, shared with others.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn client_of(&self, address: &Address) -> Result<Client, Error> {
        self.inner.client_of(address).await
    }

    /// How far this node's clock is from ours, if it was asked lately.
    pub fn clock(&self, address: &Address) -> Option<Offset> {
        lock(&self.inner.clocks).get(address).copied()
    }

    /// How far the clock of a node may be behind ours, in microseconds; negative: all are ahead.
    pub fn behind(&self) -> i64 {
        lock(&self.inner.clocks).values().map(|offset| -offset.least).max().unwrap_or_default()
    }

    /// How far the clock of a node may be ahead of ours, in microseconds; negative: all are behind.
    pub fn ahead(&self) -> i64 {
        lock(&self.inner.clocks).values().map(|offset| offset.most).max().unwrap_or_default()
    }

    /// How far the clocks of its nodes are from ours, in microseconds: in the middle of them, and 0 where that is no second. Never
    /// waits.
    pub fn apart(&self) -> i64 {
        self.inner.apart.load(Ordering::Relaxed)
    }

    /// Not all replicas of a partition answered, which may have taken long: for a while they need not be asked again.
    pub fn replicas_are_away(&self) {
        *lock(&self.inner.away_until) = Some(Instant::now() + AWAY);
    }

    /// Whether all replicas may answer, as far as is known.
    pub fn has_all_replicas(&self) -> bool {
        lock(&self.inner.away_until).is_none_or(|until| until < Instant::now())
    }

    /// The ballot of a conditional write that was answered: microseconds, as its timestamp. Bounded in time.
    ///
    /// # Errors
    /// [`Unread`]: it is not known, and will not be.
    pub async fn ballot(&self, question: &Question) -> Result<i64, Unread> {
        ballots::read(&self.inner, question).await
    }

    /// Whether ballots may be read.
    ///
    /// # Errors
    /// No node can be asked.
    pub async fn shows_ballots(&self) -> Result<bool, Error> {
        ballots::are_shown(&self.client().await?).await
    }

    /// Its views, indexes, types and orders of rows, as they are now.
    ///
    /// # Errors
    /// No node can be asked.
    pub async fn definitions(&self) -> Result<Definitions, Error> {
        load(&self.client().await?).await
    }

    /// What of its tables is shown masked to tandem's role.
    ///
    /// # Errors
    /// No node can be asked.
    pub async fn masked(&self) -> Result<Masked, Error> {
        masks::masked(&self.client().await?, &self.inner.settings.user).await
    }

    /// The time zones of its nodes: one, if they are set alike. Those that cannot be asked say nothing.
    pub async fn zones(&self) -> BTreeSet<Zone> {
        let hosts = self.hosts();
        let asked = hosts.iter().map(|host| async move { zones::zone(&self.client_of(&host.address).await?).await });
        join_all(asked).await.into_iter().filter_map(Result::ok).collect()
    }

    /// Wait until all nodes that are up have one schema, for as long as drivers wait.
    ///
    /// # Errors
    /// They still have not, or no node can be asked.
    pub async fn agreed(&self) -> Result<(), Error> {
        self.inner.agreement(&self.client().await?).await.map(drop)
    }

    /// Its tables of now, if they are those of all nodes that are up. `None`: these have another schema by now.
    ///
    /// # Errors
    /// The nodes do not come to agree, or none can be asked.
    pub async fn agreed_tables(&self) -> Result<Option<Arc<Tables>>, Error> {
        self.refresh().await;
        let hosts = self.inner.agreement(&self.client().await?).await?;
        let (agreed, tables) = (hosts.first().and_then(|host| host.schema), self.tables());
        Ok(Some(tables).filter(|tables| agreed == Some(tables.version)))
    }
}

impl Grounds for Arc<Cluster> {
    fn tables(&self) -> Arc<Tables> {
        Cluster::tables(self)
    }

    fn refresh(&self) -> BoxFuture<'static, ()> {
        Cluster::refresh(self)
    }

    fn dialect(&self) -> Dialect {
        Cluster::dialect(self)
    }

    fn asks_who(&self) -> bool {
        self.facts().authenticator.is_some()
    }

    fn behind(&self) -> i64 {
        Cluster::behind(self)
    }

    fn ahead(&self) -> i64 {
        Cluster::ahead(self)
    }

    fn apart(&self) -> i64 {
        Cluster::apart(self)
    }

    fn ballot(&self, question: Question) -> BoxFuture<'static, Result<i64, Unread>> {
        let cluster = self.clone();
        Box::pin(async move { Cluster::ballot(&cluster, &question).await })
    }
}

impl Inner {
    /// Nodes of our datacenter in the order in which they should be tried.
    fn candidates(&self) -> Vec<Address> {
        let mut all: Vec<Address> = self.hosts.load().iter().map(|host| host.address.clone()).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if !all.is_empty() {
            let start = turn % all.len();
            all.rotate_left(start);
        }
        all.sort_by_key(|address| self.shunned.has(address));
        all
    }

    /// The same for who looks for nodes: contact points too, wherever they are.
    fn doors(&self) -> Vec<Address> {
        let mut all = self.candidates();
        let contacts = self.contacts.iter().filter(|contact| !all.contains(contact));
        let mut last: Vec<Address> = contacts.cloned().collect();
        all.append(&mut last);
        all.sort_by_key(|address| self.shunned.has(address));
        all
    }

    /// None of those that were tried took us; the last one's error.
    fn no_node(&self, last: Option<Error>) -> Error {
        let last = last.unwrap_or_else(|| Error::NoHost("no contact point is configured".to_owned()));
        match self.datacenter.get() {
            Some(datacenter) => Error::NoNode { datacenter: datacenter.clone(), why: Box::new(last) },
            None => last,
        }
    }

    fn is_down(&self, address: &Address) -> bool {
        self.shunned.has(address)
    }

    async fn client(&self) -> Result<Client, Error> {
        let mut candidates = self.candidates();
        // While one is connected to, nobody waits for another: that is reached for when clocks are looked at.
        let mut up = candidates.iter().filter(|address| !self.is_down(address));
        if let Some(client) = up.find_map(|address| self.at_hand(address)) {
            return Ok(client);
        }
        // Who is being tried is waited for when nobody else is left.
        candidates.sort_by_cached_key(|address| (self.is_down(address), self.is_tried(address)));
        let mut last = None;
        for address in candidates {
            match self.client_of(&address).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
        }
        Err(self.no_node(last))
    }

    /// The connection to this node, if there is one.
    fn at_hand(&self, address: &Address) -> Option<Client> {
        let slot = lock(&self.clients).get(address)?.clone();
        slot.try_lock().ok()?.living()
    }

    /// Somebody is connecting to it.
    fn is_tried(&self, address: &Address) -> bool {
        lock(&self.clients).get(address).is_some_and(|slot| slot.try_lock().is_err())
    }

    async fn client_of(&self, address: &Address) -> Result<Client, Error> {
        let slot = lock(&self.clients).entry(address.clone()).or_default().clone();
        let asked = Instant::now();
        let mut held = slot.lock().await;
        if let Some(client) = held.living() {
            return Ok(client);
        }
        held.client = None;
        // Those who waited for one attempt do not each wait for another.
        if held.failed.is_some_and(|failed| failed > asked) {
            return Err(Error::NoHost(format!("{address} was just tried")));
        }
        let client = Client::connect(&self.settings, address).await.inspect_err(|_| {
            // Until the next attempt is over, however long it hangs in that one.
            self.shunned.shun(address.clone(), control::TICK + self.settings.connect_timeout + SHUNNED);
            held.failed = Some(Instant::now());
        })?;
        self.shunned.forgive(address);
        self.heed(&client);
        Ok(held.client.insert(client).clone())
    }

    /// A node that says nothing any more is down, whatever the others say of it.
    fn heed(&self, client: &Client) {
        let (silent, shunned) = (client.fell_silent(), self.shunned.clone());
        let names = [Some(client.address().clone()), client.peer().map(address_of)];
        tokio::spawn(async move {
            if silent.await {
                names.into_iter().flatten().for_each(|name| shunned.shun(name, DOWN));
            }
        });
    }

    /// The nodes, once all that are up have one schema.
    async fn agreement(&self, client: &Client) -> Result<Vec<Host>, Error> {
        let (began, mut were_reached_for) = (Instant::now(), false);
        loop {
            let hosts = hosts::load(client).await?;
            let others = hosts::dissenting(&hosts, |address| self.is_down(address));
            if others.is_empty() {
                return Ok(hosts);
            }
            if began.elapsed() >= AGREEMENT {
                return Err(Error::Disagreement(hosts::named(&others, client.address())));
            }
            if began.elapsed() < UNDER_WAY || were_reached_for {
                sleep(LOOK).await;
                continue;
            }
            were_reached_for = true;
            self.reach_for(&others).await;
        }
    }

    /// Take those for down that cannot be reached, as drivers do: nobody told us of what went down before we listened, and those of
    /// other datacenters we have no connection to.
    async fn reach_for(&self, hosts: &[&Host]) {
        let each = hosts.iter().map(|host| async move {
            if !matches!(timeout(REACH, self.client_of(&host.address)).await, Ok(Ok(_))) {
                self.shunned.shun(host.address.clone(), DOWN);
            }
        });
        join_all(each).await;
    }

    /// Ask every node for its clock. Those that cannot be asked keep what they said.
    async fn measure(&self) {
        let hosts = self.hosts.load_full();
        // One that hangs keeps nobody from asking the others.
        join_all(hosts.iter().map(|host| self.measure_one(&host.address))).await;
        let (apart, furthest) = {
            let clocks = lock(&self.clocks);
            let furthest = clocks.values().map(|offset| offset.micros().abs()).max().unwrap_or_default();
            (clock::apart(clocks.values()), furthest)
        };
        self.apart.store(apart, Ordering::Relaxed);
        metrics::CLOCKS_APART_SECONDS.gauge(&[("side", self.side.as_str())]).set(furthest as f64 / 1e6);
    }

    async fn measure_one(&self, address: &Address) {
        let Ok(client) = self.client_of(address).await else { return };
        match clock::measure(&client).await {
            Ok(offset) => drop(lock(&self.clocks).insert(address.clone(), offset)),
            Err(error) => tracing::debug!(side = %self.side, host = %address, %error, "a clock cannot be read"),
        }
    }

    /// Nodes that are gone leave nothing behind; of those elsewhere it is known whether they are down.
    fn forget_others(&self, nearby: &[Host], all: &HashSet<Address>) {
        let listed = |address: &Address| nearby.iter().any(|host| host.address == *address);
        lock(&self.clients).retain(|address, _| listed(address));
        // Only these are measured again: what a contact's clock was, that goes by another name now, says nothing.
        lock(&self.clocks).retain(|address, _| listed(address));
        self.shunned.retain(|address| all.contains(address) || self.contacts.contains(address));
    }
}

fn address_of(peer: SocketAddr) -> Address {
    Address { host: peer.ip().to_string(), port: peer.port() }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
