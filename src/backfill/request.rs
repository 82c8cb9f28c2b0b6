//! What operators ask of history.

use serde::{Deserialize, Serialize};

use crate::config::is_like;
use crate::record::TableId;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Copy the rows that the secondary lacks, then compare.
    Backfill,
    /// Compare, change nothing.
    Verify,
    /// Compare, and have the mirror copy what differs.
    Repair,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 3] = [Kind::Backfill, Kind::Verify, Kind::Repair];

    /// The word in commands, logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Backfill => "backfill",
            Kind::Verify => "verify",
            Kind::Repair => "repair",
        }
    }
}

/// What to do about rows of the target that we did not write, in a table that is to be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// Leave the table alone and say so.
    #[default]
    Error,
    /// The origin's rows count: those that differ are replaced, those that only the target has are deleted.
    Overwrite,
    /// Each cell's newest value counts, and rows that only the target has stay. Only where cells say when they were written.
    Newer,
}

/// What makes two rows differ, where cells say when they were written and when they expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// Their values.
    Values,
    /// Their values, and when they expire.
    #[default]
    Ttls,
    /// All that, and when they were written.
    Writetimes,
}

/// A request as the API takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Qualified names of tables, in which `*` stands for any letters; none: all that can be walked over.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Of those, these are not meant: names as above.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Of those, only tables that go by one of these labels; none: all.
    #[serde(default)]
    pub labels: Vec<u64>,
    /// Of a backfill: what to do about rows that are there and not ours.
    #[serde(default)]
    pub on_conflict: Conflict,
    /// Of a backfill: compare when everything is copied.
    #[serde(default = "yes")]
    pub verify: bool,
    /// Of a backfill: make the tables that the secondary lacks.
    #[serde(default)]
    pub provision: bool,
    /// Of a backfill that makes keyspaces: how they are replicated, as `CREATE KEYSPACE` has it; none: as on the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<String>,
    /// Of a repair: compare, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Of a verify: what makes two rows differ.
    #[serde(default)]
    pub compare: Compare,
    /// Of a verify: only rows of which something was written in so many seconds before it began, or that only the
    /// secondary has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
    /// Of a repair: what hides a row that is copied may be outdone up to this timestamp, in microseconds since the epoch;
    /// none: up to the moment of the repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// Of a comparison: only of about so many of a million rows, drawn in stretches.
    #[serde(default)]
    pub sample_ppm: Option<u32>,
    /// Of a backfill or a comparison: once more so many seconds after it ended, again and again. Later rounds of a
    /// backfill copy what is new, and mend what differs.
    #[serde(default)]
    pub every_seconds: Option<u64>,
}

fn yes() -> bool {
    true
}

impl Request {
    /// As the command without any option.
    pub fn new(kind: Kind) -> Request {
        Request {
            kind,
            tables: Vec::new(),
            exclude: Vec::new(),
            labels: Vec::new(),
            on_conflict: Conflict::Error,
            verify: true,
            provision: false,
            replication: None,
            dry_run: false,
            compare: Compare::default(),
            since_seconds: None,
            timestamp: None,
            sample_ppm: None,
            every_seconds: None,
        }
    }

    /// Of the tables that are marked so. What no table could be named for may be in any.
    pub(crate) fn of_dirty(self, labels: Vec<u64>) -> Request {
        let labels = if labels.contains(&TableId::NONE.0) { Vec::new() } else { labels };
        Request { labels, ..self }
    }

