//! Which tandem has this server as its primary, kept there: who mirrors towards it for another tandem keeps off.
//!
//! The applier's locks say who applies now. They say nothing once the side answers clients: the mirror that held them has turned
//! round, and a second tandem that waited for them would copy the rows of the old primary over those that clients write. So a walk
//! marks the new primary with its journal's name *before* its mirror lets go of the locks ([`set`]), and every applier looks for a
//! mark behind taking them ([`other`]): either it sees the mark, or the walk sees its lock (`switch::unwritten`).
//!
//! | the process dies | the mark is on | and |
//! | --- | --- | --- |
//! | before its flip | the old primary, if it became it by a switch, and perhaps the new one | the next start undoes: [`clear`] |
//! | behind its flip | the new primary, and perhaps the old one | the next start settles: [`renew`], [`clear`] on the old one |
//! | and never starts again | the primary | whoever is sure of that deletes the row; the refusal says so |
//!
//! A tandem's own mark is never in its way.

use crate::protocol::postgres::client::{self, Client};

use super::{Error, SCHEMA, together};

const STORE: &str = "CREATE TABLE IF NOT EXISTS tandem.primary_of (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), \
    journal bigint NOT NULL, epoch bigint NOT NULL, since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())";

/// Durable when this resolves: from here on this is the primary of this journal's tandem, for that epoch.
///
/// # Errors
/// It is another tandem's; or our role may keep nothing there.
pub async fn set(conn: &mut Client, journal: u64, epoch: u64) -> Result<(), Error> {
    if write(conn, (journal, epoch), "p.journal = excluded.journal").await? {
        return Ok(());
    }
    let why = other(conn, Some(journal)).await?;
    Err(Error::Refused(why.unwrap_or_else(|| "it was another tandem's primary a moment ago".to_owned())))
}

/// The same, whoever's it was: the control state says that it is the primary. Nothing is written where that is known.
pub async fn renew(conn: &mut Client, journal: u64, epoch: u64) -> Result<(), client::Error> {
    let is_news = "(p.journal, p.epoch) <> (excluded.journal, excluded.epoch)";
    write(conn, (journal, epoch), is_news).await.map(drop)
}

/// In one round trip: clients may be held. `false`: there is a mark that was not to be replaced.
async fn write(conn: &mut Client, (journal, epoch): (u64, u64), replaces: &str) -> Result<bool, client::Error> {
    let mark = format!(
        "INSERT INTO tandem.primary_of AS p (journal, epoch) VALUES ({}, {epoch}) ON CONFLICT (only_row) DO UPDATE \
         SET journal = excluded.journal, epoch = excluded.epoch, since = excluded.since WHERE {replaces} RETURNING true",
        journal.cast_signed()
    );
    let rows = together(conn, &[SCHEMA.to_owned(), STORE.to_owned(), mark]).await?;
    Ok(!rows.is_empty())
}

/// It is this journal's primary no more, or never became it.
pub async fn clear(conn: &mut Client, journal: u64) -> Result<(), client::Error> {
    if is_there(conn).await? {
        conn.simple(&format!("DELETE FROM tandem.primary_of WHERE journal = {}", journal.cast_signed())).await?;
    }
    Ok(())
}

/// Why nobody but another tandem writes here: it is the primary of a journal that is not this one.
pub async fn other(conn: &mut Client, journal: Option<u64>) -> Result<Option<String>, client::Error> {
    if !is_there(conn).await? {
        return Ok(None);
    }
    let rows = conn.simple("SELECT journal, epoch FROM tandem.primary_of").await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let theirs = row.parse::<i64>(0)?.cast_unsigned();
    Ok((Some(theirs) != journal).then(|| {
        format!(
            "it answers clients of another tandem, whose journal is {theirs:016x}, since its epoch {}. Stop this tandem. If that \
             one will never run again (docs/switch.md, Several tandems): DELETE FROM tandem.primary_of",
            row.string(1).unwrap_or_default()
        )
    }))
}

async fn is_there(conn: &mut Client) -> Result<bool, client::Error> {
    let rows = conn.simple("SELECT pg_catalog.to_regclass('tandem.primary_of') IS NOT NULL").await?;
    rows.first().ok_or(client::Error::Value(0))?.bool(0)
}
