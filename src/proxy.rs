//! Assembly: a configuration becomes a running proxy, and a signal ends it in order.
//!
//! ```text
//!  main thread: signals, admin API, journal, mirror            one current_thread runtime
//!  workers 0..n: clients                                       one current_thread runtime each
//! ```
//!
//! A client's bytes never leave its worker: a wake-up of another thread costs as much as everything else that a proxy
//! does for a request. All workers accept from the same sockets; an idle one gets the next client.
//!
//! The end, in order: no new clients; clients finish within `limits.drain_timeout`; the mirror stops (what it has not
//! paid stays in the journal); the admin API stops last, so that a drain can be watched.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Readiness};
use crate::backfill;
use crate::check;
use crate::config::{self, Config, Durability, Listen, Live, Mode, Wire};
use crate::cutover::controller::{self, Controller, Defaults};
use crate::cutover::gate::{Gate, Route};
use crate::cutover::store::{self, InFile};
use crate::journal::{self, Journal, Last, Lsn, OpenError, Passed, Recovered};
use crate::metrics::{self, Exporter};
use crate::mirror::Handle;
use crate::mirror::unwritten::lose;
use crate::mirror::{replay, state};
use crate::net::clients::HEARD_BEYOND;
use crate::net::keep;
use crate::net::pulse::{self, Ask, Pulses};
use crate::protocol::postgres::logins::Logins;
use crate::protocol::{cql, postgres};
use crate::record::{Reason, Side, TableId};
use crate::shadow;
use crate::telemetry::{self, Level};

/// Why the proxy does not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used here.
    #[error("{0}")]
    Setup(String),
    /// Something that is needed cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It ran, and could not go on.
    #[error("{0}")]
    Failed(String),
}

/// Clients that wait to be accepted; the system's own limit (`net.core.somaxconn`) may be lower.
const BACKLOG: i32 = 4_096;

/// How long what works beside the clients has for its end. All of it is to end sooner, also where a server hangs; a cut is as
/// safe as the second signal.
const TASKS_END: Duration = Duration::from_secs(30);

/// Run until SIGTERM or Ctrl-C; a second one ends the process at once.
pub fn run(mut config: Config) -> Result<(), Error> {
    let level = telemetry::install(&config.log).map_err(|error| Error::Setup(error.to_string()))?;
    let exporter = metrics::install().map_err(|error| Error::Setup(error.to_string()))?;
    heed_file_limit(&mut config.limits.connections);
    let listeners = bind_all(&config)?;
    let admin = bind(config.admin.address)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(Assembly::new(config, level, exporter).run(listeners, admin));
    // A name that is just being resolved keeps nobody from the end.
    runtime.shutdown_background();
    ended
}

/// What `tandem check` looks for with this configuration.
pub fn check_rules(config: &Config) -> Vec<&'static check::Rule> {
    let wire = match config.wire {
        Wire::Postgres => postgres::check::RULES,
        Wire::Cql => cql::check::RULES,
    };
    [check::RULES, wire].concat()
}

/// Look for what stands in the way, on both sides and on this machine. Changes nothing.
pub async fn check(config: &Config) -> check::Report {
    let mut report = match config.wire {
        Wire::Postgres => postgres::check::check(config).await,
        Wire::Cql => cql::check::check(config).await,
    };
    report.findings.extend(check::machine(config));
    report
}

/// What a worker beside the running proxy works with: connections of its own to both sides.
pub async fn hands(config: &Config) -> Result<cql::Hands, Error> {
    if config.wire != Wire::Cql {
        let why = "workers are for wire = \"cql\": PostgreSQL's history is read in the snapshots that the mirror holds, and no \
            other process has them; [backfill] workers sets how many connections share the work";
        return Err(Error::Setup(why.to_owned()));
    }
    cql::Hands::connect(config).await.map_err(|(side, error)| Error::Unreachable(format!("{side}: {error}")))
}

/// Everything that the running proxy is made of.
struct Assembly {
    config: Config,
    state: admin::State,
    readiness: watch::Sender<Readiness>,
    /// Clients finish.
    drain: CancellationToken,
    /// Everything else ends.
    stop: CancellationToken,
    /// Without a mirror nobody else may have one in the same directory.
    passed: Option<Passed>,
}

