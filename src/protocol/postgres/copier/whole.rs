//! Whole tables, stretch by stretch: a read of all rows in one statement would hold its lock for as long as the secondary
//! takes them.
//!
//! A stretch is a range of blocks, read by a TID range scan. Rows that S sees lie in blocks that the file has now, at S
//! or later: it grows behind them, and VACUUM cuts off nothing that S sees. What gives the table another file is met by
//! the check of the flight (see `check`), so an empty table is read as well.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::mirror::state::keys::Key;
use crate::protocol::postgres::client::{self, Format, Param};
use crate::record::TableId;

use super::check;
use super::closure::read_keys;
use super::debt::Debts;
use super::link::{Link, beside};
use super::schema::Pair;
use super::trouble::Trouble;

/// Blocks of one stretch, 1 MiB of 8 KiB blocks.
const BLOCKS: u64 = 128;
/// As many more for each partition: the check of a flight names them all.
const BLOCKS_PER_PARTITION: u64 = 8;

/// A part of a table: the statements that read its rows, or their keys, take two positions.
#[derive(Clone)]
pub(super) struct Stretch {
    pub(super) sql: Arc<str>,
    keys_sql: Arc<str>,
    from: String,
    to: String,
}

impl Stretch {
    /// The two positions.
    pub(super) fn params(&self) -> [Param<'_>; 2] {
        [Param::text(&self.from), Param::text(&self.to)]
    }

    /// The keys of its rows at S.
    pub(super) async fn keys(&self, link: &mut Link, pair: &Arc<Pair>) -> Result<Vec<Key>, Trouble> {
        let (pulse, conn, mut keys) = (link.options.pulse(), &mut link.primary, Vec::new());
        conn.put_prepared(&self.keys_sql, &self.params(), Format::Binary);
        let check = check::put(conn, [pair].into_iter());
        let reading = async {
            conn.send().await.map_err(Trouble::Primary)?;
            read_keys(conn, pair, &mut keys).await.map_err(|error| Trouble::reading_primary(pair.id, error))?;
            check.read(conn).await
        };
        beside(&mut link.secondary, pulse, reading).await?;
        Ok(keys)
    }
}

/// The stretches of every table that is owed whole, and of pieces that are. `None`: rows of it lie elsewhere, it is read by
/// one statement.
pub(super) async fn stretches(
    link: &mut Link,
    debts: &Debts<'_>,
) -> Result<HashMap<TableId, Option<Vec<Stretch>>>, Trouble> {
    let mut all = HashMap::new();
    for debt in debts.values() {
        let pair = &debt.pair;
        let stretches = match &debt.pieces[..] {
            _ if debt.whole && !pair.footprint.local => None,
            _ if debt.whole => Some(of_tables(link, pair, &pair.footprint.heaps).await?),
            [] => continue,
            pieces => {
                let heaps: BTreeMap<u32, String> =
                    pieces.iter().flat_map(|piece| piece.heaps.iter().cloned()).collect();
                Some(of_tables(link, pair, &heaps.into_iter().collect::<Vec<_>>()).await?)
            }
        };
        all.insert(pair.id, stretches);
    }
    Ok(all)
}

/// Of these tables of the pair.
async fn of_tables(link: &mut Link, pair: &Pair, heaps: &[(u32, String)]) -> Result<Vec<Stretch>, Trouble> {
    let oids = heaps.iter().map(|(oid, _)| oid.to_string()).collect::<Vec<_>>().join(",");
    let sql = "SELECT o, pg_catalog.pg_relation_size(o) \
        / pg_catalog.current_setting('block_size')::pg_catalog.int8 FROM unnest($1::pg_catalog.oid[]) o";
    let array = format!("{{{oids}}}");
    let (asked, pulse) = ([Param::text(&array)], link.options.pulse());
    let asking = link.primary.query(sql, &asked, Format::Text);
    let reading = |error| Trouble::reading_primary(pair.id, error);
    let rows = beside(&mut link.secondary, pulse, asking).await.map_err(reading)?;
    let mut blocks: HashMap<u32, u64> = HashMap::new();
    for row in rows {
        let size = row.text(1).map_err(Trouble::Primary)?.map(str::parse);
        let Some(Ok(size)) = size else { return Err(Trouble::Stale("a table was dropped".into())) };
        blocks.insert(row.parse(0).map_err(Trouble::Primary)?, size);
    }
    let step = BLOCKS + BLOCKS_PER_PARTITION * pair.footprint.heaps.len() as u64;
    let mut stretches = Vec::new();
    for (oid, table) in heaps {
        let (sql, keys_sql): (Arc<str>, Arc<str>) =
            (pair.read_stretch_sql(table).into(), pair.stretch_keys_sql(table).into());
        let end = blocks.get(oid).copied().ok_or(Trouble::Primary(client::Error::Value(0)))?.max(1);
        stretches.extend((0..end).step_by(step as usize).map(|from| Stretch {
            sql: sql.clone(),
            keys_sql: keys_sql.clone(),
            from: format!("({from},0)"),
            to: format!("({},0)", from + step),
        }));
    }
    Ok(stretches)
}
