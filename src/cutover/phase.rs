//! The order of a switch, as a pure machine: what is waited for, and what an event makes of it. No time, no IO.
//!
//! ```text
//!             requested           stored            prepared            drained          quiesced        applied
//!    Steady ------------> Recording ---> Preparing ----------> Draining ------> Quiescing ----> Applying ---.
//!      ^  '-- dry run ---------------------^  |  dry run: Relaxing --> Steady                               |
//!      |                                      |                                                             v
//!      |   settled             stored: FLIP   |                readied                        verified   Verifying
//!      '-------------- Settling <---------- Flipping <---------------------- Readying <--------------------'
//!      |                  ^                   |
//!      |   stored         | epoch > 1         |  anything that fails, is late or is called off before the flip
//!      '-------------- Clearing <--- Undoing <'
//!                                  undone
//! ```
//!
//! An old primary that cannot be told is told again and again; between two attempts (`Unsettled`) a switch back may begin.
//!
//! A [`Stage`] is one thing that is waited for; several make up a [`Phase`] as people see it. The gate is closed from
//! the entry of `Draining` to the exit of `Flipping`. A walk is durable before anything is done for it, and cleared when
//! everything is undone. While it is not known whether the flip was written there is no way but waiting: when that takes
//! too long the machine is `Halted`, the gate stays closed, the process ends, and the next one reads what was written.
//!
//! `phase.txt` beside this file shows every stage with every event.

use crate::journal::Lsn;
use crate::record::Side;

use super::gate::Route;
use super::report::{End, Phase};
use super::store::Control;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A request.
    Steady,
    /// The walk to be durable in the store.
    Recording,
    /// What stands in the way, to be found.
    Preparing,
    /// What a dry run prepared, to be closed.
    Relaxing,
    /// Every unit to leave the closed gate.
    Draining,
    /// What tandem forwarded, to be over on the old primary.
    Quiescing,
    /// The mirror, to pay everything.
    Applying,
    /// The newest rows, to be compared.
    Verifying,
    /// The new primary, to be ready for writes.
    Readying,
    /// The flip, to be durable in the store.
    Flipping,
    /// The old primary, to be told.
    Settling,
    /// The next attempt to tell it, or a request: who wants to go back does not have to wait for it.
    Unsettled,
    /// What was done, to be undone.
    Undoing,
    /// The store, to forget the walk.
    Clearing,
    /// The end of the process.
    Halted,
}

impl Stage {
    /// Every one, in the order of the walk.
    pub const ALL: [Stage; 15] = [
        Stage::Steady,
        Stage::Recording,
        Stage::Preparing,
        Stage::Relaxing,
        Stage::Draining,
        Stage::Quiescing,
        Stage::Applying,
        Stage::Verifying,
        Stage::Readying,
        Stage::Flipping,
        Stage::Settling,
        Stage::Unsettled,
        Stage::Undoing,
        Stage::Clearing,
        Stage::Halted,
    ];

    /// As it is told.
    pub fn phase(self) -> Phase {
        match self {
            Stage::Steady => Phase::Steady,
            Stage::Recording | Stage::Preparing => Phase::Preparing,
            Stage::Draining | Stage::Quiescing => Phase::Draining,
            Stage::Applying => Phase::Applying,
            Stage::Verifying => Phase::Verifying,
            Stage::Readying => Phase::Readying,
            Stage::Flipping | Stage::Halted => Phase::Flipping,
            Stage::Settling | Stage::Unsettled => Phase::Settling,
            Stage::Relaxing | Stage::Undoing | Stage::Clearing => Phase::Undoing,
        }
    }
}

