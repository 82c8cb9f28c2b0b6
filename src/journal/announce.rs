//! Labels that are durable before the first write that they cover.
//!
//! After a power loss, writes that were forwarded but not synced may be missing from the log; what they touched must then
//! be known (promise 3). A session announces its table's label before [`super::Journal::begin`]: once a window the first
//! one waits for a small sync of the control file, all others look into a map.
//!
//! A label that nobody announced for a whole window is dropped: what was written under it is durable by then.

use std::collections::HashMap;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::Journal;
use super::control::{LABELS, Labels};
use super::state::remember;

/// Labels that somebody announced in the window that runs: those need not be looked for again. Of one session.
#[derive(Default)]
pub struct Announcer {
    window: u64,
    labels: Vec<u64>,
}

/// More labels than these are announced again and again: the list is walked for each record.
const KEPT_MAX: usize = 64;

impl Announcer {
    /// Announce all of them. `Some`: wait for [`Journal::announced`] of this one, then ask again.
    pub fn announce(&mut self, journal: &Journal, labels: impl IntoIterator<Item = u64>) -> Option<u64> {
        let window = journal.window();
        if self.window != window || self.labels.len() > KEPT_MAX {
            (self.window, self.labels) = (window, Vec::new());
        }
        let mut pending = None;
        for label in labels {
            if self.labels.contains(&label) {
                continue;
            }
            if journal.announce(label) {
                self.labels.push(label);
            } else {
                pending = Some(label);
            }
        }
        pending
    }
}

pub(super) struct Announced {
    labels: HashMap<u64, Label>,
    /// Too many to list, and the file says so: every label is active until the journal is opened again.
    all: bool,
    window: u64,
    since: Instant,
    wakers: Vec<Waker>,
}

struct Label {
    /// The window in which it was announced last.
    window: u64,
    durable: bool,
}

impl Announced {
    pub(super) fn new() -> Announced {
        Announced { labels: HashMap::new(), all: false, window: 0, since: Instant::now(), wakers: Vec::new() }
    }

    /// `Some(true)`: durable already; `Some(false)`: being made so; `None`: new, the control file must be written.
    pub(super) fn announce(&mut self, label: u64) -> Option<bool> {
        if self.all {
            return Some(true);
        }
        if let Some(known) = self.labels.get_mut(&label) {
            known.window = self.window;
            return Some(known.durable);
        }
        // One more than fits is what makes the list say "all".
        if self.labels.len() <= LABELS {
            self.labels.insert(label, Label { window: self.window, durable: false });
        }
        None
    }

    pub(super) fn is_durable(&self, label: u64) -> bool {
        self.all || self.labels.get(&label).is_some_and(|label| label.durable)
    }

    /// Announced in this window or the one before; true of every label when they are too many to list.
    pub(super) fn is_known(&self, label: u64) -> bool {
        self.all || self.labels.contains_key(&label) || self.labels.len() > LABELS
    }

    /// The number of the window that runs.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        remember(&mut self.wakers, cx);
    }

    pub(super) fn list(&self) -> Labels {
        let list = Labels::new(self.labels.keys().copied().collect());
        Labels { all: list.all || self.all, ..list }
    }

    /// The control file holds `list` now.
    pub(super) fn written(&mut self, list: &Labels) -> Vec<Waker> {
        self.all |= list.all;
        for label in &list.list {
            if let Some(label) = self.labels.get_mut(label) {
                label.durable = true;
            }
        }
        self.wake()
    }

    pub(super) fn wake(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    /// Begin a new window if this one is over; true if that dropped labels.
    pub(super) fn rotate(&mut self, length: Duration) -> bool {
        if self.since.elapsed() < length {
            return false;
        }
        let before = self.labels.len();
        // One that is not written down yet is waited for.
        self.labels.retain(|_, label| label.window == self.window || !label.durable);
        self.window += 1;
        self.since = Instant::now();
        self.labels.len() < before
    }
}
