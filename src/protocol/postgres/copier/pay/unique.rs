//! Who holds, on the secondary, a unique value that owed rows bring: a row that nobody owed.

use std::sync::Arc;

use crate::mirror::state::keys::Key;
use crate::protocol::postgres::catalog::quote;
use crate::protocol::postgres::client::{self, Client, DbError, Format, Param};

use super::super::closure::read_keys;
use super::super::copy::Part;
use super::super::debt::{BATCH_BYTES, batches};
use super::super::link::beside;
use super::super::rows::copy_part;
use super::super::schema::{At, Pair};
use super::super::steps::send_to_secondary;
use super::super::trouble::Trouble;
use super::Payment;

impl<'p> Payment<'p> {
    /// Rows of the secondary that hold a unique value which owed rows bring: a stranger's, or a dirty row.
    pub(super) async fn holders(&mut self, pair: &Arc<Pair>, error: &DbError) -> Result<Vec<Key>, Trouble> {
        let (Some(schema), Some(index)) = (&error.schema, &error.constraint) else { return Ok(Vec::new()) };
        let name = format!("{}.{}", quote(schema), quote(index));
        let conn = &mut self.link.secondary;
        let Some(unique) = Unique::read(conn, &name).await.map_err(Trouble::Secondary)? else { return Ok(Vec::new()) };
        if !std::mem::replace(&mut self.begun, true) {
            conn.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        }
        conn.simple("SAVEPOINT tandem_scratch").await.map_err(Trouble::Secondary)?;
        let found = self.held_values(pair, &unique).await;
        self.link.secondary.simple("ROLLBACK TO tandem_scratch").await.map_err(Trouble::Secondary)?;
        match found {
            // Not even the scratch table takes the rows: then row by row.
            Err(Trouble::Table(..) | Trouble::Missing(..)) => Ok(Vec::new()),
            found => found,
        }
    }

    async fn held_values(&mut self, pair: &Arc<Pair>, unique: &Unique) -> Result<Vec<Key>, Trouble> {
        let refused = |error| Trouble::writing(pair.id, error);
        self.link.secondary.simple(&pair.scratch_sql()).await.map_err(refused)?;
        let (keys, sql) = (self.debts[&pair.id].sorted(), Arc::from(pair.read_sql()));
        for batch in batches(pair, &keys, self.options.batch_keys, BATCH_BYTES) {
            copy_part(self.link, pair, Part::Keys(batch, Arc::clone(&sql)), "pg_temp.tandem_in").await?;
        }
        let mut found = Vec::new();
        let link = &mut *self.link;
        link.secondary.put_statement(&unique.holders_sql(pair), &[], Format::Binary);
        link.secondary.put_sync();
        send_to_secondary(link).await?;
        let reading = async {
            read_keys(&mut link.secondary, pair, &mut found).await?;
            link.secondary.finish().await
        };
        beside(&mut link.primary, link.options.pulse(), reading).await.map_err(refused)?;
        Ok(found)
    }
}

/// A unique index, column by column.
struct Unique {
    expressions: Vec<String>,
    predicate: Option<String>,
}

impl Unique {
    async fn read(conn: &mut Client, name: &str) -> Result<Option<Unique>, client::Error> {
        let sql = "SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k::pg_catalog.int4, false), \
            pg_catalog.pg_get_expr(i.indpred, i.indrelid) FROM pg_catalog.pg_index i, \
            pg_catalog.generate_series(1, i.indnkeyatts) k \
            WHERE i.indisunique AND i.indexrelid = pg_catalog.to_regclass($1) ORDER BY k";
        let rows = conn.query(sql, &[Param::text(name)], Format::Text).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let predicate = first.text(1)?.map(str::to_owned);
        Ok(Some(Unique { expressions: rows.iter().map(|row| row.string(0)).collect::<Result<_, _>>()?, predicate }))
    }

    fn holders_sql(&self, pair: &Pair) -> String {
        let values: Vec<_> =
            self.expressions.iter().enumerate().map(|(n, sql)| format!("{sql} AS tandem_u{n}")).collect();
        let equal: Vec<_> = (0..self.expressions.len()).map(|n| format!("h.tandem_u{n} = i.tandem_u{n}")).collect();
        let only = self.predicate.as_ref().map(|sql| format!(" WHERE {sql}")).unwrap_or_default();
        let (values, table) = (values.join(", "), pair.table(At::Secondary));
        format!(
            "SELECT {} FROM (SELECT *, {values} FROM {table}{only}) h \
             JOIN (SELECT {values} FROM pg_temp.tandem_in{only}) i ON {}",
            pair.asked("h", At::Secondary),
            equal.join(" AND ")
        )
    }
}
