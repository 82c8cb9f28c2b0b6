//! Transcripts: what is asked of the wire, in which order, with the gate open or closed; and what is told about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::*;
use crate::check::{Rule, Severity};
use crate::cutover::gate::Route;
use crate::cutover::store::{Control, InMemory, Revision};
use crate::journal::Lsn;

/// What a step does when it is asked.
#[derive(Clone, Copy)]
enum Does {
    Fails,
    Hangs,
    FailsOnce,
    TakesASecond,
}

/// Where nothing else is asked for.
const MAX_HOLD: Duration = Duration::from_secs(2);

/// Writes down what it is asked, and does it unless told otherwise.
#[derive(Clone)]
struct Scribe {
    gate: Gate,
    said: Arc<Mutex<Vec<String>>>,
    does: Arc<Mutex<BTreeMap<&'static str, Does>>>,
    findings: Vec<check::Finding>,
    different: u64,
}

impl Scribe {
    async fn asked(&self, step: &'static str, side: Option<Side>) -> Result<(), steps::Error> {
        let held = if self.gate.is_closed() { " (held)" } else { "" };
        let side_said = side.map_or(String::new(), |side| format!(" {side}"));
        self.said.lock().expect("no test panics with it").push(format!("{step}{side_said}{held}"));
        let does = {
            let mut does = self.does.lock().expect("no test panics with it");
            let now = does.get(step).copied();
            if matches!(now, Some(Does::FailsOnce)) {
                does.remove(step);
            }
            now
        };
        match does {
            None => Ok(()),
            Some(Does::Hangs) => std::future::pending().await,
            Some(Does::TakesASecond) => {
                sleep(Duration::from_secs(1)).await;
                Ok(())
            }
            Some(Does::Fails | Does::FailsOnce) => Err(steps::Error::Refused(format!("{step} does not work"))),
        }
    }
}

impl Steps for Scribe {
    async fn prepare(&mut self, to: Side, max_hold: Duration) -> Vec<check::Finding> {
        let _ = self.asked("prepare", Some(to)).await;
        if max_hold != MAX_HOLD {
            self.said.lock().expect("no test panics with it").push(format!("they may be held for {max_hold:?}"));
        }
        self.findings.clone()
    }

    async fn relax(&mut self) {
        let _ = self.asked("relax", None).await;
    }

    async fn quiesce(&mut self, from: Side) -> Result<(), steps::Error> {
        self.asked("quiesce", Some(from)).await
    }

    async fn hindrances(&mut self, from: Side) -> Vec<String> {
        let _ = self.asked("hindrances", Some(from)).await;
        vec!["a unit of 3 s: UPDATE".to_owned()]
    }

    async fn apply(&mut self) -> Result<Lsn, steps::Error> {
        self.asked("apply", None).await.map(|()| Lsn(700))
    }

    async fn verify(&mut self) -> Result<Compared, steps::Error> {
        self.asked("verify", None).await.map(|()| Compared { keys: 9, different: self.different })
    }

    async fn ready(&mut self, to: Side) -> Result<(), steps::Error> {
        self.asked("ready", Some(to)).await
    }

    fn flip(&mut self, route: Route, since: Lsn) {
        let held = if self.gate.is_closed() { " (held)" } else { "" };
        let said = format!("flip {} epoch {} since {}{held}", route.primary, route.epoch, since.0);
        self.said.lock().expect("no test panics with it").push(said);
    }

    async fn settle(&mut self, primary: Side) -> Result<(), steps::Error> {
        self.asked("settle", Some(primary)).await
    }

    async fn undo(&mut self, primary: Side) -> Result<(), steps::Error> {
        self.asked("undo", Some(primary)).await
    }
}

/// A store that never answers when it is given a flip.
#[derive(Clone, Default)]
struct Mute {
    store: InMemory,
    mute: bool,
}

impl Store for Mute {
    async fn load(&self) -> Result<(Revision, Control), store::Error> {
        self.store.load().await
    }

    async fn replace(&self, expected: Revision, control: Control) -> Result<Revision, store::Error> {
        if self.mute && control.epoch > 1 {
            std::future::pending().await
        }
        self.store.replace(expected, control).await
    }
}

/// A controller that runs.
struct Rig {
    scribe: Scribe,
    store: Mute,
    gate: Gate,
    handle: Handle,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

/// How it differs from one where everything works.
#[derive(Default)]
struct Setup {
    does: BTreeMap<&'static str, Does>,
    findings: Vec<check::Finding>,
    different: u64,
    left: Control,
    mute: bool,
}

impl Setup {
    fn does(step: &'static str, does: Does) -> Setup {
        Setup { does: [(step, does)].into(), ..Setup::default() }
    }

