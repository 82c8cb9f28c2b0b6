//! The first contact with a table of the secondary: is it empty? Of one that was, all rows are tandem's; of one that was not,
//! a backfill is told, which must not take a stranger's rows for its own.
//!
//! What was seen is kept on the secondary, in the transaction that writes there first: it is there if that is, whenever
//! tandem is killed, and goes back with the rows if the server does. It is kept for the cluster and database that rows come
//! from: what was copied from another one is a stranger's. A table that was made anew has another oid, and is met anew.
//!
//! Where there were strangers, each payment looks again before it writes: once the table is empty it is ours.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mirror::state::copier::Error;
use crate::protocol::postgres::client::{self, Client, Format, Param};

use super::debt::Debts;
use super::link::{Link, beside, on_primary, on_secondary};
use super::schema::{At, Pair};
use super::trouble::Trouble;

/// Tables that were met.
pub(super) struct Contacts {
    /// What the rows come from.
    origin: String,
    /// By oid on the secondary: whether strangers' rows were there.
    strangers: HashMap<u32, bool>,
}

/// What a transaction saw, and is true once it is committed: by oid, whether rows were there.
pub(super) type Met = HashMap<u32, bool>;

impl Contacts {
    /// What earlier connections left.
    pub(super) async fn load(primary: &mut Client, secondary: &mut Client) -> Result<Contacts, Error> {
        let origin = origin(primary).await.map_err(on_primary)?;
        let strangers = known(secondary, &origin).await.map_err(on_secondary)?;
        Ok(Contacts { origin, strangers })
    }

    /// Every row of it is there because tandem wrote it.
    pub(super) fn are_ours(&self, pair: &Pair) -> bool {
        self.strangers.get(&pair.secondary.oid) == Some(&false)
    }

    /// It is committed.
    pub(super) fn learn(&mut self, met: Met) {
        self.strangers.extend(met);
    }

    /// Write down what is news; only that is left.
    pub(super) async fn note(&self, secondary: &mut Client, met: &mut Met) -> Result<(), client::Error> {
        met.retain(|oid, strangers| self.strangers.get(oid) != Some(strangers));
        if met.is_empty() {
            return Ok(());
        }
        let (oids, strangers): (Vec<_>, Vec<_>) =
            met.iter().map(|(oid, had)| (oid.to_string(), had.to_string())).unzip();
        let list = |values: &[String]| format!("{{{}}}", values.join(","));
        let (oids, strangers) = (list(&oids), list(&strangers));
        let sql = "INSERT INTO tandem.contact (origin, relation, strangers) \
            SELECT $1, u.o, u.s FROM unnest($2::pg_catalog.oid[], $3::pg_catalog.bool[]) u (o, s) \
            ON CONFLICT (origin, relation) DO UPDATE SET strangers = excluded.strangers";
        let params = [Param::text(&self.origin), Param::text(&oids), Param::text(&strangers)];
        secondary.query(sql, &params, Format::Text).await.map(drop)
    }
}

async fn origin(primary: &mut Client) -> Result<String, client::Error> {
    let sql = "SELECT pg_catalog.concat_ws('/', system_identifier, pg_catalog.current_database()) \
        FROM pg_catalog.pg_control_system()";
    primary.simple(sql).await?.first().ok_or(client::Error::Value(0))?.string(0)
}

async fn known(secondary: &mut Client, origin: &str) -> Result<HashMap<u32, bool>, client::Error> {
    let sql = "SELECT relation, strangers FROM tandem.contact WHERE origin = $1";
    let rows = secondary.query(sql, &[Param::text(origin)], Format::Text).await?;
    rows.iter().map(|row| Ok((row.parse(0)?, row.bool(1)?))).collect()
}

/// The secondary has rows of the table.
pub(super) async fn is_occupied(secondary: &mut Client, pair: &Pair) -> Result<bool, client::Error> {
    let sql = format!("SELECT EXISTS (SELECT FROM {})", pair.table(At::Secondary));
    secondary.simple(&sql).await?.first().ok_or(client::Error::Value(0))?.bool(0)
}

/// Look at a payment's tables in its transaction, which may have `begun`, before it writes to them.
pub(super) async fn meet(link: &mut Link, debts: &Debts<'_>, begun: &mut bool) -> Result<Met, Trouble> {
    let strange = debts.values().filter(|debt| !link.contacts.are_ours(&debt.pair));
    // One that is copied whole keeps no row of anybody else's.
    let strange: Vec<(Arc<Pair>, bool)> = strange.map(|debt| (debt.pair.clone(), debt.whole)).collect();
    if strange.is_empty() {
        return Ok(Met::new());
    }
    let (secondary, contacts, pulse) = (&mut link.secondary, &link.contacts, link.options.pulse());
    let meeting = async {
        if !std::mem::replace(begun, true) {
            secondary.simple("BEGIN").await.map_err(Trouble::Secondary)?;
        }
        let mut met = Met::new();
        for (pair, whole) in strange {
            let occupied = is_occupied(secondary, &pair).await.map_err(|error| Trouble::writing(pair.id, error))?;
            met.insert(pair.secondary.oid, occupied && !whole);
        }
        contacts.note(secondary, &mut met).await.map_err(Trouble::Secondary)?;
        Ok(met)
    };
    beside(&mut link.primary, pulse, meeting).await
}
