//! A table of which the secondary refuses rows, group by group under savepoints, halved until the refused ones are known.

use std::sync::Arc;

use crate::mirror::state::copier::Refused;
use crate::protocol::postgres::client::{DbError, Format, Param};

use super::Options;
use super::copy::Part;
use super::debt::{BATCH_BYTES, batches, refused_key};
use super::link::{Link, beside};
use super::rows::copy_part;
use super::schema::{Pair, tree};
use super::trouble::Trouble;
use super::whole::Stretch;

/// Copies a table group by group, halving what is refused, until the refused keys are known, or there are too many.
pub(super) struct Isolation<'i> {
    link: &'i mut Link,
    pair: &'i Arc<Pair>,
    options: &'i Options,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) refused: Vec<Refused>,
    /// Has checked what is checked at the end only.
    immediate: Option<String>,
}

impl<'i> Isolation<'i> {
    pub(super) async fn begin(
        link: &'i mut Link,
        pair: &'i Arc<Pair>,
        options: &'i Options,
    ) -> Result<Isolation<'i>, Trouble> {
        let sql = "SELECT 'SET CONSTRAINTS ' || pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', ') \
            || ' IMMEDIATE' FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace \
            WHERE c.condeferrable AND c.conrelid = ANY ($1::pg_catalog.oid[])";
        let oids: Vec<_> = tree(&link.schema.secondary, pair.secondary.oid).iter().map(u32::to_string).collect();
        let oids = format!("{{{}}}", oids.join(","));
        let rows = link.secondary.query(sql, &[Param::text(&oids)], Format::Text).await.map_err(Trouble::Secondary)?;
        let immediate =
            rows.first().map_or(Ok(None), |row| row.text(0)).map_err(Trouble::Secondary)?.map(str::to_owned);
        Ok(Isolation { link, pair, options, rows: 0, bytes: 0, refused: Vec::new(), immediate })
    }

    /// Those of these keys that the statement finds.
    pub(super) async fn keys(&mut self, keys: &[&[u8]], sql: &Arc<str>) -> Result<(), Trouble> {
        let mut left: Vec<&[&[u8]]> = batches(self.pair, keys, self.options.batch_keys, BATCH_BYTES);
        left.reverse();
        while let Some(group) = left.pop() {
            let Err(error) = self.group(Part::Keys(group, sql.clone())).await? else { continue };
            match group {
                [_] if self.refused.len() == self.options.refused_max => {
                    return Err(Trouble::Table(self.pair.id, error));
                }
                [key] => self.refused.push(refused_key(self.pair, key, error.to_string())),
                group => {
                    let (low, high) = group.split_at(group.len() / 2);
                    left.extend([high, low]);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn stretch(&mut self, stretch: Stretch) -> Result<(), Trouble> {
        if self.group(Part::Stretch(stretch.clone())).await?.is_err() {
            let keys = stretch.keys(self.link, self.pair).await?;
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            self.keys(&keys, &Arc::from(self.pair.read_sql())).await?;
        }
        Ok(())
    }

    /// What else would be found at the end, and be of no row.
    async fn check(&mut self) -> Result<(), Trouble> {
        let Some(sql) = &self.immediate else { return Ok(()) };
        let checking = self.link.secondary.simple(sql);
        let checked = beside(&mut self.link.primary, self.link.options.pulse(), checking).await;
        checked.map(drop).map_err(|error| Trouble::writing(self.pair.id, error))
    }

    /// The inner error: the secondary refuses it, and it is as if it had not been tried.
    async fn group(&mut self, part: Part<'_>) -> Result<Result<(), Box<DbError>>, Trouble> {
        self.link.secondary.simple("SAVEPOINT tandem_group").await.map_err(Trouble::Secondary)?;
        let copied = match copy_part(self.link, self.pair, part, &self.pair.secondary.sql()).await {
            Ok(copied) => self.check().await.map(|()| copied),
            refused => refused,
        };
        let (error, end) = match copied {
            Ok((rows, bytes)) => {
                (self.rows, self.bytes) = (self.rows + rows, self.bytes + bytes);
                (None, "RELEASE tandem_group")
            }
            // A savepoint that is only gone back to stays, and the next one is inside it.
            Err(Trouble::Table(_, error)) => (Some(error), "ROLLBACK TO tandem_group; RELEASE tandem_group"),
            Err(trouble) => return Err(trouble),
        };
        self.link.secondary.simple(end).await.map_err(Trouble::Secondary)?;
        Ok(error.map_or(Ok(()), Err))
    }
}