/// What happened: answers of the stage's own work, and what comes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An operator asks for a switch.
    Requested {
        /// The side that shall answer clients.
        to: Side,
        /// Stop before the fence.
        dry_run: bool,
    },
    /// An operator calls it off, or the process is told to stop.
    CalledOff,
    /// Clients were held as long as allowed.
    TimedOut,
    /// The store holds what it was given, durably.
    Stored,
    /// The store does not hold it, and never will.
    NotStored,
    /// Another process changed the control state.
    Foreign,
    /// What stands in the way was looked for; something refuses or not.
    Prepared {
        /// Something refuses.
        refused: bool,
    },
    /// No unit is inside the gate.
    Drained,
    /// Nothing that was forwarded can act any more.
    Quiesced,
    /// Everything below this end of the journal is paid.
    Applied(Lsn),
    /// The newest rows were compared.
    Verified {
        /// Some of them differ.
        differ: bool,
    },
    /// The new primary can take writes.
    Readied,
    /// What was prepared for a dry run is closed.
    Relaxed,
    /// The old primary was told.
    Settled,
    /// It is time to tell it again.
    Rested,
    /// What was done for the walk is undone.
    Undone,
    /// The stage's work ended with an error, and may have been done or not.
    Failed,
}

/// What to do while waiting; its answer is the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: only a request changes anything.
    Nothing,
    /// Make the control state durable.
    Store(Control),
    /// [`super::steps::Steps::prepare`]
    Prepare(Side),
    /// [`super::steps::Steps::relax`]
    Relax,
    /// [`super::gate::Gate::drained`]
    Drain,
    /// [`super::steps::Steps::quiesce`]
    Quiesce(Side),
    /// [`super::steps::Steps::apply`]
    Apply,
    /// [`super::steps::Steps::verify`]
    Verify,
    /// [`super::steps::Steps::ready`]
    Ready(Side),
    /// [`super::steps::Steps::settle`]
    Settle(Side),
    /// Wait before the next attempt.
    Rest,
    /// [`super::steps::Steps::undo`]
    Undo(Side),
}

/// What to do at once, in order, before anything is waited for. None of it can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hold clients.
    Close,
    /// Let them go on.
    Open(Route),
    /// [`super::steps::Steps::flip`]
    Flip(Route, Lsn),
    /// The fate of clients is decided: tell how the walk ended. What is left to do is shown by the phase.
    Report(End),
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing to do.
    #[error("{0} already answers clients")]
    Already(Side),
    /// One at a time.
    #[error("a switch is under way (phase {}): wait for its end, or abort it", .0.as_str())]
    Running(Phase),
    /// The one before is not over.
    #[error(
        "the last switch is not over yet (phase {}), and is tried again until it is: the log says what stands in the way",
        .0.as_str()
    )]
    Unfinished(Phase),
    /// Nothing keeps the sides equal.
    #[error("nothing is mirrored (mirror.mode = \"off\"): the sides are not equal")]
    NotMirroring,
    /// A bound that nothing can meet.
    #[error("max_hold must be at least {0} ms")]
    HoldTooShort(u64),
    /// There is nothing to call off.
    #[error("no switch is under way")]
    NoSwitch,
    /// It is undone already.
    #[error("the switch is being undone already")]
    Undoing,
    /// The flip may be durable: there is no way back but another switch.
    #[error("too late: the switch has reached its flip; to go back, switch again")]
    TooLate,
    /// The process is ending.
    #[error("tandem is stopping")]
    Stopped,
    /// An event that cannot happen where the machine is: a mistake in this program.
    #[error("an event out of place")]
    OutOfPlace,
}

/// Where a switch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What is waited for.
    pub stage: Stage,
    /// The control state that is durable.
    pub control: Control,
    /// This walk stops before the fence.
    pub dry_run: bool,
    /// The end of the journal, once it is read.
    pub end: Lsn,
    /// Writes are mirrored. Fixed for the process.
    pub mirror: bool,
}

/// What an event made of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The machine from now on.
    pub machine: Machine,
    /// What to do at once.
    pub effects: Vec<Effect>,
}

impl Machine {
    /// In a process that begins over the control state that an earlier one left: what that did not finish comes first.
    pub fn recovered(control: Control, mirror: bool) -> Machine {
        let machine = Machine { stage: Stage::Steady, control, dry_run: false, end: Lsn(0), mirror };
        if control.walk.is_some() { machine.enter(Stage::Undoing).machine } else { machine.at_rest().machine }
    }

