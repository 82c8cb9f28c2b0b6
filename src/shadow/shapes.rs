//! What became of reads, by the shape of their statement: verdicts, skips, and the times of both sides.
//!
//! Shapes are kept as they come, up to [`SHAPES_MAX`]; those after it are counted together. A flip begins anew: the sides
//! have changed their roles.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::fast::FixedState;
use std::hash::BuildHasher;

use super::{About, Histogram, Skip};
use crate::metrics;
use crate::record::Side;

/// Shapes that are told apart.
pub(super) const SHAPES_MAX: usize = 256;
/// Tables that the metrics tell apart, in the life of a process: each is some eighty series.
const TABLES_MAX: usize = 50;
/// Longest text of a shape that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 1_000;
/// Under this name all shapes, and all tables, are counted that came too late.
const OTHER: &str = "other";

/// What became of a read that was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Match,
    InFlight,
    Noise,
    Mismatch,
}

impl End {
    const COUNT: usize = 4;

    fn as_str(self) -> &'static str {
        match self {
            End::Match => "match",
            End::InFlight => "in_flight",
            End::Noise => "noise",
            End::Mismatch => "mismatch",
        }
    }
}

/// The counts of one shape.
pub struct Shape {
    wire: &'static str,
    /// The statement without values, perhaps cut.
    pub text: Arc<str>,
    /// The first table that it reads.
    pub table: Box<str>,
    /// The table in metrics.
    label: Arc<str>,
    ends: [AtomicU64; End::COUNT],
    skips: [AtomicU64; Skip::ALL.len()],
    series: Series,
    /// Times of compared reads on the primary.
    pub primary: Histogram,
    /// Times of the same reads on the secondary.
    pub secondary: Histogram,
}

/// What the metrics count of a shape, looked up once.
#[derive(Default)]
struct Series {
    ends: [OnceLock<::metrics::Counter>; End::COUNT],
    skips: [OnceLock<::metrics::Counter>; Skip::ALL.len()],
    times: [OnceLock<::metrics::Histogram>; 2],
}

impl Shape {
    fn new(wire: &'static str, text: &str, table: &str, label: Arc<str>) -> Shape {
        Shape {
            wire,
            text: text.into(),
            table: table.into(),
            label,
            ends: Default::default(),
            skips: [const { AtomicU64::new(0) }; Skip::ALL.len()],
            series: Series::default(),
            primary: Histogram::default(),
            secondary: Histogram::default(),
        }
    }

    pub(super) fn ended(&self, end: End) {
        self.ends[end as usize].fetch_add(1, Relaxed);
        let find = || {
            let labels = [("wire", self.wire), ("verdict", end.as_str())];
            metrics::SHADOW_READS_TOTAL.counter_of(&self.label, &labels)
        };
        self.series.ends[end as usize].get_or_init(find).increment(1);
    }

    pub(super) fn skipped(&self, why: Skip) {
        self.skips[why as usize].fetch_add(1, Relaxed);
        let find = || {
            let labels = [("wire", self.wire), ("reason", why.as_str())];
            metrics::SHADOW_SKIPPED_TOTAL.counter_of(&self.label, &labels)
        };
        self.series.skips[why as usize].get_or_init(find).increment(1);
    }

    pub(super) fn timed(&self, (side, primary): (Side, Duration), secondary: Duration) {
        self.primary.record(primary);
        self.secondary.record(secondary);
        for (side, took) in [(side, primary), (side.other(), secondary)] {
            let find = || {
                let labels = [("wire", self.wire), ("side", side.as_str())];
                metrics::SHADOW_READ_SECONDS.histogram_of(&self.label, &labels)
            };
            self.series.times[side.index()].get_or_init(find).record(took.as_secs_f64());
        }
    }

    /// Reads that matched at once.
    pub fn matched(&self) -> u64 {
        self.ends[End::Match as usize].load(Relaxed)
    }

    /// Reads that were alike when both sides were asked again.
    pub fn in_flight(&self) -> u64 {
        self.ends[End::InFlight as usize].load(Relaxed)
    }

    /// Reads whose answers differ on the primary itself.
    pub fn noise(&self) -> u64 {
        self.ends[End::Noise as usize].load(Relaxed)
    }

    /// Reads whose difference lasted.
    pub fn mismatched(&self) -> u64 {
        self.ends[End::Mismatch as usize].load(Relaxed)
    }

    /// Reads with a verdict.
    pub fn compared(&self) -> u64 {
        self.ends.iter().map(|end| end.load(Relaxed)).sum()
    }

    /// Reads without one, by reason; those that occurred.
    pub fn skips(&self) -> impl Iterator<Item = (Skip, u64)> + '_ {
        let counts = self.skips.iter().map(|count| count.load(Relaxed));
        Skip::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Add what another one counted.
    fn add(&self, other: &Shape) {
        let pairs = self.ends.iter().zip(&other.ends).chain(self.skips.iter().zip(&other.skips));
        pairs.for_each(|(ours, theirs)| _ = ours.fetch_add(theirs.load(Relaxed), Relaxed));
        self.primary.add(&other.primary);
        self.secondary.add(&other.secondary);
    }
}

/// Which shape a read has; made for each read that is chosen.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) shape: Arc<Shape>,
    /// Names the statement, also when it is counted among others.
    pub(super) id: u64,
    pub(super) text: Arc<str>,
}

/// All shapes of one process.
pub struct Shapes {
    wire: &'static str,
    book: Mutex<Book>,
}

struct Book {
    epoch: u64,
    shapes: HashMap<u64, Arc<Shape>, foldhash::fast::RandomState>,
    other: Arc<Shape>,
    /// Tables that have series of their own. They stay: so do the series.
    labels: BTreeSet<Arc<str>>,
}

