//! The controller: one task that owns the control state, the gate and a wire's [`Steps`], and walks the machine of
//! [`super::phase`] with them.
//!
//! It waits for one thing at a time, and for three others beside it: an operator, the end of the time that clients may
//! be held, and the end of the process. Whichever comes first is an event of the machine. A step that is no longer
//! waited for is dropped; what it left is undone.
//!
//! **Time.** Clients are held from the close of the gate to its opening, for `max_hold` at most. The last part of that
//! ([`reserve`]) is kept for the flip: a walk that is late is called off before it, because while the flip is being
//! written nobody can go back, and if nobody knows in time whether it was written, the process has to end with its
//! clients.
//!
//! **A panic or a drop of the task while the gate is closed** leaves clients held for ever: whoever runs it ends the
//! process then, as after an error. What the store says is resolved by the next one.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::check;
use crate::mirror::backoff::Backoff;
use crate::record::Side;

use super::gate::Gate;
pub use super::phase::Refused;
use super::phase::{Effect, Event, Machine, Stage, Turn, Work};
use super::report::{End, Ended, Finding, Phase, Report, Request};
use super::steps::{self, Compared, Force, Steps};
use super::store::{self, Known, Store};

/// What the configuration says (`[cutover]`).
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Hold clients no longer than this, where the request does not say.
    pub max_hold: Duration,
}

/// The controller ended and must not go on: clients are held, or may not be served here. The process ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Clients could not be held any longer, and nobody knows on which side they would have to go on.
    #[error("the switch to {to} ended in doubt: {why}; tandem ends, and its next start goes on from what was written")]
    InDoubt {
        /// Where it led.
        to: Side,
        /// What the store said.
        why: String,
    },
    /// The control state is not ours any more.
    #[error(transparent)]
    Foreign(store::Error),
}

/// The shortest time that clients can be told to be held.
pub const MAX_HOLD_MIN: Duration = Duration::from_millis(100);

/// What is kept of `max_hold` for the flip: a quarter, and no more than a second.
pub fn reserve(max_hold: Duration) -> Duration {
    (max_hold / 4).min(Duration::from_secs(1))
}

/// An attempt to undo, to settle or to write that takes longer is dropped, and made again.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How long anybody is asked what hinders, of the reserve.
const HINDRANCES: Duration = Duration::from_millis(250);
/// How long a request waits while the last switch settles or is undone, which mostly takes a moment.
const SETTLES: Duration = Duration::from_secs(5);
/// Pauses between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Between two looks at a store that does not answer, while clients wait for it.
const LOOK: Duration = Duration::from_millis(20);
/// Requests that wait to be looked at.
const REQUESTS: usize = 16;

/// What an earlier process left, before anything else starts: [`Known::control`] says which side answers and where its
/// mirror begins. A walk that did not reach its flip is in it, and is undone by [`Controller::run`] first of all.
pub async fn recover<S: Store>(store: S) -> Result<Known<S>, store::Error> {
    Known::recover(store).await
}

enum Command {
    Begin(Request, oneshot::Sender<Result<u64, Refused>>),
    Abort(oneshot::Sender<Result<(), Refused>>),
}

/// How the rest of the process looks at the switch. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    report: watch::Receiver<Report>,
}

impl Handle {
    /// The switch now.
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// The switch, and its changes. A walk has ended when [`Report::last`] has its number: then the fate of clients is
    /// decided, while the phase may still be settling or undoing.
    pub fn watch(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Begin a switch; its number. While the last one settles or is undone it waits for that, a few seconds at most: who
    /// hears how a walk ended may ask for the next one at once. Cancelled, it may have begun.
    pub async fn begin(&self, request: Request) -> Result<u64, Refused> {
        let mut report = self.report.clone();
        let is_over = |report: &Report| !matches!(report.phase, Phase::Settling | Phase::Undoing);
        // In time or not, the controller says whether it may begin.
        let _ = timeout(SETTLES, report.wait_for(is_over)).await;
        self.ask(|answer| Command::Begin(request, answer)).await
    }

    /// Call the running switch off. Clients run as before when it resolves.
    pub async fn abort(&self) -> Result<(), Refused> {
        self.ask(Command::Abort).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Command) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| Refused::Stopped)?;
        answered.await.unwrap_or(Err(Refused::Stopped))
    }
}

