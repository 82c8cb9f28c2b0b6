//! The HTTP API: health, metrics, status, and what operators do. JSON, bearer token, loopback by default.
//!
//! [`serve`] runs it; [`client`] is how the CLI talks to it; `docs/openapi.json` describes it, and a test holds the two
//! together. [`dashboard`] is a page for browsers over the same API. It never shows row values (promise 13): parked keys appear as hashes unless their values are asked for.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::config::{Live, Secret, Wire};
use crate::cutover::controller;
use crate::cutover::gate::Gate;
use crate::journal::Journal;
use crate::metrics::Exporter;
use crate::mirror::Handle;
use crate::net::pulse::Pulses;
use crate::record::TableId;
use crate::shadow::Board;
use crate::telemetry::Level;

pub mod client;
mod dashboard;
mod guard;
mod history;
mod ledgers;
mod routes;
mod samples;
mod server;
mod shadow;
pub mod status;
mod switch;
mod work;
mod write_timeout;

pub use routes::ROUTES;
pub use samples::{Sample, Samples};
pub use server::serve;

/// Whether clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Listeners are not open yet.
    Starting,
    /// Clients are served.
    Ready,
    /// No new clients; those inside finish.
    Draining,
}

impl Readiness {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Readiness::Starting => "starting",
            Readiness::Ready => "ready",
            Readiness::Draining => "draining",
        }
    }
}

/// The qualified name of a table's label.
pub type Names = Arc<dyn Fn(TableId) -> Option<String> + Send + Sync>;

/// What the API shows and changes: handles of everything else.
#[derive(Clone)]
pub struct State {
    /// What clients speak.
    pub wire: Wire,
    /// Where units pass.
    pub gate: Gate,
    /// `None`: mirroring is off.
    pub journal: Option<Journal>,
    /// What pays; `None`: mirroring is off.
    pub mirror: Option<Handle>,
    /// What switches; `None`: mirroring is off.
    pub switch: Option<controller::Handle>,
    /// Whether both sides answer; `None`: nobody asks them.
    pub pulses: Option<Pulses>,
    /// Reads repeated on the secondary; `None`: mirroring is off.
    pub shadow: Option<Board>,
    /// What people call a table, where somebody knows its schema.
    pub names: Names,
    /// Settings that can be changed.
    pub live: Live,
    /// The level of logs; `None`: somebody else set them up.
    pub level: Option<Level>,
    /// Metrics.
    pub exporter: Exporter,
    /// Whether clients are served.
    pub readiness: watch::Receiver<Readiness>,
    /// What requests must present.
    pub token: Option<Secret>,
    /// When the process began.
    pub started: Instant,
    /// What the last minutes were like.
    pub samples: Samples,
    /// Who reads events.
    pub subscribers: Subscribers,
}

/// Room for readers of events: half of the connections, so that pages which are left open keep no operator out.
#[derive(Clone)]
pub struct Subscribers(Arc<Semaphore>);

impl Default for Subscribers {
    fn default() -> Subscribers {
        Subscribers(Arc::new(Semaphore::new(server::CONNECTIONS_MAX / 2)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
