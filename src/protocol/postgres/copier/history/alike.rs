//! Chunks that are found equal without looking at their rows.
//!
//! One side tells the first and the last key of a chunk; then both sides, at the same time, digest all rows between
//! those keys, and one line of each is compared. Equal digests mean equal rows, for the stretch of keys holds the chunk.
//! Unequal ones mean nothing: the rows are looked at one by one (so a false alarm is impossible, promise 8), as they are
//! where rows do not lie in the order of their keys and a stretch would hold many more than the chunk. How often that
//! was in vain decides how often it is tried.
//!
//! The digest is the sum of a 64-bit number for each row ([`super::super::hashes`]): a chunk that differs passes for equal
//! once in 2^64. It costs a third of what it costs to send the rows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backfill::work::{Chunk, Pass};
use crate::protocol::postgres::client::{self, Client, DataRow, Format, Param};
use crate::record::TableId;

use super::super::check;
use super::super::schema::{At, Pair, What};
use super::super::trouble::Trouble;
use super::{STRETCH, Worker, stretch};

/// Most chunks that are looked at row by row before the short cut is tried again.
const MOST_SKIPPED: u32 = 64;
/// Rows that a stretch may hold beyond twice the chunk's.
const SPARE: u64 = 100;

/// How often the short cut is worth it, by table and pass.
#[derive(Default)]
pub(super) struct Luck(HashMap<(TableId, Pass), Streak>);

#[derive(Default)]
struct Streak {
    /// Chunks not to be tried now, and the next time.
    skip: u32,
    next: u32,
}

impl Luck {
    fn is_tried(&mut self, chunk: &Chunk) -> bool {
        let streak = self.0.entry((chunk.table, chunk.pass)).or_default();
        let tried = streak.skip == 0;
        streak.skip = streak.skip.saturating_sub(1);
        tried
    }

    fn learn(&mut self, chunk: &Chunk, alike: bool) {
        let streak = self.0.entry((chunk.table, chunk.pass)).or_default();
        *streak = match alike {
            true => Streak::default(),
            false => Streak { skip: streak.next, next: (2 * streak.next + 1).min(MOST_SKIPPED) },
        };
    }
}

impl Worker {
    /// How many rows the chunk has, if both sides are known to have the same (keys, on the way back) there.
    pub(super) async fn alike(&mut self, chunk: &Chunk, pair: &Arc<Pair>) -> Result<Option<u64>, Trouble> {
        if !pair.has_order() || !self.luck.is_tried(chunk) {
            return Ok(None);
        }
        let Some((rows, edges)) = self.edges(chunk, pair).await? else { return Ok(Some(0)) };
        if self.is_dense(chunk, rows) {
            return Ok(None);
        }
        let most = (2 * rows + SPARE).to_string();
        let params: Vec<_> = edges.iter().chain([&most]).map(|value| Param::text(value)).collect();
        let what = if chunk.pass == Pass::Back { What::Keys } else { What::Rows };
        self.primary.put_prepared(&pair.sum_sql(At::Primary, what), &params, Format::Text);
        let check = check::put(&mut self.primary, [pair].into_iter());
        self.secondary.put_prepared(&pair.sum_sql(At::Secondary, what), &params, Format::Text);
        self.secondary.put_sync();
        // Both are at work before either is waited for.
        self.primary.send().await.map_err(Trouble::Primary)?;
        self.secondary.send().await.map_err(Trouble::Secondary)?;
        let there = only_row(&mut self.secondary).await;
        let here = checked_row(&mut self.primary, pair, check).await?;
        let there = there.map_err(|error| Trouble::reading(At::Secondary, pair.id, error))?;
        let here = sum(here.as_ref()).map_err(Trouble::Primary)?;
        let there = sum(there.as_ref()).map_err(Trouble::Secondary)?;
        let alike = here == there && here.0 >= rows && here.0 < 2 * rows + SPARE;
        self.luck.learn(chunk, alike);
        Ok(alike.then_some(rows))
    }

    /// How many rows there are, and the first and the last key's values. `None`: there are no rows.
    async fn edges(&mut self, chunk: &Chunk, pair: &Arc<Pair>) -> Result<Option<(u64, Vec<String>)>, Trouble> {
        let side = if chunk.pass == Pass::Back { At::Secondary } else { At::Primary };
        let sql = pair.edges_sql(&chunk.name, STRETCH, side);
        let [from, to] = stretch(chunk);
        let params = [Param::text(&from), Param::text(&to)];
        let row = if chunk.pass == Pass::Back {
            self.secondary.put_prepared(&sql, &params, Format::Text);
            self.secondary.put_sync();
            self.secondary.send().await.map_err(Trouble::Secondary)?;
            let row = only_row(&mut self.secondary).await;
            row.map_err(|error| Trouble::reading(At::Secondary, pair.id, error))?
        } else {
            self.primary.put_prepared(&sql, &params, Format::Text);
            let check = check::put(&mut self.primary, [pair].into_iter());
            self.primary.send().await.map_err(Trouble::Primary)?;
            checked_row(&mut self.primary, pair, check).await?
        };
        row.as_ref().map_or(Ok(None), |row| edges(row, pair.key.len())).map_err(Trouble::Primary)
    }
}

/// The one row of a statement on the primary, and whether the table was there.
async fn checked_row(conn: &mut Client, pair: &Pair, check: check::Check) -> Result<Option<DataRow>, Trouble> {
    let reading = |error| Trouble::reading_primary(pair.id, error);
    let row = conn.next_row_of_statement().await.map_err(reading)?;
    if row.is_some() {
        conn.next_row_of_statement().await.map_err(reading)?;
    }
    check.read(conn).await?;
    Ok(row)
}

async fn only_row(conn: &mut Client) -> Result<Option<DataRow>, client::Error> {
    let row = conn.next_row_of_statement().await?;
    conn.finish().await?;
    Ok(row)
}

/// How many rows, and the first and the last key's values. `None`: there are no rows.
fn edges(row: &DataRow, columns: usize) -> Result<Option<(u64, Vec<String>)>, client::Error> {
    let rows = row.parse(0)?;
    if rows == 0 {
        return Ok(None);
    }
    Ok(Some((rows, (1..=2 * columns).map(|at| row.string(at)).collect::<Result<_, _>>()?)))
}

/// How many rows, and their digest; of none that is empty.
fn sum(row: Option<&DataRow>) -> Result<(u64, Option<String>), client::Error> {
    let row = row.ok_or(client::Error::Value(0))?;
    Ok((row.parse(0)?, row.text(1)?.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_vain_is_tried_ever_more_rarely_until_it_is_not() {
        let chunk = Chunk::of(Pass::Forth, 1);
        let mut luck = Luck::default();
        let mut tried = Vec::new();
        for n in 0..20 {
            if luck.is_tried(&chunk) {
                tried.push(n);
                luck.learn(&chunk, false);
            }
        }
        assert_eq!(tried, [0, 1, 3, 7, 15]);
        luck.learn(&chunk, true);
        assert!(luck.is_tried(&chunk));
    }
}
