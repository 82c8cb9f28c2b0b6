//! The state of a running tandem in one document: `GET /v1/status`, `tandem status`, and the gauges of `/metrics`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::State;
use crate::backfill::{self as walk, Kind};
use crate::cutover::gate::Route;
use crate::cutover::report::{End, Phase, Report};
use crate::journal::Journal;
use crate::metrics;
use crate::mirror::Handle;
use crate::net::pulse::{Beat, Pulses};
use crate::record::Side;
use crate::shadow::Summary;

/// Everything at a glance. More fields may come; these stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// tandem's version.
    pub version: String,
    /// What clients speak.
    pub wire: String,
    /// `starting`, `ready` or `draining`.
    pub readiness: String,
    /// `passthrough`; `mirroring` from origin to target; `switching`; `switched`: mirroring from target to origin.
    pub phase: String,
    /// The side that answers clients: `origin` or `target`.
    pub primary: String,
    /// Number of the control state.
    pub epoch: u64,
    /// Units inside the gate now.
    pub units_inside: u64,
    /// Units that wait before the gate now.
    pub units_held: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Whether both sides answer.
    #[serde(default)]
    pub sides: Sides,
    /// `None`: mirroring is off.
    pub switch: Option<SwitchStatus>,
    /// `None`: mirroring is off.
    pub journal: Option<JournalStatus>,
    /// `None`: mirroring is off.
    pub mirror: Option<MirrorStatus>,
    /// Reads repeated on the secondary; `None`: mirroring is off.
    pub shadow: Option<Summary>,
    /// The last walk of each kind over history; what was never asked for is not there.
    #[serde(default)]
    pub history: Vec<WalkStatus>,
}

/// Both sides, asked something trivial once a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sides {
    /// The one that the migration began with.
    pub origin: SideStatus,
    /// The one that it leads to.
    pub target: SideStatus,
}

/// Whether a side answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideStatus {
    /// `None`: it was not asked yet.
    pub answers: Option<bool>,
    /// How long it took over a trivial statement, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Why it does not answer.
    pub error: Option<String>,
}

impl Sides {
    fn of(pulses: &Pulses) -> Sides {
        let side = |side| pulses.of(side).map_or_else(SideStatus::default, SideStatus::of);
        Sides { origin: side(Side::Origin), target: side(Side::Target) }
    }
}

impl SideStatus {
    fn of(beat: Beat) -> SideStatus {
        match beat {
            Beat::Answered(took) => SideStatus {
                answers: Some(true),
                latency_ms: Some((took.as_secs_f64() * 1e6).round() / 1e3),
                error: None,
            },
            Beat::Silent(why) => SideStatus { answers: Some(false), latency_ms: None, error: Some(why) },
        }
    }
}

/// A walk over history at a glance; `GET /v1/backfill` and its siblings say more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalkStatus {
    /// `backfill`, `verify` or `repair`.
    pub kind: Kind,
    /// Where it is.
    pub state: walk::State,
    /// Of its pass, what is done: 0 to 1.
    pub done: f64,
    /// Seconds until this pass is over, if it goes on as it did.
    pub eta_seconds: Option<f64>,
    /// Rows copied.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Rows that were found to differ and not repaired.
    pub differing: u64,
    /// Tables that it is about.
    pub tables: usize,
    /// Those of them that were left out.
    pub left_out: usize,
    /// Why it does not go faster, or ended as it did.
    pub why: Option<String>,
}

impl WalkStatus {
    fn of(kind: Kind, report: walk::Report) -> WalkStatus {
        WalkStatus {
            kind,
            state: report.state,
            done: report.done,
            eta_seconds: report.eta_seconds,
            rows: report.rows,
            bytes: report.bytes,
            differing: report.counts.differing(),
            tables: report.tables.len(),
            left_out: report.tables.iter().filter(|table| table.refused.is_some()).count(),
            why: report.why,
        }
    }
}

/// Where a switch is; `GET /v1/switch` says more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// `steady`: none is under way.
    pub phase: Phase,
    /// The side that it leads to.
    pub to: Option<Side>,
    /// How the last one of this process ended: `switched`, `ready`, `refused` or `aborted`.
    pub last: Option<End>,
    /// How long it held clients, in milliseconds.
    pub last_held_ms: Option<f64>,
}

impl SwitchStatus {
    fn of(report: &Report) -> SwitchStatus {
        let last = report.last.as_ref();
        SwitchStatus {
            phase: report.phase,
            to: report.to,
            last: last.map(|ended| ended.end),
            last_held_ms: last.map(|ended| ended.held_us as f64 / 1_000.0),
        }
    }
}

/// The journal's positions and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Everything below is written.
    pub appended: u64,
    /// Everything below is durable as configured.
    pub durable: u64,
    /// Nothing below is kept.
    pub trimmed: u64,
    /// Bytes on disk, spare segments included.
    pub bytes: u64,
    /// The configured limit of them.
    pub limit_bytes: u64,
    /// Units that the primary has not answered.
    pub open: u64,
    /// Its files have no room for a record of the largest size.
    #[serde(default)]
    pub full: bool,
    /// Records that wait for room.
    #[serde(default)]
    pub waiting: u64,
    /// Why nothing is accepted any more.
    pub broken: Option<String>,
}

impl JournalStatus {
    fn of(journal: &Journal) -> JournalStatus {
        let status = journal.status();
        JournalStatus {
            appended: status.appended.0,
            durable: status.durable.0,
            trimmed: status.trimmed.0,
            bytes: status.bytes,
            limit_bytes: status.limit_bytes,
            open: status.open,
            full: status.full,
            waiting: status.waiting,
            broken: status.broken.map(|why| why.to_string()),
        }
    }
}

