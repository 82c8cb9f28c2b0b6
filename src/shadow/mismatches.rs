//! The differences that lasted: which statement, table, key and columns, how often and since when.
//!
//! Kept in memory, bounded in count and bytes; past it the one that was seen longest ago is forgotten, and counted. Not durable:
//! what is still different after a restart is found again, and tables and keys that it concerns were owed or marked
//! dirty durably when it was found.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Difference, How, Shown};
use crate::mirror::dirty::unix_now;
use crate::record::{Side, TableId};

/// Differences that are kept.
pub(super) const ENTRIES_MAX: usize = 1_000;
/// Bytes that they may take, about.
const BYTES_MAX: usize = 4 << 20;
/// Columns that are named.
const COLUMNS_MAX: usize = 64;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Longest text of a row that is kept, in bytes.
const SHOWN_BYTES_MAX: usize = 4_000;

/// Whether a difference is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As far as is known.
    Open,
    /// Both sides were alike when they were asked again.
    Gone,
    /// It was seen before a switch.
    Past,
}

impl State {
    /// The word in the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Gone => "gone",
            State::Past => "past",
        }
    }
}

/// A difference that lasted.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number, never used again in this process.
    pub id: u64,
    /// The statement without values.
    pub statement: Arc<str>,
    /// Of which kind.
    pub how: How,
    /// The table, where one can be told.
    pub table: Option<TableId>,
    /// The table's qualified name.
    pub name: String,
    /// A hash of the keys of the rows, where they can be told.
    pub key_hash: Option<u64>,
    /// The columns that differed when it was seen last.
    pub columns: Vec<String>,
    /// The primary when it was seen last.
    pub primary: Side,
    /// The control state's number when it was seen last: a flip pays what was owed, so what was seen before one is past.
    pub epoch: u64,
    /// Reads that showed it.
    pub count: u64,
    /// Seconds since the epoch.
    pub first_unix: u64,
    /// Seconds since the epoch.
    pub last_unix: u64,
    /// Whether it was seen to be gone.
    is_gone: bool,
    /// Somebody looks whether it is gone.
    pub followed: bool,
    /// The rows as they were seen last.
    pub shown: Option<Box<Shown>>,
    /// In the order of sights.
    sight: u64,
}

impl Entry {
    /// Whether it is still there, as far as is known in this epoch.
    pub fn state(&self, epoch: u64) -> State {
        match self.is_gone {
            true => State::Gone,
            false if self.epoch < epoch => State::Past,
            false => State::Open,
        }
    }

    fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.len() + size_of::<String>()).sum();
        let shown = |shown: &Shown| shown.key.len() + shown.primary.len() + shown.secondary.len();
        size_of::<Entry>() + self.name.len() + columns + self.shown.as_deref().map_or(0, shown)
    }
}

/// What makes two sights one difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    shape: u64,
    how: How,
    name: String,
    rows: Rows,
}

/// Which rows a difference is of: one that is alike again says nothing of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rows {
    /// Those with these keys.
    Keyed(u64),
    /// Nobody can tell: those that this question is about, its values included. Of an error, whatever this user asks for.
    Asked(u64),
    /// It is of the statement, whatever its values are.
    All,
}

impl Rows {
    fn of(found: &Difference, question: u64) -> Rows {
        match found.key_hash {
            Some(hash) => Rows::Keyed(hash),
            None if found.how.is_of_rows() || found.how == How::OtherError => Rows::Asked(question),
            None => Rows::All,
        }
    }
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
    last_id: u64,
    sights: u64,
    forgotten: u64,
}

/// Who was the primary, and in which epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) primary: Side,
    pub(super) epoch: u64,
}

/// What [`Mismatches::note`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) id: u64,
    /// Which of all sights this one is: a later one has a higher number.
    pub(super) sight: u64,
    /// Nobody was told of it, or it was gone.
    pub(super) is_news: bool,
}

/// The differences that lasted; one store of a process.
#[derive(Default)]
pub struct Mismatches {
    book: Mutex<Book>,
}

impl Mismatches {
    fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing in there panics half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A difference lasted. `question` is a hash of all that was asked; of an error, of who asked.
    pub(super) fn note(&self, (shape, statement): (u64, &Arc<str>), question: u64, found: Difference, at: At) -> Noted {
        self.lock().note((shape, statement), question, bounded(found), at)
    }

