//! From configuration to what sessions and the mirror run on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, ListenTls, Live, TypeOids};
use crate::cutover::gate::{Gate, Route};
use crate::journal::Journal;
use crate::mirror::Twins;
use crate::mirror::unwritten::Lose;
use crate::net::clients::Clients;
use crate::net::tls;
use crate::record::{Side, TableId};
use crate::shadow::Handle;
use crate::telemetry::Line;

use super::cache::PlanCache;
use super::catalog::{Catalog, Setters, load};
use super::client::{self, Client, Endpoint, Host, ServerConfig, TargetSession};
use super::copier::{Options, PgCopier};
use super::identity;
use super::logins::Logins;
use super::moving::sessions::Sessions;
use super::pulse::Ping;
use super::scope::{Scope, filter};
use super::serve::{Cancels, Front};
use super::servers::Servers;
use super::shadow::{Asked, Backends, Repeater};
use super::shared::{Policy, Schema, Shared};
use super::switch::barrier;

/// What the servers call connections of ours that only ask.
const APPLICATION_NAME: &str = "tandem";

/// How long a start looks at the side that no client waits for.
const LOOK: Duration = Duration::from_secs(2);

/// What all listeners of the process serve with.
pub struct Setup {
    /// What sessions share.
    pub shared: Arc<Shared>,
    pub(super) servers: Arc<Servers>,
    closes_types: bool,
    login_timeout: Duration,
    clients: Clients,
    cancels: Cancels,
    elsewhere: Arc<dashmap::DashSet<String>>,
}

/// Why PostgreSQL cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The primary's catalog is needed before the first client.
    #[error("{0}: {1}")]
    Primary(Side, String),
    /// What `[[tables]]` says is not so: of this table, and why.
    #[error("[[tables]] {0}: {1}")]
    Tables(String, String),
    /// A switch closed it to writes, and the control state knows nothing of that switch.
    #[error(
        "the {0} refuses writes: a switch of tandem made the other side answer, and {1} knows of no such switch. Is it the \
         journal.dir of that tandem? If that is lost, exchange [origin] and [target] in proxy.toml, begin with an empty \
         directory, and verify every table. If the {0} shall answer again all the same, then there: SET \
         default_transaction_read_only = off; DELETE FROM tandem.barrier; ALTER DATABASE .. RESET default_transaction_read_only"
    )]
    Closed(Side, String),
    /// A switch closed it to writes, and the control state, which knows of switches, says that it answers.
    #[error(
        "the {0} refuses writes: a switch of tandem made the other side answer, and {1} says that the {0} does. If [origin] and [target] \
         were exchanged in proxy.toml, put them back: the directory belongs to the sides as they were. If {1} is an older copy of \
         itself, exchange them, begin with an empty directory, and verify every table"
    )]
    Exchanged(Side, String),
    /// What is mirrored would be deleted.
    #[error("{0}: correct the configuration")]
    OneDatabase(&'static str),
    /// A certificate or key cannot be used.
    #[error("[[listen]] TLS: {0}")]
    Tls(String),
}