    /// It needs cells that say when they were written.
    pub(super) fn needs_times(&self) -> Option<&'static str> {
        match self {
            Request { on_conflict: Conflict::Newer, .. } => Some(
                "rows of this wire do not say when they were written, and one that stays different is undone by the \
                 next write to it: say error or overwrite",
            ),
            Request { since_seconds: Some(_), .. } => Some(
                "rows of this wire do not say when they were written, and tandem remembers keys only until they are on \
                 the target: compare a table, or a sample",
            ),
            Request { compare, .. } if *compare != Compare::default() => {
                Some("rows of this wire are values only: all of them are compared")
            }
            Request { timestamp: Some(_), .. } => Some("rows of this wire have no timestamps to be outdone"),
            _ => None,
        }
    }

    /// What makes no sense about it.
    pub(super) fn nonsense(&self) -> Option<&'static str> {
        let kind = self.kind;
        match self {
            _ if self.dry_run && kind != Kind::Repair => Some("only a repair has a dry run: verify changes nothing"),
            _ if self.provision && kind != Kind::Backfill => Some("only a backfill makes tables"),
            Request { replication: Some(map), .. } if !(map.starts_with('{') && map.ends_with('}')) => {
                Some("a replication is a map: {'class': 'NetworkTopologyStrategy', 'dc1': 3}")
            }
            _ if self.on_conflict == Conflict::Newer && (kind != Kind::Backfill || self.every_seconds.is_some()) => {
                Some("newer rows of the target stay at a backfill that is done once: whatever comes later undoes that")
            }
            _ if kind != Kind::Verify && (self.since_seconds.is_some() || self.compare != Compare::default()) => {
                Some("only verify takes times into account: what is copied is copied with them")
            }
            Request { timestamp: Some(_), .. } if kind != Kind::Repair || self.dry_run => {
                Some("only a repair writes with a timestamp of its own")
            }
            Request { sample_ppm: Some(_), .. } if kind != Kind::Verify => Some("only verify takes a sample"),
            Request { sample_ppm: Some(0 | 1_000_001..), .. } => Some("a sample is more than nothing and at most all"),
            Request { every_seconds: Some(_), .. } if kind == Kind::Repair => {
                Some("repair is not done again and again: a continuous backfill is")
            }
            Request { every_seconds: Some(0), .. } => Some("a pause lasts a second or more"),
            _ if !self.verify && (self.every_seconds.is_some() || kind != Kind::Backfill) => {
                Some("only a backfill that is done once goes without a comparison")
            }
            _ => None,
        }
    }

    /// Every row of its tables is looked at, and must be the same.
    pub(super) fn is_whole(&self) -> bool {
        let all = self.sample_ppm.is_none() && self.since_seconds.is_none();
        all && self.on_conflict != Conflict::Newer && self.compare != Compare::Values
    }

    /// No table is left out.
    pub(super) fn is_of_all(&self) -> bool {
        self.tables.is_empty() && self.exclude.is_empty() && self.labels.is_empty()
    }

    /// The table is meant: by its own name, or by that of the table that it is a part of.
    pub(crate) fn names(&self, table: &str, part_of: Option<&str>) -> bool {
        let is_in = |names: &[String]| is_named(names, table) || part_of.is_some_and(|root| is_named(names, root));
        (self.tables.is_empty() || is_in(&self.tables)) && !is_in(&self.exclude)
    }

    /// The table, by all its labels, is meant.
    pub(super) fn labels(&self, labels: &[TableId]) -> bool {
        self.labels.is_empty() || labels.iter().any(|label| self.labels.contains(&label.0))
    }

    /// A name that stands for none of these tables.
    pub(super) fn unknown<'a>(&self, tables: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let unknown = |pattern: &&String| !tables.clone().any(|table| is_like(pattern, table));
        self.tables.iter().find(unknown).map(String::as_str)
    }
}

/// Whether one of the patterns, in which each `*` stands for any letters, stands for the qualified name.
pub fn is_named(patterns: &[String], table: &str) -> bool {
    patterns.iter().any(|pattern| is_like(pattern, table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_what_it_includes_and_does_not_exclude() {
        let mut request = Request { exclude: vec!["*.log".into()], ..Request::new(Kind::Backfill) };
        let names = |request: &Request, table: &str| request.names(table, None);
        assert!(names(&request, "a.b") && !names(&request, "a.log"));
        assert!(!request.names("a.log_1", Some("a.log")) && request.names("a.b_1", Some("a.b")));
        request.tables = vec!["a.*".into(), "c.d".into()];
        assert!(
            names(&request, "a.b") && names(&request, "c.d") && !names(&request, "a.log") && !names(&request, "c.e")
        );
        assert!(request.names("x.part", Some("c.d")) && request.names("c.d", Some("x.root")));
        assert!(!request.names("x.part", Some("x.root")) && !request.names("a.part", Some("a.log")));
        let all = request.clone().of_dirty(vec![7, TableId::NONE.0]);
        assert!(all.labels(&[TableId(3)]), "any table may differ");
        request = request.of_dirty(vec![7]);
        assert!(request.labels(&[TableId(3), TableId(7)]) && !request.labels(&[TableId(3)]));
        assert_eq!(request.unknown(["a.b"].into_iter()), Some("c.d"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let verify = Request::new(Kind::Verify);
        let sampled = |ppm| Request { sample_ppm: Some(ppm), ..verify.clone() };
        let again = |kind| Request { every_seconds: Some(60), ..Request::new(kind) };
        let newer = |kind| Request { on_conflict: Conflict::Newer, ..Request::new(kind) };
        let at = |kind| Request { timestamp: Some(5), ..Request::new(kind) };
        let since = |kind| Request { since_seconds: Some(5), ..Request::new(kind) };
        let exact = |kind| Request { compare: Compare::Writetimes, ..Request::new(kind) };
        for timed in [newer(Kind::Backfill), at(Kind::Repair), since(Kind::Verify), exact(Kind::Verify)] {
            assert_eq!(timed.nonsense(), None, "{timed:?}");
            assert!(timed.needs_times().is_some(), "{timed:?}");
        }
        for sound in [sampled(1), sampled(1_000_000), again(Kind::Verify), again(Kind::Backfill)] {
            assert_eq!((sound.nonsense(), sound.needs_times()), (None, None), "{sound:?}");
        }
        let unsound = [
            sampled(0),
            sampled(1_000_001),
            Request { kind: Kind::Backfill, ..sampled(5) },
            Request { dry_run: true, ..verify.clone() },
            Request { provision: true, ..verify.clone() },
            again(Kind::Repair),
            newer(Kind::Repair),
            at(Kind::Verify),
            since(Kind::Repair),
            exact(Kind::Backfill),
            Request { replication: Some("SimpleStrategy".to_owned()), ..Request::new(Kind::Backfill) },
            Request { every_seconds: Some(0), ..verify.clone() },
            Request { verify: false, ..again(Kind::Backfill) },
        ];
        for request in unsound {
            assert!(request.nonsense().is_some(), "{request:?}");
        }
    }
}
