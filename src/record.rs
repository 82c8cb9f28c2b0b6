//! What one unit leaves in the journal: the keys that it may have changed, where it is mirrored by state; the write
//! itself, where it is replayed.
//!
//! By state, a record names keys, never rows: a superset is harmless, a subset never. Sessions build it in a [`RecordBuf`], the
//! journal stores its bytes without looking inside, the mirror reads it back with [`Items`].
//!
//! Layout, integers little-endian, `varint` = LEB128:
//!
//! ```text
//! record := version u8, backend u32, life u64, item*
//! version 1                                          all that the unit leaves, or the last part of it
//! version 2                                          a part: nothing that could commit it has been forwarded
//! item   := tag u8, table u64, body
//! tag 1 KEY      body = varint length, key bytes
//! tag 2 MOVED    body = varint length, key bytes     the row may have been deleted or re-keyed
//! tag 3 TABLE    body = nothing                      every row of the table is owed (TRUNCATE, rewriting DDL)
//! tag 4 DIRTY    body = reason u8                    a write whose keys are not known
//! tag 5 DDL      body = varint length, opaque bytes  a schema change to repeat; the wire encodes it
//! tag 6 PREPARED body = varint length, name bytes    the unit stays open until this two-phase transaction ends
//! tag 7 WRITE    body = lane u64, varint length, opaque bytes    a write to be replayed; the wire encodes it
//! tag 8 TOUCH    body = lane u64                     the write of this record also touches this
//! tag 9 STAMP    body = i64; table = 0               the newest timestamp that the unit wrote with
//! tag 10 LOOK    body = u8; table = 0                how hard to look for what the unit wrote, and how it is decided; absent: 0
//! ```

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Which cluster of the migration. They never swap names; what swaps is the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where the data was when the migration began.
    Origin,
    /// Where it is going.
    Target,
}

impl Side {
    /// The label used in metrics, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Origin => "origin",
            Side::Target => "target",
        }
    }

    /// Its place where both have one: the origin's is the first.
    pub fn index(self) -> usize {
        usize::from(self == Side::Target)
    }

    /// The other cluster.
    pub fn other(self) -> Side {
        match self {
            Side::Origin => Side::Target,
            Side::Target => Side::Origin,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table's label: the same on both sides, in every process and after every restart, because it is derived from the
/// qualified name alone. Whoever loads a catalog refuses two names with one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub u64);

impl TableId {
    /// The label of what names no table.
    pub const NONE: TableId = TableId(0);
    /// What people read where it is dirty: schema changes may be missing.
    pub const NONE_SHOWN: &str = "(schema changes)";

    /// FNV-1a over `schema`, a zero byte, `table`.
    pub fn of(schema: &str, table: &str) -> TableId {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in schema.bytes().chain([0]).chain(table.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        TableId(hash)
    }
}

/// Who executed the unit on the primary, so that a lost unit can be proven over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Process or connection id on the primary (PostgreSQL: `BackendKeyData`'s pid).
    pub id: u32,
    /// Which of those that had this number, for numbers come again: of two the newer one's is higher (PostgreSQL: behind where
    /// the journal stood when it logged in); 0 = unknown, and older than all that are known.
    pub life: u64,
}

/// Why a table is dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// A statement wrote rows whose keys the proxy could not learn (function, trigger, rule, COPY without keys, ...).
    Uncaptured = 1,
    /// The table has no usable key.
    NoKey = 2,
    /// The journal was full, or failed.
    Journal = 3,
    /// A schema change that is not mirrored.
    Ddl = 4,
    /// The primary or the proxy may have lost acknowledged writes and the journal cannot tell which.
    Lost = 5,
    /// The primary's own statistics counted more writes than were captured: someone bypasses the proxy.
    Counts = 6,
    /// The secondary refuses the whole table, or more of its keys than may be parked; or one of which it is so took rows of it
    /// along.
    Refused = 7,
    /// A read was answered differently on both sides, and it lasted.
    Shadow = 8,
    /// All of it was owed, and that is more than one payment takes.
    Large = 9,
}

impl Reason {
    /// The word used in metrics, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Uncaptured => "uncaptured",
            Reason::NoKey => "no_key",
            Reason::Journal => "journal",
            Reason::Ddl => "ddl",
            Reason::Lost => "lost",
            Reason::Counts => "counts",
            Reason::Refused => "refused",
            Reason::Shadow => "shadow",
            Reason::Large => "large",
        }
    }

    /// The reason with this number, as records and the dirty ledger write it.
    pub fn from_u8(byte: u8) -> Option<Reason> {
        Some(match byte {
            1 => Reason::Uncaptured,
            2 => Reason::NoKey,
            3 => Reason::Journal,
            4 => Reason::Ddl,
            5 => Reason::Lost,
            6 => Reason::Counts,
            7 => Reason::Refused,
            8 => Reason::Shadow,
            9 => Reason::Large,
            _ => return None,
        })
    }
}

