//! To which tables the primary was seen to let a client write.
//!
//! A write in doubt is done again on the primary, with the rights of tandem. Who may not write there must not get it done
//! by a connection that breaks at the right moment. So the record of a write to a table into which the client was not seen
//! to write says so, and in doubt it goes by what the primary shows. What is looked for is the right to modify the table,
//! which Cassandra asks for before it does anything (`IAuthorizer`, `Permission.MODIFY`).
//!
//! That holds for who did not say who it is, too: it may be a role that may write nowhere (`anonymous` of `[[users]]`, who
//! logged in by a token that only the server reads). Where the primary asks nobody, everybody may what we may: their writes in
//! doubt are done again, since one that is only looked for may come later (the batchlog, hints).

use std::collections::HashSet;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::record::TableId;

/// Tables of one request; mostly none, or one.
pub(super) type Untried = SmallVec<[TableId; 1]>;

/// Of one client at one primary.
#[derive(Default)]
pub(super) struct Allowed {
    tables: HashSet<TableId, RandomState>,
}

impl Allowed {
    /// Those of them that nobody saw it write to.
    pub(super) fn untried(&self, tables: impl Iterator<Item = TableId>) -> Untried {
        tables.filter(|table| !self.tables.contains(table)).collect()
    }

    /// The primary took a write to them.
    pub(super) fn wrote(&mut self, tables: Untried) {
        self.tables.extend(tables);
    }

    /// Another cluster has other rights.
    pub(super) fn forget(&mut self) {
        self.tables.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_untried_until_a_write_to_it_was_taken_and_again_on_another_cluster() {
        let tables = || [TableId(1), TableId(2)].into_iter();
        let mut allowed = Allowed::default();
        assert_eq!(allowed.untried(tables())[..], [TableId(1), TableId(2)]);
        allowed.wrote(allowed.untried([TableId(2)].into_iter()));
        assert_eq!(allowed.untried(tables())[..], [TableId(1)]);
        allowed.forget();
        assert_eq!(allowed.untried(tables())[..], [TableId(1), TableId(2)]);
    }
}
