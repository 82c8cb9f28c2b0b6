//! What sampler, service and admin API share: the settings, the room in the queue, the counts, the differences.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{Semaphore, mpsc};

use super::{Handle, Mismatches, Queue, Shapes};
use crate::config::{self, Live};
use crate::cutover::gate::Gate;
use crate::journal::Journal;
use crate::metrics;

/// Shadow reads of one process; cheap to clone.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

/// What is behind it.
pub(super) struct Shared {
    pub(super) config: config::Shadow,
    pub(super) wire: &'static str,
    pub(super) live: Live,
    pub(super) gate: Gate,
    pub(super) journal: Journal,
    /// One permit for each read that is in the queue, or about to be.
    pub(super) room: Arc<Semaphore>,
    /// Bytes that those reads keep.
    pub(super) bytes: AtomicUsize,
    pub(super) shapes: Shapes,
    pub(super) mismatches: Mismatches,
}

impl Board {
    /// Nothing is chosen while `shadow.sample` is 0. `wire` is the word of the metrics' label.
    pub fn new(config: &config::Shadow, wire: &'static str, live: Live, gate: Gate, journal: Journal) -> Board {
        Board(Arc::new(Shared {
            room: Arc::new(Semaphore::new(config.queue.min(Semaphore::MAX_PERMITS))),
            config: config.clone(),
            wire,
            live,
            gate,
            journal,
            bytes: AtomicUsize::new(0),
            shapes: Shapes::new(wire),
            mismatches: Mismatches::default(),
        }))
    }

    /// The two ends of the queue: sessions have the handle, a [`super::Service`] the other end. Once for each board.
    pub fn open<R>(&self) -> (Handle<R>, Queue<R>) {
        // As many as have room: sending never waits.
        let (jobs, queue) = mpsc::channel(self.0.config.queue);
        (Handle::new(self.clone(), jobs), Queue { board: self.clone(), jobs: queue })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// The settings that do not change.
    pub fn config(&self) -> &config::Shadow {
        &self.0.config
    }

    /// What became of reads, since the last flip.
    pub fn shapes(&self) -> &Shapes {
        self.0.shapes.begin(self.epoch());
        &self.0.shapes
    }

    /// Differences that lasted.
    pub fn mismatches(&self) -> &Mismatches {
        &self.0.mismatches
    }

    /// The share of reads that is chosen, 0 to 1.
    pub fn sample(&self) -> f64 {
        self.0.live.get().sample.fraction()
    }

    /// Reads are chosen.
    pub fn is_on(&self) -> bool {
        self.0.live.sampled() > 0
    }

    /// The number of the control state now.
    pub(super) fn epoch(&self) -> u64 {
        self.0.gate.route().epoch
    }

    /// Differences that lasted and are still there, as far as is known.
    pub fn open_mismatches(&self) -> usize {
        self.0.mismatches.open(self.epoch())
    }

    /// Those of them at which nobody looks whether they are gone.
    pub fn unfollowed_mismatches(&self) -> usize {
        self.0.mismatches.unfollowed(self.epoch())
    }

    /// Reads in the queue or under way, and bytes that they keep.
    pub fn queued(&self) -> (usize, usize) {
        let free = self.0.room.available_permits();
        (self.0.config.queue.saturating_sub(free), self.0.bytes.load(Relaxed))
    }

    /// Set the gauges that are read rather than counted where things happen.
    pub fn record(&self) {
        let (reads, bytes) = self.queued();
        metrics::SHADOW_QUEUE.gauge(&[]).set(reads as f64);
        metrics::SHADOW_QUEUE_BYTES.gauge(&[]).set(bytes as f64);
        metrics::SHADOW_SAMPLE_RATIO.gauge(&[]).set(self.sample());
        metrics::SHADOW_MISMATCHES.gauge(&[]).set(self.open_mismatches() as f64);
        metrics::SHADOW_UNFOLLOWED.gauge(&[]).set(self.unfollowed_mismatches() as f64);
    }
}
