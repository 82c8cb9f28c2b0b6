//! What came of comparing rows, counted so that it adds up.

use serde::{Deserialize, Serialize};

use super::work::{Differs, Landed, Pass};

/// Rows compared: `read = equal + missing + extra + different + skipped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the primary, and rows that only the secondary has.
    pub read: u64,
    /// The same on both sides.
    pub equal: u64,
    /// Only on the primary.
    pub missing: u64,
    /// Only on the secondary.
    pub extra: u64,
    /// On both sides, with other values.
    pub different: u64,
    /// Not compared: their table was left out on the way.
    pub skipped: u64,
    /// Of those that differed: made equal since, and compared again.
    pub repaired: u64,
}

impl Counts {
    /// Rows that differ still.
    pub fn differing(&self) -> u64 {
        (self.missing + self.extra + self.different).saturating_sub(self.repaired)
    }

    pub(super) fn add(&mut self, other: Counts) {
        self.read += other.read;
        self.equal += other.equal;
        self.missing += other.missing;
        self.extra += other.extra;
        self.different += other.different;
        self.skipped += other.skipped;
        self.repaired += other.repaired;
    }

    /// So many that were skipped, being too many, were seen since.
    pub(super) fn seen(&mut self, seen: u64, landed: &Landed) {
        let seen = seen.min(self.skipped);
        self.skipped -= seen;
        let mut left = seen;
        for one in landed.differing.iter().take(usize::try_from(seen).unwrap_or(usize::MAX)) {
            match one.how {
                Differs::Missing => self.missing += 1,
                Differs::Extra => self.extra += 1,
                Differs::Different => self.different += 1,
            }
            left -= 1;
        }
        // The others were made equal by what clients wrote.
        self.equal += left;
    }

    /// `read = equal + missing + extra + different + skipped`, whichever side was read.
    pub(super) fn of(pass: Pass, landed: &Landed) -> Counts {
        let count = |how| landed.differing.iter().filter(|one| one.how == how).count() as u64;
        let (missing, extra, different) = (count(Differs::Missing), count(Differs::Extra), count(Differs::Different));
        match pass {
            Pass::Copy => Counts::default(),
            // Where one look shows both sides, rows that only the secondary has are found on the way forth.
            Pass::Forth => {
                let (equal, skipped) = (landed.rows.saturating_sub(missing + different), landed.skipped + landed.crowd);
                let read = equal + missing + extra + different + skipped;
                Counts { read, equal, missing, extra, different, skipped, ..Counts::default() }
            }
            // Rows that both have were counted on the way forth.
            Pass::Back => Counts { read: extra, extra, ..Counts::default() },
        }
    }
}
