//! The old primary after a switch: new sessions there are read-only unless they ask for more, so that who still
//! connects past tandem is told so, instead of writing what no other side will ever see.
//!
//! It is a setting of the database (`ALTER DATABASE .. SET default_transaction_read_only = on`), which its owner may
//! make and the server keeps over restarts and failovers. It is a barrier and no wall: a session that began before is
//! not touched ([`passed`] names them), one may set it off, and so may a role's own setting, which counts more. tandem's
//! own connections do ([`ServerConfig::for_writing`]).
//!
//! What was set before is kept in `tandem.barrier`, in the same transaction: a row there means that the barrier is ours.
//! A session that connects while it is up keeps the setting for as long as it lives: [`lift`] it before clients'
//! sessions connect to a side.
//!
//! [`ServerConfig::for_writing`]: crate::protocol::postgres::client::ServerConfig::for_writing

use std::collections::HashSet;

use crate::protocol::postgres::catalog::quote;
use crate::protocol::postgres::client::{self, Client};

use super::strangers::{self, Session};
use super::{Error, SCHEMA, literal, together};

const STORE: &str = "CREATE TABLE IF NOT EXISTS tandem.barrier (only_row boolean PRIMARY KEY DEFAULT true \
    CHECK (only_row), before text, since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())";

/// The setting of the database for every role; NULL: none.
const LOOK: &str = "SELECT pg_catalog.current_database(), pg_catalog.to_regclass('tandem.barrier') IS NOT NULL, \
    pg_catalog.pg_has_role(d.datdba, 'USAGE'), (SELECT pg_catalog.split_part(c, '=', 2) \
      FROM pg_catalog.pg_db_role_setting s, LATERAL pg_catalog.unnest(s.setconfig) c \
      WHERE s.setdatabase = d.oid AND s.setrole = 0 AND c LIKE 'default\\_transaction\\_read\\_only=%') \
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

/// What a side says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    database: String,
    /// Ours, and what was set before it.
    up: Option<Option<String>>,
    /// Our role may change it: it is a member of the database's owner.
    pub may_change: bool,
    /// The setting of the database, by whomever.
    pub setting: Option<String>,
}

impl Standing {
    /// It is up, and ours.
    pub fn is_up(&self) -> bool {
        self.up.is_some()
    }

    fn alter(&self, to: Option<&str>) -> String {
        let database = quote(&self.database);
        match to {
            Some(value) => format!("ALTER DATABASE {database} SET default_transaction_read_only = {}", literal(value)),
            None => format!("ALTER DATABASE {database} RESET default_transaction_read_only"),
        }
    }
}

/// Look, and change nothing.
pub async fn look(conn: &mut Client) -> Result<Standing, client::Error> {
    let rows = conn.simple(LOOK).await?;
    let row = rows.first().ok_or(client::Error::Value(0))?;
    let up = if row.bool(1)? { kept(conn).await? } else { None };
    let setting = row.text(3)?.map(str::to_owned);
    Ok(Standing { database: row.string(0)?, up, may_change: row.bool(2)?, setting })
}

async fn kept(conn: &mut Client) -> Result<Option<Option<String>>, client::Error> {
    let rows = conn.simple("SELECT before FROM tandem.barrier").await?;
    rows.first().map(|row| Ok(row.text(0)?.map(str::to_owned))).transpose()
}

/// Put it up. Sessions that connect from now on are read-only by default. True: it was not up before.
///
/// # Errors
/// Our role does not own the database: nothing was changed.
pub async fn raise(conn: &mut Client) -> Result<bool, Error> {
    let standing = look(conn).await?;
    if standing.is_up() {
        return Ok(false);
    }
    let before = standing.setting.as_deref().map_or("NULL".to_owned(), literal);
    let keep = format!("INSERT INTO tandem.barrier (before) VALUES ({before})");
    together(conn, &[SCHEMA.to_owned(), STORE.to_owned(), keep, standing.alter(Some("on"))]).await?;
    Ok(true)
}

/// Take it away: what was set before is set again, unless somebody changed it since. True: it was up.
///
/// # Errors
/// Our role does not own the database: nothing was changed.
pub async fn lift(conn: &mut Client) -> Result<bool, Error> {
    let standing = look(conn).await?;
    let Some(before) = &standing.up else { return Ok(false) };
    let mut statements = vec!["DELETE FROM tandem.barrier".to_owned()];
    if standing.setting.as_deref() == Some("on") && before.as_deref() != Some("on") {
        statements.push(standing.alter(before.as_deref()));
    }
    together(conn, &statements).await?;
    Ok(true)
}

/// Sessions of others that began before the barrier went up, and may write behind it; where our role may not see when
/// they began, every one. `ours` are process ids of tandem's own connections and sessions. Empty where it is not up.
pub async fn passed(conn: &mut Client, ours: &HashSet<u32>) -> Result<Vec<Session>, Error> {
    if !look(conn).await?.is_up() {
        return Ok(Vec::new());
    }
    let since = conn
        .simple(
            "SELECT pid FROM pg_catalog.pg_stat_activity, tandem.barrier \
        WHERE backend_start IS NULL OR backend_start <= since",
        )
        .await?;
    let since: HashSet<u32> = since.iter().map(|row| row.parse(0)).collect::<Result<_, _>>()?;
    let mut found = strangers::all(conn, ours).await?;
    found.retain(|stranger| since.contains(&stranger.pid));
    Ok(found)
}
