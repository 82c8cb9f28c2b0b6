//! Requests that wait for their answers, by the stream ids that the server knows them by.
//!
//! A client's own ids are used towards the server. But where the proxy had to answer itself, the server may still answer
//! later, and the client may use the id again before that: then a late answer would reach another request. Such an id
//! is an orphan; a request that comes with it travels under a negative one, which clients never use and servers echo.

mod table;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::cutover::gate::{Pass, Route, Slot};

use self::table::{Bare, Table};
use super::What;

/// Most orphans of one connection: past it the server is given up.
const ORPHANS_MAX: usize = 64;
/// -1 is for events.
const SPARE_FIRST: i16 = -2;

/// One request on its way.
pub(super) struct Flight {
    /// What the client calls it.
    pub client: i16,
    /// Keeps the route; `None`: that of all who were [sent together](Flights::enter) does.
    pub pass: Option<Pass>,
    /// When it was sent.
    pub since: Instant,
    /// What its answer means.
    pub what: What,
}

/// All of them.
pub(super) struct Flights {
    /// Those of which nothing but their bytes counts, and whose id is the client's own: most, and kept small, for what a
    /// request costs here is the memory that is touched for it.
    bare: Table,
    /// The others.
    by_id: HashMap<i16, Flight, RandomState>,
    /// What the times of the bare ones count from.
    began: Instant,
    orphans: HashSet<i16, RandomState>,
    /// From the client's id to the server's, where they differ.
    moved: HashMap<i16, i16, RandomState>,
    spare: i16,
    /// Of the requests without one of their own, and how many those are.
    together: Option<Pass>,
    sharing: u64,
}

impl Flights {
    /// None.
    pub(super) fn new() -> Flights {
        let (bare, by_id, orphans, moved) = Default::default();
        let began = Instant::now();
        Flights { bare, by_id, began, orphans, moved, spare: SPARE_FIRST, together: None, sharing: 0 }
    }

    /// The route of a request that needs no pass of its own: what one costs is most of what a request costs here. `None`:
    /// the gate is closed. Whoever had requests sent or answered calls [`Flights::leave`] afterwards.
    pub(super) fn enter(&mut self, slot: &Slot) -> Option<Route> {
        match &self.together {
            Some(pass) => (!slot.is_closed()).then(|| pass.route()),
            None => {
                self.together = slot.try_enter();
                Some(self.together.as_ref()?.route())
            }
        }
    }

    /// A flip need not wait for requests without a pass of their own that are answered.
    pub(super) fn leave(&mut self) {
        match (&mut self.together, self.sharing) {
            (together, 0) => *together = None,
            (Some(pass), sharing) => pass.stand_for(sharing),
            (None, _) => {}
        }
    }

    /// The client waits for an answer with this id.
    pub(super) fn is_used(&self, client: i16) -> bool {
        self.bare.contains(client)
            || !self.by_id.is_empty() && self.by_id.contains_key(&client) && !self.is_orphaned(client)
            || !self.moved.is_empty() && self.moved.contains_key(&client)
    }

    fn is_orphaned(&self, id: i16) -> bool {
        !self.orphans.is_empty() && self.orphans.contains(&id)
    }

    /// The id that the server will know this request by.
    pub(super) fn depart(&mut self, flight: Flight) -> i16 {
        let client = flight.client;
        self.sharing += u64::from(flight.pass.is_none());
        if self.is_orphaned(client) {
            let id = self.spare(client);
            self.by_id.insert(id, flight);
            return id;
        }
        match (&flight.pass, &flight.what) {
            (None, What::Plain | What::Unmirrored) => {
                let is_unmirrored = matches!(flight.what, What::Unmirrored);
                let since = flight.since.saturating_duration_since(self.began).as_millis();
                let since_ms = u64::try_from(since).unwrap_or(u64::MAX);
                self.bare.insert(Bare { id: client, is_unmirrored, since_ms });
            }
            _ => {
                self.by_id.insert(client, flight);
            }
        }
        client
    }

    fn spare(&mut self, client: i16) -> i16 {
        while self.by_id.contains_key(&self.spare) || self.orphans.contains(&self.spare) {
            self.spare = if self.spare == i16::MIN { SPARE_FIRST } else { self.spare - 1 };
        }
        self.moved.insert(client, self.spare);
        self.spare
    }

    /// An answer came of which nothing but its bytes counts.
    #[inline]
    pub(super) fn arrive_bare(&mut self, id: i16) -> bool {
        let is_bare = !self.is_orphaned(id) && self.bare.remove(id).is_some();
        self.sharing -= u64::from(is_bare);
        is_bare
    }

