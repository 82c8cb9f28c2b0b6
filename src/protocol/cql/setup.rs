//! From configuration to what sessions and the mirror run on.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backfill::{Desk, crew};
use crate::config::{Config, ListenTls, Live};
use crate::cutover::gate::Gate;
use crate::journal::Journal;
use crate::mirror::Waits;
use crate::mirror::durable::{self, Durable};
use crate::mirror::unwritten::Lose;
use crate::net::clients::Clients;
use crate::net::keep;
use crate::net::tls;
use crate::record::{Side, TableId};

use super::applier::{Applier, Copied, Quiet, Reach, sees};
use super::ballot::{Question, Unread};
use super::client;
use super::cluster::Cluster;
use super::pulse::Ping;
use super::serve::{Front, Logins};
use super::session::Barriers;
use super::session::policy::Policy;
use super::session::shared::{Grounds, Parts, Shared, Synchronous};
use super::shadow::Watch;
use super::stamps::{Stamps, now_micros};
use super::tables::{Tables, is_own};
use super::text::generate::TimeUuids;
use super::text::volatile::Dialect;
use super::topology::Identity;

/// Between two attempts to reach a side that was away at the start.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the newest stamp is kept, and how far ahead of it: what a restart begins above.
const KEEP_STAMP: Duration = Duration::from_millis(500);
const STAMP_AHEAD: i64 = 1_000_000;
/// Cassandra takes no frame over 256 MiB.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// What all listeners of the process serve with.
pub struct Setup {
    pub(super) shared: Arc<Shared>,
    pub(super) sides: Sides,
    pub(super) logins: Logins,
    clients: Clients,
}

const ONE_CLUSTER: &str = "[origin] and [target] are one and the same cluster under two names";

/// Why CQL cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A side must be there, and is not.
    #[error("{0}: {1}")]
    Side(Side, client::Error),
    /// At the first start both sides must be there: what they say of themselves makes what clients are told.
    #[error("{0}: {1}; at the first start both sides must be there")]
    First(Side, String),
    /// What is mirrored would be written twice.
    #[error("{ONE_CLUSTER}: {0} is a node of both; correct the configuration")]
    OneCluster(client::Address),
    /// A certificate or key cannot be used.
    #[error("[[listen]] TLS: {0}")]
    Tls(String),
    /// A file of the journal's directory cannot be read or written.
    #[error(transparent)]
    Durable(#[from] crate::mirror::durable::Error),
}

/// Both clusters, each from the moment on when it was reached first.
#[derive(Clone, Default)]
pub struct Sides(Arc<[Place; 2]>);

#[derive(Default)]
struct Place {
    cluster: ArcSwapOption<Cluster>,
    /// Why it was not reached, as long as it was not.
    away: ArcSwapOption<String>,
}

impl Sides {
    /// A side; `None` while it was never there.
    pub(super) fn get(&self, side: Side) -> Option<Arc<Cluster>> {
        self.place(side).cluster.load_full()
    }

    /// Why a side was never there, for a person to read.
    pub(super) fn why_away(&self, side: Side) -> String {
        let why = self.place(side).away.load_full();
        why.map_or_else(|| "it was not reached yet".to_owned(), |why| format!("it was not reached yet: {why}"))
    }

    fn place(&self, side: Side) -> &Place {
        &self.0[side.index()]
    }

    fn set(&self, side: Side, cluster: Cluster) {
        self.place(side).cluster.store(Some(Arc::new(cluster)));
    }

    fn missed(&self, side: Side, error: &dyn std::fmt::Display) {
        self.place(side).away.store(Some(Arc::new(error.to_string())));
    }
}

/// One side, as sessions see it.
struct Ground(Sides, Side);

impl Grounds for Ground {
    fn tables(&self) -> Arc<Tables> {
        self.0.get(self.1).map_or_else(Arc::default, |cluster| cluster.tables())
    }

    fn refresh(&self) -> BoxFuture<'static, ()> {
        match self.0.get(self.1) {
            Some(cluster) => cluster.refresh(),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn dialect(&self) -> Dialect {
        self.0.get(self.1).map_or(Dialect::of_release(""), |cluster| cluster.dialect())
    }

    fn asks_who(&self) -> bool {
        self.0.get(self.1).is_none_or(|cluster| cluster.asks_who())
    }

    fn behind(&self) -> i64 {
        self.0.get(self.1).map_or(0, |cluster| cluster.behind())
    }

    fn ahead(&self) -> i64 {
        self.0.get(self.1).map_or(0, |cluster| cluster.ahead())
    }

    fn apart(&self) -> i64 {
        self.0.get(self.1).map_or(0, |cluster| cluster.apart())
    }

    fn ballot(&self, question: Question) -> BoxFuture<'static, Result<i64, Unread>> {
        match self.0.get(self.1) {
            Some(cluster) => Grounds::ballot(&cluster, question),
            None => Box::pin(std::future::ready(Err(Unread::Absent))),
        }
    }
}

