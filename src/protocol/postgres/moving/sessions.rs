//! The register of all sessions, and the bell that calls them to a switch.
//!
//! A session looks at one number when it has nothing else to do, and is woken when that number changes. What it left
//! behind on its server is a byte on its card, written by the few statements that leave something.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use arc_swap::ArcSwap;
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, Semaphore};

use crate::protocol::postgres::client::Endpoint;
use crate::protocol::postgres::plan::Traces;
use crate::record::Side;

use super::customs::Customs;
use super::standby::Standby;
use super::state::State;

/// So many sessions open or fill their second connection at once: more would not log in sooner, and would take the
/// servers' processors from clients.
const AT_ONCE: usize = 16;

/// What sessions are called to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Nothing: close second connections.
    Rest,
    /// Open a second connection to this side, and say what cannot move.
    Prepare(Side),
    /// Clients are held: say it again, who did something since.
    Look(Side),
    /// This side answers from now on: move, who is idle.
    Move(Side),
    /// The other side than this one is given up: whoever waits for an answer of it waits in vain.
    GiveUp(Side),
}

/// A call and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) number: u64,
    pub(crate) what: Call,
}

/// All sessions of the process.
pub(crate) struct Sessions {
    cards: Mutex<Vec<Weak<Card>>>,
    called: ArcSwap<Called>,
    number: AtomicU64,
    /// Some card says something new.
    answered: Notify,
    /// Types of the user's have other oids on the other side.
    pub(crate) types_differ: AtomicBool,
    /// Who may talk to servers for a move that nobody waits for.
    pub(crate) turns: Arc<Semaphore>,
    /// Who may be looked at on its own connection, while clients are not held. Apart from `turns`: clients wait for a look, and
    /// a turn may be waiting for the other side.
    pub(crate) looks: Arc<Semaphore>,
    /// Names of custom settings.
    pub(crate) customs: Customs,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            cards: Mutex::default(),
            called: ArcSwap::from_pointee(Called { number: 0, what: Call::Rest }),
            number: AtomicU64::new(0),
            answered: Notify::new(),
            types_differ: AtomicBool::new(false),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            looks: Arc::new(Semaphore::new(AT_ONCE)),
            customs: Customs::default(),
        }
    }
}

/// Who a session is, for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    pub(crate) user: String,
    pub(crate) application: String,
}

/// Where a session's server connection leads.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) side: Side,
    pub(crate) endpoint: Endpoint,
    /// What a CancelRequest to that server carries.
    pub(crate) key: Vec<u8>,
}

/// One session as others see it.
pub(crate) struct Card {
    pub(crate) who: Who,
    /// The client's start-up packet.
    pub(crate) packet: Box<[u8]>,
    /// The client's encoding at the start, as the server reported it.
    pub(crate) encoding: Box<str>,
    /// It is not moved: its database is not the mirrored one.
    pub(crate) stays: bool,
    /// A walsender, whose dialect nobody reads.
    pub(crate) raw: bool,
    /// What the client was given to cancel with: its first server's.
    pub(crate) key: Vec<u8>,
    pid: AtomicU32,
    waker: AtomicWaker,
    /// What it did since the last look at it.
    traces: AtomicU8,
    /// It asked for the last value of a sequence, once.
    last_value: AtomicBool,
    left: AtomicBool,
    pub(crate) moving: Mutex<Moving>,
}

/// What one session's move stands on.
pub(crate) struct Moving {
    pub(crate) home: Home,
    /// As of the last look.
    pub(crate) state: State,
    /// Opened ahead, or being opened.
    pub(crate) standby: Opening,
    /// The call that was answered, and how.
    answer: (u64, Result<(), String>),
    /// The call after which the session was looked at, if it had to be.
    looked: u64,
}

/// A second connection.
#[derive(Default)]
pub(crate) enum Opening {
    /// There is none.
    #[default]
    Nothing,
    /// It comes, or is there.
    Soon(tokio::sync::oneshot::Receiver<Result<Box<Standby>, String>>),
}

impl Card {
    pub(crate) fn new(
        who: Who,
        packet: Box<[u8]>,
        encoding: Box<str>,
        (stays, raw): (bool, bool),
        pid: u32,
        home: Home,
    ) -> Card {
        let key = home.key.clone();
        let moving =
            Moving { home, state: State::default(), standby: Opening::Nothing, answer: (0, Ok(())), looked: 0 };
        Card {
            who,
            packet,
            encoding,
            stays,
            raw,
            key,
            pid: AtomicU32::new(pid),
            waker: AtomicWaker::new(),
            traces: AtomicU8::new(0),
            last_value: AtomicBool::new(false),
            left: AtomicBool::new(false),
            moving: Mutex::new(moving),
        }
    }

    pub(crate) fn moving(&self) -> MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The session runs something that leaves this behind.
    pub(crate) fn leave(&self, traces: Traces) {
        self.traces.fetch_or(traces.bits(), Ordering::Relaxed);
        if traces.meets(Traces::LAST_VALUE) {
            self.last_value.store(true, Ordering::Relaxed);
        }
    }

    /// What it left since the last look, which is now.
    pub(crate) fn take_traces(&self) -> Traces {
        Traces::from_bits(self.traces.swap(0, Ordering::Relaxed))
    }

    pub(crate) fn traces(&self) -> Traces {
        Traces::from_bits(self.traces.load(Ordering::Relaxed))
    }

