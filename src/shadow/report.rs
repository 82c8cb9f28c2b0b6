//! Shadow reads as people and scripts see them: `GET /v1/shadow`, `GET /v1/mismatches`, and a part of the status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Board, Entry, Histogram, Shape};
use crate::cutover::report::Finding;

/// Whether reads speak for a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is sampled, and nothing was.
    Off,
    /// Sampled, and nothing was compared yet.
    Unproven,
    /// What was compared is alike.
    Go,
    /// A difference lasts.
    NoGo,
}

/// Shadow reads at a glance. Since the start of the process, or since the last switch. More fields may come; these stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether reads speak for a switch.
    pub verdict: Verdict,
    /// The share of reads that is sampled, 0 to 1.
    pub sample: f64,
    /// Reads in the queue or being compared.
    pub queued: usize,
    /// Bytes of their answers.
    pub queued_bytes: usize,
    /// Differences that last.
    pub mismatches: usize,
    /// Differences that were forgotten because there were too many.
    pub forgotten: u64,
    /// What became of reads.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What became of reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Reads with a verdict: the next four.
    pub compared: u64,
    /// Alike at once.
    pub matched: u64,
    /// Alike when both sides were asked again.
    pub in_flight: u64,
    /// The primary differs with itself.
    pub noise: u64,
    /// Differs, and it lasted.
    pub mismatched: u64,
    /// The share of compared reads that are alike, 0 to 1; noise is not alike. `None`: nothing was compared.
    pub alike: Option<f64>,
    /// Chosen and not compared.
    pub skipped: u64,
    /// By reason; those that occurred.
    pub skips: BTreeMap<String, u64>,
    /// How long compared reads took on the primary.
    pub primary_ms: Option<Times>,
    /// How long the same reads took on the secondary.
    pub secondary_ms: Option<Times>,
    /// The secondary's time over the primary's, at each percentile.
    pub ratio: Option<Times>,
}

/// Percentiles, about 6 % precise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Half of all took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
}

/// One shape of statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShapeReport {
    /// The statement without values.
    pub statement: String,
    /// The first table that it reads.
    pub table: String,
    /// What became of its reads.
    #[serde(flatten)]
    pub counts: Counts,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// At a glance.
    #[serde(flatten)]
    pub summary: Summary,
    /// What speaks against a switch.
    pub findings: Vec<Finding>,
    /// By statement, the most read first.
    pub statements: Vec<ShapeReport>,
}

/// A difference that lasted.
#[derive(Clone, Debug, Serialize)]
pub struct Mismatch {
    /// Its number.
    pub id: u64,
    /// `open`, `gone`, or `past`: seen before a switch.
    pub state: &'static str,
    /// Of which kind.
    pub how: &'static str,
    /// The table.
    pub table: String,
    /// A hash of the row's key.
    pub key_hash: Option<String>,
    /// The columns that differ.
    pub columns: Vec<String>,
    /// The statement without values.
    pub statement: String,
    /// The primary when it was seen last.
    pub primary: &'static str,
    /// Reads that showed it.
    pub count: u64,
    /// Seconds since the epoch.
    pub first_unix: u64,
    /// Seconds since the epoch.
    pub last_unix: u64,
    /// Only when values were asked for, and the wire could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
}

/// Values of a row that differs: only for who asks for them by name (promise 13).
#[derive(Clone, Serialize)]
pub struct Values {
    key: String,
    primary: String,
    secondary: String,
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Values(..)")
    }
}

impl Summary {
    /// As it is now.
    pub fn of(board: &Board) -> Summary {
        let (counts, (queued, queued_bytes)) = (Counts::of(&board.shapes().total()), board.queued());
        let mismatches = board.open_mismatches();
        let verdict = match (mismatches, counts.compared, board.is_on()) {
            (1.., ..) => Verdict::NoGo,
            (0, 1.., _) => Verdict::Go,
            (0, 0, true) => Verdict::Unproven,
            (0, 0, false) => Verdict::Off,
        };
        Summary {
            verdict,
            sample: board.sample(),
            queued,
            queued_bytes,
            mismatches,
            forgotten: board.mismatches().forgotten(),
            counts,
        }
    }
}

impl Counts {
    fn of(shape: &Shape) -> Counts {
        let skips: BTreeMap<String, u64> = shape.skips().map(|(why, count)| (why.as_str().to_owned(), count)).collect();
        let (compared, matched, in_flight) = (shape.compared(), shape.matched(), shape.in_flight());
        let alike = (compared > 0).then(|| (matched + in_flight) as f64 / compared as f64);
        let (primary, secondary) = (Times::of(&shape.primary), Times::of(&shape.secondary));
        Counts {
            compared,
            matched,
            in_flight,
            noise: shape.noise(),
            mismatched: shape.mismatched(),
            alike,
            skipped: skips.values().sum(),
            skips,
            primary_ms: primary,
            secondary_ms: secondary,
            ratio: primary.zip(secondary).map(|(primary, secondary)| secondary.over(primary)),
        }
    }
}

impl Times {
    /// In milliseconds.
    fn of(histogram: &Histogram) -> Option<Times> {
        let ms = |share| histogram.quantile(share).map(|time| time.as_micros() as f64 / 1_000.0);
        Some(Times { p50: ms(0.5)?, p95: ms(0.95)?, p99: ms(0.99)? })
    }

    fn over(self, other: Times) -> Times {
        // Under a microsecond nothing is told apart.
        let ratio = |ours: f64, theirs: f64| (ours / theirs.max(0.001) * 100.0).round() / 100.0;
        Times { p50: ratio(self.p50, other.p50), p95: ratio(self.p95, other.p95), p99: ratio(self.p99, other.p99) }
    }
}

impl Report {
    /// As it is now.
    pub fn of(board: &Board) -> Report {
        let shape = |shape: &Shape| ShapeReport {
            statement: shape.text.to_string(),
            table: shape.table.to_string(),
            counts: Counts::of(shape),
        };
        Report {
            summary: Summary::of(board),
            findings: board.findings().iter().map(Finding::from).collect(),
            statements: board.shapes().list().iter().map(|counted| shape(counted)).collect(),
        }
    }
}

impl Mismatch {
    /// All of them, those seen last first.
    pub fn list(board: &Board, values: bool) -> Vec<Mismatch> {
        let epoch = board.epoch();
        board.mismatches().list().into_iter().map(|entry| Mismatch::of(entry, epoch, values)).collect()
    }

    fn of(entry: Entry, epoch: u64, values: bool) -> Mismatch {
        let state = entry.state(epoch).as_str();
        let shown = entry.shown.filter(|_| values);
        Mismatch {
            id: entry.id,
            state,
            how: entry.how.as_str(),
            table: entry.name,
            key_hash: entry.key_hash.map(|hash| format!("{hash:016x}")),
            columns: entry.columns,
            statement: entry.statement.to_string(),
            primary: entry.primary.as_str(),
            count: entry.count,
            first_unix: entry.first_unix,
            last_unix: entry.last_unix,
            values: shown.map(|shown| Values { key: shown.key, primary: shown.primary, secondary: shown.secondary }),
        }
    }
}