    /// The side that a walk leads to.
    pub fn to(&self) -> Side {
        self.control.primary.other()
    }

    /// A walk is under way, and has not reached its end.
    pub fn walks(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Steady
                | Stage::Settling
                | Stage::Unsettled
                | Stage::Undoing
                | Stage::Clearing
                | Stage::Relaxing
                | Stage::Halted
        )
    }

    /// What is waited for, as something to do.
    pub fn work(&self) -> Work {
        let Machine { control, end, .. } = *self;
        match self.stage {
            Stage::Steady | Stage::Halted => Work::Nothing,
            Stage::Recording => Work::Store(control.walking()),
            Stage::Preparing => Work::Prepare(self.to()),
            Stage::Relaxing => Work::Relax,
            Stage::Draining => Work::Drain,
            Stage::Quiescing => Work::Quiesce(control.primary),
            Stage::Applying => Work::Apply,
            Stage::Verifying => Work::Verify,
            Stage::Readying => Work::Ready(self.to()),
            Stage::Flipping => Work::Store(control.flipped(end.0)),
            Stage::Settling => Work::Settle(control.primary),
            Stage::Unsettled => Work::Rest,
            Stage::Undoing => Work::Undo(control.primary),
            Stage::Clearing => Work::Store(control.cleared()),
        }
    }

    /// What the event makes of it.
    pub fn next(&self, event: Event) -> Result<Turn, Refused> {
        match event {
            Event::Requested { to, dry_run } => self.requested(to, dry_run),
            Event::CalledOff => self.called_off(),
            Event::Foreign => Ok(self.enter(Stage::Halted).and(Effect::Close)),
            answer => self.answered(answer),
        }
    }

    fn requested(&self, to: Side, dry_run: bool) -> Result<Turn, Refused> {
        let phase = self.stage.phase();
        match self.stage {
            Stage::Steady | Stage::Unsettled if to == self.control.primary => Err(Refused::Already(to)),
            Stage::Steady | Stage::Unsettled if !self.mirror => Err(Refused::NotMirroring),
            Stage::Steady | Stage::Unsettled => {
                let machine = Machine { dry_run, end: Lsn(0), ..*self };
                Ok(machine.enter(if dry_run { Stage::Preparing } else { Stage::Recording }))
            }
            Stage::Settling | Stage::Relaxing | Stage::Undoing | Stage::Clearing => Err(Refused::Unfinished(phase)),
            Stage::Halted => Err(Refused::Stopped),
            _ => Err(Refused::Running(phase)),
        }
    }

    fn called_off(&self) -> Result<Turn, Refused> {
        match self.stage {
            Stage::Steady => Err(Refused::NoSwitch),
            Stage::Relaxing | Stage::Undoing | Stage::Clearing => Err(Refused::Undoing),
            Stage::Flipping | Stage::Settling | Stage::Unsettled | Stage::Halted => Err(Refused::TooLate),
            _ => Ok(self.back(End::Aborted)),
        }
    }

    /// Its own work answered, or time is over.
    fn answered(&self, event: Event) -> Result<Turn, Refused> {
        use Stage::*;
        Ok(match (self.stage, event) {
            (Recording, Event::Stored) => self.holding(self.control.walking()).enter(Preparing),
            (Recording, Event::NotStored) => self.at_rest().and(Effect::Report(End::Refused)),
            (Recording, Event::Failed) => self.back(End::Refused),
            (Preparing, Event::Prepared { refused: true } | Event::Failed) => self.back(End::Refused),
            (Preparing, Event::Prepared { refused: false }) if self.dry_run => self.back(End::Ready),
            (Preparing, Event::Prepared { refused: false }) => self.enter(Draining).and(Effect::Close),
            (Relaxing, Event::Relaxed | Event::Failed) => self.at_rest(),
            (Draining, Event::Drained) => self.enter(Quiescing),
            (Quiescing, Event::Quiesced) => self.enter(Applying),
            (Applying, Event::Applied(end)) => Machine { end, ..*self }.enter(Verifying),
            (Verifying, Event::Verified { differ: false }) => self.enter(Readying),
            (Verifying, Event::Verified { differ: true }) => self.back(End::Aborted),
            (Readying, Event::Readied) => self.enter(Flipping),
            (Draining | Quiescing | Applying | Verifying | Readying, Event::Failed | Event::TimedOut) => {
                self.back(End::Aborted)
            }
            (Flipping, Event::Stored) => self.flip(),
            (Flipping, Event::NotStored) => self.back(End::Aborted),
            (Flipping, Event::TimedOut) => self.enter(Halted),
            (Settling, Event::Settled) => self.enter(Steady),
            (Undoing, Event::Undone) => self.enter(Clearing),
            (Clearing, Event::Stored) => self.holding(self.control.cleared()).at_rest(),
            // Again, until it is done.
            (Settling, Event::Failed) => self.enter(Unsettled),
            (Unsettled, Event::Rested) => self.enter(Settling),
            (Undoing | Clearing, Event::Failed) | (Clearing, Event::NotStored) => self.enter(self.stage),
            _ => return Err(Refused::OutOfPlace),
        })
    }

    /// Before the flip, to where it began: clients first.
    fn back(&self, end: End) -> Turn {
        let turn = self.enter(if self.dry_run { Stage::Relaxing } else { Stage::Undoing });
        let held = self.stage.phase().holds();
        let turn = if held { turn.and(Effect::Open(self.control.route(self.mirror))) } else { turn };
        turn.and(Effect::Report(end))
    }

    fn flip(&self) -> Turn {
        let flipped = self.holding(self.control.flipped(self.end.0));
        let route = flipped.control.route(self.mirror);
        flipped
            .enter(Stage::Settling)
            .and(Effect::Flip(route, self.end))
            .and(Effect::Open(route))
            .and(Effect::Report(End::Switched))
    }

    /// No walk. Sides that were switched are settled at every start, and after a walk back that touched them again.
    fn at_rest(&self) -> Turn {
        self.enter(if self.control.epoch > 1 { Stage::Settling } else { Stage::Steady })
    }

    fn holding(&self, control: Control) -> Machine {
        Machine { control, ..*self }
    }

    fn enter(&self, stage: Stage) -> Turn {
        Turn { machine: Machine { stage, ..*self }, effects: Vec::new() }
    }
}

