//! The gate that every unit passes: a [`Pass`] fixes the route of one unit, and a flip waits until no pass is out.
//!
//! Each session owns a [`Slot`] on its own cache line. Entering writes only that line and reads the shared phase, which
//! nobody writes while the gate is open: units on different cores share nothing. The fence works as Dekker's algorithm
//! does: a session writes *inside* and then reads the phase, the fencer writes *closed* and then reads all slots; both
//! with sequential consistency, so at least one sees the other.
//!
//! Opening wakes all held sessions at once, without pacing them. Each is polled by the one thread of its worker, one
//! after the other, and forwards one message there: the workers' run queues are the pacing. What the new primary gets
//! is at most one unit of each session, and `limits.connections` bounds those. Measured (`benches/gate.rs`): with 1 000
//! held sessions the opener is done after 0.1 ms and the last one is in after 0.5 ms, with 10 000 after 4 and 5 ms, so
//! that any pause between them would be most of the time that they are held.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::record::Side;

/// Which side answers a unit, and what happens beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The side that answers.
    pub primary: Side,
    /// Its writes are captured and mirrored to the other side.
    pub mirror: bool,
    /// The control state's number; every decision carries one.
    pub epoch: u64,
}

/// The gate of one process.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    closed: AtomicBool,
    route: arc_swap::ArcSwap<Route>,
    slots: Mutex<Vec<Weak<SlotState>>>,
    held: AtomicU64,
    opened: Notify,
    closing: Notify,
    left: Notify,
}

#[repr(align(128))]
struct SlotState {
    /// 0 outside, otherwise how many units the session has inside.
    inside: AtomicU64,
    /// Reached from here, so that a pass counts its references to the session's line only.
    shared: Arc<Shared>,
}

/// A session's place at the gate.
pub struct Slot {
    state: Arc<SlotState>,
}

/// Leave to run one unit on [`Pass::route`]. A flip waits until it is dropped: drop it when the primary can no longer
/// act on the unit, not when the client hangs up.
pub struct Pass {
    route: Route,
    units: u64,
    state: Arc<SlotState>,
}

impl Gate {
    /// An open gate.
    pub fn new(route: Route) -> Gate {
        Gate {
            shared: Arc::new(Shared {
                closed: AtomicBool::new(false),
                route: arc_swap::ArcSwap::from_pointee(route),
                slots: Mutex::default(),
                held: AtomicU64::new(0),
                opened: Notify::new(),
                closing: Notify::new(),
                left: Notify::new(),
            }),
        }
    }

    /// A session's place; dropped with the session.
    pub fn slot(&self) -> Slot {
        let state = Arc::new(SlotState { inside: AtomicU64::new(0), shared: self.shared.clone() });
        let mut slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        slots.push(Arc::downgrade(&state));
        Slot { state }
    }

    /// The route that a unit entering now would get.
    pub fn route(&self) -> Route {
        self.shared.route()
    }