impl Setup {
    /// Connect to the origin and learn its schema. Without a journal nothing is captured.
    pub async fn new(
        config: &Config,
        live: Live,
        gate: Gate,
        journal: Option<(Journal, Logins)>,
        (lost, shadow): (Lose, Handle<Asked>),
    ) -> Result<Setup, Error> {
        let servers = Arc::new(Servers::new(config, journal.as_ref().map(|(_, logins)| logins)));
        let route = gate.route();
        let primary = route.primary;
        let (catalog, host) = match &journal {
            Some(_) => {
                let (catalog, one) = tokio::join!(load_catalog(route, &servers, config), are_one(primary, &servers));
                if one {
                    return Err(Error::OneDatabase(identity::ONE_DATABASE));
                }
                catalog?
            }
            None => {
                // One that is away, or hangs, is no reason not to serve: clients are told so one by one.
                let look = async {
                    let Ok(mut client) = Client::connect(servers.of(primary)).await else { return Ok(None) };
                    open_to_writes(&mut client, route, config).await?;
                    Ok(Some(client.endpoint().clone()))
                };
                let host = tokio::time::timeout(config.limits.connect_timeout, look).await.unwrap_or(Ok(None))?;
                (Catalog::default(), host)
            }
        };
        let schema = Schema::new(catalog);
        host.iter().for_each(|host| schema.found(primary, host));
        let (journal, logins) = journal.unwrap_or_else(|| {
            let none = Journal::in_memory();
            (none.clone(), Logins::new(none))
        });
        let shared = Shared {
            gate,
            journal,
            catalog: schema,
            plans: PlanCache::new(config.limits.plan_cache),
            policy: policy(config, live),
            logins,
            full: AtomicBool::new(false),
            shadow,
            repeating: Backends::default(),
            sessions: Sessions::default(),
            uncounted: Arc::default(),
            lost,
            untaken: Line::default(),
            unrepeated: Line::default(),
        };
        Ok(Setup {
            shared: Arc::new(shared),
            servers,
            closes_types: config.cutover.type_oids == TypeOids::Close,
            login_timeout: config.limits.login_timeout,
            clients: Clients::new("postgres", config.limits.connections),
            cancels: Cancels::default(),
            elsewhere: Arc::default(),
        })
    }

    /// A side, with tandem's own credentials.
    pub fn server(&self, side: Side) -> Arc<ServerConfig> {
        self.servers.of(side).clone()
    }

    /// Know which of several hosts is the primary, where nothing follows its schema: with `mirror.mode = "off"`.
    pub fn seek(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (primary, schema) = (self.shared.gate.route().primary, self.shared.catalog.clone());
        schema.seek(primary, self.servers.of(primary).clone(), stop)
    }

    /// Something trivial to ask a side.
    pub fn ping(&self, side: Side) -> Ping {
        Ping::to(side, self.servers.clone(), self.shared.catalog.clone())
    }

    /// What repeats reads on the secondary.
    pub fn repeater(&self, twins: Twins, config: &Config) -> Repeater {
        Repeater::new(self.shared.clone(), self.servers.clone(), twins, config)
    }

    /// Labels of every table that is mirrored.
    pub fn tables(&self) -> Vec<TableId> {
        let catalog = self.shared.catalog.now();
        catalog.tables().map(|table| table.id).collect()
    }

    /// These tables, and those whose rows foreign keys may have taken along with theirs.
    pub fn with_taken_along(&self, tables: Vec<TableId>) -> Vec<TableId> {
        let mut all: BTreeSet<TableId> = tables.iter().copied().collect();
        all.extend(self.shared.catalog.now().taken_along(tables));
        all.into_iter().collect()
    }

    /// What people call a table.
    pub fn names(&self) -> Arc<dyn Fn(TableId) -> Option<String> + Send + Sync> {
        let schema = self.shared.catalog.clone();
        Arc::new(move |table| {
            let catalog = schema.now();
            let relation = catalog.relation(table)?;
            Some(format!("{}.{}", relation.schema, relation.name))
        })
    }

    /// What one listener serves with.
    pub fn front(&self, tls: Option<&ListenTls>) -> Result<Front, Error> {
        Ok(Front {
            shared: self.shared.clone(),
            servers: self.servers.clone(),
            closes_types: self.closes_types,
            tls: tls.map(acceptor).transpose()?,
            tls_required: tls.is_some_and(|tls| tls.required),
            login_timeout: self.login_timeout,
            clients: self.clients.clone(),
            cancels: self.cancels.clone(),
            elsewhere: self.elsewhere.clone(),
        })
    }
}

/// The mirror's hands, from this side to the other one.
pub fn copier(config: &Config, primary: Side, logins: &Logins) -> PgCopier {
    let config_of = |server| server_config(server, config, Some(logins));
    let (origin, target) = (config_of(&config.origin), config_of(&config.target));
    let options = Options { scope: Scope::of(config, primary), ..Options::default() };
    match primary {
        Side::Origin => PgCopier::new(origin, target, options),
        Side::Target => PgCopier::new(target, origin, options),
    }
}

