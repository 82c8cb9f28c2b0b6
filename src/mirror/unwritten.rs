//! Writes that the journal did not take: their tables are dirty, from before the write is forwarded until a repair that
//! began when it had ended.

use std::sync::Arc;

use crate::record::{Reason, TableId};

/// Marks a table dirty, durably.
pub type Lose = Arc<dyn Fn(TableId, Reason) + Send + Sync>;

/// A table that is written to past the journal. Marked when this is made and again when it is dropped, which is when the write
/// has ended: a repair in between may have looked before the write was there.
pub struct Unwritten {
    lose: Lose,
    table: TableId,
}

impl Unwritten {
    /// The table is marked.
    pub fn to(table: TableId, lose: &Lose) -> Unwritten {
        lose(table, Reason::Journal);
        Unwritten { lose: lose.clone(), table }
    }

    /// Which.
    pub fn table(&self) -> TableId {
        self.table
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        (self.lose)(self.table, Reason::Journal);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_table_is_marked_before_the_write_and_when_it_has_ended() {
        let marks: Arc<Mutex<Vec<TableId>>> = Arc::default();
        let seen = marks.clone();
        let lose: Lose = Arc::new(move |table, _| seen.lock().expect("no panic").push(table));
        let unwritten = Unwritten::to(TableId(7), &lose);
        assert_eq!(*marks.lock().expect("no panic"), [TableId(7)]);
        drop(unwritten);
        assert_eq!(*marks.lock().expect("no panic"), [TableId(7), TableId(7)]);
    }
}
