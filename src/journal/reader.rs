//! Reading the log: near its end from the ring, else from the segments.

use std::io;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::entry::{self, Kind, Stop};
use super::segment::Segment;
use super::state::{Drive, Shared, State};
use super::{Entry, Error, Lsn};

/// Bytes of one read, whatever was asked for; one record that is larger is read alone.
const MOST: u64 = 4 << 20;
const LEAST: u64 = 4096;

/// Where a stretch of the log is.
enum Source {
    /// Pinned until it was copied.
    Ring {
        from: u64,
        to: u64,
    },
    File {
        segment: Segment,
        from: u64,
        to: u64,
    },
    /// There is nothing after this position yet.
    End(u64),
}

impl Shared {
    pub(super) async fn read(self: &Arc<Self>, from: Lsn, bytes: usize) -> Result<(Vec<Entry>, Lsn), Error> {
        let source = self.locate(from.0)?;
        // A file may have to be read from the disk: not on a thread that others need.
        let handle = tokio::runtime::Handle::try_current().ok();
        match (source, handle) {
            (source @ Source::File { .. }, Some(handle)) if self.drive == Drive::Threads => {
                let shared = self.clone();
                let read = handle.spawn_blocking(move || shared.entries(source, bytes as u64));
                read.await.unwrap_or_else(|_| Err(Error::Broken("reading it was interrupted".into())))
            }
            (source, _) => self.entries(source, bytes as u64),
        }
    }

    fn locate(&self, from: u64) -> Result<Source, Error> {
        let mut state = self.lock();
        if from < state.trimmed {
            return Err(Error::Trimmed(Lsn(from)));
        }
        if from >= state.appended {
            return Ok(Source::End(from));
        }
        if from >= state.moved || from >= self.oldest_in_ring(&state) {
            state.pins.push(from);
            return Ok(Source::Ring { from, to: state.appended });
        }
        Ok(locate_segment(&state, from))
    }

    /// Half the ring is left to the appends, so that a reader's pin never stops them.
    fn oldest_in_ring(&self, state: &State) -> u64 {
        state.start.max(state.appended.saturating_sub(self.ring.size() / 2))
    }

    fn entries(&self, source: Source, bytes: u64) -> Result<(Vec<Entry>, Lsn), Error> {
        let want = bytes.clamp(LEAST, MOST);
        match source {
            Source::End(at) => Ok((Vec::new(), Lsn(at))),
            Source::Ring { from, to } => {
                let _pin = Pin { shared: self, from };
                self.decode(from, to, want, |at, out| {
                    self.ring.read(at, out);
                    Ok(())
                })
            }
            Source::File { segment, from, to } => {
                let read = self.decode(from, to, want, |at, out| segment.slot.blob.read_at(segment.offset(at), out));
                // Its slot may have been given to a later segment meanwhile.
                if from < self.lock().trimmed { Err(Error::Trimmed(Lsn(from))) } else { read }
            }
        }
    }

    /// Entries of `from..to`, about `want` bytes and at least one.
    fn decode(
        &self,
        from: u64,
        to: u64,
        want: u64,
        mut fetch: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<(Vec<Entry>, Lsn), Error> {
        let mut want = want.min(to - from) as usize;
        loop {
            let mut buffer = vec![0; want];
            fetch(from, &mut buffer).map_err(|error| Error::Broken(error.to_string().into()))?;
            match split(self.seed, from, buffer.into()) {
                Ok(found) => return Ok(found),
                Err(Stop::Short(need)) if need as u64 <= to - from => want = need,
                Err(_) => return Err(Error::Damaged(from)),
            }
        }
    }
}

/// The whole entries at the front of `buffer`; an error if there is not one.
fn split(seed: u32, from: u64, buffer: Bytes) -> Result<(Vec<Entry>, Lsn), Stop> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let lsn = from + at as u64;
        match entry::decode(seed, lsn, &buffer[at..]) {
            Ok((kind, len)) => {
                entries.push(entry(kind, lsn, buffer.slice(at + entry::HEADER..at + len)));
                at += len;
            }
            Err(stop) if entries.is_empty() => return Err(stop),
            // Cut off by the buffer, or invalid: the next read begins here and tells.
            Err(_) => return Ok((entries, Lsn(lsn))),
        }
    }
}

fn entry(kind: Kind, lsn: u64, payload: Bytes) -> Entry {
    let lsn = Lsn(lsn);
    match kind {
        Kind::Record => Entry::Record { lsn, payload },
        Kind::Outcome { of, outcome } => Entry::Outcome { lsn, of, outcome },
        Kind::Dropped { of } => Entry::Dropped { lsn, of },
    }
}

/// `from` is below `moved`: some segment has it, or begins behind the gap in which it lies.
fn locate_segment(state: &State, from: u64) -> Source {
    let found = state.live.iter().find(|segment| segment.end.unwrap_or(state.moved) > from);
    let Some(segment) = found.cloned() else { return Source::End(from) };
    let (from, to) = (from.max(segment.base), segment.end.unwrap_or(state.moved).min(state.moved));
    if from >= to { Source::End(from) } else { Source::File { segment, from, to } }
}

struct Pin<'a> {
    shared: &'a Shared,
    from: u64,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = self.shared.lock();
            let before = state.floor();
            if let Some(index) = state.pins.iter().position(|pin| *pin == self.from) {
                state.pins.swap_remove(index);
            }
            let freed = state.floor() > before;
            if freed { std::mem::take(&mut state.waiting.room) } else { Vec::new() }
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::storage::MemoryDisk;
    use crate::journal::{Journal, Options};

    #[tokio::test]
    async fn who_waits_for_room_hears_of_it_when_a_reader_gives_the_ring_back() {
        let options =
            Options { segment_bytes: 16384, record_limit_bytes: 2000, ring_bytes: 8192, ..Options::default() };
        let (journal, _) = Journal::open_on(MemoryDisk::default().storage(), options).expect("opens");
        while journal.begin(&[7; 500]).is_ok() {}
        journal.shared.lock().pins.push(0);
        let pin = Pin { shared: &journal.shared, from: 0 };
        journal.sync_now();
        let waits = journal.clone();
        let room = tokio::spawn(async move { waits.room(500).await });
        tokio::task::yield_now().await;
        assert!(!room.is_finished(), "the reader has not copied it yet");
        drop(pin);
        let room = tokio::time::timeout(Duration::from_secs(60), room).await.expect("it heard of it");
        assert_eq!(room.expect("no panic"), Ok(()));
    }
}
