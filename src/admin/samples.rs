//! What the last ten minutes were like: one look a second, kept in memory, for the plots of the dashboard. Whoever opens it
//! in the middle of an incident sees how it began.
//!
//! Rates are differences of the counters that Prometheus reads too. One task looks, for all who watch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::State;
use crate::metrics::{self, Metric};
use crate::net::pulse::Beat;
use crate::record::Side;
use crate::shadow::{Recent, Sides};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// How many are kept: ten minutes, about 100 KB.
const KEPT: usize = 600;

/// One look. Rates are of the second before it; what is not known is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Counted from the start of the process: clocks may be set back.
    pub number: u64,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Clients connected.
    pub clients: f64,
    /// Units that waited before the gate.
    pub held: u64,
    /// Bytes a second from clients.
    pub in_rate: Option<f64>,
    /// Bytes a second to clients.
    pub out_rate: Option<f64>,
    /// Rows a second written to the secondary; by replay, records.
    pub mirrored_rate: Option<f64>,
    /// Age of the oldest unit that the secondary does not have, in seconds.
    pub lag_s: Option<f64>,
    /// How long the origin took over a trivial statement, in milliseconds. `None` too while it does not answer.
    pub origin_ms: Option<f64>,
    /// The same of the target.
    pub target_ms: Option<f64>,
    /// How long the same reads of clients took on both sides, of the last ten seconds. `None`: none was compared.
    pub reads: Option<Sides>,
}

/// The last ones. Clones are the same.
#[derive(Clone)]
pub struct Samples {
    kept: Arc<Mutex<VecDeque<Sample>>>,
    newest: Arc<watch::Sender<Option<Sample>>>,
}

impl Default for Samples {
    fn default() -> Samples {
        Samples { kept: Arc::default(), newest: Arc::new(watch::Sender::new(None)) }
    }
}

impl Samples {
    /// All that are kept, the oldest first.
    pub fn all(&self) -> Vec<Sample> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The newest one, and each that comes.
    pub fn watch(&self) -> watch::Receiver<Option<Sample>> {
        self.newest.subscribe()
    }

    fn keep(&self, mut sample: Sample) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        sample.number = kept.back().map_or(0, |last| last.number) + 1;
        kept.push_back(sample.clone());
        if kept.len() > KEPT {
            kept.pop_front();
        }
        drop(kept);
        self.newest.send_replace(Some(sample));
    }

    /// Look once a second until `stop`.
    pub(super) async fn run(&self, state: &State, stop: &CancellationToken) {
        let mut ticks = interval(EVERY);
        let (mut last, mut recent) = (None, Recent::default());
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let (sample, counted) = look(state, last, &mut recent);
            self.keep(sample);
            last = Some(counted);
        }
    }
}

/// Counters, and when they were read.
#[derive(Clone, Copy)]
struct Counted {
    at: Instant,
    bytes_in: f64,
    bytes_out: f64,
    mirrored: f64,
}

impl Counted {
    fn read(rendered: &str) -> Counted {
        let sum = |metric: &Metric, label| metrics::sum(rendered, metric, label);
        Counted {
            at: Instant::now(),
            bytes_in: sum(&metrics::FORWARDED_BYTES_TOTAL, Some(("direction", "in"))),
            bytes_out: sum(&metrics::FORWARDED_BYTES_TOTAL, Some(("direction", "out"))),
            mirrored: sum(&metrics::MIRROR_PAID_ROWS_TOTAL, None) + sum(&metrics::MIRROR_APPLIED_TOTAL, None),
        }
    }

    /// Of a counter, since another look.
    fn rate(&self, before: &Counted, of: impl Fn(&Counted) -> f64) -> f64 {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(1e-3);
        ((of(self) - of(before)) / seconds).max(0.0)
    }
}

fn look(state: &State, last: Option<Counted>, recent: &mut Recent) -> (Sample, Counted) {
    let rendered = state.exporter.render();
    let counted = Counted::read(&rendered);
    let rate = |of: fn(&Counted) -> f64| last.map(|last| counted.rate(&last, of));
    let sample = Sample {
        number: 0,
        at_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        clients: metrics::sum(&rendered, &metrics::CLIENTS, None),
        held: state.gate.held(),
        in_rate: rate(|counted| counted.bytes_in),
        out_rate: rate(|counted| counted.bytes_out),
        mirrored_rate: rate(|counted| counted.mirrored),
        lag_s: state.mirror.as_ref().map(|mirror| mirror.lag().seconds),
        origin_ms: latency_ms(state, Side::Origin),
        target_ms: latency_ms(state, Side::Target),
        reads: state.shadow.as_ref().and_then(|board| recent.look(board)),
    };
    (sample, counted)
}

fn latency_ms(state: &State, side: Side) -> Option<f64> {
    match state.pulses.as_ref()?.of(side)? {
        Beat::Answered(took) => Some(took.as_secs_f64() * 1e3),
        Beat::Silent(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64) -> Sample {
        let (clients, held, none) = (0.0, 0, None);
        Sample {
            number: 0,
            at_ms,
            clients,
            held,
            in_rate: none,
            out_rate: none,
            mirrored_rate: none,
            lag_s: none,
            origin_ms: none,
            target_ms: none,
            reads: None,
        }
    }

    #[test]
    fn ten_minutes_are_kept_and_no_more() {
        let samples = Samples::default();
        (0..KEPT as u64 + 7).for_each(|at| samples.keep(sample(at)));
        let all = samples.all();
        assert_eq!((all.len(), all[0].at_ms), (KEPT, 7));
        assert_eq!(samples.watch().borrow().as_ref().map(|newest| newest.at_ms), Some(KEPT as u64 + 6));
    }

    #[test]
    fn each_has_the_next_number_whatever_the_clock_says() {
        let samples = Samples::default();
        [1_000, 2_000, 500].into_iter().for_each(|at_ms| samples.keep(sample(at_ms)));
        let all: Vec<_> = samples.all().iter().map(|one| (one.number, one.at_ms)).collect();
        assert_eq!(all, [(1, 1_000), (2, 2_000), (3, 500)]);
    }

    #[test]
    fn a_rate_is_what_came_since_and_never_negative() {
        let before = Counted { at: Instant::now(), bytes_in: 100.0, bytes_out: 9.0, mirrored: 0.0 };
        let now = Counted { at: before.at + Duration::from_secs(2), bytes_in: 300.0, bytes_out: 0.0, mirrored: 0.0 };
        assert_eq!(now.rate(&before, |counted| counted.bytes_in), 100.0);
        assert_eq!(now.rate(&before, |counted| counted.bytes_out), 0.0);
    }
}
