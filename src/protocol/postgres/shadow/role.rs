//! What a role brings along when it logs in (`ALTER ROLE .. SET`), for a connection that logged in as tandem and takes the
//! role on by SET ROLE, which brings none of it (documentation, "SET ROLE").

use crate::protocol::postgres::client::{Client, DataRow, Error, Format, Param};

use super::link::Failed;

/// Of two for the same name the one for this database counts. What the client asked for at its start comes before both; what only
/// a superuser may set decides no answer.
const SETTINGS: &str = "SELECT s.name, s.value FROM ( \
      SELECT DISTINCT ON (1) pg_catalog.lower(pg_catalog.split_part(c, '=', 1)) AS name, \
        pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) AS value \
      FROM pg_catalog.pg_db_role_setting d JOIN pg_catalog.pg_roles r ON r.oid = d.setrole, pg_catalog.unnest(d.setconfig) c \
      WHERE r.rolname = $1 AND (d.setdatabase = 0 OR d.setdatabase = (SELECT b.oid FROM pg_catalog.pg_database b \
        WHERE b.datname = pg_catalog.current_database())) ORDER BY 1, d.setdatabase DESC) s \
    LEFT JOIN pg_catalog.pg_settings p ON pg_catalog.lower(p.name) = s.name \
    WHERE p.name IS NULL OR p.source <> 'client' AND p.context = 'user'";

/// These make it somebody else.
const IDENTITY: &[&str] = &["role", "session_authorization"];

/// Set what the role would have if it had logged in itself.
pub(super) async fn bring(client: &mut Client, role: &str) -> Result<(), Failed> {
    let settings = settings(client, role).await.map_err(failed)?;
    for row in &settings {
        let text = |at| row.string(at).map_err(failed);
        let (name, value) = (text(0)?, text(1)?);
        if IDENTITY.contains(&&*name) {
            return Err(Failed::Forbidden);
        }
        let set = [Param::text(&name), Param::text(&value)];
        client.query("SELECT pg_catalog.set_config($1, $2, false)", &set, Format::Text).await.map_err(failed)?;
    }
    Ok(())
}

async fn settings(client: &mut Client, role: &str) -> Result<Vec<DataRow>, Error> {
    // Operators are looked for where the client says.
    client.simple("BEGIN READ ONLY; SET LOCAL search_path = ''").await?;
    let settings = client.query(SETTINGS, &[Param::text(role)], Format::Text).await?;
    client.simple("COMMIT").await?;
    Ok(settings)
}

/// What it would have, it does not get.
fn failed(error: Error) -> Failed {
    match error {
        Error::Db(_) | Error::Value(_) => Failed::Forbidden,
        _ => Failed::Away,
    }
}