/// The primary's, and the host that it was read on.
async fn load_catalog(route: Route, servers: &Servers, config: &Config) -> Result<(Catalog, Option<Endpoint>), Error> {
    let primary = route.primary;
    let told = |error: &dyn std::fmt::Display| Error::Primary(primary, error.to_string());
    let mut client = Client::connect(servers.of(primary)).await.map_err(|error| told(&error))?;
    open_to_writes(&mut client, route, config).await?;
    let mut catalog = load(&mut client).await.map_err(|error| told(&error))?;
    catalog.setters = Setters::load(&mut client, None).await.map_err(|error| told(&error))?;
    // A name that is spelt wrong must not have a table copied whole that was to be copied in part.
    let scope = Scope::of(config, primary);
    let mut flaws = scope.flaws(&catalog);
    if primary == Side::Origin && !scope.is_plain() {
        flaws.extend(filter::refused(&mut client, &scope, &catalog).await.map_err(|error| told(&error))?);
    }
    let host = client.endpoint().clone();
    client.close().await;
    if let Some((table, why)) = flaws.into_iter().next() {
        return Err(Error::Tables(table, why));
    }
    catalog.epoch = 1;
    Ok((catalog, Some(host)))
}

/// Both sides are one database. The mirror asks again whenever it connects: a side that is away keeps nobody from the start.
async fn are_one(primary: Side, servers: &Servers) -> bool {
    let look = async {
        let (here, there) = (servers.of(primary), servers.of(primary.other()).for_writing(APPLICATION_NAME));
        let (mut here, mut there) = tokio::try_join!(Client::connect(here), Client::connect(&there))?;
        identity::are_found_one(&mut here, &mut there).await
    };
    matches!(tokio::time::timeout(LOOK, look).await, Ok(Ok(true)))
}

/// Who starts with another directory than that of the switch would send clients to where nothing was written since.
async fn open_to_writes(client: &mut Client, route: Route, config: &Config) -> Result<(), Error> {
    match barrier::look(client).await {
        Ok(standing) if standing.is_up() => {
            let dir = config.journal.dir.display().to_string();
            Err(if route.epoch > 1 { Error::Exchanged(route.primary, dir) } else { Error::Closed(route.primary, dir) })
        }
        // Without the right to see it, nothing is known.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn policy(config: &Config, live: Live) -> Policy {
    Policy {
        live,
        spill_bytes: 256 << 10,
        message_bytes_max: usize::try_from(config.limits.message_bytes.0).unwrap_or(usize::MAX),
        statement_bytes_max: usize::try_from(config.limits.statement_bytes.0).unwrap_or(usize::MAX),
    }
}

/// A cluster of the configuration as the client understands it.
pub(crate) fn server_config(server: &config::Server, config: &Config, logins: Option<&Logins>) -> ServerConfig {
    let hosts = server.hosts.iter().map(|address| {
        let host = match address.host.starts_with('/') {
            true => Host::Unix(address.host.clone().into()),
            false => Host::Tcp(address.host.clone()),
        };
        Endpoint { host, port: address.port }
    });
    ServerConfig {
        hosts: hosts.collect(),
        user: server.user.clone(),
        password: server.password.as_ref().map(|secret| secret.reveal().to_owned()),
        database: server.database.clone(),
        tls: server.tls(),
        connect_timeout: config.limits.connect_timeout,
        // Of several hosts one is the primary.
        target_session: if server.hosts.len() > 1 { TargetSession::ReadWrite } else { TargetSession::Any },
        logins: logins.cloned(),
        ..client::ServerConfig::default()
    }
    .called(APPLICATION_NAME)
}

fn acceptor(tls: &ListenTls) -> Result<tls::Acceptor, Error> {
    // Direct TLS demands it (documentation, "SSL Session Encryption").
    tls::acceptor(&tls.cert, &tls.key, tls.ca.as_deref(), &[b"postgresql"]).map_err(|error| Error::Tls(error.0))
}
