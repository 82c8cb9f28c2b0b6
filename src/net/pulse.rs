//! Whether both sides answer, and how fast: each is asked something trivial once a second, on a connection that is used
//! for nothing else. What clients wait for is more than that; but where this gets slow or silent, a side is in trouble,
//! and it is the one figure that means the same on both sides, whichever of them answers clients.
//!
//! A wire says how to ask ([`Ask`]); everything else is here. Nobody waits for a pulse.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::record::Side;

/// From one answer to the next question.
const EVERY: Duration = Duration::from_secs(1);
/// A side that says nothing for so long does not answer. The connection is given up with it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How a wire asks a side something trivial.
pub trait Ask: Send + Sync + 'static {
    /// A connection to it.
    type Link: Send;

    /// Connect. A failure is told to operators.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, String>> + Send;

    /// Ask, and wait for the answer. Need not be cancel safe: the link is dropped with the future.
    fn ask(&self, link: &mut Self::Link) -> impl Future<Output = Result<(), String>> + Send;
}

/// What was felt last.
#[derive(Clone, Debug, PartialEq)]
pub enum Beat {
    /// It answered, after so long.
    Answered(Duration),
    /// It did not, and this is why.
    Silent(String),
}

/// What both sides said last. Clones are the same.
#[derive(Clone)]
pub struct Pulses {
    origin: watch::Receiver<Option<Beat>>,
    target: watch::Receiver<Option<Beat>>,
}

impl Pulses {
    /// `None`: this side was not asked yet.
    pub fn of(&self, side: Side) -> Option<Beat> {
        match side {
            Side::Origin => self.origin.borrow().clone(),
            Side::Target => self.target.borrow().clone(),
        }
    }
}

/// Ask both sides until `stop`: what they say, and what must be run for it.
pub fn feel<A: Ask>(
    origin: A,
    target: A,
    stop: CancellationToken,
) -> (Pulses, impl Future<Output = ()> + Send + 'static) {
    let (tell_origin, heard_origin) = watch::channel(None);
    let (tell_target, heard_target) = watch::channel(None);
    let asking = async move {
        let both = async {
            tokio::join!(keep(Side::Origin, origin, tell_origin), keep(Side::Target, target, tell_target));
        };
        stop.run_until_cancelled(both).await;
    };
    (Pulses { origin: heard_origin, target: heard_target }, asking)
}

async fn keep<A: Ask>(side: Side, ask: A, tell: watch::Sender<Option<Beat>>) {
    let label = [("side", side.as_str())];
    let (up, seconds) = (metrics::SIDE_UP.gauge(&label), metrics::SIDE_SECONDS.histogram(&label));
    let mut link = None;
    loop {
        let beat = beat(&ask, &mut link).await;
        match &beat {
            Beat::Answered(took) => {
                up.set(1.0);
                seconds.record(took.as_secs_f64());
            }
            Beat::Silent(_) => up.set(0.0),
        }
        tell.send_replace(Some(beat));
        sleep(EVERY).await;
    }
}

/// Ask once; connect before, where there is no connection. After a failure there is none.
async fn beat<A: Ask>(ask: &A, kept: &mut Option<A::Link>) -> Beat {
    let asked = timeout(PATIENCE, async {
        let mut link = match kept.take() {
            Some(link) => link,
            None => ask.connect().await?,
        };
        let began = Instant::now();
        ask.ask(&mut link).await?;
        Ok((link, began.elapsed()))
    });
    match asked.await {
        Ok(Ok((link, took))) => {
            *kept = Some(link);
            Beat::Answered(took)
        }
        Ok(Err(why)) => Beat::Silent(why),
        Err(_) => Beat::Silent(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Mutex;

    use super::*;

    /// A side that does as it is told: `Ok` answers after so long.
    #[derive(Clone, Default)]
    struct Told {
        next: Arc<Mutex<Option<Result<Duration, &'static str>>>>,
        connected: Arc<AtomicU64>,
    }

    impl Ask for Told {
        type Link = ();

        async fn connect(&self) -> Result<(), String> {
            self.connected.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        async fn ask(&self, (): &mut ()) -> Result<(), String> {
            let next = *self.next.lock().await;
            match next.unwrap_or(Ok(Duration::ZERO)) {
                Ok(after) => sleep(after).await,
                Err(why) => return Err(why.to_owned()),
            }
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_is_silent_until_it_answers_again_and_keeps_its_connection_while_it_does() {
        let (origin, target) = (Told::default(), Told::default());
        let stop = CancellationToken::new();
        let (pulses, asking) = feel(origin, target.clone(), stop.clone());
        let running = tokio::spawn(asking);
        let mut heard = pulses.target.clone();
        let mut next = async |tell: Result<Duration, &'static str>| {
            *target.next.lock().await = Some(tell);
            heard.mark_unchanged();
            heard.changed().await.expect("it runs");
            heard.borrow().clone().expect("asked")
        };
        assert_eq!(next(Ok(Duration::from_millis(7))).await, Beat::Answered(Duration::from_millis(7)));
        assert_eq!(next(Ok(Duration::from_millis(9))).await, Beat::Answered(Duration::from_millis(9)));
        assert_eq!(target.connected.load(Ordering::Relaxed), 1);
        assert_eq!(next(Err("refused")).await, Beat::Silent("refused".to_owned()));
        let hung = next(Ok(Duration::from_secs(3_600))).await;
        assert_eq!(hung, Beat::Silent("no answer within 5 s".to_owned()));
        assert_eq!(next(Ok(Duration::ZERO)).await, Beat::Answered(Duration::ZERO));
        assert_eq!(target.connected.load(Ordering::Relaxed), 3);
        assert_eq!(pulses.of(Side::Origin), Some(Beat::Answered(Duration::ZERO)));
        stop.cancel();
        running.await.expect("it ends");
    }
}
