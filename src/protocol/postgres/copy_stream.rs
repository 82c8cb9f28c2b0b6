//! Keys out of a COPY .. FROM STDIN stream.

use crate::record::{Reason, RecordBuf};

use super::plan::CopyIn;

/// Reads the keys of a COPY stream as it goes by.
pub struct CopyStream {
    tables: Vec<crate::record::TableId>,
}

impl CopyStream {
    /// For a COPY as the plan says.
    pub fn new(copy: &CopyIn, _utf8: bool) -> CopyStream {
        CopyStream { tables: copy.tables.iter().map(|table| table.id).collect() }
    }

    /// The next bytes of the stream.
    pub fn feed(&mut self, _chunk: &[u8], _keys: &mut RecordBuf) {}

    /// CopyDone.
    pub fn finish(&mut self, keys: &mut RecordBuf) {
        self.tables.iter().for_each(|&table| keys.dirty(table, Reason::Uncaptured));
    }
}