/// One thing a record says. Key bytes are opaque here: the wire encodes the canonical value, equal keys are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// This key's row must be made equal. `moved`: it may have been deleted or re-keyed, so rows that point at it count.
    Key {
        /// The table.
        table: TableId,
        /// The canonical key.
        key: &'a [u8],
        /// May have been deleted or re-keyed.
        moved: bool,
    },
    /// Every row of the table is owed.
    Table(TableId),
    /// Rows of the table differ and nobody knows which.
    Dirty(TableId, Reason),
    /// A schema change to repeat on the secondary before any later row is paid.
    Ddl(TableId, &'a [u8]),
    /// The unit was prepared under this name and ends only with it.
    Prepared(&'a [u8]),
    /// A write to be replayed.
    Write {
        /// The table.
        table: TableId,
        /// Where in the table, and what it may be beside.
        lane: Lane,
        /// The write, encoded by the wire.
        body: &'a [u8],
    },
    /// The write of this record also touches this table, and this lane of it.
    Touch {
        /// The table.
        table: TableId,
        /// As that of a write.
        lane: Lane,
    },
    /// The newest timestamp that the unit wrote with, in the wire's measure: what its keys left may be written with it.
    Stamp(i64),
    /// How hard whoever settles its keys has to look for what it wrote, in the wire's measure: more is harder.
    Look(u8),
}

/// A part of a table, such as a partition, and how a write is in it. Replay keeps the journal's order between records
/// whose lanes have the same part, unless both are beside, or both are at places.
///
/// The part is a number of the wire's making, a hash; its lowest two bits are not kept, and say how. 0 is no part: it
/// cannot be told, and may be any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u64);

/// How a write is in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Beside other writes, because something in them (a timestamp) decides.
    Beside,
    /// At places of its own, which are settled by state: beside others of that kind.
    AtPlaces,
    /// Alone.
    Alone,
}

impl Lane {
    /// Any part, beside other writes.
    pub const ANY: Lane = Lane(0);
    const HOW: u64 = 3;

    /// So, in this part.
    pub fn new(order: Order, part: u64) -> Lane {
        Lane(part & !Lane::HOW | order as u64)
    }

    /// Beside other writes of this part.
    pub fn beside(part: u64) -> Lane {
        Lane::new(Order::Beside, part)
    }

    /// Alone in this part.
    pub fn alone(part: u64) -> Lane {
        Lane::new(Order::Alone, part)
    }

    /// The part; `None`: any.
    pub fn part(self) -> Option<u64> {
        Some(self.0 & !Lane::HOW).filter(|part| *part != 0)
    }

    /// What it may be beside.
    pub fn order(self) -> Order {
        match self.0 & Lane::HOW {
            0 => Order::Beside,
            1 => Order::AtPlaces,
            // 3 is never written; alone is always right.
            _ => Order::Alone,
        }
    }
}

impl Item<'_> {
    /// The table that it speaks of; [`TableId::NONE`] where there is none.
    pub fn table(&self) -> TableId {
        match *self {
            Item::Key { table, .. } | Item::Table(table) | Item::Dirty(table, _) | Item::Ddl(table, _) => table,
            Item::Write { table, .. } | Item::Touch { table, .. } => table,
            Item::Prepared(_) | Item::Stamp(_) | Item::Look(_) => TableId::NONE,
        }
    }
}

/// A record being built. Reused between units: [`RecordBuf::clear`] keeps its memory.
#[derive(Default)]
pub struct RecordBuf {
    items: BytesMut,
    count: usize,
}

const VERSION: u8 = 1;
const PART: u8 = 2;
const HEADER: usize = 1 + 4 + 8;

