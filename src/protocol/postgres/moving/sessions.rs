//! The register of all sessions, and the bell that calls them to a switch.
//!
//! A session looks at one number when it has nothing else to do, and is woken when that number changes. What it left
//! behind on its server is a byte on its card, written by the few statements that leave something.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::timeout;

use crate::protocol::postgres::client::Endpoint;
use crate::protocol::postgres::plan::Traces;
use crate::record::Side;

use super::customs::Customs;
use super::standby::Standby;
use super::state::State;

/// So many sessions open or fill their second connection at once: more would not log in sooner, and would take the
/// servers' processors from clients.
const AT_ONCE: usize = 16;
/// A session that does not say in this time whether it cancelled something has no time to: its server is asked.
const CANCEL_WAIT: Duration = Duration::from_secs(1);

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
    /// What it had done when the look began that is under way: until that has ended nobody knows what came of it.
    looking: AtomicU8,
    /// It asked for the last value of a sequence, once.
    last_value: AtomicBool,
    left: AtomicBool,
    /// Somebody wants what it does to be cancelled, and waits to hear whether it could do that itself.
    cancel: Mutex<Option<oneshot::Sender<bool>>>,
    /// That is so: one load for a session of which nobody wants that.
    cancel_asked: AtomicBool,
    pub(crate) moving: Mutex<Moving>,
}

/// What one session's move stands on.
pub(crate) struct Moving {
    pub(crate) home: Home,
    /// As of the last look.
    pub(crate) state: State,
    /// Opened ahead, or being opened.
    standby: Opening,
    /// The channels that it listens on.
    heard: BTreeSet<Vec<u8>>,
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
    Soon(oneshot::Receiver<Opened>),
}

/// A second connection, or why there is none.
pub(crate) type Opened = Result<Box<Standby>, String>;

/// A look at a session that is under way. One that ends without an answer has seen nothing.
pub(crate) struct Looking<'c>(&'c Card);

impl Looking<'_> {
    /// What the session has.
    pub(crate) fn saw(self, state: State) {
        self.0.moving().state = state;
        // Behind the state: who finds no trace finds what came of it.
        self.0.looking.store(0, Ordering::Release);
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        let left = self.0.looking.load(Ordering::Relaxed);
        self.0.leave(Traces::from_bits(left));
        self.0.looking.store(0, Ordering::Release);
    }
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
        let moving = Moving {
            home,
            state: State::default(),
            standby: Opening::Nothing,
            heard: BTreeSet::new(),
            answer: (0, Ok(())),
            looked: 0,
        };
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
            looking: AtomicU8::new(0),
            last_value: AtomicBool::new(false),
            left: AtomicBool::new(false),
            cancel: Mutex::default(),
            cancel_asked: AtomicBool::new(false),
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
        self.traces.fetch_or(traces.bits(), Ordering::Release);
        if traces.meets(Traces::LAST_VALUE) {
            self.last_value.store(true, Ordering::Relaxed);
        }
    }

    /// A look begins. What was left before stays among [`Card::traces`] until it ends: a switch must not take a session for
    /// known while its server is being asked.
    pub(crate) fn look(&self) -> Looking<'_> {
        self.looking.store(self.traces.load(Ordering::Relaxed), Ordering::Relaxed);
        self.traces.store(0, Ordering::Release);
        Looking(self)
    }

    /// What it left since the last look that has ended.
    pub(crate) fn traces(&self) -> Traces {
        // In this order: they go from the one to the other, and away with the second.
        let left = self.traces.load(Ordering::Acquire);
        Traces::from_bits(left | self.looking.load(Ordering::Acquire))
    }

    /// It did something since the last look that could pin it to its server, or listens where its second connection does not.
    pub(crate) fn is_doubtful(&self) -> bool {
        let left = self.traces().meets(Traces::PINS | Traces::CHANNELS | Traces::LAST_VALUE);
        !self.stays && !self.raw && (left || self.moving().is_unheard())
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

    /// Ask the session to cancel what its client waits for. `false`: its server has to be asked, which works on it, if anybody does.
    /// Cancel safe.
    pub(crate) async fn cancel(&self) -> bool {
        let (asked, cancelled) = oneshot::channel();
        *self.cancel.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        self.cancel_asked.store(true, Ordering::Release);
        self.waker.wake();
        matches!(timeout(CANCEL_WAIT, cancelled).await, Ok(Ok(true)))
    }

    /// Somebody asked for that.
    pub(crate) fn cancel_asked(&self) -> Option<oneshot::Sender<bool>> {
        if !self.cancel_asked.load(Ordering::Relaxed) || !self.cancel_asked.swap(false, Ordering::Acquire) {
            return None;
        }
        self.cancel.lock().unwrap_or_else(PoisonError::into_inner).take()
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
        let mut moving = card.moving();
        // A connection that was opened for an earlier call may come later.
        if number >= moving.answer.0 {
            moving.answer = (number, answer);
        }
        drop(moving);
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
    let _ = timeout(Duration::from_millis(50), answered).await;
}

impl Moving {
    /// It has another second connection from now on, or none.
    pub(crate) fn stands_by(&mut self, standby: Opening) {
        self.standby = standby;
        self.heard.clear();
    }

    /// The second connection, for whoever moves to it.
    pub(crate) fn take_standby(&mut self) -> Opening {
        self.heard.clear();
        std::mem::take(&mut self.standby)
    }

    /// The second connection has what the session had in this state, unless there is another one by now.
    pub(crate) fn follows(&mut self, made: &oneshot::Sender<Opened>, state: &State) {
        if !made.is_closed() {
            self.heard.clone_from(state.channels());
        }
    }

    /// It listens on channels that its second connection does not, and nobody could say why not.
    pub(crate) fn is_unheard(&self) -> bool {
        self.failure().is_none() && !self.state.channels().is_subset(&self.heard)
    }

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
    fn what_a_session_left_counts_until_the_look_at_it_has_ended() {
        let card = card();
        card.leave(Traces::PINS);
        let look = card.look();
        assert!(card.is_doubtful(), "its server is being asked");
        drop(look);
        assert!(card.is_doubtful(), "its server did not say");
        let look = card.look();
        card.leave(Traces::CHANNELS);
        look.saw(State::default());
        assert_eq!(card.traces(), Traces::CHANNELS, "what came since");
        card.look().saw(State::default());
        assert_eq!((card.traces(), card.is_doubtful()), (Traces::NONE, false));
    }

    #[test]
    fn whoever_listens_is_in_doubt_until_its_second_connection_does() {
        let (sessions, card) = (Sessions::default(), card());
        let open = || {
            let (made, soon) = oneshot::channel();
            card.moving().stands_by(Opening::Soon(soon));
            made
        };
        let listening = State::listening(&["news"]);
        card.look().saw(listening.clone());
        assert!(card.is_doubtful());
        let (late, made) = (open(), open());
        card.moving().follows(&late, &listening);
        assert!(card.is_doubtful(), "it was opened for an earlier call, and is nobody's");
        card.moving().follows(&made, &listening);
        assert!(!card.is_doubtful());
        card.look().saw(State::listening(&["news", "weather"]));
        assert!(card.is_doubtful());
        // Whoever may not have one is a finding, and an operator's to ignore.
        sessions.answer(&card, 2, Err("28P01".to_owned()));
        sessions.answer(&card, 1, Ok(()));
        assert!(!card.is_doubtful(), "the newer answer counts");
        sessions.answer(&card, 3, Ok(()));
        assert!(card.is_doubtful());
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