impl Turn {
    fn and(mut self, effect: Effect) -> Turn {
        self.effects.push(effect);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::cutover::store::Walk;

    const EVENTS: [Event; 22] = [
        Event::Requested { to: Side::Origin, dry_run: false },
        Event::Requested { to: Side::Target, dry_run: false },
        Event::Requested { to: Side::Origin, dry_run: true },
        Event::Requested { to: Side::Target, dry_run: true },
        Event::CalledOff,
        Event::TimedOut,
        Event::Stored,
        Event::NotStored,
        Event::Foreign,
        Event::Prepared { refused: false },
        Event::Prepared { refused: true },
        Event::Drained,
        Event::Quiesced,
        Event::Applied(Lsn(700)),
        Event::Verified { differ: false },
        Event::Verified { differ: true },
        Event::Readied,
        Event::Relaxed,
        Event::Settled,
        Event::Rested,
        Event::Undone,
        Event::Failed,
    ];

    fn word(value: impl std::fmt::Debug) -> String {
        format!("{value:?}").to_lowercase()
    }

    fn of_event(event: Event) -> String {
        match event {
            Event::CalledOff => "called off".to_owned(),
            Event::TimedOut => "timed out".to_owned(),
            Event::NotStored => "not stored".to_owned(),
            Event::Requested { to, dry_run } => format!("requested {to}{}", if dry_run { ", dry run" } else { "" }),
            Event::Prepared { refused } => if refused { "prepared: refused" } else { "prepared" }.to_owned(),
            Event::Verified { differ } => if differ { "verified: rows differ" } else { "verified" }.to_owned(),
            Event::Applied(Lsn(end)) => format!("applied to {end}"),
            other => word(other),
        }
    }

    fn of_control(control: Control) -> String {
        let Control { epoch, primary, since, walk } = control;
        let walk = walk.map_or(String::new(), |Walk { to }| format!(", walking to {to}"));
        format!("epoch {epoch} on {primary} since {since}{walk}")
    }

    fn of_effect(effect: &Effect) -> String {
        match effect {
            Effect::Close => "CLOSE".to_owned(),
            Effect::Open(route) => format!("OPEN on {} in epoch {}", route.primary, route.epoch),
            Effect::Flip(route, since) => format!("FLIP to {} from {}", route.primary, since.0),
            Effect::Report(end) => format!("report {}", end.as_str()),
        }
    }

    fn of_work(machine: &Machine) -> String {
        match machine.work() {
            Work::Store(control) => format!("store {}", of_control(control)),
            Work::Prepare(side) | Work::Quiesce(side) | Work::Ready(side) | Work::Settle(side) | Work::Undo(side) => {
                format!("{} {side}", word(machine.work()).split('(').next().expect("a first part"))
            }
            other => word(other),
        }
    }

    fn of_answer(machine: &Machine, event: Event) -> String {
        match machine.next(event) {
            Err(Refused::OutOfPlace) => "-".to_owned(),
            Err(refused) => format!("refused: {}", word(refused)),
            Ok(turn) => {
                let effects: String = turn.effects.iter().map(|effect| of_effect(effect) + "; ").collect();
                format!("{effects}-> {}: {}", word(turn.machine.stage), of_work(&turn.machine))
            }
        }
    }

    /// At the stage, as it comes there.
    fn at(stage: Stage, from: Machine) -> Machine {
        let walking =
            !matches!(stage, Stage::Steady | Stage::Recording | Stage::Settling | Stage::Unsettled) && !from.dry_run;
        let control = if walking { from.control.walking() } else { from.control };
        let end = if stage == Stage::Readying || stage == Stage::Flipping { Lsn(700) } else { Lsn(0) };
        Machine { stage, control, end, ..from }
    }

    /// Events with one answer share a line; those that cannot happen come last.
    fn tell(text: &mut String, title: &str, machine: Machine) {
        let mut answers: Vec<(String, Vec<String>)> = Vec::new();
        for event in EVENTS {
            let answer = of_answer(&machine, event);
            match answers.iter_mut().find(|(known, _)| *known == answer) {
                Some((_, events)) => events.push(of_event(event)),
                None => answers.push((answer, vec![of_event(event)])),
            }
        }
        answers.sort_by_key(|(answer, _)| (answer == "-", answer.starts_with("refused")));
        writeln!(text, "\n{} ({title})", word(machine.stage)).expect("a string");
        for (answer, events) in answers {
            writeln!(text, "    {}\n        {answer}", events.join(" | ")).expect("a string");
        }
    }

    /// Every stage where the migration begins; then those that depend on where it is.
    fn table() -> String {
        let base = Machine::recovered(Control::default(), true);
        let second = Control { epoch: 2, primary: Side::Target, since: 500, walk: None };
        let mut text = "\na process begins\n".to_owned();
        for control in [base.control, base.control.walking(), second, second.walking()] {
            let machine = Machine::recovered(control, true);
            let (stage, work) = (word(machine.stage), of_work(&machine));
            writeln!(text, "    over {}\n        -> {stage}: {work}", of_control(control)).expect("a string");
        }
        let second = Machine { stage: Stage::Steady, ..Machine::recovered(second, true) };
        for stage in Stage::ALL {
            tell(&mut text, stage.phase().as_str(), at(stage, base));
        }
        let dry_run = Machine { dry_run: true, ..base };
        for stage in [Stage::Preparing, Stage::Relaxing] {
            tell(&mut text, "dry run", at(stage, dry_run));
        }
        tell(&mut text, "nothing is mirrored", Machine { mirror: false, ..base });
        for stage in Stage::ALL.into_iter().filter(|stage| stage.phase() != Phase::Preparing && *stage != Stage::Halted)
        {
            tell(&mut text, "epoch 2", at(stage, second));
        }
        text
    }

    #[test]
    fn every_stage_answers_every_event_as_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cutover/phase.txt");
        let head = "What the machine of phase.rs makes of every event at every stage.\n\
                    A dash: it cannot happen there, and changes nothing.\n\
                    Rewritten by TANDEM_REWRITE=1 cargo test --lib cutover::phase; read what changed.\n";
        let table = format!("{head}{}", table());
        if std::env::var_os("TANDEM_REWRITE").is_some() {
            std::fs::write(&path, &table).expect("writable");
        }
        let kept = std::fs::read_to_string(&path).expect("checked in");
        let line = kept.lines().zip(table.lines()).find(|(kept, made)| kept != made);
        assert!(kept == table, "phase.txt says otherwise, first here: {line:?}");
    }