/// What sessions need for their writes to be mirrored.
pub struct Mirroring {
    /// Where they are written down.
    pub journal: Journal,
    /// What is not simply mirrored, as it is configured now.
    pub live: Live,
    /// Called with tables whose writes the journal did not take.
    pub lost: Lose,
    /// Answers wait until the secondary has the write.
    pub waits: Option<Waits>,
    /// Chooses reads that are repeated on the other side.
    pub watch: Watch,
    /// What the mirror does on the primary has its place among the clients' writes: its appliers have the same.
    pub barriers: Barriers,
}

impl Setup {
    /// Connect to the primary and learn its schema; to the other side too, which may be away unless it is the first start.
    /// Others may look for the sides in `sides` too. What runs beside it runs among `tasks` and ends with `stop`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn over(
        sides: Sides,
        config: &Config,
        gate: Gate,
        mirroring: Option<Mirroring>,
        (stop, tasks): (CancellationToken, TaskTracker),
    ) -> Result<Setup, Error> {
        let primary = gate.route().primary;
        sides.set(primary, reach(config, primary).await.map_err(|error| Error::Side(primary, error))?);
        let secondary = primary.other();
        let other = match reach_another(config, &sides, secondary).await {
            Ok(Ok(other)) => Ok(other),
            Ok(Err(node)) => return Err(Error::OneCluster(node)),
            Err(error) => Err(error),
        };
        let dir = &config.journal.dir;
        // Without mirroring there is no journal that makes it.
        std::fs::create_dir_all(dir).map_err(|source| durable::Error::Io { path: dir.clone(), source })?;
        let identity = match Identity::load(&config.journal.dir)? {
            Some(identity) => identity,
            None => match &other {
                Ok(other) => first(config, &sides, primary, other).await?,
                Err(error) => return Err(Error::First(secondary, error.to_string())),
            },
        };
        match other {
            Ok(cluster) => sides.set(secondary, cluster),
            Err(error) => {
                tracing::warn!(side = %secondary, %error, "a side is away at the start; it is tried again");
                sides.missed(secondary, &error);
                let reach = keep_reaching(config.clone(), sides.clone(), secondary);
                let reach = keep::told("reaching for a side that is away", reach);
                tasks.spawn(stop.clone().run_until_cancelled_owned(reach));
            }
        }
        contradictions(&identity, &sides);
        let kept = Durable::in_dir(&config.journal.dir, "stamps");
        let floor: i64 = kept.load()?.unwrap_or_default();
        let ground = |side| Box::new(Ground(sides.clone(), side)) as Box<dyn Grounds>;
        let node = identity.host_id.0;
        let barriers = mirroring.as_ref().map(|mirroring| mirroring.barriers.clone()).unwrap_or_default();
        let (journal, live, lost, waits, watch) = match mirroring {
            Some(Mirroring { journal, live, lost, waits, watch, .. }) => (Some(journal), live, lost, waits, watch),
            None => (None, Live::new(config), Arc::new(|_: &[_], _| {}) as Lose, None, Watch::off()),
        };
        let shared = Arc::new(Shared::new(Parts {
            gate,
            sync: waits.map(|waits| Synchronous { waits, patience: config.mirror.sync_timeout }),
            journal,
            watch,
            sides: [ground(Side::Origin), ground(Side::Target)],
            stamps: Stamps::above(floor),
            // A node id of our own, marked as none of hardware (RFC 9562, section 6.10).
            timeuuids: TimeUuids::new([node[0] | 1, node[1], node[2], node[3], node[4], node[5]], now_micros() as u16),
            identity,
            statements_max: config.limits.plan_cache,
            policy: Policy::new(live),
            lost,
            frame_bytes_max: config.limits.message_bytes.bytes().min(FRAME_BYTES_MAX),
            answer_timeout: config.limits.answer_timeout,
            barriers,
        }));
        tasks.spawn(keep::told("keeping timestamps above a restart's", keep_stamps(shared.clone(), kept, stop)));
        let users = config.users.iter().map(|user| (user.name.clone(), user.password.clone())).collect();
        let authenticator = shared.identity.authenticator.clone();
        let bounds = (config.limits.login_timeout, shared.frame_bytes_max);
        let logins = Logins::new(sides.clone(), users, authenticator, bounds);
        Ok(Setup { shared, sides, logins, clients: Clients::new("cql", config.limits.connections) })
    }

    /// Labels of every table that is mirrored.
    pub fn tables(&self) -> Vec<TableId> {
        let side = self.shared.gate.route().primary;
        let tables = self.shared.side(side).tables();
        tables.iter().filter(|table| !is_own(&table.shape.keyspace)).map(|table| table.label).collect()
    }

    /// What finds out whether a worker sees the same two clusters. One that is away is looked at with each chunk: ids of tables
    /// are of one cluster.
    pub fn judge(&self) -> crew::Judge {
        let sides = self.sides.clone();
        Box::new(move |theirs| {
            let here = [Side::Origin, Side::Target].into_iter().filter_map(|side| Some((side, sides.get(side)?)));
            here.into_iter().try_for_each(|(side, cluster)| sees(&cluster).agrees(side, theirs.of(side)))
        })
    }

    /// Something trivial to ask a side.
    pub fn ping(&self, side: Side) -> Ping {
        Ping::to(&self.sides, side)
    }

    /// What people call a table.
    pub fn names(&self) -> Arc<dyn Fn(TableId) -> Option<String> + Send + Sync> {
        let shared = self.shared.clone();
        Arc::new(move |label| {
            let tables = shared.side(shared.gate.route().primary).tables();
            let table = tables.iter().find(|table| table.label == label)?;
            Some(format!("{}.{}", table.shape.keyspace, table.shape.name))
        })
    }

    /// What one listener serves with.
    ///
    /// # Errors
    /// [`Error::Tls`].
    pub fn front(&self, tls: Option<&ListenTls>) -> Result<Front, Error> {
        let acceptor = |tls: &ListenTls| tls::acceptor(&tls.cert, &tls.key, tls.ca.as_deref(), &[]);
        Ok(Front {
            shared: self.shared.clone(),
            logins: self.logins.clone(),
            tls: tls.map(acceptor).transpose().map_err(|error| Error::Tls(error.0))?,
            tls_required: tls.is_some_and(|tls| tls.required),
            clients: self.clients.clone(),
        })
    }
}

