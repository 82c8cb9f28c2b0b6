//! Switches under full load, as an operator asks for them: by the admin API, to the target and back.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::load::Load;
use crate::admin::client::{Client as Admin, Error};
use crate::cutover::report::{End, Ended, Report, Request};
use crate::record::Side;

/// A switch may be refused while the other side is still behind; asked for so long, it must be done.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// How the switches went.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// Of every walk that held clients, also where it came to nothing.
    held_us: Vec<u64>,
    switched: u64,
    aborted: u64,
    failed: Option<String>,
}

impl Switches {
    /// Switch there, again and again while it does not; each new reason is told. What went wrong in the end is kept, and
    /// nothing further is tried.
    pub(super) async fn go(&mut self, to: Side, admin: &Admin, load: &Load, mut tell: impl FnMut(&str)) {
        if self.failed.is_some() {
            return;
        }
        if let Err(Error::Refused(why)) = admin.get("/v1/switch").await {
            tell(&format!("no switch for this wire yet: {why}"));
            return self.failed = Some(format!("to {to}: {why}"));
        }
        load.around_switch.store(true, Relaxed);
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            match walk(to, admin).await.and_then(|ended| self.over(&ended)) {
                Ok(()) => break,
                Err(why) if Instant::now() > deadline => break self.failed = Some(format!("to {to}: {why}")),
                Err(why) if why != last => {
                    tell(&format!("no switch to {to} yet: {why}"));
                    last = why;
                }
                Err(_) => {}
            }
            sleep(LOOK).await;
        }
        load.around_switch.store(false, Relaxed);
    }

    /// A walk is over: did it switch?
    fn over(&mut self, ended: &Ended) -> Result<(), String> {
        match ended.end {
            End::Switched => self.switched += 1,
            End::Aborted => self.aborted += 1,
            End::Ready | End::Refused => {}
        }
        if ended.end == End::Switched || ended.held_us > 0 {
            self.held_us.push(ended.held_us);
        }
        if ended.end == End::Switched { Ok(()) } else { Err(why(ended)) }
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.switched
    }

    /// How many were begun and came to nothing.
    pub(super) fn aborted(&self) -> u64 {
        self.aborted
    }

    /// Why one did not happen.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// How long the last one held clients, in milliseconds.
    pub(super) fn last_ms(&self) -> f64 {
        self.held_us.last().copied().map_or(0.0, ms)
    }

    /// The time in milliseconds within which this share of the walks let clients go on (nearest rank).
    pub(super) fn held_ms(&self, share: f64) -> f64 {
        let mut sorted = self.held_us.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().map_or(0.0, ms)
    }
}

fn ms(us: u64) -> f64 {
    (us as f64 / 100.0).round() / 10.0
}

/// One walk, as it ended.
async fn walk(to: Side, admin: &Admin) -> Result<Ended, String> {
    let request = Request { to, dry_run: false, max_hold_ms: None, ignore: Vec::new(), force: None };
    let request = serde_json::to_value(&request).map_err(|error| error.to_string())?;
    let begun = report(admin.post("/v1/switch", &request).await)?;
    loop {
        let report = report(admin.get("/v1/switch").await)?;
        match report.last {
            Some(ended) if ended.number == begun.number => break Ok(ended),
            _ => sleep(LOOK).await,
        }
    }
}

fn report(answer: Result<Value, Error>) -> Result<Report, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

fn why(ended: &Ended) -> String {
    let errors = ended.findings.iter().filter(|finding| finding.severity == "error");
    let mut why: Vec<String> = ended.why.iter().cloned().collect();
    why.extend(errors.map(|finding| format!("{}: {}", finding.name, finding.object)));
    why.extend(ended.hindrances.iter().cloned());
    format!("{} ({})", why.join("; "), ended.phase.as_str())
}

/// The sides of so many switches, the target first.
pub(super) fn sides(count: u64) -> impl Iterator<Item = Side> {
    [Side::Target, Side::Origin].into_iter().cycle().take(usize::try_from(count).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn held_times_are_told_by_nearest_rank() {
        let switches = Switches { held_us: (1..=200).rev().map(|n| n * 1_000).collect(), ..Switches::default() };
        assert_eq!([switches.held_ms(0.5), switches.held_ms(0.99), switches.held_ms(1.0)], [100.0, 198.0, 200.0]);
        assert_eq!(Switches::default().held_ms(0.99), 0.0);
        assert_eq!(switches.last_ms(), 1.0);
    }

    #[test]
    fn a_switch_that_held_clients_and_was_aborted_is_in_the_times() {
        let mut switches = Switches::default();
        let ended = |end: &str, held_us: u64| {
            let request = json!({"to": "target"});
            let ended = json!({"number": 1, "request": request, "end": end, "why": null, "phase": "steady",
                "held_us": held_us, "took_us": [], "compared": 0, "findings": [], "hindrances": []});
            serde_json::from_value::<Ended>(ended).expect("a report")
        };
        for (end, held_us, well) in [("refused", 0, false), ("aborted", 900_000, false), ("switched", 20_000, true)] {
            assert_eq!(switches.over(&ended(end, held_us)).is_ok(), well, "{end}");
        }
        assert_eq!((switches.count(), switches.aborted()), (1, 1));
        assert_eq!([switches.held_ms(0.5), switches.held_ms(1.0), switches.last_ms()], [20.0, 900.0, 20.0]);
    }

    #[test]
    fn an_odd_count_of_switches_ends_at_the_target() {
        assert_eq!(sides(3).collect::<Vec<_>>(), [Side::Target, Side::Origin, Side::Target]);
    }
}