impl RecordBuf {
    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many items it holds.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Size of the record in bytes.
    pub fn bytes(&self) -> usize {
        self.items.len()
    }

    /// How much memory it keeps.
    pub fn held(&self) -> usize {
        self.items.capacity()
    }

    /// Forget everything, keep the memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.count = 0;
    }

    /// Owe one key.
    pub fn key(&mut self, table: TableId, key: &[u8], moved: bool) {
        self.tag(if moved { 2 } else { 1 }, table);
        self.bytes_body(key);
    }

    /// Owe every row of a table.
    pub fn table(&mut self, table: TableId) {
        self.tag(3, table);
    }

    /// Say that rows of the table changed and that nobody knows which.
    pub fn dirty(&mut self, table: TableId, reason: Reason) {
        self.tag(4, table);
        self.items.put_u8(reason as u8);
    }

    /// A schema change, encoded by the wire.
    pub fn ddl(&mut self, table: TableId, body: &[u8]) {
        self.tag(5, table);
        self.bytes_body(body);
    }

    /// The unit was prepared under this name.
    pub fn prepared(&mut self, name: &[u8]) {
        self.tag(6, TableId::NONE);
        self.bytes_body(name);
    }

    /// A write to be replayed.
    pub fn write(&mut self, table: TableId, lane: Lane, body: &[u8]) {
        self.tag(7, table);
        self.items.put_u64_le(lane.0);
        self.bytes_body(body);
    }

    /// The write also touches this.
    pub fn touch(&mut self, table: TableId, lane: Lane) {
        self.tag(8, table);
        self.items.put_u64_le(lane.0);
    }

    /// The newest timestamp that the unit wrote with.
    pub fn stamp(&mut self, stamp: i64) {
        self.tag(9, TableId::NONE);
        self.items.put_i64_le(stamp);
    }

    /// How hard to look for what the unit wrote.
    pub fn look(&mut self, look: u8) {
        self.tag(10, TableId::NONE);
        self.items.put_u8(look);
    }

    /// Say all that an earlier record says.
    pub fn again(&mut self, record: &Record) {
        self.header();
        self.items.extend_from_slice(&record.body);
        self.count += record.items().count();
    }

    /// Keep the first items, as many as fit so many bytes and one at the least; what is left comes back.
    pub fn split_off(&mut self, bytes_max: usize) -> RecordBuf {
        let mut rest = RecordBuf::default();
        if self.bytes() <= bytes_max {
            return rest;
        }
        let (mut kept, mut end, mut items) = (0, HEADER, self.items());
        while items.next().is_some() {
            let here = self.items.len() - items.rest.len();
            if kept > 0 && here > bytes_max {
                break;
            }
            (kept, end) = (kept + 1, here);
        }
        if kept < self.count {
            rest.header();
            rest.items.extend_from_slice(&self.items[end..]);
            rest.count = self.count - kept;
            self.items.truncate(end);
            self.count = kept;
        }
        rest
    }

    /// Say all that another one says, behind what it says itself.
    pub fn append(&mut self, other: &RecordBuf) {
        self.header();
        self.items.extend_from_slice(other.items.get(HEADER..).unwrap_or_default());
        self.count += other.count;
    }

    /// What it says so far.
    pub fn items(&self) -> Items<'_> {
        Items { rest: self.items.get(HEADER..).unwrap_or_default() }
    }

    /// The tables that it names, one after the other; one may come several times.
    pub fn tables(&self) -> impl Iterator<Item = TableId> {
        let mut last = None;
        self.items().map(|item| item.table()).filter(move |&table| last.replace(table) != Some(table))
    }

    /// The record's bytes, as the journal keeps them.
    pub fn finish(&mut self, backend: Backend) -> &[u8] {
        self.finish_as(VERSION, backend)
    }

    /// The same, of a part: before anything is forwarded that could commit the unit, a record of the same backend follows
    /// that is none.
    pub fn finish_part(&mut self, backend: Backend) -> &[u8] {
        self.finish_as(PART, backend)
    }

    fn finish_as(&mut self, version: u8, backend: Backend) -> &[u8] {
        self.header();
        self.items[0] = version;
        self.items[1..5].copy_from_slice(&backend.id.to_le_bytes());
        self.items[5..13].copy_from_slice(&backend.life.to_le_bytes());
        &self.items
    }

    fn header(&mut self) {
        if self.items.is_empty() {
            self.items.put_u8(VERSION);
            self.items.put_bytes(0, HEADER - 1);
        }
    }

    fn tag(&mut self, tag: u8, table: TableId) {
        self.header();
        self.items.put_u8(tag);
        self.items.put_u64_le(table.0);
        self.count += 1;
    }

    fn bytes_body(&mut self, body: &[u8]) {
        put_varint(&mut self.items, body.len() as u64);
        self.items.extend_from_slice(body);
    }
}

