//! Tasks that may not end by a panic unnoticed. The hook of panics has printed where it was; what is said here tells what
//! that means, and no word of the panic, which may name values (promise 13).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

/// A future ended by a panic.
#[derive(Debug, thiserror::Error)]
#[error("it ended by a panic: the log has where")]
pub struct Panicked;

/// Pauses before something is begun anew.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whether it ended by a panic. What it held is dropped either way.
///
/// # Errors
/// It did.
pub async fn caught(future: impl Future<Output = ()>) -> Result<(), Panicked> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|_| Panicked)
}

/// What cannot begin anew: the log says what is missing from now on.
pub async fn told(what: &'static str, future: impl Future<Output = ()>) {
    if caught(future).await.is_err() {
        tracing::error!("{what} ended by a panic: restart tandem to have it again");
    }
}

/// What is made anew after a panic, until it ends by itself or is stopped.
pub async fn kept<F: Future<Output = ()>>(what: &'static str, mut make: impl FnMut() -> F, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    while caught(make()).await.is_err() {
        tracing::error!(again_in = ?pause, "{what} ended by a panic");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_panics_is_made_anew_until_it_is_stopped() {
        let (stop, mut made) = (CancellationToken::new(), 0);
        let make = || {
            made += 1;
            let last = made == 3;
            async move { assert!(last, "not yet") }
        };
        kept("it", make, stop.clone()).await;
        assert_eq!(made, 3);
        stop.cancel();
        kept("it", || async { panic!("always") }, stop).await;
    }
}
