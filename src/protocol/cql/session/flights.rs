//! Requests that wait for their answers, by the stream ids that the server knows them by.
//!
//! A client's own ids are used towards the server. But where the proxy had to answer itself, the server may still answer
//! later, and the client may use the id again before that: then a late answer would reach another request. Such an id
//! is an orphan; a request that comes with it travels under a negative one, which clients never use and servers echo.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::cutover::gate::{Pass, Route, Slot};

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
    by_id: HashMap<i16, Flight, RandomState>,
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
        let (by_id, orphans, moved) = Default::default();
        Flights { by_id, orphans, moved, spare: SPARE_FIRST, together: None, sharing: 0 }
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
        self.by_id.contains_key(&client) && !self.orphans.contains(&client) || self.moved.contains_key(&client)
    }

    /// The id that the server will know this request by.
    pub(super) fn depart(&mut self, flight: Flight) -> i16 {
        let client = flight.client;
        self.sharing += u64::from(flight.pass.is_none());
        let id = if self.orphans.contains(&client) { self.spare(client) } else { client };
        self.by_id.insert(id, flight);
        id
    }

    fn spare(&mut self, client: i16) -> i16 {
        while self.by_id.contains_key(&self.spare) || self.orphans.contains(&self.spare) {
            self.spare = if self.spare == i16::MIN { SPARE_FIRST } else { self.spare - 1 };
        }
        self.moved.insert(client, self.spare);
        self.spare
    }

    /// An answer came. `None`: nobody waits for it any more.
    pub(super) fn arrive(&mut self, id: i16) -> Option<Flight> {
        if !self.orphans.is_empty() && self.orphans.remove(&id) {
            return None;
        }
        let flight = self.by_id.remove(&id)?;
        self.sharing -= u64::from(flight.pass.is_none());
        if flight.client != id {
            self.moved.remove(&flight.client);
        }
        Some(flight)
    }

    /// The answer of one of them means such a thing.
    pub(super) fn any(&self, mut is_such: impl FnMut(&What) -> bool) -> bool {
        self.by_id.values().any(|one| is_such(&one.what))
    }

    /// One of them was sent before this.
    pub(super) fn any_before(&self, before: Instant) -> bool {
        self.by_id.values().any(|one| one.since < before)
    }

    /// Those that were sent before this, which the proxy is going to answer.
    pub(super) fn overdue(&mut self, before: Instant) -> Vec<Flight> {
        let late: Vec<i16> = self.by_id.iter().filter(|(_, one)| one.since < before).map(|(id, _)| *id).collect();
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
        self.by_id.drain().map(|(_, flight)| flight).collect()
    }

    /// The server left too much unanswered.
    pub(super) fn is_hopeless(&self) -> bool {
        self.orphans.len() > ORPHANS_MAX
    }

    /// Nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many are on their way.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
