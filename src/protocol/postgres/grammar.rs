//! PostgreSQL's own grammar, and the stack that its trees need: a chain of operators or of UNION ALL is a tree as deep as it is
//! long, and whoever makes one, looks at it or drops it goes down by recursion.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_query::protobuf::ParseResult;

/// What one level of a tree, a message in a message, takes of the stack while it is read in, which takes most: as measured
/// (without optimization 15.6 KiB), with a margin.
const STACK_PER_LEVEL: usize = if cfg!(debug_assertions) { 24 << 10 } else { 4 << 10 };

/// Levels that a word or an operator of the text makes, at most, and levels that are there anyway. A bracket of `x[x[1]]` makes
/// four, a word of `(SELECT (SELECT 1))` three.
const LEVELS: (usize, usize) = (5, 20);

/// The grammar refuses to hand out a deeper tree.
const LEVELS_MAX: usize = 10_000;

/// What is surely left of a worker's stack of 2 MiB.
const INLINE_STACK: usize = 1 << 20;

/// What the grammar itself takes at most before it refuses a text, and what a thread needs.
const STACK_MIN: usize = 4 << 20;

/// Work on the tree of a text of so many words and operators, where it cannot end the process. `None`: it cannot be done.
pub(super) fn with_stack<T: Send>(words: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    let (per_word, always) = LEVELS;
    let levels = words.saturating_mul(per_word).saturating_add(always).min(LEVELS_MAX);
    let stack = levels * STACK_PER_LEVEL;
    if stack <= INLINE_STACK {
        return Some(work());
    }
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(STACK_MIN + stack).spawn_scoped(scope, work);
        worker.ok()?.join().ok()
    })
}

/// The tree of a text, for whoever has the stack for it. The grammar's wrapper asserts some tree shapes while collecting names
/// that nobody here uses.
pub(super) fn parse(text: &str) -> Option<ParseResult> {
    let parsed = catch_unwind(AssertUnwindSafe(|| pg_query::parse(text, 0))).ok()?;
    parsed.ok().map(|parsed| parsed.protobuf)
}

/// What is found in the tree of a text. `None`: nothing, or it does not parse.
pub(super) fn look<T: Send>(text: &str, find: impl FnOnce(&ParseResult) -> Option<T> + Send) -> Option<T> {
    // A word has a byte at least.
    with_stack(text.len(), || parse(text).and_then(|tree| find(&tree)))?
}
