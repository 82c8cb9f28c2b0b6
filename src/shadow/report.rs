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
    /// Sampled, and nothing was compared yet, or nothing but noise.
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
    /// Those of them at which nobody looks whether they are gone: too many at once, or for too long.
    #[serde(default)]
    pub unfollowed: usize,
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
    /// Whether somebody looks if it is gone; else it stays `open` until a read shows it again, or it is cleared.
    pub followed: bool,
    /// Of which kind.
    pub how: &'static str,
    /// The table.
    pub table: String,
    /// A hash of the keys of the rows.
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
        let verdict = match (mismatches, counts.judged(), board.is_on()) {
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
            unfollowed: board.unfollowed_mismatches(),
            forgotten: board.mismatches().forgotten(),
            counts,
        }
    }
}

impl Counts {
    pub(super) fn of(shape: &Shape) -> Counts {
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

    /// Compared, and not noise: that speaks neither for the other side nor against it.
    pub(super) fn judged(&self) -> u64 {
        self.compared - self.noise
    }

    /// Chosen, and nothing came of it.
    pub(super) fn in_vain(&self) -> u64 {
        self.skipped + self.noise
    }

    /// Why, the commonest first.
    pub(super) fn reasons(&self) -> String {
        let (noise, mut skips) = ("noise".to_owned(), self.skips.iter().collect::<Vec<_>>());
        if self.noise > 0 {
            skips.push((&noise, &self.noise));
        }
        skips.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        skips.iter().map(|(why, count)| format!("{count} {why}")).collect::<Vec<_>>().join(", ")
    }
}

impl Times {
    /// In milliseconds.
    pub(super) fn of(histogram: &Histogram) -> Option<Times> {
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

    /// Go or no go, in a line for who decides on a switch.
    pub fn words(&self) -> String {
        let (Summary { sample, mismatches, .. }, counts) = (&self.summary, &self.summary.counts);
        let (compared, in_vain) = (counted(counts.compared, "read"), counts.in_vain());
        match self.summary.verdict {
            Verdict::Off => "OFF: none is tried there; `tandem set shadow.sample=1%` begins".to_owned(),
            Verdict::Unproven if in_vain == 0 => format!("UNPROVEN: none came yet ({} % are chosen)", sample * 100.0),
            Verdict::Unproven => format!("UNPROVEN: none of {in_vain} chosen says anything: {}", counts.reasons()),
            Verdict::Go => format!("GO: {compared} compared, no difference lasts{}", self.more()),
            Verdict::NoGo => {
                let lasting = counted(*mismatches as u64, "lasting difference");
                format!("NO GO: {lasting}, {compared} compared: `tandem shadow mismatches` names them")
            }
        }
    }

    /// What a go leaves open.
    fn more(&self) -> String {
        let (counts, mut more) = (&self.summary.counts, String::new());
        if let Some((here, there)) = counts.primary_ms.zip(counts.secondary_ms) {
            more += &format!("; p95 {:.1} ms here, {:.1} ms there", here.p95, there.p95);
        }
        if counts.noise > 0 {
            more += &format!("; {} noise", counts.noise);
        }
        let never = self.statements.iter().filter(|shape| shape.counts.judged() == 0).count();
        if never > 0 {
            more += &format!("; never compared: {never} of {}", counted(self.statements.len() as u64, "statement"));
        }
        more
    }
}

fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
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
            followed: entry.followed,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::Side;
    use crate::shadow::mismatches::At;
    use crate::shadow::shapes::End;
    use crate::shadow::tests::{Stage, about, difference};
    use crate::shadow::{About, Skip};

    #[test]
    fn the_verdict_is_said_in_a_line_with_what_it_leaves_open() {
        assert!(Report::of(&Stage::off().board).words().starts_with("OFF: none is tried there"));
        let stage = Stage::new(|_| {});
        let words = || Report::of(&stage.board).words();
        assert_eq!(words(), "UNPROVEN: none came yet (100 % are chosen)");
        let place = stage.board.shapes().place(&about(), 1);
        [Skip::Behind, Skip::Ties, Skip::Ties].into_iter().for_each(|why| place.shape.skipped(why));
        assert_eq!(words(), "UNPROVEN: none of 3 chosen says anything: 2 ties, 1 behind");
        (0..3).for_each(|_| place.shape.ended(End::Noise));
        assert_eq!(words(), "UNPROVEN: none of 6 chosen says anything: 3 noise, 2 ties, 1 behind");
        let other = stage.board.shapes().place(&About { shape: "select 1", ..about() }, 1);
        [End::Match, End::Noise].into_iter().for_each(|end| other.shape.ended(end));
        other.shape.timed((Side::Origin, Duration::from_micros(1)), Duration::from_micros(2));
        assert_eq!(
            words(),
            "GO: 5 reads compared, no difference lasts; p95 0.0 ms here, 0.0 ms there; 4 noise; never compared: 1 of 2 \
             statements"
        );
        let at = At { primary: Side::Origin, epoch: 1 };
        stage.board.mismatches().note((place.id, &place.text), 0, difference(), at);
        assert_eq!(words(), "NO GO: 1 lasting difference, 5 reads compared: `tandem shadow mismatches` names them");
    }
}
