//! What is done to the servers and to tandem while clients write.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Failure;
use super::Pair;
use super::history::{self, Compared, Walked};
use super::load::Load;
use super::progress::Progress;
use super::shadow::{self, Shadowed};
use super::switches::{self, Switches};
use super::tandem::{self, Tandem};
use crate::admin::client::Client as Admin;
use crate::backfill::Kind;

/// Everything that plays: dropped in this order, and then nothing of it is left.
pub(super) struct Stage<P> {
    pub(super) tandem: Tandem,
    pub(super) pair: P,
}

/// What was done.
#[derive(Default)]
pub(super) struct Played {
    /// `None`: it was not done.
    pub(super) backfill: Option<Walked>,
    /// The comparison in the end, by tandem.
    pub(super) last: Option<Walked>,
    pub(super) kills: u64,
    pub(super) outage: Duration,
    pub(super) switches: Switches,
    /// The difference that was planted.
    pub(super) shadowed: Shadowed,
}

impl Played {
    /// What tandem compared, after the copy and in the end: nothing, where one of them was not done.
    pub(super) fn verify(&self) -> Compared {
        let both = self.backfill.as_ref().zip(self.last.as_ref());
        both.map(|(copied, last)| copied.verify().plus(last.verify())).unwrap_or_default()
    }
}

/// What happens while the load runs: history is copied and compared; a difference is planted on the target; a switch to the target and back; then the target is
/// away for a fifth of the time; tandem is killed twice; and the last switches end at the target, as a migration does.
/// Longer runs switch more often.
pub(super) async fn act<P: Pair>(
    seconds: u64,
    stage: &mut Stage<P>,
    load: &Load,
    progress: &Progress,
) -> Result<Played, Failure> {
    let rounds = seconds.div_ceil(20);
    let mut played = Played::default();
    let began = Instant::now();
    let at = |part: f64| began + Duration::from_secs(seconds).mul_f64(part);
    sleep_until(at(0.02)).await;
    let walked = history::walk(Kind::Backfill, &stage.tandem.admin()?).await?;
    progress.tell(&format!("history copied and compared under load: {}", walked.told()));
    played.backfill = Some(walked);
    played.shadowed = shadow::play(stage, load, progress).await?;
    sleep_until(at(0.05)).await;
    switch(2 * rounds, &mut played.switches, &stage.tandem.admin()?, load, progress).await;
    sleep_until(at(0.25)).await;
    let away = Instant::now();
    tokio::task::block_in_place(|| stage.pair.kill_target())?;
    progress.tell("target killed (SIGKILL to all its processes); clients go on");
    sleep_until(at(0.45)).await;
    tokio::task::block_in_place(|| stage.pair.revive_target())?;
    played.outage = away.elapsed();
    progress.tell(&format!("target is back after {:.1} s", played.outage.as_secs_f64()));
    for part in [0.55, 0.65] {
        sleep_until(at(part)).await;
        kill(&mut stage.tandem, load, progress).await?;
        played.kills += 1;
    }
    sleep_until(at(0.75)).await;
    switch(2 * rounds + 1, &mut played.switches, &stage.tandem.admin()?, load, progress).await;
    sleep_until(at(1.0)).await;
    Ok(played)
}

async fn kill(tandem: &mut Tandem, load: &Load, progress: &Progress) -> Result<(), Failure> {
    load.around_kill.store(true, Relaxed);
    tandem.kill();
    progress.tell("tandem killed (SIGKILL); starting it again");
    tandem.start().await?;
    sleep(Duration::from_secs(1)).await;
    load.around_kill.store(false, Relaxed);
    Ok(())
}

/// Pause between two switches, in which clients write on the new primary.
const BETWEEN: Duration = Duration::from_millis(500);

async fn switch(count: u64, switches: &mut Switches, admin: &Admin, load: &Load, progress: &Progress) {
    for to in switches::sides(count) {
        switches.go(to, admin, load, |line| progress.tell(line)).await;
        if switches.failed().is_none() {
            progress.tell(&format!("switched: {to} answers clients; they were held for {} ms", switches.last_ms()));
        }
        sleep(BETWEEN).await;
    }
}

/// Show what goes on, and remember the worst lag.
pub(super) async fn watch(load: Arc<Load>, admin: Admin, progress: Progress) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        let lag = match admin.get("/v1/status").await {
            Ok(status) => {
                load.shadowed.see(&status["shadow"]);
                tandem::lag_ms(&status)
            }
            Err(_) => None,
        };
        load.lag_ms_max.fetch_max(lag.unwrap_or(0), Relaxed);
        let lag = lag.map_or("?".to_owned(), |ms| format!("{ms} ms"));
        let acked = load.acked.load(Relaxed);
        progress.now(format!("{acked} writes acknowledged, the other side {lag} behind"));
    }
}