    /// Why it cannot move, as of the last look.
    pub(crate) fn pins(&self) -> Vec<String> {
        let mut pins: Vec<String> = self.moving().state.pins.iter().cloned().collect();
        if self.raw {
            pins.push("a replication connection".to_owned());
        }
        if self.last_value.load(Ordering::Relaxed) {
            pins.push("lastval or currval".to_owned());
        }
        pins
    }

    /// The session has another server now.
    pub(crate) fn moved(&self, pid: u32, home: Home) {
        self.pid.store(pid, Ordering::Relaxed);
        self.last_value.store(false, Ordering::Relaxed);
        self.moving().home = home;
    }

    /// The session is over.
    pub(crate) fn leave_for_good(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// For people: who it is, and nothing that it works on.
    pub(crate) fn told(&self) -> String {
        let application = if self.who.application.is_empty() { "-" } else { &self.who.application };
        format!("process {} ({}, {application})", self.pid.load(Ordering::Relaxed), self.who.user)
    }
}

impl Sessions {
    /// Enter a session; it leaves when its card is dropped.
    pub(crate) fn enter(&self, card: &Arc<Card>) {
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        if cards.len() == cards.capacity() {
            cards.retain(|card| card.strong_count() > 0);
        }
        cards.push(Arc::downgrade(card));
    }

    /// Everybody who is here.
    pub(crate) fn all(&self) -> Vec<Arc<Card>> {
        let cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        cards.iter().filter_map(Weak::upgrade).filter(|card| !card.left.load(Ordering::Relaxed)).collect()
    }

    /// The servers' processes that work for clients of ours.
    pub(crate) fn pids(&self) -> std::collections::HashSet<u32> {
        self.all().iter().map(|card| card.pid.load(Ordering::Relaxed)).collect()
    }

    /// The number of the last call: one load for a session that was called to nothing new.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// The last call.
    pub(crate) fn called(&self) -> Called {
        **self.called.load()
    }

    /// Call everybody.
    pub(crate) fn call(&self, what: Call) -> Called {
        let called = self.announce(what);
        self.all().iter().for_each(|card| card.waker.wake());
        called
    }

    /// Call these; the others hear of it when they have nothing else to do.
    pub(crate) fn call_only(&self, what: Call, whom: &[Arc<Card>]) -> Called {
        let called = self.announce(what);
        whom.iter().for_each(|card| card.waker.wake());
        called
    }

    fn announce(&self, what: Call) -> Called {
        let called = Called { number: self.number.load(Ordering::Relaxed) + 1, what };
        self.called.store(Arc::new(called));
        self.number.store(called.number, Ordering::Release);
        called
    }

    /// A session answers a call: its second connection is there, or why not.
    pub(crate) fn answer(&self, card: &Card, number: u64, answer: Result<(), String>) {
        card.moving().answer = (number, answer);
        self.answered.notify_waiters();
    }

    /// A session was looked at after this call, or had no need to be.
    pub(crate) fn looked(&self, card: &Card, number: u64) {
        card.moving().looked = number;
        self.answered.notify_waiters();
    }

    /// A session cannot be looked at: as far as this call goes it was, and is not ready.
    pub(crate) fn refuse(&self, card: &Card, number: u64, why: String) {
        card.moving().looked = number;
        self.answer(card, number, Err(why));
    }

    /// Resolves when `done` of all of these; whoever leaves meanwhile is done. Cancel safe.
    pub(crate) async fn wait(&self, mut whom: Vec<Arc<Card>>, done: impl Fn(&Moving) -> bool) {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            whom.retain(|card| !card.left.load(Ordering::Relaxed) && !done(&card.moving()));
            if whom.is_empty() {
                return;
            }
            wait_or_look_again(answered).await;
        }
    }
}

/// A session that leaves says nothing.
async fn wait_or_look_again(answered: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(std::time::Duration::from_millis(50), answered).await;
}

impl Moving {
    /// It answered this call or a later one.
    pub(crate) fn has_answered(&self, number: u64) -> bool {
        self.answer.0 >= number
    }

    /// Why it has no second connection.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.answer.1.as_ref().err().map(String::as_str)
    }

    /// Why it is not ready for this call, if that is what it answered.
    pub(crate) fn refusal(&self, number: u64) -> Option<&str> {
        self.failure().filter(|_| self.answer.0 == number)
    }

    /// It was looked at after this call.
    pub(crate) fn was_looked_at(&self, number: u64) -> bool {
        self.looked >= number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::client::Host;

    fn card() -> Arc<Card> {
        let endpoint = Endpoint { host: Host::Tcp("a".into()), port: 1 };
        let home = Home { side: Side::Origin, endpoint, key: vec![1] };
        Arc::new(Card::new(Who::default(), Box::default(), "UTF8".into(), (false, false), 7, home))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_is_not_waited_for() {
        let (sessions, one, two) = (Sessions::default(), card(), card());
        sessions.enter(&one);
        sessions.enter(&two);
        let called = sessions.call(Call::Prepare(Side::Target));
        assert_eq!(sessions.number(), called.number);
        let waiting = sessions.wait(sessions.all(), |moving| moving.has_answered(called.number));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        sessions.answer(&one, called.number, Ok(()));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        two.leave_for_good();
        waiting.await;
    }

    #[test]
    fn what_cannot_move_is_named() {
        let card = card();
        assert!(card.pins().is_empty());
        card.leave(Traces::LAST_VALUE);
        assert_eq!(card.pins(), ["lastval or currval"]);
        let home = card.moving().home.clone();
        card.moved(9, home);
        assert!(card.pins().is_empty());
    }
}
