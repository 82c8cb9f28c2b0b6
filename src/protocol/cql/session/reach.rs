//! Where a write goes, as plain and conditional writes of one table must know of each other: the partition, by hash.
//!
//! Of some it cannot be told: their key is computed by the server, or a literal that is not read here. Each may be in any
//! partition. So a table has two more places beside its partitions: *somewhere*, where such a write is, and everybody looks;
//! and *all*, where every conditional write is entered for plain ones that have to look everywhere.

use smallvec::SmallVec;

use crate::record::TableId;

/// No partition has this for a hash.
const SOMEWHERE: u64 = 0;
/// Nor this, as far as chance can say.
const ALL: u64 = u64::MAX;

/// Each partition that a write goes to, of its table; `None`: it cannot be told. Some perhaps more than once.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol::cql) struct Reach(SmallVec<[(TableId, Option<u64>); 1]>);

impl Reach {
    /// It goes there too.
    pub(super) fn add(&mut self, table: TableId, part: Option<u64>) {
        self.0.push((table, part));
    }

    /// Where it is.
    pub(super) fn own(&self) -> impl Iterator<Item = u64> + Clone {
        self.0.iter().map(|(table, part)| of(*table, part.unwrap_or(SOMEWHERE)))
    }

    /// Where those are that a plain one must know of.
    pub(super) fn heeded(&self) -> impl Iterator<Item = u64> + Clone {
        self.own_and(SOMEWHERE, ALL)
    }

    /// Where a conditional one is entered for them.
    pub(super) fn shown(&self) -> impl Iterator<Item = u64> + Clone {
        self.own_and(ALL, ALL)
    }

    /// It is known of all of it where that is.
    pub(super) fn is_told(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(_, part)| part.is_some())
    }

    fn own_and(&self, beside: u64, without: u64) -> impl Iterator<Item = u64> + Clone {
        self.0.iter().flat_map(move |(table, part)| {
            let more = if part.is_some() { beside } else { without };
            [of(*table, part.unwrap_or(SOMEWHERE)), of(*table, more)]
        })
    }
}

/// Paxos decides of each table's partitions for itself, and tables often share their keys.
fn of(table: TableId, part: u64) -> u64 {
    // The labels are hashes too.
    part ^ table.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(part: Option<u64>) -> Reach {
        let mut reach = Reach::default();
        reach.add(TableId::of("shop", "t"), part);
        reach
    }

    fn meet(some: impl Iterator<Item = u64>, others: impl Iterator<Item = u64> + Clone) -> bool {
        some.into_iter().any(|one| others.clone().any(|other| other == one))
    }

    #[test]
    fn who_may_be_in_one_partition_knows_of_each_other_and_nobody_else_does() {
        for (plain, conditional, may) in [
            (Some(1), Some(1), true),
            (Some(1), Some(2), false),
            (None, Some(1), true),
            (Some(1), None, true),
            (None, None, true),
        ] {
            let (plain, conditional) = (reach(plain), reach(conditional));
            assert_eq!(meet(plain.heeded(), conditional.shown()), may, "{plain:?} sees {conditional:?}");
            // One that cannot be told heeds all stamps there are.
            let heeds = !conditional.is_told() || meet(plain.own(), conditional.heeded());
            assert_eq!(heeds, may, "{conditional:?} sees {plain:?}");
            let mut elsewhere = Reach::default();
            elsewhere.add(TableId::of("shop", "other"), Some(1));
            elsewhere.add(TableId::of("shop", "other"), None);
            assert!(!meet(elsewhere.heeded(), conditional.shown()) && !meet(plain.own(), elsewhere.heeded()));
        }
    }
}
