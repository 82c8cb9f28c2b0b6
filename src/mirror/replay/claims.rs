//! Who may go before whom: a record *claims* resources, each a read-write lock with a queue in the journal's order.
//!
//! A record enters with all of its claims at once, holds those that nobody before it is in the way of, and may be
//! applied when it holds all. As everybody queues in one order, nobody waits in a circle. That is the whole ordering
//! rule of replay:
//!
//! | what the record says | claims |
//! | --- | --- |
//! | any item of a table | *all*, and the table: beside |
//! | a write or touch in a part of a table | the part: as its lane says |
//! | in no part that could be told | *anywhere* in the table: beside; alone, the table: alone |
//! | a key | the table's place: alone; *anywhere* in it: at places |
//! | a barrier, or a whole table | the table: alone; without a table, *all*: alone |
//!
//! A place is settled by what reads show, and no read shows that something was deleted. So a write that is decided by its
//! timestamp must be on the secondary before a place of its part is settled, or come behind: it would bring back what
//! the settlement saw gone on both sides.
//!
//! Resources are known by a seeded hash: two that collide wait for each other without need, which costs time and nothing
//! else. Entering and leaving cost a hash look-up or two for each claim, however long the queues are.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use crate::journal::Lsn;
use crate::record::{Item, Lane, Order, Record, TableId};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What records claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource<'a> {
    /// Everything there is.
    All,
    /// A table.
    Table(TableId),
    /// A part of a table.
    Part(TableId, u64),
    /// Any part of a table, by those who do not know which, and those who must not meet them.
    Anywhere(TableId),
    /// What is settled by state.
    Place(TableId, &'a [u8]),
}

/// How it is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Beside others who are.
    Beside,
    /// Beside others who are at places of their own.
    AtPlaces,
    /// Alone.
    Alone,
}

impl Mode {
    fn goes_with(self, other: Mode) -> bool {
        self == other && self != Mode::Alone
    }
}

impl From<Order> for Mode {
    fn from(order: Order) -> Mode {
        match order {
            Order::Beside => Mode::Beside,
            Order::AtPlaces => Mode::AtPlaces,
            Order::Alone => Mode::Alone,
        }
    }
}

/// What a record claims; resources may come more than once.
pub fn of(record: &Record) -> impl Iterator<Item = (Resource<'_>, Mode)> {
    record.items().flat_map(|item| of_item(item).into_iter().flatten())
}

fn of_item(item: Item<'_>) -> [Option<(Resource<'_>, Mode)>; 4] {
    use Mode::{Alone, AtPlaces, Beside};
    let own = match item {
        Item::Prepared(_) | Item::Stamp(_) | Item::Look(_) => return [None; 4],
        Item::Ddl(TableId::NONE, _) | Item::Table(TableId::NONE) => {
            return [Some((Resource::All, Alone)), None, None, None];
        }
        Item::Ddl(table, _) | Item::Table(table) => [Some((Resource::Table(table), Alone)), None],
        Item::Dirty(..) => [None, None],
        Item::Write { table, lane, .. } | Item::Touch { table, lane } => [Some(of_lane(table, lane)), None],
        Item::Key { table, key, .. } => {
            [Some((Resource::Place(table, key), Alone)), Some((Resource::Anywhere(table), AtPlaces))]
        }
    };
    [Some((Resource::All, Beside)), Some((Resource::Table(item.table()), Beside)), own[0], own[1]]
}

fn of_lane(table: TableId, lane: Lane) -> (Resource<'static>, Mode) {
    match (lane.part(), lane.order()) {
        (Some(part), order) => (Resource::Part(table, part), order.into()),
        (None, Order::Alone) => (Resource::Table(table), Mode::Alone),
        (None, order) => (Resource::Anywhere(table), order.into()),
    }
}

/// All locks, and who holds or awaits them. A record is known by its position.
#[derive(Default)]
pub struct Claims {
    locks: Map<u64, Lock>,
    holders: Map<Lsn, Holder>,
    hasher: foldhash::quality::RandomState,
}

#[derive(Default)]
struct Lock {
    /// Who holds it, and how.
    holders: usize,
    mode: Option<Mode>,
    /// In the order of entering. The first is there and cannot be let in; of the others some may have left.
    waiting: VecDeque<(Lsn, Mode)>,
    /// How many of them have.
    left: usize,
}

struct Holder {
    /// Sorted by resource, each once.
    claims: Box<[Claim]>,
    /// How many are not held yet.
    missing: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    resource: u64,
    mode: Mode,
    held: bool,
}