    /// A machine, and what its effects did so far.
    #[derive(Clone, PartialEq, Debug)]
    struct Run {
        machine: Machine,
        closed: bool,
        reported: bool,
    }

    /// Every run that some order of events leads to, with the event and the run before.
    fn runs() -> Vec<(Run, Event, Run)> {
        let start = Run { machine: Machine::recovered(Control::default(), true), closed: false, reported: true };
        let (mut steps, mut seen, mut todo) = (Vec::new(), vec![start.clone()], vec![start]);
        while let Some(run) = todo.pop() {
            for event in EVENTS {
                let Ok(turn) = run.machine.next(event) else { continue };
                let mut next = Run { machine: turn.machine, ..run.clone() };
                if matches!(event, Event::Requested { .. }) {
                    assert!(next.reported, "a walk begins before the last one was told of: {run:?}");
                    next.reported = false;
                }
                turn.effects.iter().for_each(|effect| next.feel(effect));
                steps.push((run.clone(), event, next.clone()));
                // Three epochs show both directions; more are the same.
                if next.machine.control.epoch < 4 && !seen.contains(&next) {
                    seen.push(next.clone());
                    todo.push(next);
                }
            }
        }
        steps
    }

    impl Run {
        fn feel(&mut self, effect: &Effect) {
            match effect {
                Effect::Close => self.closed = true,
                Effect::Open(route) => {
                    assert_eq!(*route, self.machine.control.route(true), "opened on what is durable");
                    self.closed = false;
                }
                Effect::Flip(route, _) => {
                    assert!(self.closed, "flipped while clients run: {self:?}");
                    assert_eq!(route.epoch, self.machine.control.epoch);
                }
                Effect::Report(_) => {
                    assert!(!self.reported, "told twice: {self:?}");
                    self.reported = true;
                }
            }
        }
    }