/// The controller. One a process; [`Controller::run`] is its task.
pub struct Controller<S, T> {
    known: Known<S>,
    gate: Gate,
    steps: T,
    commands: mpsc::Receiver<Command>,
    desk: Desk,
}

/// What somebody beside the wire finds in the way of a switch.
pub type Beside = Box<dyn Fn() -> Vec<check::Finding> + Send + Sync>;

/// The machine, and what is told about it.
struct Desk {
    machine: Machine,
    defaults: Defaults,
    beside: Option<Beside>,
    report: watch::Sender<Report>,
    walk: Option<Walk>,
    /// When the machine entered its phase.
    since: Instant,
    /// The stage's work failed so often that it is tried again only after this.
    pause: Duration,
    backoff: Backoff,
    meters: Meters,
}

/// The walk under way, for its [`Ended`].
struct Walk {
    number: u64,
    request: Request,
    max_hold: Duration,
    /// When the gate closed.
    held: Option<Instant>,
    ended: Ended,
}

/// What a stage's work answered.
enum Done {
    Event(Event),
    Because(Event, String),
    Prepared(Vec<check::Finding>),
    Verified(Compared),
    Foreign(store::Error),
}

/// What came first.
enum Next {
    Done(Done),
    Late,
    Begin(Turn, Request, oneshot::Sender<Result<u64, Refused>>),
    CalledOff(Turn, oneshot::Sender<Result<(), Refused>>),
    Stop,
}

impl<S: Store, T: Steps> Controller<S, T> {
    /// A controller over what [`recover`] found. The gate's route is the control state's.
    pub fn new(known: Known<S>, gate: Gate, steps: T, defaults: Defaults) -> (Controller<S, T>, Handle) {
        let (asking, commands) = mpsc::channel(REQUESTS);
        let machine = Machine::recovered(known.control(), gate.route().mirror);
        let (report, watched) = watch::channel(Report {
            phase: machine.stage.phase(),
            primary: machine.control.primary,
            epoch: machine.control.epoch,
            number: 0,
            to: None,
            last: None,
        });
        let desk = Desk {
            machine,
            defaults,
            beside: None,
            report,
            walk: None,
            since: Instant::now(),
            pause: Duration::ZERO,
            // Nobody else knocks at the same time: the jitter may be the same everywhere.
            backoff: Backoff::new(RETRY.0, RETRY.1, machine.control.epoch),
            meters: Meters::new(),
        };
        (Controller { known, gate, steps, commands, desk }, Handle { commands: asking, report: watched })
    }

    /// Heed what somebody beside the wire finds, too, unless the old primary is given up.
    pub fn heeding(mut self, beside: Beside) -> Controller<S, T> {
        self.desk.beside = Some(beside);
        self
    }