impl Assembly {
    fn new(config: Config, level: Level, exporter: Exporter) -> Assembly {
        let mirror = config.mirror.mode != Mode::Off;
        let (readiness, watched) = watch::channel(Readiness::Starting);
        let state = admin::State {
            wire: config.wire,
            gate: Gate::new(Route { primary: Side::Origin, mirror, epoch: 1 }),
            journal: None,
            mirror: None,
            switch: None,
            pulses: None,
            shadow: None,
            names: Arc::new(|_| None),
            live: Live::new(&config),
            level: Some(level),
            exporter,
            readiness: watched,
            token: config.admin.token.clone(),
            started: Instant::now(),
            samples: admin::Samples::default(),
            subscribers: admin::Subscribers::default(),
        };
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        Assembly { config, state, readiness, drain, stop, passed: None }
    }

    async fn run(mut self, listeners: Vec<TcpListener>, admin: TcpListener) -> Result<(), Error> {
        let signals = tokio::spawn(signals(self.drain.clone()));
        let drain = self.drain.clone();
        // Dropped, a start is as one that was killed: what it has begun ends with the process.
        let Some(mirror) = drain.run_until_cancelled(self.mirror()).await else {
            tracing::info!("told to end before the start was over");
            return Ok(());
        };
        let mirror = mirror?;
        self.state.pulses = Some(mirror.pulses());
        if let Some(journal) = &self.state.journal {
            // A series that begins with its first refusal would not be seen to grow.
            metrics::JOURNAL_REFUSED_TOTAL.counter(&[("wire", self.config.wire.as_str())]).absolute(0);
            mirror.tasks.spawn(journal::room::watch(journal.clone(), mirror.stop.clone()));
        }
        let admin = tokio::net::TcpListener::from_std(admin).map_err(setup("admin.address"))?;
        let api = tokio::spawn(admin::serve(admin, self.state.clone(), self.stop.clone()));
        let upkeep = tokio::spawn(self.state.exporter.clone().run(self.stop.clone()));
        let workers = self.workers(listeners, &mirror.serving)?;
        self.readiness.send_replace(Readiness::Ready);
        let route = self.state.gate.route();
        tracing::info!(wire = %self.config.wire, primary = %route.primary, epoch = route.epoch, "serving clients");
        self.drain.cancelled().await;
        self.readiness.send_replace(Readiness::Draining);
        tracing::info!(units = self.state.gate.inside(), "no new clients; those inside finish");
        // A switch under way is called off first: nobody is held while all others leave.
        mirror.switching.cancel();
        let ended = tokio::task::spawn_blocking(|| workers.into_iter().try_for_each(thread::JoinHandle::join)).await;
        mirror.stop.cancel();
        mirror.tasks.close();
        if tokio::time::timeout(TASKS_END, mirror.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = mirror.tasks.len(), "what works beside the clients does not end, and is cut off");
        }
        let closed = self.close_journal().await;
        self.stop.cancel();
        signals.abort();
        let _ = tokio::join!(api, upkeep);
        match ended {
            Ok(Ok(())) => closed,
            _ => Err(Error::Failed("a worker ended by a panic: see the log".to_owned())),
        }
    }

    async fn close_journal(&self) -> Result<(), Error> {
        match &self.state.journal {
            Some(journal) => journal.close().await.map_err(|error| Error::Failed(error.to_string())),
            None => Ok(()),
        }
    }

    /// Open the journal, start the mirror, learn the primary's schema: all that must be there before the first client.
    async fn mirror(&mut self) -> Result<Mirror, Error> {
        heed_folder(&self.config.journal.dir);
        let recovered = match self.config.mirror.mode {
            Mode::Off => {
                self.passed = pass_by(&self.config.journal.dir)?;
                None
            }
            Mode::Async | Mode::Sync => {
                let (journal, recovered) = open_journal(&self.config, reached(&self.config).await?)?;
                self.state.journal = Some(journal);
                Some(recovered)
            }
        };
        // The one place where a wire is picked.
        match self.config.wire {
            Wire::Postgres => self.postgres(recovered).await,
            Wire::Cql => self.cql(recovered).await,
        }
    }

    async fn postgres(&mut self, recovered: Option<Recovered>) -> Result<Mirror, Error> {
        if self.config.mirror.mode == Mode::Sync {
            let why =
                "mirror.mode = \"sync\" is for wire = \"cql\": PostgreSQL's mirror copies rows when they are committed";
            return Err(Error::Setup(why.to_owned()));
        }
        let (gate, journal, live) = (self.state.gate.clone(), self.state.journal.clone(), self.state.live.clone());
        let store = InFile::in_dir(&self.config.journal.dir);
        let Some((journal, recovered)) = journal.zip(recovered) else {
            // What was switched stays switched, with a mirror or without.
            let control = store::settled(store).await.map_err(in_control)?;
            gate.open(control.route(false));
            let setup =
                postgres::Setup::new(&self.config, live, gate, None, (Arc::new(|_, _| {}), shadow::Handle::off()))
                    .await?;
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            tasks.spawn(keep::told("finding the primary", setup.seek(stop.clone())));
            let serving = Serving::Postgres(setup);
            return Ok(Mirror { serving, tasks, stop, switching: CancellationToken::new() });
        };
        let known = controller::recover(store).await.map_err(in_control)?;
        let control = known.control();
        gate.open(control.route(true));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (config, logins) = (self.config.clone(), Logins::new(journal.clone()));
        let heeded = logins.clone();
        let turning = state::ByState::in_dir(
            &self.config.journal.dir,
            engine_config(&self.config),
            journal.clone(),
            Box::new(move |primary| postgres::copier(&config, primary, &heeded)),
            (stop.clone(), tasks.clone()),
        );
        let turning = turning.map_err(|error| Error::Setup(error.to_string()))?;
        let handle = turning.handle().clone();
        let (reads, queue) = self.board(&journal).open();
        let lost = (lose(&handle), reads);
        let setup =
            postgres::Setup::new(&self.config, live, gate.clone(), Some((journal.clone(), logins)), lost).await?;
        let repeater = setup.repeater(handle.twins().clone(), &self.config);
        let repeating = shadow::Service::new(queue, repeater, handle.clone()).run(stop.clone());
        tasks.spawn(keep::told("repeating reads", repeating));
        self.mark_lost(&recovered, &setup.tables(), |some| setup.with_taken_along(some), &handle, &journal)?;
        let mut walk = postgres::Walk::new(&setup, turning, &self.config, &control, (stop.clone(), tasks.clone()));
        walk.begin(&control).await.map_err(|error| Error::Setup(error.to_string()))?;
        let defaults = Defaults { max_hold: self.config.cutover.max_hold };
        let (controller, switch) = Controller::new(known, gate, walk, defaults);
        let controller = controller.heeding(self.reads());
        let switching = CancellationToken::new();
        tasks.spawn(supervise(tokio::spawn(controller.run(switching.clone()))));
        self.state.names = setup.names();
        self.state.mirror = Some(handle);
        self.state.switch = Some(switch);
        Ok(Mirror { serving: Serving::Postgres(setup), tasks, stop, switching })
    }

    async fn cql(&mut self, recovered: Option<Recovered>) -> Result<Mirror, Error> {
        let (gate, journal) = (self.state.gate.clone(), self.state.journal.clone());
        let (tasks, stop, switching) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let store = InFile::in_dir(&self.config.journal.dir);
        let beside = (stop.clone(), tasks.clone());
        let Some((journal, recovered)) = journal.zip(recovered) else {
            let control = store::settled(store).await.map_err(in_control)?;
            gate.open(control.route(false));
            let setup = cql::Setup::over(cql::Sides::default(), &self.config, gate, None, beside).await?;
            return Ok(Mirror { serving: Serving::Cql(setup), tasks, stop, switching });
        };
        let known = controller::recover(store).await.map_err(in_control)?;
        let control = known.control();
        gate.open(control.route(true));
        let sides = cql::Sides::default();
        let desk = backfill::Desk::in_dir(&self.config.journal.dir, replay_history(&self.config));
        let desk = desk.map_err(|error| Error::Setup(error.to_string()))?;
        let barriers = cql::Barriers::default();
        let appliers = cql::appliers(&sides, &desk, &barriers);
        let turning = replay::ByReplay::in_dir(
            &self.config.journal.dir,
            replay_config(&self.config),
            (journal.clone(), desk),
            appliers,
            beside.clone(),
        );
        let turning = turning.map_err(|error| Error::Setup(error.to_string()))?;
        let handle = turning.handle().clone();
        let (chosen, reads) = self.board(&journal).open();
        let mirroring = cql::Mirroring {
            journal: journal.clone(),
            live: self.state.live.clone(),
            lost: lose(&handle),
            waits: (self.config.mirror.mode == Mode::Sync).then(|| handle.waits().clone()),
            watch: cql::Watch::new(&self.config.shadow, chosen.clone()),
            barriers,
        };
        let repeater = cql::Repeater::new(&sides, &self.config.shadow, chosen);
        let setup = cql::Setup::over(sides, &self.config, gate.clone(), Some(mirroring), beside.clone()).await?;
        handle.desk().crew().open(setup.judge());
        self.mark_lost(&recovered, &setup.tables(), |some| some, &handle, &journal)?;
        let mut walk = cql::Walk::new(&setup, journal, turning, &self.config, &control);
        walk.begin(&control).await.map_err(|error| Error::Setup(error.to_string()))?;
        let repeating = shadow::Service::new(reads, repeater, handle.clone()).run(stop.clone());
        tasks.spawn(keep::told("repeating reads", repeating));
        let defaults = Defaults { max_hold: self.config.cutover.max_hold };
        let (controller, switch) = Controller::new(known, gate, walk, defaults);
        let controller = controller.heeding(self.reads());
        tasks.spawn(supervise(tokio::spawn(controller.run(switching.clone()))));
        self.state.names = setup.names();
        self.state.mirror = Some(handle);
        self.state.switch = Some(switch);
        Ok(Mirror { serving: Serving::Cql(setup), tasks, stop, switching })
    }

    /// Where shadow reads meet, for the API too. Nothing is sampled until the configuration, or somebody, says so.
    fn board(&mut self, journal: &Journal) -> shadow::Board {
        let (live, gate) = (self.state.live.clone(), self.state.gate.clone());
        let wire = self.config.wire.as_str();
        let board = shadow::Board::new(&self.config.shadow, wire, live, gate, journal.clone());
        self.state.shadow.insert(board).clone()
    }

    /// What reads on the secondary say of a switch.
    fn reads(&self) -> controller::Beside {
        let board = self.state.shadow.clone();
        Box::new(move || board.as_ref().map(shadow::Board::findings).unwrap_or_default())
    }

    /// Labels stay active until the loss is confirmed, also when the start that noticed it was itself interrupted. `concerned`
    /// adds tables of which rows were written with those of the ones that are named.
    fn mark_lost(
        &self,
        recovered: &Recovered,
        tables: &[TableId],
        concerned: impl FnOnce(Vec<TableId>) -> Vec<TableId>,
        handle: &Handle,
        journal: &Journal,
    ) -> Result<(), Error> {
        if recovered.last != Last::Lost && recovered.active.is_empty() {
            return Ok(());
        }
        // Without a sync the disk may lack more than what was written of late.
        let all = recovered.active.all || self.config.journal.durability != Durability::Fsync;
        let active = |table: &&TableId| all || recovered.active.list.contains(&table.0);
        let tables = concerned(tables.iter().filter(active).copied().collect());
        if recovered.active.all || recovered.active.list.contains(&TableId::NONE.0) {
            tracing::error!("a schema change may not have been repeated on the secondary: compare both schemas");
        }
        let count = tables.len();
        tracing::error!(
            tables = count,
            "writes may be missing from the journal: a power loss, a disk that failed or was changed, or a time without the \
             mirror; what may have been written is dirty. If its disk failed before, verify every table all the same"
        );
        handle.mark_dirty(&tables, Reason::Lost).map_err(|error| Error::Failed(error.to_string()))?;
        journal.confirm_loss();
        Ok(())
    }

    /// Start the threads that serve clients.
    fn workers(&self, listeners: Vec<TcpListener>, serving: &Serving) -> Result<Vec<thread::JoinHandle<()>>, Error> {
        // The other half is for the journal and the mirror; and a worker with more clients wakes up for more at once.
        let auto = || (thread::available_parallelism().map_or(1, std::num::NonZero::get) / 2).max(1);
        let count = if self.config.runtime.workers == 0 { auto() } else { self.config.runtime.workers };
        let fronts = self.config.listen.iter().map(|listen| serving.front(listen)).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<_> = listeners.into_iter().zip(fronts).collect();
        (0..count).map(|number| self.worker(number, &pairs)).collect()
    }

    fn worker(&self, number: usize, pairs: &[(TcpListener, Front)]) -> Result<thread::JoinHandle<()>, Error> {
        let share = |(listener, front): &(TcpListener, Front)| Ok((listener.try_clone()?, front.clone()));
        let pairs: io::Result<Vec<(TcpListener, Front)>> = pairs.iter().map(share).collect();
        let pairs = pairs.map_err(setup("sharing a listener"))?;
        let (drain, deadline) = (self.drain.clone(), self.config.limits.drain_timeout);
        let runtime = runtime()?;
        let serve = move || {
            runtime.block_on(async {
                let served = futures_util::future::join_all(
                    pairs.into_iter().map(|(listener, front)| front.serve(listener, drain.clone())),
                );
                tokio::pin!(served);
                tokio::select! {
                    _ = served.as_mut() => {}
                    () = async { drain.cancelled().await; tokio::time::sleep(deadline).await } => {
                        tracing::warn!("clients did not finish in time (limits.drain_timeout) and are cut off");
                    }
                }
            });
            // A name that is just being resolved keeps nobody from the end here either.
            runtime.shutdown_background();
        };
        thread::Builder::new().name(format!("worker-{number}")).spawn(serve).map_err(setup("starting a worker"))
    }
}