    /// Are units held back?
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(SeqCst)
    }

    /// The route of an open gate, for who comes while it is closed and will enter later (a login). As of a moment ago:
    /// only a [`Pass`] fixes it. Cancel safe.
    pub async fn route_when_open(&self) -> Route {
        loop {
            let opened = self.shared.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            // In this order, see [`Slot::try_enter`].
            if !self.is_closed() {
                return self.route();
            }
            opened.await;
        }
    }

    /// Resolves when units enter on the route of another primary than this one, for who brings none and must move all the same.
    /// Cancel safe.
    pub async fn turned_from(&self, primary: Side) {
        loop {
            let opened = self.shared.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if !self.is_closed() && self.route().primary != primary {
                return;
            }
            opened.await;
        }
    }

    /// Hold back every unit that has not entered. Units inside go on: [`Gate::drained`] waits for them.
    pub fn close(&self) {
        self.shared.closed.store(true, SeqCst);
        self.shared.closing.notify_waiters();
    }

    /// Resolves when units are held back: at once if they are, else as soon as that begins, also if it has ended again by
    /// the time that somebody looks. For what runs beside clients and must not be in the way of a switch. Cancel safe.
    pub async fn closed(&self) {
        let closing = self.shared.closing.notified();
        tokio::pin!(closing);
        closing.as_mut().enable();
        if !self.is_closed() {
            closing.await;
        }
    }

    /// Resolves when no unit is inside a closed gate. Cancel safe.
    pub async fn drained(&self) {
        // Who is seen outside a closed gate stays outside, and who comes later is outside: one look at each is enough.
        let slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for slot in slots {
            self.left(&slot).await;
        }
    }

    async fn left(&self, slot: &Weak<SlotState>) {
        loop {
            let left = self.shared.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if slot.upgrade().is_none_or(|slot| slot.inside.load(SeqCst) == 0) {
                return;
            }
            left.await;
        }
    }

    /// How many units are inside.
    pub fn inside(&self) -> u64 {
        let slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().filter_map(Weak::upgrade).map(|slot| slot.inside.load(SeqCst)).sum()
    }

    /// How many units wait until it opens.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Relaxed)
    }

    /// Let units in again, on this route.
    pub fn open(&self, route: Route) {
        self.shared.route.store(Arc::new(route));
        self.shared.closed.store(false, SeqCst);
        self.shared.opened.notify_waiters();
    }
}

impl Shared {
    fn route(&self) -> Route {
        **self.route.load()
    }
}

impl Slot {
    /// Enter if the gate is open. `None` means wait: [`Slot::enter`].
    pub fn try_enter(&self) -> Option<Pass> {
        let shared = &self.state.shared;
        self.state.inside.fetch_add(1, SeqCst);
        let closed = shared.closed.load(SeqCst);
        // Only now: a route read before the gate was seen open may be the one from before a flip. Seen open and inside,
        // no flip can follow until the pass is dropped.
        let pass = Pass { route: shared.route(), units: 1, state: self.state.clone() };
        // A pass dropped here tells a waiting fencer that the session is out again.
        (!closed).then_some(pass)
    }

    /// Units are held back.
    pub fn is_closed(&self) -> bool {
        self.state.shared.closed.load(SeqCst)
    }

    /// Enter, held while the gate is closed. Cancel safe.
    pub async fn enter(&self) -> Pass {
        loop {
            let opened = self.state.shared.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if let Some(pass) = self.try_enter() {
                return pass;
            }
            let _counted = Counted::new(&self.state.shared.held);
            opened.await;
        }
    }
}

/// One more, as long as it lives.
struct Counted<'a>(&'a AtomicU64);

