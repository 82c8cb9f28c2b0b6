//! The demo's walks over history: asked for by the admin API, and waited for.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::admin::client::Client;
use crate::backfill::{Counts, Kind, Report, State};

/// Longest wait for one that gets no further.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// A walk that is over.
pub(super) struct Walked {
    report: Report,
    took: Duration,
}

/// The copy of history; these names stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Copied {
    /// How it ended.
    pub(super) state: State,
    /// Rows copied.
    pub(super) rows: u64,
    /// How long it took, comparison included.
    pub(super) seconds: f64,
}

impl Default for Copied {
    fn default() -> Copied {
        Copied { state: State::Initializing, rows: 0, seconds: 0.0 }
    }
}

impl Copied {
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Done && self.rows > 0
    }
}

/// What comparisons found; these names stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Compared {
    /// How the last of them ended, or the first that did not end well.
    pub(super) state: State,
    pub(super) equal: u64,
    pub(super) missing: u64,
    pub(super) extra: u64,
    pub(super) different: u64,
    pub(super) skipped: u64,
}

impl Default for Compared {
    fn default() -> Compared {
        Compared { state: State::Initializing, equal: 0, missing: 0, extra: 0, different: 0, skipped: 0 }
    }
}

impl Compared {
    pub(super) fn plus(self, other: Compared) -> Compared {
        Compared {
            state: if self.state == State::Done { other.state } else { self.state },
            equal: self.equal + other.equal,
            missing: self.missing + other.missing,
            extra: self.extra + other.extra,
            different: self.different + other.different,
            skipped: self.skipped + other.skipped,
        }
    }

    pub(super) fn is_equal(&self) -> bool {
        self.state == State::Done && self.equal > 0 && self.missing + self.extra + self.different + self.skipped == 0
    }
}

impl Walked {
    pub(super) fn backfill(&self) -> Copied {
        let seconds = (self.took.as_secs_f64() * 10.0).round() / 10.0;
        Copied { state: self.report.state, rows: self.report.rows, seconds }
    }

    pub(super) fn verify(&self) -> Compared {
        let Counts { equal, missing, extra, different, skipped, .. } = self.report.counts;
        Compared { state: self.report.state, equal, missing, extra, different, skipped }
    }

    pub(super) fn told(&self) -> String {
        let Compared { equal, missing, extra, different, .. } = self.verify();
        let copied = match self.report.rows {
            0 => String::new(),
            rows => format!("{rows} rows copied; "),
        };
        let why = self.report.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        format!(
            "{copied}{equal} rows equal, {missing} missing, {extra} extra, {different} different in {:.1} s{why}",
            self.took.as_secs_f64()
        )
    }
}

/// Ask for one and wait for its end.
pub(super) async fn walk(kind: Kind, admin: &Client) -> Result<Walked, Failure> {
    let (path, began) = (format!("/v1/{}", kind.as_str()), Instant::now());
    admin.post(&path, &json!({ "action": "start" })).await?;
    let (mut reached, mut since) = (None, began);
    loop {
        let report: Report = serde_json::from_value(admin.get(&path).await?)
            .map_err(|error| Failure::Unreachable(format!("{path}: {error}")))?;
        if report.state.is_over() {
            return Ok(Walked { report, took: began.elapsed() });
        }
        let at = Some((report.state, report.rows, report.counts, report.done.to_bits()));
        if at != reached {
            (reached, since) = (at, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            let why = report.why.as_deref().unwrap_or("it does not say why");
            return Err(Failure::Refused(format!("{path} gets no further: {}, {why}", report.state.as_str())));
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_equal_only_where_every_comparison_came_to_its_end() {
        let compared = |state| Compared { state, equal: 1, ..Compared::default() };
        let [done, failed, cancelled] = [State::Done, State::Failed, State::Cancelled].map(compared);
        assert!(done.is_equal() && done.plus(done).is_equal());
        for (one, other) in [(done, failed), (failed, done), (done, cancelled), (done, Compared::default())] {
            assert!(!one.plus(other).is_equal(), "{one:?} {other:?}");
        }
        assert_eq!(failed.plus(cancelled).state, State::Failed);
    }
}