    /// Finish what an earlier process left, then switch whenever asked to, until told to stop: a walk before its flip is
    /// called off then (clients are let go), one that has reached it is finished. After an error the gate is closed and
    /// the process must end. Dropping the future is as safe as a crash, and the gate may be closed after it too.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        self.desk.publish();
        loop {
            match self.next(&stop).await {
                Next::Done(done) => self.answer(done)?,
                Next::Late => self.late().await?,
                Next::Begin(turn, request, answer) => {
                    let number = self.desk.begin(request);
                    self.enter(turn);
                    let _ = answer.send(Ok(number));
                }
                Next::CalledOff(turn, answer) => {
                    self.desk.because("called off by an operator");
                    self.enter(turn);
                    let _ = answer.send(Ok(()));
                }
                Next::Stop => {
                    if let Ok(turn) = self.desk.machine.next(Event::CalledOff) {
                        self.desk.because("tandem is stopping");
                        self.enter(turn);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Do the stage's work until it answers, or something else comes first: then it is dropped.
    async fn next(&mut self, stop: &CancellationToken) -> Next {
        let machine = self.desk.machine;
        let (pause, until) = (self.desk.pause, self.desk.until());
        let request = self.desk.walk.as_ref().map(|walk| &walk.request);
        let force = request.and_then(|request| {
            Some(Force { lose: request.force?, look: request.dry_run, ignored: request.ignore.clone() })
        });
        let max_hold = self.desk.walk.as_ref().map_or(self.desk.defaults.max_hold, |walk| walk.max_hold);
        let (steps, known, gate) = (&mut self.steps, &mut self.known, &self.gate);
        let work = async {
            sleep(pause).await;
            work(machine, (force, max_hold), steps, known, gate).await
        };
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => {
                    if let Some(next) = self.desk.command(command) {
                        return next;
                    }
                }
                // A flip is not left alone.
                () = stop.cancelled(), if machine.stage != Stage::Flipping => return Next::Stop,
                done = work.as_mut() => return Next::Done(done),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return Next::Late,
            }
        }
    }

    /// Clients were held as long as allowed.
    async fn late(&mut self) -> Result<(), Error> {
        let Machine { stage, control, .. } = self.desk.machine;
        if matches!(stage, Stage::Draining | Stage::Quiescing | Stage::Applying) {
            // Before the gate opens: afterwards others are inside too. There is a reserve for it.
            let named = timeout(self.desk.reserve().min(HINDRANCES), self.steps.hindrances(control.primary)).await;
            self.desk.hindered(named.unwrap_or_default());
        }
        let why = format!("clients were held as long as allowed (max_hold), in phase {}", stage.phase().as_str());
        self.answer(Done::Because(Event::TimedOut, why))
    }

    fn answer(&mut self, done: Done) -> Result<(), Error> {
        let (event, foreign) = match done {
            Done::Foreign(error) => (Event::Foreign, Some(error)),
            done => (self.desk.digest(done), None),
        };
        match self.desk.machine.next(event) {
            Ok(turn) => self.enter(turn),
            Err(refused) => error!(?event, stage = ?self.desk.machine.stage, %refused, "switch: ignored"),
        }
        match (self.desk.machine.stage, foreign) {
            (_, Some(error)) => Err(Error::Foreign(error)),
            (Stage::Halted, None) => Err(self.desk.in_doubt()),
            _ => Ok(()),
        }
    }

    /// What must be done at once, then wait for the next.
    fn enter(&mut self, turn: Turn) {
        self.desk.leave(turn.machine.stage);
        for effect in turn.effects {
            match effect {
                Effect::Close => {
                    self.gate.close();
                    self.desk.held();
                }
                Effect::Flip(route, since) => self.steps.flip(route, since),
                Effect::Open(route) => {
                    self.gate.open(route);
                    self.desk.released();
                }
                Effect::Report(end) => self.desk.ended(end, turn.machine.stage),
            }
        }
        self.desk.enter(turn.machine);
    }
}

/// The stage's work. An error of a side is an answer like others.
async fn work<S: Store, T: Steps>(
    machine: Machine,
    (force, max_hold): (Option<Force>, Duration),
    steps: &mut T,
    known: &mut Known<S>,
    gate: &Gate,
) -> Done {
    match machine.work() {
        Work::Nothing => std::future::pending().await,
        Work::Store(control) if machine.stage == Stage::Flipping => flip(known, control).await,
        Work::Store(control) => {
            let recorded = timeout(ATTEMPT, record(known, control)).await;
            recorded.unwrap_or_else(|_| no_answer())
        }
        Work::Prepare(to) => Done::Prepared(match force {
            None => steps.prepare(to, max_hold).await,
            Some(force) => steps.give_up(to, &force).await,
        }),
        Work::Relax => {
            let relaxed = timeout(ATTEMPT, steps.relax()).await;
            relaxed.map_or_else(|_| no_answer(), |()| Done::Event(Event::Relaxed))
        }
        Work::Drain => {
            gate.drained().await;
            Done::Event(Event::Drained)
        }
        Work::Quiesce(from) => Done::of(steps.quiesce(from).await, |()| Event::Quiesced),
        Work::Apply => Done::of(steps.apply().await, Event::Applied),
        Work::Verify => match steps.verify().await {
            Ok(compared) => Done::Verified(compared),
            Err(error) => Done::Because(Event::Failed, error.to_string()),
        },
        Work::Ready(to) => Done::of(steps.ready(to).await, |()| Event::Readied),
        Work::Settle(primary) => attempt(steps.settle(primary), Event::Settled).await,
        // The pause is before every repeated work.
        Work::Rest => Done::Event(Event::Rested),
        Work::Undo(primary) => attempt(steps.undo(primary), Event::Undone).await,
    }
}

/// What is repeated until it is done must not wait for ever for one answer.
async fn attempt(step: impl Future<Output = Result<(), steps::Error>>, event: Event) -> Done {
    match timeout(ATTEMPT, step).await {
        Ok(done) => Done::of(done, |()| event),
        Err(_) => no_answer(),
    }
}

fn no_answer() -> Done {
    Done::Because(Event::Failed, format!("no answer within {} s", ATTEMPT.as_secs()))
}

/// Write the begin or the end of a walk.
async fn record<S: Store>(known: &mut Known<S>, control: store::Control) -> Done {
    match known.replace(control).await {
        Ok(()) => Done::Event(Event::Stored),
        Err(error @ store::Error::NotWritten(_)) => Done::Because(Event::NotStored, error.to_string()),
        Err(error @ store::Error::Foreign { .. }) => Done::Foreign(error),
        Err(error) => Done::Because(Event::Failed, error.to_string()),
    }
}

/// Write the flip. Answers only what is known; dropped when clients can wait no longer.
async fn flip<S: Store>(known: &mut Known<S>, control: store::Control) -> Done {
    let mut failed = match known.replace(control).await {
        Ok(()) => return Done::Event(Event::Stored),
        Err(error) => error,
    };
    loop {
        match failed {
            store::Error::NotWritten(_) => return Done::Because(Event::NotStored, failed.to_string()),
            store::Error::Foreign { .. } => return Done::Foreign(failed),
            _ => warn!(error = %failed, "switch: is the flip written? Clients wait for the answer"),
        }
        failed = match known.confirm().await {
            Ok(there) if there == control => return Done::Event(Event::Stored),
            Ok(_) => return Done::Because(Event::NotStored, failed.to_string()),
            // Not this second write: the flip stays in doubt.
            Err(store::Error::NotWritten(why)) => store::Error::InDoubt(why),
            Err(error) => error,
        };
        sleep(LOOK).await;
    }
}

impl Done {
    fn of<R>(done: Result<R, steps::Error>, event: impl FnOnce(R) -> Event) -> Done {
        match done {
            Ok(value) => Done::Event(event(value)),
            Err(error) => Done::Because(Event::Failed, error.to_string()),
        }
    }
}

impl Desk {
    /// A command's answer now, or what it makes of the walk.
    fn command(&mut self, command: Command) -> Option<Next> {
        match command {
            Command::Begin(request, answer) => {
                let event = Event::Requested { to: request.to, dry_run: request.dry_run };
                let turn = self.max_hold(&request).and_then(|_| self.machine.next(event));
                taken(turn, answer).map(|(turn, answer)| Next::Begin(turn, request, answer))
            }
            Command::Abort(answer) => {
                let turn = self.machine.next(Event::CalledOff);
                taken(turn, answer).map(|(turn, answer)| Next::CalledOff(turn, answer))
            }
        }
    }

    fn max_hold(&self, request: &Request) -> Result<Duration, Refused> {
        let max_hold = request.max_hold_ms.map_or(self.defaults.max_hold, Duration::from_millis);
        let shortest = u64::try_from(MAX_HOLD_MIN.as_millis()).unwrap_or(u64::MAX);
        if max_hold < MAX_HOLD_MIN { Err(Refused::HoldTooShort(shortest)) } else { Ok(max_hold) }
    }

    /// A walk begins; its number.
    fn begin(&mut self, request: Request) -> u64 {
        let max_hold = self.max_hold(&request).unwrap_or(self.defaults.max_hold);
        let number = self.report.borrow().number + 1;
        let Request { to, dry_run, ignore, .. } = &request;
        info!(number, %to, dry_run, ?max_hold, ?ignore, "switch: asked for");
        let ended = Ended {
            number,
            request: request.clone(),
            end: End::Aborted,
            why: None,
            phase: Phase::Steady,
            held_us: 0,
            took_us: Vec::new(),
            compared: 0,
            findings: Vec::new(),
            hindrances: Vec::new(),
        };
        self.walk = Some(Walk { number, request, max_hold, held: None, ended });
        self.report.send_modify(|report| report.number = number);
        number
    }

    /// What the work's answer means for the machine.
    fn digest(&mut self, done: Done) -> Event {
        match done {
            Done::Event(event) => event,
            Done::Because(event, why) => {
                self.because(&why);
                event
            }
            Done::Foreign(error) => {
                self.because(&error.to_string());
                Event::Foreign
            }
            Done::Prepared(findings) => Event::Prepared { refused: self.found(findings) },
            Done::Verified(compared) => self.compared(compared),
        }
    }

    /// Is there something among it that refuses?
    fn found(&mut self, mut findings: Vec<check::Finding>) -> bool {
        let Some(walk) = &mut self.walk else { return false };
        if walk.request.force.is_none() {
            findings.extend(self.beside.iter().flat_map(|look| look()));
        }
        walk.ended.findings = findings.iter().map(Finding::from).collect();
        let refusing = findings.iter().filter(|finding| finding.refuses(&walk.request.ignore));
        let mut names: Vec<&str> = refusing.map(|finding| finding.rule.name).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            walk.ended.why = Some(format!("findings stand in the way: {}", names.join(", ")));
        }
        !names.is_empty()
    }

    fn compared(&mut self, compared: Compared) -> Event {
        let Compared { keys, different } = compared;
        if let Some(walk) = &mut self.walk {
            walk.ended.compared = keys;
        }
        if different > 0 {
            self.because(&format!("the rows of {different} of {keys} keys that were written last differ"));
        }
        Event::Verified { differ: different > 0 }
    }

    /// Why the stage ended, if it matters: for the walk, or for the log when the walk is over.
    fn because(&mut self, why: &str) {
        match &mut self.walk {
            Some(walk) => walk.ended.why = Some(why.to_owned()),
            None if self.machine.stage == Stage::Steady => {}
            None => warn!(phase = self.machine.stage.phase().as_str(), why, "switch: not done yet, and tried again"),
        }
    }

    fn hindered(&mut self, hindrances: Vec<String>) {
        if let Some(walk) = &mut self.walk {
            walk.ended.hindrances = hindrances;
        }
    }

    /// When this stage is late.
    fn until(&self) -> Option<Instant> {
        let walk = self.walk.as_ref()?;
        let end = walk.held? + walk.max_hold;
        Some(if self.machine.stage == Stage::Flipping { end } else { end - reserve(walk.max_hold) })
    }

    fn reserve(&self) -> Duration {
        self.walk.as_ref().map_or(Duration::ZERO, |walk| reserve(walk.max_hold))
    }

    fn held(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.held = Some(Instant::now());
        }
    }

