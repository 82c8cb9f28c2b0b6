//! A switch on CQL, step by step.
//!
//! | step | sessions | clusters | mirror |
//! | --- | --- | --- | --- |
//! | prepare | each user's login is tried on the other side; each session connects to it; what was prepared is prepared there | both schemas alike, clocks not behind | not behind, nothing parked, nothing dirty; the way back opened; no history being copied |
//! | quiesce | every request is answered: the gate saw to it | | |
//! | apply | | | replays up to the end; what was in doubt is settled |
//! | ready | | | ends; the one of the other direction begins, paused |
//! | flip | move as they come through the gate, those that wait for events at once | | goes on |
//!
//! Nothing is compared while clients are held: there are no twins on CQL, and what was written last is what replay has just
//! been told of by the other side, at the consistency of the clients.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};

use crate::check::{self, Finding};
use crate::config::{Config, Cutover};
use crate::cutover::gate::Route;
use crate::cutover::mirror::{self, Known};
use crate::cutover::steps::{Compared, Error, Force, Steps};
use crate::cutover::store::Control;
use crate::journal::{Journal, Lsn};
use crate::mirror::replay::ByReplay;
use crate::mirror::{Turning, durable};
use crate::record::{Side, TableId};

use super::applier::{Applier, occupied};
use super::check::{columns_masked, zones_apart};
use super::cluster::Cluster;
use super::definitions::Lack;
use super::rules;
use super::serve::Logins;
use super::session::shared::Shared;
use super::setup::{Setup, Sides};
use super::stamps::now_micros;
use super::tables::{Table, Tables, is_own};
use super::warm;

/// How long a mirror that connects is waited for.
const MIRROR_OPEN: Duration = Duration::from_secs(5);
/// How long sessions that connect ahead are waited for, and how often they are looked at.
const AHEAD_OPEN: Duration = Duration::from_secs(3);
const AHEAD_LOOK: Duration = Duration::from_millis(20);
/// How long what a walk over history copies is waited for: longer than a worker's lease.
const HISTORY_RESTS: Duration = Duration::from_secs(20);
/// A clock may be behind the newest stamp by this: the next conditional statement waits so long, once.
const CLOCK_MICROS: i64 = 500_000;
/// Tables that are asked at the same time whether they have rows.
const LOOKED_AT_ONCE: usize = 16;

/// The wire's hands at a switch.
pub struct Walk {
    shared: Arc<Shared>,
    sides: Sides,
    logins: Logins,
    journal: Journal,
    cutover: Cutover,
    mirror: Turning<ByReplay<Applier>>,
    /// From here on the secondary is owed.
    since: Lsn,
    known: Option<Known>,
}

impl Walk {
    /// Nothing runs yet: [`Walk::begin`].
    pub fn new(
        setup: &Setup,
        journal: Journal,
        mirror: Turning<ByReplay<Applier>>,
        config: &Config,
        control: &Control,
    ) -> Walk {
        Walk {
            shared: setup.shared.clone(),
            sides: setup.sides.clone(),
            logins: setup.logins.clone(),
            journal,
            cutover: config.cutover.clone(),
            mirror,
            since: Lsn(control.since),
            known: None,
        }
    }

    /// Mirror from the primary; where an earlier process did not finish its walk, `undo` begins the mirror.
    ///
    /// # Errors
    /// A file of the mirror cannot be read.
    pub async fn begin(&mut self, control: &Control) -> Result<(), durable::Error> {
        match control.walk {
            Some(_) => Ok(()),
            None => self.mirror.start(control.primary, self.since).await,
        }
    }

    fn name(&self, side: Side, label: TableId) -> String {
        let tables = self.shared.side(side).tables();
        let named = tables.iter().find(|table| table.label == label);
        named.map_or_else(
            || format!("table {:016x}", label.0),
            |one| format!("{}.{}", one.shape.keyspace, one.shape.name),
        )
    }

