//! Both sides row by row, by connections of their own: tandem has no part in it, and is not even running.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::super::ledger::Ledger;
use super::super::{Failure, Found};
use super::reach;
use super::schema::{TABLES, Table};
use crate::protocol::postgres::client::{Client, Error, ServerConfig};

impl Found {
    fn count(&mut self, origin: Option<&(String, String)>, target: Option<&(String, String)>) -> Ordering {
        self.rows += 1;
        let order = match (origin, target) {
            (Some(origin), Some(target)) => origin.0.cmp(&target.0),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.lost += 1,
            Ordering::Greater => self.extra += 1,
            Ordering::Equal => self.mismatched += u64::from(origin != target),
        }
        order
    }
}

/// Compare all tables.
pub(super) async fn sides(origin: &ServerConfig, target: &ServerConfig) -> Result<Found, Failure> {
    let mut found = Found::default();
    for (table, key) in TABLES {
        let sql = format!(
            "SET extra_float_digits = 1; SET TimeZone = 'UTC'; \
             SELECT ROW({key})::text COLLATE \"C\" AS key, t::text FROM {table} t ORDER BY 1"
        );
        let (mut origin, mut target) = (Rows::of(origin, &sql).await?, Rows::of(target, &sql).await?);
        let (mut left, mut right) = (origin.next().await?, target.next().await?);
        while left.is_some() || right.is_some() {
            let order = found.count(left.as_ref(), right.as_ref());
            if order.is_le() {
                left = origin.next().await?;
            }
            if order.is_ge() {
                right = target.next().await?;
            }
        }
    }
    Ok(found)
}

/// A query's rows as they come, in order of the first column's bytes.
struct Rows(Client);

impl Rows {
    async fn of(config: &ServerConfig, sql: &str) -> Result<Rows, Failure> {
        let mut client = reach(config).await?;
        client.put_query(sql);
        client.send().await?;
        Ok(Rows(client))
    }

    async fn next(&mut self) -> Result<Option<(String, String)>, Error> {
        let Some(row) = self.0.next_row().await? else { return Ok(None) };
        Ok(Some((row.string(0)?, row.string(1)?)))
    }
}

/// How many acknowledged writes the server does not have.
pub(super) async fn missing(config: &ServerConfig, ledgers: &[&Ledger<Table>]) -> Result<u64, Failure> {
    let mut found = HashMap::new();
    for table in Table::ALL {
        let mut client = reach(config).await?;
        client.put_query(table.query());
        client.send().await?;
        while let Some(row) = client.next_row().await? {
            found.insert((table, row.string(0)?), row.parse(1)?);
        }
    }
    let mut missing = 0;
    for ledger in ledgers {
        missing += ledger.wrong(&found).count() as u64 + ledger.missing_history(history(config, ledger.client).await?);
    }
    Ok(missing)
}

/// The sequence numbers of a client's history rows, in order.
async fn history(config: &ServerConfig, client: u32) -> Result<Vec<u32>, Failure> {
    let mut connection = reach(config).await?;
    let rows = connection.simple(&format!("SELECT seq FROM history WHERE client = {client} ORDER BY seq")).await?;
    Ok(rows.iter().map(|row| row.parse(0)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lost_extra_or_different() {
        let row = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let (a, b, a2) = (row("a", "1"), row("b", "1"), row("a", "2"));
        let mut found = Found::default();
        assert_eq!(found.count(Some(&a), Some(&a)), Ordering::Equal);
        assert_eq!(found.count(Some(&a), Some(&a2)), Ordering::Equal);
        assert_eq!(found.count(Some(&a), Some(&b)), Ordering::Less);
        assert_eq!(found.count(Some(&b), Some(&a)), Ordering::Greater);
        assert_eq!(found.count(None, Some(&a)), Ordering::Greater);
        assert_eq!(found.count(Some(&a), None), Ordering::Less);
        assert_eq!(found, Found { rows: 6, lost: 2, extra: 2, mismatched: 1 });
    }
}