/// What runs beside the clients, and what they are served with.
struct Mirror {
    serving: Serving,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the controller of switches.
    switching: CancellationToken,
}

impl Mirror {
    /// Begin to ask both sides whether they answer.
    fn pulses(&self) -> Pulses {
        match &self.serving {
            Serving::Postgres(setup) => self.feel(setup.ping(Side::Origin), setup.ping(Side::Target)),
            Serving::Cql(setup) => self.feel(setup.ping(Side::Origin), setup.ping(Side::Target)),
        }
    }

    fn feel<A: Ask>(&self, origin: A, target: A) -> Pulses {
        let (pulses, asking) = pulse::feel(origin, target, self.stop.clone());
        self.tasks.spawn(keep::told("asking both sides whether they answer", asking));
        pulses
    }
}

/// A controller that ended by itself must not be outlived: clients are held, or are served where they may not be.
async fn supervise(controller: JoinHandle<Result<(), controller::Error>>) {
    match controller.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => tracing::error!(%error, "tandem ends"),
        Err(error) => tracing::error!(%error, "the controller of switches ended by a panic: tandem ends"),
    }
    std::process::exit(1);
}

fn in_control(error: store::Error) -> Error {
    Error::Setup(error.to_string())
}

/// It says which side answers, and is looked for where tandem is started.
fn heed_folder(dir: &Path) {
    if dir.is_relative() {
        let here = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
        let then = "started from another folder, tandem would find none there, and send clients to the origin: give it a full path";
        tracing::warn!(dir = %dir.display(), here, "journal.dir is relative; {then}");
    }
}