/// A record read back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who executed the unit.
    pub backend: Backend,
    /// Nothing that could commit the unit had been forwarded when it was written, nor will be before a record of the same
    /// backend that is no part.
    pub part: bool,
    body: Bytes,
}

/// The bytes are not a record that this version can read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    /// Cut short.
    #[error("record is cut short")]
    Truncated,
    /// Written by a newer tandem.
    #[error("record has version {0}, this tandem reads versions {VERSION} and {PART}")]
    Version(u8),
    /// An item this version does not know.
    #[error("record has an item with tag {0}, which this tandem does not know")]
    Tag(u8),
    /// A dirty mark with an unknown reason.
    #[error("record has a dirty mark with reason {0}, which this tandem does not know")]
    Reason(u8),
}

impl Record {
    /// Check every item, so that [`Record::items`] cannot fail.
    pub fn parse(bytes: Bytes) -> Result<Record, Malformed> {
        let version = *bytes.first().ok_or(Malformed::Truncated)?;
        if version != VERSION && version != PART {
            return Err(Malformed::Version(version));
        }
        let id = array(&bytes, 1).ok_or(Malformed::Truncated)?;
        let life = array(&bytes, 5).ok_or(Malformed::Truncated)?;
        let mut rest = &bytes[HEADER..];
        while !rest.is_empty() {
            item(&mut rest)?;
        }
        Ok(Record {
            backend: Backend { id: u32::from_le_bytes(id), life: u64::from_le_bytes(life) },
            part: version == PART,
            body: bytes.slice(HEADER..),
        })
    }

    /// Copy the record out of the buffer it was read from, so that keeping it does not keep its neighbours.
    pub fn detach(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        HEADER + self.body.len()
    }

    /// Everything the unit left.
    pub fn items(&self) -> Items<'_> {
        Items { rest: &self.body }
    }
}

/// Iterator over a record that was checked, or is being built.
pub struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        Some(item(&mut self.rest).expect("checked by Record::parse, or written by RecordBuf"))
    }
}

fn item<'a>(rest: &mut &'a [u8]) -> Result<Item<'a>, Malformed> {
    let tag = take(rest, 1)?[0];
    let table = TableId(u64::from_le_bytes(array(take(rest, 8)?, 0).ok_or(Malformed::Truncated)?));
    Ok(match tag {
        1 | 2 => Item::Key { table, key: sized(rest)?, moved: tag == 2 },
        3 => Item::Table(table),
        4 => {
            let byte = take(rest, 1)?[0];
            Item::Dirty(table, Reason::from_u8(byte).ok_or(Malformed::Reason(byte))?)
        }
        5 => Item::Ddl(table, sized(rest)?),
        6 => Item::Prepared(sized(rest)?),
        7 => Item::Write { table, lane: lane(rest)?, body: sized(rest)? },
        8 => Item::Touch { table, lane: lane(rest)? },
        9 => Item::Stamp(array(take(rest, 8)?, 0).map(i64::from_le_bytes).ok_or(Malformed::Truncated)?),
        10 => Item::Look(take(rest, 1)?[0]),
        other => return Err(Malformed::Tag(other)),
    })
}

fn lane(rest: &mut &[u8]) -> Result<Lane, Malformed> {
    array(take(rest, 8)?, 0).map(|bytes| Lane(u64::from_le_bytes(bytes))).ok_or(Malformed::Truncated)
}

fn sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = get_varint(rest).ok_or(Malformed::Truncated)?;
    take(rest, usize::try_from(len).map_err(|_| Malformed::Truncated)?)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(head)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Append a LEB128 integer.
pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Take a LEB128 integer off the front; `None` when it is cut short or does not fit.
pub fn get_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Vec<u8> {
        let mut buf = RecordBuf::default();
        let t = TableId::of("public", "acc");
        buf.key(t, b"k", false);
        buf.key(t, &[7; 200], true);
        buf.table(t);
        buf.dirty(t, Reason::Uncaptured);
        buf.ddl(t, b"ALTER");
        buf.prepared(b"gid");
        buf.write(t, Lane::beside(40), b"INSERT");
        buf.touch(t, Lane::alone(44));
        buf.stamp(-5);
        buf.look(2);
        buf.finish(Backend { id: 7, life: 9 }).to_vec()
    }

    #[test]
    fn a_part_says_that_it_is_one() {
        let mut buf = RecordBuf::default();
        buf.key(TableId(1), b"k", false);
        for part in [true, false] {
            let me = Backend { id: 7, life: 1 };
            let bytes = if part { buf.finish_part(me) } else { buf.finish(me) };
            let record = Record::parse(Bytes::copy_from_slice(bytes)).expect("just built");
            assert_eq!((record.part, record.backend, record.items().count()), (part, me, 1));
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_built() {
        let record = Record::parse(full().into()).expect("valid");
        assert_eq!(record.backend, Backend { id: 7, life: 9 });
        let t = TableId::of("public", "acc");
        let items: Vec<_> = record.items().collect();
        assert_eq!(
            items,
            vec![
                Item::Key { table: t, key: b"k", moved: false },
                Item::Key { table: t, key: &[7; 200], moved: true },
                Item::Table(t),
                Item::Dirty(t, Reason::Uncaptured),
                Item::Ddl(t, b"ALTER"),
                Item::Prepared(b"gid"),
                Item::Write { table: t, lane: Lane::beside(40), body: b"INSERT" },
                Item::Touch { table: t, lane: Lane::alone(44) },
                Item::Stamp(-5),
                Item::Look(2),
            ]
        );
    }

    #[test]
    fn a_lane_is_a_part_and_an_order() {
        for order in [Order::Beside, Order::AtPlaces, Order::Alone] {
            let lane = Lane::new(order, u64::MAX);
            assert_eq!((lane.order(), lane.part()), (order, Some(u64::MAX - 3)));
            assert_eq!((Lane::new(order, 0).order(), Lane::new(order, 3).part()), (order, None));
        }
        assert_eq!(Lane::ANY, Lane::beside(0));
    }

    #[test]
    fn a_record_said_again_differs_in_its_backend_only() {
        let record = Record::parse(full().into()).expect("valid");
        let mut buf = RecordBuf::default();
        buf.again(&record);
        let again = Record::parse(Bytes::copy_from_slice(buf.finish(Backend { id: 0, life: 3 }))).expect("valid");
        assert_eq!(again.backend, Backend { id: 0, life: 3 });
        assert!(again.items().eq(record.items()));
        assert_eq!((again.bytes(), buf.len()), (record.bytes(), record.items().count()));
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error_or_a_shorter_record() {
        let bytes = full();
        for cut in 0..bytes.len() {
            if let Ok(record) = Record::parse(Bytes::copy_from_slice(&bytes[..cut])) {
                assert!(record.items().count() < 10);
            }
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(record) = Record::parse(bytes.into()) {
                let _ = record.items().count();
            }
        }

        #[test]
        fn what_is_split_off_is_what_was_behind(keys in proptest::collection::vec(0_usize..40, 0..20), max in 0_usize..200) {
            let mut buf = RecordBuf::default();
            keys.iter().for_each(|length| buf.key(TableId(7), &vec![1; *length], false));
            let whole: Vec<usize> = keys.clone();
            let rest = buf.split_off(max);
            prop_assert!(buf.bytes() <= max || buf.len() <= 1);
            prop_assert!(rest.is_empty() || !buf.is_empty());
            let key = |item: Item<'_>| match item {
                Item::Key { key, .. } => key.len(),
                other => panic!("{other:?}"),
            };
            let both: Vec<usize> = buf.items().chain(rest.items()).map(key).collect();
            prop_assert_eq!(&both, &whole);
            prop_assert_eq!(buf.len() + rest.len(), whole.len());
            buf.append(&rest);
            prop_assert_eq!(buf.items().map(key).collect::<Vec<_>>(), whole);
        }

        #[test]
        fn varints_round_trip(value in any::<u64>()) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            let mut rest = &out[..];
            prop_assert_eq!(get_varint(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }
}
