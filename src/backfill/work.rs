//! What the walk over history asks of a wire: tables cut into extents of numbered units, and chunks of them to be copied
//! or compared at one state of the primary.
//!
//! The core does not know what a unit is (for PostgreSQL a block of a table's file), only that a row which nobody writes
//! keeps its unit for as long as the extent keeps its number, and that a row which moves to another unit was written,
//! and so is owed and paid by the mirror.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::journal::Lsn;
use crate::record::TableId;

/// What of the journal is on the secondary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paid {
    /// Everything below.
    pub upto: Lsn,
    /// And below this, everything of other tables than these: no less.
    pub beyond: Lsn,
    /// Tables that wait for something that may take as long as it likes.
    pub stuck: BTreeSet<TableId>,
    /// Why they do, for people.
    pub why: Option<String>,
}

impl From<Lsn> for Paid {
    fn from(upto: Lsn) -> Paid {
        Paid { upto, beyond: upto, ..Paid::default() }
    }
}

impl Paid {
    /// Everything of the table with these labels, below this.
    pub fn of(&self, labels: &[TableId]) -> Lsn {
        if self.is_stuck(labels) { self.upto } else { self.beyond.max(self.upto) }
    }

    /// The table with these labels waits.
    pub fn is_stuck(&self, labels: &[TableId]) -> bool {
        labels.iter().any(|label| self.stuck.contains(label))
    }
}

/// One side's rows of a table, or of one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// As the wire finds it again.
    pub name: String,
    /// Changes when all rows may have got other units: what was done of it is to be done again.
    pub file: u64,
    /// The rows there were when it was looked at lie in the units below.
    pub units: u64,
}

/// A table as a survey found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Its label.
    pub table: TableId,
    /// Its qualified name.
    pub name: String,
    /// The name of the table that it is a part of, where its rows are nevertheless its own.
    pub part_of: Option<String>,
    /// Labels under which its rows may be marked dirty: its own and its partitions'.
    pub labels: Vec<TableId>,
    /// Rows, as the primary's statistics guess.
    pub rows: u64,
    /// Bytes on the primary.
    pub bytes: u64,
    /// Its rows on the primary.
    pub primary: Vec<Extent>,
    /// Its rows on the secondary.
    pub secondary: Vec<Extent>,
    /// The secondary has rows of it that may be somebody else's: not all of what is there came by the mirror.
    pub occupied: bool,
    /// Why it cannot be walked over.
    pub refused: Option<String>,
    /// Why it could not be looked at: a side is short of something, and may answer later.
    pub unread: Option<String>,
    /// Columns that both sides have, and whose values cannot be compared.
    pub not_compared: Vec<String>,
}

#[cfg(test)]
impl Surveyed {
    /// A table of one file, the same on both sides, of which nothing is known but its units.
    pub(crate) fn of(name: &str, file: u64, units: u64) -> Surveyed {
        let extents = vec![Extent { name: "t".to_owned(), file, units }];
        Surveyed {
            table: TableId(1),
            name: name.to_owned(),
            part_of: None,
            labels: vec![TableId(1)],
            rows: units,
            bytes: units,
            primary: extents.clone(),
            secondary: extents,
            occupied: true,
            refused: None,
            unread: None,
            not_compared: Vec::new(),
        }
    }
}

/// When what a table lacks on the secondary is made there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the copy: the tables, and the keys by which they are mirrored.
    Tables,
    /// Behind it: everything that is cheaper to make, or to keep, when the rows are there.
    Rest,
}

/// What is done with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// Rows of the primary are written to the secondary.
    Copy,
    /// Rows of the primary are looked for on the secondary.
    Forth,
    /// Rows of the secondary are looked for on the primary.
    Back,
}

impl Pass {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Pass::Copy => "copy",
            Pass::Forth => "forth",
            Pass::Back => "back",
        }
    }
}

/// What makes two rows differ, where cells have times of their own: beside the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compares {
    /// When they expire.
    pub ttls: bool,
    /// When they were written.
    pub writetimes: bool,
    /// What is newer on the secondary may be so, and what only it has may stay.
    pub newer_stays: bool,
    /// Rows of which both sides have nothing that was written since, in microseconds since the epoch, are skipped.
    pub since: Option<i64>,
}

impl Default for Compares {
    fn default() -> Compares {
        Compares { ttls: true, writetimes: false, newer_stays: false, since: None }
    }
}

/// Units to be worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The number of the job that it is of.
    #[serde(default)]
    pub job: u64,
    /// What to do.
    pub pass: Pass,
    /// What was found in it before is owed and was paid since: see whether that helped.
    pub again: bool,
    /// It was begun before, in this process or an earlier one, and nobody knows what was done of it.
    pub begun: bool,
    /// The table.
    pub table: TableId,
    /// Which of its extents, and that one's name and file.
    pub extent: usize,
    /// As [`Extent::name`].
    pub name: String,
    /// As [`Extent::file`]: an extent that has another one now is [`Outcome::Moved`].
    pub file: u64,
    /// The first unit.
    pub from: u64,
    /// The unit behind the last.
    pub to: u64,
    /// How rows are compared.
    pub compares: Compares,
}

#[cfg(test)]
impl Chunk {
    /// The first units of a table's only part.
    pub(crate) fn of(pass: Pass, to: u64) -> Chunk {
        Chunk {
            job: 1,
            pass,
            again: false,
            begun: false,
            table: TableId(1),
            extent: 0,
            name: "k.t".to_owned(),
            file: 1,
            from: 0,
            to,
            compares: Compares::default(),
        }
    }
}

impl Chunk {
    /// It may be done in smaller parts.
    pub fn is_divisible(&self) -> bool {
        !self.again && self.to - self.from > 1
    }
}

/// How two rows differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Differs {
    /// Only the primary has it.
    Missing,
    /// Only the secondary has it.
    Extra,
    /// Both have it, with other values.
    Different,
}

impl Differs {
    /// The word in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Differs::Missing => "missing",
            Differs::Extra => "extra",
            Differs::Different => "different",
        }
    }
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// How.
    pub how: Differs,
    /// Its key, in the mirror's form.
    pub key: Box<[u8]>,
    /// Its key as an operator may see it on request, never logged.
    pub shown: String,
}

/// What came of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done(Landed),
    /// The extent's rows got other units: survey the table again.
    Moved,
    /// More differs in it than is kept at once: again, in smaller parts.
    Dense,
    /// A side does not let us read it: again, in smaller parts; what cannot be parted leaves its table out.
    Unreadable(Unread),
    /// The secondary takes nothing of its table for now: somebody has locked it, or its replicas are away. What the side says.
    Waits(String),
    /// The secondary refuses rows of it: their keys, if that is what it refuses, or why nothing of it can be done.
    Refused(Vec<Box<[u8]>>, String),
}

/// Why something cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// What the side says, without row values.
    pub why: String,
    /// It will say so again; else it may be short of something, and is given time.
    pub lasts: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landed {
    /// Rows written, or looked at.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Found equal as a whole, without a look at its rows.
    pub alike: bool,
    /// Rows that differ; of a copy, rows that only the mirror can make equal.
    pub differing: Vec<Difference>,
    /// Rows of the primary that the secondary refuses: the mirror tries them one by one, and parks them.
    pub refused: Vec<Box<[u8]>>,
    /// Rows that would not stand still for a comparison; not among `rows`.
    pub skipped: u64,
    /// Rows that differ and were too many to be kept at once; not among `rows` and `skipped`.
    pub crowd: u64,
}
