//! The control connection: it listens, looks, and moves to another node when its own is lost. It is to a node of our datacenter:
//! a contact point of another one is left again as soon as it has said which nodes ours has.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::protocol::cql::client::{Address, Client, Error, OnEvent};
use crate::protocol::cql::tables::Tables;
use crate::protocol::cql::topology::{Facts, Supported};
use crate::protocol::cql::wire::Version;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;
use crate::protocol::cql::wire::response::Event;

use super::{DOWN, Host, Inner, hosts, schema, timeouts};

/// Events may be lost: without one, it looks this often. So often each node is reached for, too.
pub(super) const TICK: Duration = Duration::from_secs(10);
/// Between two attempts to reach a node.
const PAUSE: Duration = Duration::from_millis(500);

/// A connection whose events wake somebody.
pub(super) struct Control {
    client: Client,
    happened: Arc<Notify>,
}

/// Where a node is that let us in.
enum Entered {
    /// In our datacenter.
    Here(Control),
    /// In another one. These are in ours, as it says.
    Elsewhere(Vec<Host>),
}

/// Connect to a node of our datacenter and look at everything.
pub(super) async fn attach(inner: &Arc<Inner>) -> Result<Control, Error> {
    let (mut next, mut tried) = (VecDeque::from(inner.doors()), HashSet::new());
    let (mut last, mut unknown) = (None, None);
    while let Some(address) = next.pop_front() {
        if !tried.insert(address.clone()) {
            continue;
        }
        match attach_to(inner, &address).await {
            Ok(Entered::Here(control)) => return Ok(control),
            Ok(Entered::Elsewhere(ours)) => ours.into_iter().rev().for_each(|host| next.push_front(host.address)),
            // The next one may know more.
            Err(error @ Error::NoDatacenter { .. }) => unknown = Some(error),
            Err(error) => {
                last = Some(error);
                inner.shunned.shun(address, super::SHUNNED);
            }
        }
    }
    Err(unknown.unwrap_or_else(|| inner.no_node(last)))
}

async fn attach_to(inner: &Arc<Inner>, address: &Address) -> Result<Entered, Error> {
    let happened = Arc::new(Notify::new());
    let on_event = listen(inner, happened.clone());
    let client = Client::connect_with(&inner.settings, address, Version::V5, Some(on_event)).await?;
    inner.heed(&client);
    // Before the first look: what happens after it is told.
    client.register(&["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"]).await?;
    let local = client.query("SELECT * FROM system.local", &Parameters::new(Consistency::One)).await?;
    let rows = local.rows()?;
    let facts = client.options(|options| Facts::read(&rows, options)).await?;
    let mut facts = facts.map_err(|_| Error::Answer("a node does not say what it is"))?;
    facts.authenticator = client.authenticator().map(str::to_owned);
    debug_assert!(facts.supported != Supported::default());
    if let Some(ours) = inner.datacenter.get().filter(|ours| **ours != facts.data_center) {
        return hosts::nearby(hosts::load(&client).await?, ours).map(Entered::Elsewhere);
    }
    let datacenter = facts.data_center.clone();
    inner.facts.store(Some(Arc::new(facts)));
    inner.timeouts.store(Arc::new(timeouts::read(&client).await));
    let control = Control { client, happened };
    control.look(inner, &datacenter).await?;
    let _ = inner.datacenter.set(datacenter);
    Ok(Entered::Here(control))
}

/// What other nodes are said to be is noted at once; the rest is looked at.
fn listen(inner: &Arc<Inner>, happened: Arc<Notify>) -> OnEvent {
    let inner = Arc::downgrade(inner);
    Arc::new(move |event| {
        let Some(inner) = inner.upgrade() else { return };
        match event {
            Event::Status("DOWN", node) => inner.shunned.shun(address(*node), DOWN),
            Event::Status(_, node) => inner.shunned.forgive(&address(*node)),
            Event::Topology(..) | Event::Schema(_) => {}
        }
        happened.notify_one();
    })
}

fn address((host, port): (IpAddr, i32)) -> Address {
    Address { host: host.to_string(), port: u16::try_from(port).unwrap_or_default() }
}

/// Never ends. Without a connection it makes one.
pub(super) async fn keep(inner: Arc<Inner>, control: Option<Control>) {
    let mut control = match control {
        Some(control) => control,
        None => regain(&inner).await,
    };
    loop {
        let why = control.follow(&inner).await;
        tracing::warn!(side = %inner.side, host = %control.client.address(), %why, "the control connection is lost");
        control = regain(&inner).await;
        tracing::info!(side = %inner.side, host = %control.client.address(), "a control connection is there again");
    }
}

async fn regain(inner: &Arc<Inner>) -> Control {
    loop {
        match attach(inner).await {
            Ok(control) => return control,
            Err(error) => {
                tracing::debug!(side = %inner.side, %error, "no node can be reached");
                // Whoever asked cannot be shown anything.
                let asked = *inner.asked.borrow();
                inner.seen.send_replace(asked);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Never ends.
pub(super) async fn watch_clocks(inner: Arc<Inner>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        inner.measure().await;
    }
}

impl Control {
    /// Until the connection is of no more use: why.
    async fn follow(&self, inner: &Inner) -> Error {
        let mut asked = inner.asked.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.happened.notified() => {}
                _ = asked.changed() => {}
                _ = tick.tick() => {}
                () = self.client.lost() => return Error::Lost("the node closed it, or answers nothing".to_owned()),
            }
            let datacenter = inner.datacenter.get().expect("known since a node was entered");
            if let Err(error) = self.look(inner, datacenter).await {
                return error;
            }
        }
    }

    async fn look(&self, inner: &Inner, datacenter: &str) -> Result<(), Error> {
        let asked = *inner.asked.borrow();
        // Nodes that do not come to agree are looked at as this one sees them.
        let all = match inner.agreement(&self.client).await {
            Err(Error::Disagreement(others)) => {
                tracing::warn!(side = %inner.side, others, "nodes do not agree on one schema");
                hosts::load(&self.client).await?
            }
            agreed => agreed?,
        };
        let version = all.first().and_then(|host| host.schema);
        let addresses = all.iter().map(|host| host.address.clone()).collect();
        let nearby = hosts::nearby(all, datacenter)?;
        inner.forget_others(&nearby, &addresses);
        inner.hosts.store(Arc::new(nearby));
        if inner.tables.load().epoch == 0 || version != Some(inner.tables.load().version) {
            self.look_at_schema(inner).await?;
        }
        inner.seen.send_replace(asked);
        Ok(())
    }

    async fn look_at_schema(&self, inner: &Inner) -> Result<(), Error> {
        let (version, tables) = schema::load(&self.client).await?;
        let tables = Tables::new(version, tables);
        let epoch = tables.epoch;
        inner.tables.store(Arc::new(tables));
        inner.epoch.send_replace(epoch);
        Ok(())
    }
}
