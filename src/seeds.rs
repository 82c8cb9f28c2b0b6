//! What the seeded simulations have in common: paused time, every seed of a range, and whether a rule that is bent on purpose is
//! noticed.

use std::future::Future;
use std::panic::{RefUnwindSafe, catch_unwind};

/// Play on one thread, in time that goes on only when nothing else can.
pub(crate) fn paused<T>(play: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play)
}

/// The sum of what all seeds say, or of what the pasted one does.
///
/// # Panics
/// When one panics: with its number.
pub(crate) fn sum(pasted: Option<u64>, seeds: u64, play: impl Fn(u64) -> u64 + RefUnwindSafe) -> u64 {
    let seeds = pasted.map_or(0..seeds, |seed| seed..seed + 1);
    let played =
        |seed| catch_unwind(|| play(seed)).unwrap_or_else(|_| panic!("seed {seed} failed: paste it into SEED"));
    seeds.map(played).sum()
}

/// Whether one of so many seeds panics.
pub(crate) fn caught(seeds: u64, play: impl Fn(u64) -> u64 + RefUnwindSafe) -> bool {
    (0..seeds).any(|seed| catch_unwind(|| play(seed)).is_err())
}