/// How far the journal was when what lies beside it was written; `None`: nothing does.
async fn reached(config: &Config) -> Result<Option<Lsn>, Error> {
    let dir = &config.journal.dir;
    let reached = match config.wire {
        Wire::Postgres => state::reached(dir),
        Wire::Cql => replay::reached(dir),
    };
    let reached = reached.map_err(|error| Error::Setup(error.to_string()))?;
    Ok(reached.max(InFile::in_dir(dir).since().await.map_err(in_control)?.map(Lsn)))
}

fn open_journal(config: &Config, beside: Option<Lsn>) -> Result<(Journal, Recovered), Error> {
    let durability = match config.journal.durability {
        config::Durability::Memory => journal::Durability::Memory,
        config::Durability::Os => journal::Durability::Os,
        config::Durability::Fsync => journal::Durability::Fsync,
    };
    let seconds = metrics::JOURNAL_SYNC_SECONDS.histogram(&[]);
    let own = match config.wire {
        Wire::Postgres => journal::Options::default(),
        Wire::Cql => journal::Options::for_records(cql::RECORD_BYTES_MAX),
    };
    let options = journal::Options {
        durability,
        size_limit_bytes: config.journal.size_limit.0,
        beside,
        on_sync: Some(Arc::new(move |sample: journal::SyncSample| seconds.record(sample.took.as_secs_f64()))),
        ..own
    };
    let opened = Journal::open(&config.journal.dir, options).map_err(|error| Error::Setup(error.to_string()))?;
    let recovered = &opened.1;
    let (trimmed, appended, from_ring) = (recovered.trimmed.0, recovered.appended.0, recovered.from_ring);
    let id = format!("{:016x}", opened.0.place().journal);
    tracing::info!(id, last = ?recovered.last, trimmed, appended, from_ring, "journal open");
    Ok(opened)
}