impl Counted<'_> {
    fn new(count: &AtomicU64) -> Counted<'_> {
        count.fetch_add(1, Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Pass {
    /// Fixed until the pass is dropped.
    pub fn route(&self) -> Route {
        self.route
    }

    /// From here on the pass is that of so many units, at least one. A session that is inside may begin more units on the same
    /// pass as long as it sees the gate open before each ([`Slot::is_closed`]): whoever closes it after that look finds
    /// the session inside, and waits for all of them.
    pub fn stand_for(&mut self, units: u64) {
        let units = units.max(1);
        match units.checked_sub(self.units) {
            Some(0) => {}
            Some(more) => drop(self.state.inside.fetch_add(more, SeqCst)),
            None => drop(self.state.inside.fetch_sub(self.units - units, SeqCst)),
        }
        self.units = units;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let SlotState { inside, shared } = &*self.state;
        inside.fetch_sub(self.units, SeqCst);
        if shared.closed.load(SeqCst) {
            shared.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn gate() -> Gate {
        Gate::new(Route { primary: Side::Origin, mirror: true, epoch: 1 })
    }

    #[tokio::test]
    async fn a_closed_gate_holds_new_units_and_waits_for_those_inside() {
        let gate = gate();
        let slot = gate.slot();
        let pass = slot.try_enter().expect("open");
        gate.close();
        assert!(slot.try_enter().is_none());
        assert!(gate.drained().now_or_never().is_none());
        drop(pass);
        gate.drained().await;
    }

    #[tokio::test]
    async fn who_works_beside_clients_is_told_when_they_are_held() {
        let gate = gate();
        let mut told = Box::pin(gate.closed());
        assert!(told.as_mut().now_or_never().is_none());
        gate.close();
        gate.closed().await;
        gate.open(gate.route());
        told.await;
        assert!(gate.closed().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_pass_of_several_units_is_inside_until_it_is_dropped() {
        let gate = gate();
        let slot = gate.slot();
        let mut pass = slot.try_enter().expect("open");
        pass.stand_for(3);
        assert_eq!((gate.inside(), slot.is_closed()), (3, false));
        gate.close();
        assert!(slot.is_closed());
        pass.stand_for(0);
        assert_eq!(gate.inside(), 1, "who has left drops it");
        assert!(gate.drained().now_or_never().is_none());
        drop(pass);
        gate.drained().await;
    }

    #[tokio::test]
    async fn a_held_unit_enters_on_the_new_route() {
        let gate = gate();
        let slot = gate.slot();
        gate.close();
        let mut entering = Box::pin(slot.enter());
        assert!(entering.as_mut().now_or_never().is_none());
        gate.drained().await;
        assert_eq!(gate.held(), 1);
        gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
        assert_eq!(entering.await.route().primary, Side::Target);
        assert_eq!(gate.held(), 0);
    }

    #[tokio::test]
    async fn a_login_waits_for_the_gate_and_learns_the_new_route() {
        let gate = gate();
        assert_eq!(gate.route_when_open().await, gate.route());
        gate.close();
        let mut waiting = Box::pin(gate.route_when_open());
        assert!(waiting.as_mut().now_or_never().is_none());
        gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
        assert_eq!(waiting.await.primary, Side::Target);
    }

    #[tokio::test]
    async fn who_brings_no_unit_is_told_of_a_flip_when_the_gate_opens() {
        let gate = gate();
        let mut told = Box::pin(gate.turned_from(Side::Origin));
        gate.close();
        assert!(told.as_mut().now_or_never().is_none());
        // It was called off.
        gate.open(gate.route());
        assert!(told.as_mut().now_or_never().is_none());
        gate.close();
        gate.open(Route { primary: Side::Target, mirror: true, epoch: 2 });
        told.await;
        gate.turned_from(Side::Origin).await;
        assert!(gate.turned_from(Side::Target).now_or_never().is_none());
    }

    /// Threads run units while another closes, drains, flips and opens: no unit runs in an epoch that is over, and none
    /// is inside while the gate is drained.
    #[test]
    fn no_unit_enters_on_the_route_from_before_a_flip_promise_9() {
        const FLIPS: u64 = 100_000;
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let gate = gate();
        let epoch = Arc::new(AtomicU64::new(1));
        let units = || {
            let (gate, epoch) = (gate.clone(), epoch.clone());
            std::thread::spawn(move || {
                let slot = gate.slot();
                while epoch.load(SeqCst) < FLIPS {
                    let Some(pass) = slot.try_enter() else { continue };
                    assert_eq!(pass.route().epoch, epoch.load(SeqCst), "a pass of an epoch that is over");
                }
            })
        };
        let threads: Vec<_> = (0..2).map(|_| units()).collect();
        for next in 2..=FLIPS {
            gate.close();
            runtime.block_on(gate.drained());
            epoch.store(next, SeqCst);
            gate.open(Route { epoch: next, ..gate.route() });
        }
        for thread in threads {
            thread.join().expect("no unit saw an old epoch");
        }
    }

    #[tokio::test]
    async fn a_session_that_hangs_up_while_held_leaves_nothing_inside() {
        let gate = gate();
        gate.close();
        let slot = gate.slot();
        let mut entering = Box::pin(slot.enter());
        assert!(entering.as_mut().now_or_never().is_none());
        drop(entering);
        assert_eq!(gate.held(), 0);
        drop(slot);
        gate.drained().await;
    }
}