    async fn start(self) -> Rig {
        let store = Mute { store: InMemory::default(), mute: self.mute };
        store.store.replace(Revision(0), self.left).await.expect("in memory");
        let known = recover(store.clone()).await.expect("in memory");
        let gate = Gate::new(known.control().route(true));
        let scribe = Scribe {
            gate: gate.clone(),
            said: Arc::default(),
            does: Arc::new(Mutex::new(self.does)),
            findings: self.findings,
            different: self.different,
        };
        let defaults = Defaults { max_hold: MAX_HOLD };
        let (controller, handle) = Controller::new(known, gate.clone(), scribe.clone(), defaults);
        let stop = CancellationToken::new();
        let running = tokio::spawn(controller.run(stop.clone()));
        Rig { scribe, store, gate, handle, stop, running }
    }
}

impl Rig {
    fn said(&self) -> Vec<String> {
        self.scribe.said.lock().expect("no test panics with it").clone()
    }

    fn mend(&self) {
        self.scribe.does.lock().expect("no test panics with it").clear();
    }

    async fn control(&self) -> Control {
        self.store.load().await.expect("in memory").1
    }

    async fn until(&self, is: impl FnMut(&Report) -> bool) -> Report {
        self.handle.watch().wait_for(is).await.expect("it runs").clone()
    }

    async fn phase(&self, phase: Phase) -> Report {
        self.until(|report| report.phase == phase).await
    }

