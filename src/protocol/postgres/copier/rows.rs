//! A table's rows on their way from the primary into the secondary, and what is deleted there before they come.

use std::sync::Arc;

use crate::protocol::postgres::client::{self, SEND_BYTES};

use super::check;
use super::copy::{CopyOut, Part, Reader, Request};
use super::debt::{Arrays, BATCH_BYTES, Debt, batches};
use super::link::Link;
use super::schema::Pair;
use super::steps::{Step, Steps, send_to_secondary};
use super::trouble::Trouble;

pub(super) async fn delete(
    link: &mut Link,
    debt: &Debt<'_>,
    keys: &[&[u8]],
    batch_keys: usize,
    steps: &mut Steps,
) -> Result<(), Trouble> {
    let step = Step::Delete(debt.pair.id);
    if debt.whole {
        steps.put_statement(link, step, &debt.pair.delete_whole_sql(), &Arrays::none());
    }
    for piece in debt.pieces.iter().filter(|_| !debt.whole) {
        steps.put_statement(link, step, &debt.pair.delete_bound_sql(&piece.bound), &Arrays::none());
    }
    let sql = debt.pair.delete_sql();
    for batch in batches(&debt.pair, keys, batch_keys, BATCH_BYTES) {
        steps.put_statement(link, step, &sql, &Arrays::of(&debt.pair, batch));
        if link.secondary.unsent() >= SEND_BYTES {
            steps.put_sync(link);
            send_to_secondary(link).await?;
            steps.keep_near(link).await?;
        }
    }
    Ok(())
}

/// Stream one table's rows; how many bytes. If they cannot be read, or were not those of S, the COPY is given up, so
/// that its connection lives on.
pub(super) async fn copy(
    link: &mut Link,
    reader: &mut Reader<'_>,
    pair: &Pair,
    sql: String,
    steps: &mut Steps,
) -> Result<u64, Trouble> {
    let mut out = CopyOut::new(sql, pair.binary);
    let streamed = stream(link, reader, pair, &mut out).await;
    if streamed.is_err() {
        out.give_up(&mut link.secondary);
    } else if out.end(&mut link.secondary) {
        steps.wait_for(Step::Copy(pair.id));
    }
    streamed.map(|()| out.bytes())
}

/// Rows of all answers that are this table's into a COPY.
async fn stream(link: &mut Link, reader: &mut Reader<'_>, pair: &Pair, out: &mut CopyOut) -> Result<(), Trouble> {
    while reader.next_is(pair.id) {
        while let Some(row) = next_row(link, out).await.map_err(|error| Trouble::reading_primary(pair.id, error))? {
            if out.row(&mut link.secondary, &row).map_err(Trouble::Primary)? {
                out.close(&mut link.secondary);
                send_to_secondary(link).await?;
            }
        }
        check::columns(&link.primary, pair)?;
        reader.done(link).await?;
    }
    Ok(())
}

/// The primary may be long in finding a row: the secondary is told meanwhile that we are alive.
async fn next_row(link: &mut Link, out: &mut CopyOut) -> Result<Option<client::DataRow>, client::Error> {
    let (pulse, to) = (link.options.pulse(), &mut link.secondary);
    let next = link.primary.next_row_of_statement();
    tokio::pin!(next);
    loop {
        tokio::select! {
            biased;
            row = &mut next => return row,
            () = async { tokio::time::sleep(pulse).await } => {
                // If this fails, the next send will say so.
                let _ = out.wait(to).await;
            }
        }
    }
}

/// Copy one part by itself and wait for the answer: how many rows and bytes.
pub(super) async fn copy_part(
    link: &mut Link,
    pair: &Arc<Pair>,
    part: Part<'_>,
    table: &str,
) -> Result<(u64, u64), Trouble> {
    let mut reader = Reader::new([Request { pair: pair.clone(), part }].into());
    reader.pump(link).await.map_err(Trouble::Primary)?;
    let mut steps = Steps::default();
    let bytes = copy(link, &mut reader, pair, pair.copy_into(table), &mut steps).await?;
    steps.settle(link).await?;
    Ok((steps.rows, bytes))
}