    fn released(&mut self) {
        let Some(held) = self.walk.as_mut().and_then(|walk| walk.held.take().map(|at| at.elapsed())) else { return };
        self.meters.hold.record(held.as_secs_f64());
        if let Some(walk) = &mut self.walk {
            walk.ended.held_us = micros(held);
        }
    }

    /// The machine leaves its stage; `to` may be the same one, again.
    fn leave(&mut self, to: Stage) {
        let from = self.machine.stage;
        let again = from == to || to == Stage::Unsettled;
        self.pause = if again { self.backoff.pause() } else { Duration::ZERO };
        if from.phase() == to.phase() {
            return;
        }
        self.backoff.reset();
        let took = self.since.elapsed();
        self.since = Instant::now();
        let walked = !matches!(from, Stage::Steady | Stage::Unsettled);
        if walked {
            info!(phase = from.phase().as_str(), next = to.phase().as_str(), ?took, "switch: phase over");
        }
        if let Some(walk) = self.walk.as_mut().filter(|_| walked) {
            walk.ended.took_us.push((from.phase(), micros(took)));
        }
    }

    fn enter(&mut self, machine: Machine) {
        self.machine = machine;
        self.publish();
    }

    /// The fate of clients is decided, and the machine goes on to `next`: both are told at once.
    fn ended(&mut self, end: End, next: Stage) {
        let Some(Walk { number, mut ended, .. }) = self.walk.take() else { return };
        ended.end = end;
        ended.phase = self.machine.stage.phase();
        if matches!(end, End::Switched | End::Ready) {
            ended.why = None;
        }
        let held = Duration::from_micros(ended.held_us);
        let (why, phase) = (ended.why.as_deref().unwrap_or_default(), ended.phase.as_str());
        match end {
            End::Switched | End::Ready => info!(number, end = end.as_str(), ?held, "switch: ended"),
            End::Refused | End::Aborted => warn!(number, end = end.as_str(), phase, why, ?held, "switch: ended"),
        }
        self.meters.ended(end);
        self.report.send_modify(|report| {
            report.phase = next.phase();
            report.last = Some(ended);
        });
    }

