//! What shadow reads say before a switch: go, no go, or nothing yet.

use super::{Board, Counts, Shape};
use crate::check::{self, Finding};

crate::check::rules! {
    SHADOW_MISMATCH: Error "shadow_mismatch" "reads are answered differently by the other side, and it lasts: `tandem shadow mismatches` names the rows; `tandem repair`, or find out who writes there";
    SHADOW_SLOWER: Warning "shadow_slower" "the other side takes longer over these reads: look at its indexes, statistics (ANALYZE), caches and size before clients depend on it";
    SHADOW_UNPROVEN: Warning "shadow_unproven" "reads are sampled and none says anything yet: `tandem shadow status` says why";
}

/// Fewer reads of a shape say nothing of its speed.
const TIMED_MIN: u64 = 100;
/// So many times the primary's time is slower, at the 95th percentile ..
const SLOWER: f64 = 1.5;
/// .. if it is more than so many seconds, too.
const SLOWER_S: f64 = 0.002;
/// A statement's text in a finding, in bytes.
const TEXT_BYTES: usize = 100;

impl Board {
    /// What speaks against a switch now.
    pub fn findings(&self) -> Vec<Finding> {
        let shapes = self.shapes().list();
        let slower = shapes.iter().filter_map(|shape| slower(shape)).collect();
        let nothing = self.is_on() && shapes.iter().all(|shape| shape.compared() == shape.noise());
        let unproven = nothing.then(|| self.unproven()).into_iter().collect();
        let found = [(SHADOW_MISMATCH, self.differing()), (SHADOW_SLOWER, slower), (SHADOW_UNPROVEN, unproven)];
        found.into_iter().flat_map(|(rule, objects)| check::each(rule, None, objects)).collect()
    }

    /// Why nothing was compared.
    fn unproven(&self) -> String {
        match Counts::of(&self.shapes().total()) {
            counts if counts.in_vain() > 0 => format!("none of {} chosen: {}", counts.in_vain(), counts.reasons()),
            _ => "none came yet".to_owned(),
        }
    }

    /// Tables with differences that are open, and how many of each kind.
    fn differing(&self) -> Vec<String> {
        let epoch = self.epoch();
        let mut counts = std::collections::BTreeMap::<(String, &str), usize>::new();
        for entry in self.mismatches().list() {
            if entry.state(epoch) == super::State::Open {
                *counts.entry((entry.name, entry.how.as_str())).or_default() += 1;
            }
        }
        counts.into_iter().map(|((name, how), count)| format!("{name}: {count} {how}")).collect()
    }
}

/// What is to be said of a shape that the secondary takes longer over.
fn slower(shape: &Shape) -> Option<String> {
    let p95 = |histogram: &super::Histogram| histogram.quantile(0.95).map(|time| time.as_secs_f64());
    let (here, there) = (p95(&shape.primary)?, p95(&shape.secondary)?);
    let is_slower = shape.primary.count() >= TIMED_MIN && there > here * SLOWER && there - here > SLOWER_S;
    let text = super::shapes::cut(&shape.text, TEXT_BYTES);
    is_slower.then(|| format!("{text}: p95 {:.1} ms there, {:.1} ms here", there * 1e3, here * 1e3))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::Side;
    use crate::shadow::mismatches::At;
    use crate::shadow::shapes::End;
    use crate::shadow::tests::{Stage, about, difference};
    use crate::shadow::{Answer, Report};

    fn names(board: &Board) -> Vec<&'static str> {
        board.findings().iter().map(|finding| finding.rule.name).collect()
    }

    #[test]
    fn sampled_and_nothing_compared_is_unproven() {
        let stage = Stage::new(|_| {});
        assert_eq!(names(&stage.board), ["shadow_unproven"]);
        assert_eq!(Report::of(&stage.board).summary.verdict, Answer::Unproven);
        stage.board.shapes().place(&about(), 1).shape.ended(End::Match);
        assert!(names(&stage.board).is_empty());
        assert_eq!(Report::of(&stage.board).summary.verdict, Answer::Go);
        assert_eq!(Report::of(&Stage::off().board).summary.verdict, Answer::Off);
        assert!(names(&Stage::off().board).is_empty());
    }

    #[test]
    fn noise_proves_nothing() {
        let stage = Stage::new(|_| {});
        stage.board.shapes().place(&about(), 1).shape.ended(End::Noise);
        assert_eq!(stage.board.findings()[0].object, "none of 1 chosen: 1 noise");
        assert_eq!(Report::of(&stage.board).summary.verdict, Answer::Unproven);
        stage.board.shapes().place(&about(), 1).shape.ended(End::InFlight);
        assert!(names(&stage.board).is_empty());
        assert_eq!(Report::of(&stage.board).summary.verdict, Answer::Go);
    }

    #[test]
    fn what_was_compared_before_a_flip_is_no_verdict_after_it() {
        let stage = Stage::new(|_| {});
        stage.board.shapes().place(&about(), 1).shape.ended(End::Match);
        assert_eq!(Report::of(&stage.board).summary.verdict, Answer::Go);
        stage.gate.open(crate::shadow::tests::route(2));
        let report = Report::of(&stage.board);
        assert_eq!((report.summary.verdict, report.statements.len()), (Answer::Unproven, 0));
        assert_eq!(names(&stage.board), ["shadow_unproven"]);
    }

    #[test]
    fn a_difference_refuses_a_switch_until_it_is_gone_or_forgotten() {
        let stage = Stage::new(|_| {});
        let place = stage.board.shapes().place(&about(), 1);
        place.shape.ended(End::Mismatch);
        let at = At { primary: Side::Origin, epoch: 1 };
        let noted = stage.board.mismatches().note((place.id, &place.text), 0, difference(), at);
        assert_eq!(stage.board.findings()[0].object, "public.orders: 1 other_value");
        assert_eq!(Report::of(&stage.board).summary.verdict, Answer::NoGo);
        assert!(stage.board.mismatches().gone(noted.id, noted.sight));
        assert!(names(&stage.board).is_empty());
    }

    #[test]
    fn a_secondary_that_takes_longer_is_named_with_the_statement() {
        let stage = Stage::new(|_| {});
        let shape = stage.board.shapes().place(&about(), 1).shape;
        let timed =
            |secondary| shape.timed((Side::Origin, Duration::from_millis(10)), Duration::from_millis(secondary));
        shape.ended(End::Match);
        (0..TIMED_MIN - 1).for_each(|_| timed(40));
        assert!(names(&stage.board).is_empty(), "too few to say so");
        timed(40);
        let found = &stage.board.findings()[0];
        assert_eq!(found.rule.name, "shadow_slower");
        assert!(found.object.starts_with("select * from orders where id = ?: p95 3"), "{}", found.object);
    }
}