impl Claims {
    /// Queue up with these claims; after everybody who entered before. True: it holds them all.
    pub fn enter<'a>(&mut self, id: Lsn, claims: impl Iterator<Item = (Resource<'a>, Mode)>) -> bool {
        let mut claims = self.hashed(claims);
        let mut missing = 0;
        for claim in &mut claims {
            claim.held = self.locks.entry(claim.resource).or_default().enter(id, claim.mode);
            missing += usize::from(!claim.held);
        }
        self.holders.insert(id, Holder { claims: claims.into(), missing });
        missing == 0
    }

    /// Sorted by resource, each once; alone, if in more than one mode.
    fn hashed<'a>(&self, claims: impl Iterator<Item = (Resource<'a>, Mode)>) -> Vec<Claim> {
        let hashed = |(resource, mode)| Claim { resource: self.hasher.hash_one(resource), mode, held: false };
        let mut claims: Vec<Claim> = claims.map(hashed).collect();
        claims.sort_unstable();
        claims.dedup_by(|later, kept| {
            let same = later.resource == kept.resource;
            if same && kept.mode != later.mode {
                kept.mode = Mode::Alone;
            }
            same
        });
        claims
    }

    /// Give up all claims, held or not. Whoever holds all of its claims by that is added to `ready`, the oldest first.
    pub fn leave(&mut self, id: Lsn, ready: &mut Vec<Lsn>) {
        let Some(holder) = self.holders.remove(&id) else { return };
        let before = ready.len();
        for claim in holder.claims {
            let Entry::Occupied(mut lock) = self.locks.entry(claim.resource) else { continue };
            lock.get_mut().leave(claim, &self.holders);
            lock.get_mut().admit(claim.resource, &mut self.holders, ready);
            if lock.get().is_free() {
                lock.remove();
            }
        }
        // By resource is by hash, which no two processes share.
        ready[before..].sort_unstable();
    }

    /// It holds everything that it claims.
    pub fn holds_all(&self, id: Lsn) -> bool {
        self.holders.get(&id).is_some_and(|holder| holder.missing == 0)
    }

    /// Nobody is here.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.locks.is_empty()
    }
}

impl Lock {
    fn enter(&mut self, id: Lsn, mode: Mode) -> bool {
        let free = self.waiting.is_empty() && self.admits(mode);
        if free {
            self.take(mode);
        } else {
            self.waiting.push_back((id, mode));
        }
        free
    }

    fn admits(&self, mode: Mode) -> bool {
        self.mode.is_none_or(|held| held.goes_with(mode))
    }

    fn take(&mut self, mode: Mode) {
        self.holders += 1;
        self.mode = Some(mode);
    }

    /// `holders` no longer has the one who leaves.
    fn leave(&mut self, claim: Claim, holders: &Map<Lsn, Holder>) {
        if claim.held {
            self.holders -= 1;
            self.mode = self.mode.filter(|_| self.holders > 0);
        } else {
            self.left += 1;
        }
        // Those who left are passed over when their turn comes. They are never more than the others, so that a queue
        // behind somebody slow is as long as what waits in it (promise 12).
        if self.left * 2 > self.waiting.len() {
            self.waiting.retain(|(id, _)| holders.contains_key(id));
            self.left = 0;
        }
    }

    fn admit(&mut self, resource: u64, holders: &mut Map<Lsn, Holder>, ready: &mut Vec<Lsn>) {
        while let Some(&(id, mode)) = self.waiting.front() {
            match holders.get_mut(&id) {
                None => self.left -= 1,
                Some(_) if !self.admits(mode) => return,
                Some(holder) => {
                    self.take(mode);
                    if holder.gets(resource) {
                        ready.push(id);
                    }
                }
            }
            self.waiting.pop_front();
        }
    }

    fn is_free(&self) -> bool {
        self.holders == 0 && self.waiting.is_empty()
    }
}

impl Holder {
    /// One claim more is held; true: it was the last.
    fn gets(&mut self, resource: u64) -> bool {
        let at = self.claims.binary_search_by_key(&resource, |claim| claim.resource);
        let at = at.expect("it waits only for what it claims");
        self.claims[at].held = true;
        self.missing -= 1;
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{Backend, RecordBuf};

    const T: TableId = TableId(1);
    const U: TableId = TableId(2);

    fn claims(build: impl FnOnce(&mut RecordBuf)) -> Vec<(Mode, String)> {
        let mut buf = RecordBuf::default();
        build(&mut buf);
        let record = buf.finish(Backend { id: 1, life: 1 }).to_vec();
        let record = Record::parse(record.into()).expect("valid");
        of(&record).map(|(resource, mode)| (mode, format!("{resource:?}"))).collect()
    }

    fn meet(a: impl FnOnce(&mut RecordBuf), b: impl FnOnce(&mut RecordBuf)) -> bool {
        let (a, b) = (claims(a), claims(b));
        a.iter().any(|(mode, a)| b.iter().any(|(other, b)| a == b && !mode.goes_with(*other)))
    }

    #[test]
    fn writes_meet_where_one_is_alone() {
        let (seven, eight) = (Lane::alone(0x70), Lane::alone(0x80));
        assert!(!meet(|r| r.write(T, Lane::ANY, b"a"), |r| r.write(T, Lane::ANY, b"b")));
        assert!(!meet(|r| r.write(T, Lane::beside(0x70), b"a"), |r| r.write(T, Lane::beside(0x70), b"b")));
        assert!(!meet(|r| r.write(T, seven, b"a"), |r| r.write(T, eight, b"b")));
        assert!(!meet(|r| r.write(T, seven, b"a"), |r| r.write(U, seven, b"b")));
        assert!(meet(|r| r.write(T, seven, b"a"), |r| r.write(T, seven, b"b")));
        assert!(meet(|r| r.write(T, seven, b"a"), |r| r.touch(T, seven)));
        assert!(meet(|r| r.write(T, seven, b"a"), |r| r.touch(T, Lane::beside(0x70))));
        assert!(meet(|r| r.write(T, seven, b"a"), |r| r.write(T, Lane::alone(0), b"anywhere")));
    }

    #[test]
    fn a_place_meets_itself_and_the_writes_of_its_part() {
        let key = |key: &'static [u8], part| {
            move |r: &mut RecordBuf| {
                r.key(T, key, false);
                r.touch(T, Lane::new(Order::AtPlaces, part));
            }
        };
        assert!(meet(key(b"k", 0x70), key(b"k", 0x70)));
        assert!(!meet(key(b"k", 0x70), key(b"l", 0x70)));
        assert!(meet(key(b"k", 0x70), |r| r.write(T, Lane::beside(0x70), b"k")));
        assert!(!meet(key(b"k", 0x70), |r| r.write(T, Lane::beside(0x80), b"k")));
        assert!(meet(key(b"k", 0x70), |r| r.write(T, Lane::ANY, b"k")));
        let both = |r: &mut RecordBuf| {
            key(b"m", 0x70)(r);
            r.touch(T, Lane::beside(0x70));
        };
        assert!(meet(both, key(b"k", 0x70)) && meet(both, |r| r.write(T, Lane::beside(0x70), b"k")));
    }

