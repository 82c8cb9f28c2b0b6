//! How many replicas of the primary a settlement asks.
//!
//! A reading shows for certain what was acknowledged if whoever it asks always includes one of those who acknowledged. At
//! `LOCAL_QUORUM` that holds for what was written with it, or with more. Drivers write with `LOCAL_ONE` unless they are
//! told otherwise: what one replica has then, the others may not have yet. So a record says how hard to look.
//!
//! What Paxos decides is shown for certain by a reading of Paxos's own, which finishes what was begun: that of one datacenter
//! knows nothing of what was decided by all, and the other way round. And a logged batch that no replica has comes when its log
//! is replayed. So a record also says how it is decided. Both are one byte: the look in the lower half, this in the upper.

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

    /// As records say it, together with how it is decided.
    pub(super) fn said(self, decided: Decided) -> u8 {
        self as u8 | (decided as u8) << 4
    }

    /// Of what a record says; what an older or newer tandem wrote is looked at as hard as can be.
    pub(super) fn of_said(said: u8) -> Look {
        match said & 0xf {
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

/// What decides whether a write that goes by state happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Decided {
    /// The replicas that get it, or the record does not say: older ones did not.
    #[default]
    Unsaid = 0,
    /// Paxos of the coordinator's datacenter.
    Local = 1,
    /// Paxos of all of them.
    Everywhere = 2,
    /// The log of its batch.
    Logged = 3,
}

impl Decided {
    /// Of a conditional request; without a level it is decided by all.
    pub(super) fn of(level: Option<Consistency>) -> Decided {
        if level == Some(Consistency::LocalSerial) { Decided::Local } else { Decided::Everywhere }
    }

    /// Of what a record says.
    pub(super) fn of_said(said: u8) -> Decided {
        match said >> 4 {
            1 => Decided::Local,
            2 => Decided::Everywhere,
            3 => Decided::Logged,
            _ => Decided::Unsaid,
        }
    }

    /// The levels of Paxos to read with first, each with whether replicas that are away are waited for. Where nobody said that it
    /// has a say, another datacenter that is gone must not hold the mirror up.
    pub(super) fn levels(self) -> &'static [(Consistency, bool)] {
        use Consistency::{LocalSerial, Serial};
        match self {
            Decided::Unsaid => &[(LocalSerial, true), (Serial, false)],
            Decided::Local => &[(LocalSerial, true)],
            Decided::Everywhere => &[(Serial, true)],
            Decided::Logged => &[],
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
            assert_eq!(Look::of_said(look as u8), look, "as older ones did");
            for decided in [Decided::Unsaid, Decided::Local, Decided::Everywhere, Decided::Logged] {
                let said = look.said(decided);
                assert_eq!((Look::of_said(said), Decided::of_said(said)), (look, decided));
            }
        }
    }

    #[test]
    fn only_who_asked_all_datacenters_to_decide_waits_for_those_that_are_gone() {
        let waits = |decided: Decided| decided.levels().contains(&(Consistency::Serial, true));
        assert!(waits(Decided::of(None)) && waits(Decided::of(Some(Consistency::Serial))));
        assert!(!waits(Decided::of(Some(Consistency::LocalSerial))) && !waits(Decided::Unsaid));
    }
}