    async fn walk(&self, request: Request) -> Ended {
        let number = self.handle.begin(request).await.expect("taken");
        let ended = |report: &Report| report.last.as_ref().is_some_and(|ended| ended.number == number);
        self.until(ended).await.last.expect("waited for")
    }
}

fn to_target() -> Request {
    Request { to: Side::Target, dry_run: false, max_hold_ms: None, ignore: Vec::new(), force: None }
}

fn phases(ended: &Ended) -> Vec<Phase> {
    ended.took_us.iter().map(|(phase, _)| *phase).collect()
}

#[tokio::test(start_paused = true)]
async fn a_switch_holds_clients_only_between_the_fence_and_the_flip() {
    let rig = Setup::default().start().await;
    let ended = rig.walk(to_target()).await;
    assert_eq!((ended.end, ended.why.as_deref(), ended.compared), (End::Switched, None, 9));
    rig.phase(Phase::Steady).await;
    let order = [
        "prepare target",
        "quiesce origin (held)",
        "apply (held)",
        "verify (held)",
        "ready target (held)",
        "flip target epoch 2 since 700 (held)",
        "settle target",
    ];
    assert_eq!(rig.said(), order);
    assert_eq!(rig.control().await, Control { epoch: 2, primary: Side::Target, since: 700, walk: None });
    assert_eq!(rig.gate.route(), Route { primary: Side::Target, mirror: true, epoch: 2 });
    use Phase::{Applying, Draining, Flipping, Preparing, Readying, Verifying};
    assert_eq!(phases(&ended), [Preparing, Draining, Applying, Verifying, Readying, Flipping]);
    let report = rig.handle.report();
    assert_eq!((report.primary, report.epoch, report.to), (Side::Target, 2, None));
}

#[tokio::test(start_paused = true)]
async fn clients_go_on_before_anything_is_undone_promise_10() {
    for step in ["quiesce", "apply", "verify", "ready"] {
        let rig = Setup::does(step, Does::Fails).start().await;
        let ended = rig.walk(to_target()).await;
        assert_eq!(ended.end, End::Aborted);
        assert_eq!(ended.why, Some(format!("{step} does not work")));
        rig.phase(Phase::Steady).await;
        assert_eq!(rig.said().last().map(String::as_str), Some("undo origin"), "not held, and last");
        assert_eq!(rig.control().await, Control::default());
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_differ_end_the_switch() {
    let rig = Setup { different: 2, ..Setup::default() }.start().await;
    let ended = rig.walk(to_target()).await;
    assert_eq!((ended.end, ended.phase, ended.compared), (End::Aborted, Phase::Verifying, 9));
    assert_eq!(ended.why.as_deref(), Some("the rows of 2 of 9 keys that were written last differ"));
}

#[tokio::test(start_paused = true)]
async fn an_error_among_the_findings_refuses_unless_it_is_ignored() {
    const BAD: &Rule = &Rule { name: "bad", severity: Severity::Error, advice: "mend it" };
    const ODD: &Rule = &Rule { name: "odd", severity: Severity::Warning, advice: "" };
    let found = |rule| check::Finding { rule, side: None, object: String::new() };
    let rig = Setup { findings: vec![found(BAD), found(ODD)], ..Setup::default() }.start().await;
    let ended = rig.walk(to_target()).await;
    assert_eq!((ended.end, ended.held_us, ended.findings.len()), (End::Refused, 0, 2));
    assert_eq!(ended.why.as_deref(), Some("findings stand in the way: bad"));
    rig.phase(Phase::Steady).await;
    assert_eq!(rig.said(), ["prepare target", "undo origin"]);
    let ended = rig.walk(Request { ignore: vec!["bad".to_owned()], ..to_target() }).await;
    assert_eq!(ended.end, End::Switched);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_closes_what_it_opened_and_leaves_no_trace() {
    let rig = Setup::default().start().await;
    let before = rig.store.load().await;
    let ended = rig.walk(Request { dry_run: true, ..to_target() }).await;
    assert_eq!((ended.end, ended.held_us), (End::Ready, 0));
    rig.phase(Phase::Steady).await;
    assert_eq!(rig.said(), ["prepare target", "relax"]);
    assert_eq!(rig.store.load().await, before);
}

#[tokio::test(start_paused = true)]
async fn who_hears_how_a_walk_ended_may_begin_the_next_one_at_once() {
    for (step, slow, dry_run, end) in
        [("relax", "", true, End::Ready), ("undo", "ready", false, End::Aborted), ("settle", "", false, End::Switched)]
    {
        let does = [(step, Does::TakesASecond), (slow, Does::FailsOnce)].into();
        let rig = Setup { does, ..Setup::default() }.start().await;
        let ended = rig.walk(Request { dry_run, ..to_target() }).await;
        let Report { phase, primary, .. } = rig.handle.report();
        assert!(ended.end == end && matches!(phase, Phase::Undoing | Phase::Settling), "{step}: {phase:?}");
        let to = primary.other();
        assert_eq!(rig.walk(Request { to, ..to_target() }).await.end, End::Switched, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_does_not_end_is_named_and_clients_go_on_in_time_promise_10() {
    let rig = Setup::default().start().await;
    let _inside = rig.gate.slot().try_enter().expect("open");
    let ended = rig.walk(Request { max_hold_ms: Some(1_000), ..to_target() }).await;
    assert_eq!((ended.end, ended.phase, ended.held_us), (End::Aborted, Phase::Draining, 750_000));
    assert_eq!(ended.hindrances, ["a unit of 3 s: UPDATE"]);
    let said = ["prepare target", "they may be held for 1s", "hindrances origin (held)"];
    assert_eq!(rig.said()[..3], said, "what is long is so by the request");
    assert!(!rig.gate.is_closed());
}

#[tokio::test(start_paused = true)]
async fn what_the_mirror_waits_for_is_named_too() {
    let rig = Setup::does("apply", Does::Hangs).start().await;
    let ended = rig.walk(Request { max_hold_ms: Some(1_000), ..to_target() }).await;
    assert_eq!((ended.end, ended.phase), (End::Aborted, Phase::Applying));
    assert_eq!(ended.hindrances, ["a unit of 3 s: UPDATE"]);
}

#[tokio::test(start_paused = true)]
async fn naming_what_hinders_takes_no_longer_than_clients_may_be_held() {
    let rig = Setup::does("hindrances", Does::Hangs).start().await;
    let _inside = rig.gate.slot().try_enter().expect("open");
    let ended = rig.walk(Request { max_hold_ms: Some(100), ..to_target() }).await;
    assert!(ended.held_us <= 100_000, "{ended:?}");
    assert!(ended.hindrances.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_operator_calls_it_off_before_the_flip() {
    let rig = Setup::does("apply", Does::Hangs).start().await;
    assert_eq!(rig.handle.abort().await, Err(Refused::NoSwitch));
    rig.handle.begin(to_target()).await.expect("taken");
    assert_eq!(rig.handle.begin(to_target()).await, Err(Refused::Running(rig.handle.report().phase)));
    rig.phase(Phase::Applying).await;
    rig.handle.abort().await.expect("in time");
    assert!(!rig.gate.is_closed(), "clients go on when it is answered");
    let last = rig.handle.report().last.expect("ended");
    assert_eq!((last.end, last.why.as_deref()), (End::Aborted, Some("called off by an operator")));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_met_is_refused_with_the_reason() {
    let rig = Setup::default().start().await;
    let origin = Request { to: Side::Origin, ..to_target() };
    assert_eq!(rig.handle.begin(origin).await, Err(Refused::Already(Side::Origin)));
    let short = Request { max_hold_ms: Some(99), ..to_target() };
    assert_eq!(rig.handle.begin(short).await, Err(Refused::HoldTooShort(100)));
    assert_eq!(rig.handle.report().number, 0);
}

#[tokio::test(start_paused = true)]
async fn undoing_is_repeated_until_it_is_done_and_nothing_else_begins_meanwhile() {
    let rig = Setup { does: [("ready", Does::FailsOnce), ("undo", Does::Fails)].into(), ..Setup::default() };
    let rig = rig.start().await;
    assert_eq!(rig.walk(to_target()).await.end, End::Aborted);
    sleep(Duration::from_secs(30)).await;
    let refused = rig.handle.begin(to_target()).await;
    assert_eq!(refused, Err(Refused::Unfinished(Phase::Undoing)));
    assert!(rig.control().await.walk.is_some(), "the next process would know");
    rig.mend();
    rig.phase(Phase::Steady).await;
    assert_eq!(rig.walk(to_target()).await.end, End::Switched);
}

#[tokio::test(start_paused = true)]
async fn the_old_primary_is_told_in_the_background_until_it_has_heard() {
    let rig = Setup::does("settle", Does::Hangs).start().await;
    assert_eq!(rig.walk(to_target()).await.end, End::Switched);
    assert!(!rig.gate.is_closed());
    assert_eq!(rig.handle.report().phase, Phase::Settling);
    assert_eq!(rig.handle.abort().await, Err(Refused::TooLate));
    rig.mend();
    rig.phase(Phase::Steady).await;
    assert!(rig.said().iter().filter(|said| *said == "settle target").count() > 1);
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_go_back_does_not_wait_until_the_old_primary_was_told() {
    let rig = Setup::does("settle", Does::Fails).start().await;
    assert_eq!(rig.walk(to_target()).await.end, End::Switched);
    sleep(Duration::from_secs(30)).await;
    let back = Request { to: Side::Origin, ..to_target() };
    let dry_run = rig.walk(Request { dry_run: true, ..back.clone() }).await;
    assert_eq!(dry_run.end, End::Ready);
    sleep(Duration::from_secs(30)).await;
    let ended = rig.walk(back).await;
    assert_eq!((ended.end, phases(&ended)[0]), (End::Switched, Phase::Preparing));
    assert_eq!(rig.handle.report().epoch, 3);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_left_is_finished_first() {
    let walking = Control::default().walking();
    let rig = Setup { left: walking, ..Setup::default() }.start().await;
    assert_eq!(rig.handle.report().phase, Phase::Undoing, "from the first moment");
    rig.phase(Phase::Steady).await;
    assert_eq!(rig.gate.route().primary, Side::Origin);
    assert_eq!(rig.walk(to_target()).await.end, End::Switched);
    assert_eq!(rig.said()[..2], ["undo origin", "prepare target"]);

    let switched = Control::default().flipped(500);
    let rig = Setup { left: switched.walking(), ..Setup::default() }.start().await;
    assert_eq!(rig.handle.report().primary, Side::Target);
    rig.phase(Phase::Steady).await;
    assert_eq!(rig.said(), ["undo target", "settle target"]);
    assert_eq!(rig.control().await, switched);
}

#[tokio::test(start_paused = true)]
async fn a_flip_that_nobody_knows_of_in_time_ends_the_process_with_the_gate_closed_promise_9() {
    let rig = Setup { mute: true, ..Setup::default() }.start().await;
    let began = Instant::now();
    rig.handle.begin(to_target()).await.expect("taken");
    rig.phase(Phase::Flipping).await;
    assert_eq!(rig.handle.abort().await, Err(Refused::TooLate));
    rig.stop.cancel();
    let ended = rig.running.await.expect("no panic");
    assert!(matches!(ended, Err(Error::InDoubt { to: Side::Target, .. })), "{ended:?}");
    assert_eq!(began.elapsed().as_secs(), 2, "as long as clients may be held, and no longer");
    assert!(rig.gate.is_closed());
    assert_eq!(rig.handle.abort().await, Err(Refused::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_told_to_stop_lets_clients_go() {
    let rig = Setup::does("ready", Does::Hangs).start().await;
    rig.handle.begin(to_target()).await.expect("taken");
    rig.phase(Phase::Readying).await;
    assert!(rig.gate.is_closed());
    rig.stop.cancel();
    rig.running.await.expect("no panic").expect("no doubt");
    assert!(!rig.gate.is_closed());
    let left = rig.store.load().await.expect("in memory").1;
    assert!(left.walk.is_some(), "the next process undoes it");
}
