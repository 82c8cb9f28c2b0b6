//! `tandem backfill worker`: another process that takes part in the walks of the tandem that runs.
//!
//! It asks for chunks, works on each between the two clusters, and says what came of it. While it works it says so, which is
//! what its leases rest on (`backfill/crew`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use indicatif::HumanCount;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Admin, Failure, Output};
use crate::admin::client::{self, Client};
use crate::backfill::crew::message::{BYTES_MAX, Done, Join, Joined, Work};
use crate::backfill::crew::{Asked, BEAT, Lease};
use crate::config::Config;
use crate::protocol::cql::Hands;
use crate::{proxy, telemetry};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem backfill worker --admin http://tandem.internal:6480 --token-file admin.token
                                              take part from another machine, with the same proxy.toml
  tandem backfill worker --workers 4          four chunks at once, over connections of its own
  tandem backfill worker --once               end when no walk is under way (any more)
  tandem backfill status                      which workers there are, and what each did

Cassandra only. Start as many as the clusters can bear, before or during a backfill, verify or repair: the tandem that
runs lends them chunks, beside the work that it does itself. backfill.rate, max_lag and `backfill pause` hold for
all of them together. A worker needs the same version of tandem, the same [origin] and [target], and the admin API;
not the journal. One that is killed costs some seconds: its chunks are done again by whoever is free.

Ctrl-C ends it when what it has is done, or given back; a second one at once. A tandem that is away is waited for.

Exit codes: 0 ended as asked; 1 tandem refuses it, and says why; 2 usage; 3 tandem or a cluster could not be reached.";

/// Where workers speak to tandem.
const PATH: &str = "/v1/backfill/work";
/// Before something that failed is tried again; longer, up to the second, while it fails.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long `--once` waits for a tandem that went away.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long chunks under way may take when the worker is to end, before they are given back.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a chunk that is given back may take: what was sent for it is waited for.
const GIVE_BACK: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct Worker {
    /// The configuration of the tandem that runs: its origin and target.
    #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
    config: PathBuf,
    /// Chunks that it works on at once.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// What `backfill status` calls it; unset, the machine's name and the process's number.
    #[arg(long)]
    name: Option<String>,
    /// End when no walk is under way.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    admin: Admin,
}

/// What it did.
#[derive(Default)]
struct Tally {
    chunks: AtomicU64,
    copied: AtomicU64,
    compared: AtomicU64,
    lost: AtomicU64,
}

struct Session<'o> {
    client: Arc<Client>,
    hands: Arc<Hands>,
    worker: u64,
    connections: usize,
    once: bool,
    tally: Arc<Tally>,
    output: &'o Output,
    stop: CancellationToken,
}

/// Why a session ended.
enum Over {
    /// It was told to, or there is nothing more to do.
    Done,
    /// Tandem does not know it: it was started again.
    Unknown,
    Failed(Failure),
}

/// What a walk says between two chunks.
#[derive(serde::Deserialize)]
struct Taken {
    work: Option<Work>,
    busy: bool,
}

#[derive(serde::Deserialize)]
struct Held {
    held: Vec<u64>,
}

pub(super) fn run(command: Worker, output: &Output) -> Result<(), Failure> {
    let config = Config::load(&command.config)?;
    telemetry::install(&config.log).map_err(|error| Failure::Usage(error.to_string()))?;
    // Chunks are worked on by as many threads as there are.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Unreachable(format!("cannot start: {error}")))?;
    runtime.block_on(work(command, &config, output))
}

async fn work(command: Worker, config: &Config, output: &Output) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals(stop.clone()));
    let hands = proxy::hands(config).await.map_err(|error| match error {
        proxy::Error::Setup(_) => Failure::Usage(error.to_string()),
        _ => Failure::Unreachable(error.to_string()),
    })?;
    let (client, hands) = (Arc::new(command.admin.client()?), Arc::new(hands));
    let name = command.name.clone().unwrap_or_else(name);
    let tally = Arc::new(Tally::default());
    let (mut away, mut pause) = (None, PAUSES.0);
    let ended = loop {
        let join = Join {
            name: name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: usize::from(command.workers),
            sides: hands.sees(),
        };
        let worker = match joins(&client, &join).await {
            Ok(joined) => joined.worker,
            // It was there before: it is started again.
            Err(client::Error::Unreachable { .. }) if is_waited_for(away, command.once) => {
                let paused = stop.run_until_cancelled(sleep(pause)).await;
                pause = (2 * pause).min(PAUSES.1);
                match paused {
                    Some(()) => continue,
                    None => break Ok(()),
                }
            }
            Err(error) => break Err(error.into()),
        };
        output.tell(&format!("worker {name}: waiting for chunks"));
        pause = PAUSES.0;
        let session = Session {
            client: client.clone(),
            hands: hands.clone(),
            worker,
            connections: usize::from(command.workers),
            once: command.once,
            tally: tally.clone(),
            output,
            stop: stop.clone(),
        };
        match session.run().await {
            Over::Done => break Ok(()),
            Over::Failed(failure) => break Err(failure),
            Over::Unknown => {
                away = Some(Instant::now());
                output.tell("tandem was started again: coming back to it");
            }
        }
    };
    signals.abort();
    ended?;
    let [chunks, copied, compared, lost] =
        [&tally.chunks, &tally.copied, &tally.compared, &tally.lost].map(|count| count.load(Relaxed));
    let value = json!({ "name": name, "chunks": chunks, "rows": copied, "compared": compared, "lost": lost });
    output.print(&value, |_| {
        let (copied, compared) = (HumanCount(copied), HumanCount(compared));
        format!("worker {name}: {chunks} chunks, {copied} rows copied, {compared} compared; {lost} chunks lost or given back")
    });
    Ok(())
}