    #[test]
    fn in_every_order_of_events_the_gate_is_closed_exactly_while_clients_are_held() {
        let runs = runs();
        assert!(runs.len() > 200, "only {} steps", runs.len());
        for (before, event, after) in runs {
            let holds = after.machine.stage.phase().holds();
            let halted = after.machine.stage == Stage::Halted;
            assert!(after.closed == holds || halted, "{event:?} led from {before:?} to {after:?}");
        }
    }

    #[test]
    fn in_every_order_of_events_only_a_stored_flip_changes_the_primary_promise_9() {
        for (before, event, after) in runs() {
            let (was, is) = (before.machine.control, after.machine.control);
            if (was.primary, was.epoch) == (is.primary, is.epoch) {
                continue;
            }
            assert_eq!((before.machine.stage, event), (Stage::Flipping, Event::Stored));
            assert_eq!((is.primary, is.epoch), (was.primary.other(), was.epoch + 1));
            assert_eq!((is.since, is.walk), (before.machine.end.0, None));
        }
    }

    #[test]
    fn in_every_order_of_events_rest_comes_after_the_walk_was_told_of_and_cleared() {
        for (before, event, after) in runs() {
            if matches!(after.machine.stage, Stage::Steady | Stage::Settling | Stage::Unsettled) {
                let cleared = after.machine.control.walk.is_none();
                assert!(after.reported && cleared, "{event:?} led from {before:?} to {after:?}");
            }
        }
    }
}
