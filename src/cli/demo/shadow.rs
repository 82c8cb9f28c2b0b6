//! The demo's shadow reads: a share of what clients read is compared all the time, and one difference is planted.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::act::Stage;
use super::load::Load;
use super::progress::Progress;
use super::{Failure, Pair};
use crate::admin::client::Client;

/// What of the clients' reads is compared.
pub(super) const SAMPLE: &str = "5%";
/// Longest wait until the difference is found, and until it is mended.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// What was compared and found; these names stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Shadowed {
    /// Reads that were compared.
    pub(super) compared: u64,
    /// Those that were alike, at once or when both sides were asked again.
    pub(super) matched: u64,
    /// Differences that nobody had planted.
    pub(super) false_alarms: u64,
    /// Reads that were chosen and not compared.
    pub(super) skipped: u64,
    /// Differences that were planted.
    pub(super) planted: u64,
    /// Those that were found, with their table.
    pub(super) found: u64,
    /// Those that were mended, and seen to be gone.
    pub(super) repaired: u64,
}

impl Shadowed {
    /// What was planted, with what all reads showed.
    pub(super) fn with(self, all: Shadowed) -> Shadowed {
        Shadowed { planted: self.planted, found: self.found, repaired: self.repaired, ..all }
    }

    pub(super) fn is_well(&self) -> bool {
        let mended = (self.planted, self.found) == (self.found, self.repaired) && self.planted > 0;
        // The reads of what was planted are compared too: only those that were alike show that clients' reads were.
        mended && self.matched > 0 && self.false_alarms == 0
    }
}

/// Counts that begin anew when tandem does, and with every switch.
#[derive(Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    last: [u64; 4],
    sum: [u64; 4],
    /// Mismatches that were to be.
    expected: u64,
}

/// In the order of [`Counts`]; in-flight reads are alike in the end.
const COUNTED: [&[&str]; 4] = [&["/compared"], &["/matched", "/in_flight"], &["/skipped"], &["/mismatched"]];

impl Tally {
    /// What the status says of shadow reads now.
    pub(super) fn see(&self, shadow: &Value) {
        let count = |names: &[&str]| names.iter().filter_map(|name| shadow.pointer(name)?.as_u64()).sum::<u64>();
        let now = COUNTED.map(count);
        let mut counts = self.lock();
        let begins_anew = now.iter().zip(counts.last).any(|(now, last)| *now < last);
        for (at, now) in now.into_iter().enumerate() {
            counts.sum[at] += if begins_anew { now } else { now - counts.last[at] };
        }
        counts.last = now;
    }

    /// So many mismatches were to be.
    pub(super) fn expect(&self, mismatched: u64) {
        self.lock().expected += mismatched;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing in there panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it.
    pub(super) fn shadowed(&self) -> Shadowed {
        let counts = self.lock();
        let [compared, matched, skipped, mismatched] = counts.sum;
        let false_alarms = mismatched.saturating_sub(counts.expected);
        Shadowed { compared, matched, skipped, false_alarms, ..Shadowed::default() }
    }
}

/// Plant a difference on the target, and wait until it is found, named, mended and seen to be gone. The target is the
/// secondary, and nothing else that is planted is there.
pub(super) async fn play<P: Pair>(stage: &Stage<P>, load: &Load, progress: &Progress) -> Result<Shadowed, Failure> {
    let admin = stage.tandem.admin()?;
    // All reads of that table: the row is read by one client, a few times.
    set(&admin, "100%", P::PLANTED).await?;
    stage.pair.plant().await?;
    let began = Instant::now();
    let mut played = Shadowed { planted: 1, ..Shadowed::default() };
    while played.found == 0 && began.elapsed() < PATIENCE {
        stage.pair.look(stage.tandem.port).await?;
        sleep(LOOK).await;
        played.found = u64::from(!named(&admin, P::PLANTED).await?.is_empty());
    }
    let found = began.elapsed();
    while played.found > 0 && played.repaired == 0 && began.elapsed() < PATIENCE * 2 {
        sleep(LOOK).await;
        let listed = named(&admin, P::PLANTED).await?;
        played.repaired = u64::from(listed.iter().all(|entry| entry["state"] == "gone"));
    }
    progress.tell(&format!(
        "a row was changed on the target, past tandem: {} after {:.1} s, {} after {:.1} s",
        if played.found > 0 { "found by a read" } else { "NOT FOUND" },
        found.as_secs_f64(),
        if played.repaired > 0 { "mended and seen to be so" } else { "NOT MENDED" },
        began.elapsed().as_secs_f64(),
    ));
    // Each read that showed it counts as a mismatch, and none as a false alarm.
    let sights = named(&admin, P::PLANTED).await?.iter().filter_map(|entry| entry["count"].as_u64()).sum();
    load.shadowed.expect(sights);
    set(&admin, SAMPLE, "").await?;
    Ok(played)
}

async fn set(admin: &Client, sample: &str, tables: &str) -> Result<(), Failure> {
    admin.patch("/v1/settings", &json!({ "shadow.sample": sample, "shadow.tables": tables })).await?;
    Ok(())
}

/// The differences of a table.
async fn named(admin: &Client, table: &str) -> Result<Vec<Value>, Failure> {
    let list = admin.get("/v1/mismatches").await?;
    let of_table = list.as_array().into_iter().flatten().filter(|entry| entry["table"] == table);
    Ok(of_table.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_begin_anew_are_added_up() {
        let tally = Tally::default();
        let status = |compared: u64, matched: u64, mismatched: u64| json!({"compared": compared, "matched": matched, "in_flight": 1, "skipped": 2, "mismatched": mismatched});
        [status(5, 3, 1), status(7, 4, 2), status(1, 0, 0)].iter().for_each(|status| tally.see(status));
        tally.see(&Value::Null);
        tally.expect(2);
        let expected = Shadowed { compared: 8, matched: 6, skipped: 4, ..Shadowed::default() };
        assert_eq!(tally.shadowed(), expected);
    }

    #[test]
    fn it_is_well_only_when_what_was_planted_was_found_and_mended_and_nothing_else_was() {
        let well = Shadowed { compared: 9, matched: 8, planted: 1, found: 1, repaired: 1, ..Shadowed::default() };
        assert!(well.is_well());
        for wrong in [
            Shadowed { compared: 1, matched: 0, ..well },
            Shadowed { false_alarms: 1, ..well },
            Shadowed { planted: 0, found: 0, repaired: 0, ..well },
            Shadowed { found: 0, repaired: 0, ..well },
            Shadowed { repaired: 0, ..well },
        ] {
            assert!(!wrong.is_well(), "{wrong:?}");
        }
    }
}