/// Without a mirror writes pass the journal by. One that cannot be told so keeps nobody from turning the mirror off.
fn pass_by(dir: &Path) -> Result<Option<Passed>, Error> {
    journal::pass_by(dir).or_else(|error| match error {
        OpenError::Locked(_) | OpenError::Newer { .. } => Err(Error::Setup(error.to_string())),
        error => {
            let then = "before the mirror is turned on again";
            tracing::error!(%error, "the journal cannot be told that writes pass it by; {then}: {}", journal::BEGIN_ANEW);
            Ok(None)
        }
    })
}

fn engine_config(config: &Config) -> state::Config {
    state::Config {
        owed_keys_max: config.mirror.owed_keys_max,
        retention: config.mirror.retention,
        retry_min: config.mirror.retry_min,
        retry_max: config.mirror.retry_max,
        self_repair: config.mirror.self_repair,
        pause_max: config.mirror.pause_max,
        history: history_options(config),
        ..state::Config::default()
    }
}

fn history_options(config: &Config) -> backfill::Options {
    backfill::Options {
        workers: config.backfill.workers,
        chunk_rows: config.backfill.chunk_rows as u64,
        hold: config.backfill.hold,
        rate: config.backfill.rate.0,
        max_lag: config.backfill.max_lag,
        max_latency: config.backfill.max_latency,
        provision: config.backfill.provision,
        replication: config.backfill.replication.clone(),
        part_of: None,
    }
}

