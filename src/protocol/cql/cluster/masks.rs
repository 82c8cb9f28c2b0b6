//! Columns with masks (`MASKED WITH`, Cassandra 5.0): who lacks UNMASK is shown something else than what is there. Shown so to
//! tandem, they would be copied so.

use std::collections::BTreeMap;

use crate::protocol::cql::client::{Answer, Client, Error};
use crate::protocol::cql::definitions::literal;
use crate::protocol::cql::tables::is_own;
use crate::protocol::cql::text::edit::quoted;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;
use crate::protocol::cql::wire::response::{Outcome, code};

use super::each;
use super::fields::Named;

/// Tables of clients, by keyspace and name, with their columns that are shown masked to this user.
pub type Masked = BTreeMap<(String, String), Vec<String>>;

const MASKS: &str = "SELECT keyspace_name, table_name, column_name FROM system_schema.column_masks";

/// Those that the client is shown so, who logged in as `user`.
pub(super) async fn masked(client: &Client, user: &str) -> Result<Masked, Error> {
    let mut masked = Masked::new();
    let read = each(client, MASKS, |row| {
        let [keyspace, table, column] = ["keyspace_name", "table_name", "column_name"].map(|name| row.text(name));
        let (Some(keyspace), Some(table), Some(column)) = (keyspace, table, column) else { return };
        if !is_own(keyspace) {
            masked.entry((keyspace.to_owned(), table.to_owned())).or_default().push(column.to_owned());
        }
    });
    match read.await {
        // What knows no masks has none.
        Err(error) if error.code() == Some(code::INVALID) => return Ok(Masked::new()),
        read => read?,
    }
    // A cluster that asks nobody who they are shows everything.
    if masked.is_empty() || client.authenticator().is_none() || sees_all(client, user).await? {
        return Ok(Masked::new());
    }
    let mut hidden = Masked::new();
    for ((keyspace, table), columns) in masked {
        if !sees(client, user, (&keyspace, &table)).await? {
            hidden.insert((keyspace, table), columns);
        }
    }
    Ok(hidden)
}

/// A superuser sees everything. Whoever logged in by a certificate has a name that nobody told us.
async fn sees_all(client: &Client, user: &str) -> Result<bool, Error> {
    if user.is_empty() {
        return Ok(false);
    }
    let answer = match client.query(&format!("LIST ROLES OF {}", literal(user)), &one()).await {
        Ok(answer) if has_rows(&answer) => answer,
        Ok(_) => return Ok(false),
        // Roles are kept elsewhere.
        Err(error) if matches!(error.code(), Some(code::INVALID | code::UNAUTHORIZED)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut is_super = false;
    for row in Named::of(&answer)?.iter() {
        is_super |= row?.cell("super") == Some(&[1]);
    }
    Ok(is_super)
}

/// Whether the user has UNMASK on the table, its keyspace or all of them, by itself or by a role that it was granted.
async fn sees(client: &Client, user: &str, (keyspace, table): (&str, &str)) -> Result<bool, Error> {
    if user.is_empty() {
        return Ok(false);
    }
    let (table, user) = (format!("{}.{}", quoted(keyspace), quoted(table)), literal(user));
    match client.query(&format!("LIST UNMASK PERMISSION ON TABLE {table} OF {user}"), &one()).await {
        Ok(answer) => Ok(has_rows(&answer)),
        // Where nothing is forbidden to anybody there are no permissions to be listed.
        Err(error) if error.code() == Some(code::INVALID) => Ok(true),
        Err(error) if error.code() == Some(code::UNAUTHORIZED) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A list without entries is no rows but nothing at all.
fn has_rows(answer: &Answer) -> bool {
    matches!(answer.outcome(), Outcome::Rows(rows) if rows.iter().next().is_some())
}

fn one() -> Parameters<'static> {
    Parameters::new(Consistency::One)
}