    async fn look(&mut self, to: Side) -> Result<Vec<Finding>, Error> {
        // A process that has just begun has not connected yet.
        let _ = timeout(MIRROR_OPEN, mirror::opened(self.mirror.handle())).await;
        let from = to.other();
        let (handle, known) = (self.mirror.handle(), Known::of(self.mirror.handle()));
        let mut found = mirror::findings(handle, &known, self.cutover.max_lag, |table| self.name(from, table));
        for side in [from, to] {
            self.cluster(side)?.refresh().await;
        }
        let cluster = self.cluster(to)?;
        found.extend(differences(&self.shared.side(from).tables(), &cluster.tables(), to));
        found.extend(self.lacking(from, to).await?);
        found.extend(self.told_otherwise().await?);
        // What the origin lacks of the target's rows, the mirror back brought it.
        if to == Side::Target {
            found.extend(self.unknown_history().await?);
        }
        let (ahead, behind) = (self.cluster(from)?.ahead(), cluster.behind());
        let behind = clocks_behind(self.shared.stamps.last(), ahead, behind, now_micros());
        if behind > CLOCK_MICROS {
            let object = format!("{:.1} s", behind as f64 / 1e6);
            found.push(Finding { rule: rules::CLOCK_BEHIND, side: Some(to), object });
        }
        for (user, why) in self.logins.try_all(to).await {
            found.push(Finding { rule: rules::LOGIN_FAILS, side: Some(to), object: format!("{user}: {why}") });
        }
        let opened = self.mirror.open_ahead(to).await;
        opened.map_err(|error| Error::Refused(format!("the mirror back cannot be opened: {error}")))?;
        self.known = Some(known);
        tokio::join!(self.open_ahead(to), warm::warm(&self.shared.statements, &cluster));
        // The less is owed at the fence, the shorter clients wait.
        let handle = self.mirror.handle();
        handle.hurry();
        // The mirror's end waits for it, and clients would.
        if timeout(HISTORY_RESTS, handle.history_rests()).await.is_err() {
            let writers = handle.history_writers().into_iter();
            found.extend(writers.map(|object| Finding { rule: rules::HISTORY_WRITES, side: None, object }));
        }
        Ok(found)
    }
}

impl Walk {
    fn cluster(&self, side: Side) -> Result<Arc<Cluster>, Error> {
        self.sides.get(side).ok_or_else(|| Error::Side { side, why: self.sides.why_away(side) })
    }

    /// Tables that have rows of which nobody knows whether the target has them.
    async fn unknown_history(&self) -> Result<Vec<Finding>, Error> {
        let (cluster, desk) = (self.cluster(Side::Origin)?, self.mirror.handle().desk());
        let client = cluster.client().await;
        let client = client.map_err(|error| Error::Side { side: Side::Origin, why: error.to_string() })?;
        let tables = cluster.tables();
        let is_unseen = |table: &&Arc<Table>| !is_own(&table.shape.keyspace) && !desk.has_seen(table.label);
        let unseen: Vec<Arc<Table>> = tables.iter().filter(is_unseen).cloned().collect();
        let looked = stream::iter(unseen).map(|table| {
            let client = &client;
            async move {
                // Of one that cannot be read nobody knows anything either.
                let filled = occupied(client, &table).await.unwrap_or(true);
                filled.then(|| format!("{}.{}", table.shape.keyspace, table.shape.name))
            }
        });
        let filled: Vec<Option<String>> = looked.buffer_unordered(LOOKED_AT_ONCE).collect().await;
        Ok(mirror::unknown(filled.into_iter().flatten().collect()))
    }

    /// What clients have here and would not have there, beside tables and columns.
    async fn lacking(&self, from: Side, to: Side) -> Result<Vec<Finding>, Error> {
        let definitions = async |side| {
            self.cluster(side)?.definitions().await.map_err(|error| Error::Side { side, why: error.to_string() })
        };
        let (here, there) = tokio::try_join!(definitions(from), definitions(to))?;
        let lacking = here.lacking(&there);
        let rules = [
            (Lack::View, rules::VIEW_MISSING),
            (Lack::Index, rules::INDEX_MISSING),
            (Lack::Type, rules::TYPE_DIFFERS),
            (Lack::Order, rules::CLUSTERING_ORDER_DIFFERS),
        ];
        let found = rules.into_iter().flat_map(|(lack, rule)| {
            let names = lacking.iter().filter(|(of, _)| *of == lack).map(|(_, name)| name.clone());
            check::each(rule, Some(to), names.collect())
        });
        // What those of the old primary wrote is there, and what those of the new one write will not come back.
        let triggers = [(from, &here), (to, &there)];
        let triggers = triggers
            .into_iter()
            .flat_map(|(side, of)| check::each(rules::TRIGGER_UNCAPTURED, Some(side), of.triggered()));
        Ok(found.chain(triggers).collect())
    }

    /// What nodes show tandem otherwise than it is, or read otherwise than the others.
    async fn told_otherwise(&self) -> Result<Vec<Finding>, Error> {
        let sides = [(Side::Origin, self.cluster(Side::Origin)?), (Side::Target, self.cluster(Side::Target)?)];
        let mut found = Vec::new();
        for (side, cluster) in &sides {
            let masked = cluster.masked().await;
            let masked = masked.map_err(|error| Error::Side { side: *side, why: error.to_string() })?;
            found.extend(check::each(rules::MASKED_COLUMN, Some(*side), columns_masked(&masked)));
        }
        let [(_, origin), (_, target)] = &sides;
        let (origin, target) = tokio::join!(origin.zones(), target.zones());
        found.extend(zones_apart(rules::TIME_ZONE_DIFFERS, &origin, &target));
        Ok(found)
    }