    /// Both sides are alike again, asked what showed it in this sight. False: it was forgotten, or somebody has seen it since: ask
    /// what he asked.
    pub(super) fn gone(&self, id: u64, sight: u64) -> bool {
        let mut book = self.lock();
        let entry = book.entries.values_mut().find(|entry| entry.id == id && entry.sight == sight);
        entry.map(|entry| entry.is_gone = true).is_some()
    }

    /// Look at it until it is gone, for as long as the answer lives. `None`: it is not there, or somebody does already.
    pub(super) fn follow(&self, id: u64) -> Option<Following<'_>> {
        let mut book = self.lock();
        let entry = book.entries.values_mut().find(|entry| entry.id == id && !entry.is_gone && !entry.followed)?;
        entry.followed = true;
        Some(Following { mismatches: self, id })
    }

    /// How many are open in this epoch with nobody who looks whether they are gone.
    pub fn unfollowed(&self, epoch: u64) -> usize {
        let is_left = |entry: &&Entry| entry.state(epoch) == State::Open && !entry.followed;
        self.lock().entries.values().filter(is_left).count()
    }

    /// It is kept, and not known to be gone.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.lock().entries.values().any(|entry| entry.id == id && !entry.is_gone)
    }

    /// All of them, those seen last first.
    pub fn list(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.lock().entries.values().cloned().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.sight));
        entries
    }

    /// How many are open in this epoch.
    pub fn open(&self, epoch: u64) -> usize {
        self.lock().entries.values().filter(|entry| entry.state(epoch) == State::Open).count()
    }

    /// How many were forgotten because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    /// An operator has seen them: forget this one, or all. How many were forgotten.
    pub fn clear(&self, id: Option<u64>) -> usize {
        let mut book = self.lock();
        let before = book.entries.len();
        book.entries.retain(|_, entry| id.is_some_and(|id| entry.id != id));
        book.bytes = book.entries.values().map(Entry::bytes).sum();
        before - book.entries.len()
    }
}

/// Somebody looks at a difference until it is gone.
pub(super) struct Following<'m> {
    mismatches: &'m Mismatches,
    id: u64,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let mut book = self.mismatches.lock();
        if let Some(entry) = book.entries.values_mut().find(|entry| entry.id == self.id) {
            entry.followed = false;
        }
    }
}

impl Book {
    fn note(&mut self, (shape, statement): (u64, &Arc<str>), question: u64, found: Difference, at: At) -> Noted {
        let key = Key { shape, how: found.how, name: found.name.clone(), rows: Rows::of(&found, question) };
        let now = unix_now();
        self.sights += 1;
        let mut entry = Entry {
            id: self.last_id + 1,
            statement: statement.clone(),
            how: found.how,
            table: found.table,
            name: found.name,
            key_hash: found.key_hash,
            columns: found.columns,
            primary: at.primary,
            epoch: at.epoch,
            count: 1,
            first_unix: now,
            last_unix: now,
            is_gone: false,
            followed: false,
            shown: found.shown,
            sight: self.sights,
        };
        let mut is_news = true;
        match self.entries.entry(key) {
            btree_map::Entry::Vacant(place) => {
                self.last_id += 1;
                self.bytes += entry.bytes();
                place.insert(entry.clone());
            }
            btree_map::Entry::Occupied(mut known) => {
                let known = known.get_mut();
                is_news = known.state(at.epoch) != State::Open;
                (entry.id, entry.first_unix, entry.count) = (known.id, known.first_unix, known.count + 1);
                entry.followed = known.followed;
                self.bytes = self.bytes + entry.bytes() - known.bytes();
                *known = entry.clone();
            }
        }
        self.shrink();
        Noted { id: entry.id, sight: entry.sight, is_news }
    }

    fn shrink(&mut self) {
        while self.entries.len() > ENTRIES_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.sight).map(|(key, _)| key.clone());
            let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) else { return };
            self.bytes -= entry.bytes();
            self.forgotten += 1;
            crate::metrics::SHADOW_FORGOTTEN_TOTAL.counter(&[]).increment(1);
        }
    }
}

