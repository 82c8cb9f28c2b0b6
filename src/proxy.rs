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
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness};
use crate::config::{Config, Live, Mode, Wire};
use crate::cutover::gate::{Gate, Route};
use crate::journal::Journal;
use crate::metrics::{self, Exporter};
use crate::record::Side;
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

/// Run until SIGTERM or Ctrl-C; a second one ends the process at once.
pub fn run(config: Config) -> Result<(), Error> {
    let level = telemetry::install(&config.log).map_err(|error| Error::Setup(error.to_string()))?;
    let exporter = metrics::install().map_err(|error| Error::Setup(error.to_string()))?;
    raise_file_limit();
    let listeners = bind_all(&config)?;
    let admin = bind(config.admin.address)?;
    runtime()?.block_on(Assembly::new(config, level, exporter).run(listeners, admin))
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
}

impl Assembly {
    fn new(config: Config, level: Level, exporter: Exporter) -> Assembly {
        let mirror = config.mirror.mode != Mode::Off;
        let (readiness, watched) = watch::channel(Readiness::Starting);
        let state = admin::State {
            wire: config.wire,
            gate: Gate::new(Route { primary: Side::Origin, mirror, epoch: 1 }),
            journal: mirror.then(Journal::in_memory),
            mirror: None,
            names: std::sync::Arc::new(|_| None),
            live: Live::new(&config),
            level: Some(level),
            exporter,
            readiness: watched,
            token: config.admin.token.clone(),
            started: Instant::now(),
        };
        Assembly { config, state, readiness, drain: CancellationToken::new(), stop: CancellationToken::new() }
    }

    async fn run(self, listeners: Vec<TcpListener>, admin: TcpListener) -> Result<(), Error> {
        let admin = tokio::net::TcpListener::from_std(admin).map_err(setup("admin.address"))?;
        let api = tokio::spawn(admin::serve(admin, self.state.clone(), self.stop.clone()));
        let upkeep = tokio::spawn(self.state.exporter.clone().run(self.stop.clone()));
        let signals = tokio::spawn(signals(self.drain.clone()));
        let workers = self.workers(&listeners)?;
        self.readiness.send_replace(Readiness::Ready);
        tracing::info!(wire = %self.config.wire, "serving clients");
        self.drain.cancelled().await;
        self.readiness.send_replace(Readiness::Draining);
        tracing::info!(units = self.state.gate.inside(), "no new clients; those inside finish");
        let ended = tokio::task::spawn_blocking(|| workers.into_iter().try_for_each(thread::JoinHandle::join)).await;
        self.stop.cancel();
        signals.abort();
        let _ = tokio::join!(api, upkeep);
        match ended {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Failed("a worker ended by a panic: see the log".to_owned())),
        }
    }

    /// Start the threads that serve clients.
    fn workers(&self, listeners: &[TcpListener]) -> Result<Vec<thread::JoinHandle<()>>, Error> {
        let auto = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = if self.config.runtime.workers == 0 { auto() } else { self.config.runtime.workers };
        (0..count).map(|number| self.worker(number, listeners)).collect()
    }

    fn worker(&self, number: usize, listeners: &[TcpListener]) -> Result<thread::JoinHandle<()>, Error> {
        let listeners: io::Result<Vec<TcpListener>> = listeners.iter().map(TcpListener::try_clone).collect();
        let listeners = listeners.map_err(setup("sharing a listener"))?;
        let (wire, drain, deadline) = (self.config.wire, self.drain.clone(), self.config.limits.drain_timeout);
        let runtime = runtime()?;
        let serve = move || {
            let served =
                futures_util::future::join_all(listeners.into_iter().map(|one| serve(wire, one, drain.clone())));
            runtime.block_on(async {
                tokio::pin!(served);
                tokio::select! {
                    _ = served.as_mut() => {}
                    () = async { drain.cancelled().await; tokio::time::sleep(deadline).await } => {
                        tracing::warn!("clients did not finish in time (limits.drain_timeout) and are cut off");
                    }
                }
            });
        };
        thread::Builder::new().name(format!("worker-{number}")).spawn(serve).map_err(setup("starting a worker"))
    }
}

/// The one place where a wire is picked.
async fn serve(wire: Wire, _listener: TcpListener, drain: CancellationToken) {
    match wire {
        Wire::Postgres => drain.cancelled().await,
    }
}

/// The first signal drains, the second ends the process as the signal would have.
async fn signals(drain: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("signals cannot be caught: a stop will not drain");
        return;
    };
    let mut next = async || tokio::select! { _ = term.recv() => 15, _ = int.recv() => 2 };
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

/// Each client takes two files. The soft limit is a default of shells; the hard one is what the administrator means.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write only the struct, which outlives them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!("the limit of open files cannot be raised; `limits.connections` may be out of reach");
    }
}
