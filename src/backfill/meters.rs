//! What dashboards see of walks over history. Chunks are counted where they end; where a walk is, and what holds it up,
//! is looked at when somebody asks.

use crate::metrics;

use super::desk::{Desk, Throttle};
use super::job::State;
use super::request::Kind;
use super::work::{Chunk, Landed, Outcome};

/// A chunk ended.
pub(super) fn ended(chunk: &Chunk, outcome: &Outcome) {
    let pass = ("pass", chunk.pass.as_str());
    let how = match outcome {
        Outcome::Done(landed) => {
            metrics::HISTORY_ROWS_TOTAL.counter(&[pass]).increment(landed.rows);
            metrics::HISTORY_BYTES_TOTAL.counter(&[]).increment(landed.bytes);
            metrics::HISTORY_CHUNK_SECONDS.histogram(&[pass]).record(landed.took.as_secs_f64());
            if landed.alike { "alike" } else { "done" }
        }
        Outcome::Moved => "moved",
        Outcome::Dense => "dense",
        Outcome::Unreadable(_) => "unreadable",
        Outcome::Waits(_) => "waits",
        Outcome::Refused(..) => "refused",
    };
    metrics::HISTORY_CHUNKS_TOTAL.counter(&[pass, ("end", how)]).increment(1);
}

/// Rows were found to differ that nobody knew of.
pub(super) fn differ(landed: &Landed) {
    for one in &landed.differing {
        metrics::HISTORY_DIFFERENCES_TOTAL.counter(&[("how", one.how.as_str())]).increment(1);
    }
}

impl Desk {
    /// Set the gauges that show where walks are.
    pub fn record(&self) {
        metrics::HISTORY_WORKERS.gauge(&[]).set(self.crew().present() as f64);
        let throttle = self.throttle();
        for one in Throttle::ALL {
            let now = f64::from(u8::from(throttle == Some(one)));
            metrics::HISTORY_THROTTLED.gauge(&[("reason", one.as_str())]).set(now);
        }
        for kind in Kind::ALL {
            // What was never asked for has no series.
            let Some(report) = self.report(kind) else { continue };
            let kind = ("kind", kind.as_str());
            metrics::HISTORY_DONE_RATIO.gauge(&[kind]).set(report.done);
            metrics::HISTORY_DIFFERING.gauge(&[kind]).set(report.counts.differing() as f64);
            for state in State::ALL {
                let now = f64::from(u8::from(report.state == state));
                metrics::HISTORY_STATE.gauge(&[kind, ("state", state.as_str())]).set(now);
            }
        }
    }
}