/// What the mirror does, and how far the secondary is behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// `connecting`, `idle`, `paying` or `applying`, `catching up`, `paused`, `fenced`, `away`, `failed` or `stopped`.
    pub phase: String,
    /// The last error, until it goes well again.
    pub error: Option<String>,
    /// Everything below is on the secondary.
    pub applied: u64,
    /// The last payment made the secondary equal to the primary at one moment, parked keys and dirty tables apart.
    pub exact: bool,
    /// Units that the secondary does not have.
    pub lag_records: u64,
    /// Keys that wait for a payment.
    pub lag_keys: u64,
    /// Bytes of journal that the secondary does not have.
    pub lag_bytes: u64,
    /// Age of the oldest unit that the secondary does not have.
    pub lag_seconds: f64,
    /// Payments that the secondary holds.
    pub payments: u64,
    /// Keys made equal by this process.
    pub paid_keys: u64,
    /// Rows written by this process.
    pub paid_rows: u64,
    /// Bytes written by this process.
    pub paid_bytes: u64,
    /// Keys and tables that the secondary refuses.
    pub parked: usize,
    /// Tables known to differ or not known to agree.
    pub dirty: usize,
    /// Records that are being replayed now.
    pub in_flight: usize,
    /// Tables that wait: for a lock, or because the secondary refuses a schema change or a TRUNCATE; and why.
    pub held: BTreeMap<String, String>,
}

impl MirrorStatus {
    fn of(handle: &Handle) -> MirrorStatus {
        let (status, lag) = (handle.status(), handle.lag());
        MirrorStatus {
            phase: status.phase.as_str().to_owned(),
            error: status.error,
            applied: status.paid.0,
            exact: status.exact,
            lag_records: lag.records,
            lag_keys: lag.keys,
            lag_bytes: lag.bytes,
            lag_seconds: (lag.seconds * 1_000.0).round() / 1_000.0,
            payments: status.payments,
            paid_keys: status.paid_keys,
            paid_rows: status.paid_rows,
            paid_bytes: status.paid_bytes,
            parked: handle.parked().len(),
            dirty: handle.dirty().len(),
            in_flight: status.in_flight,
            held: status.held.into_iter().map(|held| (held.table, held.why)).collect(),
        }
    }

    /// Not by the engine, which may hang.
    fn record(&self) {
        metrics::MIRROR_LAG_RECORDS.gauge(&[]).set(self.lag_records as f64);
        metrics::MIRROR_LAG_KEYS.gauge(&[]).set(self.lag_keys as f64);
        metrics::MIRROR_LAG_BYTES.gauge(&[]).set(self.lag_bytes as f64);
        metrics::MIRROR_LAG_SECONDS.gauge(&[]).set(self.lag_seconds);
        metrics::MIRROR_EXACT.gauge(&[]).set(f64::from(u8::from(self.exact)));
        metrics::MIRROR_IN_FLIGHT.gauge(&[]).set(self.in_flight as f64);
        metrics::MIRROR_HELD.gauge(&[]).set(self.held.len() as f64);
        metrics::MIRROR_PARKED.gauge(&[]).set(self.parked as f64);
        metrics::MIRROR_DIRTY.gauge(&[]).set(self.dirty as f64);
    }
}

fn of_history(mirror: &Handle) -> Vec<WalkStatus> {
    let last = |kind| mirror.desk().report(kind).map(|report| WalkStatus::of(kind, report));
    Kind::ALL.into_iter().filter_map(last).collect()
}

fn phase(route: Route, walks: bool) -> &'static str {
    match (walks, route.mirror, route.primary) {
        (true, ..) => "switching",
        (_, false, _) => "passthrough",
        (_, _, Side::Origin) => "mirroring",
        (_, _, Side::Target) => "switched",
    }
}

impl Status {
    /// As it is now.
    pub fn of(state: &State) -> Status {
        let route = state.gate.route();
        let switch = state.switch.as_ref().map(|switch| SwitchStatus::of(&switch.report()));
        let walks = switch.as_ref().is_some_and(|switch| switch.to.is_some());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: state.wire.to_string(),
            readiness: state.readiness.borrow().as_str().to_owned(),
            phase: phase(route, walks).to_owned(),
            primary: route.primary.to_string(),
            epoch: route.epoch,
            units_inside: state.gate.inside(),
            units_held: state.gate.held(),
            uptime_s: state.started.elapsed().as_secs(),
            sides: state.pulses.as_ref().map(Sides::of).unwrap_or_default(),
            switch,
            journal: state.journal.as_ref().map(JournalStatus::of),
            mirror: state.mirror.as_ref().map(MirrorStatus::of),
            history: state.mirror.as_ref().map(of_history).unwrap_or_default(),
            shadow: state.shadow.as_ref().map(Summary::of),
        }
    }

    /// Set the gauges that are read from handles rather than counted where things happen.
    pub(super) fn record(&self) {
        metrics::UNITS_INSIDE.gauge(&[]).set(self.units_inside as f64);
        metrics::UNITS_HELD.gauge(&[]).set(self.units_held as f64);
        if let Some(journal) = &self.journal {
            metrics::JOURNAL_BYTES.gauge(&[]).set(journal.bytes as f64);
            metrics::JOURNAL_LIMIT_BYTES.gauge(&[]).set(journal.limit_bytes as f64);
            metrics::JOURNAL_OPEN.gauge(&[]).set(journal.open as f64);
            metrics::JOURNAL_FULL.gauge(&[]).set(f64::from(u8::from(journal.full)));
            metrics::JOURNAL_WAITING.gauge(&[]).set(journal.waiting as f64);
            metrics::JOURNAL_BROKEN.gauge(&[]).set(f64::from(u8::from(journal.broken.is_some())));
        }
        self.mirror.iter().for_each(MirrorStatus::record);
    }
}
