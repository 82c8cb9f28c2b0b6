//! How often a difference is said in the log: a table that differs in a thousand rows is one thing to know, not a thousand
//! lines. Each statement has one line a minute for each kind of difference, with the number of those that were left out;
//! every one of them is in the list, and counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::How;
use crate::telemetry::Seldom;

/// More statements and kinds are not told apart.
const TOLD_MAX: usize = 1_000;

/// What was said of late.
#[derive(Default)]
pub(super) struct Lines(Mutex<HashMap<(u64, How), Seldom>>);

impl Lines {
    /// Say it, and that so many were left out since the last time; `None`: leave it out.
    pub(super) fn next(&self, statement: u64, how: How) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = (statement, how);
        if told.len() >= TOLD_MAX && !told.contains_key(&place) {
            told.retain(|_, line| line.is_fresh());
            if told.len() >= TOLD_MAX {
                place.0 = 0;
            }
        }
        told.entry(place).or_default().say()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::LINES_EVERY;

    #[tokio::test(start_paused = true)]
    async fn a_statement_is_told_once_a_minute_with_what_was_left_out() {
        let lines = Lines::default();
        assert_eq!(lines.next(7, How::OtherValue), Some(0));
        assert_eq!((lines.next(7, How::OtherValue), lines.next(7, How::OtherValue)), (None, None));
        assert_eq!((lines.next(7, How::MissingRow), lines.next(8, How::OtherValue)), (Some(0), Some(0)));
        tokio::time::advance(LINES_EVERY).await;
        assert_eq!((lines.next(7, How::OtherValue), lines.next(7, How::OtherValue)), (Some(2), None));
        tokio::time::advance(LINES_EVERY).await;
        assert_eq!(lines.next(7, How::OtherValue), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_statements_at_once_share_a_line_promise_12() {
        let lines = Lines::default();
        let said = (1..=5_000).filter(|&statement| lines.next(statement, How::MissingRow).is_some()).count();
        assert_eq!(said, TOLD_MAX + 1);
        tokio::time::advance(LINES_EVERY).await;
        assert_eq!(lines.next(9_999, How::MissingRow), Some(0));
        assert!(lines.0.lock().expect("no test panics with it").len() <= TOLD_MAX);
    }
}
