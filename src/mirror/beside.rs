//! What lies beside the journal names positions in it. A log that ends below them is not the one that they were written
//! for: somebody removed its files to make room, or brought old ones back. Then positions would be handed out again, and what is
//! written at them would count as done. See [`crate::journal::Options::beside`].

use std::path::Path;

use crate::backfill::Desk;
use crate::journal::Lsn;

use super::dirty::Dirty;
use super::durable::{Durable, Error};

/// The book of the first direction.
pub(super) const BOOK: &str = "mirror-book";
/// The book of the way back.
pub(super) const BOOK_BACK: &str = "mirror-book-back";
/// The dirty tables.
pub(super) const DIRTY: &str = "mirror-dirty";

/// How far the journal was when the files of this directory were written; `None`: there are none. What a book names is its
/// engine's to tell.
pub(super) fn reached(dir: &Path, of_book: fn(Durable) -> Result<Lsn, Error>) -> Result<Option<Lsn>, Error> {
    let of = |name, reached: fn(Durable) -> Result<Lsn, Error>| {
        let file = Durable::in_dir(dir, name);
        Ok::<_, Error>(if file.exists()? { Some(reached(file)?) } else { None })
    };
    let dirty = |file| Ok(Dirty::open(file)?.reached());
    let all = [of(BOOK, of_book)?, of(BOOK_BACK, of_book)?, of(DIRTY, dirty)?, of(Desk::FILE, Desk::reached)?];
    Ok(all.into_iter().max().flatten())
}
