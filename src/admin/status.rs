//! The state of a running tandem in one document: `GET /v1/status`, `tandem status`, and the gauges of `/metrics`.

use serde::{Deserialize, Serialize};

use super::State;
use crate::metrics;

/// Everything at a glance. More fields may come; these stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// tandem's version.
    pub version: String,
    /// What clients speak.
    pub wire: String,
    /// `starting`, `ready` or `draining`.
    pub readiness: String,
    /// `passthrough` or `mirroring`.
    pub phase: String,
    /// The side that answers clients: `origin` or `target`.
    pub primary: String,
    /// Number of the control state.
    pub epoch: u64,
    /// Units inside the gate now.
    pub units_inside: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// `None`: mirroring is off.
    pub journal: Option<JournalStatus>,
}

/// The journal's positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Everything below is written.
    pub appended: u64,
    /// Nothing below is kept.
    pub trimmed: u64,
}

impl Status {
    /// As it is now.
    pub fn of(state: &State) -> Status {
        let route = state.gate.route();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: state.wire.to_string(),
            readiness: state.readiness.borrow().as_str().to_owned(),
            phase: if route.mirror { "mirroring" } else { "passthrough" }.to_owned(),
            primary: route.primary.to_string(),
            epoch: route.epoch,
            units_inside: state.gate.inside(),
            uptime_s: state.started.elapsed().as_secs(),
            journal: state
                .journal
                .as_ref()
                .map(|journal| JournalStatus { appended: journal.appended().0, trimmed: journal.trimmed().0 }),
        }
    }

    /// Set the gauges that are read from handles rather than counted where things happen.
    pub(super) fn record(&self) {
        metrics::UNITS_INSIDE.gauge(&[]).set(self.units_inside as f64);
        if let Some(journal) = &self.journal {
            metrics::JOURNAL_APPENDED_LSN.gauge(&[]).set(journal.appended as f64);
        }
    }
}