/// By replay no state of the primary is held: a turn is as long as what is done may stay off the disk.
fn replay_history(config: &Config) -> backfill::Options {
    backfill::Options {
        hold: config.backfill.hold.max(REPLAY_TURN),
        part_of: Some(cql::part_of),
        ..history_options(config)
    }
}

/// How long workers take chunks before what they did is written down.
const REPLAY_TURN: Duration = Duration::from_secs(2);

fn replay_config(config: &Config) -> replay::Config {
    replay::Config {
        retry_min: config.mirror.retry_min,
        retry_max: config.mirror.retry_max,
        self_repair: config.mirror.self_repair,
        ..replay::Config::default()
    }
}

/// What all listeners of the picked wire share.
enum Serving {
    Postgres(postgres::Setup),
    Cql(cql::Setup),
}

/// One listener's share.
#[derive(Clone)]
enum Front {
    Postgres(Arc<postgres::Front>),
    Cql(Arc<cql::Front>),
}

impl Serving {
    fn front(&self, listen: &Listen) -> Result<Front, Error> {
        match self {
            Serving::Postgres(setup) => Ok(Front::Postgres(Arc::new(setup.front(listen.tls.as_ref())?))),
            Serving::Cql(setup) => Ok(Front::Cql(Arc::new(setup.front(listen.tls.as_ref())?))),
        }
    }
}

impl Front {
    async fn serve(self, listener: TcpListener, drain: CancellationToken) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener cannot be used"),
        };
        match self {
            Front::Postgres(front) => postgres::serve(listener, front, drain).await,
            Front::Cql(front) => cql::serve(listener, front, drain).await,
        }
    }
}

