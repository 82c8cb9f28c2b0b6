//! Every metric: its name with its unit, what it says, its buckets, once. Code on the hot path keeps the handle that
//! [`Metric::counter`] and its siblings return: a kept handle costs 5 ns, a look-up by name ten times that.
//!
//! Labels have few values: `wire`, `side`, and words of small sets. Dashboards in `grafana/` use these names; a test
//! holds that they exist.

use std::time::Duration;

use ::metrics::Label;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name, with its unit.
    pub name: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, by upper bounds in the metric's unit.
    Histogram(&'static [f64]),
}

/// Labels of one series.
pub type Labels<'a> = &'a [(&'static str, &'static str)];

impl Metric {
    /// A handle to keep.
    pub fn counter(&self, labels: Labels<'_>) -> ::metrics::Counter {
        debug_assert_eq!(self.kind, Kind::Counter);
        ::metrics::counter!(self.name, labels)
    }

    /// [`Metric::counter`] of a table: whoever asks bounds how many tables there are.
    pub fn counter_of(&self, table: &str, labels: Labels<'_>) -> ::metrics::Counter {
        debug_assert_eq!(self.kind, Kind::Counter);
        ::metrics::counter!(self.name, with_table(table, labels))
    }

    /// [`Metric::histogram`] of a table: whoever asks bounds how many tables there are.
    pub fn histogram_of(&self, table: &str, labels: Labels<'_>) -> ::metrics::Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)));
        ::metrics::histogram!(self.name, with_table(table, labels))
    }

    /// A handle to keep.
    pub fn gauge(&self, labels: Labels<'_>) -> ::metrics::Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge);
        ::metrics::gauge!(self.name, labels)
    }

    /// A handle to keep.
    pub fn histogram(&self, labels: Labels<'_>) -> ::metrics::Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)));
        ::metrics::histogram!(self.name, labels)
    }
}

fn with_table(table: &str, labels: Labels<'_>) -> Vec<Label> {
    let labels = labels.iter().map(|&(name, value)| Label::new(name, value));
    labels.chain([Label::new("table", table.to_owned())]).collect()
}

