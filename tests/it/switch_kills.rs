//! A switch is struck in every phase, there and on the way back, under load: SIGKILL of tandem, of the origin and of the
//! target; a server that hangs (SIGSTOP); tandem that is told to stop (SIGTERM).
//!
//! Phases last milliseconds, and nothing in the program waits for a test: a blow is aimed by reading tandem's log, which
//! has a line for each phase, every few dozen microseconds, and strikes at its beginning or at a random moment of the
//! time that it took before. Where it really hit is read from the log, and counted. What must be true after the recovery
//! does not depend on luck: what the control file says is what happened, one side answers, both sides are equal and have
//! what clients were told, nothing is parked, and the next switch works.
//!
//! A few rounds begin with the flip and what is about it. `TANDEM_SWITCH_KILLS=200` plays more; each is printed, and a table of
//! all at the end. From 48 on it fails unless everybody was hit in each phase.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use ::tandem::dice::Dice;
use ::tandem::sandbox::{Postgres, Stop};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::control::Control;
use crate::support::load::Load;
use crate::support::memory::Memory;
use crate::support::stage::Stage;
use crate::support::{load, rows};

/// Clients of a round.
const CLIENTS: u32 = 4;
/// Units before and after a blow, and after the switch that follows.
const UNITS: u64 = 40;
/// How long the switches that are struck may hold clients, in milliseconds.
const MAX_HOLD_MS: u64 = 2_000;
/// How long tandem hangs.
const HANG: Duration = Duration::from_millis(MAX_HOLD_MS + 300);
/// Between two looks at the log.
const LOOK: Duration = Duration::from_micros(40);
/// Between two questions for the switch.
const ASK: Duration = Duration::from_millis(5);
/// Questions, until a server that hangs goes on while the switch is not over: what comes before the hold has no bound.
const HANGS: usize = 600;
/// Connections that are asked where they are.
const ASKED: usize = 3;

/// A mirror that finds its servers again at once.
const CONFIG: &str = "[mirror]\nretry_max = \"200ms\"\n[limits]\ndrain_timeout = \"10s\"\n";

fn rounds(few: usize) -> usize {
    std::env::var("TANDEM_SWITCH_KILLS").map_or(few, |kills| kills.parse().expect("TANDEM_SWITCH_KILLS is a number"))
}

/// So many rounds aim at all of victim, phase and direction.
const ALL_AIMED: usize = 48;
/// Further rounds, at most, for what none of those hit: phases last microseconds.
const TRIES: usize = 10;

/// As the log calls them, in order. The last one is the moment after a switch.
const PHASES: [&str; 8] =
    ["preparing", "draining", "applying", "verifying", "readying", "flipping", "settling", "steady"];

fn rank(phase: &str) -> usize {
    PHASES.iter().position(|one| *one == phase).unwrap_or(0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// SIGKILL; started again at once, or when the walk is over.
    Kill { late: bool },
    /// SIGKILL, and again while the next process begins.
    KillTwice,
    /// SIGKILL of a server and of tandem, as when a machine goes down with both.
    KillWithTandem,
    /// SIGSTOP: a server until the walk is over, tandem for longer than it may hold clients.
    Hang,
    /// SIGTERM.
    Terminate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Tandem,
    Origin,
    Target,
}

impl Victim {
    const ALL: [Victim; 3] = [Victim::Tandem, Victim::Origin, Victim::Target];

    fn server(self, stage: &mut Stage) -> &mut Postgres {
        match self {
            Victim::Tandem => panic!("no server"),
            Victim::Origin => &mut stage.origin,
            Victim::Target => &mut stage.target,
        }
    }
}

/// In which order they are struck: first those in which most may go wrong, for few rounds.
const ORDER: [&str; 8] =
    ["flipping", "settling", "readying", "verifying", "steady", "applying", "draining", "preparing"];

/// What is struck, how and when.
#[derive(Clone, Copy, Debug)]
struct Aim {
    to: &'static str,
    victim: Victim,
    blow: Blow,
    phase: &'static str,
    /// After the phase began.
    delay: Duration,
}

impl Aim {
    fn ends_tandem(self) -> bool {
        match self.victim {
            Victim::Tandem => self.blow != Blow::Hang,
            _ => self.blow == Blow::KillWithTandem,
        }
    }
}

/// The phases in which a blow began and ended.
type Hit = [String; 2];

/// Reads the phase of the switch from what tandem logs from here on.
struct Watch {
    log: std::fs::File,
    rest: String,
    phase: String,
}

impl Watch {
    fn new(stage: &Stage) -> Watch {
        let mut log = std::fs::File::open(stage.tandem.dir().join("log")).expect("a log");
        log.seek(SeekFrom::End(0)).expect("a file");
        Watch { log, rest: String::new(), phase: String::new() }
    }

    /// The phase now; empty: nothing was asked for yet.
    fn look(&mut self) -> &str {
        self.log.read_to_string(&mut self.rest).expect("text");
        while let Some((line, rest)) = self.rest.split_once('\n') {
            if line.contains("switch: asked for") {
                self.phase = "preparing".to_owned();
            } else if line.contains("switch: phase over") {
                let next = line.split_once("next=\"").and_then(|(_, next)| next.split_once('"'));
                self.phase = next.expect("the log names the next phase").0.to_owned();
            }
            self.rest = rest.to_owned();
        }
        &self.phase
    }

    /// Waits for the phase, or for the end of the switch. Blocks.
    fn wait_for(&mut self, phase: &str) {
        let began = Instant::now();
        while !["steady", phase].contains(&self.look()) {
            assert!(began.elapsed() < Duration::from_secs(60), "the switch stays {}", self.phase);
            std::thread::sleep(LOOK);
        }
    }
}

fn server<'s>(stage: &'s Stage, side: &str) -> &'s Postgres {
    if side == "origin" { &stage.origin } else { &stage.target }
}

