//! What the log says of a journal without room: that it is full, that clients wait for it, and that it is over. Each
//! once, and only where it lasts: a disk that is a moment behind is no news.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Journal, Status};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Look until stopped.
pub async fn watch(journal: Journal, stop: CancellationToken) {
    let mut seen = Seen::default();
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        seen.look(&journal.status());
    }
}

#[derive(Default)]
struct Seen {
    full: Lasting,
    waiting: Lasting,
}

impl Seen {
    fn look(&mut self, status: &Status) {
        match self.full.look(status.full) {
            Some(true) => {
                let then = "what clients write becomes dirty, or they wait (journal.on_full)";
                tracing::error!(bytes = status.bytes, limit_bytes = status.limit_bytes, "the journal is full: {then}");
            }
            Some(false) => tracing::info!("the journal is no longer full"),
            None => {}
        }
        match self.waiting.look(status.waiting > 0) {
            Some(true) => tracing::error!(waiting = status.waiting, "clients wait for room in the journal"),
            Some(false) => tracing::info!("no client waits for room in the journal any more"),
            None => {}
        }
    }
}

/// Something that is told when it is there at two looks in a row, and again when it is over.
#[derive(Default)]
struct Lasting {
    seen: bool,
    told: bool,
}

impl Lasting {
    fn look(&mut self, is: bool) -> Option<bool> {
        let tell = is && (self.told || self.seen);
        self.seen = is;
        (std::mem::replace(&mut self.told, tell) != tell).then_some(tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_and_so_is_its_end() {
        let mut lasting = Lasting::default();
        let looks = [true, false, true, true, true, false, false, true, true];
        let told = looks.map(|is| lasting.look(is));
        let (begun, over) = (Some(true), Some(false));
        assert_eq!(told, [None, None, None, begun, None, over, None, None, begun]);
    }
}