/// From 10 us, where a proxy's own work lies, to five minutes, as long as a payment may take that copies whole tables.
const SECONDS: &[f64] = &[
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0, 60.0, 300.0,
];
macro_rules! metrics {
    ($($(#[doc = $help:literal])* $name:ident = $text:literal, $kind:expr;)+) => {
        $($(#[doc = $help])* pub const $name: Metric = Metric { name: $text, kind: $kind, help: concat!($($help),*) };)+

        /// All of them.
        pub const CATALOG: &[Metric] = &[$($name),+];
    };
}

metrics! {
    /// Clients connected now. Label: wire.
    CLIENTS = "tandem_clients", Kind::Gauge;
    /// Clients that connected. Label: wire.
    CLIENTS_TOTAL = "tandem_clients_total", Kind::Counter;
    /// Sessions of a database that is not mirrored: they pass uncaptured. Label: wire.
    SESSIONS_UNCAPTURED_TOTAL = "tandem_sessions_uncaptured_total", Kind::Counter;
    /// Rows that the primary counted in tables to which nobody wrote through tandem. Label: wire.
    BYPASSED_ROWS_TOTAL = "tandem_bypassed_rows_total", Kind::Counter;
    /// Clients turned away. Labels: wire, reason.
    CLIENTS_REFUSED_TOTAL = "tandem_clients_refused_total", Kind::Counter;
    /// Units inside the gate now.
    UNITS_INSIDE = "tandem_units_inside", Kind::Gauge;
    /// Units that wait before the gate now.
    UNITS_HELD = "tandem_units_held", Kind::Gauge;
    /// Bytes forwarded. Labels: wire, direction (in, out).
    FORWARDED_BYTES_TOTAL = "tandem_forwarded_bytes_total", Kind::Counter;
    /// From bytes read to bytes passed on, one read in sixteen; waits for the journal are not in it. Labels: wire, direction
    /// (in, out).
    ADDED_LATENCY_SECONDS = "tandem_added_latency_seconds", Kind::Histogram(SECONDS);
    /// Bytes of the journal on disk, spare segments included.
    JOURNAL_BYTES = "tandem_journal_bytes", Kind::Gauge;
    /// Bytes that it may take.
    JOURNAL_LIMIT_BYTES = "tandem_journal_limit_bytes", Kind::Gauge;
    /// Units in it that the primary has not answered.
    JOURNAL_OPEN = "tandem_journal_open_units", Kind::Gauge;
    /// Whether it failed and takes nothing more: 1 or 0.
    JOURNAL_BROKEN = "tandem_journal_broken", Kind::Gauge;
    /// Whether its files have no room for a record of the largest size: 1 or 0.
    JOURNAL_FULL = "tandem_journal_full", Kind::Gauge;
    /// Records that wait for room in it.
    JOURNAL_WAITING = "tandem_journal_waiting", Kind::Gauge;
    /// Records that it did not take: their tables are dirty. Label: wire.
    JOURNAL_REFUSED_TOTAL = "tandem_journal_refused_total", Kind::Counter;
    /// Time of one sync of the journal.
    JOURNAL_SYNC_SECONDS = "tandem_journal_sync_seconds", Kind::Histogram(SECONDS);
    /// Age of the oldest unit that the secondary does not have.
    MIRROR_LAG_SECONDS = "tandem_mirror_lag_seconds", Kind::Gauge;
    /// Units that the secondary does not have.
    MIRROR_LAG_RECORDS = "tandem_mirror_lag_records", Kind::Gauge;
    /// Keys that wait for a payment.
    MIRROR_LAG_KEYS = "tandem_mirror_lag_keys", Kind::Gauge;
    /// Bytes of journal that the secondary does not have.
    MIRROR_LAG_BYTES = "tandem_mirror_lag_bytes", Kind::Gauge;
    /// Whether the last payment made the secondary equal to one snapshot: 1 or 0.
    MIRROR_EXACT = "tandem_mirror_exact", Kind::Gauge;
    /// Payments made.
    MIRROR_PAYMENTS_TOTAL = "tandem_mirror_payments_total", Kind::Counter;
    /// Payments that failed and are made again.
    MIRROR_FAILURES_TOTAL = "tandem_mirror_failures_total", Kind::Counter;
    /// Keys made equal.
    MIRROR_PAID_KEYS_TOTAL = "tandem_mirror_paid_keys_total", Kind::Counter;
    /// Rows written to the secondary.
    MIRROR_PAID_ROWS_TOTAL = "tandem_mirror_paid_rows_total", Kind::Counter;
    /// Bytes written to the secondary.
    MIRROR_PAID_BYTES_TOTAL = "tandem_mirror_paid_bytes_total", Kind::Counter;
    /// Records replayed.
    MIRROR_APPLIED_TOTAL = "tandem_mirror_applied_total", Kind::Counter;
    /// Records that are being replayed now.
    MIRROR_IN_FLIGHT = "tandem_mirror_in_flight", Kind::Gauge;
    /// Tables that wait: for somebody's lock, or because the secondary refuses a schema change or a TRUNCATE.
    MIRROR_HELD = "tandem_mirror_held", Kind::Gauge;
    /// Time of one payment, snapshot included.
    MIRROR_PAYMENT_SECONDS = "tandem_mirror_payment_seconds", Kind::Histogram(SECONDS);
    /// Keys and tables that the secondary refuses, set aside.
    MIRROR_PARKED = "tandem_mirror_parked", Kind::Gauge;
    /// Tables known to differ or not known to agree.
    MIRROR_DIRTY = "tandem_mirror_dirty", Kind::Gauge;
    /// Rows of history copied or compared. Label: pass (copy; forth: the primary's rows; back: the secondary's).
    HISTORY_ROWS_TOTAL = "tandem_history_rows_total", Kind::Counter;
    /// Bytes of history copied.
    HISTORY_BYTES_TOTAL = "tandem_history_bytes_total", Kind::Counter;
    /// Chunks of history that ended. Labels: pass, end (done, alike: equal as a whole, moved, dense, unreadable, waits,
    /// refused).
    HISTORY_CHUNKS_TOTAL = "tandem_history_chunks_total", Kind::Counter;
    /// Time of one chunk of history that was done. Label: pass.
    HISTORY_CHUNK_SECONDS = "tandem_history_chunk_seconds", Kind::Histogram(SECONDS);
    /// Rows that were found to differ, repaired since or not. Label: how (missing, extra, different).
    HISTORY_DIFFERENCES_TOTAL = "tandem_history_differences_total", Kind::Counter;
    /// Rows that the last walk of this kind found to differ and did not repair. Label: kind (backfill, verify, repair).
    HISTORY_DIFFERING = "tandem_history_differing", Kind::Gauge;
    /// Where the last walk of this kind is: 1 for its state, 0 for the others. Labels: kind, state.
    HISTORY_STATE = "tandem_history_state", Kind::Gauge;
    /// How much of its pass is done, 0 to 1. Label: kind.
    HISTORY_DONE_RATIO = "tandem_history_done_ratio", Kind::Gauge;
    /// What holds a walk up: 1 or 0. Label: reason (lag, rate, primary, secondary, lent).
    HISTORY_THROTTLED = "tandem_history_throttled", Kind::Gauge;
    /// Other processes that take part in walks over history (`tandem backfill worker`).
    HISTORY_WORKERS = "tandem_history_workers", Kind::Gauge;
    /// Chunks that were lent to them. Label: end (done, failed: given back, lost: the worker went silent).
    HISTORY_LENT_TOTAL = "tandem_history_lent_total", Kind::Counter;
    /// How long a switch held clients, from the gate's close to its opening.
    HOLD_SECONDS = "tandem_hold_seconds", Kind::Histogram(SECONDS);
    /// Switches that ended. Label: end (switched, ready, refused, aborted).
    SWITCHES_TOTAL = "tandem_switches_total", Kind::Counter;
    /// Where the switch is: 1 for the phase it is in, 0 for the others. Label: phase.
    SWITCH_PHASE = "tandem_switch_phase", Kind::Gauge;
    /// Flips so far, counted from 1.
    EPOCH = "tandem_epoch", Kind::Gauge;
    /// Whether a side answers what it is asked once a second: 1 or 0. Label: side.
    SIDE_UP = "tandem_side_up", Kind::Gauge;
    /// How long it took over that, a trivial statement. Label: side.
    SIDE_SECONDS = "tandem_side_seconds", Kind::Histogram(SECONDS);
    /// Which side answers clients: 1 or 0. Label: side.
    PRIMARY = "tandem_primary", Kind::Gauge;
    /// Writes that were answered with an error because the secondary did not have them in time. Label: side.
    UNSYNCED_TOTAL = "tandem_unsynced_total", Kind::Counter;
    /// Lightweight transactions that were mirrored by state because their ballot was not to be had. Label: reason.
    BALLOTS_UNREAD_TOTAL = "tandem_ballots_unread_total", Kind::Counter;
    /// Lightweight transactions that waited for clocks in vain: a node's is behind timestamps that were given to clients.
    CLOCKS_BEHIND_TOTAL = "tandem_clocks_behind_total", Kind::Counter;
    /// How far the clock of a node is from this machine's, the furthest of them. Label: side.
    CLOCKS_APART_SECONDS = "tandem_clocks_apart_seconds", Kind::Gauge;
    /// Reads that were repeated on the secondary and compared. Labels: wire, table (the first that it reads), verdict (match,
    /// in_flight: alike when both sides were asked again, noise: the primary differs with itself, mismatch).
    SHADOW_READS_TOTAL = "tandem_shadow_reads_total", Kind::Counter;
    /// Reads that were chosen and could not be compared. Labels: wire, table, reason.
    SHADOW_SKIPPED_TOTAL = "tandem_shadow_skipped_total", Kind::Counter;
    /// Time of compared reads on both sides. Labels: wire, table, side.
    SHADOW_READ_SECONDS = "tandem_shadow_read_seconds", Kind::Histogram(SECONDS);
    /// How long compared reads waited until the secondary had what they saw. Label: wire.
    SHADOW_WAIT_SECONDS = "tandem_shadow_wait_seconds", Kind::Histogram(SECONDS);
    /// Reads that wait to be compared, or are being compared.
    SHADOW_QUEUE = "tandem_shadow_queue", Kind::Gauge;
    /// Bytes of their answers.
    SHADOW_QUEUE_BYTES = "tandem_shadow_queue_bytes", Kind::Gauge;
    /// The share of reads that is chosen, 0 to 1.
    SHADOW_SAMPLE_RATIO = "tandem_shadow_sample_ratio", Kind::Gauge;
    /// Differences that lasted and were not seen to be gone.
    SHADOW_MISMATCHES = "tandem_shadow_mismatches", Kind::Gauge;
    /// Those of them at which nobody looks whether they are gone.
    SHADOW_UNFOLLOWED = "tandem_shadow_unfollowed", Kind::Gauge;
    /// Differences that were forgotten because there were too many.
    SHADOW_FORGOTTEN_TOTAL = "tandem_shadow_forgotten_total", Kind::Counter;
    /// Requests of the admin API. Label: code.
    ADMIN_REQUESTS_TOTAL = "tandem_admin_requests_total", Kind::Counter;
}

/// Renders what was recorded.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

/// Unread samples of histograms pile up in memory; this often they are folded into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Record from now on, in the whole process. Handles made before record nothing, so: before anything else.
pub fn install() -> anyhow::Result<Exporter> {
    let mut builder = PrometheusBuilder::new();
    for metric in CATALOG {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let recorder = builder.build_recorder();
    let exporter = Exporter(recorder.handle());
    ::metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("metrics are already set up"))?;
    describe();
    Ok(exporter)
}

fn describe() {
    for metric in CATALOG {
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.help.trim()),
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, metric.help.trim()),
            Kind::Histogram(_) => ::metrics::describe_histogram!(metric.name, metric.help.trim()),
        }
    }
}

impl Exporter {
    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Keep memory bounded until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(UPKEEP);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.0.run_upkeep();
        }
    }
}