    /// Sessions connect to where they will go. One that cannot in time does so when it comes through the gate.
    async fn open_ahead(&self, to: Side) {
        self.shared.destination.set(Some(to));
        let opened = async {
            loop {
                sleep(AHEAD_LOOK).await;
                if self.shared.destination.opening() == 0 {
                    return;
                }
            }
        };
        let _ = timeout(AHEAD_OPEN, opened).await;
    }
}

/// How far the new primary's clocks may be behind what clients were given, in microseconds: timestamps, and ballots of the old
/// primary, by its clocks.
fn clocks_behind(newest: i64, ahead: i64, behind: i64, now: i64) -> i64 {
    newest.max(now + ahead) - now + behind
}

/// Tables of one side that are not the same on the other.
fn differences(here: &Tables, there: &Tables, to: Side) -> Vec<Finding> {
    let mut names: Vec<String> = Vec::new();
    for table in here.iter().filter(|table| !is_own(&table.shape.keyspace)) {
        let other = there.table(&table.shape.keyspace, &table.shape.name);
        if other.is_none_or(|other| other.shape != table.shape) {
            names.push(format!("{}.{}", table.shape.keyspace, table.shape.name));
        }
    }
    names.sort_unstable();
    check::each(rules::SCHEMA_DIFFERS, Some(to), names).collect()
}

impl Steps for Walk {
    async fn prepare(&mut self, to: Side, _: Duration) -> Vec<Finding> {
        match self.look(to).await {
            Ok(found) => found,
            Err(error) => vec![Finding { rule: mirror::SIDE_FAILED, side: None, object: error.to_string() }],
        }
    }

    async fn give_up(&mut self, to: Side, _: &Force) -> Vec<Finding> {
        vec![Finding { rule: rules::FORCE_IMPOSSIBLE, side: Some(to.other()), object: "the old primary".to_owned() }]
    }

    async fn relax(&mut self) {
        self.shared.destination.set(None);
        self.known = None;
        self.mirror.close_ahead();
        self.mirror.handle().resume();
    }

    /// Every request was answered, by the server or, long after the server's own timeouts, by a session in its place.
    async fn quiesce(&mut self, _: Side) -> Result<(), Error> {
        self.mirror.handle().hurry();
        Ok(())
    }

    async fn hindrances(&mut self, from: Side) -> Vec<String> {
        match self.shared.gate.inside() {
            0 => Vec::new(),
            inside => vec![format!("{inside} requests wait for their answers from the {from}")],
        }
    }

    async fn apply(&mut self) -> Result<Lsn, Error> {
        let end = self.journal.appended();
        let handle = self.mirror.handle();
        handle.hurry();
        handle.settle(end).await.map_err(|error| Error::Refused(error.to_string()))?;
        let primary = self.mirror.primary().unwrap_or(Side::Origin);
        let known = self.known.as_ref().ok_or_else(|| Error::Refused("nothing was prepared".into()))?;
        known.still_holds(handle, |table| self.name(primary, table))?;
        Ok(end)
    }

    async fn verify(&mut self) -> Result<Compared, Error> {
        Ok(Compared::default())
    }

    async fn ready(&mut self, to: Side) -> Result<(), Error> {
        self.mirror.stop().await;
        // It opens, and writes nothing before the flip: should the walk end here, the old primary goes on being written to.
        let end = self.journal.appended();
        self.mirror.ready(to, end).await.map_err(|error| Error::Refused(error.to_string()))?;
        mirror::runs(self.mirror.handle(), to.other()).await
    }

    fn flip(&mut self, route: Route, since: Lsn) {
        self.since = since;
        self.known = None;
        self.mirror.flipped(route.primary);
        self.mirror.handle().resume();
    }

    async fn settle(&mut self, _: Side) -> Result<(), Error> {
        self.mirror.close_ahead();
        self.mirror.handle().resume();
        Ok(())
    }

    async fn undo(&mut self, primary: Side) -> Result<(), Error> {
        self.shared.destination.set(None);
        self.known = None;
        self.mirror.close_ahead();
        if self.mirror.primary() != Some(primary) {
            // The mirror of the other direction has written nothing, and must not begin to.
            self.mirror.handle().pause();
            self.mirror.stop().await;
            self.mirror.start(primary, self.since).await.map_err(|error| Error::Refused(error.to_string()))?;
        }
        self.mirror.handle().resume();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_behind_timestamps_or_the_old_primarys_clocks() {
        const NOW: i64 = 1_700_000_000_000_000;
        assert_eq!(clocks_behind(0, 0, 0, NOW), 0);
        assert_eq!(clocks_behind(NOW + 3_000_000, 0, 500_000, NOW), 3_500_000);
        assert!(clocks_behind(0, 2_000_000, 0, NOW) > CLOCK_MICROS, "its conditional writes are two seconds ahead");
        assert!(clocks_behind(0, 2_000_000, -1_800_000, NOW) < CLOCK_MICROS, "and so are the new one's clocks");
    }
}
