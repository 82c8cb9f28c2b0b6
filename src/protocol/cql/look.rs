//! How many replicas of the primary a settlement asks.
//!
//! A reading shows for certain what was acknowledged if whoever it asks always includes one of those who acknowledged. At
//! `LOCAL_QUORUM` that holds for what was written with it, or with more. Drivers write with `LOCAL_ONE` unless they are
//! told otherwise: what one replica has then, the others may not have yet. So a record says how hard to look.

use super::wire::primitive::Consistency;

/// From the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Look {
    /// At `LOCAL_QUORUM`.
    #[default]
    LocalQuorum = 0,
    /// At `QUORUM`.
    Quorum = 1,
    /// At `ALL`.
    All = 2,
}

impl Look {
    /// What shows a write of this level for certain.
    pub(super) fn at_write(level: Consistency) -> Look {
        use Consistency::{All, EachQuorum, LocalQuorum, Quorum};
        match level {
            LocalQuorum | EachQuorum | All => Look::LocalQuorum,
            // A quorum of all may have few in this datacenter.
            Quorum => Look::Quorum,
            _ => Look::All,
        }
    }

    /// As records say it; what an older or newer tandem wrote is looked at as hard as can be.
    pub(super) fn of_u8(said: u8) -> Look {
        match said {
            0 => Look::LocalQuorum,
            1 => Look::Quorum,
            _ => Look::All,
        }
    }

    /// The level to read with.
    pub(super) fn level(self) -> Consistency {
        match self {
            Look::LocalQuorum => Consistency::LocalQuorum,
            Look::Quorum => Consistency::Quorum,
            Look::All => Consistency::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas in this datacenter and in another; all sets that may acknowledge, as (here, there).
    fn sets(level: Consistency, [here, there]: [u32; 2]) -> Vec<(u32, u32)> {
        let all = (0..=here).flat_map(|one| (0..=there).map(move |other| (one, other)));
        let quorum = |of: u32| of / 2 + 1;
        let enough = |(one, other): &(u32, u32)| match level {
            Consistency::LocalQuorum => *one >= quorum(here),
            Consistency::EachQuorum => *one >= quorum(here) && *other >= quorum(there),
            Consistency::Quorum => one + other >= quorum(here + there),
            Consistency::All => one + other == here + there,
            Consistency::Two => one + other >= 2,
            Consistency::Three => one + other >= 3,
            Consistency::LocalOne => *one >= 1,
            _ => one + other >= 1,
        };
        all.filter(enough).collect()
    }

    #[test]
    fn whoever_is_asked_always_includes_one_who_acknowledged() {
        use Consistency::*;
        for level in [One, Two, Three, Quorum, All, LocalQuorum, EachQuorum, LocalOne] {
            for replicas in [[1, 0], [3, 0], [5, 0], [3, 3], [3, 5]] {
                let look = Look::at_write(level).level();
                for (wrote, wrote_there) in sets(level, replicas) {
                    for (read, read_there) in sets(look, replicas) {
                        let meet = wrote + read > replicas[0] || wrote_there + read_there > replicas[1];
                        assert!(meet, "{level:?}, {look:?}, {replicas:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_says_it_in_a_byte() {
        for look in [Look::LocalQuorum, Look::Quorum, Look::All] {
            assert_eq!(Look::of_u8(look as u8), look);
        }
    }
}
