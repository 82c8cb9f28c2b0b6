//! Bare flights by stream id: a table with a place for each id, modulo its size.
//!
//! Drivers count their ids up from 0, or around, so that ids in use at one time lie side by side: then each is in its own
//! place, and finding it costs no hash. Where two share a place, the later goes to the next free one. A client may choose ids
//! that all share one: that costs it a look at each of its own flights, of which there are at most as many as ids.

/// Places at first.
const FIRST: usize = 8;

/// A request of which nothing but its bytes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bare {
    /// The client's id, and the server's.
    pub id: i16,
    /// A write that nobody mirrors.
    pub is_unmirrored: bool,
    /// When it was sent.
    pub since_ms: u64,
}

/// Bare flights by their ids.
#[derive(Default)]
pub(super) struct Table {
    /// None, or a power of two, at most half of them taken.
    places: Vec<Option<Bare>>,
    len: usize,
    /// How many of them are not in their own place.
    strays: usize,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn contains(&self, id: i16) -> bool {
        self.find(id).is_some()
    }

    /// There is none with this id.
    pub(super) fn insert(&mut self, bare: Bare) {
        if 2 * self.len >= self.places.len() {
            self.grow();
        }
        self.len += 1;
        let mut at = self.home(bare.id);
        while self.places[at].is_some() {
            at = self.next(at);
        }
        self.strays += usize::from(at != self.home(bare.id));
        self.places[at] = Some(bare);
    }

    pub(super) fn remove(&mut self, id: i16) -> Option<Bare> {
        let mut hole = self.find(id)?;
        let bare = self.places[hole].take()?;
        self.len -= 1;
        self.strays -= usize::from(hole != self.home(id));
        if self.strays == 0 {
            return Some(bare);
        }
        // Whoever gave way to it, and would not be found behind a hole, moves up.
        let mut at = self.next(hole);
        while let Some(other) = &self.places[at] {
            let mask = self.places.len() - 1;
            let (from_home, from_hole) = (at.wrapping_sub(self.home(other.id)) & mask, at.wrapping_sub(hole) & mask);
            if from_home >= from_hole {
                self.strays -= usize::from(hole == self.home(other.id));
                self.places.swap(hole, at);
                hole = at;
            }
            at = self.next(at);
        }
        Some(bare)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bare> {
        self.places.iter().flatten()
    }

    #[inline]
    fn find(&self, id: i16) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.home(id);
        loop {
            match self.places.get(at)? {
                Some(bare) if bare.id == id => return Some(at),
                Some(_) => at = self.next(at),
                None => return None,
            }
        }
    }

    #[inline]
    fn home(&self, id: i16) -> usize {
        usize::from(id.cast_unsigned()) & (self.places.len() - 1)
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    fn grow(&mut self) {
        let size = (2 * self.places.len()).max(FIRST);
        let places = std::mem::replace(&mut self.places, std::iter::repeat_with(|| None).take(size).collect());
        (self.len, self.strays) = (0, 0);
        for bare in places.into_iter().flatten() {
            self.insert(bare);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use proptest::prelude::*;

    use super::*;

    fn bare(id: i16, since_ms: u64) -> Bare {
        Bare { id, is_unmirrored: id % 2 == 0, since_ms }
    }

    proptest! {
        /// As a map does, also with ids that share their places.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0i16..12, 0usize..3, any::<bool>(), any::<u64>()), 1..200)) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (low, shift, goes, since) in steps {
                let id = low.wrapping_mul([1, 64, -4096][shift]);
                if goes {
                    prop_assert_eq!(table.remove(id), map.remove(&id));
                } else if let Entry::Vacant(free) = map.entry(id) {
                    free.insert(bare(id, since));
                    table.insert(bare(id, since));
                }
                prop_assert_eq!(table.len(), map.len());
                let strays = table.places.iter().enumerate();
                let strays = strays.filter(|(at, place)| place.is_some_and(|bare| table.home(bare.id) != *at));
                prop_assert_eq!(table.strays, strays.count());
                prop_assert!(map.keys().all(|id| table.contains(*id)));
                let mut all: Vec<Bare> = table.iter().copied().collect();
                all.sort_unstable_by_key(|bare| bare.id);
                prop_assert_eq!(all, map.values().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_id_at_once_has_its_place() {
        let mut table = Table::default();
        (i16::MIN..=i16::MAX).for_each(|id| table.insert(bare(id, 1)));
        assert!((i16::MIN..=i16::MAX).all(|id| table.contains(id)));
        assert!((i16::MIN..=i16::MAX).all(|id| table.remove(id) == Some(bare(id, 1))));
        assert_eq!(table.len(), 0);
    }
}
