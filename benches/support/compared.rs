//! The lines of one row, from what its arms did.

use std::cell::RefCell;

use clap::ValueEnum;

use super::median;
use super::report::{Goal, Line, Report};
use super::rounds::{Samples, paired};

/// Where a row's lines go.
pub(crate) struct Compared<'a> {
    report: &'a RefCell<Report>,
    /// As it is named on the command line.
    row: String,
}

impl<'a> Compared<'a> {
    pub(crate) fn new(report: &'a RefCell<Report>, row: &impl ValueEnum) -> Compared<'a> {
        let row = row.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        Compared { report, row }
    }

    pub(crate) fn line(&self, line: Line) {
        self.report.borrow_mut().line(&line);
    }

    /// Something that is no comparison.
    pub(crate) fn note(&self, note: &str) {
        self.report.borrow_mut().note(&self.row, note);
    }

    /// A line to be filled in.
    pub(crate) fn empty(&self, what: &str, other: &str) -> Line {
        Line {
            row: self.row.clone(),
            what: what.to_owned(),
            other: other.to_owned(),
            unit: "",
            tandem: f64::NAN,
            others: f64::NAN,
            ratio: f64::NAN,
            cpu_us: (None, None),
            goal: Goal::None,
        }
    }

    /// One figure of each round, of both.
    pub(crate) fn values(
        &self,
        what: &str,
        unit: &'static str,
        tandem: &[f64],
        (other, others): (&str, &[f64]),
        goal: Goal,
    ) {
        let ratio = paired(tandem, others, |one, other| one / other);
        let (tandem, others) = (median(tandem.iter().copied()), median(others.iter().copied()));
        self.line(Line { unit, tandem, others, ratio, goal, ..self.empty(what, other) });
    }

    /// Requests a second.
    pub(crate) fn rate(&self, what: &str, tandem: &Samples, other: &str, others: &Samples, goal: Goal) {
        self.line(Line {
            unit: "1/s",
            tandem: tandem.rate(),
            others: others.rate(),
            ratio: paired(&tandem.per_second, &others.per_second, |one, other| one / other),
            cpu_us: (tandem.cpu_us(), others.cpu_us()),
            goal,
            ..self.empty(what, other)
        });
    }

    /// What the slowest of a hundred requests took.
    pub(crate) fn p99(&self, what: &str, tandem: &Samples, other: &str, others: &Samples, goal: Goal) {
        let of = |arm: &Samples| median(arm.p99_us.iter().copied());
        self.line(Line {
            unit: "us",
            tandem: of(tandem),
            others: of(others),
            ratio: paired(&tandem.p99_us, &others.p99_us, |one, other| one / other),
            cpu_us: (tandem.cpu_us(), others.cpu_us()),
            goal,
            ..self.empty(&format!("{what}, p99"), other)
        });
    }

    /// The median latency that each adds to going without a proxy.
    pub(crate) fn added(
        &self,
        what: &str,
        direct: &Samples,
        tandem: &Samples,
        other: &str,
        others: &Samples,
        goal: Goal,
    ) {
        let cpu_us = (tandem.cpu_us(), others.cpu_us());
        let added = |arm: &Samples| paired(&arm.latency_us, &direct.latency_us, |with, without| with - without);
        // A small difference of large numbers: rounds are not compared with each other.
        let (tandem, others) = (added(tandem), added(others));
        let ratio = tandem / others;
        self.line(Line { unit: "us", tandem, others, ratio, cpu_us, goal, ..self.empty(what, other) });
    }

    /// Memory in KB beside the most that it may be.
    pub(crate) fn memory(&self, what: &str, grown: f64, goal: f64) {
        let (unit, ratio, others) = ("KB", grown / goal, goal);
        let goal = Goal::AtMost(1.0);
        self.line(Line { unit, tandem: grown, others, ratio, goal, ..self.empty(what, "the goal") });
    }
}