/// How many blows began in which phase of a switch to which side.
type Coverage = BTreeMap<(Victim, String, &'static str), usize>;

/// Rounds, one after the other on the same servers.
struct Game {
    stage: Stage,
    told: Memory,
    clients: u32,
    dice: Dice,
    /// How long each phase took when nothing was struck, in microseconds.
    took: BTreeMap<String, u64>,
    coverage: Coverage,
}

impl Game {
    async fn new(seed: u64) -> Game {
        let stage = Stage::new(load::SCHEMA, CONFIG, &[]).await;
        let (told, took, coverage) = Default::default();
        Game { stage, told, clients: 1, dice: Dice(seed), took, coverage }
    }

    async fn play(mut self, rounds: usize, mut aim: impl FnMut(&mut Game, usize) -> Aim) {
        for number in 0..rounds {
            let aim = aim(&mut self, number);
            self.round(number, aim).await;
        }
        let mut more = 0;
        while let Some((victim, phase)) = self.missed().filter(|_| rounds >= ALL_AIMED) {
            self.tell();
            assert!(more < TRIES, "{victim:?} was never hit in {phase}");
            // The aim of the schedule that names both.
            let number = (0..).find(|number| aimed(*number) == (victim, phase)).expect("each is aimed at");
            let aim = aim(&mut self, number);
            self.round(rounds + more, aim).await;
            more += 1;
        }
        self.tell();
    }

    /// A victim, and a phase in which it was not hit.
    fn missed(&self) -> Option<(Victim, &'static str)> {
        let hit = |victim, phase| self.coverage.keys().any(|(one, at, _)| (*one, &**at) == (victim, phase));
        let mut all = Victim::ALL.into_iter().flat_map(|victim| PHASES.map(|phase| (victim, phase)));
        all.find(|(victim, phase)| !hit(*victim, *phase))
    }

    /// At the beginning of the phase, or while it lasts.
    fn delay(&mut self, phase: &str) -> Duration {
        let usual = self.took.get(phase).copied().unwrap_or(2_000);
        let delay = if self.dice.below(2) == 0 { 0 } else { self.dice.below(usual) };
        Duration::from_micros(delay)
    }

    /// Clients whose rows no others touch.
    fn load(&mut self) -> Load {
        let first = self.clients;
        self.clients += CLIENTS;
        Load::start(&self.stage.url(), first, CLIENTS)
    }

    async fn round(&mut self, number: usize, aim: Aim) {
        let load = self.load();
        load.more(UNITS).await;
        let before = Control::of_file(&self.stage.tandem);
        let before = if before.primary == aim.to { self.switch(&before).await } else { before };
        self.is_fit().await;
        let hit = self.strike(aim).await;
        self.come_back(aim, &before, &hit).await;
        let after = self.decided(aim, &before, &hit).await;
        load.more(UNITS).await;
        self.one_side_answers(&after).await;
        self.switch(&after).await;
        load.more(UNITS).await;
        let done = load.stop().await;
        let outcome = if after == before { "as before" } else { "switched" };
        eprintln!(
            "{number}: {aim:?} hit {hit:?}: {outcome}; {} units acknowledged, {} answers lost",
            done.acked, done.lost
        );
        let wrong = (&done.refused, &done.stale);
        assert_eq!(wrong, (&Vec::new(), &Vec::new()), "{aim:?} {hit:?}\n{}", self.stage.tandem.log());
        self.told.merge(done.memory);
        self.stage.assert_equal(load::TABLES).await;
        for side in ["origin", "target"] {
            self.told.assert_kept(side, &server(&self.stage, side).url("postgres"), load::OWNED).await;
        }
    }

    /// Nothing of earlier rounds is left to do.
    async fn is_fit(&self) {
        let fit = |status: &Value| {
            let runs = ["idle", "paying"].iter().any(|phase| status["mirror"]["phase"] == **phase);
            runs && status["mirror"]["lag_seconds"].as_f64() < Some(0.3)
        };
        self.stage.tandem.status_is("fit for a switch", fit).await;
    }

    /// Ask for a switch, and strike.
    async fn strike(&mut self, aim: Aim) -> Hit {
        let mut watch = Watch::new(&self.stage);
        let (client, request) = (self.stage.tandem.client(), json!({"to": aim.to, "max_hold_ms": MAX_HOLD_MS}));
        // Its answer may be lost with tandem.
        let asked = tokio::spawn(async move { drop(client.post("/v1/switch", &request).await) });
        let stage = &mut self.stage;
        let hit = tokio::task::block_in_place(|| {
            watch.wait_for(aim.phase);
            let until = Instant::now() + aim.delay;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            let began = watch.look().to_owned();
            match (aim.victim, aim.blow) {
                (Victim::Tandem, Blow::Terminate) => {
                    assert_eq!(stage.tandem.terminate(), Some(0), "{}", stage.tandem.log());
                }
                (Victim::Tandem, Blow::Hang) => {
                    stage.tandem.freeze();
                    std::thread::sleep(HANG);
                    stage.tandem.thaw();
                }
                (Victim::Tandem, _) => stage.tandem.kill(),
                (victim, Blow::Hang) => victim.server(stage).freeze(),
                (victim, blow) => {
                    if blow == Blow::KillWithTandem {
                        stage.tandem.kill();
                    }
                    victim.server(stage).stop(Stop::Kill).expect("it dies");
                }
            }
            let ended = watch.look().to_owned();
            // Who is dead logs no more: that is where it died.
            [if aim.ends_tandem() && aim.blow != Blow::Terminate { ended.clone() } else { began }, ended]
        });
        *self.coverage.entry((aim.victim, hit[0].clone(), aim.to)).or_default() += 1;
        asked.await.expect("no panics in it");
        hit
    }

    /// What was killed is started. What the file says is what becomes of it.
    async fn come_back(&mut self, aim: Aim, before: &Control, hit: &Hit) {
        let stage = &mut self.stage;
        let stored = Control::of_file(&stage.tandem).cleared();
        if aim.victim != Victim::Tandem {
            if [Blow::Hang, Blow::Kill { late: true }].contains(&aim.blow) {
                assert!(walk_over(stage).await, "{aim:?} {hit:?}: tandem ended\n{}", stage.tandem.log());
            }
            let server = aim.victim.server(stage);
            match aim.blow {
                Blow::Hang => server.thaw(),
                _ => tokio::task::block_in_place(|| server.start()).expect("it comes back"),
            }
        }
        if !aim.ends_tandem() {
            if !walk_over(stage).await {
                // Clients were held for too long by then, and it did not know whether its flip was written.
                let in_doubt = stage.tandem.ended() == Some(1) && hit.iter().any(|phase| phase == "flipping");
                assert!(in_doubt && aim.victim == Victim::Tandem, "{aim:?} {hit:?}\n{}", stage.tandem.log());
                stage.tandem.launch().await;
            }
            return;
        }
        let what = || format!("{aim:?} {hit:?}: {before:?} became {stored:?}");
        assert!(rank(&hit[1]) >= rank("flipping") || stored == before.cleared(), "{}", what());
        if aim.blow == Blow::KillTwice {
            stage.tandem.spawn();
            std::thread::sleep(Duration::from_micros(self.dice.below(150_000)));
            stage.tandem.kill();
        }
        stage.tandem.launch().await;
        assert_eq!(Control::of_file(&stage.tandem).cleared(), stored, "{}\n{}", what(), stage.tandem.log());
    }

    /// The outcome, when nothing is left to do.
    async fn decided(&self, aim: Aim, before: &Control, hit: &Hit) -> Control {
        let stage = &self.stage;
        stage.steady().await;
        let after = Control::of_file(&stage.tandem);
        let what = || format!("{aim:?} {hit:?}: {before:?} became {after:?}\n{}", stage.tandem.log());
        assert!([before.cleared(), before.flipped()].contains(&after), "{}", what());
        let client = stage.tandem.client();
        let status = client.get("/v1/status").await.expect("it answers");
        assert_eq!((&status["primary"], &status["epoch"]), (&json!(after.primary), &json!(after.epoch)), "{}", what());
        let flipped = after.epoch > before.epoch;
        assert!(flipped || !["settling", "steady"].contains(&&*hit[0]), "a flip was lost: {}", what());
        let last = &client.get("/v1/switch").await.expect("it answers")["last"];
        if !last.is_null() {
            assert_eq!(last["end"] == "switched", flipped, "{last:#} {}", what());
            let hung = aim.victim == Victim::Tandem && aim.blow == Blow::Hang;
            assert!(hung || last["held_us"].as_u64() <= Some(1_000 * MAX_HOLD_MS), "{last:#} {}", what());
        }
        let unfinished = |phase: &String| ["draining", "applying", "verifying"].contains(&&**phase);
        let hung = aim.blow == Blow::Hang && aim.victim != Victim::Tandem;
        assert!(!hung || !flipped || !hit.iter().all(unfinished), "{}", what());
        after
    }

    /// Whoever connects comes to the primary, and the other one takes no writes past tandem.
    async fn one_side_answers(&self, control: &Control) {
        let stage = &self.stage;
        let port = server(stage, &control.primary).port().to_string();
        for _ in 0..ASKED {
            assert_eq!(
                rows(&stage.url(), "SELECT inet_server_port()").await,
                [&*port],
                "{control:?}\n{}",
                stage.tandem.log()
            );
        }
        for side in ["origin", "target"] {
            let closed = control.epoch > 1 && side != control.primary;
            let shown = rows(&server(stage, side).url("postgres"), "SHOW default_transaction_read_only").await;
            assert_eq!(shown, [if closed { "on" } else { "off" }], "{side} of {control:?}\n{}", stage.tandem.log());
        }
    }

    /// A switch that nothing disturbs.
    async fn switch(&mut self, control: &Control) -> Control {
        self.is_fit().await;
        let ended = self.stage.switch(control.other()).await;
        assert_eq!(ended["end"], "switched", "{ended:#}\n{}", self.stage.tandem.log());
        for phase in ended["took_us"].as_array().into_iter().flatten() {
            let (name, took) = (phase[0].as_str().expect("a name"), phase[1].as_u64().expect("a number"));
            self.took.insert(name.to_owned(), took);
        }
        self.stage.steady().await;
        let now = Control::of_file(&self.stage.tandem);
        assert_eq!(now, control.flipped());
        now
    }

    fn tell(&self) {
        for victim in Victim::ALL {
            for phase in PHASES.iter().chain(&["undoing"]) {
                let count = |to| self.coverage.get(&(victim, (*phase).to_owned(), to)).copied().unwrap_or(0);
                eprintln!("{victim:?} in {phase}: {} there, {} on the way back", count("target"), count("origin"));
            }
        }
    }
}

/// Waits until the fate of clients is decided, or until it is clear that somebody who hangs keeps it from being. False:
/// tandem has ended.
async fn walk_over(stage: &Stage) -> bool {
    for _ in 0..HANGS {
        let Ok(report) = stage.tandem.client().get("/v1/switch").await else { return false };
        if report["last"]["number"] == report["number"] {
            break;
        }
        tokio::time::sleep(ASK).await;
    }
    true
}

/// Whom this round strikes, and when.
fn aimed(number: usize) -> (Victim, &'static str) {
    (Victim::ALL[number % 3], ORDER[number % ORDER.len()])
}

/// All of victim, phase and direction in [`ALL_AIMED`] rounds.
fn next(game: &mut Game, number: usize, blow: impl Fn(&mut Dice, Victim) -> Blow) -> Aim {
    let (victim, phase) = aimed(number);
    let to = ["target", "origin"][(number + number / 24) % 2];
    Aim { to, victim, blow: blow(&mut game.dice, victim), phase, delay: game.delay(phase) }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_in_whatever_phase_the_control_file_says_who_answers_and_nothing_is_lost() {
    let kill = |dice: &mut Dice, victim| match (victim, dice.below(4)) {
        (Victim::Tandem, 0 | 1) => Blow::KillTwice,
        (Victim::Tandem, _) => Blow::Kill { late: false },
        (_, 0) => Blow::KillWithTandem,
        (_, die) => Blow::Kill { late: die == 1 },
    };
    Game::new(1).await.play(rounds(6), |game, number| next(game, number, kill)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_or_is_stopped_in_whatever_phase_no_server_holds_clients_for_longer_and_nothing_is_lost() {
    let hang = |dice: &mut Dice, victim| match victim {
        Victim::Tandem if dice.below(2) == 0 => Blow::Terminate,
        _ => Blow::Hang,
    };
    Game::new(2).await.play(rounds(3), |game, number| next(game, number, hang)).await;
}