impl From<postgres::SetupError> for Error {
    fn from(error: postgres::SetupError) -> Error {
        match error {
            postgres::SetupError::Primary(..) => Error::Unreachable(error.to_string()),
            postgres::SetupError::Tables(..)
            | postgres::SetupError::Closed(..)
            | postgres::SetupError::Exchanged(..)
            | postgres::SetupError::OneDatabase(_)
            | postgres::SetupError::Tls(_) => Error::Setup(error.to_string()),
        }
    }
}

impl From<cql::SetupError> for Error {
    fn from(error: cql::SetupError) -> Error {
        match error {
            cql::SetupError::Side(..) | cql::SetupError::First(..) => Error::Unreachable(error.to_string()),
            cql::SetupError::OneCluster(_) | cql::SetupError::Tls(_) | cql::SetupError::Durable(_) => {
                Error::Setup(error.to_string())
            }
        }
    }
}

/// The first signal drains, the second ends the process as the signal would have. SIGHUP, which a closed terminal sends and
/// service managers for "reload", would end it without a drain.
async fn signals(drain: CancellationToken) {
    let caught = || -> io::Result<_> {
        Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?))
    };
    let Ok((mut term, mut int, mut hup)) = caught() else {
        tracing::warn!("signals cannot be caught: a stop will not drain");
        return;
    };
    let mut next = async || loop {
        tokio::select! {
            _ = term.recv() => return 15,
            _ = int.recv() => return 2,
            _ = hup.recv() => tracing::info!(
                "SIGHUP changes nothing: certificates are read again when they change, `tandem set` changes what can be \
                 changed while tandem runs, and the rest of proxy.toml, passwords too, is read at a restart"
            ),
        }
    };
    next().await;
    drain.cancel();
    let number = next().await;
    tracing::warn!("second signal: ending at once");
    std::process::exit(128 + number);
}

fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread().enable_all().build().map_err(setup("starting a runtime"))
}

fn bind_all(config: &Config) -> Result<Vec<TcpListener>, Error> {
    config.listen.iter().map(|listen| bind(listen.address)).collect()
}

fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(|error| Error::Setup(format!("cannot listen on {address}: {error}")))
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Setup(format!("{what}: {error}"))
}

/// What tandem itself has open, at most: without it clients that are many would stop the journal and the admin API first.
const OWN_FILES: u64 = 256 + HEARD_BEYOND as u64;

/// Take all files that the administrator allows, the hard limit, and no more clients than these are for: one that is too
/// many is told so.
fn heed_file_limit(connections: &mut usize) {
    let Some(files) = raise_file_limit() else {
        return tracing::warn!("the limit of open files cannot be raised; `limits.connections` may be out of reach");
    };
    let (room, movable) = room_for_clients(files);
    if *connections > movable {
        tracing::warn!(
            files,
            clients = movable,
            "with more clients than this a switch is refused: it opens a third file for each, and the limit of open files (ulimit -n) is too low for that"
        );
    }
    if *connections > room {
        tracing::warn!(
            files,
            clients = room,
            configured = *connections,
            "the limit of open files (ulimit -n) leaves room for fewer clients than limits.connections allows; those beyond are refused"
        );
        *connections = room;
    }
}

/// A client takes two files, its own and its server's; amid a switch a third one, to the server where it goes. So many can be
/// served, and so many switched.
fn room_for_clients(files: u64) -> (usize, usize) {
    let left = files - OWN_FILES.min(files / 2);
    let of = |each| usize::try_from(left / each).unwrap_or(usize::MAX);
    (of(2), of(3))
}

/// The soft limit is a default of shells; the hard one is what the administrator means. `None`: it stays as it is.
fn raise_file_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write only the struct, which outlives them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    raised.then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_for_the_journal_and_the_admin_api() {
        for (files, clients) in [(20_000, (9_840, 6_560)), (1_024, (352, 234)), (100, (25, 16)), (0, (0, 0))] {
            assert_eq!(room_for_clients(files), clients, "{files}");
        }
    }
}
