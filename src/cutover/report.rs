//! What is asked of a switch and what is told about it: `POST` and `GET /v1/switch`, `tandem switch`.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::record::Side;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The side that shall answer clients.
    pub to: Side,
    /// Stop before the fence: look, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Hold clients no longer than this, in milliseconds; unset, as configured.
    #[serde(default)]
    pub max_hold_ms: Option<u64>,
    /// Findings that are no reason to refuse, by name.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// The old primary is gone for good: switch without it, and lose the last values of at most so many keys.
    #[serde(default)]
    pub force: Option<u64>,
}

/// Where a switch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No switch is under way.
    #[default]
    Steady,
    /// Looking for what stands in the way; clients go on.
    Preparing,
    /// The gate is closed; units inside end.
    Draining,
    /// The mirror pays what is owed.
    Applying,
    /// The newest rows are compared.
    Verifying,
    /// The new primary is made ready for writes.
    Readying,
    /// The new control state is being made durable: there is no way back but another switch.
    Flipping,
    /// Clients run on the new primary; the old one is being told.
    Settling,
    /// The switch is being undone; clients run as before.
    Undoing,
}

impl Phase {
    /// The word in metrics, logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Preparing => "preparing",
            Phase::Draining => "draining",
            Phase::Applying => "applying",
            Phase::Verifying => "verifying",
            Phase::Readying => "readying",
            Phase::Flipping => "flipping",
            Phase::Settling => "settling",
            Phase::Undoing => "undoing",
        }
    }

    /// Are clients held?
    pub fn holds(self) -> bool {
        matches!(self, Phase::Draining | Phase::Applying | Phase::Verifying | Phase::Readying | Phase::Flipping)
    }
}

/// Something that stands in the way, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable: scripts ignore findings by it.
    pub name: String,
    /// `note`, `warning` or `error`; an error refuses the switch.
    pub severity: String,
    /// Where; unset is this machine.
    pub side: Option<Side>,
    /// The session, table, unit, ..
    pub object: String,
    /// What it means, and what to do.
    pub advice: String,
}

impl From<&check::Finding> for Finding {
    fn from(finding: &check::Finding) -> Finding {
        Finding {
            name: finding.rule.name.to_owned(),
            severity: finding.rule.severity.as_str().to_owned(),
            side: finding.side,
            object: finding.object.clone(),
            advice: finding.rule.advice.to_owned(),
        }
    }
}

/// How a switch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The other side answers clients.
    Switched,
    /// A dry run found nothing that refuses.
    Ready,
    /// Something stands in the way: clients were never held.
    Refused,
    /// It was called off, or ended after the fence and before the flip: clients go on as before.
    Aborted,
}

impl End {
    /// The word in metrics, logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Switched => "switched",
            End::Ready => "ready",
            End::Refused => "refused",
            End::Aborted => "aborted",
        }
    }
}

/// A switch that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Counts the walks of this process, from 1.
    pub number: u64,
    /// What was asked.
    pub request: Request,
    /// How it ended.
    pub end: End,
    /// Why, where it did not switch.
    pub why: Option<String>,
    /// In which phase that was.
    pub phase: Phase,
    /// How long clients were held, in microseconds.
    pub held_us: u64,
    /// How long each phase took, in microseconds, in order.
    pub took_us: Vec<(Phase, u64)>,
    /// Keys whose rows were compared before the flip.
    pub compared: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Units that would not end, where that is why.
    pub hindrances: Vec<String>,
}

/// The switch at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where a walk is.
    pub phase: Phase,
    /// The side that answers clients.
    pub primary: Side,
    /// Counts the flips, from 1.
    pub epoch: u64,
    /// Walks begun by this process: the running one has this number.
    pub number: u64,
    /// Where the running walk leads.
    pub to: Option<Side>,
    /// The walk that ended last in this process.
    pub last: Option<Ended>,
}
