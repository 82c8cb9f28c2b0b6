//! Statements that stay prepared: parsed when they are put for the first time, bound by name from then on.

use std::collections::{HashMap, VecDeque};

/// More are closed again, the oldest first: the server keeps a plan for each.
const KEPT_MAX: usize = 256;

/// The names that a connection gave to statements, by their text.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    names: HashMap<Box<str>, u64>,
    /// Oldest first.
    order: VecDeque<Box<str>>,
    next: u64,
    /// The server refused something, maybe one of these: none of them is sure to be there.
    pub(super) doubtful: bool,
}

/// What to put for a statement.
pub(super) struct Choice {
    pub(super) name: String,
    /// Parse it first.
    pub(super) parse: bool,
    /// Close these before.
    pub(super) close: Vec<String>,
}

impl Prepared {
    pub(super) fn choose(&mut self, sql: &str) -> Choice {
        let mut close = Vec::new();
        if std::mem::take(&mut self.doubtful) {
            self.order.clear();
            close.extend(self.names.drain().map(|(_, number)| name(number)));
        }
        if let Some(&number) = self.names.get(sql) {
            return Choice { name: name(number), parse: false, close };
        }
        if self.names.len() >= KEPT_MAX {
            let oldest = self.order.pop_front().and_then(|sql| self.names.remove(&sql));
            close.extend(oldest.map(name));
        }
        self.next += 1;
        self.names.insert(sql.into(), self.next);
        self.order.push_back(sql.into());
        Choice { name: name(self.next), parse: true, close }
    }
}

fn name(number: u64) -> String {
    format!("tandem_{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_parsed_once_until_the_server_refused_something() {
        let mut prepared = Prepared::default();
        let first = prepared.choose("a");
        assert!(first.parse && first.close.is_empty());
        let again = prepared.choose("a");
        assert!(!again.parse && again.name == first.name);
        prepared.doubtful = true;
        let anew = prepared.choose("a");
        assert!(anew.parse && anew.name != first.name);
        assert_eq!(anew.close, [first.name]);
    }

    #[test]
    fn many_statements_close_the_oldest_promise_12() {
        let mut prepared = Prepared::default();
        let first = prepared.choose("0").name;
        for n in 1..KEPT_MAX {
            assert!(prepared.choose(&n.to_string()).close.is_empty());
        }
        assert_eq!(prepared.choose("one more").close, [first]);
        assert!(prepared.choose("0").parse && prepared.names.len() == KEPT_MAX);
    }
}