/// What the series of one metric say together, those that have this label or all of them, in what was rendered. For a
/// look a second: a page of ours shows rates, and the counters are kept nowhere else.
pub fn sum(rendered: &str, metric: &Metric, label: Option<(&str, &str)>) -> f64 {
    let label = label.map(|(name, value)| format!("{name}=\"{value}\"")).unwrap_or_default();
    let series = rendered.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric.name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let ours = labels.is_empty() || labels.starts_with('{');
        (ours && labels.contains(&label)).then(|| value.parse::<f64>().ok())?
    });
    // An empty sum of floats is -0.
    series.fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn series_of_one_metric_are_added_and_no_others() {
        let rendered = "# TYPE tandem_clients gauge\ntandem_clients{wire=\"a\"} 2\ntandem_clients{wire=\"b\"} 3\n\
                        tandem_clients_total{wire=\"a\"} 70\ntandem_epoch 1\n";
        assert_eq!(sum(rendered, &CLIENTS, None), 5.0);
        assert_eq!(sum(rendered, &CLIENTS, Some(("wire", "b"))), 3.0);
        assert_eq!(sum(rendered, &CLIENTS_TOTAL, None), 70.0);
        assert_eq!(sum(rendered, &EPOCH, None), 1.0);
        assert_eq!(sum(rendered, &UNITS_HELD, None), 0.0);
    }

    #[test]
    fn names_are_unique_and_carry_a_unit_and_our_prefix() {
        let names: HashSet<&str> = CATALOG.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOG.len());
        for metric in CATALOG {
            assert!(metric.name.starts_with("tandem_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(!metric.help.is_empty(), "{}", metric.name);
        }
    }
}