    /// An answer came. `None`: nobody waits for it any more.
    pub(super) fn arrive(&mut self, id: i16) -> Option<Flight> {
        if !self.orphans.is_empty() && self.orphans.remove(&id) {
            return None;
        }
        let flight = match self.bare.remove(id) {
            Some(bare) => self.whole(bare),
            None => self.by_id.remove(&id)?,
        };
        self.sharing -= u64::from(flight.pass.is_none());
        if flight.client != id {
            self.moved.remove(&flight.client);
        }
        Some(flight)
    }

    fn whole(&self, bare: Bare) -> Flight {
        let what = if bare.is_unmirrored { What::Unmirrored } else { What::Plain };
        let since = self.began + Duration::from_millis(bare.since_ms);
        Flight { client: bare.id, pass: None, since, what }
    }

    /// The answer of one of them, if it is more than its bytes, means such a thing.
    pub(super) fn any(&self, mut is_such: impl FnMut(&What) -> bool) -> bool {
        self.by_id.values().any(|one| is_such(&one.what))
    }

    /// One of them was sent before this.
    pub(super) fn any_before(&self, before: Instant) -> bool {
        self.sent_before(before).next().is_some()
    }

    fn sent_before(&self, before: Instant) -> impl Iterator<Item = i16> {
        let began = self.began;
        let since = move |bare: &Bare| began + Duration::from_millis(bare.since_ms);
        let bare = self.bare.iter().filter(move |bare| since(bare) < before).map(|bare| bare.id);
        bare.chain(self.by_id.iter().filter(move |(_, one)| one.since < before).map(|(id, _)| *id))
    }

    /// Those that were sent before this, which the proxy is going to answer.
    pub(super) fn overdue(&mut self, before: Instant) -> Vec<Flight> {
        let late: Vec<i16> = self.sent_before(before).collect();
        late.into_iter().filter_map(|id| self.give_up(id)).collect()
    }

    fn give_up(&mut self, id: i16) -> Option<Flight> {
        let flight = self.arrive(id)?;
        self.orphans.insert(id);
        Some(flight)
    }

    /// All of them: the server is gone, and nothing of it will answer.
    pub(super) fn lost(&mut self) -> Vec<Flight> {
        self.orphans.clear();
        self.moved.clear();
        self.sharing = 0;
        let bare = std::mem::take(&mut self.bare);
        let bare: Vec<Flight> = bare.iter().map(|bare| self.whole(*bare)).collect();
        bare.into_iter().chain(self.by_id.drain().map(|(_, flight)| flight)).collect()
    }

    /// The server left too much unanswered.
    pub(super) fn is_hopeless(&self) -> bool {
        self.orphans.len() > ORPHANS_MAX
    }

    /// Nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are on their way.
    pub(super) fn len(&self) -> usize {
        self.bare.len() + self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(client: i16, since: Instant) -> Flight {
        Flight { client, pass: None, since, what: What::Plain }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_never_reaches_another_request() {
        let began = Instant::now();
        let mut flights = Flights::new();
        assert_eq!(flights.depart(flight(7, began)), 7);
        assert!(flights.is_used(7));
        let given_up = flights.overdue(began + Duration::from_millis(1));
        assert_eq!(given_up.iter().map(|one| one.client).collect::<Vec<_>>(), [7]);
        assert!(!flights.is_used(7));
        let id = flights.depart(flight(7, began));
        assert_eq!(id, -2);
        assert!(flights.is_used(7));
        assert!(flights.arrive(7).is_none(), "the late one");
        assert_eq!(flights.arrive(-2).map(|one| one.client), Some(7));
        assert_eq!(flights.depart(flight(7, began)), 7, "the id is its own again");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_lost_is_handed_out_once() {
        let began = Instant::now();
        let mut flights = Flights::new();
        for (client, what) in [(1, What::Plain), (2, What::Unmirrored), (3, What::Use)] {
            flights.depart(Flight { what, ..flight(client, began) });
        }
        assert_eq!(flights.len(), 3);
        assert!(!flights.any_before(began));
        let mut lost = flights.lost();
        lost.sort_by_key(|flight| flight.client);
        assert!(matches!(
            lost.iter().map(|flight| (flight.client, &flight.what)).collect::<Vec<_>>()[..],
            [(1, What::Plain), (2, What::Unmirrored), (3, What::Use)]
        ));
        assert!(flights.is_empty() && flights.lost().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_given_up_in_the_end() {
        let began = Instant::now();
        let mut flights = Flights::new();
        for round in 0..=ORPHANS_MAX as i16 {
            assert!(!flights.is_hopeless());
            flights.depart(flight(round, began));
            flights.overdue(began + Duration::from_millis(1));
        }
        assert!(flights.is_hopeless());
    }
}
