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

/// The label of who may write under any, and says under which when that is known. It makes no other label an announced one: see
/// [`super::Journal::is_announced`].
pub const ANY: u64 = u64::MAX;

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
    /// At most [`LABELS`].
    labels: HashMap<u64, Label>,
    /// [`ANY`].
    any: Option<Label>,
    /// Labels that are not listed, because there are too many.
    more: Option<Label>,
    window: u64,
    since: Instant,
    wakers: Vec<Waker>,
}

struct Label {
    /// The window in which it was announced last.
    window: u64,
    durable: bool,
}

impl Label {
    /// Nobody needs it any more. One that is not written down yet is waited for.
    fn is_over(&self, window: u64) -> bool {
        self.window != window && self.durable
    }
}

/// Announce what stands alone. `None`: it is new.
fn note(label: &mut Option<Label>, window: u64) -> Option<bool> {
    let known = label.as_ref().map(|label| label.durable);
    *label = Some(Label { window, durable: known == Some(true) });
    known
}

impl Announced {
    pub(super) fn new() -> Announced {
        let (labels, since) = (HashMap::new(), Instant::now());
        Announced { labels, any: None, more: None, window: 0, since, wakers: Vec::new() }
    }

    /// `Some(true)`: durable already; `Some(false)`: being made so; `None`: new, the control file must be written.
    pub(super) fn announce(&mut self, label: u64) -> Option<bool> {
        if label == ANY {
            return note(&mut self.any, self.window);
        }
        if let Some(known) = self.labels.get_mut(&label) {
            known.window = self.window;
            return Some(known.durable);
        }
        if self.labels.len() == LABELS {
            return note(&mut self.more, self.window);
        }
        self.labels.insert(label, Label { window: self.window, durable: false });
        None
    }

    pub(super) fn is_durable(&self, label: u64) -> bool {
        let known = if label == ANY { self.any.as_ref() } else { self.labels.get(&label).or(self.more.as_ref()) };
        known.is_some_and(|label| label.durable)
    }

    /// Announced by itself in this window or the one before; true of every label when they are too many to list.
    pub(super) fn is_known(&self, label: u64) -> bool {
        self.labels.contains_key(&label) || self.more.is_some()
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
        Labels { all: self.any.is_some() || self.more.is_some(), ..list }
    }

    /// The control file holds `list` now.
    pub(super) fn written(&mut self, list: &Labels) -> Vec<Waker> {
        // Either of them stands for all.
        for label in [&mut self.any, &mut self.more].into_iter().flatten() {
            label.durable |= list.all;
        }
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
        let window = self.window;
        let before = self.labels.len();
        self.labels.retain(|_, label| !label.is_over(window));
        let mut dropped = self.labels.len() < before;
        for label in [&mut self.any, &mut self.more] {
            dropped |= label.take_if(|label| label.is_over(window)).is_some();
        }
        self.window += 1;
        self.since = Instant::now();
        dropped
    }
}