/// `since`: when tandem was there last; never, a wrong address is not waited for.
fn is_waited_for(since: Option<Instant>, once: bool) -> bool {
    since.is_some_and(|since| !once || since.elapsed() < PATIENCE)
}

/// The machine's name and the process's number.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "worker" } else { host }, std::process::id())
}

/// The first signal lets it finish, the second ends the process as the signal would have.
async fn signals(stop: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    let mut next = async || tokio::select! { _ = term.recv() => 15, _ = int.recv() => 2 };
    next().await;
    stop.cancel();
    let number = next().await;
    std::process::exit(128 + number);
}

async fn joins(client: &Client, join: &Join) -> Result<Joined, client::Error> {
    let mut said = json!(join);
    said["action"] = "join".into();
    read(client.post(PATH, &said).await?)
}

/// An answer of the same version cannot be another.
fn read<T: DeserializeOwned>(value: Value) -> Result<T, client::Error> {
    serde_json::from_value(value)
        .map_err(|error| client::Error::Refused(format!("an answer of another tandem: {error}")))
}

type Asking = Pin<Box<dyn Future<Output = Result<Value, client::Error>> + Send>>;

/// What is asked of tandem, and since when.
type Question = Option<(Asked, Asking)>;

impl Session<'_> {
    fn ask(&self, said: Value) -> Asking {
        let client = self.client.clone();
        Box::pin(async move { client.post(PATH, &said).await })
    }

    async fn run(&self) -> Over {
        let over = self.chunks().await;
        if matches!(over, Over::Done) {
            // What it may have been lent at the last moment is known not to have been begun.
            let _ = self.ask(json!({ "action": "leave", "worker": self.worker })).await;
        }
        over
    }

    /// Chunks, until there is a reason to end. Then nothing of them is under way.
    async fn chunks(&self) -> Over {
        let mut chunks = JoinSet::new();
        let mut leases: BTreeMap<u64, Lease> = BTreeMap::new();
        let (mut taking, mut beating): (Question, Question) = (None, None);
        let mut told: Vec<u64> = Vec::new();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rest, mut pause) = (Instant::now(), PAUSES.0);
        let mut away: Option<Instant> = None;
        let over = loop {
            if taking.is_none() && chunks.len() < self.connections && rest <= Instant::now() {
                taking = Some((Asked::now(), self.ask(json!({ "action": "take", "worker": self.worker }))));
            }
            tokio::select! {
                () = self.stop.cancelled() => break Over::Done,
                taken = answer(&mut taking) => match taken {
                    (asked, Ok(value)) => {
                        (away, pause) = (None, PAUSES.0);
                        let Ok(Taken { work, busy }) = read(value) else { break Over::Unknown };
                        if let Some(work) = work {
                            let lease = Lease::since(asked, Duration::from_millis(work.waited_ms));
                            leases.insert(work.loan, lease.clone());
                            let one = one(self.client.clone(), self.hands.clone(), self.worker, work, lease);
                            chunks.spawn(one);
                        } else if self.once && !busy && chunks.is_empty() {
                            break Over::Done;
                        }
                    }
                    (_, Err(client::Error::Unreachable { at, why })) => {
                        let since = *away.get_or_insert_with(|| {
                            self.output.tell(&format!("no tandem answers at {at}: it is waited for"));
                            Instant::now()
                        });
                        if self.once && since.elapsed() >= PATIENCE {
                            break Over::Failed(client::Error::Unreachable { at, why }.into());
                        }
                        rest = Instant::now() + pause;
                        pause = (2 * pause).min(PAUSES.1);
                    }
                    (_, Err(_)) => break Over::Unknown,
                },
                _ = beats.tick(), if beating.is_none() && !leases.is_empty() => {
                    told = leases.keys().copied().collect();
                    let said = json!({ "action": "beat", "worker": self.worker, "holds": told });
                    beating = Some((Asked::now(), self.ask(said)));
                }
                beaten = answer(&mut beating) => Self::heard(beaten, &told, &leases),
                Some(ended) = chunks.join_next() => {
                    // A panic: its lease ends by itself.
                    let Ok((loan, done)) = ended else { continue };
                    leases.remove(&loan);
                    if let Err(why) = self.count(done) {
                        self.output.tell(&format!("a chunk was not done: {why}"));
                        rest = Instant::now() + pause;
                        pause = (2 * pause).min(PAUSES.1);
                    }
                }
                () = tokio::time::sleep_until(rest), if taking.is_none() && chunks.len() < self.connections => {}
            }
        };
        if !matches!(over, Over::Done) {
            leases.values().for_each(Lease::end);
        }
        self.finish(&mut chunks, &leases).await;
        over
    }

    /// What is under way is finished, if it does not take too long, or given back.
    async fn finish(&self, chunks: &mut JoinSet<(u64, Result<Done, String>)>, leases: &BTreeMap<u64, Lease>) {
        let all = async {
            while let Some(ended) = chunks.join_next().await {
                if let Ok((_, done)) = ended {
                    let _ = self.count(done);
                }
            }
        };
        let beats = async {
            loop {
                let holds: Vec<u64> = leases.keys().copied().collect();
                let asked = Asked::now();
                let said = json!({ "action": "beat", "worker": self.worker, "holds": holds });
                Self::heard((asked, self.ask(said).await), &holds, leases);
                sleep(BEAT).await;
            }
        };
        let give_back = async {
            sleep(DRAIN).await;
            leases.values().for_each(Lease::end);
            std::future::pending::<()>().await;
        };
        let all = async {
            tokio::select! {
                () = all => {}
                () = beats => {}
                () = give_back => {}
            }
        };
        let _ = timeout(DRAIN + GIVE_BACK, all).await;
    }

    /// Of what it said that it has, what it still has goes on from when it said so; the rest is over. What it was lent since is
    /// neither.
    fn heard((asked, beaten): (Asked, Result<Value, client::Error>), told: &[u64], leases: &BTreeMap<u64, Lease>) {
        let held = match beaten.map(read::<Held>) {
            Ok(Ok(Held { held })) => held,
            // Nobody knows it: nothing is lent to it.
            Err(client::Error::Refused(_) | client::Error::Missing(_)) => Vec::new(),
            // Leases end by themselves.
            _ => return,
        };
        for (loan, lease) in leases.iter().filter(|(loan, _)| told.contains(loan)) {
            if held.contains(loan) { lease.goes_on(asked) } else { lease.end() }
        }
    }

    fn count(&self, done: Result<Done, String>) -> Result<(), String> {
        match done {
            Ok(Done::Copied(copied)) => drop(self.tally.copied.fetch_add(copied.rows, Relaxed)),
            Ok(Done::Compared(compared)) => drop(self.tally.compared.fetch_add(compared.rows, Relaxed)),
            Ok(Done::Failed { why }) | Err(why) => {
                self.tally.lost.fetch_add(1, Relaxed);
                return Err(why);
            }
        }
        self.tally.chunks.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// What is asked, when it is answered; nothing is asked: never.
async fn answer(asking: &mut Question) -> (Asked, Result<Value, client::Error>) {
    let Some((asked, answer)) = asking else { return std::future::pending().await };
    let answered = (*asked, answer.await);
    *asking = None;
    answered
}

/// Work on a chunk and say what came of it; an error: that did not count.
async fn one(
    client: Arc<Client>,
    hands: Arc<Hands>,
    worker: u64,
    work: Work,
    lease: Lease,
) -> (u64, Result<Done, String>) {
    let Work { loan, task, .. } = work;
    let done = hands.work(&task, &lease).await;
    let mut said = json!({ "action": "put", "worker": worker, "loan": loan, "done": done });
    if said.to_string().len() > BYTES_MAX {
        said["done"] = json!(Done::Failed { why: "more differs than one message holds".to_owned() });
    }
    loop {
        match client.post(PATH, &said).await {
            Ok(_) => return (loan, Ok(done)),
            Err(client::Error::Unreachable { .. }) if lease.left().is_some() => sleep(PAUSES.0).await,
            Err(error) => return (loan, Err(error.to_string())),
        }
    }
}