/// The mirror's hands for each direction, by its primary. `barriers` are those of the clients.
pub fn appliers(sides: &Sides, desk: &Desk, barriers: &Barriers) -> Box<dyn Fn(Side) -> Applier + Send + Sync> {
    let (sides, desk, barriers) = (sides.clone(), desk.clone(), barriers.clone());
    let reach = move |side: Side| -> Reach {
        let sides = sides.clone();
        Arc::new(move || sides.get(side))
    };
    // By the side that is written to.
    let quiet = [Quiet::since_now(), Quiet::since_now()];
    Box::new(move |primary| {
        let quiet = quiet[usize::from(primary == Side::Origin)].clone();
        let desk = desk.clone();
        let copied: Copied = Arc::new(move |table| desk.has_seen(table));
        Applier::new(reach(primary), reach(primary.other()), quiet, copied).among(barriers.clone())
    })
}

async fn reach(config: &Config, side: Side) -> Result<Cluster, client::Error> {
    Cluster::connect(config.server(side), side, &config.limits).await
}

/// A side that is not the cluster of the other one; else a node that both have.
async fn reach_another(
    config: &Config,
    sides: &Sides,
    side: Side,
) -> Result<Result<Cluster, client::Address>, client::Error> {
    let cluster = reach(config, side).await?;
    let common = match sides.get(side.other()) {
        Some(other) => cluster.node_also_in(&other).await?,
        None => None,
    };
    Ok(common.map_or(Ok(cluster), Err))
}

async fn keep_reaching(config: Config, sides: Sides, side: Side) {
    let mut told = false;
    loop {
        sleep(AGAIN).await;
        match reach_another(&config, &sides, side).await {
            Ok(Ok(cluster)) => {
                tracing::info!(%side, "the side that was away is there");
                return sides.set(side, cluster);
            }
            Ok(Err(node)) => {
                let error = Error::OneCluster(node);
                sides.missed(side, &error);
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%side, %error, "nothing is mirrored");
                }
            }
            Err(error) => sides.missed(side, &error),
        }
    }
}

/// At the first start: what both sides say makes what clients are told from now on.
async fn first(config: &Config, sides: &Sides, primary: Side, other: &Cluster) -> Result<Identity, Error> {
    let here = sides.get(primary).expect("it was reached").facts();
    let there = other.facts();
    let (origin, target) = if primary == Side::Origin { (here, there) } else { (there, here) };
    let now = i32::try_from(now_micros() / 1_000_000).unwrap_or(i32::MAX);
    let identity = Identity::new(&origin, &target, super::session::random(), now);
    identity.save(&config.journal.dir).await?;
    Ok(identity)
}

fn contradictions(identity: &Identity, sides: &Sides) {
    for side in [Side::Origin, Side::Target] {
        let Some(cluster) = sides.get(side) else { continue };
        for found in identity.contradictions(&cluster.facts()) {
            tracing::warn!(%side, found, "a cluster is not what clients are told");
        }
    }
}

/// A process that comes after begins above every stamp of this one.
async fn keep_stamps(shared: Arc<Shared>, kept: Durable, stop: CancellationToken) {
    let mut saved = 0;
    loop {
        let stopped = stop.clone().run_until_cancelled_owned(sleep(KEEP_STAMP)).await.is_none();
        let last = shared.stamps.last();
        let ahead = if stopped { last } else { last + STAMP_AHEAD };
        if last != saved || stopped {
            if let Err(error) = kept.save_aside(&ahead).await {
                tracing::error!(%error, "the newest timestamp cannot be kept");
            }
            saved = last;
        }
        if stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
