//! What people see while the demo runs.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Output;

/// A line that moves, and lines above it that stay. Clones are the same.
#[derive(Clone)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Nothing moves where a program reads the result.
    pub(super) fn new(output: &Output) -> Progress {
        if output.is_json() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a constant that the tests show");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    /// What goes on now.
    pub(super) fn now(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// A line that stays above the progress; where nobody watches a terminal, a line of standard error.
    pub(super) fn tell(&self, line: &str) {
        if self.0.is_hidden() {
            let _ = writeln!(std::io::stderr(), "demo: {line}");
        } else {
            self.0.println(line);
        }
    }

    /// Clear it away.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_template_is_one() {
        Progress::new(&Output::new(false)).end();
    }
}