impl Book {
    fn new(wire: &'static str, epoch: u64, labels: BTreeSet<Arc<str>>) -> Book {
        let other = Arc::new(Shape::new(wire, OTHER, OTHER, OTHER.into()));
        Book { epoch, shapes: HashMap::default(), other, labels }
    }

    fn begin(&mut self, wire: &'static str, epoch: u64) {
        if self.epoch < epoch {
            *self = Book::new(wire, epoch, std::mem::take(&mut self.labels));
        }
    }

    /// The word for a table in metrics.
    fn label(&mut self, table: &str) -> Arc<str> {
        if let Some(known) = self.labels.get(table) {
            return known.clone();
        }
        let is_full = self.labels.len() >= TABLES_MAX;
        let label: Arc<str> = if is_full { OTHER } else { table }.into();
        if !is_full {
            self.labels.insert(label.clone());
        }
        label
    }
}

impl Shapes {
    pub(super) fn new(wire: &'static str) -> Shapes {
        Shapes { wire, book: Mutex::new(Book::new(wire, 0, BTreeSet::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing in there panics half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is of an older epoch says nothing any more.
    pub(super) fn begin(&self, epoch: u64) {
        self.lock().begin(self.wire, epoch);
    }

    /// Where a read of this epoch is counted.
    pub(super) fn place(&self, about: &About<'_>, epoch: u64) -> Place {
        let id = FixedState::default().hash_one(about.shape);
        let text = cut(about.shape, TEXT_BYTES_MAX);
        let mut book = self.lock();
        book.begin(self.wire, epoch);
        if let Some(shape) = book.shapes.get(&id).cloned() {
            return Place { id, text: shape.text.clone(), shape };
        }
        if book.shapes.len() >= SHAPES_MAX {
            return Place { shape: book.other.clone(), id, text: text.into() };
        }
        let table = about.tables.first().map_or("", |(_, name)| name);
        let shape = Arc::new(Shape::new(self.wire, text, table, book.label(table)));
        book.shapes.insert(id, shape.clone());
        Place { id, text: shape.text.clone(), shape }
    }

    /// Every shape, the most read first; those that came too late as one.
    pub fn list(&self) -> Vec<Arc<Shape>> {
        let book = self.lock();
        let mut shapes: Vec<_> = book.shapes.values().cloned().collect();
        shapes.extend((seen(&book.other) > 0).then(|| book.other.clone()));
        drop(book);
        shapes.sort_by_cached_key(|shape| (std::cmp::Reverse(seen(shape)), shape.text.clone()));
        shapes
    }

    /// Times of all compared reads on the primary and on the secondary, and the epoch that they are of.
    pub(super) fn times(&self) -> (u64, (Histogram, Histogram)) {
        let book = self.lock();
        let (primary, secondary) = (Histogram::default(), Histogram::default());
        for shape in book.shapes.values().chain([&book.other]) {
            primary.add(&shape.primary);
            secondary.add(&shape.secondary);
        }
        (book.epoch, (primary, secondary))
    }

    /// All of them together.
    pub fn total(&self) -> Shape {
        let total = Shape::new(self.wire, "", "", OTHER.into());
        self.list().iter().for_each(|shape| total.add(shape));
        total
    }
}

fn seen(shape: &Shape) -> u64 {
    shape.compared() + shape.skips().map(|(_, count)| count).sum::<u64>()
}

/// The beginning of a text, at most so many bytes of it.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TableId;

    fn about<'a>(shape: &'a str, tables: &'a [(TableId, &'a str)]) -> About<'a> {
        About { kind: "text", tables: tables.into(), client: None, user: "app", shape }
    }

    #[test]
    fn shapes_that_come_too_late_are_counted_together() {
        let shapes = Shapes::new("test");
        for number in 0..SHAPES_MAX + 2 {
            let place = shapes.place(&about(&format!("select {number}"), &[(TableId(1), "t")]), 1);
            place.shape.ended(End::Match);
            assert_eq!(&*place.text, format!("select {number}"), "its own text is known all the same");
        }
        let list = shapes.list();
        assert_eq!(list.len(), SHAPES_MAX + 1);
        assert_eq!((&*list[0].text, list[0].matched()), ("other", 2));
        assert_eq!(shapes.total().compared(), SHAPES_MAX as u64 + 2);
    }

    #[test]
    fn tables_that_come_too_late_share_their_series_also_after_a_flip() {
        let shapes = Shapes::new("test");
        let label = |table: &str, epoch| {
            let tables = [(TableId(1), table)];
            let shape = shapes.place(&about(&format!("select from {table}"), &tables), epoch).shape;
            assert_eq!(&*shape.table, table, "people are told which one");
            shape.label.to_string()
        };
        for number in 0..TABLES_MAX {
            assert_eq!(label(&format!("t{number}"), 1), format!("t{number}"));
        }
        assert_eq!(label("late", 1), "other");
        assert_eq!((label("t3", 2), label("late", 2)), ("t3".to_owned(), "other".to_owned()));
    }

    #[test]
    fn a_flip_begins_anew() {
        let shapes = Shapes::new("test");
        let old = shapes.place(&about("select", &[]), 1);
        old.shape.skipped(Skip::Behind);
        assert_eq!(shapes.total().skips().collect::<Vec<_>>(), [(Skip::Behind, 1)]);
        shapes.place(&about("select", &[]), 2).shape.ended(End::Noise);
        old.shape.skipped(Skip::Switching);
        assert_eq!((shapes.total().noise(), shapes.total().skips().count()), (1, 0));
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
        let long = "ä".repeat(TEXT_BYTES_MAX);
        assert!(Shapes::new("test").place(&about(&long, &[]), 1).text.len() <= TEXT_BYTES_MAX);
    }
}