/// What a wire says of a difference, as much of it as is kept.
fn bounded(mut found: Difference) -> Difference {
    let cut_to = |text: &mut String, bytes| text.truncate(text.floor_char_boundary(bytes));
    found.keys = Vec::new();
    cut_to(&mut found.name, NAME_BYTES_MAX);
    found.columns.truncate(COLUMNS_MAX);
    found.columns.iter_mut().for_each(|column| cut_to(column, NAME_BYTES_MAX));
    if let Some(shown) = &mut found.shown {
        for text in [&mut shown.key, &mut shown.primary, &mut shown.secondary] {
            cut_to(text, SHOWN_BYTES_MAX);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::tests::difference;

    const AT: At = At { primary: Side::Origin, epoch: 1 };

    fn note(mismatches: &Mismatches, shape: u64, key_hash: u64) -> Noted {
        let found = Difference { key_hash: Some(key_hash), ..difference() };
        mismatches.note((shape, &"select".into()), 0, found, AT)
    }

    #[test]
    fn a_difference_is_news_once_and_again_when_it_was_gone() {
        let mismatches = Mismatches::default();
        let first = note(&mismatches, 1, 7);
        assert!(first.is_news);
        let again = note(&mismatches, 1, 7);
        assert_eq!((again.id, again.is_news), (first.id, false));
        assert_eq!((mismatches.open(1), mismatches.list()[0].count), (1, 2));
        assert!(!mismatches.gone(first.id, first.sight), "it was seen since");
        assert!(mismatches.gone(first.id, again.sight) && !mismatches.is_open(first.id));
        assert_eq!(mismatches.open(1), 0);
        let again = note(&mismatches, 1, 7);
        assert_eq!((again.id, again.is_news), (first.id, true));
        assert!(note(&mismatches, 2, 7).is_news, "another statement shows it");
        assert!(note(&mismatches, 1, 8).is_news, "another key");
    }

    #[test]
    fn rows_without_keys_are_told_apart_by_what_was_asked_and_what_is_no_rows_is_not() {
        let mismatches = Mismatches::default();
        let asked = |question, how| {
            let found = Difference { key_hash: None, how, ..difference() };
            mismatches.note((1, &"select".into()), question, found, AT).is_news
        };
        assert!(asked(1, How::OtherValue) && asked(2, How::OtherValue) && !asked(1, How::OtherValue));
        assert!(asked(1, How::OtherType) && !asked(2, How::OtherType));
        // Here it is who asked.
        assert!(asked(1, How::OtherError) && asked(2, How::OtherError));
    }

    #[test]
    fn a_flip_makes_what_was_seen_before_it_past() {
        let mismatches = Mismatches::default();
        note(&mismatches, 1, 7);
        assert_eq!((mismatches.open(1), mismatches.open(2)), (1, 0));
        assert_eq!(mismatches.list()[0].state(2), State::Past);
        let again = mismatches.note(
            (1, &"select".into()),
            0,
            Difference { key_hash: Some(7), ..difference() },
            At { epoch: 2, ..AT },
        );
        assert!(again.is_news && mismatches.open(2) == 1);
    }

    #[test]
    fn too_many_forget_the_one_that_was_seen_longest_ago_promise_12() {
        let mismatches = Mismatches::default();
        (0..ENTRIES_MAX as u64).for_each(|key| _ = note(&mismatches, 1, key));
        note(&mismatches, 1, 0);
        note(&mismatches, 1, u64::MAX);
        let kept: Vec<_> = mismatches.list().iter().filter_map(|entry| entry.key_hash).collect();
        assert_eq!((kept.len(), mismatches.forgotten()), (ENTRIES_MAX, 1));
        assert!(kept.contains(&0) && !kept.contains(&1) && kept[0] == u64::MAX);
    }

    #[test]
    fn values_are_bounded_and_not_printed_promise_13() {
        let mismatches = Mismatches::default();
        let long = "secret".repeat(SHOWN_BYTES_MAX);
        let shown = Shown { key: long.clone(), primary: long.clone(), secondary: long.clone() };
        for key in 0..1_000 {
            let found = Difference { key_hash: Some(key), shown: Some(Box::new(shown.clone())), ..difference() };
            mismatches.note((1, &"select".into()), 0, found, AT);
        }
        let list = mismatches.list();
        assert!(list.iter().map(Entry::bytes).sum::<usize>() <= BYTES_MAX);
        assert!(!format!("{list:?}").contains("secret"));
        assert_eq!(mismatches.lock().bytes, list.iter().map(Entry::bytes).sum::<usize>());
    }

    #[test]
    fn an_operator_forgets_one_or_all() {
        let mismatches = Mismatches::default();
        let one = note(&mismatches, 1, 1);
        note(&mismatches, 1, 2);
        assert_eq!(mismatches.clear(Some(one.id)), 1);
        assert_eq!(mismatches.clear(Some(one.id)), 0);
        assert_eq!((mismatches.clear(None), mismatches.list().len(), mismatches.lock().bytes), (1, 0, 0));
    }
}