    fn publish(&self) {
        let Machine { stage, control, .. } = self.machine;
        self.meters.show(stage.phase(), control);
        self.report.send_modify(|report| {
            report.phase = stage.phase();
            report.primary = control.primary;
            report.epoch = control.epoch;
            report.to = self.machine.walks().then(|| self.machine.to());
        });
    }

    fn in_doubt(&self) -> Error {
        let why = self.walk.as_ref().and_then(|walk| walk.ended.why.clone()).unwrap_or_default();
        Error::InDoubt { to: self.machine.to(), why }
    }
}

/// A refusal is answered at once.
fn taken<T>(
    turn: Result<Turn, Refused>,
    answer: oneshot::Sender<Result<T, Refused>>,
) -> Option<(Turn, oneshot::Sender<Result<T, Refused>>)> {
    match turn {
        Ok(turn) => Some((turn, answer)),
        Err(refused) => {
            let _ = answer.send(Err(refused));
            None
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Handles of the metrics, looked up once.
struct Meters {
    hold: Histogram,
    ends: [(End, Counter); 4],
    phases: Vec<(Phase, Gauge)>,
    epoch: Gauge,
    primary: [(Side, Gauge); 2],
}

impl Meters {
    fn new() -> Meters {
        let ends = [End::Switched, End::Ready, End::Refused, End::Aborted];
        let mut phases: Vec<Phase> = Stage::ALL.map(Stage::phase).into();
        phases.sort_unstable();
        phases.dedup();
        let shown = |phase: Phase| (phase, crate::metrics::SWITCH_PHASE.gauge(&[("phase", phase.as_str())]));
        Meters {
            hold: crate::metrics::HOLD_SECONDS.histogram(&[]),
            ends: ends.map(|end| (end, crate::metrics::SWITCHES_TOTAL.counter(&[("end", end.as_str())]))),
            phases: phases.into_iter().map(shown).collect(),
            epoch: crate::metrics::EPOCH.gauge(&[]),
            primary: [Side::Origin, Side::Target]
                .map(|side| (side, crate::metrics::PRIMARY.gauge(&[("side", side.as_str())]))),
        }
    }

    fn ended(&self, end: End) {
        self.ends.iter().filter(|(of, _)| *of == end).for_each(|(_, counter)| counter.increment(1));
    }

    fn show(&self, phase: Phase, control: store::Control) {
        self.phases.iter().for_each(|(of, gauge)| gauge.set(f64::from(u8::from(*of == phase))));
        self.epoch.set(control.epoch as f64);
        self.primary.iter().for_each(|(of, gauge)| gauge.set(f64::from(u8::from(*of == control.primary))));
    }
}

#[cfg(test)]
mod tests;
