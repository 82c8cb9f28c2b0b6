//! What a switch asks of a wire and its mirror, step by step. The order of the calls is the controller's.

use std::future::Future;
use std::time::Duration;

use crate::check::Finding;
use crate::journal::Lsn;
use crate::record::Side;

use super::gate::Route;

/// Why a step was not done. Before the flip it ends the switch, and clients go on as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A side is away or refuses.
    #[error("{side}: {why}")]
    Side {
        /// Which.
        side: Side,
        /// What it said, without row values.
        why: String,
    },
    /// What must hold does not: rows differ, something is dirty, ..
    #[error("{0}")]
    Refused(String),
}

/// A primary is given up without being asked.
#[derive(Clone, Debug)]
pub struct Force {
    /// So many keys may be lost.
    pub lose: u64,
    /// Only look: `relax` follows.
    pub look: bool,
    /// Findings that do not refuse.
    pub ignored: Vec<String>,
}

impl Force {
    /// The walk goes on with these.
    pub fn goes_on(&self, found: &[Finding]) -> bool {
        !self.look && !found.iter().any(|finding| finding.refuses(&self.ignored))
    }
}

/// What the newest rows showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Keys looked at on both sides.
    pub keys: u64,
    /// Keys whose rows differ.
    pub different: u64,
}

/// The wire's hands at a switch. One owner. `from` is the primary when the switch begins, `to` the other side.
///
/// Called in this order: `prepare`; then, with the gate closed and every unit out, `quiesce`, `apply`, `verify`, `ready`;
/// then, with the flip durable, `flip`, and with the gate open again `settle`. Where the walk ends before the flip,
/// `undo`. Every future may be dropped half-way: then `undo` follows (before it perhaps `hindrances`), or the process ends.
///
/// What a dropped step, or a process that died, had sent to a server may still be done there, later. `ready`, `settle` and
/// `undo` begin when that is over: otherwise what they do could be done the other way round.
pub trait Steps: Send {
    /// Look for everything that stands in the way, and get ready what can be ready before clients are held: connections
    /// of sessions to `to`, the reverse path. What fails is a finding; one of severity error ends the switch.
    /// Clients go on meanwhile, and are held for `max_hold` at most later.
    fn prepare(&mut self, to: Side, max_hold: Duration) -> impl Future<Output = Vec<Finding>> + Send;

    /// As `prepare`, where `from` is gone for good: nothing is asked of it. Sessions that wait for its answer are ended. The
    /// last values of the keys that are owed are lost with it: they are kept as a list, and more than may be lost are a
    /// finding of severity error. The steps that follow do without `from` too, until `flip` or `undo`.
    fn give_up(&mut self, to: Side, force: &Force) -> impl Future<Output = Vec<Finding>> + Send {
        let _ = force;
        self.prepare(to, Duration::MAX)
    }

    /// A dry run is over: close what `prepare` opened.
    fn relax(&mut self) -> impl Future<Output = ()> + Send;

    /// Resolves when nothing that tandem forwarded can act on `from` any more: orphaned backends and two-phase
    /// transactions are over.
    fn quiesce(&mut self, from: Side) -> impl Future<Output = Result<(), Error>> + Send;

    /// What is still in the way of the drain, of `quiesce` or of `apply`: units with their age and shape, for people. No row values.
    fn hindrances(&mut self, from: Side) -> impl Future<Output = Vec<String>> + Send;

    /// Read the end position of the journal, and wait until the mirror has paid everything below.
    fn apply(&mut self) -> impl Future<Output = Result<Lsn, Error>> + Send;

    /// Compare the rows that were written last.
    fn verify(&mut self) -> impl Future<Output = Result<Compared, Error>> + Send;

    /// Make `to` ready for writes: the mirror towards it ended, sequences advanced, triggers as they must be, all of it
    /// durable there; and the reverse mirror open, so that nothing of it can fail any more.
    fn ready(&mut self, to: Side) -> impl Future<Output = Result<(), Error>> + Send;

    /// The flip is durable: from now on `route.primary` answers, and its writes from `since` on are mirrored to the other
    /// side. Cannot fail; the gate opens when it returns.
    fn flip(&mut self, route: Route, since: Lsn);

    /// Clients run on the new primary: make the old one refuse late writers, or watch it. Repeated until it is done, and
    /// at the start of a process whose sides were switched: doing it twice is harmless.
    fn settle(&mut self, primary: Side) -> impl Future<Output = Result<(), Error>> + Send;

    /// The walk towards the other side ended before its flip, perhaps in an earlier process: what it did there is undone,
    /// and the mirror runs as before. Repeated until it is done: doing it twice is harmless.
    fn undo(&mut self, primary: Side) -> impl Future<Output = Result<(), Error>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutover::mirror::{HISTORY_UNKNOWN, TABLES_DIRTY};

    #[test]
    fn a_primary_is_given_up_with_findings_that_are_warnings_or_ignored() {
        let found = [TABLES_DIRTY, HISTORY_UNKNOWN].map(|rule| Finding { rule, side: None, object: String::new() });
        let goes_on = |look, ignored: &[&str], found: &[Finding]| {
            let ignored = ignored.iter().map(|&name| name.to_owned()).collect();
            Force { lose: 0, look, ignored }.goes_on(found)
        };
        assert!(goes_on(false, &[], &found[1..]) && goes_on(false, &["tables_dirty"], &found));
        assert!(!goes_on(false, &[], &found) && !goes_on(true, &["tables_dirty"], &found));
    }
}