    #[test]
    fn a_barrier_meets_everything_of_its_table_and_one_without_a_table_everything() {
        for barrier in [|r: &mut RecordBuf| r.ddl(T, b"x"), |r: &mut RecordBuf| r.table(T)] {
            assert!(meet(barrier, |r| r.write(T, Lane::ANY, b"a")));
            assert!(meet(barrier, |r| r.key(T, b"k", false)));
            assert!(meet(barrier, |r| r.dirty(T, crate::record::Reason::Uncaptured)));
            assert!(!meet(barrier, |r| r.write(U, Lane::ANY, b"a")));
            assert!(meet(|r| r.ddl(TableId::NONE, b"x"), barrier));
        }
        assert!(meet(|r| r.ddl(TableId::NONE, b"x"), |r| r.touch(U, Lane::ANY)));
    }

    /// Who may go, as slow as can be: whoever has nobody before it that it could not be beside.
    fn naive(entered: &BTreeMap<u64, Vec<(u8, Mode)>>) -> Vec<u64> {
        let meet = |a: &[(u8, Mode)], b: &[(u8, Mode)]| {
            a.iter().any(|(r, m)| b.iter().any(|(s, n)| r == s && !m.goes_with(*n)))
        };
        let free = |id: &u64| entered.range(..id).all(|(_, earlier)| !meet(earlier, &entered[id]));
        entered.keys().copied().filter(free).collect()
    }

    /// Who claims something in two ways claims it alone.
    fn once_each(wanted: Vec<(u8, Mode)>) -> Vec<(u8, Mode)> {
        let mut once = BTreeMap::new();
        for (what, mode) in wanted {
            once.entry(what).and_modify(|kept| *kept = if *kept == mode { mode } else { Mode::Alone }).or_insert(mode);
        }
        once.into_iter().collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(Vec<(u8, u8)>),
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec((0_u8..5, 0_u8..3), 0..4).prop_map(Step::Enter),
            any::<prop::sample::Index>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn records_go_exactly_when_nobody_before_them_is_in_the_way(steps in prop::collection::vec(step(), 0..120)) {
            let (mut claims, mut entered, mut next) = (Claims::default(), BTreeMap::new(), 0);
            let mut told = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Enter(wanted) => {
                        let mode = |how| [Mode::Beside, Mode::AtPlaces, Mode::Alone][usize::from(how)];
                        let wanted: Vec<_> = wanted.into_iter().map(|(what, how)| (what, mode(how))).collect();
                        let wanted = once_each(wanted);
                        let resources = wanted.iter().map(|&(what, mode)| (Resource::Part(T, what.into()), mode));
                        if claims.enter(Lsn(next), resources) {
                            told.insert(next);
                        }
                        entered.insert(next, wanted);
                        next += 1;
                    }
                    Step::Leave(at) if !entered.is_empty() => {
                        let id = *at.get(&entered.keys().copied().collect::<Vec<_>>());
                        entered.remove(&id);
                        told.remove(&id);
                        let mut ready = Vec::new();
                        claims.leave(Lsn(id), &mut ready);
                        for id in ready {
                            prop_assert!(told.insert(id.0), "told twice");
                        }
                    }
                    Step::Leave(_) => {}
                }
                prop_assert_eq!(told.iter().copied().collect::<Vec<_>>(), naive(&entered));
                for lock in claims.locks.values() {
                    prop_assert!(lock.waiting.len() <= 2 * entered.len(), "those who left are kept");
                }
            }
            for &id in entered.keys() {
                claims.leave(Lsn(id), &mut Vec::new());
            }
            prop_assert!(claims.is_empty());
        }
    }
}
