//! Tables that somebody has locked: VACUUM FULL, a long ALTER TABLE and what is queued behind it, a forgotten transaction.
//!
//! A payment waits for a lock once, then it is given up and the table is known. Those behind it leave the table out and look,
//! without waiting, whether the lock is gone; on the secondary, where a lock on a row is not seen before it is in the way, now and
//! then one of them waits again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::postgres::client;
use crate::record::TableId;

use super::debt::Debts;
use super::link::{Link, beside};
use super::schema::{At, Home};
use super::trouble::{LOCKED, Trouble};

/// The first and the longest time between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// The same where a look may be a payment that waits.
const TRIES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

struct Lock {
    at: At,
    /// No look before.
    next: Instant,
    pause: Duration,
    /// A payment is made with it again: whether it is gone.
    tried: bool,
}

/// What is locked, as far as known.
#[derive(Default)]
pub(super) struct Locks {
    by_table: HashMap<TableId, Lock>,
    /// A payment met one: others of its tables may be locked as well.
    fresh: bool,
}

impl Locks {
    /// A payment waited for it in vain.
    pub(super) fn met(&mut self, at: At, tables: &[TableId]) {
        for &table in tables {
            self.put(at, table);
        }
        self.fresh = true;
    }

    fn put(&mut self, at: At, table: TableId) {
        let (first, longest) = if at == At::Primary { LOOKS } else { TRIES };
        let before = self.by_table.get(&table).filter(|lock| lock.at == at);
        let pause = before.map_or(first, |lock| (lock.pause * 2).min(longest));
        self.by_table.insert(table, Lock { at, next: Instant::now() + pause, pause, tried: false });
    }

    /// A payment was made: what was tried in it is free.
    pub(super) fn paid(&mut self) {
        self.by_table.retain(|_, lock| !lock.tried);
    }

    pub(super) fn are_none(&self) -> bool {
        self.tables().next().is_none()
    }

    /// They are left out.
    pub(super) fn tables(&self) -> impl Iterator<Item = TableId> {
        self.by_table.iter().filter(|(_, lock)| !lock.tried).map(|(table, _)| *table)
    }

    /// What a table that is left out waits for.
    pub(super) fn why(&self, table: TableId) -> String {
        match self.by_table.get(&table).map(|lock| lock.at) {
            Some(At::Primary) => "waits for a lock on the primary".to_owned(),
            Some(At::Secondary) => "waits for a lock on the secondary".to_owned(),
            None => "waits for tables that foreign keys join it with, and which are locked".to_owned(),
        }
    }
}

/// Look at tables that were locked; right behind a payment that met a lock at all of this one.
pub(super) async fn look(link: &mut Link, debts: &Debts<'_>) -> Result<(), Trouble> {
    let now = Instant::now();
    let due: Vec<(TableId, At)> = link
        .locks
        .by_table
        .iter()
        .filter(|(_, lock)| lock.next <= now)
        .map(|(table, lock)| (*table, lock.at))
        .collect();
    for (table, at) in due {
        if is_locked(link, table, at).await? {
            link.locks.put(at, table);
        } else if let Some(lock) = link.locks.by_table.get_mut(&table) {
            lock.tried = true;
        }
    }
    if std::mem::take(&mut link.locks.fresh) {
        let others: Vec<TableId> =
            debts.keys().filter(|table| !link.locks.by_table.contains_key(table)).copied().collect();
        for table in others {
            if is_locked(link, table, At::Primary).await? {
                link.locks.put(At::Primary, table);
            }
        }
    }
    Ok(())
}

/// Ask as a payment does, and wait for nobody. What else may be wrong with the table a payment tells.
async fn is_locked(link: &mut Link, table: TableId, at: At) -> Result<bool, Trouble> {
    let Home::Pair(pair, _) = link.schema.home(table) else { return Ok(false) };
    let pulse = link.options.pulse();
    let answer = match at {
        At::Primary => {
            let sql = format!("SET LOCAL lock_timeout = '1ms'; SELECT FROM {} LIMIT 0", pair.table(at));
            let asking = async {
                let answer = link.primary.simple(&sql).await.map(drop);
                link.primary.simple("ROLLBACK TO tandem_read").await.map_err(Trouble::Primary)?;
                Ok(answer)
            };
            beside(&mut link.secondary, pulse, asking).await?
        }
        At::Secondary => {
            let sql = format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", pair.secondary.sql());
            let sql = format!("SAVEPOINT tandem_look; SET LOCAL lock_timeout = '1ms'; {sql}");
            let asking = async {
                // Schema changes of the payment may have begun its transaction.
                let begun = link.secondary.status() == b'T';
                if !begun {
                    link.secondary.simple("BEGIN").await.map_err(Trouble::Secondary)?;
                }
                let answer = link.secondary.simple(&sql).await.map(drop);
                let back = if begun { "ROLLBACK TO tandem_look" } else { "ROLLBACK" };
                link.secondary.simple(back).await.map_err(Trouble::Secondary)?;
                Ok(answer)
            };
            beside(&mut link.primary, pulse, asking).await?
        }
    };
    Ok(answer.is_err_and(|error: client::Error| error.code() == Some(LOCKED)))
}
